"""Rotation, norm and gain in few PyTorch calls: for short texts the calls are the cost.

q and k go through together, and the norm is one multiplication by gain * sqrt(D) / sqrt(|y|^2 + D eps).

B batch, T time, H query heads, G kv heads, D head dim.
"""

import math

import torch
from torch import Tensor

from kernels.qk_prep.reference import EPS


def qk_prep(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, gain: float) -> tuple[Tensor, Tensor]:
    """(q, k) after rotation, norm and gain; both are views of one tensor (B, T, H + G, D)."""
    B, T, H, D = q.shape
    if cos.dim() == 2:
        cos, sin = cos[:, None, :], sin[:, None, :]  # (T, 1, D/2)
    x = torch.cat([q, k], 2).view(B, T, -1, 2, D // 2)  # heads of both, their halves apart
    y = x * cos.unsqueeze(-2)
    # select, not unbind: autograd allows writing into the view that select returns.
    y.select(3, 0).addcmul_(x.select(3, 1), sin)
    y.select(3, 1).addcmul_(x.select(3, 0), sin, value=-1)
    y = y.flatten(3)  # (B, T, H + G, D)
    wide = torch.promote_types(y.dtype, torch.float32)
    length = torch.linalg.vector_norm(y, dim=-1, keepdim=True, dtype=wide)
    scale = (length.square() + D * EPS).rsqrt() * (gain * math.sqrt(D))
    y = y * scale if y.dtype is wide else (y * scale).to(y.dtype)
    return y[:, :, :H], y[:, :, H:]
