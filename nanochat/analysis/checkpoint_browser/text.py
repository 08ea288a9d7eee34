"""What the terminal says of checkpoints: tables and sentences, a line at a time. Text from a disk is made harmless."""

import datetime
import math
from collections.abc import Iterator, Sequence
from typing import Any

import polars as pl

from nanochat.analysis.checkpoint_browser.comparison import Answer, Comparison, TensorReport
from nanochat.analysis.checkpoint_browser.export import Export
from nanochat.analysis.checkpoint_browser.inspection import Inspection
from nanochat.analysis.checkpoint_browser.listing import Listing
from nanochat.analysis.checkpoint_browser.tidy import Plan
from nanochat.checkpoint_files import location, shown
from nanochat.paths import readable_size

WIDTH = 100
TYPES = {"base": "base", "mid": "mid", "sft": "chat (sft)", "rl": "chat (rl)"}
MOST_TENSORS = 40  # in a terminal; --json has all


def heading(words: str) -> Iterator[str]:
    """A title between two lines."""
    yield from ("=" * WIDTH, words, "=" * WIDTH, "")


def table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Columns as wide as their widest cell, as in the wish's example."""
    widths = [max(map(len, column)) for column in zip(names, *rows, strict=True)]
    yield " | ".join(name.ljust(width) for name, width in zip(names, widths, strict=True)).rstrip()
    yield "-" * (sum(widths) + 3 * (len(widths) - 1))
    for row in rows:
        yield " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def number(value: float | None, form: str = ".4f") -> str:
    """A measured number; N/A where there is none."""
    return "N/A" if value is None or not math.isfinite(value) else f"{value:{form}}"


def listing(found: Listing, rows: pl.DataFrame, sort: str) -> Iterator[str]:
    """Every checkpoint, in the order of `rows`."""
    yield from heading(f"CHECKPOINTS (sorted by {sort})")
    if rows.is_empty():
        yield "No checkpoints there. `nanochat demo` makes one in a minute; --base-dir names another folder."
    else:
        names = ("Model", "Type", "Step", "Val BPB", "Layers", "Dim", "Size (MB)", "Optim", "Integrity", "Modified")
        yield from table(names, [_listed(row) for row in rows.iter_rows(named=True)])
    yield ""
    bad = rows.filter(pl.col("cause") != "")
    for name, integrity, cause in bad.select("id", "integrity", "cause").iter_rows():
        yield f"{shown(name, 200)} is {integrity}: {cause}"
    yield from found.problems
    if found.problems or not bad.is_empty():
        yield ""
    yield f"Total checkpoints: {len(rows):,}"
    yield f"Total disk usage: {readable_size(int(rows['size'].sum()))}"
    if found.other:
        yield f"Beside them in the runs' folders: {readable_size(found.other)} of logs, metrics and tokenizers"


def _listed(row: dict[str, Any]) -> list[str]:
    moment = row["modified"]
    return [
        shown(row["tag"], 40),
        TYPES[row["stage"]],
        f"{row['step']:,}",
        number(row["val_bpb"]),
        "?" if row["layers"] is None else f"{row['layers']}",
        "?" if row["dim"] is None else f"{row['dim']}",
        f"{row['size'] / 1e6:.1f}",
        "✓" if row["optim"] else "-",
        row["integrity"],
        "unknown" if moment is None else f"{moment.astimezone():%Y-%m-%d %H:%M}",
    ]


def inspection(seen: Inspection) -> Iterator[str]:
    """One checkpoint."""
    one = seen.reference
    yield from heading(f"CHECKPOINT {shown(one.id, 200)}")
    yield f"Folder: {location(one.folder)}"
    yield f"Step:   {one.step:,}"
    yield ""
    yield "Architecture:"
    yield f"  {seen.era or 'not recognised'}"
    yield from (f"    because {shown(reason, 300)}" for reason in seen.reasons)
    config = seen.config or seen.meta.get("model_config") or {}
    yield from (f"  {name:<18} {shown(value, 60)}" for name, value in config.items())
    if seen.counts:
        yield ""
        yield "Parameters:"
        yield from (f"  {name:<22} {count:>16,}" for name, count in seen.counts.items() if count)
    yield ""
    yield "Figures:"
    for figure in seen.figures:
        known = figure.value is not None
        value = f"{figure.value:,.6g} {figure.unit}" if known else "N/A"
        yield f"  {figure.name + ':':<22} {value:<24} ({'from ' if known else ''}{shown(figure.source, 200)})"
    yield ""
    yield "Files:"
    for name, size, sha256 in seen.files.iter_rows():
        yield f"  {name:<32} {readable_size(size):>10}  {'SHA-256 ' + sha256[:16] if sha256 else 'no digest recorded'}"
    yield ""
    checked = seen.verification
    yield f"Integrity: {'sound' if checked.ok else 'NOT SOUND'} ({checked.level})"
    yield from (f"  {problem}" for problem in checked.problems)


def comparison(made: Comparison, tensors: TensorReport | None, answers: Sequence[Answer]) -> Iterator[str]:
    """Two checkpoints side by side."""
    yield from heading("COMPARISON")
    yield f"A: {shown(made.a.reference.id, 200)}"
    yield f"B: {shown(made.b.reference.id, 200)}"
    for one in (made.a, made.b):
        yield from (f"Not sound: {problem}" for problem in one.verification.problems)
    yield ""
    rows = [
        [name, _short(a), _short(b), "" if d is None else f"{d:+,.6g}", unit]
        for name, a, b, d, unit in made.figures.iter_rows()
    ]
    yield from table(("Figure", "A", "B", "B - A", "Unit"), rows)
    yield ""
    differ = made.config.filter(~pl.col("same"))
    yield f"Configuration: {len(made.config) - len(differ)} settings are the same, {len(differ)} differ"
    if not differ.is_empty():
        yield ""
        yield from table(("Setting", "A", "B"), [[key, a or "-", b or "-"] for key, a, b, _ in differ.iter_rows()])
    if tensors is not None:
        yield ""
        yield from _tensors(tensors)
    for answer in answers:
        yield ""
        yield f"Prompt: {shown(answer.prompt, 400)}"
        yield f"  A: {shown(answer.a, 4000)}"
        yield f"  B: {shown(answer.b, 4000)}"


def _short(value: float | None) -> str:
    return "N/A" if value is None else f"{value:,.6g}"


def _tensors(report: TensorReport) -> Iterator[str]:
    yield from heading("TENSORS, B AGAINST A (largest relative change first)")
    if report.relative is not None:
        angle = "" if report.cosine is None else f", cosine {report.cosine:.4f}"
        yield f"All weights that both have: |B - A| is {report.relative:.4f} of |A|{angle}"
        yield ""
    frame = report.frame.sort("relative", descending=True, nulls_last=True)
    rows = [
        [
            row["name"], row["state"], row["shape"], _short(row["norm_a"]), _short(row["norm_b"]),
            number(row["relative"]), number(row["cosine"]), _rank(row),
        ]
        for row in frame.head(MOST_TENSORS).iter_rows(named=True)
    ]  # fmt: skip
    yield from table(("Tensor", "State", "Shape", "|A|", "|B|", "Change", "Cosine", "Effective rank"), rows)
    if len(frame) > MOST_TENSORS:
        yield f"... and {len(frame) - MOST_TENSORS:,} more; --json has them all"
    yield from report.notes


def _rank(row: dict[str, Any]) -> str:
    return "-" if row["effective_rank"] is None else f"{row['effective_rank']:.1f} of {row['full_rank']}"


def plan(made: Plan, deleted: bool) -> Iterator[str]:
    """What goes, what stays, how much is freed."""
    yield from heading("DELETED" if deleted else "DRY RUN: nothing is deleted")
    yield f"Run: {location(made.folder)}"
    yield ""
    for step, reason in made.kept:
        yield f"  keep    step {step:>8,}  {reason}"
    for step in made.go:
        yield f"  {'deleted' if deleted else 'delete '} step {step:>8,}  {readable_size(made.size_of(step))}"
    yield ""
    yield from (f"  {name:<34} {readable_size(size):>10}" for name, size in made.files)
    yield from made.notes
    yield made.sentence if not deleted else f"{readable_size(made.freed)} are free now."
    if made.go and not deleted:
        yield "Give the same command with --yes to delete them."


def exported(done: Export) -> Iterator[str]:
    """What was written."""
    yield from heading("EXPORTED")
    yield f"Folder: {location(done.folder)}"
    yield from (f"  {name:<24} {readable_size(size):>10}" for name, size in done.files)
    yield f"SHA-256 of the weights: {done.sha256}"
    yield from done.notes


def plain_json(value: Any) -> Any:
    """The same with what JSON has: a moment as text, and null for a number that is none."""
    if isinstance(value, dict):
        return {str(key): plain_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_json(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value.isoformat() if isinstance(value, datetime.datetime) else value
