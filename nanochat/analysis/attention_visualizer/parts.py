"""Why a head looks where it looks: its scores taken apart into position and content, exactly.

A score is q . k, and both are rotated by their place: q_i = R_i u_i, k_j = R_j w_j, with u and w what the tokens ask
and offer. Write u_i = mean(u) + du_i and w_j = mean(w) + dw_j, and the score falls into four sums:

    position        R_i mean(u) . R_j mean(w)    the same for every text: it depends on i - j alone
    key content     R_i mean(u) . R_j dw_j       this key, whoever asks
    query content   R_i du_i    . R_j mean(w)    this query's own taste in distances
    match           R_i du_i    . R_j dw_j       this query and this key

The means are over the text at hand. A share is the part's covariance with the score over the keys that a token sees,
divided by the score's variance there (a softmax does not see what all keys of a row have in common); shares sum to 1,
and one can be negative where parts work against each other. Source of the rotation: Su et al. 2021.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl

from nanochat.analysis.attention_visualizer.looking import Look, matrix, visible_keys

NAMES = ("position", "key content", "query content", "match")


@dataclass(frozen=True)
class Parts:
    """One head's scores, taken apart."""

    layer: int
    head: int
    scores: dict[str, np.ndarray]  # part -> (T, T) before the softmax; they sum to the score
    shares: dict[str, float | None]  # part -> share of the score's variation; None where it does not vary
    by_distance: pl.DataFrame  # distance (i - j), position, score: means over the text, each row's mean taken off
    from_position: np.ndarray  # (T, T): the weights that position alone would give
    from_content: np.ndarray  # (T, T): the weights that the three other parts would give
    overlap: dict[str, float]  # "position", "content", "alike": weight that these and the real weights share, 0 to 1


def parts(report: Look, layer: int, head: int) -> Parts:
    """Take one head's scores apart. Raises AttentionError for a layer or head that is not there."""
    weights = matrix(report, layer, head)
    seen = visible_keys(weights.shape[0], report.windows[layer])
    q, k = (tensor[layer, head].astype(np.float64) for tensor in (report.queries, report.keys))  # (T, D)
    cos, sin = (table.astype(np.float64) for table in report.rotary)
    mean_q, mean_k = (_rotate(_straighten(x, cos, sin).mean(0), cos, sin) for x in (q, k))  # (T, D)
    scale = q.shape[1] ** -0.5
    scores = {
        "position": mean_q @ mean_k.T * scale,
        "key content": mean_q @ (k - mean_k).T * scale,
        "query content": (q - mean_q) @ mean_k.T * scale,
        "match": (q - mean_q) @ (k - mean_k).T * scale,
    }
    total = q @ k.T * scale
    centred = {name: _centred(part, seen) for name, part in scores.items()}
    whole = _centred(total, seen)
    variation = float((whole**2).sum())
    only_position, rest = _softmax(scores["position"], seen), _softmax(total - scores["position"], seen)
    alike = seen / seen.sum(1, keepdims=True)
    return Parts(
        layer=layer,
        head=head,
        scores=scores,
        shares={
            name: float((part * whole).sum()) / variation if variation > 1e-12 else None
            for name, part in centred.items()
        },
        by_distance=_by_distance(centred["position"], whole, seen),
        from_position=only_position,
        from_content=rest,
        overlap={
            name: float(np.minimum(other, weights).sum(1).mean())
            for name, other in (("position", only_position), ("content", rest), ("alike", alike))
        },
    )


def _straighten(x: np.ndarray, cos: np.ndarray, sin: np.ndarray) -> np.ndarray:
    """Undo the rotation of each row of x (T, D) by its place; the tables may be rounded, so they are divided out."""
    first, second = np.split(x, 2, axis=-1)
    return np.concatenate((first * cos - second * sin, second * cos + first * sin), -1) / np.tile(cos**2 + sin**2, 2)


def _rotate(x: np.ndarray, cos: np.ndarray, sin: np.ndarray) -> np.ndarray:
    """One vector (D,) as it looks at every place, (T, D)."""
    first, second = np.split(x, 2)
    return np.concatenate((first * cos + second * sin, second * cos - first * sin), -1)


def _centred(scores: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Scores without their row's mean over the keys that are seen; 0 elsewhere."""
    mean = (scores * seen).sum(1, keepdims=True) / seen.sum(1, keepdims=True)
    return np.where(seen, scores - mean, 0.0)


def _softmax(scores: np.ndarray, seen: np.ndarray) -> np.ndarray:
    masked = np.where(seen, scores, -np.inf)
    powers = np.exp(masked - masked.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def _by_distance(position: np.ndarray, whole: np.ndarray, seen: np.ndarray) -> pl.DataFrame:
    place = np.arange(len(seen))
    distance = (place[:, None] - place)[seen]
    columns = {"distance": distance, "position": position[seen], "score": whole[seen]}
    return pl.DataFrame(columns).group_by("distance").mean().sort("distance")
