"""Reads a story: which choices made this text, how likely they were, and if none could, where it went wrong.

Reading walks the nodes of the grammar from left to right with all the ways to have come here, nearly always one. Each
way carries what was drawn and the exact probability so far. What is left at the end of the text is its derivation.

Two ways to read. `derivations` wants every agreement: the same name again, the right pronoun, the right sum.
`has_shape` wants the sentences only: any word of the right kind will do. It has no memory, so a place in the text is
all there is to a way.
"""

import re
from dataclasses import dataclass, field
from fractions import Fraction

from nanochat.stories.grammar import (
    PRONOUNS,
    VALUES,
    Bound,
    Choice,
    Draw,
    Grammar,
    Let,
    Literal,
    Memory,
    Mention,
    Node,
    Nodes,
    Sum,
    surface,
)

THE_END = Literal("")  # what stood in the way of a text that goes on after its story is complete
_WORD = re.compile(r"[A-Za-z]+")


@dataclass(frozen=True)
class Way:
    """One way to have read the text up to `place`."""

    place: int  # characters read
    memory: Memory
    numerator: int  # probability of the choices so far
    denominator: int

    @property
    def probability(self) -> Fraction:
        return Fraction(self.numerator, self.denominator)


@dataclass
class Obstacle:
    """The furthest place that reading reached, and what stood in the way there."""

    place: int = -1
    node: Node | None = None
    memory: Memory = field(default_factory=dict)

    def meet(self, place: int, node: Node, memory: Memory) -> None:
        """Remember the furthest; at one place, a broken agreement says more than a missing phrase."""
        says_more = place == self.place and isinstance(node, Mention | Sum) and not isinstance(self.node, Mention | Sum)
        if place > self.place or says_more:
            self.place, self.node, self.memory = place, node, memory


def word_at(text: str, place: int) -> str:
    """The word that begins at a place; "" if none does."""
    found = _WORD.match(text, place)
    return found[0] if found else ""


def derivations(grammar: Grammar, text: str) -> tuple[list[Way], Obstacle]:
    """Every way to read the whole text (at most one for the stories' grammar), and the furthest obstacle."""
    obstacle = Obstacle()
    ways = _read(grammar.nodes, text, [Way(0, {}, 1, 1)], obstacle)
    whole = [way for way in ways if way.place == len(text)]
    for way in ways:
        if way.place < len(text):
            obstacle.meet(way.place, THE_END, way.memory)
    return whole, obstacle


def _read(nodes: Nodes, text: str, ways: list[Way], obstacle: Obstacle) -> list[Way]:
    for node in nodes:
        ways = [after for way in ways for after in _step(node, text, way, obstacle)]
        if not ways:
            break
    return ways


def _step(node: Node, text: str, way: Way, obstacle: Obstacle) -> list[Way]:
    """The ways after `node`: none if the text does not go on like that."""
    place, memory = way.place, way.memory
    if isinstance(node, Literal):
        if text.startswith(node.text, place):
            return [Way(place + len(node.text), memory, way.numerator, way.denominator)]
        obstacle.meet(place + _agreement(node.text, text, place), node, memory)
    elif isinstance(node, Draw):
        word = word_at(text, place)
        if word in node.source.weights:
            if node.name:
                memory = {**memory, node.name: Bound(word, node.source)}
            odds = way.numerator * node.source.weights[word], way.denominator * node.source.total
            return [Way(place + len(word), memory, *odds)]
        obstacle.meet(place, node, memory)
    elif isinstance(node, Choice):
        start = [Way(place, memory, way.numerator, way.denominator * len(node.branches))]
        return [after for branch in node.branches for after in _read(branch, text, start, obstacle)]
    elif isinstance(node, Let):
        return [Way(place, {**memory, node.name: memory[node.other]}, way.numerator, way.denominator)]
    else:
        expected = surface(node, memory)
        if word_at(text, place) == expected:
            return [Way(place + len(expected), memory, way.numerator, way.denominator)]
        obstacle.meet(place, node, memory)
    return []


def _agreement(expected: str, text: str, place: int) -> int:
    """How much of `expected` stands there, cut back to whole words unless the text ends in the middle."""
    there = text[place : place + len(expected)]
    same = next((i for i, (a, b) in enumerate(zip(expected, there, strict=False)) if a != b), len(there))
    return same if place + same == len(text) else expected.rfind(" ", 0, same) + 1


def has_shape(grammar: Grammar, text: str) -> bool:
    """Whether the text has the sentences of a story, if one does not look at which name, pronoun or number it is."""
    return len(text) in _ends(grammar, grammar.nodes, text, {0}, {})


def _ends(grammar: Grammar, nodes: Nodes, text: str, places: set[int], kinds: dict[str, str]) -> set[int]:
    """Where reading can stand after `nodes`. `kinds` maps each name to the kind of word it remembers."""
    for node in nodes:
        if not places:
            break
        if isinstance(node, Choice):
            places = {end for branch in node.branches for end in _ends(grammar, branch, text, places, kinds)}
        elif isinstance(node, Literal):
            places = {place + len(node.text) for place in places if text.startswith(node.text, place)}
        elif isinstance(node, Let):
            kinds[node.name] = kinds[node.other]
        else:
            if isinstance(node, Draw):
                kinds[node.name] = node.source.kind
            words = {place: word_at(text, place) for place in places}
            places = {place + len(word) for place, word in words.items() if word and _fits(grammar, node, word, kinds)}
    return places


def _fits(grammar: Grammar, node: Draw | Mention | Sum, word: str, kinds: dict[str, str]) -> bool:
    """Whether a word is of the kind that belongs here."""
    if isinstance(node, Sum):
        return word in VALUES
    if isinstance(node, Draw):
        return word in grammar.kinds[node.source.kind]
    if node.form:
        return word in PRONOUNS[node.form].values()
    return word in grammar.kinds[kinds[node.name]]
