"""The flags that base_train and chat_sft share, and how a resumed run comes by those that it was started with.

A resumed run is the same run: it takes every flag from the checkpoint, except those that the command line names now.
So the command that started it, with `--resume` behind it, goes on with it, and so does `--resume` alone.

    nanochat base_train --depth 4 --resume
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanochat.paths import expand, workspace

if TYPE_CHECKING:
    from nanochat.distributed import World


class FlagError(ValueError):
    """A number that no run can have: one sentence."""


@dataclass(frozen=True)
class Limits:
    """What the number of a flag may be."""

    least: float
    most: float
    off: tuple[int, ...] = ()  # what nanochat writes for "off" or "choose for me", outside the limits

    def allow(self, value: Any) -> bool:
        """Whether it may be this; NaN is within no limits."""
        if type(value) not in (int, float):
            return False
        return value in self.off or self.least <= value <= self.most


MOST = 10**12  # of anything that is counted
SHARE = Limits(0, 1)
RATE = Limits(0, 1e30)  # an absurd one diverges, and the run says so
OFF, NEVER = (-1,), (-1, 0)
COMMON_LIMITS = {
    "seed": Limits(0, 2**63 - 1),
    "resume_from_step": Limits(0, MOST - 1, OFF),
    "minutes": Limits(1e-3, 1e8),
    "budget": Limits(0.1, 1e9),
    "num_iterations": Limits(1, MOST, OFF),
    "max_seq_len": Limits(1, 2**24),
    "device_batch_size": Limits(1, 2**20),
    "matrix_lr": RATE,
    "embedding_lr": RATE,
    "unembedding_lr": RATE,
    "warmdown_ratio": SHARE,
    "final_lr_frac": SHARE,
    "clip": Limits(1e-12, 1e30),
    "eval_every": Limits(1, MOST, NEVER),
    "eval_tokens": Limits(1, 2**50),
    "save_every": Limits(1, MOST, NEVER),
    "save_minutes": Limits(1e-3, 1e8),
}
# Whoever starts several ranks may have these at another place on each machine: what they hold is compared instead.
PLACES = {"data", "tokenizer_dir", "words"}

# What a resumed run does not take over from the run that it continues.
NOT_INHERITED = {
    "run", "device_type", "resume", "resume_from_step", "force", "base_dir", "model_tag", "output_tag", "json", "fp8"
}  # fmt: skip
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


def require_numbers(args: argparse.Namespace, limits: Mapping[str, Limits]) -> None:
    """Refuse a number that no run can have, before it costs time or does something else than was meant.

    Raises:
        FlagError: the first one, with its limits.
    """
    for name, limit in limits.items():
        value = getattr(args, name)
        if value is None or limit.allow(value):
            continue
        off = f" ({limit.off[0]} is off)" if limit.off else ""
        number = f"{value:g}" if type(value) in (int, float) else f"{value!r:.40}"
        raise FlagError(
            f"--{name.replace('_', '-')} is {number}; give a number from {limit.least:g} to {limit.most:g}{off}"
        )


def require_same_flags(args: argparse.Namespace, world: World, device: Any = "cpu") -> None:
    """Refuse ranks that were started with different flags, on all of them. Raises DistributedError."""
    from nanochat import __version__

    flags = {f"--{name.replace('_', '-')}": value for name, value in vars(args).items() if name not in PLACES}
    world.require_same({"the version of this project": __version__, **flags}, device)


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
    from nanochat.training_folder import require_unused

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
