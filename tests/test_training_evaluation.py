"""What a run looks at: bits per byte that every number of ranks agrees on, and samples that always fit."""

from pathlib import Path
from typing import Any

import pytest
import torch

from nanochat.dataloader import DataLoader
from nanochat.distributed import World
from nanochat.loss_eval import evaluate_bpb
from nanochat.training_evaluation import KEEP_TOKENS, PROMPTS, Evaluation, first_batches, samples
from nanochat.training_setup import new_model
from tests.checkpoint_support import make_tokenizer, tiny_config
from tests.training_support import LENGTH, ranks, texts


def evaluation(world: World, rows: int = 8, **options: Any) -> Evaluation:
    def loader() -> DataLoader:
        return DataLoader(
            texts(), make_tokenizer(), rows // world.size, LENGTH, rank=world.rank, world_size=world.size, lanes=1
        )

    model = new_model(tiny_config(), seed=2)
    return Evaluation(model, first_batches(loader, 3), make_tokenizer().token_bytes(), world=world, **options)


def test_it_is_what_loss_eval_says() -> None:
    ours = evaluation(World())
    loader = DataLoader(texts(), make_tokenizer(), 8, LENGTH, lanes=1)
    batches = [loader.next_batch() for _ in range(3)]
    loader.close()
    expected = evaluate_bpb(ours.model, batches, make_tokenizer().token_bytes())
    assert ours(0) == expected
    assert ours(1) == expected  # from memory now
    assert ours.model.training


def test_ranks_share_the_rows_and_agree(tmp_path: Path) -> None:
    alone = evaluation(World())(0)
    for answer in ranks(2, lambda world: evaluation(world)(0), tmp_path):
        assert answer["result"] == pytest.approx(alone, rel=1e-6)


def test_a_stop_request_cuts_it_short() -> None:
    asked = iter([None, "SIGINT"])
    assert evaluation(World(), stop=lambda: next(asked))(0) is None


def test_much_text_is_read_anew_and_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nanochat.training_evaluation.KEEP_TOKENS", 300)
    assert KEEP_TOKENS > 300
    ours = evaluation(World())
    assert ours(0) == ours(1)
    assert ours._kept is None


def test_samples_begin_with_the_prompt_and_fit_the_context() -> None:
    model = new_model(tiny_config(), seed=2)
    told = samples(model, make_tokenizer(), max_tokens=500)
    assert len(told) == len(PROMPTS)
    assert all(text.startswith(f"<|bos|>{prompt}") for text, prompt in zip(told, PROMPTS, strict=True))
    assert told == samples(model, make_tokenizer(), max_tokens=500)
    narrow = new_model(tiny_config(sequence_len=8), seed=2)
    assert len(samples(narrow, make_tokenizer())) == 1
    assert model.training
    assert torch.is_grad_enabled()
