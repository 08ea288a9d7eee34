"""How fast every operation is here, beside its definition and whoever else can do the same, in one run.

    python -m kernels.benchmark --quick                       # on this machine: seconds on a CPU
    python -m kernels.benchmark --op attention --json out.json --csv out.csv

Contestants of a case take turns, so that a drifting machine slows all alike; the median of many rounds counts. On a CPU
the PyTorch path runs against the definition and PyTorch's own functions; Triton's interpreter is never timed. On a GPU
the Triton kernels run against what is installed. From Python, as the page does it:

    for record in run(presets("cpu", quick=True), stop=lambda: False):
        print(record.op, record.implementation, record.seconds)
"""

import argparse
import datetime
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from kernels import backend, configs
from kernels.benchmark_cases import (
    DTYPES,
    KINDS,
    LETTERS,
    BenchmarkError,
    Case,
    check,
    error_bytes,
    estimate_bytes,
    free_bytes,
    presets,
    scratch_bytes,
    shortage,
    work,
)
from kernels.benchmark_records import Record, gpu_obstacle, line, machine, table, write_csv, write_json
from kernels.benchmark_subjects import PEER, REFERENCE, Contestant, Subject, subject_of
from kernels.benchmark_timing import Ceilings, Stopped, Times, measure_ceilings, ratio, rounds_of

__all__ = [
    "DTYPES",
    "KINDS",
    "LETTERS",
    "BenchmarkError",
    "Case",
    "Record",
    "Stopped",
    "check",
    "estimate_bytes",
    "free_bytes",
    "gpu_obstacle",
    "machine",
    "measure_ceilings",
    "presets",
    "ratio",
    "rounds_of",
    "run",
    "table",
    "write_csv",
    "write_json",
]

ROUNDS, QUICK_ROUNDS = 31, 15


@dataclass(frozen=True)
class _Setting:
    """What all records of a run share."""

    device: torch.device
    rounds: int
    machine: dict[str, Any]
    stop: Callable[[], bool]


def run(
    cases: Sequence[Case],
    *,
    device: str | torch.device | None = None,
    rounds: int = ROUNDS,
    stop: Callable[[], bool] = lambda: False,
    progress: Callable[[str, float], None] = lambda words, share: None,
) -> Iterator[Record]:
    """Time the cases one after the other; yields the records of a case, ours first, when the case is done.

    device: cpu, cuda or cuda:N; None takes a GPU where there is one. stop is asked between rounds: once it says yes,
    the iteration ends without the case in hand. progress hears what is timed and the share of the whole run that is
    done. Raises BenchmarkError at once, before anything is measured, for cases that cannot be timed and for sizes that
    do not fit into memory, with both figures.
    """
    setting = _Setting(_device(device), rounds, machine(_device(device)), stop)
    for case in cases:
        if lack := shortage(check(case), estimate_bytes(case), setting.device):
            raise BenchmarkError(lack)
    return _records(cases, setting, progress)


def _records(cases: Sequence[Case], setting: _Setting, progress: Callable[[str, float], None]) -> Iterator[Record]:
    ceilings: dict[str, Ceilings] = {}
    for number, case in enumerate(cases):
        words = f"{case.op}, {case.kind}, {case.shape}, {case.dtype}"
        progress(words, number / len(cases))
        if setting.stop():
            return
        if case.dtype not in ceilings:
            ceilings[case.dtype] = measure_ceilings(setting.device, DTYPES[case.dtype])
        try:
            records = _of_case(
                case,
                setting,
                ceilings[case.dtype],
                lambda share, words=words, number=number: progress(words, (number + share) / len(cases)),  # type: ignore[misc]
            )
        except Stopped:
            return
        yield from records
    progress("done", 1.0)


def _of_case(case: Case, setting: _Setting, ceilings: Ceilings, progress: Callable[[float], None]) -> list[Record]:
    """All contestants of a case, those that cannot run with the reason."""
    subject = subject_of(case, setting.device)
    able: dict[str, Contestant] = {}
    absent = list(subject.absent)
    facts: dict[str, tuple[float | None, int | None]] = {}
    for contestant in subject.contestants:
        why = shortage(case, scratch_bytes(case, contestant.name), setting.device)
        if not why:
            try:
                facts[contestant.name] = _try(case, subject, contestant, setting.device)
            except (RuntimeError, ImportError) as error:  # a peer that does not take these sizes on this machine
                if contestant.role != PEER:
                    raise
                why = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
        if why:
            absent.append((contestant.name, why))
        else:
            able[contestant.name] = contestant
    times = rounds_of({name: c.run for name, c in able.items()}, setting.device, setting.rounds, setting.stop, progress)
    records = [_record(case, setting, ceilings, able, times, facts, name) for name in able]
    return records + [_without_time(case, setting, ceilings, subject, name, why) for name, why in absent]


def _try(case: Case, subject: Subject, contestant: Contestant, device: torch.device) -> tuple[float | None, int | None]:
    """(error against float64, peak of GPU memory above the inputs) of one call; the error only where it fits."""
    contestant.run()  # what compiles does so here, and takes memory for it
    before = 0
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
    outputs = contestant.run()
    peak = torch.cuda.max_memory_allocated(device) - before if device.type == "cuda" else None
    error = None if shortage(case, error_bytes(case), device) else subject.error(outputs)
    return error, peak


def _record(
    case: Case,
    setting: _Setting,
    ceilings: Ceilings,
    able: dict[str, Contestant],
    times: dict[str, Times],
    facts: dict[str, tuple[float | None, int | None]],
    name: str,
) -> Record:
    contestant, taken, needed = able[name], times[name], work(case)
    peers = [other for other, c in able.items() if c.role == PEER and other != name]
    best = min(peers, key=lambda other: times[other].median, default="")
    definition = next((other for other, c in able.items() if c.role == REFERENCE), "")
    least = max(needed.flops / ceilings.gemm_tflops / 1e12, needed.bytes / ceilings.copy_gb / 1e9)
    amount = needed.flops / 1e12 if needed.unit == "TFLOP/s" else needed.bytes / 1e9
    error, peak = facts[name]
    low, high = taken.spread
    return Record(
        **_common(case, setting, ceilings),
        implementation=name,
        role=contestant.role,
        reason=contestant.reason,
        seconds=taken.median,
        seconds_low=low,
        seconds_high=high,
        clock=taken.clock,
        rate=amount / taken.median,
        ceiling_share=least / taken.median,
        over_reference=ratio(taken, times[definition]) if definition else None,
        best_peer=best,
        over_best_peer=ratio(taken, times[best]) if best else None,
        error=error,
        best_peer_error=facts[best][0] if best else None,
        peak_bytes=peak,
    )


def _without_time(case: Case, setting: _Setting, ceilings: Ceilings, subject: Subject, name: str, why: str) -> Record:
    role = next((c.role for c in subject.contestants if c.name == name), PEER)
    nothing = dict.fromkeys(
        ("seconds", "seconds_low", "seconds_high", "rate", "ceiling_share", "over_reference", "over_best_peer", "error")
    )
    return Record(
        **_common(case, setting, ceilings),
        **nothing,  # type: ignore[arg-type]
        implementation=name,
        role=role,
        reason=why,
        clock="",
        best_peer="",
        best_peer_error=None,
        peak_bytes=None,
    )


def _common(case: Case, setting: _Setting, ceilings: Ceilings) -> dict[str, Any]:
    """The fields that do not depend on the contestant."""
    needed = work(case)
    return {
        "op": case.op,
        "kind": case.kind,
        "shape": case.shape,
        "dtype": case.dtype,
        "rounds": setting.rounds,
        "flops": needed.flops,
        "bytes": needed.bytes,
        "unit": needed.unit,
        "copy_gb": ceilings.copy_gb,
        "gemm_tflops": ceilings.gemm_tflops,
        "tuned": case.op in configs.table().get(setting.machine["capability"], {}),
        **setting.machine,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _device(device: str | torch.device | None) -> torch.device:
    """The device to time on. Raises BenchmarkError for one that is not there."""
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise BenchmarkError(f"device is {device!r}, and torch knows no such device: pass cpu or cuda") from error
    if found.type not in ("cpu", "cuda"):
        raise BenchmarkError(f"device is {device!r}, but the benchmark times cpu and cuda: pass one of them")
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise BenchmarkError(
            f"device is {device!r}, but torch {torch.__version__} sees {torch.cuda.device_count()} NVIDIA GPUs: pass "
            f"cpu, or install a driver and a CUDA build of torch"
        )
    return found


def main(argv: list[str] | None = None) -> int:
    """Time and print."""
    p = argparse.ArgumentParser(prog="python -m kernels.benchmark", description=(__doc__ or "").splitlines()[0])
    p.add_argument("--quick", action="store_true", help="fewer cases and rounds")
    p.add_argument(
        "--op", action="append", choices=backend.OPS, help="only this operation; may be given more than once"
    )
    p.add_argument("--device", help="cpu, cuda or cuda:1 (a GPU where there is one)")
    p.add_argument("--rounds", type=int, help=f"rounds of every case ({ROUNDS}; with --quick {QUICK_ROUNDS})")
    p.add_argument("--threads", type=int, default=1, help="torch threads on a CPU (1)")
    p.add_argument("--json", type=Path, help="write the records to this file as well")
    p.add_argument("--csv", type=Path, help="write the records to this file as well")
    args = p.parse_args(argv)
    rounds = args.rounds if args.rounds is not None else QUICK_ROUNDS if args.quick else ROUNDS
    if rounds < 1 or args.threads < 1:
        p.error("--rounds and --threads are at least 1")
    torch.set_num_threads(args.threads)
    records: list[Record] = []
    try:
        device = _device(args.device)
        cases = [c for op in args.op or [None] for c in presets(device.type, op, args.quick)]
        facts = machine(device)
        where = f"{facts['device']} {facts['capability']}".strip()
        print(f"{where}, {facts['versions']}, {facts['threads']} thread(s), {rounds} rounds\n")
        for record in run(cases, device=device, rounds=rounds):
            same = bool(records) and record.about == records[-1].about
            records.append(record)
            print(line(record) if same else table([record]), flush=True)
    except BenchmarkError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; what was measured is kept", file=sys.stderr)
    if records:
        r = records[-1]
        print(f"\nmeasured ceilings: copy {r.copy_gb:.4g} GB/s, product {r.gemm_tflops:.4g} TFLOP/s in {r.dtype}")
    if args.json:
        write_json(args.json, records)
    if args.csv:
        write_csv(args.csv, records)
    return 0


if __name__ == "__main__":
    sys.exit(main())
