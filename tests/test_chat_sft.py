"""chat_sft as a person runs it: what it inherits, what it leaves behind, and that it goes on to the bit."""

import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch

from nanochat import precision, sft_setup, training_setup
from nanochat.analysis import training_resume_helper as helper
from nanochat.checkpoint_files import meta_name
from nanochat.checkpoint_manager import (
    list_steps,
    load_checkpoint,
    load_model,
    read_meta,
    save_checkpoint,
    verify,
)
from nanochat.errors import exit_status
from nanochat.scripts import chat_sft
from tests.archive_support import flip, same
from tests.sft_support import CONFIG, SMALL, TOKENIZER, pretrained_base, records, run
from tests.training_support import Life, everything, piped, without_clocks


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pretrained_base(tmp_path_factory.mktemp("base"))


@pytest.fixture
def base_dir(pretrained: Path, tmp_path: Path) -> Path:
    """A copy that a test may write to."""
    shutil.copytree(pretrained, tmp_path / "base")
    return tmp_path / "base"


def test_it_trains_and_leaves_a_run_that_opens(base_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(base_dir, "--num-iterations", "12", "--eval-every", "6", "--ask", "4", "--max-reply", "4") == 0
    out = capsys.readouterr().out
    folder = base_dir / "chatsft_checkpoints" / "d2"
    for line in (
        "Inherited max_seq_len=64 from pretrained checkpoint\n",
        "Inherited total_batch_size=256 from pretrained checkpoint\n",
        "Inherited matrix_lr=0.02 from pretrained checkpoint\n",
        "Total batch size 256 => gradient accumulation steps: 2\n",
        "optimizer: muon (the head's betas are 0.8 and 0.96: nanochat since March 2026)\n",
        "Loaded optimizer state from pretrained checkpoint (momentum buffers only, LRs reset)\n",
        "Step 00000 | Validation bpb: ",
        "step 00012 (100.00%) | loss: ",
        "Minimum validation bpb: ",
    ):
        assert line in out
    table = out[out.index("seen in training, and not") :]
    assert all(word in table for word in ("persona", "spelling", "unseen", "0/4", "too few to say more"))
    loaded = load_model(folder)
    assert loaded.tokenizer.fingerprint == TOKENIZER.fingerprint
    assert verify(folder, 12, full=True).ok
    assert loaded.meta["step"] == 12
    assert loaded.meta["val_bpb"] == records(folder)[-1]["val_bpb"]
    assert loaded.meta["lab"]["base"] == {"folder": "d2", "step": 7}
    losses = [record["train_loss"] for record in records(folder)[:-1]]
    assert len(losses) == 12
    assert losses[-1] < losses[0] - 1
    evaluated = [record["val_bpb"] for record in records(folder) if record["val_bpb"] is not None]
    assert len(evaluated) == 3
    assert evaluated[-1] < evaluated[0]


def test_rates_are_a_part_of_those_that_pretraining_began_with(base_dir: Path) -> None:
    assert run(base_dir, "--num-iterations", "1", "--init-lr-frac", "0.5", "--embedding-lr", "0.6") == 0
    folder = base_dir / "chatsft_checkpoints" / "d2"
    rates = records(folder)[0]["learning_rates"]
    assert rates["matrix"] == pytest.approx(0.5 * 0.01)
    pretrained = load_checkpoint(base_dir / "base_checkpoints" / "d2", 7, "cpu", True)[1]["param_groups"]
    assert rates["unembedding"] == pytest.approx(0.5 * pretrained[0]["initial_lr"])
    # One that is given counts as base_train's: times the root of the batch over nanochat's, and the width's factor.
    scale = (256 / 2**19) ** 0.5 * (32 / 768) ** -0.5
    assert rates["embedding"] == pytest.approx(0.5 * 0.6 * scale)
    after = load_checkpoint(folder, 1, "cpu", True)[1]["param_groups"]
    assert all(group["weight_decay"] == 0 for group in after if group["kind"] == "muon")


def test_a_run_that_was_cut_short_goes_on_to_the_bit(base_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--num-iterations", "8", "--save-every", "4", "--eval-every", "4", "--eval-tokens", "640")
    assert run(base_dir, *flags) == 0
    folder = base_dir / "chatsft_checkpoints" / "d2"
    whole = records(folder)
    expected = load_checkpoint(folder, 8, "cpu", True)
    for path in [*folder.glob("*_000008*"), folder / "metrics.jsonl"]:
        path.unlink()
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in whole[:6]))
    capsys.readouterr()
    assert exit_status("x", lambda: chat_sft.main(["--base-dir", str(base_dir), "--resume"])) == 0
    out = capsys.readouterr().out
    assert "Step 00004 | resumed" in out
    assert "Step 00004 | checkpoint saved" not in out
    found = load_checkpoint(folder, 8, "cpu", True)
    assert all(torch.equal(found[0][name], weight) for name, weight in expected[0].items())
    assert repr(found[1]) == repr(expected[1])
    clocks = {"time", "tokens_per_second", "events"}
    assert [{k: v for k, v in r.items() if k not in clocks} for r in records(folder)] == [
        {k: v for k, v in r.items() if k not in clocks} for r in whole
    ]


def test_ctrl_c_leaves_a_checkpoint_from_which_the_same_command_goes_on(base_dir: Path, tmp_path: Path) -> None:
    """Also with a file of conversations, which is not to be counted twice, and with rates that were given."""
    chats = tmp_path / "chats.jsonl"
    pairs = [[{"role": "user", "content": f"{i}?"}, {"role": "assistant", "content": f"{i}!"}] for i in range(40)]
    chats.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    folder = base_dir / "chatsft_checkpoints" / "d2"
    flags = ["--base-dir", str(base_dir), *SMALL, "--data", str(chats), "--embedding-lr", "0.6"]
    life = Life(*flags, "--num-iterations", "60", script=chat_sft)
    assert life.end() == 0, life.output
    expected, whole = everything(folder, 60), without_clocks(folder)
    shutil.rmtree(folder)
    life = Life(*flags, "--num-iterations", "60", script=chat_sft)
    life.wait_for("step 00020 ")
    begun = time.monotonic()
    os.kill(life.pid, signal.SIGINT)
    assert life.end() == 130
    assert time.monotonic() - begun < 50  # ten seconds are promised; a busy machine gets five times that
    (step,) = list_steps(folder)[0]
    assert 20 <= step < 60
    assert verify(folder, step, full=True).ok
    assert f"Step {step} is saved in {folder}. Go on with the same command and --resume." in life.output
    assert "Talk to it" not in life.output
    life = Life(*flags, "--num-iterations", "60", "--resume", script=chat_sft)
    assert life.end() == 0, life.output
    assert f"Resuming optimization from step {step}\n" in life.output
    assert "not compiled, as the run began" in life.output
    assert same(everything(folder, 60), expected)
    resumed = [record for record in without_clocks(folder) if record["train_loss"] is not None]
    for record in (*resumed, *whole):
        record["events"] = [word for word in record["events"] if word != "checkpoint"]
    assert resumed == whole[:-1]


def test_a_run_that_is_still_going_is_not_called_one_without_a_checkpoint(
    base_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    life = Life("--base-dir", str(base_dir), *SMALL, "--num-iterations", "100000", "--compile", "off", script=chat_sft)
    life.wait_for("step 00002 ")
    status = run(base_dir, "--resume")
    os.kill(life.pid, signal.SIGKILL)
    life.end()
    assert status == 1
    assert f"process {life.pid} is writing here" in capsys.readouterr().err


def test_a_closed_pipe_saves_and_leaves_quietly(base_dir: Path) -> None:
    flags = ["--base-dir", str(base_dir), *SMALL, "--num-iterations", "100000", "--compile", "off"]
    assert piped(chat_sft, flags, until="step 00003 ") == (141, "")
    folder = base_dir / "chatsft_checkpoints" / "d2"
    (step,) = list_steps(folder)[0]
    assert verify(folder, step, full=True).ok


def test_in_a_short_budget_the_evaluation_is_short(
    base_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_setup, "matrix_speed", lambda *_: 1e8)
    assert run(base_dir, "--budget", "1.5", "--eval-every", "3") == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("Evaluation on "))
    assert "(--eval-tokens), to leave the time to training" in line
    folder = base_dir / "chatsft_checkpoints" / "d2"
    config = read_meta(folder / meta_name(list_steps(folder)[0][-1]))["user_config"]
    assert 4 * 64 <= config["eval_tokens"] < 2000
    assert f"on {config['eval_tokens']:,} tokens at most" in line
    assert config["eval_every"] == 3
    assert run(base_dir, "--budget", "0.2", "--eval-every", "3", "--eval-tokens", "999", "--force") == 0
    assert "Evaluation on" not in capsys.readouterr().out
    assert run(base_dir, "--num-iterations", "2", "--eval-every", "3", "--force") == 0
    assert "Evaluation on" not in capsys.readouterr().out


def test_the_factor_on_pretrainings_rates_is_the_recorded_one(tmp_path: Path) -> None:
    base = sft_setup.Base(tmp_path, 7, {"user_config": {"lr_scale": 2.0}}, CONFIG, TOKENIZER, {})
    assert sft_setup.pretraining_scale(base, 2**17) == 2.0
    for config in ({}, {"lr_scale": None}, {"lr_scale": -1}, {"lr_scale": "2"}):
        base = sft_setup.Base(tmp_path, 7, {"user_config": config}, CONFIG, TOKENIZER, {})
        assert sft_setup.pretraining_scale(base, 2**17) == 0.5


def test_a_resumed_run_keeps_the_base_model_it_began_with(base_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(base_dir, "--num-iterations", "2") == 0
    base, folder = base_dir / "base_checkpoints" / "d2", base_dir / "chatsft_checkpoints" / "d2"
    weights, _, meta = load_checkpoint(base, 7, "cpu", False)
    save_checkpoint(base, 9, weights, None, {**meta, "step": 9}, tokenizer=TOKENIZER, config=CONFIG)  # trained on
    assert run(base_dir, "--num-iterations", "3", "--resume") == 0
    assert "step 7 (" in capsys.readouterr().out
    assert load_checkpoint(folder, 3, "cpu", False)[2]["lab"]["base"]["step"] == 7


def test_a_result_with_a_name_of_its_own_stands_beside_others_and_goes_on(
    base_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(base_dir, "--num-iterations", "2") == 0
    first = {path.name: path.read_bytes() for path in (base_dir / "chatsft_checkpoints" / "d2").iterdir()}
    assert run(base_dir, "--num-iterations", "2", "--output-tag", "mine") == 0
    folder = base_dir / "chatsft_checkpoints" / "mine"
    base = base_dir / "base_checkpoints"
    shutil.copytree(base / "d2", base / "d3")  # as deep, and not the one that it began with
    report = helper.inspect(folder)
    ours, _ = helper.ways(report)
    assert ours.command is not None
    assert "chat_sft --model-tag d2 --output-tag mine" in ours.command
    capsys.readouterr()
    assert exit_status("x", lambda: chat_sft.main(
        ["--base-dir", str(base_dir), "--output-tag", "mine", "--resume", "--num-iterations", "4", "--ask", "0"]
    )) == 0  # fmt: skip
    assert f"base model: {base / 'd2'}, step 7" in capsys.readouterr().out
    assert load_model(folder).meta["step"] == 4
    for flags, words in (
        (("--model-tag", "d3", "--resume"), "began with the base run 'd2', not 'd3'"),
        (("--output-tag", "", "--force"), "cannot be a run's folder"),
        (("--output-tag=-x",), "cannot be a run's folder"),
    ):
        named = () if "--output-tag" in flags[0] else ("--output-tag", "mine")
        with pytest.raises(ValueError, match=words):
            chat_sft.main(["--base-dir", str(base_dir), "--num-iterations", "5", "--ask", "0", *named, *flags])
    assert {path.name: path.read_bytes() for path in (base_dir / "chatsft_checkpoints" / "d2").iterdir()} == first


def test_a_length_that_is_given_now_stands_in_place_of_the_old_one(
    base_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(base_dir, "--budget", "0.5") == 0
    folder = base_dir / "chatsft_checkpoints" / "d2"
    end = list_steps(folder)[0][-1]
    assert run(base_dir, "--num-iterations", str(end + 2), "--resume") == 0
    assert list_steps(folder)[0][-1] == end + 2
    capsys.readouterr()
    assert run(base_dir, "--minutes", "0.005", "--resume") == 0
    assert "a budget of 0 seconds" in capsys.readouterr().out


def test_a_damaged_step_does_not_cost_the_later_ones(base_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(base_dir, "--num-iterations", "6", "--save-every", "2") == 0
    folder = base_dir / "chatsft_checkpoints" / "d2"
    path = next(path for path in folder.iterdir() if path.name.startswith("model_000002"))
    flip(path, path.stat().st_size // 2)
    assert run(base_dir, "--num-iterations", "6", "--resume-from-step", "2", "--force") == 1
    assert "model_000002" in capsys.readouterr().err
    assert list_steps(folder)[0] == (2, 4, 6)


def test_one_race_decides_and_is_noted(base_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    choice = precision.PrecisionChoice(torch.bfloat16, "bfloat16: it was faster.", {})
    monkeypatch.setattr(precision, "race", lambda *args: choice)
    assert run(base_dir, "--num-iterations", "1", "--dtype", "auto") == 0
    lab = load_checkpoint(base_dir / "chatsft_checkpoints" / "d2", 1, "cpu", False)[2]["lab"]
    assert lab["speed"]["number_format"] == lab["speed"]["newton_schulz"] == "bfloat16"
    assert lab["optimizer"]["newton_schulz"] == "bfloat16"


def test_without_a_length_it_is_one_pass(base_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(base_dir, "--tasks", "persona=160", "--json", "--ask", "2", "--max-reply", "2") == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    scores = lines.pop()["scores"]
    assert {(row["name"], row["split"], row["asked"]) for row in scores} == {
        ("persona", "train", 2), ("persona", "val", 2)
    }  # fmt: skip
    assert lines[-1]["train_loss"] is None
    multipliers = [line["lr_multiplier"] for line in lines[:-1]]
    assert multipliers[0] == 1
    assert 0 < multipliers[-1] < 0.3
    assert 10 < len(multipliers) < 60


def test_files_of_conversations_are_mixed_in_and_a_bad_line_is_named(
    base_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "chats.jsonl"
    pair = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes."}]
    path.write_text((json.dumps(pair) + "\n") * 20)
    flags = ("--tasks", "none", "--val-every", "0", "--num-iterations", "1")
    assert run(base_dir, "--data", f"{path}=3", *flags) == 0
    assert "Training mixture: 60 rows (chats 20 x 3)" in capsys.readouterr().out
    path.write_text(json.dumps(pair) + "\n{\n")
    assert run(base_dir, "--data", str(path), "--force", *flags) == 1
    assert "chats.jsonl, line 2: it is not JSON" in capsys.readouterr().err


def test_steps_that_are_there_are_not_mixed_with_new_ones(base_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(base_dir, "--num-iterations", "2") == 0
    assert run(base_dir, "--num-iterations", "2") == 1
    assert "--resume" in capsys.readouterr().err
    assert run(base_dir, "--num-iterations", "3", "--force") == 0


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--model-tag", "d9"], "no base run 'd9'"),
        (["--tasks", "poetry=5"], "'poetry=5'"),
        (["--tasks", "persona=-1"], "'persona=-1'"),
        (["--tasks", "none"], "nothing to train on"),
        (["--total-batch-size", "100"], "100"),
        (["--words", "/nonexistent"], "/nonexistent"),
        (["--data", "/nonexistent.jsonl"], "cannot be read"),
        (["--warmup-ratio", "2"], "--warmup-ratio is 2"),
        (["--resume"], "d2"),
        (["--max-seq-len", "3", "--total-batch-size", "6"], "none of the"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(
    base_dir: Path, flags: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(base_dir, *flags) == 1
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("chat_sft: ")
    assert words in last


def test_our_workspace_gets_the_result_of_nanochats_own_base_model(
    base_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(base_dir))
    before = sorted(base_dir.rglob("*"))
    assert exit_status("x", lambda: chat_sft.main([*SMALL, "--num-iterations", "1"])) == 0
    assert sorted(base_dir.rglob("*")) == before
    from nanochat.paths import workspace

    assert (workspace() / "chatsft_checkpoints" / "d2" / "model_000001.pt").is_file()
