"""One JSON document where one conversation a line is usual: how it is told from lines, and where its items stand.

is_document(b'[\\n  {"messages": [...')   # a list over many lines, as json.dump(..., indent=2) writes it
"""

import json
import re
from collections.abc import Iterator
from typing import Any

BOM = b"\xef\xbb\xbf"
_SPACE = re.compile(r"[ \t\r\n]*")
_FIRST_KEY = re.compile(r'\{\s*"([^"\\]*)"')
_MESSAGE_KEYS = ("role", "content")  # an object that begins with one is a message, and a list of them a conversation


def is_document(head: bytes) -> bool:
    """Whether a file that begins so is one JSON value over many lines, or a list of conversations in one.

    >>> is_document(b'[\\n  {"messages": []}'), is_document(b'[{"id": 1, "conversations": []}, {"id": 2}]')
    (True, True)
    >>> is_document(b'{"messages": []}\\n{"messages": []}\\n'), is_document(b'[{"role": "user", "content": "Hi"}]\\n')
    (False, False)
    """
    text = head.removeprefix(BOM).decode(errors="replace").strip()
    first, _, rest = (part.strip("\r") for part in text.partition("\n"))
    first, rest = first.rstrip(), rest.lstrip("\r\n")
    if first == "[":
        return True
    if rest and first.endswith(("[", "{", ",", ":")):
        # A line that was cut off is followed by one that begins as lines do, and not by an indented one.
        if rest.startswith((" ", "\t", '"')):
            return True
        if first.startswith("[") and first.endswith("},") and rest.startswith('{"role"'):
            return True
    return _is_list_of_many(first, bool(rest))


def _is_list_of_many(first: str, more: bool) -> bool:
    """Whether the first line begins a list of conversations. more: whether other lines follow it."""
    if not first.startswith("["):
        return False
    if more and _is_value(first):  # a data set with such a list on each line, which are no conversations
        return False
    inside = first[1:].lstrip()
    key = _FIRST_KEY.match(inside)
    return bool(re.match(r"\[\s*\{", inside)) or (key is not None and key[1] not in _MESSAGE_KEYS)


def _is_value(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def items(text: str) -> Iterator[str]:
    """The text of each conversation of a document; a document that is one conversation is its only item.

    Raises ValueError, of which json.JSONDecodeError is one, or RecursionError where it is no JSON that can be read.
    """
    decode = json.JSONDecoder().raw_decode
    begin = _after_space(text, 0)
    at = _after_space(text, begin + 1)
    if text[begin : begin + 1] != "[" or text[at : at + 1] == "]" or _is_message(decode(text, at)[0]):
        _, end = decode(text, begin)
        yield text[begin:end]
    else:
        while True:
            _, end = decode(text, at)
            yield text[at:end]
            end = _after_space(text, end)
            if text[end : end + 1] != ",":
                break
            at = _after_space(text, end + 1)
        if text[end : end + 1] != "]":
            raise json.JSONDecodeError("expecting ',' or ']'", text, end)
        end += 1
    if text[end:].strip():
        raise json.JSONDecodeError("more follows the end", text, _after_space(text, end))


def _after_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at


def _is_message(value: Any) -> bool:
    return isinstance(value, dict) and "role" in value and "messages" not in value
