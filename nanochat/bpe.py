"""Byte pair encoding, trained in plain Python: count neighbours, merge the most frequent pair, repeat.

This is the whole idea of nanochat's tokenizer on one page. It gives the same vocabulary as rustbpe, which trains in a
sixth of the time: tests hold one against the other, and `train_tokenizer` uses this one where rustbpe has no wheel.

The tie rule is rustbpe's: of two pairs with the same count, the one with the smaller ids wins, left id first.
"""

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable
from itertools import pairwise

Pair = tuple[int, int]  # the ids of two neighbouring tokens


class PatternError(ValueError):
    """The split pattern cannot be used: one sentence."""


def train(texts: Iterable[str], vocab_size: int, pattern: str) -> list[bytes]:
    """Learn at most `vocab_size` tokens (no specials). Returns them in rank order, the 256 single bytes first.

    It is smaller than asked for when the text runs out of pairs to merge. The split pattern keeps merges inside words;
    where Unicode has added letters lately, Python's and Rust's idea of a letter can differ.

    >>> train(["hug hug pug"], 258, r"\\w+")[256:]  # "ug" occurs three times, then "h" + "ug" twice
    [b'ug', b'hug']
    """
    pieces = split_and_count(texts, pattern)
    words = [list(piece.encode()) for piece in pieces]  # each distinct piece once, as a list of ids that will shrink
    weights = list(pieces.values())
    tokens = [bytes([byte]) for byte in range(256)]

    counts: Counter[Pair] = Counter()
    where: defaultdict[Pair, set[int]] = defaultdict(set)  # pair -> the words it may be in (a word may have lost it)
    for index, (word, weight) in enumerate(zip(words, weights, strict=True)):
        for pair in pairwise(word):
            counts[pair] += weight
            where[pair].add(index)

    # The heap is lazy: counts only ever fall after a pair is pushed, so an entry is checked when it comes to the top.
    heap = [(-count, pair) for pair, count in counts.items()]
    heapq.heapify(heap)
    while heap and len(tokens) < vocab_size:
        negative, pair = heapq.heappop(heap)
        if counts[pair] != -negative:
            if counts[pair] > 0:
                heapq.heappush(heap, (-counts[pair], pair))
            continue
        new_id = len(tokens)
        tokens.append(tokens[pair[0]] + tokens[pair[1]])
        born: set[Pair] = set()  # pairs that hold the new token: they exist from this merge on
        for index in where.pop(pair):
            word, weight = words[index], weights[index]
            merged = merge(word, pair, new_id)
            for old in pairwise(word):
                counts[old] -= weight
            for neighbour in pairwise(merged):
                counts[neighbour] += weight
                if new_id in neighbour:
                    born.add(neighbour)
                    where[neighbour].add(index)
            words[index] = merged
        for neighbour in born:
            heapq.heappush(heap, (-counts[neighbour], neighbour))
    return tokens


def split_and_count(texts: Iterable[str], pattern: str) -> Counter[str]:
    """The pieces that the split pattern cuts the texts into, and how often each occurs. Merges stay inside a piece."""
    import regex  # like `re`, but knows \p{L} and \p{N}; tiktoken brings it along

    try:
        compiled = regex.compile(pattern)
    except regex.error as error:
        raise PatternError(f"the split pattern is not a regular expression ({error}); mend it") from None
    pieces: Counter[str] = Counter()
    for text in texts:
        pieces.update(match[0] for match in compiled.finditer(text))
    pieces.pop("", None)
    return pieces


def merge(word: list[int], pair: Pair, new_id: int) -> list[int]:
    """The word with every occurrence of the pair replaced, from the left.

    >>> merge([7, 7, 7, 1], (7, 7), 9)
    [9, 7, 1]
    """
    merged: list[int] = []
    position = 0
    while position < len(word):
        if word[position] == pair[0] and position + 1 < len(word) and word[position + 1] == pair[1]:
            merged.append(new_id)
            position += 2
        else:
            merged.append(word[position])
            position += 1
    return merged
