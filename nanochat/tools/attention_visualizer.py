"""See where a model looks: its attention on a text, what its heads do, and what happens without them.

nanochat attention_visualizer --text "Hello world" --layer 0
nanochat attention_visualizer --text "The capital of France is" --layer 5 --head 3 --top-k 10
nanochat attention_visualizer --text "Once upon a time" --layer 3 --heatmap --output attention.png
nanochat attention_visualizer --heads                       # every head with its measured name
nanochat attention_visualizer --off 1.0 2.3                 # the next token and the loss without two heads
nanochat attention_visualizer --layer 1 --head 0 --parts    # how much of it is position, how much content
"""

from __future__ import annotations

import argparse
import functools
import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanochat.checkpoint_files import CheckpointError, location
from nanochat.errors import exit_status
from nanochat.tools._run import add_run_flags, chosen_run

if TYPE_CHECKING:
    import altair as alt

    from nanochat.analysis import attention_visualizer as attention
    from nanochat.checkpoint_manager import LoadedModel

WIDTH, BAR = 100, 40


def parser() -> argparse.ArgumentParser:
    """Every flag, each with its help."""
    p = argparse.ArgumentParser(prog="nanochat attention_visualizer", description="See where a model looks.")
    p.add_argument("--text", help="the text that the model reads, behind <|bos|> (two sentences of a story)")
    p.add_argument("--chat", action="store_true", help="put the text to the model as a user's message")
    p.add_argument("--layer", type=int, default=0, help="layer, counted from 0 (0)")
    p.add_argument("--head", type=int, help="head, counted from 0 (the mean over the layer's heads)")
    p.add_argument("--top-k", type=int, default=5, help="how many attended tokens to show for each token (5)")
    p.add_argument("--query", type=int, help="show this token only; with --plot, its arcs")
    p.add_argument("--carried", action="store_true", help="weigh each weight by the length of the value it carries")
    p.add_argument("--without", nargs="+", default=[], metavar="L.H", help="look with these heads switched off")
    views = p.add_argument_group("what to show (where each token looks)")
    views.add_argument("--heads", action="store_true", help="every head with its measured name and scores")
    views.add_argument("--off", nargs="+", metavar="L.H", help="the next token and the loss without these heads")
    views.add_argument("--parts", action="store_true", help="how much of a head is position, how much content")
    p.add_argument("--heatmap", action="store_true", help="save the matrix as a picture")
    p.add_argument(
        "--output", type=Path, default=Path("attention.png"), help="of --heatmap, .png or .svg (attention.png)"
    )
    p.add_argument("--plot", type=Path, metavar="FILE", help="save the chart of what is shown, .png or .svg")
    p.add_argument("--json", action="store_true", help="print one JSON object")
    add_run_flags(p)
    return p


@dataclass(frozen=True)
class View:
    """What was asked for: as data, as lines, and as a chart where there is one."""

    data: dict[str, Any]
    lines: list[str]
    chart: Callable[[], alt.TopLevelMixin] | None = None


def main(argv: list[str] | None = None) -> int:
    """Look, and show what was asked for."""
    args = parser().parse_args(argv)
    run, step, _ = chosen_run(args)
    if step is None:
        raise CheckpointError(f"{location(run.folder)}: no complete checkpoint to open; train it, or name another run")
    from nanochat.analysis import attention_visualizer as attention
    from nanochat.charts import save
    from nanochat.checkpoint_manager import load_model

    loaded = load_model(run.folder, step, args.device)
    args.text = attention.EXAMPLE if args.text is None else args.text
    looked = functools.cache(lambda: attention.look(loaded, args.text, _heads(args.without), args.chat))
    if args.heads:  # measured on a text of its own
        view = heads_view(loaded)
    elif args.off:
        view = off_view(loaded, looked(), _heads(args.off))
    elif args.parts:
        view = parts_view(args, looked())
    else:
        view = text_view(args, looked())
    if args.json:
        print(json.dumps({"run": f"{run.stage}/{run.tag}", "step": step, **view.data}))
    else:
        print("\n".join(view.lines))
    if args.heatmap:
        chart, words = heatmap(args, looked())
        print(save(chart, args.output, words), file=sys.stderr)
    if args.plot is not None:
        if view.chart is None:
            raise attention.AttentionError("there is no chart of the heads; --plot goes with the other views")
        print(save(view.chart(), args.plot, view.lines), file=sys.stderr)
    return 0


def _heads(named: list[str]) -> frozenset[tuple[int, int]]:
    """Heads from "LAYER.HEAD"."""
    from nanochat.analysis import attention_visualizer as attention

    for name in named:
        if re.fullmatch(r"\d{1,6}\.\d{1,6}", name, re.ASCII) is None:
            raise attention.AttentionError(f"{name!r:.40} is no head; write layer and head as 1.0")
    return frozenset((int(layer), int(head)) for layer, head in (name.split(".") for name in named))


def _title(words: str) -> list[str]:
    return ["=" * WIDTH, words, "=" * WIDTH, ""]


def _head_words(args: argparse.Namespace, report: attention.Look) -> str:
    return f"Average across all {report.shape[1]} heads" if args.head is None else str(args.head)


def text_view(args: argparse.Namespace, report: attention.Look) -> View:
    """The top-k tokens that each token attends to."""
    from nanochat.analysis import attention_visualizer as attention
    from nanochat.charts import attention_visualizer as charts

    found = attention.top(report, args.layer, args.head, args.top_k, args.carried)
    queries = _queries(args, report)
    plain = report.tokens["plain"].to_list()
    text = json.dumps(
        args.text if len(args.text) <= 2000 else args.text[:2000] + "...", ensure_ascii=not args.text.isprintable()
    )
    lines = [
        *_title("ATTENTION VISUALIZATION (Text-based)"),
        f"Input text: {text}",
        f"Layer: {args.layer}",
        f"Head: {_head_words(args, report)}",
        "",
        f"Showing top-{args.top_k} attended tokens for each position:",
        "-" * WIDTH,
    ]
    by_query = found.partition_by("query", as_dict=True)
    for query in queries:
        lines += ["", f"Token {query}: '{plain[query]}'", "  Attends to:"]
        for rank, key, weight in by_query[(query,)].select("rank", "key", "weight").iter_rows():
            name = f"Token {key}: '{plain[key]}'"
            lines.append(f"    {rank}. {name:<27} [{weight:6.1%}] {'█' * int(BAR * weight + 1e-6)}".rstrip())
    data = {
        "layer": args.layer,
        "head": args.head,
        "tokens": report.tokens.to_dicts(),
        "attention": [by_query[(query,)].to_dicts() for query in queries],
        "window": report.windows[args.layer],
        "loss": report.loss,
    }
    if args.query is None:
        return View(data, [*lines, "", "=" * WIDTH], lambda: heatmap(args, report)[0])
    texts = report.tokens["text"].to_list()
    return View(data, [*lines, "", "=" * WIDTH], lambda: charts.arcs(by_query[(args.query,)], texts, args.query))


def _queries(args: argparse.Namespace, report: attention.Look) -> list[int]:
    from nanochat.analysis import attention_visualizer as attention

    T = report.shape[2]
    if args.query is None:
        return list(range(T))
    if not 0 <= args.query < T:
        raise attention.AttentionError(f"token {args.query} is not there: the text has tokens 0 to {T - 1}")
    return [args.query]


def heatmap(args: argparse.Namespace, report: attention.Look) -> tuple[alt.TopLevelMixin, list[str]]:
    """The matrix as a chart, and in words."""
    from nanochat.analysis import attention_visualizer as attention
    from nanochat.charts import attention_visualizer as charts

    weights = attention.matrix(report, args.layer, args.head, args.carried)
    seen = attention.visible_keys(report.shape[2], report.windows[args.layer])
    title = f"Layer {args.layer}, " + ("mean of all heads" if args.head is None else f"head {args.head}")
    rows = [" ".join(f"{weight:.2f}" for weight in row[: i + 1]) for i, row in enumerate(weights[:24])]
    return charts.heatmap(weights, report.tokens["text"].to_list(), seen, title), [title, *rows]


def heads_view(loaded: LoadedModel) -> View:
    """Every head, its name and its scores."""
    from nanochat.analysis import attention_visualizer as attention

    frame = attention.label_heads(loaded)
    tests = list(attention.TESTS)
    lines = [*_title("WHAT EACH HEAD DOES"), "Measured on random tokens said twice; 1.00 is always.", ""]
    lines += [f"  {test:<16} {words}" for test, words in attention.TESTS.items()]
    lines += ["", f"{'Head':<6} {'Name':<16}" + "".join(f"  {test}" for test in tests), "-" * WIDTH]
    for row in frame.iter_rows(named=True):
        cells = "".join(f"{'' if row[test] is None else format(row[test], '.2f'):>{len(test) + 2}}" for test in tests)
        lines.append(f"{row['layer']}.{row['head']:<4} {row['label'] or '-':<16}{cells}")
    named = frame.filter(frame["label"] != "").height
    lines += ["", f"{named:,} of {frame.height:,} heads have a name; the others do something that no test asks for."]
    return View({"heads": frame.to_dicts()}, lines)


def off_view(loaded: LoadedModel, report: attention.Look, off: frozenset[tuple[int, int]]) -> View:
    """The model without some heads."""
    from nanochat.analysis import attention_visualizer as attention
    from nanochat.charts import attention_visualizer as charts

    effect = attention.without(loaded, report, off)
    names = ", ".join(f"{layer}.{head}" for layer, head in effect.off)
    lines = [
        *_title(f"WITHOUT {names}"),
        f"{'Loss, nats a token':<36}{'all heads':>12}{'without':>12}{'without others':>18}",
        *(
            f"  {words:<34}{_number(before):>12}{_number(after):>12}{_number(other):>18}"
            for words, (before, after), other in (
                ("on this text", effect.loss, effect.others[0]),
                ("on random tokens said twice", effect.repeats, effect.others[1]),
            )
        ),
        f"  (without others: as many other heads, the mean of {attention.CONTROLS} draws)",
        "",
        f"The next token's distribution moved by {effect.divergence:.4f} nats:",
        *(
            f"  {row['text']:<24}{row['before']:>10.2%} -> {row['after']:>8.2%}"
            for row in effect.next_token.iter_rows(named=True)
        ),
    ]
    data = {**vars(effect), "next_token": effect.next_token.to_dicts(), "tokens": effect.tokens.to_dicts()}
    return View(data, lines, lambda: charts.next_token(effect.next_token))


def parts_view(args: argparse.Namespace, report: attention.Look) -> View:
    """A head's scores, taken apart."""
    from nanochat.analysis import attention_visualizer as attention
    from nanochat.charts import attention_visualizer as charts

    if args.head is None:
        raise attention.AttentionError("--parts takes one head apart; name it with --head")
    found = attention.parts(report, args.layer, args.head)
    lines = [
        *_title(f"POSITION AGAINST CONTENT, HEAD {args.layer}.{args.head}"),
        "Share of what makes its scores differ:",
    ]
    lines += [f"  {name:<16}{'-' if share is None else format(share, '8.1%')}" for name, share in found.shares.items()]
    lines += ["", "Weight in common with the real weights:"]
    lines += [f"  from {name:<11}{share:8.1%}" for name, share in found.overlap.items() if name != "alike"]
    lines += [f"  looking alike   {found.overlap['alike']:8.1%}"]
    data = {"layer": args.layer, "head": args.head, "shares": found.shares, "overlap": found.overlap}
    return View(
        {**data, "by_distance": found.by_distance.to_dicts()}, lines, lambda: charts.distances(found.by_distance)
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


if __name__ == "__main__":
    sys.exit(exit_status("attention_visualizer", main))
