"""One forward pass over a text, and every attention weight in it: exactly those that the model used.

The weights come from the model's own pass (`Trace` in gpt.py), so windows, grouped keys and the designs of all dates
are in them. Heads that are switched off still look; what they saw does not reach the layers above.

Legend: L layers, H query heads, G key/value heads, T tokens, D channels of a head, V vocabulary.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from nanochat.analysis.tokenizer_playground.spelling import spell_bytes
from nanochat.checkpoint_files import shown

if TYPE_CHECKING:
    import torch

    from nanochat.checkpoint_manager import LoadedModel

EXAMPLE = "One snowy morning, a shy girl named Lily went to the lake. At the lake she met her neighbor Albert."
MAX_CHARACTERS = 100_000  # of a text, before it is even encoded
CELLS = 2**26  # weights that one look may hold: 256 MiB in float32
Head = tuple[int, int]  # (layer, head)


class AttentionError(ValueError):
    """A question about attention that has no answer: one sentence."""


@dataclass(frozen=True)
class Look:
    """What a model did with one text."""

    tokens: pl.DataFrame  # index, id, text (whitespace visible), plain (on one line), special, loss (nats, null first)
    weights: np.ndarray  # (L, H, T, T) float32: row i is where token i looks; 0 where it cannot
    value_norms: np.ndarray  # (L, H, T): the length of the value that each key offers to each head
    queries: np.ndarray  # (L, H, T, D) as attention took them: rotated, normed, scaled
    keys: np.ndarray  # (L, H, T, D), a group's key repeated for each of its heads
    rotary: tuple[np.ndarray, np.ndarray]  # cosines and sines (T, D / 2)
    probabilities: np.ndarray  # (V,) of the next token
    windows: tuple[int, ...]  # per layer: keys before its own that a token sees, -1 for all
    off: frozenset[Head]  # the heads that were switched off
    loss: float | None  # mean over the text, nats a token; None for a single token

    @property
    def shape(self) -> tuple[int, int, int]:
        """(L, H, T)."""
        return self.weights.shape[:3]

    @property
    def ids(self) -> list[int]:
        """The tokens' ids."""
        return self.tokens["id"].to_list()


def look(loaded: "LoadedModel", text: str, off: Collection[Head] = (), chat: bool = False) -> Look:
    """Run the model on <|bos|> and the text, once. chat: as a user's message, up to where the reply begins.

    Special tokens' names in the text stay text.
    Raises AttentionError for a text that is empty or too long, for heads that are not there, and for a model whose
    weights are not numbers.
    """
    import torch

    from nanochat.gpt import Trace

    off = check_heads(loaded.model.config, off)
    ids = _encode(loaded, text, chat)
    trace = Trace(off=off)
    with torch.inference_mode():
        batch = torch.tensor([ids], device=loaded.model.lm_head.weight.device)
        logits = loaded.model(batch, trace=trace)[0]  # (T, V)
        logprobs = logits.float().log_softmax(-1)
        losses = -logprobs[:-1].gather(1, batch[0, 1:, None])[:, 0]
        weights = _stacked(trace.attention)  # (L, H, T, T)
        require_numbers(logits, weights)
        cos, sin = loaded.model.rope(len(ids), batch.device)
    H = loaded.model.config.n_head
    return Look(
        tokens=_token_frame(loaded, ids, [None, *losses.tolist()]),
        weights=weights,
        value_norms=_heads_first(trace.values, H, norms=True),
        queries=_heads_first(trace.queries, H),
        keys=_heads_first(trace.keys, H),
        rotary=(_array(cos[0, : len(ids), 0]), _array(sin[0, : len(ids), 0])),
        probabilities=_array(logprobs[-1].exp()),
        windows=loaded.model.config.windows,
        off=off,
        loss=float(losses.mean()) if len(ids) > 1 else None,
    )


def check_heads(config: Any, heads: Collection[Head]) -> frozenset[Head]:
    """The heads as a set. Raises AttentionError for a layer or a head that the model does not have."""
    for layer, head in heads:
        if not 0 <= layer < config.n_layer:
            raise AttentionError(f"layer {layer} is not there: this model has layers 0 to {config.n_layer - 1}")
        if not 0 <= head < config.n_head:
            raise AttentionError(
                f"head {head} is not there: each layer of this model has heads 0 to {config.n_head - 1}"
            )
    return frozenset(heads)


def matrix(report: Look, layer: int, head: int | None = None, carried: bool = False) -> np.ndarray:
    """Weights (T, T) of one head, or the mean over the heads of a layer.

    carried: each weight times the length of the value that it carries, rows again summing to 1 (Kobayashi et al. 2020):
    a head that looks at a token with a tiny value takes little from it.
    Raises AttentionError for a layer or head that is not there.
    """
    L, H, _ = report.shape
    if not 0 <= layer < L:
        raise AttentionError(f"layer {layer} is not there: this model has layers 0 to {L - 1}")
    if head is not None and not 0 <= head < H:
        raise AttentionError(f"head {head} is not there: each layer of this model has heads 0 to {H - 1}")
    chosen = slice(None) if head is None else slice(head, head + 1)
    weights = report.weights[layer, chosen]
    if carried:
        weights = weights * report.value_norms[layer, chosen, None, :]
        weights = weights / np.maximum(weights.sum(-1, keepdims=True), 1e-12)
    return weights.mean(0)


def top(report: Look, layer: int, head: int | None = None, k: int = 5, carried: bool = False) -> pl.DataFrame:
    """The k keys that each token attends to most: query, rank, key, text, weight; ties go to the earlier key.

    Raises AttentionError for a layer or head that is not there, or k below 1.
    """
    if k < 1:
        raise AttentionError(f"top-k is {k}; ask for at least 1 token")
    weights = matrix(report, layer, head, carried)
    seen = visible_keys(weights.shape[0], report.windows[layer])
    rows = []
    for query in range(weights.shape[0]):
        keys = np.flatnonzero(seen[query])
        order = keys[np.argsort(-weights[query, keys], kind="stable")][:k]
        rows += [(query, rank, int(key), float(weights[query, key])) for rank, key in enumerate(order, 1)]
    frame = pl.DataFrame(
        rows, schema={"query": pl.Int64, "rank": pl.Int64, "key": pl.Int64, "weight": pl.Float64}, orient="row"
    )
    names = report.tokens.select(pl.col("index").alias("key"), "text")
    return frame.join(names, on="key", how="left", maintain_order="left").select(
        "query", "rank", "key", "text", "weight"
    )


def visible_keys(length: int, window: int) -> np.ndarray:
    """Which keys each of `length` tokens may look at, (T, T) of bool; a window of W keeps W + 1 keys, -1 all.

    >>> visible_keys(3, 1).astype(int).tolist()
    [[1, 0, 0], [1, 1, 0], [0, 1, 1]]
    """
    distance = np.arange(length)[:, None] - np.arange(length)
    return (distance >= 0) & ((distance <= window) | (window < 0))


def _encode(loaded: "LoadedModel", text: str, chat: bool) -> list[int]:
    """The ids of a text that this model can be asked about."""
    tokenizer, config = loaded.tokenizer, loaded.model.config
    if not text:
        raise AttentionError("the text is empty; write a few words to see where the model looks")
    if len(text) > MAX_CHARACTERS:
        raise AttentionError(
            f"the text has {len(text):,} characters; at most {MAX_CHARACTERS:,} are read, so shorten it"
        )
    ids = [tokenizer.get_bos_token_id()]
    if chat:
        ids += tokenizer.encode(text, prepend="<|user_start|>", append="<|user_end|>")
        ids.append(tokenizer.encode_special("<|assistant_start|>"))
    else:
        ids += tokenizer.encode(text)
    room = min(config.sequence_len, int((CELLS / (config.n_layer * config.n_head)) ** 0.5))
    if len(ids) > room:
        why = "its context" if room == config.sequence_len else "what fits into memory with all heads of all layers"
        raise AttentionError(f"the text has {len(ids):,} tokens and this model takes {room:,} ({why}); shorten it")
    return ids


def _token_frame(loaded: "LoadedModel", ids: list[int], losses: list[float | None]) -> pl.DataFrame:
    names = {number: name for name, number in loaded.tokenizer.special_tokens.items()}
    pieces = [loaded.tokenizer.decode_bytes([number]) for number in ids]
    spelled = [names.get(number) or spell_bytes(piece, 200) for number, piece in zip(ids, pieces, strict=True)]
    plain = [
        text if number in names else _one_line(piece) for number, text, piece in zip(ids, spelled, pieces, strict=True)
    ]
    columns = {"index": range(len(ids)), "id": ids, "text": spelled, "plain": plain}
    return pl.DataFrame(columns).with_columns(
        pl.Series("special", [number in names for number in ids]), pl.Series("loss", losses, dtype=pl.Float64)
    )


def _one_line(piece: bytes) -> str:
    """A token with its blanks as they are, or its bytes where they are no text."""
    try:
        return shown(piece.decode(), 200)
    except UnicodeDecodeError:
        return spell_bytes(piece, 200)


def _array(tensor: "torch.Tensor") -> np.ndarray:
    return tensor.float().cpu().numpy()


def _stacked(layers: "list[torch.Tensor]") -> np.ndarray:
    """Row 0 of each layer's (B, ...)."""
    return np.stack([_array(layer[0]) for layer in layers])


def _heads_first(layers: "list[torch.Tensor]", H: int, norms: bool = False) -> np.ndarray:
    """(B, T, G, D) per layer to (L, H, T, D), or to (L, H, T) where only lengths are asked for."""
    stacked = _stacked(layers)  # (L, T, G, D)
    if norms:
        stacked = np.sqrt(np.square(stacked).sum(-1))
    return np.repeat(stacked, H // stacked.shape[2], axis=2).swapaxes(1, 2)


def require_numbers(output: "torch.Tensor", weights: np.ndarray) -> None:
    """Refuse what a damaged model computes."""
    broken = np.flatnonzero(~np.isfinite(weights).all((1, 2, 3)))
    if len(broken) or not bool(output.isfinite().all()):
        where = f"from layer {broken[0]} on " if len(broken) else ""
        raise AttentionError(
            f"this model computes values that are no numbers {where}(NaN or infinity): its training diverged or the "
            "file is damaged; open an earlier step"
        )
