"""Figures in a row of tiles, the same on every page."""

import streamlit as st


def figures(*rows: tuple[str, str | None] | tuple[str, str | None, str | None]) -> None:
    """Tiles that wrap where the screen is narrow, so that no figure is cut.

    rows: (label, value; None where it is not known) and what it means, for a tooltip.
    """
    with st.container(horizontal=True):
        for label, value, *meaning in rows:
            st.metric(label, value or "–", help=meaning[0] if meaning else None, border=True)
