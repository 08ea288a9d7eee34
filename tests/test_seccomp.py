"""The filter of system calls, for both architectures, run by an interpreter of classic BPF written here."""

import re
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.sandbox import seccomp
from nanochat.sandbox.seccomp import ALLOW, AUDIT_ARCH, EPERM, ERRNO, KILL

PID = 4321
REFUSE, MISSING = ERRNO | EPERM, ERRNO | seccomp.ENOSYS
FILTERS = {machine: seccomp.build_filter(machine, PID) for machine in AUDIT_ARCH}
NUMBERS = {
    machine: {
        name: number
        for text in (seccomp.ALLOWED, seccomp.CONDITIONAL, seccomp.FATAL, seccomp.ABSENT)
        for name, number in seccomp.table(text, machine).items()
    }
    for machine in AUDIT_ARCH
}
both = pytest.mark.parametrize("machine", list(AUDIT_ARCH))


def evaluate(program: bytes, architecture: int, number: int, arguments: tuple[int, ...] = ()) -> int:
    """What the kernel would answer: a classic BPF machine, as far as filters of system calls may use it."""
    data = struct.pack("<iIQ6Q", number, architecture, 0x7000, *(*arguments, *[0] * (6 - len(arguments))))
    code = list(struct.iter_unpack("=HBBI", program))
    accumulator = at = 0
    for _ in range(len(code)):  # every jump is forward
        operation, if_true, if_false, value = code[at]
        at += 1
        if operation == 0x20:  # ld [value]
            assert value % 4 == 0
            accumulator = struct.unpack_from("<I", data, value)[0]
        elif operation == 0x54:  # and #value
            accumulator &= value
        elif operation == 0x15:  # jeq #value
            at += if_true if accumulator == value else if_false
        elif operation == 0x35:  # jge #value
            at += if_true if accumulator >= value else if_false
        elif operation == 0x06:  # ret #value
            return value
        else:
            raise AssertionError(f"instruction {operation:#x} is not one that a filter may hold")
    raise AssertionError("the program ran off its end")


def ask(machine: str, name: str, *arguments: int) -> int:
    """The answer to a call by name; where the architecture lacks the call, what it says to its nearest form."""
    return evaluate(FILTERS[machine], AUDIT_ARCH[machine], NUMBERS[machine][name], arguments)


@both
def test_the_kernel_would_take_it(machine: str) -> None:
    code = list(struct.iter_unpack("=HBBI", FILTERS[machine]))
    assert len(code) <= 4096
    assert code[-1][0] == 0x06
    for at, (operation, if_true, if_false, _) in enumerate(code):
        if operation in (0x15, 0x35):
            assert at + 1 + max(if_true, if_false) < len(code)


def test_another_machine_has_no_filter() -> None:
    with pytest.raises(ValueError, match="riscv64"):
        seccomp.build_filter("riscv64", PID)


@both
def test_names_stand_in_one_table(machine: str) -> None:
    tables = (seccomp.ALLOWED, seccomp.CONDITIONAL, seccomp.FATAL, seccomp.ABSENT)
    numbers = [number for text in tables for number in seccomp.table(text, machine).values()]
    assert len(numbers) == len(set(numbers))
    assert set(seccomp.conditions(PID)) >= set(seccomp.table(seccomp.CONDITIONAL, machine))


@both
def test_plain_answers(machine: str) -> None:
    for text, answer in ((seccomp.ALLOWED, ALLOW), (seccomp.FATAL, KILL), (seccomp.ABSENT, MISSING)):
        for name in seccomp.table(text, machine):
            assert ask(machine, name) == answer, name


@both
@given(number=st.integers(0, 0x3FFFFFFF) | st.integers(0, 600), arguments=st.tuples(*[st.integers(0, 2**64 - 1)] * 6))
@settings(max_examples=200, deadline=None)
def test_calls_in_no_table_are_refused(machine: str, number: int, arguments: tuple[int, ...]) -> None:
    if number not in NUMBERS[machine].values():
        assert evaluate(FILTERS[machine], AUDIT_ARCH[machine], number, arguments) == REFUSE


@both
@given(number=st.integers(0, 2**31 - 1) | st.integers(0, 500), other=st.integers(0, 2**32 - 1))
@settings(max_examples=200, deadline=None)
def test_another_architecture_is_death(machine: str, number: int, other: int) -> None:
    """A 32-bit call (int 0x80) arrives as architecture 0x40000003, where the same numbers mean other calls."""
    for architecture in (other, 0x40000003, 0x40000028, *AUDIT_ARCH.values()):
        if architecture != AUDIT_ARCH[machine]:
            assert evaluate(FILTERS[machine], architecture, number) == KILL


@given(number=st.integers(0, 600))
@settings(deadline=None)
def test_the_x32_abi_is_death(number: int) -> None:
    assert evaluate(FILTERS["x86_64"], AUDIT_ARCH["x86_64"], number | 0x40000000) == KILL


@given(number=st.integers(-(2**31), -1))
@settings(deadline=None)
def test_negative_numbers_are_death_or_refused(number: int) -> None:
    assert evaluate(FILTERS["x86_64"], AUDIT_ARCH["x86_64"], number) == KILL
    assert evaluate(FILTERS["aarch64"], AUDIT_ARCH["aarch64"], number) == REFUSE


words = st.integers(0, 2**64 - 1)
small = st.integers(0, 4096)


@both
@given(flags=words | small | st.integers(0, 2**25))
@settings(max_examples=300, deadline=None)
def test_clone_makes_threads_only(machine: str, flags: int) -> None:
    thread, optional = 0x100 | 0x200 | 0x400 | 0x800 | 0x10000 | 0x40000, 0x80000 | 0x100000 | 0x200000
    for tried in (flags, flags | thread, thread | flags & optional):
        allowed = tried & thread == thread and not tried & ~(thread | optional | 0x400000 | 0x1000000)
        assert ask(machine, "clone", tried) == (ALLOW if allowed else REFUSE)
    assert ask(machine, "clone", 0x3D0F00) == ALLOW  # what pthread_create asks for
    assert ask(machine, "clone", 17) == REFUSE  # what fork asks for
    assert ask(machine, "clone", 0x4111) == REFUSE  # what vfork asks for


@both
@given(who=words | st.sampled_from([PID, 0, 1, 2**64 - 1, 2**32 - 1, PID | 1 << 32]), what=words)
@settings(max_examples=200, deadline=None)
def test_signals_reach_the_process_itself(machine: str, who: int, what: int) -> None:
    """The kernel reads a process number from the low 32 bits."""
    expected = ALLOW if who & 0xFFFFFFFF == PID else REFUSE
    assert ask(machine, "kill", who, what) == expected
    assert ask(machine, "tgkill", who, what, 9) == expected


@both
@given(protection=words | small)
@settings(max_examples=200, deadline=None)
def test_no_memory_becomes_executable(machine: str, protection: int) -> None:
    expected = REFUSE if protection & 4 else ALLOW
    assert ask(machine, "mmap", 0, 4096, protection, 0x22, 2**64 - 1) == expected
    assert ask(machine, "mprotect", 4096, 4096, protection) == expected


@both
@given(flags=words | st.integers(0, 0o4000000))
@settings(max_examples=300, deadline=None)
def test_truncating_needs_writing(machine: str, flags: int) -> None:
    expected = ALLOW if not flags & 0o1000 or flags & 3 in (1, 2) else REFUSE
    assert ask(machine, "openat", 0, 0, flags) == expected
    if machine == "x86_64":
        assert ask(machine, "open", 0, flags) == expected


@both
@given(value=words | small)
@settings(max_examples=200, deadline=None)
def test_the_rest_of_the_conditions(machine: str, value: int) -> None:
    low = value & 0xFFFFFFFF
    assert ask(machine, "prlimit64", value, 7, 0) == (ALLOW if low in (0, PID) else REFUSE)
    assert ask(machine, "prlimit64", 0, 7, value) == (ALLOW if value == 0 else REFUSE)
    assert ask(machine, "prctl", value) == (ALLOW if low in (15, 16) else REFUSE)
    assert ask(machine, "socketpair", value, 1) == (ALLOW if low == 1 else REFUSE)
    assert ask(machine, "sendto", 3, 0, 0, 0, value) == (ALLOW if value == 0 else REFUSE)
    assert ask(machine, "fcntl", 3, value) == (ALLOW if low in (*range(8), 36, 37, 38, 1030) else REFUSE)
    ioctls = {0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451}
    assert ask(machine, "ioctl", 1, value) == (ALLOW if low in ioctls else REFUSE)


@both
def test_dangerous_commands_are_refused(machine: str) -> None:
    for command in (
        8,
        10,
        15,
        1026,
        1031,
        1033,
    ):  # F_SETOWN, F_SETSIG, F_SETOWN_EX, F_NOTIFY, F_SETPIPE_SZ, F_ADD_SEALS
        assert ask(machine, "fcntl", 3, command) == REFUSE
    for request in (0x5412, 0x540E, 0x8912, 0x894C):  # TIOCSTI, TIOCSCTTY, SIOCGIFCONF, and a namespace of a socket
        assert ask(machine, "ioctl", 0, request) == REFUSE
    for option in (1, 4, 8, 22, 23, 24, 28, 38, 47, 0x59616D61):
        assert ask(machine, "prctl", option) == REFUSE


@both
def test_numbers_are_the_kernels(machine: str) -> None:
    """Where this machine has the kernel's own headers, every number is looked up there."""
    headers = {
        "x86_64": ["/usr/include/x86_64-linux-gnu/asm/unistd_64.h", "/usr/include/asm/unistd_64.h"],
        "aarch64": ["/usr/include/asm-generic/unistd.h"],
    }
    found = [path for path in map(Path, headers[machine]) if path.is_file()]
    if not found:
        pytest.skip("the kernel's headers are not installed")
    lines = re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", found[0].read_text())
    known = {name: int(number) for name, number in reversed(lines)}
    known.setdefault("newfstatat", known.get("fstatat", -1))
    wrong = {name: number for name, number in NUMBERS[machine].items() if name in known and known[name] != number}
    assert not wrong
    assert len(known.keys() & NUMBERS[machine].keys()) > 100
