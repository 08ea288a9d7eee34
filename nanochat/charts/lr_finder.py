"""Learning rates as charts: a run's schedule above its loss, and the curve of a range test with its suggestions.

nanochat lr_finder base_checkpoints/d20 --plot
"""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import polars as pl

from nanochat.charts import CATEGORIES, GREY

if TYPE_CHECKING:
    import altair as alt

BEST = CATEGORIES[5]


def run_chart(points: pl.DataFrame, rate_title: str, best: int | None) -> "alt.VConcatChart":
    """The learning rate over the steps, and the loss; a line and a dot mark the best step in both.

    points: columns step, rate, loss, any of them null.
    """
    import altair as alt

    upper = _line(points, "rate", rate_title, CATEGORIES[0], best).properties(title="Learning rate schedule")
    lower = _line(points, "loss", "training loss, nats a token", CATEGORIES[2], best).properties(title="Training loss")
    return alt.vconcat(upper.properties(width=680, height=180), lower.properties(width=680, height=220))


def rate_chart(points: pl.DataFrame, rate_title: str, best: int | None) -> "alt.LayerChart":
    """The upper half alone, as wide as its place."""
    return _line(points, "rate", rate_title, CATEGORIES[0], best).properties(height=200)


def loss_chart(points: pl.DataFrame, best: int | None) -> "alt.LayerChart":
    """The lower half alone, as wide as its place."""
    return _line(points, "loss", "training loss, nats a token", CATEGORIES[2], best).properties(height=240)


def _line(points: pl.DataFrame, column: str, title: str, color: str, best: int | None) -> "alt.LayerChart":
    import altair as alt

    known = points.filter(pl.col(column).is_not_null())
    x = alt.X("step:Q", title="updates", scale=alt.Scale(nice=False))
    y = alt.Y(f"{column}:Q", title=title, scale=alt.Scale(zero=column == "rate"))
    tips = [alt.Tooltip("step:Q", title="update", format=","), alt.Tooltip(f"{column}:Q", title=title, format=".4~g")]
    layers: list[Any] = [
        alt.Chart(known).mark_line(color=color, strokeWidth=2, point=known.height < 30).encode(x=x, y=y, tooltip=tips)
    ]
    if best is not None and known.height:
        near = known.with_columns(gap=(pl.col("step") - best).abs()).sort("gap").head(1)
        mark = alt.Chart(near.with_columns(words=pl.lit(f"best: step {best:,}")))
        layers += [
            mark.mark_rule(strokeDash=[6, 4], color=GREY).encode(x=x),
            mark.mark_point(filled=True, size=110, color=BEST, shape="diamond").encode(x=x, y=y, tooltip=tips),
            mark.mark_text(align="right", dx=-8, color=GREY, fontSize=12).encode(x=x, y=alt.value(10), text="words:N"),
        ]
    return alt.LayerChart(layer=layers)


def stacked(charts: "Iterable[alt.LayerChart]") -> "alt.VConcatChart":
    """Every curve of a range test, one below the other, for a file."""
    import altair as alt

    return alt.vconcat(*(chart.properties(width=680) for chart in charts))


def curve_chart(name: str, band: pl.DataFrame, rules: Mapping[str, float], chosen: float | None) -> "alt.LayerChart":
    """Loss over the factor on the rates: the mean of the seeds in their band, and a line where each rule points.

    name: the group that was swept, or "all". band: columns factor, mean, low, high. rules: name -> factor. chosen:
    the factor that is suggested, None where none is.
    """
    import altair as alt

    x = alt.X("factor:Q", title="factor on the learning rates", scale=alt.Scale(type="log", nice=False),
              axis=alt.Axis(format="~g", labelOverlap=True))  # fmt: skip
    scale = alt.Scale(zero=False)
    base = alt.Chart(band)
    tips = [
        alt.Tooltip("factor:Q", title="factor", format=".3~g"),
        alt.Tooltip("mean:Q", title="mean of the seeds", format=".4f"),
        alt.Tooltip("low:Q", title="lowest", format=".4f"),
        alt.Tooltip("high:Q", title="highest", format=".4f"),
    ]
    layers: list[Any] = [
        base.mark_area(opacity=0.25, color=CATEGORIES[0]).encode(
            x=x, y=alt.Y("low:Q", title="loss, nats a token, smoothed", scale=scale), y2="high:Q"
        ),
        base.mark_line(strokeWidth=2, color=CATEGORIES[0]).encode(x=x, y=alt.Y("mean:Q", scale=scale), tooltip=tips),
    ]
    if rules and chosen is not None:
        lines = pl.DataFrame({"factor": list(rules.values()), "rule": list(rules)})
        colors = alt.Scale(domain=list(rules), range=[CATEGORIES[index] for index in (1, 2, 3, 4)])
        kinds = alt.Scale(domain=list(rules), range=[[6, 3], [2, 2], [8, 3, 2, 3], [1, 3]])
        inside = lines.filter(pl.col("factor").is_between(band["factor"].min(), band["factor"].max()))
        layers.append(
            alt.Chart(inside)
            .mark_rule(strokeWidth=2)
            .encode(
                x=x,
                color=alt.Color("rule:N", title=None, scale=colors, legend=alt.Legend(orient="top")),
                strokeDash=alt.StrokeDash("rule:N", title=None, scale=kinds),
                tooltip=[alt.Tooltip("rule:N"), alt.Tooltip("factor:Q", format=".3~g")],
            )
        )
        mark = alt.Chart(pl.DataFrame({"factor": [chosen], "words": ["suggested"]}))
        layers += [
            mark.mark_rule(strokeWidth=3, color=BEST).encode(x=x),
            mark.mark_text(align="left", dx=6, color=BEST, fontSize=12, fontWeight="bold").encode(
                x=x, y=alt.value(10), text="words:N"
            ),
        ]
    title = "All groups" if name == "all" else f"Group {name}, while the others stand still"
    return alt.LayerChart(layer=layers).properties(title=title, height=300)


def trial_chart(steps: pl.DataFrame) -> "alt.Chart":
    """Loss of the short runs by step, a colour and a dash for each factor.

    steps: columns factor, seed, step, loss.
    """
    import altair as alt

    named = steps.with_columns(
        rate=pl.col("factor").map_elements(lambda factor: f"{factor:.3g}", pl.String),
        loss=pl.col("loss").ewm_mean(alpha=0.2, ignore_nulls=True).over("factor", "seed"),
    )
    order = [f"{factor:.3g}" for factor in sorted(steps["factor"].unique())]
    return (
        alt.Chart(named)
        .mark_line(strokeWidth=2)
        .encode(
            x=alt.X("step:Q", title="updates"),
            y=alt.Y("mean(loss):Q", title="loss, nats a token, smoothed", scale=alt.Scale(zero=False)),
            color=alt.Color("rate:N", title="factor", sort=order, legend=alt.Legend(orient="top")),
            strokeDash=alt.StrokeDash("rate:N", title="factor", sort=order),
        )
        .properties(height=240)
    )
