"""Where lines come from: files and folders, plain, gzip or zstandard, parquet, and what a browser uploads.

Everything ends in blocks of whole lines, a few megabytes each, with the byte offset and the number of the first line.
So a file of any size takes a bounded amount of memory; one line without end is measured and not kept, and a packed file
that grows out of all proportion is refused. Compression is told from the first bytes and not from the name.
"""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from nanochat.analysis.dataset_inspector.document import document_lines
from nanochat.checkpoint_files import CheckpointError, location, open_regular, shown
from nanochat.json_document import BOM, is_document
from nanochat.paths import expand
from nanochat.tasks.conversation_file import MAX_LINE_BYTES

BLOCK = 4 << 20  # bytes read at a time
PEEK = 8 << 10  # bytes that tell what a file is
HEAD = 1 << 10  # bytes kept of a line that is too long
MAX_RATIO = 200  # a packed file may grow this much; conversations grow about five times
RATIO_FROM = 64 << 20  # unpacked bytes below which nobody minds
SUFFIXES = (".jsonl", ".json", ".ndjson", ".parquet", ".txt")
PACKED = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstandard"}
MADE = ("document", "parquet")  # forms whose lines are made while they are read
WIDE = {b"\xff\xfe\0\0": "UTF-32", b"\0\0\xfe\xff": "UTF-32", b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}


class InspectorError(ValueError):
    """A data set cannot be inspected: one sentence with the file, what is wrong with it and what to do."""


@dataclass(frozen=True)
class Source:
    """One file to be read; opened anew whenever it is needed."""

    name: str  # as a person knows it
    form: str  # "jsonl", "document" (one JSON value of many lines), "parquet" or "text"
    packed: str  # "", "gzip" or "zstandard"
    size: int  # bytes on disk
    stamp: int  # time of the last change in ns; 0 for an upload
    path: Path | None = None
    upload: Any = None  # a seekable binary file object, if it is no path

    @property
    def seekable(self) -> bool:
        """Whether a line can be fetched by its offset, without reading all before it."""
        return self.form == "jsonl" and not self.packed


@dataclass(frozen=True)
class Block:
    """Whole lines of one source."""

    data: bytes  # lines with their line ends; the last line of a file may lack its own
    first_line: int  # number of its first line, from 1
    offset: int  # where it begins, in unpacked bytes
    overlong: int = 0  # more than 0: `data` is only the head of one line of this many bytes


def find_sources(names: Sequence[str | Path]) -> list[Source]:
    """The files that names stand for; a folder stands for all data files in it and below, by name.

    Raises InspectorError for what is not there, no regular file, or no text.
    """
    found: list[Source] = []
    for name in names:
        path = expand(name)
        try:
            is_folder = path.is_dir()
        except OSError as error:  # a name that no file can have
            raise InspectorError(f"{shown(str(path), 100)}: {error.strerror}; name a file or a folder") from None
        if is_folder:
            inside = _inside(path)
            if not inside:
                kinds = ", ".join(SUFFIXES)
                raise InspectorError(f"{location(path)}: no data file is in this folder; it takes {kinds}, .gz, .zst")
            found += [_source(entry, f"{path.name}/{entry.relative_to(path).as_posix()}") for entry in inside]
        else:
            found.append(_source(path, path.name))
    if not found:
        raise InspectorError("no file was named; give a JSONL file or a folder")
    return found


def upload_source(name: str, file: Any) -> Source:
    """A file object from a browser as a source. Raises InspectorError."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    head = file.read(PEEK)
    file.seek(0)
    form, packed = _judge(name, Path(name), head, size)
    return _unpacked_form(Source(name, form, packed, size, 0, upload=file))


def _inside(folder: Path) -> list[Path]:
    """The data files below a folder; hidden ones and links to folders are left out."""
    found: list[Path] = []
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [entry for name in names if _is_data(entry := Path(place, name)) and entry.is_file()]
    return sorted(found)


def _is_data(path: Path) -> bool:
    name = path.name.removesuffix(".gz").removesuffix(".zst")
    return Path(name).suffix.lower() in SUFFIXES and not path.name.startswith(".")


def _source(path: Path, name: str) -> Source:
    with opened(path) as file:
        status = os.fstat(file.fileno())
        try:
            head = file.read(PEEK)
        except OSError as error:
            raise InspectorError(f"{location(path)}: reading failed ({error.strerror}); name another file") from None
    form, packed = _judge(location(path), path, head or b"", status.st_size)
    name = name.encode(errors="replace").decode()  # a name on disk need not be text
    return _unpacked_form(Source(name, form, packed, status.st_size, status.st_mtime_ns, path))


def _unpacked_form(source: Source) -> Source:
    """The same source, with the form of what is packed in it. Raises InspectorError where it cannot be unpacked."""
    if not source.packed or source.form != "jsonl":
        return source
    return replace(source, form="document") if is_document(_first_bytes(source, PEEK)) else source


def _judge(shown_name: str, path: Path, head: bytes, size: int) -> tuple[str, str]:
    """Form and compression, from the first bytes and the name."""
    name = shown(shown_name, 200)
    if size == 0:
        raise InspectorError(f"{name}: the file is empty; write one conversation a line")
    packed = next((word for magic, word in PACKED.items() if head.startswith(magic)), "")
    if head.startswith(b"PAR1"):
        return "parquet", ""
    suffix = Path(path.name.removesuffix(".gz").removesuffix(".zst")).suffix.lower()
    if suffix == ".parquet" or (not packed and path.suffix in (".gz", ".zst")):
        raise InspectorError(f"{name}: the content is not what the name says; get the file again")
    if not packed:
        wide = next((word for begin, word in WIDE.items() if head.startswith(begin)), "")
        zeros = sorted((head[::2].count(0), head[1::2].count(0)))  # every second byte of English in UTF-16 is 0
        if wide or (not zeros[0] and zeros[1] > len(head) // 4):
            raise InspectorError(f"{name}: this is {wide or 'UTF-16'}; save it as UTF-8")
        # A NUL byte can be a fault of a line; where no line begins as JSON does, this is something else.
        lines = head.removeprefix(BOM).split(b"\n")
        if b"\0" in head and not any(line.lstrip().startswith((b"{", b"[")) for line in lines):
            raise InspectorError(f"{name}: this is a binary file and no text; name a JSONL file, saved as UTF-8")
    if suffix == ".txt":
        return "text", packed
    return "document" if is_document(head) and not packed else "jsonl", packed


def opened(path: Path) -> BinaryIO:
    """A regular file, open for reading. Raises InspectorError."""
    try:
        return open_regular(path)
    except CheckpointError as error:
        words = str(error).replace("give the path of a checkpoint folder", "give the path of a data file")
        raise InspectorError(words.replace("put the file that belongs there", "name a data file")) from None


class _Guarded:
    """An unpacking stream that gives up on a file which grows too much, and turns errors into sentences."""

    def __init__(self, source: Source, raw: BinaryIO) -> None:
        self.source, self.raw, self.out = source, raw, 0
        if source.packed == "zstandard":
            import pyarrow as pa

            self.stream: Any = pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), "zstd")
        else:
            self.stream = gzip.GzipFile(fileobj=raw)

    def read(self, size: int) -> bytes:
        name = shown(self.source.name, 200)
        try:
            data = self.stream.read(size)
        except (OSError, EOFError, zlib.error, ValueError) as error:
            reason = shown(str(error) or type(error).__name__)
            raise InspectorError(f"{name}: it cannot be unpacked ({reason}); get the file again") from None
        self.out += len(data)
        if self.out > RATIO_FROM and self.out > MAX_RATIO * max(self.source.size, 1):
            raise InspectorError(
                f"{name}: {self.source.size:,} bytes unpack to more than {MAX_RATIO} times as much, as in a "
                "decompression bomb; unpack it yourself if you trust it, and inspect the result"
            )
        return data


def _raw(source: Source) -> BinaryIO:
    if source.path is None:
        source.upload.seek(0)
        return source.upload
    raw = opened(source.path)
    require_unchanged(source, raw)
    return raw


def require_unchanged(source: Source, raw: BinaryIO) -> None:
    """Refuse a file that is no longer the one that was found: offsets into it would be wrong. Raises InspectorError."""
    if source.path is None:
        return
    status = os.fstat(raw.fileno())
    if (status.st_size, status.st_mtime_ns) != (source.size, source.stamp):
        raise InspectorError(
            f"{shown(source.name, 200)}: the file changed while it was read; inspect it again when nobody writes to it"
        )


def blocks(source: Source, progress: Callable[[int], None] = lambda done: None, size: int = BLOCK) -> Iterator[Block]:
    """All lines of a source. progress: told the bytes of the file on disk that were read. Raises InspectorError."""
    if source.form in MADE:
        yield from cut_blocks(_made(source, progress), size)
        return
    raw = _raw(source)
    try:
        stream = _Guarded(source, raw) if source.packed else raw
        for block in cut_blocks(stream, size):
            yield block
            progress(raw.tell())
        require_unchanged(source, raw)
    except OSError as error:
        raise InspectorError(
            f"{shown(source.name, 200)}: reading failed ({shown(error.strerror)}); check the disk"
        ) from None
    finally:
        if source.path is not None:
            raw.close()


def _made(source: Source, progress: Callable[[int], None] = lambda done: None) -> _Joined:
    """The lines of a form that has none of its own. Raises InspectorError."""
    if source.form == "document":
        return _Joined(document_lines(source, lambda most: _first_bytes(source, most), progress))
    from nanochat.analysis.dataset_inspector.parquet import parquet_lines

    return _Joined(parquet_lines(source, progress))


def _first_bytes(source: Source, most: int) -> bytes:
    """The unpacked bytes of a source, up to so many. Raises InspectorError."""
    raw = _raw(source)
    try:
        return _exactly(_Guarded(source, raw) if source.packed else raw, most)
    finally:
        if source.path is not None:
            raw.close()


class _Joined:
    """Pieces of bytes as something to read from."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self.pieces, self.rest = pieces, memoryview(b"")

    def read(self, size: int) -> bytes:
        self.rest = self.rest or memoryview(next(self.pieces, b""))
        data, self.rest = bytes(self.rest[:size]), self.rest[size:]
        return data


def cut_blocks(stream: Any, size: int = BLOCK, limit: int = MAX_LINE_BYTES) -> Iterator[Block]:
    """A stream as blocks of whole lines. A line beyond `limit` is swallowed up to its end and only its head kept."""
    line, offset, rest = 1, 0, b""
    while chunk := stream.read(size):
        cut = chunk.rfind(b"\n") + 1
        if cut:
            data = b"".join((rest, memoryview(chunk)[:cut]))
            rest = chunk[cut:]
            del chunk  # not held while the block is looked at
            yield Block(data, line, offset)
            line += int(np.count_nonzero(np.frombuffer(data, np.uint8) == ord("\n")))
            offset += len(data)
        elif len(rest) + len(chunk) > limit:
            length, after = _swallow(stream, len(rest) + len(chunk), size)
            yield Block((rest + chunk)[:HEAD], line, offset, overlong=length)
            line, offset, cut = line + 1, offset + length, after.rfind(b"\n") + 1
            if cut:  # the chunk that ended the long line held whole ones behind it
                yield Block(after[:cut], line, offset)
            line, offset, rest = line + after.count(b"\n", 0, cut), offset + cut, after[cut:]
        else:
            rest += chunk
    if rest:
        yield Block(rest, line, offset)


def _swallow(stream: Any, length: int, size: int) -> tuple[int, bytes]:
    """Read to the end of the line. Its bytes in all, and what was read of the next lines."""
    while chunk := stream.read(size):
        end = chunk.find(b"\n") + 1
        if end:
            return length + end, chunk[end:]
        length += len(chunk)
    return length, b""


def lines_at(source: Source, places: Iterable[tuple[int, int, int]]) -> Iterator[bytes]:
    """The lines at (line number, offset, bytes), in that order, which must be ascending; each with its line end.

    A plain file is sought, any other is read once more. Of an over-long line comes the head alone.
    """
    if source.seekable:
        raw = _raw(source)
        try:
            for _, offset, nbytes in places:
                raw.seek(offset)
                yield _exactly(raw, nbytes) if nbytes <= MAX_LINE_BYTES else raw.read(HEAD)
            require_unchanged(source, raw)
        finally:
            if source.path is not None:
                raw.close()
        return
    stream = blocks(source)
    block: Block | None = None
    end = 0
    for number, offset, nbytes in places:
        while block is None or offset >= end:
            block = next(stream, None)
            if block is None:
                raise InspectorError(f"{shown(source.name, 200)}: line {number:,} is gone; inspect the file again")
            end = block.offset + (block.overlong or len(block.data))
        start = offset - block.offset
        yield block.data[start : start + nbytes]


def _exactly(raw: Any, size: int) -> bytes:
    """`size` bytes; an unbuffered file may give fewer at a time."""
    data = raw.read(size)
    while len(data) < size and (more := raw.read(size - len(data))):
        data += more
    return data


def copy_bytes(source: Source, offset: int, size: int, write: Callable[[bytes], object]) -> None:
    """Hand the unpacked bytes from `offset` on to `write`, `size` of them and a line end. Raises InspectorError."""
    raw = None if source.form in MADE else _raw(source)
    last = b""
    try:
        if raw is None or source.packed:
            stream: Any = _made(source) if raw is None else _Guarded(source, raw)
            while offset and (skipped := stream.read(min(BLOCK, offset))):
                offset -= len(skipped)
        else:
            stream = raw
            raw.seek(offset)
        while size and (last := stream.read(min(BLOCK, size))):
            write(last)
            size -= len(last)
    finally:
        if raw is not None and source.path is not None:
            raw.close()
    if not last.endswith(b"\n"):
        write(b"\n")
