"""Fine-tune a base model to a conversation partner: it learns to answer, who it is, and to use its calculator.

    nanochat chat_sft                                            # the deepest base model, on generated tasks
    nanochat chat_sft --model-tag d4 --data chats.jsonl --data facts.jsonl=4
    nanochat chat_sft --model-tag d4 --data chats.jsonl --output-tag chats       # beside other fine-tunings of d4
    nanochat chat_sft --model-tag d4 --resume                    # go on where it stopped, to the bit
    torchrun --standalone --nproc-per-node 8 -m nanochat.scripts.chat_sft --model-tag d20 --data FOLDER/chats.jsonl

Flags are nanochat's own, and a few more. Batch, context and learning rates are those that the base model was trained
with, unless given. Afterwards the model is asked questions that it was trained on and questions that it never saw, and
both shares stand side by side. The result goes to chatsft_checkpoints/ with its optimizer and its tokenizer.
"""

from __future__ import annotations

import argparse
import json
import math
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from nanochat import training_flags
from nanochat.errors import exit_status
from nanochat.optim_config import KINDS as OPTIMIZERS
from nanochat.paths import run_folder
from nanochat.sft_schedule import INIT_LR_FRAC
from nanochat.sft_tasks import VAL_EVERY
from nanochat.training_flags import COMMON_LIMITS, MOST, NEVER, OFF, SHARE, Limits

if TYPE_CHECKING:
    from nanochat.distributed import World
    from nanochat.records import StepRecord
    from nanochat.sft_setup import Prepared
    from nanochat.tasks.evaluation import TaskScore

# What the number of each flag may be.
LIMITS = {
    **COMMON_LIMITS,
    "model_step": Limits(0, MOST - 1),
    "load_optimizer": Limits(0, 1),
    "val_every": Limits(0, MOST),
    "mmlu_epochs": Limits(0, MOST),
    "gsm8k_epochs": Limits(0, MOST),
    "total_batch_size": Limits(1, 2**40),
    "init_lr_frac": Limits(0, 1e9),
    "warmup_ratio": SHARE,
    "ask": Limits(0, MOST),
    "max_reply": Limits(1, 2**24),
    "chatcore_every": Limits(1, MOST, NEVER),
    "chatcore_max_cat": Limits(1, MOST, OFF),
    "chatcore_max_sample": Limits(1, MOST, OFF),
}
DEFAULT_TASKS = "persona=2000,stories=2000,spelling=2000,counting=2000,arithmetic=2000"


def parser() -> argparse.ArgumentParser:
    """Every flag, each with its help."""
    p = argparse.ArgumentParser(
        prog="nanochat chat_sft",
        description="Fine-tune a base model on conversations. Ctrl-C saves a checkpoint and leaves.",
    )
    where = p.add_argument_group("where")
    where.add_argument("--base-dir", type=Path, help="read and write here (reads both roots, writes to the workspace)")
    where.add_argument("--model-tag", help="base run to start from (the deepest)")
    where.add_argument("--output-tag", help="name of the result (that of the base run)")
    where.add_argument("--model-step", type=int, help="step of the base run (the last complete one)")
    where.add_argument("--tokenizer-dir", type=Path, help="the base model's tokenizer, where it is not found beside it")
    where.add_argument("--load-optimizer", type=int, default=1, help="1 goes on with pretraining's averages, 0 not (1)")
    training_flags.add_resume(where)
    data = p.add_argument_group("conversations")
    data.add_argument(
        "--data", action="append", default=[], metavar="FILE", help="JSONL of conversations, FILE=3 thrice; repeatable"
    )
    data.add_argument("--profile", default="chat", choices=("chat", "nanochat-custom"), help="their format (chat)")
    data.add_argument(
        "--val-every",
        type=int,
        default=VAL_EVERY,
        help=f"keep one conversation in this many unseen ({VAL_EVERY}; 0: none)",
    )
    data.add_argument("--tasks", default=DEFAULT_TASKS, help=f"generated ones and how many of each ({DEFAULT_TASKS})")
    data.add_argument("--words", type=Path, help="words for spelling and counting, one a line (some 900 common ones)")
    data.add_argument("--seed", type=int, default=42, help="order and content of what is generated (42)")
    data.add_argument("--mmlu-epochs", type=int, default=3, help="nanochat's; without effect here: give --data")
    data.add_argument("--gsm8k-epochs", type=int, default=4, help="nanochat's; without effect here: give --data")
    length = p.add_argument_group("length; without any of these one pass over the conversations")
    training_flags.add_budget(length)
    length.add_argument("--num-iterations", type=int, default=-1, help="updates (-1: one pass)")
    sizes = p.add_argument_group("batch and optimization; by default as in pretraining")
    sizes.add_argument("--max-seq-len", type=int, help="tokens of a row")
    sizes.add_argument("--device-batch-size", type=int, help="rows a device takes at once")
    sizes.add_argument("--total-batch-size", type=int, help="tokens of one update")
    sizes.add_argument("--optimizer", choices=OPTIMIZERS, help="method")
    sizes.add_argument("--embedding-lr", type=float, help="rate of the embeddings")
    sizes.add_argument("--unembedding-lr", type=float, help="rate of the head")
    sizes.add_argument("--matrix-lr", type=float, help="rate of the layers' matrices")
    sizes.add_argument(
        "--init-lr-frac", type=float, default=INIT_LR_FRAC, help=f"part of pretraining's rates ({INIT_LR_FRAC})"
    )
    sizes.add_argument("--warmup-ratio", type=float, default=0.0, help="part of the run that warms up (0)")
    sizes.add_argument("--warmdown-ratio", type=float, default=0.5, help="last part of the run that cools down (0.5)")
    sizes.add_argument("--final-lr-frac", type=float, default=0.0, help="rate at the end, as a part of the full (0)")
    sizes.add_argument("--clip", type=float, help="largest norm of the gradient (not clipped)")
    training_flags.add_speed(p.add_argument_group("speed"))
    looks = p.add_argument_group("evaluation and checkpoints")
    looks.add_argument("--eval-every", type=int, default=200, help="updates between evaluations (200; -1: none)")
    looks.add_argument(
        "--eval-tokens",
        type=int,
        default=40 * 524288,
        help="most tokens of one evaluation (20,971,520; on a CPU by time)",
    )
    looks.add_argument(
        "--ask", type=int, default=50, help="questions of each split of each task, after the time is up (50; 0: none)"
    )
    looks.add_argument("--max-reply", type=int, default=64, help="tokens of a reply to these questions (64)")
    looks.add_argument("--chatcore-every", type=int, default=-1, help="nanochat's; without effect here: see --ask")
    looks.add_argument("--chatcore-max-cat", type=int, default=-1, help="nanochat's; without effect here")
    looks.add_argument("--chatcore-max-sample", type=int, default=24, help="nanochat's; without effect here")
    training_flags.add_saving(looks)
    training_flags.add_output(p.add_argument_group("output"))
    return p


def main(argv: list[str] | None = None) -> int:
    """Fine-tune, or go on with it, then ask."""
    args = parser().parse_args(argv)
    training_flags.require_numbers(args, LIMITS)

    from nanochat import distributed
    from nanochat.device import choose_device

    device = choose_device(args.device_type or "auto")
    with distributed.start(device.device.partition(":")[0]) as world:
        training_flags.require_same_flags(args, world, device.device)
        args, status, prepared = _train(args, argv, world)
    if prepared is not None and args.ask > 0 and world.first:  # the other ranks are not needed any more
        report(args, _ask(args, prepared))
    return status


def _train(
    args: argparse.Namespace, argv: list[str] | None, world: World
) -> tuple[argparse.Namespace, int, Prepared | None]:
    """Returns the flags, the exit status, and what was trained where it was not stopped before the end."""
    from nanochat.sft_base import began_with, require_base
    from nanochat.sft_setup import choose_base, inherit, open_base, prepared
    from nanochat.training import last_record, train
    from nanochat.training_log import SFTLog, closing
    from nanochat.training_output import Output
    from nanochat.training_signals import StopRequest

    stop = StopRequest(lambda line: output.say(line))
    # For people; between lines of JSON there is nothing else.
    output = Output(stop.request, silent=not world.first, people=sys.stderr if args.json else None)
    say = output.say
    base_dir = training_flags.base_dir_of(args)
    if args.output_tag is not None and args.model_tag is None and training_flags.resuming(args):
        args.model_tag = began_with(run_folder(base_dir, "sft", args.output_tag))
    run, reason = choose_base(args)
    tags = (args.output_tag, args.model_tag, run.folder.name)
    folder = run_folder(base_dir, "sft", next(tag for tag in tags if tag is not None))
    if training_flags.resuming(args):
        args = training_flags.take_over(parser, argv, folder, world)
        training_flags.require_numbers(args, LIMITS)
        require_base(folder, run.folder.name)
    base = open_base(args, run, reason, say)
    inherit(args, base, say)
    given = training_flags.given_flags(parser(), argv)
    with stop, prepared(args, given, world, stop, folder, base, say) as ready:
        setup = ready.setup
        loader = setup.loader
        log = SFTLog(
            setup.horizon, lambda: loader.position, args.total_batch_size, setup.state.training_time,
            lambda: loader.progress,
        )  # fmt: skip

        def show(record: StepRecord) -> None:
            if args.json:
                output.record(record.to_line())
            for line in log.lines(record):
                say(line)

        last = last_record(train(setup), show)
        for note in getattr(loader, "notes", ()):
            say(f"NOTE: {note}")
        if setup.state.step:
            say(f"Total training time: {setup.state.training_time / 60:.2f}m")
            if math.isfinite(setup.state.min_val_bpb):
                say(f"Minimum validation bpb: {setup.state.min_val_bpb:.4f}")
        say(closing(folder, last.step, stop() is not None, f"nanochat chat_cli -g {shlex.quote(folder.name)}"))
        return args, stop.status, None if stop() else ready


def _ask(args: argparse.Namespace, prepared: Prepared) -> list[TaskScore]:
    """The scores of both splits of every task. Ctrl-C ends the asking; the model is saved already."""
    from nanochat.tasks.evaluation import evaluate_tasks
    from nanochat.training_signals import StopRequest

    asked = [task for task in prepared.tasks if len(task)]
    leaving = "no more questions; the model is saved"
    with StopRequest(lambda line: print(line, file=sys.stderr), lambda: leaving) as stop:
        return evaluate_tasks(
            prepared.model, prepared.tokenizer, asked, args.ask, max_tokens=args.max_reply, stop=lambda: bool(stop())
        )


def report(args: argparse.Namespace, scores: list[TaskScore]) -> None:
    """Seen and unseen side by side, and what it means."""
    from nanochat.tasks.evaluation import compare

    if args.json:
        print(json.dumps({"event": "Scores", "scores": [asdict(score) for score in scores]}), flush=True)
        return
    from rich.console import Console
    from rich.table import Table

    class Piped(Console):
        def on_broken_pipe(self) -> None:  # Rich would end the process here, as if something had failed
            raise BrokenPipeError

    console = Piped(highlight=False)
    table = Table(title="right answers: seen in training, and not")
    for heading in ("task", "seen", "unseen"):
        table.add_column(heading, justify="left" if heading == "task" else "right")
    table.add_column("what it means", ratio=1)
    for row in compare(scores):
        table.add_row(row.name, str(row.seen or "none"), str(row.unseen or "none"), row.meaning)
    console.print(table)
    for score in scores:
        if score.too_long:
            console.print(
                f"{score.name} ({score.split}): {score.too_long} questions are longer than the model's context.",
                markup=False,
                soft_wrap=True,
            )
        wrong = next((answer for answer in score.examples if not answer.right), None)
        if score.split == "val" and wrong is not None:
            question = wrong.question if len(wrong.question) <= 70 else "..." + wrong.question[-67:]
            said = f"{score.name}: {question!r} -> {wrong.reply!r} ({wrong.expected.strip()!r} is right)"
            console.print(said, markup=False, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(exit_status("chat_sft", main))
