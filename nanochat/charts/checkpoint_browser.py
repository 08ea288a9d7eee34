"""Charts of checkpoints: what takes the disk, and how far each tensor moved from one to the other."""

from typing import TYPE_CHECKING

import polars as pl

from nanochat.charts import CATEGORIES

if TYPE_CHECKING:
    import altair as alt

MOST_RUNS = 20  # bars that can be read on one screen
_LAYER = r"^transformer\.h\.(\d+)\.(.+?)(?:\.weight)?$"
_VALUE = r"^value_embeds\.(\d+)\.weight$"


def disk_chart(use: pl.DataFrame) -> "alt.Chart":
    """A bar for each run, its weights, optimizer and loader files in three colours. use: columns run, kind, bytes."""
    import altair as alt

    shown = use["run"].unique(maintain_order=True).head(MOST_RUNS).to_list()
    return (
        alt.Chart(use.filter(pl.col("run").is_in(shown) & (pl.col("bytes") > 0)).with_columns(mb=pl.col("bytes") / 1e6))
        .mark_bar()
        .encode(
            x=alt.X("mb:Q", title="MB on disk"),
            y=alt.Y("run:N", title=None, sort=shown, axis=alt.Axis(labelOverlap=False, labelLimit=220)),
            color=alt.Color(
                "kind:N",
                title=None,
                scale=alt.Scale(domain=["weights", "optimizer", "loader"], range=list(CATEGORIES[:3])),
                legend=alt.Legend(orient="top"),
            ),
            tooltip=["run:N", "kind:N", alt.Tooltip("mb:Q", title="MB", format=",.1f")],
        )
    )


def change_chart(frame: pl.DataFrame) -> "alt.Chart":
    """Relative change of every matrix, layer by layer; what lies in no layer stands at the left.

    frame: columns of comparison.TENSORS.
    """
    import altair as alt

    parts = frame.filter(pl.col("relative").is_not_null()).with_columns(
        layer=pl.coalesce(pl.col("name").str.extract(_LAYER, 1), pl.col("name").str.extract(_VALUE, 1), pl.lit("-")),
        part=pl.coalesce(
            pl.col("name").str.extract(_LAYER, 2),
            pl.col("name").str.replace(r"^transformer\.", "").str.replace(r"(\.\d+)?\.weight$", ""),
        ),
    )
    layers = sorted(parts["layer"].unique().to_list(), key=lambda layer: -1 if layer == "-" else int(layer))
    order = parts["part"].unique(maintain_order=True).to_list()
    return (
        alt.Chart(parts.select("name", "layer", "part", "relative", "cosine", "effective_rank"))
        .mark_rect()
        .encode(
            x=alt.X("layer:O", title="layer (-: in none)", sort=layers, axis=alt.Axis(labelAngle=0)),
            y=alt.Y("part:N", title=None, sort=order, axis=alt.Axis(labelLimit=180, labelOverlap=False)),
            color=alt.Color("relative:Q", title="|B-A| / |A|", scale=alt.Scale(scheme="cividis")),
            tooltip=[
                "name:N",
                alt.Tooltip("relative:Q", title="relative change", format=".4f"),
                alt.Tooltip("cosine:Q", format=".4f"),
                alt.Tooltip("effective_rank:Q", title="effective rank", format=".1f"),
            ],
        )
    )
