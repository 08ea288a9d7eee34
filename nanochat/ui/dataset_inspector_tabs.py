"""The tabs of a report on conversations: problems, lengths, rows, breakdown. Files are dataset_inspector_files.py."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

import streamlit as st

from nanochat.ui.chips import Chip, chips
from nanochat.ui.dataset_inspector import RAW, ROWS, key
from nanochat.ui.text import plain, visible

if TYPE_CHECKING:
    import polars as pl

    from nanochat.analysis.dataset_inspector import Report, Row
    from nanochat.tokenizer import Tokenizer

ANY = "any kind"
BY_BUTTONS = 8  # fields of the lines that have a button; any other is typed
SHOWN_KINDS = 15  # rows of their table that stand beside the chart; more are scrolled


def problems(report: Report) -> None:
    """Every line with an issue, a page at a time."""
    from nanochat.analysis.dataset_inspector import issue_rows, issues, kind_table
    from nanochat.charts.dataset_inspector import KIND, kinds_chart

    if not report.kind_counts:
        st.markdown("No format issues found. Dataset looks good.")
        return
    kinds = kind_table(report)
    left, right = st.columns(2)
    with left:
        clicked = st.altair_chart(
            kinds_chart(kinds, clickable=True),
            key=key("kinds"),
            on_select="rerun",
            alt="Lines with each kind of issue",
            width="stretch",
        )
    _follow_bar(clicked.selection.get(KIND) or [])
    with right:
        wide = st.column_config.Column(width="large")
        st.dataframe(
            kinds.select("kind", "lines", "meaning", "remedy", "severity").to_dicts(),
            hide_index=True,
            column_config={"meaning": wide, "remedy": wide},
            height=38 + 35 * min(len(kinds), SHOWN_KINDS),  # as tall as the chart beside it
            alt="Kinds of issues with their remedies",
        )
    st.caption("Click a bar to see its lines, or choose a kind.")
    kind = st.selectbox("Show lines with", [ANY, *kinds["kind"]], key=key("kind"), bind="query-params")
    rows = issue_rows(report, None if kind == ANY else kind)
    shown = _page(rows, "problems", "lines")
    table = [
        {
            "file": visible(one.file),
            "line": one.line,
            "what is wrong": visible(one.detail),
            "what to do": one.remedy,
            "kinds": ", ".join(one.kinds),
            "severity": one.severity,
        }
        for one in issues(report, shown)
    ]
    columns = [name for name in table[0] if name != "file" or len(report.sources) > 1]
    picked = st.dataframe(
        table,
        hide_index=True,
        column_order=columns,
        column_config={"what is wrong": wide, "what to do": wide},
        key=key("issues"),
        on_select="rerun",
        selection_mode="single-row",
        alt="Lines with issues",
    )
    chosen = picked.selection.rows
    if chosen and chosen[0] < len(shown):
        line = table[chosen[0]]
        box = st.error if line["severity"] == "error" else st.warning
        words = plain(f"{line['what is wrong']}. To do: {line['what to do']}.")
        box(f"Line {line['line']:,}: {words}", icon=":material/flag:")
        _raw(report, int(shown[chosen[0]]))
    else:
        st.caption("Select a line to see it whole.")


def _follow_bar(points: list[dict[str, Any]]) -> None:
    """A newly clicked bar chooses its kind; a kind chosen from the list afterwards stands."""
    bar = points[0]["kind"] if points else None
    if bar != st.session_state.get(key("kind_bar")):
        st.session_state[key("kind_bar")], st.session_state[key("kind")] = bar, bar or ANY


def _raw(report: Report, number: int) -> None:
    """A line as it stands in the file."""
    from nanochat.analysis.dataset_inspector import rows_of

    row = rows_of(report, [number])[0]
    text = row.data[: 4 * RAW].decode(errors="replace").rstrip("\n")
    st.code(visible(text[:RAW]), language=None, wrap_lines=True)
    if row.nbytes > len(text[:RAW].encode()) + 2:
        st.caption(f"The beginning of {row.nbytes:,} bytes.")


def lengths(report: Report) -> None:
    """How long conversations are, and which sequence length suits them."""
    from nanochat.analysis.dataset_inspector import length_bins
    from nanochat.charts.dataset_inspector import PICKED, choices_chart, length_chart

    bins, unit = length_bins(report)
    if not len(bins):
        st.markdown("No conversation without an error.")
        return
    st.markdown(report.insight)
    picked = st.altair_chart(
        length_chart(bins, unit, clickable=True),
        key=key("histogram"),
        on_select="rerun",
        alt=f"How many conversations have how many {unit}",
        width="stretch",
    )
    points = picked.selection.get(PICKED) or []
    bar = (points[0]["low"], points[0]["high"], unit) if points else None
    if bar != st.session_state.get(key("bar")):
        st.session_state[key("bar")], st.session_state[key("way")] = bar, "Bar" if bar else "Random"
    if points:
        low, high = points[0]["low"], points[0]["high"]
        st.caption(f"The tab Rows shows the conversations of {low:,} to below {high:,} {unit}.")
    else:
        st.caption("Click a bar to see its conversations in the tab Rows.")
    with st.expander("As a table"):
        st.dataframe(bins.to_dicts(), hide_index=True)
    if report.tokens is not None:
        st.subheader(f"Sequence length: {report.tokens.recommended:,}", anchor=False)
        st.markdown(f"Recommended, because {report.tokens.reason}.")
        choices = report.tokens.choices
        if len(choices) > 1:
            chart = choices_chart(choices, report.tokens.recommended)
            st.altair_chart(chart, alt="What each sequence length cuts off and leaves empty", width="stretch")
        percent = st.column_config.NumberColumn(format="percent")
        shares = ("cut_share", "lost_share", "empty_share", "filled", "padded")
        names = {
            "length": "tokens a row",
            "cut": "conversations cut",
            "cut_share": "cut",
            "lost_share": "lost of what is learnt",
            "empty_share": "left with none",
            "rows": "rows, packed",
            "filled": "filled, packed",
            "padded": "filled, padded",
        }
        columns = {names[name]: percent for name in shares}
        st.dataframe(choices.rename(names).to_dicts(), hide_index=True, column_config=columns)
    st.subheader("Messages in characters", anchor=False)
    table = [
        {"role": role, "messages": one.count, "min": one.min, "mean": round(one.mean, 1), "max": one.max}
        | {f"{share} %": value for share, value in one.percentiles.items()}
        for role, one in report.message_chars.items()
    ]
    st.dataframe(table, hide_index=True, alt="Lengths of messages by role")


def rows(report: Report, tokenizer: Tokenizer | None) -> None:
    """Conversations to read: at random, in order, by a search, or of the bar that was clicked."""
    from nanochat.analysis.dataset_inspector import rows_of, sample
    from nanochat.analysis.dataset_inspector.text import preview

    bar = st.session_state.get(key("bar"))
    ways = ["Random", "In order", "Search", *(["Bar"] if bar else [])]
    if st.session_state.get(key("way")) not in ways:
        st.session_state[key("way")] = "Bar" if bar else "Random"
    way = st.segmented_control("Rows", ways, required=True, key=key("way"))
    if way == "Random":
        seed = st.number_input("Draw", 0, 1_000_000, 0, key=key("seed"), help="Another number, other rows.")
        found = sample(report, 10, int(seed))
    elif way == "Search":
        found = _search(report)
    else:
        query = _lengths_between(report, bar) if way == "Bar" and bar else report.index.fit()
        numbers = report.index.collect(query.select("row"))["row"].sort()
        found = rows_of(report, _page(numbers, "rows", "conversations"))
    if not found:
        none = "No line is without an error, so none can be read as a conversation; the tab Files repairs what it can."
        st.caption("None." if report.conversations else none)
        return
    table = [
        {"file": visible(report.sources[row.file].name), "line": row.line, "begins": visible(preview(row))}
        for row in found
    ]
    columns = [name for name in table[0] if name != "file" or len(report.sources) > 1]
    picked = st.dataframe(
        table,
        hide_index=True,
        column_order=columns,
        key=key("table"),
        on_select="rerun",
        selection_mode="single-row",
        alt="Conversations",
    )
    chosen = picked.selection.rows[0] if picked.selection.rows and picked.selection.rows[0] < len(found) else 0
    _open(report, found[chosen], tokenizer)


def _search(report: Report) -> list[Row]:
    from nanochat.analysis.dataset_inspector import rows_of, search

    text = st.text_input("Text", key=key("search"), placeholder="a word, whatever its case")
    if not text:
        return []
    with st.spinner("Searching"):
        return rows_of(report, search(report, text, ROWS))


def _lengths_between(report: Report, bar: tuple[int, int, str]) -> pl.LazyFrame:
    import polars as pl

    low, high, unit = bar
    value = pl.col("chars").cast(pl.Float64)
    if unit == "tokens" and report.tokens is not None:
        value = pl.col("specials") + pl.col("chars") * report.tokens.per_char
    return report.index.fit().filter((value.round() >= low) & (value.round() < high))


def _page(numbers: pl.Series, name: str, what: str) -> pl.Series:
    """One page of row numbers, with a pager where there are more."""
    pages = -(-len(numbers) // ROWS)
    if pages <= 1:
        return numbers
    widget = key(f"{name}_page")
    if st.session_state.get(widget, 1) > pages:  # another kind has fewer lines
        st.session_state[widget] = pages
    with st.container(horizontal=True, vertical_alignment="center"):
        start = (st.pagination(pages, key=widget) - 1) * ROWS
        st.caption(f"{start + 1:,} to {min(start + ROWS, len(numbers)):,} of {len(numbers):,} {what}", width="content")
    return numbers.slice(start, ROWS)


def _open(report: Report, row: Row, tokenizer: Tokenizer | None) -> None:
    """A row as a chat, and as the tokens that a model is trained on."""
    st.subheader(f"Line {row.line:,}", anchor=False)
    if row.kinds and row.row in report.issues["row"]:
        from nanochat.analysis.dataset_inspector import issues

        for issue in issues(report, report.issues["row"].filter(report.issues["row"] == row.row)):
            st.warning(plain(issue.detail), icon=":material/warning:")
    try:
        value = row.value()
        messages = value["messages"] if isinstance(value, dict) else value
        parts = [(message["role"], message["content"]) for message in messages]
    except (ValueError, KeyError, TypeError, RecursionError):  # a search finds bad lines too
        _raw(report, row.row)
        return
    for role, content in parts:
        with st.chat_message("assistant" if role == "assistant" else "user"):
            st.caption(plain(str(role)))
            for part in content if isinstance(content, list) else [content]:
                st.text(_visible_lines(part if isinstance(part, str) else f"{part.get('type')}: {part.get('text')}"))
    if tokenizer is not None:
        _tokens(value, tokenizer)


def _visible_lines(text: str) -> str:
    return "\n".join(visible(line) for line in text[: 10 * RAW].split("\n"))


def _tokens(value: Any, tokenizer: Tokenizer) -> None:
    from nanochat.conversation import ConversationError, segments

    try:
        layout = segments(value)
    except ConversationError:
        return
    tokens: list[Chip] = []
    for one in layout:
        ids = [tokenizer.encode_special(one.text)] if one.special else tokenizer.encode(one.text)
        style = "supervised" if one.supervised else "context"
        tokens += [Chip(one.text if one.special else tokenizer.decode([token]), token, style=style) for token in ids]
    learned = sum(token.style == "supervised" for token in tokens)
    st.caption(f"{len(tokens):,} tokens, {learned:,} of them the model learns to write.")
    legend = {"supervised": "the model learns to write this", "context": "it only reads this"}
    chips(tokens, key=key("chips"), label="Tokens of this conversation", legend=legend)


def breakdown(report: Report) -> None:
    """Figures by file and by an extra field."""
    if report.options.by is not None:
        st.subheader(plain(f"By {report.options.by}"), anchor=False)
        _groups(report.groups)
    elif report.fields:
        names = ", ".join(visible(name) for name in islice(report.fields, 20))
        st.text(f"Lines have fields of their own: {names}. Choose one to break down by it:")
        with st.container(horizontal=True):
            for number, name in enumerate(islice(report.fields, BY_BUTTONS)):
                st.button(plain(name), key=key(f"by_{number}"), on_click=_break_down, args=(name,))
    else:
        st.text("The lines have no fields of their own to break down by.")
    st.subheader("By file", anchor=False)
    _groups(report.files)
    st.subheader("Repetitions", anchor=False)
    st.text(f"Lines that equal an earlier one: {len(report.duplicates):,}")
    st.text(f"More that differ from an earlier one in case and blanks only: {report.normalised_duplicates:,}")
    if report.near is not None:
        st.text(f"{len(report.near):,} conversations are nearly the same as an earlier one.")
    if report.overlap is not None:
        st.text(f"{len(report.overlap):,} conversations share 13 words in a row with the file.")
    for title, frame in (("Secrets", report.secrets), ("Maybe personal data", report.personal)):
        if frame is not None and len(frame):
            st.subheader(title, anchor=False)
            table = [{name: visible(str(cell)) for name, cell in row.items()} for row in frame.head(ROWS).to_dicts()]
            st.dataframe(table, hide_index=True, alt=title)


def _break_down(name: str) -> None:
    """Chooses the field, as if it had been typed under “What to look for”."""
    st.session_state[key("by")] = name


def _groups(frame: pl.DataFrame) -> None:
    table = [
        row | {"group": visible(row["group"])} for row in frame.sort("share", descending=True).head(ROWS).to_dicts()
    ]
    share = {"share": st.column_config.ProgressColumn(format="percent", min_value=0, max_value=1)}
    st.dataframe(table, hide_index=True, column_config=share, alt="Figures by group")
