"""The generation explorer in a real browser: it shows what the terminal says; a token is forced, branches compared."""

import contextlib
import io
import json
import re

import pytest

from nanochat.tools import generation_explorer as tool
from tests.checkpoint_support import save_ours
from tests.e2e.conftest import WAIT
from tests.e2e.waiting import choose, settled, shows

pytestmark = pytest.mark.browser
PAGE = "generation_explorer"


def terminal(lab, *flags: str) -> dict:
    """What the command prints with --json."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(io.StringIO()):
        tool.main([str(lab / "base_checkpoints" / "tiny"), *flags, "--json"])
    return json.loads(said.getvalue())


def texts(group) -> list[str]:
    """The chips of a group, with blanks as the terminal has them."""
    return [text.replace("·", " ").replace("⏎", "\\n") for text in group.locator(".chip").all_inner_texts()]


def test_a_token_is_forced_and_the_branches_are_compared(start_app, browser, tmp_path) -> None:
    lab = tmp_path / "lab"
    save_ours(lab / "base_checkpoints" / "tiny")
    page = browser.new_context().new_page()
    page.set_default_timeout(WAIT)
    page.goto(f"{start_app(lab)}/{PAGE}?{PAGE}_tokens=10&{PAGE}_top_k=6")
    text = page.get_by_role("group", name="The text, token by token")
    text.locator(".chip").nth(9).wait_for()
    settled(page)
    flags = ["--prompt", "Once upon a time", "--max-tokens", "10", "--top-k", "6"]
    said = terminal(lab, *flags, "--show-probs", "--top", "12")
    assert [re.sub(r"\s", "", chip) for chip in texts(text)] == [re.sub(r"\s", "", s["text"]) for s in said["steps"]]

    text.locator(".chip").nth(2).focus()
    page.keyboard.press("Enter")
    page.get_by_text("Step 3", exact=True).wait_for()
    candidates = page.get_by_role("group", name="Candidates")
    candidates.locator(".chip").nth(11).wait_for()
    settled(page)
    step = said["steps"][2]
    shown = [chip.rsplit(" ", 1)[1] for chip in texts(candidates)[:12]]
    assert shown == [f"{one['p']:.1%}" for one in step["candidates"][:12]]

    place = next(i for i, one in enumerate(step["candidates"]) if not one["taken"])
    candidates.locator(".chip").nth(place).click()
    page.get_by_text(re.compile("B: forced")).wait_for()
    page.get_by_text("forced by you.", exact=False).first.wait_for()
    page.get_by_test_id("stMetric").filter(has_text="Ending").get_by_text("cut off").wait_for()
    apart = page.get_by_text("First divergence: step 3.")
    choose(page, re.compile("Compare with branch"), re.compile("^A$"), apart.is_visible)
    settled(page)
    assert page.get_by_test_id("stException").count() == 0


def test_a_slider_draws_again_and_the_view_is_a_link(start_app, browser, tmp_path) -> None:
    lab = tmp_path / "lab"
    save_ours(lab / "base_checkpoints" / "tiny")
    page = browser.new_context(viewport={"width": 390, "height": 800}).new_page()
    page.set_default_timeout(WAIT)
    page.goto(f"{start_app(lab)}/{PAGE}?{PAGE}_tokens=10&{PAGE}_temperature=0.9")
    group = page.get_by_role("group", name="The text, token by token")
    group.locator(".chip").nth(4).wait_for()
    settled(page)
    page.get_by_role("slider", name="Temperature").press("Home")
    page.wait_for_url(re.compile(f"{PAGE}_temperature=0(\\.0)?(&|$)"))
    said = terminal(lab, "--prompt", "Once upon a time", "--max-tokens", "10", "--temperature", "0")
    wanted = "".join(re.sub(r"\s", "", step["text"]) for step in said["steps"])

    def shown() -> str:
        return "".join(re.sub(r"\s", "", chip) for chip in texts(group))

    shows(page, shown, wanted)
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
