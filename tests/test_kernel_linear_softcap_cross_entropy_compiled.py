"""The loss kernel as machine code: it compiles for GPUs that are not here and keeps its values in registers."""

from pathlib import Path

import pytest

from tests.compiled_support import GENERATIONS, check_registers, compiled


def test_the_largest_kernel_compiles_without_spills(tmp_path: Path) -> None:
    check_registers(compiled("linear_softcap_cross_entropy", tmp_path, "any softcap, V 32768, bf16"), 2)


@pytest.mark.prove
def test_every_form_compiles_without_spills_for_every_generation(tmp_path: Path) -> None:
    rows = compiled("linear_softcap_cross_entropy", tmp_path, "", GENERATIONS)
    check_registers(rows, len(GENERATIONS) * len({row["kernel"] for row in rows}))
