"""The dashboard's benchmark: its run is one as ours write it, and its figures are those of opening and following."""

from pathlib import Path

from nanochat.analysis import training_dashboard as dashboard
from nanochat.benchmarks import training_dashboard as benchmark


def test_its_run_is_a_whole_one_and_every_figure_is_there(tmp_path: Path) -> None:
    run = benchmark.written(tmp_path, 2_500)
    history = dashboard.open_run(run)
    assert (history.last, history.live, history.problems) == (2_499, False, ())
    assert dashboard.summary(history).val_bpb.step == 2_000
    found = benchmark.opened(run)
    assert found["open"]["seconds"] >= found["open"]["read"] > 0
    assert found["zoom"]["cpu"] >= 0
    assert set(benchmark.followed(run, 2_500)) == {"nothing", "lines"}
    assert dashboard.open_run(run).last == 2_499 + benchmark.NEW
