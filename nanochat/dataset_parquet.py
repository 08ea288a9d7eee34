"""Parquet shards as nanochat has them: `shard_00000.parquet`, ..., one column `text`, read a row group at a time.

A row group (about a thousand documents in nanochat's shards) is the smallest part of such a file that can be read
alone, so memory is bounded by the largest group and not by the file. Files are opened when they are first needed:
opening thousands at the start would take longer than the first hundred steps.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanochat.checkpoint_files import location, shown
from nanochat.dataset_split import DatasetError, LongDocuments, fail, identity_of, unreadable

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile

COLUMN = "text"
_OPEN_FILES = 4  # lanes drift apart by a shard at most, so a few open files are enough
_MAX_GROUP_BYTES = 1 << 30  # unpacked; nanochat's are a few megabytes
_MAGIC = b"PAR1"  # a whole parquet file begins and ends with it


class ParquetSplit:
    """Some shards, in the order in which they are read."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = list(paths)
        self.shards = len(self.paths)
        self.long_documents: LongDocuments = "crop"
        self.remarks: tuple[str, ...] = ()
        self.identity = identity_of(self.paths, "parquet")
        self._groups: dict[int, int] = {}
        self._open: OrderedDict[int, ParquetFile] = OrderedDict()  # the one used last at the end
        # A lone shard is read by training's thread and by an evaluation at once, and two threads in one file can hang.
        self._lock = threading.RLock()
        for path in self.paths:
            require_whole(path)
        for shard in {0, self.shards - 1}:  # a wrong column shows here and not in the middle of a run
            self.groups(shard)

    def is_empty(self) -> bool:
        """Whether no shard has a row. Opens shards up to the first that has one."""
        with self._lock:
            return not any(self._file(shard).metadata.num_rows for shard in range(self.shards))

    def groups(self, shard: int) -> int:
        with self._lock:
            if shard not in self._groups:
                self._groups[shard] = self._file(shard).num_row_groups
            return self._groups[shard]

    def read(self, shard: int, group: int) -> list[str]:
        with self._lock:
            return self._read(shard, group)

    def _read(self, shard: int, group: int) -> list[str]:
        file, path = self._file(shard), self.paths[shard]
        size = file.metadata.row_group(group).total_byte_size
        if size > _MAX_GROUP_BYTES:
            fail(
                path,
                f"row group {group} takes {size:,} bytes unpacked, the limit is {_MAX_GROUP_BYTES:,}",
                "write the file again with row groups of about 1,000 documents",
            )
        texts = _asked(path, lambda: file.read_row_group(group, columns=[COLUMN]).column(COLUMN).to_pylist())
        if None in texts:
            fail(
                path,
                f"row {texts.index(None)} of row group {group} has no text (null)",
                "write the file again without such rows",
            )
        return texts

    def _file(self, shard: int) -> ParquetFile:
        if shard not in self._open:
            self._open[shard] = _opened(self.paths[shard])
            if len(self._open) > _OPEN_FILES:
                self._open.popitem(last=False)[1].close()
        self._open.move_to_end(shard)
        return self._open[shard]


def require_whole(path: Path) -> None:
    """Refuse a file that is not parquet from end to end, as a broken download is not. Reads eight bytes.

    Raises:
        DatasetError: it is not parquet, or was cut short.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(4)
            size = file.seek(0, 2)
            file.seek(max(size - 4, 0))
            tail = file.read(4)
    except OSError as error:
        unreadable(path, error)
    if head != _MAGIC or tail != _MAGIC or size < 12:
        what = "it was cut short" if head == _MAGIC else "it is not a parquet file"
        fail(path, what, "remove it and get it again, with `nanochat fetch` if it is one of nanochat's shards")


def _opened(path: Path) -> ParquetFile:
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = _asked(path, lambda: pq.ParquetFile(path))
    schema = _asked(path, lambda: file.schema_arrow)
    if COLUMN not in schema.names:
        columns = ", ".join(shown(name, 40) for name in schema.names[:10]) or "none"
        fail(
            path, f"it has no column '{COLUMN}' (its columns: {columns})", f"rename the one with the text to '{COLUMN}'"
        )
    kind = schema.field(COLUMN).type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
        fail(path, f"its column '{COLUMN}' holds {shown(kind)} where strings belong", "write the texts as strings")
    return file


def _asked(path: Path, question: Any) -> Any:
    """What pyarrow answers; its many kinds of error become one sentence."""
    import pyarrow as pa

    try:
        return question()
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DatasetError(
            f"{location(path)}: it cannot be read as parquet ({shown(str(error).strip() or type(error).__name__)}); it "
            "is damaged: remove it and get it again"
        ) from None
