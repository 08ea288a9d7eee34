"""A checkpoint as safetensors, with a model card: for programs that open no .pt file.

safetensors is eight bytes with the length of a header, the header (JSON: name -> type, shape, place) and then the
tensors' bytes, nothing else. They are copied as they are, a piece at a time. Source of the format: Hugging Face,
safetensors, "Format".
"""

import json
import shutil
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanochat import durable, safe_load
from nanochat.analysis.checkpoint_browser import streams
from nanochat.analysis.checkpoint_browser.card import model_card
from nanochat.analysis.checkpoint_browser.inspection import Inspection, inspect
from nanochat.analysis.checkpoint_browser.names import BrowserError, Reference
from nanochat.checkpoint_files import location, model_name, shown
from nanochat.checkpoint_weights import read_weights
from nanochat.tokenizer_files import JSON_NAME

WEIGHTS, CARD, CONFIG = "model.safetensors", "README.md", "config.json"
_TYPES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16", "float64": "F64"}
_ALIGNMENT = 8  # bytes; the header is filled up with spaces to a multiple of it


@dataclass(frozen=True)
class Export:
    """What was written."""

    folder: Path
    files: tuple[tuple[str, int], ...]  # (name, bytes)
    sha256: str  # of the weights
    notes: tuple[str, ...]


def export(reference: Reference, target: Path, overwrite: bool = False) -> Export:
    """Write weights, configuration, tokenizer and card to a folder. Every byte is verified before one is written.

    Raises:
        BrowserError: the folder holds an export already, or the checkpoint's architecture is not known.
        CheckpointError: the checkpoint is damaged, or the disk cannot be written.
    """
    if target.exists() and not target.is_dir():
        raise BrowserError(f"{location(target)}: this is a file; name a folder")
    there = [name for name in (WEIGHTS, CARD, CONFIG) if (target / name).exists()]
    if there and not overwrite:
        raise BrowserError(
            f"{location(target / there[0])}: already there; choose another folder, or --force replaces it"
        )
    seen = inspect(reference, full=True)
    if not seen.verification.ok:
        raise BrowserError(f"{reference.id} is not exported, because it is not whole: {seen.verification.problems[0]}")
    durable.make_folder(target)
    durable.require_free_space(target, int(seen.tensors["bytes"].sum()))
    staged = _weights(reference, target, seen)
    durable.publish(staged)
    for name, content in (
        (CONFIG, json.dumps(configuration(seen), indent=2) + "\n"),
        (CARD, model_card(seen, staged.sha256)),
    ):
        durable.publish(durable.stage_bytes(target / name, content.encode()))
    notes = [_tokenizer(reference, target)]
    durable.sync_folder(target)
    names = [WEIGHTS, CONFIG, CARD] + [JSON_NAME] * (target / JSON_NAME).is_file()
    files = tuple((name, (target / name).stat().st_size) for name in names)
    return Export(target, files, staged.sha256, tuple(notes))


def configuration(seen: Inspection) -> dict[str, Any]:
    """The content of config.json: nanochat's own keys, and all of ours that its later eras need."""
    return {
        "model_type": "nanochat",
        "architecture": dict(seen.config),
        "model_config": {key: seen.config[key] for key in seen.meta["model_config"] if key in seen.config},
        "stage": seen.reference.stage,
        "step": seen.reference.step,
    }


def header_of(specs: Mapping[str, safe_load.TensorSpec], notes: Mapping[str, str]) -> bytes:
    """The start of a safetensors file: eight bytes, then JSON. Tensors lie in the order of `specs`."""
    header: dict[str, Any] = {"__metadata__": dict(notes)}
    place = 0
    for name, spec in specs.items():
        size = streams.count(spec) * spec.item_size
        header[name] = {"dtype": _TYPES[spec.dtype], "shape": list(spec.shape), "data_offsets": [place, place + size]}
        place += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return struct.pack("<Q", len(text)) + text


def _weights(reference: Reference, target: Path, seen: Inspection) -> durable.Staged:
    notes = {"format": "pt", "nanochat": seen.era, "step": str(reference.step), "stage": reference.stage}
    with safe_load.open_tensors(reference.folder / model_name(reference.step)) as file:
        specs = read_weights(file)

        def write(out: Any) -> None:
            out.write(header_of(specs, notes))
            for spec in specs.values():
                for piece in streams.raw_pieces(file, spec):
                    out.write(piece)

        return durable.stage(target / WEIGHTS, write)


def _tokenizer(reference: Reference, target: Path) -> str:
    source = reference.folder / JSON_NAME
    if not source.is_file():
        return "No tokenizer lies beside this checkpoint; its base dir's tokenizer belongs to it and was not copied."
    try:
        shutil.copyfile(source, target / JSON_NAME)
    except OSError as error:
        raise BrowserError(f"{location(source)}: the tokenizer cannot be copied ({shown(error.strerror)})") from None
    return "The tokenizer that was saved with this checkpoint was copied."
