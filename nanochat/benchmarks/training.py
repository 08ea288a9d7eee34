"""How fast a training step runs on this CPU, beside a plain eager loop of the same architecture, in one run.

    python -m nanochat.benchmarks.training                        # L4 D128 and L4 D256, float32 and bfloat16
    python -m nanochat.benchmarks.training --shape l4d128 --dtype bfloat16 --threads 2 --json

The plain loop (plain_training.py) is what one writes first, and what upstream's loop does where nothing is compiled:
nn.Linear by nn.Linear (weights cast to the format where they are used), F.rms_norm, F.scaled_dot_product_attention with
a mask for a window, all logits in float32, F.cross_entropy, then Muon matrix by matrix and PyTorch's AdamW beside it.
Both sides take the same batches from the same weights, in the same process. Every round runs each once, one after the
other, so that a machine whose speed drifts slows both alike; the ratio is taken round by round and its median reported.
Time is the process's CPU time. "GEMMs alone" is the products of the model's matrices, forward and backward, and nothing
else. The share of the peak is estimate_flops (those products and attention's, not the optimizer's) against the speed of
one large product of the same format, measured in the same run.
"""

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor, nn

from nanochat import precision
from nanochat.benchmarks.plain_training import PlainOptimizer, plain_loss
from nanochat.gpt import GPT
from nanochat.gpt_config import GPTConfig
from nanochat.optim import OptimConfig, build_optimizer

SHAPES = {  # name -> (model, rows of a batch)
    "l4d128": (GPTConfig(sequence_len=128, vocab_size=2048, n_layer=4, n_head=2, n_kv_head=2, n_embd=128), 8),
    "l4d256": (GPTConfig(sequence_len=256, vocab_size=2048, n_layer=4, n_head=4, n_kv_head=4, n_embd=256), 8),
}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
PEAK_SIZE = 1024  # rows, columns and depth of the product that stands for the peak
OURS, PLAIN, GEMMS = "ours", "plain loop", "GEMMs alone"


@dataclass(frozen=True)
class Record:
    """One candidate at one shape and format."""

    shape: str
    dtype: str
    name: str
    tokens_per_cpu_second: float  # median over the rounds
    tokens_per_second: float  # by the clock on the wall; says something on a machine that does nothing else
    spread: tuple[float, float]  # slowest and fastest round, tokens per CPU second
    ratio: float  # our speed over this candidate's, median of the rounds' ratios
    ratio_spread: tuple[float, float]  # smallest and largest of the rounds' ratios
    peak_share: float  # of the measured peak, counting the products of the model alone
    parts: dict[str, float] = field(default_factory=dict)  # CPU milliseconds of a step by part; of our step only


def new_model(config: GPTConfig) -> GPT:
    """Fresh weights, the same at every call, a little off the start, where half of the matrices are zero."""
    torch.manual_seed(0)
    model = GPT(config)
    model.init_weights()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.01)
    return model


def our_step(config: GPTConfig, dtype: torch.dtype) -> tuple[GPT, Callable[[Tensor, Tensor], None], Callable[[], None]]:
    """The model, its forward and backward pass, and its optimizer's step, as the training loop calls them."""
    model = new_model(config)
    optimizer = build_optimizer(model, OptimConfig(newton_schulz=str(dtype).removeprefix("torch.")))

    def learn(x: Tensor, y: Tensor) -> None:
        (precision.forward_loss(model, x, y, dtype) / y.numel()).backward()

    def step() -> None:
        optimizer.step()
        optimizer.zero_grad()

    return model, learn, step


def gemms(model: GPT, tokens: int, dtype: torch.dtype) -> Callable[[], None]:
    """The products of a step: for every matrix the output, the input's gradient and its own gradient."""
    weights = [m.weight.detach().to(dtype) for m in model.modules() if isinstance(m, nn.Linear)]
    inputs = [torch.randn(tokens, w.size(1)).to(dtype) for w in weights]
    outputs = [torch.randn(tokens, w.size(0)).to(dtype) for w in weights]

    def run() -> None:
        for w, x, g in zip(weights, inputs, outputs, strict=True):
            _ = x @ w.t(), g @ w, g.t() @ x

    return run


def gemm_peak(dtype: torch.dtype) -> float:
    """FLOPs per CPU second of one large product, the best of thirty."""
    a, b = (torch.randn(PEAK_SIZE, PEAK_SIZE).to(dtype) for _ in range(2))
    best = math.inf
    for _ in range(30):
        begin = time.process_time()
        a @ b.t()
        best = min(best, time.process_time() - begin)
    return 2 * PEAK_SIZE**3 / best


class Stopwatch:
    """CPU seconds by part of our step, through hooks on the modules of the model."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        begin = time.process_time()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.process_time() - begin

    def watch(self, module: nn.Module, name: str) -> None:
        """Count every forward pass of `module` to the part `name`."""
        begins: list[float] = []
        module.register_forward_pre_hook(lambda *_: begins.append(time.process_time()))

        def after(*_: object) -> None:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.process_time() - begins.pop()

        module.register_forward_hook(after)


def parts_of_a_step(config: GPTConfig, rows: int, dtype: torch.dtype, steps: int) -> dict[str, float]:
    """CPU milliseconds of our step by part, the mean of `steps` steps."""
    model, _, step = our_step(config, dtype)
    x, y = _batch(config, rows)
    watch = Stopwatch()
    for module in (model.wte, *model.value_embeds.values()):
        watch.watch(module, "embeddings")
    for block in model.blocks:
        watch.watch(block.attn, "attention")
        watch.watch(block.mlp, "MLP")
    for number in range(steps + 1):
        if number == 1:
            watch.seconds.clear()  # the first step prepares what later ones reuse
        with watch.part("forward"):
            hidden = model.hidden(x, dtype=dtype)
        with watch.part("head and loss, with their gradients"):
            loss = model.loss(hidden, y, "sum")
        with watch.part("backward, all but the head"):
            (loss / y.numel()).backward()
        with watch.part("optimizer"):
            step()
    milliseconds = {name: 1000 * value / steps for name, value in watch.seconds.items()}
    inside = sum(milliseconds[name] for name in ("embeddings", "attention", "MLP"))
    milliseconds["norms, residual stream, smear"] = milliseconds.pop("forward") - inside
    return milliseconds


def _batch(config: GPTConfig, rows: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(config.vocab_size, (rows, config.sequence_len + 1), generator=generator)
    return ids[:, :-1].contiguous(), ids[:, 1:].contiguous()


def measure(shape: str, dtype_name: str, rounds: int) -> list[Record]:
    """Our step, the plain one and the products alone, `rounds` times in turn, after one round that does not count."""
    (config, rows), dtype = SHAPES[shape], DTYPES[dtype_name]
    x, y = _batch(config, rows)
    model, learn, step = our_step(config, dtype)
    plain = new_model(config)
    plain_optimizer = PlainOptimizer(plain, dtype)

    def ours() -> None:
        learn(x, y)
        step()

    def plainly() -> None:
        plain_loss(plain, x, y, dtype).backward()
        plain_optimizer.step()

    runs: dict[str, Callable[[], None]] = {
        OURS: ours,
        PLAIN: plainly,
        GEMMS: gemms(model, x.numel(), dtype),
    }
    cpu: dict[str, list[float]] = {name: [] for name in runs}
    wall: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            begin_cpu, begin = time.process_time(), time.perf_counter()
            run()
            if number:
                cpu[name].append(x.numel() / (time.process_time() - begin_cpu))
                wall[name].append(x.numel() / (time.perf_counter() - begin))
    peak, flops = gemm_peak(dtype), model.estimate_flops()
    parts = parts_of_a_step(config, rows, dtype, max(2, rounds // 4))
    records = []
    for name, speeds in cpu.items():
        ratios = [mine / speed for mine, speed in zip(cpu[OURS], speeds, strict=True)]
        median = statistics.median(speeds)
        records.append(
            Record(
                shape,
                dtype_name,
                name,
                median,
                statistics.median(wall[name]),
                (min(speeds), max(speeds)),
                statistics.median(ratios),
                (min(ratios), max(ratios)),
                median * flops / peak,
                parts if name == OURS else {},
            )
        )
    return records


def main(argv: list[str] | None = None) -> int:
    """Measure and print."""
    p = argparse.ArgumentParser(
        prog="python -m nanochat.benchmarks.training", description="Training speed, paired in one run."
    )
    p.add_argument("--shape", nargs="+", default=list(SHAPES), choices=list(SHAPES), help="models to run (all)")
    p.add_argument(
        "--dtype", nargs="+", default=list(DTYPES), choices=list(DTYPES), help="formats to compute in (both)"
    )
    p.add_argument("--rounds", type=int, default=11, help="counted rounds (11)")
    p.add_argument("--threads", type=int, default=1, help="torch threads (1)")
    p.add_argument("--json", action="store_true", help="print one JSON object")
    args = p.parse_args(argv)
    torch.set_num_threads(args.threads)
    precision.keep_memory()
    records = [r for shape in args.shape for dtype in args.dtype for r in measure(shape, dtype, args.rounds)]
    if args.json:
        print(
            json.dumps({"torch": torch.__version__, "threads": args.threads, "records": [asdict(r) for r in records]})
        )
        return 0
    print(f"torch {torch.__version__}, {args.threads} thread(s), {args.rounds} rounds")
    print(
        f"{'shape':7} {'format':8} {'candidate':11} {'tokens/CPU s':>12} {'slowest-fastest':>17} {'tokens/s':>9} "
        f"{'ours is':>8} {'spread':>11} {'of peak':>7}"
    )
    for r in records:
        spread = f"{r.spread[0]:,.0f}-{r.spread[1]:,.0f}"
        ratios = f"{r.ratio_spread[0]:.2f}-{r.ratio_spread[1]:.2f}"
        print(
            f"{r.shape:7} {r.dtype:8} {r.name:11} {r.tokens_per_cpu_second:12,.0f} {spread:>17} "
            f"{r.tokens_per_second:9,.0f} {r.ratio:7.2f}x {ratios:>11} {r.peak_share:7.0%}"
        )
    for r in records:
        if r.parts:
            total = sum(r.parts.values())
            print(f"{r.shape} {r.dtype}, our step by part: {total:.1f} CPU ms")
            for name, milliseconds in sorted(r.parts.items(), key=lambda part: -part[1]):
                print(f"  {name:36} {milliseconds:7.2f} ms {milliseconds / total:5.0%}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
