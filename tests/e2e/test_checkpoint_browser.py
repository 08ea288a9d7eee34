"""The checkpoint browser in a real browser: its figures are the terminal's, and a link opens a run."""

import json

import pytest

from nanochat.tools import checkpoint_browser as tool
from tests.checkpoint_support import save_ours
from tests.e2e.conftest import WAIT

pytestmark = pytest.mark.browser


def test_the_page_shows_what_the_terminal_says(start_app, browser, tmp_path, capsys) -> None:
    lab = tmp_path / "lab"
    run = save_ours(lab / "base_checkpoints" / "d2")
    save_ours(run, 20, seed=1)
    assert tool.main(["--compare", "d2@10", "d2@20", "--base-dir", str(lab), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    page = browser.new_context().new_page()
    page.set_default_timeout(WAIT)
    address = f"{start_app(lab)}/checkpoint_browser"
    page.goto(
        f"{address}?checkpoint_browser_view=Compare&checkpoint_browser_a=base/d2@10&checkpoint_browser_b=base/d2@20"
    )
    page.get_by_text(f"{told['relative']:.4f}").first.wait_for()
    page.get_by_text(f"{told['cosine']:.4f}").wait_for()  # once: Playwright refuses several
    page.goto(f"{address}?checkpoint_browser_run=base/d2&checkpoint_browser_step=10")
    page.get_by_text("Sound: structure, names and sizes.").wait_for()
    page.get_by_text("base/d2@10").first.wait_for()
    assert page.get_by_test_id("stException").count() == 0
