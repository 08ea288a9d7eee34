"""kernels.attention in Triton: against the definition in float64, its gradients, strides, promises, bad input.

Without a GPU the interpreter runs the kernels, and a tile takes it about 10 ms: shapes and tiles are small here.
"""

import math

import pytest
import torch
from torch import Tensor

from kernels import KernelInputError, attention, backend
from kernels.attention import _triton, _triton_backward, reference
from tests.kernel_support import DEVICE, DTYPES, IMPLEMENTATION, ON_GPU, poison, use_triton, wide

__all__ = ["use_triton"]
pytestmark = pytest.mark.usefixtures("use_triton")

# (absolute, relative to the largest number): a rounding of p and dS to the input's format is part of the kernels.
TOLERANCE = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}


def inputs(B: int, Tq: int, Tk: int, G: int, R: int, D: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """q, k, v and the gradient of the output; q has R heads for each of G."""
    generator = torch.Generator().manual_seed(B * 1000003 + Tq * 10007 + Tk * 101 + G * 11 + R * 3 + D)
    shapes = (B, Tq, G * R, D), (B, Tk, G, D), (B, Tk, G, D), (B, Tq, G * R, D)
    return [torch.randn(shape, generator=generator).to(DEVICE, dtype) for shape in shapes]


def run(q: Tensor, k: Tensor, v: Tensor, do: Tensor, window: int = -1, scale: float | None = None) -> list[Tensor]:
    """The output and the gradients of q, k and v, from memory that held NaN."""
    leaves = [x.detach().requires_grad_() for x in (q, k, v)]
    with poison():
        o = attention(*leaves, window=window, scale=scale)
        return [o.detach(), *torch.autograd.grad(o, leaves, do)]


def definition(q: Tensor, k: Tensor, v: Tensor, do: Tensor, window: int, scale: float | None) -> list[Tensor]:
    """The same in float64 by the definition."""
    leaves = [x.requires_grad_() for x in wide(q, k, v)]
    o = reference.attention(*leaves, window, scale)
    return [o.detach(), *torch.autograd.grad(o, leaves, do.double())]


def compare(got: list[Tensor], expected: list[Tensor], dtype: torch.dtype) -> None:
    for name, a, b in zip(("o", "dq", "dk", "dv"), got, expected, strict=True):
        assert a.shape == b.shape
        assert a.dtype == dtype
        error = (a.double() - b).abs().max().item() if b.numel() else 0.0
        limit = TOLERANCE[dtype] * max(1.0, b.abs().max().item() if b.numel() else 1.0)
        assert error <= limit, f"{name} is off by {error:.2g}, more than {limit:.2g}"  # a NaN fails as well


def set_tile(monkeypatch: pytest.MonkeyPatch, rows: int, keys: int) -> None:
    """A tile for the interpreter; on a GPU the kernels keep their own."""
    module = backend.triton_impl("attention", IMPLEMENTATION)
    monkeypatch.setattr(module, "INTERPRETED", (rows, keys, 1, 1))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("B", "Tq", "Tk", "G", "R", "D", "window"),
    [
        (1, 1, 1, 1, 1, 32, -1),
        (1, 16, 16, 1, 1, 64, -1),
        (2, 37, 37, 1, 1, 32, -1),
        (1, 21, 21, 2, 2, 32, -1),
        (1, 21, 21, 1, 3, 32, 5),
        (1, 50, 50, 1, 1, 32, 16),
        (1, 49, 49, 1, 1, 32, 0),
        (1, 40, 40, 1, 1, 32, 39),
        (1, 40, 40, 1, 1, 32, 38),
        (1, 1, 45, 1, 2, 32, -1),
        (2, 5, 45, 1, 2, 32, 7),
        (1, 20, 55, 1, 1, 32, -1),
        (1, 20, 55, 1, 1, 32, 33),
        (1, 35, 35, 1, 1, 128, 9),
    ],
)
def test_kernels_equal_the_definition(
    B: int, Tq: int, Tk: int, G: int, R: int, D: int, window: int, dtype: torch.dtype
) -> None:
    tensors = inputs(B, Tq, Tk, G, R, D, dtype)
    compare(run(*tensors, window), definition(*tensors, window, None), dtype)


@pytest.mark.parametrize(("rows", "keys"), [(32, 16), (16, 32), (64, 16)])
@pytest.mark.parametrize(("R", "window"), [(1, -1), (1, 20), (3, 11)])
def test_every_tile_gives_the_same(monkeypatch: pytest.MonkeyPatch, rows: int, keys: int, R: int, window: int) -> None:
    set_tile(monkeypatch, rows, keys)
    tensors = inputs(1, 43, 61, 1, R, 32)
    compare(run(*tensors, window), definition(*tensors, window, None), torch.float32)


@pytest.mark.skipif(not ON_GPU, reason="these take the interpreter minutes")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize(
    ("R", "D", "Tq", "Tk", "window"),
    [(1, 64, 515, 515, 200), (1, 128, 1030, 1030, -1), (1, 128, 1030, 1030, 129), (8, 128, 130, 700, -1)],
)
def test_long_sequences(R: int, D: int, Tq: int, Tk: int, window: int, dtype: torch.dtype) -> None:
    tensors = inputs(2, Tq, Tk, 2, R, D, dtype)
    compare(run(*tensors, window), definition(*tensors, window, None), dtype)


@pytest.mark.parametrize("scale", [0.0, -0.3, 2.5])
@pytest.mark.parametrize("window", [-1, 6])
def test_any_scale(scale: float, window: int) -> None:
    tensors = inputs(1, 19, 25, 1, 1, 32)
    compare(run(*tensors, window, scale), definition(*tensors, window, scale), torch.float32)


def test_any_strides_and_nothing_outside_is_read() -> None:
    B, Tq, Tk, G, R, D = 2, 18, 23, 2, 2, 32
    q, k, v, do = inputs(B, Tq, Tk, G, R, D)
    expected = definition(q, k, v, do, 7, None)
    q = q.transpose(1, 2).contiguous().transpose(1, 2)  # head-major, as a cache
    k = torch.cat([k * math.nan, k, k * math.nan], 1)[:, Tk : 2 * Tk]  # a slice of something longer
    v = torch.stack([v, v * math.nan], -1)[..., 0]  # every other number
    compare(run(q, k, v, do.transpose(0, 1).contiguous().transpose(0, 1), 7), expected, torch.float32)
    sums = torch.ones((), device=DEVICE).expand(B, Tq, G * R, D)  # what .sum() hands back: one number, all strides 0
    compare(run(q, k, v, sums, 7), definition(q, k, v, sums, 7, None), torch.float32)


def test_a_row_does_not_depend_on_its_batch() -> None:
    tensors = inputs(3, 18, 20, 1, 1, 32)
    whole = run(*tensors, 9)
    for b in range(3):
        alone = run(*(x[b : b + 1] for x in tensors), 9)
        assert all(a.equal(w[b : b + 1]) for a, w in zip(alone, whole, strict=True))


def test_the_same_inputs_give_the_same_bits() -> None:
    tensors = inputs(1, 40, 40, 1, 2, 32)
    assert all(a.equal(b) for a, b in zip(run(*tensors), run(*tensors), strict=True))


def test_sections_of_heads_cover_every_head(monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = inputs(1, 7, 7, 5, 1, 32)
    expected = run(*tensors)
    module = backend.triton_impl("attention", IMPLEMENTATION)
    monkeypatch.setattr(module, "SECTION_BYTES", 2 * (2 * 7 * 32 * 4))  # two heads, two, and the one that is left
    assert all(a.equal(b) for a, b in zip(run(*tensors), expected, strict=True))


def test_nan_stays_in_its_row() -> None:
    q, k, v, do = inputs(1, 20, 20, 1, 1, 32)
    clean = run(q, k, v, do)[0]
    q[0, 7, 0, 3] = math.nan
    o = attention(q, k, v)
    assert o[0, 7].isnan().all()
    assert o[0, :7].equal(clean[0, :7])
    assert o[0, 8:].equal(clean[0, 8:])


@pytest.mark.parametrize("sign", [1, -1])
def test_scores_far_from_zero(sign: int) -> None:
    q, k, v, do = inputs(1, 24, 24, 1, 1, 32)
    q, k = q.abs() * 40 * sign, k.abs() * 40  # scores around plus or minus 6,000
    got, expected = run(q, k, v, do), definition(q, k, v, do, -1, None)
    torch.testing.assert_close(got[0].double(), expected[0], atol=2e-2, rtol=0)  # float32 holds such scores to 1e-3
    assert all(x.isfinite().all() for x in got)


def test_sums_are_kept_to_base_two() -> None:
    q, k, v, _ = inputs(1, 11, 14, 1, 2, 32)
    with poison():
        _, lse = _triton(q, k, v, 5, 0.2)
    wide_q, wide_k = wide(q, k)
    scores = torch.einsum("bihd,bjd->bhij", wide_q, wide_k[:, :, 0]) * 0.2
    scores.masked_fill_(~reference.visible(11, 14, 5, DEVICE), -math.inf)
    expected = scores.logsumexp(-1) / math.log(2)  # (1, 2, 11)
    torch.testing.assert_close(lse.double(), expected.mT.reshape(1, 1, 22), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("B", "Tq", "Tk"), [(0, 5, 5), (2, 0, 5), (2, 0, 0)])
def test_empty_inputs(B: int, Tq: int, Tk: int) -> None:
    tensors = inputs(B, Tq, Tk, 1, 2, 32)
    o, dq, dk, dv = run(*tensors)
    assert o.shape == dq.shape == tensors[0].shape
    assert dk.shape == dv.shape == tensors[1].shape
    assert not dk.any()
    assert not dv.any()


@pytest.mark.parametrize("window", [-1, 3])
def test_operations_are_registered_as_pytorch_wants_them(window: int) -> None:
    q, k, v, do = inputs(1, 5, 7, 1, 2, 32)
    leaves = [x.requires_grad_() for x in (q, k, v)]
    torch.library.opcheck(_triton, (*leaves, window, 0.2))
    o, lse = _triton(*(x.detach() for x in leaves), window, 0.2)
    torch.library.opcheck(_triton_backward, (do, *(x.detach() for x in leaves), o, lse, window, 0.2))


def test_compiles_as_one_graph() -> None:
    q, k, v, do = inputs(1, 9, 9, 1, 2, 32)
    expected = run(q, k, v, do, 4)
    leaves = [x.requires_grad_() for x in (q, k, v)]
    compiled = torch.compile(lambda q, k, v: attention(q, k, v, window=4), fullgraph=True, backend="aot_eager")
    o = compiled(*leaves)
    got = [o.detach(), *torch.autograd.grad(o, leaves, do)]
    assert all(a.equal(b) for a, b in zip(got, expected, strict=True))


@pytest.mark.skipif(not ON_GPU, reason="graphs are a GPU's")
def test_a_cuda_graph_holds_both_passes() -> None:
    tensors = inputs(1, 200, 200, 2, 2, 64, torch.bfloat16)
    expected = run(*tensors, 50)
    q, k, v, do = tensors
    _triton_backward(do, q, k, v, *_triton(q, k, v, 50, 0.125), 50, 0.125)  # compiled before the graph begins
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        o, lse = _triton(q, k, v, 50, 0.125)
        gradients = _triton_backward(do, q, k, v, o, lse, 50, 0.125)
    graph.replay()
    torch.cuda.synchronize()
    assert all(a.equal(b) for a, b in zip([o, *gradients], expected, strict=True))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"q": (1, 3, 2, 48), "k": (1, 3, 1, 48)}, "head dims 32, 64, 128"),
        ({"q": (1, 4, 2, 32), "k": (1, 3, 1, 32)}, "3 keys for 4 queries"),
        ({"q": (1, 3, 3, 32), "k": (1, 3, 2, 32)}, "q has 3 heads and k has 2"),
        ({"window": -2}, "window is -2"),
        ({"dtype": torch.float64}, "float64"),
        ({"scale": math.inf}, "scale is inf"),
    ],
)
def test_bad_input_is_refused_before_any_launch(
    monkeypatch: pytest.MonkeyPatch, change: dict[str, object], words: str
) -> None:
    module = backend.triton_impl("attention", IMPLEMENTATION)
    monkeypatch.setattr(module, "_launch", None)
    dtype = change.get("dtype", torch.float32)
    q, k = (torch.zeros(change.get(name, (1, 3, 1, 32)), device=DEVICE, dtype=dtype) for name in ("q", "k"))
    with pytest.raises(KernelInputError, match=words):
        attention(q, k, k, window=change.get("window", -1), scale=change.get("scale"))
