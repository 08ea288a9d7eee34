"""Counter-based noise: what a token's noise is depends on (seed, step, token) and on nothing else.

Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011) turns a counter of four 32-bit words
and a key of two into four random words. Here key = (seed low, seed high), counter = (token // 4, step low, step high,
0), and token t takes word t % 4. Triton's `tl.philox(seed, c0, c1, c2, c3)` is the same function.

A word r becomes standard Gumbel noise -log(e) with e exponential:

    u = float32(r) * 2^-32 + 2^-33, at most 1 - 2^-24          uniform in (0, 1), never 0 and never 1
    e = u (1 + u / 2) where u < 2^-12, else -log(1 - u)        exponential
    gumbel = -log(e)

A token wins by a large Gumbel value, that is, by a small e. Float32 is dense near 0 and coarse near 1, so e must be
small where u is small: the rarest events then come in steps of 2^-32, up to a Gumbel value of 22.9. With e = -log(u)
they would come in steps of 2^-24 and end at 16.6, and unlikely tokens of a large vocabulary would be drawn too rarely
or never. The series for small u avoids 1 - u, which would round u away.

Two forms: `words` and `gumbel` in PyTorch for any device, `numpy_words` and `numpy_gumbel` for a CPU, where numpy's
calls cost a third of PyTorch's. The tests hold both against the published vectors.
"""

from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

ROUNDS = 10
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
MASK = 0xFFFFFFFF

U_SCALE, U_OFFSET, U_MAX = 2.0**-32, 2.0**-33, 1 - 2.0**-24
SMALL_U = 2.0**-12

# The same constants in numpy's types, shaped for a state (2, rows, n).
NUMPY_MULTIPLIERS = np.array(MULTIPLIERS, np.uint64).reshape(2, 1, 1)
KEY_TURNS = np.arange(ROUNDS, dtype=np.uint32).reshape(-1, 1, 1, 1) * np.array(KEY_STEPS, np.uint32).reshape(2, 1, 1)
SHIFT, LOW = np.uint64(32), np.uint64(MASK)
LOW_WORD = 0 if np.little_endian else 1

# A text is written step by step, and numpy's calls cost more than a small vocabulary's noise: so the noise of this many
# steps is made at once and kept, for rows * vocabulary up to the limit (256 kB a text, 16 texts).
AHEAD, AHEAD_LIMIT = 8, 8192

# Blocks of four tokens that numpy works on at a time, so that the state stays in the processor's cache.
CACHED_BLOCKS = 8192


def words(counter: tuple[Tensor, ...], key: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
    """Philox4x32-10: four int64 tensors of 32-bit words; counter and key hold int64 words and broadcast.

    >>> zero = torch.zeros(1, dtype=torch.int64)
    >>> [f"{int(word):08x}" for word in words((zero, zero, zero, zero), (zero, zero))]
    ['6627e8d5', 'e169c58d', 'bc57ac4c', '9b00dbd8']
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(ROUNDS):
        product0 = c0 * MULTIPLIERS[0]  # int64 wraps, and its 64 bits are the unsigned product's
        product1 = c2 * MULTIPLIERS[1]
        c0, c2 = (product1 >> 32 & MASK) ^ c1 ^ k0, (product0 >> 32 & MASK) ^ c3 ^ k1
        c1, c3 = product1 & MASK, product0 & MASK
        k0, k1 = k0 + KEY_STEPS[0] & MASK, k1 + KEY_STEPS[1] & MASK
    return c0, c1, c2, c3


def gumbel(seed: Tensor, step: Tensor, vocab: int, dtype: torch.dtype) -> Tensor:
    """Noise (B, vocab) for seeds and steps (B, 1) or (1, 1) in int64, on their device. B may be 1 for all rows."""
    block = torch.arange((vocab + 3) // 4, device=seed.device)[None, :]
    counter = (block, step & MASK, step >> 32 & MASK, torch.zeros_like(block))
    lanes = torch.broadcast_tensors(*words(counter, (seed & MASK, seed >> 32 & MASK)))
    r = torch.stack(lanes, -1).flatten(1)[:, :vocab]
    u = (r.to(torch.float32) * U_SCALE + U_OFFSET).clamp(max=U_MAX).to(dtype)
    e = torch.where(u < SMALL_U, u * (1 + u / 2), -torch.log(1 - u))
    return -torch.log(e)


def numpy_words(
    block: NDArray[np.uint32], step: NDArray[np.uint64], seed: NDArray[np.uint64]
) -> tuple[NDArray[np.uint32], ...]:
    """The four Philox words of blocks (rows, n), for 64-bit steps and seeds (rows, 1) or (rows, n).

    The two halves of the state go through each round as one array of shape (2, rows, n): x holds the words that are
    multiplied, y the two that are only mixed in. A 64-bit product is read as its two 32-bit words without a copy.
    """
    state = np.empty((2, 2, *block.shape), np.uint32)
    x, y = state
    x[0], x[1] = block, step >> SHIFT
    y[0], y[1] = step & LOW, 0
    key = np.empty((2, *seed.shape), np.uint32)
    key[0], key[1] = seed & LOW, seed >> SHIFT
    keys = key + KEY_TURNS  # (ROUNDS, 2, rows, 1 or n), wrapping at 32 bits
    products = np.empty((2, 2, *block.shape), np.uint64)  # two buffers by turns: y reads the one before
    halves = products.view(np.uint32).reshape(*products.shape, 2)[:, ::-1]  # each half mixes into the other
    low, high = halves[..., LOW_WORD], halves[..., 1 - LOW_WORD]
    buffers = ((products[0], low[0], high[0]), (products[1], low[1], high[1]))
    for turn in range(ROUNDS):
        product, next_y, mixed = buffers[turn & 1]
        np.multiply(x, NUMPY_MULTIPLIERS, product)
        np.bitwise_xor(mixed, y, x)
        np.bitwise_xor(x, keys[turn], x)
        y = next_y
    return x[0], y[0], x[1], y[1]


def numpy_gumbel(r: NDArray[np.uint32]) -> NDArray[np.float32]:
    """Words to Gumbel noise, in float32 throughout."""
    u = r.astype(np.float32)
    u *= np.float32(U_SCALE)
    u += np.float32(U_OFFSET)
    np.minimum(u, np.float32(U_MAX), out=u)
    e = np.log(1 - u)
    np.negative(e, out=e)
    small = np.flatnonzero(u < np.float32(SMALL_U))  # one in 4,096
    if small.size:
        rare = u.ravel()[small]
        e.ravel()[small] = rare * (1 + rare / 2)
    np.log(e, out=e)
    return np.negative(e, out=e)


def numpy_gumbel_rows(seed: NDArray[np.uint64], step: NDArray[np.uint64], vocab: int) -> NDArray[np.float32]:
    """Noise (B, vocab) for seeds and steps (B,): the same as `gumbel`."""
    rows, blocks = len(seed), (vocab + 3) // 4
    r = np.empty((rows, blocks, 4), np.uint32)
    block = np.arange(blocks, dtype=np.uint32)[None, :]
    together = max(1, CACHED_BLOCKS // blocks)  # rows at a time
    for row in range(0, rows, together):
        for first in range(0, blocks, CACHED_BLOCKS):
            part = r[row : row + together, first : first + CACHED_BLOCKS]
            same = np.broadcast_to(block[:, first : first + CACHED_BLOCKS], part.shape[:2])
            lanes = numpy_words(same, step[row : row + together, None], seed[row : row + together, None])
            for lane in range(4):
                part[:, :, lane] = lanes[lane]
    return numpy_gumbel(r.reshape(rows, -1)[:, :vocab])


def numpy_gumbel_ahead(seed: NDArray[np.uint64], step: int, vocab: int) -> NDArray[np.float32]:
    """`numpy_gumbel_rows` where all rows are at one step, kept for the steps that follow. Not to be written to."""
    return _gumbel_steps(seed.tobytes(), step // AHEAD, vocab)[step % AHEAD]


@lru_cache(maxsize=16)
def _gumbel_steps(seeds: bytes, group: int, vocab: int) -> NDArray[np.float32]:
    """Noise (AHEAD, B, vocab) of one group of steps; a pure function, so keeping its results changes nothing."""
    seed = np.frombuffer(seeds, np.uint64)
    steps = np.repeat(np.arange(AHEAD, dtype=np.uint64) + np.uint64(group * AHEAD), len(seed))
    noise = numpy_gumbel_rows(np.tile(seed, AHEAD), steps, vocab).reshape(AHEAD, len(seed), vocab)
    noise.flags.writeable = False
    return noise
