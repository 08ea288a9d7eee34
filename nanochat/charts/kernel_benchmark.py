"""Bars of a kernel benchmark, and the roofline: what the machine's memory and arithmetic would allow."""

from typing import TYPE_CHECKING

import polars as pl

from nanochat.charts import CATEGORIES, GREY

if TYPE_CHECKING:
    import altair as alt

ROLES = {"ours": CATEGORIES[0], "fallback": CATEGORIES[4], "peer": CATEGORIES[1], "reference": CATEGORIES[3]}


def _color() -> "alt.Color":
    import altair as alt

    return alt.Color(
        "role:N", title=None, scale=alt.Scale(domain=list(ROLES), range=list(ROLES.values())),
        legend=alt.Legend(orient="top"),
    )  # fmt: skip


def bars(table: pl.DataFrame) -> "alt.LayerChart":
    """One case: the median time of each contestant with its quartiles, the fastest on top.

    table: columns implementation, role, microseconds, low, high, over_reference (analysis/kernel_benchmark.py).
    """
    import altair as alt

    y = alt.Y("implementation:N", title=None, sort=alt.EncodingSortField("microseconds", order="ascending"))
    base = alt.Chart(table)
    bar = base.mark_bar(height={"band": 0.7}).encode(
        x=alt.X("microseconds:Q", title="microseconds, median of the rounds"),
        y=y,
        color=_color(),
        tooltip=[
            alt.Tooltip("implementation:N"),
            alt.Tooltip("microseconds:Q", format=",.1f"),
            alt.Tooltip("low:Q", title="quartile below", format=",.1f"),
            alt.Tooltip("high:Q", title="quartile above", format=",.1f"),
            alt.Tooltip("over_reference:Q", title="times as fast as the reference", format=".2f"),
        ],
    )
    spread = base.mark_rule(strokeWidth=2, color=GREY).encode(x="low:Q", x2="high:Q", y=y)
    return alt.LayerChart(layer=[bar, spread]).properties(height=max(80, 34 * len(table)))


def roofline(points: pl.DataFrame, roof: pl.DataFrame) -> "alt.LayerChart":
    """Each contestant below what the measured memory speed and matrix products allow; both axes logarithmic.

    points: columns case, implementation, role, intensity (FLOPs a byte), tflops, limit. roof: device, dtype, intensity,
    tflops.
    """
    import altair as alt

    scale = alt.Scale(type="log")
    x = alt.X("intensity:Q", title="arithmetic intensity, FLOPs a byte", scale=scale)
    y = alt.Y("tflops:Q", title="TFLOP/s", scale=scale)
    line = alt.Chart(roof).mark_line(color=GREY, strokeDash=[6, 4]).encode(x=x, y=y, detail=["device:N", "dtype:N"])
    dots = (
        alt.Chart(points)
        .mark_point(filled=True, size=90, opacity=0.9)
        .encode(
            x=x,
            y=y,
            color=_color(),
            shape=alt.Shape("role:N", title=None, scale=alt.Scale(domain=list(ROLES)), legend=None),
            tooltip=["implementation:N", "case:N", alt.Tooltip("tflops:Q", format=".4g"),
                     alt.Tooltip("limit:Q", title="the roof here", format=".4g")],
        )
    )  # fmt: skip
    return alt.LayerChart(layer=[line, dots]).properties(height=320)
