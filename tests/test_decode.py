"""The straight line of decode.py is the forward pass of gpt.py, for any mixture of components."""

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.decode import Decoder
from nanochat.gpt import GPT, build
from nanochat.gpt_config import GPTConfig
from nanochat.kv_cache import KVCache
from tests.kernel_support import use_triton  # noqa: F401 - a fixture
from tests.model_support import configs, new_cache
from tests.variants import random_weights

LENGTHS = st.lists(st.integers(1, 20), min_size=1, max_size=3)


@settings(max_examples=60, deadline=None)
@given(config=configs(), lengths=LENGTHS, fused=st.booleans())
def test_single_tokens_give_the_logits_of_the_whole_text(config: GPTConfig, lengths: list[int], fused: bool) -> None:
    """Also for rows of different lengths, past windows and context, and for weights that are not fused."""
    agree(config, lengths, fused)


@settings(max_examples=30, deadline=None)
@given(config=configs(), lengths=LENGTHS)
def test_they_do_so_where_one_operation_turns_norms_and_stores(config: GPTConfig, lengths: list[int]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NANOCHAT_KERNELS_QK_PREP", "reference")
        agree(config, lengths, fused=True)


@pytest.mark.parametrize("lengths", [[7], [5, 9]])
@pytest.mark.usefixtures("use_triton")
def test_they_do_so_on_the_triton_kernels(lengths: list[int]) -> None:
    config = GPTConfig(
        sequence_len=64, vocab_size=50, n_layer=2, n_head=2, n_kv_head=1, n_embd=64, smear=True, qk_gain=1.2
    )
    agree(config, lengths, fused=True)


def agree(config: GPTConfig, lengths: list[int], fused: bool) -> None:
    """Four tokens written singly behind texts of these lengths, each as the whole text has it."""
    weights = random_weights(config, 1)
    model = GPT(config)
    model.load_state_dict(weights)
    model = build(config, weights) if fused else model.eval()
    generator = torch.Generator().manual_seed(sum(lengths))
    texts = [torch.randint(config.vocab_size, (1, length + 4), generator=generator) for length in lengths]
    decoder = Decoder(model)
    with torch.inference_mode():
        caches = []
        for text, length in zip(texts, lengths, strict=True):
            caches.append(new_cache(config))
            model.hidden(text[:, :length], caches[-1])
        cache = KVCache.join(caches)
        for step in range(4):
            ids = torch.cat([text[0, length + step].view(1) for text, length in zip(texts, lengths, strict=True)])
            logits = decoder.step(ids, cache)
            for row, (text, length) in enumerate(zip(texts, lengths, strict=True)):
                whole = model(text[:, : length + step + 1])[0, -1]
                assert torch.allclose(logits[row], whole, atol=2e-4)
    assert cache.lengths == [length + 4 for length in lengths]


def test_a_prompt_and_a_decoder_can_take_turns() -> None:
    """A chunk after single tokens continues what they wrote into the cache."""
    config = GPTConfig(sequence_len=64, vocab_size=50, n_layer=2, n_head=2, n_kv_head=1, n_embd=32)
    model = build(config, random_weights(config, 2))
    ids = torch.arange(12)[None]
    cache, decoder = new_cache(config), Decoder(model)
    with torch.inference_mode():
        model.hidden(ids[:, :4], cache)
        decoder.step(ids[:, 4], cache)
        last = model.logits(model.hidden(ids[:, 5:], cache))
        assert torch.allclose(last, model(ids)[:, 5:], atol=1e-4)


def test_a_model_in_bfloat16_runs_and_stays_near_float32() -> None:
    """As on a GPU: matrices in bfloat16, per-layer scales in float32; logits come out in float32 all the same."""
    config = GPTConfig(sequence_len=64, vocab_size=50, n_layer=3, n_head=2, n_kv_head=1, n_embd=32, bigram=True)
    weights = random_weights(config, 3)
    half = {name: weight.bfloat16() if weight.dim() > 1 else weight for name, weight in weights.items()}
    exact, model = build(config, weights), build(config, half)
    ids = torch.arange(12)[None]
    cache = KVCache(3, 1, 1, 16, dtype=torch.bfloat16, device="cpu")
    with torch.inference_mode():
        whole = model(ids)
        assert whole.dtype == torch.float32
        assert (whole - exact(ids)).abs().max() < 0.8  # of logits up to 15; bfloat16 keeps three digits
        model.hidden(ids[:, :-1], cache)
        step = Decoder(model).step(ids[:, -1], cache)
        assert step.dtype == torch.float32
        assert (step - whole[:, -1]).abs().max() < 0.8


def moved(model: GPT, how: str) -> GPT:
    """The model after something that gives its parameters other memory, changed a little where that is the point."""
    if how == "deepcopy":
        model = copy.deepcopy(model)
    elif how == "pickle":
        model = pickle.loads(pickle.dumps(model))
    elif how == "assign":
        model.load_state_dict(dict(random_weights(model.config, 99)), assign=True)
    elif how == "data":
        for block in model.blocks:
            block.attn.c_k.weight.data = block.attn.c_k.weight.data + 0.3
    elif how == "bfloat16":
        model.bfloat16()
    elif how == "float64":
        model.double()
    if how in ("deepcopy", "pickle"):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.05)
    return model


@pytest.mark.parametrize("how", ["nothing", "deepcopy", "pickle", "assign", "data", "bfloat16", "float64"])
def test_decoding_uses_the_weights_of_now(how: str) -> None:
    config = GPTConfig(sequence_len=64, vocab_size=50, n_layer=2, n_head=2, n_kv_head=1, n_embd=32)
    model = moved(build(config, random_weights(config, 4)), how)
    ids = torch.arange(10)[None]
    dtype = model.wte.weight.dtype
    cache = KVCache(2, 1, 1, 16, dtype=dtype, device="cpu")
    with torch.inference_mode():
        model.hidden(ids[:, :-1], cache)
        step = Decoder(model).step(ids[:, -1], cache)
        assert torch.allclose(step, model(ids)[:, -1], atol=0.3 if dtype == torch.bfloat16 else 1e-4)


def test_tiny_activations_are_normed_with_upstreams_epsilon() -> None:
    """Where x is as small as the epsilon, its place in the formula matters, and so does the gain's."""
    config = GPTConfig(sequence_len=64, vocab_size=50, n_layer=2, n_head=2, n_kv_head=1, n_embd=32, smear=False)
    weights = random_weights(config, 5)
    for name in weights:
        if "c_q" in name or "c_k" in name or "wte" in name:
            weights[name] = weights[name] * 2e-4
    model = build(config, weights)
    ids = torch.arange(10)[None]
    cache = new_cache(config)
    with torch.inference_mode():
        model.hidden(ids[:, :-1], cache)
        assert torch.allclose(Decoder(model).step(ids[:, -1], cache), model(ids)[:, -1], atol=1e-4)
