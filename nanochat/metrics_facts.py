"""What a log says about a run that is no row of a table: sizes, counts, horizon, results of tasks, the end.

A log file holds one section for each process that wrote into it: a whole speedrun is tok_train, tok_eval, base_train,
base_eval, ... one after the other. `Section` is what one of them said; metrics_log.py finds where it begins and ends.
"""

import ast
import datetime
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nanochat.metrics_lines import Line
from nanochat.metrics_steps import number

# Script -> the stage of the checkpoints it makes or measures; None where the log of the script does not say.
STAGES: dict[str, str | None] = {
    "dataset": None,
    "tok_train": None,
    "tok_eval": None,
    "base_train": "base",
    "base_loss": "base",
    "base_eval": "base",
    "mid_train": "mid",
    "chat_sft": "sft",
    "chat_rl": "rl",
    "chat_eval": None,
    "chat_cli": None,
}
TRAINING = ("base_train", "mid_train", "chat_sft", "chat_rl")
# A fact that a script prints only when its work is done. Fine-tuning and RL of 2025 end with a save.
_LAST_FACT = {
    "tok_train": ("training_seconds",),
    "base_train": ("total_minutes", "finished_step"),
    "base_loss": ("val_bpb",),
    "base_eval": ("core",),
    "mid_train": ("total_minutes",),
    "chat_sft": ("total_minutes", "saved"),
    "chat_rl": ("saved",),
    "chat_eval": ("chatcore",),
}
MAX_KEPT = 10_000  # results, samples or records of one section; more are counted in lines but not kept


@dataclass(frozen=True)
class TaskResult:
    """How a model did on one task."""

    task: str
    accuracy: float  # 0 to 1
    centered: float | None = None  # 0 is chance, 1 is perfect
    shots: int | None = None
    passed: int | None = None
    total: int | None = None
    step: int | None = None  # of the model that was measured, where the log says
    line: int = 0


@dataclass(frozen=True)
class TokenizerResult:
    """One text encoded by our tokenizer and by another."""

    other: str  # GPT-2 or GPT-4
    text: str
    bytes: int
    other_tokens: int
    tokens: int  # ours
    better: float  # share of tokens that ours saves, negative where it needs more
    line: int = 0


@dataclass(frozen=True)
class Section:
    """One process of a log file: what it was, where it stands, and the facts it printed."""

    file: str
    number: int  # from 0
    first_line: int  # from 1
    last_line: int
    script: str | None  # base_train, chat_sft, ...; None where nothing tells
    stage: str | None  # base, mid, sft, rl
    run: int | None  # the number that its rows carry; None where it has no rows
    started: datetime.datetime | None  # the first clock time it printed, in the machine's own zone
    ended: datetime.datetime | None
    # Figures by name: model_config, parameters, settings (dicts), vocab_size, device, gpu, peak_flops, compute_dtype,
    # world_size, device_batch_size, sequence_len, total_batch_size, gradient_accumulation, flops_per_token,
    # total_flops, total_tokens, tokens_per_parameter, horizon, horizon_from, resumed_from, loaded_step, loaded_from,
    # peak_memory_mib, training_seconds, min_val_bpb, train_bpb, val_bpb, core, chatcore, wall_seconds, ...
    facts: Mapping[str, Any]
    results: tuple[TaskResult, ...]
    tokenizers: tuple[TokenizerResult, ...]
    samples: tuple[str, ...]  # texts that the model wrote, each with its prompt
    records: tuple[tuple[str, Mapping[str, Any]], ...]  # lines of word and key=value pairs, which newer scripts print
    error: str | None  # the last line of the traceback that ended it

    @property
    def finished(self) -> bool:
        """Whether it printed what comes at the very end of its script."""
        last = _LAST_FACT.get(self.script or "", ())
        return self.error is None and "stopped_step" not in self.facts and any(fact in self.facts for fact in last)


@dataclass
class Draft:
    """A section that is still being read."""

    file: str
    number: int
    first_line: int
    last_line: int = 0
    script: str | None = None
    run: int | None = None
    order: int = -1  # how far its opening lines have come; see metrics_log._opens
    body: bool = False  # has it printed more than opening lines
    closed: bool = False  # has the shell's `time` spoken
    steps: bool = False  # does it have rows of steps
    overridden: bool = False  # `Overriding: ...` lines, which scripts print up to 2026-01
    last_step: int | None = None  # the step that a save here would be called
    started: datetime.datetime | None = None
    ended: datetime.datetime | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    results: list[TaskResult] = field(default_factory=list)
    tasks: dict[str, int] = field(default_factory=dict)  # task -> place of its first result
    tokenizers: list[TokenizerResult] = field(default_factory=list)
    samples: list[list[str]] = field(default_factory=list)
    records: list[tuple[str, Mapping[str, Any]]] = field(default_factory=list)
    error: str | None = None
    error_line: int = -1  # of its message; -1 while that is still to come
    comparison: str = ""  # the other tokenizer of the table at hand
    final: tuple[int, int] | None = None  # `Final: 3/8`, whose task the next line names

    @property
    def stage(self) -> str | None:
        """The stage that rows of this section get."""
        return STAGES.get(self.script or "")

    def freeze(self, hint: str | None = None) -> Section:
        """What is known by now; `hint` is the script that the file's name speaks of."""
        facts, script = dict(self.facts), self.script or hint
        if "total_minutes" in facts:
            facts["training_seconds"] = facts["total_minutes"] * 60
        return Section(
            *(self.file, self.number, self.first_line, self.last_line, script, STAGES.get(script or ""), self.run),
            *(self.started, self.ended, facts, tuple(self.results), tuple(self.tokenizers)),
            tuple("\n".join(lines).rstrip() for lines in self.samples),
            *(tuple(self.records), self.error),
        )


def note(draft: Draft, line: Line, at: int) -> None:
    """Keep what a recognised line says; `at` is its number."""
    if line.match is None:
        return
    if line.kind == "fact":
        _note_fact(draft, line.name, line.match)
    elif line.kind == "setting":
        key = "model_sizes" if line.name == "size" else "settings"
        draft.facts.setdefault(key, {})[line.match[1]] = _literal(line.match[2])
        draft.overridden = draft.overridden or line.name == "override"
    elif line.kind == "result":
        _note_result(draft, line.name, line.match, at)
    elif line.kind == "rule" and line.name == "comparison":
        draft.comparison = line.match[1]
    elif line.name == "failed" and line.match[1] == draft.script and "finished_step" not in draft.facts:
        draft.error = line.text[:500]  # else it is another process, which ended before it had begun
    elif line.kind == "timing":
        key = {"real": "wall_seconds", "user": "cpu_seconds", "sys": "system_seconds"}[line.match[1]]
        draft.facts[key] = int(line.match[2]) * 60 + _real(line.match[3])


def note_message(draft: Draft, message: str) -> None:
    """Keep what a line of Python's logging says."""
    if found := re.match(r"Distributed world size: (\d{1,9})$", message, re.ASCII):
        draft.facts["world_size"] = int(found[1])
    elif found := re.match(r"Loading (?:the )?model from (.*) with step (\d{1,18})$", message, re.ASCII):
        draft.facts.update(loaded_from=found[1], loaded_step=int(found[2]))
    elif found := re.match(r"Building model with config: (\{.*\})$", message):
        config = _literal(found[1])
        if isinstance(config, dict):
            draft.facts["model_config"] = config
    elif found := re.match(r"No model tag provided, guessing model tag: (.*)$", message):
        draft.facts["model_tag"] = found[1]


def _note_fact(draft: Draft, name: str, match: re.Match[str]) -> None:
    for key, value in match.groupdict().items():
        if value is not None:
            draft.facts[key] = number(value)
    if name == "config":
        draft.facts["model_config"] = {}
    elif name == "config_line" and match.lastindex:
        draft.facts.setdefault("model_config", {})[match[1]] = _literal(match[2])
    elif name == "parameters":
        draft.facts["parameters"] = {}
    elif name == "parameter" and isinstance(draft.facts.get("parameters"), dict):
        draft.facts["parameters"][match[1]] = number(match[2])
    elif name == "horizon":
        draft.facts["horizon_from"] = (match[2].strip().removeprefix("from ")) or "user"
    elif name == "base_train" and "parameter_count" in match.groupdict():
        draft.facts.setdefault("parameters", {})["total"] = number(match["parameter_count"])
    elif name == "our_model":
        sizes = [number(size) for size in match.groups()]
        keys = ("n_layer", "n_embd", "n_head", "sequence_len", "vocab_size")
        draft.facts["model_config"] = dict(zip(keys, sizes, strict=False))
        draft.facts["parameters"] = {"total": sizes[-1]}
    elif name == "record" and len(draft.records) < MAX_KEPT:
        draft.records.append((match[1], record_pairs(match[2])))


def record_pairs(text: str) -> dict[str, Any]:
    """The pairs of ` loss=2.3 gpu='NVIDIA H100'`.

    >>> record_pairs(" loss=2.3 gpu='NVIDIA H100'")
    {'loss': 2.3, 'gpu': 'NVIDIA H100'}
    """
    pairs = re.findall(r" ([A-Za-z_][\w./@-]*)=('[^']*'|[^\s']\S*)?", text, re.ASCII)
    return {key: value[1:-1] if value.startswith("'") else number(value) for key, value in pairs}


def _note_result(draft: Draft, name: str, match: re.Match[str], at: int) -> None:
    if name == "bpb":
        draft.facts[f"{match[1]}_bpb"] = _real(match[2])
    elif name in ("core", "core_total"):
        draft.facts["core"] = _real(match[1])
    elif name == "chatcore":
        draft.facts["chatcore"] = _real(match[1])
    elif name == "final":
        draft.final = (int(match[1]), int(match[2])) if len(match[1] + match[2]) < 36 else None
    elif name == "accuracy":
        passed, total = draft.final or (None, None)
        _keep(draft, TaskResult(match[1], _real(match[2]) / 100, passed=passed, total=total, line=at))
        draft.final = None
    elif name == "core_task" and match[4] is not None:
        shots = int(match[2]) if len(match[2]) < 10 else None
        _keep(draft, TaskResult(match[1], _real(match[4]), _real(match[5]), shots=shots, line=at))
    elif name == "core_row":
        # The table at the end repeats the results with more digits.
        _keep(draft, TaskResult(match[1], _real(match[2]), _real(match[3]), line=at), replace=True)
    elif name == "seen":
        for side, share in (("seen", match[2]), ("unseen", match[3])):
            if "/" in share and len(share) < 36:
                passed, total = map(int, share.split("/"))
                task = f"{match[1]} ({side})"
                _keep(draft, TaskResult(task, passed / max(total, 1), passed=passed, total=total, line=at))
    elif name == "tokenizer_size":
        draft.facts.setdefault("vocab_sizes", {})[match[1]] = number(match[2])
    elif name == "tokenizer_row" and draft.comparison and len(draft.tokenizers) < MAX_KEPT:
        size, theirs, ours = (int(match[group][:18]) for group in (2, 3, 5))
        row = TokenizerResult(draft.comparison, match[1], size, theirs, ours, _real(match[7]) / 100, at)
        draft.tokenizers.append(row)


def _keep(draft: Draft, result: TaskResult, replace: bool = False) -> None:
    step = draft.facts.get("loaded_step") if draft.script not in TRAINING else None
    index = draft.tasks.get(result.task) if replace else None
    if index is not None:
        old = draft.results[index]
        draft.results[index] = TaskResult(
            *(old.task, result.accuracy, result.centered, old.shots, old.passed, old.total, old.step, old.line)
        )
    elif len(draft.results) < MAX_KEPT:
        draft.tasks.setdefault(result.task, len(draft.results))
        draft.results.append(TaskResult(**{**result.__dict__, "step": step}))


def date_results(draft: Draft, step: int) -> None:
    """Tasks are printed before the line that names their step: give it to those that have none."""
    for index in range(len(draft.results) - 1, -1, -1):
        result = draft.results[index]
        if result.step is not None:
            break
        draft.results[index] = TaskResult(**{**result.__dict__, "step": step})


def _real(text: str) -> float:
    value = number(text)
    return float(value) if isinstance(value, int | float) and abs(value) < 1e300 else float("nan")


def _literal(text: str) -> Any:
    """A value as Python or JSON prints it; the text itself where it is neither."""
    words: dict[str, Any] = {"null": None, "true": True, "false": False}
    if text in words:
        return words[text]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a wrong escape in somebody's text nobody needs to hear
            return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return number(text)
