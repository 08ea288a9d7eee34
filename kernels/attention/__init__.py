"""Causal attention with grouped heads and a sliding window, for training and prefill.

    o[b, i, h] = sum_j softmax_j(scale * q[b, i, h] . k[b, j, h // (H / G)]) * v[b, j, h // (H / G)]

over the keys j that query i sees. Queries are the last Tq of the Tk positions (bottom-right aligned), so query i
stands at position p = i + Tk - Tq and sees 0 <= j <= p; with a window W >= 0 only p - W <= j <= p, W + 1 keys, as
nanochat counts them. scale is 1/sqrt(D) unless given.

B batch, Tq queries, Tk keys, H query heads, G kv heads, D head dim: q (B, Tq, H, D), k and v (B, Tk, G, D).
Source: Vaswani et al. 2017 (attention), Ainslie et al. 2023 (grouped heads), Beltagy et al. 2020 (sliding window).
"""

from typing import Any

import torch
from torch import Tensor

from kernels import backend
from kernels.attention import reference, torch_impl
from kernels.checks import KernelInputError, check_heads, check_same, check_scale, check_tensor, check_window


def attention(q: Tensor, k: Tensor, v: Tensor, *, window: int = -1, scale: float | None = None) -> Tensor:
    """Attention output (B, Tq, H, D) in q's dtype; differentiable in q, k and v.

    window -1 is full causal attention. The Triton kernels are differentiable once. Raises KernelInputError (a
    ValueError) for shapes, dtypes, devices or a window that do not fit.
    """
    _check(q, k, v, window, scale)
    name = backend.choose("attention", q.device, q.dtype, q.shape).name
    if name == "torch":
        return torch_impl.attention(q, k, v, window, scale)
    if name == "reference":
        return reference.attention(q, k, v, window, scale)
    return _triton(q, k, v, window, q.shape[-1] ** -0.5 if scale is None else float(scale))[0]


def attention_weights(q: Tensor, k: Tensor, *, window: int = -1, scale: float | None = None) -> Tensor:
    """The probabilities (B, H, Tq, Tk) in float32 that `attention` weighs the values with; exactly 0 where masked.

    For looking at a model, not for running it: it holds all Tq x Tk of them. Raises KernelInputError as attention does.
    """
    _check(q, k, k, window, scale)
    return reference.attention_weights(q, k, window, scale).float()


@torch.library.custom_op("nanochat::attention", mutates_args=())
def _triton(q: Tensor, k: Tensor, v: Tensor, window: int, scale: float) -> tuple[Tensor, Tensor]:
    """The Triton kernel as one operation of PyTorch: o, and the logarithms to base 2 of the sums, (B, G, Tq H / G)."""
    return _implementation(q).forward(q, k, v, window, scale)


@_triton.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, window: int, scale: float) -> tuple[Tensor, Tensor]:
    sums = q.new_empty((q.shape[0], k.shape[2], q.shape[1] * (q.shape[2] // k.shape[2])), dtype=torch.float32)
    return q.new_empty(q.shape), sums


@torch.library.custom_op("nanochat::attention_backward", mutates_args=())
def _triton_backward(
    do: Tensor, q: Tensor, k: Tensor, v: Tensor, o: Tensor, lse: Tensor, window: int, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of q, k and v."""
    return _implementation(q).backward(do, q, k, v, o, lse, window, scale)


@_triton_backward.register_fake
def _(
    do: Tensor, q: Tensor, k: Tensor, v: Tensor, o: Tensor, lse: Tensor, window: int, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, ctx.window, ctx.scale = inputs
    ctx.save_for_backward(q, k, v, *output)


def _gradients(ctx: Any, do: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    return *_triton_backward(do, *ctx.saved_tensors, ctx.window, ctx.scale), None, None


_triton.register_autograd(_gradients, setup_context=_keep)


def _implementation(q: Tensor) -> Any:
    return backend.triton_impl("attention", "triton" if q.is_cuda else "interpret")


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
