"""Token chips: hostile text stays text, whitespace is seen, and a long text reaches the browser in windows."""

import json

import pytest
from streamlit.testing.v1 import AppTest

from nanochat.ui.chips import STYLES, WINDOW, Chip, payload, spell


def _sent(page: AppTest) -> list[dict]:
    """What the components of a page were given, in order."""
    found = []
    for element in page.main:
        proto = getattr(element, "proto", None)
        if proto is not None and type(proto).__name__ == "BidiComponent":
            found.append(json.loads(proto.json))
    return found


def _page(count: int) -> AppTest:
    def script(count: int) -> None:
        import streamlit as st

        from nanochat.ui.chips import Chip, chips

        picked = chips([Chip(f"t{i} ", i, f"tip {i}") for i in range(count)], key="a", label="Tokens", pick=True)
        st.text(f"picked {picked}")

    return AppTest.from_function(script, args=(count,), default_timeout=30).run()


def test_text_that_hides_reorders_or_breaks_is_made_visible():
    assert spell(" a\tb\r\n\u00a0c") == "·a⇥b␍⏎⍽c"
    assert spell("\u202e\x1b[31m\u200b\ud800\x00") == r"\u202e\x1b[31m\u200b\ud800\x00"
    assert spell("naïve 日本 👍") == "naïve·日本·👍"


def test_markup_goes_to_the_browser_as_plain_text():
    hostile = "<img src=x onerror=alert(1)>"
    sent = payload([Chip(hostile, 7, hostile)], "Tokens", {"supervised": "blue"}, False, None, 0)
    assert sent["texts"] == [hostile.replace(" ", "·")]
    assert sent["tips"] == [f"id 7\n{hostile}"]
    assert sent["legend"] == [["u", "blue"]]


def test_payload_says_style_heat_breaks_and_what_is_empty():
    tokens = [Chip("a\n", style="supervised", heat=2.0), Chip("", style="context"), Chip("b", style="cut", heat=-1.0)]
    sent = payload(tokens, "T", {}, True, 1, 40)
    assert sent["styles"] == "ucx"
    assert sent["breaks"] == [0]
    assert sent["heat"] == [1.0, None, 0.0]
    assert sent["texts"] == ["a⏎", "∅", "b"]
    assert (sent["first"], sent["selected"], sent["pick"]) == (40, 1, True)
    assert payload([Chip("a")], "T", {}, False, None, 0)["heat"] == []
    assert len(set(STYLES.values())) == len(STYLES)


def test_an_endless_token_is_cut():
    sent = payload([Chip(" " * 5000)], "T", {}, False, None, 0)
    assert len(sent["texts"][0]) < 450
    assert "5,000 characters" in sent["texts"][0]


def test_few_tokens_need_no_pager():
    page = _page(10)
    assert not page.exception
    assert page.text[0].value == "picked None"
    assert not page.get("pagination")


def test_a_long_text_is_sent_in_windows():
    page = _page(30_000)
    assert not page.exception
    assert f"1 to {WINDOW:,} of 30,000" in page.caption[0].value
    page.session_state["a_window"] = 38
    page.run()
    assert "29,601 to 30,000 of 30,000" in page.caption[0].value


def test_a_window_of_the_longest_chips_is_a_small_message():
    tokens = [Chip("ü" * 12, 123_456, "Alphabetic\nbytes 12,345 to 12,368: c3 bc c3 bc c3 bc c3 bc")] * WINDOW
    assert len(json.dumps(payload(tokens, "T", {}, True, None, 0), ensure_ascii=False).encode()) < 150 * 1024


@pytest.mark.parametrize("count", [0, 1])
def test_nothing_and_one_token_are_drawn(count):
    assert not _page(count).exception
