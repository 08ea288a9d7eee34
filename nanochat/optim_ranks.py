"""Who works on what when several processes train one model, and the few collective calls that takes.

Every rank holds all weights, computes gradients of its share of the batch, and keeps the optimizer's memory of its
share of the parameters only (ZeRO-2, Rajbhandari et al. 2020). A step sums the gradients, each rank receiving the sums
of its own share, updates that share, and hands the new weights round. The shares are nanochat's: a large embedding is
cut into rows, a stack of K matrices into ceil(K / W) a rank.

The ranks' gradients are SUMMED, not averaged: each rank divides its loss by the number of targets of the whole step,
over all ranks, so the sum is the gradient of the mean, also where ranks count different numbers of targets.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

# Their names of torch 2.13 on, else those before it.
_reduce_scatter: Any = getattr(dist, "reduce_scatter_single", None) or getattr(dist, "reduce_scatter_tensor", None)
_all_gather: Any = getattr(dist, "all_gather_single", None) or getattr(dist, "all_gather_into_tensor", None)

SMALL = 1024  # elements; below this every rank keeps all of a parameter, and all those travel in one message


@dataclass(frozen=True)
class Ranks:
    """This process among its peers. A single process is rank 0 of 1 and never communicates."""

    rank: int = 0
    world: int = 1
    group: Any = None  # for tensors, on the device of the model; None: the default group
    host_group: Any = None  # for numbers that the host needs to know, on the CPU

    def sum_(self, tensor: Tensor, *, host: bool = False) -> Any:
        """Start summing a tensor over all ranks, in place; wait() on what it returns."""
        return dist.all_reduce(tensor, group=self.host_group if host else self.group, async_op=True)

    def sum_to_owner(self, mine: Tensor, everything: Tensor) -> Any:
        """Start summing `everything` over all ranks, this rank's W-th part of it into `mine`."""
        return _reduce_scatter(mine, everything, group=self.group, async_op=True)

    def hand_round(self, everything: Tensor) -> Any:
        """Start filling `everything` from all ranks; this rank's part stands in its place already."""
        mine = everything.chunk(self.world)[self.rank]
        return _all_gather(everything, mine, group=self.group, async_op=True)


def current_ranks(process_group: Any = None) -> Ranks:
    """This process's place: from torch.distributed where that is initialised, else alone.

    Where the group's backend has no CPU side (nccl alone), a gloo group is made beside it, so all ranks must call this.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return Ranks()
    world = dist.get_world_size(process_group)
    if world == 1:
        return Ranks()
    host_group = process_group
    if "gloo" not in str(dist.get_backend_config(process_group)):
        host_group = dist.new_group(dist.get_process_group_ranks(process_group or dist.group.WORLD), backend="gloo")
    return Ranks(dist.get_rank(process_group), world, process_group, host_group)


def is_cut(shape: Sequence[int], world: int) -> bool:
    """Whether ranks share out the rows of a parameter under AdamW; otherwise each keeps and updates all of it.

    nanochat refuses rows that do not divide by the number of ranks; here such a parameter is kept whole by all.
    """
    elements = 1
    for size in shape:
        elements *= size
    return world > 1 and elements >= SMALL and shape[0] % world == 0


def chunk_of(count: int, world: int) -> int:
    """How many of `count` stacked matrices a rank owns; the last ranks may own fewer, down to none."""
    return -(-count // world)


class Bucket:
    """The gradients of all parameters that every rank keeps whole, summed in one message a format."""

    def __init__(self, params: Sequence[torch.nn.Parameter], ranks: Ranks) -> None:
        self.params, self.ranks = list(params), ranks
        self._pending: list[tuple[Any, Tensor, list[torch.nn.Parameter]]] = []

    def start(self) -> None:
        """Copy the gradients, a missing one as zeros, and start summing."""
        self._pending = []
        for dtype in dict.fromkeys(p.dtype for p in self.params):
            members = [p for p in self.params if p.dtype == dtype]
            flat = torch.cat([(p.grad if p.grad is not None else torch.zeros_like(p)).flatten() for p in members])
            self._pending.append((self.ranks.sum_(flat), flat, members))

    def wait(self) -> dict[torch.nn.Parameter, Tensor]:
        """The sums by parameter."""
        sums: dict[torch.nn.Parameter, Tensor] = {}
        for work, flat, members in self._pending:
            work.wait()
            parts = flat.split([p.numel() for p in members])
            sums |= {p: part.view_as(p) for p, part in zip(members, parts, strict=True)}
        return sums
