"""How soon the dataset inspector's page answers an upload, and what memory the server needs for it.

    python -m nanochat.benchmarks.inspector_upload                          # 200 MB, five rounds, without a tokenizer
    python -m nanochat.benchmarks.inspector_upload --workspace FOLDER       # counted with the tokenizer of its runs

From the moment that Chromium takes the file to the figures on the page. Each round has a server of its own, which has
shown the page's example before: the libraries that a first report loads, some 40 MB, are not the upload's. The file is
`make_conversations`' with every kind of error planted in it.
"""

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from nanochat.benchmarks.app import CHROMIUM, server_process
from nanochat.benchmarks.make_conversations import planted

GOAL_SECONDS, GOAL_MEMORY = 8.0, 2.5  # the second in sizes of the file
BYTES_A_LINE = 500  # fewer than they have
WARM = 3.0  # seconds that the page has for what it loads in the background


def rounds_of(path: Path, lab: Path, rounds: int) -> Iterator[tuple[float, float]]:
    """Seconds to the answer, and the server's growth in sizes of the file."""
    from playwright.sync_api import sync_playwright

    executable = next(filter(None, map(shutil.which, CHROMIUM)), None)
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=executable, args=["--no-sandbox", "--disable-gpu"])
        for _ in range(rounds):
            with server_process(lab) as (address, process):
                page = browser.new_context().new_page()
                page.set_default_timeout(120_000)
                page.goto(f"{address}/dataset_inspector?dataset_inspector_where=Example")
                page.get_by_test_id("stMetric").filter(has_text="Errors").wait_for()
                time.sleep(WARM)
                page.goto(f"{address}/dataset_inspector?dataset_inspector_where=Upload")
                field = page.locator("input[type=file]")
                field.wait_for(state="attached")
                before, begun = _memory(process, "VmRSS"), time.perf_counter()
                field.set_input_files(path)
                page.get_by_test_id("stMetric").filter(has_text="Errors").wait_for()
                seconds = time.perf_counter() - begun
                page.context.close()
                yield seconds, (_memory(process, "VmHWM") - before) / path.stat().st_size
        browser.close()


def _memory(process: int, field: str) -> int:
    """Bytes, as Linux tells them."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def main(argv: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="python -m nanochat.benchmarks.inspector_upload", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--size", type=float, default=200e6, help="bytes of the file (200e6)")
    parser.add_argument("--rounds", type=int, default=5, help="times that it is uploaded (5)")
    parser.add_argument("--workspace", type=Path, help="one with runs, whose tokenizer then counts (an empty one)")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        path, lab = Path(folder) / "chats.jsonl", Path(folder) / "lab"
        lab.mkdir()
        with path.open("wb") as file:
            for line, _ in planted(int(args.size / BYTES_A_LINE) + 1000, 6):
                file.write(line)
                if file.tell() >= args.size:
                    break
        found = list(rounds_of(path, args.workspace or lab, args.rounds))
    for name, values, goal in (
        ("seconds to the answer", [seconds for seconds, _ in found], GOAL_SECONDS),
        ("growth, in sizes of the file", [growth for _, growth in found], GOAL_MEMORY),
    ):
        middle = statistics.median(values)
        verdict = "" if middle <= goal else "  over"
        print(f"{name:30} {middle:5.2f} ({min(values):.2f} to {max(values):.2f}), goal {goal}{verdict}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
