"""How long a run is: nanochat's own figures, and what cannot be."""

import json
import re
from argparse import Namespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat import horizon
from nanochat.horizon import Horizon, HorizonError, choose_horizon
from nanochat.scripts import base_train
from nanochat.training_plan import plan_pretraining
from tests.support import FIXTURES, needs_fixtures


def flags(**changes: Any) -> Namespace:
    return Namespace(**{**vars(base_train.parser().parse_args([])), **changes})


@needs_fixtures
def test_the_plan_is_nanochats_for_its_own_run() -> None:
    """Steps, batch, factors on the rates and FLOPs, as the log of a real run prints them."""
    base = FIXTURES / "nanochat_2026_07_03"
    log = (base / "logs" / "base_train.log").read_text()
    saved = json.loads((base / "base_checkpoints" / "d4" / "meta_000040.json").read_text())["user_config"]
    plan = plan_pretraining(flags(**saved), 1024)

    def printed(pattern: str) -> float:
        found = re.search(pattern, log)
        assert found is not None, pattern
        return float(found[1].replace(",", ""))

    assert plan.horizon.steps == printed(r"number of iterations: ([\d,]+)")
    assert plan.accumulation == printed(r"gradient accumulation steps: (\d+)")
    assert plan.flops_per_token == printed(r"FLOPs per token: ([\d.e+]+)")
    assert plan.counts["total"] == printed(r"total +: ([\d,]+)")
    assert f"{plan.rates.matrix_lr / saved['matrix_lr']:.4f}" == f"{printed(r'Scaling LRs by ([0-9.]+)'):.4f}"


def test_the_default_run_of_a_deep_model() -> None:
    """By nanochat's rules: d12 is the reference itself, so nothing is scaled there; d24 takes twice the batch."""
    twelve = plan_pretraining(flags(depth=12, device_batch_size=4), 32768)
    assert (twelve.config.n_embd, twelve.config.n_head, twelve.batch) == (768, 6, 2**19)
    assert twelve.rates.matrix_lr == pytest.approx(0.02)
    assert twelve.rates.weight_decay == pytest.approx(0.28)
    assert twelve.horizon.steps == 12 * horizon.scaling_params(twelve.counts) // 2**19
    deep = plan_pretraining(flags(depth=24, device_batch_size=4), 32768)
    assert deep.batch == 2**20
    assert deep.rates.matrix_lr == pytest.approx(0.02 * 2**0.5)
    assert deep.rates.weight_decay < 0.28


def test_the_first_that_is_given_decides() -> None:
    common = {"params": 1000, "flops_per_token": 60, "batch_tokens": 100}
    everything = {"seconds": 60.0, "steps": 7, "tokens": 1000, "flops": 1.2e5, "ratio": 3.0}
    expected = [("seconds", 60.0), ("steps", 7), ("steps", 10), ("steps", 20), ("steps", 30)]
    for field, value in expected:
        assert getattr(choose_horizon(**common, **everything), field) == value
        everything.pop(next(iter(everything)))
    with pytest.raises(HorizonError, match="no end is given"):
        choose_horizon(**common, ratio=None)
    with pytest.raises(HorizonError, match="less than one step"):
        choose_horizon(**common, tokens=99)


@pytest.mark.parametrize("fields", [{}, {"steps": 1, "seconds": 2.0}, {"steps": 0}, {"seconds": float("inf")}])
def test_a_horizon_without_one_end_is_refused(fields: dict) -> None:
    with pytest.raises(HorizonError):
        Horizon(**fields)


@given(st.floats(1, 1000), st.floats(0.01, 50))
def test_a_budget_ends_within_half_a_step_of_itself(seconds: float, step_seconds: float) -> None:
    end, elapsed, step = Horizon(seconds=seconds), 0.0, 0
    while not end.reached(step, elapsed, step_seconds):
        last = end.moment(step, elapsed, step_seconds).progress
        elapsed, step = elapsed + step_seconds, step + 1
        if step == 3000:
            return
    assert abs(elapsed - seconds) <= step_seconds / 2 + 1e-6
    assert step == 0 or last >= 1 - step_seconds / 2 / seconds - 1e-9, "the last update is not at the end's rate"


def test_a_total_that_does_not_divide_is_refused() -> None:
    assert horizon.accumulation_steps(1024, 2, 256) == 2
    for total, rows, length, world in ((1000, 2, 256, 1), (1024, 2, 256, 3), (0, 2, 256, 1), (-1, 2, 256, 1)):
        with pytest.raises(HorizonError, match="no multiple"):
            horizon.accumulation_steps(total, rows, length, world)
