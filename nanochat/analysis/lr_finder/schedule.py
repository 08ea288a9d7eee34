"""Which schedule a run's learning rates followed, told from the rates alone.

The word is the wish's: constant, decay, warmup, warmup_decay, custom; "unknown" where the rates say too little. The
detail names the shape. Rates come printed with two decimals, cut short, thinned out to the saved steps, or as a factor
on rates that nobody wrote down, so every rule works on rate / highest rate and allows for the rounding.

    python -c "from nanochat.analysis.lr_finder import recognise; print(recognise(range(9), [1.0] * 9))"
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanochat.schedules import Schedule

WORDS = ("constant", "decay", "warmup", "warmup_decay", "custom", "unknown")
EXACT, ROUNDED = 2e-3, 6e-3  # parts of the highest rate that two equal rates may differ by; as printed in logs
LOOSE = 0.05  # largest distance from a shape: rates that follow a clock wander about the line by the step
FEWEST = 3  # rates; two points are a line of any kind
SHAPED = 4  # points of a rise or fall that tell its shape
DROP = 0.03  # of the highest rate, from where on a jump is a step and no rounding
STABLE = 0.03  # of the run that is flat at the top, from where on it counts as a part of its own
LONG_RISE = 0.25  # of the run: a warmup is shorter
MOST_POINTS = 600  # that shapes are fitted to
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Recognised:
    """What a schedule is and how that is known."""

    word: str  # one of WORDS
    detail: str  # "warmup-stable-decay, linear", "cosine", "step", ...
    reason: str  # a sentence
    warmup_end: int | None = None  # step of the first full rate
    decay_start: int | None = None  # step where the rate begins to fall
    final: float | None = None  # last rate, part of the highest
    source: str = "rates"  # "rates", or "settings" where no rates are known


def recognise(
    steps: Sequence[int],
    rates: Sequence[float],
    *,
    times: Sequence[float] | None = None,
    horizon: int | None = None,
    settings: Schedule | None = None,
) -> Recognised:
    """The schedule of a run, of learning rates or of factors on them.

    steps: rising. times: seconds, for a run whose rates follow the clock. horizon: how many steps it was to have.
    settings: what the run's own settings say, for what the rates leave open.
    """
    x, y = np.asarray(steps, dtype=float), np.asarray(rates, dtype=float)
    known = np.isfinite(y)
    x, y = x[known], y[known]
    t = None if times is None else np.asarray(times, dtype=float)[known]
    if len(y) < FEWEST or y.max() <= 0:
        return _by_settings(settings, len(y), horizon)
    found = _recognised(x, y / y.max(), t)
    return _completed(found, int(x[0]), int(x[-1]), horizon, settings)


def _recognised(x: Array, y: Array, t: Array | None) -> Recognised:
    """x: steps; y: parts of the highest rate, one of them 1; t: seconds."""
    tolerance = ROUNDED if np.allclose(y * 100, np.round(y * 100), atol=1e-6) else EXACT
    final = float(y[-1])
    if np.ptp(y) <= tolerance:
        return Recognised("constant", "constant", f"all {len(y):,} rates are the same", final=final)
    top = np.flatnonzero(y >= 1 - tolerance)
    first, last = int(top[0]), int(top[-1])
    wrong = _against(y, first, last, tolerance)
    if wrong is not None:
        detail = "rises and falls more than once"
        return Recognised("custom", detail, f"it turns again at step {int(x[wrong]):,}", final=final)
    rises, falls = first > 0, last < len(y) - 1
    warm = int(x[first]) if rises else None
    if rises and not falls:
        words = f"it rises up to step {warm:,} and does not fall after that"
        return Recognised("warmup", "warmup only", words, warm, final=final)
    shape, start = _fall(x, y, t, first, last, tolerance)
    begin = round(start)
    span = float(x[-1] - x[first]) or 1.0
    gap = max(3.0, float(np.median(np.diff(x))))  # between two rates a turn cannot be placed
    stable = shape != "step" and start - x[first] > max(STABLE * span, gap)
    share = (x[first] - x[0]) / (float(x[-1] - x[0]) or 1.0)
    below = f"falls to {final:.0%} of it by step {int(x[-1]):,}"
    if rises and y[-1] <= y[0] + tolerance and (share >= LONG_RISE or _is_cosine_rise(x[: first + 1], y[: first + 1])):
        words = f"it rises over {share:.0%} of the run, to step {warm:,}, and {below}: one cycle up and down"
        return Recognised("warmup_decay", f"one-cycle, {shape}", words, warm, begin, final)
    if shape == "another":
        kind = "warmup, then a fall of another shape" if rises else "a fall of another shape"
        words = f"it {below}, and no line, cosine, exponential or staircase comes near"
        return Recognised("custom", kind, words, warm, begin, final)
    path = [f"rises up to step {warm:,}"] if rises else []
    path += [f"stays up to step {begin:,}"] if stable else []
    reason = f"it {', '.join([*path, below])}"
    word = "warmup_decay" if rises else "decay"
    if stable:
        return Recognised(word, f"{'warmup-' if rises else ''}stable-decay, {shape}", reason, warm, begin, final)
    return Recognised(word, f"warmup + {shape}" if rises else shape, reason, warm, begin, final)


def _against(y: Array, first: int, last: int, tolerance: float) -> int | None:
    """The first place where it does not rise before the top, stay at it, and fall behind it; None: nowhere."""
    slack = max(2 * tolerance, 0.02)  # a clock lets rates waver
    rising, falling = y[: first + 1], y[last:]
    bad = np.concatenate(
        [np.maximum.accumulate(rising) - rising, 1 - y[first + 1 : last], falling - np.minimum.accumulate(falling)]
    )
    places = np.flatnonzero(bad > slack)
    return min(int(places[0]), len(y) - 1) if len(places) else None


def _fall(x: Array, y: Array, t: Array | None, first: int, last: int, tolerance: float) -> tuple[str, float]:
    """(shape, step where it begins) of the part behind the top."""
    if len(y) - 1 - last < SHAPED:
        return "too few points for a shape", float(x[last])
    jumps = -np.diff(y[last:])
    steps_down = jumps > DROP
    if steps_down.any() and (jumps[~steps_down] <= tolerance / 2).all() and steps_down.sum() <= len(jumps) / 3:
        return "step", float(x[last + 1 + int(np.flatnonzero(steps_down)[0])])
    best: tuple[float, str, float] = (math.inf, "another", float(x[last]))
    for axis in [x] if t is None or not np.isfinite(t).all() or (np.diff(t) <= 0).any() else [x, t]:
        for error, shape, start in _fits(axis, y, first, last):
            place = float(np.interp(start, axis, x))
            if error < 0.8 * best[0]:  # a simpler shape, and steps before seconds, unless another is clearly nearer
                best = (error, shape, place)
        if best[0] <= max(tolerance, EXACT) * 1.5:
            break
    if best[0] > LOOSE and first == 0 and _is_later_cosine(x, y):
        return "cosine, its beginning missing", float(x[0])
    near = best[0] <= (LOOSE if best[1] != "exponential" else LOOSE / 2)
    return (best[1], best[2]) if near else ("another", best[2])


def _fits(axis: Array, y: Array, first: int, last: int) -> list[tuple[float, str, float]]:
    """(largest distance, shape, begin on the axis) of a line, a cosine and an exponential."""
    inside = np.unique(np.linspace(last, len(y) - 1, min(MOST_POINTS, len(y) - last)).astype(int))
    a, b = axis[inside], y[inside]
    below = b < 1 - ROUNDED
    if below.sum() < SHAPED:  # a run that has only begun to cool down
        below = np.arange(len(b)) > 0
    slope, offset = np.polyfit(a[below], b[below], 1)
    begin = float(np.clip((1 - offset) / slope, axis[first], a[below][0]))
    found = [(float(np.abs(slope * a[below] + offset - b[below]).max()), "linear", begin)]
    found.append(_cosine(axis, y, first, last))
    positive = below & (b > 1e-4)
    if positive.sum() >= SHAPED:
        slope, offset = np.polyfit(a[positive], np.log(b[positive]), 1)
        error = float(np.abs(np.exp(slope * a[positive] + offset) - b[positive]).max())
        found.append((error, "exponential", float(np.clip(-offset / slope, axis[first], axis[last]))))
    return found


def _cosine(axis: Array, y: Array, first: int, last: int) -> tuple[float, str, float]:
    """The nearest half wave: begun somewhere at the top, cut off anywhere, with any floor."""
    inside = np.unique(np.linspace(first, len(y) - 1, min(200, len(y) - first)).astype(int))
    a, b = axis[inside], y[inside]
    best = (math.inf, "cosine", float(axis[last]))
    for start in np.linspace(axis[first], axis[last], 16):
        for length in (axis[-1] - start) * np.geomspace(1, 3, 24):
            wave = 0.5 * (1 + np.cos(np.pi * np.clip((a - start) / length, 0, 1)))
            rest = 1 - wave
            floor = float(np.clip(((b - wave) * rest).sum() / max((rest * rest).sum(), 1e-12), 0, 0.99))
            error = float(np.abs(wave + floor * rest - b).max())
            if error < best[0]:
                best = (error, "cosine", float(start))
    return best


def _is_later_cosine(x: Array, y: Array) -> bool:
    """Whether it is a part of a half wave whose top is not in sight."""
    inside = np.unique(np.linspace(0, len(y) - 1, min(200, len(y))).astype(int))
    a, b = (x[inside] - x[0]) / (x[-1] - x[0]), y[inside]
    for part in np.linspace(0.3, 1, 36):  # of the half wave, that is known
        waves = np.stack([np.ones_like(a), np.cos(np.pi * part * a), np.sin(np.pi * part * a)], axis=1)
        fitted = waves @ np.linalg.lstsq(waves, b, rcond=None)[0]
        if np.abs(fitted - b).max() <= ROUNDED:
            return True
    return False


def _is_cosine_rise(x: Array, y: Array) -> bool:
    """Whether a rise is half a wave and no line."""
    if len(x) < SHAPED + 2:
        return False
    part = (x - x[0]) / (x[-1] - x[0])
    wave = y[0] + (y[-1] - y[0]) * 0.5 * (1 - np.cos(np.pi * part))
    line = y[0] + (y[-1] - y[0]) * part
    return bool(np.abs(wave - y).max() < 0.5 * np.abs(line - y).max() and np.abs(wave - y).max() < LOOSE)


def _completed(found: Recognised, first: int, last: int, horizon: int | None, settings: Schedule | None) -> Recognised:
    """The same, with what the rates cannot show: a beginning that is missing, an end that has not come."""
    words = found.reason
    if first > 1 and found.word in ("constant", "decay"):
        words += f"; what was before step {first:,} is not in the files, so there may have been a warmup"
    if horizon is not None and last < horizon - max(2, horizon // 100):
        words += f"; the run was to have {horizon:,} steps, and its rates are known up to {last:,}"
    unseen = first > 1 and found.word == "decay"
    if settings is not None and (found.word in ("constant", "warmup") or unseen):
        words += f"; its settings say {said(settings)}"
    return replace(found, reason=words)


def said(settings: Schedule) -> str:
    """A schedule's settings in words.

    >>> said(Schedule("wsd", 40, 0.65, 0.05))
    'warmup-stable-decay: 40 steps up, the last 65% down to 5%'
    """
    up = f"{settings.warmup_steps} steps up, " if settings.warmup_steps else ""
    if settings.kind == "wsd":
        name = "warmup-stable-decay" if up else "stable-decay"
        return f"{name}: {up}the last {settings.warmdown_ratio:.0%} down to {settings.final_fraction:.0%}"
    return f"{settings.kind}{f', {up[:-2]}' if up else ''}"


def _by_settings(settings: Schedule | None, count: int, horizon: int | None) -> Recognised:
    """The answer where no rates are known."""
    few = f"only {count} learning rate{'' if count == 1 else 's'} of it {'is' if count == 1 else 'are'} known"
    if settings is None:
        return Recognised("unknown", "unknown", f"{few}, and no settings tell", source="nothing")
    falls = settings.kind != "constant" and (settings.kind != "wsd" or settings.warmdown_ratio > 0)
    warm = settings.warmup_steps > 0
    word = {(True, True): "warmup_decay", (True, False): "warmup", (False, True): "decay", (False, False): "constant"}
    cool: Any = None
    if settings.kind == "wsd" and horizon is not None and falls:
        cool = horizon - round(settings.warmdown_ratio * horizon)
    return Recognised(
        word[warm, falls], said(settings), f"{few}; this is what its settings say", settings.warmup_steps or None, cool,
        settings.final_fraction if falls else None, "settings",
    )  # fmt: skip
