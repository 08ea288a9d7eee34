"""How many CPU threads are worth their while: for a training step found out by trying, for a small one always one.

More threads are not always faster. A small model's step is some hundred short operations, and every thread has to be
waited for at the end of each. Where another program holds a core, its thread is late each time, and two threads can be
ten times slower than one: measured, not imagined. So the step itself is run with one thread, then with two, four and so
on, as long as that helps.

    count, reason = choose_threads(lambda: loss(x, y).backward())
"""

import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

ROUNDS = 3  # timed steps for each number of threads; the first one of each is not timed
WORTH = 1.1  # more threads have to be this much faster: they also take cores from other programs
VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
SMALL = 64_000_000  # bytes of weights, times the tokens that go through them at once, up to which one thread is faster


_usual: int | None = None  # torch's number of threads outside the blocks of `one_thread`; None until the first one


@contextmanager
def one_thread() -> Iterator[None]:
    """One torch thread for whatever this thread computes in the block, for short steps one after the other.

    A token of a small model is a hundred products of some microseconds each. Where a second thread joins in, they take
    up to twice as long, and most so outside the main thread, where a server and a page compute (docs/log.md).
    torch's own number is a thread's, but a new thread takes over the last one that anybody set: `as_usual` mends that.
    """
    import torch

    global _usual
    before = torch.get_num_threads()
    if _usual is None or before > 1:  # a 1 may have been taken over from a block in another thread
        _usual = before
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(_usual)


def as_usual() -> None:
    """Give this thread torch's usual number: it may have been born while another one was in `one_thread`."""
    if _usual is not None:
        import torch

        torch.set_num_threads(_usual)


def few_threads(size: int) -> AbstractContextManager[None]:
    """`one_thread` for a forward pass on a CPU of so many bytes of weights times tokens, if it is small; else all."""
    if size <= SMALL:
        return one_thread()
    as_usual()
    return nullcontext()


def choose_threads(step: Callable[[], object], most: int | None = None) -> tuple[int, str]:
    """Set torch's number of threads to the one with which `step` runs fastest; returns it with the reason.

    most: threads to try at most; None: as many as torch would take. A user who has set OMP_NUM_THREADS has decided.
    """
    import torch

    global _usual
    given = next((name for name in VARIABLES if os.environ.get(name)), None)
    if given is not None:
        return torch.get_num_threads(), f"as {given} says"
    limit = most or torch.get_num_threads()
    speeds: dict[int, float] = {}
    count = 1
    while count <= limit:
        torch.set_num_threads(count)
        speeds[count] = 1 / _seconds(step, 3 / max(speeds.values()) if speeds else None)
        if speeds[count] < max(speeds.values()):
            break  # it does not get better beyond
        count = min(2 * count, limit) if count < limit else limit + 1
    best = 1
    for count, speed in speeds.items():
        if speed > WORTH * speeds[best]:
            best = count
    torch.set_num_threads(best)
    _usual = best
    tried = ", ".join(f"{count}: {1000 / speed:.0f} ms" for count, speed in speeds.items())
    return best, f"a step takes with so many threads ({tried})"


def _seconds(step: Callable[[], object], hopeless: float | None) -> float:
    """The median time of a step; one look is enough where it takes longer than `hopeless` seconds."""
    times = []
    for number in range(ROUNDS + 1):
        begun = time.perf_counter()
        step()
        times.append(time.perf_counter() - begun)
        if number and hopeless is not None and times[-1] > hopeless:
            break
    return statistics.median(times[1:])
