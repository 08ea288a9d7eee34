"""Sampling as its definition says (see __init__.py), for all rows at once, with one full sort.

It never waits for the device, so it is also the path of GPUs without Triton and of traced graphs. float64 logits are
sampled in float64, with the same noise words.

B batch, V vocabulary; parameters become columns (B, 1) or (1, 1).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from kernels.sample import philox

COLDEST = 2.0**-20  # below this temperature the draw is greedy: what it would still tell apart is rounding


class SampleResult(NamedTuple):
    """One drawn token per row."""

    token: Tensor  # (B,) int64; -1 where the row has no distribution
    logprob: Tensor  # (B,) float32, of the token in the model's own distribution
    n_kept: Tensor  # (B,) int64, tokens that the filters left


def sample(
    logits: Tensor,
    temperature: float | Tensor,
    top_k: int | Tensor | None,
    top_p: float | Tensor | None,
    min_p: float | Tensor | None,
    seed: int | Tensor,
    step: int | Tensor,
    softcap: float,
) -> SampleResult:
    """Draw one token per row of logits (B, V); parameters as in `kernels.sample`."""
    dtype = torch.promote_types(logits.dtype, torch.float32)
    x = logits.to(dtype)
    if softcap > 0:
        x = softcap * torch.tanh(x / softcap)
    x, peak = _share_infinity(x)
    bad = peak.isnan() | (peak == -torch.inf)  # (B, 1)
    logprobs = x.log_softmax(-1)
    token = x.argmax(-1, keepdim=True)  # the first of equal maxima
    n_kept = torch.ones_like(token)

    if isinstance(temperature, Tensor) or temperature >= COLDEST:
        T = _column(temperature, dtype, x)
        cold = T < COLDEST
        z, z_peak = _share_infinity(x / torch.where(cold, 1, T))
        threshold = _threshold(z, z_peak, top_k, top_p, min_p)
        kept = (z >= threshold) & (z > -torch.inf)
        noise = philox.gumbel(_column(seed, torch.int64, x), _column(step, torch.int64, x), x.shape[1], dtype)
        drawn = torch.where(kept, z + noise, -torch.inf).argmax(-1, keepdim=True)
        token = torch.where(cold, token, drawn)
        n_kept = torch.where(cold, n_kept, kept.sum(-1, keepdim=True))
        bad = bad | _out_of_range(temperature, top_k, top_p, min_p, x)

    logprob = logprobs.gather(-1, token).to(torch.float32)
    return SampleResult(
        token.masked_fill(bad, -1)[:, 0],
        logprob.masked_fill(bad, torch.nan)[:, 0],
        n_kept.masked_fill(bad, 0)[:, 0],
    )


def _threshold(
    z: Tensor, peak: Tensor, top_k: int | Tensor | None, top_p: float | Tensor | None, min_p: float | Tensor | None
) -> Tensor:
    """The lowest z that the filters keep, (B, 1)."""
    V = z.shape[1]
    threshold = torch.full_like(peak, -torch.inf)
    if top_k is None and top_p is None and min_p is None:
        return threshold
    descending = z.sort(-1, descending=True).values
    if top_k is not None:
        k = _column(top_k, torch.int64, z).expand(len(z), 1)
        off = (k <= 0) | (k >= V)
        kth = descending.gather(-1, (k - 1).clamp(0, V - 1))
        threshold = torch.where(off, threshold, kth)
    if top_p is not None:
        p = _column(top_p, torch.float64, z)
        mass = (descending - peak).exp().to(torch.float64).masked_fill(descending < threshold, 0).cumsum(-1)
        place = (mass < p * mass[:, -1:]).sum(-1, keepdim=True).clamp(max=V - 1)
        threshold = torch.where(p < 1, torch.maximum(threshold, descending.gather(-1, place)), threshold)
    if min_p is not None:
        lowest = peak + _column(min_p, torch.float64, z).log().to(z.dtype)
        threshold = torch.maximum(threshold, lowest)
    return threshold


def _share_infinity(x: Tensor) -> tuple[Tensor, Tensor]:
    """(x, max x), where rows that hold +inf become 0 there and -inf elsewhere: the limit of ever larger logits."""
    peak = x.amax(-1, keepdim=True)
    over = peak == torch.inf
    x = torch.where(over, torch.where(x == torch.inf, 0, -torch.inf), x)
    return x, torch.where(over, 0, peak)


def _column(value: float | Tensor, dtype: torch.dtype, like: Tensor) -> Tensor:
    """A parameter as (B, 1), or (1, 1) where it is one number for all rows."""
    if isinstance(value, Tensor):
        return value.to(dtype)[:, None]
    if dtype is torch.int64 and value >= 2**63:  # a seed's 64 bits, as int64 holds them
        value -= 2**64
    return torch.full((1, 1), value, dtype=dtype, device=like.device)


def _out_of_range(
    temperature: float | Tensor,
    top_k: int | Tensor | None,
    top_p: float | Tensor | None,
    min_p: float | Tensor | None,
    like: Tensor,
) -> Tensor:
    """Rows (B, 1) with a parameter that no distribution belongs to. Numbers and CPU tensors were checked before."""
    bad = torch.zeros((1, 1), dtype=torch.bool, device=like.device)
    if isinstance(temperature, Tensor):
        bad = bad | ~((temperature >= 0) & (temperature < torch.inf))[:, None]
    if isinstance(top_k, Tensor):
        bad = bad | (top_k < 0)[:, None]
    if isinstance(top_p, Tensor):
        bad = bad | ~((top_p > 0) & (top_p <= 1))[:, None]
    if isinstance(min_p, Tensor):
        bad = bad | ~((min_p >= 0) & (min_p <= 1))[:, None]
    return bad
