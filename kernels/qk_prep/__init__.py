"""What happens to queries and keys between their projection and attention: rotate, normalise, scale.

    x1, x2 = the halves of the head dim            y = [x1 cos + x2 sin, x2 cos - x1 sin]
    out    = gain * y / sqrt(mean(y^2) + eps),     eps = 1.1920929e-7 in every dtype

`qk_prep_append` does so for new tokens and puts keys and values into the cache on the way.

The rotation is nanochat's: by minus theta, and the halves of the head pair up, not its neighbours.

B batch, T time, H query heads, G kv heads, D head dim: q (B, T, H, D), k (B, T, G, D); cos and sin (T, D/2),
(1, T, 1, D/2) or, where each row stands at its own positions, (B, T, 1, D/2).
Source: Su et al. 2021 (rotary position embedding), Zhang and Sennrich 2019 (RMS norm), Henry et al. 2020 (QK norm).
"""

import math
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from kernels import backend
from kernels.checks import KernelInputError, check_heads, check_rows, check_same, check_tensor
from kernels.qk_prep import reference, torch_impl


def qk_prep(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, gain: float = 1.0) -> tuple[Tensor, Tensor]:
    """Rotated, normalised and scaled q and k; differentiable. The results may be views of one tensor.

    Tables of another dtype than q's follow PyTorch's promotion, as `q * cos` does: bf16 tables with fp32 queries give
    fp32 results of bf16 angles (nanochat of 2025 on a CPU), fp32 tables with bf16 queries give fp32 results.
    The Triton kernel computes in float32 and rounds once; it has no gradient for the tables.
    Raises KernelInputError (a ValueError) for shapes, dtypes, devices or a gain that do not fit.
    """
    _check(q, k, cos, sin, gain)
    name = _implementation(q, cos, sin)
    if name == "torch":
        return torch_impl.qk_prep(q, k, cos, sin, gain)
    if name == "reference":
        return reference.qk_prep(q, k, cos, sin, gain)
    if torch.is_grad_enabled() and (cos.requires_grad or sin.requires_grad):
        raise KernelInputError(
            "qk_prep: cos or sin requires a gradient, and the Triton kernel has none for tables; detach() them or set "
            "NANOCHAT_KERNELS_QK_PREP=torch"
        )
    q_out, k_out, _ = _forward(q, k, cos, sin, gain)
    return q_out, k_out


def qk_prep_append(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cos: Tensor,
    sin: Tensor,
    gain: float,
    k_cache: Tensor,
    v_cache: Tensor,
    positions: Tensor | int,
) -> Tensor:
    """Prepared q (B, T, H, D) in the caches' dtype, ready for `decode_attention`; prepared k and v are in the caches.

    k, v: (B, T, G, D); caches (B, Tmax, G, D) with any strides, changed in place; cos, sin: as in `qk_prep`.
    positions: where the first new token of a row goes, an integer tensor (B,) on q's device, or one int for all rows.
    Tokens that a tensor of positions puts outside the cache are dropped; its values are never read back from a GPU.
    It has no gradient. Raises KernelInputError (a ValueError) for what does not fit.
    """
    _check(q, k, cos, sin, gain)
    _check_caches(q, k, v, k_cache, v_cache, positions)
    if torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad):
        raise KernelInputError(
            "qk_prep_append: q, k or v requires a gradient, and a cache passes none on; call it under torch.no_grad()"
        )
    name = _implementation(q, cos, sin)
    if name in ("torch", "reference"):
        path = torch_impl if name == "torch" else reference
        return path.qk_prep_append(q, k, v, cos, sin, gain, k_cache, v_cache, positions)
    per_row, position = (positions, 0) if isinstance(positions, Tensor) else (None, positions)
    return _append(q, k, v, cos, sin, gain, k_cache, v_cache, per_row, position)


def _implementation(q: Tensor, cos: Tensor, sin: Tensor) -> str:
    """Which one runs. Tables in float64 ask for results in float64, whatever q is."""
    wide = cos.dtype is torch.float64 or sin.dtype is torch.float64
    return backend.choose("qk_prep", q.device, torch.float64 if wide else q.dtype, q.shape).name


def _kernels(x: Tensor) -> Any:
    return backend.triton_impl("qk_prep", "triton" if x.is_cuda else "interpret")


@torch.library.custom_op("nanochat::qk_prep", mutates_args=())
def _forward(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, gain: float) -> tuple[Tensor, Tensor, Tensor]:
    """The Triton kernel as one operation of PyTorch: q, k and what the way back needs of them, (B, T, H + G)."""
    return _kernels(q).forward(q, k, cos, sin, gain)


@_forward.register_fake
def _(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, gain: float) -> tuple[Tensor, Tensor, Tensor]:
    dtype = torch.promote_types(q.dtype, torch.promote_types(cos.dtype, sin.dtype))
    roots = q.new_empty((*q.shape[:2], q.shape[2] + k.shape[2]), dtype=torch.float32)
    return q.new_empty(q.shape, dtype=dtype), k.new_empty(k.shape, dtype=dtype), roots


@torch.library.custom_op("nanochat::qk_prep_backward", mutates_args=())
def _backward(
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
    """Gradients of q and k in `dtype`."""
    return _kernels(q_out).backward(dq_out, dk_out, q_out, k_out, roots, cos, sin, gain, dtype)


@_backward.register_fake
def _(
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
    return q_out.new_empty(q_out.shape, dtype=dtype), k_out.new_empty(k_out.shape, dtype=dtype)


def _keep(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor, Tensor]) -> None:
    q, _, cos, sin, gain = inputs
    ctx.save_for_backward(*output, cos, sin)
    ctx.gain, ctx.dtype = gain, q.dtype
    ctx.mark_non_differentiable(output[2])


def _way_back(ctx: Any, dq_out: Tensor, dk_out: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    dq, dk = _backward(dq_out, dk_out, *ctx.saved_tensors, ctx.gain, ctx.dtype)
    return dq, dk, None, None, None


_forward.register_autograd(_way_back, setup_context=_keep)


@torch.library.custom_op("nanochat::qk_prep_append", mutates_args=("k_cache", "v_cache"))
def _append(
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
    """The Triton kernel of `qk_prep_append`; `position` counts where `positions` is None."""
    return _kernels(q).append(q, k, v, cos, sin, gain, k_cache, v_cache, positions, position)


@_append.register_fake
def _(
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
    return q.new_empty(q.shape, dtype=k_cache.dtype)


def _check_caches(q: Tensor, k: Tensor, v: Tensor, k_cache: Tensor, v_cache: Tensor, positions: Tensor | int) -> None:
    check_tensor("qk_prep_append", "v", v, "(B, T, G, D)")
    check_same("qk_prep_append", "k", k, "v", v, dtype=False)
    if v.shape != k.shape:
        raise KernelInputError(
            f"qk_prep_append: k has shape {tuple(k.shape)} and v {tuple(v.shape)}; both come from the same tokens"
        )
    for name, cache in (("k_cache", k_cache), ("v_cache", v_cache)):
        check_tensor("qk_prep_append", name, cache, "(B, Tmax, G, D)")
        check_same("qk_prep_append", "q", q, name, cache, dtype=False)
        if cache.shape[0] != k.shape[0] or cache.shape[2:] != k.shape[2:]:
            raise KernelInputError(
                f"qk_prep_append: {name} has shape {tuple(cache.shape)}, but keys of shape {tuple(k.shape)} need rows, "
                f"heads and head dim as theirs; allocate it with (B, Tmax, {k.shape[2]}, {k.shape[3]})"
            )
    check_same("qk_prep_append", "k_cache", k_cache, "v_cache", v_cache)
    room, T = k_cache.shape[1], q.shape[1]
    if v_cache.shape[1] != room:
        raise KernelInputError(
            f"qk_prep_append: k_cache has room for {room} tokens and v_cache for {v_cache.shape[1]}; both need the same"
        )
    if isinstance(positions, Tensor):
        check_rows("qk_prep_append", "positions", positions, q.shape[0], q.device, floating=False)
    elif not isinstance(positions, int):
        raise KernelInputError(
            f"qk_prep_append: positions is {positions!r}; pass an integer tensor (B,) or one int for all rows"
        )
    elif not 0 <= positions <= room - T:
        raise KernelInputError(
            f"qk_prep_append: {T} tokens from position {positions} on do not fit into a cache with room for {room}; "
            f"allocate a larger one"
        )


def _check(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, gain: object) -> None:
    check_tensor("qk_prep", "q", q, "(B, T, H, D)")
    check_tensor("qk_prep", "k", k, "(B, T, G, D)")
    check_same("qk_prep", "q", q, "k", k)
    check_heads("qk_prep", q, k, "k")
    B, T, _, D = q.shape
    if k.shape[1] != T:
        raise KernelInputError(f"qk_prep: q has {T} positions and k {k.shape[1]}; both come from the same tokens")
    if D % 2:
        raise KernelInputError(f"qk_prep: the head dim is {D}, but the rotation pairs its halves; it has to be even")
    for name, table in (("cos", cos), ("sin", sin)):
        if not isinstance(table, Tensor) or not table.is_floating_point():
            kind = table.dtype if isinstance(table, Tensor) else type(table).__name__
            raise KernelInputError(f"qk_prep: {name} is {kind}, but it needs a floating-point tensor of angles' values")
        check_same("qk_prep", "q", q, name, table, dtype=False)
        shape = tuple(table.shape)
        if shape not in ((T, D // 2), (1, T, 1, D // 2), (B, T, 1, D // 2)):
            raise KernelInputError(
                f"qk_prep: {name} has shape {shape}, but {T} positions of head dim {D} need ({T}, {D // 2}) or "
                f"(1 or {B}, {T}, 1, {D // 2}); slice the table to the positions of q"
            )
    if not isinstance(gain, float | Real) or not math.isfinite(gain):  # float first: the abstract class is slow
        raise KernelInputError(f"qk_prep: gain is {gain!r}; it is a finite number, 1 for no gain")
