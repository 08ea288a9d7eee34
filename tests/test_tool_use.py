"""Tool calls in a token stream, against the streams that real nanochat's engine produced from the same script."""

import json
from pathlib import Path

import pytest
import torch

from nanochat.engine import Engine
from nanochat.gpt import GPTConfig
from nanochat.kv_cache import KVCache
from nanochat.tokenizer import Tokenizer, load_tokenizer
from nanochat.tool_use import OUTPUT_CHARACTERS, Inside, ToolUse, run_python
from tests.support import fixture_dirs, needs_fixtures


def scripted_streams() -> list[tuple[Path, dict]]:
    """(base dir, one recorded stream); the first era's engine could not run a script, so its entries hold no tokens."""
    paths = [folder / "expected" / "engine_tooluse_scripted.json" for folder in fixture_dirs()]
    found = [(path.parents[1], entry) for path in paths if path.exists() for entry in json.loads(path.read_text())]
    return [(folder, entry) for folder, entry in found if "tokens" in entry]


class Scripted:
    """A model, and the decoder of one, that says the next token of its script whatever it is fed."""

    def __init__(self, script: list[int], vocab_size: int) -> None:
        self.config = GPTConfig(sequence_len=256, vocab_size=vocab_size, n_layer=1, n_head=1, n_kv_head=1, n_embd=32)
        self.lm_head = torch.nn.Linear(1, 1)
        self.size = 0  # bytes
        self.script = iter(script)

    def hidden(self, ids: torch.Tensor, cache: KVCache) -> torch.Tensor:
        cache.end(ids.size(1), ids)
        return ids.unsqueeze(-1)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        token = torch.tensor([next(self.script)])
        return torch.nn.functional.one_hot(token, self.config.vocab_size).float()

    def step(self, ids: torch.Tensor, cache: KVCache) -> torch.Tensor:
        return self.logits(self.hidden(ids.unsqueeze(1), cache))


@needs_fixtures
@pytest.mark.parametrize(
    ("folder", "entry"), scripted_streams(), ids=lambda v: v.name if isinstance(v, Path) else v["expr"]
)
def test_streams_are_upstreams_token_for_token(folder: Path, entry: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = load_tokenizer(folder / "tokenizer")
    monkeypatch.setattr("nanochat.engine.Decoder", lambda model: model)
    engine = Engine(Scripted(entry["script"], tokenizer.get_vocab_size()), tokenizer)
    bos = tokenizer.get_bos_token_id()
    columns = list(engine.generate([bos], max_tokens=len(entry["tokens"]), temperature=0))
    assert [token for (token,), _ in columns] == entry["tokens"]
    assert [mask for _, (mask,) in columns] == entry["masks"]


@needs_fixtures
def test_both_folders_with_streams_were_seen() -> None:
    assert {folder.name for folder, _ in scripted_streams()} == {"nanochat_2026_02_20", "nanochat_2026_07_03"}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    from nanochat.tokenizer import train_tokenizer

    return train_tokenizer(["one two three 1 2 3 print"] * 3, vocab_size=300)


def push_all(tools: ToolUse, tokens: list[int]) -> list[list[int]]:
    return [tools.push(token) for token in tokens]


def call(tokenizer: Tokenizer, code: str) -> list[int]:
    special = tokenizer.encode_special
    return [special("<|python_start|>"), *tokenizer.encode(code), special("<|python_end|>")]


def test_an_answer_is_forced_behind_the_call_and_nowhere_else(tokenizer: Tokenizer) -> None:
    tools = ToolUse(tokenizer)
    forced = push_all(tools, [*tokenizer.encode("so "), *call(tokenizer, "12*(3+4)")])
    special = tokenizer.encode_special
    assert forced[-1] == [special("<|output_start|>"), *tokenizer.encode("84"), special("<|output_end|>")]
    assert not any(forced[:-1])
    assert (tools.expression, tools.result) == ("12*(3+4)", "84")


def test_no_answer_forces_nothing(tokenizer: Tokenizer) -> None:
    tools = ToolUse(tokenizer)
    assert not any(push_all(tools, call(tokenizer, "print(1)")))
    assert (tools.expression, tools.result) == ("print(1)", None)


def test_python_is_asked_only_where_the_calculator_has_no_answer(tokenizer: Tokenizer) -> None:
    asked: list[str] = []
    tools = ToolUse(tokenizer, python=lambda code: asked.append(code) or "x" * 10_000)
    push_all(tools, call(tokenizer, "1+1"))
    forced = push_all(tools, call(tokenizer, "print(1)"))[-1]
    assert asked == ["print(1)"]
    assert tokenizer.decode(forced[1:-1]) == "x" * OUTPUT_CHARACTERS


def test_an_end_without_a_beginning_does_nothing(tokenizer: Tokenizer) -> None:
    special = tokenizer.encode_special
    tools = ToolUse(tokenizer)
    assert tools.push(special("<|python_end|>")) == []
    push_all(tools, [special("<|output_start|>"), *tokenizer.encode("1+1"), special("<|python_end|>")])
    assert (tools.inside, tools.expression) == (Inside.OUTPUT, None)


def test_a_second_beginning_starts_the_expression_over(tokenizer: Tokenizer) -> None:
    tools = ToolUse(tokenizer)
    push_all(tools, [*call(tokenizer, "9+")[:-1], *call(tokenizer, "1+1")])
    assert (tools.expression, tools.result) == ("1+1", "2")


@pytest.mark.parametrize(
    ("code", "answer"),
    [
        ("print(1 + 1)", "2"),
        ("print('a\\n')", "a"),
        ("x = 1", ""),
        ("1/0", "ZeroDivisionError"),
        ("print('x'); 1/0", "Zero"),
    ],
)
def test_what_the_python_tool_answers(code: str, answer: str) -> None:
    """What was printed; or why it failed, and then nothing of what was printed before."""
    from nanochat.execution import sandbox_status

    if not sandbox_status().available:
        pytest.skip(f"Python cannot be contained here: {sandbox_status().reason}")
    said = run_python(code)
    assert said == answer if "/0" not in code else answer in said and "x\n" not in said


def test_text_that_looks_like_a_special_token_calls_nothing(tokenizer: Tokenizer) -> None:
    tools = ToolUse(tokenizer)
    assert not any(push_all(tools, tokenizer.encode("<|python_start|>1+1<|python_end|>")))
    assert tools.expression is None
