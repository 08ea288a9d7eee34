# mypy: disable-error-code="no-untyped-def"
"""The Triton kernels of qk_prep; `triton_impl.py` launches them and says what they compute.

B batch, T time, H query heads, G kv heads, D head dim. A tile is (tokens, heads, D/2), once for each half of a head.
"""

import triton
import triton.language as tl

from kernels.qk_prep.reference import EPS

_EPS = tl.constexpr(EPS)


@triton.jit
def _angles(cos, sin, b, t, T, c_b, c_t, c_d, s_b, s_t, s_d, HALF: tl.constexpr):
    """cos and sin of some tokens, (BLOCK_T, 1, D/2) in float32."""
    d = tl.arange(0, HALF)[None, None, :]
    here = t[:, None, None] < T
    c = tl.load(cos + b * c_b + t[:, None, None] * c_t + d * c_d, mask=here, other=0.0)
    s = tl.load(sin + b * s_b + t[:, None, None] * s_t + d * s_d, mask=here, other=0.0)
    return c.to(tl.float32), s.to(tl.float32)


@triton.jit
def _halves(x, b, t, T, x_b, x_t, x_h, x_d, HEADS: tl.constexpr, BLOCK: tl.constexpr, HALF: tl.constexpr):
    """Both halves of all heads of some tokens, (BLOCK_T, BLOCK, D/2) in float32."""
    h = tl.arange(0, BLOCK)[None, :, None]
    d = tl.arange(0, HALF)[None, None, :]
    at = x + b * x_b + t[:, None, None].to(tl.int64) * x_t + h * x_h + d * x_d
    real = (t[:, None, None] < T) & (h < HEADS)
    first = tl.load(at, mask=real, other=0.0).to(tl.float32)
    second = tl.load(at + HALF * x_d, mask=real, other=0.0).to(tl.float32)
    return first, second


@triton.jit
def _store(x, first, second, token, here, HEADS: tl.constexpr, BLOCK: tl.constexpr, HALF: tl.constexpr):
    """Both halves into a contiguous (B T, HEADS, D)."""
    h = tl.arange(0, BLOCK)[None, :, None]
    at = x + (token[:, None, None] * HEADS + h) * (2 * HALF) + tl.arange(0, HALF)[None, None, :]
    real = here[:, None, None] & (h < HEADS)
    tl.store(at, first.to(x.dtype.element_ty), mask=real)
    tl.store(at + HALF, second.to(x.dtype.element_ty), mask=real)


@triton.jit
def _turn(x1, x2, c, s, HALF: tl.constexpr):
    """The heads turned by minus their angles, and the root of each head, (BLOCK_T, BLOCK)."""
    y1 = x1 * c + x2 * s
    y2 = x2 * c - x1 * s
    return y1, y2, tl.rsqrt(tl.sum(y1 * y1 + y2 * y2, 2) / (2 * HALF) + _EPS)


@triton.jit
def _forward_heads(
    x, out, roots, b, t, T, token, c, s, gain, x_b, x_t, x_h, x_d, ROOTS_AT: tl.constexpr, ALL: tl.constexpr,
    HEADS: tl.constexpr, BLOCK: tl.constexpr, HALF: tl.constexpr,
):  # fmt: skip
    x1, x2 = _halves(x, b, t, T, x_b, x_t, x_h, x_d, HEADS, BLOCK, HALF)
    y1, y2, root = _turn(x1, x2, c, s, HALF)
    scale = (root * gain)[:, :, None]
    _store(out, y1 * scale, y2 * scale, token, t < T, HEADS, BLOCK, HALF)
    h = tl.arange(0, BLOCK)[None, :]
    tl.store(roots + token[:, None] * ALL + ROOTS_AT + h, root, mask=(t < T)[:, None] & (h < HEADS))


@triton.jit(do_not_specialize=["T"])
def forward_kernel(
    q, k, cos, sin, q_out, k_out, roots, T, gain,
    q_b, q_t, q_h, q_d, k_b, k_t, k_h, k_d, c_b, c_t, c_d, s_b, s_t, s_d,
    H: tl.constexpr, G: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_G: tl.constexpr,
    HALF: tl.constexpr,
):  # fmt: skip
    """BLOCK_T tokens of one row: prepared q and k, and the roots (B, T, H + G)."""
    blocks = tl.cdiv(T, BLOCK_T)
    b = (tl.program_id(0) // blocks).to(tl.int64)
    t = tl.program_id(0) % blocks * BLOCK_T + tl.arange(0, BLOCK_T)
    token = b * T + t
    c, s = _angles(cos, sin, b, t, T, c_b, c_t, c_d, s_b, s_t, s_d, HALF)
    _forward_heads(q, q_out, roots, b, t, T, token, c, s, gain, q_b, q_t, q_h, q_d, 0, H + G, H, BLOCK_H, HALF)
    _forward_heads(k, k_out, roots, b, t, T, token, c, s, gain, k_b, k_t, k_h, k_d, H, H + G, G, BLOCK_G, HALF)


@triton.jit
def _backward_heads(
    d_out, out, dx, roots, b, t, T, token, c, s, gain, x_b, x_t, x_h, x_d, o_b, o_t, o_h, o_d,
    ROOTS_AT: tl.constexpr, ALL: tl.constexpr, HEADS: tl.constexpr, BLOCK: tl.constexpr, HALF: tl.constexpr,
):  # fmt: skip
    g1, g2 = _halves(d_out, b, t, T, x_b, x_t, x_h, x_d, HEADS, BLOCK, HALF)
    o1, o2 = _halves(out, b, t, T, o_b, o_t, o_h, o_d, HEADS, BLOCK, HALF)
    h = tl.arange(0, BLOCK)[None, :]
    root = tl.load(roots + token[:, None] * ALL + ROOTS_AT + h, mask=(t < T)[:, None] & (h < HEADS), other=0.0)
    # With a gain of 0, out and the gradient are 0.
    along = tl.sum(g1 * o1 + g2 * o2, 2) / (2 * HALF) / tl.where(gain == 0, 1.0, gain)
    dy1 = root[:, :, None] * (gain * g1 - o1 * along[:, :, None])
    dy2 = root[:, :, None] * (gain * g2 - o2 * along[:, :, None])
    _store(dx, dy1 * c - dy2 * s, dy2 * c + dy1 * s, token, t < T, HEADS, BLOCK, HALF)


@triton.jit(do_not_specialize=["T"])
def backward_kernel(
    dq_out, dk_out, q_out, k_out, roots, cos, sin, dq, dk, T, gain,
    q_b, q_t, q_h, q_d, k_b, k_t, k_h, k_d, qo_b, qo_t, qo_h, qo_d, ko_b, ko_t, ko_h, ko_d,
    c_b, c_t, c_d, s_b, s_t, s_d,
    H: tl.constexpr, G: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_G: tl.constexpr,
    HALF: tl.constexpr,
):  # fmt: skip
    """BLOCK_T tokens of one row: the gradients of q and k."""
    blocks = tl.cdiv(T, BLOCK_T)
    b = (tl.program_id(0) // blocks).to(tl.int64)
    t = tl.program_id(0) % blocks * BLOCK_T + tl.arange(0, BLOCK_T)
    token = b * T + t
    c, s = _angles(cos, sin, b, t, T, c_b, c_t, c_d, s_b, s_t, s_d, HALF)
    _backward_heads(
        dq_out, q_out, dq, roots, b, t, T, token, c, s, gain, q_b, q_t, q_h, q_d, qo_b, qo_t, qo_h, qo_d,
        0, H + G, H, BLOCK_H, HALF,
    )  # fmt: skip
    _backward_heads(
        dk_out, k_out, dk, roots, b, t, T, token, c, s, gain, k_b, k_t, k_h, k_d, ko_b, ko_t, ko_h, ko_d,
        H, H + G, G, BLOCK_G, HALF,
    )  # fmt: skip


@triton.jit
def _into_cache(
    cache, first, second, b, t, at, room, here, x_b, x_t, x_h, x_d,
    HEADS: tl.constexpr, BLOCK: tl.constexpr, HALF: tl.constexpr,
):  # fmt: skip
    """Both halves into the cache's entries `at`, where there are such."""
    h = tl.arange(0, BLOCK)[None, :, None]
    d = tl.arange(0, HALF)[None, None, :]
    to = cache + b * x_b + at[:, None, None] * x_t + h * x_h + d * x_d
    real = (here & (at >= 0) & (at < room))[:, None, None] & (h < HEADS)
    tl.store(to, first.to(cache.dtype.element_ty), mask=real)
    tl.store(to + HALF * x_d, second.to(cache.dtype.element_ty), mask=real)


@triton.jit(do_not_specialize=["T", "position", "room"])
def append_kernel(
    q, k, v, cos, sin, k_cache, v_cache, positions, q_out, T, position, room, gain,
    q_b, q_t, q_h, q_d, k_b, k_t, k_h, k_d, v_b, v_t, v_h, v_d, c_b, c_t, c_d, s_b, s_t, s_d,
    kc_b, kc_t, kc_h, kc_d, vc_b, vc_t, vc_h, vc_d, positions_b,
    H: tl.constexpr, G: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_G: tl.constexpr,
    HALF: tl.constexpr, ONE_POSITION: tl.constexpr,
):  # fmt: skip
    """BLOCK_T new tokens of one row: prepared q, prepared k and plain v in the caches."""
    blocks = tl.cdiv(T, BLOCK_T)
    b = (tl.program_id(0) // blocks).to(tl.int64)
    t = tl.program_id(0) % blocks * BLOCK_T + tl.arange(0, BLOCK_T)
    c, s = _angles(cos, sin, b, t, T, c_b, c_t, c_d, s_b, s_t, s_d, HALF)
    x1, x2 = _halves(q, b, t, T, q_b, q_t, q_h, q_d, H, BLOCK_H, HALF)
    y1, y2, root = _turn(x1, x2, c, s, HALF)
    scale = (root * gain)[:, :, None]
    _store(q_out, y1 * scale, y2 * scale, b * T + t, t < T, H, BLOCK_H, HALF)
    if ONE_POSITION:
        at = t.to(tl.int64) + position
    else:
        at = t.to(tl.int64) + tl.load(positions + b * positions_b).to(tl.int64)
    x1, x2 = _halves(k, b, t, T, k_b, k_t, k_h, k_d, G, BLOCK_G, HALF)
    y1, y2, root = _turn(x1, x2, c, s, HALF)
    scale = (root * gain)[:, :, None]
    _into_cache(k_cache, y1 * scale, y2 * scale, b, t, at, room, t < T, kc_b, kc_t, kc_h, kc_d, G, BLOCK_G, HALF)
    x1, x2 = _halves(v, b, t, T, v_b, v_t, v_h, v_d, G, BLOCK_G, HALF)
    _into_cache(v_cache, x1, x2, b, t, at, room, t < T, vc_b, vc_t, vc_h, vc_d, G, BLOCK_G, HALF)
