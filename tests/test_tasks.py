"""Tasks: the same conversations everywhere, splits that share nothing, and judges that tell right from wrong."""

import itertools
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.calculator import use_calculator
from nanochat.conversation import check
from nanochat.tasks import Task, TaskError, expected, last_number, words_of
from nanochat.tasks.arithmetic import QUESTIONS, Arithmetic
from nanochat.tasks.persona import FACTS, Persona
from nanochat.tasks.spelling import LetterCount, Spelling
from nanochat.tasks.story_questions import StoryQuestions
from nanochat.tasks.words import WORDS

KINDS = [Spelling, LetterCount, Arithmetic, StoryQuestions]


def both(kind: type) -> tuple[Task, Task]:
    return (kind("train"), kind("val")) if kind is Persona else (kind("train", size=300), kind("val", size=300))


def question(conversation: dict) -> str:
    return conversation["messages"][0]["content"]


@pytest.mark.parametrize("kind", [*KINDS, Persona])
def test_every_conversation_can_be_rendered_and_its_own_answer_is_right(kind: type) -> None:
    for task in both(kind):
        for index in range(len(task)):
            conversation = task[index]
            assert check(conversation) == []
            assert task.judge(conversation, expected(conversation))
            assert task.judge(conversation, f"  {expected(conversation)}\n".upper())
            assert not task.judge(conversation, "")
            assert not task.judge(conversation, "I do not know what 123456 is.")


@pytest.mark.parametrize("kind", [*KINDS, Persona])
def test_the_answer_to_another_question_is_wrong_unless_it_is_the_same(kind: type) -> None:
    task = both(kind)[0]
    wrong = 0
    for one, other in itertools.pairwise([task[index] for index in range(40)]):
        if words_of(expected(one)) != words_of(expected(other)):
            assert not task.judge(one, expected(other))
            wrong += 1
    assert wrong > 10


@pytest.mark.parametrize("kind", [*KINDS, Persona])
def test_no_question_of_the_val_split_is_in_the_train_split(kind: type) -> None:
    train, val = both(kind)
    asked = {question(train[index]).lower() for index in range(len(train))}
    assert asked.isdisjoint(question(val[index]).lower() for index in range(len(val)))


@pytest.mark.parametrize("kind", KINDS)
def test_a_conversation_depends_on_seed_split_and_index_alone(kind: type) -> None:
    task = kind("train", size=50, seed=3)
    assert [task[index] for index in (7, 2, 7)] == [kind("train", size=9, seed=3)[index] for index in (7, 2, 7)]
    assert [task[i] for i in range(20)] != [kind("train", size=20, seed=4)[i] for i in range(20)]
    assert [task[i] for i in range(20)] != [kind("val", size=20, seed=3)[i] for i in range(20)]
    assert task.identity == kind("train", size=50, seed=3).identity
    assert len({task.identity, kind("val", size=50, seed=3).identity, kind("train", size=50, seed=4).identity}) == 3


def test_conversations_are_the_same_in_another_process() -> None:
    """Python's own hash differs from process to process; nothing may depend on it."""
    program = (
        "from nanochat.tasks.spelling import *; from nanochat.tasks.arithmetic import *;"
        "print([Spelling('val')[5], LetterCount()[6], Arithmetic('val')[7]])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1]
    )
    assert done.stdout.strip() == str([Spelling("val")[5], LetterCount()[6], Arithmetic("val")[7]])


def test_an_index_beyond_the_end_ends_a_loop() -> None:
    assert len(list(Spelling(size=3))) == 3  # type: ignore[call-overload]
    assert Spelling(size=3)[-1] == Spelling(size=3)[2]
    with pytest.raises(IndexError):
        Persona()[len(Persona())]


def test_words_fall_into_the_same_split_of_both_word_tasks() -> None:
    taught, counted = (
        {question(conversation).rstrip("?.").split()[-1] for conversation in _all(task)}
        for task in (Spelling("train", size=3000), LetterCount("val", size=300))
    )
    assert len(taught) > 600
    assert taught | counted <= set(WORDS)
    assert counted.isdisjoint(taught)


def _all(task: Task) -> list[dict]:
    return [task[index] for index in range(len(task))]


def test_counting_calls_the_calculator_and_some_answers_are_zero() -> None:
    answers = set()
    for conversation in _all(LetterCount(size=300)):
        code, output, text = conversation["messages"][1]["content"]
        assert (code["type"], output["type"], text["type"]) == ("python", "python_output", "text")
        assert use_calculator(code["text"]) == output["text"] == last_number(text["text"])
        answers.add(output["text"])
    assert {"0", "1", "2"} <= answers


@pytest.mark.parametrize("largest", [9, 99, 1000])
def test_arithmetic_is_right_and_never_negative(largest: int) -> None:
    operations = set()
    for split in ("train", "val"):
        for conversation in _all(Arithmetic(split, size=200, largest=largest)):
            code, output, text = conversation["messages"][1]["content"]
            assert use_calculator(code["text"]) == output["text"] == last_number(text["text"])
            assert output["text"].isdigit()
            operations |= {operation for operation in QUESTIONS if operation in code["text"]}
    assert operations == set(QUESTIONS)


def test_a_pair_of_numbers_is_in_one_split_whichever_way_round() -> None:
    def pairs(split: str) -> set[tuple[int, ...]]:
        texts = [c["messages"][1]["content"][0]["text"] for c in _all(Arithmetic(split, 1000, operations=("+",)))]
        return {tuple(sorted(map(int, text.split("+")))) for text in texts}

    assert pairs("train").isdisjoint(pairs("val"))


def test_the_persona_is_forty_facts_in_plain_words() -> None:
    assert len(FACTS) == 40
    assert len({fact.answer for fact in FACTS}) == 40
    wordings = [wording for fact in FACTS for wording in (*fact.seen, *fact.held_out)]
    assert len({tuple(words_of(wording)) for wording in (w for f in FACTS for w in f.seen)}) >= 160
    assert len(set(wordings)) == len(wordings), "one question must not have two answers"
    for fact in FACTS:
        assert len(fact.seen) >= 4
        assert len(fact.held_out) == 2
        assert len(words_of(fact.answer)) <= 8
        assert fact.answer.isascii()
    assert all(wording.isascii() and wording.isprintable() for wording in wordings)


def test_questions_about_stories_are_answered_by_the_story() -> None:
    for conversation in _all(StoryQuestions("val", size=30)):
        text, answer = question(conversation), expected(conversation)
        assert text.endswith("?")
        assert set(words_of(answer)) & set(words_of(text))
    assert (
        StoryQuestions("val", size=5, start=3)[0]["messages"][0]["content"]
        .split("?")[0]
        .startswith(question(StoryQuestions("val", size=9)[3])[:60])
    )


def test_several_questions_about_one_story_differ() -> None:
    asked = [question(conversation) for conversation in _all(StoryQuestions("train", size=30, each=3))]
    for first in range(0, 30, 3):
        assert len(set(asked[first : first + 3])) == 3
        assert len({text[:60] for text in asked[first : first + 3]}) == 1
    assert len({text[:60] for text in asked}) > 5


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: StoryQuestions(each=0), "each is 0"),
        (lambda: Spelling("test"), "split 'test'"),
        (lambda: Spelling(size=0), "size is 0"),
        (lambda: Spelling(words=("Cat", "dog")), "'Cat'"),
        (lambda: LetterCount("val", words=("cat",)), "val split"),
        (lambda: Arithmetic(largest=1), "largest is 1"),
        (lambda: Arithmetic(operations=("**",)), "'**'"),
        (lambda: StoryQuestions(start=-1), "start is -1"),
        (lambda: Persona("dev"), "split 'dev'"),
    ],
)
def test_what_cannot_be_made_is_said_in_a_sentence(make: object, words: str) -> None:
    with pytest.raises(TaskError, match=words.replace("*", r"\*")):
        make()  # type: ignore[operator]


@given(st.text(max_size=200))
@settings(deadline=None, max_examples=100)
def test_a_judge_takes_any_reply(reply: str) -> None:
    for task in (Spelling(), LetterCount(), Arithmetic(), Persona()):
        assert task.judge(task[0], reply) in (True, False)


def test_last_number_reads_numbers_as_people_write_them() -> None:
    assert last_number("3 and 1,234.") == "1234"
    assert last_number("It is -5") == "-5"
    assert last_number("none") is None
    assert last_number("2, 3") == "3"
