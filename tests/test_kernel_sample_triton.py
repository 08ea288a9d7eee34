"""The Triton kernels of kernels.sample: every draw is the definition's. Without a GPU, in the interpreter."""

import importlib
import math

import pytest
import torch
from torch import Tensor

from kernels import KernelInputError, backend, sample
from kernels.sample import SampleResult, _launch, reference
from tests.kernel_support import DEVICE, IMPLEMENTATION, ON_GPU, poison, use_triton  # noqa: F401

pytestmark = pytest.mark.usefixtures("use_triton")


def rows(B: int, V: int, spread: float = 4.0, seed: int = 0) -> Tensor:
    return (torch.randn(B, V, generator=torch.Generator().manual_seed(seed + 1000 * V)) * spread).to(DEVICE)


def seeds(B: int) -> Tensor:
    return (torch.arange(B, device=DEVICE) - 1) * 0x123456789ABCDEF


def defined(x: Tensor, T=1.0, k=None, p=None, m=None, seed=0, step=0, softcap=0.0) -> SampleResult:
    return reference.sample(x, T, k, p, m, seed, step, softcap)


def check(got: SampleResult, expected: SampleResult) -> None:
    assert got.token.tolist() == expected.token.tolist()
    assert got.n_kept.tolist() == expected.n_kept.tolist()
    torch.testing.assert_close(got.logprob, expected.logprob, atol=2e-5, rtol=1e-5, equal_nan=True)
    assert [part.dtype for part in got] == [torch.int64, torch.float32, torch.int64]


@pytest.mark.parametrize(
    ("V", "T", "k", "p", "m", "softcap"),
    [
        (1, 1.0, None, None, None, 0.0),
        (63, 0.0, 3, 0.5, None, 15.0),
        (129, 0.7, None, None, None, 0.0),
        (130, 1.3, None, None, None, 3.0),
        (127, 0.8, 5, None, None, 15.0),
        (257, 1.0, 1, None, None, 0.0),
        (257, 1.0, None, 0.6, None, 0.0),
        (257, 1.0, None, None, 0.05, 0.0),
        (321, 0.9, 20, 0.9, 0.01, 15.0),
        (321, 2.0, 300, 0.95, None, 0.0),
    ],
)
def test_draws_equal_the_definition(V, T, k, p, m, softcap) -> None:
    x = rows(2, V)
    with poison():
        got = sample(x, T, k, p, m, seeds(2), 2**32 + 5, softcap)
    check(got, defined(x, T, k, p, m, seeds(2), 2**32 + 5, softcap))


def test_parameters_in_tensors_and_rows_that_no_distribution_belongs_to() -> None:
    bad = math.nan
    table = [  # temperature, top_k, top_p, min_p, step
        (0.0, 0, 0.5, 0.0, 0),
        (0.5, 3, 1.0, 0.1, 1),
        (1.0, 0, 0.7, 0.0, 2**40 + 3),
        (2.0, 90, 0.9, 0.001, 2),
        (1e-7, 7, 1.0, 0.5, 3),
        (1.3, 10**9, 1.0, 0.0, 4),
        (-1.0, 1, 0.5, 0.5, 5),
        (bad, 1, 0.5, 0.5, 5),
        (1.0, -1, 0.5, 0.5, 5),
        (1.0, 1, 0.0, 0.5, 5),
        (1.0, 1, bad, 0.5, 5),
        (1.0, 1, 0.5, 1.5, 5),
    ]
    T, k, p, m, step = (torch.tensor(column, device=DEVICE) for column in zip(*table, strict=True))
    T, p = T.double(), p.double()
    x = rows(len(table), 100)
    # On a CPU the public function looks into such tensors and refuses; the operator behind it does not look.
    got = SampleResult(*_launch(x, 1.0, T, 0, k, 1.0, p, 0.0, m, 0, seeds(len(table)), 0, step, 0.0))
    expected = defined(x, T, k, p, m, seeds(len(table)), step)
    check(got, expected)
    assert (got.token < 0).tolist() == [False] * 6 + [True] * 6


def test_one_seed_and_its_64_bits() -> None:
    x = torch.zeros(2, 40, device=DEVICE)
    for seed in (-7, 2**64 - 7, 2**63, 2**33 + 1):
        got = sample(x, 1.0, seed=seed)
        check(got, defined(x, seed=seed))
        assert got.token[0] == got.token[1]


def test_ties_at_a_threshold_are_all_kept() -> None:
    x = torch.tensor([[2.0, 0.0, 2.0, 1.0, 1.0, 1.0, -torch.inf]], device=DEVICE)
    k = torch.tensor([1, 2, 3, 4, 5, 6, 7, 100, 3, 3, 0, 0, 0, 0], device=DEVICE)
    p = torch.tensor([*[1.0] * 8, 0.65, 0.6, 0.3, 0.7, 1.0, 1.0], device=DEVICE)
    m = torch.tensor([*[0.0] * 13, 1.0], device=DEVICE)
    for order in (torch.arange(7), torch.tensor([3, 1, 0, 6, 5, 2, 4])):
        got = sample(x[:, order.to(DEVICE)].expand(len(k), -1), 1.0, k, p, m)
        assert got.n_kept.tolist() == [2, 2, 5, 5, 5, 6, 6, 6, 5, 2, 2, 5, 6, 2]
    zeros = torch.tensor([[0.0, -0.0, -1.0]], device=DEVICE)
    assert sample(zeros, 1.0, 1).n_kept.item() == 2  # both zeros are one value


def test_exact_masses() -> None:
    reached = torch.tensor([[0.0, -math.log(2), -math.log(2)]], device=DEVICE)
    assert sample(reached, 1.0, None, 0.5).n_kept.item() == 1  # exactly half is enough
    halves = torch.tensor([[0.5, 0.25, 0.125, 0.125]], device=DEVICE).log().expand(7, -1)
    p = torch.tensor([0.01, 0.4, 0.51, 0.74, 0.76, 0.99, 1.0], device=DEVICE)
    assert sample(halves, 1.0, None, p).n_kept.tolist() == [1, 1, 2, 2, 4, 4, 4]


@pytest.mark.parametrize(
    ("what", "T", "k", "p", "m"),
    [
        ("flat", 1.0, None, 0.9, None),
        ("flat", 1.0, 100, 0.5, 0.01),
        ("ties", 1.0, 40, None, None),
        ("ties", 1.0, None, 0.3, None),
        ("ties", 1.0, None, None, 0.3),
        ("equal", 1.0, 2, 0.5, None),
        ("one part", 1.0, 30, 0.999, None),
    ],
)
def test_thresholds_below_what_the_lists_of_the_parts_show(what, T, k, p, m) -> None:
    """Then the row itself is searched. Only the result shows: it is the definition's either way."""
    V = 150 if not ON_GPU else 40_000
    x = {
        "flat": lambda: rows(1, V, 0.3),
        "ties": lambda: rows(1, V, 1.5).round(),
        "equal": lambda: torch.full((1, V), -2.5, device=DEVICE),
        "one part": lambda: torch.cat([rows(1, 40) + 30, rows(1, V - 40, 1.0)], 1),
    }[what]()
    check(sample(x, T, k, p, m, 3, 8), defined(x, T, k, p, m, 3, 8))


def test_the_kept_set_does_not_depend_on_how_the_row_is_cut() -> None:
    impl = backend.triton_impl("sample", IMPLEMENTATION)
    x = rows(1, 200, 2.0)
    given = impl.Given
    parameters = (
        given(0.9, None),
        given(60, None),
        given(0.95, None),
        given(0.0, None),
        given(5, None),
        given(1, None),
    )
    expected = defined(x, 0.9, 60, 0.95, None, 5, 1)
    for block, slots, row in ((16, 256, 32), (64, 64, 128), (256, 256, 256), (128, 32, 16)):
        values = {"BLOCK": block, "LIST": slots, "ROW": row, "num_warps": 4, "choice_warps": 4, "num_stages": 1}
        check(impl.launch(x, *parameters, 0.0, values), expected)


@pytest.mark.parametrize(("T", "k"), [(0.0, None), (0.8, None), (0.8, 2)])
def test_contents_have_defined_results(T: float, k: int | None) -> None:
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
            [inf, 0.0, inf, -inf],
        ],
        device=DEVICE,
    )
    apart = torch.full((8, 130), -inf, device=DEVICE)  # the same, spread over parts
    apart[:, [0, 69, 70, 129]] = x
    for logits in (x, apart):
        check(sample(logits, T, k, seed=seeds(8)), defined(logits, T, k, seed=seeds(8)))


def test_infinity_by_temperature_does_not_count_beside_a_real_one() -> None:
    x = torch.zeros(2, 130, device=DEVICE)
    x[:, 3] = 3e38
    x[0, 100] = math.inf
    for k in (None, 5):
        got = sample(x, 0.1, k)
        check(got, defined(x, 0.1, k))
        assert got.token.tolist() == [100, 3]


@pytest.mark.parametrize("k", [None, 20])
def test_a_draw_depends_neither_on_the_batch_nor_on_its_place(k: int | None) -> None:
    x, seed = rows(4, 140), seeds(4)
    together = sample(x, 1.0, k, seed=seed, step=3)
    order = torch.tensor([2, 0], device=DEVICE)
    for part, alone in zip(together, sample(x[order], 1.0, k, seed=seed[order], step=3), strict=True):
        assert alone.equal(part[order])  # to the last bit


@pytest.mark.parametrize("dtype", [torch.float16, *([torch.bfloat16] if ON_GPU else [])])
def test_half_precision_and_other_layouts(dtype: torch.dtype) -> None:
    x = rows(2, 70).to(dtype)
    expected = defined(x, 0.9, 10, seed=seeds(2))
    check(sample(x, 0.9, 10, seed=seeds(2)), expected)
    check(sample(torch.cat([x, x * math.nan], 1)[:, :70], 0.9, 10, seed=seeds(2)), expected)  # a padded vocabulary
    check(sample(torch.stack([x, x + 1], -1)[..., 0], 0.9, 10, seed=seeds(2)), expected)
    assert sample(x.requires_grad_(), 0.0).token.equal(x.argmax(-1))


def test_no_rows_give_no_tokens() -> None:
    got = sample(torch.zeros(0, 5, device=DEVICE), 1.0, 2)
    assert [part.shape for part in got] == [(0,)] * 3
    assert [part.dtype for part in got] == [torch.int64, torch.float32, torch.int64]


def test_tokens_fall_with_their_probabilities() -> None:
    draws = 30_000 if ON_GPU else 100
    logits = torch.tensor([1.0, 0.5, 0.0, -0.5, -4.0])
    kept = torch.tensor([True, True, True, False, False])
    p = (logits / 1.3).masked_fill(~kept, -math.inf).softmax(0)[kept]
    x = logits.to(DEVICE).expand(draws, -1)
    got = sample(x, 1.3, 3, seed=torch.arange(draws, device=DEVICE), step=1)
    assert (got.n_kept == 3).all()
    counts = torch.bincount(got.token.cpu(), minlength=5)
    assert counts[~kept].sum() == 0
    statistic = ((counts[kept] - p * draws) ** 2 / (p * draws)).sum().item()
    assert statistic < 13.8  # chi-square, 2 degrees of freedom: exceeded once in 1,000


def test_the_operator_keeps_its_promises() -> None:
    x = rows(1, 20)
    torch.library.opcheck(_launch, (x, 1.0, None, 3, None, 0.9, None, 0.0, None, 0, seeds(1), 4, None, 15.0))
    compiled = torch.compile(lambda x, s: sample(x, 0.8, 9, 0.9, 0.01, s, 5), fullgraph=True, backend="aot_eager")
    check(compiled(x, seeds(1)), defined(x, 0.8, 9, 0.9, 0.01, seeds(1), 5))


@pytest.mark.skipif(not ON_GPU, reason="a graph of launches needs a GPU")
def test_a_graph_draws_from_new_contents() -> None:
    x, seed = rows(4, 5000), seeds(4)
    sample(x, 0.8, 50, 0.9, seed=seed)  # compiles
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = sample(x, 0.8, 50, 0.9, seed=seed)
    x.copy_(rows(4, 5000, seed=1))
    seed += 1
    graph.replay()
    check(got, defined(x, 0.8, 50, 0.9, seed=seed))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"temperature": -0.1}, "temperature is -0.1"),
        ({"top_k": 2.0}, "top_k is 2.0"),
        ({"top_p": 0.0}, "top_p is 0.0"),
        ({"seed": torch.zeros(3, dtype=torch.int64)}, r"seed has shape \(3,\)"),
        ({"softcap": math.nan}, "softcap is nan"),
    ],
)
def test_bad_input_is_named_before_any_launch(monkeypatch: pytest.MonkeyPatch, options: dict, words: str) -> None:
    monkeypatch.setattr(importlib.import_module("kernels.sample"), "_launch", None)
    with pytest.raises(KernelInputError, match=words):
        sample(torch.zeros(2, 5, device=DEVICE), **options)
