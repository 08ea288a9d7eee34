"""The sampling kernels as machine code: they compile for GPUs that are not here and keep their values in registers."""

from pathlib import Path

import pytest

from tests.compiled_support import GENERATIONS, check_registers, compiled


def test_the_largest_kernels_compile_without_spills(tmp_path: Path) -> None:
    check_registers(compiled("sample", tmp_path, "all in tensors"), 4)


@pytest.mark.prove
def test_every_kernel_compiles_without_spills_for_every_generation(tmp_path: Path) -> None:
    rows = compiled("sample", tmp_path, "", GENERATIONS)
    check_registers(rows, len(GENERATIONS) * len({row["kernel"] for row in rows}))
