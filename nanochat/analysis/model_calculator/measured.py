"""The calculator held against reality: the count beside the real model's, the estimate beside a measured step.

A step is measured in a process of its own, so that its peak of memory is that of the step and nothing else.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from nanochat.analysis.model_calculator.compute import flops_per_token
from nanochat.analysis.model_calculator.memory import Plan, training_memory
from nanochat.analysis.model_calculator.parameters import Breakdown, CalculatorError
from nanochat.gpt_config import GPTConfig

STEPS = 3  # timed, after one that warms up; the fastest counts
LIMIT = 600  # seconds that a measurement may take
LARGEST = 4e9  # bytes that a measured model may need by the estimate


@dataclass(frozen=True)
class Count:
    """Parameters by formula and by the model itself, on the meta device: nothing is allocated."""

    formula: int
    model: int

    @property
    def equal(self) -> bool:
        """As they should be."""
        return self.formula == self.model


@dataclass(frozen=True)
class Measured:
    """One training step on this machine beside its estimate."""

    rows: int
    tokens: int  # a row
    seconds: float  # of a step
    estimated_seconds: float
    memory: int  # bytes, the peak above what the libraries take
    estimated_memory: int
    device: str


def count_on_meta(model: Breakdown) -> Count:
    """The count beside sum(p.numel()) of the real model. Raises CalculatorError for a family that is not nanochat."""
    import torch

    from nanochat.gpt import GPT

    config = _config(model)
    with torch.device("meta"):
        real = GPT(config)
    return Count(model.total, sum(parameter.numel() for parameter in real.parameters()))


def measure(model: Breakdown, rows: int = 4, tokens: int = 128, optimizer: str = "muon") -> Measured:
    """Run a few steps of the real model on the CPU, on random tokens, in float32.

    Raises:
        CalculatorError: not a nanochat, too large for this, or the process failed.
    """
    from nanochat.training_setup import fastest_products, optimizer_tokens, training_speed

    config = _config(model)
    tokens = min(tokens, config.sequence_len)
    plan = Plan("fp32", optimizer, False, rows, "attention")
    estimate = sum(item.size for item in training_memory(model, plan, tokens))
    if estimate > LARGEST:
        raise CalculatorError(
            f"a step of this model needs about {estimate / 1e9:.1f} GB and {LARGEST / 1e9:.0f} are measured at most; "
            "take fewer layers or rows"
        )
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "step.json")
        file.write_text(json.dumps({"config": asdict(config), "rows": rows, "tokens": tokens, "optimizer": optimizer}))
        command = [sys.executable, "-c", f"from {__name__} import run_step; run_step({str(file)!r})"]
        root = str(Path(__file__).parents[3])
        path = os.pathsep.join(part for part in (root, os.environ.get("PYTHONPATH")) if part)
        try:
            done = subprocess.run(
                command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, timeout=LIMIT, check=False
            )
        except subprocess.TimeoutExpired:
            raise CalculatorError(f"a step took longer than {LIMIT} seconds; take fewer layers or rows") from None
        if done.returncode:
            last = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["no memory left, perhaps"]
            raise CalculatorError(f"the step could not be measured ({last[0]:.200}); take fewer layers or rows")
        result = json.loads(file.read_text())
    speed = training_speed(fastest_products(), "cpu")
    short = sum(min(window, tokens) for window in model.windows)
    each = flops_per_token(model) - 12 * model.heads * model.head_width * (sum(model.windows) - short)
    work = each * (rows * tokens + optimizer_tokens(config, optimizer))
    return Measured(rows, tokens, result["seconds"], work / speed, result["memory"], estimate, "cpu")


def run_step(path: str) -> None:
    """In the process of its own: read what to run from a file, and write seconds and bytes there."""
    import torch

    from nanochat.optim import OptimConfig, build_optimizer
    from nanochat.training_setup import new_model

    asked = json.loads(Path(path).read_text())
    config = GPTConfig(**asked["config"])
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(config.vocab_size, (asked["rows"], asked["tokens"] + 1), generator=generator)
    kind = OptimConfig().kind if asked["optimizer"] == "muon" else asked["optimizer"]

    def steps(shape: GPTConfig, ids: torch.Tensor, number: int) -> list[float]:
        model = new_model(shape, 0)
        optimizer = build_optimizer(model, OptimConfig(kind))
        times = []
        for _ in range(number):
            begun = time.perf_counter()
            model(ids[:, :-1], ids[:, 1:]).backward()
            optimizer.step()
            optimizer.zero_grad()
            times.append(time.perf_counter() - begun)
        return times

    steps(GPTConfig(32, 64, 1, 1, 1, 32, "L"), ids[:1, :9] % 64, 1)  # libraries load parts of themselves at first use
    before = _resident()
    times = steps(config, ids, STEPS + 1)
    Path(path).write_text(json.dumps({"seconds": min(times[1:]), "memory": max(_peak() - before, 0)}))


def _resident() -> int:
    """Bytes of this process in memory now, or its peak where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return _peak()
    return pages * os.sysconf("SC_PAGE_SIZE")


def _peak() -> int:
    """The most bytes that this process had in memory."""
    if sys.platform == "win32":
        raise CalculatorError("Windows does not tell a process its peak of memory; measure on Linux or macOS")
    try:  # Linux hands what getrusage says down from the process that started this one; this figure begins anew
        status = Path("/proc/self/status").read_text()
        return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        pass
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, Linux kilobytes


def _config(model: Breakdown) -> GPTConfig:
    if model.config is None:
        raise CalculatorError(
            f"{model.arch} is not built by this project, so it cannot be verified or measured; choose a nanochat"
        )
    return model.config
