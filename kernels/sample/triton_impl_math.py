# mypy: disable-error-code="no-untyped-def"
"""Arithmetic of the sampling kernels: the cap, an order on floats that integers keep, noise, parameters.

Everything here is elementwise. tanh stands here because Triton has none that its interpreter knows; the loss kernel
takes it from here.
"""

import triton
import triton.language as tl


@triton.jit
def tanh(u):
    """tanh to about two units in the last place; near 0, where 1 - exp(..) would cancel, a polynomial (Cephes)."""
    a = tl.abs(u)
    t = tl.exp(-2.0 * a)
    far = tl.div_rn(1.0 - t, 1.0 + t)
    s = u * u
    series = -5.70498872745e-3 * s + 2.06390887954e-2
    series = series * s - 5.37397155531e-2
    series = series * s + 1.33314422036e-1
    series = series * s - 3.33332819422e-1
    return tl.where(a < 0.625, u + u * s * series, tl.where(u < 0, -far, far))


@triton.jit
def capped(x, softcap, SOFTCAP: tl.constexpr):
    """softcap * tanh(x / softcap) in float32; NaN stays NaN."""
    if SOFTCAP:
        x = softcap * tanh(tl.div_rn(x, softcap))
    return x


@triton.jit
def order(z):
    """An int32 that sorts as the float32 does; -0.0 and 0.0 give one number. Its least values belong to no float."""
    bits = tl.where(z == 0.0, 0.0, z).to(tl.int32, bitcast=True)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def value(key):
    """The float32 whose `order` is key."""
    return (key ^ ((key >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@triton.jit
def middle(low, high, turn):
    """A key strictly between low and high, int64 scalars at least 2 apart.

    By turns the middle of the two values, which is where logits are spread out, and the middle of the two keys, which
    always gets on: 64 turns end any search.
    """
    by_key = low + (high - low) // 2
    # The bounds are keys of floats or next to one; what is beyond the largest finite value is brought back below.
    by_value = order(0.5 * value(low.to(tl.int32)) + 0.5 * value(high.to(tl.int32))).to(tl.int64)
    chosen = tl.where(turn % 2 == 0, by_value, by_key)
    return tl.maximum(tl.minimum(chosen, high - 1), low + 1)


@triton.jit
def gumbel(r):
    """Gumbel noise of uint32 words, as philox.py defines it."""
    u = tl.minimum(r.to(tl.float32) * 2.3283064365386963e-10 + 1.1641532182693481e-10, 0.99999994039535522)
    e = tl.where(u < 0.000244140625, u * (1.0 + u * 0.5), -tl.log(1.0 - u))
    return -tl.log(e)


@triton.jit
def noise_of_block(first, seed, step_low, step_high, BLOCK: tl.constexpr):
    """Noise of the tokens first .. first + BLOCK - 1, first a multiple of 4: each counter serves four."""
    block = first // 4 + tl.arange(0, BLOCK // 4)
    zero = block * 0
    r0, r1, r2, r3 = tl.philox(seed, block, step_low + zero, step_high + zero, zero)
    return gumbel(tl.interleave(tl.interleave(r0, r2), tl.interleave(r1, r3)))


@triton.jit
def noise_of_tokens(token, seed, step_low, step_high):
    """Noise of any tokens, a counter for each."""
    zero = token * 0
    r0, r1, r2, r3 = tl.philox(seed, token // 4, step_low + zero, step_high + zero, zero)
    word = token % 4
    return gumbel(tl.where(word < 2, tl.where(word == 0, r0, r1), tl.where(word == 2, r2, r3)))


@triton.jit
def word64(low, high, values, row, PER_ROW: tl.constexpr):
    """64 bits as an int64: of the row, or from two signed halves."""
    if PER_ROW:
        whole = tl.load(values + row).to(tl.int64)
    else:
        whole = (high.to(tl.int64) << 32) | (low.to(tl.int64) & 0xFFFFFFFF)
    return whole


@triton.jit
def halves(whole):
    """An int64 as two int32."""
    return (whole & 0xFFFFFFFF).to(tl.uint32).to(tl.int32, bitcast=True), (whole >> 32).to(tl.int32)


@triton.jit
def warm_temperature(temperature, temperatures, row, PER_ROW: tl.constexpr):
    """(temperature, greedy, bad) of a row; the temperature is 1 where the row is not drawn by it."""
    bad = False
    if PER_ROW:
        temperature = tl.load(temperatures + row).to(tl.float32)
        bad = (temperature >= 0.0) & (temperature < float("inf"))
        bad = bad == 0
    greedy = temperature < 9.5367431640625e-07
    return tl.where(greedy | bad, 1.0, temperature), greedy, bad
