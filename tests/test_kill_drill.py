"""Kill a process while it saves checkpoints, again and again: what it had committed must open and verify.

python -m pytest tests/test_kill_drill.py -m prove      # 50 kills, part of `make prove`
"""

import os
import random
import signal
import time
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch

from nanochat.checkpoint_manager import find_runs, load_checkpoint, save_checkpoint, verify
from nanochat.gpt import GPTConfig, parameter_shapes
from tests.checkpoint_support import FORK, meta_of

# 20 MB of weights and 20 MB of optimizer state a step.
CONFIG = GPTConfig(sequence_len=256, vocab_size=4096, n_layer=4, n_head=4, n_kv_head=4, n_embd=256)
ROTATION = 3  # steps 0, 1 and 2 are replaced in turn, so that a kill also meets the replacing of a committed step


def save_for_ever(folder: Path, first: int, report: Connection) -> None:
    """Save one step after the other; report each that is committed."""
    torch.set_num_threads(1)
    shapes = parameter_shapes(CONFIG)
    for count in range(first, first + 10_000):
        weights = {name: torch.full(shape, float(count)) for name, shape in shapes.items()}
        meta = {**meta_of(CONFIG, count % ROTATION), "count": count}
        save_checkpoint(folder, count % ROTATION, weights, {"state": weights}, meta)
        report.send(count)


def drill(folder: Path, kills: int, seed: int) -> None:
    dice = random.Random(seed)
    last, saves = -1, 0
    for kill in range(kills):
        receive, send = FORK.Pipe(duplex=False)
        child = FORK.Process(target=save_for_ever, args=(folder, last + 1, send))
        child.start()
        send.close()
        if kill == 0:
            assert receive.poll(60), "the first save has not ended"
        time.sleep(dice.uniform(0, 0.7))
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        assert child.exitcode == -signal.SIGKILL
        committed = last
        while receive.poll():
            try:
                committed = receive.recv()
            except EOFError:
                break
        receive.close()
        saves += committed - last
        last = check(folder, committed)
    assert saves >= kills // 4, "the drill killed before anything was saved"


def check(folder: Path, committed: int) -> int:
    """The last reported save is whole, and so is every step that is listed. Returns the newest count there is."""
    (run,) = find_runs(folder.parent.parent)
    counts = {}
    for step in run.steps:
        checked = verify(folder, step, full=True)
        assert checked.ok, checked.problems
        weights, state, meta = load_checkpoint(folder, step, "cpu", load_optimizer=True)
        assert all(bool((weight == meta["count"]).all()) for weight in (*weights.values(), *state["state"].values()))
        counts[step] = meta["count"]
    assert counts.get(committed % ROTATION, -1) >= committed, (counts, committed)
    # Between commit and report a kill can fall, so one more than was reported may be there.
    assert max(counts.values()) <= committed + 1
    assert len(run.problems) <= 1, run.problems
    return max(counts.values())


def test_six_kills(tmp_path: Path) -> None:
    drill(tmp_path / "base_checkpoints" / "d4", kills=6, seed=1)


@pytest.mark.prove
def test_fifty_kills(tmp_path: Path) -> None:
    drill(tmp_path / "base_checkpoints" / "d4", kills=50, seed=2)
