"""The conversation builder's page: nothing trained, one run, a broken one, bad uploads; editing, views, keeping."""

import json
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from nanochat import paths
from nanochat.analysis import conversation_template_builder as builder
from nanochat.gpt_config import GPTConfig
from nanochat.tokenizer import train_tokenizer
from nanochat.ui import conversation_template_builder as ui
from nanochat.ui.conversation_template_builder import PAGE, TURNS
from tests import page_support
from tests.checkpoint_support import save_checkpoint
from tests.page_support import words
from tests.variants import random_weights


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "nothing"))


def opened(view: str = "Mask", **query: str) -> AppTest:
    return page_support.opened(PAGE, {"view": view, **query})


def metrics(page: AppTest) -> dict[str, str]:
    return {metric.label: metric.value for metric in page.metric}


def texts(page: AppTest) -> list:
    return [area for area in page.text_area if area.key.startswith(f"{PAGE}_content_")]


def tiny_run(tag: str = "d2") -> Path:
    tokenizer = train_tokenizer(["what is two and two? four"] * 4, 290)
    config = GPTConfig(
        sequence_len=64, vocab_size=tokenizer.get_vocab_size(), n_layer=2, n_head=2, n_kv_head=1, n_embd=32
    )
    folder = paths.workspace() / "chatsft_checkpoints" / tag
    meta = {"step": 5, "model_config": config.upstream()}
    save_checkpoint(folder, 5, random_weights(config, 1), None, meta, tokenizer=tokenizer, config=config)
    return folder


def test_with_nothing_trained_it_shows_the_mask_under_the_example():
    page = opened()
    tokenizer, _ = builder.chat_tokenizer()
    report = builder.supervision(tokenizer, builder.simple("What is 2+2?", "It's 4."))
    assert metrics(page)["Total tokens"] == str(report.tokens)
    assert metrics(page)["Supervised"] == str(report.supervised)
    assert metrics(page)["Supervision ratio"] == f"{report.ratio:.1%}"
    assert "Conversation is valid." in words(page)
    assert not paths.workspace().exists(), "looking must not create anything"
    page = opened("Loss")
    assert "there is none" in words(page)
    assert "nanochat demo" in [element.value for element in page.code]


def test_editing_moves_and_removes_turns():
    page = opened()
    page.button(key=f"{PAGE}_template_Multi-turn").click().run()
    assert [area.value for area in texts(page)][:2] == ["Who are you?", "A small language model."]
    number = page.session_state[TURNS][0]["id"]
    page.button(key=f"{PAGE}_Down_{number}").click().run()
    assert [area.value for area in texts(page)][:2] == ["A small language model.", "Who are you?"]
    assert "the assistant speaks first" in words(page)
    assert page.error
    page.button(key=f"{PAGE}_Up_{number}").click().run()
    assert "Conversation is valid." in words(page)
    for _ in range(2):
        page.button(key=f"{PAGE}_remove_{page.session_state[TURNS][-1]['id']}").click().run()
    assert len(texts(page)) == 2
    page.button(key=f"{PAGE}_add").click().run()
    assert page.session_state[TURNS][-1]["parts"] is None
    assert "the content is empty" in words(page)


def test_parts_of_a_tool_call():
    page = opened()
    page.button(key=f"{PAGE}_template_With a tool").click().run()
    assert [area.value for area in texts(page)] == [
        "What is 12*12?",
        "Let me calculate. ",
        "12*12",
        "144",
        "It is 144.",
    ]
    parts = page.session_state[TURNS][1]["parts"]
    page.button(key=f"{PAGE}_remove_part_{parts[0]}").click().run()
    assert len(texts(page)) == 4
    page.button(key=f"{PAGE}_template_Simple").click().run()
    turn = page.session_state[TURNS][1]
    page.button(key=f"{PAGE}_split_{turn['id']}").click().run()
    page.button(key=f"{PAGE}_add_part_{turn['id']}").click().run()
    kinds = [box.value for box in page.selectbox if box.key.startswith(f"{PAGE}_type_")]
    assert kinds == ["text", "python"]
    page.button(key=f"{PAGE}_add_part_{turn['id']}").click().run()
    assert [box.value for box in page.selectbox if box.key.startswith(f"{PAGE}_type_")][-1] == "python_output"


def test_the_alarm_is_loud():
    page = opened()
    page.button(key=f"{PAGE}_remove_{page.session_state[TURNS][1]['id']}").click().run()
    assert "0 % supervised" in page.error[0].value
    assert "the last message has no reply" in words(page)


def test_shifted_truncation_and_line():
    page = opened("Shifted")
    tokenizer, _ = builder.chat_tokenizer()
    report = builder.supervision(tokenizer, builder.simple("What is 2+2?", "It's 4."))
    table = page.dataframe[0].value
    assert table["Target"].to_list() == report.frame["text"].to_list()[1:]
    assert int(table["Counts"].sum()) == report.supervised
    page = opened("Truncation")
    page.slider(key=f"{PAGE}_limit").set_value(5).run()
    assert f"{report.tokens - 5} of {report.tokens}" in words(page)
    assert "0 % supervised after the cut to 5 tokens" in page.error[0].value
    page = opened("Line")
    assert builder.as_line(builder.simple("What is 2+2?", "It's 4.")).rstrip() in [code.value for code in page.code]


def test_loss_under_a_run_and_under_a_broken_one():
    folder = tiny_run()
    page = opened("Loss")
    assert {"Supervised loss", "Context loss", "A guess costs"} <= set(metrics(page))
    value = builder.simple("What is 2+2?", "It's 4.")
    from nanochat.checkpoint_manager import load_model

    losses = builder.token_losses(load_model(folder), value)
    assert metrics(page)["Supervised loss"] == f"{losses.supervised_loss:.3f}"
    model = next(folder.glob("model_*.pt"))
    data = bytearray(model.read_bytes())
    data[len(data) // 2] ^= 1
    model.write_bytes(data)
    meta = next(folder.glob("meta_*.json"))
    meta.touch()
    page.run()
    assert not page.exception
    assert page.error[0].value == "Something failed while showing the conversation."
    assert model.name in words(page)


def test_append_makes_a_dataset_and_leads_to_training():
    page = opened()
    page.button(key=f"{PAGE}_append").click().run()
    path = paths.workspace() / "conversations" / "chats.jsonl"
    assert builder.load(path) == builder.simple("What is 2+2?", "It's 4.")
    assert f"Added to {path} as line 1." in words(page)
    page.button(key=f"{PAGE}_append").click().run()
    assert "as line 2; line 1 is the same conversation" in words(page)
    page.button(key=f"{PAGE}_remove_{page.session_state[TURNS][1]['id']}").click().run()
    page.button(key=f"{PAGE}_append").click().run()
    assert "was not added" in words(page)
    assert path.read_text().count("\n") == 2


def test_save_asks_before_it_replaces():
    page = opened()
    page.button(key=f"{PAGE}_save").click().run()
    path = paths.workspace() / "conversations" / "conversation.json"
    assert builder.load(path) == builder.simple("What is 2+2?", "It's 4.")
    page.button(key=f"{PAGE}_save").click().run()
    assert "is there already" in words(page)
    page.checkbox(key=f"{PAGE}_replace").check()
    page.button(key=f"{PAGE}_save").click().run()
    assert f"Saved to {path}" in words(page)


def test_a_file_is_opened_and_its_other_fields_are_kept(tmp_path):
    value = {**builder.tool("q", "1+1", "2", "It is 2.", system="be kind"), "source": "me"}
    builder.save(tmp_path / "c.json", value)
    page = opened()
    page.text_input(key=f"{PAGE}_load_path").set_value(str(tmp_path / "c.json"))
    page.button(key=f"{PAGE}_load").click().run()
    assert not page.exception
    assert [area.value for area in texts(page)] == ["be kind", "q", "1+1", "2", "It is 2."]
    page.text_input(key=f"{PAGE}_append_path").set_value(str(tmp_path / "d.jsonl"))
    page.button(key=f"{PAGE}_append").click().run()
    assert builder.load(tmp_path / "d.jsonl") == value


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("bad.json", b'{"messages": [', "bad.json: not JSON"),
        ("bad.json", b"\xff\xfe", "byte 1 is not UTF-8"),
        ("bad.json", b'{"messages": [{"role": "robot", "content": "x"}]}', "message 1 has no known role"),
        ("bad.json", b'{"messages": [{"role": "assistant", "content": [{"type": "x"}]}]}', "a part without a known"),
        ("<b>.json", b"3", "there are no messages in it"),
        ("bad.jsonl", b"", "bad.jsonl, line 1 is empty"),
    ],
)
def test_a_bad_upload_is_one_sentence_and_nothing_is_lost(name, content, sentence):
    page = opened()
    page.file_uploader(key=f"{PAGE}_upload").set_value((name, content, "application/json"))
    page.button(key=f"{PAGE}_load").click().run()
    assert not page.exception
    assert sentence in words(page)
    assert [area.value for area in texts(page)] == ["What is 2+2?", "It's 4."]


def test_hostile_text_stays_text():
    page = opened()
    texts(page)[0].set_value("<script>alert(1)</script>\u202e\x1b[31m **bold**").run()
    assert not page.exception
    assert "<script>" not in words(page)
    page.segmented_control(key=f"{PAGE}_view").set_value("Line").run()
    assert any(r"\u202e" in code.value and "\u202e" not in code.value for code in page.code)


def test_a_second_click_on_remove_finds_nothing_and_does_nothing(monkeypatch):
    """It comes before the first one is drawn, from a button whose turn is gone by then."""
    turns = [{"id": number} for number in (7, 8, 9)]
    monkeypatch.setattr(ui.st, "session_state", {TURNS: turns})
    for _ in range(2):
        ui._remove(8)
    ui._move(8, 1)
    ui._move(9, 1)
    assert [turn["id"] for turn in turns] == [7, 9]
    parts = {"id": 7, "parts": [1, 2]}
    for _ in range(2):
        ui._remove_part(parts, 2)
    assert parts["parts"] == [1]


def test_what_was_written_is_there_when_the_page_is_loaded_anew():
    page, other = opened(), opened()
    texts(page)[0].set_value("My own question?").run()
    texts(other)[0].set_value("Another tab's").run()
    drafts = paths.workspace() / "conversations" / ".drafts"
    assert len(list(drafts.iterdir())) == 2
    name = "".join(page.query_params[ui.DRAFT])
    assert [area.value for area in texts(opened(draft=name))] == ["My own question?", "It's 4."]
    assert [area.value for area in texts(opened())] == ["What is 2+2?", "It's 4."], "another visit begins anew"
    draft = drafts / f"{name}.json"
    for content in (
        "{",
        '{"messages": [{"role": "user", "content": [1]}]}',
        '[{"role": "user", "content": "\\ud800"}]',
    ):
        draft.write_text(content)
        assert [area.value for area in texts(opened(draft=name))] == ["What is 2+2?", "It's 4."]
        assert draft.read_text() == content
    for name in ("../../chats", "", "0" * 9):
        assert [area.value for area in texts(opened(draft=name))] == ["What is 2+2?", "It's 4."]


@pytest.mark.parametrize(
    ("value", "words_of_it"),
    [
        ([{"role": "user", "content": [{"type": "text", "text": "my question"}]}], "would be lost"),
        ([{"role": "assistant", "content": [{"type": "text", "text": "a", "id": 1}]}], "would be lost"),
        ([{"role": "user", "content": "x\ud800"}], "half a character"),
        ({"note": "\ud800", "messages": [{"role": "user", "content": "x"}]}, "half a character"),
    ],
)
def test_what_the_editor_would_lose_is_not_opened(tmp_path, value, words_of_it):
    path = tmp_path / "odd.json"
    path.write_text(json.dumps(value))
    page = opened()
    page.text_input(key=f"{PAGE}_load_path").set_value(str(path)).run()
    page.button(key=f"{PAGE}_load").click().run()
    assert words_of_it in words(page)
    assert [area.value for area in texts(page)] == ["What is 2+2?", "It's 4."]


def test_other_fields_of_a_message_are_kept(tmp_path):
    path = tmp_path / "weights.json"
    path.write_text(json.dumps([{"role": "user", "content": "x"}, {"role": "assistant", "content": "y", "weight": 0}]))
    page = opened("Line")
    page.text_input(key=f"{PAGE}_load_path").set_value(str(path)).run()
    page.button(key=f"{PAGE}_load").click().run()
    assert any('"weight": 0' in code.value for code in page.code)


def test_a_draft_that_cannot_be_kept_is_said_and_the_page_goes_on():
    paths.workspace().write_text("a file where the folder should be")
    page = opened()
    texts(page)[0].set_value("My own question?").run()
    assert "It is lost when this page is loaded anew" in words(page)
    assert "Conversation is valid." in words(page)


def test_it_is_said_whether_the_dataset_has_what_is_shown():
    builder.append(paths.workspace() / "conversations" / "chats.jsonl", builder.simple("Another?", "Yes."))
    page = opened()
    assert "1 conversation; this one is not among them." in words(page)
    builder.append(paths.workspace() / "conversations" / "chats.jsonl", builder.simple("What is 2+2?", "It's 4."))
    assert "2 conversations, this one among them." in words(page.run())
