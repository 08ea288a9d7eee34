"""A run's folder: taken by one trainer, still the same folder at every write, and emptied only of what may go.

A trainer holds its folder from before the first update to the end. The lock is a file in it, so a folder that is moved
away takes the lock along, and a new folder under the old name is nobody's: what a run writes must not begin there.

    with opened(folder, parameters) as path: ...
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nanochat import durable, paths
from nanochat.checkpoint_files import CheckpointError, location, shown
from nanochat.checkpoint_manager import find_last_step, list_steps, remove_steps
from nanochat.checkpoint_runs import existing_step
from nanochat.distributed import World
from nanochat.records import METRICS_NAME, truncate_after

STATE_BYTES = 3  # a checkpoint takes about this many times the weights: themselves and two moments of each

_locks: dict[Path, tuple[int, int]] = {}  # folder that this process holds -> (device, number) of its lock file


def require_unused(folder: Path, world: World, device: Any = "cpu") -> None:
    """Find out early whether another trainer holds a run's folder; a folder that is not there is not made.

    Raises:
        CheckpointError: one does, or the folder cannot be written.
    """

    def look() -> None:
        if world.first and folder.is_dir():
            with durable.directory_lock(folder):
                pass

    world.all_or_none(look, device)


@contextmanager
def opened(folder: str | Path, parameters: int, world: World | None = None, device: Any = "cpu") -> Iterator[Path]:
    """Hold a run's folder until the run is over. Rank 0 holds it; the others learn whether it could.

    Raises:
        CheckpointError: another trainer holds it, it cannot be written, or one checkpoint would not fit on the disk.
    """
    world = world or World()
    path = paths.expand(folder)
    lock = durable.directory_lock(path)

    def take() -> None:
        if world.first:
            lock.__enter__()
            try:
                durable.require_free_space(path, 4 * STATE_BYTES * parameters)
            except CheckpointError:
                lock.__exit__(None, None, None)
                raise
            _locks[path] = _identity(path)

    world.all_or_none(take, device)
    try:
        yield path
    finally:
        if world.first:
            del _locks[path]
            lock.__exit__(None, None, None)


def require_held(folder: Path) -> None:
    """Refuse to write where the folder that this process has `opened` is not in its place any more.

    A folder that it has not opened is not looked at: that is for the lock that a save takes.

    Raises:
        CheckpointError: the folder was moved, removed or replaced.
    """
    folder = paths.expand(folder)
    held = _locks.get(folder)
    if held is None:
        return
    try:
        now = _identity(folder)
    except OSError as error:
        raise CheckpointError(
            f"{location(folder)}: this folder was moved or removed while the run was writing to it "
            f"({shown(error.strerror)}); nothing was written anew; put it back and go on with --resume, or start again"
        ) from None
    if now != held:
        raise CheckpointError(
            f"{location(folder)}: another folder has taken the place of the one that this run was writing to; nothing "
            "was written into it; put the old one back and go on with --resume, or start again under another name"
        )


def _identity(folder: Path) -> tuple[int, int]:
    """What no other file is while this one exists: the lock is held open, so its number is not given away."""
    found = os.stat(folder / durable.LOCK_NAME)
    return found.st_dev, found.st_ino


@contextmanager
def opened_anew(folder: Path, parameters: int) -> Iterator[Path]:
    """`opened` for a run that makes its folder: one that ends without a step would only take the name, and goes.

    Raises:
        CheckpointError: as `opened`, or the folder cannot be removed.
    """
    taken = False
    try:
        with opened(folder, parameters) as path:
            taken = True
            yield path
    finally:
        if taken:
            _remove_unused(folder)


def _remove_unused(folder: Path) -> None:
    """Remove a folder that holds nothing but what a trainer lays there first."""
    if not folder.is_dir() or {path.name for path in folder.iterdir()} - {durable.LOCK_NAME, METRICS_NAME}:
        return
    for name in (METRICS_NAME, durable.LOCK_NAME):
        durable.discard(folder / name)
    try:
        folder.rmdir()
    except OSError as error:
        raise CheckpointError(f"{location(folder)}: cannot be removed ({shown(error.strerror)}); remove it") from None


def begin(folder: Path, world: World, *, resume: int | None, force: bool = False, device: Any = "cpu") -> int | None:
    """Choose the step to go on from, and refuse what would mix with what the run will write; nothing is changed.

    resume: the step to go on from, -1 for the last complete one, None for a new run. Returns that step.
    `make_room` removes what `force` allows to be removed, once everything that the run needs has been opened.

    Raises:
        CheckpointError: there are steps of another run here, or later ones than the one to go on from, and no `force`.
    """
    mine = world.all_or_none(lambda: _choose_step(folder, resume, force) if world.first else None, device)
    (step,) = world.add([-1 if mine is None else mine] if world.first else [0], device)
    return None if step < 0 else int(step)


def make_room(
    folder: Path, step: int | None, world: World, device: Any = "cpu", *, rehearse: Callable[[], object] = lambda: None
) -> None:
    """Remove what comes after `step` (None: all) from a folder that `begin` has allowed: steps and lines of metrics.

    Call it last before the run: a step that turns out to be damaged must not cost the later ones. rehearse: tries a
    part of the run where steps would be removed; what cannot run must not cost them either.

    Raises:
        CheckpointError, RecordError: the folder cannot be written.
        DistributedError: another rank has failed before it came here, or while this was done.
    """
    (in_the_way,) = world.add([float(len(_later_steps(folder, step))) if world.first else 0.0], device)
    world.all_or_none(rehearse if in_the_way else lambda: None, device)  # every rank has opened its share

    def remove() -> None:
        if world.first:
            remove_steps(folder, _later_steps(folder, step))
            truncate_after(folder / METRICS_NAME, -1 if step is None else step - 1)

    world.all_or_none(remove, device)


def _later_steps(folder: Path, step: int | None) -> list[int]:
    """The steps after this one; all where it is None."""
    return [other for other in list_steps(folder)[0] if step is None or other > step]


def _choose_step(folder: Path, resume: int | None, force: bool) -> int | None:
    """The work of `begin`, done by one rank."""
    step = None
    if resume is not None:
        step = find_last_step(folder) if resume < 0 else existing_step(folder, resume)
    in_the_way = _later_steps(folder, step)
    if in_the_way and not force:
        there = shown(", ".join(map(str, in_the_way)), 100)
        if step is None:
            raise CheckpointError(
                f"{location(folder)}: a run is here already (steps {there}); go on with it (--resume), choose another "
                "name (--model-tag; for a fine-tuning --output-tag), or remove it (--force)"
            )
        raise CheckpointError(
            f"{location(folder)}: steps {there} come after step {step} and would mix with what this run writes; go on "
            "from the last one (--resume), or remove them (--force)"
        )
    return step
