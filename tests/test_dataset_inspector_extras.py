"""Around the inspector's core: clean files, secrets, near-duplicates, groups, plain text, and hostile content."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nanochat.analysis.dataset_inspector import (
    Drop,
    InspectorError,
    Options,
    export,
    export_file,
    find_sources,
    inspect,
    inspect_corpus,
    is_corpus,
    issues,
    sample,
    text,
    upload_source,
)
from nanochat.analysis.dataset_inspector.export import repair
from nanochat.analysis.dataset_inspector.findings import personal_in
from nanochat.benchmarks.make_conversations import planted
from nanochat.conversation import PROFILES, check
from nanochat.tasks.conversation_file import ConversationFile
from tests.dataset_inspector_support import TOKENIZER, lines_file, look, talk


def _exported(report, part):
    data = bytearray()
    export(report, part, data.extend)
    return bytes(data)


@pytest.fixture(scope="module")
def planted_lines():
    return list(planted(700, 11))


@pytest.mark.parametrize("packed", [False, True])
def test_clean_and_rejected_are_all_lines_and_training_opens_the_clean_ones(tmp_path, planted_lines, packed):
    path = tmp_path / ("a.jsonl.gz" if packed else "a.jsonl")
    data = b"".join(line for line, _ in planted_lines)
    path.write_bytes(gzip.compress(data, 1) if packed else data)
    report = look(path)
    clean, rejected = _exported(report, "clean"), _exported(report, "rejected")

    def plain(line):
        return line.removeprefix(b"\xef\xbb\xbf").rstrip(b"\r\n")

    blank = {index for index, (_, kinds) in enumerate(planted_lines) if "blank_line" in kinds}
    warnings = {"crlf", "bom", "duplicate", "too_long"}
    good = [plain(line) for line, kinds in planted_lines if not kinds - warnings]
    bad = [line for index, (line, kinds) in enumerate(planted_lines) if kinds - warnings and index not in blank]
    assert clean == b"".join(line + b"\n" for line in good)
    assert rejected == b"".join(bad)
    target = tmp_path / "clean.jsonl"
    done = export_file(report, "clean", target)
    assert target.read_bytes() == clean
    assert done.lines == len(good)
    assert len(ConversationFile(target, every=0)) == len(good)
    done = export_file(report, "repaired", tmp_path / "repaired.jsonl")
    assert sum(done.repairs.values()) >= done.lines - len(good) > 0
    assert len(ConversationFile(tmp_path / "repaired.jsonl", every=0)) == done.lines


def test_repetitions_go_to_the_rejects_on_request(tmp_path):
    talks = [talk("One?", "1."), talk("Two?", "2."), talk("One?", "1."), talk("One?", "1.")]
    path = lines_file(tmp_path / "a.jsonl", *talks)
    report = look(path)
    parts = {}
    for part in ("clean", "rejected", "repaired"):
        done = export_file(report, part, tmp_path / part, drop=Drop(duplicates=True))
        parts[part] = (tmp_path / part).read_bytes().splitlines()
        assert done.lines == len(parts[part])
    lines = path.read_bytes().splitlines()
    assert parts == {"clean": lines[:2], "rejected": lines[2:], "repaired": lines[:2]}
    assert _exported(report, "clean") == path.read_bytes()
    question = {"role": "user", "content": "Hi", "x": float("nan")}
    twice = lines_file(tmp_path / "b.jsonl", *[[question, {"role": "assistant", "content": "Ho"}]] * 2)
    assert export_file(look(twice), "repaired", tmp_path / "c", drop=Drop(duplicates=True)).lines == 1


def test_an_export_never_replaces_what_was_inspected(tmp_path):
    path = lines_file(tmp_path / "a.jsonl", talk())
    before = path.read_bytes()
    with pytest.raises(InspectorError, match="give another name"):
        export_file(look(path), "clean", path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("profile", PROFILES)
def test_what_a_repair_returns_is_fit(profile, planted_lines):
    repaired = 0
    for line, _ in planted_lines:
        found, done = repair(line[: 10**6], profile)
        if found is not None:
            assert check(json.loads(found), profile) == []
            repaired += bool(done)
    assert repaired > 10


def test_repairs_say_what_they_did():
    line = json.dumps([*talk("Hi", "A"), {"role": "assistant", "content": "B"}, {"role": "user", "content": "?"}])
    fixed, done = repair(line.encode(), "chat")
    assert json.loads(fixed) == talk("Hi", "A\n\nB")
    assert done == ["two messages merged", "last message without a reply dropped"]
    assert repair(b'[{"role":"user","content":"caf\xe9"},{"role":"assistant","content":"a"}]', "chat") == (None, [])


def test_secrets_are_found_and_not_repeated(tmp_path):
    keys = {
        "aws_access_key": "AKIA" + "Q" * 16,
        "github_token": "ghp_" + "a1" * 18,
        "google_api_key": "AIza" + "b" * 35,
        "openai_key": "sk-proj-" + "c" * 40,
        "private_key": "-----BEGIN RSA PRIVATE KEY-----",
        "slack_token": "xoxb-" + "1" * 12,
    }
    decoys = ["task-oriented and risk-free", "AKIA", "ghp_short", "-----BEGIN CERTIFICATE-----"]
    path = lines_file(tmp_path / "a.jsonl", *[talk(word) for word in decoys], *[talk(key) for key in keys.values()])
    report = look(path)
    found = list(report.secrets.select("line", "kind").iter_rows())
    assert sorted(found) == [(5 + number, kind) for number, kind in enumerate(keys)]
    assert all(key not in "".join(report.secrets["excerpt"]) for key in keys.values())
    assert not report.issues.height, "a secret is no format issue"


def test_personal_data_is_looked_for_when_asked():
    line = b"mail me: a.b@example.org, +49 30 1234567, 4111 1111 1111 1111, 10.0.0.1, v1.2.3, 1234 5678 9012 3456"
    assert {one.kind for one in personal_in(line, 1)} == {"email", "phone", "card_number", "ip_address"}
    assert sum(one.kind == "card_number" for one in personal_in(line, 1)) == 1, "only one has the right sum"


def test_near_duplicates_and_overlap_on_request(tmp_path):
    story = " ".join(f"word{number}" for number in range(120))
    other = " ".join(f"other{number}" for number in range(120))
    made = [talk(story), talk(other), talk(story.replace("word60", "changed")), talk(story.upper() + " ")]
    evaluation = tmp_path / "eval.txt"
    evaluation.write_text(" ".join(f"other{number}" for number in range(20, 40)))
    path = lines_file(tmp_path / "a.jsonl", *made)
    report = look(path, near=True, overlap=evaluation)
    assert list(report.near.select("row", "first").iter_rows()) == [(2, 0), (3, 0)]
    assert report.overlap.rows() == [(1, 8)]
    assert report.normalised_duplicates == 1
    assert look(path).near is None


def test_figures_by_an_extra_field_add_up(tmp_path):
    made = [{"messages": talk("abc", "d" * n), "task": ("sum", "talk")[n % 2], "n": n} for n in range(1, 11)]
    report = look(lines_file(tmp_path / "a.jsonl", *made, talk(), {"messages": [], "task": "sum"}), by="task")
    groups = {row["group"]: row for row in report.groups.iter_rows(named=True)}
    assert {name: row["lines"] for name, row in groups.items()} == {"sum": 6, "talk": 5, "(none)": 1}
    assert groups["sum"]["errors"] == 1
    assert groups["talk"]["chars"] == 5 * 3 + 1 + 3 + 5 + 7 + 9
    assert sum(report.groups["share"]) == pytest.approx(1)
    assert report.fields == {"task": 11, "n": 10}


HOSTILE = "<script>alert(1)</script>\x1b[31m\u202eevil\x07=cmd()"


def test_hostile_content_comes_out_as_plain_text(tmp_path):
    path = lines_file(
        tmp_path / "a\x1b[31m\u202e.jsonl",
        {"messages": talk(HOSTILE, "a"), HOSTILE: HOSTILE},
        [{"role": HOSTILE, "content": "a"}, {"role": "assistant", "content": "b"}],
        talk("=1+1", "<|bos|>"),
    )
    report = look(path, tokens=True, by=HOSTILE)
    printed = [
        *text.validation(report),
        *text.statistics(report, ""),
        *text.lengths(report),
        *text.samples(sample(report, 5), report),
        *(text.preview(row) for row in sample(report, 5)),
        *(one.detail for one in issues(report)),
    ]
    assert all(line.isprintable() for line in printed), [line for line in printed if not line.isprintable()]
    assert not any(text.preview(row).startswith(tuple("=+-@")) for row in sample(report, 5))
    exact = [len(TOKENIZER.render_conversation(one).ids) for one in (talk(HOSTILE, "a"), talk("=1+1", "<|bos|>"))]
    assert report.tokens.total == sum(exact), "text never becomes a control token"


def test_an_upload_is_read_like_a_file(tmp_path):
    import io

    data = b"".join(line for line, _ in planted(300, 2) if len(line) < 10**6)
    path = tmp_path / "a.jsonl"
    path.write_bytes(data)
    for name, content in (("a.jsonl", data), ("a.jsonl.gz", gzip.compress(data))):
        buffer = io.BytesIO(content)
        report = inspect([upload_source(name, buffer)], Options())
        assert [one.as_json(False) for one in issues(report)] == [one.as_json(False) for one in issues(look(path))]
        assert _exported(report, "clean") == _exported(look(path), "clean")
        assert not buffer.closed


def test_a_stop_ends_an_inspection(tmp_path):
    class StopError(Exception):
        pass

    def stop(progress):
        raise StopError

    path = lines_file(tmp_path / "a.jsonl", talk())
    with pytest.raises(StopError):
        inspect(find_sources([path]), Options(), None, stop)


# -- plain text --


def test_plain_text_gets_a_report_of_its_own(tmp_path):
    texts = ["The river runs.", "Река течёт быстро.", "The river runs.", "東京は大きい。", "123", "  "]
    parquet, lines = tmp_path / "a.parquet", tmp_path / "a.jsonl"
    pq.write_table(pa.table({"text": texts}), parquet)
    lines_file(lines, *[{"text": one} for one in texts])
    for path in (parquet, lines):
        [source] = find_sources([path])
        assert is_corpus(source)
        report = inspect_corpus([source], TOKENIZER)
        assert (report.documents, report.empty, report.duplicates) == (5, 1, 1)
        assert report.characters == sum(map(len, texts[:5]))
        exact = sum(len(TOKENIZER.encode(one)) for one in texts[:5])
        assert report.interval[0] <= exact <= report.interval[1]
        scripts = dict(report.scripts.select("script", "documents").iter_rows())
        assert scripts == {"Latin": 2, "Cyrillic": 1, "Cjk": 1, "(no letters)": 1}
        assert json.dumps(text.corpus_json(report))


@pytest.mark.parametrize(
    ("content", "documents"),
    [("a\nb\n<|endoftext|>\nc\n\nd\n", 2), ("a\nb\n\nc\n", 2), ("a\nb\nc\n", 3)],
)
def test_a_text_file_divides_as_for_training(tmp_path, content, documents):
    path = tmp_path / "a.txt"
    path.write_text(content)
    assert inspect_corpus(find_sources([path])).documents == documents


def test_bad_lines_of_a_text_corpus_are_named(tmp_path):
    path = lines_file(tmp_path / "a.jsonl", {"text": "one"}, b"{broken\n", {"no": "text"}, {"text": "two"})
    report = inspect_corpus(find_sources([path]))
    assert report.bad_lines == (("a.jsonl", 2), ("a.jsonl", 3))
    assert not is_corpus(find_sources([lines_file(tmp_path / "b.jsonl", b"broken\n", talk())])[0])
