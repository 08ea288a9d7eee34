"""What a training did: its figures with their sources, its curve with what happened on it, and the whole as a table.

    from nanochat.analysis import training_dashboard as dashboard
    run = dashboard.open_run("base_checkpoints/d20")
    dashboard.summary(run).best
    dashboard.curve([run], "train_loss", dashboard.Look(axis="tokens"))
    dashboard.marks(run)

In a terminal: nanochat training_dashboard base_checkpoints/d20
"""

from nanochat.analysis.training_dashboard.curve import (
    AXES,
    METRICS,
    DashboardError,
    Look,
    available,
    curve,
    extent,
    place_of,
)
from nanochat.analysis.training_dashboard.follow import Follower
from nanochat.analysis.training_dashboard.history import History, open_log, open_run, open_upload, told_apart
from nanochat.analysis.training_dashboard.horizon import steps_in_all
from nanochat.analysis.training_dashboard.levels import Level, levels, phase_at, schedule_of
from nanochat.analysis.training_dashboard.marks import Mark, marks, told
from nanochat.analysis.training_dashboard.report import (
    Figure,
    Summary,
    encoded,
    export,
    progress,
    summary,
    write,
)

__all__ = [
    "AXES", "METRICS", "DashboardError", "Figure", "Follower", "History", "Level", "Look", "Mark", "Summary",
    "available", "curve", "encoded", "export", "extent", "levels", "marks", "open_log", "open_run", "open_upload",
    "phase_at", "place_of", "progress", "schedule_of", "steps_in_all", "summary", "told", "told_apart", "write",
]  # fmt: skip
