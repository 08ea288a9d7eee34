"""Parameters, memory, FLOPs, time and money of a model, before it is trained; and what a budget buys.

    from nanochat.analysis.model_calculator import count_parameters
    count_parameters(arch="gpt2", n_layer=12, d_model=768, n_head=12).total     # 124,439,808

Every number comes with its formula and the values put in. Nothing here loads torch but `measured`, which holds the
formulas against the real model.
"""

from nanochat.analysis.model_calculator.compute import (
    Bought,
    Training,
    buy,
    flops_in_words,
    flops_per_token,
    model_flops_utilization,
    nanochat_tokens,
    palm_flops_per_token,
    tokens_in_steps,
    training,
)
from nanochat.analysis.model_calculator.gpus import GPU, HONEST_MFU, PRICES_AS_OF, gpu
from nanochat.analysis.model_calculator.measured import Count, Measured, count_on_meta, measure
from nanochat.analysis.model_calculator.memory import (
    DTYPES,
    OPTIMIZERS,
    RECOMPUTE,
    STAGES,
    Item,
    Plan,
    activation_bytes_a_layer,
    gib,
    kv_bytes_a_token,
    largest_rows,
    training_memory,
    weights_bytes,
    zero_bytes,
)
from nanochat.analysis.model_calculator.parameters import (
    ERAS,
    FAMILIES,
    Breakdown,
    CalculatorError,
    Part,
    count_parameters,
    of_config,
    sequence_of,
)
from nanochat.analysis.model_calculator.presets import PRESETS, preset

__all__ = [
    "DTYPES",
    "ERAS",
    "FAMILIES",
    "GPU",
    "HONEST_MFU",
    "OPTIMIZERS",
    "PRESETS",
    "PRICES_AS_OF",
    "RECOMPUTE",
    "STAGES",
    "Bought",
    "Breakdown",
    "CalculatorError",
    "Count",
    "Item",
    "Measured",
    "Part",
    "Plan",
    "Training",
    "activation_bytes_a_layer",
    "buy",
    "count_on_meta",
    "count_parameters",
    "flops_in_words",
    "flops_per_token",
    "gib",
    "gpu",
    "kv_bytes_a_token",
    "largest_rows",
    "measure",
    "model_flops_utilization",
    "nanochat_tokens",
    "of_config",
    "palm_flops_per_token",
    "preset",
    "sequence_of",
    "tokens_in_steps",
    "training",
    "training_memory",
    "weights_bytes",
    "zero_bytes",
]
