"""The browser side of nanochat lab. Run it from the project's folder: streamlit run Home.py

This file sets up the page and its navigation and draws Home: where the two roots are and which runs lie in them.
Nothing heavy is imported before it is needed: the page is there first, PyTorch follows.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import streamlit as st

if TYPE_CHECKING:
    from nanochat.ui.roots import RootReport

PURPOSE = "Open any nanochat run, whatever its date, and talk to it. Everything stays on this machine."
ICON = str(Path(__file__).parent / "nanochat" / "ui" / "icon.svg")  # a named icon would be fetched from the network
NAMES = {"workspace": "our workspace", "nanochat": "nanochat's folder"}  # a root's name -> how the page calls it


def home() -> None:
    """Draw Home: the runs, the two roots, the machine."""
    from nanochat.paths import kernels_problem, roots
    from nanochat.ui.errors import errors_as_sentences, show_problem

    with st.container(horizontal_alignment="center"), st.container(width=1080):
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            st.image(ICON, width=44)
            st.title("nanochat lab", width="content")
        st.markdown(PURPOSE)
        conflict = kernels_problem()
        if conflict is not None:
            show_problem("Models cannot run: a part of this project is not what Python finds.", conflict)
        with errors_as_sentences("looking for runs"):
            reports = _surveys(tuple(str(root.path) for root in roots()))
            _draw_runs(reports)
            _draw_roots(reports)
        if conflict is None:
            with errors_as_sentences("looking at this machine"):
                _draw_device()


@st.cache_data(ttl="5s", max_entries=8, show_spinner="Looking for runs")
def _surveys(root_paths: tuple[str, ...]) -> list[RootReport]:
    """Both roots, kept for a few seconds so that many open tabs do not read the disk over and over."""
    from nanochat.paths import roots
    from nanochat.ui.roots import survey

    return [survey(root) for root in roots() if str(root.path) in root_paths]


def _draw_runs(reports: list[RootReport]) -> None:
    from nanochat.ui.roots import chat_command, run_rows
    from nanochat.ui.text import visible

    st.header("Runs")
    if not any(report.runs for report in reports):
        _draw_empty()
        return
    for report in reports:
        if not report.runs:
            continue
        st.markdown(f"In {NAMES[report.root.name]}:")
        st.dataframe(
            run_rows(report),
            hide_index=True,
            placeholder="none",
            alt=f"Runs in {NAMES[report.root.name]}",
        )
        broken = [run for run in report.runs if run.problems]
        if broken:
            with st.container(border=True):
                st.markdown(":material/warning: **Needs attention**")
                for run in broken:
                    for problem in run.problems:
                        st.text(visible(f"{run.stage} {run.tag}: {problem}"))
    command = next(filter(None, map(chat_command, reports)), None)
    if command is not None:
        st.markdown("Talk to one of them in a terminal:")
        st.code(command, language=None, wrap_lines=True)


def _draw_empty() -> None:
    from nanochat.ui.roots import another_folder_command

    with st.container(border=True):
        st.subheader("No runs yet", anchor=False)
        st.markdown(
            "Neither folder below holds a checkpoint. If you have trained with nanochat, name its folder and start "
            "again; it is only read, never written to:"
        )
        st.code(another_folder_command(), language=None, wrap_lines=True)
        st.markdown("If you have no run, this trains a small model right here, in a minute, and asks it who it is:")
        st.code("nanochat demo", language=None)
        st.markdown("All that the terminal side offers: `nanochat`.")


def _draw_roots(reports: list[RootReport]) -> None:
    from nanochat.ui.roots import disk_sentence, removal_command
    from nanochat.ui.text import visible

    st.header("Folders")
    for column, report in zip(st.columns(len(reports), border=True), reports, strict=True):
        with column:
            ours, there = report.root.ours, report.exists and report.problem is None
            icon = ":material/edit:" if ours else ":material/lock:"
            st.subheader("Our workspace" if ours else "nanochat's folder", anchor=False, icon=icon)
            st.markdown("Everything this app makes goes here." if ours else "Opened for reading, never written to.")
            st.code(visible(str(report.root.path)), language=None, wrap_lines=True)
            st.markdown(f"{'' if report.problem is None else ':material/error: '}**{disk_sentence(report)}**")
            st.markdown(f"Set `{report.root.variable}` to use another folder.")
            if ours and there:
                st.markdown("To remove it and all that is in it:")
                st.code(removal_command(report.root.path), language=None, wrap_lines=True)


@st.cache_resource(show_spinner="Loading PyTorch for the first time")
def _device_sentence() -> str:
    from nanochat.device import choose_device

    return choose_device().describe()


def _draw_device() -> None:
    """The device part comes last, because it has to load PyTorch: everything above is on the screen by then."""
    st.header("This machine")
    with st.container(border=True):
        st.text(_device_sentence())


def main() -> None:
    """Set up the page and show the chosen view."""
    st.set_page_config(page_title="nanochat lab", page_icon=ICON, layout="wide")
    # No url_path here: with one, a cold link to a page says "Page not found" and the page freezes.
    st.navigation([st.Page(home, title="Home", default=True)]).run()


main()
