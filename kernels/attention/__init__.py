"""Causal attention with grouped heads and a sliding window, for training and prefill.

    o[b, i, h] = sum_j softmax_j(scale * q[b, i, h] . k[b, j, h // (H / G)]) * v[b, j, h // (H / G)]

over the keys j that query i sees. Queries are the last Tq of the Tk positions (bottom-right aligned), so query i
stands at position p = i + Tk - Tq and sees 0 <= j <= p; with a window W >= 0 only p - W <= j <= p, W + 1 keys, as
nanochat counts them. scale is 1/sqrt(D) unless given.

B batch, Tq queries, Tk keys, H query heads, G kv heads, D head dim: q (B, Tq, H, D), k and v (B, Tk, G, D).
Source: Vaswani et al. 2017 (attention), Ainslie et al. 2023 (grouped heads), Beltagy et al. 2020 (sliding window).
"""

from torch import Tensor

from kernels import backend
from kernels.attention import reference, torch_impl
from kernels.checks import KernelInputError, check_heads, check_same, check_scale, check_tensor, check_window


def attention(q: Tensor, k: Tensor, v: Tensor, *, window: int = -1, scale: float | None = None) -> Tensor:
    """Attention output (B, Tq, H, D) in q's dtype; differentiable in q, k and v.

    window -1 is full causal attention. Raises KernelInputError (a ValueError) for shapes, dtypes, devices or
    a window that do not fit.
    """
    _check(q, k, v, window, scale)
    if backend.choose("attention", q.device, q.dtype, q.shape).name == "reference":
        return reference.attention(q, k, v, window, scale)
    return torch_impl.attention(q, k, v, window, scale)


def attention_weights(q: Tensor, k: Tensor, *, window: int = -1, scale: float | None = None) -> Tensor:
    """The probabilities (B, H, Tq, Tk) in float32 that `attention` weighs the values with; exactly 0 where masked.

    For looking at a model, not for running it: it holds all Tq x Tk of them. Raises KernelInputError as attention does.
    """
    _check(q, k, k, window, scale)
    return reference.attention_weights(q, k, window, scale).float()


def _check(q: Tensor, k: Tensor, v: Tensor, window: int, scale: float | None) -> None:
    check_tensor("attention", "q", q, "(B, Tq, H, D)")
    check_tensor("attention", "k", k, "(B, Tk, G, D)")
    check_tensor("attention", "v", v, "(B, Tk, G, D)")
    check_same("attention", "q", q, "k", k)
    check_same("attention", "k", k, "v", v)
    if k.shape != v.shape:
        raise KernelInputError(
            f"attention: k has shape {tuple(k.shape)} and v {tuple(v.shape)}; both come from the same tokens and heads"
        )
    check_heads("attention", q, k, "k")
    if k.shape[1] < q.shape[1]:
        raise KernelInputError(
            f"attention: {k.shape[1]} keys for {q.shape[1]} queries, but the queries are the last of the positions; "
            f"pass at least as many keys as queries"
        )
    check_window("attention", window)
    check_scale("attention", scale)
