"""Which nanochat wrote a checkpoint: the marks, the dates that only a file date tells, and what is refused."""

import datetime
import json
from dataclasses import replace

import pytest

from nanochat.eras import EraError, architecture_to_dict, infer_era
from nanochat.gpt import parameter_shapes
from nanochat.gpt_config import ConfigError, GPTConfig
from tests.support import fixture_dirs, needs_fixtures
from tests.variants import VARIANTS

CONFIG, _ = VARIANTS["2026_01_value_embeds"]
META = {"model_config": CONFIG.upstream()}
SHAPES = parameter_shapes(CONFIG)
FULL = architecture_to_dict(CONFIG)


@pytest.mark.parametrize(
    ("saved", "softcap", "rope_bfloat16"),
    [
        (None, 15.0, True),
        (datetime.date(2026, 3, 2), 15.0, True),
        (datetime.date(2026, 3, 3), 20.0, True),
        (datetime.date(2026, 3, 4), 20.0, False),
        (datetime.date(2026, 3, 8), 20.0, False),
        (datetime.date(2026, 3, 9), 15.0, True),
    ],
)
def test_the_week_of_softcap_20_is_told_by_the_file_date(
    saved: datetime.date | None, softcap: float, rope_bfloat16: bool
) -> None:
    era = infer_era(META, SHAPES, saved=saved)
    assert (era.config.softcap, era.config.rope_bfloat16) == (softcap, rope_bfloat16)
    assert any("overrules" in reason for reason in era.reasons)


def test_softcap_can_be_overruled_and_brings_its_rotary_table() -> None:
    era = infer_era(META, SHAPES, softcap=20)
    assert (era.config.softcap, era.config.rope_bfloat16, era.name) == (20.0, False, "2026-03-03: softcap 20")
    assert "asked for" in " ".join(era.reasons)
    newest = VARIANTS["2026_03_smear"][0]
    era = infer_era({"model_config": newest.upstream()}, parameter_shapes(newest), softcap=30)
    assert (era.config.softcap, era.config.rope_bfloat16) == (30.0, False)


@pytest.mark.parametrize("softcap", [0, -15, float("inf"), float("nan")])
def test_a_softcap_that_is_none_is_refused(softcap: float) -> None:
    with pytest.raises(EraError, match="positive"):
        infer_era(META, SHAPES, softcap=softcap)


@pytest.mark.parametrize("context", [100, 128, 129, 512, 1000])
def test_windows_follow_the_rule_of_their_time(context: int) -> None:
    def short(name: str) -> int | None:
        config = replace(VARIANTS[name][0], sequence_len=context)
        return infer_era({"model_config": config.upstream()}, parameter_shapes(config)).config.short_window

    def up_to_128(value: float) -> int:
        return int(-(-value // 128) * 128)

    assert short("2026_01_windows") == context // 2
    assert short("2026_03_gains") == up_to_128(-(-context // 3))
    assert short("2026_03_smear") == up_to_128(-(-context // 4))
    assert short("2025_10_first") is None


def test_a_run_of_the_first_day_of_windows_has_no_pattern() -> None:
    config = VARIANTS["2026_01_windows"][0]
    meta = {"model_config": {k: v for k, v in config.upstream().items() if k != "window_pattern"}}
    era = infer_era(meta, parameter_shapes(config))
    assert era.config.windows == (config.sequence_len,) * config.n_layer
    assert "no window_pattern" in " ".join(era.reasons)


def test_what_we_write_needs_no_inference() -> None:
    odd = GPTConfig(sequence_len=64, vocab_size=50, n_layer=2, n_head=2, n_kv_head=1, n_embd=32, bigram=True, qk_gain=2)
    meta = json.loads(json.dumps({"model_config": odd.upstream(), "lab": {"architecture": architecture_to_dict(odd)}}))
    assert infer_era(meta, {}).config == odd
    full = replace(odd, window_pattern=None)
    meta = {"model_config": full.upstream(), "lab": {"architecture": architecture_to_dict(full)}}
    assert infer_era(meta, {}).config == full


@pytest.mark.parametrize(
    "architecture", [[], "x", {"softcap": "15"}, {"unheard_of": 1}, {"n_layer": 3}, {"smear": [1]}]
)
def test_a_damaged_architecture_is_refused(architecture: object) -> None:
    with pytest.raises(EraError, match=r"lab\.architecture"):
        infer_era({**META, "lab": {"architecture": architecture}}, SHAPES)


@pytest.mark.parametrize(
    ("field", "value"),
    [(name, value) for name in ("vocab_multiple", "gate_channels", "smear_channels") for value in (0, -3, 1.5, None)]
    + [("short_window", value) for value in (-1, 1.5, True)]
    + [(name, value) for name in ("rope_base", "qk_gain", "softcap", "gate_scale") for value in (0, -1, None, "1")]
    + [("softcap", float("nan")), ("rope_base", float("inf")), ("qk_gain", 10**400), ("qk_gain", 5e-324)]
    + [(name, value) for name in ("smear", "bigram", "rope_bfloat16") for value in (None, 5, 0.0, "true")],
)
def test_every_recorded_field_is_checked(field: str, value: object) -> None:
    with pytest.raises(ConfigError, match=field):
        infer_era({**META, "lab": {"architecture": {**FULL, field: value}}}, SHAPES)


def test_a_lower_case_pattern_means_the_same() -> None:
    config = VARIANTS["2026_03_smear"][0]
    assert replace(config, window_pattern="sssl").windows == replace(config, window_pattern="SSSL").windows


def test_softcap_20_moves_the_rotary_table_only_where_that_week_is_possible() -> None:
    config = VARIANTS["2026_01_windows"][0]
    era = infer_era({"model_config": config.upstream()}, parameter_shapes(config), softcap=20)
    assert (era.config.softcap, era.config.rope_bfloat16) == (20.0, True)


@pytest.mark.parametrize(
    ("meta", "word"),
    [
        ({}, "model_config"),
        ({"model_config": [1]}, "model_config"),
        ({"model_config": {k: v for k, v in META["model_config"].items() if k != "n_head"}}, "n_head"),
        ({"model_config": {**META["model_config"], "moe_experts": 8}}, "moe_experts"),
        ({"model_config": {**META["model_config"], "softcap": 15.0}}, "upstream"),
        ({"model_config": {**META["model_config"], "n_layer": "3"}}, "n_layer"),
        ({"model_config": {**META["model_config"], "sequence_len": None}}, "sequence_len"),
        ({"model_config": {**META["model_config"], "n_embd": 10**12}}, "n_embd"),
    ],
)
def test_a_meta_that_describes_no_model_is_one_sentence(meta: dict, word: str) -> None:
    with pytest.raises((EraError, ConfigError), match=word) as caught:
        infer_era(meta, SHAPES)
    assert "\n" not in str(caught.value)


@needs_fixtures
def test_every_fixture_is_named_by_its_design() -> None:
    from nanochat.checkpoint_manager import find_runs, load_model

    names = {folder.name: load_model(find_runs(folder)[0].folder).era.name for folder in fixture_dirs()}
    assert names == {
        "nanochat_2025_11_06": "2025-10-13: first release",
        "nanochat_2025_12_30": "2025-10-13: first release",  # 1,024 tokens need no padding, so nothing shows it
        "nanochat_2026_01_18": "2026-01-11: residual scales and windows",
        "nanochat_2026_01_20": "2026-01-18: value embeddings",
        "nanochat_2026_01_27_engram": "2026-01-27: bigram embedding",
        "nanochat_2026_02_20": "2026-01-18: value embeddings",
        "nanochat_2026_03_04": "2026-01-18: value embeddings",  # the copy is younger than the run: softcap=20 says it
        "nanochat_2026_03_10": "2026-03-09: sharper queries and keys",
        "nanochat_2026_03_14": "2026-03-14: smear and backout",
        "nanochat_2026_07_03": "2026-03-14: smear and backout",
    }
