"""What a model takes in memory: weights, gradients, optimizer, activations and the cache, in bytes, with formulas.

1 GB is 10^9 bytes, 1 GiB is 2^30. Activations after Korthikanti et al. 2022 (arXiv 2205.05198), sharding after
Rajbhandari et al. 2019 (ZeRO, arXiv 1910.02054).
"""

from dataclasses import dataclass

from nanochat.analysis.model_calculator.parameters import Breakdown, CalculatorError

DTYPES = {"fp32": 4, "bf16": 2, "fp16": 2, "int8": 1}
OPTIMIZERS = {
    "adamw": "two averages of every parameter",
    "muon": "one average of a layer's matrix and one number a row or column; two of every other parameter",
    "sgd": "nothing",
}
RECOMPUTE = {  # what is kept of a layer for the backward pass, in bytes of 16-bit numbers a token and channel
    "none": "everything: s b h (34 + 5 a s / h)",
    "attention": "all but the attention's squares, as FlashAttention does: 34 s b h",
    "full": "a layer's input alone: 2 s b h",
}
STAGES = {0: "nothing", 1: "the optimizer", 2: "the optimizer and the gradients", 3: "everything"}


@dataclass(frozen=True)
class Item:
    """An amount of memory."""

    name: str
    size: int  # bytes
    formula: str
    values: str


@dataclass(frozen=True)
class Plan:
    """How a model is trained, as far as memory goes."""

    dtype: str = "bf16"  # of weights and gradients, one of DTYPES
    optimizer: str = "adamw"  # one of OPTIMIZERS
    master: bool = True  # the optimizer keeps weights in fp32 beside 16-bit ones
    rows: int = 1  # sequences that a device works on at once
    recompute: str = "attention"  # one of RECOMPUTE
    zero: int = 0  # ZeRO stage: what is cut over the devices, of STAGES
    devices: int = 1

    def __post_init__(self) -> None:
        for name, value, known in (
            ("dtype", self.dtype, DTYPES),
            ("optimizer", self.optimizer, OPTIMIZERS),
            ("recompute", self.recompute, RECOMPUTE),
            ("zero", self.zero, STAGES),
        ):
            if value not in known:
                raise CalculatorError(f"{name} is {value!r:.40}; choose one of {', '.join(map(str, known))}")
        for name, number in (("rows", self.rows), ("devices", self.devices)):
            if type(number) is not int or not 1 <= number <= 10**7:
                raise CalculatorError(f"{name} is {number!r:.40}; it must be a whole number from 1 to 10,000,000")


def weights_bytes(model: Breakdown, dtype: str) -> int:
    """Of the weights alone in a number format."""
    return model.total * DTYPES[dtype]


def activation_bytes_a_layer(s: int, b: int, h: int, a: int, recompute: str = "none") -> float:
    """Bytes that one layer keeps for the backward pass, in 16-bit numbers.

    s: tokens of a sequence, b: sequences, h: channels, a: heads. Source: Korthikanti et al. 2022, section 4.1.

    >>> activation_bytes_a_layer(2048, 1, 12288, 96) / (2048 * 12288)  # GPT-3
    114.0
    """
    if recompute == "full":
        return 2.0 * s * b * h
    return s * b * h * (34 + (5 * a * s / h if recompute == "none" else 0))


def kv_bytes_a_token(model: Breakdown, dtype: str = "bf16") -> int:
    """Bytes that the cache grows by with each token: 2 L K h bytes."""
    return 2 * model.layers * model.kv_heads * model.head_width * DTYPES[dtype]


def zero_bytes(
    parameters: float, devices: int, stage: int, weight: float = 2, gradient: float = 2, optimizer: float = 12
) -> float:
    """Bytes a device holds of weights, gradients and optimizer under ZeRO; the last three are bytes a parameter.

    >>> zero_bytes(7.5e9, 64, 0) / 1e9, zero_bytes(7.5e9, 64, 1) / 1e9  # figure 1 of the paper
    (120.0, 31.40625)
    """
    cut = [amount / devices if stage >= least else amount
           for amount, least in ((optimizer, 1), (gradient, 2), (weight, 3))]  # fmt: skip
    return parameters * sum(cut)


def training_memory(model: Breakdown, plan: Plan, tokens_a_row: int | None = None) -> tuple[Item, ...]:
    """What one device holds while it trains, the largest that it comes to within a step. The total is their sum."""
    T = tokens_a_row or model.context
    b = DTYPES[plan.dtype]
    N, n, stage = model.total, plan.devices, plan.zero
    state, words = _optimizer(model, plan)
    cut = {name: n if stage >= least else 1 for name, least in (("optimizer", 1), ("gradients", 2), ("weights", 3))}

    def shared(name: str) -> str:
        return f" / {n} GPUs" if cut[name] > 1 else ""

    layer = activation_bytes_a_layer(T, plan.rows, model.width, model.heads, plan.recompute) * (b / 2)
    acts = round(layer * model.layers)
    formula = {"none": "L s b d (34 + 5 H s / d)", "attention": "L s b d 34", "full": "L s b d 2"}[plan.recompute]
    wide = 1 if b == 2 else b / 2
    logits = plan.rows * T * model.vocab * 4
    return (
        Item("Weights", round(N * b / cut["weights"]), "N x bytes", f"{N:,} x {b}{shared('weights')}"),
        Item("Gradients", round(N * b / cut["gradients"]), "N x bytes", f"{N:,} x {b}{shared('gradients')}"),
        Item("Optimizer", round(state / cut["optimizer"]), words[0], _grouped(words[1], shared("optimizer"))),
        Item(
            "Activations",
            acts,
            f"{formula} x (bytes / 2)",
            f"{model.layers} x {T:,} x {plan.rows:,} x {model.width:,} x "
            f"{layer / (T * plan.rows * model.width) / wide:.4g} x {b / 2:g}",
        ),
        Item("Logits", logits, "s b V x 4", f"{T:,} x {plan.rows:,} x {model.vocab:,} x 4"),
    )


def _grouped(values: str, divided: str) -> str:
    return f"({values}){divided}" if divided else values


def _optimizer(model: Breakdown, plan: Plan) -> tuple[float, tuple[str, str]]:
    """(bytes, (formula, values)); averages are fp32, and a master copy is 4 bytes more where weights have 2."""
    N = model.total
    master = 4 if plan.master and DTYPES[plan.dtype] == 2 else 0
    if plan.optimizer == "sgd":
        return float(N * master), (f"N x {master}", f"{N:,} x {master}")
    if plan.optimizer == "adamw":
        return float(N * (8 + master)), (f"N x (4 + 4 + {master})", f"{N:,} x {8 + master}")
    M = model.of_kind("attention", "mlp")
    sides = model.layers * (6 * model.width + model.mlp_width)  # one number for each row or column of its six matrices
    return (
        float(4 * M + 4 * sides + 8 * (N - M) + master * N),
        ("4 (M + rows) + 8 (N - M)" + f" + {master} N" * bool(master),
         f"4 x ({M:,} + {sides:,}) + 8 x {N - M:,}" + f" + {master} x {N:,}" * bool(master)),
    )  # fmt: skip


def largest_rows(model: Breakdown, plan: Plan, memory: float, tokens_a_row: int | None = None) -> int:
    """The most sequences that a device of `memory` bytes works on at once; 0 where not even one fits.

    A tenth is left for the library, fragments and what the formulas do not know.
    """
    from dataclasses import replace

    room = memory * 0.9
    one, two = (
        sum(item.size for item in training_memory(model, replace(plan, rows=rows), tokens_a_row)) for rows in (1, 2)
    )
    return max(0, int((room - (2 * one - two)) / max(two - one, 1)))


def gib(size: float) -> float:
    """Bytes in GiB, 2^30."""
    return size / 2**30
