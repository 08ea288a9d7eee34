"""The formulas of a step: each does what its paper promises, in every shape, and nothing breaks on zeros."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat import optim_math as m

SHAPES = [(1, 1), (3, 3), (16, 16), (8, 32), (32, 8), (12, 16), (2, 12), (1, 24), (33, 16)]
torch.manual_seed(0)


def stack(shape: tuple[int, int], seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(3, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def directly(x: torch.Tensor) -> torch.Tensor:
    """The definition, by the singular values themselves."""
    u, s, vt = torch.linalg.svd(x, full_matrices=False)
    for a, b, c in m.POLAR_EXPRESS:
        s = a * s + b * s**3 + c * s**5
    return u @ torch.diag_embed(s) @ vt


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_orthogonal_applies_the_polynomials_to_the_singular_values(shape, dtype):
    x = stack(shape)
    x = x / (1.01 * torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True))
    ours = m.orthogonal(x.to(dtype), m.POLAR_EXPRESS)
    assert ours.dtype == dtype
    torch.testing.assert_close(ours.double(), directly(x), rtol=0, atol=1e-12 if dtype == torch.float64 else 1e-5)


@pytest.mark.parametrize("kind", ["muon-2026-02", "muon-2025"])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_older_form_is_the_same_but_for_rounding(shape, kind):
    x = stack(shape)
    x = x / (1.02 * torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True))
    torch.testing.assert_close(m.orthogonal_before(x, m.POLAR_EXPRESS, kind), directly(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", [(16, 16), (8, 32), (64, 16)])
def test_orthogonal_stays_exact_in_float32_where_directions_are_weak(shape):
    """Singular values over seven decades: the short cut for long matrices loses no more than the plain way."""
    least = min(shape)
    u, _ = torch.linalg.qr(stack((shape[0], least)))
    v, _ = torch.linalg.qr(stack((shape[1], least), seed=1))
    x = u @ torch.diag(torch.logspace(0, -7, least, dtype=torch.float64)) @ v.mT
    x = x / torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True)
    assert (m.orthogonal(x.float(), m.POLAR_EXPRESS).double() - directly(x)).abs().max() < 2e-5


def test_five_steps_bring_three_decades_of_singular_values_near_one():
    values = torch.logspace(-3, 0, 64, dtype=torch.float64) / 1.01
    out = torch.linalg.svdvals(m.orthogonal(torch.diag(values)[None], m.POLAR_EXPRESS))
    assert out.min() > 0.85
    assert out.max() < 1.15
    once = torch.linalg.svdvals(m.orthogonal(torch.diag(values)[None], m.POLAR_EXPRESS[:1]))
    assert once.min() < 0.01  # one step is not enough


@settings(max_examples=30, deadline=None)
@given(shape=st.sampled_from(SHAPES), seed=st.integers(0, 99), size=st.sampled_from([1e-3, 1.0, 1e4]))
def test_equilibrated_rows_are_alike_and_the_norm_is_what_was_asked(shape, seed, size):
    x = stack(shape, seed) * size * torch.logspace(0, 2, shape[0], dtype=torch.float64)[:, None]
    even = x * m.equilibrated_scale(x, 1.01, m.TINY)
    rows = torch.linalg.vector_norm(even, dim=-1)
    torch.testing.assert_close(rows, rows.mean(dim=-1, keepdim=True).expand_as(rows), rtol=1e-6, atol=0)
    before, after = (torch.linalg.vector_norm(t, dim=(-2, -1)) for t in (x, even))
    torch.testing.assert_close(after, before / (1.01 * before + m.TINY))


@settings(max_examples=30, deadline=None)
@given(shape=st.sampled_from([s for s in SHAPES if s != (1, 1)]), seed=st.integers(0, 99))
def test_normuon_evens_out_neurons_and_keeps_the_norm(shape, seed):
    x = stack(shape, seed)
    x[:, 0, 0] *= 30
    over = m.neuron_dim(torch.Size(x.shape))
    assert over == (-1 if shape[0] >= shape[1] else -2)
    energy = x.square().mean(dim=over, keepdim=True)
    second = torch.zeros_like(energy)
    after = x * m.normuon_scale(energy, x.size(over), second, 0.9)
    torch.testing.assert_close(second, energy * 0.1)
    norms = [torch.linalg.vector_norm(t, dim=(-2, -1)) for t in (x, after)]
    torch.testing.assert_close(*norms)
    neurons = after.square().mean(dim=over)  # with a memory of this step alone, all neurons move equally far
    torch.testing.assert_close(neurons, neurons.mean(dim=-1, keepdim=True).expand_as(neurons))


def test_frobenius_scale_gives_the_norm_of_an_orthogonal_matrix():
    x = stack((8, 32))
    x = x * m.frobenius_scale(x.square().mean(dim=-2, keepdim=True), 8, x.shape)
    torch.testing.assert_close(torch.linalg.vector_norm(x, dim=(-2, -1)), torch.full((3,), 8**0.5, dtype=x.dtype))


def test_cautious_decay_asks_the_step():
    weights = torch.tensor([2.0, 2.0, -2.0, -2.0])
    m.cautious_(weights, torch.tensor([1.0, -1.0, 1.0, -1.0]), lr=0.1, weight_decay=0.5)
    torch.testing.assert_close(weights, torch.tensor([1.8, 2.1, -2.1, -1.8]))
    m.cautious_(weights, torch.ones(4), lr=0.1, weight_decay=0.0)
    torch.testing.assert_close(weights, torch.tensor([1.7, 2.0, -2.2, -1.9]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_adamw_is_the_textbooks(dtype):
    weights, grads = stack((8, 4), dtype=dtype), stack((8, 4), 1, dtype)
    mean, square = torch.zeros_like(weights), torch.zeros_like(weights)
    w, a, b = (tensor.double().clone() for tensor in (weights, mean, square))
    for t in range(1, 4):
        kept = weights.double().clone()
        m.adamw_(
            [weights], [grads], [mean], [square], [torch.tensor(float(t))],
            lr=0.1, betas=(0.8, 0.96), eps=1e-10, weight_decay=0.01,
        )  # fmt: skip
        g = grads.double()
        a, b = 0.8 * a + 0.2 * g, 0.96 * b + 0.04 * g * g
        w = kept * (1 - 0.1 * 0.01) - 0.1 * (a / (1 - 0.8**t)) / ((b / (1 - 0.96**t)).sqrt() + 1e-10)
        if dtype != torch.bfloat16:
            torch.testing.assert_close(weights.double(), w, rtol=0, atol={torch.float32: 2e-6}.get(dtype, 1e-14))
        else:
            torch.testing.assert_close(weights.double(), w, rtol=2**-7, atol=2**-7)


@pytest.mark.parametrize("kind", ["muon", "muon-2026-02", "muon-2025"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("iterate_in", [torch.float32, torch.bfloat16])
def test_a_gradient_of_zeros_moves_nothing(kind, shape, iterate_in):
    weights = stack(shape, dtype=torch.float32)
    before, momentum = weights.clone(), torch.zeros_like(weights)
    second = None if kind == "muon-2025" else weights.square().mean(m.neuron_dim(weights.shape), keepdim=True) * 0
    m.muon_(
        weights, torch.zeros_like(weights), momentum, second, kind=kind, lr=0.1, momentum=0.95, ns_steps=5, beta2=0.9,
        weight_decay=0.0, iterate_in=iterate_in,
    )  # fmt: skip
    assert torch.equal(weights, before)
