"""One group of parameters at work: how it gathers its gradients, makes its step and hands the weights round.

Both kinds of group have the same six verbs, which optim.py calls for all groups in turn: `start` sends gradients off,
`arrive` waits for them, `square_sum` measures them, `update` changes the weights, `share` sends those off and `finish`
waits for them. Alone, a group has nothing to send, and only measures and updates.
"""

from collections.abc import Set
from typing import Any

import torch
from torch import Tensor

from nanochat.optim_config import OptimError
from nanochat.optim_math import adamw_, muon_, neuron_dim
from nanochat.optim_ranks import Ranks, chunk_of, is_cut


class AdamWGroup:
    """Parameters under AdamW, each with two averages of its size."""

    def __init__(self, options: dict[str, Any], ranks: Ranks) -> None:
        self.options, self.ranks = options, ranks
        self.params: list[torch.nn.Parameter] = options["params"]
        for param in self.params:
            param.data = param.data.contiguous()  # rows that are handed round lie side by side
        self.cut = [is_cut(param.shape, ranks.world) for param in self.params]
        self.means = [torch.zeros_like(part) for part in self._parts()]
        self.squares = [torch.zeros_like(part) for part in self._parts()]
        self.steps = [torch.zeros((), dtype=torch.float32, device=param.device) for param in self.params]
        self.grads: list[Tensor | None] = []
        self._works: list[Any] = []

    @property
    def whole(self) -> list[torch.nn.Parameter]:
        """Parameters that every rank keeps whole, and whose gradients travel in the bucket."""
        return [param for param, cut in zip(self.params, self.cut, strict=True) if not cut]

    def _parts(self) -> list[Tensor]:
        """This rank's rows of each parameter."""
        world, rank = self.ranks.world, self.ranks.rank
        pairs = zip(self.params, self.cut, strict=True)
        return [param.data.chunk(world)[rank] if cut else param.data for param, cut in pairs]

    def start(self) -> None:
        """Alone: take the gradients as they are. Else: start summing those that are cut into rows."""
        self._works = []
        self.grads = [param.grad for param in self.params]
        if self.ranks.world == 1:
            return
        for i, (param, part) in enumerate(zip(self.params, self._parts(), strict=True)):
            if self.cut[i]:
                full = param.grad if param.grad is not None else torch.zeros_like(param)
                self.grads[i] = mine = torch.empty_like(part)
                self._works.append(self.ranks.sum_to_owner(mine, full.contiguous()))

    def arrive(self, sums: dict[torch.nn.Parameter, Tensor]) -> None:
        """Wait until the gradients are there. sums: what the bucket brought."""
        for work in self._works:
            work.wait()
        self.grads = [sums.get(param, grad) for param, grad in zip(self.params, self.grads, strict=True)]

    def square_sum(self) -> Tensor:
        """Sum of squares of this rank's share of the gradient; what all ranks hold counts on rank 0 only."""
        mine = [cut or self.ranks.rank == 0 for cut in self.cut]
        counted = [grad for grad, count in zip(self.grads, mine, strict=True) if grad is not None and count]
        return _square_sum(counted, self.params[0])

    def scale(self, factor: Tensor) -> None:
        """Multiply the gradients that `update` will use; those of the parameters stay as they are."""
        self.grads = [grad * factor if grad is not None else None for grad in self.grads]

    def update(self, present: Set[str]) -> None:
        """Step those whose names are `present`; the others keep weights, averages and count."""
        chosen = [i for i, name in enumerate(self.options["names"]) if name in present]
        if not chosen:
            return
        parts = self._parts()
        steps = [self.steps[i] for i in chosen]
        grads = [grad for i in chosen if (grad := self.grads[i]) is not None]
        torch._foreach_add_(steps, 1)
        adamw_(
            [parts[i] for i in chosen], grads, [self.means[i] for i in chosen], [self.squares[i] for i in chosen],
            steps, lr=self.options["lr"], betas=self.options["betas"], eps=self.options["eps"],
            weight_decay=self.options["weight_decay"],
        )  # fmt: skip

    def share(self) -> None:
        """Start handing round the rows."""
        pairs = zip(self.params, self.cut, strict=True)
        self._works = [self.ranks.hand_round(param.data) for param, cut in pairs if cut]

    def finish(self) -> None:
        """Wait until all rows are there, and let the gradients go."""
        for work in self._works:
            work.wait()
        self.grads = []

    def memory(self) -> dict[str, dict[str, Any]]:
        """What is remembered of each parameter that has been stepped, as live tensors."""
        kept = zip(self.options["names"], self.steps, self.means, self.squares, strict=True)
        return {n: {"step": int(t), "exp_avg": m, "exp_avg_sq": v} for n, t, m, v in kept if int(t)}

    def remember(self, memory: dict[str, dict[str, Any]]) -> None:
        """Take what `memory` once gave, of the whole parameter or of this rank's rows."""
        rank, world = self.ranks.rank, self.ranks.world
        for i, name in enumerate(self.options["names"]):
            entry = memory.get(name)
            self.steps[i].fill_(entry["step"] if entry else 0)
            for key, target in (("exp_avg", self.means[i]), ("exp_avg_sq", self.squares[i])):
                source = entry[key] if entry else torch.zeros_like(target)
                target.copy_(source if source.shape == target.shape else source.chunk(world)[rank])


class MuonGroup:
    """Matrices of one shape under Muon, side by side in one stack of which the parameters are views.

    So a step works on all of them at once, its result is in the model without a copy, and a rank's share of the stack
    is handed round straight into the others' weights.
    """

    def __init__(self, options: dict[str, Any], ranks: Ranks, kind: str, iterate_in: torch.dtype) -> None:
        self.options, self.ranks, self.kind = options, ranks, kind
        self.params: list[torch.nn.Parameter] = options["params"]
        first, count = self.params[0], len(self.params)
        shape = first.shape  # (M, N)
        self.iterate_in = torch.float64 if first.dtype == torch.float64 else iterate_in
        self.chunk = chunk_of(count, ranks.world)
        self.begin = ranks.rank * self.chunk
        self.owned = max(0, min(self.chunk, count - self.begin))
        self.stack = first.new_zeros((ranks.world * self.chunk, *shape))  # rows past `count` are padding
        self.momentum = first.new_zeros((self.chunk, *shape))
        factored = (self.chunk, shape[0], 1) if neuron_dim(shape) == -1 else (self.chunk, 1, shape[1])
        self.second = None if kind == "muon-2025" else first.new_zeros(factored)
        self.started = False
        self._buffer: Tensor | None = None
        self._works: list[Any] = []
        self._adopt()

    @property
    def whole(self) -> list[torch.nn.Parameter]:
        """None: matrices are dealt out, never cut or kept by all."""
        return []

    def _adopt(self) -> None:
        """Make each parameter a view of its place in the stack, if it is not already.

        Raises OptimError where the model has changed its device or format since the optimizer was built.
        """
        for param, place in zip(self.params, self.stack.unbind(), strict=False):
            if param.data_ptr() != place.data_ptr() or param.shape != place.shape:
                if param.device != place.device or param.dtype != place.dtype or param.shape != place.shape:
                    raise OptimError(
                        f"a matrix is now {param.dtype} on {param.device} and was {place.dtype} on {place.device} when "
                        "the optimizer was built; move or convert the model first, then build the optimizer"
                    )
                place.copy_(param.data)
                param.data = place

    def start(self) -> None:
        """Stack the gradients, a missing one as zeros; among several ranks, start summing them."""
        self._adopt()
        if self._buffer is None:
            self._buffer = torch.zeros_like(self.stack)
        grads = [param.grad if param.grad is not None else torch.zeros_like(param) for param in self.params]
        torch.stack(grads, out=self._buffer[: len(grads)])
        self.grads = self._buffer
        if self.ranks.world > 1:
            self.grads = torch.empty_like(self.momentum)
            self._works = [self.ranks.sum_to_owner(self.grads, self._buffer)]

    def arrive(self, sums: dict[torch.nn.Parameter, Tensor]) -> None:
        """Wait until the gradients are there."""
        for work in self._works:
            work.wait()

    def square_sum(self) -> Tensor:
        """Sum of squares of this rank's share of the gradient."""
        return _square_sum([self.grads], self.params[0])

    def scale(self, factor: Tensor) -> None:
        """Multiply the gradients that `update` will use; those of the parameters stay as they are."""
        self.grads.mul_(factor)

    def update(self, present: Set[str]) -> None:
        """Step this rank's matrices whose names are `present`; the others keep weights and averages."""
        names = self.options["names"][self.begin : self.begin + self.owned]
        chosen = [i for i, name in enumerate(names) if name in present]
        self.started = self.started or bool(set(self.options["names"]) & present)
        if not chosen:
            return
        live = [self.stack[self.begin : self.begin + self.owned], self.grads, self.momentum]
        live += [] if self.second is None else [self.second]
        every = len(chosen) == self.owned
        some = [tensor[: self.owned] if every else tensor[chosen] for tensor in live]  # views, or copies of the chosen
        self._muon(some[0], some[1], some[2], None if self.second is None else some[3])
        if not every:
            for tensor, changed in zip(live, some, strict=True):
                tensor[chosen] = changed

    def _muon(self, weights: Tensor, grads: Tensor, momentum: Tensor, second: Tensor | None) -> None:
        muon_(
            weights, grads, momentum, second, kind=self.kind, lr=self.options["lr"], momentum=self.options["momentum"],
            ns_steps=self.options["ns_steps"], beta2=self.options.get("beta2", 0.0),
            weight_decay=self.options["weight_decay"], iterate_in=self.iterate_in,
        )  # fmt: skip

    def share(self) -> None:
        """Start handing round the matrices, into the stack and so into the model."""
        self._works = [self.ranks.hand_round(self.stack)] if self.ranks.world > 1 else []

    def finish(self) -> None:
        """Wait until all matrices are there."""
        for work in self._works:
            work.wait()
        self._works = []
        if self.stack.device.type != "cpu":  # its allocator is quick, and the memory is wanted by the next forward pass
            self._buffer = None

    def memory(self) -> dict[str, Tensor]:
        """The averages of this rank's chunk, padding included, as live tensors; nothing before the first step."""
        if not self.started:
            return {}
        second = {} if self.second is None else {"second_momentum_buffer": self.second}
        return {"momentum_buffer": self.momentum, **second}

    def remember(self, memory: dict[str, dict[str, Any]]) -> None:
        """Take averages by parameter name; only this rank's are looked for."""
        self.started = any(name in memory for name in self.options["names"])
        targets = [("momentum_buffer", self.momentum), ("second_momentum_buffer", self.second)]
        for key, target in ((key, target) for key, target in targets if target is not None):
            target.zero_()
            for i, name in enumerate(self.options["names"][self.begin : self.begin + self.owned]):
                if name in memory:
                    target[i].copy_(memory[name][key])


def _square_sum(tensors: list[Tensor], like: Tensor) -> Tensor:
    """Sum of squares over all tensors, a number in float32 or wider."""
    dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
    if not tensors:
        return torch.zeros((), dtype=dtype, device=like.device)
    return torch.stack(torch._foreach_norm(tensors, 2, dtype)).square().sum()
