"""Every architecture nanochat has had, from our own tiny checkpoints: recognised, and the numbers unchanged."""

import json

import pytest
import torch

from nanochat.eras import infer_era
from nanochat.gpt import build, parameter_shapes
from tests.variants import FOLDER, STEP, VARIANTS, comparable, measure, random_weights

NAMES = pytest.mark.parametrize("name", VARIANTS)


@NAMES
def test_the_committed_checkpoint_gives_the_recorded_numbers(name: str) -> None:
    config, softcap = VARIANTS[name]
    meta = json.loads((FOLDER / name / f"meta_{STEP:06d}.json").read_text())
    weights = torch.load(FOLDER / name / f"model_{STEP:06d}.pt", weights_only=True)
    shapes = {key: tuple(value.shape) for key, value in weights.items()}
    era = infer_era(meta, shapes, softcap=softcap)
    assert comparable(era.config) == comparable(config)
    assert parameter_shapes(era.config) == shapes
    assert era.reasons

    expected = json.loads((FOLDER / name / "expected.json").read_text())
    measured = measure(build(era.config, weights))
    for key in ("logits", "losses"):
        assert torch.allclose(torch.tensor(measured[key]), torch.tensor(expected[key]), atol=1e-4)
    assert measured["greedy"] == expected["greedy"]
    assert measured["sampled"] == expected["sampled"]


@NAMES
def test_every_switch_of_the_config_changes_the_numbers(name: str) -> None:
    """The recorded numbers can only guard what they depend on."""
    from dataclasses import replace

    config, _ = VARIANTS[name]
    ids = torch.tensor([[(i * i * 31 + 17 * i) % config.vocab_size for i in range(160)]])
    weights = random_weights(config, 0)
    with torch.no_grad():
        base = build(config, weights)(ids)
        changes = {"rope_base": 2 * config.rope_base, "qk_gain": 1.5 * config.qk_gain, "softcap": config.softcap + 5}
        if "S" in (config.window_pattern or ""):
            changes["short_window"] = 127
        if config.value_embeds:
            changes["gate_scale"] = config.gate_scale + 1
        changes["rope_bfloat16"] = not config.rope_bfloat16
        for field, value in changes.items():
            other = build(replace(config, **{field: value}), weights)(ids)
            assert (other - base).abs().max() > 1e-4, field


def test_they_stay_small() -> None:
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) < 2_000_000
