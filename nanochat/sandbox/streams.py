"""The parent's side of a running program: its output, its end, and what it leaves behind.

Each stream is drained by a thread of its own, to the last byte, but only its head is kept: a program that prints
without end neither blocks nor fills this process.
"""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO

MAX_OUTPUT = 64_000  # bytes kept of each stream; the rest is read and dropped


class Drain(threading.Thread):
    """Reads a pipe to its end and keeps its first MAX_OUTPUT bytes."""

    def __init__(self, pipe: IO[bytes]) -> None:
        super().__init__(daemon=True)
        self.pipe = pipe
        self.head = bytearray()  # a little more than is kept, so that a token's tail can be told from output
        self.tail = b""  # the last bytes of the stream
        self.total = 0  # bytes read
        self.start()

    def run(self) -> None:
        """Read until end of file."""
        while part := os.read(self.pipe.fileno(), 65536):
            self.head += part[: max(MAX_OUTPUT - len(self.head), 0)]
            self.tail = (self.tail + part)[-64:]
            self.total += len(part)

    def drop_tail(self, token: bytes) -> None:
        """Forget a verdict token at the end: a program that failed sends it to the stream numbered as its exit code."""
        if self.tail.endswith(token):
            self.total -= len(token)
            del self.head[self.total :]

    def text(self) -> str:
        """What was kept, as text."""
        return bytes(self.head).decode("utf-8", "replace")

    @property
    def truncated(self) -> bool:
        """Was more printed than is kept?"""
        return self.total > len(self.head)


class Streams:
    """Standard output and standard error of a child."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None  # both were asked to be pipes
        assert process.stderr is not None
        self.process = process
        self.stdout, self.stderr = Drain(process.stdout), Drain(process.stderr)

    def wait(self, deadline: float) -> None:
        """Return when the child has ended or `deadline`, a time of `time.monotonic`, has come."""
        for drain in (self.stdout, self.stderr):  # the end of a stream wakes us at once; waiting for a child polls
            drain.join(max(deadline - time.monotonic(), 0))
        try:
            self.process.wait(max(deadline - time.monotonic(), 0))
        except subprocess.TimeoutExpired:
            return

    def close(self) -> None:
        """Read what a dead child left and close. A stream that someone else still holds open is left to its thread."""
        for drain in (self.stdout, self.stderr):
            drain.join(0.2)
            if not drain.is_alive():
                drain.pipe.close()


def kill_session(process: subprocess.Popen[bytes]) -> None:
    """Kill a child that leads a session, with everything in its process group, and collect it."""
    if sys.platform == "win32":
        process.kill()
    else:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            process.kill()
    process.wait()


def remove_tree(folder: Path, seconds: float) -> None:
    """Remove a folder of any depth and size; after `seconds` the rest goes on in a thread of its own."""
    worker = threading.Thread(target=_remove, args=(folder,), daemon=True)
    worker.start()
    worker.join(seconds)


def _remove(folder: Path) -> None:
    """Remove a folder, from the bottom up: by name within an open folder and `..`, so that no path ever grows."""
    if os.open not in os.supports_dir_fd:  # Windows, where no tree can be that deep
        shutil.rmtree(folder)
        return
    inside = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
    here = os.open(folder.parent, inside)
    path = [folder.name]  # from `folder` down to the one that is to go next
    waiting: list[list[str]] = []  # for each folder above it, in that order, those still to go
    while path:
        os.chmod(path[-1], 0o700, dir_fd=here)
        below = os.open(path[-1], inside, dir_fd=here)
        os.close(here)
        here = below
        folders = []
        with os.scandir(here) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.name)
                else:
                    os.unlink(entry.name, dir_fd=here)
        waiting.append(folders)
        while path and not waiting[-1]:
            waiting.pop()
            above = os.open("..", inside, dir_fd=here)
            os.close(here)
            here = above
            os.rmdir(path.pop(), dir_fd=here)
        if path:
            path.append(waiting[-1].pop())
    os.close(here)
