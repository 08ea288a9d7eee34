"""The conversation builder in a terminal: every command line of the wish runs, and its labels are there."""

import io
import json
import math

import pytest

from nanochat import paths
from nanochat.analysis import conversation_template_builder as builder
from nanochat.gpt_config import GPTConfig
from nanochat.tokenizer import train_tokenizer
from nanochat.tools import conversation_template_builder as tool
from tests import cli_support
from tests.checkpoint_support import save_checkpoint
from tests.variants import random_weights


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "nothing"))
    monkeypatch.chdir(tmp_path)


def run(capsys: pytest.CaptureFixture[str], *flags: object) -> tuple[int, str, str]:
    return cli_support.run("builder", tool.main, capsys, flags)


LABELS = [
    "=" * 100 + "\nCONVERSATION TOKENIZATION\n" + "=" * 100,
    "✓ Conversation is valid\n",
    "Conversation Structure:\n" + "-" * 100,
    "  1. [USER]: What is 2+2?\n  2. [ASSISTANT]: It's 4.\n",
    "Tokenization Statistics:\n" + "-" * 100,
    "(tokens the model learns from)",
    "(prompt/context tokens)",
    "  Supervision ratio:  ",
    "Tokenized Format:\n",
    "<|bos|>|<|user_start|>|",
    "_<|assistant_end|>_",
]


def test_simple_shows_what_the_wish_shows(capsys):
    status, out, _ = run(capsys, "--simple", "What is 2+2?", "It's 4.")
    assert status == 0
    for label in LABELS:
        assert label in out
    tokenizer, _ = builder.chat_tokenizer()
    report = builder.supervision(tokenizer, builder.simple("What is 2+2?", "It's 4."))
    assert f"  Total tokens:       {report.tokens}\n" in out
    assert f"  Supervised tokens:  {report.supervised} (" in out
    assert f"  Unsupervised:       {report.unsupervised} (" in out


def test_validate_and_batch_validate(capsys, tmp_path):
    builder.save("conversation.json", builder.simple("a", "b"))
    status, out, _ = run(capsys, "--validate", "conversation.json")
    assert (status, "✓ Conversation is valid" in out) == (0, True)
    builder.save("bad.json", [{"role": "assistant", "content": ""}])
    status, out, _ = run(capsys, "--validate", "bad.json")
    assert status == 1
    assert "✗ Conversation is NOT valid" in out
    assert "error: message 1: the assistant speaks first (starts_with_assistant)" in out
    builder.append("dataset.jsonl", builder.simple("a", "b"))
    status, out, _ = run(capsys, "--batch-validate", "dataset.jsonl", "--output", "report.json")
    assert status == 0
    assert "Report saved to report.json" in out
    (tmp_path / "dataset.jsonl").write_text("{}\n\nx\n")
    status, out, _ = run(capsys, "--batch-validate", "dataset.jsonl", "--output", "report.json")
    assert status == 1
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["total"], report["valid"], report["invalid"]) == (2, 0, 2)
    assert f"line {report['issues'][0]['line']}, error:" in out


def test_the_interactive_commands_of_the_wish(capsys, monkeypatch, tmp_path):
    typed = [
        "simple", "What is 2+2?", "It's 4.", "show", "tokenize", "save one.json",
        "multi", "a", "b", "c", "d", "", "append chats.jsonl",
        "tool", "What is 12*12?", "12*12", "144", "It is 144.", "append chats.jsonl",
        "load one.json", "load chats.jsonl 2", "tokenize", "validate one.json", "help", "quit",
    ]  # fmt: skip
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(typed) + "\n"))
    status, out, err = run(capsys, "--interactive")
    assert (status, err) == (0, "")
    for command in ("simple", "multi", "tool", "load FILE", "save FILE", "validate FILE", "show", "tokenize"):
        assert f"\n  {command} " in out
    assert builder.load("one.json") == builder.simple("What is 2+2?", "It's 4.")
    assert builder.load("chats.jsonl", 1) == builder.multi(["a", "b", "c", "d"])
    assert "[ASSISTANT python_output]: 144" in out
    assert out.count("CONVERSATION TOKENIZATION") == 2


def test_mistakes_in_interactive_mode_end_nothing(capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("show\nload nothing.json\nsimple\na\nb\nsave\nwhat\n"))
    status, out, err = run(capsys, "-i")
    assert status == 0
    assert "there is no conversation yet" in err
    assert "there is no such file" in err
    assert "save needs the name of a file" in err
    assert out.count("Commands:") == 2


def test_json_holds_all_of_it(capsys):
    status, out, _ = run(capsys, "--tool", "q", "1+1", "2", "It is 2.", "--json", "--shifted", "--max-tokens", "12")
    assert status == 0
    found = json.loads(out)
    tokenizer, label = builder.chat_tokenizer()
    value = builder.tool("q", "1+1", "2", "It is 2.")
    report = builder.supervision(tokenizer, value, 12)
    assert found["conversation"] == value
    assert found["tokenization"]["details"] == report.frame.to_dicts()
    assert found["tokenization"]["tokenizer"] == label
    assert found["tokenization"]["cut_supervised"] == report.cut_supervised > 0
    assert found["tokenization"]["shifted"] == builder.shifted(report).to_dicts()


def test_loss_under_a_run(capsys):
    tokenizer = train_tokenizer(["what is two and two"] * 4, 280)
    config = GPTConfig(
        sequence_len=64, vocab_size=tokenizer.get_vocab_size(), n_layer=2, n_head=2, n_kv_head=1, n_embd=32
    )
    folder = paths.workspace() / "chatsft_checkpoints" / "d2"
    meta = {"step": 5, "model_config": config.upstream()}
    save_checkpoint(folder, 5, random_weights(config, 1), None, meta, tokenizer=tokenizer, config=config)
    status, out, _ = run(capsys, "--simple", "what", "two", "--loss", "sft/d2")
    assert status == 0
    assert "Loss of each token (nats; 0 is certainty):" in out
    assert f"a guess would cost {math.log(tokenizer.get_vocab_size()):.3f}" in out
    status, out, _ = run(capsys, "--simple", "what", "two", "--loss", "sft/d2", "--json")
    assert json.loads(out)["tokenization"]["supervised_loss"] > 0


def test_alarm_and_cut_are_loud(capsys):
    status, out, _ = run(capsys, "--simple", "word " * 100, "four", "--max-tokens", "20", "--shifted")
    assert status == 0
    assert "ALARM: 0 % supervised after the cut to 20 tokens" in out
    assert "What predicts what" in out


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--validate", "gone.json"], "there is no such file"),
        (["--batch-validate", "gone.jsonl"], "gone.jsonl"),
        (["--simple", "a", "b", "--loss", "nothing"], "'nothing' names no run"),
        (["--simple", "a", "b", "--loss", "sft/d4", "--base-dir", "/nonexistent"], "/nonexistent"),
        (["--simple", "a", "b", "--tokenizer", "gpt2"], "tiktoken's cache"),
        (["--simple", "a", "b", "--max-tokens", "0"], "would leave nothing"),
        (["--simple", "a", "", "--append", "x.jsonl"], "was not added to x.jsonl: message 2: the content is empty"),
    ],
)
def test_bad_input_is_one_sentence(capsys, flags, words):
    status, _, err = run(capsys, *flags)
    assert status == 1
    assert words in err
    assert err.count("\n") == 1


def test_no_conversation_is_a_usage_error(capsys):
    with pytest.raises(SystemExit) as caught:
        tool.main([])
    assert caught.value.code == 2


def test_output_replaces_nothing_unasked(capsys):
    flags = ["--simple", "a", "b", "--output", "c.json"]
    assert run(capsys, *flags)[0] == 0
    status, _, err = run(capsys, *flags)
    assert status == 1
    assert "is there already" in err
    assert run(capsys, *flags, "--force")[0] == 0


def test_hostile_text_does_nothing_to_the_terminal(capsys):
    status, out, err = run(capsys, "--simple", "\x1b[2J\u202e[bold]", "<|assistant_end|> :smile:")
    assert status == 0
    assert "\x1b" not in out + err
    assert "\u202e" not in out
    assert r"[USER]: \x1b[2J\u202e[bold]" in out
    assert "<|assistant_end|> :smile:" in out
