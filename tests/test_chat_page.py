"""The chat page: nothing trained, a model that talks, broken and vanished checkpoints, hostile text, all buttons."""

import json
import shutil
from pathlib import Path

import pytest
import streamlit as st
import torch
from streamlit.runtime.scriptrunner import StopException
from streamlit.testing.v1 import AppTest

from nanochat import paths
from nanochat.analysis import chat
from nanochat.engine import Engine
from nanochat.generation import EngineError
from nanochat.gpt import GPT
from nanochat.ui.chat import PAGE
from nanochat.ui.pickers import LAST_RUN
from tests import page_support
from tests.chat_support import ANSWER, QUESTION, SUM, taught
from tests.page_support import words

__all__ = ["taught"]


@pytest.fixture
def lab(taught: Path, private_workspace: None) -> Path:
    """A workspace with the taught run as sft/tiny."""
    shutil.copytree(taught, paths.workspace())
    st.cache_data.clear()
    return paths.workspace()


def opened(**query: str) -> AppTest:
    return page_support.opened(PAGE, query, {"shell": True})


def say(page: AppTest, text: str) -> AppTest:
    page.chat_input(key=f"{PAGE}_input").set_value(text).run()
    assert not page.exception
    return page


def press(page: AppTest, name: str) -> AppTest:
    page.button(key=f"{PAGE}_{name}").click().run()
    assert not page.exception
    return page


def talk(page: AppTest) -> chat.Messages:
    return page.session_state[f"{PAGE}_talk"].messages


def test_with_nothing_trained_it_says_how_to_make_a_model() -> None:
    st.cache_data.clear()
    page = opened()
    assert "nanochat demo" in words(page)
    assert str(paths.workspace()) in words(page)


def test_a_conversation_with_a_tool_call_and_every_button(lab: Path) -> None:
    page = say(opened(seed="7"), QUESTION)
    (_, reply) = talk(page)
    assert [text.value for text in page.text][:3] == [QUESTION, "Let me see.", ANSWER]
    assert [code.value for code in page.code][:2] == [SUM, "7"]
    assert "The model calls a tool" in words(page)
    assert "26 tokens" in words(page)
    assert "seed 7" in words(page)
    page = press(page, "again")
    assert talk(page)[1].seed == 8
    assert talk(page)[1].ids == reply.ids
    page = press(page, "tokens_1")
    page = press(page, "edit_0")
    page.text_area(key=f"{PAGE}_edited_0").set_value(f"{QUESTION} ")
    next(button for button in page.button if button.label == "Send again").click().run()
    assert not page.exception
    assert [message.role for message in talk(page)] == ["user", "assistant"]
    assert talk(page)[0].text == f"{QUESTION} "
    page = press(page, "clear")
    assert talk(page) == ()


def test_a_turn_reads_only_what_is_new_and_a_new_conversation_keeps_nothing(
    lab: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = say(opened(seed="7", max_tokens="20"), "Hi")
    read: list[int] = []
    real = GPT.hidden

    def hidden(self: GPT, ids: torch.Tensor, *more: object, **named: object) -> torch.Tensor:
        read.append(ids.size(1))
        return real(self, ids, *more, **named)

    monkeypatch.setattr(GPT, "hidden", hidden)
    page = say(page, "And?")
    _, reply, asked, answer = talk(page)
    loaded = page.session_state[f"{PAGE}_opened"][1].loaded
    prompt = chat.fit(loaded.tokenizer, talk(page)[:3], 128, reserve=20, model=reply.model).ids
    first = chat.fit(loaded.tokenizer, talk(page)[:1], 128, reserve=20, model=reply.model).ids
    in_the_cache = len(first) + len(reply.ids) - (reply.reason == "limit")  # its last token was drawn and never read
    assert read == [len(prompt) - in_the_cache]
    (row,), _ = Engine(loaded.model, loaded.tokenizer).generate_batch(
        prompt, max_tokens=20, temperature=0.6, top_k=50, seed=7
    )
    assert [*answer.ids] == row[len(prompt) :]
    kept = page.session_state[f"{PAGE}_talk"].kept
    assert kept.size > 0
    page = press(page, "clear")
    assert page.session_state[f"{PAGE}_talk"].kept is not kept
    assert page.session_state[f"{PAGE}_talk"].kept.size == 0
    assert asked.text == "And?"


def test_hostile_text_stays_text(lab: Path) -> None:
    hostile = "<script>alert(1)</script> <|bos|> [x](javascript:alert(1)) \x1b[31m \u202e \U0001f600"
    page = say(opened(max_tokens="3"), hostile)
    shown = page.text[0].value
    assert shown.startswith("<script>alert(1)</script> <|bos|> [x](javascript:alert(1)) \\x1b[31m \\u202e \U0001f600")
    assert json.loads(chat.export(talk(page)))["messages"][0]["content"] == hostile
    assert "cut at the longest reply" in words(page)


def test_a_message_over_the_context_is_kept_and_can_be_shortened(lab: Path) -> None:
    page = say(opened(), "x y " * 200)
    assert "the model's context holds 128 tokens" in words(page)
    page = press(page, "edit_0")
    page.text_area(key=f"{PAGE}_edited_0").set_value(QUESTION)
    next(button for button in page.button if button.label == "Send again").click().run()
    assert talk(page)[1].text.endswith(ANSWER)
    assert "could not be answered" not in words(page)


def test_a_model_whose_numbers_are_none_is_a_sentence_and_its_words_stay(
    lab: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nan(*_, **__):
        yield [65], [1]
        raise EngineError("the model's logits are not numbers (NaN); its weights are damaged")

    monkeypatch.setattr(Engine, "generate", nan)
    page = say(opened(), "Hello")
    assert "logits are not numbers" in words(page)
    assert [message.text for message in talk(page)] == ["Hello", "A"]


def test_a_click_in_the_middle_keeps_what_was_said(lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Streamlit ends a run of the page with an exception out of the next drawing."""

    def cut(*_, **__):
        yield [65], [1]
        yield [66], [1]
        raise StopException

    page = opened()
    with monkeypatch.context() as patch:
        patch.setattr(Engine, "generate", cut)
        page.chat_input(key=f"{PAGE}_input").set_value("Hello").run()
    page.run()
    assert [message.text for message in talk(page)] == ["Hello", "AB"]
    assert talk(page)[1].reason == "stopped"
    assert "stopped" in words(page)


def test_a_busy_model_says_so_and_answers_later(lab: Path) -> None:
    page = opened()
    queue = page.session_state[f"{PAGE}_opened"][1].queue
    queue.at_once, queue.waiting = 0, 0
    page = say(page, QUESTION)
    assert "the model is busy" in words(page)
    queue.at_once = 1
    page = press(page, "answer")
    assert talk(page)[1].text.endswith(ANSWER)
    assert queue.seated == 0


def test_files_that_vanish_while_chatting(lab: Path) -> None:
    page = say(opened(), QUESTION)
    (lab / "chatsft_checkpoints" / "tiny" / "model_000060.pt").unlink()
    page = say(page, QUESTION)
    assert "goes on with what is in memory" in words(page)
    assert len(talk(page)) == 4
    st.cache_data.clear()
    page.run()
    assert not page.exception
    assert "No model yet" in words(page)


def test_a_damaged_checkpoint_is_one_sentence(lab: Path) -> None:
    path = lab / "chatsft_checkpoints" / "tiny" / "model_000060.pt"
    path.write_bytes(path.read_bytes()[:-5000] + bytes(5000))
    page = opened()
    assert "Something failed while chatting." in words(page)
    assert "model_000060.pt" in words(page)


def test_a_model_too_large_is_asked_about_first(lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat, "memory", lambda *_: chat.Memory(2_300_000_000, 1_100_000_000))
    page = opened()
    assert "it needs 2.3 GB, 1.1 GB free" in words(page)
    assert not page.chat_input
    page = press(page, "anyway")
    assert say(page, QUESTION).text


def test_a_base_model_continues_text(lab: Path) -> None:
    (lab / "chatsft_checkpoints").rename(lab / "base_checkpoints")
    st.cache_data.clear()
    page = say(opened(max_tokens="4"), "the cat")
    assert "it continues what you type" in words(page)
    assert [button.proto.label for button in page.get("download_button")] == ["Export text"]


def test_a_run_that_is_gone_is_told_and_no_other_model_answers(lab: Path, tmp_path: Path) -> None:
    page = say(opened(), "Hello")
    said = [message.text for message in talk(page)]
    (run,) = (lab / "chatsft_checkpoints").iterdir()
    run.rename(run.with_name("other"))
    from nanochat.ui import pickers

    pickers._runs.clear()  # it looks again after some seconds
    page.run()
    assert not page.exception
    assert f"The run sft/{run.name} is not there" in words(page)
    assert not page.chat_input
    page.button(key=f"{PAGE}_go_on").click().run()
    assert page.chat_input
    assert [message.text for message in talk(page)] == said


def test_a_page_begins_with_a_run_that_answers_and_others_with_the_last_one(lab: Path) -> None:
    shutil.copytree(lab / "chatsft_checkpoints", lab / "base_checkpoints")
    shutil.copytree(lab / "chatsft_checkpoints", lab / "chatrl_checkpoints")
    st.cache_data.clear()
    assert opened().selectbox(key=f"{PAGE}_run").value == "rl/tiny"

    def beginning(stem: str, last: str) -> str:
        page = page_support.opened(stem, {}, {"shell": True, LAST_RUN: last})
        return str(page.selectbox(key=f"{stem}_run").value)

    assert beginning(PAGE, "sft/tiny") == "sft/tiny"
    assert beginning(PAGE, "base/tiny") == "rl/tiny", "a base model does not answer"
    assert beginning("generation_explorer", "rl/tiny") == "rl/tiny"
    assert beginning("generation_explorer", "base/gone") == "base/tiny"
