"""What stands around every page: the browser tab's title, and the navigation, built from the catalog."""

import contextlib
import math
from typing import Any

import streamlit as st
from streamlit.errors import StreamlitAPIException

from nanochat import threads
from nanochat.ui import catalog, home

SHELL = "shell"  # in the session's state: "home" from Home.py to the page that it runs, then "page"


def navigation() -> Any:
    """The sidebar with every page whose file is there; returns the page that was chosen, to be run."""
    st.set_page_config(page_title="nanochat lab", page_icon=home.ICON, layout="wide")
    st.logo(home.LOGO, size="large", icon_image=home.ICON)
    # No url_path here: with one, a cold link to a page says "Page not found" and the page freezes.
    sections: dict[str, list] = {"Start": [st.Page(home.draw, title="Home", icon=":material/home:", default=True)]}
    for page in catalog.available():
        sections.setdefault(page.section, []).append(st.Page(str(page.file), title=page.title, icon=page.icon))
    return st.navigation(sections)


def through_home() -> None:
    """Make sure that Home.py has run before a page.

    The folder is named `pages`, as Streamlit once wanted it. So a fresh server whose first visit is a link to a page
    runs that page alone, until somebody calls st.navigation: this does, and runs again, through Home.py. Where there is
    no Home.py, in a test of one page, the page goes on by itself.
    """
    state = st.session_state.get(SHELL)
    st.session_state[SHELL] = "page"
    if state == "home":
        return
    navigation()
    if state is None:
        st.rerun()


def heading(stem: str, purpose: str | None = None) -> None:
    """A page's title with its one-line purpose, from the catalog; the first call of every page."""
    through_home()
    _without_infinity()
    threads.as_usual()  # each visit runs in a thread of its own
    page = next(page for page in catalog.PAGES if page.stem == stem)
    st.title(page.title, anchor=False)
    st.markdown(purpose or page.purpose)


def _without_infinity() -> None:
    """Take infinite numbers out of the address: Streamlit would make whole numbers of them, and fail."""
    for name, text in st.query_params.to_dict().items():
        try:
            infinite = math.isinf(float(text)) and not name.endswith(("_text", "_prompt"))
        except ValueError:
            continue
        if infinite:
            with contextlib.suppress(StreamlitAPIException):  # a widget has it already, and with it a number
                del st.query_params[name]
                st.rerun()
