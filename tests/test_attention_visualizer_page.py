"""The attention visualizer's page: nothing trained, a tiny run in every view, a broken one, texts that cannot be."""

import base64
import json
import zlib
from pathlib import Path

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from nanochat import paths
from nanochat.analysis import attention_visualizer as attention
from nanochat.analysis import chat
from nanochat.checkpoint_manager import load_model
from nanochat.ui import attention_canvas
from nanochat.ui.attention_visualizer import PAGE, VIEWS
from tests import page_support
from tests.attention_support import save_run
from tests.page_support import words

TEXT = "so it goes"


@pytest.fixture
def run() -> Path:
    return save_run(paths.workspace() / "base_checkpoints" / "tiny")


def opened(view: str = "Matrix", **query: str) -> AppTest:
    return page_support.opened(PAGE, {"view": view, **query}, {f"{PAGE}_text": TEXT})


def test_with_nothing_trained_it_says_how_to_get_a_model() -> None:
    page = opened()
    assert "This page opens a trained model, and there is none." in words(page)
    assert "nanochat demo" in words(page)
    assert "the patterns that heads are named by" in words(page), "it teaches without a model"
    assert not page.error


def test_the_table_holds_the_weights_of_the_analysis(run) -> None:
    page = opened(layer="1", head="3")
    report = attention.look(load_model(run), TEXT)
    expected = attention.top(report, 1, 3, 5).filter(query=len(TEXT))
    shown = page.dataframe[0].value
    assert shown["token"].to_list() == expected["key"].to_list()
    assert shown["weight"].to_list() == pytest.approx(expected["weight"].to_list())
    page.selectbox(key=f"{PAGE}_query").set_value(2).run()
    assert page.dataframe[0].value["token"].to_list() == attention.top(report, 1, 3, 5).filter(query=2)["key"].to_list()
    page.toggle(key=f"{PAGE}_carried").set_value(True).run()
    carried = attention.top(report, 1, 3, 5, carried=True).filter(query=2)
    assert page.dataframe[0].value["weight"].to_list() == pytest.approx(carried["weight"].to_list())


@pytest.mark.parametrize("view", VIEWS)
def test_every_view_draws_with_and_without_a_head(run, view: str) -> None:
    page = opened(view)
    assert not page.error, words(page)
    page.multiselect(key=f"{PAGE}_off").set_value(["1.0", "0.2"]).run()
    assert not page.exception
    assert not page.error, words(page)
    if view == "Without heads":
        loaded = load_model(run)
        effect = attention.without(loaded, attention.look(loaded, TEXT), {(1, 0), (0, 2)})
        assert [metric.value for metric in page.metric] == [f"{effect.loss[1]:.4f}", f"{effect.repeats[1]:.4f}"]


def test_another_model_forgets_choices_that_it_does_not_have(run) -> None:
    save_run(paths.workspace() / "base_checkpoints" / "small", layers=1, n_head=1, n_kv_head=1)
    page = opened(run="base/tiny", layer="1", head="5")
    page.multiselect(key=f"{PAGE}_off").set_value(["1.0"]).run()
    page.selectbox(key=f"{PAGE}_run").set_value("base/small").run()
    assert not page.exception
    assert not page.error, words(page)
    assert page.selectbox(key=f"{PAGE}_layer").value == "0"
    assert page.multiselect(key=f"{PAGE}_off").value == []


@pytest.mark.parametrize(
    ("text", "said"), [("", "the text is empty"), ("a" * 500, "501 tokens and this model takes 64")]
)
def test_a_text_that_cannot_be_looked_at_is_a_sentence(run, text: str, said: str) -> None:
    page = opened()
    page.text_area(key=f"{PAGE}_text").set_value(text).run()
    assert not page.exception
    assert said in words(page)


def test_a_broken_run_and_one_that_goes_away_are_sentences(run) -> None:
    page = opened()
    (run / "model_000010.pt").write_bytes(b"PK no archive")
    page.run()
    assert not page.exception
    assert "Something failed while opening a model." in words(page)
    (run / "model_000010.pt").unlink()
    page.run()
    assert not page.exception
    assert "goes on with what is in memory" in words(page) or "there is none" in words(page)


def test_a_model_too_large_is_asked_about_first_and_a_busy_one_says_so(run, monkeypatch) -> None:
    monkeypatch.setattr(chat, "memory", lambda *_: chat.Memory(2_300_000_000, 1_100_000_000))
    page = opened()
    assert "it needs 2.3 GB, 1.1 GB free" in words(page)
    assert not page.dataframe
    page.button(key=f"{PAGE}_anyway").click().run()
    assert page.dataframe
    queue = page.session_state[f"{PAGE}_opened"][1].queue
    queue.at_once, queue.waiting = 0, 0
    page.text_area(key=f"{PAGE}_text").set_value("so it went").run()
    assert "the model is busy" in words(page)
    queue.at_once = 1
    page.run()
    assert "the model is busy" not in words(page)
    assert not page.error


def test_hostile_text_reaches_the_browser_as_data(run, monkeypatch) -> None:
    sent = []
    monkeypatch.setattr(attention_canvas, "_component", lambda: lambda **call: sent.append(call["data"]))
    page = opened()
    page.text_area(key=f"{PAGE}_text").set_value("<b>\u202e\x1b").run()
    assert not page.exception
    texts = sent[-1]["texts"]
    assert texts[1:4] == ["<", "b", ">"]
    assert all(character.isprintable() for text in texts for character in text)
    assert len(json.dumps(sent[-1])) < 2000


def test_many_heads_and_a_long_text_stay_small_on_the_wire(monkeypatch) -> None:
    """Also at 512 tokens of weights that are as hard to pack as softmax makes them: no pattern in them at all."""
    sent = []
    monkeypatch.setattr(attention_canvas, "_component", lambda: lambda **call: sent.append(call["data"]))
    weights = np.broadcast_to(np.eye(256), (20, 10, 256, 256))
    seen = [attention.visible_keys(256, 64)] * 20
    attention_canvas.grid(weights, seen, [[""] * 10] * 20, frozenset(), key="x", label="x")
    attention_canvas.matrix(weights[0, 0], seen[0], ["·word"] * 256, key="y", label="y")
    for spread in (0.5, 1.0, 2.0, 4.0):
        scores = np.where(attention.visible_keys(512, -1), np.random.default_rng(0).normal(0, spread, (512, 512)), -99)
        noise = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
        attention_canvas.matrix(noise, scores > -99, ["·wordlike"] * 512, key="z", label="z")
    assert all(len(json.dumps(data)) < 150 * 1024 for data in sent)


def test_cells_are_bytes_of_the_lower_triangle() -> None:
    weights = np.array([[1.0, 0, 0], [0.25, 0.75, 0], [0, 0.01, 0.99]])
    cells = attention_canvas.cells_of(weights, attention.visible_keys(3, 1))
    assert list(cells) == [255, 128, 221, 0, 26, 254]
    assert zlib.decompress(base64.b64decode(attention_canvas.packed(cells, cells))) == 2 * cells
