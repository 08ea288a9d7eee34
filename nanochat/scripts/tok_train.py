"""Train a tokenizer: learn from text which pieces of words deserve an id of their own.

    python -m nanochat.scripts.tok_train                             # on the shards that are there, else on stories
    python -m nanochat.scripts.tok_train --data my_texts/ --vocab-size 4096
    python -m nanochat.scripts.tok_train --data stories --vocab-size 2048

Flags are nanochat's own, and a few more. The tokenizer goes to `tokenizer/` in our workspace, in files that nanochat
opens too. One that is already there stays: every model that was trained with it would be worth nothing without it.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from nanochat.errors import exit_status
from nanochat.paths import expand, workspace
from nanochat.tokenizer_texts import DOC_CAP, MAX_CHARS, default_max_chars, training_texts

if TYPE_CHECKING:
    from collections.abc import Callable

    from nanochat.tokenizer import Tokenizer

VOCAB_SIZE = 32768  # nanochat's
SHOWN_MERGES = 12  # the first that were learnt, and as many of the longest
CHECK_TEXT = "Hello world! 1,234 and it's 50 % off.\n\n\tdef f(x): return x**2  # caf\u00e9 \u4f60\u597d \U0001f30d"


def parser() -> argparse.ArgumentParser:
    """Every flag, each with its help."""
    p = argparse.ArgumentParser(
        prog="nanochat tok_train",
        description="Train a tokenizer on text and save it to tokenizer/ in the workspace. Without --data it reads the "
        "shards that `nanochat fetch` has brought, and where there are none the built-in stories.",
    )
    p.add_argument("--max-chars", type=int, help=f"most characters to train on ({MAX_CHARS:,}; fewer of the stories)")
    p.add_argument("--doc-cap", type=int, default=DOC_CAP, help=f"most characters of one document ({DOC_CAP:,})")
    p.add_argument(
        "--vocab-size", type=int, default=VOCAB_SIZE, help=f"number of ids, the nine special ones too ({VOCAB_SIZE:,})"
    )
    p.add_argument("--data", help="stories, python, a folder of parquet shards, or text or JSONL files")
    p.add_argument("--base-dir", type=Path, help="folder in nanochat's layout to save into (the workspace)")
    p.add_argument("--force", action="store_true", help="replace a tokenizer that is already there")
    p.add_argument("--trainer", choices=["rustbpe", "python"], help="who learns (rustbpe where it is installed)")
    return p


def main(argv: list[str] | None = None) -> int:
    """Read texts, learn, save, and show what was learnt."""
    args = parser().parse_args(argv)
    from nanochat.dataset import choose_data, open_dataset
    from nanochat.tokenizer import train_tokenizer

    folder = (expand(args.base_dir) if args.base_dir else workspace()) / "tokenizer"
    _refuse_to_replace(folder, args.force)
    spec, why = choose_data(args.data, args.base_dir)
    dataset = open_dataset(spec)
    print(f"data: {dataset.name} ({why})")
    for note in dataset.notes:
        print(f"  {note}")
    max_chars, reason = (args.max_chars, "as asked") if args.max_chars is not None else default_max_chars(dataset.train)
    print(f"max_chars: {max_chars:,}")
    print(f"  ({reason})")
    print(f"doc_cap: {args.doc_cap:,}")
    print(f"vocab_size: {args.vocab_size:,}")

    begun = time.monotonic()
    with reading_bar(max_chars) as progress:
        texts = training_texts(dataset.train, max_chars, args.doc_cap, progress)
        tokenizer = train_tokenizer(texts, args.vocab_size, args.trainer)
    print(f"Training time: {time.monotonic() - begun:.2f}s")
    if tokenizer.training is not None:
        print(f"  (by {tokenizer.training.trainer}: {tokenizer.training.reason})")
    for note in tokenizer.notes:
        print(f"  {note}")
    assert tokenizer.decode(tokenizer.encode(CHECK_TEXT)) == CHECK_TEXT

    tokenizer.save(folder, overwrite=args.force)
    print(f"Saved tokenizer encoding to {folder / 'tokenizer.pkl'}")
    print(f"Saved token_bytes to {folder / 'token_bytes.pt'}")
    show(tokenizer)
    return 0


def _refuse_to_replace(folder: Path, force: bool) -> None:
    """Say now, and not after an hour of training, that the result could not be saved."""
    from nanochat.tokenizer import TokenizerError

    if not force and any((folder / name).exists() for name in ("tokenizer.json", "tokenizer.pkl")):
        raise TokenizerError(
            f"{folder} holds a tokenizer, and checkpoints may need it; choose another --base-dir, or replace it on "
            "purpose with --force (checkpoints that we write carry a copy of their own)"
        )


@contextmanager
def reading_bar(max_chars: int) -> Iterator[Callable[[int], None]]:
    """A progress bar on a terminal's standard error; elsewhere nothing. Gives the function to tell characters to."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[read]}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        # A text may be far shorter than the limit, so the bar only says that something moves, the figure how much.
        task = bar.add_task("reading text, then learning", total=None, read="")
        shown = 0

        def progress(characters: int) -> None:
            nonlocal shown
            if characters - shown >= 100_000 or characters >= max_chars:
                shown = characters
                bar.update(task, read=f"{characters / 1e6:,.1f} M characters")

        yield progress


def show(tokenizer: Tokenizer) -> None:
    """What was learnt: the lengths of the tokens, the first ones and the longest ones."""
    from nanochat.tokenizer_eval import show_token, token_statistics

    facts = token_statistics(tokenizer)
    learnt = tokenizer.vocabulary.tokens[256:]  # the single bytes come first and are not learnt
    print(f"vocab size: {tokenizer.get_vocab_size():,} = 256 bytes + {len(learnt):,} learnt + 9 special")
    for name, value in (("min", facts.least), ("max", facts.most)):
        print(f"token_bytes_{name}: {value}")
    for name, figure in (("mean", facts.mean), ("std", facts.deviation)):
        print(f"token_bytes_{name}: {figure:.4f}")
    if learnt:
        longest = sorted(learnt, key=len, reverse=True)[:SHOWN_MERGES]
        print("first learnt: " + " ".join(map(show_token, learnt[:SHOWN_MERGES])))
        print("longest:      " + " ".join(map(show_token, longest)))


if __name__ == "__main__":
    sys.exit(exit_status("tok_train", main))
