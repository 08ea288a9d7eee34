"""What the kernels are worth in the whole model: a training step and decoding, with them and without, in one run.

    python -m nanochat.benchmarks.gpu                # runs this after the kernels alone

"kernels" lets every operation choose by itself, "PyTorch" holds all of them to the PyTorch path. Both work on the same
weights and the same batch, in turn. Weights are random: the work is the same. Needs torch and kernels, no tokenizer.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

import kernels
from kernels.benchmark import machine, ratio, rounds_of
from nanochat import precision
from nanochat.decode import Decoder
from nanochat.gpt import GPT
from nanochat.gpt_config import GPTConfig
from nanochat.horizon import model_width
from nanochat.kv_cache import KVCache
from nanochat.optim import OptimConfig, build_optimizer

KERNELS, PYTORCH = "kernels", "PyTorch"
SWITCH = "NANOCHAT_KERNELS"
DTYPE = torch.bfloat16


@dataclass(frozen=True)
class Sizes:
    """How much work: a run on a GPU, or a rehearsal on a CPU."""

    depths: tuple[int, ...]
    vocabulary: int
    context: int  # tokens of a training row
    rows: int  # of a training batch
    prompt: int  # tokens that decoding begins behind; their one pass is in the time
    tokens: int  # decoded in one timed call
    batches: tuple[int, ...]  # rows decoded together
    rounds: int
    aspect_ratio: int = 64  # channels a layer, nanochat's


FULL = Sizes((12, 20), 32768, 2048, 8, 256, 64, (1, 8), 7)
REHEARSAL = Sizes((2,), 256, 64, 2, 8, 4, (1, 2), 2, aspect_ratio=16)


@dataclass(frozen=True)
class EndToEnd:
    """One measurement of the whole model."""

    what: str  # "training step" or "decoding"
    depth: int
    rows: int
    path: str  # KERNELS or PYTORCH
    tokens_per_second: float  # of the median round
    slowest: float
    fastest: float
    over_pytorch: float  # times faster, median of the rounds' ratios
    flops_share: float | None  # of the measured product ceiling, training only
    device: str
    versions: str


@contextmanager
def held_to(path: str) -> Iterator[None]:
    """Every operation runs by itself (KERNELS) or as PyTorch, in this process, for as long as this lasts."""
    before = os.environ.pop(SWITCH, None)
    if path == PYTORCH:
        os.environ[SWITCH] = "torch"
    try:
        yield
    finally:
        os.environ.pop(SWITCH, None)
        if before is not None:
            os.environ[SWITCH] = before


def config_of(depth: int, sizes: Sizes) -> GPTConfig:
    """nanochat's newest model of a depth."""
    width, heads = model_width(depth, sizes.aspect_ratio, 128 if sizes.aspect_ratio == 64 else 32)
    return GPTConfig(
        sequence_len=sizes.context,
        vocab_size=sizes.vocabulary,
        n_layer=depth,
        n_head=heads,
        n_kv_head=heads,
        n_embd=width,
    )


def random_model(config: GPTConfig, device: torch.device) -> GPT:
    """Random weights of a plausible size, in float32."""
    torch.manual_seed(0)
    with torch.device(device):
        model = GPT(config)
    model.init_weights()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.01)
    return model


def training(depth: int, sizes: Sizes, device: torch.device, gemm_tflops: float) -> list[EndToEnd]:
    """Forward pass, backward pass and optimizer step of one batch, float32 weights that work in bfloat16."""
    config = config_of(depth, sizes)
    model = random_model(config, device)
    optimizer = build_optimizer(model, OptimConfig(newton_schulz="bfloat16"))
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(config.vocab_size, (sizes.rows, sizes.context + 1), generator=generator).to(device)
    x, y = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()

    def step() -> None:
        (precision.forward_loss(model, x, y, DTYPE) / y.numel()).backward()
        optimizer.step()
        optimizer.zero_grad()

    return _compared("training step", depth, sizes.rows, y.numel(), step, sizes, device, model, gemm_tflops)


@torch.inference_mode()
def decoding(depth: int, rows: int, sizes: Sizes, device: torch.device) -> list[EndToEnd]:
    """A prompt, then token after token, drawn as the engine draws them: temperature 0.8 and top-k 50."""
    config = config_of(depth, sizes)
    model = random_model(config, device).to(DTYPE).lay_out_for_inference()
    prompt = torch.arange(sizes.prompt, device=device)[None] % config.vocab_size
    seeds = torch.arange(rows, device=device)

    @torch.inference_mode()
    def write() -> None:
        cache = KVCache(config.n_layer, 1, config.n_kv_head, config.head_dim, dtype=DTYPE, device=device)
        logits = model.logits(model.hidden(prompt, cache)[:, -1]).expand(rows, -1)
        decoder = Decoder(model)
        if rows > 1:
            cache = cache.select([0] * rows)
        for step in range(sizes.tokens):
            drawn: Tensor = kernels.sample(logits, 0.8, 50, seed=seeds, step=step).token
            drawn.tolist()  # the engine looks at every token before it goes on
            logits = decoder.step(drawn, cache)

    return _compared("decoding", depth, rows, rows * sizes.tokens, write, sizes, device, None, 0.0)


def _compared(
    what: str,
    depth: int,
    rows: int,
    tokens: int,
    work: Callable[[], None],
    sizes: Sizes,
    device: torch.device,
    model: GPT | None,
    gemm_tflops: float,
) -> list[EndToEnd]:
    """The same work on both paths, in turn."""

    def on(path: str) -> Callable[[], None]:
        def run() -> None:
            with held_to(path):
                work()

        return run

    times = rounds_of({path: on(path) for path in (KERNELS, PYTORCH)}, device, sizes.rounds)
    facts = machine(device)
    found = []
    for path, taken in times.items():
        speed = tokens / taken.median
        share = model.estimate_flops() * speed / gemm_tflops / 1e12 if model is not None else None
        found.append(
            EndToEnd(
                what,
                depth,
                rows,
                path,
                speed,
                tokens / max(taken.seconds),
                tokens / min(taken.seconds),
                ratio(taken, times[PYTORCH]),
                share,
                facts["device"],
                facts["versions"],
            )
        )
    return found
