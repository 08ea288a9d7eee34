"""Conversation builder: write conversations for fine-tuning, and see them as a model reads them."""

import streamlit as st

from nanochat.analysis import conversation_template_builder as builder
from nanochat.analysis import tokenizer_playground as playground
from nanochat.ui.conversation_template_builder import PAGE, conversation, draw_editor, draw_save, keep_draft
from nanochat.ui.conversation_template_builder_views import VIEWS, draw_loss, draw_verdict
from nanochat.ui.errors import errors_as_sentences
from nanochat.ui.pickers import pick_view
from nanochat.ui.shell import heading
from nanochat.ui.text import visible
from nanochat.ui.tokenizer_playground import opened

LOSS, JSON_LINE = "Loss", "Line"


def _tokenizer() -> playground.Known:
    """The tokenizer that the views are of: one that knows conversations."""
    by_id = {place.id: place for place in playground.local_places()}
    by_id[playground.EXAMPLE] = playground.find_place(playground.EXAMPLE)
    chosen = st.selectbox(
        "Tokenizer",
        list(by_id),
        key=f"{PAGE}_tokenizer",
        format_func=visible,  # the address carries what is shown here, so it is the id alone
        bind="query-params",
    )
    return opened(by_id[chosen])


def _draw_view(view: str, value: builder.Conversation) -> None:
    if view == LOSS:
        draw_loss(value)
    elif view == JSON_LINE:
        st.markdown("One line of a dataset, as training reads it:")
        st.code(visible(builder.as_line(value).rstrip()), language=None, wrap_lines=True)
    else:
        known = _tokenizer()
        if known.tokenizer is not None:
            VIEWS[view](known.tokenizer, value)


def main() -> None:
    """Draw the page."""
    heading(PAGE, "Write a conversation and see what a model would learn from it, token by token.")
    left, right = st.columns(2, gap="large")
    with left, errors_as_sentences("editing the conversation"):
        draw_editor()
    value = conversation()
    keep_draft(value)
    with right, errors_as_sentences("showing the conversation"):
        if draw_verdict(value):
            view = pick_view(PAGE, [*VIEWS, LOSS, JSON_LINE])
            _draw_view(view, value)
    st.header("Keep it", anchor=False)
    draw_save(value)


main()
