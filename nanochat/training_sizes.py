"""Sizes for a CPU: context, rows, tokens of an update, learning rates and evaluation, where the flags leave them open.

nanochat's own sizes are made for GPUs: at depth 4 an update reads 131,072 tokens, a minute or two of work for a core. A
GPU needs so many to be busy; a core is busy with a few hundred, and a short run learns from the number of its updates.
So on a CPU an update gets as few tokens as leave the optimizer, whose work is the same for any number, a fair part of
the time. Each choice is said with its reason, and a checkpoint has it as if it had been given.

    python -m nanochat.scripts.base_train --depth 4 --minutes 5
"""

import argparse
import math
from typing import TYPE_CHECKING

from nanochat.horizon import rate_scale
from nanochat.training_flags import seconds_of
from nanochat.training_plan import batch_by_depth, config_of
from nanochat.training_setup import in_words, optimizer_tokens, size_of, training_speed

if TYPE_CHECKING:
    from nanochat.gpt_config import GPTConfig

UPDATES = 300  # that a run should have: fewer leave the rates no time to rise and fall
LEAST_SHARE, MOST_SHARE = 1.0, 12.0  # tokens of an update, as a multiple of what the optimizer's own work comes to
UPDATE_SECONDS = 1.0  # of an update, where the number of updates is given and nothing else limits the time
CONTEXTS = (2048, 1024, 512, 256, 128, 64, 32)  # to choose from; below SHORT only where a given batch asks for it
SHORT = 256  # tokens: a story, or a paragraph of anything else
ROWS_WANTED = 4  # of an update, before they get longer: four texts say more about the next one than a long one does
ACTIVATION_BYTES = 2**30  # that a batch may take while it is worked on: a laptop has eight times as much to share
# Numbers that are kept for each layer and channel of a token, by Korthikanti et al. 2022 (arXiv 2205.05198).
NUMBERS_KEPT = 34
# The factor on nanochat's rates, tuned at 2^19 tokens an update. Measured at depth 4 on stories in 60 CPU seconds,
# 220 updates of 512 tokens, bits per byte on text not trained on: 0.260 with nanochat's factor for that batch (0.03),
# 0.238 with 1, 0.209 with 2, 0.280 with 4; at depth 2 and 1,100 updates 0.193 with 1, 0.221 with 2.
LR_SCALE, LR_SCALE_OF_FEW, FEW = 1.0, 2.0, 250  # updates
EVALUATIONS = 4  # in a run with a budget, after the one at its start
EVALUATION_SHARE = 0.02  # of the run's time that each may take
FORWARD_SHARE = 1 / 3  # of the work of training is the forward pass, and an evaluation is nothing else
EVAL_TOKENS = {"cpu": 2**16, "cuda": 80 * 2**19, "mps": 2**20}  # of an evaluation; on a GPU nanochat's number


def fit(
    flags: argparse.Namespace, given: frozenset[str], vocab_size: int, speed: float, world_size: int = 1
) -> tuple[argparse.Namespace, list[str]]:
    """base_train's flags, a CPU's sizes in place of those that were not given, and a line for each choice.

    given: the names of the flags that the command line gives: they stay. speed: FLOP/s that matrix products reach on
    one rank, the same figure on every rank. Whether sizes that were given go together is for `plan_pretraining` to say.
    """
    flags = argparse.Namespace(**vars(flags))
    if length_is_open := "max_seq_len" not in given:
        flags.max_seq_len = SHORT
    config = config_of(flags, flags.depth, vocab_size)
    counts, flops = size_of(config)
    rate = world_size * training_speed(speed, "cpu") / flops  # tokens a second
    overhead = optimizer_tokens(config, flags.optimizer)
    by_depth = batch_by_depth(flags, vocab_size)
    work = _work(flags, rate, flops, counts)

    batch_is_open = "total_batch_size" not in given
    batch = _wanted(work, rate, overhead) if batch_is_open else flags.total_batch_size
    batch = by_depth if batch < 0 else batch  # -1, given: nanochat's own
    if length_is_open:
        flags.max_seq_len = _context(batch, world_size, batch_is_open)
    row = flags.max_seq_len * world_size  # tokens of one row on every rank
    rows = _power_of_two(batch / row) if batch_is_open else batch // row
    if "device_batch_size" not in given:
        most = ACTIVATION_BYTES // (flags.max_seq_len * _token_bytes(config))
        flags.device_batch_size = next((n for n in range(min(rows, most), 0, -1) if rows % n == 0), 1)
    if batch_is_open:
        parts = _power_of_two(rows / flags.device_batch_size)
        batch = flags.total_batch_size = parts * flags.device_batch_size * row
    rows_at_once = f"{flags.device_batch_size:,} row{'s' if flags.device_batch_size > 1 else ''} at a time"
    said = (
        f"Sizes for this CPU, where no flag says otherwise: context {flags.max_seq_len:,} (--max-seq-len), "
        f"{rows_at_once} (--device-batch-size), {batch:,} tokens an update (--total-batch-size)."
    )
    lines = [said]
    update = (batch + overhead) / rate
    if batch_is_open:
        lines.append(_batch_reason(work, rate, overhead, batch, by_depth))
    if flags.lr_scale is None:
        updates = flags.num_iterations if work is None else work / (batch + overhead)
        lines.append(_rates(flags, batch, batch_is_open or seconds_of(flags) is not None, updates))
    if work is not None:
        once = row * flags.device_batch_size
        lines += fit_evaluation(flags, given, work / rate, rate, update, once, EVAL_TOKENS["cpu"])
    return flags, lines


def fit_evaluation(
    flags: argparse.Namespace,
    given: frozenset[str],
    seconds: float,
    rate: float,
    update: float,
    least: int,
    most: int,
) -> list[str]:
    """Set `eval_tokens` and `eval_every` so that evaluations take a tenth of a run, unless they were given; say so.

    seconds: of the run; rate: tokens a second that it trains on; update: seconds of an update; least, most: tokens of
    an evaluation.
    """
    if flags.eval_every <= 0:
        return []
    said = []
    if "eval_tokens" not in given:
        flags.eval_tokens = min(max(int(EVALUATION_SHARE / FORWARD_SHARE * seconds * rate), least), max(least, most))
        said.append(f"on {flags.eval_tokens:,} tokens at most (--eval-tokens)")
    if "eval_every" not in given:
        flags.eval_every = max(1, round(seconds / update / EVALUATIONS))
        said.append(f"every {flags.eval_every:,} updates (--eval-every)")
    return [f"Evaluation {' and '.join(said)}, to leave the time to training."] if said else []


def _work(flags: argparse.Namespace, rate: float, flops: int, counts: dict[str, int]) -> float | None:
    """How many tokens the run could train on if the optimizer took no time; None where updates are counted."""
    from nanochat.horizon import scaling_params

    if (seconds := seconds_of(flags)) is not None:
        return seconds * rate
    if flags.num_iterations > 0:
        return None
    if flags.target_tokens > 0:
        return float(flags.target_tokens)
    if flags.target_flops > 0:
        return flags.target_flops / flops
    ratio = flags.target_param_data_ratio
    return ratio * scaling_params(counts) if ratio > 0 else None


def _wanted(work: float | None, rate: float, overhead: float) -> int:
    """About how many tokens an update should have."""
    tokens = UPDATE_SECONDS * rate if work is None else work / UPDATES
    return round(min(max(tokens - overhead, LEAST_SHARE * overhead), MOST_SHARE * overhead))


def _context(batch: int, world_size: int, batch_is_open: bool) -> int:
    """The longest context that leaves an update enough rows."""
    for length in CONTEXTS:
        roomy = length <= SHORT or batch >= ROWS_WANTED * length * world_size
        if roomy and (batch_is_open or batch % (length * world_size) == 0):
            return length
    return SHORT


def _power_of_two(number: float) -> int:
    return 2 ** max(0, round(math.log2(number))) if number > 0 else 1


def _token_bytes(config: "GPTConfig") -> int:
    """About what a token takes while its gradient is worked out, in float32."""
    return 4 * (NUMBERS_KEPT * config.n_layer * config.n_embd + config.vocab_size)


def _batch_reason(work: float | None, rate: float, overhead: float, batch: int, by_depth: int) -> str:
    """Why an update has this many tokens."""
    theirs = f"nanochat's own {by_depth:,} tokens would take {in_words((by_depth + overhead) / rate)}."
    update = f"An update takes about {(batch + overhead) / rate:.2g} seconds"
    if work is None:
        return f"{update}; one of {theirs}"
    return f"{update}, so that there are about {work / (batch + overhead):,.0f} of them; one of {theirs}"


def _rates(flags: argparse.Namespace, batch: int, chosen: bool, updates: float) -> str:
    """Set the factor on the learning rates where it is chosen here, and say what it is."""
    theirs = f"{rate_scale(batch):.2g}, nanochat's root of the batch over 2^19"
    if not chosen:
        return f"Learning rates times {theirs}, as the batch is given; in a short run --lr-scale 1 learns faster."
    flags.lr_scale = LR_SCALE_OF_FEW if updates < FEW else LR_SCALE
    few = ", as there are few updates" if updates < FEW else ""
    return f"Learning rates times {flags.lr_scale:g} (--lr-scale){few}; times {theirs}, a short run learns little."
