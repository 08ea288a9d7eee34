"""Run a Python program that a model wrote, contained, and say what became of it.

>>> execute_code("print(6 * 7)").stdout        # doctest: +SKIP
'42\\n'

Each program gets a fresh interpreter, locked by `nanochat/sandbox/site.py` before the program is even sent to it: no
file but the standard library, no network, no other process, no environment, bounded memory, time, output and files.
The locks are Landlock and seccomp, of Linux on x86_64 and aarch64. Where they are missing, Python is off: there is no
weaker sandbox to fall back to. `sandbox_status()` tries the locks once, by attacking them, and says what it found.

What `success` means: the program ran to its end without an exception. An exit code does not decide that. It does not
mean that the program's answer is right: a program may skip its own tests and still reach its end. So whoever scores
programs compares what they print with what was expected, and keeps the expectation out of the program.

This file needs no torch, and works from any thread, several at once.
"""

import contextlib
import functools
import json
import math
import os
import platform
import secrets
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from nanochat.sandbox.seccomp import AUDIT_ARCH, build_filter
from nanochat.sandbox.streams import Streams, kill_session, remove_tree

SANDBOX = Path(__file__).parent / "sandbox"
MAX_CODE = 1_000_000  # bytes
MIN_MEMORY = 64 << 20  # an interpreter alone takes half of it
MAX_TIMEOUT = 600.0  # seconds
SIGSYS = 31  # on Linux: the death that the filter of system calls deals out
SLACK = 0.6  # seconds beyond the limit in which a run ends, starting and killing included
UNCONTAINED_BANNER = (
    "Python runs WITHOUT a sandbox: programs that the model writes can read and change everything you can. "
    "Use this only with a model you trust."
)


class ExecutionError(ValueError):
    """A run was asked for that cannot be made; one line, with the remedy."""


class ExecutionUnavailable(ExecutionError):
    """There is no sandbox here, so Python is off."""


@dataclass(frozen=True)
class ExecutionResult:
    """What became of a program."""

    success: bool  # it ran to its end without an exception; not that its answer is right
    stdout: str  # UTF-8, undecodable bytes replaced, at most 64 kB of it
    stderr: str
    timed_out: bool
    truncated: bool  # more was printed than is kept
    error: str | None  # one line: why it did not succeed; None if it did


@dataclass(frozen=True)
class SandboxStatus:
    """Whether programs can be contained on this machine, and by what."""

    available: bool
    reason: str  # one line, for people
    mechanisms: tuple[str, ...]  # what holds, empty if nothing does


@dataclass(frozen=True)
class Limits:
    """What a program may use."""

    timeout: float  # seconds
    memory_bytes: int
    namespaces: bool = True  # its own file system and network, where the kernel grants them
    native: bool = False  # leave ctypes in: for the self-test and the battery, which try system calls by number


def execute_code(
    code: str, timeout: float = 5.0, memory_bytes: int = 256 << 20, *, trust_model: bool = False
) -> ExecutionResult:
    """Run `code` as a program in the sandbox; it takes at most `timeout` + 1 seconds.

    `memory_bytes` bounds the address space, the interpreter's own 40 MB included. A program that fails gives a result,
    whatever it does. Raises ExecutionUnavailable where there is no sandbox, unless `trust_model`: then the program runs
    with the user's own rights, and the caller shows UNCONTAINED_BANNER. Raises ExecutionError on limits out of range.
    """
    if not (isinstance(timeout, int | float) and math.isfinite(timeout) and 0 < timeout <= MAX_TIMEOUT):
        raise ExecutionError(f"timeout is {timeout!r} seconds: give a number above 0, at most {MAX_TIMEOUT:.0f}")
    if not (isinstance(memory_bytes, int) and MIN_MEMORY <= memory_bytes < 1 << 62):
        raise ExecutionError(f"memory_bytes is {memory_bytes!r}: Python itself needs {MIN_MEMORY}, give at least that")
    source = code.encode("utf-8", "surrogatepass")
    if len(source) > MAX_CODE:
        return _failure(f"the program is {len(source):,} bytes long, the limit is {MAX_CODE:,}")
    limits = Limits(float(timeout), memory_bytes)
    status = sandbox_status()
    if status.available:
        return run_contained(source, limits)[0]
    if trust_model:
        return run_trusted(source, limits)
    raise ExecutionUnavailable(
        f"Python is off, {status.reason}; it runs here only if you say that the model is trusted"
    )


def sandbox_status() -> SandboxStatus:
    """Whether programs can be contained here. The first call attacks the sandbox and takes half a second."""
    with _STATUS_LOCK:
        try:
            return _tried_status()
        except TimeoutError as error:  # this machine is busy, which says nothing about tomorrow: it is not kept
            return SandboxStatus(False, str(error), ())


_STATUS_LOCK = threading.Lock()


@functools.cache
def _tried_status() -> SandboxStatus:
    if sys.platform != "linux" or platform.machine() not in AUDIT_ARCH or sys.maxsize < 1 << 32:
        here = f"{platform.system()} on {platform.machine()}"
        return SandboxStatus(False, f"the sandbox needs Linux on {' or '.join(AUDIT_ARCH)} and this is {here}", ())
    try:
        return _attack_sandbox()
    except TimeoutError:
        raise
    except (ExecutionError, OSError) as error:
        return SandboxStatus(False, f"the sandbox did not start: {' '.join(str(error).split())}", ())


# Each must raise or return nothing. `secret` and `parent` are put in; the file is this process's own. Under namespaces
# the program may write at the same path, in a folder of its own: whether the file was reached is looked at from here.
ATTACKS = """
import ctypes, mmap, os, socket
attacks = {
    "read a file": lambda: open(secret).read() == "secret",
    "write a file": lambda: open(secret, "w").write("") or None,
    "list a folder": lambda: len(os.listdir(os.path.dirname(secret))) > 1,
    "truncate a file": lambda: os.truncate(secret, 0) is None,
    "change a mode": lambda: os.chmod(secret, 0o777) is None,
    "open a socket": lambda: socket.socket(),
    "start a process": lambda: os.fork() or os._exit(0),
    "run a program": lambda: os.execv("/bin/true", ["true"]),
    "signal the parent": lambda: os.kill(parent, 0) is None,
    "map machine code": lambda: mmap.mmap(-1, 4096, prot=7),
}
for name, attack in attacks.items():
    try:
        if attack():
            print(name)
    except OSError:
        pass
"""


def _attack_sandbox() -> SandboxStatus:
    """Try what must not work. A sandbox that lets anything through counts as none."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("secret")
        file.flush()
        known = f"secret, parent = {file.name!r}, {os.getpid()}\n"
        result, _ = run_contained((known + ATTACKS).encode(), Limits(20.0, 256 << 20, native=True))
        unchanged = Path(file.name).read_text() == "secret" and Path(file.name).stat().st_mode & 0o777 == 0o600
    if result.timed_out:
        raise TimeoutError("the sandbox took over 20 seconds to start: the machine is too busy, try again")
    lost = result.stdout.split("\n")[:-1] + ([] if unchanged else ["a file changed"])
    if lost or not result.success:
        return SandboxStatus(False, f"the sandbox failed its self-test: {', '.join(lost) or result.error}", ())
    # A call that only an escape makes ends the process; and only a program that ran to its end succeeds.
    for code, expected in (
        (b"import ctypes\nctypes.CDLL(None).ptrace(0, 0, 0, 0)", False),
        (b"raise SystemExit(0)", False),
        (b"import os\nos._exit(0)", False),
        (b"", True),
    ):
        result, held = run_contained(code, Limits(20.0, 256 << 20, native=b"ptrace" in code))
        if result.timed_out:
            raise TimeoutError("the sandbox took over 20 seconds to start: the machine is too busy, try again")
        if result.success is not expected:
            return SandboxStatus(False, f"the sandbox failed its self-test: wrong verdict on {code.decode()!r}", ())
    return SandboxStatus(True, f"contained by {', '.join(held)}", held)


def run_contained(source: bytes, limits: Limits) -> tuple[ExecutionResult, tuple[str, ...]]:
    """Run a program in the sandbox: (result, what contained it). Linux only; the caller asked `sandbox_status`.

    Raises ExecutionUnavailable if the child could not lock itself: then the program was never sent to it.
    """
    began = time.monotonic()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        # PYTHONPATH puts sandbox/site.py where `import site` finds it, if the frozen copy inside Python is left aside.
        environment = {"PYTHONPATH": str(SANDBOX), "PYTHONINSPECT": "1", "PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8"}
        environment |= {"MALLOC_ARENA_MAX": "1"}  # else each thread of the program reserves 64 MB of address space
        if "LD_LIBRARY_PATH" in os.environ:  # some installations find libpython only with it
            environment["LD_LIBRARY_PATH"] = os.environ["LD_LIBRARY_PATH"]
        python = getattr(sys, "_base_executable", None) or sys.executable  # not a virtual environment's: no packages
        process = subprocess.Popen(
            [python, "-s", "-P", "-B", "-X", "utf8", "-X", "frozen_modules=off", "-"],
            stdin=theirs.fileno(), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env=environment, cwd="/", start_new_session=True,
        )  # fmt: skip
        theirs.close()
        streams = Streams(process)
        token = secrets.token_hex(16)
        try:
            # Starting is on the clock too, but not on the program's: on a busy machine it takes a while.
            held = _start(ours, process.pid, token, limits, began + limits.timeout + SLACK)
            if held is not None:
                _send_program(ours, source, limits.timeout)
                streams.wait(min(time.monotonic() + limits.timeout, began + limits.timeout + SLACK))
            timed_out = held != () and process.poll() is None
        finally:
            process.kill()
            process.wait()
            streams.close()
        if held == ():
            cause = streams.stderr.text().strip().rsplit("\n", 1)[-1]
            raise ExecutionUnavailable(f"the child could not lock itself ({cause or 'it said nothing'})")
        done = process.returncode == 0 and _receive(ours) == token.encode()
    for stream in (streams.stdout, streams.stderr):
        stream.drop_tail(token.encode())
    return _result(process.returncode, streams, done, timed_out, limits), held or ()


def _start(ours: socket.socket, pid: int, token: str, limits: Limits, deadline: float) -> tuple[str, ...] | None:
    """Send the request and wait until the child is locked: what holds; () if it could not; None if time ran out."""
    request = {
        "token": token,
        "parent": os.getpid(),
        "filter": build_filter(platform.machine(), pid).hex(),
        "memory_bytes": limits.memory_bytes,
        "cpu_seconds": math.ceil(limits.timeout) + 1,  # a second guard, should this process be stopped or die
        "namespaces": limits.namespaces,
        "native": limits.native,
    }
    body = json.dumps(request).encode()
    answer = b""
    try:
        ours.sendall(struct.pack(">I", len(body)) + body)
        while not answer.endswith(b"\n"):
            ours.settimeout(max(deadline - time.monotonic(), 0.001))
            part = ours.recv(4096)
            if not part:
                return ()
            answer += part
    except TimeoutError:
        return None
    except OSError:
        return ()  # the child is gone
    return tuple(answer.decode().strip().split(", "))


def _send_program(ours: socket.socket, source: bytes, timeout: float) -> None:
    """The program, then end of file. A child that stops reading (a syntax error near the top) is no error."""
    with contextlib.suppress(OSError):
        ours.settimeout(timeout)
        ours.sendall(source)
        ours.shutdown(socket.SHUT_WR)


def _receive(ours: socket.socket) -> bytes:
    """What the dead child left on the socket, as far as a verdict could reach."""
    data = b""
    # An error is a child that died with unread input, or another thread's new child that holds the socket for a moment.
    with contextlib.suppress(OSError):
        ours.settimeout(0.1)
        while len(data) < 4096 and (part := ours.recv(4096)):
            data += part
    return data


def run_trusted(source: bytes, limits: Limits) -> ExecutionResult:
    """Run a program with the user's own rights, in an empty folder that is removed afterwards. Any platform."""
    token = secrets.token_hex(16).encode()
    folder = Path(tempfile.mkdtemp(prefix="nanochat-"))
    verdict, work = folder / "verdict", folder / "work"
    work.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-I", "-B", "-X", "utf8", str(SANDBOX / "trusted.py"), str(verdict), str(limits.memory_bytes)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=work, start_new_session=True,
    )  # fmt: skip
    streams = Streams(process)
    try:
        deadline = time.monotonic() + limits.timeout
        assert process.stdin  # asked to be a pipe
        with contextlib.suppress(BrokenPipeError), process.stdin:
            process.stdin.write(token + b"\n" + source)
        streams.wait(deadline)
        timed_out = process.poll() is None
        done = not timed_out and verdict.is_file() and verdict.read_bytes() == token
    finally:
        kill_session(process)
        streams.close()
        remove_tree(folder, seconds=0.3)
    return _result(process.returncode, streams, done, timed_out, limits)


def _result(code: int, streams: Streams, done: bool, timed_out: bool, limits: Limits) -> ExecutionResult:
    """Put together what is known of a run that is over."""
    out, err = streams.stdout, streams.stderr
    success = done and not timed_out
    error = None if success else _cause(code, err.text(), timed_out, limits)
    return ExecutionResult(success, out.text(), err.text(), timed_out, out.truncated or err.truncated, error)


def _cause(code: int, stderr: str, timed_out: bool, limits: Limits) -> str:
    """Why a program did not succeed, in one line."""
    lines = [line for line in stderr.splitlines() if line.strip()]
    if timed_out:
        return f"stopped after {limits.timeout:g} seconds"
    if code == -SIGSYS:
        return "killed: it made a system call that the sandbox forbids"
    if code < 0:
        return f"killed by signal {-code}"
    if code != 0 and lines:
        return lines[-1].strip()[:300]
    return f"it ended with exit code {code} before its end"


def _failure(error: str) -> ExecutionResult:
    """The result of a program that was not started."""
    return ExecutionResult(False, "", "", False, False, error)
