"""What a pretraining run will be, from its flags alone: the model, the batch, the rates and the length.

Depth is the one dial. Everything else follows from it by nanochat's rules (horizon.py), unless a flag says otherwise.

    python -m nanochat.scripts.base_train --depth 4
"""

import argparse
from dataclasses import dataclass
from typing import Any

from nanochat import horizon
from nanochat.gpt_config import GPTConfig
from nanochat.horizon import Horizon
from nanochat.optim_config import OptimConfig
from nanochat.schedules import Momentum, Schedule, WeightDecay
from nanochat.training_flags import seconds_of
from nanochat.training_setup import size_of


@dataclass(frozen=True)
class Plan:
    """A run that has been decided on and not begun."""

    config: GPTConfig
    counts: dict[str, int]  # parameters by what they are for
    flops_per_token: int
    batch: int  # tokens of one update, all ranks together
    accumulation: int  # batches of a rank for one update
    rates: OptimConfig
    horizon: Horizon
    schedule: Schedule
    momentum: Momentum
    weight_decay: WeightDecay


def plan_pretraining(flags: argparse.Namespace, vocab_size: int, world_size: int = 1) -> Plan:
    """The run that base_train's flags ask for.

    Raises:
        HorizonError, ScheduleError, OptimError, ConfigError: a flag makes no sense, or two do not go together.
    """
    config = config_of(flags, flags.depth, vocab_size)
    counts, flops = size_of(config)
    params, reference, rule = _rule(flags, vocab_size)
    batch = flags.total_batch_size if flags.total_batch_size != -1 else batch_by_depth(flags, vocab_size)
    scale = horizon.rate_scale(batch) if flags.lr_scale is None else flags.lr_scale
    decay = horizon.weight_decay_scale(params, reference, batch, rule, scale)
    return Plan(
        config,
        counts,
        flops,
        batch,
        horizon.accumulation_steps(batch, flags.device_batch_size, flags.max_seq_len, world_size),
        OptimConfig(
            flags.optimizer,
            matrix_lr=flags.matrix_lr * scale,
            embedding_lr=flags.embedding_lr * scale,
            unembedding_lr=flags.unembedding_lr * scale,
            scalar_lr=flags.scalar_lr * scale,
            weight_decay=flags.weight_decay * decay,
        ),
        horizon.choose_horizon(
            params=params,
            flops_per_token=flops,
            batch_tokens=batch,
            seconds=seconds_of(flags),
            steps=_given(flags.num_iterations),
            tokens=_given(flags.target_tokens),
            flops=_given(flags.target_flops),
            ratio=_given(flags.target_param_data_ratio),
        ),
        Schedule(flags.schedule, flags.warmup_steps, flags.warmdown_ratio, flags.final_lr_frac),
        *_of_that_day(flags.optimizer),
    )


def batch_by_depth(flags: argparse.Namespace, vocab_size: int) -> int:
    """Tokens of an update by nanochat's rule. Raises HorizonError and ConfigError."""
    return horizon.choose_batch_tokens(*_rule(flags, vocab_size))


def _rule(flags: argparse.Namespace, vocab_size: int) -> tuple[int, int, float]:
    """What nanochat's rules ask for: the weights that count, those of the reference, and tokens for each weight."""
    params, reference = (
        horizon.scaling_params(size_of(config_of(flags, depth, vocab_size))[0])
        for depth in (flags.depth, horizon.REFERENCE_DEPTH)
    )
    ratio = flags.target_param_data_ratio
    return params, reference, ratio if ratio > 0 else horizon.DEFAULT_RATIO


def config_of(flags: argparse.Namespace, depth: int, vocab_size: int) -> GPTConfig:
    """The model of a depth, under the other flags."""
    width, heads = horizon.model_width(depth, flags.aspect_ratio, flags.head_dim)
    return GPTConfig(flags.max_seq_len, vocab_size, depth, heads, heads, width, flags.window_pattern)


def _of_that_day(kind: str) -> tuple[Momentum, WeightDecay]:
    """Muon's momentum and weight decay over a run, as nanochat had them with each of its optimizers."""
    if kind in ("muon-2025", "muon-2026-02"):
        return Momentum(0.85, 0.95, 0.95, 300), WeightDecay("linear")
    return Momentum(), WeightDecay()


def _given(value: Any) -> Any:
    """nanochat writes -1 for a flag that is off."""
    return value if value > 0 else None
