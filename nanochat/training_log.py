"""A run's progress as lines of text: nanochat's own, character by character, so that every tool that reads its logs
reads ours.

    step 00011/00120 (9.17%) | loss: 6.163500 | lrm: 1.00 | dt: 42.52ms | tok/sec: 24,082 | bf16_mfu: 0.00 | ...
    Step 00040 | Validation bpb: 2.549840

One figure means another thing: nanochat averages the loss of each step's last batch, we that of the whole step.

    nanochat base_train --depth 4 | tee run.log
"""

from collections.abc import Callable, Mapping
from pathlib import Path

from nanochat.horizon import Horizon
from nanochat.records import StepRecord
from nanochat.training_state import UNCOUNTED_STEPS

# What a person wants to know beyond nanochat's lines, by the word in the record.
REMARKS = {
    "checkpoint": "checkpoint saved",
    "resumed": "resumed",
    "warmup_end": "warmup is over: the full learning rate from here on",
    "warmdown_start": "warmdown begins: the learning rate falls from here on",
    "paused": "the machine slept; that time is not counted",
    "diverged": "the loss or the gradient is not finite; this update was not made",
    "stopped": "stopped before the end",
}


def closing(folder: Path, step: int, stopped: bool, talk: str) -> str:
    """The last line of a run that ended after `step` updates; `talk` is the command that opens its model."""
    if not step:
        return "Nothing was trained."
    if stopped:
        return f"Step {step} is saved in {folder}. Go on with the same command and --resume."
    return f"Step {step} is saved in {folder}. Talk to it: {talk}"


class StepLog:
    """Turns the records of one run into lines."""

    bpb_digits = 6

    def __init__(
        self,
        horizon: Horizon,
        position: Callable[[], Mapping[str, int]],
        step_tokens: int,
        training_time: float = 0.0,
    ) -> None:
        """position: where the loader stands; training_time: seconds that a resumed run had counted before."""
        self._horizon, self._position, self._step_tokens = horizon, position, step_tokens
        self._training_time = training_time

    def lines(self, record: StepRecord) -> list[str]:
        """The lines for one record: evaluation, remarks, step."""
        lines = []
        if record.val_bpb is not None:
            lines.append(f"Step {record.step:05d} | Validation bpb: {record.val_bpb:.{self.bpb_digits}f}")
        loaded = (
            "resumed" in record.events
        )  # the record has "checkpoint" as in the run's first life; nothing is written
        words = [word for word in record.events if word in REMARKS and not (loaded and word == "checkpoint")]
        lines += [f"Step {record.step:05d} | {REMARKS[word]}" for word in words]
        if record.train_loss is not None and "diverged" not in record.events:
            seconds = self._step_tokens / record.tokens_per_second if record.tokens_per_second else 0.0
            lines.append(self._step_line(record, seconds))
        return lines

    def _step_line(self, record: StepRecord, seconds: float) -> str:
        if record.step > UNCOUNTED_STEPS:
            self._training_time += seconds
        steps, share = self._length(record, seconds)
        where = self._position()
        eta = ""
        if record.step > UNCOUNTED_STEPS:
            per_step = self._training_time / (record.step - UNCOUNTED_STEPS)
            left = (steps - record.step) * per_step
            if self._horizon.seconds is not None:
                left = max(self._horizon.seconds - record.time, 0.0)
            eta = f" | eta: {left / 60:.1f}m"
        return (
            f"step {record.step:05d}/{steps:05d} ({100 * share:.2f}%) | loss: {record.smooth_loss:.6f} | "
            f"lrm: {record.lr_multiplier:.2f} | dt: {seconds * 1000:.2f}ms | "
            f"tok/sec: {int(record.tokens_per_second or 0):,} | bf16_mfu: {100 * (record.mfu or 0.0):.2f} | "
            f"epoch: {where['epoch']} pq: {where['pq_idx']} rg: {where['rg_idx']} | "
            f"total time: {self._training_time / 60:.2f}m{eta}"
        )

    def _length(self, record: StepRecord, seconds: float) -> tuple[int, float]:
        """How many steps the run will have, and the share that is over. Where it ends by time, an estimate."""
        if self._horizon.steps is not None:
            return self._horizon.steps, record.step / self._horizon.steps
        if self._horizon.seconds is None:
            return record.step + 1, 0.0  # passes over the data: the line cannot say how many steps they take
        share = min(record.time / self._horizon.seconds, 1.0)
        left = max(self._horizon.seconds - record.time, 0.0)
        return record.step + 1 + (round(left / seconds) if seconds else 0), share


class SFTLog(StepLog):
    """The same for fine-tuning, as nanochat words it there: an update has the number of the weights that it makes."""

    bpb_digits = 4

    def __init__(
        self,
        horizon: Horizon,
        position: Callable[[], Mapping[str, int]],
        step_tokens: int,
        training_time: float = 0.0,
        epochs: Callable[[], float | None] = lambda: None,
    ) -> None:
        """epochs: passes over the conversations so far."""
        super().__init__(horizon, position, step_tokens, training_time)
        self._epochs = epochs

    def _step_line(self, record: StepRecord, seconds: float) -> str:
        if record.step >= UNCOUNTED_STEPS:
            self._training_time += seconds
        over = self._horizon.moment(record.step + 1, record.time, epochs=self._epochs() or 0.0).progress
        return (
            f"step {record.step + 1:05d} ({100 * over:.2f}%) | loss: {record.smooth_loss:.6f} | "
            f"lrm: {record.lr_multiplier:.2f} | dt: {seconds * 1000:.2f}ms | "
            f"tok/sec: {int(record.tokens_per_second or 0):,} | mfu: {100 * (record.mfu or 0.0):.2f} | "
            f"epoch: {self._position()['epoch']} | total time: {self._training_time / 60:.2f}m"
        )
