"""Watch a model choose its next word, and see what temperature, top-k, top-p and min-p change.

    nanochat generation_explorer --source base --interactive
    nanochat generation_explorer --source base --prompt "The capital of France is" --show-probs
    nanochat generation_explorer --source base --prompt "Once upon a time" --compare-temp
    nanochat generation_explorer --source base --prompt "In the beginning" --compare-topk 1 10 100
    nanochat generation_explorer --source sft --model-tag d20 --device cuda --prompt "What is 2+2?" --show-probs
    nanochat generation_explorer --prompt "One day" --force 3 " dog"        # what if it had said something else
    nanochat generation_explorer --prompt "One day" --lens 3                # what each layer would have said there
    nanochat generation_explorer --batch 32 --max-tokens 160 --plot temperatures.png

A base model continues the prompt; a fine-tuned one is asked it as a user. Same seed and settings, same text.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanochat.analysis import generation_explorer as explorer
from nanochat.charts import generation_explorer as charts
from nanochat.charts import save
from nanochat.checkpoint_files import shown
from nanochat.errors import exit_status
from nanochat.tools._run import add_run_flags, chosen_run

if TYPE_CHECKING:
    import altair as alt
    import polars as pl

WIDTH = 100
RULE, LINE = "=" * WIDTH, "-" * WIDTH
COMPARISONS = {
    "compare_temp": "temperature",
    "compare_topk": "top_k",
    "compare_top_p": "top_p",
    "compare_min_p": "min_p",
}


def parser() -> argparse.ArgumentParser:
    """Every flag, each with its help."""
    # "resolve", because -i is the stage in other tools and interactive here, as it always was in this one.
    p = argparse.ArgumentParser(
        prog="nanochat generation_explorer",
        description="Watch a model choose its next word. Without another view it writes one text.",
        conflict_handler="resolve",
    )
    add_run_flags(p)
    p.add_argument("--prompt", default="", help="what to continue or to answer (nothing: it begins a text of its own)")
    p.add_argument("--plain", action="store_true", help="continue the prompt as plain text in a fine-tuned model too")
    how = p.add_argument_group("how tokens are chosen")
    how.add_argument("--temperature", type=float, default=0.9, help="0 always takes the likeliest token (0.9)")
    how.add_argument("--top-k", type=int, help="choose among the k likeliest tokens (all)")
    how.add_argument("--top-p", type=float, help="choose among the likeliest tokens that hold this share (all)")
    how.add_argument("--min-p", type=float, help="drop tokens below this fraction of the likeliest one's share (none)")
    how.add_argument("--max-tokens", type=int, default=50, help="longest text in tokens (50)")
    how.add_argument("--seed", type=int, default=42, help="the same seed and settings give the same text (42)")
    views = p.add_argument_group("what to show (the text)")
    views.add_argument("-i", "--interactive", action="store_true", help="change prompt and settings as you go")
    views.add_argument("--show-probs", action="store_true", help="the candidates of every step")
    views.add_argument("--top", type=int, default=5, help="candidates of a step (5)")
    views.add_argument("--compare-temp", type=float, nargs="*", metavar="T", help="several temperatures (0.1 to 1.5)")
    views.add_argument("--compare-topk", type=int, nargs="*", metavar="K", help="several values of top-k (1 to 200)")
    views.add_argument("--compare-top-p", type=float, nargs="*", metavar="P", help="several values of top-p (0.5 to 1)")
    views.add_argument("--compare-min-p", type=float, nargs="*", metavar="P", help="several values of min-p (0 to 0.3)")
    views.add_argument(
        "--force", nargs=2, action="append", metavar=("STEP", "TEXT"), help="a branch on which it says TEXT at STEP"
    )
    views.add_argument("--lens", type=int, metavar="STEP", help="what each layer would have said at this step")
    views.add_argument(
        "--batch", type=int, metavar="N", help="write N texts at each temperature of --compare-temp and count them"
    )
    p.add_argument("--plot", type=Path, metavar="FILE", help="save the chart of what is shown, .png or .svg")
    p.add_argument("--json", action="store_true", help="print one JSON object")
    return p


def main(argv: list[str] | None = None) -> int:
    """Open the model and show what was asked for."""
    args = parser().parse_args(argv)
    opened = open_model(args)
    if args.interactive:
        from nanochat.tools._generation_explorer_talk import converse

        return converse(opened, settings_of(args), args.max_tokens, args.top)
    shown_views = [VIEWS[name](args, opened) for name in asked(args)]
    if args.json:
        data: dict[str, Any] = {
            "run": opened.run, "step": opened.step, "prompt": opened.prompt.text, "chat": opened.prompt.chat,
            "settings": asdict(settings_of(args)), "max_tokens": args.max_tokens,
        }  # fmt: skip
        for view in shown_views:
            data |= view.data
        print(json.dumps(data))
    else:
        for view in shown_views:
            print("\n".join(view.lines))
        for note in (f"run {opened.run}, step {opened.step}: {opened.why}", opened.prompt.note):
            print(f"Note: {note}", file=sys.stderr)
    if args.plot is not None:
        view = shown_views[-1]
        print(save(view.chart(), args.plot, view.lines), file=sys.stderr)
    return 0


@dataclass
class Opened:
    """An open model with its prompt, and which run it is."""

    engine: Any
    session: explorer.Session
    prompt: explorer.Prompt
    chat: bool  # whether prompts are asked as a user's turn
    stories: bool
    run: str
    step: int
    why: str

    def ask(self, text: str) -> None:
        """Take another prompt."""
        self.prompt = explorer.encode_prompt(self.engine.tokenizer, text, chat=self.chat)
        self.session = explorer.Session(self.engine, self.prompt.ids)


@dataclass(frozen=True)
class View:
    """One thing to show: as data, as lines for a terminal, and as a chart."""

    data: dict[str, Any]
    lines: list[str]
    chart: Callable[[], alt.TopLevelMixin]


def open_model(args: argparse.Namespace) -> Opened:
    """The model that the flags name, with the prompt."""
    run, step, why = chosen_run(args)
    chat = run.stage != "base" and not args.plain
    engine, loaded = explorer.open_engine(run.folder, step, args.device)
    prompt = explorer.encode_prompt(engine.tokenizer, args.prompt, chat=chat)
    session = explorer.Session(engine, prompt.ids)
    number = int(loaded.meta.get("step", -1) if step is None else step)
    name = f"{run.stage}/{shown(run.tag)}"
    return Opened(engine, session, prompt, chat, explorer.knows_stories(loaded.meta), name, number, why)


def settings_of(args: argparse.Namespace) -> explorer.Settings:
    """The flags as settings."""
    return explorer.Settings(args.temperature, args.top_k, args.top_p, args.min_p, args.seed)


def asked(args: argparse.Namespace) -> list[str]:
    """The views that the flags name, the text where there is none."""
    if args.batch is not None:
        return ["batch"]
    names = [name for name in COMPARISONS if getattr(args, name) is not None]
    names += [name for name in ("force", "lens") if getattr(args, name) is not None]
    return (["text"] if args.show_probs or not names else []) + names


def text_view(args: argparse.Namespace, opened: Opened) -> View:
    """One text, with the candidates of every step if they are wanted."""
    settings, session = settings_of(args), opened.session
    report = explorer.read_text(session, settings, list(session.write(settings, args.max_tokens)))
    data: dict[str, Any] = {"text": report.text, "ids": report.ids, "ended": report.ended}
    steps = report.steps.to_dicts()
    lines = []
    for number, row in enumerate(steps if args.show_probs else []):
        step = explorer.read_step(session, settings, report.ids[:number], row["id"], args.top)
        row["candidates"] = step.candidates.to_dicts()
        lines += step_lines(row, row["candidates"])
    title = "GENERATION WITH PROBABILITIES" if args.show_probs else "GENERATION"
    head = [*_title(title), f'Prompt: "{shown(opened.prompt.text, 2000)}"', str(settings), "", LINE, ""]
    tail = ["Full generation:", *quoted(report.text), "", _ending(report, args.max_tokens), RULE]
    if args.show_probs:
        tail = [LINE, "", *tail]
    return View(data | {"steps": steps}, [*head, *lines, *tail], lambda: charts.ribbon(report.steps))


def step_lines(row: dict[str, Any], candidates: Iterable[dict[str, Any]]) -> list[str]:
    """A step in the terminal: what was taken, what else could have been, and what the numbers mean."""
    candidates = list(candidates)
    word = {"model": "Sampled", "tool": "Tool wrote", "you": "Forced"}[row["origin"]]
    doubt = f"entropy {row['entropy']:.2f} bits; {row['kept']:,} tokens kept"
    lines = [
        f"Step {row['step']}:",
        f'  {word}: [{row["id"]}] "{row["text"]}" (p={row["p"]:.4f})',
        f"  Model alone: p={row['p_model']:.4f}, rank {row['rank']:,}, surprise {row['surprise']:.2f} bits, {doubt}",
        f"  Top {len(candidates)} alternatives:",
    ]
    for one in candidates:
        mark = " ←" if one["taken"] else ""
        cut = f"  (cut by {one['cut']})" if one["cut"] else ""
        lines.append(f'    {one["rank"]}. [{one["id"]:>5}] "{one["text"]:<20}" p={one["p"]:.4f}{mark}{cut}')
    return [*lines, ""]


def comparison_view(flag: str, args: argparse.Namespace, opened: Opened) -> View:
    """One text for each value of a setting."""
    name = COMPARISONS[flag]
    result = explorer.compare(opened.session, settings_of(args), name, getattr(args, flag), args.max_tokens)
    return View(
        {name: result.frame.to_dicts()},
        comparison_lines(result, opened.prompt.text),
        lambda: charts.comparison(result.frame, name),
    )


def comparison_lines(result: explorer.Comparison, prompt: str) -> list[str]:
    """Texts below one another, with the place at which each leaves the one it is compared with."""
    lines = [*_title(f"{explorer.LABELS[result.name].upper()} COMPARISON"), f'Prompt: "{shown(prompt, 2000)}"']
    own = result.variations[result.reference]
    lines += [f"Seed: {own.report.settings.seed} for all of them", ""]
    for one, row in zip(result.variations, result.frame.iter_rows(named=True), strict=True):
        apart = "the one the others are compared with" if one is own else "the same text"
        if one.diverges is not None:
            apart = f"first divergence at step {one.diverges + 1}"
        lines += [LINE, f"{one.label}: {row['tokens']:,} tokens, {apart}", *quoted(one.report.text)]
        if row["tokens"]:
            lines.append(f"  mean p {row['p_model']:.3f}, surprise {row['surprise']:.2f} bits a token")
    return [*lines, RULE]


def force_view(args: argparse.Namespace, opened: Opened) -> View:
    """Branches: each --force leaves the text of the one before it."""
    settings, session, tree, now = settings_of(args), opened.session, explorer.Tree(), explorer.ROOT
    for step, words in args.force:
        if not step.isdigit():
            raise explorer.ExplorerError(f"--force {shown(step, 20)}: the step is not a number; give 1 or more")
        tokens = write(session, settings, tree.find(now), args.max_tokens)
        ids = opened.engine.tokenizer.encode(words)
        tree, branch = tree.force(now, tokens, int(step) - 1, ids, shown(words, 40))
        now = branch.name
    lines = [*_title("BRANCHES"), f'Prompt: "{shown(opened.prompt.text, 2000)}"', str(settings), "", LINE]
    branches, report = [], None
    for depth, branch in tree.outline():
        mine = branch.settings(settings)
        report = explorer.read_text(session, mine, write(session, settings, branch, args.max_tokens))
        lines += [f"{'  ' * depth}{branch.name}: {branch.what}", *quoted(report.text), ""]
        branches.append({"name": branch.name, "parent": branch.parent, "at": branch.at + 1, "ids": report.ids,
                         "text": report.text, "steps": report.steps.to_dicts()})  # fmt: skip
    assert report is not None
    steps = report.steps
    return View({"branches": branches}, [*lines, RULE], lambda: charts.ribbon(steps))


def write(
    session: explorer.Session, settings: explorer.Settings, branch: explorer.Branch, max_tokens: int
) -> list[explorer.Token]:
    """The text of a branch."""
    return list(session.write(branch.settings(settings), max_tokens, branch.fixed))


def lens_view(args: argparse.Namespace, opened: Opened) -> View:
    """What each layer would have said at one step of the text."""
    settings, session = settings_of(args), opened.session
    ids = [token.id for token in session.write(settings, args.max_tokens)]
    if not 1 <= args.lens <= len(ids):
        raise explorer.ExplorerError(f"--lens {args.lens}: the text has {len(ids):,} steps; give 1 to {len(ids):,}")
    frame = explorer.lens(session, ids[: args.lens - 1], ids[args.lens - 1])
    taken = explorer.spelled(session, ids[args.lens - 1])
    lines = [*_title("LOGIT LENS"), f'Step {args.lens}, where it said "{taken}"; what each layer would have said:', ""]
    return View({"lens": frame.to_dicts()}, [*lines, *lens_lines(frame), RULE], lambda: charts.lens(frame))


def lens_lines(frame: pl.DataFrame) -> list[str]:
    """One line a layer: its candidates, and how far the token that was taken is."""
    lines = []
    for (name,), rows in frame.group_by("name", maintain_order=True):
        said = "  ".join(f'"{row["text"]}" {row["p"]:.3f}' for row in rows.iter_rows(named=True))
        lines.append(f"  {name:<18} {said}  (rank {rows['rank_taken'][0]:,}, p={rows['p_taken'][0]:.4f})")
    return lines


def batch_view(args: argparse.Namespace, opened: Opened) -> View:
    """Many texts at several temperatures, counted."""
    result = explorer.statistics(
        opened.engine, opened.prompt, settings_of(args), args.compare_temp or explorer.TEMPERATURES,
        samples=args.batch, max_tokens=args.max_tokens, judged=opened.stories,
    )  # fmt: skip
    return View(
        {"statistics": result.frame.to_dicts(), "samples": result.samples, "judged": result.judged},
        [*_title("TEXTS COUNTED"), *batch_lines(result), RULE],
        lambda: charts.statistics(result.frame, result.name),
    )


def batch_lines(result: explorer.Statistics) -> list[str]:
    """A table of the figures, and what they are."""
    columns = ["tokens", "ended", "different", "distinct_1", "distinct_2", "distinct_3", "repetition"]
    columns += ["accepted", "shape"] if result.judged else []
    lines = [
        f"{result.samples:,} texts each",
        "",
        f"{explorer.LABELS[result.name]:>12}" + "".join(f"{c:>12}" for c in columns),
    ]
    for row in result.frame.iter_rows(named=True):
        cells = ["-" if row[c] is None else f"{row[c]:.1f}" if c == "tokens" else f"{row[c]:.3f}" for c in columns]
        lines.append(f"{row['value']:>12g}" + "".join(f"{cell:>12}" for cell in cells))
    lines += ["", "distinct_n: share of different n-grams; repetition: share of 4-grams that the text said before."]
    if result.judged:
        lines.append("accepted: stories that the grammar accepts; shape: right sentences, whatever the names and sums.")
    return lines


def quoted(text: str) -> list[str]:
    """A text between quotes, harmless; one of several lines keeps them."""
    lines = [shown(line, 10_000) for line in text.split("\n")]
    return [f'"{lines[0]}"'] if len(lines) == 1 else [f"  {line}" for line in lines]


def _ending(report: explorer.TextReport, max_tokens: int) -> str:
    return "It ended there by itself." if report.ended else f"Cut off at {len(report.ids):,} tokens (--max-tokens)."


def _title(words: str) -> list[str]:
    return [RULE, words, RULE, ""]


VIEWS: dict[str, Callable[[argparse.Namespace, Opened], View]] = {
    "text": text_view, "force": force_view, "lens": lens_view, "batch": batch_view,
    **{flag: partial(comparison_view, flag) for flag in COMPARISONS},
}  # fmt: skip


if __name__ == "__main__":
    sys.exit(exit_status("generation_explorer", main))
