"""Lines while a run goes on, and what comes of it when nobody reads them any more."""

import io
import os
from pathlib import Path

import pytest

from nanochat.checkpoint_manager import list_steps, verify
from nanochat.records import METRICS_NAME, read_lines
from nanochat.scripts import base_train
from nanochat.training_output import Output
from tests.training_support import arguments, base_dir, piped


def test_lines_and_records_go_where_they_belong() -> None:
    people, programs, said = io.StringIO(), io.StringIO(), []
    output = Output(said.append, people=people, programs=programs)
    output.say("a line")
    output.record('{"a": 1}\n')
    assert (people.getvalue(), programs.getvalue(), said) == ("a line\n", '{"a": 1}\n', [])
    Output(said.append, silent=True, people=people).say("nothing")
    assert people.getvalue() == "a line\n"


def test_a_closed_pipe_is_a_request_and_swallows_the_rest() -> None:
    read, write = os.pipe()
    os.close(read)
    said: list[str] = []
    pipe = os.fdopen(write, "w")
    output = Output(said.append, people=pipe)
    output.say("one")
    output.say("two")
    assert said == ["SIGPIPE"]
    assert output.closed
    with pytest.raises(BrokenPipeError):  # what is in its buffer; exit_status does away with that
        pipe.close()


def test_what_a_signals_handler_says_within_a_line_comes_behind_it() -> None:
    class Interrupted(io.StringIO):
        def write(self, text: str) -> int:
            if text == "one\n":
                output.say("SIGINT")
            return super().write(text)

    stream = Interrupted()
    output = Output(lambda _: None, people=stream)
    output.say("one")
    output.say("two")
    assert stream.getvalue() == "one\nSIGINT\ntwo\n"


@pytest.mark.parametrize("json", [None, True])
def test_a_run_whose_output_nobody_reads_saves_and_leaves_quietly(tmp_path: Path, json: bool | None) -> None:
    flags = arguments(base_dir(tmp_path), num_iterations=100_000, save_every=-1, json=json)
    status, messages = piped(base_train, flags, until='"step": 3,' if json else "step 00003/")
    assert status == 141
    assert "SIGPIPE" not in messages
    assert "Error" not in messages
    folder = tmp_path / "base_checkpoints" / "d2"
    (step,) = list_steps(folder)[0]
    assert 4 <= step < 100_000
    assert verify(folder, step, full=True).ok
    last = list(read_lines(folder / METRICS_NAME))[-1]
    assert (last["step"], last["events"][-1]) == (step, "stopped")
