"""Whether a suggestion holds: short runs with it, with a third of it and with three times as much, and who wins.

A range test sees each rate for one update; a run lives with one for all of them. So short runs decide: the same
weights, the same text, warmup and cool-down included, and three rates. Where an end of the three is best, the next
one beyond it is tried too.

    for step in trial(subject, 0.05, Trial(steps=60)): ...
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import polars as pl

from nanochat.analysis.lr_finder.rules import RangeTestError
from nanochat.analysis.lr_finder.subject import Subject, restored
from nanochat.horizon import Horizon
from nanochat.schedules import Schedule
from nanochat.training_parts import Setup

APART = 3.0  # factor between two of the rates
MOST_RATES = 6
CLOSE = 0.01  # of the loss: less is the luck of the text
LAST = 0.2  # of the run, whose losses count
STEPS = {"factor": pl.Float64, "seed": pl.Int64, "step": pl.Int64, "loss": pl.Float64}


@dataclass(frozen=True)
class Trial:
    """How long the short runs are."""

    steps: int = 60
    seeds: int = 1

    def __post_init__(self) -> None:
        if not 10 <= self.steps <= 10_000 or not 1 <= self.seeds <= 20:
            raise RangeTestError(
                f"a trial of {self.steps} steps and {self.seeds} seeds cannot be; give 10 to 10,000 and 1 to 20"
            )


@dataclass(frozen=True)
class TrialStep:
    """One update of a short run."""

    factor: float
    seed: int
    step: int
    loss: float | None  # None: it diverged here


@dataclass(frozen=True)
class Verdict:
    """What the short runs came to."""

    suggested: float
    best: float
    losses: dict[float, float]  # factor -> mean loss of the last part of its runs, infinite where one diverged
    held: bool
    words: str


def trial(
    subject: Subject, suggested: float, settings: Trial, stop: Callable[[], str | None] = lambda: None
) -> Iterator[TrialStep]:
    """Run with three factors on the rates, and with further ones as long as an end of them is best."""
    found: dict[float, float] = {}
    with restored(subject.model, subject.optimizer) as put_back:
        while factors := _next(suggested, found):
            for factor in factors:
                taken: list[TrialStep] = []
                for seed in range(settings.seeds):
                    put_back()
                    for step in _short_run(subject, factor, seed, settings, stop):
                        taken.append(step)
                        yield step
                    if stop():
                        return
                found[factor] = final_loss(taken, settings)


def short_runs(subject: Subject, factor: float, settings: Trial) -> float:
    """Mean loss at the end of short runs with one factor on the rates, a run for each seed; infinite where one
    diverged."""
    with restored(subject.model, subject.optimizer) as put_back:
        taken: list[TrialStep] = []
        for seed in range(settings.seeds):
            put_back()
            taken += _short_run(subject, factor, seed, settings, lambda: None)
    return final_loss(taken, settings)


def _short_run(
    subject: Subject, factor: float, seed: int, settings: Trial, stop: Callable[[], str | None]
) -> Iterator[TrialStep]:
    """One training from beginning to end, warmup and cool-down included."""
    from nanochat.training import train

    if subject.renew is not None:
        subject.renew(seed)
    for group in subject.optimizer.param_groups:
        group["initial_lr"] *= factor
    setup = Setup(
        subject.model, subject.optimizer, subject.open_loader(seed), Horizon(steps=settings.steps), subject.loss,
        Schedule("wsd", max(settings.steps // 10, 1), 0.5, 0.05), accumulation=subject.accumulation,
        device=subject.device, stop=stop,
    )  # fmt: skip
    with contextlib.closing(train(setup)) as records:  # type: ignore[type-var]  # a generator has close
        for number, record in enumerate(records):
            bad = "diverged" in record.events
            if bad or record.train_loss is not None:
                yield TrialStep(factor, seed, number, None if bad else record.train_loss)


def _next(suggested: float, found: dict[float, float]) -> list[float]:
    """The factors that are to be tried next."""
    if not found:
        return [suggested / APART, suggested, suggested * APART]
    tried = sorted(found)
    best = min(tried, key=found.__getitem__)
    if len(tried) >= MOST_RATES or not math.isfinite(found[best]):
        return []
    if best == tried[0]:
        return [best / APART]
    return [best * APART] if best == tried[-1] else []


def final_loss(taken: Sequence[TrialStep], settings: Trial) -> float:
    """Mean loss of the last part of the runs; infinite where one did not get there."""
    if any(step.loss is None for step in taken):
        return math.inf
    last = [step.loss for step in taken if step.loss is not None and step.step >= (1 - LAST) * settings.steps]
    return sum(last) / len(last) if last else math.inf


def verdict(steps: pl.DataFrame, suggested: float, settings: Trial) -> Verdict | None:
    """The report of the short runs' steps (columns of STEPS); None where fewer than two factors came to an end."""
    losses = {}
    for (factor,), rows in steps.group_by("factor", maintain_order=True):
        taken = [TrialStep(*row) for row in rows.select(list(STEPS)).iter_rows()]
        ended = sum(one.step == settings.steps - 1 or one.loss is None for one in taken)
        if ended == settings.seeds:
            losses[float(factor)] = final_loss(taken, settings)
    if len(losses) < 2:
        return None
    best = min(losses, key=losses.__getitem__)
    mine = losses.get(suggested, math.inf)
    if not math.isfinite(losses[best]):
        return Verdict(suggested, best, losses, False, "Every rate of the trial diverged: sweep from a lower one.")
    held = mine <= losses[best] * (1 + CLOSE)
    if held:
        words = f"The suggestion held: {mine:.4f} nats a token at its end, and no other rate was more than 1% better."
    else:
        way = "higher" if best > suggested else "lower"
        ratio = max(best / suggested, suggested / best)
        reached = f"against {mine:.4f}" if math.isfinite(mine) else "where the suggestion diverged"
        words = (
            f"The suggestion did not hold: a rate {ratio:.0f} times {way} ended at {losses[best]:.4f}, {reached}. "
            "Take that one."
        )
    return Verdict(suggested, best, losses, held, words)
