"""A conversation's kept keys and values: only what is new is read, the reply stays the same, and memory has a bound."""

import gc
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.decode import Decoder
from nanochat.engine import Engine
from nanochat.generation import EngineError
from nanochat.gpt import GPT, build
from nanochat.gpt_config import GPTConfig
from nanochat.kept_cache import KeptCache, Shelf
from nanochat.kv_cache import CacheError
from nanochat.tokenizer import Tokenizer, train_tokenizer
from tests.model_support import configs, new_cache
from tests.variants import random_weights

CONFIG = GPTConfig(
    sequence_len=96, vocab_size=300, n_layer=2, n_head=2, n_kv_head=1, n_embd=32, short_window=8, bigram=True
)
SIZE = (
    2 * 2 * 1 * 256 * 16 * 4
)  # bytes: layers, keys and values, heads, tokens that a cache grows by, channels, float32
HOW = {"max_tokens": 12, "temperature": 0.9, "seed": 5}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(
        ["the cat sat on the mat and the dog ran to the cat 1 2 3 4 5 6 7 8 9 0 äöü 你好 🌍"] * 4, vocab_size=300
    )


@pytest.fixture(scope="module")
def engine(tokenizer: Tokenizer) -> Engine:
    return Engine(build(CONFIG, random_weights(CONFIG, 0)), tokenizer)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many tokens each prompt read."""
    counts: list[int] = []
    real: Callable = GPT.hidden

    def hidden(self: GPT, ids: torch.Tensor, *more: object, **named: object) -> torch.Tensor:
        counts.append(ids.size(1))
        return real(self, ids, *more, **named)

    monkeypatch.setattr(GPT, "hidden", hidden)
    return counts


def said(engine: Engine, prompt: list[int], kept: KeptCache | None = None, **how: object) -> list[int]:
    return [row[0] for row, _ in engine.generate(prompt, **{**HOW, **how}, kept=kept)]


@settings(max_examples=15, deadline=None)
@given(config=configs(), length=st.integers(1, 12), back=st.integers(0, 11))
def test_a_rewound_cache_is_one_that_never_went_further(config: GPTConfig, length: int, back: int) -> None:
    """In every mixture of components: smear and bigram look back past the place, windows cut it off."""
    model = build(config, random_weights(config, 1))
    ids = torch.arange(length + 3)[None] % config.vocab_size
    other = (ids + 1) % config.vocab_size
    keep = max(length - back, 1)
    with torch.inference_mode():
        cache, vectors, decoder = new_cache(config), [], Decoder(model)
        for place in range(length):
            model.hidden(ids[:, place : place + 1], cache)
            vectors.append(cache.last_vector)
        decoder.step(ids[:, length], cache)
        cache.rewind(keep, ids[:, keep - 1 : keep], vectors[keep - 1])
        assert cache.length == keep
        text = torch.cat((ids[:, :keep], other[:, :2]), dim=1)
        logits = decoder.step(text[:, keep], cache)
        assert torch.allclose(logits[0], model(text[:, : keep + 1])[0, -1], atol=2e-4)
        chunk = model.logits(model.hidden(text[:, keep + 1 :], cache))
        assert torch.allclose(chunk[0], model(text)[0, keep + 1 :], atol=2e-4)
    for wrong in (0, cache.length + 1):
        with pytest.raises(CacheError, match=f"rewind to 1 to {cache.length}"):
            cache.rewind(wrong, ids[:, :1], None)


def test_only_what_is_new_is_read_and_the_reply_is_a_fresh_ones(engine: Engine, read: list[int]) -> None:
    first = [5, 6, 7, 8]
    fresh = said(engine, first)
    kept = KeptCache()
    assert said(engine, first, kept) == fresh
    longer = [*first, *fresh, 20, 21, 22]
    fresh_longer = said(engine, longer)
    read.clear()
    assert said(engine, longer, kept) == fresh_longer
    assert read == [4]  # the last token of a reply was drawn and never read; and three new ones
    assert said(engine, longer, kept) == fresh_longer
    assert said(engine, longer, kept, seed=6) == said(engine, longer, seed=6)
    edited = [*first[:2], 30, 31]
    assert said(engine, edited, kept) == said(engine, edited)
    assert said(engine, [40, 41], kept) == said(engine, [40, 41])
    assert read == [4, 1, 1, len(longer), 2, 4, 2, 2]


def test_a_reply_that_is_stopped_is_kept_as_far_as_it_came_and_one_that_fails_is_not(
    engine: Engine, read: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, prompt = KeptCache(), [5, 6, 7]
    columns = engine.generate(prompt, **HOW, kept=kept)
    begun = [next(columns)[0][0] for _ in range(4)]
    assert kept.size == 0  # it is in use
    assert said(engine, prompt, kept)[:4] == begun  # whoever comes meanwhile reads the prompt for himself
    columns.close()
    longer = [*prompt, *begun, 9]
    read.clear()
    assert said(engine, longer, kept) == said(engine, longer)
    assert read[0] == 2

    def broken(*_: object) -> None:
        raise KeyboardInterrupt

    columns = engine.generate(longer, **HOW, kept=kept)
    next(columns)
    monkeypatch.setattr(Decoder, "step", broken)
    with pytest.raises(KeyboardInterrupt):
        list(columns)
    assert kept.size == 0


def test_another_model_begins_anew_and_many_rows_are_refused(
    engine: Engine, tokenizer: Tokenizer, read: list[int]
) -> None:
    kept, prompt = KeptCache(), [5, 6, 7, 8]
    said(engine, prompt, kept)
    other = Engine(build(CONFIG, random_weights(CONFIG, 9)), tokenizer)
    read.clear()
    said(other, prompt, kept)
    assert read == [4]
    with pytest.raises(EngineError, match="of one text and 3 are asked for"):
        engine.generate(prompt, 3, kept=kept)
    del other
    gc.collect()
    assert said(engine, prompt, kept) == said(engine, prompt)


def test_a_shelf_holds_so_much_and_the_longest_quiet_go_first(engine: Engine) -> None:
    def one(shelf: Shelf) -> KeptCache:
        kept = KeptCache(shelf)
        said(engine, [5, 6], kept)
        return kept

    assert one(Shelf()).size == SIZE
    shelf = Shelf(2 * SIZE)
    conversations = [one(shelf) for _ in range(3)]
    assert [kept.size for kept in conversations] == [0, SIZE, SIZE]
    said(engine, [5, 6], conversations[1])
    said(engine, [5, 6], conversations[0])
    assert [kept.size for kept in conversations] == [SIZE, SIZE, 0]
    del conversations
    gc.collect()
    assert shelf.size == 0  # a conversation that is gone keeps nothing
    small = Shelf(SIZE - 1)
    assert (one(small).size, small.size) == (0, 0)


def test_a_server_finds_the_conversation_by_what_was_said(engine: Engine, read: list[int]) -> None:
    shelf = Shelf(owns=True)

    def asked(prompt: list[int]) -> list[int]:
        return said(engine, prompt, shelf.continued_by(prompt))

    first = [5, 6, 7, 8]
    reply = asked(first)
    other = asked([5, 6, 9])
    longer = [*first, *reply[:6], 33]
    alone = said(engine, longer)
    read.clear()
    assert asked(longer) == alone
    assert asked(first) == reply
    assert asked([5, 6, 9]) == other
    assert read == [1, 4, 3]  # what is asked again is computed again: the same request, the same numbers
    assert shelf.size == 4 * SIZE
