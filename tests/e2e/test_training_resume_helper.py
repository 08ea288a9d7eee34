"""The resume helper in a real browser: what the page says of a killed run is what the terminal says, and the proof."""

import contextlib
import io
import json
import subprocess
import sys

import pytest

from nanochat.scripts import base_train
from tests.e2e.conftest import ROOT, WAIT
from tests.e2e.waiting import figure
from tests.training_support import arguments, base_dir

pytestmark = pytest.mark.browser


def test_a_run_is_looked_at_and_proven(start_app, browser, tmp_path) -> None:
    lab = base_dir(tmp_path / "lab")
    with contextlib.redirect_stdout(io.StringIO()):
        assert base_train.main(arguments(lab, eval_every=-1)) == 0
    folder = lab / "base_checkpoints" / "d2"
    command = [sys.executable, "-m", "nanochat.tools.training_resume_helper", str(folder), "--step", "14", "--json"]
    told = json.loads(subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout)
    page = browser.new_context().new_page()
    page.set_default_timeout(2 * WAIT)
    query = "training_resume_helper_run=base/d2&training_resume_helper_step=14&training_resume_helper_steps=3"
    page.goto(f"{start_app(lab)}/training_resume_helper?{query}")
    page.get_by_test_id("stMetric").filter(has_text="Updates left").wait_for()
    for value in (f"step {told['step']}", f"{told['remaining']:,}", f"{told['progress']:.1%}"):
        figure(page, value)
    page.get_by_text("--resume-from-step 14 --force").wait_for()
    page.get_by_role("tab", name="Proof").click()
    page.get_by_role("button", name="Prove it").click()
    page.get_by_text("It goes on if you close this page").wait_for()
    page.reload()  # a new session finds the job, or its result where it was quick
    page.get_by_role("tab", name="Proof").click()
    page.get_by_text("all 3 losses are the same to the last bit").wait_for()
    page.get_by_role("button", name="Prove it again").wait_for()
    assert page.get_by_test_id("stException").count() == 0
