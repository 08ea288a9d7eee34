"""The kernel benchmark's page: nothing stored, a run of one small case, sizes that cannot be, and the charts."""

import json
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from nanochat.analysis import kernel_benchmark
from nanochat.charts.kernel_benchmark import bars, roofline
from tests import page_support
from tests.page_support import words


@pytest.fixture(scope="module")
def records() -> list:
    """One real case, measured once."""
    case = kernel_benchmark.case("attention", "forward", {"B": 1, "T": 64, "H": 2, "G": 2, "D": 32, "W": 16}, "float32")
    return list(kernel_benchmark.measure([case], "cpu", 3))


def opened() -> AppTest:
    return page_support.opened("kernel_benchmark", {})


def test_without_a_gpu_it_says_what_is_timed_and_what_was_not() -> None:
    page = opened()
    assert "not measured" in words(page)
    if kernel_benchmark.device() == "cpu":
        assert "the Triton kernels cannot be timed" in words(page)


def test_a_run_shows_every_contestant(records: list, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_benchmark, "measure", lambda *arguments, **options: iter(records))
    page = opened()
    page.button(key="kernel_benchmark_run").click().run()
    assert not page.exception
    best = page.dataframe[0].value
    assert best["implementation"].to_list() == ["torch"]
    assert best["over_reference"][0] == next(r.over_reference for r in records if r.role == "ours")
    everything = page.dataframe[-1].value
    assert set(everything["implementation"]) == {r.implementation for r in records}
    assert "this machine, now" in words(page)


def test_sizes_that_cannot_be_are_a_sentence() -> None:
    page = opened()
    page.toggle(key="kernel_benchmark_own").set_value(True).run()
    page.number_input(key="kernel_benchmark_attention_H").set_value(3).run()
    page.number_input(key="kernel_benchmark_attention_G").set_value(2).run()
    assert "make H a multiple of G" in words(page)
    page.number_input(key="kernel_benchmark_attention_G").set_value(3).run()
    page.number_input(key="kernel_benchmark_attention_T").set_value(2**31 - 1).run()
    assert "are free; take smaller sizes" in words(page)
    assert not [button for button in page.button if button.key == "kernel_benchmark_run"]


def test_a_stored_run_is_labelled(records: list, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kernels.benchmark import write_json

    write_json(tmp_path / "h100.json", records)
    (tmp_path / "broken.json").write_text("{")
    monkeypatch.setattr(kernel_benchmark, "stored", lambda: [tmp_path / "h100.json", tmp_path / "broken.json"])
    page = opened()
    assert f"stored run h100.json: {records[0].device}" in words(page)
    page.selectbox(key="kernel_benchmark_stored").set_value(tmp_path / "broken.json").run()
    assert "broken.json is not JSON" in words(page)


def test_the_charts_hold_what_was_measured(records: list) -> None:
    found = kernel_benchmark.report(records, "here")
    drawn = json.dumps(bars(found.bars).to_dict())
    assert all(r.implementation in drawn for r in records if r.seconds is not None)
    assert "intensity" in json.dumps(roofline(found.roofline, found.roof).to_dict())
