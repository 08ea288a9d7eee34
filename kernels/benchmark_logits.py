"""Logits as a trained model gives them, for a vocabulary of any size, without the model.

How fast top-p sampling is depends on how sharp the distribution is, so it is timed on two: a recorded one and a flat
one (random, spread 1: most of the vocabulary is kept), its worst case. The recorded one is logits.json: the sorted
logits of eight places of text that a small model had not seen, from the sharpest distribution to the flattest, at some
ranks. The model (4 layers, width 128, 1,280 tokens) is what `nanochat demo --corpus python --budget 150` trained;
`record` made the file of its logits.

A larger vocabulary has the same curve over the logarithm of the rank: rank r of V takes the recorded value of rank
r^(ln v / ln V). Near the top that adds tokens of middling weight, as larger vocabularies do, and makes the nucleus
larger than recorded, never smaller. Which token has which rank is random.
"""

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

PROFILE = Path(__file__).with_name("logits.json")
RANKS = 48  # points of a curve, evenly spaced in the logarithm of the rank
FLAT_SPREAD = 1.0


def record(logits: Tensor, rows: int = 8) -> dict[str, Any]:
    """What logits.json holds, from logits (N, V): `rows` curves, by entropy from the sharpest place to the flattest."""
    descending = logits.to(torch.float64).sort(-1, descending=True).values
    logprobs = descending.log_softmax(-1)
    by_entropy = (-(logprobs.exp() * logprobs).sum(-1)).argsort()
    picked = [int(by_entropy[int(len(logits) * (row + 0.5) / rows)]) for row in range(rows)]
    ranks = sorted({round(rank) for rank in np.geomspace(1, logits.shape[1], RANKS)})
    values = [[round(float(descending[row, rank - 1]), 3) for rank in ranks] for row in picked]
    return {"vocabulary": logits.shape[1], "ranks": ranks, "curves": values}


@functools.cache
def profile() -> dict[str, Any]:
    """The recorded curves, as `record` made them."""
    return json.loads(PROFILE.read_text(encoding="utf-8"))


def recorded(rows: int, V: int, seed: int = 0) -> Tensor:
    """Logits (rows, V) in float32 with the recorded curves; one row takes the middle one.

    >>> recorded(2, 1000).shape
    torch.Size([2, 1000])
    """
    curves = profile()["curves"]
    middle = len(curves) // 2
    chosen = [middle] if rows == 1 else [row % len(curves) for row in range(rows)]
    generator = np.random.default_rng(seed)
    return torch.from_numpy(np.stack([generator.permutation(_stretched(curves[row], V)) for row in chosen]))


def flat(rows: int, V: int, seed: int = 0) -> Tensor:
    """Logits (rows, V) in float32 without a peak: nearly every token may fall, the worst case for top-p."""
    return FLAT_SPREAD * torch.randn(rows, V, generator=torch.Generator().manual_seed(seed))


def _stretched(curve: Sequence[float], V: int) -> np.ndarray:
    """One curve at ranks 1 .. V, descending, (V,) of float32."""
    known = np.log(profile()["ranks"])
    wanted = np.log(np.arange(1, V + 1)) * (known[-1] / max(np.log(V), 1e-9))
    return np.interp(wanted, known, curve).astype(np.float32)
