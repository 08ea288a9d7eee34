"""The lines of a run."""

from nanochat.horizon import Horizon
from nanochat.records import StepRecord
from nanochat.training_log import StepLog

POSITION = {"pq_idx": 1, "rg_idx": 7, "epoch": 2}


def log(horizon: Horizon, **options: float) -> StepLog:
    return StepLog(horizon, lambda: POSITION, 1024, **options)


def record(step: int, **fields: object) -> StepRecord:
    values = {"train_loss": 6.0, "smooth_loss": 6.1635, "lr_multiplier": 1.0, "tokens_per_second": 24_082.7, **fields}
    return StepRecord(step, 1.0 * step, 1024 * step, **values)  # type: ignore[arg-type]


def test_a_line_is_nanochats_to_the_letter() -> None:
    (line,) = log(Horizon(steps=120)).lines(record(11))
    assert line == (
        "step 00011/00120 (9.17%) | loss: 6.163500 | lrm: 1.00 | dt: 42.52ms | tok/sec: 24,082 | bf16_mfu: 0.00 | "
        "epoch: 2 pq: 1 rg: 7 | total time: 0.00m | eta: 0.1m"
    )
    assert "eta" not in log(Horizon(steps=120)).lines(record(10))[0]


def test_an_evaluation_stands_before_its_step() -> None:
    lines = log(Horizon(steps=120)).lines(record(40, val_bpb=3.7766861, events=("checkpoint", "evaluation")))
    assert lines[0] == "Step 00040 | Validation bpb: 3.776686"
    assert lines[1] == "Step 00040 | checkpoint saved"
    assert lines[2].startswith("step 00040/00120 (33.33%)")


def test_a_step_that_was_only_loaded_is_not_said_to_be_saved() -> None:
    lines = log(Horizon(steps=120)).lines(record(40, events=("resumed", "checkpoint")))
    assert lines[0] == "Step 00040 | resumed"
    assert lines[1].startswith("step 00040/00120")
    assert "checkpoint saved" in log(Horizon(steps=120)).lines(record(41, events=("checkpoint",)))[0]


def test_the_time_that_nanochat_counts_goes_on_after_a_resumption() -> None:
    assert "total time: 2.00m" in log(Horizon(steps=120), training_time=120.0).lines(record(60))[0]


def test_a_budget_estimates_its_steps() -> None:
    line = log(Horizon(seconds=100.0)).lines(record(20, tokens_per_second=1024.0))[0]
    assert line.startswith("step 00020/00101 (20.00%)")
    assert line.endswith("eta: 1.3m")


def test_a_diverged_step_has_no_line_of_its_own() -> None:
    lines = log(Horizon(steps=120)).lines(record(5, smooth_loss=None, events=("diverged",)))
    assert len(lines) == 1
    assert "not finite" in lines[0]
