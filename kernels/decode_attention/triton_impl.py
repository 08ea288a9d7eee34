# mypy: disable-error-code="no-untyped-def"
"""One token per row over its cache in two Triton kernels: parts of the keys side by side, then one sum of the parts.

    part s of a row    m_s = max_j x_j,   l_s = sum_j 2^(x_j - m_s),   a_s = sum_j 2^(x_j - m_s) v_j
    all parts          o = sum_s 2^(m_s - m) a_s / sum_s 2^(m_s - m) l_s,   m = max_s m_s

with x_j = scale log2(e) q . k_j, since a GPU has an instruction for powers of two. One query reads megabytes of keys
and does little with them, so a row is cut into parts until its keys keep the whole GPU loading. How many parts there
may be follows from the room in the cache and the window; how many keys a part has, from the row's own length. Neither
asks about the batch, so a row's result does not depend on it, to the last bit. Only the kernels read a length.

All query heads of one kv head sit in one tile: the cache is read once, whatever the grouping. The tile has at least
the 16 rows that a tensor core takes; rows without a head cost nothing that memory would not hide.
Source: Dao et al. 2023 (Flash-Decoding).

B batch, H query heads, G kv heads, D head dim, S parts.
"""

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels import configs

MOST_PARTS = 64  # of a row: 64 parts of all heads fill any GPU, and their sum stays small
MOST_HEADS = 32  # in one tile; of a larger group two programs read the same keys, the second from the L2 cache
OP = "decode_attention"


@triton.jit
def _keys_in_use(lens, lens_b, length, room, window, b, ONE_LENGTH: tl.constexpr):
    """(first, end) of the keys that row b sees."""
    if ONE_LENGTH:
        end = length
    else:
        end = tl.minimum(tl.maximum(tl.load(lens + b * lens_b).to(tl.int64), 0), room).to(tl.int32)
    first = tl.where(window >= 0, tl.maximum(end - 1 - window, 0), 0)
    return first, end


@triton.jit
def _keys_of_a_part(count, parts, LEAST: tl.constexpr, BLOCK_N: tl.constexpr):
    """How many keys each part of a row with `count` keys has: whole tiles, and at least LEAST."""
    return tl.maximum(tl.cdiv(tl.cdiv(count, parts), BLOCK_N) * BLOCK_N, LEAST)


@triton.jit(do_not_specialize=["length", "room", "window", "parts"])
def _attend(
    q, k, v, lens, o, sums, peaks, totals, length, room, window, parts, scale, G,
    q_b, q_h, q_d, k_b, k_t, k_g, k_d, v_b, v_t, v_g, v_d, lens_b,
    GROUP: tl.constexpr, TILES: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_N: tl.constexpr, LEAST: tl.constexpr,
    D: tl.constexpr, ONE_LENGTH: tl.constexpr, ONE_PART: tl.constexpr,
):  # fmt: skip
    """One part of one row for up to BLOCK_H query heads of one kv head; without parts the output itself."""
    program = tl.program_id(0)
    tile = program % (G * TILES)  # heads first: in a cache (B, T, G, D) they lie side by side
    part = program // (G * TILES) % parts
    b = (program // (G * TILES) // parts).to(tl.int64)
    g = (tile // TILES).to(tl.int64)
    first, end = _keys_in_use(lens, lens_b, length, room, window, b, ONE_LENGTH)
    size = _keys_of_a_part(end - first, parts, LEAST, BLOCK_N)
    start = first + part * size
    stop = tl.minimum(start + size, end)
    if ONE_PART or start < stop:
        in_group = tile % TILES * BLOCK_H + tl.arange(0, BLOCK_H)
        heads = g * GROUP + in_group
        real = in_group < GROUP
        d = tl.arange(0, D)
        n = tl.arange(0, BLOCK_N)
        queries = tl.load(q + b * q_b + heads[:, None] * q_h + d[None, :] * q_d, mask=real[:, None], other=0.0)
        k_at = k + b * k_b + g * k_g + start.to(tl.int64) * k_t + n[None, :] * k_t + d[:, None] * k_d  # (D, N)
        v_at = v + b * v_b + g * v_g + start.to(tl.int64) * v_t + n[:, None] * v_t + d[None, :] * v_d  # (N, D)
        peak = tl.full((BLOCK_H,), -float("inf"), tl.float32)
        total = tl.zeros((BLOCK_H,), tl.float32)
        acc = tl.zeros((BLOCK_H, D), tl.float32)
        # Every tile has its mask: it costs less than memory takes, and a last tile apart would not be loaded ahead.
        for at in range(start, stop, BLOCK_N):
            seen = at + n < stop
            keys = tl.load(k_at, mask=seen[None, :], other=0.0)
            x = tl.dot(queries, keys, input_precision="ieee") * scale
            x = tl.where(seen[None, :], x, -float("inf"))
            higher = tl.maximum(peak, tl.max(x, 1))
            base = tl.where(higher == -float("inf"), 0.0, higher)  # all -inf so far: -inf - -inf would be NaN
            weights = tl.exp2(x - base[:, None])
            shrink = tl.exp2(peak - base)
            total = total * shrink + tl.sum(weights, 1)
            values = tl.load(v_at, mask=seen[:, None], other=0.0)
            acc = tl.dot(weights.to(values.dtype), values, acc * shrink[:, None], input_precision="ieee")
            peak = higher
            k_at += BLOCK_N * k_t
            v_at += BLOCK_N * v_t
        head = b * (G * GROUP) + heads  # of all rows
        if ONE_PART:
            out = acc / tl.where(end > first, total, 1.0)[:, None]  # nothing to attend to gives zeros
            tl.store(o + head[:, None] * D + d[None, :], out.to(o.dtype.element_ty), mask=real[:, None])
        else:
            at_part = head * parts + part
            tl.store(sums + at_part[:, None] * D + d[None, :], acc, mask=real[:, None])
            tl.store(peaks + at_part, peak, mask=real)
            tl.store(totals + at_part, total, mask=real)


@triton.jit(do_not_specialize=["length", "room", "window", "parts"])
def _combine(
    lens, o, sums, peaks, totals, length, room, window, parts, H, lens_b,
    LEAST: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_S: tl.constexpr, D: tl.constexpr, ONE_LENGTH: tl.constexpr,
):  # fmt: skip
    """The parts of one row and head added up. Parts that no program wrote are not read."""
    head = tl.program_id(0).to(tl.int64)
    first, end = _keys_in_use(lens, lens_b, length, room, window, head // H, ONE_LENGTH)
    size = _keys_of_a_part(end - first, parts, LEAST, BLOCK_N)
    s = tl.arange(0, BLOCK_S)
    d = tl.arange(0, D)
    written = s < tl.cdiv(end - first, size)
    at_part = head * parts + s
    peak = tl.load(peaks + at_part, mask=written, other=-float("inf"))
    total = tl.load(totals + at_part, mask=written, other=0.0)
    acc = tl.load(sums + at_part[:, None] * D + d[None, :], mask=written[:, None], other=0.0)
    highest = tl.max(peak, 0)
    share = tl.exp2(peak - tl.where(highest == -float("inf"), 0.0, highest))
    out = tl.sum(acc * share[:, None], 0) / tl.where(end > first, tl.sum(total * share, 0), 1.0)
    tl.store(o + head * D + d, out.to(o.dtype.element_ty))


def decode_attention(
    q: Tensor, k_cache: Tensor, v_cache: Tensor, lens: Tensor | None, length: int, window: int, scale: float | None
) -> Tensor:
    """Output (B, H, D), contiguous. lens: (B,), or None where all rows have `length`."""
    values = _values(q.device, configuration_key(q.dtype, q.shape[2], q.shape[1] // max(k_cache.shape[2], 1)))
    return launch(q, k_cache, v_cache, lens, length, window, scale, values)


def launch(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    lens: Tensor | None,
    length: int,
    window: int,
    scale: float | None,
    values: configs.Values,
) -> Tensor:
    """`decode_attention` with a configuration: BLOCK_N keys a tile, LEAST keys a part, num_warps, num_stages."""
    B, H, D = q.shape
    room, G = k_cache.shape[1:3]
    o = torch.empty((B, H, D), dtype=q.dtype, device=q.device)
    if B == 0:
        return o
    if room == 0:
        return o.zero_()
    group, block_n, least = H // G, values["BLOCK_N"], values["LEAST"]
    block_h = _heads_a_tile(group, q.dtype)
    tiles = triton.cdiv(group, block_h)
    most_keys = room if window < 0 else min(room, window + 1)
    parts = max(1, min(MOST_PARTS, triton.cdiv(most_keys, least)))
    one_length, one_part = lens is None, parts == 1
    length = min(max(length, 0), room)
    if one_part:
        sums = peaks = totals = o
    else:
        sums = torch.empty((B, H, parts, D), dtype=torch.float32, device=q.device)
        peaks, totals = torch.empty((2, B, H, parts), dtype=torch.float32, device=q.device)
    per_row, lens_stride = (o, 0) if lens is None else (lens, lens.stride(0))
    exponent = (D**-0.5 if scale is None else scale) * math.log2(math.e)
    with torch.cuda.device_of(q):
        _attend[(B * G * tiles * parts,)](
            q, k_cache, v_cache, per_row, o, sums, peaks, totals, length, room, window, parts, exponent, G,
            *q.stride(), *k_cache.stride(), *v_cache.stride(), lens_stride,
            GROUP=group, TILES=tiles, BLOCK_H=block_h, BLOCK_N=block_n, LEAST=least, D=D, ONE_LENGTH=one_length,
            ONE_PART=one_part, num_warps=values["num_warps"], num_stages=values["num_stages"],
        )  # fmt: skip
        if not one_part:
            _combine[(B * H,)](
                per_row, o, sums, peaks, totals, length, room, window, parts, H, lens_stride,
                LEAST=least, BLOCK_N=block_n, BLOCK_S=triton.next_power_of_2(parts), D=D, ONE_LENGTH=one_length,
                num_warps=4,
            )  # fmt: skip
    return o


def _heads_a_tile(group: int, dtype: torch.dtype) -> int:
    """At least what a tensor core takes; exact products of float32 have no registers for more."""
    return 16 if dtype is torch.float32 else max(16, min(triton.next_power_of_2(group), MOST_HEADS))


def configuration_key(dtype: torch.dtype, D: int, group: int) -> str:
    """What a configuration depends on. Not the batch and not a length: a row's result must not change with them."""
    return f"{str(dtype).removeprefix('torch.')} D{D} group{triton.next_power_of_2(group)}"


@functools.cache
def _values(device: torch.device, key: str) -> configs.Values:
    """The configuration for this GPU; small tiles on a CPU, where the interpreter makes tests of them."""
    if device.type != "cuda":
        return {"BLOCK_N": 16, "LEAST": 32, "num_warps": 1, "num_stages": 1}
    return configs.find(OP, key, torch.cuda.get_device_capability(device), default(key)).values


def default(key: str) -> configs.Values:
    """A configuration that fits into 99 KB of shared memory: each program has some 48 KB of its cache on the way."""
    wide = key.startswith("float32")
    return {"BLOCK_N": 32 if wide else 64, "LEAST": 128, "num_warps": 8 if wide else 4, "num_stages": 3}


def compilations() -> Iterator[configs.Compilation]:
    """Every head dim and format, grouped or not, for lengths in a tensor; and the sum of the parts."""
    for dtype, word in ((torch.bfloat16, "bf16"), (torch.float16, "fp16"), (torch.float32, "fp32")):
        for D, group in ((32, 1), (32, 8), (64, 1), (64, 8), (128, 1), (128, 8), (128, 32)):
            yield _attend_compilation(dtype, word, D, group)
    for D in (64, 128):
        for S in (16, MOST_PARTS):
            yield _combine_compilation(D, S)


def _attend_compilation(dtype: torch.dtype, word: str, D: int, group: int) -> configs.Compilation:
    values = default(configuration_key(dtype, D, group))
    constants = {
        "GROUP": group,
        "TILES": triton.cdiv(group, _heads_a_tile(group, dtype)),
        "BLOCK_H": _heads_a_tile(group, dtype),
        "BLOCK_N": values["BLOCK_N"],
        "LEAST": values["LEAST"],
    }
    constants |= {"D": D, "ONE_LENGTH": False, "ONE_PART": False, "q_d": 1, "k_d": 1, "v_d": 1, "lens_b": 1}
    signature = dict.fromkeys(_attend.arg_names, "i32")
    signature |= dict.fromkeys(("q", "k", "v", "o"), f"*{word}") | {"lens": "*i64", "scale": "fp32"}
    signature |= dict.fromkeys(("sums", "peaks", "totals"), "*fp32") | dict.fromkeys(constants, "constexpr")
    pointers = ("q", "k", "v", "lens", "o", "sums", "peaks", "totals")
    strides = ("q_b", "q_h", "k_b", "k_t", "k_g", "v_b", "v_t", "v_g")
    return configs.Compilation(
        OP,
        f"part of a row, {word}, D {D}, group {group}",
        _attend,
        signature,
        constants,
        values["num_warps"],
        values["num_stages"],
        divisible=pointers + strides,
    )


def _combine_compilation(D: int, S: int) -> configs.Compilation:
    constants = {"LEAST": 128, "BLOCK_N": 64, "BLOCK_S": S, "D": D, "ONE_LENGTH": False, "lens_b": 1}
    signature = dict.fromkeys(_combine.arg_names, "i32") | {"lens": "*i64", "o": "*bf16"}
    signature |= dict.fromkeys(("sums", "peaks", "totals"), "*fp32") | dict.fromkeys(constants, "constexpr")
    pointers = ("lens", "o", "sums", "peaks", "totals")
    name = f"sum of {S} parts, D {D}"
    return configs.Compilation(OP, name, _combine, signature, constants, 4, 1, divisible=pointers)


def tunings() -> Iterator[configs.Tuning]:
    """Decoding in bfloat16 at nanochat's head dims, each query head with a kv head of its own, and eight with one."""
    for D, group in ((64, 1), (128, 1), (128, 8)):
        values = [
            {"BLOCK_N": block, "LEAST": least, "num_warps": warps, "num_stages": stages}
            for block in (32, 64, 128)
            for least in (128, 256, 512)
            for warps in (2, 4, 8)
            for stages in (2, 3, 4)
        ]
        key = configuration_key(torch.bfloat16, D, group)
        yield configs.Tuning(OP, key, values, functools.partial(_tuned_launch, D, group))


def _tuned_launch(D: int, group: int, device: Any) -> Callable[[configs.Values], None]:
    """A launch over a full cache of 64 MB a layer: 16 rows of eight kv heads at D 128."""
    room = 2048 * 1024 // (8 * D)
    cache = torch.randn(16, 2 * 8, room, D, dtype=torch.bfloat16, device=device)
    k_cache, v_cache = cache.transpose(1, 2).split(8, dim=2)  # as nanochat/kv_cache.py keeps them
    q = torch.randn(16, 8 * group, D, dtype=torch.bfloat16, device=device)
    lens = torch.full((16,), room, device=device)

    def run(values: configs.Values) -> None:
        launch(q, k_cache, v_cache, lens, 0, -1, None, values)

    return run
