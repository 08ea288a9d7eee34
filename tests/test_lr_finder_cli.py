"""The learning-rate finder in a terminal: the wish's command lines and labels, every real run, and range tests."""

import contextlib
import io
import json
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nanochat import jobs
from nanochat.analysis import lr_finder
from nanochat.analysis.lr_finder import job as lr_job
from nanochat.scripts import base_train
from nanochat.tools import lr_finder as tool
from tests import cli_support
from tests.support import FIXTURES, fixture_dirs, needs_fixtures
from tests.training_support import arguments, base_dir

NEWEST = FIXTURES / "nanochat_2026_07_03"
D4 = NEWEST / "base_checkpoints/d4"
RUNS = [folder for base in fixture_dirs() for folder in sorted(base.glob("*_checkpoints/*"))]
ANALYSIS = """\
LEARNING RATE ANALYSIS
Checkpoint directory:
Number of checkpoints analyzed: 3
Learning rate range:
  Min LR: 0.001193
  Max LR: 0.019887
LR schedule type: warmup_decay
Best checkpoint (lowest training loss):
  Step:          120
  Learning rate: 0.001237
  Train loss:    4.1659""".splitlines()
RECOMMENDATIONS = """\
LEARNING RATE RECOMMENDATIONS
Based on your training run analysis:
1. Best observed learning rate: 0.001237
   This LR achieved the lowest training loss in your run.
2. Detected schedule: warmup_decay
   Excellent! This is a recommended schedule pattern.
   Your current schedule looks good.
3. For new experiments, try:
   - Conservative: 0.009944
   - Recommended:  0.019887
   - Aggressive:   0.039775
GENERAL RECOMMENDATIONS
📖 How to find optimal learning rate:
1. LR Range Test (Leslie Smith method):
   - Choose LR where loss decreases most steeply
2. Rules of thumb:
   - Just right: Steady, fast decrease
3. Common starting points:
   - For fine-tuning: 1e-5 to 1e-4""".splitlines()
SHORT = ("--range-test", "--sweep-steps", "20", "--seeds", "1", "--trial-steps", "10")


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 8 updates, saved at the end."""
    base = base_dir(tmp_path_factory.mktemp("run"))
    with contextlib.redirect_stdout(io.StringIO()):
        assert base_train.main(arguments(base, num_iterations=8, eval_every=-1, save_every=-1)) == 0
    return base / "base_checkpoints" / "d2"


def run(capsys: pytest.CaptureFixture[str], *flags: object) -> tuple[int, str, str]:
    return cli_support.run("lr_finder", tool.main, capsys, flags)


def in_order(labels: list[str], text: str) -> None:
    place = 0
    for label in labels:
        assert label in text[place:], label
        place = text.index(label, place)


@needs_fixtures
def test_the_four_command_lines_of_the_wish(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, D4)
    assert status == 0
    in_order([*ANALYSIS, *RECOMMENDATIONS], out)
    assert "that rate is where to end, not where to begin" in out
    status, out, _ = run(capsys, D4, "--plot")
    assert (status, out.splitlines()[-1]) == (0, "Saved to lr_analysis.png")
    assert Path("lr_analysis.png").read_bytes().startswith(b"\x89PNG")
    assert run(capsys, D4, "--plot", "--output", "lr.svg")[0] == 0
    assert re.findall("Learning rate schedule|Training loss|best: step 120", Path("lr.svg").read_text())
    status, out, _ = run(capsys, D4, "--recommend")
    assert status == 0
    assert "LEARNING RATE ANALYSIS" not in out
    in_order(RECOMMENDATIONS, out)


@needs_fixtures
def test_every_real_run_is_analyzed(capsys: pytest.CaptureFixture[str]) -> None:
    words = {}
    for folder in RUNS:
        status, out, _ = run(capsys, folder, "--json")
        assert status == 0
        found = json.loads(out)
        words[f"{folder.parents[1].name[9:]}/{folder.parent.name.partition('_')[0]}/{folder.name}"] = found["schedule"]
        in_order(["LR schedule type: " + found["schedule"]["word"], "3. For new"], run(capsys, folder)[1])
    assert len(words) >= 15
    told = {name: (schedule["word"], schedule["detail"]) for name, schedule in words.items()}
    assert told["2026_07_03/base/d4"] == ("warmup_decay", "warmup-stable-decay, linear")
    assert told["2026_03_10/base/d4"] == ("warmup_decay", "warmup-stable-decay, linear")
    assert told["2025_11_06/base/d2"] == told["2026_07_03/chatsft/d4"] == ("decay", "stable-decay, linear")
    assert told["2025_11_06/chatsft/d2"] == ("decay", "linear")
    assert told["2026_07_03/chatrl/d4"] == ("unknown", "unknown")


@needs_fixtures
def test_a_run_by_tag_and_an_ambiguous_one(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "--base-dir", NEWEST, "--source", "sft", "--model-tag", "d4", "--json")
    assert (status, json.loads(out)["rate"]) == (0, "lr_multiplier")
    status, _, message = run(capsys, "--base-dir", NEWEST)
    assert status == 1
    assert "base_checkpoints/d4, base_checkpoints/d4_bf16" in message


@pytest.mark.parametrize(
    ("flags", "words"),
    [(["gone"], "gone"), (["."], "no metrics.jsonl, no meta file"), ([], ""), (["--step", "7"], ""),
     (["--range-test", "--seeds", "0"], "seeds is 0; give 1 to 20"),
     (["--range-test", "--low", "5", "--high", "1"], "give two factors"),
     (["--range-test", "--trial", "--trial-steps", "1"], "give 10 to 10,000"), (["--range-test", "."], "no complete")],
)  # fmt: skip
def test_what_cannot_be_is_one_line(capsys: pytest.CaptureFixture[str], flags: list[str], words: str) -> None:
    status, out, message = run(capsys, *flags)
    assert (status, out, message.count("\n")) == (1, "", 1), message
    assert words in message


@pytest.mark.parametrize(
    ("change", "words"),
    [({"--context": 0}, "context is 0; give 1 to 32"), ({"--rows": -1}, "rows is -1"), ({"--data": "gone"}, "gone"),
     ({"--groups": "heads"}, "no group 'heads'"), ({"--start": "trained", "--step": 5}, "complete steps: 8")],
)  # fmt: skip
def test_a_range_test_that_cannot_be(
    capsys: pytest.CaptureFixture[str], trained: Path, change: dict[str, Any], words: str
) -> None:
    flags = [word for pair in change.items() for word in pair]
    status, out, message = run(capsys, trained, *SHORT, *flags)
    assert (status, out, message.count("\n")) == (1, "", 1), message
    assert words in message


def test_records_that_are_no_numbers(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = tmp_path / "d\x1b[31m[bold]4"
    folder.mkdir()
    rates = [0.1, "NaN", 1e308, -3.0, None, "Infinity", 0.05, 0.1, 0.1]
    losses = ["NaN", 3, "-Infinity", 2, 2, 1, 1e308, "null", 2]
    lines = [
        f'{{"step": {step}, "train_loss": {loss}, "learning_rate": {"null" if rate is None else rate}}}\n'
        for step, (rate, loss) in enumerate(zip(rates, losses, strict=True))
    ]
    (folder / "metrics.jsonl").write_text("".join([*lines, '{"step": 5, "train_', "\n\n[]\n"]))
    status, out, _ = run(capsys, folder)
    assert status == 0
    assert "\x1b" not in out
    assert "[bold]4" in out
    assert "nan" not in out.lower().replace("nanochat", "")


@pytest.mark.parametrize("start", ["fresh", "trained"])
def test_a_range_test_of_a_run(capsys: pytest.CaptureFixture[str], trained: Path, start: str) -> None:
    """Weights and text of the run itself, each group too, and the run's folder is as it was."""
    before = {path.name: path.read_bytes() for path in trained.iterdir()}
    groups = ["--groups", "each"] if start == "trained" else ["--groups", "matrix"]
    status, out, said = run(capsys, trained, *SHORT, "--trial", "--start", start, *groups, "--json")
    assert status == 0
    found = json.loads(out)
    assert found["settings"]["groups"] == (list(found["rates"]) if start == "trained" else ["matrix"])
    assert set(found["curves"]) == {"all", *found["settings"]["groups"]}
    assert found["complete"]
    assert len(found["curves"]["all"]["band"]) >= 4
    assert "all, seed 0, step 0: factor 0.001" in said
    assert {path.name: path.read_bytes() for path in trained.iterdir()} == before


def test_what_it_prints_for_people_and_for_the_page(capsys: pytest.CaptureFixture[str], trained: Path) -> None:
    flags = [trained, "--range-test", "--sweep-steps", "40", "--seeds", "2", "--low", "0.1", "--high", "1e5"]
    status, out, _ = run(capsys, *flags, "--plot", "--output", "test.svg")
    assert status == 0
    in_order(["rates: those of the run's settings", "2 rows of 32 tokens", "LEARNING RATE RANGE TEST", "All groups:",
              "Saved to test.svg"], out)  # fmt: skip
    status, events, _ = run(capsys, *flags, "--events")
    assert status == 0
    begun, *points = [json.loads(line) for line in events.splitlines()]
    state = lr_job.state_of(begun, [point["values"] for point in points], [], [])
    assert state.report is not None
    assert state.report.complete
    words = state.report.curves[0].suggestions.why
    assert words in out


def test_ctrl_c_ends_a_test_with_what_it_has(
    capsys: pytest.CaptureFixture[str], trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The signal arrives after five updates of five thousand."""
    whole = lr_finder.sweep

    def interrupted(*arguments: Any) -> Iterator[Any]:
        for point in whole(*arguments):
            yield point
            if point.index == 5:
                signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(lr_finder, "sweep", interrupted)
    status, out, _ = run(capsys, trained, "--range-test", "--sweep-steps", "5000", "--trial")
    assert status == 130
    assert "SIGINT: ending the test with what it has" in out
    assert "; stopped early" in out
    assert "no clear minimum: only 0 points" in out
    assert "step 1250" not in out


# ---------------------------------------------------------------- the job behind the page


def test_a_follower_reads_what_is_new_and_nothing_strange(
    capsys: pytest.CaptureFixture[str], trained: Path, tmp_path: Path
) -> None:
    events = run(capsys, trained, *SHORT, "--events")[1].splitlines(keepends=True)
    job = jobs.Job("x", "x", (), 0.0, {}, tmp_path)
    follower = lr_job.Follower(job)
    assert (follower.look().share, follower.look().report) == (0.0, None)  # there is no log yet
    strange = ["a line for people\n", '{"event": "Point", "values": [1]}\n', "{broken\n", "[" * 5000 + "\n", "[1]\n",
               '{"event": "Point", "values": ["all", 0, 1, {}, 2, 3]}\n', '{"event": "Point"}\n',
               '{"event": "Point", "values": ["all", 0, 1, 1e999, 2, 3]}\n']  # fmt: skip
    with job.log.open("w") as log:
        log.write("".join([events[0], *strange, *events[1:4], events[4][:20]]))
    state = follower.look()
    assert (state.points.height, state.lines[0]) == (3, "a line for people")
    assert 0 < state.share < 0.2
    with job.log.open("a") as log:
        log.write("".join([events[4][20:], *events[5:]]))
    state = follower.look()
    assert state.points.height == len(events) - 1
    assert state.report is not None
    assert state.report.complete
    job.log.write_text('{"event": "Begun", "settings": {"speed": 3}}\n')
    with pytest.raises(lr_finder.RangeTestError, match="start a new test"):
        lr_job.Follower(job).look()


def test_the_flag_knows_every_start() -> None:
    assert tool.STARTS == lr_finder.STARTS
