"""Checkpoints: list, sort, inspect, compare, tidy up, export. For the page and the terminal tool of the same stem.

    from nanochat.analysis.checkpoint_browser import list_checkpoints, resolve, inspect
    list_checkpoints(nanochat.paths.roots()).frame

Each part is a file: names (which one is meant), listing, inspection, comparison, tidy, export.
"""

from nanochat.analysis.checkpoint_browser.comparison import (
    Answer,
    Comparison,
    TensorReport,
    answers,
    compare,
    compare_tensors,
)
from nanochat.analysis.checkpoint_browser.export import Export, export
from nanochat.analysis.checkpoint_browser.inspection import Figure, Inspection, inspect
from nanochat.analysis.checkpoint_browser.listing import (
    INTEGRITY,
    SORTS,
    Listing,
    disk_use,
    list_checkpoints,
    sort_rows,
)
from nanochat.analysis.checkpoint_browser.names import BrowserError, Reference, resolve, resolve_folder
from nanochat.analysis.checkpoint_browser.tidy import Plan, Rule, carry_out, plan

__all__ = [
    "INTEGRITY",
    "SORTS",
    "Answer",
    "BrowserError",
    "Comparison",
    "Export",
    "Figure",
    "Inspection",
    "Listing",
    "Plan",
    "Reference",
    "Rule",
    "TensorReport",
    "answers",
    "carry_out",
    "compare",
    "compare_tensors",
    "disk_use",
    "export",
    "inspect",
    "list_checkpoints",
    "plan",
    "resolve",
    "resolve_folder",
    "sort_rows",
]
