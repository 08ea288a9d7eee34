"""The line of a step: `step 00012/00120 (10.00%) | loss: 6.106382 | lrm: 1.00 | dt: 68.82ms | ...`

Nearly all lines of a long log are such lines, so their usual wordings are one regular expression, `STEP`, that
metrics_log.py searches whole blocks for. Every other wording (evaluations, fine-tuning of 2025, reinforcement
learning, forks with parts of their own) goes through `parse_step`, which takes `name: value` parts as they come.
"""

import math
import re
from dataclasses import dataclass
from typing import Any

from nanochat.metrics_frame import json_object

# The usual line of a training step, all of its eras. The groups are metrics_frame.STEP_FIELDS.
STEP = re.compile(
    r"^step (\d+)(?:/(\d+))? \(\S+%\) \| loss: (\S+) \|(?: grad norm: (\S+) \|)?(?: lr: (\S+) \|)?"
    r" lrm: (\S+) \| dt: ([\d.]+)ms \| tok/sec: ([\d,]+) \| (?:bf16_)?mfu: (\S+) \|"
    r"(?: epoch: (\d+)(?: pq: (\d+) rg: (\d+))? \|)? total time: ([\d.]+)m(?: \| eta: (\S+)m)?\r*\n",
    re.ASCII | re.MULTILINE,
)

# A line of a step that a fork or another era worded differently, found anywhere: a progress bar may stand before it.
_ANY_STEP = re.compile(r"\b([Ss]tep) (\d+)(?:/(\d+))?(?: \(\S+%\))? \|\s*(\S.*)$", re.ASCII)
_PAIR = re.compile(r"([A-Za-z][\w@/ ]*?)(?:: *| (?=\d+$))(.*)", re.DOTALL)  # `loss: 6.1`, `Example step 3`


@dataclass(frozen=True)
class StepLine:
    """The parts of a line `step 12/120 (10 %) | loss: 6.1 | ...` in any wording."""

    step: int
    total: int | None
    values: dict[str, str]  # what stands before each colon, in small letters -> what stands behind it
    capital: bool  # `Step`, which evaluations and the fine-tuning of 2025 write


def parse_step(text: str) -> StepLine | None:
    """The parts of a step's line; None if it is none.

    >>> parse_step("Step 00003/00012 | Training loss: 5.89| lrm: 0.75").values
    {'training loss': '5.89', 'lrm': '0.75'}
    """
    found = _ANY_STEP.search(text)
    if found is None or len(found[2]) > 18 or len(found[3] or "") > 18:
        return None
    values = {}
    for part in found[4].split("|"):
        # `Pass@1: 0.25, Pass@2: 0.5` and `mmlu_acc: 0.1, arc_easy_acc: 0.2` hold several in one part.
        for piece in re.split(r",\s+(?=[A-Za-z])", part.strip()):
            if pair := _PAIR.fullmatch(piece):
                values[pair[1].strip().lower()] = pair[2].strip()
    if not values:
        return None
    total = int(found[3]) if found[3] else None
    return StepLine(int(found[2]), total, values, found[1] == "Step")


def usual_fields(line: StepLine) -> tuple[str | None, ...]:
    """The fields of STEP_FIELDS from a line with other or more parts."""
    values = line.values
    epoch = re.match(r"(\d+)(?: pq: (\d+))?(?: rg: (\d+))?", values.get("epoch", ""), re.ASCII)
    numbers = {key: _amount(value) for key, value in values.items()}
    return (
        *(str(line.step), None if line.total is None else str(line.total)),
        *(numbers.get("loss"), numbers.get("grad norm"), numbers.get("lr"), numbers.get("lrm"), numbers.get("dt")),
        *(numbers.get("tok/sec"), numbers.get("bf16_mfu") or numbers.get("mfu")),
        *(epoch.groups() if epoch else (None, None, None)),
        *(numbers.get("total time"), numbers.get("eta")),
    )


def _amount(text: str) -> str | None:
    """The number at the start of a text such as `412.5ms`."""
    found = re.match(r"[+-]?(?:[\d.,]+(?:e[+-]?\d+)?|nan|inf)", text, re.ASCII)
    return found[0] if found else None


def figures(line: StepLine) -> dict[str, Any]:
    """Columns of a line that starts with `Step`; figures without a column of their own go into `scores`."""
    columns = {
        "training loss": "train_loss",
        "loss": "train_loss",
        "validation bpb": "val_bpb",
        "validation loss": "val_loss",
        "core metric": "core",
        "chatcore": "chatcore",
        "lrm": "lr_multiplier",
        "average reward": "reward",
        "average sequence length": "sequence_length",
        "num_tokens": "step_tokens",
    }
    row: dict[str, Any] = {}
    scores: dict[str, float] = {}
    for key, text in line.values.items():
        amount = _amount(text)
        value = number(amount) if amount is not None else None
        if not isinstance(value, int | float):
            continue
        if key == "num_tokens":
            row["step_tokens"] = value if isinstance(value, int) and abs(value) < 1 << 62 else None
        elif key in columns:
            row[columns[key]] = float(value) if abs(value) < 1e300 else math.nan
        elif key not in ("example step", "pass") and abs(value) < 1e300:
            scores[key] = float(value)
    return {**row, "scores": json_object(scores)} if scores else row


def number(text: str) -> int | float | str:
    """The number that a log prints, thousands separators taken out; the text where it is none.

    >>> number("1,024"), number("7.4e+05"), number("SSSL")
    (1024, 740000.0, 'SSSL')
    """
    plain = text.replace(",", "")
    for convert in (int, float):
        try:
            return convert(plain)
        except ValueError:  # also an integer of more than 4,300 digits
            continue
    return text
