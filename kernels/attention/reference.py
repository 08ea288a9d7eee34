"""Attention as its formula says, all scores in memory. The definition that every other path is tested against.

B batch, Tq queries, Tk keys, H query heads, G kv heads, D head dim.
"""

import torch
from torch import Tensor


def visible(Tq: int, Tk: int, window: int, device: torch.device) -> Tensor:
    """Which key each query sees, (Tq, Tk) of bool.

    >>> visible(2, 4, 1, torch.device("cpu")).int().tolist()
    [[0, 1, 1, 0], [0, 0, 1, 1]]
    """
    position = torch.arange(Tk - Tq, Tk, device=device)[:, None]
    key = torch.arange(Tk, device=device)
    seen = key <= position
    return seen if window < 0 else seen & (key >= position - window)


def attention_weights(q: Tensor, k: Tensor, window: int, scale: float | None) -> Tensor:
    """Probabilities (B, H, Tq, Tk), in float32 or, for float64 inputs, in float64."""
    wide = torch.promote_types(q.dtype, torch.float32)  # scores of half precision would be rounded before the softmax
    group = q.shape[2] // k.shape[2]
    q = q.to(wide).transpose(1, 2)  # (B, H, Tq, D)
    k = k.to(wide).transpose(1, 2).repeat_interleave(group, 1)  # (B, H, Tk, D)
    scores = (q @ k.mT) * (q.shape[-1] ** -0.5 if scale is None else scale)
    hidden = ~visible(q.shape[2], k.shape[2], window, q.device)
    return scores.masked_fill(hidden, -torch.inf).softmax(-1)


def attention(q: Tensor, k: Tensor, v: Tensor, window: int, scale: float | None) -> Tensor:
    """Output (B, Tq, H, D) in q's dtype."""
    weights = attention_weights(q, k, window, scale)
    v = v.to(weights.dtype).transpose(1, 2).repeat_interleave(q.shape[2] // v.shape[2], 1)
    return (weights @ v).transpose(1, 2).to(q.dtype)
