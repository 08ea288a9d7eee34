"""What chat_sft trains on: conversations from files and from tasks that make their own, each with its unseen part."""

from __future__ import annotations

import argparse
from pathlib import Path

from nanochat.tasks import Task
from nanochat.tasks.mixture import Part

GENERATED = ("persona", "stories", "spelling", "counting", "arithmetic")
VAL_EVERY = 10  # of so many conversations of a file one is kept unseen
MOST_EPOCHS = 10_000  # passes over a file: more would only fill the memory with its order
MOST_COUNT = 10**7  # conversations of a task, for the same reason
VAL_SIZE = 200  # conversations of the val split of each task: for bits per byte, and to ask from


class ChatSFTError(ValueError):
    """A flag that cannot be followed: one sentence."""


def make_tasks(args: argparse.Namespace) -> tuple[list[Part], list[Task]]:
    """The parts of the training mixture, and the val split of each. Raises ChatSFTError and TaskError."""
    parts: list[Part] = []
    val: list[Task] = []
    for spec in args.data:
        part, unseen = from_file(spec, args.profile, args.val_every)
        parts.append(part)
        val.append(unseen)
    for spec in filter(None, (one.strip() for one in args.tasks.split(","))):
        name, amount = split_amount(spec, 2000)
        if name == "none":
            continue
        if name not in GENERATED or not 1 <= amount <= MOST_COUNT or amount != int(amount):
            raise ChatSFTError(
                f"--tasks has {spec!r:.60}; name some of {', '.join(GENERATED)}, each with =COUNT, a whole number of "
                f"conversations up to {MOST_COUNT:,}, or none"
            )
        train, unseen = generated(name, int(amount), args)
        parts.append(Part(train, amount / len(train)))
        val.append(unseen)
    if not parts:
        raise ChatSFTError("there is nothing to train on; name a JSONL file with --data, or some --tasks")
    return parts, val


def from_file(spec: str, profile: str = "chat", val_every: int = VAL_EVERY) -> tuple[Part, Task]:
    """What is trained on of a file of conversations, and what is kept unseen. spec: FILE or FILE=EPOCHS.

    Raises ChatSFTError and TaskError.
    """
    from nanochat.tasks.conversation_file import ConversationFile

    name, epochs = split_amount(spec, 1.0)
    train, val = (ConversationFile(name, split, profile=profile, every=val_every) for split in ("train", "val"))
    if val_every > 1 and not len(train) and len(val):  # chance put all of a short file aside
        train, val = (ConversationFile(name, split, profile=profile, every=0) for split in ("train", "val"))
    require_some(train, val, spec, epochs)
    return Part(train, epochs), val


def require_some(train: Task, val: Task, spec: str, epochs: float) -> None:
    """Refuse a file of which nothing would be trained on: whoever names one wants it learnt.

    Raises:
        ChatSFTError: it is empty, all of it is kept back, or it is to be shown less than once.
    """
    if not len(train):
        why = "it holds no conversation" if not len(val) else f"its only {len(val):,} are kept unseen by --val-every"
        remedy = "name another file, or leave it out" if not len(val) else "give --val-every 0, or a longer file"
        raise ChatSFTError(f"--data {spec!r:.200}: {why}, so nothing of it would be trained on; {remedy}")
    if not (epochs <= MOST_EPOCHS and round(epochs * len(train)) >= 1):
        raise ChatSFTError(
            f"--data {spec!r:.200}: {len(train):,} conversations shown {epochs:g} times are none or too many; give a "
            f"number of passes above 0 and up to {MOST_EPOCHS:,}"
        )


def split_amount(spec: str, default: float) -> tuple[str, float]:
    """NAME or NAME=NUMBER. A path may have = in it, so only a number behind the last one counts.

    >>> split_amount("chats.jsonl=2.5", 1), split_amount("a=b.jsonl", 1)
    (('chats.jsonl', 2.5), ('a=b.jsonl', 1))
    """
    name, mark, amount = spec.rpartition("=")
    try:
        return (name, float(amount)) if mark else (spec, default)
    except ValueError:
        return spec, default


def generated(name: str, count: int, args: argparse.Namespace) -> tuple[Task, Task]:
    """Both splits of a task that makes its own conversations."""
    from nanochat.tasks.arithmetic import Arithmetic
    from nanochat.tasks.persona import Persona
    from nanochat.tasks.spelling import LetterCount, Spelling
    from nanochat.tasks.story_questions import StoryQuestions

    if name == "persona":
        return Persona("train"), Persona("val")
    made: list[Task]
    sizes = (("train", count), ("val", VAL_SIZE))
    if name in ("spelling", "counting"):
        kind = Spelling if name == "spelling" else LetterCount
        words = read_words(args.words) if args.words else None
        made = [kind(s, n, args.seed) if words is None else kind(s, n, args.seed, words) for s, n in sizes]
    elif name == "stories":
        made = [StoryQuestions(split, n, args.seed) for split, n in sizes]
    else:
        made = [Arithmetic(split, n, args.seed) for split, n in sizes]
    return made[0], made[1]


def read_words(path: Path) -> tuple[str, ...]:
    """The words of a file, one a line, those of small letters alone. Raises ChatSFTError."""
    try:
        lines = path.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise ChatSFTError(f"{path}: cannot be read as a list of words ({error}); give one word a line") from None
    words = tuple(dict.fromkeys(word for word in lines if word.isalpha() and word == word.lower()))
    if not words:
        raise ChatSFTError(f"{path}: no word of small letters is in it; give one word a line")
    return words
