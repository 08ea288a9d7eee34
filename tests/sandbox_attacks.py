"""The battery: programs that try to get out of the sandbox, and what is there for them to reach.

Each attack prints LOST if it got what it wanted. What it might do without saying so is looked at from outside: see
`Prey.harm`. Standard library only: the battery also runs as another user, with another interpreter.
"""

import contextlib
import os
import platform
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nanochat.sandbox import seccomp


@dataclass(frozen=True)
class Attack:
    """A program and what must come of it."""

    name: str
    code: str | bytes
    success: bool | None = None  # the verdict that must come; None: either, if only nothing is lost
    native: bool = False  # with ctypes left in, to make system calls by number
    timeout: float = 5.0  # short where the attack only ends by being stopped
    timed_out: bool = False
    fatal: bool = False  # the filter of system calls must kill it
    reach: bool = False  # it is after files or processes: the battery also runs it without namespaces every time


@dataclass
class Prey:
    """What attacks are after: a file, a folder, the environment, two processes, a server, an open descriptor."""

    folder: Path
    bystander: subprocess.Popen[bytes]
    server: socket.socket
    spare: int
    before: dict[str, object] = field(default_factory=dict)

    @property
    def secret(self) -> Path:
        return self.folder / "secret.txt"

    def prelude(self) -> str:
        """Variables that every attack finds."""
        values = {
            "secret": str(self.secret),
            "parent": os.getpid(),
            "bystander": self.bystander.pid,
            "port": self.server.getsockname()[1],
            "repo": str(Path(__file__).parents[1]),
            "home": str(Path.home()),
            "NR": {
                name: number
                for text in (seccomp.ALLOWED, seccomp.CONDITIONAL, seccomp.FATAL, seccomp.ABSENT, OTHERS)
                for name, number in seccomp.table(text, platform.machine()).items()
            },
        }
        return "".join(f"{name} = {value!r}\n" for name, value in values.items())

    def look(self) -> dict[str, object]:
        """Everything outside that an attack could have changed."""
        library = os.stat(os.__file__)
        return {
            "secret": self.secret.read_text(),
            "mode": self.secret.stat().st_mode,
            "date": self.secret.stat().st_mtime,
            "folder": sorted(os.listdir(self.folder)),
            "shared memory": sorted(os.listdir("/dev/shm")) if os.path.isdir("/dev/shm") else [],
            "library": (library.st_mode, library.st_mtime, library.st_size),
            "bystander": self.bystander.poll(),
            "priority": os.getpriority(os.PRIO_PROCESS, 0),
            "children": children() - {self.bystander.pid},
        }

    def harm(self) -> list[str]:
        """What is no longer as it was, in words."""
        now = self.look()
        lost = [f"{name}: {was!r} became {now[name]!r}" for name, was in self.before.items() if now[name] != was]
        with contextlib.suppress(BlockingIOError):
            self.server.accept()
            lost.append("the server was reached")
        return lost


def children() -> set[int]:
    """Process ids of this process's children, dead ones that nobody collected included."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(path.read_text().rsplit(")", 1)[1].split()[1]) == os.getpid():
                found.add(int(path.parent.name))
    return found


def wait_for(condition: Callable[[], object]) -> Any:
    """Ask until the condition holds; a minute is a hang."""
    for _ in range(1200):
        try:
            if found := condition():
                return found
        except OSError:  # a process ended while it was looked at
            pass
        time.sleep(0.05)
    raise AssertionError("it did not come to pass within a minute")


@contextlib.contextmanager
def prey() -> Iterator[Prey]:
    """Lay out what attacks are after, and take it away again."""
    variable = "BATTERY_SECRET"
    had = os.environ.get(variable)
    os.environ[variable] = "secret-in-the-environment"
    spare = os.open(os.devnull, os.O_RDWR)
    os.set_inheritable(spare, True)
    server = socket.create_server(("127.0.0.1", 0))
    server.setblocking(False)
    bystander = subprocess.Popen([sys.executable, "-I", "-S", "-c", "import time; time.sleep(600)"])
    with tempfile.TemporaryDirectory(prefix="prey-") as folder:
        found = Prey(Path(folder), bystander, server, spare)
        found.secret.write_text("secret-in-a-file")
        found.before = found.look()
        try:
            yield found
        finally:
            bystander.send_signal(signal.SIGKILL)
            bystander.wait()
            server.close()
            os.close(spare)
            if had is None:
                del os.environ[variable]


# Calls that no table of the filter names: each must be refused by default.
OTHERS = """
execve 59 221 | fork 57 - | vfork 58 - | memfd_create 319 279 | socket 41 198 | connect 42 203 | bind 49 200
sendmsg 46 211 | shmget 29 194 | msgget 68 186 | rt_sigqueueinfo 129 138 | tkill 200 130 | setpriority 141 140
sched_setaffinity 203 122 | setuid 105 146 | setgroups 116 159 | capset 126 91 | seccomp 317 277 | truncate 76 45
fchmodat 268 53 | fchownat 260 54 | utimensat 280 88 | linkat 265 37 | mknodat 259 33 | inotify_init1 294 26
fanotify_init 300 262 | setxattr 188 5 | syslog 103 116 | vhangup 153 58 | migrate_pages 256 238 | timer_create 222 107
landlock_create_ruleset 444 444 | process_madvise 440 440 | setsid 112 157 | pkey_mprotect 329 288 | mlockall 151 230
"""

HELPERS = """
def tries(*attempts):
    # An attack of several attempts: each must raise OSError, ImportError or MemoryError, or return something false.
    for number, attempt in enumerate(attempts):
        try:
            got = attempt()
        except (OSError, ImportError, MemoryError, ValueError):
            continue
        if got:
            print("LOST", number, repr(got)[:80])
"""

NATIVE = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
def call(name, *arguments):
    # A raw system call: its result, or None with the error left in errno.
    result = libc.syscall(*[ctypes.c_long(x) if isinstance(x, int) else x for x in (NR[name], *arguments)])
    return None if result < 0 else result + 1  # so that 0, which is success, is true
"""


def program(attack: Attack, found: Prey) -> bytes:
    """The attack with the variables and helpers it uses."""
    if isinstance(attack.code, bytes):
        return attack.code
    return (found.prelude() + HELPERS + (NATIVE if attack.native else "") + attack.code).encode(
        "utf-8", "surrogatepass"
    )


def fatal(names: str) -> list[Attack]:
    """Raw calls that only an escape makes: the process dies of the first one."""
    return [
        Attack(f"call {name}", f"call({name!r}, {arguments})\nprint('LOST')", success=False, native=True, fatal=True)
        for name, arguments in (line.split(" ", 1) for line in names.strip().splitlines())
    ]


FATAL_CALLS = fatal("""
ptrace 16, parent, 0, 0
process_vm_readv parent, 0, 0, 0, 0, 0
process_vm_writev parent, 0, 0, 0, 0, 0
bpf 0, 0, 0
userfaultfd 0
io_uring_setup 8, bytes(120)
keyctl 0, -3, 1
mount 0, b"/", 0, 4096, 0
umount2 b"/", 2
chroot b"/"
unshare 0x10000000
setns 0, 0
pidfd_open parent, 0
perf_event_open bytes(128), 0, -1, -1, 0
open_by_handle_at -100, bytes(64), 0
execveat -100, b"/bin/true", 0, 0, 0
finit_module 0, b"", 0
personality 0x0400000
""")
