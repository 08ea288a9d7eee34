"""What makes the dataset inspector fast must not change what it finds: several lines at once, several processes."""

import json
import random
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat import jobs, paths
from nanochat.analysis.dataset_inspector import InspectorError, Options, as_json, check, find_sources, inspect, workers
from nanochat.analysis.dataset_inspector.check import Settings, check_block
from nanochat.analysis.dataset_inspector.counting import counts_file, job_of, last_words, load_counts, progress_of
from nanochat.analysis.dataset_inspector.diagnose import diagnose
from nanochat.analysis.dataset_inspector.inspection import with_counts
from nanochat.analysis.dataset_inspector.sources import Block
from nanochat.analysis.dataset_inspector.workers import Checkers, processes_for
from nanochat.benchmarks.make_conversations import Maker, planted
from nanochat.tokenizer import train_tokenizer
from nanochat.tools.dataset_inspector import main
from tests.dataset_inspector_support import TOKENIZER, lines_file, look, talk

ODD = [  # lines that decode as a good one does, and are not surely good
    b'{"messages": [{"role": "user", "role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}',
    b'[{"role": "user", "content": "a", "content": "a"}, {"role": "assistant", "content": "b"}]',
    b'[{"role": "user", "content": "a"}, {"role" : "assistant", "role": "assistant", "content": "b"}]',
    b'{"messages": [], "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}',
    b'[{"role": "user", "content": "\\": \\":"}, {"role": "assistant", "content": "b"}]',
    b'[{"role"\t: "user", "content" :"a"}, {"role": "assistant", "content": "b"}]',
    b'{"messages": []}',
    b'[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}] []\n',  # and an empty line
    b'[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}\n] [{"role": "user", "content": "c"}]',
    b'{"messages": [{"role": "user", "content": "a"}]\n} [{"role": "user", "content": "c"}]',
    b"",
    b"  \r",
    b'[{"role": "user", "content": "a"}]  [{"role": "user", "content": "a"}]',
    b'[{"role": "user",',
    b'"content": "a"}, {"role": "assistant", "content": "b"}]',
]


@pytest.mark.parametrize("profile", ["chat", "nanochat-custom"])
def test_lines_decoded_together_are_judged_as_one_by_one(profile):
    make = Maker(1, uniform=profile == "chat")
    for odd in ([], *([line] for line in ODD), ODD):
        lines = [json.dumps(make.messages(1)[-2:]).encode() for _ in range(3 * check.AT_ONCE)]
        for number, line in enumerate(odd):
            lines.insert(7 + 11 * number, line)
        for end in (b"\n", b""):
            data = b"\n".join(lines) + end
            found = check_block(Block(data, 1, 0), Settings(profile))
            each = data.removesuffix(b"\n").split(b"\n")
            wanted = [diagnose(line, profile, first=number == 0).mask for number, line in enumerate(each)]
            assert found.columns["kinds"].tolist() == wanted, odd


@given(st.lists(st.text(alphabet="aAzZ éÉßΣςİıЖжⅫⓐꙀ𐐀😀東\\u", max_size=12), min_size=1, max_size=8))
@settings(max_examples=60, deadline=None)
def test_case_and_blanks_never_count_in_a_normal_form(texts):
    conversations = [[{"role": "user", "content": f"x{one}"}, *talk()[1:]] for one in texts]
    other = [json.loads(json.dumps(one).replace("x", "X ", 1)) for one in conversations]
    values = conversations + other
    lines = [json.dumps(one, ensure_ascii=number % 2 == 0).encode() for number, one in enumerate(values)]
    normal = check_block(Block(b"\n".join(lines), 1, 0), Settings()).columns["normal"]
    plain = ["\0".join(message["content"] for message in one).lower().encode().translate(None, b" \t\r\n")
             for one in values]  # fmt: skip
    assert [[a == b for b in normal] for a in normal.tolist()] == [[a == b for b in plain] for a in plain]


def test_lengths_are_tallied_alike_however_long():
    for lengths in (np.array([3, 1, 3]), np.array([3, 10**7, 3])):
        assert check._tally(lengths) == dict(zip(*np.unique_counts(lengths), strict=True))


def test_several_processes_find_what_one_finds(tmp_path, monkeypatch):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"".join(line for line, _ in planted(1500, 5) if len(line) < 10**6))
    alone = look(path, tokens=True, by="source")
    assert processes_for(alone.sources) == 0
    monkeypatch.setattr(workers, "WORTH_FROM", 1)
    monkeypatch.setattr(workers, "BLOCK", 1 << 17)
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0, 1})
    started = []
    popen = workers.subprocess.Popen
    monkeypatch.setattr(workers.subprocess, "Popen", lambda *a, **k: started.append(popen(*a, **k)) or started[-1])
    several = look(path, tokens=True, by="source")
    assert len(started) == 2
    assert all(process.poll() is not None for process in started), "they are gone"
    assert as_json(several) == as_json(alone)
    for name in ("issues", "duplicates", "groups"):
        assert getattr(several, name).equals(getattr(alone, name)), name

    class StopError(Exception):
        pass

    def stop(progress):
        raise StopError

    with pytest.raises(StopError):
        inspect(find_sources([path]), Options(), None, stop)
    assert all(process.poll() is not None for process in started[2:]), "also after a stop"


def test_a_process_that_is_killed_is_one_sentence():
    blocks = [Block(json.dumps(talk()).encode() + b"\n", 1 + number, 0) for number in range(4)]
    with Checkers(Settings(), 1) as checkers:
        found = checkers.run(iter(blocks))
        assert next(found)[1].columns["messages"].tolist() == [2]
        checkers._all[0].kill()
        with pytest.raises(InspectorError, match="was ended from outside"):
            list(found)


# -- every token counted --


@pytest.fixture
def estimated(tmp_path, monkeypatch):
    """A data set whose tokens are estimated, beside the exact report."""
    TOKENIZER.save(paths.workspace() / "tokenizer")
    monkeypatch.setattr("nanochat.analysis.dataset_inspector.inspection.SAMPLE", 40)
    monkeypatch.setattr("nanochat.analysis.dataset_inspector.inspection.LEAST_BUDGET", 0)
    rng = random.Random(3)
    made = [talk("hug " * rng.randint(1, 90), "12 pug " * rng.randint(1, 90)) for _ in range(150)]
    made = [{"messages": one, "source": rng.choice("ab")} for one in made] + [talk()]
    path = lines_file(tmp_path / "a.jsonl", *made, made[0], b"broken\n")
    options = {"tokens": True, "by": "source", "max_tokens": 400}
    return path, look(path, **options), look(path, exact=True, **options)


def test_counts_make_an_estimated_report_exact(estimated, tmp_path, capsys):
    path, guessed, exact = estimated
    assert not guessed.tokens.exact
    assert any("by their estimate" in note for note in guessed.notes)
    target = tmp_path / "counts.parquet"
    assert main([str(path), "--counts", str(target), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["written"]["counts"]["lines"] == 152
    found = with_counts(guessed, load_counts(target, guessed.sources, "chat", TOKENIZER.fingerprint))
    assert as_json(found) == as_json(exact)
    for name in ("issues", "groups", "files"):
        assert getattr(found, name).equals(getattr(exact, name)), name
    table = pl.read_parquet(target)
    assert table.columns == ["row", "file", "line", "tokens", "supervised"]
    assert table["tokens"].sum() == exact.tokens.total


def test_counts_of_something_else_are_refused(estimated, tmp_path):
    path, guessed, exact = estimated
    other = exact.tokens.counts
    with pytest.raises(InspectorError, match="count them again"):
        with_counts(guessed, type(other)(other.frame.head(3), other.kept, other.empty))
    for content in (b"", b"PAR1", json.dumps(talk()).encode()):
        (tmp_path / "x.parquet").write_bytes(content)
        with pytest.raises(InspectorError, match="no counted tokens"):
            load_counts(tmp_path / "x.parquet", guessed.sources, "chat", TOKENIZER.fingerprint)
    before = path.read_bytes()
    with pytest.raises(InspectorError, match="is read"):
        main([str(path), "--counts", str(path)])
    assert path.read_bytes() == before
    with pytest.raises(InspectorError, match="for want of a tokenizer"):
        main([str(path), "--no-tokenizer", "--counts", str(tmp_path / "y.parquet")])


def test_a_tokenizer_or_file_that_changed_before_the_job_came_to_it_is_noticed(estimated, tmp_path, capsys):
    path, guessed, _ = estimated
    asked = (guessed.sources, "chat", TOKENIZER.fingerprint)
    target = tmp_path / "counts.parquet"
    other = train_tokenizer(["hug pug hugs a bug, and 12 more"] * 2, 270)
    other.save(paths.workspace() / "tokenizer", overwrite=True)
    main([str(path), "--counts", str(target), "--json"])
    with pytest.raises(InspectorError, match="another tokenizer, or files that have changed"):
        load_counts(target, *asked)
    TOKENIZER.save(paths.workspace() / "tokenizer", overwrite=True)
    main([str(path), "--counts", str(target), "--json"])
    assert len(load_counts(target, *asked).frame) == 152
    path.write_bytes(path.read_bytes()[:-7] + b"mended\n")
    main([str(path), "--counts", str(target), "--json"])
    with pytest.raises(InspectorError, match="another tokenizer, or files that have changed"):
        load_counts(target, *asked)


def test_a_job_says_how_far_it_is(estimated, tmp_path, capsys):
    path, guessed, _ = estimated
    target = counts_file(guessed.sources, "chat", TOKENIZER.fingerprint)
    assert target != counts_file(guessed.sources, "nanochat-custom", TOKENIZER.fingerprint)
    assert main([str(path), "--counts", str(tmp_path / "c.parquet"), "--events"]) == 0, "an error line is no failure"
    said = capsys.readouterr().out
    folder = Path(jobs.folder_of_jobs()) / "20260101-000000"
    folder.mkdir(parents=True)
    facts = {"kind": "dataset_inspector", "counts": str(target)}
    (folder / "job.json").write_text(json.dumps({"title": "x", "commands": [], "begun": 0.0, "facts": facts}))
    job = job_of(target)
    assert progress_of(job) == ("starting", 0.0)
    job.log.write_text(said)
    assert progress_of(job)[0] in ("checking lines", "counting tokens")
    job.log.write_text(
        '{"event": "Progress", "doing": "counting tokens", "done": 1, "total": 2}\nbroken: why\n{"a": 1}\n'
    )
    assert progress_of(job) == ("counting tokens", pytest.approx(0.55))
    assert last_words(job) == "broken: why"
