"""The learning-rate finder in a real browser: a run's history, a range test stopped, and one that comes to its end."""

import contextlib
import io
import json
import re

import pytest

from nanochat.analysis import lr_finder
from nanochat.scripts import base_train
from tests.e2e.conftest import WAIT
from tests.training_support import arguments, base_dir

pytestmark = pytest.mark.browser


def test_a_range_test_is_watched_stopped_and_finished(start_app, browser, tmp_path) -> None:
    lab = base_dir(tmp_path / "lab")
    with contextlib.redirect_stdout(io.StringIO()):
        assert base_train.main(arguments(lab, eval_every=-1)) == 0
    folder = lab / "base_checkpoints" / "d2"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    told = lr_finder.analyse(folder)
    page = browser.new_context().new_page()
    page.set_default_timeout(3 * WAIT)
    page.goto(f"{start_app(lab)}/lr_finder?lr_finder_run=base/d2")
    page.get_by_text(f"Schedule: {told.schedule.word}").wait_for()
    page.get_by_test_id("stMetricValue").get_by_text(f"{told.high:.6f}", exact=True).first.wait_for()
    page.get_by_role("radio", name="range test").click()
    page.get_by_role("radio", name="long").click()
    page.get_by_text(re.compile("--sweep-steps 300")).wait_for()  # the click has arrived
    page.get_by_role("button", name="Start").click()
    page.get_by_text(re.compile(r"d2, fresh: [1-9]\d* updates")).wait_for()
    page.reload()  # a new session: it finds the test that runs
    stop = page.get_by_test_id("stMain").get_by_role("button", name="Stop")  # Streamlit has one of its own above
    stop.click()
    page.get_by_text("Stopped; this is what it had.").wait_for()
    page.get_by_text("All groups").first.wait_for()
    page.get_by_role("combobox", name=re.compile("Range tests")).click()
    page.get_by_role("option", name="a new one").click()
    page.get_by_role("radio", name="short").click()
    page.get_by_text(re.compile("--sweep-steps 60")).wait_for()
    page.get_by_role("button", name="Start").click()
    page.get_by_text(re.compile(r"d2, fresh: [1-9]\d* updates")).wait_for()
    page.get_by_text(re.compile("All groups: (factor|no clear minimum)")).wait_for()
    stop.wait_for(state="detached")
    assert page.get_by_test_id("stException").count() == 0
    states = [json.loads(path.read_text())["state"] for path in sorted(lab.glob("jobs/*/state.json"))]
    assert states == ["stopped", "finished"]
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
