"""Which base run a fine-tuning began with, by its own meta file: its name need not be that of the fine-tuning."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nanochat.checkpoint_files import location, meta_name, shown
from nanochat.sft_tasks import ChatSFTError


def base_tag(meta: Mapping[str, Any]) -> str | None:
    """The name of the base run, by the meta file of a fine-tuning of ours; None where it does not tell."""
    said = (meta.get("lab") or {}).get("base")
    tag = said.get("folder") if isinstance(said, dict) else None
    return tag if isinstance(tag, str) else None


def began_with(folder: Path) -> str:
    """The name of the base run of the fine-tuning in this folder.

    Raises ChatSFTError where its last meta file does not tell, CheckpointError where there is no such run.
    """
    tag = _last_base(folder)
    if tag is None:
        raise ChatSFTError(f"{location(folder)} does not say which base run it began with; give --model-tag")
    return tag


def require_base(folder: Path, tag: str) -> None:
    """Refuse to go on with a fine-tuning from another base run than it began with. Raises ChatSFTError."""
    found = _last_base(folder)
    if found not in (None, tag):
        raise ChatSFTError(
            f"{location(folder)} began with the base run {shown(found)!r}, not {shown(tag)!r}; give --model-tag with "
            "that name"
        )


def _last_base(folder: Path) -> str | None:
    from nanochat.checkpoint_manager import find_last_step, read_meta

    return base_tag(read_meta(folder / meta_name(find_last_step(folder))))
