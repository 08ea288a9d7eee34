"""Which runs there are and which of their steps can be used.

A base dir holds a folder per stage (`base_checkpoints`), that one a folder per run (`d4`), that one the files of its
steps. This looks at names, sizes and meta files only: no torch, no weights, so it is cheap enough for every picker.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from nanochat import paths
from nanochat.checkpoint_files import (
    STEP_FILE,
    CheckpointError,
    damaged,
    location,
    meta_name,
    model_name,
    names_in,
    reason_of,
    require_regular,
    shown,
)
from nanochat.checkpoint_meta import read_meta, recorded_files


@dataclass(frozen=True)
class Run:
    """One folder of checkpoints of one training stage."""

    stage: str  # "base", "mid", "sft" or "rl"
    tag: str  # the folder's name: `d<depth>` unless the run was given another
    folder: Path
    steps: tuple[int, ...]  # complete steps, smallest first
    problems: tuple[str, ...]  # one sentence for each thing that is incomplete or broken


def list_steps(folder: str | Path) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Complete steps of a run, smallest first, and a sentence for each step that is not complete.

    Complete means: a meta file that can be read, and beside it a model file of the size that the meta records (where
    it records one).
    """
    models, metas = set(), set()
    for name in names_in(folder):
        found = STEP_FILE.fullmatch(name)
        if not found:
            continue
        step = int(found[1] or found[2])
        if name == model_name(step):  # the comparison drops 0000120, which is not how 120 is written
            models.add(step)
        elif name == meta_name(step):
            metas.add(step)
    steps, problems = [], []
    for step in sorted(models | metas):
        try:
            if step not in metas:
                problems.append(f"step {step}: {model_name(step)} has no {meta_name(step)}: saving was interrupted")
                continue
            recorded = recorded_files(read_meta(Path(folder, meta_name(step))))
            if step not in models:
                problems.append(f"step {step}: {meta_name(step)} has no {model_name(step)}: the model was removed")
                continue
            _require_size(Path(folder, model_name(step)), recorded)
        except CheckpointError as error:
            problems.append(f"step {step}: {error}")
        else:
            steps.append(step)
    return tuple(steps), tuple(problems)


def find_last_step(folder: str | Path) -> int:
    """The last complete step of a run.

    Raises:
        CheckpointError: the folder is not there or holds no complete step.
    """
    steps, problems = list_steps(folder)
    if steps:
        return steps[-1]
    why = f" ({len(problems)} incomplete; {shown(problems[-1], 300)})" if problems else ""
    raise CheckpointError(
        f"{location(folder)}: no complete checkpoint{why}; name the folder of a run, such as base_checkpoints/d4"
    )


def find_runs(base_dir: str | Path) -> list[Run]:
    """Every run of every stage and era under a base dir, in the order of the stages.

    A broken run is listed with its problems and never keeps the others from being listed. A base dir that does not
    exist holds no runs.
    """
    runs = []
    for stage, names in paths.STAGE_FOLDERS.items():
        for parent in (Path(base_dir, name) for name in names):
            try:
                tags = [tag for tag in names_in(parent) if (parent / tag).is_dir()] if parent.is_dir() else []
            except (CheckpointError, OSError) as error:
                runs.append(Run(stage, "", parent, (), (str(error),)))
                continue
            runs += [_run(stage, parent / tag) for tag in sorted(tags, key=_natural)]
    return runs


def choose_run(base_dir: str | Path, source: str, model_tag: str | None = None) -> tuple[Run, str]:
    """The run that a tool means, and why it is that one.

    With a tag: the run with exactly that name. Without: the one of the greatest depth, read from names such as `d12`
    or `d12_long`; where no name tells a depth, the one changed last. Two runs of the same greatest depth are an error
    that names both, because nanochat itself would take either.

    Raises:
        CheckpointError: unknown stage, no such run, or more than one that fits.
    """
    if source not in paths.STAGE_FOLDERS:
        raise CheckpointError(f"unknown stage '{shown(source)}'; choose one of {', '.join(paths.STAGE_FOLDERS)}")
    runs = [run for run in find_runs(base_dir) if run.stage == source and run.tag]
    where = f"{location(base_dir)}: "
    if model_tag is not None:
        fitting, reason = [run for run in runs if run.tag == model_tag], "named by its tag"
        if not fitting:
            there = ", ".join(shown(run.tag) for run in runs) or "none"
            raise CheckpointError(f"{where}no {source} run '{shown(model_tag)}'; the {source} runs there: {there}")
    else:
        complete = [run for run in runs if run.steps]
        if not complete:
            raise CheckpointError(f"{where}no {source} run with a complete checkpoint; train one or name another root")
        deepest = max(_depth(run.tag) for run in complete)
        if deepest >= 0:
            fitting, reason = [run for run in complete if _depth(run.tag) == deepest], "the greatest depth there"
        else:
            fitting, reason = [max(complete, key=_changed)], "the run changed last"
    if len(fitting) > 1:
        names = ", ".join(shown(f"{run.folder.parent.name}/{run.tag}", 120) for run in fitting)
        raise CheckpointError(f"{where}more than one {source} run fits ({names}); name one by its tag or its folder")
    return fitting[0], reason


def _run(stage: str, folder: Path) -> Run:
    try:
        steps, problems = list_steps(folder)
    except CheckpointError as error:
        steps, problems = (), (str(error),)
    return Run(stage, folder.name, folder, steps, problems)


def _require_size(path: Path, recorded: dict[str, tuple[int, str]]) -> None:
    try:
        status = os.stat(path)
    except OSError as error:
        raise CheckpointError(f"{location(path)}: {reason_of(error)}") from None
    require_regular(path, status.st_mode)
    size = recorded.get(path.name, (status.st_size, ""))[0]
    if status.st_size != size or not status.st_size:
        raise damaged(path, f"{status.st_size:,} bytes" + (f" where {size:,} were saved" if size else ""))


def _depth(tag: str) -> int:
    found = re.match(r"d([0-9]{1,6})(?![0-9])", tag)
    return int(found[1]) if found else -1


def _changed(run: Run) -> float:
    return (run.folder / meta_name(run.steps[-1])).stat().st_mtime


def _natural(tag: str) -> list[tuple[int, str]]:
    """A sort key that puts d4 before d12."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"([0-9]+)", tag) if part]
