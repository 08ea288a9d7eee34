"""Documents into rows of equal length: best fit, as nanochat does it since 2026, and in lanes that any rank can read.

Every row begins with <|bos|> and is full. Into what is left of a row goes the longest buffered document that fits;
where none fits, the shortest is cropped to fill it. A third of web text is lost to cropping at 2,048 tokens; in return
every token sees its whole document. Where documents must stay whole, what none fits into is left empty instead, behind
one <|bos|>.

The order of the data is that of L lanes, whatever the number of ranks: lane l reads row groups l, l + L, ... and packs
them alone. nanochat's rank l of L is such a lane; here a rank may read several, or share one, so a run can go on with
more or fewer of them. numpy only, no torch.
"""

import bisect
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from nanochat.dataset_split import Split

BUFFER_DOCUMENTS = 1000  # nanochat's: enough choice for a good fit
READ_DOCUMENTS = 128  # tokenized together, as in nanochat; its order of documents depends on both numbers
NO_LOSS = -1  # in a row: no token is here; among targets: nothing is to be predicted
_DRY_SHARDS = 1000  # of a source without an end, before we say that there is nothing in it

Ids = NDArray[np.int32]


class PackingError(ValueError):
    """There is nothing to pack, or not what there was when a state was saved. One line."""


class BestFit:
    """A buffer of documents that finds the best fit without looking at each: by length, oldest first."""

    def __init__(self, documents: Sequence[Ids] = ()) -> None:
        self._documents: dict[int, Ids] = {}  # number of arrival -> document, so in order of arrival
        self._arrivals: dict[int, deque[int]] = {}  # length -> numbers of arrival, oldest first
        self._lengths: list[int] = []  # the lengths that occur, ascending
        self._arrived = 0
        for document in documents:
            self.add(document)

    def __len__(self) -> int:
        return len(self._documents)

    def add(self, document: Ids) -> None:
        """Put a document, not empty, into the buffer."""
        if len(document) not in self._arrivals:
            bisect.insort(self._lengths, len(document))
            self._arrivals[len(document)] = deque()
        self._arrivals[len(document)].append(self._arrived)
        self._documents[self._arrived] = document
        self._arrived += 1

    @property
    def arrived(self) -> int:
        """How many documents were ever added."""
        return self._arrived

    def has(self, room: int) -> bool:
        """Whether there is a document of at most `room` tokens."""
        return bool(self._lengths) and self._lengths[0] <= room

    def take(self, room: int) -> Ids:
        """Remove and return the longest document of at most `room` tokens, or, where none is, the shortest of all.

        Of several of that length the one that came first, which is what nanochat's search from the front finds.
        """
        fitting = bisect.bisect_right(self._lengths, room)
        index = max(fitting - 1, 0)
        length = self._lengths[index]
        arrivals = self._arrivals[length]
        document = self._documents.pop(arrivals.popleft())
        if not arrivals:
            del self._arrivals[length], self._lengths[index]
        return document

    def documents(self) -> list[Ids]:
        """All documents in order of arrival."""
        return list(self._documents.values())


@dataclass(frozen=True)
class Place:
    """How far a lane has read."""

    epoch: int = 1  # from 1, as nanochat counts
    shard: int = 0
    turn: int = -1  # which of the lane's groups in this shard; -1: none yet
    document: int = 0  # documents of that group already read
    group: int = 0  # the group itself, for messages: nanochat's rg_idx


@dataclass(frozen=True)
class LaneState:
    """All that a lane needs to go on with the very next token."""

    lane: int
    place: Place
    rows: int  # rows of the current optimizer step already packed
    documents: list[Ids]  # buffered, in order of arrival
    used_up: bool = False  # as many documents packed as one pass has; not saved: only a lane that began anew knows


def lane_groups(groups: int, lane: int, lanes: int) -> list[tuple[int, int, int]]:
    """What a lane reads of a shard: (group, part, parts), the part being every parts-th document from `part` on.

    Whole groups lane, lane + lanes, ... as nanochat's ranks. A shard with fewer groups than lanes is shared document by
    document; in nanochat the ranks beyond its groups would wait for ever.

    >>> lane_groups(5, 1, 2), lane_groups(2, 3, 4)
    ([(1, 0, 1), (3, 0, 1)], [(1, 1, 2)])
    """
    if groups >= lanes:
        return [(group, 0, 1) for group in range(lane, groups, lanes)]
    if not groups:
        return []
    group = lane % groups
    return [(group, lane // groups, len(range(group, lanes, groups)))]


class Reader:
    """The documents of one lane, epoch after epoch, as token ids."""

    def __init__(
        self, split: Split, encode: Callable[[list[str]], list[Ids]], lane: int, lanes: int, place: Place = Place()
    ) -> None:
        self.split, self.encode, self.lane, self.lanes, self.place = split, encode, lane, lanes, place
        self._texts: list[str] = []  # of the current group, this lane's part

    def read(self) -> list[Ids]:
        """The next documents, 128 or what is left of a group.

        Raises:
            PackingError: this lane finds no document at all, or the place is beyond the data.
            DatasetError: the data cannot be read.
        """
        if self.place.document and not self._texts:
            self._return_to_place()
        while self.place.document >= len(self._texts):
            self._next_group()
        batch = self._texts[self.place.document : self.place.document + READ_DOCUMENTS]
        self.place = replace(self.place, document=self.place.document + len(batch))
        return self.encode(batch)

    def _groups(self) -> list[tuple[int, int, int]]:
        return lane_groups(self.split.groups(self.place.shard), self.lane, self.lanes)

    def _load(self, group: int, part: int, parts: int) -> None:
        self._texts = self.split.read(self.place.shard, group)[part::parts]

    def _return_to_place(self) -> None:
        """Read the group again in whose middle a state was saved."""
        groups = self._groups()
        if self.place.turn < len(groups):
            self._load(*groups[self.place.turn])
        if len(self._texts) < self.place.document:
            raise PackingError(
                f"group {self.place.group} of shard {self.place.shard} has fewer documents than had been read of it; "
                "the data has changed: name the data of that run, or start anew"
            )

    def _next_group(self) -> None:
        """Go to the lane's next group that holds a document."""
        shards = self.split.shards
        dry = 0  # shards left behind since the last document
        while True:
            groups, turn = self._groups(), self.place.turn + 1
            if turn < len(groups):
                self.place = replace(self.place, turn=turn, group=groups[turn][0], document=0)
                self._load(*groups[turn])
                if self._texts:
                    return
                continue
            dry += 1
            if dry > (_DRY_SHARDS if shards is None else shards):
                raise PackingError(
                    f"lane {self.lane} of {self.lanes} finds no document in the whole of the data; give more text, or "
                    "use fewer ranks"
                )
            last = shards is not None and self.place.shard + 1 >= shards
            epoch, shard = (self.place.epoch + 1, 0) if last else (self.place.epoch, self.place.shard + 1)
            self.place = replace(self.place, epoch=epoch, shard=shard, turn=-1, document=0)


class Lane:
    """One reader and its buffer, from which rows are packed."""

    def __init__(self, number: int, reader: Reader, rows: int = 0, documents: Sequence[Ids] = ()) -> None:
        self.number, self.reader, self.rows = number, reader, rows
        self.buffer = BestFit(documents)
        self._began_anew = reader.place == Place() and not documents
        self._pass: int | None = None  # documents of one pass, known once the reader has begun the next

    def pack(self, row: NDArray[np.int64] | None, length: int) -> None:
        """Fill one row of `length` tokens; None where another rank uses the row and only its documents must go."""
        whole = self.reader.split.long_documents == "whole"
        filled = 0
        while filled < length:
            while len(self.buffer) < BUFFER_DOCUMENTS:  # before each placement, as nanochat does
                documents = self.reader.read()
                if self._began_anew and self._pass is None and self.reader.place.epoch > 1:
                    self._pass = self.buffer.arrived
                for document in documents:
                    self.buffer.add(document)
            if whole and filled and not self.buffer.has(length - filled):
                if row is not None:
                    row[filled:] = NO_LOSS
                    row[filled] = row[0]  # <|bos|>: that the last document ends here is to be learned like any token
                break
            document = self.buffer.take(length - filled)
            used = min(len(document), length - filled)
            if row is not None:
                row[filled : filled + used] = document[:used]
            filled += used
        self.rows += 1

    def state(self) -> LaneState:
        """As of now. Documents never change, so this copies a list and no token."""
        used_up = self._pass is not None and self.buffer.arrived - len(self.buffer) >= self._pass
        return LaneState(self.number, self.reader.place, self.rows, self.buffer.documents(), used_up)


def cut(ids: Ids, length: int) -> list[Ids]:
    """A document that begins with <|bos|> as documents of at most `length` tokens that each begin with it.

    >>> [piece.tolist() for piece in cut(np.array([0, 1, 2, 3, 4, 5]), 3)]
    [[0, 1, 2], [0, 3, 4], [0, 5]]
    """
    if len(ids) <= length:
        return [ids]
    step = length - 1
    return [np.concatenate((ids[:1], ids[start : start + step])) for start in range(1, len(ids), step)]
