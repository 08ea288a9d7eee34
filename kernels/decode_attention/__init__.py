"""Attention of one new token per row over the row's key-value cache.

    o[b, h] = sum_j softmax_j(scale * q[b, h] . k_cache[b, j, h // (H / G)]) * v_cache[b, j, h // (H / G)]

over 0 <= j < lens[b], the new token's own key included; with a window W >= 0 over the last W + 1 of them. lens is
clamped to 0 .. Tmax, and a row with nothing to attend to gives zeros. Cache entries that a row does not see are never
used: they may hold anything, NaN included.

B batch, H query heads, G kv heads, D head dim, Tmax room in the cache: q (B, H, D), caches (B, Tmax, G, D) with any
strides, lens (B,). Source: Vaswani et al. 2017; the cache is Shazeer 2019, section 2.4.
"""

import torch
from torch import Tensor

from kernels import backend
from kernels.checks import (
    KernelInputError,
    check_heads,
    check_rows,
    check_same,
    check_scale,
    check_tensor,
    check_window,
)
from kernels.decode_attention import reference, torch_impl


def decode_attention(
    q: Tensor, k_cache: Tensor, v_cache: Tensor, lens: Tensor | int, *, window: int = -1, scale: float | None = None
) -> Tensor:
    """Attention output (B, H, D) in q's dtype.

    lens: keys in use per row, an integer tensor (B,) on q's device, or one int for all rows. On a GPU its values are
    never read back to the host. The Triton kernel has no gradient; the PyTorch path and the definition have one.
    Raises KernelInputError (a ValueError) for shapes, dtypes, devices or a window that do not fit.
    """
    _check(q, k_cache, v_cache, window, scale)
    if isinstance(lens, Tensor):
        check_rows("decode_attention", "lens", lens, q.shape[0], q.device, floating=False)
    elif not isinstance(lens, int):
        raise KernelInputError(f"decode_attention: lens is {lens!r}; pass an integer tensor (B,) or one int")
    name = backend.choose("decode_attention", q.device, q.dtype, q.shape).name
    if name == "torch":
        return torch_impl.decode_attention(q, k_cache, v_cache, lens, window, scale)
    if name == "reference":
        return reference.decode_attention(q, k_cache, v_cache, lens, window, scale)
    if isinstance(lens, Tensor):
        return _triton(q, k_cache, v_cache, lens, 0, window, scale)
    return _triton(q, k_cache, v_cache, None, lens, window, scale)


@torch.library.custom_op("nanochat::decode_attention", mutates_args=())
def _triton(
    q: Tensor, k_cache: Tensor, v_cache: Tensor, lens: Tensor | None, length: int, window: int, scale: float | None
) -> Tensor:
    """The Triton kernels as one operation of PyTorch; `length` counts where `lens` is None."""
    implementation = backend.triton_impl("decode_attention", "triton" if q.is_cuda else "interpret")
    return implementation.decode_attention(q, k_cache, v_cache, lens, length, window, scale)


@_triton.register_fake
def _(
    q: Tensor, k_cache: Tensor, v_cache: Tensor, lens: Tensor | None, length: int, window: int, scale: float | None
) -> Tensor:
    return q.new_empty(q.shape)


def _check(q: Tensor, k_cache: Tensor, v_cache: Tensor, window: int, scale: float | None) -> None:
    check_tensor("decode_attention", "q", q, "(B, H, D)")
    check_tensor("decode_attention", "k_cache", k_cache, "(B, Tmax, G, D)")
    check_tensor("decode_attention", "v_cache", v_cache, "(B, Tmax, G, D)")
    check_same("decode_attention", "q", q, "k_cache", k_cache)
    check_same("decode_attention", "k_cache", k_cache, "v_cache", v_cache)
    if k_cache.shape != v_cache.shape:
        raise KernelInputError(
            f"decode_attention: k_cache has shape {tuple(k_cache.shape)} and v_cache {tuple(v_cache.shape)}; "
            f"both caches need one shape"
        )
    check_heads("decode_attention", q, k_cache, "k_cache")
    check_window("decode_attention", window)
    check_scale("decode_attention", scale)
