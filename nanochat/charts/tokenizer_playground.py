"""The tokenizer playground's charts: what languages and tokenizers cost, what a vocabulary holds, how a replay goes."""

from typing import TYPE_CHECKING

from nanochat.charts import CATEGORIES

if TYPE_CHECKING:
    import altair as alt
    import polars as pl

BETWEEN = "#7A848D"  # text that can be read on a light and on a dark background


def cost(frame: "pl.DataFrame", what: str = "tokens") -> "alt.LayerChart":
    """Bars of tokens for each row of a comparison, the name beside and the multiple of the first row behind."""
    import altair as alt

    base = alt.Chart(frame).encode(
        y=alt.Y("name:N", sort=None, title=None, axis=alt.Axis(labelLimit=240, labelOverlap=False)),
        x=alt.X("tokens:Q", title=f"{what}, and how many times the first", axis=alt.Axis(tickMinStep=1)),
        tooltip=["name", "tokens", "characters", "bytes", alt.Tooltip("cost:Q", format=".2f")],
    )
    times = base.transform_calculate(words="format(datum.cost, '.2f') + ' ×'")
    words = times.mark_text(align="left", dx=4, color=BETWEEN).encode(text="words:N")
    return alt.LayerChart(layer=[base.mark_bar(color=CATEGORIES[0]), words])


def lengths(frame: "pl.DataFrame") -> "alt.Chart":
    """How many tokens of a vocabulary have how many bytes; lengths beyond 32 share one bar."""
    import altair as alt
    import polars as pl

    longest = 32
    data = frame.group_by(pl.col("bytes").clip(upper_bound=longest)).agg(pl.col("tokens").sum()).sort("bytes")
    data = data.with_columns(
        pl.when(pl.col("bytes") == longest)
        .then(pl.lit(f"{longest}+"))
        .otherwise(pl.col("bytes").cast(pl.String))
        .alias("length")
    )
    return (
        alt.Chart(data)
        .mark_bar(color=CATEGORIES[0])
        .encode(
            x=alt.X("length:O", sort=None, title="bytes of a token", axis=alt.Axis(labelAngle=0)),
            y=alt.Y("tokens:Q", title="tokens"),
            tooltip=["length", "tokens"],
        )
    )


def replay(frame: "pl.DataFrame", start: int, step: int | None = None) -> "alt.LayerChart":
    """How many tokens are left after each merge; `step` draws a line at one of them."""
    import altair as alt
    import polars as pl

    first = pl.DataFrame({"step": [0], "tokens": [start], "token": [""]})
    data = pl.concat([first, frame.select("step", "tokens", "token")])
    line = (
        alt.Chart(data)
        .mark_line(interpolate="step-after", color=CATEGORIES[0])
        .encode(
            x=alt.X("step:Q", title="merge"),
            y=alt.Y("tokens:Q", title="tokens left"),
            tooltip=["step", "token", "tokens"],
        )
    )
    here = alt.Chart(pl.DataFrame({"step": [step or 0]})).mark_rule(color=CATEGORIES[5], strokeWidth=2)
    return alt.LayerChart(layer=[line, here.encode(x="step:Q")] if step is not None else [line])
