"""The conversation builder's analysis: making, files that lose nothing, the mask, what a cut loses, a token's loss."""

import errno
import gzip
import json
import math
import os
import threading

import pytest
import torch

from nanochat.analysis import conversation_template_builder as builder
from nanochat.analysis.conversation_template_builder import BuilderError, files
from nanochat.checkpoint_manager import load_model
from nanochat.conversation import check, render
from nanochat.gpt_config import GPTConfig
from nanochat.tasks.conversation_file import ConversationFile
from nanochat.tokenizer import train_tokenizer
from nanochat.tools.conversation_template_builder import main
from tests.checkpoint_support import save_checkpoint
from tests.variants import random_weights

TOKENIZER = train_tokenizer(["what is two and two? it is four. let me calculate 12*12"] * 4, 300)
TOOL = builder.tool("What is 12*12?", "12*12", "144", "It is 144.", before="Let me see. ")
HOSTILE = "<script>alert(1)</script>\u202e\x1b[31m <|assistant_end|>"


def test_what_is_made_is_valid_and_listed():
    assert check(builder.simple("a", "b")) == []
    assert check(builder.multi(["a", "b", "c", "d"], system="s")) == []
    assert check(TOOL) == []
    turns = [(turn.message, turn.role, turn.part, turn.text) for turn in builder.structure(TOOL)]
    assert turns == [
        (0, "user", None, "What is 12*12?"),
        (1, "assistant", "text", "Let me see. "),
        (1, "assistant", "python", "12*12"),
        (1, "assistant", "python_output", "144"),
        (1, "assistant", "text", "It is 144."),
    ]
    with pytest.raises(BuilderError, match="at least one message"):
        builder.multi([])


@pytest.mark.parametrize("value", [None, 3, "x", [], {}, {"messages": 3}, [1, None], [{"role": 3, "content": 4}]])
def test_structure_takes_anything(value):
    assert all(turn.text == str(turn.text) for turn in builder.structure(value))


@pytest.mark.parametrize("value", [builder.simple("a", HOSTILE), TOOL, [{"role": "user", "content": "日本"}]])
def test_a_saved_conversation_comes_back(tmp_path, value):
    path = builder.save(tmp_path / "new folder" / "c.json", value)
    assert builder.load(path) == value
    with pytest.raises(BuilderError, match="is there already"):
        builder.save(path, value)
    builder.save(path, builder.simple("x", "y"), overwrite=True)
    assert builder.load(path) == builder.simple("x", "y")
    assert [entry.name for entry in path.parent.iterdir()] == ["c.json"]


def test_what_no_file_can_hold_is_refused_before_anything_is_written(tmp_path):
    for value, words in ((builder.simple("a", "\ud800"), "half a character"), ({"messages": float("nan")}, "JSON")):
        with pytest.raises(BuilderError, match=words):
            builder.save(tmp_path / "c.json", value)
    assert list(tmp_path.iterdir()) == []


def test_appending_makes_a_dataset_that_training_reads(tmp_path):
    path = tmp_path / "chats.jsonl"
    assert [builder.append(path, builder.simple(f"q {i}", HOSTILE)) for i in range(3)] == [1, 2, 3]
    found = ConversationFile(path, every=0)
    assert [found[i]["messages"][0]["content"] for i in range(len(found))] == ["q 0", "q 1", "q 2"]
    assert builder.load(path, 2) == builder.simple("q 1", HOSTILE)
    assert builder.append(path, TOOL) == 4
    assert json.loads(builder.as_line(TOOL, "nanochat-custom")) == TOOL["messages"]


def test_a_last_line_without_its_line_break_gets_one(tmp_path):
    path = tmp_path / "chats.jsonl"
    path.write_text(builder.as_line(builder.simple("a", "b")).rstrip())
    assert builder.append(path, builder.simple("c", "d")) == 2
    assert [builder.load(path, i)["messages"][0]["content"] for i in (1, 2)] == ["a", "c"]


def test_a_half_written_last_line_is_left_alone(tmp_path):
    path = tmp_path / "chats.jsonl"
    before = builder.as_line(builder.simple("a", "b")).encode() + b'{"messages": [{"ro'
    path.write_bytes(before)
    with pytest.raises(BuilderError, match="line 2, the last, is half written"):
        builder.append(path, builder.simple("c", "d"))
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (builder.simple("a", " "), r"message 2: the content is empty \(empty_content\)"),
        (builder.multi(["a"]), "the last message has no reply"),
        ({"messages": []}, "too few messages|0 messages"),
    ],
)
def test_only_what_is_fit_for_training_is_added(tmp_path, value, words):
    with pytest.raises(BuilderError, match=words):
        builder.append(tmp_path / "chats.jsonl", value)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_the_dataset_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "chats.jsonl"
    builder.append(path, builder.simple("a", "b"))
    before = path.read_bytes()
    real, written = os.write, []

    def full(descriptor: int, data: bytes) -> int:
        if written:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(real(descriptor, data[:20]))
        return written[0]

    monkeypatch.setattr(files.os, "write", full)
    with pytest.raises(BuilderError, match=r"No space left on device.*untouched"):
        builder.append(path, builder.simple("c", "d" * 100))
    monkeypatch.undo()
    assert written == [20]
    assert path.read_bytes() == before


def test_two_writers_lose_no_line(tmp_path):
    path = tmp_path / "chats.jsonl"

    def write(name: str) -> None:
        for i in range(20):
            builder.append(path, builder.simple(f"{name} {i}", "ok"))

    threads = [threading.Thread(target=write, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ConversationFile(path, every=0)) == 40


@pytest.mark.parametrize(
    ("content", "line", "words"),
    [
        (b"", None, "is empty"),
        (b'{"messages": [', None, "not JSON .* in line 1, column"),
        (b'"a"\n"b"\n', None, "one conversation a line: name one with --line"),
        (b'{"a": "\xff"}', None, "byte 8 is not UTF-8"),
        (b"[" * 100_000, None, "JSON of no conversation"),
        (b'{"a": NaN}', None, "NaN is no JSON"),
        (b"1" * 5000, None, "JSON of no conversation"),
        (b'"a"\n', 2, "has 1 lines, so there is no line 2"),
        (b'"a"\n', 0, "lines are counted from 1"),
    ],
)
def test_bad_files_are_one_sentence(tmp_path, content, line, words):
    path = tmp_path / "c.json"
    path.write_bytes(content)
    with pytest.raises(BuilderError, match=words) as caught:
        builder.load(path, line)
    assert "\n" not in str(caught.value)


def test_a_bom_a_pipe_and_a_folder(tmp_path):
    (tmp_path / "bom.json").write_bytes(b"\xef\xbb\xbf[]")
    assert builder.load(tmp_path / "bom.json") == []
    os.mkfifo(tmp_path / "pipe.jsonl")
    with pytest.raises(BuilderError, match="FIFO"):
        builder.load(tmp_path / "pipe.jsonl")
    with pytest.raises(BuilderError, match="not a regular file"):
        builder.append(tmp_path / "pipe.jsonl", TOOL)
    with pytest.raises(BuilderError, match="cannot be written"):
        builder.append(tmp_path / "bom.json" / "x.jsonl", TOOL)


@pytest.mark.parametrize("value", [builder.simple("a", HOSTILE), TOOL, builder.multi(["a", "b", "c", "d"], "be kind")])
def test_the_frame_is_the_rendering(value):
    report = builder.supervision(TOKENIZER, value, 20)
    rendered = render(TOKENIZER, value, None)
    assert report.ids == rendered.ids
    assert report.frame["supervised"].cast(int).to_list() == rendered.mask
    cut = render(TOKENIZER, value, 20)
    assert (report.cut, report.cut_supervised) == (cut.dropped, cut.dropped_supervised)
    assert report.supervised + report.unsupervised == report.tokens
    specials = report.frame.filter(report.frame["special"])
    assert all(TOKENIZER.encode_special(name) == number for number, name in specials.select("id", "text").iter_rows())
    assert report.frame.filter(~report.frame["special"])["id"].max() < len(TOKENIZER.vocabulary.tokens)


def test_parts_and_roles_are_named():
    rows = builder.supervision(TOKENIZER, TOOL).frame.to_dicts()
    output = [row for row in rows if row["part"] == "python_output"]
    assert output[0]["text"] == "<|output_start|>"
    assert output[-1]["text"] == "<|output_end|>"
    assert not any(row["supervised"] for row in output)
    assert rows[0]["role"] == ""
    assert rows[-1]["role"] == "assistant"
    assert rows[-1]["supervised"], "the model learns to stop"


def test_what_predicts_what():
    report = builder.supervision(TOKENIZER, builder.simple("what is", "four"))
    frame = builder.shifted(report)
    assert frame["input_id"].to_list() == report.ids[:-1]
    assert frame["target_id"].to_list() == report.ids[1:]
    assert frame["counts"].to_list() == report.frame["supervised"].to_list()[1:]
    first = frame.filter(frame["counts"]).row(0, named=True)
    assert first["input"] == "<|assistant_start|>"


def test_alarms():
    assert builder.supervision(TOKENIZER, builder.simple("a", "b")).alarm is None
    assert builder.supervision(TOKENIZER, builder.multi(["a"])).alarm.startswith(
        "0 % supervised: a model learns nothing"
    )
    cut = builder.supervision(TOKENIZER, builder.simple("what is two " * 20, "four"), 30)
    assert cut.alarm.startswith("0 % supervised after the cut to 30 tokens")


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    config = GPTConfig(
        sequence_len=48, vocab_size=TOKENIZER.get_vocab_size(), n_layer=2, n_head=2, n_kv_head=1, n_embd=32
    )
    folder = tmp_path_factory.mktemp("loss") / "chatsft_checkpoints" / "d2"
    meta = {"step": 5, "model_config": config.upstream()}
    save_checkpoint(folder, 5, random_weights(config, 1), None, meta, tokenizer=TOKENIZER, config=config)
    return folder


def test_losses_are_the_models_cross_entropy(run_folder):
    loaded = load_model(run_folder)
    value = builder.simple("what is", "it is four.")
    losses = builder.token_losses(loaded, value)
    report = builder.supervision(loaded.tokenizer, value)
    ids = torch.tensor([report.ids])
    mask = torch.tensor(report.frame["supervised"].to_list())[1:]
    targets = torch.where(mask, ids[0, 1:], -1)[None]
    with torch.inference_mode():
        expected = loaded.model(ids[:, :-1], targets).item()
    assert losses.supervised_loss == pytest.approx(expected, abs=1e-4)
    assert losses.frame["loss"][0] is None
    row = losses.frame.row(3, named=True)
    assert row["probability"] == pytest.approx(math.exp(-row["loss"]))
    assert row["likeliest_probability"] >= row["probability"] - 1e-6
    assert losses.chance == pytest.approx(math.log(TOKENIZER.get_vocab_size()))
    assert losses.beyond == 0


def test_what_lies_beyond_the_models_context_has_no_loss(run_folder):
    losses = builder.token_losses(load_model(run_folder), builder.simple("what is two " * 30, "four"))
    assert losses.frame.height == losses.context == 48
    assert losses.beyond == losses.rendered.tokens - 48
    assert losses.supervised_loss is None


def test_a_batch_says_every_bad_line(tmp_path):
    path = tmp_path / "data.jsonl"
    good = builder.as_line(builder.simple("a", "b"))
    path.write_text(good + '{"messages": []}\n' + "not json\n" + builder.as_line(builder.multi(["a"])) + good[:-1])
    report = builder.batch_validate(path)
    assert (report.total, report.valid, report.invalid) == (5, 3, 2)
    assert [issue["line"] for issue in report.issues if issue["severity"] == "error"] == [2, 3]
    assert json.loads(json.dumps(report.as_json()))["kinds"]["invalid_json"] == 1


def test_a_tokenizer_without_roles_is_not_taken_unasked(monkeypatch, tmp_path):
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    tokenizer, label = builder.chat_tokenizer()
    assert tokenizer.get_vocab_size() == 1024
    assert "stories" in label


def test_what_is_added_twice_is_said(tmp_path):
    path = tmp_path / "chats.jsonl"
    one, two = builder.simple("Hi", "Ho."), builder.simple("Hi", "Hey.")
    said = [builder.append_and_tell(path, value) for value in (one, two, one)]
    assert said[:2] == [f"Added to {path} as line {number}" for number in (1, 2)]
    assert said[2] == f"Added to {path} as line 3; line 1 is the same conversation, which then counts twice"


PACKED = gzip.compress(b'{"messages": []}\n', mtime=0)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("chats.jsonl.gz", PACKED, "no file of lines, by its name"),
        ("chats.jsonl", PACKED + b"\n", "its first line is no conversation"),
        ("chats.json", json.dumps([{"messages": []}], indent=2).encode(), "its first line is no conversation"),
        ("chats.json", json.dumps([{"messages": []}]).encode(), "its first line is no conversation"),
        ("notes.txt", b"my notes\n", "its first line is no conversation"),
    ],
)
def test_a_file_without_lines_of_conversations_is_not_added_to(tmp_path, name, content, words):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(BuilderError, match=words):
        builder.append(path, builder.simple("a", "b"))
    assert path.read_bytes() == content


def test_a_dataset_is_not_replaced_by_one_of_its_lines_nor_by_its_report(tmp_path):
    path = tmp_path / "chats.jsonl"
    for number in range(3):
        builder.append(path, builder.simple(f"Question {number}", "b"))
    before = path.read_bytes()
    for arguments in (["--load", str(path)], ["--batch-validate", str(path)]):
        with pytest.raises(BuilderError, match="is the dataset itself"):
            main([*arguments, "-o", str(path), "--force"])
        assert path.read_bytes() == before
