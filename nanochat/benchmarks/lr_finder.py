"""Whether the range test finds a good rate where the default is 30 times wrong, beside a grid of short runs.

    python -m nanochat.benchmarks.lr_finder                             # three models, both ways, 3 CPU minutes
    python -m nanochat.benchmarks.lr_finder --output lr.jsonl           # keeps each result; run again, it goes on
    python -m nanochat.benchmarks.lr_finder --model muon --grid 6 --grid-seeds 1 --trial-steps 40

Each model has rates that are known to be about right. They are multiplied by 30, and divided by 30, and the tool does
what it does for a person: a sweep, its suggestion, then short runs at three rates around it. What that comes to is
trained for as long as every rate of the grid is, on the same seeds and the same text, and so is the wrong default. The
grid is laid over three decades around the right rates; the tool knows nothing of it.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from nanochat import precision
from nanochat.analysis import lr_finder
from nanochat.analysis.lr_finder import POINTS, STEPS, Settings, Subject, Trial, short_runs
from nanochat.dataloader import DataLoader
from nanochat.dataset import open_dataset
from nanochat.gpt_config import GPTConfig
from nanochat.optim import OptimConfig, build_optimizer
from nanochat.tokenizer import train_tokenizer
from nanochat.tokenizer_texts import training_texts
from nanochat.training_setup import batch_loss, new_model

VOCABULARY, CHARACTERS = 512, 200_000  # of the tokenizer, and of the text that it learns from
LENGTH, SKIPPED = 32, 50  # tokens of a row; batches from one seed's text to the next's
WRONG = (30.0, 1 / 30)
DECADES = 3


@dataclass(frozen=True)
class Model:
    """What is trained."""

    corpus: str
    config: GPTConfig
    optimizer: OptimConfig  # with rates that are about right
    rows: int = 8


def _config(layers: int, channels: int, **changes: Any) -> GPTConfig:
    return GPTConfig(LENGTH, VOCABULARY, layers, 2, 2, channels, "L", **changes)


OLD: dict[str, Any] = {"residual_lambdas": False, "value_embeds": False, "smear": False, "backout": False}
MODELS = {
    "muon": Model("stories", _config(1, 48), OptimConfig()),
    "adamw": Model("python", _config(2, 48), OptimConfig("adamw")),
    "muon-2025": Model("stories", _config(2, 48, **OLD), OptimConfig("muon-2025")),
}


def scaled(rates: OptimConfig, factor: float) -> OptimConfig:
    """All rates times a factor."""
    names = ("matrix_lr", "embedding_lr", "unembedding_lr", "scalar_lr", "smear_lr")
    return replace(rates, **{name: getattr(rates, name) * factor for name in names})


def subject_of(model: Model, factor: float) -> Subject:
    """A model whose rates are `factor` times right, with its text."""
    dataset = open_dataset(model.corpus)
    tokenizer = train_tokenizer(training_texts(dataset.train, CHARACTERS), VOCABULARY)
    network = new_model(replace(model.config, vocab_size=tokenizer.get_vocab_size()), 0)

    def open_loader(seed: int) -> DataLoader:
        loader = DataLoader(dataset.train, tokenizer, model.rows, LENGTH)
        for _ in range(seed * SKIPPED):
            loader.next_batch()
        return loader

    def renew(seed: int) -> None:
        network.load_state_dict(new_model(network.config, seed).state_dict())

    return Subject(
        network, build_optimizer(network, scaled(model.optimizer, factor)), open_loader, batch_loss(network), renew
    )


def found(subject: Subject, settings: Settings, trial: Trial) -> dict[str, Any]:
    """What the tool says: the rules, the suggestion, and where the short runs lead; factors on the subject's rates."""
    points = [asdict(point) for point in lr_finder.sweep(subject, settings)]
    (curve,) = lr_finder.range_test(pl.DataFrame(points, POINTS), settings, subject.rates).curves
    suggestions, verdict = curve.suggestions, None
    if suggestions.chosen is not None:
        steps = [asdict(step) for step in lr_finder.trial(subject, suggestions.chosen, trial)]
        verdict = lr_finder.verdict(pl.DataFrame(steps, STEPS), suggestions.chosen, trial)
    return {
        "rules": suggestions.rates, "suggested": suggestions.chosen, "why": suggestions.why, "by_seed": curve.by_seed,
        "after_trial": None if verdict is None else verdict.best, "held": None if verdict is None else verdict.held,
    }  # fmt: skip


@dataclass
class Benchmark:
    """One run of the benchmark: what was asked for, and where results are kept."""

    settings: Settings
    trial: Trial  # of the tool
    runs: Trial  # of the grid, and of what is compared with it
    grid: int
    rules: bool = False  # train at what every rule says, too
    output: Path | None = None

    def __post_init__(self) -> None:
        self.kept: dict[str, Any] = {}
        if self.output is not None and self.output.exists():
            self.kept = {line["key"]: line["value"] for line in map(json.loads, self.output.read_text().splitlines())}

    def once(self, parts: list[Any], make: Callable[[], Any]) -> Any:
        """What is kept under this key, or made now and kept."""
        key = json.dumps(parts)
        if key not in self.kept:
            self.kept[key] = make()
            if self.output is not None:
                with self.output.open("a") as file:
                    file.write(json.dumps({"key": key, "value": self.kept[key]}) + "\n")
        return self.kept[key]

    def loss(self, name: str, factor: float) -> float:
        """Mean loss at the end of short runs with `factor` times the right rates."""

        def make() -> float | None:
            value = short_runs(subject_of(MODELS[name], 1.0), factor, self.runs)
            return value if math.isfinite(value) else None

        value = self.once(["loss", name, factor, asdict(self.runs)], make)
        return math.inf if value is None else float(value)

    def found(self, name: str, wrong: float) -> dict[str, Any]:
        """What the tool says of a model whose rates are `wrong` times right."""

        def make() -> dict[str, Any]:
            return found(subject_of(MODELS[name], wrong), self.settings, self.trial)

        value: dict[str, Any] = self.once(["found", name, wrong, asdict(self.settings), asdict(self.trial)], make)
        return value

    def results(self, names: list[str]) -> Iterator[dict[str, Any]]:
        """A result for each model and each way of being wrong."""
        for name in names:
            factors = np.geomspace(10 ** (-DECADES / 2), 10 ** (DECADES / 2), self.grid).tolist()
            grid = {factor: self.loss(name, factor) for factor in factors}
            best = min(grid, key=grid.__getitem__)
            for wrong in WRONG:
                told = self.found(name, wrong)
                losses = {
                    word: None if told[word] is None else self.loss(name, told[word] * wrong)
                    for word in ("suggested", "after_trial")
                }
                yield {
                    "model": name, "wrong": wrong, "default": self.loss(name, wrong), "grid": list(grid.items()),
                    "best": (best, grid[best]), "told": told, "losses": losses,
                    "rules": {r: self.loss(name, factor * wrong) for r, factor in told["rules"].items() if self.rules},
                }  # fmt: skip


def told(result: dict[str, Any]) -> Iterator[str]:
    """A result in words."""
    best, lowest = result["best"]
    yield f"{result['model']}, rates {result['wrong']:.3g} times right: loss {result['default']:.4f} as they are"
    yield f"  best of the grid: {best:.3g} times right, {lowest:.4f}"
    if result["told"]["suggested"] is None:
        yield f"  {result['told']['why']}"
        return
    for word, label in (("suggested", "suggested"), ("after_trial", "after the short runs")):
        loss = result["losses"][word]
        if loss is not None:
            factor = result["told"][word] * result["wrong"]
            yield f"  {label}: {factor:.3g} times right, {loss:.4f}, {loss / lowest - 1:+.1%} of the best"
    rules = ", ".join(
        f"{rule} {result['told']['rules'][rule] * result['wrong']:.3g} ({loss / lowest - 1:+.1%})"
        for rule, loss in result["rules"].items()
    )
    if rules:
        yield f"  by rule: {rules}"


def main(argv: list[str] | None = None) -> int:
    """Measure and print."""
    p = argparse.ArgumentParser(
        prog="python -m nanochat.benchmarks.lr_finder", description="The range test beside a grid of short runs."
    )
    p.add_argument("--model", nargs="+", default=list(MODELS), choices=list(MODELS), help="models (all)")
    p.add_argument("--sweep-steps", type=int, default=100, help="updates of a sweep (100)")
    p.add_argument("--seeds", type=int, default=3, help="sweeps that are averaged (3)")
    p.add_argument("--trial-steps", type=int, default=100, help="updates of a short run (100)")
    p.add_argument("--grid", type=int, default=12, help="rates of the grid (12)")
    p.add_argument("--grid-seeds", type=int, default=3, help="short runs of each rate of the grid (3)")
    p.add_argument("--rules", action="store_true", help="train at what each of fastai's rules says, too")
    p.add_argument("--output", type=Path, help="keep each result in this file, and go on from what it holds")
    p.add_argument("--json", action="store_true", help="print a JSON object a line")
    args = p.parse_args(argv)
    torch.set_num_threads(1)
    precision.keep_memory()
    benchmark = Benchmark(
        Settings(steps=args.sweep_steps, seeds=args.seeds), Trial(args.trial_steps),
        Trial(args.trial_steps, args.grid_seeds), args.grid, args.rules, args.output,
    )  # fmt: skip
    begun = time.process_time()
    torch.set_flush_denormal(True)
    try:
        for result in benchmark.results(args.model):
            print(json.dumps(result) if args.json else "\n".join(told(result)), flush=True)
    finally:
        torch.set_flush_denormal(False)  # it holds for the whole process, and others may live on in it
    if not args.json:
        print(f"{time.process_time() - begun:.0f} CPU seconds")
    return 0


if __name__ == "__main__":
    sys.exit(main())
