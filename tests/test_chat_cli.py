"""chat_cli as a person runs it: what comes out where, and that a second turn continues the tokens of the first."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from nanochat.checkpoint_manager import LoadedModel, load_model
from nanochat.engine import Engine
from nanochat.errors import exit_status
from nanochat.gpt import GPT
from nanochat.gpt_config import GPTConfig
from nanochat.scripts import chat_cli
from nanochat.tokenizer import train_tokenizer
from tests.checkpoint_support import save_checkpoint
from tests.variants import random_weights

CONTEXT = 96
CONFIG = GPTConfig(sequence_len=CONTEXT, vocab_size=280, n_layer=2, n_head=2, n_kv_head=1, n_embd=32)


@pytest.fixture(scope="module")
def base_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base dir with one small run of two stages."""
    base = tmp_path_factory.mktemp("chat")
    tokenizer = train_tokenizer(["the cat sat on the mat and ran to the dog 1 2 3"] * 4, vocab_size=280)
    for folder in ("chatsft_checkpoints", "base_checkpoints"):
        meta = {"step": 5, "model_config": CONFIG.upstream()}
        weights = random_weights(CONFIG, 1)
        save_checkpoint(base / folder / "d2", 5, weights, None, meta, tokenizer=tokenizer, config=CONFIG)
    return base


@pytest.fixture
def loaded(base_dir: Path) -> LoadedModel:
    return load_model(base_dir / "chatsft_checkpoints" / "d2")


def run(base_dir: Path, *flags: str) -> int:
    argv = ["--base-dir", str(base_dir), "--max-tokens", "12", "-t", "0", *flags]
    return exit_status("chat_cli", lambda: chat_cli.main(argv))


def typed(monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(line + "\n" for line in lines)))


def spy(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[int], list[int]]]:
    """(prompt, reply) of every generation."""
    turns: list[tuple[list[int], list[int]]] = []
    real = Engine.generate

    def generate(self: Engine, tokens: list[int], *args: object, **settings: object) -> object:
        turns.append((list(tokens), []))
        for column in real(self, tokens, *args, **settings):  # type: ignore[arg-type]
            turns[-1][1].append(column[0][0])
            yield column

    monkeypatch.setattr(Engine, "generate", generate)
    return turns


def test_one_prompt_puts_the_reply_on_stdout_and_the_reasons_on_stderr(
    base_dir: Path, loaded: LoadedModel, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(base_dir, "-p", "the cat") == 0
    out, err = capsys.readouterr()
    prompt = loaded.tokenizer.render_for_completion(
        [{"role": "user", "content": "the cat"}, {"role": "assistant", "content": ""}]
    )
    (row,), _ = Engine(loaded.model, loaded.tokenizer).generate_batch(prompt, max_tokens=12, temperature=0)
    assert out == loaded.tokenizer.decode(row[len(prompt) :]) + "\n"
    for words in ("verified", "design: nanochat lab", "tokenizer taken from", "Runs on the CPU", "the greatest depth"):
        assert words in err


def test_a_second_turn_continues_the_very_tokens_of_the_first(
    base_dir: Path, loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decoding a reply and encoding it again would give other tokens, and break tool calls into letters."""
    turns = spy(monkeypatch)
    typed(monkeypatch, "the cat", "ran")
    assert run(base_dir) == 0
    special, tokenizer = loaded.tokenizer.encode_special, loaded.tokenizer
    (first, reply), (second, _) = turns
    ends = {special("<|assistant_end|>"), special("<|bos|>")}
    kept = [token for token in reply if token not in ends]
    assert second == [
        *first,
        *kept,
        special("<|assistant_end|>"),
        special("<|user_start|>"),
        *tokenizer.encode("ran"),
        special("<|user_end|>"),
        special("<|assistant_start|>"),
    ]


def test_a_second_turn_is_read_from_where_the_first_ended_and_clear_forgets(
    base_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns, read = spy(monkeypatch), []
    real = GPT.hidden

    def hidden(self: GPT, ids: torch.Tensor, *more: object, **named: object) -> torch.Tensor:
        read.append(ids.size(1))
        return real(self, ids, *more, **named)

    monkeypatch.setattr(GPT, "hidden", hidden)
    typed(monkeypatch, "the cat", "ran", "clear", "the cat")
    assert run(base_dir) == 0
    (first, reply), (second, _), (third, _) = turns
    assert read == [len(first), len(second) - len(first) - len(reply) + 1, len(third)]


def test_control_characters_reach_a_pipe_and_no_terminal(
    base_dir: Path, loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = "a\x1b]0;gone\x07\x9b31m\tb\n👨\u200d👩"
    ids = loaded.tokenizer.encode(said)
    monkeypatch.setattr(Engine, "generate", lambda *_, **__: iter([([token], [1]) for token in ids]))
    assert run(base_dir, "-p", "the cat") == 0
    assert capsys.readouterr().out == said + "\n"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert run(base_dir, "-p", "the cat") == 0
    assert capsys.readouterr().out == "a\\x1b]0;gone\\x07\\x9b31m\tb\n👨\u200d👩\n"


def test_clear_starts_over_and_empty_lines_say_nothing(base_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    turns = spy(monkeypatch)
    typed(monkeypatch, "the cat", "", "clear", "the cat", "quit", "never read")
    assert run(base_dir) == 0
    assert len(turns) == 2
    assert turns[0] == turns[1]


def test_a_prompt_over_the_context_is_a_sentence_and_the_conversation_goes_on(
    base_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    turns = spy(monkeypatch)
    typed(monkeypatch, "x y " * CONTEXT, "the cat")
    assert run(base_dir) == 0
    assert f"context holds {CONTEXT}" in capsys.readouterr().err
    assert turns[-1][1]


def test_a_full_context_ends_the_reply_and_says_so(base_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(base_dir, "-i", "base", "--max-tokens", "900", "-p", "the cat " * 20) == 0
    _, err = capsys.readouterr()
    assert f"context of {CONTEXT} tokens is full" in err


def test_a_base_model_continues_plain_text(
    base_dir: Path, loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = spy(monkeypatch)
    assert run(base_dir, "-i", "base", "-p", "the <|user_start|> cat") == 0
    assert turns[0][0] == loaded.tokenizer.encode("the <|user_start|> cat", prepend="<|bos|>")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["-g", "d9"], "no sft run 'd9'; the sft runs there: d2"),
        (["-i", "rl"], "the runs there: base d2, sft d2"),
        (["-g", "d1"], "the sft runs there: d2"),
        (["-s", "6"], "complete steps: 5"),
        (["-p", "x", "-t", "-1"], "temperature"),
        (["-p", "x", "--top-p", "0"], "top_p"),
        (["-p", "x", "--max-tokens", "-1"], "max_tokens"),
        (["--device-type", "tpu"], "tpu"),
        (["--tokenizer-dir", "/nowhere"], "/nowhere"),
        (["--softcap", "-3"], "softcap"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(
    base_dir: Path, flags: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(base_dir, *flags) == 1
    out, err = capsys.readouterr()
    assert out == ""
    last = err.strip().splitlines()[-1]
    assert last.startswith("chat_cli: ")
    assert words in last


def test_an_empty_prompt_is_refused_before_anything_is_loaded(
    base_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        run(base_dir, "-p", " ")
    assert caught.value.code == 2
    assert "the prompt is empty" in capsys.readouterr().err


def test_a_bug_is_not_dressed_up_as_advice(base_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ValueError("math domain error")

    monkeypatch.setattr(Engine, "generate", broken)
    with pytest.raises(ValueError, match="math domain error"):
        run(base_dir, "-p", "the cat")


def test_without_a_folder_the_roots_are_searched_ours_first(
    base_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_status("chat_cli", lambda: chat_cli.main(["-p", "x"])) == 1
    assert capsys.readouterr().err.count("no runs there") == 1
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(base_dir))
    assert chat_cli.main(["-p", "the cat", "--max-tokens", "3"]) == 0
    assert str(base_dir) in capsys.readouterr().err


def test_python_without_a_sandbox_needs_trust_and_says_so(
    base_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from nanochat import execution

    missing = execution.SandboxStatus(False, "this test says so", ())
    monkeypatch.setattr(execution, "sandbox_status", lambda: missing)
    assert run(base_dir, "-p", "the cat", "--python") == 1
    assert "this test says so" in capsys.readouterr().err
    assert run(base_dir, "-p", "the cat", "--python", "--trust-model") == 0
    assert execution.UNCONTAINED_BANNER in capsys.readouterr().err


def test_ctrl_c_stops_a_reply_and_not_the_conversation(
    base_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """While the prompt is run: as if nothing had been asked. Between tokens: what was said stays."""
    turns: list[list[int]] = []
    real = Engine.generate

    def generate(self: Engine, tokens: list[int], **settings: object) -> object:
        turns.append(list(tokens))
        if len(turns) == 2:
            raise KeyboardInterrupt
        columns = real(self, tokens, **settings)  # type: ignore[arg-type]
        return stopped(columns) if len(turns) == 3 else columns

    def stopped(columns: object) -> object:
        yield next(columns)  # type: ignore[call-overload]
        raise KeyboardInterrupt

    monkeypatch.setattr(Engine, "generate", generate)
    typed(monkeypatch, "the cat", "ran", "sat", "to")
    assert run(base_dir) == 0
    assert capsys.readouterr().out.count("[stopped]") == 2
    assert turns[2][: len(turns[0])] == turns[0]
    assert len(turns[2]) == len(turns[1])  # "ran" was asked of nobody, "sat" took its place
    assert turns[3][: len(turns[2])] == turns[2]


def test_output_that_the_terminal_cannot_show_is_replaced(base_dir: Path) -> None:
    command = [sys.executable, "-m", "nanochat.scripts.chat_cli", "--base-dir", str(base_dir), "-t", "3", "-k", "0"]
    done = subprocess.run(
        [*command, "-p", "the cat", "--max-tokens", "60"],
        env={**os.environ, "PYTHONIOENCODING": "ascii"}, capture_output=True, check=False, timeout=120,
        cwd=Path(__file__).parents[1],
    )  # fmt: skip
    assert (done.returncode, b"Traceback" in done.stderr) == (0, False)
    assert done.stdout.isascii()
