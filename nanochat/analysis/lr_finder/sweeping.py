"""The learning-rate range test, on the real model and its real text: the loop of every training, with another schedule.

Each group of parameters has a rate of its own, and one rate for all would wreck what they are to each other. So a
factor is swept over all of them at once. A group on its own is swept after some updates of all groups, at the factor
that was found for all, while the others stand still; of its loss, what the same batches cost without any movement is
taken off, and the rest is that group's doing.

    for point in sweep(subject, Settings(steps=100)): ...

Model, optimizer and random numbers are afterwards what they were before, however it ended; batches come from loaders of
the test's own.
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import polars as pl

from nanochat.analysis.lr_finder.rules import DIVERGED, RangeTestError, Suggestions, suggest
from nanochat.analysis.lr_finder.subject import Subject, restored
from nanochat.horizon import Horizon
from nanochat.schedules import Moment, Schedule, WeightDecay
from nanochat.training_parts import Setup

if TYPE_CHECKING:
    from nanochat.records import StepRecord
    from nanochat.training_parts import Multiplier

ALL = "all"  # the curve of all groups at once
LIMITS = {"steps": (20, 5_000), "seeds": (1, 20)}
LOWEST, HIGHEST = 1e-9, 1e6
BETA = 0.9  # smoothing of the loss: several seeds are averaged too, and fastai's 0.98 lags behind 100 steps
CLIMBED = 0.5  # of what had been learnt, lost again: the sweep has seen enough, as a softcap keeps the loss below 4 x
POINTS = {"curve": pl.String, "seed": pl.Int64, "index": pl.Int64, "factor": pl.Float64, "loss": pl.Float64,
          "smooth": pl.Float64}  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """What is swept."""

    low: float = 1e-3  # factor on every initial rate
    high: float = 1e4  # where rates are too low, the loss must still have room to climb
    steps: int = 100
    seeds: int = 3
    groups: tuple[str, ...] = ()  # each on its own, after all at once

    def __post_init__(self) -> None:
        for name, (least, most) in LIMITS.items():
            if not least <= getattr(self, name) <= most:
                raise RangeTestError(f"{name} is {getattr(self, name)}; give {least} to {most:,}")
        if not (LOWEST <= self.low < self.high <= HIGHEST):
            raise RangeTestError(
                f"a sweep from {self.low:g} to {self.high:g} cannot be; give two factors on the rates, the lower one "
                f"first, from {LOWEST:g} to {HIGHEST:g}"
            )

    def factor(self, index: int) -> float:
        """The factor of one update: it grows by the same part each time."""
        return float(self.low * (self.high / self.low) ** (index / (self.steps - 1)))

    @property
    def curves(self) -> tuple[str, ...]:
        """Every curve that is to be drawn."""
        return (ALL, *self.groups)


@dataclass(frozen=True)
class Point:
    """One update of a sweep."""

    curve: str  # ALL, or a group
    seed: int
    index: int
    factor: float
    loss: float | None  # of a group: corrected by how hard the batch is; None: no number, and the sweep ended here
    smooth: float | None


@dataclass(frozen=True)
class _Sweep:
    """The schedule of a range test."""

    settings: Settings

    def multiplier(self, at: Moment) -> float:
        return self.settings.factor(at.step)

    def phase(self, at: Moment) -> str:
        return "stable"


def sweep(subject: Subject, settings: Settings, stop: Callable[[], str | None] = lambda: None) -> Iterator[Point]:
    """Make every curve of the test, an update after the other. Closing it, or a word from `stop`, ends it.

    Raises:
        RangeTestError: a group that the model does not have.
        DatasetError and the like: the text cannot be read.
    """
    strangers = [name for name in settings.groups if name not in subject.rates]
    if strangers:
        raise RangeTestError(
            f"there is no group {strangers[0]!r:.40} in this model; it has {', '.join(subject.rates)}"
        )  # fmt: skip
    of_all: list[Point] = []
    with restored(subject.model, subject.optimizer) as put_back:
        for seed in range(settings.seeds):
            _begin(subject, put_back, seed)
            for point in _curve(subject, settings, ALL, seed, stop):
                of_all.append(point)
                yield point
            if stop():
                return
        for seed in range(settings.seeds if settings.groups else 0):
            _begin(subject, put_back, seed)
            yield from _groups(subject, settings, seed, _factor_of_all(of_all, settings), stop)
            if stop():
                return


def _begin(subject: Subject, put_back: Callable[[], None], seed: int) -> None:
    put_back()
    if subject.renew is not None:
        subject.renew(seed)


def _factor_of_all(points: list[Point], settings: Settings) -> float:
    """The factor that was found for all groups, 1 where none was."""
    report = range_test(pl.DataFrame([asdict(point) for point in points], POINTS), settings, {})
    return (report.curves[0].suggestions.chosen if report.curves else None) or 1.0


def _groups(
    subject: Subject, settings: Settings, seed: int, factor: float, stop: Callable[[], str | None]
) -> Iterator[Point]:
    """Train all groups for a while at this factor, and from there each of them while the others stand still.

    At fresh weights a group alone can do nothing: a head that says nothing hides what the layers learn.
    """
    groups = subject.optimizer.param_groups
    rates = [group["initial_lr"] for group in groups]
    for group in groups:
        group["initial_lr"] *= factor
    steps = settings.steps // 2
    for _ in _updates(subject, steps, Schedule("constant", steps // 4), settings.seeds + seed, stop):
        pass
    with restored(subject.model, subject.optimizer) as put_back:
        for group in groups:
            group["initial_lr"] = 0.0
        records = _updates(subject, settings.steps, _Sweep(settings), seed, stop)
        still = [one.train_loss for one in records if one.train_loss is not None and "diverged" not in one.events]
        for name in settings.groups:
            if stop():
                return
            put_back()
            for group, rate in zip(groups, rates, strict=True):
                group["initial_lr"] = rate if group["name"] == name else 0.0
            yield from _curve(subject, settings, name, seed, stop, still)


def _updates(
    subject: Subject, steps: int, schedule: "Multiplier", text: int, stop: Callable[[], str | None]
) -> "Iterator[StepRecord]":
    """The records of a short training as the optimizer stands."""
    from nanochat.training import train

    setup = Setup(
        subject.model, subject.optimizer, subject.open_loader(text), Horizon(steps=steps), subject.loss, schedule, None,
        WeightDecay("constant"), subject.accumulation, device=subject.device, stop=stop,
    )  # fmt: skip
    with contextlib.closing(train(setup)) as records:  # type: ignore[type-var]  # a generator has close
        yield from records


def _curve(
    subject: Subject, settings: Settings, curve: str, seed: int, stop: Callable[[], str | None],
    still: Sequence[float] | None = None,
) -> Iterator[Point]:  # fmt: skip
    """Points up to where the loss has climbed for good.

    still: the losses of the same batches where nothing moves, as far as they are numbers; the curve ends with them.
    Some batches are harder than others; only the difference is the group's doing.
    """
    average, best, first = 0.0, math.inf, math.nan
    records = _updates(subject, settings.steps, _Sweep(settings), seed, stop)
    with contextlib.closing(records):  # type: ignore[type-var]
        for index, record in enumerate(records):
            factor, loss = settings.factor(min(index, settings.steps - 1)), record.train_loss
            if "diverged" in record.events:
                yield Point(curve, seed, index, factor, None, None)
                return
            if loss is None or (still is not None and index >= len(still)):  # None: the closing record
                return
            if still:
                loss += sum(still) / len(still) - still[index]
            first = loss if index == 0 else first
            average = BETA * average + (1 - BETA) * loss
            smooth = average / (1 - BETA ** (index + 1))
            yield Point(curve, seed, index, factor, loss, smooth)
            best = min(best, smooth)
            climbed = smooth > DIVERGED * best or smooth > best + max(CLIMBED * (first - best), 0.1 * abs(best))
            if climbed and index >= settings.steps // 5:
                return


@dataclass(frozen=True)
class Curve:
    """What the test found for all groups, or for one."""

    name: str
    suggestions: Suggestions  # of the mean over the seeds
    by_seed: tuple[float | None, ...]  # what each seed alone would have chosen
    band: pl.DataFrame  # factor, mean, low, high of the smoothed loss over the seeds


@dataclass(frozen=True)
class RangeTest:
    """A whole test."""

    settings: Settings
    rates: dict[str, float]  # initial rate of each group
    curves: tuple[Curve, ...]  # those that there are points of
    complete: bool  # False where it was stopped

    def suggested(self, of_all: float | None = None) -> dict[str, float]:
        """Rate of each group: of its own curve where that is clear, else by the factor for all; {} where none is.

        of_all: the factor for all, where short runs came to another than the curve's.
        """
        clear = {curve.name: curve.suggestions.chosen for curve in self.curves if curve.suggestions.chosen is not None}
        if of_all is not None:
            clear[ALL] = of_all
        factors = {name: clear.get(name, clear.get(ALL)) for name in self.rates}
        return {name: self.rates[name] * factor for name, factor in factors.items() if factor is not None}


def range_test(points: pl.DataFrame, settings: Settings, rates: dict[str, float]) -> RangeTest:
    """The report of a sweep's points (columns of POINTS), also of a part of them."""
    curves = []
    for name in settings.curves:
        mine = points.filter((pl.col("curve") == name) & pl.col("smooth").is_not_null())
        if mine.is_empty():
            continue
        diverged = set(points.filter((pl.col("curve") == name) & pl.col("smooth").is_null())["seed"])
        seeds = mine["seed"].n_unique()
        smooth = pl.col("smooth")
        band = (
            mine.group_by("index", maintain_order=True)
            .agg(pl.col("factor").first(), mean=smooth.mean(), low=smooth.min(), high=smooth.max(), seeds=pl.len())
            .filter(pl.col("seeds") == seeds)
            .sort("index")
            .drop("seeds")
        )
        alone = tuple(
            _suggest(one["factor"], one["smooth"], settings, one["seed"][0] in diverged).chosen
            for one in mine.partition_by("seed", maintain_order=True)
        )
        found = _suggest(band["factor"], band["mean"], settings, bool(diverged))
        curves.append(Curve(name, found, alone, band))
    done = {(row[0], row[1]) for row in points.select("curve", "seed").unique().iter_rows()}
    return RangeTest(settings, dict(rates), tuple(curves), len(done) == len(settings.curves) * settings.seeds)


def _suggest(factors: pl.Series, losses: pl.Series, settings: Settings, diverged: bool) -> Suggestions:
    return suggest(factors.to_list(), losses.to_list(), settings.steps, diverged)
