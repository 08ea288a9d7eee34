"""How long conversations are, in characters and in tokens, and what each sequence length would cut off or leave empty.

Counting tokens takes ten times as long as all other checks, so up to 2,000 conversations are counted and the rest is
estimated from its characters: a ratio estimator, with its 95 % interval. A small data set is counted whole.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from nanochat.conversation import Encoder, segments

SAMPLE = 2_000  # conversations counted where not all are
LENGTHS = (256, 512, 1024, 2048, 4096, 8192, 16384, 32768)  # sequence lengths that are compared
PERCENTILES = (5, 25, 50, 75, 90, 95, 99)
ACCEPTED_LOSS = 0.01  # of the tokens to learn from, for the recommended length
FEW = 0.01  # of the conversations; where so few ask for a longer row, that is said
FEW_IF_ONE = 0.1  # the same where it is a single one
ACCEPTED_EMPTY = 0.001  # of the conversations, left with nothing to learn from


@dataclass(frozen=True)
class Distribution:
    """Some lengths in a few numbers."""

    count: int
    min: int
    max: int
    mean: float
    percentiles: dict[int, int]  # of PERCENTILES

    @property
    def median(self) -> int:
        return self.percentiles[50]


@dataclass(frozen=True)
class Counted:
    """Conversations whose tokens were counted."""

    frame: pl.DataFrame  # row, tokens, supervised (tokens that the model learns from)
    kept: dict[int, int]  # sequence length -> supervised tokens that are left, over all
    empty: dict[int, int]  # sequence length -> conversations that have some and are left with none


@dataclass(frozen=True)
class TokenLengths:
    """The tokens of all conversations without an error."""

    exact: bool  # every conversation was counted
    counted: int  # how many were
    total: int  # tokens, special ones included
    interval: tuple[int, int]  # of `total`, 95 %; the same number twice where exact
    per_char: float  # tokens of text a character
    supervised_share: float  # of all tokens
    distribution: Distribution
    histogram: pl.DataFrame  # value (tokens), count; estimated for each conversation unless exact
    choices: pl.DataFrame  # one row a sequence length, see `compare_lengths`
    recommended: int
    reason: str
    counts: Counted  # the conversations that were counted


def describe(histogram: pl.DataFrame) -> Distribution | None:
    """A histogram (value, count; ascending) in a few numbers; None where it is empty. Percentiles are nearest-rank."""
    if not len(histogram):
        return None
    values, counts = histogram["value"].to_numpy(), histogram["count"].to_numpy()
    below = np.cumsum(counts)
    total = int(below[-1])
    ranks = [math.ceil(total * share / 100) for share in PERCENTILES]
    found = {share: int(values[np.searchsorted(below, rank)]) for share, rank in zip(PERCENTILES, ranks, strict=True)}
    mean = float((values.astype(np.float64) * counts).sum() / total)
    return Distribution(total, int(values[0]), int(values[-1]), mean, found)


def histogram_of(values: Iterable[tuple[int, int]]) -> pl.DataFrame:
    """(value, count) pairs as a histogram."""
    return pl.DataFrame(sorted(values), schema={"value": pl.Int64, "count": pl.Int64}, orient="row")


def count_tokens(
    conversations: Iterator[tuple[int, Any]], encoder: Encoder, progress: Callable[[int], None] = lambda done: None
) -> Counted:
    """Count the tokens of (row, conversation) pairs, as rendering makes them. progress: told how many are done."""
    rows, totals, supervised = [], [], []
    kept = dict.fromkeys(LENGTHS, 0)
    empty = dict.fromkeys(LENGTHS, 0)
    for done, (row, conversation) in enumerate(conversations, 1):
        pieces = [
            (1 if one.special else len(encoder.encode(one.text)), one.supervised) for one in segments(conversation)
        ]
        total = sum(size for size, _ in pieces)
        learned = sum(size for size, learn in pieces if learn)
        rows.append(row)
        totals.append(total)
        supervised.append(learned)
        for length in LENGTHS:
            left = learned if total <= length else _kept(pieces, length)
            kept[length] += left
            empty[length] += learned > 0 and left == 0
        if done % 64 == 0:
            progress(done)
    frame = pl.DataFrame(
        {"row": rows, "tokens": totals, "supervised": supervised},
        schema={"row": pl.UInt32, "tokens": pl.Int64, "supervised": pl.Int64},
    )
    return Counted(frame, kept, empty)


def _kept(pieces: list[tuple[int, bool]], length: int) -> int:
    """Supervised tokens among the first `length`."""
    left = kept = 0
    for size, learn in pieces:
        size = min(size, length - left)
        left += size
        kept += size if learn else 0
    return kept


def ratio_of(counted: pl.DataFrame, population: int) -> tuple[float, float]:
    """Tokens of text a character, and the standard error of that.

    counted: tokens, specials, chars of the conversations counted, out of `population`. The ratio estimator (Cochran,
    Sampling Techniques, chapter 6), with its correction for a finite population.
    """
    tokens = (counted["tokens"] - counted["specials"].cast(pl.Int64)).to_numpy().astype(np.float64)
    chars = counted["chars"].to_numpy().astype(np.float64)
    if not chars.sum():
        return 0.0, 0.0
    ratio = float(tokens.sum() / chars.sum())
    size = len(chars)
    if size < 2:
        return ratio, 0.0
    spread = float(((tokens - ratio * chars) ** 2).sum()) / (size - 1)
    unseen = max(1 - size / population, 0.0)
    return ratio, math.sqrt(unseen * spread / size) / float(chars.mean())


def token_lengths(counted: Counted, histogram: pl.DataFrame, total: int, error: float, ratio: float) -> TokenLengths:
    """Put the figures together. histogram: tokens of every conversation. error: half of the interval of `total`."""
    described = describe(histogram)
    assert described is not None
    exact = len(counted.frame) == described.count
    interval = (total, total) if exact else (round(total - error), round(total + error))
    choices = compare_lengths(counted, histogram)
    recommended, reason = recommend(choices)
    share = int(counted.frame["supervised"].sum()) / max(int(counted.frame["tokens"].sum()), 1)
    return TokenLengths(
        exact,
        len(counted.frame),
        total,
        interval,
        ratio,
        share,
        described,
        histogram,
        choices,
        recommended,
        reason,
        counted,
    )


def compare_lengths(counted: Counted, histogram: pl.DataFrame) -> pl.DataFrame:
    """What every sequence length does to the data.

    Columns: length; cut (conversations longer than it), cut_share; lost_share (of the supervised tokens); empty_share
    (of the conversations: left with nothing to learn from); rows (when packed), filled (share of the positions of those
    rows that hold a token), padded (the same with one conversation a row).
    """
    values, counts = histogram["value"].to_numpy(), histogram["count"].to_numpy()
    conversations = int(counts.sum())
    learned = max(int(counted.frame["supervised"].sum()), 1)
    found = []
    for length in LENGTHS:
        clipped = np.minimum(values, length)
        used = int((clipped * counts).sum())
        cut = int(counts[values > length].sum())
        rows = packed_rows(clipped, counts, length)
        found.append(
            {
                "length": length,
                "cut": cut,
                "cut_share": cut / conversations,
                "lost_share": 1 - counted.kept[length] / learned,
                "empty_share": counted.empty[length] / max(len(counted.frame), 1),
                "rows": rows,
                "filled": used / (rows * length),
                "padded": used / (conversations * length),
            }
        )
        if values[-1] <= length:
            break
    return pl.DataFrame(found)


def recommend(choices: pl.DataFrame) -> tuple[int, str]:
    """The shortest length that loses next to nothing, and why. `choices`: see `compare_lengths`."""
    length, reason = _shortest(choices)
    share = pl.when(pl.col("cut") == 1).then(FEW_IF_ONE).otherwise(FEW)
    shorter = choices.filter((pl.col("length") < length) & (pl.col("cut_share") <= share))
    if not len(shorter):
        return length, reason
    few = shorter.row(0, named=True)
    longest = "the longest conversation" if few["cut"] == 1 else f"the {few['cut']:,} longest conversations"
    return length, f"{reason}. Without {longest}, {few['length']:,} would do"


def _shortest(choices: pl.DataFrame) -> tuple[int, str]:
    good = choices.filter((pl.col("lost_share") <= ACCEPTED_LOSS) & (pl.col("empty_share") <= ACCEPTED_EMPTY))
    row = (good if len(good) else choices.tail(1)).row(0, named=True)
    kept = f"{1 - row['lost_share']:.2%} of what the model learns from fits into {row['length']:,} tokens"
    if not len(good):
        return row["length"], f"only {kept}, and no longer length was compared; break up the longest conversations"
    shorter = choices.filter(pl.col("length") < row["length"]).tail(1)
    if not len(shorter):
        return row["length"], f"{kept}, and shorter rows gain little"
    half = shorter.row(0, named=True)
    what = f"{half['lost_share']:.1%} would be cut off at {half['length']:,}"
    if half["lost_share"] <= ACCEPTED_LOSS:
        what = f"at {half['length']:,}, {half['empty_share']:.1%} of the conversations would be left with nothing"
    return row["length"], f"{kept}; {what}"


def packed_rows(values: Any, counts: Any, length: int) -> int:
    """How many rows of `length` best fit, decreasing, needs for lengths of at most that, with their counts ascending.

    Works on the histogram: of all rows with the same room one is as good as another, so a million conversations take as
    long as there are different lengths.

    >>> packed_rows(np.array([2, 3]), np.array([2, 2]), 5)
    2
    """
    room = np.zeros(length + 1, np.int64)  # room[r]: rows with r positions left
    rows = 0
    merged: dict[int, int] = {}
    for value, count in zip(values.tolist(), counts.tolist(), strict=True):
        merged[value] = merged.get(value, 0) + count
    for size in sorted(merged, reverse=True):
        left = merged[size]
        if size == 0:
            continue
        while left:
            place = size + int((room[size:] > 0).argmax())
            if not room[place]:
                each = length // size
                new = -(-left // each)
                rows += new
                full, rest = divmod(left, each)
                room[length - each * size] += full
                if rest:
                    room[length - rest * size] += 1
                break
            taken = min(left, int(room[place]))
            room[place] -= taken
            room[place - size] += taken
            left -= taken
    return rows
