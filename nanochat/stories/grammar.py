"""A grammar of stories: templates become nodes, and nodes can be written, read and weighed.

The template language is described in plots.py. Here it is translated into six kinds of node; `writing.py` and
`reading.py` walk the same nodes, one choosing, one recognising, so that they cannot disagree about what a story is.

No draw depends on an earlier one: which words may come next, and how likely they are, is the same whatever was drawn
before. That is why `weigh` can compute entropies exactly instead of estimating them from samples.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, lru_cache

from nanochat.stories.words import NUMBER_WORDS, WORD_LISTS, WordList

PRONOUNS = {
    "he": {"m": "he", "f": "she"},
    "him": {"m": "him", "f": "her"},
    "his": {"m": "his", "f": "her"},
    "He": {"m": "He", "f": "She"},
    "His": {"m": "His", "f": "Her"},
}
VALUES = {word: value for value, word in enumerate(NUMBER_WORDS)}


class StoryError(ValueError):
    """A template, a story or a request that makes no sense: one sentence."""


@dataclass(frozen=True)
class Bound:
    """A word that a story remembers."""

    word: str
    source: WordList  # where it was drawn: tells its kind and, for people, the sex


Memory = dict[str, Bound]  # name in the templates -> what was drawn for it


@dataclass(frozen=True)
class Literal:
    """Text that stands there as it is."""

    text: str


@dataclass(frozen=True)
class Draw:
    """A word from a list, remembered under a name unless the name is empty."""

    source: WordList
    name: str


@dataclass(frozen=True)
class Mention:
    """A remembered word again, or its pronoun."""

    name: str
    form: str  # "" for the word itself, or a key of PRONOUNS


@dataclass(frozen=True)
class Sum:
    """A number word that follows from remembered ones."""

    terms: tuple[tuple[int, str], ...]  # (+1 or -1, name)


@dataclass(frozen=True)
class Let:
    """Writes nothing: from here on `name` means what `other` means."""

    name: str
    other: str


@dataclass(frozen=True)
class Choice:
    """One of several sequences, equally likely."""

    rule: str  # its name in the grammar; "" for [a|b|c]
    branches: tuple["Nodes", ...]

    @cached_property
    def cumulative(self) -> range:
        """Sum of the weights up to and including each branch: every branch has the weight 1."""
        return range(1, len(self.branches) + 1)


Node = Literal | Draw | Mention | Sum | Let | Choice
Nodes = tuple[Node, ...]


def surface(node: Mention | Sum, memory: Memory) -> str:
    """The text that a mention or a sum must have, given what was drawn."""
    if isinstance(node, Sum):
        return NUMBER_WORDS[sum(sign * VALUES[memory[name].word] for sign, name in node.terms)]
    bound = memory[node.name]
    return PRONOUNS[node.form][bound.source.sex] if node.form else bound.word


def names_in(nodes: Nodes) -> frozenset[str]:
    """The names whose memory these nodes need; they may not hold choices."""
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, Mention):
            found.add(node.name)
        elif isinstance(node, Sum):
            found.update(name for _, name in node.terms)
    return frozenset(found)


_TOKEN = re.compile(r"<(\w+)>|\{([^{}]*)\}|\[([^\[\]]*)\]|([^<>{}\[\]]+)")
_DRAW = re.compile(r"(?:([a-z]+):)?([A-Z]+)")
_MENTION = re.compile(r"([a-z]+)(?:\.(\w+))?")
_SUM = re.compile(r"[a-z]+(?:[+-][a-z]+)+")
_LET = re.compile(r"([a-z]+)=([a-z]+)")


def parse_template(template: str, rules: Mapping[str, Sequence[str]], lists: Mapping[str, WordList]) -> Nodes:
    """A template as nodes; `<rule>` becomes a Choice of that rule's variants. Raises StoryError."""
    nodes: list[Node] = []
    position = 0
    while position < len(template):
        found = _TOKEN.match(template, position)
        if found is None:
            raise StoryError(f"template {template!r} has an unpaired bracket at {position}; pair it")
        rule, slot, options, literal = found.groups()
        position = found.end()
        if literal is not None:
            nodes.append(Literal(literal))
        elif options is not None:
            nodes.append(Choice("", tuple(parse_template(option, rules, lists) for option in options.split("|"))))
        elif rule is not None:
            if rule not in rules:
                raise StoryError(f"template {template!r} names the rule <{rule}>, which is not there; add it")
            nodes.append(Choice(rule, tuple(parse_template(variant, rules, lists) for variant in rules[rule])))
        else:
            nodes.append(_parse_slot(slot, template, lists))
    return tuple(nodes)


def _parse_slot(slot: str, template: str, lists: Mapping[str, WordList]) -> Node:
    if (draw := _DRAW.fullmatch(slot)) and draw[2] in lists:
        return Draw(lists[draw[2]], draw[1] or "")
    if (mention := _MENTION.fullmatch(slot)) and (mention[2] or "") in {"", *PRONOUNS}:
        return Mention(mention[1], mention[2] or "")
    if _SUM.fullmatch(slot):
        signed = re.findall(r"([+-]?)([a-z]+)", slot)
        return Sum(tuple((-1 if sign == "-" else 1, name) for sign, name in signed))
    if let := _LET.fullmatch(slot):
        return Let(let[1], let[2])
    raise StoryError(
        f"template {template!r} has the slot {{{slot}}}, which is none of the forms in plots.py; correct it"
    )


@dataclass(frozen=True)
class Grammar:
    """Rules and word lists, ready to be walked from the rule "story"."""

    nodes: Nodes
    rules: Mapping[str, Sequence[str]]
    lists: Mapping[str, WordList]
    kinds: Mapping[str, frozenset[str]]  # kind -> all words of the lists of that kind


def make_grammar(rules: Mapping[str, Sequence[str]], lists: Mapping[str, WordList] = WORD_LISTS) -> Grammar:
    """Translate rules such as GRAMMAR. Raises StoryError for a template that is not well formed."""
    kinds: dict[str, frozenset[str]] = {"number": frozenset(NUMBER_WORDS)}
    for words in lists.values():
        kinds[words.kind] = kinds.get(words.kind, frozenset()) | frozenset(words.words)
    return Grammar(parse_template("<story>", rules, lists), rules, lists, kinds)


@lru_cache(maxsize=1)
def stories_grammar() -> Grammar:
    """The grammar of the built-in stories, translated once a process."""
    from nanochat.stories.plots import GRAMMAR

    return make_grammar(GRAMMAR)


@dataclass(frozen=True)
class Weight:
    """What can be said about all texts of some nodes together, exactly."""

    total: Fraction  # sum of p: 1, or the description is wrong
    collision: Fraction  # sum of p squared: the chance that two texts are the same
    entropy: float  # bits
    fewest: int  # spaces, one less than there are words
    most: int


def weigh(nodes: Nodes) -> Weight:
    """Sum of p, sum of p squared, entropy and length over every text of a sequence.

    Draws are independent, so sums of products are products of sums: H(a b) = H(a) + H(b), and a choice of n branches
    has H = log2 n + the mean over its branches. Holds if no text has two derivations.
    """
    total, collision, entropy, fewest, most = Fraction(1), Fraction(1), 0.0, 0, 0
    for node in nodes:
        weight = _weigh_node(node)
        total, collision = total * weight.total, collision * weight.collision
        entropy, fewest, most = entropy + weight.entropy, fewest + weight.fewest, most + weight.most
    return Weight(total, collision, entropy, fewest, most)


def _weigh_node(node: Node) -> Weight:
    if isinstance(node, Draw):
        chances = [Fraction(weight, node.source.total) for weight in node.source.weights.values()]
        entropy = -sum(float(p) * math.log2(p) for p in chances)
        return Weight(sum(chances, Fraction(0)), sum((p * p for p in chances), Fraction(0)), entropy, 0, 0)
    if isinstance(node, Choice):
        parts = [weigh(branch) for branch in node.branches]
        n = len(parts)
        return Weight(
            sum((part.total for part in parts), Fraction(0)) / n,
            sum((part.collision for part in parts), Fraction(0)) / n**2,
            math.log2(n) + sum(part.entropy for part in parts) / n,
            min(part.fewest for part in parts),
            max(part.most for part in parts),
        )
    spaces = node.text.count(" ") if isinstance(node, Literal) else 0
    return Weight(Fraction(1), Fraction(1), 0.0, spaces, spaces)
