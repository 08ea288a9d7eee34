"""Learning rate finder: what a run says about its learning rates, and a range test that finds new ones."""

from nanochat.ui.errors import errors_as_sentences
from nanochat.ui.lr_finder import HISTORY, PAGE, pick, show_run, show_test, teach
from nanochat.ui.shell import heading


def main() -> None:
    """Draw the page."""
    heading(PAGE, "See how a run's learning rate went, and find one for the next by a range test on the real model.")
    with errors_as_sentences("looking at the learning rates"):
        picked = pick()
        if picked is None:
            teach()
        else:
            view, run = picked
            (show_run if view == HISTORY else show_test)(run)


main()
