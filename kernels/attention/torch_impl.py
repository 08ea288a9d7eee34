"""Attention through PyTorch's fused scaled_dot_product_attention (SDPA), which keeps no scores in memory.

SDPA can skip the keys that a plain causal mask hides, but not those that a window hides: with a mask it computes every
score and throws most away. So a window is cut into chunks of queries, and each chunk gets the slice of keys it can
see. The same cut serves queries that continue earlier keys, since SDPA's own causal flag is top-left aligned.

B batch, T time, H query heads, G kv heads, D head dim.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.attention import torch_training

# Queries per chunk. On a CPU small chunks waste the fewest scores and calls are cheap (measured in README.md);
# on a GPU each call has to be worth its launch.
CPU_CHUNK = 64
GPU_CHUNK = 512


def attention(q: Tensor, k: Tensor, v: Tensor, window: int, scale: float | None) -> Tensor:
    """Output (B, Tq, H, D); inputs as in `kernels.attention`."""
    if torch_training.fits(q, k, v, window):
        return torch_training.attention(q, k, v, window, scale)
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)  # (B, H or G, T, D), SDPA's order
    Tq, Tk = q.shape[2], k.shape[2]
    grouped = q.shape[1] != k.shape[1]  # SDPA pairs query heads with their kv head itself, without repeating keys
    if window < 0 or window >= Tk - 1:
        window = Tk - 1  # a window that reaches back to the first key is full attention
    if Tq == 1:
        first = Tk - 1 - window
        o = F.scaled_dot_product_attention(q, k[:, :, first:], v[:, :, first:], scale=scale, enable_gqa=grouped)
    elif Tq == Tk == window + 1:
        o = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=grouped)
    else:
        o = _chunked(q, k, v, window, scale, grouped)
    return o.transpose(1, 2)


def _chunked(q: Tensor, k: Tensor, v: Tensor, window: int, scale: float | None, grouped: bool) -> Tensor:
    """Chunks of queries, each against the keys between its first query's oldest key and its last query."""
    Tq, Tk = q.shape[2], k.shape[2]
    if Tq == 0:
        return torch.zeros_like(q)
    size = min(Tq, CPU_CHUNK if q.device.type == "cpu" else GPU_CHUNK)
    # Query i of a chunk sees keys i .. i + window of a slice that starts `window` before the chunk: the same band for
    # every chunk. Near the start of the text the slice is cut short on the left, and so is the band.
    i = torch.arange(size, device=q.device)[:, None]
    j = torch.arange(size + window, device=q.device)
    band = torch.zeros(size, size + window, dtype=q.dtype, device=q.device)
    band = band.masked_fill((j < i) | (j > i + window), -torch.inf)
    outputs = []
    for start in range(0, Tq, size):
        rows = min(size, Tq - start)
        position = start + Tk - Tq
        first = max(0, position - window)
        last = position + rows
        cut = first - (position - window)
        outputs.append(
            F.scaled_dot_product_attention(
                q[:, :, start : start + rows],
                k[:, :, first:last],
                v[:, :, first:last],
                attn_mask=band[:rows, cut : cut + last - first],
                scale=scale,
                enable_gqa=grouped,
            )
        )
    return torch.cat(outputs, 2)
