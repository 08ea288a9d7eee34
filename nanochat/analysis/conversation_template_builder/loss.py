"""The loss of every token of a conversation under a checkpoint: where a model is surprised, and by how much.

Loss is in nats: -ln of the probability that the model gave the token that comes. 0 is certainty; ln(vocabulary) is a
guess among all. What a model would be trained on is the mean over supervised tokens.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nanochat.analysis.conversation_template_builder.making import BuilderError
from nanochat.analysis.conversation_template_builder.supervision import Supervision, supervision

if TYPE_CHECKING:
    import polars as pl

    from nanochat.checkpoint_manager import LoadedModel


@dataclass(frozen=True)
class TokenLosses:
    """A conversation's losses under one model."""

    rendered: Supervision  # under the model's own tokenizer
    # the frame of `rendered` up to the model's context, with loss (nats; None for the first token, which nothing
    # predicts), probability, likeliest (the token the model would have written) and its likeliest_probability
    frame: "pl.DataFrame"
    supervised_loss: float | None  # nats a supervised token: what fine-tuning makes smaller; None where there is none
    context_loss: float | None  # nats a token of the rest
    chance: float  # nats of a guess among the whole vocabulary: ln V
    context: int  # tokens that the model can read
    beyond: int  # tokens of the conversation behind that, without a loss


def token_losses(loaded: "LoadedModel", conversation: Any) -> TokenLosses:
    """One forward pass over a conversation. Raises ConversationError for one that cannot be rendered."""
    import polars as pl
    import torch

    from nanochat.analysis.tokenizer_playground.spelling import spell_bytes

    model, tokenizer = loaded.model, loaded.tokenizer
    context = int(model.config.sequence_len)
    report = supervision(tokenizer, conversation, context)
    kept = report.frame.filter(~pl.col("cut"))
    if kept.height < 2:
        raise BuilderError("the conversation has fewer than two tokens, so nothing predicts anything; add a message")
    device = model.wte.weight.device
    ids = torch.tensor([kept["id"].to_list()], device=device)  # (1, T)
    with torch.inference_mode():
        logits = model(ids[:, :-1])[0, :, : tokenizer.get_vocab_size()].float()  # (T - 1, V)
        logs = torch.log_softmax(logits, dim=-1)
        losses = -logs.gather(1, ids[0, 1:, None])[:, 0]  # (T - 1,)
        best, likeliest = logs.max(dim=-1)
    names = {number: name for name, number in tokenizer.special_tokens.items()}
    tokens = tokenizer.vocabulary.tokens
    guesses = [names[token] if token in names else spell_bytes(tokens[token]) for token in likeliest.tolist()]
    values = losses.tolist()
    frame = kept.with_columns(
        pl.Series("loss", [None, *values], dtype=pl.Float64),
        pl.Series("probability", [None, *(math.exp(-value) for value in values)], dtype=pl.Float64),
        pl.Series("likeliest", [None, *guesses], dtype=pl.String),
        pl.Series("likeliest_probability", [None, *best.exp().tolist()], dtype=pl.Float64),
    )
    counted = frame.filter(pl.col("loss").is_not_null())
    means = {flag: counted.filter(pl.col("supervised") == flag)["loss"].mean() for flag in (True, False)}
    return TokenLosses(
        rendered=report,
        frame=frame,
        supervised_loss=_number(means[True]),
        context_loss=_number(means[False]),
        chance=math.log(tokenizer.get_vocab_size()),
        context=context,
        beyond=report.cut,
    )


def _number(value: Any) -> float | None:
    return None if value is None else float(value)
