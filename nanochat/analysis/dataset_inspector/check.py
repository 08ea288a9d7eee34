"""A block of lines checked fast: which are surely good, what they hold in numbers, and what is wrong with the rest.

msgspec decodes into fixed shapes and refuses nearly all that is wrong on the way; what it lets pass (a key that stands
twice, roles out of order, blank content) is found with numpy over all messages of the block at once. A line that fails
anywhere goes to `diagnose`, which has the last word. A pure function of its block, so blocks can be checked in any
order and in any process.
"""

import gc
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from nanochat.analysis.dataset_inspector.diagnose import diagnose
from nanochat.analysis.dataset_inspector.findings import Secret, secrets_in
from nanochat.analysis.dataset_inspector.kinds import ERRORS, mask_of
from nanochat.analysis.dataset_inspector.sources import Block
from nanochat.tasks.conversation_file import BOM, MAX_LINE_BYTES

ROLE_CODES = {"system": 0, "user": 1, "assistant": 2}
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
    open_end = bool(lines[-1])
    if not open_end:
        lines.pop()
    columns = {name: np.zeros(len(lines), dtype) for name, dtype in COLUMNS.items()}
    nbytes = columns["nbytes"]
    nbytes[:] = np.fromiter(map(len, lines), np.uint32, len(lines)) + 1
    if open_end:
        nbytes[-1] -= 1
    if block.overlong:
        nbytes[0] = min(block.overlong, 2**32 - 1)
    reader = _Reader(settings, columns["kinds"], block)
    lines = reader.prepared(lines)
    found = [
        reader.messages(index, line) if size <= MAX_LINE_BYTES else reader.diagnosed(index, line)
        for index, (line, size) in enumerate(zip(lines, nbytes.tolist(), strict=True))
    ]
    lengths = _measure(found, lines, columns, reader, b'"type"' in block.data)
    columns["hash"][:] = np.fromiter(map(hash, lines), np.int64, len(lines))
    secrets = secrets_in(block.data, block.first_line) if settings.secrets else []
    groups = reader.groups if settings.by is not None else None
    return Checked(block.first_line, block.offset, columns, groups, lengths, reader.fields, secrets)


class _Reader:
    """Lines to messages, one at a time."""

    def __init__(self, settings: Settings, kinds: NDArray[Any], block: Block) -> None:
        self.settings, self.kinds, self.block = settings, kinds, block
        self.decode = _STRICT[settings.profile].decode
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

    def messages(self, index: int, line: bytes) -> Sequence[Any] | None:
        """The messages of a line, None where it has an error."""
        try:
            value = self.decode(line)
        except _REFUSED:
            return self._open(index, line)
        if type(value) is list:
            messages, keys = value, 2 * len(value)
        else:
            messages, keys = value.messages, 2 * len(value.messages) + 1
        if len(_KEY.findall(line)) != keys:  # a key stands twice, or there are parts, or a text speaks of keys
            keys += sum(2 * len(message.content) for message in messages if type(message.content) is list)
            if _keys_in(line) != keys:
                return self.diagnosed(index, line)
        return messages or self.diagnosed(index, line)

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
            self.fields.update(key for key in value if key != "messages")
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


def _normal(texts: list[str]) -> int:
    """A hash that does not change with case and blanks."""
    joined = "\0".join(texts)
    if not joined.isascii():
        joined = joined.lower()
    return hash(joined.encode().translate(_LOWER, b" \t\r\n"))


def _measure(
    found: list[Sequence[Any] | None],
    lines: list[bytes],
    columns: dict[str, NDArray[Any]],
    reader: _Reader,
    may_have_parts: bool,
) -> dict[str, Counter[int]]:
    """Fill the columns of the lines that have messages, and diagnose those whose messages look wrong."""
    good = np.array([index for index, messages in enumerate(found) if messages is not None], np.int64)
    if not len(good):
        return {}
    flat = [message for messages in found if messages is not None for message in messages]
    counts = np.fromiter((len(messages) for messages in found if messages is not None), np.int64, len(good))
    starts = np.concatenate(([0], np.cumsum(counts)[:-1]))
    texts: list[Any] = [message.content for message in flat]
    tools = np.zeros(len(flat), np.int64)
    parted = np.zeros(len(flat), bool)  # content is a list of parts, which only an assistant may give
    if may_have_parts:
        for index, content in enumerate(texts):
            if type(content) is not str:
                parted[index] = True
                texts[index] = "".join([part.text for part in content])
                tools[index] = sum(part.type != "text" for part in content)
    roles = np.frombuffer(bytes([ROLE_CODES[message.role] for message in flat]), np.uint8)
    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    blank = (lengths == 0) | np.fromiter(map(str.isspace, texts), bool, len(texts))

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
        ends = (starts + counts).tolist()
        columns["normal"][good] = [_normal(texts[start:end]) for start, end in zip(starts.tolist(), ends, strict=True)]
    counted = np.repeat(fit, counts)
    return {
        role: Counter(
            dict(zip(*(part.tolist() for part in np.unique(lengths[chosen], return_counts=True)), strict=True))
        )
        for role, code in ROLE_CODES.items()
        if (chosen := counted & (roles == code)).any()
    }
