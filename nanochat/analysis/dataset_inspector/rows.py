"""From a report back to the lines: random samples, a page of them, a search, and what is wrong with each, in words."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from nanochat.analysis.dataset_inspector.diagnose import diagnose, sentences
from nanochat.analysis.dataset_inspector.kinds import KINDS, kinds_of, mask_of, names_of, severity_of
from nanochat.analysis.dataset_inspector.report import Issue, Report
from nanochat.analysis.dataset_inspector.sources import Source, lines_at
from nanochat.json_document import BOM
from nanochat.tasks.conversation_file import MAX_LINE_BYTES

PLACE = ("row", "file", "line", "offset", "nbytes", "kinds")


@dataclass(frozen=True)
class Row:
    """One line, read again."""

    row: int
    file: int  # number of its source
    line: int
    kinds: int  # a mask, of what the line itself shows
    data: bytes  # with its line end
    nbytes: int  # of the line; more than len(data) where it is over-long

    def value(self) -> Any:
        """The JSON value. Only for a line without an error."""
        return json.loads(self.data.removeprefix(BOM))


def read_rows(sources: tuple[Source, ...], places: pl.DataFrame) -> Iterator[Row]:
    """The lines at `places` (columns PLACE, ascending by row), each source read once. Raises InspectorError."""
    for (file,), part in places.group_by("file", maintain_order=True):
        number = int(file)
        lines = lines_at(sources[number], part.select("line", "offset", "nbytes").iter_rows())
        for (row, line, kinds, nbytes), data in zip(
            part.select("row", "line", "kinds", "nbytes").iter_rows(), lines, strict=True
        ):
            yield Row(row, number, line, kinds, data, nbytes)


def rows_of(report: Report, rows: "pl.Series | list[int]") -> list[Row]:
    """Some rows by number, in order of the data set. Raises InspectorError."""
    return list(read_rows(report.sources, report.index.places(rows)))


def sample(report: Report, count: int, seed: int = 0) -> list[Row]:
    """`count` conversations without an error at random, in order of the data set; all where there are fewer."""
    fit = report.index.collect(report.index.fit().select("row"))["row"]
    if len(fit) > count:
        chosen = np.random.default_rng(seed).choice(len(fit), count, replace=False)
        fit = fit.gather(np.sort(chosen))
    return rows_of(report, fit)


def issue_rows(report: Report, kind: str | None = None, severity: str | None = None) -> pl.Series:
    """The rows that have an issue of this kind, or of this severity, in order."""
    frame = report.issues
    if kind is not None:
        frame = frame.filter(pl.col("kinds") & KINDS[kind].mask != 0)
    if severity is not None:
        errors = pl.col("kinds") & mask_of(*(one.name for one in KINDS.values() if one.severity == "error"))
        frame = frame.filter(errors != 0 if severity == "error" else errors == 0)
    return frame["row"]


def issues(report: Report, rows: pl.Series | None = None) -> Iterator[Issue]:
    """Lines that have issues, in words, one after the other; all of them unless `rows` says which.

    Lines are read again and looked at again, so millions of them need no room. Raises InspectorError.
    """
    frame = report.issues if rows is None else report.issues.filter(pl.col("row").is_in(rows.implode()))
    if not len(frame):
        return
    places = report.index.collect(
        report.index.scan().select("row", "offset", "nbytes").filter(pl.col("row").is_in(frame["row"].implode()))
    )
    frame = frame.join(places, on="row").join(report.duplicates, on="row", how="left").sort("row")
    firsts = frame.select("first_file", "first_line").iter_rows()
    for row, (first_file, first_line) in zip(read_rows(report.sources, frame.select(PLACE)), firsts, strict=True):
        yield _issue(report, row, first_file, first_line)


def _issue(report: Report, row: Row, first_file: int | None, first_line: int | None) -> Issue:
    overlong = row.nbytes if row.nbytes > MAX_LINE_BYTES else 0
    found = diagnose(row.data, report.options.profile, first=row.line == 1, overlong=overlong).findings
    words = [sentences(found)] if found else []
    remedies = list(dict.fromkeys(one.remedy for one in found))
    rest = row.kinds & ~mask_of(*(one.kind for one in found))
    for kind in kinds_of(rest):  # what a line alone does not show
        sentence = kind.sentence
        if kind.name == "duplicate" and first_line is not None:
            place = "" if first_file in (None, row.file) else f" of {report.sources[first_file].name}"
            sentence = f"it is the same as line {first_line:,}{place}"
        elif kind.name == "too_long":
            sentence = f"it has more than {report.options.max_tokens:,} tokens"
        words.append(sentence)
        remedies.append(kind.remedy)
    message = next((one.message for one in found if one.message is not None), None)
    return Issue(
        row.row,
        report.sources[row.file].name,
        row.line,
        severity_of(row.kinds),
        tuple(names_of(row.kinds)),
        message,
        "; ".join(words),
        "; ".join(remedies),
    )


def search(report: Report, text: str, limit: int = 100) -> list[int]:
    """The rows of the first `limit` lines that hold `text`, whatever its case. Reads the data set up to there."""
    needle = text.casefold()
    found: list[int] = []
    for places in report.index.runs(report.index.scan().select(PLACE)):
        for row in read_rows(report.sources, places):
            if needle in _spelled(row.data, needle.isascii()).casefold():
                found.append(row.row)
                if len(found) >= limit:
                    return found
    return found


def _spelled(line: bytes, ascii_only: bool) -> str:
    """A line as text. JSON may spell a letter that is not ASCII as \\u and four digits; it comes out as itself."""
    if not ascii_only and b"\\u" in line:
        try:
            return json.dumps(json.loads(line), ensure_ascii=False)
        except (ValueError, RecursionError):  # a bad line is searched as it stands
            pass
    return line.decode(errors="replace")
