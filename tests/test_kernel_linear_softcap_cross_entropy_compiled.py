"""The loss kernel as machine code: it compiles for GPUs that are not here and keeps its values in registers."""

from pathlib import Path

import pytest

from tests.compiled_support import SMALLEST, compiled

GENERATIONS = (80, 86, 89, 90, 100, 120)


def check(rows: list[dict], count: int) -> None:
    assert len(rows) == count
    for row in rows:
        assert row["spilled_bytes"] == 0, row
        assert row["registers"] < 255, row
        assert row["shared_bytes"] <= SMALLEST, row


def test_the_largest_kernel_compiles_without_spills(tmp_path: Path) -> None:
    check(compiled("linear_softcap_cross_entropy", tmp_path, "any softcap, V 32768, bf16"), 2)


@pytest.mark.prove
def test_every_form_compiles_without_spills_for_every_generation(tmp_path: Path) -> None:
    rows = compiled("linear_softcap_cross_entropy", tmp_path, "", GENERATIONS)
    check(rows, len(GENERATIONS) * len({row["kernel"] for row in rows}))
