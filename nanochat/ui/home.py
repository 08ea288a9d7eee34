"""Home: what this is, where everything stands on this machine, and the one next step."""

from pathlib import Path

import streamlit as st

from nanochat.paths import kernels_problem, roots
from nanochat.ui import catalog
from nanochat.ui.errors import errors_as_sentences, show_problem
from nanochat.ui.pipeline import Stage, next_step, pipeline
from nanochat.ui.roots import (
    RootReport,
    another_folder_command,
    disk_sentence,
    removal_command,
    run_rows,
    survey,
)
from nanochat.ui.states import go_to, next_button
from nanochat.ui.text import visible

PURPOSE = (
    "Train a language model on this machine, open it up, and see how it works. Or open any nanochat run, whatever its "
    "date. Everything stays on this machine."
)
ICON = str(Path(__file__).parent / "icon.svg")  # a named icon would be fetched from the network
LOGO = str(Path(__file__).parent / "logo.svg")  # its one blue can be read on light and on dark
NAMES = {"workspace": "our workspace", "nanochat": "nanochat's folder"}  # a root's name -> how the page calls it


def draw() -> None:
    """The whole page; what is quick to know comes first."""
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
            _draw_pipeline(reports)
            _draw_pages()
            _draw_runs(reports)
            _draw_roots(reports)
        if conflict is None:
            with errors_as_sentences("looking at this machine"):
                _draw_device()


@st.cache_data(ttl="5s", max_entries=8, show_spinner="Looking for runs")
def _surveys(root_paths: tuple[str, ...]) -> list[RootReport]:
    """Both roots, kept for a few seconds so that many open tabs do not read the disk over and over."""
    return [survey(root) for root in roots() if str(root.path) in root_paths]


def _draw_pipeline(reports: list[RootReport]) -> None:
    """From text to an answer, with what this machine has of each."""
    stages = pipeline(reports)
    for number, (column, stage) in enumerate(zip(st.columns(len(stages), border=True), stages, strict=True)):
        with column:
            arrow = "" if number == 0 else ":material/arrow_forward: "
            st.markdown(f"{arrow}**{stage.title}**")
            st.caption(stage.what)
            _draw_state(stage)
            go_to(stage.stem, stage.label)
    step = next_step(reports)
    with st.container(border=True):
        st.markdown(f"##### :material/flag: Next: {step.sentence}")
        next_button(step.stem, step.label)
        st.caption("Or in a terminal:")
        st.code(step.command, language=None, wrap_lines=True)


def _draw_state(stage: Stage) -> None:
    icon = ":material/check_circle:" if stage.there else ":material/radio_button_unchecked:"
    st.markdown(f"{icon} {stage.state}")


def _draw_pages() -> None:
    """What each page is for, section by section."""
    pages = catalog.available()
    if not pages:
        return
    st.header("Pages")
    for section in dict.fromkeys(page.section for page in pages):
        st.markdown(f"**{section}**")
        inside = [page for page in pages if page.section == section]
        for row in range(0, len(inside), 3):
            for column, page in zip(st.columns(3), inside[row : row + 3], strict=False):
                with column:
                    st.page_link(str(page.file), label=page.title, icon=page.icon)
                    st.caption(page.purpose)


def _draw_runs(reports: list[RootReport]) -> None:
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


def _draw_empty() -> None:
    with st.container(border=True):
        st.subheader("No runs yet", anchor=False)
        st.markdown(
            "Neither folder below holds a checkpoint. If you have trained with nanochat, name its folder and start "
            "again; it is only read, never written to:"
        )
        st.code(another_folder_command(), language=None, wrap_lines=True)
        st.markdown("All that the terminal side offers: `nanochat`.")


def _draw_roots(reports: list[RootReport]) -> None:
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
