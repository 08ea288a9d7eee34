"""What a page shows when it has nothing to show: what is missing, where it looked, the command, and a way on."""

import shlex
from collections.abc import Sequence
from pathlib import Path

import streamlit as st

from nanochat.paths import roots
from nanochat.ui import catalog
from nanochat.ui.text import visible

OFFERED = "offered_conversation"  # in the session: what a page gives the conversation builder to open


def go_to(stem: str, label: str | None = None, query: dict[str, str] | None = None) -> None:
    """A link to another page, where that page exists; nothing where it does not."""
    page = catalog.find(stem)
    if page is not None:
        st.page_link(str(page.file), label=label or page.title, icon=page.icon, query_params=query)


def fine_tune_link(path: Path, label: str) -> None:
    """A link to the Train page, where this file of conversations is chosen."""
    from nanochat.analysis.train import KINDS

    # The address of a choice is its label, not its name.
    go_to("train", label, {"train_kind": KINDS["chat_sft"], "train_data": str(path)})


def next_button(stem: str, label: str) -> None:
    """The same as the one thing that stands out on a page."""
    page = catalog.find(stem)
    if page is not None and st.button(label, type="primary", icon=page.icon, key=f"go_to_{stem}"):
        st.switch_page(str(page.file))


def nothing_yet(
    headline: str, missing: str, command: Sequence[str] | str, leads_to: Sequence[str] = ("train",)
) -> None:
    """A page without what it needs.

    missing: one sentence, what is not there. command: what makes it, as typed in a terminal. leads_to: stems of pages
    that make it too.
    """
    with st.container(border=True):
        st.subheader(headline, anchor=False)
        st.markdown(missing)
        st.markdown("Looked in:")
        for root in roots():
            st.code(visible(str(root.path)), language=None, wrap_lines=True)
        st.markdown("In a terminal, this makes one:")
        st.code(command if isinstance(command, str) else shlex.join(command), language=None, wrap_lines=True)
        for stem in leads_to:
            go_to(stem)
