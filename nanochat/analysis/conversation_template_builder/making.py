"""Writes a conversation down: two turns, many turns, or with the Python tool. And reads its structure back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nanochat.conversation import Problem, check

Conversation = dict[str, Any]  # {"messages": [{"role": ..., "content": ...}, ...]}, whatever else it carries


class BuilderError(ValueError):
    """A conversation that cannot be made, read or written: one sentence."""


@dataclass(frozen=True)
class Turn:
    """One message, or one part of an assistant's message, as it is listed."""

    message: int  # its place in the conversation, from 0
    role: str
    part: str | None  # text, python or python_output; None: the whole content is one string
    text: str
    characters: int


def simple(user: str, assistant: str, system: str | None = None) -> Conversation:
    """A question and its answer.

    >>> simple("Hi", "Hello.")["messages"][1]
    {'role': 'assistant', 'content': 'Hello.'}
    """
    return multi([user, assistant], system)


def multi(texts: Sequence[str], system: str | None = None) -> Conversation:
    """User and assistant in turns, the user first. Raises BuilderError where there is nothing to say."""
    if not texts:
        raise BuilderError("a conversation needs at least one message; give what the user says first")
    messages = [] if system is None else [{"role": "system", "content": system}]
    messages += [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]
    return {"messages": messages}


def tool(user: str, code: str, output: str, answer: str, before: str = "", system: str | None = None) -> Conversation:
    """A question that the assistant answers with the Python tool: what it says before, code, output, answer.

    The model learns to write the code and the answer, never the output: that comes from the engine.
    """
    texts = [("text", before), ("python", code), ("python_output", output), ("text", answer)]
    parts = [{"type": kind, "text": text} for kind, text in texts if text or kind != "text"]
    conversation = multi([user], system)
    conversation["messages"].append({"role": "assistant", "content": parts})
    return conversation


def messages_of(conversation: Any) -> list[Any]:
    """The messages of either shape, an empty list where there are none."""
    messages = conversation.get("messages") if isinstance(conversation, Mapping) else conversation
    return list(messages) if isinstance(messages, list | tuple) else []


def structure(conversation: Any) -> list[Turn]:
    """Every message, and every part of one, in order; what is no message is listed with its role as `?`.

    >>> [(turn.role, turn.part, turn.text) for turn in structure(simple("Hi", "Hello."))]
    [('user', None, 'Hi'), ('assistant', None, 'Hello.')]
    """
    turns = []
    for index, message in enumerate(messages_of(conversation)):
        role = message.get("role") if isinstance(message, Mapping) else None
        content = message.get("content") if isinstance(message, Mapping) else message
        named = role if isinstance(role, str) else "?"
        parts = content if isinstance(content, list | tuple) else [content]
        for part in parts:
            kind = part.get("type") if isinstance(part, Mapping) else None
            text = part.get("text") if isinstance(part, Mapping) else part
            text = text if isinstance(text, str) else "" if text is None else repr(text)
            turns.append(Turn(index, named, kind if isinstance(kind, str) else None, text, len(text)))
    return turns


def blocking(conversation: Any, profile: str = "chat") -> list[Problem]:
    """The problems that keep a conversation out of a dataset: all errors, and a last message without a reply."""
    return [
        problem
        for problem in check(conversation, profile)
        if problem.severity == "error" or problem.kind == "ends_with_user"
    ]
