"""The tokenizer playground's views: tokens, merges, vocabulary, costs, a tokenizer trained on the spot, a chat.

pages/tokenizer_playground.py draws one of them; each takes an open tokenizer and knows nothing of the others.
"""

from collections.abc import Callable
from typing import Any

import streamlit as st

from nanochat.analysis import tokenizer_playground as playground
from nanochat.analysis.conversation_template_builder import Supervision, multi, supervision
from nanochat.analysis.tokenizer_playground import Known, Place, TextReport
from nanochat.ui.chips import Chip, chips
from nanochat.ui.figures import figures
from nanochat.ui.states import go_to
from nanochat.ui.text import visible

PAGE = "tokenizer_playground"
SAMPLE = "The little dog was happy.\nTokenizers cut words: unbelievable!\n  12345 + 67, café, 你好, 🌍"
TRAINED = "trained"  # the id of the tokenizer that was trained on this page
MEMORY = f"{PAGE}_learned"


@st.cache_resource(max_entries=8, show_spinner="Opening the tokenizer")
def _opened(place: Place, stamp: tuple[tuple[str, int, int], ...]) -> Known:
    """stamp: name, time and size of its files, so that one that was trained again is read again."""
    return playground.open_place(place)


def opened(place: Place) -> Known:
    """A tokenizer, kept between reruns. Raises PlaygroundError, TokenizerError."""
    stamp = []
    for path in sorted(place.path.glob("tokenizer.*")) if place.path is not None else []:
        status = path.stat()
        stamp.append((path.name, status.st_mtime_ns, status.st_size))
    return _opened(place, tuple(stamp))


@st.cache_data(max_entries=16, show_spinner=False)
def _report(_known: Known, fingerprint: int, text: str) -> TextReport:
    return playground.tokenize(_known, text)


@st.cache_data(max_entries=8, show_spinner=False)
def _replay(_known: Known, fingerprint: int, text: str) -> playground.Replay:
    return playground.replay(_known, text)


@st.cache_data(max_entries=8, show_spinner="Counting the vocabulary")
def _vocabulary(_known: Known, fingerprint: int) -> playground.VocabularyReport:
    return playground.describe(_known)


def text_input() -> str:
    """The text that tokens and merges are shown of: typed, or read from a file."""
    with st.popover("From a file", icon=":material/upload_file:"):
        path = st.text_input("A text file on this machine", key=f"{PAGE}_path", placeholder="/path/to/text.txt")
        upload = st.file_uploader("Or upload one", key=f"{PAGE}_upload", type=["txt", "md", "py", "csv", "json"])
    if upload is not None:
        content = upload.getvalue()
        try:
            return content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise playground.PlaygroundError(
                f"{upload.name}: byte {error.start + 1:,} is not UTF-8; save the file as UTF-8"
            ) from None
    if path:
        return playground.read_text(path)
    return st.text_area("Text", SAMPLE, key=f"{PAGE}_text", height=120, persist_state="session")


def draw_tokens(known: Known) -> None:
    """The tokens of a text as chips, their figures and their table."""
    report = _report(known, id(known), text_input())
    figures(
        ("Tokens", f"{report.tokens:,}", None),
        ("Characters", f"{report.characters:,}", None),
        ("Bytes", f"{report.bytes:,}", None),
        ("Tokens a byte", f"{report.tokens_per_byte:.3f}", "The compression ratio. Fewer is better."),
        ("Characters a token", f"{report.characters_per_token:.2f}", "The efficiency. More is better."),
    )
    if not report.tokens:
        st.info("Type a text above to see its tokens.")
        return
    st.caption("One box a token. · is a blank, ⏎ a line break, <e4> a byte that is no character by itself.")
    text, chosen = st.session_state.get(f"{PAGE}_picked", ("", None))
    chosen = chosen if text == report.text else None
    picked = chips(_chips(report), key=f"{PAGE}_tokens", label="Tokens", pick=True, selected=chosen)
    if picked is not None and picked != chosen:
        st.session_state[f"{PAGE}_picked"] = (report.text, picked)
        st.rerun()
    if chosen is None:
        st.caption("Click a token, or press Enter on it, to see how it was built.")
    else:
        _one_token(known, report, chosen)
    with st.expander("Detailed token information"):
        st.dataframe(_details(report), hide_index=True, alt="Every token with its id, bytes and type")


def _chips(report: TextReport) -> list[Chip]:
    columns = ("id", "text", "hex", "start", "end", "type", "note")
    found = []
    for number, text, raw, start, end, kind, note in report.frame.select(columns).iter_rows():
        words = f"{kind}\nbytes {start:,} to {end - 1:,}: {raw if len(raw) < 60 else raw[:60] + ' …'}"
        # A line break has to be known as one: the visible text carries only its mark.
        shown = "\n" * text.count("⏎") if text.strip("⏎") == "" else text.replace("·", " ")
        found.append(Chip(shown, number, f"{words}\n{note}" if note else words))
    return found


def _details(report: TextReport) -> Any:
    names = {"index": "Index", "id": "Token ID", "text": "Text", "bytes": "Bytes", "type": "Type", "hex": "Hex"}
    return report.frame.select(*names, "start", "end", "note").rename(
        names | {"start": "First byte", "end": "Behind its last", "note": "Part of"}
    )


def _one_token(known: Known, report: TextReport, index: int) -> None:
    """How one token was built: the merges from its bytes."""
    row = report.frame.row(index, named=True)
    token = known.bytes_of(row["id"])
    with st.container(border=True):
        st.text(f"Token {row['id']:,}: {row['text']}  ({row['type']}, {row['bytes']} bytes: {row['hex'][:200]})")
        if row["note"]:
            st.text(row["note"])
        ranks = {other: rank for rank, other in enumerate(known.tokens)}
        parts, merges = playground.merge_piece(token, ranks)
        if len(token) == 1:
            st.markdown("A single byte: it was in the vocabulary before anything was learnt.")
        elif merges and parts == (token,):
            st.markdown(f"It takes {sum(merges.values())} merges, each learnt before the next:")
            table = playground.parents(known.tokens, sorted(merges))
            st.dataframe(table, hide_index=True, alt="The merges of this token", width="content")


def draw_merges(known: Known) -> None:
    """Merge replay: a text after each merge."""
    from nanochat.charts import tokenizer_playground as charts

    report = _replay(known, id(known), text_input())
    st.markdown(
        "Every text begins as single bytes. The pair that was learnt first merges first, wherever it stands, then the "
        "next, until no two neighbours form a token."
    )
    if not report.steps:
        st.info("No pair of this text is in the vocabulary, so nothing merges.")
    step = _pick_step(report.steps) if report.steps else 0
    if step:
        row = report.frame.row(step - 1, named=True)
        st.text(
            f"Merge {step}, rank {row['rank']:,}: {row['left']} + {row['right']} = {row['token']}, {row['times']:,} "
            f"times here; {row['tokens']:,} tokens are left"
        )
    else:
        st.text(f"Before any merge: {report.start:,} bytes")
    drawn = [
        Chip(_raw(part), tooltip=part.hex(" "), style="supervised" if new else "context")
        for part, new in report.state(step)
    ]
    legend = {"supervised": "made by this merge", "context": "as before"}
    chips(drawn, key=f"{PAGE}_merges", label="Parts", legend=legend)
    if not report.agrees:
        st.warning("The tokenizer itself gives other tokens: its vocabulary was not learnt by merging pairs.")
    if report.steps:
        chart = charts.replay(report.frame, report.start, step).properties(height=200)
        st.altair_chart(chart, alt="Tokens left after each merge")
        with st.expander("All merges"):
            st.dataframe(report.frame, hide_index=True, alt="All merges of this text")


def _pick_step(steps: int) -> int:
    """How many merges are done: a slider, and a step either way."""
    widget = f"{PAGE}_step"
    at = min(int(st.session_state.get(widget, 0)), steps)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        step = st.slider("Merges done", 0, steps, key=widget)
        for words, icon, to in (("Back", "undo", at - 1), ("Next merge", "play_arrow", at + 1)):
            st.button(words, key=f"{PAGE}_{icon}", icon=f":material/{icon}:", disabled=not 0 <= to <= steps,
                      on_click=_jump, args=(to,))  # fmt: skip
    return step


def _jump(step: int) -> None:
    st.session_state[f"{PAGE}_step"] = step


def _raw(part: bytes) -> str:
    try:
        return part.decode()
    except UnicodeDecodeError:
        return f"<{part.hex(' ')}>"


def draw_vocabulary(known: Known) -> None:
    """What is in the vocabulary, and its special tokens."""
    from nanochat.charts import tokenizer_playground as charts

    report = _vocabulary(known, id(known))
    figures(
        ("Tokens", f"{report.size:,}", None),
        ("Learned merges", f"{report.merges:,}", None),
        ("Special tokens", f"{report.specials:,}", "Markers that no text can contain."),
        ("Mean bytes", f"{report.mean_bytes:.2f}", "Of an ordinary token."),
        ("Partial", f"{report.partial:,}", "Bytes that are no valid UTF-8 by themselves."),
    )
    st.altair_chart(charts.lengths(report.lengths).properties(height=260), alt="Tokens by their length in bytes")
    left, right = st.columns(2)
    left.markdown("**Types**")
    left.dataframe(
        report.types,
        hide_index=True,
        alt="Tokens by type",
        column_config={"share": st.column_config.NumberColumn(format="percent")},
    )
    left.caption("Mixed/Other are several of these in one, as a word with the blank before it is.")
    right.markdown("**The longest**")
    right.dataframe(report.longest, hide_index=True, alt="The longest tokens", height=260)
    left.markdown("**Learned first**: the most frequent pairs")
    left.dataframe(report.first_merges, hide_index=True, alt="The first merges", height=260)
    right.markdown("**Learned last**")
    right.dataframe(report.last_merges, hide_index=True, alt="The last merges", height=260)
    st.markdown("**Special tokens**")
    st.dataframe(playground.special_tokens(known), hide_index=True, alt="The special tokens and what each is for")


def draw_compare(known: Known, others: Callable[[], list[Known]]) -> None:
    """Several texts under this tokenizer, and one of them under others."""
    lines = st.text_area("Texts, one a line", "Hello\nHi\nHey there", key=f"{PAGE}_texts", persist_state="session")
    texts = [line for line in lines.split("\n") if line.strip()]
    if not texts:
        st.info("Type at least one text.")
        return
    _comparison(playground.compare(known, texts), "texts")
    st.markdown("**The first text under other tokenizers**")
    many = others()
    if many:
        _comparison(playground.compare_tokenizers([known, *many], texts[0]), "tokenizers")


def draw_languages(known: Known) -> None:
    """One sentence in several languages."""
    result = playground.compare(known, playground.LANGUAGES)
    dearest = result.frame.sort("tokens", descending=True).row(0, named=True)
    st.markdown(
        f"The same sentence costs **{dearest['cost']:.2f} times** as many tokens in {dearest['name']} as in English. "
        "A tokenizer is cheap for what it was trained on; every token more is context, time and money."
    )
    st.caption(f"In English: “{playground.LANGUAGES['English']}” The others stand in the table.")
    _comparison(result, "languages")


def _comparison(result: playground.Comparison, name: str) -> None:
    from nanochat.charts import tokenizer_playground as charts

    frame = result.frame
    chart = charts.cost(frame).properties(height={"step": 28})
    st.altair_chart(chart, alt=f"Tokens of several {name}; the figure is the multiple of the first")
    with st.expander("As a table", expanded=False):
        st.dataframe(frame.drop("tokenizer"), hide_index=True, alt=f"What the {name} cost")


def draw_train() -> None:
    """Train a tokenizer on pasted text, and show the merges it learnt."""
    text = st.text_area(
        "A text to learn from",
        "hug pug hugs a bug, and the bugs hug the pug\n" * 8,
        key=f"{PAGE}_corpus",
        height=160,
        persist_state="session",
    )
    size = st.slider("Vocabulary", 265, 4096, 275, key=f"{PAGE}_vocab_size", bind="query-params",
                     help="256 bytes and nine special tokens are always there; the rest is learnt.")  # fmt: skip
    if st.button("Train", type="primary", key=f"{PAGE}_train", icon=":material/model_training:"):
        with st.spinner("Training"):
            st.session_state[MEMORY] = playground.learn(text, size)
    learned = st.session_state.get(MEMORY)
    if learned is None:
        return
    st.success(
        f"{learned.known.size:,} tokens, {learned.merges.height:,} of them merges. Choose it above as the tokenizer to "
        "see other texts under it; it is gone when you close this tab."
    )
    st.caption(f"Learnt with {learned.trainer}. {' '.join(learned.notes)}")
    st.dataframe(learned.merges, hide_index=True, alt="The merges in the order in which they were learnt")


def draw_chat(known: Known) -> None:
    """A conversation with its roles as the model reads it."""
    if known.tokenizer is None:
        st.info(f"{known.label} has no tokens for roles; choose one of nanochat's tokenizers above.")
        return
    user = st.text_area("User", "What is 2+2?", key=f"{PAGE}_user", height=68, persist_state="session")
    assistant = st.text_area("Assistant", "It's 4.", key=f"{PAGE}_assistant", height=68, persist_state="session")
    report = supervision(known.tokenizer, multi([user, assistant]))
    st.markdown(f"**{report.tokens:,} tokens**, {report.supervised:,} of them written by the model.")
    chips(mask_chips(report), key=f"{PAGE}_chat", label="Tokens of the conversation", legend=MASK_LEGEND)
    go_to("conversation_template_builder", "Build whole conversations")


MASK_LEGEND = {"supervised": "supervised: the model learns to write it", "context": "context: it only reads it"}


def mask_chips(report: Supervision) -> list[Chip]:
    """A conversation's tokens with the mask as their style, for chips()."""
    found = []
    columns = ("id", "text", "special", "supervised", "cut", "role", "part")
    for number, text, special, supervised, cut, role, part in report.frame.select(columns).iter_rows():
        where = role + (f", {part}" if part != "text" else "") if role else "before all"
        words = ["supervised" if supervised else "context", where, "cut off" if cut else ""]
        shown = text if special else text.replace("·", " ").replace("⏎", "\n")
        style = "cut" if cut else "supervised" if supervised else "context"
        found.append(Chip(shown, number, "\n".join(filter(None, words)), style))
    return found


def show_missing(missing: list[Place]) -> None:
    """What would be here but is not, and how to get it."""
    with st.popover("Tokenizers that are not here", icon=":material/help:"):
        for place in missing:
            st.text(visible(place.missing or ""))
