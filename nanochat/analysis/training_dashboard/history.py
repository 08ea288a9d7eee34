"""The whole history of one run as one table, a row a step, from every file that speaks of it.

Our runs keep metrics.jsonl. nanochat's keep nothing but meta files; what else is known stands in logs, wherever the
shell put them. A log of a base dir belongs to a run if the figures that it printed at the saved steps are those of the
run's meta files: names say nothing, and a log of another run would draw another run's curve.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import polars as pl

from nanochat import durable, metrics, paths
from nanochat.analysis.training_dashboard.horizon import steps_in_all
from nanochat.checkpoint_files import CheckpointError, find_optimizer, location, meta_name, shown
from nanochat.checkpoint_manager import read_meta
from nanochat.checkpoint_runs import list_steps
from nanochat.metrics import MetricsError, Section
from nanochat.metrics_meta import optimizer_rates, stage_of
from nanochat.records import METRICS_NAME

Found = TypeVar("Found")
RANK = {"metrics": 0, "log": 1, "wandb": 2, "meta": 3}  # where two sources know a figure, the first speaks
MEASURED = (
    *("time", "tokens", "flops", "train_loss", "smooth_loss", "val_bpb", "val_loss", "learning_rate", "lr_multiplier"),
    *("grad_norm", "tokens_per_second", "mfu", "core", "reward", "total_steps"),
)
COLUMNS = ("step", *MEASURED, "events", "source", "file", "line")
CLOSE = 6e-5  # logs print four decimals or six
MAX_RATES = 20  # optimizer files that are opened for their learning rates
LIVE_SECONDS = 30.0  # a file that was written to so lately is being written


@dataclass(frozen=True)
class History:
    """What is known of one run."""

    name: str  # for a legend
    folder: Path | None  # None where a log file is all there is
    stage: str | None
    frame: pl.DataFrame  # COLUMNS; one row a step, smallest first
    rows: pl.DataFrame  # the rows it was made of, each with its source; columns of metrics.SCHEMA
    checkpoints: tuple[int, ...]  # complete saved steps
    model: Mapping[str, Any]  # model_config, {} where nothing tells
    meta: Mapping[str, Any]  # of the last readable step, {} where there is none
    facts: Mapping[str, Any]  # what the logs say beside their rows
    notes: tuple[str, ...]  # where the figures come from, a sentence each
    problems: tuple[str, ...]  # what could not be read
    live: bool = False  # somebody is writing to it
    missing: Mapping[str, str] = field(default_factory=dict)  # column -> why it is empty
    memo: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)  # what was worked out of it; see kept

    @property
    def last(self) -> int | None:
        """The last step that anything speaks of."""
        return None if self.frame.is_empty() else int(self.frame["step"][-1])

    @property
    def horizon(self) -> int | None:
        """The step of the run's end, where that is known."""
        return self.target[0]

    @property
    def target(self) -> tuple[int | None, str]:
        """The step of the run's end, and how that is known."""
        printed = self.frame["total_steps"].drop_nulls()
        return steps_in_all(self.stage, self.meta, self.facts, int(printed[-1]) if len(printed) else None)


def kept(history: History, name: str, work: Callable[[History], Found]) -> Found:
    """What `work` makes of a run, worked out once: a page asks again at every touch, and a long run takes a while."""
    if name not in history.memo:
        history.memo[name] = work(history)
    found: Found = history.memo[name]
    return found


def open_run(
    folder: str | Path, logs: Sequence[str | Path] = (), name: str | None = None, files: metrics.Files | None = None
) -> History:
    """The run in a folder. logs: files to read beside what is found by itself. files: what was read before.

    Raises:
        MetricsError: the folder holds nothing of a run, or a named log nothing of this run.
    """
    folder = paths.expand(folder)
    try:
        steps, problems = list_steps(folder)
    except CheckpointError as error:
        raise MetricsError(str(error)) from None
    stage, files = stage_of(folder.absolute()), files or metrics.Files()
    notes: list[str] = []
    said = list(problems)
    try:
        own = metrics.read(folder, files=files)
        frames, facts = [own.frame], _facts(own.sections)
        said += [text for text in own.problems if text not in said and not any(text in one for one in problems)]
    except MetricsError as error:
        if not steps and not problems and not logs:
            raise
        frames, facts = [], {}
        said.append(str(error))
    meta = _last_meta(folder, steps)
    saved = frames[0].filter(pl.col("source") == "meta") if frames else pl.DataFrame(schema=metrics.SCHEMA)
    elsewhere = [found.path for found in metrics.find_logs(folder) if found.path.parent != folder]
    named = [paths.expand(log) for log in logs]
    for path in [*elsewhere, *named]:
        try:
            read = metrics.read(path, files=files)
        except MetricsError as error:
            if path in named:
                raise
            said.append(str(error))
            continue
        kept, why = _belonging(read, saved, stage, steps, meta, named=path in named)
        if kept is None:
            if path in named:
                raise MetricsError(f"{location(path)}: this is no log of {location(folder)}: {why}")
            continue
        frames = [*_before(kept, frames), kept]
        facts |= _facts([s for s in read.sections if s.run in kept["run"].unique()])
        notes.append(f"{location(path)}: read as a log of this run, because {why}")
    rows = pl.concat(frames) if frames else pl.DataFrame(schema=metrics.SCHEMA)
    if rows.is_empty():
        raise MetricsError(said[0] if said else f"{location(folder)}: nothing in it speaks of a training")
    rows, more = _with_rates(rows, folder, steps)
    frame = merged(rows)
    model = meta.get("model_config") or facts.get("model_config") or {}
    found = History(
        name or _name(folder), folder, stage, frame, rows, steps, model, meta, facts,
        (*_said_of(rows), *notes, *more), tuple(said), missing=_missing(frame, stage, rows),
    )  # fmt: skip
    return replace(found, live=is_live(found, folder))


def open_log(path: str | Path, files: metrics.Files | None = None) -> list[History]:
    """The training runs of one log file or metrics.jsonl, in the order of the file. files: what was read before.

    Raises:
        MetricsError: it cannot be read, or no run trains in it.
    """
    path = paths.expand(path)
    label = path.parent.name if path.name in (METRICS_NAME, "output.log") else path.name
    found = runs_of(metrics.read(path, files=files), location(path), label)
    return [replace(one, live=is_live(one, path)) for one in found]


def open_upload(name: str, file: BinaryIO) -> list[History]:
    """The training runs of a file that somebody handed over, as `open_log` finds them in one on this machine.

    Raises:
        MetricsError: it cannot be read, or no run trains in it.
    """
    return runs_of(metrics.read_upload(name, file), location(Path(name)), name)


def runs_of(read: metrics.Metrics, place: str, label: str) -> list[History]:
    """The training runs among rows. place, label: what they are called in a complaint and in a legend."""
    found = []
    for run in read.frame["run"].unique(maintain_order=True).drop_nulls():
        rows = read.frame.filter(pl.col("run") == run)
        if not rows.filter(pl.col("kind").is_in(["step", "checkpoint"])).height:
            continue
        sections = [section for section in read.sections if section.run == run]
        facts, stage = _facts(sections), rows["stage"].drop_nulls().first()
        frame = merged(rows)
        found.append(
            History(
                shown(label, 60), None, str(stage) if stage else None, frame, rows, (), facts.get("model_config") or {},
                {}, facts, tuple(_said_of(rows)), read.problems,
                missing=_missing(frame, str(stage) if stage else None, rows),
            )
        )  # fmt: skip
    if not found:
        raise MetricsError(f"{place}: no training in it; name the log of a training, or the folder of a run")
    if len(found) > 1:
        return [_renamed(one, f"{one.name}: {one.stage or 'run'} {index}") for index, one in enumerate(found, 1)]
    return found


def merged(rows: pl.DataFrame) -> pl.DataFrame:
    """One row a step: of each figure the first that is known, in the order of RANK. Superseded rows are left out."""
    counted = ~pl.col("superseded") & pl.col("step").is_not_null() & (pl.col("kind") != "rollout")
    frame = rows.lazy().filter(counted).select(COLUMNS).collect()
    steps = frame["step"]
    if frame.is_empty() or (steps.is_sorted() and steps.n_unique() == frame.height):
        return frame
    order = pl.col("source").replace_strict(RANK, return_dtype=pl.Int64)
    first = [pl.col(name).drop_nulls().first() for name in (*MEASURED, "source", "file", "line")]
    events = pl.col("events").list.explode(keep_nulls=False, empty_as_null=False).unique(maintain_order=True)
    return frame.sort("step", order, maintain_order=True).group_by("step", maintain_order=True).agg(*first, events)


def _belonging(
    read: metrics.Metrics, saved: pl.DataFrame, stage: str | None, steps: Sequence[int], meta: Mapping[str, Any],
    named: bool,
) -> tuple[pl.DataFrame | None, str]:  # fmt: skip
    """(the rows of a file that are this run's, why); None where none are."""
    reason, kept = "no run of this stage in it", []
    for run in read.frame["run"].unique(maintain_order=True).drop_nulls():
        rows = read.frame.filter(pl.col("run") == run)
        if not rows["stage"].is_in([stage]).any() and not (named and rows["stage"].is_null().all()):
            continue
        agree, differ = _evidence(rows.filter(~pl.col("superseded")), saved)
        sections = [section for section in read.sections if section.run == run]
        if not _same_model(sections, meta):
            reason = "it speaks of a model of another shape"
        elif differ:
            reason = f"at {differ} of the saved steps it printed other figures than the meta files hold"
        elif agree:
            kept.append(rows)
            reason = f"its figures at {agree} saved step{'s' if agree > 1 else ''} are those of the meta files"
        elif named or {section.facts.get("saved") for section in sections} & set(steps):
            kept.append(rows)
            reason = "it was named" if named else "stage, model and saved step agree; no figure could be compared"
    return (pl.concat(kept), reason) if kept else (None, reason)


def _before(newer: pl.DataFrame, frames: Sequence[pl.DataFrame]) -> list[pl.DataFrame]:
    """Older files without what a newer one did again: a process that was resumed starts below where the last ended."""
    again = newer.filter(pl.col("events").list.contains("resumed"))["step"].min()
    if again is None:
        return list(frames)
    return [one.filter((pl.col("source") == "meta") | ~(pl.col("step") >= again)) for one in frames]


def _evidence(rows: pl.DataFrame, saved: pl.DataFrame) -> tuple[int, int]:
    """(saved steps at which a log and the meta files agree, at which they differ)."""
    # A meta file holds the average after the update; pretraining prints it on the line of the step before.
    compared = (("val_bpb", 0), ("val_loss", 0), ("smooth_loss", 1))
    printed = {
        name: dict(
            rows.filter(pl.col("step").is_in((saved["step"] - back).implode()))
            .select("step", name).drop_nulls().group_by("step").agg(name).iter_rows()
        )
        for name, back in compared
    }  # fmt: skip
    agree = differ = 0
    for row in saved.select("step", *printed).iter_rows(named=True):
        verdicts = [
            min(abs(value - row[name]) for value in there) <= CLOSE
            for name, back in compared
            if row[name] is not None and (there := printed[name].get(row["step"] - back))
        ]
        agree += bool(verdicts) and all(verdicts)
        differ += bool(verdicts) and not all(verdicts)
    return agree, differ


def _same_model(sections: Sequence[Section], meta: Mapping[str, Any]) -> bool:
    ours = meta.get("model_config") or {}
    for section in sections:
        theirs = section.facts.get("model_config")
        if isinstance(theirs, dict) and any(ours.get(key, value) != value for key, value in theirs.items()):
            return False
    return True


def _with_rates(rows: pl.DataFrame, folder: Path, steps: Sequence[int]) -> tuple[pl.DataFrame, list[str]]:
    """Learning rates where no source has them: of the optimizer files, and from one of them for every step of a log."""
    is_step = pl.col("kind") == "step"
    if rows.is_empty() or rows.select((is_step & pl.col("learning_rate").is_not_null()).any()).item():
        return rows, []
    stepped = rows.filter(is_step)
    with_file = [step for step in steps if find_optimizer(folder, step) is not None]
    spread = with_file[:: max(len(with_file) // MAX_RATES, 1)]
    known: dict[int, float] = {}
    for step in dict.fromkeys([*spread, *with_file[-1:]]):
        path = find_optimizer(folder, step)
        try:
            rate = optimizer_rates(path).get("matrix") if path is not None else None
        except CheckpointError:
            continue  # the integrity of files is told elsewhere; here one of them has no figure to give
        if rate is not None:
            known[step] = rate
    if not known:
        return rows, []
    at = pl.col("step").replace_strict(known, default=None, return_dtype=pl.Float64)
    rows = rows.with_columns(
        learning_rate=pl.when(pl.col("source") == "meta").then(at).otherwise(pl.col("learning_rate"))
    )
    notes = ["learning rates at saved steps: from the optimizer files, of the update before"]
    factors = dict(stepped.drop_nulls("lr_multiplier").select("step", "lr_multiplier").iter_rows())
    pairs = [(factors[step - 1], rate) for step, rate in known.items() if factors.get(step - 1, 0.0) > 0.1]
    if pairs:
        factor, rate = max(pairs)
        full = rate / factor
        printed = (pl.col("kind") == "step") & pl.col("learning_rate").is_null()
        rows = rows.with_columns(
            learning_rate=pl.when(printed).then(full * pl.col("lr_multiplier")).otherwise(pl.col("learning_rate"))
        )
        notes.append(
            f"learning rates of the other steps: {full:.6g}, the full rate by an optimizer file, times the factor that "
            "the log prints with two decimals"
        )
    return rows, notes


def _missing(frame: pl.DataFrame, stage: str | None, rows: pl.DataFrame) -> dict[str, str]:
    """Why a column is empty, in words that follow "unknown: "."""
    logged = bool(set(rows["source"].unique()) - {"meta"})
    log = (
        "the log of this run does not print it"
        if logged
        else "it is in the log of the training only, and no log of this run was found (--log FILE names one)"
    )
    evaluated = "the meta files hold none" if not logged else "this run was not evaluated with it"
    why = {
        "train_loss": log,
        "smooth_loss": log,
        "val_bpb": evaluated + (", as in the fine-tuning of 2025 and in RL" if stage in ("sft", "rl") else ""),
        "learning_rate": "no meta file holds it, and no optimizer file tells the full rate",
        "grad_norm": "nanochat does not print it",
        "tokens_per_second": log,
        "mfu": "the peak of the device is not known" if logged else log,
        "time": log,
        "tokens": "the batch size stands nowhere",
        "flops": "the FLOPs of a token stand in the log of pretraining only",
    }
    return {name: reason for name, reason in why.items() if frame.is_empty() or frame[name].null_count() == len(frame)}


def _said_of(rows: pl.DataFrame) -> list[str]:
    """What each file gave, a sentence each; meta files together."""
    counts = rows.group_by("source", "file", maintain_order=True).len()
    told = [
        f"{location(file)}: {count:,} rows ({source})"
        for source, file, count in counts.filter(pl.col("source") != "meta").iter_rows()
    ]
    metas = counts.filter(pl.col("source") == "meta").height
    return [*told, *([f"meta files: {metas:,} saved step{'s' if metas > 1 else ''}"] if metas else [])]


def _facts(sections: Sequence[Section]) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    for section in sections:
        facts |= section.facts
    return facts


def _last_meta(folder: Path, steps: Sequence[int]) -> dict[str, Any]:
    for step in reversed(steps):
        try:
            return read_meta(folder / meta_name(step))
        except CheckpointError:
            continue  # listed as a problem of the run already
    return {}


def _name(folder: Path) -> str:
    stage = stage_of(folder.absolute())
    return shown(f"{stage}/{folder.name}" if stage else folder.name or str(folder), 60)


def told_apart(histories: Sequence[History]) -> list[History]:
    """The same runs under names that are told apart: a legend cannot show two of one name."""
    found: list[History] = []
    for history in histories:
        name, number = history.name, 2
        if history.folder is not None and any(one.name == name for one in histories if one is not history):
            name = shown(f"{history.folder.absolute().parent.parent.name}/{name}", 100)
        base = name
        while any(one.name == name for one in found):
            name, number = f"{base} ({number})", number + 1
        found.append(_renamed(history, name))
    return found


def _renamed(history: History, name: str) -> History:
    return replace(history, name=name)


def is_live(history: History, path: Path) -> bool:
    """Whether somebody trains in a folder, or wrote a moment ago to its metrics or this file, and is not at the end."""
    file, locked = (path / METRICS_NAME, durable.is_locked(path)) if path.is_dir() else (path, False)
    over = history.last is not None and history.horizon is not None and history.last >= history.horizon
    return locked or (not over and written_lately(file))


def written_lately(path: Path) -> bool:
    """Whether a file changed within LIVE_SECONDS."""
    try:
        return 0 <= time.time() - path.stat().st_mtime < LIVE_SECONDS
    except OSError:
        return False


def stamp(path: Path) -> str:
    """What changes when a file of a run does: names, sizes and times of its files and of the logs. path: also a file"""
    try:
        files = [path] if not path.is_dir() else [*path.iterdir(), *(found.path for found in metrics.find_logs(path))]
        found = [(str(one), one.stat().st_size, one.stat().st_mtime_ns) for one in sorted(files) if one.is_file()]
    except (OSError, MetricsError):
        found = []
    return json.dumps([str(path), found])
