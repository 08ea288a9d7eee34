"""Tokens as chips: one box a token, with its text, its id and a tooltip, for a mouse and for a keyboard.

Whitespace and characters that hide or reorder text are made visible. The browser gets the texts as data and writes
them with `textContent`, so nothing in them can become markup. Blue and underlined is what a model is trained to write,
hatched grey what it only reads; no meaning hangs on a colour alone. A long text is cut into windows: only the chips of
one window go to the browser, so 100,000 characters do not freeze it.

    picked = chips([Chip("Hello", 1000, "5 bytes"), Chip(" world", 1001)], key="playground_chips", label="Tokens")
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import streamlit as st

from nanochat.ui.text import visible

# How a chip can look -> the letter that the browser gets. "token" cycles through four tints, so that neighbours differ.
STYLES = {"token": "t", "special": "s", "supervised": "u", "context": "c", "plain": "p", "cut": "x"}
WINDOW = 800  # chips on the screen at once: about 60 KiB on the wire, a screenful or two
MAX_SHOWN = 400  # characters of one chip or tooltip: a token can be a run of thousands of blanks
_MARKS = str.maketrans({" ": "·", "\n": "⏎", "\t": "⇥", "\r": "␍", "\u00a0": "⍽"})
_FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Chip:
    """One token as it is drawn."""

    text: str  # what it stands for; made visible when drawn
    id: int | None = None  # its id, shown in the tooltip
    tooltip: str = ""  # one or more lines that mouse and keyboard show
    style: str = "token"  # one of STYLES
    heat: float | None = None  # 0 to 1: fills the chip from cividis (dark is low); None for the style's own fill


def spell(text: str) -> str:
    r"""Text with its whitespace visible and everything that hides or reorders written as its code.

    >>> spell(" a\tb\n\u202e")
    '·a⇥b⏎\\u202e'
    """
    return visible(text.translate(_MARKS))


def chips(
    tokens: Sequence[Chip],
    *,
    key: str,
    label: str,
    legend: Mapping[str, str] | None = None,
    pick: bool = False,
    selected: int | None = None,
    window: int = WINDOW,
) -> int | None:
    """Draw tokens; returns the index of the chip that was just clicked (or Enter pressed on), if `pick`, else None.

    key: unique in the app, so begin it with the page's name. label: what a screen reader says. legend: style -> words,
    drawn above. selected: the index that gets a frame. window: chips shown at once; more get a pager below.
    """
    first = 0
    if len(tokens) > window:
        pages = -(-len(tokens) // window)
        chosen = f"{key}_window"
        if chosen in st.session_state and st.session_state[chosen] > pages:  # the text has become shorter
            st.session_state[chosen] = pages
        with st.container(horizontal=True, vertical_alignment="center"):
            first = (st.pagination(pages, key=chosen) - 1) * window
            last = min(first + window, len(tokens))
            st.caption(f"{label}: {first + 1:,} to {last:,} of {len(tokens):,}", width="content")
    shown = tokens[first : first + window]
    result = _component()(
        data=payload(shown, label, legend or {}, pick, None if selected is None else selected - first, first),
        key=f"{key}_chips",
        on_picked_change=_nothing,
    )
    picked = getattr(result, "picked", None)
    return int(picked) if pick and isinstance(picked, int | float) and 0 <= picked < len(tokens) else None


def payload(
    tokens: Sequence[Chip], label: str, legend: Mapping[str, str], pick: bool, selected: int | None, first: int
) -> dict[str, Any]:
    """What goes to the browser for one window of chips: columns of plain strings, no markup."""
    return {
        "label": label,
        "first": first,
        "pick": pick,
        "selected": selected,
        "legend": [[STYLES[style], words] for style, words in legend.items()],
        "texts": [_clipped(spell(token.text)) or "∅" for token in tokens],
        "tips": [_tip(token) for token in tokens],
        "styles": "".join(STYLES[token.style] for token in tokens),
        "breaks": [index for index, token in enumerate(tokens) if "\n" in token.text],
        "heat": [None if token.heat is None else round(min(max(token.heat, 0.0), 1.0), 3) for token in tokens]
        if any(token.heat is not None for token in tokens)
        else [],
    }


def _tip(token: Chip) -> str:
    lines = [f"id {token.id}"] if token.id is not None else []
    lines += [visible(line) for line in token.tooltip.split("\n") if line]
    return _clipped("\n".join(lines))


def _clipped(text: str) -> str:
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}… ({len(text):,} characters)"


def _nothing() -> None:
    """A component reports a click only where somebody listens; the answer is read from the result."""


@functools.cache
def _component() -> Any:
    """The component, registered once a process; mounting it registers it with whichever server runs."""
    return st.components.v2.component(
        "nanochat_lab_chips",
        css=(_FOLDER / "chips.css").read_text(encoding="utf-8"),
        js=(_FOLDER / "chips.js").read_text(encoding="utf-8"),
    )
