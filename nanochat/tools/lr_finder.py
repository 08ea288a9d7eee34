"""Find a learning rate: what a run's own history says, or a range test on its model and its text.

    nanochat lr_finder base_checkpoints/d20                                   # analysis and advice
    nanochat lr_finder base_checkpoints/d20 --recommend                       # advice alone
    nanochat lr_finder base_checkpoints/d20 --plot --output lr_analysis.png
    nanochat lr_finder base_checkpoints/d4 --range-test --trial               # sweep the rates, then try the result
    nanochat lr_finder base_checkpoints/d4 --range-test --groups matrix embedding

The analysis loads no torch. A range test trains a copy in memory and writes nothing into the run; Ctrl-C ends it with
what it has.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanochat.checkpoint_files import CheckpointError, location
from nanochat.errors import exit_status
from nanochat.tools._run import add_run_flags, chosen_run

if TYPE_CHECKING:
    from nanochat.analysis import lr_finder
    from nanochat.analysis.lr_finder.job import State

PLOT = "lr_analysis.png"
STARTS = ("fresh", "trained")  # analysis.lr_finder.STARTS, without loading it for --help
WIDTH = 100
BOLDNESS = {"Conservative": "50% of", "Recommended": "", "Aggressive": "2x"}
GENERAL = """\
📖 How to find optimal learning rate:

1. LR Range Test (Leslie Smith method):
   - Start with very small LR (e.g., 1e-8)
   - Increase exponentially each step to large LR (e.g., 10)
   - Run for 100-1000 steps
   - Plot loss vs LR
   - Choose LR where loss decreases most steeply
   - Here: nanochat lr_finder RUN --range-test (one factor over the rates of all groups)

2. Rules of thumb:
   - Too low: Loss decreases very slowly
   - Too high: Loss diverges or oscillates
   - Just right: Steady, fast decrease

3. Common starting points:
   - Adam/AdamW: 3e-4 to 1e-3
   - SGD: 1e-2 to 1e-1
   - For fine-tuning: 1e-5 to 1e-4
   - Muon on the layers' matrices, as nanochat has it: 0.02
"""


def parser() -> argparse.ArgumentParser:
    """Every flag, each with its help."""
    p = argparse.ArgumentParser(
        prog="nanochat lr_finder", description="Analyze a run's learning rates, or find new ones with a range test."
    )
    add_run_flags(p)
    p.add_argument("--log", type=Path, action="append", default=[], metavar="FILE", help="read this log of it too")
    p.add_argument("--plot", action="store_true", help=f"save the curves as .png or .svg ({PLOT})")
    p.add_argument("-o", "--output", type=Path, help="the file for --plot")
    p.add_argument("--recommend", action="store_true", help="recommendations only")
    p.add_argument("--json", action="store_true", help="print one JSON object")
    test = p.add_argument_group("range test")
    test.add_argument("--range-test", action="store_true", help="sweep a factor over the rates of the real model")
    test.add_argument("--low", type=float, default=1e-3, help="lowest factor on the rates (0.001)")
    test.add_argument("--high", type=float, default=1e4, help="highest factor (10000)")
    test.add_argument("--sweep-steps", type=int, default=100, help="updates of a sweep (100)")
    test.add_argument("--seeds", type=int, default=3, help="sweeps that are averaged, each with its own start (3)")
    test.add_argument(
        "--groups", nargs="+", default=[], metavar="GROUP", help="these groups on their own, too; or each"
    )
    test.add_argument("--start", choices=STARTS, default="fresh", help="weights to begin with (fresh)")
    test.add_argument("--trial", action="store_true", help="short runs at three rates: does the suggestion hold?")
    test.add_argument("--trial-steps", type=int, default=60, help="updates of a short run (60)")
    test.add_argument("--data", help="another text: stories, python, a file or a folder (the run's own)")
    test.add_argument("--rows", type=int, help="rows of a batch (the run's own)")
    test.add_argument("--context", type=int, help="tokens of a row (the model's own)")
    test.add_argument("--events", action="store_true", help="print a JSON object a line while it runs, for the page")
    return p


def main(argv: list[str] | None = None) -> int:
    """Analyze, or test."""
    args = parser().parse_args(argv)
    from rich.console import Console

    from nanochat.analysis import lr_finder

    console = Console(highlight=False, soft_wrap=True, emoji=False, markup=False, stderr=args.json or args.events)
    if args.range_test:
        return _range_test(args, console)
    run, _, _ = chosen_run(args)
    found = lr_finder.analyse(run.folder, args.log)
    if args.json:
        print(json.dumps(_facts(found)))
    else:
        lines = [*([] if args.recommend else analysis_lines(found)), *recommendation_lines(found)]
        for line in lines:
            console.print(line)
    if args.plot:
        from nanochat.charts import lr_finder as charts
        from nanochat.charts import save

        chart = charts.run_chart(found.points, found.unit, None if found.best is None else found.best.step)
        console.print(save(chart, args.output or PLOT, [*analysis_lines(found)][5:-2]))
    return 0


def _range_test(args: argparse.Namespace, console: Any) -> int:
    """Sweep, try and tell."""
    from nanochat.analysis import lr_finder
    from nanochat.analysis.lr_finder import job
    from nanochat.training_signals import StopRequest

    settings = lr_finder.Settings(args.low, args.high, args.sweep_steps, args.seeds)
    trial = lr_finder.Trial(args.trial_steps) if args.trial else None
    run, step, _ = chosen_run(args)
    if step is None:
        raise CheckpointError(
            f"{location(run.folder)}: no complete checkpoint, so there is no model to test; train one"
        )
    subject = lr_finder.open_subject(
        run.folder, step, start=args.start, data=args.data, rows=args.rows, context=args.context, device=args.device
    )
    groups = tuple(subject.rates) if args.groups in (["each"], ["all"]) else tuple(dict.fromkeys(args.groups))
    settings = lr_finder.Settings(args.low, args.high, args.sweep_steps, args.seeds, groups)
    first = job.begun(subject, settings, trial)
    points, steps = [], []
    with StopRequest(console.print, lambda: "ending the test with what it has") as stop:
        if args.events:
            print(first, flush=True)
        for one in _told(lr_finder.sweep(subject, settings, stop), args, console, settings):
            points.append(list(asdict(one).values()))
        state = job.state_of(json.loads(first), points, [], [])
        chosen = state.report.curves[0].suggestions.chosen if state.report and state.report.curves else None
        if trial is not None and chosen is not None and not stop():
            for one in _told(lr_finder.trial(subject, chosen, trial, stop), args, console, settings):
                steps.append(list(asdict(one).values()))
    state = job.state_of(json.loads(first), points, steps, [])
    if state.report is None:
        raise lr_finder.RangeTestError("the test ended before its first update; there is nothing to tell")
    if args.json:
        print(json.dumps(_test_facts(state)))
    elif not args.events:
        for line in [*state.notes, *test_lines(state)]:
            console.print(line)
    if args.plot:
        from nanochat.charts import lr_finder as charts
        from nanochat.charts import save

        curves = [
            charts.curve_chart(one.name, one.band, one.suggestions.rates, one.suggestions.chosen)
            for one in state.report.curves
        ]
        console.print(save(charts.stacked(curves), args.output or PLOT, [*test_lines(state)]))
    return stop.status


def _told(found: Iterator[Any], args: argparse.Namespace, console: Any, settings: lr_finder.Settings) -> Iterator[Any]:
    """Hand points on, and say now and then how far it is."""
    from nanochat.analysis import lr_finder
    from nanochat.analysis.lr_finder import job

    for one in found:
        if args.events:
            print(job.line_of(one), flush=True)
        elif isinstance(one, lr_finder.Point) and one.index % max(settings.steps // 4, 1) == 0:
            console.print(
                f"{one.curve}, seed {one.seed}, step {one.index}: factor {one.factor:.3g}, loss {one.loss:.3f}"
            )
        elif isinstance(one, lr_finder.TrialStep) and one.step == 0:
            console.print(f"short run at factor {one.factor:.3g}, seed {one.seed}")
        yield one


def _facts(found: lr_finder.Analysis) -> dict[str, Any]:
    """An analysis as plain data."""
    return {
        "name": found.name, "folder": None if found.folder is None else str(found.folder),
        "checkpoints": found.checkpoints, "steps": found.steps, "rate": found.rate, "min": found.low, "max": found.high,
        "schedule": asdict(found.schedule), "best": None if found.best is None else asdict(found.best),
        "start": found.start, "advice": dict(found.advice), "notes": list(found.notes),
        "problems": list(found.problems),
    }  # fmt: skip


def _test_facts(state: State) -> dict[str, Any]:
    """A range test as plain data; a run that diverged has no loss."""
    report, verdict = state.report, state.verdict
    assert report is not None
    curves = {
        curve.name: {
            "clear": curve.suggestions.clear, "chosen": curve.suggestions.chosen, "why": curve.suggestions.why,
            "rules": curve.suggestions.rates, "by_seed": list(curve.by_seed), "band": curve.band.to_dicts(),
        }
        for curve in report.curves
    }  # fmt: skip
    found = None
    if verdict is not None:
        losses = {str(factor): loss if math.isfinite(loss) else None for factor, loss in verdict.losses.items()}
        found = {"suggested": verdict.suggested, "best": verdict.best, "losses": losses, "held": verdict.held,
                 "words": verdict.words}  # fmt: skip
    return {
        "name": state.name, "notes": list(state.notes), "settings": asdict(report.settings), "rates": report.rates,
        "suggested": state.rates, "complete": report.complete, "curves": curves, "trial": found,
    }  # fmt: skip


def analysis_lines(found: lr_finder.Analysis) -> Iterator[str]:
    """The table of what was found."""
    from nanochat.analysis.lr_finder import rate_text

    yield from ("=" * WIDTH, "LEARNING RATE ANALYSIS", "=" * WIDTH, "")
    yield f"Checkpoint directory: {location(found.folder) if found.folder else found.name}"
    yield f"Number of checkpoints analyzed: {found.checkpoints}"
    yield f"Number of steps analyzed: {found.steps:,}"
    yield from ("", f"Learning rate range{'' if found.rate == 'learning_rate' else f' ({found.unit})'}:")
    yield f"  Min LR: {rate_text(found.low)}"
    yield f"  Max LR: {rate_text(found.high)}"
    yield from ("", f"LR schedule type: {found.schedule.word}")
    yield f"  In detail: {found.schedule.detail}: {found.schedule.reason}"
    yield ""
    if found.best is None:
        yield "Best checkpoint (lowest training loss): unknown, because no training loss is known"
    else:
        yield "Best checkpoint (lowest training loss):"
        yield f"  Step:          {found.best.step}{'' if found.best.saved else ' (not saved)'}"
        yield f"  Learning rate: {rate_text(found.best.rate)}"
        yield f"  Train loss:    {found.best.loss:.4f}   ({found.best.source})"
    for problem in found.problems:
        yield f"Problem: {location(problem)}"
    yield from ("", "=" * WIDTH, "")


def recommendation_lines(found: lr_finder.Analysis) -> Iterator[str]:
    """The table of what to try."""
    from nanochat.analysis.lr_finder import ADVICE, rate_text

    yield from ("=" * WIDTH, "LEARNING RATE RECOMMENDATIONS", "=" * WIDTH, "")
    yield from ("Based on your training run analysis:", "")
    if found.best is not None and found.best.rate is not None:
        yield f"1. Best observed learning rate: {rate_text(found.best.rate)}"
        yield "   This LR achieved the lowest training loss in your run."
    else:
        yield "1. Best observed learning rate: unknown"
    yield from (f"   {note}" for note in found.notes)
    first, second = ADVICE[found.schedule.word]
    yield from ("", f"2. Detected schedule: {found.schedule.word}", f"   {first}", f"   {second}")
    yield from ("", "3. For new experiments, try:")
    observed = found.best is not None and found.start == found.best.rate
    name = "best" if observed else "the highest"
    for bold, rate in found.advice:
        words = f"{BOLDNESS[bold]} {name}" if BOLDNESS[bold] else "observed best" if observed else "the run's highest"
        yield f"   - {bold + ':':<13} {rate_text(rate)} ({words})"
    if not found.advice:
        yield "   nothing can be said without a learning rate; a range test finds one: --range-test"
    yield from ("", "-" * WIDTH, "GENERAL RECOMMENDATIONS", "-" * WIDTH, "", *GENERAL.splitlines(), "", "=" * WIDTH)


def test_lines(state: State) -> Iterator[str]:
    """What a range test found."""
    from nanochat.analysis import lr_finder

    report = state.report
    assert report is not None
    yield from ("=" * WIDTH, "LEARNING RATE RANGE TEST", "=" * WIDTH, "")
    settings = report.settings
    yield (
        f"A factor of {settings.low:g} to {settings.high:g} on the rates in {settings.steps} steps, "
        f"{settings.seeds} seed{'s' if settings.seeds > 1 else ''}{'' if report.complete else '; stopped early'}"
    )
    for curve in report.curves:
        found = curve.suggestions
        yield from ("", f"{'All groups' if curve.name == lr_finder.ALL else f'Group {curve.name}'}:")
        if found.chosen is None:
            yield f"  {found.why}"
            continue
        yield from (f"  {rule + ':':<9} {factor:.4g}" for rule, factor in found.rates.items())
        alone = [f"{factor:.3g}" if factor is not None else "unclear" for factor in curve.by_seed]
        yield f"  Suggested factor: {found.chosen:.4g} ({found.why}); by seed: {', '.join(alone)}"
    if state.verdict is not None:
        yield from verdict_lines(state.verdict)
    if state.rates:
        yield from ("", f"{'Group':<16} {'now':>12} {'suggested':>12}")
        yield from (f"{name:<16} {report.rates[name]:>12.5g} {rate:>12.5g}" for name, rate in state.rates.items())
    yield from ("", "=" * WIDTH)


def verdict_lines(found: lr_finder.Verdict) -> Iterator[str]:
    """What the short runs came to."""
    yield from ("", "Short runs:", f"  {'factor':>10} {'loss at the end':>16}")
    for factor, loss in sorted(found.losses.items()):
        mark = " <- suggested" if factor == found.suggested else ""
        yield f"  {factor:>10.4g} {'diverged' if loss == float('inf') else f'{loss:.4f}':>16}{mark}"
    yield from ("", found.words)


if __name__ == "__main__":
    sys.exit(exit_status("lr_finder", main))
