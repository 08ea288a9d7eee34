"""How to go on: the exact command for our scripts and for nanochat's own, why not where it cannot be, and a program
that does it by hand with `load_checkpoint`.
"""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanochat import paths
from nanochat.analysis.training_resume_helper.report import Report
from nanochat.checkpoint_files import CheckpointError, find_optimizer
from nanochat.safe_load import open_tensors
from nanochat.sft_base import base_tag

SCRIPTS = {"base": "base_train", "sft": "chat_sft"}  # stage -> our script that resumes it
NOT_TOLD = ("resume_from_step", "run", "model_tag", "core_metric_every", "core_metric_max_per_task")


@dataclass(frozen=True)
class Way:
    """One way to go on."""

    who: str  # "nanochat lab" or "nanochat"
    command: str | None  # as typed in a terminal; None where it cannot be
    reason: str  # why it can or cannot, what is exact and what is not


def ways(report: Report, script: str | None = None) -> tuple[Way, Way]:
    """Going on with our scripts, and with nanochat's own. script: theirs, instead of the one that fits the stage."""
    return _ours(report, script), _theirs(report, script)


def optimizer_kind(report: Report) -> tuple[str, str] | None:
    """(kind of optimizer that continues the saved state, why); None where none was saved or it cannot be read."""
    path = find_optimizer(report.folder, report.step)
    if path is None:
        return None
    from nanochat.optim import OptimError, recognise_kind

    try:
        with open_tensors(path) as file:
            return recognise_kind(file.tree)
    except (CheckpointError, OptimError):
        return None


def _ours(report: Report, script: str | None) -> Way:
    name = script or SCRIPTS.get(report.stage, "")
    refusal = _refusal(report, name)
    if refusal is not None:
        return Way("nanochat lab", None, refusal)
    base_dir = report.folder.absolute().parent.parent
    tag = report.folder.name
    base = base_tag(report.meta) if report.stage == "sft" else None
    words = ["nanochat", name, "--model-tag", *([tag] if base in (None, tag) else [base, "--output-tag", tag])]
    if base_dir != paths.workspace():
        words += ["--base-dir", str(base_dir)]
    words += ["--resume"] if _is_last(report) else ["--resume-from-step", str(report.step), "--force"]
    exact = "exact: on a CPU with a length in steps it ends with the very bits of a run that never stopped"
    if not report.ours:
        kind = optimizer_kind(report)
        if kind is not None and kind[0] != "muon":
            words += ["--optimizer", kind[0]]
        data = next(
            (base_dir / name for name in ("base_data_climbmix", "base_data") if (base_dir / name).is_dir()), None
        )
        if data is not None:
            words += ["--data", str(data)]
        exact = "near: nanochat saved no place in the text, so some documents are read twice or not at all"
        exact += f"; the optimizer is {kind[0]}, because {kind[1]}" if kind is not None else ""
    elif report.target_seconds is not None:
        exact = "its end is a time, so how many updates are left depends on this machine's clock"
    if report.target is not None and report.target_reason == "as asked":
        words += ["--num-iterations", str(report.target)]
    if not _is_last(report):
        exact += "; --force removes the later steps, which would mix with what it writes"
    if report.ranks > 1:
        exact += f"; saved by {report.ranks} processes, and any number may go on"
    return Way("nanochat lab", shlex.join(words), exact)


def _refusal(report: Report, script: str) -> str | None:
    """Why our scripts cannot go on; None where they can."""
    user = report.meta.get("user_config") or {}
    if not report.optimizer:
        return (
            "this step has no optimizer file, so momentum and second moments are gone; its weights can be trained "
            "further by hand; the program (--command) shows how"
        )
    if script not in SCRIPTS.values():
        return f"the stage {report.stage!r} is not resumed by any script of ours; only pretraining and fine-tuning are"
    if SCRIPTS.get(report.stage) != script:
        return f"{script} does not resume a run of the stage {report.stage!r}"
    if report.ours and ("corpus" in user or "depth" not in user) and script == "base_train":
        return "it was made by nanochat demo, which runs in one go and does not resume; its weights can be fine-tuned"
    if report.ours and "corpus" in user:
        return "it was made by nanochat demo, which runs in one go and does not resume"
    if not report.ours and script == "chat_sft":
        return "nanochat's own fine-tuning saves no place in the conversations; start it again from its base model"
    if not report.verification.ok:
        return f"the checkpoint is broken: {report.verification.problems[0]}"
    return None


def _is_last(report: Report) -> bool:
    from nanochat.checkpoint_runs import list_steps

    return list_steps(report.folder)[0][-1:] == (report.step,)


def _theirs(report: Report, script: str | None) -> Way:
    """nanochat's own script, with every flag that the run was started with."""
    meta, user = report.meta, dict(report.meta.get("user_config") or {})
    if report.stage != "base":
        return Way("nanochat", None, "nanochat resumes pretraining alone; fine-tuning and RL start again")
    if not report.optimizer:
        return Way("nanochat", None, "this step has no optimizer file, and nanochat's --resume-from-step needs one")
    if report.ours and "depth" not in user:
        return Way("nanochat", None, "the run was made by nanochat demo, whose settings no script of nanochat has")
    if not isinstance(meta.get("dataloader_state_dict"), dict) or not isinstance(meta.get("loop_state"), dict):
        return Way("nanochat", None, "a nanochat of that date saved no state of loader and loop and could not resume")
    if report.ours:
        kind = (((meta.get("lab") or {}).get("optimizer") or {}).get("kind")) or "muon"
        if kind != "muon":
            return Way("nanochat", None, f"it was trained with --optimizer {kind}, which nanochat's newest has not")
    old_style = "warmup_ratio" in user and "window_pattern" not in user  # flags before 2026: --device_batch_size=2
    launch = ["torchrun", "--standalone", f"--nproc_per_node={report.ranks}"] if report.ranks > 1 else ["python"]
    words = [*launch, "-m", f"scripts.{script or 'base_train'}"] + (["--"] if report.ranks > 1 else [])
    words += [_flag(name, value, old_style) for name, value in _told(user, report)]
    words += [_flag("model_tag", report.folder.name, old_style), _flag("resume_from_step", report.step, old_style)]
    base = report.folder.absolute().parent.parent
    reason = (
        f"with NANOCHAT_BASE_DIR={shlex.quote(str(base))}, in a checkout of nanochat of the run's own date: its newest "
        f"code opens none of the older designs; {report.ranks} process{'es' if report.ranks > 1 else ''}, not another "
        "number; it goes on near the same place in the text"
    )
    return Way("nanochat", shlex.join(words), reason)


def _told(user: Mapping[str, Any], report: Report) -> list[tuple[str, Any]]:
    """The flags of the run that nanochat knows, by its own meta; of ours those that it shares."""
    shared = (
        "depth", "aspect_ratio", "head_dim", "max_seq_len", "window_pattern", "num_iterations", "target_flops",
        "target_param_data_ratio", "device_batch_size", "total_batch_size", "embedding_lr", "unembedding_lr",
        "weight_decay", "matrix_lr", "scalar_lr", "warmup_steps", "warmdown_ratio", "final_lr_frac", "eval_every",
        "eval_tokens", "sample_every", "save_every",
    )  # fmt: skip
    told = []
    for name, value in user.items():
        known = name in shared if report.ours else name not in NOT_TOLD
        if known and isinstance(value, int | float | str) and type(value) is not bool and value not in ("", -1):
            told.append((name, value))
    if report.target is not None and report.target_reason == "as asked":
        told = [pair for pair in told if pair[0] != "num_iterations"] + [("num_iterations", report.target)]
    return told


def _flag(name: str, value: Any, old_style: bool) -> str:
    return f"--{name if old_style else name.replace('_', '-')}={value}"


def program(report: Report) -> str:
    """A program that loads the step by hand, with or without an optimizer, and makes one update. It runs as it is."""
    has = bool(report.optimizer)
    kind = optimizer_kind(report)
    folder: str | Path = report.folder.absolute()
    head = f"""\
import torch

from nanochat import safe_load
from nanochat.checkpoint_manager import load_checkpoint
from nanochat.checkpoint_weights import read_weights, recognise
from nanochat.optim import OptimConfig, build_optimizer
from nanochat.training_setup import batch_loss, new_model

checkpoint_dir, step = {str(folder)!r}, {report.step}
model_data, optimizer_data, meta_data = load_checkpoint(checkpoint_dir, step, "cpu", load_optimizer={has})

# Which of nanochat's designs this is stands in no file: names and shapes of the weights tell.
with safe_load.open_tensors(f"{{checkpoint_dir}}/model_{{step:06d}}.pt") as file:
    config = recognise(meta_data, read_weights(file), file, None).config
model = new_model(config, seed=0)
model.load_state_dict(model_data)
"""
    if has and report.ranks == 1:
        state = f"""\

# The optimizer remembers a momentum for every weight. Without it the first steps would go astray.
optimizer = build_optimizer(model, OptimConfig({(kind or ("muon", ""))[0]!r}))
optimizer.load_state_dict(optimizer_data)
for group in optimizer.param_groups:
    print(group["name"], "learning rate", group["lr"])
"""
    elif has:
        state = f"""\

# {report.ranks} processes saved a share each; put together they are the state of one.
from nanochat.optim import merge_states

optimizer = build_optimizer(model, OptimConfig({(kind or ("muon", ""))[0]!r}))
shares = [load_checkpoint(checkpoint_dir, step, "cpu", True, rank)[1] for rank in range({report.ranks})]
optimizer.load_state_dict(merge_states(shares, optimizer.plan))
"""
    else:
        state = """\

# There is no optimizer file: this starts a new one, with momentum zero. Good for fine-tuning. To continue a run,
# warm up again: begin at a tenth of the rate and raise it over some dozen updates.
optimizer = build_optimizer(model, OptimConfig())
for group in optimizer.param_groups:
    group["lr"] = 0.1 * group["lr"]
"""
    update = """\

# One update. Put your batches here: rows of tokens and, one further, what follows each of them.
tokens = torch.randint(config.vocab_size, (1, min(config.sequence_len, 64) + 1))
inputs, targets = tokens[:, :-1], tokens[:, 1:]  # (B, T)
loss = batch_loss(model)(inputs, targets) / targets.numel()
loss.backward()
optimizer.step()
optimizer.zero_grad()
print("step", step + 1, "loss", loss.item())
"""
    return head + state + update
