"""The tab Files of a report on conversations: the data set to take away, and on to a training with it."""

from __future__ import annotations

import io
from functools import partial
from typing import TYPE_CHECKING

import streamlit as st

from nanochat.paths import workspace
from nanochat.ui.dataset_inspector import HERE, key
from nanochat.ui.errors import errors_as_sentences
from nanochat.ui.states import fine_tune_link
from nanochat.ui.text import plain

if TYPE_CHECKING:
    from nanochat.analysis.dataset_inspector import Drop, Report

COUNTED = 10_000_000  # bytes of a data set up to which the lines of each file are counted beforehand


def files(report: Report) -> None:
    """The data set to take away: clean, rejected, repaired, and the list of issues."""
    from nanochat.analysis.dataset_inspector import PARTS, Drop

    drop = Drop(
        st.toggle("Drop repetitions: lines that equal an earlier one", key=key("drop"), help="They are rejected."),
        st.toggle(
            "Drop lines with a secret", key=key("drop_secrets"), help="API keys and the like. They are rejected."
        ),
    )
    counts = _counted(report, drop)
    dropped = [name for yes, name in ((drop.duplicates, "repetitions"), (drop.secrets, "lines with a secret")) if yes]
    but_for = f", but for {' and '.join(dropped)}" if dropped else ""
    words = {
        "clean": f"Every line that can be trained on, byte for byte{but_for}.",
        "rejected": f"All others, byte for byte: {''.join(f'{name}, ' for name in dropped)}lines with an error, and "
        "those that end with a user's message. With the clean ones that is all but blank lines.",
        "repaired": "The clean lines, and those that a small repair made good: NUL bytes, merged messages, a last "
        "message without a reply, and the shapes of ShareGPT, Alpaca and of pairs like prompt and completion.",
    }
    for part in PARTS:
        count = counts.get(part)
        st.markdown(("" if count is None else f"**{count:,} line{'' if count == 1 else 's'}.** ") + words[part])
        with st.container(horizontal=True, vertical_alignment="center"):
            st.download_button(
                f"Download {part}.jsonl",
                partial(_exported, report, part, drop),
                f"{part}.jsonl",
                "application/jsonl",
                key=key(part),
                icon=":material/download:",
                on_click="ignore",
            )
            if part != "rejected":
                _keep(report, part, drop, count == 0)
    st.markdown("Every line with an issue, one JSON object each: line, kinds, message, detail, remedy.")
    st.download_button(
        "Download issues.jsonl",
        partial(_issues, report),
        "issues.jsonl",
        "application/jsonl",
        key=key("issues_file"),
        icon=":material/download:",
        on_click="ignore",
    )
    st.caption("In a terminal:")
    flags = "--clean clean.jsonl --rejects rejected.jsonl --repaired repaired.jsonl --issues issues.jsonl"
    more = (" --drop-duplicates" if drop.duplicates else "") + (" --drop-secrets" if drop.secrets else "")
    st.code(f"nanochat dataset_inspector FILE {flags}{more}", language=None, wrap_lines=True)


def _counted(report: Report, drop: Drop) -> dict[str, int]:
    """How many lines each part has; empty for a data set of which that would take seconds."""
    from nanochat.analysis.dataset_inspector import PARTS, export

    if report.size > COUNTED:
        return {}
    known = st.session_state.get(key("part_lines"))
    if known is None or known[0] is not report.index or known[1] != drop:
        counts = {part: export(report, part, lambda data: None, drop=drop).lines for part in PARTS}
        known = st.session_state[key("part_lines")] = (report.index, drop, counts)
    return known[2]


def _keep(report: Report, part: str, drop: Drop, empty: bool) -> None:
    """Keeps the lines of a part where a training and this page find them, and leads there."""
    from nanochat.analysis.dataset_inspector import keep

    kept = key(f"kept_{part}")
    label = f"Keep the {part} lines on this machine"
    if st.button(label, key=key(f"keep_{part}"), icon=":material/save:", disabled=empty):
        with errors_as_sentences("keeping the lines"):
            st.session_state[kept] = (report.index, drop, keep(report, part, workspace() / "uploads", drop=drop))
    found = st.session_state.get(kept)
    if found is not None and found[0] is report.index and found[1] == drop:
        st.caption(f"Kept as {plain(str(found[2]))}.")
        fine_tune_link(found[2], "Fine-tune on them")
        st.button(
            "Inspect them", key=key(f"inspect_{part}"), type="tertiary", icon=":material/fact_check:",
            on_click=_inspect, args=(str(found[2]),),
        )  # fmt: skip


def _inspect(path: str) -> None:
    """Chooses a file; a link to this very page would not turn over what was chosen to be uploaded."""
    st.session_state[key("where")], st.session_state[key("path")] = HERE, path


def _exported(report: Report, part: str, drop: Drop) -> io.BytesIO:
    """The lines of a part, in a form that is handed on without a copy."""
    from nanochat.analysis.dataset_inspector import export

    file = io.BytesIO()
    export(report, part, file.write, drop=drop)
    return file


def _issues(report: Report) -> bytes:
    from nanochat.analysis.dataset_inspector.text import issue_lines

    return b"".join(issue_lines(report))
