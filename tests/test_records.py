"""Records: what is written is what is read, and a file cut anywhere is cut cleanly."""

import errno
import json
import math
import os
from pathlib import Path
from typing import BinaryIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat.records import NOT_FINITE, RecordError, RecordWriter, StepRecord, read_lines, truncate_after

KEYS = [
    *("step", "time", "tokens", "train_loss", "smooth_loss", "val_bpb", "learning_rate", "learning_rates"),
    *("lr_multiplier", "grad_norm", "tokens_per_second", "mfu", "flops", "events"),
]


def write(path: Path, steps: range) -> None:
    with RecordWriter(path) as writer:
        for step in steps:
            writer.write(StepRecord(step, step / 2, 64 * step, train_loss=1 / (step + 1), events=("evaluation",)))


def test_the_keys_are_the_contract() -> None:
    assert list(json.loads(StepRecord(0, 0.0, 0).to_line())) == KEYS


@given(st.floats(), st.floats(allow_nan=False))
def test_any_number_becomes_one_line_of_json(loss: float, rate: float) -> None:
    record = StepRecord(3, 1.0, 5, train_loss=loss, learning_rates={"matrix": rate})
    line = record.to_line()
    assert line.endswith("\n")
    assert line.count("\n") == 1
    read = json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert read["train_loss"] == (loss if math.isfinite(loss) else None)
    assert (NOT_FINITE in read["events"]) == (not (math.isfinite(loss) and math.isfinite(rate)))


def test_every_record_can_be_read_while_the_writer_is_open(tmp_path: Path) -> None:
    with RecordWriter(tmp_path / "m") as writer:
        for step in range(3):
            writer.write(StepRecord(step, 0.0, 0))
            assert [record["step"] for record in read_lines(tmp_path / "m")] == list(range(step + 1))


def test_it_appends(tmp_path: Path) -> None:
    write(tmp_path / "m", range(3))
    write(tmp_path / "m", range(3, 5))
    assert [record["step"] for record in read_lines(tmp_path / "m")] == list(range(5))


@pytest.mark.parametrize("step", [-1, 0, 3, 4, 9])
def test_truncated_after_a_step(tmp_path: Path, step: int) -> None:
    write(tmp_path / "m", range(5))
    lines = (tmp_path / "m").read_bytes().splitlines(keepends=True)
    kept = truncate_after(tmp_path / "m", step)
    assert kept == min(step + 1, 5)
    assert (tmp_path / "m").read_bytes() == b"".join(lines[:kept])


def test_cut_anywhere_a_file_is_mended(tmp_path: Path) -> None:
    write(tmp_path / "whole", range(3))
    whole = (tmp_path / "whole").read_bytes()
    ends = [i + 1 for i, byte in enumerate(whole) if byte == 10]
    near = {end + i for end in [0, *ends] for i in (-2, -1, 0, 1)}  # every byte around an end, and some between
    for length in sorted(near | set(range(0, len(whole), 37))):
        if not 0 <= length <= len(whole):
            continue
        (tmp_path / "m").write_bytes(whole[:length])
        kept = truncate_after(tmp_path / "m", 99)
        assert kept == sum(end <= length for end in ends)
        assert (tmp_path / "m").read_bytes() == whole[: ([0, *ends])[kept]]


@pytest.mark.parametrize("bad", [b"\n", b"{\n", b"\xff\xfe\n", b'{"step": null}\n', b'{"step": 99}\n', b"[]\n"])
def test_a_bad_line_early_on_does_not_cost_those_behind_it(tmp_path: Path, bad: bytes) -> None:
    write(tmp_path / "m", range(5))
    lines = (tmp_path / "m").read_bytes().splitlines(keepends=True)
    (tmp_path / "m").write_bytes(lines[0] + bad + b"".join(lines[1:]) + bad)
    truncate_after(tmp_path / "m", 3)
    assert (tmp_path / "m").read_bytes() == lines[0] + bad + b"".join(lines[1:4])


class FullDisk:
    """A file that takes a part of a line and then finds the disk full."""

    def __init__(self, file: BinaryIO, part: int) -> None:
        self._file, self._part = file, part

    def write(self, line: bytes) -> int:
        if not self._part:
            raise OSError(errno.ENOSPC, "No space left on device")
        part, self._part = line[: self._part], 0
        return self._file.write(part)

    def fileno(self) -> int:
        return self._file.fileno()


@pytest.mark.parametrize("part", [0, 1, 40])
def test_a_line_that_a_full_disk_cuts_short_is_taken_back(tmp_path: Path, part: int) -> None:
    write(tmp_path / "m", range(3))
    before = (tmp_path / "m").read_bytes()
    writer = RecordWriter(tmp_path / "m")
    whole = writer._file
    writer._file = FullDisk(whole, part)  # type: ignore[assignment]
    with pytest.raises(RecordError, match="cannot be written because the disk is full; free some space"):
        writer.write(StepRecord(3, 0.0, 0))
    assert (tmp_path / "m").read_bytes() == before
    writer._file = whole
    with writer:
        writer.write(StepRecord(3, 0.0, 0))
    assert [record["step"] for record in read_lines(tmp_path / "m")] == [0, 1, 2, 3]


def test_a_missing_file_is_no_file(tmp_path: Path) -> None:
    assert truncate_after(tmp_path / "m", 3) == 0
    assert not (tmp_path / "m").exists()


def test_what_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="cannot be written"):
        RecordWriter(tmp_path / "nowhere" / "m")


def test_what_is_no_record_ends_the_file_and_a_pipe_is_refused(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 0}\n{"step": 1, "a": ' + "[" * 200_000 + "]" * 200_000 + "}\n")
    assert [record["step"] for record in read_lines(path)] == [0]
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(RecordError, match="no regular file"):
        truncate_after(tmp_path / "pipe", 3)
