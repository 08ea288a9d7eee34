"""What a script puts together: weights that depend on the seed alone, and lines that say what was chosen."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from nanochat import precision, training_setup
from nanochat.device import choose_device
from nanochat.distributed import World
from nanochat.gpt import GPT
from nanochat.horizon import Horizon
from nanochat.optim_config import KINDS
from nanochat.training_setup import (
    Speed,
    batch_loss,
    choose_speed,
    estimated_seconds,
    in_words,
    matrix_speed,
    new_model,
    peak_flops,
    size_of,
)
from tests.archive_support import same
from tests.checkpoint_support import tiny_config
from tests.training_support import ranks


def test_the_seed_alone_decides_and_nobodys_random_numbers_move() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    one = new_model(tiny_config(), seed=7).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    assert same(one, new_model(tiny_config(), seed=7).state_dict())
    assert not same(one, new_model(tiny_config(), seed=8).state_dict())


def test_sizes_are_those_of_the_model() -> None:
    model = GPT(tiny_config())
    assert size_of(tiny_config()) == (model.num_scaling_params(), model.estimate_flops())


def test_the_loss_is_the_sum_in_the_format_asked_for() -> None:
    model, ids = new_model(tiny_config(), seed=7), torch.arange(34).view(2, 17)
    model.lm_head.weight.data *= 500  # as it begins it says nothing, so any format gives ln V
    exact = batch_loss(model)(ids[:, :-1], ids[:, 1:])
    assert exact.item() == pytest.approx(32 * model(ids[:, :-1], ids[:, 1:]).item(), rel=1e-6)
    rough = batch_loss(model, torch.bfloat16)(ids[:, :-1], ids[:, 1:])
    assert 0 < abs(rough.item() - exact.item()) < 0.02 * exact.item()


def loss_and_gradients(dtype: torch.dtype | None, compiled: bool) -> tuple[float, list[torch.Tensor]]:
    """Of one batch, by a model whose weights are not those it begins with: many of them are zero then."""
    model, ids = new_model(tiny_config(), seed=7), torch.arange(34).view(2, 17)
    generator = torch.Generator().manual_seed(3)
    for weight in model.parameters():
        weight.data += 0.05 * torch.randn(weight.shape, generator=generator)
    loss = batch_loss(model, dtype, compiled)(ids[:, :-1], ids[:, 1:])
    loss.backward()
    return loss.item(), [weight.grad for weight in model.parameters() if weight.grad is not None]


def assert_compiled_is_the_same(dtype: torch.dtype | None, tolerance: float) -> None:
    torch.compiler.reset()
    (loss, gradients), (compiled, theirs) = (loss_and_gradients(dtype, compiled) for compiled in (False, True))
    assert compiled == pytest.approx(loss, rel=tolerance)
    assert len(theirs) == len(gradients) > 10
    whole = torch.stack([ours.norm() for ours in gradients]).norm()  # those of single scales are small, and all noise
    for ours, other in zip(gradients, theirs, strict=True):
        assert (ours - other).norm() <= 10 * tolerance * whole


@pytest.mark.parametrize(("dtype", "tolerance"), [(None, 1e-6), (torch.bfloat16, 1e-2)])
def test_a_compiled_step_is_the_same_step(
    dtype: torch.dtype | None, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    compile_, calls = torch.compile, []

    def traced_only(model: GPT, **options: Any) -> Any:  # what inductor would be given, without waiting for it
        calls.append(options)
        return compile_(model, **{**options, "backend": "aot_eager"})

    monkeypatch.setattr(torch, "compile", traced_only)
    assert_compiled_is_the_same(dtype, tolerance)
    assert calls == [{"dynamic": False}]


@pytest.mark.prove
@pytest.mark.skipif(precision.missing_compiler() is not None, reason=str(precision.missing_compiler()))
@pytest.mark.parametrize(("dtype", "tolerance"), [(None, 1e-5), (torch.bfloat16, 2e-2)])
def test_what_the_real_compiler_makes_is_the_same_step(
    dtype: torch.dtype | None, tolerance: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))  # in the shared one a kill may have left half a file
    assert_compiled_is_the_same(dtype, tolerance)


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA GH200 480GB", 989e12),
        ("NVIDIA GB200", 2.5e15),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA L40", 181e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA A40", 149.7e12),
        ("NVIDIA GeForce RTX 4090", 165.2e12),
        ("NVIDIA RTX A4000", None),
        ("NVIDIA RTX A3000 Laptop GPU", None),
        ("CPU", None),
    ],
)
def test_the_peak_of_a_gpu_is_known_by_its_name(name: str, peak: float | None) -> None:
    assert peak_flops(name) == peak


def test_matrix_speed_is_a_speed() -> None:
    assert 1e7 < matrix_speed(seconds=0.02) < 1e15


def test_every_choice_is_said_with_its_reason() -> None:
    cpu = choose_device("cpu")
    fields = {"batch_tokens": 64, "step_flops": 10**9}
    speed = choose_speed(tiny_config(), cpu, Horizon(steps=10), dtype="bfloat16", compile_step="off", **fields)
    assert (speed.dtype, speed.compiled) == (torch.bfloat16, False)
    assert "bfloat16 (as asked); torch.compile is off, as asked; freed memory " in speed.lines[1]
    assert speed.lines[2].startswith("Takes about")
    assert len(speed.lines) == 3
    assert not any("Takes" in line for line in chosen(end=Horizon(epochs=1.0)).lines)  # nobody knows
    assert any("Takes" in line for line in chosen(end=Horizon(epochs=1.0), steps=7).lines)
    long = choose_speed(tiny_config(), cpu, Horizon(steps=10**9), dtype="float32", compile_step="off", **fields).lines
    assert long[-1].startswith("WARNING: ")
    assert "days is long" in long[-1]
    assert speed.lines[0] == "Runs on the CPU. The CPU was asked for."  # the format has a line of its own


def test_an_update_that_is_too_long_for_a_budget_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_setup, "matrix_speed", lambda *_: 1e9)
    update = estimated_seconds(10**9, 1e9)  # a second or a few
    assert not any("WARNING" in line for line in chosen(end=Horizon(seconds=11 * update)).lines)
    (warning,) = (line for line in chosen(end=Horizon(seconds=9 * update)).lines if "WARNING" in line)
    assert f"an update takes about {in_words(update)} here, and the budget is {in_words(9 * update)}" in warning
    assert "--total-batch-size" in warning


def chosen(end: Horizon | None = None, **options: Any) -> Speed:
    """The choice for a tiny run; a race wins whoever `faster` says."""
    return choose_speed(
        tiny_config(), choose_device("cpu"), end or Horizon(steps=10), batch_tokens=64, step_flops=10**9, **options
    )


@pytest.fixture
def faster(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Lets a format win every race from now on."""

    def wins(name: str) -> None:
        choice = precision.PrecisionChoice(getattr(torch, name), f"{name}: it was faster.", {})
        monkeypatch.setattr(precision, "race", lambda *args: choice)

    return wins


def test_muon_iterates_in_the_format_of_the_run_and_older_kinds_in_their_own(faster: Callable[[str], None]) -> None:
    faster("bfloat16")
    assert "Number format: bfloat16 (it was faster); " in chosen().lines[1]
    assert [chosen(optimizer=kind).newton_schulz for kind in KINDS] == ["bfloat16", None, None, None]
    faster("float32")
    assert {chosen(optimizer=kind).newton_schulz for kind in KINDS} == {None}


def test_a_resumed_run_keeps_what_was_decided_when_it_began(
    faster: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    faster("bfloat16")
    monkeypatch.setattr(precision, "compile_decision", lambda *args: (True, "compiled: it pays"))
    monkeypatch.setattr(precision.shutil, "which", lambda name: name)
    first = chosen()
    meta = json.loads(json.dumps({"lab": {"speed": first.facts()}}))
    faster("float32")
    monkeypatch.setattr(precision, "compile_decision", lambda *args: (False, "not compiled: it does not pay"))
    again = chosen(meta=meta)
    assert again.facts() == first.facts() | {"device": "cpu"}
    assert "bfloat16 (as the run began); compiled, as the run began" in again.lines[1]
    asked = chosen(meta=meta, dtype="float32", compile_step="off")
    assert (asked.dtype, asked.compiled, asked.newton_schulz) == (torch.float32, False, None)
    monkeypatch.setattr(precision.shutil, "which", lambda name: None)
    assert not chosen(meta=meta).compiled
    assert "none (install g++); the run began compiled, so it goes on, but not to the bit" in chosen(meta=meta).lines[1]


@pytest.mark.parametrize(
    ("speed", "words"),
    [
        ({"device": "cuda"}, "The run began on cuda and goes on on cpu: "),
        ({"number_format": "float16"}, "does not say in which number format"),
        ({"compiled": "yes"}, "does not say in which number format"),
        (None, "does not say in which number format"),
    ],
)
def test_what_cannot_be_kept_is_said(faster: Callable[[str], None], speed: dict[str, Any] | None, words: str) -> None:
    faster("bfloat16")
    saved = chosen().facts() | speed if speed is not None else None
    faster("float32")
    again = chosen(meta={"lab": {"speed": saved}})
    assert again.dtype == torch.float32
    assert words in again.lines[1]


def test_the_race_of_rank_0_decides_for_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def work(world: World) -> list[object]:
        name = "bfloat16" if world.first else "float32"
        choice = precision.PrecisionChoice(getattr(torch, name), f"{name}: it was faster.", {})
        monkeypatch.setattr(precision, "race", lambda *args: choice)
        monkeypatch.setattr(precision, "compile_decision", lambda *args: (world.first, "why"))
        speed = chosen(world=world)
        return [speed.facts(), speed.compiled]

    answers = [answer["result"] for answer in ranks(2, work, tmp_path)]
    assert answers[0] == answers[1]
    assert answers[0][0]["number_format"] == answers[0][0]["newton_schulz"] == "bfloat16"
    assert answers[0][1] is True
