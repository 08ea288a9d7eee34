"""Where one process ends in a log and the next begins, and which script each of them was.

A speedrun captured by `screen -L` is tok_train, tok_eval, base_train and so on in one file, with nothing between them.
Every script opens with lines in the same order (torchrun's warning, the banner, settings, device, world size): a line
that falls back in this order is another process. The script is told by a wording that no other script prints.
"""

from nanochat.metrics_facts import Draft
from nanochat.metrics_lines import Line

# How far a process has come in its opening lines. One that falls back is another process. (kind, name) -> order.
_OPENINGS = {
    ("launcher", "torchrun"): 0,
    ("banner", ""): 1,
    ("setting", "override"): 2,
    ("fact", "device"): 3,
    ("fact", "runs_on"): 3,
    ("fact", "base_model"): 3,
    ("fact", "data"): 4,
    ("fact", "max_chars"): 5,
    ("fact", "tok_eval"): 5,
    ("fact", "dataset"): 5,
}
_WORLD_SIZE = 4
_ORDER_OF_ONE = 5  # of scripts that open with a line of their own
_REPEATS = (0, 1, 2)  # orders of which there are several lines in a row
_NOT_BODY = ("blank", "banner", "notice", "launcher", "wandb", "rank", "unknown", "timing", "overlong", "rule")

# Recognised wording -> the script that alone prints it.
_TELLS = {
    ("fact", "max_chars"): "tok_train",
    ("fact", "data"): "tok_train",
    ("fact", "tok_train"): "tok_train",
    ("fact", "tok_eval"): "tok_eval",
    ("fact", "dataset"): "dataset",
    ("banner", ""): "base_train",
    ("setting", "size"): "base_train",
    ("fact", "config"): "base_train",
    ("fact", "parameters"): "base_train",
    ("fact", "base_train"): "base_train",
    ("fact", "horizon"): "base_train",
    ("fact", "our_model"): "base_train",
    ("fact", "base_eval"): "base_eval",
    ("fact", "model"): "base_eval",
    ("result", "core_task"): "base_eval",
    ("result", "bpb"): "base_loss",
    ("setting", "inherited"): "chat_sft",
    ("fact", "chat_sft"): "chat_sft",
    ("fact", "base_model"): "chat_sft",
    ("notice", "chat_sft"): "chat_sft",
    ("fact", "chat_rl"): "chat_rl",
    ("result", "accuracy"): "chat_eval",
    ("result", "final"): "chat_eval",
    ("result", "chatcore"): "chat_eval",
    ("chat", "start"): "chat_cli",
}


def opens(draft: Draft, line: Line) -> bool:
    """Whether this line cannot be of the process that wrote the lines before it."""
    order = _order(line)
    if order is None:
        return draft.closed and line.kind not in _NOT_BODY
    if (line.kind, line.name) == ("fact", "dataset"):  # else it downloads beside another script
        return draft.body and draft.script in (None, "dataset")
    if line.name == "runs_on" and draft.script == "chat_sft" and "runs_on" not in draft.facts:
        return False  # our chat_sft opens its base model first
    again = draft.order > order or (draft.order == order and order not in _REPEATS)
    return draft.body or again or draft.closed


def settle(draft: Draft, line: Line) -> None:
    """Note how far the section has come, and its script where this line tells."""
    order = _order(line)
    if order is not None:
        draft.order = max(draft.order, order)
        draft.body = draft.body or order == _ORDER_OF_ONE
    elif line.kind not in _NOT_BODY:
        draft.body = True
    if line.kind == "timing" and line.match is not None and line.match[1] == "sys":
        draft.closed = True  # the last line of the shell's `time`
    tells = _TELLS.get((line.kind, line.name))
    if tells is None:
        return
    if draft.script is None:
        # Fine-tuning loads a model first, then prints parts of the header that pretraining prints.
        draft.script = None if tells == "base_train" and "loaded_step" in draft.facts else tells
    elif (draft.script, tells) == ("base_loss", "base_eval"):
        draft.script = tells


def _order(line: Line) -> int | None:
    if line.name == "logger" and "Distributed world size" in line.text[:200]:
        return _WORLD_SIZE
    return _OPENINGS.get((line.kind, line.name))
