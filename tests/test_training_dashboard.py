"""The training dashboard's analysis: real runs with the logs that belong to them, curves, marks, levels, bad input."""

import json
import math
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from nanochat.analysis import training_dashboard as dashboard
from nanochat.analysis.training_dashboard.levels import unigram_entropy
from nanochat.charts import in_place
from nanochat.charts.training_dashboard import curve_chart
from nanochat.checkpoint_runs import find_runs
from nanochat.dataset import Dataset, Texts
from nanochat.metrics import MetricsError
from tests.checkpoint_support import make_tokenizer, save_like_nanochat, save_ours
from tests.support import FIXTURES, fixture_dirs, needs_fixtures

NEWEST = FIXTURES / "nanochat_2026_07_03"


def record(step: int, loss: float | None, **changes: Any) -> dict[str, Any]:
    """A line of metrics.jsonl."""
    line = {
        "step": step, "time": 0.1 * (step + 1), "tokens": 64 * (step + 1), "train_loss": loss, "smooth_loss": loss,
        "val_bpb": None, "learning_rate": 0.02, "learning_rates": {"matrix": 0.02}, "lr_multiplier": 1.0,
        "grad_norm": 1.0, "tokens_per_second": 640.0, "mfu": None, "flops": 1000 * step, "events": [],
    }  # fmt: skip
    return line | changes


def written(folder: Path, records: list[dict[str, Any]], name: str = "base_checkpoints/d4") -> Path:
    """A run's folder with these records."""
    run = folder / name
    run.mkdir(parents=True, exist_ok=True)
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in records))
    return run


def falling(count: int, **changes: Any) -> list[dict[str, Any]]:
    """A healthy run: the loss falls all the way and wobbles a little."""
    return [record(s, 2 + 5 * math.exp(-3 * s / count) + 0.02 * math.sin(7.3 * s), **changes) for s in range(count)]


@needs_fixtures
@pytest.mark.parametrize("base", fixture_dirs(), ids=lambda path: path.name)
def test_every_run_of_every_date_has_the_figures_of_its_log_and_its_meta(base: Path) -> None:
    for run in find_runs(base):
        history = dashboard.open_run(run.folder)
        found = dashboard.summary(history)
        assert found.checkpoints == len(run.steps)
        assert found.last == run.steps[-1]
        meta = json.loads((run.folder / f"meta_{run.steps[-1]:06d}.json").read_text())
        if isinstance(meta.get("val_bpb"), float):
            assert found.val_bpb.value == pytest.approx(meta["val_bpb"], abs=6e-5)
        else:
            assert found.val_bpb.value is None
            assert found.val_bpb.source  # why not
        for column, reason in history.missing.items():
            assert history.frame[column].null_count() == len(history.frame)
            assert reason


@needs_fixtures
def test_steps_of_a_log_come_out_as_they_were_printed() -> None:
    printed = re.findall(
        r"^step (\d+)/\d+ .*?loss: ([\d.]+) \| lrm: ([\d.]+)",
        (NEWEST / "logs/base_train.log").read_text(),
        re.MULTILINE,
    )
    frame = dashboard.open_run(NEWEST / "base_checkpoints/d4").frame
    assert len(printed) == 120
    for step, smooth, factor in printed:
        row = frame.row(by_predicate=pl.col("step") == int(step), named=True)
        assert (row["smooth_loss"], row["lr_multiplier"]) == (float(smooth), float(factor))
    # 0.45 times the root of 1024 / 2^19 is the full rate; the log tells the factor alone.
    assert frame["learning_rate"][50] == pytest.approx(
        0.45 * (1024 / 2**19) ** 0.5 * frame["lr_multiplier"][50], rel=1e-3
    )


@needs_fixtures
def test_a_log_belongs_to_the_run_whose_figures_it_printed() -> None:
    d4, bf16 = (dashboard.open_run(NEWEST / "base_checkpoints" / tag) for tag in ("d4", "d4_bf16"))
    used = [{Path(file).name for file in one.rows["file"]} for one in (d4, bf16)]
    assert "base_train.log" in used[0]
    assert not used[0] & {"base_train_resume80.log", "base_train_bf16.log", "base_train_compiled_lowlr.log"}
    assert {name for name in used[1] if name.endswith(".log")} == {"base_train_bf16.log"}
    with pytest.raises(MetricsError, match="other figures than the meta files"):
        dashboard.open_run(NEWEST / "base_checkpoints/d4", [NEWEST / "logs/base_train_resume80.log"])


@needs_fixtures
def test_a_log_of_a_resumed_process_replaces_what_came_after(tmp_path: Path) -> None:
    run = tmp_path / "base_checkpoints/d4"
    run.mkdir(parents=True)
    for step in (40, 80):
        for name in (f"meta_{step:06d}.json", f"model_{step:06d}.pt"):
            shutil.copy(NEWEST / "base_checkpoints/d4" / name, run / name)
    logs = [NEWEST / "logs" / name for name in ("base_train.log", "base_train_resume80.log")]
    history = dashboard.open_run(run, logs)
    resumed = float(re.search(r"^step 00100/.*?loss: ([\d.]+)", logs[1].read_text(), re.MULTILINE)[1])  # type: ignore[index]
    before = float(re.search(r"^step 00079/.*?loss: ([\d.]+)", logs[0].read_text(), re.MULTILINE)[1])  # type: ignore[index]
    by_step = dict(history.frame.select("step", "smooth_loss").iter_rows())
    assert (by_step[79], by_step[100]) == (before, resumed)
    assert [mark.step for mark in dashboard.marks(history) if mark.kind == "resumed"] == [80]


@needs_fixtures
def test_a_log_alone_is_enough() -> None:
    (history,) = dashboard.open_log(NEWEST / "logs/base_train.log")
    assert (history.last, history.horizon, history.stage) == (120, 120, "base")
    assert dashboard.summary(history).best.value == pytest.approx(2.416657)
    assert dashboard.levels(history)[0][0].value == pytest.approx(math.log(1024))


def test_the_latest_figures_name_file_and_line(tmp_path: Path) -> None:
    lines = [*falling(30), record(30, None, val_bpb=1.5, learning_rate=None, events=["evaluation"])]
    found = dashboard.summary(dashboard.open_run(written(tmp_path, lines)))
    assert (found.val_bpb.value, found.val_bpb.step, found.val_bpb.source) == (1.5, 30, "metrics.jsonl, line 31")
    assert found.train_loss.step == 29
    assert found.best.value == 1.5


def test_a_run_without_figures_says_why(tmp_path: Path) -> None:
    run = save_like_nanochat(tmp_path / "base_checkpoints/d4")
    history = dashboard.open_run(run)
    found = dashboard.summary(history)
    assert found.train_loss.value is None
    assert "no log of this run was found" in found.train_loss.source
    assert dashboard.progress(history)["saved"].to_list() == [True]


def test_a_spike_of_one_step_survives_at_every_zoom(tmp_path: Path) -> None:
    lines = falling(20_000)
    lines[12_345]["train_loss"] = 99.0
    history = dashboard.open_run(written(tmp_path, lines))
    for low, high in ((None, None), (12_000, 13_000), (12_340, 12_350)):
        points = dashboard.curve([history], "train_loss", dashboard.Look(low=low, high=high, points=100))
        assert len(points) <= 100
        assert points["high"].max() == 99.0
    assert points["step"].to_list() == list(range(12_340, 12_351))


def test_smoothing_is_the_debiased_average_that_nanochat_prints(tmp_path: Path) -> None:
    lines = falling(40)
    points = dashboard.curve(
        [dashboard.open_run(written(tmp_path, lines))], "train_loss", dashboard.Look(smoothing=0.9)
    )
    average = 0.0
    for step, line in enumerate(lines):
        average = 0.9 * average + 0.1 * line["train_loss"]
        assert points["value"][step] == pytest.approx(average / (1 - 0.9 ** (step + 1)))
    raw = dashboard.curve(
        [dashboard.open_run(tmp_path / "base_checkpoints/d4")], "train_loss", dashboard.Look(smoothing=0)
    )
    assert raw["value"].to_list() == [line["train_loss"] for line in lines]


@pytest.mark.parametrize(("axis", "last"), [("step", 29), ("tokens", 1920), ("time", 3.0), ("flops", 29_000)])
def test_four_axes(tmp_path: Path, axis: str, last: float) -> None:
    history = dashboard.open_run(written(tmp_path, falling(30)))
    points = dashboard.curve([history], "train_loss", dashboard.Look(axis=axis))
    assert points["x"][-1] == pytest.approx(last)
    assert dashboard.extent([history], axis)[1] == pytest.approx(last)  # type: ignore[index]
    log = dashboard.curve([history], "train_loss", dashboard.Look(axis=axis, log_x=True))
    assert log["x"].min() > 0  # type: ignore[operator]


def kinds(folder: Path, lines: list[dict[str, Any]]) -> dict[str, list[int]]:
    """Kind -> steps of what is found on these records."""
    found: dict[str, list[int]] = {}
    for mark in dashboard.marks(dashboard.open_run(written(folder, lines))):
        assert mark.sentence.endswith(".")
        found.setdefault(mark.kind, []).append(mark.step)
    return found


def test_a_healthy_run_has_no_marks(tmp_path: Path) -> None:
    assert kinds(tmp_path, falling(400)) == {}


def test_spikes_slowness_and_phases_are_found_where_they_are(tmp_path: Path) -> None:
    lines = falling(400)
    lines[250]["train_loss"] = 6.0
    for step in range(100, 140):
        lines[step]["tokens_per_second"] = 200.0
    for step, line in enumerate(lines):
        line["lr_multiplier"] = min((step + 1) / 20, 1.0, (400 - step) / 200)
    found = kinds(tmp_path, lines)
    assert found.pop("spike") == [250]
    assert abs(found.pop("slow")[0] - 100) <= 10
    assert found == {"warmup_end": [19], "warmdown_start": [200]}


def test_what_the_run_said_itself_comes_before_the_rates(tmp_path: Path) -> None:
    lines = falling(60)
    lines[7]["events"], lines[33]["events"] = ["warmup_end"], ["warmdown_start"]
    assert kinds(tmp_path, lines) == {"warmup_end": [7], "warmdown_start": [33]}


def test_a_plateau_and_a_divergence_are_told_apart(tmp_path: Path) -> None:
    flat = [record(s, (5 - 3 * min(s, 100) / 100) + 0.01 * math.sin(s)) for s in range(400)]
    found = kinds(tmp_path / "flat", flat)
    assert set(found) == {"plateau"}
    assert 80 <= found["plateau"][0] <= 120
    rising = [record(s, 5 - 3 * s / 200 if s < 200 else 2 + 2 * (s - 200) / 200) for s in range(400)]
    assert set(kinds(tmp_path / "rising", rising)) == {"divergence"}
    noisy = [record(s, 2.0 + (1.5 if s % 4 == 0 else 0.0)) for s in range(20)] + [record(20, 4.5), record(21, 4.0)]
    assert not kinds(tmp_path / "noisy", noisy), "two updates at the end decide nothing"
    broken = [*falling(50), record(50, None, events=["diverged", "not_finite"])]
    assert kinds(tmp_path / "broken", broken)["divergence"] == [50]


def test_many_spikes_are_one_sentence(tmp_path: Path) -> None:
    lines = falling(800)
    for step in range(50, 800, 50):
        lines[step]["train_loss"] = 30.0
    told = dashboard.told(dashboard.marks(dashboard.open_run(written(tmp_path, lines))))
    assert [title for title, _ in told] == ["spikes"]


def test_the_entropy_of_single_tokens() -> None:
    tokenizer = make_tokenizer()
    texts = ["abca", "bb"]
    counts = Counter("abcabb") + Counter({"bos": 2})
    expected = -sum(n / 8 * math.log(n / 8) for n in counts.values())
    nats, counted = unigram_entropy(Dataset("x", Texts(texts), Texts(["c"]), ()), tokenizer)
    assert (counted, nats) == (8, pytest.approx(expected))


def test_a_run_over_stories_has_all_three_lines(tmp_path: Path) -> None:
    run = save_ours(tmp_path / "base_checkpoints/d4")
    meta = json.loads((run / "meta_000010.json").read_text())
    del meta["lab"]  # of a run that was not over stories
    history = dashboard.open_run(run)
    assert not any(level.name == "floor" for level in dashboard.levels(history)[0])
    stories = history.meta | {"lab": {"data": {"identity": "stories train 0 abc"}}}
    lines, missing = dashboard.levels(dashboard.History(**{**vars(history), "meta": stories}))
    assert not missing
    by_name = {(level.name, level.metric): level.value for level in lines}
    assert by_name["floor", "train_loss"] < by_name["unigrams", "train_loss"] < by_name["uniform", "train_loss"]
    assert by_name["floor", "val_bpb"] == pytest.approx(0.1708, abs=1e-3)


def test_the_table_is_written_whole(tmp_path: Path) -> None:
    folders = [written(tmp_path, falling(9)), written(tmp_path, falling(5), "sft_checkpoints/x")]
    runs = [dashboard.open_run(folder) for folder in folders]
    for name in ("t.csv", "t.parquet"):
        dashboard.write(runs, tmp_path / name)
        back = pl.read_csv(tmp_path / name) if name.endswith("csv") else pl.read_parquet(tmp_path / name)
        assert back.height == 14
        assert back["run"].unique(maintain_order=True).to_list() == ["base/d4", "sft/x"]
        assert back["train_loss"].to_list() == pytest.approx(
            [*runs[0].frame["train_loss"], *runs[1].frame["train_loss"]]
        )
    with pytest.raises(dashboard.DashboardError, match=r"end it in \.csv or \.parquet"):
        dashboard.write(runs, tmp_path / "t.xlsx")


def test_runs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    folders = [written(tmp_path / place, falling(5)) for place in ("one", "two")]
    names = [run.name for run in dashboard.told_apart([dashboard.open_run(f) for f in [*folders, folders[0]]])]
    assert names == ["one/base/d4", "two/base/d4", "one/base/d4 (2)"]


BAD_LINES = [
    b'{"step": 1, "train_loss": NaN}\n', b'{"step": 2, "train_loss": 1e999}\n', b'{"step": -5, "train_loss": 2.0}\n',
    b'{"step": 99999999999999999999, "train_loss": 2.0}\n', b'{"step": null}\n', b"not json\n", b"\xff\xfe\n",
    b'{"step": 3, "train_loss": "<script>alert(1)</script>"}\n', b'{"step": 3, "time": -7, "train_loss": 1.0}\r\n',
    b'{"step": 3, "train_loss": 1.5}\n', b'{"step": 4, "train_los',
]  # fmt: skip


def test_bad_lines_are_named_and_the_rest_is_shown(tmp_path: Path) -> None:
    run = written(tmp_path, falling(50))
    (run / "metrics.jsonl").write_bytes((run / "metrics.jsonl").read_bytes() + b"".join(BAD_LINES))
    history = dashboard.open_run(run)
    assert history.problems
    assert all("\n" not in problem for problem in history.problems)
    assert dashboard.curve([history], "train_loss", dashboard.Look())["high"].max() < 100  # type: ignore[operator]
    dashboard.marks(history)
    dashboard.summary(history)
    for axis in dashboard.AXES:
        dashboard.curve([history], "train_loss", dashboard.Look(axis=axis, log_x=True))


@pytest.mark.parametrize(
    "meta", ["", "{", "null", "[]", "{}", '{"step": NaN}', '{"model_config": {"n_layer": -1}}', '{"val_bpb": Infinity}']
)
def test_a_broken_meta_file_is_a_sentence_and_the_others_count(tmp_path: Path, meta: str) -> None:
    run = save_like_nanochat(tmp_path / "base_checkpoints/d4")
    (run / "meta_000020.json").write_text(meta)
    (run / "model_000020.pt").write_bytes(b"x")
    (run / "model_000030 (1).pt").write_bytes(b"x")  # nearly a step's name
    history = dashboard.open_run(run)
    assert history.checkpoints == (10,)
    assert any("000020" in problem or "step 20" in problem for problem in history.problems)


def test_folders_that_hold_no_run_are_refused_in_a_sentence(tmp_path: Path) -> None:
    for folder in (tmp_path / "gone", tmp_path):
        with pytest.raises(MetricsError):
            dashboard.open_run(folder)
    (tmp_path / "a.log").write_bytes(b"\x00" * 5000)
    with pytest.raises(MetricsError):
        dashboard.open_log(tmp_path / "a.log")


@pytest.mark.parametrize(
    "look", [{"axis": "x"}, {"smoothing": 1.0}, {"smoothing": -0.1}, {"points": 1}, {"low": 5.0, "high": 5.0},
             {"smoothing": math.nan}]
)  # fmt: skip
def test_a_look_that_cannot_be_is_refused(look: dict[str, Any]) -> None:
    with pytest.raises(dashboard.DashboardError):
        dashboard.Look(**look)


def test_parts_of_a_curve_differ_in_their_data_alone(tmp_path: Path) -> None:
    """So a browser changes the data of the chart it has, and builds no other."""
    run = dashboard.open_run(written(tmp_path, falling(2000)))

    def drawn(low: float | None, lines: list[tuple[str, float]]) -> tuple[dict[str, Any], dict[str, pl.DataFrame]]:
        points = dashboard.curve([run], "train_loss", dashboard.Look(low=low))
        marks = pl.DataFrame({"x": [points["x"][0]], "y": [9.0], "kind": ["spike"], "title": ["t"], "sentence": ["s"]})
        spec = in_place(curve_chart(points, "steps", "loss", lines=lines, marks=marks[: 1 if low else 0]))
        return spec, spec.pop("datasets")

    whole, part = drawn(None, [("ln V", 7.1)]), drawn(900, [])
    assert whole[0] == part[0]
    assert [list(data) for data in (whole[1], part[1])] == [[f"data {n}" for n in range(4)]] * 2
    assert part[1]["data 0"]["x"][0] >= 900 > whole[1]["data 0"]["x"][0]
    assert part[1]["data 3"]["y"][0] == part[1]["data 1"]["y"][1] < 9.0, "a mark beyond the axis stands at its end"
