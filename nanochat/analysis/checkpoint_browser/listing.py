"""Every checkpoint of every run, stage and era in one table, the broken and incomplete ones with the cause.

Each folder is listed once and each meta file is read once, so ten thousand of them take about two seconds. No weights
are opened here and torch is not loaded; `inspection.py` opens one checkpoint.
"""

import datetime
import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from nanochat import paths
from nanochat.analysis.checkpoint_browser.names import folder_name
from nanochat.checkpoint_files import (
    CheckpointError,
    loader_name,
    location,
    meta_name,
    model_name,
    names_in,
    optimizer_name,
    shown,
)
from nanochat.checkpoint_meta import read_meta, recorded_files
from nanochat.paths import STAGE_FOLDERS, Root

COLUMNS: dict[str, Any] = {
    "id": pl.String,  # `stage/tag@step`, behind `root:` outside our workspace
    "root": pl.String,
    "stage": pl.String,
    "tag": pl.String,
    "step": pl.Int64,
    "val_bpb": pl.Float64,  # bits a byte; null where the meta has none
    "val_loss": pl.Float64,  # nats a token: fine-tuning of 2025 has this instead
    "layers": pl.Int64,
    "dim": pl.Int64,
    "vocab": pl.Int64,
    "context": pl.Int64,
    "size": pl.Int64,  # bytes of all files of the step
    "weights": pl.Int64,
    "optimizer": pl.Int64,
    "loader": pl.Int64,
    "optim": pl.Boolean,  # whether an optimizer file is there
    "ranks": pl.Int64,  # optimizer files
    "modified": pl.Datetime("us", "UTC"),
    "integrity": pl.String,  # one of INTEGRITY
    "cause": pl.String,  # why it is broken or incomplete; "" where it is not
    "folder": pl.String,
}
INTEGRITY = {
    "whole": "its meta is as it was saved and every file has the size that was recorded",
    "unverified": "it is complete; sizes and digests were not recorded, as nanochat does not",
    "incomplete": "a part is missing",
    "broken": "a part cannot be read, or is not what was saved",
}
SORTS = ("modified", "val_bpb", "size_mb", "step")
_FILE = re.compile(r"(model|meta|optim|loader)_([0-9]{6,12})(?:_rank([0-9]{1,6}))?\.(?:pt|json)")
_NEARLY = re.compile(r"(?:model|meta|optim|loader)_.*")
_LISTED = 3  # names in one sentence


@dataclass(frozen=True)
class Listing:
    """All checkpoints under some roots."""

    frame: pl.DataFrame  # columns of COLUMNS, a row a step
    problems: tuple[str, ...]  # one sentence for each folder or group of files that is not in the table
    size: int  # bytes of all files of all steps
    other: int  # bytes of what else lies in the runs' folders: logs, tokenizers, metrics


@dataclass
class _Step:
    """The files of one step: name -> (bytes, time of the last change, mode)."""

    files: dict[str, tuple[int, float, int]] = field(default_factory=dict)


def list_checkpoints(roots: Sequence[Root]) -> Listing:
    """Every checkpoint below the roots. Nothing broken hides the rest: it is a row or a sentence."""
    rows: list[dict[str, Any]] = []
    problems: list[str] = []
    other = 0
    for root in roots:
        for stage, folder, problem in run_folders(root.path):
            if problem:
                problems.append(problem)
                continue
            try:
                steps, rest, strange = _files_by_step(folder)
            except (CheckpointError, OSError) as error:
                words = error.strerror if isinstance(error, OSError) else str(error)
                problems.append(f"{location(folder)}: {words}" if isinstance(error, OSError) else str(words))
                continue
            other += rest
            if strange:
                names = ", ".join(shown(name) for name in strange[:_LISTED])
                problems.append(
                    f"{location(folder)}: {len(strange)} file{'s' * (len(strange) > 1)} not named as nanochat names "
                    f"them, such as {names}: left out; rename them if they are checkpoints"
                )
            rows += [_row(root, stage, folder, step, files) for step, files in sorted(steps.items())]
    frame = pl.DataFrame(rows, COLUMNS, orient="row")
    return Listing(frame, tuple(problems), int(frame["size"].sum()), other)


def run_folders(base_dir: Path) -> Iterator[tuple[str, Path, str]]:
    """(stage, folder, "") of every run below a base dir, or (stage, folder, why it cannot be listed)."""
    for stage, names in STAGE_FOLDERS.items():
        for parent in (base_dir / name for name in names):
            try:
                if not os.path.lexists(parent):
                    continue
                problem = paths.folder_problem(parent)
                if problem:
                    yield stage, parent, f"{location(parent)}: {problem}"
                    continue
                tags = sorted(tag for tag in names_in(parent) if (parent / tag).is_dir())
            except (CheckpointError, OSError) as error:
                yield stage, parent, str(error)
                continue
            for tag in tags:
                yield stage, parent / tag, ""


def sort_rows(frame: pl.DataFrame, by: str) -> pl.DataFrame:
    """By one of SORTS: newest, best, largest or latest first; rows without the figure last."""
    if by == "val_bpb":
        known = pl.when(pl.col("val_bpb").is_finite()).then(pl.col("val_bpb"))
        return frame.sort(known, pl.col("id"), nulls_last=True)
    return frame.sort(
        {"modified": "modified", "size_mb": "size", "step": "step"}[by], "id", descending=[True, False], nulls_last=True
    )


def disk_use(frame: pl.DataFrame) -> pl.DataFrame:
    """Bytes by run and kind of file, the largest run first: columns run, kind, bytes."""
    return (
        frame.with_columns(run=pl.col("id").str.replace(r"@\d+$", ""))
        .group_by("run")
        .agg(pl.col("weights", "optimizer", "loader").sum(), total=pl.col("size").sum())
        .sort("total", "run", descending=[True, False])
        .unpivot(["weights", "optimizer", "loader"], index=["run", "total"], variable_name="kind", value_name="bytes")
        .sort("total", "run", "kind", descending=[True, False, False])
        .drop("total")
    )


def files_of_step(folder: Path, step: int) -> list[tuple[str, int]]:
    """(name, bytes) of every file of a step, in name order."""
    found = _files_by_step(folder)[0].get(step, _Step()).files
    return sorted((name, size) for name, (size, _, _) in found.items())


def steps_in(folder: Path) -> list[int]:
    """Every step that has any file, complete or not, smallest first."""
    return sorted(_files_by_step(folder)[0])


def _files_by_step(folder: Path) -> tuple[dict[int, _Step], int, list[str]]:
    """(files by step, bytes of all else, names that nearly match)."""
    steps: dict[int, _Step] = {}
    other, strange = 0, []
    problem = paths.folder_problem(folder)
    if problem:
        raise CheckpointError(f"{location(folder)}: {problem}; check the name and your permissions")
    with os.scandir(folder) as entries:
        for entry in entries:
            found = _FILE.fullmatch(entry.name)
            step = int(found[2]) if found else -1
            if found and entry.name in _canonical(step, int(found[3] or 0)):
                status = _status(entry)
                kept = steps.setdefault(step, _Step())
                kept.files[entry.name] = (status.st_size, status.st_mtime, status.st_mode)
                continue
            if _NEARLY.fullmatch(entry.name):
                strange.append(entry.name)
            other += entry.stat(follow_symlinks=False).st_size if entry.is_file(follow_symlinks=False) else 0
    return steps, other, sorted(strange)


def _status(entry: "os.DirEntry[str]") -> os.stat_result:
    """Of the file behind the name; of the link itself where it leads nowhere."""
    try:
        return entry.stat()
    except OSError:
        return entry.stat(follow_symlinks=False)


def _canonical(step: int, rank: int) -> tuple[str, ...]:
    return (
        model_name(step), meta_name(step), f"optim_{step:06d}.pt", optimizer_name(step, rank), loader_name(step, rank),
    )  # fmt: skip


def _row(root: Root, stage: str, folder: Path, step: int, files: _Step) -> dict[str, Any]:
    def total(kind: str) -> int:
        return sum(size for name, (size, _, _) in files.files.items() if name.startswith(kind))

    meta, integrity, cause = _judge(folder, step, files)
    config = meta.get("model_config") or {}
    ranks = sum(name.startswith("optim_") for name in files.files)
    changed = max(time for _, time, _ in files.files.values())
    return {
        "id": f"{folder_name(root, stage, folder)}@{step}",
        "root": root.name,
        "stage": stage,
        "tag": folder.name,
        "step": step,
        "val_bpb": meta.get("val_bpb"),
        "val_loss": meta.get("val_loss"),
        "layers": config.get("n_layer"),
        "dim": config.get("n_embd"),
        "vocab": config.get("vocab_size"),
        "context": config.get("sequence_len"),
        "size": sum(size for size, _, _ in files.files.values()),
        "weights": total("model_"),
        "optimizer": total("optim_"),
        "loader": total("loader_"),
        "optim": ranks > 0,
        "ranks": ranks,
        "modified": _moment(changed),
        "integrity": integrity,
        "cause": cause,
        "folder": str(folder),
    }


def _judge(folder: Path, step: int, files: _Step) -> tuple[Mapping[str, Any], str, str]:
    """(meta, integrity, cause) by names, sizes and the meta file alone."""
    meta: Mapping[str, Any] = {}
    if meta_name(step) not in files.files:
        cause = "is missing, because saving or copying was interrupted: copy the step again, or delete its files"
        return meta, "incomplete", f"{meta_name(step)} {cause}"
    try:
        meta = read_meta(folder / meta_name(step))
        recorded = recorded_files(meta)
    except CheckpointError as error:
        return meta, "broken", str(error)
    if model_name(step) not in files.files:
        return meta, "incomplete", f"{model_name(step)} is missing: copy it again, or delete the step"
    gone = [name for name in recorded if name not in files.files and not os.path.lexists(folder / name)]
    if gone:
        return meta, "incomplete", f"{shown(gone[0])} was saved with this step and is gone: restore it from a copy"
    for name, (size, _, mode) in files.files.items():
        if not stat.S_ISREG(mode):
            return meta, "broken", f"{name} is no regular file: put the file that belongs there"
        wanted = recorded.get(name, (size, ""))[0]
        if size != wanted or not size:
            saved = f" where {wanted:,} were saved" if size != wanted else ""
            return meta, "broken", f"{name} has {size:,} bytes{saved}: copy it again or take another step"
    return meta, "whole" if recorded else "unverified", ""


def _moment(seconds: float) -> datetime.datetime | None:
    try:
        return datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    except (ValueError, OverflowError, OSError):
        return None
