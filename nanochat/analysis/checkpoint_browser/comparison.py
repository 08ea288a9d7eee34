"""Two checkpoints side by side: configuration, figures, every tensor's difference, and their answers to one prompt.

The tensors are streamed (streams.py), so memory is that of one piece of each and, for the effective rank, of a square
of the tensor's smaller side.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from nanochat import safe_load
from nanochat.analysis.checkpoint_browser import streams
from nanochat.analysis.checkpoint_browser.inspection import Inspection, inspect
from nanochat.analysis.checkpoint_browser.names import BrowserError, Reference
from nanochat.checkpoint_files import model_name, shown
from nanochat.checkpoint_weights import read_weights

CONFIG = {"key": pl.String, "a": pl.String, "b": pl.String, "same": pl.Boolean}
FIGURES = {"figure": pl.String, "a": pl.Float64, "b": pl.Float64, "difference": pl.Float64, "unit": pl.String}
TENSORS = {
    "name": pl.String,
    "state": pl.String,  # same, changed, only in A, only in B, another shape, not finite
    "shape": pl.String,
    "parameters": pl.Int64,
    "norm_a": pl.Float64,  # L2
    "norm_b": pl.Float64,
    "difference": pl.Float64,  # L2 norm of B - A
    "relative": pl.Float64,  # difference / norm_a
    "cosine": pl.Float64,  # of the angle between A and B
    "largest": pl.Float64,  # absolute change of one weight
    "effective_rank": pl.Float64,  # of B - A, from 1 to the smaller side; null where it was not computed
    "full_rank": pl.Int64,  # the smaller side
}
RANK_UP_TO = 1536  # smaller side of a matrix; its eigenvalues take about a second there and grow with the cube
_WIDE_LIMIT = 1 << 24  # elements of a matrix that is wider than tall: it is kept whole for its rank, 128 MB in float64


@dataclass(frozen=True)
class TensorReport:
    """How far apart the weights are."""

    frame: pl.DataFrame  # columns of TENSORS, in A's order
    relative: float | None  # of all weights that both have, together: |B - A| / |A|
    cosine: float | None
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Answer:
    """One prompt under both checkpoints."""

    prompt: str
    a: str
    b: str


@dataclass(frozen=True)
class Comparison:
    """A and B."""

    a: Inspection
    b: Inspection
    config: pl.DataFrame  # columns of CONFIG
    figures: pl.DataFrame  # columns of FIGURES


def compare(a: Reference, b: Reference) -> Comparison:
    """Configuration and figures of two checkpoints, of any runs and eras. A key that one lacks is empty there."""
    left, right = inspect(a), inspect(b)
    return Comparison(left, right, _configs(left, right), _figures(left, right))


def _configs(a: Inspection, b: Inspection) -> pl.DataFrame:
    def settings(one: Inspection) -> dict[str, Any]:
        model = one.config or one.meta.get("model_config") or {}
        training = {key: one.meta.get(key) for key in ("device_batch_size", "max_seq_len", "total_batch_size")}
        flags = {f"flag {shown(key, 60)}": value for key, value in (one.meta.get("user_config") or {}).items()}
        known = {key: value for key, value in training.items() if value is not None}
        return {"era": one.era or "not recognised", **model, **known, **flags}

    left, right = settings(a), settings(b)
    rows = [
        (key, _words(left, key), _words(right, key), _words(left, key) == _words(right, key))
        for key in dict.fromkeys([*left, *right])
    ]
    return pl.DataFrame(rows, CONFIG, orient="row")


def _words(settings: Mapping[str, Any], key: str) -> str:
    return shown(settings[key], 60) if key in settings else ""


def _figures(a: Inspection, b: Inspection) -> pl.DataFrame:
    def number(value: Any) -> float | None:
        return float(value) if value is not None and math.isfinite(value) else None

    rows: list[tuple[str, float | None, float | None, str]] = [("Step", a.reference.step, b.reference.step, "updates")]
    rows.append(("Parameters", a.counts.get("total"), b.counts.get("total"), ""))
    rows.append(("Size", int(a.files["bytes"].sum()), int(b.files["bytes"].sum()), "bytes"))
    right = {figure.name: figure for figure in b.figures}
    left = {figure.name: figure for figure in a.figures}
    for name in dict.fromkeys([*left, *right]):
        one, other = left.get(name), right.get(name)
        unit = one.unit if one else other.unit if other else ""
        rows.append((name, one.value if one else None, other.value if other else None, unit))
    table = []
    for name, x, y, unit in rows:
        x, y = number(x), number(y)
        if x is not None or y is not None:
            table.append((name, x, y, y - x if x is not None and y is not None else None, unit))
    return pl.DataFrame(table, FIGURES, orient="row")


def compare_tensors(
    a: Reference,
    b: Reference,
    rank_up_to: int = RANK_UP_TO,
    progress: Callable[[int, int, str], None] = lambda done, total, name: None,
) -> TensorReport:
    """Every tensor's difference, streamed.

    The effective rank of a difference D is exp(entropy of its singular values over their sum), after Roy and Vetterli
    2007: 1 where D is one direction, the smaller side where all directions changed alike. It is left out where the
    smaller side is above `rank_up_to`. progress: called with (parameters done, of how many, the tensor's name).

    Raises:
        CheckpointError: a file cannot be opened, or its bytes are not those that were saved.
    """
    rows, notes = [], []
    sums = np.zeros(4)  # |A|^2, |B|^2, A.B, |B - A|^2
    paths = [one.folder / model_name(one.step) for one in (a, b)]
    with safe_load.open_tensors(paths[0]) as file_a, safe_load.open_tensors(paths[1]) as file_b:
        specs_a, specs_b = read_weights(file_a), read_weights(file_b)
        total, done, skipped = sum(map(streams.count, specs_a.values())), 0, 0
        for name in dict.fromkeys([*specs_a, *specs_b]):
            one, other = specs_a.get(name), specs_b.get(name)
            if one is None or other is None or one.shape != other.shape:
                rows.append(_unlike(name, one, other))
            else:
                progress(done, total, name)
                row, part, left_out = _difference(name, file_a, one, file_b, other, rank_up_to)
                rows.append(row)
                sums += part
                skipped += left_out
            done += streams.count(one) if one is not None else 0
        progress(total, total, "")
    if skipped:
        notes.append(
            f"Effective rank left out for {skipped} large matrices (smaller side above {rank_up_to:,}, or very wide): "
            "it takes long there; --rank-up-to N asks for it."
        )
    frame = pl.DataFrame(rows, TENSORS, orient="row")
    relative, cosine = _relation(sums)
    return TensorReport(frame, relative, cosine, tuple(notes))


def _shape(spec: safe_load.TensorSpec) -> str:
    return " x ".join(map(str, spec.shape)) or "1"


def _unlike(name: str, a: safe_load.TensorSpec | None, b: safe_load.TensorSpec | None) -> tuple[Any, ...]:
    spec = a or b
    assert spec is not None
    state = "only in B" if a is None else "only in A" if b is None else "another shape"
    shape = f"{_shape(a)} | {_shape(b)}" if a is not None and b is not None else _shape(spec)
    return (shown(name), state, shape, streams.count(spec), *(None,) * 8)


def _difference(
    name: str,
    file_a: safe_load.TensorFile,
    a: safe_load.TensorSpec,
    file_b: safe_load.TensorFile,
    b: safe_load.TensorSpec,
    rank_up_to: int,
) -> tuple[tuple[Any, ...], "np.ndarray[Any, Any]", bool]:
    """(a row of TENSORS, sums of squares and products, whether the rank was left out)."""
    rows, columns = (a.shape[0], math.prod(a.shape[1:])) if a.shape else (1, 1)
    smaller = min(rows, columns)
    wide = columns > rows
    ranked = len(a.shape) == 2 and 1 < smaller <= rank_up_to and not (wide and rows * columns > _WIDE_LIMIT)
    gram = np.zeros((smaller, smaller)) if ranked else np.zeros((0, 0))
    kept: list[np.ndarray[Any, Any]] = []
    # Whole rows at a time, so that a piece is a matrix.
    size = max(1, streams.PIECE // max(columns, 1)) * max(columns, 1)
    sums, largest = np.zeros(4), 0.0
    for x, y in zip(streams.pieces(file_a, a, size), streams.pieces(file_b, b, size), strict=True):
        delta = y - x
        sums += (x @ x, y @ y, x @ y, delta @ delta)
        largest = max(largest, float(np.abs(delta).max(initial=0.0))) if math.isfinite(largest) else largest
        if not np.isfinite(sums[3]):
            largest = math.nan
        if ranked and wide:
            kept.append(delta)
        elif ranked:
            piece = delta.reshape(-1, columns)
            gram += piece.T @ piece
    if kept:
        matrix = np.concatenate(kept).reshape(rows, columns)
        gram = matrix @ matrix.T
    finite = bool(np.isfinite(sums).all())
    rank = effective_rank(gram) if ranked and finite and sums[3] > 0 else None
    relative, cosine = _relation(sums)
    state = "not finite" if not finite else "same" if sums[3] == 0 else "changed"
    values = (math.sqrt(sums[0]), math.sqrt(sums[1]), math.sqrt(sums[3])) if finite else (None, None, None)
    full = smaller if len(a.shape) == 2 else None
    row = (shown(name), state, _shape(a), rows * columns, *values, relative, cosine,
           largest if finite else None, rank, full)  # fmt: skip
    left_out = len(a.shape) == 2 and smaller > 1 and not ranked and sums[3] > 0
    return row, sums if finite else np.zeros(4), left_out


def effective_rank(gram: "np.ndarray[Any, Any]") -> float:
    """exp of the entropy of singular values over their sum, from D D^T or D^T D (Roy and Vetterli 2007).

    >>> round(effective_rank(np.diag([4.0, 4.0, 0.0])), 6)
    2.0
    """
    values = np.sqrt(np.clip(np.linalg.eigvalsh(gram), 0, None))
    # Rounding leaves eigenvalues of about 1e-16 of the largest; their roots, 1e-8, would count as directions.
    values = values[values > values.max() * 1e-7]
    shares = values / values.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def _relation(sums: "np.ndarray[Any, Any]") -> tuple[float | None, float | None]:
    """(|B - A| / |A|, cosine) of the sums; None where a norm is zero or a weight is not a number."""
    if not np.isfinite(sums).all() or sums[0] == 0:
        return None, None
    cosine = sums[2] / math.sqrt(sums[0] * sums[1]) if sums[1] > 0 else None
    return math.sqrt(sums[3] / sums[0]), None if cosine is None else float(np.clip(cosine, -1, 1))


def answers(
    a: Reference, b: Reference, prompts: Sequence[str], max_tokens: int = 40, device: str = "cpu"
) -> tuple[Answer, ...]:
    """What both say to the same prompts, always taking the likeliest token, so that the weights alone differ.

    A pretrained model goes on with the prompt; a fine-tuned one answers it.

    Raises:
        BrowserError: an empty prompt.
        CheckpointError, TokenizerError, EngineError: a model cannot be opened or run.
    """
    if not prompts or any(not prompt.strip() for prompt in prompts):
        raise BrowserError("a prompt is empty; write what both models should answer")
    left, right = (_says(one, prompts, max_tokens, device) for one in (a, b))
    return tuple(Answer(*row) for row in zip(prompts, left, right, strict=True))


def _says(reference: Reference, prompts: Sequence[str], max_tokens: int, device: str) -> list[str]:
    from nanochat.checkpoint_manager import load_model
    from nanochat.engine import Engine

    loaded = load_model(reference.folder, reference.step, device)
    engine, tokenizer = Engine(loaded.model, loaded.tokenizer), loaded.tokenizer
    texts = []
    for prompt in prompts:
        tokens = [tokenizer.get_bos_token_id()]
        if reference.stage in ("base", ""):
            tokens += tokenizer.encode(prompt)
        else:
            tokens += tokenizer.encode(prompt, prepend="<|user_start|>", append="<|user_end|>")
            tokens.append(tokenizer.encode_special("<|assistant_start|>"))
        room = max(engine.model.config.sequence_len - len(tokens), 1)
        rows, _ = engine.generate_batch(tokens, max_tokens=min(max_tokens, room), temperature=0.0)
        texts.append(tokenizer.decode(rows[0][len(tokens) :]))
    return texts
