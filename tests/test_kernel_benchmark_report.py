"""nanochat.analysis.kernel_benchmark: records become tables as they are, and a stored file is believed in nothing."""

import json
from dataclasses import asdict, fields, replace
from pathlib import Path

import polars as pl
import pytest

from kernels.benchmark import Case, Record, write_json
from nanochat.analysis import kernel_benchmark as analysis
from nanochat.errors import is_message

OURS = Record(
    op="attention",
    kind="forward",
    shape="B1 T64",
    dtype="float32",
    implementation="triton",
    role="ours",
    reason="a GPU",
    seconds=2e-6,
    seconds_low=1e-6,
    seconds_high=4e-6,
    rounds=5,
    clock="graph",
    flops=8_000_000,
    bytes=100_000,
    rate=4.0,
    unit="TFLOP/s",
    ceiling_share=0.5,
    copy_gb=100.0,
    gemm_tflops=10.0,
    over_reference=3.0,
    best_peer="SDPA",
    over_best_peer=1.5,
    error=1e-7,
    best_peer_error=2e-7,
    peak_bytes=None,
    tuned=True,
    device="H100",
    capability="sm_90",
    threads=1,
    versions="torch 2.11",
    date="2026-11-22T10:00:00+00:00",
)
PEER = replace(OURS, implementation="SDPA", role="peer", seconds=3e-6, best_peer="", over_best_peer=None)
GONE = replace(PEER, implementation="cuDNN", seconds=None, rate=None, reason="its kernel knows no window")
BYTES = replace(OURS, op="sample", kind="top-k", flops=0, unit="GB/s", date="2026-11-22T11:00:00+00:00")
EVERY = [OURS, PEER, GONE, BYTES]


def test_the_schema_is_the_record() -> None:
    assert list(analysis.SCHEMA) == [field.name for field in fields(Record)]


def test_records_and_their_dicts_give_the_same_tables() -> None:
    found = analysis.report(EVERY, "here")
    assert found.frame.to_dicts() == [asdict(r) for r in EVERY]
    assert found.frame.schema == analysis.SCHEMA
    assert analysis.report([asdict(r) for r in EVERY], "here").frame.equals(found.frame)
    assert found.labels == ("H100 (sm_90), torch 2.11, 2026-11-22",)
    assert found.source == "here"
    name = "attention, forward, B1 T64, float32"
    assert found.bars.row(0, named=True) == {
        "case": name,
        "implementation": "triton",
        "role": "ours",
        "microseconds": 2.0,
        "low": 1.0,
        "high": 4.0,
        "over_reference": 3.0,
    }
    assert found.bars["implementation"].to_list() == ["triton", "SDPA", "triton"]
    assert found.best["over_best_peer"].to_list() == [1.5, 1.5]
    assert found.missing.rows() == [(name, "cuDNN", "its kernel knows no window")]


def test_the_roofline_holds_what_has_products() -> None:
    found = analysis.report(EVERY, "here")
    assert found.roofline["case"].unique().to_list() == ["attention, forward, B1 T64, float32"]
    ours = found.roofline.row(0, named=True)
    assert (ours["intensity"], ours["tflops"], ours["limit"]) == pytest.approx((80.0, 4.0, 8.0))  # 80 x 100 GB/s
    assert found.roof["intensity"].to_list() == pytest.approx([100 / 1024, 100.0, 102_400.0])
    assert found.roof["tflops"].to_list() == pytest.approx([10 / 1024, 10.0, 10.0])


def test_no_record_gives_empty_tables() -> None:
    found = analysis.report([], "nothing yet")
    assert found.labels == ()
    for table in (found.frame, found.bars, found.roofline, found.roof, found.best, found.missing):
        assert isinstance(table, pl.DataFrame)
        assert table.is_empty()


def test_a_stored_run_comes_back(tmp_path: Path) -> None:
    assert analysis.stored(tmp_path / "nowhere") == []
    write_json(tmp_path / "2026-11-22-h100.json", EVERY)
    write_json(tmp_path / "2026-12-01-h100.json", EVERY[:1])
    (tmp_path / "README.md").write_text("not one")
    newest, oldest = analysis.stored(tmp_path)
    assert newest.name == "2026-12-01-h100.json"
    found = analysis.read_stored(oldest)
    assert found.frame.equals(analysis.report(EVERY, "").frame)
    assert found.source == "stored run 2026-11-22-h100.json"


GOOD = asdict(OURS)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\xff\xfe", "not JSON"),
        (b"{", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "no list of records"),
        (b'{"records": 3}', "no list of records"),
        (b'{"records": [3]}', "record 0: it is no object"),
        (json.dumps({"records": [GOOD, {"op": "sample"}]}).encode(), "record 1: kind is missing"),
        (json.dumps({"records": [{**GOOD, "seconds": "fast"}]}).encode(), "seconds is 'fast'"),
        (json.dumps({"records": [{**GOOD, "seconds": float("nan")}]}).encode(), "seconds is 'nan'"),
        (json.dumps({"records": [{**GOOD, "seconds": 10**400}]}).encode(), "seconds is '1000"),
        (json.dumps({"records": [{**GOOD, "flops": 2**70}]}).encode(), "flops is"),
        (json.dumps({"records": [{**GOOD, "flops": True}]}).encode(), "flops is 'True'"),
        (json.dumps({"records": [{**GOOD, "device": None}]}).encode(), "device is 'None'"),
        (json.dumps({"records": [{**GOOD, "tuned": 1}]}).encode(), "tuned is '1'"),
        (json.dumps({"records": [{**GOOD, "bytes": 0}]}).encode(), "zero or missing"),
        (json.dumps({"records": [{**GOOD, "copy_gb": None}]}).encode(), "zero or missing"),
    ],
)
def test_a_file_that_is_no_run_is_named_in_one_sentence(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "run.json"
    path.write_bytes(content)
    with pytest.raises(analysis.KernelReportError, match=words) as caught:
        analysis.read_stored(path)
    assert is_message(caught.value)
    assert str(caught.value).startswith("run.json")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


def test_missing_and_huge_files_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(analysis.KernelReportError, match=r"gone\.json cannot be read"):
        analysis.read_stored(tmp_path / "gone.json")
    write_json(tmp_path / "big.json", EVERY)
    monkeypatch.setattr(analysis, "MOST_BYTES", 100)
    with pytest.raises(analysis.KernelReportError, match="more than 100 bytes"):
        analysis.read_stored(tmp_path / "big.json")


def test_stored_runs_of_the_project_can_be_read() -> None:
    for path in analysis.stored():
        assert not analysis.read_stored(path).frame.is_empty()


def test_a_page_finds_all_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kernels.benchmark_timing.SAMPLE_SECONDS", {"cpu": 0.0, "cuda": 0.0})
    monkeypatch.setattr("kernels.benchmark_timing.CPU_CEILING", (2**12, 32))
    assert analysis.device() in ("cpu", "cuda")
    kinds = analysis.operations()
    assert "forward" in kinds["attention"]
    assert analysis.letters("sample") == ("B", "V")
    assert all(case.op == "sample" for case in analysis.presets("sample", "cpu"))
    assert len(analysis.presets(None, "cpu", quick=True)) < len(analysis.presets(None, "cpu"))
    chosen = analysis.case("sample", "top-p, flat", {"B": 1, "V": 100}, "float32")
    assert isinstance(chosen, Case)
    with pytest.raises(ValueError, match="V is 0"):
        analysis.case("sample", "top-p, flat", {"B": 1, "V": 0}, "float32")
    needed, free = analysis.memory(chosen, "cpu")
    assert 0 < needed < free
    heard: list[float] = []
    records = list(analysis.measure([chosen], "cpu", rounds=2, progress=lambda words, share: heard.append(share)))
    assert analysis.report(records, "now").best["implementation"].to_list() == ["torch"]
    assert heard[-1] == 1.0
    assert list(analysis.measure([chosen], "cpu", stop=lambda: True)) == []
