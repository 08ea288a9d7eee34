"""Models for tests: any mixture of components, and the cache that fits one."""

import torch
from hypothesis import strategies as st

from nanochat.gpt_config import GPTConfig
from nanochat.kv_cache import KVCache


@st.composite
def configs(draw: st.DrawFn) -> GPTConfig:
    """Any mixture of components, also those that no era had together."""
    n_kv_head = draw(st.sampled_from([1, 2]))
    return GPTConfig(
        sequence_len=draw(st.sampled_from([8, 16, 64])),
        vocab_size=draw(st.integers(5, 70)),
        n_layer=draw(st.integers(1, 4)),
        n_head=n_kv_head * draw(st.sampled_from([1, 2])),
        n_kv_head=n_kv_head,
        n_embd=draw(st.sampled_from([32, 64])),
        window_pattern=draw(st.sampled_from([None, "L", "SSSL", "S"])),
        short_window=draw(st.sampled_from([None, 0, 3])),
        vocab_multiple=draw(st.sampled_from([1, 64])),
        rope_bfloat16=draw(st.booleans()),
        residual_lambdas=draw(st.booleans()),
        value_embeds=draw(st.booleans()),
        smear=draw(st.booleans()),
        backout=draw(st.booleans()),
        bigram=draw(st.booleans()),
    )


def new_cache(config: GPTConfig, rows: int = 1) -> KVCache:
    return KVCache(config.n_layer, rows, config.n_kv_head, config.head_dim, dtype=torch.float32, device="cpu")
