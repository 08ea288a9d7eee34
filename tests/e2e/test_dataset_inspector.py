"""The dataset inspector in a real browser: the same figures and the same clean file as in a terminal."""

import json
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import pytest

from nanochat.benchmarks.make_conversations import planted
from tests.e2e.conftest import WAIT
from tests.e2e.waiting import fits
from tests.support import fixture_dirs

pytestmark = pytest.mark.browser
ROOT = Path(__file__).parents[2]
SCRIPT = (
    '{"messages": [{"role": "user", "content": "<img src=x onerror=alert(1)>"}, {"role": "assistant", "content": "b"}]}'
)


def _terminal(path: Path, clean: Path) -> dict:
    """What the terminal finds, and the clean file that it writes."""
    real = fixture_dirs()  # the app's base dir: see conftest.py
    counting = ["--tokenizer-dir", str(real[-1])] if real else ["--no-tokenizer"]
    command = [sys.executable, "-m", "nanochat.tools.dataset_inspector", str(path), "--json", *counting]
    done = subprocess.run([*command, "--clean", str(clean)], cwd=ROOT, capture_output=True, text=True, check=False)
    return json.loads(done.stdout)


def _tab(browser, address: str, **options):
    page = browser.new_context(**options).new_page()
    page.set_default_timeout(WAIT)
    page.requested, page.dialogs = [], []
    page.on("request", lambda request: page.requested.append(request.url))
    page.on("dialog", lambda dialog: (page.dialogs.append(dialog.message), dialog.dismiss()))
    page.goto(address)
    return page


def _figure(page, label: str) -> str:
    return page.get_by_test_id("stMetric").filter(has_text=label).get_by_test_id("stMetricValue").first.inner_text()


def _same(page, found: dict) -> None:
    """The page's figures are the terminal's."""
    page.get_by_test_id("stMetric").filter(has_text="Lines").first.wait_for()
    for label, value in (
        ("Lines", found["lines"]),
        ("Errors", found["error_lines"]),
        ("Warnings", found["warning_lines"]),
        ("Conversations", found["conversations"]),
        ("Messages", found["messages"]),
    ):
        assert _figure(page, label) == f"{value:,}", label


def _downloaded(page) -> bytes:
    page.get_by_role("tab", name="Files").click()
    with page.expect_download(timeout=10 * WAIT) as download:
        page.get_by_role("button", name="Download clean.jsonl").click()
    return Path(download.value.path()).read_bytes()


def test_a_link_to_a_file_shows_what_the_terminal_finds(app, browser, tmp_path):
    path, clean = tmp_path / "chats.jsonl", tmp_path / "clean.jsonl"
    lines = [line for line, _ in planted(1200, 9) if len(line) < 10**6]
    path.write_bytes(b"".join(lines) + SCRIPT.encode() + b"\n")
    found = _terminal(path, clean)
    page = _tab(browser, f"{app}/dataset_inspector?dataset_inspector_path={quote(str(path))}")
    _same(page, found)
    assert page.get_by_role("dialog").count() == 0
    assert _downloaded(page) == clean.read_bytes()
    page.get_by_role("tab", name="Rows").click()
    page.get_by_text("Search", exact=True).click()
    page.get_by_placeholder("a word, whatever its case").fill("onerror")
    page.keyboard.press("Enter")
    page.get_by_test_id("stText").filter(has_text="<img src=x onerror=alert(1)>").wait_for()
    assert page.dialogs == []
    foreign = [url for url in page.requested if not url.startswith((app, app.replace("http", "ws"), "data:", "blob:"))]
    assert foreign == []
    page.context.close()


def test_an_upload_is_inspected_and_a_bar_picks_its_rows(app, browser, tmp_path):
    path, clean = tmp_path / "chats.jsonl", tmp_path / "clean.jsonl"
    path.write_bytes(b"".join(line for line, _ in planted(400, 4) if len(line) < 10**6))
    found = _terminal(path, clean)
    page = _tab(browser, f"{app}/dataset_inspector?dataset_inspector_where=Upload")
    page.locator("input[type=file]").set_input_files(path)
    _same(page, found)
    assert _downloaded(page) == clean.read_bytes()
    page.get_by_role("tab", name="Lengths").click()
    page.locator("[role=graphics-symbol][aria-roledescription=bar]:visible").nth(3).click()
    page.get_by_text("The tab Rows shows the conversations of").wait_for()
    page.context.close()


@pytest.mark.prove
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_needs_no_sideways_scrolling(app, browser, scheme):
    address = f"{app}/dataset_inspector?dataset_inspector_where=Example"
    page = _tab(browser, address, viewport={"width": 390, "height": 844}, color_scheme=scheme)
    page.get_by_test_id("stMetric").first.wait_for()
    assert fits(page)
    page.context.close()


@pytest.mark.prove
def test_an_upload_of_200_megabytes(app, browser, tmp_path):
    path, clean = tmp_path / "chats.jsonl", tmp_path / "clean.jsonl"
    with path.open("wb") as file:
        for line, _ in planted(250_000, 6):
            file.write(line)
            if file.tell() > 200e6:
                break
    found = _terminal(path, clean)
    page = _tab(browser, f"{app}/dataset_inspector?dataset_inspector_where=Upload")
    page.set_default_timeout(10 * WAIT)
    page.locator("input[type=file]").set_input_files(path)
    _same(page, found)
    assert _downloaded(page) == clean.read_bytes()
    page.context.close()
