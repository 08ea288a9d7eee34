"""What an optimizer remembers, as nanochat's files have it: reading every era's layout, and any number of ranks.

Three layouts exist. Since 2026-01-29 an optimizer file is one dict: groups in a fixed order, AdamW's averages under
each parameter's number, Muon's stacked under the number of its group's first parameter. Before, it was a list of two
such dicts, AdamW's and Muon's; and until 2026-01-15 Muon grouped by number of elements and kept an average per
parameter. With several ranks there is a file for each: rows of large AdamW parameters, a chunk of each Muon stack.

All of them become one thing here, the memory of each parameter by its name, and that can be cut for any number of
ranks. `merge_states` and `shard_state` change a state's number of ranks; `recognise_kind` says what wrote it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nanochat.optim_config import OptimError
from nanochat.optim_math import neuron_dim
from nanochat.optim_ranks import chunk_of, is_cut

Memory = dict[str, dict[str, Any]]  # parameter name -> {step, exp_avg, exp_avg_sq} or {momentum_buffer, second_...}

# What torch's own AdamW wrote into each of its groups in 2025, beside what is ours to say.
ADAMW_2025 = {
    "amsgrad": False, "maximize": False, "foreach": None, "capturable": False, "differentiable": False, "fused": True,
    "decoupled_weight_decay": True,
}  # fmt: skip
OPTIONS = {  # the keys of a group in a file, in nanochat's order
    "adamw": ("kind", "lr", "betas", "eps", "weight_decay", "initial_lr"),
    "muon": ("kind", "lr", "momentum", "ns_steps", "beta2", "weight_decay", "initial_lr"),
    "muon-2025": ("lr", "momentum", "nesterov", "ns_steps", "initial_lr"),
}
AVERAGES = {"adamw": ("exp_avg", "exp_avg_sq"), "muon": ("momentum_buffer", "second_momentum_buffer")}


@dataclass(frozen=True)
class PlannedGroup:
    """A group of parameters, without their values."""

    method: str  # "adamw" or "muon"
    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Plan:
    """Which parameters an optimizer has, in which groups: what it takes to read a state and to write one."""

    kind: str  # OptimConfig.kind
    groups: tuple[PlannedGroup, ...]
    order: tuple[str, ...]  # all parameters as the model declares them

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every parameter."""
        return {name: shape for g in self.groups for name, shape in zip(g.names, g.shapes, strict=True)}

    def by_elements(self) -> list[PlannedGroup]:
        """The groups of 2025, when Muon grouped by number of elements."""
        shapes = self.shapes
        matrices = {name for group in self.groups if group.method == "muon" for name in group.names}
        ordered = [name for name in self.order if name in matrices]
        groups = [group for group in self.groups if group.method != "muon"]
        # nanochat iterated over a set of numbers; the same expression gives the same order.
        for size in {math.prod(shapes[name]) for name in ordered}:
            names = tuple(name for name in ordered if math.prod(shapes[name]) == size)
            groups.append(PlannedGroup("muon", names, tuple(shapes[name] for name in names)))
        return groups


def recognise_kind(state: Any) -> tuple[str, str]:
    """(OptimConfig.kind that continues this state, why), from an optimizer file of any era."""
    parts = state if isinstance(state, list) else [state]
    groups = _groups(parts)
    entries = [entry for part in parts for entry in part["state"].values() if isinstance(entry, Mapping)]
    if any("momentum_buffer" in entry and "second_momentum_buffer" not in entry for entry in entries):
        return "muon-2025", "its Muon keeps one average a matrix: the design of 2025"
    if not any("momentum" in group for group in groups):
        return "adamw", "every group is AdamW's"
    if isinstance(state, list):
        return "muon-2026-02", "AdamW and Muon apart, with a second moment: January 2026"
    if tuple(groups[0].get("betas", ())) == (0.8, 0.96):
        return "muon", "the head's betas are 0.8 and 0.96: nanochat since March 2026"
    return "muon-2026-02", "one dict, and the head's betas are not yet 0.8 and 0.96: February 2026"


def merge_states(states: Sequence[Any], plan: Plan) -> Any:
    """One state for a single rank from those of all ranks, in the order of their ranks; ours or nanochat's own.

    plan: of the optimizer that will load it (`optimizer.plan`). Raises OptimError where they do not fit together.
    """
    if not states:
        raise OptimError("no optimizer state to merge; give those of all ranks, rank 0 first")
    read = [read_state(state, plan, rank, len(states)) for rank, state in enumerate(states)]
    memory: Memory = {}
    for name, shape in plan.shapes.items():
        shares = [part[name] for _, part in read if name in part]
        if not shares:
            continue
        memory[name] = dict(shares[0])
        if "exp_avg" in shares[0]:
            for key in AVERAGES["adamw"]:
                whole = tuple(shares[0][key].shape) == shape
                memory[name][key] = shares[0][key] if whole else torch.cat([share[key] for share in shares])
    check_memory(memory, plan, 0, 1)
    return write_state(plan, read[0][0], memory, 0, 1)


def shard_state(state: Any, plan: Plan, rank: int, world: int) -> Any:
    """The state that this rank of `world` would save, from one for a single rank: nanochat's own rule."""
    options, memory = read_state(state, plan, 0, 1)
    check_memory(memory, plan, 0, 1)
    share = {name: dict(entry) for name, entry in memory.items()}
    for group in plan.groups:
        for name, shape in zip(group.names, group.shapes, strict=True):
            if group.method == "adamw" and name in share and is_cut(shape, world):
                for key in AVERAGES["adamw"]:
                    share[name][key] = share[name][key].chunk(world)[rank].clone()
    return write_state(plan, options, share, rank, world)


def read_state(state: Any, plan: Plan, rank: int, world: int) -> tuple[list[dict[str, Any]], Memory]:
    """(options of each of the plan's groups, memory by parameter name) from a file of any layout.

    rank, world: whose file it is, to know which matrices a chunk of a stack holds. A file with whole stacks is read as
    such. Shapes are not checked here, but see `check_memory`. Raises OptimError.
    """
    parts = state if isinstance(state, list) else [state]
    saved = _groups(parts)
    sizes = [len(group["params"]) for group in saved]
    failure = OptimError(
        f"the optimizer state has groups of {_shown(sizes)} parameters and this model's {plan.kind!r} optimizer of "
        f"{_shown([len(group.names) for group in plan.groups])}; it belongs to another model, or to another kind"
    )
    for groups in (list(plan.groups), plan.by_elements()):
        if [len(group.names) for group in groups] == sizes:
            try:
                memory = _memory(parts, groups, rank, world)
            except OptimError as error:
                failure = error
                continue
            of = {name: options for group, options in zip(groups, saved, strict=True) for name in group.names}
            return [_checked_options(of[group.names[0]], group.method, plan.kind) for group in plan.groups], memory
    raise failure


def check_memory(memory: Memory, plan: Plan, rank: int, world: int) -> None:
    """Raise OptimError unless every average has the shape of its parameter, or of this rank's rows of it."""
    for group in plan.groups:
        one = group.method == "muon" and plan.kind == "muon-2025"
        if one and any("second_momentum_buffer" in memory.get(name, {}) for name in group.names):
            raise OptimError("the optimizer state has a second moment, which 2025 had not; build kind 'muon-2026-02'")
        keys = AVERAGES[group.method][: 1 if one else 2]
        for name, shape in zip(group.names, group.shapes, strict=True):
            for key in keys if name in memory else ():
                fits = {_shape(key, shape)}
                if group.method == "adamw" and is_cut(shape, world):
                    fits.add((shape[0] // world, *shape[1:]))
                value = memory[name].get(key)
                if not isinstance(value, Tensor) or tuple(value.shape) not in fits or not value.is_floating_point():
                    got = tuple(value.shape) if isinstance(value, Tensor) else "nothing"
                    raise OptimError(
                        f"the optimizer state has {got} as {key} of {name} where {max(fits)} belongs; it is of another "
                        "model, another kind of optimizer, or one of several ranks' (merge_states joins those)"
                    )


def write_state(
    plan: Plan, options: Sequence[Mapping[str, Any]], memory: Memory, rank: int, world: int,
    stacks: Mapping[str, dict[str, Tensor]] | None = None,
) -> Any:  # fmt: skip
    """The state of one rank in the layout that nanochat gave the plan's kind of optimizer.

    options: of each of the plan's groups. memory: of whole AdamW parameters or of this rank's rows, and of whole
    matrices, of which this rank's are taken. stacks: this rank's chunks by the first name of their group, if they
    exist already.
    """
    of = {name: group for planned, group in zip(plan.groups, options, strict=True) for name in planned.names}
    old = plan.kind == "muon-2025"
    parts: list[dict[str, Any]] = [{"state": {}, "param_groups": []} for _ in range(2 if old else 1)]
    counts = [0] * len(parts)  # parameters so far, which is the number of the next
    for group in plan.by_elements() if old else plan.groups:
        part = 1 if old and group.method == "muon" else 0
        state, first = parts[part]["state"], counts[part]
        if group.method == "adamw" or old:
            for number, name in enumerate(group.names, first):
                if name in memory and (group.method == "adamw" or name in _owned(plan, name, rank, world)):
                    state[number] = _entry(memory[name], old)
        elif stacks is not None and group.names[0] in stacks:
            state[first] = stacks[group.names[0]]
        elif any(name in memory for name in group.names):
            state[first] = _stack(memory, group, rank, world)
        keys = OPTIONS["muon-2025" if old and group.method == "muon" else group.method]
        chosen = {key: of[group.names[0]][key] for key in keys if not (old and key == "kind")}
        if old and group.method == "adamw":
            initial = chosen.pop("initial_lr")
            chosen |= {**ADAMW_2025, "initial_lr": initial}
        counts[part] += len(group.names)
        parts[part]["param_groups"].append({**chosen, "params": list(range(first, counts[part]))})
    return parts if old else parts[0]


def _entry(memory: Mapping[str, Any], old: bool) -> dict[str, Any]:
    """One parameter's memory; in 2025 the count was a tensor, and a matrix had an average of its own storage."""
    entry = dict(memory)
    if "step" in entry:
        return {**entry, "step": torch.tensor(float(entry["step"])) if old else entry["step"]}
    return {"momentum_buffer": entry["momentum_buffer"].clone()}


def _stack(memory: Memory, group: PlannedGroup, rank: int, world: int) -> dict[str, Tensor]:
    """A rank's chunk of a Muon group, with zeros for the matrices that fill up the last chunks."""
    chunk = chunk_of(len(group.names), world)
    mine = group.names[rank * chunk : (rank + 1) * chunk]
    like = next(memory[name] for name in group.names if name in memory)
    stacked = {}
    for key in AVERAGES["muon"]:
        rows = [memory[name][key] if name in memory else torch.zeros_like(like[key]) for name in mine]
        rows += [torch.zeros_like(like[key])] * (chunk - len(rows))
        stacked[key] = torch.stack(rows)
    return stacked


def _owned(plan: Plan, name: str, rank: int, world: int) -> tuple[str, ...]:
    """The matrices of this one's shape that a rank owns."""
    group = next(group for group in plan.groups if name in group.names)
    chunk = chunk_of(len(group.names), world)
    return group.names[rank * chunk : (rank + 1) * chunk]


def _memory(parts: Sequence[Mapping[str, Any]], groups: Sequence[PlannedGroup], rank: int, world: int) -> Memory:
    """The memory by name of a state whose groups are these."""
    names = iter([name for group in groups for name in group.names])
    entries: dict[str, Any] = {}
    for part in parts:
        numbers = [number for group in part["param_groups"] for number in group["params"]]
        if numbers != list(range(len(numbers))) or any(number not in numbers for number in part["state"]):
            raise OptimError("the optimizer state does not number its parameters from 0 in order; it is damaged")
        entries |= {next(names): part["state"].get(number) for number in numbers}
    memory: Memory = {}
    for group in groups:
        for i, name in enumerate(group.names):
            entry = entries[name]
            if entry is None:
                continue
            if not isinstance(entry, Mapping):
                raise OptimError(f"the optimizer state has {type(entry).__name__} for {name}; it is damaged")
            if group.method == "adamw":
                memory[name] = {**entry, "step": _count(entry, name)}
                continue
            momentum = entry.get("momentum_buffer")
            if not isinstance(momentum, Tensor) or momentum.dim() not in (2, 3):
                raise OptimError(f"the optimizer state has no momentum_buffer for {name}; it is of another kind")
            if momentum.dim() == 2:
                memory[name] = dict(entry)
            elif i == 0:
                memory |= _unstacked(entry, group, rank, world)
            else:
                raise OptimError(
                    f"the optimizer state keeps a stack at {name}, not at its group's first; it is damaged"
                )
    return memory


def _unstacked(entry: Mapping[str, Any], group: PlannedGroup, rank: int, world: int) -> Memory:
    """The memory of each matrix of a stack: of a whole one, or of this rank's chunk without its padding."""
    count, chunk = len(group.names), chunk_of(len(group.names), world)
    rows = len(entry["momentum_buffer"])
    alike = all(isinstance(value, Tensor) and value.dim() == 3 and len(value) == rows for value in entry.values())
    if not alike or rows not in (count, chunk):
        raise OptimError(
            f"the optimizer state stacks {rows} matrices where {group.names[0]} is the first of {count}; it is of "
            f"another model, or not of {world} ranks (merge_states joins the files of all ranks)"
        )
    begin = 0 if rows == count else rank * chunk
    mine = group.names[begin : begin + rows]
    return {name: {key: value[i] for key, value in entry.items()} for i, name in enumerate(mine)}


def _count(entry: Mapping[str, Any], name: str) -> int:
    """How many steps AdamW's averages have seen; a tensor in some eras."""
    step = entry.get("step")
    number = step.item() if isinstance(step, Tensor) and step.numel() == 1 else step
    if not isinstance(number, int | float) or not 0 <= number < 2**53 or number != int(number):
        raise OptimError(f"the optimizer state counts {step!r:.40} steps of {name}; it is of another kind or damaged")
    return int(number)


def _groups(parts: Sequence[Any]) -> list[dict[str, Any]]:
    """All groups of a file, after a look at its outline."""
    groups = []
    for part in parts:
        outline = isinstance(part, Mapping) and isinstance(part.get("state"), Mapping)
        listed = part.get("param_groups") if outline else None
        if not isinstance(listed, list) or not all(
            isinstance(g, Mapping) and isinstance(g.get("params"), list) for g in listed
        ):
            raise OptimError("this is no optimizer state: it lacks state and param_groups; give what state_dict() gave")
        groups += listed
    return groups


def _checked_options(saved: Mapping[str, Any], method: str, kind: str) -> dict[str, Any]:
    """The options of a group that a file sets, each a number (betas: two)."""
    layout = "muon-2025" if method == "muon" and kind == "muon-2025" else method
    names = [name for name in OPTIONS[layout] if name not in ("kind", "nesterov")]
    options: dict[str, Any] = {"kind": method, **({"nesterov": True} if layout == "muon-2025" else {})}
    for name in names:
        value = saved.get(name, saved.get("lr") if name == "initial_lr" else None)
        numbers = list(value) if isinstance(value, list | tuple) and name == "betas" else [value]
        if len(numbers) != (2 if name == "betas" else 1) or not all(
            type(number) in (int, float) and math.isfinite(number) for number in numbers
        ):
            raise OptimError(
                f"the optimizer state has {value!r:.40} as {name} of a group under {method}; it is damaged, or of "
                f"another kind than {kind!r}"
            )
        options[name] = tuple(numbers) if name == "betas" else value
    return options


def _shape(key: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of an average of a parameter."""
    if key != "second_momentum_buffer":
        return shape
    return (shape[0], 1) if neuron_dim(torch.Size(shape)) == -1 else (1, shape[1])


def _shown(sizes: Sequence[int]) -> str:
    return ", ".join(map(str, sizes[:12])) + (", ..." if len(sizes) > 12 else "")
