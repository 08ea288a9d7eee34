"""Finding runs and their complete steps, and choosing the one that is meant."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from nanochat import paths
from nanochat.checkpoint_manager import (
    CheckpointError,
    choose_run,
    find_last_step,
    find_runs,
    load_model,
    load_model_from,
    verify,
)
from tests.archive_support import assert_one_line
from tests.checkpoint_support import save_like_nanochat, save_ours


def test_what_is_incomplete_is_named_and_the_rest_is_listed(tmp_path: Path) -> None:
    folder = tmp_path / "base_checkpoints" / "d2"
    for step in (5, 10, 15, 20, 25):
        save_ours(folder, step)
    (folder / "meta_000005.json").unlink()
    (folder / "model_000010.pt").unlink()
    (folder / "meta_000015.json").write_text("{")
    os.truncate(folder / "model_000020.pt", 1000)
    save_like_nanochat(tmp_path / "chatsft_checkpoints" / "d2", 7)
    (tmp_path / "chatrl_checkpoints").write_text("not a folder")
    (tmp_path / "base_checkpoints" / "notes.txt").write_text("not a run")
    (tmp_path / "base_checkpoints" / "empty").mkdir()
    base, empty, sft = find_runs(tmp_path)
    assert (base.stage, base.tag, base.steps) == ("base", "d2", (25,))
    assert [re.sub(r"/.*/", "", problem)[:46] for problem in base.problems] == [
        "step 5: model_000005.pt has no meta_000005.jso",
        "step 10: meta_000010.json has no model_000010.",
        "step 15: meta_000015.json: not complete JSON (",
        f"step 20: model_000020.pt: 1,000 bytes where {(folder / 'model_000025.pt').stat().st_size:,}"[:46],
    ]
    assert (empty.tag, empty.steps, empty.problems) == ("empty", (), ())
    assert (sft.stage, sft.steps) == ("sft", (7,))
    assert find_last_step(folder) == 25
    assert find_runs(tmp_path / "nowhere") == []


def test_a_folder_without_a_complete_step(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(CheckpointError, match="name the folder of a run") as caught:
            load_model(folder)
        assert_one_line(caught.value, folder.name)


def test_finding_needs_no_torch(tmp_path: Path) -> None:
    save_ours(tmp_path / "base_checkpoints" / "d2")
    code = (
        "import sys; from nanochat.checkpoint_manager import find_runs, find_last_step\n"
        "print([(run.tag, run.steps, run.problems) for run in find_runs(sys.argv[1])])\n"
        "assert 'torch' not in sys.modules"
    )
    root = Path(__file__).parents[1]
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout == "[('d2', (10,), ())]\n"


def test_which_run_is_meant(tmp_path: Path) -> None:
    def tag(model_tag: str | None = None, source: str = "base") -> str:
        return choose_run(tmp_path, source, model_tag)[0].tag

    def refusal(model_tag: str | None = None, source: str = "base") -> str:
        with pytest.raises(CheckpointError) as caught:
            choose_run(tmp_path, source, model_tag)
        assert str(caught.value).isprintable()
        return str(caught.value)

    assert "no runs there" in refusal()
    for name in ("first", "second"):
        save_like_nanochat(tmp_path / "base_checkpoints" / name)
    os.utime(tmp_path / "base_checkpoints" / "first" / "meta_000010.json", (2e9, 2e9))
    assert tag() == "first"  # no depth in any name: changed last
    for name in ("d4", "d12_long"):
        save_like_nanochat(tmp_path / "base_checkpoints" / name)
    assert tag() == "d12_long"
    assert choose_run(tmp_path, "base")[1] == "the greatest depth there"
    (tmp_path / "base_checkpoints" / "d20").mkdir()
    assert tag() == "d12_long"  # d20 holds nothing yet
    save_like_nanochat(tmp_path / "base_checkpoints" / "d12")
    assert "base_checkpoints/d12, base_checkpoints/d12_long" in refusal()
    assert tag("d4") == "d4"
    assert "'d5'" in refusal("d5")
    assert "d4, d12" in refusal("d5")
    assert "base, mid, sft, rl" in refusal(source="pretrain")
    for stage in ("sft_checkpoints", "chatsft_checkpoints"):
        save_like_nanochat(tmp_path / stage / "d4")
    assert "chatsft_checkpoints/d4, sft_checkpoints/d4" in refusal("d4", "sft")
    assert choose_run(tmp_path, "sft", "sft_checkpoints/d4")[0].folder == tmp_path / "sft_checkpoints" / "d4"
    assert choose_run(tmp_path, "sft", "sft/old/d4")[0].folder == tmp_path / "sft_checkpoints" / "d4"
    assert choose_run(tmp_path, "sft", "sft/d4")[0].folder == tmp_path / "chatsft_checkpoints" / "d4"
    assert tag("base/d4") == "d4"
    assert "'sft/d4'" in refusal("sft/d4")  # another stage than was asked for
    assert "base d4" in refusal(source="rl")  # no run of that stage: the others are named
    loaded = load_model_from(tmp_path, "base", "d4")
    assert loaded.notes[0] == f"run {tmp_path / 'base_checkpoints' / 'd4'}: named by its tag"


def test_a_path_that_is_no_base_dir_is_named_as_such(tmp_path: Path) -> None:
    save_like_nanochat(tmp_path / "base_checkpoints" / "d4")
    (tmp_path / "file").write_text("x")
    for place, words in (
        (tmp_path / "missing", "does not exist"),
        (tmp_path / "file", "not a folder"),
        (tmp_path / "base_checkpoints", f"name the base dir, {tmp_path}"),
        (tmp_path / "base_checkpoints" / "d4", f"name the base dir, {tmp_path}"),
    ):
        with pytest.raises(CheckpointError, match=re.escape(words)):
            choose_run(place, "base")


def test_of_several_base_dirs_the_first_with_a_fitting_run_decides(tmp_path: Path) -> None:
    save_like_nanochat(tmp_path / "b" / "base_checkpoints" / "d4")
    save_like_nanochat(tmp_path / "c" / "base_checkpoints" / "d12")
    places = [tmp_path / name for name in "abc"]
    assert choose_run(places, "base")[0].tag == "d4"
    assert choose_run(places, "base", "d12")[0].tag == "d12"
    with pytest.raises(CheckpointError, match="d4, d12"):
        choose_run(places, "base", "d5")


def test_a_name_with_its_root_is_looked_for_there() -> None:
    ours, theirs = (root.path for root in paths.roots())
    for place in (ours, theirs):
        save_like_nanochat(place / "base_checkpoints" / "d4")
    found = [choose_run([ours, theirs], "base", name)[0].folder.parents[1] for name in ("d4", "nanochat:base/d4")]
    assert found == [ours, theirs]
    save_like_nanochat(ours / "base_checkpoints" / "nanochat:d4")
    assert choose_run([ours, theirs], "base", "nanochat:d4")[0].folder.parents[1] == ours, "a tag comes first"
    (ours / "base_checkpoints" / "nanochat:d4").rename(ours / "base_checkpoints" / "x")
    with pytest.raises(CheckpointError, match="nanochat:d4"):
        choose_run([ours], "base", "nanochat:d4")


def test_a_step_that_is_not_there_names_those_that_are(tmp_path: Path) -> None:
    save_like_nanochat(tmp_path / "d4")
    for step in (99, -1, "10", 1.0):
        with pytest.raises(CheckpointError, match="complete steps: 10"):
            load_model(tmp_path / "d4", step)
    assert "complete steps: 10" in verify(tmp_path / "d4", 99).problems[0]
