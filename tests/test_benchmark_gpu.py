"""nanochat.benchmarks.gpu: the whole path rehearsed on a CPU, and one sentence where there is no GPU."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from kernels.benchmark import gpu_obstacle
from nanochat.analysis.kernel_benchmark import read_stored
from nanochat.benchmarks import gpu, gpu_check, gpu_end_to_end
from nanochat.gpt import GPT

ROOT = Path(__file__).parents[1]
without_gpu = pytest.mark.skipif(gpu_obstacle() == "", reason="there is a GPU")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kernels.benchmark_timing.SAMPLE_SECONDS", {"cpu": 0.0, "cuda": 0.0})
    monkeypatch.setattr("kernels.benchmark_timing.CPU_CEILING", (2**12, 32))


@pytest.mark.usefixtures("quick")
def test_the_rehearsal_leaves_every_file_of_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "results"
    before = dict(os.environ)
    assert gpu.main(["--rehearse", "--out", str(out)]) == 0
    assert dict(os.environ) == before
    assert {path.name for path in out.iterdir()} == {"kernels.json", "kernels.csv", "end_to_end.json", "report.md"}
    frame = read_stored(out / "kernels.json").frame
    assert set(frame["op"]) == {"attention", "sample"}
    whole = json.loads((out / "end_to_end.json").read_text())
    assert [(r["what"], r["rows"], r["path"]) for r in whole] == [
        (what, rows, path)
        for what, rows in (("training step", 2), ("decoding", 1), ("decoding", 2))
        for path in (gpu_end_to_end.KERNELS, gpu_end_to_end.PYTORCH)
    ]
    for record in whole:
        assert record["slowest"] <= record["tokens_per_second"] <= record["fastest"]
        assert (record["flops_share"] is None) == (record["what"] == "decoding")
    report = (out / "report.md").read_text()
    assert report.count("not timed") == frame["seconds"].null_count()
    assert {line.count("|") for line in report.splitlines() if line.startswith("| attention")} == {13}
    assert "| training step | 2 | 2 | kernels |" in report
    assert f"{len(frame)} records" in capsys.readouterr().out


@pytest.mark.usefixtures("quick")
def test_after_the_deadline_nothing_new_is_begun(tmp_path: Path) -> None:
    assert gpu.main(["--rehearse", "--minutes", "0", "--out", str(tmp_path)]) == 0
    assert json.loads((tmp_path / "end_to_end.json").read_text()) == []


def test_both_paths_are_what_they_are_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NANOCHAT_KERNELS", "reference")
    with gpu_end_to_end.held_to(gpu_end_to_end.PYTORCH):
        assert os.environ["NANOCHAT_KERNELS"] == "torch"
    with gpu_end_to_end.held_to(gpu_end_to_end.KERNELS):
        assert "NANOCHAT_KERNELS" not in os.environ
    assert os.environ["NANOCHAT_KERNELS"] == "reference"


@pytest.mark.parametrize(("depth", "width", "heads"), [(12, 768, 6), (20, 1280, 10)])
def test_the_models_are_nanochats(depth: int, width: int, heads: int) -> None:
    config = gpu_end_to_end.config_of(depth, gpu_end_to_end.FULL)
    assert (config.n_layer, config.n_embd, config.n_head, config.head_dim) == (depth, width, heads, 128)
    with torch.device("meta"):  # builds, and takes no memory for it
        parameters = sum(p.numel() for p in GPT(config).parameters())
    assert parameters > 100e6


@without_gpu
@pytest.mark.parametrize("module", [gpu, gpu_check])
def test_without_a_gpu_one_sentence_and_status_1(module: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert module.main([]) == 1
    assert capsys.readouterr() == ("", gpu_obstacle() + "\n")


@without_gpu
def test_make_says_the_same_before_it_writes_anything(tmp_path: Path) -> None:
    arguments = ["make", "-k", "gpu-bench", f"PYTHON={sys.executable}", f"OUT={tmp_path / 'out'}"]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode != 0
    assert done.stderr.splitlines()[0].startswith("No NVIDIA GPU can be used here")
    assert not (tmp_path / "out").exists()


def test_the_gpu_targets_check_first_and_end_in_time() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(r"^gpu: gpu-test gpu-bench\b", makefile, re.MULTILINE)
    for target in ("gpu-test", "gpu-bench"):
        (recipe,) = re.findall(rf"^{target}:.*\n((?:\t.*\n?)+)", makefile, re.MULTILINE)
        assert recipe.startswith("\t@$(PYTHON) -m nanochat.benchmarks.gpu_check\n")
        assert int(re.search(r"timeout (\d+)", recipe)[1]) < 9 * 60
        assert "-u TRITON_INTERPRET" in recipe


def test_packages_that_are_missing_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_check.importlib.util, "find_spec", lambda name: None if name in ("triton", "pytest") else 1)
    assert gpu_check.missing().startswith("Not installed: triton, pytest;")


def test_a_bare_machine_is_enough() -> None:
    """Nothing that only the app needs is loaded: torch, numpy and what comes with them."""
    heavy = ("triton", "streamlit", "polars", "rustbpe", "tiktoken", "requests", "pyarrow", "rich", "altair")
    code = f"import sys, nanochat.benchmarks.gpu; print(sorted(set({heavy}) & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.strip() == "[]"
