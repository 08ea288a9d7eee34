"""kernels.attention compiled for GPUs that are not here: registers hold everything, tensor cores do the products."""

from pathlib import Path

import pytest

from tests.compiled_support import SMALLEST, compiled

KERNELS = ("forward", "query gradient", "key gradient")
HOPPER = 227 * 1024  # bytes of shared memory that a block can have on sm_90


def check(row: dict) -> None:
    half = "bf16" in row["kernel"]
    # Three products of tf32 for one of float32 leave some loop constants no register at D 128.
    assert row["spilled_bytes"] <= (0 if half or "D64" in row["kernel"] else 64), row
    assert row["tensor_cores"] == ("HGMMA" if half and row["sm"] == 90 else "HMMA"), row
    assert row["shared_bytes"] <= (HOPPER if "sm_90" in row["kernel"] else SMALLEST), row
    assert row["registers"] <= 255


def test_kernels_of_training_need_no_memory_for_registers(tmp_path: Path) -> None:
    rows = compiled("attention", tmp_path, "bf16 D128 window$", (80,))
    rows += compiled("attention", tmp_path, "bf16 D128 window, sm_90$", (90,))
    assert len(rows) == 2 * len(KERNELS)
    for row in rows:
        check(row)
        assert row["spilled_bytes"] == 0


@pytest.mark.prove
def test_every_kernel_on_both_architectures(tmp_path: Path) -> None:
    rows = compiled("attention", tmp_path)
    assert {(kernel, sm) for kernel in KERNELS for sm in (80, 90)} == {
        (kernel, row["sm"]) for row in rows for kernel in KERNELS if row["kernel"].startswith(kernel)
    }
    for row in rows:
        check(row)
