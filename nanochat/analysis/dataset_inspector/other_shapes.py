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


def in_our_shape(value: Any) -> tuple[str, dict[str, Any]] | None:
    """The shape's name, and the conversation with its other fields; None for any other value.

    What is in the messages is not checked.

    >>> in_our_shape({"prompt": "Hi", "completion": "Ho.", "id": 7})[1]
    {'id': 7, 'messages': [{'role': 'user', 'content': 'Hi'}, {'role': 'assistant', 'content': 'Ho.'}]}
    """
    if not isinstance(value, Mapping) or "messages" in value:
        return None
    if isinstance(value.get("conversations"), list):
        return _sharegpt(value)
    if isinstance(value.get("instruction"), str) and isinstance(value.get("output"), str):
        given = value.get("input") or ""
        if not isinstance(given, str):
            return None
        asked = value["instruction"] + (f"\n\n{given}" if given.strip() else "")
        return "in Alpaca's shape", _exchange(value, asked, value["output"], ("instruction", "input", "output"))
    for pair in PAIRS:
        asked, answered = map(value.get, pair)
        if isinstance(asked, str) and isinstance(answered, str):
            return f"a pair of {pair[0]} and {pair[1]}", _exchange(value, asked, answered, pair)
    return None


def _exchange(value: Mapping[str, Any], asked: str, answered: str, used: tuple[str, ...]) -> dict[str, Any]:
    return _with_messages(value, [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}], used)


def _with_messages(value: Mapping[str, Any], messages: list[dict[str, Any]], used: tuple[str, ...]) -> dict[str, Any]:
    return {key: other for key, other in value.items() if key not in used} | {"messages": messages}


def _sharegpt(value: Mapping[str, Any]) -> tuple[str, dict[str, Any]] | None:
    turns = value["conversations"]
    if not turns or not all(isinstance(turn, Mapping) and {"from", "value"} <= turn.keys() for turn in turns):
        return None
    roles = [SPEAKERS.get(turn["from"]) if isinstance(turn["from"], str) else None for turn in turns]
    if None in roles:
        return None
    messages = [{"role": role, "content": turn["value"]} for role, turn in zip(roles, turns, strict=True)]
    if isinstance(value.get("system"), str) and value["system"].strip() and roles[0] != "system":
        messages.insert(0, {"role": "system", "content": value["system"]})
        return "in ShareGPT's shape", _with_messages(value, messages, ("conversations", "system"))
    return "in ShareGPT's shape", _with_messages(value, messages, ("conversations",))
