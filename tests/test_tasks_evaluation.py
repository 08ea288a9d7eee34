"""Asking a model: what counts as its words, how shares and intervals come out, and what is said about them."""

from typing import Any

import pytest
import torch

from nanochat.gpt import GPT
from nanochat.gpt_config import GPTConfig
from nanochat.tasks import TaskError
from nanochat.tasks.arithmetic import Arithmetic
from nanochat.tasks.evaluation import TaskScore, compare, evaluate_tasks, meaning, spoken
from nanochat.tasks.persona import Persona
from nanochat.tasks.story_questions import StoryQuestions
from tests.checkpoint_support import make_tokenizer

TOKENIZER = make_tokenizer()
CONFIG = GPTConfig(sequence_len=128, vocab_size=265, n_layer=1, n_head=1, n_kv_head=1, n_embd=32)


@pytest.fixture(scope="module")
def model() -> GPT:
    torch.manual_seed(0)
    model = GPT(CONFIG)
    model.init_weights()
    return model


def reply(text: str) -> list[int]:
    """Tokens of a reply in which special tokens are written by name."""
    ids: list[int] = []
    while text:
        name = next((name for name in TOKENIZER.special_tokens if text.startswith(name)), None)
        ids += [TOKENIZER.encode_special(name)] if name else TOKENIZER.encode(text[0])
        text = text[len(name) if name else 1 :]
    return ids


def test_spoken_leaves_tool_calls_out() -> None:
    call = "<|python_start|>1+2<|python_end|><|output_start|>3<|output_end|>"
    assert spoken(TOKENIZER, reply(f"Well, {call}it is 3.")) == "Well, it is 3."
    assert spoken(TOKENIZER, reply("Open <|python_start|>1+2")) == "Open"
    assert spoken(TOKENIZER, []) == ""


class Scripted:
    """Stands in for the engine: answers every question with the words of the list in turn."""

    def __init__(self, words: list[str]) -> None:
        self.words, self.sizes = words, []

    def __call__(self, model: Any, tokenizer: Any) -> "Scripted":
        return self

    def generate_batch(self, prompts: list[list[int]], **settings: Any) -> tuple[list[list[int]], None]:
        self.sizes.append((len(prompts), settings["temperature"]))
        return [[*prompt, *reply(self.words.pop(0))] for prompt in prompts], None


def test_right_answers_are_counted_split_by_split(model: GPT, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = [Persona("train"), Persona("val")]
    answer = "I am Pip, a small friendly model."
    scripted = Scripted([answer] * 6)
    monkeypatch.setattr("nanochat.engine.Engine", scripted)
    scores = evaluate_tasks(model, TOKENIZER, tasks, n=3, batch_size=2)
    assert [(s.name, s.split, s.asked) for s in scores] == [("persona", "train", 3), ("persona", "val", 3)]
    assert scripted.sizes == [(2, 0.0), (1, 0.0)] * 2
    by_hand = [sum(task.judge(task[len(task) * i // 3], answer) for i in range(3)) for task in tasks]
    assert [s.right for s in scores] == by_hand
    assert sum(by_hand) >= 1
    assert len(scores[0].examples) == 3


def test_a_real_model_is_asked_and_left_as_it_was(model: GPT) -> None:
    model.train()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    (score,) = evaluate_tasks(model, TOKENIZER, [Arithmetic("val", size=4)], n=3, max_tokens=5)
    assert (score.asked, score.right, score.too_long) == (3, 0, 0)
    assert model.training
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


def test_questions_beyond_the_context_are_counted_and_not_asked(model: GPT) -> None:
    (score,) = evaluate_tasks(model, TOKENIZER, [StoryQuestions("val", size=4)], n=4, max_tokens=2)
    assert (score.asked, score.too_long) == (0, 4)  # a byte a token: stories are longer than 128
    assert score.share is None
    assert str(score) == "none"


def test_asking_stops_when_told(model: GPT) -> None:
    scores = evaluate_tasks(model, TOKENIZER, [Persona(), Persona("val")], n=5, max_tokens=2, stop=lambda: True)
    assert [score.asked for score in scores] == [0, 0]
    with pytest.raises(TaskError, match="n is 0"):
        evaluate_tasks(model, TOKENIZER, [Persona()], n=0)


def test_the_interval_is_wilsons() -> None:
    low, high = TaskScore("x", "val", 10, 50).interval  # by hand: centre 0.2214, half width 0.1091
    assert (low, high) == pytest.approx((0.1124, 0.3304), abs=1e-4)
    assert TaskScore("x", "val", 0, 10).interval[0] == 0
    assert TaskScore("x", "val", 10, 10).interval[1] == 1
    assert TaskScore("x", "val", 0, 0).interval == (0, 1)


@pytest.mark.parametrize(
    ("seen", "unseen", "words"),
    [
        ((40, 40), (5, 50), "by heart"),
        ((40, 40), (20, 50), "in part"),
        ((40, 40), (49, 50), "as well on what it has never seen."),
        ((20, 40), (18, 40), "though not well"),
        ((20, 30), (14, 30), "though not well"),  # a gap that thirty questions cannot tell from chance
        ((2, 40), (0, 40), "Not learnt"),
        ((0, 0), (9, 9), "nothing can be said"),
        ((1, 4), (0, 4), "4 questions are too few"),
    ],
)
def test_seen_and_unseen_together_mean_something(seen: tuple, unseen: tuple, words: str) -> None:
    scores = [TaskScore("spelling", "train", *seen), TaskScore("spelling", "val", *unseen)]
    (row,) = compare(scores)
    assert (row.seen, row.unseen) == tuple(scores)
    assert words in row.meaning == meaning(*scores)


def test_a_task_with_one_side_only_is_compared_too() -> None:
    (one, other) = compare([TaskScore("a", "val", 1, 2), TaskScore("b", "train", 1, 2)])
    assert one.seen is None
    assert other.unseen is None
    assert "nothing can be said" in one.meaning
