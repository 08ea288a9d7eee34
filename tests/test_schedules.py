"""Schedules: equal to nanochat's on its own logs, and sane for every setting."""

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat.schedules import KINDS, Moment, Momentum, Schedule, ScheduleError, WeightDecay
from tests.support import FIXTURES, needs_fixtures

LINE = re.compile(r"^step (\d+)/(\d+) .*? lrm: ([\d.]+) ", re.MULTILINE)
shares = st.floats(0, 1)
schedules = st.builds(Schedule, st.sampled_from(KINDS), st.integers(0, 60), shares, shares)


@needs_fixtures
@pytest.mark.parametrize("log", ["base_train.log", "base_train_resume80.log", "bench_eager_base_train.log"])
def test_the_multiplier_is_nanochats_at_every_logged_step(log: str) -> None:
    """That run was made with 5 warmup steps and else nanochat's defaults; the log has two decimals."""
    found = LINE.findall((FIXTURES / "nanochat_2026_07_03" / "logs" / log).read_text())
    assert len(found) >= 40
    for step, steps, multiplier in found:
        ours = Schedule(warmup_steps=5).multiplier(Moment(int(step), int(steps)))
        assert f"{ours:.2f}" == multiplier, step


@given(schedules, st.integers(1, 300))
def test_it_stays_between_nothing_and_all_and_never_jumps_up_while_cooling(schedule: Schedule, steps: int) -> None:
    values = [schedule.multiplier(Moment(step, steps)) for step in range(steps + 1)]
    assert all(0 <= value <= 1 for value in values)
    cooling = [v for step, v in enumerate(values) if schedule.phase(Moment(step, steps)) == "warmdown"]
    assert all(a >= b - 1e-12 for a, b in itertools.pairwise(cooling))
    phases = [schedule.phase(Moment(step, steps)) for step in range(steps + 1)]
    order = ["warmup", "stable", "warmdown"]
    assert [order.index(p) for p in phases] == sorted(order.index(p) for p in phases)


@given(schedules)
def test_it_ends_where_it_should(schedule: Schedule) -> None:
    for end in (Moment(500, 500), Moment(500, None, 1.0)):
        if schedule.kind == "constant" or (schedule.kind == "wsd" and schedule.warmdown_ratio == 0):
            assert schedule.multiplier(end) == 1.0
        elif schedule.kind == "wsd" and round(500 * schedule.warmdown_ratio) == 0:
            assert schedule.multiplier(end) in (1.0, schedule.final_fraction)
        else:
            assert schedule.multiplier(end) == pytest.approx(schedule.final_fraction)


@given(schedules, st.integers(0, 1000), shares)
def test_a_budget_cools_down_by_time_whatever_the_steps(schedule: Schedule, step: int, elapsed: float) -> None:
    assert 0 <= schedule.multiplier(Moment(step, None, elapsed)) <= 1


def test_a_budget_follows_the_same_curve_as_steps() -> None:
    schedule = Schedule(warmup_steps=0)
    for step in range(0, 1001, 50):
        by_step, by_time = schedule.multiplier(Moment(step, 1000)), schedule.multiplier(Moment(step, None, step / 1000))
        assert by_step == pytest.approx(by_time, abs=1e-9)


def test_warming_up_takes_at_most_a_tenth_of_a_budget() -> None:
    schedule = Schedule(warmup_steps=1000)
    assert schedule.multiplier(Moment(2, None, 0.05)) == pytest.approx(0.5)
    assert schedule.multiplier(Moment(3, None, 0.1)) == 1.0
    assert Schedule(warmup_steps=4).multiplier(Moment(3, None, 0.001)) == 1.0


def test_momentum_warms_up_holds_and_falls() -> None:
    schedule, momentum = Schedule(), Momentum()
    assert momentum.value(Moment(0, 2000), schedule) == pytest.approx(0.85)
    assert momentum.value(Moment(200, 2000), schedule) == pytest.approx(0.91)
    assert momentum.value(Moment(500, 2000), schedule) == 0.97
    assert momentum.value(Moment(700, 2000), schedule) == pytest.approx(0.97)
    assert momentum.value(Moment(2000, 2000), schedule) == pytest.approx(0.90)
    assert momentum.value(Moment(500, None, 1.0), schedule) == pytest.approx(0.90)


def test_weight_decay_ends_at_nothing() -> None:
    for kind, middle in (("cosine", 0.5), ("linear", 0.5), ("constant", 1.0)):
        decay = WeightDecay(kind)  # type: ignore[arg-type]
        assert decay.multiplier(Moment(0, 10)) == 1
        assert decay.multiplier(Moment(5, 10)) == pytest.approx(middle)
        assert decay.multiplier(Moment(10, 10)) == pytest.approx(1.0 if kind == "constant" else 0.0)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"kind": "step"}, "schedule 'step' is unknown"),
        ({"warmup_steps": -1}, "warmup_steps is -1"),
        ({"warmdown_ratio": 1.5}, "warmdown_ratio is 1.5"),
        ({"final_fraction": float("nan")}, "final_fraction is nan"),
    ],
)
def test_nonsense_is_refused(fields: dict, words: str) -> None:
    with pytest.raises(ScheduleError, match=words):
        Schedule(**fields)
