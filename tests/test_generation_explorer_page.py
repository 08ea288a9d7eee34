"""The generation explorer's page: nothing trained, one run, a broken one, bad prompts; every view of it."""

import json
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from nanochat import paths
from nanochat.analysis import chat
from nanochat.analysis import generation_explorer as explorer
from nanochat.checkpoint_manager import load_model
from nanochat.engine import Engine
from nanochat.tools import generation_explorer as tool
from nanochat.ui import generation_explorer as views
from nanochat.ui.generation_explorer import PAGE
from tests import page_support
from tests.checkpoint_support import save_ours
from tests.page_support import words


def opened(view: str = "Write", **query: str) -> AppTest:
    return page_support.opened(PAGE, {"view": view, "tokens": "5", **query})


def metrics(page: AppTest) -> dict[str, str]:
    return {metric.label: metric.value for metric in page.metric}


def work(page: AppTest) -> views.Work:
    return page.session_state[f"{PAGE}_work"]


@pytest.fixture
def run() -> Path:
    return save_ours(paths.workspace() / "base_checkpoints" / "tiny")


def test_with_nothing_trained_it_teaches_with_a_made_up_step() -> None:
    page = opened(top_k="3")
    assert "nanochat demo" in words(page)
    assert "**3** of 10 candidates are kept" in words(page)
    page.slider(key=f"{PAGE}_top_k").set_value(0).run()
    assert "**10** of 10" in words(page)
    assert not page.error


def test_the_text_is_the_terminals(run, capsys) -> None:
    page = opened(temperature="1.2", top_k="20")
    tool.main(["--prompt", "Once upon a time", "--temperature", "1.2", "--top-k", "20", "--max-tokens", "5", "--json"])
    said = json.loads(capsys.readouterr().out)
    shown = page.dataframe[-1].value
    assert shown["id"].to_list() == said["ids"]
    assert shown["p"].to_list() == pytest.approx([row["p"] for row in said["steps"]])
    mean = sum(row["surprise"] for row in said["steps"]) / 5
    assert metrics(page) == {"Tokens": "5", "Bits a token": f"{mean:.2f}", "Computed anew": "5", "Ending": "cut off"}


def test_another_setting_goes_on_from_what_is_kept(run) -> None:
    page = opened()
    before = work(page).session
    page.slider(key=f"{PAGE}_temperature").set_value(0.85).run()
    assert work(page).session is before
    loaded = load_model(run)
    engine, ids = Engine(loaded.model, loaded.tokenizer), before.prompt
    (row,), _ = engine.generate_batch(ids, 1, 5, temperature=0.85, seed=42)
    assert page.dataframe[-1].value["id"].to_list()[: len(row) - len(ids)] == row[len(ids) :]
    passes = before.passes
    page.slider(key=f"{PAGE}_temperature").set_value(0.9).run()
    assert (before.passes, metrics(page)["Computed anew"]) == (passes, "0")


def test_a_step_is_opened_a_token_forced_and_branches_compared(run) -> None:
    page = opened()
    work(page).step = 2
    page.run()
    row = page.dataframe[-1].value.to_dicts() if hasattr(page.dataframe[-1].value, "to_dicts") else None
    assert "Step 3" in words(page)
    assert metrics(page)["Rank"].replace(",", "").isdigit()
    assert row is None or metrics(page)["Probability"] == f"{row[2]['p_model']:.1%}"
    page.text_input(key=f"{PAGE}_words").set_value("q<b>")
    next(button for button in page.button if button.label == "Force").click().run()
    assert not page.exception
    assert work(page).branch == "B"
    assert [token.origin for token in work(page).tree.find("B").fixed] == ["model"] * 2 + ["you"] * 4
    assert "forced by you" in words(page)
    assert page.radio(key=f"{PAGE}_branch").options[1].endswith('B: forced "q\\<b\\>" at step 3')  # no markup
    page.selectbox(key=f"{PAGE}_other_branch").set_value("A").run()
    assert "First divergence: step **3**." in words(page)
    page.button(key=f"{PAGE}_rewind").click().run()
    assert work(page).branch == "C"
    page.radio(key=f"{PAGE}_branch").set_value("A").run()
    assert (work(page).branch, work(page).step) == ("A", None)
    assert not page.exception


def test_a_model_too_large_is_asked_about_first(run, monkeypatch) -> None:
    monkeypatch.setattr(chat, "memory", lambda *_: chat.Memory(2_300_000_000, 1_100_000_000))
    page = opened()
    assert "it needs 2.3 GB, 1.1 GB free" in page.warning[0].value
    assert not metrics(page)
    page.button(key=f"{PAGE}_anyway").click().run()
    assert metrics(page)["Tokens"] == "5"


def test_a_busy_model_says_so_and_what_is_kept_is_there_all_the_same(run) -> None:
    page = opened()
    queue = work(page).queue
    queue.at_once, queue.waiting = 0, 0
    page.run()
    assert metrics(page)["Tokens"] == "5"
    page.slider(key=f"{PAGE}_tokens").set_value(10).run()
    assert "the model is busy" in words(page)
    queue.at_once = 1
    page.run()
    assert metrics(page)["Tokens"] == "10"
    assert queue.seated == 0


def test_files_that_vanish_leave_the_text_that_is_looked_at(run) -> None:
    page = opened()
    (run / "model_000010.pt").unlink()
    page.run()
    assert not page.exception
    assert metrics(page).get("Tokens") == "5" or "nanochat demo" in words(page)


def test_the_lens_opens(run) -> None:
    page = opened(lens="true")
    work(page).step = 0
    page.run()
    assert not page.exception
    assert any("layer 2 (output)" in list(frame.value["name"]) for frame in page.dataframe if "name" in frame.value)


def test_settings_are_compared_and_texts_counted(run) -> None:
    page = opened("Compare settings")
    assert "**Temperature 0.9**: the others are compared with it" in words(page)
    assert "first divergence at step" in words(page)
    page.segmented_control(key=f"{PAGE}_compare_name").set_value("top_k").run()
    assert "**Top-k 200**" in words(page)
    page.multiselect(key=f"{PAGE}_compare_top_k").set_value([]).run()
    assert "Choose at least one value" in words(page)
    page = opened("Count many texts", samples="4")
    page.button(key=f"{PAGE}_count").click().run()
    assert not page.exception
    assert page.dataframe[0].value["value"].to_list() == list(explorer.TEMPERATURES)
    assert page.dataframe[1].value.shape[0] == 4 * len(explorer.TEMPERATURES)


def test_a_tuned_model_is_asked_as_a_user() -> None:
    save_ours(paths.workspace() / "chatsft_checkpoints" / "tiny")
    page = opened()
    assert "asked as the user's turn" in words(page)
    page.toggle(key=f"{PAGE}_plain").set_value(True).run()
    assert "continued as plain text" in words(page)


def test_bad_prompts_and_broken_files_are_one_sentence(run) -> None:
    page = opened()
    box = page.text_area(key=f"{PAGE}_prompt_text")
    box.set_value("a" * 500).run()
    assert page.error[0].value == "Something failed while exploring the text."
    assert "the model's context holds 64; shorten it by" in words(page)
    box.set_value("").run()
    assert not page.error
    assert "the model begins a text of its own" in words(page)
    box.set_value("<script>alert(1)</script>\u202e\x1b[31m<|bos|>😀").run()
    assert not page.exception
    assert not page.error
    assert "<script>" not in "\n".join(str(element.value) for element in page.markdown)
    (run / "model_000010.pt").write_bytes(b"PK\x03\x04 nothing")
    page = opened()
    assert len(page.error) == 1
    assert not page.exception
