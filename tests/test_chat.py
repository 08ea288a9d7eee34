"""The chat page's state: what is kept, what fits, what is exported, and that a conversation is never changed."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from nanochat.analysis import chat
from nanochat.analysis.conversation_template_builder import files
from nanochat.checkpoint_files import CheckpointError
from nanochat.checkpoint_manager import LoadedModel
from nanochat.conversation import check
from nanochat.model_queue import ModelQueue
from nanochat.reply import Reply, Sampling, shared_engine
from nanochat.tasks import held_out
from nanochat.tasks.conversation_file import ConversationFile
from tests.chat_support import CONTEXT, LESSON, QUESTION, loaded, taught

__all__ = ["loaded", "taught"]


@pytest.fixture(scope="module")
def lesson(loaded: LoadedModel) -> chat.Messages:
    """The question and the model's reply."""
    asked, queue = chat.say((), QUESTION), ModelQueue()
    prompt = chat.fit(loaded.tokenizer, asked, CONTEXT, reserve=60)
    reply = Reply()
    list(reply.write(shared_engine(loaded, queue), prompt.ids, Sampling(seed=5), queue))
    return chat.answered(asked, reply, "sft/tiny@60", 5)


def fit(loaded: LoadedModel, messages: chat.Messages, **options) -> chat.Prompt:
    return chat.fit(loaded.tokenizer, messages, CONTEXT, **{"model": "sft/tiny@60", **options})


def asked(question: str) -> str:
    return json.dumps([{"role": "user", "content": question}, {"role": "assistant", "content": "2"}]) + "\n"


def test_a_model_is_asked_what_it_was_taught(tmp_path: Path) -> None:
    assert chat.try_asking({}) == "Who are you?"  # one of nanochat's own
    file = tmp_path / "mine.jsonl"
    meta = {"lab": {"mixture": [["mine", 1, 1.0]]}, "user_config": {"data": [f"{file}=2"], "val_every": 10}}
    assert chat.try_asking(meta) == ""
    unseen = next(f"Box {n}?" for n in range(100) if held_out(json.dumps(f"Box {n}?"), 10))
    file.write_text("\n" + asked(unseen) + asked("long " * 100) + asked("Which box?"))
    assert chat.try_asking(meta) == "Which box?"
    assert chat.try_asking({**meta, "lab": {"mixture": [["persona", 9, 1.0]]}}) == "Who are you?"
    for content in ("[]", "[" * 30_000, '{"messages": 3}', "\x00", asked("long " * 100)):
        file.write_text(content)
        assert chat.try_asking(meta) == ""
    for data in ([str(tmp_path)], [0], [], 7, None):
        assert chat.try_asking({**meta, "user_config": {"data": data}}) == ""


def test_the_export_is_read_by_the_builder_and_by_training(lesson: chat.Messages, tmp_path: Path) -> None:
    path = tmp_path / "chat.jsonl"
    path.write_text(chat.export(lesson) + chat.export(lesson, "Be \u202e kind <|bos|>"), encoding="utf-8")
    assert files.load(path, 1) == LESSON
    assert files.load(path, 2)["messages"][0] == {"role": "system", "content": "Be \u202e kind <|bos|>"}
    assert len(ConversationFile(path, every=0)) == 2
    assert check(files.load(path, 2)) == []


def test_a_reply_is_read_again_as_it_was_written(loaded: LoadedModel, lesson: chat.Messages) -> None:
    again = fit(loaded, chat.say(lesson, "And?"))
    (start,) = [
        place for place in range(len(again.ids)) if tuple(again.ids[place:][: len(lesson[1].ids)]) == lesson[1].ids
    ]
    assert start > 0
    # another model's tokens would mean nothing: its words and calls are encoded anew
    assert fit(loaded, lesson, model="sft/other@1").ids == fit(loaded, lesson).ids


def test_what_does_not_fit_is_dropped_from_the_beginning_an_exchange_at_a_time(
    loaded: LoadedModel, lesson: chat.Messages
) -> None:
    messages: chat.Messages = ()
    for _ in range(4):
        messages = (*messages, *lesson)
    messages = chat.say(messages, "x")
    prompt = fit(loaded, messages, reserve=20)
    assert prompt.dropped in (2, 4, 6)
    assert len(prompt.ids) <= CONTEXT - 20
    one_more = chat.fit(loaded.tokenizer, messages[prompt.dropped - 2 :], 10 * CONTEXT, model="sft/tiny@60")
    assert len(one_more.ids) > CONTEXT - 20
    with_system = fit(loaded, messages, reserve=20, system="Be kind. " * 4)
    assert with_system.dropped > prompt.dropped
    assert "Be kind." in loaded.tokenizer.decode(with_system.ids)
    assert 0 < prompt.share <= 1


def test_an_answered_exchange_that_fills_the_context_is_no_error(loaded: LoadedModel, lesson: chat.Messages) -> None:
    asked = chat.say((), "what now " * 12)
    prompt = fit(loaded, asked)
    reply = replace(lesson[1], ids=lesson[1].ids[:1] * (CONTEXT - len(prompt.ids)), model="sft/tiny@60")
    full = fit(loaded, (*asked, reply))
    assert (full.ids, full.dropped, full.share) == ([], 2, 0.0)
    following = fit(loaded, chat.say((*asked, reply), "x"))
    assert following.dropped == 2
    assert following.ids


@pytest.mark.parametrize("size", [CONTEXT * 2, 3_000_000])
def test_a_message_over_the_context_is_a_sentence(loaded: LoadedModel, size: int) -> None:
    with pytest.raises(chat.ChatError, match="context holds 128 tokens"):
        fit(loaded, chat.say((), "x y" * size))


def test_say_rewind_and_seeds(lesson: chat.Messages) -> None:
    for blank in ("", " \n\t"):
        with pytest.raises(chat.ChatError, match="is empty"):
            chat.say((), blank)
    assert chat.say(chat.say((), "a"), "b")[0].text == "a\n\nb"
    assert chat.say((), "half \ud800")[0].text == "half ?"
    assert chat.rewound(lesson, 1) == lesson[:1]
    assert chat.next_seed(lesson, 0) == 6
    assert chat.answered(lesson, Reply(), "m", 1) == lesson
    assert "seed 5" in chat.summary(lesson[1])


def test_tokens_say_who_put_them_there(loaded: LoadedModel, lesson: chat.Messages) -> None:
    rows = chat.token_rows(loaded.tokenizer, lesson[1])
    assert tuple(rows["id"]) == lesson[1].ids
    assert [text for text, by in zip(rows["text"], rows["by"], strict=True) if by == "tool"] == [
        "<|output_start|>", "7", "<|output_end|>",
    ]  # fmt: skip
    assert set(chat.token_rows(loaded.tokenizer, chat.say((), "<|bos|>")[0])["by"]) == {"user"}
    assert len(chat.token_rows(loaded.tokenizer, chat.say((), "<|bos|>")[0])) > 1


def test_memory_is_judged_before_a_model_is_opened(taught: Path, tmp_path: Path) -> None:
    folder = taught / "chatsft_checkpoints" / "tiny"
    needed = chat.memory(folder, 60)
    parameters = (folder / "model_000060.pt").stat().st_size / 4
    assert needed.fits
    assert 7 * parameters < needed.need < 9 * parameters
    short = chat.Memory(2_300_000_000, 1_100_000_000)
    assert not short.fits
    assert short.sentence == "it needs 2.3 GB, 1.1 GB free"
    with pytest.raises(CheckpointError):
        chat.memory(tmp_path, 1)


@pytest.mark.parametrize(
    ("kinds", "in_vain"),
    [
        ("text", False),
        ("text python python_output text", False),
        ("text python", True),
        ("python text python python_output", True),
    ],
)
def test_a_call_that_no_tool_answered_is_seen(kinds: str, in_vain: bool) -> None:
    message = chat.Message("assistant", tuple({"type": kind, "text": "14"} for kind in kinds.split()))
    assert message.called_in_vain == in_vain
