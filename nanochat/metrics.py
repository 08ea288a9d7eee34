"""Read the history of a run from whatever it left behind, into one Polars frame.

Our own runs write metrics.jsonl. nanochat writes none: its history is what it printed, so logs of every date and stage
are read too, a whole speedrun captured by `screen -L`, wandb's output.log, and the meta files of saved steps. Every
row says its source. Nothing here loads torch.

    from nanochat import metrics
    report = metrics.read("base_checkpoints/d20", "speedrun.log")
    report.frame       # steps, evaluations, saves; columns in metrics_frame.SCHEMA
    report.sections    # the processes of the logs: sizes, horizon, results, totals
    report.problems    # a sentence for everything that could not be read

    reader = metrics.Reader("base_checkpoints/d20/metrics.jsonl")
    reader.read().frame    # again and again: the rows that came since the last time

How one file is read is in metrics_reader.py.
"""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import polars as pl

from nanochat.checkpoint_files import CheckpointError, location, open_regular
from nanochat.metrics_facts import Section, TaskResult, TokenizerResult
from nanochat.metrics_find import Found, find_logs, source_of
from nanochat.metrics_frame import RECORD_COLUMNS, SCHEMA, MetricsError, joined, mark_superseded
from nanochat.metrics_glance import Glance, glance
from nanochat.metrics_lines import LINE_KINDS
from nanochat.metrics_meta import meta_rows, optimizer_rates
from nanochat.metrics_reader import Files, Metrics, Reader, Update, read_open
from nanochat.records import METRICS_NAME

__all__ = [
    "LINE_KINDS",
    "RECORD_COLUMNS",
    "SCHEMA",
    "Files",
    "Found",
    "Glance",
    "Metrics",
    "MetricsError",
    "Reader",
    "Section",
    "TaskResult",
    "TokenizerResult",
    "Update",
    "find_logs",
    "glance",
    "mark_superseded",
    "optimizer_rates",
    "rates",
    "read",
    "read_upload",
    "source_of",
    "wandb_facts",
]


def read(*paths: str | Path, learning_rates: bool = False, files: Files | None = None) -> Metrics:
    """Read files and folders of runs, in the order given.

    A folder stands for its metrics.jsonl, its meta files and the logs right in it; `find_logs` finds those elsewhere.
    With `learning_rates`, rows of meta files get the rates from the optimizer files. With `files`, of a file that was
    read with them before only what is new is read.

    Raises:
        MetricsError: a path that is missing, or is neither of nanochat's nor ours. With several paths, one that cannot
            be read becomes a problem, unless none can.
    """
    if not paths:
        raise MetricsError("no path was given to read metrics from; name a log file or the folder of a run")
    frames: list[pl.DataFrame] = []
    sections: list[Section] = []
    lines: Counter[str] = Counter()
    problems: list[str] = []
    failures: list[MetricsError] = []
    files = files or Files()
    for path in paths:
        reader = _read_folder if Path(path).is_dir() else _read_file
        try:
            one = reader(Path(path), learning_rates, files)
        except MetricsError as error:
            failures.append(error)
            problems.append(str(error))
            continue
        frames.append(one.frame)
        sections += one.sections
        lines.update(one.lines)
        problems += one.problems
    if len(failures) == len(paths):
        raise failures[0]
    return Metrics(mark_superseded(joined(frames)), tuple(sections), dict(lines), tuple(problems))


def read_upload(name: str, file: BinaryIO) -> Metrics:
    """All of a metrics.jsonl or log that is no file of this machine, under the name that it had elsewhere.

    Raises:
        MetricsError: it is empty, or neither of nanochat's nor ours.
    """
    found = read_open(Path(name).name or "upload", file)
    return replace(found, frame=mark_superseded(found.frame))


def rates(frame: pl.DataFrame) -> pl.DataFrame:
    """Learning rates by group: columns file, run, step and one for each group, rows that have none left out."""
    known = frame.filter(pl.col("learning_rates").is_not_null() & (pl.col("learning_rates") != "{}"))
    names: dict[str, None] = {}
    for text in known["learning_rates"].gather([0, known.height // 2, known.height - 1]) if known.height else ():
        try:
            value = json.loads(text)
        except ValueError:
            continue
        if isinstance(value, dict):
            good = (name for name in value if name.replace("_", "").isalnum() and name not in ("file", "run", "step"))
            names.update(dict.fromkeys(good))
    columns = [
        pl.col("learning_rates").str.json_path_match(f"$.{n}").cast(pl.Float64, strict=False).alias(n) for n in names
    ]
    return known.select("file", "run", "step", *columns)


def wandb_facts(path: str | Path) -> dict[str, Any]:
    """What wandb keeps beside an output.log: `summary`, `metadata` (JSON) and `config` (settings), where they are."""
    folder, facts = Path(path).parent, {}
    for name in ("summary", "metadata"):
        text = _small_text(folder / f"wandb-{name}.json")
        try:
            value = json.loads(text) if text else None
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            facts[name] = value
    config: dict[str, Any] = {}
    key = ""
    # config.yaml has one key a block, with its value on a line of its own; a YAML library would be one more dependency.
    for line in _small_text(folder / "config.yaml").splitlines():
        if line.endswith(":") and not line.startswith((" ", "#")):
            key = line[:-1]
        elif line.strip().startswith("value: ") and key and not key.startswith("_"):
            text = line.strip().removeprefix("value: ")
            try:
                config[key] = json.loads(text)
            except ValueError:
                config[key] = text
    return {**facts, "config": config} if config else facts


def _read_folder(folder: Path, learning_rates: bool, files: Files) -> Metrics:
    try:
        frame, problems = meta_rows(folder, learning_rates)
    except CheckpointError as error:
        raise MetricsError(str(error)) from None
    frames: list[pl.DataFrame] = []
    sections: list[Section] = []
    lines: Counter[str] = Counter()
    for found in find_logs(folder):
        if found.path.parent == folder:
            try:
                one = files.read(found.path)
            except MetricsError as error:
                problems.append(str(error))
                continue
            frames.append(one.frame)
            sections += one.sections
            lines.update(one.lines)
            problems += one.problems
    if not frames and frame.is_empty() and not problems:
        raise MetricsError(
            f"{location(folder)}: no {METRICS_NAME}, no meta file and no log in this folder; name the folder of a run, "
            "such as base_checkpoints/d20, or a log file"
        )
    return Metrics(joined([*frames, frame]), tuple(sections), dict(lines), tuple(problems))


def _read_file(path: Path, learning_rates: bool, files: Files) -> Metrics:
    if source_of(path) != "meta":
        return files.read(path)
    frame, problems = meta_rows(path.parent, learning_rates, [path.name])
    if frame.is_empty():
        raise MetricsError(problems[0] if problems else f"{location(path)}: this is no name of a meta file")
    return Metrics(frame, (), {}, tuple(problems))


def _small_text(path: Path) -> str:
    try:
        with open_regular(path) as file:
            return file.read(1 << 20).decode("utf-8", "replace")
    except (CheckpointError, OSError):
        return ""  # wandb writes these files at the end of a run, or not at all
