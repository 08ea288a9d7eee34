"""A fair queue in front of one model: several conversations write at once, token by token in turn, or are told "busy".

    queue = ModelQueue()
    with queue.seat():                       # a place among those who write; BusyError where too many wait already
        for token in queue.in_turns(make):   # make() starts a generation; each token takes a turn
            ...

Two rules. A seat is memory: each conversation that writes keeps keys and values, so only `at_once` write and the others
wait in the order in which they came. A turn is time: whoever has waited longest for the model computes the next token,
so nobody waits for the end of another's reply. Threads only: the app's and the server's requests each run in one.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

AT_ONCE = 8  # conversations that write at the same time
WAITING = 24  # conversations that may wait for a seat; one more is told "busy"
POLL = 0.1  # seconds between two looks of a waiting one at whether it still wants to wait

T = TypeVar("T")


class BusyError(ValueError):
    """Too many conversations wait for this model: one sentence."""


class ModelQueue:
    """Seats and turns of one model. Safe to share among threads."""

    def __init__(self, at_once: int = AT_ONCE, waiting: int = WAITING) -> None:
        self.at_once, self.waiting = at_once, waiting
        self._changed = threading.Condition()
        self._seated = 0
        self._line: deque[object] = deque()  # those who wait for a seat, first come first
        self._turn = _FairLock()

    @property
    def seated(self) -> int:
        """Conversations that write now."""
        return self._seated

    @contextmanager
    def seat(self, on_wait: Callable[[int], None] | None = None) -> Iterator[None]:
        """A seat for one reply, held to the end of the block.

        on_wait: called ten times a second while waiting, with how many wait before this one; what it raises ends the
        waiting. Raises BusyError at once where too many wait already.
        """
        ticket = object()
        with self._changed:
            free = self._seated < self.at_once and not self._line
            if free:
                self._seated += 1
            elif len(self._line) >= self.waiting:
                raise BusyError(
                    f"the model is busy: {self._seated} replies are being written and {len(self._line)} wait; try "
                    "again in a moment"
                )
            else:
                self._line.append(ticket)
        if not free:
            self._wait(ticket, on_wait)
        try:
            yield
        finally:
            with self._changed:
                self._seated -= 1
                self._changed.notify_all()

    def _wait(self, ticket: object, on_wait: Callable[[int], None] | None) -> None:
        try:
            while True:
                with self._changed:
                    if self._line[0] is ticket and self._seated < self.at_once:
                        self._line.popleft()
                        self._seated += 1
                        self._changed.notify_all()  # the next in line may find a seat, too
                        return
                    before = self._line.index(ticket)
                    self._changed.wait(POLL)
                if on_wait is not None:
                    on_wait(before)
        except BaseException:  # whoever gives up leaves the line, whatever the reason
            with self._changed:
                self._line.remove(ticket)
                self._changed.notify_all()
            raise

    def in_turns(self, start: Callable[[], Iterator[T]]) -> Iterator[T]:
        """What `start()` yields, each item computed in a turn of its own; starting (the prompt) takes one, too."""
        with self.turn():
            source = start()
        ended = object()
        while True:
            with self.turn():
                item = next(source, ended)
            if item is ended:
                return
            yield item  # type: ignore[misc]

    @contextmanager
    def turn(self) -> Iterator[None]:
        """The model for this block alone, for whatever is computed in one piece."""
        with self._turn:
            yield

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Give the turn away for this block: called by whoever has it, for work that needs no model (a program)."""
        self._turn.__exit__()
        try:
            yield
        finally:
            self._turn.__enter__()


class _FairLock:
    """A lock that goes to whoever has waited longest; Python's own lets one thread take it again and again."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._held = False
        self._line: deque[threading.Event] = deque()

    def __enter__(self) -> None:
        with self._mutex:
            if not self._held:
                self._held = True
                return
            mine = threading.Event()
            self._line.append(mine)
        try:
            mine.wait()
        except BaseException:  # Ctrl-C while waiting: the lock may be ours by now
            with self._mutex:
                if not mine.is_set():
                    self._line.remove(mine)
                    raise
            self.__exit__()
            raise

    def __exit__(self, *_: object) -> None:
        with self._mutex:
            if self._line:
                self._line.popleft().set()  # still held, by the next one
            else:
                self._held = False
