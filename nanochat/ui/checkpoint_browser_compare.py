"""Two checkpoints side by side on the page: settings, figures, every tensor's change, and what both say."""

from collections.abc import Sequence
from pathlib import Path

import polars as pl
import streamlit as st

from nanochat.analysis import checkpoint_browser as browser
from nanochat.analysis.checkpoint_browser import Answer, Comparison, Listing, Reference, TensorReport
from nanochat.paths import Root, readable_size
from nanochat.ui.checkpoint_browser import PAGE, stamp_of
from nanochat.ui.text import plain, visible

AT_ONCE = 200_000_000  # bytes of weights of both together that are compared without being asked
Stamp = tuple[tuple[str, int, int], ...]


@st.cache_data(max_entries=16, show_spinner="Opening both")
def _compared(a: Reference, b: Reference, stamps: tuple[Stamp, Stamp]) -> Comparison:
    return browser.compare(a, b)


@st.cache_data(max_entries=16, show_spinner=False)
def _tensors(a: Reference, b: Reference, stamps: tuple[Stamp, Stamp]) -> TensorReport:
    bar = st.progress(0.0, "Comparing every tensor")

    def show(done: int, total: int, name: str) -> None:
        bar.progress(min(done / max(total, 1), 1.0), plain(name) or "Done")

    report = browser.compare_tensors(a, b, progress=show)
    bar.empty()
    return report


@st.cache_data(max_entries=32, show_spinner="Both models are writing")
def _answers(a: Reference, b: Reference, stamps: tuple[Stamp, Stamp], prompt: str, tokens: int) -> tuple[Answer, ...]:
    return browser.answers(a, b, [prompt], tokens)


def draw_compare(found: Listing, roots: Sequence[Root]) -> None:
    """Choose A and B, and see what is different."""
    rows = {row["id"]: row for row in found.frame.filter(pl.col("cause") == "").iter_rows(named=True)}
    if len(rows) < 2:
        st.info("Two checkpoints are needed to compare; this machine has fewer that are complete.")
        return
    names = list(rows)
    left, right = st.columns(2)
    first = left.selectbox("A", names, key=f"{PAGE}_a", format_func=visible, bind="query-params")
    second = right.selectbox("B", names, index=1, key=f"{PAGE}_b", format_func=visible, bind="query-params")
    if first is None or second is None:
        return
    if first == second:
        st.caption("Both are the same checkpoint: nothing differs. Choose another one on either side.")
        return
    a, b = (
        Reference(name, rows[name]["stage"], Path(rows[name]["folder"]), rows[name]["step"]) for name in (first, second)
    )
    stamps = stamp_of(a), stamp_of(b)
    made = _compared(a, b, stamps)
    _figures(made)
    _settings(made)
    st.subheader("How far the weights are apart", anchor=False)
    size = rows[first]["weights"] + rows[second]["weights"]
    key = f"{PAGE}_tensors_{a.id}_{b.id}"
    if size > AT_ONCE and not st.session_state.get(key):
        st.markdown(f"That reads {readable_size(size)}, a piece at a time.")
        if st.button("Compare every tensor", key=f"{PAGE}_compare", icon=":material/difference:"):
            st.session_state[key] = True
            st.rerun()
    else:
        _changes(_tensors(a, b, stamps))
    _prompt(a, b, stamps)


def _figures(made: Comparison) -> None:
    st.dataframe(
        made.figures.rename({"figure": "Figure", "a": "A", "b": "B", "difference": "B - A", "unit": "Unit"}).to_dicts(),
        hide_index=True,
        alt="Figures of both",
    )


def _settings(made: Comparison) -> None:
    differ = made.config.filter(~pl.col("same"))
    differing = "1 setting differs" if len(differ) == 1 else f"{len(differ)} settings differ"
    st.markdown(f"**{differing}**, {len(made.config) - len(differ)} are the same.")
    table = made.config.with_columns(pl.col("key", "a", "b").map_elements(visible, pl.String))
    if not differ.is_empty():
        st.dataframe(table.filter(~pl.col("same")).drop("same").to_dicts(), hide_index=True, alt="Settings that differ")
    with st.expander("All settings"):
        st.dataframe(table.to_dicts(), hide_index=True, alt="All settings of both")


def _changes(report: TensorReport) -> None:
    from nanochat.charts.checkpoint_browser import change_chart

    if report.relative is None:
        st.markdown("They have no weights in common that could be compared.")
    else:
        angle = "" if report.cosine is None else f" and the cosine of the angle between them is {report.cosine:.4f}"
        st.markdown(
            f"**{report.relative:.4f}**: the change, as a share of A's length{angle}. 0 is the same model; about 1.4 "
            "and a cosine of 0 are two models that have nothing to do with each other."
        )
        parts = report.frame.filter(pl.col("relative").is_not_null())
        chart = change_chart(parts).properties(height=440)
        st.altair_chart(chart, alt="Relative change of each matrix by layer", width="stretch")
    with st.expander("Every tensor"):
        st.dataframe(report.frame.to_dicts(), hide_index=True, alt="Difference of every tensor")
        st.caption(
            "effective_rank: how many directions the change has, after Roy and Vetterli 2007. 1 is a single direction; "
            "the most is full_rank."
        )
    for note in report.notes:
        st.caption(note)


def _prompt(a: Reference, b: Reference, stamps: tuple[Stamp, Stamp]) -> None:
    st.subheader("The same prompt to both", anchor=False)
    prompt = st.text_input("Prompt", "Once upon a time", key=f"{PAGE}_prompt", bind="query-params")
    tokens = st.slider("Tokens", 10, 200, 40, key=f"{PAGE}_tokens")
    if not st.button("Let both write", key=f"{PAGE}_write", type="primary", icon=":material/edit:"):
        st.caption("Both take the likeliest token each time, so nothing but the weights differs.")
        return
    for answer in _answers(a, b, stamps, prompt, tokens):
        for column, name, text in zip(st.columns(2), "AB", (answer.a, answer.b), strict=True):
            with column, st.container(border=True):
                st.caption(name)
                st.text(visible(text) or "(nothing)")
