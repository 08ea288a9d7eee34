"""The number of threads that a race chooses is the fastest, and a user's own decision stands."""

import threading

import pytest
import torch

from nanochat import threads
from nanochat.threads import choose_threads


@pytest.fixture(autouse=True)
def _threads_as_before(monkeypatch):
    before = torch.get_num_threads()
    monkeypatch.setattr(threads, "_usual", None)
    for name in threads.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    yield
    torch.set_num_threads(before)


class Machine:
    """A clock and a step that takes as long as the number of threads says."""

    def __init__(self, seconds: dict[int, float]) -> None:
        self.seconds, self.now, self.tried = seconds, 0.0, []

    def perf_counter(self) -> float:
        return self.now

    def step(self) -> None:
        count = torch.get_num_threads()
        self.tried.append(count)
        self.now += self.seconds[count]


@pytest.mark.parametrize(
    ("seconds", "best"),
    [
        ({1: 0.10, 2: 0.06, 4: 0.04}, 4),
        ({1: 0.10, 2: 0.06, 4: 0.07}, 2),
        ({1: 0.10, 2: 0.095, 4: 0.092}, 1),  # not worth a core
        ({1: 0.10, 2: 3.0, 4: 0.01}, 1),  # another program holds a core: what comes after is not tried
    ],
)
def test_the_fastest_number_is_set(monkeypatch, seconds, best):
    machine = Machine(seconds)
    monkeypatch.setattr(threads.time, "perf_counter", machine.perf_counter)
    count, reason = choose_threads(machine.step, most=4)
    assert count == best == torch.get_num_threads()
    assert "1: 100 ms" in reason


def test_a_hopeless_number_costs_two_steps(monkeypatch):
    machine = Machine({1: 0.1, 2: 3.0})
    monkeypatch.setattr(threads.time, "perf_counter", machine.perf_counter)
    choose_threads(machine.step, most=2)
    assert machine.tried.count(2) == 2


def test_an_odd_limit_is_tried(monkeypatch):
    machine = Machine({1: 0.9, 2: 0.5, 4: 0.3, 6: 0.2})
    monkeypatch.setattr(threads.time, "perf_counter", machine.perf_counter)
    assert choose_threads(machine.step, most=6)[0] == 6


def test_the_user_has_decided(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    torch.set_num_threads(3)
    count, reason = choose_threads(lambda: pytest.fail("nothing is tried"))
    assert (count, reason) == (3, "as OMP_NUM_THREADS says")


def counted_in_a_new_thread() -> int:
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    return found[0]


def test_one_thread_for_a_block_and_as_many_as_before_after_it():
    torch.set_num_threads(3)
    with threads.one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == counted_in_a_new_thread() == 3
    with pytest.raises(RuntimeError), threads.one_thread():
        raise RuntimeError
    assert torch.get_num_threads() == 3
    with threads.few_threads(threads.SMALL):
        assert torch.get_num_threads() == 1
    with threads.few_threads(threads.SMALL + 1):
        assert torch.get_num_threads() == 3


def test_a_thread_that_was_born_in_anothers_block_does_not_make_its_one_thread_everybodys():
    """What a chat does to the next visitor: the thread takes over the 1, and enters a block when nobody is in one."""
    torch.set_num_threads(3)
    with threads.one_thread():
        assert counted_in_a_new_thread() == 1, "torch does so: if it ever stops, one_thread can be simpler"
        born, go = threading.Event(), threading.Event()
        found: list[int] = []

        def visitor() -> None:
            found.append(torch.get_num_threads())
            born.set()
            go.wait(10)
            with threads.one_thread():
                pass
            found.append(torch.get_num_threads())

        thread = threading.Thread(target=visitor)
        thread.start()
        born.wait(10)
    go.set()
    thread.join()
    assert found == [1, 3]
    assert counted_in_a_new_thread() == 3


def test_large_passes_and_pages_take_the_usual_number():
    torch.set_num_threads(3)
    found: list[int] = []

    def visitor() -> None:
        with threads.few_threads(threads.SMALL + 1):
            found.append(torch.get_num_threads())

    with threads.one_thread():
        thread = threading.Thread(target=visitor)
        thread.start()
        thread.join()
        assert torch.get_num_threads() == 1
    assert found == [3]
