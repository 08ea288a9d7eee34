"""Charts of a model's size: where its parameters are, and what a device holds while it trains."""

from typing import TYPE_CHECKING

import polars as pl

from nanochat.charts import CATEGORIES, GREY

if TYPE_CHECKING:
    import altair as alt


def parts_chart(parts: pl.DataFrame) -> "alt.Chart":
    """A bar for each part. parts: columns part, kind, parameters."""
    import altair as alt

    kinds = ["embedding", "attention", "mlp", "norm", "head", "scalar"]
    return (
        alt.Chart(parts)
        .mark_bar()
        .encode(
            x=alt.X("parameters:Q", title="parameters", axis=alt.Axis(format="~s")),
            y=alt.Y(
                "part:N", title=None, sort=parts["part"].to_list(), axis=alt.Axis(labelLimit=180, labelOverlap=False)
            ),
            color=alt.Color(
                "kind:N",
                title=None,
                scale=alt.Scale(domain=kinds, range=list(CATEGORIES[: len(kinds)])),
                legend=alt.Legend(orient="top", columns=3),
            ),
            tooltip=["part:N", alt.Tooltip("parameters:Q", format=","), alt.Tooltip("share:Q", format=".1%")],
        )
        .properties(height=alt.Step(24))
    )


def memory_chart(items: pl.DataFrame, limit: float | None = None) -> "alt.LayerChart":
    """One stacked bar for each way of cutting, and the device's memory as a line.

    items: columns stage, item, gigabytes. limit: GB that a device has.
    """
    import altair as alt

    order = items["item"].unique(maintain_order=True).to_list()
    bars = (
        alt.Chart(items)
        .mark_bar()
        .encode(
            x=alt.X("gigabytes:Q", title="GB on each GPU"),
            y=alt.Y("stage:N", title=None, sort=items["stage"].unique(maintain_order=True).to_list()),
            color=alt.Color(
                "item:N",
                title=None,
                scale=alt.Scale(domain=order, range=list(CATEGORIES[: len(order)])),
                legend=alt.Legend(orient="top", columns=3),
            ),
            tooltip=["stage:N", "item:N", alt.Tooltip("gigabytes:Q", title="GB", format=",.2f")],
        )
    )
    if limit is None:
        return alt.LayerChart(layer=[bars])
    rule = alt.Chart(pl.DataFrame({"x": [limit], "words": [f"{limit:g} GB: all that it has"]}))
    return alt.LayerChart(
        layer=[
            bars,
            rule.mark_rule(strokeDash=[6, 4], color=GREY).encode(x="x:Q"),
            rule.mark_text(align="left", dx=6, dy=-6, color=GREY).encode(x="x:Q", y=alt.value(0), text="words:N"),
        ]
    )
