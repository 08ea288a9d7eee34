"""A verdict about any text: is it a story, how many bits is it worth, and if it is none, why, in words for people.

The floor is the fewest bits per byte that any model can reach on average over these stories: a story of probability p
is worth -log2 p bits, and a model that spends fewer on one must spend more on others. No story is the beginning of
another, so a model's probability of the text, without an end token, is compared with p itself.
"""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from nanochat.stories.grammar import (
    PRONOUNS,
    VALUES,
    Memory,
    Mention,
    Nodes,
    StoryError,
    Sum,
    names_in,
    parse_template,
    stories_grammar,
    surface,
)
from nanochat.stories.plots import QUESTIONS
from nanochat.stories.reading import THE_END, Obstacle, Way, derivations, has_shape, word_at
from nanochat.stories.writing import write_nodes

LONGEST = 1_200  # characters; no story is that long (a test has the proof), so more text need not be read
SHOWN = 30  # characters of a faulty text that a reason quotes
_SENTENCE_END = re.compile(r'(?<=[.!?]) (?=[A-Z"]|$)')
_TEXT_END = re.compile(r"[.!?]\s*$")


@dataclass(frozen=True)
class Verdict:
    """What is to be said about a text."""

    accepted: bool  # it is a story, with every name, pronoun, object and sum right
    shape: bool  # its sentences are those of a story, whatever the names, pronouns and sums
    bits: float | None  # -log2 of its probability; None unless accepted
    reason: str  # one sentence


def judge(text: str) -> Verdict:
    """Judge any text at all: about half a millisecond for a story, and no longer for anything else.

    >>> judge("Yesterday, a dog ate my homework.").reason
    'sentence 1 is like a story up to "Yesterday, a", but "dog ate my homework." does not fit there'
    """
    if len(text) > LONGEST:
        return Verdict(False, False, None, f"the text has {len(text):,} characters, and no story has over {LONGEST:,}")
    grammar = stories_grammar()
    ways, obstacle = derivations(grammar, text)
    if ways:
        return Verdict(True, True, _bits(ways), "every sentence, name, pronoun and number is right")
    return Verdict(False, has_shape(grammar, text), None, _reason(text, obstacle))


def _bits(ways: list[Way]) -> float:
    probability = sum(way.probability for way in ways)
    return math.log2(probability.denominator) - math.log2(probability.numerator)


def _reason(text: str, obstacle: Obstacle) -> str:
    """What is wrong at the furthest place that reading reached."""
    if not text.strip():
        return "the text is empty"
    before, rest = text[: obstacle.place], text[obstacle.place :]
    shown = rest if len(rest) <= SHOWN else rest[:SHOWN] + "..."
    *done, so_far = _SENTENCE_END.split(before + " " if before.endswith((".", "!", "?")) else before)
    number = len(done) + 1
    node = obstacle.node
    if node == THE_END:
        return f'the story is complete, but the text goes on: "{shown.strip()}"'
    if not so_far and not rest.strip():
        return f"the text ends after sentence {number - 1}, before the story does"
    if not rest or (" " not in rest.strip() and not _TEXT_END.search(text)):
        return f"the text ends in sentence {number}, before the story does"
    found = word_at(text, obstacle.place)
    if isinstance(node, Mention | Sum) and found:
        because = _disagreement(node, obstacle.memory, found)
        if because:
            return f"sentence {number} says {found}, but {because}, so it should be {surface(node, obstacle.memory)}"
    if not so_far:
        return f'sentence {number} is none that can stand here: "{shown}"'
    return f'sentence {number} is like a story up to "{so_far.strip()}", but "{shown}" does not fit there'


def _disagreement(node: Mention | Sum, memory: Memory, found: str) -> str:
    """Why another word belongs here; "" where the word found is not even of the right kind."""
    if isinstance(node, Sum):
        if found not in VALUES:
            return ""
        terms = "".join(f"{' + ' if sign > 0 else ' - '}{memory[name].word}" for sign, name in node.terms)
        return f"{terms.removeprefix(' + ')} makes {surface(node, memory)}"
    bound = memory[node.name]
    if node.form:
        return f"it speaks of {bound.word}" if found in PRONOUNS[node.form].values() else ""
    return f"it was {bound.word} before" if found in stories_grammar().kinds[bound.source.kind] else ""


def floor_bpb(texts: Iterable[str]) -> float:
    """-sum log2 p / sum of bytes over these stories. Raises StoryError if one is no story, or there is none."""
    bits, size = 0.0, 0
    for text in texts:
        verdict = judge(text)
        if verdict.bits is None:
            raise StoryError(f"no floor is known for {text[:SHOWN]!r}...: {verdict.reason}; give stories of `generate`")
        bits += verdict.bits
        size += len(text.encode())
    if not size:
        raise StoryError("no floor is known for no stories at all; give at least one")
    return bits / size


def questions(text: str) -> list[tuple[str, str]]:
    """Questions about one story, each with its answer. Raises StoryError for a text that is no story."""
    ways, obstacle = derivations(stories_grammar(), text)
    if not ways:
        raise StoryError(f"no questions are known about {text[:SHOWN]!r}...: {_reason(text, obstacle)}; give a story")
    memory = ways[0].memory
    return [
        (_filled(question, memory), _filled(answer, memory))
        for question, answer, names in _questions()
        if names <= memory.keys()
    ]


@lru_cache(maxsize=1)
def _questions() -> list[tuple[Nodes, Nodes, frozenset[str]]]:
    """Each question and answer as nodes, with the names that a story must remember for it."""
    pairs = [[parse_template(half, {}, {}) for half in pair] for pair in QUESTIONS]
    return [(question, answer, names_in(question + answer)) for question, answer in pairs]


def _filled(nodes: Nodes, memory: Memory) -> str:
    pieces: list[str] = []
    write_nodes(nodes, memory, _no_choice, pieces)
    return "".join(pieces)


def _no_choice(cumulative: Sequence[int]) -> int:
    raise StoryError("a question has a draw or a choice in it, and must follow from its story; take them out")
