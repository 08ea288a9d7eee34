"""Every test runs on one torch thread and in a private workspace; the whole suite runs in a process per core."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch loads; two cores are shared by everything

import signal
import sys
from collections.abc import Iterator

import pytest

import tests.kernel_support  # noqa: F401 - first of all: it tells Triton to interpret before anything can load Triton

# A shell that starts us in the background has Ctrl-C ignored, in every child as well; some tests send it to a child.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

MAIN = sys.modules["__main__"]
MOST_WORKERS = 4  # each holds a torch, a Triton and perhaps a browser: about 1.5 GB


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Plain `pytest` shares the files out to a worker per core. A named file, a proof and a debugger stay alone."""
    whole = config.args_source is pytest.Config.ArgsSource.TESTPATHS and config.option.markexpr == "not prove"
    leads = config.pluginmanager.hasplugin("xdist") and not hasattr(config, "workerinput")  # a worker starts no workers
    if whole and leads and config.option.numprocesses is None and not config.option.collectonly:
        config.option.numprocesses, config.option.maxprocesses, config.option.dist = "auto", MOST_WORKERS, "loadfile"


@pytest.fixture(autouse=True)
def main_module() -> Iterator[None]:
    """Streamlit leaves the script of a page as __main__, which a process that a later test starts would run first."""
    yield
    sys.modules["__main__"] = MAIN


@pytest.fixture(autouse=True)
def private_workspace(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test may see or touch a real workspace or a real nanochat base dir."""
    root = tmp_path_factory.mktemp("workspace")
    monkeypatch.setenv("NANOCHAT_LAB_DIR", str(root / "lab"))
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(root / "nanochat"))
