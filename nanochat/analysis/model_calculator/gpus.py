"""Known GPUs: what they multiply at best, how much they hold, and about what an hour of one costs.

Peaks are dense bfloat16, from the makers' data sheets (training_setup.PEAK_FLOPS). Prices are round figures for renting
one GPU by the hour and change every week; give yours. Of the H100 it is nanochat's own, 24 dollars for eight, and the
median of 37 providers in May 2026 (2.95, aimultiple.com/gpu-index). H200, A100, B200 and RTX 4090 lie where surveys of
that spring put specialised providers; for the rest none was found, and they are what the lab guesses.
"""

from dataclasses import dataclass

from nanochat.analysis.model_calculator.parameters import CalculatorError

PRICES_AS_OF = "2026-05"
# Model FLOPs utilization: nanochat's public report of 2026-01-07 has 47.88 % for d20 on eight H100. What others reach
# is between a third and a half, so this is what to plan with; small models and small batches get less.
HONEST_MFU = 0.40
_TABLE = {  # name in PEAK_FLOPS -> (GB of memory, dollars an hour)
    "B200": (192, 6.0),
    "H200": (141, 3.5),
    "H100": (80, 3.0),
    "A100": (80, 1.5),
    "MI300X": (192, 3.0),
    "L40S": (48, 1.0),
    "L4": (24, 0.7),
    "A30": (24, 0.6),
    "RTX 5090": (32, 0.7),
    "RTX 4090": (24, 0.35),
    "RTX 3090": (24, 0.25),
}


@dataclass(frozen=True)
class GPU:
    """One kind of GPU."""

    name: str
    peak: float  # FLOP/s, dense bfloat16
    memory: float  # bytes
    dollars: float  # an hour of one


def names() -> list[str]:
    """The kinds there are."""
    return list(_TABLE)


def gpu(name: str) -> GPU:
    """A kind by its name. Raises CalculatorError, listing the known ones."""
    from nanochat.training_setup import PEAK_FLOPS

    found = next((known for known in _TABLE if known.lower() == name.lower()), None)
    if found is None:
        raise CalculatorError(f"no figures for a GPU {name!r:.40}; choose one of {', '.join(_TABLE)}")
    memory, dollars = _TABLE[found]
    return GPU(found, PEAK_FLOPS[found], memory * 1e9, dollars)
