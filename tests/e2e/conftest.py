"""The app in a real browser, for every test in this folder. Without Chromium they skip and say how to get it.

    def test_something(app, browser):
        page = browser.new_context().new_page()
        page.goto(f"{app}/train")

`start_app` is for tests that need a server of their own: a workspace with runs in it, or a cold start.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import fixture_dirs

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ROOT = Path(__file__).parents[2]
WAIT = 60_000  # milliseconds that a page may take on a busy machine


@contextlib.contextmanager
def running_app(folder: Path, lab: Path, base: Path) -> Iterator[str]:
    """The app as the README starts it, with these two roots; gives its address."""
    environment = os.environ | {"NANOCHAT_LAB_DIR": str(lab), "NANOCHAT_BASE_DIR": str(base)}
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "streamlit", "run", "Home.py", "--server.headless=true", f"--server.port={port}"]
    with (folder / "app.log").open("wb") as log:
        server = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
        )
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(f"{address}/_stcore/health", timeout=2).read()
                break
            except OSError:
                assert server.poll() is None, (folder / "app.log").read_text()
                time.sleep(0.25)
        else:
            pytest.fail(f"the app did not answer within a minute: {(folder / 'app.log').read_text()}")
        yield address
    finally:
        server.terminate()
        try:
            server.wait(timeout=5)
        except subprocess.TimeoutExpired:  # a page that computes does not hear it
            server.kill()
            server.wait(timeout=20)


@pytest.fixture(scope="session")
def browser() -> Iterator:
    """Chromium, one for all tests."""
    if CHROMIUM is None:
        pytest.skip("no Chromium here; on Debian or Ubuntu: apt-get install chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason='no Playwright here: pip install -e ".[test]"')
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory, browser) -> Iterator[str]:
    """An app with an empty workspace, and a real nanochat folder where there is one."""
    folder = tmp_path_factory.mktemp("browser")
    real = fixture_dirs()
    with running_app(folder, folder / "lab", real[-1] if real else folder / "nanochat") as address:
        yield address


@pytest.fixture
def start_app(tmp_path: Path, browser) -> Iterator[Callable[[Path], str]]:
    """A function that starts an app of its own on a workspace."""
    with contextlib.ExitStack() as stack:
        yield lambda lab: stack.enter_context(running_app(tmp_path, lab, tmp_path / "nanochat"))
