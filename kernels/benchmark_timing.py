"""How a call is timed: contestants in turn, many rounds, and what a machine can do at most, measured in the same run.

Every round takes each contestant once, one after the other, so that a machine whose speed drifts slows them alike. What
counts is the median. Times of a CPU are CPU seconds where one thread computes, and seconds on the wall otherwise. Times
of a GPU come from its own events around enough calls; a call under 50 us is recorded in a CUDA graph first, since
launching it would take longer than running it.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

Run = Callable[[], object]

GRAPH_BELOW = 50e-6  # seconds
SAMPLE_SECONDS = {"cpu": 4e-3, "cuda": 2e-3}  # a sample takes at least about this long
MOST_CALLS = 1000  # in one sample
CPU_CEILING, GPU_CEILING = (2**24, 1024), (2**28, 8192)  # numbers copied, rows of the square product
CLOCKS = {
    "cpu": "CPU seconds, one thread",
    "wall": "seconds on the wall",
    "events": "GPU events",
    "graph": "CUDA graph",
}


class Stopped(Exception):
    """Whoever drives the measurement has asked for its end."""


@dataclass(frozen=True)
class Times:
    """Seconds of one call, round by round."""

    seconds: tuple[float, ...]
    clock: str  # one of CLOCKS

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def spread(self) -> tuple[float, float]:
        """The quartiles: half of the rounds lie between them."""
        if len(self.seconds) < 2:
            return self.seconds[0], self.seconds[0]
        low, _, high = statistics.quantiles(self.seconds, n=4, method="inclusive")
        return low, high


@dataclass(frozen=True)
class Ceilings:
    """What this machine reaches at best, measured."""

    copy_gb: float  # GB/s, bytes read plus bytes written
    gemm_tflops: float  # of one large product in the dtype of the case


def ratio(ours: Times, other: Times) -> float:
    """How many times faster `ours` is: the median of the rounds' ratios."""
    return statistics.median(b / a for a, b in zip(ours.seconds, other.seconds, strict=True))


def rounds_of(
    runs: Mapping[str, Run],
    device: torch.device,
    rounds: int,
    stop: Callable[[], bool] = lambda: False,
    progress: Callable[[float], None] = lambda share: None,
) -> dict[str, Times]:
    """Seconds of every run, interleaved. Raises Stopped as soon as `stop` says so, and whatever a run raises."""
    timers = {name: _timer(run, device) for name, run in runs.items()}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds):
        for name, (sample, _) in timers.items():
            if stop():
                raise Stopped
            seconds[name].append(sample())
        progress((number + 1) / rounds)
    return {name: Times(tuple(values), timers[name][1]) for name, values in seconds.items()}


def _timer(run: Run, device: torch.device) -> tuple[Callable[[], float], str]:
    """(a function that takes one sample in seconds a call, its clock), after a warm-up."""
    run()
    if device.type == "cuda":
        return _gpu_timer(run)
    clock, name = (time.process_time, "cpu") if torch.get_num_threads() == 1 else (time.perf_counter, "wall")
    calls = _calls(_seconds(run, 1, clock), SAMPLE_SECONDS["cpu"])
    return lambda: _seconds(run, calls, clock), name


def _calls(seconds: float, wanted: float) -> int:
    return max(1, min(MOST_CALLS, round(wanted / max(seconds, 1e-9))))


def _seconds(run: Run, calls: int, clock: Callable[[], float]) -> float:
    begin = clock()
    for _ in range(calls):
        run()
    return (clock() - begin) / calls


def _gpu_timer(run: Run) -> tuple[Callable[[], float], str]:
    def sample(launch: Run, launches: int, calls_in_one: int) -> float:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(launches):
            launch()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1000 / launches / calls_in_one

    for _ in range(2):  # what compiles or tunes itself does so here
        run()
    once = sample(run, 3, 1)
    calls = _calls(once, SAMPLE_SECONDS["cuda"])
    if once < 4 * GRAPH_BELOW:  # a short call looks longer than it is, because launching it takes time
        graph, inside = _graph(run)
        if graph is not None:
            graph.replay()
            alone = sample(graph.replay, 3, inside)
            if alone < GRAPH_BELOW:
                repeat = _calls(alone * inside, SAMPLE_SECONDS["cuda"])
                return lambda: sample(graph.replay, repeat, inside), "graph"
    return lambda: sample(run, calls, 1), "events"


def _graph(run: Run, calls: int = 20) -> tuple[torch.cuda.CUDAGraph | None, int]:
    """(calls in a row as one graph, how many); None for what no graph can hold, such as a call that waits."""
    graph = torch.cuda.CUDAGraph()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        run()
    torch.cuda.current_stream().wait_stream(stream)
    try:
        with torch.cuda.graph(graph):
            for _ in range(calls):
                run()
    except RuntimeError:
        torch.cuda.synchronize()
        return None, 0
    return graph, calls


def measure_ceilings(device: torch.device, dtype: torch.dtype, rounds: int = 7) -> Ceilings:
    """The copy and the product that stand for the ceilings: far larger than any cache, and square."""
    gpu = device.type == "cuda"
    numbers, side = GPU_CEILING if gpu else CPU_CEILING
    source = torch.ones(numbers, device=device)
    target = torch.empty_like(source)
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    times = rounds_of({"copy": lambda: target.copy_(source), "gemm": lambda: a @ b}, device, rounds)
    return Ceilings(8 * numbers / times["copy"].median / 1e9, 2 * side**3 / times["gemm"].median / 1e12)
