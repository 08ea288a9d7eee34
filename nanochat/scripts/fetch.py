"""Download nanochat's public training data, or files from any address, with resume and checks.

    python -m nanochat.scripts.fetch -n 8                       # 8 training shards and the validation shard
    python -m nanochat.scripts.fetch --dataset fineweb -n 4     # the data of runs before March 2026
    python -m nanochat.scripts.fetch --url https://example.org/book.txt

The flags -n and -w are nanochat's own. Files go into our workspace unless --base-dir names another base dir. Stop it
whenever you like: the same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from nanochat import paths
from nanochat.errors import exit_status
from nanochat.fetch import SOURCES, FetchError, Patience, Report, fetch_all, files, shard_urls

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

SHARDS = 8  # nanochat's own first download, enough for a tokenizer and a small model
MOST_TOLD = 50  # failures that get a line in the terminal
URL_FOLDER = "downloads"  # below the base dir, for --url


def parser() -> argparse.ArgumentParser:
    """Every flag, each with its help."""
    p = argparse.ArgumentParser(
        prog="nanochat fetch",
        description="Download nanochat's public training data: shards of about 90 MB, 250 million characters each. The "
        "shard that validates always comes too. Files that are there are left alone, and a broken download goes on.",
    )
    p.add_argument(
        "--dataset",
        default="climbmix",
        choices=list(SOURCES),
        help="climbmix, or fineweb for runs before 2026-03 (climbmix)",
    )
    p.add_argument(
        "-n",
        "--num-files",
        type=int,
        default=SHARDS,
        help=f"training shards to fetch; -1 for all, which is hundreds of GB ({SHARDS})",
    )
    p.add_argument("-w", "--num-workers", type=int, default=4, help="files at a time (4)")
    p.add_argument(
        "--url",
        action="append",
        default=[],
        help=f"fetch this file instead, into {URL_FOLDER}/; may be given several times",
    )
    p.add_argument("--base-dir", type=Path, help="base dir to write into (our workspace)")
    p.add_argument("--base-url", help="another address that has the shards, such as a mirror (Hugging Face)")
    p.add_argument(
        "--max-unstated",
        type=float,
        default=Patience.most_unstated / 1e9,
        metavar="GB",
        help="most that is taken of a file whose size the server does not state (2)",
    )
    p.add_argument("--json", action="store_true", help="print one JSON object instead of words and bars")
    return p


def main(argv: list[str] | None = None) -> int:
    """Fetch and say what came."""
    args = parser().parse_args(argv)
    base = paths.expand(args.base_dir) if args.base_dir else paths.workspace()
    source = SOURCES[args.dataset]
    if not 0 < args.max_unstated <= 1e6:
        raise FetchError(f"--max-unstated is {args.max_unstated:g}; give gigabytes, more than 0 and up to a million")
    patience = Patience(most_unstated=round(args.max_unstated * 1e9))
    if args.url:
        urls, folder, expected = args.url, base / URL_FOLDER, 0
    else:
        urls, folder, expected = (
            shard_urls(source, args.num_files, args.base_url),
            base / source.folder,
            source.shard_bytes,
        )
    if args.json:
        report = fetch_all(urls, folder, args.num_workers, patience, expected_bytes=expected)
        print(
            json.dumps(
                {"folder": str(folder), "fetched": report.fetched, "present": report.present, "failed": report.failed}
            )
        )
    else:
        report = _with_bars(urls, folder, args.num_workers, patience, expected)
        _tell(report)
    return 1 if report.failed else 0


def _with_bars(urls: list[str], folder: Path, workers: int, patience: Patience, expected: int) -> Report:
    """A line for all files and one for each that is coming."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    console = Console(stderr=True)
    console.print(f"{files(len(urls))} into {folder}", highlight=False, markup=False, soft_wrap=True)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        try:
            return fetch_all(urls, folder, workers, patience, on_progress=_Bars(progress), expected_bytes=expected)
        except KeyboardInterrupt:
            console.print("What arrived is kept: the same command goes on from here.")
            raise


class _Bars:
    """One bar per file that is coming; called from several threads, which Rich allows."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.tasks: dict[str, TaskID] = {}

    def __call__(self, name: str, here: int, total: int | None) -> None:
        if name not in self.tasks:
            self.tasks[name] = self.progress.add_task(name, total=total)
        self.progress.update(self.tasks[name], completed=here, total=total, visible=here != total)


def _tell(report: Report) -> None:
    size = f" ({paths.readable_size(report.received)})" if report.fetched else ""
    there = f"{files(len(report.present))} {'was' if len(report.present) == 1 else 'were'} there before"
    print(f"{files(len(report.fetched))} fetched{size}, {there}.")
    if report.failed:
        print(f"{files(len(report.failed))} could not be fetched; the same command tries again:", file=sys.stderr)
        for why in list(report.failed.values())[:MOST_TOLD]:
            print(f"  {why}", file=sys.stderr)
        if len(report.failed) > MOST_TOLD:
            print(f"  and {files(len(report.failed) - MOST_TOLD)} more; --json names all", file=sys.stderr)
    else:
        print(f"{'It is' if len(report.fetched) + len(report.present) == 1 else 'All of them are'} in {report.folder}")


if __name__ == "__main__":
    sys.exit(exit_status("fetch", main))
