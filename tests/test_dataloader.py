"""The loader gives nanochat's batches, goes on exactly where it stopped, and cleans up behind itself."""

import gc
import io
import itertools
import json
import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat import packing
from nanochat.dataloader import (
    DataLoader,
    DataLoaderError,
    merge_states,
)
from nanochat.dataset import open_dataset
from nanochat.dataset_split import DatasetError, Texts
from nanochat.safe_load import load
from nanochat.tokenizer import load_tokenizer
from tests.dataset_support import BOS, Words
from tests.support import FIXTURES, needs_fixtures


class Grouped(Texts):
    """Documents in shards of groups, as a test lays them out."""

    def __init__(self, shards, long_documents="crop", identity="grouped"):
        self.layout, self.shards = shards, len(shards)
        self.long_documents, self.identity, self.remarks = long_documents, identity, ()

    def groups(self, shard):
        return len(self.layout[shard])

    def read(self, shard, group):
        return self.layout[shard][group]


def texts_of(lengths):
    """Documents of given lengths, every token different from all others."""
    numbers = itertools.count(1)
    return [" ".join(str(next(numbers)) for _ in range(length)) for length in lengths]


def rows_of(loader, batches):
    """Whole rows, T + 1 tokens each."""
    rows = []
    for _ in range(batches):
        inputs, targets = loader.next_batch()
        rows += torch.cat((inputs, targets[:, -1:]), dim=1).tolist()
    return rows


def small_buffer(monkeypatch, documents=10):
    """A buffer so small that a handful of test documents passes through it."""
    monkeypatch.setattr(packing, "BUFFER_DOCUMENTS", documents)
    monkeypatch.setattr(packing, "READ_DOCUMENTS", 4)


def plain_rows(shards, rank, world_size, length, count, buffer_size, read_size):
    """nanochat's algorithm written down once more, plainly: lists, and a search over the whole buffer."""

    def batches():
        while True:
            for shard in shards:
                for group in shard[rank::world_size]:
                    for start in range(0, len(group), read_size):
                        yield group[start : start + read_size]

    source, buffer, rows = batches(), [], []
    while len(rows) < count:
        row = []
        while len(row) < length:
            while len(buffer) < buffer_size:
                buffer += [[BOS, *map(int, text.split())] for text in next(source)]
            room = length - len(row)
            best = None
            for index, document in enumerate(buffer):
                if len(document) <= room and (best is None or len(document) > len(buffer[best])):
                    best = index
            if best is None:
                best = min(range(len(buffer)), key=lambda index: len(buffer[index]))
            row += buffer.pop(best)[:room]
        rows.append(row)
    return rows


@needs_fixtures
@pytest.mark.parametrize("run", ["nanochat_2026_02_20", "nanochat_2026_07_03"])
@pytest.mark.parametrize("ahead", [True, False])
def test_batches_and_states_are_nanochats(run, ahead):
    base = FIXTURES / run
    dataset = open_dataset(next(base.glob("base_data*")))
    tokenizer = load_tokenizer(base / "tokenizer")
    with DataLoader(dataset.train, tokenizer, 2, 64, ahead=ahead) as loader:
        for expected in json.loads((base / "expected" / "dataloader_batches.json").read_text()):
            batch = loader.next_batch()
            assert batch.inputs.tolist() == expected["inputs"]
            assert batch.targets.tolist() == expected["targets"]
            assert loader.position == expected["state"]
        assert (batch.inputs.dtype, batch.targets.dtype) == (torch.int64, torch.int64)


lengths = st.lists(st.integers(0, 40), min_size=12, max_size=60)


@settings(max_examples=40, deadline=None)
@given(lengths, st.integers(1, 3), st.integers(3, 25), st.integers(1, 3))
def test_each_rank_packs_as_nanochats_ranks_do(lengths, world_size, sequence_len, group_size):
    texts = texts_of(lengths)
    groups = [texts[start : start + group_size] for start in range(0, len(texts), group_size)]
    shards = [groups[: len(groups) // 2], groups[len(groups) // 2 :]]
    world_size = min(world_size, *map(len, shards))
    with pytest.MonkeyPatch.context() as patch:
        small_buffer(patch)
        for rank in range(world_size):
            loader = DataLoader(
                Grouped(shards), Words(), 2, sequence_len, rank=rank, world_size=world_size, ahead=False
            )
            plain = plain_rows(shards, rank, world_size, sequence_len + 1, 10, 10, 4)
            assert rows_of(loader, 5) == plain


@settings(max_examples=30, deadline=None)
@given(
    lengths,
    st.sampled_from([1, 2, 3, 4, 6]),
    st.sampled_from([(1, 12), (2, 6), (3, 2), (4, 3), (6, 1)]),
    st.integers(1, 14),
    st.sampled_from(["crop", "cut"]),
    st.booleans(),
)
def test_resuming_at_any_batch_changes_nothing(lengths, lanes, ranks, after, long_documents, ahead):
    world_size, batch_size = ranks
    split = Grouped([[texts_of(lengths)]], long_documents)

    def start(rank, state=None):
        return DataLoader(
            split, Words(), batch_size, 9, rank=rank, world_size=world_size, rows_per_step=12,
            lanes=lanes, state=state, ahead=ahead,
        )  # fmt: skip

    with pytest.MonkeyPatch.context() as patch:
        small_buffer(patch)
        rank = after % world_size
        with start(rank) as loader:
            rows_of(loader, after)
            state = through_a_file(loader.state_dict())
            position, progress = loader.position, loader.progress
            expected = rows_of(loader, 5)
            end = loader.state_dict()
        with start(rank, state) as resumed:
            assert (resumed.position, resumed.progress) == (position, progress)
            assert rows_of(resumed, 5) == expected
            assert same(resumed.state_dict(), end)


@settings(max_examples=25, deadline=None)
@given(
    lengths,
    st.sampled_from([1, 2, 3, 4, 6, 12]),
    st.lists(
        st.sampled_from([(1, 12), (1, 4), (2, 6), (2, 3), (3, 2), (4, 3), (6, 2), (12, 1)]), min_size=2, max_size=4
    ),
)
def test_the_rows_of_a_step_do_not_depend_on_the_number_of_ranks(lengths, lanes, worlds):
    """A run that changes its number of ranks after every second step sees what one rank sees."""
    split = Grouped([[texts_of(lengths)]])

    def steps(world_size, batch_size, state, count):
        loaders = [
            DataLoader(
                split, Words(), batch_size, 9, rank=rank, world_size=world_size, rows_per_step=12, lanes=lanes,
                state=state, ahead=False,
            )
            for rank in range(world_size)
        ]  # fmt: skip
        batches = 12 // world_size // batch_size
        done = [[row for loader in loaders for row in rows_of(loader, batches)] for _ in range(count)]
        return done, merge_states([loader.state_dict() for loader in loaders])

    with pytest.MonkeyPatch.context() as patch:
        small_buffer(patch)
        expected, last = steps(1, 12, None, 2 * len(worlds))
        state, seen = None, []
        for world_size, batch_size in worlds:
            done, state = steps(world_size, batch_size, state, 2)
            seen += done
        assert seen == expected
        assert same(state["lane_states"], last["lane_states"])


def through_a_file(state):
    """Saved by torch and opened by the reader that runs nothing."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return torch.load(io.BytesIO(buffer.getvalue()), weights_only=True)


def same(first, second):
    """Whether two states are equal, tensors included."""
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, list):
        return len(first) == len(second) and all(map(same, first, second))
    return first == second


def test_a_state_before_the_first_batch_is_the_beginning():
    split = Grouped([[texts_of([5] * 30)]])
    with DataLoader(split, Words(), 2, 9) as loader:
        state = loader.state_dict()
        assert loader.position == {"pq_idx": 0, "rg_idx": 0, "epoch": 1}
        assert loader.progress == 0
        expected = rows_of(loader, 3)
    with DataLoader(split, Words(), 2, 9, state=state) as again:
        assert rows_of(again, 3) == expected


def test_the_state_is_small_and_plain(tmp_path):
    """A thousand documents of a thousand tokens: four bytes each, and nothing the safe reader refuses."""
    split = Grouped([[[" ".join(["7"] * 999)] * 100] * 20])
    with DataLoader(split, Words(), 1, 1999, ahead=False) as loader:
        loader.next_batch()
        state = loader.state_dict()
    path = tmp_path / "loader.pt"
    torch.save(state, path)
    buffered = len(state["lane_states"][0]["lengths"])
    assert 998 <= buffered < 1128
    assert path.stat().st_size < 4 * 1000 * buffered + 20_000
    assert same(load(path), state)


def test_documents_longer_than_a_row_are_cropped_or_cut_as_the_split_says(monkeypatch):
    small_buffer(monkeypatch, 1)
    texts = texts_of([10])
    with DataLoader(Grouped([[texts]], "crop"), Words(), 2, 4, ahead=False) as loader:
        assert rows_of(loader, 1) == [[0, 1, 2, 3, 4]] * 2
    with DataLoader(Grouped([[texts]], "cut"), Words(), 3, 4, ahead=False) as loader:
        assert rows_of(loader, 1) == [[0, 1, 2, 3, 4], [0, 5, 6, 7, 8], [0, 9, 10, 0, 9]]


def test_nanochats_own_state_goes_on_behind_its_row_group():
    groups = [[str(100 * group + number) + " 1 2 3" for number in range(1, 6)] for group in range(1, 9)]
    split = Grouped([groups, groups])
    for rank, first in ((0, 501), (1, 601)):  # groups 2 and 3 of shard 0 are read; 4 and 5 come next
        state = {"pq_idx": 0, "rg_idx": 2, "epoch": 3}
        with DataLoader(split, Words(), 1, 4, rank=rank, world_size=2, state=state) as loader:
            assert loader.position == {"pq_idx": 0, "rg_idx": 2, "epoch": 3}
            assert rows_of(loader, 1)[0][1] == first
            assert loader.position["epoch"] > 3  # a thousand documents are several epochs of this data
    with DataLoader(split, Words(), 1, 4, state={"pq_idx": 1, "rg_idx": 7}) as loader:
        assert rows_of(loader, 1)[0][1] == 101
    with pytest.raises(DataLoaderError, match="shard 2"):
        DataLoader(split, Words(), 1, 4, state={"pq_idx": 2, "rg_idx": 0, "epoch": 1})


def test_what_does_not_fit_together_is_refused():
    split = Grouped([[texts_of([5] * 30)]])
    with DataLoader(split, Words(), 2, 9, rows_per_step=4, lanes=2) as loader:
        middle = [loader.next_batch(), loader.state_dict()][1]
        state = [loader.next_batch(), loader.state_dict()][1]
    words = Words()
    words.fingerprint = "others"
    one = {**state, "lane_states": state["lane_states"][:1]}
    damaged = json.loads(json.dumps(state, default=lambda tensor: tensor.tolist()))
    for lane in damaged["lane_states"]:
        lane["lengths"], lane["tokens"] = torch.tensor(lane["lengths"]) + 1, torch.tensor(lane["tokens"])
    cases = [
        ("data has changed", lambda: DataLoader(Grouped([[["1"]]], identity="x"), Words(), 2, 9, state=state)),
        ("tokenizer has changed", lambda: DataLoader(split, words, 2, 9, state=state)),
        ("number of lanes has changed", lambda: DataLoader(split, Words(), 2, 9, state=state, lanes=1)),
        ("inside an optimizer step", lambda: DataLoader(split, Words(), 4, 9, state=middle)),
        ("inside an optimizer step", lambda: merge_states([middle])),
        ("do not add up", lambda: DataLoader(split, Words(), 2, 9, state=damaged)),
        ("lack lane 1", lambda: merge_states([one])),
        ("lacks lane 1", lambda: DataLoader(split, Words(), 2, 9, state=one)),
        ("differ in lanes", lambda: merge_states([state, {**state, "lanes": 3}])),
        ("no state", lambda: merge_states([])),
        ("not of this loader", lambda: merge_states([state, {"batch": 0}])),
        ("do not divide", lambda: DataLoader(split, Words(), 2, 9, world_size=2, rows_per_step=6)),
        ("do not divide", lambda: DataLoader(split, Words(), 2, 9, lanes=4)),
        ("at least 1", lambda: DataLoader(split, Words(), 0, 9)),
        ("at least 1", lambda: DataLoader(split, Words(), 1, 9, rank=2, world_size=2)),
        ("sequence_len", lambda: DataLoader(split, Words(), 1, 0)),
    ]
    for words_of_it, refused in cases:
        with pytest.raises(DataLoaderError, match=words_of_it) as caught:
            refused()
        assert "\n" not in str(caught.value)
    changed = [{**lane, "place": [1, 0, 0, 1, 0]} for lane in state["lane_states"]]
    with pytest.raises(DataLoaderError, match="two ranks disagree"):
        merge_states([state, {**state, "lane_states": changed}])


class Failing(Grouped):
    """Breaks at the second group."""

    def read(self, shard, group):
        if group:
            raise DatasetError("the second group is broken")
        return super().read(shard, group)


@pytest.mark.parametrize("ahead", [True, False])
def test_an_error_of_the_reader_is_raised_where_the_batch_is_asked_for(ahead, monkeypatch):
    small_buffer(monkeypatch)
    loader = DataLoader(Failing([[texts_of([8] * 12), ["1"]]]), Words(), 1, 8, ahead=ahead)
    with pytest.raises(DatasetError, match="second group"):
        rows_of(loader, 10)
    with pytest.raises(DatasetError, match="second group"):
        loader.next_batch()
    assert len(loader.state_dict()["lane_states"]) == 1  # that of the batches handed out is still there
    loader.close()
    assert not workers()


def test_no_text_at_all_does_not_hang():
    with DataLoader(Grouped([[[]], []]), Words(), 1, 8) as loader, pytest.raises(packing.PackingError):
        loader.next_batch()


def workers():
    return [thread for thread in threading.enumerate() if thread.name == "nanochat-dataloader"]


def test_the_thread_ends_with_its_loader():
    split = Grouped([[texts_of([5] * 30)]])
    loader = DataLoader(split, Words(), 1, 8, ahead=True)
    loader.next_batch()
    assert len(workers()) == 1
    loader.close()
    loader.close()
    assert not workers()
    with pytest.raises(DataLoaderError, match="closed"):
        loader.next_batch()
    forgotten = DataLoader(split, Words(), 1, 8, ahead=True)
    forgotten.next_batch()
    assert len(workers()) == 1
    del forgotten
    gc.collect()
    assert not workers()


def test_beside_a_cpu_there_is_no_thread():
    """It would take the cores that compute."""
    with DataLoader(Grouped([[texts_of([5] * 30)]]), Words(), 1, 8) as loader:
        loader.next_batch()
        assert not workers()


def test_an_interrupted_loader_keeps_its_state_and_gives_no_more():
    class Interrupting(Grouped):
        def read(self, shard, group):
            raise KeyboardInterrupt

    loader = DataLoader(Interrupting([[["1"]]]), Words(), 1, 8, ahead=False)
    with pytest.raises(KeyboardInterrupt):
        loader.next_batch()
    with pytest.raises(DataLoaderError, match="interrupted"):
        loader.next_batch()


def test_progress_counts_epochs_and_is_unknown_without_an_end(monkeypatch):
    small_buffer(monkeypatch, 1)
    split = Grouped([[["1 2 3 4"] * 2] * 2] * 2)  # 8 documents of 5 tokens, a row each
    with DataLoader(split, Words(), 1, 4) as loader:
        seen = [(rows_of(loader, 1), loader.progress)[1] for _ in range(16)]
    assert seen == [quarter / 4 for quarter in range(1, 9) for _ in range(2)]
    split.shards = None
    with DataLoader(split, Words(), 1, 4) as loader:
        assert loader.progress is None
