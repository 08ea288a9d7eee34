"""Every test runs on one torch thread and in a private workspace."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch loads; two cores are shared by everything

import pytest

import tests.kernel_support  # noqa: F401 - first of all: it tells Triton to interpret before anything can load Triton


@pytest.fixture(autouse=True)
def private_workspace(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test may see or touch a real workspace or a real nanochat base dir."""
    root = tmp_path_factory.mktemp("workspace")
    monkeypatch.setenv("NANOCHAT_LAB_DIR", str(root / "lab"))
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(root / "nanochat"))
