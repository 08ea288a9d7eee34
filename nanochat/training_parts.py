"""What a training consists of: the parts that the loop is handed, and what it asks of each. No torch is loaded here.

Pretraining, fine-tuning, the demo and the learning-rate finder differ in these parts alone.

    from nanochat.training_parts import Look, Setup
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from nanochat.distributed import World
from nanochat.horizon import Horizon
from nanochat.records import RecordWriter
from nanochat.schedules import Moment, Momentum, Schedule, WeightDecay
from nanochat.training_state import TrainingState

if TYPE_CHECKING:
    from torch import Tensor, nn

    from nanochat.training_checkpoints import Saver


class Optimizer(Protocol):
    """What the loop asks of an optimizer: optim.py's."""

    param_groups: list[dict[str, Any]]  # each with name, lr, initial_lr, weight_decay; Muon's with momentum

    def step(self, max_norm: float | None = None) -> Tensor:
        """Add up the ranks' gradients, scale them down to `max_norm`, update; nothing where the norm is not finite."""

    def zero_grad(self) -> None:
        """Let all gradients go."""

    def state_dict(self) -> Any:
        """What this rank remembers."""


class Batches(Protocol):
    """What the loop asks of a loader: dataloader.py's, or the one for conversations."""

    def next_batch(self) -> Any:
        """An object with `inputs` and `targets`, both (B, T) whole numbers on the model's device, -1: no loss."""

    @property
    def position(self) -> dict[str, int]:
        """Where the last batch came from: pq_idx, rg_idx, epoch."""

    @property
    def progress(self) -> float | None:
        """Passes over the data so far; None where it never ends."""

    def state_dict(self) -> dict[str, Any]:
        """Enough to go on with the very next token, as of the batches that were handed out."""

    def close(self) -> None:
        """End its worker."""


class Multiplier(Protocol):
    """What the loop asks of a schedule. A learning-rate finder brings its own."""

    def multiplier(self, at: Moment) -> float:
        """The factor on every initial learning rate for the coming update."""

    def phase(self, at: Moment) -> str:
        """ "warmup", "stable" or "warmdown"."""


@dataclass(frozen=True)
class Look:
    """Something done between two updates: an evaluation, a sample."""

    event: str  # the word in the record: "evaluation", "sample", ...
    run: Callable[[int], float | None]  # gets the step; what "evaluation" returns is val_bpb; None: it was cut short
    every: int = 0  # steps; 0: only where `at_end` says so
    at_start: bool = False  # before the first update as well
    at_end: bool = True  # after the last update


@dataclass(frozen=True)
class Setup:
    """All that a run consists of."""

    model: nn.Module  # the plain one: it is saved and evaluated
    optimizer: Optimizer
    loader: Batches
    horizon: Horizon
    loss: Callable[[Tensor, Tensor], Tensor]  # (inputs, targets) -> sum of nats over the counted targets
    schedule: Multiplier = field(default_factory=Schedule)
    momentum: Momentum | None = field(default_factory=Momentum)  # of Muon's matrices, where `schedule` is a Schedule
    weight_decay: WeightDecay = field(default_factory=WeightDecay)  # of the matrices
    accumulation: int = 1  # batches of the loader for one update, on this rank
    clip: float | None = None  # largest L2 norm of the gradient; None never clips
    looks: Sequence[Look] = ()
    saver: Saver | None = None  # None: nothing is saved
    metrics: RecordWriter | None = None  # rank 0 alone has one
    flops_per_token: int = 0
    peak_flops: float | None = None  # of all devices together, a second; None where it is not known
    world: World = field(default_factory=World)
    device: Any = "cpu"
    stop: Callable[[], str | None] = lambda: None  # asked again and again; a word ends the run with a checkpoint
    clock: Callable[[], float] = time.monotonic  # never jumps when somebody sets the date
    state: TrainingState = field(default_factory=TrainingState)  # where a resumed run stands; the loop moves it on
