# mypy: disable-error-code="no-untyped-def"
"""First kernel of a draw: each program reads one part of one row, once, and leaves what the row's choice needs.

Every part leaves its peak, its sum of exp(x - peak) and its argmax. Without filters it draws as well, because the best
of the parts' draws is the row's draw: then nothing is read twice. With filters it leaves its largest z with tokens and
noise, at most CAP of them, complete down to a key `bound`: as long as the row's threshold is not below the bounds, the
lists hold every token above it. Which elements they are is found by counting in registers; there is no sort.

+inf: a part (and then a row) that holds it is seen as 0 where it is and -inf elsewhere. `level` says how it came to be:
2 in x, 1 only after the division by the temperature, 0 not at all; parts of a lower level than the row's do not count.
"""

import triton
import triton.language as tl

from kernels.sample.triton_impl_math import (
    capped,
    halves,
    middle,
    noise_of_block,
    noise_of_tokens,
    order,
    value,
    warm_temperature,
    word64,
)

GREEDY, PLAIN, FILTERED = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)  # what a launch draws by
DEAD = tl.constexpr(-(2**31))  # the key of what is never drawn
LEAST = tl.constexpr(-0x7F7FFFFF - 1)  # the key of the lowest finite float32
# The rows of the two tables that parts leave, (B, rows, SPLITS).
PEAK, TOTAL, Z_PEAK, SCORE = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2), tl.constexpr(3)
STATE, ARGMAX, TOKEN, COUNT = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2), tl.constexpr(3)
STORED, BOUND = tl.constexpr(4), tl.constexpr(5)
FLOATS, INTS = tl.constexpr(4), tl.constexpr(6)
BROKEN = tl.constexpr(4)  # added to the level in STATE where a NaN was seen


@triton.jit
def _bound(key, lowest, highest, need, CAP: tl.constexpr):
    """A key that at least `need` and at most CAP elements reach; fewer reach it on ties too many to list."""
    low, high = lowest.to(tl.int64), highest.to(tl.int64) + 1  # more than CAP reach low, fewer than `need` reach high
    found, turn = 0, 0
    while (high - low > 1) & (found == 0):
        mid = middle(low, high, turn)
        count = tl.sum((key >= mid).to(tl.int32), 0)
        if count > CAP:
            low = mid
        else:
            high = mid
            found = (count >= need).to(tl.int32)
        turn += 1
    return high


@triton.jit(do_not_specialize=["seed_low", "seed_high", "step_low", "step_high", "need"])
def parts(
    logits, row_stride, floats, ints, list_key, list_score, list_token,
    temperature, temperatures, seed_low, seed_high, seeds, step_low, step_high, steps, softcap, need,
    V: tl.constexpr, SPLITS: tl.constexpr, BLOCK: tl.constexpr, CAP: tl.constexpr, MODE: tl.constexpr,
    SOFTCAP: tl.constexpr, ROW_T: tl.constexpr, ROW_SEED: tl.constexpr, ROW_STEP: tl.constexpr,
):  # fmt: skip
    """Program row * SPLITS + split reads BLOCK logits of its row (V of them, row_stride apart)."""
    program = tl.program_id(0)
    row, split = (program // SPLITS).to(tl.int64), program % SPLITS
    floats += row * FLOATS * SPLITS + split
    ints += row * INTS * SPLITS + split
    first = split * BLOCK
    token = first + tl.arange(0, BLOCK)
    inside = token < V
    raw = tl.load(logits + row * row_stride + token, mask=inside, other=0.0).to(tl.float32)
    nan = raw != raw
    x = capped(raw, softcap, SOFTCAP)
    x = tl.where(inside & (nan == 0), x, float("-inf"))
    peak = tl.max(x, 0)
    level = tl.where(peak == float("inf"), 2, 0)
    x = tl.where(level == 2, tl.where(x == float("inf"), 0.0, float("-inf")), x)
    peak = tl.where(level == 2, 0.0, peak)
    total = tl.sum(tl.where(x > float("-inf"), tl.exp(x - peak), 0.0), 0)
    tl.store(floats + PEAK * SPLITS, peak)
    tl.store(floats + TOTAL * SPLITS, total)
    tl.store(ints + ARGMAX * SPLITS, tl.min(tl.where(x == peak, token, V), 0))

    if MODE != GREEDY:
        T, _, _ = warm_temperature(temperature, temperatures, row, ROW_T)
        z = tl.div_rn(x, T)
        z_peak = tl.max(z, 0)
        over = z_peak == float("inf")
        level = tl.where(over, 1, level)
        z = tl.where(over, tl.where(z == float("inf"), 0.0, float("-inf")), z)
        z_peak = tl.where(over, 0.0, z_peak)
        live = z > float("-inf")
        count = tl.sum(live.to(tl.int32), 0)
        seed = word64(seed_low, seed_high, seeds, row, ROW_SEED)
        step_low, step_high = halves(word64(step_low, step_high, steps, row, ROW_STEP))
        tl.store(floats + Z_PEAK * SPLITS, z_peak)
        tl.store(ints + COUNT * SPLITS, count)
        if MODE == PLAIN:
            score = tl.where(live, z + noise_of_block(first, seed, step_low, step_high, BLOCK), float("-inf"))
            best = tl.max(score, 0)
            tl.store(floats + SCORE * SPLITS, best)
            tl.store(ints + TOKEN * SPLITS, tl.min(tl.where(score == best, token, V), 0))
        else:
            key = tl.where(live, order(z), DEAD)
            base = (row * SPLITS + split) * CAP
            if CAP == BLOCK:  # all of them
                score = z + noise_of_block(first, seed, step_low, step_high, BLOCK)
                place = base + tl.arange(0, BLOCK)
                tl.store(list_key + place, key)
                tl.store(list_score + place, score)
                tl.store(list_token + place, token)
                tl.store(ints + STORED * SPLITS, BLOCK)
                tl.store(ints + BOUND * SPLITS, DEAD)
            else:
                bound = tl.full((), LEAST, tl.int64)
                if count > CAP:
                    bound = _bound(key, tl.min(tl.where(live, key, 0x7FFFFFFF), 0), tl.max(key, 0), need, CAP)
                listed = live & (key >= bound)
                place = tl.cumsum(listed.to(tl.int32), 0) - 1  # tokens stay in order, so that a tie goes to the lowest
                tl.store(list_key + base + place, key, mask=listed)
                tl.store(list_token + base + place, token, mask=listed)
                stored = tl.sum(listed.to(tl.int32), 0)
                tl.store(ints + STORED * SPLITS, stored)
                tl.store(ints + BOUND * SPLITS, bound.to(tl.int32))
                # Noise for the listed alone: the list is read back by other threads than wrote it.
                tl.debug_barrier()
                slot = tl.arange(0, CAP)
                chosen = tl.load(list_token + base + slot, mask=slot < stored, other=0)
                z_chosen = value(tl.load(list_key + base + slot, mask=slot < stored, other=0))
                score = z_chosen + noise_of_tokens(chosen, seed, step_low, step_high)
                tl.store(list_score + base + slot, score, mask=slot < stored)
    tl.store(ints + STATE * SPLITS, level + BROKEN * tl.max(nan.to(tl.int32), 0))
