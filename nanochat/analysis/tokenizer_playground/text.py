"""A text under a tokenizer: every token with its id, its bytes and where they lie, its type, and what it costs.

A token need not be whole characters: byte pair encoding merges bytes, and a character outside ASCII has two to four of
them. So each token says at which byte and in which character it begins and ends.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nanochat.analysis.tokenizer_playground.spelling import spell, spell_bytes, type_of
from nanochat.checkpoint_files import location
from nanochat.paths import expand
from nanochat.tokenizer_files import read_regular_file

if TYPE_CHECKING:
    import polars as pl

    from nanochat.analysis.tokenizer_playground.sources import Known

MAX_CHARACTERS = 2_000_000  # a book or two; a corpus is for `nanochat tok_eval`


class PlaygroundError(ValueError):
    """Something that the playground was asked for and cannot do: one sentence."""


@dataclass(frozen=True)
class TextReport:
    """A text as tokens."""

    tokenizer: str  # its label
    text: str  # half characters, which no UTF-8 can hold, already replaced by U+FFFD
    tokens: int
    characters: int
    bytes: int
    # index, id, text (visible), hex, bytes, type, start and end (byte offsets), first and last character (0-based,
    # both included), whole (whether the token is valid UTF-8 by itself), note (which part of which character it is)
    frame: "pl.DataFrame"

    @property
    def tokens_per_byte(self) -> float:
        """The compression ratio: fewer is better. Of an empty text 0."""
        return self.tokens / self.bytes if self.bytes else 0.0

    @property
    def characters_per_token(self) -> float:
        """The efficiency: more is better. Of an empty text 0."""
        return self.characters / self.tokens if self.tokens else 0.0

    @property
    def ids(self) -> list[int]:
        """The ids in order."""
        return self.frame["id"].to_list()


def read_text(path: str | Path) -> str:
    """A text file. Raises PlaygroundError where it is not UTF-8, TokenizerError where it cannot be read."""
    try:
        return read_regular_file(expand(path), 4 * MAX_CHARACTERS).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise PlaygroundError(f"{location(path)}: byte {error.start + 1:,} is not UTF-8; save it as UTF-8") from None


def whole_characters(text: str) -> str:
    """The text with half characters (lone surrogates) replaced, as every tokenizer here encodes it.

    Raises PlaygroundError for a text that is too long to show.
    """
    if len(text) > MAX_CHARACTERS:
        raise PlaygroundError(
            f"the text has {len(text):,} characters and the playground takes {MAX_CHARACTERS:,}; cut it, or measure a "
            "corpus with `nanochat tok_eval --text FILE`"
        )
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def tokenize(known: "Known", text: str) -> TextReport:
    """A text, encoded as ordinary text, token by token. Raises PlaygroundError and TokenizerError."""
    import polars as pl

    text = whole_characters(text)
    ids = known.encode(text)
    cache: dict[int, tuple[bytes, str, str, bool]] = {}
    for token_id in set(ids):
        token = known.bytes_of(token_id)
        kind = type_of(token)
        cache[token_id] = (token, spell_bytes(token), kind, kind != "Part of a character")
    sizes = [len(cache[token_id][0]) for token_id in ids]
    ends: list[int] = []
    for size in sizes:
        ends.append((ends[-1] if ends else 0) + size)
    starts = [end - size for end, size in zip(ends, sizes, strict=True)]
    first, last = _characters(text, starts), _characters(text, [max(end - 1, 0) for end in ends])
    frame = pl.DataFrame(
        {
            "index": pl.Series(range(len(ids)), dtype=pl.Int64),
            "id": pl.Series(ids, dtype=pl.Int64),
            "text": pl.Series([cache[token_id][1] for token_id in ids], dtype=pl.String),
            "hex": pl.Series([cache[token_id][0].hex(" ") for token_id in ids], dtype=pl.String),
            "bytes": pl.Series(sizes, dtype=pl.Int64),
            "type": pl.Series([cache[token_id][2] for token_id in ids], dtype=pl.String),
            "start": pl.Series(starts, dtype=pl.Int64),
            "end": pl.Series(ends, dtype=pl.Int64),
            "first_character": pl.Series([index for index, _ in first], dtype=pl.Int64),
            "last_character": pl.Series([index for index, _ in last], dtype=pl.Int64),
            "whole": pl.Series([cache[token_id][3] for token_id in ids], dtype=pl.Boolean),
            "note": pl.Series(
                [
                    "" if cache[token_id][3] else _part_note(text, size, *place)
                    for token_id, size, *place in zip(ids, sizes, first, last, strict=True)
                ],
                dtype=pl.String,
            ),
        }
    )
    return TextReport(known.label, text, len(ids), len(text), ends[-1] if ends else 0, frame)


def _characters(text: str, offsets: list[int]) -> list[tuple[int, int]]:
    """For ascending byte offsets: (index of the character that the byte lies in, the byte's place inside it)."""
    if text.isascii():
        return [(offset, 0) for offset in offsets]
    found = []
    index = begin = 0
    size = _size(text[0])
    for offset in offsets:
        while offset >= begin + size and index + 1 < len(text):
            begin += size
            index += 1
            size = _size(text[index])
        found.append((index, offset - begin))
    return found


def _size(character: str) -> int:
    """Bytes of a character in UTF-8."""
    code = ord(character)
    return 1 if code < 0x80 else 2 if code < 0x800 else 3 if code < 0x10000 else 4


def _part_note(text: str, size: int, first: tuple[int, int], last: tuple[int, int]) -> str:
    """Which bytes of which characters a token is that is no valid UTF-8 by itself, in words."""
    (index, begin), (end_index, end) = first, last
    character = text[index]
    of = f"of the {_size(character)} of {spell(character)} (U+{ord(character):04X})"
    if index == end_index:
        which = f"byte {begin + 1}" if size == 1 else f"bytes {begin + 1} to {end + 1}"
        return f"{which} {of}"
    other = text[end_index]
    return f"from byte {begin + 1} {of} to byte {end + 1} of the {_size(other)} of {spell(other)} (U+{ord(other):04X})"
