"""Merge replay: how byte pair encoding builds the tokens of a text, rank by rank; and training a tokenizer on it.

A trained vocabulary is a list of merges in the order in which they were learnt: the rank. Encoding goes through that
list again. A text begins as single bytes; the pair with the lowest rank is merged wherever it stands, then the next,
until no neighbours form a token. Merges never cross the pieces that the split pattern cuts a text into.
"""

import functools
import heapq
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from nanochat.analysis.tokenizer_playground.spelling import spell_bytes
from nanochat.analysis.tokenizer_playground.text import PlaygroundError, whole_characters

if TYPE_CHECKING:
    import polars as pl

    from nanochat.analysis.tokenizer_playground.sources import Known

MAX_REPLAY = 20_000  # characters: a replay is for reading
MAX_TRAINING = 1_000_000  # characters of pasted text; `nanochat tok_train` takes corpora
Ranks = Mapping[bytes, int]  # token -> rank


@dataclass(frozen=True)
class Replay:
    """How the tokens of a text came about."""

    tokenizer: str  # its label
    # step (1 is the first merge), rank, left, right, token (visible), times (merges made in this text), tokens (left
    # after the step)
    frame: "pl.DataFrame"
    start: int  # tokens before the first merge: the bytes of the text
    agrees: bool  # whether the last step is what the tokenizer itself gives
    pieces: tuple[bytes, ...] = field(repr=False)  # what the split pattern cuts the text into; merges stay inside one
    tokens: Sequence[bytes] = field(repr=False)  # the vocabulary by rank

    @property
    def steps(self) -> int:
        """How many merges the text needs."""
        return self.frame.height

    @functools.cached_property
    def _ranks(self) -> Ranks:
        return ranks_of(self.tokens)

    def merged(self, step: int) -> bytes | None:
        """The bytes of the token that a step makes; None for step 0. Raises PlaygroundError."""
        if not 0 <= step <= self.steps:
            raise PlaygroundError(f"there is no step {step}; this text takes {self.steps} merges, 0 is before all")
        return self.tokens[self.frame["rank"][step - 1]] if step else None

    def state(self, step: int) -> list[tuple[bytes, bool]]:
        """The text after a step, 0 before any: (bytes of a part, whether this very step made it).

        Raises PlaygroundError for a step that there is not.
        """
        made = self.merged(step)
        below = self.frame["rank"][step - 1] + 1 if step else 0
        after = {piece: merge_piece(piece, self._ranks, below)[0] for piece in set(self.pieces)}
        return [(part, part == made) for piece in self.pieces for part in after[piece]]


@dataclass(frozen=True)
class Learned:
    """A tokenizer that was just trained on a text."""

    known: "Known"
    trainer: str  # which program learnt it, and why that one
    notes: tuple[str, ...]
    # rank, left, right, token (visible), times (merges made in the training text when it was learnt)
    merges: "pl.DataFrame"


def replay(known: "Known", text: str) -> Replay:
    """Every merge that turns a text into its tokens. Raises PlaygroundError for a text that is too long to watch."""
    text = whole_characters(text)
    if len(text) > MAX_REPLAY:
        raise PlaygroundError(
            f"the text has {len(text):,} characters and a replay takes {MAX_REPLAY:,}; choose a shorter passage"
        )
    pieces = _split(text, known.pattern)
    frame, after = _replayed(Counter(pieces), known.tokens)
    final = [part for piece in pieces for part in after[piece]]
    agrees = final == [known.bytes_of(token) for token in known.encode(text)]
    return Replay(known.label, frame, sum(map(len, pieces)), agrees, pieces, known.tokens)


def learn(text: str, vocab_size: int) -> Learned:
    """Train a tokenizer on a text; also the merges it learnt and how often each pair occurred.

    vocab_size: everything counted, the 256 bytes and nine special tokens too. Raises PlaygroundError, TokenizerError.
    """
    from nanochat.analysis.tokenizer_playground.sources import known_from
    from nanochat.tokenizer import train_tokenizer

    if len(text) > MAX_TRAINING:
        raise PlaygroundError(
            f"the text has {len(text):,} characters and the playground trains on {MAX_TRAINING:,}; "
            "for more use `nanochat tok_train --data FILE`"
        )
    text = whole_characters(text)
    if not text.strip():
        raise PlaygroundError("the text is empty, so there is nothing to learn; paste a page of any text")
    tokenizer = train_tokenizer([text], vocab_size)
    known = known_from(tokenizer, f"trained here ({tokenizer.get_vocab_size():,} tokens)")
    frame, _ = _replayed(Counter(_split(text, known.pattern)), known.tokens)
    training = tokenizer.training
    trainer = f"{training.trainer}: {training.reason}" if training else ""
    return Learned(known, trainer, tokenizer.notes, frame.select("rank", "left", "right", "token", "times"))


def merge_piece(piece: bytes, ranks: Ranks, below: int | None = None) -> tuple[tuple[bytes, ...], Counter[int]]:
    """One piece after all merges of a rank below `below` (None: all there are), and how often each rank merged.

    Always the pair with the lowest rank, the leftmost of equals. A heap finds it, so a long piece costs n log n.

    >>> merge_piece(b"hug", {b"ug": 3, b"hug": 4}, below=4)
    ((b'h', b'ug'), Counter({3: 1}))
    """
    length = len(piece)
    parts: list[bytes | None] = [piece[i : i + 1] for i in range(length)]  # None: merged into the part before it
    following, before = list(range(1, length + 1)), list(range(-1, length - 1))
    times: Counter[int] = Counter()
    heap: list[tuple[int, int]] = []

    def rank_at(index: int) -> int | None:
        """The rank of the pair that begins at this part, if it is one and may merge."""
        left = parts[index] if index >= 0 else None
        right = parts[following[index]] if left is not None and following[index] < length else None
        rank = ranks.get(left + right) if left is not None and right is not None else None
        return rank if rank is not None and (below is None or rank < below) else None

    def offer(index: int) -> None:
        rank = rank_at(index)
        if rank is not None:
            heapq.heappush(heap, (rank, index))

    for index in range(length - 1):
        offer(index)
    while heap:
        rank, index = heapq.heappop(heap)
        if rank_at(index) != rank:  # a neighbour has merged since this was put on the heap
            continue
        gone = following[index]
        parts[index] = piece[index : index + len(parts[index] or b"") + len(parts[gone] or b"")]
        parts[gone] = None
        following[index] = following[gone]
        if following[gone] < length:
            before[following[gone]] = index
        times[rank] += 1
        offer(before[index])
        offer(index)
    return tuple(part for part in parts if part is not None), times


def parents(tokens: Sequence[bytes], chosen: Iterable[int]) -> "pl.DataFrame":
    """For the ranks chosen: rank, left, right, token. The parents are what the bytes give with lower ranks alone.

    Where those are not two, the vocabulary was not learnt by merging pairs, and both are empty.
    """
    import polars as pl

    ranks = ranks_of(tokens)
    rows = []
    for rank in chosen:
        parts, _ = merge_piece(tokens[rank], ranks, below=rank)
        left, right = (spell_bytes(part, 200) for part in parts) if len(parts) == 2 else ("", "")
        rows.append((rank, left, right, spell_bytes(tokens[rank], 200)))
    columns = {"rank": pl.Int64, "left": pl.String, "right": pl.String, "token": pl.String}
    return pl.DataFrame(rows, schema=columns, orient="row")


def ranks_of(tokens: Sequence[bytes]) -> dict[bytes, int]:
    """token -> rank."""
    return {token: rank for rank, token in enumerate(tokens)}


def _split(text: str, pattern: str) -> tuple[bytes, ...]:
    """The pieces of a text in order, as bytes."""
    import regex  # Python's own `re` does not know letters of every script

    return tuple(match[0].encode() for match in regex.finditer(pattern, text) if match[0])


def _replayed(
    pieces: Mapping[bytes, int], tokens: Sequence[bytes]
) -> tuple["pl.DataFrame", dict[bytes, tuple[bytes, ...]]]:
    """The steps of a text from its distinct pieces and how often each occurs, and every piece's final parts."""
    import polars as pl

    ranks = ranks_of(tokens)
    times: Counter[int] = Counter()
    after = {}
    for piece, occurrences in pieces.items():
        after[piece], merges = merge_piece(piece, ranks)
        for rank, count in merges.items():
            times[rank] += count * occurrences
    start = sum(len(piece) * occurrences for piece, occurrences in pieces.items())
    frame = parents(tokens, sorted(times)).with_columns(
        pl.Series("times", [times[rank] for rank in sorted(times)], dtype=pl.Int64)
    )
    frame = frame.with_columns((start - pl.col("times").cum_sum()).alias("tokens"))
    return frame.with_row_index("step", 1).with_columns(pl.col("step").cast(pl.Int64)), after
