"""Hostile logs: neither time nor memory grows faster than the log, and nothing is understood otherwise.

Time is counted in calls and lines, never in seconds.
"""

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from nanochat import metrics, metrics_frame, metrics_log, metrics_reader
from nanochat.metrics import MetricsError
from nanochat.metrics_facts import MAX_KEPT
from nanochat.metrics_lines import _ALL, _GRAMMAR, UNKNOWN_LINES, clean, recognise
from nanochat.metrics_log import MAX_UNKNOWN, LogParser
from nanochat.metrics_records import RecordParser
from nanochat.metrics_stretches import blank_end, combined, dull_end, telling
from tests.metrics_support import LOGS, STEP, parse
from tests.support import needs_fixtures

FIRST = STEP.format(0, 0.0, 5.1)  # a step 0 behind another step opens a section
BITS = (
    *("step ", "Step 3 | ", "loss: 5.1", " | ", "a", "1%", "|", "[", "]", "(", "\t", " ", "\x1b[31m", "\x00", "wandb:"),
    *("Using device: ", "cpu", "=", '"', "'", "{", "}", ":", "12", ".5", "GPT-2", "---", "[rank1]: ", "NOTE: ", "\x0b"),
    *("Traceback (most recent call last):", "<|bos|>", "│ ", "✓ ", "é", "\u2028", "\x85", "\xa0", "Rank 0 | 1/2 (1%)"),
)
line_texts = st.lists(st.sampled_from(BITS) | st.text(max_size=5), max_size=8).map("".join)
line_texts = line_texts.map(lambda text: re.sub("[\r\n]", "", text))


def one_by_one(text: str) -> int | None:
    """Which pattern fits a line, by asking one after the other."""
    return next((number for number, (*_, pattern, _) in enumerate(_GRAMMAR, 1) if pattern.match(text)), None)


def check_line(text: str) -> None:
    found = _ALL.match(text)
    assert (found.lastindex if found else None) == one_by_one(text), text
    if dull_end(UNKNOWN_LINES, f"{text}\nx\n\n", 0):
        plain, rank = clean(text)
        assert rank is None
        assert (plain, recognise(plain).kind) == (text, "unknown")
        assert recognise(plain, in_prose=True).kind == "unknown"


@settings(max_examples=300, deadline=None)
@given(line_texts)
def test_all_patterns_as_one_say_what_each_says(text: str) -> None:
    check_line(text)


@needs_fixtures
def test_all_patterns_as_one_say_what_each_says_of_real_lines() -> None:
    lines = {line for path in LOGS for line in re.split("[\r\n]+", path.read_text(errors="replace"))}
    assert len(lines) > 1000
    for line in sorted(lines)[:: max(len(lines) // 1500, 1)]:
        check_line(line[:3000])


@settings(max_examples=100, deadline=None)
@given(st.lists(line_texts | st.sampled_from(["", " ", "x", "wandb: y", FIRST[:-1]]), max_size=30), st.data())
def test_a_stretch_passed_over_is_what_its_lines_are_one_by_one(lines: list[str], data: st.DataObject) -> None:
    start = "x\n" * MAX_UNKNOWN + data.draw(st.sampled_from(["", "NanoChat Interactive Mode\n", "NOTE: a\n"]))
    text = (start + "".join(line + "\n" for line in lines) * 2).encode()
    frame, parser = parse(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LogParser, "_pass_over", lambda self, text, start: start)
        slow_frame, slow = parse(text)
    assert parser.counts == slow.counts
    assert parser.at == slow.at == text.count(b"\n")
    assert parser.sections() == slow.sections()
    assert_frame_equal(frame, slow_frame)


def test_stretches() -> None:
    one = combined([r"(\d+) (?P<what>apples)", r"[()]pears\(", r"a|b"])
    assert [one.match(text).lastindex for text in ("12 apples", "(pears(", "b")] == [1, 2, 3]  # type: ignore[union-attr]
    run = telling([r"known\s+[^,]*,", r"\s*$"])
    assert dull_end(run, "a\nb\nknown x,\n", 0) == 4
    assert dull_end(run, "known x\n,\n", 0) == 10  # no pattern reaches over the end of its line
    assert dull_end(run, "[rank0]: a\n", 0) == dull_end(run, "a\x1b[0m\n", 0) == dull_end(run, "a\r\n", 0) == 0
    assert dull_end(run, "a" * 2001 + "\n", 0) == 0
    assert blank_end("x\n \t\r\n\n y\n", 2) == 7


@pytest.mark.parametrize("line", ["\n", " \r\n", "a\n"], ids=repr)
def test_lines_that_say_nothing_are_not_looked_at_one_by_one(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(metrics_log, "recognise", lambda text, in_prose: asked.append(text) or recognise(text))
    _, parser = parse(line.encode() * 20_000)
    assert parser.at == sum(parser.counts.values()) == 20_000
    assert len(asked) <= 2 * MAX_UNKNOWN


def test_tables_are_made_for_many_sections_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    real = metrics_frame.log_frame
    monkeypatch.setattr(metrics_log, "log_frame", lambda parts, carry: made.append(len(parts)) or real(parts, carry))
    frame, parser = parse(FIRST.encode() * 3000)
    assert made == [3000]
    assert len(parser.sections()) == frame.height == 3000
    assert frame["run"].to_list() == frame["section"].to_list() == list(range(3000))
    assert frame["time"].unique().to_list() == [0.1]  # every section begins at its own zero
    assert frame["train_loss"].null_count() == 0


def test_sections_made_together_are_those_made_alone() -> None:
    log = "".join(FIRST + STEP.format(1, 1.0, 5.0 - n) + f"Step 2 | Validation bpb: {n}.5\n" for n in range(3)).encode()
    together, _ = parse(log)
    alone = LogParser("x.log")
    frames = []
    for line in log.splitlines(keepends=True):
        alone.feed(line)
        frames.append(alone.frame())
    assert_frame_equal(together, metrics_frame.joined(frames))
    assert together["time"].to_list() == pytest.approx([0.1, 0.2, 0.2] * 3)
    assert together["train_loss"].to_list()[1::3] == pytest.approx([(5 - n) * 1.9 - 0.9 * 5.1 for n in range(3)])


def test_more_processes_than_a_log_can_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (metrics_log, metrics_reader):
        monkeypatch.setattr(module, "MAX_SECTIONS", 100)
    path = tmp_path / "run.log"
    path.write_text(FIRST * 300)
    report = metrics.read(path)
    assert report.frame.height == 300
    assert len(report.sections) == 100
    assert "more than 100 processes" in report.problems[0]


def test_rows_of_a_table_find_their_task_at_once() -> None:
    rows = "".join(f"task{n} , 0.25, 0.5\n" for n in range(MAX_KEPT + 10))
    _, parser = parse((rows + "task7 , 0.75, 0.9\n").encode())
    results = parser.sections()[0].results
    assert len(results) == MAX_KEPT
    assert (results[7].task, results[7].accuracy) == ("task7", 0.75)


def test_a_large_file_that_is_no_log_is_not_read_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_reader, "BLOCK", 1000)
    path = tmp_path / "novel.log"
    path.write_text("It was a dark night.\n" * 1000)
    with pytest.raises(MetricsError, match=r"nothing in its first 1\.0 kB looks like"):
        metrics.read(path)
    path.write_text("It was a dark night.\n" * 40 + FIRST + "It was a dark night.\n" * 1000)
    assert metrics.read(path).frame.height == 1


def test_every_good_record_is_kept_and_every_bad_line_named() -> None:
    good = '{"step": %d, "train_loss": 2.5}\n'
    bad = ["x", "[]", "\x00", "{", '{"step": "1"}', "\ufeffx", "1e999", '{"step": 1}{"step": 2}', "[" * 5000, "NaN"]
    for size in (3, 4000):  # fewer lines than a block, and more
        for count, word in enumerate(bad, 1):
            parser = RecordParser("metrics.jsonl")
            text = good % 0 + (word + "\n") * count + "".join(good % step for step in range(1, size)) + "\r\n"
            parser.feed(text.encode())
            assert parser.frame()["step"].to_list() == list(range(size))
            assert [problem.split(":")[0] for problem in parser.problems] == [
                f"metrics.jsonl, line {number}" for number in range(2, 2 + count)
            ]


def test_rates_of_groups_with_the_names_of_columns() -> None:
    parser = RecordParser("x")
    parser.feed(b'{"step": 1, "learning_rates": {"file": 1, "run": 2, "step": 3, "matrix": 0.5}}\n')
    assert metrics.rates(parser.frame()).to_dicts() == [{"file": "x", "run": 0, "step": 1, "matrix": 0.5}]
