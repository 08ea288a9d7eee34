"""Training dashboard: curves of one run or several, what happened on them, and the figures with their sources."""

from nanochat.ui.errors import errors_as_sentences
from nanochat.ui.shell import heading
from nanochat.ui.training_dashboard import show, teach
from nanochat.ui.training_dashboard_runs import PAGE, pick


def main() -> None:
    """Draw the page."""
    heading(PAGE, "Follow a training while it runs, see what happened on its curve, and compare several.")
    with errors_as_sentences("reading the training"):
        folders, logs, uploaded = pick()
        if folders or logs or uploaded:
            show(folders, logs, uploaded)
        else:
            teach()


main()
