"""What changes without a head: the next token, the loss on the text, the loss on a repetition.

Switching off is an argument of the forward pass, so a model that others share is never touched. The same number of
other heads is switched off too, drawn by a fixed seed: only what goes beyond that says something about these heads.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from nanochat.analysis.attention_visualizer.heads import probe
from nanochat.analysis.attention_visualizer.looking import AttentionError, Head, Look, check_heads
from nanochat.analysis.tokenizer_playground.spelling import spell_bytes

if TYPE_CHECKING:
    import torch

    from nanochat.checkpoint_manager import LoadedModel

CONTROLS = 3  # draws of as many other heads
SHOWN = 10  # next tokens: the likeliest before and after


@dataclass(frozen=True)
class Effect:
    """A model with and without some heads. Losses in nats a token; None where there is nothing to measure on."""

    off: tuple[Head, ...]
    next_token: pl.DataFrame  # id, text, before, after: the likeliest of both, by `before`
    divergence: float  # Kullback-Leibler, nats: how far the next token's distribution moved
    tokens: pl.DataFrame  # index, text, before, after: the loss of each token of the text
    loss: tuple[float | None, float | None]  # on the text: (before, after)
    repeats: tuple[float | None, float | None]  # on the second half of random tokens said twice: (before, after)
    others: tuple[float | None, float | None]  # after switching off as many others, mean: (on the text, on repeats)


def without(loaded: "LoadedModel", report: Look, off: Collection[Head]) -> Effect:
    """Compare the model on the text of `report` with and without these heads.

    Raises AttentionError for no head, or one that is not there.
    """
    import torch

    off = check_heads(loaded.model.config, off)
    if not off:
        raise AttentionError("no head is named; switch off at least one, as LAYER.HEAD")
    config = loaded.model.config
    ids = torch.tensor([report.ids], device=loaded.model.lm_head.weight.device)
    repeated = probe(loaded) if config.sequence_len >= 5 else None
    whole, text_before = _run(loaded, ids, frozenset())
    less, text_after = _run(loaded, ids, off)
    before, after = (_array(logprobs[0, -1]) for logprobs in (whole, less))
    others = _others(loaded, off)
    controls = [(_mean(_run(loaded, ids, heads)[1]), _repeat_loss(loaded, repeated, heads)) for heads in others]
    return Effect(
        off=tuple(sorted(off)),
        next_token=_next_tokens(loaded, before, after),
        divergence=max(float((np.exp(before) * (before - after)).sum()), 0.0),
        tokens=report.tokens.select("index", "text").with_columns(
            pl.Series("before", [None, *text_before.tolist()], dtype=pl.Float64),
            pl.Series("after", [None, *text_after.tolist()], dtype=pl.Float64),
        ),
        loss=(_mean(text_before), _mean(text_after)),
        repeats=(_repeat_loss(loaded, repeated, frozenset()), _repeat_loss(loaded, repeated, off)),
        others=(_mean_of([text for text, _ in controls]), _mean_of([repeats for _, repeats in controls])),
    )


def _run(loaded: "LoadedModel", ids: "torch.Tensor", off: frozenset[Head]) -> "tuple[torch.Tensor, np.ndarray]":
    """(log-probabilities (B, T, V), the loss of every target (B * (T - 1),))."""
    import torch

    from nanochat.gpt import Trace

    with torch.inference_mode():
        logprobs = loaded.model(ids, trace=Trace(off=off) if off else None).log_softmax(-1)
        losses = -logprobs[:, :-1].gather(2, ids[:, 1:, None])[..., 0]
    return logprobs, _array(losses).reshape(-1)


def _repeat_loss(loaded: "LoadedModel", ids: "torch.Tensor | None", off: frozenset[Head]) -> float | None:
    """The loss on the second half of the probe, its first token left out: nothing says yet that it repeats."""
    if ids is None:
        return None
    n = (ids.size(1) - 1) // 2
    losses = _run(loaded, ids, off)[1].reshape(ids.size(0), -1)  # (B, 2 n)
    return float(losses[:, n + 1 :].mean())


def _others(loaded: "LoadedModel", off: frozenset[Head]) -> list[frozenset[Head]]:
    """CONTROLS draws of as many heads that are on; none where the model has not as many left."""
    config = loaded.model.config
    rest = [
        (layer, head) for layer in range(config.n_layer) for head in range(config.n_head) if (layer, head) not in off
    ]
    if len(rest) < len(off):
        return []
    draw = np.random.default_rng(0)
    return [frozenset(rest[i] for i in draw.choice(len(rest), len(off), replace=False)) for _ in range(CONTROLS)]


def _next_tokens(loaded: "LoadedModel", before: np.ndarray, after: np.ndarray) -> pl.DataFrame:
    """The likeliest tokens of both, from log-probabilities (V,)."""
    likeliest = {int(i) for logprobs in (before, after) for i in np.argsort(-logprobs, kind="stable")[:SHOWN]}
    names = {number: name for name, number in loaded.tokenizer.special_tokens.items()}
    rows = [
        (
            i,
            names.get(i) or spell_bytes(loaded.tokenizer.decode_bytes([i]), 200),
            *map(float, np.exp((before[i], after[i]))),
        )
        for i in likeliest
    ]
    frame = pl.DataFrame(rows, schema=["id", "text", "before", "after"], orient="row")
    return frame.sort("before", "id", descending=[True, False])


def _array(tensor: "torch.Tensor") -> np.ndarray:
    return tensor.double().cpu().numpy()


def _mean(losses: np.ndarray) -> float | None:
    return float(losses.mean()) if losses.size else None


def _mean_of(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
