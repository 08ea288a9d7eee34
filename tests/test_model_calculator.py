"""The calculator against published and executed values, and against the real model.

The published values lie beside the checkout and are not part of it (NANOCHAT_TRUTH names their file); the most telling
ones are written out here, so that the formulas are held to something everywhere.
"""

import json
import math
import os
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.analysis import model_calculator as calc
from nanochat.analysis.model_calculator import CalculatorError, Plan, count_parameters
from nanochat.gpt import GPT
from nanochat.gpt_config import ConfigError, GPTConfig
from tests.support import fixture_dirs, needs_fixtures

TRUTH = Path(os.environ.get("NANOCHAT_TRUTH", Path(__file__).parents[2] / "shared" / "truth" / "reference_values.json"))
ROWS = json.loads(TRUTH.read_text())["rows"] if TRUTH.is_file() else []


def computed(row: dict) -> float | None:
    """What this project makes of a row's inputs; None for a row that is not the calculator's."""
    given, kind = row["inputs"], row["category"]
    if kind == "params":
        return count_parameters(**given).total
    if kind == "flops_per_token":
        return calc.flops_per_token(count_parameters("nanochat_v1", **given))
    if kind == "tokens":
        return calc.tokens_in_steps(given["params"] * given["ratio"], given["batch"])
    if kind == "flops":
        if "depth" not in given:
            return 6 * given["params"] * given["tokens"]
        model = count_parameters("nanochat_v1", **given)
        return calc.flops_per_token(model) * calc.tokens_in_steps(calc.nanochat_tokens(model)[0], 2**19)
    if kind == "mfu" and "minutes" in given:
        speed = given["tokens"] / (given["minutes"] * 60)
        return calc.model_flops_utilization(speed, given["flops_per_token"], given["peak"], given["gpus"])
    if kind == "mfu":
        each = calc.palm_flops_per_token(given["N"], given["L"], given["H"], given["Q"], given["T"])
        return calc.model_flops_utilization(given["tok_s"], each, given["peak"], given["chips"])
    if kind == "activation_memory":
        a, s, h = (given.get(name, default) for name, default in (("a", 96), ("s", 2048), ("h", 12288)))
        every, rest = (calc.activation_bytes_a_layer(s, 1, h, a, mode) / (s * h) for mode in ("none", "attention"))
        return every - rest if given else (every - rest) / every
    if kind == "zero_memory":
        stage = {"baseline": 0, "Pos": 1}[row["id"].rpartition("-")[2]]
        return calc.zero_bytes(given["params"], given["dp"], stage, 2, 2, given["K"]) / 1e9
    if kind == "kv_cache":
        width = given["n_kv_head"] * given["head_dim"]
        model = count_parameters("llama", vocab=8, n_layer=given["n_layer"], d_model=width, n_head=given["n_kv_head"])
        return calc.kv_bytes_a_token(model, {2: "bf16", 4: "fp32"}[given["dtype_bytes"]])
    return None


@pytest.mark.skipif(not ROWS, reason=f"the reference values are not at {TRUTH}; set NANOCHAT_TRUTH to their file")
@pytest.mark.parametrize("row", [row for row in ROWS if row["category"] not in ("core_metric", "leaderboard")],
                         ids=lambda row: row["id"])  # fmt: skip
def test_every_published_value(row: dict) -> None:
    if row["category"] == "time_cost":
        hours, minutes = 3, 51
        assert (hours + minutes / 60) * calc.gpu("H100").dollars * 8 == pytest.approx(row["value"], rel=row["rel_tol"])
        return
    value = computed(row)
    assert value is not None
    assert value == pytest.approx(row["value"], rel=row["rel_tol"], abs=0)
    if row["arch" if "arch" in row else "inputs"].get("arch") == "gptneox":
        assert count_parameters(**row["inputs"]).total - 2 * 50304 * 768 == row["non_embedding"]
    if "breakdown" in row:
        model = count_parameters(**row["inputs"])
        assert (calc.flops_per_token(model), model.scaling) == (row["flops_per_token"], row["scaling_params"])
        by_name = {part.name: part.total for part in model.parts}
        wanted = row["breakdown"]
        assert by_name["Token embeddings"] == wanted["wte"]
        assert by_name["Value embeddings"] == wanted["value_embeds"]
        assert by_name["LM head"] == wanted["lm_head"]
        assert sum(by_name[name] for name in ("Attention", "MLP", "Value gates")) == wanted["transformer_matrices"]
        assert model.of_kind("scalar") == wanted["scalars"]


def test_the_wishs_example() -> None:
    model = calc.preset("nanochat-tiny")
    parts = {part.name: (part.each, part.times) for part in model.parts}
    assert parts == {
        "Token embeddings": (12_288_000, 1), "Attention": (589_824, 6), "MLP": (1_179_648, 6), "LayerNorm": (1_536, 6),
        "Final LayerNorm": (768, 1), "LM head": (12_288_000, 1),
    }  # fmt: skip
    assert model.total == 35_202_816
    run = calc.training(model, 10**10, 65_536, 100_000)
    assert (run.steps, round(run.seconds / 3600, 1)) == (152_587, 27.8)
    assert round(6 * model.total * run.tokens / 1e15, 1) == 2112.2


@pytest.mark.parametrize(
    ("name", "total"),
    [
        ("gpt2-small", 124_439_808), ("gpt2-medium", 354_823_168), ("gpt2-large", 774_030_080),
        ("gpt2-xl", 1_557_611_200), ("llama-2-7b", 6_738_415_616), ("llama-3-8b", 8_030_261_248),
        ("pythia-160m", 162_322_944), ("nanochat-d20", 896_533_746), ("nanochat-2025-d20", 560_988_160),
    ],
)  # fmt: skip
def test_presets_named_after_models_have_their_numbers(name: str, total: int) -> None:
    assert calc.preset(name).total == total


def real(config: GPTConfig) -> tuple[int, int, dict[str, int]]:
    with torch.device("meta"):
        model = GPT(config)
    return sum(p.numel() for p in model.parameters()), model.estimate_flops(), model.num_scaling_params()


@st.composite
def configs(draw: st.DrawFn) -> GPTConfig:
    heads = draw(st.integers(1, 6))
    kv = draw(st.sampled_from([n for n in range(1, heads + 1) if heads % n == 0]))
    windows = draw(st.one_of(st.none(), st.text("SLsl", min_size=1, max_size=5)))
    return GPTConfig(
        draw(st.integers(1, 4096)), draw(st.integers(1, 70_000)), draw(st.integers(1, 9)), heads, kv,
        heads * 2 * draw(st.integers(16, 40)), windows, draw(st.one_of(st.none(), st.integers(0, 3000))),
        vocab_multiple=draw(st.sampled_from([1, 64])), gate_channels=draw(st.sampled_from([12, 32])),
        **{name: draw(st.booleans()) for name in ("residual_lambdas", "value_embeds", "smear", "backout", "bigram")},
    )  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(configs())
def test_the_count_is_the_real_models(config: GPTConfig) -> None:
    counted_as_the_model(config)


@pytest.mark.prove
@settings(max_examples=200, deadline=None)
@given(configs())
def test_the_count_is_the_real_models_200_times(config: GPTConfig) -> None:
    counted_as_the_model(config)


def counted_as_the_model(config: GPTConfig) -> None:
    """Parameters, FLOPs and what rules of scaling count, against the model itself."""
    model = calc.of_config(config)
    total, flops, counts = real(config)
    assert model.total == total
    assert calc.flops_per_token(model) == flops
    assert model.scaling == counts["transformer_matrices"] + counts["lm_head"]


@pytest.mark.parametrize("day", calc.ERAS)
def test_every_era_counts_as_its_model(day: str) -> None:
    model = count_parameters(f"nanochat_{day}", depth=4, vocab=1000, T=512)
    assert calc.count_on_meta(model).equal
    assert calc.flops_per_token(model) == real(model.config)[1]


@needs_fixtures
@pytest.mark.parametrize("base", fixture_dirs(), ids=lambda base: base.name)
def test_runs_of_every_era_have_as_many(base: Path) -> None:
    """Against upstream's own count, by the configuration that the files of a run are recognised by."""
    from nanochat.analysis.checkpoint_browser import inspect, resolve
    from nanochat.paths import Root

    for path in sorted((base / "expected").glob("model_base_*.json")):
        tag = path.stem.removeprefix("model_base_")
        seen = inspect(resolve([Root("workspace", base, True, "")], f"base/{tag}"))
        assert calc.of_config(GPTConfig(**seen.config)).total == seen.tensors["parameters"].sum()


def test_memory_of_parts_adds_up_and_shrinks_with_zero() -> None:
    model = calc.preset("llama-2-7b")
    sizes = []
    for stage in calc.STAGES:
        items = {item.name: item.size for item in calc.training_memory(model, Plan(zero=stage, devices=64))}
        held = items["Weights"] + items["Gradients"] + items["Optimizer"]
        assert held == pytest.approx(calc.zero_bytes(model.total, 64, stage), rel=1e-9)
        sizes.append(held)
    assert sizes == sorted(sizes, reverse=True)
    adamw, muon = (
        calc.training_memory(calc.preset("nanochat-d20"), Plan(optimizer=kind))[2].size for kind in ("adamw", "muon")
    )
    assert muon < adamw


def test_the_largest_batch_fits_and_one_more_does_not() -> None:
    model, plan, room = calc.preset("nanochat-d20"), Plan(optimizer="muon"), 80e9
    rows = calc.largest_rows(model, plan, room)

    def need(number: int) -> int:
        return sum(item.size for item in calc.training_memory(model, Plan(optimizer="muon", rows=number)))

    assert need(rows) <= 0.9 * room < need(rows + 1)
    assert calc.largest_rows(model, plan, 1e9) == 0


def test_what_a_budget_buys_costs_no_more_and_the_next_does() -> None:
    on = calc.gpu("h100")
    for dollars in (5.0, 100.0, 1000.0):
        found = calc.buy(on, 8, dollars=dollars)
        assert found.training is not None
        assert found.training.dollars <= dollars
        model = count_parameters("nanochat", depth=found.depth + 1)
        run = calc.training(model, calc.nanochat_tokens(model)[0], 2**19, None, on, 8)
        assert run.dollars > dollars
    assert calc.buy(on, 8, dollars=0.0001).depth == 0
    hours, both = calc.buy(on, 8, hours=2).depth, calc.buy(on, 8, hours=2, gigabytes=8).depth
    assert both < hours


def test_time_and_price() -> None:
    model = calc.preset("nanochat-2025-d20")
    run = calc.training(model, 11_219_763_200, 524_288, None, calc.gpu("H100"), 8, 0.4788, 3.0)
    assert run.seconds / 60 == pytest.approx(172.26, rel=0.002)  # nanochat's public report
    assert run.dollars == pytest.approx(run.seconds / 3600 * 24)
    assert run.steps == 21_400


def test_a_step_is_measured_beside_its_estimate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nanochat.training_setup.fastest_products", lambda: 1e11)
    step = calc.measure(count_parameters("nanochat", depth=1, vocab=4096, T=64), 2, 64)
    assert step.seconds > 0
    assert 0.2 < step.memory / step.estimated_memory < 5
    with pytest.raises(CalculatorError, match="are measured at most"):
        calc.measure(calc.preset("nanochat-d20"))
    with pytest.raises(CalculatorError, match="choose a nanochat"):
        calc.count_on_meta(calc.preset("gpt2-small"))


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"arch": "gpt5", "depth": 2}, "arch is 'gpt5'; choose one of"),
        ({"arch": "gpt2"}, "gpt2 needs n_layer"),
        ({"arch": "generic", "n_layer": 0, "d_model": 64}, "n_layer is 0"),
        ({"arch": "generic", "n_layer": -3, "d_model": 64}, "n_layer is -3"),
        ({"arch": "generic", "n_layer": 10**400, "d_model": 64}, "from 1 to 1,000,000,000,000"),
        ({"arch": "generic", "n_layer": True, "d_model": 64}, "n_layer is True"),
        ({"arch": "generic", "n_layer": math.nan, "d_model": 64}, "n_layer is nan"),
        ({"arch": "generic", "n_layer": 2, "d_model": 100, "n_head": 3}, "does not divide into 3 heads"),
        ({"arch": "generic", "n_layer": 2, "depth": 3, "d_model": 64}, "n_layer is given twice"),
        ({"arch": "gpt2", "n_layer": 2, "d_model": 64, "color": 3}, "gpt2 has no color"),
        ({"arch": "llama", "vocab": 9, "n_layer": 2, "d_model": 64, "n_head": 4, "n_kv_head": 3}, "evenly"),
        ({"arch": "gpt2", "n_layer": 2, "d_model": 64, "tied": "yes"}, "tied is 'yes'"),
        ({"arch": "nanochat", "depth": 5000}, "at most 1,024 layers"),
        ({"arch": "nanochat", "depth": 4, "window": "XYZ"}, "cannot have these sizes"),
    ],
)
def test_sizes_that_cannot_be_are_one_sentence(given: dict, sentence: str) -> None:
    with pytest.raises(CalculatorError) as caught:
        count_parameters(**given)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_other_numbers_that_cannot_be() -> None:
    model, on = calc.preset("nanochat-tiny"), calc.gpu("H100")
    for call in (
        lambda: calc.gpu("H9000"),
        lambda: calc.preset("gpt9"),
        lambda: Plan(zero=4),
        lambda: Plan(rows=0),
        lambda: Plan("int3"),
        lambda: calc.training(model, 10**9, 2**19),
        lambda: calc.training(model, 0, 2**19, 1.0),
        lambda: calc.training(model, 10**9, 2**19, math.nan),
        lambda: calc.training(model, 10**9, 2**19, None, on, 8, 1.5),
        lambda: calc.training(model, 10**9, 2**19, None, on, 8, 0.4, -1),
        lambda: calc.buy(on),
        lambda: calc.buy(on, dollars=-5),
        lambda: calc.buy(on, hours=math.inf),
        lambda: calc.sequence_of(calc.preset("gpt2-small"), 4096),
    ):
        with pytest.raises(CalculatorError):
            call()
    with pytest.raises(ConfigError):
        GPTConfig(n_layer=0)
