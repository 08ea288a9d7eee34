"""The learning-rate finder's page: nothing trained, real runs, a new test, and what became of tests."""

import json
import math
import time
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from streamlit.testing.v1 import AppTest

from nanochat import jobs, paths
from nanochat.analysis.lr_finder import POINTS, Settings, Trial, range_test
from tests import page_support
from tests.checkpoint_support import save_like_nanochat, save_ours
from tests.page_support import words
from tests.support import FIXTURES, fixture_dirs, needs_fixtures

JOB = "20260101-120000"
IDS = [
    pytest.param(base, f"nanochat:{folder.parent.name.split('_')[0].removeprefix('chat')}/{folder.name}",
                 marks=() if base == fixture_dirs()[-1] else pytest.mark.prove)
    for base in fixture_dirs() for folder in sorted(base.glob("*_checkpoints/*"))
]  # fmt: skip


def opened(**query: str) -> AppTest:
    return page_support.opened("lr_finder", query)


def curve() -> list[list[Any]]:
    """The points of a sweep with a clear minimum, two seeds."""
    settings = Settings(seeds=2)
    rows = []
    for seed in range(2):
        for index in range(100):
            place = math.log10(settings.factor(index))
            loss = 6 - 3 / (1 + math.exp(-3 * place)) + 5 / (1 + math.exp(-5 * (place - 2.2)))
            rows.append(["all", seed, index, settings.factor(index), loss, loss + 0.01 * seed])
    return rows


def log_of(points: list[list[Any]], steps: list[list[Any]] = [], trial: bool = False) -> list[str]:  # noqa: B006
    begun = {"event": "Begun", "name": "d1, fresh", "rates": {"matrix": 0.02}, "notes": ["text: stories"],
             "settings": Settings(seeds=2).__dict__, "trial": Trial(10).__dict__ if trial else None}  # fmt: skip
    said = [{"event": "Point", "values": row} for row in points]
    said += [{"event": "TrialStep", "values": row} for row in steps]
    return [json.dumps(one) for one in [begun, *said]]


def a_job(state: str, lines: list[str], kind: str = "lr_finder") -> jobs.Job:
    """A job as its supervisor would have left it, of the run base/d1."""
    folder = jobs.folder_of_jobs() / JOB
    folder.mkdir(parents=True)
    facts = {"kind": kind, "tag": "d1", "folder": str(save_ours(paths.workspace() / "base_checkpoints" / "d1"))}
    job = {"id": JOB, "title": "Range test", "commands": [["x"]], "begun": time.time() - 100, "facts": facts}
    (folder / jobs.JOB_NAME).write_text(json.dumps(job))
    (folder / jobs.STATE_NAME).write_text(json.dumps({"state": state, "command": 0, "code": 1, "pid": 1}))
    (folder / jobs.LOG_NAME).write_text("".join(line + "\n" for line in lines))
    return jobs.find(JOB)


def test_nothing_trained_teaches() -> None:
    shown = words(opened())
    assert "No model yet" in shown
    assert "What a learning rate is." in shown


@needs_fixtures
@pytest.mark.parametrize(("base", "name"), IDS)
def test_every_real_run_opens_by_link(monkeypatch: pytest.MonkeyPatch, base: Path, name: str) -> None:
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(base))
    page = opened(run=name)
    assert page.selectbox(key="lr_finder_run").value == name
    assert "Schedule: " in words(page)
    assert len(page.metric) >= 4


@needs_fixtures
def test_the_figures_of_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(FIXTURES / "nanochat_2026_07_03"))
    page = opened(run="nanochat:base/d4")
    figures = {metric.label: metric.value for metric in page.metric}
    assert figures["Highest rate"] == "0.019887"
    assert figures["Lowest training loss"] == "4.1659"
    assert figures["Recommended"] == "0.019887"
    shown = words(page)
    assert "Schedule: warmup_decay" in shown
    assert "warmup-stable-decay, linear: it rises up to step" in shown
    assert "Excellent!" in shown


def test_a_run_without_history_and_a_broken_file() -> None:
    run = save_like_nanochat(paths.workspace() / "base_checkpoints" / "d4")
    (run / "metrics.jsonl").write_text('{"step": 1}\n{broken')
    shown = words(opened())
    assert "Schedule: unknown" in shown
    assert "Name the training's log" in shown


def test_a_new_test_is_a_command_and_a_job(monkeypatch: pytest.MonkeyPatch) -> None:
    run = save_ours(paths.workspace() / "base_checkpoints" / "d1")
    started: list[Any] = []

    def start(title: str, commands: Any, facts: Any) -> jobs.Job:
        started.append((commands, facts))
        return a_job("running", log_of(curve()[:30]))

    page = opened(view="range test", length="short", start="trained")
    page.toggle(key="lr_finder_each").set_value(True)
    page.text_input(key="lr_finder_data").set_value("stories").run()
    command = next(code.value for code in page.code if "--range-test" in code.value)
    assert command.startswith(f"nanochat lr_finder {run} --range-test --low 0.001 --high 10000 --sweep-steps 60")
    assert command.endswith("--seeds 1 --start trained --trial --groups each --data stories")
    monkeypatch.setattr(jobs, "start", start)
    page.button(key="lr_finder_go").click().run()
    assert not page.exception
    ((commands, facts),) = started
    assert commands[0][0] == "nanochat.tools.lr_finder"
    assert commands[0][-1] == "--events"
    assert (facts["kind"], facts["folder"]) == ("lr_finder", str(run))
    assert page.selectbox(key="lr_finder_job").value == JOB


def test_a_test_that_ended_says_what_it_found() -> None:
    a_job("finished", log_of(curve()))
    page = opened(view="range test", job=JOB)
    shown = words(page)
    assert "All groups: factor " in shown
    assert "a tenth of the factor with the lowest loss. By seed: " in shown
    assert "text: stories" in shown
    assert len(page.dataframe) == 2  # the curve's points, and the rates
    page.selectbox(key="lr_finder_job").set_value("").run()
    assert page.button(key="lr_finder_go")


def test_where_short_runs_say_better_the_rates_are_theirs() -> None:
    settings = Settings(seeds=2)
    found = range_test(pl.DataFrame(curve(), POINTS, orient="row"), settings, {"matrix": 0.02})
    chosen = found.curves[0].suggestions.chosen
    assert chosen is not None
    losses = {chosen / 3: 2.0, chosen: 2.2, chosen * 3: 2.1}
    steps = [[factor, 0, step, loss] for factor, loss in losses.items() for step in range(10)]
    a_job("finished", log_of(curve(), steps, trial=True))
    page = opened(view="range test", job=JOB)
    assert "a rate 3 times lower ended at 2.0000, against 2.2000. Take that one." in words(page)
    (rates,) = [frame.value for frame in page.dataframe if "suggested" in frame.value]
    assert rates["suggested"].tolist() == pytest.approx([0.02 * chosen / 3])


@pytest.mark.parametrize(
    ("state", "said"), [("failed", "The test failed."), ("running", "The test failed."), ("stopped", "Stopped; this")]
)
def test_a_test_that_broke_or_stopped(state: str, said: str) -> None:
    """A job that is said to run and whose supervisor is gone is lost."""
    a_job(state, [*log_of(curve()[:40]), "lr_finder: the text is gone <b>\x1b[31m"])
    shown = words(opened(view="range test", job=JOB))
    assert said in shown
    assert "\x1b" not in shown
    assert ("the text is gone <b>" in shown) == (state != "stopped")
    assert "All groups: no clear minimum" in shown


def test_a_log_of_another_version_is_a_sentence() -> None:
    a_job("finished", ['{"event": "Begun", "settings": {"speed": 3}}'])
    assert "start a new test" in words(opened(view="range test", job=JOB))


def test_each_page_lists_its_own_jobs() -> None:
    a_job("finished", log_of(curve()), kind="demo")
    page = opened(view="range test", job=JOB)
    assert "lr_finder_job" not in [box.key for box in page.selectbox]
