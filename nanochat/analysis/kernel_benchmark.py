"""How fast the kernels are: measured here and now, or read from the stored runs of GPUs, in one table and one roofline.

    records = measure(presets("attention", device()), stop=lambda: False)       # a generator, a case at a time
    found = report(list(records), "this machine, now")
    found.frame, found.bars, found.roofline, found.best

Stored runs are the kernels.json files that `make gpu-bench` writes, put into kernels/results/. A figure without its
GPU, versions and date says nothing, so every report carries them.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

if TYPE_CHECKING:
    from kernels.benchmark import Case, Record

RESULTS = Path(__file__).parents[2] / "kernels" / "results"
MOST_FLOAT = 1e300  # of a number; NaN is not below it either
MOST_BYTES = 2**24  # of a stored file: a run of every case is below one megabyte

# The fields of a Record (kernels/benchmark_records.py) and the type of their column.
SCHEMA: dict[str, Any] = {
    "op": pl.String,
    "kind": pl.String,  # which direction, which filters
    "shape": pl.String,
    "dtype": pl.String,
    "implementation": pl.String,  # triton, torch, reference, or a peer's name
    "role": pl.String,  # ours, fallback, reference, peer
    "reason": pl.String,
    "seconds": pl.Float64,  # null for a contestant that could not run; reason says why
    "seconds_low": pl.Float64,  # quartiles
    "seconds_high": pl.Float64,
    "rounds": pl.Int64,
    "clock": pl.String,
    "flops": pl.Int64,
    "bytes": pl.Int64,
    "rate": pl.Float64,  # in `unit`
    "unit": pl.String,
    "ceiling_share": pl.Float64,
    "copy_gb": pl.Float64,  # the measured ceilings, GB/s and TFLOP/s
    "gemm_tflops": pl.Float64,
    "over_reference": pl.Float64,
    "best_peer": pl.String,
    "over_best_peer": pl.Float64,
    "error": pl.Float64,
    "best_peer_error": pl.Float64,
    "peak_bytes": pl.Int64,
    "tuned": pl.Boolean,
    "device": pl.String,
    "capability": pl.String,
    "threads": pl.Int64,
    "versions": pl.String,
    "date": pl.String,
}


class KernelReportError(ValueError):
    """A stored run cannot be read: one sentence with the file, what is wrong and what to do."""


@dataclass(frozen=True)
class KernelReport:
    """A benchmark, ready to be shown."""

    source: str  # where the figures come from, in words
    labels: tuple[str, ...]  # device, versions, date; one line for each machine that the records name
    frame: pl.DataFrame  # SCHEMA, one row a contestant
    bars: pl.DataFrame  # case, implementation, role, microseconds, low, high, over_reference; what was timed
    roofline: pl.DataFrame  # case, implementation, role, intensity (FLOPs a byte), tflops, limit; what has products
    roof: pl.DataFrame  # device, dtype, intensity, tflops: the measured roof, three points each
    best: pl.DataFrame  # case, implementation, seconds, over_reference, best_peer, over_best_peer: ours in each case
    missing: pl.DataFrame  # case, implementation, reason: what could not be timed


def report(records: Iterable["Record | Mapping[str, Any]"], source: str) -> KernelReport:
    """The report of records, as `measure` yields them or a stored file holds them; of none, empty tables."""
    rows = [dict(r) if isinstance(r, Mapping) else asdict(r) for r in records]
    frame = pl.DataFrame([{name: row[name] for name in SCHEMA} for row in rows], SCHEMA)
    case = pl.concat_str(["op", "kind", "shape", "dtype"], separator=", ").alias("case")
    named = frame.with_columns(case)
    timed = named.filter(pl.col("seconds").is_not_null())
    names = ["case", "implementation", "role"]
    bars = timed.select(
        *names,
        (pl.col("seconds") * 1e6).alias("microseconds"),
        (pl.col("seconds_low") * 1e6).alias("low"),
        (pl.col("seconds_high") * 1e6).alias("high"),
        "over_reference",
    )
    ours = timed.filter(pl.col("role") == "ours")
    machines = frame.select("device", "capability", "versions", pl.col("date").str.slice(0, 10)).unique(
        maintain_order=True
    )
    return KernelReport(
        source,
        tuple(
            f"{device}{f' ({capability})' if capability else ''}, {versions}, {date}"
            for device, capability, versions, date in machines.iter_rows()
        ),
        frame,
        bars,
        _roofline(timed),
        _roof(frame),
        ours.select("case", "implementation", "seconds", "over_reference", "best_peer", "over_best_peer"),
        named.filter(pl.col("seconds").is_null()).select("case", "implementation", "reason"),
    )


def _roofline(timed: pl.DataFrame) -> pl.DataFrame:
    """Where each contestant stands below the roof. Operations without matrix products have no place there."""
    intensity = pl.col("flops") / pl.col("bytes")
    return timed.filter(pl.col("flops") > 0).select(
        "case",
        "implementation",
        "role",
        intensity.alias("intensity"),
        (pl.col("flops") / pl.col("seconds") / 1e12).alias("tflops"),
        pl.min_horizontal(pl.col("gemm_tflops"), intensity * pl.col("copy_gb") / 1e3).alias("limit"),
    )


def _roof(frame: pl.DataFrame) -> pl.DataFrame:
    """The roof of each device and dtype: memory's slope up to the ridge, then the product's level."""
    points = []
    seen = frame.select("device", "dtype", "copy_gb", "gemm_tflops").unique(["device", "dtype"], maintain_order=True)
    for device, dtype, copy_gb, gemm_tflops in seen.iter_rows():
        ridge = 1e3 * gemm_tflops / copy_gb  # FLOPs a byte
        for intensity in (ridge / 1024, ridge, ridge * 1024):
            points.append((device, dtype, intensity, min(gemm_tflops, intensity * copy_gb / 1e3)))
    columns = {"device": pl.String, "dtype": pl.String, "intensity": pl.Float64, "tflops": pl.Float64}
    return pl.DataFrame(points, columns, orient="row")


def stored(folder: Path = RESULTS) -> list[Path]:
    """The stored runs, newest name first; none where no GPU has been measured yet."""
    return sorted(folder.glob("*.json"), reverse=True) if folder.is_dir() else []


def read_stored(path: Path) -> KernelReport:
    """The report of a stored run. Raises KernelReportError for a file that is not one."""
    remedy = "write it again with `make gpu-bench`"
    try:
        if path.stat().st_size > MOST_BYTES:
            raise KernelReportError(f"{path.name} has more than {MOST_BYTES:,} bytes, no stored run has: {remedy}")
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise KernelReportError(f"{path.name} cannot be read ({error.strerror}): {remedy}") from error
    except (UnicodeDecodeError, RecursionError, json.JSONDecodeError) as error:
        raise KernelReportError(f"{path.name} is not JSON in UTF-8: {remedy}") from error
    rows = content.get("records") if isinstance(content, dict) else None
    if not isinstance(rows, list):
        raise KernelReportError(f"{path.name} has no list of records: {remedy}")
    for number, row in enumerate(rows):
        if problem := _problem(row):
            raise KernelReportError(f"{path.name}, record {number}: {problem}; {remedy}")
    return report(rows, f"stored run {path.name}")


def _problem(row: object) -> str:
    """What keeps a row of a file from being a record; empty if nothing."""
    if not isinstance(row, dict):
        return "it is no object"
    for name, kind in SCHEMA.items():
        if name not in row:
            return f"{name} is missing"
        value = row[name]
        if value is None and kind != pl.String:
            continue
        number = isinstance(value, int | float) and not isinstance(value, bool)
        fits = {
            pl.String: isinstance(value, str),
            pl.Boolean: isinstance(value, bool),
            pl.Int64: isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63,
            pl.Float64: number and abs(value) < MOST_FLOAT,
        }[kind]
        if not fits:
            return f"{name} is {str(value)[:40]!r}"
    if not (row["bytes"] and row["copy_gb"] and row["gemm_tflops"]):
        return "bytes or ceilings are zero or missing"
    return ""


def device() -> str:
    """Where a measurement would run: "cuda" where torch sees a GPU, else "cpu"."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def operations() -> dict[str, tuple[str, ...]]:
    """What can be timed: operation -> its kinds (directions, filters)."""
    from kernels.benchmark import KINDS

    return dict(KINDS)


def letters(op: str) -> tuple[str, ...]:
    """The sizes that a case of the operation has: B batch, T time, H heads, G kv heads, D head dim, W window, ..."""
    from kernels.benchmark import LETTERS

    return LETTERS[op]


def presets(op: str | None, on: str, quick: bool = False) -> Sequence["Case"]:
    """The cases of an operation (None: of all) that are timed when nobody names sizes, on "cpu" or "cuda"."""
    from kernels.benchmark import presets as of_benchmark

    return of_benchmark(on, op, quick)


def case(op: str, kind: str, sizes: Mapping[str, int], dtype: str) -> "Case":
    """A case of one's own. Raises BenchmarkError, a ValueError, with the value and what it may be."""
    from kernels.benchmark import Case, check

    return check(Case(op, kind, dict(sizes), dtype))


def memory(wanted: "Case", on: str) -> tuple[int, int]:
    """(bytes that timing our implementation of the case needs, bytes free on the device)."""
    import torch

    from kernels.benchmark import estimate_bytes, free_bytes

    return estimate_bytes(wanted), free_bytes(torch.device(on))


def measure(
    cases: Sequence["Case"],
    on: str | None = None,
    rounds: int = 15,
    stop: Callable[[], bool] = lambda: False,
    progress: Callable[[str, float], None] = lambda words, share: None,
) -> Iterator["Record"]:
    """Time cases on "cpu" or "cuda"; kernels.benchmark.run says what is yielded, when it stops and what it refuses.

    On a CPU on as many torch threads as the process has: one gives CPU seconds, more give seconds on the wall.
    """
    from kernels.benchmark import run

    return run(cases, device=on, rounds=rounds, stop=stop, progress=progress)
