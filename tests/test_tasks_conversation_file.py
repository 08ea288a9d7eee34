"""Conversations from JSONL: both of nanochat's shapes, and a bad line named by its number."""

import json
from pathlib import Path

import pytest

from nanochat.tasks import TaskError
from nanochat.tasks.conversation_file import ConversationFile
from tests.support import fixture_dirs, needs_fixtures


def pair(question: str, answer: str = "Yes.") -> list[dict]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def write(path: Path, lines: list[object]) -> Path:
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    return path


def test_both_shapes_in_one_file(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [pair("One?"), {"messages": pair("Two?")}, "", pair("Three?")])
    task = ConversationFile(path, every=0)
    assert [conversation["messages"] for conversation in task] == [pair("One?"), pair("Two?"), pair("Three?")]  # type: ignore[attr-defined]
    assert (task.name, task.skipped) == ("a", 1)
    assert task.judge(task[0], " yes ")
    assert not task.judge(task[0], "no")


def test_splits_share_no_question_and_lose_none(tmp_path: Path) -> None:
    lines = [pair(f"Question {number % 100}?", f"Answer {number}.") for number in range(300)]
    path = write(tmp_path / "a.jsonl", lines)
    sides = {}
    for split in ("train", "val"):
        task = ConversationFile(path, split)
        sides[split] = {json.dumps(task[index]["messages"]) for index in range(len(task))}
    asked = {split: {json.loads(line)[0]["content"] for line in side} for split, side in sides.items()}
    assert asked["train"].isdisjoint(asked["val"])
    assert sides["train"] | sides["val"] == {json.dumps(line) for line in lines}
    assert 3 <= len(asked["val"]) <= 25


BAD = [
    ("{", "not JSON"),
    ("[1]", "not an object"),
    (json.dumps([{"role": "user", "content": "x"}]), "ends_with_user"),
    (json.dumps(pair("x", "")), "empty_content"),
    (json.dumps([{"role": "assistant", "content": "x"}]), "starts_with_assistant"),
    (json.dumps({"text": "x"}), "wrong_shape"),
    ("[" * 100_000, "JSON"),
    ('[{"role": "user", "content": 1' + "0" * 5000 + "}]", "JSON"),
    ('[{"role": "user", "content": "x"}, {"role": "assistant", "content": "\\ud800"}]', "lone_surrogate"),
]


@pytest.mark.parametrize(("line", "words"), BAD)
def test_a_bad_line_is_named_by_its_number(tmp_path: Path, line: str, words: str) -> None:
    path = write(tmp_path / "a.jsonl", [pair("One?"), "", line])
    with pytest.raises(TaskError) as caught:
        ConversationFile(path)
    assert "a.jsonl, line 3: " in str(caught.value)
    assert words in str(caught.value)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400 + len(str(path))


def test_bytes_that_are_no_text_are_named_by_their_place(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(json.dumps(pair("One?")).encode() + b"\n[\xff]\n")
    with pytest.raises(TaskError, match="line 2: byte 2 is not UTF-8"):
        ConversationFile(path)


def test_the_profile_of_nanochats_own_loader_is_stricter(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [pair("One?"), {"messages": pair("Two?")}])
    assert len(ConversationFile(path, every=0)) == 2
    with pytest.raises(TaskError, match=r"line 2: .*bare list"):
        ConversationFile(path, profile="nanochat-custom")


def test_windows_line_ends_and_a_mark_at_the_start_are_no_fault(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(pair("One?")).encode() + b"\r\n" + json.dumps(pair("Two?")).encode())
    assert [c["messages"] for c in ConversationFile(path, every=0)] == [pair("One?"), pair("Two?")]  # type: ignore[attr-defined]


def test_a_file_without_line_ends_is_not_read_into_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nanochat.tasks.conversation_file.MAX_LINE_BYTES", 1000)
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"x" * 5000)
    with pytest.raises(TaskError, match="line 1: it is longer"):
        ConversationFile(path)


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "no.jsonl"):
        with pytest.raises(TaskError, match="cannot be read"):
            ConversationFile(path)
    path = write(tmp_path / "a.jsonl", [pair("One?")])
    for options in ({"profile": "x"}, {"split": "x"}, {"every": -1}):
        with pytest.raises(TaskError):
            ConversationFile(path, **options)  # type: ignore[arg-type]
    task = ConversationFile(path, every=0)
    path.write_text("{" * 100)
    with pytest.raises(TaskError, match="changed while it was in use"):
        task[0]


def test_another_content_is_another_identity(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [pair("One?")])
    before = ConversationFile(path).identity
    assert ConversationFile(path).identity == before
    write(path, [pair("One!")])
    assert ConversationFile(path).identity != before


@needs_fixtures
def test_nanochats_own_identity_files_open() -> None:
    files = [path for base in fixture_dirs() if (path := base / "identity_conversations.jsonl").is_file()]
    assert files
    for path in files:
        task = ConversationFile(path, profile="nanochat-custom")
        assert len(task) + len(ConversationFile(path, "val", profile="nanochat-custom")) > 10
        assert task[0]["messages"][0]["role"] == "user"
