"""What the optimizer tests share: small models, the newest step written out plainly, and runs on several ranks.

The plain step is the oracle: formulas of the papers one after the other in float64, a matrix at a time, with none of
the stacking, sharing and short cuts of the real one.
"""

import multiprocessing
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from nanochat.gpt import GPT
from nanochat.gpt_config import GPTConfig
from nanochat.optim import OptimConfig, Optimizer, build_optimizer, merge_states
from nanochat.optim_math import POLAR_EXPRESS

HANG = 120  # seconds after which ranks that wait for each other have failed


def tiny(**changes: Any) -> GPTConfig:
    """Three layers of two heads: groups of 1, 3 and 12 matrices, embeddings of 3,328 elements."""
    sizes: dict[str, Any] = {"sequence_len": 16, "vocab_size": 100, "n_layer": 3, "n_head": 2, "n_kv_head": 2}
    return GPTConfig(**{**sizes, "n_embd": 32, "vocab_multiple": 8, **changes})


def model_of(config: GPTConfig, dtype: torch.dtype = torch.float32, seed: int = 0, spread: float = 0.0) -> GPT:
    """A model as training starts it; `spread` adds noise, so that no matrix is zero."""
    torch.manual_seed(seed)
    model = GPT(config)
    model.init_weights()
    for weight in model.parameters():
        weight.data += spread * torch.randn_like(weight)
    return model.to(dtype)


def give_gradients(model: torch.nn.Module, seed: int, scale: float = 1.0) -> None:
    generator = torch.Generator().manual_seed(seed)
    for weight in model.parameters():
        weight.grad = (torch.randn(weight.shape, generator=generator) * scale).to(weight.dtype)


def weights_of(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


def largest_difference(left: dict[str, Tensor], right: dict[str, Tensor]) -> float:
    assert left.keys() == right.keys()
    return max(float((left[name].double() - right[name].double()).abs().max()) for name in left)


class PlainNewest:
    """nanochat's newest step in float64, one parameter at a time."""

    def __init__(self, groups: list[dict[str, Any]]) -> None:
        self.groups = groups
        self.weights = {n: p.detach().double().clone() for g in groups for n, p in _pairs(g)}
        self.memory: dict[str, list[Any]] = {}

    def step(self, grads: dict[str, Tensor]) -> dict[str, Tensor]:
        for group in self.groups:
            for name in group["names"]:
                if name in grads:
                    step = self.adamw if group["kind"] == "adamw" else self.muon
                    step(name, self.weights[name], grads[name].double(), group)
        return self.weights

    def adamw(self, name: str, w: Tensor, g: Tensor, group: dict[str, Any]) -> None:
        t, m, v = self.memory.get(name, [0, torch.zeros_like(w), torch.zeros_like(w)])
        b1, b2 = group["betas"]
        t, m, v = t + 1, b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
        self.memory[name] = [t, m, v]
        w *= 1 - group["lr"] * group["weight_decay"]
        w -= group["lr"] * (m / (1 - b1**t)) / ((v / (1 - b2**t)).sqrt() + group["eps"])

    def muon(self, name: str, w: Tensor, g: Tensor, group: dict[str, Any]) -> None:
        rows, columns = w.shape
        tall = rows >= columns
        m, v = self.memory.get(name, [torch.zeros_like(w), w.new_zeros((rows, 1) if tall else (1, columns))])
        m = group["momentum"] * m + (1 - group["momentum"]) * g
        x = (1 - group["momentum"]) * g + group["momentum"] * m
        lengths = x.norm(dim=1, keepdim=True)
        x = x * (x.norm() / rows**0.5) / lengths.clamp_min(1e-6)
        x = x / (1.01 * x.norm() + 1e-6)
        for a, b, c in POLAR_EXPRESS[: group["ns_steps"]]:
            gram = x @ x.T
            x = a * x + b * (gram @ x) + c * (gram @ gram @ x)
        x = x * min(rows, columns) ** 0.5 / x.norm().clamp_min(1e-6)
        mean = x.square().mean(dim=1 if tall else 0, keepdim=True)
        v = group["beta2"] * v + (1 - group["beta2"]) * mean
        self.memory[name] = [m, v]
        scaled = x / v.clamp_min(1e-10).sqrt()
        x = scaled * x.norm() / scaled.norm().clamp_min(1e-10)
        lr = group["lr"] * max(1, rows / columns) ** 0.5
        w -= lr * (x + group["weight_decay"] * w * (x * w >= 0))


def _pairs(group: dict[str, Any]) -> Iterator[tuple[str, Tensor]]:
    return zip(group["names"], group["params"], strict=True)


def batches_of(config: GPTConfig, count: int, rows: int = 4) -> list[tuple[Tensor, Tensor]]:
    """Random ids and targets; some targets do not count, and not equally many in each row."""
    generator = torch.Generator().manual_seed(7)
    batches = []
    for _ in range(count):
        ids = torch.randint(config.vocab_size, (rows, config.sequence_len + 1), generator=generator)
        targets = ids[:, 1:].clone()
        for row in range(rows):
            targets[row, : row * 3] = -1
        batches.append((ids[:, :-1].clone(), targets))
    return batches


def train(job: dict[str, Any], rank: int = 0, world: int = 1) -> dict[str, Any]:
    """Steps over the batches of a job, this rank's rows of each: losses, weights, the optimizer's state, norms."""
    model = GPT(job["config"])
    model.load_state_dict(job["weights"])
    model = model.to(job.get("dtype", torch.float32))
    optimizer = build_optimizer(model, job.get("optim", OptimConfig()))
    states = job.get("states")
    if states:
        mine = states[rank] if len(states) == world else merge_states(states, optimizer.plan)
        optimizer.load_state_dict(mine)
    losses, norms = [], []
    for inputs, targets in job["batches"]:
        rows = slice(rank * len(inputs) // world, (rank + 1) * len(inputs) // world)
        # Each rank divides by the count of the whole step: the sum over ranks is the mean over all targets.
        loss = model(inputs[rows], targets[rows], reduction="sum") / (targets >= 0).sum()
        loss.backward()
        norms.append(float(optimizer.step(job.get("max_norm"))))
        optimizer.zero_grad()
        total = loss.detach().double()
        if world > 1:
            dist.all_reduce(total)
        losses.append(float(total))
    return {"losses": losses, "norms": norms, "weights": weights_of(model), "state": optimizer.state_dict()}


def _rank(rank: int, world: int, folder: str) -> None:
    torch.set_num_threads(1)
    # A file to meet at, so that no port has to be free.
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting{world}", rank=rank, world_size=world)
    try:
        job = torch.load(f"{folder}/job", weights_only=False)
        torch.save(job.get("work", train)(job, rank, world), f"{folder}/result{rank}")
    finally:
        dist.destroy_process_group()


def on_ranks(world: int, job: dict[str, Any], folder: Path) -> list[dict[str, Any]]:
    """`train`, or the job's own `work`, on several ranks of this machine, one thread each; their results by rank."""
    place = folder / f"world{world}-{len(list(folder.iterdir()))}"
    place.mkdir()
    torch.save(job, place / "job")
    context = multiprocessing.get_context(
        "forkserver"
    )  # imports torch once; a plain fork would copy our threads' locks
    context.set_forkserver_preload(["torch", "torch.distributed", "nanochat.optim", "nanochat.gpt"])
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    ranks = [context.Process(target=_rank, args=(rank, world, str(place))) for rank in range(world)]
    for process in ranks:
        process.start()
    try:
        for process in ranks:
            process.join(HANG)
        assert [process.exitcode for process in ranks] == [0] * world
    finally:
        for process in ranks:
            process.kill()
    return [torch.load(place / f"result{rank}", weights_only=False) for rank in range(world)]


def tensors_in(tree: Any) -> Iterator[Tensor]:
    """Every tensor of nested dicts and lists."""
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, dict | list | tuple):
        for value in tree.values() if isinstance(tree, dict) else tree:
            yield from tensors_in(value)


def trained(config: GPTConfig, steps: int = 2, **options: Any) -> tuple[GPT, Optimizer]:
    """A small model after a few steps on random gradients, and its optimizer."""
    model = model_of(config, spread=0.02)
    optimizer = build_optimizer(model, OptimConfig(**options))
    for seed in range(steps):
        give_gradients(model, seed)
        optimizer.step()
    return model, optimizer
