"""How many megabytes the dataset inspector checks in a CPU second, beside readers that only parse, in one run.

    python -m nanochat.benchmarks.inspector                      # 100,000 conversations, good ones
    python -m nanochat.benchmarks.inspector --rate 0.005         # the same with every kind of error planted
    python -m nanochat.benchmarks.inspector --stream 10e9        # ten gigabytes that exist only while they are read

Each round runs every candidate once, one after the other, each in a process of its own so that the memory of one is not
counted for the next; a machine whose speed drifts slows all alike. The ratio is taken round by round and its median
reported. The inspector's figures are for all that it finds; the readers do nothing with what they read, and where a
file has errors most of them stop.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nanochat.benchmarks.make_conversations import VirtualFile, write
from nanochat.errors import exit_status

CHECKS, ALL = "inspector, checks and duplicates", "inspector, all that is on"
CANDIDATES = (CHECKS, ALL, "polars read_ndjson", "datasets json", "json loop")


@dataclass(frozen=True)
class Record:
    """One candidate."""

    name: str
    mb_per_cpu_second: float  # 10^6 bytes; median of the rounds
    peak_mb: int  # resident, of the whole process
    ratio: float  # speed of the inspector with all that is on over this one's; median of the rounds' ratios
    note: str  # what it found, or why it stopped


def run_one(name: str, path: Path) -> dict[str, Any]:
    """Run a candidate in this process: CPU seconds without imports, and what came of it."""
    call = _prepared(name, path)
    begin = cpu_seconds()
    try:
        note = call()
    except Exception as error:  # noqa: BLE001 - what a foreign reader raises on bad lines is the finding
        note = f"stopped: {str(error).splitlines()[0][:60]}"
    used = cpu_seconds() - begin
    return {"cpu": used, "peak": peak_mb(), "note": note}


def peak_mb() -> int:
    """The most memory that this process has had, in MB. On Linux ru_maxrss would begin with the parent's."""
    status = Path("/proc/self/status")
    if status.exists():
        return (
            next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM")) // 1000
        )
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def cpu_seconds() -> float:
    """CPU time of this process and of those it started that have ended."""
    now = os.times()
    return now.user + now.system + now.children_user + now.children_system


def _prepared(name: str, path: Path) -> Any:
    """The call to be timed, everything imported."""
    if name in (CHECKS, ALL):
        return _inspector(name, path)
    if name == "polars read_ndjson":
        import polars as pl

        return lambda: f"{pl.read_ndjson(path).height:,} rows"
    if name == "datasets json":
        import datasets  # type: ignore[import-not-found]

        cache = tempfile.mkdtemp(dir=path.parent)
        return lambda: (
            f"{len(datasets.load_dataset('json', data_files=str(path), split='train', cache_dir=cache)):,} rows"
        )

    def loop() -> str:
        with path.open("rb") as file:
            return f"{sum(1 for line in file if json.loads(line) is not None):,} rows"

    return loop


def _inspector(name: str, path: Path) -> Any:
    from nanochat.analysis.dataset_inspector import Options, find_sources, inspect
    from nanochat.tokenizer import load_tokenizer

    everything = name == ALL
    tokenizer = load_tokenizer(path.parent / "tokenizer") if everything else None
    options = Options(normalised=everything, secrets=everything)

    def call() -> str:
        report = inspect(find_sources([path]), options, tokenizer)
        return f"{report.error_lines:,} lines with errors"

    return call


def measure(path: Path, rounds: int) -> list[Record]:
    """Every candidate, `rounds` times in turn."""
    size = path.stat().st_size / 1e6
    runs: dict[str, list[dict[str, Any]]] = {}
    for _ in range(rounds):
        for name in CANDIDATES:
            if name == "datasets json" and not _installed("datasets"):
                continue
            command = [sys.executable, "-m", "nanochat.benchmarks.inspector", "--one", name, str(path)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            runs.setdefault(name, []).append(json.loads(done.stdout))
    records = []
    for name, found in runs.items():
        ratios = [other["cpu"] / ours["cpu"] for other, ours in zip(found, runs[ALL], strict=True)]
        speed = statistics.median(size / run["cpu"] for run in found)
        peak = max(run["peak"] for run in found)
        records.append(Record(name, speed, peak, statistics.median(ratios), found[0]["note"]))
    return records


def stream(size: int) -> dict[str, Any]:
    """Inspect a file of `size` bytes that is made while it is read; what making it costs is measured apart."""
    from nanochat.analysis.dataset_inspector import Options, inspect
    from nanochat.analysis.dataset_inspector.sources import Source
    from nanochat.analysis.dataset_inspector.workers import processes_for

    file = VirtualFile(size)
    begin = time.process_time()
    while file.read(4 << 20):
        pass
    making = time.process_time() - begin
    source = Source("stream.jsonl", "jsonl", "", file.size, 0, upload=file)
    begin = cpu_seconds()
    report = inspect([source], Options(normalised=False, secrets=False))
    used = cpu_seconds() - begin - making
    others = processes_for([source])
    return {
        "bytes": report.size,
        "lines": report.lines,
        "error_lines": report.error_lines,
        "duplicates": len(report.duplicates),
        "mb_per_cpu_second": report.size / 1e6 / used,
        "peak_mb": peak_mb(),
        "processes_beside": others,
        "largest_of_them_mb": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024 if others else 0,
    }


def _installed(name: str) -> bool:
    import importlib.util

    return importlib.util.find_spec(name) is not None


def main(argv: list[str] | None = None) -> int:
    """Measure and print."""
    p = argparse.ArgumentParser(prog="inspector", description="Megabytes checked in a CPU second, paired.")
    p.add_argument("--count", type=int, default=100_000, help="conversations (100000)")
    p.add_argument("--rate", type=float, default=0.0, help="share of lines for each kind of error (0)")
    p.add_argument("--mixed", action="store_true", help="both shapes, parts and extra fields, which readers refuse")
    p.add_argument("--rounds", type=int, default=3, help="how often each candidate runs (3)")
    p.add_argument("--stream", type=float, help="inspect this many bytes that are made while they are read, and stop")
    p.add_argument("--one", nargs=2, metavar=("NAME", "FILE"), help="run one candidate here and print what it took")
    p.add_argument("--json", action="store_true", help="print one JSON object")
    args = p.parse_args(argv)
    if args.one is not None:
        print(json.dumps(run_one(args.one[0], Path(args.one[1]))))
        return 0
    if args.stream is not None:
        print(json.dumps(stream(int(args.stream))))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "conversations.jsonl"
        write(path, None, args.count, 0, args.rate, uniform=not args.mixed)
        from nanochat.tokenizer import train_tokenizer

        with path.open(errors="replace") as file:
            train_tokenizer([line for line, _ in zip(file, range(2_000), strict=False)], 4_096).save(
                path.parent / "tokenizer"
            )
        records = measure(path, args.rounds)
        if args.json:
            print(json.dumps({"bytes": path.stat().st_size, "records": [asdict(record) for record in records]}))
            return 0
        print(f"{args.count:,} lines, {path.stat().st_size / 1e6:.0f} MB, {args.rounds} rounds")
        for one in records:
            speed = f"{one.mb_per_cpu_second:7.1f} MB/CPU s  {one.peak_mb:5,} MB  x{one.ratio:.2f}"
            print(f"  {one.name:<34} {speed}  {one.note}")
    return 0


if __name__ == "__main__":
    sys.exit(exit_status("inspector", main))
