"""A block of lines checked fast: which are surely good, what they hold in numbers, and what is wrong with the rest.

msgspec decodes into fixed shapes and refuses nearly all that is wrong on the way; what it lets pass (a key that stands
twice, roles out of order, blank content) is found with numpy over all messages of the block at once. A line that fails
anywhere goes to `diagnose`, which has the last word. A pure function of its block, so blocks can be checked in any
order and in any process.
"""

import functools
import gc
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from nanochat.analysis.dataset_inspector.diagnose import diagnose
from nanochat.analysis.dataset_inspector.findings import Secret, secrets_in
from nanochat.analysis.dataset_inspector.kinds import ERRORS, mask_of
from nanochat.analysis.dataset_inspector.other_shapes import own_fields
from nanochat.analysis.dataset_inspector.sources import Block
from nanochat.json_document import BOM
from nanochat.tasks.conversation_file import MAX_LINE_BYTES

ROLE_CODES = {"system": 0, "user": 1, "assistant": 2}
AT_ONCE = 64  # lines that are decoded together; if one of them is odd, each is decoded alone
MAX_FIELDS = 200  # names of extra fields that are remembered
COLUMNS: dict[str, Any] = {  # one entry a line; zeros where the line has an error
    "nbytes": np.uint32,  # with the line end
    "kinds": np.uint32,  # bits of kinds.py
    "messages": np.uint32,  # the system message counts as one
    "chars": np.uint32,  # of all text that is encoded
    "assistant_chars": np.uint32,
    "specials": np.uint32,  # special tokens that rendering adds
    "hash": np.int64,  # of the line
    "normal": np.int64,  # of its text without case and blanks; 0 where not asked for
}
_KEY = re.compile(rb'"[ \t]*:')  # the end of a key
_NO_KEY = re.compile(rb'\\"[ \t]*:')  # inside a string a quote has a backslash before it


@dataclass(frozen=True)
class Settings:
    """What a check looks for."""

    profile: str = "chat"
    by: str | None = None  # an extra field to break the figures down by
    normalised: bool = True  # whether to find lines that differ in case and blanks only
    secrets: bool = True


@dataclass(frozen=True)
class Checked:
    """What was found in one block."""

    first_line: int
    offset: int
    columns: dict[str, NDArray[Any]]  # COLUMNS, one entry a line
    groups: list[str] | None  # the line's value of the field asked for
    lengths: dict[str, Counter[int]]  # role -> characters of a message -> how many messages
    fields: Counter[str]  # names of extra fields -> lines that have them
    secrets: list[Secret] = field(default_factory=list)


class _Part(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    type: Literal["text", "python", "python_output"]
    text: str


class _Message(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    role: Literal["system", "user", "assistant"]
    content: str | list[_Part]


class _Conversation(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    messages: list[_Message]


class _OpenPart(msgspec.Struct, gc=False):  # the same with whatever else may be in them
    type: Literal["text", "python", "python_output"]
    text: str


class _OpenMessage(msgspec.Struct, gc=False):
    role: Literal["system", "user", "assistant"]
    content: str | list[_OpenPart]


_STRICT = {
    "chat": msgspec.json.Decoder(_Conversation | list[_Message]),
    "nanochat-custom": msgspec.json.Decoder(list[_Message]),
}
_ANY = msgspec.json.Decoder()
_REFUSED = (msgspec.MsgspecError, UnicodeError, RecursionError)


def check_block(block: Block, settings: Settings) -> Checked:
    """Everything about the lines of a block. Never raises over what is in them."""
    was_on = gc.isenabled()
    gc.disable()  # a hundred thousand young objects without a cycle: collecting them takes as long as decoding
    try:
        return _check(block, settings)
    finally:
        if was_on:
            gc.enable()


def _check(block: Block, settings: Settings) -> Checked:
    lines = block.data.split(b"\n")
    if not lines[-1]:
        lines.pop()
    data = np.frombuffer(block.data, np.uint8)
    ends = np.flatnonzero(data == ord("\n")) + 1
    if len(ends) < len(lines):  # the last line has no line end
        ends = np.append(ends, len(data))
    columns = {name: np.zeros(len(lines), dtype) for name, dtype in COLUMNS.items()}
    nbytes = columns["nbytes"]
    nbytes[:] = np.diff(ends, prepend=0)
    if block.overlong:
        nbytes[0] = min(block.overlong, 2**32 - 1)
    reader = _Reader(settings, columns["kinds"], block)
    lines = reader.prepared(lines)
    found = reader.all_messages(lines, ends, int(nbytes.max()))
    lengths = _measure(found, lines, columns, reader, ends)
    columns["hash"][:] = np.fromiter(map(hash, lines), np.int64, len(lines))
    secrets = secrets_in(block.data, block.first_line) if settings.secrets else []
    groups = reader.groups if settings.by is not None else None
    return Checked(block.first_line, block.offset, columns, groups, lengths, reader.fields, secrets)


class _Reader:
    """Lines to messages, one at a time."""

    def __init__(self, settings: Settings, kinds: NDArray[Any], block: Block) -> None:
        self.settings, self.kinds, self.block = settings, kinds, block
        self.decode = _STRICT[settings.profile].decode
        self.decode_lines = _STRICT[settings.profile].decode_lines
        self.custom = settings.profile == "nanochat-custom"
        self.fields: Counter[str] = Counter()
        self.groups: list[str] = [""] * len(kinds) if settings.by is not None else []

    def prepared(self, lines: list[bytes]) -> list[bytes]:
        """The lines without byte order mark and carriage returns, which are noted."""
        if self.block.first_line == 1 and lines[0].startswith(BOM):
            self.kinds[0] |= mask_of("bom")
            lines[0] = lines[0].removeprefix(BOM)
        if b"\r" in self.block.data and not self.block.overlong:
            crlf = mask_of("crlf")
            for index, line in enumerate(lines):
                if line.endswith(b"\r"):
                    self.kinds[index] |= crlf
                    lines[index] = line[:-1]
        return lines

    def all_messages(self, lines: list[bytes], ends: NDArray[Any], longest: int) -> list[Sequence[Any] | None]:
        """The messages of every line, None where it has an error. ends: where each line ends in the block."""
        if longest > MAX_LINE_BYTES:
            return [
                self.messages(index, line) if max(len(line), self.block.overlong) <= MAX_LINE_BYTES
                else self.diagnosed(index, line)
                for index, line in enumerate(lines)
            ]  # fmt: skip
        found: list[Any] = []
        wrapped: list[int] = []  # 1 for {"messages": ...}, 0 for a bare list, -1 where the keys were counted already
        view, bounds = memoryview(self.block.data), [0, *ends.tolist()]
        closed = _closed(self.block.data, ends)
        luck = 2  # how often it may still fail before every line of the block is decoded alone
        for start in range(0, len(lines), AT_ONCE):
            stop = min(start + AT_ONCE, len(lines))
            together = luck > 0 and closed[start:stop].all()
            values = self._at_once(view[bounds[start] : bounds[stop]]) if together else []
            if len(values) == stop - start:
                luck += 1
                wrapped += [type(value) is not list for value in values]
                found += [value if type(value) is list else value.messages for value in values]
            else:
                luck -= 1
                wrapped += [-1] * (stop - start)
                found += [self.messages(index, lines[index]) for index in range(start, stop)]
        for index in _odd_keys(self.block.data, ends, found, wrapped):
            found[index] = self._checked(index, lines[index], found[index], wrapped[index])
        return found

    def _at_once(self, lines: memoryview) -> list[Any]:
        """What some lines hold, each `_closed`; less than one value a line where one of them is not surely good."""
        try:
            return self.decode_lines(lines)
        except _REFUSED:
            return []

    def messages(self, index: int, line: bytes) -> Sequence[Any] | None:
        """The messages of a line, None where it has an error."""
        try:
            value = self.decode(line)
        except _REFUSED:
            return self._open(index, line)
        if type(value) is list:
            return self._checked(index, line, value, 0)
        return self._checked(index, line, value.messages, 1)

    def _checked(self, index: int, line: bytes, messages: list[Any], wrapped: int) -> Sequence[Any] | None:
        """The messages, None where a key stands twice. wrapped: how many keys stand around them."""
        keys = wrapped + 2 * len(messages)
        keys += sum(2 * len(message.content) for message in messages if type(message.content) is list)
        return messages if messages and _keys_in(line) == keys else self.diagnosed(index, line)

    def _open(self, index: int, line: bytes) -> Sequence[Any] | None:
        """The messages of a line that may have fields of its own, decoded whole so that nothing is skipped unseen."""
        try:
            value = _ANY.decode(line)
            messages = value.get("messages") if type(value) is dict and not self.custom else value
            converted = msgspec.convert(messages, list[_OpenMessage])
        except _REFUSED:
            return self.diagnosed(index, line)
        if b'\\\\"' in line or _keys_in(line) != _keys(value) or not converted:
            return self.diagnosed(index, line)
        self._remember(index, value)
        return converted

    def _remember(self, index: int, value: Any) -> None:
        if type(value) is not dict:
            return
        if len(value) > 1 and len(self.fields) < MAX_FIELDS:
            self.fields.update(own_fields(value))
        if self.settings.by is not None and self.settings.by in value:
            self.groups[index] = _label(value[self.settings.by])

    def diagnosed(self, index: int, line: bytes) -> Sequence[Any] | None:
        """The slow way: notes what is wrong; the messages where that is no error."""
        size = int(self.block.overlong)
        diagnosis = diagnose(line, self.settings.profile, overlong=size)
        self.kinds[index] |= diagnosis.mask
        if diagnosis.readable:
            self._remember(index, diagnosis.value)
        if diagnosis.mask & ERRORS or not diagnosis.readable:
            return None
        value = diagnosis.value
        return msgspec.convert(value["messages"] if isinstance(value, dict) else value, list[_OpenMessage])


def _closed(data: bytes, ends: NDArray[Any]) -> NDArray[Any]:
    """For each line whether it begins with a bracket that opens and ends with one that closes.

    The decoder of many lines takes two values in one line and a value over two lines. But no value goes on behind a
    bracket that closes with one that opens; so where all lines are closed and as many values are found, each has one.
    """
    content = np.frombuffer(data, np.uint8)
    first, last = content[np.concatenate(([0], ends[:-1]))], ends - 1
    for blank in b"\n\r":
        last = last - (content[last] == blank)
    return ((first == ord("[")) | (first == ord("{"))) & ((content[last] == ord("]")) | (content[last] == ord("}")))


def _odd_keys(data: bytes, ends: NDArray[Any], found: list[Any], wrapped: list[int]) -> list[int]:
    """The lines that may spell more keys than were found in them, and those without a message.

    A key ends in a quote and a colon, and so may a word inside a text; blanks may stand between the two. Where no colon
    of a line has a blank before it, and as many have a quote there as keys were found, each of them is a key.
    """
    around = np.array(wrapped, np.int64)
    counts = np.fromiter((0 if messages is None else len(messages) for messages in found), np.int64, len(found))
    content = np.frombuffer(data, np.uint8)
    colons = np.flatnonzero(content == ord(":"))
    before = content[colons - 1]
    blank = (before == ord(" ")) | (before == ord("\t")) | (before == ord("\r"))
    quoted = np.diff(np.searchsorted(colons[before == ord('"')], ends), prepend=0)
    odd = (quoted != 2 * counts + around) | (counts == 0)
    if blank.any():
        odd |= np.diff(np.searchsorted(colons[blank], ends), prepend=0) > 0
    return np.flatnonzero(odd & (around >= 0)).tolist()


def _keys_in(line: bytes) -> int:
    """How many keys a line of JSON spells, each as often as it stands there; too few if one ends in a backslash."""
    return len(_KEY.findall(line)) - len(_NO_KEY.findall(line))


def _keys(value: Any) -> int:
    """How many keys stand in a JSON value, in all its depth."""
    if type(value) is dict:
        return len(value) + sum(map(_keys, value.values()))
    return sum(map(_keys, value)) if type(value) is list else 0


def _label(value: Any) -> str:
    """A field's value as the name of a group."""
    if isinstance(value, str):
        return value[:80]
    return str(value) if isinstance(value, int | float | bool) or value is None else f"({type(value).__name__})"


_LOWER = bytes(range(256)).lower()  # of ASCII
_LEAD = 0xC0  # the first byte of a character that is not ASCII is at least this, in UTF-8


@functools.cache
def _changed_by_case() -> NDArray[Any]:
    """Which first two bytes, as one number, a character may have that has another lower case. Takes some 50 ms."""
    table = np.zeros(1 << 16, bool)
    for point in (*range(0x80, 0xD800), *range(0x10000, 0x1F000)):
        letter = chr(point)
        if letter.lower() != letter:
            first, second, *_ = letter.encode()
            table[first << 8 | second] = True
    return table


def _has_case(data: bytes, ends: NDArray[Any]) -> list[bool]:
    """For each line whether lower() may change a character in it that is not ASCII. Most lines can be spared that."""
    content = np.frombuffer(data + b"\0", np.uint8)
    leads = np.flatnonzero(content >= _LEAD)
    changed = leads[_changed_by_case()[content[leads].astype(np.uint16) << 8 | content[leads + 1]]]
    escapes = np.flatnonzero(content == ord("\\"))
    escapes = escapes[content[escapes + 1] == ord("u")]  # four digits in place of a character
    inside = np.sort(np.concatenate((changed, escapes)))
    return (np.diff(np.searchsorted(inside, ends), prepend=0) > 0).tolist()


def _normal(texts: list[str], cased: bool) -> int:
    """A hash that does not change with case and blanks. cased: whether some letter may need more than ASCII's rule."""
    joined = "\0".join(texts)
    if cased:
        joined = joined.lower()
    return hash(joined.encode().translate(_LOWER, b" \t\r\n"))


def _measure(
    found: list[Sequence[Any] | None],
    lines: list[bytes],
    columns: dict[str, NDArray[Any]],
    reader: _Reader,
    ends: NDArray[Any],
) -> dict[str, Counter[int]]:
    """Fill the columns of the lines that have messages, and diagnose those whose messages look wrong."""
    good = np.array([index for index, messages in enumerate(found) if messages is not None], np.int64)
    if not len(good):
        return {}
    conversations = [messages for messages in found if messages is not None]
    flat = list(chain.from_iterable(conversations))
    counts = np.fromiter(map(len, conversations), np.int64, len(good))
    starts = np.concatenate(([0], np.cumsum(counts)[:-1]))
    texts: list[Any] = [message.content for message in flat]
    tools = np.zeros(len(flat), np.int64)
    parted = np.zeros(len(flat), bool)  # content is a list of parts, which only an assistant may give
    if b'"type"' in reader.block.data:
        for index, content in enumerate(texts):
            if type(content) is not str:
                parted[index] = True
                texts[index] = "".join([part.text for part in content])
                tools[index] = sum(part.type != "text" for part in content)
    roles = np.frombuffer(bytes([ROLE_CODES[message.role] for message in flat]), np.uint8)
    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    blank = lengths == 0
    if any(map(str.isspace, texts)):
        blank |= np.fromiter(map(str.isspace, texts), bool, len(texts))

    system = (roles[starts] == 0).astype(np.int64)
    place = np.arange(len(flat)) - np.repeat(starts + system, counts)  # -1 for the system message, 0 for the first user
    expected = np.where(place < 0, 0, 1 + place % 2)
    odd = np.add.reduceat((roles != expected) | blank | (parted & (reader.custom | (roles != 2))), starts) > 0
    odd |= roles[starts + counts - 1] != 2
    if reader.custom:
        odd |= (counts < 2) | (system > 0)
    kinds = columns["kinds"]
    for index in good[odd].tolist():
        kinds[index] |= diagnose(lines[index], reader.settings.profile).mask

    fit = (kinds[good] & ERRORS) == 0
    rows = good[fit]
    columns["messages"][rows] = counts[fit]
    columns["chars"][rows] = (np.add.reduceat(lengths, starts) + 2 * system)[fit]
    columns["assistant_chars"][rows] = np.add.reduceat(np.where(roles == 2, lengths, 0), starts)[fit]
    columns["specials"][rows] = (1 + 2 * (counts - system) + 2 * np.add.reduceat(tools, starts))[fit]
    if reader.settings.normalised:
        cased = np.array(_has_case(reader.block.data, ends))[good].tolist()
        places = zip(starts.tolist(), (starts + counts).tolist(), cased, strict=True)
        columns["normal"][good] = [_normal(texts[start:end], case) for start, end, case in places]
    counted = np.repeat(fit, counts)
    return {
        role: _tally(lengths[chosen])
        for role, code in ROLE_CODES.items()
        if (chosen := counted & (roles == code)).any()
    }


def _tally(lengths: NDArray[Any]) -> Counter[int]:
    """length -> how often it occurs."""
    if lengths.max() > 100_000:  # a table of all lengths up to it would be long
        values, counts = np.unique(lengths, return_counts=True)
    else:
        counts = np.bincount(lengths)
        values = np.flatnonzero(counts)
        counts = counts[values]
    return Counter(dict(zip(values.tolist(), counts.tolist(), strict=True)))
