"""Ctrl-C and SIGTERM as a polite request: finish the step, save a checkpoint, leave. The second one is not polite.

with StopRequest() as stop:
    setup = Setup(..., stop=stop)
"""

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)
BROKEN_PIPE = "SIGPIPE"  # the word for an output that nobody reads any more; Python catches that signal itself
STATUS = {**{number.name: 128 + number.value for number in SIGNALS}, BROKEN_PIPE: 128 + 13}
SAVING = "saving a checkpoint, then leaving"


class StopRequest:
    """Called, it says which signal has come, or None; while it is open, signals are caught.

    Each signal is caught once: the same one again ends the process at once, even inside a long computation, where
    Python could not act on it. A SIGTERM that follows a SIGINT is not a second wish: torchrun passes Ctrl-C on so.
    Outside the main thread nothing is caught, because Python allows it there only; `request` works from any thread.
    """

    def __init__(
        self, announce: Callable[[str], object] = lambda _: None, doing: Callable[[], str] = lambda: SAVING
    ) -> None:
        self._announce = announce  # gets one sentence when the first signal comes
        self._doing = doing  # what it says will happen: not every part of a command has something to save
        self._word: str | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __call__(self) -> str | None:
        return self._word

    def request(self, word: str = "stop") -> None:
        """Ask the run to stop, as a signal would."""
        self._word = self._word or word

    @property
    def status(self) -> int:
        """The exit status that a shell expects: 128 and the signal's number, 0 where none came."""
        return STATUS.get(self._word or "", 0)

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        first = self._word is None
        self.request(signal.Signals(number).name)
        if first:
            self._announce(f"{self._word}: {self._doing()}; the same again leaves at once")
