"""The generation explorer's charts: surprise over a text, a step's candidates, settings against figures, the lens."""

from typing import TYPE_CHECKING, Any

from nanochat.charts import CATEGORIES, POINTS
from nanochat.checkpoint_files import shown

if TYPE_CHECKING:
    import altair as alt
    import polars as pl

STAGES = {"p_model": "model alone", "p_heated": "after temperature", "p": "after the filters"}
FIGURES = {
    "accepted": "stories that the grammar accepts", "distinct_2": "distinct-2", "distinct_1": "distinct-1",
    "distinct_3": "distinct-3", "repetition": "repetition",
}  # fmt: skip
TITLES = {"temperature": "temperature", "top_k": "top-k", "top_p": "top-p", "min_p": "min-p"}


def ribbon(steps: "pl.DataFrame", selected: int | None = None) -> "alt.LayerChart":
    """Entropy as a ribbon and surprise as bars over a text's steps; `selected`, from 1, is marked."""
    import altair as alt
    import polars as pl

    columns = ("step", "text", "entropy", "surprise", "p_model", "rank")
    data = steps.select(columns).tail(POINTS)
    bottom = pl.DataFrame({"step": [selected or 0]})
    x = alt.X("step:Q", title="step", scale=alt.Scale(nice=False, padding=6), axis=alt.Axis(tickMinStep=1, format="d"))
    tips: list[Any] = [*columns[:2], *(alt.Tooltip(f"{name}:Q", format=".3f") for name in columns[2:5]), "rank"]
    named = alt.Scale(domain=["entropy", "surprise"], range=[CATEGORIES[4], CATEGORIES[1]])
    area = (
        alt.Chart(data)
        .transform_calculate(what="'entropy'")
        .mark_area(opacity=0.55, interpolate="step")
        .encode(
            x=x, y=alt.Y("entropy:Q", title="bits"), color=alt.Color("what:N", scale=named, title=None), tooltip=tips
        )
    )
    bars = (
        alt.Chart(data)
        .transform_calculate(what="'surprise'")
        .mark_bar(size=3)
        .encode(x=x, y="surprise:Q", color=alt.Color("what:N", scale=named, title=None), tooltip=tips)
    )
    here = alt.Chart(bottom).mark_rule(color=CATEGORIES[3], strokeWidth=2).encode(x="step:Q")
    return alt.LayerChart(layer=[area, bars, here] if selected else [area, bars])


def candidates(frame: "pl.DataFrame") -> "alt.LayerChart":
    """A step's candidates: alone, after temperature, after the filters; what is cut is pale, the line is the cut."""
    import altair as alt
    import polars as pl

    named = frame.with_columns(
        (pl.col("rank").cast(pl.String) + ". " + pl.col("text")).alias("token"),
        (pl.col("cut").is_not_null()).alias("dropped"),
    )
    index = ["token", "dropped", "cut"]
    data = named.unpivot(list(STAGES), index=index, variable_name="stage", value_name="share")
    data = data.with_columns(data["stage"].replace_strict(STAGES))
    order, stages = named["token"].to_list(), list(STAGES.values())
    tips: list[Any] = ["token", alt.Tooltip("share:Q", format=".4%"), "stage", "cut"]
    colours = alt.Scale(domain=stages, range=[CATEGORIES[4], CATEGORIES[1], CATEGORIES[0]])
    bars = (
        alt.Chart(data)
        .mark_bar()
        .encode(
            y=alt.Y("token:N", sort=order, title=None, axis=alt.Axis(labelLimit=110)),
            yOffset=alt.YOffset("stage:N", sort=stages),
            x=alt.X("share:Q", title=None, axis=alt.Axis(format="%", tickCount=5)),
            color=alt.Color("stage:N", scale=colours, title=None, legend=alt.Legend(orient="top", columns=2)),
            opacity=alt.condition("datum.dropped", alt.value(0.35), alt.value(1)),
            tooltip=tips,
        )
    )
    kept = named.filter(~pl.col("dropped"))
    if kept.height == named.height or not kept.height:
        return alt.LayerChart(layer=[bars])
    line = (
        alt.Chart(kept.tail(1).select("token"))
        .mark_rule(color=CATEGORIES[5], strokeWidth=2, strokeDash=[6, 3])
        .encode(y=alt.Y("token:N", sort=order, bandPosition=1))
    )
    return alt.LayerChart(layer=[bars, line])


def comparison(frame: "pl.DataFrame", name: str) -> "alt.Chart":
    """How much each value's text shares with the one it is compared with; all of it where they never part."""
    import altair as alt
    import polars as pl

    data = frame.with_columns(
        (pl.col("diverges").fill_null(pl.col("tokens") + 1) - 1).alias("shared"),
        pl.col("value").cast(pl.String),
        pl.Series("text", [shown(text, 120) for text in frame["text"]]),  # an SVG takes no control characters
    )
    return (
        alt.Chart(data)
        .mark_bar(color=CATEGORIES[0])
        .encode(
            y=alt.Y("value:N", sort=None, title=TITLES[name]),
            x=alt.X("shared:Q", title="tokens said before the texts part", axis=alt.Axis(tickMinStep=1, format="d")),
            tooltip=["value", "shared", "tokens", "text"],
        )
    )


def statistics(frame: "pl.DataFrame", name: str = "temperature") -> "alt.Chart":
    """Figures of many texts against the setting: one line each, those that were measured."""
    import altair as alt

    there = [column for column in FIGURES if frame[column].is_not_null().any()]
    data = frame.unpivot(there, index="value", variable_name="figure", value_name="share").drop_nulls("share")
    data = data.with_columns(data["figure"].replace_strict(FIGURES))
    words = [FIGURES[column] for column in there]
    return (
        alt.Chart(data)
        .mark_line(point=True, strokeWidth=2)
        .encode(
            x=alt.X("value:Q", title=TITLES[name]),
            y=alt.Y("share:Q", title="share", axis=alt.Axis(format="%"), scale=alt.Scale(domain=[0, 1])),
            color=alt.Color(
                "figure:N", sort=words, title=None, legend=alt.Legend(orient="top", columns=3, labelLimit=260)
            ),
            strokeDash=alt.StrokeDash("figure:N", sort=words, legend=None),
            tooltip=["figure", "value", alt.Tooltip("share:Q", format=".3f")],
        )
    )


def lens(frame: "pl.DataFrame") -> "alt.LayerChart":
    """Each layer's likeliest token with its share, and the share of the token that was taken."""
    import altair as alt
    import polars as pl

    data = frame.filter(pl.col("place") == 1).with_columns((pl.lit('"') + pl.col("text") + '"').alias("said"))
    y = alt.Y("name:N", sort=data["name"].to_list(), title=None)
    tips: list[Any] = [
        "name",
        "said",
        alt.Tooltip("p:Q", format=".4f"),
        alt.Tooltip("p_taken:Q", format=".4f"),
        "rank_taken",
    ]
    x = alt.Scale(domain=[0, 1.25], nice=False)
    axis = alt.Axis(format="%", values=[0, 0.25, 0.5, 0.75, 1])
    base = alt.Chart(data).encode(y=y, tooltip=tips)
    bars = base.mark_bar(color=CATEGORIES[4]).encode(
        x=alt.X("p:Q", scale=x, axis=axis, title="share of the likeliest token; the tick is the token that was taken")
    )
    ticks = base.mark_tick(color=CATEGORIES[5], thickness=3).encode(x="p_taken:Q")
    words = base.mark_text(align="left", dx=5, color="#7A848D").encode(x="p:Q", text="said:N")
    return alt.LayerChart(layer=[bars, ticks, words])
