"""The model calculator's page: the same figures as in a terminal, on every view, and sizes that cannot be."""

import pytest
from streamlit.testing.v1 import AppTest

from tests import page_support


def opened(**query: str) -> AppTest:
    return page_support.opened("model_calculator", query)


def figures(page: AppTest) -> list[str]:
    return [metric.value for metric in page.metric]


def test_a_fresh_machine_sees_the_newest_nanochat() -> None:
    page = opened()
    assert figures(page) == ["286,261,730", "110,100,936", "759,696,048"]
    page.slider(key="model_calculator_depth").set_value(20).run()
    assert figures(page)[0] == "896,533,746"
    page.toggle(key="model_calculator_verify").set_value(True).run()
    assert "896,533,746**, equal" in "\n".join(str(text.value) for text in page.markdown)


def test_a_preset_and_a_link() -> None:
    assert figures(opened(preset="gpt2-small"))[0] == "124,439,808"


@pytest.mark.parametrize(
    "family", ["nanochat_2025-10-13", "nanochat_2026-01-27", "generic", "gpt2", "llama", "gptneox"]
)
def test_every_family_on_every_view(family: str) -> None:
    for view in ("Parameters", "Memory", "Training"):
        page = opened(view=view, family=family)
        assert page.selectbox(key="model_calculator_family").value == family
        assert not page.warning
        assert not page.error


def test_sizes_that_cannot_be_are_a_sentence() -> None:
    page = opened(family="generic")
    page.select_slider(key="model_calculator_heads").set_value(128).run()
    page.select_slider(key="model_calculator_width").set_value(64).run()
    assert not page.exception
    assert "does not divide" in page.warning[0].value


def test_what_a_budget_buys() -> None:
    page = opened(view="What a budget buys")
    assert "Depth 24" in "\n".join(str(text.value) for text in page.markdown)
    page.segmented_control(key="model_calculator_budget_kind").set_value("GB").run()
    page.number_input(key="model_calculator_budget_GB").set_value(0.01).run()
    assert "It buys nothing" in page.warning[0].value
