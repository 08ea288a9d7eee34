"""What the tests of chat_sft share: a small base model, and the script in this process."""

import json
from pathlib import Path
from typing import Any

import torch

from nanochat.checkpoint_manager import save_checkpoint
from nanochat.errors import exit_status
from nanochat.gpt import GPT
from nanochat.gpt_config import GPTConfig
from nanochat.optim import OptimConfig, build_optimizer
from nanochat.scripts import chat_sft
from tests.checkpoint_support import make_tokenizer

CONFIG = GPTConfig(sequence_len=64, vocab_size=265, n_layer=2, n_head=2, n_kv_head=2, n_embd=32)
TOKENIZER = make_tokenizer()
SMALL = ("--tasks", "persona=400,spelling=50", "--ask", "0", "--eval-every", "-1", "--dtype", "float32")


def pretrained_base(base: Path) -> Path:
    """A base dir with a base model that has made one update, its rates 0.5 of the flags."""
    torch.manual_seed(0)
    model = GPT(CONFIG)
    model.init_weights()
    optimizer = build_optimizer(model, OptimConfig(matrix_lr=0.01, embedding_lr=0.15, unembedding_lr=0.004))
    ids = torch.randint(265, (2, 64))
    model(ids, ids).backward()
    optimizer.step()
    for group in optimizer.param_groups:
        group["lr"] = 0.0  # cooled down
    meta = {
        "step": 7, "val_bpb": 3.0, "model_config": CONFIG.upstream(), "device_batch_size": 2, "max_seq_len": 64,
        "total_batch_size": 256, "user_config": {"matrix_lr": 0.02, "embedding_lr": 0.3, "unembedding_lr": 0.008},
    }  # fmt: skip
    folder = base / "base_checkpoints" / "d2"
    state = optimizer.state_dict()
    save_checkpoint(folder, 7, model.state_dict(), state, meta, tokenizer=TOKENIZER, config=CONFIG)
    return base


def run(base_dir: Path, *flags: str) -> int:
    argv = ["--base-dir", str(base_dir), *SMALL, *flags]
    return exit_status("chat_sft", lambda: chat_sft.main(argv))


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
