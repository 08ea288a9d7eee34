"""What may stand at the keys of a meta file that somebody reads, checked before anybody computes with it.

A meta file may come from anywhere. Its numbers decide where a run goes on, which flags it inherits and what a chart
shows, so each key has one kind here, and a file with another is refused with the key and the value. Null is what
nanochat writes for "not known", and is one of every kind. Keys that nothing reads may hold anything: forks have theirs.
"""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from nanochat.checkpoint_files import CheckpointError, location, shown

_LARGEST = 1 << 62  # of whole numbers: tables and tensors count in 64 bits
_LARGEST_REAL = 1e300  # of the others: sums and products of a few of them stay finite


def _is_real(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= _LARGEST_REAL


def _is_texts(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(item, str) for item in value))


Kind = tuple[Callable[[Any], bool], str]  # whether a value is one, and what would be one

_OBJECT: Kind = (lambda value: isinstance(value, dict), "an object")
_COUNT: Kind = (lambda value: type(value) is int and 0 <= value < _LARGEST, "a whole number from 0 to 2^62")
# nanochat writes -1 for "choose for me".
_WHOLE: Kind = (lambda value: type(value) is int and -1 <= value < _LARGEST, "a whole number from -1 to 2^62")
_REAL: Kind = (_is_real, "a number up to 1e300")
_SECONDS: Kind = (lambda value: _is_real(value) and value >= 0, "a number of seconds")
# NaN of a run that diverged, Infinity as the least of no values yet.
_MEASURED: Kind = (lambda v: _is_real(v) or (type(v) is float and not math.isfinite(v)), "a number, NaN or Infinity")
_TEXT: Kind = (_is_texts, "text")
_SWITCH: Kind = (lambda value: type(value) is bool or value in (0, 1), "true or false")


def _keys(kind: Kind, names: str, before: str = "") -> dict[str, Kind]:
    return {before + name: kind for name in names.split()}


# Key, with a dot before what lies inside an object -> its kind. Objects stand before what lies in them.
KINDS: dict[str, Kind] = {
    **_keys(_OBJECT, "user_config loop_state dataloader_state_dict lab lab.training lab.speed lab.files"),
    **_keys(_COUNT, "step"),
    **_keys(_WHOLE, "device_batch_size max_seq_len total_batch_size"),
    **_keys(_MEASURED, "val_bpb val_loss mmlu_acc arc_easy_acc train_loss learning_rate"),
    **_keys(_SECONDS, "time"),
    **_keys(_MEASURED, "min_val_bpb smooth_train_loss", "loop_state."),
    **_keys(_SECONDS, "total_training_time", "loop_state."),
    **_keys(_COUNT, "pq_idx rg_idx epoch", "dataloader_state_dict."),
    **_keys(_SECONDS, "time step_seconds", "lab.training."),
    **_keys(_COUNT, "tokens world_size", "lab.training."),
    **_keys(_REAL, "flops", "lab.training."),
    **_keys(_MEASURED, "train_loss learning_rate", "lab.training."),
    # The flags that a run was started with, nanochat's and ours: a run that goes on takes them over.
    **_keys(
        _WHOLE,
        "depth aspect_ratio head_dim max_seq_len seed num_iterations target_tokens device_batch_size total_batch_size "
        "warmup_steps eval_every eval_tokens sample_every core_metric_every core_metric_max_per_task save_every "
        "resume_from_step model_step val_every mmlu_epochs gsm8k_epochs ask max_reply chatcore_every chatcore_max_cat "
        "chatcore_max_sample",
        "user_config.",
    ),
    **_keys(
        _REAL,
        "minutes budget target_flops target_param_data_ratio matrix_lr embedding_lr unembedding_lr scalar_lr "
        "weight_decay lr_scale clip grad_clip adam_beta1 adam_beta2 warmup_ratio warmdown_ratio init_lr_frac "
        "final_lr_frac save_minutes",
        "user_config.",
    ),
    **_keys(
        _TEXT,
        "base_dir model_tag output_tag data tokenizer_dir window_pattern optimizer schedule device_type dtype compile "
        "fp8_recipe run profile tasks words",
        "user_config.",
    ),
    **_keys(_SWITCH, "resume force fp8 json load_optimizer", "user_config."),
}


def check_values(path: str | Path, meta: Mapping[str, Any]) -> None:
    """Hold every known key of a meta against its kind; what is not there, and null, is right.

    Raises:
        CheckpointError: the file, the key, the value and what should stand there.
    """
    for key, (is_right, words) in KINDS.items():
        *parents, name = key.split(".")
        place: Any = meta
        for parent in parents:
            place = place.get(parent) or {}  # objects were found to be such before
        value = place.get(name)
        if value is not None and not is_right(value):
            raise wrong(path, key, value, words)


def wrong(path: str | Path, key: str, value: object, wanted: str) -> CheckpointError:
    """The error for a value of another kind."""
    try:
        got = "missing" if value is None else f"{type(value).__name__} {shown(repr(value)[:200], 40)}"
    except (RecursionError, ValueError):  # nested as deep as JSON may be, or more digits than Python prints
        got = f"{type(value).__name__} that is too deep or too long to be shown"
    return CheckpointError(f"{location(path)}: {key} is {got} where {wanted} is needed; restore the file from a copy")
