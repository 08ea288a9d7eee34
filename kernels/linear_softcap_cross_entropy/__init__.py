"""The head of the model and its loss in one operation: project, soft-cap, cross-entropy.

    z[n, v] = x[n] . w[v]                     l = softcap * tanh(z / softcap)
    loss[n] = log sum_v exp(l[n, v]) - l[n, target[n]]        0 where target[n] is ignore_index

    dl[n, v] = softmax(l[n])[v] - (v == target[n])            dz = dl * (1 - (l / softcap)^2)
    dx = dz w                                 dw = dz^T x

N x V logits are the largest tensor of a training step by far, and the plain way stores them five times. Here a chunk of
rows is projected, turned into its loss and at once into its share of dx and dw, and dropped.

N rows (tokens), C channels, V vocabulary: x (N, C), w (V, C), targets (N,).
Source: soft-capped logits, Gemma 2 (2024); gradients taken in the forward pass, Liger-Kernel (Hsu et al. 2024).
"""

import math
from numbers import Real

import torch
from torch import Tensor

from kernels import backend
from kernels.checks import KernelInputError, check_same, check_tensor
from kernels.linear_softcap_cross_entropy import reference, torch_impl

REDUCTIONS = ("mean", "sum", "none")
OP = "linear_softcap_cross_entropy"


def linear_softcap_cross_entropy(
    x: Tensor, w: Tensor, targets: Tensor, softcap: float, ignore_index: int = -1, reduction: str = "mean"
) -> Tensor:
    """Cross-entropy in nats, in float32 (float64 for float64 inputs); differentiable once in x and w.

    "sum" and "mean" (over the rows that count) give one number, "none" gives (N,). The product runs in x's dtype, all
    that follows in float32; w may be wider than x, float32 weights with bfloat16 rows, and then its gradient is too.
    A mean over no row is NaN, as PyTorch has it, with gradients of zero.
    Raises KernelInputError (a ValueError) for shapes, dtypes, devices, a softcap or a reduction that do not fit, and
    on a CPU for a target that is no row of w (a GPU would have to be waited for).
    """
    _check(x, w, targets, softcap, ignore_index, reduction)
    if backend.choose(OP, x.device, x.dtype, x.shape).name == "reference":
        losses = reference.losses(x, w, targets, softcap, ignore_index)
        if reduction == "none":
            return losses
        total = losses.sum()
        return total if reduction == "sum" else reference.mean(total, (targets != ignore_index).sum())
    return torch_impl.linear_softcap_cross_entropy(x, w, targets, softcap, ignore_index, reduction)


def _check(x: Tensor, w: Tensor, targets: Tensor, softcap: float, ignore_index: int, reduction: str) -> None:
    check_tensor(OP, "x", x, "(N, C)")
    check_tensor(OP, "w", w, "(V, C)")
    check_same(OP, "x", x, "w", w, dtype=False)
    if x.shape[1] != w.shape[1]:
        raise KernelInputError(f"{OP}: x has {x.shape[1]} channels and w {w.shape[1]}; both need the same")
    if w.shape[0] < 1:
        raise KernelInputError(f"{OP}: w has no row, so there is no token to predict; pass the head's weights")
    if not isinstance(targets, Tensor) or targets.shape != x.shape[:1] or targets.dtype != torch.int64:
        got = f"{targets.dtype} {tuple(targets.shape)}" if isinstance(targets, Tensor) else type(targets).__name__
        raise KernelInputError(f"{OP}: targets is {got}; it needs int64 of shape ({x.shape[0]},), one per row of x")
    check_same(OP, "x", x, "targets", targets, dtype=False)
    if not isinstance(softcap, Real) or not 0 < softcap < math.inf:
        raise KernelInputError(f"{OP}: softcap is {softcap!r}; it is a finite number above 0, 15 in nanochat")
    if reduction not in REDUCTIONS:
        raise KernelInputError(f"{OP}: reduction is {reduction!r}; it is one of {', '.join(REDUCTIONS)}")
    # Looking into the targets costs nothing on a CPU; elsewhere it would wait for the device, so there it is left out.
    if targets.device.type == "cpu" and not torch.compiler.is_compiling() and len(targets):
        wrong = targets[((targets < 0) | (targets >= w.shape[0])) & (targets != ignore_index)]
        if len(wrong):
            raise KernelInputError(
                f"{OP}: a target is {int(wrong[0])}, but w has {w.shape[0]} rows; use tokens of this vocabulary, or "
                f"{ignore_index} for a row without a loss"
            )
