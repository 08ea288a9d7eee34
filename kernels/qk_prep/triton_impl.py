"""Rotation, norm and gain of queries and keys in one Triton kernel; the way back in another; a third fills the cache.

    y1 = x1 cos + x2 sin,  y2 = x2 cos - x1 sin,  root = 1 / sqrt(mean(y^2) + eps),  out = gain root y
    dy = root (gain dout - out mean(dout out) / gain)          dx1 = dy1 cos - dy2 sin,  dx2 = dy2 cos + dy1 sin

Everything between a load and a store is float32 in registers: each value is read once, written once and rounded once.
A program takes all query heads and all key heads of BLOCK_T tokens, so a token's angles are read once. The way back
starts from `out`, which attention keeps anyway, and from the roots, one number a head: q and k need not stay.

B batch, T time, H query heads, G kv heads, D head dim.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
import triton
from torch import Tensor

from kernels import configs
from kernels.qk_prep.triton_impl_kernels import append_kernel, backward_kernel, forward_kernel

OP = "qk_prep"


def forward(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, gain: float) -> tuple[Tensor, Tensor, Tensor]:
    """(q, k) prepared, in the dtype that q, cos and sin promote to, and the roots (B, T, H + G) in float32."""
    return launch_forward(q, k, cos, sin, gain, _values(q, k, "forward"))


def launch_forward(
    q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, gain: float, values: configs.Values
) -> tuple[Tensor, Tensor, Tensor]:
    """`forward` with a configuration: BLOCK_T tokens a program, num_warps, num_stages."""
    B, T, H, _ = q.shape
    G = k.shape[2]
    dtype = torch.promote_types(q.dtype, torch.promote_types(cos.dtype, sin.dtype))
    q_out, k_out = (torch.empty(x.shape, dtype=dtype, device=x.device) for x in (q, k))
    roots = torch.empty((B, T, H + G), dtype=torch.float32, device=q.device)
    if B and T:
        with torch.cuda.device_of(q):
            forward_kernel[(B * triton.cdiv(T, values["BLOCK_T"]),)](
                q, k, cos, sin, q_out, k_out, roots, T, gain,
                *q.stride(), *k.stride(), *_table_strides(cos), *_table_strides(sin),
                **_shape(H, G, q.shape[3]), **values,
            )  # fmt: skip
    return q_out, k_out, roots


def backward(
    dq_out: Tensor,
    dk_out: Tensor,
    q_out: Tensor,
    k_out: Tensor,
    roots: Tensor,
    cos: Tensor,
    sin: Tensor,
    gain: float,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """Gradients of q and k, in their dtype, from those of the outputs."""
    values = _values(q_out, k_out, "backward")
    return launch_backward(dq_out, dk_out, q_out, k_out, roots, cos, sin, gain, dtype, values)


def launch_backward(
    dq_out: Tensor,
    dk_out: Tensor,
    q_out: Tensor,
    k_out: Tensor,
    roots: Tensor,
    cos: Tensor,
    sin: Tensor,
    gain: float,
    dtype: torch.dtype,
    values: configs.Values,
) -> tuple[Tensor, Tensor]:
    """`backward` with a configuration: BLOCK_T tokens a program, num_warps, num_stages."""
    B, T, H, D = q_out.shape
    dq, dk = (torch.empty(x.shape, dtype=dtype, device=x.device) for x in (q_out, k_out))
    if B and T:
        with torch.cuda.device_of(q_out):
            backward_kernel[(B * triton.cdiv(T, values["BLOCK_T"]),)](
                dq_out, dk_out, q_out, k_out, roots.contiguous(), cos, sin, dq, dk, T, gain,
                *dq_out.stride(), *dk_out.stride(), *q_out.stride(), *k_out.stride(),
                *_table_strides(cos), *_table_strides(sin), **_shape(H, k_out.shape[2], D), **values,
            )  # fmt: skip
    return dq, dk


def append(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cos: Tensor,
    sin: Tensor,
    gain: float,
    k_cache: Tensor,
    v_cache: Tensor,
    positions: Tensor | None,
    position: int,
) -> Tensor:
    """Prepared q in the caches' dtype; prepared k and v go into the caches. positions: (B,), or None for `position`."""
    B, T, H, D = q.shape
    q_out = torch.empty(q.shape, dtype=k_cache.dtype, device=q.device)
    values = _values(q, k, "append")
    per_row, positions_stride = (q_out, 0) if positions is None else (positions, positions.stride(0))
    if B and T:
        with torch.cuda.device_of(q):
            append_kernel[(B * triton.cdiv(T, values["BLOCK_T"]),)](
                q, k, v, cos, sin, k_cache, v_cache, per_row, q_out, T, position, k_cache.shape[1], gain,
                *q.stride(), *k.stride(), *v.stride(), *_table_strides(cos), *_table_strides(sin),
                *k_cache.stride(), *v_cache.stride(), positions_stride,
                **_shape(H, k.shape[2], D), ONE_POSITION=positions is None, **values,
            )  # fmt: skip
    return q_out


def _table_strides(table: Tensor) -> tuple[int, int, int]:
    """Strides over row, position and angle of a table (T, D/2), (1, T, 1, D/2) or (B, T, 1, D/2)."""
    if table.dim() == 2:
        return 0, table.stride(0), table.stride(1)
    return table.stride(0) if table.shape[0] > 1 else 0, table.stride(1), table.stride(3)


def _shape(H: int, G: int, D: int) -> dict[str, int]:
    """What the kernels are compiled for: head counts and head dim belong to a model and do not change."""
    return {"H": H, "G": G, "BLOCK_H": triton.next_power_of_2(H), "BLOCK_G": triton.next_power_of_2(G), "HALF": D // 2}


def configuration_key(kind: str, dtype: torch.dtype, D: int, H: int, G: int) -> str:
    """What a configuration depends on: the values of one token, and their format."""
    heads = triton.next_power_of_2(H) + triton.next_power_of_2(G)
    return f"{kind} {str(dtype).removeprefix('torch.')} D{D} heads{heads}"


def _values(q: Tensor, k: Tensor, kind: str) -> configs.Values:
    return _values_of(q.device, q.dtype, q.shape[3], q.shape[2], k.shape[2], kind)


@functools.cache
def _values_of(device: torch.device, dtype: torch.dtype, D: int, H: int, G: int, kind: str) -> configs.Values:
    """The configuration for this GPU. A CPU interprets, for tests: two tokens a program show what blocks get wrong."""
    if device.type != "cuda":
        return {"BLOCK_T": 2, "num_warps": 1, "num_stages": 1}
    key = configuration_key(kind, dtype, D, H, G)
    return configs.find(OP, key, torch.cuda.get_device_capability(device), default(D, H, G)).values


def default(D: int, H: int, G: int) -> configs.Values:
    """Tokens a program so that a thread has 16 values of q, at least one token; more warps for many heads."""
    block = triton.next_power_of_2(max(H, G)) * D
    return {"BLOCK_T": max(1, 2048 // block), "num_warps": 4 if block <= 4096 else 8, "num_stages": 1}


def compilations() -> Iterator[configs.Compilation]:
    """Every kernel for both head dims of nanochat, few heads and many, in the formats of training and of decoding."""
    for word in ("bf16", "fp16", "fp32"):
        for D, H, G in ((64, 6, 6), (128, 10, 10), (128, 32, 8)):
            for kernel in (forward_kernel, backward_kernel, append_kernel):
                yield _compilation(kernel, word, D, H, G)


def _compilation(kernel: Any, word: str, D: int, H: int, G: int) -> configs.Compilation:
    values = default(D, H, G)
    signature = dict.fromkeys(kernel.arg_names, "i32")
    tensors = ("q", "k", "v", "cos", "sin", "dq", "dk", "q_out", "k_out", "dq_out", "dk_out", "k_cache", "v_cache")
    signature |= {name: f"*{word}" for name in tensors if name in signature}
    signature |= {name: kind for name, kind in (("roots", "*fp32"), ("positions", "*i64")) if name in signature}
    signature["gain"] = "fp32"
    constants = {**_shape(H, G, D), "BLOCK_T": values["BLOCK_T"]}
    constants |= {name: 1 for name in signature if name.endswith("_d") or name == "positions_b"}
    if "ONE_POSITION" in signature:
        constants["ONE_POSITION"] = False
    signature |= dict.fromkeys(constants, "constexpr")
    divisible = [name for name, kind in signature.items() if kind[0] == "*" or name.endswith(("_b", "_t", "_h"))]
    divisible = [name for name in divisible if name not in constants]
    word = f"{kernel.__name__.removesuffix('_kernel')}, {word}, D {D}, {H} + {G} heads"
    return configs.Compilation(
        OP, word, kernel, signature, constants, values["num_warps"], values["num_stages"], divisible=divisible
    )


def tunings() -> Iterator[configs.Tuning]:
    """Training at d12 and d20 in bfloat16."""
    for D, H in ((128, 6), (128, 10)):
        for kind in ("forward", "backward"):
            values = [
                {"BLOCK_T": tokens, "num_warps": warps, "num_stages": 1} for tokens in (1, 2, 4) for warps in (2, 4, 8)
            ]
            key = configuration_key(kind, torch.bfloat16, D, H, H)
            yield configs.Tuning(OP, key, values, functools.partial(_tuned_launch, kind, D, H))


def _tuned_launch(kind: str, D: int, H: int, device: Any) -> Callable[[configs.Values], None]:
    """A launch on 16 rows of 2,048 tokens: 2 x 80 MB at ten heads, more than any cache of a GPU holds."""
    q, k = (torch.randn(16, 2048, H, D, dtype=torch.bfloat16, device=device) for _ in range(2))
    cos, sin = (torch.randn(2048, D // 2, device=device).bfloat16() for _ in range(2))
    q_out, k_out, roots = forward(q, k, cos, sin, 1.2)

    def run(values: configs.Values) -> None:
        if kind == "forward":
            launch_forward(q, k, cos, sin, 1.2, values)
        else:
            launch_backward(q, k, q_out, k_out, roots, cos, sin, 1.2, q.dtype, values)

    return run
