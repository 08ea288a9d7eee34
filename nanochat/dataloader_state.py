"""Which rows of a step are whose, and what is kept so that a loader goes on with the very next token.

The rows of one optimizer step are numbered over all ranks, lane by lane, so the data does not depend on how many ranks
there are: a rank takes a stretch of the numbers and runs the lanes it falls into. `dataloader.py` uses it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass
from typing import Any

import numpy as np

from nanochat.dataset_split import Split
from nanochat.packing import LaneState, Place

_UPSTREAM_KEYS = {"pq_idx", "rg_idx", "epoch"}  # nanochat's own state, in its meta files; at first without the epoch


class DataLoaderError(ValueError):
    """A loader cannot be made, or cannot go on. One line: what does not fit, and what to do."""


@dataclass(frozen=True)
class Layout:
    """How the rows of an optimizer step are divided. Checked when made.

    Row i of R belongs to lane i // (R / L); rank r of W takes the rows from r R / W to (r + 1) R / W, B at a time.
    """

    batch_size: int  # B
    rank: int  # r
    world_size: int  # W
    rows_per_step: int  # R
    lanes: int  # L

    def __post_init__(self) -> None:
        if min(self.batch_size, self.world_size, self.rows_per_step, self.lanes) < 1 or not (
            0 <= self.rank < self.world_size
        ):
            raise DataLoaderError(
                f"batch_size {self.batch_size}, rows_per_step {self.rows_per_step}, lanes {self.lanes}, rank "
                f"{self.rank} of {self.world_size}: all must be at least 1, and the rank below the number of ranks"
            )
        if self.rows_per_step % (self.batch_size * self.world_size) or self.rows_per_step % self.lanes:
            raise DataLoaderError(
                f"{self.rows_per_step} rows a step do not divide into {self.lanes} lanes and into batches of "
                f"{self.batch_size} on {self.world_size} ranks; choose a total batch that is a multiple of both"
            )

    @property
    def batches(self) -> int:
        """Batches of one rank in a step."""
        return self.rows_per_step // self.world_size // self.batch_size

    @property
    def lane_rows(self) -> int:
        """Rows of one lane in a step."""
        return self.rows_per_step // self.lanes

    @property
    def own_lanes(self) -> range:
        """The lanes this rank runs."""
        own = self.rows_per_step // self.world_size
        return range(self.rank * own // self.lane_rows, -(-(self.rank + 1) * own // self.lane_rows))

    def where(self, batch: int, index: int) -> tuple[int, int]:
        """(lane, its row in the step) of row `index` of this rank's batch number `batch`."""
        first = self.rank * (self.rows_per_step // self.world_size)
        return divmod(first + batch * self.batch_size + index, self.lane_rows)


@dataclass(frozen=True)
class Snapshot:
    """Where a loader is between two batches."""

    batch: int  # batches handed out in the current step
    lanes: list[LaneState]


def choose(given: int | None, state: Mapping[str, Any] | None, key: str, otherwise: int) -> int:
    """A number that the caller gave, else that of a state of ours, else a default."""
    if given is not None:
        return given
    return otherwise if state is None else int(state.get(key, otherwise))


def to_dict(snapshot: Snapshot, layout: Layout, identity: str, fingerprint: str) -> dict[str, Any]:
    """A state of plain values and int32 tensors, which torch.save takes and `safe_load` opens."""
    return {
        "identity": identity,  # of the data
        "tokenizer": fingerprint,
        **asdict(layout),
        "batch": snapshot.batch,
        "lane_states": [_lane_to_dict(lane) for lane in snapshot.lanes],
    }


def start(state: Mapping[str, Any] | None, layout: Layout, split: Split, identity: str, fingerprint: str) -> Snapshot:
    """Where to begin: at the beginning, behind the row group nanochat had read, or where a state of ours was taken.

    Raises:
        DataLoaderError: the state is of other data, another tokenizer or other lanes, or lacks one.
    """
    if state is None:
        return Snapshot(0, [LaneState(lane, Place(), 0, []) for lane in layout.own_lanes])
    if {"pq_idx", "rg_idx"} <= set(state) <= _UPSTREAM_KEYS:
        place = _upstream_place(state, layout, split)
        return Snapshot(0, [LaneState(lane, place, 0, []) for lane in layout.own_lanes])
    now = {"identity": identity, "tokenizer": fingerprint, "lanes": layout.lanes}
    for key, what in (("identity", "data"), ("tokenizer", "tokenizer"), ("lanes", "number of lanes")):
        if state.get(key) != now[key]:
            raise DataLoaderError(
                f"the {what} has changed since this state was saved (then {str(state.get(key))[:40]}, now "
                f"{str(now[key])[:40]}); give the same, or begin the data anew without the state"
            )
    if state["batch"] and any(state.get(key) != value for key, value in asdict(layout).items()):
        raise DataLoaderError(
            "the state was taken inside an optimizer step and the layout has changed since; keep batch size and number "
            "of ranks, or take the state between two steps"
        )
    lanes = {lane["lane"]: lane for lane in state["lane_states"]}
    missing = [lane for lane in layout.own_lanes if lane not in lanes]
    if missing:
        raise DataLoaderError(
            f"the state lacks lane {missing[0]}, which this rank reads; merge the states of all ranks"
        )
    return Snapshot(state["batch"], [_lane_from_dict(lanes[lane]) for lane in layout.own_lanes])


def merge_states(states: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One state of those of all ranks, for any number of ranks.

    Raises:
        DataLoaderError: they are not of one moment between two optimizer steps, or a lane is missing.
    """
    if not states:
        raise DataLoaderError("there is no state to merge; give that of every rank")
    if any("lane_states" not in state for state in states):
        raise DataLoaderError("one of the states is not of this loader; merge those that its state_dict() gave")
    shared = {key: value for key, value in states[0].items() if key not in ("rank", "lane_states")}
    lanes: dict[int, Any] = {}
    for state in states:
        differing = [key for key, value in shared.items() if state.get(key) != value]
        if differing:
            raise DataLoaderError(
                f"the states differ in {', '.join(differing)}; merge those that all ranks of one run saved at one step"
            )
        for lane in state["lane_states"]:
            if lanes.setdefault(lane["lane"], lane)["place"] != lane["place"]:
                raise DataLoaderError(f"two ranks disagree on lane {lane['lane']}; merge states of one step")
    if shared["batch"]:
        raise DataLoaderError("the states were taken inside an optimizer step; take them between two")
    missing = sorted(set(range(shared["lanes"])) - set(lanes))
    if missing:
        raise DataLoaderError(f"the states lack lane {missing[0]} of {shared['lanes']}; merge those of all ranks")
    return {**shared, "rank": 0, "lane_states": [lanes[number] for number in sorted(lanes)]}


def _upstream_place(state: Mapping[str, Any], layout: Layout, split: Split) -> Place:
    """Behind the row group that nanochat's rank 0 read last; each lane then takes its own of the next ones."""
    shard, group, epoch = int(state["pq_idx"]), int(state["rg_idx"]), int(state.get("epoch", 1))
    if min(shard, group, epoch - 1) < 0 or (split.shards is not None and shard >= split.shards):
        raise DataLoaderError(
            f"the run had come to shard {shard}, row group {group}, and this data has {split.shards} shards for "
            "training; name the data it was trained on, or begin it anew without the state"
        )
    return Place(epoch, shard, group // layout.lanes, 0, group)


def _lane_to_dict(lane: LaneState) -> dict[str, Any]:
    import torch

    tokens = np.concatenate(lane.documents) if lane.documents else np.empty(0, dtype=np.int32)
    return {
        "lane": lane.lane,
        "place": list(astuple(lane.place)),
        "rows": lane.rows,
        "lengths": torch.tensor([len(document) for document in lane.documents], dtype=torch.int32),
        "tokens": torch.from_numpy(tokens),  # the buffered documents one behind the other
    }


def _lane_from_dict(saved: Mapping[str, Any]) -> LaneState:
    lengths, tokens = saved["lengths"].cpu().numpy(), saved["tokens"].cpu().numpy()
    if lengths.sum() != len(tokens) or (lengths < 1).any():
        raise DataLoaderError(
            f"the buffered documents of lane {saved['lane']} do not add up; the state is damaged: take an older step"
        )
    documents = np.split(tokens, np.cumsum(lengths)[:-1]) if len(lengths) else []
    return LaneState(saved["lane"], Place(*saved["place"]), saved["rows"], documents)
