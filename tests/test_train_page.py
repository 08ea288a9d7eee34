"""The Train page: a fresh machine, a job that runs, one that failed, one that ended, and settings that cannot be."""

import json
import time

import pytest
from streamlit.testing.v1 import AppTest

from nanochat import jobs, paths
from nanochat.analysis import train
from tests import page_support
from tests.page_support import words
from tests.sft_support import pretrained_base


@pytest.fixture(autouse=True)
def a_known_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "probe", lambda: 1e11)


def opened() -> AppTest:
    return page_support.opened("train", {})


def a_job(state: str, *lines: dict | str, name: str = "20260101-120000", ago: float = 100.0) -> jobs.Job:
    """A job as its supervisor would have left it; `ago` seconds old."""
    folder = jobs.folder_of_jobs() / name
    folder.mkdir(parents=True)
    facts = {"kind": "demo", "tag": "demo", "stages": ["base", "sft"], "seconds": 68, "vocab_size": 1280}
    job = {"id": folder.name, "title": "First model", "commands": [["x"]], "begun": time.time() - ago, "facts": facts}
    (folder / jobs.JOB_NAME).write_text(json.dumps(job))
    (folder / jobs.STATE_NAME).write_text(json.dumps({"state": state, "command": 0, "code": 1, "pid": 1}))
    said = [item if isinstance(item, str) else json.dumps(item) for item in lines]
    (folder / jobs.LOG_NAME).write_text("".join(item + "\n" for item in said))
    return jobs.find(folder.name)


STEPS = [
    {"event": "Step", "stage": "base", "record": {"step": s, "time": s / 10, "tokens": s, "train_loss": 2.0,
                                                  "smooth_loss": 2.5, "tokens_per_second": 9000.0}}
    for s in range(5)
]  # fmt: skip
REPORT = {
    "event": "Report", "val_bpb": 0.18, "floor": 0.17, "ngram_bpb": 0.34, "writing": {"accepted": 80},
    "answers": [["Who are you?", "I am Pip."]],
}  # fmt: skip


def test_a_fresh_machine_sees_what_it_would_start() -> None:
    page = opened()
    assert "884,814" in words(page)
    assert "nanochat demo --budget 60" in words(page)
    assert page.button(key="train_start").label == "Start"


def test_start_begins_a_job_and_shows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    started = []

    def start(title: str, commands, facts) -> jobs.Job:
        started.append((title, commands, facts))
        return a_job("running", *STEPS)

    monkeypatch.setattr(jobs, "start", start)
    page = opened()
    page.button(key="train_start").click().run()
    assert not page.exception
    assert [(title, commands[0][0]) for title, commands, _ in started] == [("First model", "nanochat.scripts.demo")]
    assert "First model: demo" in words(page)
    assert "9,000" in words(page)


def test_a_job_that_ended_leads_on() -> None:
    a_job("finished", *STEPS, REPORT)
    page = opened()
    page.selectbox(key="train_job").set_value("20260101-120000").run()
    shown = words(page)
    assert "Done. Now look inside:" in shown
    assert "I am Pip." in shown
    assert "0.1800" in shown
    assert "nanochat chat_cli -i sft -g demo" in shown


def test_a_first_model_that_was_stopped_leads_to_the_stage_that_it_reached() -> None:
    a_job("stopped", *STEPS)
    for stage in ("base", "sft"):
        paths.run_folder(paths.workspace(), stage, "demo").mkdir(parents=True)
        page = opened()
        page.selectbox(key="train_job").set_value("20260101-120000").run()
        assert "Stopped; what it had was saved." in words(page)
        assert f"nanochat chat_cli -i {stage} -g demo" in words(page)


def test_a_training_whose_name_was_taken_says_that_its_links_lead_elsewhere() -> None:
    a_job("finished", *STEPS, REPORT)
    a_job("finished", *STEPS, REPORT, name="20260101-130000", ago=50.0)
    page = opened()
    page.selectbox(key="train_job").set_value("20260101-120000").run()
    assert "A later training has taken this one's name" in words(page)
    page.selectbox(key="train_job").set_value("20260101-130000").run()
    assert "A later training has taken this one's name" not in words(page)


def test_a_fine_tuning_shows_what_it_answers() -> None:
    answer = {"question": "Who is ![Ada](http://a.b)?", "expected": "A dog.", "reply": "A cat.\x1b[31m", "right": False}
    score = {"name": "chats", "split": "train", "right": 1, "asked": 2, "too_long": 0, "examples": [answer]}
    a_job("finished", *STEPS, {"event": "Scores", "scores": [score]})
    page = opened()
    page.selectbox(key="train_job").set_value("20260101-120000").run()
    assert not page.exception
    table = page.dataframe[-1].value
    assert table["seen in training"].tolist() == ["1/2"]
    assert table["not seen"].tolist() == ["none"]
    assert "by heart" in words(page)
    shown = words(page)
    assert "A dog." in shown
    assert r"A cat.\x1b" in shown
    assert not [one for one in page.markdown if "![Ada](" in one.value], "text of a data set is no Markdown"


def test_scores_that_are_none_are_no_failure() -> None:
    a_job("finished", *STEPS, *({"event": "Scores", "scores": scores} for scores in ([{}], 5, [{"new": 1}], None)))
    page = opened()
    page.selectbox(key="train_job").set_value("20260101-120000").run()
    assert not page.exception
    assert "Done. Now look inside:" in words(page)
    assert "Asked afterwards" not in words(page)


@pytest.mark.parametrize(("state", "said"), [("failed", "It failed."), ("running", "It ended without a word")])
def test_a_job_that_broke_says_why(state: str, said: str) -> None:
    a_job(state, *STEPS, "the disk is full <script>alert(1)</script> \x1b[31m")
    page = opened()
    page.selectbox(key="train_job").set_value("20260101-120000").run()
    assert said in words(page)
    assert "the disk is full <script>" in "\n".join(text.value for text in page.text)
    assert "\x1b" not in words(page)
    page.button(key="train_back").click().run()
    assert page.button(key="train_start").label == "Start"


def test_settings_that_cannot_be_are_a_sentence_and_no_button() -> None:
    page = opened()
    page.text_input(key="train_tag").set_value("../up").run()
    assert "cannot be a run's folder" in words(page)
    assert not [button for button in page.button if button.key == "train_start"]


def test_fine_tuning_says_what_it_needs() -> None:
    page = opened()
    page.segmented_control(key="train_kind").set_value("chat_sft").run()
    assert "pretrain one first" in words(page)


def test_fine_tuning_says_what_is_in_the_file_and_what_it_would_refuse(tmp_path) -> None:
    pretrained_base(paths.workspace())
    file = tmp_path / "mine.jsonl"
    line = json.dumps([{"role": "user", "content": "cat?"}, {"role": "assistant", "content": "yes " * 30}]) + "\n"
    file.write_text(line * 3)
    page = page_support.opened("train", {}, {"train_kind": "chat_sft", "train_data": str(file)})
    assert "3 conversations, about" in words(page)
    assert "it learns them by heart" in words(page)
    assert "About 3 are longer than the 64 tokens" in words(page)
    (meta,) = (paths.workspace() / "base_checkpoints" / "d2").glob("meta_*.json")
    other = json.loads(meta.read_text())
    other["model_config"]["sequence_len"] = 96
    del other["lab"]
    meta.unlink()
    meta.write_text(json.dumps(other))
    page.run()
    assert "About 3 are longer than the 96 tokens" in words(page), "the run is another now"
    file.write_text(line + "[]\n")
    page.run()
    assert "would end at its beginning" in words(page)
    assert "line 2" in words(page)


def test_a_broken_workspace_is_a_sentence() -> None:
    paths.workspace().parent.mkdir(parents=True, exist_ok=True)
    paths.workspace().write_text("no folder")
    page = opened()
    page.button(key="train_start").click().run()
    assert not page.exception
    assert "set NANOCHAT_LAB_DIR" in words(page)


def test_an_uploaded_text_is_kept_where_a_training_finds_it():
    page = page_support.opened("train", {}, {"train_corpus": "file"})
    text = b'{"text": "A cat sat."}\n' * 50
    page.file_uploader[0].upload("mine.JSONL", text).run()
    assert not page.exception
    (kept,) = (paths.workspace() / "uploads").iterdir()
    assert kept.suffix == ".jsonl"
    assert kept.read_bytes() == text
    assert f"Kept as {kept}" in words(page)
    kept.unlink()
    page.run()
    assert kept.read_bytes() == text, "deleted while the upload is there: written again"


def test_a_model_that_talks_is_replaced_only_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nanochat.ui.train._base_run", lambda: "d4")
    (paths.workspace() / "chatsft_checkpoints" / "d4").mkdir(parents=True)
    page = page_support.opened("train", {}, {"train_kind": "chat_sft"})
    assert "--output-tag d4-2" in words(page)
    assert not page.button(key="train_start").disabled
    page.text_input(key="train_tag").set_value("d4").run()
    assert "this one would replace it" in words(page)
    assert page.button(key="train_start").disabled
    page.checkbox(key="train_replace_d4").check().run()
    assert not page.button(key="train_start").disabled
