"""What a range test is made on: model, optimizer and text of a run, made ready, and put back afterwards.

A range test begins with fresh weights, because that is where a new run begins; with the weights of a step it tells what
rate to go on with. Nothing is written into the run's folder.

    subject = open_subject("base_checkpoints/d4", 120)
"""

import contextlib
import copy
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from nanochat import paths
from nanochat.analysis.lr_finder.rules import RangeTestError
from nanochat.checkpoint_files import find_optimizer, location
from nanochat.dataset import BUILT_IN, SHARD_FOLDERS, open_dataset
from nanochat.optim_config import Kind, OptimConfig, OptimError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from nanochat.training_checkpoints import Resumption

STARTS = ("fresh", "trained")
ROWS, MOST_TOKENS = 4, 1 << 16  # of an update, where the run does not say; of an update on a CPU
SKIPPED = 50  # batches from one seed's text to the next's


@dataclass(frozen=True)
class Subject:
    """What the test is made on."""

    model: "nn.Module"
    optimizer: Any  # of optim.py, fresh or with its averages
    open_loader: Callable[[int], Any]  # seed -> batches from their beginning
    loss: "Callable[[Tensor, Tensor], Tensor]"
    renew: Callable[[int], None] | None = None  # gives the model the starting weights of a seed; None: it keeps its own
    accumulation: int = 1
    device: str = "cpu"
    name: str = ""
    notes: tuple[str, ...] = ()

    @property
    def rates(self) -> dict[str, float]:
        """Initial rate of each group."""
        found: dict[str, float] = {}
        for group in self.optimizer.param_groups:
            found.setdefault(group["name"], float(group["initial_lr"]))
        return found


@contextlib.contextmanager
def restored(model: "nn.Module", optimizer: Any) -> Iterator[Callable[[], None]]:
    """Put weights, averages, rates, gradients, mode and random numbers back at the end, also after an exception.

    Gives a function that does it in between, without gradients: call it before each sweep.
    """
    import numpy as np
    import torch

    weights = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    averages = copy.deepcopy(optimizer.state_dict())
    options = copy.deepcopy([_options(group) for group in optimizer.param_groups])
    training, gradients = model.training, {name: p.grad for name, p in model.named_parameters()}
    numbers = random.getstate(), np.random.get_state(), torch.get_rng_state()
    on_gpu = torch.cuda.get_rng_state_all() if torch.cuda.is_available() and torch.cuda.is_initialized() else None

    def put_back() -> None:
        model.zero_grad(set_to_none=True)  # else what waits there is added to
        model.load_state_dict(weights)
        optimizer.load_state_dict(copy.deepcopy(averages))
        for group, option in zip(optimizer.param_groups, options, strict=True):
            for name in set(_options(group)) - set(option):
                del group[name]
            group.update(copy.deepcopy(option))
        model.train(training)
        random.setstate(numbers[0])
        np.random.set_state(numbers[1])
        torch.set_rng_state(numbers[2])
        if on_gpu is not None:
            torch.cuda.set_rng_state_all(on_gpu)

    try:
        yield put_back
    finally:
        put_back()
        for name, parameter in model.named_parameters():
            parameter.grad = gradients[name]


def _options(group: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in group.items() if name not in ("params", "names")}


def open_subject(
    folder: str | Path, step: int, *, start: str = "fresh", data: str | None = None, rows: int | None = None,
    context: int | None = None, device: str = "cpu",
) -> Subject:  # fmt: skip
    """The run's own kind of model on the run's own text, with the run's own rates.

    start: "fresh" weights of each seed, or those and the averages of the "trained" step. data: another text. rows and
    context: of a batch, where the run's own are too large for this machine.

    Raises:
        RangeTestError: a run that no text is here for, or sizes that cannot be.
        CheckpointError, TokenizerError, DatasetError, DeviceError: what is damaged or missing.
    """
    from nanochat import training_setup as parts
    from nanochat.checkpoint_manager import load_model
    from nanochat.dataloader import DataLoader
    from nanochat.device import choose_device
    from nanochat.optim import build_optimizer, recognise_kind
    from nanochat.optim_state import read_state
    from nanochat.training_checkpoints import load_into

    if start not in STARTS:
        raise RangeTestError(f"start is {start!r:.40}; choose {' or '.join(STARTS)}")
    folder = paths.expand(folder)
    place = choose_device(device)
    loaded = load_model(folder, step, "cpu")
    config, meta = loaded.era.config, loaded.meta
    length = _within("context", config.sequence_len if context is None else context, config.sequence_len)
    batch, accumulation, notes = _batch(meta, length, rows, place.device)
    dataset = open_dataset(_text(folder, meta, data))
    settings, why = _rates(meta)
    resumption = _resumption(folder, step, start)
    if resumption is not None:
        settings = replace(settings, kind=cast(Kind, recognise_kind(resumption.optimizer[0])[0]))
    model = parts.new_model(config, 0, place.device)
    optimizer = build_optimizer(model, settings)
    if resumption is not None and not (meta.get("lab") or {}).get("optimizer"):
        options, _ = read_state(resumption.optimizer[0], optimizer.plan, 0, len(resumption.optimizer))
        for group, saved in zip(optimizer.param_groups, options, strict=True):
            group["initial_lr"] = group["lr"] = float(saved.get("initial_lr", group["initial_lr"]))
        why = "rates: the full ones in the run's optimizer file"
    if start == "trained" and resumption is not None:
        load_into(resumption, model, optimizer)

    def open_loader(seed: int) -> Any:
        loader = DataLoader(dataset.train, loaded.tokenizer, batch, length, device=place.device)
        for _ in range(seed * SKIPPED):  # each seed reads other text
            loader.next_batch()
        return loader

    def renew(seed: int) -> None:
        model.load_state_dict(parts.new_model(config, seed, place.device).state_dict())

    return Subject(
        model, optimizer, open_loader, parts.batch_loss(model), renew if start == "fresh" else None, accumulation,
        place.device, f"{folder.name}, {start}", (why, *notes, f"text: {dataset.name}"),
    )  # fmt: skip


def _rates(meta: Mapping[str, Any]) -> tuple[OptimConfig, str]:
    """(the run's rates, where they stand)."""
    ours, user = (meta.get("lab") or {}).get("optimizer"), meta.get("user_config") or {}
    names = {one.name for one in fields(OptimConfig)}
    try:
        if isinstance(ours, dict):
            return OptimConfig(**{k: v for k, v in ours.items() if k in names}), "rates: those of the run's settings"
        given = {k: user[k] for k in ("matrix_lr", "embedding_lr", "unembedding_lr", "scalar_lr") if k in user}
        if given:
            return OptimConfig(**given), "rates: those of the run's flags, before nanochat's factor for its batch"
    except (OptimError, TypeError) as error:
        raise RangeTestError(f"the rates in the run's meta file cannot be used: {error}") from None
    return OptimConfig(), "rates: nanochat's defaults, because the run does not tell its own"


def _resumption(folder: Path, step: int, start: str) -> "Resumption | None":
    """What the step holds, its optimizer with it; None where no optimizer was saved and fresh weights need none."""
    from nanochat.training_checkpoints import read_resumption

    if start == "fresh" and find_optimizer(folder, step) is None:
        return None
    return read_resumption(folder, step)


def _batch(meta: Mapping[str, Any], length: int, rows: int | None, device: str) -> tuple[int, int, list[str]]:
    """(rows, batches of an update, what is to be said about it)."""
    total, once = meta.get("total_batch_size"), meta.get("device_batch_size")
    if total is None:
        total = (meta.get("user_config") or {}).get("total_batch_size")
    if rows is not None:
        return _within("rows", rows, 4096), 1, [f"{rows} rows of {length} tokens an update, as asked"]
    known = [value for value in (total, once) if type(value) is int and value > 0]
    if len(known) < 2:
        return ROWS, 1, [f"{ROWS} rows of {length} tokens an update, because the run does not tell its batch"]
    tokens = min(known[0], MOST_TOKENS) if device == "cpu" else known[0]
    size = max(min(known[1], tokens // length), 1)
    count = max(tokens // (size * length), 1)
    notes = [f"{size} rows of {length} tokens, {count} times an update"]
    if tokens < known[0]:
        notes.append(f"the run's own update has {known[0]:,} tokens, too many for a CPU: a smaller batch wants less")
    return size, count, notes


def _text(folder: Path, meta: Mapping[str, Any], data: str | None) -> str:
    """What the run was trained on, if it is here."""
    if data:
        return data
    ours, user = (meta.get("lab") or {}).get("data"), meta.get("user_config") or {}
    identity = str(ours.get("identity", "")) if isinstance(ours, dict) else ""
    named = user.get("data") or user.get("corpus")
    for name in BUILT_IN:
        if identity.startswith(name) or named == name:
            return name
    if isinstance(named, str) and Path(named).expanduser().exists():
        return named
    base = folder.absolute().parent.parent
    found = next((base / name for name in SHARD_FOLDERS if any((base / name).glob("*.parquet"))), None)
    if found is not None and not identity:
        return str(found)
    raise RangeTestError(
        f"{location(folder)}: the text that it was trained on is not here; name one with --data, such as stories"
    )


def _within(name: str, value: int, most: int) -> int:
    if not 1 <= value <= most:
        raise RangeTestError(f"{name} is {value}; give 1 to {most:,}")
    return value
