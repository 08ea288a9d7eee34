"""Odd names and places: folders in folders, names that are no text, outputs that cannot be or would destroy."""

import os
import stat

import pytest

from nanochat.analysis.dataset_inspector import InspectorError, find_sources
from nanochat.errors import is_message
from nanochat.tools.dataset_inspector import main
from tests.dataset_inspector_support import lines_file, look, talk

SURROGATE = b'{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}],"source":"\\ud800"}\n'


def test_a_folder_stands_for_what_is_below_it_too(tmp_path):
    lines_file(tmp_path / "top.jsonl", talk())
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    (tmp_path / ".cache").mkdir()
    lines_file(deep / "low.jsonl", talk())
    lines_file(tmp_path / ".cache" / "hidden.jsonl", talk())
    (deep / "up").symlink_to(tmp_path)
    assert [source.name.partition("/")[2] for source in find_sources([tmp_path])] == ["a/b/low.jsonl", "top.jsonl"]
    assert look(tmp_path).conversations == 2


def test_half_a_character_in_a_field_or_a_name_spoils_no_report(tmp_path):
    path = tmp_path / "chats.jsonl"
    path.write_bytes(SURROGATE)
    assert look(path, by="source").groups["group"].to_list() == ["?"]
    odd = os.fsencode(tmp_path) + b"/bad\xff.jsonl"
    with open(odd, "wb") as file:
        file.write(SURROGATE)
    assert look(os.fsdecode(odd)).files["group"].to_list() == ["bad?.jsonl"]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\n\n\n", "all lines of these files are blank"),
        ('{"a": 1}\n'.encode("utf-16-le") * 9, "this is UTF-16"),
        ('{"a": 1}\n'.encode("utf-32"), "this is UTF-32"),
    ],
)
def test_a_file_without_a_conversation_is_no_good_one(tmp_path, data, words):
    path = tmp_path / "chats.jsonl"
    path.write_bytes(data)
    with pytest.raises(InspectorError, match=words):
        look(path)


def test_a_comparison_with_a_file_without_words_is_no_all_clear(tmp_path):
    path = lines_file(tmp_path / "chats.jsonl", talk())
    with pytest.raises(InspectorError, match="nothing can overlap"):
        look(path, overlap=lines_file(tmp_path / "numbers.jsonl", 1, 2, 3))


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--issues", ""), "names no file"),
        (("--clean", "/"), "names no file"),
        (("--clean", "folder"), "a folder is there"),
        (("--issues", "pipe"), "a device or a pipe"),
        (("--clean", "same.jsonl", "--rejects", "./same.jsonl"), "--clean and --rejects name this file"),
        (("--clean", "clean.jsonl.gz"), "--clean writes no such file"),
        (("--counts", "counts.csv"), "end its name in .parquet"),
        (("--plot", "lengths.pdf"), "end it in .png or .svg"),
        (("--clean", "missing/clean.jsonl"), "there is no such folder"),
        (("--overlap", "exam.jsonl", "--rejects", "exam.jsonl"), "a file that is read"),
        (("--repaired", "chats.jsonl"), "a file that is read"),
    ],
)
def test_outputs_that_cannot_be_are_refused_before_anything_is_read(tmp_path, monkeypatch, flags, words):
    monkeypatch.chdir(tmp_path)
    lines_file(tmp_path / "chats.jsonl", talk())
    lines_file(tmp_path / "exam.jsonl", {"question": "Who?"})
    (tmp_path / "folder").mkdir()
    os.mkfifo("pipe")
    before = sorted(os.listdir())
    monkeypatch.setattr("nanochat.analysis.dataset_inspector.inspect", lambda *_: pytest.fail("it was read"))
    with pytest.raises(ValueError, match=words) as caught:
        main(["chats.jsonl", "--no-tokenizer", "--samples", "0", *flags])
    assert is_message(caught.value)
    assert sorted(os.listdir()) == before
    assert stat.S_ISFIFO(os.stat("pipe").st_mode)


@pytest.mark.parametrize("flags", [("--seed", "-1"), ("--by", "")])
def test_flags_that_cannot_be_are_an_error_of_use(tmp_path, capsys, flags):
    with pytest.raises(SystemExit) as ended:
        main([str(lines_file(tmp_path / "chats.jsonl", talk())), *flags])
    assert ended.value.code == 2
    assert flags[0] in capsys.readouterr().err
