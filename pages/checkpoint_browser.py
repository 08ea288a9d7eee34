"""Checkpoint browser: every checkpoint on this machine, listed, opened, compared, tidied up and exported."""

import streamlit as st

from nanochat.ui import checkpoint_browser as views
from nanochat.ui import checkpoint_browser_compare as compare_views
from nanochat.ui.checkpoint_browser import PAGE
from nanochat.ui.errors import errors_as_sentences
from nanochat.ui.pickers import base_dir_input, known_roots, pick_view
from nanochat.ui.shell import heading
from nanochat.ui.states import nothing_yet

VIEWS = ("List", "Inspect", "Compare", "Tidy up")


def main() -> None:
    """Draw the page."""
    heading(PAGE, "A checkpoint is a model at one moment of its training. See what you have, and which is the best.")
    with errors_as_sentences("looking for checkpoints"):
        with st.container(horizontal=True, vertical_alignment="bottom"):
            extra = base_dir_input(PAGE)
        roots = known_roots(extra)
        found = views.listed(roots)
        if found.frame.is_empty():
            views.problems(found)
            nothing_yet(
                "No checkpoints yet",
                "A training writes one now and then: the weights, a small file about them, and the optimizer's memory.",
                "nanochat demo",
            )
            return
        # A link from another page carries a run: that is what is wanted then.
        first = "Inspect" if f"{PAGE}_run" in st.query_params else "List"
        view = pick_view(PAGE, VIEWS, first)
        with errors_as_sentences("looking at checkpoints"):
            if view == "Inspect":
                views.draw_inspect(extra)
            elif view == "Compare":
                compare_views.draw_compare(found, roots)
            elif view == "Tidy up":
                views.draw_tidy(roots)
            else:
                views.draw_list(found, roots)


main()
