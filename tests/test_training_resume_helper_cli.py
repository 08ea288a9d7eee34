"""The resume helper in a terminal: every command line of the wish runs, and its labels are there."""

import json
import shutil
from pathlib import Path

import pytest

from nanochat.tools import training_resume_helper as tool
from tests import cli_support
from tests.archive_support import flip
from tests.checkpoint_support import save_like_nanochat, save_ours
from tests.support import FIXTURES, needs_fixtures

D2 = FIXTURES / "nanochat_2026_02_20/base_checkpoints/d2"
REPORT = """\
TRAINING RESUME REPORT
Checkpoint directory:
Model file: model_000040.pt
Metadata file: meta_000040.json
Optimizer file: optim_000040_rank0.pt
Last saved step: 40
Validation BPB: 2.3907
Model Configuration:
  Layers: 2
  Hidden dim: 32
  Sequence length: 256
Training Configuration:
  device_batch_size: 2
  total_batch_size: 1024
  learning_rate: 0.0198
Resume Parameters:
  Current step: 40
  Target steps: 5,000
  Remaining: 4,960
  Progress: 0.8%
  In warmdown: No
💡 Learning Insights:
  • Still in main training phase
  • Approximately 99% of training remaining""".splitlines()


def run(capsys: pytest.CaptureFixture[str], *flags: object) -> tuple[int, str, str]:
    return cli_support.run("training_resume_helper", tool.main, capsys, flags)


@needs_fixtures
def test_the_report_has_the_labels_of_the_wish_in_their_order(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, D2, "--step", 40, "--target-steps", 5000)
    assert status == 0
    place = 0
    for label in REPORT:
        place = out.index(label, place)


@needs_fixtures
def test_the_last_good_step_is_taken_where_none_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, D2)
    assert status == 0
    assert "Last saved step: 80" in out
    assert "Optimizer file: none was saved" in out
    assert "nanochat lab: not possible" in out


@needs_fixtures
def test_command_prints_the_instructions(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, D2, "--step", 40, "--command", "--script", "base_train")
    assert status == 0
    assert "nanochat base_train --model-tag d2 --base-dir" in out
    assert "--resume-from-step 40" in out
    assert "load_checkpoint(checkpoint_dir, step" in out
    compile(out[out.index("import torch") :], "program", "exec")


def test_verify_finds_a_flipped_bit_and_says_so_in_its_status(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder = save_ours(tmp_path / "base_checkpoints" / "d4")
    status, out, _ = run(capsys, folder, "--verify")
    assert status == 0
    assert "Checkpoint verification: passed" in out
    flip(folder / "model_000010.pt", 2000)
    status, out, _ = run(capsys, folder, "--step", 10, "--verify")
    assert status == 1
    assert "Checkpoint verification: FAILED" in out
    status, out, message = run(capsys, folder, "--verify")
    assert (status, out, message.count("\n")) == (1, "", 1)


@needs_fixtures
def test_json_is_one_object_with_everything(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, D2, "--step", 40, "--json")
    told = json.loads(out)
    assert status == 0
    assert (told["step"], told["target"], told["remaining"], told["progress"]) == (40, 80, 40, 0.5)
    assert told["phase"] == "stable"
    assert told["ways"][0]["command"]


@needs_fixtures
def test_an_ambiguous_tag_lists_the_candidates(capsys: pytest.CaptureFixture[str]) -> None:
    status, _, message = run(capsys, "--base-dir", FIXTURES / "nanochat_2026_07_03")
    assert status == 1
    assert "base_checkpoints/d4, base_checkpoints/d4_bf16" in message
    assert run(capsys, "--base-dir", FIXTURES / "nanochat_2026_07_03", "-g", "d4_bf16")[0] == 0


def test_what_cannot_be_is_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = save_like_nanochat(tmp_path / "base_checkpoints" / "d4")
    for flags in (["gone"], [tmp_path], [folder, "--step", 99], [folder, "--target-steps", -1], [folder, "--prove"]):
        status, out, message = run(capsys, *flags)
        assert (status, out, message.count("\n")) == (1, "", 1), flags


def test_names_with_controls_are_shown_harmless(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = save_like_nanochat(tmp_path / "base_checkpoints" / "d4")
    odd = folder.with_name("d\x1b[31m\u202e4")
    shutil.copytree(folder, odd)
    status, out, _ = run(capsys, odd, "--command")
    assert status == 0
    assert not {"\x1b", "\u202e"} & set(out)
