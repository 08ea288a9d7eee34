"""The proof and the drill as background jobs: what is started, what their logs say, and what stays of them."""

import importlib
import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from nanochat import durable, jobs, paths
from nanochat.analysis import training_resume_helper as helper
from nanochat.analysis.training_resume_helper import background, proof
from nanochat.analysis.training_resume_helper.proof import PAIRS
from nanochat.errors import exit_status
from nanochat.tools import training_resume_helper as tool
from tests.checkpoint_support import save_like_nanochat, save_ours

LOSSES = pl.DataFrame({"step": [7, 8], "original": [2.5, 2.0], "resumed": [2.5, None]}, schema=PAIRS)
BEFORE = pl.DataFrame({"step": range(300), "loss": [3.0] * 300}, schema={"step": pl.Int64, "loss": pl.Float64})


def made_job(kind: str, state: str, *lines: str, number: int = 1, **facts: Any) -> jobs.Job:
    """A job as its supervisor would have left it."""
    folder = jobs.folder_of_jobs() / f"20260101-12000{number}"
    folder.mkdir(parents=True)
    job = {"title": "x", "commands": [["x"]], "begun": time.time() - 100, "facts": {"kind": kind, **facts}}
    (folder / jobs.JOB_NAME).write_text(json.dumps(job))
    (folder / jobs.STATE_NAME).write_text(json.dumps({"state": state, "command": 0, "code": 1, "pid": 1}))
    (folder / jobs.LOG_NAME).write_text("".join(line + "\n" for line in lines))
    return jobs.find(folder.name)


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[tuple[str, ...]], dict[str, Any]]]:
    """The jobs that would have been started: commands and facts."""
    found: list[tuple[list[tuple[str, ...]], dict[str, Any]]] = []

    def start(title: str, commands: list[tuple[str, ...]], facts: dict[str, Any]) -> jobs.Job:
        found.append((commands, facts))
        rest = {name: value for name, value in facts.items() if name != "kind"}
        return made_job(facts["kind"], "finished", number=len(found), **rest)

    monkeypatch.setattr(jobs, "start", start)
    return found


def test_what_a_job_says_is_what_happened(tmp_path: Path) -> None:
    report = helper.inspect(save_ours(tmp_path / "base_checkpoints" / "d4"))
    events = [
        helper.Again(7, 2.5, 1, 2),
        helper.Scene("Power cut", "It was killed.", "kill -9", report),
        helper.Scene("Recovered", "Yes.", "x", report, LOSSES, True),
        helper.Proof("exact", "Yes, exactly.", LOSSES, BEFORE, "nanochat base_train"),
    ]
    told = helper.told(made_job(helper.PROOF, "finished", *map(helper.said, events), "a warning", '{"event": "Odd"'))
    assert told.again == events[0]
    assert (told.scenes[0]["step"], told.scenes[0]["holds"], told.scenes[1]["holds"]) == (10, None, True)
    assert told.scenes[1]["frame"].equals(LOSSES)
    assert told.proof is not None
    assert told.proof.frame.equals(LOSSES)
    assert told.proof.holds
    assert told.proof.before.equals(BEFORE.tail(background.LAST_BEFORE))
    assert told.lines == ("a warning", '{"event": "Odd"')


@pytest.mark.parametrize(
    "line", ["null", "[]", "{}", '{"event": "Again"}', '{"event": "Proof", "frame": 3}', '{"event": "Scene", "x": 1}',
             '{"event": "Proof", "frame": [["a"]], "before": []}', "\x00\xff"]
)  # fmt: skip
def test_a_log_of_nonsense_says_nothing(line: str) -> None:
    told = helper.told(made_job(helper.PROOF, "failed", line, '{"event": "Again", "st'))
    assert (told.again, told.proof, told.scenes) == (None, None, ())


def test_a_proof_is_the_command_of_the_terminal(
    tmp_path: Path, begun: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    report = helper.inspect(save_ours(tmp_path / "base_checkpoints" / "d4"))
    monkeypatch.setattr(background, "compared", lambda *_: None)
    helper.proof_job(report, 5)
    ((command,), facts) = begun[0]
    args = tool.parser().parse_args(command[1:])
    assert command[0] == "nanochat.tools.training_resume_helper"
    assert (args.checkpoint_dir, args.step, args.prove, args.events) == (report.folder.absolute(), 10, 5, True)
    job = helper.newest(helper.PROOF, folder=facts["folder"], step=10)
    assert job is not None
    assert helper.newest(helper.PROOF, folder=facts["folder"], step=11) is None


def test_a_proof_that_cannot_be_is_refused_before_it_begins(tmp_path: Path, begun: list[Any]) -> None:
    with pytest.raises(helper.ResumeError, match="cannot be resumed"):
        helper.proof_job(helper.inspect(save_like_nanochat(tmp_path / "base_checkpoints" / "d4")), 5)
    assert begun == []


def test_a_drill_keeps_its_folder_until_the_next(begun: list[Any]) -> None:
    first = helper.drill_job()
    scratch = Path(first.facts["scratch"])
    scratch.mkdir(parents=True)
    outside = paths.workspace() / "keep"
    outside.mkdir()
    made_job(helper.DRILL, "finished", number=0, scratch=str(outside))
    second = helper.drill_job(first)
    assert (second.facts["scratch"], second.facts["after"], second.facts["part"]) == (str(scratch), first.id, "recover")
    assert "recover" in begun[1][0][0]
    assert scratch.exists()
    third = helper.drill_job()
    assert not scratch.exists()
    assert outside.exists()
    assert third.facts["scratch"] != str(scratch)


def test_a_new_drill_leaves_one_alone_that_is_being_recovered(begun: list[Any]) -> None:
    """In another tab: its first job, the kill, is over, and a second one works in the same folder."""
    scratch = Path(helper.drill_job().facts["scratch"])
    scratch.mkdir(parents=True)
    recovering = made_job(helper.DRILL, "running", number=5, part="recover", scratch=str(scratch))
    with durable.directory_lock(recovering.folder):
        helper.drill_job()
        assert scratch.exists()


def test_a_drill_needs_a_folder_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(helper.ResumeError, match="is not empty"):
        list(helper.train_and_kill(tmp_path))
    with pytest.raises(helper.ResumeError, match="no training was killed here"):
        list(helper.recover(tmp_path))


def test_a_training_is_dead_before_its_last_update_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = 'import time\nfor s in range(99): print(f\'{{"step": {s}, "train_loss": {s}}}\', flush=True)\ntime.sleep(99)'
    started = []

    def start(script: str, arguments: list[str], said: Any) -> Any:
        started.append(subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True))
        return started[0]

    drill = importlib.import_module("nanochat.analysis.training_resume_helper.drill")  # a function has its name
    monkeypatch.setattr(drill, "start", start)
    seen = []
    for step, _ in drill._run("x", [], 3):
        seen.append((step, started[0].poll() is None))
    assert seen == [(0, True), (1, True), (2, False)]


def test_events_are_lines_and_the_status_is_the_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = save_ours(tmp_path / "base_checkpoints" / "d4")
    for verdict, status in (("exact", 0), ("no", 1)):
        last = helper.Proof(verdict, "x", LOSSES, BEFORE, "x")
        monkeypatch.setattr(helper, "proving", lambda *_, last=last: iter([helper.Again(1, 2.0, 1, 1), last]))
        flags = [str(folder), "--prove", "1", "--events"]
        assert exit_status("x", lambda flags=flags: tool.main(flags)) == status
        assert [json.loads(line)["event"] for line in capsys.readouterr().out.splitlines()] == ["Again", "Proof"]


@pytest.mark.parametrize("flags", [["--events"], ["--drill", "kill"], ["--drill", "recover", "--scratch", "gone"]])
def test_flags_that_do_not_go_together_are_one_line(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_status("x", lambda: tool.main(flags)) == 1
    out, message = capsys.readouterr()
    assert (out, message.count("\n")) == ("", 1)


def test_fine_tuning_takes_the_model_it_began_with_along(tmp_path: Path) -> None:
    save_ours(tmp_path / "base_checkpoints" / "d4", step=10)
    report = helper.inspect(save_ours(tmp_path / "chatsft_checkpoints" / "d4", step=10))
    bases = (
        (None, "does not say"),
        ({"folder": "d4", "step": 99}, "is gone"),
        ({"folder": "../x", "step": 1}, "cannot"),
    )
    for base, words in bases:
        with pytest.raises(ValueError, match=words):
            proof._copy_base(replace(report, meta={"lab": {"base": base}}), tmp_path / "scratch")
    found = replace(report, meta={"lab": {"base": {"folder": "d4", "step": 10}}})
    proof._copy_base(found, tmp_path / "scratch")
    assert (tmp_path / "scratch/base_checkpoints/d4/model_000010.pt").is_file()
