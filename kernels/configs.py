"""How a Triton kernel is cut into blocks: the checked-in table, and what is described to the compiler ahead of time.

Nothing is tuned while a program runs. `python -m kernels.tune` times candidates on a GPU and writes configs.json; a GPU
that is not in the table gets a configuration that fits the shared memory of every supported one, labelled untuned.

    find("attention", "forward bf16 D128 full", (9, 0), {"BLOCK_M": 64, "BLOCK_N": 32, "num_warps": 4, "num_stages": 2})

No triton here: triton_impl.py, tune.py and ahead_of_time.py meet in these words.
"""

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

TABLE = Path(__file__).with_name("configs.json")
OLDEST = (8, 0)  # compute capability: Ampere; older GPUs take the PyTorch path

Values = Mapping[str, int]  # block sizes by the kernel's own names, with num_warps and num_stages


class Found(NamedTuple):
    """A configuration and where it comes from."""

    values: Values
    tuned: bool
    reason: str


def find(op: str, key: str, capability: tuple[int, int], default: Values) -> Found:
    """The configuration of `op` for `key` (kernel, dtype, head dim, window class, size bucket) on this GPU.

    capability: (9, 0) for an H100. default: one that fits any GPU since `OLDEST`, in 99 KB of shared memory a block.
    """
    name = f"sm_{capability[0]}{capability[1]}"
    values = table().get(name, {}).get(op, {}).get(key)
    if values is None:
        return Found(
            default, False, f"untuned: {op} ({key}) was not tuned on {name}, so a configuration that fits runs"
        )
    return Found(values, True, f"tuned on {name}")


@functools.cache
def table() -> dict[str, dict[str, dict[str, dict[str, int]]]]:
    """sm -> op -> key -> values, as `kernels.tune` wrote it."""
    return json.loads(TABLE.read_text(encoding="utf-8"))["configurations"]


@dataclass(frozen=True)
class Compilation:
    """One kernel with everything that its compilation depends on: what ahead_of_time.py compiles without a GPU."""

    op: str
    kernel: str  # a name for people: "forward, causal, D 128"
    function: Any  # the triton.jit function
    signature: Mapping[str, str]  # argument -> "*bf16", "i32", "fp32", "constexpr", ...; arguments in their order
    constexprs: Mapping[str, Any]
    num_warps: int
    num_stages: int
    divisible: Sequence[str] = ()  # arguments that are multiples of 16, pointers included, as a launch would find
    tensor_cores: bool = False  # whether it has to use them on sm_90 (HGMMA)
    may_spill: str = ""  # why it may move registers to memory; empty: it may not
    only: Sequence[int] = ()  # the architectures that launch it so; empty: all


@dataclass(frozen=True)
class Tuning:
    """One row of the table to be found: the tuner times `run` with every candidate."""

    op: str
    key: str
    candidates: Sequence[Values]
    make: Callable[[Any], Callable[[Values], None]]  # a device -> a launch with the values given
