"""Runs as the wish's examples name them, made in moments and alike everywhere: d20 is finished, d26 stopped half-way.

The weights know words: what follows a word is a table written below, and where a head looks is drawn by Python's own
generator. The curves are formulas. So whatever a command prints of them is the same on every machine, but for dates
and the sizes of files, which `masked` hides.
"""

import math
import os
import random
import re
from pathlib import Path
from typing import Any

import torch

from nanochat.checkpoint_manager import save_checkpoint
from nanochat.eras import architecture_to_dict
from nanochat.gpt import parameter_shapes
from nanochat.gpt_config import GPTConfig
from nanochat.records import METRICS_NAME, RecordWriter, StepRecord
from nanochat.tokenizer import SPECIAL_TOKENS, SPLIT_PATTERN, Tokenizer
from nanochat.tokenizer_files import Vocabulary

FOLLOWS: dict[str, dict[str, float]] = {  # word -> share of each word behind it; five, as many as are printed
    " is": {" Paris": 0.92, " the": 0.04, " located": 0.02, " a": 0.01, " one": 0.005},
    " Paris": {",": 0.60, ".": 0.20, " which": 0.10, ";": 0.05, " and": 0.03},
    ",": {" the": 0.80, " which": 0.08, " and": 0.05, " a": 0.03, " one": 0.02},
    " the": {" city": 0.70, " capital": 0.15, " one": 0.08, " lights": 0.04, " of": 0.015},
    " city": {" of": 0.86, " which": 0.06, ".": 0.04, ",": 0.02, ";": 0.01},
    " of": {" lights": 0.76, " France": 0.13, " Paris": 0.06, " the": 0.03, " a": 0.01},
    " lights": {"<|bos|>": 0.82, ".": 0.09, ",": 0.05, ";": 0.02, " and": 0.01},
}
SENTENCE = ("<|bos|>", "The", " capital", " of", " France", " is", "Hello", " world")
LOUDNESS = 12.0  # logit of a word that is certain; one that is never said has 0
HEADS, CHANNELS = 6, 16
STEP_TOKENS, STEP_SECONDS = 64 * 1024, 0.25
FULL_RATE, WARMUP, WARMDOWN = 0.001, 200, 0.4  # steps up, share of the steps down
LONG_AGO = 1_762_500_000  # seconds: in November 2025


def _words() -> list[str]:
    said = [word for after in FOLLOWS.values() for word in after]
    return sorted({*SENTENCE, *FOLLOWS, *said}, reverse=True)  # in this order seed 42 draws the wish's own words


def word_tokenizer() -> Tokenizer:
    """The bytes, and a token for each word above and for each of its beginnings."""
    tokens = [bytes([byte]) for byte in range(256)]
    for word in _words():
        if word not in SPECIAL_TOKENS:
            tokens += [word[:end].encode() for end in range(2, len(word) + 1)]
    tokens = list(dict.fromkeys(tokens))
    specials = {name: len(tokens) + number for number, name in enumerate(SPECIAL_TOKENS)}
    return Tokenizer(Vocabulary(SPLIT_PATTERN, tuple(tokens), specials))


def word_config(tokenizer: Tokenizer, layers: int) -> GPTConfig:
    """The newest design, with as many heads as in the wish's example."""
    return GPTConfig(
        sequence_len=1024, vocab_size=tokenizer.get_vocab_size(), n_layer=layers, n_head=HEADS, n_kv_head=HEADS,
        n_embd=HEADS * CHANNELS,
    )  # fmt: skip


def word_weights(tokenizer: Tokenizer, config: GPTConfig) -> dict[str, torch.Tensor]:
    """Each word has a channel of its own, and nothing that is attended to is carried on: the last word decides."""
    weights = {name: torch.zeros(shape) for name, shape in parameter_shapes(config).items()}
    dice = random.Random(4)
    for name, tensor in weights.items():
        if name == "resid_lambdas":
            tensor.fill_(1.0)
        elif name.endswith(("c_q.weight", "c_k.weight")):
            tensor.copy_(torch.tensor([dice.gauss(0, 1) for _ in range(tensor.numel())]).view(tensor.shape))
    for channel, word in enumerate(_words()):
        weights["transformer.wte.weight"][_id(tokenizer, word), channel] = 1.0
        for after, share in FOLLOWS.get(word, {}).items():
            wanted = (LOUDNESS + math.log(share)) / config.softcap
            loud = config.softcap * math.atanh(wanted) / math.sqrt(config.n_embd)  # a normed stream is sqrt(C) long
            weights["lm_head.weight"][_id(tokenizer, after), channel] = loud
    return weights


def _id(tokenizer: Tokenizer, word: str) -> int:
    if word in SPECIAL_TOKENS:
        return tokenizer.encode_special(word)
    (only,) = tokenizer.encode(word)
    return only


def rate(step: int, steps: int) -> float:
    """Up in WARMUP steps, level, and down over the last WARMDOWN of the run, to a tenth."""
    down = max(0.0, (step - steps * (1 - WARMDOWN)) / (steps * WARMDOWN))
    return FULL_RATE * min((step + 1) / WARMUP, 1.0) * (1 - 0.9 * down)


def loss(step: int) -> float:
    """Nats a token: falls, with a ripple."""
    return 1.2 + 3.0 * math.exp(-step / 900) + 0.02 * math.sin(step)


def bits(step: int, better: float) -> float:
    """Bits a byte of new text, at 1.7 bytes a token."""
    return loss(step) / math.log(2) / 1.7 - better


def meta_of(config: GPTConfig, step: int, steps: int, better: float) -> dict[str, Any]:
    """What stands in the meta file of a step, as our trainer writes it."""
    training = {
        "time": step * STEP_SECONDS, "step_seconds": STEP_SECONDS, "tokens": step * STEP_TOKENS,
        "train_loss": loss(step), "learning_rate": rate(step, steps), "world_size": 1,
    }  # fmt: skip
    loop = {
        "min_val_bpb": bits(step, better), "smooth_train_loss": loss(step),
        "total_training_time": step * STEP_SECONDS,
    }  # fmt: skip
    return {
        "step": step, "val_bpb": bits(step, better), "model_config": config.upstream(), "device_batch_size": 16,
        "total_batch_size": STEP_TOKENS, "max_seq_len": config.sequence_len,
        "user_config": {"depth": config.n_layer, "num_iterations": steps},
        "dataloader_state_dict": {"pq_idx": 0, "rg_idx": step, "epoch": 1}, "loop_state": loop,
        "lab": {"architecture": architecture_to_dict(config), "horizon": {"steps": steps}, "training": training},
    }  # fmt: skip


def save_run(folder: Path, steps: int, stopped: int, every: int, layers: int = 2, better: float = 0.0) -> None:
    """A run of `steps` that has made `stopped` of them, evaluated and saved `every` so many. better: bits a byte."""
    tokenizer = word_tokenizer()
    config = word_config(tokenizer, layers)
    weights = word_weights(tokenizer, config)
    for step in range(every, stopped + 1, every):
        groups = [{"kind": "adamw", "lr": rate(step, steps), "params": [0]}]
        optimizer = {"state": {0: {"step": step, "exp_avg": torch.zeros(4)}}, "param_groups": groups}
        meta = meta_of(config, step, steps, better)
        save_checkpoint(folder, step, weights, optimizer, meta, tokenizer=tokenizer, loader_data={})
    with RecordWriter(folder / METRICS_NAME) as records:
        for step in range(0, stopped + 1, 10):
            last = step == stopped
            records.write(StepRecord(
                step, step * STEP_SECONDS, step * STEP_TOKENS, None if last else loss(step), loss(step),
                bits(step, better) if step % every == 0 else None, rate(step, steps), {}, rate(step, steps) / FULL_RATE,
                tokens_per_second=STEP_TOKENS / STEP_SECONDS,
            ))  # fmt: skip
    for path in folder.iterdir():
        os.utime(path, (LONG_AGO, LONG_AGO))  # a run whose files are young counts as being trained


def save_runs(workspace: Path) -> None:
    """What the examples name."""
    save_run(workspace / "base_checkpoints" / "d20", 5400, 5400, 1800)
    save_run(workspace / "base_checkpoints" / "d26", 5000, 2500, 2500, layers=3, better=0.05)
    save_run(workspace / "chatsft_checkpoints" / "d20_sft", 2000, 2000, 2000)


def masked(text: str, here: Path) -> str:
    """Hide what differs from machine to machine: the folder the test works in, dates, and sizes of files."""
    text = text.replace(f"{here}/", "")
    text = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d", "<time>", text)
    text = re.sub(r"(?<=\| )[\d.]+ *(?= \| ✓)", lambda size: "<size>".ljust(len(size[0])), text)
    return re.sub(r"((?:disk usage|folders): )[\d.]+ [kMG]?B", r"\1<size>", text)
