"""The parts of the resume helper's page: the run, where it stands, and the ways to go on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import streamlit as st

from nanochat.ui.errors import show_problem
from nanochat.ui.figures import figures
from nanochat.ui.pickers import base_dir_input, runs_by_id
from nanochat.ui.states import go_to, nothing_yet
from nanochat.ui.text import plain, visible
from nanochat.ui.training_resume_helper_jobs import PAGE, key, show_proof

if TYPE_CHECKING:
    from nanochat.analysis import training_resume_helper as helper
    from nanochat.checkpoint_runs import Run

LAST = "the last good one"


def pick() -> tuple[Run, int | None] | None:
    """(run, step; None for the last good one). None where there is no run."""
    extra = base_dir_input(PAGE)
    # Broken runs too: a run whose last step is damaged is what this page is for.
    known = {visible(name): run for name, (_, run) in runs_by_id(extra).items() if run.steps or run.problems}
    if not known:
        return None
    left, right = st.columns([3, 1])
    name = left.selectbox("Run", list(known), key=key("run"), bind="query-params")
    run = known[name or next(iter(known))]
    step = right.selectbox("Checkpoint", [LAST, *map(str, reversed(run.steps))], key=key("step"), bind="query-params")
    return run, None if step in (None, LAST) else int(step)


def teach() -> None:
    """What the page shows without a run; the drill below it needs none."""
    nothing_yet(
        "No run yet",
        "This page finds the last good checkpoint of a run that stopped, says what is left, and how to go on. "
        "The drill below needs no run: it makes one, kills it, and lets you recover it.",
        "nanochat base_train --depth 4 --minutes 5 --save-minutes 1",
    )


def show(run: Run, step: int | None) -> None:
    """Everything about one run."""
    from nanochat.analysis import training_resume_helper as helper

    with st.container(horizontal=True, vertical_alignment="bottom"):
        target = st.number_input("Steps in all", 1, None, None, key=key("target"), placeholder="as it was started",
                                 bind="query-params", width=220)  # fmt: skip
        full = st.toggle("Check every byte", key=key("full"), help="Reads all files of the checkpoint once.")
    report = helper.inspect(run.folder, step, None if target is None else int(target), full=full)
    _figures(report)
    _state(report)
    way, proof, hand = st.tabs(["Go on", "Proof", "By hand"])
    with way:
        _ways(report)
    with proof:
        show_proof(report)
    with hand:
        st.markdown("The same with `load_checkpoint`. It runs as it is and makes one update.")
        st.code(helper.program(report), language="python")


def _figures(report: helper.Report) -> None:
    figures(
        ("Checkpoint", f"step {report.step:,}"),
        ("Progress", None if report.progress is None else f"{report.progress:.1%}"),
        ("Updates left", None if report.remaining is None else f"{report.remaining:,}"),
        ("Time left, about", None if report.remaining_seconds is None else _clock(report.remaining_seconds)),
        ("Phase", report.phase),
    )
    if report.progress is not None:
        st.progress(min(report.progress, 1.0))
    st.caption(plain(f"End: {report.target_reason}. Speed: {report.speed_reason}."))


def _state(report: helper.Report) -> None:
    """Whether the files are whole, and what a learner should know."""
    if report.verification.ok:
        st.success(f"The checkpoint is whole: {report.verification.level}.", icon=":material/check_circle:")
    else:
        show_problem("This checkpoint is broken.", "\n".join(report.verification.problems[:5]))
    if report.skipped:
        st.warning("Later steps were passed over:", icon=":material/warning:")
        st.text("\n".join(visible(text) for text in report.skipped[:20]))
    st.markdown("\n".join(f"- {text}" for text in report.insights))
    with st.expander("Files and settings"):
        st.code("\n".join(visible(name) for name in report.files), language=None, wrap_lines=True)
        rows = [{"setting": name, "value": visible(str(value))} for name, value in report.settings.items()]
        st.dataframe(rows, hide_index=True, alt="What the run was started with")


def _ways(report: helper.Report) -> None:
    from nanochat.analysis import training_resume_helper as helper

    for way in helper.ways(report):
        st.markdown(f"**With {way.who}**")
        if way.command is not None:
            st.code(visible(way.command), language=None, wrap_lines=True)
        st.text(visible(("" if way.command is not None else "Not possible: ") + way.reason))
    with st.container(horizontal=True):
        go_to("training_dashboard")
        go_to("checkpoint_browser")


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(max(seconds, 0)), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"
