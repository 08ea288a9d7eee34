"""The training dashboard in a terminal: every command line of the wish runs, and its labels are there."""

import json
import re
from pathlib import Path

import polars as pl
import pytest

from nanochat import paths
from nanochat.analysis import training_dashboard as dashboard
from nanochat.tools import training_dashboard as tool
from tests import cli_support
from tests.support import FIXTURES, needs_fixtures
from tests.test_training_dashboard import falling, written

NEWEST = FIXTURES / "nanochat_2026_07_03"
D4 = NEWEST / "base_checkpoints/d4"
SUMMARY = """\
TRAINING DASHBOARD
Checkpoint directory:
Total checkpoints: 3
Training range:
  First checkpoint: Step 40
  Last checkpoint:  Step 120
Latest metrics (step 120):
  Train loss: 3.8142
  Val BPB:    2.4167
  LR:         0.001237
Best validation checkpoint:
  Step:    120
  Val BPB: 2.4167
Model configuration:
  Layers:       4
  Embedding:    32
  Seq length:   256""".splitlines()


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def run(capsys: pytest.CaptureFixture[str], *flags: object) -> tuple[int, str, str]:
    return cli_support.run("training_dashboard", tool.main, capsys, flags)


@needs_fixtures
def test_the_summary_has_the_labels_of_the_wish_in_their_order(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, D4)
    assert status == 0
    place = 0
    for label in SUMMARY:
        place = out.index(label, place)
    assert "base_train.log, line" in out  # who said it


@needs_fixtures
def test_the_progress_table(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, D4, "--progress")
    assert status == 0
    assert "TRAINING PROGRESS" in out
    assert re.search(r"^Step +Train Loss +Val BPB +Learning Rate", out, re.MULTILINE)
    assert re.search(r"^40 +4\.\d{4} +2\.5498 +0\.019887 +yes$", out, re.MULTILINE)
    assert "N/A" in run(capsys, NEWEST / "chatrl_checkpoints/d4", "--progress")[1]


@needs_fixtures
def test_plot_and_export_write_what_they_say(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run(capsys, D4, "--plot")[:2] == (0, "Saved to training_curves.png\n")
    assert Path("training_curves.png").read_bytes().startswith(b"\x89PNG")
    assert run(capsys, D4, "--plot", "--output", "my_plot.svg", "--axis", "tokens", "--log-y", "--log-x")[0] == 0
    assert "Learning rate schedule" in Path("my_plot.svg").read_text()
    assert run(capsys, D4, "--export-csv")[0] == 0
    assert pl.read_csv("training_metrics.csv").height == 121
    assert run(capsys, D4, "--export-csv", "--output", "m.parquet")[0] == 0
    assert pl.read_parquet("m.parquet")["val_bpb"].drop_nulls().to_list()[-1] == pytest.approx(2.416657)


@needs_fixtures
def test_several_runs_and_a_log_alone(capsys: pytest.CaptureFixture[str]) -> None:
    folders = [D4, FIXTURES / "nanochat_2026_02_20/base_checkpoints/d2"]
    status, out, _ = run(capsys, *folders, "--json")
    assert status == 0
    assert [one["last"] for one in json.loads(out)] == [120, 80]
    assert run(capsys, *folders, "--plot", "--smoothing", "0.5", "--from", "10", "--to", "60")[0] == 0
    status, out, _ = run(capsys, "--log", NEWEST / "logs/base_train.log", "--json")
    assert json.loads(out)["best"]["value"] == pytest.approx(2.416657)


@needs_fixtures
def test_a_run_by_base_dir_stage_and_tag(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "--base-dir", NEWEST, "--source", "sft", "--json")
    assert (status, json.loads(out)["last"]) == (0, 12)
    status, _, message = run(capsys, "--base-dir", NEWEST)
    assert status == 1
    assert "base_checkpoints/d4, base_checkpoints/d4_bf16" in message
    assert message.count("\n") == 1


def test_a_run_by_the_name_that_every_list_shows(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    written(paths.workspace(), falling(20))
    status, out, _ = run(capsys, "base/d4", "--json")
    assert (status, json.loads(out)["name"]) == (0, "base/d4")
    status, _, message = run(capsys, "base/d5")
    assert status == 1
    assert "no base run 'd5'" in message


@pytest.mark.parametrize(
    "flags", [["gone"], ["."], ["--log", "gone.log"], ["--smoothing", "1"], ["--from", "5", "--to", "2"], []]
)
def test_what_cannot_be_is_one_line(capsys: pytest.CaptureFixture[str], flags: list[str]) -> None:
    status, out, message = run(capsys, *flags)
    assert (status, out, message.count("\n")) == (1, "", 1)


@needs_fixtures
def test_two_files_under_one_name_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert "give them apart" in run(capsys, D4, "--plot", "--export-csv", "-o", "x.png")[2]
    assert "end it in .png or .svg" in run(capsys, D4, "--plot", "-o", "x.pdf")[2]


def test_names_with_controls_are_shown_harmless(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = tmp_path / "d\x1b[31m\u202e[bold]4"
    folder.mkdir()
    (folder / "metrics.jsonl").write_text('{"step": 0, "train_loss": 2.0}\n{"step": 1, "train_loss": "\\u001b[31m"}\n')
    status, out, _ = run(capsys, folder)
    assert status == 0
    assert "\x1b" not in out
    assert "\u202e" not in out
    assert "[bold]4" in out


def test_the_flag_knows_every_axis() -> None:
    assert set(tool.AXES) == set(dashboard.AXES)
