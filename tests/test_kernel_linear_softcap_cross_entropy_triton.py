"""The Triton path of the head and its loss, against float64. On a GPU, and without one in the interpreter."""

import importlib
import math

import pytest
import torch
from torch import Tensor

from kernels import KernelInputError, backend, linear_softcap_cross_entropy
from kernels.linear_softcap_cross_entropy import _losses, _losses_gradients, _sum, reference
from tests.kernel_support import DEVICE, DTYPES, IMPLEMENTATION, ON_GPU, poison, use_triton, wide  # noqa: F401

pytestmark = pytest.mark.usefixtures("use_triton")
TOLERANCE = {torch.float32: 3e-6, torch.float16: 4e-3, torch.bfloat16: 3e-2}


def inputs(N: int, C: int, V: int, dtype: torch.dtype = torch.float32, wide_w: bool = False) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(N * 10007 + C * 101 + V)
    x, w = (torch.randn(rows, C, generator=generator).to(DEVICE) for rows in (N, V))
    targets = torch.randint(V, (N,), generator=generator)
    targets[1::3] = -1
    return x.to(dtype).requires_grad_(), (w if wide_w else w.to(dtype)).requires_grad_(), targets.to(DEVICE)


def exact(x: Tensor, w: Tensor, targets: Tensor, softcap: float, reduction: str) -> tuple[Tensor, ...]:
    """Loss and gradients of the definition in float64, for the numbers that the products see."""
    rows, weights = (tensor.requires_grad_() for tensor in wide(x, w.to(x.dtype)))
    losses = reference.losses(rows, weights, targets, softcap, -1)
    loss = {
        "none": losses,
        "sum": losses.sum(),
        "mean": reference.mean(losses.sum(), (targets != -1).sum()),
    }[reduction]
    return loss, *torch.autograd.grad(loss, (rows, weights), outside(loss))


def outside(loss: Tensor) -> Tensor:
    return torch.linspace(-1, 2, loss.numel(), dtype=loss.dtype, device=loss.device).view_as(loss)


def close(got: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    scale = expected.abs().max().item() if expected.numel() else 1.0
    tolerance = TOLERANCE[dtype] * max(1.0, scale if math.isfinite(scale) else 1.0)
    torch.testing.assert_close(got.double(), expected, atol=tolerance, rtol=TOLERANCE[dtype], equal_nan=True)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize(
    ("N", "C", "V", "softcap"), [(7, 4, 5, 15.0), (6, 16, 70, 20.0), (7, 3, 33, 100.0), (0, 3, 4, 15.0)]
)
def test_loss_and_gradients_equal_the_definition(dtype, reduction, N, C, V, softcap) -> None:
    x, w, targets = inputs(N, C, V, dtype)
    with poison():
        loss = linear_softcap_cross_entropy(x, w, targets, softcap, reduction=reduction)
        gradients = torch.autograd.grad(loss, (x, w), outside(loss))
    assert loss.dtype == torch.float32
    assert [gradient.dtype for gradient in gradients] == [dtype, dtype]
    for got, expected in zip((loss, *gradients), exact(x, w, targets, softcap, reduction), strict=True):
        close(got, expected, dtype)


def test_wide_weights_serve_half_precision_rows_and_get_wide_gradients() -> None:
    x, w, targets = inputs(7, 8, 20, torch.float16, wide_w=True)
    loss = linear_softcap_cross_entropy(x, w, targets, 15.0)
    dx, dw = torch.autograd.grad(loss, (x, w), outside(loss))
    assert (dx.dtype, dw.dtype) == (torch.float16, torch.float32)
    for got, expected in zip((loss, dx, dw), exact(x, w, targets, 15.0, "mean"), strict=True):
        close(got, expected, torch.float16)


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("reduction", ["sum", "none"])
def test_one_gradient_alone_and_none(which: int, reduction: str) -> None:
    tensors = [tensor.detach() for tensor in inputs(7, 3, 5)]
    tensors[which].requires_grad_()
    loss = linear_softcap_cross_entropy(*tensors, 15.0, reduction=reduction)
    (got,) = torch.autograd.grad(loss, (tensors[which],), outside(loss))
    close(got, exact(*tensors, 15.0, reduction)[1 + which], torch.float32)
    with torch.no_grad():
        close(linear_softcap_cross_entropy(*tensors, 15.0, reduction=reduction), loss.detach().double(), torch.float32)


def test_another_ignore_index_other_layouts_and_what_is_left_alone() -> None:
    x, w, targets = (tensor.detach() for tensor in inputs(6, 4, 9))
    targets = targets.clamp(min=0)
    targets[2] = -100
    expected = exact(x, w, targets.where(targets >= 0, -1), 15.0, "sum")
    apart = torch.stack([x, x * math.nan], -1)[..., 0].requires_grad_()
    padded = torch.cat([w, w * math.nan])[:9].t().contiguous().t().requires_grad_()
    before = apart.detach().clone(), padded.detach().clone()
    every_other = torch.stack([targets, targets], 1)[:, 0]
    loss = linear_softcap_cross_entropy(apart, padded, every_other, 15.0, ignore_index=-100, reduction="sum")
    gradients = torch.autograd.grad(loss, (apart, padded), outside(loss))
    for got, value in zip((loss, *gradients), expected, strict=True):
        close(got, value, torch.float32)
    assert apart.equal(before[0])
    assert padded.equal(before[1])


@pytest.mark.parametrize("scale", [1e4, -1e4, 0.0])
@pytest.mark.parametrize("softcap", [15.0, 1e3])
def test_extreme_logits_stay_finite(scale: float, softcap: float) -> None:
    x, w, targets = inputs(3, 4, 6)
    loss = linear_softcap_cross_entropy(x * scale, w, targets, softcap)
    torch.testing.assert_close(loss.double(), exact(x * scale, w, targets, softcap, "mean")[0], rtol=1e-5, atol=1e-5)
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(loss, (x, w)))


@pytest.mark.parametrize("softcap", [15.0, 100.0])
def test_contents_have_defined_results(softcap: float) -> None:
    """A NaN shows in its own row; so does a target that is no row of w, where nobody could look into the targets."""
    x, w, targets = (tensor.detach() for tensor in inputs(4, 3, 5))
    targets = torch.tensor([0, 5, 1, -7], device=DEVICE)
    x[2, 0] = math.nan
    losses = _losses(x, w, targets, softcap, -1)
    assert losses.isnan().tolist() == [False, True, True, True]
    dx, dw = _losses_gradients(torch.ones(4, device=DEVICE), x, w, targets, softcap, -1, True, False)
    assert dx.isfinite().all(1).tolist() == [True, True, False, True]
    assert dx[[1, 3]].abs().max() == 0
    assert dw.numel() == 0


def test_a_rows_loss_does_not_depend_on_its_chunk() -> None:
    x, w, targets = (tensor.detach() for tensor in inputs(12, 3, 40))
    z = (x @ w.t()).contiguous()
    impl = backend.triton_impl("linear_softcap_cross_entropy", IMPLEMENTATION)
    found = []
    for rows in (range(12), [5], range(3, 9)):
        part, losses = z[list(rows)].clone(), torch.empty(len(rows), device=DEVICE)
        values = {"BLOCK": 16, "num_warps": 4, "num_stages": 1}
        impl.launch(part, targets[list(rows)].contiguous(), losses, None, 15.0, -1, True, values)
        at = list(rows).index(5)
        found.append((losses[at].item(), part[at].tolist()))
    assert found[0] == found[1] == found[2]  # to the last bit


@pytest.mark.skipif(ON_GPU, reason="on a GPU the chunks of a test's size are larger than the test")
def test_logits_are_never_whole_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    impl = backend.triton_impl("linear_softcap_cross_entropy", IMPLEMENTATION)
    seen = []
    monkeypatch.setattr(impl, "launch", lambda z, *rest: seen.append(tuple(z.shape)))
    linear_softcap_cross_entropy(*inputs(12, 3, 4), 15.0)
    assert seen == [(5, 4), (5, 4), (2, 4)]


def test_chunks_follow_the_rule_of_memory() -> None:
    """An eighth of the rows, so that all chunks share the memory of one; at least 512, and at most 2^27 logits."""
    impl = backend.triton_impl("linear_softcap_cross_entropy", IMPLEMENTATION)
    gpu = torch.device("cuda")
    sizes = {N: impl.rows_of_a_chunk(N, 32768, gpu) for N in (1, 4096, 16384, 2**20)}
    assert sizes == {1: 512, 4096: 512, 16384: 2048, 2**20: 4096}


@pytest.mark.skipif(not ON_GPU, reason="a GPU counts its memory")
def test_peak_memory_is_an_eighth_of_the_definitions() -> None:
    x, w, targets = inputs(16384, 256, 32768, torch.bfloat16)

    def peak(loss_of) -> int:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        torch.autograd.grad(loss_of().mean(), (x, w))
        return torch.cuda.max_memory_allocated() - before

    plain = peak(lambda: reference.losses(x, w, targets, 15.0, -1))
    assert peak(lambda: linear_softcap_cross_entropy(x, w, targets, 15.0)) <= plain / 8


def test_the_operators_keep_their_promises() -> None:
    x, w, targets = inputs(3, 2, 5)
    torch.library.opcheck(_sum, (x, w, targets, 15.0, -1, True, True))
    torch.library.opcheck(_losses, (x, w, targets, 15.0, -1))
    plain = (torch.ones(3, device=DEVICE), x.detach(), w.detach(), targets, 15.0, -1, True, False)
    torch.library.opcheck(_losses_gradients, plain)
    for reduction in ("mean", "none"):
        compiled = torch.compile(linear_softcap_cross_entropy, fullgraph=True, backend="aot_eager")
        loss = compiled(x, w, targets, 15.0, reduction=reduction)
        gradients = torch.autograd.grad(loss, (x, w), outside(loss))
        for got, expected in zip((loss, *gradients), exact(x, w, targets, 15.0, reduction), strict=True):
            close(got, expected, torch.float32)


def test_bad_input_is_named_before_any_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.import_module("kernels.linear_softcap_cross_entropy"), "_by_triton", None)
    x, w, targets = inputs(3, 2, 5)
    for arguments, words in (
        ((x[:, :1], w, targets, 15.0), "x has 1 channels and w 2"),
        ((x, w, targets.int(), 15.0), "targets is torch.int32"),
        ((x, w, targets, 0.0), "softcap is 0.0"),
        ((x, w, targets, 15.0, -1, "average"), "reduction is 'average'"),
    ):
        with pytest.raises(KernelInputError, match=words):
            linear_softcap_cross_entropy(*arguments)
