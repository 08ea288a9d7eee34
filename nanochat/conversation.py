"""Conversations: what a message is, what can be wrong with one, and how it becomes tokens and a supervision mask.

A conversation is a list of messages, or `{"messages": [...]}`. A message is `{"role": ..., "content": ...}`. The system
message, if any, comes first and is merged into the user message behind it; then user and assistant take turns. Content
is a string; an assistant may also give parts, `{"type": "text" | "python" | "python_output", "text": ...}`: that is how
a tool call is written down.

Pure functions over plain data, no torch and no tokenizer library: the tokenizer is passed in.
`tokenizer.render_conversation(...)` and the tools call them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

ROLES = ("system", "user", "assistant")
# type of a part -> the special tokens around its text, and whether the model learns to write it. The model writes code;
# the interpreter writes the output, so nobody should train on it.
PARTS: dict[str, tuple[str | None, str | None, bool]] = {
    "text": (None, None, True),
    "python": ("<|python_start|>", "<|python_end|>", True),
    "python_output": ("<|output_start|>", "<|output_end|>", False),
}
PROFILES = ("chat", "nanochat-custom")  # what the renderer takes; what nanochat's CustomJSON task takes


@dataclass(frozen=True)
class Rule:
    """One thing that can be wrong with a conversation."""

    kind: str  # a short stable name, the same in every tool
    severity: str  # "error" or "warning"
    blocks: bool  # whether rendering refuses it, as nanochat does
    sentence: str  # what is wrong
    remedy: str  # what to do about it


RULES: dict[str, Rule] = {
    rule.kind: rule
    for rule in (
        Rule(
            "wrong_shape", "error", True, "it is not a list of messages", 'write [{"role": ..., "content": ...}, ...]'
        ),
        Rule("no_messages", "error", True, "there are too few messages", "begin with a user message and add a reply"),
        Rule("missing_role", "error", True, "there is no role", "add a role: system, user or assistant"),
        Rule("role_wrong_type", "error", True, "the role is not a string", "write the role as a string"),
        Rule("bad_role", "error", True, "the role is not one of those allowed", "use system, user or assistant"),
        Rule("missing_content", "error", True, "there is no content", "add the content, a string"),
        Rule("content_wrong_type", "error", True, "the content has the wrong type", "write the content as a string"),
        Rule("bad_part_type", "error", True, "a part has an unknown type", "use text, python or python_output"),
        Rule("system_not_first", "error", True, "a system message comes later", "make it the first message"),
        Rule("starts_with_assistant", "error", True, "the assistant speaks first", "put a user message before it"),
        Rule(
            "alternation", "error", True, "the same role speaks twice in a row", "merge the two or add a reply between"
        ),
        Rule("empty_content", "error", False, "the content is empty", "write the text or drop the conversation"),
        Rule("lone_surrogate", "error", False, "the text has half a character", "repair the text's encoding"),
        Rule("ends_with_user", "warning", False, "the last message has no reply", "add the reply or drop the message"),
    )
}


@dataclass(frozen=True)
class Problem:
    """A rule that a conversation breaks, and where."""

    kind: str
    severity: str
    message_index: int | None  # None: the conversation as a whole
    sentence: str
    remedy: str


class ConversationError(ValueError):
    """A conversation can't be rendered. One line; kind, message_index and remedy say the same to a program."""

    def __init__(self, kind: str, message_index: int | None, sentence: str, remedy: str) -> None:
        where = "the conversation" if message_index is None else f"message {message_index + 1}"
        super().__init__(f"{where}: {sentence} ({kind}); {remedy}")
        self.kind, self.message_index, self.sentence, self.remedy = kind, message_index, sentence, remedy

    def __reduce__(self) -> tuple[Any, ...]:  # so that it crosses a process boundary whole
        return type(self), (self.kind, self.message_index, self.sentence, self.remedy)


@dataclass(frozen=True)
class Segment:
    """A stretch of a rendered conversation: one special token, or text that is encoded as ordinary text only."""

    text: str  # the text, or the special token's name
    special: bool
    supervised: bool  # whether the model is trained to write it
    message_index: int | None  # the message it comes from; None: the <|bos|> before all


@dataclass(frozen=True)
class Rendered:
    """Token ids with their mask. Unpacks into (ids, mask, dropped)."""

    ids: list[int]
    mask: list[int]  # 1 where the model is trained to predict this token, else 0; as long as ids
    dropped: int  # tokens beyond max_tokens that were cut off the end
    dropped_supervised: int  # how many of those had mask 1: the training signal lost

    def __iter__(self) -> Iterator[Any]:
        return iter((self.ids, self.mask, self.dropped))


class Encoder(Protocol):
    """The part of a tokenizer that rendering needs."""

    def encode(self, text: str) -> list[int]: ...
    def encode_special(self, name: str) -> int: ...


def check(conversation: Any, profile: str = "chat") -> list[Problem]:
    """All that is wrong with a conversation, in the order of its messages. An empty list means: fit for training.

    Profile "chat" allows a leading system message and assistant parts; "nanochat-custom" is a bare list of at least two
    messages with string content and no system message. Never raises over what it is given to check.

    >>> [(problem.kind, problem.message_index) for problem in check([{"role": "user", "content": ""}])]
    [('empty_content', 0), ('ends_with_user', 0)]
    """
    if profile not in PROFILES:
        raise ConversationError(
            "profile", None, f"the profile {profile!r} is not known", f"use {' or '.join(PROFILES)}"
        )
    return list(_problems(conversation, profile))


def segments(conversation: Any) -> list[Segment]:
    """Lay a conversation out as nanochat does: what is text, what is a special token, what is supervised.

    The conversation is not changed. Raises ConversationError for the first message that nanochat could not render.
    """
    for problem in _problems(conversation, "chat"):
        if RULES[problem.kind].blocks:
            raise ConversationError(problem.kind, problem.message_index, problem.sentence, problem.remedy)
    messages = _messages(conversation)
    first = 0
    contents = [message["content"] for message in messages]
    if messages[0]["role"] == "system":
        first = 1
        contents[1] = contents[0] + "\n\n" + contents[1]
    layout = [Segment("<|bos|>", True, False, None)]
    for index in range(first, len(messages)):
        role = messages[index]["role"]
        supervised = role == "assistant"
        # The start token is given to the model, the end token it must learn to write: that is how it stops.
        layout.append(Segment(f"<|{role}_start|>", True, False, index))
        content = contents[index]
        for part in [{"type": "text", "text": content}] if isinstance(content, str) else content:
            before, after, learned = PARTS[part["type"]]
            learned = learned and supervised
            if before is not None:
                layout.append(Segment(before, True, learned, index))
            layout.append(Segment(part["text"], False, learned, index))
            if after is not None:
                layout.append(Segment(after, True, learned, index))
        layout.append(Segment(f"<|{role}_end|>", True, supervised, index))
    return layout


def render(tokenizer: Encoder, conversation: Any, max_tokens: int | None = 2048) -> Rendered:
    """A conversation as token ids and supervision mask, cut to `max_tokens` (None: not at all), as nanochat does it.

    Raises ConversationError for what nanochat asserts. Content never becomes a special token, whatever it says.
    """
    return _encode(tokenizer, segments(conversation), max_tokens)


def render_prompt(tokenizer: Encoder, conversation: Any, max_tokens: int | None = 2048) -> Rendered:
    """The conversation without its last reply, and the token that makes the assistant begin one.

    As in nanochat the cut to `max_tokens` comes before that token, so a cut prompt has max_tokens + 1 ids. The last
    message must be from the assistant (it is left out); else ConversationError.
    """
    messages = _messages(conversation)
    if not messages:
        segments(conversation)  # raises: it knows what exactly is missing
    if not isinstance(messages[-1], Mapping) or messages[-1].get("role") != "assistant":
        remedy = "end with an assistant message; its text is left out and written anew"
        raise ConversationError("ends_with_user", len(messages) - 1, "it is not a reply that could be left out", remedy)
    rendered = _encode(tokenizer, segments(messages[:-1]), max_tokens)
    start = tokenizer.encode_special("<|assistant_start|>")
    return Rendered([*rendered.ids, start], [*rendered.mask, 0], rendered.dropped, rendered.dropped_supervised)


def _encode(tokenizer: Encoder, layout: list[Segment], max_tokens: int | None) -> Rendered:
    if max_tokens is not None and max_tokens < 1:
        raise ConversationError(
            "max_tokens", None, f"max_tokens is {max_tokens}, so nothing would be left", "use 1 or more"
        )
    ids: list[int] = []
    mask: list[int] = []
    for segment in layout:
        new = [tokenizer.encode_special(segment.text)] if segment.special else tokenizer.encode(segment.text)
        ids.extend(new)
        mask.extend([int(segment.supervised)] * len(new))
    limit = len(ids) if max_tokens is None else max_tokens
    return Rendered(ids[:limit], mask[:limit], len(ids[limit:]), sum(mask[limit:]))


def _messages(conversation: Any) -> Sequence[Any]:
    """The list of messages in either shape, or an empty one where there is none."""
    messages = conversation.get("messages") if isinstance(conversation, Mapping) else conversation
    return messages if isinstance(messages, list | tuple) else []


def _problem(kind: str, index: int | None, sentence: str = "", remedy: str = "") -> Problem:
    rule = RULES[kind]
    return Problem(kind, rule.severity, index, sentence or rule.sentence, remedy or rule.remedy)


def _problems(conversation: Any, profile: str) -> Iterator[Problem]:
    """Every broken rule, message by message, so that the first blocking one is where nanochat would stop."""
    custom = profile == "nanochat-custom"
    messages = conversation.get("messages") if isinstance(conversation, Mapping) else conversation
    if not isinstance(messages, list | tuple):
        yield _problem("wrong_shape", None)
        return
    if custom and isinstance(conversation, Mapping):
        yield _problem("wrong_shape", None, 'it is an object with "messages"', "write the bare list, one a line")
    least = 2 if custom else 1
    if len(messages) < least:
        yield _problem("no_messages", None, f"there are {len(messages)} messages, at least {least} are needed")
    previous = (
        None  # the role before; comparing neighbours names one slip once, where counting would name all that follow
    )
    for index, message in enumerate(messages):
        if not isinstance(message, Mapping):
            yield _problem("wrong_shape", index, f"it is {_kind_of(message)}, not an object", "write role and content")
            previous = None
            continue
        yield from _role_problems(message, index, previous, custom)
        role = message.get("role")
        role = role if isinstance(role, str) and role in ROLES else None
        yield from _content_problems(message, index, role, custom)
        previous = role
    if previous == "user":
        yield _problem("ends_with_user", len(messages) - 1)
    elif previous == "system" and len(messages) == 1 and not custom:
        yield _problem("no_messages", 0, "there is only a system message", "add a user message behind it")


def _role_problems(message: Mapping[str, Any], index: int, previous: str | None, custom: bool) -> Iterator[Problem]:
    if "role" not in message:
        yield _problem("missing_role", index)
        return
    role = message["role"]
    if not isinstance(role, str):
        yield _problem("role_wrong_type", index, f"the role is {_kind_of(role)}, not a string")
    elif role not in ROLES:
        yield _problem("bad_role", index, f"the role is {_short(role)}")
    elif custom and role == "system":
        yield _problem(
            "bad_role", index, "nanochat's own loader takes no system message", "put its text into the user's"
        )
    elif role == "system" and index > 0:
        yield _problem("system_not_first", index)
    elif role == "assistant" and (index == 0 or (index == 1 and previous == "system")):
        yield _problem("starts_with_assistant", index)
    elif role == previous:
        yield _problem("alternation", index, f"two messages of the {role} in a row")


def _content_problems(message: Mapping[str, Any], index: int, role: str | None, custom: bool) -> Iterator[Problem]:
    if "content" not in message:
        yield _problem("missing_content", index)
        return
    content = message["content"]
    if isinstance(content, str):
        texts = [content]
    elif isinstance(content, list | tuple) and role == "assistant" and not custom:
        texts = []
        for number, part in enumerate(content):
            kind = part.get("type") if isinstance(part, Mapping) else None
            if not isinstance(kind, str) or kind not in PARTS:
                named = _short(kind) if isinstance(kind, str) else _kind_of(part if kind is None else kind)
                yield _problem("bad_part_type", index, f"part {number + 1} has no known type: {named}")
            elif not isinstance(part.get("text"), str):
                yield _problem(
                    "content_wrong_type", index, f"part {number + 1} has no text", "give it a text, a string"
                )
            else:
                texts.append(part["text"])
        if len(texts) < len(content):
            return
    else:
        allowed = "a string or a list of parts" if role == "assistant" and not custom else "a string"
        yield _problem("content_wrong_type", index, f"the content is {_kind_of(content)}; it must be {allowed}")
        return
    if not any(text.strip() for text in texts):
        yield _problem("empty_content", index)
    try:
        "".join(texts).encode()
    except UnicodeEncodeError:  # JSON can spell half a character, UTF-8 can't
        yield _problem("lone_surrogate", index)


def _kind_of(value: Any) -> str:
    """What a JSON value is, in JSON's words."""
    names = {type(None): "null", bool: "true or false", int: "a number", float: "a number", str: "a string"}
    names |= {list: "a list", tuple: "a list", dict: "an object"}
    return names.get(type(value), f"of type {type(value).__name__}")


def _short(text: str) -> str:
    """A word from a file, short and with invisible characters escaped, fit for a one-line message."""
    return ascii(text if len(text) <= 20 else text[:20] + "...")
