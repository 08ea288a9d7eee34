"""kernels.linear_softcap_cross_entropy: the definition against a loop, chunks against the definition, gradients."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernels import KernelInputError, linear_softcap_cross_entropy
from kernels.linear_softcap_cross_entropy import reference, torch_impl


def inputs(N: int, C: int, V: int, dtype: torch.dtype = torch.float64, ignored: float = 0.0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(N * 10007 + C * 101 + V)
    x, w = (torch.randn(rows, C, generator=generator, dtype=torch.float64).to(dtype) for rows in (N, V))
    targets = torch.randint(V, (N,), generator=generator)
    targets[torch.rand(N, generator=generator) < ignored] = -1
    return [x.requires_grad_(), w.requires_grad_(), targets]


def defined(x: Tensor, w: Tensor, targets: Tensor, softcap: float, reduction: str) -> Tensor:
    losses = reference.losses(x, w, targets, softcap, -1)
    return {"none": losses, "sum": losses.sum(), "mean": reference.mean(losses.sum(), (targets != -1).sum())}[reduction]


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_impl, "CPU_LOGITS", 1)
    monkeypatch.setattr(torch_impl, "CPU_ROWS", 3)


def test_definition_is_the_formula() -> None:
    x, w, targets = inputs(4, 3, 5)
    x, w = x.detach(), w.detach()
    targets[2] = -1
    got = reference.losses(x, w, targets, 2.0, -1).tolist()
    for n, target in enumerate(targets.tolist()):
        z = [sum(float(x[n, c]) * float(w[v, c]) for c in range(3)) for v in range(5)]
        capped = [2.0 * math.tanh(value / 2.0) for value in z]
        expected = 0.0 if target < 0 else math.log(sum(math.exp(value) for value in capped)) - capped[target]
        assert got[n] == pytest.approx(expected, abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_chunks_equal_the_definition_with_their_gradients(data: st.DataObject) -> None:
    N, C, V = data.draw(st.integers(0, 20), "N"), data.draw(st.integers(1, 5), "C"), data.draw(st.integers(1, 9), "V")
    softcap = data.draw(st.sampled_from([0.5, 15.0, 20.0, 40.0, 100.0]), "softcap")
    reduction = data.draw(st.sampled_from(["mean", "sum", "none"]), "reduction")
    x, w, targets = inputs(N, C, V, ignored=data.draw(st.sampled_from([0.0, 0.3, 1.0]), "ignored"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch_impl, "CPU_LOGITS", 1)
        patch.setattr(torch_impl, "CPU_ROWS", data.draw(st.integers(1, 25), "rows of a chunk"))
        got = linear_softcap_cross_entropy(x, w, targets, softcap, reduction=reduction)
        expected = defined(x, w, targets, softcap, reduction)
        torch.testing.assert_close(got, expected, equal_nan=True)  # the mean over no row
        weights = torch.linspace(-1, 2, got.numel(), dtype=torch.float64).view_as(got)
        ours = torch.autograd.grad(got, (x, w), weights)
    for a, b in zip(ours, torch.autograd.grad(expected, (x, w), weights), strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=1e-9)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_gradients_are_the_slopes(reduction: str) -> None:
    x, w, targets = inputs(7, 3, 5, ignored=0.3)
    for softcap in (15.0, 100.0):  # the quick forms and the plain ones
        assert torch.autograd.gradcheck(
            lambda x, w, cap: linear_softcap_cross_entropy(x, w, targets, cap, reduction=reduction), (x, w, softcap)
        )


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("which", [0, 1])
def test_one_gradient_alone(which: int) -> None:
    x, w, targets = inputs(7, 3, 5)
    both = torch.autograd.grad(linear_softcap_cross_entropy(x, w, targets, 15.0), (x, w))
    alone = [x.detach(), w.detach()]
    alone[which].requires_grad_()
    (got,) = torch.autograd.grad(linear_softcap_cross_entropy(*alone, targets, 15.0), (alone[which],))
    torch.testing.assert_close(got, both[which])


@pytest.mark.parametrize("softcap", [15.0, 20.0, 40.0, 100.0])
def test_float32_is_as_exact_as_the_definition(softcap: float) -> None:
    x, w, targets = inputs(300, 32, 500, torch.float32)
    exact = torch.autograd.grad(defined(x.double(), w.double(), targets, softcap, "mean"), (x, w))
    errors = []
    for loss in (linear_softcap_cross_entropy(x, w, targets, softcap), defined(x, w, targets, softcap, "mean")):
        gradients = torch.autograd.grad(loss, (x, w))
        errors.append([(a - b).abs().max().item() for a, b in zip(gradients, exact, strict=True)])
    assert all(ours <= 2 * plain + 1e-9 for ours, plain in zip(*errors, strict=True)), errors


@pytest.mark.usefixtures("small_chunks")
def test_wide_weights_serve_half_precision_rows_and_get_wide_gradients() -> None:
    x, w, targets = inputs(40, 16, 30, torch.float32)
    half = x.detach().bfloat16().requires_grad_()
    loss = linear_softcap_cross_entropy(half, w, targets, 15.0)
    assert loss.dtype == torch.float32
    dx, dw = torch.autograd.grad(loss, (half, w))
    assert (dx.dtype, dw.dtype) == (torch.bfloat16, torch.float32)
    exact = defined(half.double(), w.bfloat16().double(), targets, 15.0, "mean")
    assert loss.item() == pytest.approx(exact.item(), rel=2e-3)
    for got, expected in zip((dx, dw), torch.autograd.grad(exact, (half, w)), strict=True):
        torch.testing.assert_close(got.double(), expected.double(), atol=0.02 * expected.abs().max().item(), rtol=0.02)


@pytest.mark.parametrize("scale", [1e4, -1e4, 0.0])
def test_extreme_logits_stay_finite(scale: float) -> None:
    x, w, targets = inputs(5, 4, 6, torch.float32)
    for softcap in (15.0, 1e3):
        loss = linear_softcap_cross_entropy(x * scale, w, targets, softcap)
        torch.testing.assert_close(loss, defined(x * scale, w, targets, softcap, "mean"), rtol=1e-4, atol=1e-4)
        assert all(g.isfinite().all() for g in torch.autograd.grad(loss, (x, w)))


def test_a_part_of_the_weights_gets_the_gradient_of_a_part() -> None:
    """The head's rows are padded; only those of the vocabulary count."""
    x, w, targets = inputs(9, 4, 8)
    (gradient,) = torch.autograd.grad(linear_softcap_cross_entropy(x, w[:6], targets % 6, 15.0), (w,))
    assert gradient[6:].abs().max() == 0
    assert gradient[:6].abs().min() > 0


def test_transposed_weights_and_other_layouts() -> None:
    x, w, targets = inputs(9, 4, 8)
    expected = defined(x, w, targets, 15.0, "sum")
    laid_out = w.detach().t().contiguous().t().requires_grad_()
    apart = torch.stack([x, x * math.nan], -1)[..., 0]
    got = linear_softcap_cross_entropy(apart, laid_out, targets, 15.0, reduction="sum")
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(
        torch.autograd.grad(got, (laid_out,))[0], torch.autograd.grad(expected, (w,))[0], atol=1e-12, rtol=1e-9
    )


def test_another_ignore_index_and_what_is_left_alone() -> None:
    x, w, targets = inputs(6, 3, 5)
    targets[1] = 4
    before = x.detach().clone(), w.detach().clone(), targets.clone()
    got = linear_softcap_cross_entropy(x, w, targets, 15.0, ignore_index=4, reduction="none")
    assert (got == 0).tolist() == (targets == 4).tolist()
    got.sum().backward()
    for now, then in zip((x, w, targets), before, strict=True):
        assert now.equal(then)


def test_ignored_rows_are_not_projected(monkeypatch: pytest.MonkeyPatch) -> None:
    x, w, targets = inputs(10, 3, 5)
    targets[2:9] = -1
    seen = []
    real = torch_impl._chunks
    monkeypatch.setattr(torch_impl, "_chunks", lambda x, *a: seen.append(len(x)) or real(x, *a))
    linear_softcap_cross_entropy(x, w, targets, 15.0, reduction="sum").backward()
    assert seen == [3]
    assert x.grad[2:9].abs().max() == 0


def test_the_path_of_a_device_that_is_not_asked_masks_instead(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU is never waited for, so there ignored rows are computed and their share is multiplied by zero."""
    x, w, targets = inputs(10, 3, 5, ignored=0.4)
    assert 0 < (targets == -1).sum() < 10
    expected = defined(x, w, targets, 15.0, "mean")
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    got = linear_softcap_cross_entropy(x, w, targets, 15.0)
    torch.testing.assert_close(got, expected)
    for a, b in zip(torch.autograd.grad(got, (x, w)), torch.autograd.grad(expected, (x, w)), strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=1e-9)


def test_logits_are_never_whole_in_memory() -> None:
    """At 4,096 rows of 2,048 logits one such tensor would be 32 MB; the largest here is a chunk's."""
    x, w, targets = inputs(4096, 8, 2048, torch.float32)
    with torch.profiler.profile(profile_memory=True, record_shapes=False) as profile:
        linear_softcap_cross_entropy(x, w, targets, 15.0).backward()
    largest = max(event.cpu_memory_usage / max(1, event.count) for event in profile.key_averages())
    assert largest <= 4096 * 2048 * 4 / 2


def test_compiles_as_one_graph() -> None:
    x, w, targets = inputs(7, 4, 5, torch.float32, ignored=0.3)
    compiled = torch.compile(linear_softcap_cross_entropy, fullgraph=True, backend="aot_eager")
    got, expected = compiled(x, w, targets, 15.0), linear_softcap_cross_entropy(x, w, targets, 15.0)
    torch.testing.assert_close(got, expected)
    for a, b in zip(torch.autograd.grad(got, (x, w)), torch.autograd.grad(expected, (x, w)), strict=True):
        torch.testing.assert_close(a, b)


def test_the_definition_can_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    x, w, targets = inputs(5, 3, 4, ignored=0.3)
    monkeypatch.setattr(torch_impl, "linear_softcap_cross_entropy", None)
    monkeypatch.setenv("NANOCHAT_KERNELS_LINEAR_SOFTCAP_CROSS_ENTROPY", "reference")
    for reduction in ("mean", "sum", "none"):
        got = linear_softcap_cross_entropy(x, w, targets, 15.0, reduction=reduction)
        assert got.equal(defined(x, w, targets, 15.0, reduction))


x4, w4, t4 = inputs(4, 3, 5)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("x", w4, t4, 15.0), "x is a str"),
        ((x4[0], w4, t4, 15.0), r"x has shape \(3,\)"),
        ((x4, w4[0], t4, 15.0), r"w has shape \(3,\)"),
        ((x4.int(), w4, t4, 15.0), "x is torch.int32"),
        ((x4, w4.to("meta"), t4, 15.0), "w on meta"),
        ((x4[:, :2], w4, t4, 15.0), "x has 2 channels and w 3"),
        ((x4, w4[:0], t4, 15.0), "w has no row"),
        ((x4, w4, t4[:3], 15.0), r"targets is torch.int64 \(3,\)"),
        ((x4, w4, t4.int(), 15.0), r"targets is torch.int32 \(4,\)"),
        ((x4, w4, [1, 2, 3, 4], 15.0), "targets is list"),
        ((x4, w4, t4.to("meta"), 15.0), "targets on meta"),
        ((x4, w4, t4 + 5, 15.0), "a target is [5-9], but w has 5 rows"),
        ((x4, w4, t4 - 9, 15.0), "a target is -"),
        ((x4, w4, t4, 0.0), "softcap is 0.0"),
        ((x4, w4, t4, math.nan), "softcap is nan"),
        ((x4, w4, t4, math.inf), "softcap is inf"),
        ((x4, w4, t4, None), "softcap is None"),
        ((x4, w4, t4, 15.0, -1, "average"), "reduction is 'average'"),
    ],
)
def test_bad_input_is_named(arguments: tuple, words: str) -> None:
    with pytest.raises(KernelInputError, match=words) as error:
        linear_softcap_cross_entropy(*arguments)
    assert "\n" not in str(error.value)
