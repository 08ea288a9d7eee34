"""What tests of Triton kernels share. It needs torch and pytest alone, so that it runs on a bare GPU machine.

Without a GPU the kernels run in Triton's interpreter, on the CPU; with one they run there, as they are.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

ON_GPU = torch.cuda.is_available() and os.environ.get("TRITON_INTERPRET") != "1"
DEVICE = torch.device("cuda" if ON_GPU else "cpu")
IMPLEMENTATION = "triton" if ON_GPU else "interpret"  # the word for NANOCHAT_KERNELS
# A product of bfloat16 is wrong in the interpreter, so that format is for a GPU.
DTYPES = [torch.float32, torch.float16, *([torch.bfloat16] if ON_GPU else [])]

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # the interpreter's products are numpy's
if not ON_GPU:
    os.environ["TRITON_INTERPRET"] = "1"  # Triton decides when a kernel is defined, that is, at its first import


@pytest.fixture
def use_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every operation runs its Triton kernel. Import it, then: pytestmark = pytest.mark.usefixtures("use_triton")."""
    pytest.importorskip("triton", reason="the kernels need Triton, which is there for Linux alone")
    monkeypatch.setenv("NANOCHAT_KERNELS", IMPLEMENTATION)


@contextmanager
def poison() -> Iterator[None]:
    """Memory that is handed out without being written holds NaN (integers: their largest), so a gap shows."""
    before = torch.utils.deterministic.fill_uninitialized_memory
    deterministic, warn = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(deterministic, warn_only=warn)
        torch.utils.deterministic.fill_uninitialized_memory = before


def wide(*tensors: Tensor) -> list[Tensor]:
    """The tensors in float64, without their history: what a reference is computed from."""
    return [tensor.detach().to(torch.float64) for tensor in tensors]
