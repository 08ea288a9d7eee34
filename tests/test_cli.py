"""The `nanochat` command: the list, the nearest name, exit statuses, and how it ends when a terminal cuts it short."""

import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

import nanochat
from nanochat import __main__ as cli
from nanochat.device import DeviceError
from nanochat.errors import is_message

ROOT = Path(__file__).parents[1]


@pytest.fixture
def command(monkeypatch):
    """Put one made-up tool into the list; `command(main)` gives it a body."""

    def install(main) -> None:
        module = types.ModuleType("nanochat.tools.made_up")
        module.main = main
        package = types.ModuleType("nanochat.tools")
        package.made_up = module
        monkeypatch.setitem(sys.modules, "nanochat.tools", package)
        monkeypatch.setitem(sys.modules, "nanochat.tools.made_up", module)
        made_up = [
            cli.Command("made_up", "tools", "For this test."),
            cli.Command("other_thing", "scripts", "Never run."),
        ]
        monkeypatch.setattr(cli, "find_commands", lambda: made_up)
        monkeypatch.setattr(cli, "kernels_problem", lambda: None)
        monkeypatch.setattr(sys, "argv", ["nanochat"])

    return install


def test_every_script_and_tool_is_listed_with_its_first_line(capsys):
    assert cli.main([]) == 0
    printed = capsys.readouterr().out
    files = [path for room in cli.ROOMS for path in (ROOT / "nanochat" / room).glob("[a-z]*.py")]
    assert [path.stem for path in files if path.stem not in printed] == []
    for command in cli.find_commands():
        assert command.purpose, f"{command.module} has no docstring"
        assert command.purpose in printed


def test_commands_are_read_and_not_imported(tmp_path):
    (tmp_path / "tools").mkdir()
    (tmp_path / "scripts").mkdir()
    (tmp_path / "tools" / "b.py").write_text('"""Second.\n\nMore."""\nraise SystemExit("imported")\n')
    (tmp_path / "tools" / "a.py").write_text("x = 1\n")
    (tmp_path / "tools" / "_private.py").write_text("")
    (tmp_path / "scripts" / "c.py").write_text('"""First."""\n')
    found = [(command.room, command.name, command.purpose) for command in cli.find_commands(tmp_path)]
    assert found == [("scripts", "c", "First."), ("tools", "a", ""), ("tools", "b", "Second.")]
    assert cli.find_commands(tmp_path / "absent") == []


@pytest.mark.parametrize("flag", ["--version", "-V"])
def test_version(flag, capsys):
    assert cli.main([flag]) == 0
    assert capsys.readouterr().out.strip() == f"nanochat lab {nanochat.__version__}"


@pytest.mark.parametrize("flag", ["--help", "-h", "help"])
def test_help(flag, capsys):
    assert cli.main([flag]) == 0
    assert "usage: nanochat" in capsys.readouterr().out


def test_arguments_and_status_pass_through(command, capsys):
    seen = []
    command(lambda argv: seen.append((argv, sys.argv[0])) or 3)
    assert cli.main(["made_up", "--x", "1"]) == 3
    assert cli.main(["made-up"]) == 3, "dashes are as good as underscores"
    assert seen == [(["--x", "1"], "nanochat made_up"), ([], "nanochat made_up")]


@pytest.mark.parametrize(("typed", "hint"), [("madeup", "did you mean made_up?"), ("qqq", "lists what there is")])
def test_an_unknown_name_gets_one_line_and_status_2(command, capsys, typed, hint):
    command(lambda argv: 0)
    assert cli.main([typed]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert repr(typed) in captured.err
    assert hint in captured.err


def _raise(error):
    def main(argv):
        raise error

    return main


def test_an_error_of_ours_is_one_line(command, capsys):
    command(_raise(DeviceError("no such device: take another")))
    assert cli.main(["made_up"]) == 1
    assert capsys.readouterr().err == "nanochat made_up: no such device: take another\n"


def test_any_other_error_is_a_bug_and_keeps_its_traceback(command):
    command(_raise(ValueError("a bug")))
    with pytest.raises(ValueError, match="a bug"):
        cli.main(["made_up"])


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (DeviceError("x"), True),
        (ValueError("x"), False),
        (UnicodeError("x"), False),
        (KeyError("x"), False),
    ],
)
def test_which_errors_are_messages(error, message):
    assert is_message(error) is message


def test_interrupt_is_quiet(command, capsys):
    command(_raise(KeyboardInterrupt()))
    assert cli.main(["made_up"]) == 130
    assert capsys.readouterr().err == "\nInterrupted.\n"


def test_a_hidden_kernels_package_stops_a_command_with_one_line(command, capsys, monkeypatch):
    command(_raise(AssertionError("must not run")))
    monkeypatch.setattr(cli, "kernels_problem", lambda: "another package is in the way.")
    assert cli.main(["made_up"]) == 1
    assert capsys.readouterr().err == "nanochat: another package is in the way.\n"
    assert cli.main(["--help"]) == 0, "the list must work even then"


def test_a_closed_pipe_is_quiet():
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "nanochat"], cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, timeout=60, check=False
        )
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")
