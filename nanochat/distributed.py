"""Several processes that train one model: who they are, how they add numbers up, and how they end together.

torchrun starts a process for each GPU (or, on a CPU, as many as asked) and tells each its rank in the environment.
Without torchrun there is one process and nothing here costs anything. A rank that dies takes the others with it, in
one sentence: a collective call without it can never finish.

    torchrun --standalone --nproc-per-node 2 -m nanochat.scripts.base_train --depth 4
"""

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from nanochat.errors import is_message

PATIENCE = 600.0  # seconds that a rank waits for the others: rank 0 may evaluate or save alone meanwhile
VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE")  # what torchrun sets
# What gloo, NCCL and their store write when a peer is gone; any other RuntimeError is a bug and keeps its traceback.
SIGNS_OF_A_LOST_RANK = ("gloo", "Gloo", "NCCL", "onnection", "imed out", "imeout", "roken pipe", "TCPStore")

_T = TypeVar("_T")


class DistributedError(ValueError):
    """The ranks cannot be started, or one of them has left: one sentence."""


@dataclass(frozen=True)
class World:
    """This process among those that train together."""

    rank: int = 0  # 0 is the one that prints, evaluates samples and commits checkpoints
    local_rank: int = 0  # among the processes of this machine: the number of its GPU
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the rank that speaks for all."""
        return self.rank == 0

    def add(self, values: Sequence[float], device: Any = "cpu") -> list[float]:
        """The sums of these numbers over all ranks, the same on each, in float64."""
        if self.size == 1:
            return [float(value) for value in values]
        import torch
        import torch.distributed as dist

        place = device if dist.get_backend() == "nccl" else "cpu"  # NCCL takes tensors of its own GPU only
        total = torch.tensor(list(values), dtype=torch.float64, device=place)
        with self.together():
            dist.all_reduce(total)
        return total.tolist()

    def require_same(self, facts: Mapping[str, Any], device: Any = "cpu") -> None:
        """Compare what every rank was started with, before that can go wrong: in silence, or in waiting for ever.

        facts: name -> anything whose `repr` says all of it; the same names on every rank.

        Raises:
            DistributedError: on every rank, with the names of what differs.
        """
        if self.size == 1:
            return
        digests = [_number(f"{name}={value!r}") for name, value in facts.items()]
        both = [_number(repr(list(facts))), _number(repr(digests))]  # two numbers, however many facts a rank has
        names, values = zip(*self._of_all(both, device), strict=True)
        if len(set(values)) == 1:
            return
        differing = ["the script or its version"]
        if len(set(names)) == 1:
            columns = zip(*self._of_all(digests, device), strict=True)
            differing = [name for name, column in zip(facts, columns, strict=True) if len(set(column)) > 1]
        raise DistributedError(
            f"rank {self.rank} of {self.size} stops before the first step, because the ranks were started with "
            f"different values of {', '.join(differing[:6])}{' and more' if len(differing) > 6 else ''}; start all of "
            "them with the same command, data and tokenizer"
        )

    def _of_all(self, values: Sequence[float], device: Any) -> list[list[float]]:
        """These numbers of every rank, in the order of the ranks. They are added to zeros, so nothing is rounded."""
        mine = [value if rank == self.rank else 0.0 for rank in range(self.size) for value in values]
        together = self.add(mine, device)
        return [together[rank * len(values) : (rank + 1) * len(values)] for rank in range(self.size)]

    def all_or_none(self, work: Callable[[], _T], device: Any = "cpu") -> _T:
        """Do something on every rank that may fail on any; where it fails on one, it fails on all.

        Raises:
            the error itself where it happened, DistributedError on the other ranks.
        """
        error: BaseException | None = None
        result: Any = None
        try:
            result = work()
        except Exception as caught:
            if self.size == 1 or isinstance(caught, DistributedError):
                raise
            error = caught
        failed = self.add([float(error is not None)], device)[0]
        if error is not None:
            raise error
        if failed:
            raise DistributedError(
                f"rank {self.rank} of {self.size} stops because {failed:.0f} other(s) failed; their message says why"
            )
        return result

    @contextmanager
    def together(self) -> Iterator[None]:
        """Turn what torch says when another rank is gone into one sentence. Around every collective call.

        torch raises RuntimeErrors here whose text names sockets and addresses; with one rank nothing is caught.
        """
        begun = time.monotonic()
        try:
            yield
        except RuntimeError as error:
            if self.size == 1 or is_message(error) or not any(word in str(error) for word in SIGNS_OF_A_LOST_RANK):
                raise
            waited = time.monotonic() - begun
            raise DistributedError(
                f"rank {self.rank} of {self.size} stops: another rank has left or has not answered for {waited:.0f} "
                "seconds; its own message says why"
            ) from error


def _number(text: str) -> float:
    """A digest as a whole number that float64 holds exactly."""
    return float(int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:6], "big"))


def world_of_environment(environment: dict[str, str] | None = None) -> World:
    """The world as torchrun describes it; one process where it did not start us.

    Raises:
        DistributedError: only part of what torchrun sets is there, or it makes no sense.
    """
    variables = dict(os.environ) if environment is None else environment
    there = {name: variables[name] for name in VARIABLES if name in variables}
    if not there:
        return World()
    try:
        world = World(*(int(there[name]) for name in VARIABLES))
    except (KeyError, ValueError):
        world = World(size=0)
    if not 0 <= world.rank < world.size or world.local_rank < 0:
        raise DistributedError(
            f"the environment says {there or 'nothing'} where torchrun sets {', '.join(VARIABLES)}; start with "
            "`torchrun --nproc-per-node N -m nanochat.scripts.base_train`, or unset them"
        )
    return world


@contextmanager
def start(device_kind: str = "cpu", patience: float = PATIENCE) -> Iterator[World]:
    """Join the other ranks, if there are any, and leave them in order.

    device_kind: "cuda" talks over NCCL and takes the GPU of its local rank, "cpu" over gloo.

    Raises:
        DistributedError: no such GPU, or the others cannot be reached.
    """
    world = world_of_environment()
    if world.size == 1:
        yield world
        return
    import torch
    import torch.distributed as dist

    if device_kind == "mps":
        raise DistributedError(f"{world.size} ranks cannot share Apple's GPU; start without torchrun, or on the CPU")
    options: dict[str, Any] = {"timeout": timedelta(seconds=patience)}
    if device_kind == "cuda":
        if world.local_rank >= torch.cuda.device_count():
            raise DistributedError(
                f"local rank {world.local_rank} needs a GPU of its own and this machine has "
                f"{torch.cuda.device_count()}; lower --nproc-per-node"
            )
        torch.cuda.set_device(world.local_rank)
        options["device_id"] = torch.device("cuda", world.local_rank)
    try:
        with world.together():
            dist.init_process_group("nccl" if device_kind == "cuda" else "gloo", **options)
    except ValueError as error:
        if is_message(error):
            raise
        raise DistributedError(f"the ranks cannot meet ({error}); start them with torchrun") from error
    try:
        yield world
    finally:
        dist.destroy_process_group()
