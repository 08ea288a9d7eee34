"""The maker of planted errors: the same bytes for a seed, every kind, good lines that are good, a file of any size."""

import json

import pytest

from nanochat.analysis.dataset_inspector.kinds import KINDS
from nanochat.benchmarks.make_conversations import VirtualFile, main, planted
from nanochat.conversation import check


def _small(count=300, **options):
    return [(line, kinds) for line, kinds in planted(count, **options) if len(line) < 10**6]


def test_a_seed_decides_every_byte():
    assert _small(seed=4) == _small(seed=4)
    assert _small(seed=4) != _small(seed=5)


def test_every_kind_is_planted_and_some_lines_have_several():
    found = list(planted(2500, 1))
    assert {kind for _, kinds in found for kind in kinds} == set(KINDS)
    assert any(len(kinds) > 1 for _, kinds in found)
    assert found[0][1] == {"bom"}
    assert len({line for line, kinds in found if not kinds}) == sum(not kinds for _, kinds in found)


@pytest.mark.parametrize("uniform", [False, True])
def test_good_lines_are_good(uniform):
    for line, kinds in planted(200, 2, 0, uniform):
        assert not kinds
        assert check(json.loads(line)) == []
        assert len(line) < 4_000
        assert not uniform or set(json.loads(line)) == {"messages"}


def test_the_files_say_the_same(tmp_path):
    lines, truth = tmp_path / "a.jsonl", tmp_path / "truth.jsonl"
    assert main([str(lines), "--truth", str(truth), "--count", "200", "--seed", "3"]) == 0
    expected = [(line, sorted(kinds)) for line, kinds in planted(200, 3)]
    assert lines.read_bytes() == b"".join(line for line, _ in expected)
    listed = [json.loads(line) for line in truth.open()]
    assert listed == [{"line": n, "kinds": kinds} for n, (_, kinds) in enumerate(expected, 1) if kinds]
    with pytest.raises(SystemExit):
        main([str(lines), "--rate", "0.5"])


def test_a_file_that_exists_only_while_it_is_read():
    file = VirtualFile(300_000, pool=50)
    parts = []
    while part := file.read(10_007):
        parts.append(part)
    data = b"".join(parts)
    lines = data.splitlines()
    assert len(data) == file.size == file.tell()
    assert len(lines) == len(set(lines)) == file.lines
    assert all(check(json.loads(line)) == [] for line in lines)
    for place in (0, 123_456, file.size - 5):
        assert file.seek(place) == place
        assert file.read(40) == data[place : place + 40] or file.tell() % file.cycle == 0
