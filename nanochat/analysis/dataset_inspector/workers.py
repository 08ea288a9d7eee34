"""Blocks checked by several processes at once, for data sets that would keep one core busy for long.

    with Checkers(settings, processes_for(sources)) as checkers:
        for size, checked in checkers.run(blocks(source)): ...

What comes out is what one process would give, in the same order. A process of its own is
`python -m nanochat.analysis.dataset_inspector.workers`: it takes blocks from its input and answers on its output. So
nothing of the program that started it is run a second time, as multiprocessing would do it with a page, and it ends by
itself when that program is gone.
"""

import os
import pickle
import secrets
import subprocess
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType

from nanochat.analysis.dataset_inspector.check import Checked, Settings, check_block
from nanochat.analysis.dataset_inspector.sources import BLOCK, Block, InspectorError, Source

WORTH_FROM = 100_000_000  # bytes; at 60 MB on two cores, starting processes takes as long as they save
UNPACKED = 4  # times as large, about, as a packed file or parquet
MOST = 8  # processes: one that reads cannot feed more


def processes_for(sources: Sequence[Source]) -> int:
    """How many processes these sources are worth; 0: this one alone."""
    size = sum(source.size if source.seekable else source.size * UNPACKED for source in sources)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, MOST) if size >= WORTH_FROM and cores > 1 else 0


class Checkers:
    """`check_block` on several blocks at once; a context, at whose end the processes are gone."""

    def __init__(self, settings: Settings, processes: int) -> None:
        self.settings = settings
        self.block = BLOCK // 4 if processes else BLOCK  # bytes at a time: each process holds some of them
        # Hashes of lines are compared across processes, so they share a seed; nobody outside can know it.
        environment = os.environ | {"PYTHONHASHSEED": str(secrets.randbelow(2**32))}
        self._all = [_start(environment, settings) for _ in range(processes)]
        self._idle: SimpleQueue[subprocess.Popen[bytes]] = SimpleQueue()
        for process in self._all:
            self._idle.put(process)
        self._threads = ThreadPoolExecutor(processes) if processes else None  # each waits for one process

    def __enter__(self) -> "Checkers":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._all:
            process.kill()
        if self._threads is not None:
            self._threads.shutdown(cancel_futures=True)
        for process in self._all:
            process.wait()
            for pipe in (process.stdin, process.stdout):
                try:
                    pipe.close()  # type: ignore[union-attr]
                except OSError:  # half a block was still to be written
                    continue

    def run(self, blocks: Iterator[Block]) -> Iterator[tuple[int, Checked]]:
        """Bytes and findings of each block, in order; few are in work at any time. Raises InspectorError."""
        if self._threads is None:
            for block in blocks:
                yield block.overlong or len(block.data), check_block(block, self.settings)
            return
        waiting: deque[tuple[int, Future[Checked]]] = deque()
        for block in blocks:
            waiting.append((block.overlong or len(block.data), self._threads.submit(self._ask, block)))
            del block  # of those in work none is held here too
            if len(waiting) > len(self._all):
                size, found = waiting.popleft()
                yield size, found.result()
        for size, found in waiting:
            yield size, found.result()

    def _ask(self, block: Block) -> Checked:
        process = self._idle.get()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            pickle.dump(block, process.stdin, pickle.HIGHEST_PROTOCOL)
            process.stdin.flush()
            checked: Checked = pickle.load(process.stdout)
        except (OSError, EOFError, pickle.UnpicklingError):
            raise InspectorError(
                f"a process that checked line {block.first_line:,} and the next ones was ended from outside, most "
                "likely for want of memory; close other programs and inspect again"
            ) from None
        finally:
            self._idle.put(process)  # a dead one too: whoever waits for it must learn of it
        return checked


def _start(environment: dict[str, str], settings: Settings) -> "subprocess.Popen[bytes]":
    process = subprocess.Popen(
        [sys.executable, "-m", "nanochat.analysis.dataset_inspector.workers"], cwd=Path(__file__).parents[3],
        env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is for the program that started it
    )  # fmt: skip
    assert process.stdin is not None
    pickle.dump(settings, process.stdin, pickle.HIGHEST_PROTOCOL)
    return process


def work() -> None:
    """Check the blocks that come in until no more do. Its input is our own program's, so it may be unpickled."""
    settings: Settings = pickle.load(sys.stdin.buffer)
    while True:
        try:
            block: Block = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        checked = check_block(block, settings)
        del block
        pickle.dump(checked, sys.stdout.buffer, pickle.HIGHEST_PROTOCOL)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    work()
