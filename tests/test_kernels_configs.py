"""kernels.configs and kernels.tune: the table that is checked in, who reads it and who writes it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from kernels import backend, benchmark_records, configs, tune
from kernels.benchmark_timing import Times
from kernels.configs import Tuning

ROOT = Path(__file__).parents[1]
DEFAULT = {"BLOCK": 16, "num_warps": 4, "num_stages": 1}
CPU = torch.device("cpu")


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A table of its own for the test: path of the file, read as the project's."""
    path = tmp_path / "configs.json"
    monkeypatch.setattr(configs, "TABLE", path)
    configs.table.cache_clear()
    yield path
    configs.table.cache_clear()


def test_a_gpu_in_the_table_gets_its_row_and_another_the_default(table: Path) -> None:
    found = {"BLOCK": 64, "num_warps": 8, "num_stages": 2}
    table.write_text(json.dumps({"configurations": {"sm_90": {"sample": {"top-k": found}}}}))
    assert configs.find("sample", "top-k", (9, 0), DEFAULT) == (found, True, "tuned on sm_90")
    for op, key, capability in (
        ("sample", "top-k", (8, 9)),
        ("sample", "top-p", (9, 0)),
        ("attention", "top-k", (9, 0)),
    ):
        values, tuned, reason = configs.find(op, key, capability, DEFAULT)
        assert (values, tuned) == (DEFAULT, False)
        assert reason.startswith(f"untuned: {op} ({key})")
        assert f"sm_{capability[0]}{capability[1]}" in reason


def test_the_checked_in_table_is_well_formed() -> None:
    content = json.loads(configs.TABLE.read_text(encoding="utf-8"))
    assert content["about"]
    for sm, ops in content["configurations"].items():
        assert sm.startswith("sm_")
        for op, rows in ops.items():
            assert op in backend.OPS
            for values in rows.values():
                assert {"num_warps", "num_stages"} <= set(values)
                assert all(isinstance(value, int) for value in values.values())


LIST_ROWS = """
import json
from kernels import backend, configs, tune
rows = [[r.op, r.key, [dict(c) for c in r.candidates], callable(r.make)] for r in tune.tunings(backend.OPS)]
print(json.dumps(rows))
"""


def test_every_operation_has_rows_to_tune() -> None:
    """Each key once, several different candidates, each with all that a launch needs."""
    pytest.importorskip("triton")
    clean = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", LIST_ROWS], cwd=ROOT, env=clean, capture_output=True, text=True, timeout=120, check=True
    )
    rows = json.loads(done.stdout)
    assert {op for op, *_ in rows} == set(backend.OPS)
    assert len({(op, key) for op, key, *_ in rows}) == len(rows)
    for op, key, candidates, makes in rows:
        assert makes
        assert len(candidates) > 1, (op, key)
        assert len({json.dumps(candidate, sort_keys=True) for candidate in candidates}) == len(candidates), (op, key)
        names = set(candidates[0])
        for candidate in candidates:
            assert set(candidate) == names, (op, key)
            assert {"num_warps", "num_stages"} <= names, (op, key)
            assert all(type(value) is int for value in candidate.values()), (op, key)


class TooLarge(Exception):
    """Stands for Triton's OutOfResources."""


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Tuning:
    """A row whose launch takes as long as its BLOCK says, and which is too large from 100 on."""
    monkeypatch.setattr(tune, "_refusals", lambda: (TooLarge,))

    def make(device: torch.device):
        def launch(values: configs.Values) -> None:
            if values["BLOCK"] >= 100:
                raise TooLarge("shared memory")

        return launch

    return Tuning("sample", "top-k", [{**DEFAULT, "BLOCK": block} for block in (30, 10, 100, 20)], make)


def timer(runs, device, rounds):
    blocks = {name: json.loads(name)["BLOCK"] for name in runs}
    return {name: Times((float(block),) * rounds, "events") for name, block in blocks.items()}


def test_the_fastest_candidate_that_runs_wins(fake: Tuning) -> None:
    winner = tune.tune(fake, CPU, 3, timer)
    assert winner == tune.Winner("sample", "top-k", {**DEFAULT, "BLOCK": 10}, 10.0, 3.0, 1)
    too_large = Tuning("sample", "top-p", [{**DEFAULT, "BLOCK": 200}], fake.make)
    with pytest.raises(tune.TuningError, match=r"sample \(top-p\): none of 1 candidates.*shared memory"):
        tune.tune(too_large, CPU, 3, timer)


def test_writing_keeps_other_gpus_and_other_operations(table: Path, fake: Tuning) -> None:
    held = {
        "sm_80": {"sample": {"top-k": DEFAULT}},
        "sm_90": {"sample": {"gone": DEFAULT}, "attention": {"a": DEFAULT}},
    }
    table.write_text(json.dumps({"about": "", "configurations": held}))
    assert configs.find("sample", "top-k", (9, 0), DEFAULT).tuned is False
    tune.write(table, "sm_90", [tune.tune(fake, CPU, 3, timer)])
    content = json.loads(table.read_text())
    assert content["about"] == tune.ABOUT
    assert content["configurations"] == {
        "sm_80": held["sm_80"],
        "sm_90": {"sample": {"top-k": {**DEFAULT, "BLOCK": 10}}, "attention": {"a": DEFAULT}},
    }
    assert configs.find("sample", "top-k", (9, 0), DEFAULT).values["BLOCK"] == 10  # read anew
    tune.write(table.with_name("new.json"), "sm_80", [])
    assert json.loads(table.with_name("new.json").read_text())["configurations"] == {}


def test_a_failed_write_leaves_the_table_and_no_rest(
    table: Path, fake: Tuning, monkeypatch: pytest.MonkeyPatch
) -> None:
    table.write_text('{"configurations": {}}')

    def full(descriptor: int) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        tune.write(table, "sm_90", [tune.tune(fake, CPU, 3, timer)])
    assert [path.name for path in table.parent.iterdir()] == ["configs.json"]
    assert table.read_text() == '{"configurations": {}}'


def test_the_command_lists_tunes_and_refuses(
    table: Path, fake: Tuning, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    table.write_text('{"configurations": {}}')
    broken = Tuning("sample", "broken", [{**DEFAULT, "BLOCK": 200}], fake.make)
    monkeypatch.setattr(tune, "tunings", lambda ops: [fake, broken])
    assert tune.main(["--list"]) == 0
    assert capsys.readouterr().out.splitlines() == ["sample: top-k, 4 candidates", "sample: broken, 1 candidates"]

    monkeypatch.setattr(tune, "gpu_obstacle", lambda: "No GPU.")
    assert tune.main([]) == 1
    assert capsys.readouterr().err == "No GPU.\n"

    real = torch.device
    monkeypatch.setattr(tune, "gpu_obstacle", lambda: "")
    monkeypatch.setattr(tune.torch, "device", lambda name: real("cpu"))
    monkeypatch.setattr(tune.torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(tune.torch.cuda, "get_device_name", lambda device: "H100")
    assert tune.main(["--rounds", "2", "--out", str(table)]) == 0
    out, err = capsys.readouterr()
    assert "1 rows for sm_90 (H100)" in out
    assert "1 refused" in out
    assert "broken" in err
    assert set(json.loads(table.read_text())["configurations"]["sm_90"]["sample"]) == {"top-k"}


def test_without_a_gpu_the_tuner_says_so(capsys) -> None:
    if benchmark_records.gpu_obstacle() == "":
        pytest.skip("there is a GPU")
    assert tune.main([]) == 1
    assert capsys.readouterr() == ("", benchmark_records.gpu_obstacle() + "\n")
