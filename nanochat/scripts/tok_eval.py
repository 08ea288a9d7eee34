"""Measure a tokenizer: bytes of text for each token, beside GPT-2's and GPT-4's tokenizers.

    python -m nanochat.scripts.tok_eval
    python -m nanochat.scripts.tok_eval --base-dir ~/.cache/nanochat --data stories
    python -m nanochat.scripts.tok_eval --text my_notes.txt --json

It works offline: the other tokenizers are compared where tiktoken has them in its cache, and where not it says how to
get them.
"""

from __future__ import annotations

import argparse
import json
import sys
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanochat.errors import exit_status
from nanochat.paths import expand, roots

if TYPE_CHECKING:
    from nanochat.dataset_split import Split
    from nanochat.tokenizer import Tokenizer
    from nanochat.tokenizer_eval import Compression, Reference

DATA_CHARS = 500_000  # of the training and of the validation text: enough for two digits
MAX_TEXT_BYTES = 64 * 2**20  # of a file named with --text


def parser() -> argparse.ArgumentParser:
    """Every flag, each with its help."""
    p = argparse.ArgumentParser(
        prog="nanochat tok_eval",
        description="Bytes of text for each token, on texts of several kinds; more is better. Never uses the network.",
    )
    p.add_argument("--base-dir", type=Path, help="folder in nanochat's layout (the workspace, then nanochat's own)")
    p.add_argument("--tokenizer-dir", type=Path, help="the folder of the tokenizer itself, such as one of a checkpoint")
    p.add_argument("--data", help="text to measure as well: stories, python, a folder of shards, text or JSONL files")
    p.add_argument("--text", type=Path, action="append", default=[], help="a text file to measure as well; repeatable")
    p.add_argument("--json", action="store_true", help="print one JSON object")
    return p


def main(argv: list[str] | None = None) -> int:
    """Measure and print."""
    args = parser().parse_args(argv)
    from nanochat.tokenizer import load_tokenizer
    from nanochat.tokenizer_eval import REFERENCES, SAMPLES, compare, reference, token_statistics

    folder = find_tokenizer(args.tokenizer_dir, args.base_dir)
    tokenizer = load_tokenizer(folder)
    references = tuple(reference(name) for name in REFERENCES)
    texts = dict(SAMPLES)
    for path in args.text:
        texts[path.name] = read_text(path)
    if args.data is not None:
        texts |= data_texts(args.data)
    rows = compare(tokenizer, texts, references)
    if args.json:
        facts = token_statistics(tokenizer)
        print(json.dumps(report(folder, tokenizer, rows, references) | {"token_bytes": vars(facts)}))
    else:
        show(folder, tokenizer, rows, references)
    return 0


def find_tokenizer(named: Path | None, base_dir: Path | None) -> Path:
    """The folder of the tokenizer to measure. Raises TokenizerError where there is none."""
    from nanochat.tokenizer import TokenizerError

    places = [expand(named)] if named else [root / "tokenizer" for root in _bases(base_dir)]
    for place in places:
        if place.exists():
            return place
    listed = " nor in ".join(map(str, places))
    raise TokenizerError(f"no tokenizer in {listed}; train one with `nanochat tok_train`, or name --tokenizer-dir")


def _bases(base_dir: Path | None) -> list[Path]:
    return [expand(base_dir)] if base_dir else [root.path for root in roots()]


def read_text(path: Path) -> str:
    """A text file, whole. Raises TokenizerError."""
    from nanochat.tokenizer_files import read_regular_file

    return read_regular_file(path, MAX_TEXT_BYTES).decode("utf-8", errors="replace")


def data_texts(spec: str) -> dict[str, str]:
    """The beginning of the training and of the validation documents of a source of text."""
    from nanochat.dataset import open_dataset
    from nanochat.tokenizer_texts import training_texts

    dataset = open_dataset(spec)

    def beginning(split: Split) -> str:
        return "\n".join(islice(training_texts(split, DATA_CHARS), 100_000))

    return {
        f"{dataset.name}, training": beginning(dataset.train),
        f"{dataset.name}, validation": beginning(dataset.val),
    }


def report(
    folder: Path, tokenizer: Tokenizer, rows: list[Compression], references: tuple[Reference, ...]
) -> dict[str, Any]:
    """Everything as plain data."""
    return {
        "tokenizer": str(folder),
        "vocab_size": tokenizer.get_vocab_size(),
        "fingerprint": tokenizer.fingerprint,
        "compression": [{**vars(row), "ratio": round(row.ratio, 4)} for row in rows],
        "references": {one.name: one.reason for one in references},
    }


def show(folder: Path, tokenizer: Tokenizer, rows: list[Compression], references: tuple[Reference, ...]) -> None:
    """A table with a line for each text, and a sentence on what it says."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    console.print(f"{tokenizer.get_vocab_size():,} tokens, from {folder}", markup=False, soft_wrap=True)
    here = [one for one in references if one.encoding is not None]
    table = Table(title="bytes a token (more is better)")
    table.add_column("text", overflow="fold")  # the column that gives way in a narrow terminal: no figure is cut
    for heading in ("bytes", "tokens", "ours", *(one.label for one in here)):
        table.add_column(heading, justify="right", no_wrap=True)
    for one in here:
        table.add_column(f"tokens saved, {one.label}", justify="right")
    by_text: dict[str, dict[str, Compression]] = {}
    for row in rows:
        by_text.setdefault(row.text, {})[row.tokenizer] = row
    for name, of in by_text.items():
        ours, others = of["ours"], [of[one.label] for one in here]
        fewer = [f"{(other.tokens - ours.tokens) / max(other.tokens, 1):+.1%}" for other in others]
        ratios = [f"{row.ratio:.2f}" for row in (ours, *others)]
        table.add_row(name, f"{ours.bytes:,}", f"{ours.tokens:,}", *ratios, *fewer)
    console.print(table)
    # In a terminal, lines end between words, and a command to be copied stands alone. A log gets a line a sentence.
    narrow = console.is_terminal
    for one in references:
        if narrow and one.command:
            console.print(one.reason.removesuffix(one.command), markup=False)
            console.print(f"  {one.command}", markup=False, soft_wrap=True)
        else:
            console.print(f"{one.reason}.", markup=False, soft_wrap=not narrow)
    best, worst = (choose(by_text, key=lambda name: by_text[name]["ours"].ratio) for choose in (max, min))
    console.print(
        f"Best on {best} ({by_text[best]['ours'].ratio:.2f} bytes a token), worst on {worst} "
        f"({by_text[worst]['ours'].ratio:.2f}): a tokenizer is good at what it was trained on. Train on your own "
        "kind of text, or with a larger --vocab-size, to see the figures move.",
        markup=False,
        soft_wrap=not narrow,
    )


if __name__ == "__main__":
    sys.exit(exit_status("tok_eval", main))
