"""One JSON document instead of one conversation a line: a saved conversation, or a list of many. It becomes lines.

What stands between a conversation's brackets stays as it is, byte for byte, but for its line breaks: between values
they are white space, and inside a text JSON has none. So the checks see what they would see in a JSONL file.
"""

import json
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from nanochat.checkpoint_files import shown
from nanochat.json_document import BOM, items

if TYPE_CHECKING:
    from nanochat.analysis.dataset_inspector.sources import Source

MAX_DOCUMENT = 256 << 20  # bytes, unpacked; it is held in memory
PIECE = 1 << 20  # bytes handed on at a time


def document_lines(
    source: "Source", read: Callable[[int], bytes], progress: Callable[[int], None] = lambda done: None
) -> Iterator[bytes]:
    """The conversations of a document as lines, a megabyte at a time. read: gives its bytes, up to so many.

    Raises InspectorError where it is no JSON, or too large.
    """
    from nanochat.analysis.dataset_inspector.sources import InspectorError

    name = shown(source.name, 200)
    data = read(MAX_DOCUMENT + 1)
    if len(data) > MAX_DOCUMENT:
        raise InspectorError(
            f"{name}: this is one JSON document of more than {MAX_DOCUMENT:,} bytes, the most that is read whole; "
            "write one conversation a line"
        )
    progress(source.size)
    text = data.removeprefix(BOM).decode(errors="surrogateescape")
    piece = bytearray()
    try:
        for item in items(text):
            line = item.replace("\r", " ").replace("\n", " ")
            piece += line.encode(errors="surrogateescape") + b"\n"
            if len(piece) > PIECE:
                yield bytes(piece)
                piece.clear()
    except (ValueError, RecursionError) as error:
        why = "too deep or too large a number"
        if isinstance(error, json.JSONDecodeError):
            why = f"{error.msg.lower()} in line {error.lineno:,}"
        raise InspectorError(
            f"{name}: this is one JSON document and not one conversation a line, and it cannot be read ({why}); mend "
            "it there, or write one conversation a line"
        ) from None
    yield bytes(piece)
