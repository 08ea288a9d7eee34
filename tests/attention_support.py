"""Models whose heads are known: two built by hand, one that has learnt nothing."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from nanochat.checkpoint_manager import save_checkpoint
from nanochat.gpt import GPT, build
from nanochat.gpt_config import GPTConfig
from nanochat.tokenizer import Tokenizer
from tests.checkpoint_support import make_tokenizer, meta_of, tiny_weights

PLAIN = GPTConfig(
    sequence_len=64, vocab_size=265, n_layer=2, n_head=2, n_kv_head=2, n_embd=128, window_pattern=None, qk_gain=2.0,
    residual_lambdas=False, value_embeds=False, smear=False, backout=False,
)  # fmt: skip
CODE, BEFORE, ANSWER = slice(1, 33), slice(64, 96), slice(96, 128)  # channels: own token, the one before, what to say


@dataclass
class Loaded:
    """What the analysis needs of an opened checkpoint."""

    model: GPT
    tokenizer: Tokenizer


def loaded(config: GPTConfig, weights: dict[str, Tensor]) -> Loaded:
    return Loaded(build(config, weights), make_tokenizer())


def untrained() -> Loaded:
    torch.manual_seed(3)
    model = GPT(replace(PLAIN, qk_gain=1.2))
    model.init_weights()
    return loaded(model.config, model.state_dict())


def by_hand() -> Loaded:
    """Head 0.0 looks at the token before, head 1.0 at what followed its own token; 0.1 and 1.1 do nothing.

    A head of 64 channels rotates pair f = (f, f + 32) by position * 100000^(-f / 32). The first three pairs turn fast,
    so a query turned one step ahead of the keys meets the key before it. The last sixteen hardly turn: there, queries
    and keys compare codes.
    """
    weights = {name: torch.zeros(tensor.shape) for name, tensor in GPT(PLAIN).state_dict().items()}
    code = torch.randint(0, 2, (PLAIN.padded_vocab_size, 32), generator=torch.Generator().manual_seed(1)) * 2.0 - 1.0
    weights["transformer.wte.weight"][:, 0] = 4.0  # the same in every token
    weights["transformer.wte.weight"][:, CODE] = code
    first, second = ("transformer.h.0.attn.", "transformer.h.1.attn.")
    for pair in range(3):
        turn = torch.tensor(100_000.0 ** (-pair / 32))
        weights[first + "c_q.weight"][pair, 0] = turn.cos()
        weights[first + "c_q.weight"][pair + 32, 0] = turn.sin()
        weights[first + "c_k.weight"][pair, 0] = 1.0
    eye = torch.eye(32)
    weights[first + "c_v.weight"][:32, CODE] = eye
    weights[first + "c_proj.weight"][BEFORE, :32] = eye
    slow = [*range(16, 32), *range(48, 64)]
    weights[second + "c_q.weight"][slow, CODE] = eye
    weights[second + "c_k.weight"][slow, BEFORE] = eye
    weights[second + "c_v.weight"][:32, CODE] = eye
    weights[second + "c_proj.weight"][ANSWER, :32] = eye
    weights["lm_head.weight"][:, ANSWER] = code
    return loaded(PLAIN, weights)


def save_run(folder: Path, layers: int = 2, step: int = 10, **changes: int) -> Path:
    """A run with random weights, opened by pages and tools."""
    sizes = {"sequence_len": 64, "vocab_size": 265, "n_layer": layers, "n_head": 6, "n_kv_head": 6, "n_embd": 48}
    config = GPTConfig(**{**sizes, **changes})
    save_checkpoint(folder, step, tiny_weights(config), None, meta_of(config, step), tokenizer=make_tokenizer())
    return folder
