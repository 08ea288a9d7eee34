"""The engine: rows that do not disturb one another, ends, seeds, text streams, and what it refuses."""

import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.benchmarks.engine import SHAPES, NoTokenizer, plain_loop, random_model
from nanochat.engine import Engine, EngineError, TextStream, _Draw
from nanochat.generation import check_request
from nanochat.gpt import GPT, build
from nanochat.gpt_config import GPTConfig
from nanochat.kv_cache import KVCache
from nanochat.tokenizer import Tokenizer, train_tokenizer
from tests.variants import random_weights

TEXT = ["the cat sat on the mat and the dog ran to the cat 1 2 3 4 5 6 7 8 9 0 äöü 你好 🌍"] * 4


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(TEXT, vocab_size=300)


@pytest.fixture(scope="module")
def model(tokenizer: Tokenizer) -> GPT:
    config = GPTConfig(sequence_len=64, vocab_size=300, n_layer=2, n_head=2, n_kv_head=1, n_embd=32, short_window=8)
    return build(config, random_weights(config, 0))


@pytest.fixture(scope="module")
def engine(model: GPT, tokenizer: Tokenizer) -> Engine:
    return Engine(model, tokenizer)


def alone(engine: Engine, prompt: list[int], **settings: object) -> list[int]:
    (row,), _ = engine.generate_batch(prompt, 1, **settings)
    return row


def test_greedy_is_the_argmax_of_the_whole_text_at_every_step(engine: Engine, model: GPT) -> None:
    prompt = [5, 6, 7]
    row = alone(engine, prompt, max_tokens=30, temperature=0)
    assert len(row) > len(prompt)
    with torch.no_grad():
        for end in range(len(prompt), len(row)):
            assert model(torch.tensor([row[:end]]))[0, -1].argmax().item() == row[end]


def test_a_row_says_what_it_says_alone(engine: Engine) -> None:
    """Ragged prompts, settings and seeds per row, rows that end at different times."""
    prompts = [[5], [6, 7, 8, 9], [10] * 11, [11, 12], [13, 14, 15]]
    temperatures, top_ks, seeds = [0.0, 0.7, 1.0, 1.3, 1.0], [0, 10, 0, 5, 300], [1, 2, 3, 2**63 + 5, -4]
    rows, masks = engine.generate_batch(
        prompts, max_tokens=40, temperature=temperatures, top_k=top_ks, seed=seeds, min_p=[0.0, 0.05, 0, 0, 0.01]
    )
    lone = [
        alone(engine, prompt, max_tokens=40, temperature=t, top_k=k, seed=s, min_p=m)
        for prompt, t, k, s, m in zip(prompts, temperatures, top_ks, seeds, [0, 0.05, 0, 0, 0.01], strict=True)
    ]
    assert rows == lone
    assert [len(mask) for mask in masks] == [len(row) for row in rows]
    assert all(mask[: len(prompt)] == [0] * len(prompt) for mask, prompt in zip(masks, prompts, strict=True))


def test_rows_that_end_early_leave_the_others_what_they_were(tokenizer: Tokenizer) -> None:
    """Ragged rows, some of which end: the cache is then cut down to those that go on, bigram and smear included."""
    config = GPTConfig(
        sequence_len=64, vocab_size=300, n_layer=2, n_head=2, n_kv_head=1, n_embd=32, bigram=True, window_pattern="SL"
    )
    weights = random_weights(config, 3)
    engine = Engine(build(config, weights), tokenizer)
    prompts = [[9], [5, 6, 7, 8], [11] * 40, [12, 13], [14] * 9, [15, 16, 17]]
    seeds = list(range(6))
    lone = [
        alone(engine, prompt, max_tokens=30, temperature=1.5, seed=seed)
        for prompt, seed in zip(prompts, seeds, strict=True)
    ]
    # The tokens that rows 0, 1, 3 and 4 say fifth or so become ends, so that they stop there and rows 2 and 5 go on.
    engine.ends = frozenset(lone[row][len(prompts[row]) + 4] for row in (0, 1, 3, 4)) - set(lone[2] + lone[5])
    ended = [
        alone(engine, prompt, max_tokens=30, temperature=1.5, seed=seed)
        for prompt, seed in zip(prompts, seeds, strict=True)
    ]
    assert len({len(row) - len(prompt) for row, prompt in zip(ended, prompts, strict=True)}) > 1
    sizes = []
    real = KVCache.select
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(KVCache, "select", lambda self, rows: sizes.append(len(rows)) or real(self, rows))
        assert engine.generate_batch(prompts, max_tokens=30, temperature=1.5, seed=seeds)[0] == ended
    assert sizes  # half of the rows had ended, so the others were computed without them
    assert min(sizes) < 6
    many, _ = engine.generate_batch(prompts[1], 5, max_tokens=30, temperature=1.5, seed=1)
    assert many[0] == ended[1]


def test_settings_in_lists_are_as_precise_as_single_numbers(engine: Engine) -> None:
    """0.1 in float32 is another number, and moves a threshold."""
    for top_p in (0.1, 0.3, 0.7, 0.9):
        one = engine.generate_batch([5, 6], 1, max_tokens=30, temperature=0.7, top_p=top_p, min_p=0.001)
        assert one == engine.generate_batch([5, 6], 1, max_tokens=30, temperature=[0.7], top_p=[top_p], min_p=[0.001])
    request = check_request(
        engine.model.config, [5], 1, 1, [1], dict.fromkeys(("top_k", "top_p", "min_p"), None) | {"temperature": [0.1]}
    )
    assert _Draw.of(request, torch.device("cpu")).settings["temperature"].item() == 0.1


def test_all_64_bits_of_a_seed_count(engine: Engine) -> None:
    low, high = (alone(engine, [5], max_tokens=30, temperature=1.0, seed=seed) for seed in (5, 2**63 + 5))
    assert low != high


def test_without_max_tokens_each_row_has_its_own_context(engine: Engine) -> None:
    rows, _ = engine.generate_batch([[5], [6] * 60], temperature=0)
    assert rows == [alone(engine, [5], temperature=0), alone(engine, [6] * 60, temperature=0)]


def test_rows_that_no_memory_holds_are_refused_with_the_figure(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EngineError, match="65,536"):
        engine.generate([5], num_samples=10**9, max_tokens=1)
    monkeypatch.setattr("nanochat.engine.available_memory", lambda: 10**6)
    with pytest.raises(EngineError, match=r"500 rows of up to 21 tokens need 0\.0 GB and 0\.0 GB are free"):
        engine.generate([5], num_samples=500, max_tokens=20)
    assert alone(engine, [5], max_tokens=20, temperature=0)


def test_rows_of_one_seed_differ_and_the_first_is_the_lone_one(engine: Engine) -> None:
    rows, _ = engine.generate_batch([5, 6], 6, max_tokens=20, temperature=1.0, seed=7)
    assert rows[0] == alone(engine, [5, 6], max_tokens=20, temperature=1.0, seed=7)
    assert len({tuple(row) for row in rows}) == 6
    assert engine.generate_batch([5, 6], 6, max_tokens=20, temperature=1.0, seed=7)[0] == rows
    assert engine.generate_batch([5, 6], 6, max_tokens=20, temperature=1.0, seed=8)[0] != rows


def test_a_row_ends_with_its_end_token_and_is_none_after(model: GPT, tokenizer: Tokenizer) -> None:
    end = tokenizer.encode_special("<|assistant_end|>")
    biased = build(model.config, {k: v.clone() for k, v in model.state_dict().items()})
    generous = Engine(biased, tokenizer)
    with torch.no_grad():  # make the end token likely, so that rows end at different steps
        noise = torch.randn(32, generator=torch.Generator().manual_seed(1))
        biased.lm_head.weight[end] = 3 * biased.lm_head.weight.mean(0) + 0.2 * noise
    columns = list(generous.generate([5, 6, 7], 8, max_tokens=60, temperature=2.0, seed=3))
    per_row = [[tokens[row] for tokens, _ in columns] for row in range(8)]
    lengths = set()
    for row in per_row:
        said = [token for token in row if token is not None]
        assert row == said + [None] * (len(row) - len(said))
        assert end not in said[:-1]
        lengths.add(len(said))
    assert len(lengths) > 1
    assert all(mask[i] == 0 for tokens, mask in columns for i, token in enumerate(tokens) if token is None)
    rows, _ = generous.generate_batch([5, 6, 7], 8, max_tokens=60, temperature=2.0, seed=3)
    assert [row[3:] for row in rows] == [
        [t for t in row if t is not None and t not in generous.ends] for row in per_row
    ]


def test_two_generations_at_once_do_not_disturb_each_other(engine: Engine) -> None:
    expected = [alone(engine, [5 + i], max_tokens=30, temperature=1.0, seed=i) for i in range(4)]
    streams = [engine.generate([5 + i], max_tokens=30, temperature=1.0, seed=i) for i in range(4)]
    rows: list[list[int]] = [[5 + i] for i in range(4)]
    for _ in range(30):
        for row, stream in zip(rows, streams, strict=True):
            (token,), _ = next(stream, ((None,), None))
            if token is not None and token not in engine.ends:
                row.append(token)
    assert rows == expected


def test_it_works_from_any_thread_and_leaves_no_inference_mode_behind(engine: Engine) -> None:
    expected = alone(engine, [5], max_tokens=10, temperature=1.0)
    results: list[list[int]] = []
    say = lambda: results.append(alone(engine, [5], max_tokens=10, temperature=1.0))  # noqa: E731
    threads = [threading.Thread(target=say) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [expected] * 4
    stream = engine.generate([5], max_tokens=3)
    next(stream)
    assert not torch.is_inference_mode_enabled()


def test_a_model_that_has_spoken_can_still_learn(tokenizer: Tokenizer) -> None:
    """Samples are drawn between training steps: weights, gradients and the next sample must all be the current ones."""
    model = GPT(GPTConfig(sequence_len=32, vocab_size=300, n_layer=2, n_head=2, n_kv_head=1, n_embd=32))
    torch.manual_seed(0)
    model.init_weights()
    ids = torch.arange(20, 40)[None]
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    engine = Engine(model, tokenizer)
    before = alone(engine, [20, 21], max_tokens=8, temperature=0)
    for _ in range(60):
        loss = model(ids[:, :-1], ids[:, 1:])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss.item() < 0.1
    after = alone(engine, [20, 21], max_tokens=8, temperature=0)
    assert after == list(range(20, 30)) != before


def test_writing_goes_on_past_the_context_as_upstreams_does(engine: Engine, model: GPT) -> None:
    row = alone(engine, [5] * 60, max_tokens=30, temperature=0)
    with torch.no_grad():
        for end in range(60, len(row)):
            assert model(torch.tensor([row[:end]]))[0, -1].argmax().item() == row[end]
    assert len(list(engine.generate([5] * 60, temperature=0))) <= 4  # by itself it stops where the context ends


def test_only_the_last_position_goes_through_the_head_in_prefill(
    model: GPT, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes = []
    real = GPT.logits
    monkeypatch.setattr(GPT, "logits", lambda self, hidden: shapes.append(tuple(hidden.shape)) or real(self, hidden))
    list(Engine(model, tokenizer).generate([5] * 20, max_tokens=3, temperature=0))
    assert shapes == [(1, 32)]


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"tokens": []}, "empty"),
        ({"tokens": [[5], []]}, "empty"),
        ({"tokens": [5] * 65}, "context"),
        ({"tokens": "text"}, "token ids"),
        ({"tokens": [1.5]}, "token ids"),
        ({"tokens": [300]}, "vocabulary"),
        ({"tokens": [-1]}, "vocabulary"),
        ({"tokens": [5], "num_samples": 0}, "num_samples"),
        ({"tokens": [[5], [6]], "num_samples": 2}, "num_samples"),
        ({"tokens": [5], "max_tokens": -1}, "max_tokens"),
        ({"tokens": [5], "max_tokens": 10**9}, "max_tokens"),
        ({"tokens": [5], "temperature": -0.5}, "temperature"),
        ({"tokens": [5], "temperature": float("nan")}, "temperature"),
        ({"tokens": [5], "top_p": 0}, "top_p"),
        ({"tokens": [5], "top_p": 1.5}, "top_p"),
        ({"tokens": [5], "top_k": -1}, "top_k"),
        ({"tokens": [5], "min_p": 2.0}, "min_p"),
        ({"tokens": [[5], [6]], "temperature": [1.0]}, "temperature"),
        ({"tokens": [[5], [6]], "temperature": [1.0, -1.0]}, "temperature"),
        ({"tokens": [[5], [6]], "seed": [1, 2, 3]}, "seed"),
        ({"tokens": None}, "token ids"),
        ({"tokens": {5: 6}}, "token ids"),
        ({"tokens": [5], "max_tokens": 2.0}, "max_tokens"),
        ({"tokens": [5], "max_tokens": "5"}, "max_tokens"),
        ({"tokens": [5], "num_samples": 2.5}, "num_samples"),
        ({"tokens": [5], "seed": None}, "seed"),
        ({"tokens": [5], "seed": [1.5]}, "seed"),
        ({"tokens": [5], "top_k": [2.5]}, "top_k"),
        ({"tokens": [5], "top_k": [None]}, "top_k"),
        ({"tokens": [5], "temperature": "hot"}, "temperature"),
        ({"tokens": [5], "temperature": 10**400}, "temperature"),
        ({"tokens": [5], "temperature": {1.0}}, "temperature"),
    ],
)
def test_bad_input_is_one_sentence_before_the_first_token(engine: Engine, arguments: dict, word: str) -> None:
    with pytest.raises(ValueError, match=word) as caught:
        engine.generate(**arguments)
    assert "\n" not in str(caught.value)
    assert alone(engine, [5], max_tokens=1, temperature=0)  # and the engine goes on


def test_ids_may_come_from_numpy_and_torch(engine: Engine) -> None:
    expected = alone(engine, [5, 6], max_tokens=5, temperature=0)
    assert alone(engine, np.array([5, 6]), max_tokens=5, temperature=0) == expected
    assert alone(engine, torch.tensor([5, 6]), max_tokens=5, temperature=0) == expected
    assert engine.generate_batch([(5, 6)], max_tokens=5, temperature=[0])[0] == [expected]
    rows = [[5], [6], [7]]
    for several in (np.array(rows), torch.tensor(rows), [torch.tensor(row) for row in rows]):
        assert engine.generate_batch(several, max_tokens=5)[0] == engine.generate_batch(rows, max_tokens=5)[0]
    assert engine.generate_batch(rows, max_tokens=5, top_k=[2**70, 0, 5])[0]
    numbers = {"temperature": np.float32(0), "top_k": np.int64(3), "seed": np.int64(1), "max_tokens": np.int64(5)}
    assert engine.generate_batch([5, 6], **numbers)[0] == [expected]
    assert engine.generate_batch([5, 6], max_tokens=5, temperature=torch.tensor([0.0]), seed=torch.tensor(1))[0] == [
        expected
    ]


def test_max_tokens_of_zero_streams_nothing(engine: Engine) -> None:
    assert list(engine.generate([5], max_tokens=0)) == []


def test_damaged_weights_are_named(model: GPT, tokenizer: Tokenizer) -> None:
    weights = {k: v.clone() for k, v in model.state_dict().items()}
    weights["lm_head.weight"][:] = float("nan")
    with pytest.raises(EngineError, match="NaN"):
        list(Engine(build(model.config, weights), tokenizer).generate([5], max_tokens=2))


def test_a_tokenizer_that_is_not_the_models_is_refused(model: GPT, tokenizer: Tokenizer) -> None:
    config = replace(model.config, vocab_size=301)
    with pytest.raises(EngineError, match=r"300 tokens and the model 301"):
        Engine(build(config, random_weights(config, 0)), tokenizer)


@settings(max_examples=50, deadline=None)
@given(text=st.text(max_size=40))
def test_streamed_text_is_the_decoded_text(tokenizer: Tokenizer, text: str) -> None:
    text = text.encode("utf-8", "replace").decode()
    stream = TextStream(tokenizer)
    pieces = [stream.push(token) for token in tokenizer.encode(text)] + [stream.finish()]
    assert "".join(pieces) == text
    if "\ufffd" not in text:
        assert not any("\ufffd" in piece for piece in pieces)


def test_bytes_that_never_become_a_character_are_shown_at_the_end(tokenizer: Tokenizer) -> None:
    stream = TextStream(tokenizer)
    tokens = tokenizer.encode("🦜")
    assert [stream.push(token) for token in tokens[:-1]] == [""] * (len(tokens) - 1)
    assert stream.finish() == "\ufffd"


def test_the_benchmarks_baseline_says_what_the_engine_says() -> None:
    """A ratio to a loop that computes something else would mean nothing."""
    config = replace(SHAPES["d4"], window_pattern="L")
    baseline = random_model(config)
    prompt = list(range(10, 26))
    (row,), _ = Engine(baseline, NoTokenizer(config.vocab_size)).generate_batch(prompt, max_tokens=20, temperature=0)
    assert plain_loop(baseline, prompt, 1, 20, 0, 50)[0].tolist() == row[len(prompt) :]
