"""The original curve of a run and what a resumed copy of it gave, laid over each other.

nanochat training_resume_helper base_checkpoints/d20 --prove --plot
"""

from typing import TYPE_CHECKING

import polars as pl

from nanochat.charts import CATEGORIES

if TYPE_CHECKING:
    import altair as alt

BEFORE = 60  # steps of the original before the checkpoint, for the eye


def overlay(before: pl.DataFrame, pairs: pl.DataFrame) -> "alt.Chart":
    """Both curves. before: step, loss up to the checkpoint. pairs: step, original, resumed."""
    import altair as alt

    names = {"original": "the run itself", "resumed": "resumed in a scratch folder"}
    earlier = before.tail(BEFORE).select("step", pl.lit(names["original"]).alias("curve"), "loss")
    after = (
        pairs.unpivot(on=list(names), index="step", variable_name="curve", value_name="loss")
        .with_columns(pl.col("curve").replace(names))
        .drop_nulls()
    )
    domain = list(names.values())
    return (
        alt.Chart(pl.concat([earlier, after.select("step", "curve", "loss")]))
        .mark_line(point=True, strokeWidth=2)
        .encode(
            x=alt.X("step:Q", title="updates", scale=alt.Scale(zero=False, nice=False), axis=alt.Axis(tickMinStep=1)),
            y=alt.Y("loss:Q", title="loss, nats a token", scale=alt.Scale(zero=False)),
            color=alt.Color(
                "curve:N",
                title=None,
                legend=alt.Legend(orient="top", labelLimit=300),
                scale=alt.Scale(domain=domain, range=[CATEGORIES[0], CATEGORIES[1]]),
            ),
            strokeDash=alt.StrokeDash("curve:N", scale=alt.Scale(domain=domain, range=[[1, 0], [5, 4]])),
            shape=alt.Shape("curve:N", scale=alt.Scale(domain=domain, range=["circle", "cross"])),
            tooltip=["curve", alt.Tooltip("step:Q", format=","), alt.Tooltip("loss:Q", format=".6f")],
        )
        .properties(height=280)
    )
