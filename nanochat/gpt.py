"""The model: every GPT that nanochat has ever had, as one explicit configuration and one forward pass.

A decoder-only Transformer without biases and without learnable norms: rotary positions, RMS-normed queries and keys,
grouped key/value heads, squared-ReLU MLPs, logits capped by a tanh. Over time nanochat added sliding windows,
per-layer residual scales, value embeddings, a smear of the previous token, a backout of the middle of the network, and
for two days a bigram embedding. Each is a field of `GPTConfig`; no date is tested here. `eras.py` reads a checkpoint
and says which of them it has. Parameter names are nanochat's, because checkpoints carry them.

    python -m nanochat.scripts.chat_cli -i base -p "The capital of France is"

Legend: B rows of the batch, T tokens, C channels (n_embd), H query heads, G key/value heads, D channels of a head,
V vocabulary, L layers.
"""

from dataclasses import dataclass, field
from typing import cast

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

import kernels
from nanochat import gradients
from nanochat.gpt_config import GPTConfig
from nanochat.kv_cache import KVCache

# Upstream's F.rms_norm without an eps uses the float32 machine epsilon, also when it computes in bfloat16.
EPSILON = 1.1920928955078125e-07


@dataclass
class Trace:
    """What a forward pass leaves behind for a visualizer, and which heads it does without: pass a new one, read it."""

    off: frozenset[tuple[int, int]] = frozenset()  # (layer, head) whose output counts as zero
    attention: list[Tensor] = field(default_factory=list)  # per layer (B, H, T, T), exactly the weights that were used
    residual: list[Tensor] = field(default_factory=list)  # (B, T, C): the embedding, then the output of every layer
    queries: list[Tensor] = field(default_factory=list)  # per layer (B, T, H, D), as attention took them
    keys: list[Tensor] = field(default_factory=list)  # per layer (B, T, G, D), likewise
    values: list[Tensor] = field(default_factory=list)  # per layer (B, T, G, D), value embeddings included

    def attended(self, layer: int, q: Tensor, k: Tensor, v: Tensor, y: Tensor, window: int) -> Tensor:
        """Note what a layer's attention did; returns its output y (B, T, H, D) without the heads that are off."""
        self.attention.append(kernels.attention_weights(q, k, window=window))
        for kept, tensor in ((self.queries, q), (self.keys, k), (self.values, v)):
            kept.append(tensor)
        heads = [head for of_layer, head in self.off if of_layer == layer]
        return y.index_fill(2, torch.tensor(heads, device=y.device), 0.0) if heads else y


class Linear(nn.Linear):
    """A matrix without bias that works in the format of its input, whichever format its own weights are stored in."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype))


class Embedding(nn.Embedding):
    """A row for each number. On the meta device it begins as it is."""

    def reset_parameters(self) -> None:
        if not self.weight.is_meta:  # there PyTorch would load its whole compiler, two seconds, to draw no number
            super().reset_parameters()


def norm(x: Tensor) -> Tensor:
    """RMS norm over the last dimension, without learnable scale (Zhang and Sennrich 2019)."""
    if gradients.worthwhile(x):
        return gradients.rms_norm(x, EPSILON)
    return F.rms_norm(x, (x.size(-1),), eps=EPSILON)


class CausalSelfAttention(nn.Module):
    """One layer's attention: project, rotate and norm, attend within the window, project back."""

    def __init__(self, config: GPTConfig, layer: int) -> None:
        super().__init__()
        self.config, self.layer, self.window = config, layer, config.windows[layer]
        H, G, D, C = config.n_head, config.n_kv_head, config.head_dim, config.n_embd
        self.c_q = Linear(C, H * D, bias=False)
        self.c_k = Linear(C, G * D, bias=False)
        self.c_v = Linear(C, G * D, bias=False)
        self.c_proj = Linear(C, C, bias=False)
        self.ve_gate = Linear(config.gate_channels, G, bias=False) if layer in config.value_layers else None

    def forward(
        self, x: Tensor, value: Tensor | None, rope: tuple[Tensor, Tensor], cache: KVCache | None, trace: Trace | None
    ) -> Tensor:
        B, T, _ = x.shape
        G, D = self.config.n_kv_head, self.config.head_dim
        q, k, v = (projection(x).view(B, T, -1, D) for projection in (self.c_q, self.c_k, self.c_v))
        if value is not None and self.ve_gate is not None:
            gate = self.config.gate_scale * torch.sigmoid(
                self.ve_gate(x[..., : self.config.gate_channels])
            )  # (B, T, G)
            v = torch.addcmul(v, gate.unsqueeze(-1), value.view(B, T, G, D))
        q, k = (t.to(v.dtype) for t in kernels.qk_prep(q, k, *rope, self.config.qk_gain))  # autocast leaves v narrower

        if cache is not None:  # a prompt, or a later part of one: its queries are the last T of the keys
            keys, values = cache.write(self.layer, k, v)  # (B, capacity, G, D)
            k, v = keys[:, : cache.length + T], values[:, : cache.length + T]
        y = kernels.attention(q, k, v, window=self.window)  # (B, T, H, D)
        if trace is not None:
            y = trace.attended(self.layer, q, k, v, y, self.window)
        return self.c_proj(y.reshape(B, T, -1))


class MLP(nn.Module):
    """Two matrices around a squared ReLU (So et al. 2021)."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.c_fc = Linear(config.n_embd, 4 * config.n_embd, bias=False)
        self.c_proj = Linear(4 * config.n_embd, config.n_embd, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if gradients.worthwhile(x):
            return gradients.squared_relu_mlp(x, self.c_fc.weight, self.c_proj.weight)
        return self.c_proj(F.relu(self.c_fc(x)).square())


class Block(nn.Module):
    """Attention, then MLP, each on the normed stream and added to it."""

    def __init__(self, config: GPTConfig, layer: int) -> None:
        super().__init__()
        self.attn = CausalSelfAttention(config, layer)
        self.mlp = MLP(config)

    def forward(
        self, x: Tensor, value: Tensor | None, rope: tuple[Tensor, Tensor], cache: KVCache | None, trace: Trace | None
    ) -> Tensor:
        x = x + self.attn(norm(x), value, rope, cache, trace)
        return x + self.mlp(norm(x))


class BigramEmbed(nn.Module):
    """A hashed embedding of each pair of neighbours: 5 V rows, the last one kept for the pair that has no first."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.embed = Embedding(5 * config.vocab_size, config.n_embd)

    def forward(self, ids: Tensor, previous: Tensor | None) -> Tensor:
        """Row (36313 current XOR 27191 previous) mod (5 V - 1); `previous` (B, 1) is the token before ids, if any."""
        last_row = self.embed.num_embeddings - 1
        before = ids[:, :-1] if previous is None else torch.cat((previous, ids[:, :-1]), dim=1)
        rows = ((36313 * ids[:, ids.size(1) - before.size(1) :]) ^ (27191 * before)) % last_row
        return self.embed(rows if previous is not None else F.pad(rows, (1, 0), value=last_row))


class GPT(nn.Module):
    """The whole model. `model(ids)` gives float32 logits (B, T, V); with targets, the loss in nats a token."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        C, rows = config.n_embd, config.padded_vocab_size
        if config.residual_lambdas:
            self.resid_lambdas = nn.Parameter(torch.ones(config.n_layer))
            self.x0_lambdas = nn.Parameter(torch.zeros(config.n_layer))
        if config.bigram:
            self.bigram_lambdas = nn.Parameter(torch.zeros(config.n_layer))
        if config.smear:
            self.smear_lambda = nn.Parameter(torch.zeros(1))
        if config.backout:
            self.backout_lambda = nn.Parameter(torch.full((1,), 0.2))
        blocks = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        self.transformer = nn.ModuleDict({"wte": Embedding(rows, C), "h": blocks})
        self.lm_head = Linear(C, rows, bias=False)
        if config.smear:
            self.smear_gate = Linear(config.smear_channels, 1, bias=False)
        if config.bigram:
            self.bigram_embed = BigramEmbed(config)
        kv_dim = config.n_kv_head * config.head_dim
        self.value_embeds = nn.ModuleDict({str(i): Embedding(rows, kv_dim) for i in config.value_layers})
        # Rotary tables are computed, never saved; they grow when a text outruns them.
        self._rope = torch.empty(1, 0, 1, 0), torch.empty(1, 0, 1, 0)

    @property
    def wte(self) -> nn.Embedding:
        """The token embedding (padded V, C)."""
        return cast(nn.Embedding, self.transformer["wte"])

    @property
    def blocks(self) -> list[Block]:
        """The layers, first to last."""
        return cast(list[Block], list(cast(nn.ModuleList, self.transformer["h"])))

    def value_embed(self, layer: int) -> nn.Embedding:
        """The value embedding (padded V, G D) of a layer in `config.value_layers`."""
        return cast(nn.Embedding, self.value_embeds[str(layer)])

    def forward(
        self,
        ids: Tensor,
        targets: Tensor | None = None,
        *,
        reduction: str = "mean",
        dtype: torch.dtype | None = None,
        trace: Trace | None = None,
    ) -> Tensor:
        """Logits (B, T, V) in float32, or with `targets` (B, T; -1 is ignored) the cross-entropy in nats.

        ids: (B, T) whole numbers below V. reduction: "mean" and "sum" give one number, "none" gives B * T of them.
        dtype: the format to compute in, None for that of the weights; training takes bfloat16 where it is faster.
        """
        hidden = self.hidden(ids, dtype=dtype, trace=trace)
        return self.logits(hidden) if targets is None else self.loss(hidden, targets, reduction)

    def hidden(
        self, ids: Tensor, cache: KVCache | None = None, trace: Trace | None = None, dtype: torch.dtype | None = None
    ) -> Tensor:
        """The normed residual stream (B, T, C) that the head reads. With a cache, ids continue what it holds."""
        config = self.config
        T = ids.size(1)
        cos, sin = self.rope(T if cache is None else cache.longest + T, ids.device)
        rope = (cos[:, :T], sin[:, :T]) if cache is None else cache.positions_of((cos, sin), T)
        if cache is not None:
            cache.begin(T)

        # Everything below follows the format of x: each matrix is cast to it where it is used.
        x = norm(self.wte(ids).to(dtype or self.wte.weight.dtype))
        if config.smear:
            x = self._smear(x, cache)
        last_ids = cache.last_ids if cache is not None else None
        bigram = self.bigram_embed(ids, last_ids).to(x.dtype) if config.bigram else None
        x0 = x
        if trace is not None:
            trace.residual.append(x)
        middle = x
        for i, block in enumerate(self.blocks):
            if config.residual_lambdas:
                x = torch.addcmul(x * self.resid_lambdas[i], x0, self.x0_lambdas[i])
            if bigram is not None:
                x = x + self.bigram_lambdas[i] * bigram
            value = self.value_embed(i)(ids).to(x.dtype) if i in config.value_layers else None
            x = block(x, value, rope, cache, trace)
            if i == config.n_layer // 2:
                middle = x
            if trace is not None:
                trace.residual.append(x)
        if config.backout:
            x = x - self.backout_lambda.to(x.dtype) * middle
        if cache is not None:
            cache.end(T, ids)
        return norm(x)

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., C) -> (..., V): the head without its padding, soft-capped in float32."""
        logits = self.lm_head(hidden)[..., : self.config.vocab_size].float()
        return self.config.softcap * torch.tanh(logits / self.config.softcap)

    def loss(self, hidden: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
        """The cross-entropy of `logits(hidden)` at targets (B, T), in one operation that never holds all logits.

        In float32, and in float64 for a float64 model, all the way.
        """
        return kernels.linear_softcap_cross_entropy(
            hidden.flatten(0, 1),
            self.lm_head.weight[: self.config.vocab_size],
            targets.flatten(),
            self.config.softcap,
            reduction=reduction,
        )

    def rope(self, length: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Cosines and sines (1, at least `length`, 1, D / 2) of the rotary angles (Su et al. 2021)."""
        cos, sin = self._rope
        dtype = self.wte.weight.dtype
        if cos.size(1) < length or cos.device != device or cos.dtype != dtype:
            rows = max(self.config.sequence_len, 2 * length if length > self.config.sequence_len else 0)
            cos, sin = self._rope = self._rotary_tables(rows, device, dtype)  # one assignment: threads share a model
        return cos, sin

    @torch.inference_mode(False)  # a table first made while generating serves a later training step as well
    def _rotary_tables(self, rows: int, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        exponent = torch.arange(0, self.config.head_dim, 2, dtype=torch.float32, device=device) / self.config.head_dim
        positions = torch.arange(rows, dtype=torch.float32, device=device)
        angles = torch.outer(positions, 1.0 / self.config.rope_base**exponent)[None, :, None]
        rounded = torch.bfloat16 if self.config.rope_bfloat16 else torch.float32
        return angles.cos().to(rounded).to(dtype), angles.sin().to(rounded).to(dtype)

    @torch.no_grad()
    def init_weights(self) -> None:
        """Starting weights for training, as nanochat's newest: every block begins as the identity.

        Projections back into the stream start at zero; the others uniform with variance 1 / C (a bound of sqrt(3 / C)
        has it), the MLP's first matrix at 0.4 of that; embeddings normal; the head nearly zero, so the first loss is
        ln V. Layer scales fall from 1.15 to 1.05, the embedding's share from 0.2 to 0.05: early layers use it more.
        """
        config, bound = self.config, (3 / self.config.n_embd) ** 0.5
        nn.init.normal_(self.wte.weight, std=0.8)
        nn.init.normal_(self.lm_head.weight, std=0.001)
        for block in self.blocks:
            for projection in (block.attn.c_q, block.attn.c_k, block.attn.c_v):
                nn.init.uniform_(projection.weight, -bound, bound)
            nn.init.uniform_(block.mlp.c_fc.weight, -0.4 * bound, 0.4 * bound)
            nn.init.zeros_(block.attn.c_proj.weight)
            nn.init.zeros_(block.mlp.c_proj.weight)
            if block.attn.ve_gate is not None:
                nn.init.uniform_(block.attn.ve_gate.weight, 0.0, 0.02)
        for layer in config.value_layers:
            nn.init.uniform_(self.value_embed(layer).weight, -bound, bound)
        if config.residual_lambdas:
            self.resid_lambdas.copy_(torch.linspace(1.15, 1.05, config.n_layer))
            self.x0_lambdas.copy_(torch.linspace(0.20, 0.05, config.n_layer))
        if config.smear:
            nn.init.uniform_(self.smear_gate.weight, 0.0, 0.02)
            self.smear_lambda.zero_()
        if config.backout:
            self.backout_lambda.fill_(0.2)
        if config.bigram:
            nn.init.zeros_(self.bigram_embed.embed.weight)
            self.bigram_lambdas.zero_()

    def num_scaling_params(self) -> dict[str, int]:
        """Parameters by what they are for; `total` is all of them. The names are nanochat's."""
        counts = dict.fromkeys(("wte", "bigram_embed", "value_embeds", "lm_head", "transformer_matrices", "scalars"), 0)
        groups = {"transformer.wte": "wte", "transformer.h": "transformer_matrices"}
        for name, parameter in self.named_parameters():
            group = next((group for prefix, group in groups.items() if name.startswith(prefix)), name.split(".")[0])
            counts[group if group in counts else "scalars"] += parameter.numel()
        return {**counts, "total": sum(counts.values())}

    def estimate_flops(self) -> int:
        """Training FLOPs a token: 6 per weight of a matrix product, 12 C per key that a query sees, in every layer.

        6 is 2 forward and 4 backward; a window of W counts as min(W, T) keys. Source: PaLM (Chowdhery et al. 2022),
        appendix B, as nanochat applies it.
        """
        config = self.config
        products = sum(module.weight.numel() for module in self.modules() if isinstance(module, nn.Linear))
        keys = sum(min(w, config.sequence_len) if w >= 0 else config.sequence_len for w in config.windows)
        return 6 * products + 12 * config.n_embd * keys

    def lay_out_for_inference(self) -> "GPT":
        """Lay every matrix out the way a product with few rows reads it fastest; names and values stay.

        Matrices lie (in, out) in memory, which on a CPU saves a fifth of a decoding step's multiplications, and each
        layer's query, key and value weights side by side, which decode.py multiplies as one. The parameters become
        views of that, so nothing is stored twice; a state dict taken from here holds plain copies. Not for training:
        an optimizer would work on strided memory.
        """
        for block in self.blocks:
            attn, mlp = block.attn, block.mlp
            _lay_out([attn.c_q, attn.c_k, attn.c_v])
            for layer in (attn.c_proj, mlp.c_fc, mlp.c_proj):
                _lay_out([layer])
        _lay_out([self.lm_head])
        self.register_state_dict_post_hook(_plain_copies)
        return self.eval().requires_grad_(False)

    def _smear(self, x: Tensor, cache: KVCache | None) -> Tensor:
        """x[t] += lambda * sigmoid(gate(x[t])) * x[t - 1], on the unsmeared x; the first token has none before it."""
        before = cache.last_vector if cache is not None else None
        if cache is not None:
            cache.last_vector = x[:, -1:]
        if before is None and x.size(1) == 1:
            return x
        current = x[:, 1:] if before is None else x
        previous = x[:, :-1] if before is None else torch.cat((before, x[:, :-1]), dim=1)
        gate = self.smear_lambda.to(x.dtype) * torch.sigmoid(
            self.smear_gate(current[..., : self.config.smear_channels])
        )
        smeared = torch.addcmul(current, gate, previous)
        return smeared if before is not None else torch.cat((x[:, :1], smeared), dim=1)


def parameter_shapes(config: GPTConfig) -> dict[str, tuple[int, ...]]:
    """Every key of the state dict with its shape, in nanochat's order, without allocating a weight."""
    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in GPT(config).state_dict().items()}


def build(config: GPTConfig, tensors: dict[str, Tensor], device: torch.device | str = "cpu") -> GPT:
    """A model in evaluation mode around these tensors, whose names and shapes the caller has checked.

    It takes the tensors over: embeddings and scales are used as they are, matrices are laid out anew.
    """
    with torch.device("meta"):
        model = GPT(config)
    # A plain dict, because with assign=True torch leaves a mark on a state dict that makes later loads share memory.
    model.load_state_dict(dict(tensors), strict=True, assign=True)
    return model.to(device).lay_out_for_inference()


def _lay_out(layers: list[nn.Linear]) -> None:
    """Put the weights of layers that read the same input into one matrix (in, out); each becomes a view of it."""
    matrix = torch.cat([layer.weight.detach().t() for layer in layers], dim=1)
    for layer, columns in zip(layers, matrix.split([layer.out_features for layer in layers], dim=1), strict=True):
        layer.weight.data = columns.t()


def _plain_copies(module: nn.Module, state: dict[str, Tensor], prefix: str, metadata: object) -> None:
    """Make a state dict as torch.save should see it: every weight contiguous in memory of its own."""
    for name, weight in state.items():
        if not weight.is_contiguous():
            state[name] = weight.contiguous()
