"""Bits per byte: how many bits a model needs for a byte of text. Comparable between vocabularies, as a loss is not.

    bpb = sum of nats over the counted tokens / (ln 2 * sum of their bytes)

A token counts if it stands for bytes: the nine specials stand for none and are left out of both sums. How many bytes a
token has is in the tokenizer's `token_bytes.pt`, and that table was made in two ways. Since 2026-07-03 it holds every
token's true length ("exact"); before, it held the length of the token decoded alone, where bytes that are not valid
UTF-8 became the 3 bytes of a replacement character ("replacement"). Figures made by the two do not compare, so each
should say which it is: `token_bytes_convention` does.
"""

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from nanochat.gpt import GPT
from nanochat.packing import NO_LOSS

if TYPE_CHECKING:
    from nanochat.tokenizer import Tokenizer

Convention = Literal["exact", "replacement"]


class LossEvalError(ValueError):
    """Nothing to evaluate: one sentence."""


@torch.no_grad()
def evaluate_bpb(
    model: GPT,
    batches: Iterable[tuple[Tensor, Tensor]],
    token_bytes: Tensor | Sequence[int],
    dtype: torch.dtype | None = None,
) -> float:
    """Bits per byte of `model` over batches of (x, y), each (B, T) token ids, y the token after each of x.

    token_bytes: (V,) whole numbers, bytes of each token and 0 for what does not count: `Tokenizer.token_bytes()`.
    Targets of -1 are left out. dtype: the format to compute in, None for that of the weights.
    Raises LossEvalError where no target counts, or the table is another vocabulary's.
    Source: nanochat's loss_eval, which also takes a number of steps; here the batches say when to stop.
    """
    token_bytes = torch.as_tensor(token_bytes, device=model.wte.weight.device)
    if token_bytes.shape != (model.config.vocab_size,):
        raise LossEvalError(
            f"token_bytes has shape {tuple(token_bytes.shape)} and the model {model.config.vocab_size:,} tokens; take "
            "the table of the model's own tokenizer"
        )
    nats, total_bytes = 0.0, 0
    for x, y in batches:
        loss = model(x, y, reduction="none", dtype=dtype)  # (B * T,), zero where the target is ignored
        targets = y.flatten()
        lengths = torch.where(targets == NO_LOSS, 0, token_bytes[targets.clamp(min=0)])
        nats += (loss * (lengths > 0)).sum().item()
        total_bytes += int(lengths.sum().item())
    if not total_bytes:
        raise LossEvalError(
            "no target stands for any byte, so there are no bits per byte; give batches of ordinary text"
        )
    return nats / (math.log(2) * total_bytes)


def token_bytes_convention(recorded: Tensor, tokenizer: "Tokenizer") -> tuple[Convention | None, str]:
    """Which of the two conventions a run's `token_bytes.pt` follows, and why; None where it follows neither.

    recorded: (V,) as stored. Raises nothing: a table of the wrong size is "neither", in words.
    """
    exact = torch.as_tensor(tokenizer.token_bytes("exact"), dtype=torch.int64)
    replacement = torch.as_tensor(tokenizer.token_bytes("replacement"), dtype=torch.int64)
    table = recorded.to(torch.int64).cpu()
    if table.shape != exact.shape:
        return (
            None,
            f"token_bytes has shape {tuple(table.shape)} for {len(exact):,} tokens: it belongs to another tokenizer",
        )
    differ = int((exact != replacement).sum())
    if torch.equal(table, exact):
        return "exact", f"every token's true length ({differ:,} tokens would differ before 2026-07-03)"
    if torch.equal(table, replacement):
        return "replacement", f"{differ:,} tokens that are not valid UTF-8 count 3 bytes, as before 2026-07-03"
    return None, f"{int((table != exact).sum()):,} entries fit neither convention: it belongs to another tokenizer"
