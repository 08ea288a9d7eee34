"""The GPU benchmark: every kernel beside its peers, then the whole model with and without them. `make gpu-bench`.

    python -m nanochat.benchmarks.gpu --out gpu-results            # ends within nine minutes
    python -m nanochat.benchmarks.gpu --rehearse --out somewhere   # the same path on a CPU, at sizes that mean nothing

What matters most comes first: the kernels at the sizes of the goals, then training and decoding, then more sizes for as
long as time is left. Files are written after every part, so an end in the middle loses one part. They are kernels.json
(for kernels/results/, where the page finds stored runs), kernels.csv, end_to_end.json and report.md.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from kernels.benchmark import Case, Record, measure_ceilings, presets, run, write_csv, write_json
from nanochat.benchmarks import gpu_check
from nanochat.benchmarks.gpu_end_to_end import DTYPE, FULL, REHEARSAL, EndToEnd, Sizes, decoding, training

MINUTES = 8.0
ROUNDS = 15
COLUMNS = (
    "case",
    "implementation",
    "median",
    "quartiles",
    "rate",
    "of ceiling",
    "over reference",
    "over best peer",
    "error",
    "peer's error",
    "peak MB",
    "tuned",
)
REHEARSAL_CASES = (
    Case("attention", "forward", {"B": 1, "T": 64, "H": 2, "G": 2, "D": 32, "W": 16}, "float32"),
    Case("sample", "top-p, recorded", {"B": 1, "V": 512}, "float32"),
)


def end_to_end(sizes: Sizes, device: torch.device, deadline: float) -> list[EndToEnd]:
    """Training and decoding at every depth, as far as the deadline (time.monotonic) allows."""
    ceiling = measure_ceilings(device, DTYPE).gemm_tflops
    found: list[EndToEnd] = []
    for depth in sizes.depths:
        if time.monotonic() < deadline:
            found += training(depth, sizes, device, ceiling)
        for rows in sizes.batches:
            if time.monotonic() < deadline:
                found += decoding(depth, rows, sizes, device)
    return found


def markdown(records: Sequence[Record], whole: Sequence[EndToEnd]) -> str:
    """The report: one table of kernels, one of the model."""
    lines = ["# GPU benchmark", ""]
    if records:
        r = records[0]
        where = f"{r.device} ({r.capability or 'CPU'}), {r.versions}, {r.date}"
        ceilings = f"copy {r.copy_gb:,.0f} GB/s, product {r.gemm_tflops:,.1f} TFLOP/s in {r.dtype}"
        lines += [f"{where}. Measured ceilings: {ceilings}.", "", "| " + " | ".join(COLUMNS) + " |"]
        lines += ["|---" * len(COLUMNS) + "|", *map(_row, records)]
    if whole:
        lines += [
            "",
            "| what | depth | rows | path | tokens/s | slowest-fastest | over PyTorch | of product ceiling |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for e in whole:
            share = "" if e.flops_share is None else f"{e.flops_share:.0%}"
            lines.append(
                f"| {e.what} | {e.depth} | {e.rows} | {e.path} | {e.tokens_per_second:,.0f} | {e.slowest:,.0f}-"
                f"{e.fastest:,.0f} | {e.over_pytorch:.2f}x | {share} |"
            )
    return "\n".join(lines) + "\n"


def _row(r: Record) -> str:
    if r.seconds is None or r.seconds_low is None or r.seconds_high is None:
        return f"| {r.about} | {r.implementation} | not timed: {r.reason.replace('|', '/')} | | | | | | | | | |"

    def word(value: float | None, form: str, unit: str = "") -> str:
        return "" if value is None else f"{value:{form}}{unit}"

    peer = f"{r.over_best_peer:.2f}x {r.best_peer}" if r.over_best_peer is not None else ""
    megabytes = None if r.peak_bytes is None else r.peak_bytes / 1e6
    return (
        f"| {r.about} | {r.implementation} | {r.seconds * 1e6:,.1f} us | {r.seconds_low * 1e6:,.1f}-"
        f"{r.seconds_high * 1e6:,.1f} | {r.rate:,.1f} {r.unit} | {r.ceiling_share:.0%} | "
        f"{word(r.over_reference, '.2f', 'x')} | {peer} | {word(r.error, '.1e')} | {word(r.best_peer_error, '.1e')} | "
        f"{word(megabytes, ',.1f')} | {'yes' if r.tuned else 'no'} |"
    )


def main(argv: list[str] | None = None) -> int:
    """Measure, write after every part."""
    p = argparse.ArgumentParser(prog="python -m nanochat.benchmarks.gpu", description="Kernels and model on a GPU.")
    p.add_argument("--out", type=Path, default=Path("gpu-results"), help="folder for the files (gpu-results)")
    p.add_argument("--minutes", type=float, default=MINUTES, help=f"after these nothing new is begun ({MINUTES:g})")
    p.add_argument("--rehearse", action="store_true", help="the same path on a CPU, tiny; its figures mean nothing")
    args = p.parse_args(argv)
    if not args.rehearse and (sentence := gpu_check.missing()):
        print(sentence, file=sys.stderr)
        return 1
    deadline = time.monotonic() + 60 * args.minutes
    device = torch.device("cpu" if args.rehearse else "cuda")
    few = list(REHEARSAL_CASES if args.rehearse else presets("cuda", quick=True))
    more = [] if args.rehearse else [case for case in presets("cuda") if case not in few]
    args.out.mkdir(parents=True, exist_ok=True)
    records: list[Record] = []
    whole: list[EndToEnd] = []

    def late() -> bool:
        return time.monotonic() > deadline

    said = ""

    def tell(words: str, share: float) -> None:
        nonlocal said
        if words != said:
            print(f"{share:4.0%} {words}", flush=True)
        said = words

    def keep() -> None:
        write_json(args.out / "kernels.json", records)
        write_csv(args.out / "kernels.csv", records)
        text = json.dumps([asdict(e) for e in whole], indent=1) + "\n"
        (args.out / "end_to_end.json").write_text(text, encoding="utf-8")
        (args.out / "report.md").write_text(markdown(records, whole), encoding="utf-8")

    rounds = 2 if args.rehearse else ROUNDS
    for record in run(few, device=device, rounds=rounds, stop=late, progress=tell):
        records.append(record)
        keep()
    whole += end_to_end(REHEARSAL if args.rehearse else FULL, device, deadline)
    keep()
    for record in run(more, device=device, rounds=rounds, stop=late, progress=tell):
        records.append(record)
        keep()
    print(f"{len(records)} records of kernels and {len(whole)} of the model are in {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
