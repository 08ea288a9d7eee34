"""The one table that all metrics end in: its columns, and what is worked out from the figures that logs print.

Whatever a run left behind (our metrics.jsonl, a log of nanochat, wandb's output.log, meta files), a reader turns it
into rows with these columns, so whoever plots or lists them need not know where they came from. Every row says it:
`source`, `file` and `line`. What a source does not know is null, never 0.

Used by nanochat.metrics; run nothing here directly.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from nanochat.records import NOT_FINITE


class MetricsError(ValueError):
    """Metrics cannot be read. One sentence: the file, what is wrong with it, what to do."""


SOURCES = ("metrics", "log", "wandb", "meta")  # our metrics.jsonl, a log file, wandb's output.log, meta_*.json
KINDS = ("step", "evaluation", "checkpoint", "rollout")  # a rollout is one forward pass of reinforcement learning

# The fields of a StepRecord, as metrics.jsonl has them (nanochat/records.py), with the type of their column.
RECORD_COLUMNS: dict[str, Any] = {
    "step": pl.Int64,
    "time": pl.Float64,  # seconds of training since the run began
    "tokens": pl.Int64,  # seen since the run began
    "train_loss": pl.Float64,  # nats a token
    "smooth_loss": pl.Float64,  # debiased moving average of train_loss, factor 0.9
    "val_bpb": pl.Float64,  # bits a byte, at evaluations
    "learning_rate": pl.Float64,  # of the matrix group
    "learning_rates": pl.String,  # JSON object: group -> rate; see metrics.rates
    "lr_multiplier": pl.Float64,
    "grad_norm": pl.Float64,
    "tokens_per_second": pl.Float64,
    "mfu": pl.Float64,  # share of the hardware's peak, 0 to 1
    "flops": pl.Float64,  # spent since the run began
    "events": pl.List(pl.String),
}

# The whole table: where a row comes from, a record, and what only some logs know.
SCHEMA: dict[str, Any] = {
    "source": pl.String,  # one of SOURCES
    "file": pl.String,
    "line": pl.Int64,  # from 1; null for a meta file
    "section": pl.Int64,  # which process of a log file wrote it, from 0; null elsewhere
    "run": pl.Int64,  # from 0 in each file; a resumed process goes on with the number of the one before
    "stage": pl.String,  # base, mid, sft or rl; null where nothing tells
    "kind": pl.String,  # one of KINDS
    **RECORD_COLUMNS,
    "total_steps": pl.Int64,  # the horizon
    "step_seconds": pl.Float64,
    "eta_seconds": pl.Float64,
    "epoch": pl.Int64,
    "shard": pl.Int64,  # position in the data: which parquet file
    "row_group": pl.Int64,  # and which of its row groups
    "step_tokens": pl.Int64,  # supervised tokens of this step (fine-tuning of 2025)
    "val_loss": pl.Float64,  # nats a token (fine-tuning of 2025)
    "core": pl.Float64,  # CORE, an average of centered accuracies
    "chatcore": pl.Float64,
    "reward": pl.Float64,  # mean of the step (reinforcement learning)
    "sequence_length": pl.Float64,  # mean of the step (reinforcement learning)
    "scores": pl.String,  # JSON object: name -> value, such as Pass@1 or mmlu_acc
    "superseded": pl.Boolean,  # True where a later row of the same run starts again at or before this step
}

SMOOTHING = 0.9  # the factor of the moving average that nanochat prints and that we write


@dataclass(frozen=True)
class Origin:
    """What all rows of one section of a log have in common. Batch and FLOPs are known before the first step."""

    source: str
    file: str
    section: int
    run: int
    stage: str | None
    batch: int | None  # tokens a step
    flops_per_token: float | None
    counts_from_one: bool  # fine-tuning prints the number of steps done, pretraining that of the step at hand
    resumed: bool


@dataclass(frozen=True)
class Carry:
    """The end of the rows before, which the next rows of the same section go on from."""

    section: int = -1  # of the rows before; -1 where there are none
    steps: bool = False  # whether that section had a training step yet
    step: int | None = None
    smooth_loss: float | None = None
    time: float | None = None


@dataclass(frozen=True)
class Part:
    """Lines of a log that have one origin, as text and figures that are not a table yet."""

    origin: Origin
    steps: list[tuple[int, tuple[str | None, ...]]]  # line number, STEP_FIELDS as text
    others: list[dict[str, Any]]  # column -> value, each with its `line`


# What rows get from their origin, and what is worked out with.
_OF_ROWS: dict[str, Any] = {
    "section": pl.Int64,
    "run": pl.Int64,
    "stage": pl.String,
    "batch": pl.Int64,
    "flops_per_token": pl.Float64,
}
_OF_STEPS: dict[str, Any] = {**_OF_ROWS, "counts_from_one": pl.Boolean, "resumed": pl.Boolean}

# What the line of a training step gives, as text, in the order of metrics_lines.STEP.
STEP_FIELDS = (
    *("step", "total_steps", "smooth_loss", "grad_norm", "learning_rate", "lr_multiplier"),
    *("step_ms", "tokens_per_second", "mfu_percent", "epoch", "shard", "row_group", "total_minutes", "eta_minutes"),
)

_INTEGERS = ("step", "total_steps", "epoch", "shard", "row_group")


def empty() -> pl.DataFrame:
    """The table without rows."""
    return pl.DataFrame(schema=SCHEMA)


def conform(frame: pl.DataFrame, constants: Mapping[str, Any] | None = None, finite: bool = False) -> pl.DataFrame:
    """The frame with exactly the columns of SCHEMA: constants set, missing ones null, others dropped.

    NaN and infinities become null, and their row gets the event `not_finite`, as in metrics.jsonl: nothing that plots
    or averages then has to think of them. `finite` says that there are none, which saves looking.
    """
    given = {name: pl.lit(value) for name, value in (constants or {}).items()}
    columns = []
    for name, dtype in SCHEMA.items():
        column = given.get(name, pl.col(name) if name in frame.columns else pl.lit(None))
        columns.append(column.cast(dtype).alias(name))
    frame = frame.select(columns) if frame.height else empty()
    if finite:
        return frame.with_columns(pl.col("events").fill_null([]), pl.col("superseded").fill_null(False))
    floats = [name for name, dtype in SCHEMA.items() if dtype == pl.Float64]
    bad = pl.any_horizontal(~pl.col(name).is_finite() for name in floats).fill_null(False)
    frame = frame.with_columns(pl.col("events").fill_null([]), pl.col("superseded").fill_null(False))
    if frame.select(bad.any()).item():
        marked = pl.concat_list("events", pl.lit([NOT_FINITE])).list.unique(maintain_order=True)
        frame = frame.with_columns(events=pl.when(bad).then(marked).otherwise("events"))
        frame = frame.with_columns(pl.when(pl.col(n).is_finite()).then(pl.col(n)).alias(n) for n in floats)
    return frame


def rows_frame(rows: list[dict[str, Any]], constants: Mapping[str, Any] | None = None) -> pl.DataFrame:
    """Rows given as dicts of column -> value."""
    if not rows:
        return empty()
    return conform(_dict_frame(rows), constants)


def _dict_frame(rows: list[dict[str, Any]]) -> pl.DataFrame:
    used = set().union(*rows)
    names = [name for name in SCHEMA if name in used]
    data = {name: [row.get(name) for row in rows] for name in names}
    return pl.DataFrame(data, schema={name: SCHEMA[name] for name in names}, strict=False)


def json_object(values: Mapping[str, Any]) -> str | None:
    """Text for the columns `scores` and `learning_rates`; null where there is nothing."""
    return json.dumps(dict(values)) if values else None


def log_frame(parts: Sequence[Part], carry: Carry) -> tuple[pl.DataFrame, Carry]:
    """Rows of parts of one log, in the order of its lines, and what the next rows go on from.

    Many parts at once, because a table costs milliseconds however few rows it has. Worked out here, since logs do not
    print it:

    - train_loss: the moving average is undone, `(e_t - 0.9 e_(t-1)) / 0.1` with `e_t = smooth_t (1 - 0.9^(t+1))`,
      exact to about 1e-5 from six printed decimals. It shows the spikes that the average hides. For a row whose
      predecessor is missing it is null.
    - time: the sum of the printed step times, since the total that nanochat prints leaves out the first ten steps and
      has two decimals of a minute; a resumed run goes on from its printed total.
    - tokens and flops: step times the batch size, and that times the FLOPs per token, both from the section's header.
    """
    if not parts:
        return empty(), carry
    origins = [part.origin for part in parts]
    last_section = origins[-1].section
    constants = {"source": origins[0].source, "file": origins[0].file}
    frames = []
    if steps := [step for part in parts for step in part.steps]:
        owners = [origin for origin, part in zip(origins, parts, strict=True) for _ in part.steps]
        frame = _worked_out(_numbers(steps).with_columns(_common(owners, _OF_STEPS)), carry)
        frames.append(_conform(frame, {**constants, "kind": "step"}))
        last = frame.row(-1, named=True)
        after = Carry(last["section"], True, last["step"], last["smooth_loss"], last["time"])
    else:
        after = carry
    if others := [row for part in parts for row in part.others]:
        owners = [origin for origin, part in zip(origins, parts, strict=True) for _ in part.others]
        frame = _dict_frame(others).with_columns(_common(owners, _OF_ROWS))
        frames.append(_conform(frame, constants))
    frame = pl.concat(frames)
    # The product is taken as a float first: a damaged log may name a step of 18 digits.
    tokens = pl.col("step").cast(pl.Float64) * pl.col("batch")
    frame = frame.with_columns(tokens=tokens.cast(pl.Int64, strict=False), flops=tokens * pl.col("flops_per_token"))
    if others:
        frame = frame.sort("line", maintain_order=True)
    # An evaluation happens at the time of the step before it.
    before = pl.when(pl.col("section") == carry.section).then(pl.lit(carry.time, pl.Float64))
    frame = frame.with_columns(time=pl.col("time").forward_fill().over("section").fill_null(before))
    if after.section != last_section:
        after = Carry(last_section)
    return frame.select(list(SCHEMA)), after


def _common(owners: list[Origin], columns: Mapping[str, Any]) -> list[pl.Series]:
    """What each row has from its part of the log."""
    return [pl.Series(name, [getattr(owner, name) for owner in owners], dtype) for name, dtype in columns.items()]


def _conform(frame: pl.DataFrame, constants: Mapping[str, Any]) -> pl.DataFrame:
    """As `conform`, with the two columns from which tokens and FLOPs are worked out."""
    return conform(frame, constants).with_columns(frame["batch"], frame["flops_per_token"])


def _numbers(steps: list[tuple[int, tuple[str | None, ...]]]) -> pl.DataFrame:
    """Text to numbers, a column at a time. What cannot be one (20 digits of a step) becomes null."""
    columns = zip(*[fields for _, fields in steps], strict=True)
    text = {name: pl.Series(name, column, pl.String) for name, column in zip(STEP_FIELDS, columns, strict=True)}
    text["tokens_per_second"] = text["tokens_per_second"].str.replace_all(",", "", literal=True)
    frame = pl.DataFrame(
        [pl.Series("line", [line for line, _ in steps], pl.Int64)]
        + [column.cast(pl.Int64 if name in _INTEGERS else pl.Float64, strict=False) for name, column in text.items()]
    )
    return frame.with_columns(
        step_seconds=pl.col("step_ms") / 1000,
        mfu=pl.col("mfu_percent") / 100,
        eta_seconds=pl.col("eta_minutes") * 60,
    )


def _worked_out(frame: pl.DataFrame, carry: Carry) -> pl.DataFrame:
    """Add train_loss, time and the event of a resumed run."""
    goes_on = carry.steps and frame["section"][0] == carry.section
    before = carry if goes_on else Carry()
    # Whether a row goes on from the one above it, or for the first row from the rows of the last call.
    same = (pl.col("section") == pl.col("section").shift(1)).fill_null(goes_on)
    before_step = pl.when(same).then(pl.col("step").shift(1, fill_value=before.step))
    before_smooth = pl.when(same).then(pl.col("smooth_loss").shift(1, fill_value=before.smooth_loss))
    weight = 1 - SMOOTHING ** (pl.col("step") + 1).cast(pl.Float64)
    before_weight = 1 - SMOOTHING ** pl.col("step").cast(pl.Float64)
    start = pl.col("counts_from_one").cast(pl.Int64)
    undone = (pl.col("smooth_loss") * weight - SMOOTHING * before_smooth * before_weight) / (1 - SMOOTHING)
    train_loss = (
        pl.when((pl.col("step") == start) & before_step.is_null())
        .then(pl.col("smooth_loss") * weight / (1 - SMOOTHING))
        .when(pl.col("step") - before_step == 1)
        .then(undone)
    )
    head = ~same & pl.col("resumed")
    seconds = pl.col("step_seconds").fill_null(0.0)
    printed = (pl.col("total_minutes") * 60 - seconds).clip(lower_bound=0.0).fill_null(0.0)
    offset = pl.when(head).then(printed).otherwise(0.0)
    if goes_on and before.time is not None:
        offset = pl.when(pl.int_range(pl.len()) == 0).then(pl.lit(before.time)).otherwise(offset)
    elapsed = (offset + seconds).cum_sum().over("section")
    nothing = pl.lit([], dtype=pl.List(pl.String))
    return frame.with_columns(
        # An average that is no number says nothing about the loss of the step after it.
        train_loss=pl.when(train_loss.is_finite()).then(train_loss),
        time=pl.when(pl.col("step_seconds").is_not_null()).then(elapsed),
        events=pl.when(head).then(pl.lit(["resumed"])).otherwise(nothing),
    )


def mark_superseded(frame: pl.DataFrame) -> pl.DataFrame:
    """Set `superseded` where a later row of the same file, run and kind starts again at or before this step.

    After a kill, a run goes on from its last checkpoint: the steps since then stand in the log twice, and the later
    ones are those that count. Rows keep their order.
    """
    if frame.is_empty():
        return frame
    run = ["file", "run", "kind"]
    if _in_order(frame, run):
        return frame.with_columns(superseded=pl.lit(False)).select(list(SCHEMA))
    first_later = pl.col("step").reverse().cum_min().reverse().shift(-1)  # the smallest step of all later rows
    later = first_later.over(run)
    # One process prints several evaluations and rollouts of one step, but never two records of it.
    again = pl.when(pl.col("kind") == "step").then(pl.col("step") >= later).otherwise(pl.col("step") > later)
    sections = frame.group_by([*run, "section"], maintain_order=True).agg(pl.col("step").min())
    if sections.select(pl.struct(run).is_duplicated().any()).item():  # some run went on in another process
        sections = sections.with_columns(restart=first_later.over(run)).drop("step")
        frame = frame.join(sections, on=[*run, "section"], how="left", nulls_equal=True, maintain_order="left")
        again = again.fill_null(False) | (pl.col("step") >= pl.col("restart"))
    frame = frame.with_columns(superseded=again.fill_null(False) & (pl.col("source") != "meta"))
    return frame.select(list(SCHEMA))


def _in_order(frame: pl.DataFrame, run: list[str]) -> bool:
    """Whether each run is of one process and its steps only grow, as nearly always: a look that saves the work."""
    if frame["step"].has_nulls():
        return False
    if frame["section"].n_unique() == 1 and (frame["step"].diff() > 0).all():
        return True  # whatever the groups are: to make them takes most of the time
    forward = (pl.col("step").diff() > 0).all()  # of the first row there is no difference, and `all` passes it over
    groups = frame.lazy().group_by(run).agg(forward=forward, sections=pl.col("section").n_unique())
    return bool(groups.select((pl.col("forward") & (pl.col("sections") == 1)).all()).collect().item())


def joined(frames: Iterable[pl.DataFrame]) -> pl.DataFrame:
    """Frames of this schema, one below the other."""
    kept = [frame for frame in frames if frame.height]
    if len(kept) == 1:
        return kept[0]  # not put together anew: of a million rows that would be a copy at each look
    return pl.concat(kept, rechunk=True) if kept else empty()
