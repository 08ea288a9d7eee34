"""The resume helper: the last good checkpoint, what is left, commands that are true, programs that run, the proof."""

import contextlib
import io
import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

from nanochat import safe_load
from nanochat.analysis import training_resume_helper as helper
from nanochat.checkpoint_files import CheckpointError
from nanochat.checkpoint_manager import load_checkpoint, load_loader, save_checkpoint
from nanochat.checkpoint_runs import find_runs
from nanochat.optim_config import KINDS
from nanochat.scripts import base_train
from nanochat.tokenizer import load_tokenizer
from tests import sft_support
from tests.archive_support import flip
from tests.checkpoint_support import save_like_nanochat
from tests.support import FIXTURES, fixture_dirs, needs_fixtures
from tests.training_support import arguments, base_dir

FRAME = {"step": pl.Int64, "original": pl.Float64, "resumed": pl.Float64}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of 30 updates with checkpoints at 7, 14, 21, 28 and 30."""
    base = base_dir(tmp_path_factory.mktemp("trained"))
    with contextlib.redirect_stdout(io.StringIO()):
        assert base_train.main(arguments(base, eval_every=-1)) == 0
    return base / "base_checkpoints" / "d2"


@pytest.fixture
def stopped(trained: Path, tmp_path: Path) -> Path:
    """The same run, as it would lie there had it been killed before the update after step 24."""
    run = tmp_path / "base_checkpoints" / "d2"
    shutil.copytree(trained, run)
    for path in run.iterdir():
        if any(f"_{step:06d}" in path.name for step in (28, 30)):
            path.unlink()
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(lines[:25]))
    return run


def test_where_a_killed_run_stands(stopped: Path) -> None:
    report = helper.inspect(stopped, full=True)
    assert (report.step, report.target, report.remaining, report.lost) == (21, 30, 9, 4)
    assert report.progress == pytest.approx(0.7)
    assert report.phase == "warmdown"
    assert report.verification.ok
    assert "SHA-256" in report.verification.level
    assert report.loader
    assert report.step_seconds is not None
    assert report.remaining_seconds == pytest.approx(9 * report.step_seconds)
    assert report.settings["total_batch_size"] == 64


def test_a_damaged_last_step_is_passed_over_with_its_fault(stopped: Path) -> None:
    path = stopped / "optim_000021_rank0.pt"
    path.write_bytes(path.read_bytes()[:-100])
    report = helper.inspect(stopped)
    assert report.step == 14
    assert any("step 21" in text and "optim_000021" in text for text in report.skipped)
    flip(stopped / "model_000014.pt", 3000)
    assert helper.inspect(stopped).step == 14  # a quick look does not read every byte
    assert helper.inspect(stopped, full=True).step == 7
    assert not helper.inspect(stopped, 14, full=True).verification.ok


def test_another_target(stopped: Path) -> None:
    report = helper.inspect(stopped, target=84)
    assert (report.target, report.remaining, report.progress) == (84, 63, 0.25)
    assert "--num-iterations 84" in (helper.ways(report)[0].command or "")
    for target in (0, -5, 1 << 70):
        with pytest.raises(helper.ResumeError, match="whole number above 0"):
            helper.inspect(stopped, target=target)


def test_the_command_goes_on_to_the_end(stopped: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(base_dir(stopped.parents[2] / "text") / "tokenizer", stopped.parents[1] / "tokenizer")
    command = helper.ways(helper.inspect(stopped))[0].command
    assert command is not None
    name, script, *words = shlex.split(command)
    assert (name, script) == ("nanochat", "base_train")
    assert base_train.main(words) == 0
    done = helper.inspect(stopped)
    assert done.insights[0].startswith("The run is complete")
    assert done.lost == 0


def test_an_earlier_step_says_what_it_removes(trained: Path) -> None:
    way = helper.ways(helper.inspect(trained, 14))[0]
    assert "--resume-from-step 14 --force" in (way.command or "")
    assert "removes the later steps" in way.reason


def executed(program: str) -> str:
    """What a program prints."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(program, {})
    return out.getvalue()


def test_the_program_runs_with_and_without_an_optimizer(stopped: Path) -> None:
    assert "step 22 loss" in executed(helper.program(helper.inspect(stopped)))
    (stopped / "optim_000021_rank0.pt").unlink()
    without = helper.inspect(save_like_nanochat(stopped.parent / "d3"))
    program = helper.program(without)
    assert "load_optimizer=False" in program
    assert "step 11 loss" in executed(program)


@needs_fixtures
@pytest.mark.parametrize("base", fixture_dirs(), ids=lambda path: path.name)
def test_every_run_of_every_date(base: Path) -> None:
    for run in find_runs(base):
        report = helper.inspect(run.folder)
        assert report.step == run.steps[-1]
        assert report.verification.ok
        ours, theirs = helper.ways(report)
        assert ours.reason
        assert theirs.reason
        if not report.optimizer:
            assert ours.command is None
            assert "no optimizer file" in ours.reason
        elif report.stage == "base":
            kind = helper.optimizer_kind(report)
            assert kind is not None
            assert kind[0] in KINDS
        assert f"step {report.step + 1} loss" in executed(helper.program(report))


@needs_fixtures
def test_why_a_nanochat_of_2025_cannot_resume_and_how_a_newer_one_does() -> None:
    old = helper.inspect(FIXTURES / "nanochat_2025_11_06/base_checkpoints/d2")
    assert helper.optimizer_kind(old)[0] == "muon-2025"  # type: ignore[index]
    assert "could not resume" in helper.ways(old)[1].reason
    new = helper.ways(helper.inspect(FIXTURES / "nanochat_2026_07_03/base_checkpoints/d4", 40))[1].command or ""
    for word in ("python -m scripts.base_train", "--resume-from-step=40", "--model-tag=d4", "--num-iterations=120"):
        assert word in new


@needs_fixtures
def test_a_run_of_several_processes_says_so(tmp_path: Path) -> None:
    run = tmp_path / "base_checkpoints/d4"
    shutil.copytree(FIXTURES / "nanochat_2026_07_03/base_checkpoints/d4", run)
    shutil.copyfile(run / "optim_000120_rank0.pt", run / "optim_000120_rank1.pt")
    ours, theirs = helper.ways(helper.inspect(run, 120))
    assert "saved by 2 processes" in ours.reason
    assert (theirs.command or "").startswith("torchrun --standalone --nproc_per_node=2")


def zeroed(source: Path, target: Path, step: int) -> Path:
    """The run with a step whose optimizer has forgotten everything; all else is as it was, and whole."""
    shutil.copytree(source, target)
    weights, optimizer, meta = load_checkpoint(source, step, "cpu", load_optimizer=True)
    loader, tokenizer = load_loader(source, step), load_tokenizer(source)
    for path in target.glob(f"*_{step:06d}*"):
        path.unlink()
    optimizer = safe_load.map_tensors(optimizer, lambda t: torch.zeros_like(t) if t.dim() else t)
    save_checkpoint(target, step, weights, optimizer, meta, tokenizer=tokenizer, loader_data=loader)
    return target


def test_the_proof_says_yes_exactly_and_no_where_the_optimizer_was_zeroed(trained: Path, tmp_path: Path) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in trained.iterdir()}
    proof = helper.prove(helper.inspect(trained, 14), 6)
    assert (proof.verdict, proof.holds) == ("exact", True)
    assert proof.frame["step"].to_list() == list(range(14, 20))
    assert before == {path.name: path.stat().st_mtime_ns for path in trained.iterdir()}

    bad = helper.inspect(zeroed(trained, tmp_path / "base_checkpoints" / "d2", 14), 14, full=True)
    assert bad.verification.ok  # every byte is what was saved: only the proof finds it
    proof = helper.prove(bad, 6)
    assert not proof.holds
    assert "all zeros" in proof.sentence
    assert helper.judge(proof.frame, proof.before, True, False)[0] == "no"  # and the curve alone says so as well


def pairs(original: list[float], resumed: list[float | None]) -> pl.DataFrame:
    steps = list(range(100, 100 + len(original)))
    return pl.DataFrame({"step": steps, "original": original, "resumed": resumed}, schema=FRAME)


NOISY = pl.DataFrame({"step": range(100), "loss": [3 + 0.1 * (-1) ** s for s in range(100)]})


@pytest.mark.parametrize(
    ("resumed", "same_text", "verdict"),
    [
        ([3.1, 2.9, 3.1, 2.9], True, "exact"),
        ([3.1, 2.9, 3.1, 2.90001], True, "close"),
        ([3.1, 2.9, 3.1, 2.95], True, "no"),
        ([2.9, 3.1, 2.9, 3.1], False, "near"),
        ([4.1, 3.9, 4.1, 3.9], False, "no"),
        ([None, None, None, None], True, "no"),
        ([3.1, None, None, None], True, "exact"),
    ],
)
def test_verdicts(resumed: list[float | None], same_text: bool, verdict: str) -> None:
    assert helper.judge(pairs([3.1, 2.9, 3.1, 2.9], resumed), NOISY, same_text, False)[0] == verdict


def test_no_proof_without_something_to_compare(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(helper.ResumeError, match="earlier checkpoint"):
        helper.prove(helper.inspect(trained, 30))
    with pytest.raises(helper.ResumeError, match="cannot be resumed"):
        helper.prove(helper.inspect(save_like_nanochat(tmp_path / "base_checkpoints/d4")))
    with pytest.raises(helper.ResumeError, match="cannot be a proof"):
        helper.prove(helper.inspect(trained, 14), 0)


@pytest.mark.prove
def test_the_proof_of_a_fine_tuned_run(tmp_path: Path) -> None:
    base = sft_support.pretrained_base(tmp_path)
    with contextlib.redirect_stdout(io.StringIO()):
        assert sft_support.run(base, "--num-iterations", "10", "--save-every", "4") == 0
    events = list(helper.proving(helper.inspect(base / "chatsft_checkpoints" / "d2", 4), 5))
    assert [event.step for event in events if isinstance(event, helper.Again)] == [4, 5, 6, 7, 8]
    assert isinstance(events[-1], helper.Proof)
    assert events[-1].verdict == "exact"


@pytest.mark.prove
def test_the_drill(tmp_path: Path) -> None:
    scenes = list(helper.drill(tmp_path))
    assert [scene.title for scene in scenes] == ["A training begins", "Power cut", "Recovered"]
    assert scenes[1].report is not None
    assert (scenes[1].report.step, scenes[1].report.lost) == (40, 7)
    assert scenes[2].holds
    assert "to the last bit" in scenes[2].sentence


@pytest.mark.parametrize("meta", ["{", '{"model_config": null}', '{"lab": {"horizon": 5}}', '{"user_config": []}'])
def test_a_broken_meta_file_is_passed_over(stopped: Path, meta: str) -> None:
    (stopped / "meta_000025.json").write_text(meta)
    shutil.copyfile(stopped / "model_000021.pt", stopped / "model_000025.pt")
    report = helper.inspect(stopped)
    assert report.step == 21
    assert any("25" in text for text in report.skipped)


def nanochats(folder: Path, **changes: Any) -> Path:
    """A run as nanochat leaves it, with these keys in its meta file."""
    run = save_like_nanochat(folder / "base_checkpoints" / "d4")
    meta = json.loads((run / "meta_000010.json").read_text()) | changes
    (run / "meta_000010.json").write_text(json.dumps(meta))
    return run


@pytest.mark.parametrize(
    "changes",
    [
        {"user_config": {}},
        {"user_config": {"num_iterations": -1, "warmdown_ratio": 0.4}},
        {"user_config": {"num_iterations": 20, "warmdown_ratio": 7.0, "warmup_steps": 10**9}},
        {"loop_state": {"min_val_bpb": float("inf"), "smooth_train_loss": float("nan"), "total_training_time": 0}},
        {"val_bpb": None, "total_batch_size": 0},
    ],
)
def test_odd_settings_leave_figures_unknown_and_not_wrong(tmp_path: Path, changes: dict[str, Any]) -> None:
    report = helper.inspect(nanochats(tmp_path, **changes))
    assert report.step == 10
    assert report.val_bpb is None or report.val_bpb >= 0
    assert report.progress is None or 0 <= report.progress <= 1
    assert [way.command for way in helper.ways(report)] == [None, None]


def test_an_empty_folder_and_one_without_a_good_step(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint that can be used"):
        helper.inspect(tmp_path)
    run = nanochats(tmp_path)
    (run / "model_000010.pt").write_bytes(b"x")
    with pytest.raises(CheckpointError, match="no checkpoint that can be used") as error:
        helper.inspect(run)
    assert "\n" not in str(error.value)


@needs_fixtures
@pytest.mark.parametrize(
    ("run", "target"),
    [
        ("nanochat_2025_11_06/chatsft_checkpoints/d2", 11),  # 12 steps from 0 on
        ("nanochat_2026_07_03/chatsft_checkpoints/d4", 12),  # 24 batches, two to an update
        ("nanochat_2026_07_03/chatrl_checkpoints/d4", 3),
    ],
)
def test_fine_tunings_that_nanochat_ended_are_complete(run: str, target: int) -> None:
    report = helper.inspect(FIXTURES / run)
    assert (report.target, report.remaining, report.progress) == (target, 0, 1.0)
    assert report.insights[0].startswith("The run is complete")
