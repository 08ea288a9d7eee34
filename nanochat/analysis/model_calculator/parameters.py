"""How many parameters a model has, part by part, each with its formula and the values put in.

    count_parameters(arch="nanochat", depth=20).total
    count_parameters(arch="llama", vocab=32000, n_layer=32, d_model=4096, n_head=32, d_ff=11008).total

Families: `generic` (the textbook GPT of this tool's first version), `gpt2`, `llama` (with grouped keys), `gptneox`, and
nanochat of every era by its date, such as `nanochat_2026-01-18`; `nanochat` is the newest. Legend of the formulas: V
vocabulary, d width, L layers, H heads, K key/value heads, h width of a head, f width of the MLP, T context.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from nanochat.gpt_config import ConfigError, GPTConfig

LARGEST = 10**12  # of any one number that is asked for
FAMILIES = ("generic", "gpt2", "llama", "gptneox", "nanochat")
# The day (UTC) a design reached nanochat -> what it has of GPTConfig's fields; `eras.py` tells them apart on disk.
_FIRST: dict[str, Any] = {
    "window_pattern": None, "vocab_multiple": 1, "residual_lambdas": False, "value_embeds": False,
    "smear": False, "backout": False, "gate_channels": 32,
}  # fmt: skip
_PADDED = _FIRST | {"vocab_multiple": 64}
_LAMBDAS = _PADDED | {"residual_lambdas": True, "window_pattern": "SSSL"}
_VALUES = _LAMBDAS | {"value_embeds": True}
_MARCH = _VALUES | {"gate_channels": 12}
ERAS: dict[str, dict[str, Any]] = {
    "2025-10-13": _FIRST,
    "2025-12-23": _PADDED,
    "2026-01-11": _LAMBDAS,
    "2026-01-18": _VALUES,
    "2026-01-27": _VALUES | {"bigram": True},
    "2026-03-09": _MARCH,
    "2026-03-14": {},
}
NEWEST = "2026-03-14"
_SHORT = {"2026-01-11": (2, 1), "2026-01-18": (2, 1), "2026-01-27": (2, 1), "2026-03-09": (3, 128)}  # of T, rounded up


class CalculatorError(ValueError):
    """Sizes that no model can have, or a budget that buys none: one sentence."""


@dataclass(frozen=True)
class Part:
    """Parameters of one kind."""

    name: str
    each: int  # in one of them
    times: int  # how many there are: layers, or 1
    formula: str  # of one of them
    values: str  # the same with the numbers put in
    kind: str  # "embedding", "attention", "mlp", "norm", "head" or "scalar"
    matrix: bool = False  # every token is multiplied with it, which costs 6 FLOPs a parameter in training

    @property
    def total(self) -> int:
        """All of them."""
        return self.each * self.times


@dataclass(frozen=True)
class Breakdown:
    """A model in numbers: where its parameters are, and the sizes that memory and FLOPs follow from."""

    arch: str
    parts: tuple[Part, ...]
    vocab: int  # rows that are computed, padding included
    layers: int
    width: int
    heads: int
    kv_heads: int
    head_width: int
    mlp_width: int  # numbers between the MLP's matrices, for one token
    context: int
    windows: tuple[int, ...]  # keys that each layer's query sees at most
    config: GPTConfig | None = None  # of a nanochat model: what gpt.py builds

    @property
    def total(self) -> int:
        """All parameters."""
        return sum(part.total for part in self.parts)

    @property
    def matrices(self) -> int:
        """Parameters that every token is multiplied with."""
        return sum(part.total for part in self.parts if part.matrix)

    @property
    def scaling(self) -> int:
        """What rules of scaling count: for nanochat the layers' matrices and the head, for others all of them."""
        if self.config is None:
            return self.total
        return sum(part.total for part in self.parts if part.matrix and part.kind != "scalar")

    def of_kind(self, *kinds: str) -> int:
        """Parameters of some kinds."""
        return sum(part.total for part in self.parts if part.kind in kinds)


def count_parameters(arch: str = "generic", **config: Any) -> Breakdown:
    """The parameters of a model of a family.

    Sizes have one name each, and the names of published configurations are taken too: vocab (vocab_size,
    padded_vocab), n_layer (depth), d_model (n_embd, hidden_dim), n_head, n_kv_head, head_dim, d_ff, context (T, n_ctx,
    sequence_len), tied, bias, qkv_bias, learned_pos, window. nanochat's follow from its depth where they are left out.

    Raises:
        CalculatorError: an unknown family, size or name, or sizes that do not go together.
    """
    family, era = _family(arch)
    sizes = _Sizes(arch, config)
    if era is not None:
        made = _nanochat(arch, era, sizes)
    else:
        made = _MAKERS[family](arch, sizes)
    sizes.require_all_read()
    return made


def of_config(config: GPTConfig, arch: str = "nanochat") -> Breakdown:
    """The parameters of a nanochat model that is configured already, such as a checkpoint's."""
    V, C, L = config.padded_vocab_size, config.n_embd, config.n_layer
    H, G, D = config.n_head, config.n_kv_head, config.head_dim
    many, kv = len(config.value_layers), G * D
    parts = [
        _part("Token embeddings", V * C, "V d", f"{V:,} x {C:,}", "embedding"),
        _part("Attention", 2 * C * C + 2 * C * kv, "2 d^2 + 2 d K h", f"2 x {C:,}^2 + 2 x {C:,} x {G} x {D}",
              "attention", L, True),
        _part("MLP", 8 * C * C, "8 d^2", f"8 x {C:,}^2", "mlp", L, True),
    ]  # fmt: skip
    if many:
        parts += [
            _part("Value embeddings", V * kv, "V K h", f"{V:,} x {G} x {D}", "embedding", many),
            _part("Value gates", config.gate_channels * G, "channels x K", f"{config.gate_channels} x {G}",
                  "attention", many, True),
        ]  # fmt: skip
    if config.bigram:
        rows = 5 * config.vocab_size
        parts.append(_part("Bigram embedding", rows * C, "5 V d", f"{rows:,} x {C:,}", "embedding"))
        parts.append(_part("Bigram scales", L, "L", f"{L}", "scalar"))
    if config.residual_lambdas:
        parts.append(_part("Residual scales", 2 * L, "2 L", f"2 x {L}", "scalar"))
    if config.smear:
        parts.append(
            _part("Smear gate", config.smear_channels, "channels", f"{config.smear_channels}", "scalar", 1, True)
        )
        parts.append(_part("Smear scale", 1, "1", "1", "scalar"))
    if config.backout:
        parts.append(_part("Backout scale", 1, "1", "1", "scalar"))
    parts.append(_part("LM head", V * C, "V d", f"{V:,} x {C:,}", "head", 1, True))
    T = config.sequence_len
    windows = tuple(T if window < 0 else min(window, T) for window in config.windows)
    return Breakdown(arch, tuple(parts), V, L, C, H, G, D, 4 * C, T, windows, config)


def sequence_of(model: Breakdown, asked: int | None) -> int:
    """Tokens of a training sequence: what was asked for, else the model's context.

    Raises:
        CalculatorError: more than there are positions for, or no number of tokens.
    """
    tokens = model.context if asked is None else asked
    if not 1 <= tokens <= 2**24:
        raise CalculatorError(f"sequence-length is {tokens:,}; it must be from 1 to {2**24:,}")
    learned = any(part.name == "Position embeddings" for part in model.parts)
    if learned and tokens > model.context:
        raise CalculatorError(f"this model has {model.context:,} positions; give a sequence of at most so many")
    return tokens


def _part(name: str, each: int, formula: str, values: str, kind: str, times: int = 1, matrix: bool = False) -> Part:
    return Part(name, each, times, formula, values, kind, matrix)


def _family(arch: str) -> tuple[str, str | None]:
    """(family, nanochat's era or None)."""
    if arch in _MAKERS:
        return arch, None
    if arch == "nanochat" or arch.startswith("nanochat_HEAD"):
        return "nanochat", NEWEST
    if arch == "nanochat_v1":
        return "nanochat", "2025-10-13"
    day = arch.removeprefix("nanochat_")
    if arch.startswith("nanochat_") and day in ERAS:
        return "nanochat", day
    known = ", ".join([*_MAKERS, "nanochat", *(f"nanochat_{day}" for day in ERAS)])
    raise CalculatorError(f"arch is {arch!r:.40}; choose one of {known}")


_ALIASES = {
    "vocab": ("vocab_size", "padded_vocab"),
    "n_layer": ("depth", "layers"),
    "d_model": ("n_embd", "hidden_dim"),
    "n_head": ("heads",),
    "n_kv_head": ("kv_heads",),
    "context": ("T", "n_ctx", "sequence_len", "sequence_length"),
    "window": ("window_pattern",),
}


class _Sizes:
    """The numbers that were given, each taken once, so that what nobody reads is an error and not ignored."""

    def __init__(self, arch: str, given: Mapping[str, Any]) -> None:
        self.arch = arch
        names = {alias: name for name, aliases in _ALIASES.items() for alias in aliases}
        self.given: dict[str, Any] = {}
        for key, value in given.items():
            name = names.get(key, key)
            if name in self.given and self.given[name] != value:
                raise CalculatorError(
                    f"{name} is given twice, as {self.given[name]!r:.40} and as {value!r:.40}; leave one out"
                )
            if value is not None:
                self.given[name] = value
        self.read: set[str] = set()

    def number(self, name: str, default: int | None = None) -> int:
        """A size, at least 1."""
        self.read.add(name)
        value = self.given.get(name, default)
        if value is None:
            raise CalculatorError(f"{self.arch} needs {name}; give it")
        if type(value) is not int or not 1 <= value <= LARGEST:
            raise CalculatorError(f"{name} is {value!r:.40}; it must be a whole number from 1 to {LARGEST:,}")
        return value

    def switch(self, name: str, default: bool) -> bool:
        """True or false."""
        self.read.add(name)
        value = self.given.get(name, default)
        if type(value) is not bool:
            raise CalculatorError(f"{name} is {value!r:.40}; it must be true or false")
        return value

    def require_all_read(self) -> None:
        """Refuse names that this family does not have."""
        unknown = sorted(set(self.given) - self.read)
        if unknown:
            raise CalculatorError(
                f"{self.arch} has no {', '.join(unknown)[:80]}; it takes {', '.join(sorted(self.read))}"
            )


def _heads(sizes: _Sizes, width: int) -> int:
    heads = sizes.number("n_head", max(1, width // 64))
    if width % heads:
        raise CalculatorError(f"a width of {width:,} does not divide into {heads:,} heads; change one of them")
    return heads


def _generic(arch: str, sizes: _Sizes) -> Breakdown:
    """Embeddings, two matrices of each layer written out, and a head of its own; no biases, norms with two vectors."""
    V, L, d = sizes.number("vocab", 32000), sizes.number("n_layer"), sizes.number("d_model")
    H, T = _heads(sizes, d), sizes.number("context", 1024)
    parts = (
        _part("Token embeddings", V * d, "V d", f"{V:,} x {d:,}", "embedding"),
        _part("Attention", 4 * d * d, "4 d^2", f"4 x {d:,}^2", "attention", L, True),
        _part("MLP", 8 * d * d, "8 d^2", f"8 x {d:,}^2", "mlp", L, True),
        _part("LayerNorm", 4 * d, "4 d", f"4 x {d:,}", "norm", L),
        _part("Final LayerNorm", 2 * d, "2 d", f"2 x {d:,}", "norm"),
        _part("LM head", V * d, "V d", f"{V:,} x {d:,}", "head", 1, True),
    )
    return Breakdown(arch, parts, V, L, d, H, H, d // H, 4 * d, T, (T,) * L)


def _gpt2(arch: str, sizes: _Sizes) -> Breakdown:
    """V d + T d + L (12 d^2 + 13 d) + 2 d. Source: Radford et al. 2019, as published weights count."""
    V, L, d = sizes.number("vocab", 50257), sizes.number("n_layer"), sizes.number("d_model")
    H, T = _heads(sizes, d), sizes.number("context", 1024)
    tied, bias, learned = sizes.switch("tied", True), sizes.switch("bias", True), sizes.switch("learned_pos", True)
    return _classic(arch, V, L, d, H, T, tied, bias, T if learned else 0)


def _gptneox(arch: str, sizes: _Sizes) -> Breakdown:
    """2 V d + L (12 d^2 + 13 d) + 2 d: rotary positions, and two norms a layer side by side. Source: EleutherAI."""
    V, L, d = sizes.number("vocab", 50304), sizes.number("n_layer"), sizes.number("d_model")
    H, T = _heads(sizes, d), sizes.number("context", 2048)
    if not sizes.switch("two_ln_per_block", True):
        raise CalculatorError("gptneox has two norms a layer; choose gpt2 with learned_pos=False for another")
    return _classic(arch, V, L, d, H, T, sizes.switch("tied", False), sizes.switch("bias", True), 0)


def _classic(arch: str, V: int, L: int, d: int, H: int, T: int, tied: bool, bias: bool, places: int) -> Breakdown:
    b = 1 if bias else 0
    with_bias = (" + 4 d", " + 5 d") if bias else ("", "")
    parts = [
        _part("Token embeddings", V * d, "V d", f"{V:,} x {d:,}", "embedding", 1, tied),
        _part("Attention", 4 * d * d + 4 * d * b, f"4 d^2{with_bias[0]}", f"4 x {d:,}^2 + {4 * b} x {d:,}", "attention",
              L, True),
        _part("MLP", 8 * d * d + 5 * d * b, f"8 d^2{with_bias[1]}", f"8 x {d:,}^2 + {5 * b} x {d:,}", "mlp", L, True),
        _part("LayerNorm", 2 * d * (1 + b), f"{2 + 2 * b} d", f"{2 + 2 * b} x {d:,}", "norm", L),
        _part("Final LayerNorm", d * (1 + b), f"{1 + b} d", f"{1 + b} x {d:,}", "norm"),
    ]  # fmt: skip
    if places:
        parts.insert(1, _part("Position embeddings", places * d, "T d", f"{places:,} x {d:,}", "embedding"))
    if not tied:
        parts.append(_part("LM head", V * d, "V d", f"{V:,} x {d:,}", "head", 1, True))
    return Breakdown(arch, tuple(parts), V, L, d, H, H, d // H, 4 * d, T, (T,) * L)


def _llama(arch: str, sizes: _Sizes) -> Breakdown:
    """V d (1 or 2) + L (2 d H h + 2 d K h + 3 d f + 2 d) + d, with grouped keys where K < H. Source: Touvron et al."""
    V, L, d = sizes.number("vocab"), sizes.number("n_layer"), sizes.number("d_model")
    H = sizes.number("n_head")
    K, f, T = sizes.number("n_kv_head", H), sizes.number("d_ff", 4 * d), sizes.number("context", 4096)
    if "head_dim" not in sizes.given and d % H:
        raise CalculatorError(f"a width of {d:,} does not divide into {H:,} heads; give head_dim")
    h = sizes.number("head_dim", d // H or 1)
    if H % K:
        raise CalculatorError(f"{H:,} heads cannot share {K:,} key/value heads evenly; take a divisor of {H:,}")
    tied, bias = sizes.switch("tied", False), sizes.switch("qkv_bias", False)
    extra = (H + 2 * K) * h if bias else 0
    parts = [
        _part("Token embeddings", V * d, "V d", f"{V:,} x {d:,}", "embedding", 1, tied),
        _part("Attention", 2 * d * H * h + 2 * d * K * h + extra, "2 d H h + 2 d K h" + " + (H + 2 K) h" * bias,
              f"2 x {d:,} x {H} x {h} + 2 x {d:,} x {K} x {h}" + f" + {extra:,}" * bias, "attention", L, True),
        _part("MLP", 3 * d * f, "3 d f", f"3 x {d:,} x {f:,}", "mlp", L, True),
        _part("LayerNorm", 2 * d, "2 d", f"2 x {d:,}", "norm", L),
        _part("Final LayerNorm", d, "d", f"{d:,}", "norm"),
    ]  # fmt: skip
    if not tied:
        parts.append(_part("LM head", V * d, "V d", f"{V:,} x {d:,}", "head", 1, True))
    return Breakdown(arch, tuple(parts), V, L, d, H, K, h, f, T, (T,) * L)


def _nanochat(arch: str, era: str, sizes: _Sizes) -> Breakdown:
    from nanochat.horizon import model_width

    depth = sizes.number("n_layer")
    if depth > 1024:
        raise CalculatorError(f"n_layer is {depth:,}; a nanochat model has at most 1,024 layers")
    width, heads = model_width(depth)
    if era in ("2025-10-13", "2025-12-23", "2026-01-11"):  # 64 channels a layer, not rounded up to whole heads
        width = depth * 64
        heads = max(1, -(-width // 128))
    width = sizes.number("d_model", width)
    heads = sizes.number("n_head", heads if width % heads == 0 else 1)
    T = sizes.number("context", 2048)
    design = dict(ERAS[era])
    sizes.read.add("window")
    pattern = sizes.given.get("window", design.pop("window_pattern", "SSSL"))
    short = None
    if era in _SHORT:
        share, whole = _SHORT[era]
        short = T // share if whole == 1 else -(-T // share // whole) * whole
    try:
        config = GPTConfig(
            T, sizes.number("vocab", 65536 if era < "2026" else 32768), depth, heads, sizes.number("n_kv_head", heads),
            width, pattern if design.get("residual_lambdas", True) else None, short, **design,
        )  # fmt: skip
    except ConfigError as error:
        raise CalculatorError(f"{arch} cannot have these sizes: {error}") from None
    return of_config(config, arch)


_MAKERS: dict[str, Callable[[str, _Sizes], Breakdown]] = {
    "generic": _generic,
    "gpt2": _gpt2,
    "llama": _llama,
    "gptneox": _gptneox,
}
