"""The dataset inspector: no planted error missed, none invented; every form of file; figures that others agree with."""

import gzip
import json
import random

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.analysis.dataset_inspector import (
    KINDS,
    InspectorError,
    issue_rows,
    issues,
    open_tokenizer,
    rows_of,
    sample,
    search,
)
from nanochat.analysis.dataset_inspector.check import Settings, check_block
from nanochat.analysis.dataset_inspector.diagnose import diagnose
from nanochat.analysis.dataset_inspector.index import IndexBuilder
from nanochat.analysis.dataset_inspector.lengths import packed_rows
from nanochat.analysis.dataset_inspector.report import as_json, buckets, kind_table, length_bins
from nanochat.analysis.dataset_inspector.sources import Block, blocks, cut_blocks, find_sources, lines_at
from nanochat.benchmarks.make_conversations import planted
from nanochat.conversation import PROFILES
from nanochat.paths import workspace
from nanochat.tasks.conversation_file import MAX_LINE_BYTES
from nanochat.tokenizer import train_tokenizer
from tests.dataset_inspector_support import TOKENIZER, lines_file, look, talk


def _proof(folder, count, seed):
    """Plant every kind, inspect, and compare each line with what was planted."""
    path, truth = folder / "planted.jsonl", {}
    with path.open("wb") as file:
        for number, (line, kinds) in enumerate(planted(count, seed), 1):
            file.write(line)
            if kinds:
                truth[number] = set(kinds)
    report = look(path, tokens=True)
    assert {one.line: set(one.kinds) for one in issues(report)} == truth
    assert set(report.kind_counts) == set(KINDS)
    assert report.error_lines == sum(any(KINDS[kind].severity == "error" for kind in one) for one in truth.values())
    return report


def test_no_planted_error_is_missed_and_none_invented(tmp_path):
    report = _proof(tmp_path, 1500, 7)
    assert report.lines == 1500
    assert sum(kind_table(report)["lines"]) == sum(report.kind_counts.values())


@pytest.mark.prove
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_no_planted_error_is_missed_in_100_000_lines(tmp_path, seed):
    _proof(tmp_path, 100_000, seed)


@pytest.mark.parametrize("profile", PROFILES)
def test_the_fast_path_agrees_with_the_slow_one_on_every_line(profile):
    lines = [line for line, _ in planted(1200, 3) if len(line) < 10**6]
    lines += [b'{"a": "x\\\\", "a": 1, "messages": []}\n', b'[{"role":"user","content":"\\":"},{"role":"assistant"}]\n']
    data = b"".join(lines)
    found = check_block(Block(data, 1, 0), Settings(profile)).columns["kinds"].tolist()
    assert found == [
        diagnose(line, profile, first=number == 0).mask for number, line in enumerate(data.splitlines(True))
    ]


@pytest.mark.parametrize(
    ("line", "kinds"),
    [
        (b'{"messages": [{"role": "user", "content": "a"}], "messages": 1}', {"dup_key", "wrong_shape"}),
        (b'{"id": {"a": 1, "a": 2}, "messages": [{"role":"user","content":"a"}]}', {"dup_key", "ends_with_user"}),
        (b'{"x": "\\\\", "messages": [{"role" : "user", "content"\t: "a"}]}', {"ends_with_user"}),
        (b'[{"role":"user","content":"say \\"role\\": x"},{"role":"assistant","content":"ok"}]', set()),
        (b'{"n": 99999999999999999999999, "messages": [{"role":"user","content":"a"}]}', {"ends_with_user"}),
        (b'{"n": ' + b"9" * 5000 + b"}", {"invalid_json"}),
        (b"[" * 10_000, {"invalid_json"}),
        (b'"\\u12', {"truncated"}),
        (b'{"a": tru', {"truncated"}),
        (b'{"a": trux}', {"invalid_json"}),
        (b"\xff\x00", {"nul", "invalid_utf8", "invalid_json"}),
        ("\u2028".join(["[", '{"role":"user","content":"a"}]']).encode(), {"invalid_json"}),
        ('[{"role":"user","content":"a\u2028b"}]'.encode(), {"ends_with_user"}),
        (b"null", {"wrong_shape"}),
        (b'[{"role":"user","content":[{"type":"text","text":"a"}]}]', {"content_wrong_type", "ends_with_user"}),
    ],
)
def test_lines_that_are_hard_to_judge(tmp_path, line, kinds):
    report = look(lines_file(tmp_path / "a.jsonl", line + b"\n", talk()))
    assert {kind for one in issues(report) for kind in one.kinds} == kinds
    assert [one.line for one in issues(report)] == ([1] if kinds else [])


def test_a_fit_line_counts_for_what_it_holds(tmp_path):
    parts = [
        {"type": "text", "text": "12 "},
        {"type": "python", "text": "6+6"},
        {"type": "python_output", "text": "12"},
    ]
    conversation = [{"role": "system", "content": "Be brief."}, *talk("6+6?", parts)]
    report = look(lines_file(tmp_path / "a.jsonl", {"messages": conversation}, talk()), tokens=True)
    assert report.roles == {"system": 1, "user": 2, "assistant": 2}
    expected = [len(TOKENIZER.render_conversation(one).ids) for one in (conversation, talk())]
    frame = report.index.scan().collect()
    assert report.tokens.total == sum(expected)
    assert frame["chars"].to_list() == [9 + 2 + 4 + 8, 8]
    assert frame["specials"].to_list() == [1 + 4 + 4, 5]


def test_sums_about_tokens_are_those_of_the_renderer(tmp_path):
    rng = random.Random(1)
    made = [talk("hug " * rng.randint(1, 200), "pug " * rng.randint(1, 300)) for _ in range(60)]
    report = look(lines_file(tmp_path / "a.jsonl", *made), tokens=True, max_tokens=700)
    rendered = [TOKENIZER.render_conversation(one, None) for one in made]
    tokens = report.tokens
    assert tokens.exact
    assert tokens.total == tokens.interval[0] == sum(len(one.ids) for one in rendered)
    assert tokens.distribution.max == max(len(one.ids) for one in rendered)
    supervised = sum(sum(one.mask) for one in rendered)
    for choice in tokens.choices.iter_rows(named=True):
        cut = [TOKENIZER.render_conversation(one, choice["length"]) for one in made]
        assert choice["cut"] == sum(one.dropped > 0 for one in cut)
        assert choice["lost_share"] == pytest.approx(sum(one.dropped_supervised for one in cut) / supervised)
        assert choice["empty_share"] == pytest.approx(sum(not any(one.mask) for one in cut) / len(made))
    assert set(issue_rows(report, "too_long")) == {row for row, one in enumerate(rendered) if len(one.ids) > 700}
    good = tokens.choices.filter((pl.col("lost_share") <= 0.01) & (pl.col("empty_share") <= 0.001))
    assert tokens.recommended == good["length"].min()


def test_an_estimate_says_how_far_it_may_be_off(tmp_path, monkeypatch):
    rng = random.Random(2)
    words = ["hug", "zq", "12 34", "東京"]
    made = [talk(" ".join(rng.choices(words, k=rng.randint(1, 60))), "pug " * rng.randint(1, 90)) for _ in range(900)]
    path = lines_file(tmp_path / "a.jsonl", *made)
    exact = look(path, tokens=True, max_tokens=300)
    monkeypatch.setattr("nanochat.analysis.dataset_inspector.inspection.SAMPLE", 200)
    inside = 0
    for seed in range(12):
        tokens = look(path, tokens=True, seed=seed).tokens
        assert not tokens.exact
        assert tokens.counted == 200
        inside += tokens.interval[0] <= exact.tokens.total <= tokens.interval[1]
    assert inside >= 9, "an interval of 95 % holds the truth about 19 times in 20"
    guessed = look(path, tokens=True, max_tokens=300)
    assert set(issue_rows(guessed, "too_long")) == set(issue_rows(exact, "too_long")), "near the limit it counts"
    assert look(path, tokens=True, exact=True).tokens.exact


def test_without_a_tokenizer_lengths_are_characters_and_it_says_so(tmp_path):
    report = look(lines_file(tmp_path / "a.jsonl", talk("abc", "de")))
    assert report.tokens is None
    assert length_bins(report)[1] == "characters"
    assert report.chars.max == 5
    assert "without a tokenizer" in report.notes[0]


@pytest.mark.parametrize(("usual", "long"), [(3, 1), (8, 1), (20, 1), (98, 2), (150, 3)])
def test_a_few_long_conversations_leave_the_others_their_bars(tmp_path, usual, long):
    sizes = [*(100 + n % 20 for n in range(usual)), *(5_000 + n for n in range(long))]
    path = lines_file(tmp_path / "a.jsonl", *(talk("a" * (size - 1), "b") for size in sizes))
    bins, _ = length_bins(look(path))
    assert bins.filter(pl.col("count") > 0).height == min(usual, 20) + 1
    assert bins["high"][-1] > 5_000
    assert bins["count"].sum() == len(sizes)


def _naive_best_fit(sizes, length):
    rows = []
    for size in sorted(sizes, reverse=True):
        fitting = [room for room in rows if room >= size]
        if fitting:
            room = min(fitting)
            rows.remove(room)
            rows.append(room - size)
        else:
            rows.append(length - size)
    return len(rows)


@given(st.lists(st.integers(1, 20), min_size=1, max_size=60))
@settings(max_examples=60, deadline=None)
def test_packing_on_the_histogram_is_best_fit_decreasing(sizes):
    values, counts = np.unique(sizes, return_counts=True)
    assert packed_rows(values, counts, 20) == _naive_best_fit(sizes, 20)


def test_buckets_hold_every_conversation():
    histogram = pl.DataFrame({"value": [0, 99, 100, 60_000], "count": [1, 2, 3, 4]})
    found = buckets(histogram)
    assert sum(count for _, _, count in found) == 10
    assert found[0] == (0, 100, 3)
    assert found[-1][2] == 4


# -- files --


class _Reader:
    def __init__(self, data):
        self.data = data

    def read(self, size):
        part, self.data = self.data[:size], self.data[size:]
        return part


@given(st.lists(st.sampled_from([b"", b"a", b"bc", b"\r"]) | st.binary(max_size=12)), st.integers(1, 20))
@settings(max_examples=100, deadline=None)
def test_blocks_hold_every_line_with_its_number_and_place(parts, size):
    data = b"\n".join(parts)
    lines = data.splitlines(keepends=True) if b"\r" not in data else None
    found = list(cut_blocks(_Reader(data), size, limit=8))
    place = 0
    for block in found:
        assert block.offset == place
        assert block.first_line == 1 + data.count(b"\n", 0, place)
        width = block.overlong or len(block.data)
        assert data[place:].startswith(block.data)
        assert block.overlong == 0 or data[place : place + width].count(b"\n") <= 1
        place += width
    assert place == len(data)
    assert lines is None or all(line.endswith(b"\n") for line in lines[:-1])


def test_every_packing_gives_the_same_report(tmp_path):
    made = [talk(f"question {number}", f"answer {number}") for number in range(300)] + [talk("x", "")]
    plain = lines_file(tmp_path / "a.jsonl", *[{"messages": one, "source": "web"} for one in made])
    packed = tmp_path / "a.jsonl.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    zst = tmp_path / "a.jsonl.zst"
    with pa.CompressedOutputStream(str(zst), "zstd") as file:
        file.write(plain.read_bytes())
    parquet = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist([{"messages": one, "source": "web"} for one in made]), parquet)
    reports = [look(path, tokens=True, by="source") for path in (plain, packed, zst, parquet)]
    for report in reports:
        found = as_json(report)
        for name in ("lines", "kinds", "roles", "tokens", "characters", "groups", "fields", "error_lines"):
            assert found[name] == as_json(reports[0])[name], name
        assert [one.line for one in issues(report)] == [301]
        assert [row.value()["messages"] for row in rows_of(report, [5, 299])] == [made[5], made[299]]


def test_several_files_and_a_folder_are_one_data_set(tmp_path):
    folder = tmp_path / "chats"
    folder.mkdir()
    lines_file(folder / "b.jsonl", talk(), talk("only here"))
    lines_file(folder / "a.jsonl", talk("first"), talk())
    (folder / "notes.md").write_text("not data")
    report = look(folder)
    assert [source.name for source in report.sources] == ["chats/a.jsonl", "chats/b.jsonl"]
    [again] = issues(report)
    assert (again.file, again.line, again.kinds) == ("chats/b.jsonl", 1, ("duplicate",))
    assert again.detail == "it is the same as line 2 of chats/a.jsonl"
    assert again.as_json(True)["file"] == "chats/b.jsonl"
    assert report.files["lines"].to_list() == [2, 2]


def test_an_index_on_disk_answers_as_one_in_memory(tmp_path, monkeypatch):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"".join(line for line, _ in planted(900, 5) if len(line) < 10**6))
    memory = look(path, tokens=True)
    monkeypatch.setattr(IndexBuilder.__init__, "__defaults__", (200,))
    monkeypatch.setattr("nanochat.analysis.dataset_inspector.index.SPILL", 200)
    monkeypatch.setattr("nanochat.analysis.dataset_inspector.sources.BLOCK", 1 << 16)
    monkeypatch.setattr(blocks, "__defaults__", (lambda done: None, 1 << 16))
    disk = look(path, tokens=True)
    assert disk.index._folder is not None
    assert as_json(disk) == as_json(memory)
    assert disk.issues.equals(memory.issues)
    assert disk.duplicates.equals(memory.duplicates)


def test_a_line_without_end_is_measured_and_not_kept(tmp_path):
    path = tmp_path / "a.jsonl"
    with path.open("wb") as file:
        file.write(json.dumps(talk()).encode() + b"\n[")
        for _ in range(30):
            file.write(b" " * 2**20)
        file.write(b"]\n" + json.dumps(talk("after")).encode())
    assert max(len(block.data) for block in blocks(find_sources([path])[0])) <= MAX_LINE_BYTES
    report = look(path)
    [found] = issues(report)
    assert (found.line, found.kinds) == (2, ("overlong_line",))
    assert "31,457,283 bytes" in found.detail
    assert report.conversations == 2


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.jsonl", b"", "the file is empty"),
        ("a.jsonl", b"\x7fELF\0\0\0\0" * 40, "this is a binary file"),
        ("a.jsonl", "[]".encode("utf-16"), "this is UTF-16"),
        ("a.jsonl.gz", b"[]\n", "the content is not what the name says"),
        ("a.parquet", b"[]\n", "the content is not what the name says"),
        ("a.jsonl.gz", gzip.compress(b"[]\n" * 999, mtime=0)[:-12], "cannot be unpacked"),
        ("a.jsonl.zst", b"\x28\xb5\x2f\xfd" + b"x" * 50, "cannot be unpacked"),
        ("a.parquet", b"PAR1" + b"x" * 50, "cannot be read as parquet"),
        ("a.jsonl.gz", gzip.compress(b" " * (80 << 20)), "decompression bomb"),
    ],
)
def test_what_is_no_data_set_is_one_sentence(tmp_path, name, content, words):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InspectorError, match=words) as caught:
        look(path)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_no_file_is_one_sentence(tmp_path):
    import os

    os.mkfifo(tmp_path / "pipe.jsonl")
    for path in (tmp_path / "pipe.jsonl", tmp_path / "absent.jsonl", "/dev/zero", "a\0b"):
        with pytest.raises(InspectorError) as caught:
            find_sources([path])
        assert str(caught.value).isprintable()
    (tmp_path / "empty").mkdir()
    with pytest.raises(InspectorError, match="no data file"):
        find_sources([tmp_path / "empty"])


def test_a_file_that_changes_is_noticed(tmp_path):
    path = lines_file(tmp_path / "a.jsonl", talk(), talk("b"))
    sources = find_sources([path])
    stream = blocks(sources[0])
    next(stream)
    with path.open("ab") as file:
        file.write(b"[]\n")
    with pytest.raises(InspectorError, match="changed while it was read"):
        list(stream)
    with pytest.raises(InspectorError, match="changed while it was read"):
        list(lines_at(sources[0], [(1, 0, 10)]))


def test_samples_and_search(tmp_path):
    report = look(
        lines_file(tmp_path / "a.jsonl", *[talk(f"Frage {n}", "Ä東") for n in range(50)], b"not json frage\n")
    )
    rows = sample(report, 5, seed=3)
    assert [row.row for row in rows] == [row.row for row in sample(report, 5, seed=3)]
    assert [row.line for row in rows] == sorted({row.line for row in rows})
    assert len(sample(report, 99)) == 50
    assert search(report, "FRAGE 7") == [7]
    assert search(report, "ä東", limit=2) == [0, 1], "JSON spells it with \\u"
    assert search(report, "not json") == [50]


def test_a_name_that_no_file_can_have_is_a_sentence() -> None:
    with pytest.raises(InspectorError, match="File name too long; name a file or a folder"):
        find_sources(["a" * 5_000])


def test_tokens_are_counted_with_a_runs_tokenizer_where_the_workspace_has_none_of_its_own() -> None:
    assert open_tokenizer()[0] is None
    run = workspace() / "base_checkpoints" / "demo"
    tokenizer = train_tokenizer(["a small text for a small tokenizer"], 300)
    tokenizer.save(run)
    found, origin = open_tokenizer()
    assert found is not None
    assert found.fingerprint == tokenizer.fingerprint
    assert str(run) in origin
