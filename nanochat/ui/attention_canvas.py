"""Attention matrices on a canvas: one large one with hover, or a small one for every head of a model.

A chart of 256 x 256 rectangles takes a browser seconds; a canvas takes milliseconds. Each weight goes over the wire as
one byte, the lower triangle alone: 0 is "cannot see", 1 to 255 is the weight from 0 to 1, finer where it is small. The
bytes are deflated, which always helps: the weights of a row sum to 1, so in a long row nearly all of them are small.
Texts go as data and are written with `textContent` and `fillText`, so nothing in them can become markup.

    query = matrix(weights, seen, texts, key="attention_visualizer_matrix", label="Attention", selected=3)
"""

import base64
import functools
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import streamlit as st

from nanochat.ui.chips import spell

if TYPE_CHECKING:
    import numpy as np

MAX_SHOWN = 60  # characters of one token
GRID_BYTES = 98_304  # that all small matrices together may take
SMALLEST, LARGEST = 8, 96  # rows of a small matrix
_FOLDER = Path(__file__).parent


def matrix(
    weights: "np.ndarray",
    seen: "np.ndarray",
    texts: Sequence[str],
    *,
    key: str,
    label: str,
    selected: int | None = None,
    on_pick: Callable[[], None] | None = None,
) -> None:
    """Draw weights (T, T); a click on a row, or Enter, picks its token: `picked(key)` is its index in `on_pick`.

    seen: (T, T) of bool, what can be seen at all. selected: the row that gets a frame. Beside it: how much each key
    receives, and over how many keys each query spreads (the exponential of its entropy).
    """
    import numpy as np

    received = np.where(seen, weights, 0.0).sum(0) / np.maximum(seen.sum(0), 1)
    logs = np.log(np.maximum(weights, 1e-12))
    spread = np.exp(-(weights * logs).sum(1))
    data = {
        "kind": "matrix",
        "label": label,
        "size": len(texts),
        "texts": [_clipped(text) for text in texts],
        "cells": packed(cells_of(weights, seen)),
        "received": [round(float(value), 4) for value in received],
        "spread": [round(float(value), 2) for value in spread],
        "selected": selected,
    }
    _component()(data=data, key=key, on_picked_change=on_pick or _nothing)


def grid(
    weights: "np.ndarray",
    seen: Sequence["np.ndarray"],
    names: Sequence[Sequence[str]],
    off: frozenset[tuple[int, int]],
    *,
    key: str,
    label: str,
    places: bool = True,
    on_pick: Callable[[], None] | None = None,
) -> None:
    """Draw every head of weights (L, H, T, T) small; a click picks one: `picked(key)` is layer * H + head.

    seen: per layer (T, T). names: per layer and head, what stands below it. off: heads drawn as switched off.
    places: say which layer and head each is.
    """
    import numpy as np

    L, H, T, _ = weights.shape
    room = int((2 * GRID_BYTES / (L * H)) ** 0.5)
    block = -(-T // min(max(room, SMALLEST), LARGEST))
    starts = np.arange(0, T, block)
    small = np.maximum.reduceat(np.maximum.reduceat(weights, starts, axis=2), starts, axis=3)
    masks = [np.maximum.reduceat(np.maximum.reduceat(mask, starts, axis=0), starts, axis=1) for mask in seen]
    data = {
        "kind": "grid",
        "label": label,
        "size": len(starts),
        "heads": H,
        "cells": packed(*(cells_of(small[layer, head], masks[layer]) for layer in range(L) for head in range(H))),
        "names": [name for row in names for name in row],
        "off": [layer * H + head for layer, head in sorted(off)],
        "places": places,
    }
    _component()(data=data, key=key, on_picked_change=on_pick or _nothing)


def picked(key: str) -> int | None:
    """What was just picked in the component of this key; to be read in its `on_pick`."""
    value = getattr(st.session_state.get(key), "picked", None)
    return int(value) if isinstance(value, int | float) else None


def cells_of(weights: "np.ndarray", seen: "np.ndarray") -> bytes:
    """The lower triangle of weights (T, T) row by row, a byte each.

    0: not seen; else 1 + 254 sqrt(weight), so that a weight of 1 % and one of 0 look different.
    """
    import numpy as np

    cells = np.where(seen, 1 + np.rint(254 * np.sqrt(np.clip(weights, 0.0, 1.0))), 0).astype(np.uint8)
    return cells[np.tril_indices(len(cells))].tobytes()


def packed(*matrices: bytes) -> str:
    """Matrices one behind the other, deflated (RFC 1950), in base64."""
    return base64.b64encode(zlib.compress(b"".join(matrices), 9)).decode("ascii")


def _clipped(text: str) -> str:
    text = spell(text)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"


def _nothing() -> None:
    """A component reports a click only where somebody listens."""


@functools.cache
def _component() -> Any:
    """The component, registered once a process."""
    return st.components.v2.component(
        "nanochat_lab_attention",
        css=(_FOLDER / "attention_canvas.css").read_text(encoding="utf-8"),
        js=(_FOLDER / "attention_canvas.js").read_text(encoding="utf-8"),
    )
