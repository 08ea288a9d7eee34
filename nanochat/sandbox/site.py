"""The first thing that runs in the child: it locks its own process, then steps aside for the program.

Python imports a module named `site` before it looks at the program. `nanochat.execution` puts this one first on the
path, for three reasons. If anything here raises, the interpreter ends without running the program. When it is done,
none of its frames stay below the program, which Python then runs from C: there is nothing to climb to. And no start-up
file of the machine or of an installed package runs.

In order: modules of machine code (later the filter forbids new ones), limits, namespaces where the kernel grants them,
Landlock, no capabilities, the verdict, the filter of system calls. Then one line to the parent: what holds. Only then
does the parent send the program.

The verdict: how does the parent learn that the program ran to its end, when the program can end the process with any
exit code, and can write to any descriptor? `on_exit` of the C library calls `dprintf(exit code, token)` in an orderly
exit. With exit code 0 the token goes to descriptor 0, which is the parent's socket. The token is in no Python object.
`os._exit` is not orderly; `sys.exit(0)` counts as an exception (code 1), because PYTHONINSPECT is set.

Only the standard library, and ctypes only inside functions: this file's globals stay reachable for the program.
"""

import contextlib
import gc
import json
import os
import struct
import sys
from typing import Any

# Machine code of the standard library, loaded now or never. Names that a Python version lacks are skipped.
EXTENSIONS = (
    "_bisect _blake2 _bz2 _contextvars _csv _datetime _decimal _heapq _json _lzma _md5 _opcode _pickle _queue _random "
    "_posixsubprocess _sha1 _sha2 _sha256 _sha3 _sha512 _socket _statistics _struct _typing array binascii cmath fcntl "
    "grp math mmap pyexpat resource select unicodedata zlib"
)

CLONE_NEWNS, CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWNET = 0x00020000, 0x08000000, 0x10000000, 0x40000000
MS_NOSUID, MS_NODEV, MS_BIND, MS_REC, MS_PRIVATE = 2, 4, 4096, 16384, 1 << 18
PR_SET_PDEATHSIG, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, SECCOMP_MODE_FILTER = 1, 22, 38, 2
LANDLOCK_CREATE, LANDLOCK_ADD, LANDLOCK_RESTRICT, LANDLOCK_VERSION = 444, 445, 446, 1  # the same on all architectures
# Rights of Landlock: the first version's 13, then renaming across folders (2), truncating (3), devices (5).
READ_FILE, READ_DIR, WRITE_FILE = 1 << 2, 1 << 3, 1 << 1
RIGHTS_BY_VERSION = {1: (1 << 13) - 1, 2: 1 << 13, 3: 1 << 14, 5: 1 << 15}
NOT_IN_WORK = (1 << 0) | (1 << 6) | (1 << 9) | (1 << 10) | (1 << 11) | (1 << 15)  # execute; devices, sockets, FIFOs
WORK = "/tmp"  # the program's own folder, in memory; it exists only inside the new root
MOUNT_POINTS = ("/tmp", "/mnt", "/media", "/srv", "/home")
WORK_BYTES, WORK_FILES = 16 << 20, 1024
FILES_OPEN = 64


def enter() -> None:
    """Lock this process as the request on descriptor 0 says, and report. Raises OSError where a lock is refused."""
    import ctypes

    request = read_request()
    readable = [path for path in sys.path[1:] if os.path.isdir(path)]
    readable += [path for path in ("/usr/share/zoneinfo", "/dev/null") if os.path.exists(path)]
    del sys.path[0]
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # what was printed before a kill arrives
    for name in EXTENSIONS.split():
        with contextlib.suppress(ImportError):
            __import__(name)
    with contextlib.suppress(OSError):
        ctypes.CDLL("libgcc_s.so.1")  # glibc loads it when a daemon thread is ended, too late for the filter
    os.environ.clear()
    os.umask(0o077)

    libc = ctypes.CDLL(None, use_errno=True)
    held = ["limits"]
    set_limits(request)
    if request["namespaces"] and new_root(libc, readable):
        held.append("namespaces")
    held.append(f"landlock {restrict_files(libc, readable, WORK if 'namespaces' in held else None)}")
    drop_privileges(libc, request["parent"])
    arm_verdict(libc, request["token"])
    load_filter(libc, bytes.fromhex(request["filter"]))
    held.append("seccomp")
    del ctypes, libc
    if not request["native"]:
        forget_ctypes()
        held.append("no native code")
    os.write(0, (", ".join(held) + "\n").encode())


def read_request() -> dict[str, Any]:
    """The request: four bytes of length, then JSON. The program follows it, and is not ours to read."""
    data = b""
    size = struct.unpack(">I", os.read(0, 4))[0]
    while len(data) < size:
        part = os.read(0, size - len(data))
        if not part:
            raise EOFError("the parent went away in the middle of its request")
        data += part
    return dict(json.loads(data))


def check(libc: Any, result: int, what: str) -> int:
    """The result of a C call, or OSError saying what failed."""
    import ctypes

    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
    return result


def set_limits(request: dict[str, Any]) -> None:
    """Resource limits, hard and soft alike, so that none can be raised again."""
    import resource

    wanted = {
        resource.RLIMIT_AS: request["memory_bytes"],
        resource.RLIMIT_CPU: request["cpu_seconds"],
        resource.RLIMIT_FSIZE: WORK_BYTES,
        resource.RLIMIT_NOFILE: FILES_OPEN,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_STACK: 8 << 20,
    }
    for kind, value in wanted.items():
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, value))


def new_root(libc: Any, readable: list[str]) -> bool:
    """Give the process a file system of its own: the readable paths, and a small empty folder in memory to work in.

    False where the kernel or an administrator refuses (some distributions and containers do); then the process keeps
    the machine's root, and Landlock alone stands before it.
    """
    if any(path.startswith(WORK + "/") for path in readable):
        return False  # an interpreter under the work folder would be the program's to overwrite
    user, group = os.getuid(), os.getgid()
    if libc.unshare(CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWNET) != 0:
        return False
    try:
        for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
        parents = {str(path) for entry in readable for path in ancestors(os.path.realpath(entry))}
        root = next(path for path in MOUNT_POINTS if os.path.isdir(path) and path not in parents)
        check(libc, libc.mount(None, b"/", None, MS_REC | MS_PRIVATE, None), "private mounts")
        options = f"size={WORK_BYTES},nr_inodes={WORK_FILES},mode=755".encode()
        check(libc, libc.mount(b"none", root.encode(), b"tmpfs", MS_NOSUID | MS_NODEV, options), "tmpfs")
        for path in readable:
            place = root + path
            if os.path.isdir(path):
                os.makedirs(place, exist_ok=True)
            else:
                os.makedirs(os.path.dirname(place), exist_ok=True)
                open(place, "w").close()
            check(libc, libc.mount(os.path.realpath(path).encode(), place.encode(), None, MS_BIND | MS_REC, None), path)
        os.mkdir(root + WORK, 0o700)
    except (OSError, StopIteration):
        return False
    os.chroot(root)  # a way out needs a capability or an open folder outside: the process will have neither
    os.chdir(WORK)
    return True


def ancestors(path: str) -> list[str]:
    """The path and every folder above it."""
    parts = path.split("/")
    return ["/".join(parts[:count]) for count in range(2, len(parts) + 1)]


def restrict_files(libc: Any, readable: list[str], work: str | None) -> int:
    """Landlock: read the given paths, write in `work` (nowhere if None), nothing else. Returns the kernel's version."""
    import ctypes

    version = check(libc, libc.syscall(LANDLOCK_CREATE, None, 0, LANDLOCK_VERSION), "Landlock is not in this kernel")
    every_right = sum(right for since, right in RIGHTS_BY_VERSION.items() if version >= since)
    # struct landlock_ruleset_attr: files; connecting and binding (4); reaching abstract sockets and signals (6)
    attributes = struct.pack("=QQQ", every_right, 3, 3)[: 8 if version < 4 else 16 if version < 6 else 24]
    ruleset = check(libc, libc.syscall(LANDLOCK_CREATE, attributes, len(attributes), 0), "Landlock ruleset")
    rules = {path: READ_FILE | READ_DIR for path in readable if os.path.isdir(path)}
    rules["/dev/null"] = READ_FILE | WRITE_FILE
    if work:
        rules[work] = every_right & ~NOT_IN_WORK
    for path, rights in rules.items():
        folder = os.open(path, os.O_PATH | os.O_CLOEXEC)
        rule = struct.pack("=Qi", rights, folder)
        check(libc, libc.syscall(LANDLOCK_ADD, ruleset, 1, ctypes.c_char_p(rule), 0), f"Landlock rule for {path}")
        os.close(folder)
    check(libc, libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no new privileges")
    check(libc, libc.syscall(LANDLOCK_RESTRICT, ruleset, 0), "Landlock")
    os.close(ruleset)
    return version


def drop_privileges(libc: Any, parent: int) -> None:
    """No capability is left, even for root; and this process dies with its parent."""
    header = struct.pack("=Ii", 0x20080522, 0)  # the current version of capset, this process
    check(libc, libc.capset(header, bytes(24)), "dropping capabilities")
    check(libc, libc.prctl(PR_SET_PDEATHSIG, 9, 0, 0, 0), "death with the parent")
    if os.getppid() != parent:
        raise ProcessLookupError("the parent is gone")


def arm_verdict(libc: Any, token: str) -> None:
    """In an orderly exit, the token goes to the descriptor whose number is the exit code: 0 is the parent's socket."""
    import ctypes

    libc.strdup.restype = ctypes.c_void_p
    kept = ctypes.c_void_p(libc.strdup(token.encode()))  # outside Python's memory, never freed
    check(libc, -libc.on_exit(ctypes.cast(libc.dprintf, ctypes.c_void_p), kept), "verdict")


def load_filter(libc: Any, program: bytes) -> None:
    """Give the kernel the filter of `seccomp.py`; from here on it holds, for every thread to come."""
    import ctypes

    code = ctypes.create_string_buffer(program, len(program))
    descriptor = struct.pack("@HP", len(program) // 8, ctypes.addressof(code))  # struct sock_fprog
    check(libc, libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, descriptor, 0, 0), "seccomp")


def forget_ctypes() -> None:
    """Python code stays Python code: ctypes cannot be imported or used again, nor its remains be found in the heap.

    This guards the verdict, which machine code in the process could forge. The locks above hold without it. The hook
    cannot be removed, and without `gc` nothing leads to it.
    """

    # Constants and an exact copy of the name: a program can replace builtins, and pass a str of its own kind.
    def refuse(event: str, details: tuple[Any, ...]) -> None:
        if event[:7] == "ctypes." or (event == "import" and "_ctypes" in "".join((details[0], ""))):
            raise ImportError("ctypes is not available to a sandboxed program")
        if event[:3] == "gc.":
            raise PermissionError("the objects of the interpreter are not available to a sandboxed program")

    refuse.__code__ = refuse.__code__.replace(co_filename="<sandbox>")  # tracebacks name no path of this machine
    for name in [name for name in sys.modules if name.split(".")[0] in ("ctypes", "_ctypes")]:
        vars(sys.modules.pop(name)).clear()  # some of its classes outlive it, and lead to its functions
    gc.collect()
    sys.addaudithook(refuse)


if __name__ == "site":  # not where a tool imports it as a module of the package
    enter()
