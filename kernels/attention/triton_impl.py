"""The attention kernels' launchers, their tile sizes, and what ahead_of_time.py compiles of them and tune.py times.

    python -m kernels.ahead_of_time --op attention

The kernels are in triton_impl_forward.py and triton_impl_backward.py, what they share in triton_impl_tiles.py. Shapes
alone decide every launch: nothing waits for the GPU, so a CUDA graph can hold them, and the tiles do not depend on the
batch, so a row's result does not either.

B batch, Tq queries, Tk keys, H query heads, G kv heads, R = H / G heads of a group, D head dim.
"""

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from kernels import configs
from kernels.attention.triton_impl_backward import key_gradient_kernel, query_gradient_kernel
from kernels.attention.triton_impl_forward import forward_kernel

OP = "attention"
SHORT = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}
KERNELS = {"forward": forward_kernel, "query gradient": query_gradient_kernel, "key gradient": key_gradient_kernel}
SECTION_BYTES = (
    2**24
)  # of keys and values that programs running at one time share: well inside any L2 cache since sm_80
INTERPRETED = (16, 16, 1, 1)  # (ROWS, KEYS, num_warps, num_stages) in the interpreter, which takes 10 ms for every tile


def _tile(kernel: str, dtype: str, D: int, windowed: bool, hopper: bool) -> tuple[int, int, int, int]:
    """(ROWS, KEYS, num_warps, num_stages) where the table has none: no spills, 99 KB of shared memory, 227 on sm_90.

    float32 splits each operand of a product in three, which takes registers, so its tiles are small.
    """
    wide = D == 128
    if dtype == "fp32":
        small = {"forward": (16, 32, 4, 1), "query gradient": (32, 16, 8, 1), "key gradient": (16, 32, 8, 1)}
        return small[kernel] if wide else (32, 32, 4, 1)
    if kernel == "forward":
        if not hopper:
            return (128, 32, 8, 2) if wide and windowed else (128, 64, 8, 2)
        return (128, 64, 8, 3) if wide and windowed else (128, 128, 8, 2)
    if kernel == "query gradient":
        return (128, 32, 8, 2) if wide and not hopper else (128, 64, 8, 2)
    if not hopper:
        return (64, 64, 8, 2) if wide else (32, 128, 8, 2)
    return (32, 128, 8, 2) if wide else (64, 128, 8, 2)


def _key(kernel: str, dtype: str, D: int, windowed: bool) -> str:
    return f"{kernel} {dtype} D{D} {'window' if windowed else 'full'}"


def _values(tile: tuple[int, int, int, int]) -> configs.Values:
    return dict(zip(("ROWS", "KEYS", "num_warps", "num_stages"), tile, strict=True))


@functools.cache
def _found(kernel: str, dtype: str, D: int, windowed: bool, capability: tuple[int, int]) -> configs.Values:
    default = _values(_tile(kernel, dtype, D, windowed, hopper=capability[0] == 9))
    return configs.find(OP, _key(kernel, dtype, D, windowed), capability, default).values


def configuration(kernel: str, q: Tensor, window: int) -> configs.Values:
    """The tile of `kernel` for this head dim, dtype and GPU."""
    if not q.is_cuda:
        return _values(INTERPRETED)
    return _found(kernel, SHORT[q.dtype], q.shape[3], window >= 0, torch.cuda.get_device_capability(q.device))


def _rows_apart(x: Tensor) -> Tensor:
    """x with the numbers of a row side by side, as the kernels read them; a copy only where they are not."""
    return x if x.stride(3) == 1 else x.contiguous()


def _launch(
    kernel: str,
    pointers: tuple[Tensor, ...],
    strided: tuple[Tensor, ...],
    scales: tuple[float, ...],
    q: Tensor,
    k: Tensor,
    window: int,
    values: configs.Values | None,
) -> None:
    """Start `kernel` with one program per tile of rows (or of keys) and kv head."""
    B, Tq, H, D = q.shape
    Tk, G = k.shape[1], k.shape[2]
    if window >= Tk - 1:
        window = -1  # it reaches back to the first key: full attention
    if values is None:
        values = configuration(kernel, q, window)
    tiles = -(-Tk // values["KEYS"]) if kernel == "key gradient" else -(-Tq * (H // G) // values["ROWS"])
    if B * tiles == 0:
        return
    section = max(1, SECTION_BYTES // (2 * max(Tk, Tq * (H // G)) * D * q.element_size()))
    strides = [stride for x in strided for stride in x.stride()[:3]]
    with torch.cuda.device_of(q):
        KERNELS[kernel][(B * G * tiles,)](
            *pointers, *scales, Tq, Tk, B * G, section, window, G, *strides,
            R=H // G, D=D, WINDOW=window >= 0, PRECISION="tf32x3" if q.dtype == torch.float32 else "tf32", **values,
        )  # fmt: skip


def forward(
    q: Tensor, k: Tensor, v: Tensor, window: int, scale: float, values: configs.Values | None = None
) -> tuple[Tensor, Tensor]:
    """(o (B, Tq, H, D), lse (B, G, Tq * R) in float32, to base 2); inputs as in `kernels.attention`, any strides.

    values: another tile than the table's, for the tuner.
    """
    q, k, v = _rows_apart(q), _rows_apart(k), _rows_apart(v)
    if scale < 0:  # the kernel takes the maximum of scores before it scales them
        q, scale = -q, -scale
    B, Tq, H, _ = q.shape
    G = k.shape[2]
    o = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    lse = torch.empty((B, G, Tq * (H // G)), dtype=torch.float32, device=q.device)
    _launch("forward", (q, k, v, o, lse), (q, k, v), (scale * math.log2(math.e),), q, k, window, values)
    return o, lse


def backward(
    do: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    o: Tensor,
    lse: Tensor,
    window: int,
    scale: float,
    values: tuple[configs.Values | None, configs.Values | None] = (None, None),
) -> tuple[Tensor, Tensor, Tensor]:
    """(dq, dk, dv), contiguous, from the gradient of o, the inputs and what `forward` gave. The same bits every time.

    values: other tiles than the table's, for the query and the key gradient.
    """
    do, q, k, v = _rows_apart(do), _rows_apart(q), _rows_apart(k), _rows_apart(v)
    negative = scale < 0
    if negative:
        q, scale = -q, -scale
    scales = scale, scale * math.log2(math.e)
    dq, dk, dv = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (q, k, v))
    delta = torch.empty_like(lse)
    strided = q, k, v, do
    _launch("query gradient", (q, k, v, o, do, lse, delta, dq), strided, scales, q, k, window, values[0])
    _launch("key gradient", (q, k, v, do, lse, delta, dk, dv), strided, scales, q, k, window, values[1])
    return (-dq if negative else dq), dk, dv


def compilations() -> Iterator[configs.Compilation]:
    """Every kernel as it is launched: bf16 with and without a window, float32, grouped heads."""
    for kernel in KERNELS:
        for D in (64, 128):
            for windowed in (False, True):
                yield _compilation(kernel, "bf16", D, windowed, 1, False)
                if _tile(kernel, "bf16", D, windowed, True) != _tile(kernel, "bf16", D, windowed, False):
                    yield _compilation(kernel, "bf16", D, windowed, 1, True)
        yield _compilation(kernel, "bf16", 128, False, 4, True)
        yield _compilation(kernel, "fp32", 64, True, 1, False)
        yield _compilation(kernel, "fp32", 128, True, 1, False)


def _compilation(kernel: str, dtype: str, D: int, windowed: bool, R: int, hopper: bool) -> configs.Compilation:
    function = KERNELS[kernel]
    rows, keys, warps, stages = _tile(kernel, dtype, D, windowed, hopper)
    constants = {
        "R": R,
        "D": D,
        "ROWS": rows,
        "KEYS": keys,
        "WINDOW": windowed,
        "PRECISION": "tf32x3" if dtype == "fp32" else "tf32",
    }
    signature = {}
    for name in function.arg_names:
        if name in ("q", "k", "v", "o", "do", "dq", "dk", "dv"):
            signature[name] = f"*{dtype}"
        elif name in ("lse", "delta"):
            signature[name] = "*fp32"
        elif name in ("scale", "exponent"):
            signature[name] = "fp32"
        else:
            signature[name] = "constexpr" if name in constants else "i32"
    wide = dtype == "fp32" and D == 128
    return configs.Compilation(
        OP,
        _key(kernel, dtype, D, windowed) + (f", {R} heads a group" if R > 1 else "") + (", sm_90" if hopper else ""),
        function,
        signature,
        constants,
        warps,
        stages,
        divisible=[n for n, kind in signature.items() if kind[0] == "*" or n.endswith(("_batch", "_time", "_head"))],
        tensor_cores=dtype != "fp32",
        may_spill="a float32 product is three of tf32: loop constants give way" if wide else "",
        only=(90,) if hopper else (),
    )


def tunings() -> Iterator[configs.Tuning]:
    """The rows of the table: bf16, each kernel, D 64 and 128, full and windowed."""
    tiles = {
        "forward": [
            (128, 128, 8, 2),
            (128, 64, 8, 3),
            (128, 64, 8, 2),
            (128, 64, 4, 2),
            (128, 32, 8, 3),
            (64, 64, 4, 2),
        ],
        "query gradient": [(128, 64, 8, 2), (128, 128, 8, 2), (128, 32, 8, 3), (64, 64, 4, 2), (64, 32, 4, 3)],
        "key gradient": [
            (64, 128, 8, 2),
            (32, 128, 8, 3),
            (32, 128, 8, 2),
            (64, 64, 8, 2),
            (64, 64, 4, 2),
            (128, 64, 8, 2),
        ],
    }
    for kernel in KERNELS:
        for D in (64, 128):
            for windowed in (False, True):
                candidates = [_values(tile) for tile in tiles[kernel]]
                make = functools.partial(_timed, kernel, D, 512 if windowed else -1)
                yield configs.Tuning(OP, _key(kernel, "bf16", D, windowed), candidates, make)


def _timed(kernel: str, D: int, window: int, device: Any) -> Callable[[configs.Values], None]:
    """A launch of `kernel` at T 4096 with any tile."""
    shape = 2, 4096, 2048 // D, D
    generator = torch.Generator(device).manual_seed(0)
    q, k, v, do = (
        torch.randn(shape, generator=generator, dtype=torch.bfloat16, device=device) for _ in range(4)
    )  # fmt: skip
    scale = D**-0.5
    o, lse = forward(q, k, v, window, scale)
    delta, d_first, d_second = torch.zeros_like(lse), torch.empty_like(q), torch.empty_like(q)
    scales = scale, scale * math.log2(math.e)
    arguments = {
        "forward": ((q, k, v, o, lse), (q, k, v), scales[1:]),
        "query gradient": ((q, k, v, o, do, lse, delta, d_first), (q, k, v, do), scales),
        "key gradient": ((q, k, v, do, lse, delta, d_first, d_second), (q, k, v, do), scales),
    }[kernel]
    return lambda values: _launch(kernel, *arguments, q, k, window, values)
