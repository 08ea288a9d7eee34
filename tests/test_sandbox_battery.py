"""Every attack of the battery, each its own test: nothing is lost, and the verdict is right."""

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nanochat import execution
from nanochat.execution import Limits, run_contained, run_trusted, sandbox_status
from tests.sandbox_attacks import Attack, Prey, prey, program
from tests.sandbox_attacks_list import BATTERY

pytestmark = pytest.mark.skipif(
    not sandbox_status().available, reason=f"nothing contains Python here: {sandbox_status().reason}"
)
MEMORY = 256 << 20


@pytest.fixture(scope="module")
def quarry() -> Iterator[Prey]:
    with prey() as found:
        yield found


def withstands(attack: Attack, quarry: Prey, namespaces: bool) -> None:
    """Run an attack, then look at what it said, at what it may have broken, and at the verdict."""
    limits = Limits(attack.timeout, MEMORY, namespaces=namespaces, native=attack.native)
    began = time.monotonic()
    result, held = run_contained(program(attack, quarry), limits)
    taken = time.monotonic() - began
    if not namespaces:
        assert "namespaces" not in held
    assert "LOST" not in result.stdout + result.stderr.replace("print('LOST')", ""), result
    assert quarry.harm() == []
    assert result.timed_out == attack.timed_out, result
    if attack.success is not None:
        assert result.success == attack.success, result
    assert result.success == (result.error is None)
    assert ("the sandbox forbids" in (result.error or "")) == attack.fatal, result
    assert len(result.stdout.encode()) <= 3 * 64_000  # a byte that is no text becomes a character of three
    assert taken < 5 * (attack.timeout + 1)


def test_there_are_enough_attacks() -> None:
    names = [attack.name for attack in BATTERY]
    assert len(names) == len(set(names))
    assert len(names) >= 44


@pytest.mark.parametrize("attack", BATTERY, ids=lambda attack: attack.name)
def test_withstands(attack: Attack, quarry: Prey) -> None:
    withstands(attack, quarry, namespaces=True)


@pytest.mark.parametrize("attack", [one for one in BATTERY if one.reach], ids=lambda attack: attack.name)
def test_withstands_without_namespaces(attack: Attack, quarry: Prey) -> None:
    """Where the kernel grants no namespaces, Landlock and seccomp alone keep everything out of reach."""
    withstands(attack, quarry, namespaces=False)


@pytest.mark.prove
@pytest.mark.parametrize("attack", [one for one in BATTERY if not one.reach], ids=lambda attack: attack.name)
def test_withstands_the_rest_without_namespaces(attack: Attack, quarry: Prey) -> None:
    withstands(attack, quarry, namespaces=False)


@pytest.mark.prove
@pytest.mark.parametrize("version", [1, 2, 3, 4, 5, 6])
def test_withstands_with_an_older_landlock(
    version: int, quarry: Prey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This kernel asked for no more than an older one has: seccomp closes what Landlock then leaves open."""
    source = (execution.SANDBOX / "site.py").read_text()
    asked = "    ruleset = check("
    assert source.count(asked) == 1
    (tmp_path / "site.py").write_text(source.replace(asked, f"    version = {version}\n{asked}"))
    monkeypatch.setattr(execution, "SANDBOX", tmp_path)
    _, held = run_contained(b"pass", Limits(5.0, MEMORY))
    assert f"landlock {version}" in held
    for attack in BATTERY:
        if attack.reach:
            for namespaces in (True, False):
                withstands(attack, quarry, namespaces)


HARMLESS = [
    "read /etc/passwd",
    "read a user's file",
    "list home and root",
    "read itself through /proc",
    "through a symbolic link",
    "climb out of its folder",
    "open by raw calls",
    "open a socket",
    "serve",
    "start programs",
    "become a program",
    "every address family",
    "write machine code",
    "ctypes",
    "environment",
]


@pytest.mark.parametrize("name", HARMLESS)
def test_the_attack_works_where_nothing_contains_it(name: str) -> None:
    """An attack that could not win anywhere would prove nothing. Only those that break nothing are tried."""
    attack = next(attack for attack in BATTERY if attack.name == name)
    with prey() as found:
        result = run_trusted(program(attack, found), Limits(20.0, 1 << 30))
    assert "LOST" in result.stdout, result


STRANGER = """
import sys
sys.path.insert(0, {repo!r})
from nanochat import execution
from nanochat.execution import Limits, run_contained, sandbox_status
from tests.sandbox_attacks import prey, program
from tests.sandbox_attacks_list import BATTERY

print(sandbox_status().available, sandbox_status().reason)
with prey() as found:
    for attack in BATTERY:
        if attack.name in {names!r}:
            result, _ = run_contained(program(attack, found), Limits(attack.timeout, {memory}, native=attack.native))
            if "LOST" in result.stdout or (attack.success is not None and attack.success != result.success):
                print("LOST", attack.name, result)
    print("harm", found.harm())
"""


def as_ordinary_user(names: list[str]) -> str:
    """The output of the battery under the user `nobody`, with the system's own Python. Only root can become it."""
    if os.name != "posix" or os.geteuid() != 0:
        pytest.skip("not root: the battery has just run as an ordinary user")
    python, repo = "/usr/bin/python3", str(Path(__file__).parents[1])
    script = STRANGER.format(repo=repo, names=names, memory=MEMORY)
    nobody = {"user": 65534, "group": 65534, "extra_groups": []}
    try:
        reaches = "import sys, os; sys.exit(sys.version_info < (3, 11) or not os.access(sys.argv[1], os.R_OK))"
        subprocess.run([python, "-c", reaches, f"{repo}/nanochat/execution.py"], check=True, **nobody)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip(f"user nobody has no Python 3.11 at {python} or cannot read {repo}")
    done = subprocess.run(
        [python, "-B", "-c", script], env={}, cwd="/", capture_output=True, text=True, timeout=300, **nobody
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_an_ordinary_user_is_protected_too() -> None:
    names = ["read a user's file", "write outside", "kill the parent", "open a socket", "sys.exit(0)", "call ptrace"]
    output = as_ordinary_user(names)
    assert output.startswith("True contained by")
    assert output.endswith("harm []\n")
    assert "LOST" not in output


@pytest.mark.prove
def test_an_ordinary_user_withstands_the_whole_battery() -> None:
    output = as_ordinary_user([attack.name for attack in BATTERY])
    assert output.startswith("True contained by")
    assert output.endswith("harm []\n")
    assert "LOST" not in output
