"""How long a person waits for the app: a cold server, a fresh tab, a switch of pages, a control; measured in Chromium.

    python -m nanochat.benchmarks.app            # medians of five, a line each; needs Chromium and Playwright
    python -m nanochat.benchmarks.app --workspace ~/.cache/nanochat-lab    # with the runs there

Each figure is the time until the page shows what it is for, and Streamlit says that it is done: nothing is running.
What the budgets are worth on a busy machine is nothing: look at the load that is printed first.
"""

import argparse
import contextlib
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
DONE = "document.querySelector('[data-testid=stApp]')?.getAttribute('data-test-script-state') === 'notRunning'"
WITH_TORCH = ("kernel_benchmark", "generation_explorer", "attention_visualizer")


@dataclass(frozen=True)
class Figure:
    """One budget and what was measured."""

    name: str
    seconds: float  # median
    low: float
    high: float
    budget: float

    @property
    def kept(self) -> bool:
        return self.seconds <= self.budget


@contextlib.contextmanager
def server(lab: Path) -> Iterator[str]:
    """A fresh server on this workspace; its address."""
    with server_process(lab) as (address, _):
        yield address


@contextlib.contextmanager
def server_process(lab: Path) -> Iterator[tuple[str, int]]:
    """A fresh server on this workspace; its address and its process id."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {"NANOCHAT_LAB_DIR": str(lab), "NANOCHAT_BASE_DIR": str(lab / "none")}
    command = [sys.executable, "-m", "streamlit", "run", "Home.py", "--server.headless=true", f"--server.port={port}"]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(600):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/_stcore/health", timeout=1).read()
                break
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}", process.pid
    finally:
        process.terminate()
        process.wait(timeout=20)


def measured(name: str, budget: float, once: Callable[[], float], rounds: int) -> Figure:
    """The median of some rounds."""
    times = sorted(once() for _ in range(rounds))
    return Figure(name, statistics.median(times), times[0], times[-1], budget)


def until_done(page: Any, heading: str, begun: float) -> float:
    """Seconds since `begun` until the page's heading is there and its script has ended."""
    page.get_by_role("heading", name=heading, exact=True).first.wait_for()
    page.wait_for_function(DONE)
    return time.perf_counter() - begun


def figures(rounds: int, lab: Path) -> Iterator[Figure]:
    """Every budget, one after the other, on this workspace."""
    from playwright.sync_api import sync_playwright

    from nanochat.ui import catalog

    executable = next(filter(None, map(shutil.which, CHROMIUM)), None)
    stems = [page.stem for page in catalog.available()]
    titles = {page.stem: page.title for page in catalog.available()}
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=executable, args=["--no-sandbox", "--disable-gpu"])

        def opened(address: str, heading: str) -> tuple[Any, float]:
            page = browser.new_context().new_page()
            page.set_default_timeout(120_000)
            begun = time.perf_counter()
            page.goto(address)
            return page, until_done(page, heading, begun)

        def cold(path: str, heading: str) -> float:
            with server(lab) as address:
                page, seconds = opened(address + path, heading)
                page.context.close()
                return seconds

        yield measured("first page of a cold server", 5.0, lambda: cold("", "nanochat lab"), rounds)
        with_torch = next((stem for stem in WITH_TORCH if stem in stems), None)
        if with_torch:
            heading = titles[with_torch]
            yield measured("first page with torch", 6.0, lambda: cold(f"/{with_torch}", heading), rounds)
        with server(lab) as address:
            page, _ = opened(address, "nanochat lab")

            def fresh_tab() -> float:
                tab, seconds = opened(address, "nanochat lab")
                tab.context.close()
                return seconds

            def switch(stem: str) -> float:
                page.get_by_test_id("stSidebarNavLink").filter(has_text="Home").first.click()
                until_done(page, "nanochat lab", time.perf_counter())
                begun = time.perf_counter()
                page.get_by_test_id("stSidebarNavLink").filter(has_text=titles[stem]).first.click()
                return until_done(page, titles[stem], begun)

            yield measured("fresh tab", 3.0, fresh_tab, rounds)
            for stem in stems:
                switch(stem)  # once, so that what a page loads is there
                yield measured(f"warm switch to {stem}", 0.8, lambda stem=stem: switch(stem), rounds)  # type: ignore[misc]
        browser.close()


def main(argv: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="python -m nanochat.benchmarks.app", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--rounds", type=int, default=5, help="times that each is measured (5)")
    parser.add_argument("--workspace", type=Path, help="one with runs, which pages then open (an empty one)")
    parser.add_argument("--json", action="store_true", help="one object a line")
    args = parser.parse_args(argv)
    print(f"load of the machine before: {os.getloadavg()[0]:.2f}", file=sys.stderr)
    with tempfile.TemporaryDirectory() as empty:
        report(figures(args.rounds, args.workspace or Path(empty)), args.json)
    return 0


def report(found: Iterator[Figure], as_json: bool) -> None:
    """Print each figure as it comes."""
    for figure in found:
        if as_json:
            print(json.dumps(asdict(figure)), flush=True)
        else:
            verdict = "" if figure.kept else "  over"
            span = f"{figure.low:.2f} to {figure.high:.2f}"
            print(f"{figure.name:44} {figure.seconds:5.2f} s ({span}), budget {figure.budget} s{verdict}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
