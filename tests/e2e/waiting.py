"""Waiting for what a page does, for tests in this folder that click while a page may still be drawing itself.

A page is drawn piece by piece. A list that is opened before the last piece has come may close again under the mouse,
and the click on its option is then lost without a word: wait for the page first, then see that the choice was taken.
"""

import re
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tests.e2e.conftest import WAIT

if TYPE_CHECKING:  # a machine without Playwright skips these tests
    from playwright.sync_api import Page

STEP = 100  # milliseconds between two looks
TABS = 80  # presses of Tab after which a button is out of reach
TRY = 5_000  # milliseconds after which a click that did nothing is made again


def settled(page: "Page") -> None:
    """Wait until the page has been drawn to its end and the server works on nothing for it."""
    page.locator('[data-testid="stApp"][data-test-script-state="notRunning"]').wait_for()


def until(condition: Callable[[], bool], page: "Page", patience: float = WAIT) -> bool:
    """Look again and again; whether it came true within so many milliseconds."""
    deadline = time.monotonic() + patience / 1000
    while not condition():
        if time.monotonic() > deadline:
            return False
        page.wait_for_timeout(STEP)
    return True


def shows(page: "Page", look: Callable[[], Any], wanted: Any) -> None:
    """Wait until what is looked at is this: a page draws itself piece by piece, and a first look sees too little."""
    assert until(lambda: look() == wanted, page), f"{look()!r} instead of {wanted!r}"


def figure(page: "Page", value: str) -> None:
    """Wait until a tile of the page has this value."""
    page.get_by_test_id("stMetricValue").get_by_text(value, exact=True).first.wait_for()


def press(page: "Page", name: str) -> None:
    """Reach a button or a link beside the sidebar with the keyboard alone, and press it. name: its last words."""
    settled(page)
    reached = "document.activeElement.closest('[data-testid=stMain]') ? document.activeElement.innerText : ''"
    for _ in range(TABS):
        page.keyboard.press("Tab")
        if page.evaluate(reached).strip().endswith(name):
            page.keyboard.press("Enter")
            return
    raise AssertionError(f"{TABS} presses of Tab did not reach {name!r}")


def fits(page: "Page") -> bool:
    """Whether nothing on the page reaches beyond its right edge."""
    main = page.get_by_test_id("stMain")
    return main.evaluate("element => element.scrollWidth - element.clientWidth") <= 0


def choose(page: "Page", label: str | re.Pattern, option: re.Pattern, taken: Callable[[], bool]) -> None:
    """Open the list of this label and choose an option, again where the page swallowed it, until `taken` says so."""
    from playwright.sync_api import Error

    deadline = time.monotonic() + 2 * WAIT / 1000
    box = page.get_by_role("combobox", name=label)
    while not taken():
        assert time.monotonic() < deadline, f"{option.pattern} was never taken in {label}"
        settled(page)
        choice = page.get_by_role("option", name=option)
        try:
            if not choice.is_visible():
                box.click(timeout=TRY)
            choice.click(timeout=TRY)
        except Error:  # the list closed, or never opened: look whether it was taken, and open it again
            continue
        until(taken, page, TRY)
