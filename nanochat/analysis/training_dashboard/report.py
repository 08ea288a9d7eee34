"""The figures of a run, each with the file that said it, the table of its checkpoints, and the whole as a file."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from nanochat.analysis.training_dashboard.curve import DashboardError
from nanochat.analysis.training_dashboard.history import RANK, History, kept
from nanochat.durable import publish, stage_bytes

FORMATS = (".csv", ".parquet")
PROGRESS = {"step": pl.Int64, "train_loss": pl.Float64, "val_bpb": pl.Float64, "learning_rate": pl.Float64,
            "saved": pl.Boolean, "time": pl.Float64, "tokens": pl.Int64}  # fmt: skip
MAX_LISTED = 1_000  # rows where nothing was saved or evaluated: a look at every so many steps


@dataclass(frozen=True)
class Figure:
    """One figure, the step it is of and who said so; or why it is not known."""

    value: float | None
    step: int | None
    source: str  # a file, with the line where it has lines; or why the value is None


@dataclass(frozen=True)
class Summary:
    """What a run came to."""

    checkpoints: int
    first: int | None  # saved step
    last: int | None
    step: int | None  # the last that anything speaks of
    horizon: int | None
    train_loss: Figure
    val_bpb: Figure
    learning_rate: Figure
    tokens: Figure
    time: Figure
    speed: Figure  # tokens a second, the median
    best: Figure  # bits a byte of the best saved step, of the best measured one where none was saved


def summary(history: History) -> Summary:
    """The figures of a run."""
    return kept(history, "summary", _summary)


def _summary(history: History) -> Summary:
    saved = history.checkpoints
    speeds = history.frame["tokens_per_second"].drop_nulls()
    speed = _figure(history, "tokens_per_second")
    if len(speeds):
        speed = Figure(float(speeds.median()), None, f"median of {len(speeds):,} steps")  # type: ignore[arg-type]
    loss = _figure(history, "train_loss")
    if loss.value is None:
        smooth = _figure(history, "smooth_loss")
        loss = (
            Figure(smooth.value, smooth.step, f"moving average, {smooth.source}") if smooth.value is not None else loss
        )
    return Summary(
        len(saved), saved[0] if saved else None, saved[-1] if saved else None, history.last, history.horizon, loss,
        _figure(history, "val_bpb"), _figure(history, "learning_rate"), _figure(history, "tokens"),
        _figure(history, "time"), speed, _best(history),
    )  # fmt: skip


def _figure(history: History, name: str) -> Figure:
    """The last value of a column."""
    known = history.frame.filter(pl.col(name).is_not_null())["step"]
    if known.is_empty():
        return Figure(None, None, history.missing.get(name, "nothing tells"))
    return _at(history, name, int(known[-1]))


def _at(history: History, name: str, step: int) -> Figure:
    rows = history.rows.filter((pl.col("step") == step) & pl.col(name).is_not_null() & ~pl.col("superseded"))
    row = min(rows.iter_rows(named=True), key=lambda one: RANK.get(one["source"], 9))
    return Figure(float(row[name]), step, said_by(history, row["file"], row["line"]))


def said_by(history: History, file: str, line: int | None) -> str:
    """A file as a person calls it, with the line."""
    name = Path(file).name if history.folder is None or Path(file).parent == history.folder else file
    return f"{name}, line {line:,}" if line is not None else name


def _best(history: History) -> Figure:
    known = history.frame.filter(pl.col("val_bpb").is_not_null())
    saved = known.filter(pl.col("step").is_in(history.checkpoints))
    known = saved if len(saved) else known
    if known.is_empty():
        return Figure(None, None, history.missing.get("val_bpb", "no saved step was evaluated"))
    return _at(history, "val_bpb", int(known["step"][known["val_bpb"].arg_min() or 0]))


def progress(history: History) -> pl.DataFrame:
    """A row for each saved or evaluated step; where there are none, for some of the steps. Columns of PROGRESS.

    The loss of a saved step that no row names is that of the update before it.
    """
    return kept(history, "progress", _progress)


def _progress(history: History) -> pl.DataFrame:
    frame = history.frame.with_columns(saved=pl.col("step").is_in(history.checkpoints))
    follows = pl.col("step").diff() == 1
    for name in ("train_loss", "learning_rate"):
        frame = frame.with_columns(pl.col(name).fill_null(pl.when(follows).then(pl.col(name).shift(1))))
    frame = frame.with_columns(train_loss=pl.col("train_loss").fill_null(pl.col("smooth_loss")))
    wanted = frame.filter(pl.col("saved") | pl.col("val_bpb").is_not_null() | pl.col("val_loss").is_not_null())
    if wanted.height < 2 and frame.height > 2:
        wanted = frame.gather_every(max(frame.height // 20, 1))
    return wanted.select(list(PROGRESS)).cast(PROGRESS)  # type: ignore[arg-type]


def write(histories: Sequence[History], path: str | Path) -> str:
    """Every row of every run as .csv or .parquet; returns what to tell the user.

    Raises:
        DashboardError: another ending.
        CheckpointError: the file cannot be written; an older one is whole then.
    """
    path = Path(path)
    if path.suffix.lower() not in FORMATS:
        raise DashboardError(f"{path.name!r} does not say which format is meant; end it in {' or '.join(FORMATS)}")
    table = export(histories)
    publish(stage_bytes(path, encoded(table, path.suffix.lower())))
    return f"Saved {len(table):,} rows to {path}"


def export(histories: Sequence[History]) -> pl.DataFrame:
    """All runs one below the other, with a column `run`; events as words with ; between."""
    return pl.concat(
        [
            one.frame.select(pl.lit(one.name).alias("run"), pl.all().exclude("events"), pl.col("events").list.join(";"))
            for one in histories
        ]
    )


def encoded(table: pl.DataFrame, ending: str) -> bytes:
    """A table as the bytes of a .csv or .parquet."""
    if ending == ".csv":
        return table.write_csv().encode()
    buffer = io.BytesIO()
    table.write_parquet(buffer)
    return buffer.getvalue()
