"""What the training tests share: a tiny run in this process, and a script in a child that can be killed."""

import contextlib
import io
import json
import os
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from nanochat.checkpoint_manager import load_checkpoint, load_loader
from nanochat.dataloader import DataLoader
from nanochat.dataset import Texts
from nanochat.distributed import World, start
from nanochat.errors import exit_status
from nanochat.gpt_config import GPTConfig
from nanochat.horizon import Horizon
from nanochat.optim import OptimConfig, build_optimizer
from nanochat.records import METRICS_NAME, RecordWriter, StepRecord
from nanochat.scripts import base_train
from nanochat.training import Setup
from nanochat.training_checkpoints import Saver, load_into, read_resumption
from nanochat.training_folder import begin, make_room, opened
from nanochat.training_setup import batch_loss, new_model
from nanochat.training_state import TrainingState
from tests.checkpoint_support import FORK, make_tokenizer, tiny_config

ROWS, LENGTH = 2, 32  # of a batch
CLOCKS = ("time", "tokens_per_second", "mfu")  # what differs between two runs of the same


class Ticking:
    """A clock that goes on by the same time whenever it is looked at."""

    def __init__(self, seconds: float) -> None:
        self.now, self.seconds = 0.0, seconds

    def __call__(self) -> float:
        self.now += self.seconds
        return self.now


def texts(count: int = 60) -> Texts:
    """Documents of different lengths that differ everywhere."""
    return Texts([" ".join(f"{i * j % 97} plus {j}" for j in range(3 + i % 11)) for i in range(count)])


def setup_of(
    folder: Path | None = None, steps: int = 6, *, resume: int | None = None, accumulation: int = 1,
    config: GPTConfig | None = None, dtype: torch.dtype = torch.float32, world: World | None = None,
    optimizer: OptimConfig | None = None, save_every: int = -1, lanes: int | None = None,
    **changes: Any,
) -> Setup:  # fmt: skip
    """A tiny run; with a folder it saves there, and `resume` (-1: the last step) goes on. The caller holds the lock."""
    world = world or World()
    config = config or tiny_config()
    model = new_model(config, seed=1).to(dtype)
    built = build_optimizer(model, optimizer or OptimConfig("adamw", weight_decay=0.1))
    step = None if folder is None else begin(folder, world, resume=resume)
    state, loader_state = TrainingState(), None
    if folder is not None and step is not None:
        resumption = read_resumption(folder, step, world)
        load_into(resumption, model, built)
        state = TrainingState.of_meta(step, resumption.meta, 100)
        loader_state = resumption.loader
    rows = ROWS * accumulation * world.size
    loader = DataLoader(
        texts(), make_tokenizer(), ROWS, LENGTH, rank=world.rank, world_size=world.size, rows_per_step=rows,
        state=loader_state, lanes=lanes,
    )  # fmt: skip
    saver, metrics = None, None
    if folder is not None:
        make_room(folder, step, world)
        facts = {"total_batch_size": rows * LENGTH}
        saver = Saver(
            folder, make_tokenizer(), config, save_every, facts=facts, saved_step=step, saved_at=state.elapsed
        )
        metrics = RecordWriter(folder / METRICS_NAME) if world.first else None
    fields: dict[str, Any] = {
        "horizon": Horizon(steps=steps), "loss": batch_loss(model), "accumulation": accumulation, "saver": saver,
        "metrics": metrics, "flops_per_token": 100, "world": world, "state": state,
    }  # fmt: skip
    return Setup(model, built, loader, **{**fields, **changes})


@contextlib.contextmanager
def held(folder: Path) -> Iterator[Path]:
    """A folder under the lock that a trainer holds."""
    with opened(folder, 1000) as path:
        yield path


def without_clocks(folder: Path) -> list[dict[str, Any]]:
    """The metrics of a run, less what a clock tells, and less what tells of a resumption."""
    records = [json.loads(line) for line in (folder / METRICS_NAME).read_text().splitlines()]
    for record in records:
        record["events"] = [word for word in record["events"] if word not in ("resumed", "paused")]
    return [{key: value for key, value in record.items() if key not in CLOCKS} for record in records]


def everything(folder: Path, step: int, rank: int = 0) -> tuple[Any, Any, Any]:
    """Weights, optimizer and loader of a step, verified."""
    weights, optimizer, _ = load_checkpoint(folder, step, "cpu", True, rank)
    return weights, optimizer, load_loader(folder, step, rank)


class Life:
    """A script in a forked child: it has torch loaded already, so a life costs little."""

    def __init__(self, *arguments: str, script: Any = base_train) -> None:
        self._receive, send = FORK.Pipe(duplex=False)
        self._process = FORK.Process(target=_live, args=(script, list(arguments), send))
        self._process.start()
        send.close()
        self.pid = self._process.pid or 0
        self.output = ""

    def wait_for(self, words: str, seconds: float = 60) -> None:
        """Read until the output has these words."""
        while words not in self.output:
            assert self._receive.poll(seconds), f"no {words!r} in {self.output!r}"
            try:
                self.output += self._receive.recv()
            except EOFError:
                raise AssertionError(f"it ended without {words!r}: {self.output!r}") from None

    def end(self, seconds: float = 60) -> int:
        """Wait for its end; the exit status, negative for the signal that killed it."""
        with contextlib.suppress(EOFError):
            while self._receive.poll(seconds):
                self.output += self._receive.recv()
        self._process.join(seconds)
        assert self._process.exitcode is not None, "it hangs"
        return self._process.exitcode


def piped(script: Any, arguments: list[str], until: str) -> tuple[int, str]:
    """A script in a forked child, its output a pipe that is closed after `until`; the exit status and its messages."""
    out, out_end = os.pipe()
    err, err_end = os.pipe()

    def live() -> None:
        torch.set_num_threads(1)
        os.close(out)
        sys.stdout, sys.stderr = os.fdopen(out_end, "w"), os.fdopen(err_end, "w")
        status = exit_status("x", lambda: script.main(arguments))
        sys.stderr.flush()
        os._exit(status)

    process = FORK.Process(target=live)
    process.start()
    os.close(out_end)
    os.close(err_end)
    seen = b""
    while until.encode() not in seen:
        part = os.read(out, 4096)
        assert part, f"it ended without {until!r}: {seen!r} {os.read(err, 65536)!r}"
        seen += part
    os.close(out)
    with os.fdopen(err) as messages:
        said = messages.read()
    process.join(120)
    assert process.exitcode is not None, "it hangs"
    return process.exitcode, said


def on_ranks(commands: Sequence[Callable[[], int]]) -> list[tuple[int, str]]:
    """A command on each of as many ranks, in forked children; the exit status and the messages of each."""
    port, found = free_port(), []

    def live(rank: int, send: Any) -> None:
        torch.set_num_threads(1)
        os.environ |= {
            "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(len(commands)), "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo",
        }  # fmt: skip
        errors = io.StringIO()
        with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
            status = exit_status("x", commands[rank])
        send.send((status, errors.getvalue()))
        os._exit(0)

    pipes = [FORK.Pipe(duplex=False) for _ in commands]
    processes = [FORK.Process(target=live, args=(rank, pipes[rank][1])) for rank in range(len(commands))]
    for process in processes:
        process.start()
    for process, (receive, send) in zip(processes, pipes, strict=True):
        send.close()
        assert receive.poll(120), "a rank hangs"
        found.append(receive.recv())
        process.join(60)
    return found


class _Pipe(io.TextIOBase):
    def __init__(self, send: Any) -> None:
        self._send = send

    def write(self, text: str) -> int:
        self._send.send(text)
        return len(text)


def _live(script: Any, arguments: list[str], send: Any) -> None:
    torch.set_num_threads(1)
    with contextlib.redirect_stdout(_Pipe(send)), contextlib.redirect_stderr(_Pipe(send)):
        status = exit_status(script.__name__.rpartition(".")[2], lambda: script.main(arguments))
    send.close()
    os._exit(status)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def ranks(count: int, work: Callable[[World], Any], folder: Path, patience: float = 60.0) -> list[Any]:
    """Run `work` on `count` ranks in forked children, over gloo; what each returned, or the text of its error."""
    port = free_port()

    def live(rank: int) -> None:
        torch.set_num_threads(1)
        os.environ |= {
            "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo",
        }  # fmt: skip
        try:
            with start("cpu", patience) as world:
                result = {"result": work(world)}
        except ValueError as error:
            result = {"error": f"{type(error).__name__}: {error}"}
        (folder / f"rank{rank}.json").write_text(json.dumps(result))
        os._exit(0)

    processes = [FORK.Process(target=live, args=(rank,)) for rank in range(count)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode is not None, "a rank hangs"
    files = [folder / f"rank{rank}.json" for rank in range(count)]
    return [json.loads(file.read_text()) if file.exists() else None for file in files]


def base_dir(folder: Path) -> Path:
    """A base dir with a tokenizer and a text."""
    make_tokenizer().save(folder / "tokenizer")
    lines = [" ".join(f"{i * j % 97} times {j}" for j in range(4 + i % 13)) for i in range(80)]
    (folder / "text.jsonl").write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    return folder


def arguments(base: Path, **changes: Any) -> list[str]:
    """The command line of a tiny run: two layers, 32 channels, 64 tokens a step."""
    flags: dict[str, Any] = {
        "base-dir": base, "data": base / "text.jsonl", "depth": 2, "aspect-ratio": 16, "head-dim": 16,
        "max-seq-len": 32, "device-batch-size": 2, "total-batch-size": 64, "num-iterations": 30, "eval-every": 10,
        "eval-tokens": 128, "sample-every": -1, "save-every": 7, "dtype": "float32", "compile": "off", "lr-scale": 1,
        "warmup-steps": 5, "device-type": "cpu",
    }  # fmt: skip
    flags |= {name.replace("_", "-"): value for name, value in changes.items()}
    words = [
        [f"--{name}"] if value is True else [f"--{name}={value}"] for name, value in flags.items() if value is not None
    ]
    return [word for pair in words for word in pair]


def first_batches(open_loader: Callable[[], Any], count: int) -> Callable[[], Iterator[Any]]:
    """The first `count` batches of a loader that is opened anew at every call and closed behind them."""

    def batches() -> Iterator[Any]:
        loader = open_loader()
        try:
            for _ in range(count):
                yield loader.next_batch()
        finally:
            loader.close()

    return batches


def last(records: Iterator[StepRecord]) -> StepRecord:
    """The last record of a run."""
    return list(records)[-1]


def run(base: Path, capsys: pytest.CaptureFixture[str], **changes: Any) -> tuple[int, str, str]:
    """base_train in this process: its status, output and messages."""
    capsys.readouterr()
    status = exit_status("base_train", lambda: base_train.main(arguments(base, **changes)))
    return status, *capsys.readouterr()
