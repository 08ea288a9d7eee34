"""Where a model looks: its attention weights on a text, what each head does, and what happens without it.

    report = look(load_model("base_checkpoints/d4"), "Once upon a time")
    top(report, layer=2, head=1, k=5)             # what each token attends to
    label_heads(loaded)                           # previous token, first token, induction, ... each measured
    without(loaded, report, {(2, 1)})             # the next token and the loss without that head
    parts(report, layer=2, head=1)                # how much of it is position, how much content

The terminal's view of it is `nanochat attention_visualizer`.
"""

from nanochat.analysis.attention_visualizer.effects import CONTROLS, Effect, without
from nanochat.analysis.attention_visualizer.heads import TESTS, label_heads, label_heads_on, scores, textbook
from nanochat.analysis.attention_visualizer.looking import (
    CELLS,
    EXAMPLE,
    MAX_CHARACTERS,
    AttentionError,
    Look,
    check_heads,
    look,
    matrix,
    top,
    visible_keys,
)
from nanochat.analysis.attention_visualizer.parts import Parts, parts

__all__ = [
    "CELLS",
    "CONTROLS",
    "EXAMPLE",
    "MAX_CHARACTERS",
    "TESTS",
    "AttentionError",
    "Effect",
    "Look",
    "Parts",
    "check_heads",
    "label_heads",
    "label_heads_on",
    "look",
    "matrix",
    "parts",
    "scores",
    "textbook",
    "top",
    "visible_keys",
    "without",
]
