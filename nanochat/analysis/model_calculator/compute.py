"""FLOPs, time and money of a training, and the way back: what depth a budget buys.

Training FLOPs a token are 6 for each weight of a matrix product and 12 d for each key that a query sees, in every layer
(PaLM, Chowdhery et al. 2022, appendix B); windows shorten that. 6 N D, without attention, is the rule of thumb.
"""

import math
from dataclasses import dataclass

from nanochat.analysis.model_calculator.gpus import GPU, HONEST_MFU
from nanochat.analysis.model_calculator.memory import Plan, training_memory
from nanochat.analysis.model_calculator.parameters import Breakdown, CalculatorError, count_parameters

CHINCHILLA = 20.0  # tokens a parameter, Hoffmann et al. 2022 (arXiv 2203.15556)
DEEPEST = 64  # layers that the way back tries


@dataclass(frozen=True)
class Training:
    """One training in numbers."""

    tokens: int
    flops_a_token: int
    flops: float
    seconds: float
    tokens_a_second: float
    dollars: float | None  # None where no GPU was chosen
    steps: int
    formula: str  # of the FLOPs a token
    values: str


@dataclass(frozen=True)
class Bought:
    """The deepest nanochat that a budget buys."""

    depth: int  # 0: not even one layer
    model: Breakdown | None
    training: Training | None
    reason: str


def flops_per_token(model: Breakdown) -> int:
    """Training FLOPs for one token: 6 M + 12 d x keys, with windows."""
    return 6 * model.matrices + 12 * model.heads * model.head_width * sum(model.windows)


def flops_in_words(model: Breakdown) -> tuple[str, str]:
    """(formula, values) of flops_per_token."""
    if len(set(model.windows)) == 1:
        keys, words = f"{model.layers} x {model.windows[0]:,}", "L T"
    else:
        keys, words = f"{sum(model.windows):,}", "(keys of all windows)"
    return f"6 M + 12 H h {words}", f"6 x {model.matrices:,} + 12 x {model.heads} x {model.head_width} x {keys}"


def model_flops_utilization(tokens_a_second: float, flops_a_token: float, peak: float, devices: int = 1) -> float:
    """MFU: the share of the devices' peak that goes into the model's own arithmetic."""
    return tokens_a_second * flops_a_token / (devices * peak)


def palm_flops_per_token(parameters: float, layers: int, heads: int, head_width: int, context: int) -> float:
    """6 N + 12 L H Q T, of PaLM's appendix B."""
    return 6 * parameters + 12 * layers * heads * head_width * context


def nanochat_tokens(model: Breakdown) -> tuple[int, str]:
    """(tokens that nanochat would train on, its rule): 20 for each parameter in 2025, 12 for each that scales since."""
    if model.config is not None and model.config.residual_lambdas:
        from nanochat.horizon import DEFAULT_RATIO

        count = int(DEFAULT_RATIO * model.scaling)
        return count, f"{DEFAULT_RATIO:g} for each of {model.scaling:,} weights of matrices, nanochat's rule"
    return int(CHINCHILLA * model.total), f"20 for each of {model.total:,} parameters (Chinchilla)"


def tokens_in_steps(tokens: float, batch_tokens: int) -> int:
    """Tokens of whole steps, rounded down."""
    return int(tokens // batch_tokens) * batch_tokens


def training(
    model: Breakdown,
    tokens: int,
    batch_tokens: int,
    tokens_a_second: float | None = None,
    on: GPU | None = None,
    devices: int = 1,
    mfu: float = HONEST_MFU,
    dollars_an_hour: float | None = None,
) -> Training:
    """Time and cost of a training, by a known speed or by a GPU's peak and an MFU.

    Raises:
        CalculatorError: a number that no training can have, or neither a speed nor a GPU.
    """
    for name, value in (("total-tokens", tokens), ("tokens of a batch", batch_tokens), ("gpus", devices)):
        if not 1 <= value <= 10**18:
            raise CalculatorError(f"{name} is {value:.6g}; it must be from 1 to 10^18")
    if not 0 < mfu <= 1:
        raise CalculatorError(f"the MFU is {mfu:g}; it is a share of the peak, above 0 and up to 1, such as 0.4")
    if dollars_an_hour is not None and not 0 <= dollars_an_hour < 1e6:
        raise CalculatorError(f"{dollars_an_hour:g} dollars an hour cannot be; give what one GPU costs")
    each = flops_per_token(model)
    if on is not None:
        speed = devices * on.peak * mfu / each
    elif tokens_a_second is not None and 0 < tokens_a_second < 1e15:
        speed = float(tokens_a_second)
    else:
        raise CalculatorError(f"tokens-per-sec is {tokens_a_second}; give a number above 0, or a GPU")
    seconds = tokens / speed
    price = dollars_an_hour if dollars_an_hour is not None else on.dollars if on is not None else None
    dollars = None if price is None else seconds / 3600 * price * devices
    formula, values = flops_in_words(model)
    return Training(
        tokens, each, float(each) * tokens, seconds, speed, dollars, tokens // batch_tokens, formula, values
    )


def buy(
    on: GPU,
    devices: int = 1,
    dollars: float | None = None,
    hours: float | None = None,
    gigabytes: float | None = None,
    mfu: float = HONEST_MFU,
    dollars_an_hour: float | None = None,
    plan: Plan | None = None,
    arch: str = "nanochat",
) -> Bought:
    """The deepest nanochat that stays within every budget that is given, trained by nanochat's own rule.

    gigabytes: 10^9 bytes that one device has, for weights, gradients, optimizer and one sequence.

    Raises:
        CalculatorError: no budget, or one that is no positive number.
    """
    budgets = {"dollars": dollars, "hours": hours, "GB": gigabytes}
    given = {name: value for name, value in budgets.items() if value is not None}
    if not given:
        raise CalculatorError("no budget is given; give dollars, hours or GB")
    for name, value in given.items():
        if not 0 < value < 1e12 or not math.isfinite(value):
            raise CalculatorError(f"a budget of {value:g} {name} buys nothing; give a number above 0")
    best: tuple[int, Breakdown, Training] | None = None
    stopped = ""
    for depth in range(1, DEEPEST + 1):
        model = count_parameters(arch, n_layer=depth)
        tokens, _ = nanochat_tokens(model)
        run = training(model, tokens, 2**19, None, on, devices, mfu, dollars_an_hour)
        need = sum(item.size for item in training_memory(model, plan or Plan(optimizer="muon", devices=devices)))
        costs = {"dollars": run.dollars or 0.0, "hours": run.seconds / 3600, "GB": need / 1e9}
        over = [name for name, value in given.items() if costs[name] > value]
        if over:
            stopped = f"depth {depth} would take {costs[over[0]]:,.3g} {over[0]} of {given[over[0]]:,.6g}"
            break
        best = (depth, model, run)
    if best is None:
        return Bought(0, None, None, f"{stopped}: the budget is too small for any depth")
    return Bought(*best, stopped or f"more than {DEEPEST} layers are not tried")
