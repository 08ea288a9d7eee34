"""What a model is made of, in numbers and switches: `GPTConfig`, which gpt.py builds and eras.py infers. No torch here.

Legend: T tokens of context, V vocabulary, L layers, H query heads, G key/value heads, D channels of a head, C channels.
"""

from dataclasses import dataclass

# A config comes from a file: these bounds refuse nonsense before anything is allocated.
LIMITS = {
    "sequence_len": 2**24,
    "vocab_size": 2**24,
    "n_layer": 1024,
    "n_head": 4096,
    "n_kv_head": 4096,
    "n_embd": 2**18,
}


SIZES = tuple(LIMITS)  # the keys that every nanochat writes into `model_config`
UPSTREAM_KEYS = (*SIZES, "window_pattern")  # and the one that joined on 2026-01-11; its constructor takes no other


class ConfigError(ValueError):
    """A model configuration that cannot be built: one sentence naming field, value and limit."""


@dataclass(frozen=True)
class GPTConfig:
    """What a model is. The first seven fields are nanochat's `model_config`; the rest default to its newest design."""

    sequence_len: int = 2048  # T: the context it was trained on; windows and the rotary table start from it
    vocab_size: int = 32768  # V: without padding
    n_layer: int = 12  # L
    n_head: int = 6  # H
    n_kv_head: int = 6  # G: H for multi-head, fewer for grouped-query attention
    n_embd: int = 768  # C
    window_pattern: str | None = "SSSL"  # tiled over the layers, last layer always L; None: full attention everywhere
    short_window: int | None = None  # keys an S layer sees before its own; None: T/4 rounded up to 128
    vocab_multiple: int = 64  # rows of wte and lm_head are padded up to a multiple of this
    rope_base: float = 100_000.0  # rotary base: larger turns slower
    rope_bfloat16: bool = False  # the table of cosines is rounded to bfloat16, also where the rest is float32
    qk_gain: float = 1.2  # factor on normed queries and on normed keys: sharper attention
    softcap: float = 15.0  # logits become softcap * tanh(logits / softcap)
    residual_lambdas: bool = True  # per layer x = resid * x + x0 * (the embedding)
    value_embeds: bool = True  # every second layer, last included, adds a gated embedding to its values
    gate_channels: int = 12  # how many channels of its input the value gate reads
    gate_scale: float = 3.0  # the value gate is gate_scale * sigmoid(...)
    smear: bool = True  # each embedding takes a gated part of the one before it
    smear_channels: int = 24  # how many channels the smear gate reads
    backout: bool = True  # subtract a multiple of the middle layer's output before the last norm
    bigram: bool = False  # a hashed embedding of (previous, current) token joins every layer: two days in 2026-01

    def __post_init__(self) -> None:
        for name, limit in LIMITS.items():
            value = getattr(self, name)
            if type(value) is not int or not 1 <= value <= limit:
                raise ConfigError(
                    f"model_config.{name} is {value!r:.40}; it must be a whole number from 1 to {limit:,}"
                )
        if self.n_embd % self.n_head or self.head_dim % 2:
            raise ConfigError(
                f"n_embd {self.n_embd} must divide into {self.n_head} heads of an even number of channels"
            )
        if self.n_head % self.n_kv_head:
            raise ConfigError(f"n_head {self.n_head} must be a multiple of n_kv_head {self.n_kv_head}")
        pattern = self.window_pattern
        if pattern is not None and (not isinstance(pattern, str) or not pattern or set(pattern.upper()) - set("SL")):
            raise ConfigError(f"window_pattern is {pattern!r:.40}; it must be letters S (short) and L (long)")
        self._check_components()

    def _check_components(self) -> None:
        """The fields that nanochat's own model_config does not have; they too may come from a file."""
        for name, least in (("vocab_multiple", 1), ("gate_channels", 1), ("smear_channels", 1), ("short_window", 0)):
            value = getattr(self, name)
            if (name, value) != ("short_window", None) and (type(value) is not int or not least <= value <= 2**24):
                raise ConfigError(f"{name} is {value!r:.40}; it must be a whole number from {least} to {2**24:,}")
        for name in ("rope_base", "qk_gain", "softcap", "gate_scale"):
            value = getattr(self, name)
            if type(value) not in (int, float) or not 1e-6 <= value <= 1e9:
                raise ConfigError(f"{name} is {value!r:.40}; it must be a number from 1e-6 to 1e9")
        for name in ("rope_bfloat16", "residual_lambdas", "value_embeds", "smear", "backout", "bigram"):
            if type(getattr(self, name)) is not bool:
                raise ConfigError(f"{name} is {getattr(self, name)!r:.40}; it must be true or false")
        reads = (self.value_embeds and self.gate_channels, self.smear and self.smear_channels)
        if self.n_embd < max(reads):
            raise ConfigError(f"n_embd is {self.n_embd}, but a gate reads {max(reads)} channels; use a wider model")

    @property
    def head_dim(self) -> int:
        """D: channels of one head."""
        return self.n_embd // self.n_head

    @property
    def padded_vocab_size(self) -> int:
        """Rows of wte and lm_head; the logits of padded rows are dropped."""
        return -(-self.vocab_size // self.vocab_multiple) * self.vocab_multiple

    @property
    def windows(self) -> tuple[int, ...]:
        """Keys each layer sees before its own position, -1 for all; a window of W keeps W + 1 keys."""
        if self.window_pattern is None:
            return (-1,) * self.n_layer
        short = self.short_window if self.short_window is not None else -(-self.sequence_len // 4 // 128) * 128
        pattern = self.window_pattern.upper()
        sizes = [short if pattern[i % len(pattern)] == "S" else self.sequence_len for i in range(self.n_layer)]
        return (*sizes[:-1], self.sequence_len)

    @property
    def value_layers(self) -> tuple[int, ...]:
        """Layers with a value embedding: every second one, counted back from the last."""
        return tuple(range((self.n_layer - 1) % 2, self.n_layer, 2)) if self.value_embeds else ()

    def upstream(self) -> dict[str, object]:
        """The keys of nanochat's own `model_config`, and no other: its constructor refuses more."""
        return {name: getattr(self, name) for name in UPSTREAM_KEYS if getattr(self, name) is not None}
