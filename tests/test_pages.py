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
