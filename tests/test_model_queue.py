"""The queue in front of a model: who sits, who waits, who is told "busy", and that turns are shared."""

import threading
import time
from collections.abc import Iterator

import pytest

from nanochat.model_queue import BusyError, ModelQueue

HANG = 20.0  # seconds after which a thread that should have ended counts as stuck


def wait_until(condition) -> None:
    deadline = time.monotonic() + HANG
    while not condition():
        assert time.monotonic() < deadline, "it never came to this"
        time.sleep(0.005)


def started(*jobs) -> list[threading.Thread]:
    threads = [threading.Thread(target=job, daemon=True) for job in jobs]
    for thread in threads:
        thread.start()
    return threads


def ended(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.join(HANG)
        assert not thread.is_alive()


def test_seats_are_given_in_the_order_of_coming_and_the_next_one_is_told_busy() -> None:
    queue, order, leave = ModelQueue(at_once=1, waiting=2), [], threading.Event()

    def sit(name: int) -> None:
        with queue.seat():
            order.append(name)
            leave.wait(HANG)

    threads = []
    for name in range(3):
        threads += started(lambda name=name: sit(name))
        wait_until(lambda: len(queue._line) + len(order) > name)  # noqa: B023 - it is called here and now
    with pytest.raises(BusyError, match="1 replies are being written and 2 wait; try again"), queue.seat():
        pass
    leave.set()
    ended(threads)
    assert order == [0, 1, 2]
    assert queue.seated == 0


def test_whoever_gives_up_waiting_leaves_the_line_and_loses_nobodys_seat() -> None:
    queue = ModelQueue(at_once=1, waiting=1)

    def gone(before: int) -> None:
        raise KeyboardInterrupt

    with queue.seat():
        with pytest.raises(KeyboardInterrupt), queue.seat(gone):
            pytest.fail("it had no seat")
        assert not queue._line
    with queue.seat():
        assert queue.seated == 1


def test_turns_alternate_between_those_who_write() -> None:
    queue, written, ready = ModelQueue(), [], threading.Barrier(3)

    def tokens(name: str) -> Iterator[str]:
        for _ in range(50):
            time.sleep(0.001)
            yield name

    def one_by_one(name: str) -> None:
        ready.wait(HANG)
        for token in queue.in_turns(lambda: tokens(name)):
            written.append(token)

    ended(started(*(lambda name=name: one_by_one(name) for name in "abc")))
    assert sorted(written) == ["a"] * 50 + ["b"] * 50 + ["c"] * 50
    middle = written[30:120]
    for name in "abc":  # in any stretch in which all three write, each has about a third
        assert 20 <= middle.count(name) <= 40


def test_nobody_computes_beside_another_except_aside() -> None:
    queue, inside, most, other = ModelQueue(), [], [], threading.Event()

    def tokens(use_tool: bool) -> Iterator[int]:
        for step in range(20):
            inside.append(1)
            most.append(len(inside))
            inside.pop()
            if use_tool and step == 5:
                with queue.aside():
                    assert other.wait(HANG), "the other could not go on while a tool ran"
            yield step

    def second() -> None:
        assert list(queue.in_turns(lambda: tokens(False))) == list(range(20))
        other.set()

    first = started(lambda: list(queue.in_turns(lambda: tokens(True))))
    ended(first + started(second))
    assert max(most) == 1
    assert not queue._turn._held


def test_a_failing_generation_gives_its_turn_back() -> None:
    queue = ModelQueue()

    def broken() -> Iterator[int]:
        yield 1
        raise KeyError("a bug")

    with pytest.raises(KeyError):
        list(queue.in_turns(broken))
    assert list(queue.in_turns(lambda: iter([1, 2]))) == [1, 2]
