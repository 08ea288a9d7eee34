"""Signals as a request: caught once each, in the main thread, and given back."""

import os
import signal
import threading

import pytest

from nanochat.training_signals import BROKEN_PIPE, SIGNALS, StopRequest


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_first_signal_is_a_request_and_the_second_has_its_usual_effect(number: signal.Signals, status: int) -> None:
    before = [signal.getsignal(one) for one in SIGNALS]
    said: list[str] = []
    with StopRequest(said.append) as stop:
        assert stop() is None
        assert stop.status == 0
        os.kill(os.getpid(), number)
        assert stop() == number.name
        assert stop.status == status
        assert signal.getsignal(number) == signal.SIG_DFL
        other = next(one for one in SIGNALS if one != number)
        os.kill(os.getpid(), other)  # as torchrun does behind Ctrl-C: no second wish
        assert stop() == number.name
        assert len(said) == 1
    assert [signal.getsignal(one) for one in SIGNALS] == before


def test_it_says_what_will_happen_at_that_moment() -> None:
    said: list[str] = []
    part = "nothing to save"
    with StopRequest(said.append, lambda: part):
        part = "saving the second part"
        os.kill(os.getpid(), signal.SIGINT)
    assert said == ["SIGINT: saving the second part; the same again leaves at once"]


def test_an_output_that_nobody_reads_is_a_request_too() -> None:
    stop = StopRequest()
    stop.request(BROKEN_PIPE)
    assert (stop(), stop.status) == ("SIGPIPE", 141)


def test_outside_the_main_thread_it_is_asked_by_hand() -> None:
    words = []

    def work() -> None:
        with StopRequest() as stop:
            stop.request("closed")
            stop.request("again")
            words.append((stop(), stop.status))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert words == [("closed", 0)]
