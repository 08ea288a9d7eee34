"""What a command writes while it trains: lines for people, records for programs, until nobody reads them any more.

`nanochat base_train | head -3` closes our output after three lines. That is a wish to stop, not an error: the run saves
a checkpoint and leaves without another word.

    with StopRequest(lambda line: output.say(line)) as stop:
        output = Output(stop.request)
"""

import sys
from collections.abc import Callable
from typing import TextIO

from nanochat.training_signals import BROKEN_PIPE


class Output:
    """Writes whole lines at once. A signal may come in the middle of one: what its handler says comes behind that."""

    def __init__(
        self,
        stop: Callable[[str], object],
        *,
        silent: bool = False,
        people: TextIO | None = None,
        programs: TextIO | None = None,
    ) -> None:
        """stop: told BROKEN_PIPE when nobody reads any more. silent: a rank that does not speak for all.

        people, programs: where lines and records go; None: what is standard output at that moment.
        """
        self._stop, self._silent = stop, silent
        self._people, self._programs = people, programs
        self._waiting: list[tuple[TextIO, str]] = []
        self._writing = False
        self.closed = False  # nobody reads any more

    def say(self, line: str) -> None:
        """A line for people."""
        self._write(self._people or sys.stdout, line + "\n")

    def record(self, line: str) -> None:
        """A line for programs, its end included."""
        self._write(self._programs or sys.stdout, line)

    def _write(self, stream: TextIO, text: str) -> None:
        if self._silent:
            return
        self._waiting.append((stream, text))
        if self._writing:  # a signal's handler within a write: a stream cannot be entered twice
            return
        self._writing = True
        try:
            while self._waiting and not self.closed:
                stream, text = self._waiting.pop(0)
                stream.write(text)
                stream.flush()
        except BrokenPipeError:
            self.closed = True
            self._stop(BROKEN_PIPE)
        finally:
            self._writing = False
