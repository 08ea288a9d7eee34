"""What a model thought at each step: probability, rank, entropy, surprise, and what the settings left of it.

`stages` says a second time, for a whole text at once and to be looked at, what kernels.sample does in one operation;
a test holds the two together.

Legend: N steps, V vocabulary.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nanochat.analysis.generation_explorer.session import Session, Token
from nanochat.analysis.generation_explorer.settings import ExplorerError, Settings

if TYPE_CHECKING:
    import polars as pl
    from torch import Tensor

GREEDY = 2.0**-20  # a lower temperature is none, as in kernels.sample
CHUNK = 4_000_000  # numbers of logits that are looked at together
FILTERS = ("top-k", "top-p", "min-p")
EXAMPLE = (
    (" mat", 0.32), (" sofa", 0.21), (" floor", 0.16), (" roof", 0.11), (" table", 0.08), (" moon", 0.05),
    (" dog", 0.03), (" idea", 0.02), (" the", 0.012), (" seven", 0.008),
)  # fmt: skip


@dataclass(frozen=True)
class Stages:
    """The distribution of each step on its way from the model to the draw; every tensor (N, V)."""

    model: "Tensor"  # float64: the model's own, temperature 1
    heated: "Tensor"  # float64: after temperature
    drawn: "Tensor"  # float64: after the filters, what the token is drawn from
    cut: "Tensor"  # int64: 0 kept, else 1 + the place in FILTERS of the first filter that drops it


@dataclass(frozen=True)
class TextReport:
    """A text and what was thought at each of its steps."""

    settings: Settings
    text: str
    ids: tuple[int, ...]
    ended: bool  # it came to its own end, and was not cut off by the limit
    steps: "pl.DataFrame"  # step (from 1), id, text, origin, p_model, p, rank, entropy, entropy_drawn, surprise, kept


@dataclass(frozen=True)
class StepReport:
    """One step with its candidates, likeliest first; the token that was taken is always among them."""

    step: int  # from 1
    kept: int  # tokens that the filters left
    entropy: float  # bits, of the model's own distribution
    candidates: "pl.DataFrame"  # rank (from 1), id, text, p_model, p_heated, p, cut, taken


def stages(logits: "Tensor", settings: Settings) -> Stages:
    """Temperature and filters, one after the other, for logits (N, V) in float32."""
    import torch

    if settings.temperature < GREEDY:
        top = torch.zeros_like(logits, dtype=torch.float64).scatter_(-1, logits.argmax(-1, keepdim=True), 1)
        return Stages(logits.double().softmax(-1), top, top, torch.where(top > 0, 0, 1))
    z = logits / settings.temperature
    descending, peak = z.sort(-1, descending=True).values, z.amax(-1, keepdim=True)
    cut = torch.zeros_like(z, dtype=torch.int64)
    threshold = torch.full_like(peak, -torch.inf)
    if settings.top_k and settings.top_k < z.shape[1]:
        threshold = descending[:, settings.top_k - 1, None]
        cut = torch.where(z < threshold, 1, cut)
    if settings.top_p is not None and settings.top_p < 1:
        mass = (descending - peak).exp().double().masked_fill(descending < threshold, 0).cumsum(-1)
        place = (mass < settings.top_p * mass[:, -1:]).sum(-1, keepdim=True).clamp(max=z.shape[1] - 1)
        cut = torch.where((cut == 0) & (z < descending.gather(-1, place)), 2, cut)
    if settings.min_p:
        lowest = peak + torch.tensor(settings.min_p, dtype=torch.float64).log().to(z.dtype)
        cut = torch.where((cut == 0) & (z < lowest), 3, cut)
    heated = z.double().softmax(-1)
    left = z.double().masked_fill(cut > 0, -torch.inf).softmax(-1)
    return Stages(logits.double().softmax(-1), heated, left, cut)


def read_text(session: Session, settings: Settings, tokens: Sequence[Token]) -> TextReport:
    """What was thought at each step of a text that the session wrote."""
    import polars as pl

    ids = tuple(token.id for token in tokens)
    rows: list[dict[str, float]] = []
    size = max(CHUNK // session.engine.model.config.vocab_size, 1)
    for first in range(0, len(ids), size):
        rows += _facts(session, settings, ids, first, min(first + size, len(ids)))
    steps = pl.DataFrame(
        {
            "step": range(1, len(ids) + 1),
            "id": list(ids),
            "text": [spelled(session, number) for number in ids],
            "origin": [token.origin for token in tokens],
        },
        schema={"step": pl.Int64, "id": pl.Int64, "text": pl.String, "origin": pl.String},
    )
    kinds = {"p_model": pl.Float64, "p": pl.Float64, "rank": pl.Int64, "entropy": pl.Float64,
             "entropy_drawn": pl.Float64, "surprise": pl.Float64, "kept": pl.Int64}  # fmt: skip
    ended = bool(ids) and ids[-1] in session.engine.ends
    said = ids[:-1] if ended else ids
    facts = pl.DataFrame(rows, schema=kinds)
    return TextReport(
        settings, session.engine.tokenizer.decode(said), ids, ended, pl.concat([steps, facts], how="horizontal")
    )


def _facts(session: Session, settings: Settings, ids: tuple[int, ...], first: int, end: int) -> list[dict[str, float]]:
    import torch

    logits = _logits(session, [ids[:step] for step in range(first, end)])
    seen = stages(logits, settings)
    taken = torch.tensor(ids[first:end])[:, None]
    own = logits.gather(-1, taken)
    lower = torch.arange(logits.shape[1]) < taken  # of equal logits the lower index stands before
    columns = {
        "p_model": seen.model.gather(-1, taken)[:, 0],
        "p": seen.drawn.gather(-1, taken)[:, 0],
        "rank": 1 + ((logits > own) | ((logits == own) & lower)).sum(-1),
        "entropy": _entropy(seen.model),
        "entropy_drawn": _entropy(seen.drawn),
        "surprise": -logits.double().log_softmax(-1).gather(-1, taken)[:, 0] / math.log(2),
        "kept": (seen.cut == 0).sum(-1),
    }
    return [dict(zip(columns, row, strict=True)) for row in zip(*(c.tolist() for c in columns.values()), strict=True)]


def read_step(
    session: Session, settings: Settings, path: tuple[int, ...], taken: int | None = None, count: int = 5
) -> StepReport:
    """The candidates behind a path: the `count` likeliest, and the one that was taken wherever it stands.

    The candidates do not depend on the settings, only what is left of them does. Raises ExplorerError for NaN.
    """
    logits = _logits(session, [path])
    return _step(logits, settings, len(path) + 1, taken, count, lambda number: spelled(session, number))


def example_step(settings: Settings) -> StepReport:
    """A step of a model that is made up, for a page that has none: what follows "The cat sat on the"?"""
    import torch

    shares = torch.tensor([share for _, share in EXAMPLE], dtype=torch.float64)
    return _step(shares.log().float()[None], settings, 1, None, len(EXAMPLE), lambda number: EXAMPLE[number][0])


def _step(
    logits: "Tensor", settings: Settings, number: int, taken: int | None, count: int, spell: Callable[[int], str]
) -> StepReport:
    """The report of logits (1, V)."""
    import polars as pl

    seen = stages(logits, settings)
    order = logits[0].sort(descending=True, stable=True).indices.tolist()
    places = list(range(min(count, len(order))))
    if taken is not None and taken not in order[:count]:
        places.append(order.index(taken))
    chosen = [order[place] for place in places]
    names = (None, *FILTERS) if settings.temperature >= GREEDY else (None, "greedy")
    candidates = pl.DataFrame(
        {
            "rank": [place + 1 for place in places],
            "id": chosen,
            "text": [spell(one) for one in chosen],
            "p_model": seen.model[0, chosen].tolist(),
            "p_heated": seen.heated[0, chosen].tolist(),
            "p": seen.drawn[0, chosen].tolist(),
            "cut": [names[cut] for cut in seen.cut[0, chosen].tolist()],
            "taken": [one == taken for one in chosen],
        },
        schema_overrides={"cut": pl.String},
    )
    return StepReport(number, int((seen.cut == 0).sum()), float(_entropy(seen.model)[0]), candidates)


def _logits(session: Session, paths: list[tuple[int, ...]]) -> "Tensor":
    """The logits (N, V) behind several paths, on the CPU."""
    import torch

    with torch.inference_mode():
        logits = torch.stack([session.logits(path) for path in paths]).float().cpu()
    wrong = logits.isnan().any(-1).nonzero()
    if len(wrong):
        raise ExplorerError(
            f"the model's logits at step {len(paths[int(wrong[0])]) + 1} are not numbers (NaN); its weights are "
            "damaged: verify the checkpoint"
        )
    return logits


def _entropy(p: "Tensor") -> "Tensor":
    """Bits of uncertainty of each row (N,); 0 log 0 is 0."""
    return (-(p * p.clamp_min(1e-300).log2()).sum(-1)).clamp_min(0)


def spelled(session: Session, number: int) -> str:
    """A token as one line of harmless text: whitespace kept as blanks, bytes that are no character in hex."""
    from nanochat.checkpoint_files import shown

    raw = session.engine.tokenizer.decode_bytes([number])
    try:
        return shown(raw.decode(), 200)
    except UnicodeDecodeError:
        return f"<{raw[:60].hex(' ')}>"
