"""Any JSON value at any key of a meta file: it is read and can be computed with, or one sentence names file and key."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat import metrics
from nanochat.checkpoint_files import CheckpointError
from nanochat.checkpoint_meta import read_meta
from nanochat.checkpoint_runs import find_runs
from nanochat.checkpoint_values import KINDS
from nanochat.metrics import MetricsError
from nanochat.training_state import TrainingState
from tests.support import FIXTURES, needs_fixtures

META = "meta_000010.json"
CONFIG = {"sequence_len": 8, "vocab_size": 9, "n_layer": 1, "n_head": 1, "n_kv_head": 1, "n_embd": 8}
GOOD: dict[str, Any] = {
    "step": 10,
    "val_bpb": 1.5,
    "model_config": {**CONFIG, "window_pattern": "L"},
    "user_config": {"depth": 2, "total_batch_size": -1, "num_iterations": 20, "matrix_lr": 0.02, "run": "dummy"},
    "total_batch_size": 1024,
    "dataloader_state_dict": {"pq_idx": 0, "rg_idx": 1, "epoch": 1},
    "loop_state": {"min_val_bpb": float("inf"), "smooth_train_loss": 3.0, "total_training_time": 5.0},
}
PLACES = [(key,) for key in GOOD] + [(key, name) for key in GOOD if isinstance(GOOD[key], dict) for name in GOOD[key]]
DEEP = json.loads("[" * 900 + "]" * 900)
VALUES = st.sampled_from([10**18, 2**62, 2**63, 10**400, -(10**400), 1e300, 1e308, DEEP, [DEEP], "\ud800", "\x1b[2J\n"])
VALUES |= st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "total_batch_size"]), inner),
)


def put(meta: dict[str, Any], place: tuple[str, ...], value: Any) -> dict[str, Any]:
    """The meta with another value at a place."""
    return {**meta, place[0]: value if len(place) == 1 else put(meta[place[0]], place[1:], value)}


def read_everywhere(folder: Path, meta: dict[str, Any]) -> str:
    """Every reader of a meta file takes it, or all refuse it with one sentence, which is returned."""
    run = folder / "base_checkpoints" / "d1"
    run.mkdir(parents=True, exist_ok=True)
    (run / META).write_text(json.dumps(meta))
    listed = find_runs(folder)[0].problems
    said = ""
    try:
        TrainingState.of_meta(10, read_meta(run / META), 7)
    except CheckpointError as error:
        said = str(error)
    if not said:
        assert metrics.read(run).frame["step"].to_list() == [10]
        return ""
    assert META in said
    assert said.isprintable()
    assert len(said) < 500
    assert said in listed[0]
    with pytest.raises(MetricsError, match="meta_000010"):
        metrics.read(run / META)
    report = metrics.read(run)
    assert report.problems == (said,)
    assert report.frame.is_empty()
    return said


@settings(max_examples=120, deadline=None)
@given(place=st.sampled_from(PLACES), value=VALUES)
def test_any_value_at_any_key(tmp_path_factory: pytest.TempPathFactory, place: tuple[str, ...], value: Any) -> None:
    said = read_everywhere(tmp_path_factory.mktemp("meta"), put(GOOD, place, value))
    if said:
        assert f": {'.'.join(place)}" in said


WRONG = {
    "loop_state": "text",
    "loop_state.total_training_time": "5",
    "loop_state.smooth_train_loss": [3.0],
    "loop_state.min_val_bpb": 10**400,
    "dataloader_state_dict": [0, 1],
    "dataloader_state_dict.pq_idx": "0",
    "dataloader_state_dict.rg_idx": -1,
    "dataloader_state_dict.epoch": 1.5,
    "total_batch_size": "1024",
    "step": -3,
    "val_bpb": {"a": 1},
    "user_config": [1],
    "user_config.depth": "2",
    "user_config.num_iterations": float("nan"),
    "user_config.matrix_lr": True,
    "user_config.run": 7,
    "model_config.n_layer": "1",
    "model_config.window_pattern": 3,
}


@pytest.mark.parametrize("key", WRONG)
def test_a_wrong_kind_is_refused_with_its_key_and_value(key: str, tmp_path: Path) -> None:
    assert read_everywhere(tmp_path, GOOD) == ""
    said = read_everywhere(tmp_path, put(GOOD, tuple(key.split(".")), WRONG[key]))
    assert f"{META}: {key} is {type(WRONG[key]).__name__} {WRONG[key]!r}"[:60] in said


def test_what_is_not_known_may_be_null_or_not_there_and_forks_may_add_keys(tmp_path: Path) -> None:
    for key in (*KINDS, "loop_state", "dataloader_state_dict"):
        place = tuple(key.split("."))
        if place in PLACES and key != "user_config":
            assert read_everywhere(tmp_path, put(GOOD, place, None)) == ""
    more = {"user_config": {"mine": {"a": [1]}}, "mine": [{}], "loop_state": {"mine": "x"}}
    assert read_everywhere(tmp_path, {"model_config": CONFIG, **more}) == ""


@needs_fixtures
def test_every_real_meta_file_is_read() -> None:
    paths = sorted(FIXTURES.glob("nanochat_*/*_checkpoints/*/meta_*.json"))
    assert len(paths) > 10
    for path in paths:
        TrainingState.of_meta(10, read_meta(path), 7)
