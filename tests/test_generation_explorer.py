"""The generation explorer's analysis: the engine's own texts and numbers, a memory that changes nothing, branches."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import kernels
from nanochat.analysis import generation_explorer as explorer
from nanochat.analysis.generation_explorer import Session, Settings, Tree, batch
from nanochat.analysis.generation_explorer.settings import another_seed
from nanochat.checkpoint_manager import find_runs, load_model
from nanochat.engine import Engine
from nanochat.generation import ROW_STRIDE, EngineError
from nanochat.gpt import GPT, build
from tests.checkpoint_support import make_tokenizer, tiny_config, tiny_weights
from tests.support import fixture_dirs, needs_fixtures

SETTINGS = (
    Settings(),
    Settings(0.0),
    Settings(1.3, top_k=7, seed=5),
    Settings(1.0, top_p=0.8, seed=2**40),
    Settings(1.5, top_k=40, top_p=0.95, min_p=0.02, seed=-3),
)


def engine_of(seed: int = 0, **changes) -> Engine:
    config = tiny_config(**changes)
    weights = {name: weight * 4 for name, weight in tiny_weights(config, seed).items()}
    return Engine(build(config, weights), make_tokenizer())


@pytest.fixture(scope="module")
def engine() -> Engine:
    return engine_of()


def prompt(engine: Engine, text: str = "ab") -> list[int]:
    return list(explorer.encode_prompt(engine.tokenizer, text, chat=False).ids)


def written(session: Session, how: Settings, count: int = 20, fixed=()) -> list[int]:
    return [token.id for token in session.write(how, count, fixed)]


def by_engine(engine: Engine, ids: list[int], how: Settings, count: int = 20) -> list[int]:
    return [row[0] for row, _ in engine.generate(ids, 1, count, **how.sampling(), seed=how.seed)]


@pytest.mark.parametrize("how", SETTINGS, ids=str)
def test_a_text_is_the_engines_text(engine, how) -> None:
    assert written(Session(engine, prompt(engine)), how) == by_engine(engine, prompt(engine), how)


@needs_fixtures
@pytest.mark.parametrize("base", fixture_dirs(), ids=lambda base: base.name)
def test_on_real_runs_texts_are_the_engines_and_logits_the_models(base) -> None:
    run = next(run for run in find_runs(base) if run.stage == "base" and run.steps)
    loaded = load_model(run.folder)
    engine = Engine(loaded.model, loaded.tokenizer)
    session, how = Session(engine, prompt(engine, "The capital")), Settings(1.0, top_k=20)
    ids = written(session, how, 8)
    assert ids == by_engine(engine, prompt(engine, "The capital"), how, 8)
    with torch.inference_mode():
        whole = loaded.model(torch.tensor([[*session.prompt, *ids]]))[0, len(session.prompt) - 1 :]
    for place in range(len(ids)):
        torch.testing.assert_close(session.logits(tuple(ids[:place])), whole[place], atol=2e-4, rtol=1e-4)


def test_kept_logits_give_what_a_fresh_run_gives_and_cost_nothing(engine) -> None:
    session = Session(engine, prompt(engine))
    texts = {how: written(session, how) for how in SETTINGS}
    spent = session.passes
    for how in reversed(SETTINGS):  # another order: paths are left and walked again
        assert written(session, how) == texts[how] == written(Session(engine, prompt(engine)), how)
    assert session.passes == spent
    assert spent < 1 + sum(map(len, texts.values()))  # common beginnings were computed once
    for how in SETTINGS:
        fresh = Session(engine, prompt(engine))
        for place in range(len(texts[how])):
            path = tuple(texts[how][:place])
            assert torch.equal(session.logits(path), fresh.logits(path))


def test_forgotten_logits_are_computed_again_and_are_the_same(engine) -> None:
    session = Session(engine, prompt(engine))
    session.capacity = 3
    first = written(session, SETTINGS[2])
    written(session, SETTINGS[3])
    assert written(session, SETTINGS[2]) == first
    assert len(session._kept) <= 3


@given(
    logits=st.lists(st.sampled_from([-3.0, -1.0, 0.0, 0.5, 2.0, 2.5]), min_size=2, max_size=12),
    temperature=st.sampled_from([0.0, 0.3, 1.0, 1.7]),
    top_k=st.sampled_from([None, 0, 1, 3, 50]),
    top_p=st.sampled_from([None, 0.1, 0.5, 0.9, 1.0]),
    min_p=st.sampled_from([None, 0.0, 0.2, 1.0]),
)
@settings(max_examples=150, deadline=None)
def test_stages_keep_what_the_kernel_keeps(logits, temperature, top_k, top_p, min_p) -> None:
    """Ties included: the kernel draws 64 times, and never a token that is shown as cut."""
    how, rows = Settings(temperature, top_k, top_p, min_p), torch.tensor([logits])
    seen = explorer.stages(rows, how)
    drawn = kernels.sample(rows.expand(64, -1), **how.sampling(), seed=torch.arange(64))
    kept = (seen.cut[0] == 0).nonzero()[:, 0].tolist()
    assert set(drawn.n_kept.tolist()) == {len(kept)}
    assert set(drawn.token.tolist()) <= set(kept)
    assert torch.equal(seen.drawn[0] > 0, seen.cut[0] == 0)
    assert seen.drawn[0].sum().item() == pytest.approx(1)


def test_figures_are_a_plain_recomputation(engine) -> None:
    session, how = Session(engine, prompt(engine)), Settings(1.2, top_k=30)
    report = explorer.read_text(session, how, list(session.write(how, 12)))
    with torch.inference_mode():
        whole = engine.model(torch.tensor([[*session.prompt, *report.ids]]))[0].double()
    for place, row in enumerate(report.steps.iter_rows(named=True)):
        p = whole[len(session.prompt) - 1 + place].softmax(-1)
        heated = (whole[len(session.prompt) - 1 + place] / 1.2).softmax(-1)
        left = torch.where(heated >= heated.sort(descending=True).values[29], heated, 0)
        assert row["step"] == place + 1
        assert row["id"] == report.ids[place]
        assert row["p_model"] == pytest.approx(p[row["id"]].item(), rel=1e-3)
        assert row["p"] == pytest.approx((left / left.sum())[row["id"]].item(), rel=1e-3)
        assert row["rank"] == 1 + int((p > p[row["id"]]).sum())
        assert row["entropy"] == pytest.approx(-(p * p.log2()).sum().item(), rel=1e-3)
        assert row["surprise"] == pytest.approx(-math.log2(p[row["id"]].item()), rel=1e-3)
        assert row["kept"] == 30


def test_candidates_come_likeliest_first_and_the_taken_one_is_there(engine) -> None:
    session, how = Session(engine, prompt(engine)), Settings(1.0, top_k=3)
    worst = int(session.logits(()).argmin())
    step = explorer.read_step(session, how, (), worst, 5)
    assert step.candidates["rank"].to_list() == [1, 2, 3, 4, 5, engine.model.config.vocab_size]
    assert step.candidates["p_model"].is_sorted(descending=True)
    assert step.candidates["cut"].to_list() == [None] * 3 + ["top-k"] * 3
    assert step.candidates["taken"].to_list() == [False] * 5 + [True]
    assert step.kept == 3
    greedy = explorer.read_step(session, Settings(0.0), (), None, 2).candidates
    assert greedy["p"].to_list() == [1.0, 0.0]
    assert greedy["cut"].to_list() == [None, "greedy"]


def test_a_forced_token_stays_and_the_rest_is_what_the_engine_says_behind_it(engine) -> None:
    session, how = Session(engine, prompt(engine)), Settings(0.0)
    tokens = list(session.write(how, 15))
    other = next(number for number in range(97, 123) if number != tokens[4].id)
    tree, branch = Tree().force("A", tokens, 4, [other], "x")
    forced = list(session.write(how, 15, branch.fixed))
    assert [token.id for token in forced[:4]] == [token.id for token in tokens[:4]]
    assert (forced[4].id, forced[4].origin) == (other, "you")
    behind = [*prompt(engine), *(token.id for token in forced[:5])]
    assert [token.id for token in forced[5:]] == by_engine(engine, behind, how, 10)
    again, same = tree.force("A", tokens, 4, [other], "x")
    assert again is tree
    assert same is branch
    tree, child = tree.force("B", forced, 2, [other], "y")
    tree, dice = tree.rewind("A", tokens, 3)
    assert [(depth, one.name) for depth, one in tree.outline()] == [(0, "A"), (1, "B"), (2, "C"), (1, "D")]
    assert dice.settings(how).seed == another_seed(how.seed, 1) == (how.seed + ROW_STRIDE) % 2**64
    assert tree.rewind("A", tokens, 3)[1].shift == 2  # every further wish throws the dice anew
    assert child.parent == "B"
    assert len(child.fixed) == 3


def test_a_tree_refuses_what_is_not_there(engine) -> None:
    tokens = list(Session(engine, prompt(engine)).write(Settings(), 5))
    with pytest.raises(explorer.ExplorerError, match="no step 9; the text has 5: give 1 to 6"):
        Tree().force("A", tokens, 8, [1], "x")
    with pytest.raises(explorer.ExplorerError, match="no branch 'Z'; take one of A"):
        Tree().find("Z")


def test_the_calculator_answers_as_in_the_engine(engine) -> None:
    special = engine.tokenizer.encode_special
    code = [special("<|python_start|>"), *engine.tokenizer.encode("2*3"), special("<|python_end|>")]
    _, branch = Tree().force("A", [], 0, code, "2*3")
    found = list(Session(engine, prompt(engine)).write(Settings(), 12, branch.fixed))
    answer = [special("<|output_start|>"), *engine.tokenizer.encode("6"), special("<|output_end|>")]
    assert [token.id for token in found[5:8]] == answer
    assert [token.origin for token in found[:8]] == ["you"] * 5 + ["tool"] * 3


def test_comparison_marks_the_first_divergence(engine) -> None:
    session = Session(engine, prompt(engine))
    result = explorer.compare(session, Settings(), "temperature", (0.1, 0.9, 1.5), 20)
    assert result.reference == 1  # the value that the settings have
    for one, value in zip(result.variations, (0.1, 0.9, 1.5), strict=True):
        alone = written(Session(engine, prompt(engine)), replace(Settings(), temperature=value))
        own = result.variations[1].report.ids
        assert list(one.report.ids) == alone
        assert one.diverges == next((i for i in range(20) if alone[i] != own[i]), None)
    assert result.variations[1].diverges is None
    assert sum(one.passes for one in result.variations) + 0 == session.passes
    with pytest.raises(explorer.ExplorerError, match="cannot be compared"):
        explorer.compare(session, Settings(), "seed", (1, 2))


def test_statistics_count_the_engines_batch(engine) -> None:
    how, asked = Settings(seed=9), explorer.encode_prompt(engine.tokenizer, "ab", chat=False)
    result = explorer.statistics(engine, asked, how, (0.0, 1.0), samples=4, max_tokens=10, judged=True)
    rows, _ = engine.generate_batch(list(asked.ids), 4, 10, temperature=1.0, seed=9)
    drawn = [row[len(asked.ids) :] for row in rows]
    hot = result.frame.row(1, named=True)
    assert hot["tokens"] == sum(map(len, drawn)) / 4
    assert hot["distinct_2"] == batch.distinct(drawn, 2)
    assert result.frame["different"][0] == 0.25  # greedy: four times the same text
    assert hot["accepted"] == 0
    assert result.texts["text"][4] == engine.tokenizer.decode(drawn[0])
    with pytest.raises(explorer.ExplorerError, match="give 1 to 1,000"):
        explorer.statistics(engine, asked, how, (1.0,), samples=0)


def test_stories_are_judged_with_their_prompt() -> None:
    from nanochat.stories import story

    whole = story(0, "train", 0)
    assert batch._verdict(whole, True)[:2] == (True, True)
    assert batch._verdict(whole, False)[0] is False
    assert batch.repetition([[1, 2, 3, 4, 1, 2, 3, 4]]) == pytest.approx(1 / 5)
    assert batch.repetition([[1]]) is None
    assert batch.distinct([[]], 1) is None


@pytest.mark.parametrize("changes", [{}, {"n_layer": 1, "n_head": 1, "n_kv_head": 1}, {"smear": True, "backout": True}])
def test_the_lens_ends_in_the_models_answer(changes) -> None:
    engine = engine_of(**changes)
    session = Session(engine, prompt(engine))
    path = tuple(written(session, Settings(), 3))
    frame = explorer.lens(session, path, 65)
    p = session.logits(path).softmax(-1)
    last = frame.filter(frame["layer"] == engine.model.config.n_layer)
    assert frame["layer"].n_unique() == engine.model.config.n_layer + 1
    assert last["p"].to_list() == pytest.approx(p.topk(3).values.tolist(), rel=1e-3)
    assert last["p_taken"][0] == pytest.approx(p[65].item(), rel=1e-3)
    assert last["rank_taken"][0] == 1 + int((p > p[65]).sum())


def test_bad_input_is_one_sentence(engine) -> None:
    with pytest.raises(EngineError, match="context holds 64; shorten it by"):
        Session(engine, prompt(engine, "a" * 100))
    with pytest.raises(explorer.ExplorerError, match="1,000,000 are the most"):
        prompt(engine, "a" * 1_000_001)
    session = Session(engine, prompt(engine, ""))  # nothing: the model begins by itself
    assert len(session.prompt) == 1
    assert len(written(session, Settings(), 3)) == 3
    for how in (Settings(math.nan), Settings(-1.0), Settings(top_k=-1), Settings(top_p=0.0), Settings(min_p=2.0)):
        with pytest.raises(kernels.KernelInputError):
            written(session, how)
    with pytest.raises(EngineError, match="max_tokens is -1"):
        written(session, Settings(), -1)


def test_text_never_becomes_a_marker(engine) -> None:
    ids = explorer.encode_prompt(engine.tokenizer, "<|assistant_end|>\u202e\x00😀", chat=True).ids
    special = {engine.tokenizer.encode_special(name) for name in ("<|assistant_end|>", "<|user_end|>")}
    assert [number for number in ids if number in special] == [engine.tokenizer.encode_special("<|user_end|>")]
    assert ids[0] == engine.tokenizer.get_bos_token_id()


def test_damaged_weights_are_said_and_not_drawn_from() -> None:
    engine = engine_of()
    model: GPT = engine.model
    model.lm_head.weight.data[:] = math.nan
    session = Session(engine, prompt(engine))
    with pytest.raises(explorer.ExplorerError, match="at step 1 are not numbers"):
        written(session, Settings())
    with pytest.raises(explorer.ExplorerError, match="verify the checkpoint"):
        explorer.read_step(session, Settings(), ())


def test_a_token_is_one_harmless_line(engine) -> None:
    session = Session(engine, prompt(engine))
    assert explorer.spelled(session, 10) == "\\n"
    assert explorer.spelled(session, 27) == "\\x1b"
    assert explorer.spelled(session, 0xE4) == "<e4>"
    assert explorer.spelled(session, 32) == " "
