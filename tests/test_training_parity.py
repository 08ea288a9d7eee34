"""A real nanochat run, trained again from its step 40: the same losses, to every digit that its log has.

Model, loader, optimizer, schedules, accumulation and evaluation all have to be nanochat's for that. Its log gives the
loss of the last batch of a step, ours the mean of the step, so the last batch is listened to here.

python -m pytest tests/test_training_parity.py -m prove     # all 80 steps, part of `make prove`
"""

import re
from argparse import Namespace
from pathlib import Path

import pytest
import torch

from nanochat.dataloader import DataLoader
from nanochat.dataset import open_dataset
from nanochat.optim import build_optimizer
from nanochat.scripts import base_train
from nanochat.tokenizer import load_tokenizer
from nanochat.training import Look, Setup, train
from nanochat.training_checkpoints import load_into, read_resumption
from nanochat.training_evaluation import Evaluation
from nanochat.training_plan import plan_pretraining
from nanochat.training_setup import batch_loss, new_model
from nanochat.training_state import SMOOTHING, TrainingState
from tests.support import FIXTURES, needs_fixtures
from tests.training_support import first_batches

NEWEST = FIXTURES / "nanochat_2026_07_03"
BEGIN, ROWS, LENGTH = 40, 2, 256


@needs_fixtures
@pytest.mark.parametrize("end", [43, pytest.param(120, marks=pytest.mark.prove)])
def test_every_loss_of_nanochats_own_run(end: int) -> None:
    resumption = read_resumption(Path(NEWEST, "base_checkpoints", "d4"), BEGIN)
    flags = Namespace(**{**vars(base_train.parser().parse_args([])), **resumption.user_config})
    plan = plan_pretraining(flags, resumption.config.vocab_size)
    model = new_model(resumption.config, seed=0)
    optimizer = build_optimizer(model, plan.rates)
    load_into(resumption, model, optimizer)
    dataset, tokenizer = open_dataset(NEWEST / "base_data_climbmix"), load_tokenizer(NEWEST / "tokenizer")
    loader = DataLoader(dataset.train, tokenizer, ROWS, LENGTH, rows_per_step=ROWS * plan.accumulation)
    for _ in range(BEGIN * plan.accumulation):  # its resumption loses documents, so the text is read from the beginning
        loader.next_batch()
    inner, heard = batch_loss(model), [0.0]

    def loss(inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        total = inner(inputs, targets)
        heard[0] = total.item() / targets.numel()
        return total

    validation = first_batches(
        lambda: DataLoader(dataset.val, tokenizer, ROWS, LENGTH, ahead=False), flags.eval_tokens // (ROWS * LENGTH)
    )
    evaluation = Look("evaluation", Evaluation(model, validation, tokenizer.token_bytes()), flags.eval_every)
    state = TrainingState.of_meta(BEGIN, resumption.meta, plan.flops_per_token)
    setup = Setup(
        model, optimizer, loader, plan.horizon, loss, plan.schedule, plan.momentum, plan.weight_decay,
        plan.accumulation, looks=[evaluation], state=state,
    )  # fmt: skip
    log = (NEWEST / "logs" / "base_train.log").read_text()
    losses = {int(step): loss for step, loss in re.findall(r"^step (\d+)/.*? loss: ([\d.]+)", log, re.MULTILINE)}
    bpbs = {int(step): bpb for step, bpb in re.findall(r"^Step (\d+) \| Validation bpb: ([\d.]+)", log, re.MULTILINE)}
    average = state.smooth_loss
    for record in train(setup):
        if record.val_bpb is not None:
            assert record.val_bpb == pytest.approx(float(bpbs[record.step]), abs=2e-5 if record.step > 40 else 1e-6)
        if record.train_loss is not None:
            average = SMOOTHING * average + (1 - SMOOTHING) * heard[0]
            ours = average / (1 - SMOOTHING ** (record.step + 1))
            assert ours == pytest.approx(float(losses[record.step]), abs=2e-6), record.step
        if record.step == end:
            return
    raise AssertionError(f"the run ended before step {end}")
