"""The model calculator in a real browser: a link opens a model, and its figures are the terminal's."""

import json

import pytest

from nanochat.tools import model_calculator as tool
from tests.e2e.conftest import WAIT
from tests.e2e.waiting import shows

pytestmark = pytest.mark.browser


def test_the_page_shows_what_the_terminal_says(app, browser, capsys) -> None:
    assert tool.main(["--family", "nanochat", "--depth", "20", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    page = browser.new_context().new_page()
    page.set_default_timeout(WAIT)
    page.goto(f"{app}/model_calculator?model_calculator_depth=20")
    page.get_by_text(f"{told['total']:,}").wait_for()
    figures = [f"{told['total']:,}", f"{told['matrices']:,}", f"{told['training']['flops_a_token']:,}"]
    shows(page, page.get_by_test_id("stMetricValue").all_inner_texts, figures)
    page.get_by_text("Every number with its formula").click()
    page.get_by_text("FLOPs a token = 6 M").wait_for()
