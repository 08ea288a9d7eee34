"""What a model file holds, judged before a weight is read: names, types, shapes, and the design they belong to.

Opening, verifying and saving all ask the same question here, so nothing is committed that could not be opened again.
"""

import datetime
import os
from collections.abc import Mapping
from typing import Any

from nanochat import safe_load
from nanochat.checkpoint_files import CheckpointError, hostile, location, shown
from nanochat.eras import Era, EraError, infer_era
from nanochat.gpt_config import ConfigError

COMPILED_PREFIX = "_orig_mod."  # torch.compile puts it before every name
WEIGHT_TYPES = ("float32", "bfloat16", "float16", "float64")


def strip_compiled(weights: Mapping[str, Any]) -> dict[str, Any]:
    """The same weights under the names they had before torch.compile."""
    return {name.removeprefix(COMPILED_PREFIX): weight for name, weight in weights.items()}


def read_weights(file: safe_load.TensorFile) -> dict[str, safe_load.TensorSpec]:
    """The names and descriptions in a model file, which must hold weights and nothing else."""
    tree = file.tree
    if not isinstance(tree, dict) or not tree:
        raise hostile(file.path, "it holds no state dict")
    for name, spec in tree.items():
        if not isinstance(name, str) or not isinstance(spec, safe_load.TensorSpec) or spec.dtype not in WEIGHT_TYPES:
            raise hostile(file.path, f"'{shown(name)}' is not a floating-point tensor")
    if len({spec.storage for spec in tree.values()}) < len(tree):
        raise hostile(file.path, "two weights share one storage")
    specs: dict[str, safe_load.TensorSpec] = strip_compiled(tree)
    if len(specs) < len(tree):
        raise hostile(file.path, f"a weight is there with and without {COMPILED_PREFIX}")
    return specs


def recognise(
    meta: Mapping[str, Any],
    specs: Mapping[str, safe_load.TensorSpec],
    file: safe_load.TensorFile,
    softcap: float | None,
) -> Era:
    """Recognise the era and hold every name and shape against it, before a single weight is read."""
    from nanochat.gpt import parameter_shapes

    shapes = {name: spec.shape for name, spec in specs.items()}
    try:
        era = infer_era(meta, shapes, saved=_written(file), softcap=softcap)
    except (EraError, ConfigError) as error:
        raise CheckpointError(f"{location(file.path)} and its meta: {error}") from None
    if era.config.n_layer > len(shapes):  # before the shapes of a thousand layers are worked out
        raise CheckpointError(
            f"{location(file.path)} and its meta: {len(shapes)} weights can't be a model of {era.config.n_layer:,} "
            "layers; take another step"
        )
    wanted = parameter_shapes(era.config)
    missing, extra = sorted(wanted.keys() - shapes), sorted(shapes.keys() - wanted)
    other = [name for name in wanted if name in shapes and shapes[name] != wanted[name]]
    found = []
    if missing:
        found.append(f"{len(missing)} weights are missing, such as '{missing[0]}'")
    if extra:
        found.append(f"{len(extra)} are unknown, such as '{shown(extra[0])}'")
    if other:
        name = other[0]
        found.append(f"{len(other)} have another shape, such as '{name}' {shapes[name]} where {wanted[name]} is needed")
    if found:
        raise CheckpointError(
            f"{location(file.path)}: {'; '.join(found)}; model and meta file do not belong together or another program "
            "wrote them: take both from the same step"
        )
    return era


def _written(file: safe_load.TensorFile) -> datetime.date | None:
    """The day (UTC) on which a file was last changed, None where its clock says nonsense."""
    try:
        return datetime.datetime.fromtimestamp(os.fstat(file.file.fileno()).st_mtime, datetime.UTC).date()
    except (ValueError, OverflowError, OSError):
        return None
