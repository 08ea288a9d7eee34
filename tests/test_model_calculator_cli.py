"""The model calculator in a terminal: every command line of the wish runs, and its labels and figures are there."""

import subprocess
import sys
from pathlib import Path

import pytest

from nanochat.tools import model_calculator as tool
from tests import cli_support

EXAMPLE = """
MODEL SIZE & COST CALCULATOR
📊 MODEL CONFIGURATION
Layers (depth): 6
Hidden dimension: 384
Vocabulary size: 32,000
Attention heads: 6
🔢 PARAMETER BREAKDOWN
Token embeddings: 12,288,000 params
Per-layer breakdown:
- Attention: 589,824 params
- MLP: 1,179,648 params
- LayerNorm: 1,536 params
- Total per layer: 1,771,008 params
All 6 layers: 10,626,048 params
Final LayerNorm: 768 params
LM head: 12,288,000 params
TOTAL PARAMETERS: 35,202,816 params
35.20 M
💾 MEMORY REQUIREMENTS
Model weights (fp32): 0.13 GiB
Model weights (fp16): 0.07 GiB
Training (fp32+opt): 0.52 GiB
Inference (fp16): 0.07 GiB
TRAINING ESTIMATES
Training tokens: 10.0B tokens
Batch size: 64 sequences
Sequence length: 1024 tokens
Tokens per batch: 65,536
Total steps: 152,587
Throughput: 100,000 tokens/sec
Training time: 27.8 hours (1.2 days)
Total FLOPs: 2112.2 PetaFLOPs
💡 LEARNING INSIGHTS
• Embeddings use ~34.9% of parameters
• Attention layers use ~10.1% of parameters
• MLP layers use ~20.1% of parameters
• Training needs ~4x more memory than inference
• Each parameter sees 284 tokens during training
"""


def run(capsys: pytest.CaptureFixture[str], *flags: object) -> tuple[int, str, str]:
    return cli_support.run("model_calculator", tool.main, capsys, flags)


def as_json(capsys: pytest.CaptureFixture[str], *flags: object) -> dict:
    return cli_support.as_json("model_calculator", tool.main, capsys, flags)


def test_the_wishs_example_line_by_line(capsys) -> None:
    status, out, err = run(capsys, "--preset", "nanochat-tiny")
    assert (status, err) == (0, "")
    lines = [" ".join(line.split()) for line in out.splitlines()]
    place = 0
    for wanted in EXAMPLE.strip().splitlines():
        place = next((i for i in range(place, len(lines)) if wanted in lines[i]), -1)
        assert place >= 0, wanted


@pytest.mark.parametrize(
    ("flags", "total"),
    [
        (["--preset", "nanochat-tiny"], 35_202_816),
        (["--preset", "gpt2-small"], 124_439_808),
        (["--depth", "12", "--hidden-dim", "768", "--vocab-size", "32000"], 134_125_056),
        (["--preset", "gpt2-small", "--batch-size", "32", "--total-tokens", "20000000000"], 124_439_808),
        ([], 35_202_816),
        (["--depth", "6", "--hidden-dim", "384", "--heads", "6"], 35_202_816),
        (["--family", "nanochat", "--depth", "20"], 896_533_746),
    ],
)
def test_every_command_of_the_wish(capsys, flags: list[str], total: int) -> None:
    status, out, err = run(capsys, *flags)
    assert (status, err) == (0, "")
    assert f"{total:,} params" in out
    told = as_json(capsys, *flags)
    assert told["total"] == total == sum(part["total"] for part in told["parts"])


def test_a_gpu_a_budget_and_formulas(capsys) -> None:
    flags = ("--family", "nanochat", "--depth", "20", "--gpu", "H100", "--gpus", "8", "--zero", "1", "--rows", "8")
    status, out, _ = run(capsys, *flags, "--explain", "--verify", "--optimizer", "muon", "--budget-usd", "100")
    assert status == 0
    for words in (
        "= V d = 32,768 x 1,280",
        "Largest batch of one H100",
        "(equal)",
        "Depth:                 24",
        "Cost:",
    ):
        assert words in out
    told = as_json(capsys, *flags, "--budget-hours", "2")
    assert told["bought"]["depth"] > 0
    assert told["training"]["flops_a_token"] == 2_886_212_784


def test_a_chart(capsys, tmp_path: Path) -> None:
    status, out, _ = run(capsys, "--preset", "gpt2-small", "--plot", tmp_path / "parts.svg")
    assert (status, (tmp_path / "parts.svg").read_text()[:4]) == (0, "<svg")
    assert "Saved to" in out


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--preset", "gpt9"], "there is no preset 'gpt9'"),
        (["--depth", "0"], "n_layer is 0"),
        (["--depth", "4", "--hidden-dim", "100", "--heads", "7"], "does not divide"),
        (["--gpu", "H9000"], "choose one of"),
        (["--tokens-per-sec", "0"], "tokens-per-sec"),
        (["--tokens-per-sec", "nan"], "tokens-per-sec"),
        (["--batch-size", "0"], "tokens of a batch"),
        (["--batch-size", "-4"], "tokens of a batch"),
        (["--gpus", "0"], "devices"),
        (["--total-tokens", "-1"], "total-tokens"),
        (["--sequence-length", "0"], "from 1 to"),
        (["--preset", "gpt2-small", "--sequence-length", "4096"], "1,024 positions"),
        (["--budget-usd", "-1"], "buys nothing"),
        (["--preset", "gpt2-small", "--verify"], "cannot be verified"),
        (["--mfu", "7"], "MFU"),
        (["--family", "nanochat", "--mlp-dim", "8", "--depth", "2"], "has no d_ff"),
    ],
)
def test_what_cannot_be_is_one_line(capsys, flags: list[str], sentence: str) -> None:
    status, _, err = run(capsys, *flags)
    assert status == 1
    assert sentence in err
    assert err.count("\n") == 1


def test_it_needs_no_torch() -> None:
    code = "import sys; from nanochat.tools import model_calculator as t; t.main(['--gpu', 'H100']); "
    code += "assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, cwd=Path(__file__).parents[1])
