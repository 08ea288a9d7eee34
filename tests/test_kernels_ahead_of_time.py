"""kernels.ahead_of_time: what it says about a kernel is what the compiler made of it, and spills end it with 1.

Whether the project's own kernels spill is for tests/test_kernel_<op>_compiled.py; here are small ones with known
answers.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from kernels import ahead_of_time
from kernels.ahead_of_time import Compiled

ROOT = Path(__file__).parents[1]

KERNELS = '''
import json
from dataclasses import asdict

import triton
import triton.language as tl

from kernels.ahead_of_time import compile_for
from kernels.configs import Compilation


@triton.jit
def add(x, y, n, BLOCK: tl.constexpr):
    """x + y, element by element."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y + at, tl.load(x + at, at < n) + tl.load(y + at, at < n), at < n)


@triton.jit
def share(x, y, BLOCK: tl.constexpr):
    """x / sum(x): every element has to be kept until the sum is known."""
    at = tl.arange(0, BLOCK)
    block = tl.load(x + at)
    tl.store(y + at, block / tl.sum(block))


@triton.jit
def square(x, y, BLOCK: tl.constexpr):
    """x @ x of one block."""
    at = tl.arange(0, BLOCK)[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
    block = tl.load(x + at)
    tl.store(y + at, tl.dot(block, block))


if __name__ == "__main__":
    adding = {"x": "*fp32", "y": "*fp32", "n": "i32", "BLOCK": "constexpr"}
    sharing = {"x": "*fp32", "y": "*fp32", "BLOCK": "constexpr"}
    squaring = {"x": "*bf16", "y": "*fp32", "BLOCK": "constexpr"}
    jobs = [
        Compilation("sample", "add", add, adding, {"BLOCK": 1024}, 4, 1, ("x", "y")),
        Compilation("sample", "share", share, sharing, {"BLOCK": 8192}, 1, 1, ("x", "y"), False, "a test"),
        Compilation("attention", "square", square, squaring, {"BLOCK": 64}, 4, 1, ("x", "y"), True),
    ]
    for job, sm in ((jobs[0], 80), (jobs[1], 90), (jobs[2], 80), (jobs[2], 90)):
        print(json.dumps(asdict(compile_for(job, sm))))
'''


def test_small_kernels_are_read_as_they_are(tmp_path: Path) -> None:
    pytest.importorskip("triton")
    script = tmp_path / "small_kernels.py"
    script.write_text(KERNELS)
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, script], env=environment, capture_output=True, text=True, timeout=300, check=True
    )
    plain, spilling, ampere, hopper = (Compiled(**json.loads(line)) for line in done.stdout.splitlines())
    assert (plain.op, plain.kernel, plain.sm, plain.spilled_bytes, plain.tensor_cores) == (
        "sample",
        "add",
        80,
        0,
        "none",
    )
    assert 0 < plain.registers < 255
    assert spilling.may_spill == "a test"
    assert spilling.spilled_bytes > 0
    assert (ampere.tensor_cores, hopper.tensor_cores) == ("HMMA", "HGMMA")
    assert (ampere.spilled_bytes, hopper.spilled_bytes) == (0, 0)
    assert hopper.shared_bytes >= 64 * 64 * 2  # a product reads its block from shared memory


FINE = Compiled("sample", "top-k", 90, 64, 1024, 0, "none", "")
ALLOWED = Compiled("sample", "sort", 90, 255, 2048, 96, "none", "once per row")
SPILLING = Compiled("attention", "forward", 80, 255, 65536, 8, "HMMA", "")


def test_the_table_names_spills_and_their_reasons() -> None:
    lines = ahead_of_time.markdown([FINE, ALLOWED, SPILLING]).splitlines()
    assert lines[2] == "| `sample` | top-k | sm_90 | 64 | 1,024 | 0 | none |"
    assert lines[3] == "| `sample` | sort | sm_90 | 255 | 2,048 | 96 (once per row) | none |"
    assert lines[4] == "| `attention` | forward | sm_80 | 255 | 65,536 | 8 | HMMA |"
    assert {line.count("|") for line in lines} == {8}


@pytest.mark.parametrize(("rows", "status"), [([FINE, ALLOWED], 0), ([FINE, SPILLING], 1)])
def test_the_command_ends_with_1_for_a_spill_without_a_reason(
    rows: list[Compiled], status: int, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    asked = []
    monkeypatch.setattr(ahead_of_time, "everything", lambda *question: asked.append(question) or iter(rows))
    assert ahead_of_time.main([]) == status
    assert capsys.readouterr().out.strip() == ahead_of_time.markdown(rows)
    assert ahead_of_time.main(["--json", "--op", "sample", "--sm", "120", "--kernel", "top"]) == status
    assert [Compiled(**json.loads(line)) for line in capsys.readouterr().out.splitlines()] == rows
    assert asked == [(ahead_of_time.OPS, ahead_of_time.TARGETS, ""), (["sample"], [120], "top")]


def test_everything_is_every_kernel_on_every_target_that_launches_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def compilations(op: str) -> list[SimpleNamespace]:
        return [SimpleNamespace(kernel=f"{op} a", only=()), SimpleNamespace(kernel=f"{op} b", only=(90,))]

    monkeypatch.setattr(ahead_of_time, "compilations", compilations)
    monkeypatch.setattr(ahead_of_time, "compile_for", lambda job, sm: (job.kernel, sm))
    ops = ("sample", "qk_prep")
    a_and_b = [("sample a", 80), ("sample a", 90), ("sample b", 90)]
    assert list(ahead_of_time.everything(ops, (80, 90)))[:4] == [*a_and_b, ("qk_prep a", 80)]
    assert list(ahead_of_time.everything(ops, (80, 90), "sample")) == a_and_b
    assert list(ahead_of_time.everything(ops, (120,), "b$")) == []
