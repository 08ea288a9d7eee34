"""The attention visualizer's charts: a matrix as a heatmap, one token's arcs, a head's distances, its effect."""

from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from nanochat.charts import CATEGORIES, SEQUENTIAL

if TYPE_CHECKING:
    import altair as alt

SIDE = 64  # rows and columns of a heatmap; more tokens share one
NAMED = 48  # tokens up to which every row has its name
ARC_POINTS = 16
_SCHEME: Any = SEQUENTIAL  # a str to us, one of a list of names to altair
BETWEEN = "#7A848D"  # text that can be read on a light and on a dark background


def heatmap(weights: np.ndarray, texts: list[str], seen: np.ndarray, title: str) -> "alt.Chart":
    """Rows are the tokens that look, columns those they look at; what a token cannot see stays empty.

    weights, seen: (T, T). Above 64 tokens a square is the largest weight of a block of tokens.
    """
    import altair as alt

    T = len(texts)
    block = -(-T // SIDE)
    rows, columns = np.nonzero(seen)
    cells = (
        pl.DataFrame({"row": rows // block, "column": columns // block, "weight": weights[seen].astype(float)})
        .group_by("row", "column")
        .max()
        .sort("row", "column")
    )
    names = [f"{i}: {_short(texts[i])}" if block == 1 else str(i) for i in range(0, T, block)]
    labels = pl.Series(names, dtype=pl.String)
    cells = cells.with_columns(labels.gather(cells["row"]).alias("from"), labels.gather(cells["column"]).alias("to"))
    side = min(max(16 * len(names), 160), 760)
    thin = block > 1 or len(names) > NAMED  # not every row has room for its name
    return (
        alt.Chart(cells, title=title)
        .mark_rect()
        .encode(
            x=alt.X(
                "to:N",
                sort=names,
                title="attended tokens (keys)",
                axis=alt.Axis(labelAngle=-60, labelLimit=110, labelOverlap=thin),
            ),
            y=alt.Y(
                "from:N",
                sort=names,
                title="attending tokens (queries)",
                axis=alt.Axis(labelLimit=110, labelOverlap=thin),
            ),
            color=alt.Color("weight:Q", title="weight", scale=alt.Scale(domain=[0, 1], scheme=_SCHEME)),
            tooltip=["from", "to", alt.Tooltip("weight:Q", format=".2%")],
        )
        .properties(width=side, height=side)
    )


def arcs(found: pl.DataFrame, texts: list[str], query: int) -> "alt.LayerChart":
    """What one token attends to, as arcs over the text; thicker is more.

    found: the query's rows of `top` (key, weight). texts: of all tokens.
    """
    import altair as alt

    angle = np.linspace(0, np.pi, ARC_POINTS)
    lines = []
    for key, weight in found.select("key", "weight").iter_rows():
        middle, radius = (query + key) / 2, (query - key) / 2
        x, y = middle + radius * np.cos(angle), np.sin(angle) * max(radius, 0.4) ** 0.7
        lines.append(pl.DataFrame({"key": key, "weight": weight, "x": x, "y": y, "point": range(ARC_POINTS)}))
    curves = pl.concat(lines).with_columns(pl.Series("text", texts).gather(pl.concat(lines)["key"]).alias("text"))
    first = max(int(found["key"].min() or 0) - 1, 0)  # type: ignore[arg-type]
    scale = alt.Scale(domain=[first - 0.5, query + 0.5], nice=False)
    drawn = (
        alt.Chart(curves)
        .mark_line(interpolate="basis", color=CATEGORIES[0])
        .encode(
            x=alt.X("x:Q", scale=scale, axis=None),
            y=alt.Y("y:Q", axis=None),
            detail="key:N",
            order="point:O",
            strokeWidth=alt.StrokeWidth("weight:Q", scale=alt.Scale(domain=[0, 1], range=[1, 10]), legend=None),
            opacity=alt.Opacity("weight:Q", scale=alt.Scale(domain=[0, 0.5], range=[0.35, 1], clamp=True), legend=None),
            tooltip=["key", "text", alt.Tooltip("weight:Q", format=".2%")],
        )
    )
    named = sorted({query, *found["key"].to_list(), *(range(first, query) if query - first < NAMED else [])})
    words = pl.DataFrame({"x": named, "text": [_short(texts[i]) for i in named], "y": [0.0] * len(named)})
    looks = alt.condition(alt.datum.x == query, alt.value(CATEGORIES[5]), alt.value(BETWEEN))
    labels = (
        alt.Chart(words)
        .mark_text(angle=300, align="right", baseline="middle", dy=6, fontSize=12)
        .encode(x=alt.X("x:Q", scale=scale, axis=None), y="y:Q", text="text:N", color=looks)
    )
    return alt.LayerChart(layer=[drawn, labels]).properties(height=260, padding={"bottom": 70, "left": 30})


def next_token(frame: pl.DataFrame) -> "alt.Chart":
    """The likeliest next tokens with and without some heads. frame: text, before, after."""
    import altair as alt

    long = frame.rename({"before": "all heads", "after": "without them"}).unpivot(
        on=["all heads", "without them"], index=["id", "text"], variable_name="model", value_name="probability"
    )
    return (
        alt.Chart(long)
        .mark_bar()
        .encode(
            y=alt.Y("text:N", sort=frame["text"].to_list(), title="next token", axis=alt.Axis(labelLimit=140)),
            yOffset=alt.YOffset("model:N", sort=["all heads", "without them"]),
            x=alt.X("probability:Q", title="probability", axis=alt.Axis(format="%")),
            color=alt.Color(
                "model:N", title=None, sort=["all heads", "without them"], scale=alt.Scale(range=CATEGORIES[:2])
            ),
            tooltip=["text", "model", alt.Tooltip("probability:Q", format=".3%")],
        )
        .properties(height=alt.Step(12))
    )


def distances(frame: pl.DataFrame) -> "alt.Chart":
    """The mean score at each distance: all of it, and the part that is position alone."""
    import altair as alt

    names = {"score": "whole score", "position": "position alone"}
    long = frame.rename(names).unpivot(
        on=list(names.values()), index="distance", variable_name="part", value_name="mean"
    )
    return (
        alt.Chart(long)
        .mark_line(point=len(frame) <= SIDE)
        .encode(
            x=alt.X("distance:Q", title="how many tokens back"),
            y=alt.Y("mean:Q", title="mean score before the softmax"),
            color=alt.Color(
                "part:N",
                title=None,
                sort=list(names.values()),
                scale=alt.Scale(range=CATEGORIES[:2]),
                legend=alt.Legend(orient="top"),
            ),
            strokeDash=alt.StrokeDash("part:N", title=None, sort=list(names.values())),  # in the legend, too
            tooltip=["distance", "part", alt.Tooltip("mean:Q", format=".3f")],
        )
        .properties(height=260)
    )


def _short(text: str) -> str:
    return text if len(text) <= 14 else f"{text[:13]}…"
