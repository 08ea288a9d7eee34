"""Which number format a training run computes in, and whether compiling its step pays; each answer with its reason.

Weights and the optimizer stay in float32 in every case: a step changes a weight by less than bfloat16 can hold. What
bfloat16 can speed up is the arithmetic of one step, and whether it does depends on the CPU (it needs AVX512-BF16 or
AMX) and on the shape. So `race` runs a slice of the very model both ways for about a second and takes the faster.

    python -c "from nanochat.gpt_config import GPTConfig; from nanochat.precision import race; \
               print(race(GPTConfig(n_layer=4, n_head=2, n_kv_head=2, n_embd=128), 1024).reason)"
"""

from __future__ import annotations

import ctypes
import math
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from nanochat.device import BF16_CAPABILITY
from nanochat.gpt_config import GPTConfig

if TYPE_CHECKING:
    import torch
    from torch import Tensor

# bfloat16 keeps 8 of float32's 24 bits, so it has to be worth it; a race of one second cannot see less than this.
WORTH = 1.1
ROUNDS = 3  # at least, whatever the clock says: the first run of a shape prepares it and does not count
RACE_FLOPS = 3e9  # a racing step is cut to this much work, 30-60 ms on one core
RACE_WIDTH, RACE_VOCAB, RACE_TOKENS = 512, 4096, 1024

# What torch.compile takes before the first step, and the share of a step that it saves. CPU: measured at four layers of
# 128 channels, 45-56 CPU seconds, 15 % in float32 and 6 % in bfloat16 (the step has few passes left to fuse). GPU: an
# estimate until it is measured.
COMPILE_SECONDS = {"cpu": 50.0, "cuda": 60.0}
COMPILE_SAVES = {"cpu": 0.10, "cuda": 0.30}
COMPILE_MARGIN = 2.0  # compile only where it saves twice what it costs: both figures vary between machines


M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # numbers of glibc's mallopt(3)


class PrecisionError(ValueError):
    """A race that cannot be run. One sentence."""


@dataclass(frozen=True)
class PrecisionChoice:
    """The format of a run's activations and products, and why."""

    dtype: torch.dtype  # torch.float32 or torch.bfloat16; the weights are float32 either way
    reason: str  # for the reader, in one sentence
    measured: dict[str, float]  # tokens a second of the racing slice by format; empty where nothing was raced


def forward_loss(model: Callable[..., Tensor], x: Tensor, y: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """The summed cross-entropy in nats, float32 (float64 for a float64 model), computed in `dtype`; differentiable.

    model: a GPT, or what torch.compile made of one. x, y: (B, T) token ids and targets, -1 where nothing counts.
    dtype: None keeps the format of the model's weights; bfloat16 lets float32 weights work in bfloat16. Divide by
    the number of counted targets of the whole step, not of this batch.
    """
    return model(x, y, reduction="sum", dtype=dtype)


def keep_memory() -> tuple[bool, str]:
    """Tell the C library to keep freed memory for the next step instead of handing it back; whether it does, and why.

    A step frees and asks again for megabytes hundreds of times, and by default glibc returns each to the system, which
    then hands out and clears the same pages anew: a tenth of a small model's step. The setting holds for the whole
    process, which from then on keeps its peak memory: for a process that trains.
    """
    if not sys.platform.startswith("linux"):
        return False, f"freed memory is managed by {sys.platform} as it sees fit"
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False, "freed memory is managed by this system's C library, which has no mallopt"
    # Blocks up to 32 MB, the most glibc takes here, come from the heap, and its end is never given back.
    kept = mallopt(M_MMAP_THRESHOLD, 32 * 2**20) and mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    return bool(
        kept
    ), "freed memory is kept for the next step" if kept else "the C library refused to keep freed memory"


def race(config: GPTConfig, batch_tokens: int, device: str = "cpu", seconds: float = 1.0) -> PrecisionChoice:
    """Choose float32 or bfloat16 for training `config` on batches of `batch_tokens` tokens.

    On a CPU both formats run in turn for about `seconds`; a GPU's capability answers without a race.
    Raises PrecisionError for a batch without tokens or a time that is no time.
    """
    import torch

    if batch_tokens < 1 or not (math.isfinite(seconds) and seconds > 0):
        raise PrecisionError(
            f"the race got {batch_tokens} tokens and {seconds} seconds; it needs at least one token and some time"
        )
    kind = torch.device(device).type
    if kind == "cuda":
        capability = torch.cuda.get_device_capability(torch.device(device))
        sm = f"compute capability {capability[0]}.{capability[1]}"
        if capability >= BF16_CAPABILITY:
            return PrecisionChoice(torch.bfloat16, f"bfloat16: {sm} has matrix units for it.", {})
        return PrecisionChoice(torch.float32, f"float32: {sm} has no bfloat16 (that takes 8.0).", {})
    if kind != "cpu":
        return PrecisionChoice(torch.float32, f"float32: bfloat16 is not complete on {kind}.", {})
    speeds = _race(config, batch_tokens, seconds)
    gain = speeds["bfloat16"] / speeds["float32"]
    if gain >= WORTH:
        why = f"bfloat16: {gain:.1f} times as fast as float32 on this CPU (a race of {seconds:g} s, at this shape)."
        return PrecisionChoice(torch.bfloat16, why, speeds)
    why = f"float32: bfloat16 runs at {gain:.1f} times its speed on this CPU (a race of {seconds:g} s, at this shape)."
    return PrecisionChoice(torch.float32, why, speeds)


def compile_decision(seconds: float | None, device: str = "cpu") -> tuple[bool, str]:
    """Whether torch.compile repays itself in a run of `seconds` (None: no end in sight), and why."""
    kind = device.partition(":")[0]
    if kind not in COMPILE_SECONDS:
        return False, f"not compiled: torch.compile is not reliable on {kind}"
    cost, saves = COMPILE_SECONDS[kind], COMPILE_SAVES[kind]
    needed = COMPILE_MARGIN * cost / saves
    if seconds is not None and seconds < needed:
        return False, (
            f"not compiled: compiling takes {cost:.0f} s and saves {saves:.0%} of a step, which pays in runs from "
            f"{needed:.0f} s on, and this run has {seconds:.0f}"
        )
    if missing := missing_compiler(kind):
        return False, missing
    length = "this run has no end in sight" if seconds is None else f"this run has {seconds:.0f} s"
    return True, f"compiled: that takes {cost:.0f} s, saves {saves:.0%} of a step, and {length}"


def missing_compiler(kind: str = "cpu") -> str | None:
    """Why torch.compile cannot run on this kind of device here; None if it can."""
    names = ("cl",) if sys.platform == "win32" else ("g++", "c++", "clang++")
    if kind == "cpu" and not any(shutil.which(name) for name in names):
        return "not compiled: torch.compile needs a C++ compiler, and this machine has none (install g++)"
    return None


def _race(config: GPTConfig, batch_tokens: int, seconds: float) -> dict[str, float]:
    """Tokens a second of a one-layer slice of the model, forward and backward, by format; the best of each."""
    import torch

    from nanochat.gpt import GPT

    slice_ = race_config(config)
    with torch.random.fork_rng(devices=[]):  # the run's own random numbers do not notice the race
        model = GPT(slice_)
        model.init_weights()
        T = min(slice_.sequence_len, batch_tokens)
        affordable = RACE_FLOPS / model.estimate_flops()
        rows = max(1, int(min(batch_tokens, RACE_TOKENS, affordable)) // T)
        x, y = torch.randint(slice_.vocab_size, (2, rows, T)).unbind()
    best = {"float32": math.inf, "bfloat16": math.inf}
    deadline, rounds = time.perf_counter() + seconds, 0
    while rounds <= ROUNDS or time.perf_counter() < deadline:
        for name in best:
            begin = time.perf_counter()
            forward_loss(model, x, y, getattr(torch, name)).backward()
            elapsed = time.perf_counter() - begin
            model.zero_grad(set_to_none=True)
            if rounds:
                best[name] = min(best[name], elapsed)
        rounds += 1
    return {name: rows * T / elapsed for name, elapsed in best.items()}


def race_config(config: GPTConfig) -> GPTConfig:
    """A one-layer slice of `config` that a second is enough for: its widths, up to limits, and its kind of layer."""
    group, D = config.n_head // config.n_kv_head, config.head_dim
    G = max(1, min(config.n_kv_head, RACE_WIDTH // (group * D)))
    H = G * group
    return replace(
        config,
        n_layer=1,
        n_head=H,
        n_kv_head=G,
        n_embd=H * D,
        vocab_size=min(config.vocab_size, RACE_VOCAB),
        sequence_len=min(config.sequence_len, RACE_TOKENS // 4),
        bigram=False,
    )
