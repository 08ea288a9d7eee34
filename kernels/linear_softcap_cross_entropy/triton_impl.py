# mypy: disable-error-code="no-untyped-def"
"""The head and its loss on a GPU: per chunk of rows one product for the logits, one kernel, two products for gradients.

The kernel reads a chunk's logits, leaves the loss of each row, and overwrites the logits in place with their gradient:
what else would be written and read again (capped logits, probabilities, their float32 copies) stays in registers. The
products are the library's, which no kernel of ours would beat. Source: Liger-Kernel (Hsu et al. 2024).

Up to a softcap of QUICK_SOFTCAP the cap bounds every logit, so that the sum of exp(l) fits a float32 without its
maximum; with t = exp(-2 z / softcap) tanh is (1 - t) / (1 + t) and its slope 4 t / (1 + t)^2. Beyond, tanh is taken to
the last bit and each lane keeps a running maximum.

N rows (tokens), C channels, V vocabulary, R rows of a chunk.
"""

import functools
from collections.abc import Callable, Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels import configs
from kernels.linear_softcap_cross_entropy.torch_impl import QUICK_SOFTCAP
from kernels.sample.triton_impl_math import tanh

OP = "linear_softcap_cross_entropy"
# A chunk has at most this many logits (256 MB in bfloat16), because every chunk also adds to all of dw: 8 bytes a
# weight, which 4,096 rows pay for. With fewer rows a chunk is an eighth of them, so that its memory is too.
CHUNK_LOGITS, LEAST_ROWS, SHARE = 2**27, 512, 8
INTERPRETED = {"BLOCK": 32, "num_warps": 4, "num_stages": 1}  # in the interpreter: small, for small tests
INTERPRETED_ROWS = 5  # of a chunk there


@triton.jit
def _quick_tanh(x, rate):
    """(tanh, its slope) where rate * x is 2 log2(e) times the argument; off by 1e-7 at most, and NaN stays NaN."""
    u = -rate * x
    t = tl.exp2(tl.where(u > 60.0, 60.0, u))  # finite; tanh is -1 to the last bit long before
    r = 1.0 / (1.0 + t)
    return (1.0 - t) * r, 4.0 * t * r * r


@triton.jit(do_not_specialize=["ignore_index"])
def loss_and_slope(
    z, row_stride, targets, losses, factors, softcap, ignore_index,
    V: tl.constexpr, BLOCK: tl.constexpr, QUICK: tl.constexpr, SLOPE: tl.constexpr, FACTOR: tl.constexpr,
):  # fmt: skip
    """Program `row`: losses[row] from its V logits z, and with SLOPE d loss / dz in their place, times its factor."""
    row = tl.program_id(0).to(tl.int64)
    z += row * row_stride
    target = tl.load(targets + row)
    counts = target != ignore_index
    valid = (target >= 0) & (target < V)
    lane = tl.arange(0, BLOCK)
    sums = tl.zeros((BLOCK,), tl.float32)
    peaks = tl.full((BLOCK,), float("-inf"), tl.float32)
    rate, cap = 2.8853900817779268 / softcap, 1.4426950408889634 * softcap  # 2 log2(e), log2(e)
    # With weights cast to the rows' format, target logits come out of the same product as the others.
    at_target = tl.load(z + tl.where(valid, target, 0)).to(tl.float32)
    if counts:
        for start in range(0, V, BLOCK):
            inside = start + lane < V
            x = tl.load(z + start + lane, mask=inside, other=0.0).to(tl.float32)
            if QUICK:
                th, _ = _quick_tanh(x, rate)
                sums += tl.where(inside, tl.exp2(cap * th), 0.0)
            else:
                l = tl.where(inside, softcap * tanh(tl.div_rn(x, softcap)), float("-inf"))
                # A NaN is in the sum through l - higher, whatever the maximum makes of it.
                higher = tl.where(l > peaks, l, peaks)
                base = tl.where(higher == float("-inf"), 0.0, higher)
                sums = sums * tl.exp(peaks - base) + tl.exp(l - base)
                peaks = higher
        if QUICK:
            th_target, _ = _quick_tanh(at_target, rate)
            peak = 0.0
            total = tl.sum(sums, 0)
            loss = tl.log(total) - softcap * th_target
        else:
            peak = tl.max(peaks, 0)
            total = tl.sum(sums * tl.exp(peaks - peak), 0)
            loss = tl.log(total) - (softcap * tanh(tl.div_rn(at_target, softcap)) - peak)
        tl.store(losses + row, tl.where(valid, loss, float("nan")))
        if SLOPE:
            factor = 1.0
            if FACTOR:
                factor = tl.load(factors + row).to(tl.float32)
            scale = tl.where(valid, factor, 0.0)
            share = 1.0 / total
            for start in range(0, V, BLOCK):
                inside = start + lane < V
                x = tl.load(z + start + lane, mask=inside, other=0.0).to(tl.float32)
                if QUICK:
                    th, slope = _quick_tanh(x, rate)
                    p = tl.exp2(cap * th) * share
                else:
                    th = tanh(tl.div_rn(x, softcap))
                    p = tl.exp(softcap * th - peak) * share
                    slope = 1.0 - th * th
                p = tl.where(start + lane == target, p - 1.0, p)
                tl.store(z + start + lane, (p * slope * scale).to(z.dtype.element_ty), mask=inside)
    else:
        tl.store(losses + row, 0.0)
        if SLOPE:
            for start in range(0, V, BLOCK):
                tl.store(z + start + lane, tl.zeros((BLOCK,), z.dtype.element_ty), mask=start + lane < V)


def run(
    x: Tensor,
    w: Tensor,
    targets: Tensor,
    factor: Tensor | None,
    softcap: float,
    ignore_index: int,
    wants_x: bool,
    wants_w: bool,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Losses (N,) in float32, 0 where ignored, and where wanted the gradients of sum(factor * losses).

    factor: (N,), or None for all ones. dx (N, C) in x's dtype, dw (V, C) in w's, summed over chunks in float32.
    A target that is neither a row of w nor ignore_index gives a loss of NaN, and no gradient.
    """
    N, V = x.shape[0], w.shape[0]
    values = _values(x.device, configuration_key(x.dtype, V))
    losses = torch.empty(N, dtype=torch.float32, device=x.device)
    dx = torch.empty_like(x, memory_format=torch.contiguous_format) if wants_x else None
    dw: Tensor | None = None
    cast = w.to(x.dtype)
    targets = targets.contiguous()
    rows = rows_of_a_chunk(N, V, x.device)
    # A library's product wants rows of 16 bytes: an odd vocabulary gets a few columns that nobody reads.
    buffer = torch.empty((min(rows, N), -(-V // 8) * 8), dtype=x.dtype, device=x.device)
    for start in range(0, N, rows):
        chunk = x[start : start + rows]  # (R, C)
        z = buffer[: len(chunk), :V]
        torch.mm(chunk, cast.t(), out=z)
        part = None if factor is None else factor[start : start + rows].contiguous()
        launch(z, targets[start:], losses[start:], part, softcap, ignore_index, wants_x or wants_w, values)
        if dx is not None:
            torch.mm(z, cast, out=dx[start : start + rows])
        if wants_w:
            if dw is not None and dw.dtype is z.dtype:
                dw.addmm_(z.t(), chunk)
            else:
                share = _product_for_weights(z, chunk, w.dtype, alone=rows >= N)
                dw = share if dw is None else dw.add_(share)
    if wants_w:
        dw = torch.zeros(w.shape, dtype=w.dtype, device=w.device) if dw is None else dw.to(w.dtype)
    return losses, dx, dw


def _product_for_weights(z: Tensor, chunk: Tensor, dtype: torch.dtype, alone: bool) -> Tensor:
    """z^T chunk (V, C): in float32 where several are to be added or the weights are wider than the rows."""
    if z.dtype is torch.float32 or (alone and dtype is z.dtype):
        return z.t() @ chunk
    if z.device.type == "cuda":
        return torch.mm(z.t(), chunk, out_dtype=torch.float32)
    return z.t().to(torch.float32) @ chunk.to(torch.float32)  # the interpreter's CPU has no product of two formats


def launch(
    z: Tensor,
    targets: Tensor,
    losses: Tensor,
    factors: Tensor | None,
    softcap: float,
    ignore_index: int,
    slope: bool,
    values: configs.Values,
) -> None:
    """The kernel over the rows of z (R, V), with a configuration: BLOCK logits at a time, num_warps, num_stages."""
    R, V = z.shape
    if R == 0:
        return
    with torch.cuda.device_of(z):
        loss_and_slope[(R,)](
            z, z.stride(0), targets, losses, losses if factors is None else factors, float(softcap), ignore_index,
            V=V, BLOCK=values["BLOCK"], QUICK=softcap <= QUICK_SOFTCAP, SLOPE=slope, FACTOR=factors is not None,
            num_warps=values["num_warps"], num_stages=values["num_stages"],
        )  # fmt: skip


def rows_of_a_chunk(N: int, V: int, device: torch.device) -> int:
    """How many rows are projected at a time."""
    if device.type != "cuda":
        return INTERPRETED_ROWS
    return max(LEAST_ROWS, min(CHUNK_LOGITS // V, N // SHARE))


def configuration_key(dtype: torch.dtype, V: int) -> str:
    """What a configuration depends on: the format and the power of two that the vocabulary fits in."""
    return f"{str(dtype).removeprefix('torch.')} V{triton.next_power_of_2(V)}"


@functools.cache
def _values(device: torch.device, key: str) -> configs.Values:
    """The configuration for this GPU; INTERPRETED on a CPU."""
    if device.type != "cuda":
        return INTERPRETED
    return configs.find(OP, key, torch.cuda.get_device_capability(device), default(key)).values


def default(key: str) -> configs.Values:
    """Sixteen logits a thread at most: 32 bytes of bfloat16, loaded at once."""
    block = min(4096, max(128, int(key.rpartition("V")[2])))
    return {"BLOCK": block, "num_warps": max(1, min(8, block // 256)), "num_stages": 2}


def compilations() -> Iterator[configs.Compilation]:
    """Loss alone, with gradients, and with a factor for each row; within QUICK_SOFTCAP and beyond."""
    for dtype, word in ((torch.bfloat16, "bf16"), (torch.float16, "fp16"), (torch.float32, "fp32")):
        for V, quick, slope, factor in (
            (32768, True, True, False),
            (65536, True, False, False),
            (32759, True, True, True),
            (32768, False, True, False),
        ):
            if word == "fp16" and V != 32768:
                continue
            values = default(configuration_key(dtype, V))
            constants = {"V": V, "BLOCK": values["BLOCK"], "QUICK": quick, "SLOPE": slope, "FACTOR": factor}
            signature: dict[str, str] = {"z": f"*{word}", "row_stride": "i32", "targets": "*i64", "losses": "*fp32"}
            signature |= {"factors": "*fp32", "softcap": "fp32", "ignore_index": "i32"}
            signature |= dict.fromkeys(constants, "constexpr")
            what = "loss and gradient" if slope else "loss"
            yield configs.Compilation(
                OP,
                f"{what}{', a factor a row' if factor else ''}{'' if quick else ', any softcap'}, V {V}, {word}",
                loss_and_slope,
                signature,
                constants,
                values["num_warps"],
                values["num_stages"],
                divisible=("z", "row_stride", "losses"),
            )


def tunings() -> Iterator[configs.Tuning]:
    """Logits at a time and warps, for loss and gradient of 1,024 rows."""
    for dtype in (torch.bfloat16, torch.float32):
        for V in (32768, 65536):
            candidates = [
                {"BLOCK": block, "num_warps": warps, "num_stages": stages}
                for block in (1024, 2048, 4096, 8192)
                for warps in (4, 8, 16)
                for stages in (1, 2, 3)
                if block // warps <= 1024
            ]
            yield configs.Tuning(OP, configuration_key(dtype, V), candidates, functools.partial(_make, dtype, V))


def _make(dtype: torch.dtype, V: int, device: torch.device) -> Callable[[configs.Values], None]:
    """The kernel overwrites its logits, so each run starts from what the last one left: as much work, other numbers."""
    z = torch.randn(1024, V, device=device, dtype=dtype)
    targets = torch.arange(1024, device=device)
    losses = torch.empty(1024, device=device)

    def run_with(values: configs.Values) -> None:
        launch(z, targets, losses, None, 15.0, -1, True, values)

    return run_with
