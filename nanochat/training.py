"""The training loop: one for pretraining and fine-tuning, for scripts, pages, the learning-rate finder and tests.

`train(setup)` is a generator: each `next` makes one update and gives its StepRecord. Whoever drives it may look at the
model in between, close it, or run it in a thread. One step of it:

    batches -> loss -> gradients -> rates of this moment -> optimizer -> record

What it needs is handed over ready-made in a `Setup`, so the loop does not know whether its batches are stories or
conversations, whether its model was compiled, or where its checkpoints lie. It needs torch alone; it never prints.

    python -m nanochat.scripts.base_train --depth 4

Legend: B rows of a batch, T tokens of a row.
"""

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from nanochat.checkpoint_files import CheckpointError
from nanochat.distributed import DistributedError
from nanochat.records import RecordError, StepRecord
from nanochat.schedules import Moment, Schedule
from nanochat.training_parts import Look, Setup
from nanochat.training_state import Clock

__all__ = ["Look", "Setup", "TrainingError", "last_record", "train"]

SLOW_STEP = 2.0  # seconds: from here on a stop request may end a step in the middle


class TrainingError(ValueError):
    """A training that cannot go on: one sentence."""


def train(setup: Setup) -> Iterator[StepRecord]:
    """Make updates until the horizon and give a record for each, and one more for the final weights.

    The last record has the event "stopped" where `stop` said so: a checkpoint has been saved then. "diverged" means
    that the loss or the gradient was not finite: the update was not made, nothing was saved, and the run is over.
    Closing the generator ends the run at once and saves nothing. A full disk under the metrics is a stop: the run tries
    to save a checkpoint and to write what it owes, and then raises.

    Raises:
        TrainingError: the setup contradicts itself.
        CheckpointError, RecordError: the disk is full or gone, or the run's folder is; older checkpoints are whole.
        DistributedError: another rank has left.
    """
    run = _Run(setup)
    try:
        while True:
            at, ending = run.settle()
            record = run.closing_record(ending) if ending else run.update(at)
            run.write(record)
            yield record
            if record.train_loss is None or "diverged" in record.events:
                break
        run.require_written()
    except DistributedError as error:
        raise DistributedError(f"{error}; {run.how_to_go_on()}") from error
    finally:
        setup.loader.close()


@dataclass
class _Gradients:
    """What the batches of one step came to, over all ranks."""

    loss: float  # nats a token
    tokens: int
    norm: float | None = None  # L2, once the optimizer has added up what the ranks have
    stopped: bool = False  # cut short by a stop request: the gradients are incomplete

    @property
    def finite(self) -> bool:
        return math.isfinite(self.loss) and (self.norm is None or math.isfinite(self.norm))


class _Run:
    """The loop's own memory: the clock, the events of the current step, and where the loader stood."""

    def __init__(self, setup: Setup) -> None:
        if setup.accumulation < 1:
            raise TrainingError(f"accumulation is {setup.accumulation}; an update needs at least one batch")
        self.setup, self.state = setup, setup.state
        self.clock = Clock(setup.clock, setup.state.elapsed, setup.state.step_seconds)
        self.events: list[str] = ["resumed"] if setup.state.step else []
        self.decays = [g.get("initial_weight_decay", g["weight_decay"]) for g in setup.optimizer.param_groups]
        self.phase: str | None = None
        if self.state.step:  # a resumed run must tell "warmdown_start" where the uninterrupted one would
            self.phase = setup.schedule.phase(setup.horizon.moment(self.state.step - 1, self.state.elapsed))
        self.boundary: tuple[Any, dict[str, int]] | None = None  # the loader's state and position before a slow step
        self.looked: set[int] = set()  # which of the looks are done at this step
        self.ending: str | None = None  # a stop request that arrived inside a step, or what the run itself stops for
        self.unwritten: list[StepRecord] = []  # that the disk had no room for
        self.failure: RecordError | None = None  # what it said to the first of them
        setup.model.train()

    def settle(self) -> tuple[Moment, str | None]:
        """Save and look where that is due; then where the run is, and whether and why it ends here.

        Both take time, of which a budget may have none left, and a stop may be asked for meanwhile.
        """
        self.state.evaluated = None
        self.looked.clear()
        while True:
            at, ending = self.agree()
            took_time = [self.save(ending), self.look(ending)]
            if ending or not any(took_time):
                return at, ending

    def agree(self) -> tuple[Moment, str | None]:
        """Where the run is and whether it ends here ("finished", or the word of a stop), the same on every rank.

        Clocks differ and signals reach one process, so rank 0's clock counts and anybody's stop.
        """
        setup, state = self.setup, self.state
        stop = self.ending or setup.stop()
        elapsed, typical, epochs = self.clock.elapsed(), self.clock.typical, setup.loader.progress or 0.0
        if setup.world.size > 1:
            mine = [elapsed, typical] if setup.world.first else [0.0, 0.0]
            elapsed, typical, epochs, stops = setup.world.add(
                [*mine, epochs / setup.world.size, float(stop is not None)], setup.device
            )
            stop = stop or ("another rank was told to" if stops else None)
        state.elapsed, state.step_seconds = elapsed, typical
        at = setup.horizon.moment(state.step, elapsed, typical, epochs)
        if setup.horizon.reached(state.step, elapsed, typical, epochs):
            return at, "finished"
        return at, stop

    def save(self, ending: str | None) -> bool:
        """Save a checkpoint where one is due. It comes before the evaluation: a kill there must not lose the model."""
        saver = self.setup.saver
        if saver is None:
            return False
        due = saver.due(self.state, ending is not None)
        if due:
            try:
                saver.save(self.setup, self.state, self.boundary)
            except CheckpointError as error:
                if self.failure is None:
                    raise
                raise RecordError(f"{self.failure}; no checkpoint could be saved ({error}); {self.kept()}") from None
        if saver.saved_step == self.state.step:
            self.events.append("checkpoint")
        return due

    def look(self, ending: str | None) -> bool:
        """Evaluate and sample where that is due, each once a step."""
        setup, state, looked = self.setup, self.state, False
        for number, look in enumerate(setup.looks):
            regular = look.every > 0 and state.step % look.every == 0 and (state.step > 0 or look.at_start)
            due = (regular and ending in (None, "finished")) or (ending == "finished" and look.at_end)
            if not due or number in self.looked:
                continue
            looked = True
            self.looked.add(number)  # whatever comes of it: what gives no figure once gives none at once again
            with torch.no_grad():
                value = look.run(state.step)
            if look.event == "evaluation":
                if value is None:  # a stop request cut it short, or there is nothing to measure
                    continue
                state.evaluated = state.val_bpb = value
                state.min_val_bpb = min(state.min_val_bpb, value)
            self.events.append(look.event)
        setup.model.train()
        if looked and state.evaluated is not None and setup.saver and setup.saver.saved_step == state.step:
            setup.saver.amend(setup, state)
        return looked

    def update(self, at: Moment) -> StepRecord:
        """One update: batches, gradients, rates, optimizer."""
        setup, state = self.setup, self.state
        begun = setup.clock()
        gradients = self.gradients()
        if gradients.stopped:
            return self.stop_inside()
        multiplier = self.set_rates(at)
        if math.isfinite(gradients.loss):
            with setup.world.together():  # a gradient that is not finite leaves weights and averages as they are
                gradients.norm = float(setup.optimizer.step(math.inf if setup.clip is None else setup.clip))
        if gradients.finite:
            state.advance(gradients.loss, gradients.tokens, gradients.tokens * setup.flops_per_token)
        else:
            self.events.append("diverged")
        setup.optimizer.zero_grad()
        self.boundary = None
        seconds = max(setup.clock() - begun, 1e-9)
        if gradients.finite:
            state.count_time(seconds)
            if self.clock.count(seconds):
                self.events.append("paused")
        return self.record(gradients, multiplier, seconds)

    def gradients(self) -> _Gradients:
        """The gradient of the mean loss over every counted target of the step, on all ranks together.

        All batches of the step are fetched first: the mean needs to know how many targets count before the first
        backward pass. The optimizer then adds up what the ranks have. Targets without a loss weigh nothing, wherever
        they fall.
        """
        setup, world = self.setup, self.setup.world
        may_stop = world.size == 1 and setup.accumulation > 1 and self.clock.typical_or(SLOW_STEP) >= SLOW_STEP
        if may_stop and setup.saver is not None:
            self.boundary = setup.loader.state_dict(), dict(setup.loader.position)
        batches = [setup.loader.next_batch() for _ in range(setup.accumulation)]
        mine = [float(sum((batch.targets >= 0).sum() for batch in batches)), sum(b.inputs.numel() for b in batches)]
        counted, tokens = world.add(mine, setup.device)
        share = 1 / max(counted, 1)
        losses = []
        for number, batch in enumerate(batches):
            if number and may_stop:
                self.ending = setup.stop()
                if self.ending:
                    return _Gradients(0.0, 0, stopped=True)
            loss = setup.loss(batch.inputs, batch.targets)
            (loss * share).backward()
            losses.append(loss.detach())
        (summed,) = world.add([sum(torch.stack(losses).tolist())], setup.device)  # waits for the device once
        return _Gradients(summed * share, int(tokens))

    def set_rates(self, at: Moment) -> float:
        """Give every group the rate of this moment, and Muon's its momentum and weight decay; return the factor."""
        setup = self.setup
        multiplier = setup.schedule.multiplier(at)
        phase = setup.schedule.phase(at)
        if self.phase == "warmup" and phase != "warmup":
            self.events.append("warmup_end")
        if self.phase is not None and phase == "warmdown" != self.phase:
            self.events.append("warmdown_start")
        self.phase = phase
        for group, decay in zip(setup.optimizer.param_groups, self.decays, strict=True):
            group["lr"] = group["initial_lr"] * multiplier
            if group.get("name") == "matrix":
                group["weight_decay"] = decay * setup.weight_decay.multiplier(at)
                if setup.momentum is not None and isinstance(setup.schedule, Schedule) and "momentum" in group:
                    group["momentum"] = setup.momentum.value(at, setup.schedule)
        return multiplier

    def record(self, gradients: _Gradients, multiplier: float, seconds: float) -> StepRecord:
        """The record of an update that has just been made, or refused."""
        setup, state = self.setup, self.state
        diverged = not gradients.finite
        rates: dict[str, float] = {}
        for number, group in enumerate(setup.optimizer.param_groups):
            rates.setdefault(group.get("name", str(number)), float(group["lr"]))
        speed = gradients.tokens / seconds
        return StepRecord(
            step=state.step if diverged else state.step - 1,
            time=self.clock.elapsed(),
            tokens=state.tokens,
            train_loss=gradients.loss,
            smooth_loss=None if diverged else state.debiased_loss,
            val_bpb=state.evaluated,
            learning_rate=rates.get("matrix", next(iter(rates.values()), None)),
            learning_rates=rates,
            lr_multiplier=multiplier,
            grad_norm=gradients.norm,
            tokens_per_second=speed,
            mfu=speed * setup.flops_per_token / setup.peak_flops if setup.peak_flops else None,
            flops=state.flops,
            events=self.take_events(),
        )

    def stop_inside(self) -> StepRecord:
        """A stop request inside a step: the step is dropped, and the checkpoint is that of its beginning."""
        self.setup.optimizer.zero_grad()
        self.state.elapsed = self.clock.elapsed()
        self.save(self.ending)
        return self.closing_record(self.ending)

    def closing_record(self, ending: str | None) -> StepRecord:
        """The record of the final weights."""
        if ending != "finished":
            self.events.append("stopped")
        state = self.state
        return StepRecord(
            step=state.step,
            time=self.clock.elapsed(),
            tokens=state.tokens,
            val_bpb=state.evaluated,
            flops=state.flops,
            events=self.take_events(),
        )

    def write(self, record: StepRecord) -> None:
        """Append the record to the metrics, behind those that there was no room for.

        Without room the run stops as if it had been asked to, on every rank, so that what it has learned is saved if
        that fits. The records wait: the checkpoint may have been given room meanwhile, and then so are they.

        Raises:
            CheckpointError: the run's folder is not where it was.
        """
        setup = self.setup
        if setup.metrics is None:
            return
        if setup.saver is not None:
            setup.saver.require_held()
        self.unwritten.append(record)
        try:
            while self.unwritten:
                setup.metrics.write(self.unwritten[0])
                del self.unwritten[0]
        except RecordError as error:
            self.failure = self.failure or error
            self.ending = self.ending or "the metrics cannot be written"

    def require_written(self) -> None:
        """Say at the end that the disk was full, what is kept and what is not.

        Raises:
            RecordError: it was.
        """
        if self.failure is not None:
            lost = f"; the records from step {self.unwritten[0].step} on are not" if self.unwritten else ""
            raise RecordError(f"{self.failure}; {self.kept()}{lost}") from None

    def kept(self) -> str:
        """Which step is safe and how to go on, in words."""
        saved = self.setup.saver and self.setup.saver.saved_step
        return f"step {saved} is kept; {self.how_to_go_on()}" if saved else self.how_to_go_on()

    def how_to_go_on(self) -> str:
        """The advice for a run that breaks off: there is something to resume only where something was saved."""
        saved = self.setup.saver and self.setup.saver.saved_step
        if saved:
            return f"go on from step {saved} with the same command and --resume"
        return "no checkpoint was saved yet, so start again with the same command"

    def take_events(self) -> tuple[str, ...]:
        """The events since the last record, each once."""
        events, self.events = tuple(dict.fromkeys(self.events)), []
        return events


def last_record(records: Iterator[StepRecord], each: Callable[[StepRecord], object] = lambda _: None) -> StepRecord:
    """Drive a training to its end, hand each record to `each`, and return the last one.

    Raises:
        TrainingError: the run diverged.
    """
    record: StepRecord | None = None
    with contextlib.closing(records) as running:  # type: ignore[type-var]  # a generator has close
        for record in running:
            each(record)
    if record is None:
        raise TrainingError("the training gave no record; it was closed before its first step")
    if "diverged" in record.events:
        raise TrainingError(
            f"step {record.step}: the loss or the gradient is not a finite number, so this update was not made and the "
            "run has stopped; the checkpoints before it are whole: resume from one with lower learning rates"
        )
    return record
