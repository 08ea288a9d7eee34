"""How long a run is, how large its batch, and what both do to the learning rates: the one dial `--depth` turned into
numbers.

nanochat tunes a model of 12 layers with a batch of 2^19 tokens and carries its settings over to other depths by rules:
the text grows with the weights, the batch with the text to the power 0.383 (Power Lines, Bergsma et al. 2025,
arXiv 2505.13738), the rates with the square root of the batch, and the weight decay such that the time over which
weights forget stays the same part of the run (Wang and Aitchison 2024, arXiv 2405.13698).

    python -m nanochat.scripts.base_train --depth 12      # prints what it chose and why
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from nanochat.schedules import Moment

REFERENCE_DEPTH = 12  # the model that nanochat tunes its settings on
REFERENCE_BATCH = 2**19  # tokens a step that were best for it
BATCH_POWER = 0.383  # the best batch grows with the text to this power
DEFAULT_RATIO = 12.0  # tokens for each weight of a matrix: what nanochat found best (Chinchilla: 20)


class HorizonError(ValueError):
    """A run without a length, or one that does not divide: one sentence."""


@dataclass(frozen=True)
class Horizon:
    """Where a run ends. One of the three is set."""

    steps: int | None = None  # updates
    seconds: float | None = None  # a budget on the wall, evaluation and saving included
    epochs: float | None = None  # passes over the data, by the loader's own account
    reason: str = ""  # in words, for the screen

    def __post_init__(self) -> None:
        given = [name for name in ("steps", "seconds", "epochs") if getattr(self, name) is not None]
        if len(given) != 1:
            raise HorizonError(
                f"a run ends after steps, seconds or epochs, and {len(given)} of them are given; give exactly one"
            )
        value = getattr(self, given[0])
        if not value > 0 or not math.isfinite(value) or (given == ["steps"] and type(value) is not int):
            raise HorizonError(f"{given[0]} is {value}; a run needs a number above 0")

    def moment(self, step: int, elapsed: float, step_seconds: float = 0.0, epochs: float = 0.0) -> Moment:
        """Where the run is after `step` updates and `elapsed` seconds.

        step_seconds: how long an update takes. Of a budget, the coming update counts as over, so that the last one
        is made at the final rate and not a step before it.
        """
        if self.steps is not None:
            return Moment(step, self.steps)
        if self.seconds is not None:
            return Moment(step, None, min((elapsed + step_seconds) / self.seconds, 1.0))
        return Moment(step, None, min(epochs / (self.epochs or 1.0), 1.0))

    def reached(self, step: int, elapsed: float, step_seconds: float = 0.0, epochs: float = 0.0) -> bool:
        """Whether the run is over; a budget is, where the next update would end nearer to it if it were not made."""
        if self.steps is not None:
            return step >= self.steps
        if self.seconds is not None:
            return elapsed + step_seconds / 2 >= self.seconds
        return epochs >= (self.epochs or 0.0)


def scaling_params(counts: Mapping[str, int]) -> int:
    """The weights that the rules count, of GPT.num_scaling_params(): the layers' matrices and the head."""
    return counts["transformer_matrices"] + counts["lm_head"]


def choose_horizon(
    *,
    params: int,
    flops_per_token: int,
    batch_tokens: int,
    steps: int | None = None,
    tokens: int | None = None,
    flops: float | None = None,
    ratio: float | None = DEFAULT_RATIO,
    seconds: float | None = None,
) -> Horizon:
    """The first that is given of: a budget in seconds, steps, tokens, FLOPs, tokens for each weight.

    params: as `scaling_params`. Steps, FLOPs and ratio are nanochat's, in its order and with its rounding.

    Raises:
        HorizonError: none is given, or there is not one step in it.
    """
    if seconds is not None:
        return Horizon(seconds=seconds, reason=f"a budget of {seconds:,.0f} seconds")
    if steps is not None:
        return Horizon(steps=steps, reason="steps as given")
    if tokens is not None:
        count, reason = tokens // batch_tokens, f"{tokens:,} tokens"
    elif flops is not None:
        count, reason = round(flops / (flops_per_token * batch_tokens)), f"{flops:.3g} FLOPs"
    elif ratio is not None:
        count = int(ratio * params) // batch_tokens
        reason = f"{ratio:g} tokens for each of {params:,} weights"
    else:
        raise HorizonError("no end is given; give steps, tokens, FLOPs, tokens for each weight, or a budget of seconds")
    if count < 1:
        raise HorizonError(
            f"{reason} is less than one step of {batch_tokens:,} tokens; take a smaller total batch or a longer run"
        )
    return Horizon(steps=count, reason=reason)


def choose_batch_tokens(params: int, reference_params: int, ratio: float = DEFAULT_RATIO) -> int:
    """The best number of tokens a step, a power of two. Source: nanochat's base_train."""
    text = int(ratio * params) / (ratio * reference_params)
    return max(2 ** round(math.log2(REFERENCE_BATCH * text**BATCH_POWER)), 1)


def rate_scale(batch_tokens: int) -> float:
    """The factor on every learning rate for a batch that is not the reference's: its square root."""
    return (batch_tokens / REFERENCE_BATCH) ** 0.5


def weight_decay_scale(
    params: int, reference_params: int, batch_tokens: int, ratio: float = DEFAULT_RATIO, rates: float | None = None
) -> float:
    """The factor on the weight decay of the matrices: batch / (rate * decay * text) stays what it is at the reference.

    rates: the factor on the rates, None for `rate_scale`. Source: nanochat's base_train.
    """
    rates = rate_scale(batch_tokens) if rates is None else rates
    return batch_tokens / REFERENCE_BATCH / rates * (ratio * reference_params / int(ratio * params))


def model_width(depth: int, aspect_ratio: int = 64, head_dim: int = 128) -> tuple[int, int]:
    """(channels, heads) of a model of this depth: depth * aspect_ratio, rounded up to whole heads.

    >>> model_width(12)
    (768, 6)
    """
    for name, value in (("depth", depth), ("aspect-ratio", aspect_ratio), ("head-dim", head_dim)):
        if value < 1:
            raise HorizonError(f"{name} is {value}; a model needs at least 1")
    heads = -(-depth * aspect_ratio // head_dim)
    return heads * head_dim, heads


def accumulation_steps(batch_tokens: int, rows: int, sequence_len: int, world_size: int = 1) -> int:
    """How many batches of `rows` x `sequence_len` tokens each of `world_size` ranks works off in one step.

    Raises:
        HorizonError: the total does not divide.
    """
    once = rows * sequence_len * world_size
    if batch_tokens < 1 or once < 1 or batch_tokens % once:
        raise HorizonError(
            f"a total batch of {batch_tokens:,} tokens is no multiple of {rows} rows x {sequence_len} tokens x "
            f"{world_size} ranks = {once:,}; change the total batch, the rows of a device or the context"
        )
    return batch_tokens // once
