"""The parts of the dataset inspector's page: what is chosen, the inspection while it runs, and each tab of the report.

All text of a data set reaches the page through tables, st.text and token chips, made visible first.
"""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import streamlit as st

from nanochat.paths import readable_size
from nanochat.ui.figures import figures
from nanochat.ui.text import plain, visible

if TYPE_CHECKING:
    from nanochat.analysis.dataset_inspector import CorpusReport, Options, Progress, Report, Source
    from nanochat.tokenizer import Tokenizer

PAGE = "dataset_inspector"
HERE = "On this machine"  # where a data set is
ROWS = 50  # of a table's page
RAW = 2_000  # characters of a bad line that are shown
EXAMPLE = b"""\
{"messages": [{"role": "user", "content": "What is 2+2?"}, {"role": "assistant", "content": "4."}], "source": "sums"}
{"messages": [{"role": "user", "content": "Who are you?"}, {"role": "assistant", "content": "A small model."}]}
{"messages": [{"role": "user", "content": "Hi"}, {"role": "user", "content": "Anyone?"}], "source": "chat"}
{"messages": [{"role": "user", "content": "What is 2+2?"}, {"role": "assistant", "content": "4."}], "source": "sums"}
{"messages": [{"role": "user", "content": "Say yes."}, {"role": "assistant", "content": ""}], "source": "chat"}
{"messages": [{"role": "user", "content": "Name a colour."}, {"role": "assistant", "content": "Gre
[{"role": "user", "content": "And in Spanish?"}, {"role": "assistant", "content": "Verde."}]
"""


def key(name: str) -> str:
    """A widget's key, with the page's name in front."""
    return f"{PAGE}_{name}"


def pick_sources() -> list[Source]:
    """What the person wants to inspect; empty where nothing is chosen yet. Raises InspectorError."""
    from nanochat.analysis.dataset_inspector import find_sources, upload_source

    places = (HERE, "Upload", "Example")
    where = st.segmented_control(
        "Data set", places, default=places[0], required=True, key=key("where"), bind="query-params"
    )
    if where == "Example":
        st.caption("Seven lines, some of them bad.")
        return [upload_source("example.jsonl", io.BytesIO(EXAMPLE))]
    if where == "Upload":
        files = st.file_uploader(
            "JSONL, gzip, zstandard, parquet or text",
            type=["jsonl", "json", "ndjson", "gz", "zst", "parquet", "txt"],
            accept_multiple_files=True,
            key=key("upload"),
            help="It stays on this machine. Up to 512 MB; a path above has no limit and needs less memory.",
        )
        return [upload_source(file.name, file) for file in files or []]
    path = st.text_input(
        "A file, or a folder of files",
        key=key("path"),
        placeholder="/path/to/chats.jsonl",
        bind="query-params",
        help="JSONL, gzip, zstandard, parquet or text. It is only read.",
    )
    return find_sources([path.strip()]) if path and path.strip() else []


def pick_options() -> tuple[Options, Path | None]:
    """What is looked for, and the folder of the tokenizer to count with; None for the one that is taken unasked."""
    from nanochat.analysis.dataset_inspector import Options
    from nanochat.analysis.tokenizer_playground import local_places

    with st.expander("What to look for", icon=":material/tune:"):
        left, right = st.columns(2)
        with left:
            profile = st.selectbox(
                "Profile",
                ("chat", "nanochat-custom"),
                key=key("profile"),
                bind="query-params",
                help="chat: what can be trained on here. nanochat-custom: what nanochat's own CustomJSON task takes.",
            )
            limit = st.number_input("Warn beyond this many tokens", 1, 1_000_000, 2048, key=key("max_tokens"))
            by = st.text_input("Break down by an extra field", key=key("by"), placeholder="source", bind="query-params")
        with right:
            near = st.checkbox("Near-duplicates", key=key("near"))
            personal = st.checkbox("Personal data", key=key("personal"), help="Finds much that is none.")
            overlap = st.text_input("Overlap with a file", key=key("overlap"), placeholder="/path/to/evaluation.jsonl")
            folders = {place.id: place.path for place in local_places()}
            name = st.selectbox(
                "Count tokens with",
                list(folders),
                index=None,
                placeholder="the first tokenizer here",
                key=key("tokenizer"),
                format_func=visible,
                bind="query-params",
                help="Take that of the run which is to be trained on this data: another one gives other lengths.",
            )
    options = Options(
        profile=profile,
        by=by.strip() or None,
        max_tokens=int(limit),
        near=near,
        personal=personal,
        overlap=Path(overlap.strip()) if overlap and overlap.strip() else None,
    )
    return options, None if name is None else folders[name]


def inspected(
    sources: list[Source], options: Options, tokenizer_folder: Path | None
) -> tuple[Report | CorpusReport, Tokenizer | None, str] | None:
    """The report, from the session where nothing has changed; None after a stop. Raises what inspecting raises."""
    from nanochat.analysis.dataset_inspector import InspectorError, inspect, inspect_corpus, is_corpus, open_tokenizer

    place = st.empty()  # always here, so that what stands below keeps its place, and its state, in every run
    tokenizer, origin = open_tokenizer(tokenizer_folder)
    identity = tuple((one.name, str(one.path), one.stamp, one.size, _upload_id(one)) for one in sources)
    wanted = (identity, options, tokenizer.fingerprint if tokenizer else None)
    kept = st.session_state.get(key("report"))
    if kept is not None and kept[0] == wanted:
        return kept[1], tokenizer, origin
    if st.session_state.get(key("stopped")) == wanted:
        with place.container():
            st.info("Stopped. Nothing was changed.", icon=":material/stop_circle:")
            if not st.button("Inspect again", key=key("again")):
                return None
        st.session_state.pop(key("stopped"))
    with place.container():
        bar = st.progress(0.0, "Starting")
        st.button("Stop", key=key("stop"), icon=":material/stop:", on_click=_remember_stop, args=(wanted,))
    try:
        corpus = [is_corpus(source) for source in sources]
        if any(corpus) and not all(corpus):
            raise InspectorError("some files are plain text and others conversations; inspect them one after another")
        watch, every = _Watch(bar), all(corpus)
        report = inspect_corpus(sources, tokenizer, watch) if every else inspect(sources, options, tokenizer, watch)
    except Exception:
        place.empty()  # the bar goes no further
        raise
    place.empty()
    st.session_state[key("report")] = (wanted, report)
    return report, tokenizer, origin


def _upload_id(source: Source) -> str:
    return str(getattr(source.upload, "file_id", "")) if source.upload is not None else ""


def _remember_stop(wanted: Any) -> None:
    st.session_state[key("stopped")] = wanted


class _Watch:
    """Shows how far an inspection is, four times a second, and how long it will take."""

    def __init__(self, bar: Any) -> None:
        self.bar, self.doing, self.begun, self.shown = bar, "", time.monotonic(), 0.0

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        if progress.doing != self.doing:
            self.doing, self.begun = progress.doing, now
        if now - self.shown < 0.25:
            return
        self.shown = now
        share = min(progress.done / max(progress.total, 1), 1.0)
        left = (now - self.begun) * (1 - share) / share if share > 0.02 else None
        words = f"{progress.doing.capitalize()}: {share:.0%}" + (f", {left:.0f} s left" if left is not None else "")
        self.bar.progress(share, words)


def show_summary(report: Report, origin: str) -> None:
    """The figures at the top."""
    tokens = report.tokens
    figures(  # two rows, so that none of them begins with what the other had no room for
        ("Lines", f"{report.lines:,}"),
        ("Errors", f"{report.error_lines:,}", "lines that have at least one"),
        (
            "Warnings",
            f"{report.warning_lines:,}",
            "lines that have some, and no error; one that ends with a user's message is rejected all the same",
        ),
        (
            "Conversations",
            f"{report.conversations:,}",
            "lines without an error; among them those that end with a user's message, which are not trained on",
        ),
    )
    counted: list[tuple[str, str, str]] = []
    if tokens is not None:
        low, high = tokens.interval
        how = "every one counted" if tokens.exact else f"estimated, 95 %: {low:,} to {high:,}"
        counted = [
            ("Tokens", f"{tokens.total:,}", how),
            ("Best length", f"{tokens.recommended:,}", f"recommended: {tokens.reason}"),
        ]
    figures(("Messages", f"{report.messages:,}"), *counted)
    if report.error_lines == 0:
        st.success("No errors. Every conversation can be read.", icon=":material/check:")
    if _in_another_shape(report):
        st.info(
            "Lines are in the shape of another project. The tab Files has them as messages, repaired, to train on "
            "and to inspect.",
            icon=":material/build:",
        )
    secrets = sum(report.secret_counts.values())
    if secrets:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in report.secret_counts.items())
        words = "1 secret is" if secrets == 1 else f"{secrets:,} secrets are"
        first = report.secrets.row(0, named=True)
        place = f"line {first['line']:,}" + (f" of {plain(first['file'])}" if len(report.sources) > 1 else "")
        st.warning(
            f"{words} in this data set: {kinds}; the first in {place}, all in the tab Breakdown. The tab "
            "Files can leave those lines out.",
            icon=":material/key:",
        )
    for note in (origin, *report.notes):
        st.caption(plain(note.replace("`", "")))


def _in_another_shape(report: Report) -> bool:
    """Whether one of the first lines of a wrong shape is one that a repair writes as messages."""
    from nanochat.analysis.dataset_inspector import issue_rows, issues
    from nanochat.analysis.dataset_inspector.other_shapes import TAKE

    if "wrong_shape" not in report.kind_counts:
        return False
    return any(TAKE in one.remedy for one in issues(report, issue_rows(report, "wrong_shape").head(5)))


def show_corpus(report: CorpusReport, origin: str) -> None:
    """The report on plain text."""
    counted: list[tuple[str, str, str]] = []
    if report.tokens is not None and report.interval is not None:
        low, high = report.interval
        counted = [("Tokens", f"{report.tokens:,}", f"estimated, 95 %: {low:,} to {high:,}")]
    figures(
        ("Documents", f"{report.documents:,}"),
        ("Characters", f"{report.characters:,}"),
        *counted,
        ("Duplicates", f"{report.duplicates:,}"),
        ("Size", readable_size(report.size)),
    )
    if report.bad:
        st.error(f"{report.bad:,} lines hold no text.", icon=":material/error:")
        st.dataframe([{"file": visible(file), "line": line} for file, line in report.bad_lines[:ROWS]], hide_index=True)
    st.caption(plain(origin.replace("`", "")))
    st.subheader("Languages by script", anchor=False)
    st.dataframe(report.scripts.head(20).to_dicts(), hide_index=True, alt="Documents by script")
    if report.lengths is not None:
        st.subheader("Document lengths in characters", anchor=False)
        one = report.lengths
        shares = {f"{share} %": value for share, value in one.percentiles.items()}
        st.dataframe([{"min": one.min, "mean": round(one.mean, 1), "max": one.max} | shares], hide_index=True)
