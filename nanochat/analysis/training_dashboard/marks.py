"""What happened on a curve, found by rules and told in a sentence each: phases, spikes, plateaus, divergence, slowness.

Every rule compares medians of stretches, so that one odd step decides nothing:

- spike: a loss above the moving average before it by more than 6 times the usual distance, and by 5 %
- plateau: a stretch of at least 15 % of the run in which the loss did not fall by 1 %
- divergence: a loss that is no number, or an end that lies above the best by a quarter of what had been learnt
- slow: a stretch with less than 70 % of the usual speed
"""

from collections.abc import Iterator
from dataclasses import dataclass

import polars as pl

from nanochat.analysis.training_dashboard.curve import points_of
from nanochat.analysis.training_dashboard.history import History, kept
from nanochat.analysis.training_dashboard.levels import phases

SPIKE_DISTANCE, SPIKE_SHARE, MOST_SPIKES = 6.0, 0.05, 10
PARTS, PLATEAU_SHARE, PLATEAU_FALL = 40, 0.15, 0.01
DIVERGED, LEAST = 0.25, 5  # of what had been learnt, lost again; updates whose median says so
SLOW, MOST_SLOW = 0.7, 5
BACK = "Go back to a checkpoint before it and take a lower learning rate."
BLOCK = 200  # steps over which the usual distance is taken


@dataclass(frozen=True)
class Mark:
    """One thing on a curve."""

    kind: str  # warmup_end, warmdown_start, best, spike, plateau, divergence, slow, resumed
    step: int
    end: int  # the same as step where it is a moment
    title: str  # two words, for the chart
    sentence: str  # what it is, and what to do about it


def marks(history: History) -> tuple[Mark, ...]:
    """Everything found on a run's curve, by step."""
    return kept(history, "marks", _marks)


def _marks(history: History) -> tuple[Mark, ...]:
    found = [*_phases(history), *_best(history), *_resumed(history), *_divergence(history), *_slow(history)]
    losses = points_of(history, "train_loss").rename({"train_loss": "loss"})
    if history.frame["train_loss"].count() >= PARTS:  # averages hide what is looked for
        found += [*_spikes(losses), *_plateau(losses)]
    return tuple(sorted(found, key=lambda mark: (mark.step, mark.kind)))


def told(found: tuple[Mark, ...]) -> list[tuple[str, str]]:
    """(title, sentence) of each mark, for a list to be read; many spikes are one sentence."""
    spikes = [mark for mark in found if mark.kind == "spike"]
    lines = [(mark.title, mark.sentence) for mark in found if mark.kind != "spike" or len(spikes) < 3]
    if len(spikes) >= 3:
        steps = ", ".join(f"{mark.step:,}" for mark in spikes)
        more = "These are the largest. " if len(spikes) == MOST_SPIKES else ""
        sentence = f"Steps {steps}: the loss jumped for a moment. {more}Single ones are odd pieces of text; "
        lines.append(("spikes", sentence + "many mean that the learning rate is near its limit."))
    return lines


def _phases(history: History) -> Iterator[Mark]:
    warm, cool, source = phases(history)
    if warm is not None:
        sentence = f"Step {warm:,}: the learning rate has reached its full size ({source}). Before that, steps were "
        yield Mark("warmup_end", warm, warm, "warmup ends", sentence + "small: a new model's gradients are wild.")
    if cool is not None:
        sentence = f"Step {cool:,}: from here the learning rate falls ({source}). The loss often falls faster now: "
        yield Mark("warmdown_start", cool, cool, "warmdown begins", sentence + "small steps settle what large found.")


def _best(history: History) -> Iterator[Mark]:
    saved = history.frame.filter(pl.col("step").is_in(history.checkpoints) & pl.col("val_bpb").is_not_null())
    measured = "saved"
    if saved.is_empty():
        saved, measured = history.frame.drop_nulls("val_bpb"), "measured"
    if not saved.is_empty():
        row = saved.row(saved["val_bpb"].arg_min() or 0, named=True)
        yield Mark("best", row["step"], row["step"], "best", f"Step {row['step']:,}: the best {measured} model, "
                   f"{row['val_bpb']:.4f} bits a byte on text that it was not trained on.")  # fmt: skip


def _resumed(history: History) -> Iterator[Mark]:
    again = history.frame.filter(pl.col("events").list.contains("resumed"))["step"]
    for step in again.head(MOST_SPIKES):
        yield Mark("resumed", step, step, "resumed", f"Step {step:,}: the run was interrupted and went on from here.")


def _divergence(history: History) -> Iterator[Mark]:
    bad = history.frame.filter(
        pl.col("events").list.contains("diverged") | pl.col("events").list.contains("not_finite")
    )["step"]
    if len(bad):
        sentence = f"Step {bad[0]:,}: a figure is no number any more (NaN or infinity). "
        yield Mark("divergence", bad[0], bad[0], "no number", sentence + BACK)
    losses = points_of(history, "train_loss").rename({"train_loss": "loss"})
    parts = _medians(losses, min(PARTS, losses.height // LEAST))
    if parts.height < 4:
        return
    first, best, last = (float(value) for value in (parts["loss"][0], min(parts["loss"]), parts["loss"][-1]))
    if last - best > DIVERGED * (first - best) and last > 1.1 * best:
        row = parts.row(parts["loss"].arg_min() or 0, named=True)
        sentence = f"From step {row['end']:,} on the loss rises, from {best:.3f} to {last:.3f}: the run unlearns. "
        yield Mark("divergence", row["end"], int(parts["end"][-1]), "diverged", sentence + BACK)


def _slow(history: History) -> Iterator[Mark]:
    speeds = points_of(history, "tokens_per_second").rename({"tokens_per_second": "loss"})
    if speeds.height < PARTS:
        return
    usual = float(speeds["loss"].median())  # type: ignore[arg-type]
    parts = _medians(speeds[1:], min(4 * PARTS, speeds.height // 5))  # the first step compiles
    stretches = _runs(parts.with_columns(bad=pl.col("loss") < SLOW * usual))
    for start, end, least in sorted(stretches, key=lambda s: s[0] - s[1])[:MOST_SLOW]:
        sentence = f"Steps {start:,} to {end:,}: about {least:,.0f} tokens a second, where {usual:,.0f} are usual. "
        cause = "Something else used the machine, or it got hot, or waited for data."
        yield Mark("slow", start, end, "slow", sentence + cause)


def _spikes(losses: pl.DataFrame) -> Iterator[Mark]:
    """losses: step, loss; one row a step."""
    before = pl.col("loss").ewm_mean(alpha=0.1, adjust=True).shift(1)
    far = losses.with_row_index("row").with_columns(before=before, distance=pl.col("loss") - before)
    usual = pl.col("distance").abs().median().over(pl.col("row") // BLOCK)
    far = far.with_columns(far=pl.col("distance") / (1.4826 * usual))  # 1.4826 * median distance: a normal's deviation
    high = far.filter(
        (pl.col("far") > SPIKE_DISTANCE) & (pl.col("distance") > SPIKE_SHARE * pl.col("before")) & (pl.col("row") > 20)
    )
    high = high.with_columns(group=(pl.col("row").cast(pl.Int64).diff().fill_null(99) > 5).cum_sum())
    peaks = high.sort("loss", descending=True).group_by("group", maintain_order=True).first()
    for row in peaks.sort("far", descending=True).head(MOST_SPIKES).iter_rows(named=True):
        yield Mark("spike", row["step"], row["step"], "spike", f"Step {row['step']:,}: the loss jumped from "
                   f"{row['before']:.3f} to {row['loss']:.3f}. One is harmless: an odd piece of text. Many mean that "
                   "the learning rate is near its limit.")  # fmt: skip


def _plateau(losses: pl.DataFrame) -> Iterator[Mark]:
    parts = _medians(losses)
    values, best = parts["loss"].to_list(), (0, 0)
    for start in range(len(values)):
        end = start
        # An average of two neighbours decides, so that one lucky part does not end a plateau.
        while (
            end + 1 < len(values)
            and min(values[end + 1 : end + 3]) > values[start] * (1 - PLATEAU_FALL)
            and (abs(values[end + 1] - values[start]) < 3 * PLATEAU_FALL * abs(values[start]))
        ):
            end += 1
        if end - start > best[1] - best[0]:
            best = (start, end)
    length = best[1] - best[0]
    if len(values) and length >= max(PLATEAU_SHARE * len(values), 3):
        start, end = int(parts["start"][best[0]]), int(parts["end"][best[1]])
        sentence = f"Steps {start:,} to {end:,}: the loss fell by less than 1 %. More of the same brings little; "
        remedy = "give the model more layers or other text, or cool the rate down where that has not begun."
        yield Mark("plateau", start, end, "plateau", sentence + remedy)


def _medians(rows: pl.DataFrame, parts: int = PARTS) -> pl.DataFrame:
    """start, end and median loss of equal parts; rows: step, loss."""
    parts = max(min(parts, rows.height), 1)
    return (
        rows.with_row_index("row")
        .group_by(pl.col("row").cast(pl.Int64) * parts // rows.height, maintain_order=True)
        .agg(start=pl.col("step").first(), end=pl.col("step").last(), loss=pl.col("loss").median())
    )


def _runs(parts: pl.DataFrame) -> list[tuple[int, int, float]]:
    """(start, end, least) of neighbouring parts that are marked bad."""
    grouped = parts.with_columns(group=pl.col("bad").rle_id()).filter("bad")
    found = grouped.group_by("group", maintain_order=True).agg(
        pl.col("start").first(), pl.col("end").last(), pl.col("loss").min()
    )
    return [(int(start), int(end), float(least)) for _, start, end, least in found.iter_rows()]
