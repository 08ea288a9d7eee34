"""Home as a person meets it: on a fresh machine, with real runs, with broken ones, with a root that is none."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from nanochat import paths
from nanochat.checkpoint_manager import Run
from nanochat.device import DeviceError, choose_device
from nanochat.paths import DiskUse, Root, readable_size
from nanochat.ui import errors
from nanochat.ui.roots import (
    RootReport,
    another_folder_command,
    chat_command,
    disk_sentence,
    removal_command,
    run_rows,
    survey,
)
from nanochat.ui.text import visible
from tests.support import fixture_dirs, needs_fixtures

HOME = Path(__file__).parents[1] / "Home.py"


def _open() -> AppTest:
    """Run Home as the app does. The page never shows a traceback, whatever the roots hold."""
    page = AppTest.from_file(str(HOME), default_timeout=30).run()
    assert not page.exception
    return page


def _words(page: AppTest) -> str:
    """All text on the page, commands and problems included."""
    elements = [*page.title, *page.header, *page.subheader, *page.markdown, *page.caption, *page.text, *page.code]
    return "\n".join(str(element.value) for element in [*elements, *page.error])


def _model_file(folder: Path, step: int = 10) -> Path:
    folder.mkdir(parents=True)
    path = folder / f"model_{step:06d}.pt"
    path.write_bytes(b"not really a model")
    return path


def test_a_fresh_machine_gets_the_next_step():
    page = _open()
    words = _words(page)
    assert "No runs yet" in words
    assert "nanochat demo" in [element.value for element in page.code]
    assert "NANOCHAT_BASE_DIR=/path/to/nanochat streamlit run Home.py" in words
    assert str(paths.workspace()) in words
    assert str(paths.nanochat_base_dir()) in words
    assert words.count("Not there yet.") == 1
    assert "NANOCHAT_BASE_DIR names it" in words
    assert len(page.dataframe) == 0
    assert not page.error
    assert not paths.workspace().exists(), "looking at Home must not create anything"


def test_the_machine_is_named_with_its_reason():
    assert choose_device().describe() in [element.value for element in _open().text]


@needs_fixtures
@pytest.mark.parametrize("folder", fixture_dirs(), ids=lambda folder: folder.name)
def test_real_runs_are_listed(folder, monkeypatch):
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(folder))
    page = _open()
    expected = {
        (stage, run.name)
        for stage, names in paths.STAGE_FOLDERS.items()
        for name in names
        if (folder / name).is_dir()
        for run in (folder / name).iterdir()
    }
    table = page.dataframe[0].value
    assert {(row["Stage"], row["Tag"]) for _, row in table.iterrows()} == expected
    assert set(table["State"]) == {"complete"}
    assert all(size[0].isdigit() for size in table["Size"])
    assert any("nanochat chat_cli -i " in element.value for element in page.code)
    assert not page.error


@needs_fixtures
def test_steps_come_from_the_files(monkeypatch):
    folder = next(path for path in fixture_dirs() if path.name == "nanochat_2026_07_03")
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(folder))
    table = _open().dataframe[0].value
    base = table[(table["Stage"] == "base") & (table["Tag"] == "d4")].iloc[0]
    assert base["Steps"] == "40, 80, 120"


def test_broken_runs_are_named_in_words_and_hide_nothing(monkeypatch):
    base = paths.nanochat_base_dir() / "base_checkpoints"
    _model_file(base / "d1_killed")
    _model_file(base / "d2_garbage").with_name("meta_000010.json").write_bytes(b'{"step": 10, "model_con')
    words = _words(_open())
    assert "d1_killed" in words
    assert "d2_garbage" in words
    assert "meta_000010.json" in words
    assert "Needs attention" in words
    assert "Traceback" not in words


def test_a_file_where_the_base_dir_should_be():
    paths.nanochat_base_dir().write_text("a file")
    words = _words(_open())
    assert "This folder cannot be opened: it is not a folder." in words
    assert str(paths.workspace()) in words, "the other root is still shown"


def test_a_base_dir_that_may_not_be_read(monkeypatch):
    paths.nanochat_base_dir().mkdir()
    real = os.access
    closed = paths.nanochat_base_dir()
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != closed and real(path, mode))
    assert "This folder cannot be opened: you may not read it." in _words(_open())


def test_our_workspace_says_how_to_remove_it_and_theirs_does_not(monkeypatch):
    for root in (paths.workspace(), paths.nanochat_base_dir()):
        root.mkdir()
        (root / "x").write_bytes(b"x" * 1500)
    words = _words(_open())
    assert words.count("1.5 kB in 1 file.") == 2
    assert f"rm -r {paths.workspace()}" in words
    assert f"rm -r {paths.nanochat_base_dir()}" not in words


def test_a_foreign_kernels_package_is_one_sentence_and_the_rest_still_shows(monkeypatch):
    monkeypatch.setattr(
        "nanochat.ui.home.kernels_problem", lambda: "another package is in the way: run `pip uninstall kernels`."
    )
    page = _open()
    assert "is not what Python finds" in page.error[0].value
    words = _words(page)
    assert "pip uninstall kernels" in words
    assert str(paths.workspace()) in words
    assert "This machine" not in words


def test_a_bug_becomes_a_sentence_and_a_line_in_the_log(monkeypatch):
    def broken(root: Root) -> RootReport:
        raise RuntimeError("a secret detail")

    monkeypatch.setattr("nanochat.ui.home.survey", broken)
    page = _open()
    assert page.error[0].value == "Something failed while looking for runs."
    assert "a secret detail" not in _words(page)
    assert str(errors.log_file()) in _words(page)
    assert "RuntimeError: a secret detail" in errors.log_file().read_text()


def test_an_error_of_ours_is_shown_as_it_is(monkeypatch):
    def refused(root: Root) -> RootReport:
        raise DeviceError("this is wrong: do that instead")

    monkeypatch.setattr("nanochat.ui.home.survey", refused)
    assert "this is wrong: do that instead" in _words(_open())
    assert not errors.log_file().exists()


def test_a_log_that_cannot_be_written_is_said(monkeypatch):
    paths.workspace().write_text("a file where the workspace should be")
    monkeypatch.setattr("nanochat.ui.home.survey", lambda root: 1 / 0)
    assert "could not be written" in _words(_open())


def test_hostile_folder_names_reach_the_page_as_plain_text():
    base = os.fsencode(paths.nanochat_base_dir() / "base_checkpoints")
    hostile = b"<img src=x onerror=alert(1)>\xff\x1b[31m\xe2\x80\xae![a](http:x)"
    os.makedirs(base + b"/" + hostile)
    page = _open()
    words = _words(page)
    assert r"<img src=x onerror=alert(1)>\udcff\x1b[31m\u202e![a](http:x)" in words + str(
        [frame.value.to_dict() for frame in page.dataframe]
    ).replace("\\\\", "\\")
    assert not any("onerror" in element.value for element in [*page.markdown, *page.caption, *page.error])


@needs_fixtures
def test_the_chat_command_names_a_run_that_exists(tmp_path):
    folder = tmp_path / "it's here"
    source = next(path for path in fixture_dirs() if path.name == "nanochat_2026_07_03")
    shutil.copytree(source / "base_checkpoints", folder / "base_checkpoints")
    report = survey(Root("nanochat", folder, False, "NANOCHAT_BASE_DIR"))
    command = chat_command(report)
    assert command is not None
    assert command.startswith("nanochat chat_cli -i base -g d4")
    assert "'\"'\"'" in command, "the quote in the folder's name is quoted for the shell"


def _report(**changes) -> RootReport:
    fields = {"exists": True, "problem": None, "disk": DiskUse(0, 0, True), "runs": (), "sizes": ()}
    return RootReport(Root("workspace", Path("/tmp/lab"), True, "NANOCHAT_LAB_DIR"), **(fields | changes))


def test_disk_sentences():
    assert disk_sentence(_report(exists=False)) == "Not there yet. It takes no disk space."
    assert disk_sentence(_report(disk=DiskUse(2_600_000_000, 12_345, False))) == "At least 2.6 GB in 12,345 files."
    theirs = replace(_report(exists=False), root=Root("nanochat", Path("/nowhere"), False, "NANOCHAT_BASE_DIR"))
    assert "NANOCHAT_BASE_DIR names it" in disk_sentence(theirs)  # set for every test, so a typo and not a fresh start
    assert chat_command(_report()) is None
    assert run_rows(_report()) == []
    assert removal_command(Path("/tmp/a b"), windows=False) == "rm -r '/tmp/a b'"
    assert removal_command(Path("C:\\a b"), windows=True) == 'rmdir /s "C:\\a b"'
    assert another_folder_command(windows=True).startswith("set NANOCHAT_BASE_DIR=C:")


def test_many_steps_are_summarised():
    run = Run("base", "d4", Path("d4"), tuple(range(100, 800, 100)), ())
    report = replace(_report(), runs=(run,), sizes=(2_000,))
    assert run_rows(report) == [
        {"Stage": "base", "Tag": "d4", "State": "complete", "Steps": "100, 200 … 700 (7 saved)", "Size": "2.0 kB"}
    ]


def test_the_chat_command_names_the_deepest_run_of_the_most_talkative_stage(tmp_path):
    runs = [
        Run(stage, tag, tmp_path / tag, (1,), ()) for stage, tag in (("base", "d32"), ("sft", "d4"), ("sft", "d20"))
    ]
    runs.append(Run("sft", "d24", tmp_path / "d24", (), ("broken",)))
    command = chat_command(replace(_report(), runs=tuple(runs), sizes=(0,) * 4))
    assert command.startswith("nanochat chat_cli -i sft -g d20 -p Hello")


@pytest.mark.parametrize(
    ("size", "words"),
    [(0, "0 bytes"), (1, "1 byte"), (999, "999 bytes"), (1000, "1.0 kB"), (999_949, "999.9 kB"), (999_950, "1.0 MB")],
)
def test_readable_size(size, words):
    assert readable_size(size) == words
    assert readable_size(10**16) == "10000.0 TB"


def test_visible_keeps_real_text_and_shows_what_hides():
    assert visible("naïve 日本語 👍 a b") == "naïve 日本語 👍 a b"
    assert visible("a\x00\u200b\u2028\ud800\n") == r"a\x00\u200b\u2028\ud800\n"
