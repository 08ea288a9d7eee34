"""Long metrics.jsonl files, read once and kept in our workspace as Parquet: opening them again takes a tenth.

What is kept is a beginning of the file: its rows, where it ends, and the bytes right before that place. So a run that
went on is read from there, and a file that was replaced or cut is noticed and read anew. Nothing is written beside the
file itself. The folder may be deleted at any time.

    $NANOCHAT_LAB_DIR/cache/metrics/<digest of the file's path>.parquet
"""

import contextlib
import hashlib
import json
import os
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import polars as pl

from nanochat.metrics_frame import RECORD_COLUMNS
from nanochat.paths import workspace

LARGE = 16 << 20  # bytes from which on keeping pays
MOST_FILES = 16  # that are kept; the one that was not opened for longest goes
STALE = 3600.0  # seconds after which a file that was being written is one of a process that was killed
COLUMNS: dict[str, Any] = {**RECORD_COLUMNS, "line": pl.Int64}
_STATE, _VERSION = "nanochat", 1


@dataclass(frozen=True)
class Beginning:
    """Where the kept rows end."""

    place: int  # bytes, behind a whole line
    before: str  # the last bytes before it, in Latin-1
    file: tuple[int, int, int]  # inode, time in nanoseconds and size of the file at that time
    at: int  # lines
    bad: int  # of them gave no row
    problems: tuple[str, ...]
    version: int = _VERSION


def load(path: Path) -> tuple[pl.DataFrame, Beginning] | None:
    """(rows with COLUMNS, where they end); None where nothing usable is kept of this file."""
    kept = _place(path)
    try:
        if os.stat(path).st_size < LARGE or not kept.is_file():
            return None
        # All from one open file: by its name Polars opens it more than once, and another process may put its own there.
        with kept.open("rb") as file:
            said = json.loads(pl.read_parquet_metadata(file)[_STATE])
            file.seek(0)
            rows = pl.read_parquet(file)
        inode, changed, size = said["file"]
        beginning = Beginning(**{**said, "file": (inode, changed, size), "problems": tuple(said["problems"])})
        os.utime(kept)
    except (OSError, ValueError, KeyError, TypeError, pl.exceptions.PolarsError, pl.exceptions.PanicException):
        return None  # the file itself is read then, which gives the same
    good = beginning.version == _VERSION and dict(rows.schema) == COLUMNS and beginning.at >= len(rows)
    return (rows, beginning) if good else None


def is_kept(path: Path) -> bool:
    """Whether something is kept of this file."""
    return _place(path).is_file()


def save(path: Path, rows: pl.DataFrame, beginning: Beginning) -> None:
    """Keep the rows. Where the workspace cannot be written nothing is kept: it is there for speed alone."""
    kept = _place(path)
    staged = kept.with_suffix(f".{os.getpid()}-{threading.get_ident()}.tmp")  # two visitors of a page are two threads
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        rows.select(list(COLUMNS)).write_parquet(
            staged, compression="lz4", statistics=False, metadata={_STATE: json.dumps(asdict(beginning))}
        )
        os.replace(staged, kept)
        others = sorted(kept.parent.glob("*.parquet"), key=lambda file: file.stat().st_mtime, reverse=True)
        killed = [file for file in kept.parent.glob("*.tmp") if file.stat().st_mtime < time.time() - STALE]
        for old in [*others[MOST_FILES:], *killed]:
            old.unlink()
    except (OSError, pl.exceptions.PolarsError):
        with contextlib.suppress(OSError):
            staged.unlink()


def _place(path: Path) -> Path:
    digest = hashlib.sha256(os.fsencode(path.absolute())).hexdigest()[:32]
    return workspace() / "cache" / "metrics" / f"{digest}.parquet"
