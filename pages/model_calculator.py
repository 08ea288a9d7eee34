"""Model calculator: parameters, memory, time and cost of a model before it is trained, each with its formula."""

import streamlit as st

from nanochat.analysis.model_calculator import CalculatorError
from nanochat.ui import model_calculator as views
from nanochat.ui.errors import errors_as_sentences
from nanochat.ui.model_calculator import PAGE
from nanochat.ui.pickers import pick_view
from nanochat.ui.shell import heading
from nanochat.ui.text import plain

VIEWS = ("Parameters", "Memory", "Training", "What a budget buys")


def main() -> None:
    """Draw the page."""
    heading(PAGE, "How large a model is, what it needs and what it costs, before you train it.")
    with errors_as_sentences("calculating"):
        view = pick_view(PAGE, VIEWS)
        try:
            if view == VIEWS[3]:
                views.draw_budget()
                return
            model = views.choose_model()
            draw = {"Memory": views.draw_memory, "Training": views.draw_training}.get(view or "", views.draw_parameters)
            draw(model)
        except CalculatorError as refusal:
            st.warning(plain(str(refusal)), icon=":material/warning:")


main()
