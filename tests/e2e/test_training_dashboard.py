"""The training dashboard in a real browser: a link to a run, its figures as in the terminal, and a zoom by dragging."""

import contextlib
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nanochat.durable import directory_lock
from tests.e2e.conftest import ROOT, WAIT
from tests.e2e.waiting import figure
from tests.test_training_dashboard import falling, record, written

pytestmark = pytest.mark.browser


@pytest.fixture
def trains() -> Iterator[Callable[[Path], None]]:
    """A function that holds a run as one does that trains it: it is live then, however long a page takes."""
    with contextlib.ExitStack() as stack:
        yield lambda folder: stack.enter_context(directory_lock(folder))


def test_figures_are_the_terminals_and_a_drag_zooms(start_app, browser, tmp_path, trains) -> None:
    from playwright.sync_api import expect

    lab = tmp_path / "lab"
    folder = written(lab, [*falling(1000), record(1000, None, val_bpb=1.2345)])
    command = [sys.executable, "-m", "nanochat.tools.training_dashboard", str(folder), "--json"]
    told = json.loads(subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout)
    page = browser.new_context().new_page()
    page.set_default_timeout(WAIT)
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    address = start_app(lab)
    trains(folder)
    page.goto(f"{address}/training_dashboard?training_dashboard_run=base/d4")
    page.get_by_test_id("stMetric").filter(has_text="Train loss").wait_for()
    for name in ("train_loss", "best"):
        figure(page, f"{told[name]['value']:.4f}")
    small = page.get_by_test_id("stVegaLiteChart").nth(1)
    small.locator("canvas, svg").first.wait_for()
    small.scroll_into_view_if_needed()
    box = small.bounding_box()
    y = box["y"] + 30
    page.mouse.move(box["x"] + 0.4 * box["width"], y)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.5 * box["width"], y, steps=5)
    page.mouse.move(box["x"] + 0.6 * box["width"], y, steps=5)
    page.mouse.up()
    page.wait_for_url(re.compile("training_dashboard_low="))
    expect(page.get_by_label("To", exact=True)).not_to_have_value("", timeout=WAIT)
    low, high = (page.get_by_label(name, exact=True).input_value() for name in ("From", "To"))
    assert 300 < float(low) < float(high) < 700
    page.get_by_label("From", exact=True).fill("50")
    page.keyboard.press("Enter")
    for step in range(1001, 1004):  # drawn anew each time, and each time the browser says where its brush stands
        with (folder / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(record(step, 2.5)) + "\n")
        figure(page, f"{step:,}")
    expect(page.get_by_label("From", exact=True)).to_have_value("50.00", timeout=WAIT)
    assert page.get_by_test_id("stException").count() == 0
    assert all(url.startswith((address, "data:", "blob:")) for url in requests)


def test_a_log_is_uploaded_and_a_run_that_grows_is_followed(start_app, browser, tmp_path, trains) -> None:
    lab = tmp_path / "lab"
    folder = written(lab, falling(40))
    trains(folder)
    page = browser.new_context().new_page()
    page.set_default_timeout(WAIT)
    page.goto(f"{start_app(lab)}/training_dashboard?training_dashboard_run=base/d4")
    figure(page, "39")
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(record(40, 2.5)) + "\n")
    figure(page, "40")  # by itself, while the run is live
    page.get_by_role("button", name="A log").click()
    content = "".join(json.dumps(line) + "\n" for line in falling(20)).encode()
    upload = {"name": "mine.jsonl", "mimeType": "application/json", "buffer": content}
    page.get_by_test_id("stFileUploader").locator("input[type=file]").set_input_files(upload)
    page.get_by_text("To compare with, of base/d4").wait_for()  # there are two runs now
    page.keyboard.press("Escape")
    page.get_by_role("tab", name="Sources").click()
    page.get_by_text("mine.jsonl: 20 rows (metrics)").wait_for()
    assert page.get_by_test_id("stException").count() == 0
