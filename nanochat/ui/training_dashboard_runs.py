"""Which runs the training dashboard shows, and reading them: on this machine, named by hand, or uploaded."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import streamlit as st

from nanochat.errors import is_message
from nanochat.ui.errors import show_problem
from nanochat.ui.pickers import base_dir_input, runs_by_id
from nanochat.ui.text import visible

if TYPE_CHECKING:
    from nanochat.analysis import training_dashboard as dashboard

PAGE = "training_dashboard"
POINTS = 600  # of one run; several share twice as many
MOST_RUNS = 7  # as many as there are colours


def key(name: str) -> str:
    """A widget's key, with the page's name in front."""
    return f"{PAGE}_{name}"


def pick() -> tuple[list[Path], list[Path], list[dashboard.History]]:
    """(folders of runs, log files, runs of an upload) that are to be shown."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        extra = base_dir_input(PAGE)
        with st.popover("A log", icon=":material/description:"):
            logs, upload = _log_input(), st.file_uploader("Or upload one", key=key("upload"))
    uploaded = _uploaded(upload)
    # What the address holds is what is shown, so the names are shown as they are and made visible before.
    known = {visible(name): run for name, (_, run) in runs_by_id(extra).items()}
    if not known:
        return [], logs, uploaded
    newest = max(known, key=lambda name: _changed(known[name].folder))
    chosen = st.multiselect(
        "Runs",
        list(known),
        default=[newest],
        key=key("run"),
        max_selections=MOST_RUNS,
        bind="query-params",
        help="Several are laid over each other.",
    )
    return [known[name].folder for name in chosen], logs, uploaded


def _log_input() -> list[Path]:
    """A log that lies somewhere else."""
    named = st.text_input(
        "A log file or metrics.jsonl on this machine",
        key=key("log"),
        placeholder="/path/to/speedrun.log",
        help="What nanochat printed, of any date; a whole speedrun in one file, wandb's output.log.",
        persist_state="session",
    )
    return [Path(named).expanduser()] if named else []


def _uploaded(upload: Any) -> list[dashboard.History]:
    """The runs of an upload, read once and kept while this tab lives."""
    if upload is None:
        st.session_state.pop(key("uploaded"), None)
        return []
    kept = st.session_state.get(key("uploaded"))
    if kept is None or kept[0] != upload.file_id:
        from nanochat.analysis import training_dashboard as dashboard

        try:
            with st.spinner("Reading the upload"):
                kept = (upload.file_id, dashboard.open_upload(upload.name, upload), "")
        except Exception as error:
            if not is_message(error):
                raise
            kept = (upload.file_id, [], str(error))
        st.session_state[key("uploaded")] = kept
    _, found, problem = kept
    if problem:
        show_problem("The upload cannot be shown.", problem)
    return list(found)


def _changed(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except OSError:
        return 0.0


@st.cache_resource(max_entries=12, show_spinner=False)
def _follower(path: str) -> dashboard.Follower:
    from nanochat.analysis import training_dashboard as dashboard

    return dashboard.Follower(path)


def opened(folders: Sequence[Path], logs: Sequence[Path], place: Any = None) -> list[dashboard.History]:
    """The runs that can be read; for each of the others a box with the reason. Of a run that was read before, only
    what was written since is read. place: an st.empty for what is shown meanwhile."""
    found: list[dashboard.History] = []
    for path in [*folders, *logs]:
        follower = _follower(str(path.absolute()))
        try:
            with contextlib.nullcontext() if follower.looked or place is None else _while_reading(follower, place):
                found += follower.look()
        except Exception as error:
            if not is_message(error):
                raise
            show_problem("A run cannot be shown.", str(error))
    return found


@contextlib.contextmanager
def _while_reading(follower: dashboard.Follower, place: Any) -> Iterator[None]:
    """A first curve of a long run by some of its lines, until all are read; of any other one a word."""
    from nanochat.analysis import training_dashboard as dashboard
    from nanochat.charts.training_dashboard import curve_chart

    with place.container():
        runs, share = follower.glance()
        points = dashboard.curve(runs, "train_loss", dashboard.Look(points=POINTS)) if runs else None
        if points is not None and len(points):
            title = dashboard.METRICS["train_loss"]
            st.altair_chart(
                curve_chart(points, dashboard.AXES["step"], title), height="content", alt=f"{title}, first look"
            )
        with st.spinner(f"A first look at {share:.0%} of a long file; reading the rest" if runs else "Reading the run"):
            yield
    place.empty()
