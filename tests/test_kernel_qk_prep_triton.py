"""qk_prep's Triton kernels: in the interpreter on a CPU, as they are on a GPU. Needs no hypothesis.

python -m pytest tests/test_kernel_qk_prep_triton.py
"""

import itertools
import math

import pytest
import torch
from torch import Tensor

from tests.kernel_support import DEVICE, DTYPES, ON_GPU, poison, use_triton, wide

pytest.importorskip("triton", reason="the kernels need Triton, which is there for Linux alone")

from kernels import KernelInputError, decode_attention, qk_prep, qk_prep_append
from kernels.qk_prep import _append, _backward, _forward, reference, triton_impl

__all__ = ["use_triton"]
pytestmark = pytest.mark.usefixtures("use_triton")

TOLERANCE = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}  # an output is rounded once


def tables(T: int, D: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """cos and sin (T, D/2), nanochat's angles from position 3 on."""
    angles = torch.arange(3, T + 3)[:, None] * 1e5 ** -(torch.arange(0, D, 2) / D)
    return angles.cos().to(DEVICE, dtype), angles.sin().to(DEVICE, dtype)


def inputs(B: int, T: int, H: int, G: int, D: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
    """q, k and v."""
    generator = torch.Generator().manual_seed(B * 1000003 + T * 101 + H * 11 + G * 3 + D)
    return tuple(torch.randn(B, T, heads, D, generator=generator).to(DEVICE, dtype) for heads in (H, G, G))


def compare(got: tuple[Tensor, ...], expected: tuple[Tensor, ...], dtype: torch.dtype) -> None:
    for a, b in zip(got, expected, strict=True):
        assert a.dtype == dtype
        torch.testing.assert_close(a.double(), b, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


@pytest.mark.parametrize(
    ("B", "T", "H", "G", "D"),
    [(1, 1, 1, 1, 32), (2, 5, 4, 2, 32), (1, 3, 3, 3, 64), (2, 2, 5, 1, 128), (3, 1, 10, 10, 32)],
)
@pytest.mark.parametrize("gain", [1.2, 0.0, -2.0])
def test_output_and_gradient_equal_the_definition(B: int, T: int, H: int, G: int, D: int, gain: float) -> None:
    q, k, _ = inputs(B, T, H, G, D)
    cos, sin = tables(T, D)
    exact = [x.requires_grad_() for x in wide(q, k)]
    expected = reference.qk_prep(*exact, *wide(cos, sin), gain)
    q, k = q.requires_grad_(), k.requires_grad_()
    d_out = [torch.randn_like(x) for x in (q, k)]
    with poison():
        got = qk_prep(q, k, cos, sin, gain)
        gradients = torch.autograd.grad(got, (q, k), d_out)
    compare(got, expected, torch.float32)
    compare(gradients, torch.autograd.grad(expected, exact, wide(*d_out)), torch.float32)


@pytest.mark.parametrize(
    ("dtype", "table"), [pair for pair in itertools.product(DTYPES, DTYPES) if pair != (torch.float32,) * 2]
)
def test_dtypes_promote_as_plain_products_do(dtype: torch.dtype, table: torch.dtype) -> None:
    q, k, _ = inputs(1, 3, 2, 1, 32, dtype)
    cos, sin = tables(3, 32, table)
    result = torch.promote_types(dtype, table)
    exact = [x.requires_grad_() for x in wide(q, k)]
    expected = reference.qk_prep(*exact, *wide(cos, sin), 1.15)
    q, k = q.requires_grad_(), k.requires_grad_()
    got = qk_prep(q, k, cos, sin, 1.15)
    compare(got, expected, result)
    d_out = [torch.randn_like(x) for x in got]
    gradients = torch.autograd.grad(got, (q, k), d_out)
    compare(gradients, torch.autograd.grad(expected, exact, wide(*d_out)), dtype)
    assert qk_prep(q, k, cos, sin.float())[0].dtype == torch.float32


def test_every_table_shape_and_any_strides() -> None:
    q, k, v = inputs(2, 3, 4, 2, 32)
    cos, sin = tables(3, 32)
    expected = qk_prep(q, k, cos, sin, 1.2)
    together = torch.cat([q, k, v], 2)  # one projection gave all three
    views = together[:, :, :4], together[:, :, 4:6]
    sparse = torch.stack([q, q * math.nan], -1)[..., 0], k.transpose(1, 2).contiguous().transpose(1, 2)
    shapes = (
        (cos, sin),
        (cos.mT.contiguous().mT, torch.stack([sin, sin], -1)[..., 1]),
        (cos[None, :, None], sin[None, :, None]),
        (cos[None, :, None].expand(2, -1, -1, -1), sin[None, :, None].repeat(2, 1, 1, 1)),
    )
    for heads, (c, s) in ((views, shapes[0]), (sparse, shapes[2]), *(((q, k), pair) for pair in shapes[1:])):
        for a, b in zip(qk_prep(*heads, c, s, 1.2), expected, strict=True):
            torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-6)


def test_rows_at_their_own_positions_and_in_any_batch() -> None:
    q, k, _ = inputs(3, 2, 2, 1, 32)
    cos, sin = tables(50, 32)
    at = torch.tensor([[7, 8], [41, 42], [0, 1]], device=DEVICE)
    together = qk_prep(q, k, cos[at][:, :, None], sin[at][:, :, None], 1.2)
    for row in range(3):
        one = slice(row, row + 1)
        for a, b in zip(qk_prep(q[one], k[one], cos[at[row]], sin[at[row]], 1.2), together, strict=True):
            assert a.equal(b[one])


def test_gradients_of_any_strides_or_of_one_output_alone() -> None:
    q, k, _ = (x.requires_grad_() for x in inputs(2, 3, 4, 2, 32))
    cos, sin = tables(3, 32)
    d_q, d_k = torch.randn_like(q), torch.randn_like(k)
    got = qk_prep(q, k, cos, sin, 1.2)
    expected = torch.autograd.grad(got, (q, k), (d_q, d_k), retain_graph=True)
    shuffled = d_q.transpose(1, 2).contiguous().transpose(1, 2), d_k.flip(1).flip(1).mT.contiguous().mT
    for a, b in zip(torch.autograd.grad(got, (q, k), shuffled, retain_graph=True), expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-6)
    alone, nothing = torch.autograd.grad(got[0], (q, k), d_q, retain_graph=True)
    assert alone.equal(expected[0])
    assert (nothing == 0).all()
    ones = torch.autograd.grad(got[1].sum(), k)[0]  # a gradient without strides
    assert ones.isfinite().all()
    assert ones.any()


def test_zeros_and_nan() -> None:
    q, k, _ = inputs(1, 3, 2, 1, 32)
    q[0, 0] = 0
    q[0, 1, 1] = math.nan
    q.requires_grad_()
    got, keys = qk_prep(q, k, *tables(3, 32), 1.2)
    gradient = torch.autograd.grad(got.sum() + keys.sum(), q)[0]
    assert (got[0, 0] == 0).all()
    assert got[0, 1, 1].isnan().all()
    assert gradient[0, 1, 1].isnan().all()
    clean = torch.ones(3, 2, dtype=torch.bool, device=DEVICE)
    clean[1, 1] = False
    assert got[0, clean].isfinite().all()
    assert gradient[0, clean].isfinite().all()


def test_nothing_in_nothing_out() -> None:
    for B, T in ((0, 3), (2, 0)):
        q, k, v = (x.requires_grad_() for x in inputs(B, T, 2, 1, 32))
        got = qk_prep(q, k, *tables(T, 32))
        assert got[0].shape == q.shape
        assert torch.autograd.grad(got[0].sum() + got[1].sum(), q)[0].shape == q.shape
        cache = torch.zeros(B, 4, 1, 32, device=DEVICE)
        with torch.no_grad():
            assert qk_prep_append(q, k, v, *tables(T, 32), 1.2, cache, cache.clone(), 0).shape == q.shape


@pytest.mark.parametrize("positions", [2, [0, 5], [-1, 6], [-9, 2**40]])
@pytest.mark.parametrize("half", [False, True])
def test_appending_prepares_and_stores(positions: int | list[int], half: bool) -> None:
    q, k, v = inputs(2, 2, 4, 2, 32)
    cos, sin = tables(2, 32)
    dtype = torch.float16 if half else torch.float32
    memory = torch.randn(2, 4, 7, 32, device=DEVICE, dtype=dtype)  # as an engine keeps it: keys, values, head by head
    caches = memory.transpose(1, 2).split(2, dim=2)
    exact = wide(*caches)
    at = positions if isinstance(positions, int) else torch.tensor(positions, device=DEVICE)
    expected = reference.qk_prep_append(*wide(q, k, v, cos, sin), 1.2, *exact, at)
    with poison():
        got = qk_prep_append(q, k, v, cos, sin, 1.2, *caches, at)
    compare((got, *caches), (expected, *exact), dtype)


def test_appending_then_attending() -> None:
    q, k, v = inputs(2, 1, 4, 2, 32)
    cos, sin = tables(1, 32)
    caches = [torch.randn(2, 6, 2, 32, device=DEVICE) for _ in range(2)]
    places = torch.tensor([5, 2], device=DEVICE)
    before = [cache.clone() for cache in caches]
    queries = qk_prep_append(q, k, v, cos, sin, 1.2, *caches, places)
    plain_q, plain_k = qk_prep(q, k, cos, sin, 1.2)
    for cache, x in zip(before, (plain_k, v), strict=True):
        cache[[0, 1], places] = x[:, 0]
    expected = decode_attention(plain_q[:, 0], *before, places + 1)
    assert decode_attention(queries[:, 0], *caches, places + 1).equal(expected)


def test_they_are_operations_of_pytorch() -> None:
    q, k, v = inputs(1, 3, 2, 1, 32)
    cos, sin = tables(3, 32)
    torch.library.opcheck(_forward, (q.clone().requires_grad_(), k.clone().requires_grad_(), cos, sin, 1.2))
    q_out, k_out, roots = _forward(q, k, cos, sin, 1.2)
    torch.library.opcheck(_backward, (q, k, q_out, k_out, roots, cos, sin, 1.2, torch.float32))
    caches = [torch.zeros(1, 4, 1, 32, device=DEVICE) for _ in range(2)]
    torch.library.opcheck(_append, (q, k, v, cos, sin, 1.2, *caches, torch.tensor([1], device=DEVICE), 0))


def test_compiles_as_one_graph() -> None:
    q, k, v = inputs(1, 3, 2, 1, 32)
    cos, sin = tables(3, 32)

    def step(q: Tensor, k: Tensor, cache: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        a, b = qk_prep(q, k, cos, sin, 1.2)
        with torch.no_grad():
            queries = qk_prep_append(q.detach(), k.detach(), v, cos, sin, 1.2, *cache.split(1, dim=2), 1)
        return a, b, queries

    results = []
    for function in (step, torch.compile(step, fullgraph=True, backend="aot_eager")):
        leaves = q.clone().requires_grad_(), k.clone().requires_grad_()
        cache = torch.zeros(1, 5, 2, 32, device=DEVICE)
        outputs = function(*leaves, cache)
        gradients = torch.autograd.grad(outputs[0].square().sum() + outputs[1].cumsum(1).sum(), leaves)
        results.append((*outputs, *gradients, cache))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)


def test_bad_input_never_reaches_a_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = inputs(2, 3, 4, 2, 32)
    cos, sin = tables(3, 32)
    for name in ("forward", "append"):
        monkeypatch.setattr(triton_impl, name, None)
    caches = torch.zeros(2, 6, 2, 32, device=DEVICE), torch.zeros(2, 6, 2, 32, device=DEVICE)
    cases = [
        ((q, k[:, :2], cos, sin), "3 positions and k 2"),
        ((q, k, cos[:2], sin), r"cos has shape \(2, 16\)"),
        ((q, k, cos.double(), sin), "torch.float64"),
        ((q.double(), k.double(), cos, sin), "torch.float64"),
        ((q[..., :24], k[..., :24], cos[:, :12], sin[:, :12]), "head dims 32, 64, 128"),
        ((q, k, cos.clone().requires_grad_(), sin), "cos or sin requires a gradient"),
        ((q, k, cos, sin, math.nan), "gain is nan"),
    ]
    for arguments, words in cases:
        with pytest.raises(KernelInputError, match=words) as error:
            qk_prep(*arguments)
        assert "\n" not in str(error.value)
    good = (q, k, v, cos, sin, 1.2, *caches, 0)
    for place, value, words in [
        (2, v[:, :2], r"v \(2, 2, 2, 32\)"),
        (6, caches[0][:1], r"k_cache has shape \(1, 6, 2, 32\)"),
        (7, caches[0][:, :4], "v_cache for 4"),
        (7, caches[0].half(), "v_cache is torch.float16"),
        (8, 4, "3 tokens from position 4 on do not fit"),
        (8, -1, "from position -1"),
        (8, [0, 0], r"positions is \[0, 0\]"),
        (8, torch.tensor([1.0, 2.0], device=DEVICE), "positions is torch.float32"),
        (2, v.clone().requires_grad_(), "q, k or v requires a gradient"),
    ]:
        with pytest.raises(KernelInputError, match=words) as error:
            qk_prep_append(*good[:place], value, *good[place + 1 :])
        assert "\n" not in str(error.value)


@pytest.mark.skipif(not ON_GPU, reason="a CUDA graph needs a GPU")
def test_a_graph_follows_positions_that_change_between_its_runs() -> None:
    q, k, v = inputs(2, 1, 4, 2, 64)
    cos, sin = tables(1, 64)
    at = torch.tensor([0, 0], device=DEVICE)
    caches, expected = ([torch.zeros(2, 8, 2, 64, device=DEVICE) for _ in range(2)] for _ in range(2))
    qk_prep_append(q, k, v, cos, sin, 1.2, *expected, at)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        qk_prep_append(q, k, v, cos, sin, 1.2, *caches, at)
    for now in ([0, 0], [3, 7]):
        at.copy_(torch.tensor(now))
        graph.replay()
        qk_prep_append(q, k, v, cos, sin, 1.2, *expected, at)
    assert all(a.equal(b) for a, b in zip(caches, expected, strict=True))
