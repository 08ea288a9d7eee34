"""The head and its loss in chunks of rows: a chunk's logits are made, used for loss and gradients, and dropped.

The gradients of a sum need no factor from outside but one number, so the forward pass takes them while the chunk is in
the cache, and the backward pass multiplies; for `none` each row has a factor of its own, and the chunks run again.

tanh(u) is taken as 2 sigmoid(2u) - 1, because PyTorch's sigmoid on a CPU is six times as fast as its tanh. The -1 moves
every logit alike, so the softmax never sees it: with s = sigmoid(2 z / softcap) it is softmax(2 softcap s), and the
slope of the cap is 4 s (1 - s).

N rows (tokens), C channels, V vocabulary, R rows of a chunk.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels.linear_softcap_cross_entropy.reference import mean

# How many logits a chunk has, and how many rows at least. On a CPU the chunk should fit the cache (measured in
# README.md); on a GPU each call has to be worth its launch.
CPU_LOGITS, CPU_ROWS = 2**20, 128
GPU_LOGITS, GPU_ROWS = 2**26, 1024
# Up to here the short forms are as exact as the plain ones: 2 s - 1 is off by softcap / 10 million at most, and
# exp(-2 softcap) / V is a normal float32 for any vocabulary, so a probability can be taken before its logarithm.
# Beyond, the plain ones run.
QUICK_SOFTCAP = 35.0


def linear_softcap_cross_entropy(
    x: Tensor, w: Tensor, targets: Tensor, softcap: float, ignore_index: int, reduction: str
) -> Tensor:
    """Inputs as in `kernels.linear_softcap_cross_entropy`."""
    counted = targets != ignore_index
    count = counted.sum()
    targets = targets.where(counted, 0)
    mask: Tensor | None = counted
    if x.device.type == "cpu" and not torch.compiler.is_compiling():
        if count == len(targets):
            mask = None
        elif reduction != "none":
            # Fine-tuning has no loss on half of its tokens: their rows need not be projected at all.
            rows, mask = counted.nonzero().squeeze(1), None
            x, targets = x.index_select(0, rows), targets[rows]
    if torch.is_grad_enabled() and (x.requires_grad or w.requires_grad):
        if reduction == "none":
            return _Losses.apply(x, w, targets, mask, softcap)
        total = _Sum.apply(x, w, targets, mask, softcap)
    else:
        losses, _, _ = _chunks(x, w, targets, mask, None, softcap, False, False)
        if reduction == "none":
            return losses
        total = losses.sum()
    return total if reduction == "sum" else mean(total, count)


class _Sum(torch.autograd.Function):
    """The summed loss; its gradients are taken on the way."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, targets: Tensor, mask: Tensor | None, softcap: float) -> Tensor:
        wants_x, wants_w = ctx.needs_input_grad[:2]
        losses, dx, dw = _chunks(x, w, targets, mask, mask, softcap, wants_x, wants_w)
        ctx.save_for_backward(dx, dw)
        return losses.sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        dx, dw = (None if d is None else d * gradient.to(d.dtype) for d in ctx.saved_tensors)
        return dx, dw, None, None, None


class _Losses(torch.autograd.Function):
    """The loss of every row; the chunks run again when the gradient of each is known."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, targets: Tensor, mask: Tensor | None, softcap: float) -> Tensor:
        ctx.save_for_backward(x, w, targets, mask)
        ctx.softcap = softcap
        return _chunks(x, w, targets, mask, None, softcap, False, False)[0]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, w, targets, mask = ctx.saved_tensors
        factor = gradient if mask is None else gradient * mask
        _, dx, dw = _chunks(x, w, targets, mask, factor, ctx.softcap, *ctx.needs_input_grad[:2])
        return dx, dw, None, None, None


def _chunks(
    x: Tensor,
    w: Tensor,
    targets: Tensor,
    mask: Tensor | None,
    factor: Tensor | None,
    softcap: float,
    wants_x: bool,
    wants_w: bool,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Losses (N,), and where wanted the gradients of sum(factor * losses): dx (N, C) in x's dtype, dw (V, C) in w's.

    mask, factor: (N,) or None for all ones; targets are rows of w everywhere.
    """
    N, V = x.shape[0], w.shape[0]
    wide = torch.promote_types(x.dtype, torch.float32)
    cast = w.to(x.dtype)
    losses = torch.empty(N, dtype=wide, device=x.device)
    dx = torch.empty_like(x) if wants_x else None
    dw = torch.zeros_like(w, memory_format=torch.contiguous_format) if wants_w else None
    logits, least = (CPU_LOGITS, CPU_ROWS) if x.device.type == "cpu" else (GPU_LOGITS, GPU_ROWS)
    size, quick = max(least, logits // V), softcap <= QUICK_SOFTCAP
    for start in range(0, N, size):
        chunk, target = x[start : start + size], targets[start : start + size, None]  # (R, C), (R, 1)
        z = (chunk @ cast.t()).to(wide)  # (R, V)
        if quick:
            s = z.mul_(2 / softcap).sigmoid_()
            p = torch.softmax(s * (2 * softcap), -1)
            losses[start : start + size] = p.gather(1, target).squeeze(1).log_().neg_()
        else:
            s = z.div_(softcap).tanh_()
            p = torch.log_softmax(s * softcap, -1)
            losses[start : start + size] = p.gather(1, target).squeeze(1).neg_()
            p = p.exp_()
        if not (wants_x or wants_w):
            continue
        p.scatter_add_(1, target, p.new_full((1, 1), -1.0).expand_as(target))
        # (p - one-hot) times the slope of the cap: a quarter of it where s is a sigmoid.
        dz = (torch.ops.aten.sigmoid_backward(p, s) if quick else torch.ops.aten.tanh_backward(p, s)).to(x.dtype)
        scale: float | Tensor = 4.0 if quick else 1.0
        if factor is not None:
            scale = scale * factor[start : start + size, None].to(x.dtype)  # (R, 1)
        if dx is not None:
            dx[start : start + size] = (dz @ cast) * scale
        if dw is not None:
            rows = chunk * scale
            if dw.dtype is x.dtype:
                dw.addmm_(dz.t(), rows)
            else:
                dw += dz.t() @ rows
    return losses if mask is None else losses * mask, dx, dw
