"""The demo: from text to a model that talks, in about a minute on a laptop, everything real.

Text becomes a tokenizer, the tokenizer's tokens train a base model, fine-tuning makes it answer, and then it is judged.
Every part is the code that trains large models; only the sizes are small. `run` gives events as they happen, so a
terminal and a page show the same demo.

    nanochat demo
    nanochat demo --budget 180 --corpus book.txt

Why these sizes: in a minute a narrow and shallow model learns more than a large one, and small batches more than large
ones, because both make more updates. Two layers are the fewest that can copy a name from earlier in a story.
docs/log.md has the measurements.
"""

import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from nanochat import demo_report, paths
from nanochat.checkpoint_files import location
from nanochat.demo_report import Report, scored_batches, tasks
from nanochat.gpt_config import GPTConfig
from nanochat.records import METRICS_NAME, RecordWriter, StepRecord

if TYPE_CHECKING:
    from nanochat.dataset import Dataset
    from nanochat.gpt import GPT
    from nanochat.tokenizer import Tokenizer
    from nanochat.training import Setup

TAG = "demo"
STAGES = ("base", "sft")
LEAST, MOST = 10, 86_400  # seconds of a budget
SFT_SHARE = (0.14, 0.3)  # of the budget, least and most; the base model gets the rest, less what the tokenizer took
SFT_UPDATES = 75  # with fewer it does not learn its name, so a slow machine spends more of the budget on them
SAMPLE_SECONDS = 8.0  # between two samples on the screen
SAMPLE_TOKENS = 120
RACE_SECONDS = 0.3  # to find out which number format is the faster one
TOKENIZER_CHARACTERS = 1_500_000  # of text that the tokenizer learns from
SCREEN_DOCUMENTS = 32  # scored while training; the report scores more


class DemoError(ValueError):
    """A demo that cannot run as asked: one sentence."""


@dataclass(frozen=True)
class Recipe:
    """What is trained and how: what wrote the best stories after a minute on two cores."""

    vocab_size: int = 1280
    n_layer: int = 2
    n_head: int = 4
    n_embd: int = 128
    context: int = 256  # tokens that the model can read; rows of pretraining are shorter
    rows: int = 8  # fewer, larger updates: 1.4 times the tokens a second of 4 rows on two cores, and truer stories
    row_tokens: int = 160
    matrix_lr: float = 0.04
    embedding_lr: float = 0.3
    unembedding_lr: float = 0.012
    scalar_lr: float = 0.5
    warmup_steps: int = 20
    momentum_steps: int = 100  # until Muon's momentum has grown to 0.95
    warmdown_ratio: float = 0.75
    final_fraction: float = 0.0
    eval_every: int = 300  # updates
    sft_rows: int = 6
    sft_row_tokens: int = 160
    sft_rate: float = 0.8  # of pretraining's learning rates
    persona_epochs: float = 40.0  # how often every fact about itself is told, for once through the stories


DEEPER = Recipe(n_layer=4)
DEEPER_FROM = 120.0  # seconds of a budget: from here on two more layers are worth their time


@dataclass(frozen=True)
class DemoConfig:
    """What the user decides."""

    budget: float = 60.0  # seconds from the first text to the fine-tuned model; judging it comes on top
    corpus: str = "stories"  # or "python", or a file or folder of text
    base_dir: Path = field(default_factory=paths.workspace)
    tag: str | None = None  # name of both runs; None: "demo", or "demo-2" where that is taken
    seed: int = 0
    recipe: Recipe | None = None  # None: what suits the budget
    stop: Callable[[], str | None] = lambda: None  # asked between updates; a word ends the demo and keeps what is there
    clock: Callable[[], float] = time.monotonic  # seconds; the budget is measured with it


@dataclass(frozen=True)
class Stage:
    """A part of the demo begins."""

    name: str  # "tokenizer", "base", "sft" or "measure"
    title: str  # for the screen
    seconds: float | None = None  # how long it will take, where that is decided
    floor: float | None = None  # bits a byte below which no model can go
    floor_nats: float | None = None  # the same as the training loss: nats a token, <|bos|> included
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Step:
    """One update was made."""

    stage: str
    record: StepRecord


@dataclass(frozen=True)
class Sample:
    """What the model writes at this moment."""

    stage: str
    step: int
    prompt: str  # "" where it began from nothing
    text: str


Event = Stage | Step | Sample | Report


def run(config: DemoConfig) -> Iterator[Event]:
    """Train, fine-tune and judge; the last event is the Report, unless `stop` ended the demo before.

    Raises:
        DemoError: the budget cannot be used. DatasetError, CheckpointError: the text or the folder cannot.
    """
    if not 0 <= config.seed < 2**63:
        raise DemoError(f"the seed is {config.seed}; give a whole number from 0 to 2^63 - 1")
    if not LEAST <= config.budget <= MOST:
        raise DemoError(f"a budget of {config.budget:g} seconds cannot be used; give {LEAST} to {MOST:,} (a day)")
    with ExitStack() as stack:
        yield from _Demo(config, stack).events()


def free_tag(base_dir: Path) -> str:
    """The first of demo, demo-2, demo-3, ... that neither a base model nor a fine-tuned one has."""
    names = itertools.chain([TAG], (f"{TAG}-{number}" for number in itertools.count(2)))
    return next(name for name in names if not any(paths.run_folder(base_dir, stage, name).exists() for stage in STAGES))


class _Demo:
    """One demo, part by part."""

    def __init__(self, config: DemoConfig, stack: ExitStack) -> None:
        self.config, self.stack = config, stack
        self.recipe = config.recipe or (DEEPER if config.budget >= DEEPER_FROM else Recipe())
        self.begun = config.clock()
        tag = free_tag(config.base_dir) if config.tag is None else config.tag
        self.folders = {stage: paths.run_folder(config.base_dir, stage, tag) for stage in STAGES}
        taken = next((folder for folder in self.folders.values() if folder.exists()), None)
        if taken is not None:
            raise DemoError(f"{location(taken)} is there already; give another --model-tag, or none")
        self.number_format: Any = None  # of activations: decided by a race
        self.stopped = False

    @property
    def elapsed(self) -> float:
        """Seconds since the demo began."""
        return self.config.clock() - self.begun

    def events(self) -> Iterator[Event]:
        """All parts in turn."""
        from nanochat.dataset import open_dataset

        dataset = open_dataset(self.config.corpus, seed=self.config.seed)
        floor = demo_report.floor_of(dataset)
        yield Stage("tokenizer", "Learning which pieces of text deserve a token", floor=floor, notes=dataset.notes)
        tokenizer = self.tokenizer(dataset)
        if self.config.stop():
            return
        base, notes = self.pretraining(dataset, tokenizer)
        nats = None if floor is None else demo_report.floor_nats(floor, dataset, tokenizer)
        yield Stage("base", "Reading: guess the next token, again and again", base.horizon.seconds, floor, nats, notes)
        yield from self.drive("base", base, tokenizer)
        if self.stopped:
            return
        tuned, notes = self.fine_tuning(dataset, base, tokenizer)
        yield Stage("sft", "Fine-tuning: learn to answer", tuned.horizon.seconds, notes=notes)
        yield from self.drive("sft", tuned, tokenizer)
        if self.stopped:
            return
        seconds = self.elapsed
        yield Stage("measure", "Judging what it has learned", floor=floor)
        report = demo_report.measure(
            base, tuned, tokenizer, dataset, seed=self.config.seed, seconds=seconds, folders=self.folders,
            stop=self.config.stop,
        )  # fmt: skip
        if report is not None:
            yield report

    def tokenizer(self, dataset: "Dataset") -> "Tokenizer":
        """A tokenizer learned from the beginning of the text."""
        from nanochat.tokenizer import train_tokenizer
        from nanochat.tokenizer_texts import training_texts

        return train_tokenizer(training_texts(dataset.train, TOKENIZER_CHARACTERS), self.recipe.vocab_size)

    def pretraining(self, dataset: "Dataset", tokenizer: "Tokenizer") -> "tuple[Setup, tuple[str, ...]]":
        """Everything that the base model needs, and what was decided on the way."""
        from nanochat import precision
        from nanochat.dataloader import DataLoader
        from nanochat.schedules import Momentum, Schedule
        from nanochat.threads import choose_threads
        from nanochat.training import Look
        from nanochat.training_evaluation import Evaluation
        from nanochat.training_setup import new_model

        recipe, tokens = self.recipe, self.recipe.rows * self.recipe.row_tokens
        config = GPTConfig(
            recipe.context, tokenizer.get_vocab_size(), recipe.n_layer, recipe.n_head, recipe.n_head, recipe.n_embd, "L"
        )
        precision.keep_memory()
        model = new_model(config, self.config.seed)
        trial = _trial(model, recipe.rows, recipe.row_tokens)
        threads, timed = choose_threads(trial)
        before = self.elapsed
        trial()
        tuning = tuning_seconds(self.config.budget, self.elapsed - before)
        choice = precision.race(config, tokens, seconds=RACE_SECONDS)
        self.number_format = choice.dtype
        batches = scored_batches(dataset, tokenizer, recipe.context, SCREEN_DOCUMENTS)
        score = Evaluation(model, lambda: batches, tokenizer.token_bytes(), stop=self.config.stop)
        setup = self.setup(
            "base", model, DataLoader(dataset.train, tokenizer, recipe.rows, recipe.row_tokens), tokenizer, 1.0,
            seconds=max(self.config.budget - tuning - self.elapsed, 1.0), tokens=tokens,
            schedule=Schedule("wsd", recipe.warmup_steps, recipe.warmdown_ratio, recipe.final_fraction),
            momentum=Momentum(0.85, 0.95, 0.95, recipe.momentum_steps),
            looks=(Look("evaluation", score, recipe.eval_every),), data=dataset.train.identity,
        )  # fmt: skip
        parameters = f"{sum(p.numel() for p in model.parameters()):,} parameters"
        return setup, (parameters, f"threads: {threads}, {timed}", choice.reason)

    def fine_tuning(self, dataset: "Dataset", base: "Setup", tokenizer: "Tokenizer") -> "tuple[Setup, tuple[str, ...]]":
        """A copy of the base model, and everything that fine-tuning it needs."""
        from nanochat.gpt import GPT
        from nanochat.sft_data import SFTLoader
        from nanochat.sft_schedule import SFT_MOMENTUM, SFTSchedule
        from nanochat.tasks.mixture import Mixture, Part

        recipe = self.recipe
        pretrained = cast("GPT", base.model)
        model = GPT(pretrained.config)
        model.load_state_dict(pretrained.state_dict())
        shown = zip(tasks(dataset, "train", self.config.seed), (recipe.persona_epochs, 1.0), strict=False)
        mixture = Mixture([Part(task, epochs) for task, epochs in shown], self.config.seed)
        setup = self.setup(
            "sft", model, SFTLoader(mixture, tokenizer, recipe.sft_rows, recipe.sft_row_tokens), tokenizer,
            recipe.sft_rate, seconds=max(self.config.budget - self.elapsed, 1.0),
            tokens=recipe.sft_rows * recipe.sft_row_tokens, schedule=SFTSchedule(), momentum=SFT_MOMENTUM, looks=(),
            data=mixture.identity,
        )  # fmt: skip
        return setup, tuple(f"{name}: {size:,} conversations" for name, size, _ in mixture.summary())

    def setup(
        self, stage: str, model: "GPT", loader: Any, tokenizer: "Tokenizer", rate: float, *, seconds: float,
        tokens: int, schedule: Any, momentum: Any, looks: tuple[Any, ...], data: str,
    ) -> "Setup":  # fmt: skip
        """The parts of the loop that both trainings share; the run's folder is held from here on."""
        from nanochat.distributed import World
        from nanochat.horizon import Horizon
        from nanochat.optim import OptimConfig, build_optimizer
        from nanochat.training import Setup
        from nanochat.training_checkpoints import Saver
        from nanochat.training_folder import begin, make_room, opened_anew
        from nanochat.training_setup import batch_loss

        recipe, folder = self.recipe, self.folders[stage]
        self.stack.enter_context(opened_anew(folder, sum(p.numel() for p in model.parameters())))
        begin(folder, World(), resume=None)
        make_room(folder, None, World())
        rates = OptimConfig(
            matrix_lr=recipe.matrix_lr * rate, embedding_lr=recipe.embedding_lr * rate,
            unembedding_lr=recipe.unembedding_lr * rate, scalar_lr=recipe.scalar_lr * rate, weight_decay=0.0,
            newton_schulz=str(self.number_format).removeprefix("torch."),
        )  # fmt: skip
        horizon = Horizon(seconds=seconds, reason=f"its part of a budget of {self.config.budget:g} seconds")
        facts: Mapping[str, Any] = {
            "user_config": {"budget": self.config.budget, "corpus": self.config.corpus, **asdict(recipe)},
            "device_batch_size": recipe.rows, "max_seq_len": recipe.context, "total_batch_size": tokens,
        }  # fmt: skip
        lab = {"horizon": asdict(horizon), "optimizer": asdict(rates), "data": {"identity": data}}
        return Setup(
            model, build_optimizer(model, rates), loader, horizon, batch_loss(model, self.number_format), schedule,
            momentum, looks=looks, saver=Saver(folder, tokenizer, model.config, facts=facts, lab=lab),
            metrics=self.stack.enter_context(RecordWriter(folder / METRICS_NAME)),
            flops_per_token=model.estimate_flops(), stop=self.config.stop, clock=self.config.clock,
        )  # fmt: skip

    def drive(self, stage: str, setup: "Setup", tokenizer: "Tokenizer") -> Iterator[Event]:
        """Train to the end of this part's time, with a sample every few seconds."""
        from nanochat.training import train

        clock = self.config.clock
        sampled = clock() - SAMPLE_SECONDS / 2  # the first one soon: it is the funniest
        with closing(train(setup)) as records:  # type: ignore[type-var]  # a generator has close
            for record in records:
                yield Step(stage, record)
                if "diverged" in record.events:
                    raise DemoError(
                        f"update {record.step}: the loss is no longer a number, so training stopped; try another --seed"
                    )
                self.stopped = "stopped" in record.events
                if record.train_loss is not None and clock() - sampled >= SAMPLE_SECONDS:
                    yield self.sample(stage, setup, tokenizer)
                    sampled = clock()

    def sample(self, stage: str, setup: "Setup", tokenizer: "Tokenizer") -> Sample:
        """What the model writes now: a text from nothing, or an answer to who it is."""
        step = setup.state.step
        if stage == "base":
            return Sample(stage, step, "", demo_report.write(setup.model, tokenizer, 1, step, SAMPLE_TOKENS)[0])
        question = demo_report.QUESTIONS[0]
        return Sample(stage, step, question, demo_report.answer(setup.model, tokenizer, question))


def tuning_seconds(budget: float, update: float) -> float:
    """How much of a budget fine-tuning gets where an update takes so long, in seconds: what it needs, within limits."""
    least, most = SFT_SHARE
    return min(max(SFT_UPDATES * update, least * budget), most * budget)


def _trial(model: "GPT", rows: int, tokens: int) -> Callable[[], None]:
    """A step that changes nothing, for a race."""
    import torch

    ids = torch.zeros((rows, tokens), dtype=torch.int64)

    def step() -> None:
        model(ids, ids, reduction="sum").backward()
        model.zero_grad(set_to_none=True)

    return step
