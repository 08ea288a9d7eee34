"""What holds for every page: it draws itself whatever lies on the disk, shows no traceback, and is in the catalog.

A page's own tests are in test_<stem>.py and test_<stem>_page.py; this is the contract.
"""

import ast
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from nanochat import paths
from nanochat.ui import catalog
from tests.checkpoint_support import save_ours

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "pages").glob("*.py"))
HUNG = 120  # seconds: a page that hangs, not one that is slow


def nothing() -> None:
    """A machine that never trained anything."""


def one_run() -> None:
    save_ours(paths.workspace() / "base_checkpoints" / "d1")


def a_broken_run() -> None:
    folder = save_ours(paths.workspace() / "base_checkpoints" / "d1")
    (model,) = folder.glob("model_*.pt")
    model.write_bytes(model.read_bytes()[:1000])
    (folder / "metrics.jsonl").write_text('{"step": 1}\n{broken')
    (paths.workspace() / "chatsft_checkpoints" / "d2").mkdir(parents=True)
    (paths.workspace() / "chatsft_checkpoints" / "d2" / "model_000001.pt").write_bytes(b"no model")


def no_workspace() -> None:
    paths.workspace().parent.mkdir(parents=True, exist_ok=True)
    paths.workspace().write_text("a file where a folder should be")


@pytest.mark.parametrize("state", [nothing, one_run, a_broken_run, no_workspace], ids=lambda state: state.__name__)
@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_every_page_draws_itself(path: Path, state) -> None:
    state()
    page = AppTest.from_file(str(path), default_timeout=HUNG).run()
    assert not page.exception, page.exception[0].message
    assert [title.value for title in page.title] == [catalog.find(path.stem).title]
    assert page.markdown, "a page says what it is for"


def test_every_page_is_in_the_catalog_and_in_a_section() -> None:
    assert {path.stem for path in PAGES} <= {page.stem for page in catalog.PAGES}
    assert len({page.stem for page in catalog.PAGES}) == len(catalog.PAGES)
    assert len({page.icon for page in catalog.PAGES}) == len(catalog.PAGES)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_every_widget_has_a_key_of_its_page(path: Path) -> None:
    """Streamlit keeps a widget's value by its key: two pages with one key would share it."""
    widgets = {"button", "checkbox", "toggle", "radio", "selectbox", "multiselect", "slider", "select_slider",
               "text_input", "number_input", "text_area", "file_uploader", "download_button", "segmented_control",
               "pills", "chat_input"}  # fmt: skip
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in widgets:
            key = next((keyword for keyword in node.keywords if keyword.arg == "key"), None)
            assert key is not None, f"{path.name}:{node.lineno} has no key"
            text = ast.unparse(key.value)
            assert path.stem in text or "PAGE" in text or "key" in text.lower(), f"{path.name}:{node.lineno}: {text}"


READ_MARKDOWN = {
    "warning", "error", "info", "success", "caption", "markdown", "subheader", "header", "title", "button", "expander",
    "toast", "checkbox", "toggle", "progress", "spinner", "metric", "form_submit_button", "download_button", "popover",
    "tabs", "write", "page_link",
}  # fmt: skip


@pytest.mark.parametrize("path", [*PAGES, *sorted((ROOT / "nanochat" / "ui").glob("*.py"))], ids=lambda path: path.name)
def test_nothing_from_a_disk_is_read_as_markdown(path: Path) -> None:
    """`visible` leaves Markdown in a text, so a name on a disk could be a link or an image; `plain` does not."""
    calls = [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Call)]
    read = [word.value for call in calls for word in call.keywords if word.arg == "help"]
    for call in calls:
        if isinstance(call.func, ast.Attribute) and call.func.attr in READ_MARKDOWN:
            read += [*call.args, *(word.value for word in call.keywords if word.arg in ("label", "body", "text"))]
    inner = [part for one in read for part in ast.walk(one) if isinstance(part, ast.Call)]
    found = [part.lineno for part in inner if isinstance(part.func, ast.Name) and part.func.id.startswith("visible")]
    assert not found, f"{path.name}: lines {found}: take nanochat.ui.text.plain"
