"""base_train end to end: its lines, its signals, and a run that is killed again and again.

python -m pytest tests/test_base_train.py -m prove     # 25 kills at random moments, part of `make prove`
"""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from nanochat.checkpoint_manager import list_steps, load_model, read_meta, verify
from nanochat.dataset import open_dataset
from nanochat.device import choose_device
from nanochat.distributed import World
from nanochat.records import METRICS_NAME, read_lines
from nanochat.scripts import base_train, tok_train
from nanochat.training_evaluation import Evaluation
from nanochat.training_setup import new_model
from nanochat.training_signals import StopRequest
from tests.archive_support import same
from tests.checkpoint_support import make_tokenizer, tiny_config
from tests.dataset_support import write_shards
from tests.support import FIXTURES, needs_fixtures
from tests.training_support import Life, arguments, base_dir, everything, run, without_clocks

STEP_LINE = re.compile(
    r"step \d{5}/\d{5} \(\d+\.\d\d%\) \| loss: \d+\.\d{6} \| lrm: \d\.\d\d \| dt: [\d.]+ms \| tok/sec: [\d,]+ \| "
    r"bf16_mfu: [\d.]+ \| epoch: \d+ pq: \d+ rg: \d+ \| total time: [\d.]+m( \| eta: -?[\d.]+m)?"
)


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


@pytest.mark.parametrize("seq_len", [32, 64])
def test_what_is_evaluated_does_not_depend_on_the_number_of_ranks(tmp_path: Path, seq_len: int) -> None:
    args = base_train.parser().parse_args(
        arguments(base_dir(tmp_path), max_seq_len=seq_len, device_batch_size=8, eval_tokens=4096)
    )
    model = new_model(tiny_config(sequence_len=seq_len), seed=1)
    args.max_seq_len = 2048  # a resumed run has the model's context, whatever the flag

    def rows(text: str, size: int) -> list[list[int]]:
        found = []
        for rank in range(size):
            (look,) = base_train._looks(
                args, model, make_tokenizer(), open_dataset(text), choose_device("cpu"), World(rank, rank, size),
                StopRequest(print), print, torch.bfloat16,
            )  # fmt: skip
            assert look.run.dtype == torch.bfloat16
            found += [row.tolist() for batch in look.run.batches() for row in batch.inputs]
        return sorted(found)

    alone = rows("python", 1)
    assert len(alone) == 4096 // seq_len
    assert rows("python", 4) == alone
    short = rows(str(tmp_path / "text.jsonl"), 1)  # 8 lines validate
    assert 0 < len(short) < 40
    assert rows(str(tmp_path / "text.jsonl"), 2) == short


def test_it_evaluates_in_the_format_it_trains_in(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    formats, inner = [], Evaluation.__call__

    def call(self: Evaluation, step: int) -> float | None:
        formats.append(self.dtype)
        return inner(self, step)

    monkeypatch.setattr(Evaluation, "__call__", call)
    assert run(base_dir(tmp_path), capsys, num_iterations=1, eval_every=1, dtype="bfloat16")[0] == 0
    assert set(formats) == {torch.bfloat16}


def test_it_reads_what_the_tokenizer_was_trained_on_and_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shards lie in nanochat's own base dir only, the tokenizer in the workspace."""
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    (theirs / "base_data").mkdir(parents=True)
    lines = [json.loads(line)["text"] for line in (base_dir(tmp_path) / "text.jsonl").read_text().splitlines()]
    write_shards(theirs / "base_data", [lines[:60], lines[60:]])
    make_tokenizer().save(ours / "tokenizer")
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(theirs))
    monkeypatch.setenv("NANOCHAT_LAB_DIR", str(ours))
    assert tok_train.main(["--force", "--vocab-size", "280"]) == 0
    assert "data: base_data (the shards that are there)\n" in capsys.readouterr().out
    make_tokenizer().save(ours / "tokenizer", overwrite=True)
    flags = [flag for flag in arguments(tmp_path, num_iterations=1) if not flag.startswith(("--base-dir", "--data"))]
    assert base_train.main(flags) == 0
    assert "Text: base_data (the shards that are there); " in capsys.readouterr().out


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
