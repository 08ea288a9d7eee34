"""Read what meta files and optimizer files know of a run: a row for every saved step.

nanochat writes no table of metrics. A run whose log is lost still has its checkpoints: bits per byte of each saved
step, the moving average of the loss, the time, and, in the optimizer's file, the learning rates of that moment.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from nanochat.checkpoint_files import STEP_FILE, CheckpointError, find_optimizer, location, names_in, shown
from nanochat.checkpoint_meta import read_meta
from nanochat.metrics_frame import SMOOTHING, json_object, rows_frame
from nanochat.paths import STAGE_FOLDERS
from nanochat.safe_load import open_tensors

# AdamW's groups by their number, in the order in which nanochat makes them: an optimizer file does not name them.
_ADAMW_GROUPS = {
    2: ("unembedding", "embedding"),
    4: ("unembedding", "embedding", "resid", "x0"),
    5: ("unembedding", "embedding", "value_embeds", "resid", "x0"),
    6: ("unembedding", "embedding", "value_embeds", "resid", "x0", "smear_backout"),
    7: ("unembedding", "embedding", "value_embeds", "resid", "x0", "smear_backout", "matrix"),  # AdamW alone
}


def stage_of(path: str | Path) -> str | None:
    """The stage that a path speaks of: that of the innermost folder with a name such as base_checkpoints.

    >>> stage_of("cache/nanochat/chatsft_checkpoints/d20/metrics.jsonl")
    'sft'
    """
    for part in reversed(Path(path).parts):
        for stage, folders in STAGE_FOLDERS.items():
            if part in folders:
                return stage
    return None


def meta_rows(
    folder: str | Path, learning_rates: bool = False, names: Iterable[str] | None = None
) -> tuple[pl.DataFrame, list[str]]:
    """A row for each meta file of a run's folder, by step, and a sentence for each that cannot be read.

    With `names`, for those files of the folder alone. With `learning_rates` the optimizer file of each step is opened
    too, its structure alone: no tensor is read.

    Raises:
        CheckpointError: the folder cannot be listed.
    """
    rows, problems = [], []
    stage = stage_of(folder)
    for name in sorted(names_in(folder) if names is None else names):
        found = STEP_FILE.fullmatch(name)
        if not found or not found[2]:
            continue
        path = Path(folder, name)
        try:
            row = _row(read_meta(path), int(found[2]))
            if learning_rates:
                row.update(_rates_row(folder, int(found[2])))
            rows.append({**row, "file": str(path), "stage": stage})
        except CheckpointError as error:
            problems.append(str(error))
    rows.sort(key=lambda row: row["step"])
    frame = rows_frame(rows)
    return frame.with_columns(source=pl.lit("meta"), kind=pl.lit("checkpoint"), run=pl.lit(0, pl.Int64)), problems


def _row(meta: Mapping[str, Any], step: int) -> dict[str, Any]:
    """The columns that a meta file fills. The step is that of the file's name, which is the one that gets loaded."""
    ours = meta.get("lab", {}).get("training", {})
    ours = ours if isinstance(ours, dict) else {}
    loop = meta.get("loop_state")
    loop = loop if isinstance(loop, dict) else {}
    settings = meta.get("user_config", {})
    smooth, batch = _real(loop.get("smooth_train_loss")), _real(meta.get("total_batch_size"))
    if batch is None:
        batch = _real(settings.get("total_batch_size"))
    position = meta.get("dataloader_state_dict")
    position = position if isinstance(position, dict) else {}
    row: dict[str, Any] = {
        "step": step,
        "val_bpb": _real(meta.get("val_bpb")),
        "val_loss": _real(meta.get("val_loss")),
        # nanochat stores the average as it runs, which starts at 0; what it prints has that start taken out.
        "smooth_loss": smooth / (1 - SMOOTHING**step) if smooth is not None and step > 0 else None,
        "tokens": int(batch * step) if batch is not None and 0 < batch * step < 1 << 62 else None,
        "epoch": _whole(position.get("epoch")),
        "shard": _whole(position.get("pq_idx")),
        "row_group": _whole(position.get("rg_idx")),
        "events": ["checkpoint"],
    }
    for name in ("train_loss", "learning_rate", "time"):  # nanochat writes none of them
        value = _real(meta.get(name))
        row[name] = value if value is not None else _real(ours.get(name))
    if row["time"] is None:
        row["time"] = _real(loop.get("total_training_time"))
    iterations = _whole(settings.get("num_iterations"))
    row["total_steps"] = iterations if iterations is not None and iterations > 0 else None
    scores = {key: value for key in ("mmlu_acc", "arc_easy_acc") if (value := _real(meta.get(key))) is not None}
    row["scores"] = json_object(scores)
    return row


def _rates_row(folder: str | Path, step: int) -> dict[str, Any]:
    """Learning rates of the last update before a save."""
    path = find_optimizer(folder, step)
    if path is None:
        return {}
    rates = optimizer_rates(path)
    return {"learning_rate": rates.get("matrix"), "learning_rates": json_object(rates)}


def optimizer_rates(path: str | Path) -> dict[str, float]:
    """Parameter group -> learning rate of an optimizer file of any date.

    Raises:
        CheckpointError: the file cannot be opened, or is no optimizer's.
    """
    with open_tensors(path) as file:
        tree = file.tree
    states = tree if isinstance(tree, list) else [tree]  # until 2026-01-29 a list: AdamW, Muon
    groups = [group for state in states if isinstance(state, dict) for group in _groups(state)]
    if not groups:
        raise CheckpointError(f"{location(path)}: no parameter groups in it; name the optimizer file of a checkpoint")
    adamw = [group for group in groups if not _is_muon(group)]
    names = _ADAMW_GROUPS.get(len(adamw), tuple(f"adamw_{index}" for index in range(len(adamw))))
    rates: dict[str, float] = {}
    for group in groups:
        rate = _real(group.get("lr"))
        given = group.get("name")
        name = given if isinstance(given, str) else "matrix" if _is_muon(group) else names[adamw.index(group)]
        name = re.sub(r"_\d+$", "", name) if name.startswith("matrix") else name
        if rate is not None:
            rates.setdefault(shown(name, 60), rate)  # Muon has a group for each shape, all with one rate
    return rates


def _groups(state: Mapping[str, Any]) -> list[dict[str, Any]]:
    groups = state.get("param_groups")
    return [group for group in groups if isinstance(group, dict)] if isinstance(groups, list) else []


def _is_muon(group: Mapping[str, Any]) -> bool:
    return group.get("kind") == "muon" or "ns_steps" in group


def _real(value: Any) -> float | None:
    """A finite number as a float, None for everything else: nanochat writes null and Infinity for what is unknown."""
    return float(value) if type(value) in (int, float) and abs(value) < 1e300 else None


def _whole(value: Any) -> int | None:
    return value if type(value) is int and abs(value) < 1 << 62 else None
