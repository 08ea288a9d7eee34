"""One checkpoint looked into: what it is, who made it and how that was recognised, its figures, files and tensors.

Nothing in a file is run and no weight is read, unless every byte is to be verified. What cannot be opened is told with
the cause, and the rest is still shown.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import polars as pl

from nanochat import safe_load
from nanochat.analysis.checkpoint_browser.listing import files_of_step
from nanochat.analysis.checkpoint_browser.names import Reference
from nanochat.checkpoint_files import CheckpointError, meta_name, model_name
from nanochat.checkpoint_manager import Verification, verify
from nanochat.checkpoint_meta import read_meta, recorded_files
from nanochat.checkpoint_weights import read_weights, recognise

FIGURES = {  # column of metrics_meta -> (what it is called, its unit)
    "val_bpb": ("Val BPB", "bits a byte"),
    "val_loss": ("Val loss", "nats a token"),
    "train_loss": ("Train loss", "nats a token"),
    "smooth_loss": ("Smoothed train loss", "nats a token"),
    "learning_rate": ("LR", "of the matrices"),
    "tokens": ("Tokens trained on", "tokens"),
    "time": ("Training time", "seconds"),
    "epoch": ("Pass over the data", "epochs"),
}
TENSORS = {"name": pl.String, "shape": pl.String, "dtype": pl.String, "parameters": pl.Int64, "bytes": pl.Int64}
FILES = {"name": pl.String, "bytes": pl.Int64, "sha256": pl.String}
_ITEM = {"float32": 4, "bfloat16": 2, "float16": 2, "float64": 8}


@dataclass(frozen=True)
class Figure:
    """One measured number of a checkpoint."""

    name: str
    value: float | None  # None: it is not known
    unit: str
    source: str  # where it comes from, or why there is none


@dataclass(frozen=True)
class Inspection:
    """All that the files of one step say."""

    reference: Reference
    meta: Mapping[str, Any]  # {} where it cannot be read
    era: str  # which nanochat made it; "" where that cannot be told
    reasons: tuple[str, ...]  # how the architecture was recognised
    config: Mapping[str, Any]  # the whole architecture, of GPTConfig; {} where it cannot be told
    counts: Mapping[str, int]  # parameters by what they are for, "total" last; {} likewise
    figures: tuple[Figure, ...]
    tensors: pl.DataFrame  # columns of TENSORS
    files: pl.DataFrame  # columns of FILES; sha256 "" where none was recorded
    verification: Verification


def inspect(reference: Reference, full: bool = False) -> Inspection:
    """Look into a checkpoint. full: read every byte and compare it with its digest, at about 2 seconds a GB."""
    meta: Mapping[str, Any] = {}
    recorded: Mapping[str, tuple[int, str]] = {}
    try:
        meta = read_meta(reference.folder / meta_name(reference.step))
        recorded = recorded_files(meta)
    except CheckpointError:
        pass  # `verify` says so below, with the cause
    era, reasons, config, counts, tensors = _architecture(reference, meta)
    files = [
        (name, size, recorded.get(name, (0, ""))[1]) for name, size in files_of_step(reference.folder, reference.step)
    ]
    return Inspection(
        reference,
        meta,
        era,
        reasons,
        config,
        counts,
        _figures(reference, meta),
        tensors,
        pl.DataFrame(files, FILES, orient="row"),
        verify(reference.folder, reference.step, full),
    )


def _architecture(
    reference: Reference, meta: Mapping[str, Any]
) -> tuple[str, tuple[str, ...], Mapping[str, Any], Mapping[str, int], pl.DataFrame]:
    """(era, reasons, config, parameters, tensors), as far as the model file and the meta tell them."""
    from nanochat.training_setup import size_of

    tensors = pl.DataFrame(schema=TENSORS)
    try:
        with safe_load.open_tensors(reference.folder / model_name(reference.step)) as file:
            specs = read_weights(file)
            tensors = _table(specs)
            era = recognise(meta, specs, file, None)
    except CheckpointError:
        return "", (), {}, {}, tensors  # the verification names the cause
    return era.name, era.reasons, asdict(era.config), size_of(era.config)[0], tensors


def _table(specs: Mapping[str, safe_load.TensorSpec]) -> pl.DataFrame:
    from nanochat.analysis.checkpoint_browser.streams import count

    rows = [
        (name, " x ".join(map(str, spec.shape)), spec.dtype, count(spec), count(spec) * _ITEM[spec.dtype])
        for name, spec in specs.items()
    ]
    return pl.DataFrame(rows, TENSORS, orient="row")


def _figures(reference: Reference, meta: Mapping[str, Any]) -> tuple[Figure, ...]:
    """What was measured, with the source of each; those that no file has say why."""
    from nanochat.metrics_meta import meta_rows

    if not meta:
        return ()
    name = meta_name(reference.step)
    plain = meta_rows(reference.folder, names=[name])[0]
    found, problems = meta_rows(reference.folder, learning_rates=True, names=[name])
    rates = "the optimizer file" if found.height else f"no optimizer file that can be read ({problems[0]})"
    row = (found if found.height else plain).row(0, named=True)
    at_meta = plain.row(0, named=True)
    figures = []
    for column, (label, unit) in FIGURES.items():
        value, source = row.get(column), name
        if value is None:
            source = _why_missing(column, rates)
        elif at_meta.get(column) is None:
            source = rates
        figures.append(Figure(label, value, unit, source))
    return tuple(figures)


def _why_missing(column: str, rates: str) -> str:
    if column == "learning_rate":
        return "no optimizer file was saved with this step" if rates == "the optimizer file" else rates
    return {
        "val_bpb": "not evaluated at this step, or the stage does not measure it",
        "val_loss": "measured only by fine-tuning of 2025",
        "train_loss": "nanochat writes it to its log alone",
        "smooth_loss": "not in this meta",
        "tokens": "the meta does not tell the batch",
        "time": "not in this meta",
        "epoch": "not in this meta",
    }[column]
