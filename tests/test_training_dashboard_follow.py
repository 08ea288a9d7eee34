"""The dashboard's follower and uploads: each look costs what is new, and gives what opening anew gives."""

import io
import json
import os
import time
from pathlib import Path

import pytest
from polars.testing import assert_frame_equal

from nanochat.analysis import training_dashboard as dashboard
from nanochat.metrics import MetricsError
from nanochat.metrics_records import RecordParser
from tests.checkpoint_support import save_ours
from tests.support import FIXTURES, needs_fixtures
from tests.test_training_dashboard import falling, record, written

LOG = FIXTURES / "nanochat_2026_07_03/logs/base_train.log"


def same(one: dashboard.History, other: dashboard.History) -> None:
    assert_frame_equal(one.frame, other.frame)
    assert_frame_equal(one.rows, other.rows)
    for name in ("name", "checkpoints", "notes", "problems", "live", "missing"):
        assert getattr(one, name) == getattr(other, name), name


def test_a_look_at_a_growing_run_reads_the_new_lines_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    feed = RecordParser.feed
    monkeypatch.setattr(RecordParser, "feed", lambda self, data: (sizes.append(len(data)), feed(self, data))[1])
    run = written(tmp_path, falling(400))
    follower = dashboard.Follower(run)
    assert not follower.looked
    (first,) = follower.look()
    assert follower.looked
    assert sum(sizes) == (run / "metrics.jsonl").stat().st_size
    assert follower.look()[0] is first
    sizes.clear()
    line = json.dumps(record(400, 2.5)).encode() + b"\n"
    with (run / "metrics.jsonl").open("ab") as file:
        file.write(line)
    (second,) = follower.look()
    assert sizes == [len(line)]
    assert (first.last, second.last) == (399, 400)
    same(second, dashboard.open_run(run))


def test_a_resumed_run_and_a_new_checkpoint_are_noticed(tmp_path: Path) -> None:
    run = written(tmp_path, falling(60))
    follower = dashboard.Follower(run)
    follower.look()
    save_ours(run, step=10)
    written(tmp_path, [*falling(60)[:11], *(record(s, 9.0, events=["resumed"] * (s == 11)) for s in range(11, 20))])
    (now,) = follower.look()
    assert (now.checkpoints, now.last) == ((10,), 19)
    assert [mark.step for mark in dashboard.marks(now) if mark.kind == "resumed"] == [11]
    same(now, dashboard.open_run(run))


def test_a_run_that_ended_is_live_no_longer(tmp_path: Path) -> None:
    run = written(tmp_path, falling(9))
    follower = dashboard.Follower(run)
    assert follower.look()[0].live
    os.utime(run / "metrics.jsonl", (time.time() - 1000,) * 2)
    assert not follower.look()[0].live


@needs_fixtures
def test_a_growing_log_is_followed(tmp_path: Path) -> None:
    text = LOG.read_bytes()
    path = tmp_path / "base_train.log"
    path.write_bytes(text[: len(text) // 2])
    follower = dashboard.Follower(path)
    assert follower.look()[0].live
    half = follower.look()[0].last
    path.write_bytes(text)
    (whole,) = follower.look()
    assert half is not None
    assert half < whole.last == 120  # type: ignore[operator]
    assert not whole.live  # it is at its end, however young the file is
    same(whole, dashboard.open_log(path)[0])


def test_a_run_that_is_gone_is_a_sentence_and_may_come_back(tmp_path: Path) -> None:
    follower = dashboard.Follower(tmp_path / "base_checkpoints/d4")
    with pytest.raises(MetricsError):
        follower.look()
    written(tmp_path, falling(5))
    assert follower.look()[0].last == 4


def test_figures_and_marks_are_worked_out_once(tmp_path: Path) -> None:
    history = dashboard.open_run(written(tmp_path, falling(300)))
    (renamed, _) = dashboard.told_apart([history, history])
    assert dashboard.marks(renamed) is dashboard.marks(history)
    assert dashboard.summary(renamed) is dashboard.summary(history)


@needs_fixtures
def test_an_upload_is_what_the_file_is(tmp_path: Path) -> None:
    (there,) = dashboard.open_log(LOG)
    (here,) = dashboard.open_upload("base_train.log", io.BytesIO(LOG.read_bytes()))
    assert_frame_equal(here.frame.drop("file"), there.frame.drop("file"))
    run = written(tmp_path, falling(20))
    (records,) = dashboard.open_upload("metrics.jsonl", io.BytesIO((run / "metrics.jsonl").read_bytes()))
    assert (records.last, records.name, records.live) == (19, "metrics.jsonl", False)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.log", b"", "is empty"),
        ("a.log", b"\x00" * 3000, "no text file"),
        ("a.log", b"Dear reader,\n" * 9, "looks like the output of nanochat"),
        ("a.jsonl", b'{"messages": []}\n', "no line of it is a record"),
        ("../../\x1b[31m.jsonl", b"[]\n", "no line of it is a record"),
        ("", b"x\n", "looks like the output"),
    ],
)
def test_a_bad_upload_is_one_sentence(name: str, content: bytes, words: str) -> None:
    with pytest.raises(MetricsError, match=words) as error:
        dashboard.open_upload(name, io.BytesIO(content))
    assert "\n" not in str(error.value)
    assert "\x1b" not in str(error.value)
