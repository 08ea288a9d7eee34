"""What the optimizer is told: which method, at which rates, and which parameter belongs to which group. No torch here.

A language model's parameters are not alike. A row of an embedding gets a gradient only where its token occurs and wants
a large rate; the head needs a small one; a layer's scale is a single number. One rate of 0.003 for all costs a small
model 0.15 bits a byte after half a minute of training, so every group has its own. Groups and rates are nanochat's, as
it had them on the day that a kind stands for.

    python -c "from nanochat.optim_config import OptimConfig; print(OptimConfig())"
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

if TYPE_CHECKING:
    import torch.nn as nn

Kind = Literal["muon", "muon-2026-02", "muon-2025", "adamw"]
KINDS: tuple[Kind, ...] = get_args(Kind)
FORMATS = ("float32", "bfloat16")

# The rates were tuned at 768 channels; those of AdamW shrink with the square root of the width. (Muon's own rate keeps:
# its step has the same length in every direction, however wide the matrix is.)
TUNED_WIDTH = 768
# AdamW moves a weight by about its rate a step, Muon by rate / sqrt(width): for matrices AdamW takes a fifth of it.
ADAMW_MATRIX_SHARE = 0.2
# Parameters outside the layers, by the start of their name, in the order in which nanochat's optimizer files have them.
GROUP_OF = {
    "lm_head.": "unembedding",
    "transformer.wte.": "embedding",
    "value_embeds.": "value_embeds",
    "bigram_embed.": "bigram_embed",
    "resid_lambdas": "resid",
    "x0_lambdas": "x0",
    "bigram_lambdas": "bigram",
    "smear_gate.": "smear_backout",
    "smear_lambda": "smear_backout",
    "backout_lambda": "smear_backout",
}
MATRICES = "transformer.h."


class OptimError(ValueError):
    """An optimizer that cannot be built, or a state that does not fit it: one sentence."""


@dataclass(frozen=True)
class OptimConfig:
    """How a run optimizes. The defaults are those of nanochat's newest pretraining."""

    # "muon" is nanochat's newest Muon with AdamW beside it, "muon-2026-02" and "muon-2025" the forms of older runs;
    # "adamw" is AdamW alone: a step of it takes a CPU a tenth of the time of Muon's.
    kind: Kind = "muon"
    matrix_lr: float = 0.02  # the layers' matrices, Muon's rate; kind "adamw" takes a fifth of it
    embedding_lr: float = 0.3  # the token embedding, at 768 channels; value embeddings get half
    unembedding_lr: float = 0.008  # the head, at 768 channels
    scalar_lr: float = 0.5  # the layers' scales: x0 all of it, resid a hundredth
    smear_lr: float = 0.2  # the smear's gate and scale, and the backout's scale
    weight_decay: float = 0.28  # of matrices, times their rate, each step; the other groups have fixed small ones
    momentum: float = 0.95  # Muon: how much of the last step's average stays
    ns_steps: int = 5  # Muon: iterations towards an orthogonal matrix, at most 5 where the kind has five polynomials
    # Muon: the format that those iterations work in. None: float32, and bfloat16 for the older kinds, as they had it.
    # bfloat16 halves the time where the run's other products are in bfloat16 too; a float64 model keeps float64.
    newton_schulz: str | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise OptimError(f"optimizer kind is {self.kind!r:.40}; choose one of {', '.join(KINDS)}")
        for name in ("matrix_lr", "embedding_lr", "unembedding_lr", "scalar_lr", "smear_lr", "weight_decay"):
            value = getattr(self, name)
            if type(value) not in (int, float) or not math.isfinite(value) or value < 0:
                raise OptimError(f"{name} is {value!r:.40}; it must be a number from 0 up")
        if type(self.momentum) not in (int, float) or not 0 <= self.momentum < 1:
            raise OptimError(f"momentum is {self.momentum!r:.40}; it must be at least 0 and less than 1")
        most = 50 if self.kind == "muon-2025" else 5
        if type(self.ns_steps) is not int or not 1 <= self.ns_steps <= most:
            raise OptimError(f"ns_steps is {self.ns_steps!r:.40}; kind {self.kind!r} takes a whole number, 1 to {most}")
        if self.newton_schulz not in (None, *FORMATS):
            raise OptimError(f"newton_schulz is {self.newton_schulz!r:.40}; choose {' or '.join(FORMATS)}")

    @property
    def orthogonalize_in(self) -> str:
        """The format of Muon's iterations, decided: "float32" or "bfloat16"."""
        return self.newton_schulz or ("float32" if self.kind in ("muon", "adamw") else "bfloat16")


def parameter_groups(model: "nn.Module", config: OptimConfig) -> list[dict[str, Any]]:
    """The trainable parameters of a GPT as nanochat groups them, each group with its name and its options.

    Each dict has `name`, `kind` ("adamw" or "muon"), `params`, `names`, `lr`, `initial_lr`, `weight_decay` and the
    constants of its method. There is a Muon group per shape of matrix, smallest first; all are named "matrix".

    Raises OptimError where nothing asks for a gradient, or a parameter is none of nanochat's.
    Source: nanochat's setup_optimizer.
    """
    trainable = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    if not trainable:
        raise OptimError(
            "no parameter of this model asks for a gradient: it was opened for inference or is frozen; build a GPT, "
            "load its state dict and train that"
        )
    sorted_out: dict[str, dict[str, Any]] = {name: {} for name in (*GROUP_OF.values(), "matrix")}
    for name, weight in trainable.items():
        prefix = next((prefix for prefix in (MATRICES, *GROUP_OF) if name.startswith(prefix)), None)
        if prefix is None or (prefix == MATRICES and weight.dim() != 2):
            raise OptimError(
                f"parameter {name!r:.80} with {weight.dim()} dimensions is none of nanochat's, so its rate is not "
                "known; freeze it, or train with an optimizer of your own"
            )
        sorted_out[GROUP_OF.get(prefix, "matrix")][name] = weight
    # nanochat keeps the gate before the two scales, though the model declares it after them.
    sorted_out["smear_backout"] = dict(
        sorted(sorted_out["smear_backout"].items(), key=lambda item: "gate" not in item[0])
    )

    channels = [weight.shape[-1] for name, weight in model.named_parameters() if "wte" in name or "lm_head" in name]
    options = _options(config, (channels[0] / TUNED_WIDTH) ** -0.5 if channels else 1.0)
    groups = []
    for name, members in sorted_out.items():
        batches = [members] if config.kind == "adamw" or name != "matrix" else _by_shape(members)
        for batch in batches:
            if batch:
                group = {"name": name, **options[name], "params": list(batch.values()), "names": list(batch)}
                groups.append({**group, "initial_lr": group["lr"]})
    return groups


def _options(config: OptimConfig, scale: float) -> dict[str, dict[str, Any]]:
    """Method, rate and constants of every group. scale: what the width makes of the rates of wide AdamW groups."""
    newest = config.kind in ("muon", "adamw")
    scalar, embedding = config.scalar_lr, config.embedding_lr * scale
    beside = embedding * (0.5 if newest else 1.0)  # value embeddings

    def adamw(lr: float, betas: tuple[float, float], weight_decay: float) -> dict[str, Any]:
        return {"kind": "adamw", "lr": lr, "betas": betas, "eps": 1e-10, "weight_decay": weight_decay}

    plain = (0.8, 0.95)
    long = (0.8, 0.995) if newest else plain  # embeddings: a rare token's gradient is remembered for 200 steps
    matrix: dict[str, Any] = {"kind": "muon", "lr": config.matrix_lr, "momentum": config.momentum}
    if config.kind == "adamw":
        matrix = adamw(config.matrix_lr * ADAMW_MATRIX_SHARE, (0.9, 0.95), config.weight_decay)
    elif config.kind == "muon-2025":
        matrix |= {"nesterov": True, "ns_steps": config.ns_steps, "weight_decay": 0.0}
    else:
        beta2 = 0.9 if newest else 0.95
        matrix |= {"ns_steps": config.ns_steps, "beta2": beta2, "weight_decay": config.weight_decay}
    return {
        "unembedding": adamw(config.unembedding_lr * scale, (0.8, 0.96) if newest else plain, 0.01 * newest),
        "embedding": adamw(embedding, long, 0.001 * newest),
        "value_embeds": adamw(beside, long, 0.01 * newest),
        "bigram_embed": adamw(beside, long, 0.01 * newest),
        "resid": adamw(scalar * 0.01, plain, 0.05 * newest),
        "x0": adamw(scalar, (0.96, 0.95), 0.0),  # it moves fast, so it averages over more steps
        "bigram": adamw(scalar, (0.96, 0.95), 0.0),
        "smear_backout": adamw(config.smear_lr, plain, 0.0),
        "matrix": matrix,
    }


def _by_shape(members: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Matrices of one shape are worked on as one stack."""
    shapes = sorted({tuple(weight.shape) for weight in members.values()})
    return [{n: weight for n, weight in members.items() if tuple(weight.shape) == shape} for shape in shapes]
