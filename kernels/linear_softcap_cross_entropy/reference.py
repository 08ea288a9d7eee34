"""The head and its loss as their formula says, all logits in memory: the definition that others are tested against.

N rows (tokens), C channels, V vocabulary.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def losses(x: Tensor, w: Tensor, targets: Tensor, softcap: float, ignore_index: int) -> Tensor:
    """Cross-entropy (N,) in nats, in float32 or, for float64 inputs, in float64; 0 where the target is ignored."""
    z = x @ w.to(x.dtype).t()  # (N, V)
    z = z.to(torch.promote_types(x.dtype, torch.float32))
    logits = softcap * torch.tanh(z / softcap)
    return F.cross_entropy(logits, targets, ignore_index=ignore_index, reduction="none")


def mean(total: Tensor, count: Tensor) -> Tensor:
    """total / count, and NaN where nothing counts, with a gradient of zero there."""
    return (total / count.clamp(min=1)).masked_fill(count == 0, torch.nan)
