"""What Home says about a root: is it there, how much disk it takes, which runs lie in it. Pure, no Streamlit here."""

import os
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path

from nanochat.checkpoint_manager import Run, depth_of, find_runs
from nanochat.paths import DiskUse, Root, disk_use, folder_problem, readable_size
from nanochat.ui.text import visible


@dataclass(frozen=True)
class RootReport:
    """One root as it is on disk right now."""

    root: Root
    exists: bool
    problem: str | None  # why it cannot be read, as words that end a sentence
    disk: DiskUse
    runs: tuple[Run, ...]
    sizes: tuple[int, ...]  # bytes of each run's folder, in the order of `runs`


def survey(root: Root) -> RootReport:
    """Look at one root. Never raises for what is or is not on disk."""
    problem = folder_problem(root.path)
    exists = problem is not None or root.path.is_dir()
    readable = exists and problem is None
    runs = tuple(find_runs(root.path)) if readable else ()
    disk = disk_use(root.path) if readable else DiskUse(0, 0, problem is None)
    return RootReport(root, exists, problem, disk, runs, tuple(disk_use(run.folder).size for run in runs))


def disk_sentence(report: RootReport) -> str:
    """How full the root is, in words."""
    if report.problem is not None:
        return f"This folder cannot be opened: {report.problem}."
    if not report.exists and not report.root.ours and os.environ.get(report.root.variable):
        return f"This folder does not exist: {report.root.variable} names it, so check how it is written."
    if not report.exists:
        return "Not there yet. It takes no disk space."
    at_least = "" if report.disk.complete else "At least "
    files = f"{report.disk.files:,} file{'' if report.disk.files == 1 else 's'}"
    return f"{at_least}{readable_size(report.disk.size)} in {files}."


def run_rows(report: RootReport) -> list[dict[str, str]]:
    """The table of runs, one row each, every text safe to show."""
    return [
        {
            "Stage": run.stage,
            "Tag": visible(run.tag),
            "State": _state(len(run.problems)),
            "Steps": _steps(run.steps),
            "Size": readable_size(size),
        }
        for run, size in zip(report.runs, report.sizes, strict=True)
    ]


def _steps(steps: tuple[int, ...]) -> str:
    """All steps while they are few, else the ends and how many there are."""
    if len(steps) <= 5:
        return ", ".join(map(str, steps))
    return f"{steps[0]}, {steps[1]} … {steps[-1]} ({len(steps)} saved)"


def _state(problems: int) -> str:
    return "complete" if problems == 0 else f"{problems} problem{'' if problems == 1 else 's'}, see below"


def chat_command(report: RootReport) -> str | None:
    """The command that talks to this root's most talkative run; None where no run can be opened."""
    for stage in ("sft", "rl", "mid", "base"):  # of the stages that have learned to answer, the most tested first
        complete = [run for run in report.runs if run.stage == stage and run.steps]
        if complete:
            run = max(complete, key=lambda run: (depth_of(run.tag), -len(run.tag)))
            words = ["nanochat", "chat_cli", "-i", stage, "-g", run.tag, "-p", "Hello"]
            return _shell([*words, "--base-dir", str(report.root.path)])
    return None


def removal_command(folder: Path, windows: bool = os.name == "nt") -> str:
    """What removes our workspace and nothing else."""
    return _shell(["rmdir", "/s", str(folder)] if windows else ["rm", "-r", str(folder)], windows)


def another_folder_command(windows: bool = os.name == "nt") -> str:
    """How to start the app with the nanochat folder that a person has."""
    if windows:
        return "set NANOCHAT_BASE_DIR=C:\\path\\to\\nanochat\nstreamlit run Home.py"
    return "NANOCHAT_BASE_DIR=/path/to/nanochat streamlit run Home.py"


def _shell(words: list[str], windows: bool = os.name == "nt") -> str:
    """Words as one line for the shell of this system, quoted where they must be."""
    return visible(subprocess.list2cmdline(words) if windows else shlex.join(words))
