"""Input checks that several operations share: one line that names the argument, its value and the remedy.

They run on every call of a hot path, so each is a comparison of shapes or scalars; none looks into a tensor.
"""

import math
from numbers import Real

import torch
from torch import Tensor


class KernelInputError(ValueError):
    """An argument that an operation cannot take."""


def check_tensor(op: str, name: str, value: object, letters: str) -> None:
    """`value` is a floating-point tensor with one dimension per letter of `letters`."""
    if not isinstance(value, Tensor):
        raise KernelInputError(f"{op}: {name} is a {type(value).__name__}, not a tensor; pass a torch tensor {letters}")
    if value.dim() != letters.count(",") + 1:
        raise KernelInputError(
            f"{op}: {name} has shape {tuple(value.shape)}, but it needs the {letters.count(',') + 1} dimensions "
            f"{letters}; a missing one can be added with unsqueeze"
        )
    if not value.is_floating_point():
        raise KernelInputError(f"{op}: {name} is {value.dtype}, not floating point; convert it with .float()")


def check_same(op: str, first: str, a: Tensor, second: str, b: Tensor, dtype: bool = True) -> None:
    """Two tensors lie on one device and, unless told otherwise, have one dtype."""
    if a.device != b.device:
        raise KernelInputError(
            f"{op}: {first} is on {a.device} and {second} on {b.device}; move both to one device with .to()"
        )
    if dtype and a.dtype != b.dtype:
        raise KernelInputError(f"{op}: {first} is {a.dtype} and {second} is {b.dtype}; convert one with .to()")


def check_heads(op: str, q: Tensor, k: Tensor, k_name: str) -> None:
    """Batch, head dimension and head counts of q and k (heads second to last, head dim last) fit together."""
    B, H, D = q.shape[0], q.shape[-2], q.shape[-1]
    Bk, G, Dk = k.shape[0], k.shape[-2], k.shape[-1]
    if Bk != B:
        raise KernelInputError(f"{op}: q has batch {B} and {k_name} has {Bk}; both need the same rows")
    if Dk != D or D < 1:
        raise KernelInputError(f"{op}: q has head dim {D} and {k_name} has {Dk}; both need the same, at least 1")
    if G < 1 or H % G or H < 1:
        raise KernelInputError(
            f"{op}: q has {H} heads and {k_name} has {G}, but each kv head serves the same number of query heads; "
            f"make n_head a multiple of n_kv_head"
        )


def check_window(op: str, window: object) -> None:
    """A window is -1 (full attention) or the number of earlier keys that a query sees."""
    if not isinstance(window, int) or window < -1:
        raise KernelInputError(f"{op}: window is {window!r}; it is an integer, -1 for full attention, else at least 0")


def check_scale(op: str, scale: object) -> None:
    """A scale is None (one over the root of the head dim) or a finite number."""
    if scale is not None and (not isinstance(scale, Real) or not math.isfinite(scale)):
        raise KernelInputError(f"{op}: scale is {scale!r}; it is a finite number, or None for 1/sqrt(head dim)")


def check_rows(op: str, name: str, value: Tensor, rows: int, device: torch.device, floating: bool) -> None:
    """A parameter with one value per row: shape (B,), the kind of dtype asked for, beside the data."""
    if value.dim() != 1 or value.shape[0] != rows:
        raise KernelInputError(
            f"{op}: {name} has shape {tuple(value.shape)}, but a tensor needs one value per row, shape ({rows},)"
        )
    if value.is_floating_point() != floating or value.dtype is torch.bool or value.is_complex():
        wanted = "floating point" if floating else "an integer dtype"
        raise KernelInputError(f"{op}: {name} is {value.dtype}, but it needs {wanted}; convert it with .to()")
    if value.device != device:
        raise KernelInputError(f"{op}: {name} is on {value.device} and the data on {device}; move it with .to()")
