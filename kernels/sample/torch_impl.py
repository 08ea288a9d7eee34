"""Sampling on a CPU, as fast as single calls allow; the results are the reference's.

One token of a small vocabulary is far less work than a PyTorch call costs, so the arithmetic is numpy's on the same
memory: its calls cost about a third and its float32 functions use wide vectors. What saves the rest:

  greedy       argmax and the log-sum-exp, nothing else
  top-k        torch.topk, no sort; noise for the kept tokens alone
  top-p        the largest 128 first, then 1,024, and a full sort only where their mass is not enough
  no filter    noise for the whole vocabulary, four tokens per block
  small V      noise for the next steps at once, because a text will ask for them

Everywhere else (GPUs, traced graphs) the reference runs, because it never waits for the device.

B batch, V vocabulary.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kernels.sample import philox, reference
from kernels.sample.reference import COLDEST, SampleResult

Floats = NDArray[np.float32]

LOWEST = np.finfo(np.float32).min
# How many of the largest logits top-p looks at before it sorts: a text mostly needs few, and few are found sooner.
HEADS = (128, 1024)
# Noise for one kept token costs a whole block of four: with more than this share kept, all blocks are cheaper.
SPARSE_SHARE = 0.25


def sample(
    logits: Tensor,
    temperature: float | Tensor,
    top_k: int | Tensor | None,
    top_p: float | Tensor | None,
    min_p: float | Tensor | None,
    seed: int | Tensor,
    step: int | Tensor,
    softcap: float,
) -> SampleResult:
    """Draw one token per row of logits (B, V); parameters as in `kernels.sample`."""
    device = logits.device
    if torch.compiler.is_compiling() or device.type not in ("cpu", "mps"):
        return reference.sample(logits, temperature, top_k, top_p, min_p, seed, step, softcap)
    if device.type == "mps":  # no float64 there, and one row of logits is a small transfer
        on_cpu = sample(
            logits.cpu(),
            _on_cpu(temperature),
            _on_cpu(top_k),
            _on_cpu(top_p),
            _on_cpu(min_p),
            _on_cpu(seed),
            _on_cpu(step),
            softcap,
        )
        return SampleResult(*(part.to(device) for part in on_cpu))
    rows = logits.shape[0]
    if rows == 0:
        none = torch.empty(0, dtype=torch.int64)
        return SampleResult(none, torch.empty(0), none)
    with np.errstate(all="ignore"):  # infinities are part of the definition, not an accident
        x = logits.detach().to(torch.float32).numpy()
        if softcap > 0:
            x = x / np.float32(softcap)
            np.tanh(x, x)
            x *= np.float32(softcap)
        filters = Filters(_per_row(top_k, 0, rows), _per_row(top_p, 1.0, rows), _per_row(min_p, 0.0, rows))
        return _sample(x, _per_row(temperature, 1.0, rows), filters, seed, step)


def _on_cpu(value: Any) -> Any:
    return value.cpu() if isinstance(value, Tensor) else value


class Filters(NamedTuple):
    """The filters, one entry per row; in Python numbers, because a few of them are compared faster than an array."""

    top_k: list[int]  # 0 is off
    top_p: list[float]  # 1 is off
    min_p: list[float]  # 0 is off


def _per_row(value: float | Tensor | None, off: float, rows: int) -> list:
    """A parameter as one Python number per row."""
    if isinstance(value, Tensor):
        return value.tolist()
    return [off if value is None else value] * rows


def _words64(value: int | Tensor, rows: int) -> NDArray[np.uint64]:
    """A seed or step as 64 bits per row; negative ones keep their bits."""
    return np.array([number & 2**64 - 1 for number in _per_row(value, 0, rows)], np.uint64)


def _sample(
    x: Floats, temperature: list[float], filters: Filters, seed: int | Tensor, step: int | Tensor
) -> SampleResult:
    rows = len(x)
    peaks = x.max(1)
    bad = None
    if not all(map(math.isfinite, peaks.tolist())):
        bad = np.isnan(peaks) | (peaks == -np.inf)
        x = np.where(bad[:, None], np.float32(0), x)
        x, peaks = _share_infinity(x)
    log_total = np.log(_exp_below(x, peaks).sum(1))
    if max(temperature) < COLDEST:
        token = x.argmax(1)
        n_kept = np.ones(rows, np.int64)
        logprob = -log_total
    else:
        warm = [T if T >= COLDEST else 1.0 for T in temperature]
        token, n_kept = _draw(x, peaks, warm, filters, _words64(seed, rows), step)
        if min(temperature) < COLDEST:
            cold = np.array(temperature) < COLDEST
            token = np.where(cold, x.argmax(1), token)
            n_kept = np.where(cold, 1, n_kept)
        logprob = x[np.arange(rows), token] - peaks - log_total
    if bad is not None:
        token[bad], logprob[bad], n_kept[bad] = -1, np.nan, 0
    return SampleResult(torch.from_numpy(token), torch.from_numpy(logprob), torch.from_numpy(n_kept))


def _draw(
    x: Floats,
    peaks: Floats,
    temperature: list[float],
    filters: Filters,
    seed: NDArray[np.uint64],
    step: int | Tensor,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(token, n_kept) per row by Gumbel-max over the kept tokens."""
    rows, vocab = x.shape
    z = x
    if temperature.count(1.0) < rows:
        T = np.array(temperature, np.float32)
        z = x / T[:, None]
        peaks = peaks / T
        if np.isinf(peaks).any():
            z, peaks = _share_infinity(z)
    threshold = _threshold(z, peaks, filters)
    kept = z >= threshold[:, None]
    counts = [np.count_nonzero(row) for row in kept]
    n_kept = np.array(counts, np.int64)
    if z.size <= philox.AHEAD_LIMIT and isinstance(step, int):
        score = z + philox.numpy_gumbel_ahead(seed, step, vocab)
        np.copyto(score, -np.inf, where=~kept)
        return score.argmax(1), n_kept
    steps = _words64(step, rows)
    if sum(counts) > SPARSE_SHARE * z.size:
        score = philox.numpy_gumbel_rows(seed, steps, vocab)
        score += z
        if sum(counts) < z.size:
            np.copyto(score, -np.inf, where=~kept)
        return score.argmax(1), n_kept

    flat = np.flatnonzero(kept)  # row after row, tokens ascending
    row, token = np.divmod(flat, vocab) if rows > 1 else (0, flat)
    lanes = philox.numpy_words(
        (token >> 2).astype(np.uint32)[None], steps[row].reshape(1, -1), seed[row].reshape(1, -1)
    )
    score = philox.numpy_gumbel(np.concatenate(lanes)[token & 3, np.arange(len(token))])
    score += z.ravel()[flat]
    if rows == 1:
        return token[[score.argmax()]], n_kept
    # Rows of different lengths, side by side: the first of equal scores is the lowest token.
    place = np.arange(len(flat)) - np.repeat(np.cumsum(n_kept) - n_kept, n_kept)
    scores = np.full((rows, max(counts)), -np.inf, np.float32)
    tokens = np.zeros(scores.shape, np.int64)
    scores[row, place] = score
    tokens[row, place] = token
    return tokens[np.arange(rows), scores.argmax(1)], n_kept


def _threshold(z: Floats, peaks: Floats, filters: Filters) -> Floats:
    """The lowest z that the filters keep, one per row; always finite, so that -inf is never kept."""
    rows, vocab = z.shape
    every = np.arange(rows)
    threshold = np.full(rows, LOWEST)
    k = [k if 0 < k < vocab else vocab for k in filters.top_k]
    head = None  # the largest of each row, descending
    if min(k) < vocab:
        head = _largest(z, max(number for number in k if number < vocab))
        kth = head[every, [min(number, head.shape[1]) - 1 for number in k]]
        if max(k) < vocab:
            threshold = np.maximum(threshold, kth)
        else:
            threshold = np.where(np.array(k) < vocab, np.maximum(threshold, kth), threshold)
    if min(filters.top_p) < 1:
        p = np.array(filters.top_p)
        threshold = np.where(p < 1, np.maximum(threshold, _nucleus(z, peaks, p, threshold, head, k)), threshold)
    if max(filters.min_p) > 0:
        threshold = np.maximum(threshold, peaks + np.log(np.array(filters.min_p)).astype(np.float32))
    return threshold


def _nucleus(
    z: Floats, peaks: Floats, p: NDArray[np.float64], threshold: Floats, head: Floats | None, k: list[int]
) -> Floats:
    """The z at which each row's running mass first reaches p of what lies above its threshold."""
    weight = _exp_below(z, peaks)
    np.copyto(weight, 0, where=z < threshold[:, None])
    total = weight.sum(1, dtype=np.float64)
    # A row's k-th place is the last it can need: what top-k keeps beyond it are ties with it, and no sort is due.
    last = np.array(k) - 1
    if head is not None and max(k) <= head.shape[1]:
        largest: Iterator[Floats] = iter([head])
    else:
        largest = (_largest(z, min(size, z.shape[1])) for size in HEADS)
    for top in largest:
        place = np.minimum(_reach(top, peaks, p * total), last)
        if (place < top.shape[1]).all():
            break
    result = top[np.arange(len(z)), np.minimum(place, top.shape[1] - 1)]
    for row in np.flatnonzero(place == top.shape[1]):  # the head's mass was not enough
        # Tokens that all together weigh less than the mass left out cannot be needed: sort only the others.
        enough = weight[row] >= 0.5 * (1 - p[row]) * total[row] / z.shape[1]
        descending = -np.sort(-z[row, enough])[None]
        reach = _reach(descending, peaks[row, None], p[row, None] * total[row])
        result[row] = descending[0, min(reach[0], descending.shape[1] - 1)]
    return result


def _reach(descending: Floats, peaks: Floats, goal: NDArray[np.float64]) -> NDArray[np.int64]:
    """Where the running mass first reaches the goal; the length where it does not."""
    running = _exp_below(descending, peaks).cumsum(1, dtype=np.float64)
    return (running < goal[:, None]).sum(1)


def _exp_below(x: Floats, peaks: Floats) -> Floats:
    """exp(x - peak), with one new array instead of two: at a megabyte a fresh page costs more than its arithmetic."""
    below = x - peaks[:, None]
    return np.exp(below, below)


def _largest(z: Floats, count: int) -> Floats:
    """The `count` largest of each row, descending. Of a short row most are wanted, and numpy's sort is faster then."""
    if 4 * count > z.shape[1]:
        return -np.sort(-z, axis=1)[:, :count]
    return torch.topk(torch.from_numpy(z), count).values.numpy()


def _share_infinity(x: Floats) -> tuple[Floats, Floats]:
    """(x, max x), where rows that hold +inf become 0 there and -inf elsewhere."""
    over = x.max(1, keepdims=True) == np.inf
    x = np.where(over, np.where(x == np.inf, np.float32(0), np.float32(-np.inf)), x)
    return x, x.max(1)
