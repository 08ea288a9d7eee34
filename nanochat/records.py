"""One line for every step of a run: `StepRecord`, and the `metrics.jsonl` that it is written to.

That file is the only thing a running training tells the world: pages and dashboards read it and need no torch. Record
`step` speaks of the weights after `step` updates: the loss of the next batch with them, and their bits per byte where
they were evaluated. The last record of a run has no training loss, because no batch follows it.

    python -c "from nanochat.records import read_lines; print(*read_lines('metrics.jsonl'), sep='\\n')"
"""

import contextlib
import errno
import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

METRICS_NAME = "metrics.jsonl"  # beside the checkpoints of a run
NOT_FINITE = "not_finite"  # the event that stands for a NaN or an infinity, which JSON does not have


class RecordError(ValueError):
    """A metrics file that cannot be read or written: one sentence."""


@dataclass(frozen=True)
class StepRecord:
    """What is known about one step; None where it is not."""

    step: int  # updates that these weights have had
    time: float  # seconds since the run began, resumed parts included
    tokens: int  # trained on so far, by all ranks
    train_loss: float | None = None  # nats a token, mean over the step's batch
    smooth_loss: float | None = None  # debiased moving average of train_loss, 0.9 of it old
    val_bpb: float | None = None  # bits a byte, where this step was evaluated
    learning_rate: float | None = None  # of the matrix group
    learning_rates: Mapping[str, float] = field(default_factory=dict)  # group -> rate
    lr_multiplier: float | None = None  # what the schedule made of the initial rates
    grad_norm: float | None = None  # L2 over all parameters, before clipping
    tokens_per_second: float | None = None  # of this step, evaluation and saving not counted
    mfu: float | None = None  # share (0-1) of the device's peak, where that is known
    flops: int | None = None  # spent so far, by the model's own estimate
    events: tuple[str, ...] = ()  # words: warmup_end, warmdown_start, evaluation, checkpoint, resumed, diverged, ...

    def to_line(self) -> str:
        """The record as one line of JSON, newline included; NaN and infinity become null and an event.

        >>> StepRecord(3, 0.5, 96, train_loss=float("nan")).to_line()[:52]
        '{"step": 3, "time": 0.5, "tokens": 96, "train_loss":'
        """
        finite, broken = _finite(asdict(self))
        if broken and NOT_FINITE not in self.events:
            finite["events"] = [*self.events, NOT_FINITE]
        return json.dumps(finite, allow_nan=False) + "\n"


class RecordWriter:
    """Appends records to a file, each line handed to the system at once, so that a reader sees it and a kill of this
    process does not take it back."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115 - it lives as long as the run
            self._end = os.fstat(self._file.fileno()).st_size  # behind the last whole line
        except OSError as error:
            raise _failed(self.path, error) from None

    def write(self, record: StepRecord) -> None:
        """Append one line, or nothing.

        Raises:
            RecordError: the disk is full or gone; a part of the line that was written is cut off again.
        """
        line = record.to_line().encode()
        end = self._end + len(line)
        try:
            while line:  # an unbuffered write may take a part only
                line = line[self._file.write(line) or 0 :]
        except OSError as error:
            with contextlib.suppress(OSError):  # a disk that is gone cannot be cut either: the next trainer does it
                os.ftruncate(self._file.fileno(), self._end)
            raise _failed(self.path, error) from None
        self._end = end

    def close(self) -> None:
        """Nothing can be written after this."""
        self._file.close()

    def __enter__(self) -> "RecordWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_lines(path: str | Path) -> Iterator[dict[str, Any]]:
    """The whole records of a file as dicts; a line that is none is passed over.

    The reader for tables and charts is metrics.py; this one needs the standard library alone.
    """
    for record, _ in _lines_with_end(Path(path)):
        yield record


def truncate_after(path: str | Path, step: int) -> int:
    """Cut a metrics file behind its last record of at most `step`; returns how many records stay.

    A run that is resumed from step s keeps the records below s and writes s anew. A last line that a kill cut short
    goes as well. A damaged line between records that stay is left as it is: it must not cost those behind it. A file
    that is not there stays so.

    Raises:
        RecordError: the file cannot be read or cut.
    """
    path = Path(path)
    kept, end = 0, 0
    try:
        if not path.exists():
            return 0
        if not path.is_file():
            raise RecordError(f"{path}: the metrics are no regular file; move it away, the run writes its own")
        for record, line_end in _lines_with_end(path):
            if record["step"] <= step:
                kept, end = kept + 1, line_end
        if end != path.stat().st_size:
            os.truncate(path, end)  # in place: a cut either happens or not, and every byte before it stays
    except OSError as error:
        raise _failed(path, error) from None
    return kept


def _lines_with_end(path: Path) -> Iterator[tuple[dict[str, Any], int]]:
    """Each whole record and the byte behind it."""
    end = 0
    with open(path, "rb") as file:
        for line in file:
            end += len(line)
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):  # the second where brackets are nested by the thousand
                continue
            if line.endswith(b"\n") and isinstance(record, dict) and type(record.get("step")) is int:
                yield record, end


def _finite(value: Any) -> tuple[Any, bool]:
    """The value with None for every number that JSON cannot hold, and whether there was one."""
    if isinstance(value, Mapping):
        pairs = {key: _finite(item) for key, item in value.items()}
        return {key: item for key, (item, _) in pairs.items()}, any(broken for _, broken in pairs.values())
    if isinstance(value, list | tuple):
        items = [_finite(item) for item in value]
        return [item for item, _ in items], any(broken for _, broken in items)
    broken = isinstance(value, float) and not math.isfinite(value)
    return (None if broken else value), broken


def _failed(path: Path, error: OSError) -> RecordError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return RecordError(f"{path}: the metrics cannot be written because the disk is full; free some space")
    return RecordError(f"{path}: the metrics cannot be written ({error.strerror}); check the disk and the permissions")
