"""Optimizer files: real nanochat's go on to the same numbers and are written back as they were; misfits are refused."""

import copy
import json
import math
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from nanochat.checkpoint_manager import load_checkpoint
from nanochat.eras import infer_era
from nanochat.gpt import GPT
from nanochat.optim import (
    KINDS,
    OptimConfig,
    OptimError,
    Optimizer,
    build_optimizer,
    merge_states,
    recognise_kind,
    shard_state,
)
from tests.archive_support import same
from tests.optim_support import give_gradients, largest_difference, model_of, tiny, trained, weights_of
from tests.support import FIXTURES, needs_fixtures

# Base date, tag, step, kind, tolerance of a step's weights. The newest works in float32. The older two iterate in
# bfloat16: February's comes out bit by bit in most weights, and one rounding (2^-9 of a step of at most 0.005) aside in
# the others. In 2025 the products of single matrices were summed in an order that batched products do not have; a
# rounding early in the five iterations grows to a few in the result, here 0.00006 of steps of up to 0.004.
ERAS = [
    ("2026_07_03", "d4", 40, "muon", 1e-6),
    ("2026_02_20", "d2", 40, "muon-2026-02", 1.5e-5),
    ("2025_11_06", "d2", 60, "muon-2025", 1e-4),
]
# Every optimizer file there is, and the kind that continues it.
FILES = [
    ("2025_11_06", "base_checkpoints/d2", 60, "muon-2025"),
    ("2025_12_30", "base_checkpoints/d3", 30, "muon-2025"),
    ("2026_01_18", "base_checkpoints/d4", 30, "muon-2026-02"),
    ("2026_01_20", "base_checkpoints/d4", 30, "muon-2026-02"),
    ("2026_02_20", "base_checkpoints/d2", 40, "muon-2026-02"),
    ("2026_03_04", "base_checkpoints/d4", 30, "muon-2026-02"),
    ("2026_03_10", "base_checkpoints/d4", 30, "muon"),
    ("2026_03_14", "base_checkpoints/d4", 30, "muon"),
    ("2026_07_03", "base_checkpoints/d4", 40, "muon"),
    ("2026_07_03", "base_checkpoints/d4", 120, "muon"),
    ("2026_07_03", "base_checkpoints/d4_bf16", 20, "muon"),
]
IDS = [f"{date}-{folder.replace('_checkpoints/', '-')}-{step}" for date, folder, step, _ in FILES]


@cache
def opened(date: str, folder: str, step: int) -> tuple[dict[str, torch.Tensor], Any, Any]:
    """Weights, optimizer state and architecture of a real run."""
    weights, state, meta = load_checkpoint(FIXTURES / f"nanochat_{date}" / folder, step, "cpu", load_optimizer=True)
    return weights, state, infer_era(meta, {name: tuple(w.shape) for name, w in weights.items()}).config


def continued(date: str, folder: str, step: int, kind: str) -> tuple[GPT, Optimizer]:
    weights, state, config = opened(date, folder, step)
    model = GPT(config)
    model.load_state_dict(weights)
    optimizer = build_optimizer(model, OptimConfig(kind=kind))
    optimizer.load_state_dict(state)
    return model, optimizer


@needs_fixtures
@pytest.mark.parametrize(("date", "tag", "step", "kind", "tolerance"), ERAS, ids=[era[3] for era in ERAS])
def test_a_step_is_real_nanochats(date, tag, step, kind, tolerance):
    """One forward, backward and optimizer step from the saved state at half the initial rate."""
    base = FIXTURES / f"nanochat_{date}" / "expected"
    expected = json.loads((base / "optimizer_step.json").read_text())
    batch = json.loads((base / "dataloader_batches.json").read_text())[0]
    model, optimizer = continued(date, f"base_checkpoints/{tag}", step, kind)
    loss = model(torch.tensor(batch["inputs"]), torch.tensor(batch["targets"]))
    loss.backward()
    assert loss.item() == pytest.approx(expected["loss"], abs=1e-6)
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * 0.5
    norm = optimizer.step()
    assert float(norm) == pytest.approx(math.sqrt(sum(g["l2"] ** 2 for g in expected["grads"].values())), rel=1e-5)
    for name, weight in model.named_parameters():
        after, before = expected["after"][name], expected["before"][name]
        first = weight.detach().flatten()[: len(after["first"])].tolist()
        assert first == pytest.approx(after["first"], abs=tolerance), name
        # Not the first six alone: the norm of all of them, to the same tolerance, and to 1e-8 of norms above 1,000.
        assert float(weight.detach().double().norm()) == pytest.approx(after["l2"], abs=tolerance * 2, rel=1e-8), name
        assert len(after["first"]) < 6 or after["l2"] != before["l2"], name
    moved = [
        name for name in expected["after"] if expected["after"][name]["first"] != expected["before"][name]["first"]
    ]
    assert len(moved) > len(expected["after"]) / 2


@needs_fixtures
@pytest.mark.parametrize(("date", "folder", "step", "kind"), FILES, ids=IDS)
def test_every_real_file_is_recognised_read_and_written_back(date, folder, step, kind):
    _, state, _ = opened(date, folder, step)
    assert recognise_kind(state)[0] == kind
    _, optimizer = continued(date, folder, step, kind)
    written = optimizer.state_dict()
    if isinstance(state, list) and kind == "muon-2026-02":
        assert isinstance(written, dict)  # January's list of two is written as the one dict that followed
        momenta = [entry["momentum_buffer"] for entry in state[1]["state"].values()]
        ours = [entry["momentum_buffer"] for entry in written["state"].values() if "momentum_buffer" in entry]
        assert same(momenta, ours)
    elif folder.endswith("bf16"):  # the model was converted to float32 here, and its averages with it
        assert structure(written, ignore="bfloat16") == structure(state, ignore="bfloat16")
    else:
        assert same(written, state)
    # And the manifest, which lists what upstream itself saw, says the same of names, shapes and order.
    manifest = json.loads((FIXTURES / f"nanochat_{date}" / "expected" / "checkpoints_manifest.json").read_text())
    names = [name for name in manifest if name.startswith(f"{folder}/optim_{step:06d}")]
    if isinstance(written, type(state)) and not folder.endswith("bf16"):
        assert structure(written) == manifest[names[0]]["structure"]


def structure(tree: Any, ignore: str = "") -> Any:
    """A state as the manifest writes it."""
    if isinstance(tree, torch.Tensor):
        dtype = str(tree.dtype).replace(ignore, "float32") if ignore else str(tree.dtype)
        return f"tensor{list(tree.shape)} {dtype}"
    if isinstance(tree, dict):
        return {str(key) if isinstance(key, int) else key: structure(value, ignore) for key, value in tree.items()}
    return [structure(value, ignore) for value in tree] if isinstance(tree, list | tuple) else tree


@needs_fixtures
def test_a_converted_model_keeps_its_bfloat16_averages():
    weights, state, config = opened("2026_07_03", "base_checkpoints/d4_bf16", 20)
    model = GPT(config)
    for name, weight in model.named_parameters():
        weight.data = weights[name].clone()  # bfloat16 embeddings, as a GPU run has them
    optimizer = build_optimizer(model, OptimConfig())
    optimizer.load_state_dict(state)
    assert same(optimizer.state_dict(), state)
    give_gradients(model, 0, scale=0.01)
    before = weights_of(model)
    optimizer.step()
    assert {p.dtype for p in model.parameters()} == {torch.float32, torch.bfloat16}
    assert all(torch.isfinite(p).all() and not torch.equal(p, before[n]) for n, p in model.named_parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_continues_the_run(kind, tmp_path):
    model, optimizer = trained(tiny(), kind=kind)
    for group in optimizer.param_groups:
        group["lr"] *= 0.7
    torch.save(optimizer.state_dict(), tmp_path / "state")
    state = torch.load(tmp_path / "state", weights_only=True)
    twin = GPT(tiny())
    twin.load_state_dict(weights_of(model))
    other = build_optimizer(twin, OptimConfig(kind=kind, matrix_lr=0.5))
    other.load_state_dict(state)
    for one, method in ((model, optimizer), (twin, other)):
        give_gradients(one, 9)
        method.step()
    assert largest_difference(weights_of(model), weights_of(twin)) == 0
    assert same(optimizer.state_dict(), other.state_dict())
    assert recognise_kind(state)[0] == kind


@pytest.mark.parametrize("kind", KINDS)
def test_before_the_first_step_there_is_nothing_to_remember(kind):
    state = build_optimizer(model_of(tiny()), OptimConfig(kind=kind)).state_dict()
    parts = state if isinstance(state, list) else [state]
    assert all(part["state"] == {} for part in parts)
    _, optimizer = trained(tiny(), kind=kind)
    optimizer.load_state_dict(state)
    assert same(optimizer.state_dict(), state)


def upstream_shards(state: dict[str, Any], optimizer: Optimizer, world: int) -> list[dict[str, Any]]:
    """A one-rank file cut by nanochat's rule, written down here on its own: rows of large AdamW parameters, and chunks
    of ceil(K / W) matrices with zeros behind the last."""
    shapes = [tuple(p.shape) for group in optimizer.param_groups for p in group["params"]]
    shards = []
    for rank in range(world):
        shard = copy.deepcopy(state)
        for group in shard["param_groups"]:
            for number in group["params"]:
                entry = shard["state"].get(number, {})
                if group["kind"] == "adamw" and math.prod(shapes[number]) >= 1024:
                    rows = shapes[number][0] // world
                    for key in ("exp_avg", "exp_avg_sq"):
                        entry[key] = entry[key][rank * rows : (rank + 1) * rows].clone()
                elif group["kind"] == "muon" and entry:
                    chunk = (len(group["params"]) + world - 1) // world
                    for key, value in entry.items():
                        padded = torch.zeros(chunk * world, *value.shape[1:])
                        padded[: len(value)] = value
                        entry[key] = padded[rank * chunk : (rank + 1) * chunk].clone()
        shards.append(shard)
    return shards


@pytest.mark.parametrize("world", [1, 2, 4, 8])
def test_nanochats_files_of_several_ranks_are_cut_and_joined(world):
    _, optimizer = trained(tiny())
    state = optimizer.state_dict()
    theirs = upstream_shards(state, optimizer, world)
    ours = [shard_state(state, optimizer.plan, rank, world) for rank in range(world)]
    assert same(theirs, ours)
    assert same(merge_states(theirs, optimizer.plan), state)
    if world > 1:
        with pytest.raises(OptimError, match="merge_states"):
            optimizer.load_state_dict(theirs[0])
        with pytest.raises(OptimError, match=r"merge_states|another model"):
            merge_states(theirs[:-1], optimizer.plan)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("world", [2, 3, 5, 16])
def test_any_number_of_ranks_joins_to_the_same(kind, world):
    """Also where rows do not divide (104 by 3, 5, 16), and where there are more ranks than matrices."""
    _, optimizer = trained(tiny(), kind=kind)
    state = optimizer.state_dict()
    shares = [shard_state(state, optimizer.plan, rank, world) for rank in range(world)]
    assert same(merge_states(shares, optimizer.plan), state)


def test_the_files_of_2025_s_ranks_are_joined():
    """Then all AdamW parameters were cut into rows, and matrix i of a shape belonged to rank i modulo W."""
    config = tiny(residual_lambdas=False, smear=False, backout=False, value_embeds=False)
    _, optimizer = trained(config, kind="muon-2025")
    adamw, muon = optimizer.state_dict()
    of_one = [name for group in optimizer.plan.by_elements() if group.method == "muon" for name in group.names]
    options = {key: value for key, value in muon["param_groups"][0].items() if key != "params"}
    files = []
    for rank in range(2):
        state: dict[int, Any] = {}
        listed: list[Any] = []
        first = 0
        for group in optimizer.param_groups[2:]:  # by shape, with a spare tensor in the group
            for i, name in enumerate(group["names"]):
                if i % 2 == rank:
                    state[first + i] = muon["state"][of_one.index(name)]
            numbers = list(range(first, first + len(group["names"])))
            listed.append({**options, "zero_buffer": torch.zeros(2), "params": numbers})
            first += len(numbers)
        part = copy.deepcopy(adamw)
        for entry in part["state"].values():
            for key in ("exp_avg", "exp_avg_sq"):
                entry[key] = entry[key].chunk(2)[rank].clone()
        files.append([part, {"state": state, "param_groups": listed}])
    assert same(merge_states(files, optimizer.plan), [adamw, muon])


def broken(change: str) -> Any:
    """A state of the tiny model with one thing wrong."""
    state = copy.deepcopy(trained(tiny(), kind="muon")[1].state_dict())
    stack = next(number for number, entry in state["state"].items() if "momentum_buffer" in entry)
    first = state["param_groups"][0]
    if change == "nothing":
        return None
    if change == "no groups":
        del state["param_groups"]
    elif change == "shape":
        state["state"][0]["exp_avg"] = torch.zeros(5, 5)
    elif change == "a whole number":
        state["state"][0]["exp_avg"] = state["state"][0]["exp_avg"].long()
    elif change == "no tensor":
        state["state"][0]["exp_avg_sq"] = "x"
    elif change == "stack too short":
        state["state"][stack] = {k: torch.cat([v, v]) for k, v in state["state"][stack].items()}
    elif change == "no second moment":
        del state["state"][stack]["second_momentum_buffer"]
    elif change == "no momentum":
        del state["state"][stack]["momentum_buffer"]
    elif change == "numbers":
        first["params"] = [7]
    elif change == "a number too many":
        state["state"][999] = {}
    elif change == "entry":
        state["state"][0] = 3
    elif change == "count":
        state["state"][0]["step"] = math.inf
    elif change == "rate":
        first["lr"] = math.nan
    elif change == "betas":
        first["betas"] = (0.9,)
    elif change == "a group less":
        state["param_groups"].pop()
    return state


CHANGES = {
    "nothing": "no optimizer state", "no groups": "no optimizer state", "shape": "(5, 5) as exp_avg of lm_head.weight",
    "a whole number": "exp_avg of lm_head", "no tensor": "nothing as exp_avg_sq", "stack too short": "stacks",
    "no second moment": "second_momentum_buffer", "no momentum": "no momentum_buffer", "numbers": "number",
    "a number too many": "number", "entry": "int for lm_head", "count": "inf steps", "rate": "nan as lr",
    "betas": "as betas", "a group less": "it belongs to another model",
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_what_does_not_fit_is_refused_whole(change):
    _, optimizer = trained(tiny(), steps=3)
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(OptimError) as caught:
        optimizer.load_state_dict(broken(change))
    assert CHANGES[change] in str(caught.value)
    assert "\n" not in str(caught.value)
    assert same(optimizer.state_dict(), before)


@pytest.mark.parametrize("saved", KINDS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_state_of_another_kind_is_refused(saved, kind):
    state = trained(tiny(), kind=saved)[1].state_dict()
    optimizer = build_optimizer(model_of(tiny()), OptimConfig(kind=kind))
    if {saved, kind} <= {"muon", "muon-2026-02"} or saved == kind:
        optimizer.load_state_dict(state)  # the two forms of 2026 remember the same things
        return
    with pytest.raises(OptimError, match="kind"):
        optimizer.load_state_dict(state)
    assert optimizer.state_dict() == build_optimizer(model_of(tiny()), OptimConfig(kind=kind)).state_dict()


def test_a_state_of_another_model_is_refused():
    state = trained(tiny(n_layer=4))[1].state_dict()
    wider = trained(tiny(n_embd=64))[1].state_dict()
    optimizer = build_optimizer(model_of(tiny()), OptimConfig())
    for other in (state, wider):
        with pytest.raises(OptimError, match="another model"):
            optimizer.load_state_dict(other)
    with pytest.raises(OptimError, match="no optimizer state to merge"):
        merge_states([], optimizer.plan)


def test_files_of_this_test_are_all_there():
    """The list above names every optimizer file of the fixtures, so none is forgotten."""
    if not FIXTURES.is_dir():
        pytest.skip("no fixtures")
    found = {(path.parts[-4].removeprefix("nanochat_"), "/".join(path.parts[-3:-1]), int(path.stem.split("_")[1]))
             for path in Path(FIXTURES).glob("*/*/*/optim_*.pt")}  # fmt: skip
    assert found == {(date, folder, step) for date, folder, step, _ in FILES}
