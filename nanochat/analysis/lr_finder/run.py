"""What a run that is over says about learning rates: its schedule, its best point, and what to try next.

The lowest loss of a run whose rates cool down lies at its end, where the rate is nearly nothing: a rate that came with
the lowest loss is not one to begin with. So the advice counts from the highest rate wherever the best point lies in the
fall, and says so.

    nanochat lr_finder base_checkpoints/d20
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from nanochat.analysis import training_dashboard as dashboard
from nanochat.analysis.lr_finder.schedule import Recognised, recognise
from nanochat.analysis.training_dashboard import History

POINTS = {"step": pl.Int64, "rate": pl.Float64, "loss": pl.Float64}
MOST_POINTS = 600
COOLED = 0.9  # of the highest rate; below, the best point lies in the fall
FACTORS = {"Conservative": 0.5, "Recommended": 1.0, "Aggressive": 2.0}
# What the wish says about each word, and what more there is to say.
ADVICE = {
    "constant": ("Consider a schedule.", "Let the rate fall over the last part: small steps settle what large found."),
    "decay": ("Good, and a short warmup would make the first steps safer.", "A new model's gradients are wild."),
    "warmup": ("Add a decay after the warmup.", "Let the rate fall over the last part of the run."),
    "warmup_decay": ("Excellent! This is a recommended schedule pattern.", "Your current schedule looks good."),
    "custom": ("An uncommon schedule.", "Compare it with warmup-stable-decay on a short run."),
    "unknown": ("Too few learning rates are known.", "Name the training's log with --log FILE."),
}


@dataclass(frozen=True)
class Best:
    """The point with the lowest training loss."""

    step: int
    rate: float | None
    loss: float
    saved: bool  # a checkpoint of it is there
    source: str  # which loss this is, in words


@dataclass(frozen=True)
class Analysis:
    """What a run says about its learning rates."""

    name: str
    folder: Path | None
    checkpoints: int
    steps: int  # with a learning rate
    rate: str  # "learning_rate", or "lr_multiplier" where only the factor on unknown rates is known
    low: float | None
    high: float | None
    schedule: Recognised
    best: Best | None  # None where no loss is known
    start: float | None  # the rate that advice counts from
    advice: tuple[tuple[str, float], ...]  # (how bold, rate)
    notes: tuple[str, ...]  # a sentence each: what the figures are and are not
    problems: tuple[str, ...]
    points: pl.DataFrame  # columns of POINTS, at most MOST_POINTS rows

    @property
    def unit(self) -> str:
        """What the rates are."""
        return "learning rate, matrices" if self.rate == "learning_rate" else "factor on the learning rates"


def analyse(folder: str | Path, logs: Sequence[str | Path] = ()) -> Analysis:
    """The run in a folder, with everything that is found of it. logs: files to read beside that.

    Raises:
        MetricsError: the folder holds nothing of a run.
    """
    return analysis_of(dashboard.open_run(folder, logs))


def analysis_of(run: History) -> Analysis:
    """The same of a run that has been opened."""
    frame = run.frame.with_columns(loss=_loss(run))
    known = {name: frame.filter(pl.col(name).is_finite()) for name in ("learning_rate", "lr_multiplier")}
    # Rates of the saved steps alone are fewer than the factors that a log prints, and tell less of the shape.
    rate = max(known, key=lambda name: (known[name].height, name == "learning_rate"))
    if known["learning_rate"].height >= max(3, known["lr_multiplier"].height // 2):
        rate = "learning_rate"
    rated = known[rate]
    factors = known["lr_multiplier"] if known["lr_multiplier"].height >= 3 else rated
    shape = "lr_multiplier" if factors is known["lr_multiplier"] else rate
    times = factors["time"].to_list() if not factors["time"].null_count() else None
    schedule = recognise(
        factors["step"].to_list(), factors[shape].to_list(), times=times, horizon=run.horizon,
        settings=dashboard.schedule_of(run.meta),
    )  # fmt: skip
    known_rates = [float(value) for value in rated[rate]]
    low, high = (min(known_rates), max(known_rates)) if known_rates else (None, None)
    best = _best(run, frame, rate)
    start, notes = _start(best, high, schedule)
    advice = tuple((name, start * factor) for name, factor in FACTORS.items()) if start is not None else ()
    if rate == "lr_multiplier" and rated.height:
        notes.append(
            "The learning rates themselves stand nowhere; these are factors on the rates that the run was started with."
        )
    points = frame.select("step", rate=rate, loss="loss").filter(pl.any_horizontal("rate", "loss").is_not_null())
    return Analysis(
        run.name, run.folder, len(run.checkpoints), rated.height, rate, low, high, schedule, best, start, advice,
        tuple(notes), run.problems, _thinned(points.cast(POINTS)),  # type: ignore[arg-type]
    )  # fmt: skip


def _loss(run: History) -> pl.Expr:
    """The loss that points are compared by: smoothed, since the luck of one batch decides nothing."""
    if run.frame["smooth_loss"].null_count() < run.frame.height:
        return pl.col("smooth_loss")
    return pl.col("train_loss").ewm_mean(alpha=0.1, adjust=True, ignore_nulls=True)


def _best(run: History, frame: pl.DataFrame, rate: str) -> Best | None:
    """The saved step with the lowest loss; where no two are saved, the step with the lowest."""
    # A saved step has no loss of its own: its weights are those that the update before it made.
    follows = pl.col("step").diff() == 1
    filled = frame.with_columns(
        pl.col(name).fill_null(pl.when(follows).then(pl.col(name).shift(1))) for name in ("loss", rate)
    ).filter(pl.col("loss").is_finite())
    saved = filled.filter(pl.col("step").is_in(run.checkpoints))
    rows, is_saved = (saved, True) if saved.height > 1 else (filled, False)
    if rows.is_empty():
        return None
    row = rows.row(rows["loss"].arg_min() or 0, named=True)
    source = "moving average of the training loss" + (" at the saved steps" if is_saved else "")
    return Best(int(row["step"]), row[rate], float(row["loss"]), int(row["step"]) in run.checkpoints, source)


def _start(best: Best | None, high: float | None, schedule: Recognised) -> tuple[float | None, list[str]]:
    """(the rate that advice counts from, why)."""
    if high is None or high <= 0:
        return None, []
    if best is not None and best.rate is not None and best.rate > 0:
        falling = schedule.decay_start is not None and best.step > schedule.decay_start
        if not falling or best.rate >= COOLED * high:
            return best.rate, []
    if best is None:
        return high, ["No training loss is known, so the advice counts from the highest rate of the run."]
    cooled = (
        "The loss is lowest where the rate had cooled down, as in every run with a decay: that rate is where to end, "
        f"not where to begin, so the advice counts from the highest rate, {high:.6g}. One run cannot say whether "
        "another rate would have been better: a range test can (--range-test)."
    )
    return high, [cooled]


def _thinned(points: pl.DataFrame) -> pl.DataFrame:
    if points.height <= MOST_POINTS:
        return points
    return points.gather_every(-(-points.height // MOST_POINTS))


def rate_text(rate: float | None) -> str:
    """A learning rate for people: six decimals, and more where they would show nothing of it.

    >>> rate_text(0.02), rate_text(3e-7), rate_text(None)
    ('0.020000', '3.00e-07', 'unknown')
    """
    if rate is None:
        return "unknown"
    return f"{rate:.6f}" if rate == 0 or abs(rate) >= 1e-6 else f"{rate:.2e}"
