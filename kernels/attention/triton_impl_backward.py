# mypy: disable-error-code="no-untyped-def"
"""The backward pass: two kernels without atomics, so the same inputs give the same bits. The scores are computed again.

With p_ij = 2^(c s_ij - lse_i) and dO the gradient of o:

    delta_i = sum_d(dO_id o_id)    dS_ij = p_ij (dO_i . v_j - delta_i)
    dq_i = scale sum_j(dS_ij k_j)    dk_j = scale sum_i(dS_ij q_i)    dv_j = sum_i(p_ij dO_i)

The first kernel takes a tile of rows and walks the keys: dq. It has o and dO at hand, so it also makes delta, which
the second one reads: a tile of keys, walked by all rows of all heads of its group: dk and dv.
Letters as in triton_impl_tiles.py. Source: Dao 2023 (FlashAttention-2), with the loop over queries turned around.
"""

import triton
import triton.language as tl

from kernels.attention.triton_impl_tiles import edge_tile, keys_of, load_rows, place, rows_of, store_rows, visible


@triton.jit
def _take_keys(
    dq, q, do, lse, delta, k, v, k_time, v_time, key, position, Tk, exponent, window,
    D: tl.constexpr, KEYS: tl.constexpr, WINDOW: tl.constexpr, EDGE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """dq / scale after the keys key .. key + KEYS - 1."""
    keys = load_rows(k, k_time, 0, key, Tk, 1, KEYS, D, EDGE)
    values = load_rows(v, v_time, 0, key, Tk, 1, KEYS, D, EDGE)
    scores = tl.dot(q, tl.trans(keys), input_precision=PRECISION)  # (ROWS, KEYS)
    weights = tl.exp2(scores * exponent - lse[:, None])
    if EDGE:
        seen = visible(position[:, None], (key + tl.arange(0, KEYS))[None, :], window, WINDOW)
        weights = tl.where(seen, weights, 0.0)
    d_scores = weights * (tl.dot(do, tl.trans(values), input_precision=PRECISION) - delta[:, None])
    return tl.dot(d_scores.to(keys.dtype), keys, dq, input_precision=PRECISION)


@triton.jit(do_not_specialize=["Tq", "Tk", "heads", "section", "window", "G"])
def query_gradient_kernel(
    q, k, v, o, do, lse, delta, dq, scale, exponent, Tq, Tk, heads, section, window, G,
    q_batch, q_time, q_head, k_batch, k_time, k_head, v_batch, v_time, v_head, do_batch, do_time, do_head,
    R: tl.constexpr, D: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr,
    WINDOW: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """dq (B, Tq, H, D) and delta (B * G, Tq * R), both contiguous as o and lse are."""
    tiles = tl.cdiv(Tq * R, ROWS)
    head, tile = place(tiles, heads, section)
    first = (tiles - 1 - tile) * ROWS  # the last rows see the most keys
    b = (head // G).to(tl.int64)
    g = (head % G).to(tl.int64)
    rows = first + tl.arange(0, ROWS)
    position = rows // R + Tk - Tq
    whole = b * Tq * G * R * D + g * R * D
    gradients = load_rows(do + b * do_batch + g * R * do_head, do_time, do_head, first, Tq * R, R, ROWS, D, True)
    outputs = load_rows(o + whole, G * R * D, D, first, Tq * R, R, ROWS, D, True)
    delta_row = tl.sum(gradients.to(tl.float32) * outputs.to(tl.float32), 1)
    statistics = head.to(tl.int64) * Tq * R + rows
    tl.store(delta + statistics, delta_row, mask=rows < Tq * R)
    lse_row = tl.load(lse + statistics, mask=rows < Tq * R, other=0.0)

    queries = load_rows(q + b * q_batch + g * R * q_head, q_time, q_head, first, Tq * R, R, ROWS, D, True)
    k += b * k_batch + g * k_head
    v += b * v_batch + g * v_head
    acc = tl.zeros([ROWS, D], tl.float32)
    start, tiles, full_from, full_to = keys_of(first, Tq, Tk, window, R, ROWS, KEYS, WINDOW)
    for t in range(full_from, full_to):
        acc = _take_keys(
            acc, queries, gradients, lse_row, delta_row, k, v, k_time, v_time, start + t * KEYS, position, Tk,
            exponent, window, D, KEYS, WINDOW, False, PRECISION,
        )  # fmt: skip
    for t in range(0, tiles - (full_to - full_from)):
        key = start + edge_tile(t, full_from, full_to) * KEYS
        acc = _take_keys(
            acc, queries, gradients, lse_row, delta_row, k, v, k_time, v_time, key, position, Tk,
            exponent, window, D, KEYS, WINDOW, True, PRECISION,
        )  # fmt: skip
    store_rows(dq + whole, acc * scale, G * R * D, D, first, Tq * R, R, ROWS, D)


@triton.jit
def _take_rows(
    dk, dv, k, v, q, do, lse, delta, q_time, q_head, do_time, do_head, row, end, key, gap, exponent, window,
    R: tl.constexpr, D: tl.constexpr, ROWS: tl.constexpr,
    WINDOW: tl.constexpr, EDGE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """(dk / scale, dv) after the rows row .. row + ROWS - 1. Scores stand on their side, keys down, rows across."""
    rows = row + tl.arange(0, ROWS)
    queries = load_rows(q, q_time, q_head, row, end, R, ROWS, D, EDGE)
    inside = tl.minimum(rows, end - 1) if EDGE else rows
    lse_row = tl.load(lse + inside)
    delta_row = tl.load(delta + inside)
    scores = tl.dot(k, tl.trans(queries), input_precision=PRECISION)  # (KEYS, ROWS)
    weights = tl.exp2(scores * exponent - lse_row[None, :])
    if EDGE:
        position = tl.where(rows < end, rows // R + gap, -1)  # a row beyond the end sees nothing
        weights = tl.where(visible(position[None, :], key[:, None], window, WINDOW), weights, 0.0)
    gradients = load_rows(do, do_time, do_head, row, end, R, ROWS, D, EDGE)
    dv = tl.dot(weights.to(gradients.dtype), gradients, dv, input_precision=PRECISION)
    d_scores = weights * (tl.dot(v, tl.trans(gradients), input_precision=PRECISION) - delta_row[None, :])
    dk = tl.dot(d_scores.to(queries.dtype), queries, dk, input_precision=PRECISION)
    return dk, dv


@triton.jit(do_not_specialize=["Tq", "Tk", "heads", "section", "window", "G"])
def key_gradient_kernel(
    q, k, v, do, lse, delta, dk, dv, scale, exponent, Tq, Tk, heads, section, window, G,
    q_batch, q_time, q_head, k_batch, k_time, k_head, v_batch, v_time, v_head, do_batch, do_time, do_head,
    R: tl.constexpr, D: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr,
    WINDOW: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """dk and dv (B, Tk, G, D), contiguous; a key that no query sees gets zeros."""
    head, tile = place(tl.cdiv(Tk, KEYS), heads, section)
    first = tile * KEYS  # the first keys are seen by the most rows
    b = (head // G).to(tl.int64)
    g = (head % G).to(tl.int64)
    keys = load_rows(k + b * k_batch + g * k_head, k_time, 0, first, Tk, 1, KEYS, D, True)
    values = load_rows(v + b * v_batch + g * v_head, v_time, 0, first, Tk, 1, KEYS, D, True)
    key = first + tl.arange(0, KEYS)
    q += b * q_batch + g * R * q_head
    do += b * do_batch + g * R * do_head
    lse += head.to(tl.int64) * Tq * R
    delta += head.to(tl.int64) * Tq * R
    acc_k = tl.zeros([KEYS, D], tl.float32)
    acc_v = tl.zeros([KEYS, D], tl.float32)
    start, end, tiles, full_from, full_to = rows_of(first, Tq, Tk, window, R, ROWS, KEYS, WINDOW)
    for t in range(full_from, full_to):
        acc_k, acc_v = _take_rows(
            acc_k, acc_v, keys, values, q, do, lse, delta, q_time, q_head, do_time, do_head, start + t * ROWS, end,
            key, Tk - Tq, exponent, window, R, D, ROWS, WINDOW, False, PRECISION,
        )  # fmt: skip
    for t in range(0, tiles - (full_to - full_from)):
        row = start + edge_tile(t, full_from, full_to) * ROWS
        acc_k, acc_v = _take_rows(
            acc_k, acc_v, keys, values, q, do, lse, delta, q_time, q_head, do_time, do_head, row, end,
            key, Tk - Tq, exponent, window, R, D, ROWS, WINDOW, True, PRECISION,
        )  # fmt: skip
    whole = b * Tk * G * D + g * D
    store_rows(dk + whole, acc_k * scale, G * D, 0, first, Tk, 1, KEYS, D)
    store_rows(dv + whole, acc_v, G * D, 0, first, Tk, 1, KEYS, D)
