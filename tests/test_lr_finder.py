"""The learning-rate finder: fastai's rules, what a curve says, and the range test itself, with its short runs."""

import contextlib
import copy
import json
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from nanochat.analysis import lr_finder
from nanochat.analysis.lr_finder import POINTS, STEPS, Settings, Subject, Trial, TrialStep, rules
from nanochat.benchmarks import lr_finder as benchmark
from nanochat.dataloader import Batch, DataLoader
from nanochat.gpt_config import GPTConfig
from nanochat.optim import OptimConfig, build_optimizer
from nanochat.training_setup import batch_loss, new_model
from tests.checkpoint_support import make_tokenizer, tiny_config
from tests.training_support import texts

# ---------------------------------------------------------------- rules


def curve(name: str) -> tuple[list[float], list[float]]:
    """Stored curves: a valley, one with ripples, and one that only falls; 85 rates as fastai hands them on."""
    rates = [1e-7 * 1e8 ** (i / 100) for i in range(10, 95)]
    places = [math.log10(rate) for rate in rates]
    bowl = [4 - 2.5 / (1 + math.exp(-3 * (p + 3.5))) + 6 / (1 + math.exp(-5 * (p + 0.2))) for p in places]
    if name == "bowl":
        return rates, bowl
    if name == "ripples":
        return rates, [loss + 0.05 * math.sin(7 * i) for i, loss in enumerate(bowl)]
    return rates, [5 - 0.01 * i - 0.0001 * i * i for i in range(85)]


# What fastai 2.7's own four functions give for these curves, run once.
FASTAI = {
    "bowl": {"valley": 9.120108e-05, "steep": 2.754229e-04, "minimum": 2.290868e-03, "slide": 6.309573e-07},
    "ripples": {"valley": 5.754399e-04, "steep": 1.905461e-04, "minimum": 3.311311e-03, "slide": 2.089296e-03},
    "falling": {"valley": 1.202264e-03, "steep": 2.754229, "minimum": 0.3311311, "slide": 0.2089296},
}


@pytest.mark.parametrize("name", ["bowl", "ripples", "falling"])
def test_the_rules_give_what_fastai_gives(name: str) -> None:
    rates, losses = curve(name)
    found = {rule: getattr(rules, rule)(rates, losses) for rule in lr_finder.RULES}
    assert found == pytest.approx(FASTAI[name], rel=1e-4)


# ---------------------------------------------------------------- what a curve says


def bowl(steps: int = 100, depth: float = 3.0, climb: float = 5.0) -> tuple[list[float], list[float]]:
    """A sweep over seven decades: the loss falls at a factor of 1, is lowest at 10 and climbs."""
    factors = [Settings(steps=steps).factor(i) for i in range(steps)]
    logs = [math.log10(factor) for factor in factors]
    return factors, [6 - depth / (1 + math.exp(-3 * x)) + climb / (1 + math.exp(-5 * (x - 2.2))) for x in logs]


def test_a_clear_curve_gets_all_four_rules_and_a_suggestion() -> None:
    found = lr_finder.suggest(*bowl())
    assert set(found.rates) == set(lr_finder.RULES)
    assert found.chosen == found.rates["minimum"]
    assert 0.5 < found.chosen < 3  # a tenth of what lies between 10 and 30
    assert found.clear


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: bowl(depth=0.02, climb=0), "falls by 0.0"),
        (lambda: bowl(climb=0), "still falls at the highest rate; sweep up to a higher one"),
        (lambda: bowl(depth=-1), "falls by 0.000 only"),
        (lambda: tuple(values[:18] for values in bowl()), "only 3 points are left"),
        (lambda: ([1.0, 2.0], [1.0, 2.0]), "only 0 points are left"),
        (lambda: (bowl()[0], [math.nan] * 100), "became no number"),
        (lambda: (bowl()[0], [6 + random.Random(i).gauss(0, 0.3) for i in range(100)]), "lost in its noise"),
    ],
)
def test_no_clear_minimum_is_an_answer(make: Callable[[], tuple[list[float], list[float]]], why: str) -> None:
    found = lr_finder.suggest(*make(), planned=100)
    assert found.why.startswith("no clear minimum: ")
    assert why in found.why
    assert (found.chosen, found.rates, found.clear) == (None, {}, False)


def test_a_sweep_that_diverged_has_climbed() -> None:
    factors, losses = bowl(climb=0)
    assert lr_finder.suggest(factors, losses).chosen is None
    assert lr_finder.suggest(factors, losses, diverged=True).clear


def test_a_rate_without_its_loss_is_refused() -> None:
    with pytest.raises(lr_finder.RangeTestError, match="2 rates and 1 losses"):
        lr_finder.suggest([1.0, 2.0], [1.0])


def test_the_report_averages_seeds_and_stops_where_the_first_of_them_does() -> None:
    factors, losses = bowl()
    rows = [("all", seed, i, factors[i], losses[i], losses[i] + 0.1 * seed)
            for seed, length in ((0, 100), (1, 90)) for i in range(length)]  # fmt: skip
    settings = Settings(seeds=2, groups=("matrix",))
    report = lr_finder.range_test(pl.DataFrame(rows, POINTS, orient="row"), settings, {"matrix": 0.02, "x0": 0.5})
    (found,) = report.curves
    assert found.band.height == 90
    assert found.band.row(0, named=True) == pytest.approx(
        {"index": 0, "factor": 1e-3, "mean": losses[0] + 0.05, "low": losses[0], "high": losses[0] + 0.1}
    )
    assert len(found.by_seed) == 2
    assert not report.complete  # the group was not swept
    assert report.suggested() == pytest.approx(
        {"matrix": 0.02 * found.suggestions.chosen, "x0": 0.5 * found.suggestions.chosen}
    )


@pytest.mark.parametrize(
    "change", [{"steps": 19}, {"seeds": 0}, {"low": 0.0}, {"low": 2.0, "high": 1.0}, {"high": math.inf},
               {"low": math.nan}, {"high": 1e7}],
)  # fmt: skip
def test_sweeps_that_cannot_be_are_one_sentence(change: dict[str, Any]) -> None:
    with pytest.raises(lr_finder.RangeTestError, match="give"):
        Settings(**change)
    with pytest.raises(lr_finder.RangeTestError, match="give 10 to"):
        Trial(steps=9)


# ---------------------------------------------------------------- the sweep


class Noise:
    """Batches of which nothing can be learnt."""

    progress, position = None, {"pq_idx": 0, "rg_idx": 0, "epoch": 1}

    def __init__(self, seed: int) -> None:
        self.numbers = torch.Generator().manual_seed(seed)

    def next_batch(self) -> Batch:
        ids = torch.randint(265, (2, 33), generator=self.numbers)
        return Batch(ids[:, :-1].contiguous(), ids[:, 1:].contiguous())

    def state_dict(self) -> dict[str, Any]:
        return {}

    def close(self) -> None:
        pass


def tiny(kind: Any = "muon", steps: int = 0, open_loader: Any = None, renew: bool = True) -> Subject:
    """A model that has made some updates, on a text of sums, or on batches of a test's own."""
    model = new_model(tiny_config(n_layer=1), 3)
    optimizer = build_optimizer(model, OptimConfig(kind))
    loss = batch_loss(model)
    loader = Noise(0)
    for _ in range(steps):
        (loss(*loader.next_batch()) / 64).backward()
        optimizer.step()
        optimizer.zero_grad()
    weights = [copy.deepcopy(new_model(model.config, seed).state_dict()) for seed in range(2)]
    return Subject(
        model, optimizer, open_loader or (lambda seed: DataLoader(texts(), make_tokenizer(seed), 2, 32)), loss,
        (lambda seed: model.load_state_dict(weights[seed])) if renew else None,
    )  # fmt: skip


def everything(subject: Subject) -> Any:
    """All that a test must leave as it was, copied."""
    groups = [{k: v for k, v in group.items() if k not in ("params", "names")} for group in
              subject.optimizer.param_groups]  # fmt: skip
    return copy.deepcopy(
        (subject.model.state_dict(), subject.optimizer.state_dict(), groups, subject.model.training, random.getstate(),
         np.random.get_state(), torch.get_rng_state(), {n: p.grad for n, p in subject.model.named_parameters()})
    )  # fmt: skip


def assert_same(left: Any, right: Any) -> None:
    if isinstance(left, torch.Tensor | np.ndarray):
        assert torch.equal(torch.as_tensor(left), torch.as_tensor(right))
    elif isinstance(left, dict):
        assert left.keys() == right.keys()
        for key in left:
            assert_same(left[key], right[key])
    elif isinstance(left, list | tuple):
        assert len(left) == len(right)
        for one, other in zip(left, right, strict=True):
            assert_same(one, other)
    else:
        assert left == right


class Broken(Exception):
    """What a loader raises in a test."""


class Breaks(Noise):
    """Batches that end in an exception, after something else used the random numbers."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.left = 9

    def next_batch(self) -> Batch:
        self.left -= 1
        torch.rand(3), np.random.random(), random.random()
        if not self.left:
            raise Broken
        return super().next_batch()


def ends(make: Callable[[], Iterator[Any]], how: str) -> None:
    """Let a sweep or a trial end in one of the ways there are."""
    if how == "exception":
        with pytest.raises(Broken):
            list(make())
    elif how == "closed":
        with contextlib.closing(make()) as points:
            for _ in range(8):
                next(points)
    else:
        assert list(make())


@pytest.mark.parametrize("how", ["finished", "closed", "exception", "stopped"])
@pytest.mark.parametrize(("kind", "renew", "steps"), [("adamw", True, 0), ("muon", False, 4)])
def test_everything_is_as_it_was(how: str, kind: str, renew: bool, steps: int) -> None:
    """Fresh or trained, Muon or AdamW: bit by bit, averages, rates, random numbers and waiting gradients with it."""
    subject = tiny(kind, steps, Breaks if how == "exception" else Noise, renew)
    subject.model.eval()
    (subject.loss(*Noise(5).next_batch()) / 64).backward()
    before = everything(subject)
    settings = Settings(1e-2, 1e4, 20, 1, ("matrix",))
    for make in (
        lambda stop: lr_finder.sweep(subject, settings, stop),
        lambda stop: lr_finder.trial(subject, 30.0, Trial(10), stop),
    ):
        asked = iter(range(1000))
        stops: Callable[[], str | None] = lambda: "SIGINT" if next(asked) > 6 else None  # noqa: B023, E731
        ends(lambda: make(stops if how == "stopped" else lambda: None), how)  # noqa: B023
        assert_same(before, everything(subject))


def test_a_sweep_is_the_training_it_says_it_is() -> None:
    """Each update at the factor of its place, on every group's own rate; each seed with its own weights and text."""
    subject = tiny()
    rates = subject.rates
    seen = []
    step = subject.optimizer.step

    def watched(*arguments: Any) -> Any:
        seen.append({group["name"]: group["lr"] for group in subject.optimizer.param_groups})
        return step(*arguments)

    subject.optimizer.step = watched
    settings = Settings(0.01, 1, 20, 2)
    points = list(lr_finder.sweep(subject, settings))
    assert [(point.seed, point.index) for point in points] == [(s, i) for s in (0, 1) for i in range(20)]
    assert [point.factor for point in points[:20]] == pytest.approx(np.geomspace(0.01, 1, 20))
    for point, used in zip(points, seen, strict=True):
        assert used == pytest.approx({name: rate * point.factor for name, rate in rates.items()})
    assert points[0].loss == pytest.approx(math.log(265), abs=0.02)  # fresh weights know nothing
    assert points[20].loss == pytest.approx(math.log(265), abs=0.02)
    assert points[0].loss != points[20].loss
    assert points[0].smooth == pytest.approx(points[0].loss)  # debiased, as fastai's average
    assert points[1].smooth == pytest.approx((0.9 * points[0].loss + points[1].loss) / 1.9)
    again = list(lr_finder.sweep(tiny(), settings))
    assert again == points


def test_a_group_on_its_own_moves_alone() -> None:
    subject = tiny()
    settings = Settings(0.01, 1, 20, 1, ("matrix",))
    points = lr_finder.sweep(subject, settings)
    for point in points:
        if point.curve == "matrix":
            break
    first = {name: value.clone() for name, value in subject.model.state_dict().items()}
    for _ in range(5):
        next(points)
    moved = {name for name, value in subject.model.state_dict().items() if not torch.equal(value, first[name])}
    assert moved
    assert all(name.startswith("transformer.h.") for name in moved)
    points.close()
    with pytest.raises(lr_finder.RangeTestError, match="no group 'heads' in this model; it has unembedding, embedding"):
        list(lr_finder.sweep(subject, Settings(groups=("heads",))))


def report_of(subject: Subject, settings: Settings) -> lr_finder.RangeTest:
    points = [asdict(point) for point in lr_finder.sweep(subject, settings)]
    return lr_finder.range_test(pl.DataFrame(points, POINTS), settings, subject.rates)


def test_where_nothing_can_be_learnt_there_is_no_clear_minimum() -> None:
    report = report_of(tiny(open_loader=Noise), Settings(steps=60, seeds=2))
    assert report.curves[0].suggestions.why.startswith("no clear minimum: the loss falls by 0.")
    assert report.suggested() == {}
    assert report.complete


def test_a_loss_that_is_no_number_ends_the_curve() -> None:
    subject = tiny()
    whole, calls = subject.loss, iter(range(10**6))

    def loss(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return whole(x, y) * (math.nan if next(calls) == 12 else 1.0)

    object.__setattr__(subject, "loss", loss)
    points = list(lr_finder.sweep(subject, Settings(0.01, 1, 20, 1)))
    assert [point.loss is None for point in points] == [False] * 12 + [True]


@pytest.mark.parametrize(("call", "left"), [(30, 0), (38, 8)])
def test_a_group_is_swept_as_far_as_its_batches_give_a_number_where_nothing_moves(call: int, left: int) -> None:
    """Calls: 20 for all groups, 10 to get going, then 20 where all stand still."""
    subject = tiny()
    whole, calls = subject.loss, iter(range(10**6))

    def loss(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return whole(x, y) * (math.nan if next(calls) == call else 1.0)

    object.__setattr__(subject, "loss", loss)
    points = list(lr_finder.sweep(subject, Settings(0.01, 1, 20, 1, ("matrix",))))
    losses = [point.loss for point in points if point.curve == "matrix"]
    assert len(losses) == left
    assert all(isinstance(loss, float) and math.isfinite(loss) for loss in losses)


# ---------------------------------------------------------------- short runs


def test_the_trial_goes_on_beyond_an_end_that_is_best(monkeypatch: pytest.MonkeyPatch) -> None:
    """A made-up loss with its best rate at 9 times the suggestion; the runs themselves are tested above."""

    def short_run(subject: Any, factor: float, seed: int, settings: Trial, stop: Any) -> Iterator[TrialStep]:
        loss = None if factor > 30 else 2 + abs(math.log(factor / 9))
        yield from (TrialStep(factor, seed, step, loss) for step in range(settings.steps))

    monkeypatch.setattr("nanochat.analysis.lr_finder.trials._short_run", short_run)
    steps = list(lr_finder.trial(tiny(), 1.0, Trial(10)))
    assert list(dict.fromkeys(step.factor for step in steps)) == pytest.approx([1 / 3, 1, 3, 9, 27])
    frame = pl.DataFrame([asdict(step) for step in steps], STEPS)
    found = lr_finder.verdict(frame, 1.0, Trial(10))
    assert found is not None
    assert (found.best, found.held) == (9.0, False)
    assert "a rate 9 times higher ended at 2.0000, against 4.1972. Take that one" in found.words
    assert lr_finder.verdict(frame.head(14), 1.0, Trial(10)) is None  # stopped in the second run
    held = lr_finder.verdict(frame.filter(pl.col("factor") >= 3), 9.0, Trial(10))
    assert held is not None
    assert held.held
    assert "The suggestion held: 2.0000" in held.words
    gone = pl.DataFrame([asdict(TrialStep(f, 0, 3, None)) for f in (1.0, 3.0)], STEPS)
    assert "Every rate of the trial diverged" in lr_finder.verdict(gone, 1.0, Trial(10)).words


# ---------------------------------------------------------------- the benchmark, short


def test_a_rate_30_times_wrong_is_put_right(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The benchmark's short form: what is found beats the wrong default by far, and is near the best of a grid."""
    config = GPTConfig(benchmark.LENGTH, benchmark.VOCABULARY, 1, 1, 1, 32, "L")
    monkeypatch.setitem(benchmark.MODELS, "tiny", benchmark.Model("python", config, OptimConfig(), 2))
    flags = ["--model", "tiny", "--seeds", "1", "--sweep-steps", "60", "--trial-steps", "30", "--grid", "3",
             "--grid-seeds", "1", "--output", str(tmp_path / "lr.jsonl")]  # fmt: skip
    assert benchmark.main([*flags, "--json"]) == 0
    results = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [result["wrong"] for result in results] == [30, 1 / 30]
    for result in results:
        assert result["losses"]["after_trial"] < 0.9 * result["default"]
        assert result["losses"]["after_trial"] < 1.03 * result["best"][1]
    kept = (tmp_path / "lr.jsonl").read_text()
    assert benchmark.main(flags) == 0
    assert "after the short runs" in capsys.readouterr().out
    assert (tmp_path / "lr.jsonl").read_text() == kept  # it went on from there, and had nothing left to do
