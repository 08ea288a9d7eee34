"""A first look at a long metrics.jsonl: whole lines of it, in order, from its beginning to its end."""

import itertools
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import streamlit as st

from nanochat import metrics, metrics_cache, metrics_glance
from nanochat.analysis import training_dashboard as dashboard
from tests.page_support import opened
from tests.test_training_dashboard import record


@pytest.fixture
def long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of 5,000 steps, which counts as a long one here, looked at in 20 places."""
    monkeypatch.setattr(metrics_glance, "LONG", 1 << 16)
    monkeypatch.setattr(metrics_glance, "PLACES", 20)
    monkeypatch.setattr(metrics_glance, "PIECE", 4_096)
    run = tmp_path / "base_checkpoints" / "d4"
    run.mkdir(parents=True)
    lines = (json.dumps(record(step, 7 - step / 1000)) for step in range(5_000))
    (run / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    return run


def test_its_rows_are_rows_of_the_file_from_end_to_end(long: Path) -> None:
    found = metrics.glance(long / "metrics.jsonl")
    assert found is not None
    steps = found.frame["step"].to_list()
    assert steps == sorted(set(steps))
    assert steps[0] == 0
    assert 4_600 < steps[-1] < 5_000
    assert max(after - before for before, after in itertools.pairwise(steps)) < 300
    assert found.frame["train_loss"].to_list() == [7 - step / 1000 for step in steps]
    assert found.share == pytest.approx(len(steps) / 5_000, rel=0.05)


def test_steps_that_a_resumed_run_did_again_count_once(long: Path) -> None:
    again = "".join(json.dumps(record(step, 1.0)) + "\n" for step in range(2_500, 4_000))
    with (long / "metrics.jsonl").open("a") as file:
        file.write(again)
    ((run,), _) = dashboard.Follower(long).glance()
    assert run.frame["step"].is_sorted()
    # Between the piece that is looked at before 2,500 and the one behind it, old steps may still show.
    assert run.frame.filter(pl.col("step") >= 2_900)["train_loss"].unique().to_list() == [1.0]
    assert 3_600 < (run.last or 0) < 4_000


def test_none_where_reading_all_is_quick(long: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_cache, "LARGE", 1 << 16)
    follower = dashboard.Follower(long)
    (draft,), share = follower.glance()
    assert share < 0.3
    assert draft.frame.height < 2_000
    (whole,) = follower.look()
    assert whole.frame.height == 5_000
    assert follower.glance() == ([], 1.0), "this one has read it"
    assert metrics.glance(long / "metrics.jsonl") is None, "and it is kept for whoever comes next"
    with monkeypatch.context() as patch:
        patch.setattr(metrics_glance, "LONG_KEPT", 1 << 17)
        assert metrics.glance(long / "metrics.jsonl") is not None, "which takes a while, too, where it is that long"
    (long / "metrics.jsonl").write_text(json.dumps(record(0, 7.0)) + "\n")
    assert metrics.glance(long / "metrics.jsonl") is None, "a short file"
    assert metrics.glance(long / "none.jsonl") is None


@pytest.mark.parametrize("content", [b"\x00" * 200_000, b"no record\n" * 20_000, b"x" * 200_000])
def test_a_file_of_something_else_gives_none(long: Path, content: bytes) -> None:
    (long / "metrics.jsonl").write_bytes(content)
    assert metrics.glance(long / "metrics.jsonl") is None


def test_the_page_shows_it_while_the_rest_is_read(long: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    look, draw = dashboard.Follower.look, st.altair_chart

    def looked(follower: Any) -> Any:
        order.append("look")
        return look(follower)

    def drawn(*args: Any, **options: Any) -> Any:
        order.append("first look" if "first look" in options["alt"] else "chart")
        return draw(*args, **options)

    monkeypatch.setattr(dashboard.Follower, "look", looked)
    monkeypatch.setattr(st, "altair_chart", drawn)
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(long.parents[1]))
    opened("training_dashboard", {})
    assert order[:2] == ["first look", "look"]
    assert "chart" in order
