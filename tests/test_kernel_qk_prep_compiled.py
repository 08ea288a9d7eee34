"""qk_prep's kernels compiled ahead of time: nothing spills, and registers leave room for many programs at once.

python -m pytest tests/test_kernel_qk_prep_compiled.py -m "prove or not prove"
"""

from pathlib import Path

import pytest

from tests.compiled_support import compiled


def check(rows: list[dict]) -> None:
    for row in rows:
        assert row["spilled_bytes"] == 0, row
        assert row["shared_bytes"] <= 2048, row  # values stay in registers; heads of one token are summed across warps
        assert row["registers"] <= 128, row  # 16 warps and more a multiprocessor: enough loads on the way


def test_what_training_and_decoding_run(tmp_path: Path) -> None:
    rows = compiled("qk_prep", tmp_path, "bf16, D 128, 10 . 10 heads")
    assert sorted(row["kernel"].split(",")[0] for row in rows) == ["append"] * 2 + ["backward"] * 2 + ["forward"] * 2
    check(rows)


@pytest.mark.prove
def test_every_kernel_from_ampere_to_blackwell(tmp_path: Path) -> None:
    rows = compiled("qk_prep", tmp_path, "", (80, 90, 120))
    assert len(rows) == 3 * 27
    check(rows)
