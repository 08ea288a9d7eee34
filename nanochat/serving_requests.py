"""What a client of the server asks for: the body of a chat completion, checked; and errors as the API defines them.

The names and meanings are those of OpenAI's chat completions. What this server cannot do is refused by name; nothing is
ignored that would change the answer.
"""

import json
from dataclasses import dataclass, replace
from typing import Any

from nanochat.conversation import check
from nanochat.reply import Sampling, Turn

MAX_BODY = 4 * 2**20  # bytes; a context holds a few thousand tokens
MAX_STOPS = 4  # stop strings, as in the API
# Parameters that would change the answer and that there is nothing for -> the values that ask for nothing.
WITHOUT_EFFECT: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "tools": ([],),
    "functions": ([],),
    "tool_choice": ("none", "auto"),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
}
HARMLESS = {"user", "metadata", "store", "service_tier", "parallel_tool_calls", "safety_identifier", "prompt_cache_key"}
KNOWN = {
    *("model", "messages", "stream", "stream_options", "stop", "max_tokens", "max_completion_tokens"),
    *("temperature", "top_p", "top_k", "min_p", "seed"),
}


class ApiError(ValueError):
    """A refusal as the API writes it: a status, and a body with message, type, param and code."""

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None, kind: str = ""
    ) -> None:
        super().__init__(message)
        self.status = status
        kind = kind or ("invalid_request_error" if status < 500 else "server_error")
        # A request may hold half of a surrogate pair, which no answer can carry.
        message = message.encode("utf-8", "replace").decode()
        param = param and param.encode("utf-8", "replace").decode()
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}


@dataclass(frozen=True)
class ChatRequest:
    """One completion to be written."""

    turns: tuple[Turn, ...]
    system: str
    sampling: Sampling
    stops: tuple[str, ...]  # the reply ends before the first of these
    stream: bool
    usage: bool  # whether a stream ends with a chunk of figures


def parse_request(body: bytes, names: tuple[str, ...], defaults: Sampling, seed: int) -> ChatRequest:
    """The request in a body. names: what the model may be called. defaults: settings that the body leaves open.

    seed: taken where the body names none. Raises ApiError.
    """
    try:
        asked = json.loads(body)
    except (ValueError, RecursionError):
        raise ApiError(400, "the body is not JSON; send an object with model and messages") from None
    if not isinstance(asked, dict):
        raise ApiError(400, "the body is not a JSON object; send one with model and messages")
    _refuse_unknown(asked)
    model = asked.get("model")
    if not isinstance(model, str):
        raise ApiError(400, "model is missing; GET /v1/models lists it", param="model")
    if model not in names:
        wrong = f"the model {model[:80]!r} is not served here; use {names[0]!r}"
        raise ApiError(404, wrong, param="model", code="model_not_found")
    system, turns = _conversation(asked.get("messages"))
    longest = asked.get("max_completion_tokens")
    longest = asked.get("max_tokens") if longest is None else longest
    given: dict[str, Any] = {
        "temperature": _number(asked, "temperature", 0, 2),
        "top_p": _number(asked, "top_p", 0, 1),
        "min_p": _number(asked, "min_p", 0, 1),
        "top_k": _whole(asked.get("top_k"), "top_k", 0),
        "seed": _whole(asked.get("seed"), "seed", -(2**63)),
        "max_tokens": _whole(longest, "max_tokens", 1),
    }
    sampling = replace(defaults, **{"seed": seed} | {name: value for name, value in given.items() if value is not None})
    options = asked.get("stream_options") or {}
    if not isinstance(options, dict):
        raise ApiError(400, "stream_options is not an object", param="stream_options")
    return ChatRequest(
        turns, system, sampling, _stops(asked.get("stop")), _flag(asked, "stream"), _flag(options, "include_usage")
    )


def _refuse_unknown(asked: dict[str, Any]) -> None:
    for name, value in asked.items():
        if name in KNOWN or name in HARMLESS or value is None:
            continue
        if name not in WITHOUT_EFFECT:
            raise ApiError(400, f"the parameter {name[:80]!r} is not known here; leave it out", param=name[:80])
        if value not in WITHOUT_EFFECT[name]:
            raise ApiError(
                400, f"{name} is not offered by this server; leave it out", param=name, code="unsupported_parameter"
            )


def _conversation(messages: Any) -> tuple[str, tuple[Turn, ...]]:
    """(system text, turns). Content may be a string or a list of text parts; other parts are refused."""
    if not isinstance(messages, list) or not messages:
        raise ApiError(400, "messages is missing or empty; send at least one user message", param="messages")
    plain = []
    for index, message in enumerate(messages):
        if not isinstance(message, dict):
            raise ApiError(400, "it is not an object with role and content", param=f"messages[{index}]")
        role = message.get("role")
        role = "system" if role == "developer" else role
        plain.append({"role": role, "content": _content(message.get("content"), index)})
    for problem in check(plain):
        if problem.kind != "ends_with_user" and problem.severity == "error":
            where = "messages" if problem.message_index is None else f"messages[{problem.message_index}]"
            raise ApiError(400, f"{where}: {problem.sentence}; {problem.remedy}", param=where)
    if plain[-1]["role"] != "user":
        raise ApiError(400, "the last message is not the user's; end with a user message", param="messages")
    system = plain.pop(0)["content"] if plain[0]["role"] == "system" else ""
    return system, tuple(Turn(message["role"], message["content"]) for message in plain)


def _content(content: Any, index: int) -> Any:
    if not isinstance(content, list):
        return content
    for part in content:
        if not (isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)):
            raise ApiError(400, "only text is understood; send parts of type text", param=f"messages[{index}].content")
    return "".join(part["text"] for part in content)


def _number(asked: dict[str, Any], name: str, low: float, high: float) -> float | None:
    value = asked.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        raise ApiError(400, f"{name} is {value!r:.60}; give a number", param=name)
    if not low <= value <= high:  # before anything makes a float of it: a whole number may be too large for one
        raise ApiError(400, f"{name} is {value!r:.60}; give {low} to {high}", param=name)
    return float(value)


def _whole(value: Any, name: str, low: int) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value < 2**63:
        raise ApiError(400, f"{name} is {value!r:.60}; give a whole number of at least {low}", param=name)
    return value


def _flag(asked: dict[str, Any], name: str) -> bool:
    value = asked.get(name)
    if value is not None and not isinstance(value, bool):
        raise ApiError(400, f"{name} is {value!r:.60}; give true or false", param=name)
    return bool(value)


def _stops(value: Any) -> tuple[str, ...]:
    stops = [value] if isinstance(value, str) else value if value is not None else []
    if not isinstance(stops, list) or len(stops) > MAX_STOPS or not all(isinstance(one, str) and one for one in stops):
        raise ApiError(400, f"stop must be a string or a list of up to {MAX_STOPS}, none of them empty", param="stop")
    return tuple(stops)


class StopText:
    """Finds stop strings in text that comes in pieces, and holds back what may be the beginning of one.

    >>> stop = StopText(("END",))
    >>> stop.push("one E"), stop.push("N"), stop.push("D two"), stop.found
    ('one ', '', '', True)
    """

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops, self._held = stops, ""
        self.found = False

    def push(self, text: str) -> str:
        """The text that may go out now."""
        if self.found or not self._stops:
            return "" if self.found else text
        self._held += text
        places = [place for stop in self._stops if (place := self._held.find(stop)) >= 0]
        if places:
            self.found = True
            return self._held[: min(places)]
        tails = (self._longest_start(stop) for stop in self._stops)
        keep = max(tails)
        ready = self._held[: len(self._held) - keep]
        self._held = self._held[len(self._held) - keep :]
        return ready

    def finish(self) -> str:
        """What was held back, once nothing more comes."""
        return "" if self.found else self._held

    def _longest_start(self, stop: str) -> int:
        """How many characters at the end of what is held begin this stop string."""
        return next((size for size in range(len(stop) - 1, 0, -1) if self._held.endswith(stop[:size])), 0)
