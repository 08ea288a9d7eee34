"""Models that pages share: each opened once for all pages and tabs, never changed, with one fair queue in front of it.

A model that needs more memory than is free is asked about before it is opened.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import streamlit as st

from nanochat.analysis import chat
from nanochat.checkpoint_files import meta_name, model_name
from nanochat.model_queue import ModelQueue
from nanochat.ui.pickers import Checkpoint

if TYPE_CHECKING:
    from nanochat.checkpoint_manager import LoadedModel

Stamp = tuple[int, ...]  # time and size of a step's files


@dataclass
class Shared:
    """A model that all tabs share, with the queue in front of it."""

    key: tuple[str, int, Stamp, str]  # folder, step, its files' times and sizes, device: what results are kept under
    loaded: "LoadedModel"
    queue: ModelQueue = field(default_factory=ModelQueue)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """The model for a computation in one piece, when its turn has come. Raises BusyError."""
        with self.queue.seat(), self.queue.turn():
            yield


class TooLargeError(ValueError):
    """A model needs more memory than is free; the person has not said to open it all the same."""


def stamp_of(folder: Path, step: int) -> Stamp:
    """What changes when a step is saved again. Raises OSError where its files are gone."""
    files = [(folder / name(step)).stat() for name in (model_name, meta_name)]
    return tuple(number for file in files for number in (file.st_mtime_ns, file.st_size))


@st.cache_resource(max_entries=2, show_spinner="Opening the model")
def _opened(folder: str, step: int, stamp: Stamp, device: str, _anyway: bool) -> Shared:
    """`stamp` has a step that was saved again opened again."""
    from nanochat.checkpoint_manager import load_model

    needed = chat.memory(folder, step, device)
    if not needed.fits and not _anyway:
        raise TooLargeError(needed.sentence)
    return Shared((folder, step, stamp, device), load_model(folder, step, device))


def opened_once(folder: str, step: int, stamp: Stamp) -> "LoadedModel":
    """The model of a step, on the CPU; `stamp` has it opened again after it was saved again. Raises CheckpointError."""
    return _opened(folder, step, stamp, "cpu", True).loaded


def open_shared(page: str, chosen: Checkpoint, device: str = "cpu") -> Shared | None:
    """The model of a checkpoint; None while the person has not decided about one that is too large.

    page: the page's stem, for widgets' keys. A model that this tab has worked with stays usable when its files are
    deleted. Raises CheckpointError, TokenizerError.
    """
    kept: tuple[str, Shared] | None = st.session_state.get(f"{page}_opened")
    try:
        stamp = stamp_of(chosen.folder, chosen.step)
    except OSError:
        if kept is not None and kept[0] == chosen.id:
            st.warning("The files of this checkpoint are gone; the page goes on with what is in memory.")
            return kept[1]
        stamp = ()  # opening says what is missing
    accepted = f"{page}_anyway_{chosen.id}"
    try:
        found = _opened(str(chosen.folder), chosen.step, stamp, device, bool(st.session_state.get(accepted)))
    except TooLargeError as error:
        st.warning(
            f"This model is too large for this machine now: {error}. Close something and reload, choose a smaller run "
            "above, or open it all the same: the machine may get very slow.",
            icon=":material/memory:",
        )
        if st.button("Open it anyway", key=f"{page}_anyway"):
            st.session_state[accepted] = True
            st.rerun()
        return None
    st.session_state[f"{page}_opened"] = (chosen.id, found)
    return found


def tell_waiting(place: Any, before: int) -> None:
    """Say in `place`, while somebody waits for a model, how many come first. A click on the page ends the waiting."""
    place.caption(f"The model is busy: {before} wait before you.")
