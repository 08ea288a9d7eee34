"""A tiny checkpoint for every architecture that nanochat has had, and the numbers it must give: tests/data/variants.

They guard the numbers in a clone that has no fixtures. The weights are random and ours; the numbers were recorded on a
day on which the same code matched every run that real nanochat made (tests/test_parity.py), and change only when such a
change is meant. To record them again:

    python -m tests.variants
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nanochat.benchmarks.engine import NoTokenizer
from nanochat.engine import Engine
from nanochat.eras import infer_era
from nanochat.gpt import GPT, build
from nanochat.gpt_config import GPTConfig

FOLDER = Path(__file__).parent / "data" / "variants"
STEP = 7
NEW_TOKENS = 24
NEWEST = GPTConfig(sequence_len=256, vocab_size=100, n_layer=3, n_head=2, n_kv_head=2, n_embd=24)
MARCH = replace(NEWEST, short_window=128, qk_gain=1.15, smear=False, backout=False)
JANUARY = replace(MARCH, qk_gain=1.0, rope_base=1e4, rope_bfloat16=True, n_embd=32, gate_channels=32, gate_scale=2.0)
WINDOWS = replace(JANUARY, value_embeds=False, n_embd=24)
FIRST = replace(WINDOWS, window_pattern=None, short_window=None, residual_lambdas=False, vocab_multiple=1)

# Name -> (the config that eras.py must infer, the softcap that has to be named because no file tells it).
VARIANTS: dict[str, tuple[GPTConfig, float | None]] = {
    "2025_10_first": (FIRST, None),
    "2025_12_padding": (replace(FIRST, vocab_multiple=64), None),
    "2026_01_windows": (WINDOWS, None),
    "2026_01_value_embeds": (JANUARY, None),
    "2026_01_bigram": (replace(JANUARY, bigram=True, n_layer=2), None),
    "2026_03_softcap_20": (replace(JANUARY, softcap=20.0, rope_bfloat16=False, n_layer=2), 20.0),
    "2026_03_gains": (MARCH, None),
    "2026_03_smear": (replace(NEWEST, short_window=128), None),
    "2026_03_grouped_queries": (replace(NEWEST, short_window=128, n_head=3, n_kv_head=1, window_pattern="L"), None),
}
# Fields that the forward pass of a variant never reads, and that inference is therefore free to fill in.
UNREAD = {"value_embeds": ("gate_channels", "gate_scale"), "smear": ("smear_channels",)}


def comparable(config: GPTConfig) -> GPTConfig:
    """The config with every field that its own forward pass does not read set to the default."""
    defaults = GPTConfig()
    unread = [name for switch, names in UNREAD.items() if not getattr(config, switch) for name in names]
    return replace(config, **{name: getattr(defaults, name) for name in unread})


def random_weights(config: GPTConfig, seed: int) -> dict[str, Tensor]:
    """Weights at which every component matters: no zero projection, no neutral scale."""
    generator = torch.Generator().manual_seed(seed)
    state = GPT(config).state_dict()
    for name, tensor in state.items():
        noise = torch.randn(tensor.shape, generator=generator)
        centre = 1.0 if name == "resid_lambdas" else 0.2 if name.endswith(("_lambdas", "_lambda")) else 0.0
        scale = 1.0 if "embed" in name or "wte" in name else 0.1 if centre else tensor.shape[-1] ** -0.5
        state[name] = centre + scale * noise
    state["lm_head.weight"] *= 3  # logits that reach the cap
    return state


def prompt_ids(config: GPTConfig) -> list[int]:
    """160 tokens: longer than a short window."""
    return [(i * i * 31 + 17 * i) % config.vocab_size for i in range(160)]


def measure(model: GPT) -> dict[str, Any]:
    """What is recorded of a model: losses, the last logits, and a greedy continuation with a cache."""
    ids = prompt_ids(model.config)
    tensor = torch.tensor([ids])
    with torch.no_grad():
        logits = model(tensor)[0, -1]
        losses = model(tensor[:, :-1], tensor[:, 1:], reduction="none")
    engine = Engine(model, NoTokenizer(model.config.vocab_size))  # type: ignore[arg-type]
    greedy = [token for (token,), _ in engine.generate(ids, max_tokens=NEW_TOKENS, temperature=0)]
    sampled = [token for (token,), _ in engine.generate(ids, max_tokens=NEW_TOKENS, temperature=0.9, top_k=20, seed=3)]
    return {
        "logits": [round(value, 6) for value in logits.tolist()],
        "losses": [round(value, 6) for value in losses.tolist()],
        "greedy": greedy,
        "sampled": sampled,
    }


def main() -> None:
    """Write every variant in upstream's files: no digest and no `lab` key, so that its era has to be inferred."""
    for number, (name, (config, softcap)) in enumerate(VARIANTS.items()):
        folder = FOLDER / name
        folder.mkdir(parents=True, exist_ok=True)
        weights = random_weights(config, number)
        meta = {"step": STEP, "val_bpb": None, "model_config": config.upstream()}
        torch.save(weights, folder / f"model_{STEP:06d}.pt")
        (folder / f"meta_{STEP:06d}.json").write_text(json.dumps(meta, indent=2) + "\n")
        era = infer_era(meta, {key: tuple(value.shape) for key, value in weights.items()}, softcap=softcap)
        (folder / "expected.json").write_text(json.dumps(measure(build(era.config, weights))) + "\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
