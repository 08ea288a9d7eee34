"""A drill: a small training is killed in the middle, as by a power cut, and recovered.

Nobody believes in a backup that was never restored. So this makes a run in a scratch folder, kills it without warning,
says what is left on the disk, goes on, and compares the updates that were made twice: they must agree to the bit.

    nanochat training_resume_helper --drill
    nanochat training_resume_helper --drill kill --scratch drill      # and then, what would you do?
    nanochat training_resume_helper --drill recover --scratch drill
"""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from nanochat.analysis.training_resume_helper.proof import PAIRS, Again, ended, judge, kill, record_of, start
from nanochat.analysis.training_resume_helper.report import Report, ResumeError, inspect
from nanochat.checkpoint_files import location, shown

STEPS, SAVE_EVERY, KILLED_AT = 60, 20, 47
TAG = "drill"
PATIENCE = 240.0
MODEL = (
    "--depth", "2", "--aspect-ratio", "16", "--head-dim", "16", "--max-seq-len", "64", "--device-batch-size", "4",
    "--total-batch-size", "256", "--data", "stories", "--compile", "off", "--dtype", "float32",
)  # fmt: skip


@dataclass(frozen=True)
class Scene:
    """One part of the drill."""

    title: str
    sentence: str
    command: str  # what was run, as typed in a terminal
    report: Report | None = None  # what was found after the kill
    frame: pl.DataFrame | None = None  # the losses that were computed twice; columns of proof.PAIRS
    holds: bool | None = None  # whether it was recovered; None before the end


def drill(scratch: str | Path) -> Iterator[Scene]:
    """Train, kill, look, go on, compare; a scene after each. scratch: an empty folder.

    Raises:
        ResumeError: a part of it broke off.
    """
    for part in (train_and_kill, recover):
        yield from (scene for scene in part(scratch) if isinstance(scene, Scene))


def train_and_kill(scratch: str | Path) -> Iterator[Scene | Again]:
    """A tokenizer, a training that is killed, and what it leaves; in between each update.

    Raises:
        ResumeError: the folder is not empty, or a part of it broke off.
    """
    base = Path(scratch)
    if base.exists() and (not base.is_dir() or any(base.iterdir())):
        raise ResumeError(f"{location(base)} is not empty; a drill needs a folder of its own, empty or new")
    tokenizer = ["--data", "stories", "--vocab-size", "512", "--base-dir", str(base)]
    for _ in _run("tok_train", tokenizer, None):
        pass
    arguments = _arguments(base)
    yield Scene("A training begins", f"It is to make {STEPS} updates and saves every {SAVE_EVERY}.", _typed(arguments))
    losses: dict[int, float] = {}
    for step, loss in _run("base_train", arguments, KILLED_AT):
        losses[step] = loss
        yield Again(step, loss, len(losses), KILLED_AT)
    (base / "killed.txt").write_text("\n".join(f"{step} {loss!r}" for step, loss in losses.items()))
    report = inspect(base / "base_checkpoints" / TAG)
    yield Scene(
        "Power cut", f"The process was killed after update {max(losses) + 1}, without a word. On the disk is the "
        f"checkpoint of step {report.step}; {report.lost or 0} updates after it are lost.", "kill -9", report,
    )  # fmt: skip


def recover(scratch: str | Path) -> Iterator[Scene | Again]:
    """Go on with the killed training and compare what was computed twice; in between each update.

    Raises:
        ResumeError: no training was killed in this folder, or it broke off again.
    """
    base = Path(scratch)
    try:
        lines = (base / "killed.txt").read_text().splitlines()
    except OSError:
        raise ResumeError(f"{location(base)}: no training was killed here; begin with --drill kill") from None
    killed = {int(step): float(loss) for step, loss in (line.split() for line in lines)}
    arguments = ["--base-dir", str(base), "--model-tag", TAG, "--resume", "--json"]
    again: dict[int, float] = {}
    for step, loss in _run("base_train", arguments, None):
        again[step] = loss
        yield Again(step, loss, len(again), max(STEPS - min(again), 1))
    twice = [(step, loss, again[step]) for step, loss in sorted(killed.items()) if step in again]
    frame = pl.DataFrame(twice, PAIRS, orient="row")
    verdict, sentence = judge(frame, pl.DataFrame(schema={"step": pl.Int64, "loss": pl.Float64}), True, False)
    done = max(again, default=-1) + 1
    complete = f" It then went on to update {done} of {STEPS}."
    yield Scene(
        "Recovered" if verdict != "no" else "Not recovered", sentence + complete, _typed(arguments),
        inspect(base / "base_checkpoints" / TAG), frame, verdict != "no" and done == STEPS,
    )  # fmt: skip


def _arguments(base: Path) -> list[str]:
    length = ["--num-iterations", str(STEPS), "--save-every", str(SAVE_EVERY), "--eval-every", "-1"]
    place = ["--base-dir", str(base), "--model-tag", TAG, "--json"]
    return [*place, *MODEL, *length, "--sample-every", "-1"]


def _run(script: str, arguments: list[str], kill_at: int | None) -> Iterator[tuple[int, float]]:
    """(step, loss) of a script until it ends, or until it is killed after so many updates."""
    with tempfile.TemporaryFile() as said, ended(start(script, arguments, said), PATIENCE) as process:
        assert process.stdout is not None
        made = 0
        for line in process.stdout:
            record = record_of(line)
            if record is None or not isinstance(record.get("train_loss"), int | float):
                continue
            made += 1
            if made == kill_at:
                kill(process)  # before anybody looks at this update, while the next one is being made
            yield int(record["step"]), float(record["train_loss"])
            if made == kill_at:
                return
        process.wait()
        said.seek(0)
        words = said.read().decode("utf-8", "replace").strip().splitlines()
        if process.returncode:
            raise ResumeError(f"the drill's {script} broke off: {shown(words[-1] if words else 'no word', 300)}")


def _typed(arguments: list[str]) -> str:
    return " ".join(["nanochat", "base_train", *arguments])
