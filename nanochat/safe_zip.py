"""The outside of a .pt file: a zip archive whose members lie stored, once each, where the directory says.

torch writes a zip without compression. Whatever else a zip can say (deflated members that unpack to gigabytes, two
members over the same bytes, a directory longer than the file) is refused here, before a member is read. Python's
zipfile takes all of that, so the directory is read by hand; it is three kinds of records.
"""

import struct
from dataclasses import dataclass
from typing import BinaryIO

from nanochat.checkpoint_files import CheckpointError, damaged, hostile, location, shown

MAX_DIRECTORY_BYTES = 8 << 20  # a name of 60 letters for each of 70,000 tensors

_END = struct.Struct("<4s4H2LH")  # signature, disks, entries here, entries, directory size and offset, comment length
_END64_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_ENTRY = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_FULL16, _FULL32 = 0xFFFF, 0xFFFFFFFF  # "see the 64-bit field instead"


@dataclass(frozen=True)
class Member:
    """One file inside the archive."""

    name: str  # without the archive's own top folder: "data.pkl", "data/0"
    start: int  # of its bytes in the archive
    size: int  # bytes
    crc: int  # CRC-32 of its bytes


def read_exactly(file: BinaryIO, path: str, start: int, size: int) -> bytes:
    """`size` bytes from `start`, or the error that the file ended too soon."""
    file.seek(start)
    content = bytearray()
    while len(content) < size:
        more = file.read(size - len(content))
        if not more:
            raise damaged(path, f"it ends at byte {start + len(content):,}, inside a record")
        content += more
    return bytes(content)


def read_members(file: BinaryIO, path: str, file_size: int) -> dict[str, Member]:
    """The members of the archive by name, in the order of their bytes.

    Raises:
        CheckpointError: not a zip, cut short, or a zip of a kind that torch does not write.
    """
    head = read_exactly(file, path, 0, min(4, file_size))
    if head != b"PK\x03\x04":
        if head[:1] == b"\x80":
            raise CheckpointError(
                f"{location(path)}: a bare pickle or a .pt file from before torch 1.6, which can only be opened by "
                "running what it says; open it where you trust it and save it again with torch.save"
            )
        raise damaged(path, "this is not a .pt file" if file_size else "the file is empty")
    count, offset, size = _read_end(file, path, file_size)
    if size > MAX_DIRECTORY_BYTES:
        raise hostile(path, f"a directory of {size:,} bytes, the limit is {MAX_DIRECTORY_BYTES:,}")
    directory = read_exactly(file, path, offset, size)
    headers = []
    position = 0
    for _ in range(count):
        name, header, stored, crc, position = _read_entry(directory, position, path)
        headers.append((header, name, stored, crc))
    if position != size:
        raise damaged(path, f"its directory holds {size - position:,} bytes more than its {count:,} entries")
    return _locate(file, path, sorted(headers), offset)


def _read_end(file: BinaryIO, path: str, file_size: int) -> tuple[int, int, int]:
    """Number of entries, offset and size of the directory, from the record at the very end of the file."""
    position = file_size - _END.size
    if position < 0:
        raise damaged(path, f"{file_size} bytes are too few for a .pt file")
    record = _END.unpack(read_exactly(file, path, position, _END.size))
    signature, disk, first_disk, here, count, size, offset, comment = record
    if signature != b"PK\x05\x06" or comment:
        raise damaged(path, "the directory at its end is missing")
    if position >= _END64_LOCATOR.size:
        place = position - _END64_LOCATOR.size
        mark, _, place64, _ = _END64_LOCATOR.unpack(read_exactly(file, path, place, _END64_LOCATOR.size))
        if mark == b"PK\x06\x07":  # torch writes this second record always, and 4 GB or more need it
            position = place - _END64.size
            if place64 != position:
                raise damaged(path, "the 64-bit directory record is not where it should be")
            narrow = (disk, first_disk, here, count, size, offset)
            record = _END64.unpack(read_exactly(file, path, position, _END64.size))
            mark, _, _, _, *wide = record
            for value, same, full in zip(narrow, wide, [_FULL16] * 4 + [_FULL32] * 2, strict=True):
                if mark != b"PK\x06\x06" or value not in (same, full):
                    raise damaged(path, "the 64-bit directory record is not that of this file")
            disk, first_disk, here, count, size, offset = wide
    if disk or first_disk or here != count:
        raise hostile(path, "an archive in several parts")
    if offset + size != position:
        raise damaged(path, f"a directory of {size:,} bytes at {offset:,} does not end at {position:,}")
    return count, offset, size


def _read_entry(directory: bytes, position: int, path: str) -> tuple[str, int, int, int, int]:
    """One directory entry: name, offset of its header, size, CRC; and where the next entry begins."""
    if position + _ENTRY.size > len(directory):
        raise damaged(path, "its directory ends inside an entry")
    fields = _ENTRY.unpack_from(directory, position)
    signature, flags, method, crc, packed, size = fields[0], fields[3], fields[4], fields[7], fields[8], fields[9]
    name_length, extra_length, comment_length, header = fields[10], fields[11], fields[12], fields[16]
    name_start = position + _ENTRY.size
    extra_start = name_start + name_length
    end = extra_start + extra_length + comment_length
    if signature != b"PK\x01\x02" or end > len(directory):
        raise damaged(path, "its directory holds a broken entry")
    try:
        name = directory[name_start:extra_start].decode("utf-8")
    except UnicodeDecodeError:
        raise damaged(path, "a member's name is not text") from None
    if flags & 1 or method != 0:
        raise hostile(path, f"member '{shown(name)}' is compressed or encrypted")
    extra = directory[extra_start : extra_start + extra_length]
    size, packed, header = _wide(extra, (size, packed, header), path)
    if size != packed:
        raise hostile(path, f"member '{shown(name)}' has {packed:,} bytes and claims {size:,}")
    return name, header, size, crc, end


def _wide(extra: bytes, values: tuple[int, int, int], path: str) -> tuple[int, int, int]:
    """Replace each value that does not fit 32 bits by its 64-bit form, which extra field 1 holds in this order."""
    if _FULL32 not in values:
        return values
    position = 0
    while position + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, position)
        if kind == 1 and length >= 8 * values.count(_FULL32) and position + 4 + length <= len(extra):
            wide = iter(struct.unpack_from(f"<{length // 8}Q", extra, position + 4))
            size, packed, header = (next(wide) if value == _FULL32 else value for value in values)
            return size, packed, header
        position += 4 + length
    raise damaged(path, "a member's 64-bit size is missing")


def _locate(file: BinaryIO, path: str, headers: list[tuple[int, str, int, int]], end: int) -> dict[str, Member]:
    """Check each local header and that no two members share a byte."""
    members: dict[str, Member] = {}
    top: str | None = None
    free = 0  # first byte that no member has claimed yet
    for header, name, size, crc in headers:
        if header < free or header + _LOCAL.size > end:
            raise hostile(path, f"member '{shown(name)}' overlaps another")
        fields = _LOCAL.unpack(read_exactly(file, path, header, _LOCAL.size))
        signature, method, name_length, extra_length = fields[0], fields[3], fields[9], fields[10]
        start = header + _LOCAL.size + name_length + extra_length
        free = start + size
        if signature != b"PK\x03\x04" or method != 0 or free > end:
            raise damaged(path, f"member '{shown(name)}' is not where the directory says")
        if read_exactly(file, path, header + _LOCAL.size, name_length) != name.encode("utf-8"):
            raise damaged(path, f"member '{shown(name)}' has another name in its own header")
        folder, slash, short = name.partition("/")
        if not slash or (top is not None and folder != top):
            raise hostile(path, f"member '{shown(name)}' lies outside the archive's own folder")
        top = folder
        if short in members:
            raise hostile(path, f"two members are named '{shown(name)}'")
        members[short] = Member(short, start, size, crc)
    return members
