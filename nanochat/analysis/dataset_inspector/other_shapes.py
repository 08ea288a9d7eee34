"""Conversations in the shapes of other projects: how to know them, and what they are in nanochat's.

    {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello."}]}    ShareGPT
    {"instruction": "Translate.", "input": "one", "output": "uno"}                               Alpaca
    {"prompt": "Hi", "completion": "Hello."}                                                     a pair

A training takes none of them, so such a line is an error; but what was meant is plain, so a repaired file has it.
"""

from collections.abc import Mapping
from typing import Any

SPEAKERS = {  # ShareGPT's `from` -> role
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "system": "system",
}
PAIRS = (  # what is asked, what is answered
    ("prompt", "completion"),
    ("prompt", "response"),
    ("question", "answer"),
    ("input", "output"),
)
NAMES = {"conversations", "instruction", "system", *(name for pair in PAIRS for name in pair)}  # what holds the text
TAKE = "take the repaired file, which has it as messages"  # the remedy, where nothing else is wrong
MORE = ("instruction", "history", "context", "conversations")  # beside a pair: part of what is asked, and not in it


def in_our_shape(value: Any) -> tuple[str, dict[str, Any]] | None:
    """The shape's name, and the conversation with its other fields; None for any other value.

    None, too, where something would be lost that changes what is learnt: an earlier turn, a second answer, a weight of
    nothing. What is in the messages is not checked.

    >>> in_our_shape({"prompt": "Hi", "completion": "Ho.", "id": 7})[1]
    {'id': 7, 'messages': [{'role': 'user', 'content': 'Hi'}, {'role': 'assistant', 'content': 'Ho.'}]}
    """
    if not isinstance(value, Mapping) or "messages" in value or not isinstance(value.get("system") or "", str):
        return None
    if isinstance(value.get("conversations"), list):
        return _sharegpt(value)
    if isinstance(value.get("instruction"), str) and isinstance(value.get("output"), str):
        given = value.get("input") or ""
        if not isinstance(given, str) or any(value.get(key) for key in MORE if key != "instruction"):
            return None
        asked = value["instruction"] + (f"\n\n{given}" if given.strip() else "")
        return "in Alpaca's shape", _exchange(value, asked, value["output"], ("instruction", "input", "output"))
    found = [pair for pair in PAIRS if all(isinstance(value.get(key), str) for key in pair)]
    if len(found) != 1 or any(value.get(key) for key in MORE):
        return None
    asked, answered = found[0]
    return f"a pair of {asked} and {answered}", _exchange(value, value[asked], value[answered], found[0])


def own_fields(value: Mapping[str, Any]) -> list[str]:
    """The names of a line's fields beside the conversation, in whichever shape it is.

    >>> own_fields({"prompt": "Hi", "completion": "Ho.", "id": 7})
    ['id']
    """
    return [name for name in value if (name != "messages" if "messages" in value else name not in NAMES)]


def _exchange(value: Mapping[str, Any], asked: str, answered: str, used: tuple[str, ...]) -> dict[str, Any]:
    turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
    return _with_messages(value, turns, used)


def _with_messages(value: Mapping[str, Any], messages: list[dict[str, Any]], used: tuple[str, ...]) -> dict[str, Any]:
    """The other fields with the messages; a system text of its own becomes the first message."""
    system = value.get("system") or ""
    if system.strip() and messages[0]["role"] != "system":
        messages = [{"role": "system", "content": system}, *messages]
    return {key: other for key, other in value.items() if key not in (*used, "system")} | {"messages": messages}


def _sharegpt(value: Mapping[str, Any]) -> tuple[str, dict[str, Any]] | None:
    turns = value["conversations"]
    if not turns or not all(isinstance(turn, Mapping) and {"from", "value"} <= turn.keys() for turn in turns):
        return None
    roles = [SPEAKERS.get(turn["from"]) if isinstance(turn["from"], str) else None for turn in turns]
    if None in roles or any(turn.get("weight") == 0 for turn in turns):
        return None
    messages = [{"role": role, "content": turn["value"]} for role, turn in zip(roles, turns, strict=True)]
    return "in ShareGPT's shape", _with_messages(value, messages, ("conversations",))
