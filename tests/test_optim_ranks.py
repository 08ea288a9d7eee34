"""Several ranks on one machine, over gloo: the same steps as one rank, a share of the memory each, and new numbers."""

import math
from typing import Any

import pytest
import torch
import torch.distributed as dist

from nanochat.checkpoint_manager import load_checkpoint
from nanochat.eras import infer_era
from nanochat.optim import KINDS, OptimConfig, build_optimizer, merge_states, shard_state
from nanochat.optim_config import Kind
from nanochat.optim_ranks import SMALL, Ranks, chunk_of, current_ranks, is_cut
from tests.archive_support import same
from tests.optim_support import (
    batches_of,
    largest_difference,
    model_of,
    on_ranks,
    tensors_in,
    tiny,
    train,
    weights_of,
)
from tests.support import FIXTURES, needs_fixtures

STEPS = 20
WORLDS = [2, pytest.param(4, marks=pytest.mark.prove)]  # four processes on two cores take a while


def job_of(steps: int = STEPS, kind: Kind = "muon") -> dict[str, Any]:
    """From initialisation in float64: in float32 zero-initialised projections turn rounding into whole steps."""
    config = tiny()
    gentle = OptimConfig(kind=kind, matrix_lr=0.005, embedding_lr=0.03)
    batches = batches_of(config, 2) * (steps // 2)  # the same two again and again: something to learn
    weights = model_of(config).state_dict()
    return {"config": config, "weights": weights, "dtype": torch.float64, "optim": gentle, "batches": batches}


def assert_agree(one: dict[str, Any], ranks: list[dict[str, Any]], tolerance: float) -> None:
    for result in ranks:
        assert result["losses"] == pytest.approx(one["losses"], abs=tolerance)
        assert result["norms"] == pytest.approx(one["norms"], rel=tolerance)
        assert largest_difference(result["weights"], one["weights"]) < tolerance
        assert largest_difference(result["weights"], ranks[0]["weights"]) == 0  # no rank drifts, not by a bit


@pytest.mark.parametrize("world", WORLDS)
def test_ranks_train_as_one_from_initialisation_and_hand_over(world, tmp_path):
    """20 steps in float64; then the saved shares go on at every other number of ranks, the largest with 3 of them."""
    job = job_of()
    one = train(job)
    ranks = on_ranks(world, job, tmp_path)
    assert one["losses"][-1] < one["losses"][0] - 0.3  # it has learned something, so there was something to agree on
    assert_agree(one, ranks, 1e-5)

    states = [result["state"] for result in ranks]
    optimizer = build_optimizer(model_of(job["config"], torch.float64), job["optim"])
    merged = merge_states(states, optimizer.plan)
    assert all(same(shard_state(merged, optimizer.plan, rank, world), states[rank]) for rank in range(world))
    for left, right in zip(tensors_in(merged), tensors_in(one["state"]), strict=True):
        torch.testing.assert_close(left, right, rtol=0, atol=1e-6)

    later = {**job, "weights": ranks[0]["weights"], "batches": batches_of(job["config"], 3), "states": states}
    alone = train(later)
    for other in (world, 2, 3) if world == 4 else (1,):
        assert_agree(alone, [train(later)] if other == 1 else on_ranks(other, later, tmp_path), 1e-5)
    unaware = train({**later, "states": None})
    assert abs(unaware["losses"][-1] - alone["losses"][-1]) > 1e-4  # the memory matters, or this would prove nothing


@needs_fixtures
@pytest.mark.parametrize("world", WORLDS)
def test_ranks_go_on_with_real_nanochats_run_as_one(world, tmp_path):
    """20 steps in float32 from the newest run at step 40 and its optimizer, which is also cut as nanochat cuts it."""
    folder = FIXTURES / "nanochat_2026_07_03" / "base_checkpoints" / "d4"
    weights, state, meta = load_checkpoint(folder, 40, "cpu", load_optimizer=True)
    config = infer_era(meta, {name: tuple(weight.shape) for name, weight in weights.items()}).config
    batches = [(x[:, :48], y[:, :48]) for x, y in batches_of(config, STEPS)]
    job = {"config": config, "weights": weights, "batches": batches, "states": [state]}
    one = train(job)
    plan = build_optimizer(model_of(config), OptimConfig()).plan
    shares = [shard_state(state, plan, rank, world) for rank in range(world)]
    assert_losses_close(one, on_ranks(world, {**job, "states": shares}, tmp_path), 1e-5)


def assert_losses_close(one: dict[str, Any], ranks: list[dict[str, Any]], tolerance: float) -> None:
    for result in ranks:
        assert result["losses"] == pytest.approx(one["losses"], abs=tolerance)
        assert largest_difference(result["weights"], ranks[0]["weights"]) == 0


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "muon"])
def test_the_other_kinds_agree_too(kind, tmp_path):
    job = job_of(4, kind=kind)
    one, ranks = train(job), on_ranks(2, job, tmp_path)
    assert_agree(one, ranks, 1e-5)
    plan = build_optimizer(model_of(job["config"]), job["optim"]).plan
    merged = merge_states([result["state"] for result in ranks], plan)
    for left, right in zip(tensors_in(merged), tensors_in(one["state"]), strict=True):
        torch.testing.assert_close(left, right, rtol=0, atol=1e-5)


def odd_cases(job: dict[str, Any], rank: int, world: int) -> dict[str, Any]:
    """Run on each rank: weights that differ at the start, clipping, gradients that some or all ranks lack, NaN."""
    model = model_of(job["config"], torch.float64, seed=rank, spread=0.02)
    group = None
    if world > 1:  # a group of our own, and one that says of itself that it has no CPU side, as NCCL's would
        group = dist.new_group(list(range(world)))
        dist.get_backend_config = lambda group: "cuda:nccl"
    optimizer = build_optimizer(model, OptimConfig(), process_group=group)
    assert world == 1 or optimizer.ranks.host_group is not group
    found: dict[str, Any] = {"start": weights_of(model)}

    def gradients(seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        for weight in model.parameters():
            weight.grad = torch.randn(weight.shape, generator=generator, dtype=torch.float64) / world

    gradients(0)
    found["clipped_norm"] = float(optimizer.step(max_norm=1.0))
    found["clipped"] = weights_of(model)
    gradients(1)
    model.get_parameter("value_embeds.2.weight").grad = None  # nowhere
    model.get_parameter("transformer.h.1.attn.c_q.weight").grad = None
    if rank:  # on rank 0 alone: as much as both have together, so the sum is what it always is
        for name in job["only_first"]:
            model.get_parameter(name).grad = None
    else:
        for name in job["only_first"]:
            model.get_parameter(name).grad *= world
    optimizer.step()
    found["partial"] = weights_of(model)
    gradients(2)
    if rank == world - 1:
        model.get_parameter("transformer.h.0.mlp.c_fc.weight").grad[0, 0] = math.nan
    found["guarded_norm"] = float(optimizer.step(max_norm=math.inf))
    found["guarded"] = weights_of(model)
    found["elements"] = sum(tensor.numel() for tensor in tensors_in(optimizer.state_dict()))
    return found


def test_odd_cases_are_the_same_on_every_rank(tmp_path):
    config = tiny(vocab_size=99, vocab_multiple=1)  # 99 rows: two ranks cannot share them out, so both keep all
    only_first = ["smear_lambda", "lm_head.weight", "transformer.h.2.attn.c_v.weight"]
    job = {"work": odd_cases, "config": config, "only_first": only_first}
    one = odd_cases(job, 0, 1)
    ranks = on_ranks(2, job, tmp_path)
    for result in ranks:
        for moment in ("start", "clipped", "partial", "guarded"):
            assert largest_difference(result[moment], one[moment]) < 1e-9, moment
            assert largest_difference(result[moment], ranks[0][moment]) == 0
        assert result["clipped_norm"] == pytest.approx(one["clipped_norm"])
        assert math.isnan(result["guarded_norm"])
        assert largest_difference(result["guarded"], result["partial"]) == 0
    moved = {name for name, weight in one["partial"].items() if not torch.equal(weight, one["clipped"][name])}
    assert set(one["partial"]) - moved == {"value_embeds.2.weight", "transformer.h.1.attn.c_q.weight"}


def test_a_rank_keeps_its_share_of_the_memory_only(tmp_path):
    job = job_of(2)
    whole = sum(tensor.numel() for tensor in tensors_in(train(job)["state"]))
    for result in on_ranks(2, job, tmp_path):
        assert sum(tensor.numel() for tensor in tensors_in(result["state"])) < 0.6 * whole  # a chunk is rounded up


def test_what_is_cut_and_what_each_rank_owns():
    assert is_cut((1024, 32), 2)
    assert not is_cut((1024, 32), 1)
    assert not is_cut((1023, 32), 2)  # nanochat would refuse; here every rank keeps all of it
    assert is_cut((2, SMALL // 2), 2)
    assert not is_cut((2, SMALL // 2 - 1), 2)
    assert [chunk_of(16, world) for world in (1, 4, 5, 32)] == [16, 4, 4, 1]
    assert current_ranks() == Ranks()
    assert not dist.is_initialized()
