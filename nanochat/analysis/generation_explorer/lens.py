"""The logit lens: what each layer would have said, had it been the last (nostalgebraist 2020).

The residual stream behind every layer goes through the final norm and the head, as if the layers after it were not
there. Early layers answer with what the token itself suggests; the answer forms as the layers add to it.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from nanochat.analysis.generation_explorer.session import Session
from nanochat.analysis.generation_explorer.steps import spelled

if TYPE_CHECKING:
    import polars as pl

TOP = 3  # candidates of each layer


def lens(session: Session, path: Sequence[int], taken: int) -> "pl.DataFrame":
    """layer (0 is the embedding), name, place (1 is the likeliest), id, text, p, and of `taken`: p_taken, rank_taken.

    The last layer's rows are the model's own answer, with all that it does after its last layer.
    """
    import polars as pl
    import torch

    from nanochat.gpt import Trace, norm

    model = session.engine.model
    device = model.lm_head.weight.device
    ids = [*session.prompt, *path]
    trace, cache = Trace(), session.new_cache()
    with torch.inference_mode():
        if len(ids) > 1:  # all but the last token go through without a trace, which would hold T x T weights
            model.hidden(torch.tensor([ids[:-1]], device=device), cache)
        out = model.hidden(torch.tensor([ids[-1:]], device=device), cache, trace)
        streams = [norm(stream) for stream in trace.residual[:-1]] + [out]
        p = model.logits(torch.cat([stream[:, -1] for stream in streams])).softmax(-1).cpu()  # (layers + 1, V)
    names = ["embedding", *(f"layer {number}" for number in range(1, len(p) - 1)), f"layer {len(p) - 1} (output)"]
    rows = []
    for layer, row in enumerate(p):
        top = row.topk(min(TOP, len(row)))
        own = float(row[taken])
        for place, (share, number) in enumerate(zip(top.values.tolist(), top.indices.tolist(), strict=True)):
            rows.append(
                {
                    "layer": layer,
                    "name": names[layer],
                    "place": place + 1,
                    "id": number,
                    "text": spelled(session, number),
                    "p": share,
                    "p_taken": own,
                    "rank_taken": 1 + int((row > own).sum()),
                }
            )
    return pl.DataFrame(rows)
