"""Best fit finds what a plain search finds, and lanes share the data out without loss."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.dataset_split import Texts
from nanochat.packing import NO_LOSS, BestFit, Lane, PackingError, Place, Reader, cut, lane_groups


def plain_take(documents: list[np.ndarray], room: int) -> np.ndarray:
    """The definition: look at every document from the front, keep the first longest that fits, else first shortest."""
    fitting = [document for document in documents if len(document) <= room]
    wanted = max(map(len, fitting)) if fitting else min(map(len, documents))
    index = next(index for index, document in enumerate(documents) if len(document) == wanted)
    return documents.pop(index)


@given(st.lists(st.tuples(st.integers(1, 12), st.integers(0, 14)), min_size=1, max_size=60), st.integers(1, 20))
def test_best_fit_takes_what_a_plain_search_takes(steps, at_first):
    """Each step adds a document of some length and then takes one for some room; ties are told apart by content."""
    fast, plain = BestFit(), []
    for number, (length, room) in enumerate(steps):
        document = np.full(length, number, dtype=np.int32)
        fast.add(document)
        plain.append(document)
        if number >= at_first:
            assert fast.take(room) is plain_take(plain, room)
        assert [id(kept) for kept in fast.documents()] == [id(kept) for kept in plain]
    assert len(fast) == len(plain)
    while plain:
        assert fast.take(5) is plain_take(plain, 5)
    assert len(fast) == 0


@given(st.integers(0, 40), st.integers(1, 12))
def test_lanes_share_the_documents_of_a_shard_out(groups, lanes):
    """Every document of every group goes to exactly one lane, whatever the numbers."""
    documents = [(group, number) for group in range(groups) for number in range(30)]
    taken = []
    for lane in range(lanes):
        for group, part, parts in lane_groups(groups, lane, lanes):
            taken += [(group, number) for number in range(30)[part::parts]]
    assert sorted(taken) == documents


def test_lanes_are_nanochats_ranks_where_there_are_enough_groups():
    assert [lane_groups(7, lane, 3) for lane in range(3)] == [
        [(0, 0, 1), (3, 0, 1), (6, 0, 1)],
        [(1, 0, 1), (4, 0, 1)],
        [(2, 0, 1), (5, 0, 1)],
    ]


def as_ids(texts: list[str]) -> list[np.ndarray]:
    return [np.array([0, int(text)], dtype=np.int32) for text in texts]


def test_a_reader_goes_through_groups_and_epochs_and_returns_to_its_place():
    split = Texts([str(number) for number in range(250)])  # groups of 100, 100 and 50
    reader = Reader(split, as_ids, lane=0, lanes=1)
    seen, places = [], []
    for _ in range(6):
        places.append(reader.place)
        seen.append([int(ids[1]) for ids in reader.read()])
    assert [len(batch) for batch in seen] == [100, 100, 50] * 2
    assert [number for batch in seen[:3] for number in batch] == list(range(250))
    assert seen[:3] == seen[3:]
    assert (reader.place.epoch, reader.place.group, reader.place.document) == (2, 2, 50)
    for place, batch in zip(places, seen, strict=True):
        assert [int(ids[1]) for ids in Reader(split, as_ids, 0, 1, place).read()] == batch


def test_a_place_in_the_middle_of_a_group_is_found_again():
    class OneGroup(Texts):
        def groups(self, shard):
            return 1

        def read(self, shard, group):
            return self.texts

    split = OneGroup([str(number) for number in range(300)])
    reader = Reader(split, as_ids, 0, 1)
    first = reader.read()
    assert (len(first), reader.place.document) == (128, 128)
    rest = Reader(split, as_ids, 0, 1, reader.place).read()
    assert [int(ids[1]) for ids in rest] == list(range(128, 256))
    with pytest.raises(PackingError, match="fewer documents"):
        Reader(OneGroup(["1"] * 100), as_ids, 0, 1, reader.place).read()


class Endless(Texts):
    """A source without an end that never gives a document."""

    shards = None

    def __init__(self):
        self.asked = 0

    def groups(self, shard):
        return 3

    def read(self, shard, group):
        self.asked += 1
        return []


@pytest.mark.parametrize("lanes", [1, 5])
def test_nothing_to_read_ends_in_a_sentence(lanes):
    with pytest.raises(PackingError, match=r"lane 0 of .* finds no document"):
        Reader(Texts([]), as_ids, 0, lanes).read()


def test_a_lane_without_a_document_is_named():
    few = Texts(["1", "2"])
    assert len(Reader(few, as_ids, 1, 4).read()) == 1
    with pytest.raises(PackingError, match=r"lane 2 of 4.*fewer ranks"):
        Reader(few, as_ids, 2, 4).read()


def test_an_endless_source_of_nothing_ends_too():
    source = Endless()
    with pytest.raises(PackingError):
        Reader(source, as_ids, 0, 1).read()
    assert source.asked < 10_000


def test_upstreams_place_skips_to_the_next_group_of_a_lane():
    split = Texts([str(number) for number in range(500)])
    reader = Reader(split, as_ids, lane=1, lanes=2, place=Place(epoch=3, turn=0, group=1))
    assert int(reader.read()[0][1]) == 300  # groups 1, 3: behind group 1 comes 3
    assert reader.place.epoch == 3


@given(st.integers(1, 50), st.integers(2, 12))
def test_cutting_keeps_every_token_in_order(tokens, length):
    ids = np.arange(tokens, dtype=np.int32)  # 0 is the token that begins a document
    pieces = cut(ids, length)
    assert all(piece[0] == 0 and len(piece) <= length for piece in pieces)
    assert [0, *(int(token) for piece in pieces for token in piece[1:])] == ids.tolist()
    assert all(len(piece) == length for piece in pieces[:-1])


class Short(Texts):
    """Documents that must stay whole."""

    def __init__(self, texts):
        super().__init__(texts, "whole")


@given(st.lists(st.integers(2, 12), min_size=1, max_size=40), st.integers(12, 30))
@settings(max_examples=40)
def test_whole_documents_are_never_cropped(lengths, room):
    """A row holds whole documents, then one bos for the end of the last, then nothing; and none would still fit."""
    documents = [np.array([0] + [number + 1] * (length - 1), dtype=np.int32) for number, length in enumerate(lengths)]
    split = Short([str(number) for number in range(len(lengths))])
    lane = Lane(0, Reader(split, lambda texts: [documents[int(text)] for text in texts], 0, 1))
    row = np.empty(room, dtype=np.int64)
    for _ in range(30):
        lane.pack(row, room)
        filled = row[row != NO_LOSS]
        assert (row[len(filled) :] == NO_LOSS).all()
        pieces = [piece.tolist() for piece in np.split(filled, np.flatnonzero(filled == 0))[1:]]
        whole = pieces if len(pieces[-1]) > 1 else pieces[:-1]
        assert len(filled) == room or len(whole) < len(pieces)
        assert all(piece == documents[piece[1] - 1].tolist() for piece in whole)
        assert not lane.buffer.has(room - sum(map(len, whole)))
