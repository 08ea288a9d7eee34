"""The attention visualizer in a real browser: a row picked on the canvas, a head opened and one switched off."""

import contextlib
import io
import json
import re

import pytest

from nanochat.tools import attention_visualizer as tool
from nanochat.ui.attention_visualizer import PAGE
from tests.attention_support import save_run
from tests.e2e.conftest import WAIT
from tests.e2e.waiting import choose, fits, settled

pytestmark = pytest.mark.browser
TEXT = "so it goes"


def terminal(folder, *flags: str) -> dict:
    """What the command prints with --json."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert tool.main([str(folder), "--text", TEXT, *flags, "--json"]) == 0
    return json.loads(out.getvalue())


def opened(app: str, browser, query: str = "", **options):
    page = browser.new_context(**options).new_page()
    page.set_default_timeout(WAIT)
    page.complaints = []
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.goto(f"{app}/{PAGE}?{query}")
    area = page.get_by_label("Text", exact=True)
    area.fill(TEXT)
    area.press("Control+Enter")
    return page


def canvas_says(page) -> str:
    return page.locator(".attention .said").first.inner_text()


def test_look_pick_open_a_head_and_switch_it_off(start_app, browser, tmp_path) -> None:
    run = save_run(tmp_path / "lab" / "base_checkpoints" / "tiny")
    page = opened(start_app(tmp_path / "lab"), browser)
    page.get_by_text(re.compile("^Token 10 “s” looks at")).wait_for()
    settled(page)
    mean = terminal(run)["attention"]
    best = mean[10][0]
    assert f"looks at token {best['key']} “{best['text']}” with {best['weight'] * 100:.0f} %" in canvas_says(page)
    page.locator(".attention canvas").first.focus()
    page.keyboard.press("ArrowUp")
    second = canvas_says(page)
    assert second.startswith("Token 9 “e” looks at")
    page.keyboard.press("Enter")
    page.get_by_role("combobox", name="Token", exact=True).wait_for()
    page.wait_for_function("() => [...document.querySelectorAll('input')].some(i => i.value.startsWith('9: e'))")

    settled(page)
    page.get_by_text("All heads", exact=True).click()
    page.get_by_role("button", name=re.compile("^Layer 1, head 3")).wait_for()
    settled(page)
    page.get_by_role("button", name=re.compile("^Layer 1, head 3")).click()
    page.get_by_text(re.compile("^Head 1.3: ")).wait_for()
    head = terminal(run, "--layer", "1", "--head", "3")["attention"][9][0]
    wanted = f"with {head['weight'] * 100:.0f} %"
    page.get_by_text(re.compile(f"^Token 9 “e” looks at token {head['key']} .* {wanted}")).wait_for()
    settled(page)

    page.get_by_text("Without heads", exact=True).click()
    page.get_by_text("Switch a head off above").wait_for()
    heads = page.get_by_test_id("stMultiSelect")
    choose(page, "Heads switched off", re.compile("^1.3"), lambda: "1.3" in heads.inner_text())
    page.get_by_test_id("stMetricValue").nth(1).wait_for()
    settled(page)
    said = terminal(run, "--off", "1.3")
    shown = [float(value) for value in page.get_by_test_id("stMetricValue").all_inner_texts()]
    # The server and this process may use different numbers of threads, and sums then differ in their last digits.
    assert shown == pytest.approx([said["loss"][1], said["repeats"][1]], abs=1.1e-4)
    assert page.complaints == []
    page.context.close()


@pytest.mark.prove
def test_a_phone_in_the_dark_needs_no_sideways_scrolling(start_app, browser, tmp_path) -> None:
    save_run(tmp_path / "lab" / "base_checkpoints" / "tiny")
    page = opened(
        start_app(tmp_path / "lab"), browser, viewport={"width": 390, "height": 844}, color_scheme="dark"
    )  # fmt: skip
    page.get_by_text(re.compile("^Token 10 “s” looks at")).wait_for()
    assert fits(page)
    page.context.close()
