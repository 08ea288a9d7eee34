"""The dataset inspector's page: every token counted by a job in the background, started, watched, stopped, and read.

The job survives a reload, a closed browser and a restarted server; its figures replace the estimated ones when it is
done, here and whenever the same data is looked at again.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import streamlit as st

from nanochat.paths import readable_size
from nanochat.ui.dataset_inspector import key
from nanochat.ui.text import plain, visible

if TYPE_CHECKING:
    from nanochat.analysis.dataset_inspector import Report, Source
    from nanochat.jobs import Job
    from nanochat.tokenizer import Tokenizer

BYTES_A_SECOND = 5e6  # that a job counts on one core, roughly
ENDINGS = (".gz", ".zst", ".parquet")  # that say how a file is to be read; all else is lines


def with_exact_tokens(report: Report, tokenizer: Tokenizer | None, tokenizer_folder: Path | None) -> Report:
    """The report with every token counted, where a job has done that; else with a button for it, or how far it is."""
    if tokenizer is None or report.tokens is None or report.tokens.exact:
        return report
    from nanochat.analysis.dataset_inspector import InspectorError, with_counts
    from nanochat.analysis.dataset_inspector.counting import counts_file, job_of, load_counts

    counted = (report.options.profile, tokenizer.fingerprint)
    target = counts_file(_identities(report.sources), *counted)
    if target.exists():
        kept = st.session_state.get(key("counted"))
        if kept is not None and kept[0] is report:
            return kept[1]
        try:
            exact = with_counts(report, load_counts(target, report.sources, *counted))
        except InspectorError as error:
            st.warning(plain(str(error)), icon=":material/warning:")
            with contextlib.suppress(OSError):  # a file of ours that would be in the way of counting again
                target.unlink()
        else:
            st.session_state[key("counted")] = (report, exact)
            return exact
    job = job_of(target)
    if job is not None:
        _show(job)
    if job is None or not _alive(job):
        _offer(report, target, job, tokenizer_folder)
    return report


def _identities(sources: tuple[Source, ...]) -> list[Source]:
    """The sources with what tells one upload from another in place of a name that many have."""
    return [
        source if source.path else replace(source, name=str(getattr(source.upload, "file_id", source.name)))
        for source in sources
    ]


def _alive(job: Job) -> bool:
    from nanochat import jobs

    return jobs.status(job).alive


def _offer(report: Report, target: Path, before: Job | None, tokenizer_folder: Path | None) -> None:
    from nanochat.analysis.dataset_inspector.counting import start
    from nanochat.checkpoint_files import CheckpointError
    from nanochat.jobs import JobError

    seconds = report.size / BYTES_A_SECOND
    about = f"{seconds / 60:.0f} minutes" if seconds > 90 else f"{max(seconds, 1):.0f} seconds"
    with st.container(horizontal=True, vertical_alignment="center"):
        words = "Count again" if before is not None else "Count every token"
        clicked = st.button(words, key=key("count"), icon=":material/123:")
        st.caption(
            f"Tokens are estimated. Counting {readable_size(report.size)} takes about {about}, in the background."
        )
    if not clicked:
        return
    try:
        start(_on_disk(report.sources), report.options.profile, target, tokenizer_folder)
    except (JobError, CheckpointError, OSError) as error:
        st.error(plain(str(error)), icon=":material/error:")
        return
    st.rerun()


def _on_disk(sources: tuple[Source, ...]) -> list[Source]:
    """The sources as files: uploads are written to the workspace, since a job outlives the page."""
    from nanochat.ui.uploads import kept

    found = []
    for source in sources:
        if source.path is None:
            ending = next((one for one in ENDINGS if source.name.lower().endswith(one)), ".jsonl")
            ending = {".gz": ".jsonl.gz", ".zst": ".jsonl.zst"}.get(ending, ending)
            source = replace(source, path=kept(source.upload, ending))
        found.append(source)
    return found


def _show(job: Job) -> None:
    """A job as it stands; draws itself again each second while it lives."""
    alive = _alive(job)
    st.fragment(_draw, run_every="1s" if alive else None)(job, alive)


def _draw(job: Job, was_alive: bool) -> None:
    from nanochat import jobs
    from nanochat.analysis.dataset_inspector.counting import last_words, progress_of

    now = jobs.status(job)
    if was_alive and not now.alive:
        st.rerun()  # the whole page: the figures are others now
    if now.alive:
        doing, share = progress_of(job)
        left = (time.time() - job.begun) * (1 - share) / share if share > 0.02 else None
        words = f"{doing.capitalize()}: {share:.0%}" + (f", {left:.0f} s left" if left is not None else "")
        st.progress(share, words)
        asked = key(f"count_asked_{job.id}")
        disabled = asked in st.session_state
        if st.button("Stop counting", key=key("count_stop"), icon=":material/stop:", disabled=disabled):
            try:
                jobs.stop(job)
            except jobs.JobError as error:
                st.caption(plain(str(error)))
                return
            st.session_state[asked] = True
            st.rerun(scope="fragment")
    elif now.state == "stopped":
        st.info("Counting was stopped; the figures are estimated.", icon=":material/stop_circle:")
    elif now.state != "finished":
        ended = {"failed": "Counting failed.", "lost": "Counting ended without a word: it was killed."}
        st.error(ended[now.state], icon=":material/error:")
        if last := last_words(job):
            st.text(visible(last))
