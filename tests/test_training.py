"""The loop: what it computes, what it records, and how it ends."""

import itertools
import math
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from nanochat.checkpoint_manager import list_steps, verify
from nanochat.dataloader import Batch
from nanochat.horizon import Horizon
from nanochat.optim import OptimConfig, build_optimizer
from nanochat.records import METRICS_NAME, StepRecord, read_lines
from nanochat.schedules import Moment, Schedule
from nanochat.training import Look, Setup, TrainingError, last_record, train
from nanochat.training_setup import batch_loss, new_model
from nanochat.training_state import TrainingState
from tests.archive_support import same
from tests.checkpoint_support import tiny_config
from tests.training_support import everything, held, last, setup_of, without_clocks


class Fixed:
    """A loader of given batches."""

    progress = None
    closed = False

    def __init__(self, batches: list[Batch]) -> None:
        self._batches: Iterator[Batch] = iter(batches)
        self.taken = 0

    def next_batch(self) -> Batch:
        self.taken += 1
        return next(self._batches)

    @property
    def position(self) -> dict[str, int]:
        return {"pq_idx": 0, "rg_idx": self.taken, "epoch": 1}

    def state_dict(self) -> dict[str, Any]:
        return {"taken": self.taken}

    def close(self) -> None:
        self.closed = True


class Counted:
    """A loader whose position moves on with every batch."""

    def __init__(self, loader: Any) -> None:
        self._loader, self.taken = loader, 0

    def next_batch(self) -> Batch:
        self.taken += 1
        return self._loader.next_batch()

    @property
    def position(self) -> dict[str, int]:
        return {"pq_idx": 0, "rg_idx": self.taken, "epoch": 1}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)


class FakeClock:
    """Advances by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def batch(seed: int, rows: int = 2, masked: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, 256, (rows, 17), generator=generator)
    targets = ids[:, 1:].clone()
    targets.view(-1)[:masked] = -1
    return Batch(ids[:, :-1], targets)


def fixed_setup(batches: list[Batch], steps: int, **changes: Any) -> Setup:
    model = new_model(tiny_config(), seed=3).double()
    fields: dict[str, Any] = {"horizon": Horizon(steps=steps), "loss": batch_loss(model), **changes}
    return Setup(model, build_optimizer(model, OptimConfig("adamw")), Fixed(batches), **fields)


def test_the_records_of_a_run() -> None:
    setup = setup_of(steps=6, schedule=Schedule(warmup_steps=2, warmdown_ratio=0.5))
    records = list(train(setup))
    assert [record.step for record in records] == list(range(7))
    assert [record.tokens for record in records] == [64, 128, 192, 256, 320, 384, 384]
    assert all(record.flops == 100 * record.tokens for record in records)
    assert [record.lr_multiplier for record in records[:4]] == [0.5, 1.0, 1.0, 1.0]
    assert records[-1].train_loss is None
    assert records[0].train_loss == pytest.approx(math.log(265), abs=0.01)
    assert records[0].smooth_loss == records[0].train_loss
    assert records[5].train_loss < records[0].train_loss
    words = {record.step: record.events for record in records if record.events}
    assert words == {2: ("warmup_end",), 4: ("warmdown_start",)}
    rates = records[1].learning_rates
    assert records[1].learning_rate == rates["matrix"]
    assert rates["matrix"] == setup.optimizer.config.matrix_lr * 0.2
    assert len(set(rates.values())) > 3
    assert all(record.grad_norm and record.grad_norm > 0 for record in records[:6])
    assert all(a.time <= b.time for a, b in itertools.pairwise(records))


def test_accumulated_batches_are_one_batch_and_targets_without_loss_weigh_nothing() -> None:
    """The step's loss is the mean over the targets that count, however they fall into batches."""
    parts = [batch(1, masked=9), batch(2), batch(3, masked=30), batch(4)]
    whole = Batch(torch.cat([p.inputs for p in parts]), torch.cat([p.targets for p in parts]))
    apart, together = fixed_setup(parts, 1, accumulation=4), fixed_setup([whole], 1)
    one, other = next(train(apart)), next(train(together))
    assert one.train_loss == pytest.approx(other.train_loss, abs=1e-12)
    assert one.grad_norm == pytest.approx(other.grad_norm, rel=1e-9)
    model = new_model(tiny_config(), seed=3).double()
    assert one.train_loss == pytest.approx(model(whole.inputs, whole.targets).item(), abs=1e-12)


def test_a_step_in_which_nothing_counts_changes_no_average_into_nan() -> None:
    records = list(train(fixed_setup([batch(1, masked=32), batch(2)], 2)))
    assert records[0].train_loss == 0.0
    assert math.isfinite(records[1].train_loss or math.nan)


def poisoned(setup: Setup, at: int) -> Setup:
    loss, calls = setup.loss, [0]

    def with_nan(inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        calls[0] += 1
        return loss(inputs, targets) * (math.nan if calls[0] == at + 1 else 1.0)

    return Setup(**{**vars(setup), "loss": with_nan})


def test_a_loss_that_is_not_finite_ends_the_run_and_spoils_nothing(tmp_path: Path) -> None:
    with held(tmp_path / "d2") as folder:
        setup = poisoned(setup_of(folder, steps=9, save_every=2), at=5)
        records = []
        for record in train(setup):
            records.append(record)
            if record.step == 4:
                before = {name: weight.clone() for name, weight in setup.model.state_dict().items()}
        assert records[-1].step == 5
        assert records[-1].events == ("diverged",)
        assert same(setup.model.state_dict(), before)
        assert list_steps(folder)[0] == (2, 4)
        line = list(read_lines(folder / METRICS_NAME))[-1]
        assert line["train_loss"] is None
        assert "diverged" in line["events"]
    with pytest.raises(TrainingError, match="step 0: the loss or the gradient is not a finite number"):
        last_record(train(poisoned(setup_of(), at=0)))


def test_a_gradient_that_is_not_finite_is_not_applied() -> None:
    setup = setup_of()
    weight = setup.model.lm_head.weight
    weight.register_hook(lambda gradient: gradient * math.inf)
    before = {name: value.clone() for name, value in setup.model.state_dict().items()}
    assert last(train(setup)).events == ("diverged",)
    assert same(setup.model.state_dict(), before)


def test_clipping_limits_the_gradient_and_records_what_it_was() -> None:
    free, clipped = next(train(setup_of())), next(train(setup_of(clip=1e-3)))
    assert free.grad_norm == clipped.grad_norm
    one, other = setup_of(), setup_of(clip=1e-12)
    for setup in (one, other):
        list(train(setup))
    assert not same(one.model.state_dict(), other.model.state_dict())


def test_stopped_from_outside_and_resumed_it_is_the_run_that_never_stopped(tmp_path: Path) -> None:
    def evaluated(setup: Setup) -> Setup:
        model = setup.model
        look = Look("evaluation", lambda step: float(model.lm_head.weight.detach().abs().sum()), 3, at_start=True)
        return Setup(**{**vars(setup), "looks": (look,)})

    with held(tmp_path / "a") as folder:
        assert last(train(evaluated(setup_of(folder, steps=10, accumulation=2)))).step == 10
    with held(tmp_path / "b") as folder:
        state = TrainingState()
        stop = lambda: "SIGINT" if state.step == 6 else None  # noqa: E731
        record = last(train(evaluated(setup_of(folder, 10, accumulation=2, stop=stop, state=state))))
        assert record.events == ("checkpoint", "stopped")
        assert list_steps(folder)[0] == (record.step,) == (6,)
        first = next(records := train(evaluated(setup_of(folder, 10, resume=-1, accumulation=2))))
        assert (first.step, first.events) == (6, ("resumed", "checkpoint", "evaluation"))
        list(records)
    assert same(everything(tmp_path / "a", 10), everything(tmp_path / "b", 10))
    one, other = without_clocks(tmp_path / "a"), without_clocks(tmp_path / "b")
    for records_of_run in (one, other):
        for line in records_of_run:
            line["events"] = [word for word in line["events"] if word != "checkpoint"]
    assert one == other


def test_a_stop_inside_a_slow_step_drops_the_step_and_its_batches(tmp_path: Path) -> None:
    with held(tmp_path / "d2") as folder:
        asked = iter([None, None, None, None, None, "SIGTERM"])  # at each step's start and between its batches
        clock = FakeClock()
        setup = setup_of(folder, steps=9, accumulation=2, stop=lambda: next(asked), clock=clock)
        loss = setup.loss

        def slow(inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            clock.now += 3
            return loss(inputs, targets)

        loader = Counted(setup.loader)
        records = list(train(Setup(**{**vars(setup), "loss": slow, "loader": loader})))
        assert [record.step for record in records] == [0, 1, 2]
        assert "stopped" in records[-1].events
        assert loader.taken == 6
        assert everything_meta(folder, 2)["dataloader_state_dict"]["rg_idx"] == 4  # where the saved step ended
        list(train(setup_of(folder, steps=9, accumulation=2, resume=-1)))
    with held(tmp_path / "whole") as folder:
        list(train(setup_of(folder, steps=9, accumulation=2)))
    assert same(everything(tmp_path / "d2", 9), everything(tmp_path / "whole", 9))


def test_closing_ends_at_once_and_saves_nothing(tmp_path: Path) -> None:
    with held(tmp_path / "d2") as folder:
        records = train(setup_of(folder, steps=9, save_every=4))
        next(records)
        records.close()
        assert list_steps(folder)[0] == ()
    setup = fixed_setup([batch(1)] * 9, 9)
    records = train(setup)
    next(records)
    records.close()
    assert setup.loader.closed


def test_a_save_comes_before_the_evaluation_which_is_added_to_it(tmp_path: Path) -> None:
    with held(tmp_path / "d2") as folder:
        seen = []

        def evaluate(step: int) -> float:
            seen.append((step, list_steps(folder)[0]))
            return 2.5 - step

        look = Look("evaluation", evaluate, 2)
        records = list(train(setup_of(folder, steps=4, save_every=2, looks=[look])))
        assert seen == [(2, (2,)), (4, (2, 4))]
        assert {r.step: r.val_bpb for r in records if r.val_bpb} == {2: 0.5, 4: -1.5}
        meta = everything_meta(folder, 4)
        assert meta["val_bpb"] == -1.5
        assert meta["loop_state"]["min_val_bpb"] == -1.5
        assert verify(folder, 4, full=True).ok
        with pytest.raises(ZeroDivisionError):
            list(train(setup_of(folder, 6, resume=-1, looks=[Look("evaluation", lambda _: 1 / 0)])))
        assert list_steps(folder)[0] == (2, 4, 6)


def test_every_look_runs_once_a_step_whatever_its_word_and_its_figure() -> None:
    """Two may share a word, and an evaluation that has nothing to measure is not asked for ever."""
    seen = []

    def look(name: str, value: float | None) -> Look:
        def run(step: int) -> float | None:
            assert len(seen) < 20, "asked again and again"
            seen.append((name, step))
            return value

        return Look("sample" if value is None and name != "c" else "evaluation", run, 2)

    looks = [look("a", None), look("b", None), look("c", None), look("d", 1.5)]
    records = list(train(setup_of(steps=4, looks=looks)))
    assert seen == [(name, step) for step in (2, 4) for name in "abcd"]
    assert [record.events.count("sample") for record in records] == [0, 0, 1, 0, 1]
    assert [record.val_bpb for record in records] == [None, None, 1.5, None, 1.5]
    seen.clear()
    records = list(train(setup_of(steps=4, looks=looks[2:3])))
    assert seen == [("c", 2), ("c", 4)]
    assert not any("evaluation" in record.events for record in records)


def everything_meta(folder: Path, step: int) -> dict[str, Any]:
    from nanochat.checkpoint_manager import read_meta

    return read_meta(folder / f"meta_{step:06d}.json")


def test_the_meta_has_nanochats_keys_and_ours_apart(tmp_path: Path) -> None:
    with held(tmp_path / "d2") as folder:
        records = list(train(setup_of(folder, steps=3)))
        meta = everything_meta(folder, 3)
    assert {"step", "val_bpb", "model_config", "total_batch_size", "dataloader_state_dict", "loop_state"} <= set(meta)
    assert set(meta["loop_state"]) == {"min_val_bpb", "smooth_train_loss", "total_training_time"}
    assert set(meta["dataloader_state_dict"]) == {"pq_idx", "rg_idx", "epoch"}
    training = meta["lab"]["training"]
    assert training["train_loss"] == records[2].train_loss
    assert training["tokens"] == records[2].tokens
    assert training["learning_rate"] == records[2].learning_rate


def test_a_learning_rate_finder_brings_its_own_multiplier() -> None:
    class Sweep:
        def multiplier(self, at: Moment) -> float:
            return 1e-3 * 2**at.step

        def phase(self, at: Moment) -> str:
            return "stable"

    records = list(train(setup_of(steps=5, schedule=Sweep())))
    assert [record.lr_multiplier for record in records[:5]] == [1e-3 * 2**i for i in range(5)]


def test_a_budget_ends_cooled_down_and_counts_evaluation_but_no_sleep() -> None:
    clock = FakeClock()

    def run(nap_at: int | None) -> list[StepRecord]:
        setup = setup_of(horizon=Horizon(seconds=100.0), clock=clock)
        loss, model, calls = setup.loss, setup.model, [0]

        def timed(inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            calls[0] += 1
            clock.now += 4000.0 if calls[0] == nap_at else 2.0
            return loss(inputs, targets)

        def evaluate(step: int) -> float:
            clock.now += 5.0
            return float(model.lm_head.weight.detach().sum())

        looks = [Look("evaluation", evaluate, 10, at_end=False)]
        return list(train(Setup(**{**vars(setup), "loss": timed, "looks": looks})))

    steady = run(None)
    assert steady[-1].time == pytest.approx(100, abs=1)
    assert len(steady) == 40 + 1  # 80 seconds of updates and four evaluations, the last of which used up what was left
    assert steady[-2].lr_multiplier == pytest.approx(0.05 + 0.95 * 5 / 65)
    napped = run(12)
    assert [word for record in napped for word in record.events if word == "paused"] == ["paused"]
    assert len(napped) == len(steady)
    assert napped[-1].time == pytest.approx(100, abs=1)


def test_the_date_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    monkeypatch.setattr(time, "time", lambda: -86_400.0)
    records = list(train(setup_of(horizon=Horizon(seconds=0.2))))
    assert 0.1 < records[-1].time < 30
    assert all(a.time <= b.time for a, b in itertools.pairwise(records))


def test_time_and_tokens_of_earlier_parts_are_carried_over(tmp_path: Path) -> None:
    with held(tmp_path / "d2") as folder:
        first = last(train(setup_of(folder, steps=3)))
        setup = setup_of(folder, steps=5, resume=-1)
        assert setup.state.elapsed == pytest.approx(first.time, abs=0.5)
        assert last(train(setup)).tokens == 5 * 64


def test_it_runs_in_a_thread() -> None:
    records: list[StepRecord] = []
    thread = threading.Thread(target=lambda: records.extend(train(setup_of(steps=3))))
    thread.start()
    thread.join(60)
    assert [record.step for record in records] == [0, 1, 2, 3]


def test_passes_over_the_data_end_a_run() -> None:
    setup = fixed_setup([batch(i) for i in range(9)], 1, horizon=Horizon(epochs=1.0))
    type(setup.loader).progress = property(lambda self: self.taken / 4)
    try:
        records = list(train(setup))
    finally:
        type(setup.loader).progress = None
    assert [record.step for record in records] == [0, 1, 2, 3, 4]
    assert records[3].lr_multiplier < 1


def test_a_finished_run_resumed_makes_no_update(tmp_path: Path) -> None:
    with held(tmp_path / "d2") as folder:
        list(train(setup_of(folder, steps=3)))
        records = list(train(setup_of(folder, steps=3, resume=-1)))
        assert [record.step for record in records] == [3]
        assert [line["step"] for line in read_lines(folder / METRICS_NAME)] == [0, 1, 2, 3]


def test_a_setup_that_contradicts_itself() -> None:
    with pytest.raises(TrainingError, match="accumulation is 0"):
        next(train(Setup(**{**vars(setup_of()), "accumulation": 0})))
