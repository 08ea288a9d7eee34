"""Where an interrupted run stands: the last good checkpoint, what is left, how long that takes, and in which phase of
the learning rate it is.

The last good checkpoint is the last one whose files are all there and whole. A later one that is broken is named with
its fault, so that nobody wonders why it was passed over.
"""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import polars as pl

from nanochat import paths
from nanochat.analysis.training_dashboard import History, open_run, phase_at, schedule_of, steps_in_all
from nanochat.checkpoint_files import (
    CheckpointError,
    location,
    meta_name,
    model_name,
    optimizer_files,
    rank_files,
)
from nanochat.checkpoint_manager import Verification, read_meta, verify
from nanochat.checkpoint_runs import existing_step, list_steps
from nanochat.metrics import MetricsError
from nanochat.metrics_meta import optimizer_rates, stage_of

SETTINGS = (
    "device_batch_size", "total_batch_size", "max_seq_len", "learning_rate", "matrix_lr", "embedding_lr",
    "unembedding_lr", "weight_decay", "warmup_steps", "warmdown_ratio", "num_iterations", "minutes", "data",
)  # fmt: skip
LATE = 200  # of the last steps, whose speed counts


class ResumeError(ValueError):
    """A run that cannot be resumed, or a wish about it that cannot be: one sentence."""


@dataclass(frozen=True)
class Report:
    """What is known of a run that is to go on."""

    folder: Path
    stage: str
    step: int  # the checkpoint to go on from
    files: tuple[str, ...]  # names: model, meta, then what the ranks saved
    optimizer: tuple[str, ...]  # names of the optimizer files; empty where none was saved
    loader: bool  # the place in the text was saved too
    skipped: tuple[str, ...]  # later steps that cannot be used, a sentence each
    verification: Verification
    meta: Mapping[str, Any] = field(repr=False)
    settings: Mapping[str, Any]  # of SETTINGS those that are known
    val_bpb: float | None
    train_loss: float | None
    target: int | None  # steps in all
    target_reason: str
    target_seconds: float | None  # where the end is a time
    remaining: int | None
    progress: float | None  # 0 to 1
    phase: str | None  # warmup, stable, warmdown
    step_seconds: float | None
    speed_reason: str
    remaining_seconds: float | None
    lost: int | None  # updates that were made after the checkpoint and have to be made again
    ranks: int  # processes that saved it
    ours: bool  # saved by this project
    insights: tuple[str, ...]


def inspect(folder: str | Path, step: int | None = None, target: int | None = None, full: bool = False) -> Report:
    """The state of a run. step: instead of the last good one. target: steps in all. full: every byte is checked.

    Raises:
        CheckpointError: no such folder or step, or no step that can be used.
        ResumeError: a target that cannot be.
    """
    folder = paths.expand(folder)
    if target is not None and not 0 < target < 1 << 62:
        raise ResumeError(f"a target of {target} steps cannot be; give a whole number above 0")
    chosen, verification, skipped = _last_good(folder, step, full)
    meta = read_meta(folder / meta_name(chosen))
    history = _history(folder)
    steps, reason, seconds = _target(meta, history, target)
    ours = (meta.get("lab") or {}).get("training") or {}
    step_seconds, speed_reason = _speed(meta, history)
    elapsed = ours.get("time")
    remaining: int | None
    progress: float | None
    remaining_seconds: float | None
    if steps is None and seconds is not None and step_seconds and isinstance(elapsed, int | float):
        remaining_seconds = max(seconds - elapsed, 0.0)
        remaining, progress = round(remaining_seconds / step_seconds), min(elapsed / seconds, 1.0)
    else:
        remaining = None if steps is None else max(steps - chosen, 0)
        progress = None if steps is None else min(chosen / steps, 1.0)
        remaining_seconds = None if remaining is None or not step_seconds else remaining * step_seconds
    schedule = schedule_of(meta)
    phase = phase_at(schedule, chosen, steps) if schedule is not None and steps else _phase_told(history, chosen)
    optimizer = optimizer_files(folder, chosen)
    ranks = ours.get("world_size") or max(len(optimizer), 1)
    last = _updates(history)
    report = Report(
        folder, stage_of(folder.absolute()) or "base", chosen,
        (model_name(chosen), meta_name(chosen), *(path.name for path in rank_files(folder, chosen))),
        tuple(path.name for path in optimizer), any(p.name.startswith("loader_") for p in rank_files(folder, chosen)),
        skipped, verification, meta, _settings(meta, optimizer), _finite(meta.get("val_bpb")), _loss(history, chosen),
        steps, reason, seconds, remaining, progress, phase, step_seconds, speed_reason, remaining_seconds,
        None if last is None else max(last - chosen, 0), int(ranks), "lab" in meta, (),
    )  # fmt: skip
    return replace(report, insights=_insights(report))


def _last_good(folder: Path, step: int | None, full: bool) -> tuple[int, Verification, tuple[str, ...]]:
    """(step, how it was checked, what is wrong with the later ones)."""
    if step is not None:
        step = existing_step(folder, step)
        return step, verify(folder, step, full), ()
    steps, problems = list_steps(folder)
    skipped = list(problems)
    for candidate in reversed(steps):
        found = verify(folder, candidate, full)
        if found.ok:
            later = [text for text in skipped if _step_of(text) is None or _step_of(text) > candidate]  # type: ignore[operator]
            return candidate, found, tuple(later)
        skipped += [f"step {candidate}: {problem}" for problem in found.problems]
    why = f" ({skipped[-1]})" if skipped else ""
    raise CheckpointError(
        f"{location(folder)}: no checkpoint that can be used{why}; start the run again, or name the folder of another"
    )


def _step_of(problem: str) -> int | None:
    """The step that a sentence of `list_steps` begins with."""
    word = problem.removeprefix("step ").partition(":")[0]
    return int(word) if word.isascii() and word.isdigit() else None


def _history(folder: Path) -> History | None:
    try:
        return open_run(folder)
    except MetricsError:
        return None  # no curve: then target and speed come from the meta file, or are said to be unknown


def _target(
    meta: Mapping[str, Any], history: History | None, asked: int | None
) -> tuple[int | None, str, float | None]:
    """(steps in all, how that is known, seconds in all where the end is a time)."""
    if asked is not None:
        return asked, "as asked", None
    horizon = (meta.get("lab") or {}).get("horizon") or {}
    if horizon.get("seconds"):
        return (
            None,
            f"the run has a budget of {horizon['seconds']:,.0f} seconds, not a number of steps",
            horizon["seconds"],
        )
    if history is not None:
        return *history.target, None
    return *steps_in_all(None, meta, {}, None), None


def _speed(meta: Mapping[str, Any], history: History | None) -> tuple[float | None, str]:
    """(seconds an update, how that is known)."""
    if history is not None:
        rows = history.frame.drop_nulls("time").tail(LATE)
        if rows.height >= 5:
            pace = rows.select((pl.col("time").diff() / pl.col("step").diff()).alias("pace")).drop_nulls()["pace"]
            median = pace.filter(pace > 0).median()
            if isinstance(median, float):
                return median, f"median of its last {len(pace):,} steps, evaluations and saves apart"
    ours = ((meta.get("lab") or {}).get("training") or {}).get("step_seconds")
    if isinstance(ours, int | float) and ours > 0:
        return float(ours), "recorded with the checkpoint"
    spent, step = (meta.get("loop_state") or {}).get("total_training_time"), meta.get("step")
    if isinstance(spent, int | float) and spent > 0 and isinstance(step, int) and step > 11:
        return spent / (step - 11), "training time in the meta file, which leaves out the first eleven steps"
    return None, "no source tells how long an update took"


def _phase_told(history: History | None, step: int) -> str | None:
    """The phase by what the run printed about its rates."""
    if history is None:
        return None
    from nanochat.analysis.training_dashboard import marks

    ends = {mark.kind: mark.step for mark in marks(history)}
    if history.frame["lr_multiplier"].drop_nulls().is_empty() and not ends.keys() & {"warmup_end", "warmdown_start"}:
        return None
    if step >= ends.get("warmdown_start", step + 1):
        return "warmdown"
    return "warmup" if step < ends.get("warmup_end", 0) else "stable"


def _settings(meta: Mapping[str, Any], optimizer: list[Path]) -> dict[str, Any]:
    """What the run was started with; the learning rate of the matrices is that of the last update."""
    user = meta.get("user_config") or {}
    known = {name: meta.get(name, user.get(name)) for name in SETTINGS}
    if known["learning_rate"] is None:
        ours = (meta.get("lab") or {}).get("training") or {}
        known["learning_rate"] = ours.get("learning_rate")
    if known["learning_rate"] is None and optimizer:
        with contextlib.suppress(CheckpointError):  # its fault stands in the verification
            known["learning_rate"] = optimizer_rates(optimizer[0]).get("matrix")
    return {name: value for name, value in known.items() if value is not None and value != -1}


def _updates(history: History | None) -> int | None:
    """How many updates were made, as far as anything tells: a row with a loss is an update beyond its step."""
    if history is None or history.last is None:
        return None
    made = losses_of(history).select("step", "source").sort("step")
    if made.is_empty():
        return history.last
    step, source = made.row(-1)
    done = source != "metrics" and history.stage in ("mid", "sft")  # nanochat's fine-tuning prints the updates done
    return max(history.last, int(step) + (not done))


def losses_of(history: History) -> pl.DataFrame:
    """The updates of a run with their losses: step, loss, source. A meta file has that of the update before it."""
    rows = history.rows.filter((pl.col("source") != "meta") & (pl.col("kind") == "step") & ~pl.col("superseded"))
    return (
        rows.select("step", "source", loss="train_loss").drop_nulls().unique("step", keep="first", maintain_order=True)
    )


def _loss(history: History | None, step: int) -> float | None:
    if history is None:
        return None
    rows = history.frame.filter(pl.col("step") <= step)
    single = rows["train_loss"].drop_nulls()
    known = single if len(single) else rows["smooth_loss"].drop_nulls()  # some logs print the average alone
    return float(known[-1]) if len(known) else None


def _insights(report: Report) -> tuple[str, ...]:
    """What a learner should see in these figures."""
    said = []
    if report.progress is not None and report.progress >= 1:
        said.append("The run is complete: there is nothing left to resume, unless you give it a longer end")
    elif report.phase == "warmdown":
        said.append("In the warmdown: the learning rate falls, so going on must take the very schedule of the run")
    elif report.phase == "warmup":
        said.append("Still warming up: so little was done that starting again costs about the same")
    elif report.phase == "stable":
        said.append("Still in main training phase")
    if report.progress is not None and report.progress < 1:
        said.append(f"Approximately {100 * (1 - report.progress):.0f}% of training remaining")
    if not report.optimizer:
        said.append("No optimizer file: the weights can be trained further, and the curve will jump at first, because "
                    "momentum starts at zero")  # fmt: skip
    elif not report.loader:
        said.append("No place in the text was saved, as by nanochat: the run goes on near it, and some documents are "
                    "read twice or not at all")  # fmt: skip
    if report.lost:
        many = "update is" if report.lost == 1 else "updates are"
        said.append(f"{report.lost:,} {many} younger than this checkpoint: lost, and to be made again")
    return tuple(said)


def _finite(value: Any) -> float | None:
    return float(value) if type(value) in (int, float) and abs(value) < 1e300 else None
