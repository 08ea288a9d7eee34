"""Programs of a trusted model, run without a sandbox, and how a program's output and folder are dealt with."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from nanochat.execution import Limits, run_trusted
from nanochat.sandbox import streams
from tests.sandbox_attacks import wait_for

posix = pytest.mark.skipif(os.name != "posix", reason="sessions and process groups are POSIX's")


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("1/0", "ZeroDivisionError: division by zero"),
        ("import sys; sys.exit(0)", "it ended with exit code 0 before its end"),
        ("import os; os._exit(0)", "it ended with exit code 0 before its end"),
        ("input()", "EOFError: EOF when reading a line"),
    ],
)
def test_trusted_programs_have_verdicts_too(code: str, error: str) -> None:
    result = run_trusted(code.encode(), Limits(20.0, 1 << 30))
    assert not result.success
    assert result.error == error


@posix
def test_a_trusted_program_is_stopped_with_its_descendants() -> None:
    mark = f"descendant-of-{os.getpid()}"
    code = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', 'while True: pass', '{mark}'])"
    began = time.monotonic()
    result = run_trusted(code.encode(), Limits(1.5, 1 << 30))
    assert result.timed_out
    assert time.monotonic() - began < 5 * 2.5
    if sys.platform == "linux":
        wait_for(lambda: not any(mark.encode() in p.read_bytes() for p in Path("/proc").glob("[0-9]*/cmdline")))


@posix
@pytest.mark.parametrize("shape", ["deep", "wide", "locked"])
def test_a_trusted_program_leaves_no_folder(shape: str) -> None:
    code = {
        "deep": "import os\nfor n in range(3000): os.mkdir('d'); os.chdir('d')",
        "wide": "for n in range(3000): open(str(n), 'w').close()",
        "locked": "import os\nos.makedirs('a/b/c')\nos.chmod('a/b', 0)\nos.chmod('a', 0)",
    }[shape]
    before = {name for name in os.listdir(tempfile.gettempdir()) if name.startswith("nanochat-")}
    assert run_trusted(code.encode(), Limits(20.0, 1 << 30)).success
    wait_for(lambda: {n for n in os.listdir(tempfile.gettempdir()) if n.startswith("nanochat-")} <= before)


def test_a_deep_folder_is_removed(tmp_path: Path) -> None:
    top = tmp_path / "top"
    top.mkdir()
    here = os.getcwd()
    try:
        os.chdir(top)
        for _ in range(5000):  # far beyond the longest path that the system can name
            os.mkdir("d")
            os.chdir("d")
        Path("leaf").touch()
    finally:
        os.chdir(here)
    streams.remove_tree(top, seconds=60.0)
    assert not top.exists()


def test_a_link_is_removed_and_not_followed(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").touch()
    top = tmp_path / "top"
    (top / "inner").mkdir(parents=True)
    (top / "link").symlink_to(kept)
    (top / "inner" / "link").symlink_to(kept)
    streams.remove_tree(top, seconds=60.0)
    assert not top.exists()
    assert (kept / "file").exists()
    shutil.rmtree(kept)


def test_a_drain_keeps_the_head_only() -> None:
    process = subprocess.Popen([sys.executable, "-c", "print('x' * 10**7, end='end')"], stdout=subprocess.PIPE)
    assert process.stdout is not None
    drain = streams.Drain(process.stdout)
    process.wait()
    drain.join(60)
    process.stdout.close()
    assert len(drain.head) == streams.MAX_OUTPUT
    assert drain.total == 10**7 + 3
    assert drain.tail.endswith(b"xend")
    assert drain.truncated
