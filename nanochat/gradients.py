"""RMS norm and the MLP with gradients of their own, for training on a CPU.

PyTorch has no single kernel for either there, so its gradients retrace every small step of the formula: a dozen passes
over memory where three do. The result is the same; inference, GPUs, autocast and compiled code keep PyTorch's own.

    r = 1 / sqrt(mean(x^2) + eps)     y = x r               dx = r (dy - y mean(dy y))
    h = max(x A^T, 0)                 y = (h h) B^T         dh = 2 (dy B) h,  dB = dy^T (h h),  dA = dh^T x,  dx = dh A
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def worthwhile(x: Tensor) -> bool:
    """Whether a gradient of its own saves anything for x: it trains, on a CPU, and nothing rewrites the steps."""
    return (
        x.requires_grad
        and x.device.type == "cpu"
        and torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and not torch.is_autocast_enabled("cpu")
    )


def rms_norm(x: Tensor, epsilon: float) -> Tensor:
    """RMS norm over the last dimension, without learnable scale; differentiable once."""
    return _RMSNorm.apply(x, epsilon)


def squared_relu_mlp(x: Tensor, into: Tensor, back: Tensor) -> Tensor:
    """max(x into^T, 0)^2 back^T, in x's format: x (..., C), into (F, C), back (C, F); differentiable once.

    The weights may be wider than x, float32 with bfloat16 for example; their gradients are then as wide.
    """
    return _MLP.apply(x, into, back)


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, epsilon: float) -> Tensor:
        wide = torch.promote_types(x.dtype, torch.float32)
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=wide)
        r = length.square_().div_(x.size(-1)).add_(epsilon).rsqrt_()
        y = (x * r).to(x.dtype)
        ctx.save_for_backward(y, r)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:
        y, r = ctx.saved_tensors
        along = (dy * y).mean(-1, keepdim=True, dtype=r.dtype).to(y.dtype)
        return torch.addcmul(dy, y, along, value=-1).mul_(r.to(y.dtype)), None


class _MLP(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, into: Tensor, back: Tensor) -> Tensor:
        rows, a, b = x.flatten(0, -2), into.to(x.dtype), back.to(x.dtype)
        h = (rows @ a.t()).relu_()
        y = h * h
        ctx.save_for_backward(rows, h, y, a, b)
        ctx.weights = into.dtype, back.dtype
        return (y @ b.t()).view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, ...]:
        rows, h, y, a, b = ctx.saved_tensors
        shape, dy = dy.shape, dy.flatten(0, -2)
        dh = ((2 * dy) @ b).mul_(h)
        d_into, d_back = (dh.t() @ rows).to(ctx.weights[0]), (dy.t() @ y).to(ctx.weights[1])
        return (dh @ a).view(*shape[:-1], -1), d_into, d_back
