"""Delete old checkpoints of one run: first a plan that names every file, then, if it still holds, the deletion.

What goes is decided by step, what is deleted by nanochat's own file names in that one folder. A linked folder, a folder
outside the stages' folders and a run that is being trained are refused.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nanochat import durable
from nanochat.analysis.checkpoint_browser.listing import files_of_step, steps_in
from nanochat.analysis.checkpoint_browser.names import BrowserError
from nanochat.checkpoint_files import CheckpointError, location, meta_name
from nanochat.checkpoint_meta import read_meta
from nanochat.checkpoint_runs import list_steps
from nanochat.checkpoint_save import remove_steps
from nanochat.paths import STAGE_FOLDERS, readable_size


@dataclass(frozen=True)
class Rule:
    """Which checkpoints stay."""

    keep_last: int = 1  # the latest complete ones
    keep_best: bool = True  # the one of the lowest val_bpb
    keep_every: int = 0  # steps that are a multiple of it; 0: none for that reason
    incomplete: bool = False  # delete steps that are incomplete or broken too
    steps: tuple[int, ...] = ()  # delete these and no others; what the rule keeps stays all the same


@dataclass(frozen=True)
class Plan:
    """What would be deleted and what stays."""

    folder: Path
    rule: Rule
    go: tuple[int, ...]  # steps
    kept: tuple[tuple[int, str], ...]  # (step, why)
    files: tuple[tuple[str, int], ...]  # (name, bytes) that go
    notes: tuple[str, ...]

    @property
    def freed(self) -> int:
        """Bytes."""
        return sum(size for _, size in self.files)

    def size_of(self, step: int) -> int:
        """Bytes that deleting a step frees."""
        return sum(size for name, size in self.files if int(re.findall(r"[0-9]+", name)[0]) == step)

    @property
    def sentence(self) -> str:
        """The whole of it in one line."""
        if not self.go:
            return "Nothing would be deleted."
        steps = f"{len(self.go)} checkpoint{'s' * (len(self.go) > 1)} ({len(self.files)} files)"
        return f"{steps} would go and {readable_size(self.freed)} would be free; {len(self.kept)} would stay."


def plan(folder: Path, rule: Rule = Rule()) -> Plan:
    """Work out what a rule deletes. Changes nothing.

    Raises:
        BrowserError: no folder of a run, a rule that makes no sense, or one that would leave no checkpoint.
        CheckpointError: the folder cannot be listed.
    """
    _require_run(folder)
    if rule.keep_last < 0 or rule.keep_every < 0:
        raise BrowserError(f"keep {min(rule.keep_last, rule.keep_every)} cannot be; give 0 or more")
    complete, _ = list_steps(folder)
    every = steps_in(folder)
    unknown = sorted(set(rule.steps) - set(every))
    if unknown:
        raise BrowserError(
            f"{location(folder)}: there is no step {unknown[0]}; steps: {', '.join(map(str, every[:20]))}"
        )
    best, notes = _best(folder, complete) if rule.keep_best else (None, [])
    kept: dict[int, str] = {}
    for step in complete:
        if rule.keep_last and step in complete[-rule.keep_last :]:
            kept[step] = "the last" if rule.keep_last == 1 else f"one of the last {rule.keep_last}"
        elif step == best:
            kept[step] = "the best by val_bpb"
        elif rule.keep_every and step % rule.keep_every == 0:
            kept[step] = f"every {rule.keep_every:,}th"
        elif rule.steps and step not in rule.steps:
            kept[step] = "not named"
    for step in set(every) - set(complete):
        if step not in rule.steps if rule.steps else not rule.incomplete:
            kept[step] = "incomplete: it goes with --incomplete"
    go = tuple(step for step in every if step not in kept)
    if go and complete and not set(complete) - set(go):
        raise BrowserError(
            f"{location(folder)}: this would delete every checkpoint of the run; keep the last or the best, or delete "
            "the folder yourself"
        )
    stubborn = sorted(set(rule.steps) & set(kept))
    if stubborn:
        notes.append(f"Step {stubborn[0]} stays although it was named: it is {kept[stubborn[0]]}.")
    files = tuple(file for step in go for file in files_of_step(folder, step))
    return Plan(folder, rule, go, tuple(sorted(kept.items())), files, tuple(notes))


def carry_out(agreed: Plan) -> int:
    """Delete what was agreed on; the bytes that got free.

    Raises:
        BrowserError: the run has changed since the plan was made, so nothing is deleted.
        CheckpointError: a training holds the run, or a file cannot be deleted.
    """
    _require_run(agreed.folder)
    with durable.directory_lock(agreed.folder):  # no training may begin in between
        now = plan(agreed.folder, agreed.rule)
        if now != agreed:
            raise BrowserError(
                f"{location(agreed.folder)}: the run has changed since the plan was made; nothing was deleted: look "
                "at the new plan"
            )
        remove_steps(agreed.folder, agreed.go)
    return agreed.freed


def _require_run(folder: Path) -> None:
    """Only a real folder in a stage's folder, so that no link and no other folder can be emptied."""
    stages: Sequence[str] = [name for names in STAGE_FOLDERS.values() for name in names]
    if folder.parent.name not in stages:
        raise BrowserError(
            f"{location(folder)}: no run's folder; deleting works in {', '.join(stages)} and nowhere else"
        )
    if folder.is_symlink() or folder.parent.is_symlink():
        raise BrowserError(f"{location(folder)}: this is a link; name the folder that it leads to")
    if os.path.lexists(folder) and not folder.is_dir():
        raise BrowserError(f"{location(folder)}: this is not a folder; name the folder of a run")


def _best(folder: Path, steps: Sequence[int]) -> tuple[int | None, list[str]]:
    """(the step of the lowest val_bpb, notes)."""
    values = {}
    for step in steps:
        try:
            value = read_meta(folder / meta_name(step)).get("val_bpb")
        except CheckpointError:
            continue  # removed since it was listed
        if isinstance(value, int | float) and abs(value) < 1e300:
            values[step] = value
    if not values:
        return None, ["No step has a val_bpb, so the best is not known and none is kept for that reason."]
    return min(values, key=lambda step: (values[step], -step)), []
