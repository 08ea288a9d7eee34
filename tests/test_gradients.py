"""nanochat.gradients: the same values and slopes as PyTorch's own, in every format, and used only where they help."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nanochat import gradients
from nanochat.gpt import EPSILON, GPT, norm
from nanochat.gpt_config import GPTConfig
from nanochat.precision import forward_loss


def tensors(*shapes: tuple[int, ...], dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(len(shapes))
    return [torch.randn(s, generator=generator, dtype=torch.float64).to(dtype).requires_grad_() for s in shapes]


def plain_mlp(x: Tensor, into: Tensor, back: Tensor) -> Tensor:
    return F.linear(F.relu(F.linear(x, into.to(x.dtype))).square(), back.to(x.dtype))


def test_gradients_are_the_slopes() -> None:
    (x,) = tensors((2, 3, 5))
    assert torch.autograd.gradcheck(lambda x: gradients.rms_norm(x, EPSILON), (x,))
    assert torch.autograd.gradcheck(gradients.squared_relu_mlp, tensors((2, 3, 5), (7, 5), (4, 7)))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.bfloat16, 4e-2)])
def test_they_equal_pytorchs_own(dtype: torch.dtype, tolerance: float) -> None:
    x, into, back = tensors((2, 9, 16), (64, 16), (16, 64), dtype=torch.float32)
    x = x.detach().to(dtype).requires_grad_()
    pairs = (
        (lambda: gradients.rms_norm(x, EPSILON), lambda: F.rms_norm(x.double(), (16,), eps=EPSILON), (x,)),
        (
            lambda: gradients.squared_relu_mlp(x, into, back),
            lambda: plain_mlp(x.double(), into.to(dtype).double(), back.to(dtype).double()),
            (x, into, back),
        ),
    )
    for ours, plain, leaves in pairs:
        got, expected = ours(), plain()
        assert got.dtype == dtype
        weights = torch.linspace(-1, 1, got.numel()).view_as(got)
        compared = [(got, expected)]
        compared += zip(
            torch.autograd.grad(got, leaves, weights.to(dtype)),
            torch.autograd.grad(expected, leaves, weights.to(dtype).double()),
            strict=True,
        )
        for a, b in compared:
            limit = tolerance * b.abs().max().item()
            torch.testing.assert_close(a.double(), b.double(), atol=limit, rtol=tolerance)


def test_a_row_of_zeros_has_finite_gradients() -> None:
    x = torch.zeros(2, 4, requires_grad=True)
    gradients.rms_norm(x, EPSILON).sum().backward()
    assert x.grad.isfinite().all()


def test_only_training_takes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(3, 4)
    assert not gradients.worthwhile(x)
    assert gradients.worthwhile(x.requires_grad_())
    with torch.no_grad():
        assert not gradients.worthwhile(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert not gradients.worthwhile(x)
    assert not gradients.worthwhile(x.to("meta"))
    called = []
    monkeypatch.setattr(gradients, "rms_norm", lambda *a: called.append(a) or x)
    norm(x)
    assert len(called) == 1
    norm(x.detach())
    assert len(called) == 1


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_models_gradients_are_those_of_the_plain_operations(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    """Every shortcut of training together: against the definitions of the kernels and PyTorch's own gradients."""
    config = GPTConfig(sequence_len=32, vocab_size=40, n_layer=3, n_head=2, n_kv_head=1, n_embd=32, short_window=9)
    torch.manual_seed(0)
    model = GPT(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    model.to(torch.float64 if dtype == torch.float64 else torch.float32)
    x, y = torch.randint(40, (2, 3, 20))
    y[0, :5] = -1
    names = [name for name, _ in model.named_parameters()]
    fast = torch.autograd.grad(forward_loss(model, x, y, dtype), list(model.parameters()))
    monkeypatch.setenv("NANOCHAT_KERNELS", "reference")
    monkeypatch.setattr(gradients, "worthwhile", lambda x: False)
    exact = model.double()
    plain = torch.autograd.grad(forward_loss(exact, x, y), list(exact.parameters()))
    tolerance = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 0.15}[dtype]
    for name, a, b in zip(names, fast, plain, strict=True):
        assert a.dtype == (torch.float64 if dtype == torch.float64 else torch.float32), name
        assert (a.double() - b).norm() <= tolerance * b.norm(), name
