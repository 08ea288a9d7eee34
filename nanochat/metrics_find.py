"""Find the files that hold the history of a run, where a person would look for them.

Logs are wherever the shell put them: `speedrun.log` and `screenlog.0` in the base dir, a folder `logs`, `nohup.out`,
Slurm's `slurm-123.out`, wandb's folder `wandb/<run>/files/output.log`, or beside the checkpoints.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from nanochat.metrics_frame import MetricsError
from nanochat.metrics_meta import stage_of
from nanochat.records import METRICS_NAME

MAX_FILES = 1_000  # of one search; somebody may name a home folder
_LOG_NAME = re.compile(r".+\.log|screenlog\.\d+|nohup\.out|slurm-.+\.out", re.IGNORECASE)


@dataclass(frozen=True)
class Found:
    """A file with metrics."""

    path: Path
    source: str  # metrics, log or wandb, as in the column `source`


def find_logs(folder: str | Path) -> list[Found]:
    """The files with metrics of a run's folder or of a base dir, the oldest first.

    Of a run's folder (`base_checkpoints/d20`): its metrics.jsonl, logs in it, and the logs of the base dir that it
    stands in. Of a base dir: logs in it and in `logs/`, wandb's, and the metrics.jsonl of every run.

    Raises:
        MetricsError: there is no such folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise MetricsError(f"{folder}: there is no such folder; name the folder of a run or nanochat's base dir")
    places = [folder]
    if folder.parent.name and stage_of(folder.parent.name) and folder.parent.parent.is_dir():
        places.append(folder.parent.parent)
    found: dict[Path, Found] = {}
    for place in places:
        _look(place, found, with_runs=place == folder)
    return sorted(found.values(), key=lambda file: (_changed(file.path), str(file.path)))


def source_of(path: str | Path) -> str:
    """What a file is by its name and place: metrics, wandb, meta or log.

    >>> source_of("wandb/offline-run-20260703_1/files/output.log")
    'wandb'
    """
    path = Path(path)
    if path.suffix == ".jsonl":
        return "metrics"
    if re.fullmatch(r"meta_\d+\.json", path.name):
        return "meta"
    return "wandb" if path.name == "output.log" and path.parent.name == "files" else "log"


def _look(place: Path, found: dict[Path, Found], with_runs: bool) -> None:
    _take(place / METRICS_NAME, found)
    for folder in (place, place / "logs"):
        for name in _names(folder):
            if _LOG_NAME.fullmatch(name):
                _take(folder / name, found)
    for run in _names(place / "wandb"):
        if run.startswith(("run-", "offline-run-")):  # latest-run is a link to one of them
            _take(place / "wandb" / run / "files" / "output.log", found)
    if with_runs:
        for stage in _names(place):
            if stage_of(stage):
                for run in _names(place / stage):
                    _take(place / stage / run / METRICS_NAME, found)


def _take(path: Path, found: dict[Path, Found]) -> None:
    if len(found) < MAX_FILES and path.is_file():
        found.setdefault(path, Found(path, source_of(path)))


def _names(folder: Path) -> list[str]:
    """Names in a folder, sorted; none if it is not there or may not be read."""
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
