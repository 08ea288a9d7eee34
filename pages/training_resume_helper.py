"""Resume helper: the last good checkpoint of a run that stopped, how to go on, a proof that it works, and a drill."""

import streamlit as st

from nanochat.ui.errors import errors_as_sentences
from nanochat.ui.shell import heading
from nanochat.ui.training_resume_helper import pick, show, teach
from nanochat.ui.training_resume_helper_jobs import PAGE, drill


def main() -> None:
    """Draw the page."""
    heading(PAGE, "Go on with a run that stopped: from where, how, and whether it really goes on.")
    with errors_as_sentences("looking at the run"):
        picked = pick()
        if picked is None:
            teach()
        else:
            show(*picked)
    st.divider()
    with errors_as_sentences("running the drill"):
        drill()


main()
