"""Attention for training on a CPU in half precision: plain products over the pairs that a query sees.

There PyTorch's fused attention is slower in bfloat16 than in float32, most of all its gradient, and the products alone
are twice as fast. At the short contexts that a CPU trains on the probabilities fit in memory, and a chunk of queries
at a time, each against the slice of keys it can see, skips most of the pairs that a mask would hide. With p the
probabilities and s the scale:

    p = softmax(s q k^T)    o = p v          dv = p^T do    dp = do v^T
    dS = p (dp - sum_j(p dp))                dq = s dS k    dk = s dS^T q

B batch, T time, H query heads, G kv heads, r = H / G heads of a group, D head dim.
"""

import functools
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK = 64  # queries; measured in README.md
SAVED_BYTES = 2**26  # of probabilities in one call: beyond, PyTorch's fused attention, which saves none


def fits(q: Tensor, k: Tensor, v: Tensor, window: int) -> bool:
    """Whether `attention` is the path for these: they train, half wide, on a CPU, and their probabilities fit."""
    if q.device.type != "cpu" or q.dtype.itemsize != 2 or not torch.is_grad_enabled() or torch.compiler.is_compiling():
        return False
    B, T, H, _ = q.shape
    pairs = B * H * sum((stop - start) * (stop - first) for start, stop, first in _chunks(T, window))
    trains = q.requires_grad or k.requires_grad or v.requires_grad
    return trains and k.shape[1] == T and 0 < pairs * q.element_size() <= SAVED_BYTES


def attention(q: Tensor, k: Tensor, v: Tensor, window: int, scale: float | None) -> Tensor:
    """Output (B, T, H, D) of q (B, T, H, D), k and v (B, T, G, D); differentiable once. window is -1 or at least 0."""
    return _Attention.apply(q, k, v, window, q.shape[-1] ** -0.5 if scale is None else scale)


def _chunks(T: int, window: int) -> list[tuple[int, int, int]]:
    """(first query, end of queries and of keys, first key) of each chunk."""
    starts = range(0, T, CHUNK)
    return [(start, min(start + CHUNK, T), max(0, start - window) if window >= 0 else 0) for start in starts]


@functools.lru_cache(maxsize=256)  # every step of a run asks for the same few
def _mask(start: int, stop: int, first: int, window: int, r: int, dtype: torch.dtype) -> Tensor:
    """0 where a query sees a key and -inf where not, (r * queries, keys)."""
    i, j = torch.arange(start, stop)[:, None], torch.arange(first, stop)
    hidden = (j > i) | (j < i - window) if window >= 0 else j > i
    return torch.zeros(hidden.shape, dtype=dtype).masked_fill_(hidden, -torch.inf).repeat(r, 1)


def _by_head(x: Tensor, G: int) -> Tensor:
    """(B, T, heads, D) -> (B * G, heads / G, T, D), the order in which products of whole heads are fast."""
    B, T, heads, D = x.shape
    return x.transpose(1, 2).reshape(B * G, heads // G, T, D)


def _by_time(x: Tensor, B: int) -> Tensor:
    """The way back, a view: (B * G, r, T, D) -> (B, T, heads, D)."""
    return x.reshape(B, -1, *x.shape[2:]).transpose(1, 2)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, window: int, scale: float) -> Tensor:
        B, T, H, D = q.shape
        G = k.shape[2]
        q, k, v = _by_head(q, G), _by_head(k, G).squeeze(1), _by_head(v, G).squeeze(1)
        wide = torch.promote_types(q.dtype, torch.float32)  # scores rounded to half precision would move p by percents
        wide_q, wide_k = q.to(wide) * scale, k.to(wide)
        o = torch.empty_like(q)  # (B G, r, T, D)
        saved = []
        for start, stop, first in _chunks(T, window):
            rows = wide_q[:, :, start:stop].reshape(B * G, -1, D)  # the r heads of a group stand below each other
            scores = torch.bmm(rows, wide_k[:, first:stop].mT)  # (B G, r queries, keys)
            edge = start if window < 0 or stop <= window + 1 else first  # every query sees the keys before it
            scores[:, :, edge - first :] += _mask(start, stop, edge, window, H // G, wide)
            p = torch.softmax(scores, -1).to(q.dtype)
            o[:, :, start:stop] = torch.bmm(p, v[:, first:stop]).view(B * G, -1, stop - start, D)
            saved.append(p)
        ctx.save_for_backward(q, k, v, *saved)
        ctx.window, ctx.scale, ctx.batch = window, scale, B
        return _by_time(o, B)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, *saved = ctx.saved_tensors
        groups, _, T, D = q.shape
        do_all = _by_head(gradient, groups // ctx.batch)
        dq, dk, dv = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for (start, stop, first), p in zip(_chunks(T, ctx.window), saved, strict=True):
            rows, do = (x[:, :, start:stop].reshape(groups, -1, D) for x in (q, do_all))
            dp = torch.bmm(do, v[:, first:stop].mT)
            ds = torch._softmax_backward_data(dp, p, -1, p.dtype)
            dv[:, first:stop] += torch.bmm(p.mT, do)
            dk[:, first:stop] += torch.bmm(ds.mT, rows)
            dq[:, :, start:stop] = torch.bmm(ds, k[:, first:stop]).view(groups, -1, stop - start, D)
        dq *= ctx.scale
        dk *= ctx.scale
        return (
            _by_time(dq, ctx.batch),
            _by_time(dk.unsqueeze(1), ctx.batch),
            _by_time(dv.unsqueeze(1), ctx.batch),
            None,
            None,
        )
