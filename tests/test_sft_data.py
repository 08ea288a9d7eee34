"""Packing for fine-tuning: rows like nanochat's, every conversation once, exact resume, any number of ranks."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.dataloader_state import DataLoaderError, merge_states
from nanochat.packing import NO_LOSS
from nanochat.sft_data import Packer, SFTDataError, SFTLoader, one_epoch
from nanochat.tasks import Conversation, dialogue
from nanochat.tasks.mixture import Mixture, Part
from nanochat.tasks.persona import Persona
from tests.checkpoint_support import make_tokenizer

TOKENIZER = make_tokenizer()  # one token a byte, so lengths can be chosen
OVERHEAD = 5  # bos and the four tokens around the two messages
END = TOKENIZER.encode_special("<|assistant_end|>")


class Lengths:
    """A task of conversations that take exactly these many tokens; the number of each stands in its question."""

    name, split = "lengths", "train"

    def __init__(self, lengths: list[int], answers: int = 2) -> None:
        self.lengths, self.answers = lengths, answers

    @property
    def identity(self) -> str:
        return repr((self.lengths, self.answers))

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> Conversation:
        text = f"{index:03d}".ljust(self.lengths[index] - OVERHEAD - self.answers, ".")
        return dialogue(text, "a" * self.answers)

    def judge(self, conversation: Conversation, reply: str) -> bool:
        return False


def mixture(lengths: list[int], seed: int = 0, answers: int = 2) -> Mixture:
    return Mixture([Part(Lengths(lengths, answers))], seed)


def rows_of(batch: Any) -> list[list[int]]:
    return [[*inputs, 0] for inputs in batch.inputs.tolist()]


many = st.lists(st.integers(10, 60), min_size=1, max_size=250)


def plain_rows(all_of: Mixture, capacity: int, buffer_size: int) -> Iterator[list[tuple[list[int], list[int]]]]:
    """The rule as nanochat's chat_sft applies it while the epoch lasts: refill before each placement, scan, pad."""
    waiting = [TOKENIZER.render_conversation(all_of.conversation(0, i)) for i in range(len(all_of))]
    buffer: list[Any] = []
    while waiting or buffer:
        row, left = [], capacity
        while left > 0:
            while len(buffer) < buffer_size and waiting:
                buffer.append(waiting.pop(0))
            fitting = [piece for piece in buffer if len(piece.ids) <= left]
            if not fitting:
                break
            longest = max(fitting, key=lambda piece: len(piece.ids))  # the first of the longest
            buffer.remove(longest)
            row.append((longest.ids, longest.mask))
            left -= len(longest.ids)
        yield row


@given(many, st.integers(60, 130), st.integers(1, 100))
@settings(deadline=None, max_examples=60)
def test_rows_are_those_of_the_plain_rule(lengths: list[int], capacity: int, buffer_size: int) -> None:
    all_of = mixture(lengths)
    packer = Packer(all_of, TOKENIZER, capacity, buffer_size, last_epoch=0)
    for expected in plain_rows(all_of, capacity, buffer_size):
        assert [(piece.ids, piece.mask) for piece in packer.row()] == expected
    assert packer.row() == []


@given(many, st.integers(1, 3))
@settings(deadline=None, max_examples=40)
def test_an_epoch_uses_every_conversation_once_whole_and_unbroken(lengths: list[int], epochs: int) -> None:
    packer = Packer(mixture(lengths), TOKENIZER, 64, last_epoch=epochs - 1)
    seen: list[int] = []
    while pieces := packer.row():
        assert sum(len(piece.ids) for piece in pieces) <= 64
        for piece in pieces:
            assert piece.ids[-1] == END
            seen.append(int(TOKENIZER.decode(piece.ids[2:5])))
    for epoch in range(epochs):
        assert sorted(seen[epoch * len(lengths) : (epoch + 1) * len(lengths)]) == list(range(len(lengths)))
    assert len(seen) == packer.consumed == epochs * len(lengths)
    assert packer.truncated == packer.dropped == 0


def test_only_the_assistants_words_have_a_loss() -> None:
    loader = SFTLoader(mixture([20, 30, 9], answers=1), TOKENIZER, 2, 40)
    batch = loader.next_batch()
    assert batch.inputs.shape == batch.targets.shape == (2, 40)
    assert batch.inputs.dtype == batch.targets.dtype == torch.int64
    learnt = [[token for token in row if token != NO_LOSS] for row in batch.targets.tolist()]
    answer = [*TOKENIZER.encode("a"), END]
    assert learnt[0] == answer * 2  # 30 and 9 tokens fit into 41
    for inputs, targets in zip(batch.inputs.tolist(), batch.targets.tolist(), strict=True):
        for following, target in zip(inputs[1:], targets, strict=False):
            assert target in (following, NO_LOSS)
    # Behind the last conversation of a row there is padding, and nothing to learn from it.
    assert batch.inputs[0, 39:].tolist() == [TOKENIZER.get_bos_token_id()]
    assert batch.targets[0, 38:].tolist() == [NO_LOSS, NO_LOSS]
    assert loader.padded >= 2
    assert loader.supervised == 4 + len(learnt[1])


def test_a_conversation_longer_than_a_row_is_cut_and_counted() -> None:
    loader = SFTLoader(mixture([80], answers=60), TOKENIZER, 1, 40)
    batch = loader.next_batch()
    assert batch.inputs[0].tolist() == TOKENIZER.render_conversation(Lengths([80], 60)[0]).ids[:40]
    assert loader.notes == ("1 of 1 conversations were longer than a row and were cut",)


def test_a_conversation_whose_answer_is_cut_off_is_left_out_and_counted() -> None:
    packer = Packer(mixture([80, 20, 20]), TOKENIZER, 41, last_epoch=0)
    assert [len(piece.ids) for piece in packer.row()] == [20, 20]
    assert packer.row() == []
    assert (packer.consumed, packer.dropped, packer.truncated) == (3, 1, 0)
    loader = SFTLoader(mixture([80, 20, 20]), TOKENIZER, 2, 40)
    loader.next_batch()
    assert loader.notes[0].endswith("had no word of the assistant within a row: left out")
    hopeless = SFTLoader(mixture([80] * 3), TOKENIZER, 1, 40)
    with pytest.raises(SFTDataError, match="none of the 3 conversations"):
        hopeless.next_batch()


@given(many, st.sampled_from([1, 2, 4]), st.integers(0, 5), st.integers(1, 100))
@settings(deadline=None, max_examples=30)
def test_a_saved_place_goes_on_with_the_very_next_batch(
    lengths: list[int], accumulation: int, handed: int, buffer_size: int
) -> None:
    """At any batch, also within a step, over the ends of epochs."""
    options: dict[str, Any] = {"rows_per_step": 2 * accumulation, "buffer_size": buffer_size}
    loader = SFTLoader(mixture(lengths), TOKENIZER, 2, 64, **options)
    for _ in range(handed):
        loader.next_batch()
    state = loader.state_dict()
    resumed = SFTLoader(mixture(lengths), TOKENIZER, 2, 64, state=state, **options)
    assert resumed.state_dict() == state
    assert resumed.progress == loader.progress
    assert resumed.position == loader.position
    for _ in range(6):
        expected, found = loader.next_batch(), resumed.next_batch()
        assert torch.equal(expected.inputs, found.inputs)
        assert torch.equal(expected.targets, found.targets)
        assert loader.state_dict() == resumed.state_dict()
        assert loader.position == resumed.position


@given(many, st.sampled_from([(4, 2), (2, 4), (4, 1), (1, 4)]))
@settings(deadline=None, max_examples=25)
def test_any_number_of_ranks_sees_the_same_steps(lengths: list[int], worlds: tuple[int, int]) -> None:
    """Also when a run is saved by one number of ranks and goes on with another."""

    def step(loaders: list[SFTLoader]) -> list[tuple[list[int], list[int]]]:
        rows = []
        for loader in loaders:
            for _ in range(8 // len(loaders)):
                batch = loader.next_batch()
                rows += list(zip(batch.inputs.tolist(), batch.targets.tolist(), strict=True))
        return rows

    def start(world: int, state: Any = None) -> list[SFTLoader]:
        options: dict[str, Any] = {"world_size": world, "rows_per_step": 8, "state": state}
        return [SFTLoader(mixture(lengths), TOKENIZER, 1, 64, rank=rank, **options) for rank in range(world)]

    alone, first = start(1), start(worlds[0])
    for _ in range(2):
        assert step(alone) == step(first)
    second = start(worlds[1], merge_states([loader.state_dict() for loader in first]))
    for _ in range(2):
        assert step(alone) == step(second)


def test_progress_counts_passes_over_the_mixture() -> None:
    loader = SFTLoader(mixture([20] * 40), TOKENIZER, 1, 40)
    assert (loader.progress, loader.position["epoch"]) == (0.0, 1)
    seen = []
    while loader.progress < 1:
        loader.next_batch()
        seen.append(loader.progress)
    assert seen == sorted(seen)
    assert len(seen) == 20  # two a row
    loader.next_batch()
    assert (loader.position["epoch"], loader.progress) == (2, 1.05)
    loader.close()


def test_another_mixture_tokenizer_or_shape_does_not_continue_a_run() -> None:
    state = SFTLoader(mixture([20] * 9), TOKENIZER, 1, 40).state_dict()
    others: list[tuple[str, tuple[Any, ...]]] = [
        ("mixture", (mixture([20] * 8), TOKENIZER, 1, 40)),
        ("mixture", (mixture([20] * 9, seed=1), TOKENIZER, 1, 40)),
        ("tokenizer", (mixture([20] * 9), make_tokenizer(3), 1, 40)),
        ("sequence len", (mixture([20] * 9), TOKENIZER, 1, 41)),
        ("rows per step", (mixture([20] * 9), TOKENIZER, 2, 40)),
    ]
    for words, arguments in others:
        with pytest.raises(SFTDataError, match=f"{words} differs"):
            SFTLoader(*arguments, state=state)
    with pytest.raises(SFTDataError, match="not one of fine-tuning"):
        SFTLoader(mixture([20] * 9), TOKENIZER, 1, 40, state={"pq_idx": 0, "rg_idx": 0, "epoch": 1})
    with pytest.raises(DataLoaderError, match="differ in batch"):
        merge_states([state, {**state, "batch": 1}])


def test_a_place_within_a_step_needs_ranks_that_divide_it() -> None:
    loader = SFTLoader(mixture([20] * 30), TOKENIZER, 1, 40, rows_per_step=4)
    loader.next_batch()
    with pytest.raises(SFTDataError, match="within a step, after 1 rows"):
        SFTLoader(mixture([20] * 30), TOKENIZER, 2, 40, rows_per_step=4, state=loader.state_dict())


@pytest.mark.parametrize("sizes", [{"rows_per_step": 3}, {"rank": 1}, {"world_size": 0}, {"rows_per_step": 0}])
def test_sizes_that_do_not_fit_are_refused(sizes: dict[str, int]) -> None:
    with pytest.raises(SFTDataError):
        SFTLoader(mixture([20]), TOKENIZER, 2, 40, **sizes)  # type: ignore[arg-type]


@given(many, st.integers(1, 5), st.integers(1, 4))
@settings(deadline=None, max_examples=25)
def test_one_epoch_has_each_target_once(lengths: list[int], batch_size: int, world_size: int) -> None:
    def part(rank: int, world_size: int) -> list[Any]:
        options = {"rank": rank, "world_size": world_size}
        return list(one_epoch(mixture(lengths), TOKENIZER, batch_size, 64, **options))

    alone = part(0, 1)
    assert sum(int((batch.targets != NO_LOSS).sum()) for batch in alone) == 3 * len(lengths)  # aa and the end
    assert all(1 <= len(batch.inputs) <= batch_size for batch in alone)
    rows = sorted(str(row.tolist()) for batch in alone for row in batch.inputs)
    ranks = [part(rank, world_size) for rank in range(world_size)]
    if len(rows) >= world_size:
        assert sorted(str(row.tolist()) for batches in ranks for batch in batches for row in batch.inputs) == rows
    else:
        assert all(sorted(str(row.tolist()) for batch in batches for row in batch.inputs) == rows for batches in ranks)
    short = list(one_epoch(mixture(lengths), TOKENIZER, 1, 64, max_tokens=65))
    assert len(short) == min(2, len(rows))


def test_the_state_is_small() -> None:
    loader = SFTLoader(Mixture([Part(Persona(), 20)]), TOKENIZER, 4, 128)
    loader.next_batch()
    assert len(repr(loader.state_dict())) < 2000


# -- the mixture --


def test_a_mixture_shows_each_part_as_often_as_asked_in_an_order_of_every_epoch() -> None:
    one, two, none = Lengths([20] * 10), Lengths([30] * 4), Lengths([])
    mixed = Mixture([Part(one, 2.5), Part(none, 3), Part(two, 0.5)], seed=5)
    assert len(mixed) == 27
    counts: Counter[str] = Counter()
    for position in range(27):
        counts[mixed.conversation(0, position)["messages"][0]["content"]] += 1
    assert sorted(counts.values()) == [1, 1, *[2] * 5, *[3] * 5]
    assert list(mixed.order(0)) != list(mixed.order(1))
    again = Mixture([Part(one, 2.5), Part(none, 3), Part(two, 0.5)], seed=5)
    assert list(again.order(1)) == list(mixed.order(1))
    assert again.identity == mixed.identity != Mixture([Part(one, 2.5)], seed=5).identity
    assert list(Mixture([Part(one, 2.5)], seed=6).order(0)) != list(Mixture([Part(one, 2.5)], seed=5).order(0))
    assert mixed.summary()[0] == ("lengths", 10, 2.5)


def test_an_empty_mixture_is_refused() -> None:
    from nanochat.tasks import TaskError

    for parts in ([], [Part(Lengths([]))], [Part(Lengths([20]), 0)]):
        with pytest.raises(TaskError, match="no conversation"):
            Mixture(parts)
    with pytest.raises(TaskError, match="nan times"):
        Mixture([Part(Lengths([20]), float("nan"))])
