"""What the tests of the metrics readers share: real logs, a whole speedrun made of them, and parsing in one call."""

import re
from pathlib import Path

import polars as pl

from nanochat.metrics_log import LogParser
from tests.support import FIXTURES

LOGS = sorted([*FIXTURES.glob("*/logs/*.log"), *FIXTURES.glob("*/wandb/*/files/output.log")])
STEP = (
    "step {:05d}/00100 ({:.2f}%) | loss: {} | lrm: 1.00 | dt: 100.00ms | tok/sec: 1,024 | mfu: 0.00 | "
    "total time: 0.00m\n"
)

SPEEDRUN_2025 = (
    *("tok_train", "base_train", "base_loss", "base_eval", "mid_train", "chat_eval", "chat_sft", "chat_eval"),
    "chat_rl",
)
SPEEDRUN_2026 = ("tok_train", "base_train", "base_eval", "chat_sft", "chat_eval", "chat_rl", "chat_cli")

_TORCHRUN = (
    "W1122 13:19:10.123000 4242 torch/distributed/run.py:774]\n"
    "W1122 13:19:10.123000 4242 torch/distributed/run.py:774] *****************************************\n"
    "W1122 13:19:10.123000 4242 torch/distributed/run.py:774] Setting OMP_NUM_THREADS environment variable for each "
    "process to be 1 in default, to avoid your system being overloaded.\n"
    "W1122 13:19:10.123000 4242 torch/distributed/run.py:774] *****************************************\n"
)
_SHELL = (
    "Resolved 101 packages in 1.20s\n + torch==2.9.0\nDownloading 8 shards using 4 workers...\n"
    "Target directory: base_data\n\n"
    "Successfully downloaded shard_00000.parquet\nDone! Downloaded: 8/8 shards to base_data\n"
)
_CURL = (
    "  % Total    % Received % Xferd  Average Speed   Time    Time     Time  Current\n"
    "                                 Dload  Upload   Total   Spent    Left  Speed\n"
    "\r  0     0    0     0    0     0      0      0 --:--:-- --:--:-- --:--:--     0"
    "\r100 2372k  100 2372k    0     0  9.9M      0 --:--:-- --:--:-- --:--:--  9.9M\n"
)


def parse(data: bytes, file: str = "x.log", piece: int | None = None) -> tuple[pl.DataFrame, LogParser]:
    """The rows of a log and its parser, fed at once or in pieces of some size."""
    parser = LogParser(file)
    for start in range(0, len(data), piece or max(len(data), 1)):
        parser.feed(data[start : start + (piece or len(data))])
    return parser.frame(), parser


def rows(text: str, file: str = "x.log") -> pl.DataFrame:
    """The rows of a log given as text."""
    return parse(text.encode(), file)[0]


def log_of(date: str, script: str) -> bytes:
    """The fixture log of one script, without what the shell's `time` printed behind it."""
    data = Path(FIXTURES, f"nanochat_{date}", "logs", f"{script}.log").read_bytes()
    return re.sub(rb"\nreal\t.*\nuser\t.*\nsys\t.*\n\Z", b"\n", data)


def speedrun(date: str, scripts: tuple[str, ...]) -> bytes:
    """What `screen -L` keeps of a whole speedrun: every stage in one file, with the shell's own words between."""
    parts = [_SHELL.encode()]
    for script in scripts:
        parts.append(_CURL.encode() if script == "mid_train" else b"")
        parts.append(_TORCHRUN.encode() if not script.startswith("tok") else b"")
        parts.append(log_of(date, script))
    return b"".join(parts).replace(b"\n", b"\r\n")
