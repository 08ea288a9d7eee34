"""Write one step of a run so that no kill, full disk or second writer can spoil it.

Optimizer, loader, model and meta are first written beside their places and synced (durable.py). Then they get their
names, the meta file last: it is the commit record and holds size and SHA-256 of the others. A kill at any moment leaves
the last committed step whole. Names, keys and dtypes are nanochat's own, so its code opens what we write.
"""

import contextlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanochat import __version__, durable, paths, safe_load
from nanochat.checkpoint_files import (
    CheckpointError,
    digest_file,
    loader_name,
    location,
    meta_name,
    model_name,
    optimizer_name,
    rank_files,
    read_digest_file,
    shown,
)
from nanochat.checkpoint_meta import LAB_VERSION, encode_meta, read_meta
from nanochat.checkpoint_runs import list_steps
from nanochat.checkpoint_weights import read_weights, recognise
from nanochat.eras import architecture_to_dict
from nanochat.tokenizer_files import JSON_NAME, TokenizerError, read_vocabulary

if TYPE_CHECKING:
    import torch

    from nanochat.gpt_config import GPTConfig
    from nanochat.tokenizer import Tokenizer


PENDING = ".pending"  # behind the name of another rank's file until rank 0 commits the step


def save_checkpoint(
    checkpoint_dir: str | Path,
    step: int,
    model_data: Mapping[str, "torch.Tensor"],
    optimizer_data: Any,
    meta_data: Mapping[str, Any],
    rank: int = 0,
    *,
    tokenizer: "Tokenizer | None" = None,
    config: "GPTConfig | None" = None,
    world_size: int = 1,
    loader_data: Any = None,
) -> None:
    """Save one step. It exists once this returns; before that the folder is as it was.

    Of `world_size` ranks each saves its own `optimizer_data` and `loader_data`, the loader's state (None: none, on
    every rank); what ranks above 0 save is pending until rank 0, called last, saves the model and commits. In
    `meta_data`, nanochat's keys are at the top and ours under "lab". `config` records the whole architecture there; it
    is inferred from the weights on opening where it is not given. `tokenizer` is laid beside the model: give it, so
    that the run can be opened wherever it is copied to. If the step exists already it is replaced: all new content is
    on the disk first, and only for the instant of renaming is the step uncommitted.

    Raises:
        CheckpointError: another writer holds the folder, it belongs to another tokenizer, the disk is full or cannot be
        written. Nothing is left behind and older steps are untouched.
    """
    folder = paths.expand(checkpoint_dir)
    if type(step) is not int or not 0 <= step < 10**12:
        raise CheckpointError(f"step is {shown(step)}; give a whole number from 0 up")
    shares = [(optimizer_name, optimizer_data), (loader_name, loader_data)]  # what every rank has of its own
    shares = [(name_of, data) for name_of, data in shares if data is not None]
    if rank != 0:
        for name_of, data in shares:
            _save_other_rank(folder, name_of(step, rank), data)
        return
    model_data = _own_storage(model_data)
    encode_meta(meta_data, {})  # a meta that cannot be written must fail before anything is
    if meta_data.get("step", step) != step:
        raise CheckpointError(f"meta_data says step {shown(meta_data['step'])} and the step is {shown(step)}; mend one")
    durable.make_folder(folder)
    lock = contextlib.nullcontext() if durable.holds_lock(folder) else durable.directory_lock(folder)
    with lock:
        durable.require_free_space(folder, _size((model_data, optimizer_data, loader_data)))
        staged: list[durable.Staged] = []
        try:
            if tokenizer is not None:
                staged += _stage_tokenizer(folder, tokenizer)
            for name_of, data in shares:
                staged.append(_stage_tensors(folder / name_of(step, 0), data))
                staged += [_pending(folder, name_of(step, other), other) for other in range(1, world_size)]
            staged.append(_stage_tensors(folder / model_name(step), model_data))
            meta = durable.stage_bytes(
                folder / meta_name(step), encode_meta(meta_data, _lab_facts(staged, tokenizer, config))
            )
            staged.append(meta)
            _require_openable(staged[-2], meta, tokenizer, config)
            _withdraw(folder, step)
            for content in staged[:-1]:
                durable.publish(content)
            durable.sync_folder(folder)
            durable.publish(meta)
            durable.sync_folder(folder)
            for name_of in (optimizer_name, loader_name):
                for leftover in folder.glob(f"{name_of(step, 0)[:-4]}*{PENDING}*"):  # of ranks there are no more
                    durable.discard(leftover)
        finally:
            for content in staged:
                if not content.temporary.name.endswith(PENDING):
                    durable.discard(content.temporary)


def amend_meta(checkpoint_dir: str | Path, step: int, changes: Mapping[str, Any]) -> None:
    """Change top-level keys of a committed step's meta, such as `val_bpb` that was measured after the save.

    The old meta holds until the new one takes its name, so the step is never uncommitted.

    Raises:
        CheckpointError: no such step, it is not ours, or the disk is full.
    """
    folder = paths.expand(checkpoint_dir)
    meta = read_meta(folder / meta_name(step))
    if "lab" not in meta:
        raise CheckpointError(f"{location(folder)}: step {step} was not saved by nanochat lab; its meta stays as it is")
    own = {key: value for key, value in meta["lab"].items() if key != "meta_sha256"}
    durable.publish(durable.stage_bytes(folder / meta_name(step), encode_meta({**meta, **changes}, own)))
    durable.sync_folder(folder)


def remove_steps(checkpoint_dir: str | Path, steps: Iterable[int]) -> None:
    """Delete every file of these steps, the meta first, so that a step cut short here is no step any more.

    Raises:
        CheckpointError: a file cannot be deleted.
    """
    folder = paths.expand(checkpoint_dir)
    for step in steps:
        _withdraw(folder, step)
        durable.discard(folder / model_name(step))
    durable.sync_folder(folder)


def _require_openable(
    model: durable.Staged, meta: durable.Staged, tokenizer: "Tokenizer | None", config: "GPTConfig | None"
) -> None:
    """Read back what is about to be committed; a step that cannot be opened must not hide an older one that can.

    Raises:
        CheckpointError: what load_model would say of it, or that it would open as another model.
    """
    try:
        with safe_load.open_tensors(model.temporary) as file:
            era = recognise(read_meta(meta.temporary), read_weights(file), file, None)
        beside = model.target.parent / JSON_NAME
        vocabulary = tokenizer.vocabulary if tokenizer is not None else None
        if vocabulary is None and beside.is_file():
            vocabulary = read_vocabulary(beside)[0]
    except (CheckpointError, TokenizerError) as error:
        why = str(error).replace(str(model.temporary), model.target.name)
        raise CheckpointError(f"{location(model.target)}: not saved, it could not be opened again ({why})") from None
    if config is not None and era.config != config:
        raise CheckpointError(
            f"{location(model.target)}: not saved, because meta_data's model_config is not that of `config`; give "
            "config.upstream() there"
        )
    if vocabulary is not None and vocabulary.size != era.config.vocab_size:
        raise CheckpointError(
            f"{location(model.target)}: not saved, because the tokenizer has {vocabulary.size:,} tokens and the model "
            f"{era.config.vocab_size:,}; give the one that it is trained with"
        )


def _own_storage(model_data: Mapping[str, "torch.Tensor"]) -> dict[str, "torch.Tensor"]:
    """The state dict with every weight dense in a storage of its own, as nanochat's own files have it."""
    import torch

    seen: set[int] = set()
    own = {}
    if not isinstance(model_data, Mapping) or not all(
        isinstance(name, str) and isinstance(weight, torch.Tensor) and weight.layout == torch.strided
        for name, weight in model_data.items()
    ):
        raise CheckpointError("model_data must be a state dict, names to dense tensors; give model.state_dict()")
    for name, weight in model_data.items():
        storage = weight.untyped_storage()
        shared = storage.data_ptr() in seen or storage.nbytes() != weight.nbytes
        own[name] = weight.detach()
        if shared or not weight.is_contiguous():
            own[name] = own[name].clone(memory_format=torch.contiguous_format)
        seen.add(storage.data_ptr())
    return own


def _stage_tensors(target: Path, content: Any) -> durable.Staged:
    """Stage what torch.save makes of it, and look whether it could be opened again, while there is time to say so."""
    import torch

    staged = durable.stage(target, lambda file: torch.save(content, file))
    try:
        with safe_load.open_tensors(staged.temporary):
            return staged
    except CheckpointError as error:
        durable.discard(staged.temporary)
        raise CheckpointError(
            f"{location(target)}: not saved, because it could not be opened again: use nested dicts, lists and tuples "
            f"of tensors, numbers, text and None only ({shown(error, 300)})"
        ) from None


def _stage_tokenizer(folder: Path, tokenizer: "Tokenizer") -> list[durable.Staged]:
    """The tokenizer's own file for the folder, unless it is there already."""
    target = folder / JSON_NAME
    content = tokenizer.to_json().encode()
    if target.is_file():
        if target.read_bytes() == content:
            return []
        if list_steps(folder)[0]:
            raise CheckpointError(
                f"{location(folder)}: the steps here were trained with another tokenizer; choose another tag, or "
                "remove this folder if they are no longer wanted"
            )
    return [durable.stage_bytes(target, content)]


def _lab_facts(
    staged: list[durable.Staged], tokenizer: "Tokenizer | None", config: "GPTConfig | None"
) -> dict[str, Any]:
    """What meta says under "lab" beside what the trainer put there."""
    files = {
        content.target.name: {"bytes": content.size, "sha256": content.sha256}
        for content in staged
        if content.target.name != JSON_NAME
    }
    facts: dict[str, Any] = {"layout": LAB_VERSION, "version": __version__, "files": files}
    if tokenizer is not None:
        facts["tokenizer"] = {"fingerprint": tokenizer.fingerprint, "vocab_size": tokenizer.get_vocab_size()}
    if config is not None:
        facts["architecture"] = architecture_to_dict(config)
    return facts


def _save_other_rank(folder: Path, name: str, data: Any) -> None:
    """A rank above 0 leaves its share, and the digest, under pending names for rank 0 to commit."""
    durable.make_folder(folder)
    durable.require_free_space(folder, _size(data))
    target = folder / (name + PENDING)
    content = _stage_tensors(target, data)
    try:
        durable.discard(digest_file(target))  # a digest must never stand beside other bytes than its own
        durable.sync_folder(folder)
        digest = durable.stage_bytes(digest_file(target), content.sha256.encode())
        durable.publish(content)
        durable.publish(digest)
    finally:
        durable.discard(content.temporary)
    durable.sync_folder(folder)


def _pending(folder: Path, name: str, rank: int) -> durable.Staged:
    """What a rank above 0 has left for this step."""
    target, pending = folder / name, folder / (name + PENDING)
    digest = read_digest_file(pending)
    if digest is not None and not pending.exists() and target.exists():
        durable.publish(durable.Staged(pending, target, 0, ""))  # an earlier commit was cut short behind this file
    if digest is None or not pending.exists():
        raise CheckpointError(f"{location(pending)}: rank {rank} has not saved this step; let it save before rank 0")
    return durable.Staged(target, pending, pending.stat().st_size, digest)


def _withdraw(folder: Path, step: int) -> None:
    """Take back the commit of a step that is about to be replaced: neither its weights nor a rank's share may stay."""
    durable.discard(folder / meta_name(step))
    for path in rank_files(folder, step):
        durable.discard(path)
    durable.sync_folder(folder)


def _size(tree: Any) -> int:
    """Bytes of all tensors in a tree."""
    sizes: list[int] = []
    safe_load.map_tensors(tree, lambda tensor: sizes.append(tensor.nbytes))
    return sum(sizes)
