"""Finds the fastest block sizes of every Triton kernel on this GPU and writes them into kernels/configs.json.

    python -m kernels.tune                     # every operation; minutes
    python -m kernels.tune --op sample         # one
    python -m kernels.tune --list              # what would be timed; needs no GPU

Each operation says which rows of the table it has and which candidates are worth a try (`tunings()` in its
triton_impl.py). Candidates take turns, round by round, and the smallest median wins. Entries of other GPUs, and of
operations that were not asked for, stay as they are. The file is replaced in one step: whoever reads it meanwhile gets
the old table or the new one.
"""

import argparse
import importlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from kernels import backend, configs
from kernels.benchmark_records import gpu_obstacle
from kernels.benchmark_timing import rounds_of
from kernels.configs import Tuning, Values

ABOUT = "Written by python -m kernels.tune; a GPU that is not here runs a configuration that fits every one."
ROUNDS = 9


@dataclass(frozen=True)
class Winner:
    """One row of the table, found."""

    op: str
    key: str
    values: Values
    seconds: float  # median
    over_first: float  # times faster than the first candidate, the one that an unknown GPU runs
    refused: int  # candidates that this GPU could not run, for want of shared memory or registers


def tunings(ops: Sequence[str]) -> Iterator[Tuning]:
    """Every row that the operations have. Importing their kernels needs Triton, not a GPU."""
    for op in ops:
        yield from importlib.import_module(f"kernels.{op}.triton_impl").tunings()


def tune(row: Tuning, device: torch.device, rounds: int = ROUNDS, timer: Callable[..., Any] = rounds_of) -> Winner:
    """The fastest candidate of one row. Raises TuningError where none of them runs, with the last one's reason."""
    launch = row.make(device)
    able: dict[str, Values] = {}
    problem: Exception | None = None
    for candidate in row.candidates:
        try:
            launch(candidate)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            able[json.dumps(dict(candidate))] = candidate
        except _refusals() as error:
            problem = error
    if not able:
        raise TuningError(f"{row.op} ({row.key}): none of {len(row.candidates)} candidates runs here; {problem}")
    times = timer({name: partial(launch, values) for name, values in able.items()}, device, rounds)
    best = min(able, key=lambda name: times[name].median)
    first = next(iter(able))
    return Winner(
        row.op,
        row.key,
        able[best],
        times[best].median,
        times[first].median / times[best].median,
        len(row.candidates) - len(able),
    )


class TuningError(ValueError):
    """A kernel that cannot be tuned here."""


def _refusals() -> tuple[type[Exception], ...]:
    """What Triton raises for a configuration that is too large for a GPU."""
    from triton.compiler.errors import CompilationError
    from triton.runtime.errors import OutOfResources

    return OutOfResources, CompilationError


def write(path: Path, sm: str, winners: Sequence[Winner]) -> None:
    """Put the winners into the table, beside all that it holds of other GPUs and other operations."""
    held = json.loads(path.read_text(encoding="utf-8"))["configurations"] if path.exists() else {}
    for op in {winner.op for winner in winners}:
        held.setdefault(sm, {})[op] = {
            w.key: dict(w.values) for w in sorted(winners, key=lambda w: w.key) if w.op == op
        }
    text = json.dumps({"about": ABOUT, "configurations": held}, indent=1, sort_keys=True) + "\n"
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
    configs.table.cache_clear()


def main(argv: list[str] | None = None) -> int:
    """Tune, print every row as it is found, write the table."""
    p = argparse.ArgumentParser(prog="python -m kernels.tune", description=(__doc__ or "").splitlines()[0])
    p.add_argument(
        "--op", action="append", choices=backend.OPS, help="only this operation; may be given more than once"
    )
    p.add_argument("--list", action="store_true", help="print the rows and their candidates, time nothing")
    p.add_argument("--rounds", type=int, default=ROUNDS, help=f"rounds of every row ({ROUNDS})")
    p.add_argument("--out", type=Path, default=configs.TABLE, help="the table to write (the project's own)")
    args = p.parse_args(argv)
    if args.rounds < 1:
        p.error("--rounds is at least 1")
    ops = args.op or backend.OPS
    if args.list:
        for row in tunings(ops):
            print(f"{row.op}: {row.key}, {len(row.candidates)} candidates")
        return 0
    if missing := gpu_obstacle():
        print(missing, file=sys.stderr)
        return 1
    device = torch.device("cuda")
    winners = []
    for row in tunings(ops):
        try:
            winner = tune(row, device, args.rounds)
        except TuningError as error:
            print(error, file=sys.stderr)
            continue
        winners.append(winner)
        found = " ".join(f"{name} {value}" for name, value in winner.values.items())
        print(
            f"{winner.op} ({winner.key}): {found}; {winner.seconds * 1e6:.1f} us, {winner.over_first:.2f}x the first "
            f"candidate, {winner.refused} refused",
            flush=True,
        )
    sm = "sm_{}{}".format(*torch.cuda.get_device_capability(device))
    write(args.out, sm, winners)
    print(f"{len(winners)} rows for {sm} ({torch.cuda.get_device_name(device)}) written to {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
