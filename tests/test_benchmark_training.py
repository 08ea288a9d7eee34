"""nanochat.benchmarks.training: the plain loop is the same model, and what is printed is what was measured."""

import json

import pytest
import torch

from nanochat.benchmarks import training as benchmark
from nanochat.benchmarks.plain_training import PlainOptimizer, plain_loss
from nanochat.gpt_config import GPTConfig

TINY = GPTConfig(sequence_len=24, vocab_size=70, n_layer=3, n_head=2, n_kv_head=2, n_embd=32, short_window=7)


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "SHAPES", {"tiny": (TINY, 2)})
    monkeypatch.setattr(benchmark, "PEAK_SIZE", 32)
    monkeypatch.setattr(benchmark.precision, "keep_memory", lambda: (False, "a test"))


def test_the_plain_loop_is_the_same_model() -> None:
    """Or the ratio would compare two different things: same loss and same gradients, a short window included."""
    model = benchmark.new_model(TINY)
    x, y = benchmark._batch(TINY, 2)
    ours, plain = model(x, y), plain_loss(model, x, y, torch.float32)
    torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-5)
    parameters = dict(model.named_parameters())
    for name, a, b in zip(
        parameters,
        torch.autograd.grad(ours, list(parameters.values())),
        torch.autograd.grad(plain, list(parameters.values())),
        strict=True,
    ):
        assert (a - b).norm() <= 1e-4 * b.norm() + 1e-7, name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_plain_step_learns(dtype: torch.dtype) -> None:
    model = benchmark.new_model(TINY)
    x, y = benchmark._batch(TINY, 2)
    optimizer, losses = PlainOptimizer(model, dtype), []
    for _ in range(8):
        loss = plain_loss(model, x, y, dtype)
        loss.backward()
        losses.append(loss.item())
        optimizer.step()
    assert losses[-1] < losses[0] - 0.5
    assert all(parameter.grad is None for parameter in model.parameters())


def test_records_hold_what_was_measured() -> None:
    records = benchmark.measure("tiny", "float32", rounds=3)
    assert [r.name for r in records] == [benchmark.OURS, benchmark.PLAIN, benchmark.GEMMS]
    for r in records:
        assert r.spread[0] <= r.tokens_per_cpu_second <= r.spread[1]
        assert r.ratio_spread[0] <= r.ratio <= r.ratio_spread[1]
        assert r.peak_share > 0
    assert records[0].ratio == 1
    parts = records[0].parts
    assert {"embeddings", "attention", "MLP", "optimizer", "head and loss, with their gradients"} <= set(parts)
    assert all(value > 0 for value in parts.values())
    assert not records[1].parts


@pytest.mark.parametrize("as_json", [True, False])
def test_it_prints(capsys: pytest.CaptureFixture[str], as_json: bool) -> None:
    threads = torch.get_num_threads()
    assert benchmark.main(["--shape", "tiny", "--dtype", "bfloat16", "--rounds", "1", *["--json"] * as_json]) == 0
    torch.set_num_threads(threads)
    out = capsys.readouterr().out
    if as_json:
        assert {r["dtype"] for r in json.loads(out)["records"]} == {"bfloat16"}
    else:
        assert "plain loop" in out
        assert "our step by part" in out
