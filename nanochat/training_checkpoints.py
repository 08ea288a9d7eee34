"""A run's checkpoints: when one is due, what goes into it, and how a run goes on from one.

`training_folder.opened` has taken the folder for this run alone. A `Saver` saves from inside the loop.
`read_resumption` gives back what a step held, for as many ranks as there are now: optimizer and loader are kept as one
share a rank, and are dealt out anew where the number changed.

    python -m nanochat.scripts.base_train --depth 4 --resume
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanochat import safe_load
from nanochat.checkpoint_files import CheckpointError, meta_name, model_name, rank_files, shown
from nanochat.checkpoint_manager import (
    amend_meta,
    load_checkpoint,
    load_loader,
    read_meta,
    save_checkpoint,
)
from nanochat.checkpoint_weights import read_weights, recognise
from nanochat.distributed import World
from nanochat.training_folder import begin, opened, require_held
from nanochat.training_state import TrainingState

if TYPE_CHECKING:
    import torch

    from nanochat.gpt_config import GPTConfig
    from nanochat.optim import Optimizer
    from nanochat.tokenizer import Tokenizer
    from nanochat.training import Setup


@dataclass
class Saver:
    """Saves steps of one run into one folder."""

    folder: Path
    tokenizer: "Tokenizer"  # laid beside the weights, so that the run can be opened wherever it is copied to
    config: "GPTConfig"
    every: int = -1  # updates between two checkpoints; -1: only at the end
    minutes: float | None = None  # minutes between two checkpoints, whatever the updates
    facts: Mapping[str, Any] = field(
        default_factory=dict
    )  # nanochat's further keys: user_config, total_batch_size, ...
    lab: Mapping[str, Any] = field(default_factory=dict)  # ours: horizon, schedule, optimizer, data
    saved_step: int | None = None  # the last step that is on the disk: of a resumed run, the one it goes on from
    saved_at: float = 0.0  # when, in seconds since the run began

    def due(self, state: TrainingState, ending: bool) -> bool:
        """Whether to save now: the beginning is not worth it, and what is saved is not saved again."""
        if state.step in (0, self.saved_step):
            return False
        by_step = self.every > 0 and state.step % self.every == 0
        by_time = self.minutes is not None and state.elapsed - self.saved_at >= 60 * self.minutes
        return ending or by_step or by_time

    def require_held(self) -> None:
        """Refuse to go on where the run's folder was moved, removed or replaced. Raises CheckpointError."""
        require_held(self.folder)

    def save(
        self, setup: "Setup", state: TrainingState, boundary: "tuple[Any, Mapping[str, int]] | None" = None
    ) -> None:
        """Save this step, every rank its share.

        boundary: state and position of the loader in place of its present ones, where a step was dropped.

        Raises:
            CheckpointError: the disk is full or gone, or the folder is; it is as it was.
            DistributedError: that happened to another rank.
        """
        world = setup.world
        optimizer = _on_cpu(setup.optimizer.state_dict())
        loader_state, position = boundary or (setup.loader.state_dict(), setup.loader.position)
        loader = _on_cpu(loader_state)

        def write(model: Mapping[str, Any]) -> None:
            save_checkpoint(
                self.folder, state.step, model, optimizer, self.meta(setup, state, position), world.rank,
                tokenizer=self.tokenizer, config=self.config, world_size=world.size, loader_data=loader,
            )  # fmt: skip

        world.all_or_none(self.require_held, setup.device)  # rank 0 knows; the others must not make a new folder
        world.all_or_none(lambda: None if world.first else write({}), setup.device)  # the others first: rank 0 commits
        world.all_or_none(lambda: write(_on_cpu(setup.model.state_dict())) if world.first else None, setup.device)
        self.saved_step, self.saved_at = state.step, state.elapsed

    def amend(self, setup: "Setup", state: TrainingState) -> None:
        """Add to a saved step what was measured after it was safe; a step of nanochat's own is left as it is."""
        self.require_held()
        if setup.world.first and "lab" in read_meta(self.folder / meta_name(state.step)):
            amend_meta(self.folder, state.step, {"val_bpb": state.val_bpb, "loop_state": state.loop_state()})

    def meta(self, setup: "Setup", state: TrainingState, position: Mapping[str, int]) -> dict[str, Any]:
        """What stands in the meta file: nanochat's keys at the top, so that its code goes on from it, ours in `lab`."""
        rate = next((g["lr"] for g in setup.optimizer.param_groups if g.get("name") == "matrix"), None)
        training = {
            "time": state.elapsed,
            "step_seconds": state.step_seconds,
            "tokens": state.tokens,
            "flops": state.flops,
            "train_loss": state.train_loss,
            "learning_rate": setup.optimizer.param_groups[0]["lr"] if rate is None else rate,
            "world_size": setup.world.size,
        }
        return {
            "step": state.step,
            "val_bpb": state.val_bpb,
            "model_config": self.config.upstream(),
            **self.facts,
            "dataloader_state_dict": dict(position),
            "loop_state": state.loop_state(),
            "lab": {**self.lab, "training": training},
        }


@dataclass(frozen=True)
class Resumption:
    """What a step held, read and checked, for one rank of those there are now."""

    step: int
    meta: dict[str, Any]
    config: "GPTConfig"
    weights: dict[str, "torch.Tensor"]
    optimizer: list[Any]  # the state of this rank, or of all ranks that saved if they were another number
    loader: Any  # the state for this rank; None where none was saved, as by nanochat
    notes: tuple[str, ...]  # in words: what is exact and what is not

    @property
    def user_config(self) -> dict[str, Any]:
        """The flags that the run was started with."""
        return dict(self.meta.get("user_config") or {})


@contextmanager
def entered(
    folder: Path, parameters: int, world: World, *, resume: int | None, force: bool, device: Any = "cpu"
) -> Iterator["Resumption | None"]:
    """`opened`, `begin` and, where there is a step to go on from, `read_resumption`: the way into a run's folder."""
    with opened(folder, parameters, world, device):
        step = begin(folder, world, resume=resume, force=force, device=device)
        yield None if step is None else read_resumption(folder, step, world)


def read_resumption(folder: Path, step: int, world: World | None = None) -> Resumption:
    """A step of ours or of nanochat, read for this rank; the tensors stay on the CPU.

    Raises:
        CheckpointError: damaged, incomplete, or without an optimizer's state.
    """
    world = world or World()
    meta = read_meta(folder / meta_name(step))
    with safe_load.open_tensors(folder / model_name(step)) as file:
        config = recognise(meta, read_weights(file), file, None).config
    saved_by = _saved_ranks(folder, step, meta)
    notes = []
    if saved_by == world.size:
        weights, mine, _ = load_checkpoint(folder, step, "cpu", True, world.rank)
        shares, loader = [mine], load_loader(folder, step, world.rank)
    else:
        weights, shares, loader = _of_all_ranks(folder, step, saved_by)
        notes.append(f"saved by {saved_by} ranks and dealt out to {world.size}")
    if loader is None:
        notes.append(
            "no loader state was saved with this step, as nanochat does not: the run goes on near the same place in "
            "the text, and the documents that were read ahead are lost"
        )
    return Resumption(step, meta, config, weights, shares, loader, tuple(notes))


def state_of(resumption: Resumption | None, flops_per_token: int) -> TrainingState:
    """Where the run stands: at its beginning, or where the step was saved."""
    if resumption is None:
        return TrainingState()
    return TrainingState.of_meta(resumption.step, resumption.meta, flops_per_token)


def load_into(resumption: Resumption, model: "torch.nn.Module", optimizer: "Optimizer") -> None:
    """Give model and optimizer what the step held. The rates to start from stay those of the optimizer as it is.

    Raises:
        CheckpointError: they are another model's.
        OptimError: they are another optimizer's.
    """
    load_weights(resumption, model)
    rates = [(group["initial_lr"], group["weight_decay"]) for group in optimizer.param_groups]
    load_averages(resumption.optimizer, optimizer)
    for group, (rate, decay) in zip(optimizer.param_groups, rates, strict=True):
        group["initial_lr"], group["initial_weight_decay"] = rate, decay


def load_weights(resumption: Resumption, model: "torch.nn.Module") -> None:
    """Give the model the weights of the step.

    Raises:
        CheckpointError: they are another model's.
    """
    try:
        model.load_state_dict(resumption.weights)
    except RuntimeError as error:
        first = str(error).splitlines()[-1].strip()
        raise CheckpointError(
            f"step {resumption.step} is another model than the one to be trained ({shown(first, 200)}); take the flags "
            "that the run was started with"
        ) from None


def load_averages(shares: list[Any], optimizer: "Optimizer") -> None:
    """Give the optimizer the state of this rank, or of all ranks that saved if they were another number.

    Raises:
        OptimError: it is another optimizer's.
    """
    from nanochat.optim import merge_states

    optimizer.load_state_dict(shares[0] if len(shares) == 1 else merge_states(shares, optimizer.plan))


def _saved_ranks(folder: Path, step: int, meta: Mapping[str, Any]) -> int:
    """How many ranks saved a step: as recorded, else by nanochat's files."""
    recorded = ((meta.get("lab") or {}).get("training") or {}).get("world_size")
    if isinstance(recorded, int) and recorded > 0:
        return recorded
    return max(sum(path.name.startswith("optim_") for path in rank_files(folder, step)), 1)


def _of_all_ranks(folder: Path, step: int, saved_by: int) -> tuple[Any, list[Any], Any]:
    """Weights, every rank's share of the optimizer, and the loaders' states as one; what each rank needs is in them."""
    from nanochat.dataloader import merge_states

    weights: dict[str, Any] = {}
    shares, loaders = [], []
    for rank in range(saved_by):
        weights, share, _ = load_checkpoint(folder, step, "cpu", True, rank)
        shares.append(share)
        loaders.append(load_loader(folder, step, rank))
    return weights, shares, None if None in loaders else merge_states(loaders)


def _on_cpu(tree: Any) -> Any:
    """The same tree with its tensors on the CPU; those that are there already are not copied."""
    return safe_load.map_tensors(tree, lambda tensor: tensor.detach().cpu())
