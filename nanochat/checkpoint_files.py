"""The files a checkpoint consists of: their names, how one is opened, and the one error type for all of them.

A run is a folder such as `base_checkpoints/d4`. One step of it is `model_000120.pt`, `meta_000120.json` and, where
training can resume, `optim_000120_rank0.pt` (before 2025-11-13 without the rank) and, of ours, `loader_000120_rank0.pt`
with the text that was read and not yet trained on. The meta file is the commit record: it is written last, so a step
without one was never finished. Nothing here loads torch or reads a weight.
"""

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

# Whole names only, digits 0-9 only: `model_000010.pt.tmp` and `model_000010 (1).pt` are somebody's leftovers.
STEP_FILE = re.compile(r"(?:model_([0-9]{6,12})\.pt|meta_([0-9]{6,12})\.json)")
_OPTIMIZER_FILE = re.compile(r"optim_([0-9]{6,12})(?:_rank([0-9]{1,6}))?\.pt")
_LOADER_FILE = re.compile(r"loader_([0-9]{6,12})_rank([0-9]{1,6})\.pt")


class CheckpointError(ValueError):
    """A checkpoint cannot be opened or written. One line: the file, what is wrong with it, what to do."""


def shown(text: object, limit: int = 80) -> str:
    """Text from a file or a file name, made safe for a one-line message: printable, and at most `limit` long.

    >>> shown("a\\nb")
    'a\\\\nb'
    """
    words = str(text)
    clipped = words if len(words) <= limit else words[: limit - 3] + "..."
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in clipped)


def location(path: str | Path) -> str:
    """A path for the start of a message."""
    return shown(path, 400)


def damaged(path: str | Path, what: str) -> CheckpointError:
    """The error for a file that was whole once."""
    return CheckpointError(
        f"{location(path)}: {what}; the file is damaged or was cut short: copy it again or take another step"
    )


def hostile(path: str | Path, what: str) -> CheckpointError:
    """The error for content that nanochat never writes."""
    return CheckpointError(
        f"{location(path)}: {what}; nanochat writes nothing like it: do not use this file, get it again from a source "
        "you trust"
    )


def model_name(step: int) -> str:
    """`model_000120.pt`"""
    return f"model_{step:06d}.pt"


def meta_name(step: int) -> str:
    """`meta_000120.json`"""
    return f"meta_{step:06d}.json"


def optimizer_name(step: int, rank: int = 0) -> str:
    """`optim_000120_rank0.pt`"""
    return f"optim_{step:06d}_rank{rank}.pt"


def loader_name(step: int, rank: int = 0) -> str:
    """`loader_000120_rank0.pt`"""
    return f"loader_{step:06d}_rank{rank}.pt"


def find_optimizer(folder: str | Path, step: int, rank: int = 0) -> Path | None:
    """The optimizer file of one rank under today's name or the one before 2025-11-13; None where none was saved."""
    names = [optimizer_name(step, rank)] + ([f"optim_{step:06d}.pt"] if rank == 0 else [])
    return next((Path(folder, name) for name in names if os.path.lexists(Path(folder, name))), None)


def optimizer_files(folder: str | Path, step: int) -> list[Path]:
    """Every optimizer file of a step, all ranks, in name order."""
    return _files_of_step(folder, step, _OPTIMIZER_FILE)


def rank_files(folder: str | Path, step: int) -> list[Path]:
    """Every file that ranks save of a step, optimizer and loader, in name order."""
    return [*_files_of_step(folder, step, _LOADER_FILE), *optimizer_files(folder, step)]


def _files_of_step(folder: str | Path, step: int, pattern: re.Pattern[str]) -> list[Path]:
    names = [name for name in names_in(folder) if (found := pattern.fullmatch(name)) and int(found[1]) == step]
    return [Path(folder, name) for name in sorted(names)]


def digest_file(path: Path) -> Path:
    """Where a rank other than 0 leaves the SHA-256 of a file of its own until rank 0 commits the step."""
    return path.with_name(path.name + ".sha256")


def read_digest_file(path: Path) -> str | None:
    """The SHA-256 left beside a file, None where there is none."""
    beside = digest_file(path)
    if not os.path.lexists(beside):
        return None
    text = read_small(beside, 64)
    if not re.fullmatch(b"[0-9a-f]{64}", text):
        raise damaged(beside, "this is not a SHA-256")
    return text.decode()


def open_regular(path: str | Path) -> BinaryIO:
    """Open a regular file, or a link to one, for reading, unbuffered.

    Anything else under a checkpoint's name (FIFO, device, folder) is refused before it is opened: opening a FIFO waits
    for a writer for ever, and /dev/zero never ends.

    Raises:
        CheckpointError: not there, not readable or not a regular file.
    """
    try:
        require_regular(path, os.stat(path).st_mode)
        # Non-blocking and checked again, because the name may have changed hands since the line above.
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0) | getattr(os, "O_BINARY", 0)
        descriptor = os.open(path, flags)
    except OSError as error:
        raise CheckpointError(f"{location(path)}: {reason_of(error)}") from None
    except CheckpointError:  # a ValueError too, and it says what this is
        raise
    except ValueError:
        raise CheckpointError(f"{location(path)}: not a file name; give the path of a checkpoint folder") from None
    try:
        require_regular(path, os.fstat(descriptor).st_mode)
    except CheckpointError:
        os.close(descriptor)
        raise
    return os.fdopen(descriptor, "rb", buffering=0)


def read_small(path: str | Path, limit: int) -> bytes:
    """All of a file that may have `limit` bytes at most; of a longer one, one byte more than that.

    Raises:
        CheckpointError: as open_regular, or the disk fails.
    """
    content = bytearray()
    with open_regular(path) as file:
        try:
            # A read allocates what it asks for, so it asks for a megabyte at a time and not for all that is allowed.
            while len(content) <= limit and (more := file.read(min(1 << 20, limit + 1 - len(content)))):
                content += more
        except OSError as error:
            raise CheckpointError(
                f"{location(path)}: reading failed ({shown(error.strerror)}); check the disk"
            ) from None
    return bytes(content)


def names_in(folder: str | Path) -> Iterator[str]:
    """The names in a folder, in no order."""
    try:
        with os.scandir(folder) as entries:
            yield from (entry.name for entry in entries)
    except FileNotFoundError:
        raise CheckpointError(f"{location(folder)}: there is no such folder; name the folder of a run") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise CheckpointError(
            f"{location(folder)}: the folder cannot be listed ({shown(reason)}); check the name and your permissions"
        ) from None


def require_regular(path: str | Path, mode: int) -> None:
    """Refuse anything but a regular file; `mode` is that of its stat."""
    if not stat.S_ISREG(mode):
        kinds = [(stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a FIFO"), (stat.S_ISSOCK, "a socket")]
        kind = next((name for test, name in kinds if test(mode)), "a device")
        raise CheckpointError(f"{location(path)}: this is {kind}, not a regular file; put the file that belongs there")


def reason_of(error: OSError) -> str:
    """Why a file could not be opened and what to do about it."""
    if isinstance(error, FileNotFoundError):
        return "there is no such file; check the folder and the name"
    if isinstance(error, PermissionError):
        return "you may not read this file; change its permissions or run as its owner"
    return f"the file cannot be opened ({shown(error.strerror)}); check what lies under that name"
