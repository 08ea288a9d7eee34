"""A 5-gram model with Kneser-Ney smoothing: how far one gets by looking at four tokens and no further.

It is the honest baseline for a small corpus: it learns by counting, in seconds, and knows every local habit of the
text. What a neural model has to add is memory over more than four tokens. On the built-in stories the two are far
apart, because a name that comes back three sentences later is beyond any 5-gram.

    model = NGram(([bos, *ids, bos] for ids in stories), order=5, vocab_size=2048)
    nats = model.nats([bos, *ids])
    ids = model.sample(numpy.random.default_rng(0), stop_id=bos, max_tokens=120)

Legend: V vocabulary, N tokens of the training text, w the token to predict, h the tokens before it.

    p_n(w | h) = max(c_n(h w) - d_n, 0) / c_n(h) + d_n t_n(h) / c_n(h) * p_{n-1}(w | h without its first token)

c_n counts: occurrences at the highest order; below it, in how many different contexts h w was seen, because a token
that follows one word only says little about what comes after another. c_n(h) is the sum over w, t_n(h) the number of
different w. p_0 is 1 / V. Source: Chen and Goodman 1998, "An Empirical Study of Smoothing Techniques", section 3, with
one discount an order, d = n1 / (n1 + 2 n2), where n1 and n2 are how many c_n are 1 and 2 (Ney, Essen and Kneser 1994).
N-grams that begin with bos are counted like all others; KenLM keeps their occurrences at every order.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
DISCOUNT_OF_TINY_TEXTS = 0.5  # where no count is 1 or none is 2, the estimate would be 0, 1 or undefined


class NGramError(ValueError):
    """A text or a request that an n-gram model can't use: one sentence."""


@dataclass(frozen=True)
class Level:
    """Everything known about n-grams of one length n, as parallel arrays over the n-grams, sorted by `keys`."""

    keys: Ints  # (grams,) place of the first n - 1 tokens in the level below, times V, plus the last token
    counts: Ints  # (grams,) c_n
    totals: Ints  # (grams of the level below,) c_n(h), the sum of counts after h
    kinds: Ints  # (grams of the level below,) t_n(h), how many different tokens came after h
    discount: float  # d_n


class NGram:
    """Interpolated Kneser-Ney over token ids. Does not change after it is built."""

    def __init__(self, sequences: Iterable[Sequence[int]], order: int = 5, vocab_size: int = 2048) -> None:
        """Count. Every sequence begins with the same token (bos), which is given and never predicted.

        Raises NGramError for no text, an order below 1, ids outside 0 .. V - 1, or different first tokens.
        """
        if order < 1:
            raise NGramError(f"order {order} is too small: an n-gram model predicts from n - 1 tokens; take 1 or more")
        rows = [np.asarray(row, dtype=np.int64) for row in sequences]
        if not any(len(row) > 1 for row in rows):
            raise NGramError("no sequence has a token after its first, so there is nothing to count; give some text")
        starts = {int(row[0]) for row in rows if len(row)}
        if len(starts) != 1:
            raise NGramError(f"sequences begin with {len(starts)} different tokens; put the same one, bos, before each")
        self.order, self.vocab_size, self.start = order, vocab_size, starts.pop()
        # In front of each row stand order - 1 starts, so that every predicted token has a context of full length.
        padding = np.full(max(order - 2, 0), self.start)
        tokens = np.concatenate([part for row in rows if len(row) for part in (padding, row)])
        if tokens.min() < 0 or tokens.max() >= vocab_size:
            raise NGramError(
                f"token ids run from {tokens.min()} to {tokens.max()}, and the vocabulary has 0 to {vocab_size - 1}; "
                "pass the vocab_size of the tokenizer that made them"
            )
        given = np.concatenate([np.arange(len(padding) + len(row)) <= len(padding) for row in rows if len(row)])
        self.levels = _count(tokens, ~given, order, vocab_size)

    def nats(self, sequence: Sequence[int]) -> float:
        """-ln p of a sequence that begins with the start token, which costs nothing. Infinite for an id outside V."""
        return float(-np.log(self.probabilities(sequence)).sum())

    def probabilities(self, sequence: Sequence[int]) -> Floats:
        """(len - 1,) the probability of each token after the first, given all before it. Raises NGramError."""
        ids = np.asarray(sequence, dtype=np.int64)
        if not len(ids) or ids[0] != self.start or ids.min() < 0 or ids.max() >= self.vocab_size:
            raise NGramError(
                f"a sequence must begin with token {self.start} and hold ids from 0 to {self.vocab_size - 1}; "
                "encode it with the tokenizer of the training text and put bos before it"
            )
        pads = max(self.order - 2, 0)
        tokens = np.concatenate([np.full(pads, self.start), ids])
        context = np.zeros(len(tokens), dtype=np.int64)  # place of the n - 1 tokens before each; n = 1: the empty one
        p = np.full(len(tokens), 1 / self.vocab_size)
        for level in self.levels:
            gram = _find(level.keys, context, tokens, self.vocab_size)
            known = (context >= 0) & (level.totals[context] > 0)  # -1 reads the last entry, and `known` drops it
            total = np.where(known, level.totals[context], 1)
            count = np.where(gram >= 0, level.counts[gram], 0)
            own = np.maximum(count - level.discount, 0) / total
            p = np.where(known, own + level.discount * level.kinds[context] / total * p, p)
            context = np.concatenate([[-1], gram[:-1]])  # this n-gram is the next token's context at the next level
        return p[pads + 1 :]

    def distribution(self, context: Sequence[int]) -> Floats:
        """(V,) the probability of every next token after a context of any length, bos included. They sum to 1."""
        padding = [self.start] * max(self.order - 1 - len(context), 0)
        before = np.asarray([*padding, *context], dtype=np.int64)
        p = np.full(self.vocab_size, 1 / self.vocab_size)
        for n, level in enumerate(self.levels, start=1):
            place = self._place(before[len(before) - (n - 1) :])
            if place < 0 or not level.totals[place]:
                continue  # never seen: what the shorter context says stands
            total = level.totals[place]
            first, last = np.searchsorted(level.keys, [place * self.vocab_size, (place + 1) * self.vocab_size])
            p *= level.discount * level.kinds[place] / total
            following = level.keys[first:last] - place * self.vocab_size
            p[following] += np.maximum(level.counts[first:last] - level.discount, 0) / total
        return p

    def _place(self, tokens: Ints) -> int:
        """Where these tokens stand in the level of their length; -1 if they never occurred."""
        place = 0
        for token, level in zip(tokens, self.levels, strict=False):
            key = place * self.vocab_size + int(token)
            place = int(np.searchsorted(level.keys, key))
            if place == len(level.keys) or level.keys[place] != key:
                return -1
        return place

    def sample(self, rng: np.random.Generator, stop_id: int, max_tokens: int) -> list[int]:
        """Ids drawn one by one after the start token, until `stop_id` comes (it is left out) or at most max_tokens."""
        ids = [self.start]
        while len(ids) <= max_tokens:
            sums = np.cumsum(self.distribution(ids[-self.order :]))
            token = int(np.searchsorted(sums, rng.random() * sums[-1], side="right"))
            if token == stop_id:
                break
            ids.append(token)
        return ids[1:]


def _find(keys: Ints, context: Ints, tokens: Ints, vocab_size: int) -> Ints:
    """Place of each n-gram (context, token) in sorted keys; -1 where the context or the n-gram is not there."""
    wanted = context * vocab_size + tokens
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where((context >= 0) & (keys[place] == wanted), place, -1)


def _count(tokens: Ints, predicted: NDArray[np.bool_], order: int, vocab_size: int) -> list[Level]:
    """The levels 1 .. order of a text; `predicted` marks the tokens that count (the others are only context)."""
    # places[n - 1][i]: place of the n-gram that ends at token i. The few that reach into the row before it end in a
    # start token: they are no token's context at the level where they do.
    keys, places = [], []
    context = np.zeros(len(tokens), dtype=np.int64)
    for _ in range(order):
        found, place = np.unique(context * vocab_size + tokens, return_inverse=True)
        keys.append(found)
        places.append(place.astype(np.int64))
        context = np.concatenate([[0], places[-1][:-1]])
    counts = [np.bincount(places[-1][predicted], minlength=len(keys[-1]))]
    for n in range(order - 1, 0, -1):
        # One for each different (n + 1)-gram that ends in this n-gram: take the first token at which it occurs.
        _, first = np.unique(places[n][predicted], return_index=True)
        shorter = places[n - 1][predicted][first]
        counts.insert(0, np.bincount(shorter, minlength=len(keys[n - 1])))
    levels = []
    for n in range(1, order + 1):
        parents = keys[n - 1] // vocab_size
        size = len(keys[n - 2]) if n > 1 else 1
        count = counts[n - 1].astype(np.int64)
        totals = np.bincount(parents, weights=count, minlength=size).astype(np.int64)
        kinds = np.bincount(parents, weights=count > 0, minlength=size).astype(np.int64)
        levels.append(Level(keys[n - 1], count, totals, kinds, _discount(count)))
    return levels


def _discount(counts: Ints) -> float:
    once, twice = int((counts == 1).sum()), int((counts == 2).sum())
    return once / (once + 2 * twice) if once and twice else DISCOUNT_OF_TINY_TEXTS
