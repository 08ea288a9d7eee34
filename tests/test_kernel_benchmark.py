"""kernels.benchmark: it measures what it says, refuses what would mean nothing, and can be stopped."""

import csv
import json
import math
import sys
from dataclasses import fields
from pathlib import Path
from types import ModuleType

import pytest
import torch

from kernels import benchmark, benchmark_attention, benchmark_cases, benchmark_logits, benchmark_records, benchmark_rows
from kernels.benchmark import BenchmarkError, Case, Record, run
from kernels.benchmark_subjects import OURS, PEER, REFERENCE, Contestant, Subject, subject_of
from kernels.benchmark_timing import Ceilings, Times, measure_ceilings, ratio, rounds_of

CPU = torch.device("cpu")
HEADS = {"B": 1, "T": 24, "H": 4, "G": 2, "D": 32, "W": 5}
TINY = {
    "attention": HEADS,
    "decode_attention": {**HEADS, "B": 3},
    "sample": {"B": 2, "V": 300},
    "qk_prep": {"B": 2, "T": 5, "H": 4, "G": 2, "D": 32},
    "linear_softcap_cross_entropy": {"N": 9, "C": 16, "V": 50},
}
EVERY = [Case(op, kind, TINY[op], "float32") for op, kinds in benchmark.KINDS.items() for kind in kinds]
CASE = EVERY[0]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """One call a sample, and ceilings that are known: nothing here depends on how fast the machine is."""
    monkeypatch.setattr("kernels.benchmark_timing.SAMPLE_SECONDS", {"cpu": 0.0, "cuda": 0.0})
    monkeypatch.setattr(benchmark, "measure_ceilings", lambda device, dtype: Ceilings(10.0, 0.1))
    monkeypatch.delenv("NANOCHAT_KERNELS", raising=False)


@pytest.mark.parametrize("case", EVERY, ids=lambda case: f"{case.op}, {case.kind}")
def test_every_contestant_computes_the_same(case: Case) -> None:
    """Or a ratio would compare two different things. The eager sampler draws by another generator: only its shape."""
    subject = subject_of(benchmark.check(case), CPU)
    roles = [contestant.role for contestant in subject.contestants]
    assert roles[0] == OURS
    assert REFERENCE in roles
    for contestant in subject.contestants:
        error = subject.error(contestant.run())
        if error is None:
            assert case.op == "sample"
            assert contestant.role == PEER
        else:
            assert error < 2e-6, contestant.name


def test_the_error_of_a_wrong_result_is_seen() -> None:
    subject = subject_of(CASE, CPU)
    (output,) = subject.contestants[0].run()
    assert subject.error((output * 1.01,)) == pytest.approx(0.01, rel=1e-3)
    assert subject.error((output + math.nan,)) != subject.error((output,))


def test_flexattention_is_given_the_same_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The peer for windows runs on GPUs; without the compiler it is slow and says the same on a CPU."""
    monkeypatch.setattr(torch, "compile", lambda function: function)
    monkeypatch.setattr("torch.nn.attention.flex_attention._FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)
    q = torch.randn(1, 24, 4, 32)
    k, v = torch.randn(2, 1, 24, 2, 32).unbind()
    for window, reach in ((5, 5), (-1, 24)):
        expected = benchmark_attention.reference.attention(q, k, v, window, None)
        torch.testing.assert_close(benchmark_attention._flex(q, k, v, reach)(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("T", "W"), [(1, -1), (7, -1), (7, 0), (7, 3), (7, 6), (7, 50)])
def test_pairs_are_counted_exactly(T: int, W: int) -> None:
    assert benchmark_cases.pairs(T, W) == int(benchmark_attention.reference.visible(T, T, W, CPU).sum())


def test_work_is_what_the_formula_needs() -> None:
    attention = benchmark_cases.work(CASE)
    assert attention.flops == 4 * 32 * 4 * benchmark_cases.pairs(24, 5)
    assert attention.bytes == 4 * 32 * 24 * (4 + 2 + 2 + 4)  # q, k, v, o
    back = benchmark_cases.work(Case("attention", "backward", HEADS, "float32"))
    assert back.flops == 2.5 * attention.flops
    # Three rows that see six keys each, keys and values of two heads, and q and o of four.
    decode = benchmark_cases.work(Case("decode_attention", "equal lengths", TINY["decode_attention"], "bfloat16"))
    assert decode.bytes == 2 * 32 * (2 * 3 * 6 * 2 + 2 * 3 * 4)
    loss = benchmark_cases.work(Case("linear_softcap_cross_entropy", "training", {"N": 2, "C": 3, "V": 5}, "float32"))
    assert loss.flops == 3 * 2 * 2 * 3 * 5
    assert benchmark_cases.lengths(EVERY[4]) == [24, 18, 12]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("quick", [True, False])
def test_presets_can_be_timed_and_touch_every_operation(device: str, quick: bool) -> None:
    cases = benchmark.presets(device, quick=quick)
    assert {case.op for case in cases} == set(benchmark.KINDS)
    assert len({(c.op, c.kind, c.shape, c.dtype) for c in cases}) == len(cases)
    limit = 4 * 2**30 if device == "cpu" else 70 * 2**30  # a laptop, an H100
    for case in cases:
        benchmark.check(case)
        assert 0 < benchmark.estimate_bytes(case) < limit
        assert benchmark_cases.work(case).bytes > 0
    assert {case.op for case in benchmark.presets(device, "sample", quick)} == {"sample"}


def test_records_hold_what_was_measured() -> None:
    records = list(run([CASE], device="cpu", rounds=3))
    timed = [r for r in records if r.seconds is not None]
    assert [r.role for r in timed] == [OURS, REFERENCE, PEER, PEER]
    peers = [r for r in timed if r.role == PEER]
    for r in timed:
        assert r.seconds_low <= r.seconds <= r.seconds_high
        assert r.rate == pytest.approx(r.flops / r.seconds / 1e12)
        least = max(r.flops / 0.1e12, r.bytes / 10e9)
        assert r.ceiling_share == pytest.approx(least / r.seconds)
        assert r.error < 1e-6
        assert (r.clock, r.rounds, r.unit) == ("cpu" if torch.get_num_threads() == 1 else "wall", 3, "TFLOP/s")
        assert f"torch {torch.__version__}" in r.versions
        assert r.best_peer != r.implementation
    ours, definition = timed[:2]
    assert definition.over_reference == 1
    assert ours.best_peer == min(peers, key=lambda r: r.seconds).implementation
    assert ours.best_peer_error == min(peers, key=lambda r: r.seconds).error
    assert ours.reason
    (compiled,) = [r for r in records if r.seconds is None]
    assert (compiled.implementation, compiled.role, compiled.rate) == ("torch compiled", PEER, None)
    assert "compiling" in compiled.reason


def test_contestants_take_turns_and_ratios_are_taken_round_by_round() -> None:
    order: list[str] = []
    times = rounds_of({name: lambda name=name: order.append(name) for name in "ab"}, CPU, 2)
    warm_up = order.index("b")
    calls = "".join(order[warm_up:])
    assert set(times) == {"a", "b"}
    assert calls.startswith("b")
    assert "ab" in calls
    assert "ba" in calls.removeprefix("b")
    fast, slow = Times((1.0, 2.0, 4.0), "cpu"), Times((2.0, 6.0, 16.0), "cpu")
    assert ratio(fast, slow) == 3
    assert (fast.median, Times((1.0,), "cpu").spread) == (2.0, (1.0, 1.0))
    assert slow.spread == (4.0, 11.0)


def test_it_can_be_stopped_and_says_how_far_it_is() -> None:
    heard: list[tuple[str, float]] = []
    assert [r.op for r in run([CASE], device="cpu", rounds=2, stop=lambda: True)] == []
    records = list(
        run(
            EVERY[:2],
            device="cpu",
            rounds=2,
            stop=lambda: bool(heard) and heard[-1][1] > 0.5,
            progress=lambda words, share: heard.append((words, share)),
        )
    )
    assert {r.kind for r in records} == {"forward"}  # the second case was under way when it was stopped
    shares = [share for _, share in heard]
    assert shares == sorted(shares)
    assert heard[0] == ("attention, forward, B1 T24 H4 G2 D32 W5, float32", 0.0)


@pytest.mark.parametrize(
    ("case", "words"),
    [
        (Case("matmul", "forward", HEADS, "float32"), "'matmul'.*attention, decode_attention"),
        (Case("attention", "sideways", HEADS, "float32"), "'sideways'.*forward; backward"),
        (Case("attention", "forward", HEADS, "int8"), "'int8'.*float32"),
        (Case("attention", "forward", {"B": 1}, "float32"), "needs B, T, H, G, D, W"),
        (Case("attention", "forward", {**HEADS, "T": 0}, "float32"), "T is 0"),
        (Case("attention", "forward", {**HEADS, "W": -2}, "float32"), "W is -2"),
        (Case("attention", "forward", {**HEADS, "G": 3}, "float32"), "H is 4 and G is 3"),
        (Case("attention", "forward", {**HEADS, "D": 33}, "float32"), "D is 33"),
    ],
)
def test_what_cannot_be_timed_is_named(case: Case, words: str) -> None:
    with pytest.raises(BenchmarkError, match=words):
        run([CASE, case], device="cpu")


def test_sizes_beyond_memory_are_refused_with_both_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark_cases, "free_bytes", lambda device: 10 * 2**30)
    huge = Case("attention", "forward", {**HEADS, "T": 2**26, "W": 512}, "float32")
    needed = benchmark.estimate_bytes(huge)
    with pytest.raises(BenchmarkError, match=rf"needs {needed:,} bytes .*, and 10,737,418,240 \(10.0 GiB\) are free"):
        run([CASE, huge], device="cpu")


def test_only_the_contestant_that_does_not_fit_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark_cases, "free_bytes", lambda device: 400_000)
    long = Case("attention", "forward", {**HEADS, "T": 200}, "float32")
    assert benchmark.estimate_bytes(long) < 400_000 * 2
    monkeypatch.setattr(benchmark_cases, "free_bytes", lambda device: benchmark.estimate_bytes(long))
    records = {r.implementation: r for r in run([long], device="cpu", rounds=1)}
    assert records["torch"].seconds is not None
    assert records["reference"].seconds is None
    assert records["reference"].role == REFERENCE
    assert "are free" in records["reference"].reason
    assert records["torch"].over_reference is None


def test_free_memory_is_a_plausible_number() -> None:
    assert 2**20 < benchmark.free_bytes(CPU) <= 2**62


def test_a_peer_that_fails_is_named_and_ours_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise RuntimeError("no kernel for this\nmore")

    fine = Contestant("torch", OURS, lambda: (torch.ones(1),))
    for role in (PEER, OURS):
        subject = Subject([fine, Contestant("other", role, fail)], [], lambda outputs: 0.0)
        monkeypatch.setattr(benchmark, "subject_of", lambda case, device, subject=subject: subject)
        if role == OURS:
            with pytest.raises(RuntimeError, match="no kernel"):
                list(run([CASE], device="cpu", rounds=1))
        else:
            records = list(run([CASE], device="cpu", rounds=1))
            assert [r.seconds is None for r in records] == [False, True]
            assert records[1].reason == "RuntimeError: no kernel for this"


def test_the_interpreter_is_never_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NANOCHAT_KERNELS", "interpret")
    monkeypatch.setattr("kernels.backend._has_triton", lambda: True)
    with pytest.raises(BenchmarkError, match=r"NANOCHAT_KERNELS=interpret.*nothing about speed"):
        list(run([CASE], device="cpu"))


@pytest.mark.parametrize("device", ["mps", "nothing", "cuda:99"])
def test_devices_that_are_not_there_are_named(device: str) -> None:
    with pytest.raises(BenchmarkError, match=repr(device)):
        run([CASE], device=device)


def test_ceilings_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kernels.benchmark_timing.CPU_CEILING", (2**12, 32))
    ceilings = measure_ceilings(CPU, torch.float32, rounds=1)
    assert ceilings.copy_gb > 0
    assert ceilings.gemm_tflops > 0


@pytest.mark.parametrize("V", [1, 2, 700, 65536])
def test_recorded_logits_have_the_recorded_curve(V: int) -> None:
    rows = benchmark_logits.recorded(8, V)
    assert rows.shape == (8, V)
    assert rows.dtype is torch.float32
    curves = benchmark_logits.profile()["curves"]
    assert rows.amax(1).tolist() == pytest.approx([curve[0] for curve in curves])
    if V > 1:
        assert rows.amin(1).tolist() == pytest.approx([curve[-1] for curve in curves])
        assert torch.equal(rows, benchmark_logits.recorded(8, V))
    assert benchmark_logits.recorded(1, V).amax().item() == pytest.approx(curves[4][0])


def test_a_recording_gives_the_logits_back(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.linspace(0, -9, 40).expand(3, 40) * torch.tensor([[1.0], [0.1], [2.0]])
    made = benchmark_logits.record(logits, rows=3)
    assert [curve[-1] for curve in made["curves"]] == [-18.0, -9.0, -0.9]  # the sharpest first
    monkeypatch.setattr(benchmark_logits, "profile", lambda: made)
    again = benchmark_logits.recorded(3, 40).sort(1, descending=True).values
    torch.testing.assert_close(again, logits[[2, 0, 1]], atol=0.2, rtol=0)


def test_the_nucleus_of_recorded_logits_is_small_and_of_flat_ones_is_not() -> None:
    for rows, low, high in (
        (benchmark_logits.recorded(8, 65536), 1, 2000),
        (benchmark_logits.flat(2, 65536), 5000, 60000),
    ):
        mass = rows.sort(1, descending=True).values.softmax(1).cumsum(1)
        kept = (mass < 0.9).sum(1) + 1
        assert low <= int(kept.min()) <= int(kept.max()) <= high


def test_the_command_prints_and_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(benchmark, "presets", lambda device, op, quick: [CASE])
    files = tmp_path / "a.json", tmp_path / "a.csv"
    threads = torch.get_num_threads()
    try:
        arguments = ["--quick", "--rounds", "1", "--device", "cpu", "--json", str(files[0]), "--csv", str(files[1])]
        assert benchmark.main(arguments) == 0
    finally:
        torch.set_num_threads(threads)
    out = capsys.readouterr().out
    assert out.count("attention, forward: B1 T24 H4 G2 D32 W5, float32") == 1
    assert "SDPA masked" in out
    assert "not timed: compiling" in out
    names = [field.name for field in fields(Record)]
    stored = json.loads(files[0].read_text())["records"]
    assert [list(record) for record in stored] == [names] * 5
    with files[1].open(newline="") as file:
        assert [row["implementation"] for row in csv.DictReader(file)] == [r["implementation"] for r in stored]


@pytest.mark.parametrize("arguments", [["--device", "cuda:99"], ["--device", "tpu"]])
def test_the_command_refuses_in_one_line(arguments: list[str], capsys) -> None:
    assert benchmark.main(arguments) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_a_machine_without_a_gpu_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "sees none" in benchmark.gpu_obstacle()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    monkeypatch.setattr(benchmark_records.importlib.util, "find_spec", lambda name: None)
    assert "Triton is not installed" in benchmark.gpu_obstacle()
    monkeypatch.setattr(benchmark_records.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert "TRITON_INTERPRET" in benchmark.gpu_obstacle()
    monkeypatch.delenv("TRITON_INTERPRET")
    assert "compute capability 7.5" in benchmark.gpu_obstacle()
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    assert benchmark.gpu_obstacle() == ""


@pytest.mark.parametrize(
    ("top_k", "top_p", "expected"),
    [
        (None, None, "sampling_from_logits"),
        (50, None, "top_k_sampling_from_probs"),
        (None, 0.9, "top_p_sampling_from_probs"),
        (50, 0.9, "top_k_top_p_sampling_from_logits"),
    ],
)
def test_flashinfer_is_asked_for_the_same_draw(
    top_k: int | None, top_p: float | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Sampling(ModuleType):
        def __getattr__(self, name: str):
            return lambda given, *settings: (name, given, settings)

    monkeypatch.setitem(sys.modules, "flashinfer", ModuleType("flashinfer"))
    monkeypatch.setitem(sys.modules, "flashinfer.sampling", Sampling("flashinfer.sampling"))
    logits = torch.randn(2, 60)
    ((name, given, settings),) = benchmark_rows._flashinfer(logits, top_k, top_p)()
    assert name == expected
    assert torch.equal(given, logits.softmax(-1) if name.endswith("from_probs") else logits)
    assert settings == tuple(value for value in (top_k, top_p) if value is not None)
