"""Dataset inspector: every bad line of a data set by number, how long its conversations are, and clean files of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import streamlit as st

from nanochat.ui.dataset_inspector import (
    PAGE,
    inspected,
    pick_options,
    pick_sources,
    show_corpus,
    show_summary,
)
from nanochat.ui.errors import errors_as_sentences
from nanochat.ui.shell import heading

if TYPE_CHECKING:
    from nanochat.analysis.dataset_inspector import Report
    from nanochat.tokenizer import Tokenizer


def _teach() -> None:
    """What the page is for, while nothing is chosen."""
    with st.container(border=True):
        st.subheader("What it takes", anchor=False)
        st.markdown("One conversation a line, in either of nanochat's shapes. A system message may come first.")
        st.code(
            '{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]}\n'
            '[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]',
            language=None,
            wrap_lines=True,
        )
        st.markdown(
            "Every line is checked for 25 kinds of errors and named with its number: broken JSON, roles out of order, "
            "empty or missing text, bytes that are no text, repetitions. A model trains on what is left. The shapes of "
            "ShareGPT, Alpaca and of pairs like prompt and completion are known, and can be repaired. Choose "
            "*Example* above to see a report, or name a file of yours."
        )
        st.markdown("In a terminal:")
        st.code("nanochat dataset_inspector chats.jsonl --validate --analyze-lengths", language=None, wrap_lines=True)


def main() -> None:
    """Draw the page."""
    heading(PAGE, "Find every bad line of a data set, see how long its conversations are, and take clean files away.")
    with errors_as_sentences("inspecting the data set"):
        sources = pick_sources()
        options, tokenizer_folder = pick_options()
        if not sources:
            _teach()
            return
        found = inspected(sources, options, tokenizer_folder)
        if found is None:
            return
        report, tokenizer, origin = found
        from nanochat.analysis.dataset_inspector import CorpusReport  # it is loaded by now

        if isinstance(report, CorpusReport):
            show_corpus(report, origin)
            return
        from nanochat.ui.dataset_inspector_count import with_exact_tokens

        place = st.container()  # the figures stand above the job that makes them exact
        report = with_exact_tokens(report, tokenizer, tokenizer_folder)
        with place:
            show_summary(report, origin)
        _tabs(report, tokenizer)


def _tabs(report: Report, tokenizer: Tokenizer | None) -> None:
    from nanochat.ui import dataset_inspector_tabs as tabs
    from nanochat.ui.dataset_inspector_files import files as show_files

    names = ["Problems", "Lengths", "Rows", "Breakdown", "Files"]
    problems, lengths, rows, breakdown, files = st.tabs(names, key=f"{PAGE}_tabs")
    with problems:
        tabs.problems(report)
    with lengths:
        tabs.lengths(report)
    with rows:
        tabs.rows(report, tokenizer)
    with breakdown:
        tabs.breakdown(report)
    with files:
        show_files(report)


main()
