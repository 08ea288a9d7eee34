"""What happens to queries and keys between their projection and attention: rotate, normalise, scale.

    x1, x2 = the halves of the head dim            y = [x1 cos + x2 sin, x2 cos - x1 sin]
    out    = gain * y / sqrt(mean(y^2) + eps),     eps = 1.1920929e-7 in every dtype

The rotation is nanochat's: by minus theta, and the halves of the head pair up, not its neighbours.

B batch, T time, H query heads, G kv heads, D head dim: q (B, T, H, D), k (B, T, G, D); cos and sin (T, D/2),
(1, T, 1, D/2) or, where each row stands at its own positions, (B, T, 1, D/2).
Source: Su et al. 2021 (rotary position embedding), Zhang and Sennrich 2019 (RMS norm), Henry et al. 2020 (QK norm).
"""

import math
from numbers import Real

from torch import Tensor

from kernels import backend
from kernels.checks import KernelInputError, check_heads, check_same, check_tensor
from kernels.qk_prep import reference, torch_impl


def qk_prep(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, gain: float = 1.0) -> tuple[Tensor, Tensor]:
    """Rotated, normalised and scaled q and k; differentiable. The results may be views of one tensor.

    Tables of another dtype than q's follow PyTorch's promotion, as `q * cos` does: bf16 tables with fp32 queries give
    fp32 results of bf16 angles (nanochat of 2025 on a CPU), fp32 tables with bf16 queries give fp32 results.
    Raises KernelInputError (a ValueError) for shapes, dtypes, devices or a gain that do not fit.
    """
    _check(q, k, cos, sin)
    if not isinstance(gain, Real) or not math.isfinite(gain):
        raise KernelInputError(f"qk_prep: gain is {gain!r}; it is a finite number, 1 for no gain")
    if backend.choose("qk_prep", q.device, q.dtype, q.shape).name == "reference":
        return reference.qk_prep(q, k, cos, sin, gain)
    return torch_impl.qk_prep(q, k, cos, sin, gain)


def _check(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> None:
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
