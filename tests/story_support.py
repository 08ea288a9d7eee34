"""What the tests of the stories share: a grammar small enough to write out completely, and the means to do so."""

import re
from collections.abc import Iterator, Sequence
from fractions import Fraction

from nanochat.stories.grammar import Grammar, Memory, Nodes, make_grammar
from nanochat.stories.words import WORD_LISTS, WordList
from nanochat.stories.writing import write_nodes


def short_lists(size: int) -> dict[str, WordList]:
    """The stories' word lists, each cut to its first few words."""
    return {
        name: WordList(name, source.words[: size - 1], source.words[size - 1 : size], source.kind, source.sex)
        for name, source in WORD_LISTS.items()
    }


SMALL_RULES = {
    "story": ["<when> <kid> had {a:SMALL} {goods:GOODS}. <middle> <end>", "<when> <kid> slept{sleeper=hero}. <end>"],
    "when": ["Once", "One {WEATHER} day"],
    "kid": ["{hero:GIRLS}", "{hero:BOYS}"],
    "middle": ["{hero.He} found {b:FEW} more, which made {a+b}.", "[Oh no|Alas]! {hero} lost {b:FEW} and had {a-b}."],
    "end": ["That night, {hero} was in {hero.his} bed."],
}


def small_grammar() -> Grammar:
    """Every feature of the template language, and about a thousand stories."""
    return make_grammar(SMALL_RULES, short_lists(3))


def every_text(nodes: Nodes, memory: Memory | None = None) -> Iterator[tuple[str, Fraction]]:
    """Every derivation of some nodes with its probability, in the order of its choices."""
    path: list[int] = []  # which option each choice takes
    while True:
        sizes: list[int] = []

        def choose(cumulative: Sequence[int], path: list[int] = path, sizes: list[int] = sizes) -> int:
            if len(sizes) == len(path):
                path.append(0)
            sizes.append(len(cumulative))
            return path[len(sizes) - 1]

        pieces: list[str] = []
        odds = write_nodes(nodes, dict(memory or {}), choose, pieces)
        yield "".join(pieces), Fraction(*odds)
        while path and path[-1] == sizes[len(path) - 1] - 1:  # the last choice is exhausted: go back to one before it
            path.pop()
        if not path:
            return
        path[-1] += 1


def sentences(text: str) -> list[str]:
    """A story cut after each full stop, question or exclamation mark that ends a sentence of it."""
    return re.split(r'(?<=[.!?]) (?=[A-Z"])', text)
