"""The flags that base_train and chat_sft share, and how a resumed run comes by those that it was started with.

A resumed run is the same run: it takes every flag from the checkpoint, except those that the command line names now.
So the command that started it, with `--resume` behind it, goes on with it, and so does `--resume` alone.

    nanochat base_train --depth 4 --resume
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanochat.paths import expand, workspace

if TYPE_CHECKING:
    from nanochat.distributed import World

# What a resumed run does not take over from the run that it continues.
NOT_INHERITED = {"run", "device_type", "resume", "resume_from_step", "force", "base_dir", "model_tag", "json", "fp8"}
# Different ways to say how long a run is: a new one that is given stands in place of the old one, whichever that was.
# target_param_data_ratio gives way to all of them anyway, and it is kept: the size of an update follows from it too.
LENGTHS = {"minutes", "budget", "num_iterations", "target_tokens", "target_flops"}
RATIO = "target_param_data_ratio"


def add_resume(group: Any) -> None:
    """Going on with a run, or making room for a new one."""
    group.add_argument("--resume", action="store_true", help="go on from the last complete step of this run")
    group.add_argument("--resume-from-step", type=int, default=-1, help="go on from this step (-1: off)")
    group.add_argument("--force", action="store_true", help="remove the steps of an older run that are in the way")


def add_budget(group: Any) -> None:
    """A length in time."""
    group.add_argument("--minutes", type=float, help="end after this time, evaluation and saving included")
    group.add_argument("--budget", type=float, help="the same in seconds")


def add_speed(group: Any) -> None:
    """Where and how fast."""
    group.add_argument("--device-type", default="", help="cuda, cpu or mps (the best there is)")
    group.add_argument("--dtype", default="auto", choices=("auto", "float32", "bfloat16"), help="number format (auto)")
    group.add_argument("--compile", default="auto", choices=("auto", "on", "off"), help="torch.compile the step (auto)")


def add_saving(group: Any) -> None:
    """When to save."""
    group.add_argument("--save-every", type=int, default=-1, help="updates between checkpoints (-1: at the end only)")
    group.add_argument("--save-minutes", type=float, help="minutes between checkpoints (off)")


def add_output(group: Any) -> None:
    """What is printed."""
    group.add_argument("--run", default="dummy", help="name of the run, kept with it; nothing is sent anywhere")
    group.add_argument("--json", action="store_true", help="print records and scores as lines of JSON instead of text")


def given_flags(parser: argparse.ArgumentParser, argv: list[str] | None) -> frozenset[str]:
    """The names of the flags that the command line gives, with underscores. `parser` loses its defaults."""
    parser.set_defaults(**dict.fromkeys(vars(parser.parse_args(argv))))
    return frozenset(name for name, value in vars(parser.parse_args(argv)).items() if value is not None)


def resuming(args: argparse.Namespace) -> bool:
    """Whether these flags go on with a run."""
    return bool(args.resume) or args.resume_from_step >= 0


def take_over(
    make_parser: Callable[[], argparse.ArgumentParser],
    argv: list[str] | None,
    folder: Path,
    world: World,
    device: Any = "cpu",
) -> argparse.Namespace:
    """The flags for going on with the run in `folder`: what the command line does not give is as it was started.

    `resume_from_step` is then the step, chosen where the flags leave that open. Every rank calls it.

    Raises:
        CheckpointError: another trainer is writing there, or there is no such run or step.
    """
    from nanochat.checkpoint_files import meta_name
    from nanochat.checkpoint_manager import find_last_step, read_meta
    from nanochat.training_checkpoints import require_unused

    require_unused(folder, world, device)  # before its first save a run that goes on looks like one that never was
    parser = make_parser()
    args, given = parser.parse_args(argv), given_flags(make_parser(), argv)
    step = args.resume_from_step if args.resume_from_step >= 0 else find_last_step(folder)
    saved = read_meta(folder / meta_name(step)).get("user_config") or {}
    known = {name: value for name, value in saved.items() if hasattr(args, name)}
    new_length = any(getattr(args, name) != -1 for name in given & {*LENGTHS, RATIO})  # -1: off
    own = NOT_INHERITED | given | (LENGTHS if new_length else set())
    parser.set_defaults(**{name: known[name] for name in known.keys() - own})
    args = parser.parse_args(argv)
    args.resume_from_step = step
    return args


def base_dir_of(args: argparse.Namespace) -> Path:
    """Where a run writes: the workspace, unless another place is named."""
    return expand(args.base_dir) if args.base_dir else workspace()


def seconds_of(args: argparse.Namespace) -> float | None:
    """The length in time that was asked for; None where none was."""
    return args.budget if args.minutes is None else 60 * args.minutes


def run_facts(args: argparse.Namespace, sequence_len: int, batch_tokens: int) -> dict[str, Any]:
    """nanochat's keys of a meta file that tell how a run was started: plain JSON."""
    return {
        "user_config": json.loads(json.dumps(vars(args), default=str)),
        "device_batch_size": args.device_batch_size,
        "max_seq_len": sequence_len,
        "total_batch_size": batch_tokens,
    }
