"""The model: what every configuration must satisfy, whichever components it has."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import kernels
from nanochat.gpt import GPT, Trace, build, norm, parameter_shapes
from nanochat.gpt_config import LIMITS, ConfigError, GPTConfig
from nanochat.kv_cache import STEP, KVCache
from tests.model_support import configs, new_cache
from tests.variants import VARIANTS, random_weights

TINY = GPTConfig(sequence_len=64, vocab_size=50, n_layer=2, n_head=2, n_kv_head=1, n_embd=32)


@settings(max_examples=30, deadline=None)
@given(config=configs(), data=st.data())
def test_a_cached_text_gives_the_logits_of_the_whole_text(config: GPTConfig, data: st.DataObject) -> None:
    """However the text is cut into a prompt, later chunks and single tokens, also past the context."""
    model = build(config, random_weights(config, 1))
    length = data.draw(st.integers(2, 24))
    ids = torch.randint(config.vocab_size, (2, length), generator=torch.Generator().manual_seed(length))
    with torch.inference_mode():
        whole = model(ids)
        cache, position = new_cache(config, rows=2), 0
        while position < length:
            count = data.draw(st.integers(1, length - position))
            part = model.logits(model.hidden(ids[:, position : position + count], cache))
            assert torch.allclose(part, whole[:, position : position + count], atol=2e-4)
            position += count
    assert cache.lengths == [length, length]


@settings(max_examples=30, deadline=None)
@given(config=configs(), position=st.integers(1, 15))
def test_no_token_sees_a_later_one(config: GPTConfig, position: int) -> None:
    model = build(config, random_weights(config, 2))
    ids = torch.randint(config.vocab_size, (1, 16), generator=torch.Generator().manual_seed(position))
    changed = ids.clone()
    changed[0, position:] = (changed[0, position:] + 1) % config.vocab_size
    with torch.no_grad():
        before, after = model(ids), model(changed)
    assert torch.equal(before[:, :position], after[:, :position])
    assert not torch.equal(before[:, position:], after[:, position:])


def test_a_window_of_w_keeps_w_plus_one_keys() -> None:
    config = replace(TINY, n_layer=1, sequence_len=5, smear=False, window_pattern="L")
    model = build(config, random_weights(config, 3))
    ids = torch.arange(10)[None]
    with torch.no_grad():
        base = model(ids)[0, -1]
        seen = []
        for position in range(10):
            changed = ids.clone()
            changed[0, position] = 40
            seen.append(not torch.equal(model(changed)[0, -1], base))
    assert seen == [False] * 4 + [True] * 6  # W = 5: the last token and the five before it


@pytest.mark.parametrize("name", VARIANTS)
def test_a_trace_holds_what_was_used_and_changes_nothing(name: str) -> None:
    config, _ = VARIANTS[name]
    model = build(config, random_weights(config, 4))
    ids = torch.arange(20)[None]
    trace = Trace()
    with torch.no_grad():
        assert torch.equal(model(ids, trace=trace), model(ids))
    assert [tuple(a.shape) for a in trace.attention] == [(1, config.n_head, 20, 20)] * config.n_layer
    assert len(trace.residual) == config.n_layer + 1
    for weights in trace.attention:
        assert torch.allclose(weights.sum(-1), torch.ones(1, config.n_head, 20), atol=1e-5)
        assert weights.triu(1).abs().max() == 0


def test_the_trace_of_a_cached_token_covers_every_key() -> None:
    model = build(TINY, random_weights(TINY, 5))
    ids = torch.arange(9)[None]
    whole, step = Trace(), Trace()
    with torch.inference_mode():
        model(ids, trace=whole)
        cache = new_cache(TINY)
        model.hidden(ids[:, :-1], cache)
        model.hidden(ids[:, -1:], cache, trace=step)
    for every, last in zip(whole.attention, step.attention, strict=True):
        assert torch.allclose(every[:, :, -1:], last, atol=1e-5)


def test_the_layout_for_inference_keeps_the_state_dict_and_the_memory() -> None:
    weights = random_weights(TINY, 6)
    model = build(TINY, dict(weights))
    assert list(model.state_dict()) == list(weights)
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert all(value.is_contiguous() for value in model.state_dict().values())
    attn = model.blocks[0].attn
    assert attn.c_k.weight.untyped_storage().data_ptr() == attn.c_q.weight.untyped_storage().data_ptr()
    plain = GPT(TINY)
    plain.load_state_dict(weights)
    with torch.no_grad():
        assert torch.allclose(plain(torch.arange(9)[None]), model(torch.arange(9)[None]), atol=1e-5)


def test_building_leaves_the_callers_state_dict_as_it_was() -> None:
    """torch marks a state dict that was loaded by assignment, and later loads of it would share memory."""
    model = GPT(TINY)
    state = model.state_dict()
    build(TINY, state)
    other = GPT(TINY)
    other.load_state_dict(state)
    assert other.lm_head.weight.data_ptr() != model.lm_head.weight.data_ptr()


def test_it_runs_under_autocast_and_in_float64() -> None:
    weights = random_weights(TINY, 11)
    ids = torch.arange(9)[None]
    with torch.no_grad():
        exact = build(TINY, {name: weight.double() for name, weight in weights.items()})(ids)
        assert (build(TINY, dict(weights))(ids) - exact).abs().max() < 1e-4
    model = GPT(TINY)
    model.load_state_dict(weights)
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(ids[:, :-1], ids[:, 1:])
    loss.backward()
    assert torch.isfinite(model.blocks[0].attn.c_q.weight.grad).all()


def test_the_rotary_table_follows_the_models_format() -> None:
    model = build(TINY, random_weights(TINY, 12))
    model(torch.arange(4)[None])
    model.bfloat16()
    assert model.rope(4, torch.device("cpu"))[0].dtype == torch.bfloat16


def test_starting_weights_are_nanochats() -> None:
    model = GPT(GPTConfig(sequence_len=64, vocab_size=1000, n_layer=5, n_head=4, n_kv_head=4, n_embd=256, bigram=True))
    torch.manual_seed(0)
    for parameter in model.parameters():
        parameter.data.fill_(7.0)
    model.init_weights()
    block = model.blocks[0]
    assert block.attn.c_q.weight.var().item() == pytest.approx(1 / 256, rel=0.05)
    assert block.attn.c_q.weight.abs().max().item() <= (3 / 256) ** 0.5
    assert block.mlp.c_fc.weight.std().item() == pytest.approx(0.4 / 16, rel=0.05)
    assert block.attn.c_proj.weight.abs().max() == block.mlp.c_proj.weight.abs().max() == 0
    assert model.wte.weight.std().item() == pytest.approx(0.8, rel=0.05)
    assert model.lm_head.weight.std().item() == pytest.approx(0.001, rel=0.05)
    assert model.resid_lambdas.tolist() == pytest.approx([1.15, 1.125, 1.1, 1.075, 1.05])
    assert model.x0_lambdas.tolist() == pytest.approx([0.2, 0.1625, 0.125, 0.0875, 0.05])
    assert (model.smear_lambda.item(), model.backout_lambda.item()) == (0.0, pytest.approx(0.2))
    assert model.bigram_embed.embed.weight.abs().max() == model.bigram_lambdas.abs().max() == 0
    assert 0 <= model.smear_gate.weight.min() <= model.smear_gate.weight.max() <= 0.02


def test_a_new_model_begins_as_the_identity_at_a_loss_of_ln_v() -> None:
    model = GPT(GPTConfig(sequence_len=64, vocab_size=1000, n_layer=3, n_head=2, n_kv_head=2, n_embd=64))
    torch.manual_seed(0)
    model.init_weights()
    ids = torch.randint(1000, (2, 33))
    loss = model(ids[:, :-1], ids[:, 1:])
    assert loss.item() == pytest.approx(torch.log(torch.tensor(1000.0)).item(), abs=0.02)
    loss.backward()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in model.parameters())
    assert model.lm_head.weight.grad.abs().max() > 0


def test_ignored_targets_have_no_loss() -> None:
    model = build(TINY, random_weights(TINY, 7))
    ids = torch.arange(8)[None]
    targets = torch.tensor([[1, -1, 3, -1, 5, -1, 7, 8]])
    each = model(ids, targets, reduction="none")
    assert (each == 0).tolist() == [False, True, False, True, False, True, False, False]
    assert model(ids, targets).item() == pytest.approx(each.sum().item() / 5, rel=1e-5)


def test_absurd_scales_from_disk_load_and_keep_the_first_token_clean() -> None:
    """For a month upstream left smear and backout uninitialised; the first token has nothing to smear, in any case."""
    weights = random_weights(TINY, 8)
    ids, firsts = torch.arange(4)[None], []
    for absurd in (0.0, 1e10):
        weights["smear_lambda"] = torch.tensor([absurd])
        with torch.no_grad():
            logits = build(TINY, weights)(ids)
        assert torch.isfinite(logits).all()
        firsts.append(logits[0, 0])
    assert torch.equal(*firsts)


@pytest.mark.parametrize("name", LIMITS)
@pytest.mark.parametrize("value", [0, -1, 2**40, 1.5, "12", True, None])
def test_sizes_out_of_bounds_are_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=name) as caught:
        GPTConfig(**{name: value})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"n_embd": 100, "n_head": 3, "n_kv_head": 3}, "n_embd"),
        ({"n_embd": 30, "n_head": 10, "n_kv_head": 10}, "even"),
        ({"n_head": 6, "n_kv_head": 4}, "n_kv_head"),
        ({"window_pattern": "SXL"}, "window_pattern"),
        ({"window_pattern": ""}, "window_pattern"),
        ({"n_embd": 16, "n_head": 2, "n_kv_head": 2}, "channels"),
    ],
)
def test_impossible_configurations_say_why(fields: dict, word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        GPTConfig(**fields)


def test_shapes_are_known_without_allocating_a_weight() -> None:
    shapes = parameter_shapes(GPTConfig(n_layer=2, n_embd=2**17, n_head=1024, n_kv_head=1024, vocab_size=2**20))
    assert shapes["transformer.wte.weight"] == (2**20, 2**17)


def test_norm_is_upstreams_in_every_format() -> None:
    x = torch.randn(4, 8) * 1e-3
    assert torch.allclose(norm(x), x / (x.square().mean(-1, keepdim=True) + 1.1920928955078125e-07).sqrt(), atol=1e-6)
    assert norm(x.bfloat16()).dtype == torch.bfloat16


def test_a_cache_grows_in_steps_and_refuses_ragged_chunks() -> None:
    config = TINY
    model = build(config, random_weights(config, 9))
    with torch.inference_mode():
        caches = []
        for count in (3, 5):
            cache = new_cache(config)
            model.hidden(torch.arange(count)[None], cache)
            caches.append(cache)
        joined = KVCache.join(caches)
        assert (joined.capacity, joined.lengths, joined.ragged) == (STEP, [3, 5], True)
        with pytest.raises(ValueError, match="one length"):
            model.hidden(torch.arange(4).view(2, 2), joined)
        assert joined.select([1, 1]).lengths == [5, 5]


def test_the_rotary_table_grows_and_keeps_its_values() -> None:
    model = build(TINY, random_weights(TINY, 10))
    before = model.rope(10, torch.device("cpu"))[0][:, :10].clone()
    assert model.rope(1000, torch.device("cpu"))[0].size(1) >= 1000
    assert torch.equal(model.rope(10, torch.device("cpu"))[0][:, :10], before)


def test_attention_goes_through_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    called = []
    real = kernels.attention
    monkeypatch.setattr(kernels, "attention", lambda *a, **k: called.append(k["window"]) or real(*a, **k))
    build(VARIANTS["2026_03_smear"][0], random_weights(VARIANTS["2026_03_smear"][0], 0))(torch.arange(5)[None])
    assert called == [128, 128, 256]
