"""What the demo's model has learned, in numbers that can be trusted: against the floor, a 5-gram model and the grammar.

For the built-in stories all is exact: how many bits a byte no model can beat, whether a story that the model writes is
one of the language, and whether it was copied from the training text. For other texts there is no floor and no judge,
and the figures for them are None.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanochat.tasks import Task
from nanochat.tasks.evaluation import Comparison

if TYPE_CHECKING:
    from nanochat.dataset import Dataset
    from nanochat.dataset_split import Split
    from nanochat.gpt import GPT
    from nanochat.tokenizer import Tokenizer
    from nanochat.training import Setup

STORIES = "stories"  # the name of the corpus that can be judged
SCORED = 256  # documents of the validation split
SAMPLES = 100
SAMPLE_TOKENS = 160  # longer than any story
ANSWER_TOKENS = 40
ASKED = 40  # questions of each task and split
STORY_QUESTIONS = 3000
QUESTIONS = ("Who are you?", "What is your name?", "What can you do?")
SHOWN = 3  # samples in the report


@dataclass(frozen=True)
class Writing:
    """A hundred texts that the base model wrote from nothing, at temperature 1."""

    texts: tuple[str, ...]
    reasons: tuple[str, ...]  # a verdict each
    accepted: int  # stories with every name, pronoun, object and sum right
    shape: int  # stories by their sentences, whatever the names and sums
    copied: int  # word for word in the training text


@dataclass(frozen=True)
class Report:
    """The end of a demo."""

    seconds: float  # from the first text to the fine-tuned model
    tokens: int  # that the base model was trained on
    updates: int
    tokens_per_second: float  # of pretraining, evaluations and samples included
    val_bpb: float  # bits a byte of the base model on text that it has never seen
    floor: float | None  # the fewest that any model can reach on that text
    ngram_bpb: float  # of a Kneser-Ney 5-gram model that counted the same training text
    entropy_bpb: float  # of a model that knows nothing: every token equally likely
    writing: Writing | None  # None where there is no judge
    samples: tuple[str, ...]
    answers: tuple[tuple[str, str], ...]  # (question, what the fine-tuned model said)
    tasks: tuple[Comparison, ...]  # seen and unseen questions of each task
    folders: dict[str, Path]  # stage -> where its checkpoint lies

    @property
    def excess(self) -> float | None:
        """Bits a byte above the floor."""
        return None if self.floor is None else self.val_bpb - self.floor


def measure(
    base: "Setup", tuned: "Setup", tokenizer: "Tokenizer", dataset: "Dataset", *, seed: int, seconds: float,
    folders: dict[str, Path], stop: Callable[[], str | None] = lambda: None,
) -> Report | None:  # fmt: skip
    """Score both models; takes some ten seconds. None where `stop`, asked between the parts, gave a word."""
    from nanochat.loss_eval import evaluate_bpb
    from nanochat.ngram import NGram
    from nanochat.tasks.evaluation import compare, evaluate_tasks

    model: Any = base.model
    tuned_model: Any = tuned.model
    model.eval()
    token_bytes = tokenizer.token_bytes()
    batches = scored_batches(dataset, tokenizer, model.config.sequence_len, SCORED)
    bos, V = tokenizer.get_bos_token_id(), model.config.vocab_size
    read = list(seen_by(base, dataset, tokenizer))
    ngram = NGram(([bos, *tokenizer.encode(text)] for text in read), vocab_size=V)
    scored = [row for batch in batches for row in sequences(batch, bos)]
    size = sum(token_bytes[token] for row in scored for token in row[1:])
    judgeable = dataset.name == STORIES
    val_bpb = evaluate_bpb(model, batches, token_bytes)
    if stop():
        return None
    texts = write(model, tokenizer, SAMPLES if judgeable else SHOWN, seed)
    writing = judged(texts, set(read)) if judgeable and not stop() else None
    asked = [task for split in ("train", "val") for task in tasks(dataset, split, seed)]
    scores = evaluate_tasks(tuned_model, tokenizer, asked, ASKED, stop=lambda: bool(stop()))
    if stop():
        return None
    return Report(
        seconds=seconds,
        tokens=base.state.tokens,
        updates=base.state.step,
        tokens_per_second=base.state.tokens / max(base.state.elapsed, 1e-9),
        val_bpb=val_bpb,
        floor=floor_of(dataset),
        ngram_bpb=sum(map(ngram.nats, scored)) / math.log(2) / size,
        entropy_bpb=sum(len(row) - 1 for row in scored) * math.log2(V) / size,
        writing=writing,
        samples=tuple(texts[:SHOWN]),
        answers=tuple((question, answer(tuned_model, tokenizer, question)) for question in QUESTIONS),
        tasks=tuple(compare(scores)),
        folders=folders,
    )


def judged(texts: Sequence[str], training: set[str]) -> Writing:
    """The judge's verdict on each text."""
    from nanochat.stories import judge

    verdicts = [judge(text) for text in texts]
    return Writing(
        tuple(texts),
        tuple(verdict.reason for verdict in verdicts),
        sum(verdict.accepted for verdict in verdicts),
        sum(verdict.shape for verdict in verdicts),
        sum(text in training for text in texts),
    )


def write(model: Any, tokenizer: "Tokenizer", count: int, seed: int, max_tokens: int = SAMPLE_TOKENS) -> list[str]:
    """Texts that the model writes from nothing at temperature 1, each up to where it begins another."""
    return _texts(model, tokenizer, [tokenizer.get_bos_token_id()], count, seed, max_tokens, 1.0)


def answer(model: Any, tokenizer: "Tokenizer", question: str, max_tokens: int = ANSWER_TOKENS) -> str:
    """What a fine-tuned model answers, the likeliest words only."""
    from nanochat.tasks import dialogue

    prompt = tokenizer.render_for_completion(dialogue(question, ""))
    return _texts(model, tokenizer, prompt, 1, 0, max_tokens, 0.0)[0]


def _texts(
    model: "GPT", tokenizer: "Tokenizer", prompt: list[int], count: int, seed: int, max_tokens: int, temperature: float
) -> list[str]:
    from nanochat.engine import Engine

    training = model.training
    model.eval()
    try:
        rows, _ = Engine(model, tokenizer).generate_batch(
            prompt, num_samples=count, max_tokens=max_tokens, temperature=temperature, seed=seed
        )
    finally:
        model.train(training)
    return [tokenizer.decode(row[len(prompt) :]).strip() for row in rows]


def floor_of(dataset: "Dataset") -> float | None:
    """The fewest bits a byte that any model can reach on the documents that are scored; None where nobody knows."""
    if dataset.name != STORIES:
        return None
    from nanochat.stories import floor_bpb

    return floor_bpb(first(dataset.val, SCORED))


def floor_nats(floor: float, dataset: "Dataset", tokenizer: "Tokenizer") -> float:
    """The floor as a training loss: nats a token, each story with its <|bos|>, which costs nothing to foresee."""
    texts = first(dataset.val, SCORED)
    tokens = sum(len(ids) + 1 for ids in tokenizer.encode(texts))
    return floor * math.log(2) * sum(len(text.encode()) for text in texts) / tokens


def scored_batches(dataset: "Dataset", tokenizer: "Tokenizer", context: int, count: int) -> list[Any]:
    """Batches of validation text: stories each whole behind bos, other text in packed rows."""
    from nanochat.dataloader import DataLoader, whole_documents

    if dataset.name == STORIES:
        texts = first(dataset.val, count)
        longest = max(len(tokenizer.encode(text)) for text in texts)
        return list(whole_documents(texts, tokenizer, 32, min(longest, context)))
    with DataLoader(dataset.val, tokenizer, 16, context, ahead=False) as loader:
        return [loader.next_batch() for _ in range(max(1, count // 32))]


def sequences(batch: Any, bos: int) -> Iterator[list[int]]:
    """The documents of a batch as token sequences that begin with bos; what has no loss is left out."""
    for inputs, targets in zip(batch.inputs.tolist(), batch.targets.tolist(), strict=True):
        row = [bos]
        for token, target in zip(inputs, targets, strict=True):
            if token == bos and len(row) > 1:
                yield row
                row = [bos]
            if target >= 0 and target != bos:
                row.append(target)
        if len(row) > 1:
            yield row


def seen_by(setup: "Setup", dataset: "Dataset", tokenizer: "Tokenizer") -> Iterator[str]:
    """The training documents that a run has read, in order: those before the loader's place, at most all of them once.

    Some of the last ones are still in its buffer: they count as read.
    """
    place, split = setup.loader.position, dataset.train
    for shard, group, texts in groups(split):
        if place["epoch"] == 1 and (shard, group) > (place["pq_idx"], place["rg_idx"]):
            return
        yield from texts


def groups(split: "Split") -> Iterator[tuple[int, int, list[str]]]:
    """(shard, group, its documents) of a split, once through; of an endless one, for ever."""
    shard = 0
    while split.shards is None or shard < split.shards:
        for group in range(split.groups(shard)):
            yield shard, group, split.read(shard, group)
        shard += 1


def documents(split: "Split") -> Iterator[str]:
    """The documents of a split, once through; of an endless one, for ever."""
    for _, _, texts in groups(split):
        yield from texts


def first(split: "Split", count: int) -> list[str]:
    """The first documents of a split."""
    return [text for text, _ in zip(documents(split), range(count), strict=False)]


def tasks(dataset: "Dataset", split: str, seed: int) -> list[Task]:
    """What fine-tuning teaches: who the model is, and questions about the stories if it has read stories."""
    from nanochat.tasks.persona import Persona
    from nanochat.tasks.story_questions import StoryQuestions

    persona: list[Task] = [Persona(split)]
    if dataset.name != STORIES:
        return persona
    return [*persona, StoryQuestions(split, STORY_QUESTIONS, seed, start=SCORED if split == "val" else 0, each=3)]
