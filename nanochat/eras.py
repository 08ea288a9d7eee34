"""Which nanochat made this checkpoint: from its meta and the names and shapes of its tensors to a `GPTConfig`.

Nothing on disk names the architecture, and upstream's newest code opens none of its older checkpoints. But every change
that altered the forward pass also left a mark: a tensor that was not there before, or a shape. This module reads the
marks, says for each field of the configuration which mark decided it, and says what no mark can tell. Two things can
not be told apart by the tensors alone: the week from 2026-03-03 to 2026-03-09, when the logits were capped at 20
instead of 15, and the format of the rotary table on either side of 2026-03-04. There the file's date decides, and
`softcap=` overrides it.
"""

import datetime
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from nanochat.gpt_config import SIZES, UPSTREAM_KEYS, GPTConfig

Shapes = Mapping[str, tuple[int, ...]]

SOFTCAP_20 = (datetime.date(2026, 3, 3), datetime.date(2026, 3, 9))  # from, until
ROPE_FLOAT32 = datetime.date(2026, 3, 4)


class EraError(ValueError):
    """A checkpoint that no nanochat wrote, or whose meta does not say what it is: one sentence."""


@dataclass(frozen=True)
class Era:
    """A checkpoint's architecture and how it was recognised."""

    name: str  # the date it reached upstream and what it added, for people
    config: GPTConfig  # what the model is
    reasons: tuple[str, ...]  # one sentence per inference


def infer_era(
    meta: Mapping[str, Any], shapes: Shapes, *, saved: datetime.date | None = None, softcap: float | None = None
) -> Era:
    """The era of a checkpoint and its full configuration.

    meta: the checkpoint's meta, read from JSON. shapes: the state dict's tensor names without `_orig_mod.`, and their
    shapes. saved: when the file was written (UTC), for the one choice that only a date can make. softcap: overrules it.
    Raises EraError or ConfigError, both one sentence, where the two do not describe a nanochat model.
    """
    basics = _model_config(meta)
    lab = meta.get("lab")
    architecture = lab.get("architecture") if isinstance(lab, Mapping) else None
    if architecture is not None:
        era = Era(
            "nanochat lab", _recorded(basics, architecture), ("meta names every part of the model (lab.architecture)",)
        )
    else:
        era = _recognise(basics, shapes, saved)
    if softcap is None:
        return era
    if not isinstance(softcap, int | float) or not 1e-6 <= softcap <= 1e9:
        raise EraError(f"softcap is {softcap!r:.40}; give a positive number, 15 or 20 in nanochat's life")
    return _overrule(era, float(softcap))


def architecture_to_dict(config: GPTConfig) -> dict[str, Any]:
    """What `model_config` cannot hold: the fields of a config that upstream's constructor would refuse."""
    return {name: value for name, value in asdict(config).items() if name not in UPSTREAM_KEYS}


def _model_config(meta: Mapping[str, Any]) -> dict[str, Any]:
    """The validated keys of meta["model_config"]; values are checked by GPTConfig itself."""
    config = meta.get("model_config")
    if not isinstance(config, Mapping):
        raise EraError(
            "meta has no model_config object, so the shape of the model is unknown; take another step's meta"
        )
    missing = [key for key in SIZES if key not in config]
    if missing:
        raise EraError(f"model_config lacks {', '.join(missing)}; every nanochat writes these, so the file is damaged")
    unknown = sorted(str(key)[:40] for key in config if key not in UPSTREAM_KEYS)
    if unknown and set(unknown) <= {field.name for field in fields(GPTConfig)}:
        raise EraError(
            f"model_config has {unknown[0]!r}, which nanochat's own does not; write config.upstream() there and give "
            "config to save_checkpoint"
        )
    if unknown:
        raise EraError(
            f"model_config has {', '.join(unknown[:5])!r}, which no nanochat wrote: "
            "a modified model opens only in the code that made it"
        )
    return dict(config)


def _recorded(basics: dict[str, Any], architecture: Any) -> GPTConfig:
    """The config of a checkpoint that we wrote: every field that model_config cannot hold, and no other."""
    expected = {field.name for field in fields(GPTConfig)} - set(UPSTREAM_KEYS)
    if not isinstance(architecture, Mapping) or set(architecture) != expected:
        raise EraError(
            "lab.architecture in meta is not one this version wrote; upgrade nanochat lab, or take another step"
        )
    return GPTConfig(**{"window_pattern": None, **basics, **architecture})


def _recognise(basics: dict[str, Any], shapes: Shapes, saved: datetime.date | None) -> Era:
    """Read the marks, newest first; each era keeps everything of those before it."""
    reasons: list[str] = []

    def mark(name: str, sentence: str) -> bool:
        if name in shapes:
            reasons.append(sentence)
        return name in shapes

    gates = {shape[-1] for name, shape in shapes.items() if name.endswith(".attn.ve_gate.weight") and shape}
    smear = mark(
        "smear_gate.weight", "smear_gate is there: smear, backout, gain 1.2 and windows of a quarter (2026-03-14)"
    )
    bigram = mark("bigram_embed.embed.weight", "bigram_embed is there: a bigram embedding in every layer (2026-01-27)")
    lambdas = mark("resid_lambdas", "resid_lambdas is there: residual scales and sliding windows (2026-01-11)")
    value = any(name.startswith("value_embeds.") for name in shapes)
    if value:
        reasons.append(
            f"value_embeds are there, with gates over {_words(gates)} channels (2026-01-18; 12 since 2026-03-09)"
        )
    march = gates == {12}  # the rewrite of 2026-03-09: new gate, gain, rotary base and windows came together
    if not lambdas:
        reasons.append("neither lambdas nor value embeddings: full attention, the design of 2025")

    T, V = basics["sequence_len"], basics["vocab_size"]
    pattern = basics.get("window_pattern")
    if lambdas and pattern is None:
        pattern = "L"
        reasons.append("no window_pattern in meta: every layer long, as on the first day of windows")
    rows = shapes.get("transformer.wte.weight", (0,))[0]
    padded = type(V) is int and rows != V
    if padded:
        reasons.append(f"{rows:,} rows for {V:,} tokens: padded to a multiple of 64 (2025-12-23), the rest is cut off")

    cap, rope_bfloat16 = 15.0, not march
    if march:
        reasons.append("gates over 12 channels: rotary base 100,000, 3 x sigmoid gates, float32 rotary table")
    elif lambdas and value and not bigram:
        cap, rope_bfloat16, sentence = _early_march(saved)
        reasons.append(sentence)

    config = GPTConfig(
        **{**basics, "window_pattern": pattern},
        short_window=_short_window(T, smear, march) if lambdas else None,
        vocab_multiple=64 if padded or lambdas else 1,
        rope_base=100_000.0 if march else 10_000.0,
        rope_bfloat16=rope_bfloat16,
        qk_gain=1.2 if smear else 1.15 if march else 1.0,
        softcap=cap,
        residual_lambdas=lambdas,
        value_embeds=value,
        gate_channels=12 if march else 32,
        gate_scale=3.0 if march else 2.0,
        smear=smear,
        backout="backout_lambda" in shapes,
        bigram=bigram,
    )
    return Era(_name(smear, march, bigram, value, lambdas, padded, cap), config, tuple(reasons))


def _early_march(saved: datetime.date | None) -> tuple[float, bool, str]:
    """(softcap, rotary table in bfloat16, why) for the design of 2026-01-18 to 2026-03-09, which only a date splits."""
    begin, end = SOFTCAP_20
    if saved is not None and begin <= saved < end:
        bf16 = saved < ROPE_FLOAT32
        return 20.0, bf16, f"written on {saved}, between {begin} and {end}: softcap 20 (softcap=15 overrules)"
    written = f"written on {saved}" if saved is not None else "no date known"
    return (
        15.0,
        True,
        f"{written}, not between {begin} and {end}: softcap 15 (softcap=20 overrules, for a copied run of those days)",
    )


def _short_window(T: Any, smear: bool, march: bool) -> int | None:
    """Keys that an S layer sees: half the context at first, then a third, then a quarter, rounded up to 128."""
    if type(T) is not int:
        return None  # GPTConfig refuses it with its own sentence
    if not march:
        return T // 2
    return -(-T // (4 if smear else 3) // 128) * 128


def _overrule(era: Era, softcap: float) -> Era:
    """The same era with another cap; 20 brings the float32 rotary table of its week along."""
    changes: dict[str, Any] = {"softcap": softcap}
    reasons = [*era.reasons, f"softcap {softcap:g} was asked for"]
    if softcap == 20 and era.config.rope_bfloat16 and era.config.value_embeds:
        changes["rope_bfloat16"] = False
        reasons.append("softcap 20 means early March 2026: rotary table in float32")
    name = "2026-03-03: softcap 20" if "rope_bfloat16" in changes else era.name
    return Era(name, GPTConfig(**{**asdict(era.config), **changes}), tuple(reasons))


def _name(smear: bool, march: bool, bigram: bool, value: bool, lambdas: bool, padded: bool, softcap: float) -> str:
    if smear:
        return "2026-03-14: smear and backout"
    if march:
        return "2026-03-09: sharper queries and keys"
    if bigram:
        return "2026-01-27: bigram embedding"
    if value:
        return "2026-03-03: softcap 20" if softcap == 20 else "2026-01-18: value embeddings"
    if lambdas:
        return "2026-01-11: residual scales and windows"
    return "2025-12-23: padded vocabulary" if padded else "2025-10-13: first release"


def _words(numbers: set[int]) -> str:
    return " and ".join(str(number) for number in sorted(numbers)) or "no"
