"""The plain eager training step that nanochat/benchmarks/training.py compares with: the newest architecture and Muon
with AdamW, as one first writes them, from PyTorch's own operations, one after the other.

It works on the parameters of a `GPT`, so that both sides start from the same weights, and on nothing else of it.

    python -m nanochat.benchmarks.training
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanochat.gpt import GPT

# The polynomials of Muon's five iterations towards an orthogonal matrix (Amsel et al. 2025, arXiv 2505.16932).
POLAR_EXPRESS = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)


def linear(layer: nn.Linear, x: Tensor) -> Tensor:
    """A matrix whose float32 weights are cast to the format of its input where it is used."""
    return F.linear(x, layer.weight.to(x.dtype))


def norm(x: Tensor) -> Tensor:
    """RMS norm without scale."""
    return F.rms_norm(x, (x.size(-1),))


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions on (B, T, heads, D)."""
    x1, x2 = x.chunk(2, dim=-1)
    return torch.cat([x1 * cos + x2 * sin, -x1 * sin + x2 * cos], -1)


def plain_loss(model: GPT, ids: Tensor, targets: Tensor, dtype: torch.dtype) -> Tensor:
    """Mean cross-entropy in nats of ids and targets (B, T), computed in `dtype`."""
    c, (B, T) = model.config, ids.shape
    cos, sin = (table[:, :T].to(dtype) for table in model.rope(T, ids.device))
    position = torch.arange(T)
    x = norm(model.wte(ids).to(dtype))
    gate = model.smear_lambda.to(dtype) * torch.sigmoid(linear(model.smear_gate, x[:, 1:, : c.smear_channels]))
    x = torch.cat([x[:, :1], x[:, 1:] + gate * x[:, :-1]], dim=1)
    x0 = middle = x
    for i, block in enumerate(model.blocks):
        x = model.resid_lambdas[i] * x + model.x0_lambdas[i] * x0
        h, a = norm(x), block.attn
        q, k, v = (linear(layer, h).view(B, T, -1, c.head_dim) for layer in (a.c_q, a.c_k, a.c_v))
        if a.ve_gate is not None:
            opened = c.gate_scale * torch.sigmoid(linear(a.ve_gate, h[..., : c.gate_channels]))
            v = v + opened.unsqueeze(-1) * model.value_embed(i)(ids).to(dtype).view(v.shape)
        q, k = norm(rotate(q, cos, sin)) * c.qk_gain, norm(rotate(k, cos, sin)) * c.qk_gain
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)  # (B, heads, T, D)
        if 0 <= a.window < T:
            distance = position[:, None] - position
            mask = (distance >= 0) & (distance <= a.window)
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        else:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + linear(a.c_proj, y.transpose(1, 2).reshape(B, T, -1))
        x = x + linear(block.mlp.c_proj, F.relu(linear(block.mlp.c_fc, norm(x))).square())
        middle = x if i == c.n_layer // 2 else middle
    x = norm(x - model.backout_lambda.to(dtype) * middle)
    logits = linear(model.lm_head, x)[..., : c.vocab_size].float()
    logits = c.softcap * torch.tanh(logits / c.softcap)
    return F.cross_entropy(logits.view(-1, logits.size(-1)), targets.view(-1), ignore_index=-1)


class PlainMuon:
    """Momentum, then five products towards an orthogonal matrix, matrix by matrix; in bfloat16 where the run is."""

    def __init__(self, matrices: list[nn.Parameter], dtype: torch.dtype, lr: float = 0.02) -> None:
        self.matrices, self.dtype, self.lr = matrices, dtype, lr
        self.momentum = [torch.zeros_like(m) for m in matrices]

    @torch.no_grad()
    def step(self) -> None:
        """One step on every matrix."""
        for matrix, momentum in zip(self.matrices, self.momentum, strict=True):
            assert matrix.grad is not None
            momentum.lerp_(matrix.grad, 0.05)
            x = matrix.grad.lerp(momentum, 0.95).to(self.dtype)
            x = x / (x.norm() * 1.01 + 1e-6)
            tall = x.size(0) > x.size(1)
            for a, b, c in POLAR_EXPRESS:
                gram = x.mT @ x if tall else x @ x.mT
                square = b * gram + c * (gram @ gram)
                x = a * x + (x @ square if tall else square @ x)
            matrix.sub_(x.to(matrix.dtype), alpha=self.lr * max(1.0, x.size(0) / x.size(1)) ** 0.5)


class PlainOptimizer:
    """Muon for the layers' matrices and torch's AdamW for the rest, with a rate for each kind of parameter."""

    def __init__(self, model: GPT, dtype: torch.dtype) -> None:
        self.parameters = list(model.parameters())
        matrices = [p for p in model.transformer["h"].parameters() if p.ndim == 2]
        chosen = {id(p) for p in matrices}
        rest = [p for p in self.parameters if id(p) not in chosen]
        self.muon = PlainMuon(matrices, dtype)
        self.adamw = torch.optim.AdamW([{"params": [p], "lr": 4e-3} for p in rest], betas=(0.8, 0.95), eps=1e-10)

    def step(self) -> None:
        """One step, then the gradients go."""
        self.muon.step()
        self.adamw.step()
        for parameter in self.parameters:
            parameter.grad = None
