"""Read metrics.jsonl, which our own runs write: one StepRecord a line (nanochat/records.py).

Polars reads whole blocks at once and refuses anything that is not exactly a record; a block that it refuses is halved
until the bad lines stand alone, and those are read one by one. So a million good records cost about a second, and
every bad line is named with its number: NaN that another tool wrote, a half-written last line, a line by hand.
"""

import io
import json
from collections.abc import Sequence
from typing import Any

import polars as pl

from nanochat.metrics_frame import RECORD_COLUMNS, conform, empty
from nanochat.records import NOT_FINITE

MAX_LINE = 1 << 20  # bytes; a record has a few hundred
MAX_PROBLEMS = 50  # sentences that are kept; the rest is counted
SMALLEST = 1 << 16  # bytes below which a refused block is read line by line

# flops is a whole number that may exceed 64 bits, so it is read as a float like the others.
_MAY_BEGIN = b"{ \t\r\xef\xfe\xff\x00"  # the first byte of a record: the last four are those of other encodings
_NO_WORD = r"^(?:[-\d\[{].*|true|false)$"  # what Polars makes text of that was none
_INTEGERS = ("step", "tokens")
_REALS = [name for name, dtype in RECORD_COLUMNS.items() if dtype == pl.Float64]


class RecordParser:
    """Reads one metrics.jsonl, in pieces; the counterpart of metrics_log.LogParser."""

    def __init__(self, file: str, stage: str | None = None) -> None:
        self.file, self.stage = file, stage
        self.problems: list[str] = []  # a sentence for each bad line, the first ones
        self.bad = 0  # lines that gave no row
        self.at = 0  # complete lines so far
        self.rest = b""  # of a line whose end is still to come
        self.dropping = False  # whether an overlong line is being passed over
        self._chunks: list[pl.DataFrame] = []

    def go_on(self, rows: pl.DataFrame, at: int, bad: int, problems: Sequence[str]) -> pl.DataFrame:
        """Go on behind `at` lines that another parser read; returns their rows as `frame` would."""
        self.at, self.bad, self.problems = at, bad, list(problems)
        return self._conformed([rows])

    @property
    def torn(self) -> str | None:
        """The last line if its end is missing and it is no whole record."""
        return self.rest[:MAX_LINE].decode("utf-8", "replace") if self.rest else None

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the file."""
        if self.at == 0 and not self.rest and data.startswith(b"\xef\xbb\xbf"):
            data = data[3:]  # a byte order mark, which some editors put there
        if self.dropping:
            start = data.find(b"\n") + 1
            if not start:
                return
            self.dropping = False
            self.at += 1
            self._bad(self.at, f"longer than {MAX_LINE:,} bytes")
            data = data[start:]
        end = data.rfind(b"\n") + 1
        if end:
            count = data.count(b"\n", 0, end)
            # One copy of the whole lines, not two: of a long file each costs a tenth of a second.
            self._read(b"".join((self.rest, memoryview(data)[:end])), self.at + 1, count)
            self.at += count
            self.rest = b""
        self.rest += data[end:]
        if len(self.rest) > MAX_LINE:  # a file without newlines must not fill the memory
            self.rest, self.dropping = b"", True

    def last(self) -> pl.DataFrame:
        """The row of a last line that has no newline, if it is a whole record: cut short it would not be one.

        It is not taken: the parser goes on as if nobody had asked.
        """
        row, problem = _row(self.rest) if self.rest.strip() else (None, None)
        whole = row is not None and problem is None
        return self._conformed([_table([{**(row or {}), "line": self.at + 1}])] if whole else [])

    def frame(self) -> pl.DataFrame:
        """The rows that came since the last call."""
        chunks, self._chunks = self._chunks, []
        return self._conformed(chunks)

    def _conformed(self, chunks: list[pl.DataFrame]) -> pl.DataFrame:
        if not chunks:
            return empty()
        constants: dict[str, Any] = {"source": "metrics", "file": self.file, "run": 0, "stage": self.stage}
        return conform(pl.concat(chunks, rechunk=True), {**constants, "kind": "step"}, finite=True)

    def _read(self, block: bytes, first: int, count: int) -> None:
        """A block of `count` whole lines, the first of which has number `first`."""
        try:
            frame = pl.read_ndjson(io.BytesIO(block), schema=RECORD_COLUMNS)
            # Polars skips blank lines; a record without a step is none.
            good = frame.height == count and not frame["step"].has_nulls() and block.count(b'"step"') == count
            good = good and all(frame[name].is_finite().all() for name in _REALS)  # 1e999 is JSON, and infinite
            # As text Polars takes anything for the rates, and writes escaped characters as they are.
            good = good and frame["learning_rates"].str.starts_with("{").all() and b"\\" not in block
            words = frame["events"].drop_nulls().explode(empty_as_null=False)
            good = good and not (words.is_null() | words.str.contains(_NO_WORD)).any()
        except (pl.exceptions.PolarsError, pl.exceptions.PanicException):
            good = False
        if good:
            self._chunks.append(frame.with_columns(line=pl.int_range(first, first + count, dtype=pl.Int64)))
        elif len(block) > SMALLEST and count > 1:
            middle = block.rfind(b"\n", 0, len(block) // 2) + 1 or block.find(b"\n") + 1
            above = block.count(b"\n", 0, middle)
            self._read(block[:middle], first, above)
            self._read(block[middle:], first + above, count - above)
        else:
            self._read_lines(block, first)

    def _read_lines(self, block: bytes, first: int) -> None:
        rows = []
        for number, line in enumerate(block[:-1].split(b"\n"), first):
            if not line.strip():
                continue
            row, problem = _row(line)
            if problem is not None:
                self._bad(number, problem, lost=row is None)
            if row is not None:
                rows.append({**row, "line": number})
        if rows:
            self._chunks.append(_table(rows))

    def _bad(self, number: int, problem: str, lost: bool = True) -> None:
        self.bad += lost
        if len(self.problems) < MAX_PROBLEMS:
            told = "it was left out" if lost else "the rest of the record was kept"
            self.problems.append(f"{self.file}, line {number:,}: {problem}; {told}")


def _table(rows: list[dict[str, Any]]) -> pl.DataFrame:
    schema = {**RECORD_COLUMNS, "line": pl.Int64}
    return pl.DataFrame({name: [row[name] for row in rows] for name in schema}, schema=schema)


def _row(line: bytes) -> tuple[dict[str, Any] | None, str | None]:
    """The columns of one line and what is wrong with it; no columns if it is no record at all."""
    if line[0] not in _MAY_BEGIN:  # JSON's own words for what is wrong cost ten times as much as looking
        return None, "not a record: no JSON object"
    try:
        record = json.loads(line)  # takes NaN and Infinity, which some tools write
    except RecursionError:
        return None, "nested too deep"
    except ValueError as error:  # not JSON, not UTF-8, a number of thousands of digits
        return None, error.msg if isinstance(error, json.JSONDecodeError) else "not JSON text"
    step = record.get("step") if isinstance(record, dict) else None
    if type(step) is not int or abs(step) >= 1 << 62:
        return None, "not a record: it has no step that is a whole number"
    row: dict[str, Any] = {}
    wrong = []
    for name in RECORD_COLUMNS:
        value = record.get(name)
        row[name] = _value(name, value)
        if value is not None and row[name] is None:
            wrong.append(name)
    if any(isinstance(value, float) and value - value != 0 for value in record.values()):  # NaN or infinite
        row["events"] = [*(row["events"] or []), NOT_FINITE]
        wrong = [name for name in wrong if not isinstance(record[name], float)]
    return row, f"{', '.join(wrong)} has a value of the wrong kind" if wrong else None


def _value(name: str, value: Any) -> Any:
    """The value if its column can hold it, else None."""
    if name == "learning_rates":
        return json.dumps(value) if isinstance(value, dict) else None
    if name == "events":
        good = isinstance(value, list) and all(isinstance(word, str) for word in value)
        return value if good else None
    if type(value) not in (int, float) or abs(value) > 1e300 or value != value:
        return None
    if name in _INTEGERS:
        return int(value) if value == int(value) and abs(value) < 1 << 62 else None
    return float(value)
