"""A metric of some runs as points for a screen: at most so many, with the extremes kept, on one of four axes.

Each point stands for a stretch of the axis and has the lowest and the highest value in it, so that a spike of one step
in a million is on the chart at every zoom, and the smoothed value at its end.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from nanochat.analysis.training_dashboard.history import History

AXES = {"step": "updates", "tokens": "tokens", "time": "seconds", "flops": "FLOPs"}
METRICS = {
    "train_loss": "loss, nats a token",
    "val_bpb": "bits a byte, new text",
    "val_loss": "loss on new text, nats a token",
    "learning_rate": "learning rate, matrices",
    "lr_multiplier": "factor on the learning rates",
    "grad_norm": "norm of the gradient",
    "tokens_per_second": "tokens a second",
    "mfu": "MFU",
    "core": "CORE",
    "reward": "reward",
}
EXACT = ("val_bpb", "val_loss", "core", "learning_rate", "lr_multiplier")  # without noise, so never smoothed
POINTS = {"run": pl.String, "x": pl.Float64, "low": pl.Float64, "high": pl.Float64, "value": pl.Float64,
          "step": pl.Int64}  # fmt: skip
SHARED = 4  # steps that share a point at least, so that the band has no holes
MIN_POINTS, MAX_POINTS = 10, 5_000


class DashboardError(ValueError):
    """A wish that the dashboard cannot fulfil: one sentence."""


@dataclass(frozen=True)
class Look:
    """How the curves are looked at."""

    axis: str = "step"  # one of AXES
    log_x: bool = False
    smoothing: float = 0.9  # of the moving average, 0 to 0.999 is old; 0: none
    low: float | None = None  # part of the axis; None: from its beginning
    high: float | None = None  # None: to its end
    points: int = 600  # of one run

    def __post_init__(self) -> None:
        if self.axis not in AXES:
            raise DashboardError(f"axis {self.axis!r} is unknown; choose one of {', '.join(AXES)}")
        if not 0 <= self.smoothing < 1:
            raise DashboardError(f"smoothing is {self.smoothing}; give 0 (none) to below 1, such as 0.9")
        if not MIN_POINTS <= self.points <= MAX_POINTS:
            raise DashboardError(f"{self.points} points cannot be; give {MIN_POINTS} to {MAX_POINTS:,}")
        if self.low is not None and self.high is not None and not self.low < self.high:
            raise DashboardError(f"the part from {self.low:g} to {self.high:g} is empty; give a larger end")


def available(histories: Sequence[History]) -> list[str]:
    """The metrics that some run has a figure of, in the order of METRICS."""
    return [name for name in METRICS if any(one.frame[_column(one, name)].count() for one in histories)]


def points_of(history: History, metric: str, *others: str | pl.Expr) -> pl.DataFrame:
    """step, the metric and other columns, of the rows of a run that have the metric."""
    return history.frame.select("step", pl.col(_column(history, metric)).alias(metric), *others).drop_nulls(metric)


def _column(history: History, metric: str) -> str:
    """Where a metric stands: a loss that only its average is known of is that average."""
    return "smooth_loss" if metric == "train_loss" and not history.frame["train_loss"].count() else metric


def curve(histories: Sequence[History], metric: str, look: Look) -> pl.DataFrame:
    """Points of POINTS for each run that has the metric, in the order of the runs.

    low and high: the extremes of the stretch; value: the debiased moving average at its end.

    Raises:
        DashboardError: no such metric.
    """
    if metric not in METRICS:
        raise DashboardError(f"metric {metric!r} is unknown; choose one of {', '.join(METRICS)}")
    return pl.concat([pl.DataFrame(schema=POINTS), *(_points(history, metric, look) for history in histories)])


def _points(history: History, metric: str, look: Look) -> pl.DataFrame:
    known, drawn = _smoothed(history, metric, look)
    if look.low is None and look.high is None:
        view = (history.name, look.points)  # one run may go by several names, told apart from others or not
        if view not in drawn:
            drawn[view] = _stretches(history, known, look)
        return drawn[view]
    if look.low is not None:
        known = known.filter(pl.col("x") >= look.low)
    if look.high is not None:
        known = known.filter(pl.col("x") <= look.high)
    return _stretches(history, known, look)


def _smoothed(history: History, metric: str, look: Look) -> tuple[pl.DataFrame, dict[Any, pl.DataFrame]]:
    """(x, y, value and step of every row of the whole axis, what was drawn of all of it).

    What was looked at last is kept, since a zoom looks at it again; after another metric or axis it goes.
    """
    key = (metric, look.axis, look.log_x, look.smoothing)
    kept: tuple[Any, pl.DataFrame, dict[Any, pl.DataFrame]] | None = history.memo.get("curve")
    if kept is None or kept[0] != key:
        smoothing = 0.0 if metric in EXACT else look.smoothing
        known = points_of(history, metric, pl.col(look.axis).cast(pl.Float64).alias("x")).rename({metric: "y"})
        value = pl.col("y").ewm_mean(alpha=1 - smoothing, adjust=True) if smoothing else pl.col("y")
        known = known.with_columns(value=value).drop_nulls("x")
        kept = history.memo["curve"] = (key, known.filter(pl.col("x") > 0) if look.log_x else known, {})
    return kept[1], kept[2]


def _stretches(history: History, known: pl.DataFrame, look: Look) -> pl.DataFrame:
    if known.height > look.points:
        known = _envelope(known, look)
    else:
        known = known.with_columns(low="y", high="y")
    return known.select(pl.lit(history.name).alias("run"), "x", "low", "high", "value", "step").cast(POINTS)  # type: ignore[arg-type]


def _envelope(known: pl.DataFrame, look: Look) -> pl.DataFrame:
    """One row for each stretch of the axis: its last step, its extremes."""
    place = pl.col("x").log10() if look.log_x else pl.col("x")
    first, last = known.select(place.min().alias("a"), place.max().alias("b")).row(0)
    parts = min(look.points, known.height // SHARED)
    width = (last - first) / parts or 1.0
    part = ((place - first) / width).floor().clip(0, parts - 1).cast(pl.Int32)
    return (
        known.group_by(part.alias("part"), maintain_order=True)
        .agg(pl.col("x", "step", "value").last(), low=pl.col("y").min(), high=pl.col("y").max())
        .sort("part")
    )


def extent(histories: Sequence[History], axis: str) -> tuple[float, float] | None:
    """(first, last) place on an axis over all runs; None where nobody has one."""
    ends = [one.frame.select(pl.col(axis).min(), pl.col(axis).max().alias("last")).row(0) for one in histories]
    known = [(float(low), float(high)) for low, high in ends if low is not None and high is not None]
    if not known:
        return None
    low, high = min(a for a, _ in known), max(b for _, b in known)
    return (low, high) if math.isfinite(low) and high > low else None


def place_of(history: History, step: int, axis: str) -> float | None:
    """Where on an axis a step is: its own row's place, else that of the last row before it."""
    steps = history.frame["step"]  # they only grow
    before = history.frame[axis].head(int(steps.search_sorted(step, side="right"))).drop_nulls()
    return float(before[-1]) if len(before) else None
