"""The dataset inspector in a terminal: every command line of its manual, what they print, write and return."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from nanochat import paths
from nanochat.benchmarks.make_conversations import write
from nanochat.errors import is_message
from nanochat.tools.dataset_inspector import main
from tests.dataset_inspector_support import TOKENIZER, lines_file, talk

ROOT = Path(__file__).parents[1]
TABLE = [  # the arguments behind the file's name, what must be printed, what must not
    ((), ["DATASET STATISTICS", "SAMPLE CONVERSATIONS"], ["LENGTH ANALYSIS", "FORMAT VALIDATION"]),
    (("--samples", "10"), ["SAMPLE CONVERSATIONS", "[USER] ", "[ASSISTANT] "], []),
    (("--validate",), ["FORMAT VALIDATION", "Checked 40 conversations", "✅ No format issues found!"], ["SAMPLE"]),
    (("--analyze-lengths",), ["LENGTH ANALYSIS", "Full Conversation Lengths (in tokens):"], ["SAMPLE"]),
    (("--export", "review.txt", "--export-count", "100"), ["Wrote 40 conversations to"], []),
    (
        ("--validate", "--analyze-lengths", "--samples", "10"),
        ["FORMAT VALIDATION", "DATASET STATISTICS", "LENGTH ANALYSIS", "SAMPLE CONVERSATIONS"],
        [],
    ),
    (("--analyze-lengths", "--no-tokenizer"), ["Full Conversation Lengths (in characters):"], ["in tokens"]),
    (("--search", "question 7"), ["1 lines hold 'question 7'", "line 8: [USER] question 7"], []),
]
LABELS = [
    "Dataset looks good.",
    "Total conversations: 40",
    "Total messages:      80",
    "Avg messages/conv:   2.0",
    "Message Role Distribution:",
    "  user           : 40",
    "  assistant      : 40",
    "  Min:     ",
    "  Max:     ",
    "  Mean:    ",
    "  Median:  ",
    "User Message Lengths (characters):",
    "Assistant Message Lengths (characters):",
    "Length Distribution (tokens):",
    "💡 Learning Insight:",
    "Your conversations are ",
    "Recommended sequence length: ",
]


@pytest.fixture
def good(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    TOKENIZER.save(paths.workspace() / "tokenizer")
    return lines_file(tmp_path / "dataset.jsonl", *[talk(f"question {n}", f"answer {n}") for n in range(40)])


def _run(capsys, *arguments):
    status = main([str(one) for one in arguments])
    return status, capsys.readouterr().out


@pytest.mark.parametrize(("arguments", "there", "absent"), TABLE, ids=[" ".join(row[0]) for row in TABLE])
def test_every_command_line_of_the_manual(good, capsys, arguments, there, absent):
    status, printed = _run(capsys, good, *arguments)
    assert status == 0
    assert [words for words in there if words not in printed] == []
    assert [words for words in absent if words in printed] == []
    samples = printed.count("--- line ")
    assert samples == {"--samples": 10}.get(arguments[0] if arguments else "", 5 if samples == 5 else samples)


def test_the_labels_are_those_of_the_manual(good, capsys):
    _, printed = _run(capsys, good, "--validate", "--analyze-lengths")
    assert [label for label in LABELS if label not in printed] == []
    assert re.search(r"^  0-100       :     40 #+$", printed, re.MULTILINE)


def test_five_samples_unless_asked_and_the_same_for_a_seed(good, capsys):
    first, again, other = (_run(capsys, good, "--seed", seed)[1] for seed in (1, 1, 2))
    assert first.count("--- line ") == 5
    assert first == again != other


def test_an_error_ends_with_status_1_and_its_line(tmp_path, capsys):
    path = lines_file(tmp_path / "a.jsonl", talk(), b"{broken\n", talk("warned"), talk("warned"))
    status, printed = _run(capsys, path)
    assert status == 1
    assert "❌ 1 line with an error, 1 line with only a warning:" in printed
    assert "line 2: it is not JSON" in printed
    assert _run(capsys, lines_file(tmp_path / "b.jsonl", talk(), talk()))[0] == 0, "a warning is no error"


def test_json_is_one_object_with_what_was_written(tmp_path, capsys):
    path = tmp_path / "planted.jsonl"
    truth = tmp_path / "truth.jsonl"
    write(path, truth, 400, 1)
    files = {name: tmp_path / f"{name}.jsonl" for name in ("issues", "clean", "rejects", "repaired")}
    flags = [str(part) for name, file in files.items() for part in (f"--{name}", file)]
    status, printed = _run(capsys, path, "--json", *flags)
    found = json.loads(printed)
    assert status == 1
    assert found["lines"] == 400
    listed = [json.loads(line) for line in files["issues"].open()]
    planted = {one["line"]: set(one["kinds"]) - {"too_long"} for one in map(json.loads, truth.open())}
    assert {one["line"]: set(one["kinds"]) for one in listed} == {
        line: kinds for line, kinds in planted.items() if kinds
    }
    assert all(set(one) == {"line", "severity", "kinds", "message", "detail", "remedy"} for one in listed)
    assert sum(one["severity"] == "error" for one in listed) == found["error_lines"]
    for name in ("clean", "rejects", "repaired"):
        assert found["written"][name]["lines"] == files[name].read_bytes().count(b"\n")
        assert found["written"][name]["bytes"] == files[name].stat().st_size
    assert _run(capsys, files["clean"], "--validate")[0] == 0
    assert _run(capsys, files["repaired"], "--validate")[0] == 0


def test_the_profile_of_nanochats_own_loader(tmp_path, capsys):
    path = lines_file(tmp_path / "a.jsonl", talk(), {"messages": talk("b")})
    assert _run(capsys, path)[0] == 0
    status, printed = _run(capsys, path, "--profile", "nanochat-custom")
    assert status == 1
    assert "line 2" in printed


def test_every_request_has_its_figure(good, tmp_path, capsys):
    lines_file(tmp_path / "b.jsonl", {"messages": talk("mail a@example.org"), "task": "x"})
    exam = lines_file(tmp_path / "exam.jsonl", {"question": " ".join(f"word{number}" for number in range(20))})
    arguments = ("--near-duplicates", "--pii", "--overlap", exam, "--by", "task", "--exact", "--json")
    found = json.loads(_run(capsys, good, tmp_path / "b.jsonl", *arguments)[1])
    assert found["personal"] == {"email": 1}
    assert found["overlap"] == 0
    assert found["near_duplicates"] is not None
    assert {row["group"]: row["lines"] for row in found["groups"]} == {"(none)": 40, "x": 1}
    assert [row["lines"] for row in found["by_file"]] == [40, 1]
    assert found["tokens"]["exact"]


def test_plain_text_has_its_own_report_and_refuses_what_is_for_conversations(tmp_path, capsys):
    path = tmp_path / "book.txt"
    path.write_text("One line.\n\nAnother.\n")
    status, printed = _run(capsys, path)
    assert status == 0
    assert "Documents:   2" in printed
    assert json.loads(_run(capsys, path, "--json")[1])["documents"] == 2
    with pytest.raises(ValueError, match="--clean is for conversations") as caught:
        main([str(path), "--clean", str(tmp_path / "x")])
    assert is_message(caught.value)
    with pytest.raises(ValueError, match="one after another") as caught:
        main([str(path), str(lines_file(tmp_path / "a.jsonl", talk()))])
    assert is_message(caught.value)


def test_a_picture_where_it_can_be_drawn_and_words_where_not(good, tmp_path, capsys, monkeypatch):
    status, printed = _run(capsys, good, "--plot", tmp_path / "lengths.svg")
    assert status == 0
    assert (tmp_path / "lengths.svg").read_text().startswith("<svg")
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "vl_convert" else real(name))
    status, printed = _run(capsys, good, "--plot", tmp_path / "other.svg")
    assert status == 0
    assert "pip install vl-convert-python" in printed
    assert not (tmp_path / "other.svg").exists()


def test_help_loads_nothing_heavy():
    program = (
        "import sys\ntry:\n import nanochat.tools.dataset_inspector as t; t.main(['--help'])\nexcept SystemExit: pass\n"
        "print(sorted({'torch', 'polars', 'numpy', 'msgspec', 'altair'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
