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
    from playwright.sync_api import expect

    expect(page.get_by_label("To", exact=True)).not_to_have_value("", timeout=WAIT)
    low, high = (page.get_by_label(name, exact=True).input_value() for name in ("From", "To"))
    assert 300 < float(low) < float(high) < 700
    assert page.get_by_test_id("stException").count() == 0
    assert all(url.startswith((address, "data:", "blob:")) for url in requests)
