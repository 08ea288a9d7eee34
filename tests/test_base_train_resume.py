"""base_train goes on: with the flags of the run, over damage, and not over another run or another text."""

import functools
import os
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from nanochat import precision, training
from nanochat.checkpoint_manager import list_steps, read_meta
from nanochat.errors import exit_status
from nanochat.records import METRICS_NAME, read_lines
from nanochat.scripts import base_train
from tests.archive_support import flip, same
from tests.support import FIXTURES, needs_fixtures
from tests.training_support import Life, Ticking, arguments, base_dir, everything, run, without_clocks


def test_a_budget_is_kept_and_carried_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    base = base_dir(tmp_path)
    monkeypatch.setattr(training, "Setup", functools.partial(training.Setup, clock=Ticking(0.01)))
    status, out, _ = run(base, capsys, num_iterations=None, budget=2, eval_every=1000, save_every=-1)
    assert status == 0
    assert "a budget of 2 seconds" in out
    folder = base / "base_checkpoints" / "d2"
    records = list(read_lines(folder / METRICS_NAME))
    assert 1.9 < records[-1]["time"] < 2.1
    assert records[-2]["lr_multiplier"] < 0.3
    status, out, _ = run(base, capsys, num_iterations=None, resume=True)  # the budget is inherited, and it is spent
    assert status == 0
    assert [record["step"] for record in read_lines(folder / METRICS_NAME)] == list(range(len(records)))


def test_a_resumed_run_takes_its_flags_from_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = base_dir(tmp_path)
    assert run(base, capsys, num_iterations=10, save_every=5)[0] == 0
    few = [f"--base-dir={base}", "--model-tag=d2", "--resume", "--num-iterations=12", "--compile=off"]
    capsys.readouterr()
    assert base_train.main(few) == 0
    assert "step 00011/00012" in capsys.readouterr().out
    status, _, message = run(base, capsys, resume=True, depth=3, model_tag="d2")
    assert status == 1
    assert "n_layer 2 and the flags ask for 3" in message


def test_a_length_that_is_given_now_stands_in_place_of_the_old_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = base_dir(tmp_path)
    assert run(base, capsys, num_iterations=None, budget=1, target_param_data_ratio=9, eval_every=-1)[0] == 0
    folder = base / "base_checkpoints" / "d2"
    end = list_steps(folder)[0][-1]
    again = [f"--base-dir={base}", "--model-tag=d2", "--resume"]
    assert base_train.main([*again, f"--num-iterations={end + 3}"]) == 0
    assert list_steps(folder)[0][-1] == end + 3
    config = read_meta(folder / f"meta_{end + 3:06d}.json")["user_config"]
    assert (config["budget"], config["target_param_data_ratio"]) == (None, 9)  # it decides the batch as well
    capsys.readouterr()
    assert base_train.main([*again, "--minutes=0.05", "--num-iterations=-1"]) == 0
    assert "a budget of 3 seconds" in capsys.readouterr().out
    end = list_steps(folder)[0][-1]
    assert base_train.main([*again, f"--target-tokens={64 * (end + 5)}", "--num-iterations=-1"]) == 0
    assert list_steps(folder)[0][-1] == end + 5
    assert base_train.main([*again, "--num-iterations=-1"]) == 0  # off is no length: the old one stays
    assert list_steps(folder)[0][-1] == end + 5


@pytest.mark.parametrize("part", ["model", "optim", "loader"])
def test_a_damaged_step_does_not_cost_the_later_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], part: str
) -> None:
    base = base_dir(tmp_path)
    assert run(base, capsys, num_iterations=12, save_every=4)[0] == 0
    folder = base / "base_checkpoints" / "d2"
    path = next(path for path in folder.iterdir() if path.name.startswith(f"{part}_000004"))
    flip(path, path.stat().st_size // 2)
    status, _, message = run(base, capsys, num_iterations=12, resume_from_step=4, force=True)
    assert (status, "_000004" in message) == (1, True)
    assert list_steps(folder)[0] == (4, 8, 12)
    assert [line["step"] for line in read_lines(folder / METRICS_NAME)] == list(range(13))
    assert run(base, capsys, num_iterations=12, resume_from_step=8, force=True)[0] == 0


def test_a_resumed_run_does_not_race_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A race may end either way on a busy machine; the run goes on in the format that it began with, to the bit."""

    def faster(name: str) -> None:
        choice = precision.PrecisionChoice(getattr(torch, name), f"{name}: it was faster.", {})
        monkeypatch.setattr(precision, "race", lambda *args: choice)

    (tmp_path / "base").mkdir()
    base = base_dir(tmp_path / "base")
    flags = {"dtype": None, "compile": None, "save_every": 4, "eval_every": -1, "num_iterations": 8}
    faster("bfloat16")
    assert Life(*arguments(base, **flags)).end() == 0
    folder, before = base / "base_checkpoints" / "d2", tmp_path / "before"
    shutil.copytree(folder, before)
    faster("float32")
    life = Life(*arguments(base, **flags, resume_from_step=4, force=True))
    assert life.end() == 0
    assert "Number format: bfloat16 (as the run began); not compiled, as the run began" in life.output
    assert same(everything(folder, 8), everything(before, 8))
    assert without_clocks(folder) == without_clocks(before)
    lab = read_meta(folder / "meta_000008.json")["lab"]
    assert lab["speed"] == {
        "number_format": "bfloat16", "compiled": False, "newton_schulz": "bfloat16", "device": "cpu",
    }  # fmt: skip
    assert lab["optimizer"]["newton_schulz"] == "bfloat16"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"fp8": True}, "8-bit training is not offered here"),
        ({"tokenizer_dir": "nowhere"}, "there is no tokenizer; make one with `nanochat tok_train"),
        ({"data": "nowhere.txt"}, "nowhere.txt"),
        ({"total_batch_size": 100}, "no multiple of 2 rows x 32 tokens"),
        ({"schedule": "wsd", "warmdown_ratio": 2}, "--warmdown-ratio is 2"),
        ({"resume": True}, "d2"),
        ({"num_iterations": None, "target_param_data_ratio": -1}, "no end is given"),
        ({"depth": 0}, "depth is 0"),
        ({"matrix_lr": -1}, "--matrix-lr is -1"),
        ({"seed": 10**23}, "--seed is 1e+23"),
        ({"lr_scale": 0}, "--lr-scale is 0"),
        ({"total_batch_size": 0}, "--total-batch-size is 0"),
        ({"device_batch_size": 10**9}, "--device-batch-size is 1e+09"),
        ({"num_iterations": -1, "target_flops": "inf"}, "--target-flops is inf"),
        ({"num_iterations": -1, "target_param_data_ratio": "nan"}, "--target-param-data-ratio is nan"),
        ({"num_iterations": -1, "target_param_data_ratio": 1e-300}, "--target-param-data-ratio is 1e-300"),
        ({"budget": 1e308}, "--budget is 1e+308"),
        ({"model_tag": "../x"}, "cannot be a run's folder"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], words: str
) -> None:
    status, _, message = run(base_dir(tmp_path), capsys, **changes)
    assert status == 1
    assert words in message
    assert len(message.strip().splitlines()) == 1
    assert not list(tmp_path.glob("base_checkpoints/*/model*"))


def test_an_old_run_is_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = base_dir(tmp_path)
    assert run(base, capsys, num_iterations=2)[0] == 0
    status, _, message = run(base, capsys, num_iterations=3)
    assert status == 1
    assert "a run is here already" in message
    assert list_steps(base / "base_checkpoints" / "d2")[0] == (2,)
    assert run(base, capsys, num_iterations=3, force=True)[0] == 0
    assert list_steps(base / "base_checkpoints" / "d2")[0] == (3,)


def test_a_run_that_is_still_going_is_not_called_one_without_a_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = base_dir(tmp_path)
    life = Life(*arguments(base, num_iterations=100_000, save_every=-1))
    life.wait_for("step 00001/")
    status, _, message = run(base, capsys, resume=True)
    os.kill(life.pid, signal.SIGKILL)
    life.end()
    assert status == 1
    assert f"process {life.pid} is writing here" in message
    status, _, message = run(base, capsys, resume=True)
    assert status == 1
    assert "no complete checkpoint" in message


def test_a_second_trainer_that_resumes_is_refused_in_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = base_dir(tmp_path)
    life = Life(*arguments(base, num_iterations=100_000, save_every=2, eval_every=-1))
    life.wait_for("step 00005/")
    found = [run(base, capsys, **flags) for flags in ({"resume": True}, {"resume_from_step": 2, "force": True}, {})]
    os.kill(life.pid, signal.SIGKILL)
    life.end()
    for status, _, message in found:
        assert status == 1
        assert len(message.strip().splitlines()) == 1
        assert f"process {life.pid} is writing here" in message
    assert {2, 4} <= set(list_steps(base / "base_checkpoints" / "d2")[0])


def test_another_text_is_not_gone_on_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = base_dir(tmp_path)
    assert run(base, capsys, num_iterations=2)[0] == 0
    with (base / "text.jsonl").open("a") as file:
        file.write('{"text": "one more"}\n')
    status, _, message = run(base, capsys, num_iterations=4, resume=True)
    assert status == 1
    assert len(message.strip().splitlines()) == 1
    assert list_steps(base / "base_checkpoints" / "d2")[0] == (2,)


@needs_fixtures
def test_a_run_of_nanochats_is_gone_on_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From its step 40, with the flags it was started with; its own log tells the losses to expect."""
    theirs = FIXTURES / "nanochat_2026_07_03"
    for name in ("base_checkpoints/d4", "base_data_climbmix", "tokenizer"):
        shutil.copytree(theirs / name, tmp_path / name)
    flags = [f"--base-dir={tmp_path}", "--model-tag=d4", "--dtype=float32", "--sample-every=-1", "--compile=off"]
    assert exit_status("b", lambda: base_train.main([*flags, "--resume-from-step=40", "--num-iterations=50"])) == 1
    assert "steps 80, 120 come after step 40" in capsys.readouterr().err
    flags += ["--resume-from-step=40", "--force", "--num-iterations=46", "--warmdown-ratio=0.1"]
    assert exit_status("b", lambda: base_train.main(flags)) == 0
    meta = Path("base_checkpoints", "d4", "meta_000040.json")
    assert (tmp_path / meta).read_bytes() == (theirs / meta).read_bytes()
    out = capsys.readouterr().out
    losses = dict(re.findall(r"^step (\d+)/.*? loss: ([\d.]+)", out, re.MULTILINE))
    log = (theirs / "logs" / "base_train.log").read_text()
    expected = dict(re.findall(r"^step (\d+)/.*? loss: ([\d.]+)", log, re.MULTILINE))
    for step in ("00040", "00041", "00042"):  # the text is not quite the same, so the loss is not either
        assert float(losses[step]) == pytest.approx(float(expected[step]), abs=0.1)
    assert re.search(r"^Step 00040 \| Validation bpb: 2.5498", out, re.MULTILINE)
    assert "read ahead are lost" in out
