"""How long the training dashboard takes for a run of a million steps: to open it, to zoom, to follow it while it grows.

    python -m nanochat.benchmarks.training_dashboard                  # a million steps, 330 MB in a scratch folder
    python -m nanochat.benchmarks.training_dashboard --steps 20000    # a short look
    python -m nanochat.benchmarks.training_dashboard --browser        # also the page itself, in Chromium

Opening is measured in a process of its own each time, without its imports: the first time the file is parsed, later
ones find it in the workspace. CPU seconds count on a busy machine, seconds on an idle one.
"""

import argparse
import contextlib
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nanochat import metrics_glance
from nanochat.benchmarks.app import CHROMIUM, DONE, server
from nanochat.benchmarks.inspector import peak_mb
from nanochat.errors import exit_status

STEPS = 1_000_000
SHORT = 1_000  # of another one, for comparison
NEW = 10  # lines that a run writes between two looks
TAG = "long"
CHART = "canvas, svg"
ZOOMS = (10, 6, 14, 9, 12, 4, 7, 16, 5, 13, 11)  # twentieths of the run
# In the page: when Enter was pressed, when the first chart changed after it, when the page had nothing more to do.
WATCH = """() => {
  const app = document.querySelector('[data-testid=stApp]'), zoom = window.zoom = {};
  const since = () => performance.now() - zoom.begun;
  document.addEventListener('keydown', () => { zoom.begun = performance.now(); }, {capture: true, once: true});
  const chart = new MutationObserver(() => { zoom.drawn ??= zoom.begun && since(); });
  chart.observe(document.querySelector('[data-testid=stVegaLiteChart]'), {subtree: true, childList: true,
    attributes: true});
  const state = new MutationObserver(() => {
    if (zoom.drawn && app.getAttribute('data-test-script-state') === 'notRunning') {
      zoom.done ??= since(); chart.disconnect(); state.disconnect();
    }
  });
  state.observe(app, {attributes: true});
}"""


@dataclass(frozen=True)
class Figure:
    """One measurement."""

    name: str
    seconds: float
    cpu: float | None  # None where another process did the work
    goal: float | None  # seconds
    note: str = ""


def lines(first: int, count: int, steps: int) -> bytes:
    """Records as a run of ours writes them; the loss falls and wobbles."""
    text = (
        '{{"step": {0}, "time": {1}, "tokens": {2}, "train_loss": {3}, "smooth_loss": {3}, "val_bpb": {4}, '
        '"learning_rate": 0.02, "learning_rates": {{"unembedding": 0.004, "embedding": 0.2, "matrix": 0.02}}, '
        '"lr_multiplier": 1.0, "grad_norm": {5}, "tokens_per_second": {6}, "mfu": null, "flops": {7}, "events": {8}}}\n'
    )
    made = []
    for step in range(first, first + count):
        loss = 2 + 5 * math.exp(-3 * step / steps) + 0.05 * math.sin(7.3 * step)
        evaluated = step % 1000 == 0
        made.append(
            text.format(step, step / 8, step * 4096, loss, loss / 3 if evaluated else "null", 1 + 0.1 * math.sin(step),
                        32768.0 + 100 * math.cos(step), step * 10**9, '["evaluation"]' if evaluated else "[]")
        )  # fmt: skip
    return "".join(made).encode()


def written(folder: Path, steps: int, tag: str = TAG) -> Path:
    """The folder of a run that ended an hour ago."""
    run = folder / "base_checkpoints" / tag
    run.mkdir(parents=True)
    with (run / "metrics.jsonl").open("wb") as file:
        for first in range(0, steps, 10_000):
            file.write(lines(first, min(10_000, steps - first), steps))
    rest(run)
    return run


def rest(run: Path) -> None:
    """Let the run look as if nobody wrote to it lately."""
    os.utime(run / "metrics.jsonl", (time.time() - 3600,) * 2)


def opened(run: Path) -> dict[str, Any]:
    """Open a run and work out what the page shows first, then a part of it; seconds and CPU seconds of both."""
    from nanochat.analysis import training_dashboard as dashboard

    begun, used = time.perf_counter(), time.process_time()
    (history,) = dashboard.Follower(run).look()
    read = time.perf_counter() - begun
    dashboard.available([history])
    dashboard.summary(history)
    dashboard.marks(history)
    dashboard.progress(history)
    for points in (600, 200):
        dashboard.curve([history], "train_loss", dashboard.Look(points=points))
    first = {"read": read, "seconds": time.perf_counter() - begun, "cpu": time.process_time() - used}
    begun, used = time.perf_counter(), time.process_time()
    last = history.last or 0
    dashboard.curve([history], "train_loss", dashboard.Look(low=last * 0.4, high=last * 0.5))
    zoom = {"seconds": time.perf_counter() - begun, "cpu": time.process_time() - used}
    return {"open": first, "zoom": zoom, "peak": peak_mb()}


def glanced(run: Path) -> dict[str, Any]:
    """What a first look takes, to the points of its chart."""
    from nanochat.analysis import training_dashboard as dashboard

    begun, used = time.perf_counter(), time.process_time()
    runs, share = dashboard.Follower(run).glance()
    dashboard.curve(runs, "train_loss", dashboard.Look(points=600))
    return {"seconds": time.perf_counter() - begun, "cpu": time.process_time() - used, "share": share}


def followed(run: Path, steps: int) -> dict[str, Any]:
    """What a look costs when nothing came, and when some lines came."""
    from nanochat.analysis import training_dashboard as dashboard

    follower = dashboard.Follower(run)
    follower.look()
    found = {}
    for name, count in (("nothing", 0), ("lines", NEW)):
        with (run / "metrics.jsonl").open("ab") as file:
            file.write(lines(steps, count, steps))
        begun, used = time.perf_counter(), time.process_time()
        follower.look()
        found[name] = {"seconds": time.perf_counter() - begun, "cpu": time.process_time() - used}
    return found


def measure(folder: Path, steps: int) -> Iterator[Figure]:
    """Every figure but those of the page."""
    run = written(folder, steps)
    size = f"{steps:,} steps, {(run / 'metrics.jsonl').stat().st_size / 1e6:.0f} MB"
    if (run / "metrics.jsonl").stat().st_size >= metrics_glance.LONG:
        look = _apart(folder, "--glanced", run)
        note = f"{size}; {look['share']:.1%} of the file"
        yield Figure("a first look, to the points of its chart", look["seconds"], look["cpu"], 2.0, note)
    for name in ("opened for the first time", "opened later, by another process"):
        found = _apart(folder, "--opened", run)
        first, zoom = found["open"], found["zoom"]
        note = f"{size}; {found['peak']:,} MB at most; {first['read']:.2f} s of it reading"
        yield Figure(f"{name}, to the points of the chart", first["seconds"], first["cpu"], 2.0, note)
    yield Figure("another part, to its points", zoom["seconds"], zoom["cpu"], 0.3)
    found = _apart(folder, "--followed", run, steps)
    yield Figure("a look when nothing came", found["nothing"]["seconds"], found["nothing"]["cpu"], None)
    yield Figure(f"a look when {NEW} lines came", found["lines"]["seconds"], found["lines"]["cpu"], None)
    rest(run)


def _apart(lab: Path, flag: str, *words: object) -> dict[str, Any]:
    command = [sys.executable, "-m", "nanochat.benchmarks.training_dashboard", flag, *map(str, words)]
    environment = os.environ | {"NANOCHAT_LAB_DIR": str(lab), "NANOCHAT_BASE_DIR": str(lab / "none")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def pages(folder: Path, steps: int) -> Iterator[Figure]:
    """The page in Chromium: to the first chart, before and after the file was kept, and another part of it; beside
    them a run of a thousand steps, which tells what the page itself takes."""
    import shutil

    from playwright.sync_api import sync_playwright

    executable = next(filter(None, map(shutil.which, CHROMIUM)), None)
    written(folder, SHORT, "short")
    with sync_playwright() as driver, contextlib.closing(
        driver.chromium.launch(executable_path=executable, args=["--no-sandbox", "--disable-gpu"])
    ) as browser:  # fmt: skip
        shutil.rmtree(folder / "cache", ignore_errors=True)
        for name in ("first time", "later, by another server"):
            with server(folder) as address:
                page = browser.new_context().new_page()
                page.set_default_timeout(300_000)
                _charted(page, address, "short")  # so that the server has loaded what pages share
                short, _ = _charted(page, address, "short")
                yield Figure(f"page, {SHORT:,} steps: to the first chart", short, None, 2.0)
                first, whole = _charted(page, address, TAG)
                yield Figure(f"page, {name}: to the first chart", first, None, 2.0)
                yield Figure(f"page, {name}: to the whole page", whole, None, None)
                found = [_zoomed(page, steps * part // 20) for part in ZOOMS]
                drawn, done = (statistics.median(times) for times in zip(*found, strict=True))
                yield Figure(f"page, {name}: another part, to its curve", drawn, None, 0.3, f"median of {len(ZOOMS)}")
                yield Figure(f"page, {name}: another part, to the whole page", done, None, None)
                page.context.close()


def _zoomed(page: Any, start: int) -> tuple[float, float]:
    """Seconds from Enter in the field From until the curve is another, and until the page is done."""
    field = page.get_by_label("From", exact=True)
    field.fill(str(start))
    page.evaluate(WATCH)
    field.press("Enter")
    page.wait_for_function("() => window.zoom.drawn && window.zoom.done")
    zoom = page.evaluate("window.zoom")
    return zoom["drawn"] / 1000, zoom["done"] / 1000


def _charted(page: Any, address: str, tag: str) -> tuple[float, float]:
    """Seconds until a run's first chart is drawn, of a long run perhaps by some of its lines, and until all is."""
    begun = time.perf_counter()
    page.goto(f"{address}/training_dashboard?training_dashboard_run=base/{tag}")
    page.get_by_test_id("stVegaLiteChart").first.locator(CHART).first.wait_for()
    seconds = time.perf_counter() - begun
    page.wait_for_function(DONE)
    return seconds, time.perf_counter() - begun


def main(argv: list[str] | None = None) -> int:
    """Measure and print."""
    p = argparse.ArgumentParser(prog="training_dashboard", description="Opening, zooming and following a long run.")
    p.add_argument("--steps", type=int, default=STEPS, help=f"of the run ({STEPS})")
    p.add_argument("--browser", action="store_true", help="measure the page in Chromium too")
    p.add_argument("--json", action="store_true", help="print one JSON object")
    p.add_argument("--opened", type=Path, metavar="RUN", help="open this run here and print what it took")
    p.add_argument("--glanced", type=Path, metavar="RUN", help="look at some of its lines, the same")
    p.add_argument("--followed", nargs=2, metavar=("RUN", "STEPS"), help="follow this run here, the same")
    args = p.parse_args(argv)
    if args.opened or args.glanced or args.followed:
        told = opened(args.opened) if args.opened else glanced(args.glanced) if args.glanced else None
        print(json.dumps(told or followed(Path(args.followed[0]), int(args.followed[1]))))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        figures = list(measure(Path(folder), args.steps))
        if args.browser:
            figures += pages(Path(folder), args.steps)
    if args.json:
        print(json.dumps({"steps": args.steps, "figures": [asdict(figure) for figure in figures]}))
        return 0
    print(f"load of the machine {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores")
    for one in figures:
        cpu = "" if one.cpu is None else f"{one.cpu:6.2f} CPU s"
        goal = "" if one.goal is None else f"goal {one.goal} s"
        print(f"  {one.name:<66} {one.seconds:6.2f} s  {cpu:<12} {goal:<11} {one.note}")
    return 0


if __name__ == "__main__":
    sys.exit(exit_status("training_dashboard", main))
