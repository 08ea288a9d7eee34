"""One token per row over its cache, as the formula says: every score, a mask, a softmax. Never waits for the device.

B batch, T time, H query heads, G kv heads, D head dim.
"""

import torch
from torch import Tensor


def in_use(lens: Tensor | int, rows: int, room: int, window: int, device: torch.device) -> Tensor:
    """Which cache entries each row sees, (rows, room) of bool.

    >>> in_use(torch.tensor([0, 2, 9]), 3, 4, 1, torch.device("cpu")).int().tolist()
    [[0, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1]]
    """
    if isinstance(lens, int):
        lens = torch.full((rows,), lens, device=device)
    end = lens.to(torch.int64).clamp(0, room)[:, None]
    entry = torch.arange(room, device=device)
    seen = entry < end
    return seen if window < 0 else seen & (entry >= end - 1 - window)


def decode_attention(
    q: Tensor, k_cache: Tensor, v_cache: Tensor, lens: Tensor | int, window: int, scale: float | None
) -> Tensor:
    """Output (B, H, D) in q's dtype; float64 inputs are computed in float64, all else in float32."""
    B, H, D = q.shape
    wide = torch.promote_types(q.dtype, torch.float32)
    seen = in_use(lens, B, k_cache.shape[1], window, q.device)
    # NaN times a weight of 0 is NaN, so entries that are not in use are replaced, not just masked.
    used = seen[:, :, None, None]
    k = torch.where(used, k_cache, 0).to(wide).transpose(1, 2)  # (B, G, T, D)
    v = torch.where(used, v_cache, 0).to(wide).transpose(1, 2)
    queries = q.to(wide).reshape(B, k.shape[1], -1, D)  # the query heads of one kv head side by side
    scores = (queries @ k.mT) * (D**-0.5 if scale is None else scale)
    scores = scores.masked_fill(~seen[:, None, None, :], -torch.inf)
    # A row that sees nothing has no largest score and would give NaN: its weights are zeros by definition.
    weights = scores.softmax(-1).masked_fill(~seen.any(-1)[:, None, None, None], 0)
    return (weights @ v).reshape(B, H, D).to(q.dtype)
