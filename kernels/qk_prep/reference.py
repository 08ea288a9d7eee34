"""Rotation, RMS norm and gain as their formulas say, for q and k alike.

B batch, T time, H query heads, G kv heads, D head dim.
"""

import torch
from torch import Tensor

EPS = 1.1920929e-07  # float32's machine epsilon; nanochat uses it in every dtype


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair (x[d], x[d + D/2]) by minus its angle; x (B, T, heads, D), tables broadcastable to (B, T, 1, D/2).

    >>> x = torch.tensor([1.0, 0.0]).view(1, 1, 1, 2)
    >>> quarter_turn = torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1)
    >>> rotate(x, *quarter_turn).flatten().tolist()
    [0.0, -1.0]
    """
    x1, x2 = x.chunk(2, -1)
    return torch.cat([x1 * cos + x2 * sin, x2 * cos - x1 * sin], -1)


def norm(x: Tensor) -> Tensor:
    """Divide by the root of the mean square over the last dimension, computed at least in float32."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + EPS)).to(x.dtype)


def qk_prep(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, gain: float) -> tuple[Tensor, Tensor]:
    """(q, k) after rotation, norm and gain."""
    if cos.dim() == 2:
        cos, sin = cos[:, None, :], sin[:, None, :]  # (T, 1, D/2)
    return norm(rotate(q, cos, sin)) * gain, norm(rotate(k, cos, sin)) * gain


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
    """q prepared, in the caches' dtype; entry positions[b] + t of row b becomes token t, if there is such an entry."""
    q, k = qk_prep(q, k, cos, sin, gain)
    B, T, room = q.shape[0], q.shape[1], k_cache.shape[1]
    start = torch.full((B,), positions, device=q.device) if isinstance(positions, int) else positions.to(torch.int64)
    token = torch.arange(room, device=q.device) - start[:, None]  # (B, room): which new token belongs into an entry
    new = ((token >= 0) & (token < T))[:, :, None, None]
    row = torch.arange(B, device=q.device)[:, None]
    for cache, x in ((k_cache, k), (v_cache, v)) if T else ():
        cache.copy_(torch.where(new, x[row, token.clamp(0, T - 1)].to(cache.dtype), cache))
    return q.to(k_cache.dtype)
