"""Every number on the command line of both scripts has limits, and a value outside them is refused at once."""

import argparse
import math
from typing import Any

import pytest

from nanochat.errors import exit_status
from nanochat.scripts import base_train, chat_sft
from nanochat.training_flags import FlagError, Limits, require_numbers

SCRIPTS = {"base_train": base_train, "chat_sft": chat_sft}
ABSURD = (math.nan, math.inf, -math.inf, -5, -1.5, 1e300, 10**31)


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_number_has_limits_and_every_default_is_within_them(name: str) -> None:
    script: Any = SCRIPTS[name]
    numbers = {action.dest for action in script.parser()._actions if action.type in (int, float)}
    assert numbers == set(script.LIMITS)
    require_numbers(script.parser().parse_args([]), script.LIMITS)


@pytest.mark.parametrize("name", SCRIPTS)
def test_absurd_numbers_are_refused_for_every_flag(name: str) -> None:
    script: Any = SCRIPTS[name]
    for flag, limits in script.LIMITS.items():
        for value in (*ABSURD, limits.least - 1 if limits.least >= 1 else -0.5, "7", True, [1]):
            if value in limits.off and not isinstance(value, bool):
                continue
            args = argparse.Namespace(**{**vars(script.parser().parse_args([])), flag: value})
            with pytest.raises(FlagError, match=f"^--{flag.replace('_', '-')} is .*; give a number from "):
                require_numbers(args, script.LIMITS)


@pytest.mark.parametrize("name", SCRIPTS)
@pytest.mark.parametrize(
    "flags",
    [
        ["--save-minutes=nan"],
        ["--save-minutes=-1"],
        ["--eval-tokens=-1"],
        ["--eval-every=-5"],
        ["--save-every=-2"],
        ["--num-iterations=0"],
        ["--budget=-1"],
        ["--clip=0"],
        ["--resume-from-step=-7"],
    ],
)
def test_the_commands_say_it_in_one_line(name: str, flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    script: Any = SCRIPTS[name]
    assert exit_status(name, lambda: script.main(flags)) == 1
    flag, _, value = flags[0].partition("=")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{name}: {flag} is {value}; give a number from ")


def test_off_is_named_where_there_is_one() -> None:
    with pytest.raises(FlagError, match=r"^--a-b is -2; give a number from 1 to 9 \(-1 is off\)$"):
        require_numbers(argparse.Namespace(a_b=-2), {"a_b": Limits(1, 9, (-1,))})
    require_numbers(argparse.Namespace(a_b=-1), {"a_b": Limits(1, 9, (-1,))})
    require_numbers(argparse.Namespace(a_b=None), {"a_b": Limits(1, 9)})
