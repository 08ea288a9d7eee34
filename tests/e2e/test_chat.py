"""The chat page in a real browser: a tool call, tokens equal to the terminal's, stop, two tabs, a keyboard alone."""

import contextlib
import io
from pathlib import Path

import pytest

from nanochat.scripts import chat_cli
from nanochat.ui.chat import PAGE
from nanochat.ui.chips import spell
from tests.chat_support import ANSWER, ENDLESS, QUESTION, SUM, teach
from tests.e2e.conftest import WAIT
from tests.e2e.waiting import settled, shows

pytestmark = pytest.mark.browser


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    return tmp_path / "lab"


def opened(address: str, browser, query: str = "", **options):
    page = browser.new_context(**options).new_page()
    page.set_default_timeout(WAIT)
    page.requested, page.complaints = [], []
    page.on("request", lambda request: page.requested.append(request.url))
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.goto(f"{address}/{PAGE}?{query}")
    return page


def say(page, text: str) -> None:
    field = page.get_by_test_id("stChatInput").locator("textarea")
    field.fill(text)
    field.press("Enter")


def terminal(base_dir: Path, *flags: str) -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert chat_cli.main(["--base-dir", str(base_dir), *flags]) == 0
    return out.getvalue().removesuffix("\n")


def test_a_tool_call_is_shown_and_every_token_is_the_terminals(start_app, browser, lab: Path) -> None:
    teach(lab)
    address = start_app(lab)
    page = opened(address, browser, f"{PAGE}_seed=11")
    say(page, QUESTION)
    page.get_by_text("to the first").wait_for()
    said = page.get_by_test_id("stChatMessage").nth(1)
    said.get_by_test_id("stCode").nth(1).wait_for()  # Streamlit loads what draws code when it first needs it
    settled(page)
    shows(page, said.get_by_test_id("stText").all_inner_texts, ["Let me see.", ANSWER])
    shows(page, said.get_by_test_id("stCode").all_inner_texts, [SUM, "7"])
    page.get_by_role("button", name="Tokens").nth(1).focus()
    page.keyboard.press("Enter")
    chips = page.get_by_role("group", name="Tokens of message 2").locator("[data-index]")
    wanted = spell(terminal(lab, "-p", QUESTION, "--seed", "11"))
    shows(page, lambda: "".join(chips.all_inner_texts()), wanted)
    hostile = "<script>document.title='gone'</script><|bos|><img src=x onerror=alert(1)>"
    say(page, hostile)
    page.get_by_text("to the first").nth(1).wait_for()
    settled(page)
    shows(page, page.get_by_test_id("stChatMessage").nth(2).get_by_test_id("stText").inner_text, hostile)
    assert page.title() != "gone"
    assert page.get_by_text("could not be answered").count() == 0
    page.get_by_role("link", name="Open in the builder").click()
    page.get_by_label("Text of turn 1").wait_for()
    assert page.get_by_label("Text of turn 1").input_value() == QUESTION
    assert page.get_by_label("Part 2 of turn 2", exact=True).input_value() == SUM
    assert page.complaints == []
    foreign = [url for url in page.requested if not url.startswith((address, "ws://127.0.0.1", "data:", "blob:"))]
    assert foreign == []
    page.context.close()


def test_two_tabs_write_at_once_and_one_is_stopped(start_app, browser, lab: Path) -> None:
    teach(lab, endless=True)
    address = start_app(lab)
    long = opened(address, browser, f"{PAGE}_temperature=0.0&{PAGE}_max_tokens=30000")
    short = opened(
        address, browser, f"{PAGE}_temperature=0.0&{PAGE}_max_tokens=12", viewport={"width": 390, "height": 800}
    )
    for page in (short, long):
        page.get_by_test_id("stChatInput").wait_for()
        settled(page)
    say(long, ENDLESS)
    long.get_by_role("button", name="Stop the reply").wait_for()
    say(short, "the cat")
    short.get_by_text("to the first").wait_for()
    assert long.get_by_role("button", name="Stop the reply").is_visible(), "the long reply ended before the short one"
    long.get_by_role("button", name="Stop the reply").click()
    long.get_by_text("stopped").wait_for()
    settled(long)
    settled(short)
    kept = long.get_by_test_id("stChatMessage").nth(1).get_by_test_id("stText").inner_text()
    assert "cat sat on the mat" in kept
    settings = ("-i", "base", "-t", "0", "--max-tokens", "12")
    wanted = terminal(lab, *settings, "-p", "the cat")
    answer = short.get_by_test_id("stChatMessage").nth(1).get_by_test_id("stText")
    shows(short, answer.inner_text, wanted.strip())
    overflow = short.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert overflow <= 0
    for page in (long, short):
        assert page.complaints == []
        page.context.close()
