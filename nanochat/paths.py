"""Where things lie on disk: our workspace, nanochat's base dir, and the folders inside either.

Two roots. Our workspace is `$NANOCHAT_LAB_DIR`, else `~/.cache/nanochat-lab`; everything we make goes there.
nanochat's base dir is `$NANOCHAT_BASE_DIR`, else `~/.cache/nanochat`; we open it and never write to it unless a user
names it with `--base-dir`. Both have the same layout, nanochat's own. Nothing here creates a folder.
"""

import importlib.util
import os
import stat
from dataclasses import dataclass
from pathlib import Path

# A training stage -> the folder names it has had in nanochat's life, today's name first.
STAGE_FOLDERS: dict[str, tuple[str, ...]] = {
    "base": ("base_checkpoints",),
    "mid": ("mid_checkpoints",),  # until 2026-01
    "sft": ("chatsft_checkpoints", "sft_checkpoints"),  # the second name for some weeks in 2026-02
    "rl": ("chatrl_checkpoints",),
}


@dataclass(frozen=True)
class Root:
    """A folder in nanochat's layout that may hold tokenizers, data and runs."""

    name: str  # what a person calls it: "workspace" or "nanochat"
    path: Path
    ours: bool  # may we write here without being told to
    variable: str  # the environment variable that moves it


def workspace() -> Path:
    """The folder for everything this project makes."""
    return _from_environment("NANOCHAT_LAB_DIR", "nanochat-lab")


def nanochat_base_dir() -> Path:
    """nanochat's own base dir, read and never written unless the user names it."""
    return _from_environment("NANOCHAT_BASE_DIR", "nanochat")


def roots() -> list[Root]:
    """Both roots, ours first. They are listed whether or not they exist; one entry if both are the same folder."""
    ours = Root("workspace", workspace(), True, "NANOCHAT_LAB_DIR")
    theirs = Root("nanochat", nanochat_base_dir(), False, "NANOCHAT_BASE_DIR")
    return [ours] if ours.path == theirs.path else [ours, theirs]


@dataclass(frozen=True)
class DiskUse:
    """What a folder takes on disk."""

    size: int  # bytes, every file counted once, links not followed
    files: int
    complete: bool  # False if a part could not be read or the limit was reached: size is then a lower bound


def disk_use(folder: Path, max_files: int = 200_000) -> DiskUse:
    """Add up the files below `folder`; a missing folder takes nothing. Never raises on what it cannot read."""
    size = files = 0
    complete = True
    pending = [folder]
    while pending:
        try:
            with os.scandir(pending.pop()) as entries:
                for entry in entries:
                    if files >= max_files:  # a home folder named by mistake must not hang the page
                        return DiskUse(size, files, False)
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(Path(entry.path))
                    else:
                        size += entry.stat(follow_symlinks=False).st_size
                        files += 1
        except FileNotFoundError:
            continue  # removed while we looked, or never there
        except OSError:
            complete = False
    return DiskUse(size, files, complete)


def readable_size(size: int) -> str:
    """Bytes in decimal units, as disks are sold: 999 bytes, 8.9 MB, 2.6 GB.

    >>> readable_size(8_943_100)
    '8.9 MB'
    """
    if size < 1000:
        return f"{size} byte{'' if size == 1 else 's'}"
    exponent = 1
    while size / 1000**exponent >= 999.95 and exponent < 4:  # 999.95 would be written as 1000.0
        exponent += 1
    return f"{size / 1000**exponent:.1f} {('kB', 'MB', 'GB', 'TB')[exponent - 1]}"


def folder_problem(folder: Path) -> str | None:
    """Why `folder` cannot be read, as words that end a sentence; None if it can, or if nothing is there yet."""
    try:
        mode = folder.stat().st_mode
    except FileNotFoundError:
        return "it is a link to a place that does not exist" if folder.is_symlink() else None
    except OSError as error:  # no right to look, a file where a folder should be on the way, a name too long
        return f"the system says: {error.strerror}"
    if not stat.S_ISDIR(mode):
        return "it is not a folder"
    return None if os.access(folder, os.R_OK | os.X_OK) else "you may not read it"


def kernels_problem() -> str | None:
    """One sentence if `import kernels` would not find this project's package; None if all is well.

    PyPI has another package of that name. Installed beside an editable install of this project, it comes first on the
    path of the `nanochat` command. This looks without importing, so it costs no torch.
    """
    expected = Path(__file__).parent.parent / "kernels"
    spec = importlib.util.find_spec("kernels")
    found = Path(spec.origin).parent if spec is not None and spec.origin else None
    if found is not None and found.resolve() == expected.resolve() and (found / "backend.py").is_file():
        return None
    if found is None:
        return f"The package `kernels` of this project is missing from {expected}: install the project again."
    return (
        f"Python finds another package named `kernels` at {found}, not this project's at {expected}: "
        "run `pip uninstall kernels`, then install this project again."
    )


class TagError(ValueError):
    """A name that cannot be a run's folder: one sentence."""


def run_folder(base_dir: Path, stage: str, tag: str) -> Path:
    """The folder of a run of this tag. Raises TagError unless the tag is one plain name, which stays below base_dir."""
    if (
        not tag.isprintable()
        or tag != tag.strip()
        or tag.startswith((".", "-"))  # hidden, or read as a flag
        or set(tag) & set("/\\")
        or not 0 < len(tag) < 101
    ):
        raise TagError(
            f"the name {tag[:40]!r} cannot be a run's folder; take up to 100 letters, digits, . - or _, such as d4"
        )
    return base_dir / STAGE_FOLDERS[stage][0] / tag


def expand(path: str | os.PathLike[str]) -> Path:
    """The path with a leading ~ as the home folder; where there is no such home, the path as it stands."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def _from_environment(variable: str, default_name: str) -> Path:
    value = os.environ.get(variable)
    return expand(value).absolute() if value else Path.home() / ".cache" / default_name
