"""A model that was taught one short conversation by heart, tool call included: what the tests talk to."""

from pathlib import Path

import pytest
import torch

from nanochat.checkpoint_manager import LoadedModel, load_model
from nanochat.gpt import GPT
from nanochat.gpt_config import GPTConfig
from nanochat.tokenizer import train_tokenizer
from tests.checkpoint_support import save_checkpoint

CONTEXT = 128
QUESTION, SUM, ANSWER = "What is 3+4?", "3+4", "It is 7."
LESSON = {
    "messages": [
        {"role": "user", "content": QUESTION},
        {
            "role": "assistant",
            "content": [
                {"type": "text", "text": "Let me see. "},
                {"type": "python", "text": SUM},
                {"type": "python_output", "text": "7"},
                {"type": "text", "text": ANSWER},
            ],
        },
    ]
}


ENDLESS = "the cat sat on the mat and "  # what the endless model writes over and over


def teach(base: Path, *, endless: bool = False) -> Path:
    """Train a model until it knows its lesson; returns the folder of its run.

    endless: a base model instead, base/endless, that repeats a line and never ends by itself.
    """
    tokenizer = train_tokenizer(["the cat sat on the mat and ran to the dog 0 1 2 3 4 5 6 7 8 9"] * 4, vocab_size=280)
    config = GPTConfig(
        sequence_len=32_768 if endless else CONTEXT, vocab_size=280, n_layer=2, n_head=2, n_kv_head=1, n_embd=64
    )
    rendered = tokenizer.render_conversation(LESSON)
    line, mask = (tokenizer.encode(ENDLESS * 6, prepend="<|bos|>"), None) if endless else (rendered.ids, rendered.mask)
    ids = torch.tensor([line])
    targets = ids[:, 1:] if mask is None else torch.where(torch.tensor([mask[1:]]) == 1, ids[:, 1:], -1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = GPT(config)
        model.init_weights()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        for _ in range(60):
            loss = model(ids[:, :-1], targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert loss.item() < 0.1
    weights = {name: weight.detach() for name, weight in model.state_dict().items()}
    folder = base / ("base_checkpoints/endless" if endless else "chatsft_checkpoints/tiny")
    save_checkpoint(folder, 60, weights, None, {"step": 60, "model_config": config.upstream()}, tokenizer=tokenizer,
                    config=config)  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base dir with the taught run as sft/tiny."""
    base = tmp_path_factory.mktemp("taught")
    teach(base)
    return base


@pytest.fixture(scope="module")
def loaded(taught: Path) -> LoadedModel:
    return load_model(taught / "chatsft_checkpoints" / "tiny")
