"""The Train page's analysis: settings to commands, plans, a log that grows, and a curve on screen that keeps spikes."""

import json
import math
from dataclasses import replace

import polars as pl
import pytest

from nanochat import jobs, paths
from nanochat.analysis import train
from nanochat.analysis.train import Follower, Settings, TrainError
from nanochat.charts.train import bpb_curve, loss_curve
from nanochat.sft_tasks import ChatSFTError
from nanochat.tasks import TaskError
from tests.sft_support import pretrained_base


def test_the_demo_is_one_command() -> None:
    plan = train.plan(Settings(), 1e11)
    assert plan.commands == (
        (
            "nanochat.scripts.demo",
            "--budget",
            "60",
            "--corpus",
            "stories",
            "--model-tag",
            "demo",
            "--seed",
            "0",
            "--json",
        ),
    )
    assert plan.shell == "nanochat demo --budget 60 --corpus stories --model-tag demo --seed 0 --json"
    assert plan.parameters == 884_814  # what the demo itself says
    assert train.plan(Settings(minutes=3), None).parameters == 1_441_922


def test_the_tokens_of_a_first_model_are_forecast_within_a_factor_of_two() -> None:
    """On two cores whose products reached 4.2e11 FLOP/s a minute read 1,313,280 (docs/log.md)."""
    tokens = train.plan(Settings(), 4.2e11).tokens
    assert tokens is not None
    assert 1_313_280 / 2 < tokens < 1_313_280 * 2


def test_pretraining_learns_a_tokenizer_of_its_own_first(tmp_path) -> None:
    book = tmp_path / "book.txt"
    book.write_text("once upon a time\n" * 50)
    plan = train.plan(Settings("base_train", 5, "file", str(book), depth=2, flags={"matrix-lr": "0.03"}), None)
    (tokenizer, *first), (module, *second) = plan.commands
    assert (tokenizer, module) == ("nanochat.scripts.tok_train", "nanochat.scripts.base_train")
    home = paths.workspace() / "tokenizers" / "d2"
    assert first[first.index("--base-dir") + 1] == str(home)
    assert second[second.index("--tokenizer-dir") + 1] == str(home / "tokenizer")
    assert second[second.index("--matrix-lr") + 1] == "0.03"
    assert second[second.index("--data") + 1] == str(book)
    (paths.workspace() / "base_checkpoints" / "d2").mkdir(parents=True)
    assert train.plan(Settings("base_train", 5, depth=2), None).tag == "d2-2"


def test_fine_tuning_replaces_only_what_was_announced() -> None:
    settings = Settings("chat_sft", 2, base_tag="d4")
    assert "--force" not in train.plan(settings, None).commands[0]
    (paths.workspace() / "chatsft_checkpoints" / "d4").mkdir(parents=True)
    beside = train.plan(settings, None)
    assert (beside.tag, "--force" in beside.commands[0]) == ("d4-2", False)
    assert beside.commands[0][1:5] == ("--model-tag", "d4", "--output-tag", "d4-2")
    assert "--force" in train.plan(replace(settings, tag="d4"), None).commands[0]


def test_a_file_of_conversations_is_alone_unless_asked(tmp_path) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text("[]")
    settings = Settings("chat_sft", 2, base_tag="d4", file=str(file))
    (alone,), (beside,) = (train.plan(replace(settings, beside=yes), None).commands for yes in (False, True))
    assert alone[-4:] == ("--data", str(file), "--tasks", "none")
    assert beside[-2:] == ("--data", str(file))


def test_a_file_is_read_before_the_training_reads_it(tmp_path) -> None:
    pretrained_base(paths.workspace())
    file = tmp_path / "mine.jsonl"
    lines = [json.dumps([{"role": "user", "content": f"cat {n}?"}, {"role": "assistant", "content": "x" * 10 * n}])
             for n in range(1, 11)]  # fmt: skip
    file.write_text("\n".join(lines))
    found = train.reading(file, "d2")
    assert found.learnt + found.unseen == 10
    assert found.context == 64
    assert 0 < found.longer < found.learnt
    assert 300 < found.tokens < 700
    file.write_text("\n".join([*lines, "", *lines * 100]))
    estimated = train.reading(file, "d2")
    assert estimated.learnt == 101 * found.learnt
    assert estimated.tokens == pytest.approx(101 * found.tokens, rel=0.2)
    for content, words in (("", "no conversation"), ("\n\n", "no conversation"), ("[]\n", "line 1")):
        file.write_text(content)
        with pytest.raises((TaskError, ChatSFTError), match=words):
            train.reading(file, "d2")
    assert train.reading(file, "no-run") is None
    file.write_bytes(b" " * (train.LOOKED_AT + 1))
    assert train.reading(file, "d2") is None


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (Settings("dance"), "the kind is 'dance'"),
        (Settings(minutes=0), "0 minutes cannot be"),
        (Settings(minutes=math.nan), "nan minutes"),
        (Settings(corpus="file"), "no file is named"),
        (Settings(corpus="file", file="no/such/text.txt"), "no/such/text.txt is not there"),
        (Settings(corpus="file", file="x" * 300), "is not there"),
        (Settings(corpus="file", file="~nobody-of-this-name/x"), "is not there"),
        (Settings("base_train", depth=0), "depth 0"),
        (Settings("chat_sft"), "no pretrained run"),
        (Settings(tag="../x"), None),
        (Settings("base_train", tag="a/b"), None),
    ],
)
def test_settings_that_cannot_be_are_sentences(settings: Settings, words: str | None) -> None:
    with pytest.raises(ValueError, match=words or "cannot be a run's folder"):
        train.plan(settings, None)
    assert issubclass(TrainError, ValueError)


@pytest.fixture
def job(tmp_path) -> jobs.Job:
    facts = {"kind": "demo", "tag": "demo", "stages": ["base", "sft"], "seconds": 60, "vocab_size": 1280}
    return jobs.Job("x", "Demo", (("nanochat.scripts.demo",),), 0.0, facts, tmp_path)


def line(**said) -> str:
    return json.dumps(said) + "\n"


def record(step: int, **more) -> dict:
    return {
        "step": step,
        "time": step / 10,
        "tokens": step * 640,
        "train_loss": 7.0 / (step + 1),
        "smooth_loss": 5.0,
    } | more


def test_a_log_is_followed_line_by_whole_line(job: jobs.Job) -> None:
    follower = Follower(job)
    assert follower.look().curve.is_empty()  # no log yet
    with job.log.open("a") as log:
        log.write(line(event="Stage", name="base", title="Reading", floor=0.17, floor_nats=0.44, notes=["a note"]))
        log.write(line(event="Step", stage="base", record=record(0)))
        log.write("Some words for people\n")
        log.write(line(event="Step", stage="base", record=record(1))[:-20])  # cut: the rest comes later
        log.flush()
        progress = follower.look()
        assert progress.curve["step"].to_list() == [0]
        assert progress.lines == ("a note", "Some words for people")
        assert (progress.floor, progress.floor_nats) == (0.17, 0.44)
        assert progress.uniform == pytest.approx(math.log(1280))
        log.write(line(event="Step", stage="base", record=record(1))[-20:])
        log.write(line(event="Sample", stage="base", step=1, prompt="", text="Once"))
        log.write(line(event="Stage", name="sft", title="Tuning"))
        log.write(line(event="Step", stage="sft", record=record(5)))
        log.write('{"event": "Step", "record": 5}\n{broken\n{"step": "x"}\n[1]\n')
        log.write(line(event="Report", val_bpb=0.18))
    progress = follower.look()
    assert progress.curve.select("stage", "step").rows() == [("base", 0), ("base", 1), ("sft", 5)]
    assert progress.curve["time"].to_list() == pytest.approx([0.0, 0.1, 0.6])  # the second stage goes on from the first
    assert progress.samples == ((1, "Once"),)
    assert (progress.stage, progress.title) == ("sft", "Tuning")
    assert progress.report == {"event": "Report", "val_bpb": 0.18}


def test_plain_records_of_base_train_are_read_too(job: jobs.Job) -> None:
    plain = jobs.Job("x", "Pretrain", (), 0.0, {"kind": "base_train", "stages": ["base"]}, job.folder)
    plain.log.write_text(json.dumps(record(3)) + "\nModel: 4 layers\n")
    progress = Follower(plain).look()
    assert progress.curve.select("stage", "step").rows() == [("base", 3)]
    assert progress.lines == ("Model: 4 layers",)
    assert progress.uniform is None


def curve(count: int) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "stage": ["base"] * count, "step": range(count), "time": [s / 10 for s in range(count)],
            "tokens": range(count), "loss": [9.9 if s == 777 else 2.0 - s / count for s in range(count)],
            "smooth": [2.0] * count, "bpb": [0.5 if s == 500 else None for s in range(count)], "speed": [1.0] * count,
        },
        train.CURVE,
    )  # fmt: skip


def test_thinning_keeps_spikes_and_evaluations() -> None:
    thin = train.thinned(curve(10_000), 600)
    assert 300 < len(thin) <= 610
    assert 9.9 in thin["loss"].to_list()
    assert thin["bpb"].drop_nulls().to_list() == [0.5]
    assert train.thinned(curve(100), 600).equals(curve(100))


def test_the_charts_hold_both_lines() -> None:
    drawn = json.dumps(loss_curve(curve(50), math.log(1280), 0.4).to_dict())
    assert "knows nothing: ln V = 7.15" in drawn
    assert "in pretraining no model gets below this = 0.40" in drawn
    assert "no model gets below this = 0.171" in json.dumps(bpb_curve(curve(600), 0.171).to_dict())
    assert "ln V" not in json.dumps(loss_curve(curve(50), None, None).to_dict())
