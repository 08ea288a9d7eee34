"""Home in a real browser: what only a browser shows."""

import re
import socket

import pytest

from tests.e2e.waiting import fits
from tests.support import fixture_dirs

pytestmark = pytest.mark.browser


def _open(browser, address: str, **options):
    """A fresh tab with Home drawn to its end; also what it requested and what it complained about."""
    page = browser.new_context(**options).new_page()
    page.set_default_timeout(60_000)
    requested, complaints = [], []
    page.on("request", lambda request: requested.append(request.url))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(address)
    page.get_by_text(re.compile("Runs on .*float")).wait_for()
    return page, requested, complaints


def test_a_cold_link_shows_home_and_nothing_leaves_the_machine(app, browser):
    page, requested, complaints = _open(browser, app)
    assert page.get_by_role("heading", name="nanochat lab").is_visible()
    assert page.title() == "nanochat lab"
    assert page.get_by_role("dialog").count() == 0
    assert page.get_by_test_id("stException").count() == 0
    assert complaints == []
    foreign = [url for url in requested if not url.startswith((app, app.replace("http", "ws"), "data:", "blob:"))]
    assert foreign == []
    if fixture_dirs():
        page.get_by_test_id("stDataFrame").first.wait_for()
    page.context.close()


@pytest.mark.parametrize(("scheme", "background"), [("light", "rgb(252, 252, 250)"), ("dark", "rgb(20, 24, 28)")])
def test_both_themes_are_ours(app, browser, scheme, background):
    page, _, _ = _open(browser, app, color_scheme=scheme)
    shown = page.get_by_test_id("stApp").evaluate("element => getComputedStyle(element).backgroundColor")
    assert shown == background
    page.context.close()


def test_the_theme_can_be_chosen_with_the_keyboard(app, browser):
    page, _, _ = _open(browser, app, color_scheme="light")
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.closest('[data-testid=stMainMenu]') !== null"):
            break
    else:
        pytest.fail("30 presses of Tab did not reach the menu")
    page.keyboard.press("Enter")
    for name in ("System", "Light", "Dark"):  # the menu opens on System; each press of the arrow goes one on
        page.wait_for_function(f"document.activeElement.textContent.includes('{name}')")
        page.keyboard.press("Enter" if name == "Dark" else "ArrowDown")
    dark = "getComputedStyle(document.querySelector('[data-testid=stApp]')).backgroundColor === 'rgb(20, 24, 28)'"
    page.wait_for_function(dark)
    page.context.close()


def test_a_phone_needs_no_sideways_scrolling(app, browser):
    page, _, _ = _open(browser, app, viewport={"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert fits(page)
    page.context.close()


def _handshake(app: str, host: str) -> str:
    """The status line that the server gives a browser which opens the app's connection under this host name."""
    lines = [
        "GET /_stcore/stream HTTP/1.1",
        f"Host: {host}",
        f"Origin: http://{host}",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    ]
    port = int(app.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        return connection.recv(64).decode(errors="replace").splitlines()[0]


def test_a_web_page_cannot_reach_the_app_through_a_name_of_its_own(app):
    port = app.rpartition(":")[2]
    assert " 101 " in _handshake(app, f"localhost:{port}"), "the tunnel of ssh -L comes in under this name"
    assert " 101 " in _handshake(app, f"127.0.0.1:{port}")
    assert " 403 " in _handshake(app, f"rebound.example:{port}")


def test_only_this_machine_can_connect(app):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # an address for documentation: nothing is sent, only a route is looked up
            own = probe.getsockname()[0]
        except OSError:
            own = "127.0.0.1"
    if own.startswith("127."):
        pytest.skip("this machine has no other address than loopback")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((own, int(app.rpartition(":")[2])), timeout=5)
