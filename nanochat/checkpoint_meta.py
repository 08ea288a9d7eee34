"""Read and write `meta_*.json`, the commit record of a checkpoint.

nanochat's own keys stay at the top level. What we add stands under `lab`: size and digest of each file, the tokenizer's
fingerprint, and a digest of the meta file itself, so that a flipped bit in a loss is found as well as one in a weight.
That last digest is taken over the file's text with its own 64 digits set to 0.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nanochat.checkpoint_files import CheckpointError, damaged, location, read_small, shown
from nanochat.checkpoint_values import check_values, wrong
from nanochat.gpt_config import LIMITS

MAX_META_BYTES = 1 << 20  # real ones have 1 to 2 kB
LAB_VERSION = 1  # of the layout of `lab`

_DIGEST = re.compile(rb'"meta_sha256": "([0-9a-f]{64})"')
_NO_DIGEST = "0" * 64
_OF_ONE_SAVE = ("files", "layout", "version", "tokenizer", "meta_sha256")


def read_meta(path: str | Path) -> dict[str, Any]:
    """The meta of one step. NaN and Infinity are accepted, because nanochat writes them.

    Raises:
        CheckpointError: unreadable, half written, not what we wrote, no model_config that describes a model, or a
            value of another kind than nanochat writes where somebody reads it.
    """
    text = read_small(path, MAX_META_BYTES)
    if len(text) > MAX_META_BYTES:
        raise CheckpointError(f"{location(path)}: more than {MAX_META_BYTES:,} bytes; this is no nanochat meta file")
    try:
        meta = json.loads(text.decode("utf-8"))
    except RecursionError:
        raise CheckpointError(f"{location(path)}: nested too deep; this is no nanochat meta file") from None
    except ValueError as error:  # broken JSON, text that is not UTF-8, a number of thousands of digits
        where = f"line {error.lineno}: {error.msg}" if isinstance(error, json.JSONDecodeError) else "not JSON text"
        raise damaged(path, f"not complete JSON ({where})") from None
    if not isinstance(meta, dict):
        raise wrong(path, "the top level", meta, "an object")
    _check_digest(path, text, meta)
    _check_model_config(path, meta)
    check_values(path, meta)
    for key in ("user_config", "lab"):  # read with .get(key, {}) everywhere, so null may not be what is there
        if meta.get(key, {}) is None:
            raise wrong(path, key, None, "an object")
    layout = meta.get("lab", {}).get("layout", LAB_VERSION)
    if layout != LAB_VERSION:
        raise CheckpointError(
            f"{location(path)}: written by another version of nanochat lab (layout {shown(layout)}); upgrade"
        )
    recorded_files(meta, path)
    return meta


def recorded_files(meta: Mapping[str, Any], path: str | Path = "meta") -> dict[str, tuple[int, str]]:
    """File name -> (bytes, sha256) of what was saved with this meta; empty for a checkpoint that is not ours."""
    files = meta.get("lab", {}).get("files", {})
    if not isinstance(files, dict):
        raise wrong(path, "lab.files", files, "an object")
    recorded = {}
    for name, entry in files.items():
        size, digest = (entry.get("bytes"), entry.get("sha256")) if isinstance(entry, dict) else (None, None)
        if type(size) is not int or not isinstance(digest, str) or not re.fullmatch("[0-9a-f]{64}", digest):
            raise wrong(path, f"lab.files['{shown(name)}']", entry, "a size and a SHA-256")
        recorded[name] = (size, digest)
    return recorded


def encode_meta(meta: Mapping[str, Any], lab: Mapping[str, Any]) -> bytes:
    """The text of a meta file: nanochat's keys as given, then ours with the digest of the text.

    Raises:
        CheckpointError: a value that is no JSON, or no model_config.
    """
    if not isinstance(meta, Mapping) or not isinstance(meta.get("lab", {}), Mapping):
        raise CheckpointError('meta_data and its "lab" must be dicts; give at least {"model_config": {...}}')
    # Of a meta that was loaded and is saved again, what described its files does not hold any more.
    kept = {key: value for key, value in meta.get("lab", {}).items() if key not in _OF_ONE_SAVE}
    whole = {**meta, "lab": {**kept, **lab, "meta_sha256": _NO_DIGEST}}
    _check_model_config("meta_data", whole)
    try:
        text = json.dumps(whole, indent=2).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"meta_data cannot be written as JSON ({shown(error)}); use plain numbers and text"
        ) from None
    # The last occurrence is ours; whatever the caller's own text says stands before it.
    if len(text) > MAX_META_BYTES:
        raise CheckpointError(
            f"meta_data takes {len(text):,} bytes as JSON and may take {MAX_META_BYTES:,}; put long records into "
            "a file of their own"
        )
    head, key, tail = text.rpartition(f'"meta_sha256": "{_NO_DIGEST}"'.encode())
    digest = hashlib.sha256(text).hexdigest()
    return head + key.replace(_NO_DIGEST.encode(), digest.encode()) + tail


def _check_digest(path: str | Path, text: bytes, meta: Mapping[str, Any]) -> None:
    """If the meta is ours, its text must be what we wrote."""
    ours = "lab" in meta or b"meta_sha256" in text
    if not ours:
        return
    found = list(_DIGEST.finditer(text))
    if found:
        start, end = found[-1].span(1)
        if hashlib.sha256(text[:start] + _NO_DIGEST.encode() + text[end:]).hexdigest().encode() == found[-1][1]:
            return
    raise CheckpointError(
        f"{location(path)}: changed since it was saved, by damage or by hand; restore it from a copy, take another "
        'step, or remove its "lab" entry to open the checkpoint unverified'
    )


def _check_model_config(path: str | Path, meta: Mapping[str, Any]) -> None:
    config = meta.get("model_config")
    if not isinstance(config, dict):
        raise wrong(path, "model_config", config, "an object with the model's sizes")
    for key, largest in LIMITS.items():
        value = config.get(key)
        if type(value) is not int or not 0 < value <= largest:
            raise wrong(path, f"model_config.{key}", value, f"a whole number from 1 to {largest:,}")
    pattern = config.get("window_pattern")
    if not (pattern is None or isinstance(pattern, str)):
        raise wrong(path, "model_config.window_pattern", pattern, "text such as 'SSSL'")
