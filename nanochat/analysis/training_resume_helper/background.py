"""The proof and the drill as background jobs: what the page starts, and what the job's log says so far.

Both take half a minute or more, and a page that waits so long is lost with a reload. So they run as the very commands
of the terminal, with `--events`: a line of JSON for each update and for each result.

    nanochat training_resume_helper base_checkpoints/d20 --step 2500 --prove 10 --events
"""

import json
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from nanochat import jobs, paths
from nanochat.analysis.training_resume_helper.drill import Scene
from nanochat.analysis.training_resume_helper.proof import PAIRS, Again, Proof, compared
from nanochat.analysis.training_resume_helper.report import Report
from nanochat.jobs import Job

PROOF, DRILL = "resume_proof", "resume_drill"  # kinds of jobs
TOOL = "nanochat.tools.training_resume_helper"
LAST_BEFORE = 200  # losses before the checkpoint that a chart may want
LINES_KEPT = 40
BEFORE = {"step": pl.Int64, "loss": pl.Float64}


@dataclass(frozen=True)
class Told:
    """What a job has said so far."""

    again: Again | None  # the last update
    proof: Proof | None
    scenes: tuple[Mapping[str, Any], ...]  # title, sentence, command, step, lost, holds, frame (columns of PAIRS)
    lines: tuple[str, ...]  # what it said for people, the newest last


def proof_job(report: Report, steps: int) -> Job:
    """Begin a proof.

    Raises:
        ResumeError: there can be none, as far as can be told before.
        JobError, CheckpointError: the workspace cannot be written.
    """
    compared(report, steps)
    folder = str(report.folder.absolute())
    command = (TOOL, folder, "--step", str(report.step), "--prove", str(steps), "--events")
    return jobs.start("Proof of resume", [command], {"kind": PROOF, "folder": folder, "step": report.step})


def drill_job(after: Job | None = None) -> Job:
    """Begin a drill, or recover what the job `after` killed. Raises JobError or CheckpointError as `proof_job`."""
    if after is None:
        _clear()
        scratch, part = _drills() / secrets.token_hex(4), "kill"
    else:
        scratch, part = Path(str(after.facts.get("scratch"))), "recover"
    facts = {"kind": DRILL, "part": part, "scratch": str(scratch), "after": None if after is None else after.id}
    return jobs.start("Drill", [(TOOL, "--drill", part, "--scratch", str(scratch), "--events")], facts)


def _drills() -> Path:
    return paths.workspace() / "drills"


def _clear() -> None:
    """Remove what drills that are over left in the workspace."""
    found = [(Path(str(job.facts.get("scratch"))), jobs.status(job).alive) for job in jobs.all_jobs({DRILL})]
    in_use = {scratch for scratch, alive in found if alive}  # the kill is over while its training is being recovered
    for scratch in {scratch for scratch, _ in found} - in_use:
        if scratch.parent == _drills():
            shutil.rmtree(scratch, ignore_errors=True)  # what stays is a few megabytes, and the next drill tries again


def newest(kind: str, **facts: Any) -> Job | None:
    """The job of this kind that was begun last and has these facts."""
    found = jobs.all_jobs({kind})
    return next((job for job in found if all(job.facts.get(key) == value for key, value in facts.items())), None)


def told(job: Job) -> Told:
    """What a job's log says by now, up to its last whole line; a line that is no event is one for people."""
    again: Again | None = None
    proof: Proof | None = None
    scenes: list[Mapping[str, Any]] = []
    lines: list[str] = []
    text = jobs.log_tail(job, 1 << 20)
    for line in text[: text.rfind("\n") + 1].splitlines():
        try:
            event = json.loads(line)
            name = event.pop("event")
            if name == "Again":
                again = Again(**event)
            elif name == "Proof":
                pairs = pl.DataFrame(event.pop("frame"), PAIRS, orient="row")
                before = pl.DataFrame(event.pop("before"), BEFORE, orient="row")
                proof = Proof(frame=pairs, before=before, **event)
            elif name == "Scene":
                scenes.append({**event, "frame": pl.DataFrame(event["frame"], PAIRS, orient="row")})
        except (ValueError, KeyError, TypeError, AttributeError, pl.exceptions.PolarsError):
            lines.append(line)
    return Told(again, proof, tuple(scenes), tuple(line for line in lines if line.strip())[-LINES_KEPT:])


def said(event: Again | Proof | Scene) -> str:
    """An event as a line of JSON, which `told` reads."""
    if isinstance(event, Again):
        facts: dict[str, Any] = dict(vars(event))
    elif isinstance(event, Proof):
        facts = {**vars(event), "frame": event.frame.rows(), "before": event.before.tail(LAST_BEFORE).rows()}
    else:
        report, frame = event.report, event.frame
        facts = {
            "title": event.title, "sentence": event.sentence, "command": event.command, "holds": event.holds,
            "step": None if report is None else report.step, "lost": None if report is None else report.lost,
            "frame": [] if frame is None else frame.rows(),
        }  # fmt: skip
    return json.dumps({"event": type(event).__name__, **facts})
