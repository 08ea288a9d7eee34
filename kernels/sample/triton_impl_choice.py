# mypy: disable-error-code="no-untyped-def"
"""Second kernel of a draw: one program per row puts the parts together, finds the threshold and chooses the token.

A threshold is the largest key v whose reach, the weight of all elements with key >= v, is at least a goal. For top_k a
weight is 1 and the goal k; for top_p a weight is exp(z - max z) and the goal p times the whole. Weights are added as
integers (fixed point), so a sum does not depend on order, tiles or splits, and neither does a kept set. The search
halves the interval of keys and snaps each end to an element that is there; a dozen rounds is usual, and it is exact.

The lists of the parts are searched in registers. Where they do not reach down to the threshold (flat logits and top_p,
a large top_k, many ties), the same search goes over the row's logits, which lie in a cache by then, round by round.
Nothing decides this but the row's own contents, and the host is never asked.
"""

import triton
import triton.language as tl

from kernels.sample.triton_impl_math import (
    capped,
    halves,
    middle,
    noise_of_block,
    order,
    value,
    warm_temperature,
    word64,
)
from kernels.sample.triton_impl_parts import (
    ARGMAX,
    BOUND,
    BROKEN,
    COUNT,
    DEAD,
    FLOATS,
    GREEDY,
    INTS,
    LEAST,
    PEAK,
    PLAIN,
    SCORE,
    STATE,
    STORED,
    TOKEN,
    TOTAL,
    Z_PEAK,
)

HIGHEST = tl.constexpr(2**31 - 1)


@triton.jit
def _mass(key, floor, z, z_peak, FRACTION: tl.constexpr):
    """exp(z - z_peak) of the elements from floor up, in units of 2^-FRACTION, as an int64."""
    w = tl.where(key >= floor, tl.exp(z - z_peak), 0.0)
    return (w * (2.0**FRACTION)).to(tl.int64)


@triton.jit
def _search_list(key, weight, goal, lowest, highest):
    """The largest key of the list whose reach is at least the goal (float64); `lowest` where none is."""
    low, high, turn = lowest, highest, 0
    while low < high:
        mid = middle(low, high + 1, turn)
        if tl.sum(tl.where(key >= mid, weight, 0), 0).to(tl.float64) >= goal:
            low = tl.min(tl.where(key >= mid, key, HIGHEST), 0).to(tl.int64)
        else:
            high = tl.maximum(low, tl.max(tl.where(key < mid, key, DEAD), 0).to(tl.int64))
        turn += 1
    return low


@triton.jit
def _keys_of_row(logits, start, softcap, T, level, V: tl.constexpr, ROW: tl.constexpr, SOFTCAP: tl.constexpr):
    """(key, z) of ROW tokens from `start`, as the parts saw them."""
    token = start + tl.arange(0, ROW)
    inside = token < V
    raw = tl.load(logits + token, mask=inside, other=0.0).to(tl.float32)
    x = tl.where(inside & (raw == raw), capped(raw, softcap, SOFTCAP), float("-inf"))
    x = tl.where(level == 2, tl.where(x == float("inf"), 0.0, float("-inf")), x)
    z = tl.div_rn(x, T)
    z = tl.where(level == 1, tl.where(z == float("inf"), 0.0, float("-inf")), z)
    return tl.where(z > float("-inf"), order(z), DEAD), z


@triton.jit
def _mass_of_row(
    logits, softcap, T, level, floor, z_peak,
    V: tl.constexpr, ROW: tl.constexpr, SOFTCAP: tl.constexpr, FRACTION: tl.constexpr,
):  # fmt: skip
    """The whole weight from floor up, in one pass."""
    mass = tl.zeros((ROW,), tl.int64)
    for start in range(0, V, ROW):
        key, z = _keys_of_row(logits, start, softcap, T, level, V, ROW, SOFTCAP)
        mass += _mass(key, floor, z, z_peak, FRACTION)
    return tl.sum(mass, 0)


@triton.jit
def _search_row(
    logits, softcap, T, level, floor, z_peak, goal, highest,
    V: tl.constexpr, ROW: tl.constexpr, SOFTCAP: tl.constexpr, FRACTION: tl.constexpr, MASS: tl.constexpr,
):  # fmt: skip
    """`_search_list` over all logits of a row, one pass a round; MASS: exp(z - z_peak) from floor up, else a count."""
    low, high, turn = floor, highest, 0
    while low < high:
        mid = middle(low, high + 1, turn)
        reach = tl.zeros((ROW,), tl.int64)
        above = tl.full((ROW,), HIGHEST, tl.int32)
        below = tl.full((ROW,), DEAD, tl.int32)
        for start in range(0, V, ROW):
            key, z = _keys_of_row(logits, start, softcap, T, level, V, ROW, SOFTCAP)
            if MASS:
                reach += _mass(key, tl.maximum(mid, floor), z, z_peak, FRACTION)
            else:
                reach += (key >= mid).to(tl.int64)
            above = tl.minimum(above, tl.where(key >= mid, key, HIGHEST))
            below = tl.maximum(below, tl.where(key < mid, key, DEAD))
        if tl.sum(reach, 0).to(tl.float64) >= goal:
            low = tl.min(above, 0).to(tl.int64)
        else:
            high = tl.maximum(low, tl.max(below, 0).to(tl.int64))
        turn += 1
    return low


@triton.jit
def _draw_from_row(
    logits, softcap, T, level, floor, seed, step_low, step_high,
    V: tl.constexpr, ROW: tl.constexpr, SOFTCAP: tl.constexpr,
):  # fmt: skip
    """(token, how many are kept) of all tokens from floor up."""
    best = tl.full((ROW,), float("-inf"), tl.float32)
    token = tl.zeros((ROW,), tl.int32)
    kept = tl.zeros((ROW,), tl.int32)
    for start in range(0, V, ROW):
        key, z = _keys_of_row(logits, start, softcap, T, level, V, ROW, SOFTCAP)
        keep = key >= floor
        if tl.max(keep.to(tl.int32), 0) > 0:
            score = tl.where(keep, z + noise_of_block(start, seed, step_low, step_high, ROW), float("-inf"))
            better = score > best  # an equal one that comes later is a higher token
            best = tl.where(better, score, best)
            token = tl.where(better, start + tl.arange(0, ROW), token)
            kept += keep.to(tl.int32)
    highest = tl.max(best, 0)
    return tl.min(tl.where(best == highest, token, V - 1), 0), tl.sum(kept, 0)


@triton.jit(do_not_specialize=["seed_low", "seed_high", "step_low", "step_high", "top_k", "p_low", "p_high"])
def choice(
    logits, row_stride, floats, ints, list_key, list_score, list_token, out_token, out_logprob, out_kept,
    temperature, temperatures, top_k, top_ks, p_low, p_high, top_ps, log_min_p, min_ps,
    seed_low, seed_high, seeds, step_low, step_high, steps, softcap,
    V: tl.constexpr, SPLITS: tl.constexpr, ALL_SPLITS: tl.constexpr, CAP: tl.constexpr, LIST: tl.constexpr,
    ROW: tl.constexpr, FRACTION: tl.constexpr, MODE: tl.constexpr, SOFTCAP: tl.constexpr,
    HAS_K: tl.constexpr, HAS_P: tl.constexpr, HAS_M: tl.constexpr, ROW_T: tl.constexpr, ROW_K: tl.constexpr,
    ROW_P: tl.constexpr, ROW_M: tl.constexpr, ROW_SEED: tl.constexpr, ROW_STEP: tl.constexpr,
):  # fmt: skip
    """Program `row` chooses the row's token. ALL_SPLITS: a power of two >= SPLITS; LIST: ALL_SPLITS * CAP."""
    row = tl.program_id(0).to(tl.int64)
    logits += row * row_stride
    floats += row * FLOATS * SPLITS
    ints += row * INTS * SPLITS
    split = tl.arange(0, ALL_SPLITS)
    there = split < SPLITS
    state = tl.load(ints + STATE * SPLITS + split, mask=there, other=0)
    levels = state & 3
    level = tl.max(levels, 0)
    bad = tl.max(state & BROKEN, 0) > 0
    counted = there & ((level < 2) | (levels == 2))
    peaks = tl.load(floats + PEAK * SPLITS + split, mask=counted, other=float("-inf"))
    totals = tl.load(floats + TOTAL * SPLITS + split, mask=counted, other=0.0)
    peak = tl.max(peaks, 0)
    total = tl.sum(tl.where(peaks > float("-inf"), totals * tl.exp(peaks - peak), 0.0), 0)
    bad = bad | (peak == float("-inf"))
    argmaxes = tl.load(ints + ARGMAX * SPLITS + split, mask=counted, other=V - 1)
    token = tl.min(tl.where(peaks == peak, argmaxes, V - 1), 0)
    kept = tl.full((), 1, tl.int32)

    if MODE != GREEDY:
        T, greedy, bad_T = warm_temperature(temperature, temperatures, row, ROW_T)
        bad = bad | bad_T
        live = there & (levels == level)
        counts = tl.load(ints + COUNT * SPLITS + split, mask=live, other=0)
        if MODE == PLAIN:
            scores = tl.load(floats + SCORE * SPLITS + split, mask=live, other=float("-inf"))
            tokens = tl.load(ints + TOKEN * SPLITS + split, mask=live, other=V - 1)
            drawn = tl.min(tl.where(scores == tl.max(scores, 0), tokens, V - 1), 0)
            n_kept = tl.sum(counts, 0)
        else:
            n_row = tl.sum(counts, 0)
            z_peak = tl.max(tl.load(floats + Z_PEAK * SPLITS + split, mask=live, other=float("-inf")), 0)
            bound = tl.max(tl.load(ints + BOUND * SPLITS + split, mask=live, other=DEAD), 0)
            place = tl.arange(0, LIST)
            whose = place // CAP
            stored = tl.load(ints + STORED * SPLITS + whose, mask=whose < SPLITS, other=0)
            state_there = tl.load(ints + STATE * SPLITS + whose, mask=whose < SPLITS, other=0)
            listed = (place % CAP < stored) & ((state_there & 3) == level)
            base = row * SPLITS * CAP
            key = tl.load(list_key + base + place, mask=listed, other=DEAD)
            key = tl.where(key >= bound, key, DEAD)  # only from the highest bound up do all parts show everything
            n_list = tl.sum((key > DEAD).to(tl.int32), 0)
            lowest = tl.min(tl.where(key > DEAD, key, HIGHEST), 0).to(tl.int64)
            highest = order(z_peak).to(tl.int64)

            floor = tl.full((), LEAST, tl.int64)
            short = tl.full((), 0, tl.int32)  # 1: the lists do not reach down to the threshold
            if HAS_K:
                k = top_k.to(tl.int64)
                if ROW_K:
                    k = tl.load(top_ks + row).to(tl.int64)
                    bad = bad | (k < 0)
                by_k = (k > 0) & (k < n_row)
                if by_k:
                    if n_list >= k:
                        floor = _search_list(key, (key > DEAD).to(tl.int32), k.to(tl.float64), lowest, highest)
                    else:
                        short = tl.full((), 1, tl.int32)
            if HAS_P:
                p = word64(p_low, p_high, p_low, row, False).to(tl.float64, bitcast=True)
                if ROW_P:
                    p = tl.load(top_ps + row).to(tl.float64)
                    bad = bad | (((p > 0) & (p <= 1)) == 0)
                by_p = p < 1
                if by_p & (short == 0):
                    weight = _mass(key, floor, tl.where(key > DEAD, value(key), z_peak), z_peak, FRACTION)
                    reach = tl.sum(weight, 0)
                    whole = reach
                    if (floor == LEAST) & (n_list < n_row):
                        whole = _mass_of_row(logits, softcap, T, level, floor, z_peak, V, ROW, SOFTCAP, FRACTION)
                    goal = p * whole.to(tl.float64)
                    if reach.to(tl.float64) >= goal:
                        floor = _search_list(key, weight, goal, tl.maximum(lowest, floor), highest)
                    else:
                        short = tl.full((), 1, tl.int32)
            by_m = floor
            if HAS_M:
                below = log_min_p
                if ROW_M:
                    m = tl.load(min_ps + row).to(tl.float64)
                    bad = bad | (((m >= 0) & (m <= 1)) == 0)
                    below = tl.log(m).to(tl.float32)
                by_m = order(z_peak + below).to(tl.int64)
                floor = tl.maximum(floor, by_m)
            if (n_list < n_row) & (floor < bound):
                short = tl.full((), 1, tl.int32)

            if short > 0:
                floor = tl.full((), LEAST, tl.int64)
                # HAS_K is known to the compiler and by_k is not, so they are two conditions.
                if HAS_K:  # noqa: SIM102
                    if by_k:
                        floor = _search_row(
                            logits, softcap, T, level, floor, z_peak, k.to(tl.float64), highest,
                            V, ROW, SOFTCAP, FRACTION, False,
                        )  # fmt: skip
                if HAS_P:  # noqa: SIM102
                    if by_p:
                        whole = _mass_of_row(logits, softcap, T, level, floor, z_peak, V, ROW, SOFTCAP, FRACTION)
                        floor = _search_row(
                            logits, softcap, T, level, floor, z_peak, p * whole.to(tl.float64), highest,
                            V, ROW, SOFTCAP, FRACTION, True,
                        )  # fmt: skip
                if HAS_M:
                    floor = tl.maximum(floor, by_m)
                seed = word64(seed_low, seed_high, seeds, row, ROW_SEED)
                word_low, word_high = halves(word64(step_low, step_high, steps, row, ROW_STEP))
                drawn, n_kept = _draw_from_row(
                    logits, softcap, T, level, floor, seed, word_low, word_high, V, ROW, SOFTCAP
                )
            else:
                keep = key >= floor
                n_kept = tl.sum(keep.to(tl.int32), 0)
                score = tl.load(list_score + base + place, mask=keep, other=float("-inf"))
                first = tl.min(tl.where(keep & (score == tl.max(score, 0)), place, LIST), 0)
                drawn = tl.load(list_token + base + first, mask=n_kept > 0, other=0)
        token = tl.where(greedy, token, drawn)
        kept = tl.where(greedy, kept, n_kept)

    x = capped(tl.load(logits + token).to(tl.float32), softcap, SOFTCAP)
    x = tl.where(level == 2, 0.0, x)
    tl.store(out_token + row, tl.where(bad, -1, token).to(tl.int64))
    tl.store(out_logprob + row, tl.where(bad, float("nan"), x - peak - tl.log(total)))
    tl.store(out_kept + row, tl.where(bad, 0, kept).to(tl.int64))
