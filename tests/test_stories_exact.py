"""The stories' probabilities are exact: written out completely where that is possible, and equal both ways where not.

`write` records the probability of its choices; `derivations` recovers it from the text alone. That both are right is
shown on a small grammar with every feature of the template language, whose stories are all written out; that no two
derivations of the real grammar give one text is shown sentence by sentence, with shortened word lists.
"""

import math
import re
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.stories import StoryError, judge, story
from nanochat.stories.grammar import (
    PRONOUNS,
    Bound,
    Choice,
    Draw,
    Let,
    Literal,
    Memory,
    Mention,
    Nodes,
    Sum,
    make_grammar,
    stories_grammar,
    weigh,
)
from nanochat.stories.plots import GRAMMAR
from nanochat.stories.reading import derivations, has_shape
from nanochat.stories.words import NUMBER_WORDS, RARE, WORD_LISTS
from nanochat.stories.writing import digits, write
from tests.story_support import SMALL_RULES, every_text, short_lists, small_grammar

numbers = st.integers(0, 10**9)


# -- a small grammar, written out completely --


@pytest.fixture(scope="module")
def small():
    return small_grammar()


@pytest.fixture(scope="module")
def all_small(small) -> dict[str, Fraction]:
    texts = list(every_text(small.nodes))
    assert len({text for text, _ in texts}) == len(texts), "two derivations give one text"
    return dict(texts)


def test_its_probabilities_sum_to_one(all_small):
    assert len(all_small) > 1000
    assert sum(all_small.values()) == 1


def test_every_text_is_read_in_exactly_one_way(small, all_small):
    for text, probability in all_small.items():
        ways, _ = derivations(small, text)
        assert [way.probability for way in ways] == [probability]
        assert has_shape(small, text)


def test_no_text_begins_another(all_small):
    ordered = sorted(all_small)
    assert not any(later.startswith(earlier) for earlier, later in pairwise(ordered))


def test_what_is_weighed_is_what_is_written(small, all_small):
    """Totals, collisions, entropy and lengths computed from the nodes equal those of the complete list."""
    weight = weigh(small.nodes)
    assert weight.total == 1
    assert weight.collision == sum(p * p for p in all_small.values())
    assert math.isclose(weight.entropy, -sum(float(p) * math.log2(p) for p in all_small.values()), rel_tol=1e-12)
    spaces = [text.count(" ") for text in all_small]
    assert (weight.fewest, weight.most) == (min(spaces), max(spaces))


def test_generated_texts_come_as_often_as_they_should(small, all_small):
    """Chi-squared over all texts of the small grammar, 20,000 draws; the limit is five standard deviations."""
    draws = 20_000
    seen = dict.fromkeys(all_small, 0)
    for index in range(draws):
        seen[write(small, digits(0, "chi", index)).text] += 1
    groups: dict[int, list[float]] = {}  # texts of about the same probability together, so that no group is small
    for text, p in all_small.items():
        group = groups.setdefault(int(math.log2(p)), [0.0, 0.0])
        group[0] += seen[text]
        group[1] += float(p) * draws
    chi = sum((observed - expected) ** 2 / expected for observed, expected in groups.values())
    assert len(groups) > 5
    assert chi < len(groups) + 5 * math.sqrt(2 * len(groups))


# -- the real grammar --


def test_its_total_is_one():
    assert weigh(stories_grammar().nodes).total == 1


@settings(max_examples=150, deadline=None)
@given(seed=numbers, index=numbers)
def test_a_story_is_read_as_it_was_written(seed, index):
    written = write(stories_grammar(), digits(seed, "train", index))
    ways, _ = derivations(stories_grammar(), written.text)
    assert [way.probability for way in ways] == [written.probability]
    verdict = judge(written.text)
    assert verdict.accepted
    assert verdict.shape
    assert math.isclose(verdict.bits, -math.log2(written.probability), rel_tol=1e-12)


def _choices(nodes: Nodes) -> dict[str, Choice]:
    found: dict[str, Choice] = {}
    for node in nodes:
        if isinstance(node, Choice):
            found |= {node.rule: node} | {k: v for branch in node.branches for k, v in _choices(branch).items()}
    return found


EVERYTHING = " ".join(variant for variants in GRAMMAR.values() for variant in variants)
SENTENCES = sorted(rule for rule in GRAMMAR if not any("> <" in variant for variant in GRAMMAR[rule]))


@pytest.mark.parametrize("rule", SENTENCES)
def test_the_variants_of_a_sentence_never_give_the_same_text(rule):
    """All texts of each sentence of the real grammar, its lists cut to two words, and the memory set beforehand."""
    lists = short_lists(2)
    choice = _choices(make_grammar(GRAMMAR, lists).nodes)[rule]
    texts = list(every_text((choice,), _memory(lists)))
    assert sum(p for _, p in texts) == 1
    assert len({text for text, _ in texts}) == len(texts)


def _memory(lists) -> Memory:
    """Something under every name that the grammar remembers, so that a sentence can stand alone."""
    memory: Memory = {}
    for name, source in re.findall(r"\{([a-z]+):([A-Z]+)\}", EVERYTHING):
        memory[name] = Bound(lists[source].words[-1], lists[source])
    for name, other in re.findall(r"\{([a-z]+)=([a-z]+)\}", EVERYTHING):
        memory[name] = memory[other]
    memory["hi"] = Bound("ten", lists["HIGH"])  # so that no difference is negative
    return memory


def test_lists_at_one_place_share_no_word():
    """Wherever two branches begin alike and then draw from two lists, the lists are disjoint or the same."""
    for choice in _choices(stories_grammar().nodes).values():
        draws = [
            (branch[:i], node.source)
            for branch in choice.branches
            for i, node in enumerate(branch)
            if isinstance(node, Draw)
        ]
        for before, source in draws:
            for other_before, other in draws:
                if before == other_before and source is not other:
                    assert not set(source.words) & set(other.words), (choice.rule, source.name, other.name)


@pytest.mark.parametrize("source", WORD_LISTS.values(), ids=lambda source: source.name)
def test_a_word_list(source):
    """No word twice, every word one that reading takes whole, every weight above zero, RARE percent for the rare."""
    assert len(source.common) + len(source.rare) == len(source.weights) == len(source.words)
    assert all(re.fullmatch("[A-Za-z]+", word) for word in source.words)
    assert min(source.weights.values()) > 0
    if source.rare:
        rare = sum(source.weights[word] for word in source.rare) / source.total
        assert RARE / 100 - 0.003 < rare <= RARE / 100


def test_no_sum_leaves_the_number_words():
    """Over all numbers that can be drawn, every sum is at least one and has a word."""
    ends = {
        name: {NUMBER_WORDS.index(word) for source in sources for word in WORD_LISTS[source].words}
        for name, sources in _sources().items()
        if all(WORD_LISTS[source].kind == "number" for source in sources)
    }
    terms = set(re.findall(r"\{([a-z]+(?:[+-][a-z]+)+)\}", EVERYTHING))
    assert terms == {"a+b", "a+b-c", "hi-lo"}
    for slot in terms:
        signed = re.findall(r"([+-]?)([a-z]+)", slot)
        low = sum(-max(ends[name]) if sign == "-" else min(ends[name]) for sign, name in signed)
        high = sum(-min(ends[name]) if sign == "-" else max(ends[name]) for sign, name in signed)
        assert low >= 1, slot
        assert high < len(NUMBER_WORDS), slot


def _sources() -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for name, source in re.findall(r"\{([a-z]+):([A-Z]+)\}", EVERYTHING):
        found.setdefault(name, set()).add(source)
    return found


def test_a_name_always_remembers_one_kind():
    """What lets `has_shape` read without a memory."""
    for name, sources in _sources().items():
        assert len({WORD_LISTS[source].kind for source in sources}) == 1, name


# -- what is wrong is found --

# Lists whose words the text mentions again, and not only the questions about it.
MENTIONED = set(re.findall(r"\{([a-z]+)\}", EVERYTHING))
CARRIED = sorted({source for name, source in re.findall(r"\{([a-z]+):([A-Z]+)\}", EVERYTHING) if name in MENTIONED})
OTHER_SEX = {"he": "she", "He": "She", "his": "her", "His": "Her", "she": "he", "She": "He", "Her": "His"}


def _swaps(text: str) -> list[tuple[str, str, str]]:
    """(what, text with one word replaced by another of its kind, the word before) for each word that must agree."""
    swapped = []
    for found in re.finditer(r"[A-Za-z]+", text):
        word = found[0]
        for name in CARRIED:
            words = WORD_LISTS[name].words
            if word in words and len(re.findall(rf"\b{word}\b", text)) > 1:
                swapped.append((name, found, words[(words.index(word) + 1) % len(words)]))
        if word in NUMBER_WORDS:
            swapped.append(("number", found, NUMBER_WORDS[(NUMBER_WORDS.index(word) + 1) % len(NUMBER_WORDS)]))
        if word == "her":
            swapped.append(("pronoun", found, "his"))
        elif word in OTHER_SEX:
            swapped.append(("pronoun", found, OTHER_SEX[word]))
    return [(what, text[: at.start()] + other + text[at.end() :], at[0]) for what, at, other in swapped]


@settings(max_examples=40, deadline=None)
@given(seed=numbers, index=numbers)
def test_one_swapped_word_is_the_right_shape_and_no_story(seed, index):
    text = story(seed, "train", index)
    swaps = _swaps(text)
    assert len(swaps) >= 8
    for what, other, word in swaps:
        verdict = judge(other)
        assert not verdict.accepted, (what, word, other)
        assert verdict.shape, (what, word, other, verdict.reason)
        assert verdict.bits is None


def test_every_kind_of_swap_was_tried():
    tried = {what for index in range(300) for what, _, _ in _swaps(story(1, "train", index))}
    assert len(CARRIED) >= 10
    assert tried == {*CARRIED, "number", "pronoun"}


EXAMPLE = (
    "Yesterday, a friendly boy named Paul went to the garden. At the garden he met his aunt Rose. Paul found two "
    'apples, and Rose found three. "Now we have five apples," said Rose slowly. A little fox came by, so they gave it '
    "one. It waited, and four apples were left. In the end, Paul took four apples home from the garden."
)
LIKE = "sentence {} is like a story up to"


@pytest.mark.parametrize(
    ("old", "new", "shape", "reason"),
    [
        ("", "", True, "every sentence, name, pronoun and number is right"),
        ("Paul found", "Max found", True, "sentence 3 says Max, but it was Paul before, so it should be Paul"),
        ("he met", "she met", True, "sentence 2 says she, but it speaks of Paul, so it should be he"),
        ("five", "six", True, "sentence 4 says six, but two + three makes five, so it should be five"),
        ("four", "two", True, "sentence 6 says two, but two + three - one makes four, so it should be four"),
        ("four apples were", "four nuts were", True, "sentence 6 says nuts, but it was apples before, so it should be"),
        ("from the garden", "from the lake", True, "sentence 7 says lake, but it was garden before, so it should be"),
        ("aunt Rose", "aunt Otto", True, LIKE.format(2) + ' "At the garden he met his aunt", but "Otto. Paul found'),
        ("It waited", "It was", False, LIKE.format(6) + ' "It", but "was, and four apples'),
        ('"Now', "Now", False, 'sentence 4 is none that can stand here: "Now we have five'),
        (EXAMPLE[EXAMPLE.index(" In the end") :], "", False, "the text ends after sentence 6, before the story does"),
        (" home from the garden.", "", False, "the text ends in sentence 7, before the story does"),
        ("home from the garden.", "home from the garden. The end.", False, "the story is complete, but the text goes"),
    ],
)
def test_the_reason_is_in_words(old, new, shape, reason):
    verdict = judge(EXAMPLE.replace(old, new, 1))
    assert verdict.reason.startswith(reason), verdict.reason
    assert verdict.shape == shape
    assert verdict.accepted == (not old)


@settings(max_examples=200, deadline=None)
@given(
    st.one_of(
        st.text(),
        st.text(alphabet='OneTheMia .,"?!\n'),
        st.builds(lambda a, b: EXAMPLE[:a] + b, st.integers(0, 400), st.text()),
    )
)
def test_any_text_gets_a_verdict(text):
    verdict = judge(text)
    assert verdict.accepted == (text == EXAMPLE) == (verdict.bits is not None)
    assert verdict.reason


def test_a_huge_text_gets_a_verdict():
    verdict = judge("One day, a kind girl named Mia " * 10**6)
    assert not verdict.shape
    assert "no story has over" in verdict.reason


# -- templates --


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("a [b", "unpaired bracket at 2"),
        ("<nobody>", "names the rule <nobody>"),
        ("{NOTHING}", "{NOTHING}"),
        ("{hero.they}", "{hero.they}"),
        ("{a+}", "{a+}"),
        ("{}", "{}"),
    ],
)
def test_a_template_that_is_wrong_is_refused(template, words):
    with pytest.raises(StoryError, match=re.escape(words)):
        make_grammar({"story": [template]})


def test_a_template_becomes_nodes():
    nodes = make_grammar({"story": ["A {x:PETS}{y=x} [sat|ran]. {y} {x.He} {a-b}"]}).nodes
    assert isinstance(nodes[0], Choice)
    first, draw, let, space, choice, stop, mention, _, pronoun, _, number = nodes[0].branches[0]
    assert (first, space, stop) == (Literal("A "), Literal(" "), Literal(". "))
    assert draw == Draw(WORD_LISTS["PETS"], "x")
    assert let == Let("y", "x")
    assert choice == Choice("", ((Literal("sat"),), (Literal("ran"),)))
    assert (mention, pronoun) == (Mention("y", ""), Mention("x", "He"))
    assert number == Sum(((1, "a"), (-1, "b")))
    assert set(PRONOUNS) == {"he", "him", "his", "He", "His"}
    assert "story" in SMALL_RULES
