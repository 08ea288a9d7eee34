"""List, inspect, compare, tidy up and export the checkpoints of every run, stage and era.

    python -m nanochat.tools.checkpoint_browser --list --sort val_bpb
    python -m nanochat.tools.checkpoint_browser --inspect d20 --step 5000
    python -m nanochat.tools.checkpoint_browser --compare base/d20@1000 base/d20 --prompt "The sky is"
    python -m nanochat.tools.checkpoint_browser --delete d20 --keep-last 2 --keep-every 1000        (says what would go)
    python -m nanochat.tools.checkpoint_browser --export sft/d20 --output d20-safetensors

A checkpoint is named by a tag (d20), with its stage and step (sft/d20@700), or by a path.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanochat import paths
from nanochat.errors import exit_status

if TYPE_CHECKING:
    from nanochat.analysis.checkpoint_browser import Reference
    from nanochat.paths import Root

SORTS = ("modified", "val_bpb", "size_mb", "step")


def parser() -> argparse.ArgumentParser:
    """Every flag, each with its help."""
    p = argparse.ArgumentParser(prog="nanochat checkpoint_browser", description=(__doc__ or "").split("\n\n")[0])
    p.add_argument("checkpoint_dir", nargs="?", help="a run's folder, to inspect it; the same as --inspect FOLDER")
    what = p.add_mutually_exclusive_group()
    what.add_argument("--list", action="store_true", help="list all checkpoints (what it does without another word)")
    what.add_argument("--inspect", metavar="MODEL", help="what a checkpoint is, and whether its files are sound")
    what.add_argument("--compare", nargs=2, metavar=("A", "B"), help="two checkpoints side by side")
    what.add_argument("--delete", metavar="RUN", help="what of a run could go; with --yes it goes")
    what.add_argument("--export", metavar="MODEL", help="write safetensors, a configuration and a model card")
    which = p.add_argument_group("which checkpoints")
    which.add_argument("--base-dir", type=Path, help="look below this folder only (workspace, then nanochat)")
    which.add_argument("--source", "-i", choices=list(paths.STAGE_FOLDERS), help="only this stage")
    which.add_argument("--model-tag", "-g", help="only the run of this name; alone, it is inspected")
    which.add_argument("--step", "-s", type=int, help="step of the run (the last complete one)")
    p.add_argument("--sort", choices=SORTS, default="modified", help="order of the list (modified)")
    p.add_argument("--verify", action="store_true", help="open every file of each listed checkpoint; status 1 if bad")
    p.add_argument("--full", action="store_true", help="verify every byte, too: about 2 seconds a GB")
    p.add_argument("--no-tensors", action="store_true", help="compare configuration and figures only")
    p.add_argument(
        "--rank-up-to", type=int, default=1536, metavar="N", help="effective rank of matrices up to N (1536)"
    )
    p.add_argument("--prompt", action="append", default=[], help="let both models answer this; may be repeated")
    p.add_argument("--max-tokens", type=int, default=40, help="of each answer (40)")
    p.add_argument("--device", default="cpu", help="where models answer: cpu, cuda, mps or auto (cpu)")
    p.add_argument("--keep-last", type=int, default=1, metavar="N", help="deleting spares the last N (1)")
    p.add_argument("--keep-every", type=int, default=0, metavar="N", help="... and every step that N divides (none)")
    p.add_argument("--no-keep-best", action="store_true", help="... and not the best by val_bpb, which it spares")
    p.add_argument("--incomplete", action="store_true", help="delete incomplete and broken steps as well")
    p.add_argument("--yes", action="store_true", help="really delete")
    p.add_argument("--output", "-o", type=Path, help="folder of the export (named after the checkpoint)")
    p.add_argument("--force", action="store_true", help="replace an export that is there")
    p.add_argument(
        "--plot", type=Path, metavar="FILE", help="draw disk use, or a comparison's changes, as .png or .svg"
    )
    p.add_argument("--json", action="store_true", help="print one JSON object")
    return p


def main(argv: list[str] | None = None) -> int:
    """Do the one thing that was asked for."""
    p = parser()
    args = p.parse_args(argv)
    if args.max_tokens < 1 or args.rank_up_to < 0:
        p.error("--max-tokens is at least 1 and --rank-up-to at least 0")
    named = args.inspect or args.checkpoint_dir or (None if args.list else args.model_tag)
    roots = [paths.Root("folder", paths.expand(args.base_dir), True, "")] if args.base_dir else paths.roots()
    if args.compare:
        return _compare(args, roots)
    if args.delete:
        return _delete(args, roots)
    if args.export:
        return _export(args, roots)
    return _inspect(args, roots, named) if named else _list(args, roots)


def _list(args: argparse.Namespace, roots: list[Root]) -> int:
    import polars as pl

    from nanochat.analysis.checkpoint_browser import BrowserError, disk_use, list_checkpoints, sort_rows, text

    problem = paths.folder_problem(roots[0].path) if args.base_dir else None
    if args.base_dir and (problem or not roots[0].path.exists()):
        raise BrowserError(f"--base-dir {args.base_dir}: {problem or 'there is no such folder'}; name a folder of runs")
    found = list_checkpoints(roots)
    rows = sort_rows(found.frame, args.sort)
    for column, value in (("stage", args.source), ("tag", args.model_tag), ("step", args.step)):
        rows = rows.filter(pl.col(column) == value) if value is not None else rows
    if args.verify or args.full:
        rows = _verified(rows, args.full)
    said = _plot(args, disk_use(rows), "disk_chart", list(text.listing(found, rows, args.sort)))
    if args.json:
        dump = {"checkpoints": rows.to_dicts(), "problems": found.problems, "size": rows["size"].sum()}
        _print_json(dump | {"other": found.other})
    else:
        _show([*text.listing(found, rows, args.sort), *said])
    return int((args.verify or args.full) and not (rows["cause"] == "").all())


def _verified(rows: Any, full: bool) -> Any:
    """The rows with what opening the files has shown."""
    import polars as pl

    from nanochat.checkpoint_manager import verify

    words, causes = [], []
    for folder, step, integrity, cause in rows.select("folder", "step", "integrity", "cause").iter_rows():
        checked = verify(folder, step, full) if not cause else None
        words.append(integrity if checked is None else "verified" if checked.ok else "broken")
        causes.append(cause if checked is None else "; ".join(checked.problems))
    return rows.with_columns(integrity=pl.Series(words, dtype=pl.String), cause=pl.Series(causes, dtype=pl.String))


def _inspect(args: argparse.Namespace, roots: list[Root], name: str) -> int:
    from nanochat.analysis.checkpoint_browser import inspect, resolve, text

    seen = inspect(resolve(roots, name, args.source, args.step), args.full)
    if args.json:
        _print_json(as_json(seen))
    else:
        _show(text.inspection(seen))
    return int(not seen.verification.ok)


def as_json(seen: Any) -> dict[str, Any]:
    """An inspection as plain values."""
    return {
        "id": seen.reference.id,
        "folder": str(seen.reference.folder),
        "step": seen.reference.step,
        "era": seen.era,
        "reasons": seen.reasons,
        "config": seen.config,
        "parameters": seen.counts,
        "figures": {f.name: {"value": f.value, "unit": f.unit, "source": f.source} for f in seen.figures},
        "files": seen.files.to_dicts(),
        "tensors": seen.tensors.to_dicts(),
        "integrity": {
            "ok": seen.verification.ok,
            "level": seen.verification.level,
            "problems": seen.verification.problems,
        },
    }


def _compare(args: argparse.Namespace, roots: list[Root]) -> int:
    from nanochat.analysis.checkpoint_browser import answers, compare, compare_tensors, resolve, text

    a, b = (resolve(roots, name, args.source, args.step if "@" not in name else None) for name in args.compare)
    made = compare(a, b)
    tensors = None if args.no_tensors else compare_tensors(a, b, args.rank_up_to, _progress)
    said = answers(a, b, args.prompt, args.max_tokens, args.device) if args.prompt else ()
    lines = list(text.comparison(made, tensors, said))
    drawn = _plot(args, tensors.frame, "change_chart", lines) if tensors is not None else []
    if args.json:
        frame = None if tensors is None else tensors.frame.to_dicts()
        whole = {} if tensors is None else {"relative": tensors.relative, "cosine": tensors.cosine}
        both = {"a": made.a.reference.id, "b": made.b.reference.id, "config": made.config.to_dicts()}
        told = [{"prompt": one.prompt, "a": one.a, "b": one.b} for one in said]
        _print_json(both | {"figures": made.figures.to_dicts(), "tensors": frame, "answers": told} | whole)
    else:
        _show([*lines, *drawn])
    return 0


def _delete(args: argparse.Namespace, roots: list[Root]) -> int:
    from nanochat.analysis.checkpoint_browser import BrowserError, Rule, carry_out, plan, resolve_folder, text

    called, _, folder = resolve_folder(roots, args.delete, args.source)
    root = next((root for root in roots if called.startswith(f"{root.name}:")), None)
    if root is not None and not root.ours:
        raise BrowserError(
            f"{called} lies in nanochat's own folder, which is only read; --base-dir {root.path} allows it"
        )
    steps = () if args.step is None else (args.step,)
    rule = Rule(args.keep_last, not args.no_keep_best, args.keep_every, args.incomplete, steps)
    made = plan(folder, rule)
    deleted = bool(args.yes and made.go)
    if deleted:
        carry_out(made)
    if args.json:
        kept = [{"step": step, "reason": reason} for step, reason in made.kept]
        files = [{"name": name, "bytes": size} for name, size in made.files]
        whole = {"run": called, "deleted": deleted, "go": made.go, "kept": kept, "files": files, "freed": made.freed}
        _print_json(whole | {"notes": made.notes})
    else:
        _show(text.plan(made, deleted))
    return 0


def _export(args: argparse.Namespace, roots: list[Root]) -> int:
    from nanochat.analysis.checkpoint_browser import export, resolve, text

    one: Reference = resolve(roots, args.export, args.source, args.step)
    target = args.output or Path(f"{one.folder.name}-{one.stage or 'model'}-{one.step}-safetensors")
    done = export(one, paths.expand(target), args.force)
    if args.json:
        files = [{"name": name, "bytes": size} for name, size in done.files]
        _print_json({"id": one.id, "folder": str(done.folder), "files": files, "sha256": done.sha256})
    else:
        _show(text.exported(done))
    return 0


def _plot(args: argparse.Namespace, frame: Any, chart: str, figure: list[str]) -> list[str]:
    if args.plot is None:
        return []
    from nanochat import charts
    from nanochat.charts import checkpoint_browser

    said = charts.save(getattr(checkpoint_browser, chart)(frame), args.plot, figure)
    if args.json:
        print(said, file=sys.stderr)
    return [said]


def _progress(done: int, total: int, name: str) -> None:
    if sys.stderr.isatty():
        end = "" if name else "\r\x1b[K"
        print(f"\rComparing: {done / max(total, 1):.0%} {name[:40]:<40}", end=end, file=sys.stderr, flush=True)


def _show(lines: Iterable[str]) -> None:
    for line in lines:
        print(line)


def _print_json(whole: dict[str, Any]) -> None:
    from nanochat.analysis.checkpoint_browser.text import plain_json

    print(json.dumps(plain_json(whole), ensure_ascii=True))


if __name__ == "__main__":
    sys.exit(exit_status("checkpoint_browser", main))
