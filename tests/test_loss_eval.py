"""Bits per byte: the formula, what counts, and which table a run used."""

import math

import pytest
import torch

from nanochat.gpt import GPT, build
from nanochat.gpt_config import GPTConfig
from nanochat.loss_eval import evaluate_bpb, token_bytes_convention
from nanochat.tokenizer import train_tokenizer
from tests.support import fixture_dirs, needs_fixtures
from tests.variants import random_weights

CONFIG = GPTConfig(sequence_len=32, vocab_size=40, n_layer=1, n_head=1, n_kv_head=1, n_embd=32)


@pytest.fixture(scope="module")
def model() -> GPT:
    return build(CONFIG, random_weights(CONFIG, 0))


def test_it_is_the_sum_of_bits_over_the_sum_of_bytes(model: GPT) -> None:
    token_bytes = (torch.arange(40) + 1) % 5
    generator = torch.Generator().manual_seed(0)
    batches = [tuple(torch.randint(40, (2, 2, 9), generator=generator)) for _ in range(3)]
    batches[1][1][0, :4] = -1
    bits, total = 0.0, 0
    for x, y in batches:
        log_probabilities = torch.log_softmax(model(x), -1)
        for row in range(2):
            for t in range(9):
                target = int(y[row, t])
                if target >= 0 and token_bytes[target] > 0:
                    bits -= log_probabilities[row, t, target].item() / math.log(2)
                    total += int(token_bytes[target])
    assert evaluate_bpb(model, batches, token_bytes) == pytest.approx(bits / total, rel=1e-6)


def test_the_order_and_size_of_batches_do_not_matter(model: GPT) -> None:
    x = torch.randint(40, (4, 8), generator=torch.Generator().manual_seed(1))
    y = torch.roll(x, -1, 1)
    whole = evaluate_bpb(model, [(x, y)], torch.ones(40, dtype=torch.int32))
    rows = evaluate_bpb(model, [(x[i : i + 1], y[i : i + 1]) for i in (2, 0, 3, 1)], torch.ones(40, dtype=torch.int32))
    assert whole == pytest.approx(rows, rel=1e-6)


def test_it_computes_in_the_format_asked_for(model: GPT, monkeypatch: pytest.MonkeyPatch) -> None:
    formats: list[torch.dtype | None] = []
    inner = model.forward
    monkeypatch.setattr(model, "forward", lambda *args, **kw: formats.append(kw.get("dtype")) or inner(*args, **kw))
    batches = [(torch.arange(8).view(1, 8), torch.arange(1, 9).view(1, 8))]
    exact = evaluate_bpb(model, batches, torch.ones(40, dtype=torch.int32))
    rough = evaluate_bpb(model, batches, torch.ones(40, dtype=torch.int32), torch.bfloat16)
    assert formats == [None, torch.bfloat16]
    assert 0 < abs(rough - exact) < 0.03 * exact


def test_text_without_a_byte_is_an_error_not_a_division(model: GPT) -> None:
    x = torch.zeros(1, 4, dtype=torch.long)
    with pytest.raises(ValueError, match="no target stands for any byte"):
        evaluate_bpb(model, [(x, x)], torch.zeros(40, dtype=torch.int32))


def test_the_convention_of_a_table_is_recognised() -> None:
    tokenizer = train_tokenizer(["äöü äöü 你好 你好 hello"] * 5, vocab_size=280)
    exact = torch.as_tensor(tokenizer.token_bytes("exact"))
    replacement = torch.as_tensor(tokenizer.token_bytes("replacement"))
    assert token_bytes_convention(exact, tokenizer)[0] == "exact"
    assert token_bytes_convention(replacement, tokenizer)[0] == "replacement"
    assert token_bytes_convention(exact[:-1], tokenizer)[0] is None
    assert token_bytes_convention(exact + 1, tokenizer)[0] is None


@needs_fixtures
def test_upstreams_own_figure_on_its_own_validation_text() -> None:
    """The first era's loader is a plain stream, so its four batches can be laid out here."""
    import json

    import polars as pl

    from nanochat.checkpoint_manager import load_model

    base = fixture_dirs("nanochat_2025_11_06")[0]
    loaded = load_model(base / "base_checkpoints" / "d2")
    recorded = json.loads((base / "expected" / "optimizer_step.json").read_text())
    documents = pl.read_parquet(sorted((base / "base_data").glob("*.parquet"))[-1])["text"].to_list()
    stream = [id for text in documents for id in loaded.tokenizer.encode(text, prepend="<|bos|>")]
    rows, length, batches = 2, 64, []
    for _ in range(4):
        taken, stream = torch.tensor(stream[: rows * length + 1]), stream[rows * length + 1 :]
        batches.append((taken[:-1].view(rows, length), taken[1:].view(rows, length)))
    token_bytes = torch.as_tensor(loaded.tokenizer.token_bytes("replacement"))
    bpb = evaluate_bpb(loaded.model, batches, token_bytes)
    assert bpb == pytest.approx(recorded["val_bpb_4x(2x64)"], abs=1e-5)
