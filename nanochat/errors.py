"""Which exceptions are messages to a person, and which are bugs; and how a command ends in a terminal."""

import errno
import os
import sys
from collections.abc import Callable

OUR_PACKAGES = ("nanochat", "kernels")


def is_message(error: BaseException) -> bool:
    """Whether this is an error type of this project: one sentence with its remedy, fit to be shown as it is.

    All of them are subclasses of ValueError. A plain ValueError, or one of Python's own such as UnicodeEncodeError,
    was raised by code that did not expect it: a bug, whose text helps nobody without the traceback.
    """
    return isinstance(error, ValueError) and type(error).__module__.partition(".")[0] in OUR_PACKAGES


def exit_status(name: str, command: Callable[[], int | None]) -> int:
    """Run a command and return its exit status; every script and tool ends through here.

    An error type of this project is a message to whoever typed the command: its one line is printed, status 1. A bug
    keeps its traceback. Ctrl-C and a closed pipe are no errors, and end with the statuses that shells expect.
    """
    _ready_streams()
    try:
        status = int(command() or 0)
        sys.stdout.flush()  # a pipe that nobody reads any more shows up here, not after the handlers below are gone
        return status
    except KeyboardInterrupt:
        print("\nInterrupted.", file=sys.stderr)
        return 130  # 128 + SIGINT
    except BrokenPipeError:
        # `nanochat ... | head` closed our output. Python would complain once more when it flushes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141  # 128 + SIGPIPE
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        print(f"{name}: the disk is full; free some space", file=sys.stderr)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except ValueError as error:
        if not is_message(error):
            raise
        print(f"{name}: {error}", file=sys.stderr)
        return 1


def _ready_streams() -> None:
    """What a terminal's encoding lacks becomes a question mark, and a closed stream swallows what it is given."""
    for stream in ("stdout", "stderr"):
        if getattr(sys, stream) is None:
            setattr(sys, stream, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - it lives as long as we do
        elif hasattr(getattr(sys, stream), "reconfigure"):
            getattr(sys, stream).reconfigure(errors="replace")
