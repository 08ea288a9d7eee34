"""The Train page in a real browser: start a model, see the curve move, reload, and be led to what was made."""

import json
import re
import subprocess
import sys

import pytest

from nanochat.ui import catalog
from tests.e2e.conftest import ROOT, WAIT, running_app
from tests.e2e.waiting import figure, fits, press, settled, until

pytestmark = pytest.mark.browser


def updates(page) -> int:
    """The number under "Updates"."""
    metric = page.get_by_test_id("stMetric").filter(has_text="Updates").get_by_test_id("stMetricValue")
    return int(metric.inner_text().replace(",", ""))


def watched(page) -> int:
    """Wait until the page shows the training; its updates at that moment."""
    page.get_by_test_id("stMetric").filter(has_text="Updates").wait_for()
    return updates(page)


@pytest.mark.prove
def test_the_first_visit_with_the_keyboard_alone(start_app, browser, tmp_path) -> None:
    """From Home to the model of a minute, and on to its run, where the figures are those of the terminal."""
    lab = tmp_path / "lab"
    page = browser.new_context().new_page()
    page.set_default_timeout(WAIT)
    page.goto(start_app(lab))
    page.get_by_text(re.compile("Runs on .*float")).wait_for()
    press(page, "Train a first model")
    page.get_by_text("nanochat demo --budget 60").wait_for()
    press(page, "Start")
    page.get_by_text(re.compile(", .+ left$|longer than thought")).first.wait_for()
    earlier = watched(page)
    assert until(lambda: updates(page) > earlier, page)
    page.reload()  # a new session: it finds the training that runs
    assert watched(page) > earlier
    page.get_by_text("Done. Now look inside:").wait_for(timeout=240_000)
    (log,) = lab.glob("jobs/*/output.log")
    report = json.loads(log.read_text().splitlines()[-1])
    for value in (f"{report['val_bpb']:.4f}", str(report["writing"]["accepted"])):
        figure(page, value)
    press(page, "Training dashboard")
    run = lab / "base_checkpoints" / "demo"
    command = [sys.executable, "-m", "nanochat.tools.training_dashboard", str(run), "--json"]
    told = json.loads(subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout)
    page.get_by_role("heading", name="Training dashboard").wait_for()
    for name in ("train_loss", "best"):
        figure(page, f"{told[name]['value']:.4f}")
    assert page.get_by_test_id("stException").count() == 0


def test_a_training_outlives_page_and_server_and_is_stopped(browser, tmp_path) -> None:
    lab, base = tmp_path / "lab", tmp_path / "nanochat"
    page = browser.new_context().new_page()
    page.set_default_timeout(WAIT)
    with running_app(tmp_path, lab, base) as address:
        # A cold link, too; and so long that no busy machine is through before it is stopped.
        page.goto(f"{address}/train?train_minutes=1.5")
        page.get_by_role("button", name="Start").click()
        earlier = watched(page)
        page.reload()
        assert watched(page) >= earlier
    with running_app(tmp_path, lab, base) as address:
        page.goto(f"{address}/train")
        assert watched(page) > earlier
        page.get_by_role("button", name="Stop and save").click()
        page.get_by_text("Stopped; what it had was saved.").wait_for()
    assert list((lab / "base_checkpoints" / "demo").glob("model_*.pt"))


SHOWN = ("chat", "training_dashboard")  # the first page of the catalog, and one of its middle; `make prove` visits all


@pytest.mark.parametrize(
    "stem",
    [pytest.param(page.stem, marks=() if page.stem in SHOWN else pytest.mark.prove) for page in catalog.available()],
)
def test_a_cold_link_to_every_page_comes_through_home(start_app, browser, tmp_path, stem: str) -> None:
    """The first visit to a fresh server is a link to the page: sections in the sidebar, no dialog, no error, nothing
    asked of another machine; and on a phone, in the dark, nothing reaches beyond its edge."""
    page = browser.new_context(color_scheme="dark").new_page()
    page.set_default_timeout(WAIT)
    requested: list[str] = []
    page.on("request", lambda request: requested.append(request.url))
    address = start_app(tmp_path / "lab")
    page.goto(f"{address}/{stem}")
    page.get_by_role("heading", level=1).first.wait_for()
    title = next(entry.title for entry in catalog.PAGES if entry.stem == stem)
    page.get_by_test_id("stSidebarNavLink").filter(has_text=re.compile(title)).first.wait_for()  # not its file's name
    assert page.get_by_role("dialog").count() == 0
    assert page.get_by_test_id("stException").count() == 0
    settled(page)
    page.set_viewport_size({"width": 390, "height": 844})
    assert until(lambda: fits(page), page)
    assert [url for url in requested if not url.startswith((address, "data:", "blob:"))] == []
