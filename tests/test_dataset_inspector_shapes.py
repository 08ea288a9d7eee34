"""Conversations in other projects' shapes, and what the tab Files does with what can be trained on."""

import importlib
import json
import re

import pytest

from nanochat import paths
from nanochat.analysis.dataset_inspector import PARTS, Drop, InspectorError, export_file, issues, keep
from nanochat.analysis.dataset_inspector.export import repair
from nanochat.tasks.conversation_file import ConversationFile
from tests import page_support
from tests.dataset_inspector_support import lines_file, look, talk
from tests.page_support import words

TALK = talk("Hi", "Ho.")
SYSTEM = {"role": "system", "content": "Be kind."}
TURNS = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho."}]
SHAPES = [
    ({"conversations": TURNS}, "ShareGPT", {"messages": TALK}),
    ({"id": 7, "conversations": TURNS}, "ShareGPT", {"id": 7, "messages": TALK}),
    ({"conversations": TURNS, "system": "Be kind."}, "ShareGPT", {"messages": [SYSTEM, *TALK]}),
    ({"instruction": "Hi", "input": "", "output": "Ho."}, "Alpaca", {"messages": TALK}),
    ({"instruction": "A", "input": "B", "output": "C"}, "Alpaca", {"messages": talk("A\n\nB", "C")}),
    ({"prompt": "Hi", "completion": "Ho."}, "a pair of prompt and completion", {"messages": TALK}),
    ({"prompt": "Hi", "completion": "Ho.", "system": "Be kind."}, "a pair", {"messages": [SYSTEM, *TALK]}),
    ({"question": "Hi", "answer": "Ho."}, "a pair of question and answer", {"messages": TALK}),
]
NO_SHAPE = [
    {"conversations": []},
    {"conversations": [{"from": "human", "value": "Hi"}, {"from": "tool", "value": "?"}]},
    {"conversations": [{"from": ["human"], "value": "Hi"}]},
    {"conversations": ["Hi"]},
    {"instruction": "Hi", "input": 3, "output": "Ho."},
    {"prompt": ["Hi"], "completion": "Ho."},
    {"text": "Hi"},
    {"instruction": ["To Spanish"], "input": "one", "output": "uno"},
    {"instruction": "And 3?", "output": "9", "history": [["2 squared?", "4"]]},
    {"context": "Ada was a dog.", "question": "Who?", "answer": "A dog."},
    {"prompt": "Hi", "completion": "Ho.", "response": "Hey."},
    {"prompt": "Hi", "completion": "Ho.", "system": 3},
    {"conversations": [TURNS[0], {**TURNS[1], "weight": 0}]},
]


@pytest.mark.parametrize(("value", "name", "ours"), SHAPES)
def test_another_shape_is_named_and_repaired(tmp_path, value, name, ours):
    report = look(lines_file(tmp_path / "a.jsonl", TALK, value))
    (issue,) = issues(report)
    assert issue.kinds == ("wrong_shape",)
    assert name in issue.detail
    assert "repaired file" in issue.remedy
    fixed, done = repair(json.dumps(value).encode(), "chat")
    assert json.loads(fixed) == ours
    assert done == ["written as messages"]
    bare, _ = repair(json.dumps(value).encode(), "nanochat-custom")
    assert (bare is None) == (ours["messages"][0] == SYSTEM)
    assert bare is None or json.loads(bare) == ours["messages"]
    assert export_file(report, "repaired", tmp_path / "b.jsonl").lines == 2
    assert len(ConversationFile(tmp_path / "b.jsonl", every=0)) == 2


@pytest.mark.parametrize("value", NO_SHAPE)
def test_what_is_no_known_shape_is_not_guessed(tmp_path, value):
    line = json.dumps(value).encode()
    assert repair(line, "chat") == (None, [])
    (issue,) = issues(look(lines_file(tmp_path / "a.jsonl", TALK, value)))
    assert issue.detail == "it is not a list of messages"


BAD = [
    ({"prompt": "Hi", "response": " "}, {"empty_content"}),
    ({"conversations": [{"from": "human", "value": 1}, TURNS[1]]}, {"content_wrong_type"}),
    ({"conversations": TURNS[1:]}, {"starts_with_assistant"}),
]


@pytest.mark.parametrize(("value", "kinds"), BAD)
def test_what_is_wrong_inside_another_shape_is_named_and_not_promised_to_be_repaired(tmp_path, value, kinds):
    assert repair(json.dumps(value).encode(), "chat") == (None, [])
    (issue,) = issues(look(lines_file(tmp_path / "a.jsonl", TALK, value)))
    assert set(issue.kinds) == {"wrong_shape", *kinds}
    assert "repaired" not in issue.remedy


def test_half_a_character_is_repaired_in_any_shape():
    fixed, done = repair(b'{"prompt":"Hi\\ud83d","completion":"Ho."}', "chat")
    assert json.loads(fixed) == {"messages": TALK}
    assert done == ["written as messages", "half a character removed"]


def test_a_repaired_line_is_never_too_long_to_train_on(monkeypatch):
    monkeypatch.setattr(importlib.import_module(repair.__module__), "MAX_LINE_BYTES", 120)
    assert repair(b'{"prompt":"Hi","completion":"Ho."}', "chat")[0] is not None
    assert repair(json.dumps({"prompt": "Hi", "completion": "Ho " * 30}).encode(), "chat") == (None, [])


def test_lines_with_a_secret_are_left_out_on_request(tmp_path):
    key = "sk-" + "a1B2" * 12
    path = lines_file(tmp_path / "a.jsonl", TALK, talk("key?", key), {"prompt": "key?", "completion": key}, TALK)
    report = look(path)
    for drop, wanted in ((Drop(), (3, 1, 4)), (Drop(secrets=True), (2, 2, 2)), (Drop(True, True), (1, 3, 1))):
        done = {part: export_file(report, part, tmp_path / part, drop=drop).lines for part in PARTS}
        assert tuple(done.values()) == wanted
        assert (key.encode() in (tmp_path / "repaired").read_bytes()) is not drop.secrets
        assert (tmp_path / "rejected").read_bytes().count(key.encode()) == (2 if drop.secrets else 1)


def test_what_is_kept_is_named_by_its_content(tmp_path):
    report = look(lines_file(tmp_path / "a.jsonl", TALK, b"{\n"))
    kept = keep(report, "clean", tmp_path / "kept")
    assert kept == keep(report, "clean", tmp_path / "kept"), "the same lines are one file"
    assert re.fullmatch(r"a-clean-[0-9a-f]{8}\.jsonl", kept.name)
    kept.write_text("damaged\n")
    keep(report, "clean", tmp_path / "kept")
    assert [json.loads(line) for line in kept.read_bytes().splitlines()] == [TALK]
    (tmp_path / "file").touch()
    with pytest.raises(InspectorError, match="no file can be put there"):
        keep(report, "clean", tmp_path / "file")
    with pytest.raises(InspectorError, match="no line is clean"):
        keep(look(lines_file(tmp_path / "b.jsonl", b"{\n")), "clean", tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_the_page_keeps_lines_and_leads_to_a_training(tmp_path):
    path = lines_file(tmp_path / "a.jsonl", {"prompt": "Hi", "completion": "Ho."}, TALK, TALK)
    page = page_support.opened("dataset_inspector", {}, {"dataset_inspector_path": str(path)})
    assert "**2 lines.** Every line that can be trained on" in words(page)
    assert "**1 line.** All others, byte for byte: lines with an error, and those" in words(page)
    assert "**3 lines.** The clean lines, and those" in words(page)
    assert "Lines are in the shape of another project." in words(page)
    page.button(key="dataset_inspector_keep_repaired").click().run()
    assert not page.exception
    (kept,) = (paths.workspace() / "uploads").iterdir()
    assert len(ConversationFile(kept, every=0)) == 3
    page.button(key="dataset_inspector_inspect_repaired").click().run()
    assert page.text_input(key="dataset_inspector_path").value == str(kept)
    assert {one.label: one.value for one in page.metric}["Conversations"] == "3"
    page.toggle(key="dataset_inspector_drop").set_value(True).run()
    assert "**2 lines.** Every line that can be trained on, byte for byte, but for repetitions." in words(page)
    assert "**1 line.** All others, byte for byte: repetitions, lines with an error" in words(page)


def test_a_secret_is_named_by_its_line_and_left_out_on_request(tmp_path):
    path = lines_file(tmp_path / "a.jsonl", TALK, talk("key?", "sk-" + "a1B2" * 12))
    page = page_support.opened("dataset_inspector", {}, {"dataset_inspector_path": str(path)})
    assert "the first in line 2" in words(page)
    assert "The tab Files can leave those lines out." in words(page)
    page.toggle(key="dataset_inspector_drop_secrets").set_value(True).run()
    assert "--drop-secrets" in words(page)
    assert "**1 line.** Every line that can be trained on" in words(page)


def test_one_long_conversation_is_named_where_it_decides_the_length(tmp_path):
    long = talk("hug " * 300, "pug " * 400)
    report = look(lines_file(tmp_path / "a.jsonl", *[TALK] * 30, long), tokens=True)
    assert report.tokens.recommended > 256
    assert report.tokens.reason.endswith(". Without the longest conversation, 256 would do")
    alone = look(lines_file(tmp_path / "c.jsonl", TALK, long), tokens=True)
    assert "Without" not in alone.tokens.reason, "it is half of the data"
    alike = look(lines_file(tmp_path / "b.jsonl", *[long] * 30), tokens=True)
    assert "Without" not in alike.tokens.reason
