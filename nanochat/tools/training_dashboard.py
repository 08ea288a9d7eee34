"""See how a training went: figures with their sources, every checkpoint, curves, and what happened on them.

    nanochat training_dashboard base_checkpoints/d20                      # summary
    nanochat training_dashboard base_checkpoints/d20 --progress           # every saved or evaluated step
    nanochat training_dashboard base_checkpoints/d20 --plot --output curve.png
    nanochat training_dashboard base_checkpoints/d20 --export-csv --output metrics.parquet
    nanochat training_dashboard base_checkpoints/d12 base_checkpoints/d20 --plot --axis flops --log-y
    nanochat training_dashboard --log speedrun.log                        # where only the log was kept

Logs in the run's folder, in its base dir, in logs/ and wandb/ are found by themselves. Nothing here loads torch.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanochat.checkpoint_files import location
from nanochat.errors import exit_status
from nanochat.tools._run import add_run_flags, chosen_run, folder_of

if TYPE_CHECKING:
    import polars as pl

    from nanochat.analysis import training_dashboard as dashboard

WIDTH = 100
AXES = ("step", "tokens", "time", "flops")  # analysis.training_dashboard.AXES, without loading it for --help
COLUMNS = {"train_loss": ".4f", "val_bpb": ".4f", "learning_rate": ".6f"}  # of the progress table
PLOT, TABLE = "training_curves.png", "training_metrics.csv"


def parser() -> argparse.ArgumentParser:
    """Every flag, each with its help."""
    p = argparse.ArgumentParser(
        prog="nanochat training_dashboard", description="See how a training went; several runs are compared."
    )
    add_run_flags(p, many=True)
    p.add_argument("--log", type=Path, action="append", default=[], metavar="FILE", help="read this log too, or alone")
    what = p.add_argument_group("what (a summary)")
    what.add_argument("--progress", action="store_true", help="a table of every saved or evaluated step")
    what.add_argument("--plot", action="store_true", help=f"save the curves as .png or .svg ({PLOT})")
    what.add_argument("--export-csv", action="store_true", help=f"save every row as .csv or .parquet ({TABLE})")
    what.add_argument("-o", "--output", type=Path, help="the file for --plot or --export-csv")
    how = p.add_argument_group("how the curves are drawn")
    how.add_argument("--axis", choices=AXES, default="step", help="what runs are laid along (step)")
    how.add_argument("--smoothing", type=float, default=0.9, help="0 to below 1: how much of the average is old (0.9)")
    how.add_argument("--from", type=float, dest="low", help="begin here on the axis")
    how.add_argument("--to", type=float, dest="high", help="end here on the axis")
    how.add_argument("--log-x", action="store_true", help="logarithmic axis")
    how.add_argument("--log-y", action="store_true", help="logarithmic loss")
    p.add_argument("--json", action="store_true", help="print one JSON object")
    return p


def main(argv: list[str] | None = None) -> int:
    """Read the runs and show what was asked for."""
    args = parser().parse_args(argv)
    from nanochat.analysis import training_dashboard as dashboard

    if args.output is not None and args.plot and args.export_csv:
        raise dashboard.DashboardError("--output names one file, and --plot and --export-csv make two; give them apart")
    look = dashboard.Look(args.axis, args.log_x, args.smoothing, args.low, args.high)
    runs = _opened(args)
    if args.json:
        print(json.dumps([_facts(run) for run in runs] if len(runs) > 1 else _facts(runs[0])))
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True, emoji=False, markup=False, stderr=args.json)
    if not (args.json or args.plot or args.export_csv):
        for run in runs:
            for line in _progress_lines(run) if args.progress else _summary_lines(run):
                console.print(line)
    if args.plot:
        console.print(_plot(runs, look, args))
    if args.export_csv:
        console.print(dashboard.write(runs, args.output or TABLE))
    return 0


def _opened(args: argparse.Namespace) -> list[dashboard.History]:
    """The runs that the flags name."""
    from nanochat.analysis import training_dashboard as dashboard

    if args.log and not args.checkpoint_dir and args.model_tag is None:
        return [run for log in args.log for run in dashboard.open_log(log)]
    if not args.checkpoint_dir:
        return [dashboard.open_run(chosen_run(args)[0].folder, args.log)]
    runs = []
    for path in map(folder_of, args.checkpoint_dir):
        runs += dashboard.open_log(path) if path.is_file() else [dashboard.open_run(path, args.log)]
    return dashboard.told_apart(runs)


def _facts(run: dashboard.History) -> dict[str, Any]:
    """A run as plain data."""
    from nanochat.analysis import training_dashboard as dashboard

    lines, missing = dashboard.levels(run)
    return {
        "name": run.name, "folder": None if run.folder is None else str(run.folder), "stage": run.stage,
        "live": run.live, **asdict(dashboard.summary(run)), "model_config": dict(run.model),
        "progress": dashboard.progress(run).to_dicts(), "marks": [asdict(mark) for mark in dashboard.marks(run)],
        "lines": [asdict(line) for line in lines], "no_lines": list(missing), "unknown": dict(run.missing),
        "notes": list(run.notes), "problems": list(run.problems),
    }  # fmt: skip


def _summary_lines(run: dashboard.History) -> list[str]:
    """The wish's summary, each figure with its source, and what happened."""
    from nanochat.analysis import training_dashboard as dashboard

    found = dashboard.summary(run)
    lines = ["=" * WIDTH, "TRAINING DASHBOARD", "=" * WIDTH, ""]
    lines += [f"Checkpoint directory: {location(run.folder) if run.folder else 'none, a log: ' + run.name}"]
    lines += [f"Total checkpoints: {found.checkpoints}", ""]
    if found.first is not None:
        lines += [
            "Training range:",
            f"  First checkpoint: Step {found.first}",
            f"  Last checkpoint:  Step {found.last}",
        ]
        of = f" of {found.horizon}" if found.horizon else ""
        lines += [f"  Last record:      Step {found.step}{of}", ""]
    lines.append(f"Latest metrics (step {found.step}):")
    for name, figure, form in (
        ("Train loss:", found.train_loss, ".4f"), ("Val BPB:", found.val_bpb, ".4f"),
        ("LR:", found.learning_rate, ".6f"), ("Tokens:", found.tokens, ",.0f"), ("Seconds:", found.time, ",.1f"),
        ("Tokens/s:", found.speed, ",.0f"),
    ):  # fmt: skip
        lines.append(f"  {name:<11} {_figure(figure, form, found.step)}")
    lines += ["", "Best validation checkpoint:"]
    if found.best.value is None:
        lines.append(f"  unknown: {found.best.source}")
    else:
        lines += [f"  Step:    {found.best.step}", f"  Val BPB: {found.best.value:.4f}   ({found.best.source})"]
    lines += ["", "Model configuration:"]
    for name, key in (("Layers:", "n_layer"), ("Embedding:", "n_embd"), ("Seq length:", "sequence_len")):
        lines.append(f"  {name:<13} {run.model.get(key, 'N/A')}")
    return [*lines, "", *_story(run), "=" * WIDTH]


def _story(run: dashboard.History) -> list[str]:
    from nanochat.analysis import training_dashboard as dashboard

    lines = ["What happened:"]
    told = dashboard.told(dashboard.marks(run))
    lines += [f"  {title}: {words}" for title, words in told] or ["  nothing that the rules look for"]
    known, missing = dashboard.levels(run)
    lines += ["", "To compare with:", *(f"  {level.name}: {level.sentence}" for level in known)]
    lines += [f"  {reason}" for reason in missing] + ["", "Sources:", *(f"  {note}" for note in run.notes)]
    if run.problems:
        lines += ["", "Problems:", *(f"  {location(problem)}" for problem in run.problems)]
    return [*lines, *(["", "It is being written to at this moment."] if run.live else []), ""]


def _figure(figure: dashboard.Figure, form: str, step: int | None) -> str:
    if figure.value is None:
        return f"unknown: {figure.source}"
    of = "" if figure.step in (None, step) else f"step {figure.step}, "
    return f"{figure.value:{form}}   ({of}{figure.source})"


def _progress_lines(run: dashboard.History) -> list[str]:
    """The wish's table."""
    from nanochat.analysis import training_dashboard as dashboard

    lines = ["=" * WIDTH, "TRAINING PROGRESS" + (f": {run.name}" if run.folder else ""), "=" * WIDTH, ""]
    lines += [f"{'Step':<10} {'Train Loss':<15} {'Val BPB':<15} {'Learning Rate':<15} Saved", "-" * WIDTH]
    for row in dashboard.progress(run).iter_rows(named=True):
        cells = [_cell(row[name], form) for name, form in COLUMNS.items()]
        lines.append(f"{row['step']:<10} {cells[0]:<15} {cells[1]:<15} {cells[2]:<15} {'yes' if row['saved'] else ''}")
    lines += [f"N/A: {name}: {run.missing[name]}" for name in COLUMNS if name in run.missing]
    return [*lines, "=" * WIDTH]


def _cell(value: float | None, form: str) -> str:
    return "N/A" if value is None else f"{value:{form}}"


def _plot(runs: Sequence[dashboard.History], look: dashboard.Look, args: argparse.Namespace) -> str:
    from nanochat.analysis import training_dashboard as dashboard
    from nanochat.charts import save
    from nanochat.charts import training_dashboard as charts

    rate = "learning_rate" if not dashboard.curve(runs, "learning_rate", look).is_empty() else "lr_multiplier"
    levels = [level for level in dashboard.levels(runs[0])[0] if level.metric == "train_loss"]
    lines = [(f"{level.name} = {level.value:.2f}", level.value) for level in levels]
    losses, bits = dashboard.curve(runs, "train_loss", look), dashboard.curve(runs, "val_bpb", look)
    rates = dashboard.curve(runs, rate, look)
    if losses.is_empty():
        reason = runs[0].missing.get("train_loss") or f"it has none on the axis {args.axis!r} in the part that is shown"
        raise dashboard.DashboardError(f"{runs[0].name}: no loss to draw: {reason}; name its log with --log FILE")
    chart = charts.plot(
        losses, bits, rates, dashboard.AXES[args.axis], dashboard.METRICS[rate], lines if len(runs) == 1 else (),
        args.log_x, args.log_y,
    )  # fmt: skip
    names = dashboard.METRICS
    loss = f"{names['train_loss']}{', smoothed' if look.smoothing else ''}"
    drawn = {loss: losses, names["val_bpb"]: bits, names[rate]: rates}
    figure = [line for run in runs for line in _figure_lines(run, drawn)]
    return save(chart, args.output or PLOT, figure)


def _figure_lines(run: dashboard.History, drawn: Mapping[str, pl.DataFrame]) -> list[str]:
    """A run's lines of the chart in words: where each begins and ends, its lowest point, and what happened."""
    from nanochat.analysis import training_dashboard as dashboard

    said = []
    for name, points in drawn.items():
        known = points.filter(run=run.name).drop_nulls("value")
        if known.is_empty():
            continue
        ends = {"first": 0, "last": -1, "lowest": known["value"].arg_min() or 0}
        places = [f"{word} {known['value'][at]:.4g} (step {known['step'][at]:,})" for word, at in ends.items()]
        said.append(f"{name}: {', '.join(places)}")
    return [f"{run.name}: {words}" for words in [*said, *(mark.sentence for mark in dashboard.marks(run))]]


if __name__ == "__main__":
    sys.exit(exit_status("training_dashboard", main))
