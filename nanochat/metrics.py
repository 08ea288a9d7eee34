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
"""

import json
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import polars as pl

from nanochat.checkpoint_files import CheckpointError, location, open_regular, require_regular, shown
from nanochat.metrics_facts import Section, TaskResult, TokenizerResult
from nanochat.metrics_find import Found, find_logs, source_of
from nanochat.metrics_frame import RECORD_COLUMNS, SCHEMA, MetricsError, joined, mark_superseded
from nanochat.metrics_lines import LINE_KINDS
from nanochat.metrics_log import MAX_SECTIONS, LogParser
from nanochat.metrics_meta import meta_rows, optimizer_rates, stage_of
from nanochat.metrics_records import RecordParser
from nanochat.paths import readable_size
from nanochat.records import METRICS_NAME

__all__ = [
    "LINE_KINDS",
    "RECORD_COLUMNS",
    "SCHEMA",
    "Found",
    "Metrics",
    "MetricsError",
    "Reader",
    "Section",
    "TaskResult",
    "TokenizerResult",
    "Update",
    "find_logs",
    "mark_superseded",
    "optimizer_rates",
    "rates",
    "read",
    "source_of",
    "wandb_facts",
]

BLOCK = 8 << 20  # bytes read at a time
_CHECKED = 256  # bytes before the place of a Reader that must be the same when it comes back


@dataclass(frozen=True)
class Metrics:
    """Everything that was found about one or several runs."""

    frame: pl.DataFrame  # columns of SCHEMA, in the order of the files and of their lines
    sections: tuple[Section, ...]  # of logs; empty for metrics.jsonl and meta files
    lines: Mapping[str, int]  # how many lines of the logs were of each kind in LINE_KINDS
    problems: tuple[str, ...]  # a sentence for each thing that could not be read or was left out


@dataclass(frozen=True)
class Update:
    """What a Reader found new."""

    frame: pl.DataFrame
    restarted: bool  # the file was cut or replaced, as a resumed run does: forget the rows from before


def read(*paths: str | Path, learning_rates: bool = False) -> Metrics:
    """Read files and folders of runs, in the order given.

    A folder stands for its metrics.jsonl, its meta files and the logs right in it; `find_logs` finds those elsewhere.
    With `learning_rates`, rows of meta files get the rates from the optimizer files.

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
    for path in paths:
        try:
            one = (
                _read_folder(Path(path), learning_rates)
                if Path(path).is_dir()
                else _read_file(Path(path), learning_rates)
            )
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


class Reader:
    """Follows one growing metrics.jsonl or log: each `read` gives the rows that came since the one before.

    It keeps its place in bytes, so a look at a file that did not grow costs nothing, whatever its length. Rows are
    not marked as superseded: put them below those from before and call `mark_superseded`.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._parser = _parser(self.path)
        self._place = 0
        self._before = b""  # the bytes right before the place

    @property
    def sections(self) -> tuple[Section, ...]:
        """What a log said so far about each of its processes; none for metrics.jsonl."""
        return self._parser.sections() if isinstance(self._parser, LogParser) else ()

    def read(self) -> Update:
        """The new rows.

        Raises:
            MetricsError: the file is not there or cannot be read.
        """
        restarted = False
        with _open(self.path) as file:
            try:
                file.seek(self._place - len(self._before))
                if file.read(len(self._before)) != self._before:  # shorter than it was, or another file
                    restarted = True
                    self._parser, self._place, self._before = _parser(self.path), 0, b""
                    file.seek(0)
                while data := file.read(BLOCK):
                    self._parser.feed(data)
                    self._place += len(data)
                    self._before = (self._before + data)[-_CHECKED:]
            except OSError as error:
                raise _unreadable(self.path, error) from None
        return Update(self._parser.frame(), restarted)


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


def _read_folder(folder: Path, learning_rates: bool) -> Metrics:
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
                one = _read_file(found.path)
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


def _read_file(path: Path, learning_rates: bool = False) -> Metrics:
    if source_of(path) == "meta":
        frame, problems = meta_rows(path.parent, learning_rates, [path.name])
        if frame.is_empty():
            raise MetricsError(problems[0] if problems else f"{location(path)}: this is no name of a meta file")
        return Metrics(frame, (), {}, tuple(problems))
    parser = _parser(path)
    with _open(path) as file:
        try:
            size = os.fstat(file.fileno()).st_size
            if size == 0:
                raise MetricsError(f"{location(path)}: the file is empty; wait for the first step or take another file")
            data = file.read(BLOCK)
            _require_text(path, data)
            while data:
                parser.feed(data)
                data = file.read(BLOCK)
                if data and isinstance(parser, LogParser) and not _told(parser):
                    raise _no_log(path, f"nothing in its first {readable_size(BLOCK)}")
        except OSError as error:
            raise _unreadable(path, error) from None
    if isinstance(parser, RecordParser):
        return _records(path, parser)
    frame, sections = parser.frame(), parser.sections()
    if frame.is_empty() and _told(parser) <= parser.counts["unknown"] and parser.at:
        raise _no_log(path, "nothing in it")
    problems = [f"{path}, line {at:,}: not understood: {shown(text)}" for at, text in parser.unknown]
    if parser.torn is not None:
        problems.append(f"{path}: the last line has no end and was left out: {shown(parser.torn)}")
    if parser.crowded:
        problems.append(
            f"{path}: more than {MAX_SECTIONS:,} processes wrote into it; what the others wrote counts to the last one"
        )
    return Metrics(frame, sections, dict(parser.counts), tuple(problems))


def _told(parser: LogParser) -> int:
    """Lines that were understood."""
    return parser.at - parser.counts["unknown"] - parser.counts["blank"]


def _no_log(path: Path, what: str) -> MetricsError:
    return MetricsError(
        f"{location(path)}: {what} looks like the output of nanochat; name a log of a training, or the folder of a run"
    )


def _records(path: Path, parser: RecordParser) -> Metrics:
    parser.finish()
    frame, problems = parser.frame(), list(parser.problems)
    if parser.torn is not None:
        problems.append(f"{path}: the last line was cut short and was left out")
    if parser.bad > len(parser.problems):
        problems.append(f"{path}: {parser.bad - len(parser.problems):,} more lines were left out")
    if frame.is_empty() and parser.at and parser.bad == parser.at:
        raise MetricsError(f"{location(path)}: no line of it is a record of a training; name a {METRICS_NAME}")
    return Metrics(frame, (), {}, tuple(problems))


def _parser(path: Path) -> LogParser | RecordParser:
    source = source_of(path)
    return RecordParser(str(path), stage_of(path)) if source == "metrics" else LogParser(str(path), source)


def _open(path: Path) -> BinaryIO:
    try:
        if os.path.exists(path):
            require_regular(path, os.stat(path).st_mode)
        return open_regular(path)
    except CheckpointError as error:
        raise MetricsError(str(error)) from None


def _require_text(path: Path, data: bytes) -> None:
    """Refuse a file that is no text: a log may hold some odd bytes that a model printed, never mostly such."""
    start = data[: 1 << 16]
    odd = start.count(b"\x00") + start.decode("utf-8", "replace").count("�")
    if odd * 10 > len(start):
        raise MetricsError(f"{location(path)}: this is no text file; name a log of nanochat or a {METRICS_NAME}")


def _small_text(path: Path) -> str:
    try:
        with open_regular(path) as file:
            return file.read(1 << 20).decode("utf-8", "replace")
    except (CheckpointError, OSError):
        return ""  # wandb writes these files at the end of a run, or not at all


def _unreadable(path: Path, error: OSError) -> MetricsError:
    return MetricsError(f"{location(path)}: reading failed ({shown(error.strerror)}); check the disk")
