"""The tab Files of a report on conversations: the data set to take away, and on to a training with it."""

from __future__ import annotations

import io
from functools import partial
from typing import TYPE_CHECKING

import streamlit as st

from nanochat.paths import workspace
from nanochat.ui.dataset_inspector import key
from nanochat.ui.errors import errors_as_sentences
from nanochat.ui.states import fine_tune_link

if TYPE_CHECKING:
    from nanochat.analysis.dataset_inspector import Report


def files(report: Report) -> None:
    """The data set to take away: clean, rejected, repaired, and the list of issues."""
    from nanochat.analysis.dataset_inspector import PARTS, part_lines

    drop = st.toggle(
        f"Drop repetitions: lines that equal an earlier one, {len(report.duplicates):,} here",
        key=key("drop"),
        help="They go to the rejected ones.",
        disabled=report.duplicates.is_empty(),
    )
    lines = part_lines(report, drop_duplicates=drop)
    counts = {part: f"**{count:,} line{'' if count == 1 else 's'}.** " for part, count in lines.items()}
    words = {
        "clean": "Every line that can be trained on, byte for byte."
        + (" Lines with a secret may be among them." if report.secret_counts else ""),
        "rejected": "Every line that cannot, byte for byte: those with an error, and those that end with a "
        "user's message. With the clean ones that is all but blank lines.",
        "repaired": "The clean lines, and those that a small repair made good: NUL bytes, merged messages, a last "
        "message without a reply, and the shapes of ShareGPT, Alpaca and of pairs like prompt and completion.",
    }
    for part in PARTS:
        st.markdown(counts.get(part, "") + words[part])
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
                _fine_tune(report, part, drop)
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
    more = " --drop-duplicates" if drop else ""
    st.code(f"nanochat dataset_inspector FILE {flags}{more}", language=None, wrap_lines=True)


def _fine_tune(report: Report, part: str, drop: bool) -> None:
    """Keeps the lines of a part where a training finds them, and leads there."""
    from nanochat.analysis.dataset_inspector import keep

    kept = key(f"kept_{part}")
    if st.button(f"Fine-tune on the {part} lines", key=key(f"train_{part}"), icon=":material/school:"):
        with errors_as_sentences("keeping the lines"):
            st.session_state[kept] = (
                report.index,
                drop,
                keep(report, part, workspace() / "uploads", drop_duplicates=drop),
            )
    found = st.session_state.get(kept)
    if found is not None and found[0] is report.index and found[1] == drop:
        fine_tune_link(found[2], "Kept for it; on to Train")


def _exported(report: Report, part: str, drop: bool) -> io.BytesIO:
    """The lines of a part, in a form that is handed on without a copy."""
    from nanochat.analysis.dataset_inspector import export

    file = io.BytesIO()
    export(report, part, file.write, drop_duplicates=drop)
    return file


def _issues(report: Report) -> bytes:
    from nanochat.analysis.dataset_inspector.text import issue_lines

    return b"".join(issue_lines(report))
