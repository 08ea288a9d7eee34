"""What is timed: an operation with its sizes, and the work that it cannot avoid.

    case = Case("attention", "forward", {"B": 1, "T": 2048, "H": 4, "G": 4, "D": 64, "W": 512}, "float32")
    work(case).flops, work(case).bytes, estimate_bytes(case)

FLOPs are those of the matrix products over exactly the pairs that are not masked; bytes are the inputs read once and
the results written once. Nothing here allocates: a size can be judged before it is tried.

B batch, T time (or keys in the cache), H query heads, G kv heads, D head dim, W window, N rows, C channels,
V vocabulary.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from kernels.checks import KernelInputError

ITEM = {"float32": 4, "bfloat16": 2, "float16": 2}  # bytes of a number
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

# What can be timed of each operation, and the letters of its sizes.
KINDS: dict[str, tuple[str, ...]] = {
    "attention": ("forward", "backward", "training"),
    "decode_attention": ("equal lengths", "different lengths"),
    "sample": ("temperature", "top-k, recorded", "top-p, recorded", "top-p, flat", "top-k and top-p, recorded"),
    "qk_prep": ("forward", "training"),
    "linear_softcap_cross_entropy": ("training",),
}
LETTERS: dict[str, tuple[str, ...]] = {
    "attention": ("B", "T", "H", "G", "D", "W"),
    "decode_attention": ("B", "T", "H", "G", "D", "W"),
    "sample": ("B", "V"),
    "qk_prep": ("B", "T", "H", "G", "D"),
    "linear_softcap_cross_entropy": ("N", "C", "V"),
}


class BenchmarkError(KernelInputError):
    """A measurement that cannot be made: sizes that do not fit, or an environment whose times would mean nothing."""


@dataclass(frozen=True)
class Case:
    """One measurement to make."""

    op: str
    kind: str  # one of KINDS[op]: which direction, which filters
    sizes: Mapping[str, int]  # by the letters LETTERS[op]; W is -1 for full attention
    dtype: str  # of the inputs

    @property
    def shape(self) -> str:
        """The sizes in words."""
        return " ".join(f"{letter}{self.sizes[letter]}" for letter in LETTERS[self.op] if self.sizes[letter] != -1)


@dataclass(frozen=True)
class Work:
    """What no implementation can avoid."""

    flops: int  # of matrix products; 0 where there are none
    bytes: int
    unit: str  # TFLOP/s or GB/s: which of the two a person asks for


def check(case: Case) -> Case:
    """The case, if it can be timed at all. Raises BenchmarkError with the value and what it may be."""
    if case.op not in KINDS:
        raise BenchmarkError(f"op is {case.op!r}, but the operations are {', '.join(KINDS)}: correct the name")
    if case.kind not in KINDS[case.op]:
        raise BenchmarkError(f"{case.op}: kind is {case.kind!r}; it is one of {'; '.join(KINDS[case.op])}")
    if case.dtype not in ITEM:
        raise BenchmarkError(f"{case.op}: dtype is {case.dtype!r}; it is one of {', '.join(ITEM)}")
    letters = LETTERS[case.op]
    if set(case.sizes) != set(letters):
        raise BenchmarkError(f"{case.op}: sizes are {', '.join(case.sizes)}, but it needs {', '.join(letters)}")
    for letter in letters:
        lowest = -1 if letter == "W" else 1
        if not isinstance(case.sizes[letter], int) or not lowest <= case.sizes[letter] < 2**31:
            raise BenchmarkError(f"{case.op}: {letter} is {case.sizes[letter]!r}; it is an integer, at least {lowest}")
    if "G" in letters and case.sizes["H"] % case.sizes["G"]:
        raise BenchmarkError(
            f"{case.op}: H is {case.sizes['H']} and G is {case.sizes['G']}, but each kv head serves the same number of "
            f"query heads; make H a multiple of G"
        )
    if case.sizes.get("D", 2) % 2:
        raise BenchmarkError(f"{case.op}: D is {case.sizes['D']}, but a head dim is even: use 32, 64 or 128")
    return case


def pairs(T: int, W: int) -> int:
    """How many (query, key) pairs T queries see of their T keys.

    >>> pairs(4, -1), pairs(4, 1)
    (10, 7)
    """
    reach = T if W < 0 else min(W + 1, T)
    return reach * (reach + 1) // 2 + (T - reach) * reach


def lengths(case: Case) -> list[int]:
    """Keys in use per row of a decode case: all T, or spread evenly from T / 2 to T."""
    B, T = case.sizes["B"], case.sizes["T"]
    if case.kind == "equal lengths":
        return [T] * B
    return [max(1, T - (T // 2) * row // max(1, B - 1)) for row in range(B)]


def work(case: Case) -> Work:
    """FLOPs and bytes of a case."""
    s, item = case.sizes, ITEM[case.dtype]
    if case.op == "attention":
        forward = 4 * s["B"] * s["H"] * s["D"] * pairs(s["T"], s["W"])  # two products of 2 D per pair
        q, kv = s["B"] * s["T"] * s["H"] * s["D"], s["B"] * s["T"] * s["G"] * s["D"]
        there = 2 * (q + kv) * item  # q, k, v and o
        back = (4 * q + 4 * kv) * item  # q, o, do, dq; k, v, dk, dv
        # The way back takes five products where the way there takes two: the scores again, dV, dP, dQ, dK.
        flops = {"forward": forward, "backward": forward * 5 // 2, "training": forward * 7 // 2}[case.kind]
        return Work(flops, {"forward": there, "backward": back, "training": there + back}[case.kind], "TFLOP/s")
    if case.op == "decode_attention":
        seen = sum(n if s["W"] < 0 else min(n, s["W"] + 1) for n in lengths(case))
        moved = (2 * seen * s["G"] * s["D"] + 2 * s["B"] * s["H"] * s["D"]) * item
        return Work(4 * seen * s["H"] * s["D"], moved, "GB/s")
    if case.op == "sample":
        return Work(0, s["B"] * (s["V"] * item + 20), "GB/s")  # logits once; token, logprob and count out
    if case.op == "qk_prep":
        heads = s["B"] * s["T"] * (s["H"] + s["G"]) * s["D"] * item
        tables = s["T"] * s["D"] * item
        return Work(0, (2 * heads + tables) if case.kind == "forward" else (5 * heads + 2 * tables), "GB/s")
    x, w = s["N"] * s["C"], s["V"] * s["C"]
    return Work(6 * s["N"] * w, (2 * x + 2 * w) * item + 8 * s["N"], "TFLOP/s")


def input_bytes(case: Case) -> int:
    """Bytes that inputs, results and gradients of a case hold, for whichever implementation."""
    s, item = case.sizes, ITEM[case.dtype]
    if case.op == "decode_attention":
        return (2 * s["B"] * s["T"] * s["G"] * s["D"] + 2 * s["B"] * s["H"] * s["D"]) * item
    if case.op == "sample":
        return s["B"] * s["V"] * (item + 8)  # with the copies in float32 that a row is drawn from
    return work(case).bytes


def scratch_bytes(case: Case, implementation: str) -> int:
    """Bytes that an implementation holds on top at its peak: whole scores or logits where it makes them.

    implementation: a role of benchmark.py ("ours", "reference") or a peer's name; what keeps no such tensor needs
    about its inputs once more.
    """
    s, plain = case.sizes, implementation in ("reference", "torch eager", "torch compiled")
    if case.op == "attention" and plain:
        return (3 if case.kind == "forward" else 6) * s["B"] * s["H"] * s["T"] ** 2 * 4
    if case.op == "attention" and "masked" in implementation:
        return 5 * s["T"] ** 2 + (0 if case.kind == "forward" else 2 * input_bytes(case))
    if case.op == "linear_softcap_cross_entropy" and plain:
        return 5 * s["N"] * s["V"] * 4
    if case.op == "sample":
        return s["B"] * s["V"] * (72 if plain else 24)  # a sort with its indices, noise in four words, copies
    if plain:
        return 4 * input_bytes(case)
    return input_bytes(case)


def error_bytes(case: Case) -> int:
    """Bytes that the comparison with float64 takes: of attention a single group of heads, of all else everything."""
    s = case.sizes
    if case.op == "attention":
        return (4 if case.kind == "forward" else 8) * (s["H"] // s["G"]) * s["T"] ** 2 * 8
    if case.op == "linear_softcap_cross_entropy":
        return 3 * s["N"] * s["V"] * 8
    return 4 * input_bytes(case) * 8 // ITEM[case.dtype]


def estimate_bytes(case: Case) -> int:
    """Bytes that timing our implementation of a case needs; peers that need more are left out one by one."""
    return input_bytes(check(case)) + scratch_bytes(case, "ours")


def free_bytes(device: torch.device) -> int:
    """Bytes that can still be had on a device; on a CPU what the system calls available, within a container's limit."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    found = []
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        line = next(line for line in meminfo.read_text().splitlines() if line.startswith("MemAvailable"))
        found.append(int(line.split()[1]) * 1024)
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.exists() and used.exists() and (most := limit.read_text().strip()).isdigit():
        found.append(int(most) - int(used.read_text()))
    return max(0, min(found)) if found else 2**62  # elsewhere nobody can tell: the system refuses in its own words


def shortage(case: Case, needed: int, device: torch.device) -> str:
    """One sentence with both figures if `needed` bytes are not free; empty if they are."""
    free = free_bytes(device)
    if needed <= free:
        return ""
    return (
        f"{case.op} {case.shape} in {case.dtype} needs {needed:,} bytes ({needed / 2**30:.1f} GiB), and {free:,} "
        f"({free / 2**30:.1f} GiB) are free on {device}; take smaller sizes"
    )


def presets(device: str, op: str | None = None, quick: bool = False) -> Sequence[Case]:
    """The cases that are timed when nobody names sizes. device: "cpu" or "cuda"; quick: the fewest that tell much."""
    from kernels.benchmark_presets import CPU, CPU_MORE, GPU, GPU_MORE

    few, more = (CPU, CPU_MORE) if device == "cpu" else (GPU, GPU_MORE)
    return [case for case in (few if quick else (*few, *more)) if op is None or case.op == op]
