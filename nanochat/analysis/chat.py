"""What the chat page shows, computed: a conversation's messages, what fits into the context, its tokens, its export.

A conversation is a tuple of messages that is never changed: saying, answering and rewinding give a new one. What does
not fit into the model's context any more is dropped from its beginning, an exchange at a time, and said beforehand.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanochat import paths
from nanochat.checkpoint_files import model_name
from nanochat.conversation import PARTS
from nanochat.reply import Part, Reply, Turn, prompt_ids
from nanochat.sft_tasks import split_amount
from nanochat.tasks import held_out

if TYPE_CHECKING:
    import polars as pl

    from nanochat.tokenizer import Tokenizer


INTRODUCTION = "Who are you?"  # what the built-in conversations teach, and nanochat's own
SHORT = 80  # characters of a question that is suggested
FIRST, LINE = 20, 20_000  # lines of a file that are read for one, and characters of each


class ChatError(ValueError):
    """A message that cannot be sent, or a model that does not fit: one sentence."""


def try_asking(meta: Mapping[str, Any]) -> str:
    """A question that this fine-tuned model was taught to answer: of a file of one's own the first that is short.

    meta: the checkpoint's. "" where the file tells none, or is there no more.
    """
    try:
        if any(name == "persona" for name, *_ in meta["lab"]["mixture"]):
            return INTRODUCTION
    except (KeyError, TypeError, ValueError):  # it does not say what it was taught, as nanochat's own runs do not
        return INTRODUCTION
    try:
        asked = meta["user_config"]
        path, every = paths.expand(split_amount(asked["data"][0], 1)[0]), int(asked.get("val_every", 0))
        if not path.is_file():
            return ""
        with path.open(encoding="utf-8-sig", errors="replace") as file:
            lines = [file.readline(LINE) for _ in range(FIRST)]
    except (OSError, KeyError, TypeError, ValueError, IndexError, AttributeError):
        return ""
    return next((question for question in map(partial(_question, every=every), lines) if question), "")


def _question(line: str, every: int) -> str:
    """What is asked first in a line of a data set; "" where that is long, or was kept unseen."""
    try:
        told = json.loads(line)
        messages = told["messages"] if isinstance(told, dict) else told
        question = next(message["content"] for message in messages if message["role"] == "user").strip()
        unseen = every > 0 and held_out(json.dumps(messages[0]["content"]), every)
    except (KeyError, TypeError, ValueError, AttributeError, StopIteration, RecursionError):
        return ""
    return question if len(question) <= SHORT and question.isprintable() and not unseen else ""


@dataclass(frozen=True)
class Message:
    """One message, and for a reply how it came about."""

    role: str  # "user" or "assistant"
    parts: tuple[Part, ...]
    ids: tuple[int, ...] = ()  # a reply's own tokens
    forced: tuple[bool, ...] = ()  # for each: whether a tool put it there
    model: str = ""  # the checkpoint whose tokens these are
    reason: str = "end"  # why it ended, as Reply.reason
    seed: int = 0
    seconds_to_first: float | None = None
    tokens_per_second: float | None = None

    @property
    def text(self) -> str:
        """The words alone, without tool calls."""
        return "".join(part["text"] for part in self.parts if part["type"] == "text")

    @property
    def called_in_vain(self) -> bool:
        """Whether it has a tool call that no tool answered: one not finished, or one that the tool cannot do."""
        kinds = [part["type"] for part in self.parts]
        return any(one == "python" and after != "python_output" for one, after in pairwise([*kinds, ""]))


Messages = tuple[Message, ...]


@dataclass(frozen=True)
class Prompt:
    """What goes to the model, and what had to stay away."""

    ids: list[int]
    dropped: int  # messages at the beginning that do not fit any more
    context: int  # tokens that the model holds

    @property
    def share(self) -> float:
        """How full the context is, 0 to 1."""
        return min(len(self.ids) / self.context, 1.0)


@dataclass(frozen=True)
class Memory:
    """What opening a checkpoint takes, and what there is."""

    need: int  # bytes
    free: int | None  # bytes; None where the system does not say

    @property
    def fits(self) -> bool:
        """Whether there is enough, as far as is known."""
        return self.free is None or self.need <= self.free

    @property
    def sentence(self) -> str:
        """Such as: it needs 2.3 GB, 1.1 GB free."""
        free = "an unknown amount" if self.free is None else paths.readable_size(self.free)
        return f"it needs {paths.readable_size(self.need)}, {free} free"


def say(messages: Messages, text: str) -> Messages:
    """The conversation with what the user now says, joined to a message without a reply. Raises ChatError."""
    if not text.strip():
        raise ChatError("the message is empty; write something")
    # A browser sends whole characters, a file may hold half of one: nothing that is kept may be unfit for an export.
    whole = text.encode("utf-8", "replace").decode("utf-8")
    if messages and messages[-1].role == "user":  # nobody may speak twice in a row
        messages, whole = messages[:-1], f"{messages[-1].text}\n\n{whole}"
    return (*messages, Message("user", ({"type": "text", "text": whole},)))


def answered(messages: Messages, reply: Reply, model: str, seed: int) -> Messages:
    """The conversation with a reply, whole or stopped; without one, as it was."""
    if not reply.ids:
        return messages
    message = Message(
        "assistant",
        tuple(reply.parts),
        tuple(reply.ids),
        tuple(reply.forced),
        model,
        reply.reason,
        seed,
        reply.seconds_to_first,
        reply.tokens_per_second,
    )
    return (*messages, message)


def rewound(messages: Messages, index: int) -> Messages:
    """The conversation before message `index`: to say it again otherwise, or to have it answered anew."""
    return messages[: max(index, 0)]


def fit(
    tokenizer: "Tokenizer",
    messages: Messages,
    context: int,
    *,
    system: str = "",
    reserve: int = 1,
    model: str = "",
    continuation: bool = False,
) -> Prompt:
    """The conversation as a prompt that leaves room for `reserve` tokens, without the exchanges that do not fit.

    At most half of the context is kept free. A reply's own tokens are used where this model wrote it. A last exchange
    that fills the context is left out too, once it is answered. Raises ChatError where a last message of the user does
    not fit alone.
    """
    longest = max(tokenizer.token_bytes())
    room = context - min(max(reserve, 1), context // 2)
    last = messages[-1].text if messages else ""
    if len(last) + len(system) > context * longest:  # certainly too long: not even encoded, it may be a whole book
        raise ChatError(_too_long(f"over {len(last):,} characters", context))
    starts = [index for index, message in enumerate(messages) if message.role == "user"] or [0]
    turns = [Turn(message.role, message.text, _ids(tokenizer, message, model)) for message in messages]
    ids: list[int] = []
    for start in starts:
        ids = prompt_ids(tokenizer, turns[start:], "" if continuation else system, continuation=continuation)
        if len(ids) <= room:
            return Prompt(ids, start, context)
    if len(ids) >= context and messages[-1].role == "assistant":
        return Prompt([], len(messages), context)
    if len(ids) >= context:
        raise ChatError(_too_long(f"{len(ids):,} tokens", context))
    return Prompt(ids, starts[-1], context)


def _too_long(size: str, context: int) -> str:
    return (
        f"the message has {size} with its system text and the model's context holds {context:,} tokens, the reply "
        "included; shorten it"
    )


def _ids(tokenizer: "Tokenizer", message: Message, model: str) -> tuple[int, ...] | None:
    """A reply's tokens: its own where this model wrote it, else its parts encoded anew. None for what a user said."""
    if message.role == "user" or message.model == model:
        return message.ids or None
    ids: list[int] = []
    for part in message.parts:
        opens, closes, _ = PARTS[part["type"]]
        ids += [tokenizer.encode_special(opens)] if opens is not None else []
        ids += tokenizer.encode(part["text"])
        ids += [tokenizer.encode_special(closes)] if closes is not None else []
    return tuple(ids)


def token_rows(tokenizer: "Tokenizer", message: Message) -> "pl.DataFrame":
    """A message's tokens: id, text, and who put it there: "user", "model" or "tool"."""
    import polars as pl

    ids = list(message.ids) if message.role == "assistant" else tokenizer.encode(message.text)
    who = ["tool" if forced else "model" for forced in message.forced] if message.ids else ["user"] * len(ids)
    texts = [tokenizer.decode([token]) for token in ids]
    return pl.DataFrame(
        {"id": ids, "text": texts, "by": who}, schema={"id": pl.Int64, "text": pl.String, "by": pl.String}
    )


def as_conversation(messages: Messages, system: str = "") -> dict[str, list[dict[str, object]]]:
    """The conversation in nanochat's format; tool calls are parts, everything else is a string."""
    written: list[dict[str, object]] = [{"role": "system", "content": system}] if system and messages else []
    for message in messages:
        plain = all(part["type"] == "text" for part in message.parts)
        content: object = message.text if plain else [dict(part) for part in message.parts]
        written.append({"role": message.role, "content": content})
    return {"messages": written}


def export(messages: Messages, system: str = "") -> str:
    """The conversation as one line of JSONL, which the conversation builder and `chat_sft --data` read."""
    from nanochat.analysis.conversation_template_builder.files import as_line

    return as_line(as_conversation(messages, system))


def plain_text(messages: Messages) -> str:
    """What a model that continues text has been given and has written, in one piece."""
    return "".join(part["text"] for message in messages for part in message.parts)


def memory(folder: str | Path, step: int, device: str = "cpu") -> Memory:
    """What opening this step takes at its peak: the file's tensors, and the weights as they are laid out to run.

    Reads the table of contents alone. Raises CheckpointError where the file is not there or damaged.
    """
    from nanochat.safe_load import available_memory, open_tensors, tensor_specs

    with open_tensors(Path(folder, model_name(step))) as file:
        specs = {spec.storage: spec for spec in tensor_specs(file.tree)}.values()
    stored = sum(spec.storage_size * spec.item_size for spec in specs)
    laid_out = sum(spec.storage_size * 4 for spec in specs)  # a CPU computes in float32
    return Memory(stored + laid_out if device == "cpu" else stored, available_memory())


def summary(message: Message) -> str:
    """The figures under a reply, in words."""
    first, speed = message.seconds_to_first, message.tokens_per_second
    words = [f"{len(message.ids):,} tokens"]
    words += [f"{first:.2f} s to the first"] if first is not None else []
    words += [f"{speed:,.0f} a second"] if speed is not None else []
    words += [f"seed {message.seed}"]
    endings = {"stopped": "stopped", "limit": "cut at the longest reply", "context": "the context is full"}
    return " · ".join([*words, *([endings[message.reason]] if message.reason in endings else [])])


def next_seed(messages: Sequence[Message], seed: int) -> int:
    """The seed of a reply that is written anew: another than the one that is given up."""
    last = messages[-1] if messages else None
    return seed if last is None or last.role != "assistant" else max(last.seed, seed) + 1
