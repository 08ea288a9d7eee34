"""What tests of terminal tools share: a command run in this process, as `nanochat` runs it."""

import json
from collections.abc import Sequence
from typing import Any

import pytest

from nanochat.errors import exit_status


def run(name: str, main: Any, capsys: pytest.CaptureFixture[str], flags: Sequence[object]) -> tuple[int, str, str]:
    """(exit status, standard output, errors) of a command with these flags; what was printed before is dropped."""
    capsys.readouterr()
    status = exit_status(name, lambda: main([str(flag) for flag in flags]))
    return status, *capsys.readouterr()


def as_json(name: str, main: Any, capsys: pytest.CaptureFixture[str], flags: Sequence[object]) -> dict[str, Any]:
    """The one object that a command prints with --json, without a word on standard error."""
    status, out, err = run(name, main, capsys, [*flags, "--json"])
    assert (status, err) == (0, "")
    found: dict[str, Any] = json.loads(out)
    return found
