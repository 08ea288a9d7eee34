"""The optimizer: Muon for the layers' matrices and AdamW for the rest, as nanochat has them, or AdamW alone.

    optimizer = build_optimizer(model, OptimConfig())
    loss.backward();  norm = optimizer.step();  optimizer.zero_grad()

The arithmetic is in optim_math.py, rates and groups in optim_config.py, what a group does among several processes in
optim_groups.py, and nanochat's file layouts in optim_state.py. A schedule sets `group["lr"]` (and for Muon
`group["momentum"]` and `group["weight_decay"]`) of `param_groups` before each step; `initial_lr` is what it multiplies.

Several processes: with torch.distributed initialised every rank builds the same optimizer, computes the gradient of its
share of the batch, and calls `step` as often as the others. The step does all communication. Gradients are SUMMED over
the ranks, so each divides its loss by the number of targets of the whole step (see optim_ranks.py).

    python -m nanochat.scripts.base_train --depth=4
"""

import math
from typing import Any

import torch
import torch.distributed as dist
import torch.nn as nn
from torch import Tensor

from nanochat.optim_config import KINDS, OptimConfig, OptimError, parameter_groups
from nanochat.optim_groups import AdamWGroup, MuonGroup
from nanochat.optim_ranks import Bucket, Ranks, current_ranks
from nanochat.optim_state import (
    Memory,
    Plan,
    PlannedGroup,
    check_memory,
    merge_states,
    read_state,
    recognise_kind,
    shard_state,
    write_state,
)

__all__ = [
    "KINDS",
    "OptimConfig",
    "OptimError",
    "Optimizer",
    "build_optimizer",
    "merge_states",
    "recognise_kind",
    "shard_state",
]


class Optimizer:
    """All groups of a model, stepped together. Make one with `build_optimizer`."""

    def __init__(self, groups: list[dict[str, Any]], config: OptimConfig, ranks: Ranks, order: tuple[str, ...]) -> None:
        self.config, self.ranks = config, ranks
        self.param_groups = groups
        iterate_in = getattr(torch, config.orthogonalize_in)
        self._workers = [
            AdamWGroup(group, ranks) if group["kind"] == "adamw" else MuonGroup(group, ranks, config.kind, iterate_in)
            for group in groups
        ]
        self._bucket = Bucket([p for worker in self._workers for p in worker.whole], ranks)
        self.plan = Plan(
            config.kind,
            tuple(
                PlannedGroup(group["kind"], tuple(group["names"]), tuple(tuple(p.shape) for p in group["params"]))
                for group in groups
            ),
            order,
        )

    def zero_grad(self) -> None:
        """Let all gradients go. The next backward pass then leaves its own, without adding to zeros."""
        for group in self.param_groups:
            for param in group["params"]:
                param.grad = None

    @torch.no_grad()
    def step(self, max_norm: float | None = None) -> Tensor:
        """Change the weights by one step; returns the L2 norm of the whole gradient before clipping, one number.

        A parameter without a gradient (on every rank) keeps its weights and its averages. A gradient of zeros is a
        gradient: AdamW's averages fade and Muon moves on along its momentum.

        max_norm: scale the gradient down to this norm if it is larger; math.inf never scales. With it, the norm is
        known before anything changes, and where it is NaN or infinite nothing does: look at what is returned. Without
        it, each group steps as soon as its gradients have come in from the other ranks, and a NaN goes where it comes
        from: into the weights and averages of its parameter (Muon: of its matrix). The parameters' own `.grad` is
        read and left alone, among several ranks it stays this rank's own.

        Raises OptimError where the model was moved or converted after the optimizer was built.
        """
        if max_norm is not None and not max_norm > 0:
            raise OptimError(f"max_norm is {max_norm}; give a positive number (math.inf measures and never scales)")
        present = self._start()
        sums = self._bucket.wait() if self.ranks.world > 1 else {}
        if max_norm is None:
            squares = []
            for worker in self._workers:
                worker.arrive(sums)
                squares.append(worker.square_sum())
                worker.update(present)
                worker.share()
            norm = self._norm(squares)
        else:
            for worker in self._workers:
                worker.arrive(sums)
            norm = self._norm([worker.square_sum() for worker in self._workers])
            value = float(norm)
            if math.isfinite(value):
                for worker in self._workers:
                    if value > max_norm:
                        worker.scale(max_norm / norm)
                    worker.update(present)
                    worker.share()
        for worker in self._workers:
            worker.finish()
        return norm

    def _start(self) -> set[str]:
        """Send all gradients off; returns the names of the parameters that have one on any rank."""
        named = [(n, p) for group in self.param_groups for n, p in zip(group["names"], group["params"], strict=True)]
        flags = torch.tensor([param.grad is not None for _, param in named], dtype=torch.int32)
        work = self.ranks.sum_(flags, host=True) if self.ranks.world > 1 else None
        if self.ranks.world > 1:
            self._bucket.start()
        # All ranks must send in one order, and a backend works through its queue: this is the order of arrival, too.
        for worker in self._workers:
            worker.start()
        if work is not None:
            work.wait()
        return {name for (name, _), flag in zip(named, flags.tolist(), strict=True) if flag}

    def _norm(self, squares: list[Tensor]) -> Tensor:
        """The norm from the square sums of this rank's shares."""
        total = torch.stack([square.to(squares[0].device) for square in squares]).sum()
        if self.ranks.world > 1:
            self.ranks.sum_(total).wait()
        return total.sqrt()

    def state_dict(self) -> Any:
        """What this rank remembers, in nanochat's layout for the kind of optimizer and the number of ranks.

        The tensors are the live ones where the layout allows it: save them before the next step, or copy.
        """
        memory: Memory = {}
        live: dict[str, dict[str, Tensor]] = {}
        for worker in self._workers:
            if isinstance(worker, AdamWGroup):
                memory |= worker.memory()
            elif stacked := worker.memory():
                names = worker.options["names"]
                live[names[0]] = stacked
                mine = names[worker.begin : worker.begin + worker.owned]
                memory |= {name: {key: value[i] for key, value in stacked.items()} for i, name in enumerate(mine)}
        return write_state(self.plan, self.param_groups, memory, self.ranks.rank, self.ranks.world, live)

    @torch.no_grad()
    def load_state_dict(self, state: Any) -> None:
        """Take a state: nanochat's of any era that this kind of optimizer continues, or one of ours.

        Among several ranks, either the file of this very rank and number of ranks, or one for a single rank (from
        `merge_states`), of which each takes its share. Rates and constants come from the state too.

        Raises OptimError where it does not fit; then nothing has changed.
        """
        rank, world = self.ranks.rank, self.ranks.world
        options, memory = read_state(state, self.plan, rank, world)
        check_memory(memory, self.plan, rank, world)
        for group, saved in zip(self.param_groups, options, strict=True):
            group.update(saved)
        for worker in self._workers:
            worker.remember(memory)


def build_optimizer(model: nn.Module, config: OptimConfig | None = None, *, process_group: Any = None) -> Optimizer:
    """An optimizer for the trainable parameters of a GPT, on the device and in the format that the model has now.

    Frozen parameters are left out. The matrices under Muon become views of one stack a shape; their names, values and
    the state dict stay, and `model.load_state_dict` keeps working. Among several ranks all must call this, and rank 0's
    weights become everyone's.

    Raises OptimError where no parameter can be trained, or one is none of nanochat's.
    """
    config = config or OptimConfig()
    ranks = current_ranks(process_group)
    groups = parameter_groups(model, config)
    if ranks.world > 1:
        source = 0 if process_group is None else dist.get_global_rank(process_group, 0)
        for tensor in model.state_dict().values():
            dist.broadcast(tensor, source, group=process_group)
    return Optimizer(groups, config, ranks, tuple(name for name, _ in model.named_parameters()))
