"""Batches of packed rows for training, ready before they are asked for, and a state that goes on with the next token.

    loader = DataLoader(dataset.train, tokenizer, batch_size=8, sequence_len=256)
    inputs, targets = loader.next_batch()       # (B, T) each: token ids, and the token after each
    state = loader.state_dict()                 # small; torch.save takes it
    loader = DataLoader(dataset.train, tokenizer, batch_size=8, sequence_len=256, state=state)

Rows are packed as nanochat packs them (`packing.py`). Beside a GPU a thread reads, tokenizes and packs while the model
computes; its tokenizer works outside Python's lock. The state is that of the batches handed out, whatever the thread
has ready, and holds the buffered documents: nanochat loses about a thousand of them at each resume. Several ranks: each
takes its rows of every optimizer step, and `merge_states` makes of their states one that any other number of ranks can
start from.
"""

import queue
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from nanochat.dataloader_state import DataLoaderError, Layout, Snapshot, choose, merge_states, start, to_dict
from nanochat.dataset_split import Split
from nanochat.packing import NO_LOSS, Ids, Lane, Reader, cut

if TYPE_CHECKING:
    from nanochat.tokenizer import Tokenizer

__all__ = ["Batch", "DataLoader", "DataLoaderError", "merge_states", "whole_documents"]

AHEAD = 4  # batches the thread keeps ready


class Batch(NamedTuple):
    """Rows for one forward pass. Unpacks into (inputs, targets)."""

    inputs: Tensor  # (B, T) int64 token ids
    targets: Tensor  # (B, T) int64, the token after each input; NO_LOSS where none is to be predicted


class DataLoader:
    """An endless stream of batches from one split, for one rank.

    rows_per_step: rows of one optimizer step over all ranks (default: the state's, else one batch a rank). lanes: see
    `packing.py` (default: the state's, else world_size). state: of `state_dict` or `merge_states`, or nanochat's own
    {pq_idx, rg_idx, epoch}, which goes on behind that row group, approximately, as nanochat does. ahead: read and
    tokenize in a thread (default: beside a GPU; on a CPU the thread would take the cores that compute, and the lock of
    Python while it packs). Close it when done; one that is forgotten stops with its last reference.

    Raises:
        DataLoaderError: sizes that do not divide, or a state of other data, another tokenizer or another layout.
    """

    def __init__(
        self,
        split: Split,
        tokenizer: "Tokenizer",
        batch_size: int,
        sequence_len: int,
        *,
        rank: int = 0,
        world_size: int = 1,
        rows_per_step: int | None = None,
        lanes: int | None = None,
        device: str | torch.device = "cpu",
        state: Mapping[str, Any] | None = None,
        ahead: bool | None = None,
    ) -> None:
        if sequence_len < 1:
            raise DataLoaderError(f"sequence_len is {sequence_len}; a row needs at least 1 token")
        self._layout = Layout(
            batch_size,
            rank,
            world_size,
            choose(rows_per_step, state, "rows_per_step", batch_size * world_size),
            choose(lanes, state, "lanes", world_size),
        )
        self.device = torch.device(device)
        if self.device.type == "cuda" and self.device.index is None:
            self.device = torch.device("cuda", torch.cuda.current_device())
        self._split = split
        self._data = split.identity, tokenizer.fingerprint
        self._last = start(state, self._layout, split, *self._data)
        self._failure: BaseException | None = None
        encode = _encoder(split, tokenizer, sequence_len + 1)
        packer = _Packer(split, encode, sequence_len, self._layout, self._last, self.device)
        ahead = self.device.type == "cuda" if ahead is None else ahead
        self._source: _Packer | _Worker = _Worker(packer) if ahead else packer
        self._finalizer = weakref.finalize(self, self._source.stop)  # also at the interpreter's exit

    def __enter__(self) -> "DataLoader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def next_batch(self) -> Batch:
        """The next B rows on the device; on a GPU the copy runs beside what it computes.

        Raises:
            DatasetError, PackingError: the data cannot be read, or there is none; met by the thread, raised here.
            DataLoaderError: the loader is closed, or was interrupted before.
        """
        if not self._finalizer.alive:
            raise DataLoaderError("this loader is closed; make another one, with its state_dict() to go on")
        if self._failure is not None:
            raise self._failure
        try:
            rows, snapshot = self._source.take()
        except BaseException as error:
            # After Ctrl-C a batch may be lost or half packed. The state is still that of the batches handed out.
            interrupted = DataLoaderError("this loader was interrupted; make another one with its state_dict()")
            self._failure = error if isinstance(error, Exception) else interrupted
            raise
        self._last = snapshot
        both = rows.to(self.device, non_blocking=True)  # (2, B, T); asynchronous, since the memory is pinned
        return Batch(both[0], both[1])

    @property
    def position(self) -> dict[str, int]:
        """Shard, row group and epoch that were read last for the batches handed out: nanochat's state."""
        place = self._last.lanes[0].place
        return {"pq_idx": place.shard, "rg_idx": place.group, "epoch": place.epoch}

    @property
    def progress(self) -> float | None:
        """How much has been read, in epochs: 0.25 is a quarter of the first. None for data without an end."""
        shards, place = self._split.shards, self._last.lanes[0].place
        if shards is None:
            return None
        groups = max(self._split.groups(place.shard), 1)
        return place.epoch - 1 + (place.shard + min((place.group + (place.document > 0)) / groups, 1)) / shards

    @property
    def used_up(self) -> bool:
        """Whether as many documents have been handed out as one pass over the data has.

        `progress` is ahead of it by a thousand documents, which wait for a row that they fit: a short text has then
        been read, and hardly a row of it seen. Always False of a loader that began with a state.
        """
        return all(lane.used_up for lane in self._last.lanes)

    def state_dict(self) -> dict[str, Any]:
        """This rank's state after the last batch handed out: plain values and int32 tensors, 4 bytes a buffered token.

        It can start a loader of the same rank and world size at any batch. For another world size merge those of all
        ranks, taken between two optimizer steps.
        """
        return to_dict(self._last, self._layout, *self._data)

    def close(self) -> None:
        """Stop the thread and wait for it. The state stays readable; closing twice does nothing."""
        self._finalizer()


def whole_documents(
    texts: Iterable[str], tokenizer: "Tokenizer", batch_size: int, sequence_len: int
) -> Iterator[Batch]:
    """Each document alone in a row behind <|bos|>, the rest of the row without loss: for exact scores.

    The last batch may have fewer rows. Raises DataLoaderError for a document that a row cannot hold.
    """
    bos = tokenizer.get_bos_token_id()
    rows: list[list[int]] = []
    for number, text in enumerate(texts):
        ids = tokenizer.encode(text)
        if len(ids) > sequence_len:
            raise DataLoaderError(
                f"document {number} has {len(ids):,} tokens and a row takes {sequence_len:,}; leave it out, or score "
                "with longer rows"
            )
        rows.append(ids)
        if len(rows) == batch_size:
            yield _padded(rows, bos, sequence_len)
            rows = []
    if rows:
        yield _padded(rows, bos, sequence_len)


def _padded(rows: list[list[int]], bos: int, length: int) -> Batch:
    inputs = torch.full((len(rows), length), bos)  # (B, T); whatever stands behind a document is not scored
    targets = torch.full((len(rows), length), NO_LOSS)
    for row, ids in enumerate(rows):
        inputs[row, 1 : len(ids)] = torch.tensor(ids[:-1], dtype=torch.int64)
        targets[row, : len(ids)] = torch.tensor(ids, dtype=torch.int64)
    return Batch(inputs, targets)


def _encoder(split: Split, tokenizer: "Tokenizer", length: int) -> Callable[[list[str]], list[Ids]]:
    """Texts -> documents of ids behind <|bos|>; those longer than a row cut, where the split says so."""
    bos = tokenizer.get_bos_token_id()

    def encode(texts: list[str]) -> list[Ids]:
        documents = [np.array(ids, dtype=np.int32) for ids in tokenizer.encode(texts, prepend=bos)]
        if split.long_documents == "cut":
            return [piece for document in documents for piece in cut(document, length)]
        return documents

    return encode


class _Packer:
    """Makes one batch after the other: in the thread, or, where there is none, when `next_batch` asks."""

    def __init__(
        self,
        split: Split,
        encode: Callable[[list[str]], list[Ids]],
        sequence_len: int,
        layout: Layout,
        begin: Snapshot,
        device: torch.device,
    ) -> None:
        self.layout, self.device, self.batch = layout, device, begin.batch
        self.length = sequence_len + 1  # tokens a row: it is inputs and targets at once
        self.lanes: dict[int, Lane] = {}
        for saved in begin.lanes:
            reader = Reader(split, encode, saved.lane, layout.lanes, saved.place)
            self.lanes[saved.lane] = Lane(saved.lane, reader, saved.rows, saved.documents)

    def take(self) -> tuple[Tensor, Snapshot]:
        """(2, B, T) inputs and targets, and where that leaves us."""
        size = self.layout.batch_size
        rows = np.empty((size, self.length), dtype=np.int64)  # (B, T + 1)
        for index in range(size):
            number, lane_row = self.layout.where(self.batch, index)
            lane = self.lanes[number]
            while lane.rows < lane_row:  # rows of a rank before us that shares this lane
                lane.pack(None, self.length)
            lane.pack(rows[index], self.length)
        self.batch += 1
        if self.batch == self.layout.batches:
            self._end_step()
        pinned = self.device.type == "cuda"
        both = torch.empty((2, size, self.length - 1), dtype=torch.int64, pin_memory=pinned)
        both[0] = torch.from_numpy(np.where(rows == NO_LOSS, rows[:, :1], rows)[:, :-1])  # an empty place reads <|bos|>
        both[1] = torch.from_numpy(rows[:, 1:])
        return both, Snapshot(self.batch, [lane.state() for lane in self.lanes.values()])

    def _end_step(self) -> None:
        """Pass over what the ranks behind us take of a shared lane, so that all ranks leave it in the same state."""
        for lane in self.lanes.values():
            while lane.rows < self.layout.lane_rows:
                lane.pack(None, self.length)
            lane.rows = 0
        self.batch = 0

    def stop(self) -> None:
        """There is no thread to stop."""


class _Worker:
    """A thread that keeps some batches ready. It knows no loader, so that a forgotten loader can go."""

    def __init__(self, packer: _Packer) -> None:
        self._room = threading.Semaphore(AHEAD)
        self._ready: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(packer,), name="nanochat-dataloader", daemon=True)
        self._thread.start()

    def take(self) -> tuple[Tensor, Snapshot]:
        item = self._ready.get()
        self._room.release()
        if isinstance(item, BaseException):
            raise item
        return item

    def stop(self) -> None:
        self._stopping.set()
        self._room.release()
        if self._thread is not threading.current_thread():  # a garbage collection may run in any thread, ours too
            self._thread.join()

    def _run(self, packer: _Packer) -> None:
        try:
            if packer.device.type == "cuda":
                torch.cuda.set_device(packer.device)  # a thread begins on GPU 0: pinning would take memory there
            while True:
                self._room.acquire()
                if self._stopping.is_set():
                    return
                self._ready.put(packer.take())
        except BaseException as error:  # noqa: BLE001 - it is raised where the batch is asked for
            self._ready.put(error)
