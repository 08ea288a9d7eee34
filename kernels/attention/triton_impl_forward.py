# mypy: disable-error-code="no-untyped-def"
"""The forward pass: one program takes a tile of rows, walks the keys they see, and never holds a whole row of scores.

Online softmax (Milakov and Gimelshein 2018) in tiles (Dao et al. 2022). With c = scale * log2(e), per row and tile:

    top' = max(top, max_j(c s_j))    p_j = 2^(c s_j - top')    r = 2^(top - top')
    total' = r total + sum_j(p_j)    acc' = r acc + sum_j(p_j v_j)

and at the end o = acc / total, lse = top + log2(total), which the backward pass turns back into p_j = 2^(c s_j - lse).
Full tiles first, without any mask; then the edges. Letters as in triton_impl_tiles.py.
"""

import triton
import triton.language as tl

from kernels.attention.triton_impl_tiles import edge_tile, keys_of, load_rows, place, store_rows, visible


@triton.jit
def _take(
    acc, total, top, q, k, v, k_time, v_time, key, position, Tk, exponent, window,
    D: tl.constexpr, KEYS: tl.constexpr, WINDOW: tl.constexpr, EDGE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """(acc, total, top) after the keys key .. key + KEYS - 1."""
    keys = load_rows(k, k_time, 0, key, Tk, 1, KEYS, D, EDGE)
    scores = tl.dot(q, tl.trans(keys), input_precision=PRECISION)  # (ROWS, KEYS)
    if EDGE:
        seen = visible(position[:, None], (key + tl.arange(0, KEYS))[None, :], window, WINDOW)
        # The factor before the mask: with a scale of 0 it would make NaN of an infinity.
        scores = tl.where(seen, scores * exponent, -float("inf"))
        new_top = tl.maximum(top, tl.max(scores, 1))
        base = tl.where(new_top == -float("inf"), 0.0, new_top)  # nothing seen yet: all weights 0, and not NaN
        weights = tl.exp2(scores - base[:, None])
    else:
        new_top = tl.maximum(top, tl.max(scores, 1) * exponent)
        base = tl.where(new_top == -float("inf"), 0.0, new_top)
        weights = tl.exp2(scores * exponent - base[:, None])  # one multiply-add and one exp2 an element
    rescale = tl.exp2(top - base)
    total = total * rescale + tl.sum(weights, 1)
    values = load_rows(v, v_time, 0, key, Tk, 1, KEYS, D, EDGE)
    acc = tl.dot(weights.to(values.dtype), values, acc * rescale[:, None], input_precision=PRECISION)
    return acc, total, new_top


@triton.jit(do_not_specialize=["Tq", "Tk", "heads", "section", "window", "G"])
def forward_kernel(
    q, k, v, o, lse, exponent, Tq, Tk, heads, section, window, G,
    q_batch, q_time, q_head, k_batch, k_time, k_head, v_batch, v_time, v_head,
    R: tl.constexpr, D: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr,
    WINDOW: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """o (B, Tq, H, D) and lse (B * G, Tq * R), both contiguous. exponent is c, at least 0."""
    tiles = tl.cdiv(Tq * R, ROWS)
    head, tile = place(tiles, heads, section)
    first = (tiles - 1 - tile) * ROWS  # the last rows see the most keys
    b = (head // G).to(tl.int64)
    g = (head % G).to(tl.int64)
    q += b * q_batch + g * R * q_head
    k += b * k_batch + g * k_head
    v += b * v_batch + g * v_head
    rows = first + tl.arange(0, ROWS)
    position = rows // R + Tk - Tq
    queries = load_rows(q, q_time, q_head, first, Tq * R, R, ROWS, D, True)
    acc = tl.zeros([ROWS, D], tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    top = tl.full([ROWS], -float("inf"), tl.float32)

    start, tiles, full_from, full_to = keys_of(first, Tq, Tk, window, R, ROWS, KEYS, WINDOW)
    for t in range(full_from, full_to):
        acc, total, top = _take(
            acc, total, top, queries, k, v, k_time, v_time, start + t * KEYS, position, Tk, exponent, window,
            D, KEYS, WINDOW, False, PRECISION,
        )  # fmt: skip
    for t in range(0, tiles - (full_to - full_from)):
        key = start + edge_tile(t, full_from, full_to) * KEYS
        acc, total, top = _take(
            acc, total, top, queries, k, v, k_time, v_time, key, position, Tk, exponent, window,
            D, KEYS, WINDOW, True, PRECISION,
        )  # fmt: skip

    o += b * Tq * G * R * D + g * R * D
    store_rows(o, acc / total[:, None], G * R * D, D, first, Tq * R, R, ROWS, D)
    tl.store(lse + head.to(tl.int64) * Tq * R + rows, top + tl.log2(total), mask=rows < Tq * R)
