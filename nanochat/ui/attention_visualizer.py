"""The attention visualizer's page: opening a model once, and its five views."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import streamlit as st

from nanochat.analysis import attention_visualizer as attention
from nanochat.analysis.attention_visualizer import Look
from nanochat.ui import attention_canvas
from nanochat.ui.models import Shared
from nanochat.ui.text import visible

if TYPE_CHECKING:
    import polars as pl

PAGE = "attention_visualizer"
MEAN = "mean"
PERCENT = st.column_config.NumberColumn(format="percent")


@st.cache_resource(max_entries=2, show_spinner="Reading the text", hash_funcs={Shared: lambda model: model.key})
def look_at(model: Shared, text: str, off: tuple[tuple[int, int], ...], chat: bool) -> Look:
    """The model's look at a text, kept while only the view changes."""
    with model.turn():
        return attention.look(model.loaded, text, off, chat)


@st.cache_data(
    max_entries=8, show_spinner="Measuring what each head does", hash_funcs={Shared: lambda model: model.key}
)
def names_of(model: Shared) -> "pl.DataFrame":
    """Every head's measured name."""
    with model.turn():
        return attention.label_heads(model.loaded)


def settle(key: str, options: Sequence[object]) -> None:
    """Forget a choice that this model does not have, such as the fifth layer of a model with four."""
    if key in st.session_state and st.session_state[key] not in options:
        del st.session_state[key]


def choose_head(report: Look) -> tuple[int, int | None]:
    """The layer and the head that the views are of; None for the mean."""
    L, H, _ = report.shape
    layers, heads = [str(i) for i in range(L)], [MEAN, *(str(i) for i in range(H))]
    settle(f"{PAGE}_layer", layers)
    settle(f"{PAGE}_head", heads)
    layer = st.selectbox("Layer", layers, key=f"{PAGE}_layer", bind="query-params", width=120)
    head = st.selectbox("Head", heads, key=f"{PAGE}_head", bind="query-params", width=120)
    return int(layer or 0), None if head in (None, MEAN) else int(head)


def choose_query(report: Look) -> int:
    """The token that the table and the arcs are of."""
    tokens = list(range(report.shape[2]))
    texts = report.tokens["text"].to_list()
    key = f"{PAGE}_query"
    settle(key, tokens)
    st.session_state.setdefault(key, tokens[-1])
    chosen: int = st.selectbox(
        "Token", tokens, key=key, format_func=lambda i: visible(f"{i}: {texts[i]}"), persist_state="session"
    )
    return chosen


def _query_picked() -> None:
    chosen = attention_canvas.picked(f"{PAGE}_matrix")
    if chosen is not None:
        st.session_state[f"{PAGE}_query"] = chosen


def _head_picked() -> None:
    """A click in the grid opens that head."""
    chosen, heads = attention_canvas.picked(f"{PAGE}_grid"), st.session_state.get(f"{PAGE}_heads", 1)
    if chosen is not None:
        st.session_state[f"{PAGE}_layer"], st.session_state[f"{PAGE}_head"] = (str(i) for i in divmod(chosen, heads))
        st.session_state[f"{PAGE}_view"] = "Matrix"


def draw_matrix(model: Shared, report: Look) -> None:
    """One head's weights, and the table of one token."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        layer, head = choose_head(report)
        carried = st.toggle(
            "Weigh by value",
            key=f"{PAGE}_carried",
            bind="query-params",
            help="Each weight times the length of the value that it carries: a token with a tiny value gives little.",
        )
    weights = attention.matrix(report, layer, head, carried)
    seen = attention.visible_keys(report.shape[2], report.windows[layer])
    st.caption(_about(names_of(model), report, layer, head))
    left, right = st.columns([3, 2])
    with right:
        query = choose_query(report)
        draw_top(report, layer, head, query, carried)
    with left:
        attention_canvas.matrix(
            weights,
            seen,
            report.tokens["text"].to_list(),
            key=f"{PAGE}_matrix",
            label=f"Attention of layer {layer}, " + ("mean of its heads" if head is None else f"head {head}"),
            selected=query,
            on_pick=_query_picked,
        )


def _about(names: "pl.DataFrame", report: Look, layer: int, head: int | None) -> str:
    """The head in one sentence: its name, and its window where that cuts something off."""
    window = report.windows[layer]
    reach = f" It sees {window + 1:,} tokens at most: a sliding window." if 0 <= window < report.shape[2] - 1 else ""
    if head is None:
        off = [f"{layer}.{one}" for one in range(report.shape[1]) if (layer, one) in report.off]
        gone = f" Switched off, and still in the mean: {', '.join(off)}." if off else ""
        return f"The mean over the {report.shape[1]} heads of layer {layer}.{reach}{gone}"
    row = names.row(layer * report.shape[1] + head, named=True)
    label, share = row["label"], row["score"]
    what = f"“{label}”, {share:.0%}: {attention.TESTS[label]}." if label else "no measured name."
    gone = " It is switched off: it looks, and nothing comes of it." if (layer, head) in report.off else ""
    return f"Head {layer}.{head}: {what}{reach}{gone}"


def draw_top(report: Look, layer: int, head: int | None, query: int, carried: bool = False) -> None:
    """Where one token looks, as a table."""
    k = st.slider("How many", 1, 20, 5, key=f"{PAGE}_k", bind="query-params")
    found = attention.top(report, layer, head, k, carried)
    mine = found.filter(found["query"] == query)
    st.dataframe(
        mine.select("rank", "key", "text", "weight").rename({"key": "token"}),
        hide_index=True,
        alt=f"Where token {query} looks",
        column_config={"weight": PERCENT},
    )


def draw_grid(model: Shared, report: Look) -> None:
    """Every head, small, with its name."""
    sources = ("random tokens said twice", "this text")
    source = st.segmented_control(
        "Heads named by", sources, default=sources[0], required=True, key=f"{PAGE}_named", bind="query-params"
    )
    names = attention.label_heads_on(report) if source == sources[1] else names_of(model)
    L, H, T = report.shape
    words = [[_tag(names.row(layer * H + head, named=True)) for head in range(H)] for layer in range(L)]
    st.session_state[f"{PAGE}_heads"] = H
    attention_canvas.grid(
        report.weights,
        [attention.visible_keys(T, window) for window in report.windows],
        words,
        report.off,
        key=f"{PAGE}_grid",
        label="All heads; one opens as a matrix",
        on_pick=_head_picked,
    )
    with st.expander("The tests behind the names, and every score"):
        st.markdown("\n".join(f"- **{test}**: {meaning}" for test, meaning in attention.TESTS.items()))
        st.caption("1 is always. A head gets a name from 40 % of the way between chance and 1.")
        st.dataframe(names, hide_index=True, alt="Every head's scores")


def draw_lesson() -> None:
    """What there is to look for, drawn without a model."""
    st.markdown(
        "Row *i* is where token *i* looks, and its weights sum to 100 %. Nobody can look ahead, so the upper right is "
        "empty. These are the patterns that heads are named by, each in its purest form, on a text of nine words said "
        "twice:"
    )
    ids = [0, *range(1, 10), *range(1, 10)]
    weights = attention.textbook(ids)
    names = [[f"{test}: {meaning}" for test, meaning in attention.TESTS.items()]]
    seen = attention.visible_keys(len(ids), -1)
    attention_canvas.grid(
        weights, [seen], names, frozenset(), key=f"{PAGE}_lesson", label="Patterns to look for", places=False
    )
    st.markdown(
        "**Try next:** write a text that repeats itself and look for the induction stripe. Then switch that head off: "
        "does the model still know how the repetition goes on?"
    )


def _tag(row: dict) -> str:
    return f"{row['label']} {row['score']:.2f}" if row["label"] else "no name"


def draw_arcs(model: Shared, report: Look) -> None:
    """Where one token looks, as arcs."""
    from nanochat.charts import attention_visualizer as charts

    with st.container(horizontal=True, vertical_alignment="bottom"):
        layer, head = choose_head(report)
        query = choose_query(report)
    k = st.slider("How many", 1, 20, 8, key=f"{PAGE}_k_arcs")
    found = attention.top(report, layer, head, k)
    mine = found.filter(found["query"] == query)
    st.altair_chart(
        charts.arcs(mine, report.tokens["text"].to_list(), query), alt=f"Arcs from token {query}", height="content"
    )
    st.dataframe(mine, hide_index=True, alt=f"Where token {query} looks", column_config={"weight": PERCENT})


def draw_without(model: Shared, report: Look) -> None:
    """What changes without the heads that are switched off."""
    from nanochat.charts import attention_visualizer as charts

    if not report.off:
        st.info("Switch a head off above, and see the next token and the loss change. Then compare with other heads.")
        return
    with model.turn():
        effect = attention.without(model.loaded, report, report.off)
    for column, (name, (before, after), other) in zip(
        st.columns(2),
        (
            ("Loss on this text", effect.loss, effect.others[0]),
            ("Loss on repeats", effect.repeats, effect.others[1]),
        ),
        strict=True,
    ):
        if before is not None and after is not None:
            column.metric(name, f"{after:.4f}", f"{after - before + 0.0:+.4f}", delta_color="off")
            rest = "" if other is None else f" Without as many other heads: {other:.4f}."
            column.caption(f"Nats a token. With all heads: {before:.4f}.{rest}")
    st.markdown(f"The next token's distribution moved by **{effect.divergence:.4f} nats**.")
    st.altair_chart(charts.next_token(effect.next_token), alt="The next token with and without these heads")
    with st.expander("As a table, and the loss of each token"):
        st.dataframe(
            effect.next_token,
            hide_index=True,
            alt="The next token",
            column_config={"before": PERCENT, "after": PERCENT},
        )
        st.dataframe(effect.tokens, hide_index=True, alt="The loss of each token with and without these heads")


def draw_parts(model: Shared, report: Look) -> None:
    """How much of a head is position, how much content."""
    from nanochat.charts import attention_visualizer as charts

    with st.container(horizontal=True, vertical_alignment="bottom"):
        layer, head = choose_head(report)
    found = attention.parts(report, layer, head or 0)
    if head is None:
        st.caption("The scores of several heads have no common parts, so this is head 0.")
    for column, (name, share) in zip(st.columns(4), found.shares.items(), strict=True):
        column.metric(name.capitalize(), "–" if share is None else f"{round(share, 2) + 0.0:.0%}", help=_MEANINGS[name])
    st.altair_chart(charts.distances(found.by_distance), alt="Mean score at each distance", height="content")
    st.markdown(
        f"Position alone would give weights that share **{found.overlap['position']:.0%}** with the real ones, content "
        f"alone **{found.overlap['content']:.0%}**, and looking everywhere alike {found.overlap['alike']:.0%}."
    )
    texts, seen = report.tokens["text"].to_list(), attention.visible_keys(report.shape[2], report.windows[layer])
    for column, (name, weights) in zip(
        st.columns(2), (("position", found.from_position), ("content", found.from_content)), strict=True
    ):
        with column:
            st.markdown(f"**From {name} alone**")
            attention_canvas.matrix(weights, seen, texts, key=f"{PAGE}_from_{name}", label=f"Weights from {name} alone")


_MEANINGS = {
    "position": "The same for every text: it depends on the distance alone.",
    "key content": "What this key is, whoever asks.",
    "query content": "What this query is: its own taste in distances.",
    "match": "What this query and this key have to do with one another.",
}

VIEWS: dict[str, Callable[[Shared, Look], None]] = {
    "Matrix": draw_matrix,
    "All heads": draw_grid,
    "One token": draw_arcs,
    "Without heads": draw_without,
    "Position or content": draw_parts,
}
