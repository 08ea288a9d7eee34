"""Conversations made by hand: written, checked, kept in files, and seen as a model sees them.

Making, checking and saving need no tokenizer; showing tokens needs one, and the loss of each token needs a model.
Pure: conversations in, frozen reports with Polars frames out. The terminal and the page show the same reports.

    nanochat conversation_template_builder --simple "What is 2+2?" "It's 4."
"""

from nanochat.analysis.conversation_template_builder.batch import Batch, batch_validate
from nanochat.analysis.conversation_template_builder.files import (
    append,
    append_and_tell,
    as_line,
    has_lines,
    held,
    load,
    parse,
    save,
)
from nanochat.analysis.conversation_template_builder.loss import TokenLosses, token_losses
from nanochat.analysis.conversation_template_builder.making import (
    BuilderError,
    Conversation,
    Turn,
    blocking,
    messages_of,
    multi,
    simple,
    structure,
    tool,
)
from nanochat.analysis.conversation_template_builder.supervision import (
    MAX_TOKENS,
    Supervision,
    chat_tokenizer,
    shifted,
    supervision,
)

__all__ = [
    "MAX_TOKENS",
    "Batch",
    "BuilderError",
    "Conversation",
    "Supervision",
    "TokenLosses",
    "Turn",
    "append",
    "append_and_tell",
    "as_line",
    "batch_validate",
    "blocking",
    "chat_tokenizer",
    "has_lines",
    "held",
    "load",
    "messages_of",
    "multi",
    "parse",
    "save",
    "shifted",
    "simple",
    "structure",
    "supervision",
    "token_losses",
    "tool",
]
