"""What fine-tuning trains, on what and with what: the base model, the mixture, and all parts of the loop.

chat_sft's flags come in, a `Setup` for `train` goes out. Every decision that is made for the user is handed to `say`,
with its reason. Nothing is printed here.

    python -m nanochat.scripts.chat_sft --model-tag d4
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanochat.paths import expand, roots
from nanochat.sft_tasks import VAL_SIZE, make_tasks
from nanochat.tasks import Task
from nanochat.tasks.mixture import Mixture, Part
from nanochat.training_flags import PLACES, run_facts, seconds_of

if TYPE_CHECKING:
    import torch

    from nanochat.checkpoint_runs import Run
    from nanochat.distributed import World
    from nanochat.gpt import GPT
    from nanochat.gpt_config import GPTConfig
    from nanochat.horizon import Horizon
    from nanochat.optim import Optimizer
    from nanochat.tokenizer import Tokenizer
    from nanochat.training import Setup
    from nanochat.training_checkpoints import Resumption
    from nanochat.training_signals import StopRequest

Say = Callable[[str], None]
FEW_UPDATES = 20  # below this an epoch changes little
# Group of the optimizer -> the flag that sets its rate; the others have none here.
RATE_FLAGS = {
    "matrix": "matrix_lr",
    "embedding": "embedding_lr",
    "value_embeds": "embedding_lr",
    "unembedding": "unembedding_lr",
}
LEAST_ROWS = 4  # of an evaluation: one alone might hold nothing that the model is to learn
SAMPLED = 200  # conversations that are rendered to estimate the length of an epoch


@dataclass(frozen=True)
class Prepared:
    """Everything that a run needs, and what is needed afterwards to ask the model."""

    setup: Setup
    model: GPT
    tokenizer: Tokenizer
    tasks: list[Task]  # both splits of each


@dataclass(frozen=True)
class Base:
    """The pretrained model that fine-tuning starts from."""

    folder: Path
    step: int
    meta: dict[str, Any]
    config: GPTConfig
    tokenizer: Tokenizer
    weights: dict[str, torch.Tensor]


def choose_base(args: argparse.Namespace) -> tuple[Run, str]:
    """The base run of the tag that was asked for, else the deepest, and why it is that one."""
    from nanochat.checkpoint_manager import choose_run

    places = [expand(args.base_dir)] if args.base_dir else [root.path for root in roots()]
    return choose_run(places, "base", args.model_tag)


def open_base(args: argparse.Namespace, run: Run, reason: str, say: Say) -> Base:
    """The base model at the step that was asked for, else its last, on the CPU in float32.

    Notes the step in `args`: a resumed run must not go over to a later one.
    """
    from nanochat.checkpoint_manager import find_last_step, load_model

    if args.model_step is None:
        args.model_step = find_last_step(run.folder)
    loaded = load_model(run.folder, args.model_step, "cpu", args.tokenizer_dir)
    say(f"base model: {run.folder}, step {args.model_step} ({reason})")
    for note in loaded.notes:
        say(f"  {note}")
    weights = loaded.model.state_dict()
    return Base(run.folder, args.model_step, loaded.meta, loaded.era.config, loaded.tokenizer, weights)


def inherit(args: argparse.Namespace, base: Base, say: Say) -> None:
    """Fill in the settings that were not given from those that the base model was trained with."""
    flags = base.meta.get("user_config") or {}
    for name, fallback in (
        ("max_seq_len", base.config.sequence_len),
        ("device_batch_size", 32),
        ("total_batch_size", 524288),
        ("embedding_lr", 0.3),
        ("unembedding_lr", 0.004),
        ("matrix_lr", 0.02),
    ):
        given = getattr(args, name)
        pretrained = next((place[name] for place in (base.meta, flags) if _is_set(place.get(name))), None)
        if given is None:
            setattr(args, name, fallback if pretrained is None else pretrained)
            source = "from pretrained checkpoint" if pretrained is not None else "(the checkpoint does not say)"
            say(f"Inherited {name}={getattr(args, name)} {source}")
        elif pretrained is not None and given != pretrained:
            say(f"NOTE: --{name.replace('_', '-')}={given} overrides pretrained value of {pretrained}")
        else:
            say(f"Using {name}={given}")


def fit_batch(args: argparse.Namespace, given: frozenset[str], ranks: int, say: Say) -> None:
    """Let an inherited total batch be a multiple of what the rows hold: pretraining may have had shorter rows."""
    once = args.device_batch_size * args.max_seq_len * ranks
    if "total_batch_size" not in given and args.total_batch_size % once:
        fitting = max(1, round(args.total_batch_size / once)) * once
        say(f"NOTE: total_batch_size={args.total_batch_size} is no multiple of the rows' {once}; taking {fitting}")
        args.total_batch_size = fitting


def _is_set(value: Any) -> bool:
    return isinstance(value, int | float) and value > 0  # nanochat writes -1 for "choose for me"


@contextmanager
def prepared(
    args: argparse.Namespace, given: frozenset[str], world: World, stop: StopRequest, folder: Path, base: Base, say: Say
) -> Iterator[Prepared]:
    """The run's folder taken, everything built, and all of it closed at the end. given: flags of the command line."""
    from nanochat import training_setup as parts_of
    from nanochat.gpt import GPT
    from nanochat.horizon import accumulation_steps
    from nanochat.records import METRICS_NAME, RecordWriter
    from nanochat.sft_data import SFTLoader
    from nanochat.sft_schedule import SFT_MOMENTUM, SFTSchedule
    from nanochat.training import Setup
    from nanochat.training_checkpoints import Saver, entered, load_weights, state_of
    from nanochat.training_folder import make_room
    from nanochat.training_sizes import fit_evaluation

    device = parts_of.rank_device(args.device_type, world)
    # A longer context than the base model's is learnt; a shorter one only makes shorter rows.
    config = replace(base.config, sequence_len=max(base.config.sequence_len, args.max_seq_len))
    fit_batch(args, given, world.size, say)
    rows, context, batch = args.device_batch_size, args.max_seq_len, args.total_batch_size
    counts, flops = parts_of.size_of(config)
    accumulation = accumulation_steps(batch, rows, context, world.size)
    horizon = choose_horizon(args)
    schedule = SFTSchedule(
        warmdown_ratio=args.warmdown_ratio, final_fraction=args.final_lr_frac, warmup_ratio=args.warmup_ratio
    )
    parts, val_tasks = make_tasks(args)
    for part, unseen in zip(parts, val_tasks, strict=True):
        if not len(unseen) and args.val_every:
            say(f"NOTE: {part.task.name} has {len(part.task):,} conversations, too few to keep any unseen")
    mixture = Mixture(parts, args.seed)
    tasks = [task for part, unseen in zip(parts, val_tasks, strict=True) for task in (part.task, unseen)]

    world.require_same(
        {"the conversations": mixture.identity, "the tokenizer": base.tokenizer.fingerprint,
         "the base model": (base.folder.name, base.step), "the length": horizon,
         "the run's settings": {**vars(args), **dict.fromkeys(PLACES)}},
        device.device,
    )  # fmt: skip

    with ExitStack() as stack:
        resume = args.resume_from_step if args.resume_from_step >= 0 else None
        into = entered(folder, counts["total"], world, resume=resume, force=args.force, device=device.device)
        resumption = stack.enter_context(into)
        averages = saved_averages(args, base, resumption, world)
        kind, why = choose_kind(args, averages)
        epoch_tokens = tokens_of_a_pass(mixture, base.tokenizer, context)
        speed = parts_of.choose_speed(
            config, device, horizon, batch_tokens=rows * context,
            step_flops=round(flops * (batch + parts_of.optimizer_tokens(config, kind))),
            steps=max(1, round(epoch_tokens / batch)), optimizer=kind, dtype=args.dtype, compile_step=args.compile,
            meta=None if resumption is None else resumption.meta, world=world,
        )  # fmt: skip
        for line in (*speed.lines, f"optimizer: {kind} ({why})"):
            say(line)
        if horizon.seconds is not None and resumption is None and device.device == "cpu":
            rate = world.size * parts_of.training_speed(speed.flops_per_second) / flops  # tokens a second
            (rate,) = world.add([rate if world.first else 0.0])  # all ranks evaluate on the same
            update = (batch + parts_of.optimizer_tokens(config, kind)) / rate
            least = LEAST_ROWS * context * world.size
            for line in fit_evaluation(args, given, horizon.seconds, rate, update, least, args.eval_tokens):
                say(line)
        model = GPT(config)
        if resumption is None:
            model.load_state_dict(base.weights)
        else:
            load_weights(resumption, model)
        model.to(device=device.device).float()
        scale = args.init_lr_frac * pretraining_scale(base, batch)
        optimizer = build_optimizer(args, given, model, kind, averages, resumption, scale, speed.newton_schulz, say)
        for line in introduction(args, horizon, mixture, epoch_tokens, accumulation, resumption, world):
            say(line)

        open_loader = functools.partial(
            SFTLoader, mixture, base.tokenizer, rows, context, rank=world.rank, world_size=world.size,
            rows_per_step=rows * accumulation * world.size, device=device.device,
            state=None if resumption is None else resumption.loader,
        )  # fmt: skip
        loader, loss = open_loader(), parts_of.batch_loss(model, speed.dtype, speed.compiled)
        rehearsal = functools.partial(parts_of.rehearse, model, loss, open_loader)
        make_room(folder, resume, world, device.device, rehearse=rehearsal)
        state = state_of(resumption, flops)
        saver = Saver(
            folder, base.tokenizer, config, args.save_every, args.save_minutes, saved_step=state.step or None,
            saved_at=state.elapsed, facts=run_facts(args, context, batch),
            lab={"horizon": asdict(horizon), "schedule": asdict(schedule), "optimizer": asdict(optimizer.config),
                 "speed": speed.facts(), "data": {"name": "conversations", "identity": mixture.identity},
                 "base": {"folder": base.folder.name, "step": base.step}, "mixture": mixture.summary()},
        )  # fmt: skip
        setup = Setup(
            model, optimizer, loader, horizon, loss, schedule,
            momentum=SFT_MOMENTUM, accumulation=accumulation, clip=args.clip,
            looks=looks(args, model, base.tokenizer, val_tasks, device.device, world, stop, speed.dtype), saver=saver,
            metrics=stack.enter_context(RecordWriter(folder / METRICS_NAME)) if world.first else None,
            flops_per_token=flops, peak_flops=world.size * (parts_of.peak_flops(device.name) or 0) or None,
            world=world, device=device.device, stop=stop, state=state,
        )  # fmt: skip
        yield Prepared(setup, model, base.tokenizer, tasks)


def looks(
    args: argparse.Namespace, model: GPT, tokenizer: Tokenizer, val_tasks: list[Task], device: str, world: World,
    stop: StopRequest, dtype: torch.dtype | None = None,
) -> list[Any]:  # fmt: skip
    """Bits per byte on the unseen part of every task, where there is any, computed in `dtype`."""
    from nanochat.sft_data import one_epoch
    from nanochat.training import Look
    from nanochat.training_evaluation import Evaluation

    parts = [Part(task, min(1.0, VAL_SIZE / len(task))) for task in val_tasks if len(task)]
    if not parts or args.eval_every <= 0:
        return []
    unseen = Mixture(parts, args.seed)

    def batches() -> Iterator[Any]:
        return one_epoch(
            unseen, tokenizer, args.device_batch_size, args.max_seq_len, max_tokens=args.eval_tokens,
            rank=world.rank, world_size=world.size, device=device,
        )  # fmt: skip

    evaluation = Evaluation(model, batches, tokenizer.token_bytes(), world=world, device=device, stop=stop, dtype=dtype)
    return [Look("evaluation", evaluation, every=args.eval_every, at_start=True)]


def saved_averages(
    args: argparse.Namespace, base: Base, resumption: Resumption | None, world: World
) -> list[Any] | None:
    """The optimizer's memory to go on with: of the run itself, else of pretraining; None where there is none."""
    from nanochat.checkpoint_files import find_optimizer
    from nanochat.training_checkpoints import read_resumption

    if resumption is not None:
        return resumption.optimizer
    if args.load_optimizer and find_optimizer(base.folder, base.step) is not None:
        return read_resumption(base.folder, base.step, world).optimizer
    return None


def choose_kind(args: argparse.Namespace, averages: list[Any] | None) -> tuple[str, str]:
    """The kind of optimizer, and why: as asked, as the averages are, or nanochat's newest."""
    from nanochat.optim import recognise_kind

    if args.optimizer is not None:
        return args.optimizer, "as asked"
    return ("muon", "nanochat's newest") if averages is None else recognise_kind(averages[0])


def build_optimizer(
    args: argparse.Namespace,
    given: frozenset[str],
    model: GPT,
    kind: Any,
    averages: list[Any] | None,
    resumption: Resumption | None,
    scale: float,
    newton_schulz: str | None,
    say: Say,
) -> Optimizer:
    """The optimizer at fine-tuning's rates, with the averages that pretraining left behind where they are there.

    The rates are a part of those that pretraining began with, as its optimizer remembers them. nanochat takes the flags
    instead, which base_train multiplied by the square root of the batch: the same at its own batch of 2^19 tokens,
    twenty times too hot at a small one. A rate that is given counts as base_train's does: times `scale`.
    """
    from nanochat.optim import OptimConfig
    from nanochat.optim import build_optimizer as build
    from nanochat.training_checkpoints import load_averages

    config = OptimConfig(
        kind=kind, matrix_lr=args.matrix_lr * scale, embedding_lr=args.embedding_lr * scale,
        unembedding_lr=args.unembedding_lr * scale, scalar_lr=OptimConfig.scalar_lr * scale,
        smear_lr=OptimConfig.smear_lr * args.init_lr_frac, weight_decay=0.0, newton_schulz=newton_schulz,
    )  # fmt: skip
    optimizer = build(model, config)
    if averages is None:
        reason = "none was saved" if args.load_optimizer else "as asked"
        say(f"Starting with fresh optimizer averages ({reason}): slightly worse for some steps")
        return optimizer
    asked = [group["lr"] for group in optimizer.param_groups]
    load_averages(averages, optimizer)
    part = args.init_lr_frac if resumption is None else 1.0  # a resumed run remembers its own rates, not pretraining's
    for group, rate in zip(optimizer.param_groups, asked, strict=True):
        group["initial_lr"] = rate if RATE_FLAGS.get(group["name"]) in given else part * group["initial_lr"]
        group["lr"] = group["initial_lr"]
        if group["name"] == "matrix":
            group["weight_decay"] = 0.0  # pretraining's has fallen to nothing by its end
    if resumption is None:
        say("Loaded optimizer state from pretrained checkpoint (momentum buffers only, LRs reset)")
    return optimizer


def pretraining_scale(base: Base, batch: int) -> float:
    """The factor that base_train put on the rates of its flags: as recorded, else nanochat's rule for this batch."""
    from nanochat.horizon import rate_scale

    saved = (base.meta.get("user_config") or {}).get("lr_scale")
    return float(saved) if isinstance(saved, int | float) and saved > 0 else rate_scale(batch)


def choose_horizon(args: argparse.Namespace) -> Horizon:
    """Where the run ends: a budget, a number of updates, or one pass over the mixture."""
    from nanochat.horizon import Horizon

    if (seconds := seconds_of(args)) is not None:
        return Horizon(seconds=seconds, reason=f"a budget of {seconds:,.0f} seconds")
    if args.num_iterations > 0:
        return Horizon(steps=args.num_iterations, reason="updates as given")
    return Horizon(epochs=1.0, reason="one pass over the mixture")


def tokens_of_a_pass(mixture: Mixture, tokenizer: Tokenizer, context: int) -> float:
    """How many tokens all conversations have, estimated from some of them."""
    sampled = range(0, len(mixture), max(1, len(mixture) // SAMPLED))
    lengths = [len(tokenizer.render_conversation(mixture.conversation(0, i), context + 1).ids) for i in sampled]
    return sum(lengths) / len(lengths) * len(mixture)


def introduction(
    args: argparse.Namespace, horizon: Horizon, mixture: Mixture, epoch_tokens: float, accumulation: int,
    resumption: Resumption | None, world: World,
) -> list[str]:  # fmt: skip
    """What will happen, in a few lines."""
    once, batch = args.device_batch_size * args.max_seq_len, args.total_batch_size
    shares = ", ".join(f"{name} {size:,} x {epochs:.3g}" for name, size, epochs in mixture.summary())
    updates = max(1, round(epoch_tokens / batch))
    lines = [
        f"Tokens / micro-batch / rank: {args.device_batch_size} x {args.max_seq_len} = {once:,}",
        f"Tokens / micro-batch: {once * world.size:,}",
        f"Total batch size {batch:,} => gradient accumulation steps: {accumulation}",
        f"Training mixture: {len(mixture):,} rows ({shares})",
        f"Ends after {horizon.reason}; one pass is about {epoch_tokens:,.0f} tokens, {updates:,} updates",
    ]
    if updates < FEW_UPDATES and horizon.epochs is not None:
        lines.append(
            f"  {updates} updates change little: add conversations (--data, --tasks), or take a smaller "
            f"--total-batch-size than {batch:,}"
        )
    if resumption is not None:
        lines += [f"Resuming optimization from step {resumption.step}", *resumption.notes]
    return lines
