"""The filter of system calls: an allow-list, assembled to classic BPF for x86_64 and aarch64.

Landlock says which files a process may open. This says what it may ask of the kernel at all. The kernel runs the
filter at every system call, over `struct seccomp_data`: the call's number, the architecture, six arguments. There are
four answers: allow; EPERM, which Python turns into a PermissionError; ENOSYS, where the C library has another way;
and death, for calls that only an escape makes. A call that is in no table gets EPERM.

Machine code that was not there at the start cannot be added: no mapping may become executable. Processes cannot be
made, only threads. Signals reach this process alone. Dates, owners and modes of files stay as they are, because
Landlock does not guard those.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

# Opcodes of classic BPF (linux/filter.h), and what a filter may return (linux/seccomp.h).
LOAD, AND, EQUAL, AT_LEAST, RETURN = 0x20, 0x54, 0x15, 0x35, 0x06
ALLOW, KILL, ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
EPERM, ENOSYS = 1, 38
NUMBER_AT, ARCH_AT, ARGS_AT = 0, 4, 16  # offsets in struct seccomp_data
X32_BIT = 0x40000000  # the x32 ABI: other numbers under the x86_64 architecture
AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

# name, number on x86_64, number on aarch64; "-" where the architecture has no such call.
ALLOWED = """
read 0 63 | write 1 64 | readv 19 65 | writev 20 66 | pread64 17 67 | pwrite64 18 68 | preadv 295 69 | pwritev 296 70
lseek 8 62 | close 3 57 | close_range 436 436 | dup 32 23 | dup2 33 - | dup3 292 24 | pipe 22 - | pipe2 293 59
eventfd2 290 19 | fstat 5 80 | stat 4 - | lstat 6 - | newfstatat 262 79 | statx 332 291 | statfs 137 43
fstatfs 138 44 | getdents64 217 61 | getcwd 79 17 | chdir 80 49 | fchdir 81 50 | access 21 - | faccessat 269 48
faccessat2 439 439 | readlink 89 - | readlinkat 267 78 | mkdir 83 - | mkdirat 258 34 | rmdir 84 - | unlink 87 -
unlinkat 263 35 | rename 82 - | renameat 264 38 | renameat2 316 276 | symlink 88 - | symlinkat 266 36
ftruncate 77 46 | fallocate 285 47 | fsync 74 82 | fdatasync 75 83 | flock 73 32 | sendfile 40 71
copy_file_range 326 285 | umask 95 166 | fadvise64 221 223 | poll 7 - | ppoll 271 73 | select 23 - | pselect6 270 72
epoll_create1 291 20 | epoll_ctl 233 21 | epoll_wait 232 - | epoll_pwait 281 22 | recvfrom 45 207 | shutdown 48 210
getsockname 51 204 | brk 12 214 | munmap 11 215 | mremap 25 216 | madvise 28 233 | futex 202 98
set_robust_list 273 99 | rseq 334 293 | set_tid_address 218 96 | sched_yield 24 124 | sched_getaffinity 204 123
membarrier 324 283 | getcpu 309 168 | rt_sigaction 13 134 | rt_sigprocmask 14 135 | rt_sigreturn 15 139
rt_sigpending 127 136 | rt_sigtimedwait 128 137 | rt_sigsuspend 130 133 | sigaltstack 131 132 | pause 34 - | alarm 37 -
setitimer 38 103 | getitimer 36 102 | restart_syscall 219 128 | nanosleep 35 101 | clock_nanosleep 230 115
clock_gettime 228 113 | clock_getres 229 114 | gettimeofday 96 169 | time 201 - | times 100 153 | getpid 39 172
getppid 110 173 | gettid 186 178 | getuid 102 174 | geteuid 107 175 | getgid 104 176 | getegid 108 177
getgroups 115 158 | getresuid 118 148 | getresgid 120 150 | getpgrp 111 - | getrlimit 97 163 | getrusage 98 165
sysinfo 99 179 | uname 63 160 | getrandom 318 278 | wait4 61 260 | waitid 247 95 | exit 60 93 | exit_group 231 94
"""
CONDITIONAL = """
open 2 - | openat 257 56 | clone 56 220 | kill 62 129 | tgkill 234 131 | prlimit64 302 261 | mmap 9 222
mprotect 10 226 | ioctl 16 29 | fcntl 72 25 | prctl 157 167 | socketpair 53 199 | sendto 44 206
"""
FATAL = """
ptrace 101 117 | process_vm_readv 310 270 | process_vm_writev 311 271 | bpf 321 280 | userfaultfd 323 282
io_uring_setup 425 425 | io_uring_enter 426 426 | io_uring_register 427 427 | keyctl 250 219 | add_key 248 217
request_key 249 218 | mount 165 40 | umount2 166 39 | pivot_root 155 41 | chroot 161 51 | unshare 272 97 | setns 308 268
fsopen 430 430 | fsconfig 431 431 | fsmount 432 432 | fspick 433 433 | move_mount 429 429 | open_tree 428 428
mount_setattr 442 442 | init_module 175 105 | finit_module 313 273 | delete_module 176 106 | kexec_load 246 104
kexec_file_load 320 294 | perf_event_open 298 241 | open_by_handle_at 304 265 | name_to_handle_at 303 264
pidfd_open 434 434 | pidfd_getfd 438 438 | pidfd_send_signal 424 424 | execveat 322 281 | memfd_secret 447 447
modify_ldt 154 - | iopl 172 - | ioperm 173 - | swapon 167 224 | swapoff 168 225 | reboot 169 142 | acct 163 89
settimeofday 164 170 | clock_settime 227 112 | personality 135 92
"""
# New calls with an old form that this filter can read: told they do not exist, the C library takes the old one.
ABSENT = "clone3 435 435 | openat2 437 437 | epoll_pwait2 441 441 | fchmodat2 452 452 | futex_waitv 449 449"

LOW, WHOLE = 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF  # the kernel reads an int argument from the low 32 bits only


@dataclass(frozen=True)
class Condition:
    """An argument of a call, under a mask, has one value."""

    argument: int  # 0 to 5
    value: int
    mask: int = LOW

    def words(self) -> Iterator[tuple[int, int, int]]:
        """(offset in seccomp_data, mask, value) per 32-bit word that the mask touches; BPF sees no wider ones."""
        for half in (0, 1):
            mask, value = self.mask >> 32 * half & LOW, self.value >> 32 * half & LOW
            if mask:
                yield ARGS_AT + 8 * self.argument + 4 * half, mask, value


Alternatives = list[list[Condition]]  # allowed if every condition of at least one list holds

# CLONE_VM, FS, FILES, SIGHAND, THREAD, SYSVSEM must be there; SETTLS, PARENT_SETTID, CHILD_CLEARTID, DETACHED and
# CHILD_SETTID may; any other flag makes more than a thread.
THREAD_FLAGS, FREE_THREAD_FLAGS = 0x50F00, 0x1780000
O_ACCESS, O_TRUNCATE = 3, 0o1000
PROT_EXEC = 4
TERMINAL_AND_QUEUE = (
    0x5401,
    0x5413,
    0x541B,
    0x5421,
    0x5450,
    0x5451,
)  # TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FIO(N)CLEX
DESCRIPTOR = (0, 1, 2, 3, 4, 5, 6, 7, 36, 37, 38, 1030)  # duplicate, flags, locks; not F_SETOWN, which sends signals


class UnknownMachineError(ValueError):
    """There is no table of system calls for this processor."""


def conditions(pid: int) -> dict[str, Alternatives]:
    """When each conditional call is allowed, in the process numbered `pid`."""
    # Truncating while opening for reading asks Linux for no write access, and early Landlock for no right at all.
    opening = [(O_TRUNCATE, 0), (O_ACCESS, 1), (O_ACCESS, 2)]
    return {
        "open": [[Condition(1, value, mask)] for mask, value in opening],
        "openat": [[Condition(2, value, mask)] for mask, value in opening],
        "clone": [[Condition(0, THREAD_FLAGS, WHOLE ^ FREE_THREAD_FLAGS)]],
        "kill": [[Condition(0, pid)]],
        "tgkill": [[Condition(0, pid)]],
        "prlimit64": [[Condition(0, who), Condition(2, 0, WHOLE)] for who in (0, pid)],  # read limits, set none
        "mmap": [[Condition(2, 0, PROT_EXEC)]],
        "mprotect": [[Condition(2, 0, PROT_EXEC)]],
        "ioctl": [[Condition(1, request)] for request in TERMINAL_AND_QUEUE],
        "fcntl": [[Condition(1, command)] for command in DESCRIPTOR],
        "prctl": [[Condition(0, name)] for name in (15, 16)],  # set and get the thread's name
        "socketpair": [[Condition(0, 1)]],  # AF_UNIX: a pair that knows only itself; asyncio wakes itself with one
        "sendto": [[Condition(4, 0, WHOLE)]],  # to where the socket is connected, never to an address
    }


def table(text: str, machine: str) -> dict[str, int]:
    """{name: number} of one of the tables above on one architecture."""
    column = 1 + list(AUDIT_ARCH).index(machine)
    rows = [cell.split() for cell in text.replace("\n", "|").split("|") if cell.strip()]
    return {row[0]: int(row[column]) for row in rows if row[column] != "-"}


def build_filter(machine: str, pid: int) -> bytes:
    """The BPF program for a process, 8 bytes an instruction, as `struct sock_filter` wants them.

    Raises UnknownMachineError for a machine other than x86_64 and aarch64.
    """
    if machine not in AUDIT_ARCH:
        raise UnknownMachineError(
            f"no filter of system calls for {machine!r}: there is one for {' and '.join(AUDIT_ARCH)}"
        )
    program = [(LOAD, 0, 0, ARCH_AT), (EQUAL, 1, 0, AUDIT_ARCH[machine]), (RETURN, 0, 0, KILL), (LOAD, 0, 0, NUMBER_AT)]
    if machine == "x86_64":
        program += [(AT_LEAST, 0, 1, X32_BIT), (RETURN, 0, 0, KILL)]
    answers = ((ALLOWED, ALLOW), (FATAL, KILL), (ABSENT, ERRNO | ENOSYS))
    for text, answer in answers:
        for number in table(text, machine).values():
            program += [(EQUAL, 0, 1, number), (RETURN, 0, 0, answer)]
    when = conditions(pid)
    for name, number in table(CONDITIONAL, machine).items():
        block = _alternatives(when[name])
        program += [(EQUAL, 0, len(block), number), *block]
    program.append((RETURN, 0, 0, ERRNO | EPERM))
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)


def _alternatives(lists: Alternatives) -> list[tuple[int, int, int, int]]:
    """Instructions that return ALLOW if every condition of a list holds, else EPERM."""
    program = []
    for all_of in lists:
        tests = [word for condition in all_of for word in condition.words()]
        steps = [[(LOAD, 0, 0, at), (AND, 0, 0, mask), (EQUAL, 0, 0, value)] for at, mask, value in tests]
        body = [step for group in steps for step in group] + [(RETURN, 0, 0, ALLOW)]
        for index, (code, _, _, value) in enumerate(body):
            if code == EQUAL:  # where it does not hold: past the rest of this list
                body[index] = (code, 0, len(body) - index - 1, value)
        program += body
    return [*program, (RETURN, 0, 0, ERRNO | EPERM)]
