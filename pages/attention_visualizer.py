"""Attention visualizer: see where a model looks, what each head does, and what happens without it."""

import streamlit as st

from nanochat.analysis.attention_visualizer import EXAMPLE
from nanochat.ui import attention_visualizer as views
from nanochat.ui.attention_visualizer import PAGE
from nanochat.ui.errors import errors_as_sentences
from nanochat.ui.models import Shared, open_shared
from nanochat.ui.pickers import base_dir_input, pick_checkpoint, pick_view, runs_by_id
from nanochat.ui.shell import heading


def _off_heads(model: Shared) -> tuple[tuple[int, int], ...]:
    """The heads to switch off, each with its measured name."""
    options = {f"{layer}.{head}": label for layer, head, label, *_ in views.names_of(model).iter_rows()}
    key = f"{PAGE}_off"
    gone = [name for name in st.session_state.get(key, ()) if name not in options]
    if gone:  # written only where it must be: what is written here overrules a click that is on its way
        st.session_state[key] = [name for name in st.session_state[key] if name in options]
    chosen = st.multiselect(
        "Heads switched off",
        list(options),
        key=key,
        format_func=lambda name: f"{name} {options[name]}".strip(),
        placeholder="none",
        help="Their output counts as zero for this look; the model itself is not changed.",
    )
    return tuple(sorted((int(layer), int(head)) for layer, head in (name.split(".") for name in chosen)))


def main() -> None:
    """Draw the page."""
    heading(
        PAGE,
        "Each token looks back at the tokens before it and takes something from them. Here is where, head by head: "
        "rows look, columns are looked at.",
    )
    with errors_as_sentences("opening a model"):
        row = st.container(horizontal=True, vertical_alignment="bottom")
        with row:
            extra = base_dir_input(PAGE)
        found = any(run.steps for _, run in runs_by_id(extra).values())
        with row if found else st.container():  # what to do without a model takes a line of its own
            checkpoint = pick_checkpoint(PAGE, extra=extra)
        if checkpoint is None:
            st.subheader("What there will be to see", anchor=False)
            views.draw_lesson()
            return
        model = open_shared(PAGE, checkpoint)
        if model is None:
            return
        text = st.text_area("Text", EXAMPLE, key=f"{PAGE}_text", height=90)
        chat = checkpoint.run.stage != "base" and st.toggle(
            "As a message to the model", key=f"{PAGE}_chat", bind="query-params"
        )
        with errors_as_sentences("reading the text"):
            off = _off_heads(model)
            report = views.look_at(model, text, off, chat)
            view = pick_view(PAGE, list(views.VIEWS))
            views.VIEWS[view](model, report)
        if st.toggle("What to look for", key=f"{PAGE}_lesson_shown"):
            views.draw_lesson()


main()
