"""A conversation as a model sees it: every token, whether it is supervised, what predicts it, what a cut would lose.

Supervised tokens are those that the model is trained to write: the assistant's text and code, and the token that ends
its turn. The rest is context. A mask in which all or nothing is supervised is almost always a mistake, so it is said
aloud.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanochat.analysis.conversation_template_builder.making import messages_of
from nanochat.analysis.tokenizer_playground.sources import EXAMPLE, find_place, open_place, places
from nanochat.analysis.tokenizer_playground.spelling import spell_bytes
from nanochat.analysis.tokenizer_playground.text import PlaygroundError
from nanochat.conversation import segments

if TYPE_CHECKING:
    import polars as pl

    from nanochat.tokenizer import Tokenizer

MAX_TOKENS = 2048  # nanochat's cap on a conversation in fine-tuning


@dataclass(frozen=True)
class Supervision:
    """A rendered conversation."""

    # index, id, text (visible), special, supervised, cut (beyond max_tokens), message (None for <|bos|>), role, part
    frame: "pl.DataFrame"
    tokens: int  # all, before any cut
    supervised: int
    max_tokens: int
    cut: int  # tokens beyond max_tokens
    cut_supervised: int
    alarm: str | None  # one sentence where all or nothing is supervised of what is kept

    @property
    def unsupervised(self) -> int:
        """Prompt and context tokens."""
        return self.tokens - self.supervised

    @property
    def ratio(self) -> float:
        """Supervised tokens among all, 0 to 1."""
        return self.supervised / self.tokens if self.tokens else 0.0

    @property
    def ids(self) -> list[int]:
        """Every id, uncut."""
        return self.frame["id"].to_list()


def chat_tokenizer(
    name: str | None = None, base_dir: str | Path | None = None, folder: str | Path | None = None
) -> tuple["Tokenizer", str]:
    """A tokenizer that knows conversations, and what it is called: the one named, else the best that is here.

    Raises PlaygroundError for one that is not here, or that has no tokens for roles, as GPT-2's has none.
    """
    if name is None and folder is None:
        name = next(place.id for place in places(base_dir) if place.path is not None or place.id == EXAMPLE)
    known = open_place(find_place(name, base_dir, folder))
    if known.tokenizer is None:
        raise PlaygroundError(f"{known.label} has no tokens for a conversation; take one of nanochat's")
    return known.tokenizer, known.label


def supervision(tokenizer: "Tokenizer", conversation: Any, max_tokens: int = MAX_TOKENS) -> Supervision:
    """Render a conversation token by token. Raises ConversationError for the first message nanochat cannot render."""
    import polars as pl

    rows: list[tuple[Any, ...]] = []
    messages = messages_of(conversation)
    part = "text"
    tokens = tokenizer.vocabulary.tokens
    for segment in segments(conversation):
        role = "" if segment.message_index is None else messages[segment.message_index]["role"]
        if segment.special:
            part = {"<|python_start|>": "python", "<|output_start|>": "python_output"}.get(segment.text, part)
            ids, texts = [tokenizer.encode_special(segment.text)], [segment.text]
        else:
            ids = tokenizer.encode(segment.text)
            texts = [spell_bytes(tokens[token]) for token in ids]
        for token, text in zip(ids, texts, strict=True):
            flags = (segment.special, segment.supervised, segment.message_index)
            rows.append((len(rows), token, text, *flags, role, part))
        if segment.special and segment.text in ("<|python_end|>", "<|output_end|>", "<|assistant_end|>"):
            part = "text"
    columns = {
        "index": pl.Int64,
        "id": pl.Int64,
        "text": pl.String,
        "special": pl.Boolean,
        "supervised": pl.Boolean,
        "message": pl.Int64,
        "role": pl.String,
        "part": pl.String,
    }
    frame = pl.DataFrame(rows, schema=columns, orient="row").with_columns((pl.col("index") >= max_tokens).alias("cut"))
    kept = frame.filter(~pl.col("cut"))
    supervised = int(frame["supervised"].sum())
    kept_supervised = int(kept["supervised"].sum())
    return Supervision(
        frame=frame,
        tokens=frame.height,
        supervised=supervised,
        max_tokens=max_tokens,
        cut=frame.height - kept.height,
        cut_supervised=supervised - kept_supervised,
        alarm=_alarm(kept.height, kept_supervised, supervised, max_tokens),
    )


def shifted(report: Supervision) -> "pl.DataFrame":
    """What predicts what: position, input (the token read), target (the token to be predicted from it), counts.

    A model reads token i and all before it, and is asked for token i + 1; the loss counts where that one is supervised.
    Columns also carry both ids. One row fewer than there are tokens; tokens that a cut drops are left out.
    """
    import polars as pl

    kept = report.frame.filter(~pl.col("cut"))
    return kept.select(
        pl.col("index").alias("position"),
        pl.col("text").alias("input"),
        pl.col("id").alias("input_id"),
        pl.col("text").shift(-1).alias("target"),
        pl.col("id").shift(-1).alias("target_id"),
        pl.col("supervised").shift(-1).alias("counts"),
    ).head(max(kept.height - 1, 0))


def _alarm(kept: int, kept_supervised: int, supervised: int, max_tokens: int) -> str | None:
    if kept and kept_supervised == 0:
        if supervised:
            return (
                f"0 % supervised after the cut to {max_tokens:,} tokens: all {supervised:,} tokens that the model "
                "should learn lie behind it; shorten the conversation or raise the limit"
            )
        return "0 % supervised: a model learns nothing from this conversation; add a reply of the assistant"
    if kept and kept_supervised == kept:
        return "100 % supervised: there is no prompt that the reply could answer; add a message of the user"
    return None
