"""kernels.sample: the kept sets, the distribution, ties, seeds, and the fast path against the definition."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernels import KernelInputError, sample
from kernels.sample import philox, reference, torch_impl

PATHS = pytest.mark.parametrize("path", [reference.sample, torch_impl.sample], ids=["reference", "torch"])


def draw(path, logits: Tensor, temperature=1.0, top_k=None, top_p=None, min_p=None, seed=0, step=0, softcap=0.0):
    return path(logits, temperature, top_k, top_p, min_p, seed, step, softcap)


def kept_by_hand(logits: list[float], temperature: float, top_k: int, top_p: float, min_p: float) -> set[int]:
    """The filters in Python floats, token by token."""
    z = [x / temperature for x in logits]
    order = sorted((t for t in range(len(z)) if z[t] > -math.inf), key=lambda t: -z[t])
    lowest = -math.inf
    if 0 < top_k < len(order):
        lowest = z[order[top_k - 1]]
    weights = {t: math.exp(z[t] - z[order[0]]) for t in order}
    if top_p < 1:
        allowed = [t for t in order if z[t] >= lowest]
        whole = math.fsum(weights[t] for t in allowed)
        running = 0.0
        for t in allowed:
            running += weights[t]
            if running >= top_p * whole:
                lowest = max(lowest, z[t])
                break
    return {t for t in order if z[t] >= lowest and weights[t] >= min_p * (1 - 1e-12)}


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.one_of(st.floats(-8, 8, width=16), st.sampled_from([-math.inf, 0.0, 1.0])), min_size=1, max_size=24),
    st.sampled_from([0.5, 1.0, 2.0]),
    st.sampled_from([0, 1, 2, 5, 100]),
    st.sampled_from([0.125, 0.5, 0.9, 1.0]),
    st.sampled_from([0.0, 0.01, 0.3, 1.0]),
    st.integers(-(2**63), 2**63 - 1),
)
def test_definition_keeps_and_draws_what_the_formula_says(logits, temperature, top_k, top_p, min_p, seed) -> None:
    if max(logits) == -math.inf:
        logits = [0.0, *logits]
    x = torch.tensor([logits], dtype=torch.float64)
    kept = kept_by_hand(logits, temperature, top_k, top_p, min_p)
    got = draw(reference.sample, x, temperature, top_k, top_p, min_p, seed, 7)
    assert got.n_kept.item() == len(kept)
    noise = philox.gumbel(torch.tensor([[seed]]), torch.tensor([[7]]), len(logits), torch.float64)[0]
    assert got.token.item() == max(sorted(kept), key=lambda t: logits[t] / temperature + noise[t].item())
    whole = math.log(math.fsum(math.exp(value) for value in logits))
    assert got.logprob.item() == pytest.approx(logits[got.token.item()] - whole, abs=1e-5)


def test_fast_path_equals_the_definition_token_for_token() -> None:
    torch.manual_seed(0)
    step = 0
    settings_ = itertools.product(
        (0.0, 0.3, 1.0, 2.0), (None, 1, 5, 50, 10**6), (None, 0.1, 0.9, 0.999), (None, 0.05, 1)
    )
    for temperature, top_k, top_p, min_p in settings_:
        for B, V in ((1, 1), (3, 5), (1, 127), (2, 1500), (7, 100)):
            step += 1
            x = torch.randn(B, V) * 4
            if step % 2:
                x = x.round()  # many ties
            if step % 3 == 0:
                x = x.masked_fill(torch.rand(B, V) < 0.3, -torch.inf)
            softcap = 15.0 if step % 5 == 0 else 0.0
            seed = torch.randint(-(2**63), 2**63 - 1, (B,))
            fast = draw(sample, x, temperature, top_k, top_p, min_p, seed, step, softcap)
            slow = draw(reference.sample, x, temperature, top_k, top_p, min_p, seed, step, softcap)
            assert fast.token.equal(slow.token)
            assert fast.n_kept.equal(slow.n_kept)
            torch.testing.assert_close(fast.logprob, slow.logprob, atol=2e-5, rtol=1e-5, equal_nan=True)
            assert [part.dtype for part in fast] == [torch.int64, torch.float32, torch.int64]
            assert [part.dtype for part in slow] == [torch.int64, torch.float32, torch.int64]


@pytest.mark.parametrize("spread", [0.0, 0.5, 3.0, 12.0])
def test_top_p_finds_its_threshold_beyond_the_first_thousand(spread: float) -> None:
    x = torch.randn(3, 9001, generator=torch.Generator().manual_seed(4)) * spread
    for top_p, top_k in itertools.product((0.001, 0.3, 0.9, 0.9999), (None, 2000, 40)):
        fast = draw(torch_impl.sample, x, 0.7, top_k, top_p, seed=3)
        slow = draw(reference.sample, x, 0.7, top_k, top_p, seed=3)
        assert fast.n_kept.equal(slow.n_kept)
        assert fast.token.equal(slow.token)


@PATHS
def test_parameters_per_row_equal_rows_alone(path) -> None:
    rows, V = 6, 300
    x = torch.randn(rows, V, generator=torch.Generator().manual_seed(1)) * 3
    temperature = torch.tensor([0.0, 0.5, 1.0, 2.0, 0.0, 1.3])
    top_k = torch.tensor([0, 3, 0, 40, 7, 1])
    top_p = torch.tensor([0.5, 1.0, 0.7, 0.9, 1.0, 0.2])
    min_p = torch.tensor([0.0, 0.1, 0.0, 0.001, 0.5, 1.0])
    seed = torch.tensor([5, -5, 2**63 - 1, -(2**63), 0, 2**40])
    step = torch.tensor([0, 1, 2**32, 2**40 + 3, 9, 9])
    together = draw(path, x, temperature, top_k, top_p, min_p, seed, step)
    for row in range(rows):
        alone = draw(path, x[[row]], *(value[row].item() for value in (temperature, top_k, top_p, min_p, seed, step)))
        assert alone.token.item() == together.token[row].item()
        assert alone.n_kept.item() == together.n_kept[row].item()


@PATHS
@pytest.mark.parametrize("top_k", [None, 20])
def test_a_draw_depends_neither_on_the_batch_nor_on_its_place(path, top_k: int | None) -> None:
    x = torch.randn(9, 401, generator=torch.Generator().manual_seed(2))
    seed = torch.arange(9) * 1234567
    together = draw(path, x, 1.0, top_k, seed=seed, step=3).token
    order = torch.tensor([4, 0, 8, 2])
    assert draw(path, x[order], 1.0, top_k, seed=seed[order], step=3).token.equal(together[order])
    # The kept set may shrink or grow the work, never the noise: cut the vocabulary behind the token, it stays.
    for row, token in enumerate(together.tolist()):
        shorter = draw(path, x[[row], : token + 1], seed=int(seed[row]), step=3).token.item()
        if top_k is None:
            assert shorter == token


@PATHS
def test_seed_and_step_change_the_draw(path) -> None:
    x = torch.zeros(1, 1000)
    tokens = [draw(path, x, seed=seed, step=step).token.item() for seed in range(6) for step in range(6)]
    assert len(set(tokens)) > 30
    assert draw(path, x, seed=1, step=2).token.equal(draw(path, x, seed=1, step=2).token)
    # Both halves of a 64-bit seed and of a step count, and a negative seed is its 64 bits.
    assert len({draw(path, x, seed=1, step=step).token.item() for step in (5, 5 + 2**32, 5 + 2**33)}) == 3
    assert len({draw(path, x, seed=seed).token.item() for seed in (5, 5 + 2**32, 5 - 2**63)}) == 3
    assert draw(path, x, seed=-7).token.equal(draw(path, x, seed=2**64 - 7).token)


@PATHS
def test_one_seed_gives_all_rows_the_same_noise(path) -> None:
    tokens = draw(path, torch.zeros(8, 500), seed=11).token
    assert (tokens == tokens[0]).all()
    assert len(set(draw(path, torch.zeros(8, 500), seed=torch.arange(8)).token.tolist())) > 5


@PATHS
def test_greedy_takes_the_lowest_of_equal_maxima(path) -> None:
    x = torch.tensor([[1.0, 3.0, 3.0, 2.0], [5.0, 5.0, 5.0, 5.0], [-1.0, -2.0, -3.0, -0.5]])
    for temperature in (0, 0.0, 1e-7, torch.zeros(3)):
        got = draw(path, x, temperature, 3, 0.5, 0.1, seed=torch.arange(3))
        assert got.token.tolist() == [1, 0, 3]
        assert got.n_kept.tolist() == [1, 1, 1]
    expected = x.double().log_softmax(-1)[range(3), [1, 0, 3]]
    torch.testing.assert_close(got.logprob.double(), expected, atol=1e-6, rtol=1e-6)


@PATHS
def test_ties_at_a_threshold_are_all_kept(path) -> None:
    x = torch.tensor([[2.0, 0.0, 2.0, 1.0, 1.0, 1.0, -torch.inf]])
    expected = {1: 2, 2: 2, 3: 5, 4: 5, 5: 5, 6: 6, 7: 6, 100: 6}
    for order in (torch.arange(7), torch.arange(7).flip(0), torch.tensor([3, 1, 0, 6, 5, 2, 4])):
        for top_k, n_kept in expected.items():
            assert draw(path, x[:, order], 1.0, top_k).n_kept.item() == n_kept
        # Weights 1, 1, then three times 1/e: the second half of the mass starts inside the tie.
        assert draw(path, x[:, order], 1.0, None, 0.3).n_kept.item() == 2
        assert draw(path, x[:, order], 1.0, None, 0.7).n_kept.item() == 5
        assert draw(path, x[:, order], 1.0, None, 1.0).n_kept.item() == 6
        # Among top_k's five tokens, ties included, all ties are part of the whole.
        assert draw(path, x[:, order], 1.0, 3, 0.65).n_kept.item() == 5
        assert draw(path, x[:, order], 1.0, 3, 0.6).n_kept.item() == 2
        assert draw(path, x[:, order], 1.0, None, None, 1.0).n_kept.item() == 2


@PATHS
def test_exact_masses(path) -> None:
    flat = torch.zeros(1, 8)
    assert draw(path, flat, 1.0, None, 0.5).n_kept.item() == 8  # all are ties
    reached = torch.tensor([[0.0, -math.log(2), -math.log(2)]])
    assert draw(path, reached, 1.0, None, 0.5).n_kept.item() == 1  # exactly half is enough
    halves = torch.tensor([[0.5, 0.25, 0.125, 0.125]]).log()
    kept = [draw(path, halves, 1.0, None, p).n_kept.item() for p in (0.01, 0.4, 0.51, 0.74, 0.76, 0.99)]
    assert kept == [1, 1, 2, 2, 4, 4]
    kept = [draw(path, halves, 1.0, None, None, m).n_kept.item() for m in (0, 0.2, 0.3, 0.49, 0.51, 1)]
    assert kept == [4, 4, 2, 2, 1, 1]
    # A temperature of 1/2 squares the weights before the filters see them: 16, 4, 1, 1.
    assert draw(path, halves, 0.5, None, 0.72).n_kept.item() == 1
    assert draw(path, halves, 0.5, None, None, 0.2).n_kept.item() == 2


def chi_square(tokens: Tensor, probabilities: Tensor) -> float:
    """Distance of counts from their expectation, in standard deviations of the chi-square distribution."""
    live = probabilities > 0
    counts = torch.bincount(tokens, minlength=len(probabilities))
    assert (counts[~live] == 0).all()
    expected = probabilities[live] * len(tokens)
    statistic = ((counts[live] - expected) ** 2 / expected).sum().item()
    freedom = int(live.sum()) - 1
    return (statistic - freedom) / math.sqrt(2 * freedom)


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p", "min_p"),
    [
        (1.0, None, None, None),
        (0.5, None, None, None),
        (2.0, 5, None, None),
        (1.0, None, 0.8, None),
        (1.3, 7, 0.95, 0.1),
    ],
)
@PATHS
def test_tokens_fall_with_their_probabilities(path, temperature, top_k, top_p, min_p) -> None:
    logits = torch.tensor([2.0, 1.5, 1.4, 0.9, 0.3, 0.0, -0.2, -0.7, -1.0, -1.2, -2.0], dtype=torch.float64)
    kept = kept_by_hand(logits.tolist(), temperature, top_k or 0, top_p or 1.0, min_p or 0.0)
    z = (logits / temperature).where(torch.tensor([t in kept for t in range(11)]), torch.tensor(-torch.inf).double())
    draws = 30_000
    x = logits.float().expand(draws, -1)
    by_seed = draw(path, x, temperature, top_k, top_p, min_p, seed=torch.arange(draws), step=1)
    assert (by_seed.n_kept == len(kept)).all()
    assert abs(chi_square(by_seed.token, z.softmax(0))) < 5
    by_step = draw(path, x, temperature, top_k, top_p, min_p, seed=42, step=torch.arange(draws))
    assert abs(chi_square(by_step.token, z.softmax(0))) < 5


def test_unlikely_tokens_are_drawn_as_often_as_they_should() -> None:
    draws = 200_000
    x = torch.tensor([0.0, -8.0, -torch.inf]).expand(draws, -1)
    expected = draws * math.exp(-8) / (1 + math.exp(-8))  # 67
    count = int((sample(x, 1.0, seed=torch.arange(draws)).token == 1).sum())
    assert abs(count - expected) < 5 * math.sqrt(expected)


def test_tokens_of_one_row_are_independent_across_steps() -> None:
    steps = torch.arange(20_000)
    tokens = sample(torch.zeros(len(steps), 4), 1.0, seed=9, step=steps).token
    pairs = tokens[:-1] * 4 + tokens[1:]
    assert abs(chi_square(pairs, torch.full((16,), 1 / 16))) < 5


@PATHS
def test_logprob_ignores_temperature_and_filters(path) -> None:
    x = torch.randn(5, 50, generator=torch.Generator().manual_seed(6)) * 20
    capped = 15 * torch.tanh(x.double() / 15)
    for temperature, top_k, top_p in ((0.0, None, None), (0.3, 4, None), (3.0, None, 0.9)):
        got = draw(path, x, temperature, top_k, top_p, seed=torch.arange(5), softcap=15.0)
        expected = capped.log_softmax(-1)[range(5), got.token]
        torch.testing.assert_close(got.logprob.double(), expected, atol=2e-5, rtol=1e-5)


@PATHS
@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize(("top_k", "top_p", "min_p"), [(None, None, None), (2, 0.9, 0.1)])
def test_contents_have_defined_results(path, temperature, top_k, top_p, min_p) -> None:
    inf, nan = math.inf, math.nan
    x = torch.tensor(
        [
            [1.0, nan, 2.0, 0.0],
            [-inf, -inf, -inf, -inf],
            [-inf, 3.0, -inf, -inf],
            [0.0, inf, 5.0, -inf],
            [nan, inf, 0.0, 0.0],
            [1.0, 2.0, 9.0, 4.0],
            [3e38, -3e38, 0.0, 1.0],
        ]
    )
    got = draw(path, x, temperature, top_k, top_p, min_p, seed=torch.arange(7))
    assert got.token.tolist() == [-1, -1, 1, 1, -1, got.token[5].item(), 0]
    assert got.n_kept[[0, 1, 4]].tolist() == [0, 0, 0]
    assert got.n_kept[[2, 3, 6]].tolist() == [1, 1, 1] if top_k or not temperature else [1, 1, 4]
    assert got.logprob[[0, 1, 4]].isnan().all()
    assert got.logprob[[2, 3, 6]].tolist() == [0, 0, 0]
    alone = draw(path, x[[5]], temperature, top_k, top_p, min_p, seed=5)
    assert alone.token.item() == got.token[5].item() >= 0
    assert draw(path, x[[0]], temperature, top_k, top_p, min_p).token.tolist() == [-1]


@PATHS
def test_several_infinities_share_the_mass(path) -> None:
    x = torch.tensor([[math.inf, 0.0, math.inf, -math.inf]]).expand(2000, -1)
    got = draw(path, x, 1.0, seed=torch.arange(2000))
    assert (got.n_kept == 2).all()
    torch.testing.assert_close(got.logprob, torch.full((2000,), -math.log(2)))
    assert abs(chi_square(got.token, torch.tensor([0.5, 0.0, 0.5, 0.0]))) < 5
    assert (draw(path, x, 0.0).token == 0).all()
    # A softcap leaves nothing infinite: c is the limit.
    assert draw(path, x[:1], 1.0, softcap=15.0).n_kept.item() == 4


@PATHS
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_dtypes_layouts_and_modes(path, dtype: torch.dtype) -> None:
    x = torch.randn(3, 130, generator=torch.Generator().manual_seed(8)).to(dtype)
    expected = draw(path, x.float(), 0.9, 20, seed=torch.arange(3)).token
    assert draw(path, x, 0.9, 20, seed=torch.arange(3)).token.equal(expected)
    strided = torch.stack([x, x + 1], -1)[..., 0]
    assert draw(path, strided, 0.9, 20, seed=torch.arange(3)).token.equal(expected)
    kept = x.clone()
    assert draw(path, x.requires_grad_(), 0.9, 20, seed=torch.arange(3), softcap=3.0).token.shape == (3,)
    assert x.equal(kept)  # the logits are left alone
    with torch.inference_mode():
        assert draw(path, kept, 0.9, 20, seed=torch.arange(3)).token.equal(expected)


def test_no_rows_give_no_tokens() -> None:
    for temperature in (0.0, 1.0):
        got = sample(torch.zeros(0, 5), temperature)
        assert [part.shape for part in got] == [(0,)] * 3
        assert [part.dtype for part in got] == [torch.int64, torch.float32, torch.int64]


def test_rows_with_parameters_out_of_range_are_refused_by_contents_where_they_cannot_be_read() -> None:
    x = torch.zeros(6, 5)
    got = reference.sample(
        x,
        torch.tensor([1.0, -1.0, math.nan, 1.0, 1.0, 1.0]),
        torch.tensor([0, 0, 0, -1, 0, 0]),
        torch.tensor([1.0, 1.0, 1.0, 1.0, 0.0, 1.0]),
        torch.tensor([0.0, 0.0, 0.0, 0.0, 0.0, 1.5]),
        0,
        0,
        0.0,
    )
    assert (got.token >= 0).tolist() == [True] + [False] * 5
    assert (got.n_kept > 0).tolist() == [True] + [False] * 5


def test_compiles_as_one_graph_and_draws_the_same() -> None:
    x = torch.randn(2, 70, generator=torch.Generator().manual_seed(3))
    seed = torch.tensor([4, -4])
    greedy = torch.compile(lambda x: sample(x, 0.0, softcap=15.0), fullgraph=True, backend="aot_eager")
    assert greedy(x).token.equal(x.argmax(-1))
    drawn = torch.compile(lambda x, s: sample(x, 0.8, 9, 0.9, 0.01, s, 5), fullgraph=True, backend="aot_eager")
    assert drawn(x, seed).token.equal(sample(x, 0.8, 9, 0.9, 0.01, seed, 5).token)


def test_the_definition_can_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_impl, "sample", None)
    monkeypatch.setenv("NANOCHAT_KERNELS_SAMPLE", "reference")
    assert sample(torch.tensor([[0.0, 1.0]]), 0.0).token.tolist() == [1]


x2 = torch.zeros(2, 5)


@pytest.mark.parametrize(
    ("logits", "options", "words"),
    [
        ([[0.0]], {}, "logits is a list"),
        (x2[0], {}, r"logits has shape \(5,\)"),
        (x2.long(), {}, "logits is torch.int64"),
        (x2[:, :0], {}, "empty vocabulary"),
        (x2, {"temperature": -0.1}, "temperature is -0.1"),
        (x2, {"temperature": math.nan}, "temperature is nan"),
        (x2, {"temperature": math.inf}, "temperature is inf"),
        (x2, {"temperature": "1"}, "temperature is '1'"),
        (x2, {"temperature": None}, "temperature is None"),
        (x2, {"temperature": torch.tensor([1.0, -2.0])}, "temperature is -2.0"),
        (x2, {"temperature": torch.ones(3)}, r"temperature has shape \(3,\)"),
        (x2, {"temperature": torch.tensor(1.0)}, r"temperature has shape \(\)"),
        (x2, {"temperature": torch.ones(2, dtype=torch.int64)}, "temperature is torch.int64"),
        (x2, {"temperature": torch.ones(2, device="meta")}, "temperature is on meta"),
        (x2, {"top_k": -1}, "top_k is -1"),
        (x2, {"top_k": 2.0}, "top_k is 2.0"),
        (x2, {"top_k": torch.tensor([1, -1])}, "top_k is -1"),
        (x2, {"top_k": torch.ones(2)}, "top_k is torch.float32"),
        (x2, {"top_p": 0.0}, "top_p is 0.0"),
        (x2, {"top_p": 1.01}, "top_p is 1.01"),
        (x2, {"top_p": math.nan}, "top_p is nan"),
        (x2, {"top_p": torch.tensor([0.5, 0.0])}, "top_p is 0.0"),
        (x2, {"min_p": -0.5}, "min_p is -0.5"),
        (x2, {"min_p": 2}, "min_p is 2"),
        (x2, {"min_p": torch.tensor([0.5, math.nan])}, "min_p is nan"),
        (x2, {"seed": 2**64}, "seed is 18446744073709551616"),
        (x2, {"seed": -(2**63) - 1}, "seed is -9223372036854775809"),
        (x2, {"seed": 1.0}, "seed is 1.0"),
        (x2, {"seed": None}, "seed is None"),
        (x2, {"seed": torch.arange(3)}, r"seed has shape \(3,\)"),
        (x2, {"step": -1}, "step is -1"),
        (x2, {"step": torch.tensor([0, -3])}, "step is -3"),
        (x2, {"softcap": -1.0}, "softcap is -1.0"),
        (x2, {"softcap": math.nan}, "softcap is nan"),
        (x2, {"softcap": math.inf}, "softcap is inf"),
    ],
)
def test_bad_input_is_named(logits, options: dict, words: str) -> None:
    with pytest.raises(KernelInputError, match=words) as error:
        sample(logits, **options)
    assert "\n" not in str(error.value)
