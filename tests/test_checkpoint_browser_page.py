"""The checkpoint browser's page: nothing trained, a run, a broken one, and a folder that cannot be."""

from pathlib import Path

from streamlit.testing.v1 import AppTest

from nanochat import paths
from tests import page_support
from tests.checkpoint_support import names, save_like_nanochat, save_ours
from tests.page_support import words
from tests.test_checkpoint_browser import a_long_run, bare_step


def opened(**query: str) -> AppTest:
    return page_support.opened("checkpoint_browser", query)


def test_nothing_trained_yet() -> None:
    shown = words(opened())
    assert "No checkpoints yet" in shown
    assert "nanochat demo" in shown


def test_the_list_and_what_takes_the_disk() -> None:
    save_ours(paths.workspace() / "base_checkpoints" / "d2")
    save_like_nanochat(paths.nanochat_base_dir() / "base_checkpoints" / "d4")
    bare_step(paths.workspace() / "base_checkpoints" / "d2\u202e", 5, user_config=[])
    page = opened()
    table = page.dataframe[0].value
    assert set(table["Checkpoint"]) == {"base/d2@10", "nanochat:base/d4@10", "base/d2\\u202e@5"}
    assert set(table["Integrity"]) == {"whole", "unverified", "broken"}
    assert page.metric[0].value == "3"
    assert page.metric[2].value == "1"


def test_a_link_with_a_run_leads_into_it() -> None:
    save_ours(paths.workspace() / "base_checkpoints" / "d2")
    page = opened(run="base/d2")
    shown = words(page)
    assert "base/d2@10" in shown
    assert "Sound: structure, names and sizes." in shown
    page.button(key="checkpoint_browser_verify").click().run()
    assert "SHA-256 of every byte" in words(page)
    page.button(key="checkpoint_browser_export").click().run()
    assert not page.exception
    assert (paths.workspace() / "exports" / "d2-base-10" / "model.safetensors").is_file()


def test_a_damaged_one_says_so() -> None:
    run = save_ours(paths.workspace() / "base_checkpoints" / "d2")
    path = run / "model_000010.pt"
    content = path.read_bytes()
    path.write_bytes(b"x" + content[1:])
    assert "Not sound" in words(opened(run="base/d2"))


def test_two_side_by_side() -> None:
    run = save_ours(paths.workspace() / "base_checkpoints" / "d2")
    save_ours(run, 20, seed=1)
    page = opened(view="Compare", a="base/d2@10", b="base/d2@20")
    assert "the change, as a share of A's length" in words(page)
    page.button(key="checkpoint_browser_write").click().run()
    assert not page.exception
    assert not page.error


def test_tidying_up_deletes_after_the_list_was_read() -> None:
    folder = a_long_run(paths.workspace())
    page = opened(view="Tidy up")
    assert "8 checkpoints (24 files) would go" in words(page)
    assert page.button(key="checkpoint_browser_delete").disabled
    before = names(folder)
    page.checkbox(key="checkpoint_browser_sure").check().run()
    assert names(folder) == before
    page.button(key="checkpoint_browser_delete").click().run()
    assert "8 deleted" in words(page)
    assert len(list(folder.glob("meta_*.json"))) == 2


def test_nanochats_own_folder_has_a_command_and_no_button() -> None:
    a_long_run(paths.nanochat_base_dir())
    page = opened(view="Tidy up")
    assert "--delete base/d2 --keep-last 1" in words(page)
    assert not [button for button in page.button if button.key == "checkpoint_browser_delete"]


def test_a_folder_that_is_none_is_a_sentence(tmp_path: Path) -> None:
    page = opened()
    page.text_input(key="checkpoint_browser_base_dir").set_value(str(tmp_path / "nowhere")).run()
    assert "it does not exist" in words(page)
