"""From text to an answer: what this machine has of each stage, and the one next step. Pure, no Streamlit here."""

from collections.abc import Sequence
from dataclasses import dataclass

from nanochat.checkpoint_manager import Run
from nanochat.dataset import SHARD_FOLDERS
from nanochat.paths import Root
from nanochat.tokenizer_files import JSON_NAME, PICKLE_NAME
from nanochat.ui.roots import RootReport, chat_command

TALKING = ("sft", "rl", "mid")  # stages whose models answer


@dataclass(frozen=True)
class Stage:
    """One stage of the picture."""

    title: str
    what: str  # what happens there, for a learner
    state: str  # what this machine has
    there: bool
    stem: str  # the page it leads to
    label: str  # of the link, short: five stand side by side


@dataclass(frozen=True)
class NextStep:
    """The one thing to do now."""

    sentence: str
    stem: str  # the page that does it
    label: str
    command: str  # that does it in a terminal


def pipeline(reports: Sequence[RootReport]) -> tuple[Stage, ...]:
    """The five stages, from what lies in both roots."""
    roots = [report.root for report in reports if report.exists and report.problem is None]
    runs = [run for report in reports for run in report.runs if run.steps]
    shards = sum(_shards(root) for root in roots)
    tokenizers = _tokenizers(roots, runs)
    checkpoints = sum(len(run.steps) for run in runs)
    talking = [run for run in runs if run.stage in TALKING]
    return (
        Stage(
            "Text",
            "What a model learns from.",
            "stories, made as needed" + (f", and {_many(shards, 'shard')}" if shards else ""),
            True,
            "dataset_inspector",
            "Inspect",
        ),
        Stage(
            "Tokens",
            "Text cut into pieces, each with a number.",
            _many(tokenizers, "tokenizer"),
            tokenizers > 0,
            "tokenizer_playground",
            "Look",
        ),
        Stage(
            "Training", "Guess the next token, again and again.", _many(len(runs), "run"), bool(runs), "train", "Train"
        ),
        Stage(
            "Model",
            "Millions of numbers that guess well.",
            _many(checkpoints, "checkpoint"),
            checkpoints > 0,
            "checkpoint_browser",
            "Browse",
        ),
        Stage(
            "Answer",
            "Token by token, one draw after the other.",
            f"{_many(len(talking), 'model')} that can talk" if talking else "no model that can talk",
            bool(talking),
            "chat",
            "Chat",
        ),
    )


def next_step(reports: Sequence[RootReport]) -> NextStep:
    """What a person would do now: train, fine-tune, or talk."""
    runs = [run for report in reports for run in report.runs if run.steps]
    command = next(filter(None, map(chat_command, reports)), None)
    if not runs or command is None:
        return NextStep(
            "train a small model right here, from nothing, in a minute.",
            "train",
            "Train a first model",
            "nanochat demo",
        )
    if any(run.stage in TALKING for run in runs):
        return NextStep("talk to your model.", "chat", "Chat", command)
    return NextStep(
        "teach your model to answer, by fine-tuning. As it is, it goes on with any text:", "train", "Fine-tune", command
    )


def _many(count: int, word: str) -> str:
    return f"{count:,} {word}{'' if count == 1 else 's'}" if count else f"no {word} yet"


def _shards(root: Root) -> int:
    return sum(len(list((root.path / name).glob("*.parquet"))) for name in SHARD_FOLDERS)


def _tokenizers(roots: Sequence[Root], runs: Sequence[Run]) -> int:
    """Each root's own tokenizer, and those beside checkpoints; the stages of one run share theirs."""
    places = [(root.path, "", root.path / "tokenizer") for root in roots]
    places += [(run.folder.parent.parent, run.tag, run.folder) for run in runs]
    names = (JSON_NAME, PICKLE_NAME)
    return len({(root, tag) for root, tag, place in places if any((place / name).is_file() for name in names)})
