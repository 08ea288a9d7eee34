"""One row of a benchmark: which facts it holds, how a person reads it, how it is written down.

Rows are plain values, so that the page, a file and the analysis (nanochat.analysis.kernel_benchmark) read the same
ones.
"""

import csv
import functools
import importlib.metadata
import importlib.util
import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

from kernels import configs
from kernels.benchmark_subjects import PEER, REFERENCE


@dataclass(frozen=True)
class Record:
    """One contestant at one case. Plain values only, so that it becomes a row of JSON, CSV or a frame as it is."""

    op: str
    kind: str
    shape: str
    dtype: str
    implementation: str  # triton, torch, reference, or a peer's name
    role: str  # ours, fallback, reference, peer
    reason: str  # why ours runs as it does; of a contestant without a time: why it has none
    seconds: float | None  # median of the rounds; None for a contestant that could not run
    seconds_low: float | None  # quartiles
    seconds_high: float | None
    rounds: int
    clock: str  # cpu, wall, events or graph
    flops: int  # that the case cannot avoid
    bytes: int
    rate: float | None  # in `unit`
    unit: str  # TFLOP/s or GB/s
    ceiling_share: float | None  # the least time that the measured ceilings allow, over the time taken
    copy_gb: float  # the ceilings, GB/s and TFLOP/s
    gemm_tflops: float
    over_reference: float | None  # times faster than the definition; median of the rounds' ratios
    best_peer: str  # the fastest peer of the case; empty where none ran
    over_best_peer: float | None  # times faster than it
    error: float | None  # relative distance from float64; of sample, nats of the log-probability
    best_peer_error: float | None
    peak_bytes: int | None  # of GPU memory above the inputs
    tuned: bool  # whether the table of configurations knows this GPU for this operation
    device: str
    capability: str  # sm_90; empty for a CPU
    threads: int
    versions: str  # of python, torch and triton
    date: str  # UTC, ISO 8601

    @property
    def about(self) -> str:
        """The case in words."""
        return f"{self.op}, {self.kind}: {self.shape}, {self.dtype}"


def table(records: Sequence[Record]) -> str:
    """The records for a person, a paragraph a case."""
    lines: list[str] = []
    for record in records:
        if record.about not in lines:
            lines += [*([""] if lines else []), record.about]
        lines.append(line(record))
    return "\n".join(lines)


def line(r: Record) -> str:
    """One contestant, for a person."""
    if r.seconds is None or r.seconds_low is None or r.seconds_high is None:
        return f"  {r.implementation:36} not timed: {r.reason}"
    scale, unit = (1e3, "ms") if r.seconds >= 1e-3 else (1e6, "us")
    spread = f"{r.seconds_low * scale:.4g}-{r.seconds_high * scale:.4g}"
    over = "" if r.over_reference is None or r.role == REFERENCE else f"{r.over_reference:6.2f}x reference"
    peer = f"{r.over_best_peer:6.2f}x {r.best_peer}" if r.over_best_peer and r.role != PEER else ""
    error = "" if r.error is None else f"error {r.error:.1e}"
    return (
        f"  {r.implementation:36} {r.seconds * scale:8.4g} {unit} {spread:>15}  {r.rate:9.4g} {r.unit:7} "
        f"{r.ceiling_share:5.0%} of ceiling  {error:13} {over:18} {peer}"
    ).rstrip()


def write_json(path: Path, records: Sequence[Record]) -> None:
    """One object with the records in a list: what nanochat.analysis.kernel_benchmark reads."""
    path.write_text(json.dumps({"records": [asdict(r) for r in records]}, indent=1) + "\n", encoding="utf-8")


def write_csv(path: Path, records: Sequence[Record]) -> None:
    """One line a record, with a header."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [f.name for f in fields(Record)])
        writer.writeheader()
        writer.writerows(asdict(r) for r in records)


def machine(device: torch.device) -> dict[str, Any]:
    """What a record says of where it was made."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        capability = "sm_{}{}".format(*torch.cuda.get_device_capability(device))
    else:
        name, capability = _processor(), ""
    found = {"python": platform.python_version(), "torch": torch.__version__}
    for package in ("triton", "flashinfer-python"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "device": name,
        "capability": capability,
        "threads": torch.get_num_threads(),
        "versions": ", ".join(f"{package} {version}" for package, version in found.items()),
    }


@functools.cache
def _processor() -> str:
    """The processor's name as the system gives it, else its architecture."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def gpu_obstacle() -> str:
    """Why nothing can be timed on a GPU here, in one sentence; empty if it can."""
    if not torch.cuda.is_available():
        return (
            f"No NVIDIA GPU can be used here: torch {torch.__version__} sees none; take a machine with a GPU, "
            f"its driver and a CUDA build of torch."
        )
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed: pip install 'triton>=3.6,<3.8', on Linux."
    if os.environ.get("TRITON_INTERPRET") == "1":
        return "TRITON_INTERPRET is 1, so kernels would run in the interpreter on the CPU: unset it."
    if torch.cuda.get_device_capability() < configs.OLDEST:
        found = "{}.{}".format(*torch.cuda.get_device_capability())
        return f"The GPU has compute capability {found}, and the kernels need {configs.OLDEST[0]}.0 or later."
    return ""
