"""Attention and its peers: PyTorch's fused attention in every backend that is there, with a mask, and FlexAttention.

B batch, T time, H query heads, G kv heads, D head dim, W window.
"""

import functools
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

import kernels
from kernels.attention import reference, torch_impl
from kernels.benchmark_cases import DTYPES, Case, lengths
from kernels.benchmark_subjects import PEER, Contestant, Outputs, Subject, compiled, distance, own, random, step_of
from kernels.decode_attention import reference as decode_reference
from kernels.decode_attention import torch_impl as decode_torch

MASKED = "SDPA masked"
MASK_IN_CALL = "SDPA masked, mask built in the call"  # what nanochat does where it has no FlashAttention
FLASH_FULL = "its kernel knows no window"


def attention(case: Case, device: torch.device) -> Subject:
    """Causal attention, full or with a window."""
    s, dtype = case.sizes, DTYPES[case.dtype]
    B, T, H, G, D, W = (s[letter] for letter in "BTHGDW")
    grad = case.kind != "forward"
    q = random(device, dtype, B, T, H, D, grad=grad)
    k, v = (random(device, dtype, B, T, G, D, seed=seed, grad=grad) for seed in (1, 2))
    do = random(device, dtype, B, T, H, D, seed=3)
    windowed = 0 <= W < T - 1

    def timed(forward: Callable[[], Tensor]) -> Callable[[], Outputs]:
        return step_of(case.kind, forward, (q, k, v), (do,))

    contestants = own(
        case,
        device,
        q,
        timed(lambda: kernels.attention(q, k, v, window=W)),
        timed(lambda: torch_impl.attention(q, k, v, W, None)),
        timed(lambda: reference.attention(q, k, v, W, None)),
    )
    absent = []
    fused = partial(_fused, q, k, v)
    if windowed:
        mask = reference.visible(T, T, W, device)
        contestants += [
            Contestant(MASKED, PEER, timed(partial(fused, attn_mask=mask))),
            Contestant(MASK_IN_CALL, PEER, timed(lambda: fused(attn_mask=reference.visible(T, T, W, device)))),
        ]
    if device.type == "cpu":
        if not windowed:
            contestants.append(Contestant("SDPA causal", PEER, timed(partial(fused, is_causal=True))))
    else:
        for name, kernel in (("SDPA flash", SDPBackend.FLASH_ATTENTION), ("SDPA cuDNN", SDPBackend.CUDNN_ATTENTION)):
            if windowed:
                absent.append((name, FLASH_FULL))
            else:
                contestants.append(Contestant(name, PEER, timed(partial(_in_backend, kernel, fused))))
        flex = timed(_flex(q, k, v, W if windowed else T))
        contestants.append(Contestant("FlexAttention compiled", PEER, flex))
    whole = torch.compile(reference.attention) if device.type == "cuda" else None
    more, missing = compiled(device, lambda: timed(lambda: whole(q, k, v, W, None)))  # type: ignore[misc]
    exact = _exact(case, q, k, v, do)

    def error(outputs: Outputs) -> float:
        heads = (H // G, 1, 1) if case.kind == "backward" else (H // G, H // G, 1, 1)
        return distance([x[:1, :, :count] for x, count in zip(outputs, heads, strict=False)], exact())

    return Subject([*contestants, *more], [*absent, *missing], error)


def _fused(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
    """PyTorch's attention on (B, T, heads, D)."""
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    grouped = q.shape[1] != k.shape[1]
    return F.scaled_dot_product_attention(q, k, v, enable_gqa=grouped, **options).transpose(1, 2)


def _in_backend(kernel: SDPBackend, fused: Callable[..., Tensor]) -> Tensor:
    with sdpa_kernel(kernel):
        return fused(is_causal=True)


def _flex(q: Tensor, k: Tensor, v: Tensor, W: int) -> Callable[[], Tensor]:
    """FlexAttention, compiled, with its block mask made beforehand."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    def seen(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return (j <= i) & (j >= i - W)

    T = q.shape[1]
    blocks = create_block_mask(seen, None, None, T, T, device=str(q.device))
    run = torch.compile(flex_attention)

    def forward() -> Tensor:
        grouped = q.shape[2] != k.shape[2]
        o = run(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), block_mask=blocks, enable_gqa=grouped)
        return o.transpose(1, 2)

    return forward


def _exact(case: Case, q: Tensor, k: Tensor, v: Tensor, do: Tensor) -> Callable[[], Outputs]:
    """The definition in float64 for the first row's first group of heads: groups do not touch each other."""
    group = q.shape[2] // k.shape[2]

    @functools.cache
    def exact() -> Outputs:
        inputs = [x[:1, :, :count].detach().to(torch.float64) for x, count in ((q, group), (k, 1), (v, 1))]
        for x in inputs:
            x.requires_grad_(case.kind != "forward")
        gradient = do[:1, :, :group].to(torch.float64)

        def forward() -> Tensor:
            return reference.attention(inputs[0], inputs[1], inputs[2], case.sizes["W"], None)

        return tuple(x.detach() for x in step_of(case.kind, forward, tuple(inputs), (gradient,))())

    return exact


def decode_attention(case: Case, device: torch.device) -> Subject:
    """One new token per row over its cache; the cache lies (B, G, T, D) as nanochat's does here."""
    s, dtype = case.sizes, DTYPES[case.dtype]
    B, T, H, G, D, W = (s[letter] for letter in "BTHGDW")
    q = random(device, dtype, B, H, D)
    k, v = (random(device, dtype, B, G, T, D, seed=seed).transpose(1, 2) for seed in (1, 2))
    equal = case.kind == "equal lengths"
    lens = torch.tensor(lengths(case), device=device)
    given = T if equal else lens
    windowed = 0 <= W < T - 1
    contestants = own(
        case,
        device,
        q,
        lambda: (kernels.decode_attention(q, k, v, given, window=W),),
        lambda: (decode_torch.decode_attention(q, k, v, given, W, None),),
        lambda: (decode_reference.decode_attention(q, k, v, given, W, None),),
    )
    rows = (q[:, :, None], k.transpose(1, 2), v.transpose(1, 2))  # SDPA's order, one query a row
    fused = partial(F.scaled_dot_product_attention, *rows, enable_gqa=H != G)
    mask = decode_reference.in_use(given, B, T, W, device)[:, None, None]
    contestants.append(Contestant(MASKED, PEER, lambda: (fused(attn_mask=mask)[:, :, 0],)))
    absent = []
    if equal and not windowed:
        contestants.append(Contestant("SDPA", PEER, lambda: (fused()[:, :, 0],)))
    else:
        absent.append(("SDPA", "without a mask it takes whole rows of one length"))
    whole = torch.compile(decode_reference.decode_attention) if device.type == "cuda" else None
    more, missing = compiled(device, lambda: lambda: (whole(q, k, v, given, W, None),))  # type: ignore[misc]

    @functools.cache
    def exact() -> Tensor:
        return decode_reference.decode_attention(q.double(), k.double(), v.double(), given, W, None)

    def error(outputs: Outputs) -> float:
        return distance(outputs, [exact()])

    return Subject([*contestants, *more], [*absent, *missing], error)
