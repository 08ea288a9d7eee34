"""The battery of bad meta files, and the odd ones that real nanochat writes and that must open."""

import json
from pathlib import Path
from typing import Any

import pytest

from nanochat.checkpoint_manager import CheckpointError, find_runs, load_checkpoint, load_model, verify
from tests.archive_support import assert_one_line, bounded
from tests.checkpoint_support import meta_of, save_like_nanochat, tiny_config

META = "meta_000010.json"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A good run as nanochat leaves it."""
    return save_like_nanochat(tmp_path / "base_checkpoints" / "d2")


def good_meta() -> dict[str, Any]:
    return meta_of(tiny_config(), lab=False)


def with_config(**changes: Any) -> dict[str, Any]:
    meta = good_meta()
    meta["model_config"].update(changes)
    return meta


def without(key: str) -> dict[str, Any]:
    meta = good_meta()
    del meta["model_config"][key]
    return meta


REQUIRED = ["sequence_len", "vocab_size", "n_layer", "n_head", "n_kv_head", "n_embd"]
WRONG: dict[str, Any] = {
    "null": None,
    "text": "64",
    "float": 64.0,
    "true": True,
    "list": [64],
    "object": {"a": 64},
    "NaN": float("nan"),
    "Infinity": float("inf"),
    "zero": 0,
    "negative": -64,
    "10^9": 10**9,
    "10^30": 10**30,
}
METAS: dict[str, Any] = {
    "empty": "",
    "null": "null",
    "list": "[]",
    "text": '"a"',
    "no model_config": json.dumps({"step": 10}),
    "model_config null": json.dumps({**good_meta(), "model_config": None}),
    "model_config a list": json.dumps({**good_meta(), "model_config": [1]}),
    "user_config a list": json.dumps({**good_meta(), "user_config": [1]}),
    "window_pattern a number": json.dumps(with_config(window_pattern=3)),
    "window_pattern of other letters": json.dumps(with_config(window_pattern="XYZ")),
    "window_pattern empty": json.dumps(with_config(window_pattern="")),
    "unknown key in model_config": json.dumps(with_config(rope_scaling=2)),
    "heads that do not divide": json.dumps(with_config(n_head=3)),
    "heads that do not share": json.dumps(with_config(n_kv_head=4)),
    "gigantic in every field": json.dumps(with_config(**dict.fromkeys(REQUIRED, 2**31))),
    "gigantic and consistent": json.dumps(with_config(n_layer=1024, n_head=1024, n_kv_head=1024, n_embd=2**18)),
    "nested 100,000 deep": '{"model_config": ' + "[" * 100_000 + "]" * 100_000 + "}",
    "nested 100,000 deep as objects": '{"a":' * 100_000,
    "number of 100,000 digits": '{"step": ' + "9" * 100_000 + "}",
    "2 MB": json.dumps({**good_meta(), "x": "a" * 2_000_000}),
    "1 MB of empty lists": "[" + "[]," * 340_000 + "[]]",
    "not UTF-8": b'{"step": "\xff"}',
    "UTF-16": json.dumps({"step": 1}).encode("utf-16"),
    "zero bytes": bytes(500),
    "lab a list": json.dumps({**good_meta(), "lab": []}),
    "lab without its digest": json.dumps({**good_meta(), "lab": {"files": {}}}),
    "lab.files a list": json.dumps({**good_meta(), "lab": {"files": [1]}}),
}
for _key in REQUIRED:
    METAS[f"{_key} missing"] = json.dumps(without(_key))
    for _word, _value in WRONG.items():
        METAS[f"{_key} is {_word}"] = json.dumps(with_config(**{_key: _value}))


@pytest.mark.parametrize("case", METAS)
def test_meta(run: Path, case: str) -> None:
    content = METAS[case]
    (run / META).write_bytes(content if isinstance(content, bytes) else content.encode())
    with bounded(), pytest.raises(CheckpointError) as caught:
        load_model(run, 10)
    assert_one_line(caught.value, "000010")
    checked = verify(run, 10)
    assert not checked.ok
    assert checked.problems[0].isprintable()


def test_meta_half_written_at_any_byte(run: Path) -> None:
    content = (run / META).read_bytes()
    for end in range(len(content) - 1):
        (run / META).write_bytes(content[:end])
        with pytest.raises(CheckpointError) as caught:
            load_checkpoint(run, 10, "cpu")
        assert_one_line(caught.value, META)


def test_meta_with_nan_infinity_and_null_opens(run: Path) -> None:
    """nanochat writes all three."""
    meta = {**good_meta(), "val_bpb": None, "loop_state": {"min_val_bpb": float("inf"), "x": float("nan")}}
    (run / META).write_text(json.dumps(meta))
    assert "Infinity" in (run / META).read_text()
    loaded = load_model(run, 10).meta
    assert loaded["val_bpb"] is None
    assert loaded["loop_state"]["min_val_bpb"] == float("inf")


def test_meta_of_rl_has_model_config_only(run: Path) -> None:
    (run / META).write_text(json.dumps({"model_config": good_meta()["model_config"]}))
    assert load_model(run, 10).era.config.upstream() == tiny_config().upstream()


def test_a_step_that_is_not_its_names_is_noted(run: Path) -> None:
    (run / META).write_text(json.dumps({**good_meta(), "step": 99}))
    assert any("says step 99, its name says 10" in note for note in load_model(run, 10).notes)


DECOYS = [
    "model_000010.pt.tmp",
    "model_000030.pt\n",
    "model_abc.pt",
    "model_000010 (1).pt",
    "model_-00001.pt",
    "model_0000020.pt",
]
DECOYS += [
    "xmodel_000030.pt",
    "model_000030.PT",
    "model_٠٠٠٠٣٠.pt",
    "meta_000030.json.bak",
    "model_30.pt",
    ".model_000030.pt",
]


@pytest.mark.parametrize("decoy", DECOYS)
def test_decoy_step_names(run: Path, decoy: str) -> None:
    (run / decoy).write_bytes(b"decoy")
    (run / decoy.replace("model", "meta").replace(".pt", ".json")).write_text("decoy")
    found = find_runs(run.parent.parent)[0]
    assert (found.tag, found.steps, found.problems) == ("d2", (10,), ())
