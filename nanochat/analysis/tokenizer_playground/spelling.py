"""How a token is written where people read it, and which kind of token it is."""

import re

from nanochat.checkpoint_files import shown

TYPES = (
    "Alphabetic",  # letters of any script alone
    "Numeric",  # digits alone
    "Whitespace",  # blanks and line breaks alone
    "Punctuation",  # no letter, digit or blank
    "Mixed/Other",  # several of these, such as a word with the blank before it
    "Single byte",  # one byte that is a character by itself
    "Part of a character",  # bytes that are no valid UTF-8 by themselves
    "Special",  # a marker that no text can contain
)
_MARKS = str.maketrans({" ": "·", "\n": "⏎", "\t": "⇥", "\r": "␍", "\u00a0": "⍽"})


def spell(text: str, limit: int = 1_000_000) -> str:
    r"""Text on one line, its whitespace visible, what hides or reorders written as its code, cut to `limit` characters.

    >>> spell(" a\tb\n\u202e")
    '·a⇥b⏎\\u202e'
    """
    return shown(text.translate(_MARKS), limit)


def spell_bytes(token: bytes, limit: int = 1_000_000) -> str:
    """A token as visible text, or its bytes in hex between angle brackets where they are no valid UTF-8.

    >>> spell_bytes(b" the"), spell_bytes(bytes([0xE4, 0xBD]))
    ('·the', '<e4 bd>')
    """
    try:
        return spell(token.decode(), limit)
    except UnicodeDecodeError:
        return f"<{token[: limit // 3].hex(' ')}>"


def type_of(token: bytes) -> str:
    """Which of TYPES a token's bytes are. Special tokens are known by their id, not by their bytes.

    >>> type_of(b"Hello"), type_of(b" world"), type_of(b"!"), type_of(bytes([0xE4]))
    ('Alphabetic', 'Mixed/Other', 'Single byte', 'Part of a character')
    """
    try:
        text = token.decode()
    except UnicodeDecodeError:
        return "Part of a character"
    if len(token) == 1:
        return "Single byte"
    if text.isspace():
        return "Whitespace"
    if text.isdigit():
        return "Numeric"
    if re.fullmatch(r"[^\W\d_]+", text):
        return "Alphabetic"
    if not re.search(r"[^\W_]|\s", text):
        return "Punctuation"
    return "Mixed/Other"
