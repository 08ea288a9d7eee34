"""The browser side of nanochat lab. Run it from the project's folder: streamlit run Home.py

This file sets up the navigation (nanochat/ui/shell.py) and shows the chosen page. Nothing heavy is imported before it
is needed: the page is there first, PyTorch follows in the background.
"""

import streamlit as st

from nanochat.ui import shell, warm


def main() -> None:
    """Set up the navigation and show the chosen page."""
    page = shell.navigation()
    warm.start()
    st.session_state[shell.SHELL] = "home"
    page.run()


main()
