"""Read one file of metrics, all of it or what came since the last look; the part of nanochat.metrics behind its front.

A running training writes a line every moment, and whoever watches it looks every second. So a reader keeps its place
in bytes: a look at a million steps of which ten are new costs ten lines.

    files = metrics.Files()
    metrics.read("base_checkpoints/d20", files=files)    # everything
    metrics.read("base_checkpoints/d20", files=files)    # the same, and what was written in between
"""

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import polars as pl

from nanochat import metrics_cache
from nanochat.checkpoint_files import CheckpointError, location, open_regular, require_regular, shown
from nanochat.metrics_facts import Section
from nanochat.metrics_find import source_of
from nanochat.metrics_frame import MetricsError, empty
from nanochat.metrics_log import MAX_SECTIONS, LogParser
from nanochat.metrics_meta import stage_of
from nanochat.metrics_records import RecordParser
from nanochat.paths import readable_size
from nanochat.records import METRICS_NAME

BLOCK = 8 << 20  # bytes read at a time
MOST_CHUNKS = 64  # pieces that a growing table may have before they are put together: each costs a little
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


class Reader:
    """Follows one growing metrics.jsonl or log: each `read` gives the rows that came since the one before.

    It keeps its place in bytes, so a look at a file that did not grow costs nothing, whatever its length. Rows are
    not marked as superseded: put them below those from before and call `mark_superseded`.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._begin()

    def _begin(self) -> None:
        self._parser = _parser(self.path)
        self._place = 0
        self._before = b""  # the bytes right before the place
        self._file = (0, 0, 0)  # inode, time and size of the file when its end was reached

    @property
    def sections(self) -> tuple[Section, ...]:
        """What a log said so far about each of its processes; none for metrics.jsonl."""
        return self._parser.sections() if isinstance(self._parser, LogParser) else ()

    def read(self) -> Update:
        """The new rows.

        Raises:
            MetricsError: the file is not there or cannot be read.
        """
        with open_metrics(self.path) as file:
            try:
                restarted = self._place > 0 and not self._goes_on(file)
                if restarted:
                    self._begin()
                file.seek(self._place)
                while data := file.read(BLOCK):
                    self._take(data)
                status = os.fstat(file.fileno())
            except OSError as error:
                raise MetricsError(
                    f"{location(self.path)}: reading failed ({shown(error.strerror)}); check the disk"
                ) from None
        self._file = (status.st_ino, status.st_mtime_ns, status.st_size)
        return Update(self._parser.frame(), restarted)

    def _goes_on(self, file: BinaryIO) -> bool:
        """Whether the file still begins with what was read of it, as far as a look at its end can tell."""
        status = os.fstat(file.fileno())
        inode, changed, size = self._file
        if status.st_ino != inode or status.st_size < self._place:
            return False
        if status.st_size == size and status.st_mtime_ns != changed:
            return False  # written to and no longer than it was
        file.seek(self._place - len(self._before))
        return file.read(len(self._before)) == self._before

    def _take(self, data: bytes) -> None:
        self._parser.feed(data)
        self._place += len(data)
        self._before = (self._before + data[-_CHECKED:])[-_CHECKED:]


class _Whole(Reader):
    """One file with all its rows. The first look reads everything, each later one what came since.

    Of a long metrics.jsonl even the first look reads only what came since another process read it.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__(path)
        kept = metrics_cache.load(self.path) if isinstance(self._parser, RecordParser) else None
        if kept is not None and isinstance(self._parser, RecordParser):
            rows, known = kept
            self._rows = self._parser.go_on(rows, known.at, known.bad, known.problems)
            self._place, self._before = known.place, known.before.encode("latin-1")
            self._file, self._cached = known.file, known.place

    def _begin(self) -> None:
        super()._begin()
        self._rows, self._cached = empty(), 0

    def _take(self, data: bytes) -> None:
        if self._place == 0:
            _require_text(self.path, data)
        elif self._place >= BLOCK and isinstance(self._parser, LogParser) and not _told(self._parser):
            raise _no_log(self.path, f"nothing in its first {readable_size(BLOCK)}")
        super()._take(data)

    def look(self) -> Metrics:
        """Everything that the file holds by now, as `metrics.read` gives it; rows are not marked as superseded.

        Raises:
            MetricsError: it cannot be read, is empty, or is neither of nanochat's nor ours.
        """
        try:
            update = self.read()
            self._require_something()
        except MetricsError:
            self._begin()  # half of a file that turned out to be something else is no place to go on from
            raise
        self._rows = pl.concat([self._rows, update.frame]) if self._rows.height else update.frame
        if self._rows.n_chunks() > MOST_CHUNKS:
            self._rows = self._rows.rechunk()
        if self._place - self._cached >= metrics_cache.LARGE and isinstance(self._parser, RecordParser):
            self._keep(self._parser)
        return _found_in(self.path, self._parser, self._rows)

    def _keep(self, parser: RecordParser) -> None:
        """Save the rows for whoever opens the file next."""
        rest = len(parser.rest)
        before = self._before[: max(len(self._before) - rest, 0)]
        self._cached = self._place
        if before and not parser.dropping:
            known = metrics_cache.Beginning(
                *(self._place - rest, before.decode("latin-1"), self._file),
                *(parser.at, parser.bad, tuple(parser.problems)),
            )
            metrics_cache.save(self.path, self._rows, known)

    def _require_something(self) -> None:
        if self._place == 0:
            raise MetricsError(
                f"{location(self.path)}: the file is empty; wait for the first step or take another file"
            )

    def take_all(self, file: BinaryIO) -> Metrics:
        """Everything of an open file, in place of the one at the path."""
        while data := file.read(BLOCK):
            self._take(data)
        self._require_something()
        return _found_in(self.path, self._parser, self._parser.frame())


def read_open(name: str, file: BinaryIO) -> Metrics:
    """All rows of an open file, as `Files.read`; its name says what it is. Raises MetricsError."""
    return _Whole(name).take_all(file)


class Files:
    """What was read of some files already, so that to read them again costs what was written to them since."""

    def __init__(self) -> None:
        self._kept: dict[Path, _Whole] = {}
        self._found: dict[Path, tuple[tuple[int, ...], Metrics | str]] = {}  # a str: why it cannot be read

    def read(self, path: Path) -> Metrics:
        """All rows of a metrics.jsonl or log. Raises MetricsError as `metrics.read` does."""
        try:
            status = os.stat(path)
            now: tuple[int, ...] = (status.st_ino, status.st_size, status.st_mtime_ns)
        except OSError:
            now = ()
        before, found = self._found.get(path, ((), None))
        if found is None or not now or now != before:
            if path not in self._kept:
                self._kept[path] = _Whole(path)
            try:
                found = self._kept[path].look()
            except MetricsError as error:
                found = str(error)
            self._found[path] = (now, found)
        if isinstance(found, str):
            raise MetricsError(found)  # a new one: one that is raised again and again holds on to all who asked
        return found


def _found_in(path: Path, parser: LogParser | RecordParser, rows: pl.DataFrame) -> Metrics:
    """Rows of a file that was read to its end, with what its parser has to say."""
    if isinstance(parser, RecordParser):
        last = parser.last()
        problems = list(parser.problems)
        if parser.torn is not None and last.is_empty():
            problems.append(f"{path}: the last line was cut short and was left out")
        if parser.bad > len(parser.problems):
            problems.append(f"{path}: {parser.bad - len(parser.problems):,} more lines were left out")
        if rows.is_empty() and last.is_empty() and parser.at and parser.bad == parser.at:
            raise MetricsError(f"{location(path)}: no line of it is a record of a training; name a {METRICS_NAME}")
        return Metrics(pl.concat([rows, last]) if len(last) else rows, (), {}, tuple(problems))
    if rows.is_empty() and _told(parser) <= parser.counts["unknown"] and parser.at:
        raise _no_log(path, "nothing in it")
    problems = [f"{path}, line {at:,}: not understood: {shown(text)}" for at, text in parser.unknown]
    if parser.torn is not None:
        problems.append(f"{path}: the last line has no end and was left out: {shown(parser.torn)}")
    if parser.crowded:
        problems.append(
            f"{path}: more than {MAX_SECTIONS:,} processes wrote into it; what the others wrote counts to the last one"
        )
    return Metrics(rows, parser.sections(), Counter(parser.counts), tuple(problems))


def _told(parser: LogParser) -> int:
    """Lines that were understood."""
    return parser.at - parser.counts["unknown"] - parser.counts["blank"]


def _no_log(path: Path, what: str) -> MetricsError:
    return MetricsError(
        f"{location(path)}: {what} looks like the output of nanochat; name a log of a training, or the folder of a run"
    )


def _parser(path: Path) -> LogParser | RecordParser:
    source = source_of(path)
    return RecordParser(str(path), stage_of(path)) if source == "metrics" else LogParser(str(path), source)


def open_metrics(path: Path) -> BinaryIO:
    """A file of metrics, to read. Raises MetricsError where there is none or it cannot be opened."""
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
