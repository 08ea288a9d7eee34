"""Several ranks save one step: each its share of the optimizer, and rank 0 commits what all have saved."""

from pathlib import Path
from typing import Any

import pytest
import torch

from nanochat import durable
from nanochat.checkpoint_files import loader_name, optimizer_name
from nanochat.checkpoint_manager import (
    CheckpointError,
    directory_lock,
    list_steps,
    load_checkpoint,
    load_loader,
    save_checkpoint,
    verify,
)
from tests.archive_support import flip, same
from tests.checkpoint_support import (
    make_tokenizer,
    meta_of,
    names,
    tiny_config,
    tiny_optimizer,
    tiny_weights,
)


def tiny_loader(seed: int) -> dict[str, Any]:
    """A loader's state: numbers, text and a document's tokens."""
    return {"identity": "tests", "place": [seed, 2, None], "documents": [torch.arange(seed, seed + 5)]}


def test_every_rank_keeps_its_loaders_state(tmp_path: Path) -> None:
    folder, config = tmp_path / "base_checkpoints" / "d2", tiny_config()
    for rank in (1, 0):
        save_checkpoint(
            folder, 5, tiny_weights(config), None, meta_of(config, 5), rank, world_size=2, loader_data=tiny_loader(rank)
        )
    assert [same(load_loader(folder, 5, rank), tiny_loader(rank)) for rank in (0, 1)] == [True, True]
    assert verify(folder, 5, full=True).ok
    path = folder / loader_name(5, 1)
    flip(path, path.stat().st_size // 2)
    assert not verify(folder, 5, full=True).ok
    with pytest.raises(CheckpointError, match="SHA-256"):
        load_loader(folder, 5, 1)
    path.unlink()
    assert "loader_000005_rank1.pt: saved with this step and gone" in verify(folder, 5).problems[0]
    with pytest.raises(CheckpointError, match="no such file"):
        load_loader(folder, 5, 1)


def test_a_step_saved_again_keeps_no_loader_state_of_before(tmp_path: Path) -> None:
    folder, config = tmp_path / "base_checkpoints" / "d2", tiny_config()
    for state in (tiny_loader(0), None):
        save_checkpoint(folder, 5, tiny_weights(config), None, meta_of(config, 5), loader_data=state)
        assert (load_loader(folder, 5) is None) == (state is None)
        assert verify(folder, 5, full=True).ok
    with pytest.raises(CheckpointError, match="could not be opened again"):
        save_checkpoint(folder, 5, tiny_weights(config), None, meta_of(config, 5), loader_data={"a": object()})


def test_ranks_save_their_share_and_rank_0_commits(tmp_path: Path) -> None:
    folder = tmp_path / "base_checkpoints" / "d2"
    config = tiny_config()
    with directory_lock(folder):
        for rank in (1, 2, 0):
            save_checkpoint(
                folder, 5, tiny_weights(config), tiny_optimizer(rank), meta_of(config, 5), rank, world_size=3
            )
            assert (folder / "meta_000005.json").exists() == (rank == 0)
    for rank in range(3):
        assert same(load_checkpoint(folder, 5, "cpu", True, rank)[1], tiny_optimizer(rank))
    files = load_checkpoint(folder, 5, "cpu")[2]["lab"]["files"]
    assert sorted(files) == ["model_000005.pt", *(optimizer_name(5, rank) for rank in range(3))]
    path = folder / optimizer_name(5, 2)
    flip(path, path.stat().st_size // 2)
    assert not verify(folder, 5, full=True).ok
    with pytest.raises(CheckpointError, match="SHA-256"):
        load_checkpoint(folder, 5, "cpu", True, 2)


def test_a_step_saved_again_keeps_no_optimizer_state_of_the_old_weights(tmp_path: Path) -> None:
    folder = tmp_path / "base_checkpoints" / "d2"
    config = tiny_config()

    def save(ranks: list[int], optimizer: bool) -> set[str]:
        for rank in ranks:
            state = tiny_optimizer(rank) if optimizer else None
            save_checkpoint(folder, 5, tiny_weights(config), state, meta_of(config, 5), rank, world_size=len(ranks))
        assert verify(folder, 5, full=True).ok
        return {name for name in names(folder) if name.startswith("optim")}

    assert save([2, 1, 0], True) == {optimizer_name(5, rank) for rank in range(3)}  # and no digest is left beside them
    assert save([1, 0], True) == {optimizer_name(5, rank) for rank in range(2)}
    save_checkpoint(folder, 5, {}, tiny_optimizer(1), {}, 1)  # a rank of a job that died before its rank 0 saved
    assert verify(folder, 5, full=True).ok
    assert save([0], True) == {optimizer_name(5)}
    assert save([0], False) == set()
    with pytest.raises(CheckpointError, match="rank 1 has not saved this step"):
        save([0, 1], True)
    assert verify(folder, 5, full=True).ok


@pytest.mark.parametrize("cut", range(1, 13))
def test_a_commit_of_two_ranks_that_is_cut_anywhere_can_be_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: int
) -> None:
    """At each renaming: the older step stays whole, and saving again gives the new one with the right shares."""
    folder, config = tmp_path / "base_checkpoints" / "d2", tiny_config()

    def save(step: int, seed: int) -> None:
        for rank in (1, 0):
            save_checkpoint(
                folder, step, tiny_weights(config, seed), tiny_optimizer(10 * seed + rank), meta_of(config, step), rank,
                world_size=2, tokenizer=make_tokenizer(), loader_data=tiny_loader(10 * seed + rank),
            )  # fmt: skip

    save(10, 1)
    save(20, 2)
    real, calls = durable.publish, 0

    def publish(staged: durable.Staged) -> None:
        nonlocal calls
        calls += 1
        if calls == cut:
            raise KeyboardInterrupt
        real(staged)

    monkeypatch.setattr(durable, "publish", publish)
    try:
        save(20, 3)
    except KeyboardInterrupt:
        assert verify(folder, 10, full=True).ok
    monkeypatch.setattr(durable, "publish", real)
    if 20 in list_steps(folder)[0]:
        assert verify(folder, 20, full=True).ok
    save(20, 4)
    assert verify(folder, 20, full=True).ok
    for rank in (0, 1):
        assert same(load_checkpoint(folder, 20, "cpu", True, rank)[1], tiny_optimizer(40 + rank))
        assert same(load_loader(folder, 20, rank), tiny_loader(40 + rank))
    assert not [name for name in names(folder) if "pending" in name or "tmp" in name]


def test_rank_0_alone_can_repeat_a_commit_that_was_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, config = tmp_path / "base_checkpoints" / "d2", tiny_config()

    def save(rank: int) -> None:
        state, meta = tiny_optimizer(rank), meta_of(config, 5)
        save_checkpoint(folder, 5, tiny_weights(config), state, meta, rank, world_size=2)

    save(1)
    real = durable.publish

    def publish(staged: durable.Staged) -> None:
        if staged.target.name == "meta_000005.json":
            raise KeyboardInterrupt
        real(staged)

    monkeypatch.setattr(durable, "publish", publish)
    with pytest.raises(KeyboardInterrupt):
        save(0)
    monkeypatch.setattr(durable, "publish", real)
    save(0)
    assert verify(folder, 5, full=True).ok
    assert same(load_checkpoint(folder, 5, "cpu", True, 1)[1], tiny_optimizer(1))
