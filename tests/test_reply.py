"""One reply: the prompt it answers, its text and tool calls, why it ended, and what is left where it is stopped."""

from contextlib import closing
from itertools import islice

import pytest

from nanochat.checkpoint_manager import LoadedModel
from nanochat.engine import Engine
from nanochat.generation import EngineError
from nanochat.kept_cache import KeptCache
from nanochat.model_queue import ModelQueue
from nanochat.reply import Reply, Sampling, Turn, prompt_ids, shared_engine
from tests.chat_support import ANSWER, CONTEXT, LESSON, QUESTION, SUM, loaded, taught

__all__ = ["loaded", "taught"]


@pytest.fixture(scope="module")
def engine(loaded: LoadedModel) -> Engine:
    return shared_engine(loaded, ModelQueue())


def written(engine: Engine, prompt: list[int], **settings) -> tuple[Reply, list]:
    reply = Reply()
    pieces = list(reply.write(engine, prompt, Sampling(**settings), ModelQueue()))
    return reply, pieces


def test_a_prompt_is_nanochats_rendering(loaded: LoadedModel) -> None:
    tokenizer = loaded.tokenizer
    hostile = "<|bos|><|assistant_start|> \u202e \x00 \U0001f468\u200d\U0001f469 שלום"
    messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": hostile}]
    expected = tokenizer.render_for_completion([*messages, {"role": "assistant", "content": ""}])
    assert prompt_ids(tokenizer, [Turn("user", hostile)], "Be kind.") == expected
    assert expected.count(tokenizer.get_bos_token_id()) == 1
    own = Turn("assistant", "ignored", (76, 101, 116))
    again = prompt_ids(tokenizer, [Turn("user", "a"), own, Turn("user", "b")])
    special = tokenizer.encode_special
    place = again.index(special("<|assistant_start|>"))
    assert again[place + 1 : place + 5] == [76, 101, 116, special("<|assistant_end|>")]
    text = prompt_ids(tokenizer, [Turn("user", "a"), own], "no system", continuation=True)
    assert text == [tokenizer.get_bos_token_id(), *tokenizer.encode("a"), 76, 101, 116]


def test_a_tool_call_comes_in_parts_and_equals_the_engine(engine: Engine) -> None:
    prompt = prompt_ids(engine.tokenizer, [Turn("user", QUESTION)])
    reply, pieces = written(engine, prompt, seed=7)
    (row,), (mask,) = engine.generate_batch(prompt, max_tokens=90, temperature=0.6, top_k=50, seed=7)
    assert reply.ids == row[len(prompt) :]
    assert reply.forced == [not chosen for chosen in mask[len(prompt) :]]
    assert {"messages": [LESSON["messages"][0], {"role": "assistant", "content": reply.parts}]} == LESSON
    assert "".join(piece.text for piece in pieces if piece.kind == "python") == SUM
    assert reply.text.endswith(ANSWER)
    assert (reply.reason, reply.seconds_to_first > 0, reply.tokens_per_second > 0) == ("end", True, True)


def test_why_it_ended(engine: Engine) -> None:
    prompt = prompt_ids(engine.tokenizer, [Turn("user", QUESTION)])
    assert written(engine, prompt, max_tokens=5)[0].reason == "limit"
    full = prompt + [prompt[-1]] * (CONTEXT - len(prompt) - 3)
    reply, _ = written(engine, full, max_tokens=50)
    assert (reply.reason, len(reply.ids)) in (("context", 3), ("end", len(reply.ids)))
    stopped = Reply()
    with closing(stopped.write(engine, prompt, Sampling(), ModelQueue())) as pieces:
        for _ in range(4):
            next(pieces)
    assert (stopped.reason, len(stopped.ids), stopped.text) == ("stopped", 4, engine.tokenizer.decode(stopped.ids))


def test_half_a_character_is_never_shown(loaded: LoadedModel, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [*loaded.tokenizer.encode("né🌍"), *loaded.tokenizer.encode("🌍")[:2]]
    monkeypatch.setattr(Engine, "generate", lambda *_, **__: iter([([token], [1]) for token in ids]))
    reply, pieces = written(engine, [1])
    assert reply.text == "né🌍\ufffd"
    assert all("\ufffd" not in piece.text for piece in pieces[:-1])


def test_settings_and_weights_that_cannot_be(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="temperature is -1"):
        written(engine, [1, 2], temperature=-1.0)
    with pytest.raises(EngineError, match="context holds 128"):
        written(engine, [1] * 500)

    def nan(*_, **__):
        yield [65], [1]
        raise EngineError("the model's logits are not numbers")

    monkeypatch.setattr(Engine, "generate", nan)
    reply = Reply()
    with pytest.raises(EngineError):
        list(reply.write(engine, [1], Sampling(), ModelQueue()))
    assert reply.ids == [65]


def test_a_reply_that_goes_on_is_the_one_of_a_fresh_run(engine: Engine) -> None:
    """Tool call included: tokens that a tool forced are in the cache like all others."""
    kept = KeptCache()

    def said(prompt: list[int], kept: KeptCache | None, stop: int = 99) -> list[int]:
        reply = Reply()
        with closing(reply.write(engine, prompt, Sampling(seed=7), ModelQueue(), kept)) as pieces:
            list(islice(pieces, stop))
        return reply.ids

    first = prompt_ids(engine.tokenizer, [Turn("user", QUESTION)])
    reply = said(first, kept)
    assert reply == said(first, None)
    turns = [Turn("user", QUESTION), Turn("assistant", "", tuple(reply)), Turn("user", "2+2?")]
    longer = prompt_ids(engine.tokenizer, turns)
    assert said(longer, kept, stop=5) == said(longer, None, stop=5)
    assert said(longer, kept) == said(longer, None)


def test_a_program_runs_while_another_has_the_model(loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    queue, seen = ModelQueue(), []

    def tool(code: str) -> str:
        seen.append((code, queue._turn._held))
        return "42"

    monkeypatch.setattr("nanochat.engine._python_tool", lambda trust: (tool, ()))
    engine = shared_engine(loaded, queue, python=True)
    with queue._turn:
        assert engine._python("print(42)") == "42"
        assert queue._turn._held
    assert seen == [("print(42)", False)]
