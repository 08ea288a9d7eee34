"""Models that pages look into: each opened once for all pages and tabs, and never changed."""

from pathlib import Path
from typing import TYPE_CHECKING

import streamlit as st

from nanochat.checkpoint_files import meta_name, model_name

if TYPE_CHECKING:
    from nanochat.checkpoint_manager import LoadedModel

Stamp = tuple[int, ...]  # time and size of a step's files


def stamp_of(folder: Path, step: int) -> Stamp:
    """What changes when a step is saved again. Raises OSError where its files are gone."""
    files = [(folder / name(step)).stat() for name in (model_name, meta_name)]
    return tuple(number for file in files for number in (file.st_mtime_ns, file.st_size))


@st.cache_resource(max_entries=2, show_spinner="Opening the model")
def opened_once(folder: str, step: int, stamp: Stamp) -> "LoadedModel":
    """The model of a step, on the CPU; `stamp` has it opened again after it was saved again. Raises CheckpointError."""
    from nanochat.checkpoint_manager import load_model

    return load_model(folder, step)
