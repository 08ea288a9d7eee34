"""Which implementation of an operation runs, and why.

`choose` is pure: the same question in the same environment gives the same answer, and nothing is tried out.
The environment may force an answer, for all operations or for one (the second wins):

    NANOCHAT_KERNELS=reference python -m pytest tests/test_engine.py
    NANOCHAT_KERNELS_SAMPLE=torch python -m nanochat.scripts.chat_cli

auto       the best that can run here
triton     the Triton kernel on a GPU; an error where it cannot run
interpret  the Triton kernel in Triton's interpreter on a CPU, for tests; an error where it cannot run
torch      the PyTorch path
reference  the definition, slow and plain
"""

import functools
import importlib
import importlib.util
import os
from types import ModuleType
from typing import NamedTuple

import torch

from kernels.checks import KernelInputError
from kernels.configs import OLDEST

OPS = ("attention", "decode_attention", "sample", "qk_prep", "linear_softcap_cross_entropy")
REQUESTS = ("auto", "triton", "interpret", "torch", "reference")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)  # what a Triton kernel takes
HEAD_DIMS = (32, 64, 128)  # of the operations that have heads, last dimension of their first argument
WITH_HEADS = ("attention", "decode_attention", "qk_prep")

# Decoding asks a dozen times per token, nearly always for variables that are not set. os.environ answers that with
# an exception of its own (0.8 us each), its table does so in a tenth; where there is no such table, ask os.environ.
_TABLE = getattr(os.environ, "_data", os.environ)
_VARIABLES = {op: ("NANOCHAT_KERNELS", f"NANOCHAT_KERNELS_{op.upper()}") for op in OPS}
_encode = getattr(os.environ, "encodekey", str)
_KEYS = {op: (_encode(for_all), _encode(for_one)) for op, (for_all, for_one) in _VARIABLES.items()}


class Choice(NamedTuple):
    """The implementation that runs, in one word, and the reason for a reader."""

    name: str
    reason: str


# What runs on a CPU when nobody asks for anything.
_ON_CPU = {op: Choice("torch", f"{op} runs as PyTorch on a CPU: Triton kernels need a GPU") for op in OPS}


def choose(op: str, device: torch.device, dtype: torch.dtype, shape: tuple[int, ...]) -> Choice:
    """The implementation of `op` for the first argument's device, dtype and shape.

    Raises KernelInputError if the environment asks for something unknown or for what cannot run here.
    """
    keys = _KEYS.get(op)
    if keys is None:
        raise KernelInputError(f"op is {op!r}, but the operations are {', '.join(OPS)}: correct the name")
    if keys[0] in _TABLE or keys[1] in _TABLE:
        variable, request = _request(op)
        return _forced(op, variable, request, device, dtype, shape)
    return _ON_CPU[op] if device.type == "cpu" else _automatic(op, device, dtype, shape)


def triton_impl(op: str, name: str) -> ModuleType:
    """The module with the Triton kernels of `op`, for the GPU ("triton") or the interpreter ("interpret").

    Triton decides which of the two when a kernel is defined, so one process has one of them.
    Raises KernelInputError where the process has the other one.
    """
    if name == "interpret":
        os.environ["TRITON_INTERPRET"] = "1"
    module = importlib.import_module(f"kernels.{op}.triton_impl")
    interprets = _interprets(module)
    if (name == "interpret") != interprets:
        loaded, wanted = ("be interpreted", "without") if interprets else ("run on a GPU", "with")
        raise KernelInputError(
            f"{op}: this process has loaded Triton's kernels to {loaded}, and {name} is asked for; start a new process "
            f"{wanted} TRITON_INTERPRET=1"
        )
    return module


@functools.cache
def _interprets(module: ModuleType) -> bool:
    """Whether the module's kernels run in the interpreter: how Triton wrapped the first of them says so."""
    kernel = next(value for value in vars(module).values() if type(value).__module__.startswith("triton.runtime."))
    return type(kernel).__name__ == "InterpretedFunction"


def _automatic(op: str, device: torch.device, dtype: torch.dtype, shape: tuple[int, ...]) -> Choice:
    """The best that can run."""
    if device.type == "cpu":
        return _ON_CPU[op]
    obstacle = _obstacle(op, device, dtype, shape)
    if obstacle:
        return Choice("torch", f"{op} runs as PyTorch: {obstacle}")
    return Choice("triton", f"{op} runs as a Triton kernel on this GPU")


def _obstacle(op: str, device: torch.device, dtype: torch.dtype, shape: tuple[int, ...]) -> str:
    """Why the Triton kernel cannot run on this device with these inputs; empty if it can."""
    if device.type != "cuda":
        return f"Triton kernels need a GPU of NVIDIA, and the tensors are on {device.type}"
    if not _has_triton():
        return "triton is not installed (pip install 'triton>=3.6,<3.8', on Linux)"
    capability = _capability(device.index)
    if capability < OLDEST:
        return f"the GPU has compute capability {capability[0]}.{capability[1]}, and the kernels need {OLDEST[0]}.0"
    return _unfit(op, dtype, shape)


def _unfit(op: str, dtype: torch.dtype, shape: tuple[int, ...]) -> str:
    """What the kernel does not take about the inputs, on any GPU; empty if nothing."""
    if dtype not in DTYPES:
        return f"its kernel takes {', '.join(str(d).removeprefix('torch.') for d in DTYPES)}, and the input is {dtype}"
    if op in WITH_HEADS and shape[-1] not in HEAD_DIMS:
        return f"its kernel takes head dims {', '.join(map(str, HEAD_DIMS))}, and the input has {shape[-1]}"
    return ""


def _has_triton() -> bool:
    return _find_triton()


def _capability(index: int | None) -> tuple[int, int]:
    return _ask_capability(index)


@functools.cache
def _find_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


@functools.cache
def _ask_capability(index: int | None) -> tuple[int, int]:
    return torch.cuda.get_device_capability(index)


# A compiled graph takes these answers as they were when it was traced; the cached functions themselves would be looked
# into. The mark is all that torch.compiler.assume_constant_result makes, but that loads the compiler, and Triton with
# it, for everyone who imports kernels: seconds.
_has_triton.__dict__["_dynamo_marked_constant"] = True
_capability.__dict__["_dynamo_marked_constant"] = True


def _forced(
    op: str, variable: str, request: str, device: torch.device, dtype: torch.dtype, shape: tuple[int, ...]
) -> Choice:
    """What runs when the environment asks for `request`."""
    if request not in REQUESTS:
        raise KernelInputError(f"{variable} is {request!r}, but it can only be one of {', '.join(REQUESTS)}: set one")
    if request == "auto":
        return _automatic(op, device, dtype, shape)
    if request in ("torch", "reference"):
        return Choice(request, f"{variable}={request}")
    if request == "triton":
        obstacle = _obstacle(op, device, dtype, shape)
    elif device.type != "cpu":
        obstacle = f"the interpreter runs on a CPU, and the tensors are on {device.type}"
    elif not _has_triton():
        obstacle = "triton is not installed (pip install 'triton>=3.6,<3.8', on Linux)"
    else:
        obstacle = _unfit(op, dtype, shape)
    if obstacle:
        raise KernelInputError(f"{variable}={request} cannot be followed for {op}: {obstacle}; set {variable} to auto")
    return Choice(request, f"{variable}={request}")


def _request(op: str) -> tuple[str, str]:
    """The variable that decides for `op` and its value; an empty value counts as not set."""
    for variable in reversed(_VARIABLES[op]):
        value = os.environ.get(variable, "").strip().lower()
        if value:
            return variable, value
    return _VARIABLES[op][0], "auto"
