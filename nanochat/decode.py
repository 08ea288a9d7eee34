"""One token per row: the forward pass of gpt.py as a straight line, for the moment when every call counts.

While a model writes, a step of a small model multiplies for 30 us and spends over ten times that on calling: modules,
attribute look-ups, one projection at a time. Here everything that does not change between two tokens is looked up once:
query, key and value weights as one matrix, per-layer scales as scalars, residual additions inside the products. It
computes what `GPT.hidden` and `GPT.logits` compute, in the same order; a test over random configurations holds the two
together, and gpt.py is the one to read. On PyTorch's paths the rotary turn of one position, the same for every head and
layer, is one small matrix here; elsewhere `kernels.qk_prep_append` turns, norms and stores in a single launch.

    decoder = Decoder(model)                 # after model.hidden(prompt, cache) has filled the cache
    logits = decoder.step(ids, cache)        # (B,) -> (B, V)

Legend: B rows, C channels, H query heads, G key/value heads, D channels of a head, V vocabulary.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

import kernels
from kernels import backend
from nanochat.gpt import EPSILON, GPT
from nanochat.kv_cache import KVCache


@dataclass(frozen=True)
class _Layer:
    """What one layer needs, ready to use; matrices lie (in, out), as the product reads them."""

    qkv: Tensor  # (C, (H + 2 G) D)
    proj: Tensor  # (H D, C)
    fc: Tensor  # (C, 4 C)
    out: Tensor  # (4 C, C)
    window: int
    resid: Tensor | None  # scalars
    x0: Tensor | None
    bigram: Tensor | None
    value: Tensor | None  # (V, G D): the value embedding
    gate: Tensor | None  # (gate_channels, G)


class Decoder:
    """A model's weights as they are now, laid out for single tokens. Cheap: the engine makes one for each text."""

    def __init__(self, model: GPT) -> None:
        config = model.config
        self.model, self.config = model, config
        self.layers = [_layer_weights(model, layer) for layer in range(config.n_layer)]
        self.size = sum(weight.nbytes for weight in model.parameters())  # bytes
        self.wte = model.wte.weight
        self.head = model.lm_head.weight[: config.vocab_size].t()
        device, dtype, D = self.wte.device, self.wte.dtype, config.head_dim
        shape = (1, 1, config.n_head, D)
        self._one_launch = backend.choose("qk_prep", device, dtype, shape).name != "torch"
        # gain / sqrt(x + eps) is 1 / sqrt(x / gain^2 + eps / gain^2)
        wide = torch.promote_types(dtype, torch.float32)
        self._epsilon = {
            gain: torch.tensor(EPSILON / gain**2, device=device, dtype=wide) for gain in (1.0, config.qk_gain)
        }
        # y1 = x1 cos + x2 sin, y2 = x2 cos - x1 sin: what each channel keeps of itself and takes from its partner
        self._keep = torch.eye(D, device=device, dtype=dtype)
        self._swap = torch.cat((-self._keep[:, D // 2 :], self._keep[:, : D // 2]), dim=1).t()
        self._softcap = torch.tensor(config.softcap, device=device)
        self._gate_scale = torch.tensor(config.gate_scale, device=device, dtype=dtype)
        self._smear = model.smear_lambda.to(dtype) if config.smear else None
        self._backout = -model.backout_lambda.to(dtype) if config.backout else None

    @torch.inference_mode()
    def step(self, ids: Tensor, cache: KVCache) -> Tensor:
        """Logits (B, V) in float32 behind the tokens ids (B,), which join the cache."""
        config = self.config
        H, G, D = config.n_head, config.n_kv_head, config.head_dim
        B = ids.size(0)
        cos, sin = cache.positions_of(self.model.rope(cache.longest + 1, ids.device), 1)  # (1 or B, 1, 1, D/2)
        turn = None if self._one_launch else self._rotation(cos, sin).expand(B, D, D)
        cache.begin(1)

        x = self._norm(F.embedding(ids, self.wte))  # (B, C)
        if self._smear is not None:
            before, cache.last_vector = cache.last_vector, x.unsqueeze(1)
            if before is not None:
                gate = torch.sigmoid(F.linear(x[:, : config.smear_channels], self.model.smear_gate.weight))
                x = torch.addcmul(x, gate * self._smear, before[:, 0])
        bigram = self.model.bigram_embed(ids.unsqueeze(1), cache.last_ids)[:, 0] if config.bigram else None
        x0 = middle = x
        for i, layer in enumerate(self.layers):
            if layer.resid is not None and layer.x0 is not None:
                x = torch.addcmul(x * layer.resid, x0, layer.x0)
            if bigram is not None and layer.bigram is not None:
                x = torch.addcmul(x, bigram, layer.bigram)
            h = self._norm(x)
            heads = torch.mm(h, layer.qkv).view(B, H + 2 * G, D)  # queries, keys, values, changed in place from here on
            if layer.value is not None and layer.gate is not None:
                gate = torch.sigmoid(torch.mm(h[:, : config.gate_channels], layer.gate)) * self._gate_scale  # (B, G)
                value = F.embedding(ids, layer.value).view(B, G, D)
                heads.narrow(1, H + G, G).addcmul_(gate.unsqueeze(2), value)
            if turn is None:
                q, k, v = heads.unsqueeze(1).split((H, G, G), dim=2)  # (B, 1, heads, D)
                keys, values = cache.keys_and_values(i)
                q = kernels.qk_prep_append(q, k, v, cos, sin, config.qk_gain, keys, values, cache.place)[:, 0]
            else:
                qk = heads.narrow(1, 0, H + G)
                turned = torch.bmm(qk, turn)
                torch.mul(turned, self._inverse_rms(turned, D, config.qk_gain), out=qk)
                keys, values = cache.write_token(i, heads.narrow(1, H, 2 * G))
                q = heads.narrow(1, 0, H)
            y = kernels.decode_attention(q, keys, values, cache.lens_to_attend, window=layer.window)
            x = torch.addmm(x, y.view(B, H * D), layer.proj)
            x = torch.addmm(x, torch.mm(self._norm(x), layer.fc).relu_().square_(), layer.out)
            if i == config.n_layer // 2:
                middle = x
        if self._backout is not None:
            x = torch.addcmul(x, middle, self._backout)
        cache.end(1, ids.unsqueeze(1))
        return torch.mm(self._norm(x), self.head).float().div_(self._softcap).tanh_().mul_(self._softcap)

    def _norm(self, x: Tensor) -> Tensor:
        """gpt.norm."""
        y = x * self._inverse_rms(x, self.config.n_embd, 1.0)
        return y if y.dtype is x.dtype else y.to(x.dtype)

    def _inverse_rms(self, x: Tensor, channels: int, gain: float) -> Tensor:
        """gain / sqrt(mean(x^2) + EPSILON) over the last dimension, in as few calls as PyTorch has for it."""
        epsilon, share = self._epsilon[gain], 1 / (channels * gain * gain)
        size = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=epsilon.dtype)
        return torch.addcmul(epsilon, size, size, value=share).rsqrt_()

    def _rotation(self, cos: Tensor, sin: Tensor) -> Tensor:
        """The rotary turn of one position as a matrix (1 or B, D, D): one product turns every head, in every layer."""
        cos, sin = (torch.cat((table, table), dim=-1).squeeze(1) for table in (cos, sin))  # (1 or B, 1, D)
        return torch.addcmul(self._keep * cos, self._swap, sin)


def _layer_weights(model: GPT, layer: int) -> _Layer:
    """Collect one layer's tensors."""
    config, block = model.config, model.blocks[layer]
    attn, mlp, dtype = block.attn, block.mlp, model.wte.weight.dtype
    gate = attn.ve_gate  # there exactly where the layer has a value embedding
    return _Layer(
        qkv=_side_by_side([attn.c_q.weight.detach(), attn.c_k.weight.detach(), attn.c_v.weight.detach()]),
        proj=attn.c_proj.weight.detach().t(),
        fc=mlp.c_fc.weight.detach().t(),
        out=mlp.c_proj.weight.detach().t(),
        window=attn.window,
        resid=model.resid_lambdas.detach()[layer].to(dtype) if config.residual_lambdas else None,
        x0=model.x0_lambdas.detach()[layer].to(dtype) if config.residual_lambdas else None,
        bigram=model.bigram_lambdas.detach()[layer].to(dtype) if config.bigram else None,
        value=model.value_embed(layer).weight.detach() if gate is not None else None,
        gate=gate.weight.detach().t() if gate is not None else None,
    )


def _side_by_side(weights: list[Tensor]) -> Tensor:
    """Weights (out, in) as one matrix (in, sum of out): a view where they lie so already, else a copy.

    `GPT.lay_out_for_inference` lays them so; the memory is asked and not a flag, because loading, copying or replacing
    a parameter moves it.
    """
    first, offset = weights[0], weights[0].storage_offset()
    columns = sum(weight.size(0) for weight in weights)
    for weight in weights:
        same = weight.untyped_storage().data_ptr() == first.untyped_storage().data_ptr() and weight.dtype == first.dtype
        if not same or weight.stride() != (1, columns) or weight.storage_offset() != offset:
            return torch.cat([weight.t() for weight in weights], dim=1)
        offset += weight.size(0)
    return first.as_strided((first.size(1), columns), (columns, 1), first.storage_offset())
