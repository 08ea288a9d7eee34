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
from typing import Any

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
    name = backend.choose(OP, x.device, x.dtype, x.shape).name
    if name in ("triton", "interpret"):
        return _by_triton(x, w, targets, float(softcap), ignore_index, reduction)
    if name == "reference":
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


def _by_triton(x: Tensor, w: Tensor, targets: Tensor, softcap: float, ignore_index: int, reduction: str) -> Tensor:
    if reduction == "none":
        return _losses(x, w, targets, softcap, ignore_index)
    on = torch.is_grad_enabled()
    total = _sum(x, w, targets, softcap, ignore_index, on and x.requires_grad, on and w.requires_grad)[0]
    return total if reduction == "sum" else reference.mean(total, (targets != ignore_index).sum())


def _run(x: Tensor, *arguments: Any) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """The Triton path: losses, dx, dw (see triton_impl.run)."""
    return backend.triton_impl(OP, "interpret" if x.device.type == "cpu" else "triton").run(x, *arguments)


def _or_empty(x: Tensor, *gradients: Tensor | None) -> tuple[Tensor, ...]:
    """An operator's outputs are tensors: one without elements stands for a gradient that nobody wants."""
    return tuple(x.new_empty(0) if gradient is None else gradient for gradient in gradients)


@torch.library.custom_op("nanochat::linear_softcap_cross_entropy_sum", mutates_args=())
def _sum(
    x: Tensor, w: Tensor, targets: Tensor, softcap: float, ignore_index: int, wants_x: bool, wants_w: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """(sum of the losses, its dx, its dw): gradients are taken on the way, as torch_impl.py does."""
    losses, dx, dw = _run(x, w, targets, None, softcap, ignore_index, wants_x, wants_w)
    dx, dw = _or_empty(x, dx, dw)
    return losses.sum(), dx, dw


@_sum.register_fake
def _(
    x: Tensor, w: Tensor, targets: Tensor, softcap: float, ignore_index: int, wants_x: bool, wants_w: bool
) -> tuple[Tensor, Tensor, Tensor]:
    dx = x.new_empty(x.shape if wants_x else 0)
    return x.new_empty((), dtype=torch.float32), dx, w.new_empty(w.shape) if wants_w else x.new_empty(0)


def _keep_sum(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.set_materialize_grads(False)  # nobody asks for the gradient of a gradient: no zeros as large as the weights
    ctx.wants = inputs[-2:]
    ctx.save_for_backward(*output[1:])


def _sum_backward(ctx: Any, gradient: Tensor, *of_gradients: Tensor | None) -> tuple[Tensor | None, ...]:
    if gradient is None:
        return (None,) * 7
    pairs = zip(ctx.saved_tensors, ctx.wants, strict=True)
    return *(kept * gradient.to(kept.dtype) if wanted else None for kept, wanted in pairs), *(None,) * 5


@torch.library.custom_op("nanochat::linear_softcap_cross_entropy_rows", mutates_args=())
def _losses(x: Tensor, w: Tensor, targets: Tensor, softcap: float, ignore_index: int) -> Tensor:
    """The loss of every row, (N,)."""
    return _run(x, w, targets, None, softcap, ignore_index, False, False)[0]


@_losses.register_fake
def _(x: Tensor, w: Tensor, targets: Tensor, softcap: float, ignore_index: int) -> Tensor:
    return x.new_empty(x.shape[0], dtype=torch.float32)


@torch.library.custom_op("nanochat::linear_softcap_cross_entropy_rows_backward", mutates_args=())
def _losses_gradients(
    gradient: Tensor,
    x: Tensor,
    w: Tensor,
    targets: Tensor,
    softcap: float,
    ignore_index: int,
    wants_x: bool,
    wants_w: bool,
) -> tuple[Tensor, Tensor]:
    """dx and dw where each row's loss has its own gradient: the chunks run again."""
    dx, dw = _or_empty(x, *_run(x, w, targets, gradient, softcap, ignore_index, wants_x, wants_w)[1:])
    return dx, dw


@_losses_gradients.register_fake
def _(gradient: Tensor, x: Tensor, w: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    wants_x, wants_w = rest[-2:]
    return x.new_empty(x.shape if wants_x else 0), w.new_empty(w.shape) if wants_w else x.new_empty(0)


def _keep_losses(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:3])
    ctx.rest = inputs[3:]


def _losses_backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    wants = ctx.needs_input_grad[:2]
    gradients = _losses_gradients(gradient, *ctx.saved_tensors, *ctx.rest, *wants)
    return *(g if wanted else None for g, wanted in zip(gradients, wants, strict=True)), None, None, None


_sum.register_autograd(_sum_backward, setup_context=_keep_sum)
_losses.register_autograd(_losses_backward, setup_context=_keep_losses)
