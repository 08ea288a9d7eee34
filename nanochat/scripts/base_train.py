"""Pretrain a base model: text in, a model that continues text out.

    nanochat base_train --depth 4 --minutes 5                      # a small model in five minutes, on stories
    nanochat base_train --depth 4 --minutes 5 --data book.txt      # on a text of yours
    nanochat base_train --depth 4 --resume                         # go on where it stopped, to the bit
    torchrun --standalone --nproc-per-node 8 -m nanochat.scripts.base_train --depth 20 --data FOLDER

Flags are nanochat's own with its own defaults, and a few more. Ctrl-C saves a checkpoint and leaves; a second Ctrl-C
leaves at once. Progress is printed in nanochat's own lines and kept in `metrics.jsonl` beside the checkpoints.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanochat import paths, training_flags
from nanochat.errors import exit_status
from nanochat.optim_config import KINDS as OPTIMIZERS
from nanochat.schedules import KINDS as SCHEDULES
from nanochat.training_flags import COMMON_LIMITS, MOST, NEVER, OFF, PLACES, RATE, Limits, base_dir_of

if TYPE_CHECKING:
    import torch

    from nanochat.device import DeviceChoice
    from nanochat.distributed import World
    from nanochat.gpt_config import GPTConfig
    from nanochat.records import StepRecord
    from nanochat.training import Setup
    from nanochat.training_checkpoints import Resumption
    from nanochat.training_plan import Plan
    from nanochat.training_signals import StopRequest


# What the number of each flag may be.
LIMITS = {
    **COMMON_LIMITS,
    "depth": Limits(1, 2**12),
    "aspect_ratio": Limits(1, 2**16),
    "head_dim": Limits(1, 2**16),
    "total_batch_size": Limits(1, 2**40, OFF),
    "target_tokens": Limits(1, 1e18, OFF),
    "target_flops": Limits(1, 1e30, OFF),
    "target_param_data_ratio": Limits(1e-3, 1e6, OFF),
    "scalar_lr": RATE,
    "lr_scale": Limits(1e-9, 1e9),
    "weight_decay": Limits(0, 1e9),
    "warmup_steps": Limits(0, MOST),
    "sample_every": Limits(1, MOST, NEVER),
    "core_metric_every": Limits(1, MOST, NEVER),
    "core_metric_max_per_task": Limits(1, MOST, OFF),
}


class BaseTrainError(ValueError):
    """A flag that cannot be followed: one sentence."""


def parser() -> argparse.ArgumentParser:
    """Every flag, each with its help."""
    p = argparse.ArgumentParser(
        prog="nanochat base_train",
        description="Pretrain a base model. Depth is the one dial: width, length of the run, batch and rates follow "
        "from it. Ctrl-C saves a checkpoint and leaves.",
    )
    where = p.add_argument_group("where")
    where.add_argument("--base-dir", type=Path, help="folder to write to, in nanochat's layout (the workspace)")
    where.add_argument("--model-tag", help="name of the run's folder below base_checkpoints (d<depth>)")
    where.add_argument("--data", help="stories, python, or a file or folder (shards that are here, else stories)")
    where.add_argument("--tokenizer-dir", type=Path, help="tokenizer to train with (that of the base dir)")
    training_flags.add_resume(where)
    model = p.add_argument_group("model")
    model.add_argument("--depth", type=int, default=20, help="layers (20)")
    model.add_argument("--aspect-ratio", type=int, default=64, help="channels are depth * this, in whole heads (64)")
    model.add_argument("--head-dim", type=int, default=128, help="channels of one attention head (128)")
    model.add_argument("--max-seq-len", type=int, default=2048, help="tokens of context (2048; on a CPU by time)")
    model.add_argument("--window-pattern", default="SSSL", help="attention by layer: S short window, L all (SSSL)")
    model.add_argument("--seed", type=int, default=42, help="the same seed gives the same starting weights (42)")
    length = p.add_argument_group("length; the first of these that is given decides")
    training_flags.add_budget(length)
    length.add_argument("--num-iterations", type=int, default=-1, help="updates (-1: off)")
    length.add_argument("--target-tokens", type=int, default=-1, help="tokens to train on (-1: off)")
    length.add_argument("--target-flops", type=float, default=-1.0, help="FLOPs to spend (-1: off)")
    length.add_argument("--target-param-data-ratio", type=float, default=12, help="tokens for each weight (12)")
    tuning = p.add_argument_group("optimization")
    tuning.add_argument(
        "--device-batch-size", type=int, default=32, help="rows a device takes at once (32; on a CPU by size)"
    )
    tuning.add_argument(
        "--total-batch-size", type=int, default=-1, help="tokens of one update (-1: by depth; on a CPU by time)"
    )
    tuning.add_argument("--optimizer", default="muon", choices=OPTIMIZERS, help="method (muon, nanochat's newest)")
    tuning.add_argument("--matrix-lr", type=float, default=0.02, help="rate of the layers' matrices (0.02)")
    tuning.add_argument("--embedding-lr", type=float, default=0.3, help="rate of the embeddings (0.3)")
    tuning.add_argument("--unembedding-lr", type=float, default=0.008, help="rate of the head (0.008)")
    tuning.add_argument("--scalar-lr", type=float, default=0.5, help="rate of the layers' scales (0.5)")
    tuning.add_argument("--weight-decay", type=float, default=0.28, help="decay of the matrices, cautious (0.28)")
    tuning.add_argument("--lr-scale", type=float, help="factor on all rates (root of batch / 2^19; on a CPU 1)")
    tuning.add_argument("--clip", type=float, help="largest norm of the gradient (not clipped)")
    tuning.add_argument("--schedule", default="wsd", choices=SCHEDULES, help="shape of the rates over the run (wsd)")
    tuning.add_argument("--warmup-steps", type=int, default=40, help="updates until the full rate (40)")
    tuning.add_argument("--warmdown-ratio", type=float, default=0.65, help="part of the run that cools down (0.65)")
    tuning.add_argument("--final-lr-frac", type=float, default=0.05, help="rate at the end, part of the full (0.05)")
    speed = p.add_argument_group("speed")
    training_flags.add_speed(speed)
    speed.add_argument("--fp8", action="store_true", help="nanochat's 8-bit training; refused here")
    speed.add_argument("--fp8-recipe", default="tensorwise", help="nanochat's; without effect here")
    looks = p.add_argument_group("evaluation and checkpoints")
    looks.add_argument(
        "--eval-every", type=int, default=250, help="updates between evaluations (250; on a CPU by time; -1: none)"
    )
    looks.add_argument("--eval-tokens", type=int, help="tokens of one evaluation (41,943,040; on a CPU by time)")
    looks.add_argument("--sample-every", type=int, default=2000, help="updates between samples (2000; -1: none)")
    looks.add_argument("--core-metric-every", type=int, default=-1, help="nanochat's; without effect here (-1)")
    looks.add_argument("--core-metric-max-per-task", type=int, default=500, help="nanochat's; no effect here (500)")
    training_flags.add_saving(looks)
    training_flags.add_output(p.add_argument_group("output"))
    return p


def main(argv: list[str] | None = None) -> int:
    """Train, or go on training."""
    args = parser().parse_args(argv)
    if args.fp8:
        raise BaseTrainError("--fp8: 8-bit training is not offered here; without the flag a GPU trains in bfloat16")
    training_flags.require_numbers(args, LIMITS)

    from nanochat import distributed
    from nanochat.device import choose_device

    device = choose_device(args.device_type or "auto")
    with distributed.start(device.device.partition(":")[0]) as world:
        training_flags.require_same_flags(args, world, device.device)
        if training_flags.resuming(args):
            args = training_flags.take_over(parser, argv, folder_of(args), world, device.device)
            training_flags.require_numbers(args, LIMITS)
        return _train(args, training_flags.given_flags(parser(), argv), world)


def folder_of(args: argparse.Namespace) -> Path:
    """The run's folder."""
    return paths.run_folder(base_dir_of(args), "base", f"d{args.depth}" if args.model_tag is None else args.model_tag)


def _train(args: argparse.Namespace, given: frozenset[str], world: World) -> int:
    from nanochat.training import last_record, train
    from nanochat.training_log import StepLog, closing
    from nanochat.training_output import Output
    from nanochat.training_signals import StopRequest

    folder = folder_of(args)
    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(StopRequest(lambda line: output.say(line)))
        # For people; between lines of JSON there is nothing else.
        output = Output(stop.request, silent=not world.first, people=sys.stderr if args.json else None)
        say = output.say
        setup, step_tokens = _prepare(args, given, world, stop, folder, say, stack)
        log = StepLog(setup.horizon, lambda: setup.loader.position, step_tokens, setup.state.training_time)

        def show(record: StepRecord) -> None:
            if args.json:
                output.record(record.to_line())
            for line in log.lines(record):
                say(line)

        last = last_record(train(setup), show)
        say(closing(folder, last.step, stop() is not None, f"nanochat chat_cli -i base -g {folder.name}"))
    return stop.status


def _prepare(
    args: argparse.Namespace,
    given: frozenset[str],
    world: World,
    stop: StopRequest,
    folder: Path,
    say: Callable[[str], None],
    stack: contextlib.ExitStack,
) -> tuple[Setup, int]:
    """Everything that the loop needs, and the tokens of a step. What can be refused is refused before it costs time."""
    from nanochat import training_setup as parts
    from nanochat import training_sizes
    from nanochat.dataloader import DataLoader
    from nanochat.dataset import choose_data, open_dataset
    from nanochat.optim import build_optimizer
    from nanochat.records import METRICS_NAME, RecordWriter
    from nanochat.tokenizer import load_tokenizer
    from nanochat.training import Setup
    from nanochat.training_checkpoints import Saver, entered, load_into, state_of
    from nanochat.training_folder import make_room
    from nanochat.training_plan import plan_pretraining

    device = parts.rank_device(args.device_type, world)
    tokenizer = load_tokenizer(_tokenizer_dir(args))
    spec, why = choose_data(args.data, args.base_dir)
    dataset = open_dataset(spec)
    resume = args.resume_from_step if args.resume_from_step >= 0 else None
    sizes: list[str] = []
    if resume is None and device.device == "cpu":  # nanochat's own sizes are a GPU's
        (speed_here,) = world.add([parts.fastest_products() if world.first else 0.0])
        args, sizes = training_sizes.fit(args, given, tokenizer.get_vocab_size(), speed_here, world.size)
    plan = plan_pretraining(args, tokenizer.get_vocab_size(), world.size)
    world.require_same(
        {"the training text": dataset.train.identity, "the validation text": dataset.val.identity,
         "the tokenizer": tokenizer.fingerprint, "the step to go on from": resume, "the length": plan.horizon,
         "the tokens of an update": plan.batch, "the run's settings": {**vars(args), **dict.fromkeys(PLACES)}},
        device.device,
    )  # fmt: skip
    into = entered(folder, plan.counts["total"], world, resume=resume, force=args.force, device=device.device)
    resumption = stack.enter_context(into)
    config = plan.config if resumption is None else _same_model(plan.config, resumption)
    speed = parts.choose_speed(
        config, device, plan.horizon, batch_tokens=args.device_batch_size * config.sequence_len,
        step_flops=round(plan.flops_per_token * (plan.batch + parts.optimizer_tokens(config, args.optimizer))),
        optimizer=args.optimizer, dtype=args.dtype, compile_step=args.compile,
        meta=None if resumption is None else resumption.meta, world=world,
    )  # fmt: skip
    for line in (*speed.lines, *sizes, *_introduction(args, plan, dataset, why, resumption)):
        say(line)
    model = parts.new_model(config, args.seed, device.device)
    rates = replace(plan.rates, newton_schulz=speed.newton_schulz)
    optimizer = build_optimizer(model, rates)
    if resumption is not None:
        load_into(resumption, model, optimizer)
    state = state_of(resumption, plan.flops_per_token)

    open_loader = functools.partial(
        DataLoader, dataset.train, tokenizer, args.device_batch_size, config.sequence_len, rank=world.rank,
        world_size=world.size, device=device.device, rows_per_step=plan.batch // config.sequence_len,
        state=None if resumption is None else resumption.loader or resumption.meta.get("dataloader_state_dict"),
    )  # fmt: skip
    batches = open_loader()
    stack.callback(batches.close)
    loss = parts.batch_loss(model, speed.dtype, speed.compiled)
    rehearsal = functools.partial(parts.rehearse, model, loss, open_loader)
    make_room(folder, resume, world, device.device, rehearse=rehearsal)
    saver = Saver(
        folder, tokenizer, config, args.save_every, args.save_minutes,
        saved_step=state.step or None, saved_at=state.elapsed,
        facts=training_flags.run_facts(args, config.sequence_len, plan.batch),
        lab={"horizon": asdict(plan.horizon), "schedule": asdict(plan.schedule), "optimizer": asdict(rates),
             "speed": speed.facts(), "data": {"name": dataset.name, "identity": dataset.train.identity}},
    )  # fmt: skip
    setup = Setup(
        model, optimizer, batches, plan.horizon, loss, plan.schedule,
        plan.momentum, plan.weight_decay, plan.accumulation, args.clip,
        looks=_looks(args, model, tokenizer, dataset, device, world, stop, say, speed.dtype), saver=saver,
        metrics=stack.enter_context(RecordWriter(folder / METRICS_NAME)) if world.first else None,
        flops_per_token=plan.flops_per_token, peak_flops=world.size * (parts.peak_flops(device.name) or 0) or None,
        world=world, device=device.device, stop=stop, state=state,
    )  # fmt: skip
    return setup, plan.batch


def _tokenizer_dir(args: argparse.Namespace) -> Path:
    """Where the tokenizer lies: as named, of the base dir, else of the workspace."""
    places = [base_dir_of(args) / "tokenizer", paths.workspace() / "tokenizer"]
    if args.tokenizer_dir:
        places = [paths.expand(args.tokenizer_dir)]
    found = next((place for place in places if place.is_dir()), None)
    if found is None:
        data = f" --data {args.data}" if args.data else ""
        raise BaseTrainError(
            f"{places[0]}: there is no tokenizer; make one with `nanochat tok_train{data}`, or name one's folder "
            "(--tokenizer-dir)"
        )
    return found


def _same_model(config: GPTConfig, resumption: Resumption) -> GPTConfig:
    """The resumed run's configuration, if the flags ask for no other. Its design may be of any era."""
    from nanochat.gpt_config import SIZES

    for name in SIZES:
        asked, saved = getattr(config, name), getattr(resumption.config, name)
        if asked != saved:
            raise BaseTrainError(
                f"step {resumption.step} has {name} {saved} and the flags ask for {asked}; leave out the flags of the "
                "model to go on with it, or start a new run (--model-tag)"
            )
    return resumption.config


def _introduction(
    args: argparse.Namespace, plan: Plan, dataset: Any, why: str, resumption: Resumption | None
) -> list[str]:
    """What is about to happen, in a few lines."""
    config, end, parts = plan.config, plan.horizon, plan.accumulation
    length = f"{end.steps:,} steps ({end.reason})" if end.steps is not None else end.reason
    shape = f"{config.n_layer} layers, {config.n_embd} channels, {config.n_head} heads, context {config.sequence_len}"
    lines = [
        f"Model: {shape}, vocabulary {config.vocab_size:,}; {plan.counts['total']:,} parameters",
        f"Text: {dataset.name} ({why}); {'; '.join(dataset.notes)}",
        f"Length: {length}; {plan.batch:,} tokens a step, in {parts} part{'s' if parts > 1 else ''} a rank",
    ]
    if resumption is not None:
        lines += [f"Resuming optimization from step {resumption.step}", *resumption.notes]
    if args.core_metric_every > 0:
        lines.append("--core-metric-every has no effect: CORE is not measured during training")
    return lines


def _looks(
    args: argparse.Namespace,
    model: Any,
    tokenizer: Any,
    dataset: Any,
    device: DeviceChoice,
    world: World,
    stop: StopRequest,
    say: Callable[[str], None],
    dtype: torch.dtype | None = None,
) -> list[Any]:
    """Bits per byte on the validation text, computed in `dtype`, and samples."""
    from nanochat.dataloader import DataLoader
    from nanochat.training import Look
    from nanochat.training_evaluation import PROMPTS, Evaluation, first_rows, samples
    from nanochat.training_sizes import EVAL_TOKENS

    looks = []
    if args.eval_every > 0:
        tokens = args.eval_tokens or EVAL_TOKENS[device.device.partition(":")[0]]
        length = model.config.sequence_len
        batches = first_rows(
            lambda: DataLoader(dataset.val, tokenizer, 1, length, lanes=1, ahead=False),
            max(tokens // length, 1), args.device_batch_size, world, device.device,
        )  # fmt: skip
        evaluation = Evaluation(
            model, batches, tokenizer.token_bytes(), world=world, device=device.device, stop=stop, dtype=dtype
        )
        looks.append(Look("evaluation", evaluation, args.eval_every, at_start=True))
    if args.sample_every > 0:
        # A model of stories knows no France: it tells a story of its own.
        stories = dataset.name == "stories"

        def sample(step: int) -> None:
            if world.first:
                prompts, length, temperature = ([""], 128, 0.8) if stories else (PROMPTS, 16, 0.0)
                for text in samples(model, tokenizer, prompts, max_tokens=length, temperature=temperature):
                    say(text)

        looks.append(Look("sample", sample, args.sample_every))
    return looks


if __name__ == "__main__":
    sys.exit(exit_status("base_train", main))
