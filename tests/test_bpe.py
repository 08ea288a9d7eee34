"""The pure-Python trainer against rustbpe, and against the definition of byte pair encoding."""

import doctest
from collections import Counter
from itertools import pairwise

import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat import bpe
from nanochat.tokenizer import SPLIT_PATTERN

# Few letters make many ties; the others are two, three and four bytes long, blanks, digits and line breaks.
SMALL_TEXTS = st.lists(st.text(alphabet="aab b\n\t1.'sé你🌍\x00", max_size=60), max_size=6)


def by_definition(texts: list[str], size: int) -> list[bytes]:
    """Count all pairs anew before every merge; of the most frequent ones take the pair with the smallest ids."""
    pieces = Counter(piece for text in texts for piece in regex.findall(SPLIT_PATTERN, text))
    words = {piece: list(piece.encode()) for piece in pieces}
    tokens = [bytes([byte]) for byte in range(256)]
    while len(tokens) < size:
        counts: Counter[tuple[int, int]] = Counter()
        for piece, word in words.items():
            for pair in pairwise(word):
                counts[pair] += pieces[piece]
        if not counts:
            break
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        words = {piece: bpe.merge(word, best, len(tokens)) for piece, word in words.items()}
        tokens.append(tokens[best[0]] + tokens[best[1]])
    return tokens


def with_rustbpe(texts: list[str], size: int) -> list[bytes]:
    rustbpe = pytest.importorskip("rustbpe")
    learner = rustbpe.Tokenizer()
    learner.train_from_iterator(iter(texts), size, pattern=SPLIT_PATTERN)
    return [bytes(token) for token, _ in learner.get_mergeable_ranks()]


@given(SMALL_TEXTS, st.integers(256, 330))
@settings(max_examples=150, deadline=None)
def test_same_vocabulary_as_the_definition(texts: list[str], size: int) -> None:
    assert bpe.train(texts, size, SPLIT_PATTERN) == by_definition(texts, size)


@given(SMALL_TEXTS, st.integers(256, 330))
@settings(max_examples=150, deadline=None)
def test_same_vocabulary_as_rustbpe(texts: list[str], size: int) -> None:
    assert bpe.train(texts, size, SPLIT_PATTERN) == with_rustbpe(texts, size)


# What this Python's Unicode tables know, Rust's know too; `regex` is newer than both and knows letters they don't.
AGREED = st.characters(exclude_categories=("Cs", "Cn"))


@given(st.lists(st.text(alphabet=AGREED, max_size=40), max_size=5))
@settings(max_examples=100, deadline=None)
def test_same_vocabulary_as_rustbpe_on_any_script(texts: list[str]) -> None:
    assert bpe.train(texts, 300, SPLIT_PATTERN) == with_rustbpe(texts, 300)


def test_examples_in_the_docstrings() -> None:
    results = doctest.testmod(bpe)
    assert (results.failed, results.attempted > 1) == (0, True)


def test_equal_counts_go_to_the_smaller_ids() -> None:
    # "ab" and "cd" occur once each in pieces of their own: (97, 98) comes before (99, 100).
    assert bpe.train(["cd. ab."], 258, r"\w+")[256:] == [b"ab", b"cd"]


def test_overlapping_pairs_merge_from_the_left() -> None:
    assert bpe.merge([5, 5, 5, 5, 5], (5, 5), 9) == [9, 9, 5]
    assert bpe.train(["aaaaaaa"], 258, SPLIT_PATTERN)[256:] == [b"aa", b"aaaa"]  # aa aa aa a: two pairs beat one


def test_merges_stay_inside_a_piece() -> None:
    tokens = bpe.train(["one two one two"] * 50, 400, SPLIT_PATTERN)
    assert b" two" in tokens
    assert not any(b"e t" in token for token in tokens)


def test_a_pattern_with_groups_counts_whole_pieces() -> None:
    assert bpe.split_and_count(["ab ab"], r"(a)(b)|\s") == {"ab": 2, " ": 1}


@pytest.mark.parametrize("texts", [[], [""], ["a"], ["\n", "1"]])
def test_too_little_text_gives_fewer_tokens(texts: list[str]) -> None:
    assert bpe.train(texts, 300, SPLIT_PATTERN) == [bytes([byte]) for byte in range(256)]


@pytest.mark.prove
@given(st.lists(st.text(alphabet="aab b\n\t1.'sé你🌍\x00", max_size=2000), max_size=30), st.integers(256, 2000))
@settings(max_examples=400, deadline=None)
def test_same_vocabulary_as_rustbpe_at_length(texts: list[str], size: int) -> None:
    assert bpe.train(texts, size, SPLIT_PATTERN) == with_rustbpe(texts, size)
