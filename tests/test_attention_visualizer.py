"""Where a model looks: the very weights it used, heads that are known, and what switching them off does."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
import torch.nn.functional as F

import kernels
from nanochat.analysis import attention_visualizer as attention
from nanochat.analysis.attention_visualizer import AttentionError
from nanochat.analysis.attention_visualizer.heads import probe
from nanochat.charts import attention_visualizer as charts
from nanochat.checkpoint_manager import load_model
from nanochat.gpt import GPT, Trace, build
from tests.attention_support import PLAIN, by_hand, loaded, untrained
from tests.support import fixture_dirs, needs_fixtures
from tests.variants import VARIANTS, random_weights

TEXT = "so it goes, so it goes"


@pytest.fixture(scope="module")
def hand():
    return by_hand()


@pytest.fixture(scope="module")
def report(hand):
    return attention.look(hand, TEXT)


def labels(frame: pl.DataFrame) -> dict[tuple[int, int], str]:
    return {(layer, head): label for layer, head, label, *_ in frame.iter_rows()}


@pytest.mark.parametrize("name", VARIANTS)
def test_the_weights_are_those_that_the_operation_used(name: str) -> None:
    """In every design: weights times values is what attention gave, windows and grouped heads included."""
    config = replace(VARIANTS[name][0], sequence_len=200)
    model, trace = build(config, random_weights(config, 1)), Trace()
    ids = torch.randint(config.vocab_size, (1, 180), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        model(ids, trace=trace)
    for layer, window in enumerate(config.windows):
        q, k, v = (part[layer] for part in (trace.queries, trace.keys, trace.values))
        values = v.repeat_interleave(config.n_head // config.n_kv_head, 2)
        mixed = torch.einsum("bhqk,bkhd->bqhd", trace.attention[layer], values)
        assert torch.allclose(mixed, kernels.attention(q, k, v, window=window), atol=1e-5)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_head_that_is_off_adds_nothing_and_the_model_stays_as_it_is(name: str) -> None:
    config = VARIANTS[name][0]
    weights = random_weights(config, 3)
    model, ids = build(config, dict(weights)), torch.arange(20)[None]
    D, layer, head = config.head_dim, config.n_layer - 1, config.n_head - 1
    cut = {key: value.clone() for key, value in weights.items()}
    cut[f"transformer.h.{layer}.attn.c_proj.weight"][:, head * D : (head + 1) * D] = 0.0
    with torch.no_grad():
        before = model(ids)
        off = model(ids, trace=Trace(off=frozenset({(layer, head)})))
        assert torch.allclose(off, build(config, cut)(ids), atol=1e-5)
        assert not torch.allclose(off, before, atol=1e-5)
        assert torch.equal(model(ids), before)


def test_a_look_says_what_the_model_computes(hand, report) -> None:
    assert report.tokens["text"][0] == "<|bos|>"
    assert report.tokens["text"][3] == "·"
    assert report.tokens["plain"][3] == " "
    ids = torch.tensor([report.ids])
    with torch.no_grad():
        logits = hand.model(ids)[0]
    assert report.loss == pytest.approx(float(F.cross_entropy(logits[:-1], ids[0, 1:])), abs=1e-5)
    assert np.allclose(report.probabilities, logits[-1].softmax(-1), atol=1e-6)
    assert np.allclose(report.weights.sum(-1), 1, atol=1e-5)


def test_the_top_is_sorted_and_the_mean_is_of_all_heads(report) -> None:
    found = attention.top(report, 1, None, k=3)
    mean = report.weights[1].mean(0)
    for query, rows in found.group_by("query", maintain_order=True):
        best = np.sort(mean[query[0], : query[0] + 1])[::-1][:3]
        assert np.allclose(rows["weight"], best)
        assert rows["rank"].to_list() == list(range(1, len(best) + 1))
    carried = attention.matrix(report, 0, 0, carried=True)
    expected = report.weights[0, 0] * report.value_norms[0, 0]
    assert np.allclose(carried, expected / expected.sum(1, keepdims=True), atol=1e-6)


def test_heads_built_by_hand_get_their_names(hand) -> None:
    named = labels(attention.label_heads(hand))
    assert named == {(0, 0): "previous token", (0, 1): "", (1, 0): "induction", (1, 1): ""}


def test_an_untrained_model_has_no_named_head() -> None:
    assert set(labels(attention.label_heads(untrained())).values()) == {""}


@pytest.mark.parametrize(
    ("test", "place"),
    [("previous token", lambda i: i - 1), ("first token", lambda i: 0), ("itself", lambda i: i),
     ("same token", lambda i: i - 6), ("induction", lambda i: i - 5)],
)  # fmt: skip
def test_each_score_is_one_for_a_head_that_does_just_that(test: str, place) -> None:
    ids = [0, *range(1, 7), *range(1, 7)]
    weights = np.zeros((1, 1, 13, 13))
    for i in range(13):
        weights[0, 0, i, max(place(i), 0)] = 1.0
    row = attention.scores(weights, ids, (-1,)).filter(pl.col("test") == test).row(0, named=True)
    assert row["score"] == 1.0
    assert 0 < row["chance"] < 0.3
    narrow = attention.scores(weights, ids, (3,)).filter(pl.col("test") == "induction").row(0, named=True)
    assert narrow["score"] is None, "a window of 3 does not reach what followed 5 back"


def test_textbook_heads_get_the_name_of_their_test() -> None:
    ids = [0, *range(1, 10), *range(1, 10)]
    weights = attention.textbook(ids)
    assert np.allclose(weights.sum(-1), 1)
    measured = attention.scores(weights, ids, (-1,))
    for head, test in enumerate(attention.TESTS):
        row = measured.filter(pl.col("head") == head, pl.col("test") == test).row(0, named=True)
        assert row["score"] == pytest.approx(1), test


def test_switching_off_the_induction_head_costs_more_than_any_other(hand) -> None:
    text = attention.look(hand, TEXT)
    effects = {heads: attention.without(hand, text, heads) for heads in (((1, 0),), ((1, 1),))}
    induction, nothing = effects[((1, 0),)], effects[((1, 1),)]
    assert induction.repeats[0] < 0.5
    assert induction.repeats[1] > induction.repeats[0] + 3
    assert nothing.repeats[1] == pytest.approx(nothing.repeats[0], abs=1e-5)
    assert induction.repeats[1] > induction.others[1], "more than as many others, on average"
    assert nothing.divergence == pytest.approx(0, abs=1e-6)
    assert induction.loss[0] == pytest.approx(text.loss, abs=1e-5)
    assert induction.loss[1] == pytest.approx(attention.look(hand, TEXT, {(1, 0)}).loss, abs=1e-5)
    assert induction.tokens["after"].drop_nulls().mean() == pytest.approx(induction.loss[1])
    before = attention.look(hand, TEXT).probabilities
    shown = induction.next_token
    assert np.allclose(shown["before"], before[shown["id"].to_list()], atol=1e-6)


def test_scores_fall_into_parts_that_sum_to_them(report) -> None:
    for layer, head, largest in ((0, 0, "position"), (1, 0, "match")):
        found = attention.parts(report, layer, head)
        q, k = report.queries[layer, head], report.keys[layer, head]
        assert np.allclose(sum(found.scores.values()), q @ k.T / q.shape[1] ** 0.5, atol=1e-4)
        assert sum(found.shares.values()) == pytest.approx(1, abs=1e-6)
        assert max(found.shares, key=found.shares.get) == largest
        for distance in range(1, 5):
            diagonal = np.diagonal(found.scores["position"], -distance)
            assert np.allclose(diagonal, diagonal[0], atol=1e-4), "position depends on the distance alone"
    assert attention.parts(report, 0, 0).overlap["position"] > 0.99
    assert attention.parts(report, 1, 1).shares["match"] is None, "a head without scores has nothing to share"


def test_special_names_in_the_text_stay_text(hand) -> None:
    report = attention.look(hand, "<|bos|>")
    assert report.tokens["special"].to_list() == [True] + [False] * 7
    chat = attention.look(hand, "hi", chat=True)
    assert chat.tokens["plain"].to_list() == [
        "<|bos|>",
        "<|user_start|>",
        "h",
        "i",
        "<|user_end|>",
        "<|assistant_start|>",
    ]


@pytest.mark.parametrize("text", ["🌍 émoji", "שלום \u202e", "\x00\x1b[31m", " " * 40, "\n\t"])
def test_any_text_has_a_look(hand, text: str) -> None:
    report = attention.look(hand, text)
    assert len(report.ids) == 1 + len(text.encode())
    assert all(word.isprintable() for word in (*report.tokens["text"], *report.tokens["plain"]))


def test_a_model_of_one_layer_and_one_head_works() -> None:
    config = replace(PLAIN, n_layer=1, n_head=1, n_kv_head=1, sequence_len=8)
    tiny = loaded(config, random_weights(config, 5))
    report = attention.look(tiny, "abc")
    assert report.shape == (1, 1, 4)
    assert attention.label_heads(tiny).height == 1
    effect = attention.without(tiny, report, {(0, 0)})
    assert effect.others == (None, None), "there are no other heads to compare with"


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda m, r: attention.look(m, ""), "the text is empty"),
        (lambda m, r: attention.look(m, "a" * 64), "65 tokens and this model takes 64"),
        (lambda m, r: attention.look(m, "a" * 100_001), "100,001 characters"),
        (lambda m, r: attention.look(m, "a", {(2, 0)}), "layers 0 to 1"),
        (lambda m, r: attention.look(m, "a", {(0, -1)}), "heads 0 to 1"),
        (lambda m, r: attention.top(r, 2), "layers 0 to 1"),
        (lambda m, r: attention.top(r, 0, 2), "heads 0 to 1"),
        (lambda m, r: attention.top(r, 0, 0, 0), "at least 1"),
        (lambda m, r: attention.without(m, r, ()), "no head is named"),
        (lambda m, r: attention.parts(r, 0, 7), "heads 0 to 1"),
    ],
)
def test_what_cannot_be_asked_is_one_sentence(hand, report, ask, said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        ask(hand, report)
    assert type(caught.value).__module__.startswith("nanochat.")
    assert "\n" not in str(caught.value)


def test_a_model_that_computes_nan_and_a_tiny_context_are_sentences() -> None:
    weights = random_weights(PLAIN, 1)
    weights["transformer.h.1.attn.c_q.weight"][0, 0] = torch.nan
    broken = loaded(PLAIN, weights)
    with pytest.raises(AttentionError, match="from layer 1 on"):
        attention.look(broken, "abc")
    with pytest.raises(AttentionError, match="no numbers"):
        attention.label_heads(broken)
    short = replace(PLAIN, sequence_len=4)
    with pytest.raises(AttentionError, match="too short to measure"):
        attention.label_heads(loaded(short, random_weights(short, 1)))


def test_charts_are_drawn_of_any_length(report) -> None:
    for T in (1, 5, 200):
        weights, seen = np.tril(np.ones((T, T))) / np.arange(1, T + 1)[:, None], attention.visible_keys(T, 150)
        specification = charts.heatmap(weights, ["<b>"] * T, seen, "x").to_dict()
        cells = next(iter(specification["datasets"].values()))
        assert len({(cell["from"], cell["to"]) for cell in cells}) == len(cells) <= 2080
    found = attention.top(report, 1, 0, 4)
    texts = report.tokens["text"].to_list()
    for query in (0, 1, len(texts) - 1):
        curves = charts.arcs(found.filter(pl.col("query") == query), texts, query).to_dict()
        assert len(curves["layer"]) == 2


@needs_fixtures
@pytest.mark.parametrize("base", fixture_dirs(), ids=lambda path: path.name)
def test_every_era_that_nanochat_left_can_be_looked_at(base) -> None:
    folder = next(iter(sorted((base / "base_checkpoints").iterdir())))
    real = load_model(folder)
    report = attention.look(real, "The capital of France is")
    assert np.allclose(report.weights.sum(-1), 1, atol=1e-4)
    assert attention.label_heads(real).height == report.shape[0] * report.shape[1]
    q, k = torch.tensor(report.queries[0]), torch.tensor(report.keys[0])
    redone = (q @ k.mT * q.shape[-1] ** -0.5).masked_fill(
        ~torch.tensor(attention.visible_keys(q.shape[1], report.windows[0])), -torch.inf
    )
    assert np.allclose(redone.softmax(-1), report.weights[0], atol=1e-5)


@pytest.mark.prove
def test_an_induction_head_grows_on_repetitions_and_is_what_they_need() -> None:
    """Train two layers on random tokens said twice; then take the named heads away, and as many others."""
    config = replace(PLAIN, n_head=4, n_kv_head=4, qk_gain=1.2)
    torch.manual_seed(0)
    model = GPT(config)
    model.init_weights()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.98), weight_decay=0.01)
    for step in range(500):
        half = torch.randint(0, 256, (16, 24))
        ids = torch.cat((torch.full((16, 1), 256), half, half), 1)
        targets = torch.cat((torch.full((16, 24), -1), ids[:, 25:]), 1)
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * min(1.0, (step + 1) / 50)
        optimizer.zero_grad()
        loss = model(ids[:, :-1], targets)
        loss.backward()
        optimizer.step()
        if loss.item() < 0.1:
            break
    trained = loaded(config, model.state_dict())
    named = labels(attention.label_heads(trained))
    induction = {head for head, label in named.items() if label == "induction"}
    assert induction, named
    report = attention.look(trained, TEXT)
    effect = attention.without(trained, report, induction)
    assert effect.repeats[1] > effect.repeats[0] + 1
    nameless = [head for head, label in named.items() if not label][: len(induction)]
    for others in (nameless, nameless[:1]):
        assert effect.repeats[1] > attention.without(trained, report, others).repeats[1]


def test_the_probe_is_always_the_same_and_has_no_special_token(hand) -> None:
    ids = probe(hand)
    assert torch.equal(ids, probe(hand))
    assert ids[:, 1:].max() < 256
    assert torch.equal(ids[:, 1:25], ids[:, 25:])
