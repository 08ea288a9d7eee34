"""The lines that a loss is to be compared with, and the phases of the learning rate.

- uniform: ln V, what a model has that knows nothing and gives each of V tokens the same chance; where every run begins
- unigrams: the entropy of single tokens, what a model has that knows how frequent each is and nothing of order
- floor: what no model gets below, known for the built-in stories alone, because a grammar makes them
"""

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from nanochat.analysis.training_dashboard.history import History
from nanochat.dataset import SHARD_FOLDERS, Dataset, DatasetError, open_dataset
from nanochat.schedules import Moment, Schedule, ScheduleError
from nanochat.tokenizer_files import JSON_NAME, TokenizerError

UNIGRAM_TEXT = 1 << 20  # characters that the tokens are counted in
SMALLEST_FALL = 0.05  # of the full rate, from where on it counts as a warmup or a warmdown


@dataclass(frozen=True)
class Level:
    """A line across a chart."""

    name: str  # uniform, unigrams or floor
    metric: str  # train_loss (nats a token) or val_bpb (bits a byte)
    value: float
    sentence: str


def levels(history: History) -> tuple[tuple[Level, ...], tuple[str, ...]]:
    """(the lines of a run's charts, why others are missing)."""
    found, missing = [], []
    size = history.model.get("vocab_size")
    if type(size) is int and size > 1:
        nats = math.log(size)
        found.append(
            Level("uniform", "train_loss", nats, f"{nats:.3f} nats a token: a model that knows nothing, the logarithm "
                  f"of the vocabulary's {size:,} tokens.")
        )  # fmt: skip
    else:
        missing.append("no line for a model that knows nothing: the size of the vocabulary stands nowhere")
    if history.stage != "base":
        missing.append("no line for single tokens: in fine-tuning only part of the tokens counts")
        return tuple(found), tuple(missing)
    try:
        dataset, tokenizer, source = _text_of(history)
    except (DatasetError, TokenizerError, ValueError) as error:
        missing.append(f"no line for single tokens: {error}")
        return tuple(found), tuple(missing)
    nats, counted = unigram_entropy(dataset, tokenizer)
    found.append(
        Level("unigrams", "train_loss", nats, f"{nats:.3f} nats a token: a model that knows how frequent each token is "
              f"and nothing of their order, by {counted:,} tokens of {source}.")
    )  # fmt: skip
    from nanochat import demo_report

    floor = demo_report.floor_of(dataset)
    if floor is None:
        missing.append("no floor: it is known for the built-in stories alone")
        return tuple(found), tuple(missing)
    token = demo_report.floor_nats(floor, dataset, tokenizer)
    words = "no model gets below this on average, because the stories themselves are that uncertain."
    found.append(Level("floor", "val_bpb", floor, f"{floor:.4f} bits a byte: {words}"))
    found.append(Level("floor", "train_loss", token, f"{token:.3f} nats a token: {words}"))
    return tuple(found), tuple(missing)


def unigram_entropy(dataset: Dataset, tokenizer: Any) -> tuple[float, int]:
    """(nats a token, tokens counted) of the beginning of a training text, a <|bos|> before each document."""
    from nanochat.demo_report import documents

    counts: Counter[int] = Counter()
    characters = 0
    bos = tokenizer.get_bos_token_id()
    for text in documents(dataset.train):
        counts[bos] += 1
        counts.update(tokenizer.encode(text))
        characters += len(text)
        if characters >= UNIGRAM_TEXT:
            break
    total = sum(counts.values())
    return -sum(n / total * math.log(n / total) for n in counts.values()), total


def _text_of(history: History) -> tuple[Dataset, Any, str]:
    """(training text, tokenizer, its name). Raises DatasetError, TokenizerError or ValueError in words."""
    from nanochat.tokenizer import load_tokenizer

    folder = history.folder
    if folder is None:
        raise DatasetError("a log alone does not say which text was read")
    base_dir = folder.absolute().parent.parent
    places = [folder] if (folder / JSON_NAME).is_file() else [base_dir / "tokenizer"]
    if not places[0].is_dir():
        raise DatasetError(f"{places[0].name}: the tokenizer of this run is gone")
    spec = _spec(history, base_dir)
    if spec is None:
        raise DatasetError("the text that it was trained on is not here")
    tokenizer = load_tokenizer(places[0])
    if tokenizer.get_vocab_size() != history.model.get("vocab_size"):
        raise DatasetError("the tokenizer that is here is another than the run's")
    dataset = open_dataset(spec)
    return dataset, tokenizer, f"{dataset.name}"


def _spec(history: History, base_dir: Path) -> str | None:
    """What to open as this run's training text."""
    data = (history.meta.get("lab") or {}).get("data")
    identity = str(data.get("identity", "")) if isinstance(data, dict) else ""
    user = history.meta.get("user_config") or {}
    named = user.get("data") or user.get("corpus")
    if identity.startswith("stories"):
        return "stories"
    if isinstance(named, str) and (named == "python" or Path(named).expanduser().exists()):
        return named
    if identity:
        return None  # another text than what lies here by chance
    return next((str(base_dir / name) for name in SHARD_FOLDERS if (base_dir / name).is_dir()), None)


def phases(history: History) -> tuple[int | None, int | None, str]:
    """(step where the warmup ends, step where the warmdown begins, how that is known); None where there is none."""
    told = {
        word: history.frame.filter(pl.col("events").list.contains(word))["step"]
        for word in ("warmup_end", "warmdown_start")
    }
    if any(len(steps) for steps in told.values()):
        warm, cool = (int(steps[0]) if len(steps) else None for steps in told.values())
        return warm, cool, "the run said so"
    factors = history.frame.drop_nulls("lr_multiplier").select("step", "lr_multiplier")
    if factors.height >= 3:
        return (*_by_factors(factors), "by the rates")
    return (*_by_settings(history), "by the settings")


def _by_factors(factors: pl.DataFrame) -> tuple[int | None, int | None]:
    full = float(factors["lr_multiplier"].max())  # type: ignore[arg-type]
    if full <= 0:
        return None, None
    at = factors.filter(pl.col("lr_multiplier") >= full * 0.999)["step"]
    first, last = factors.row(0), factors.row(-1)
    warm = int(at[0]) if first[1] < full * (1 - SMALLEST_FALL) else None
    cool = int(at[-1]) if last[1] < full * (1 - SMALLEST_FALL) else None
    return warm, cool


def _by_settings(history: History) -> tuple[int | None, int | None]:
    schedule, steps = schedule_of(history.meta), history.horizon
    if schedule is None or steps is None:
        return None, None
    cool = steps - round(schedule.warmdown_ratio * steps) if schedule.kind == "wsd" else None
    reached = cool is not None and history.last is not None and history.last >= cool
    return schedule.warmup_steps or None, cool if reached else None


def schedule_of(meta: Any) -> Schedule | None:
    """The schedule that a run's settings speak of, ours or nanochat's; None where they speak of none."""
    lab, user = (meta.get("lab") or {}).get("schedule"), meta.get("user_config") or {}
    try:
        if isinstance(lab, dict):
            return Schedule(**{key: lab[key] for key in Schedule.__dataclass_fields__ if key in lab})
        ratio = user.get("warmdown_ratio")
        if ratio is None:
            return None
        iterations = user.get("num_iterations") or 0
        warmup = user.get("warmup_steps")
        if warmup is None:
            warmup = round((user.get("warmup_ratio") or 0.0) * max(iterations, 0))
        final = user.get("final_lr_frac", user.get("final_fraction"))
        return Schedule("wsd", int(warmup), float(ratio), float(final or 0.0))
    except (ScheduleError, TypeError, ValueError):
        return None


def phase_at(schedule: Schedule, step: int, steps: int) -> str:
    """warmup, stable or warmdown."""
    return schedule.phase(Moment(min(step, steps), steps))
