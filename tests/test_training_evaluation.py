"""What a run looks at: bits per byte that every number of ranks agrees on, and samples that always fit."""

from pathlib import Path
from typing import Any

import pytest
import torch

from nanochat.dataloader import DataLoader
from nanochat.distributed import World
from nanochat.loss_eval import evaluate_bpb
from nanochat.training_evaluation import KEEP_TOKENS, PROMPTS, Evaluation, first_rows, samples
from nanochat.training_setup import new_model
from tests.checkpoint_support import make_tokenizer, tiny_config
from tests.training_support import LENGTH, Ticking, first_batches, ranks, texts


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


def single_rows(count: int = 60, sequence_len: int = LENGTH) -> DataLoader:
    return DataLoader(texts(count), make_tokenizer(), 1, sequence_len, lanes=1, ahead=False)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_the_rows_depend_neither_on_the_ranks_nor_on_the_batch(batch_size: int) -> None:
    with single_rows() as loader:
        expected = sorted(loader.next_batch().inputs[0].tolist() for _ in range(7))
    for size in (1, 2, 4):
        parts = [first_rows(single_rows, 7, batch_size, World(rank, rank, size))() for rank in range(size)]
        assert sorted(row.tolist() for part in parts for batch in part for row in batch.inputs) == expected


def test_a_short_text_is_read_once_and_not_hardly_begun() -> None:
    tokenizer = make_tokenizer()
    one_pass = sum(len(ids) for ids in tokenizer.encode(texts().texts, prepend="<|bos|>"))
    scored = sum(batch.inputs.numel() for batch in first_rows(single_rows, 10_000, 4)())
    assert 0.7 * one_pass < scored < 1.3 * one_pass
    with single_rows() as loader:
        loader.next_batch()
        assert loader.progress >= 1, "what has been read waits for a row that it fits"
        assert not loader.used_up


def test_a_rank_without_a_row_waits_for_no_one(tmp_path: Path) -> None:
    def score(world: World) -> float | None:
        model, table = new_model(tiny_config(), seed=2), make_tokenizer().token_bytes()
        return Evaluation(model, first_rows(single_rows, 3, 4, world), table, world=world)(0)

    alone = score(World())
    for answer in ranks(2, score, tmp_path):
        assert answer["result"] == pytest.approx(alone, rel=1e-6)


def test_it_computes_in_the_format_of_the_run() -> None:
    exact, rough = evaluation(World()), evaluation(World(), dtype=torch.bfloat16)
    for one in (exact, rough):
        one.model.lm_head.weight.data *= 500  # as it begins it says nothing, so any format gives the same
    assert 0 < abs(rough(0) - exact(0)) < 0.02 * exact(0)


def test_a_stop_request_cuts_it_short() -> None:
    asked = iter([None, "SIGINT"])
    assert evaluation(World(), stop=lambda: next(asked))(0) is None


@pytest.mark.parametrize("told", [0, 1])
def test_a_stop_asked_of_one_of_several_ranks_cuts_it_short_on_all(tmp_path: Path, told: int) -> None:
    """One rank has a batch less than the other; each looks at a clock of its own, and both leave."""

    def work(world: World) -> list[Any]:
        asked: list[int] = []

        def stop() -> str | None:
            asked.append(1)
            return "SIGINT" if world.rank == told and len(asked) == 3 else None

        model, table = new_model(tiny_config(), seed=2), make_tokenizer().token_bytes()
        batches = first_rows(single_rows, 25, 1, world)
        ours = Evaluation(model, batches, table, world=world, stop=stop, clock=Ticking(1.0 + world.rank))
        return [ours(0), len(asked), ours(0)]

    answers = [answer["result"] for answer in ranks(2, work, tmp_path)]
    assert [answer[:2] for answer in answers] == [[None, 3]] * 2
    assert answers[0][2] == answers[1][2] > 0


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
