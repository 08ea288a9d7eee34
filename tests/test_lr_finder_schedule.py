"""The schedules of runs told apart by their rates: whole, printed, thinned out, cut short, resumed, by the clock."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from nanochat.analysis import lr_finder
from nanochat.schedules import Moment, Schedule


def ours(kind: Any, warm: float, final: float = 0.05, down: float = 0.65) -> Callable[[int], list[float]]:
    return lambda n: [Schedule(kind, round(warm * n), down, final).multiplier(Moment(i, n)) for i in range(n)]


def stairs(n: int) -> list[float]:
    return [1.0 if i < 0.3 * n else 0.1 if i < 0.7 * n else 0.01 for i in range(n)]


def one_cycle(n: int) -> list[float]:
    top = 3 * n // 10
    up = [0.52 - 0.48 * math.cos(math.pi * i / top) for i in range(top)]
    return up + [0.5 + 0.5 * math.cos(math.pi * i / (n - top)) for i in range(n - top)]


SCHEDULES: dict[str, tuple[Callable[[int], list[float]], str, str]] = {
    "constant": (lambda n: [1.0] * n, "constant", "constant"),
    "linear": (ours("linear", 0), "decay", "linear"),
    "cosine": (ours("cosine", 0), "decay", "cosine"),
    "exponential": (lambda n: [math.exp(-3 * i / n) for i in range(n)], "decay", "exponential"),
    "step": (stairs, "decay", "step"),
    "stable": (ours("wsd", 0, 0, 0.3), "decay", "stable-decay, linear"),
    "warmup": (ours("constant", 0.05), "warmup", "warmup only"),
    "warmup, linear": (ours("linear", 0.05), "warmup_decay", "warmup + linear"),
    "warmup, cosine": (ours("cosine", 0.05), "warmup_decay", "warmup + cosine"),
    "nanochat": (ours("wsd", 0.05), "warmup_decay", "warmup-stable-decay, linear"),
    "warmup, step": (lambda n: [min(20 * (i + 1) / n, v) for i, v in enumerate(stairs(n))], "warmup_decay",
                     "warmup + step"),
    "one cycle": (one_cycle, "warmup_decay", "one-cycle, cosine"),
    "restarts": (lambda n: [0.5 + 0.5 * math.cos(8 * math.pi * i / n) for i in range(n)], "custom", "rises and falls"),
}  # fmt: skip


@pytest.mark.parametrize("steps", [60, 2000])
@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_is_told_whole_printed_and_as_rates(name: str, steps: int) -> None:
    make, word, detail = SCHEDULES[name]
    factors = make(steps)
    for rates in (factors, [round(value, 2) for value in factors], [0.0199 * value for value in factors]):
        found = lr_finder.recognise(range(steps), rates)
        assert (found.word, found.detail[: len(detail)]) == (word, detail), found


@pytest.mark.parametrize("name", SCHEDULES)
def test_thinned_out_to_saved_steps(name: str) -> None:
    """25 of 300 steps, two decimals: a warmup of 15 steps still shows at its first rate."""
    make, word, detail = SCHEDULES[name]
    found = lr_finder.recognise(range(11, 300, 12), [round(value, 2) for value in make(300)[11::12]])
    assert (found.word, found.detail[: len(detail)]) == (word, detail), found
    short = lr_finder.recognise([100, 200], [1.0, 0.5])
    assert (short.word, short.source) == ("unknown", "nothing")


@pytest.mark.parametrize(
    ("name", "word", "detail"),
    [("nanochat", "warmup_decay", "warmup-stable-decay, linear"), ("warmup, cosine", "warmup_decay", "warmup + cosine"),
     ("stable", "constant", "constant"), ("cosine", "decay", "cosine"), ("step", "decay", "step")],
)  # fmt: skip
def test_cut_short_it_says_how_far_its_rates_are_known(name: str, word: str, detail: str) -> None:
    factors = SCHEDULES[name][0](1000)[:650]
    found = lr_finder.recognise(range(650), factors, horizon=1000, settings=Schedule("wsd", 0, 0.3))
    assert (found.word, found.detail) == (word, detail), found
    assert "was to have 1,000 steps, and its rates are known up to 649" in found.reason
    if word == "constant":
        assert "its settings say stable-decay: the last 30%" in found.reason


@pytest.mark.parametrize(("name", "shape"), [("nanochat", "warmup-stable-decay"), ("linear", "linear")])
def test_a_run_that_has_just_begun_to_cool_down(name: str, shape: str) -> None:
    """Somebody looks while it trains: its rates have fallen by some thousandths."""
    factors = [value for value in SCHEDULES[name][0](10_000) if value >= 0.9945 or name == "nanochat"][:3530]
    found = lr_finder.recognise(range(len(factors)), factors, horizon=10_000)
    assert found.detail.startswith(shape), found


@pytest.mark.parametrize(
    ("name", "detail"), [("nanochat", "linear"), ("warmup, cosine", "cosine, its beginning missing"),
                         ("warmup, linear", "linear"), ("warmup, step", "step")],
)  # fmt: skip
def test_of_a_resumed_run_the_beginning_is_missing(name: str, detail: str) -> None:
    found = lr_finder.recognise(range(400, 1000), SCHEDULES[name][0](1000)[400:])
    assert (found.word, found.detail) == ("decay", detail), found
    assert "before step 400 is not in the files, so there may have been a warmup" in found.reason


def test_rates_that_follow_a_clock() -> None:
    """Linear in seconds, and every tenth step took four times as long."""
    seconds = np.cumsum([4.0 if i % 10 == 9 else 1.0 for i in range(200)])
    rates = [min(1.0, (seconds[-1] + 1 - t) / (0.75 * seconds[-1])) for t in seconds]
    found = lr_finder.recognise(range(200), rates, times=seconds.tolist())
    assert (found.word, found.detail) == ("decay", "stable-decay, linear")


def test_settings_speak_where_no_rates_are_known() -> None:
    found = lr_finder.recognise([], [], horizon=1000, settings=Schedule("wsd", 40, 0.65, 0.05))
    assert (found.word, found.source, found.warmup_end, found.decay_start) == ("warmup_decay", "settings", 40, 350)
    assert lr_finder.recognise([1, 2, 3], [math.nan] * 3).word == "unknown"
