"""What the Train page asks for and what it sees: settings to commands, a plan before the start, and a job's progress.

A training is a background job of ordinary commands, so whatever the page does can be typed in a terminal:

    nanochat demo --budget 60
    nanochat tok_train --data book.txt && nanochat base_train --data book.txt --depth 4 --minutes 5

`Follower` reads the job's log as it grows: records and events are lines of JSON in it, everything else is for people.
"""

import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from nanochat import paths
from nanochat.jobs import Job, NewLines, event_in
from nanochat.tasks.evaluation import Answer, TaskScore

if TYPE_CHECKING:
    from nanochat.gpt_config import GPTConfig

KINDS = {"demo": "First model", "base_train": "Pretrain", "chat_sft": "Fine-tune"}
CORPORA = {"stories": "Stories", "python": "The Python manual", "file": "A file of mine"}
VOCABULARY = {
    "stories": 1280,
    "python": 2048,
    "file": 4096,
}  # of the tokenizer that comes first: small texts, few pieces
LOOKS = 4  # at the machine's speed
JUDGING_SECONDS = 8.0  # that the demo takes after its budget
STAGE_TITLES = {"tokenizer": "Tokenizer", "base": "Pretraining", "sft": "Fine-tuning", "measure": "Judging"}
CURVE = {"stage": pl.String, "step": pl.Int64, "time": pl.Float64, "tokens": pl.Int64, "loss": pl.Float64,
         "smooth": pl.Float64, "bpb": pl.Float64, "speed": pl.Float64}  # fmt: skip
LOOKED_AT = 10_000_000  # bytes of a file of conversations that is looked at before the start; more takes seconds
COUNTED = 500  # conversations of it whose tokens are counted, at most
LINES_KEPT, SAMPLES_KEPT = 200, 50


class TrainError(ValueError):
    """Settings that no training can have: one sentence."""


@dataclass(frozen=True)
class Settings:
    """What a person chooses on the page."""

    kind: str = "demo"  # one of KINDS
    minutes: float = 1.0
    corpus: str = "stories"  # one of CORPORA; not for fine-tuning
    file: str = ""  # a text for pretraining, or a JSONL of conversations for fine-tuning
    depth: int = 4  # of pretraining
    tag: str = ""  # the run's name; "": one that is free
    base_tag: str = ""  # the pretrained run that fine-tuning starts from
    seed: int = 0
    beside: bool = False  # fine-tuning: whether the built-in conversations join those of the file
    flags: Mapping[str, str] = field(default_factory=dict)  # further flags of the command, without the dashes


@dataclass(frozen=True)
class Plan:
    """What the settings come to."""

    commands: tuple[tuple[str, ...], ...]  # module and arguments
    tag: str
    parameters: int | None
    tokens: int | None  # that will be read, by the probe; None where nothing tells
    seconds: float
    facts: Mapping[str, Any]  # for the job

    @property
    def shell(self) -> str:
        """The same for a terminal."""
        import shlex

        return " && \\\n".join(
            shlex.join(["nanochat", module.rpartition(".")[2], *arguments]) for module, *arguments in self.commands
        )


def plan(settings: Settings, speed: float | None) -> Plan:
    """Commands, size and time. speed: FLOP/s of this machine's matrix products, None where it was not probed.

    Raises TrainError for settings that cannot be, TagError for a name that cannot.
    """
    if settings.kind not in KINDS:
        raise TrainError(f"the kind is {settings.kind!r}; it is one of {', '.join(KINDS)}")
    if not math.isfinite(settings.minutes) or not 0.2 <= settings.minutes <= 1440:
        raise TrainError(f"{settings.minutes:g} minutes cannot be; give 0.2 to 1,440 (a day)")
    needs_file = settings.kind != "chat_sft" and settings.corpus == "file"
    if settings.file and not _is_there(paths.expand(settings.file)):
        raise TrainError(f"{settings.file} is not there, or not to be looked at; check how the path is written")
    if needs_file and not settings.file:
        raise TrainError("no file is named; give the path of a text, or choose another corpus")
    if settings.tag:
        paths.run_folder(paths.workspace(), "base", settings.tag)  # refuses what is no name
    make = {"demo": _demo, "base_train": _base_train, "chat_sft": _chat_sft}[settings.kind]
    return make(settings, speed)


def probe() -> float:
    """FLOP/s of matrix products on this machine; takes about two seconds, the first time.

    The best of some looks: the app itself may be busy while one is taken, and a training will not share its process.
    """
    from nanochat.training_setup import fastest_products

    return max(fastest_products() for _ in range(LOOKS))


def _demo(settings: Settings, speed: float | None) -> Plan:
    from nanochat.demo import DEEPER, DEEPER_FROM, Recipe, free_tag
    from nanochat.gpt_config import GPTConfig

    budget = settings.minutes * 60
    recipe = DEEPER if budget >= DEEPER_FROM else Recipe()
    tag = settings.tag or free_tag(paths.workspace())
    config = GPTConfig(
        recipe.context, recipe.vocab_size, recipe.n_layer, recipe.n_head, recipe.n_head, recipe.n_embd, "L"
    )
    update = recipe.rows * recipe.row_tokens
    parameters, tokens = _size(config, speed, budget * 0.75, update)
    command = (
        "nanochat.scripts.demo", "--budget", f"{budget:g}", "--corpus", _corpus(settings), "--model-tag", tag,
        "--seed", str(settings.seed), "--json",
    )  # fmt: skip
    facts = {
        "kind": "demo", "tag": tag, "stages": ["base", "sft"], "seconds": budget + JUDGING_SECONDS,
        "vocab_size": recipe.vocab_size,
    }  # fmt: skip
    return Plan((command,), tag, parameters, tokens, budget + JUDGING_SECONDS, facts)


def _base_train(settings: Settings, speed: float | None) -> Plan:
    """A tokenizer of the run's own, then the model: so no tokenizer of another run is touched."""
    from nanochat.gpt_config import GPTConfig
    from nanochat.horizon import model_width

    if not 1 <= settings.depth <= 64:
        raise TrainError(f"depth {settings.depth} cannot be; give 1 to 64")
    tag = settings.tag or _free_tag("base", f"d{settings.depth}")
    home = paths.workspace() / "tokenizers" / tag
    vocabulary = VOCABULARY[settings.corpus]
    corpus = _corpus(settings)
    tokenizer = (
        "nanochat.scripts.tok_train", "--data", corpus, "--vocab-size", str(vocabulary), "--base-dir", str(home),
        "--force",
    )  # fmt: skip
    train = (
        "nanochat.scripts.base_train", "--data", corpus, "--tokenizer-dir", str(home / "tokenizer"), "--depth",
        str(settings.depth), "--minutes", f"{settings.minutes:g}", "--seed", str(settings.seed), "--model-tag", tag,
        *_flags(settings), "--json",
    )  # fmt: skip
    width, heads = model_width(settings.depth, 64, 128)  # base_train's own defaults
    seconds = settings.minutes * 60
    parameters, tokens = _size(GPTConfig(256, vocabulary, settings.depth, heads, heads, width, "SSSL"), speed, seconds)
    facts = {"kind": "base_train", "tag": tag, "stages": ["base"], "seconds": seconds, "vocab_size": vocabulary}
    return Plan((tokenizer, train), tag, parameters, tokens, seconds, facts)


def _chat_sft(settings: Settings, speed: float | None) -> Plan:
    """From a pretrained run of the workspace; nanochat's own runs are read through --base-dir in a terminal."""
    if not settings.base_tag:
        raise TrainError("no pretrained run is chosen; pretrain one first, or run the demo")
    base = settings.base_tag
    tag = settings.tag or _free_tag("sft", base)
    command = [
        "nanochat.scripts.chat_sft", "--model-tag", base, *([] if tag == base else ["--output-tag", tag]), "--minutes",
        f"{settings.minutes:g}", "--seed", str(settings.seed), *_flags(settings), "--json",
    ]  # fmt: skip
    if settings.file:
        command += ["--data", str(paths.expand(settings.file))]
        command += [] if settings.beside else ["--tasks", "none"]
    if (paths.workspace() / paths.STAGE_FOLDERS["sft"][0] / tag).exists():
        command += ["--force"]  # the page asks before the start
    seconds = settings.minutes * 60
    facts = {"kind": "chat_sft", "tag": tag, "stages": ["sft"], "seconds": seconds}
    parameters, tokens = _size_of_run(base, speed, seconds)
    return Plan((tuple(command),), tag, parameters, tokens, seconds, facts)


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name that is too long, a folder that is closed
        return False


def _flags(settings: Settings) -> list[str]:
    return [word for name, value in settings.flags.items() for word in (f"--{name}", value)]


def _size(config: "GPTConfig", speed: float | None, seconds: float, update: int = 0) -> tuple[int, int | None]:
    """(parameters, tokens that the time allows). update: tokens of one, where that is known; small ones cost more."""
    from nanochat.training_setup import optimizer_tokens, size_of, training_speed

    counts, flops = size_of(config)
    if speed is None:
        return counts["total"], None
    share = update / (update + optimizer_tokens(config, "muon")) if update else 1.0
    return counts["total"], round(training_speed(speed, "cpu") / flops * seconds * share)


def _size_of_run(tag: str, speed: float | None, seconds: float) -> tuple[int | None, int | None]:
    """The same for a pretrained run of the workspace; (None, None) where its meta file does not tell."""
    config = _config_of_run(tag)
    return (None, None) if config is None else _size(config, speed, seconds)


def _config_of_run(tag: str) -> "GPTConfig | None":
    from nanochat.checkpoint_files import CheckpointError, meta_name
    from nanochat.checkpoint_meta import read_meta
    from nanochat.checkpoint_runs import find_last_step
    from nanochat.gpt_config import GPTConfig

    folder = paths.workspace() / paths.STAGE_FOLDERS["base"][0] / tag
    try:
        return GPTConfig(**read_meta(folder / meta_name(find_last_step(folder)))["model_config"])
    except (CheckpointError, FileNotFoundError, TypeError, ValueError):  # the training itself says what is wrong
        return None


@dataclass(frozen=True)
class Reading:
    """What a fine-tuning finds in its file."""

    learnt: int  # conversations that it trains on
    unseen: int  # and those that it keeps, to ask afterwards
    tokens: int | None  # of the learnt ones, about; None where the run keeps no tokenizer
    longer: int  # learnt ones, about, that the model cannot see whole
    context: int  # tokens that it sees at once


def reading(file: str | Path, tag: str) -> Reading | None:
    """A file as the training of this pretrained run will read it, before the start; None for one too large for that,
    and for a run whose meta file does not tell how much it sees.

    Raises TaskError and ChatSFTError for a file that the training would refuse, in the same words.
    """
    from nanochat.analysis.dataset_inspector.lengths import count_tokens
    from nanochat.sft_tasks import from_file
    from nanochat.tokenizer import TokenizerError, load_tokenizer

    path, config = paths.expand(file), _config_of_run(tag)
    if config is None or path.stat().st_size > LOOKED_AT:
        return None
    part, unseen = from_file(str(path))
    task = part.task
    try:
        tokenizer = load_tokenizer(paths.run_folder(paths.workspace(), "base", tag))
    except TokenizerError:  # a run of nanochat's, whose tokenizer lies elsewhere
        return Reading(len(task), len(unseen), None, 0, config.sequence_len)
    step = -(-len(task) // COUNTED)
    counts = count_tokens(((row, task[row]) for row in range(0, len(task), step)), tokenizer).frame["tokens"]
    tokens, longer = (round(int(found.sum()) * len(task) / len(counts)) for found in
                      (counts, counts > config.sequence_len + 1))  # fmt: skip
    return Reading(len(task), len(unseen), tokens, longer, config.sequence_len)


def _free_tag(stage: str, name: str) -> str:
    names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
    return next(tag for tag in names if not paths.run_folder(paths.workspace(), stage, tag).exists())


def _corpus(settings: Settings) -> str:
    return str(paths.expand(settings.file)) if settings.corpus == "file" else settings.corpus


@dataclass(frozen=True)
class Progress:
    """What is known about a job at this moment."""

    stage: str  # a word of STAGE_TITLES; "" before the first is known
    title: str
    curve: pl.DataFrame  # columns of CURVE, every record so far
    samples: tuple[tuple[int, str], ...]  # (updates, text), the newest last
    lines: tuple[str, ...]  # what it said for people, the newest last
    uniform: float | None  # nats a token of a model that knows nothing: ln V
    floor: float | None  # bits a byte that no model gets below
    floor_nats: float | None  # the same as nats a token
    report: Mapping[str, Any] | None  # the demo's, at its end
    scores: tuple[TaskScore, ...]  # of the questions that a fine-tuning asks at its end


class Follower:
    """Reads a job's log as it grows: each look costs what is new."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self._new = NewLines(job)
        self._rows: list[tuple[Any, ...]] = []
        self._samples: list[tuple[int, str]] = []
        self._lines: list[str] = []
        stages = job.facts.get("stages") or ["base"]
        self._before = 0.0  # seconds of the stages that are over
        self._stage, self._title = ("" if job.facts.get("kind") == "demo" else str(stages[0])), ""
        self._floor: float | None = None
        self._floor_nats: float | None = None
        self._report: Mapping[str, Any] | None = None
        self._scores: tuple[TaskScore, ...] = ()

    def look(self) -> Progress:
        """Take in what was written since the last look, up to the last whole line."""
        self._take(self._new.look())
        vocabulary = self.job.facts.get("vocab_size")
        return Progress(
            self._stage,
            self._title or STAGE_TITLES.get(self._stage, ""),
            pl.DataFrame(self._rows, CURVE, orient="row"),
            tuple(self._samples),
            tuple(self._lines),
            math.log(vocabulary) if vocabulary else None,
            self._floor,
            self._floor_nats,
            self._report,
            self._scores,
        )

    def _take(self, lines: Iterable[str]) -> None:
        for line in lines:
            said = event_in(line)
            if said is None:
                self._say(line)
            elif said.get("event") == "Stage":
                self._stage, self._title = str(said.get("name")), str(said.get("title"))
                self._before = self._rows[-1][2] or 0.0 if self._rows else 0.0
                self._floor = _number(said.get("floor")) or self._floor
                self._floor_nats = _number(said.get("floor_nats")) or self._floor_nats
                for note in said.get("notes") or ():
                    self._say(str(note))
            elif said.get("event") == "Step" and isinstance(said.get("record"), dict):
                self._record(said["record"])
            elif said.get("event") == "Sample":
                text = f"{said.get('prompt') or ''} {said.get('text') or ''}".strip()
                self._samples = [*self._samples, (int(_number(said.get("step")) or 0), text)][-SAMPLES_KEPT:]
            elif said.get("event") == "Report":
                self._report = said
            elif said.get("event") == "Scores":
                try:
                    self._scores = tuple(map(_score, said["scores"]))
                except (KeyError, TypeError):  # half of it, or of another version
                    self._say(line)
            elif "step" in said:
                self._record(said)

    def _record(self, record: Mapping[str, Any]) -> None:
        values = [
            _number(record.get(name))
            for name in ("step", "time", "tokens", "train_loss", "smooth_loss", "val_bpb", "tokens_per_second")
        ]
        step, seconds, tokens, *rest = values
        if step is not None:
            seconds = None if seconds is None else seconds + self._before
            self._rows.append((self._stage, int(step), seconds, None if tokens is None else int(tokens), *rest))

    def _say(self, line: str) -> None:
        if line.strip():
            self._lines = [*self._lines, line][-LINES_KEPT:]


def _score(said: Mapping[str, Any]) -> TaskScore:
    return TaskScore(**{**said, "examples": tuple(Answer(**one) for one in said["examples"])})


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def thinned(curve: pl.DataFrame, points: int) -> pl.DataFrame:
    """At most about `points` rows of a curve for the screen: of each stretch the lowest and the highest loss, so that
    spikes stay, and every row with an evaluation."""
    if len(curve) <= points:
        return curve
    stretch = math.ceil(2 * len(curve) / points)
    return (
        curve.with_row_index("row")
        .with_columns(part=pl.col("row") // stretch)
        .filter(
            (pl.col("loss") == pl.col("loss").min().over("stage", "part"))
            | (pl.col("loss") == pl.col("loss").max().over("stage", "part"))
            | pl.col("bpb").is_not_null()
        )
        .drop("row", "part")
    )
