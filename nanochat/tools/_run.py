"""Which run a tool means: a folder, or `--base-dir --source --model-tag --step`; the same flags in every tool.

nanochat training_resume_helper base_checkpoints/d20
nanochat training_resume_helper --source sft --model-tag d20 --step 700
"""

import argparse
from pathlib import Path

from nanochat import paths
from nanochat.checkpoint_files import CheckpointError, location
from nanochat.checkpoint_runs import Run, choose_run, existing_step, list_steps


def add_run_flags(parser: argparse.ArgumentParser, *, many: bool = False) -> None:
    """A run by its folder, or by base dir, stage and tag. many: several folders may be given."""
    which = parser.add_argument_group("which run")
    which.add_argument(
        "checkpoint_dir",
        nargs="*" if many else "?",
        type=Path,
        help="the folder of a run, such as base_checkpoints/d20" + ("; several are compared" if many else ""),
    )
    which.add_argument("--base-dir", type=Path, help="look for runs below this folder only (workspace, then nanochat)")
    which.add_argument(
        "--source", "-i", choices=list(paths.STAGE_FOLDERS), default="base", help="stage of the run (base)"
    )
    which.add_argument("--model-tag", "-g", help="name of the run (the deepest)")
    which.add_argument("--step", "-s", type=int, help="step of the run (the last complete one)")
    which.add_argument("--device", default="cpu", help="where a model runs: cpu, cuda, mps or auto (cpu)")


def chosen_run(args: argparse.Namespace) -> tuple[Run, int | None, str]:
    """(run, step, why it is this one); the step is None where the run has no complete one and none was asked for.

    Raises:
        CheckpointError: no such folder, run or step, or a tag that names several runs, which are listed.
    """
    folder = args.checkpoint_dir[0] if isinstance(args.checkpoint_dir, list) and args.checkpoint_dir else None
    folder = args.checkpoint_dir if isinstance(args.checkpoint_dir, Path) else folder
    if folder is not None:
        run, note = run_of_folder(folder), "named by its folder"
    else:
        places = [paths.expand(args.base_dir)] if args.base_dir else [root.path for root in paths.roots()]
        run, note = choose_run(places, args.source, args.model_tag)
    if args.step is not None:
        return run, existing_step(run.folder, args.step), note
    return run, run.steps[-1] if run.steps else None, note


def folder_of(name: str | Path) -> Path:
    """A folder as it is named; where there is none, the folder of the run of that name in the roots, such as base/d4.

    Raises CheckpointError where the name has a stage's form and no run is called so.
    """
    path = paths.expand(name)
    stage, _, tag = str(name).partition("/")
    if stage not in paths.STAGE_FOLDERS or not tag or path.exists():
        return path
    places = [root.path for root in paths.roots()]
    folders = [place / name / tag for place in places for name in paths.STAGE_FOLDERS[stage]]
    there = next((folder for folder in folders if folder.is_dir()), None)  # also one without a checkpoint yet
    return there or choose_run(places, stage, tag)[0].folder


def run_of_folder(folder: str | Path) -> Run:
    """The run in a folder, whatever the folder is called, or of that name (`folder_of`).

    Raises:
        CheckpointError: there is no such folder, it cannot be listed, or it holds runs instead of being one.
    """
    from nanochat.metrics_meta import stage_of  # it loads Polars, which no --help may wait for

    path = folder_of(folder)
    steps, problems = list_steps(path)
    inside = [name for names in paths.STAGE_FOLDERS.values() for name in names if (path / name).is_dir()]
    if not steps and not problems and inside:
        raise CheckpointError(
            f"{location(path)}: this is a base dir, not a run; name a run in it, or give it as --base-dir"
        )
    return Run(stage_of(path.absolute()) or "base", path.name or str(path), path, steps, problems)
