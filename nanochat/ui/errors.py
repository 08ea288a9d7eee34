"""What a person sees when something fails: one sentence. What a developer needs goes to a log file that is named."""

import logging
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import streamlit as st

from nanochat.errors import is_message
from nanochat.paths import workspace
from nanochat.ui.text import visible

logger = logging.getLogger(__name__)


def log_file() -> Path:
    """Where the app writes the details of an error that it did not expect."""
    return workspace() / "logs" / "app.log"


def show_problem(headline: str, detail: str = "") -> None:
    """One error box with a sentence of ours, and below it, as plain text, what may come from a disk."""
    st.error(headline, icon=":material/error:")
    if detail:
        st.text(visible(detail))


@contextmanager
def errors_as_sentences(doing: str) -> Iterator[None]:
    """Show any exception of the block as one sentence; `doing` completes "Something failed while ...".

    An error type of ours is already a sentence with a remedy. Anything else is a bug: its traceback goes to the log
    file, and the sentence says where that is. Streamlit's own control flow (stop, rerun) is not derived from Exception
    and passes through.
    """
    try:
        yield
    except Exception as error:
        detail = str(error)
        if not is_message(error):
            logger.exception("Something failed while %s", doing)
            detail = _written_down(doing)
        show_problem(f"Something failed while {doing}.", detail)


def _written_down(doing: str) -> str:
    path = log_file()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(f"{datetime.now().isoformat(timespec='seconds')} while {doing}\n{traceback.format_exc()}\n")
    except OSError as error:
        return f"The details are on the terminal that runs the app; {path} could not be written ({error.strerror})."
    return f"The details are in {path}."
