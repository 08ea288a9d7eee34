"""Parquet as lines: every row becomes the JSON line it would be in a JSONL file, so one checker serves both."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from nanochat.checkpoint_files import shown

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile

    from nanochat.analysis.dataset_inspector.sources import Source

ROWS = 1000  # rows turned into lines at a time
MAX_GROUP = 1 << 30  # bytes of a row group unpacked


def open_parquet(source: "Source") -> "ParquetFile":
    """The file, opened. Raises InspectorError."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from nanochat.analysis.dataset_inspector.sources import InspectorError

    name = shown(source.name, 200)
    try:
        file = pq.ParquetFile(source.upload if source.path is None else source.path)
        sizes = [file.metadata.row_group(group).total_byte_size for group in range(file.num_row_groups)]
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InspectorError(
            f"{name}: it cannot be read as parquet ({shown(str(error))}); get the file again"
        ) from None
    if max(sizes, default=0) > MAX_GROUP:
        raise InspectorError(
            f"{name}: a row group takes {max(sizes):,} bytes unpacked, the limit is {MAX_GROUP:,}; write the file "
            "again with row groups of about 1,000 rows"
        )
    if not file.metadata.num_rows:
        raise InspectorError(f"{name}: the file has no rows; write one conversation a row")
    return file


def columns_of(source: "Source") -> list[str]:
    """The names of its columns. Raises InspectorError."""
    with open_parquet(source) as file:
        return list(file.schema_arrow.names)


def parquet_lines(source: "Source", progress: Callable[[int], None] = lambda done: None) -> Iterator[bytes]:
    """The rows as JSON lines, about a thousand at a time. Raises InspectorError."""
    import msgspec
    import pyarrow as pa

    from nanochat.analysis.dataset_inspector.sources import InspectorError

    done = 0
    with open_parquet(source) as file:
        rows = file.metadata.num_rows
        try:
            for batch in file.iter_batches(ROWS):
                yield b"".join(msgspec.json.encode(_plain(row), enc_hook=str) + b"\n" for row in batch.to_pylist())
                done += batch.num_rows
                progress(source.size * done // rows)
        except (pa.ArrowException, OSError, UnicodeDecodeError, OverflowError) as error:
            raise InspectorError(
                f"{shown(source.name, 200)}: row {done + 1:,} or one soon after it cannot be read "
                f"({shown(str(error))}); get the file again"
            ) from None


def _plain(row: dict[str, Any]) -> Any:
    """A row as a JSON line would hold it: a bare list where the messages are the only column."""
    messages = row.get("messages")
    if isinstance(messages, list):
        # Arrow gives every message all the keys that any message has; a null stands for one that is not there.
        row["messages"] = [
            {key: value for key, value in message.items() if value is not None}
            if isinstance(message, dict)
            else message
            for message in messages
        ]
    return row
