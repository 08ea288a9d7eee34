"""What a line of a nanochat log is: the step of a training, a fact of its header, a sample, a progress bar.

nanochat prints to people, so its logs follow no format: the wording changed from month to month, and whatever else ran
in the same terminal (torchrun, wandb, uv, curl) wrote between its lines. This file is the grammar: `clean` takes the
terminal's control codes away, `recognise` names one line by itself. What depends on the lines before (a second line of
a sample, the frames of a traceback) is metrics_log.py's.

Wordings were taken from logs of ten dates from 2025-11 to 2026-07, from upstream's scripts (karpathy/nanochat), and
from this project's own scripts, which print nanochat's lines and some more.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from nanochat.metrics_steps import parse_step
from nanochat.metrics_stretches import combined, telling
from nanochat.training_log import REMARKS

# Every physical line of a log is counted as exactly one of these.
LINE_KINDS = {
    "step": "a training step: a row",
    "evaluation": "figures at a step: a row",
    "rollout": "one pass of reinforcement learning: a row",
    "checkpoint": "a model was saved: a row",
    "result": "an accuracy of a task, CORE, bits per byte of a finished model",
    "fact": "a fact of the run: sizes, counts, horizon, totals",
    "setting": "a setting that the run was given or inherited",
    "sample": "text that the model wrote",
    "chat": "a conversation in the terminal",
    "banner": "the word nanochat in block letters",
    "rule": "a line of dashes, a heading, the head of a table",
    "blank": "nothing",
    "progress": "a progress bar or counter",
    "notice": "a warning or message without a figure",
    "wandb": "what wandb says",
    "traceback": "an exception of Python",
    "timing": "what the shell's `time` prints",
    "launcher": "torchrun, and the shell around the run: uv, cargo, curl",
    "rank": "another rank than 0",
    "overlong": "a line of more than 64 KiB in which nothing was recognised",
    "unknown": "nothing of the above",
}

MAX_RECOGNISED = 4096  # characters; nanochat's own lines are far shorter, and a hostile one must not cost minutes

_NUMBER = r"([+-]?(?:[\d.,]+(?:e[+-]?\d+)?|nan|inf))"

_CONTROL = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])|[\x00\x07\x08]")
_REMARK = re.compile(rf"Step (\d{{1,18}}) \| ({'|'.join(map(re.escape, REMARKS.values()))})$", re.ASCII)
_RANK = re.compile(r"^\[(?:rank|default|local_rank)?(\d{1,4})\]:\s?", re.ASCII)


@dataclass(frozen=True)
class Line:
    """What one line says by itself."""

    kind: str  # one of LINE_KINDS
    name: str  # which wording; "" where nothing depends on it
    text: str  # without control codes
    match: re.Match[str] | None = None


def segments(line: str) -> Iterator[str]:
    """The texts that a terminal showed one over the other on this line: a carriage return goes back to its start.

    >>> list(segments("5 %\\r50 %\\r100 %\\r"))
    ['5 %', '50 %', '100 %']
    """
    if "\r" not in line:
        yield line
        return
    parts = line.split("\r")
    kept = [part for part in parts if part.strip()]
    yield from kept or [""]


def clean(text: str) -> tuple[str, int | None]:
    """The text without colours and other control codes, and the rank that torchrun wrote before it.

    >>> clean("\\x1b[32mINFO\\x1b[0m ready")
    ('INFO ready', None)
    >>> clean("[rank1]: out of memory")
    ('out of memory', 1)
    """
    if "\x1b" in text or "\x00" in text or "\x08" in text or "\x07" in text:
        text = _CONTROL.sub("", text)
    if text.startswith("[") and (found := _RANK.match(text)):
        return text[found.end() :], int(found[1])
    return text, None


def recognise(text: str, *, in_prose: bool = False) -> Line:
    """What a cleaned line is by itself; kind "unknown" if nothing fits.

    Inside of text that the model wrote (`in_prose`) only wordings that nobody writes by chance are recognised.
    """
    text = text[:MAX_RECOGNISED]
    if found := _REMARK.match(text):
        return Line("checkpoint" if found[2] == REMARKS["checkpoint"] else "notice", "remark", text, found)
    if "tep " in text and "|" in text and parse_step(text) is not None:
        return Line("step", "step", text)
    fits = (_STRONG if in_prose else _ALL).match(text)
    if fits is None or fits.lastindex is None:
        return Line("unknown", "", text)
    kind, name, pattern, _ = _GRAMMAR[fits.lastindex - 1]
    found = pattern.match(text)
    rest = text[found.end() :] if found is not None and name == "rank" else ""
    if rest.strip():  # ranks write over each other: what comes behind a counter is a line of its own
        line = recognise(rest, in_prose=in_prose)
        return line if line.kind != "unknown" else Line(kind, name, text, found)
    return Line(kind, name, text, found)


def _grammar() -> list[tuple[str, str, re.Pattern[str], bool]]:
    """(kind, name, pattern, weak) in the order in which they are tried. Named groups are facts of that name."""
    n = _NUMBER
    strong = [
        ("blank", "", r"\s*$"),
        ("banner", "", r"(?=[\s█░]+$).*[█░]"),
        ("sample", "start", r"<\|bos\|>"),
        ("notice", "logger", r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d),\d{3} - (\S+) - (\w+) - (.*)$"),
        ("rule", "", r"(?:={20,}|-{20,}|!{20,}|\*{20,}|_{20,})$"),
        ("rule", "", r"(?:Model Samples|BPB Evaluation|CORE Evaluation)\s*$"),
        ("sample", "heading", r"(?:Conditioned|Unconditioned) samples:\s*$"),
        ("wandb", "", r"wandb:"),
        ("traceback", "start", r"\s*Traceback \(most recent call last\):"),
        ("traceback", "between", r"(?:The above exception was the direct|During handling of the above exception)"),
        ("timing", "", r"(real|user|sys)\s+(\d+)m([\d.]+)s$"),
        ("setting", "override", r"Overriding: (\w+) = (.*)$"),
        ("fact", "device", r"Autodetected device type: (?P<device>\w+)"),
        ("fact", "device", r"Using device: (?P<device>\w+)"),
        ("fact", "max_chars", r"max_chars: (?P<max_chars>[\d,]+)$"),
        ("fact", "base_eval", r"Evaluating model: (?P<model_name>.+) \(step (?P<loaded_step>\d+)\)$"),
        ("fact", "base_eval", r"Eval modes: (?P<eval_modes>.+)$"),
        ("fact", "end", r"Peak memory usage: (?P<peak_memory_mib>[\d.,]+)MiB$"),
        ("fact", "end", r"Total training time: (?P<total_minutes>[\d.]+)m$"),
        ("fact", "end", r"Minimum validation bpb: (?P<min_val_bpb>\S+)$"),
        ("fact", "end", r"Minimum validation loss: (?P<min_val_loss>\S+)$"),
        ("result", "bpb", rf"(train|val) bpb: {n}$"),
        (
            "result",
            "core_task",
            rf"Evaluating: (\S+) \((\d+)-shot, type: (\w+)\)\.\.\.(?:.*accuracy: {n} \| centered: {n} \| time: {n}s)?",
        ),
        ("rule", "core_table", r"Task\s+, Accuracy\s*, Centered\s*$"),
        ("result", "core_row", rf"(\S+)\s+, {n}\s*, {n}\s*$"),
        ("result", "core_total", rf"CORE\s+,\s+, {n}\s*$"),
        ("result", "core", rf"CORE metric: {n}$"),
        ("result", "chatcore", rf"ChatCORE metric: {n}$"),
        ("result", "final", r"Final: (\d+)/(\d+) \(\S+%\)$"),
        ("result", "accuracy", rf"([\w-]+) accuracy: {n}%$"),
        ("fact", "model", r"Model: (?P<model_name>.+) \(step (?P<loaded_step>\d+)\)$"),
        ("progress", "rank", r"Rank \d+ \| \d+/\d+ \([\d.]+%\)"),
        ("progress", "", r"[^%|]{0,200}\d%\|[^\[]*\[[^\]]*\]"),
        ("chat", "start", r"NanoChat Interactive Mode$"),
        ("launcher", "torchrun", r"[WIE]\d{4} \d\d:\d\d:\d\d\.\d+ .*\]"),
        ("launcher", "torchrun", r"Setting OMP_NUM_THREADS environment variable for each process"),
        ("fact", "dataset", r"Downloading (?P<shards_asked>\d+) shards using (?P<download_workers>\d+) workers\.\.\.$"),
        ("fact", "tok_eval", r"Vocab sizes:$"),
        ("fact", "resume", r"Resuming (?:optimization )?from step (?P<resumed_from>\d+)"),
    ]
    weak = [
        ("fact", "tok_train", r"doc_cap: (?P<doc_cap>[\d,]+)$"),
        ("fact", "tok_train", r"vocab_size: (?P<vocab_size>[\d,]+)$"),
        ("fact", "tok_train", r"Training time: (?P<training_seconds>[\d.]+)s$"),
        ("result", "tokenizer_size", r"(GPT-2|GPT-4|Ours): (\d+)$"),
        ("rule", "comparison", r"Comparison with (\S+):$"),
        ("rule", "", r"Text Type\s+Bytes|\s+Tokens\s+Ratio"),
        (
            "result",
            "tokenizer_row",
            r"(\S+)\s+(\d+)\s+(\d+)\s+([\d.]+)\s+(\d+)\s+([\d.]+)\s+([+-][\d.]+)%\s+(\S+)\s*$",
        ),
        ("fact", "base_train", r"Vocab size: (?P<vocab_size>[\d,]+)$"),
        ("setting", "size", r"(num_layers|model_dim|num_heads|num_kv_heads|head_dim): ([\d,]+)(?: \(.*\))?$"),
        ("fact", "config", r"Model config:$"),
        ("fact", "config_line", r"[{}]$"),
        ("fact", "config_line", r'  "(\w+)": (.+?),?$'),
        ("fact", "parameters", r"Parameter counts:$"),
        ("fact", "parameter", r"(\w+) +: ([\d,]+)$"),
        ("fact", "base_train", r"Number of parameters: (?P<parameter_count>[\d,]+)"),
        ("fact", "base_train", rf"Estimated FLOPs per token: (?P<flops_per_token>{n[1:-1]})$"),
        ("fact", "horizon", r"(Using user-provided|Calculated) number of iterations(.*): (?P<horizon>[\d,]+)$"),
        ("fact", "base_train", r"Total number of training tokens: (?P<total_tokens>[\d,]+)$"),
        ("fact", "base_train", r"Tokens : (?:Scaling )?[Pp]arams ratio: (?P<tokens_per_parameter>[\d.]+)$"),
        ("fact", "base_train", rf"Total training FLOPs estimate: (?P<total_flops>{n[1:-1]})$"),
        ("fact", "base_train", r"Auto-computed optimal batch size: (?P<total_batch_size>[\d,]+) tokens$"),
        ("fact", "", r"Tokens / micro-batch / rank: (?P<device_batch_size>[\d,]+) x (?P<sequence_len>[\d,]+) = "),
        ("fact", "", r"Tokens / micro-batch: (?P<micro_batch_tokens>[\d,]+)$"),
        (
            "fact",
            "",
            r"Total batch size (?P<total_batch_size>[\d,]+) => .* accumulation steps: (?P<gradient_accumulation>\d+)$",
        ),
        ("fact", "", r"Scaling LRs by (?P<batch_lr_scale>[\d.]+) for batch size"),
        ("fact", "", r"Scaling weight decay from [\d.]+ to (?P<weight_decay>[\d.]+) for depth"),
        ("fact", "", r"Scaling the LR for the AdamW parameters .* = (?P<adamw_lr_scale>[\d.]+)$"),
        ("fact", "", r"GPU: (?P<gpu>.+) \| Peak FLOPS \(BF16\): (?P<peak_flops>\S+)$"),
        ("fact", "", r"COMPUTE_DTYPE: (?:torch\.)?(?P<compute_dtype>\w+)"),
        ("setting", "inherited", r"Inherited (\w+)=(.*) from pretrained checkpoint$"),
        ("fact", "chat_sft", r"Training mixture: (?P<mixture_rows>[\d,]+) rows \((?P<mixture>.*)\)$"),
        ("notice", "chat_sft", r"Loaded optimizer state from pretrained checkpoint"),
        ("fact", "chat_sft", r"Target examples per step: (?P<examples_per_step>\d+)$"),
        ("fact", "chat_sft", r"Device batch size: (?P<device_batch_size>\d+)$"),
        ("fact", "chat_sft", r"Examples per step is device_batch_size \* ddp_world_size: (?P<examples_per_pass>\d+)$"),
        ("fact", "chat_sft", r"=> Setting grad accum steps: (?P<gradient_accumulation>\d+)$"),
        ("fact", "chat_rl", r"Calculated number of steps: (?P<horizon>\d+)$"),
        ("fact", "chat_rl", r"Total sequences per step: (?P<sequences_per_step>\d+)$"),
        ("fact", "chat_rl", r"Calculated examples per rank: (?P<examples_per_rank>\d+)$"),
        ("result", "accuracy", rf"  ([\w-]+): {n}%$"),
        # Lines of scripts newer than 2026-07: a word and key=value pairs.
        ("fact", "record", r"([a-z_]\w*)((?: [A-Za-z_][\w./@-]*=(?:'[^']*'|[^\s']\S*)?)+)$"),
        ("notice", "python_warning", r"\S*:\d+: \w*Warning: "),
        ("notice", "", r"WARNING: |Warning: |✓ |✅ |Using Flash Attention|GradScaler enabled|Results written to: "),
        ("notice", "", r"Saved (?:model checkpoint|tokenizer encoding|token_bytes) to |Saved \S+ to "),
        (
            "notice",
            "",
            r"(?:Reset report and wrote header|Generating report|Copying report\.md) to|Waiting for dataset",
        ),
        (
            "notice",
            "",
            r"Target directory: |Skipping \S+ \(already|Downloading \S+|Successfully downloaded |Done! Down",
        ),
        ("notice", "", r"Attempt \d+/\d+ failed|Waiting \d+ seconds before|Failed to download"),
        ("notice", "", r"\S+:\d+:\d+ \[\d+\] NCCL |\[[WE]\d+[ -]|INFO:     |Starting NanoChat|Server ready at"),
        ("launcher", "", r"(?:Resolved|Prepared|Installed|Audited|Uninstalled|Building|Built|Downloaded) \S+"),
        ("launcher", "", r" [+~-] [\w.-]+==|Using CPython|Creating virtual environment|Activate with"),
        ("launcher", "", r"\s+(?:Compiling|Finished|Downloaded|Building|Updating) [`\w]|[📦🐍🔗🍹🛠]"),
        ("launcher", "", r"\s+% Total +% Received|\s+Dload +Upload| *\d+(?: +[\d.]+[kMG]?){5,}"),
        ("launcher", "", r"Script (?:started|done) on |\[screen is terminating\]|Terminated$|Killed$|\^C|Interrupted"),
    ]
    ours = _our_wordings()
    return [
        (kind, name, re.compile(pattern, re.ASCII), is_weak)
        for group, is_weak in ((strong, False), (ours[0], False), (ours[1], True), (weak, True))
        for kind, name, pattern in group
    ]


def _our_wordings() -> tuple[list[tuple[str, str, str]], list[tuple[str, str, str]]]:
    """What this project's scripts print beyond nanochat's lines: wordings that nobody writes by chance, and others."""
    strong = [
        ("fact", "data", r"data: (?P<data>.+) \((?:as asked|the shards that are there|no shards are here; .+)\)$"),
        ("fact", "base_model", r"base model: (?P<loaded_from>.+), step (?P<loaded_step>\d+) \("),
        (
            "fact",
            "runs_on",
            r"Runs on (?P<runs_on>(?:the|Apple's|NVIDIA|AMD) [^.,]+)(?:, (?P<world_size>\d+) ranks)?\. ",
        ),
        ("fact", "ended", r"Step (?P<finished_step>\d+) is saved in (?P<saved_in>.+)\. Talk to it: "),
        ("fact", "ended", r"Step (?P<stopped_step>\d+) is saved in (?P<saved_in>.+)\. Go on with the same command"),
        ("notice", "", r"Nothing was trained\.$|SIG[A-Z]+: saving a checkpoint, then leaving; the same again leaves"),
        ("notice", "failed", r"(base_train|chat_sft|tok_train|tok_eval): \S"),
        ("fact", "tok_eval", r"(?P<vocab_size>[\d,]+) tokens, from .+"),
        ("rule", "", r" *(?:right answers: seen in training, and not|bytes a token \(more is better\)) *$"),
        ("result", "seen", r"│ ([^\s│](?: ?[^\s│])*) +│ +(none|\d+/\d+) │ +(none|\d+/\d+) │"),
        ("rule", "", r"[┏┃┡└├╭╰│]"),
        ("sample", "answer", r"(?=.* is right\)$)[\w.-]+: ['\"].*? -> ['\"]"),
        ("notice", "", r"[\w.-]+ \(\w+\): \d+ questions are longer than the model's context\.$"),
        ("progress", "", r"reading text, then learning"),
    ]
    batch = r"(?P<total_batch_size>[\d,]+) tokens a step, in (?P<gradient_accumulation>\d+) parts? a rank$"
    weak = [
        ("fact", "", r"Number format: (?P<compute_dtype>\w+) \("),
        (
            "fact",
            "our_model",
            r"Model: (\d+) layers, (\d+) channels, (\d+) heads, context (\d+), vocabulary ([\d,]+); ([\d,]+)",
        ),
        ("fact", "", r"Text: (?P<data>[^;]+); "),
        ("fact", "", r"Length: (?:(?P<horizon>[\d,]+) steps \((?P<horizon_from>.+)\)|(?P<budget>[^;]+)); " + batch),
        ("fact", "ends", r"Ends after (?P<horizon_from>.+); one pass is about "),
        ("fact", "", r"optimizer: (?P<optimizer>[\w-]+) \("),
        ("setting", "", r"Using (\w+)=(.*)$"),
        (
            "notice",
            "",
            r"Takes about |NOTE: |Starting with fresh optimizer averages |saved by \d+ ranks and dealt out to ",
        ),
        ("notice", "", r"Sizes for this CPU, "),
        (
            "notice",
            "",
            r"no loader state was saved with this step|The run began on |The checkpoint does not say in which ",
        ),
        ("notice", "", r"--core-metric-every has no effect|GPT-\d's tokenizer |Best on .* bytes a token"),
        ("fact", "tok_train", r"vocab size: (?P<vocab_size>[\d,]+) = 256 bytes \+ "),
        ("fact", "tok_train", r"token_bytes_min: (?P<token_bytes_min>\d+)$|token_bytes_max: (?P<token_bytes_max>\d+)$"),
        (
            "fact",
            "tok_train",
            r"token_bytes_mean: (?P<token_bytes_mean>\S+)$|token_bytes_std: (?P<token_bytes_std>\S+)$",
        ),
        ("notice", "", r"first learnt: |longest:      "),
    ]
    return strong, weak


_GRAMMAR = _grammar()  # strong ones first
_ALL = combined(pattern.pattern for _, _, pattern, _ in _GRAMMAR)
_STRONG = combined(pattern.pattern for _, _, pattern, weak in _GRAMMAR if not weak)
UNKNOWN_LINES = telling(pattern.pattern for _, _, pattern, _ in _GRAMMAR)  # a run of them, for metrics_log.py
