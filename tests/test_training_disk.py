"""A disk that fills up under a run: the last checkpoint stays, no half line is left, and it says how to go on.

python -m pytest tests/test_training_disk.py -m prove     # on a disk of some megabytes, part of `make prove`
"""

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nanochat import durable
from nanochat.checkpoint_manager import CheckpointError, list_steps, verify
from nanochat.distributed import World
from nanochat.records import METRICS_NAME, RecordError, StepRecord, read_lines
from nanochat.training import Setup, train
from nanochat.training_folder import opened
from tests.archive_support import assert_one_line
from tests.checkpoint_support import names
from tests.training_support import held, ranks, setup_of, without_clocks

DISK = 8 << 20  # bytes


def one_line(error: RecordError, words: str) -> None:
    assert words in str(error)
    assert str(error).isprintable()


def no_room(setup: Setup, first: int, times: int) -> None:
    """The disk is full so many times from record `first` on."""
    assert setup.metrics is not None
    write, left = setup.metrics.write, [times]

    def full(record: StepRecord) -> None:
        if record.step >= first and left[0]:
            left[0] -= 1
            raise RecordError("m: the metrics cannot be written because the disk is full; free some space")
        write(record)

    setup.metrics.write = full  # type: ignore[method-assign]


def test_metrics_without_room_end_the_run_with_a_checkpoint_if_that_has_some(tmp_path: Path) -> None:
    with held(tmp_path / "whole") as folder:
        list(train(setup_of(folder, steps=8)))
    with held(tmp_path / "d2") as folder:
        setup, seen = setup_of(folder, steps=8), []
        no_room(setup, 3, times=1)
        with pytest.raises(RecordError) as caught:
            seen += list(train(setup))
        one_line(caught.value, "the disk is full; free some space; step 4 is kept; go on from step 4 with the same")
        assert "the records" not in str(caught.value)  # there was room for them behind the checkpoint
        assert verify(folder, 4, full=True).ok
        assert [line["step"] for line in read_lines(folder / METRICS_NAME)] == [0, 1, 2, 3, 4]
        list(train(setup_of(folder, steps=8, resume=-1)))
    resumed, whole = without_clocks(folder), without_clocks(tmp_path / "whole")
    for record in (*resumed, *whole):
        record["events"] = [word for word in record["events"] if word != "checkpoint"]
    assert resumed == whole


def test_records_that_never_had_room_are_named(tmp_path: Path) -> None:
    with held(tmp_path / "d2") as folder:
        setup = setup_of(folder, steps=8)
        no_room(setup, 3, times=9)
        with pytest.raises(RecordError, match=r"step 4 is kept; .*; the records from step 3 on are not"):
            list(train(setup))


@pytest.mark.parametrize(
    ("save_every", "kept"), [(2, "step 2 is kept; go on from step 2"), (-1, "no checkpoint was saved yet")]
)
def test_where_the_checkpoint_has_no_room_either_the_last_one_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, save_every: int, kept: str
) -> None:
    with held(tmp_path / "d2") as folder:
        setup = setup_of(folder, steps=8, save_every=save_every)
        no_room(setup, 2, times=9)
        records = train(setup)
        for record in records:
            if record.step == 1:
                break
        next(records) if save_every > 0 else None
        before = names(folder)
        monkeypatch.setattr(durable, "stage", full)
        with pytest.raises(RecordError) as caught:
            list(records)
        one_line(caught.value, f"no checkpoint could be saved (d2: cannot be written); {kept}")
        assert ("--resume" in str(caught.value)) == (save_every > 0)
        assert names(folder) == before
        assert list_steps(folder)[0] == ((2,) if save_every > 0 else ())


def full(*_: Any) -> Any:
    raise CheckpointError("d2: cannot be written")


def test_all_ranks_leave_where_rank_0_has_no_room(tmp_path: Path) -> None:
    def work(world: World) -> Any:
        with opened(tmp_path / "d2", 1000, world) as folder:
            setup = setup_of(folder, steps=50, world=world)
            if world.first:
                no_room(setup, 3, times=1)
            return [record.step for record in train(setup)]

    first, second = ranks(2, work, tmp_path)
    assert "step 4 is kept" in first["error"]
    assert second["result"] == [0, 1, 2, 3, 4]
    assert verify(tmp_path / "d2", 4, full=True).ok


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of a few megabytes in memory."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(place)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"a small disk cannot be mounted here: {error}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def fill(disk: Path) -> Path:
    """Take all room there is."""
    path = disk / f"filler{len(list(disk.glob('filler*')))}"
    with open(path, "wb", buffering=0) as file:
        try:
            while True:
                file.write(b"\0" * 4096)
        except OSError as error:
            full_disk = error.errno == errno.ENOSPC
    assert full_disk
    return path


@pytest.mark.prove
@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_a_real_disk_that_fills_up_during_a_save(
    small_disk: Path, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else takes the rest of the disk once that share of the step is written."""
    with held(small_disk / "d2") as folder:
        records = train(setup_of(folder, steps=9, save_every=3))
        for record in records:
            if record.step == 3:
                break
        before = names(folder)
        size = sum(path.stat().st_size for path in folder.iterdir() if "_000003" in path.name)
        os_write, written = os.write, [0]

        def write(descriptor: int, data: Any) -> int:
            if written[0] < share * size <= written[0] + len(data):
                fill(small_disk)
            written[0] += len(data)
            return os_write(descriptor, data)

        monkeypatch.setattr(durable.os, "write", write)
        with pytest.raises(CheckpointError, match=r"cannot be written \(No space left on device\)") as caught:
            list(records)
        monkeypatch.undo()
        assert_one_line(caught.value, "_000006")
        assert names(folder) == before
        assert verify(folder, 3, full=True).ok
        for filler in small_disk.glob("filler*"):
            filler.unlink()
        list(train(setup_of(folder, steps=9, resume=-1)))
        assert [line["step"] for line in read_lines(folder / METRICS_NAME)] == list(range(10))


@pytest.mark.prove
@pytest.mark.parametrize("room", [0, 1, 300, 1200])
def test_a_real_disk_that_fills_up_while_the_metrics_are_written(small_disk: Path, room: int) -> None:
    """`room`: bytes left in the last block of the file; a record takes some 500."""
    with held(small_disk / "d2") as folder:
        setup = setup_of(folder, steps=60, save_every=5)
        records = train(setup)
        for record in records:
            if record.step == 6:
                break
        assert setup.metrics is not None
        metrics = folder / METRICS_NAME
        with metrics.open("ab") as file:  # an event that takes up the block, so that the next line has `room` bytes
            padding = (-metrics.stat().st_size - room) % 4096
            line = b'{"step": 6, "events": ["' + b"x" * (padding - 28) + b'"]}\n'
            file.write(line)
        setup.metrics._end = metrics.stat().st_size
        filler, before = fill(small_disk), metrics.read_bytes()
        with pytest.raises(RecordError) as caught:
            list(records)
        one_line(caught.value, "the disk is full; free some space; no checkpoint could be saved")
        assert "step 5 is kept; go on from step 5 with the same command and --resume" in str(caught.value)
        found = metrics.read_bytes()
        assert found.startswith(before)
        assert found.endswith(b"}\n")
        assert verify(folder, 5, full=True).ok
        filler.unlink()
        list(train(setup_of(folder, steps=9, resume=-1)))
        assert [line["step"] for line in read_lines(metrics)] == list(range(10))
