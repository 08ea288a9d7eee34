"""How the learning rate, the momentum and the weight decay change while a run goes on.

A schedule is a function of the moment: how many updates there were, how many there will be, and how much of the run is
over. Where the end is a number of steps, the figures are nanochat's to the last digit; where it is a time, the part of
the run that is over takes the place of step / steps, so that a run with a budget always ends cooled down.

    python -c "from nanochat.schedules import Moment, Schedule; print(Schedule().multiplier(Moment(60, 120)))"
"""

import math
from dataclasses import dataclass
from typing import Literal

Kind = Literal["constant", "linear", "cosine", "wsd"]
KINDS: tuple[Kind, ...] = ("constant", "linear", "cosine", "wsd")
WARMUP_SHARE = 0.1  # of a time budget that warming up may take at most, however slow the steps are


class ScheduleError(ValueError):
    """A schedule that makes no sense: one sentence."""


@dataclass(frozen=True)
class Moment:
    """Where a run is, between two updates."""

    step: int  # updates so far
    steps: int | None = None  # updates in all; None where the end is not a number of steps
    elapsed: float = 0.0  # share of the run that is over, 0 to 1, where there is no number of steps

    @property
    def progress(self) -> float:
        """Share of the run that is over, 0 to 1."""
        share = self.elapsed if self.steps is None else self.step / max(self.steps, 1)
        return min(max(share, 0.0), 1.0)


@dataclass(frozen=True)
class Schedule:
    """The factor on every group's initial learning rate: warm up, hold, cool down.

    Kinds: "constant" holds after the warmup; "linear" and "cosine" fall from the end of the warmup to the end of the
    run; "wsd" (warmup-stable-decay, nanochat's) holds, then falls in a straight line over the last part.
    """

    kind: Kind = "wsd"
    warmup_steps: int = 40  # updates until the full rate: Muon's first steps are as long as its later ones
    warmdown_ratio: float = 0.65  # part of the run that cools down, "wsd" only
    final_fraction: float = 0.05  # of the full rate, where the run ends

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ScheduleError(f"schedule {self.kind!r} is unknown; choose one of {', '.join(KINDS)}")
        if self.warmup_steps < 0:
            raise ScheduleError(f"warmup_steps is {self.warmup_steps}; give 0 or more (0 begins at the full rate)")
        for name in ("warmdown_ratio", "final_fraction"):
            if not 0 <= getattr(self, name) <= 1:
                raise ScheduleError(f"{name} is {getattr(self, name)}; it is a share, so give a number from 0 to 1")

    def multiplier(self, at: Moment) -> float:
        """The factor for the update that comes next, from 0 to 1.

        Source: nanochat's base_train, which warms up, holds to the very step where the warmdown begins, then mixes
        full and final rate; "linear" and "cosine" are the textbook forms.
        """
        phase = self.phase(at)
        if phase == "warmup":
            return self._warmth(at)
        if phase == "stable":
            return 1.0
        left = self._left(at)  # 1 where cooling begins, 0 at the end
        if self.kind == "cosine":
            left = 0.5 * (1 - math.cos(math.pi * left))
        return left + (1 - left) * self.final_fraction

    def phase(self, at: Moment) -> Literal["warmup", "stable", "warmdown"]:
        """Which of its three parts the run is in."""
        if self._warmth(at) < 1 or (at.steps is not None and at.step < self.warmup_steps):
            return "warmup"
        if self.kind == "constant":
            return "stable"
        if self.kind != "wsd":
            return "warmdown"
        if at.steps is not None:
            return "stable" if at.step <= at.steps - self._warmdown_steps(at.steps) else "warmdown"
        return "stable" if at.progress <= 1 - self.warmdown_ratio else "warmdown"

    def warmdown_progress(self, at: Moment) -> float | None:
        """How much of "wsd"'s last part is over, 0 to 1; None before it. Momentum follows it (see `Momentum`)."""
        if self.kind != "wsd" or self.warmdown_ratio == 0:
            return None
        if at.steps is not None:
            length = self._warmdown_steps(at.steps)
            over = at.step - (at.steps - length)
            return min(over / length, 1.0) if length and over >= 0 else None
        over_share = at.progress - (1 - self.warmdown_ratio)
        return over_share / self.warmdown_ratio if over_share >= 0 else None

    def _warmdown_steps(self, steps: int) -> int:
        return round(self.warmdown_ratio * steps)

    def _warmth(self, at: Moment) -> float:
        """The factor of the warmup, 1 once it is over."""
        if not self.warmup_steps:
            return 1.0
        by_step = (at.step + 1) / self.warmup_steps
        if at.steps is not None:
            return min(by_step, 1.0)
        return min(max(by_step, at.progress / WARMUP_SHARE), 1.0)

    def _left(self, at: Moment) -> float:
        """How much of the cooling is left, 1 to 0."""
        if self.kind == "wsd":
            if at.steps is not None:
                length = self._warmdown_steps(at.steps)
                return max((at.steps - at.step) / length, 0.0) if length else 0.0
            return (1 - at.progress) / self.warmdown_ratio
        if at.steps is not None:
            return max((at.steps - at.step) / max(at.steps - self.warmup_steps, 1), 0.0)
        return min((1 - at.progress) / (1 - WARMUP_SHARE), 1.0)


@dataclass(frozen=True)
class Momentum:
    """Muon's momentum: it grows while directions are still found, and shrinks while the rate cools down."""

    start: float = 0.85
    peak: float = 0.97
    end: float = 0.90  # where the warmdown ends; equal to `peak`, it stays
    warmup_steps: int = 400  # updates until the peak

    def value(self, at: Moment, schedule: Schedule) -> float:
        """The momentum for the update that comes next. Source: nanochat's base_train; the warmup has precedence."""
        if at.step < self.warmup_steps:
            share = at.step / self.warmup_steps
            return (1 - share) * self.start + share * self.peak
        cooled = schedule.warmdown_progress(at)
        return self.peak if cooled is None else self.peak * (1 - cooled) + self.end * cooled


@dataclass(frozen=True)
class WeightDecay:
    """The factor on the weight decay of the matrices: it falls to nothing by the end of the run."""

    kind: Literal["constant", "linear", "cosine"] = "cosine"  # cosine since 2026-03, linear in 2026-02

    def multiplier(self, at: Moment) -> float:
        """The factor for the update that comes next, from 0 to 1."""
        if self.kind == "constant":
            return 1.0
        return 1 - at.progress if self.kind == "linear" else 0.5 * (1 + math.cos(math.pi * at.progress))
