"""Several ranks train the run that one rank trains: the same losses, and a checkpoint for any number of them.

python -m pytest tests/test_training_ranks.py -m prove     # the whole of it: 1, 2 and 4 ranks, part of `make prove`
"""

import functools
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from nanochat.checkpoint_manager import list_steps, load_checkpoint, load_model, verify
from nanochat.dataloader import DataLoader
from nanochat.dataset import open_dataset
from nanochat.distributed import World
from nanochat.horizon import Horizon
from nanochat.optim import OptimConfig, build_optimizer, shard_state
from nanochat.records import METRICS_NAME, read_lines
from nanochat.schedules import Schedule
from nanochat.scripts import base_train
from nanochat.tokenizer import load_tokenizer
from nanochat.training import Setup, train
from nanochat.training_checkpoints import load_into, read_resumption
from nanochat.training_folder import opened
from nanochat.training_setup import batch_loss, new_model
from nanochat.training_state import TrainingState
from tests.checkpoint_support import make_tokenizer
from tests.support import FIXTURES, needs_fixtures
from tests.training_support import arguments, base_dir, on_ranks, ranks, setup_of, tiny_config

NEWEST = FIXTURES / "nanochat_2026_07_03"
MUON = OptimConfig("muon", weight_decay=0.1)


def small(world: World, folder: Path | None, steps: int, *, until: int | None = None, **changes: Any) -> list[float]:
    """A run in float64 from its initialisation, 8 rows a step however many ranks there are; the loss of each step.

    `until`: stop there, with a checkpoint.
    """
    config, state = tiny_config(n_layer=3), TrainingState()
    if until is not None:
        changes |= {"stop": lambda: "stop" if state.step == until else None, "state": state}

    def run() -> list[float]:
        setup = setup_of(
            folder, steps, accumulation=4 // world.size, config=config, dtype=torch.float64, world=world,
            optimizer=MUON, schedule=Schedule(warmup_steps=2), lanes=1, **changes,
        )  # fmt: skip
        return [record.train_loss for record in train(setup) if record.train_loss is not None]

    if folder is None:
        return run()
    with opened(folder, 1000, world):
        return run()


def from_fixture(world: World, folder: Path, steps: int) -> list[float]:
    """nanochat's own run from its step 40 with its optimizer, in float32, 4 rows a step."""
    resumption = read_resumption(folder, 40, world)
    model = new_model(resumption.config, seed=0)
    optimizer = build_optimizer(model, OptimConfig("muon", 0.45 * 0.0442, 6.0 * 0.0442, 0.16 * 0.0442, 2.0 * 0.0442))
    load_into(resumption, model, optimizer)
    text = open_dataset(NEWEST / "base_data_climbmix").train
    loader = DataLoader(
        text, load_tokenizer(NEWEST / "tokenizer"), 1, 256, rank=world.rank, world_size=world.size, rows_per_step=4,
        lanes=1,
    )  # fmt: skip
    setup = Setup(
        model, optimizer, loader, Horizon(steps=120), batch_loss(model), Schedule(warmup_steps=5),
        accumulation=4 // world.size, world=world, state=TrainingState(step=40),
    )  # fmt: skip
    records = train(setup)
    return [next(records).train_loss or 0.0 for _ in range(steps)]


def agree(folder: Path, count: int, work: Any, expected: list[float]) -> None:
    """All ranks have the expected losses to 1e-5."""
    folder.mkdir()
    for answer in ranks(count, work, folder):
        assert "result" in answer, answer
        assert len(answer["result"]) == len(expected)
        assert max(abs(a - b) for a, b in zip(answer["result"], expected, strict=True)) < 1e-5


@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.prove)])
def test_from_initialisation_in_float64(tmp_path: Path, count: int) -> None:
    steps = 20 if count == 4 else 8
    alone = small(World(), None, steps)
    assert alone[-1] < alone[0] - 0.1
    agree(tmp_path / "ranks", count, lambda world: small(world, None, steps), alone)


@needs_fixtures
@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.prove)])
def test_from_nanochats_step_40_in_float32(tmp_path: Path, count: int) -> None:
    steps = 20 if count == 4 else 4
    folder = NEWEST / "base_checkpoints" / "d4"
    alone = from_fixture(World(), folder, steps)
    agree(tmp_path / "ranks", count, lambda world: from_fixture(world, folder, steps), alone)


@needs_fixtures
@pytest.mark.parametrize("count", [1, 2, pytest.param(4, marks=pytest.mark.prove)])
def test_nanochats_own_several_ranks_are_read(tmp_path: Path, count: int) -> None:
    """A shard for each of four ranks, made from the one-rank file by nanochat's rule, continued by any number."""
    theirs, folder = NEWEST / "base_checkpoints" / "d4", tmp_path / "d4"
    whole = load_checkpoint(theirs, 40, "cpu", True)[1]
    folder.mkdir()
    for name in ("model_000040.pt", "meta_000040.json"):
        shutil.copy(theirs / name, folder / name)
    plan = build_optimizer(new_model(read_resumption(theirs, 40).config, seed=0), OptimConfig("muon")).plan
    for rank in range(4):
        torch.save(shard_state(whole, plan, rank, 4), folder / f"optim_000040_rank{rank}.pt")
    expected = from_fixture(World(), theirs, 2)
    if count == 1:
        assert from_fixture(World(), folder, 2) == pytest.approx(expected, abs=1e-6)
    else:
        agree(tmp_path / "ranks", count, lambda world: from_fixture(world, folder, 2), expected)


@pytest.mark.parametrize(
    ("saved", "resumed"),
    [(2, 1), (1, 2), *(pytest.param(*pair, marks=pytest.mark.prove) for pair in ((4, 2), (4, 1), (1, 4)))],
)
def test_saved_by_some_ranks_and_resumed_by_others(tmp_path: Path, saved: int, resumed: int) -> None:
    folder = tmp_path / "d3"
    whole = small(World(), None, 8)

    def run(count: int, work: Any) -> Any:
        (tmp_path / f"{count}-{os.urandom(4).hex()}").mkdir()
        place = max(tmp_path.glob(f"{count}-*"), key=lambda path: path.stat().st_mtime_ns)
        return [work(World())] if count == 1 else [answer["result"] for answer in ranks(count, work, place)]

    first = run(saved, lambda world: small(world, folder, 8, until=4))
    assert verify(folder, 4, full=True).ok
    shares = [name for name in json.loads((folder / "meta_000004.json").read_text())["lab"]["files"] if "rank" in name]
    assert len(shares) == 2 * saved
    assert [line["step"] for line in read_lines(folder / METRICS_NAME)] == list(range(5))  # rank 0 alone writes them
    second = run(resumed, lambda world: small(world, folder, 8, resume=-1))
    for losses in second:
        joined = [*first[0], *losses]
        assert max(abs(a - b) for a, b in zip(joined, whole, strict=True)) < 1e-5
    assert list_steps(folder)[0] == (4, 8)
    assert verify(folder, 8, full=True).ok
    assert load_model(folder).model.config.n_layer == 3


def test_a_rank_that_dies_in_training_leaves_a_sentence_and_the_older_steps(tmp_path: Path) -> None:
    folder = tmp_path / "d3"

    def work(world: World) -> Any:
        def stop() -> None:
            if world.rank == 1 and list_steps(folder)[0]:
                os._exit(9)

        return small(world, folder, 50, save_every=3, stop=stop)

    survivor, dead = ranks(2, work, tmp_path)
    assert dead is None
    assert "another rank has left" in survivor["error"]
    assert f"; go on from step {list_steps(folder)[0][-1]} with the same command and --resume" in survivor["error"]
    assert verify(folder, list_steps(folder)[0][-1], full=True).ok


def test_a_rank_that_dies_before_the_first_save_leaves_nothing_to_resume(tmp_path: Path) -> None:
    def work(world: World) -> Any:
        calls = iter(range(100))
        return small(world, tmp_path / "d3", 50, stop=lambda: os._exit(9) if world.rank and next(calls) == 3 else None)

    survivor, dead = ranks(2, work, tmp_path)
    assert dead is None
    assert "; no checkpoint was saved yet, so start again with the same command" in survivor["error"]
    assert "--resume" not in survivor["error"]


CHANGES: dict[str, tuple[dict[str, Any], str]] = {
    "seed": ({"seed": 7}, "--seed"),
    "horizon": ({"num_iterations": 3}, "--num-iterations"),
    "resume": ({"resume": True}, "--resume"),
    "text": ({"data": "other"}, "the training text"),
    "tokenizer": ({"tokenizer_dir": "other"}, "the tokenizer"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_ranks_that_were_started_differently_leave_before_the_first_step(tmp_path: Path, what: str) -> None:
    """Without a comparison, other data or another tokenizer are trained on in silence, and another length hangs."""
    base = base_dir(tmp_path)
    changes, words = CHANGES[what]
    if what == "text":
        (tmp_path / "other").write_text('{"text": "it is another one"}\n' * 80)
        changes = {"data": (tmp_path / "other").rename(tmp_path / "other.jsonl")}
    if what == "tokenizer":
        make_tokenizer(first=1).save(tmp_path / "other")
        changes = {"tokenizer_dir": tmp_path / "other"}
    flags = [arguments(base, device_batch_size=1, **others) for others in ({}, changes)]
    answers = on_ranks([functools.partial(base_train.main, one) for one in flags])
    for rank, (status, message) in enumerate(answers):
        assert status == 1
        assert f"rank {rank} of 2 stops before the first step" in message
        assert words in message
        assert len(message.strip().splitlines()) == 1
    assert not list(tmp_path.glob("base_checkpoints/d2/*.pt"))


def test_a_stop_asked_of_one_rank_stops_all_at_the_same_step(tmp_path: Path) -> None:
    folder = tmp_path / "d3"

    def work(world: World) -> Any:
        calls = iter(range(100))
        return small(world, folder, 50, stop=lambda: "SIGTERM" if world.rank == 1 and next(calls) == 5 else None)

    answers = ranks(2, work, tmp_path)
    assert [len(answer["result"]) for answer in answers] == [5, 5]
    assert list_steps(folder)[0] == (5,)


def test_a_full_disk_of_rank_0_ends_every_rank(tmp_path: Path) -> None:
    folder = tmp_path / "d3"

    def work(world: World) -> Any:
        from nanochat import durable

        if world.first:
            durable.publish = functools.partial(_full, durable.publish)
        return small(world, folder, 4)

    first, second = ranks(2, work, tmp_path)
    assert "cannot be written" in first["error"]
    assert "1 other(s) failed" in second["error"]
    assert list_steps(folder)[0] == ()


def _full(publish: Any, staged: Any) -> None:
    from nanochat import durable

    if staged.target.name.startswith("model"):
        durable._fail(staged.target, OSError(28, "No space left on device"))
    publish(staged)
