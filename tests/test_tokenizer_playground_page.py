"""The tokenizer playground's page: nothing trained, one run, a broken one, bad uploads; every view of it."""

import pytest
from streamlit.testing.v1 import AppTest

from nanochat import paths
from nanochat.analysis import tokenizer_playground as playground
from nanochat.tokenizer import train_tokenizer
from nanochat.ui.tokenizer_playground import PAGE, SAMPLE
from tests import page_support
from tests.page_support import words


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "nothing"))


def opened(view: str = "Tokens", **query: str) -> AppTest:
    return page_support.opened(PAGE, {"view": view, **query})


def metrics(page: AppTest) -> dict[str, str]:
    return {metric.label: metric.value for metric in page.metric}


def test_with_nothing_trained_it_teaches_with_the_example():
    page = opened()
    report = playground.tokenize(playground.open_place(playground.find_place(playground.EXAMPLE)), SAMPLE)
    assert metrics(page)["Tokens"] == f"{report.tokens:,}"
    assert metrics(page)["Characters a token"] == f"{report.characters_per_token:.2f}"
    assert "it is not in tiktoken's cache" in words(page)
    assert not page.error
    assert not paths.workspace().exists(), "looking must not create anything"


def test_a_runs_own_tokenizer_comes_first():
    tokenizer = train_tokenizer(["the little dog was happy"] * 3, 280)
    tokenizer.save(paths.workspace() / "base_checkpoints" / "tiny")
    page = opened()
    assert page.selectbox(key=f"{PAGE}_tokenizer").value == "base/tiny"
    assert metrics(page)["Tokens"] == f"{len(tokenizer.encode(SAMPLE)):,}"
    page.text_area(key=f"{PAGE}_text").set_value("little").run()
    assert metrics(page)["Tokens"] == str(len(tokenizer.encode("little")))


def test_a_broken_tokenizer_is_one_sentence_and_others_still_work():
    folder = paths.workspace() / "base_checkpoints" / "broken"
    folder.mkdir(parents=True)
    (folder / "tokenizer.json").write_bytes(b'{"format": "nanochat-lab tokenizer 1", "tok')
    page = opened()
    assert page.error[0].value == "Something failed while opening a tokenizer."
    assert "damaged or half written" in words(page)
    page.selectbox(key=f"{PAGE}_tokenizer").select("stories").run()
    assert not page.error
    assert "Tokens" in metrics(page)


def test_a_bad_upload_is_one_sentence():
    page = opened()
    page.file_uploader(key=f"{PAGE}_upload").set_value(("<b>.txt", b"abc\xff\xfe", "text/plain")).run()
    assert not page.exception
    assert "byte 4 is not UTF-8; save the file as UTF-8" in words(page)


def test_an_upload_and_a_path_take_the_place_of_the_text(tmp_path):
    page = opened()
    page.file_uploader(key=f"{PAGE}_upload").set_value(("a.txt", b"hello", "text/plain")).run()
    assert metrics(page)["Bytes"] == "5"
    page = opened()
    (tmp_path / "a.txt").write_text("hello you")
    page.text_input(key=f"{PAGE}_path").set_value(str(tmp_path / "a.txt")).run()
    assert metrics(page)["Bytes"] == "9"
    page.text_input(key=f"{PAGE}_path").set_value(str(tmp_path / "gone.txt")).run()
    assert "there is no such file" in words(page)


def test_merges_step_by_step():
    page = opened("Merges")
    page.text_area(key=f"{PAGE}_text").set_value("little dogs").run()
    report = playground.replay(playground.open_place(playground.find_place(playground.EXAMPLE)), "little dogs")
    assert page.slider(key=f"{PAGE}_step").value == 0
    assert page.button(key=f"{PAGE}_undo").disabled
    page.button(key=f"{PAGE}_play_arrow").click().run()
    row = report.frame.row(0, named=True)
    assert f"rank {row['rank']:,}: {row['left']} + {row['right']}" in words(page)
    page.slider(key=f"{PAGE}_step").set_value(report.steps).run()
    assert page.button(key=f"{PAGE}_play_arrow").disabled
    page.slider(key=f"{PAGE}_step").set_value(1).run()
    page.button(key=f"{PAGE}_undo").click().run()
    assert f"Before any merge: {report.start} bytes" in words(page)
    page.text_area(key=f"{PAGE}_text").set_value("§").run()
    assert "nothing merges" in words(page)


def test_vocabulary_compare_and_languages():
    page = opened("Vocabulary")
    assert metrics(page)["Tokens"] == "1,024"
    assert len(page.dataframe) == 5
    page = opened("Compare")
    page.text_area(key=f"{PAGE}_texts").set_value("the\n<script>alert(1)</script>").run()
    assert page.dataframe[0].value["name"].to_list() == ["the", "<script>alert(1)</script>"]
    page.multiselect(key=f"{PAGE}_others").set_value(["stories"]).run()
    assert len(page.dataframe) == 2
    page = opened("Languages")
    assert page.dataframe[0].value["name"].to_list() == list(playground.LANGUAGES)


def test_a_tokenizer_trained_here_can_be_chosen():
    page = opened("Train one")
    page.text_area(key=f"{PAGE}_corpus").set_value("hug hug pug").run()
    page.slider(key=f"{PAGE}_vocab_size").set_value(268).run()
    page.button(key=f"{PAGE}_train").click().run()
    assert "268 tokens, 3 of them merges" in words(page)
    assert page.dataframe[0].value["token"].to_list() == ["ug", "hug", "·p"]
    page.run()
    page.selectbox(key=f"{PAGE}_tokenizer").select("trained").run()
    page.segmented_control(key=f"{PAGE}_view").set_value("Tokens").run()
    page.text_area(key=f"{PAGE}_text").set_value("hug").run()
    assert metrics(page)["Tokens"] == "1"
    page.segmented_control(key=f"{PAGE}_view").set_value("Train one").run()
    page.text_area(key=f"{PAGE}_corpus").set_value(" ").run()
    page.button(key=f"{PAGE}_train").click().run()
    assert "nothing to learn" in words(page)


def test_chat_view_counts_what_the_model_writes():
    page = opened("Chat")
    assert "of them written by the model" in words(page)
    assert not page.exception


def test_a_hundred_thousand_characters_are_windowed():
    page = opened()
    page.text_area(key=f"{PAGE}_text").set_value("The little dog. " * 6250).run()
    assert not page.exception
    assert metrics(page)["Characters"] == "100,000"
    assert any("1 to 800 of" in caption.value for caption in page.caption)


def test_a_hostile_text_stays_text():
    page = opened()
    page.text_area(key=f"{PAGE}_text").set_value("<script>alert(1)</script>\u202e\x1b[31m").run()
    assert not page.exception
    assert "<script>" not in words(page)
