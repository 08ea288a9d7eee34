"""What a model can be taught and asked: a task is a list of conversations whose answers can be judged.

Fine-tuning trains on the "train" split of a task and asks questions of both splits. The "val" split holds what training
never showed: other words, other numbers, other wordings, other stories. The gap between the two is what was learnt by
heart. Every task is a pure function of its settings: conversation i is the same on every machine and in every process.

    task = Spelling("train", size=200)          # nanochat/tasks/spelling.py
    conversation = task[0]                      # {"messages": [user, assistant]}
    task.judge(conversation, "It is c a t.")    # True or False

mixture.py mixes tasks into one order for training, evaluation.py asks a model and counts. No torch in any of them.
"""

import random
import re
import zlib
from typing import Any, Protocol

SPLITS = ("train", "val")
Conversation = dict[str, Any]  # {"messages": [{"role": ..., "content": ...}, ...]}, as in nanochat/conversation.py
NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


class TaskError(ValueError):
    """A task cannot be made or read as asked: one sentence with the value and the remedy."""


class Task(Protocol):
    """A list of conversations, the last message of each being the reply that is taught."""

    @property
    def name(self) -> str:
        """What a table calls it."""

    @property
    def split(self) -> str:
        """ "train", or "val" for what training never shows."""

    @property
    def identity(self) -> str:
        """A text that is the same only if all conversations are: a resumed run compares it."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Conversation:
        """Conversation `index`, from 0 to len - 1; IndexError beyond."""

    def judge(self, conversation: Conversation, reply: str) -> bool:
        """Whether `reply`, the visible text of a model's answer, is right for this conversation."""


def dialogue(question: str, answer: Any) -> Conversation:
    """One question and one answer: a string, or a list of parts where a tool is called."""
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def visible(content: Any) -> str:
    """The text of a message that a reader sees: without the code of tool calls and without their output."""
    if isinstance(content, str):
        return content
    return "".join(part["text"] for part in content if part["type"] == "text")


def expected(conversation: Conversation) -> str:
    """The visible text of the reply that is taught."""
    return visible(conversation["messages"][-1]["content"])


def words_of(text: str) -> list[str]:
    """The words of a text in small letters, for comparisons that forgive case, blanks and punctuation.

    >>> words_of(" I'm Pip,  a small model. ")
    ["i'm", 'pip', 'a', 'small', 'model']
    """
    return re.findall(r"[^\W_]+(?:'[^\W_]+)*", text.lower())


def last_number(text: str) -> str | None:
    """The last number in a text as it is written, thousands separators dropped; None where there is none."""
    found = NUMBER.findall(re.sub(r"(?<=\d),(?=\d{3})", "", text))
    return found[-1] if found else None


def generator(task: str, seed: int, split: str, index: int) -> random.Random:
    """Random numbers for one conversation. Seeded by text, so that they are the same in every process."""
    return random.Random(f"{task}/{seed}/{split}/{index}")


def held_out(key: str, every: int) -> bool:
    """Whether what `key` names belongs to the val split: about one in `every`, whatever else there is."""
    return zlib.crc32(key.encode("utf-8", "surrogatepass")) % every == 0


def check_split(split: str, size: int = 1) -> None:
    """Raises TaskError for a split that is not one, or a size below 1."""
    if split not in SPLITS:
        raise TaskError(f"split {split!r} is not known; use train, or val for what training never shows")
    if type(size) is not int or size < 1:
        raise TaskError(f"size is {size!r}; give the number of conversations, 1 or more")


def check_index(index: int, size: int) -> int:
    """The index, with negative ones counted from the end; IndexError beyond, which also ends a for loop."""
    if not -size <= index < size:
        raise IndexError(f"conversation {index} of {size}")
    return index % size
