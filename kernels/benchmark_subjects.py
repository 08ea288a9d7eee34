"""Who is timed: for each case our implementation, its fallback, the definition, and the peers that can run here.

    subject = subject_of(case, torch.device("cpu"))
    for contestant in subject.contestants: contestant.run()

A peer that cannot run is named with the reason. Compiled peers are for GPUs: on a CPU compiling one takes longer than
the whole benchmark.
"""

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kernels import backend
from kernels.benchmark_cases import DTYPES, BenchmarkError, Case

Outputs = tuple[Tensor, ...]
OURS, FALLBACK, REFERENCE, PEER = "ours", "fallback", "reference", "peer"


@dataclass(frozen=True)
class Contestant:
    """One way to compute a case."""

    name: str  # triton, torch, reference, or the peer's own
    role: str  # OURS, FALLBACK, REFERENCE or PEER
    run: Callable[[], Outputs]
    reason: str = ""  # why ours runs as it does


@dataclass(frozen=True)
class Subject:
    """A case with its inputs made."""

    contestants: Sequence[Contestant]
    absent: Sequence[tuple[str, str]]  # (peer, why it does not run here)
    error: Callable[[Outputs], float | None]  # distance from float64; None where a result has no counterpart


def subject_of(case: Case, device: torch.device) -> Subject:
    """Inputs and contestants of a checked case. Inputs are random, and the same at every call."""
    from kernels import benchmark_attention, benchmark_rows

    build = {
        "attention": benchmark_attention.attention,
        "decode_attention": benchmark_attention.decode_attention,
        "sample": benchmark_rows.sample,
        "qk_prep": benchmark_rows.qk_prep,
        "linear_softcap_cross_entropy": benchmark_rows.linear_softcap_cross_entropy,
    }
    return build[case.op](case, device)


def own(
    case: Case, device: torch.device, first: Tensor, public: Any, fallback: Any, reference: Any
) -> list[Contestant]:
    """The public function, the PyTorch path beside it on a GPU, and the definition; functions of no argument.

    first: the operation's first argument, which decides what runs. Raises BenchmarkError for the interpreter.
    """
    choice = backend.choose(case.op, device, DTYPES[case.dtype], tuple(first.shape))
    if choice.name == "interpret":
        raise BenchmarkError(
            f"{case.op} would run in Triton's interpreter ({choice.reason}), whose times say nothing about speed: "
            f"unset that variable, or set it to auto"
        )
    found = [Contestant(choice.name, OURS, public, choice.reason)]
    if choice.name == "triton":
        found.append(Contestant("torch", FALLBACK, fallback))
    if choice.name != "reference":
        found.append(Contestant("reference", REFERENCE, reference))
    return found


def compiled(device: torch.device, make: Callable[[], Callable[[], Outputs]]) -> tuple[list[Contestant], list]:
    """([the compiled peer], []) on a GPU, else ([], [why not])."""
    if device.type != "cuda":
        return [], [("torch compiled", "compiling for a CPU takes longer than the benchmark")]
    return [Contestant("torch compiled", PEER, make())], []


def installed(module: str) -> bool:
    """Whether a package is there, without importing it."""
    return importlib.util.find_spec(module) is not None


def random(device: torch.device, dtype: torch.dtype, *shape: int, seed: int = 0, grad: bool = False) -> Tensor:
    """Standard normal numbers, drawn on the device."""
    generator = torch.Generator(device).manual_seed(seed)
    return torch.randn(*shape, device=device, dtype=dtype, generator=generator).requires_grad_(grad)


def step_of(kind: str, forward: Callable[[], Any], inputs: Outputs, gradient: Outputs) -> Callable[[], Outputs]:
    """What is timed of a differentiable operation: its way there, its way back, or both.

    forward gives a tensor or a tuple. Results: outputs ("forward"), gradients of `inputs` ("backward"), or both.
    """

    def outputs() -> Outputs:
        result = forward()
        return result if isinstance(result, tuple) else (result,)

    def inference() -> Outputs:
        with torch.no_grad():
            return outputs()

    def training() -> Outputs:
        result = outputs()
        return (*result, *torch.autograd.grad(result, inputs, gradient))

    if kind == "forward":
        return inference
    if kind == "training":
        return training
    kept: list[Outputs] = []  # the way there happens once, when it is first needed

    def backward() -> Outputs:
        if not kept:
            kept.append(outputs())
        return torch.autograd.grad(kept[0], inputs, gradient, retain_graph=True)

    return backward


def distance(got: Sequence[Tensor], exact: Sequence[Tensor]) -> float:
    """The largest of |got - exact| / |exact|, by tensor, in the Euclidean norm and in float64."""
    return max(
        float((a.detach().to(torch.float64) - b).norm() / b.norm().clamp_min(1e-300))
        for a, b in zip(got, exact, strict=True)
    )
