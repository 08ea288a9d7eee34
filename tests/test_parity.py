"""Every run that real nanochat left in the fixtures, opened by us: the same numbers and the same tokens.

Tolerance 1e-4 in float32, as different attention code adds up in another order; block outputs reach 200, so theirs is
relative. Generations are greedy, and where upstream's engine and its naive generation differ the naive one is right.
"""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from nanochat.checkpoint_manager import LoadedModel, load_model
from nanochat.decode import Decoder
from nanochat.engine import Engine
from nanochat.gpt import Trace
from nanochat.loss_eval import token_bytes_convention
from nanochat.paths import STAGE_FOLDERS
from nanochat.safe_load import load
from nanochat.tokenizer import load_tokenizer
from tests.support import fixture_dirs, needs_fixtures

TOLERANCE = 1e-4
EXPECTED = [path for folder in fixture_dirs() for path in sorted((folder / "expected").glob("model_*.json"))]
CASES = pytest.mark.parametrize("path", EXPECTED, ids=lambda p: f"{p.parts[-3].removeprefix('nanochat_')}-{p.stem[6:]}")
pytestmark = needs_fixtures


@cache
def opened(path: Path) -> tuple[dict, dict[str, np.ndarray], LoadedModel]:
    """What upstream recorded, and the model as we open it."""
    expected = json.loads(path.read_text())
    base = path.parents[1]
    folder = next(base / name / expected["tag"] for name in STAGE_FOLDERS[expected["stage"]] if (base / name).exists())
    # The one thing no file tells: that this run was made in the week of softcap 20 (its date is that of the copy).
    softcap = 20.0 if base.name == "nanochat_2026_03_04" else None
    loaded = load_model(folder, expected["step"], softcap=softcap)
    return expected, dict(np.load(path.with_suffix(".npz"))), loaded


def largest_difference(ours: torch.Tensor, theirs: np.ndarray) -> float:
    assert ours.numel() == theirs.size
    return float(np.abs(ours.numpy().ravel() - theirs.ravel()).max())


@CASES
@pytest.mark.parametrize("length", ["short", "long"])
def test_logits_losses_and_blocks(path: Path, length: str) -> None:
    expected, recorded, loaded = opened(path)
    ids = torch.tensor([expected[f"ids_{length}"]])
    trace = Trace()
    with torch.no_grad():
        logits = loaded.model(ids, trace=trace)[0]
        losses = loaded.model(ids[:, :-1], ids[:, 1:], reduction="none")
    assert logits.dtype == torch.float32
    assert largest_difference(logits[-1], recorded[f"logits_last_{length}"]) < TOLERANCE
    assert logits.argmax(-1).tolist() == recorded[f"argmax_{length}"].ravel().tolist()
    assert largest_difference(losses, recorded[f"nll_{length}"]) < TOLERANCE
    if length == "short" and "logits_all_short" in recorded:
        assert largest_difference(logits, recorded["logits_all_short"]) < TOLERANCE
    blocks = [name for name in recorded if name.startswith("block") and name.endswith(f"_last_{length}")]
    assert len(blocks) == loaded.model.config.n_layer
    for i in range(loaded.model.config.n_layer):
        theirs = recorded[f"block{i}_out_last_{length}"]
        assert largest_difference(trace.residual[i + 1][0, -1], theirs) < TOLERANCE * max(1.0, np.abs(theirs).max())


@CASES
def test_greedy_generations(path: Path) -> None:
    expected, _, loaded = opened(path)
    engine = Engine(loaded.model, loaded.tokenizer)
    prompts = [(g["ids"], g["naive_generate_greedy_new"]) for g in expected["generations"]]
    if "generation_long_prompt" in expected:
        prompts.append((expected["ids_long"][:-24], expected["generation_long_prompt"]["naive_generate_greedy_new"]))
    for prompt, new in prompts:
        columns = engine.generate(prompt, max_tokens=len(new), temperature=0)
        ours = [token for (token,), (mask,) in columns if mask]
        stop = next((i + 1 for i, token in enumerate(new) if token in engine.ends), len(new))
        assert ours == new[:stop]
        assert len(ours) > 0


@CASES
def test_parameter_counts_and_flops(path: Path) -> None:
    expected, _, loaded = opened(path)
    counts = loaded.model.num_scaling_params()
    theirs = expected.get("num_scaling_params")
    if isinstance(theirs, dict):
        assert {key: value for key, value in counts.items() if key in theirs or value} == theirs
    total = theirs["total"] if isinstance(theirs, dict) else theirs or expected["num_params"]
    assert counts["total"] == total == sum(p.numel() for p in loaded.model.parameters())
    # On 2026-03-14 upstream left the 24 weights of the new smear gate out of its estimate; by 2026-07-03 they were in.
    left_out = 6 * 24 if path.parts[-3] == "nanochat_2026_03_14" else 0
    assert loaded.model.estimate_flops() - left_out == expected["estimate_flops"]
    if "window_sizes" in expected:
        assert list(loaded.model.config.windows) == [left for left, _ in expected["window_sizes"]]


@CASES
def test_cached_decode_equals_the_uncached_model(path: Path) -> None:
    """At one row, at several, and with rows of different lengths, past the windows."""
    expected, _, loaded = opened(path)
    model, ids = loaded.model, expected["ids_long"]
    engine = Engine(model, loaded.tokenizer)
    prompts = [ids[:-4], ids[:5], ids[: len(ids) // 2]]
    logits, cache = engine._prefill(prompts, len(prompts))
    decoder = Decoder(model)
    for step in range(3):
        with torch.inference_mode():
            for row, prompt in enumerate(prompts):
                full = model(torch.tensor([prompt + ids[-4 : -4 + step]]))[0, -1]
                assert (full - logits[row]).abs().max() < TOLERANCE
        logits = decoder.step(torch.tensor([ids[-4 + step]] * len(prompts)), cache)


@pytest.mark.parametrize("folder", fixture_dirs(), ids=lambda p: p.name)
def test_token_bytes_convention_of_each_run(folder: Path) -> None:
    """The runs from March on were made with a tokenizer that the newest code had trained."""
    recorded = load(folder / "tokenizer" / "token_bytes.pt")
    convention, reason = token_bytes_convention(recorded, load_tokenizer(folder / "tokenizer"))
    assert convention == ("exact" if folder.name >= "nanochat_2026_03" else "replacement"), reason
