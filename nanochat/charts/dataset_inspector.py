"""How long conversations are, as bars that can be clicked, and what each sequence length costs, as lines.

nanochat dataset_inspector chats.jsonl --plot lengths.png
"""

from typing import TYPE_CHECKING

from nanochat.charts import CATEGORIES

if TYPE_CHECKING:
    import altair as alt
    import polars as pl

PICKED, KIND = "bar", "bar_kind"  # the names of the selections that a click makes


def length_chart(bins: "pl.DataFrame", unit: str, clickable: bool = False) -> "alt.Chart":
    """A histogram of lengths. bins: low, high, count. unit: what is counted, "tokens" or "characters"."""
    import altair as alt
    import polars as pl

    last = pl.col("low") == pl.col("low").max()
    data = bins.with_columns(
        bar=pl.when(last & (pl.len() > 1)).then(pl.format("{}+", "low")).otherwise(pl.format("{}", "low"))
    )
    chart = (
        alt.Chart(data)
        .mark_bar(color=CATEGORIES[0])
        .encode(
            x=alt.X(
                "bar:O",
                sort=None,
                title=f"{unit} of a conversation, from",
                axis=alt.Axis(labelOverlap="greedy", labelAngle=0),
                scale=alt.Scale(paddingInner=0.06),
            ),
            y=alt.Y("count:Q", title="conversations", axis=alt.Axis(tickMinStep=1, format=",d")),
            tooltip=[
                alt.Tooltip("low:Q", title="from", format=","),
                alt.Tooltip("high:Q", title="to below", format=","),
                alt.Tooltip("count:Q", title="conversations", format=","),
            ],
        )
    )
    if not clickable:
        return chart
    picked = alt.selection_point(name=PICKED, fields=["low", "high"])
    return chart.encode(opacity=alt.condition(picked, alt.value(1.0), alt.value(0.35))).add_params(picked)


def choices_chart(choices: "pl.DataFrame", recommended: int) -> "alt.LayerChart":
    """What each sequence length cuts off and leaves empty. choices: length, lost_share, filled."""
    import altair as alt
    import polars as pl

    legend = alt.Legend(symbolType="stroke", symbolSize=400)  # a piece of the line, whose dashes can be seen
    names = {"lost_share": "cut off, of what the model learns from", "waste": "left empty, when packed"}
    data = (
        choices.with_columns(waste=1 - pl.col("filled"))
        .unpivot(on=list(names), index="length", variable_name="what", value_name="share")
        .with_columns(pl.col("what").replace(names))
    )
    lines = (
        alt.Chart(data)
        .mark_line(point=True)
        .encode(
            x=alt.X("length:O", title="sequence length, tokens", axis=alt.Axis(labelAngle=0)),
            y=alt.Y("share:Q", title="share", axis=alt.Axis(format="%")),
            color=alt.Color("what:N", title=None, legend=legend, scale=alt.Scale(range=list(CATEGORIES[:2]))),
            strokeDash=alt.StrokeDash("what:N", title=None, legend=legend),
            tooltip=["length", "what", alt.Tooltip("share:Q", format=".2%")],
        )
        .properties(height=280)
    )
    rule = (
        alt.Chart(pl.DataFrame({"length": [recommended]}))
        .mark_rule(strokeDash=[4, 4], color="#8A949E")
        .encode(x="length:O")
    )
    return alt.layer(lines, rule).configure_legend(orient="top", labelLimit=300)


def kinds_chart(kinds: "pl.DataFrame", clickable: bool = False) -> "alt.Chart":
    """Lines with each kind of issue. kinds: kind, severity, lines."""
    import altair as alt

    colors = alt.Scale(domain=["error", "warning"], range=[CATEGORIES[5], CATEGORIES[4]])
    chart = (
        alt.Chart(kinds)
        .mark_bar()
        .encode(
            y=alt.Y("kind:N", sort="-x", title=None, axis=alt.Axis(labelLimit=180)),
            x=alt.X("lines:Q", title="lines", axis=alt.Axis(tickMinStep=1, format=",d")),
            color=alt.Color("severity:N", title=None, scale=colors, legend=alt.Legend(orient="top")),
            tooltip=["kind", "severity", "lines", "meaning", "remedy"],
        )
    )
    if not clickable:
        return chart
    picked = alt.selection_point(name=KIND, fields=["kind"])
    return chart.encode(opacity=alt.condition(picked, alt.value(1.0), alt.value(0.35))).add_params(picked)
