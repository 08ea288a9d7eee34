"""kernels.backend: which implementation runs is a pure answer, the environment can force it, and wrong wishes raise."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from kernels import KernelInputError, backend

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def no_wishes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NANOCHAT_KERNELS", *(f"NANOCHAT_KERNELS_{op.upper()}" for op in backend.OPS)):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with an H100 and Triton, as far as the choice can see."""
    monkeypatch.setattr(backend, "_has_triton", lambda: True)
    monkeypatch.setattr(backend, "_capability", lambda index: (9, 0))


def chosen(
    op: str = "sample", device: str = "cpu", dtype: torch.dtype = torch.float32, shape: tuple[int, ...] = (1, 64)
) -> backend.Choice:
    return backend.choose(op, torch.device(device), dtype, shape)


@pytest.mark.parametrize("op", backend.OPS)
@pytest.mark.parametrize("device", ["cpu", "mps"])
def test_torch_runs_where_there_is_no_gpu_and_says_why(op: str, device: str) -> None:
    choice = chosen(op, device)
    assert choice.name == "torch"
    assert op in choice.reason
    assert "Triton kernels need a GPU" in choice.reason


@pytest.mark.parametrize("op", backend.OPS)
@pytest.mark.parametrize("dtype", backend.DTYPES)
@pytest.mark.usefixtures("gpu")
def test_triton_runs_on_a_gpu(op: str, dtype: torch.dtype) -> None:
    choice = chosen(op, "cuda", dtype)
    assert choice.name == "triton"
    assert op in choice.reason


@pytest.mark.usefixtures("gpu")
def test_what_a_kernel_does_not_take_runs_as_torch_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    assert chosen("sample", "cuda", torch.float64).name == "torch"
    assert "float64" in chosen("sample", "cuda", torch.float64).reason
    assert chosen("attention", "cuda", shape=(1, 8, 2, 48)).name == "torch"
    assert "32, 64, 128, and the input has 48" in chosen("attention", "cuda", shape=(1, 8, 2, 48)).reason
    assert chosen("sample", "cuda", shape=(1, 48)).name == "triton"  # its last dimension is no head dim
    monkeypatch.setattr(backend, "_capability", lambda index: (7, 5))
    assert chosen("sample", "cuda").name == "torch"
    assert "7.5, and the kernels need 8.0" in chosen("sample", "cuda").reason
    monkeypatch.setattr(backend, "_has_triton", lambda: False)
    assert "triton is not installed" in chosen("sample", "cuda").reason


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


@pytest.mark.parametrize("op", backend.OPS)
def test_asking_for_triton_without_a_gpu_says_why_not_and_what_to_set(monkeypatch: pytest.MonkeyPatch, op: str) -> None:
    variable = f"NANOCHAT_KERNELS_{op.upper()}"
    monkeypatch.setenv(variable, "triton")
    with pytest.raises(KernelInputError, match=f"{variable}=triton cannot be followed.*on cpu; set {variable} to auto"):
        chosen(op)


@pytest.mark.usefixtures("gpu")
def test_triton_and_the_interpreter_can_be_asked_for_where_they_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NANOCHAT_KERNELS", "triton")
    assert chosen("sample", "cuda").name == "triton"
    monkeypatch.setenv("NANOCHAT_KERNELS", "interpret")
    assert chosen("sample").name == "interpret"
    with pytest.raises(KernelInputError, match="the interpreter runs on a CPU, and the tensors are on cuda"):
        chosen("sample", "cuda")
    with pytest.raises(KernelInputError, match="float64"):
        chosen("sample", dtype=torch.float64)
    with pytest.raises(KernelInputError, match="head dims"):
        chosen("qk_prep", shape=(1, 1, 1, 16))
    monkeypatch.setattr(backend, "_has_triton", lambda: False)
    with pytest.raises(KernelInputError, match="triton is not installed"):
        chosen("sample")


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


@pytest.mark.filterwarnings("error:Dynamo detected a call to a `functools.lru_cache`")
def test_a_compiled_graph_takes_what_is_known_of_the_machine_as_constants(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither question is an operation that a graph could hold."""
    asked = []

    def capability(index: int) -> tuple[int, int]:
        asked.append(os.getpid())  # what no graph could trace
        return (9, 0)

    monkeypatch.setattr(torch.cuda, "get_device_capability", capability)
    backend._ask_capability.cache_clear()

    def branch(x: torch.Tensor) -> torch.Tensor:
        return x + 1 if backend._capability(0) >= (8, 0) and backend._has_triton() in (True, False) else x - 1

    try:
        assert torch.compile(branch, backend="eager", fullgraph=True)(torch.zeros(1)).item() == 1
    finally:
        backend._ask_capability.cache_clear()
    assert asked


# A process has Triton's kernels for the GPU or for the interpreter, never both, so each answer has its own process.
LOADING = """
import sys
from kernels import backend
for name in sys.argv[1:]:
    try:
        print(backend.triton_impl("sample", name).__name__)
    except ValueError as error:
        print(type(error).__name__, error)
"""


@pytest.mark.parametrize(
    ("first", "words"),
    [
        (
            "interpret",
            "KernelInputError sample: this process has loaded Triton's kernels to be interpreted, and triton is",
        ),
        (
            "triton",
            "KernelInputError sample: this process has loaded Triton's kernels to run on a GPU, and interpret is asked",
        ),
    ],
)
def test_a_process_has_one_kind_of_kernels(first: str, words: str) -> None:
    pytest.importorskip("triton")
    second = {"triton": "interpret", "interpret": "triton"}[first]
    clean = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", LOADING, first, second],
        cwd=ROOT,
        env=clean,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    loaded, refused = done.stdout.splitlines()
    assert loaded == "kernels.sample.triton_impl"
    assert refused.startswith(words)
    assert "start a new process" in refused


def test_kernels_need_torch_and_numpy_alone() -> None:
    """Neither Triton nor PyTorch's compiler is loaded before one of them runs: they take seconds."""
    names = ("triton", "torch._dynamo", "streamlit", "polars", "nanochat")
    code = f"import sys, torch, kernels; print(sorted(set({names}) & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.strip() == "[]"
