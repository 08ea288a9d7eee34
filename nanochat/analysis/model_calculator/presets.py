"""Models by name: those of the tool's first version, and published ones with their real sizes."""

from typing import Any

from nanochat.analysis.model_calculator.parameters import Breakdown, CalculatorError, count_parameters


def _gpt2(layers: int, width: int, heads: int) -> dict[str, Any]:
    return {"arch": "gpt2", "vocab": 50257, "context": 1024, "n_layer": layers, "d_model": width, "n_head": heads}


PRESETS: dict[str, dict[str, Any]] = {
    "nanochat-tiny": {"arch": "generic", "vocab": 32000, "n_layer": 6, "d_model": 384, "n_head": 6},
    "nanochat-small": {"arch": "generic", "vocab": 32000, "n_layer": 12, "d_model": 768, "n_head": 12},
    "nanochat-d12": {"arch": "nanochat", "n_layer": 12},
    "nanochat-d20": {"arch": "nanochat", "n_layer": 20},
    "nanochat-d24": {"arch": "nanochat", "n_layer": 24},
    "nanochat-2025-d20": {"arch": "nanochat_2025-10-13", "n_layer": 20},
    "nanochat-2025-d32": {"arch": "nanochat_2025-10-13", "n_layer": 32},
    "gpt2-small": _gpt2(12, 768, 12),
    "gpt2-medium": _gpt2(24, 1024, 16),
    "gpt2-large": _gpt2(36, 1280, 20),
    "gpt2-xl": _gpt2(48, 1600, 25),
    "llama-2-7b": {
        "arch": "llama", "vocab": 32000, "n_layer": 32, "d_model": 4096, "n_head": 32, "d_ff": 11008, "context": 4096,
    },
    "llama-3-8b": {
        "arch": "llama", "vocab": 128256, "n_layer": 32, "d_model": 4096, "n_head": 32, "n_kv_head": 8, "d_ff": 14336,
        "context": 8192,
    },
    "pythia-160m": {"arch": "gptneox", "vocab": 50304, "n_layer": 12, "d_model": 768, "n_head": 12},
}  # fmt: skip


def preset(name: str, **changes: Any) -> Breakdown:
    """The model of a preset, with some of its sizes changed.

    Raises:
        CalculatorError: no preset of this name, or sizes that do not go together.
    """
    if name not in PRESETS:
        raise CalculatorError(f"there is no preset {name!r:.40}; choose one of {', '.join(PRESETS)}")
    given = {key: value for key, value in changes.items() if value is not None}
    return count_parameters(**(PRESETS[name] | given))
