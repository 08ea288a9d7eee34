"""The kernel benchmark's parts: sizes, a run with a bar, and a report in tables and charts."""

from collections.abc import Sequence
from typing import Any

import streamlit as st

from nanochat.analysis import kernel_benchmark
from nanochat.analysis.kernel_benchmark import KernelReport
from nanochat.paths import readable_size
from nanochat.ui.text import plain, visible

PAGE = "kernel_benchmark"
RECORDS = f"{PAGE}_records"  # in the session's state: what was measured so far
DTYPES = ("float32", "bfloat16", "float16")
WORDS = {
    "B": "batch", "T": "tokens", "H": "query heads", "G": "kv heads", "D": "head dim", "W": "window (-1: all)",
    "N": "rows", "C": "channels", "V": "vocabulary",
}  # fmt: skip


def choose_cases(on: str) -> Sequence[Any] | None:
    """The cases to time: those made ready, or one with sizes of one's own. None where a size cannot be."""
    operations = kernel_benchmark.operations()
    op = st.selectbox("Operation", list(operations), key=f"{PAGE}_op", bind="query-params")
    own = st.toggle("Sizes of my own", key=f"{PAGE}_own", bind="query-params")
    ready = kernel_benchmark.presets(op, on, quick=True)
    if not own:
        for case in ready:
            st.caption(f"{case.kind}, {case.shape}, {case.dtype}")
        return ready
    first = ready[0]
    left, right = st.columns(2)
    kind = left.selectbox("Kind", operations[op], key=f"{PAGE}_kind_{op}")
    dtype = right.selectbox("Number format", DTYPES, key=f"{PAGE}_dtype")
    sizes = {}
    letters = kernel_benchmark.letters(op)
    for column, letter in zip(st.columns(len(letters)), letters, strict=True):
        sizes[letter] = int(
            column.number_input(
                letter, min_value=-1, value=first.sizes[letter], key=f"{PAGE}_{op}_{letter}", help=WORDS.get(letter)
            )
        )
    try:
        case = kernel_benchmark.case(op, kind, sizes, dtype)
        needed, free = kernel_benchmark.memory(case, on)
    except ValueError as refusal:
        st.warning(plain(str(refusal)), icon=":material/warning:")
        return None
    if needed > free:
        st.warning(
            f"This needs {readable_size(needed)} of memory, and {readable_size(free)} are free; take smaller sizes.",
            icon=":material/warning:",
        )
        return None
    st.caption(f"Needs {readable_size(needed)} of memory; {readable_size(free)} are free.")
    return [case]


def measure(cases: Sequence[Any], on: str, rounds: int) -> None:
    """Time the cases, a bar above and "Stop" beside it; what is done so far stays when somebody stops it.

    A click on anything ends the run, because Streamlit then begins the page anew: "Stop" is that click.
    """
    st.session_state[RECORDS] = []
    bar = st.progress(0.0, text="measuring what this machine can do at most")
    st.button("Stop", key=f"{PAGE}_stop", icon=":material/stop:")

    def progress(words: str, share: float) -> None:
        bar.progress(min(share, 1.0), text=words)

    try:
        for record in kernel_benchmark.measure(cases, on, rounds, progress=progress):
            st.session_state[RECORDS].append(record)
    except ValueError as refusal:
        st.error(plain(str(refusal)), icon=":material/error:")
        return
    st.rerun()


def show_report(found: KernelReport, key: str) -> None:
    """Who measured what, bars case by case, the roofline, the table, and what could not be timed."""
    from nanochat.charts.kernel_benchmark import bars, roofline

    st.caption(plain(f"{found.source}: {'; '.join(found.labels)}"))
    cases = found.bars["case"].unique(maintain_order=True).to_list()
    if cases:
        case = st.selectbox("Case", cases, key=f"{PAGE}_case_{key}")
        st.altair_chart(
            bars(found.bars.filter(found.bars["case"] == case)),
            alt=f"Times of all contestants, {case}",
            height="content",
        )
    if len(found.best):
        st.markdown("**Ours, in each case**")
        st.dataframe(found.best, hide_index=True, alt="Ours in each case, with its ratios")
    if len(found.roofline):
        with st.expander("Roofline"):
            st.markdown(
                "The dashed line is what this machine was measured to reach: left its memory limits, right its "
                "arithmetic. A point far below it leaves time unused."
            )
            st.altair_chart(roofline(found.roofline, found.roof), alt="Roofline of all contestants", height="content")
    if len(found.missing):
        with st.expander("Not timed"):
            st.dataframe(found.missing, hide_index=True, alt="What could not be timed, and why")
    with st.expander("Everything, as a table"):
        st.dataframe(found.frame, hide_index=True, alt="All records")
        left, right = st.columns(2)
        left.download_button("CSV", found.frame.write_csv(), "kernels.csv", "text/csv", key=f"{PAGE}_csv_{key}")
        right.download_button(
            "JSON", found.frame.write_json(), "kernels.json", "application/json", key=f"{PAGE}_json_{key}"
        )


def show_stored() -> None:
    """The runs of GPUs that came with the project."""
    paths = kernel_benchmark.stored()
    if not paths:
        st.info(
            "No GPU run is stored yet: not measured. On a machine with a GPU, `make gpu` measures and writes files.",
            icon=":material/hourglass_empty:",
        )
        return
    path = st.selectbox("Stored run", paths, key=f"{PAGE}_stored", format_func=lambda path: visible(path.stem))
    try:
        found = kernel_benchmark.read_stored(path)
    except ValueError as refusal:
        st.error(plain(str(refusal)), icon=":material/error:")
        return
    show_report(found, "stored")
