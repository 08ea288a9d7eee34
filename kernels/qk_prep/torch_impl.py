"""Rotation, norm and gain in few PyTorch calls: for short texts the calls are the cost.

q and k go through together, and the norm is one multiplication by gain * sqrt(D) / sqrt(|y|^2 + D eps). For training on
a CPU the gradient is written out, because autograd would retrace every one of those calls over memory:

    out = y s,  s = gain / sqrt(mean(y^2) + eps)       dy = s (dout - out mean(dout out) / gain^2)
    dx1 = dy1 cos - dy2 sin,  dx2 = dy2 cos + dy1 sin      the turn back

B batch, T time, H query heads, G kv heads, D head dim.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels.qk_prep.reference import EPS


def qk_prep(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, gain: float) -> tuple[Tensor, Tensor]:
    """(q, k) after rotation, norm and gain; both are views of one tensor (B, T, H + G, D)."""
    H = q.shape[2]
    if cos.dim() == 2:
        cos, sin = cos[:, None, :], sin[:, None, :]  # (T, 1, D/2)
    trains = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad)
    if trains and q.device.type == "cpu" and not (cos.requires_grad or torch.compiler.is_compiling()):
        return _Prep.apply(q, k, cos, sin, gain)
    y, scale = _turn_and_scale(torch.cat([q, k], 2), cos, sin, gain)
    y = y * scale if y.dtype is scale.dtype else (y * scale).to(y.dtype)
    return y[:, :, :H], y[:, :, H:]


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
    """q prepared, in the caches' dtype; prepared k and v join the caches. A GPU does not wait for a position."""
    q, k = qk_prep(q, k, cos, sin, gain)
    B, T, room = q.shape[0], q.shape[1], k_cache.shape[1]
    if isinstance(positions, int):
        k_cache.narrow(1, positions, T).copy_(k)
        v_cache.narrow(1, positions, T).copy_(v)
    elif T and room:
        # A token outside the cache writes the entry at the edge once more, with the value that belongs there.
        start = positions.to(torch.int64)[:, None]
        entry = (start + torch.arange(T, device=q.device)).clamp(0, room - 1)  # (B, T)
        token = entry - start
        new = ((token >= 0) & (token < T))[:, :, None, None]
        row = torch.arange(B, device=q.device)[:, None]
        token = token.clamp(0, T - 1)
        for cache, x in ((k_cache, k), (v_cache, v)):
            cache[row, entry] = torch.where(new, x[row, token].to(cache.dtype), cache[row, entry])
    return q.to(k_cache.dtype)


def _turn_and_scale(x: Tensor, cos: Tensor, sin: Tensor, gain: float) -> tuple[Tensor, Tensor]:
    """The rotated heads (B, T, heads, D), and what norm and gain multiply each by (B, T, heads, 1)."""
    D = x.shape[-1]
    halves = x.view(*x.shape[:3], 2, D // 2)
    y = halves * cos.unsqueeze(-2)
    # select, not unbind: autograd allows writing into the view that select returns.
    y.select(3, 0).addcmul_(halves.select(3, 1), sin)
    y.select(3, 1).addcmul_(halves.select(3, 0), sin, value=-1)
    y = y.flatten(3)
    wide = torch.promote_types(y.dtype, torch.float32)
    length = torch.linalg.vector_norm(y, dim=-1, keepdim=True, dtype=wide)
    return y, (length.square() + D * EPS).rsqrt() * (gain * math.sqrt(D))


class _Prep(torch.autograd.Function):
    """qk_prep with the gradient above."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, gain: float) -> tuple[Tensor, Tensor]:
        H = q.shape[2]
        y, scale = _turn_and_scale(torch.cat([q, k], 2), cos, sin, gain)
        y *= scale
        ctx.save_for_backward(y, scale, cos, sin)
        ctx.gain, ctx.dtype = gain, q.dtype
        return y[:, :, :H], y[:, :, H:]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dq: Tensor, dk: Tensor) -> tuple[Tensor | None, ...]:
        out, scale, cos, sin = ctx.saved_tensors
        D, H = out.shape[-1], dq.shape[2]
        dy = torch.cat([dq, dk], 2)
        if ctx.gain:  # with a gain of 0 there is no way back, and scale makes all of it 0
            along = (dy * out).sum(-1, keepdim=True).div_(D * ctx.gain**2)
            dy = dy.addcmul_(out, along, value=-1)
        dy = dy.mul_(scale.to(dy.dtype)).view(*out.shape[:3], 2, D // 2)
        dx = dy * cos.unsqueeze(-2)
        dx.select(3, 0).addcmul_(dy.select(3, 1), sin, value=-1)
        dx.select(3, 1).addcmul_(dy.select(3, 0), sin)
        dx = dx.flatten(3).to(ctx.dtype)
        return dx[:, :, :H], dx[:, :, H:], None, None, None
