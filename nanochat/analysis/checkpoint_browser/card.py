"""The model card of an exported checkpoint: what it is, what it was measured at, and how to open it."""

from nanochat.analysis.checkpoint_browser.inspection import Inspection
from nanochat.checkpoint_files import shown
from nanochat.paths import readable_size

OPENING = """import json
import struct

import torch
from nanochat.gpt import build
from nanochat.gpt_config import GPTConfig

TYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16, "F64": torch.float64}
with open("model.safetensors", "rb") as file:
    (length,) = struct.unpack("<Q", file.read(8))
    header = json.loads(file.read(length))
    data = bytearray(file.read())
header.pop("__metadata__")
weights = {}
for name, entry in header.items():
    start, end = entry["data_offsets"]
    weights[name] = torch.frombuffer(data[start:end], dtype=TYPES[entry["dtype"]]).view(entry["shape"]).float()
config = GPTConfig(**json.load(open("config.json"))["architecture"])
model = build(config, weights)
"""
STAGES = {
    "base": "It was pretrained on text: it goes on with what it is given and does not answer.",
    "mid": "It was mid-trained: it knows the shape of a conversation.",
    "sft": "It was fine-tuned on conversations: it answers.",
    "rl": "It was fine-tuned on conversations and then by reinforcement learning: it answers.",
    "": "What it was trained for is not known.",
}


def model_card(seen: Inspection, sha256: str) -> str:
    """Markdown. Text from the checkpoint's files is escaped and shortened."""
    one = seen.reference
    known = [
        f"| {figure.name} | {figure.value:,.6g} | {figure.unit} | {_plain(figure.source)} |"
        for figure in seen.figures
        if figure.value is not None
    ]
    sizes = [f"| {name} | {_plain(value)} |" for name, value in seen.config.items()]
    counts = [f"| {name} | {number:,} |" for name, number in seen.counts.items() if number]
    size = readable_size(int(seen.tensors["bytes"].sum()))
    formats = ", ".join(sorted(seen.tensors["dtype"].unique().to_list()))
    lines = [
        "---",
        "library_name: nanochat",
        "pipeline_tag: text-generation",
        "tags:",
        "- nanochat",
        "---",
        "",
        f"# {_plain(one.folder.name)}, step {one.step:,}",
        "",
        f"A nanochat model of {seen.counts['total']:,} parameters. {STAGES[one.stage]}",
        "",
        f"Design: {seen.era}. It was recognised so: " + "; ".join(_plain(reason) for reason in seen.reasons) + ".",
        "",
        "## What was measured",
        "",
        "| figure | value | unit | from |",
        "|---|---|---|---|",
        *(known or ["| none | | | the checkpoint's files hold no figure |"]),
        "",
        "Nothing else was measured: what it says can be wrong, and was not filtered.",
        "",
        "## Parameters",
        "",
        "| part | parameters |",
        "|---|---|",
        *counts,
        "",
        "## Architecture",
        "",
        "| field | value |",
        "|---|---|",
        *sizes,
        "",
        "## Files",
        "",
        f"`model.safetensors`: {len(seen.tensors)} tensors ({formats}, {size}), SHA-256 `{sha256}`.",
        f"`config.json`: every field of the architecture. Verified before it was written: {seen.verification.level}.",
        "",
        "## Opening it",
        "",
        "```python",
        OPENING.rstrip(),
        "```",
        "",
    ]
    return "\n".join(lines)


def _plain(value: object) -> str:
    """Text that Markdown and HTML leave alone."""
    words = shown(value, 300)
    return "".join(f"\\{letter}" if letter in r"\`*_[]|#" else letter for letter in words).replace("<", "&lt;")
