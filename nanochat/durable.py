"""Write files so that a kill, a full disk or a power cut leaves either the old content or the new, never a part.

A file's new content goes to a temporary name beside it, to the disk (fsync), and then takes the name in one step
(rename). Saving in place, as nanochat does, left a broken checkpoint after 14 of 20 kills. The digest is taken while
the bytes pass. One writer at a time: `directory_lock` holds a folder for a trainer's whole life.

The lock is advisory and belongs to the process: it ends when the process does, however it ends. On Linux and macOS it
is flock; a network file system may not support that, and then saving says so. On Windows it is a locked byte of the
lock file, folders are not synced (Windows has no such call), and a file that another program has open cannot be
replaced: the save then fails with that reason and the older checkpoint stays.
"""

import contextlib
import hashlib
import os
import shutil
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from nanochat.checkpoint_files import CheckpointError, location, shown

LOCK_NAME = ".lock"
_TEMPORARY = ".tmp"
_SPARE_BYTES = 1 << 20  # beside the data itself: headers, the meta file, the folder's own growth

_held: dict[str, int] = {}  # folder -> the process that holds it (a forked child inherits the dict, not the lock)
_guard = threading.Lock()


@dataclass(frozen=True)
class Staged:
    """New content of a file, complete and on the disk, under a temporary name."""

    target: Path
    temporary: Path
    size: int  # bytes
    sha256: str


class _Writer:
    """A file for torch.save that hashes what passes and keeps the first error.

    torch.save turns an error of its file into a RuntimeError about positions. So after an error the rest is taken and
    dropped, and `stage` raises what really happened.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.digest = hashlib.sha256()
        self.size = 0
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        rest = view
        while len(rest) and self.error is None:
            try:
                rest = rest[os.write(self.descriptor, rest) :]
            except OSError as error:
                self.error = error
        if self.error is None:
            self.digest.update(view)
            self.size += len(view)
        return len(view)

    def flush(self) -> None:
        """Nothing is held back here; torch.save asks for the method."""


def require_file(target: Path) -> None:
    """Refuse a place that no file can take: no name, a folder, a device, a pipe. Raises CheckpointError."""
    if not target.name:
        raise CheckpointError(f"{location(target)}: this names no file; give the name of one")
    try:
        mode = target.stat().st_mode
    except OSError:  # not there yet, or not to be looked at, which shows when it is written
        return
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a device or a pipe, and no file,"
        raise CheckpointError(f"{location(target)}: {kind} is there; give the name of a file")


def stage(target: Path, produce: Callable[[Any], object]) -> Staged:
    """Write new content for `target` under a temporary name and onto the disk. `publish` makes it the file.

    produce: called with an object that has `write(bytes)`.

    Raises:
        CheckpointError: no file can be there, or the disk is full or cannot be written. Nothing is left behind.
    """
    require_file(target)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.{threading.get_ident()}{_TEMPORARY}")
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)
        descriptor = os.open(temporary, flags, 0o666)
    except OSError as error:
        _fail(target, error)
    writer = _Writer(descriptor)
    try:
        try:
            produce(writer)
            if writer.error is None:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        discard(temporary)
        _fail(target, error)
    except BaseException:
        discard(temporary)
        raise
    if writer.error is not None:
        discard(temporary)
        _fail(target, writer.error)
    return Staged(target, temporary, writer.size, writer.digest.hexdigest())


def stage_bytes(target: Path, content: bytes) -> Staged:
    """`stage` for content that is in memory."""
    return stage(target, lambda file: file.write(content))


def publish(staged: Staged) -> None:
    """Give staged content its name. Lasts through a power cut once `sync_folder` has returned."""
    try:
        os.replace(staged.temporary, staged.target)
    except OSError as error:
        discard(staged.temporary)
        _fail(staged.target, error)


def discard(path: Path) -> None:
    """Remove a file if it is there."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        _fail(path, error)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder last through a power cut."""
    if sys.platform == "win32":
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        _fail(folder, error)


def sweep(folder: Path) -> None:
    """Remove the temporary files of writers that were killed. Only for the holder of the folder's lock."""
    for stale in folder.glob(f".*{_TEMPORARY}"):
        if stale.is_file():
            discard(stale)


def require_free_space(folder: Path, size: int) -> None:
    """Refuse to begin a save that cannot fit.

    Raises:
        CheckpointError: fewer than `size` bytes and a small margin are free.
    """
    free = shutil.disk_usage(folder).free
    if free < size + _SPARE_BYTES:
        raise CheckpointError(
            f"{location(folder)}: the disk has {free:,} bytes free and this checkpoint takes {size + _SPARE_BYTES:,}; "
            "free some space or choose another folder; nothing was written"
        )


def make_folder(folder: Path) -> None:
    """Create a folder for checkpoints if it is not there.

    Raises:
        CheckpointError: it cannot be created.
    """
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        _fail(folder, error)


@contextlib.contextmanager
def directory_lock(folder: str | Path) -> Iterator[None]:
    """Hold a folder of checkpoints for writing; a trainer holds it as long as it runs. Creates the folder.

    With several ranks rank 0 holds it, because taking it sweeps the temporary files of dead writers.

    Raises:
        CheckpointError: another writer holds it, in this process or another, or the folder cannot be written.
    """
    folder = Path(folder)
    make_folder(folder)
    key = os.path.realpath(folder)
    with _guard:
        if holds_lock(folder):
            raise CheckpointError(f"{location(folder)}: this process is already writing here; wait until it has ended")
        try:
            descriptor = os.open(folder / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            _fail(folder, error)
        try:
            _lock(descriptor, folder)
        except BaseException:
            os.close(descriptor)
            raise
        _held[key] = os.getpid()
    try:
        sweep(folder)
        yield
    finally:
        with _guard:
            del _held[key]
        os.close(
            descriptor
        )  # closing ends the lock; the file stays, because removing it would race with the next taker


def holds_lock(folder: str | Path) -> bool:
    """Does this process hold the folder?"""
    return _held.get(os.path.realpath(folder)) == os.getpid()


def is_locked(folder: str | Path) -> bool:
    """Does a living process hold the folder? False where there is no such folder. Writes nothing."""
    if holds_lock(folder):
        return True
    try:
        descriptor = os.open(Path(folder) / LOCK_NAME, os.O_RDWR)
    except OSError:
        return False
    try:
        return not _try_lock(descriptor, look=True)
    except OSError:
        return False
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int, look: bool = False) -> bool:
    """Take the lock at once, or say that another has it. Raises OSError where the file system knows no locks.

    look: those who only look do not see one another, where the system knows such locks.
    """
    try:
        if sys.platform == "win32":
            import msvcrt

            os.lseek(descriptor, 1 << 30, os.SEEK_SET)  # a byte beyond the text, which stays readable
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
            os.lseek(descriptor, 0, os.SEEK_SET)
        else:
            import fcntl

            fcntl.flock(descriptor, (fcntl.LOCK_SH if look else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


_LOOKS = (0.01, 0.02, 0.04)  # seconds between attempts


def _lock(descriptor: int, folder: Path) -> None:
    """Take the lock or say who has it. Whoever only looks (`is_locked`) has it for some microseconds: that is waited
    for."""
    try:
        taken = _try_lock(descriptor)
        for wait in _LOOKS:
            if taken:
                break
            time.sleep(wait)
            taken = _try_lock(descriptor)
    except OSError as error:
        raise CheckpointError(
            f"{location(folder)}: this file system cannot lock a folder ({shown(error.strerror)}); choose one that "
            "can, such as a local disk"
        ) from None
    if not taken:
        holder = shown(os.read(descriptor, 32).decode("ascii", "replace")).strip()
        who = f"process {holder}" if holder.isdecimal() else "another process"
        raise CheckpointError(
            f"{location(folder)}: {who} is writing here; stop it or choose another tag: two writers would mix their "
            "files"
        )
    try:
        os.ftruncate(descriptor, 0)
        os.write(descriptor, str(os.getpid()).encode())
    except OSError as error:
        _fail(folder, error)


def _fail(path: Path, error: OSError) -> NoReturn:
    raise CheckpointError(
        f"{location(path)}: cannot be written ({shown(error.strerror)}); free some space or check the folder's "
        "permissions; what was saved before is untouched"
    ) from None
