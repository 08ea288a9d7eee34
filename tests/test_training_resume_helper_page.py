"""The resume helper's page: nothing trained, a run, a broken run, a link to a step, and a proof that cannot be."""

from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from nanochat import jobs, paths
from nanochat.analysis import training_resume_helper as helper
from nanochat.durable import directory_lock
from tests import page_support
from tests.archive_support import flip
from tests.checkpoint_support import save_like_nanochat, save_ours
from tests.page_support import words
from tests.support import FIXTURES, needs_fixtures
from tests.test_training_resume_helper_background import BEFORE, LOSSES, made_job

PAGE = Path(__file__).parents[1] / "pages" / "training_resume_helper.py"


def opened(**query: str) -> AppTest:
    return page_support.opened("training_resume_helper", query)


def test_nothing_trained_teaches_and_offers_the_drill() -> None:
    page = opened()
    shown = words(page)
    assert "No run yet" in shown
    assert "The drill" in shown
    assert page.button(key="training_resume_helper_kill")


@needs_fixtures
def test_a_step_of_a_real_run_by_link(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(FIXTURES / "nanochat_2026_07_03"))
    page = opened(run="nanochat:base/d4", step="40")
    figures = {metric.label: metric.value for metric in page.metric}
    assert figures["Checkpoint"] == "step 40"
    assert figures["Progress"] == "33.3%"
    assert figures["Updates left"] == "80"
    shown = words(page)
    assert "nanochat base_train --model-tag d4" in shown
    assert "load_checkpoint(" in shown
    page.number_input(key="training_resume_helper_target").set_value(400).run()
    assert "360" in [metric.value for metric in page.metric]


def test_a_broken_run_says_what_is_wrong() -> None:
    run = save_like_nanochat(paths.workspace() / "base_checkpoints" / "d4")
    (run / "model_000010.pt").write_bytes(b"not a model")
    assert "no checkpoint that can be used" in words(opened())


def test_every_byte_is_read_when_asked_for() -> None:
    run = save_ours(paths.workspace() / "base_checkpoints" / "d4")
    flip(run / "model_000010.pt", (run / "model_000010.pt").stat().st_size // 2)
    page = opened(step="10")
    assert "The checkpoint is whole" in words(page)
    page.toggle(key="training_resume_helper_full").set_value(True).run()
    assert "This checkpoint is broken." in words(page)


def test_a_proof_that_cannot_be_is_a_sentence() -> None:
    save_like_nanochat(paths.workspace() / "base_checkpoints" / "d4")
    page = opened()
    page.button(key="training_resume_helper_prove").click().run()
    assert not page.exception
    assert "There is no proof." in words(page)


def test_a_proof_that_runs_and_one_that_is_over_survive_a_reload() -> None:
    folder = save_ours(paths.workspace() / "base_checkpoints" / "d4")
    facts = {"folder": str(folder), "step": 10}
    running = made_job(helper.PROOF, "running", helper.said(helper.Again(10, 2.0, 3, 7)), **facts)
    with directory_lock(running.folder):
        page = opened(step="10")
        assert page.button(key=f"training_resume_helper_stop_{running.id}")
        assert "It goes on if you close this page" in words(page)
        assert "training_resume_helper_prove" not in {button.key for button in page.button}
    assert "killed, or the machine was" in words(opened(step="10"))
    proof = helper.Proof("exact", "Yes, exactly: all 7 losses.", LOSSES, BEFORE, "nanochat base_train --resume")
    made_job(helper.PROOF, "finished", helper.said(proof), number=2, **facts)
    page = opened(step="10")
    assert "Yes, exactly: all 7 losses." in words(page)
    assert page.button(key="training_resume_helper_prove").label == "Prove it again"
    made_job(helper.PROOF, "failed", "training_resume_helper: <b>alas</b>", number=3, **facts)
    assert "training_resume_helper: <b>alas</b>" in [text.value for text in opened(step="10").text]
    made_job(helper.PROOF, "stopped", number=4, **facts)
    assert "It was stopped." in words(opened(step="10"))


def test_the_button_starts_a_job_and_the_train_page_does_not_list_it(monkeypatch: pytest.MonkeyPatch) -> None:
    save_ours(paths.workspace() / "base_checkpoints" / "d4")
    job = made_job(helper.PROOF, "finished", number=5)
    monkeypatch.setattr(helper, "proof_job", lambda report, steps: started.append((report.step, steps)) or job)
    started: list[tuple[int, int]] = []
    page = opened(step="10")
    page.button(key="training_resume_helper_prove").click().run()
    assert not page.exception
    assert started == [(10, 10)]
    train = AppTest.from_file(str(PAGE.with_name("train.py")), default_timeout=60).run()
    assert not train.exception
    assert not [box for box in train.selectbox if box.label == "Trainings"]


def test_the_drill_asks_before_it_recovers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    report = helper.inspect(save_ours(tmp_path / "base_checkpoints" / "d4", step=40))
    cut = helper.Scene("Power cut", "The process was killed.", "kill -9", report)
    killed = made_job(helper.DRILL, "finished", helper.said(cut), part="kill", scratch="x")
    page = opened()
    page.radio(key="training_resume_helper_answer").set_value(20).run()
    assert "Not that one" in words(page)
    page.radio(key="training_resume_helper_answer").set_value(40).run()
    done = helper.Scene("Recovered", "Yes, exactly.", "x", report, LOSSES, True)

    def recover(after: jobs.Job) -> jobs.Job:
        assert after == killed
        facts = {"part": "recover", "scratch": "x", "after": after.id}
        return made_job(helper.DRILL, "finished", helper.said(done), number=2, **facts)

    monkeypatch.setattr(helper, "drill_job", recover)
    page.button(key="training_resume_helper_recover").click().run()
    assert not page.exception
    assert "Recovered. Yes, exactly." in words(page)
    assert "Power cut" in words(page)
    assert "Recovered. Yes, exactly." in words(opened())  # a reload, or a second tab
    made_job(helper.DRILL, "failed", "training_resume_helper: the drill's base_train broke off", number=3, part="kill")
    assert "It broke off." in words(opened())
