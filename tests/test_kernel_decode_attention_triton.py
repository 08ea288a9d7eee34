"""decode_attention's Triton kernels: in the interpreter on a CPU, as they are on a GPU. Needs no hypothesis.

python -m pytest tests/test_kernel_decode_attention_triton.py
"""

import math

import pytest
import torch
from torch import Tensor

from tests.kernel_support import DEVICE, DTYPES, ON_GPU, poison, use_triton, wide

pytest.importorskip("triton", reason="the kernels need Triton, which is there for Linux alone")

from kernels import KernelInputError, decode_attention
from kernels.decode_attention import _triton, reference, triton_impl

__all__ = ["use_triton"]
pytestmark = pytest.mark.usefixtures("use_triton")

# A half-precision output is rounded once, and the weights are rounded before their product, as in every flash kernel.
TOLERANCE = {torch.float32: 4e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
VALUES = triton_impl._values(DEVICE, triton_impl.configuration_key(torch.float32, 32, 2))
TILE, PART = VALUES["BLOCK_N"], VALUES["LEAST"]  # 16 and 32 keys in the interpreter, more on a GPU
ROOM = 2 * PART + TILE + 3


def inputs(B: int, Tmax: int, H: int, G: int, D: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(B * 1000003 + Tmax * 101 + H * 11 + G * 3 + D)
    shapes = (B, H, D), (B, Tmax, G, D), (B, Tmax, G, D)
    return tuple(torch.randn(shape, generator=generator).to(DEVICE, dtype) for shape in shapes)


def lengths(*values: int, dtype: torch.dtype = torch.int64) -> Tensor:
    return torch.tensor(values, dtype=dtype, device=DEVICE)


def unused_is_nan(cache: Tensor, lens: Tensor, window: int) -> Tensor:
    seen = reference.in_use(lens, len(lens), cache.shape[1], window, cache.device)
    return cache.masked_fill(~seen[:, :, None, None], math.nan)


def compare(q: Tensor, k: Tensor, v: Tensor, lens: Tensor, window: int = -1, scale: float | None = None) -> Tensor:
    """The kernel's output, after it was held against the definition in float64; what is not in use holds NaN."""
    expected = reference.decode_attention(*wide(q, k, v), lens, window, scale)
    with poison():
        got = decode_attention(
            q, unused_is_nan(k, lens, window), unused_is_nan(v, lens, window), lens, window=window, scale=scale
        )
    assert got.dtype == q.dtype
    torch.testing.assert_close(got.double(), expected, atol=TOLERANCE[q.dtype], rtol=TOLERANCE[q.dtype])
    return got


@pytest.mark.parametrize("window", [-1, 0, TILE + 4, 2 * PART + 6])
def test_lengths_below_at_and_beyond_every_edge(window: int) -> None:
    lens = lengths(0, -3, 1, TILE, TILE + 1, PART + 1, ROOM, ROOM + 900)
    got = compare(*inputs(8, ROOM, 2, 1, 32), lens, window)
    assert (got[:2] == 0).all()


@pytest.mark.parametrize(("H", "G", "D"), [(1, 1, 32), (3, 3, 64), (6, 2, 32), (5, 1, 64), (20, 1, 32), (70, 1, 32)])
def test_any_grouping_of_heads(H: int, G: int, D: int) -> None:
    compare(*inputs(1, PART + 5, H, G, D), lengths(PART + 2))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("D", [32, 64, 128])
def test_formats_and_head_dims(dtype: torch.dtype, D: int) -> None:
    compare(*inputs(1, PART + 18, 4, 2, D, dtype), lengths(PART + 7), window=PART + 3)


@pytest.mark.parametrize("scale", [0.0, -0.4, 2.0])
def test_a_scale_of_ones_own(scale: float) -> None:
    compare(*inputs(1, 40, 2, 1, 32), lengths(37), scale=scale)


def test_parts_grow_where_there_cannot_be_more(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = inputs(2, 5 * TILE, 1, 1, 32)
    lens = lengths(5 * TILE - 3, TILE + 3)
    monkeypatch.setattr(triton_impl, "MOST_PARTS", 3)  # of two tiles, two tiles and one; the second row of one and one
    got = triton_impl.launch(q, k, v, lens, 0, -1, None, {**VALUES, "LEAST": TILE})
    expected = reference.decode_attention(*wide(q, k, v), lens, -1, None)
    torch.testing.assert_close(got.double(), expected, atol=4e-6, rtol=4e-6)


def test_any_strides() -> None:
    q, k, v = inputs(2, 40, 4, 2, 32)
    lens = lengths(40, 21)
    expected = decode_attention(q, k, v, lens)
    memory = torch.full((2, 4, 50, 32), math.nan, device=DEVICE)  # as an engine keeps them: keys, values, head by head
    memory[:, :, :40] = torch.cat([k, v], 2).transpose(1, 2)
    keys, values = memory.transpose(1, 2).split(2, dim=2)
    beside = torch.cat([q, q], 1)[:, :4]
    assert decode_attention(beside, keys[:, :40], values[:, :40], lens).equal(expected)
    sparse = torch.stack([v, v * math.nan], -1)[..., 0]  # not even the last dimension is dense
    mixed = torch.stack([lens, lens * 0], 1)[:, 0]
    got = decode_attention(q.mT.contiguous().mT, k, sparse, mixed)
    torch.testing.assert_close(got, expected, atol=1e-6, rtol=1e-6)
    same = k[:1].expand(2, -1, -1, -1)  # one prompt for all rows
    assert decode_attention(q, same, v, lens).equal(decode_attention(q, same.contiguous(), v, lens))


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8])
def test_lengths_of_any_integer_dtype_or_a_number(dtype: torch.dtype) -> None:
    q, k, v = inputs(2, 40, 1, 1, 32)
    expected = decode_attention(q, k, v, lengths(35, 35))
    assert decode_attention(q, k, v, lengths(35, 35, dtype=dtype)).equal(expected)
    assert decode_attention(q, k, v, 35).equal(expected)
    assert decode_attention(q, k, v, 2**40).equal(decode_attention(q, k, v, lengths(2**40, 2**62)))
    assert (decode_attention(q, k, v, -1) == 0).all()


def test_a_row_does_not_depend_on_its_batch() -> None:
    q, k, v = inputs(3, PART + TILE, 2, 1, 32)
    lens = lengths(PART + TILE, 3, PART)
    for window in (-1, PART + 2):
        together = decode_attention(q, k, v, lens, window=window)
        for row in range(3):
            one = slice(row, row + 1)
            alone = decode_attention(q[one], k[one], v[one], lens[one], window=window)
            assert alone.equal(together[one])
            assert decode_attention(q[one], k[one], v[one], int(lens[row]), window=window).equal(alone)
        assert decode_attention(q, k, v, lens, window=window).equal(together)


def test_empty_batches_and_caches_without_room() -> None:
    q, k, v = inputs(2, 0, 2, 1, 32)
    with poison():
        assert (decode_attention(q, k, v, lengths(0, 3)) == 0).all()
        assert (decode_attention(q, k, v, 4) == 0).all()
    q, k, v = inputs(0, 9, 2, 1, 32)
    assert decode_attention(q, k, v, lengths()).shape == (0, 2, 32)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, in the interpreter
def test_infinite_scores_and_nan_stay_in_their_row() -> None:
    q, k, v = inputs(3, PART + TILE, 1, 1, 32)
    lens = lengths(*[PART + TILE] * 3)
    q[1] = math.nan
    q[2], k[2] = 1.0, 1.0
    k[2, : PART + 1] = -math.inf  # all of a tile, and of a part of the keys: their weight is 0
    got = decode_attention(q, k, v, lens)
    assert got[1].isnan().all()
    expected = reference.decode_attention(*wide(q, k, v), lens, -1, None)
    torch.testing.assert_close(got[[0, 2]].double(), expected[[0, 2]], atol=2e-6, rtol=2e-6)


def test_it_is_an_operation_of_pytorch() -> None:
    q, k, v = inputs(2, 20, 1, 1, 32)
    torch.library.opcheck(_triton, (q, k, v, lengths(20, 5), 0, 4, None))


def test_compiles_as_one_graph() -> None:
    q, k, v = inputs(2, 20, 4, 2, 32)
    lens = lengths(3, 20)
    compiled = torch.compile(lambda *a: decode_attention(*a, window=4), fullgraph=True, backend="aot_eager")
    assert compiled(q, k, v, lens).equal(decode_attention(q, k, v, lens, window=4))


def test_bad_input_never_reaches_a_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = inputs(2, 20, 4, 2, 32)
    monkeypatch.setattr(triton_impl, "launch", None)
    cases = [
        ((q, k, v[:, :4], lengths(1, 2)), {}, "v_cache"),
        ((q, k.half(), v, lengths(1, 2)), {}, "k_cache is torch.float16"),
        ((q, k, v, lengths(1)), {}, r"lens has shape \(1,\)"),
        ((q, k, v, lengths(1, 2)), {"window": -2}, "window is -2"),
        ((q[..., :24], k[..., :24], v[..., :24], lengths(1, 2)), {}, "head dims 32, 64, 128"),
        ((q.double(), k.double(), v.double(), lengths(1, 2)), {}, "torch.float64"),
    ]
    for arguments, options, words in cases:
        with pytest.raises(KernelInputError, match=words) as error:
            decode_attention(*arguments, **options)
        assert "\n" not in str(error.value)


@pytest.mark.skipif(not ON_GPU, reason="a CUDA graph needs a GPU")
def test_a_graph_follows_lengths_that_change_between_its_runs() -> None:
    q, k, v = inputs(2, 600, 4, 2, 64)
    lens = lengths(1, 1)
    decode_attention(q, k, v, lens)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = decode_attention(q, k, v, lens)
    for now in (lengths(600, 0), lengths(77, 300)):
        lens.copy_(now)
        graph.replay()
        assert got.equal(decode_attention(q, k, v, now))
