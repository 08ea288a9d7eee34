"""Checkpoints listed, opened, compared, deleted and exported: what is there, what is broken, nothing else touched."""

import json
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from nanochat.analysis import checkpoint_browser as browser
from nanochat.analysis.checkpoint_browser import BrowserError, Rule, card
from nanochat.analysis.checkpoint_browser.comparison import effective_rank
from nanochat.checkpoint_manager import CheckpointError, load_checkpoint
from nanochat.durable import directory_lock
from nanochat.paths import Root
from tests.checkpoint_support import (
    meta_of,
    names,
    save_like_nanochat,
    save_ours,
    tiny_config,
    tiny_weights,
)
from tests.support import fixture_dirs, needs_fixtures


def root_of(base: Path, ours: bool = True) -> Root:
    return Root("workspace" if ours else "nanochat", base, ours, "")


def rows(base: Path) -> dict[str, dict]:
    return {row["id"]: row for row in browser.list_checkpoints([root_of(base)]).frame.iter_rows(named=True)}


def bare_step(folder: Path, number: int, val_bpb: float | None = 1.5, **changes: object) -> None:
    """A step as a list sees it: its meta, and a model file that nobody opens."""
    folder.mkdir(parents=True, exist_ok=True)
    meta = meta_of(tiny_config(), number, lab=False) | {"val_bpb": val_bpb} | changes
    (folder / f"meta_{number:06d}.json").write_text(json.dumps(meta))
    (folder / f"model_{number:06d}.pt").write_bytes(b"x" * 100)


@needs_fixtures
@pytest.mark.parametrize("base", fixture_dirs(), ids=lambda base: base.name)
def test_every_checkpoint_of_every_era_is_listed_and_opens(base: Path) -> None:
    """Against the manifest that upstream's own files were recorded in."""
    manifest = json.loads((base / "expected" / "checkpoints_manifest.json").read_text())
    found = rows(base)
    on_disk = set(base.glob("*_checkpoints/*/model_*.pt"))
    assert len(found) == len(on_disk) > 0
    assert {row["cause"] for row in found.values()} == {""}
    for name, row in found.items():
        seen = browser.inspect(browser.resolve([root_of(base)], name))
        assert seen.verification.ok
        assert seen.counts["total"] == seen.tensors["parameters"].sum()
        assert (row["layers"], row["dim"]) == (seen.config["n_layer"], seen.config["n_embd"])
        entry = json.dumps(manifest)
        assert all(tensor in entry for tensor in seen.tensors["name"])


def test_what_is_broken_is_listed_with_its_cause(tmp_path: Path) -> None:
    run = save_ours(tmp_path / "base_checkpoints" / "d2")
    for step in (20, 30, 40, 50):
        bare_step(run, step)
    (run / "model_000020.pt").unlink()
    (run / "meta_000030.json").unlink()
    (run / "meta_000040.json").write_text('{"step": 40, "model_con')
    (run / "model_000050.pt").write_bytes(b"")
    (run / "model_000050 (1).pt").write_bytes(b"x")
    (run / "meta_000060_000070.json").write_bytes(b"x")
    found = rows(tmp_path)
    assert {name: row["integrity"] for name, row in found.items()} == {
        "base/d2@10": "whole",
        "base/d2@20": "incomplete",
        "base/d2@30": "incomplete",
        "base/d2@40": "broken",
        "base/d2@50": "broken",
    }
    assert "model_000020.pt is missing" in found["base/d2@20"]["cause"]
    assert "not complete JSON" in found["base/d2@40"]["cause"]
    (problem,) = browser.list_checkpoints([root_of(tmp_path)]).problems
    assert "2 files not named as nanochat names them" in problem


@pytest.mark.parametrize(
    "changes",
    [{"model_config": None}, {"val_bpb": "low"}, {"step": -3}, {"step": 10**400}, {"user_config": []}, {"lab": None}],
    ids=lambda changes: next(iter(changes)) + str(len(str(changes))),
)
def test_a_meta_that_cannot_be_is_one_row_and_hides_no_other(tmp_path: Path, changes: dict) -> None:
    folder = tmp_path / "base_checkpoints" / "d2"
    bare_step(folder, 10, **changes)
    bare_step(folder, 20)
    found = rows(tmp_path)
    assert (found["base/d2@10"]["integrity"], found["base/d2@20"]["integrity"]) == ("broken", "unverified")
    assert "\n" not in found["base/d2@10"]["cause"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None])
def test_a_loss_that_is_no_number_is_sorted_last(tmp_path: Path, value: float | None) -> None:
    folder = tmp_path / "base_checkpoints" / "d2"
    for step, loss in ((10, 2.0), (20, value), (30, 1.0)):
        bare_step(folder, step, loss)
    frame = browser.sort_rows(browser.list_checkpoints([root_of(tmp_path)]).frame, "val_bpb")
    assert frame["step"].to_list() == [30, 10, 20]


def test_names_that_mean_a_checkpoint(tmp_path: Path) -> None:
    base = save_like_nanochat(tmp_path / "base_checkpoints" / "d2")
    save_like_nanochat(tmp_path / "chatsft_checkpoints" / "d2", 7)
    bare_step(tmp_path / "base_checkpoints" / "d4", 5)
    bare_step(tmp_path / "base_checkpoints" / "d4", 9)
    roots = [root_of(tmp_path)]
    for name, wanted in {
        "d4": "base/d4@9",
        "d4@5": "base/d4@5",
        "sft/d2": "sft/d2@7",
        "workspace:base/d2": "base/d2@10",
        str(base): "base/d2@10",
        str(base / "model_000010.pt"): "base/d2@10",
    }.items():
        assert browser.resolve(roots, name).id == wanted
    assert browser.resolve(roots, "d2", source="sft").id == "sft/d2@7"
    for name, step, sentence in (
        ("d2", None, "fits more than one run: base/d2, sft/d2"),
        ("d9", None, "there are: base/d2, base/d4, sft/d2"),
        ("d4@5", 6, "give one of the two"),
        ("../../etc", None, "there is no run"),
        ("a\x1b[31m", None, "there is no run 'a\\x1b[31m'"),
    ):
        with pytest.raises(BrowserError) as caught:
            browser.resolve(roots, name, step=step)
        assert sentence in str(caught.value)
    with pytest.raises(CheckpointError, match="complete steps: 5, 9"):
        browser.resolve(roots, "d4", step=6)
    with pytest.raises(BrowserError, match="no runs there"):
        browser.resolve([root_of(tmp_path / "nowhere")], "d2")


def two_runs(base: Path) -> tuple[browser.Reference, browser.Reference]:
    weights = tiny_weights(tiny_config())
    save_like_nanochat(base / "base_checkpoints" / "d2", 10, weights)
    changed = {name: weight.clone() for name, weight in weights.items()}
    matrix = "transformer.h.0.mlp.c_fc.weight"
    changed[matrix] += torch.outer(torch.ones(128), torch.arange(32.0)) / 100  # one direction
    changed["lm_head.weight"] = 2 * weights["lm_head.weight"]
    changed["transformer.wte.weight"] = changed["transformer.wte.weight"].bfloat16()
    save_like_nanochat(base / "base_checkpoints" / "d2", 20, changed)
    roots = [root_of(base)]
    return browser.resolve(roots, "d2@10"), browser.resolve(roots, "d2@20")


def test_the_difference_of_tensors_is_torchs(tmp_path: Path) -> None:
    a, b = two_runs(tmp_path)
    report = browser.compare_tensors(a, b)
    left, right = (load_checkpoint(one.folder, one.step, "cpu")[0] for one in (a, b))
    for row in report.frame.iter_rows(named=True):
        x, y = (side[row["name"]].double().flatten() for side in (left, right))
        assert row["norm_a"] == pytest.approx(x.norm().item())
        assert row["difference"] == pytest.approx((y - x).norm().item())
        assert row["largest"] == pytest.approx((y - x).abs().max().item())
        assert row["state"] == ("same" if torch.equal(x, y) else "changed")
        if x.norm() > 0:
            assert row["cosine"] == pytest.approx(torch.nn.functional.cosine_similarity(x, y, 0).item())
    by_name = {row["name"]: row for row in report.frame.iter_rows(named=True)}
    assert by_name["transformer.h.0.mlp.c_fc.weight"]["effective_rank"] == pytest.approx(1, abs=1e-3)
    assert by_name["lm_head.weight"]["cosine"] == pytest.approx(1)
    assert by_name["lm_head.weight"]["relative"] == pytest.approx(1)
    singular = torch.linalg.svdvals(left["lm_head.weight"].double())
    shares = singular / singular.sum()
    wanted = torch.exp(-(shares * shares.log()).sum()).item()
    assert by_name["lm_head.weight"]["effective_rank"] == pytest.approx(wanted)


def test_pieces_do_not_change_the_difference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = two_runs(tmp_path)
    whole = browser.compare_tensors(a, b).frame
    monkeypatch.setattr("nanochat.analysis.checkpoint_browser.streams.PIECE", 100)
    apart = browser.compare_tensors(a, b).frame
    assert whole["state"].to_list() == apart["state"].to_list()
    assert np.allclose(whole["difference"].to_numpy(), apart["difference"].to_numpy(), rtol=1e-12)
    assert np.allclose(whole["effective_rank"].drop_nulls(), apart["effective_rank"].drop_nulls(), rtol=1e-6)


def test_models_of_other_shapes_are_compared_where_they_can_be(tmp_path: Path) -> None:
    from nanochat.checkpoint_manager import save_checkpoint

    a = save_ours(tmp_path / "base_checkpoints" / "d2")
    config = tiny_config(n_layer=3)
    other = tmp_path / "base_checkpoints" / "d3"
    save_checkpoint(other, 10, tiny_weights(config), None, meta_of(config), tokenizer=None)
    one, two = (browser.resolve([root_of(tmp_path)], str(folder)) for folder in (a, other))
    states = set(browser.compare_tensors(one, two).frame["state"])
    assert {"another shape", "only in B"} <= states
    made = browser.compare(one, two)
    assert made.config.filter(made.config["key"] == "n_layer").row(0) == ("n_layer", "2", "3", False)


def test_a_flipped_bit_and_weights_that_are_no_numbers_are_found(tmp_path: Path) -> None:
    a, b = two_runs(tmp_path)
    weights = load_checkpoint(b.folder, b.step, "cpu")[0]
    weights["lm_head.weight"][0, 0] = float("nan")
    torch.save(weights, b.folder / "model_000020.pt")
    report = browser.compare_tensors(a, b)
    (row,) = report.frame.filter(report.frame["name"] == "lm_head.weight").iter_rows(named=True)
    assert (row["state"], row["cosine"]) == ("not finite", None)
    path = a.folder / "model_000010.pt"
    content = bytearray(path.read_bytes())
    content[content.index(weights["transformer.h.1.mlp.c_fc.weight"].numpy().tobytes()[:64])] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="CRC-32"):
        browser.compare_tensors(a, b)


def test_effective_rank_of_known_matrices() -> None:
    assert effective_rank(np.eye(7)) == pytest.approx(7)
    assert effective_rank(np.outer([1, 2.0], [1, 2.0])) == pytest.approx(1)


def a_long_run(base: Path) -> Path:
    folder = base / "base_checkpoints" / "d2"
    for step in range(100, 1100, 100):
        bare_step(folder, step, abs(step - 400) / 1000 + 1)
        (folder / f"optim_{step:06d}_rank0.pt").write_bytes(b"o" * 50)
    (folder / "model_002000.pt").write_bytes(b"half")
    (folder / "notes.txt").write_text("mine")
    return folder


def test_a_dry_run_changes_nothing_and_tells_all(tmp_path: Path) -> None:
    folder = a_long_run(tmp_path)
    before = names(folder)
    plan = browser.plan(folder, Rule(keep_last=2, keep_every=500))
    assert dict(plan.kept) == {
        400: "the best by val_bpb",
        500: "every 500th",
        900: "one of the last 2",
        1000: "one of the last 2",
        2000: "incomplete: it goes with --incomplete",
    }
    assert plan.go == (100, 200, 300, 600, 700, 800)
    assert plan.freed == sum((folder / name).stat().st_size for name, _ in plan.files)
    assert plan.freed == sum(plan.size_of(step) for step in plan.go)
    assert names(folder) == before


def test_deleting_takes_what_was_named_and_nothing_else(tmp_path: Path) -> None:
    folder = a_long_run(tmp_path)
    beside = tmp_path / "base_checkpoints" / "d4"
    bare_step(beside, 100)
    plan = browser.plan(folder, Rule(incomplete=True))
    gone = {name for name, _ in plan.files}
    before = set(names(folder))
    assert browser.carry_out(plan) == plan.freed
    assert set(names(folder)) - {".lock"} == before - gone
    assert {"notes.txt", "model_000400.pt", "model_001000.pt"} <= set(names(folder))
    assert "model_002000.pt" not in names(folder)
    assert names(beside) == ["meta_000100.json", "model_000100.pt"]


def test_deleting_refuses(tmp_path: Path) -> None:
    folder = a_long_run(tmp_path)
    plan = browser.plan(folder)
    bare_step(folder, 1100)
    with pytest.raises(BrowserError, match="has changed since"):
        browser.carry_out(plan)
    with directory_lock(folder), pytest.raises(CheckpointError, match="already writing here"):
        browser.carry_out(browser.plan(folder))
    with pytest.raises(BrowserError, match="delete every checkpoint"):
        browser.plan(folder, Rule(keep_last=0, keep_best=False))
    with pytest.raises(BrowserError, match="no step 7"):
        browser.plan(folder, Rule(steps=(7,)))
    link = tmp_path / "base_checkpoints" / "d9"
    os.symlink(folder, link)
    with pytest.raises(BrowserError, match="this is a link"):
        browser.plan(link)
    elsewhere = tmp_path / "precious"
    bare_step(elsewhere, 10)
    with pytest.raises(BrowserError, match="nowhere else"):
        browser.plan(elsewhere)
    assert len(list(folder.glob("model_*.pt"))) == 12


def test_one_step_goes_and_the_last_stays_even_when_named(tmp_path: Path) -> None:
    folder = a_long_run(tmp_path)
    assert browser.plan(folder, Rule(steps=(300,))).go == (300,)
    plan = browser.plan(folder, Rule(steps=(1000,)))
    assert plan.go == ()
    assert "stays although it was named" in plan.notes[0]


def test_an_export_holds_the_same_weights_and_its_card_opens_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = two_runs(tmp_path)
    done = browser.export(b, tmp_path / "out")
    weights = load_checkpoint(b.folder, b.step, "cpu")[0]
    content = (tmp_path / "out" / "model.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    assert length % 8 == 0
    assert header.pop("__metadata__")["step"] == "20"
    assert header["transformer.wte.weight"]["dtype"] == "BF16"
    assert list(header) == list(weights)
    for name, entry in header.items():
        start, end = (8 + length + place for place in entry["data_offsets"])
        assert content[start:end] == weights[name].contiguous().view(torch.uint8).numpy().tobytes()
    text = (tmp_path / "out" / "README.md").read_text()
    assert done.sha256 in text
    assert card.OPENING.rstrip() in text
    monkeypatch.chdir(tmp_path / "out")
    opened: dict = {}
    exec(card.OPENING, opened)
    assert sum(p.numel() for p in opened["model"].parameters()) == sum(w.numel() for w in weights.values())
    with pytest.raises(BrowserError, match="already there"):
        browser.export(a, tmp_path / "out")


def test_a_damaged_checkpoint_is_not_exported(tmp_path: Path) -> None:
    run = save_ours(tmp_path / "base_checkpoints" / "d2")
    path = run / "model_000010.pt"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(BrowserError, match="is not exported"):
        browser.export(browser.resolve([root_of(tmp_path)], "d2"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_both_answer_the_same_prompt(tmp_path: Path) -> None:
    run = save_ours(tmp_path / "chatsft_checkpoints" / "d2")
    save_ours(run, 20, seed=1)
    roots = [root_of(tmp_path)]
    a, b = browser.resolve(roots, "d2@10"), browser.resolve(roots, "d2@20")
    (first,) = browser.answers(a, b, ["Hello"], 8)
    (same,) = browser.answers(a, a, ["Hello"], 8)
    assert (same.a, same.a) == (same.b, first.a)
    with pytest.raises(BrowserError, match="empty"):
        browser.answers(a, b, ["  "])
