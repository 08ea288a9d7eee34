"""One process: the groups, the step against a plain one in float64, and what happens at the edges."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.checkpoint_manager import load_model, save_checkpoint
from nanochat.gpt import GPT, build
from nanochat.optim import KINDS, OptimConfig, OptimError, build_optimizer
from tests.checkpoint_support import make_tokenizer, meta_of, tiny_config
from tests.model_support import configs
from tests.optim_support import (
    PlainNewest,
    give_gradients,
    largest_difference,
    model_of,
    tiny,
    trained,
    weights_of,
)

NEWEST = ("muon", "adamw")  # the kinds of today, which the plain form is of


def test_groups_are_nanochats_with_their_rates():
    groups = {g["name"]: g for g in build_optimizer(model_of(tiny()), OptimConfig()).param_groups}
    scale = (32 / 768) ** -0.5
    assert groups["unembedding"]["names"] == ["lm_head.weight"]
    assert groups["unembedding"]["lr"] == pytest.approx(0.008 * scale)
    assert groups["embedding"]["lr"] == pytest.approx(0.3 * scale)
    assert groups["value_embeds"]["lr"] == pytest.approx(0.15 * scale)
    assert (groups["resid"]["lr"], groups["x0"]["lr"], groups["matrix"]["lr"]) == (0.005, 0.5, 0.02)
    assert groups["smear_backout"]["names"] == ["smear_gate.weight", "smear_lambda", "backout_lambda"]
    betas = {name: group.get("betas") for name, group in groups.items()}
    assert (betas["unembedding"], betas["embedding"], betas["x0"]) == ((0.8, 0.96), (0.8, 0.995), (0.96, 0.95))
    assert all(group["initial_lr"] == group["lr"] for group in groups.values())


@settings(max_examples=15, deadline=None)
@given(config=configs(), kind=st.sampled_from(KINDS))
def test_every_parameter_of_any_model_is_in_one_group(config, kind):
    model = model_of(config)
    optimizer = build_optimizer(model, OptimConfig(kind=kind))
    names = [name for group in optimizer.param_groups for name in group["names"]]
    assert sorted(names) == sorted(name for name, _ in model.named_parameters())
    held = [weight for group in optimizer.param_groups for weight in group["params"]]
    assert sum(weight.numel() for weight in held) == sum(p.numel() for p in model.parameters())
    assert len(held) == len(names)
    methods = {group["name"]: group["kind"] for group in optimizer.param_groups}
    assert methods["matrix"] == ("adamw" if kind == "adamw" else "muon")
    assert set(methods.values()) <= {"adamw", "muon"}


@settings(max_examples=10, deadline=None)
@given(config=configs(), decay=st.sampled_from([0.0, 0.28]), seed=st.integers(0, 99), kind=st.sampled_from(NEWEST))
def test_steps_are_those_of_the_plain_form(config, decay, seed, kind):
    model = model_of(config, torch.float64, spread=0.05)
    optimizer = build_optimizer(model, OptimConfig(kind=kind, weight_decay=decay))
    plain = PlainNewest(optimizer.param_groups)
    for step in range(3):
        give_gradients(model, seed + step, scale=10.0**-step)
        expected = plain.step({name: p.grad for name, p in model.named_parameters()})
        optimizer.step()
    assert largest_difference(weights_of(model), {n: expected[n] for n, _ in model.named_parameters()}) < 1e-9
    assert all(p.dtype == torch.float64 for p in model.parameters())
    assert {t.dtype for entry in optimizer.state_dict()["state"].values() for t in entry.values() if t is not None
            and isinstance(t, torch.Tensor)} == {torch.float64}  # fmt: skip


def test_adamw_alone_has_a_rate_for_each_group():
    groups = build_optimizer(model_of(tiny()), OptimConfig(kind="adamw")).param_groups
    rates = {group["name"]: group["lr"] for group in groups}
    assert rates["matrix"] == pytest.approx(0.004)
    assert rates["embedding"] > rates["value_embeds"] > 100 * rates["matrix"]
    (matrices,) = (group for group in groups if group["name"] == "matrix")
    assert matrices["betas"] == (0.9, 0.95)
    assert {p.dim() for p in matrices["params"]} == {2}


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_learns_by_heart(kind):
    """A few dozen steps on one batch: the loss falls from ln V to little, and the groups' rates can be set."""
    model = model_of(tiny(n_layer=2))
    optimizer = build_optimizer(model, OptimConfig(kind=kind, embedding_lr=0.1))
    ids = torch.randint(100, (4, 17), generator=torch.Generator().manual_seed(1))
    losses = []
    for step in range(40):
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * min(1.0, (step + 1) / 10)
        loss = model(ids[:, :-1], ids[:, 1:])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(math.log(100), abs=0.05)
    assert losses[-1] < 0.5


def test_the_models_own_names_values_and_files_stay(tmp_path):
    """Parameters are views of stacks, and nobody notices: state dict, loading, saving, copying, growing gradients."""
    config = tiny_config()
    model = model_of(config)
    before, names = weights_of(model), list(model.state_dict())
    optimizer = build_optimizer(model, OptimConfig())
    assert largest_difference(before, weights_of(model)) == 0
    assert list(model.state_dict()) == names
    assert all(tensor.is_contiguous() for tensor in model.state_dict().values())
    twin = copy.deepcopy(model)
    give_gradients(model, 0)
    optimizer.step()
    assert largest_difference(before, weights_of(twin)) == 0
    changed = weights_of(model)
    folder = tmp_path / "base_checkpoints" / "d2"
    save_checkpoint(folder, 3, model.state_dict(), optimizer.state_dict(), meta_of(config, 3),
                    tokenizer=make_tokenizer(), config=config)  # fmt: skip
    size = sum(p.numel() * 4 for p in model.parameters())
    assert size < (folder / "model_000003.pt").stat().st_size < size + 20_000
    assert largest_difference(changed, weights_of(load_model(folder, 3).model)) == 0
    model.load_state_dict(before)  # goes into the views
    give_gradients(model, 0)
    fresh = build_optimizer(twin, OptimConfig())
    give_gradients(twin, 0)
    fresh.step()
    optimizer.load_state_dict(build_optimizer(model_of(config), OptimConfig()).state_dict())
    optimizer.step()
    assert largest_difference(weights_of(model), weights_of(twin)) == 0


def test_weights_replaced_by_others_of_their_kind_are_found_again():
    model, optimizer = trained(tiny())
    twin, other = trained(tiny())
    for weight in model.parameters():
        weight.data = weight.data.clone()  # the views are gone
    for one, method in ((model, optimizer), (twin, other)):
        give_gradients(one, 9)
        method.step()
    assert largest_difference(weights_of(model), weights_of(twin)) == 0
    model.double()
    give_gradients(model, 10)
    with pytest.raises(OptimError, match=r"torch.float64 on cpu and was torch.float32.*then build the optimizer"):
        optimizer.step()


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_gradient_a_parameter_and_its_averages_stay(kind):
    model, optimizer = trained(tiny(), kind=kind)
    silent = [
        "value_embeds.2.weight",
        "transformer.h.1.attn.c_q.weight",
        "transformer.h.0.mlp.c_fc.weight",
        "x0_lambdas",
    ]
    before = weights_of(model)
    memory = [copy.deepcopy(worker.memory()) for worker in optimizer._workers]
    give_gradients(model, 5)
    for name in silent:
        model.get_parameter(name).grad = None
    optimizer.step()
    after = weights_of(model)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == set(before) - set(silent)
    for worker, old in zip(optimizer._workers, memory, strict=True):
        names, new = worker.options["names"], worker.memory()
        for i, name in enumerate(names):
            own = (new[name], old[name]) if worker.options["kind"] == "adamw" else (new, old)
            for key in own[0]:
                left, right = (side[key] if key.startswith("exp") or key == "step" else side[key][i] for side in own)
                assert (torch.equal(left, right) if key != "step" else left == right) == (name in silent), (name, key)
    alone, others = trained(tiny(), kind=kind)
    give_gradients(alone, 5)
    others.step()
    assert all(torch.equal(after[n], w) for n, w in weights_of(alone).items() if n in moved)


def test_no_gradient_at_all_changes_nothing():
    model, optimizer = trained(tiny())
    before = weights_of(model)
    optimizer.zero_grad()
    assert all(p.grad is None for p in model.parameters())
    assert float(optimizer.step()) == 0
    assert largest_difference(before, weights_of(model)) == 0
    fresh = build_optimizer(model, OptimConfig())
    fresh.step()
    assert fresh.state_dict()["state"] == {}


def test_frozen_parameters_are_left_out():
    model = model_of(tiny())
    for name, weight in model.named_parameters():
        weight.requires_grad_("mlp" in name or name.startswith("lm_head"))
    optimizer = build_optimizer(model, OptimConfig())
    assert [group["name"] for group in optimizer.param_groups] == ["unembedding", "matrix", "matrix"]
    before = weights_of(model)
    give_gradients(model, 0)
    optimizer.step()
    moved = {name for name, weight in weights_of(model).items() if not torch.equal(weight, before[name])}
    assert moved == {name for name in before if "mlp" in name or name.startswith("lm_head")}


def test_the_norm_is_the_whole_gradients_and_clipping_scales_it():
    model, optimizer = trained(tiny())
    twin, other = trained(tiny())
    give_gradients(model, 3)
    norm = math.sqrt(sum(float(p.grad.double().square().sum()) for p in model.parameters()))
    grads = {name: p.grad.clone() for name, p in model.named_parameters()}
    assert float(optimizer.step(max_norm=norm / 4)) == pytest.approx(norm, rel=1e-5)
    assert all(torch.equal(grads[name], p.grad) for name, p in model.named_parameters())
    give_gradients(twin, 3, scale=0.25)
    assert float(other.step()) == pytest.approx(norm / 4, rel=1e-5)
    assert largest_difference(weights_of(model), weights_of(twin)) < 1e-6
    give_gradients(model, 4)
    give_gradients(twin, 4)
    optimizer.step(max_norm=math.inf)  # never scales
    other.step()
    assert largest_difference(weights_of(model), weights_of(twin)) < 2e-6
    for wrong in (0.0, -1.0, math.nan):
        with pytest.raises(OptimError, match="max_norm"):
            optimizer.step(max_norm=wrong)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_is_reported_and_guarded_against(bad):
    model, optimizer = trained(tiny())
    name = "transformer.h.1.attn.c_q.weight"
    before, state = weights_of(model), copy.deepcopy(optimizer.state_dict())
    give_gradients(model, 3)
    model.get_parameter(name).grad[0, 0] = bad
    assert not math.isfinite(float(optimizer.step(max_norm=math.inf)))
    assert largest_difference(before, weights_of(model)) == 0
    now = optimizer.state_dict()["state"]
    assert all(
        torch.equal(value, now[number][key]) if isinstance(value, torch.Tensor) else value == now[number][key]
        for number, entry in state["state"].items()
        for key, value in entry.items()
    )
    assert not math.isfinite(float(optimizer.step()))  # not guarded: it goes where it came from, and no further
    broken = {name for name, weight in weights_of(model).items() if not weight.isfinite().all()}
    assert broken == {name}


def test_bfloat16_iterations_stay_close_and_bfloat16_weights_keep_their_format():
    exact, rounded = (trained(tiny(), newton_schulz=word)[0] for word in ("float32", "bfloat16"))
    difference = largest_difference(weights_of(exact), weights_of(rounded))
    assert 0 < difference < 0.01
    model = model_of(tiny(), torch.bfloat16, spread=0.02)
    optimizer = build_optimizer(model, OptimConfig())
    before = weights_of(model)
    give_gradients(model, 0)
    optimizer.step()
    after = weights_of(model)
    assert all(after[n].dtype == torch.bfloat16 and after[n].isfinite().all() for n in before)
    assert all(not torch.equal(after[n], before[n]) for n in before)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"kind": "sgd"}, "muon-2026-02"),
        ({"matrix_lr": -1.0}, "matrix_lr is -1.0"),
        ({"embedding_lr": math.nan}, "embedding_lr is nan"),
        ({"weight_decay": "0"}, "weight_decay"),
        ({"momentum": 1.0}, "less than 1"),
        ({"ns_steps": 6}, "1 to 5"),
        ({"ns_steps": 0}, "1 to 5"),
        ({"newton_schulz": "float16"}, "float32 or bfloat16"),
    ],
)
def test_a_config_that_makes_no_sense_is_one_sentence(change, word):
    with pytest.raises(OptimError, match=word) as caught:
        OptimConfig(**change)
    assert "\n" not in str(caught.value)
    assert replace(OptimConfig(kind="muon-2025"), ns_steps=7).ns_steps == 7


def test_a_model_that_cannot_be_trained_is_refused():
    config = tiny()
    with pytest.raises(OptimError, match="opened for inference or is frozen"):
        build_optimizer(build(config, model_of(config).state_dict()))
    model = GPT(config)
    model.extra = torch.nn.Linear(2, 2)
    with pytest.raises(OptimError, match=r"'extra.weight'.*none of nanochat's"):
        build_optimizer(model)
