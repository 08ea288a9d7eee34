"""What the checkpoint tests share: a tiny run of ours and one as nanochat writes it."""

import functools
import json
import multiprocessing
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch

from nanochat.checkpoint_manager import CheckpointError, find_runs, load_checkpoint, load_model, save_checkpoint, verify
from nanochat.eras import architecture_to_dict
from nanochat.gpt import GPTConfig, parameter_shapes
from nanochat.tokenizer import SPECIAL_TOKENS, SPLIT_PATTERN, Tokenizer
from nanochat.tokenizer_files import Vocabulary
from tests.archive_support import assert_one_line, bounded, saved_bytes

FORK = multiprocessing.get_context("fork")  # a fresh interpreter would spend seconds importing torch
CANARY = "canary"  # what a payload would make beside the file, if it ran


def names(folder: Path) -> list[str]:
    """What lies in a folder."""
    return sorted(path.name for path in folder.iterdir())


def make_tokenizer(first: int = 0) -> Tokenizer:
    """The 256 bytes and the special tokens; another `first` byte gives another tokenizer of the same size."""
    tokens = tuple(bytes([(first + i) % 256]) for i in range(256))
    return Tokenizer(Vocabulary(SPLIT_PATTERN, tokens, {name: 256 + i for i, name in enumerate(SPECIAL_TOKENS)}))


def tiny_config(**changes: Any) -> GPTConfig:
    sizes = {"sequence_len": 64, "vocab_size": 256 + len(SPECIAL_TOKENS), "n_layer": 2, "n_embd": 32}
    return GPTConfig(**{**sizes, "n_head": 2, "n_kv_head": 2, **changes})


def tiny_weights(config: GPTConfig, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) * 0.1 for name, shape in parameter_shapes(config).items()}


def tiny_optimizer(seed: int = 0) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    state = {0: {"step": 3, "exp_avg": torch.randn(4, 4, generator=generator)}}
    return {"state": state, "param_groups": [{"kind": "adamw", "lr": 0.1, "betas": (0.8, 0.95), "params": [0]}]}


def meta_of(config: GPTConfig, step: int = 10, lab: bool = True) -> dict[str, Any]:
    meta: dict[str, Any] = {
        "step": step,
        "val_bpb": 1.5,
        "model_config": config.upstream(),
        "user_config": {"depth": 2},
    }
    return {**meta, "lab": {"architecture": architecture_to_dict(config)}} if lab else meta


def save_ours(folder: Path, step: int = 10, seed: int = 0, **options: Any) -> Path:
    """A run of ours; `options` go to save_checkpoint."""
    config = tiny_config()
    options.setdefault("tokenizer", make_tokenizer())
    save_checkpoint(folder, step, tiny_weights(config, seed), tiny_optimizer(seed), meta_of(config, step), **options)
    return folder


@functools.cache
def default_files() -> dict[str, bytes]:
    """The model file and the tokenizer's files of `save_like_nanochat`: made once, because hundreds of tests ask."""
    with tempfile.TemporaryDirectory() as folder:
        make_tokenizer().save(folder)
        files = {f"tokenizer/{path.name}": path.read_bytes() for path in Path(folder).iterdir()}
    return {"model": saved_bytes(tiny_weights(tiny_config())), **files}


def save_like_nanochat(folder: Path, step: int = 10, weights: Any = None) -> Path:
    """A run as upstream leaves it: in place, no digests, the tokenizer in the base dir."""
    base = folder.parent.parent
    for path in (folder, base / "tokenizer"):
        path.mkdir(parents=True, exist_ok=True)
    for name, content in default_files().items():
        (folder / f"model_{step:06d}.pt" if name == "model" else base / name).write_bytes(content)
    if weights is not None:
        torch.save(weights, folder / f"model_{step:06d}.pt")
    (folder / f"meta_{step:06d}.json").write_text(json.dumps(meta_of(tiny_config(), step, lab=False), indent=2))
    return folder


def refused_everywhere(run: Path, name: str) -> str:
    """The message, after every way in has given one line within the bounds and the neighbour is still found."""
    messages = []
    with bounded():
        for attempt in (load_model, lambda folder, step: load_checkpoint(folder, step, "cpu")):
            with pytest.raises(CheckpointError) as caught:
                attempt(run, 10)
            assert_one_line(caught.value, name)
            messages.append(str(caught.value))
        for full in (False, True):
            checked = verify(run, 10, full)
            assert not checked.ok
            assert all(problem.isprintable() for problem in checked.problems)
        tags = [found.tag for found in find_runs(run.parent.parent)]
    assert tags == ["d2", "d3"]
    assert not (run / CANARY).exists(), "code from the file was run"
    return messages[0]
