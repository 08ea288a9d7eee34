"""Take a picture of every page over this machine's workspace, to look at, and for the README.

    make pictures                     # docs/images, from a workspace in which the app trained a first model
    python -m tests.e2e.pictures --out look --theme light dark --whole
    python -m tests.e2e.pictures --out look --width 390 train chat

It needs Chromium and `pip install -e ".[test]"`. The dataset inspector gets a file with every kind of error in it.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from nanochat import jobs
from nanochat.analysis.train import KINDS
from nanochat.benchmarks.make_conversations import planted
from nanochat.paths import nanochat_base_dir, workspace
from nanochat.ui.catalog import available
from tests.e2e.conftest import CHROMIUM, WAIT, running_app
from tests.e2e.waiting import settled

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

HOME = "home"
QUESTION = "What can you do?"


@contextmanager
def _chromium() -> "Iterator[Browser]":
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


def _address(stem: str, chats: Path) -> str:
    """A page's address, with what makes it worth a picture."""
    trained = [job for job in jobs.all_jobs(KINDS) if not jobs.status(job).alive]
    query = {
        HOME: "",
        "dataset_inspector": f"dataset_inspector?dataset_inspector_path={quote(str(chats))}",
        "train": f"train?train_job={max(trained, key=lambda job: job.begun).id}" if trained else "train",
    }
    return query.get(stem, stem)


def _ask(page: "Page") -> None:
    """Have the model of the chat page answer."""
    box = page.get_by_test_id("stChatInputTextArea")
    if box.count():
        box.fill(QUESTION)
        box.press("Enter")
        page.get_by_text("s to the first").first.wait_for()


def _drawn(page: "Page") -> None:
    """Wait until the page stands still: drawn to its end, no spinner, its charts in place."""
    page.get_by_role("heading", level=1).first.wait_for()
    for _ in range(2):
        settled(page)
        page.locator('[data-testid="stSpinner"], [data-testid="stSkeleton"]').last.wait_for(state="detached")
        page.wait_for_timeout(1_500)


def _chats(folder: Path) -> Path:
    """A file with errors of every kind in it, but for the lines of many megabytes."""
    path = folder / "chats.jsonl"
    path.write_bytes(b"".join(line for line, _ in planted(2_000, 4) if len(line) < 10**6))
    return path


def take(address: str, stems: list[str], themes: list[str], width: int, whole: bool, out: Path) -> None:
    """Write a picture of each page in each theme into `out`; the light one has the page's plain name."""
    out.mkdir(parents=True, exist_ok=True)
    with _chromium() as browser, tempfile.TemporaryDirectory(prefix="pictures-") as folder:
        chats = _chats(Path(folder))
        for theme in themes:
            context = browser.new_context(viewport={"width": width, "height": 860}, color_scheme=theme)
            context.set_default_timeout(WAIT)
            for stem in stems:
                page = context.new_page()
                page.goto(f"{address}/{_address(stem, chats)}")
                _drawn(page)
                if stem == "chat":
                    _ask(page)
                    _drawn(page)
                if whole:  # Streamlit scrolls inside the window, so the window has to be as tall as the page
                    tall = page.get_by_test_id("stMainBlockContainer").evaluate("element => element.scrollHeight")
                    page.set_viewport_size({"width": width, "height": max(tall, 860)})
                    page.wait_for_timeout(1_000)
                path = out / (f"{stem}.png" if theme == "light" else f"{stem}-{theme}.png")
                page.screenshot(path=path)
                print(path)
                page.close()
            context.close()


def main() -> None:
    """Take the pictures."""
    stems = [HOME, *(page.stem for page in available())]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pages", nargs="*", metavar="PAGE", help=f"all, or some of: {', '.join(stems)}")
    parser.add_argument("--out", type=Path, default=Path("docs/images"), help="folder for the pictures")
    parser.add_argument("--theme", nargs="+", choices=["light", "dark"], default=["light"])
    parser.add_argument("--width", type=int, default=1280, help="of the window, in pixels")
    parser.add_argument("--whole", action="store_true", help="the whole page, not the first 860 pixels of it")
    arguments = parser.parse_args()
    unknown = set(arguments.pages) - set(stems)
    if unknown:
        parser.error(f"no page is called {', '.join(sorted(unknown))}; there are {', '.join(stems)}")
    if CHROMIUM is None:
        sys.exit("no Chromium here; on Debian or Ubuntu: apt-get install chromium")
    with (
        tempfile.TemporaryDirectory(prefix="pictures-") as folder,
        running_app(Path(folder), workspace(), nanochat_base_dir()) as address,
    ):
        take(address, arguments.pages or stems, arguments.theme, arguments.width, arguments.whole, arguments.out)


if __name__ == "__main__":
    main()
