"""nanochat.jobs: a job runs on its own, its end is known, it can be stopped gently and hard, and a kill is noticed."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from nanochat import durable, jobs
from nanochat.durable import directory_lock, is_locked

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
WAIT = 60.0  # seconds until a test gives up


@pytest.fixture(autouse=True)
def modules_of_this_test(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small commands that a job can run, importable by the supervisor's children."""
    (tmp_path / "says.py").write_text("import sys; print('said', *sys.argv[1:])")
    (tmp_path / "fails.py").write_text("import sys; print('alas'); sys.exit(3)")
    (tmp_path / "trains.py").write_text(
        "import time\ntry:\n  print('up', flush=True)\n  time.sleep(300)\n"
        "except KeyboardInterrupt:\n  print('saved', flush=True); raise SystemExit(130)\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{ROOT}")


def until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + WAIT
    while not true():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


def ended(job: jobs.Job) -> jobs.Status:
    until(lambda: not jobs.status(job).alive)
    return jobs.status(job)


def test_commands_run_in_turn_and_the_end_is_known() -> None:
    job = jobs.start("Two", [["says", "one"], ["says", "two"]], {"tag": "d4"})
    assert jobs.status(job).alive  # at once, though the supervisor needs a moment
    done = ended(job)
    assert (done.state, done.code, done.command) == ("finished", 0, 1)
    assert jobs.log_tail(job) == "said one\nsaid two\n"
    assert jobs.find(job.id) == job
    assert jobs.all_jobs() == [job]


def test_each_page_lists_the_jobs_of_its_kinds() -> None:
    for name, facts in (("1", {"kind": "demo"}), ("2", {"kind": "other"}), ("3", {}), ("4", {"kind": ["demo"]})):
        folder = jobs.folder_of_jobs() / name
        folder.mkdir(parents=True)
        (folder / jobs.JOB_NAME).write_text(json.dumps({"title": "x", "commands": [], "begun": 0, "facts": facts}))
    assert [job.id for job in jobs.all_jobs({"demo": "First model"})] == ["1"]
    assert [job.id for job in jobs.all_jobs()] == ["4", "3", "2", "1"]


def test_a_failure_ends_the_job_and_keeps_its_words() -> None:
    job = jobs.start("Fails", [["fails"], ["says", "never"]])
    done = ended(job)
    assert (done.state, done.code, done.command) == ("failed", 3, 0)
    assert jobs.log_tail(job) == "alas\n"


def test_stop_lets_it_save_first() -> None:
    job = jobs.start("Trains", [["trains"], ["says", "never"]])
    until(lambda: "up" in jobs.log_tail(job))
    jobs.stop(job)
    assert ended(job).state == "stopped"
    assert jobs.log_tail(job) == "up\nsaved\n"
    with pytest.raises(jobs.JobError, match="'Trains' has ended already"):
        jobs.stop(job)


def test_force_ends_it_at_once_and_that_is_noticed() -> None:
    job = jobs.start("Trains", [["trains"]])
    until(lambda: "up" in jobs.log_tail(job))
    jobs.stop(job, force=True)
    assert ended(job).state == "lost"
    assert "saved" not in jobs.log_tail(job)


def test_it_outlives_who_started_it() -> None:
    code = "from nanochat import jobs; print(jobs.start('Trains', [['trains']]).id)"
    job = jobs.find(subprocess.check_output([sys.executable, "-c", code], text=True, cwd=ROOT, timeout=WAIT).strip())
    until(lambda: "up" in jobs.log_tail(job))
    assert jobs.status(job).alive
    supervisor = jobs.status(job).pid
    assert supervisor is not None
    os.killpg(supervisor, signal.SIGKILL)
    assert ended(job).state == "lost"


def test_another_process_with_the_number_is_not_the_job() -> None:
    job = jobs.start("Says", [["says"]])
    ended(job)
    (job.folder / jobs.STATE_NAME).write_text(f'{{"state": "running", "command": 0, "pid": {os.getpid()}}}')
    assert jobs.status(job).state == "lost"  # our own number, and yet nobody holds the folder


def test_a_job_that_begins_while_one_looks_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its supervisor takes the folder and writes its state between our look at the one and at the other."""
    folder = jobs.folder_of_jobs() / "20260101-120000"
    folder.mkdir(parents=True)
    job = jobs.Job(folder.name, "x", (), time.time(), {}, folder)
    (folder / jobs.STATE_NAME).write_text(json.dumps({"state": "running", "command": 0, "pid": 1}))
    looks = iter([False, True])
    monkeypatch.setattr(jobs, "is_locked", lambda folder: next(looks))
    assert jobs.status(job).alive


@pytest.mark.parametrize("name", ["../../etc", "", ".", "nothing", "a/b"])
def test_what_is_no_job_is_a_sentence(name: str) -> None:
    with pytest.raises(jobs.JobError):
        jobs.find(name)


def test_damaged_files_are_passed_over() -> None:
    job = jobs.start("Says", [["says"]])
    ended(job)
    (job.folder / jobs.STATE_NAME).write_text("[1")
    assert jobs.status(job).state in ("running", "lost")
    (job.folder / jobs.JOB_NAME).write_text("{}")
    assert jobs.all_jobs() == []


def test_a_workspace_that_cannot_be_written_is_a_sentence(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NANOCHAT_LAB_DIR", str(tmp_path / "file"))
    with pytest.raises(jobs.JobError, match="set NANOCHAT_LAB_DIR"):
        jobs.start("Says", [["says"]])


def test_a_lock_is_seen_and_not_taken(tmp_path) -> None:
    assert not is_locked(tmp_path / "nothing")
    with directory_lock(tmp_path):
        assert is_locked(tmp_path)
        code = f"from nanochat.durable import is_locked; print(is_locked({str(tmp_path)!r}))"
        seen = subprocess.check_output([sys.executable, "-c", code], text=True, cwd=ROOT, timeout=WAIT)
        assert seen == "True\n"
    assert not is_locked(tmp_path)
    with directory_lock(tmp_path):
        pass


def test_who_looks_is_in_nobodys_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page looks each second: a training that begins just then does begin, and no page sees another."""
    with directory_lock(tmp_path):
        pass
    fcntl = pytest.importorskip("fcntl", reason="Windows has no locks that are shared")
    with (tmp_path / durable.LOCK_NAME).open("r+b") as other:
        fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)
        assert not is_locked(tmp_path)
        monkeypatch.setattr(time, "sleep", lambda seconds: fcntl.flock(other, fcntl.LOCK_UN))
        with directory_lock(tmp_path):
            pass
