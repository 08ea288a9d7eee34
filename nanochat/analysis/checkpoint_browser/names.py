"""How a person names a checkpoint, and which one is meant: a tag, an id, or a path. No file's content is read.

d20                      the run of this tag, its last complete step
sft/d20  base/d20@5400   with its stage, and with a step; base_checkpoints/d20, with its folder
out/base_checkpoints/d20, .../model_005400.pt
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nanochat.checkpoint_files import STEP_FILE, location, shown
from nanochat.paths import STAGE_FOLDERS, Root, expand

_ID = re.compile(
    r"(?:(?P<root>[a-z]+):)?(?:(?P<stage>base|mid|sft|rl)/|(?P<folder>\w+_checkpoints)/)?(?P<old>old/)?(?P<tag>[^/]+?)(?:@(?P<step>\d+))?"
)


class BrowserError(ValueError):
    """A checkpoint that cannot be found, compared, deleted or exported: one sentence."""


@dataclass(frozen=True)
class Reference:
    """One step of one run."""

    id: str  # `stage/tag@step`, behind `root:` outside our workspace
    stage: str  # "" for a folder that lies in no stage's folder
    folder: Path
    step: int

    @property
    def run(self) -> str:
        """The id without its step."""
        return self.id.rpartition("@")[0]


def folder_name(root: Root, stage: str, folder: Path) -> str:
    """How a run is called: `stage/tag`, `root:stage/tag` outside our workspace; `old/` marks sft_checkpoints."""
    old = "old/" if folder.parent.name == "sft_checkpoints" else ""
    name = f"{stage}/{old}{folder.name}"
    return name if root.ours else f"{root.name}:{name}"


def resolve(roots: Sequence[Root], name: str, source: str | None = None, step: int | None = None) -> Reference:
    """The checkpoint that a name means: of a run without a step, the last complete one.

    source: base, mid, sft or rl, where the name says none. step: where the name says none.

    Raises:
        BrowserError: nothing fits, or more than one does; the candidates are listed.
        CheckpointError: the run has no such step, or none that is complete.
    """
    from nanochat.checkpoint_runs import existing_step, find_last_step

    called, stage, folder, named = _by_path(name) or _by_id(roots, name, source)
    if named is not None and step is not None and named != step:
        raise BrowserError(f"{shown(name)} says step {named} and --step says {step}; give one of the two")
    wanted = named if named is not None else step
    chosen = find_last_step(folder) if wanted is None else existing_step(folder, wanted)
    return Reference(f"{called}@{chosen}", stage, folder, chosen)


def resolve_folder(roots: Sequence[Root], name: str, source: str | None = None) -> tuple[str, str, Path]:
    """(id, stage, folder) of the run that a name means; it need not have a complete step. Raises BrowserError."""
    called, stage, folder, _ = _by_path(name) or _by_id(roots, name, source)
    return called, stage, folder


def _by_path(name: str) -> tuple[str, str, Path, int | None] | None:
    """A folder of a run, or one of its model or meta files."""
    path = expand(name)
    try:
        is_folder, exists = path.is_dir(), path.exists()
    except (OSError, ValueError):
        return None
    if not exists or ("/" not in name and "\\" not in name and not is_folder):
        return None
    found = None if is_folder else STEP_FILE.fullmatch(path.name)
    if not is_folder and not found:
        raise BrowserError(f"{location(path)}: neither a run's folder nor a model or meta file; name one of these")
    folder = (path if is_folder else path.parent).absolute()
    stage = next((stage for stage, names in STAGE_FOLDERS.items() if folder.parent.name in names), "")
    step = int(found[1] or found[2]) if found else None
    if not stage and is_folder and not any(STEP_FILE.fullmatch(entry.name) for entry in folder.iterdir()):
        return None  # a folder that happens to be called like a run
    return f"{stage or 'folder'}/{folder.name}", stage, folder, step


def _by_id(roots: Sequence[Root], name: str, source: str | None) -> tuple[str, str, Path, int | None]:
    from nanochat.analysis.checkpoint_browser.listing import run_folders

    parts = _ID.fullmatch(name)
    known = [(root, stage, folder) for root in roots for stage, folder, bad in run_folders(root.path) if not bad]
    where = " and ".join(location(root.path) for root in roots)
    if not known:
        raise BrowserError(
            f"{where}: no runs there; train one with `nanochat demo`, or name a --base-dir that has some"
        )
    wanted = parts["stage"] if parts and parts["stage"] else source
    fitting = [
        (root, stage, folder)
        for root, stage, folder in known
        if parts
        and folder.name == parts["tag"]
        and wanted in (None, stage)
        and parts["root"] in (None, root.name)
        and parts["folder"] in (None, folder.parent.name)
        and (not (parts["old"] or parts["stage"]) or bool(parts["old"]) == (folder.parent.name == "sft_checkpoints"))
    ]
    if not fitting:
        there = ", ".join(shown(folder_name(*run)) for run in known[:12]) + (", ..." if len(known) > 12 else "")
        of_stage = f" of stage {source}" if source and not (parts and parts["stage"]) else ""
        raise BrowserError(f"there is no run '{shown(name)}'{of_stage} in {where}; there are: {there}")
    if len(fitting) > 1:
        there = ", ".join(shown(folder_name(*run)) for run in fitting)
        raise BrowserError(f"'{shown(name)}' fits more than one run: {there}; name one of them so")
    root, stage, folder = fitting[0]
    return folder_name(root, stage, folder), stage, folder, int(parts["step"]) if parts and parts["step"] else None
