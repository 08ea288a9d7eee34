"""The tokenizer playground in a real browser: chips for mouse and keyboard, values equal to the terminal's."""

import contextlib
import io
import json
import re

import pytest

from nanochat.tools import tokenizer_playground as tool
from nanochat.ui.tokenizer_playground import PAGE, SAMPLE
from tests.e2e.conftest import WAIT
from tests.e2e.waiting import fits, shows

pytestmark = pytest.mark.browser


def terminal(*flags: str) -> dict:
    """What the command prints with --json."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert tool.main([*flags, "--tokenizer", "stories", "--json"]) == 0
    return json.loads(out.getvalue())


def opened(app: str, browser, query: str = "", **options):
    page = browser.new_context(**options).new_page()
    page.set_default_timeout(WAIT)
    page.requested, page.complaints = [], []
    page.on("request", lambda request: page.requested.append(request.url))
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.goto(f"{app}/{PAGE}?{PAGE}_tokenizer=stories{query}")
    return page


def metric(page, label: str) -> str:
    found = page.get_by_test_id("stMetric").filter(has_text=re.compile(f"^{label}"))
    return found.first.get_by_test_id("stMetricValue").inner_text()


def type_text(page, text: str) -> None:
    area = page.get_by_label("Text", exact=True)
    area.fill(text)
    area.press("Control+Enter")


def test_what_the_page_shows_is_what_the_terminal_says(app, browser):
    page = opened(app, browser)
    chips = page.get_by_role("group", name="Tokens").locator("[data-index]")
    chips.first.wait_for()
    said = terminal(SAMPLE)["text"]
    assert metric(page, "Tokens") == str(said["tokens"])
    assert metric(page, "Characters a token") == f"{said['characters_per_token']:.2f}"
    shows(page, chips.all_inner_texts, [row["text"] for row in said["details"]])
    hostile = "<script>document.title='gone'</script>\u202e <img src=x onerror=alert(1)>"
    type_text(page, hostile)
    said = terminal(hostile)["text"]
    page.get_by_test_id("stMetricValue").get_by_text(str(said["tokens"]), exact=True).first.wait_for()
    shows(page, chips.all_inner_texts, [row["text"] for row in said["details"]])  # drawn after the figures
    assert page.title() != "gone"
    assert page.complaints == []
    foreign = [url for url in page.requested if not url.startswith((app, app.replace("http", "ws"), "data:", "blob:"))]
    assert foreign == []
    page.context.close()


def test_every_chip_speaks_to_a_mouse_and_to_a_keyboard(app, browser):
    page = opened(app, browser)
    chips = page.get_by_role("group", name="Tokens").locator("[data-index]")
    chips.nth(2).hover()
    said = terminal(SAMPLE)["text"]["details"]
    tip = page.get_by_role("tooltip").first
    shows(page, lambda: tip.inner_text().startswith(f"id {said[2]['id']}\n{said[2]['type']}"), True)
    chips.first.focus()
    for key, index in (("ArrowRight", 1), ("ArrowRight", 2), ("ArrowLeft", 1), ("End", len(said) - 1), ("Home", 0)):
        page.keyboard.press(key)
        shows(page, lambda: tip.inner_text().split("\n")[0], f"id {said[index]['id']}")
        assert page.locator("[data-index][tabindex='0']").count() == 1, "one stop of the Tab key"
    page.keyboard.press("End")
    assert said[-1]["note"] in tip.inner_text(), "the last byte of the globe says which it is"
    page.keyboard.press("Enter")
    page.get_by_text(f"Token {said[-1]['id']}: {said[-1]['text']}").wait_for()
    page.context.close()


def test_a_hundred_thousand_characters_do_not_freeze_the_page(app, browser):
    page = opened(app, browser)
    page.get_by_role("group", name="Tokens").wait_for()
    text = "The little dog saw a café. 🌍 " * 3450
    type_text(page, text)
    tokens = terminal(text)["text"]["tokens"]
    page.get_by_text(f"Tokens: 1 to 800 of {tokens:,}").wait_for()
    assert metric(page, "Characters") == f"{len(text):,}"
    shows(page, page.locator("[data-index]").count, 800)
    page.get_by_role("button", name="Page 2", exact=True).click()
    page.get_by_text(f"Tokens: 801 to 1,600 of {tokens:,}").wait_for()
    page.context.close()


def test_a_phone_and_the_dark_need_no_sideways_scrolling(app, browser):
    page = opened(app, browser, f"&{PAGE}_view=Languages", viewport={"width": 390, "height": 844}, color_scheme="dark")
    page.get_by_text(re.compile("The same sentence costs")).wait_for()
    dearest = max(terminal("--languages")["languages"], key=lambda row: row["tokens"])
    page.get_by_text(f"{dearest['cost']:.2f} times").wait_for()
    assert fits(page)
    page.context.close()
