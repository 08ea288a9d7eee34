"""The training dashboard's page: nothing trained, one run, a broken run, several runs, a log, and links to a part."""

import pytest
from streamlit.testing.v1 import AppTest

from nanochat import paths
from nanochat.analysis import training_dashboard as dashboard
from tests import page_support
from tests.page_support import words
from tests.support import FIXTURES, needs_fixtures
from tests.test_training_dashboard import falling, record, written


def opened(**query: str | list[str]) -> AppTest:
    return page_support.opened("training_dashboard", query)


def test_nothing_trained_teaches() -> None:
    shown = words(opened())
    assert "No training yet" in shown
    assert "nanochat demo" in shown
    assert "How to read a curve" in shown


def test_one_run_has_figures_marks_and_a_curve() -> None:
    lines = [*falling(300), record(300, None, val_bpb=1.25)]
    lines[200]["train_loss"] = 30.0
    written(paths.workspace(), lines)
    page = opened()
    assert [metric.value for metric in page.metric if metric.label in ("Step", "Val BPB")] == ["300", "1.2500"]
    shown = words(page)
    assert "Step 200: the loss jumped" in shown
    assert "Cut off above: 30 at step 200" in shown


def test_several_runs_are_laid_over_each_other_and_a_part_is_a_link() -> None:
    for tag in ("a", "b"):
        written(paths.workspace(), falling(100), f"base_checkpoints/{tag}")
    page = opened(run=["base/a", "base/b"], low="20", high="60", axis="tokens")
    assert page.multiselect(key="training_dashboard_run").value == ["base/a", "base/b"]
    assert len(page.dataframe[0].value) == 2
    assert page.number_input(key="training_dashboard_low").value == 20


def test_a_broken_run_is_a_sentence_and_the_others_are_shown() -> None:
    written(paths.workspace(), falling(50), "base_checkpoints/good")
    broken = paths.workspace() / "base_checkpoints" / "bad"
    broken.mkdir()
    (broken / "metrics.jsonl").write_bytes(b"\x00" * 3000)
    page = opened(run=["base/good", "base/bad"])
    shown = words(page)
    assert "A run cannot be shown." in shown
    assert "no text file" in shown
    assert "49" in [metric.value for metric in page.metric]


def test_scripts_and_controls_in_names_and_problems_stay_text() -> None:
    folder = written(paths.workspace(), falling(20), "base_checkpoints/<script>alert(1)</script>\x1b[31m"[:-6])
    (folder / "metrics.jsonl").write_text((folder / "metrics.jsonl").read_text() + '{"step": "<b>\\u001b"}\n')
    page = opened()
    assert "\x1b" not in words(page)
    assert not [element for element in page.markdown if "<script>" in element.value and element.allow_html]


@needs_fixtures
def test_a_log_somewhere_else() -> None:
    page = opened()
    log = FIXTURES / "nanochat_2026_07_03/logs/base_train.log"
    page.text_input(key="training_dashboard_log").set_value(str(log)).run()
    assert "120 of 120" in [metric.value for metric in page.metric]
    page.text_input(key="training_dashboard_log").set_value("/gone.log").run()
    assert "there is no such file" in words(page)


def test_a_zoom_outlives_a_redrawing_that_was_asked_for_before_it() -> None:
    written(paths.workspace(), falling(100))
    zoom = ((None, None), (20.0, 60.0), True)  # dragged, and drawn once
    page = page_support.opened("training_dashboard", {}, {"training_dashboard_zoom": zoom})
    fields = [page.number_input(key=f"training_dashboard_{name}") for name in ("low", "high")]
    assert [field.value for field in fields] == [20, 60]  # the browser sent the ends of before, and they are put back
    fields[0].set_value(30).run()
    assert [page.number_input(key=f"training_dashboard_{name}").value for name in ("low", "high")] == [30, 60]
    for name in ("low", "high"):
        page.number_input(key=f"training_dashboard_{name}").set_value(None)
    page.run()
    assert page.number_input(key="training_dashboard_high").value is None  # what somebody wants is left as it is


def test_a_part_of_one_run_is_no_part_of_another() -> None:
    for tag in ("a", "b"):
        written(paths.workspace(), falling(100), f"base_checkpoints/{tag}")
    page = opened(run=["base/a"], low="20", high="60")
    page.multiselect(key="training_dashboard_run").set_value(["base/a", "base/b"]).run()
    assert page.number_input(key="training_dashboard_low").value == 20
    page.multiselect(key="training_dashboard_run").set_value(["base/b"]).run()
    assert page.number_input(key="training_dashboard_low").value == 20
    page.session_state["training_dashboard_zoom"] = ((None, None), (20.0, 60.0), True)  # its last drag, drawn once
    page.multiselect(key="training_dashboard_run").set_value(["base/a"]).run()
    assert page.number_input(key="training_dashboard_low").value is None


def test_nothing_lies_in_the_part() -> None:
    written(paths.workspace(), falling(50))
    assert "nothing lies in the part" in words(opened(low="1000", high="2000"))
    assert "give a larger end" in words(opened(low="30", high="10"))


def test_a_run_that_is_being_written_is_live(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = written(paths.workspace(), falling(50))
    assert "Live" in words(opened())  # it was written a moment ago
    import os
    import time

    os.utime(folder / "metrics.jsonl", (time.time() - 1000,) * 2)
    assert not dashboard.open_run(folder).live
    assert "Live" not in words(opened())


@needs_fixtures
def test_a_log_that_is_uploaded_and_one_that_is_none() -> None:
    page = opened()
    content = (FIXTURES / "nanochat_2026_07_03/logs/base_train.log").read_bytes()
    page.file_uploader(key="training_dashboard_upload").set_value(("base_train.log", content, "text/plain")).run()
    assert not page.exception
    assert "120 of 120" in [metric.value for metric in page.metric]
    page.file_uploader(key="training_dashboard_upload").set_value(("letter.log", b"Dear reader\n", "text/plain")).run()
    assert not page.exception
    assert "The upload cannot be shown." in words(page)
