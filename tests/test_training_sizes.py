"""What a CPU trains with where the flags leave it open: it goes together, it is said, and flags that are given stay."""

import math
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat import device as devices
from nanochat import training_plan, training_setup, training_sizes
from nanochat.checkpoint_manager import list_steps, read_meta
from nanochat.horizon import HorizonError, choose_batch_tokens, rate_scale
from nanochat.scripts import base_train
from nanochat.training_plan import plan_pretraining
from nanochat.training_setup import optimizer_tokens, size_of
from nanochat.training_sizes import CONTEXTS, MOST_SHARE, SHORT, UPDATES, fit, fit_evaluation
from tests.archive_support import same
from tests.training_support import arguments, base_dir, everything, without_clocks

VOCAB = 2048
ENDS = ("--minutes", "--num-iterations", "--target-tokens", "--target-flops", "--target-param-data-ratio")
SIZES = {"max_seq_len": None, "device_batch_size": None, "total_batch_size": None, "lr_scale": None}


def asked(*words: str) -> tuple[Namespace, frozenset[str]]:
    """The flags of a command line, and the names of those that it gives."""
    from nanochat.training_flags import given_flags

    return base_train.parser().parse_args(words), given_flags(base_train.parser(), list(words))


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(ENDS),
    st.integers(1, 10_000),
    st.floats(8, 13),
    st.sampled_from([1, 2, 3, 4]),
    st.sampled_from([(1, 64), (2, 32), (4, 64), (12, 64)]),
    st.sampled_from([None, 48, 256, 1024]),
    st.sampled_from([None, 1, 3, 8]),
)
def test_what_is_chosen_goes_together_and_what_is_given_stays(
    end: str, length: int, speed: float, world: int, shape: tuple[int, int], context: int | None, rows: int | None
) -> None:
    words = [f"{end}={length * 10**9 if 'tokens' in end else length * 10**14 if 'flops' in end else length}"]
    words += [f"--depth={shape[0]}", f"--aspect-ratio={shape[1]}"]
    words += [f"--max-seq-len={context}"] * (context is not None) + [f"--device-batch-size={rows}"] * (rows is not None)
    flags, names = asked(*words)
    before = dict(vars(flags))
    chosen, lines = fit(flags, names, VOCAB, 10**speed, world)
    assert vars(flags) == before, "the flags that came in are somebody else's"
    assert all(getattr(chosen, name) == before[name] for name in names)
    plan = plan_pretraining(chosen, VOCAB, world)  # it raises where they do not go together
    once = chosen.device_batch_size * chosen.max_seq_len * world
    assert plan.batch == chosen.total_batch_size == once * plan.accumulation
    assert context or chosen.max_seq_len in CONTEXTS
    assert chosen.lr_scale in (training_sizes.LR_SCALE, training_sizes.LR_SCALE_OF_FEW)
    assert plan.rates.matrix_lr == before["matrix_lr"] * chosen.lr_scale
    most = 1.5 * MOST_SHARE * optimizer_tokens(plan.config, "muon")  # 1.5: rounded to a power of two
    assert plan.batch <= max(most, 2 * once)
    assert len(lines) >= 3
    assert lines[0].startswith("Sizes for this CPU, where no flag says otherwise: ")


@settings(max_examples=20, deadline=None)
@given(st.floats(10, 1e5), st.floats(9, 12))
def test_a_budget_has_room_for_updates_and_little_of_it_goes_into_evaluation(seconds: float, speed: float) -> None:
    flags, names = asked("--depth=2", f"--budget={seconds}")
    chosen, _ = fit(flags, names, VOCAB, 10**speed)
    config = plan_pretraining(chosen, VOCAB).config
    rate = training_setup.training_speed(10**speed) / size_of(config)[1]
    overhead = optimizer_tokens(config, "muon")
    updates = seconds * rate / (chosen.total_batch_size + overhead)
    smallest = chosen.total_batch_size <= max(SHORT, 1.5 * overhead)
    assert smallest or updates >= UPDATES / 1.5
    assert chosen.max_seq_len == SHORT or chosen.total_batch_size >= 4 * chosen.max_seq_len
    evaluated = chosen.eval_tokens * (1 + updates / chosen.eval_every)
    one = chosen.device_batch_size * chosen.max_seq_len
    assert chosen.eval_tokens <= max(training_sizes.EVAL_TOKENS["cpu"], one)
    assert chosen.eval_tokens == one or evaluated / 3 / rate <= 0.15 * seconds + one / rate


def test_more_time_never_makes_a_smaller_update() -> None:
    batches = [fit(*asked("--depth=4", f"--budget={2**n}"), VOCAB, 1e11)[0].total_batch_size for n in range(4, 20)]
    assert batches == sorted(batches)
    assert batches[0] < batches[-1]


def test_the_batch_that_is_given_stays_and_the_rest_fits_it() -> None:
    for total, context in ((64, 64), (640, 128), (4096, 1024), (2**17, 2048)):
        flags, names = asked("--depth=2", f"--total-batch-size={total}", "--num-iterations=9")
        chosen, lines = fit(flags, names, VOCAB, 1e11)
        assert (chosen.total_batch_size, chosen.max_seq_len, chosen.lr_scale) == (total, context, None)
        assert plan_pretraining(chosen, VOCAB).rates.matrix_lr == pytest.approx(0.02 * rate_scale(total))
        assert "nanochat's root of the batch over 2^19, as the batch is given; in a short run --lr-scale 1" in lines[-1]
    for minutes, scale in ((1, training_sizes.LR_SCALE_OF_FEW), (60, training_sizes.LR_SCALE)):
        words = ("--depth=2", "--total-batch-size=4096", f"--minutes={minutes}")
        chosen, lines = fit(*asked(*words), VOCAB, 1e11)
        assert chosen.lr_scale == scale, "a budget is not nanochat's, so neither is its rule"
        assert any(line.startswith(f"Learning rates times {scale:g} (--lr-scale)") for line in lines)
    chosen, _ = fit(*asked("--depth=2", "--total-batch-size=4096", "--minutes=1", "--lr-scale=0.5"), VOCAB, 1e11)
    assert chosen.lr_scale == 0.5
    with pytest.raises(HorizonError, match="no multiple"):
        plan_pretraining(fit(*asked("--depth=2", "--total-batch-size=1000"), VOCAB, 1e11)[0], VOCAB)


def test_minus_one_that_is_given_is_nanochats_batch() -> None:
    flags, names = asked("--depth=4", "--total-batch-size=-1", "--minutes=1")
    chosen, _ = fit(flags, names, 1024, 1e11)
    assert chosen.total_batch_size == -1
    assert plan_pretraining(chosen, 1024).batch == plan_pretraining(flags, 1024).batch > 2**16


def test_rows_at_a_time_are_limited_by_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("--depth=4", "--total-batch-size=65536", "--max-seq-len=256", "--minutes=1")
    roomy = fit(*asked(*words), VOCAB, 1e11)[0].device_batch_size
    monkeypatch.setattr(training_sizes, "ACTIVATION_BYTES", 2**26)
    tight = fit(*asked(*words), VOCAB, 1e11)[0].device_batch_size
    assert tight < roomy < 256
    assert 4 * (34 * 4 * 256 + VOCAB) * 256 * tight <= 2**26
    assert fit(*asked("--depth=20", "--minutes=1"), VOCAB, 1e11)[0].device_batch_size >= 1


def test_evaluation_that_is_off_or_given_stays() -> None:
    flags = Namespace(eval_every=-1, eval_tokens=None)
    assert fit_evaluation(flags, frozenset(), 60, 1000, 0.1, 64, 4096) == []
    flags = Namespace(eval_every=7, eval_tokens=99)
    assert fit_evaluation(flags, frozenset({"eval_every", "eval_tokens"}), 60, 1000, 0.1, 64, 4096) == []
    assert vars(flags) == {"eval_every": 7, "eval_tokens": 99}
    (line,) = fit_evaluation(flags, frozenset({"eval_every"}), 60, 1000, 0.1, 64, 4096)
    assert flags.eval_tokens == 3600
    assert line == "Evaluation on 3,600 tokens at most (--eval-tokens), to leave the time to training."
    fit_evaluation(flags, frozenset(), 60, 10, 0.1, 64, 4096)
    assert (flags.eval_tokens, flags.eval_every) == (64, 150)


@pytest.mark.parametrize(("name", "kept"), [("cpu", False), ("cuda", True), ("mps", True)])
def test_a_gpu_keeps_nanochats_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, kept: bool) -> None:
    class Enough(Exception):
        pass

    def plan(flags: Namespace, *_: Any) -> None:
        seen.append(flags)
        raise Enough

    seen: list[Namespace] = []
    choice = devices.DeviceChoice(name, torch.float32, "a device", "asked", "why")
    monkeypatch.setattr(training_setup, "rank_device", lambda *_: choice)
    monkeypatch.setattr(training_plan, "plan_pretraining", plan)
    with pytest.raises(Enough):
        base_train.main(arguments(base_dir(tmp_path), **SIZES))
    (flags,) = seen
    sizes = (flags.max_seq_len, flags.device_batch_size, flags.total_batch_size, flags.lr_scale)
    assert (sizes == (2048, 32, -1, None)) == kept


def test_a_resumed_run_takes_over_what_was_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(training_setup, "fastest_products", lambda: 2e9)
    base = base_dir(tmp_path)
    flags = {**SIZES, "num_iterations": 4, "save_every": 2, "eval_every": 2, "eval_tokens": None}
    assert base_train.main(arguments(base, **flags)) == 0
    said = capsys.readouterr().out
    assert "Sizes for this CPU" in said
    folder = base / "base_checkpoints" / "d2"
    config = read_meta(folder / "meta_000004.json")["user_config"]
    assert f"context {config['max_seq_len']} (--max-seq-len)" in said
    assert f"{config['total_batch_size']:,} tokens an update (--total-batch-size)" in said
    assert config["lr_scale"] == training_sizes.LR_SCALE_OF_FEW
    before, records = everything(folder, 4), without_clocks(folder)

    monkeypatch.setattr(training_setup, "fastest_products", lambda: 1e13)  # another machine would choose otherwise
    again = [f"--base-dir={base}", "--model-tag=d2", "--resume-from-step=2", "--force"]
    assert base_train.main(again) == 0
    said = capsys.readouterr().out
    assert "Sizes for this CPU" not in said
    assert "Step 00002 | resumed" in said
    assert "Step 00002 | checkpoint saved" not in said
    assert "Step 00004 | checkpoint saved" in said
    assert list_steps(folder)[0] == (2, 4)
    assert read_meta(folder / "meta_000004.json")["user_config"]["total_batch_size"] == config["total_batch_size"]
    assert same(everything(folder, 4), before)
    assert without_clocks(folder) == records


def test_nanochats_rule_for_the_batch_is_one(tmp_path: Path) -> None:
    flags, _ = asked("--depth=6")
    expected = choose_batch_tokens(*training_plan._rule(flags, VOCAB))
    assert training_plan.batch_by_depth(flags, VOCAB) == expected == plan_pretraining(flags, VOCAB).batch
    assert math.log2(expected).is_integer()
