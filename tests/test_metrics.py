"""The front door of the metrics readers: metrics.jsonl, meta files, folders, following a file, and bad input."""

import json
import os
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from nanochat import metrics
from nanochat.metrics import MetricsError
from nanochat.metrics_frame import RECORD_COLUMNS, SCHEMA
from nanochat.metrics_records import RecordParser
from nanochat.records import RecordWriter, StepRecord, truncate_after
from tests.metrics_support import STEP
from tests.support import FIXTURES, needs_fixtures

finite = st.none() | st.floats(-1e12, 1e12)


def write(path: Path, steps: range, loss: float = 5.0) -> None:
    with RecordWriter(path) as writer:
        for step in steps:
            writer.write(
                StepRecord(
                    *(step, step * 0.5, step * 1024),
                    train_loss=loss,
                    val_bpb=2.5 if step % 10 == 0 else None,
                    learning_rates={"matrix": 0.02, "embedding": 0.3},
                    flops=10**21 * step,  # more than a 64-bit integer holds
                    events=("evaluation",) if step % 10 == 0 else (),
                )
            )


def records(data: bytes, piece: int | None = None) -> tuple[pl.DataFrame, RecordParser]:
    parser = RecordParser("metrics.jsonl")
    for start in range(0, len(data), piece or max(1, len(data))):
        parser.feed(data[start : start + (piece or len(data))])
    return parser.frame(), parser


def test_what_a_run_writes_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "base_checkpoints" / "d4" / "metrics.jsonl"
    path.parent.mkdir(parents=True)
    write(path, range(25))
    with RecordWriter(path) as writer:
        writer.write(StepRecord(25, 12.5, 25 * 1024, train_loss=float("nan")))
    report = metrics.read(path)
    frame = report.frame
    assert report.problems == ()
    assert dict(frame.schema) == SCHEMA
    assert frame["step"].to_list() == list(range(26))
    assert frame["line"].to_list() == list(range(1, 27))
    assert frame["source"].unique().to_list() == ["metrics"]
    assert frame["stage"].unique().to_list() == ["base"]
    assert frame.filter(pl.col("val_bpb").is_not_null())["step"].to_list() == [0, 10, 20]
    assert frame["events"].to_list()[10] == ["evaluation"]
    assert frame["events"].to_list()[25] == ["not_finite"]
    assert frame["train_loss"].to_list()[24:] == [5.0, None]
    assert frame["flops"].to_list()[7] == 7e21
    by_group = metrics.rates(frame)
    assert by_group["matrix"].to_list() == [0.02] * 25
    assert by_group["embedding"].to_list() == [0.3] * 25


def test_the_columns_of_a_record_are_its_fields() -> None:
    assert list(RECORD_COLUMNS) == list(StepRecord.__dataclass_fields__)


@pytest.mark.parametrize(
    ("line", "row", "word"),
    [
        ('{"step": 3, "time": NaN}', {"step": 3, "time": None, "events": ["not_finite"]}, None),
        (
            '{"step": 3, "train_loss": Infinity, "events": ["a"]}',
            {"train_loss": None, "events": ["a", "not_finite"]},
            None,
        ),
        ('{"step": 3, "flops": 1e999}', {"flops": None, "events": ["not_finite"]}, None),
        ('{"step": 3, "unknown": {"a": [1]}}', {"step": 3}, None),
        ('{"step": 3, "time": "3.5"}', {"step": 3, "time": None}, "time has a value of the wrong kind"),
        ('{"step": 3, "events": "x"}', {"step": 3, "events": []}, "events has a value"),
        ('{"step": 3, "tokens": 5.5}', {"step": 3, "tokens": None}, "tokens has a value"),
        ('{"step": 3}\r', {"step": 3}, None),
        ("", None, None),
        ("   ", None, None),
        ('{"step": 3', None, "left out"),
        ('{"step": "3"}', None, "it has no step"),
        ('{"step": 3.5}', None, "it has no step"),
        ('{"step": true}', None, "it has no step"),
        ('{"time": 3}', None, "it has no step"),
        ('{"step": 99999999999999999999}', None, "it has no step"),
        ("[1]", None, "not a record"),
        ("null", None, "not a record"),
        ('{"step": 3} junk', None, "left out"),
        ('{"step": 3}{"step": 4}', None, "left out"),
        ("[" * 100_000, None, "left out"),
        ('{"step": ' + "9" * 5000 + "}", None, "left out"),
    ],
)
def test_a_line_that_is_no_good_record_is_named_and_the_rest_is_kept(
    line: str, row: dict[str, object] | None, word: str | None
) -> None:
    good = '{"step": 1, "time": 0.5}\n'
    frame, parser = records(f"{good}{line}\n{good.replace('1', '2')}".encode())
    assert frame["step"].to_list() == ([1, 3, 2] if row else [1, 2])
    assert frame["line"].to_list() == ([1, 2, 3] if row else [1, 3])
    if row:
        assert {key: frame.row(1, named=True)[key] for key in row} == row
    if word:
        assert len(parser.problems) == 1
        assert "metrics.jsonl, line 2:" in parser.problems[0]
        assert word in parser.problems[0]
    else:
        assert parser.problems == []


def test_invalid_utf8_and_a_byte_order_mark() -> None:
    frame, parser = records(b'\xef\xbb\xbf{"step": 1}\n{"step": 2, "x": "\xff"}\n{"step": 3}\n')
    assert frame["step"].to_list() == [1, 3]
    assert "line 2: not JSON text" in parser.problems[0]


def test_bad_lines_among_very_many_are_found() -> None:
    lines = [f'{{"step": {step}, "time": 0.25, "val_bpb": null, "padding": "{"x" * 60}"}}' for step in range(20_000)]
    for at in (0, 7, 9_999, 19_999):
        lines[at] = "broken"
    lines[5_000] = ""
    frame, parser = records("\n".join(lines).encode() + b"\n")
    assert parser.bad == len(parser.problems) == 4
    kept = [step for step in range(20_000) if step not in (0, 7, 5_000, 9_999, 19_999)]
    assert frame["step"].to_list() == kept
    assert frame["line"].to_list() == [step + 1 for step in kept]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.builds(StepRecord, st.integers(0, 2**40), st.floats(0, 1e9), st.integers(0, 2**60), finite, finite)),
    st.data(),
)
def test_cut_and_pieces_of_records(written: list[StepRecord], data: st.DataObject) -> None:
    text = "".join(record.to_line() for record in written).encode()
    full, _ = records(text)
    assert full["train_loss"].to_list() == [record.train_loss for record in written]
    cut = data.draw(st.integers(0, len(text)))
    part, parser = records(text[:cut], piece=data.draw(st.integers(1, 400)))
    assert_frame_equal(part, full.head(text[:cut].count(b"\n")))
    assert parser.problems == []


def test_a_last_record_without_its_newline_counts_only_if_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}')
    assert metrics.read(path).frame["step"].to_list() == [1, 2]
    path.write_text('{"step": 1}\n{"step": 2')
    report = metrics.read(path)
    assert report.frame["step"].to_list() == [1]
    assert "cut short" in report.problems[0]


def test_later_records_of_a_step_supersede_earlier_ones(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(f'{{"step": {step}}}\n' for step in (1, 2, 3, 4, 3, 4, 5)))
    frame = metrics.read(path).frame
    assert frame["superseded"].to_list() == [False, False, True, True, False, False, False]


def test_following_a_file_gives_only_what_is_new(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, range(10))
    reader = metrics.Reader(path)
    assert reader.read().frame.height == 10
    assert reader.read().frame.is_empty()
    with open(path, "ab") as file:
        line = StepRecord(10, 5.0, 10).to_line().encode()
        file.write(line[:20])
        file.flush()
        assert reader.read().frame.is_empty()  # half a line is none yet
        file.write(line[20:])
    update = reader.read()
    assert update.frame["step"].to_list() == [10]
    assert update.frame["line"].to_list() == [11]
    assert not update.restarted


def test_following_a_file_that_a_resumed_run_cuts(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, range(10))
    reader = metrics.Reader(path)
    reader.read()
    truncate_after(path, 4)
    write(path, range(5, 12), loss=4.0)  # longer than it was: its length alone does not show the cut
    update = reader.read()
    assert update.restarted
    assert update.frame["step"].to_list() == list(range(12))
    assert update.frame["train_loss"].to_list() == [5.0] * 5 + [4.0] * 7
    path.write_bytes(b"")
    assert reader.read().restarted
    path.unlink()
    with pytest.raises(MetricsError, match="there is no such file"):
        reader.read()


def test_following_a_log(tmp_path: Path) -> None:
    path = tmp_path / "base_train.log"
    lines = [STEP.format(step, step, 6.0) for step in range(6)]
    path.write_text("Vocab size: 1,024\n" + "".join(lines[:3]))
    reader = metrics.Reader(path)
    frames = [reader.read().frame]
    for line in lines[3:]:
        with open(path, "a") as file:
            file.write(line)
        frames.append(reader.read().frame)
    assert [frame.height for frame in frames] == [3, 1, 1, 1]
    assert_frame_equal(metrics.mark_superseded(pl.concat(frames)), metrics.read(path).frame)
    assert frames[-1]["time"].to_list() == [pytest.approx(0.6)]  # goes on from the rows before
    assert reader.sections[0].facts["vocab_size"] == 1024


@needs_fixtures
def test_meta_files_of_every_date_give_rows() -> None:
    seen = 0
    for meta in FIXTURES.glob("nanochat_*/*_checkpoints/*/meta_*.json"):
        saved = json.loads(meta.read_text())
        row = metrics.read(meta).frame.row(0, named=True)
        assert row["step"] == int(meta.stem.partition("_")[2])
        assert row["val_bpb"] == saved.get("val_bpb")
        assert row["val_loss"] == saved.get("val_loss")
        assert (row["source"], row["kind"]) == ("meta", "checkpoint")
        assert row["stage"] == {"chatsft": "sft", "chatrl": "rl"}.get(kind := meta.parts[-3].split("_")[0], kind)
        seen += 1
    assert seen == 18


@needs_fixtures
def test_learning_rates_come_from_the_optimizer_file() -> None:
    frame = metrics.read(FIXTURES / "nanochat_2026_07_03" / "base_checkpoints" / "d4", learning_rates=True).frame
    assert frame["learning_rate"].to_list() == [pytest.approx(0.0198873788), None, pytest.approx(0.0012365870)]
    by_group = metrics.rates(frame)
    assert by_group.columns[3:] == [
        *("unembedding", "embedding", "value_embeds", "resid", "x0", "smear_backout", "matrix"),
    ]
    assert by_group["smear_backout"].to_list()[0] == pytest.approx(0.2)
    older = metrics.read(FIXTURES / "nanochat_2025_11_06" / "base_checkpoints" / "d2", learning_rates=True).frame
    assert older["learning_rate"].to_list() == [pytest.approx(1 / 600)]
    for path in FIXTURES.glob("nanochat_*/*_checkpoints/*/optim_*.pt"):
        rates = metrics.optimizer_rates(path)
        assert not [name for name in rates if name.startswith("adamw")], path
        assert 1e-4 < rates["matrix"] < 0.1


def test_meta_files_with_odd_values(tmp_path: Path) -> None:
    config = {"sequence_len": 8, "vocab_size": 9, "n_layer": 1, "n_head": 1, "n_kv_head": 1, "n_embd": 8}
    odd = {"val_bpb": None, "loop_state": {"min_val_bpb": float("inf"), "smooth_train_loss": float("nan")}}
    texts = {
        "meta_000010.json": json.dumps({"model_config": config, **odd}),
        "meta_000020.json": json.dumps({"model_config": config, "val_bpb": 10**400}),
        "meta_000025.json": json.dumps({"model_config": config, "val_loss": 1.5, "total_batch_size": -1}),
        "meta_000030.json": json.dumps({"model_config": config, "train_loss": 3.5, "lab": {}})[:-3],
        "meta_000040.json": json.dumps({"model_config": config, "train_loss": 3.5, "learning_rate": 0.1, "time": 7}),
        "meta_000040.json.tmp": "{",
        "meta_000050 (1).json": "{",
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    report = metrics.read(tmp_path)
    assert report.frame["step"].to_list() == [10, 25, 40]
    assert report.frame["tokens"].to_list() == [None] * 3
    assert report.frame["val_bpb"].to_list() == [None] * 3
    assert report.frame["smooth_loss"].to_list() == [None] * 3
    assert report.frame.row(2, named=True)["train_loss"] == 3.5
    assert report.frame.row(2, named=True)["time"] == 7.0
    assert len(report.problems) == 2
    assert "meta_000020.json: val_bpb is int 1000" in report.problems[0]
    assert "meta_000030.json" in report.problems[1]


@needs_fixtures
def test_logs_are_found_where_a_person_would_look(tmp_path: Path) -> None:
    run = tmp_path / "base_checkpoints" / "d4"
    run.mkdir(parents=True)
    places = ["speedrun.log", "screenlog.0", "logs/a.log", "slurm-17.out", "wandb/offline-run-1/files/output.log"]
    for number, place in enumerate([*places, "base_checkpoints/d4/run.log", "base_checkpoints/d4/metrics.jsonl"]):
        path = tmp_path / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
        os.utime(path, (number, number))
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "folder.log").mkdir()
    os.mkfifo(tmp_path / "pipe.log")
    found = metrics.find_logs(run)
    assert [str(file.path.relative_to(tmp_path)) for file in found] == [
        *places,
        *("base_checkpoints/d4/run.log", "base_checkpoints/d4/metrics.jsonl"),
    ]
    assert [file.source for file in found] == ["log"] * 4 + ["wandb", "log", "metrics"]
    assert {file.path.name for file in metrics.find_logs(tmp_path)} >= {"metrics.jsonl", "speedrun.log", "output.log"}
    real = metrics.find_logs(FIXTURES / "nanochat_2026_07_03")
    report = metrics.read(*(file.path for file in real))
    assert len(report.frame["file"].unique()) == 9  # the others hold no rows
    assert report.lines.get("unknown", 0) == 0


def test_wandb_facts(tmp_path: Path) -> None:
    (tmp_path / "wandb-summary.json").write_text('{"train/loss": 4.1}')
    (tmp_path / "wandb-metadata.json").write_text("{broken")
    (tmp_path / "config.yaml").write_text(
        "wandb_version: 1\n\n_wandb:\n    value: {}\ndepth:\n    desc: null\n    value: 4\nrun:\n    value: demo\n"
    )
    assert metrics.wandb_facts(tmp_path / "output.log") == {
        "summary": {"train/loss": 4.1},
        "config": {"depth": 4, "run": "demo"},
    }


def test_bad_paths_are_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "empty.log").write_bytes(b"")
    (tmp_path / "empty.jsonl").write_bytes(b"")
    (tmp_path / "binary.log").write_bytes(os.urandom(5000))
    (tmp_path / "letter.log").write_text("Dear reader,\n\nthis is a letter.\nYours\n" * 20)
    (tmp_path / "chat.jsonl").write_text('{"messages": []}\n' * 3)
    (tmp_path / "nothing").mkdir()
    os.mkfifo(tmp_path / "pipe.log")
    messages = {
        "missing.log": "there is no such file",
        "empty.log": "the file is empty",
        "empty.jsonl": "the file is empty",
        "binary.log": "no text file",
        "letter.log": "nothing in it looks like the output of nanochat",
        "chat.jsonl": "no line of it is a record",
        "nothing": "no metrics.jsonl, no meta file and no log",
        "pipe.log": "a FIFO",
    }
    for name, message in messages.items():
        with pytest.raises(MetricsError, match=message) as caught:
            metrics.read(tmp_path / name)
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(MetricsError, match="no path was given"):
        metrics.read()
    with pytest.raises(MetricsError, match="there is no such folder"):
        metrics.find_logs(tmp_path / "missing")
    good = tmp_path / "good.log"
    good.write_text(STEP.format(1, 1.0, 6.0))
    report = metrics.read(tmp_path / "missing.log", good)  # one that can be read is shown
    assert report.frame["step"].to_list() == [1]
    assert "missing.log" in report.problems[0]


def test_a_log_whose_end_is_missing_says_so(tmp_path: Path) -> None:
    path = tmp_path / "run.log"
    path.write_text(STEP.format(1, 1.0, 6.0) + "what is this\n" + STEP.format(2, 2.0, 6.0)[:-1])
    report = metrics.read(path)
    assert report.frame["step"].to_list() == [1]
    assert any("line 2: not understood: what is this" in problem for problem in report.problems)
    assert any("the last line has no end" in problem for problem in report.problems)
