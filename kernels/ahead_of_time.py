"""Compiles every Triton kernel for GPUs that are not here, down to machine code, and reads what became of it.

    python -m kernels.ahead_of_time                  # a Markdown table: registers, shared memory, spills, tensor cores
    python -m kernels.ahead_of_time --op sample --json

The compiler needs no GPU, so a laptop can prove that a kernel compiles, keeps its values in registers and uses tensor
cores. What it cannot prove is the speed. Not for the interpreter: TRITON_INTERPRET must not be set.
"""

import argparse
import importlib
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kernels.backend import OPS
from kernels.configs import Compilation

TARGETS = (80, 90)


@dataclass(frozen=True)
class Compiled:
    """What a kernel needs on one architecture."""

    op: str
    kernel: str
    sm: int
    registers: int  # a thread
    shared_bytes: int  # a block
    spilled_bytes: int  # a thread, moved between registers and memory: stack of the kernel
    tensor_cores: str  # the instruction that multiplies matrices: HGMMA, HMMA, or none
    may_spill: str


def compilations(op: str) -> list[Compilation]:
    """The kernels that `op` has."""
    module = importlib.import_module(f"kernels.{op}.triton_impl")
    return list(module.compilations())


def compile_for(job: Compilation, sm: int) -> Compiled:
    """Compile one kernel; takes some seconds. Raises what Triton raises where it cannot be compiled."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = list(job.signature)
    attributes = {(names.index(name),): [["tt.divisibility", 16]] for name in job.divisible}
    constants = {(names.index(name),): value for name, value in job.constexprs.items()}
    source = ASTSource(job.function, dict(job.signature), constants, attributes)
    options = {"num_warps": job.num_warps, "num_stages": job.num_stages}
    built = triton.compile(source, target=GPUTarget("cuda", sm, 32), options=options)
    usage, code = _inspect(built.asm["cubin"])
    return Compiled(
        job.op,
        job.kernel,
        sm,
        registers=usage["REG"],
        shared_bytes=max(usage["SHARED"], int(built.metadata.shared)),
        spilled_bytes=usage["STACK"],
        tensor_cores=next((word for word in ("HGMMA", "HMMA") if word in code), "none"),
        may_spill=job.may_spill,
    )


def _inspect(cubin: bytes) -> tuple[dict[str, int], str]:
    """(resource usage, machine code) of a binary, by NVIDIA's own tool."""
    import triton

    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)

        def ask(question: str) -> str:
            return subprocess.run([tool, question, path], capture_output=True, text=True, check=True).stdout

        usage = {name: int(value) for name, value in re.findall(r"(REG|STACK|SHARED):(\d+)", ask("-res-usage"))}
        return usage, ask("-sass")


def everything(ops: Sequence[str] = OPS, targets: Sequence[int] = TARGETS, pattern: str = "") -> Iterator[Compiled]:
    """Every kernel of `ops` whose name the pattern finds, on every target that launches it."""
    for op in ops:
        for job in compilations(op):
            for sm in targets:
                if re.search(pattern, job.kernel) and (not job.only or sm in job.only):
                    yield compile_for(job, sm)


def markdown(rows: Sequence[Compiled]) -> str:
    """The table of kernels/README.md."""
    lines = [
        "| operation | kernel | GPU | registers a thread | shared bytes a block | spilled bytes | tensor cores |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        spills = f"{row.spilled_bytes} ({row.may_spill})" if row.spilled_bytes and row.may_spill else row.spilled_bytes
        lines.append(
            f"| `{row.op}` | {row.kernel} | sm_{row.sm} | {row.registers} | {row.shared_bytes:,} | {spills} | "
            f"{row.tensor_cores} |"
        )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Compile and print."""
    parser = argparse.ArgumentParser(prog="python -m kernels.ahead_of_time", description=__doc__.splitlines()[0])
    parser.add_argument("--op", action="append", choices=OPS, help="only this operation; may be given more than once")
    parser.add_argument("--sm", action="append", type=int, help="only this architecture: 80, 90, ...")
    parser.add_argument("--kernel", default="", help="only kernels in whose name this regular expression is found")
    parser.add_argument("--json", action="store_true", help="one JSON object a line instead of the table")
    args = parser.parse_args(argv)
    rows: list[Any] = []
    for row in everything(args.op or OPS, args.sm or TARGETS, args.kernel):
        rows.append(row)
        if args.json:
            print(json.dumps(asdict(row)), flush=True)
    if not args.json:
        print(markdown(rows))
    return 1 if any(row.spilled_bytes and not row.may_spill for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
