"""The two roots, what they take on disk, and the check that `kernels` is ours."""

import importlib.machinery
import importlib.util
import os
from pathlib import Path

import pytest

from nanochat import paths


def test_roots_come_from_the_environment_ours_first(monkeypatch, tmp_path):
    monkeypatch.setenv("NANOCHAT_LAB_DIR", str(tmp_path / "lab"))
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path / "theirs"))
    ours, theirs = paths.roots()
    assert (ours.path, ours.ours, ours.variable) == (tmp_path / "lab", True, "NANOCHAT_LAB_DIR")
    assert (theirs.path, theirs.ours, theirs.variable) == (tmp_path / "theirs", False, "NANOCHAT_BASE_DIR")
    assert not list(tmp_path.iterdir()), "naming a root must not create it"


@pytest.mark.parametrize("value", [None, ""])
def test_defaults_lie_in_the_cache_folder(monkeypatch, value):
    for variable in ("NANOCHAT_LAB_DIR", "NANOCHAT_BASE_DIR"):
        if value is None:
            monkeypatch.delenv(variable)
        else:
            monkeypatch.setenv(variable, value)
    assert paths.workspace() == Path.home() / ".cache" / "nanochat-lab"
    assert paths.nanochat_base_dir() == Path.home() / ".cache" / "nanochat"


def test_a_relative_path_and_a_tilde_become_absolute(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NANOCHAT_LAB_DIR", "here")
    monkeypatch.setenv("NANOCHAT_BASE_DIR", "~/there")
    assert paths.workspace() == tmp_path / "here"
    assert paths.nanochat_base_dir() == Path.home() / "there"


def test_one_folder_for_both_is_listed_once_as_ours(monkeypatch, tmp_path):
    monkeypatch.setenv("NANOCHAT_LAB_DIR", str(tmp_path))
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path))
    assert [root.ours for root in paths.roots()] == [True]


def test_disk_use_counts_every_file_once_and_follows_no_link(tmp_path):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "a").write_bytes(b"x" * 100)
    (tmp_path / "deep" / "er" / "b").write_bytes(b"x" * 23)
    outside = tmp_path.parent / "outside"
    outside.mkdir(exist_ok=True)
    (outside / "big").write_bytes(b"x" * 5000)
    (tmp_path / "link").symlink_to(outside)
    (tmp_path / "deep" / "loop").symlink_to(tmp_path)
    used = paths.disk_use(tmp_path)
    assert 123 <= used.size < 1000  # the links themselves are a few bytes long
    assert (used.files, used.complete) == (4, True)


def test_disk_use_of_nothing_and_beyond_its_limit(tmp_path):
    assert paths.disk_use(tmp_path / "absent") == paths.DiskUse(0, 0, True)
    for number in range(5):
        (tmp_path / str(number)).write_bytes(b"x")
    assert paths.disk_use(tmp_path, max_files=3) == paths.DiskUse(3, 3, False)


def test_disk_use_says_when_a_part_cannot_be_read(tmp_path, monkeypatch):
    (tmp_path / "closed").mkdir()
    real = os.scandir

    def guarded(path):
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", guarded)
    assert not paths.disk_use(tmp_path).complete


def test_folder_problem_in_words(tmp_path, monkeypatch):
    assert paths.folder_problem(tmp_path) is None
    assert paths.folder_problem(tmp_path / "absent") is None
    (tmp_path / "file").write_bytes(b"")
    assert paths.folder_problem(tmp_path / "file") == "it is not a folder"
    assert "Not a directory" in paths.folder_problem(tmp_path / "file" / "below")
    (tmp_path / "dangling").symlink_to(tmp_path / "absent")
    assert "does not exist" in paths.folder_problem(tmp_path / "dangling")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert "symbolic link" in paths.folder_problem(tmp_path / "loop")
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert paths.folder_problem(tmp_path) == "you may not read it"


def test_our_kernels_package_is_found():
    assert paths.kernels_problem() is None


def test_a_foreign_kernels_package_is_named(monkeypatch, tmp_path):
    foreign = tmp_path / "site-packages" / "kernels" / "__init__.py"
    spec = importlib.machinery.ModuleSpec("kernels", None, origin=str(foreign))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    sentence = paths.kernels_problem()
    assert sentence is not None
    assert str(foreign.parent) in sentence
    assert "pip uninstall kernels" in sentence
    assert "\n" not in sentence


def test_a_missing_kernels_package_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "install the project again" in paths.kernels_problem()


@pytest.mark.parametrize(
    "tag", ["", ".", "..", "../x", "a/b", "/abs", "a\\b", "a\nb", "\x1b[31m", "a\0b", " a", "x" * 101]
)
def test_a_name_that_would_leave_its_place_is_refused(tag, tmp_path):
    with pytest.raises(paths.TagError, match="cannot be a run's folder"):
        paths.run_folder(tmp_path, "base", tag)


def test_a_plain_name_is_a_folder_of_its_stage(tmp_path):
    assert paths.run_folder(tmp_path, "sft", "d4_bf16.v2") == tmp_path / "chatsft_checkpoints" / "d4_bf16.v2"
