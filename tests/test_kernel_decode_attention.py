"""kernels.decode_attention: one token per row over a cache, whatever its strides, lengths and unused contents."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernels import KernelInputError, attention, decode_attention
from kernels.decode_attention import reference, torch_impl


def looped(q: Tensor, k: Tensor, v: Tensor, lens: list[int], window: int, scale: float) -> Tensor:
    """The formula, one row and head at a time, over a list of the keys in use."""
    o = torch.zeros_like(q)
    group = q.shape[1] // k.shape[2]
    for b, length in enumerate(lens):
        end = min(max(length, 0), k.shape[1])
        first = 0 if window < 0 else max(0, end - 1 - window)
        for h in range(q.shape[1]):
            scores = [scale * float(q[b, h] @ k[b, j, h // group]) for j in range(first, end)]
            exps = [math.exp(score - max(scores)) for score in scores]
            for weight, j in zip(exps, range(first, end), strict=True):
                o[b, h] += weight / sum(exps) * v[b, j, h // group]
    return o


def inputs(B: int, Tmax: int, H: int, G: int, D: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(B * 1000003 + Tmax * 101 + H * 11 + G * 3 + D)
    shapes = (B, H, D), (B, Tmax, G, D), (B, Tmax, G, D)
    return [torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes]


def poisoned(cache: Tensor, lens: list[int], window: int) -> Tensor:
    """The cache with NaN in every entry that a row does not see."""
    seen = reference.in_use(torch.tensor(lens), len(lens), cache.shape[1], window, cache.device)
    return cache.masked_fill(~seen[:, :, None, None], math.nan)


@pytest.mark.parametrize("window", [-1, 0, 3, 50])
def test_definition_is_the_formula(window: int) -> None:
    q, k, v = inputs(6, 8, 4, 2, 3, torch.float64)
    lens = [0, 1, 5, 8, 11, -4]  # nothing, one, some, all, too many, too few
    got = reference.decode_attention(q, k, v, torch.tensor(lens), window, None)
    torch.testing.assert_close(got, looped(q, k, v, lens, window, 3**-0.5))
    assert (got[[0, 5]] == 0).all()


@pytest.mark.parametrize("path", [torch_impl.decode_attention, torch_impl._masked, reference.decode_attention])
@pytest.mark.parametrize("lens", [[3, 3, 3, 3], [0, 0, 0, 0], [7, 0, 3, 99], [99, 99, 99, 99], [-1, 1, 2, 6]])
@pytest.mark.parametrize("window", [-1, 0, 2])
def test_every_path_equals_the_formula_and_ignores_unused_entries(path, lens: list[int], window: int) -> None:
    q, k, v = inputs(4, 7, 4, 2, 16)
    expected = looped(q.double(), k.double(), v.double(), lens, window, 0.25)
    got = path(q, poisoned(k, lens, window), poisoned(v, lens, window), torch.tensor(lens), window, None)
    torch.testing.assert_close(got.double(), expected, atol=2e-6, rtol=1e-5)


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_any_shape_length_and_layout(data: st.DataObject) -> None:
    B = data.draw(st.integers(1, 4), "B")
    Tmax = data.draw(st.integers(1, 40), "Tmax")
    G = data.draw(st.integers(1, 3), "G")
    H = G * data.draw(st.integers(1, 3), "group")
    D = data.draw(st.sampled_from([1, 6, 16, 64]), "D")
    window = data.draw(st.integers(-1, 45), "window")
    scale = data.draw(st.sampled_from([None, 0.0, 0.3]), "scale")
    lens = data.draw(st.lists(st.integers(0, Tmax), min_size=B, max_size=B), "lens")
    q, k, v = inputs(B, Tmax, H, G, D)
    expected = reference.decode_attention(q, k, v, torch.tensor(lens), window, scale)
    k, v = poisoned(k, lens, window), poisoned(v, lens, window)
    k = k.transpose(1, 2).contiguous().transpose(1, 2)  # head-major, as an engine may keep it
    v = torch.stack([v, v * math.nan], -1)[..., 0]  # not even the last dimension is dense
    q = torch.cat([q, q], 1)[:, :H]
    for dtype in (torch.int64, torch.int32):
        got = decode_attention(q, k, v, torch.tensor(lens, dtype=dtype), window=window, scale=scale)
        torch.testing.assert_close(got, expected, atol=3e-6, rtol=1e-5)


def test_equals_attention_of_the_last_query() -> None:
    q, k, v = inputs(2, 30, 4, 2, 16)
    for window in (-1, 11):
        whole = attention(q[:, None], k[:, :23], v[:, :23], window=window)[:, 0]
        got = decode_attention(q, k, v, torch.tensor([23, 23]), window=window)
        torch.testing.assert_close(got, whole, atol=2e-6, rtol=1e-5)


def test_one_length_for_all_rows_and_one_row_alone() -> None:
    q, k, v = inputs(3, 9, 2, 2, 8)
    lens = torch.tensor([4, 9, 4])
    together = decode_attention(q, k, v, lens)
    for row in range(3):
        one = slice(row, row + 1)
        alone = decode_attention(q[one], k[one], v[one], int(lens[row]))
        torch.testing.assert_close(alone, together[one], atol=1e-6, rtol=1e-6)
    assert decode_attention(q, k, v, 4).equal(decode_attention(q, k, v, torch.tensor([4, 4, 4])))
    assert (decode_attention(q, k, v, 0) == 0).all()


def test_a_cache_without_room_gives_zeros() -> None:
    q, k, v = inputs(2, 0, 2, 1, 4)
    for path in (torch_impl.decode_attention, torch_impl._masked, reference.decode_attention):
        assert path(q, k, v, torch.tensor([0, 3]), -1, None).equal(torch.zeros_like(q))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype: torch.dtype) -> None:
    q, k, v = (x.to(dtype) for x in inputs(2, 20, 4, 2, 32))
    expected = reference.decode_attention(q.double(), k.double(), v.double(), torch.tensor([20, 11]), -1, None)
    got = decode_attention(q, k, v, torch.tensor([20, 11]))
    assert got.dtype == dtype
    torch.testing.assert_close(got.double(), expected, atol=2e-2, rtol=2e-2)


def test_compiles_as_one_graph() -> None:
    q, k, v = inputs(2, 12, 4, 2, 8)
    lens = torch.tensor([3, 12])
    compiled = torch.compile(lambda *a: decode_attention(*a, window=4), fullgraph=True, backend="aot_eager")
    got = compiled(q, poisoned(k, [3, 12], 4), poisoned(v, [3, 12], 4), lens)
    torch.testing.assert_close(got, decode_attention(q, k, v, lens, window=4), atol=2e-6, rtol=1e-5)


def test_the_definition_can_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = inputs(1, 6, 2, 1, 8)
    monkeypatch.setattr(torch_impl, "decode_attention", None)
    monkeypatch.setenv("NANOCHAT_KERNELS", "reference")
    expected = reference.decode_attention(q, k, v, 3, -1, None)
    assert decode_attention(q, k, v, 3).equal(expected)


q3, k4, v4 = inputs(2, 5, 4, 2, 8)
two = torch.tensor([1, 2])


@pytest.mark.parametrize(
    ("arguments", "options", "words"),
    [
        ((None, k4, v4, two), {}, "q is a NoneType"),
        ((q3[0], k4, v4, two), {}, r"q has shape \(4, 8\)"),
        ((q3, k4[0], v4[0], two), {}, r"k_cache has shape \(5, 2, 8\)"),
        ((q3, k4, v4[:, :4], two), {}, r"v_cache \(2, 4, 2, 8\)"),
        ((q3.int(), k4, v4, two), {}, "q is torch.int32"),
        ((q3, k4.double(), v4, two), {}, "k_cache is torch.float64"),
        ((q3, k4, v4.half(), two), {}, "v_cache is torch.float16"),
        ((q3, k4.to("meta"), v4, two), {}, "k_cache on meta"),
        ((q3[:1], k4, v4, two[:1]), {}, "q has batch 1 and k_cache has 2"),
        ((q3[:, :, :4], k4, v4, two), {}, "q has head dim 4 and k_cache has 8"),
        ((q3[:, :3], k4, v4, two), {}, "q has 3 heads and k_cache has 2"),
        ((q3, k4, v4, two[:1]), {}, r"lens has shape \(1,\)"),
        ((q3, k4, v4, two.float()), {}, "lens is torch.float32"),
        ((q3, k4, v4, two.to("meta")), {}, "lens is on meta"),
        ((q3, k4, v4, [1, 2]), {}, r"lens is \[1, 2\]"),
        ((q3, k4, v4, two), {"window": -2}, "window is -2"),
        ((q3, k4, v4, two), {"scale": math.inf}, "scale is inf"),
    ],
)
def test_bad_input_is_named(arguments: tuple, options: dict, words: str) -> None:
    with pytest.raises(KernelInputError, match=words) as error:
        decode_attention(*arguments, **options)
    assert "\n" not in str(error.value)
