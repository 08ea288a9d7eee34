"""kernels.backend: which implementation runs is a pure answer, the environment can force it, and wrong wishes raise."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from kernels import KernelInputError, backend

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def no_wishes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NANOCHAT_KERNELS", *(f"NANOCHAT_KERNELS_{op.upper()}" for op in backend.OPS)):
        monkeypatch.delenv(name, raising=False)


def chosen(op: str = "sample", device: str = "cpu") -> backend.Choice:
    return backend.choose(op, torch.device(device), torch.float32, (1, 1024))


@pytest.mark.parametrize("op", backend.OPS)
@pytest.mark.parametrize("device", ["cpu", "cuda", "mps"])
def test_torch_runs_by_itself_and_says_why(op: str, device: str) -> None:
    choice = chosen(op, device)
    assert choice.name == "torch"
    assert op in choice.reason
    assert "Triton" in choice.reason


@pytest.mark.parametrize("name", ["torch", "reference"])
def test_the_environment_forces_one_or_all(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("NANOCHAT_KERNELS", name)
    assert [chosen(op).name for op in backend.OPS] == [name] * len(backend.OPS)
    assert chosen().reason == f"NANOCHAT_KERNELS={name}"
    other = {"torch": "reference", "reference": "torch"}[name]
    monkeypatch.setenv("NANOCHAT_KERNELS_SAMPLE", other)
    assert chosen("sample") == (other, f"NANOCHAT_KERNELS_SAMPLE={other}")
    assert chosen("attention").name == name
    monkeypatch.delenv("NANOCHAT_KERNELS_SAMPLE")
    assert chosen("sample").name == name


def test_auto_for_one_lifts_the_wish_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NANOCHAT_KERNELS", "triton")
    monkeypatch.setenv("NANOCHAT_KERNELS_SAMPLE", " Auto ")
    assert chosen("sample").name == "torch"
    monkeypatch.setenv("NANOCHAT_KERNELS", "")
    monkeypatch.setenv("NANOCHAT_KERNELS_SAMPLE", "")
    assert chosen("sample").name == "torch"


@pytest.mark.parametrize("name", ["triton", "interpret"])
@pytest.mark.parametrize("op", backend.OPS)
def test_asking_for_triton_says_why_not_and_what_to_set(monkeypatch: pytest.MonkeyPatch, name: str, op: str) -> None:
    variable = f"NANOCHAT_KERNELS_{op.upper()}"
    monkeypatch.setenv(variable, name)
    with pytest.raises(KernelInputError, match=f"{variable}={name}.*no Triton kernel.*set {variable} to auto, torch"):
        chosen(op)


def test_unknown_wishes_and_operations_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"'matmul'.*attention, decode_attention, sample, qk_prep"):
        chosen("matmul")
    monkeypatch.setenv("NANOCHAT_KERNELS", "cuda")
    with pytest.raises(ValueError, match=r"NANOCHAT_KERNELS is 'cuda'.*auto, triton, interpret, torch, reference"):
        chosen()


def test_it_works_where_os_environ_has_no_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "_TABLE", os.environ)
    monkeypatch.setattr(backend, "_KEYS", backend._VARIABLES)
    assert chosen().name == "torch"
    monkeypatch.setenv("NANOCHAT_KERNELS_SAMPLE", "reference")
    assert chosen().name == "reference"


def test_kernels_need_torch_and_numpy_alone() -> None:
    code = "import sys, kernels; print([m for m in ('triton', 'streamlit', 'polars', 'nanochat') if m in sys.modules])"
    root = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.strip() == "[]"
