"""Which runs there are and which of their steps can be used.

A base dir holds a folder per stage (`base_checkpoints`), that one a folder per run (`d4`), that one the files of its
steps. This looks at names, sizes and meta files only: no torch, no weights, so it is cheap enough for every picker.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

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
                problems.append(
                    f"step {step}: {model_name(step)} has no {meta_name(step)}, because saving or "
                    "copying was interrupted: copy the step again, or delete the file"
                )
                continue
            recorded = recorded_files(read_meta(Path(folder, meta_name(step))))
            if step not in models:
                problems.append(
                    f"step {step}: {meta_name(step)} has no {model_name(step)}: copy it again, or delete the file"
                )
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


def existing_step(folder: Path, step: int) -> int:
    """The step, if the run has a meta file for it.

    Raises:
        CheckpointError: it has not, or `step` is no whole number; the complete steps are listed.
    """
    if type(step) is int and step >= 0 and os.path.lexists(folder / meta_name(step)):
        return step
    there = ", ".join(map(str, list_steps(folder)[0])) or "none"
    name = meta_name(step) if type(step) is int else shown(step)
    raise CheckpointError(f"{location(folder / name)}: there is no such step; complete steps: {shown(there, 200)}")


def find_runs(base_dir: str | Path) -> list[Run]:
    """Every run of every stage and era under a base dir, in the order of the stages.

    A broken run is listed with its problems and never keeps the others from being listed. A base dir that does not
    exist holds no runs.
    """
    runs = []
    for stage, names in paths.STAGE_FOLDERS.items():
        for parent in (paths.expand(Path(base_dir, name)) for name in names):
            try:
                tags = [tag for tag in names_in(parent) if (parent / tag).is_dir()] if parent.is_dir() else []
            except (CheckpointError, OSError) as error:
                runs.append(Run(stage, "", parent, (), (str(error),)))
                continue
            runs += [_run(stage, parent / tag) for tag in sorted(tags, key=_natural)]
    return runs


def choose_run(base_dir: str | Path | Sequence[Path], source: str, model_tag: str | None = None) -> tuple[Run, str]:
    """The run that a tool means, and why it is that one.

    With a tag: the run with exactly that name, or as any tool prints it: `stage/tag`, `root:stage/tag`, or
    `folder/tag` where a stage has two folders. Without: the one of the
    greatest depth, read from names such as `d12` or `d12_long`; where no name tells a depth, the one changed last. Two
    runs of the same greatest depth are an error that names both, because nanochat itself would take either. Of several
    base dirs the first that has a fitting run with a complete checkpoint decides.

    Raises:
        CheckpointError: unknown stage, no such run, or more than one that fits.
    """
    if source not in paths.STAGE_FOLDERS:
        raise CheckpointError(f"unknown stage '{shown(source)}'; choose one of {', '.join(paths.STAGE_FOLDERS)}")
    base_dirs = [base_dir] if isinstance(base_dir, str | Path) else list(base_dir)
    if len(base_dirs) == 1:
        _require_base_dir(paths.expand(base_dirs[0]))
    known = [[run for run in find_runs(place) if run.tag] for place in base_dirs]
    for root in paths.roots():
        exact = any(_is_named(run, model_tag) for runs in known for run in runs)
        if model_tag and not exact and model_tag.startswith(f"{root.name}:") and root.path in base_dirs:
            known = [known[list(base_dirs).index(root.path)]]
            base_dirs, model_tag = [root.path], model_tag.removeprefix(f"{root.name}:")
    fitting: list[Run] = []
    for runs in known:
        fitting = fitting or [run for run in runs if run.stage == source and run.steps and _is_named(run, model_tag)]
    where = " and ".join(location(place) for place in base_dirs)
    if not fitting:
        _explain_none(where, source, model_tag, [run for runs in known for run in runs])
    reason = "named by its tag"
    if model_tag is None:
        deepest = max(depth_of(run.tag) for run in fitting)
        if deepest >= 0:
            fitting, reason = [run for run in fitting if depth_of(run.tag) == deepest], "the greatest depth there"
        else:
            fitting, reason = [max(fitting, key=_changed)], "the run changed last"
    if len(fitting) > 1:
        names = [shown(_full_name(run), 120) for run in fitting]
        raise CheckpointError(
            f"{where}: more than one {source} run fits ({', '.join(names)}); name one, as in -g {names[0]}"
        )
    return fitting[0], reason


def _full_name(run: Run) -> str:
    return f"{run.folder.parent.name}/{run.tag}"


def _is_named(run: Run, model_tag: str | None) -> bool:
    old = "old/" if run.folder.parent.name == "sft_checkpoints" else ""
    return model_tag in (None, run.tag, _full_name(run), f"{run.stage}/{old}{run.tag}")


def _require_base_dir(base_dir: Path) -> None:
    """Refuse a path that is no base dir but looks like the user meant one."""
    problem = "it does not exist" if not os.path.lexists(base_dir) else paths.folder_problem(base_dir)
    if problem is not None:
        raise CheckpointError(
            f"{location(base_dir)}: {problem}; name the folder that holds base_checkpoints and the like"
        )
    stages = {name for names in paths.STAGE_FOLDERS.values() for name in names}
    inside = next((folder for folder in (base_dir, base_dir.parent) if folder.name in stages), None)
    if inside is not None:
        raise CheckpointError(
            f"{location(base_dir)}: this lies inside a base dir; name the base dir, {location(inside.parent)}"
        )


def _explain_none(where: str, source: str, model_tag: str | None, runs: list[Run]) -> NoReturn:
    """Why no run fits: there is none, it has another name or stage, or it is incomplete."""
    named = f"{source} run" if model_tag is None else f"{source} run '{shown(model_tag)}'"
    same_stage = [run for run in runs if run.stage == source]
    broken = [run.problems[0] for run in same_stage if run.problems and _is_named(run, model_tag)]
    if broken:
        raise CheckpointError(f"{where}: no {named} with a complete checkpoint ({shown(broken[0], 300)})")
    if same_stage:
        there = ", ".join(shown(run.tag) for run in same_stage)
        raise CheckpointError(f"{where}: no {named}; the {source} runs there: {there}")
    if runs:
        there = ", ".join(f"{run.stage} {shown(run.tag)}" for run in runs[:20])
        raise CheckpointError(
            f"{where}: no {named}; the runs there: {there}; name their stage, as in -i {runs[0].stage}"
        )
    raise CheckpointError(f"{where}: no runs there; name the base dir of a nanochat that has some")


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


def depth_of(tag: str) -> int:
    """The depth that a tag such as `d12` or `d12_long` names, -1 for one that names none."""
    found = re.match(r"d([0-9]{1,6})(?![0-9])", tag)
    return int(found[1]) if found else -1


def _changed(run: Run) -> float:
    return (run.folder / meta_name(run.steps[-1])).stat().st_mtime


def _natural(tag: str) -> list[tuple[int, str]]:
    """A sort key that puts d4 before d12."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"([0-9]+)", tag) if part]
