"""base_train end to end: its lines, its signals, and a run that is killed again and again.

python -m pytest tests/test_base_train.py -m prove     # 25 kills at random moments, part of `make prove`
"""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from nanochat import precision
from nanochat.checkpoint_manager import list_steps, load_model, read_meta, verify
from nanochat.errors import exit_status
from nanochat.records import METRICS_NAME, read_lines
from nanochat.scripts import base_train
from tests.archive_support import same
from tests.support import FIXTURES, needs_fixtures
from tests.training_support import Life, arguments, base_dir, everything, without_clocks

STEP_LINE = re.compile(
    r"step \d{5}/\d{5} \(\d+\.\d\d%\) \| loss: \d+\.\d{6} \| lrm: \d\.\d\d \| dt: [\d.]+ms \| tok/sec: [\d,]+ \| "
    r"bf16_mfu: [\d.]+ \| epoch: \d+ pq: \d+ rg: \d+ \| total time: [\d.]+m( \| eta: -?[\d.]+m)?"
)


def run(base: Path, capsys: pytest.CaptureFixture[str], **changes: Any) -> tuple[int, str, str]:
    """base_train in this process: its status, output and messages."""
    capsys.readouterr()
    status = exit_status("base_train", lambda: base_train.main(arguments(base, **changes)))
    return status, *capsys.readouterr()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nobody disturbed, in a base dir of its own."""
    base = base_dir(tmp_path_factory.mktemp("whole"))
    assert Life(*arguments(base)).end() == 0
    return base / "base_checkpoints" / "d2"


def test_it_prints_nanochats_own_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, message = run(
        base_dir(tmp_path), capsys, num_iterations=15, sample_every=10, max_seq_len=64, device_batch_size=1
    )
    assert status == 0, message
    lines = out.splitlines()
    steps = [line for line in lines if line.startswith("step ")]
    assert len(steps) == 15
    assert all(STEP_LINE.fullmatch(line) for line in steps), steps
    assert "eta" not in steps[10]
    assert "eta" in steps[11]
    assert re.search(r"^Step 00010 \| Validation bpb: \d\.\d{6}$", out, re.MULTILINE)
    assert any(line.startswith("<|bos|>The capital of France is") for line in lines)
    introduction = out[: out.index("Step 00000")]
    for words in ("Runs on the CPU", "float32 (as asked)", "2 layers, 32 channels, 2 heads", "parameters", "15 steps"):
        assert words in introduction
    assert "nanochat chat_cli -i base -g d2" in lines[-1]


@needs_fixtures
def test_the_lines_have_the_shape_of_nanochats_own_log() -> None:
    log = (FIXTURES / "nanochat_2026_07_03" / "logs" / "base_train.log").read_text()
    lines = [line for line in log.splitlines() if line.startswith("step ")]
    assert len(lines) == 120
    assert all(STEP_LINE.fullmatch(line) for line in lines)


def test_what_it_leaves_can_be_talked_to_and_says_how_it_was_made(whole: Path) -> None:
    assert list_steps(whole)[0] == (7, 14, 21, 28, 30)
    assert all(verify(whole, step, full=True).ok for step in list_steps(whole)[0])
    loaded = load_model(whole)
    assert loaded.model.config.n_layer == 2
    meta = read_meta(whole / "meta_000030.json")
    assert meta["user_config"]["depth"] == 2
    assert meta["lab"]["data"]["identity"]
    assert meta["lab"]["horizon"]["steps"] == 30
    records = list(read_lines(whole / METRICS_NAME))
    assert [record["step"] for record in records] == list(range(31))
    assert meta["val_bpb"] == records[-1]["val_bpb"]
    assert records[29]["train_loss"] < records[0]["train_loss"] - 1


def test_json_is_one_record_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, messages = run(base_dir(tmp_path), capsys, num_iterations=3, json=True)
    assert status == 0
    assert [json.loads(line)["step"] for line in out.splitlines()] == [0, 1, 2, 3]
    assert "Runs on the CPU" in messages


def killed_and_resumed(base: Path, whole: Path, kills: int, seed: int) -> int:
    """Kill a run at random moments, resume it, and compare what it leaves; returns how often it was resumed midway."""
    dice, folder, resumed = random.Random(seed), base / "base_checkpoints" / "d2", 0
    for _ in range(kills):
        steps = list_steps(folder)[0] if folder.exists() else ()
        if 30 in steps:  # done, perhaps but for the last record: another run, for the kills that are left
            assert Life(*arguments(base, resume=True)).end() == 0
            check_equal(folder, whole)
            for path in folder.iterdir():
                path.unlink()
            steps = ()
        resumed += bool(steps)
        life = Life(*arguments(base, resume=True if steps else None))
        if dice.random() < 0.8:
            life.wait_for(f"step {dice.randrange(max(steps, default=0), 30):05d}/")
            time.sleep(dice.uniform(0, 0.05))  # a save takes about as long
        else:
            time.sleep(dice.uniform(0, 0.5))  # while it is still getting ready
        os.kill(life.pid, signal.SIGKILL)
        assert life.end() in (-signal.SIGKILL, 0)
        if folder.exists():
            assert all(verify(folder, step, full=True).ok for step in list_steps(folder)[0])
            assert set(steps) <= set(list_steps(folder)[0]), "a committed checkpoint is lost"
    steps = list_steps(folder)[0] if folder.exists() else ()
    life = Life(*arguments(base, resume=True if steps else None))
    assert life.end() == 0, life.output
    check_equal(folder, whole)
    return resumed


def check_equal(folder: Path, whole: Path) -> None:
    """Weights, optimizer, loader and every metric that is no clock, to the bit."""
    assert list_steps(folder)[0] == list_steps(whole)[0]
    for step in list_steps(whole)[0]:
        assert same(everything(folder, step), everything(whole, step)), step
    assert without_clocks(folder) == without_clocks(whole)


def test_three_kills_and_the_run_ends_as_if_there_had_been_none(tmp_path: Path, whole: Path) -> None:
    assert killed_and_resumed(base_dir(tmp_path), whole, kills=3, seed=5) >= 1


@pytest.mark.prove
def test_twenty_five_kills(tmp_path: Path, whole: Path) -> None:
    assert killed_and_resumed(base_dir(tmp_path), whole, kills=25, seed=6) >= 10


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_a_checkpoint_and_the_rest_is_the_same(
    tmp_path: Path, whole: Path, number: signal.Signals, status: int
) -> None:
    base = base_dir(tmp_path)
    folder = base / "base_checkpoints" / "d2"
    life = Life(*arguments(base, save_every=-1))
    life.wait_for("step 00011/")
    os.kill(life.pid, number)
    begun = time.monotonic()
    assert life.end() == status
    assert time.monotonic() - begun < 50  # ten seconds are promised; a busy machine gets five times that
    assert f"{number.name}: saving a checkpoint, then leaving" in life.output
    assert "Go on with the same command and --resume" in life.output
    (step,) = list_steps(folder)[0]
    assert 12 <= step < 30
    last = list(read_lines(folder / METRICS_NAME))[-1]
    assert (last["step"], last["events"][-1]) == (step, "stopped")
    life = Life(*arguments(base, save_every=-1, resume=True))
    assert life.end() == 0
    assert same(everything(folder, 30), everything(whole, 30))
    for one, other in zip(without_clocks(folder), without_clocks(whole), strict=True):
        one["events"] = other["events"] = []
        assert one == other


def test_the_second_signal_leaves_at_once(tmp_path: Path) -> None:
    base = base_dir(tmp_path)
    life = Life(*arguments(base, num_iterations=100_000, eval_every=1, eval_tokens=400_000))
    life.wait_for("Length:")
    time.sleep(0.5)  # in the first evaluation, of some seconds
    os.kill(life.pid, signal.SIGSTOP)  # both signals are there before it can act on the first
    os.kill(life.pid, signal.SIGINT)
    os.kill(life.pid, signal.SIGCONT)
    life.wait_for("the same again leaves at once")
    os.kill(life.pid, signal.SIGINT)
    assert life.end() in (-signal.SIGINT, 130)


def test_stopped_and_continued_it_goes_on(tmp_path: Path, whole: Path) -> None:
    base = base_dir(tmp_path)
    life = Life(*arguments(base))
    life.wait_for("step 00005/")
    os.kill(life.pid, signal.SIGSTOP)
    time.sleep(0.5)
    os.kill(life.pid, signal.SIGCONT)
    assert life.end() == 0
    check_equal(base / "base_checkpoints" / "d2", whole)


def test_a_budget_is_kept_and_carried_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = base_dir(tmp_path)
    status, out, _ = run(base, capsys, num_iterations=None, budget=2, eval_every=1000, save_every=-1)
    assert status == 0
    assert "a budget of 2 seconds" in out
    folder = base / "base_checkpoints" / "d2"
    records = list(read_lines(folder / METRICS_NAME))
    assert 1.5 < records[-1]["time"] < 60
    assert records[-2]["lr_multiplier"] < 0.3
    status, out, _ = run(base, capsys, num_iterations=None, resume=True)  # the budget is inherited, and it is spent
    assert status == 0
    assert [record["step"] for record in read_lines(folder / METRICS_NAME)] == list(range(len(records)))


def test_a_resumed_run_takes_its_flags_from_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = base_dir(tmp_path)
    assert run(base, capsys, num_iterations=10, save_every=5)[0] == 0
    few = [f"--base-dir={base}", "--model-tag=d2", "--resume", "--num-iterations=12", "--compile=off"]
    capsys.readouterr()
    assert base_train.main(few) == 0
    assert "step 00011/00012" in capsys.readouterr().out
    status, _, message = run(base, capsys, resume=True, depth=3, model_tag="d2")
    assert status == 1
    assert "n_layer 2 and the flags ask for 3" in message


def test_a_resumed_run_does_not_race_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A race may end either way on a busy machine; the run goes on in the format that it began with, to the bit."""

    def faster(name: str) -> None:
        choice = precision.PrecisionChoice(getattr(torch, name), f"{name}: it was faster.", {})
        monkeypatch.setattr(precision, "race", lambda *args: choice)

    (tmp_path / "base").mkdir()
    base = base_dir(tmp_path / "base")
    flags = {"dtype": None, "compile": None, "save_every": 4, "eval_every": -1, "num_iterations": 8}
    faster("bfloat16")
    assert Life(*arguments(base, **flags)).end() == 0
    folder, before = base / "base_checkpoints" / "d2", tmp_path / "before"
    shutil.copytree(folder, before)
    faster("float32")
    life = Life(*arguments(base, **flags, resume_from_step=4, force=True))
    assert life.end() == 0
    assert "Number format: bfloat16 (as the run began); not compiled, as the run began" in life.output
    assert same(everything(folder, 8), everything(before, 8))
    assert without_clocks(folder) == without_clocks(before)
    lab = read_meta(folder / "meta_000008.json")["lab"]
    assert lab["speed"] == {
        "number_format": "bfloat16", "compiled": False, "newton_schulz": "bfloat16", "device": "cpu",
    }  # fmt: skip
    assert lab["optimizer"]["newton_schulz"] == "bfloat16"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"fp8": True}, "8-bit training is not offered here"),
        ({"tokenizer_dir": "nowhere"}, "there is no tokenizer; make one with `nanochat tok_train"),
        ({"data": "nowhere.txt"}, "nowhere.txt"),
        ({"total_batch_size": 100}, "no multiple of 2 rows x 32 tokens"),
        ({"schedule": "wsd", "warmdown_ratio": 2}, "warmdown_ratio is 2"),
        ({"resume": True}, "d2"),
        ({"num_iterations": None, "target_param_data_ratio": -1}, "no end is given"),
        ({"depth": 0}, "depth is 0"),
        ({"matrix_lr": -1}, "matrix_lr"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], words: str
) -> None:
    status, _, message = run(base_dir(tmp_path), capsys, **changes)
    assert status == 1
    assert words in message
    assert len(message.strip().splitlines()) == 1
    assert not list(tmp_path.glob("base_checkpoints/*/model*"))


def test_an_old_run_is_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = base_dir(tmp_path)
    assert run(base, capsys, num_iterations=2)[0] == 0
    status, _, message = run(base, capsys, num_iterations=3)
    assert status == 1
    assert "a run is here already" in message
    assert list_steps(base / "base_checkpoints" / "d2")[0] == (2,)
    assert run(base, capsys, num_iterations=3, force=True)[0] == 0
    assert list_steps(base / "base_checkpoints" / "d2")[0] == (3,)


def test_another_text_is_not_gone_on_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = base_dir(tmp_path)
    assert run(base, capsys, num_iterations=2)[0] == 0
    with (base / "text.jsonl").open("a") as file:
        file.write('{"text": "one more"}\n')
    status, _, message = run(base, capsys, num_iterations=4, resume=True)
    assert status == 1
    assert len(message.strip().splitlines()) == 1
    assert list_steps(base / "base_checkpoints" / "d2")[0] == (2,)


@needs_fixtures
def test_a_run_of_nanochats_is_gone_on_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From its step 40, with the flags it was started with; its own log tells the losses to expect."""
    theirs = FIXTURES / "nanochat_2026_07_03"
    for name in ("base_checkpoints/d4", "base_data_climbmix", "tokenizer"):
        shutil.copytree(theirs / name, tmp_path / name)
    flags = [f"--base-dir={tmp_path}", "--model-tag=d4", "--dtype=float32", "--sample-every=-1", "--compile=off"]
    assert exit_status("b", lambda: base_train.main([*flags, "--resume-from-step=40", "--num-iterations=50"])) == 1
    assert "steps 80, 120 come after step 40" in capsys.readouterr().err
    flags += ["--resume-from-step=40", "--force", "--num-iterations=46", "--warmdown-ratio=0.1"]
    assert exit_status("b", lambda: base_train.main(flags)) == 0
    meta = Path("base_checkpoints", "d4", "meta_000040.json")
    assert (tmp_path / meta).read_bytes() == (theirs / meta).read_bytes()
    out = capsys.readouterr().out
    losses = dict(re.findall(r"^step (\d+)/.*? loss: ([\d.]+)", out, re.MULTILINE))
    log = (theirs / "logs" / "base_train.log").read_text()
    expected = dict(re.findall(r"^step (\d+)/.*? loss: ([\d.]+)", log, re.MULTILINE))
    for step in ("00040", "00041", "00042"):  # the text is not quite the same, so the loss is not either
        assert float(losses[step]) == pytest.approx(float(expected[step]), abs=0.1)
    assert re.search(r"^Step 00040 \| Validation bpb: 2.5498", out, re.MULTILINE)
    assert "read ahead are lost" in out


@pytest.mark.prove
def test_torchrun_trains_and_passes_ctrl_c_on(tmp_path: Path) -> None:
    base = base_dir(tmp_path)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m"]
    changes = {"num_iterations": 100_000, "save_every": -1, "device_batch_size": 1}
    process = subprocess.Popen(
        [*command, "nanochat.scripts.base_train", *arguments(base, **changes)], stdout=subprocess.PIPE, text=True,
        stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith("step 00012"):
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does: everybody gets it, and torchrun adds a SIGTERM
    process.wait(100)
    (step,) = list_steps(base / "base_checkpoints" / "d2")[0]
    assert step >= 13
    assert verify(base / "base_checkpoints" / "d2", step, full=True).ok
    assert len([line for line in lines if line.startswith("step 00005")]) == 1  # one rank prints


def test_a_run_that_diverges_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = base_dir(tmp_path)
    status, out, message = run(base, capsys, embedding_lr=1e30, unembedding_lr=1e30, matrix_lr=1e30, warmup_steps=0)
    assert status == 1
    assert "is not a finite number" in message
    assert "Validation bpb" in out


def test_help_lists_every_flag_of_nanochats_and_loads_no_torch() -> None:
    code = "import sys; from nanochat.scripts import base_train as b; b.parser().format_help(); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert "nanochat.schedules" in loaded
    assert not {"torch", "polars", "numpy", "rich"} & set(loaded)
    flags = set(vars(base_train.parser().parse_args([])))
    meta = FIXTURES / "nanochat_2026_07_03" / "base_checkpoints" / "d4" / "meta_000040.json"
    if meta.exists():
        assert set(json.loads(meta.read_text())["user_config"]) <= flags
