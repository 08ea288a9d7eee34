"""Writes stories: story number i of a stream is a pure function of (seed, split, i).

A story is a number, read digit by digit. The 512 bits of a hash of (seed, split, index) are one large number; each
choice among n takes the remainder by n and goes on with the quotient, as one reads the digits of a number whose every
place has a base of its own. A story uses some 200 of the bits, so no choice is off from its probability by more than
2^-200. There is no state: any story can be made at any time, on any machine, by any number of workers.
"""

import hashlib
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

from nanochat.stories.grammar import (
    Bound,
    Choice,
    Draw,
    Grammar,
    Let,
    Literal,
    Memory,
    Nodes,
    StoryError,
    stories_grammar,
    surface,
)

# From the sums of the options' weights, each up to and including its own, to the place of the option that is taken.
Choose = Callable[[Sequence[int]], int]


@dataclass(frozen=True)
class Written:
    """A story with the choices that made it."""

    text: str
    probability: Fraction  # product over the choices


def write(grammar: Grammar, choose: Choose) -> Written:
    """One story, its choices made by `choose`."""
    pieces: list[str] = []
    odds = write_nodes(grammar.nodes, {}, choose, pieces)
    return Written("".join(pieces), Fraction(*odds))


def write_nodes(nodes: Nodes, memory: Memory, choose: Choose, pieces: list[str]) -> tuple[int, int]:
    """Append the text of `nodes` to `pieces`; returns its probability as (numerator, denominator)."""
    numerator, denominator = 1, 1
    for node in nodes:
        if isinstance(node, Literal):
            pieces.append(node.text)
        elif isinstance(node, Draw):
            source = node.source
            word = source.words[choose(source.cumulative)]
            if node.name:
                memory[node.name] = Bound(word, source)
            pieces.append(word)
            numerator *= source.weights[word]
            denominator *= source.total
        elif isinstance(node, Choice):
            branch = node.branches[choose(node.cumulative)]
            above, under = write_nodes(branch, memory, choose, pieces)
            numerator *= above
            denominator *= under * len(node.branches)
        elif isinstance(node, Let):
            memory[node.name] = memory[node.other]
        else:
            pieces.append(surface(node, memory))
    return numerator, denominator


def digits(seed: int, split: str, index: int) -> Choose:
    """A source of choices that depends on its three arguments alone."""
    key = f"{seed}/{split}/{index}".encode()
    number = int.from_bytes(hashlib.blake2b(key, digest_size=64).digest(), "little")

    def choose(cumulative: Sequence[int]) -> int:
        nonlocal number
        number, digit = divmod(number, cumulative[-1])
        return bisect_right(cumulative, digit)

    return choose


def story(seed: int, split: str, index: int) -> str:
    """Story number `index` of a stream. Raises StoryError for an index below zero."""
    if index < 0:
        raise StoryError(f"story {index} does not exist: a stream starts at 0; ask for 0 or more")
    return write(stories_grammar(), digits(seed, split, index)).text


def generate(seed: int, split: str = "train", start: int = 0) -> Iterator[str]:
    """The endless stream of stories `start`, `start` + 1, ...; splits such as "train" and "val" are separate streams.

    >>> from itertools import islice
    >>> first, second = islice(generate(seed=1), 2)
    >>> second == next(generate(seed=1, start=1))
    True
    """
    while True:
        yield story(seed, split, start)
        start += 1
