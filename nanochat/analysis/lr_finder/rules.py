"""Where a range test's curve says that a good rate lies: fastai's four rules, and when the curve says nothing.

A range test raises the rate from step to step. The loss stays, falls, and rises again; a good rate lies where it falls
and well before it rises. fastai's rules read that place off a curve of rates and smoothed losses:

- valley: the longest chain of ever lower losses, and of it a point half way (a third and half a third in)
- steep: where the loss falls fastest for each doubling of the rate
- minimum: a tenth of the rate with the lowest loss
- slide: going back from the end, the first rate from where on the slope has settled

The suggestion is `minimum`. Of six sweeps from rates 30 times too large or too small (nanochat.benchmarks.lr_finder)
its short runs ended within 2.3 % of the best of a grid, steep's within 11 %; valley and slide look for the fall, which
with fresh weights begins long before the rates are large enough, and were far too low where rates were too small.
It is no law: a sweep of 60 updates of 512 tokens gave 9 times too much. For that there are short runs (trials.py).

Source: fastai.callback.schedule (valley, slide, minimum, steep, LRFinder, lr_find); L. Smith, arXiv 1506.01186.

    python -c "from nanochat.analysis.lr_finder.rules import steep; print(steep([0.1, 0.2, 0.4], [3.0, 2.0, 1.9]))"
"""

import bisect
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

DIVERGED = 4.0  # times the best smoothed loss: fastai stops there
SKIP_BEGIN, SKIP_END = 0.1, 5  # part and number of points that fastai leaves out
FEWEST = 12  # points that are left, for any rule
FALL = 0.02  # of the loss at the beginning: a smaller fall is no fall
RISE = 0.1  # of the fall, by which the loss must come up again
NOISE = 3.0  # times the usual step of the smoothed curve, which a fall must exceed too
SETTLED, BEHIND = 0.005, 15  # slide: difference of slopes, points between them
RULES = ("valley", "steep", "minimum", "slide")


class RangeTestError(ValueError):
    """A range test that cannot be made: one sentence."""


@dataclass(frozen=True)
class Suggestions:
    """What a curve says."""

    rates: dict[str, float]  # rule -> rate or multiplier; empty where there is no clear minimum
    chosen: float | None  # the one to begin with
    why: str  # how it was chosen, or why there is none: a sentence

    @property
    def clear(self) -> bool:
        """Whether the curve says anything."""
        return self.chosen is not None


def valley(rates: Sequence[float], losses: Sequence[float]) -> float:
    """Half way into the longest chain of falling losses (the chain may jump over others)."""
    lengths: list[int] = []
    tails: list[float] = []  # of chains by length, the end that leaves most room below it
    for loss in losses:
        place = bisect.bisect_left(tails, -loss)
        tails[place : place + 1] = [-loss]
        lengths.append(place + 1)
    end = int(np.argmax(lengths)) if max(lengths) > 1 else 0
    begin = end - lengths[end] if end else 0
    third = (end - begin) / 3
    return float(rates[begin + int(third) + int(third / 2)])


def steep(rates: Sequence[float], losses: Sequence[float]) -> float:
    """Where the loss falls fastest along the logarithm of the rate."""
    slopes = np.diff(np.asarray(losses)) / np.diff(np.log(np.asarray(rates)))
    return float(rates[int(np.argmin(slopes))])


def minimum(rates: Sequence[float], losses: Sequence[float]) -> float:
    """A tenth of the rate with the lowest loss."""
    return float(rates[int(np.argmin(losses))]) / 10


def slide(rates: Sequence[float], losses: Sequence[float]) -> float:
    """From the end back, the rate at which the slope is that of 15 points further on."""
    slopes = np.gradient(np.asarray(losses, dtype=float))
    right, left = len(slopes) - 1, len(slopes) - 1 - BEHIND
    if left < 0:
        return float(rates[0])
    found = float(rates[left])
    while left >= 0 and abs(slopes[right] - slopes[left]) > SETTLED:
        found = float(rates[left])
        right, left = right - 1, left - 1
    return found


def cut(rates: Sequence[float], losses: Sequence[float], planned: int) -> tuple[list[float], list[float]]:
    """The curve without its first tenth, where averages warm up, and its last points, where it breaks off.

    planned: points that the sweep was to have, as fastai counts the tenth.
    """
    begin = int(planned * SKIP_BEGIN)
    return list(rates[begin : len(rates) - SKIP_END]), list(losses[begin : len(losses) - SKIP_END])


def suggest(
    rates: Sequence[float], losses: Sequence[float], planned: int | None = None, diverged: bool = False
) -> Suggestions:
    """What the rules say about a curve of rates and smoothed losses; nothing where it has no clear minimum.

    planned: points that the sweep was to have. diverged: behind the last point the loss was no number any more.
    Raises RangeTestError for lists of two lengths.
    """
    if len(rates) != len(losses):
        raise RangeTestError(f"{len(rates)} rates and {len(losses)} losses are no curve; give one loss for each rate")
    x, y = cut(rates, losses, planned or len(rates))
    if len(x) < FEWEST:
        return _none(f"only {max(len(x), 0)} points are left of the curve, and {FEWEST} are needed")
    array = np.asarray(y, dtype=float)
    if not np.isfinite(array).all():
        return _none("the loss became no number inside the curve")
    lowest = int(array.argmin())
    fall, noise = float(array[: lowest + 1].max() - array[lowest]), _noise(array)
    if fall < max(FALL * abs(float(array[0])), NOISE * noise):
        return _none(
            f"the loss falls by {max(fall, 0):.3f} only, which is less than {FALL:.0%} of it or lost in its noise"
        )
    found = {rule.__name__: rule(x, y) for rule in (valley, steep, minimum, slide)}
    bottom = int(np.argmin(losses))  # of the whole curve: what comes up again is mostly in the part that is cut off
    if not diverged and max(losses[bottom:]) - losses[bottom] < RISE * fall:
        return _none("the loss still falls at the highest rate; sweep up to a higher one")
    if lowest <= len(y) // 20:
        return _none("the loss is lowest at the lowest rate and only rises; sweep from a lower one")
    why = "a tenth of the factor with the lowest loss"
    return Suggestions(found, found["minimum"], why)


def _noise(losses: NDArray[np.float64]) -> float:
    """The usual distance of a point from the line between its neighbours."""
    bend: ArrayLike = losses[1:-1] - (losses[:-2] + losses[2:]) / 2
    return float(np.median(np.abs(bend))) * 1.4826


def _none(reason: str) -> Suggestions:
    return Suggestions({}, None, f"no clear minimum: {reason}")
