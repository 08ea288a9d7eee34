"""Background jobs: a training that outlives the page, the browser and the server that started it.

    job = start("Demo", [["nanochat.scripts.demo", "--budget", "60", "--json"]])
    status(job).state          # "running", then "finished", "failed", "stopped" or "lost"
    stop(job)                  # as Ctrl-C does: a training saves a checkpoint first

A job is a folder below `jobs/` of our workspace: job.json (what runs), output.log (what it prints), state.json (where
it stands). A supervisor, `python -m nanochat.jobs FOLDER`, runs the job's commands one after the other in a session of
its own and holds the folder's lock as long as it lives. So whether a job lives is asked of the lock: unlike a process
number, it cannot belong to somebody else by now. Nothing of this needs torch or Streamlit.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from nanochat.checkpoint_files import CheckpointError
from nanochat.durable import directory_lock, is_locked, publish, stage_bytes
from nanochat.paths import workspace

JOB_NAME, STATE_NAME, LOG_NAME = "job.json", "state.json", "output.log"
STARTING = 15.0  # seconds that a supervisor may take until it holds its folder
TAIL = 64_000  # bytes of a log that are read at most


class JobError(ValueError):
    """A job that cannot be started, found or stopped: one sentence."""


@dataclass(frozen=True)
class Job:
    """What was asked for."""

    id: str
    title: str
    commands: tuple[tuple[str, ...], ...]  # module and its arguments, run one after the other
    begun: float  # seconds since 1970
    facts: Mapping[str, Any] = field(default_factory=dict)  # what the page that started it wants to know later
    folder: Path = field(default_factory=Path)

    @property
    def log(self) -> Path:
        """Everything that it printed."""
        return self.folder / LOG_NAME


@dataclass(frozen=True)
class Status:
    """Where a job stands."""

    state: str  # "running", "finished", "failed", "stopped", or "lost": it ended without saying how
    command: int = 0  # which of its commands runs, or was the last
    code: int | None = None  # exit status of the last command
    pid: int | None = None  # of the supervisor; its process group is the job
    ended: float | None = None  # seconds since 1970

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self.state == "running"


def folder_of_jobs() -> Path:
    """Where all jobs lie."""
    return workspace() / "jobs"


def start(title: str, commands: Sequence[Sequence[str]], facts: Mapping[str, Any] | None = None) -> Job:
    """Begin a job; it goes on whatever becomes of this process.

    Raises CheckpointError where the workspace cannot be written.
    """
    begun = time.time()
    parent = folder_of_jobs()
    for attempt in range(1000):
        name = time.strftime("%Y%m%d-%H%M%S", time.localtime(begun)) + (f"-{attempt}" if attempt else "")
        try:
            (parent / name).mkdir(parents=True)
            break
        except FileExistsError:
            continue
        except OSError as error:
            raise JobError(
                f"{parent} cannot be written ({error.strerror}); set NANOCHAT_LAB_DIR to a folder that can"
            ) from None
    else:
        raise JobError(f"a thousand jobs were started in one second in {parent}; wait a moment")
    job = Job(name, title, tuple(tuple(command) for command in commands), begun, dict(facts or {}), parent / name)
    _write(job.folder / JOB_NAME, {key: value for key, value in asdict(job).items() if key != "folder"})
    own_session: dict[str, Any] = {"start_new_session": True}
    if sys.platform == "win32":
        own_session = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    with job.log.open("ab") as log:
        subprocess.Popen(
            [sys.executable, "-m", "nanochat.jobs", str(job.folder)], cwd=Path(__file__).parents[1],
            stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, **own_session,
        )  # fmt: skip
    return job


def find(job_id: str) -> Job:
    """The job of this id. Raises JobError where there is none."""
    if Path(job_id).name != job_id or job_id.startswith("."):
        raise JobError(f"{job_id[:60]!r} is no job's id; it is a name such as 20260131-120000")
    return _read_job(folder_of_jobs() / job_id)


def all_jobs(kinds: Collection[str] | None = None) -> list[Job]:
    """Every job, the newest first; folders that hold none are passed over.

    kinds: only those whose facts name one of these as their `kind`, since each page lists its own jobs.
    """
    jobs = []
    for folder in sorted(folder_of_jobs().glob("*"), reverse=True):
        try:
            job = _read_job(folder)
        except JobError:
            continue
        if kinds is None or str(job.facts.get("kind")) in kinds:
            jobs.append(job)
    return jobs


def status(job: Job) -> Status:
    """Where it stands now."""
    held = is_locked(job.folder)
    try:
        said = json.loads((job.folder / STATE_NAME).read_text(encoding="utf-8"))
        known = Status(**{key: said.get(key) for key in ("state", "command", "code", "pid", "ended")})
    except (OSError, ValueError, TypeError, AttributeError):
        fresh = time.time() - job.begun < STARTING
        return Status("running" if held or fresh else "lost")
    if known.alive and not held and not is_locked(job.folder):  # asked again: it may have begun in between
        return Status("lost", known.command, known.code, known.pid)
    return known


def stop(job: Job, force: bool = False) -> None:
    """Ask it to end as Ctrl-C does; with `force` end it at once, and what it had not saved is lost.

    Raises JobError where it has not come up yet, or has ended.
    """
    now = status(job)
    if not now.alive:
        raise JobError(f"the job {job.title!r} has ended already; there is nothing to stop")
    if now.pid is None:
        raise JobError(f"the job {job.title!r} is just starting; try again in some seconds")
    if sys.platform == "win32":
        os.kill(now.pid, signal.SIGTERM if force else signal.CTRL_BREAK_EVENT)
    else:
        os.killpg(now.pid, signal.SIGKILL if force else signal.SIGINT)  # the supervisor leads its group


class NewLines:
    """A job's log as it grows: each look gives the whole lines that came since the last one."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self._place = 0

    def look(self) -> list[str]:
        """The new lines; what is not ended yet comes with a later look. Nothing where the log is gone."""
        try:
            with self.job.log.open("rb") as file:
                file.seek(self._place)
                new = file.read()
        except OSError:
            new = b""
        whole = new[: new.rfind(b"\n") + 1]
        self._place += len(whole)
        return whole.decode("utf-8", "replace").splitlines()


def event_in(line: str) -> dict[str, Any] | None:
    """The line of a log as an object of JSON; None where it is something else."""
    if not line.startswith("{"):
        return None
    try:
        said = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return said if isinstance(said, dict) else None


def log_tail(job: Job, size: int = TAIL) -> str:
    """The end of what it printed, from the start of a line."""
    try:
        with job.log.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(0, end - size))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return ""
    return text if end <= size else text.partition("\n")[2]


def _read_job(folder: Path) -> Job:
    try:
        said = json.loads((folder / JOB_NAME).read_text(encoding="utf-8"))
        commands = tuple(tuple(map(str, command)) for command in said["commands"])
        return Job(folder.name, str(said["title"]), commands, float(said["begun"]), dict(said["facts"]), folder)
    except (OSError, ValueError, KeyError, TypeError):
        raise JobError(f"{folder} is no job that can be read; jobs are listed on the Train page") from None


def _write(path: Path, content: Mapping[str, Any]) -> None:
    publish(stage_bytes(path, json.dumps(content, indent=1).encode()))


def supervise(folder: Path) -> int:
    """Run the job's commands one after the other; the last one's exit status."""
    job = _read_job(folder)
    stopping = False

    def note(*_: object) -> None:  # the signal reaches the whole group: the command ends by it, we wait for that
        nonlocal stopping
        stopping = True

    for name in ("SIGINT", "SIGTERM", "SIGBREAK"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), note)
    code = 0
    with directory_lock(folder):
        number = 0
        for number, (module, *arguments) in enumerate(job.commands):
            _write(folder / STATE_NAME, asdict(Status("running", number, pid=os.getpid())))
            process = subprocess.Popen([sys.executable, "-u", "-m", module, *arguments], stdin=subprocess.DEVNULL)
            code = process.wait()
            if code or stopping:
                break
        state = "stopped" if stopping else "failed" if code else "finished"
        _write(folder / STATE_NAME, asdict(Status(state, number, code, os.getpid(), time.time())))
    return code


if __name__ == "__main__":
    try:
        sys.exit(supervise(Path(sys.argv[1])))
    except (JobError, CheckpointError) as error:
        sys.exit(str(error))
