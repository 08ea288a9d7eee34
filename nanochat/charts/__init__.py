"""Charts: a table in, an Altair chart out, the same one for a page and for a terminal's `--plot`.

One file a feature, with its stem. What they share is here: the palette, sizes, and saving to a file.

    python -m nanochat.tools.training_dashboard --plot curve.png

A page gives a chart to st.altair_chart, which puts the app's theme on it; `save` puts the light one on it. A chart
that a page draws again and again goes through `in_place`.
"""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanochat.durable import publish, stage_bytes

if TYPE_CHECKING:
    import altair as alt

# Okabe and Ito's colours, told apart by every kind of colour vision; the order of .streamlit/config.toml.
CATEGORIES = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000")
GREY = "#7A8794"  # of what is not data: lines to compare with, small curves
SEQUENTIAL = "viridis"
POINTS = 600  # of one line: more than a screen has pixels for, and a browser slows down
FORMATS = (".png", ".svg")
INSTALL = "pip install vl-convert-python"


class ChartError(ValueError):
    """A chart that cannot be saved: one sentence."""


def require_format(path: str | Path) -> str:
    """The ending of a chart's file. Raises ChartError where it is none of FORMATS."""
    path = Path(path)
    kind = path.suffix.lower()
    if kind not in FORMATS:
        raise ChartError(f"{path.name!r} does not say which format is meant; end it in {' or '.join(FORMATS)}")
    return kind


def save(chart: "alt.TopLevelMixin", path: str | Path, figure: Sequence[str]) -> str:
    """Write the chart to `path`, a .png or .svg; returns what to tell the user.

    Where the converter is not installed nothing is written, and the text holds the figure in words and what to install:
    a command with --plot still succeeds then. figure: the lines of those words.
    Raises ChartError for another ending, CheckpointError where the file cannot be written; an older file is whole then.
    """
    path, kind = Path(path), require_format(path)
    if importlib.util.find_spec("vl_convert") is None:
        return "\n".join([f"{path.name} was not drawn, for that needs vl-convert: {INSTALL}", *figure])
    import vl_convert

    specification = _with_theme(chart).to_dict()
    if kind == ".png":
        content = vl_convert.vegalite_to_png(specification, scale=2)
    else:
        content = vl_convert.vegalite_to_svg(specification).encode()
    publish(stage_bytes(path, content))
    return f"Saved to {path}"


def rules(lines: Sequence[tuple[str, float]], low: float, high: float, scale: Any) -> list[Any]:
    """Dashed lines across the chart, each with its meaning on it; near the lower end, where the curve is above it,
    below it. low and high: the ends of the axis."""
    import altair as alt
    import polars as pl

    rows = [{"y": value, "words": words, "below": value - low < 0.2 * (high - low)} for words, value in lines]
    data = alt.Chart(pl.DataFrame(rows, {"y": pl.Float64, "words": pl.String, "below": pl.Boolean}))
    y = alt.Y("y:Q", scale=scale)
    texts = [
        data.transform_filter(words)
        .mark_text(dy=offset, color=GREY, fontSize=12)
        .encode(x=alt.value(alt.ExprRef("width / 2")), y=y, text="words:N")
        for words, offset in (("datum.below", 10), ("!datum.below", -9))
    ]
    return [data.mark_rule(strokeDash=[6, 4], color=GREY).encode(y=y), *texts]


def in_place(chart: Any) -> dict[str, Any]:
    """The chart as a specification whose data sets are called by their order, for st.vega_lite_chart.

    Two charts that differ in their data alone have the same specification then, and the browser changes the data of
    the one it has instead of building another: a zoom is quicker, and nothing flickers while a curve grows. The chart
    itself is used up.
    """
    import altair as alt

    frames: list[Any] = []

    def name(one: Any) -> None:
        if one.data is not alt.Undefined and one.data is not None:
            number = next((n for n, frame in enumerate(frames) if frame is one.data), len(frames))
            frames[number:] = frames[number:] or [one.data]
            one.data = alt.NamedData(f"data {number}")
        for part in getattr(one, "layer", ()):
            name(part)

    name(chart)
    specification: dict[str, Any] = chart.to_dict()
    return specification | {"datasets": {f"data {number}": frame for number, frame in enumerate(frames)}}


def _with_theme(chart: "alt.TopLevelMixin") -> Any:
    """The chart on white, with the palette and a size that can be read in a document."""
    return (
        chart.configure(background="#FFFFFF", font="sans-serif", padding=12)
        .configure_view(continuousWidth=720, continuousHeight=360, strokeOpacity=0)
        .configure_axis(gridColor="#E3E7EA", labelColor="#1C2126", titleColor="#1C2126", labelFontSize=12)
        .configure_range(category=list(CATEGORIES), heatmap={"scheme": SEQUENTIAL}, ramp={"scheme": SEQUENTIAL})
    )
