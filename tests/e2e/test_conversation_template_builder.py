"""The conversation builder in a real browser: write, see the mask, append, and be led to training."""

import contextlib
import io
import json
from pathlib import Path

import pytest

from nanochat.analysis import conversation_template_builder as builder
from nanochat.tools import conversation_template_builder as tool
from nanochat.ui.conversation_template_builder import PAGE
from tests.e2e.conftest import WAIT
from tests.e2e.waiting import fits, shows

pytestmark = pytest.mark.browser


def terminal(*flags: str) -> dict:
    """What the command prints with --json."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        tool.main([*flags, "--tokenizer", "stories", "--json"])
    return json.loads(out.getvalue())


def test_a_tool_call_is_written_seen_and_appended(start_app, browser, tmp_path):
    lab = tmp_path / "lab"
    app = start_app(lab)
    page = browser.new_context().new_page()
    page.set_default_timeout(WAIT)
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(f"{app}/{PAGE}?{PAGE}_tokenizer=stories")
    page.get_by_role("button", name="With a tool").click()
    page.get_by_label("Part 2 of turn 2", exact=True).wait_for()
    page.get_by_text("What is 2+2?", exact=True).wait_for(state="detached")
    area = page.get_by_role("textbox", name="Text of turn 1")
    area.fill("What is <b>13*13</b>?")
    area.press("Control+Enter")
    said = terminal("--load", str(_saved(tmp_path, "What is <b>13*13</b>?")))["tokenization"]
    page.get_by_test_id("stMetricValue").get_by_text(str(said["tokens"]), exact=True).first.wait_for()
    values = [str(said[k]) for k in ("tokens", "supervised", "unsupervised")] + [f"{said['ratio']:.1%}"]
    shows(page, page.get_by_test_id("stMetricValue").all_inner_texts, values)
    chips = page.get_by_role("group", name="Tokens").locator("[data-index]")
    shows(page, chips.all_inner_texts, [row["text"] for row in said["details"]])
    underlined = chips.evaluate_all("chips => chips.map(c => getComputedStyle(c).textDecorationLine === 'underline')")
    assert underlined == [row["supervised"] for row in said["details"]]
    page.get_by_role("button", name="Append", exact=True).click()
    page.get_by_text("as line 1.").wait_for()
    path = lab / "conversations" / "chats.jsonl"
    assert builder.load(path)["messages"][0]["content"] == "What is <b>13*13</b>?"
    link = page.get_by_role("link", name="Fine-tune on chats.jsonl")
    link.click()
    page.get_by_role("heading", name="Train").wait_for()
    page.get_by_text("Fine-tuning starts from a pretrained model").wait_for()
    assert complaints == []
    page.context.close()


def _saved(folder: Path, question: str) -> Path:
    value = builder.tool(question, "12*12", "144", "It is 144.", before="Let me calculate. ")
    return builder.save(folder / "same.json", value)


@pytest.mark.prove
def test_turns_are_moved_with_the_keyboard_and_a_phone_has_room(app, browser):
    page = browser.new_context(viewport={"width": 390, "height": 844}, color_scheme="dark").new_page()
    page.set_default_timeout(WAIT)
    page.goto(f"{app}/{PAGE}")
    page.get_by_text("Conversation is valid.").wait_for()
    assert fits(page)
    down = page.get_by_role("button", name="arrow_downward").first
    down.focus()
    page.keyboard.press("Enter")
    page.get_by_text("the assistant speaks first").wait_for()
    page.wait_for_function('document.querySelector(\'[aria-label="Text of turn 1"]\').value === "It\'s 4."')
    page.context.close()
