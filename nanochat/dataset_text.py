"""Text files and JSON lines as documents, read a megabyte at a time.

Nothing is indexed beforehand. A file is divided at every megabyte, and a document belongs to the stretch in which it
begins (JSON lines), or in which the separator before it lies (text). So any stretch can be read alone, every document
belongs to exactly one, and a file of any size takes a bounded amount of memory.

What a document is:

- `.jsonl`   a line: `{"text": "..."}`, or a conversation (`{"messages": [...]}` or a bare list of messages), which
             becomes plain text: "User: ...", "Assistant: ...", a blank line between;
- one `.txt` file   what lies between lines that say `<|endoftext|>`; where there is none, between blank lines; where
             there is none of those either, each line;
- a folder of `.txt` files   each file.
"""

import functools
import itertools
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, NoReturn

from nanochat.conversation import ConversationError, segments
from nanochat.dataset_split import LongDocuments, fail, identity_of, unreadable

STRETCH = 1 << 20  # bytes a stretch
MAX_DOCUMENT = 32 << 20  # bytes of one line or one document
_BOM = b"\xef\xbb\xbf"

Form = Literal["jsonl", "endoftext", "paragraphs", "lines", "files"]
DESCRIPTIONS: dict[Form, str] = {
    "jsonl": "each line is a document",
    "endoftext": "a line that says <|endoftext|> ends a document",
    "paragraphs": "a blank line ends a document",
    "lines": "each line is a document, since there is no blank line",
    "files": "each file is a document",
}
_SEPARATORS = {"endoftext": re.compile(rb"\s*<\|endoftext\|>\s*"), "paragraphs": re.compile(rb"\s*")}


@dataclass(frozen=True)
class Piece:
    """A stretch of a file: the documents that begin at bytes start <= b < end."""

    path: Path
    start: int
    end: int


class TextSplit:
    """Some pieces of text files. One shard; a group is one piece, or several small files."""

    def __init__(self, pieces: Sequence[Piece], form: Form) -> None:
        self.form: Form = form
        self.shards = 1
        self.long_documents: LongDocuments = "cut"
        self.pieces = list(_grouped(pieces))
        ranges = [(piece.start, piece.end) for piece in pieces]
        self.identity = identity_of(sorted({piece.path for piece in pieces}), form, ranges)
        self._empty: dict[int, int] = {}  # group -> documents without a word in it; read twice counts once

    @property
    def remarks(self) -> tuple[str, ...]:
        empty = sum(self._empty.copy().values())
        return (f"{empty:,} empty document{'s were' if empty > 1 else ' was'} left out",) if empty else ()

    def groups(self, shard: int) -> int:
        return len(self.pieces)

    def read(self, shard: int, group: int) -> list[str]:
        texts = [text for piece in self.pieces[group] for text in documents(piece, self.form)]
        kept = [text for text in texts if text.strip()]
        if len(kept) < len(texts):
            self._empty[group] = len(texts) - len(kept)
        return kept


def form_of(path: Path) -> Form:
    """How one file divides into documents, from its name and its first megabyte."""
    if path.suffix.lower() == ".jsonl":
        return "jsonl"
    try:
        with open(path, "rb") as file:
            lines = file.read(STRETCH).strip().split(b"\n")
    except OSError as error:
        unreadable(path, error)
    for form, separator in _SEPARATORS.items():
        if any(separator.fullmatch(line) for line in lines):
            return "endoftext" if form == "endoftext" else "paragraphs"
    return "lines"


def stretches(path: Path, start: int = 0, end: int | None = None) -> list[Piece]:
    """A file, or a part of it, as pieces of at most a megabyte."""
    if end is None:
        end = size_of(path)
    return [Piece(path, first, min(first + STRETCH, end)) for first in range(start, end, STRETCH)]


def size_of(path: Path) -> int:
    """Bytes of a file. Raises DatasetError."""
    try:
        return os.path.getsize(path)
    except OSError as error:
        unreadable(path, error)


def documents(piece: Piece, form: Form) -> Iterator[str]:
    """The documents that belong to a piece, the empty ones too. Raises DatasetError, which names the line."""
    try:
        with open(piece.path, "rb") as file:
            if form in _SEPARATORS:
                yield from _separated(file, piece, _SEPARATORS[form])
            elif form == "files":
                # The lines that begin here, as one document: a file beyond a megabyte becomes several.
                lines = list(_lines_of(file, piece))
                if lines or piece.start == 0:
                    yield _text(piece, lines[0][0] if lines else 0, b"".join(line for _, line in lines))
            else:
                decode = _record if form == "jsonl" else _text
                for offset, line in _lines_of(file, piece):
                    if line.strip():  # an empty line is no document
                        yield decode(piece, offset, line)
    except OSError as error:
        unreadable(piece.path, error)


def _grouped(pieces: Sequence[Piece]) -> Iterator[list[Piece]]:
    """Pieces together as long as they make less than a stretch: a folder of small files is read in few groups."""
    group: list[Piece] = []
    size = 0
    for piece in pieces:
        if group and size + piece.end - piece.start > STRETCH:
            yield group
            group, size = [], 0
        group.append(piece)
        size += piece.end - piece.start
    if group:
        yield group


def _lines(file: BinaryIO, piece: Piece) -> Iterator[tuple[int, bytes]]:
    """(offset, line) of every line from the first that begins in the piece to the file's end."""
    position = file.seek(max(piece.start - 1, 0))
    rest = b"" if piece.start else b"\n"
    while not rest.endswith(b"\n"):  # what is left of the line before; a lone "\n" if one begins right here
        rest = file.readline(STRETCH)
        position += len(rest)
        if not rest:
            return
    while line := file.readline(MAX_DOCUMENT + 1):
        if len(line) > MAX_DOCUMENT:
            _too_long(piece, position, "a line")
        yield position, line.removeprefix(_BOM) if position == 0 else line
        position += len(line)


def _lines_of(file: BinaryIO, piece: Piece) -> Iterator[tuple[int, bytes]]:
    """(offset, line) of every line that begins in the piece."""
    return itertools.takewhile(lambda item: item[0] < piece.end, _lines(file, piece))


def _separated(file: BinaryIO, piece: Piece, separator: re.Pattern[bytes]) -> Iterator[str]:
    """The documents behind the separators that begin in the piece; at the file's start stands one more, unseen."""
    ours = piece.start == 0  # are we behind a separator of this piece
    document: list[bytes] = []
    first = size = 0
    for offset, line in _lines(file, piece):
        if separator.fullmatch(line):
            if document:
                yield _text(piece, first, b"".join(document))
            document, size, ours = [], 0, True
            if offset >= piece.end:
                return
        elif ours:
            first = first if document else offset
            document.append(line)
            size += len(line)
            if size > MAX_DOCUMENT:
                _too_long(piece, first, "a document")
        elif offset >= piece.end:
            return  # no separator in this piece: what goes on here began in an earlier one
    if document:
        yield _text(piece, first, b"".join(document))


def _text(piece: Piece, offset: int, raw: bytes) -> str:
    """The text of bytes that begin at `offset`, with Unix line ends and none at either end."""
    if offset == 0 and raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        fail(piece.path, "this is UTF-16", "save it as UTF-8")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        where = _line_number(piece.path, offset + error.start)
        fail(
            piece.path,
            f"line {where:,} is not UTF-8 (byte 0x{raw[error.start]:02x})",
            "convert the file, for example with `iconv -f latin1 -t utf-8`, or drop the line",
        )
    if "\0" in text:
        where = _line_number(piece.path, offset + raw.index(b"\0"))
        fail(piece.path, f"line {where:,} holds a NUL byte, so this is no text", "name a text file, saved as UTF-8")
    return text.replace("\r\n", "\n").strip("\n")


def _record(piece: Piece, offset: int, raw: bytes) -> str:
    """The text of one JSON line."""
    line = functools.partial(_line_number, piece.path, offset)
    text = _text(piece, offset, raw)
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        what = f"line {line():,} is not JSON ({error.msg} at column {error.colno:,})"
        fail(piece.path, what, "repair the line or drop it")
    except RecursionError:
        fail(piece.path, f"line {line():,} is nested too deeply", "drop the line")
    except ValueError:  # an integer of thousands of digits
        fail(piece.path, f"line {line():,} holds a number too large to read", "drop the line")
    if isinstance(value, dict) and isinstance(value.get("text"), str):
        return value["text"]
    if isinstance(value, list) or (isinstance(value, dict) and "messages" in value):
        try:
            return conversation_text(value)
        except ConversationError as error:
            fail(piece.path, f"line {line():,}: {error.sentence} ({error.kind})", error.remedy)
    fail(
        piece.path,
        f'line {line():,} has neither "text", a string, nor "messages"',
        'write {"text": "..."} or {"messages": [...]} a line',
    )


def conversation_text(conversation: Any) -> str:
    """A conversation as plain text for pretraining; a system message begins the first user message, as in training.

    Code that the assistant runs stands in backticks and what it printed behind an arrow. Raises ConversationError.

    >>> print(conversation_text([{"role": "user", "content": "Hi!"}, {"role": "assistant", "content": "Hello."}]))
    User: Hi!
    <BLANKLINE>
    Assistant: Hello.
    """
    marks = {
        "<|user_start|>": "\n\nUser: ",
        "<|assistant_start|>": "\n\nAssistant: ",
        "<|python_start|>": "`",
        "<|python_end|>": "`",
        "<|output_start|>": " -> ",
    }
    parts = (marks.get(part.text, "") if part.special else part.text for part in segments(conversation))
    return "".join(parts).strip("\n")


def _too_long(piece: Piece, offset: int, what: str) -> NoReturn:
    fail(
        piece.path,
        f"{what} that begins at line {_line_number(piece.path, offset):,} is longer than {MAX_DOCUMENT:,} bytes",
        "break it into lines or documents; a file without line ends is not text of this kind",
    )


def _line_number(path: Path, offset: int) -> int:
    """The number, from 1, of the line that holds the byte at `offset`. Reads the file up to there."""
    lines = 1
    with open(path, "rb") as file:
        while offset > 0 and (block := file.read(min(offset, STRETCH))):
            lines += block.count(b"\n")
            offset -= len(block)
    return lines
