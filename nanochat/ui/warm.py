"""Loads the slow libraries while the first page is being read, so that the second page need not wait for them."""

import importlib
import logging
import threading

import streamlit as st

SLOW = ("polars", "altair", "torch")  # seconds each, in the order in which pages meet them
logger = logging.getLogger(__name__)


@st.cache_resource(show_spinner=False)
def start() -> threading.Thread:
    """Begin once a server; a page that needs one of them meanwhile waits for its import as it would without this."""
    thread = threading.Thread(target=_load, name="nanochat-warm-start", daemon=True)
    thread.start()
    return thread


def _load() -> None:
    for name in SLOW:
        try:
            importlib.import_module(name)
        except ImportError as error:  # the page that needs it says so in its own words
            logger.warning("%s could not be loaded ahead: %s", name, error)
