"""Text files and JSON lines: which documents they hold, read from any stretch, and every way they can be broken."""

import json
import re
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat import dataset_text
from nanochat.dataset import open_dataset
from nanochat.dataset_text import TextSplit, conversation_text, form_of, stretches
from tests.dataset_support import all_texts, refusal


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def documents_of(path, form=None):
    return all_texts(TextSplit(stretches(path), form or form_of(path)))


PARAGRAPHS = "First\nof two lines.\n\nSecond.\n\n\n  \nThird,\r\nwith Windows line ends.\r\n\r\nFourth"


def test_a_blank_line_ends_a_document(tmp_path):
    path = write(tmp_path / "a.txt", PARAGRAPHS)
    assert documents_of(path) == ["First\nof two lines.", "Second.", "Third,\nwith Windows line ends.", "Fourth"]


def test_without_a_blank_line_each_line_is_a_document(tmp_path):
    assert documents_of(write(tmp_path / "a.txt", "emma\nolivia\nava")) == ["emma", "olivia", "ava"]


def test_endoftext_ends_a_document_where_it_is_used(tmp_path):
    text = "Once.\n\nThen.\n<|endoftext|>\nTwice.\n<|endoftext|>\n"
    assert documents_of(write(tmp_path / "a.txt", text)) == ["Once.\n\nThen.", "Twice."]


def test_a_folder_of_texts_has_a_document_a_file(tmp_path):
    for number in range(40):
        write(tmp_path / f"{number:02d}.txt", f"Essay {number}.\n\nIt goes on.\n")
    dataset = open_dataset(tmp_path)
    assert all_texts(dataset.train) == [f"Essay {number}.\n\nIt goes on." for number in range(38)]
    assert len(all_texts(dataset.val)) == 2
    assert "each file is a document" in dataset.notes


def test_a_long_file_of_a_folder_becomes_several_documents_at_line_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(dataset_text, "STRETCH", 1000)
    lines = [f"line {number}" for number in range(500)]
    write(tmp_path / "a.txt", "\n".join(lines))
    write(tmp_path / "b.txt", "short")
    train = all_texts(open_dataset(tmp_path).train)
    assert 4 <= len(train) <= 6
    assert "\n".join(train).split("\n") == lines


def test_files_named_for_validation_validate(tmp_path):
    write(tmp_path / "TinyStories-train.txt", "One.\n\nTwo.\n<|endoftext|>\nThree.\n<|endoftext|>\n")
    write(tmp_path / "TinyStories-valid.txt", "Four.\n<|endoftext|>\n")
    dataset = open_dataset(tmp_path)
    assert (all_texts(dataset.train), all_texts(dataset.val)) == (["One.\n\nTwo.", "Three."], ["Four."])
    for name, text in (("dev", "d"), ("train", "t"), ("x", "x")):
        write(tmp_path / f"{name}.jsonl", json.dumps({"text": text}))
    dataset = open_dataset(tmp_path)  # JSON lines come before plain text in a mixed folder
    assert (all_texts(dataset.train), all_texts(dataset.val)) == (["t", "x"], ["d"])
    assert any("TinyStories" in note for note in dataset.notes)


def test_the_last_file_of_json_lines_validates(tmp_path):
    for name in "abc":
        write(tmp_path / f"{name}.jsonl", f'{{"text": "{name}"}}\n' * 3)
    dataset = open_dataset(tmp_path)
    assert (all_texts(dataset.train), all_texts(dataset.val)) == (["a"] * 3 + ["b"] * 3, ["c"] * 3)


@pytest.mark.parametrize("count", [2, 3, 10, 1000])
def test_the_end_of_one_file_validates(tmp_path, count):
    texts = [f"document {number}" for number in range(count)]
    for name, content in (
        ("a.txt", "\n\n".join(texts)),
        ("a.jsonl", "\n".join(json.dumps({"text": t}) for t in texts)),
    ):
        dataset = open_dataset(write(tmp_path / name, content))
        train, val = all_texts(dataset.train), all_texts(dataset.val)
        assert train + val == texts
        assert train
        assert val
        assert len(val) <= max(count / 2, 1)
        assert dataset.notes[-1].startswith(f"{len(train):,} documents train, {len(val):,} validate")


def test_a_single_document_is_read_by_both_and_said(tmp_path):
    dataset = open_dataset(write(tmp_path / "a.txt", "only one"))
    assert all_texts(dataset.train) == all_texts(dataset.val) == ["only one"]
    assert any("both parts read it" in note for note in dataset.notes)


blocks = st.lists(st.text(alphabet="ab \n\ré", max_size=12), max_size=12)


@settings(max_examples=200, deadline=None)
@given(blocks, st.integers(1, 30), st.sampled_from(["lines", "paragraphs"]))
def test_every_document_is_in_exactly_one_stretch(tmp_path_factory, parts, stretch, form):
    """However a file is divided, its stretches give the documents of the whole, in order."""
    text = "\n\n".join(parts) if form == "paragraphs" else "\n".join(part.replace("\n", " ") for part in parts)
    path = write(tmp_path_factory.mktemp("text") / "a.txt", text)
    unix = text.encode().decode().split("\n")
    if form == "lines":
        expected = [line.removesuffix("\r").strip("\n") for line in unix]
    else:
        expected = [block.replace("\r\n", "\n").strip("\n") for block in re.split(r"(?:^|\n)(?:[ \r]*(?:\n|$))+", text)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dataset_text, "STRETCH", stretch)
        found = documents_of(path, form)
    assert [t.strip() for t in found] == [t.strip() for t in expected if t.strip()]


def test_json_lines_hold_texts_and_conversations(tmp_path):
    chat = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]
    lines = ['{"text": "plain"}', "", json.dumps(chat), json.dumps({"messages": chat}), '{"text": "\\u00e9\\ud800"}']
    path = write(tmp_path / "a.jsonl", b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    rendered = "User: Hi\n\nAssistant: Hello."
    assert documents_of(path) == ["plain", rendered, rendered, "é\ud800"]


def test_a_conversation_as_text():
    messages = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "3 * 4?"},
        {
            "role": "assistant",
            "content": [
                {"type": "text", "text": "It is "},
                {"type": "python", "text": "3 * 4"},
                {"type": "python_output", "text": "12"},
            ],
        },
    ]
    assert conversation_text(messages) == "User: Be kind.\n\n3 * 4?\n\nAssistant: It is `3 * 4` -> 12"


def test_empty_documents_are_left_out_and_counted_once(tmp_path):
    path = write(tmp_path / "a.jsonl", '{"text": "a"}\n{"text": " "}\n{"text": ""}\n' * 4 + '{"text": "b"}\n' * 9)
    dataset = open_dataset(path)
    assert len(all_texts(dataset.train)) + len(all_texts(dataset.val)) == 13
    assert dataset.notes[-1] == "training: 8 empty documents were left out"


BROKEN = {
    "not json": (b'{"text": "a"}\n{"text": \n', "line 2 is not JSON"),
    "not UTF-8": (b'{"text": "a"}\n\n{"text": "\xff"}\n', "line 3 is not UTF-8 (byte 0xff)"),
    "NUL": (b'{"text": "a"}\n{"text": "\0"}\n', "line 2 holds a NUL byte"),
    "another shape": (b'{"text": "a"}\n{"body": "b"}\n', 'line 2 has neither "text"'),
    "a number": (b'{"text": 7}\n', "line 1 has neither"),
    "a bare value": (b'"a"\n', "line 1 has neither"),
    "a bad conversation": (b'{"messages": [{"role": "assistant", "content": "x"}]}\n', "line 1: the assistant speaks"),
    "no messages": (b"[]\n", "line 1: there are 0 messages"),
    "deep": (b'{"text": "a"}\n' + b"[" * 200_000 + b"\n", "line 2 is nested too deeply"),
    "a huge number": (b'{"text": "a", "n": ' + b"9" * 5000 + b"}\n", "line 1 holds a number too large"),
    "empty": (b"", "it is empty"),
    "white space": (b" \n\n \n", "nothing but white space"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_line_is_named(tmp_path, case):
    content, words = BROKEN[case]
    refusal(write(tmp_path / "a.jsonl", content), "a.jsonl", words)


def test_a_broken_line_is_found_on_opening_wherever_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr(dataset_text, "STRETCH", 100)
    for broken in (0, 30, 59):
        lines = [b'{"text": "a line"}'] * 60
        lines[broken] = b"{"
        path = write(tmp_path / "a.jsonl", b"\n".join(lines))
        with pytest.raises(Exception, match=f"line {broken + 1} is not JSON"):
            open_dataset(path)


def test_texts_that_are_no_utf8_are_refused(tmp_path):
    refusal(
        write(tmp_path / "a.txt", "Grüße\n\nan alle\n".encode("latin1")), "line 1 is not UTF-8 (byte 0xfc)", "iconv"
    )
    refusal(write(tmp_path / "b.txt", "hello\n\nthere".encode("utf-16")), "UTF-16")
    refusal(write(tmp_path / "c.txt", b"\x7fELF\0\0\n\nabc"), "line 1 holds a NUL byte")
    refusal(write(tmp_path / "d.txt", " \n\n "), "nothing but white space")


@pytest.mark.parametrize("name", ["a.jsonl", "a.txt"])
def test_a_huge_line_takes_bounded_memory(tmp_path, monkeypatch, name):
    monkeypatch.setattr(dataset_text, "MAX_DOCUMENT", 1 << 20)
    path = tmp_path / name
    with open(path, "wb") as file:
        file.write(b"short\n\n" if name == "a.txt" else b'{"text": "short"}\n')
        file.truncate(40 << 20)  # a hole of zero bytes without a line end
    tracemalloc.start()
    refusal(path, "begins at line", "1,048,576")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12 << 20


def test_a_huge_document_of_many_lines_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(dataset_text, "MAX_DOCUMENT", 10_000)
    path = write(tmp_path / "a.txt", "first\n\n" + "a line\n" * 2000 + "\nlast\n")
    refusal(path, "a document that begins at line 3", "10,000")
