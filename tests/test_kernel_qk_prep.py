"""kernels.qk_prep: rotation, norm and gain, in every dtype, table shape and layout."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernels import KernelInputError, qk_prep, qk_prep_append
from kernels.qk_prep import reference, torch_impl


def tables(T: int, D: int, base: float = 1e5) -> tuple[Tensor, Tensor]:
    """cos and sin (T, D/2) in float64, nanochat's angles."""
    angles = torch.arange(T, dtype=torch.float64)[:, None] * base ** -(torch.arange(0, D, 2, dtype=torch.float64) / D)
    return angles.cos(), angles.sin()


def inputs(B: int, T: int, H: int, G: int, D: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(B * 1000003 + T * 101 + H * 11 + G * 3 + D)
    q = torch.randn(B, T, H, D, generator=generator, dtype=torch.float64)
    k = torch.randn(B, T, G, D, generator=generator, dtype=torch.float64)
    return q.to(dtype), k.to(dtype)


def test_definition_is_the_formula() -> None:
    q, k = inputs(2, 3, 4, 2, 6)
    cos, sin = tables(3, 6)
    got_q, got_k = reference.qk_prep(q, k, cos, sin, 1.2)
    for x, got in ((q, got_q), (k, got_k)):
        for b in range(2):
            for t in range(3):
                for h in range(x.shape[2]):
                    # Each pair is a complex number, turned by minus its angle.
                    pairs = [complex(x[b, t, h, d], x[b, t, h, d + 3]) for d in range(3)]
                    turned = [z * complex(cos[t, d], -sin[t, d]) for d, z in enumerate(pairs)]
                    y = [z.real for z in turned] + [z.imag for z in turned]
                    root = math.sqrt(sum(value * value for value in y) / 6 + 1.1920929e-7)
                    assert got[b, t, h].tolist() == pytest.approx([1.2 * value / root for value in y], rel=1e-12)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_fast_path_equals_the_definition(data: st.DataObject) -> None:
    B = data.draw(st.integers(1, 3), "B")
    T = data.draw(st.integers(1, 9), "T")
    G = data.draw(st.integers(1, 3), "G")
    H = G * data.draw(st.integers(1, 3), "group")
    D = data.draw(st.sampled_from([2, 6, 16, 64]), "D")
    gain = data.draw(st.sampled_from([1.0, 1.15, 1.2, 0.0, -2.0]), "gain")
    q, k = inputs(B, T, H, G, D)
    cos, sin = tables(T, D)
    expected = reference.qk_prep(q, k, cos, sin, gain)
    rows = cos[None, :, None].expand(B, -1, -1, -1), sin[None, :, None].expand(B, -1, -1, -1)
    for c, s in ((cos, sin), (cos[None, :, None], sin[None, :, None]), rows):
        for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 2e-6)):
            wide = torch.cat([q, q], 3).to(dtype)[..., :D]  # not contiguous
            got = qk_prep(wide, k.to(dtype), c.to(dtype), s.to(dtype), gain)
            for a, b in zip(got, expected, strict=True):
                assert a.dtype == dtype
                torch.testing.assert_close(a.double(), b, atol=tolerance, rtol=tolerance)


def test_rows_at_their_own_positions() -> None:
    q, k = inputs(2, 1, 2, 1, 8)
    cos, sin = tables(50, 8)
    at = torch.tensor([7, 41])
    together = qk_prep(q, k, cos[at][:, None, None], sin[at][:, None, None], 1.2)
    for row, position in enumerate(at.tolist()):
        one, here = slice(row, row + 1), slice(position, position + 1)
        alone = qk_prep(q[one], k[one], cos[here], sin[here], 1.2)
        for a, b in zip(alone, together, strict=True):
            torch.testing.assert_close(a, b[one])


@pytest.mark.parametrize(
    ("dtype", "table", "result", "tolerance"),
    [
        (torch.float32, torch.bfloat16, torch.float32, 2e-6),
        (torch.bfloat16, torch.bfloat16, torch.bfloat16, 2e-2),
        (torch.bfloat16, torch.float32, torch.float32, 2e-6),
        (torch.float16, torch.float16, torch.float16, 3e-3),
    ],
)
@pytest.mark.parametrize("path", [reference.qk_prep, torch_impl.qk_prep])
def test_dtypes_promote_as_plain_products_do(path, dtype, table, result, tolerance) -> None:
    q, k = inputs(1, 5, 4, 2, 16, dtype)
    cos, sin = (x.to(table) for x in tables(5, 16))
    assert (q * cos.repeat(1, 2)[:, None]).dtype == result
    expected = reference.qk_prep(q.double(), k.double(), cos.double(), sin.double(), 1.2)
    for a, b in zip(path(q, k, cos, sin, 1.2), expected, strict=True):
        assert a.dtype == result
        torch.testing.assert_close(a.double(), b, atol=tolerance, rtol=tolerance)


def test_zeros_stay_zeros_with_finite_gradients() -> None:
    q, k = (torch.zeros(1, 2, 1, 4, requires_grad=True) for _ in range(2))
    cos, sin = (x.float() for x in tables(2, 4))
    outputs = qk_prep(q, k, cos, sin, 1.2)
    assert all((x == 0).all() for x in outputs)
    for gradient in torch.autograd.grad(sum(x.sum() for x in outputs), (q, k)):
        assert gradient.isfinite().all()


def test_gradients() -> None:
    q, k = (x.requires_grad_() for x in inputs(1, 3, 2, 1, 4))
    cos, sin = tables(3, 4)
    assert torch.autograd.gradcheck(lambda q, k: qk_prep(q, k, cos, sin, 1.2), (q, k))
    weights = [torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(3)) for x in (q, k)]
    results = []
    for path in (torch_impl.qk_prep, reference.qk_prep):
        outputs = path(q, k, cos, sin, 1.2)
        results.append(torch.autograd.grad(sum((o * w).sum() for o, w in zip(outputs, weights, strict=True)), (q, k)))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("positions", [2, [0, 5], [-1, 6], [-9, 2**40], [4, 4]])
@pytest.mark.parametrize("path", [qk_prep_append, torch_impl.qk_prep_append, reference.qk_prep_append])
def test_appending_stores_what_qk_prep_gives(path, positions: int | list[int]) -> None:
    q, k = inputs(2, 3, 4, 2, 8, torch.float32)
    v = k * 7
    cos, sin = (x.float() for x in tables(3, 8))
    memory = torch.arange(2 * 4 * 7 * 8, dtype=torch.float32).view(2, 4, 7, 8)
    expected = memory.clone()
    plain_q, plain_k = qk_prep(q, k, cos, sin, 1.2)
    for b, start in enumerate([positions] * 2 if isinstance(positions, int) else positions):
        for t in range(3):
            if 0 <= start + t < 7:
                expected[b, :, start + t] = torch.cat([plain_k[b, t], v[b, t]])
    at = positions if isinstance(positions, int) else torch.tensor(positions)
    got = path(q, k, v, cos, sin, 1.2, *memory.transpose(1, 2).split(2, dim=2), at)
    torch.testing.assert_close(got, plain_q)
    torch.testing.assert_close(memory, expected)


def test_appending_takes_the_format_of_the_cache_and_can_be_compiled() -> None:
    q, k = inputs(1, 2, 2, 1, 8, torch.float32)
    tab = [x.float() for x in tables(2, 8)]
    results = []
    for function in (qk_prep_append, torch.compile(qk_prep_append, fullgraph=True, backend="aot_eager")):
        caches = [torch.zeros(1, 4, 1, 8, dtype=torch.bfloat16) for _ in range(2)]
        got = function(q, k, k, *tab, 1.0, *caches, torch.tensor([1]))
        assert got.dtype == torch.bfloat16
        results.append((got, *caches))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)
    empty = [torch.zeros(1, 0, 1, 8) for _ in range(2)]
    assert qk_prep_append(q, k, k, *tab, 1.0, *empty, torch.tensor([0])).shape == q.shape


def test_inputs_are_left_alone() -> None:
    q, k = inputs(1, 3, 2, 1, 4)
    before = q.clone(), k.clone()
    qk_prep(q, k, *tables(3, 4), 1.2)
    assert q.equal(before[0])
    assert k.equal(before[1])


def test_compiles_as_one_graph() -> None:
    q, k = inputs(1, 3, 2, 1, 4, torch.float32)
    cos, sin = (x.float()[None, :, None] for x in tables(3, 4))
    compiled = torch.compile(lambda *a: qk_prep(*a, 1.2), fullgraph=True, backend="aot_eager")
    for a, b in zip(compiled(q, k, cos, sin), qk_prep(q, k, cos, sin, 1.2), strict=True):
        torch.testing.assert_close(a, b)


def test_the_definition_can_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k = inputs(1, 3, 2, 1, 4)
    monkeypatch.setattr(torch_impl, "qk_prep", None)
    monkeypatch.setenv("NANOCHAT_KERNELS_QK_PREP", "reference")
    assert qk_prep(q, k, *tables(3, 4))[0].equal(reference.qk_prep(q, k, *tables(3, 4), 1.0)[0])


q4, k4 = inputs(2, 3, 4, 2, 8)
c2, s2 = tables(3, 8)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("q", k4, c2, s2), "q is a str"),
        ((q4[0], k4, c2, s2), r"q has shape \(3, 4, 8\)"),
        ((q4, k4[0], c2, s2), r"k has shape \(3, 2, 8\)"),
        ((q4.int(), k4, c2, s2), "q is torch.int32"),
        ((q4, k4.float(), c2, s2), "k is torch.float32"),
        ((q4, k4.to("meta"), c2, s2), "k on meta"),
        ((q4[:1], k4, c2, s2), "q has batch 1 and k has 2"),
        ((q4, k4[..., :6], c2, s2), "q has head dim 8 and k has 6"),
        ((q4[:, :, :3], k4, c2, s2), "q has 3 heads and k has 2"),
        ((q4, k4[:, :2], c2, s2), "q has 3 positions and k 2"),
        ((q4[..., :7], k4[..., :7], c2, s2), "the head dim is 7"),
        ((q4, k4, c2[:2], s2), r"cos has shape \(2, 4\)"),
        ((q4, k4, c2, s2[:, :2]), r"sin has shape \(3, 2\)"),
        ((q4, k4, c2[None, :, None], s2[None, :, :, None]), r"sin has shape \(1, 3, 4, 1\)"),
        ((q4, k4, c2, 1.0), "sin is float"),
        ((q4, k4, c2.int(), s2), "cos is torch.int32"),
        ((q4, k4, c2, s2.to("meta")), "sin on meta"),
        ((q4, k4, c2, s2, math.nan), "gain is nan"),
        ((q4, k4, c2, s2, None), "gain is None"),
    ],
)
def test_bad_input_is_named(arguments: tuple, words: str) -> None:
    with pytest.raises(KernelInputError, match=words) as error:
        qk_prep(*arguments)
    assert "\n" not in str(error.value)
