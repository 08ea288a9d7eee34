"""A range test as a background job: the command that the page starts, and the lines that it reads back.

The test prints a JSON object a line: what is tested, every point, and the end. `Follower` reads the log as it grows, so
a reload or a second tab shows the same test.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import polars as pl

from nanochat.analysis.lr_finder.rules import RangeTestError
from nanochat.analysis.lr_finder.subject import Subject
from nanochat.analysis.lr_finder.sweeping import POINTS, Point, RangeTest, Settings, range_test
from nanochat.analysis.lr_finder.trials import STEPS, Trial, TrialStep, Verdict, verdict
from nanochat.jobs import Job, NewLines, event_in

TOOL = "nanochat.tools.lr_finder"
LINES_KEPT = 100


def begun(subject: Subject, settings: Settings, trial: Trial | None) -> str:
    """The first line: what is tested."""
    said = {
        "event": "Begun", "name": subject.name, "rates": subject.rates, "notes": list(subject.notes),
        "settings": asdict(settings), "trial": None if trial is None else asdict(trial),
    }  # fmt: skip
    return json.dumps(said)


def line_of(point: Point | TrialStep) -> str:
    """A point as a line."""
    return json.dumps({"event": type(point).__name__, "values": list(asdict(point).values())})


@dataclass(frozen=True)
class State:
    """What is known of a test at this moment."""

    name: str
    notes: tuple[str, ...]
    settings: Settings | None  # None: it has not begun yet
    points: pl.DataFrame  # columns of POINTS
    report: RangeTest | None
    steps: pl.DataFrame  # of the short runs, columns of STEPS
    verdict: Verdict | None
    trial: Trial | None
    lines: tuple[str, ...]  # what it said for people

    @property
    def rates(self) -> dict[str, float]:
        """The rate of each group that all of it comes to: the curves, and the short runs where there were any."""
        if self.report is None:
            return {}
        held = self.verdict is None or self.verdict.held or not math.isfinite(self.verdict.losses[self.verdict.best])
        return self.report.suggested(None if held or self.verdict is None else self.verdict.best)

    @property
    def share(self) -> float:
        """How much of it is over, 0 to 1, roughly: curves end early where the loss climbs."""
        if self.settings is None:
            return 0.0
        curves = len(self.settings.curves) * self.settings.seeds
        done = self.points.select("curve", "seed").n_unique() if self.points.height else 0
        swept = min((max(done - 1, 0) + self._of_last()) / curves, 1.0)
        if self.trial is None:
            return swept
        return 0.7 * swept + 0.3 * min(self.steps.height / (3 * self.trial.steps * self.trial.seeds), 1.0)

    def _of_last(self) -> float:
        if self.points.is_empty() or self.settings is None:
            return 0.0
        return float(self.points["index"][-1] + 1) / self.settings.steps


class Follower:
    """Reads a test's log as it grows: each look costs what is new."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self._new = NewLines(job)
        self._begun: Mapping[str, Any] = {}
        self._points: list[list[Any]] = []
        self._steps: list[list[Any]] = []
        self._lines: list[str] = []

    def look(self) -> State:
        """Take in what was written since the last look, up to the last whole line."""
        for line in self._new.look():
            self._take(line)
        return state_of(self._begun, self._points, self._steps, self._lines)

    def _take(self, line: str) -> None:
        said = event_in(line)
        if said is None:
            if line.strip():
                self._lines = [*self._lines, line][-LINES_KEPT:]
        elif said.get("event") == "Begun":
            self._begun = said
        elif said.get("event") == "Point":
            self._points += _rows(said.get("values"), len(POINTS))
        elif said.get("event") == "TrialStep":
            self._steps += _rows(said.get("values"), len(STEPS))


def state_of(begun: Mapping[str, Any], points: list[list[Any]], steps: list[list[Any]], lines: list[str]) -> State:
    """The report of what has come in so far."""
    frame = pl.DataFrame(points, POINTS, orient="row")
    short = pl.DataFrame(steps, STEPS, orient="row")
    try:
        settings = Settings(**{**begun["settings"], "groups": tuple(begun["settings"]["groups"])}) if begun else None
        trial = Trial(**begun["trial"]) if begun.get("trial") else None
        rates = {str(name): float(rate) for name, rate in begun.get("rates", {}).items()}
    except (KeyError, TypeError, ValueError):
        raise RangeTestError("the log of this range test was not written by this version; start a new test") from None
    report = range_test(frame, settings, rates) if settings is not None and points else None
    found = None
    if trial is not None and report is not None and steps:
        chosen = report.curves[0].suggestions.chosen
        found = None if chosen is None else verdict(short, chosen, trial)
    notes = tuple(str(note) for note in begun.get("notes", ()))
    return State(str(begun.get("name", "")), notes, settings, frame, report, short, found, trial, tuple(lines))


def _rows(values: Any, length: int) -> Iterator[list[Any]]:
    """The values of a line, if they are whole: a log may be cut or written by somebody else."""
    if isinstance(values, list) and len(values) == length:
        good = all(isinstance(value, str | int | float) or value is None for value in values)
        if good and all(not isinstance(value, float) or math.isfinite(value) for value in values):
            yield values
