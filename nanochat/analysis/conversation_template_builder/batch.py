"""A whole file of conversations checked: how many are good, and every line that is not, with what to do.

The rules and the reading are the dataset inspector's; this is its short form. `nanochat dataset_inspector` says more.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

MAX_LISTED = 10_000  # lines in a report that a person reads; the inspector writes all of them, one object a line


@dataclass(frozen=True)
class Batch:
    """What is in a file of conversations."""

    file: str
    profile: str
    total: int  # lines that are not blank
    valid: int  # without an error; warnings are allowed
    invalid: int
    warnings: int  # lines that have a warning and no error
    kinds: dict[str, int]  # kind of problem -> lines that have it
    issues: tuple[dict[str, Any], ...]  # line, severity, kinds, message, detail, remedy: the first MAX_LISTED

    def as_json(self) -> dict[str, Any]:
        """One object of plain values."""
        return vars(self) | {"issues": list(self.issues)}


def batch_validate(
    path: str | Path, profile: str = "chat", watch: Callable[[int, int], None] = lambda done, total: None
) -> Batch:
    """Check every line of a file. watch: told bytes read and bytes there are. Raises InspectorError."""
    from nanochat.analysis.dataset_inspector.inspection import inspect
    from nanochat.analysis.dataset_inspector.report import Options
    from nanochat.analysis.dataset_inspector.rows import issue_rows, issues
    from nanochat.analysis.dataset_inspector.sources import find_sources

    options = Options(profile=profile, normalised=False, secrets=False)
    report = inspect(find_sources([path]), options, None, lambda now: watch(now.done, now.total))
    listed = islice(issues(report, issue_rows(report).head(MAX_LISTED)), MAX_LISTED)
    return Batch(
        file=report.sources[0].name,
        profile=profile,
        total=report.checked,
        valid=report.conversations,
        invalid=report.error_lines,
        warnings=report.warning_lines,
        kinds=report.kind_counts,
        issues=tuple(issue.as_json(with_file=len(report.sources) > 1) for issue in listed),
    )
