"""Kernels compiled for GPUs that are not here, in a process of its own: this one may have Triton interpret.

row = compiled("sample", tmp_path, "no filter", (80, 90))[0]
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
GENERATIONS = (80, 86, 89, 90, 100, 120)  # every architecture that the kernels are for
SMALLEST = 99 * 1024  # bytes of shared memory that a block can have on every GPU since Ampere


def compiled(op: str, cache: Path, pattern: str = "", targets: Sequence[int] = (80, 90)) -> list[dict]:
    """What `python -m kernels.ahead_of_time` says of the kernels in whose name the pattern is found."""
    pytest.importorskip("triton", reason="the kernels need Triton, which is there for Linux alone")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(cache), "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "kernels.ahead_of_time", "--op", op, "--kernel", pattern, "--json"]
    for target in targets:
        command += ["--sm", str(target)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1800)
    assert not done.stderr, done.stderr[-2000:]  # its exit status speaks of spills, which the tests judge themselves
    return [json.loads(line) for line in done.stdout.splitlines()]


def check_registers(rows: list[dict], count: int) -> None:
    """So many kernels, all of whose values stay in registers, and that fit every GPU."""
    assert len(rows) == count
    for row in rows:
        assert row["spilled_bytes"] == 0, row
        assert row["registers"] < 255, row
        assert row["shared_bytes"] <= SMALLEST, row
