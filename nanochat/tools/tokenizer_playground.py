"""See how a text falls into tokens: colours, bytes, merges, vocabulary, costs.

    nanochat tokenizer_playground "Hello world!"
    nanochat tokenizer_playground --interactive
    nanochat tokenizer_playground --special --vocab
    nanochat tokenizer_playground --compare "Hello" "Hi" "Hey there"
    nanochat tokenizer_playground --merges "little dogs"            # how BPE builds these tokens, rank by rank
    nanochat tokenizer_playground --train my_text.txt --vocab-size 600

Without a tokenizer on this machine it takes a small one that it learns from built-in stories. Never uses the network.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanochat.analysis import tokenizer_playground as playground
from nanochat.analysis.conversation_template_builder import multi, supervision
from nanochat.charts import save
from nanochat.charts import tokenizer_playground as charts
from nanochat.errors import exit_status, is_message

if TYPE_CHECKING:
    import altair as alt
    import polars as pl
    from rich.console import Console
    from rich.text import Text

WIDTH = 70
TINTS = ("#56B4E9", "#E69F00", "#CC79A7", "#BBBBBB")  # backgrounds in turn, told apart by every kind of colour vision
MAX_ROWS = 500  # of a table in the terminal; --json has all
EXAMPLE_TEXT = "Hello world!"


def parser() -> argparse.ArgumentParser:
    """Every flag, each with its help."""
    p = argparse.ArgumentParser(
        prog="nanochat tokenizer_playground", description="See how a text falls into tokens, and why."
    )
    p.add_argument("text", nargs="?", help="the text to tokenize; - reads it from standard input")
    p.add_argument("-i", "--interactive", action="store_true", help="type one text after another")
    p.add_argument("--file", type=Path, help="take the text from a file")
    views = p.add_argument_group("what to show (the tokens of the text)")
    views.add_argument("--special", action="store_true", help="the special tokens and what each is for")
    views.add_argument("--vocab", action="store_true", help="what is in the vocabulary")
    views.add_argument("--compare", nargs="+", metavar="TEXT", help="what several texts cost")
    views.add_argument("--languages", action="store_true", help="what one sentence costs in several languages")
    views.add_argument("--against", nargs="+", metavar="ID", help="what the text costs under other tokenizers too")
    views.add_argument("--merges", action="store_true", help="how the text's tokens are merged, rank by rank")
    views.add_argument("--chat", nargs="+", metavar="TEXT", help="a conversation, user first, as the model reads it")
    views.add_argument("--train", type=Path, metavar="FILE", help="learn a tokenizer from a text file, show its merges")
    views.add_argument("--vocab-size", type=int, default=512, help="of --train, everything counted (512)")
    which = p.add_argument_group("which tokenizer (the best that is here)")
    which.add_argument("--list", action="store_true", help="list the tokenizers that can be taken")
    which.add_argument("--tokenizer", metavar="ID", help="one of those listed, such as workspace, sft/demo or gpt2")
    which.add_argument("--tokenizer-dir", type=Path, help="the folder of a tokenizer")
    which.add_argument("--base-dir", type=Path, help="look in this folder of nanochat's layout only")
    p.add_argument("--plot", type=Path, metavar="FILE", help="save the chart of what is shown, .png or .svg")
    p.add_argument("--json", action="store_true", help="print one JSON object")
    return p


def main(argv: list[str] | None = None) -> int:
    """Show what was asked for."""
    args = parser().parse_args(argv)
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True, emoji=False, markup=False)
    if args.list:
        return _list(args, console)
    known = _opened(args.tokenizer, args, args.tokenizer_dir)
    if args.interactive:
        return _converse(args, known, console)
    shown = {name: VIEWS[name](args, known) for name in _asked(args)}
    if args.json:
        print(json.dumps({"tokenizer": known.label, **{name: view.data for name, view in shown.items()}}))
    else:
        for view in shown.values():
            _print(console, view, known)
    if args.plot is not None:
        drawn = [(view.chart, view.lines) for view in shown.values() if view.chart is not None]
        if not drawn:
            raise playground.PlaygroundError(
                "there is no chart of that; --plot goes with --vocab, --compare, --languages or --merges"
            )
        chart, lines = drawn[-1]
        print(save(chart(), args.plot, [str(line) for line in lines]), file=sys.stderr)
    return 0


@dataclass(frozen=True)
class View:
    """One thing to show: as data, as lines for a terminal, and as a chart where there is one."""

    data: Any
    lines: list[str | Text]
    chart: Callable[[], alt.TopLevelMixin] | None = None


def _asked(args: argparse.Namespace) -> list[str]:
    """The views that the flags name, the plain one where none is."""
    flags = ("special", "vocab", "compare", "languages", "against", "merges", "chat", "train")
    return [name for name in flags if getattr(args, name)] or ["text"]


def _opened(name: str | None, args: argparse.Namespace, folder: Path | None = None) -> playground.Known:
    return playground.open_place(playground.find_place(name, args.base_dir, folder))


def _text(args: argparse.Namespace) -> str:
    """The text of the command line, of a file or of standard input."""
    if args.file is not None:
        return playground.read_text(args.file)
    if args.text == "-":
        return sys.stdin.buffer.read(16 * 2**20).decode(errors="replace")
    return EXAMPLE_TEXT if args.text is None else args.text


def text_view(args: argparse.Namespace, known: playground.Known) -> View:
    """The tokens of a text, coloured and listed."""
    from rich.text import Text

    from nanochat.checkpoint_files import shown

    report = playground.tokenize(known, _text(args))
    rows = report.frame.to_dicts()
    coloured = Text()
    for row in rows[:MAX_ROWS]:
        if coloured:
            coloured.append("|", "dim")
        coloured.append(row["text"], f"#000000 on {TINTS[row['index'] % len(TINTS)]}")
        if row["text"].endswith("⏎"):
            coloured.append("\n")
    listed = [
        f"{row['index']:<6} {row['id']:<10} {_padded(row['text'], 35)} {row['bytes']:<8} {row['type']}"
        + (f"  {row['note']}" if row["note"] else "")
        for row in rows[:MAX_ROWS]
    ]
    lines = [
        *_title("TOKENIZATION VISUALIZATION"),
        "Original Text:",
        f'  "{shown(report.text, 2000)}"',
        "",
        "Quick Stats:",
        f"  Total tokens:      {report.tokens:,}",
        f"  Total characters:  {report.characters:,}",
        f"  Total bytes:       {report.bytes:,}",
        f"  Compression ratio: {report.tokens_per_byte:.3f} tokens/byte",
        f"  Efficiency:        {report.characters_per_token:.2f} chars/token",
        f"  Tokenizer:         {known.label}, {known.size:,} tokens",
        "",
        "Colored Token Breakdown:",
        "(Each color represents a different token; · is a blank, ⏎ a line break, <e4> a byte that is no character)",
        "",
        coloured,
        "",
        "",
        "Detailed Token Information:",
        "",
        f"{'Index':<6} {'Token ID':<10} {'Text':<35} {'Bytes':<8} Type",
        "-" * 80,
        *listed,
        *_rest(len(rows)),
        "",
        "=" * WIDTH,
    ]
    figures = ("text", "tokens", "characters", "bytes", "tokens_per_byte", "characters_per_token")
    return View({name: getattr(report, name) for name in figures} | {"details": rows}, lines)


def special_view(args: argparse.Namespace, known: playground.Known) -> View:
    """The special tokens."""
    rows = playground.special_tokens(known).to_dicts()
    learned = {True: "the model", False: "we", None: "?"}
    table = _table(
        ("Token ID", "Token", "Written by", "What it is for"),
        ((str(r["id"]), r["name"], learned[r["written_by_model"]], r["purpose"]) for r in rows),
    )
    note = "No text contains them: whatever a file or a user writes is encoded as ordinary text."
    return View(rows, [*_title("SPECIAL TOKENS"), *table, "", note])


def vocab_view(args: argparse.Namespace, known: playground.Known) -> View:
    """What is in the vocabulary."""
    report = playground.describe(known)
    share = report.with_blank / max(report.size, 1)
    lines = [
        *_title("VOCABULARY INFORMATION"),
        f"  Total vocabulary size: {report.size:,}",
        f"  Single bytes:          {report.bytes:,} (what every text falls back to)",
        f"  Learned merges:        {report.merges:,}",
        f"  Special tokens:        {report.specials:,}",
        f"  Mean length:           {report.mean_bytes:.2f} bytes",
        f"  Begin with a blank:    {report.with_blank:,} ({share:.1%}: a word behind another)",
        f"  No whole character:    {report.partial:,}",
        "",
        "Token Types:",
        *_table(
            ("Type", "Tokens", "Share"), ((kind, count, f"{part:.1%}") for kind, count, part in report.types.rows())
        ),
        "",
        "Longest tokens:",
        *_table(("Token ID", "Text", "Bytes"), ((str(rank), text, size) for rank, text, size in report.longest.rows())),
        "",
        "First merges (the most frequent pairs of the text it was trained on):",
        *_merges(report.first_merges),
    ]
    frames = ("types", "lengths", "longest", "first_merges", "last_merges")
    data = vars(report) | {name: getattr(report, name).to_dicts() for name in frames}
    return View(data, lines, lambda: charts.lengths(report.lengths))


def _comparison(title: str, result: playground.Comparison) -> View:
    rows = (
        (r["name"], r["tokens"], r["characters"], r["bytes"], f"{r['characters_per_token']:.2f}", f"{r['cost']:.2f}x")
        for r in result.frame.to_dicts()
    )
    lines = [
        *_title(title),
        *_table(("Text", "Tokens", "Characters", "Bytes", "Chars/token", "Cost"), rows),
        "",
        f"Most efficient: {result.cheapest}. Least: {result.dearest}. The cost is against the first.",
    ]
    return View(result.frame.to_dicts(), lines, lambda: charts.cost(result.frame))


def merges_view(args: argparse.Namespace, known: playground.Known) -> View:
    """How the text's tokens are merged."""
    report = playground.replay(known, _text(args))

    short = report.start <= 300  # of a long text only the merges are listed

    def at(step: int) -> list[str]:
        parts = report.state(step) if short else []
        return ["       " + "|".join(playground.spell_bytes(part) for part, _ in parts)] if short else []

    left = report.frame["tokens"][-1] if report.steps else report.start
    lines: list[str | Text] = [*_title("MERGE REPLAY")]
    lines += [f"{report.start:,} bytes become {left:,} tokens in {report.steps:,} merges.", "", *at(0)]
    for row in report.frame.head(MAX_ROWS).iter_rows(named=True):
        lines.append(f"{row['step']:>4}   rank {row['rank']}: {row['left']} + {row['right']}, {row['times']:,}x")
        lines += at(row["step"])
    if not report.agrees:
        lines.append("The tokenizer itself gives other tokens: its vocabulary was not learnt by merging pairs.")
    data = {"start": report.start, "agrees": report.agrees, "steps": report.frame.to_dicts()}
    return View(data, [*lines, *_rest(report.steps)], lambda: charts.replay(report.frame, report.start))


def chat_view(args: argparse.Namespace, known: playground.Known) -> View:
    """A conversation with its roles, token by token."""
    if known.tokenizer is None:
        raise playground.PlaygroundError(
            f"{known.label} has no tokens for a conversation; take one of nanochat's (--tokenizer)"
        )
    report = supervision(known.tokenizer, multi(args.chat))
    rows = report.frame.to_dicts()
    table = _table(
        ("Index", "Token ID", "Text", "Role", "Trained on"),
        ((r["index"], str(r["id"]), r["text"], r["role"], "yes" if r["supervised"] else "") for r in rows[:MAX_ROWS]),
    )
    summary = f"{report.tokens:,} tokens, {report.supervised:,} of them written by the model."
    return View(rows, [*_title("CHAT VIEW"), *table, *_rest(len(rows)), "", summary])


def train_view(args: argparse.Namespace, known: playground.Known) -> View:
    """A tokenizer learnt from a text file."""
    learned = playground.learn(_text(argparse.Namespace(file=args.train, text=None)), args.vocab_size)
    lines = [
        *_title("TOKENIZER TRAINED ON THIS TEXT"),
        f"{learned.known.size:,} tokens, {learned.merges.height:,} of them merges. Learnt with {learned.trainer}.",
        *learned.notes,
        "",
        *_merges(learned.merges.head(MAX_ROWS)),
        *_rest(learned.merges.height),
    ]
    return View({"size": learned.known.size, "merges": learned.merges.to_dicts()}, lines)


VIEWS: dict[str, Callable[[argparse.Namespace, playground.Known], View]] = {
    "text": text_view,
    "special": special_view,
    "vocab": vocab_view,
    "compare": lambda args, known: _comparison("TOKENIZATION COMPARISON", playground.compare(known, args.compare)),
    "languages": lambda args, known: _comparison(
        "ONE SENTENCE IN SEVERAL LANGUAGES", playground.compare(known, playground.LANGUAGES)
    ),
    "against": lambda args, known: _comparison(
        "ONE TEXT UNDER SEVERAL TOKENIZERS",
        playground.compare_tokenizers([known, *(_opened(name, args) for name in args.against)], _text(args)),
    ),
    "merges": merges_view,
    "chat": chat_view,
    "train": train_view,
}


def _list(args: argparse.Namespace, console: Console) -> int:
    found = playground.places(args.base_dir)
    if args.json:
        print(json.dumps([{"id": one.id, "label": one.label, "missing": one.missing} for one in found]))
        return 0
    for line in _table(("ID", "Tokenizer"), ((one.id, one.missing or one.label) for one in found)):
        console.print(line)
    return 0


def _converse(args: argparse.Namespace, known: playground.Known, console: Console) -> int:
    """Interactive mode: one text after another."""
    console.print(f"Tokenizer: {known.label}, {known.size:,} tokens. Type a text to see its tokens.")
    console.print("Commands: special, vocab, languages, merges TEXT, compare A | B, list, tokenizer ID, quit.")
    while True:
        try:
            line = input("\n> ")
        except EOFError:
            print()
            return 0
        if line.strip() in ("quit", "exit", "q"):
            return 0
        try:
            known = _answer(args, known, console, line)
        except ValueError as error:
            if not is_message(error):
                raise
            print(error, file=sys.stderr)


def _answer(args: argparse.Namespace, known: playground.Known, console: Console, line: str) -> playground.Known:
    """One line of interactive mode; returns the tokenizer that the next one is for."""
    word, _, rest = line.strip().partition(" ")
    if word == "tokenizer" and rest:
        known = _opened(rest.strip(), args)
        console.print(f"Tokenizer: {known.label}, {known.size:,} tokens.")
    elif word == "list" and not rest:
        _list(argparse.Namespace(base_dir=args.base_dir, json=False), console)
    elif word in ("special", "vocab", "languages") and not rest:
        _print(console, VIEWS[word](args, known), known)
    elif word == "compare" and "|" in rest:
        texts = [text.strip() for text in rest.split("|")]
        _print(console, VIEWS["compare"](argparse.Namespace(compare=texts), known), known)
    elif line:
        replayed = word == "merges" and bool(rest)
        asked = argparse.Namespace(text=rest if replayed else line, file=None)
        _print(console, (merges_view if replayed else text_view)(asked, known), known)
    return known


def _print(console: Console, view: View, known: playground.Known) -> None:
    for line in (*view.lines, *(f"Note: {note}" for note in known.notes)):
        console.print(line)


def _title(words: str) -> list[str | Text]:
    return ["=" * WIDTH, words, "=" * WIDTH, ""]


def _rest(rows: int) -> list[str]:
    return [f"... and {rows - MAX_ROWS:,} more; --json lists all"] if rows > MAX_ROWS else []


def _merges(frame: pl.DataFrame) -> list[str]:
    heads = ("Rank", "Left", "Right", "Token", *(["Times"] if "times" in frame.columns else []))
    return _table(heads, ((str(rank), *rest) for rank, *rest in frame.iter_rows()))


def _table(heads: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> list[str]:
    """Columns as wide as their widest cell; numbers to the right."""
    from rich.cells import cell_len

    cells = [[f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row] for row in rows]
    widths = [min(max([len(head), *(cell_len(row[i]) for row in cells)]), 60) for i, head in enumerate(heads)]
    lines = ["  ".join(map(_padded, row, widths)).rstrip() for row in [list(heads), *cells]]
    return [lines[0], "-" * min(sum(widths) + 2 * len(widths), 100), *lines[1:]]


def _padded(text: str, width: int) -> str:
    """Text to a width in terminal columns: a Chinese character takes two."""
    from rich.cells import cell_len, set_cell_size

    return text if cell_len(text) >= width else set_cell_size(text, width)


if __name__ == "__main__":
    sys.exit(exit_status("tokenizer_playground", main))
