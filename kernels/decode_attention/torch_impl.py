"""One token per row over its cache through SDPA.

At batch 1 a small model spends its time on calls, not on arithmetic, so a CPU takes the shortest road: it reads
the lengths, slices the cache to what is in use (a view, no mask, no copy) and calls SDPA once for all rows of one
length. Query heads that share a kv head become SDPA's query axis, so keys are not repeated.

A GPU must not wait for a length that lies in a tensor, and a traced graph has none: there the whole cache is masked.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.decode_attention.reference import in_use


def decode_attention(
    q: Tensor, k_cache: Tensor, v_cache: Tensor, lens: Tensor | int, window: int, scale: float | None
) -> Tensor:
    """Output (B, H, D); inputs as in `kernels.decode_attention`."""
    if isinstance(lens, int) and not torch.compiler.is_compiling():  # nothing to wait for, on any device
        return _sliced(q, k_cache, v_cache, lens, window, scale)
    if isinstance(lens, int) or q.device.type != "cpu" or torch.compiler.is_compiling():
        return _masked(q, k_cache, v_cache, lens, window, scale)
    lengths = lens.tolist()
    if lengths and lengths.count(lengths[0]) == len(lengths):
        return _sliced(q, k_cache, v_cache, lengths[0], window, scale)
    o = torch.zeros_like(q)
    for row, length in enumerate(lengths):
        one = slice(row, row + 1)
        o[one] = _sliced(q[one], k_cache[one], v_cache[one], length, window, scale)
    return o


def _sliced(q: Tensor, k_cache: Tensor, v_cache: Tensor, length: int, window: int, scale: float | None) -> Tensor:
    """All rows hold `length` keys: attend to that slice of the cache."""
    B, H, D = q.shape
    end = min(length, k_cache.shape[1])
    if end <= 0:
        return torch.zeros_like(q)
    first = max(0, end - 1 - window) if window >= 0 else 0
    # narrow and not an index: this runs once per layer and token, and indexing takes twice as long to say the same.
    k = k_cache.narrow(1, first, end - first).transpose(1, 2)  # (B, G, T, D)
    v = v_cache.narrow(1, first, end - first).transpose(1, 2)
    o = F.scaled_dot_product_attention(q.reshape(B, k.shape[1], -1, D), k, v, scale=scale)
    return o.reshape(B, H, D)


def _masked(
    q: Tensor, k_cache: Tensor, v_cache: Tensor, lens: Tensor | int, window: int, scale: float | None
) -> Tensor:
    """The whole cache with a mask; entries not in use are replaced, because NaN would pass through a weight of 0."""
    B, H, D = q.shape
    if k_cache.shape[1] == 0:
        return torch.zeros_like(q)
    seen = in_use(lens, B, k_cache.shape[1], window, q.device)
    used = seen[:, :, None, None]
    k = torch.where(used, k_cache, 0).transpose(1, 2)
    v = torch.where(used, v_cache, 0).transpose(1, 2)
    some = seen.any(-1)
    # A row that sees nothing is let see everything (zeros by now), since a softmax over nothing is NaN.
    mask = (seen | ~some[:, None])[:, None, None, :]
    o = F.scaled_dot_product_attention(q.reshape(B, k.shape[1], -1, D), k, v, attn_mask=mask, scale=scale)
    return torch.where(some[:, None, None], o.reshape(B, H, D), 0)
