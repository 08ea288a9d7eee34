"""The `nanochat` command: lists every script and tool, and runs one of them.

It is one front door, so that nobody has to know in which folder a thing lies. The list is read from the files
themselves (the first line of each docstring) and nothing is imported until it is run, so `nanochat --help` loads no
torch.

    nanochat                        the list
    nanochat chat_cli --help        what one of them takes
    nanochat chat_cli -p "Hello"    run it; the same as python -m nanochat.scripts.chat_cli -p "Hello"
"""

import ast
import difflib
import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nanochat import __version__
from nanochat.errors import exit_status
from nanochat.paths import kernels_problem

ROOMS = {"scripts": "the pipeline, one stage at a time", "tools": "look inside"}  # folder of this package -> what for


@dataclass(frozen=True)
class Command:
    """One file that a person can run."""

    name: str  # what is typed after `nanochat`
    room: str  # the folder it lies in: scripts or tools
    purpose: str  # the first line of its docstring

    @property
    def module(self) -> str:
        """The name to import."""
        return f"nanochat.{self.room}.{self.name}"


def find_commands(package: Path = Path(__file__).parent) -> list[Command]:
    """Every script and tool below `package`, by room and then by name, without importing any of them."""
    return [
        Command(path.stem, room, _first_line(path))
        for room in ROOMS
        for path in sorted((package / room).glob("*.py"))
        if not path.stem.startswith("_")
    ]


def _first_line(path: Path) -> str:
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return docstring.split("\n", 1)[0]


def listing(commands: Sequence[Command]) -> str:
    """The text of `nanochat --help`."""
    lines = [
        "usage: nanochat [--version] [--help] COMMAND [ARGUMENTS]",
        "",
        "The terminal side of nanochat lab. `nanochat COMMAND --help` says what a command takes.",
    ]
    width = max((len(command.name) for command in commands), default=0)
    for room, purpose in ROOMS.items():
        rows = [f"  {command.name:<{width}}  {command.purpose}" for command in commands if command.room == room]
        if rows:
            lines += ["", f"{room} ({purpose}):", *rows]
    return "\n".join([*lines, "", "The browser side: streamlit run Home.py"])


def run_command(command: Command, arguments: list[str]) -> int:
    """Run one command in this process and return its exit status."""
    sys.argv = [f"nanochat {command.name}", *arguments]  # argparse takes the name in its usage line from here
    return exit_status(sys.argv[0], lambda: importlib.import_module(command.module).main(arguments))


def dispatch(arguments: list[str]) -> int:
    """Do what the command line says: help, version, or one command."""
    name = arguments[0] if arguments else "--help"
    commands = find_commands()
    if name in ("-h", "--help", "help"):
        print(listing(commands))
        return 0
    if name in ("-V", "--version"):
        print(f"nanochat lab {__version__}")
        return 0
    chosen = {command.name: command for command in commands}.get(name.replace("-", "_"))
    if chosen is None:
        close = difflib.get_close_matches(name, [command.name for command in commands], n=1, cutoff=0.4)
        hint = f"did you mean {close[0]}?" if close else "`nanochat` alone lists what there is."
        print(f"nanochat: there is no command {name!r}: {hint}", file=sys.stderr)
        return 2
    problem = kernels_problem()
    if problem:
        print(f"nanochat: {problem}", file=sys.stderr)
        return 1
    return run_command(chosen, arguments[1:])


def main(argv: list[str] | None = None) -> int:
    """Run the command line."""
    return exit_status("nanochat", lambda: dispatch(sys.argv[1:] if argv is None else argv))


if __name__ == "__main__":
    sys.exit(main())
