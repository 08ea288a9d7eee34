"""Write one step of a run so that no kill, full disk or second writer can spoil it.

Optimizer, model and meta are first written beside their places and synced (durable.py). Then they get their names, the
meta file last: it is the commit record and holds size and SHA-256 of the others. A kill at any moment leaves the last
committed step whole. Names, keys and dtypes are nanochat's own, so its code opens what we write.
"""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanochat import __version__, durable, safe_load
from nanochat.checkpoint_files import (
    CheckpointError,
    digest_file,
    find_optimizer,
    location,
    meta_name,
    model_name,
    optimizer_files,
    optimizer_name,
    read_digest_file,
    shown,
)
from nanochat.checkpoint_meta import LAB_VERSION, encode_meta
from nanochat.checkpoint_runs import list_steps

if TYPE_CHECKING:
    import torch

    from nanochat.tokenizer import Tokenizer

TOKENIZER_NAME = "tokenizer.json"


def save_checkpoint(
    checkpoint_dir: str | Path,
    step: int,
    model_data: Mapping[str, "torch.Tensor"],
    optimizer_data: Any,
    meta_data: Mapping[str, Any],
    rank: int = 0,
    *,
    tokenizer: "Tokenizer | None" = None,
) -> None:
    """Save one step. It exists once this returns; before that the folder is as it was.

    Every rank saves its own `optimizer_data` (None: none); rank 0, called last, also saves the model and commits. In
    `meta_data`, nanochat's keys are at the top and ours under "lab". If the step exists already it is replaced: all new
    content is on the disk first, and only for the instant of renaming is the step uncommitted.

    Raises:
        CheckpointError: another writer holds the folder, it belongs to another tokenizer, the disk is full or cannot be
        written. Nothing is left behind and older steps are untouched.
    """
    folder = Path(checkpoint_dir)
    if type(step) is not int or not 0 <= step < 10**12:
        raise CheckpointError(f"step is {shown(step)}; give a whole number from 0 up")
    if rank != 0:
        _save_other_rank(folder, step, optimizer_data, rank)
        return
    model_data = _own_storage(model_data)
    encode_meta(meta_data, {})  # a meta that cannot be written must fail before anything is
    durable.make_folder(folder)
    lock = contextlib.nullcontext() if durable.holds_lock(folder) else durable.directory_lock(folder)
    with lock:
        durable.require_free_space(folder, _size((model_data, optimizer_data)))
        staged: list[durable.Staged] = []
        try:
            if tokenizer is not None:
                staged += _stage_tokenizer(folder, tokenizer)
            if optimizer_data is not None:
                staged.append(_stage_tensors(folder / optimizer_name(step), optimizer_data))
            staged.append(_stage_tensors(folder / model_name(step), model_data))
            lab = _lab_facts(folder, step, staged, tokenizer)
            meta = durable.stage_bytes(folder / meta_name(step), encode_meta(meta_data, lab))
            staged.append(meta)
            _withdraw(folder, step, optimizer_data is not None)
            for content in staged[:-1]:
                durable.publish(content)
            durable.sync_folder(folder)
            durable.publish(meta)
            durable.sync_folder(folder)
        finally:
            for content in staged:
                durable.discard(content.temporary)


def _own_storage(model_data: Mapping[str, "torch.Tensor"]) -> dict[str, "torch.Tensor"]:
    """The state dict with every weight dense in a storage of its own, as nanochat's own files have it."""
    seen: set[int] = set()
    own = {}
    for name, weight in model_data.items():
        storage = weight.untyped_storage()
        shared = storage.data_ptr() in seen or storage.nbytes() != weight.nbytes
        own[name] = weight.detach().clone().contiguous() if shared else weight.detach().contiguous()
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
    target = folder / TOKENIZER_NAME
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


def _lab_facts(folder: Path, step: int, staged: list[durable.Staged], tokenizer: "Tokenizer | None") -> dict[str, Any]:
    """What meta says under "lab" beside what the trainer put there."""
    files = {
        content.target.name: {"bytes": content.size, "sha256": content.sha256}
        for content in staged
        if content.target.name != TOKENIZER_NAME
    }
    for path in optimizer_files(folder, step):  # other ranks have written theirs before rank 0 commits
        digest = read_digest_file(path)
        if path.name not in files and digest is not None:
            files[path.name] = {"bytes": path.stat().st_size, "sha256": digest}
    facts: dict[str, Any] = {"layout": LAB_VERSION, "version": __version__, "files": files}
    if tokenizer is not None:
        facts["tokenizer"] = {"fingerprint": tokenizer.fingerprint, "vocab_size": tokenizer.get_vocab_size()}
    return facts


def _save_other_rank(folder: Path, step: int, optimizer_data: Any, rank: int) -> None:
    """A rank other than 0 saves its share of the optimizer, with the digest in a small file for rank 0 to commit."""
    if optimizer_data is None:
        return
    durable.make_folder(folder)
    durable.require_free_space(folder, _size(optimizer_data))
    target = folder / optimizer_name(step, rank)
    content = _stage_tensors(target, optimizer_data)
    try:
        digest = durable.stage_bytes(digest_file(target), content.sha256.encode())
        durable.publish(content)
        durable.publish(digest)
    finally:
        durable.discard(content.temporary)
    durable.sync_folder(folder)


def _withdraw(folder: Path, step: int, with_optimizer: bool) -> None:
    """Take back the commit of a step that is about to be replaced: new weights must not pass as the old ones.

    If the new save has no optimizer state, the old one goes too: it belongs to other weights.
    """
    old = [folder / meta_name(step)]
    if not with_optimizer:
        old += [path for path in (find_optimizer(folder, step),) if path]
    for path in old:
        durable.discard(path)
    durable.sync_folder(folder)


def _size(tree: Any) -> int:
    """Bytes of all tensors in a tree."""
    sizes: list[int] = []
    safe_load.map_tensors(tree, lambda tensor: sizes.append(tensor.nbytes))
    return sum(sizes)
