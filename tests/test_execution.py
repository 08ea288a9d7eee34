"""Running programs: what comes back, within which limits, and that without a sandbox nothing runs."""

import os
import platform
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat import execution
from nanochat.execution import (
    ExecutionError,
    ExecutionResult,
    ExecutionUnavailable,
    Limits,
    SandboxStatus,
    execute_code,
    run_contained,
    sandbox_status,
)
from nanochat.sandbox import seccomp, streams
from tests.sandbox_attacks import children, wait_for

MEMORY = 256 << 20
contained = pytest.mark.skipif(
    not sandbox_status().available, reason=f"nothing contains Python here: {sandbox_status().reason}"
)


@pytest.fixture
def no_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution, "_tried_status", lambda: SandboxStatus(False, "there is no Landlock", ()))


@contained
def test_a_program_that_works() -> None:
    result = execute_code("import sys\nprint(6 * 7)\nprint('careful', file=sys.stderr)\n")
    assert result == ExecutionResult(True, "42\n", "careful\n", False, False, None)


@contained
@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("1/0", "ZeroDivisionError: division by zero"),
        ("raise SystemExit(0)", "SystemExit: 0"),
        ("def f(:", "SyntaxError: invalid syntax"),
        ("print(", "SyntaxError: '(' was never closed"),
        ("import os; os._exit(0)", "it ended with exit code 0 before its end"),
        ("import os; os._exit(3)", "it ended with exit code 3 before its end"),
        ("bytearray(1 << 30)", "MemoryError"),
        ("'\ud800'", None),
        ("import os; os.abort()", "killed by signal 6"),
        ("import socket; socket.socket()", "PermissionError: [Errno 1] Operation not permitted"),
    ],
)
def test_a_program_that_fails_says_why_in_a_line(code: str, error: str | None) -> None:
    result = execute_code(code)
    assert not result.success
    assert result.error
    assert "\n" not in result.error
    assert error in (result.error, None)
    assert not result.timed_out


@contained
@pytest.mark.parametrize("code", ["", "\n", "# nothing", "pass", "\ufeffprint(1)", "print(1)\r\nprint(2)\r\n", "x = 1"])
def test_odd_but_good_programs(code: str) -> None:
    assert execute_code(code).success


@contained
def test_a_program_finds_what_it_needs() -> None:
    """The library, threads, asyncio, a folder of its own, an empty input."""
    result = execute_code(
        "import asyncio, collections, dataclasses, datetime, decimal, fractions, functools, hashlib, heapq, itertools\n"
        "import json, math, pickle, random, re, statistics, string, tempfile, threading, typing, unittest, zoneinfo\n"
        "import xml.etree.ElementTree as tree, concurrent.futures as pools, multiprocessing, subprocess, logging, csv\n"
        "print(asyncio.run(asyncio.sleep(0.01, 'slept')))\n"
        "with pools.ThreadPoolExecutor(3) as pool: print(list(pool.map(abs, [-1, -2])))\n"
        "with open('note', 'w') as file: file.write('kept')\n"
        "print(open('note').read(), __name__, tree.fromstring('<a/>').tag, hashlib.sha256(b'').hexdigest()[:4])\n"
        "try: input()\n"
        "except EOFError: print('no input')\n"
    )
    if "namespaces" in sandbox_status().mechanisms:
        assert result.stdout == "slept\n[1, 2]\nkept __main__ a e3b0\nno input\n", result
        assert result.success
    else:
        assert result.stdout.startswith("slept\n[1, 2]\n")
        assert result.error is not None
        assert "PermissionError" in result.error  # without namespaces there is no folder to write in


@contained
def test_without_namespaces_nothing_is_written_anywhere() -> None:
    code = "import os\nfor path in ('x', '/tmp/x', '/dev/shm/x'):\n    try: open(path, 'w'); print(path)\n"
    code += "    except OSError: pass\n"
    result, held = run_contained(code.encode(), Limits(5.0, MEMORY, namespaces=False))
    assert result == ExecutionResult(True, "", "", False, False, None)
    assert "namespaces" not in held


@contained
def test_the_same_program_prints_the_same() -> None:
    code = "print(hash('a'), list({'x', 'y', 'z'}), __name__)"
    assert execute_code(code).stdout == execute_code(code).stdout


@contained
def test_time_is_limited_and_what_was_printed_is_kept() -> None:
    began = time.monotonic()
    result = execute_code("print('before')\nwhile True: pass", timeout=1.0)
    assert time.monotonic() - began < 5 * 2
    assert result == ExecutionResult(False, "before\n", "", True, False, "stopped after 1 seconds")


@contained
def test_memory_is_limited_as_told() -> None:
    code = "x = bytearray(150 << 20); print(len(x) >> 20)"
    assert execute_code(code).stdout == "150\n"
    assert execute_code(code, memory_bytes=128 << 20).error == "MemoryError"
    assert execute_code("print(1)", memory_bytes=64 << 20).success


@contained
@pytest.mark.parametrize("extra", [-20, -1, 0, 1, 20, 100_000])
@pytest.mark.parametrize("ending", ["", "raise ValueError"])
def test_output_is_cut_and_no_verdict_shows_in_it(extra: int, ending: str) -> None:
    """A program that fails sends its token to standard output: it is taken away, wherever the cut falls."""
    size = streams.MAX_OUTPUT + extra
    result = execute_code(f"import os, sys\nfor fd in (1, 2): os.write(fd, b'x' * {size})\n{ending}")
    assert result.stdout == "x" * min(size, streams.MAX_OUTPUT)
    assert result.stderr.startswith("x" * min(size, streams.MAX_OUTPUT))
    assert result.truncated == (extra > 0 or (ending != "" and extra > -100))
    assert result.success == (ending == "")


@contained
def test_bytes_that_are_no_text_are_replaced() -> None:
    assert execute_code("import os; os.write(1, b'a\\xff\\xe2\\x82')").stdout == "a\ufffd\ufffd"


@contained
def test_eight_threads_at_once() -> None:
    results: dict[int, ExecutionResult] = {}

    def run(number: int) -> None:
        results[number] = execute_code(f"import time; time.sleep(0.05); print({number})", timeout=20.0)

    workers = [threading.Thread(target=run, args=(number,)) for number in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert {number: result.stdout for number, result in results.items()} == {n: f"{n}\n" for n in range(8)}
    assert all(result.success for result in results.values())


@contained
def test_from_a_process_with_torch_loaded() -> None:
    script = (
        "import torch, threading\nfrom nanochat.execution import execute_code\n"
        "torch.set_num_threads(1); torch.ones(64, 64) @ torch.ones(64, 64)\n"
        "worker = threading.Thread(target=lambda: print(execute_code('print(7)', timeout=20.0).stdout))\n"
        "worker.start(); worker.join()\n"
    )
    repo = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", script], cwd=repo, capture_output=True, text=True, timeout=120)
    assert done.stdout == "7\n\n", done.stderr


@contained
def test_nothing_is_left_behind() -> None:
    before = set(os.listdir(tempfile.gettempdir())), children(), set(os.listdir("/proc/self/fd"))
    for code in ("open('x', 'w').write('x')", "import os\nos.makedirs('a/b/c')", "import os; os.close(0)", "1/0"):
        execute_code(code)
    after = set(os.listdir(tempfile.gettempdir())), children(), set(os.listdir("/proc/self/fd"))
    assert {name for name in after[0] - before[0] if name.startswith("nanochat-")} == set()
    assert after[1:] == before[1:]


@contained
def test_a_program_dies_with_the_process_that_started_it() -> None:
    script = "from nanochat.execution import *\nrun_contained(b'while True: pass', Limits(60.0, 256 << 20))"
    starter = subprocess.Popen([sys.executable, "-c", script], cwd=Path(__file__).parents[1])
    try:
        program = wait_for(lambda: children_of(starter.pid))
        wait_for(lambda: "Seccomp:\t2" in Path(f"/proc/{program[0]}/status").read_text())
        starter.send_signal(signal.SIGKILL)
    finally:
        starter.kill()
        starter.wait()
    wait_for(lambda: not Path(f"/proc/{program[0]}/stat").exists() or state(program[0]) == "Z")


def children_of(pid: int) -> list[int]:
    """Process ids whose parent is `pid`."""
    parents = {int(p.parent.name): p.read_text().rsplit(")", 1)[1].split() for p in Path("/proc").glob("[0-9]*/stat")}
    return [child for child, fields in parents.items() if int(fields[1]) == pid]


def state(pid: int) -> str:
    """The letter of a process's state; Z is dead and not yet collected."""
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]


@contained
@given(st.text(max_size=60) | st.binary(max_size=40).map(lambda data: data.decode("latin1")))
@settings(max_examples=12, deadline=None)
def test_any_text_gives_a_result(code: str) -> None:
    result = execute_code(code, timeout=20.0)
    assert result.success == (result.error is None)


@contained
def test_a_program_that_is_too_long_is_not_started() -> None:
    result = execute_code("#" + "x" * 10_000_000)
    assert result.error == "the program is 10,000,001 bytes long, the limit is 1,000,000"
    assert execute_code("#" + "x" * 999_999).success


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), 601, "5", None])
def test_timeouts_out_of_range(timeout: object) -> None:
    with pytest.raises(ExecutionError, match="above 0, at most 600") as caught:
        execute_code("pass", timeout=timeout)  # type: ignore[arg-type]
    assert isinstance(caught.value, ValueError)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("memory", [0, 63 << 20, 1 << 62, 1e9, "256M"])
def test_memory_out_of_range(memory: object) -> None:
    with pytest.raises(ExecutionError, match="memory_bytes is"):
        execute_code("pass", memory_bytes=memory)  # type: ignore[arg-type]


# Without a sandbox.


@pytest.mark.usefixtures("no_sandbox")
def test_without_a_sandbox_nothing_runs(tmp_path: Path) -> None:
    with pytest.raises(ExecutionUnavailable, match="there is no Landlock") as caught:
        execute_code(f"open({str(tmp_path / 'x')!r}, 'w')")
    assert isinstance(caught.value, ValueError)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "x").exists()


@pytest.mark.usefixtures("no_sandbox")
def test_a_trusted_model_runs_without_a_sandbox(tmp_path: Path) -> None:
    result = execute_code(f"open({str(tmp_path / 'x')!r}, 'w'); print('done')", timeout=20.0, trust_model=True)
    assert result == ExecutionResult(True, "done\n", "", False, False, None)
    assert (tmp_path / "x").exists()
    assert "WITHOUT a sandbox" in execution.UNCONTAINED_BANNER


@contained
def test_trust_does_not_take_the_sandbox_away() -> None:
    assert execute_code("open('/etc/passwd')", trust_model=True).error is not None


@pytest.mark.parametrize(
    ("system", "machine"), [("darwin", "arm64"), ("win32", "AMD64"), ("linux", "riscv64"), ("linux", "i686")]
)
def test_other_platforms_have_no_sandbox(system: str, machine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    status = execution._tried_status.__wrapped__()
    assert not status.available
    assert "needs Linux" in status.reason
    assert machine in status.reason


@contained
def test_the_self_test_sees_a_filter_that_lets_everything_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution, "build_filter", lambda *_: struct.pack("=HBBI", 6, 0, 0, seccomp.ALLOW))
    status = execution._tried_status.__wrapped__()
    assert not status.available
    for lost in ("open a socket", "start a process", "map machine code"):
        assert lost in status.reason


@contained
@pytest.mark.parametrize(
    ("find", "put"),
    [
        ('check(libc, libc.syscall(LANDLOCK_RESTRICT, ruleset, 0), "Landlock")', "check(libc, -1, 'Landlock')"),
        ("enter()\n", "raise RuntimeError('no')\n"),
        ("enter()\n", "import os\nos._exit(0)\n"),
        ("    enter()", "("),
    ],
)
def test_a_child_that_cannot_lock_itself_runs_nothing(
    find: str, put: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = (execution.SANDBOX / "site.py").read_text()
    (tmp_path / "site.py").write_text(source.replace(find, put) if find in source else "(")
    monkeypatch.setattr(execution, "SANDBOX", tmp_path)
    with pytest.raises(ExecutionUnavailable, match="could not lock itself") as caught:
        run_contained(b"print('ran')", Limits(20.0, MEMORY))
    assert "\n" not in str(caught.value)
    assert not execution._tried_status.__wrapped__().available


@contained
def test_a_child_without_locks_is_never_sent_the_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With no site.py of ours, Python takes its own and waits for a program; the parent waits for word of locks."""
    monkeypatch.setattr(execution, "SANDBOX", tmp_path)
    result, held = run_contained(b"print('ran')", Limits(0.5, MEMORY))
    assert (result.success, result.timed_out, result.stdout, held) == (False, True, "", ())
