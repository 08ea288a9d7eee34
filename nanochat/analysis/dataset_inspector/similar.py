"""Conversations that are nearly the same, and conversations that a file of evaluation questions knows already.

Near-duplicates: MinHash over pairs of five words (Broder, On the resemblance and containment of documents, 1997), with
the 32 smallest-of-a-bin values of one hash function, compared in eight bands of four; a pair counts from 70 % on.
Overlap: sequences of 13 words in common, the measure of GPT-3's paper.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from nanochat.analysis.dataset_inspector.sources import InspectorError, find_sources
from nanochat.checkpoint_files import location
from nanochat.conversation import PARTS

SHINGLE = 5  # words that are compared together
BINS, BANDS = 32, 8
SIMILAR = 0.7  # share of the bins that must agree
GRAM = 13
_WORD = re.compile(r"\w+")


def text_of(conversation: Any) -> str:
    """All text of a conversation without an error, a message a line."""
    messages = conversation["messages"] if isinstance(conversation, dict) else conversation
    contents = (message["content"] for message in messages)
    return "\n".join(
        one if isinstance(one, str) else " ".join(part["text"] for part in one if part["type"] in PARTS)
        for one in contents
    )


def _grams(text: str, size: int) -> list[int]:
    """A hash of every sequence of `size` words; of the whole where there are fewer."""
    words = _WORD.findall(text.lower())
    return [hash(tuple(words[start : start + size])) for start in range(max(len(words) - size + 1, 1))]


class NearDuplicates:
    """Takes texts, then tells which are nearly the same as an earlier one."""

    def __init__(self) -> None:
        self.rows: list[int] = []
        self.signatures: list[Any] = []

    def add(self, row: int, text: str) -> None:
        """One text."""
        hashes = np.array(_grams(text, SHINGLE), np.int64).view(np.uint64)
        mixed = hashes * np.uint64(0x9E3779B97F4A7C15)  # Python's hash of a tuple has weak low bits
        bins = (mixed >> np.uint64(59)).astype(np.int64)  # the top five bits: 32 bins
        signature = np.full(BINS, 2**32 - 1, np.uint32)
        np.minimum.at(signature, bins, (mixed & np.uint64(2**32 - 1)).astype(np.uint32))
        empty = signature == 2**32 - 1
        if empty.any() and not empty.all():  # an empty bin borrows from the next that is full, so short texts compare
            full = np.flatnonzero(~empty)
            signature = signature[full[np.searchsorted(full, np.arange(BINS)) % len(full)]]
        self.rows.append(row)
        self.signatures.append(signature)

    def finish(self) -> pl.DataFrame:
        """row, first, similarity: each row once, with the earliest row that it resembles."""
        schema = {"row": pl.UInt32, "first": pl.UInt32, "similarity": pl.Float64}
        if not self.rows:
            return pl.DataFrame(schema=schema)
        table = np.stack(self.signatures)  # (texts, BINS)
        rows = np.array(self.rows, np.uint32)
        width = BINS // BANDS
        best: dict[int, tuple[int, float]] = {}
        for band in range(BANDS):
            keys = pl.DataFrame(table[:, band * width : (band + 1) * width], schema=[f"k{i}" for i in range(width)])
            keys = keys.with_columns(index=pl.int_range(pl.len(), dtype=pl.Int64))
            names = [f"k{i}" for i in range(width)]
            first = pl.col("index").min().over(names).alias("first")
            pairs = keys.select("index", first).filter(pl.col("index") != pl.col("first"))
            for later, earlier in pairs.iter_rows():
                agree = float((table[later] == table[earlier]).mean())
                if agree >= SIMILAR and (later not in best or earlier < best[later][0]):
                    best[later] = (earlier, agree)
        found = [(rows[later], rows[earlier], agree) for later, (earlier, agree) in sorted(best.items())]
        return pl.DataFrame(found, schema=schema, orient="row")


class Overlap:
    """Takes texts and tells which share 13 words in a row with a file. Raises InspectorError for the file."""

    def __init__(self, path: Path) -> None:
        from nanochat.analysis.dataset_inspector.sources import blocks

        self.known: set[int] = set()
        for source in find_sources([path]):
            for block in blocks(source):
                for line in block.data.decode(errors="replace").splitlines():
                    words = _WORD.findall(line.replace("\\n", " ").lower())
                    for start in range(len(words) - GRAM + 1):
                        self.known.add(hash(tuple(words[start : start + GRAM])))
        if not self.known:
            raise InspectorError(
                f"{location(path)}: no {GRAM} words stand in a row in it, so nothing can overlap with it; name a file "
                "of texts or questions"
            )
        self.found: list[tuple[int, int]] = []

    def add(self, row: int, text: str) -> None:
        """One text."""
        shared = len(self.known.intersection(_grams(text, GRAM)))
        if shared:
            self.found.append((row, shared))

    def finish(self) -> pl.DataFrame:
        """row, shared: how many of the file's sequences each row has."""
        return pl.DataFrame(self.found, schema={"row": pl.UInt32, "shared": pl.Int64}, orient="row")
