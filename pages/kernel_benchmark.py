"""Kernel benchmark: time every operation here against its definition and PyTorch's own, and see stored GPU runs."""

import streamlit as st

from nanochat.analysis import kernel_benchmark
from nanochat.paths import kernels_problem
from nanochat.ui.errors import errors_as_sentences, show_problem
from nanochat.ui.kernel_benchmark import PAGE, RECORDS, choose_cases, measure, show_report, show_stored
from nanochat.ui.shell import heading


def _here() -> None:
    """Choose, run, see."""
    with st.spinner("Loading PyTorch for the first time"):
        on = kernel_benchmark.device()
    if on == "cpu":
        st.markdown(
            "There is no GPU here, so the Triton kernels cannot be timed: what runs on this CPU, the PyTorch path, is "
            "timed against the definition and PyTorch's own functions."
        )
    cases = choose_cases(on)
    rounds = st.slider("Rounds", 3, 31, 7, key=f"{PAGE}_rounds", help="Contestants take turns; the median counts.")
    if cases and st.button("Run", type="primary", icon=":material/play_arrow:", key=f"{PAGE}_run"):
        measure(cases, on, rounds)
    records = st.session_state.get(RECORDS)
    if records:
        show_report(kernel_benchmark.report(records, "this machine, now"), "here")


def main() -> None:
    """Draw the page."""
    heading(PAGE, "How fast attention, sampling and the other kernels are, and how near to what the machine allows.")
    conflict = kernels_problem()
    if conflict is not None:
        show_problem("The kernels cannot run: a part of this project is not what Python finds.", conflict)
        return
    here, stored = st.tabs(["This machine", "Stored GPU runs"])
    with here, errors_as_sentences("measuring the kernels"):
        _here()
    with stored, errors_as_sentences("reading the stored runs"):
        show_stored()


main()
