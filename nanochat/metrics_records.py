"""Read metrics.jsonl, which our own runs write: one StepRecord a line (nanochat/records.py).

Polars reads whole blocks at once and refuses anything that is not exactly a record; a block that it refuses is halved
until the bad lines stand alone, and those are read one by one. So a million good records cost about a second, and
every bad line is named with its number: NaN that another tool wrote, a half-written last line, a line by hand.
"""

import io
import json
from typing import Any

import polars as pl

from nanochat.metrics_frame import RECORD_COLUMNS, conform, empty
from nanochat.records import NOT_FINITE

MAX_LINE = 1 << 20  # bytes; a record has a few hundred
MAX_PROBLEMS = 50  # sentences that are kept; the rest is counted
SMALLEST = 1 << 16  # bytes below which a refused block is read line by line

# flops is a whole number that may exceed 64 bits, so it is read as a float like the others.
_MAY_BEGIN = b"{ \t\r\xef\xfe\xff\x00"  # the first byte of a record: the last four are those of other encodings
_INTEGERS = ("step", "tokens")
_REALS = [name for name, dtype in RECORD_COLUMNS.items() if dtype == pl.Float64]


class RecordParser:
    """Reads one metrics.jsonl, in pieces; the counterpart of metrics_log.LogParser."""

    def __init__(self, file: str, stage: str | None = None) -> None:
        self.file, self.stage = file, stage
        self.problems: list[str] = []  # a sentence for each bad line, the first ones
        self.bad = 0  # lines that gave no row
        self.at = 0  # complete lines so far
        self._rest, self._dropping = b"", False
        self._chunks: list[pl.DataFrame] = []

    @property
    def torn(self) -> str | None:
        """The last line if its end is missing and it is no whole record."""
        return self._rest[:MAX_LINE].decode("utf-8", "replace") if self._rest else None

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the file."""
        if self.at == 0 and not self._rest and data.startswith(b"\xef\xbb\xbf"):
            data = data[3:]  # a byte order mark, which some editors put there
        if self._dropping:
            start = data.find(b"\n") + 1
            if not start:
                return
            self._dropping = False
            self.at += 1
            self._bad(self.at, f"longer than {MAX_LINE:,} bytes")
            data = data[start:]
        data = self._rest + data
        end = data.rfind(b"\n") + 1
        self._rest = data[end:]
        if end:
            count = data.count(b"\n", 0, end)
            self._read(data[:end], self.at + 1, count)
            self.at += count
        if len(self._rest) > MAX_LINE:  # a file without newlines must not fill the memory
            self._rest, self._dropping = b"", True

    def finish(self) -> None:
        """Take a last line that has no newline, if it is a whole record: cut short it would not be one."""
        row, problem = _row(self._rest) if self._rest.strip() else (None, None)
        if row is not None and problem is None:
            self._chunks.append(_table([{**row, "line": self.at + 1}]))
            self._rest = b""

    def frame(self) -> pl.DataFrame:
        """The rows that came since the last call."""
        chunks, self._chunks = self._chunks, []
        if not chunks:
            return empty()
        constants: dict[str, Any] = {"source": "metrics", "file": self.file, "run": 0, "stage": self.stage}
        return conform(pl.concat(chunks, rechunk=True), {**constants, "kind": "step"}, finite=True)

    def _read(self, block: bytes, first: int, count: int) -> None:
        """A block of `count` whole lines, the first of which has number `first`."""
        try:
            frame = pl.read_ndjson(io.BytesIO(block), schema=RECORD_COLUMNS)
            # Polars skips blank lines; a record without a step is none.
            good = frame.height == count and not frame["step"].has_nulls()
            good = good and all(frame[name].is_finite().all() for name in _REALS)  # 1e999 is JSON, and infinite
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
