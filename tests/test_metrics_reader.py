"""Reading a file of metrics as it grows gives what reading it at once gives, and costs the new bytes alone."""

import contextlib
import gc
import json
import os
import threading
import weakref
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from nanochat import metrics, metrics_cache, metrics_frame, metrics_reader, metrics_records
from nanochat.metrics import MetricsError
from nanochat.metrics_log import LogParser
from nanochat.metrics_records import RecordParser
from tests.metrics_support import STEP

ODD = [
    "", "  ", "not json", "[1]", "null", '{"step": 1.5}', '{"step": "3"}', '{"step": 3, "time": "7"}', '{"step": 3',
    '{"step": 3, "time": NaN}', '{"step": 3, "train_loss": -Infinity}', '{"step": 3, "flops": 1e999}', '{"step": null}',
    '{"step": 3, "tokens": 5.0}', '{"step": 3, "tokens": 1e30}', '{"step": 3, "events": ["a", 1]}', '{"step": true}',
    '{"step": 3, "events": null, "learning_rates": {}}', '{"step": 3, "learning_rates": []}', '{"step": 3}\r',
    '{"step": 3, "x": {"learning_rates": {"a": 1}}}', '{"step": 3, "time": true}', '{"step": -9007199254740993}',
    '{"time": 0.1, "step": 7, "events": ["\\u001b[31m"]}', '{"step": 9223372036854775808}', '{"step": 3, "step": 4}',
]  # fmt: skip
number = st.none() | st.floats(-1e300, 1e300) | st.integers(-(2**40), 2**40)
record = st.fixed_dictionaries(
    {"step": st.integers(-(2**50), 2**50), "time": number},
    optional={
        "train_loss": number, "flops": st.integers(0, 10**25), "tokens": st.none() | st.integers(0, 2**60),
        "learning_rates": st.dictionaries(st.text(max_size=4), number, max_size=2), "more": st.text(max_size=5),
        "events": st.lists(st.sampled_from(["evaluation", "é", '"'])),
    },
)  # fmt: skip


def parsed(data: bytes) -> tuple[pl.DataFrame, list[Any], RecordParser]:
    """(rows without their rates, the rates as objects, the parser): JSON has many spellings."""
    parser = RecordParser("metrics.jsonl")
    parser.feed(data)
    frame = parser.frame()
    rates = [None if text is None else json.loads(text, parse_int=float) for text in frame["learning_rates"]]
    return frame.drop("learning_rates"), rates, parser


@settings(max_examples=40, deadline=None)
@given(st.lists(record.map(json.dumps) | st.sampled_from(ODD), min_size=1, max_size=10))
def test_many_lines_at_once_are_what_each_is_alone(lines: list[str]) -> None:
    data = "".join(line + "\n" for line in lines).encode()
    careful = RecordParser._read_lines
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics_records, "SMALLEST", 0)  # Polars takes all it can, down to single lines
        fast, rates, parser = parsed(data)
        patch.setattr(RecordParser, "_read", lambda self, block, first, count: careful(self, block, first))
        slow, same_rates, other = parsed(data)
    assert_frame_equal(fast, slow)
    assert (rates, parser.problems, parser.bad) == (same_rates, other.problems, other.bad)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(["step", "checkpoint"]), st.integers(0, 2) | st.none(),
                          st.none() | st.integers(0, 9)), max_size=8))  # fmt: skip
def test_steps_that_only_grow_supersede_nothing(rows: list[tuple[str, str, int | None, int | None]]) -> None:
    columns = {name: [row[at] for row in rows] for at, name in enumerate(("file", "kind", "section", "step"))}
    frame = metrics_frame.conform(pl.DataFrame(columns, schema_overrides={"step": pl.Int64, "section": pl.Int64}))
    quick = metrics.mark_superseded(frame)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics_frame, "_in_order", lambda *_: False)
        assert_frame_equal(quick, metrics.mark_superseded(frame))


def line(step: int, **more: Any) -> bytes:
    return json.dumps({"step": step, "time": step / 2, "train_loss": 5.0 + step % 7, **more}).encode() + b"\n"


@pytest.fixture
def fed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The bytes that parsers were given, a number for each time."""
    sizes: list[int] = []
    for kind in (RecordParser, LogParser):
        feed = kind.feed
        monkeypatch.setattr(kind, "feed", lambda self, data, feed=feed: (sizes.append(len(data)), feed(self, data))[1])
    return sizes


def test_each_look_costs_what_is_new(tmp_path: Path, fed: list[int]) -> None:
    path, files = tmp_path / "metrics.jsonl", metrics.Files()
    path.write_bytes(b"".join(map(line, range(500))))
    first = files.read(path)
    assert sum(fed) == path.stat().st_size
    fed.clear()
    assert files.read(path) is first
    assert fed == []
    with path.open("ab") as file:
        file.write(line(500) + line(501)[:9])
    found = files.read(path)
    assert sum(fed) == len(line(500)) + 9
    assert found.problems == (f"{path}: the last line was cut short and was left out",)
    with path.open("ab") as file:
        file.write(line(501)[9:-1])
    assert files.read(path).frame["step"].to_list() == list(range(502))  # whole, though its newline is still to come
    with path.open("ab") as file:
        file.write(b"\n" + line(502))
    assert_frame_equal(files.read(path).frame, metrics.read(path).frame)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["grow", "cut", "replace", "odd"]), st.integers(1, 40)), max_size=6))
def test_whatever_becomes_of_a_file_the_rows_are_those_of_reading_it_anew(
    tmp_path_factory: pytest.TempPathFactory, acts: list[tuple[str, int]]
) -> None:
    path, files = tmp_path_factory.mktemp("grows") / "metrics.jsonl", metrics.Files()
    path.write_bytes(line(0))
    step = 1
    for act, count in acts:
        files.read(path)
        if act == "cut":
            with path.open("r+b") as file:
                file.truncate(max(path.stat().st_size - 20 * count, len(line(0))))
        elif act == "replace":
            path.with_name("new").write_bytes(b"".join(line(s, mfu=0.5) for s in range(count)))
            os.replace(path.with_name("new"), path)
        else:
            with path.open("ab") as file:
                file.write(b"".join(line(step + s) for s in range(count)) + (b"bad\n" if act == "odd" else b""))
        step += count
        found, anew = files.read(path), metrics.read(path)
        assert_frame_equal(metrics.mark_superseded(found.frame), anew.frame)
        assert found.problems == anew.problems


def test_a_file_written_over_in_place_is_read_anew(tmp_path: Path) -> None:
    path, files = tmp_path / "metrics.jsonl", metrics.Files()
    path.write_bytes(b"".join(map(line, range(100))))
    files.read(path)
    content = path.read_bytes()
    path.write_bytes(content.replace(b'"train_loss": 5.0', b'"train_loss": 9.0', 1))
    os.utime(path, ns=(1, path.stat().st_mtime_ns + 10**9))
    assert files.read(path).frame["train_loss"][0] == 9.0


def test_a_growing_log_is_what_the_whole_log_is(tmp_path: Path, fed: list[int]) -> None:
    path, files = tmp_path / "base_train.log", metrics.Files()
    path.write_text("Vocab size: 1,024\n")
    for step in range(5):
        with path.open("a") as file:
            file.write(STEP.format(step, step, 6.0))
        found = files.read(path)
    assert sum(fed) == path.stat().st_size
    anew = metrics.read(path)
    assert_frame_equal(metrics.mark_superseded(found.frame), anew.frame)
    assert (found.sections, dict(found.lines), found.problems) == (anew.sections, anew.lines, anew.problems)


def test_an_error_that_is_said_again_holds_nobody(tmp_path: Path) -> None:
    """A page asks each second, with the tables of all other files in its hands."""
    path, files = tmp_path / "a.log", metrics.Files()
    path.write_bytes(b"")
    asked: list[weakref.ref[Any]] = []

    def ask() -> None:
        table = {1}
        asked.append(weakref.ref(table))
        with contextlib.suppress(MetricsError):
            files.read(path)

    for _ in range(3):
        ask()
    gc.collect()
    assert [reference() for reference in asked] == [None] * 3


def test_what_cannot_be_read_is_said_again_and_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, files = tmp_path / "a.log", metrics.Files()
    path.write_bytes(b"")
    for _ in range(2):
        with pytest.raises(MetricsError, match="the file is empty"):
            files.read(path)
    monkeypatch.setattr(metrics_reader, "BLOCK", 100)
    path.write_text("Dear reader, this is a letter.\n" * 20)
    for _ in range(2):
        with pytest.raises(MetricsError, match="nothing in its first"):
            files.read(path)
    path.write_text("Vocab size: 1,024\n" + STEP.format(0, 0, 6.0))
    assert files.read(path).frame.height == 1
    path.unlink()
    with pytest.raises(MetricsError, match="there is no such file"):
        files.read(path)


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fed: list[int]) -> Path:
    """A file that was read by another process, which kept it."""
    monkeypatch.setattr(metrics_cache, "LARGE", 1000)
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"".join(map(line, range(300))) + b"bad\n" + line(300)[:7])
    metrics.Files().read(path)
    fed.clear()
    return path


def test_another_process_reads_only_what_came_since(cached: Path, fed: list[int]) -> None:
    with cached.open("ab") as file:
        file.write(line(300)[7:])
    found = metrics.Files().read(cached)
    assert sum(fed) == len(line(300))
    assert found.frame["line"].to_list() == [*range(1, 301), 302]
    assert "line 301: not a record" in found.problems[0]
    assert not [path for path in cached.parent.iterdir() if path != cached and "metrics" in path.name]


def test_what_was_kept_is_opened_once(cached: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[Path] = []
    load = metrics_cache.load
    monkeypatch.setattr(metrics_cache, "load", lambda path: loads.append(path) or load(path))
    files = metrics.Files()
    for step in range(301, 304):
        with cached.open("ab") as file:
            file.write(line(step))
        files.read(cached)
    assert loads == [cached]


@pytest.mark.parametrize("act", ["cut", "replaced", "written over", "cache broken", "cache of another version"])
def test_a_file_that_is_not_what_was_kept_is_read_anew(cached: Path, act: str, monkeypatch: pytest.MonkeyPatch) -> None:
    content = cached.read_bytes()
    changed = content.replace(b'"train_loss": 5.0', b'"train_loss": 9.0')
    (kept,) = metrics_cache._place(cached).parent.iterdir()
    if act == "cut":
        cached.write_bytes(content[:2000])
    elif act == "replaced":
        cached.with_name("new").write_bytes(changed)
        os.replace(cached.with_name("new"), cached)
    elif act == "written over":
        cached.write_bytes(changed)
    elif act == "cache broken":
        kept.write_bytes(kept.read_bytes()[:-50])
    else:
        monkeypatch.setattr(metrics_cache, "_VERSION", 2)
    found = metrics.Files().read(cached)
    data = RecordParser(str(cached))
    data.feed(cached.read_bytes())
    assert_frame_equal(found.frame, data.frame())


def test_a_workspace_that_cannot_be_written_is_no_harm(
    cached: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("NANOCHAT_LAB_DIR", str(tmp_path / "file"))
    assert metrics.Files().read(cached).frame.height == 300


def test_what_is_opened_is_of_one_moment(cached: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slower process may keep its fewer rows while one opens what was kept: never these with the other's place."""
    kept = metrics_cache._place(cached)
    before = kept.read_bytes()
    with cached.open("ab") as file:
        file.write(line(300)[7:] + b"".join(map(line, range(301, 350))))
    metrics.Files().read(cached)
    assert kept.read_bytes() != before
    kept.with_name("slower").write_bytes(before)
    look = pl.read_parquet_metadata

    def replaced(source: Any) -> dict[str, str]:
        found = look(source)
        os.replace(kept.with_name("slower"), kept)
        return found

    monkeypatch.setattr(pl, "read_parquet_metadata", replaced)
    assert metrics.Files().read(cached).frame["step"].to_list() == list(range(350))


def test_two_visitors_keep_rows_at_once(cached: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads of one process, each with a file of its own until it is whole; a file left by a kill is removed."""
    folder = metrics_cache._place(cached).parent
    left = folder / "0.1-1.tmp"
    left.write_bytes(b"x")
    os.utime(left, (1, 1))
    (folder / "0.2-2.tmp").write_bytes(b"x")  # somebody is writing it now
    found = metrics_cache.load(cached)
    assert found is not None
    staged: list[str] = []
    write = pl.DataFrame.write_parquet

    def noted(frame: pl.DataFrame, file: Path, **options: Any) -> None:
        staged.append(file.name)
        write(frame, file, **options)

    monkeypatch.setattr(pl.DataFrame, "write_parquet", noted)
    other = threading.Thread(target=metrics_cache.save, args=(cached, *found))
    other.start()
    metrics_cache.save(cached, *found)
    other.join()
    assert len(set(staged)) == 2
    assert sorted(file.name for file in folder.iterdir()) == ["0.2-2.tmp", metrics_cache._place(cached).name]


def test_only_so_many_files_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_cache, "LARGE", 100)
    monkeypatch.setattr(metrics_cache, "MOST_FILES", 2)
    for number in range(4):
        path = tmp_path / f"{number}.jsonl"
        path.write_bytes(b"".join(map(line, range(9))))
        metrics.Files().read(path)
        os.utime(metrics_cache._place(path), (number, number))
    assert len(list(metrics_cache._place(path).parent.iterdir())) == 2
    assert metrics_cache.load(path) is not None
