"""What a head does, measured: one test a name, on a text that has no meaning to get in the way.

The probe is <|bos|> and n random tokens, twice in a row (Olsson et al. 2022, "In-context Learning and Induction
Heads"). Nothing in it can be known but by looking back, and a token that comes again shows who looks where:

    previous token    weight on the key just before
    first token       weight on position 0: where a head rests that has nothing to say (a sink, Xiao et al. 2023)
    itself            weight on its own position
    same token        weight on earlier places of the same token
    induction         weight on what followed the same token the last time
    local window      weight on the last 8 keys together, itself included

A score is the mean over all tokens for which the test can be put: 1 is "always", and `chance` is what a head has that
looks everywhere alike. A head gets the name of its best test if it covers 40 % of the way from chance to 1; "local
window" only where no single place explains it, and from 60 % on.
"""

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from nanochat.analysis.attention_visualizer.looking import AttentionError, Look, require_numbers, visible_keys

if TYPE_CHECKING:
    import torch

    from nanochat.checkpoint_manager import LoadedModel

TESTS = {
    "previous token": "weight on the token just before",
    "first token": "weight on position 0, where heads rest",
    "itself": "weight on its own position",
    "same token": "weight on earlier places of the same token",
    "induction": "weight on what followed the same token last time",
    "local window": "weight on the last 8 tokens together",
}
LOCAL = 8
NAMED_FROM, LOCAL_FROM = 0.4, 0.6  # how far from chance to 1 a score must be
HALF = 24  # tokens that the probe repeats; the windows of all of nanochat's designs see over them
ROWS, SEED = 8, 7
SCHEMA = {"layer": pl.Int64, "head": pl.Int64, "test": pl.String, "score": pl.Float64, "chance": pl.Float64}


def label_heads(loaded: "LoadedModel") -> pl.DataFrame:
    """Every head with its name: layer, head, label ("" for none), and each test's score and its chance level.

    Columns: layer, head, label, score (of the label), then one a test (`previous token`, ...), null where the model's
    context is too short to put it. Raises AttentionError for a model with a context below 5 tokens.
    """
    import torch

    from nanochat.gpt import Trace

    ids = probe(loaded)
    trace = Trace()
    with torch.inference_mode():
        hidden = loaded.model.hidden(ids, trace=trace)
    weights = np.stack([layer.mean(0).float().cpu().numpy() for layer in trace.attention])  # (L, H, T, T)
    require_numbers(hidden, weights)
    return _named(scores(weights, ids[0].tolist(), loaded.model.config.windows))


def label_heads_on(report: Look) -> pl.DataFrame:
    """As `label_heads`, measured on the text of a look: what the heads do there, which its meaning may explain."""
    return _named(scores(report.weights, report.ids, report.windows))


def probe(loaded: "LoadedModel") -> "torch.Tensor":
    """ROWS probes (ROWS, 1 + 2 n) on the model's device, always the same ones for a vocabulary and a context.

    Raises AttentionError where the context has no room for one.
    """
    import torch

    model, special = loaded.model, set(loaded.tokenizer.special_tokens.values())
    ordinary = torch.tensor([i for i in range(model.config.vocab_size) if i not in special])
    n = min(HALF, (model.config.sequence_len - 1) // 2, len(ordinary))
    if n < 2:
        raise AttentionError(
            f"this model's context of {model.config.sequence_len} tokens is too short to measure what heads do; "
            "it takes 5 tokens"
        )
    generator = torch.Generator().manual_seed(SEED)
    halves = torch.stack([ordinary[torch.randperm(len(ordinary), generator=generator)[:n]] for _ in range(ROWS)])
    bos = torch.full((ROWS, 1), loaded.tokenizer.get_bos_token_id())
    return torch.cat((bos, halves, halves), 1).to(model.lm_head.weight.device)


def scores(weights: np.ndarray, ids: list[int], windows: tuple[int, ...]) -> pl.DataFrame:
    """Each test's score for each head on any text: layer, head, test, score, chance (both null where nothing fits).

    weights: (L, H, T, T). A token counts for a test if it sees at least 4 keys, half of them not the sought ones.
    """
    rows: list[tuple[int, int, str, float | None, float | None]] = []
    for layer, window in enumerate(windows):
        seen = visible_keys(len(ids), window)
        for test, sought in _sought(ids).items():
            target = sought & seen
            wanted, all_keys = target.sum(1), seen.sum(1)
            counts = (wanted > 0) & (all_keys >= np.maximum(4, 2 * wanted))
            if not counts.any():
                rows += [(layer, head, test, None, None) for head in range(weights.shape[1])]
                continue
            chance = float((wanted[counts] / all_keys[counts]).mean())
            measured = (weights[layer] * target).sum(-1)[:, counts].mean(-1)  # (H,)
            rows += [(layer, head, test, float(score), chance) for head, score in enumerate(measured)]
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def textbook(ids: list[int]) -> np.ndarray:
    """Weights (1, tests, T, T) of heads that do nothing but one test each, in TESTS' order: what to look for.

    Where a test finds no key, the head rests on the first token.
    """
    ideal = []
    for sought in _sought(ids).values():
        target = sought.astype(float)
        target[:, 0] += target.sum(1) == 0
        ideal.append(target / target.sum(1, keepdims=True))
    return np.stack(ideal)[None]


def _sought(ids: list[int]) -> dict[str, np.ndarray]:
    """Each test's keys, (T, T) of bool."""
    place = np.arange(len(ids))
    distance = place[:, None] - place
    token = np.array(ids)
    same = (token[:, None] == token) & (distance > 0)
    followed = np.zeros_like(same)
    followed[:, 1:] = same[:, :-1] & (distance[:, 1:] > 0)  # key j follows key j - 1, which holds the query's token
    return {
        "previous token": distance == 1,
        "first token": np.broadcast_to(place == 0, same.shape) & (distance > 0),
        "itself": distance == 0,
        "same token": same,
        "induction": followed,
        "local window": (distance >= 0) & (distance < LOCAL),
    }


def _named(long: pl.DataFrame) -> pl.DataFrame:
    """One row a head, with its label."""
    lift = (pl.col("score") - pl.col("chance")) / (1 - pl.col("chance"))
    local = pl.col("test") == "local window"
    best = (
        long.with_columns(lift.alias("lift"), local.alias("local"))
        .filter(pl.col("lift") >= pl.when(local).then(LOCAL_FROM).otherwise(NAMED_FROM))
        .sort("local", "lift", descending=[False, True])
        .group_by("layer", "head", maintain_order=True)
        .first()
        .select("layer", "head", pl.col("test").alias("label"), "score")
    )
    wide = long.pivot(on="test", index=["layer", "head"], values="score")
    joined = wide.join(best, on=["layer", "head"], how="left", maintain_order="left")
    return joined.with_columns(pl.col("label").fill_null("")).select("layer", "head", "label", "score", *TESTS)
