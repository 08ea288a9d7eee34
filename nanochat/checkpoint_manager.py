"""Save and open checkpoints of every nanochat era.

This is the door to all of it: opening a model is here, writing in checkpoint_save.py, finding runs in
checkpoint_runs.py, and their names can be imported from here. A file is opened by safe_load.py (no code runs, no
surprise in memory), its digest is checked, its shapes are compared with the configuration before a model is built, and
the tokenizer is tied to the model. What was decided on the way is returned in `notes`.

    python -m nanochat.scripts.chat_cli -i base -g d4 -p "The capital of France is"
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanochat import paths, safe_load
from nanochat.checkpoint_files import (
    CheckpointError,
    damaged,
    find_optimizer,
    loader_name,
    location,
    meta_name,
    model_name,
    rank_files,
    read_digest_file,
    shown,
)
from nanochat.checkpoint_meta import read_meta, recorded_files
from nanochat.checkpoint_runs import (
    Run,
    choose_run,
    depth_of,
    existing_step,
    find_last_step,
    find_runs,
    list_steps,
)
from nanochat.checkpoint_save import amend_meta, remove_steps, save_checkpoint
from nanochat.checkpoint_weights import read_weights, recognise, strip_compiled
from nanochat.durable import directory_lock
from nanochat.eras import Era
from nanochat.tokenizer_files import JSON_NAME, TokenizerError, read_vocabulary

if TYPE_CHECKING:
    import torch

    from nanochat.gpt import GPT
    from nanochat.tokenizer import Tokenizer

__all__ = [
    "CheckpointError",
    "LoadedModel",
    "Run",
    "Verification",
    "amend_meta",
    "choose_run",
    "depth_of",
    "directory_lock",
    "find_last_step",
    "find_runs",
    "list_steps",
    "load_checkpoint",
    "load_loader",
    "load_model",
    "load_model_from",
    "read_meta",
    "remove_steps",
    "save_checkpoint",
    "verify",
]

UNVERIFIED = "unverified: its CRC-32 sums are right, but no digest was recorded that would show tampering"


@dataclass(frozen=True)
class LoadedModel:
    """A model that is ready to speak, and what was decided while opening it."""

    model: "GPT"
    tokenizer: "Tokenizer"
    meta: dict[str, Any]
    era: Era  # which nanochat made it, and how that was recognised
    notes: tuple[str, ...]  # in words: how it was verified, what was converted, where the tokenizer came from


@dataclass(frozen=True)
class Verification:
    """The result of checking one step."""

    ok: bool
    problems: tuple[str, ...]  # one sentence each
    level: str  # what was looked at


def load_model(
    folder: str | Path,
    step: int | None = None,
    device: "str | torch.device" = "cpu",
    tokenizer_dir: str | Path | None = None,
    *,
    softcap: float | None = None,
) -> LoadedModel:
    """Open one step of a run, the last complete one if no step is named, as a model in evaluation mode.

    The tokenizer is that in `tokenizer_dir`, else the one beside the checkpoint, else `folder/../../tokenizer`.
    `softcap` overrules what the files cannot tell for early March 2026 (see eras.py). `device` is "cpu", "mps", "cuda",
    "cuda:N" or "auto"; it also decides the number format (see device.py).

    Raises:
        DeviceError: the device is not there.
        CheckpointError: damaged, unsafe, incomplete, or files that do not belong together.
        TokenizerError: the tokenizer's own files are at fault.
    """
    from nanochat import gpt
    from nanochat.device import choose_device

    choice = choose_device(str(device))
    folder = paths.expand(folder)
    step = find_last_step(folder) if step is None else existing_step(folder, step)
    meta = read_meta(folder / meta_name(step))
    digests = recorded_files(meta)
    path = folder / model_name(step)
    with safe_load.open_tensors(path) as file:
        specs = read_weights(file)
        era = recognise(meta, specs, file, softcap)
        tokenizer, notes = _load_tokenizer(folder, meta, era.config.vocab_size, tokenizer_dir)
        weights = strip_compiled(file.read(_digest(file, digests)))
    if meta.get("step", step) != step:
        notes.append(f"the meta file says step {shown(meta['step'])}, its name says {step}")
    notes.insert(0, "verified: every byte has the SHA-256 that was saved" if path.name in digests else UNVERIFIED)
    notes[1:1] = (f"design: {era.name}", *era.reasons)
    weights, more = _prepare(weights, choice.dtype)
    return LoadedModel(gpt.build(era.config, weights, choice.device), tokenizer, meta, era, (*notes, *more))


def load_model_from(
    base_dir: str | Path | Sequence[Path],
    source: str,
    model_tag: str | None = None,
    step: int | None = None,
    device: "str | torch.device" = "cpu",
    tokenizer_dir: str | Path | None = None,
    *,
    softcap: float | None = None,
) -> LoadedModel:
    """Open a run of a base dir by stage ("base", "mid", "sft", "rl") and tag; see `choose_run` for which one.

    Raises:
        as choose_run and load_model.
    """
    run, reason = choose_run(base_dir, source, model_tag)
    loaded = load_model(run.folder, step, device, tokenizer_dir, softcap=softcap)
    return replace(loaded, notes=(f"run {location(run.folder)}: {reason}", *loaded.notes))


def load_checkpoint(
    checkpoint_dir: str | Path,
    step: int,
    device: "str | torch.device",
    load_optimizer: bool = False,
    rank: int = 0,
) -> tuple[dict[str, "torch.Tensor"], Any, dict[str, Any]]:
    """The parts of a checkpoint as saved: (state dict, optimizer state or None, meta), tensors on `device`.

    The state dict keeps its dtypes; its keys carry no `_orig_mod.`. The optimizer state has the layout of its era.

    Raises:
        CheckpointError: damaged, unsafe, or no optimizer state where one was asked for.
    """
    from nanochat.device import choose_device

    choice = choose_device(str(device))
    folder = paths.expand(checkpoint_dir)
    step = existing_step(folder, step)
    meta = read_meta(folder / meta_name(step))
    digests = recorded_files(meta)
    with safe_load.open_tensors(folder / model_name(step)) as file:
        read_weights(file)
        model_data = strip_compiled(file.read(_digest(file, digests)))
    optimizer_data = None
    if load_optimizer:
        path = find_optimizer(folder, step, rank)
        if path is None:
            raise CheckpointError(
                f"{location(folder)}: step {step} has no optimizer state of rank {rank}; resume from a step that has "
                "one, or start a new run from its weights"
            )
        with safe_load.open_tensors(path) as file:
            optimizer_data = file.read(_digest(file, digests))
    if choice.device != "cpu":
        model_data, optimizer_data = safe_load.map_tensors((model_data, optimizer_data), lambda t: t.to(choice.device))
    return model_data, optimizer_data, meta


def load_loader(checkpoint_dir: str | Path, step: int, rank: int = 0) -> Any:
    """The loader's state that one rank saved with a step, tensors on the CPU; None where none was, as by nanochat.

    Raises:
        CheckpointError: damaged or unsafe.
    """
    folder = paths.expand(checkpoint_dir)
    step = existing_step(folder, step)
    path = folder / loader_name(step, rank)
    digests = recorded_files(read_meta(folder / meta_name(step)))
    if not os.path.lexists(path) and path.name not in digests:
        return None
    with safe_load.open_tensors(path) as file:
        return file.read(_digest(file, digests))


def verify(folder: str | Path, step: int, full: bool = False) -> Verification:
    """Check one step without building its model.

    Quick: meta, structure and size of each file, names and shapes of the weights. Full: every byte as well, by the
    SHA-256 that was recorded or, for a checkpoint that is not ours, by the CRC-32 of each part.
    """
    folder = paths.expand(folder)
    level = "structure, names and sizes"
    try:
        step = existing_step(folder, step)
        meta = read_meta(folder / meta_name(step))
        digests = recorded_files(meta)
        present = [folder / model_name(step), *rank_files(folder, step)]
    except CheckpointError as error:
        return Verification(False, (str(error),), level)
    problems = [
        f"{location(folder / name)}: saved with this step and gone; restore it from a copy"
        for name in digests
        if not os.path.lexists(folder / name)
    ]
    if full:
        level += ", SHA-256 of every byte" if digests else ", CRC-32 of every part (no digest was recorded)"
    vocab_size: int | None = None
    for path in present:
        try:
            with safe_load.open_tensors(path) as file:
                digest = _digest(file, digests)
                if path.name == model_name(step):
                    vocab_size = recognise(meta, read_weights(file), file, None).config.vocab_size
                if full:
                    file.check(digest)
        except CheckpointError as error:
            problems.append(str(error))
    try:
        _check_tokenizer_beside(folder, meta, vocab_size)
    except (CheckpointError, TokenizerError) as error:
        problems.append(str(error))
    return Verification(not problems, tuple(problems), level)


def _check_tokenizer_beside(folder: Path, meta: Mapping[str, Any], vocab_size: int | None) -> None:
    """Where a tokenizer was saved with the run, it must be there and be that one; any that is there must fit."""
    recorded = meta.get("lab", {}).get("tokenizer")
    path = folder / JSON_NAME
    if not os.path.lexists(path):
        if isinstance(recorded, dict):
            raise CheckpointError(f"{location(path)}: saved with this run and gone; restore it from a copy")
        return
    vocabulary = read_vocabulary(path)[0]
    if isinstance(recorded, dict) and vocabulary.fingerprint != recorded.get("fingerprint"):
        raise CheckpointError(f"{location(path)}: not the tokenizer that was saved; restore it from a copy")
    if vocab_size is not None and vocabulary.size != vocab_size:
        raise CheckpointError(
            f"{location(path)}: {vocabulary.size:,} tokens for a model of {vocab_size:,}; it belongs to another run"
        )


def _digest(file: safe_load.TensorFile, digests: Mapping[str, tuple[int, str]]) -> str | None:
    """The digest to expect, after the size has been compared; None where none was recorded."""
    path = Path(file.path)
    if path.name not in digests:
        return read_digest_file(path)
    size, digest = digests[path.name]
    if size != file.size:
        raise damaged(file.path, f"{file.size:,} bytes where {size:,} were saved")
    return digest


def _prepare(weights: dict[str, Any], target: "torch.dtype") -> tuple[dict[str, "torch.Tensor"], list[str]]:
    """Weights for a device, and what was done to them: all matrices in `target`, the format that it computes in.

    nanochat stores embeddings in bf16 and the rest in fp32, and a product takes one format. Per-layer scales are few
    and keep fp32.
    """
    import torch

    words = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16", torch.float64: "fp64"}
    wanted = {name: target if weight.dim() > 1 else torch.float32 for name, weight in weights.items()}
    notes = []
    for dtype, word in words.items():
        converted = [name for name, weight in weights.items() if weight.dtype == dtype != wanted[name]]
        if converted:
            what = "embeddings" if all("embed" in name or "wte" in name for name in converted) else "weights"
            notes.append(f"{word} {what} converted to {words[wanted[converted[0]]]} ({len(converted)} tensors)")
    weights = {name: weight.to(wanted[name]) for name, weight in weights.items()}
    # A sum is 40 times as fast as isfinite and finite only if every element is; one that overflows is looked at again.
    broken = [
        name for name, weight in weights.items() if not torch.isfinite(weight.sum()) and not weight.isfinite().all()
    ]
    if broken:
        notes.append(
            f"{len(broken)} tensors hold NaN or infinity, such as {broken[0]}: the training of this run diverged"
        )
    return {name: weight.contiguous() for name, weight in weights.items()}, notes


def _load_tokenizer(
    folder: Path, meta: Mapping[str, Any], vocab_size: int, tokenizer_dir: str | Path | None
) -> tuple["Tokenizer", list[str]]:
    """The tokenizer of a checkpoint, tied to it by fingerprint where one is recorded, else by the vocabulary's size."""
    from nanochat.tokenizer import load_tokenizer

    if tokenizer_dir is not None:
        source, why = Path(tokenizer_dir), "as asked"
    elif (folder / JSON_NAME).is_file():
        source, why = folder, "beside the checkpoint"
    else:
        source, why = folder.parent.parent / "tokenizer", "the base dir's"
    if not source.is_dir():
        raise CheckpointError(
            f"{location(source)}: no tokenizer there; copy the one that this model was trained with to it, or name "
            "another folder (tokenizer_dir, --tokenizer-dir)"
        )
    tokenizer = load_tokenizer(source)
    notes = [f"tokenizer taken from {location(source)} ({why})", *tokenizer.notes]
    size = tokenizer.get_vocab_size()
    if size != vocab_size:
        raise CheckpointError(
            f"{location(source)}: this tokenizer has {size:,} tokens and the model {vocab_size:,}, so it was trained "
            "with another; name that one's folder (tokenizer_dir, --tokenizer-dir)"
        )
    recorded = meta.get("lab", {}).get("tokenizer")
    fingerprint = recorded.get("fingerprint") if isinstance(recorded, dict) else None
    if fingerprint is None:
        notes.append("tokenizer tied to the model by its size only (no fingerprint was recorded)")
    elif fingerprint != tokenizer.fingerprint:
        raise CheckpointError(
            f"{location(source)}: not the tokenizer that this model was trained with, though of the same size "
            f"(fingerprint {shown(tokenizer.fingerprint, 20)}, recorded {shown(fingerprint, 20)}); it was retrained or "
            "replaced: name the right one's folder with tokenizer_dir"
        )
    return tokenizer, notes
