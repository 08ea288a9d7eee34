"""kernels.sample.philox: the published vectors, an independent implementation, and the shape of the noise."""

import math
import random

import numpy as np
import pytest
import torch

from kernels.sample import philox

# Random123's known answers for philox4x32-10: counter, key, words.
PUBLISHED = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def by_hand(counter: list[int], key: list[int]) -> list[int]:
    """Philox4x32-10 in Python's unbounded integers, as the paper's figure draws it."""
    left0, right0, left1, right1 = counter[0], counter[1], counter[2], counter[3]
    k0, k1 = key
    for _ in range(10):
        high0, low0 = divmod(0xD2511F53 * left0, 2**32)
        high1, low1 = divmod(0xCD9E8D57 * left1, 2**32)
        left0, right0, left1, right1 = high1 ^ right0 ^ k0, low1, high0 ^ right1 ^ k1, low0
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return [left0, right0, left1, right1]


def hexadecimal(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


@pytest.mark.parametrize(("counter", "key", "expected"), PUBLISHED)
def test_published_vectors(counter: str, key: str, expected: str) -> None:
    assert by_hand(hexadecimal(counter), hexadecimal(key)) == hexadecimal(expected)
    got = philox.words(
        tuple(torch.tensor([word]) for word in hexadecimal(counter)),
        tuple(torch.tensor([word]) for word in hexadecimal(key)),
    )
    assert [int(word) for word in got] == hexadecimal(expected)


def test_both_forms_equal_the_hand_calculation() -> None:
    chance = random.Random(5)
    for _ in range(20):
        seed, step = chance.getrandbits(64), chance.getrandbits(63)
        blocks = [chance.getrandbits(32) for _ in range(6)]
        key, high_low = [seed & 0xFFFFFFFF, seed >> 32], [step & 0xFFFFFFFF, step >> 32]
        expected = [by_hand([block, *high_low, 0], key) for block in blocks]
        got = philox.numpy_words(
            np.array([blocks], np.uint32), np.array([[step]], np.uint64), np.array([[seed]], np.uint64)
        )
        assert [list(words) for words in zip(*(lane[0].tolist() for lane in got), strict=True)] == expected
        counter = [torch.tensor(blocks), *(torch.full((6,), word) for word in [*high_low, 0])]
        got = philox.words(tuple(counter), tuple(torch.full((6,), word) for word in key))
        assert [list(words) for words in zip(*(lane.tolist() for lane in got), strict=True)] == expected


@pytest.mark.parametrize("vocab", [1, 3, 4, 5, 1023, 1024, 4 * philox.CACHED_BLOCKS + 2])
def test_both_forms_give_the_same_noise(vocab: int) -> None:
    seeds, steps = torch.tensor([3, -(2**63), 2**50]), torch.tensor([0, 7, 2**33])
    bits = [seeds.numpy().astype(np.uint64), steps.numpy().astype(np.uint64)]
    fast = torch.from_numpy(philox.numpy_gumbel_rows(*bits, vocab))
    slow = philox.gumbel(seeds[:, None], steps[:, None], vocab, torch.float32)
    assert fast.shape == slow.shape == (3, vocab)
    torch.testing.assert_close(fast, slow, atol=1e-6, rtol=1e-6)
    # A token's noise does not depend on how many tokens there are.
    assert torch.from_numpy(philox.numpy_gumbel_rows(*bits, vocab + 9)[:, :vocab]).equal(fast)


def test_a_token_takes_its_word_of_its_block() -> None:
    noise = philox.gumbel(torch.tensor([[2**40 + 9]]), torch.tensor([[2**35 + 1]]), 11, torch.float64)[0]
    for token in range(11):
        r = by_hand([token // 4, 1, 2**3, 0], [9, 2**8])[token % 4]
        u = float(np.float32(np.float32(r) * np.float32(2**-32) + np.float32(2**-33)))
        e = u * (1 + u / 2) if u < 2**-12 else -math.log(1 - u)
        assert noise[token].item() == pytest.approx(-math.log(e), rel=1e-12)


def test_the_extremes_are_finite_and_far_out() -> None:
    r = np.array([0, 1, 2**20 - 1, 2**20, 2**31, 2**32 - 2, 2**32 - 1], np.uint32)
    noise = philox.numpy_gumbel(r)
    assert np.isfinite(noise).all()
    assert (np.diff(noise) <= 0).all()  # a small word is large noise
    assert noise[0] == pytest.approx(33 * math.log(2), rel=1e-6)
    assert noise[1] == pytest.approx(-math.log(1.5 * 2**-32), rel=1e-6)
    assert noise[-1] == pytest.approx(-math.log(24 * math.log(2)), rel=1e-6)


def test_the_noise_is_standard_gumbel() -> None:
    seeds = np.arange(100, dtype=np.uint64)
    noise = np.sort(philox.numpy_gumbel_rows(seeds, np.zeros_like(seeds), 4000).ravel().astype(np.float64))
    n = noise.size
    assert noise.mean() == pytest.approx(0.5772156649, abs=5 * math.sqrt(math.pi**2 / 6 / n))
    # Kolmogorov-Smirnov: the largest gap between the counted and the true distribution function.
    true = np.exp(-np.exp(-noise))
    assert np.abs(true - (np.arange(n) + 0.5) / n).max() < 2 / math.sqrt(n)
    # The tail that decides between unlikely tokens: P(gumbel > 10) = 4.5e-5, expected 18 of 400,000.
    assert 3 <= (noise > 10).sum() <= 40
