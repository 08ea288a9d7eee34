"""The Train page in a real browser: start a model, see the curve move, reload, and be led to what was made."""

import json
import re

import pytest

from nanochat.ui import catalog
from tests.e2e.conftest import WAIT

pytestmark = pytest.mark.browser


def updates(page) -> int:
    """The number under "Updates"."""
    metric = page.get_by_test_id("stMetric").filter(has_text="Updates").get_by_test_id("stMetricValue")
    return int(metric.inner_text().replace(",", ""))


def first_model(app: str, browser, minutes: str, patience: float):
    """Start the demo in the page, watch it, and give the page at the end."""
    page = browser.new_context().new_page()
    page.set_default_timeout(WAIT)
    page.goto(f"{app}/train?train_minutes={minutes}")
    page.get_by_text("nanochat demo --budget").wait_for()
    page.get_by_role("button", name="Start").click()
    page.get_by_text(re.compile(", .+ left$|longer than thought")).first.wait_for()
    page.get_by_test_id("stMetric").filter(has_text="Updates").wait_for(timeout=patience)
    earlier = updates(page)
    page.wait_for_function(
        "n => Number(document.querySelector('[data-testid=stMetricValue]').innerText.replace(',', '')) > n", arg=earlier
    )
    page.reload()  # a new session: it finds the training that runs
    page.get_by_test_id("stMetric").filter(has_text="Updates").wait_for(timeout=patience)
    assert updates(page) > earlier
    page.get_by_text("Done. Now look inside:").wait_for(timeout=patience)
    return page


@pytest.mark.prove
def test_the_first_model_of_a_minute(start_app, browser, tmp_path) -> None:
    lab = tmp_path / "lab"
    page = first_model(start_app(lab), browser, "1", 240_000)
    (log,) = lab.glob("jobs/*/output.log")
    report = json.loads(log.read_text().splitlines()[-1])
    for figure in (f"{report['val_bpb']:.4f}", str(report["writing"]["accepted"])):
        page.get_by_test_id("stMetricValue").get_by_text(figure, exact=True).first.wait_for()


def test_a_model_is_started_watched_and_stopped(start_app, browser, tmp_path) -> None:
    page = browser.new_context().new_page()
    page.set_default_timeout(WAIT)
    # A cold link, too; and so long that no busy machine is through before it is stopped.
    page.goto(f"{start_app(tmp_path / 'lab')}/train?train_minutes=1.5")
    page.get_by_role("button", name="Start").click()
    page.get_by_test_id("stMetric").filter(has_text="Updates").wait_for()
    page.reload()
    page.get_by_test_id("stMetric").filter(has_text="Updates").wait_for()
    page.get_by_role("button", name="Stop and save").click()
    page.get_by_text("Stopped; what it had was saved.").wait_for()
    assert list((tmp_path / "lab" / "base_checkpoints" / "demo").glob("model_*.pt"))


SHOWN = ("chat", "training_dashboard")  # the first page of the catalog, and one of its middle; `make prove` visits all


@pytest.mark.parametrize(
    "stem",
    [pytest.param(page.stem, marks=() if page.stem in SHOWN else pytest.mark.prove) for page in catalog.available()],
)
def test_a_cold_link_to_every_page_comes_through_home(start_app, browser, tmp_path, stem: str) -> None:
    """The first visit to a fresh server is a link to the page: sections in the sidebar, no dialog, no error."""
    page = browser.new_context().new_page()
    page.set_default_timeout(WAIT)
    page.goto(f"{start_app(tmp_path / 'lab')}/{stem}")
    page.get_by_role("heading", level=1).first.wait_for()
    title = next(entry.title for entry in catalog.PAGES if entry.stem == stem)
    page.get_by_test_id("stSidebarNavLink").filter(has_text=re.compile(title)).first.wait_for()  # not its file's name
    assert page.get_by_role("dialog").count() == 0
    assert page.get_by_test_id("stException").count() == 0
