"""Curves of trainings: a metric over one of four axes with its extremes, the lines to compare it with, what happened.

nanochat training_dashboard base_checkpoints/d20 --plot
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import polars as pl

from nanochat.charts import CATEGORIES, GREY, rules

if TYPE_CHECKING:
    import altair as alt

BRUSH = "part"  # the name of the selection that a brush makes
# Kind of a mark -> its shape: colour alone tells nothing.
SHAPES = {
    "warmup_end": "triangle-up", "warmdown_start": "triangle-down", "best": "diamond", "spike": "cross",
    "plateau": "square", "divergence": "triangle-right", "slow": "triangle-left", "resumed": "circle",
}  # fmt: skip


def curve_chart(
    points: pl.DataFrame,
    x_title: str,
    y_title: str,
    *,
    log_x: bool = False,
    log_y: bool = False,
    lines: Sequence[tuple[str, float]] = (),
    marks: pl.DataFrame | None = None,
    height: int = 340,
    top: float | None = None,
) -> "alt.LayerChart":
    """A band from the lowest to the highest value and a line of the smoothed one, a colour and a dash for each run.

    points: run, x, low, high, value, step. lines: (words, value) across the chart. marks: run, x, y, kind, title,
    sentence. top: where the axis ends, so that a single spike does not flatten the rest; spikes are cut off there.
    """
    import altair as alt

    runs = points["run"].unique(maintain_order=True).to_list()
    low, high = _range(points, lines, log_y, top)
    x_scale = alt.Scale(type="log", nice=False) if log_x else alt.Scale(zero=False, nice=False)
    # The axis ends where the data do, and `ends` is data: another part of a curve has the same specification.
    y_scale = alt.Scale(type="log" if log_y else "linear", zero=False, nice=False)
    ends = alt.Chart(pl.DataFrame({"y": [low, high]})).mark_point(size=0, opacity=0)
    x = alt.X("x:Q", title=x_title, scale=x_scale, axis=alt.Axis(format="~s", grid=True))
    y = alt.Y("low:Q", title=y_title, scale=y_scale, axis=alt.Axis(grid=True))
    color = _color(runs)
    dash = alt.StrokeDash("run:N", title=None, legend=None, sort=runs)
    tooltip = [
        alt.Tooltip("run:N", title="run"),
        alt.Tooltip("step:Q", title="update", format=","),
        alt.Tooltip("value:Q", title="smoothed", format=".4~g"),
        alt.Tooltip("lowest:Q", title="lowest here", format=".4~g"),
        alt.Tooltip("highest:Q", title="highest here", format=".4~g"),
    ]
    data = points.filter(pl.col("low") > 0) if log_y else points
    few = data.height <= 60 * max(len(runs), 1)
    every = data.select((pl.col("low") == pl.col("high")).all()).item()  # each point is one step
    base = alt.Chart(
        data.with_columns(pl.col("low", "high", "value").clip(low, high), lowest=pl.col("low"), highest=pl.col("high"))
    )
    layers: list[Any] = [
        base.mark_line(opacity=0.5, strokeWidth=1).encode(x=x, y=y, color=color)
        if every
        else base.mark_area(opacity=0.3).encode(x=x, y=y, y2="high:Q", color=color),
        base.mark_line(strokeWidth=2, point=few).encode(
            x=x, y=alt.Y("value:Q", scale=y_scale), color=color, strokeDash=dash, tooltip=tooltip
        ),
        ends.encode(y=alt.Y("y:Q", scale=y_scale)),
        *rules([(words, value) for words, value in lines if low <= value <= high], low, high, y_scale),
    ]
    if marks is not None:
        inside = marks.with_columns(pl.col("y").clip(low, high))
        shape = alt.Shape("kind:N", legend=None, scale=alt.Scale(domain=list(SHAPES), range=list(SHAPES.values())))
        layers.append(
            alt.Chart(inside)
            .mark_point(size=110, filled=True, color=CATEGORIES[5], opacity=0.9)
            .encode(
                x=alt.X("x:Q", scale=x_scale),
                y=alt.Y("y:Q", scale=y_scale),
                shape=shape,
                tooltip=[alt.Tooltip("title:N", title="what"), alt.Tooltip("sentence:N", title="means")],
            )
        )
    return alt.LayerChart(layer=layers).properties(height=height)


def overview_chart(points: pl.DataFrame, log_x: bool = False) -> "alt.Chart":
    """A small curve of the whole run; dragging over it selects a part of the axis."""
    import altair as alt

    scale = alt.Scale(type="log", nice=False) if log_x else alt.Scale(zero=False, nice=False)
    brush = alt.selection_interval(name=BRUSH, encodings=["x"])
    return (
        alt.Chart(points)
        .mark_line(strokeWidth=1, color=GREY, clip=True)
        .encode(
            x=alt.X("x:Q", title=None, scale=scale, axis=alt.Axis(format="~s", grid=False)),
            y=alt.Y("value:Q", title=None, axis=None, scale=alt.Scale(zero=False)),
            detail="run:N",
        )
        .properties(height=110)
        .add_params(brush)
    )


def plot(
    losses: pl.DataFrame, bits: pl.DataFrame, rates: pl.DataFrame, x_title: str, rate_title: str,
    lines: Sequence[tuple[str, float]] = (), log_x: bool = False, log_y: bool = False,
) -> "alt.VConcatChart":  # fmt: skip
    """Two charts for a file: loss with bits a byte, each with its axis, and the learning rate below.

    losses, bits and rates: as `curve_chart`'s points.
    """
    import altair as alt

    upper: Any = curve_chart(losses, x_title, "training loss, nats a token", lines=lines, log_x=log_x, log_y=log_y)
    if len(bits):
        scale = alt.Scale(type="log" if log_x else "linear", nice=False, zero=False)
        evaluated = (
            alt.Chart(bits)
            .mark_line(point=alt.OverlayMarkDef(shape="diamond", size=70), strokeDash=[2, 2])
            .encode(
                x=alt.X("x:Q", scale=scale),
                y=alt.Y("value:Q", title="validation, bits a byte (dotted)", scale=alt.Scale(zero=False)),
                color=_color(losses["run"].unique(maintain_order=True).to_list()),
            )
        )
        upper = alt.layer(upper, evaluated).resolve_scale(y="independent")
    upper = upper.properties(title="Training and validation loss", width=720, height=340)
    if not len(rates):
        return alt.vconcat(upper)
    lower: Any = curve_chart(rates, x_title, rate_title, log_x=log_x)
    return alt.vconcat(upper, lower.properties(title="Learning rate schedule", width=720, height=200))


def _color(runs: Sequence[str]) -> Any:
    """A colour for each run, with a legend where there are several."""
    import altair as alt

    legend = alt.Legend(orient="top", labelLimit=300, symbolOpacity=1) if len(runs) > 1 else None
    colors = [CATEGORIES[index % len(CATEGORIES)] for index in range(len(runs))]
    return alt.Color("run:N", title=None, legend=legend, sort=list(runs), scale=alt.Scale(domain=runs, range=colors))


def _range(
    points: pl.DataFrame, lines: Sequence[tuple[str, float]], log_y: bool, top: float | None
) -> tuple[float, float]:
    """Where the axis begins and ends: all values and the lines near them, with a little room."""
    data = points.filter(pl.col("low") > 0) if log_y else points
    if data.is_empty():
        return (0.1, 1.0) if log_y else (0.0, 1.0)
    low, high = float(data["low"].min()), float(data["high"].max())  # type: ignore[arg-type]
    if top is not None:
        high = min(high, max(top, low))
    for _, value in lines:
        if value > 0 and low - 2 * (high - low) <= value <= high + (high - low):
            low, high = min(low, value), max(high, value)
    if log_y:
        return low / 1.05, high * 1.05
    room = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    return (0.0 if low >= 0 and low - room < 0 else low - room), high + room
