"""nanochat.precision: the race's answer follows what it measured, and every answer has a reason."""

import dataclasses
import math
from pathlib import Path

import pytest
import torch

from nanochat import precision
from nanochat.gpt import GPT
from nanochat.gpt_config import GPTConfig
from nanochat.precision import PrecisionError, compile_decision, forward_loss, keep_memory, race, race_config

TINY = GPTConfig(sequence_len=16, vocab_size=50, n_layer=2, n_head=2, n_kv_head=1, n_embd=32)


def test_a_race_measures_both_and_takes_one() -> None:
    state = torch.get_rng_state()
    choice = race(TINY, 32, seconds=0.05)
    assert set(choice.measured) == {"float32", "bfloat16"}
    assert all(0 < speed < math.inf for speed in choice.measured.values())
    assert choice.dtype in (torch.float32, torch.bfloat16)
    assert choice.reason.startswith(str(choice.dtype).removeprefix("torch."))
    assert torch.equal(torch.get_rng_state(), state)  # the run's random numbers do not notice


@pytest.mark.parametrize(
    ("gain", "dtype", "said"),
    [(1.6, torch.bfloat16, "1.6 times"), (1.05, torch.float32, "1.1 times"), (0.4, torch.float32, "0.4 times")],
)
def test_bfloat16_has_to_be_worth_it(
    monkeypatch: pytest.MonkeyPatch, gain: float, dtype: torch.dtype, said: str
) -> None:
    monkeypatch.setattr(precision, "_race", lambda *a: {"float32": 1000.0, "bfloat16": 1000.0 * gain})
    choice = race(TINY, 32)
    assert choice.dtype == dtype
    assert said in choice.reason
    assert dataclasses.is_dataclass(choice)


@pytest.mark.parametrize(("capability", "dtype"), [((9, 0), torch.bfloat16), ((7, 5), torch.float32)])
def test_a_gpu_is_asked_not_raced(monkeypatch: pytest.MonkeyPatch, capability: tuple, dtype: torch.dtype) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(precision, "_race", None)
    choice = race(TINY, 32, "cuda:0")
    assert choice.dtype == dtype
    assert f"{capability[0]}.{capability[1]}" in choice.reason
    assert race(TINY, 32, "mps").dtype == torch.float32


@pytest.mark.parametrize(("tokens", "seconds"), [(0, 1.0), (32, 0.0), (32, -1.0), (32, math.nan), (32, math.inf)])
def test_a_race_without_tokens_or_time_is_refused(tokens: int, seconds: float) -> None:
    with pytest.raises(PrecisionError, match="needs at least one token"):
        race(TINY, tokens, seconds=seconds)


@pytest.mark.parametrize(
    "config",
    [
        TINY,
        GPTConfig(),
        GPTConfig(n_layer=32, n_head=16, n_kv_head=4, n_embd=2048, vocab_size=65536),
        GPTConfig(n_layer=1, n_head=1, n_kv_head=1, n_embd=2048),
        GPTConfig(n_layer=3, n_head=9, n_kv_head=3, n_embd=9 * 128, bigram=True),
    ],
)
def test_what_races_is_a_small_slice_of_the_same_kind(config: GPTConfig) -> None:
    small = race_config(config)
    assert small.n_layer == 1
    assert small.head_dim == config.head_dim
    assert small.n_head // small.n_kv_head == config.n_head // config.n_kv_head
    assert small.n_embd <= max(precision.RACE_WIDTH, config.head_dim * config.n_head // config.n_kv_head)
    assert small.vocab_size <= precision.RACE_VOCAB


def test_the_loss_is_the_sum_in_the_format_asked_for() -> None:
    torch.manual_seed(0)
    model = GPT(TINY)
    model.init_weights()
    for parameter in model.parameters():
        parameter.data.add_(torch.randn_like(parameter), alpha=0.05)
    ids = torch.randint(50, (2, 12))
    x, y = ids[:, :-1], ids[:, 1:].clone()
    y[0, 3:6] = -1
    exact = forward_loss(model, x, y)
    assert exact.item() == pytest.approx(model(x, y, reduction="none").sum().item(), rel=1e-5)
    rounded = forward_loss(model, x, y, torch.bfloat16)
    assert rounded.dtype == torch.float32
    assert rounded.item() == pytest.approx(exact.item(), rel=0.01)
    assert rounded.item() != exact.item()
    rounded.backward()
    assert all(p.grad.dtype == torch.float32 for p in model.parameters() if p.grad is not None)
    assert model.hidden(x, dtype=torch.bfloat16).dtype == torch.bfloat16
    model.double()
    assert forward_loss(model, x, y).dtype == model.hidden(x).dtype == torch.float64


def test_bfloat16_runs_every_component_in_bfloat16() -> None:
    """Nothing between the embedding and the last norm falls back to float32 because of a float32 weight."""
    model = GPT(dataclasses.replace(TINY, n_layer=3, bigram=True))
    model.init_weights()
    seen = []
    for block in model.blocks:
        block.register_forward_pre_hook(
            lambda module, args: seen.append((args[0].dtype, args[1] is None or args[1].dtype))
        )
    model(torch.arange(8)[None], dtype=torch.bfloat16)
    assert seen == [(torch.bfloat16, torch.bfloat16), (torch.bfloat16, True), (torch.bfloat16, torch.bfloat16)]


@pytest.mark.parametrize(
    ("seconds", "device", "compiler", "decision", "said"),
    [
        (60, "cpu", True, False, "this run has 60"),
        (3600, "cpu", True, True, "this run has 3600 s"),
        (None, "cpu", True, True, "no end in sight"),
        (3600, "cpu", False, False, "install g++"),
        (60, "cuda:1", False, False, "pays in runs from"),
        (3600, "cuda", False, True, "compiled"),
        (3600, "mps", True, False, "not reliable on mps"),
    ],
)
def test_compiling_has_to_repay_itself(
    monkeypatch: pytest.MonkeyPatch, seconds: float | None, device: str, compiler: bool, decision: bool, said: str
) -> None:
    monkeypatch.setattr(precision.shutil, "which", lambda name: name if compiler else None)
    got, reason = compile_decision(seconds, device)
    assert got is decision
    assert said in reason
    assert "\n" not in reason


def test_keeping_memory_says_what_it_did(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    class Library:
        @staticmethod
        def mallopt(option: int, value: int) -> int:
            asked.append((option, value))
            return 1

    monkeypatch.setattr(precision.sys, "platform", "linux")
    monkeypatch.setattr(precision.ctypes, "CDLL", lambda name: Library)
    assert keep_memory() == (True, "freed memory is kept for the next step")
    assert asked == [(-3, 32 * 2**20), (-1, 2**31 - 1)]
    monkeypatch.setattr(precision.ctypes, "CDLL", lambda name: object())
    assert keep_memory()[0] is False
    monkeypatch.setattr(precision.sys, "platform", "darwin")
    assert "darwin" in keep_memory()[1]


def test_it_is_light_to_import() -> None:
    source = Path(precision.__file__).read_text(encoding="utf-8")
    assert "\nimport torch" not in source
