"""What tests of pages share: a page opened as an address opens it, and what it says."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from streamlit.testing.v1 import AppTest

PAGES = Path(__file__).parents[1] / "pages"


def opened(stem: str, query: Mapping[str, Any], state: Mapping[str, Any] | None = None) -> AppTest:
    """The page with these controls in its address and this session state; it must not fail.

    The file itself and not Home: through Home, AppTest loses what a button says.
    """
    page = AppTest.from_file(str(PAGES / f"{stem}.py"), default_timeout=60)
    for name, value in query.items():
        page.query_params[f"{stem}_{name}"] = value
    for name, value in (state or {}).items():
        page.session_state[name] = value
    page.run()
    assert not page.exception
    return page


def words(page: AppTest) -> str:
    """Everything that the page says, element by element; where Markdown is read, without what escapes it."""
    marked = (
        page.title,
        page.subheader,
        page.markdown,
        page.caption,
        page.error,
        page.warning,
        page.info,
        page.success,
    )
    said = [re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", str(element.value)) for kind in marked for element in kind]
    return "\n".join([*said, *(str(element.value) for kind in (page.text, page.code, page.metric) for element in kind)])
