"""chat_sft on several ranks: the run that one rank makes, and ranks that were started differently.

python -m pytest tests/test_chat_sft_ranks.py -m prove     # four ranks and torchrun, part of `make prove`
"""

import functools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from nanochat.checkpoint_manager import load_loader, verify
from nanochat.scripts import chat_sft
from tests.checkpoint_support import FORK
from tests.sft_support import SMALL, pretrained_base, records, run
from tests.training_support import free_port, on_ranks


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pretrained_base(tmp_path_factory.mktemp("base"))


def losses_on(count: int, base: Path, *flags: str) -> list[float]:
    """The losses of chat_sft on `count` ranks in forked children, each with its part of the same four rows a step."""
    port = str(free_port())

    def live(rank: int) -> None:
        torch.set_num_threads(1)
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count), "MASTER_PORT": port}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo"}
        os._exit(run(base, "--device-batch-size", str(4 // count), *flags))

    processes = [FORK.Process(target=live, args=(rank,)) for rank in range(count)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    return [record["train_loss"] for record in records(base / "chatsft_checkpoints" / "d2")[:-1]]


@pytest.mark.parametrize(("count", "steps"), [(2, 4), pytest.param(4, 12, marks=pytest.mark.prove)])
def test_what_several_ranks_saved_one_goes_on_with(pretrained: Path, tmp_path: Path, count: int, steps: int) -> None:
    """The losses are those of one rank all along: every rank keeps the same place in the conversations."""
    for name in ("one", "several"):
        shutil.copytree(pretrained, tmp_path / name)
    whole = losses_on(1, tmp_path / "one", "--num-iterations", str(steps))
    flags = ("--num-iterations", str(steps), "--save-every", str(steps // 2))
    assert losses_on(count, tmp_path / "several", *flags) == pytest.approx(whole, abs=1e-5)
    folder = tmp_path / "several" / "chatsft_checkpoints" / "d2"
    assert len(list(folder.glob(f"loader_{steps // 2:06d}_rank*.pt"))) == count
    flags = ("--resume-from-step", str(steps // 2), "--force")
    assert losses_on(1, tmp_path / "several", *flags) == pytest.approx(whole, abs=1e-5)
    states = [load_loader(folder, steps, 0), load_loader(tmp_path / "one" / "chatsft_checkpoints" / "d2", steps, 0)]
    assert states[0]["lane_states"] == states[1]["lane_states"]


@pytest.mark.prove
def test_torchrun_starts_it(pretrained: Path, tmp_path: Path) -> None:
    shutil.copytree(pretrained, tmp_path / "base")
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    flags = ["--base-dir", str(tmp_path / "base"), *SMALL, "--num-iterations", "2"]
    done = subprocess.run(
        [sys.executable, *launcher, "nanochat.scripts.chat_sft", *flags], capture_output=True, text=True, check=False,
        timeout=300, cwd=Path(__file__).parents[1], env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("Runs on the CPU, 2 ranks") == 1
    assert verify(tmp_path / "base" / "chatsft_checkpoints" / "d2", 2, full=True).ok


@pytest.mark.parametrize("what", ["seed", "conversations"])
def test_ranks_that_were_started_differently_leave_before_the_first_step(
    pretrained: Path, tmp_path: Path, what: str
) -> None:
    shutil.copytree(pretrained, tmp_path / "base")
    commands = []
    for rank in range(2):
        chats = tmp_path / str(rank) / "chats.jsonl"
        chats.parent.mkdir()
        reply = f"{rank if what == 'conversations' else 0}!"
        pair = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": reply}]
        chats.write_text((json.dumps(pair) + "\n") * 20)
        flags = ["--base-dir", str(tmp_path / "base"), *SMALL, "--data", str(chats), "--val-every", "0"]
        flags += ["--device-batch-size", "2", "--num-iterations", "2", "--seed", str(rank if what == "seed" else 0)]
        commands.append(functools.partial(chat_sft.main, flags))
    for rank, (status, message) in enumerate(on_ranks(commands)):
        assert status == 1
        assert f"rank {rank} of 2 stops before the first step" in message
        assert ("--seed" if what == "seed" else "the conversations") in message
    assert not list(tmp_path.glob("base/chatsft_checkpoints/d2/*.pt"))
