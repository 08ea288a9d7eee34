"""One row a line: where it lies, what it holds in numbers, what is wrong with it. Every figure is a question to this.

Polars owns it. Beyond some million lines the rows go to parquet files in a temporary folder, and questions are answered
by streaming over them, so that the memory needed does not grow with the data set.
"""

import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from nanochat.analysis.dataset_inspector.check import Checked
from nanochat.analysis.dataset_inspector.findings import Secret

SPILL = 500_000  # rows in memory, about 56 bytes each and as much again while a question is answered
MAX_GROUPS = 1_000  # values of a field that are told apart; the rest counts together
REST = "(all others)"
MAX_SECRETS = 10_000  # findings that are kept; all are counted


class IndexBuilder:
    """Takes what was found in each block, in order of files and lines."""

    def __init__(self, spill: int = SPILL) -> None:
        self.spill = spill
        self.rows = 0
        self.lengths: dict[str, Counter[int]] = {}
        self.fields: Counter[str] = Counter()
        self.groups: dict[str, int] = {}
        self.secrets: list[tuple[int, Secret]] = []
        self.secret_counts: Counter[str] = Counter()
        self._pending: list[pl.DataFrame] = []
        self._held = 0
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._parts = 0

    def add(self, file: int, checked: Checked) -> None:
        """One block of file number `file`."""
        count = len(checked.columns["nbytes"])
        ends = np.cumsum(checked.columns["nbytes"], dtype=np.int64)
        columns: dict[str, Any] = {
            "row": np.arange(self.rows, self.rows + count, dtype=np.uint32),
            "file": np.full(count, file, np.uint16),
            "line": np.arange(checked.first_line, checked.first_line + count, dtype=np.uint32),
            "offset": checked.offset + ends - checked.columns["nbytes"],
        }
        groups = [self._group(label) for label in checked.groups] if checked.groups else None
        columns["group"] = np.array(groups, np.uint16) if groups else np.zeros(count, np.uint16)
        self._pending.append(pl.DataFrame(columns | checked.columns))
        self.rows += count
        self._held += count
        for role, lengths in checked.lengths.items():
            self.lengths.setdefault(role, Counter()).update(lengths)
        self.fields.update(checked.fields)
        for secret in checked.secrets:
            self.secret_counts[secret.kind] += 1
            if len(self.secrets) < MAX_SECRETS:
                self.secrets.append((file, secret))
        if self._held >= self.spill:
            self._write()

    def _group(self, label: str) -> int:
        if label not in self.groups and len(self.groups) >= MAX_GROUPS:
            label = REST
        return self.groups.setdefault(label, len(self.groups))

    def _write(self) -> None:
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="nanochat-inspector-")
        pl.concat(self._pending).write_parquet(Path(self._folder.name) / f"{self._parts:05d}.parquet")
        self._parts += 1
        self._pending, self._held = [], 0

    def finish(self) -> "Index":
        """The index; the builder is done."""
        if self._folder is not None and self._pending:
            self._write()
        return Index(pl.concat(self._pending) if self._pending else None, self._folder, self.rows)


class Index:
    """All lines of all files. Columns: row, file, line, offset, group and check.COLUMNS."""

    def __init__(
        self, frame: pl.DataFrame | None, folder: "tempfile.TemporaryDirectory[str] | None", rows: int
    ) -> None:
        self._frame, self._folder = frame, folder
        self.rows = rows

    def scan(self) -> pl.LazyFrame:
        """All rows, in order."""
        if self._frame is not None:
            return self._frame.lazy()
        assert self._folder is not None
        return pl.scan_parquet(Path(self._folder.name) / "*.parquet")

    def collect(self, query: pl.LazyFrame) -> pl.DataFrame:
        """The answer to a question, streamed where the rows are on disk."""
        return query.collect(engine="in-memory" if self._frame is not None else "streaming")

    def fit(self) -> pl.LazyFrame:
        """The rows without an error."""
        return self.scan().filter(pl.col("messages") > 0)

    def histogram(self, value: pl.Expr) -> pl.DataFrame:
        """value -> how many lines without an error have it, ascending."""
        query = self.fit().select(value.alias("value")).group_by("value").len("count")
        return self.collect(query).sort("value")

    def repeats(self, column: str) -> pl.DataFrame:
        """The rows whose value in `column` an earlier row has: row, first. Errors are left out.

        Taken a share of all values at a time, so that a large index needs no table of all of them at once.
        """
        shares = 1 + self.rows // SPILL
        parts = []
        for share in range(shares):
            query = self.fit().select("row", column)
            if shares > 1:
                query = query.filter(pl.col(column) % shares == share)
            several = self.collect(query).filter(pl.col(column).is_duplicated())
            first = several.group_by(column).agg(pl.col("row").min().alias("first"))
            parts.append(several.join(first, on=column).filter(pl.col("row") > pl.col("first")).select("row", "first"))
        return pl.concat(parts).sort("row")

    def places(self, rows: "pl.Series | list[int]") -> pl.DataFrame:
        """row, file, line, offset, nbytes, kinds of some rows, in order."""
        wanted = pl.Series(rows, dtype=pl.UInt32).unique()
        columns = ("row", "file", "line", "offset", "nbytes", "kinds")
        query = self.scan().select(columns).filter(pl.col("row").is_in(wanted.implode()))
        return self.collect(query).sort("row")

    def runs(self, query: pl.LazyFrame, size: int = 500_000) -> Iterator[pl.DataFrame]:
        """The rows of a question, in order, some at a time."""
        for start in range(0, self.rows, size):
            frame = self.collect(query.filter(pl.col("row").is_between(start, start + size - 1)))
            if len(frame):
                yield frame.sort("row")
