"""Where a run stands: its counters, its averages and its clock. A checkpoint carries them, a resumed run goes on.

python -c "from nanochat.training_state import TrainingState; print(TrainingState().debiased_loss)"
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

SMOOTHING = 0.9  # of the moving average of the loss is old; nanochat's
UNCOUNTED_STEPS = 10  # nanochat leaves its first steps, which compile and warm up, out of `total_training_time`
LONG_PAUSE = 10.0  # seconds: a step that takes longer, and
PAUSE_FACTOR = 20.0  # this many times as long as usual, was not working: the machine slept or the process was stopped


@dataclass
class TrainingState:
    """The counters of a run after `step` updates."""

    step: int = 0
    tokens: int = 0  # trained on, by all ranks
    flops: int = 0  # by the model's own estimate
    elapsed: float = 0.0  # seconds since the run began, evaluation, saving and resumed parts included
    step_seconds: float = 0.0  # how long an update takes, lately; 0: not known yet
    smooth_loss: float = 0.0  # moving average as nanochat keeps it, not yet debiased
    train_loss: float | None = None  # of the last update
    val_bpb: float | None = None  # of the last evaluation
    min_val_bpb: float = math.inf
    training_time: float = 0.0  # seconds of updates alone, from the eleventh on: nanochat's total_training_time
    evaluated: float | None = None  # val_bpb of this very step, None where it was not evaluated

    @property
    def debiased_loss(self) -> float | None:
        """The moving average without the pull of the zero it starts from; None before the first update."""
        return self.smooth_loss / (1 - SMOOTHING**self.step) if self.step else None

    def advance(self, loss: float, tokens: int, flops: int) -> None:
        """Count one update."""
        self.step += 1
        self.tokens += tokens
        self.flops += flops
        self.train_loss = loss
        self.smooth_loss = SMOOTHING * self.smooth_loss + (1 - SMOOTHING) * loss

    def count_time(self, seconds: float) -> None:
        """Count the time of the update that `advance` has just counted."""
        if self.step - 1 > UNCOUNTED_STEPS:
            self.training_time += seconds

    def loop_state(self) -> dict[str, float]:
        """nanochat's own key in a meta file."""
        return {
            "min_val_bpb": self.min_val_bpb,
            "smooth_train_loss": self.smooth_loss,
            "total_training_time": self.training_time,
        }

    @classmethod
    def of_meta(cls, step: int, meta: Mapping[str, Any], flops_per_token: int) -> "TrainingState":
        """Where the run stood whose checkpoint this meta belongs to, ours or nanochat's.

        nanochat writes no tokens, no FLOPs and no time with evaluation: they follow from the batch, or come near.
        """
        loop, ours = meta.get("loop_state") or {}, meta.get("lab") or {}
        ours = ours.get("training") or {}
        tokens = ours.get("tokens", step * (meta.get("total_batch_size") or 0))
        spent = float(loop.get("total_training_time") or 0.0)
        return cls(
            step=step,
            tokens=tokens,
            flops=ours.get("flops", tokens * flops_per_token),
            elapsed=float(ours.get("time", spent)),
            step_seconds=float(ours.get("step_seconds", 0.0)),
            smooth_loss=float(loop.get("smooth_train_loss") or 0.0),
            train_loss=ours.get("train_loss"),
            val_bpb=meta.get("val_bpb"),
            min_val_bpb=math.inf if (least := loop.get("min_val_bpb")) is None else float(least),
            training_time=spent,
        )


class Clock:
    """Seconds since a run began. It never goes back, and it stands still while the machine sleeps.

    source: a clock that setting the date does not move: time.monotonic.
    """

    def __init__(self, source: Callable[[], float], carried: float = 0.0, typical: float = 0.0) -> None:
        """carried, typical: what earlier parts of the run took, and an update of theirs; 0: there were none."""
        self._source, self._carried, self._begun = source, carried, source()
        self._typical = typical or None
        self._updates = 0

    def elapsed(self) -> float:
        """Seconds of this run, those of earlier parts included."""
        return self._carried + self._source() - self._begun

    @property
    def typical(self) -> float:
        """How long an update takes, lately, in seconds; 0 until the second one."""
        return self._typical or 0.0

    def typical_or(self, unknown: float) -> float:
        """The same, or `unknown` until the second one."""
        return unknown if self._typical is None else self._typical

    def count(self, seconds: float) -> bool:
        """Take note of how long an update took. True if most of that was a pause: it is then not counted as elapsed.

        A laptop that is closed for an hour must not find its budget spent and its rates never cooled down.
        """
        self._updates += 1
        usual = self._typical
        if usual is not None and self._updates > 1 and seconds > max(LONG_PAUSE, PAUSE_FACTOR * usual):
            self._carried -= seconds - usual
            return True
        if self._updates > 1:  # the first one fills caches and may compile: it says nothing about the next
            self._typical = seconds if usual is None else 0.8 * usual + 0.2 * seconds
        return False
