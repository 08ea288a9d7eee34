"""The curve of a training that runs: the loss, what a model that knows nothing has, and what no model gets below."""

from typing import TYPE_CHECKING, Any

import polars as pl

from nanochat.charts import CATEGORIES, rules

if TYPE_CHECKING:
    import altair as alt

STAGES = {"base": "pretraining", "sft": "fine-tuning"}


def loss_curve(curve: pl.DataFrame, uniform: float | None, floor: float | None) -> "alt.LayerChart":
    """Loss in nats a token over seconds, by stage.

    curve: columns stage, time, loss, smooth (analysis/train.py). uniform: ln V. floor: nats a token.
    """
    import altair as alt

    named = curve.with_columns(stage=pl.col("stage").replace(STAGES))
    colors = {STAGES.get(stage, stage): CATEGORIES[number] for number, stage in enumerate(STAGES)}
    there = [name for name in colors if name in named["stage"]]
    color = alt.Color(
        "stage:N", title=None, scale=alt.Scale(domain=there, range=[colors[name] for name in there]),
        legend=alt.Legend(orient="top", symbolOpacity=1, symbolStrokeWidth=2),
    )  # fmt: skip
    x = alt.X("time:Q", title="seconds")
    top = max(filter(None, [uniform, curve["loss"].max()]), default=1.0)  # type: ignore[type-var]
    scale = alt.Scale(domain=[0, float(top) * 1.05])  # type: ignore[arg-type]
    base = alt.Chart(named)
    layers: list[Any] = [
        base.mark_line(opacity=0.55, strokeWidth=1, clip=True).encode(
            x=x, y=alt.Y("loss:Q", title="loss, nats a token", scale=scale), color=color
        ),
        # A single record is no line, so it is a point.
        base.mark_line(strokeWidth=2, clip=True, point=len(curve) < 3).encode(
            x=x,
            y=alt.Y("smooth:Q", scale=scale),
            color=color,
            tooltip=[
                alt.Tooltip("step:Q", title="update", format=","),
                alt.Tooltip("time:Q", title="seconds", format=".1f"),
                alt.Tooltip("smooth:Q", title="loss, smoothed", format=".3f"),
                alt.Tooltip("speed:Q", title="tokens a second", format=",.0f"),
            ],
        ),
    ]
    known = ((uniform, "knows nothing: ln V"), (floor, "in pretraining no model gets below this"))
    lines = [(f"{words} = {value:.2f}", value) for value, words in known if value is not None]
    layers += rules(lines, 0.0, float(top) * 1.05, scale)  # type: ignore[arg-type]
    return alt.LayerChart(layer=layers).properties(height=320)


def bpb_curve(curve: pl.DataFrame, floor: float | None) -> "alt.LayerChart":
    """Bits a byte on text that the model was not trained on, at each evaluation. curve: columns time, step, bpb."""
    import altair as alt

    scale = alt.Scale(zero=True)
    line = (
        alt.Chart(curve.filter(pl.col("bpb").is_not_null()))
        .mark_line(point=True, color=CATEGORIES[2])
        .encode(
            x=alt.X("time:Q", title="seconds"),
            y=alt.Y("bpb:Q", title="bits a byte, new text", scale=scale),
            tooltip=[alt.Tooltip("step:Q", title="update", format=","), alt.Tooltip("bpb:Q", format=".4f")],
        )
    )
    highest = float(curve["bpb"].max() or 1.0)  # type: ignore[arg-type]
    floors = [] if floor is None else [(f"no model gets below this = {floor:.3f}", floor)]
    return alt.LayerChart(layer=[line, *rules(floors, 0.0, highest, scale)]).properties(height=200)
