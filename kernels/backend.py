"""Which implementation of an operation runs, and why.

`choose` is pure: the same question in the same environment gives the same answer, and nothing is tried out.
The environment may force an answer, for all operations or for one (the second wins):

    NANOCHAT_KERNELS=reference python -m pytest tests/test_engine.py
    NANOCHAT_KERNELS_SAMPLE=torch python -m nanochat.scripts.chat_cli

auto       the best that can run here
triton     the Triton kernel on a GPU; an error where it cannot run
interpret  the Triton kernel in Triton's interpreter, for tests; an error where it cannot run
torch      the PyTorch path
reference  the definition, slow and plain
"""

import os
from typing import NamedTuple

import torch

from kernels.checks import KernelInputError

OPS = ("attention", "decode_attention", "sample", "qk_prep", "linear_softcap_cross_entropy")
REQUESTS = ("auto", "triton", "interpret", "torch", "reference")

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


# What runs when nobody asks for anything.
_AUTOMATIC = {
    op: Choice("torch", f"{op} has no Triton kernel in this version, so the PyTorch path runs on every device")
    for op in OPS
}


def choose(op: str, device: torch.device, dtype: torch.dtype, shape: tuple[int, ...]) -> Choice:
    """The implementation of `op` for the first argument's device, dtype and shape.

    device, dtype and shape are all part of the question because a GPU kernel takes only some of each. The PyTorch
    path takes every one, so until there is a Triton kernel only the environment changes the answer.
    Raises KernelInputError if the environment asks for something unknown or for what cannot run here.
    """
    keys = _KEYS.get(op)
    if keys is None:
        raise KernelInputError(f"op is {op!r}, but the operations are {', '.join(OPS)}: correct the name")
    if keys[0] in _TABLE or keys[1] in _TABLE:
        variable, request = _request(op)
        return _forced(op, variable, request, device.type)
    return _AUTOMATIC[op]


def _forced(op: str, variable: str, request: str, device_type: str) -> Choice:
    """What runs when the environment asks for `request`."""
    if request not in REQUESTS:
        raise KernelInputError(f"{variable} is {request!r}, but it can only be one of {', '.join(REQUESTS)}: set one")
    if request == "auto":
        return _AUTOMATIC[op]
    if request in ("torch", "reference"):
        return Choice(request, f"{variable}={request}")
    raise KernelInputError(
        f"{variable}={request} cannot be followed on {device_type}: {op} has no Triton kernel in this version; "
        f"set {variable} to auto, torch or reference"
    )


def _request(op: str) -> tuple[str, str]:
    """The variable that decides for `op` and its value; an empty value counts as not set."""
    for variable in reversed(_VARIABLES[op]):
        value = os.environ.get(variable, "").strip().lower()
        if value:
            return variable, value
    return _VARIABLES[op][0], "auto"
