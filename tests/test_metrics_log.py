"""Logs of nanochat: real ones of every date and stage, cut anywhere, captured together, and what goes wrong in them."""

import functools
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from nanochat import metrics
from nanochat.errors import exit_status
from nanochat.metrics_facts import STAGES
from nanochat.metrics_frame import SCHEMA
from nanochat.metrics_lines import LINE_KINDS, recognise
from nanochat.metrics_log import MAX_LINE, LogParser
from nanochat.metrics_steps import parse_step
from nanochat.scripts import base_train, chat_sft, tok_eval, tok_train
from nanochat.training_log import REMARKS
from tests.metrics_support import LOGS, SPEEDRUN_2025, SPEEDRUN_2026, STEP, log_of, parse, rows, speedrun
from tests.support import FIXTURES, needs_fixtures


@functools.cache
def whole(path: Path) -> tuple[bytes, pl.DataFrame]:
    data = path.read_bytes()
    return data, parse(data, str(path))[0]


@needs_fixtures
@pytest.mark.parametrize("path", LOGS, ids=lambda path: f"{path.parents[1].name}/{path.name}")
def test_no_line_of_a_real_log_is_lost(path: Path) -> None:
    data = path.read_bytes()
    frame, parser = parse(data, str(path))
    assert parser.counts["unknown"] == 0, parser.unknown
    assert set(parser.counts) <= set(LINE_KINDS)
    assert sum(parser.counts.values()) == parser.at == data.count(b"\n")
    assert parser.torn is None
    for kind in ("step", "evaluation", "checkpoint", "rollout"):  # each such line is a row, and no other line is
        assert parser.counts[kind] == frame.filter(pl.col("kind") == kind).height
    assert dict(frame.schema) == SCHEMA
    (section,) = parser.sections()
    named = next((script for script in STAGES if path.name.startswith(script)), "base_train")
    assert section.script == named


@needs_fixtures
@pytest.mark.parametrize(
    ("date", "name", "kind", "count", "figures"),
    [
        ("2025_11_06", "base_train", "step", 60, {"smooth_loss": 4.697063, "grad_norm": 0.7565, "lr_multiplier": 0.08}),
        ("2025_11_06", "mid_train", "step", 10, {"smooth_loss": 2.584049, "lr_multiplier": -0.25, "stage": "mid"}),
        ("2025_11_06", "chat_sft", "step", 11, {"train_loss": 1.792654, "step_tokens": 263, "stage": "sft"}),
        ("2025_11_06", "chat_rl", "rollout", 200, {"train_loss": 0.0, "reward": 0.0, "stage": "rl"}),
        ("2026_07_03", "base_train", "step", 120, {"smooth_loss": 4.165937, "shard": 1, "row_group": 3, "epoch": 2}),
        ("2026_07_03", "chat_sft", "step", 12, {"smooth_loss": 3.211771, "lr_multiplier": -0.08, "tokens": 12288}),
        ("2026_07_03", "chat_rl", "step", 4, {"reward": 0.0, "sequence_length": 59.53}),
        ("2026_07_03", "base_train", "evaluation", 5, {"core": 0.5, "step": 120}),
        ("2026_07_03", "base_train_resume80", "step", 40, {"step": 119, "smooth_loss": 3.993449}),
    ],
)
def test_figures_are_those_of_the_log(date: str, name: str, kind: str, count: int, figures: dict[str, object]) -> None:
    frame = parse(log_of(date, name), f"{name}.log")[0].filter(pl.col("kind") == kind)
    assert frame.height == count
    last = frame.row(-1, named=True)
    assert {key: last[key] for key in figures} == pytest.approx(figures)


@needs_fixtures
def test_the_average_is_undone_and_agrees_with_the_meta_files() -> None:
    """The meta of step 40 holds the average after 40 updates, which the log prints in the line of step 39."""
    run = FIXTURES / "nanochat_2026_07_03"
    log = metrics.read(run / "logs" / "base_train.log").frame.filter(pl.col("kind") == "step")
    saved = metrics.read(run / "base_checkpoints" / "d4").frame
    for row in saved.iter_rows(named=True):
        logged = log.row(by_predicate=pl.col("step") == row["step"] - 1, named=True)
        assert row["smooth_loss"] == pytest.approx(logged["smooth_loss"], abs=1e-5)
    # Smoothing the recovered losses again gives what was printed.
    average = 0.0
    for row in log.iter_rows(named=True):
        average = 0.9 * average + 0.1 * row["train_loss"]
        assert average / (1 - 0.9 ** (row["step"] + 1)) == pytest.approx(row["smooth_loss"], abs=2e-5)
    assert log["train_loss"].std() > log["smooth_loss"].diff().std()


@needs_fixtures
def test_facts_of_a_header() -> None:
    (section,) = metrics.read(FIXTURES / "nanochat_2026_07_03" / "logs" / "base_train.log").sections
    facts = section.facts
    assert facts["model_config"]["window_pattern"] == "SSSL"
    assert facts["parameters"]["total"] == 180_306
    assert facts["flops_per_token"] == 737_712
    assert (facts["horizon"], facts["horizon_from"], facts["total_batch_size"]) == (120, "user", 1024)
    assert (facts["device"], facts["world_size"], facts["compute_dtype"]) == ("cpu", 1, "float32")
    assert (facts["min_val_bpb"], facts["training_seconds"]) == (2.416657, pytest.approx(37.8))
    assert section.finished
    first = section.results[0]
    assert (first.task, first.accuracy, first.step) == ("toy_mc", 0.75, 120)
    assert len(section.samples) == 14
    assert section.samples[0].startswith("<|bos|>The capital of France is a file descriptor")
    (older,) = metrics.read(FIXTURES / "nanochat_2025_11_06" / "logs" / "base_train.log").sections
    assert older.facts["settings"]["total_batch_size"] == 1024
    assert older.facts["model_sizes"] == {"num_layers": 2, "model_dim": 128, "num_heads": 1, "num_kv_heads": 1}
    (evaluated,) = metrics.read(FIXTURES / "nanochat_2025_11_06" / "logs" / "base_eval.log").sections
    assert (evaluated.facts["core"], evaluated.facts["loaded_step"]) == (0.222222, 60)
    assert evaluated.results[0].accuracy == 0.333333  # the table's digits, not the four of the line
    (chat,) = metrics.read(FIXTURES / "nanochat_2025_11_06" / "logs" / "chat_eval.log").sections
    assert [(r.task, r.passed, r.total) for r in chat.results][:2] == [("ARC-Easy", 1, 4), ("ARC-Challenge", 1, 4)]
    (failed,) = metrics.read(FIXTURES / "nanochat_2026_02_20" / "logs" / "chat_sft.log").sections
    assert failed.error is not None
    assert failed.error.startswith("RuntimeError: view size")
    assert not failed.finished


@needs_fixtures
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_log_cut_anywhere_parses_up_to_the_cut(data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(LOGS))
    _cut(path, data.draw(st.integers(0, len(whole(path)[0]))))


@needs_fixtures
@pytest.mark.prove
@pytest.mark.parametrize("path", LOGS, ids=lambda path: f"{path.parents[1].name}/{path.name}")
@settings(max_examples=150, deadline=None)
@given(st.data())
def test_every_log_cut_anywhere_parses_up_to_the_cut(path: Path, data: st.DataObject) -> None:
    _cut(path, data.draw(st.integers(0, len(whole(path)[0]))))


def _cut(path: Path, at: int) -> None:
    content, full = whole(path)
    frame, parser = parse(content[:at], str(path))
    complete = content[:at].count(b"\n")
    assert_frame_equal(frame, full.filter(pl.col("line") <= complete))
    assert parser.at == complete
    assert parser.counts["unknown"] == 0
    assert (parser.torn is None) == (at == 0 or content[at - 1 : at] == b"\n")


@needs_fixtures
@settings(max_examples=25, deadline=None)
@given(st.sampled_from(LOGS or [Path()]), st.integers(1, 5_000))
def test_rows_do_not_depend_on_the_pieces_in_which_a_log_comes(path: Path, piece: int) -> None:
    data = path.read_bytes()
    data = data[: 200 * piece]  # keeps the number of pieces bounded
    frame, parser = parse(data, str(path))
    parts = LogParser(str(path))
    frames = []
    for start in range(0, len(data), piece):
        parts.feed(data[start : start + piece])
        if start % 3 == 0:
            frames.append(parts.frame())
    assert_frame_equal(pl.concat([*frames, parts.frame()]), frame)
    assert parts.sections() == parser.sections()
    assert parts.counts == parser.counts


@needs_fixtures
@pytest.mark.parametrize(("date", "scripts"), [("2025_11_06", SPEEDRUN_2025), ("2026_07_03", SPEEDRUN_2026)])
def test_a_captured_speedrun_is_split_into_its_stages(date: str, scripts: tuple[str, ...]) -> None:
    data = speedrun(date, scripts)
    frame, parser = parse(data, "screenlog.0")
    assert parser.counts["unknown"] == 0, parser.unknown
    assert sum(parser.counts.values()) == data.count(b"\n")
    assert [section.script for section in parser.sections()] == ["dataset", *scripts]
    for section in parser.sections()[1:]:
        alone, one = parse(log_of(date, section.script or ""), "somewhere.log")
        mine = frame.filter(pl.col("section") == section.number)
        drop = ["file", "line", "section", "run"]
        assert_frame_equal(mine.drop(drop), alone.drop(drop))
        (only,) = one.sections()
        assert section.facts == only.facts
        assert [r.accuracy for r in section.results] == [r.accuracy for r in only.results]


@needs_fixtures
def test_a_resumed_run_supersedes_the_steps_it_repeats(tmp_path: Path) -> None:
    first, second = log_of("2026_07_03", "base_train"), log_of("2026_07_03", "base_train_resume80")
    killed = first[: first.index(b"step 00100/")]
    log = tmp_path / "run.log"
    log.write_bytes(killed + second)
    frame = metrics.read(log).frame
    assert frame["run"].unique().to_list() == [0]
    steps = frame.filter(pl.col("kind") == "step")
    assert steps["step"].to_list() == [*range(100), *range(80, 120)]  # the order of the file
    kept = steps.filter(~pl.col("superseded"))
    assert kept["step"].to_list() == list(range(120))
    assert kept.filter(pl.col("step") >= 80)["section"].unique().to_list() == [1]
    assert kept.filter(pl.col("events").list.contains("resumed"))["step"].to_list() == [80]
    evaluated = frame.filter((pl.col("kind") == "evaluation") & (pl.col("step") == 80))
    assert evaluated["superseded"].to_list() == [True, False]


@needs_fixtures
def test_runs_after_each_other_in_one_file_are_different_runs(tmp_path: Path) -> None:
    log = tmp_path / "all.log"
    log.write_bytes(log_of("2026_07_03", "base_train") + log_of("2025_12_30", "base_train"))
    report = metrics.read(log)
    assert [section.run for section in report.sections] == [0, 1]
    assert not report.frame["superseded"].any()


def test_odd_figures() -> None:
    text = "".join(STEP.format(step, step, loss) for step, loss in enumerate(("6.5", "nan", "inf", "-inf", "6.4")))
    frame = rows(text + "step 00005/00100 (104.17%) | loss: 6.1 | lrm: -0.08 | dt: 1ms | tok/sec: 12,345,678\n")
    assert frame["smooth_loss"].to_list() == [6.5, None, None, None, 6.4, 6.1]
    assert [("not_finite" in events) for events in frame["events"]] == [False, True, True, True, False, False]
    assert frame["train_loss"].to_list()[:2] == [6.5, None]
    assert frame.row(-1, named=True)["lr_multiplier"] == -0.08
    assert frame["tokens_per_second"].to_list()[-1] == 12_345_678
    assert rows(STEP.format(10**20, 1, 6.0))["step"].to_list() == [None]


def test_forks_that_add_or_leave_out_parts_are_read() -> None:
    frame = rows(
        "step 00007/00100 (7.00%) | loss: 2.5 | kd: 0.1 | lrm: 0.50 | dt: 10.00ms | wait: 1.00ms | tok/sec: 5,000\n"
        "step 00008/00100 (8.00%) | loss: 2.4 | lr: 3.00e-04 |dt: 10.00ms | tok/sec: 5,000 | mfu: 41.50 | eta: 2.5m\n"
    )
    assert frame["smooth_loss"].to_list() == [2.5, 2.4]
    assert frame["lr_multiplier"].to_list() == [0.5, None]
    assert frame["learning_rate"].to_list() == [None, 3e-4]
    assert frame["mfu"].to_list() == [None, pytest.approx(0.415)]
    assert frame["eta_seconds"].to_list() == [None, 150.0]
    assert rows("step step=4990 loss=2.311 mfu=40.2\n").select("step", "smooth_loss", "mfu").row(0) == (
        *(4990, 2.311),
        pytest.approx(0.402),
    )


def test_ranks_bars_and_control_codes_around_a_line() -> None:
    line = STEP.format(3, 3.0, "6.0")
    text = (
        f"[rank0]:{STEP.format(1, 1.0, '6.2')}[rank1]: {STEP.format(1, 1.0, '9.9')}"
        f"\x1b[32m{STEP.format(2, 2.0, '6.1')}\x1b[0m"
        f"\r 50%|#####     | 5/10 [00:01<00:01, 5.00it/s]\r100%|##########| 10/10 [00:02<00:00, 5.0it/s]{line}"
        "\r\x1b[KRank 3 | 5/20 (25.00%)Final: 3/8 (37.50%)\n  GSM8K: 37.50%\n"
        "[rank3]: torch.OutOfMemoryError: CUDA out of memory.\n"
    )
    frame, parser = parse(text.replace("\n", "\r\n").encode())
    assert frame["smooth_loss"].to_list() == [6.2, 6.1, 6.0]
    assert parser.counts["rank"] == 2
    (section,) = parser.sections()
    assert [(r.task, r.accuracy, r.passed, r.total) for r in section.results] == [("GSM8K", 0.375, 3, 8)]
    assert section.error == "rank 3: torch.OutOfMemoryError: CUDA out of memory."


def test_what_a_model_wrote_is_no_fact() -> None:
    text = (
        "Vocab size: 1,024\n<|bos|>The capital of France is\nVocab size: 7\nTotal number of training tokens: 9\n\n"
        "text\n" + STEP.format(1, 1.0, "6.2")
    )
    _, parser = parse(text.encode())
    (section,) = parser.sections()
    assert section.facts["vocab_size"] == 1024
    assert "total_tokens" not in section.facts
    assert section.samples[0].count("\n") == 4


def test_a_traceback_ends_a_run_only_if_nothing_follows() -> None:
    trace = 'Traceback (most recent call last):\n  File "x", line 1, in <module>\nKeyError: 3\n'
    assert parse((STEP.format(1, 1.0, 6.0) + trace).encode())[1].sections()[0].error == "KeyError: 3"
    assert parse((trace + STEP.format(1, 1.0, 6.0)).encode())[1].sections()[0].error is None


def test_tokenizer_tables() -> None:
    green, red, reset = "\x1b[92m", "\x1b[91m", "\x1b[0m"
    text = (
        "\nVocab sizes:\nGPT-2: 50257\nGPT-4: 100277\nOurs: 65536\n\nComparison with GPT-2:\n" + "=" * 95 + "\n"
        "Text Type  Bytes    GPT-2           Ours            Relative     Better    \n"
        "                    Tokens  Ratio   Tokens  Ratio   Diff %      \n" + "-" * 95 + "\n"
        f"news       1819     {red}404    {reset} {red}4.50   {reset} {green}375    {reset} {green}4.85   {reset} "
        f"{green}   +7.2%{reset}     Ours      \n"
        f"korean     893      {green}745    {reset} {green}1.20   {reset} {red}770    {reset} {red}1.16   {reset} "
        f"{red}   -3.4%{reset}     GPT-2     \n"
    )
    _, parser = parse(text.encode())
    assert parser.counts["unknown"] == 0
    section = parser.sections()[-1]
    assert section.script == "tok_eval"
    assert section.facts["vocab_sizes"] == {"GPT-2": 50257, "GPT-4": 100277, "Ours": 65536}
    found = [(row.other, row.text, row.bytes, row.other_tokens, row.tokens, row.better) for row in section.tokenizers]
    assert found == [
        ("GPT-2", "news", 1819, 404, 375, pytest.approx(0.072)),
        ("GPT-2", "korean", 893, 745, 770, pytest.approx(-0.034)),
    ]


def test_overlong_lines_are_bounded_and_the_rest_is_read() -> None:
    line = STEP.format(1, 1.0, "6.0")
    data = (line + "x" * (5 * MAX_LINE) + "\n" + line.replace("00001/", "00002/")).encode()
    for piece in (None, 1000):
        frame, parser = parse(data, piece=piece)
        assert frame["step"].to_list() == [1, 2]
        assert parser.counts["overlong"] == 1
        assert parser.at == 3
    parser = LogParser("x")
    for _ in range(100):
        parser.feed(b"y" * MAX_LINE)
    assert len(parser.torn or "") <= MAX_LINE


@settings(max_examples=80, deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes_are_read_without_an_error(data: bytes) -> None:
    good = STEP.format(1, 1.0, "6.0").encode()
    frame, parser = parse(data + b"\n" + good)
    assert frame.filter(pl.col("kind") == "step")["step"].to_list()[-1] == 1
    assert sum(parser.counts.values()) == data.count(b"\n") + 2


def test_our_own_scripts_print_no_line_that_is_not_understood(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them in one terminal: a section for each, and every line is known."""
    monkeypatch.setenv("COLUMNS", "200")
    base = [f"--base-dir={tmp_path}"]
    tiny = "--depth 2 --aspect-ratio 16 --head-dim 16 --max-seq-len 64 --device-batch-size 2 --total-batch-size 256"
    looks = "--eval-every 4 --eval-tokens 256 --sample-every 4 --warmup-steps 2 --lr-scale 1 --dtype float32"
    tuning = "--tasks persona=40,spelling=40 --num-iterations 6 --eval-every 3 --eval-tokens 256 --ask 2 --max-reply 4"
    for script, flags in (
        (tok_train, "--data stories --vocab-size 400 --max-chars 60000"),
        (tok_eval, ""),
        (base_train, f"{tiny} {looks} --num-iterations 6 --save-every 3"),
        (base_train, "--depth 2 --resume --num-iterations 8"),
        (chat_sft, tuning),
    ):
        name = script.__name__.rpartition(".")[2]
        assert exit_status(name, functools.partial(script.main, [*base, *flags.split()])) == 0
    assert exit_status("base_train", functools.partial(base_train.main, [*base, "--depth", "2"])) == 1
    text = "".join(capfd.readouterr())
    frame, parser = parse(text.encode(), "screenlog.0")
    assert parser.counts["unknown"] == 0, parser.unknown
    sections = parser.sections()
    assert [section.script for section in sections] == ["tok_train", "tok_eval", "base_train", "base_train", "chat_sft"]
    assert [section.finished for section in sections] == [True, False, True, True, True]
    assert "a run is here already" in text.splitlines()[-1]
    first, tuned = sections[2], sections[4]
    assert first.facts["model_config"]["n_layer"] == 2
    assert (first.facts["horizon"], first.facts["total_batch_size"]) == (6, 256)
    assert (first.facts["compute_dtype"], first.facts["finished_step"]) == ("float32", 6)
    assert sections[3].facts["resumed_from"] == 6
    assert (tuned.facts["loaded_step"], tuned.facts["finished_step"]) == (8, 6)
    assert {result.task for result in tuned.results} == {
        f"{task} ({side})" for task in ("persona", "spelling") for side in ("seen", "unseen")
    }
    steps = frame.filter(pl.col("kind") == "step").group_by("section", maintain_order=True).agg("step")
    assert steps["step"].to_list() == [[*range(6)], [6, 7], [*range(1, 7)]]  # as nanochat numbers them
    saved = frame.filter((pl.col("kind") == "checkpoint") & (pl.col("section") == 2))
    assert saved["step"].to_list() == [3, 6]
    assert frame.filter(pl.col("kind") == "evaluation")["val_bpb"].null_count() == 0


@pytest.mark.parametrize("word", REMARKS)
def test_a_remark_is_no_evaluation(word: str) -> None:
    frame, parser = parse(f"<|bos|>Once\nupon\nStep 00012 | {REMARKS[word]}\n{STEP.format(12, 12.0, 6.0)}".encode())
    kind = "checkpoint" if word == "checkpoint" else "notice"
    assert parser.counts == {"sample": 2, kind: 1, "step": 1}
    assert frame["kind"].to_list() == ["checkpoint", "step"] if kind == "checkpoint" else ["step"]


def test_a_run_that_was_stopped_is_not_finished() -> None:
    text = (
        "base model: runs/d2, step 7 (named by its tag)\n  verified: as saved\nUsing max_seq_len=64\n"
        "Runs on NVIDIA H100, 2 ranks. A GPU is here.\nWARNING: 3 days is long; give --minutes\n"
        "SIGINT: saving a checkpoint, then leaving; the same again leaves at once\nNOTE: 2 of 9 were cut\n"
        "Total training time: 0.02m\nStep 5 is saved in runs/d2. Go on with the same command and --resume.\n"
    )
    _, parser = parse(text.encode())
    assert parser.counts["unknown"] == 0, parser.unknown
    (section,) = parser.sections()
    assert (section.script, section.facts["world_size"], section.facts["stopped_step"]) == ("chat_sft", 2, 5)
    assert not section.finished
    _, parser = parse((text[: text.index("SIGINT")] + "chat_sft: the disk is full; free some space\n").encode())
    assert parser.sections()[0].error == "chat_sft: the disk is full; free some space"


@pytest.mark.parametrize("text", ["│ x" + " " * 4000, "│ " + "x " * 2000, "a: 'x' -> '" * 400, "data: (" * 600])
def test_our_own_wordings_take_no_longer(text: str) -> None:
    for _ in range(50):
        recognise(text)


@pytest.mark.parametrize("text", ["█" * 4000 + "x", " " * 4000 + "x", "a k='x'" * 600, "1%|" * 1300, "1 " * 2000])
def test_no_line_takes_long(text: str) -> None:
    """Patterns must not go back and forth over a hostile line; a quadratic one would be seen as a hang."""
    for _ in range(50):
        recognise(text)


def test_a_step_in_another_wording() -> None:
    line = parse_step("Step 2/4 | Example step 7 | Pass 1 | loss: -0.5 | Average reward: 0.25")
    assert line is not None
    assert (line.step, line.total, line.values["example step"], line.values["average reward"]) == (2, 4, "7", "0.25")
    assert parse_step("Evaluating model: base_model (step 120)") is None
