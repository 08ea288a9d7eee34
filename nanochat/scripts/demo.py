"""Train a first model right here, in a minute, and see what it can do.

    nanochat demo                                  # small stories: tokenizer, base model, fine-tuning, judgement
    nanochat demo --budget 180                     # three minutes instead of one
    nanochat demo --corpus python                  # the manual inside this Python
    nanochat demo --corpus my_book.txt             # a text of yours

Everything goes into a folder of its own in the workspace; nothing that is there is overwritten. Ctrl-C keeps what has
been trained so far.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanochat import paths
from nanochat.errors import exit_status

if TYPE_CHECKING:
    from nanochat.demo import Event, Stage
    from nanochat.demo_report import Report
    from nanochat.records import StepRecord
    from nanochat.training_output import Output

LINE_SECONDS = 5.0  # between two lines where there is no terminal to draw in
# What Ctrl-C does in each part.
LEAVING = {
    "tokenizer": "nothing is trained yet, so nothing is kept; leaving",
    "base": "saving the base model, then leaving",
    "sft": "saving the fine-tuned model beside the base model, then leaving",
    "measure": "both models are saved; leaving without the rest of the judgement",
}


def parser() -> argparse.ArgumentParser:
    """Every flag, each with its help."""
    p = argparse.ArgumentParser(
        prog="nanochat demo",
        description="Train a small model from nothing and see what it can do: tokenizer, base model, fine-tuning, and "
        "a judgement in numbers. Takes the budget and some seconds more. Ctrl-C keeps what has been trained.",
    )
    p.add_argument("--budget", type=float, default=60.0, help="seconds of training, tokenizer included (60)")
    p.add_argument("--corpus", default="stories", help="stories, python, or a file or folder of text (stories)")
    p.add_argument("--seed", type=int, default=0, help="other seeds give other stories and other weights (0)")
    p.add_argument("--base-dir", type=Path, help="folder to write to, in nanochat's layout (the workspace)")
    p.add_argument("--model-tag", help="name of the run (demo; demo-2 where that is taken)")
    p.add_argument("--json", action="store_true", help="print every event as a line of JSON")
    return p


def main(argv: list[str] | None = None) -> int:
    """Run the demo and show it."""
    args = parser().parse_args(argv)
    from nanochat import demo
    from nanochat.training_output import Output
    from nanochat.training_signals import StopRequest

    base_dir = paths.expand(args.base_dir) if args.base_dir else paths.workspace()
    stage = "tokenizer"
    with StopRequest(lambda line: errors.say(line), lambda: LEAVING[stage]) as stop:
        output, errors = Output(stop.request), Output(stop.request, people=sys.stderr)
        events = demo.run(demo.DemoConfig(args.budget, args.corpus, base_dir, args.model_tag, args.seed, stop=stop))

        def followed() -> Iterator[Event]:
            nonlocal stage
            for event in events:
                stage = event.name if isinstance(event, demo.Stage) else stage
                yield event

        if args.json:
            for event in followed():
                output.record(json.dumps({"event": type(event).__name__, **asdict(event)}, default=str) + "\n")
        else:
            _show(followed(), args.budget, output)
    return stop.status


def _show(events: Iterator[Event], budget: float, output: Output) -> None:
    """Draw the events in a terminal; elsewhere print a line now and then. The report follows as text in both."""
    from rich.console import Console
    from rich.live import Live

    from nanochat.demo_report import Report

    console = Console(highlight=False)
    view = View(budget)
    report = None
    say = functools.partial(console.print, markup=False, soft_wrap=True) if console.is_terminal else output.say
    with Live(console=console, refresh_per_second=4, transient=True) if console.is_terminal else nullcontext() as live:
        for event in events:
            if isinstance(event, Report):
                report = event
                continue
            for line in view.update(event):
                say(line)
            if live is not None:
                live.update(view.picture())
            elif line := view.line_now_and_then():
                say(line)
    if report is not None:
        for line in report_lines(report):
            say(line)


class View:
    """What is on the screen: the part that runs, its figures, and the last thing the model wrote."""

    def __init__(self, budget: float) -> None:
        self.budget, self.begun, self.printed = budget, time.monotonic(), 0.0
        self.stage: Stage | None = None
        self.record: StepRecord | None = None
        self.bpb: float | None = None
        self.sample = ""

    def update(self, event: Event) -> list[str]:
        """Take note of an event; gives the lines that stay on the screen for good."""
        from nanochat.demo import Sample, Stage, Step

        if isinstance(event, Stage):
            self.stage, self.record = event, None
            return [f"{self.elapsed:5.1f} s  {event.title}", *(f"         {note}" for note in event.notes)]
        if isinstance(event, Step):
            self.record = event.record if event.record.train_loss is not None else self.record
            self.bpb = self.bpb if event.record.val_bpb is None else event.record.val_bpb
        if isinstance(event, Sample):
            self.sample = f"{event.prompt} {event.text}".strip()
            return [f"{self.elapsed:5.1f} s  after {event.step:,} updates: {self.sample}"]
        return []

    @property
    def elapsed(self) -> float:
        """Seconds since the command began."""
        return time.monotonic() - self.begun

    def figures(self) -> list[tuple[str, str]]:
        """Name and value of what is known at this moment."""
        record, stage = self.record, self.stage
        if record is None or stage is None:
            return []
        figures = [("update", f"{record.step:,}"), ("loss", f"{record.smooth_loss or 0:.3f} nats a token")]
        if self.bpb is not None and stage.name == "base":
            floor = f", and no model gets below {stage.floor:.3f}" if stage.floor is not None else ""
            figures.append(("new text", f"{self.bpb:.3f} bits a byte{floor}"))
        figures.append(("speed", f"{record.tokens_per_second or 0:,.0f} tokens a second"))
        return figures

    def line_now_and_then(self) -> str:
        """The figures in one line, every few seconds; else nothing."""
        if not self.figures() or time.monotonic() - self.printed < LINE_SECONDS:
            return ""
        self.printed = time.monotonic()
        return f"{self.elapsed:5.1f} s  " + " | ".join(f"{name}: {value}" for name, value in self.figures())

    def picture(self) -> Any:
        """A bar for the whole budget and the figures below it."""
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        done = min(self.elapsed, self.budget)
        bar = Table.grid(padding=(0, 1))
        bar.add_row(ProgressBar(total=self.budget, completed=done, width=50), f"{done:.0f} of {self.budget:.0f} s")
        table = Table.grid(padding=(0, 2))
        for name, value in self.figures():
            table.add_row(name, value)
        return Group(bar, table)


def report_lines(report: Report) -> list[str]:
    """The report for people: each figure, then what it means."""
    stories = report.writing
    speed = f"{report.tokens_per_second:,.0f} tokens a second"
    lines = [
        "",
        f"Trained for {report.seconds:.0f} s.",
        f"The base model made {report.updates:,} updates on {report.tokens:,} tokens, {speed}.",
        "",
        "Bits a byte on text that it has never seen (fewer is better):",
        f"  knowing nothing     {report.entropy_bpb:.4f}   every token equally likely",
        f"  5-gram model        {report.ngram_bpb:.4f}   counts what follows four tokens, in the same text",
        f"  this model          {report.val_bpb:.4f}",
    ]
    if report.floor is not None and report.excess is not None:
        lines.append(f"  the floor           {report.floor:.4f}   no model can do better: {report.excess:.4f} above it")
    if stories is not None:
        count = len(stories.texts)
        lines += [
            "",
            f"Of {count} stories that it wrote at temperature 1:",
            f"  {stories.shape:3d} have the right shape",
            f"  {stories.accepted:3d} are right in every name, pronoun, object and sum",
            f"  {stories.copied:3d} stand word for word in the training text",
        ]
    lines += ["", "It writes:"]
    for number, text in enumerate(report.samples):
        lines.append(f"  {text}")
        if stories is not None:
            lines.append(f"    -> {stories.reasons[number]}")
    lines += ["", "It answers:", *(f"  {question} {answer}" for question, answer in report.answers)]
    lines += ["", "Questions answered rightly, shown in training and not:"]
    for row in report.tasks:
        lines.append(f"  {row.name:10s} seen {row.seen}, unseen {row.unseen}. {row.meaning}")
    folders = ", ".join(str(folder) for folder in report.folders.values())
    tag = next(iter(report.folders.values())).name
    lines += ["", f"Kept in {folders}.", f"Talk to it: nanochat chat_cli -g {tag}"]
    return lines


if __name__ == "__main__":
    sys.exit(exit_status("nanochat demo", main))
