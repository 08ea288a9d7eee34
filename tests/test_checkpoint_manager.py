"""Saving, finding and opening checkpoints: parity with real runs, nanochat's format, durability, ties."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nanochat import checkpoint_manager as manager
from nanochat.checkpoint_files import CheckpointError, optimizer_name
from nanochat.checkpoint_manager import (
    choose_run,
    find_runs,
    load_checkpoint,
    load_model,
    load_model_from,
    save_checkpoint,
    verify,
)
from nanochat.gpt import parameter_shapes
from tests.archive_support import assert_one_line, flip, same
from tests.checkpoint_support import (
    make_tokenizer,
    meta_of,
    names,
    save_like_nanochat,
    save_ours,
    tiny_config,
    tiny_optimizer,
    tiny_weights,
)
from tests.support import FIXTURES, fixture_dirs, needs_fixtures

# ---- real runs ----


def real_steps() -> list[tuple[Path, str, str, int]]:
    return [
        (base, run.stage, run.tag, step) for base in fixture_dirs() for run in find_runs(base) for step in run.steps
    ]


def manifest(base: Path) -> dict[str, Any]:
    return json.loads((base / "expected" / "checkpoints_manifest.json").read_text())


@needs_fixtures
def test_every_real_run_is_found_without_a_problem() -> None:
    for base in fixture_dirs():
        expected = {
            (path.parent.parent.name, path.parent.name, int(path.stem[6:]))
            for path in base.glob("*_checkpoints/*/model_*.pt")
        }
        runs = find_runs(base)
        assert {(run.folder.parent.name, run.tag, step) for run in runs for step in run.steps} == expected
        assert not [problem for run in runs for problem in run.problems]


@needs_fixtures
@pytest.mark.parametrize(
    ("base", "stage", "tag", "step"),
    real_steps(),
    ids=lambda part: part.name if isinstance(part, Path) else str(part),
)
def test_every_real_checkpoint_opens(base: Path, stage: str, tag: str, step: int) -> None:
    """Keys, shapes and dtypes of the manifest, in its order; the model has them too; what we save has them again."""
    loaded = load_model_from(base, stage, tag, step)
    folder = choose_run(base, stage, tag)[0].folder
    model_data, optimizer_data, meta = load_checkpoint(folder, step, "cpu")
    assert optimizer_data is None
    listed = manifest(base)[f"{folder.parent.name}/{tag}/model_{step:06d}.pt"]["tensors"]
    assert {name: [list(weight.shape), str(weight.dtype)] for name, weight in model_data.items()} == listed
    assert list(model_data) == list(listed)
    assert {name: list(shape) for name, shape in parameter_shapes(loaded.era.config).items()} == {
        name: shape for name, (shape, _) in listed.items()
    }
    for name, parameter in loaded.model.state_dict().items():
        assert parameter.dtype == torch.float32
        assert same(parameter, model_data[name].float())
    assert same(meta, manifest(base)[f"{folder.parent.name}/{tag}/meta_{step:06d}.json"]["meta"])
    assert verify(folder, step, full=True).ok
    assert not loaded.model.training
    assert any("unverified" in note for note in loaded.notes)


@needs_fixtures
def test_every_real_optimizer_state_is_readable() -> None:
    """All three layouts: list of two with and without stacking, one dict; under both file names."""

    def described(tree: Any) -> Any:
        if isinstance(tree, torch.Tensor):
            return f"tensor{list(tree.shape)} {tree.dtype}"
        if isinstance(tree, dict):
            return {str(key): described(value) for key, value in tree.items()}
        return [described(value) for value in tree] if isinstance(tree, list | tuple) else tree

    seen = 0
    for base in fixture_dirs():
        for path in sorted(base.glob("*_checkpoints/*/optim_*.pt")):
            step = int(path.name[6:12])
            _, state, _ = load_checkpoint(path.parent, step, "cpu", load_optimizer=True)
            assert described(state) == manifest(base)[str(path.relative_to(base))]["structure"], path
            seen += 1
    assert seen == len(list(FIXTURES.glob("nanochat_*/*_checkpoints/*/optim_*.pt"))) >= 11


@needs_fixtures
@pytest.mark.parametrize("base", fixture_dirs(), ids=lambda base: base.name)
def test_what_we_write_is_nanochats_format(base: Path, tmp_path: Path) -> None:
    """A real checkpoint saved again by us: torch alone opens it, and everything but our own key is as it was."""
    run = find_runs(base)[0]
    step = run.steps[-1]
    has_optimizer = (run.folder / optimizer_name(step)).exists()
    model_data, optimizer_data, meta = load_checkpoint(run.folder, step, "cpu", has_optimizer)
    save_checkpoint(tmp_path / "base_checkpoints" / run.tag, step, model_data, optimizer_data, meta)
    ours = tmp_path / "base_checkpoints" / run.tag
    listed = manifest(base)
    again = torch.load(ours / f"model_{step:06d}.pt", weights_only=True)
    assert {name: [list(weight.shape), str(weight.dtype)] for name, weight in again.items()} == listed[
        f"base_checkpoints/{run.tag}/model_{step:06d}.pt"
    ]["tensors"]
    assert same(again, torch.load(run.folder / f"model_{step:06d}.pt", weights_only=True) | {})
    written = json.loads((ours / f"meta_{step:06d}.json").read_text())
    assert written.pop("lab")["files"].keys() >= {f"model_{step:06d}.pt"}
    assert same(written, listed[f"base_checkpoints/{run.tag}/meta_{step:06d}.json"]["meta"])
    if has_optimizer:
        state = torch.load(ours / optimizer_name(step), weights_only=True)
        assert same(state, optimizer_data)
    shutil.copytree(base / "tokenizer", tmp_path / "tokenizer")
    assert load_model(ours).notes[0].startswith("verified")


# ---- save and open ----


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    folder = save_ours(tmp_path / "base_checkpoints" / "d2", seed=3)
    assert names(folder) == [".lock", "meta_000010.json", "model_000010.pt", "optim_000010_rank0.pt", "tokenizer.json"]
    model_data, optimizer_data, meta = load_checkpoint(folder, 10, "cpu", load_optimizer=True)
    assert same(model_data, tiny_weights(tiny_config(), 3))
    assert same(optimizer_data, tiny_optimizer(3))
    assert meta["model_config"] == tiny_config().upstream()
    loaded = load_model(folder)
    assert loaded.era.config == tiny_config()
    assert loaded.notes[0] == "verified: every byte has the SHA-256 that was saved"
    assert any("beside the checkpoint" in note for note in loaded.notes)
    checked = verify(folder, 10, full=True)
    assert (checked.ok, checked.problems) == (True, ())
    assert "SHA-256" in checked.level


def test_compiled_models_lose_their_prefix(tmp_path: Path) -> None:
    weights = {f"_orig_mod.{name}": weight for name, weight in tiny_weights(tiny_config()).items()}
    folder = save_like_nanochat(tmp_path / "base_checkpoints" / "d2", weights=weights)
    assert load_model(folder).model.state_dict().keys() >= tiny_weights(tiny_config()).keys()
    assert not any(name.startswith("_orig_mod") for name in load_checkpoint(folder, 10, "cpu")[0])


@pytest.mark.parametrize(
    ("dtype", "word"), [(torch.bfloat16, "bf16"), (torch.float16, "fp16"), (torch.float64, "fp64")]
)
def test_other_precisions_become_float32_on_a_cpu(tmp_path: Path, dtype: torch.dtype, word: str) -> None:
    weights = tiny_weights(tiny_config())
    weights["transformer.wte.weight"] = weights["transformer.wte.weight"].to(dtype)
    folder = save_like_nanochat(tmp_path / "base_checkpoints" / "d2", weights=weights)
    loaded = load_model(folder)
    assert f"{word} embeddings converted to fp32 (1 tensors)" in loaded.notes
    assert loaded.model.state_dict()["transformer.wte.weight"].dtype == torch.float32
    assert load_checkpoint(folder, 10, "cpu")[0]["transformer.wte.weight"].dtype == dtype


def test_weights_that_share_or_waste_a_storage_are_saved_in_their_own(tmp_path: Path) -> None:
    """A slice would drag its whole storage into the file, and our own loader refuses shared ones."""
    weights = tiny_weights(tiny_config())
    both = torch.randn(2, *weights["lm_head.weight"].shape)
    weights["lm_head.weight"], weights["transformer.wte.weight"] = both[0], both[1].T.contiguous().T
    save_checkpoint(tmp_path / "d2", 1, weights, None, meta_of(tiny_config(), 1), tokenizer=make_tokenizer())
    assert same(load_checkpoint(tmp_path / "d2", 1, "cpu")[0], weights)
    assert load_model(tmp_path / "d2")


def test_an_optimizer_that_is_not_there(tmp_path: Path) -> None:
    folder = save_like_nanochat(tmp_path / "base_checkpoints" / "d2")
    with pytest.raises(CheckpointError, match="has no optimizer state of rank 0") as caught:
        load_checkpoint(folder, 10, "cpu", load_optimizer=True)
    assert_one_line(caught.value, "d2")
    torch.save([tiny_optimizer()], folder / "optim_000010.pt")  # the name before 2025-11-13
    assert same(load_checkpoint(folder, 10, "cpu", True)[1], [tiny_optimizer()])
    with pytest.raises(CheckpointError, match="rank 1"):
        load_checkpoint(folder, 10, "cpu", True, 1)


def test_a_file_of_the_step_that_is_gone(tmp_path: Path) -> None:
    folder = save_ours(tmp_path / "base_checkpoints" / "d2")
    (folder / optimizer_name(10)).unlink()
    assert "gone" in verify(folder, 10).problems[0]
    assert load_model(folder)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_every_flipped_bit_of_a_checkpoint_of_ours_is_found(tmp_path: Path, data: st.DataObject) -> None:
    folder = tmp_path / "base_checkpoints" / "d2"
    if not folder.exists():
        save_ours(folder)
    name = data.draw(st.sampled_from(["model_000010.pt", "meta_000010.json", optimizer_name(10)]))
    position = data.draw(st.integers(0, (folder / name).stat().st_size - 1))
    bit = 1 << data.draw(st.integers(0, 7))
    flip(folder / name, position, bit)
    try:
        checked = verify(folder, 10, full=True)
        assert not checked.ok
        assert all(problem.isprintable() and name in problem for problem in checked.problems)
        with pytest.raises(CheckpointError) as caught:
            load_checkpoint(folder, 10, "cpu", load_optimizer=True)
        assert_one_line(caught.value, name)
    finally:
        flip(folder / name, position, bit)
    assert verify(folder, 10, full=True).ok


def test_every_bit_of_meta_counts(tmp_path: Path) -> None:
    """All of them: a loss or a learning rate must not change in silence either."""
    folder = save_ours(tmp_path / "base_checkpoints" / "d2")
    path = folder / "meta_000010.json"
    for position in range(path.stat().st_size):
        flip(path, position, 1 << position % 8)
        with pytest.raises(CheckpointError):
            manager.read_meta(path)
        flip(path, position, 1 << position % 8)
    assert manager.read_meta(path)["step"] == 10


def test_meta_edited_by_hand_says_how_to_go_on(tmp_path: Path) -> None:
    folder = save_ours(tmp_path / "base_checkpoints" / "d2")
    path = folder / "meta_000010.json"
    meta = json.loads(path.read_text())
    path.write_text(json.dumps({**meta, "val_bpb": 0.1}))
    with pytest.raises(CheckpointError, match='remove its "lab" entry'):
        load_model(folder, 10)
    del meta["lab"]
    path.write_text(json.dumps(meta))
    assert load_model(folder, 10).notes[0].startswith("unverified")


# ---- the tie to the tokenizer ----


def test_another_tokenizer_of_the_same_size_is_told_by_its_fingerprint(tmp_path: Path) -> None:
    """nanochat overwrites the base dir's tokenizer and breaks older checkpoints in silence."""
    folder = save_ours(tmp_path / "base_checkpoints" / "d2")
    make_tokenizer(first=5).save(tmp_path / "tokenizer")
    with pytest.raises(CheckpointError, match="not the tokenizer that this model was trained with") as caught:
        load_model(folder, tokenizer_dir=tmp_path / "tokenizer")
    assert_one_line(caught.value, "tokenizer")
    assert load_model(folder).tokenizer.fingerprint == make_tokenizer().fingerprint  # its own travels with it
    (folder / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match="retrained"):
        load_model(folder)
    make_tokenizer().save(tmp_path / "tokenizer", overwrite=True)
    assert any("the base dir's" in note for note in load_model(folder).notes)


def test_a_folder_keeps_to_one_tokenizer(tmp_path: Path) -> None:
    folder = save_ours(tmp_path / "base_checkpoints" / "d2", step=1)
    with pytest.raises(CheckpointError, match="another tokenizer"):
        save_ours(folder, step=2, tokenizer=make_tokenizer(first=5))
    assert find_runs(tmp_path)[0].steps == (1,)
    assert load_model(folder)
    (folder / "meta_000001.json").unlink()  # nothing committed: nothing to break
    save_ours(folder, step=2, tokenizer=make_tokenizer(first=5))
    assert load_model(folder).tokenizer.fingerprint == make_tokenizer(first=5).fingerprint
