"""One JSON document instead of one conversation a line: a saved conversation, or a list of many. It becomes lines.

What stands between a conversation's brackets stays as it is, byte for byte, but for its line breaks: between values
they are white space, and inside a text JSON has none. So the checks see what they would see in a JSONL file.
"""

import json
import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from nanochat.checkpoint_files import shown
from nanochat.tasks.conversation_file import BOM

if TYPE_CHECKING:
    from nanochat.analysis.dataset_inspector.sources import Source

MAX_DOCUMENT = 256 << 20  # bytes; it is held in memory
PIECE = 1 << 20  # bytes handed on at a time
# A list whose first item is a list of messages, or an object as one line of a data set has it.
_LIST_OF_MANY = re.compile(rb'\[\s*(\[\s*\{|\{\s*"(messages|conversations|instruction|prompt|question)")')
_SPACE = re.compile(r"[ \t\r\n]*")


def is_document(head: bytes) -> bool:
    """Whether a file that begins so is one JSON value over many lines, or a list of conversations in one.

    >>> is_document(b'[\\n  {"messages": []}'), is_document(b'[{"messages": []}, {"messages": []}]')
    (True, True)
    >>> is_document(b'{"messages": []}\\n{"messages": []}\\n'), is_document(b'[{"role": "user", "content": "Hi"}]\\n')
    (False, False)
    """
    first, _, rest = head.removeprefix(BOM).strip().partition(b"\n")
    first = first.rstrip()
    if first == b"[":
        return True
    if rest:  # a line that was cut off is followed by one that begins as lines do, and not by an indented one
        return first.endswith((b"[", b"{", b",", b":")) and rest.startswith((b" ", b"\t", b'"'))
    return _LIST_OF_MANY.match(first) is not None


def document_lines(
    source: "Source", read: Callable[[], bytes], progress: Callable[[int], None] = lambda done: None
) -> Iterator[bytes]:
    """The conversations of a document as lines, a megabyte at a time. read: gives its bytes.

    Raises InspectorError where it is no JSON.
    """
    from nanochat.analysis.dataset_inspector.sources import InspectorError

    name = shown(source.name, 200)
    if source.size > MAX_DOCUMENT:
        raise InspectorError(
            f"{name}: this is one JSON document of {source.size:,} bytes, and {MAX_DOCUMENT:,} is the most that is "
            "read whole; write one conversation a line"
        )
    text = read().removeprefix(BOM).decode(errors="surrogateescape")
    try:
        parts = _parts(text)
    except (json.JSONDecodeError, RecursionError) as error:
        why = f"{error.msg.lower()} in line {error.lineno:,}" if isinstance(error, json.JSONDecodeError) else "too deep"
        raise InspectorError(
            f"{name}: this is one JSON document and not one conversation a line, and it cannot be read ({why}); mend "
            "it there, or write one conversation a line"
        ) from None
    progress(source.size)
    piece = bytearray()
    for begin, end in parts:
        line = text[begin:end].replace("\r", " ").replace("\n", " ")
        piece += line.encode(errors="surrogateescape") + b"\n"
        if len(piece) > PIECE:
            yield bytes(piece)
            piece.clear()
    yield bytes(piece)


def _parts(text: str) -> list[tuple[int, int]]:
    """Where each conversation of the document begins and ends."""
    decode = json.JSONDecoder().raw_decode
    at = _after_space(text, 0)
    value, end = decode(text, at)
    if text[end:].strip():
        raise json.JSONDecodeError("more follows the end", text, _after_space(text, end))
    if not isinstance(value, list) or not value or _is_message(value[0]):
        return [(at, end)]
    parts, at = [], at + 1
    while True:
        at = _after_space(text, at)
        _, end = decode(text, at)
        parts.append((at, end))
        at = _after_space(text, end)
        if text[at : at + 1] != ",":
            return parts
        at += 1


def _after_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at


def _is_message(value: Any) -> bool:
    return isinstance(value, dict) and "role" in value and "messages" not in value
