"""The n-gram model is its formula: parity with a slow plain definition, and probabilities that sum to 1."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.ngram import DISCOUNT_OF_TINY_TEXTS, NGram, NGramError

BOS = 0
V = 6
rows_of_ids = st.lists(
    st.lists(st.integers(0, V - 1), max_size=12).map(lambda ids: [BOS, *ids]), min_size=1, max_size=8
)
texts = rows_of_ids.filter(lambda rows: any(len(row) > 1 for row in rows))


def plain_probability(rows: list[list[int]], order: int, context: tuple[int, ...], token: int) -> float:
    """p(token | context) from the formula in ngram.py, recounted from the text each time."""
    padded = [[BOS] * (order - 2) + row if order > 1 else row for row in rows]
    first = max(order - 1, 1)  # the starts before it are given
    grams = Counter(tuple(row[i - order + 1 : i + 1]) for row in padded for i in range(first, len(row)))
    counts = {order: grams}
    for n in range(order - 1, 0, -1):
        counts[n] = Counter(gram[1:] for gram in counts[n + 1])  # once for each different longer n-gram
    history = ((BOS,) * order + context)[-(order - 1) :] if order > 1 else ()
    p = 1 / V
    for n in range(1, order + 1):
        sizes = Counter(counts[n].values())
        discount = sizes[1] / (sizes[1] + 2 * sizes[2]) if sizes[1] and sizes[2] else DISCOUNT_OF_TINY_TEXTS
        before = history[len(history) - (n - 1) :]
        after = {gram[-1]: count for gram, count in counts[n].items() if gram[:-1] == before}
        total = sum(after.values())
        if total:
            p = max(after.get(token, 0) - discount, 0) / total + discount * len(after) / total * p
    return p


@settings(deadline=None, max_examples=25)
@given(rows=texts, order=st.integers(1, 5), context=st.lists(st.integers(0, V - 1), max_size=6).map(tuple))
def test_it_is_the_formula(rows, order, context):
    model = NGram(rows, order, V)
    expected = [plain_probability(rows, order, (BOS, *context), token) for token in range(V)]
    np.testing.assert_allclose(model.distribution([BOS, *context]), expected, rtol=1e-12)
    for row in rows:
        plain = [plain_probability(rows, order, tuple(row[:i]), row[i]) for i in range(1, len(row))]
        np.testing.assert_allclose(model.probabilities(row), plain, rtol=1e-12)
        assert math.isclose(model.nats(row), -sum(map(math.log, plain)), rel_tol=1e-9, abs_tol=1e-12)


@settings(deadline=None, max_examples=40)
@given(rows=texts, order=st.integers(1, 5), context=st.lists(st.integers(0, V - 1), max_size=8))
def test_probabilities_sum_to_one(rows, order, context):
    """After contexts that occurred and contexts that did not; and no token is impossible."""
    p = NGram(rows, order, V).distribution([BOS, *context])
    assert math.isclose(p.sum(), 1, rel_tol=1e-12)
    assert p.min() > 0


def test_a_context_of_four_is_seen_and_five_is_not():
    """The token after 1 2 3 4 is certain only for a model that looks back over all four."""
    rows = [[BOS, 1, 2, 3, 4, 5], [BOS, 5, 2, 3, 4, 1]] * 20
    wide, narrow = NGram(rows, 5, V), NGram(rows, 4, V)
    assert wide.distribution([BOS, 1, 2, 3, 4])[5] > 0.9
    assert abs(narrow.distribution([BOS, 1, 2, 3, 4])[5] - narrow.distribution([BOS, 5, 2, 3, 4])[5]) < 1e-12


def test_continuations_count_contexts_not_occurrences():
    """Kneser-Ney's point: 2 follows only 1, however often; 3 follows three tokens, and is likelier in a new place."""
    rows = [[BOS, 1, 2]] * 50 + [[BOS, 4, 3], [BOS, 5, 3], [BOS, 1, 3]]
    p = NGram(rows, 2, V).distribution([BOS, 2])
    assert p[3] > p[2]


def test_samples_follow_the_distribution():
    model = NGram([[BOS, 1, 2, BOS], [BOS, 1, 3, BOS], [BOS, 1, 3, BOS]], 3, V)
    rng = np.random.default_rng(0)
    drawn = Counter(model.sample(rng, V, 1)[0] for _ in range(4000))  # V is no token, so nothing stops it
    for token, p in enumerate(model.distribution([BOS])):
        assert abs(drawn[token] / 4000 - p) < 4 * math.sqrt(p * (1 - p) / 4000)


def test_a_sample_ends_at_the_stop_or_at_the_limit():
    model = NGram([[BOS, 1, 2, BOS]] * 30, 5, V)
    rng = np.random.default_rng(1)
    samples = [model.sample(rng, BOS, 50) for _ in range(50)]
    assert all(BOS not in ids and len(ids) <= 50 for ids in samples)
    assert samples.count([1, 2]) > 30
    assert len(model.sample(rng, V, 7)) == 7
    assert model.sample(np.random.default_rng(5), BOS, 9) == model.sample(np.random.default_rng(5), BOS, 9)


@pytest.mark.parametrize(
    ("rows", "order", "words"),
    [
        ([[0, 1]], 0, "order 0"),
        ([], 5, "nothing to count"),
        ([[0], []], 5, "nothing to count"),
        ([[0, 1], [1, 1]], 5, "2 different tokens"),
        ([[0, V]], 5, f"run from 0 to {V}"),
        ([[0, -1]], 5, "run from -1"),
    ],
)
def test_what_cannot_be_counted_is_refused(rows, order, words):
    with pytest.raises(NGramError, match=words):
        NGram(rows, order, V)


@pytest.mark.parametrize("sequence", [[], [1, 2], [0, V], [0, -1]])
def test_a_sequence_of_another_vocabulary_is_refused(sequence):
    with pytest.raises(NGramError, match="must begin with token 0"):
        NGram([[0, 1]], 5, V).nats(sequence)
