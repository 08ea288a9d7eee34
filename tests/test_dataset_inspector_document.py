"""One JSON document instead of lines: whatever its indentation, the checks see what they would see in a JSONL file."""

import gzip
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat.analysis.dataset_inspector import InspectorError, export_file, issues, upload_source
from nanochat.analysis.dataset_inspector.sources import find_sources
from nanochat.json_document import is_document
from nanochat.tasks import TaskError
from nanochat.tasks.conversation_file import ConversationFile
from tests.dataset_inspector_support import look, talk

CHATS = [{"messages": talk(f"Question {number}", "one\ntwo")} for number in range(5)]
LAYOUTS = {
    "indented": json.dumps(CHATS, indent=2),
    "tabs": json.dumps(CHATS, indent="\t"),
    "one line": json.dumps(CHATS),
    "a line each": "[\n" + ",\n".join(map(json.dumps, CHATS)) + "\n]\n",
    "commas at line ends": "[" + ",\n".join(map(json.dumps, CHATS)) + "]",
    "messages not first": json.dumps([{"id": number, **chat} for number, chat in enumerate(CHATS)]),
    "a blank line within": json.dumps(CHATS, indent=2).replace("[", "[\n", 1),
    "windows": json.dumps(CHATS, indent=2).replace("\n", "\r\n"),
    "bare lists": json.dumps([chat["messages"] for chat in CHATS]),
    "bare lists, indented": json.dumps([chat["messages"] for chat in CHATS], indent=1),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_list_of_conversations_is_read_in_every_layout(tmp_path, layout):
    path, clean = tmp_path / "chats.json", tmp_path / "clean.jsonl"
    path.write_text(LAYOUTS[layout], newline="")
    report = look(path)
    assert (report.conversations, report.error_lines, report.lines) == (5, 0, 5)
    assert any("one JSON document" in note for note in report.notes)
    export_file(report, "clean", clean)
    values = [json.loads(line) for line in clean.read_text().splitlines()]
    assert [value if isinstance(value, list) else value["messages"] for value in values] == [
        chat["messages"] for chat in CHATS
    ]


@pytest.mark.parametrize("layout", ["indented", "one line"])
def test_a_packed_document_is_one_too(tmp_path, layout):
    path = tmp_path / "chats.json.gz"
    path.write_bytes(gzip.compress(LAYOUTS[layout].encode(), mtime=0))
    assert (look(path).conversations, look(path).error_lines) == (5, 0)


def test_training_says_what_it_is_and_how_lines_are_made_of_it(tmp_path):
    path = tmp_path / "chats.json"
    for text in (LAYOUTS["indented"], LAYOUTS["one line"]):
        path.write_text(text)
        with pytest.raises(TaskError, match="one JSON document and not one conversation a line"):
            ConversationFile(path)


@pytest.mark.parametrize("value", [CHATS[0], CHATS[0]["messages"]])
@pytest.mark.parametrize("blank", ["", "\n"])
def test_one_saved_conversation_is_one(tmp_path, value, blank):
    path = tmp_path / "conversation.json"
    text = json.dumps(value, indent=2)
    path.write_text(text[0] + blank + text[1:])
    assert (look(path).conversations, look(path).error_lines) == (1, 0)


def test_what_is_wrong_in_it_is_named_by_its_conversation(tmp_path):
    """Also what a JSON reader would hide: a key that stands twice, half a character, NaN."""
    path = tmp_path / "chats.json"
    half = json.dumps({"messages": talk("x\ud800")})
    twice = '{"messages": [], "messages": ' + json.dumps(talk()) + "}"
    path.write_text(f'[\n{json.dumps(CHATS[0])},\n{twice}, {half},\n{{"messages": [], "score": NaN}}]')
    found = {one.line: set(one.kinds) for one in issues(look(path))}
    assert found == {2: {"dup_key"}, 3: {"lone_surrogate"}, 4: {"no_messages", "nan"}}


def test_a_list_in_another_projects_shape_is_repaired(tmp_path):
    path, repaired = tmp_path / "alpaca.json", tmp_path / "repaired.jsonl"
    path.write_text(json.dumps([{"instruction": "Add", "input": "1 2", "output": "3"}] * 3, indent=4))
    report = look(path)
    assert report.kind_counts == {"wrong_shape": 3}
    assert export_file(report, "repaired", repaired).lines == 3


BROKEN = ['[\n  {"messages": [\n', '[\n{"messages": 1}\n] and more', "[\n" * 100_000, "[\n1 2]"]


@pytest.mark.parametrize("text", [*BROKEN, '[\n{"n": ' + "9" * 5_000 + "}]"])
def test_a_broken_document_is_one_sentence(tmp_path, text):
    path = tmp_path / "chats.json"
    path.write_text(text)
    with pytest.raises(InspectorError, match="one JSON document and not one conversation a line") as caught:
        look(path)
    assert "\n" not in str(caught.value)


def test_an_upload_is_a_document_as_well(tmp_path):
    path = tmp_path / "chats.json"
    path.write_text(LAYOUTS["indented"])
    with path.open("rb") as file:
        assert upload_source("chats.json", file).form == find_sources([path])[0].form == "document"


@given(st.lists(st.sampled_from(CHATS + [chat["messages"] for chat in CHATS]), min_size=1, max_size=4), st.booleans())
def test_lines_are_never_taken_for_a_document(values, cut_off):
    """Not even where the first one broke off."""
    lines = [json.dumps(value) for value in values]
    if cut_off:
        lines.insert(0, lines[0][: len(lines[0]) // 2])
    assert not is_document("\n".join(lines).encode())
