"""The training dashboard in a real browser: a link to a run, its figures as in the terminal, and a zoom by dragging."""

import json
import re
import subprocess
import sys

import pytest

from tests.e2e.conftest import ROOT, WAIT
from tests.test_training_dashboard import falling, record, written

pytestmark = pytest.mark.browser


def test_figures_are_the_terminals_and_a_drag_zooms(start_app, browser, tmp_path) -> None:
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
    page.goto(f"{address}/training_dashboard?training_dashboard_run=base/d4")
    page.get_by_test_id("stMetric").filter(has_text="Train loss").wait_for()
    figures = page.get_by_test_id("stMetricValue").all_inner_texts()
    assert f"{told['train_loss']['value']:.4f}" in figures
    assert f"{told['best']['value']:.4f}" in figures
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
        page.get_by_test_id("stMetricValue").get_by_text(f"{step:,}", exact=True).wait_for()
    expect(page.get_by_label("From", exact=True)).to_have_value("50.00", timeout=WAIT)
    assert page.get_by_test_id("stException").count() == 0
    assert all(url.startswith((address, "data:", "blob:")) for url in requests)


def test_a_log_is_uploaded_and_a_run_that_grows_is_followed(start_app, browser, tmp_path) -> None:
    lab = tmp_path / "lab"
    folder = written(lab, falling(40))
    page = browser.new_context().new_page()
    page.set_default_timeout(WAIT)
    page.goto(f"{start_app(lab)}/training_dashboard?training_dashboard_run=base/d4")
    page.get_by_test_id("stMetricValue").get_by_text("39", exact=True).wait_for()
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(record(40, 2.5)) + "\n")
    page.get_by_test_id("stMetricValue").get_by_text("40", exact=True).wait_for()  # by itself, while the run is live
    page.get_by_role("button", name="A log").click()
    content = "".join(json.dumps(line) + "\n" for line in falling(20)).encode()
    upload = {"name": "mine.jsonl", "mimeType": "application/json", "buffer": content}
    page.get_by_test_id("stFileUploader").locator("input[type=file]").set_input_files(upload)
    page.get_by_text("To compare with, of base/d4").wait_for()  # there are two runs now
    page.keyboard.press("Escape")
    page.get_by_role("tab", name="Sources").click()
    page.get_by_text("mine.jsonl: 20 rows (metrics)").wait_for()
    assert page.get_by_test_id("stException").count() == 0
