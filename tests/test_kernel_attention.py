"""kernels.attention: the definition against a loop, the fast path against the definition, gradients, bad input."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernels import KernelInputError, attention, attention_weights
from kernels.attention import reference, torch_impl, torch_training


def looped(q: Tensor, k: Tensor, v: Tensor, window: int, scale: float) -> Tensor:
    """The formula in Python floats, one query at a time."""
    B, Tq, H, D = q.shape
    Tk, G = k.shape[1], k.shape[2]
    o = torch.zeros_like(q)
    for b in range(B):
        for i in range(Tq):
            position = i + Tk - Tq
            first = 0 if window < 0 else max(0, position - window)
            for h in range(H):
                g = h // (H // G)
                scores = [
                    scale * sum(float(q[b, i, h, d]) * float(k[b, j, g, d]) for d in range(D))
                    for j in range(first, position + 1)
                ]
                exps = [math.exp(score - max(scores)) for score in scores]
                for weight, j in zip(exps, range(first, position + 1), strict=True):
                    o[b, i, h] += weight / sum(exps) * v[b, j, g]
    return o


def inputs(B: int, Tq: int, Tk: int, H: int, G: int, D: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(B * 1000003 + Tq * 10007 + Tk * 101 + H * 11 + G * 3 + D)
    shapes = (B, Tq, H, D), (B, Tk, G, D), (B, Tk, G, D)
    return [torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes]


@pytest.mark.parametrize("window", [-1, 0, 2, 4, 100])
@pytest.mark.parametrize(("Tq", "Tk"), [(5, 5), (1, 5), (3, 5)])
def test_definition_is_the_formula(window: int, Tq: int, Tk: int) -> None:
    q, k, v = inputs(2, Tq, Tk, 4, 2, 3, torch.float64)
    torch.testing.assert_close(reference.attention(q, k, v, window, None), looped(q, k, v, window, 3**-0.5))
    torch.testing.assert_close(reference.attention(q, k, v, window, 0.7), looped(q, k, v, window, 0.7))


@pytest.mark.parametrize(("H", "G"), [(1, 1), (4, 4), (4, 2), (3, 1)])
@pytest.mark.parametrize(
    ("Tq", "Tk", "window"),
    [
        (1, 1, -1),
        (7, 7, -1),
        (65, 65, -1),
        (200, 200, 63),
        (131, 131, 1),
        (64, 64, 64),
        (130, 130, 129),
        (130, 130, 128),
        (3, 3, 0),
        (1, 99, -1),
        (1, 99, 7),
        (5, 70, -1),
        (70, 140, 33),
        (70, 140, 500),
    ],
)
def test_fast_path_equals_the_definition(H: int, G: int, Tq: int, Tk: int, window: int) -> None:
    q, k, v = inputs(2, Tq, Tk, H, G, 16)
    expected = reference.attention(q.double(), k.double(), v.double(), window, None)
    got = attention(q, k, v, window=window)
    assert got.shape == q.shape
    assert got.dtype == q.dtype
    torch.testing.assert_close(got.double(), expected, atol=2e-6, rtol=1e-5)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_shape_and_strides(data: st.DataObject) -> None:
    Tk = data.draw(st.integers(1, 150), "Tk")
    Tq = data.draw(st.integers(1, Tk), "Tq")
    G = data.draw(st.integers(1, 2), "G")
    H = G * data.draw(st.integers(1, 3), "group")
    D = data.draw(st.sampled_from([1, 5, 16, 64]), "D")
    window = data.draw(st.integers(-1, 160), "window")
    scale = data.draw(st.sampled_from([None, 0.0, 0.25]), "scale")
    q, k, v = inputs(2, Tq, Tk, H, G, D)
    expected = reference.attention(q, k, v, window, scale)
    # The same numbers behind other strides: head-major, a slice of something wider, every other element.
    q = q.transpose(1, 2).contiguous().transpose(1, 2)
    k = torch.cat([k, k * math.nan], 3)[..., :D]
    v = torch.stack([v, v * math.nan], -1)[..., 0]
    torch.testing.assert_close(attention(q, k, v, window=window, scale=scale), expected, atol=3e-6, rtol=1e-5)


def test_queries_that_continue_earlier_keys_equal_the_whole() -> None:
    q, k, v = inputs(1, 100, 100, 2, 1, 8)
    for window in (-1, 13, 70):
        whole = attention(q, k, v, window=window)
        torch.testing.assert_close(attention(q[:, 60:], k, v, window=window), whole[:, 60:], atol=2e-6, rtol=1e-5)


def test_window_keeps_one_key_more_than_its_number() -> None:
    q, k, v = inputs(1, 9, 9, 1, 1, 4)
    assert (attention_weights(q, k, window=3)[0, 0, 8] > 0).tolist() == [False] * 5 + [True] * 4
    changed = v.clone()
    changed[:, 4] += 100  # one key before the window of the last query
    assert attention(q, k, changed, window=3)[:, 8].equal(attention(q, k, v, window=3)[:, 8])
    assert not attention(q, k, changed, window=4)[:, 8].equal(attention(q, k, v, window=4)[:, 8])


@pytest.mark.parametrize("window", [-1, 0, 20])
@pytest.mark.parametrize("Tq", [90, 33, 1])
def test_weights_are_what_attention_uses(window: int, Tq: int) -> None:
    q, k, v = inputs(2, Tq, 90, 4, 2, 16)
    weights = attention_weights(q, k, window=window)
    assert weights.shape == (2, 4, Tq, 90)
    assert weights.dtype == torch.float32
    output = (weights @ v.transpose(1, 2).repeat_interleave(2, 1)).transpose(1, 2)
    torch.testing.assert_close(attention(q, k, v, window=window), output, atol=1e-5, rtol=1e-5)
    hidden = ~reference.visible(Tq, 90, window, q.device)
    assert (weights[:, :, hidden] == 0).all()
    assert (weights[:, :, ~hidden] > 0).all()
    assert attention_weights(q.bfloat16(), k.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize(("Tq", "Tk", "window"), [(5, 5, -1), (5, 5, 2), (3, 6, -1), (3, 6, 2), (1, 4, 1)])
def test_gradients_by_finite_differences(Tq: int, Tk: int, window: int) -> None:
    tensors = [x.requires_grad_() for x in inputs(1, Tq, Tk, 2, 1, 4, torch.float64)]
    assert torch.autograd.gradcheck(lambda q, k, v: attention(q, k, v, window=window), tensors)


@pytest.mark.parametrize("window", [-1, 40])
def test_gradients_of_several_chunks(window: int) -> None:
    q, k, v = (x.requires_grad_() for x in inputs(2, 150, 150, 4, 2, 16))
    upstream = torch.randn(q.shape, generator=torch.Generator().manual_seed(1))
    got = torch.autograd.grad(attention(q, k, v, window=window), (q, k, v), upstream)
    expected = torch.autograd.grad(reference.attention(q, k, v, window, None), (q, k, v), upstream)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype: torch.dtype) -> None:
    q, k, v = (x.to(dtype) for x in inputs(1, 100, 100, 2, 2, 32))
    expected = reference.attention(q.double(), k.double(), v.double(), 30, None)
    got = attention(q, k, v, window=30)
    assert got.dtype == dtype
    torch.testing.assert_close(got.double(), expected, atol=2e-2, rtol=2e-2)


def test_empty_inputs_give_empty_outputs() -> None:
    for q, k, v in (inputs(0, 3, 3, 2, 1, 4), inputs(2, 0, 3, 2, 1, 4), inputs(2, 0, 0, 2, 1, 4)):
        assert attention(q, k, v).shape == q.shape
        assert attention(q, k, v, window=1).shape == q.shape


def test_compiles_as_one_graph() -> None:
    q, k, v = inputs(1, 70, 70, 2, 1, 8)
    compiled = torch.compile(lambda q, k, v: attention(q, k, v, window=5), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(q, k, v), attention(q, k, v, window=5))


def test_the_definition_can_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = inputs(1, 6, 6, 2, 1, 8)
    monkeypatch.setattr(torch_impl, "attention", None)
    monkeypatch.setenv("NANOCHAT_KERNELS_ATTENTION", "reference")
    assert attention(q, k, v).equal(reference.attention(q, k, v, -1, None))


q4, k4, v4 = inputs(2, 3, 5, 4, 2, 8)


@pytest.mark.parametrize(
    ("arguments", "options", "words"),
    [
        (([[0.0]], k4, v4), {}, "q is a list"),
        ((q4[0], k4, v4), {}, r"q has shape \(3, 4, 8\)"),
        ((q4, k4[0], v4[0]), {}, r"k has shape \(5, 2, 8\)"),
        ((q4, k4, v4[:, :, 0]), {}, r"v has shape \(2, 5, 8\)"),
        ((q4.long(), k4, v4), {}, "q is torch.int64"),
        ((q4, k4.double(), v4), {}, "q is torch.float32 and k is torch.float64"),
        ((q4, k4, v4.half()), {}, "k is torch.float32 and v is torch.float16"),
        ((q4, k4.to("meta"), v4), {}, "q is on cpu and k on meta"),
        ((q4, k4, v4[:, :4]), {}, r"k has shape \(2, 5, 2, 8\) and v \(2, 4, 2, 8\)"),
        ((q4[:1], k4, v4), {}, "q has batch 1 and k has 2"),
        ((q4[..., :6], k4, v4), {}, "q has head dim 6 and k has 8"),
        ((q4[:, :, :3], k4, v4), {}, "q has 3 heads and k has 2"),
        ((q4, k4[:, :, :0], v4[:, :, :0]), {}, "q has 4 heads and k has 0"),
        ((q4, k4[:, :2], v4[:, :2]), {}, "2 keys for 3 queries"),
        ((q4, k4, v4), {"window": -2}, "window is -2"),
        ((q4, k4, v4), {"window": 1.5}, "window is 1.5"),
        ((q4, k4, v4), {"scale": math.nan}, "scale is nan"),
        ((q4, k4, v4), {"scale": "1"}, "scale is '1'"),
    ],
)
def test_bad_input_is_named(arguments: tuple, options: dict, words: str) -> None:
    with pytest.raises(KernelInputError, match=words) as error:
        attention(*arguments, **options)
    assert isinstance(error.value, ValueError)
    assert "\n" not in str(error.value)


def test_bad_input_to_weights_is_named() -> None:
    with pytest.raises(ValueError, match="2 keys for 3 queries"):
        attention_weights(q4, k4[:, :2])


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_the_training_path_equals_the_definition_with_its_gradients(data: st.DataObject) -> None:
    T = data.draw(st.integers(1, 40), "T")
    G = data.draw(st.integers(1, 2), "G")
    H = G * data.draw(st.integers(1, 3), "group")
    window = data.draw(st.integers(-1, 45), "window")
    scale = data.draw(st.sampled_from([None, 0.0, 0.25]), "scale")
    q, k, v = (x.requires_grad_() for x in inputs(2, T, T, H, G, 4, torch.float64))
    expected = reference.attention(q, k, v, window, scale)
    weights = torch.linspace(-1, 2, expected.numel(), dtype=torch.float64).view_as(expected)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch_training, "CHUNK", data.draw(st.integers(1, 45), "chunk"))
        got = torch_training.attention(q, k, v, window, scale)
        ours = torch.autograd.grad(got, (q, k, v), weights)
    torch.testing.assert_close(got, expected)
    for a, b in zip(ours, torch.autograd.grad(expected, (q, k, v), weights), strict=True):
        torch.testing.assert_close(a, b, atol=1e-10, rtol=1e-8)


def test_training_in_half_precision_takes_its_own_path(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = (x.bfloat16() for x in inputs(2, 70, 70, 4, 2, 16))

    def fits(window: int = -1) -> bool:
        return torch_training.fits(q, k, v, window)

    assert not fits()  # nothing trains
    q.requires_grad_()
    assert fits()
    exact = reference.attention(q.double(), k.double(), v.double(), 9, None)
    called = []
    real = torch_training.attention
    monkeypatch.setattr(torch_training, "attention", lambda *a: called.append(a) or real(*a))
    got = attention(q, k, v, window=9)
    assert len(called) == 1
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got.double(), exact, atol=2e-2, rtol=2e-2)
    (ours,) = torch.autograd.grad(got.sum(), (q,))
    (expected,) = torch.autograd.grad(exact.sum(), (q,))
    assert (ours - expected).norm() < 0.02 * expected.norm()
    with torch.no_grad():
        assert not fits()
    # 2 x 4 heads, queries 0-63 with 64 keys and queries 64-69 with 70 or, in the window, 15 keys, 2 bytes each
    monkeypatch.setattr(torch_training, "SAVED_BYTES", 2 * 8 * (64 * 64 + 6 * 70) - 1)
    assert not fits()
    assert fits(9)
    assert not torch_training.fits(q.float(), k.float(), v.float(), 9)
    assert not torch_training.fits(q[:, 1:], k, v, 9)  # queries that continue earlier keys
