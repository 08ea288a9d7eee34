"""What is asked of the engine, checked before anything is computed: prompts, how long, which settings, which seeds.

Pure: numbers in, a frozen `Request` out, or an `EngineError` that names the argument. Whole numbers and lists may be
Python's, numpy's or torch's.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import index
from typing import Any

from nanochat.gpt_config import GPTConfig

ROPE_REACH = 10  # upstream computes rotary angles up to ten contexts; so far a text may run
ROW_STRIDE = 0x9E3779B97F4A7C15  # 2^64 / golden ratio: seeds of the rows of one batch lie far apart
MAX_ROWS = 65_536  # side by side; whether they fit into memory is judged with the model's own figures


def _count(value: Any) -> int:
    """A whole number that 64 bits hold; more candidates than that is all of them."""
    return min(index(value), 2**63 - 1)


SETTINGS: dict[str, Callable[[Any], float]] = {"temperature": float, "top_k": _count, "top_p": float, "min_p": float}


class EngineError(ValueError):
    """A prompt or a setting that cannot be run, or a model that gives no numbers: one sentence."""


@dataclass(frozen=True)
class Request:
    """One generation. `rows` is the number of texts that are written side by side."""

    prompts: list[list[int]]  # one for each row, or a single one for all of them
    limits: list[int]  # the most tokens that each row may take
    seeds: list[int]  # one for each row
    settings: dict[str, Any]  # temperature, top_k, top_p, min_p: a number for all rows, a list with one each, or None

    @property
    def rows(self) -> int:
        return len(self.limits)


def check_request(
    config: GPTConfig, tokens: Any, num_samples: Any, max_tokens: Any, seed: Any, settings: dict[str, Any]
) -> Request:
    """The request that these arguments of `Engine.generate` make. Raises EngineError."""
    prompts = _prompts(config, tokens)
    samples = _whole("num_samples", num_samples)
    if not 1 <= samples <= MAX_ROWS or (len(prompts) > 1 and samples != 1):
        raise EngineError(f"num_samples is {samples:,}; give 1 to {MAX_ROWS:,}, and exactly 1 with several prompts")
    rows = len(prompts) if len(prompts) > 1 else samples
    lengths = [len(prompt) for prompt in (prompts if len(prompts) > 1 else prompts * rows)]
    seeds = _per_row("seed", seed, rows, index)
    if not isinstance(seeds, list):
        seeds = [seeds + row * ROW_STRIDE for row in range(rows)]
    checked = {
        name: None if settings[name] is None else _per_row(name, settings[name], rows, kind)
        for name, kind in SETTINGS.items()
    }
    return Request(prompts, _limits(config.sequence_len, lengths, max_tokens), seeds, checked)


def _prompts(config: GPTConfig, tokens: Any) -> list[list[int]]:
    try:
        tokens = _plain(tokens)
        if not isinstance(tokens, Sequence):
            raise TypeError
        tokens = [_plain(part) for part in tokens]
        several = len(tokens) > 0 and isinstance(tokens[0], Sequence)
        prompts = [[index(token) for token in prompt] for prompt in (tokens if several else [tokens])]
    except TypeError:
        raise EngineError("the prompt is not a list of token ids; encode its text first: tokenizer.encode") from None
    context, vocabulary = config.sequence_len, config.vocab_size
    for prompt in prompts:
        if not prompt:
            raise EngineError(
                "the prompt is empty; begin with the token <|bos|>, as in encode(text, prepend='<|bos|>')"
            )
        if len(prompt) > context:
            raise EngineError(
                f"the prompt has {len(prompt):,} tokens and the model's context holds {context:,}; shorten it by "
                f"{len(prompt) - context:,}"
            )
        wrong = next((token for token in prompt if not 0 <= token < vocabulary), None)
        if wrong is not None:
            raise EngineError(
                f"token {wrong} is not in the vocabulary of {vocabulary:,}; encode with the model's tokenizer"
            )
    return prompts


def _plain(value: Any) -> Any:
    """Arrays and tensors as lists; anything else as it is."""
    return value.tolist() if hasattr(value, "tolist") else value


def _limits(context: int, lengths: list[int], max_tokens: Any) -> list[int]:
    """The most tokens of each row: up to the end of its context, unless a number is named."""
    if max_tokens is None:
        return [max(context - length, 1) for length in lengths]
    limit, most = _whole("max_tokens", max_tokens), ROPE_REACH * context - max(lengths)
    if not 0 <= limit <= most:
        raise EngineError(
            f"max_tokens is {limit:,}; with this prompt give 0 to {most:,} ({ROPE_REACH} contexts of {context:,})"
        )
    return [limit] * len(lengths)


def _whole(name: str, value: Any) -> int:
    try:
        return index(value)
    except TypeError:
        raise EngineError(f"{name} is {value!r:.60}; give a whole number") from None


def _per_row(name: str, value: Any, rows: int, kind: Callable[[Any], Any]) -> Any:
    """A setting as one number for all rows or a list of one each; lists and arrays of another length are refused."""
    plain = _plain(value)
    try:
        if isinstance(plain, list | tuple):
            if len(plain) == rows:
                return [kind(one) for one in plain if not isinstance(one, str)]
        elif not isinstance(plain, str):
            return kind(plain)
    except (TypeError, ValueError, OverflowError):
        pass
    word = "number" if kind is float else "whole number"
    raise EngineError(f"{name} is {value!r:.60} for {rows} rows; give one {word}, or a list of one for each row")
