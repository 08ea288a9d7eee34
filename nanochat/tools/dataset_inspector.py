"""Look at a data set before it trains anything: bad lines, lengths, repetitions, secrets, samples.

    python -m nanochat.tools.dataset_inspector chats.jsonl
    python -m nanochat.tools.dataset_inspector chats.jsonl --validate --analyze-lengths --samples 10
    python -m nanochat.tools.dataset_inspector chats/ --issues issues.jsonl --clean clean.jsonl --rejects bad.jsonl

It takes JSONL, gzip, zstandard, parquet and lists in one JSON document, several files or a folder with all below it,
and ends with status 1 where a line has an error. Text files, and parquet or JSON lines with a column `text`, get a
report for plain text.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanochat.errors import exit_status

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nanochat.analysis.dataset_inspector import Progress, Report

WRITES = ("issues", "counts", "clean", "rejects", "repaired", "export", "plot")  # the flags that name a file to write


def parser() -> argparse.ArgumentParser:
    """Every flag, each with its help."""
    p = argparse.ArgumentParser(prog="nanochat dataset_inspector", description=(__doc__ or "").split("\n\n")[0])
    p.add_argument("dataset", type=Path, nargs="+", help="JSONL, .gz, .zst, parquet or text files, or a folder of them")
    p.add_argument("--samples", type=int, help="show this many random conversations (5, unless you ask for more)")
    p.add_argument("--seed", type=int, default=0, help="which ones; the same seed shows the same (0)")
    p.add_argument("--validate", action="store_true", help="check the format and name the bad lines")
    p.add_argument(
        "--analyze-lengths", action="store_true", help="lengths in characters and tokens, and what they mean"
    )
    p.add_argument("--export", type=Path, metavar="FILE", help="write random conversations to a text file, for reading")
    p.add_argument("--export-count", type=int, default=100, metavar="N", help="how many of them (100)")
    p.add_argument("--no-tokenizer", action="store_true", help="lengths in characters only")
    p.add_argument("--tokenizer-dir", type=Path, help="tokenizer or base dir to count with (the workspace, nanochat's)")
    p.add_argument(
        "--exact", action="store_true", help="count the tokens of every conversation; takes ten times longer"
    )
    p.add_argument(
        "--max-tokens", type=int, default=2048, help="warn about longer conversations (2048, nanochat's cap)"
    )
    p.add_argument(
        "--profile", choices=("chat", "nanochat-custom"), default="chat", help="what a conversation may be (chat)"
    )
    p.add_argument("--by", metavar="FIELD", help="break the figures down by an extra field, such as source")
    p.add_argument("--near-duplicates", action="store_true", help="also find conversations that are nearly the same")
    p.add_argument("--pii", action="store_true", help="also look for personal data; many false alarms")
    p.add_argument("--overlap", type=Path, metavar="FILE", help="also find 13 words in a row that this file has too")
    p.add_argument("--search", metavar="TEXT", help="show the lines that hold a text")
    p.add_argument(
        "--issues", type=Path, metavar="FILE", help="write every line that has an issue, one JSON object each"
    )
    p.add_argument(
        "--counts", type=Path, metavar="FILE", help="count all, and write each conversation's tokens, .parquet"
    )
    p.add_argument("--clean", type=Path, metavar="FILE", help="write the lines that can be trained on, as they are")
    p.add_argument("--rejects", type=Path, metavar="FILE", help="write the lines that cannot, as they are")
    p.add_argument("--repaired", type=Path, metavar="FILE", help="write the clean lines and those that can be repaired")
    p.add_argument(
        "--drop-duplicates", action="store_true", help="a line that equals an earlier one goes to the rejects"
    )
    p.add_argument("--drop-secrets", action="store_true", help="a line with an API key or the like goes to the rejects")
    p.add_argument("--plot", type=Path, metavar="FILE", help="draw the lengths as .png or .svg")
    p.add_argument("--json", action="store_true", help="print one JSON object")
    p.add_argument(
        "--events", action="store_true", help="--json, with a line of progress now and then, and status 0 at the end"
    )
    return p


def main(argv: list[str] | None = None) -> int:
    """Inspect and print."""
    p = parser()
    args = p.parse_args(argv)
    if (args.samples or 0) < 0 or args.seed < 0 or args.export_count < 1 or args.max_tokens < 1:
        p.error("--samples and --seed are at least 0; --export-count and --max-tokens are at least 1")
    if args.by == "":
        p.error("--by needs the name of a field, such as source")
    from nanochat.analysis.dataset_inspector import (
        InspectorError,
        find_sources,
        is_corpus,
        open_tokenizer,
        require_targets,
    )
    from nanochat.checkpoint_files import shown

    sources = find_sources(args.dataset)
    if args.plot is not None:
        from nanochat.charts import require_format

        require_format(args.plot)
    compared = [] if args.overlap is None else find_sources([args.overlap])
    require_targets(
        [*sources, *compared], {flag: target for flag in WRITES if (target := getattr(args, flag)) is not None}
    )
    tokenizer, origin = (None, "") if args.no_tokenizer else open_tokenizer(args.tokenizer_dir)
    watch = _events() if args.events else _watcher(quiet=args.json)
    corpus = [is_corpus(source) for source in sources]
    if all(corpus):
        return _corpus(sources, tokenizer, args, watch)
    if any(corpus):
        names = ", ".join(shown(one.name) for one, text in zip(sources, corpus, strict=True) if text)
        raise InspectorError(
            f"{names}: this is plain text and the rest is conversations; inspect them one after another"
        )
    return _conversations(sources, tokenizer, origin, args, watch)


def _conversations(sources: Any, tokenizer: Any, origin: str, args: argparse.Namespace, watch: Any) -> int:
    from nanochat.analysis.dataset_inspector import Options, as_json, inspect, rows_of, sample, search, text

    options = Options(
        profile=args.profile,
        by=args.by,
        max_tokens=args.max_tokens,
        exact=args.exact or args.counts is not None,
        near=args.near_duplicates,
        personal=args.pii,
        overlap=args.overlap,
        seed=args.seed,
    )
    report = inspect(sources, options, tokenizer, watch)
    written = _write(report, tokenizer, args, watch)
    if args.json or args.events:
        print(json.dumps(as_json(report) | {"written": written}))
        return int(report.error_lines > 0 and not args.events)
    asked = args.validate or args.analyze_lengths
    if args.validate or (not asked and report.error_lines):
        _show(text.validation(report))
    _show(text.statistics(report, origin))
    if args.analyze_lengths:
        _show(text.lengths(report))
    count = (0 if asked else 5) if args.samples is None else args.samples
    if count:
        _show(text.samples(sample(report, count, args.seed), report))
    if args.search is not None:
        _show(text.found(report, rows_of(report, search(report, args.search)), args.search))
    _show(text.written(written))
    return int(report.error_lines > 0)


def _write(report: Report, tokenizer: Any, args: argparse.Namespace, watch: Any) -> dict[str, Any]:
    """Every file asked for. What went where, by flag."""
    from nanochat.analysis.dataset_inspector import Drop, export_file, export_issues, export_samples, save_counts, text

    written: dict[str, Any] = {}
    if args.issues is not None:
        written["issues"] = {"file": str(args.issues), "lines": export_issues(report, args.issues)}
    if args.counts is not None:
        lines = save_counts(report, args.counts, tokenizer.fingerprint if tokenizer else "")
        written["counts"] = {"file": str(args.counts), "lines": lines}
    for flag, part in (("clean", "clean"), ("rejects", "rejected"), ("repaired", "repaired")):
        target = getattr(args, flag)
        if target is not None:
            drop = Drop(args.drop_duplicates, args.drop_secrets)
            done = export_file(report, part, target, watch, drop=drop)
            written[flag] = {"file": str(target), "lines": done.lines, "bytes": done.size, "repairs": done.repairs}
    if args.export is not None:
        count = export_samples(report, args.export, args.export_count, args.seed)
        written["export"] = {"file": str(args.export), "lines": count}
    if args.plot is not None:
        from nanochat.analysis.dataset_inspector import length_bins
        from nanochat.charts import save
        from nanochat.charts.dataset_inspector import length_chart

        said = save(length_chart(*length_bins(report)), args.plot, list(text.bars(report)))
        written["plot"] = {"file": str(args.plot), "said": said}
    return written


def _corpus(sources: Any, tokenizer: Any, args: argparse.Namespace, watch: Any) -> int:
    from nanochat.analysis.dataset_inspector import InspectorError, inspect_corpus, text

    for name in WRITES:
        if getattr(args, name) is not None:
            raise InspectorError(f"--{name} is for conversations, and this is plain text; leave it out")
    report = inspect_corpus(sources, tokenizer, watch)
    if args.json or args.events:
        print(json.dumps(text.corpus_json(report)))
    else:
        _show(text.corpus(report))
    return int(report.bad > 0 and not args.events)


def _show(lines: Iterator[str]) -> None:
    for line in lines:
        print(line)


def _watcher(quiet: bool) -> Any:
    """Shows how far it is, in a terminal only."""
    if quiet or not sys.stderr.isatty():
        return lambda progress: None

    def watch(progress: Progress) -> None:
        end = "\r\x1b[K" if progress.done >= progress.total else ""
        print(f"\r{progress.doing}: {progress.done / max(progress.total, 1):.0%}", end=end, file=sys.stderr, flush=True)

    return watch


def _events() -> Any:
    """Says how far it is, a line of JSON twice a second, for the page that started it."""
    from nanochat.analysis.dataset_inspector.counting import event

    said = 0.0

    def watch(progress: Progress) -> None:
        nonlocal said
        if time.monotonic() - said >= 0.5:
            said = time.monotonic()
            print(event(progress), flush=True)

    return watch


if __name__ == "__main__":
    sys.exit(exit_status("dataset_inspector", main))
