"""Which device a model runs on and in which number format, each with its reason.

Every place that runs a model asks here and shows the answer, so that "why is it slow" and "why do two machines differ
in the last digit" have an answer on the screen. Nothing is chosen in silence, and a device that was asked for by name
and is not there is an error, never a quiet fallback.

    python -c "from nanochat.device import choose_device; print(choose_device().describe())"
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

BF16_CAPABILITY = (8, 0)  # compute capability of the first NVIDIA generation with bfloat16 matrix units (Ampere)


class DeviceError(ValueError):
    """A device was asked for that this machine or this PyTorch cannot offer. One line, with the remedy."""


@dataclass(frozen=True)
class DeviceChoice:
    """Where a model runs, in which number format, and why."""

    device: str  # what torch takes: "cpu", "mps", "cuda" or "cuda:1"
    dtype: torch.dtype  # the number format of weights and activations
    name: str  # the device in words: "CPU", "NVIDIA H100"
    device_reason: str  # why this device, one sentence
    dtype_reason: str  # why this format for a model that answers, one sentence; training decides on a format itself

    @property
    def reason(self) -> str:
        """Why this device and why this format."""
        return f"{self.device_reason} {self.dtype_reason}"

    def describe(self) -> str:
        """One line for the screen."""
        where = self.name if self.device == "cpu" else f"{self.name} ({self.device})"
        return f"Runs on {where} in {str(self.dtype).removeprefix('torch.')}. {self.reason}"


def choose_device(requested: str = "auto") -> DeviceChoice:
    """Pick the device and the dtype.

    Args:
        requested: "auto" takes CUDA, else MPS, else the CPU; or "cuda", "cuda:N", "mps", "cpu" by name.

    Raises:
        DeviceError: the name is unknown, or the device named is not usable here.
    """
    name = re.sub(r"^(cpu|mps):0$", r"\1", requested.strip().lower())  # torch writes these two so
    match = re.fullmatch(r"(auto|cpu|mps|cuda)(?::(\d{1,3}))?", name)
    if match is None or (match[2] is not None and match[1] != "cuda"):
        raise DeviceError(f"device {requested!r} is unknown: take auto, cpu, mps, cuda or cuda:N")
    kind, index = match[1], match[2]
    if kind == "cpu":
        return _cpu("The CPU was asked for.")
    if kind == "mps":
        if problem := _mps_problem():
            raise DeviceError(f"device 'mps' is not usable: {problem}; use cpu or auto")
        return _mps("Apple's GPU was asked for.")
    if kind == "cuda":
        if problem := _cuda_problem(int(index or 0)):
            raise DeviceError(f"device {requested!r} is not usable: {problem}; use cpu or auto")
        return _cuda(f"cuda:{index}" if index else "cuda", "An NVIDIA GPU was asked for.")
    no_cuda = _cuda_problem(0)
    if no_cuda is None:
        return _cuda("cuda", "An NVIDIA GPU is here, the fastest device for this work.")
    no_mps = _mps_problem()
    if no_mps is None:
        return _mps("Apple's GPU is here, and no NVIDIA GPU.")
    return _cpu(f"No GPU is usable ({no_cuda}; {no_mps}).")


def _cpu(reason: str) -> DeviceChoice:
    import torch

    # Measured: without bf16 matrix units in the CPU bf16 is slower, and decoding one row is never faster in it.
    why = "float32 gives the numbers that nanochat gives on a CPU, and is fastest for one text at a time."
    return DeviceChoice("cpu", torch.float32, "the CPU", reason, why)


def _mps(reason: str) -> DeviceChoice:
    import torch

    why = "float32, because bfloat16 is not complete there."
    return DeviceChoice("mps", torch.float32, "Apple's GPU", reason, why)


def _cuda(device: str, reason: str) -> DeviceChoice:
    import torch

    index = int(device.partition(":")[2] or 0)
    name, capability = torch.cuda.get_device_name(index), torch.cuda.get_device_capability(index)
    sm = f"compute capability {capability[0]}.{capability[1]}"
    if capability >= BF16_CAPABILITY:
        return DeviceChoice(device, torch.bfloat16, name, reason, f"bfloat16, because {sm} has matrix units for it.")
    return DeviceChoice(device, torch.float32, name, reason, f"float32, because {sm} has no bfloat16 (that takes 8.0).")


def _cuda_problem(index: int) -> str | None:
    """Why CUDA device `index` cannot be used, in words; None if it can."""
    import torch

    if not torch.cuda.is_available():
        if torch.version.cuda is None and torch.version.hip is None:
            return "this PyTorch was built without CUDA"
        return "PyTorch sees no NVIDIA GPU or no working driver"
    count = torch.cuda.device_count()
    if index >= count:
        return f"this machine has {count} CUDA device{'s' if count != 1 else ''}, numbered from 0"
    if torch.version.hip is None:  # AMD's architectures are named differently; there PyTorch's own check has to do
        major, minor = torch.cuda.get_device_capability(index)
        built = torch.cuda.get_arch_list()
        if built and not any(_runs_on(architecture, major, minor) for architecture in built):
            return (
                f"{torch.cuda.get_device_name(index)} (sm_{major}{minor}) is not among what this PyTorch was built for"
            )
    return None


def _runs_on(architecture: str, major: int, minor: int) -> bool:
    """Whether code built for `architecture` runs on a GPU of this capability.

    sm_XY is machine code: it runs on the same X with an equal or higher Y. compute_XY is PTX, which the driver
    translates for anything newer. The letter of sm_90a is dropped: those builds hold a plain sm_90 as well.
    """
    match = re.fullmatch(r"(sm|compute)_(\d+)(\d)[a-z]?", architecture)
    if match is None:
        return True  # a name from the future: let the driver decide
    built = (int(match[2]), int(match[3]))
    return built <= (major, minor) and (match[1] == "compute" or built[0] == major)


def _mps_problem() -> str | None:
    """Why Apple's GPU cannot be used, in words; None if it can."""
    import torch

    if torch.backends.mps.is_available():
        return None
    if not torch.backends.mps.is_built():
        return "this PyTorch was built without MPS, which is macOS only"
    return "MPS takes macOS 12.3 or later and an Apple or AMD GPU"
