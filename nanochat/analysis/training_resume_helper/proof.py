"""Proof of resume: go on from a checkpoint in a scratch folder for some updates, and lay them over the original curve.

A checkpoint with the place in the text gives the very same losses again. One of nanochat's has none, so its losses are
of other documents: then the two curves must not differ by more than such losses vary anyway. In both cases the
optimizer's memory must not be empty: weights alone begin at the same loss and go astray afterwards.

    nanochat training_resume_helper base_checkpoints/d20 --step 2500 --prove 10
"""

import contextlib
import json
import math
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from nanochat import paths
from nanochat.analysis.training_dashboard import open_run
from nanochat.analysis.training_resume_helper.commands import SCRIPTS, optimizer_kind, ways
from nanochat.analysis.training_resume_helper.report import Report, ResumeError, losses_of
from nanochat.checkpoint_files import meta_name, model_name, rank_files, shown
from nanochat.checkpoint_manager import load_checkpoint
from nanochat.dataset import SHARD_FOLDERS
from nanochat.metrics import MetricsError
from nanochat.sft_base import base_tag
from nanochat.tokenizer_files import JSON_NAME

ROUNDING = 1e-4  # of a loss: what another order of sums, or six printed decimals, may change
NOISE = 3.0  # standard errors that two curves over different text may lie apart
MOST_STEPS = 1_000
PATIENCE = 540.0  # seconds that the scratch run may take
PROJECT = Path(__file__).parents[3]
PAIRS = {"step": pl.Int64, "original": pl.Float64, "resumed": pl.Float64}


@dataclass(frozen=True)
class Proof:
    """What resuming gave, beside what the run itself had."""

    verdict: str  # exact, close, near or no
    sentence: str
    frame: pl.DataFrame  # columns of PAIRS
    before: pl.DataFrame  # step, loss: the original curve up to the checkpoint, for the chart
    command: str  # what was run in the scratch folder

    @property
    def holds(self) -> bool:
        """Whether the run goes on."""
        return self.verdict != "no"


@dataclass(frozen=True)
class Again:
    """An update that was made once more: how far a proof or a drill has come."""

    step: int
    loss: float
    done: int
    of: int


def prove(report: Report, steps: int = 10, patience: float = PATIENCE) -> Proof:
    """Resume for some updates in a folder of its own, which is removed, and compare; raises what `proving` does."""
    *_, proof = proving(report, steps, patience)
    assert isinstance(proof, Proof)
    return proof


def proving(report: Report, steps: int = 10, patience: float = PATIENCE) -> Iterator[Again | Proof]:
    """The same with each update as it is made; the proof comes last. The run itself is only read.

    Raises:
        ResumeError: there is no way to resume, nothing to compare with, or the resumed run broke off.
        CheckpointError: the checkpoint cannot be read.
    """
    curve, original = compared(report, steps)
    empty = memory_is_empty(report)
    with tempfile.TemporaryDirectory(prefix="nanochat-proof-") as scratch:
        arguments = _arguments(report, Path(scratch))
        wanted = int(original["step"][-1]) - report.step + 1
        losses = {}
        for step, loss in _losses(SCRIPTS[report.stage], arguments, wanted, patience):
            losses[step] = loss
            yield Again(step, loss, len(losses), wanted)
    pairs = original.rename({"loss": "original"}).with_columns(
        resumed=pl.col("step").replace_strict(losses, default=None, return_dtype=pl.Float64)
    )
    before = curve.filter(pl.col("step") < report.step)
    verdict, sentence = judge(pairs, before, report.loader, empty)
    typed = shlex.join(["nanochat", SCRIPTS[report.stage], *arguments])
    yield Proof(verdict, sentence, pairs.select(list(PAIRS)), before, typed)


def compared(report: Report, steps: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """(the losses of the run, those of them that a proof makes again): step, loss.

    Raises:
        ResumeError: there is no way to resume, or nothing to compare with.
    """
    if not 1 <= steps <= MOST_STEPS:
        raise ResumeError(f"{steps} updates cannot be a proof; give 1 to {MOST_STEPS:,}")
    way = ways(report)[0]
    if way.command is None:
        raise ResumeError(f"step {report.step} cannot be resumed: {way.reason}")
    try:
        curve = losses_of(open_run(report.folder)).select("step", "loss").sort("step")
    except MetricsError as error:
        raise ResumeError(str(error)) from None
    original = curve.filter(pl.col("step") >= report.step).head(steps)
    if original.is_empty():
        raise ResumeError(
            f"there is no loss of step {report.step} or later to compare with; choose an earlier checkpoint (--step), "
            "or put the run's log into its folder"
        )
    return curve, original


def judge(pairs: pl.DataFrame, before: pl.DataFrame, same_text: bool, empty: bool) -> tuple[str, str]:
    """(verdict, in words). pairs: columns of PAIRS. before: step and loss of the run up to the checkpoint.

    same_text: the place in the text was saved. empty: the optimizer's memory is all zeros.
    """
    if empty:
        return "no", (
            "No: the optimizer's memory is all zeros. The weights are there, but momentum and second moments are not, "
            "so the run would start astray; take another checkpoint."
        )
    known = pairs.drop_nulls()
    if known.is_empty():
        return "no", "No: the resumed run made no update that the original has too."
    apart = (known["resumed"] - known["original"]).abs()
    worst, count = float(apart.max()), len(known)  # type: ignore[arg-type]
    at = int(known["step"][apart.arg_max() or 0])
    if worst == 0:
        return "exact", f"Yes, exactly: all {count} losses are the same to the last bit."
    scale = float(known["original"].abs().mean()) or 1.0  # type: ignore[arg-type]
    if worst <= ROUNDING * scale:
        return "close", f"Yes: {count} losses agree to {worst:.1g}, which rounding explains."
    if same_text:
        return "no", (
            f"No: at step {at:,} the loss is {worst:.4f} away from the original, on the same text. Something of the "
            "run's state is missing or changed; take another checkpoint."
        )
    noise = _noise(before, known)
    difference = float((known["resumed"] - known["original"]).mean())  # type: ignore[arg-type]
    allowed = NOISE * noise * math.sqrt(2 / count)
    words = (
        f"on average {difference:+.3f} over {count} updates, where other documents alone explain up to {allowed:.3f}"
    )
    if abs(difference) <= allowed:
        return "near", f"Yes, near: nanochat saved no place in the text, so the documents differ; {words}."
    return "no", f"No: the curves lie apart, {words}. Something of the run's state is missing."


def _noise(before: pl.DataFrame, known: pl.DataFrame) -> float:
    """How much single losses vary: from one step to the next, so that the trend does not count."""
    losses = pl.concat([before.tail(100)["loss"], known["original"]])
    spread = losses.diff().drop_nulls().std()
    return float(spread) / math.sqrt(2) if isinstance(spread, float) and spread > 0 else 0.0


def memory_is_empty(report: Report) -> bool:
    """Whether the saved optimizer remembers nothing: every average in it is zero.

    Raises:
        CheckpointError: the file cannot be read.
    """
    if report.step == 0 or not report.optimizer:
        return False
    _, state, _ = load_checkpoint(report.folder, report.step, "cpu", load_optimizer=True)
    averages = list(_averages(state))
    return bool(averages) and not any(bool(average.any()) for average in averages)


def _averages(tree: Any) -> Iterator[Any]:
    """The tensors of first moments in an optimizer state of any era."""
    if isinstance(tree, dict):
        for name, value in tree.items():
            if name in ("exp_avg", "momentum_buffer") and hasattr(value, "any"):
                yield value
            else:
                yield from _averages(value)
    elif isinstance(tree, list | tuple):
        for value in tree:
            yield from _averages(value)


def _arguments(report: Report, scratch: Path) -> list[str]:
    """The run copied to a scratch base dir, and the flags that go on with it there: same text, tokenizer and end."""
    folder, tag = report.folder.absolute(), report.folder.name
    base_dir = folder.parent.parent
    there = scratch / folder.parent.name / tag
    there.mkdir(parents=True)
    _copy(folder, there, [*report.files, JSON_NAME])
    tokenizer = folder if (folder / JSON_NAME).is_file() else base_dir / "tokenizer"
    arguments = ["--base-dir", str(scratch), "--resume", "--json", "--eval-every", "-1"]
    if report.stage == "base":
        arguments += ["--model-tag", tag, "--sample-every", "-1", "--tokenizer-dir", str(tokenizer)]
        named = (report.meta.get("user_config") or {}).get("data") if report.ours else None
        shards = next((str(base_dir / name) for name in SHARD_FOLDERS if (base_dir / name).is_dir()), None)
        if named or shards:
            arguments += ["--data", str(named or shards)]
    if report.stage == "sft":
        arguments += ["--model-tag", _copy_base(report, scratch), "--output-tag", tag]
    kind = optimizer_kind(report)
    if not report.ours and kind is not None:
        arguments += ["--optimizer", kind[0]]
    return arguments


def _copy_base(report: Report, scratch: Path) -> str:
    """The step of the pretrained run that fine-tuning began with, for it is opened again; returns the run's name."""
    tag = base_tag(report.meta)
    step = None if tag is None else report.meta["lab"]["base"].get("step")
    if tag is None or type(step) is not int:
        raise ResumeError(f"step {report.step} does not say which pretrained run it came from; no proof without it")
    places = [report.folder.absolute().parent.parent, *(root.path for root in paths.roots())]
    folders = [paths.run_folder(place, "base", tag) for place in places]
    found = next((folder for folder in folders if (folder / model_name(step)).is_file()), None)
    if found is None:
        raise ResumeError(f"the pretrained run {shown(tag)!r} with its step {step}, from which this one began, is gone")
    there = scratch / "base_checkpoints" / tag
    there.mkdir(parents=True)
    _copy(found, there, [model_name(step), meta_name(step), JSON_NAME, *(p.name for p in rank_files(found, step))])
    return tag


def _copy(folder: Path, there: Path, names: Sequence[str]) -> None:
    for name in names:
        if (folder / name).is_file():
            shutil.copyfile(folder / name, there / name)


def _losses(script: str, arguments: Sequence[str], count: int, patience: float) -> Iterator[tuple[int, float]]:
    """(step, loss) of the first updates of a script, which is then ended."""
    with tempfile.TemporaryFile() as said, ended(start(script, arguments, said), patience) as process:
        assert process.stdout is not None
        for line in process.stdout:
            record = record_of(line)
            if record is not None and isinstance(record.get("train_loss"), int | float):
                yield int(record["step"]), float(record["train_loss"])
                count -= 1
            if count <= 0:
                return
        process.wait()
        said.seek(0)
        words = said.read().decode("utf-8", "replace").strip().splitlines()
        if process.returncode:
            reason = shown(words[-1] if words else f"exit status {process.returncode}", 400)
            raise ResumeError(f"the resumed run broke off: {reason.removeprefix(f'{script}: ')}")


def start(script: str, arguments: Sequence[str], said: Any) -> "subprocess.Popen[bytes]":
    """A script of ours in a process group of its own; what it says to people goes to the file `said`."""
    own: dict[str, Any] = {"start_new_session": True} if sys.platform != "win32" else {}
    return subprocess.Popen(
        [sys.executable, "-m", f"nanochat.scripts.{script}", *arguments], cwd=PROJECT, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=said, **own,
    )  # fmt: skip


@contextlib.contextmanager
def ended(process: "subprocess.Popen[bytes]", patience: float) -> Iterator["subprocess.Popen[bytes]"]:
    """The process until the block is left, at most so many seconds: then it and all it started are killed."""
    timer = threading.Timer(patience, kill, (process,))
    timer.start()
    try:
        yield process
    finally:
        timer.cancel()
        kill(process)
        if process.stdout is not None:
            process.stdout.close()


def kill(process: "subprocess.Popen[bytes]") -> None:
    """End a process and its group as a power cut would."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            if sys.platform == "win32":
                process.kill()
            else:
                os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def record_of(line: bytes) -> dict[str, Any] | None:
    """A line of a script as the record of a step; None where it is something else."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and isinstance(record.get("step"), int) else None
