"""Plain text for pretraining: how many documents, how long, how many twice, and in which scripts.

Parquet with a column `text`, JSON lines of {"text": ...} and text files. What a text file's documents are is told as
`nanochat.dataset_text` tells it: by <|endoftext|> lines, else by blank lines, else every line is one.
"""

import functools
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import polars as pl

from nanochat.analysis.dataset_inspector.lengths import Distribution, describe
from nanochat.analysis.dataset_inspector.report import Progress
from nanochat.analysis.dataset_inspector.sources import InspectorError, Source, blocks

if TYPE_CHECKING:
    from nanochat.tokenizer import Tokenizer

SAMPLE = 1_000  # documents whose tokens are counted
SAMPLE_CHARS = 20_000  # of each
LETTERS = 64  # of a document, to tell its script
MAX_BAD_LINES = 1_000  # line numbers that are kept
_SEPARATORS = (re.compile(rb"\s*<\|endoftext\|>\s*"), re.compile(rb"\s*"))


@dataclass(frozen=True)
class CorpusReport:
    """A corpus of plain text."""

    sources: tuple[Source, ...]
    documents: int
    empty: int  # documents without a word, not counted above
    characters: int
    size: int  # bytes as UTF-8
    lengths: Distribution | None  # characters of a document
    histogram: pl.DataFrame  # value (characters), count
    duplicates: int  # documents that equal an earlier one
    duplicate_share: float  # of the characters
    tokens: int | None  # estimated
    interval: tuple[int, int] | None  # 95 %
    scripts: pl.DataFrame  # script, documents, share
    bad_lines: tuple[tuple[str, int], ...]  # file and line of lines that hold no text
    bad: int  # how many of those there are
    notes: tuple[str, ...]


def is_corpus(source: Source) -> bool:
    """Whether a source is plain text and not conversations. Raises InspectorError."""
    if source.form == "text":
        return True
    if source.form == "parquet":
        from nanochat.analysis.dataset_inspector.parquet import columns_of

        names = columns_of(source)
        return "text" in names and "messages" not in names
    for block in blocks(source, size=1 << 16):
        for line in block.data.splitlines():
            try:
                value = msgspec.json.decode(line)
            except (msgspec.MsgspecError, UnicodeError, RecursionError):
                continue
            return isinstance(value, dict) and isinstance(value.get("text"), str) and "messages" not in value
        return False  # a first block without a line of JSON is for the conversation report, which names every line
    return False


def inspect_corpus(
    sources: Sequence[Source],
    tokenizer: "Tokenizer | None" = None,
    watch: Callable[[Progress], None] = lambda progress: None,
) -> CorpusReport:
    """Look at every document. watch: told how far it is. Raises InspectorError."""
    total = sum(source.size for source in sources)
    lengths: list[Any] = []
    hashes: list[Any] = []
    scripts: Counter[str] = Counter()
    bad = _Bad()
    kept: list[str] = []
    rng = np.random.default_rng(0)
    before = seen = empty = size = 0
    for source in sources:

        def tell(done: int, before: int = before) -> None:
            watch(Progress("reading documents", before + done, total))

        for texts in _documents(source, tell, bad):
            words = [text for text in texts if text.strip()]
            empty += len(texts) - len(words)
            lengths.append(np.fromiter(map(len, words), np.int64, len(words)))
            hashes.append(np.fromiter(map(hash, words), np.int64, len(words)))
            scripts.update(map(script_of, words))
            size += sum(len(text.encode(errors="replace")) for text in words)
            for text in words:  # reservoir sampling: every document has the same chance
                seen += 1
                place = len(kept) if len(kept) < SAMPLE else int(rng.integers(seen))
                if place < SAMPLE:
                    kept[place : place + 1] = [text[:SAMPLE_CHARS]]
        before += source.size
    if not seen:
        raise InspectorError(f"{sources[0].name}: no document with a word in it; name a file with text")
    table = pl.DataFrame({"value": np.concatenate(lengths), "hash": np.concatenate(hashes)})
    histogram = table.group_by("value").len("count").sort("value")
    again = table.filter(~pl.col("hash").is_first_distinct())
    characters = int(table["value"].sum())
    tokens, interval = _estimate(kept, tokenizer, characters, watch)
    counts = scripts.most_common()
    return CorpusReport(
        tuple(sources),
        seen,
        empty,
        characters,
        size,
        describe(histogram),
        histogram,
        len(again),
        int(again["value"].sum()) / max(characters, 1),
        tokens,
        interval,
        pl.DataFrame(
            [(name, count, count / seen) for name, count in counts],
            schema={"script": pl.String, "documents": pl.Int64, "share": pl.Float64},
            orient="row",
        ),
        tuple(bad.lines),
        bad.count,
        () if tokenizer is not None else ("tokens are not estimated, because there is no tokenizer",),
    )


class _Bad:
    """Lines that hold no text."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, int]] = []
        self.count = 0

    def add(self, file: str, line: int) -> None:
        self.count += 1
        if len(self.lines) < MAX_BAD_LINES:
            self.lines.append((file, line))


def _documents(source: Source, tell: Callable[[int], None], bad: _Bad) -> Iterator[list[str]]:
    """The documents of a source, some at a time."""
    if source.form == "text":
        yield from _separated(source, tell)
        return
    for block in blocks(source, tell):
        texts = []
        for number, line in enumerate(block.data.splitlines(), block.first_line):
            if not line.strip():
                continue
            try:
                value = msgspec.json.decode(line)
            except (msgspec.MsgspecError, UnicodeError, RecursionError):
                value = None
            text = value.get("text") if isinstance(value, dict) else None
            if isinstance(text, str):
                texts.append(text)
            else:
                bad.add(source.name, number)
        yield texts


def _separated(source: Source, tell: Callable[[int], None]) -> Iterator[list[str]]:
    """The documents of a text file."""
    separator: re.Pattern[bytes] | None = None
    decided = False
    open_lines: list[bytes] = []
    for block in blocks(source, tell):
        lines = block.data.split(b"\n")
        if lines and not lines[-1]:
            lines.pop()
        if not decided:
            body = block.data.strip().split(b"\n")
            separator = next((one for one in _SEPARATORS if any(map(one.fullmatch, body))), None)
            decided = True
        texts = []
        for line in lines:
            if separator is None:
                texts.append(line.decode(errors="replace"))
            elif separator.fullmatch(line):
                texts.append(b"\n".join(open_lines).decode(errors="replace"))
                open_lines = []
            else:
                open_lines.append(line)
        yield [text for text in texts if text]
    if open_lines:
        yield [b"\n".join(open_lines).decode(errors="replace")]


def _estimate(
    kept: list[str], tokenizer: "Tokenizer | None", characters: int, watch: Callable[[Progress], None]
) -> tuple[int | None, tuple[int, int] | None]:
    """Tokens of the whole, from a sample of documents, and the 95 % interval."""
    if tokenizer is None or not kept:
        return None, None
    sizes = []
    for done, text in enumerate(kept, 1):
        sizes.append(len(tokenizer.encode(text)))
        if done % 50 == 0:
            watch(Progress("estimating tokens", done, len(kept)))
    tokens, chars = np.array(sizes, np.float64), np.array([len(text) for text in kept], np.float64)
    ratio = tokens.sum() / chars.sum()
    error = 0.0
    if len(kept) > 1:
        error = float(np.sqrt(((tokens - ratio * chars) ** 2).sum() / (len(kept) - 1) / len(kept)) / chars.mean())
    low, high = (round(characters * (ratio + sign * 1.96 * error)) for sign in (-1, 1))
    return round(characters * float(ratio)), (int(low), int(high))


@functools.cache
def _script(character: str) -> str:
    """The script of a letter, from its Unicode name; an empty string for what is no letter."""
    if not character.isalpha():
        return ""
    return unicodedata.name(character, "").partition(" ")[0].partition("-")[0].capitalize()


def script_of(text: str) -> str:
    """The script of most of a document's first letters.

    >>> script_of("Hello, 世界"), script_of("Привет"), script_of("123")
    ('Latin', 'Cyrillic', '(no letters)')
    """
    counts = Counter(filter(None, map(_script, text[: 4 * LETTERS])))
    return counts.most_common(1)[0][0] if counts else "(no letters)"
