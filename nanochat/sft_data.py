"""Batches for fine-tuning: whole conversations packed into rows, with a loss only on what the assistant says.

    loader = SFTLoader(mixture, tokenizer, batch_size=8, sequence_len=256)
    batch = loader.next_batch()      # inputs and targets (8, 256); a target of -1 has no loss

A row takes the longest conversation that still fits, then the longest that fits behind it, and so on; what no
conversation fits is padded. So nothing is cut that a row can hold. In pretraining a cropped document is no loss, but a
conversation without its answer teaches nothing. Within an epoch every conversation is used exactly once. Rows are the
same as those of nanochat's newest chat_sft.

Every rank runs the same packer over the same order and takes its own rows of each step, so the data do not depend on
the number of ranks, and a run goes on with more or fewer of them. The state is a few hundred whole numbers: the order
follows from the mixture's seed, and a conversation from its place in it.

Legend: B rows of a batch, T tokens.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nanochat.dataloader import Batch
from nanochat.packing import NO_LOSS
from nanochat.tasks.mixture import Mixture

if TYPE_CHECKING:
    from nanochat.tokenizer import Tokenizer

BUFFER = 100  # conversations to choose from; nanochat's number, and parity needs it
STATE_VERSION = 1


class SFTDataError(ValueError):
    """Batches cannot be made of these conversations, or not continued from this state: one sentence."""


@dataclass(frozen=True)
class Piece:
    """A conversation as tokens, ready to be laid into a row."""

    position: int  # in the epoch's order
    ids: list[int]
    mask: list[int]  # 1 where the model learns to write this token
    cut: bool = False  # it was longer than a row, and its end is missing


class Packer:
    """The sequence of rows: which conversations stand in each. Knows nothing of ranks, batches and tensors."""

    def __init__(
        self,
        mixture: Mixture,
        tokenizer: "Tokenizer",
        capacity: int,
        buffer_size: int = BUFFER,
        last_epoch: int | None = None,
    ) -> None:
        """capacity: tokens of a row, one more than a model reads at once, because targets are one token ahead.

        last_epoch: rows end with this one, counted from 0; None: they never end.
        """
        self.mixture, self.tokenizer, self.capacity, self.buffer_size = mixture, tokenizer, capacity, buffer_size
        self.last_epoch = last_epoch
        self.epoch = 0
        self.cursor = 0  # position in the epoch's order of the next conversation to read
        self.consumed = 0  # conversations placed into rows or dropped, over all epochs
        self.truncated = 0  # of those, how many were longer than a row and lost their end
        self.dropped = 0  # of those, how many had nothing to learn within a row
        self._buffer: list[Piece] = []
        self._placed = 0  # in this epoch: an epoch of which nothing can be placed would never end

    def row(self) -> list[Piece]:
        """The conversations of the next row, in order; none behind the last epoch."""
        pieces: list[Piece] = []
        left = self.capacity
        while left:
            self._fill()
            best = None
            for index, piece in enumerate(self._buffer):
                if len(piece.ids) <= left and (best is None or len(piece.ids) > len(self._buffer[best].ids)):
                    best = index  # of equally long ones the first, as in nanochat
            if best is None:
                break
            pieces.append(self._buffer.pop(best))
            left -= len(pieces[-1].ids)
            self.consumed += 1
            self.truncated += pieces[-1].cut
            self._placed += 1
        return pieces

    def _fill(self) -> None:
        """Read conversations until there are enough to choose from, or the epoch has no more.

        The next epoch begins once the last conversation of this one is placed, so that epochs never mix in the buffer.
        """
        while len(self._buffer) < self.buffer_size:
            if self.cursor == len(self.mixture):
                if self._buffer or self.epoch == self.last_epoch:
                    return
                if not self._placed:
                    raise SFTDataError(
                        f"none of the {len(self.mixture):,} conversations has a word of the assistant within the first "
                        f"{self.capacity:,} tokens; take a longer sequence_len, or other conversations"
                    )
                self.epoch, self.cursor, self._placed = self.epoch + 1, 0, 0
            piece = self._read(self.cursor)
            self.cursor += 1
            if any(piece.mask[1:]):  # the first token is never a target
                self._buffer.append(piece)
            else:
                self.dropped += 1
                self.consumed += 1

    def _read(self, position: int) -> Piece:
        rendered = self.tokenizer.render_conversation(self.mixture.conversation(self.epoch, position), self.capacity)
        return Piece(position, rendered.ids, rendered.mask, rendered.dropped > 0)

    def state_dict(self) -> dict[str, Any]:
        """All that the next row depends on, in whole numbers."""
        names = ("epoch", "cursor", "consumed", "truncated", "dropped")
        state: dict[str, Any] = {name: getattr(self, name) for name in names}
        return {**state, "placed": self._placed, "buffer": [piece.position for piece in self._buffer]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on as the packer whose state this is."""
        for name in ("epoch", "cursor", "consumed", "truncated", "dropped"):
            setattr(self, name, state[name])
        self._placed = state["placed"]
        self._buffer = [self._read(position) for position in state["buffer"]]


class SFTLoader:
    """Batches of packed conversations for one rank; the same interface as the pretraining DataLoader."""

    def __init__(
        self,
        mixture: Mixture,
        tokenizer: "Tokenizer",
        batch_size: int,
        sequence_len: int,
        *,
        rank: int = 0,
        world_size: int = 1,
        rows_per_step: int | None = None,
        device: "torch.device | str" = "cpu",
        state: dict[str, Any] | None = None,
        buffer_size: int = BUFFER,
    ) -> None:
        """rows_per_step: rows of one optimizer step over all ranks; None: a batch of each rank.

        state: `state_dict()` of a loader that this one continues.
        Raises SFTDataError for sizes that do not fit together and for a state of other data.
        """
        rows = batch_size * world_size if rows_per_step is None else rows_per_step
        if min(batch_size, sequence_len, world_size, rows) < 1 or rows % (batch_size * world_size):
            raise SFTDataError(
                f"{rows} rows a step do not divide into batches of {batch_size} on {world_size} ranks; give a multiple "
                f"of {batch_size * world_size}"
            )
        if not 0 <= rank < world_size:
            raise SFTDataError(f"rank is {rank} of {world_size}; give 0 to {world_size - 1}")
        self.batch_size, self.sequence_len, self.rows_per_step = batch_size, sequence_len, rows
        self.rank, self.world_size, self.device = rank, world_size, torch.device(device)
        self._packer = Packer(mixture, tokenizer, sequence_len + 1, buffer_size)
        self._padding = tokenizer.get_bos_token_id()
        self._facts = {  # what a state must agree with; the number of ranks is not among them
            "mixture": mixture.identity,
            "tokenizer": tokenizer.fingerprint,
            "sequence_len": sequence_len,
            "rows_per_step": rows,
            "buffer_size": buffer_size,
        }
        self._step_start = self._packer.state_dict()  # of the step whose batches are being handed out
        self._handed = 0  # batches of that step so far
        self._rows: list[list[Piece]] = []  # this rank's rows of that step
        self._position = {"pq_idx": 0, "rg_idx": 0, "epoch": 1}
        self.supervised = 0  # targets with a loss that this rank has handed out
        self.padded = 0  # tokens of padding that this rank has handed out
        if state is not None:
            self._load(state)

    def next_batch(self) -> Batch:
        """The next batch: inputs (B, T) and targets (B, T), int64; targets are -1 where there is no loss."""
        share = self.rows_per_step // self.world_size
        if self._handed * self.batch_size == share or not self._rows:
            if self._rows:  # a step is complete
                self._step_start, self._handed = self._packer.state_dict(), 0
            rows = [self._packer.row() for _ in range(self.rows_per_step)]
            self._rows = rows[self.rank * share : (self.rank + 1) * share]
        first = self._handed * self.batch_size
        batch = self._batch(self._rows[first : first + self.batch_size])
        self._handed += 1
        self._position = {"pq_idx": 0, "rg_idx": self._packer.cursor, "epoch": self._packer.epoch + 1}
        return batch

    @property
    def position(self) -> dict[str, int]:
        """Where the last step was read: the epoch from 1, and as rg_idx the conversations of it read so far."""
        return dict(self._position)

    @property
    def progress(self) -> float:
        """Passes over the mixture so far: 1 once every conversation stands in a step that was begun. No end."""
        return self._packer.consumed / len(self._packer.mixture)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of the conversations used so far; empty where nothing was lost."""
        packer, said = self._packer, []
        if packer.truncated:
            said.append(
                f"{packer.truncated:,} of {packer.consumed:,} conversations were longer than a row and were cut"
            )
        if packer.dropped:
            said.append(
                f"{packer.dropped:,} of {packer.consumed:,} had no word of the assistant within a row: left out"
            )
        return tuple(said)

    def state_dict(self) -> dict[str, Any]:
        """Where to go on, as of the batches handed out. The same on every rank.

        It has the layout of the pretraining loader's with a single lane, so `dataloader.merge_states` takes it.
        """
        complete = self._handed * self.batch_size * self.world_size == self.rows_per_step
        return {
            "version": STATE_VERSION,
            "kind": "sft",
            "facts": dict(self._facts),
            "position": dict(self._position),
            "batch": 0 if complete else self._handed * self.batch_size * self.world_size,  # rows of a step begun
            "lanes": 1,
            "lane_states": [{"lane": 0, "place": self._packer.state_dict() if complete else dict(self._step_start)}],
        }

    def close(self) -> None:
        """Nothing runs behind this loader; here because every loader has it."""

    def _load(self, state: dict[str, Any]) -> None:
        if not isinstance(state, dict) or state.get("kind") != "sft" or state.get("version") != STATE_VERSION:
            raise SFTDataError(
                "the saved place in the data is not one of fine-tuning; resume with the script that saved"
            )
        for name, value in self._facts.items():
            if state["facts"].get(name) != value:
                raise SFTDataError(
                    f"the data are not those of the saved run: {name.replace('_', ' ')} differs; resume with the same "
                    "conversations and settings, or start a new run from the weights"
                )
        self._packer.load_state_dict(state["lane_states"][0]["place"])
        self._step_start = self._packer.state_dict()
        self._position = dict(state["position"])
        skip, rest = divmod(state["batch"], self.batch_size * self.world_size)
        if rest:
            raise SFTDataError(
                f"the run was saved within a step, after {state['batch']} rows; resume with a batch size and a "
                "number of ranks that divide that"
            )
        for _ in range(skip):
            self.next_batch()

    def _batch(self, rows: list[list[Piece]]) -> Batch:
        inputs, targets = lay_out(rows, self.sequence_len, self._padding)
        self.supervised += int((targets != NO_LOSS).sum())
        self.padded += sum(self.sequence_len + 1 - sum(len(piece.ids) for piece in pieces) for pieces in rows)
        return Batch(self._place(inputs), self._place(targets))

    def _place(self, tensor: Tensor) -> Tensor:
        """On the device; from pinned memory the copy runs beside the computation."""
        if self.device.type == "cuda":
            return tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor.to(self.device)


def one_epoch(
    mixture: Mixture,
    tokenizer: "Tokenizer",
    batch_size: int,
    sequence_len: int,
    *,
    max_tokens: int | None = None,
    rank: int = 0,
    world_size: int = 1,
    device: "torch.device | str" = "cpu",
) -> Iterator[Batch]:
    """Every conversation of an epoch once, packed into rows of which each rank gets its part: for validation.

    `max_tokens` ends it early, after the rows that reach that many tokens over all ranks. The last batch may have fewer
    rows. Where there are fewer rows than ranks, every rank gets them all, so that none has nothing to average.
    """
    packer = Packer(mixture, tokenizer, sequence_len + 1, last_epoch=0)
    limit = None if max_tokens is None else -(-max_tokens // sequence_len)
    rows = islice(iter(packer.row, []), limit)
    head = list(islice(rows, world_size))
    skip, stride = (rank, world_size) if len(head) == world_size else (0, 1)
    mine = islice(chain(head, rows), skip, None, stride)
    while group := list(islice(mine, batch_size)):
        inputs, targets = lay_out(group, sequence_len, tokenizer.get_bos_token_id())
        yield Batch(inputs.to(device), targets.to(device))


def lay_out(rows: list[list[Piece]], sequence_len: int, padding: int) -> tuple[Tensor, Tensor]:
    """Rows of conversations as inputs (B, T) and targets (B, T): the next token where the model learns it, else -1."""
    ids = torch.full((len(rows), sequence_len + 1), padding, dtype=torch.int64)
    learnt = torch.zeros(ids.shape, dtype=torch.bool)
    for number, pieces in enumerate(rows):
        tokens = [token for piece in pieces for token in piece.ids]
        ids[number, : len(tokens)] = torch.tensor(tokens)
        learnt[number, : len(tokens)] = torch.tensor([bit for piece in pieces for bit in piece.mask], dtype=torch.bool)
    targets = torch.where(learnt, ids, NO_LOSS)
    return ids[:, :-1].contiguous(), targets[:, 1:].contiguous()
