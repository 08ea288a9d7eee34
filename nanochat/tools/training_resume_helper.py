"""Go on with a run that stopped: the checkpoint to take, what is left, the exact command, and a proof that it works.

    nanochat training_resume_helper base_checkpoints/d20
    nanochat training_resume_helper base_checkpoints/d20 --target-steps 5400
    nanochat training_resume_helper base_checkpoints/d20 --verify        # every byte of the checkpoint
    nanochat training_resume_helper base_checkpoints/d20 --command       # how to go on, also by hand
    nanochat training_resume_helper base_checkpoints/d20 --prove 10      # resume in a scratch folder and compare
    nanochat training_resume_helper --drill                              # a small run is killed and recovered

Nothing is ever written into the run's folder.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanochat.checkpoint_files import location, shown
from nanochat.errors import exit_status
from nanochat.tools._run import add_run_flags, chosen_run

if TYPE_CHECKING:
    from rich.console import Console

    from nanochat.analysis import training_resume_helper as helper

WIDTH = 80
PLOT = "resume_proof.png"


def parser() -> argparse.ArgumentParser:
    """Every flag, each with its help."""
    p = argparse.ArgumentParser(prog="nanochat training_resume_helper", description="Go on with a run that stopped.")
    add_run_flags(p)
    p.add_argument("--target-steps", type=int, help="steps that the run is to have in all (as it was started)")
    p.add_argument("--verify", action="store_true", help="read every byte of the checkpoint; exit status 1 if broken")
    p.add_argument("--command", action="store_true", help="print the commands, and a program that resumes by hand")
    p.add_argument("--script", help="resume with this script (base_train, or chat_sft for fine-tuning)")
    p.add_argument(
        "--prove", type=int, nargs="?", const=10, metavar="K", help="resume K updates elsewhere, compare (10)"
    )
    p.add_argument("--plot", action="store_true", help=f"with --prove: save both curves ({PLOT})")
    p.add_argument("-o", "--output", type=Path, help="the file for --plot, .png or .svg")
    p.add_argument(
        "--drill", nargs="?", const="all", choices=("all", "kill", "recover"), metavar="PART",
        help="train a small run, kill it, recover it, compare; or kill and recover one after the other (all)",
    )  # fmt: skip
    p.add_argument("--scratch", type=Path, metavar="DIR", help="where the drill is made, and kept (a folder that goes)")
    p.add_argument("--events", action="store_true", help="with --prove or --drill: a line of JSON for each update")
    p.add_argument("--json", action="store_true", help="print one JSON object")
    return p


def main(argv: list[str] | None = None) -> int:
    """Look at the run and print what was asked for."""
    args = parser().parse_args(argv)
    from rich.console import Console

    from nanochat.analysis import training_resume_helper as helper

    console = Console(highlight=False, soft_wrap=True, emoji=False, markup=False)
    if args.events and args.drill is None and args.prove is None:
        raise helper.ResumeError("--events tells how a proof or a drill goes; give --prove or --drill with it")
    if args.drill is not None:
        return _drill(args, console)
    report = helper.inspect(chosen_run(args)[0].folder, args.step, args.target_steps, full=args.verify)
    if args.events:
        return _tell(helper.proving(report, args.prove))
    ways = helper.ways(report, args.script)
    proof = helper.prove(report, args.prove) if args.prove is not None else None
    if args.json:
        print(json.dumps(_facts(report, ways, proof)))
    else:
        for line in _lines(report, ways):
            console.print(line)
        if args.verify:
            _print_verification(report, console)
        if args.command:
            _print_program(report, ways, console)
        if proof is not None:
            console.print(f"Proof of resume: {proof.sentence}")
    if args.plot and proof is not None:
        from nanochat.charts import save
        from nanochat.charts.training_resume_helper import overlay

        words = save(overlay(proof.before, proof.frame), args.output or PLOT, [proof.sentence])
        print(words, file=sys.stderr if args.json else sys.stdout)
    broken = args.verify and not report.verification.ok
    return int(broken or (proof is not None and not proof.holds))


def _facts(report: helper.Report, ways: tuple[helper.Way, helper.Way], proof: helper.Proof | None) -> dict[str, Any]:
    """Everything as plain data; the meta file itself is left out."""
    from nanochat.analysis import training_resume_helper as helper

    facts = asdict(replace(report, meta={}))
    del facts["meta"]
    facts["folder"] = str(report.folder)
    if proof is not None:
        told = {"verdict": proof.verdict, "sentence": proof.sentence, "command": proof.command}
        facts["proof"] = {**told, "holds": proof.holds, "losses": proof.frame.to_dicts()}
    config = dict(report.meta.get("model_config") or {})
    return {**facts, "model_config": config, "ways": [asdict(way) for way in ways], "program": helper.program(report)}


def _lines(report: helper.Report, ways: tuple[helper.Way, helper.Way]) -> list[str]:
    """The wish's report."""
    model = report.meta.get("model_config") or {}
    lines = ["=" * WIDTH, "TRAINING RESUME REPORT", "=" * WIDTH, ""]
    lines += [f"Checkpoint directory: {location(report.folder)}", f"Model file: {report.files[0]}"]
    lines += [f"Metadata file: {report.files[1]}"]
    lines += [f"Optimizer file: {', '.join(report.optimizer) or 'none was saved'}"]
    check = "whole" if report.verification.ok else "BROKEN: " + shown(report.verification.problems[0], 300)
    lines += [f"Integrity: {check} ({report.verification.level})", *(f"Passed over: {text}" for text in report.skipped)]
    lines += ["", f"Last saved step: {report.step:,}"]
    lines += [f"Validation BPB: {_number(report.val_bpb, '.4f')}", f"Train loss: {_number(report.train_loss, '.4f')}"]
    lines += ["", "Model Configuration:", f"  Layers: {model.get('n_layer', 'unknown')}"]
    lines += [f"  Hidden dim: {model.get('n_embd', 'unknown')}"]
    lines += [f"  Sequence length: {model.get('sequence_len', 'unknown')}", "", "Training Configuration:"]
    lines += [f"  {name}: {shown(value)}" for name, value in report.settings.items()] or ["  the meta file holds none"]
    lines += ["", "Resume Parameters:", f"  Current step: {report.step:,}"]
    target = f"{report.target:,}" if report.target is not None else "unknown"
    lines += [f"  Target steps: {target} ({report.target_reason})", f"  Remaining: {_number(report.remaining, ',')}"]
    lines += [f"  Progress: {_number(report.progress, '.1%')}"]
    warmdown = "unknown" if report.phase is None else "Yes" if report.phase == "warmdown" else "No"
    lines += [f"  In warmdown: {warmdown}" + (f" (phase: {report.phase})" if report.phase else "")]
    lines += [f"  Remaining time: {_clock(report.remaining_seconds)} ({report.speed_reason})"]
    lines += ["", "Ways to go on:"]
    for way in ways:
        lines += [f"  {way.who}: {way.command or 'not possible'}", f"    {way.reason}"]
    return [*lines, "", "💡 Learning Insights:", *(f"  • {text}" for text in report.insights), "", "=" * WIDTH]


def _print_verification(report: helper.Report, console: Console) -> None:
    found = report.verification
    console.print(f"Checkpoint verification: {'passed' if found.ok else 'FAILED'} ({found.level})")
    for problem in found.problems:
        console.print(f"  {problem}")


def _print_program(report: helper.Report, ways: tuple[helper.Way, helper.Way], console: Console) -> None:
    from nanochat.analysis import training_resume_helper as helper

    console.print("\nRESUME INSTRUCTIONS\n")
    console.print(f"1. With a command: {ways[0].command or 'not possible, ' + ways[0].reason}")
    console.print("\n2. By hand, in Python:\n")
    print(helper.program(report))  # as it is, so that it can be copied into a file


def _drill(args: argparse.Namespace, console: Console) -> int:
    from nanochat.analysis import training_resume_helper as helper

    with contextlib.ExitStack() as stack:
        scratch = args.scratch
        if scratch is None:
            if args.drill != "all":
                raise helper.ResumeError(f"--drill {args.drill} needs --scratch DIR, which both parts work in")
            scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="nanochat-drill-"))
        parts = {"all": helper.drill, "kill": helper.train_and_kill, "recover": helper.recover}
        if args.events:
            return _tell(parts[args.drill](scratch))
        scenes = []
        for scene in parts[args.drill](scratch):
            if isinstance(scene, helper.Scene):
                scenes.append(scene)
                if not args.json:
                    console.print(f"{scene.title}. {scene.sentence}\n  {scene.command}\n")
    if args.json:
        print(json.dumps([{"title": s.title, "sentence": s.sentence, "holds": s.holds} for s in scenes]))
    return int(scenes[-1].holds is False)


def _tell(events: Iterable[helper.Again | helper.Proof | helper.Scene]) -> int:
    """Each event as a line, at once; 1 where the last one says no."""
    from nanochat.analysis import training_resume_helper as helper

    holds = None
    for event in events:
        print(helper.said(event), flush=True)
        holds = getattr(event, "holds", None)
    return int(holds is False)


def _number(value: float | None, form: str) -> str:
    return "unknown" if value is None else f"{value:{form}}"


def _clock(seconds: float | None) -> str:
    if seconds is None:
        return "unknown"
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}"


if __name__ == "__main__":
    sys.exit(exit_status("training_resume_helper", main))
