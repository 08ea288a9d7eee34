"""A run's folder while a trainer writes to it: moved, removed or replaced, it is noticed, and nothing is written anew.

What cannot run removes nothing from it, though it is forced."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from nanochat import precision
from nanochat.checkpoint_manager import CheckpointError, list_steps, verify
from nanochat.distributed import World
from nanochat.records import METRICS_NAME, read_lines
from nanochat.training import train
from nanochat.training_folder import opened, opened_anew
from tests.archive_support import assert_one_line
from tests.checkpoint_support import names
from tests.training_support import base_dir, held, ranks, run, setup_of


def moved(folder: Path) -> None:
    folder.rename(folder.with_name("elsewhere"))


def removed(folder: Path) -> None:
    shutil.rmtree(folder)


def replaced(folder: Path) -> None:
    moved(folder)
    folder.mkdir()


def replaced_by_a_copy(folder: Path) -> None:
    moved(folder)
    shutil.copytree(folder.with_name("elsewhere"), folder)


@pytest.mark.parametrize("when", ["save", "metrics"])
@pytest.mark.parametrize("accident", [moved, removed, replaced, replaced_by_a_copy])
def test_a_folder_that_is_not_the_same_any_more_ends_the_run(
    tmp_path: Path, accident: Callable[[Path], None], when: str
) -> None:
    with held(tmp_path / "d2") as folder:
        changes: dict[str, Any] = {"metrics": None} if when == "save" else {}
        records = train(setup_of(folder, steps=9, save_every=2, **changes))
        for record in records:
            if record.step == 2:
                break
        kept = [(path.name, path.read_bytes()) for path in sorted(folder.iterdir())]
        accident(folder)
        with pytest.raises(CheckpointError, match=r"(moved or removed while|another folder has taken)") as caught:
            list(records)
        assert_one_line(caught.value, "d2")
        assert "--resume" in str(caught.value)
        there = {
            "replaced": [],
            "replaced_by_a_copy": [name for name, _ in kept],
        }
        assert (names(folder) if folder.exists() else None) == there.get(accident.__name__)
        elsewhere = folder.with_name("elsewhere")
        if elsewhere.exists():  # all that there was, and not a byte more
            assert [(path.name, path.read_bytes()) for path in sorted(elsewhere.iterdir())] == kept


def test_no_rank_makes_a_new_folder(tmp_path: Path) -> None:
    def work(world: World) -> Any:
        with opened(tmp_path / "d2", 1000, world) as folder:
            records = train(setup_of(folder, steps=6, save_every=2, world=world, metrics=None))
            next(records)
            if world.first:
                moved(folder)
            return [record.step for record in records]

    first, second = ranks(2, work, tmp_path)
    assert "moved or removed while the run was writing" in first["error"]
    assert "1 other(s) failed" in second["error"]
    assert not (tmp_path / "d2").exists()


def test_a_folder_made_for_a_run_that_saved_nothing_goes_again(tmp_path: Path) -> None:
    for content in ([], [METRICS_NAME]):
        with opened_anew(tmp_path / "d2", 10) as folder:
            for name in content:
                (folder / name).write_text("")
        assert not folder.exists()
    with opened_anew(tmp_path / "d2", 10) as folder, pytest.raises(CheckpointError), opened_anew(folder, 10):
        pass  # it was another's: who could not take it leaves it alone
    with opened_anew(tmp_path / "d2", 10) as folder:
        (folder / "model_000001.pt").write_text("")
    assert names(folder) == [".lock", "model_000001.pt"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"total_batch_size": 100}, "no multiple of"),
        ({"max_seq_len": 48}, "no multiple of"),
        ({"device_batch_size": 0}, "--device-batch-size is 0"),
        ({"depth": 2**13}, "--depth is 8192"),
        ({"head_dim": 3}, "head"),
        ({"window_pattern": "XX"}, "window"),
        ({"data": "few"}, "few.txt"),
    ],
)
def test_what_cannot_run_removes_nothing_though_it_is_forced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], words: str
) -> None:
    base = base_dir(tmp_path)
    assert run(base, capsys, num_iterations=2)[0] == 0
    folder = base / "base_checkpoints" / "d2"
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}
    if changes.get("data") == "few":
        changes = {"data": tmp_path / "few.txt"}
        changes["data"].write_text("   \n\n   ")
    status, _, message = run(base, capsys, num_iterations=3, model_tag="d2", force=True, **changes)
    assert (status, len(message.strip().splitlines())) == (1, 1), message
    assert words in message
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"} == before


def test_too_little_memory_removes_nothing_though_it_is_forced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    base = base_dir(tmp_path)
    assert run(base, capsys, num_iterations=2)[0] == 0
    folder = base / "base_checkpoints" / "d2"

    def none_left(*_: Any) -> torch.Tensor:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(precision, "forward_loss", none_left)
    status, _, message = run(base, capsys, num_iterations=3, force=True, eval_every=-1)
    assert status == 1
    assert "there is not memory enough for 2 rows of 32 tokens" in message
    assert len(message.strip().splitlines()) == 1
    assert list_steps(folder)[0] == (2,)
    assert verify(folder, 2, full=True).ok
    assert [record["step"] for record in read_lines(folder / METRICS_NAME)] == [0, 1, 2]


def test_the_rehearsal_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = base_dir(tmp_path)
    folder = base / "base_checkpoints" / "d2"
    losses = []
    for force in (None, True):
        assert run(base, capsys, num_iterations=4, force=force)[0] == 0
        losses.append([record["train_loss"] for record in read_lines(folder / METRICS_NAME)])
    assert losses[0] == losses[1]
    assert os.path.exists(folder / "model_000004.pt")
