"""decode_attention's kernels compiled ahead of time: nothing spills, and every GPU since Ampere has room for them.

python -m pytest tests/test_kernel_decode_attention_compiled.py -m "prove or not prove"
"""

from pathlib import Path

import pytest

from tests.compiled_support import SMALLEST, compiled


def check(rows: list[dict]) -> None:
    for row in rows:
        assert row["spilled_bytes"] == 0, row
        assert row["shared_bytes"] <= SMALLEST, row
        half = "bf16" in row["kernel"] or "fp16" in row["kernel"]
        assert row["tensor_cores"] == ("HMMA" if half else "none"), row


def test_what_decoding_runs_most(tmp_path: Path) -> None:
    pattern = "part of a row, (bf16, D 128, group 1$|fp32, D 128, group 8)|sum of 64 parts, D 128"
    rows = compiled("decode_attention", tmp_path, pattern)
    assert len(rows) == 6
    check(rows)


@pytest.mark.prove
def test_every_kernel_from_ampere_to_blackwell(tmp_path: Path) -> None:
    rows = compiled("decode_attention", tmp_path, "", (80, 90, 120))
    assert len(rows) == 3 * 25
    check(rows)
