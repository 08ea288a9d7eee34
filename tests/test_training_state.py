"""A run's counters and its clock."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat.training_state import Clock, TrainingState


@given(st.lists(st.floats(0, 20), min_size=1, max_size=40))
def test_the_smooth_loss_is_a_weighted_mean_of_all_losses(losses: list[float]) -> None:
    state = TrainingState()
    assert state.debiased_loss is None
    for loss in losses:
        state.advance(loss, 10, 100)
    weights = [0.9 ** (len(losses) - 1 - i) for i in range(len(losses))]
    expected = math.fsum(w * x for w, x in zip(weights, losses, strict=True)) / math.fsum(weights)
    assert state.debiased_loss == pytest.approx(expected)
    assert (state.step, state.tokens, state.flops) == (len(losses), 10 * len(losses), 100 * len(losses))


def test_it_comes_back_from_a_meta_file_as_it_was() -> None:
    state = TrainingState(val_bpb=None)
    for step in range(15):
        state.advance(5 - step / 10, 64, 6400)
        state.count_time(0.5)
    state.elapsed, state.step_seconds = 12.5, 0.25
    assert state.training_time == 4 * 0.5  # steps 11 to 14: nanochat leaves the first eleven out
    training = {
        "time": 12.5,
        "step_seconds": 0.25,
        "tokens": state.tokens,
        "flops": state.flops,
        "train_loss": state.train_loss,
    }
    meta = {"step": 15, "val_bpb": None, "loop_state": state.loop_state(), "lab": {"training": training}}
    assert TrainingState.of_meta(15, json.loads(json.dumps(meta)), 100) == state


def test_a_run_that_was_never_evaluated_has_no_least_figure() -> None:
    """JSON has no infinity, so a program may have written null."""
    for loop in ({"min_val_bpb": None}, {}):
        assert TrainingState.of_meta(3, {"loop_state": loop}, 100).min_val_bpb == math.inf


def test_the_clock_counts_no_sleep_and_takes_no_notice_of_the_first_update() -> None:
    now = [50.0]
    clock = Clock(lambda: now[0], carried=7.0)
    assert clock.elapsed() == 7.0

    def update(seconds: float) -> bool:
        now[0] += seconds
        return clock.count(seconds)

    assert not update(43.0)  # it compiles
    assert clock.typical == 0.0
    assert clock.typical_or(2.0) == 2.0
    assert not update(0.5)
    assert clock.typical == 0.5
    assert not update(9.0)  # slow, but not long enough to be sleep
    assert update(3600.0)
    assert clock.elapsed() == pytest.approx(7 + 43 + 0.5 + 9 + clock.typical)


def test_a_resumed_run_knows_how_long_an_update_takes() -> None:
    """Else a run whose budget was spent to half an update would make one more, or not, as the clock has it."""
    now = [50.0]
    clock = Clock(lambda: now[0], carried=9.8, typical=0.6)
    assert clock.typical == 0.6
    now[0] += 43.0
    assert not clock.count(43.0)  # the first update compiles again: no sleep, and no measure
    assert (clock.typical, clock.elapsed()) == (0.6, pytest.approx(52.8))
