"""How long until the first token and how fast after it: engine, a reply behind the queue, terminal, server and page.

    python -m nanochat.benchmarks.chat                           # the deepest base model found
    python -m nanochat.benchmarks.chat -i base -g demo --rounds 9 --browser --json

Every round runs each candidate once, one after the other, with the same prompt, settings and seeds, so all write the
same tokens and a machine whose speed drifts slows them alike; differences are taken round by round and their median is
reported. A candidate writes several replies, because one of a small model is over in a tenth of a second, and begins
after a rest: the threads of the one before it spin for a while and would take its core. Time is the wall's, because the
server is a process of its own. Then a late turn of a long conversation, read anew and read on from what is kept. A last
run sends several requests at once.
"""

import argparse
import json
import statistics
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from nanochat import paths
from nanochat.benchmarks.chat_candidates import (
    PROMPT,
    SAMPLING,
    Candidate,
    Measured,
    behind_the_queue,
    engine_alone,
    over_http,
    page,
    server,
    terminals,
)
from nanochat.checkpoint_manager import load_model_from
from nanochat.engine import Engine
from nanochat.errors import exit_status
from nanochat.kept_cache import KeptCache
from nanochat.reply import Turn, prompt_ids

REPLIES = 4  # of each candidate in a round, each with a seed of its own
REST = 0.4  # seconds before each candidate
TURN = 16  # tokens that a late turn adds


@dataclass(frozen=True)
class Record:
    """One candidate over all rounds."""

    name: str
    first_ms: float  # median
    tokens_per_second: float  # median
    first_over_engine_ms: float  # median of the rounds' differences
    speed_of_engine: float  # median of the rounds' ratios; 1 is as fast


def several(run: Candidate) -> Measured:
    """Some replies of one candidate as if they were one: the median first token, all tokens over all time."""
    time.sleep(REST)
    ones = [run(SAMPLING.seed + number) for number in range(REPLIES)]
    seconds = sum((one.tokens - 1) / one.speed for one in ones)
    tokens = sum(one.tokens for one in ones)
    return Measured(statistics.median(one.first for one in ones), (tokens - REPLIES) / seconds, tokens)


def measure(candidates: dict[str, Candidate], rounds: int) -> list[Record]:
    """All candidates in every round, after one round that does not count; the first is what others are held against."""
    found: dict[str, list[Measured]] = {name: [] for name in candidates}
    for number in range(rounds + 1):
        for name, run in candidates.items():
            one = several(run)
            if number:
                found[name].append(one)
    bare = next(iter(found.values()))
    return [
        Record(
            name,
            1e3 * statistics.median(one.first for one in ones),
            statistics.median(one.speed for one in ones),
            1e3 * statistics.median(one.first - first.first for one, first in zip(ones, bare, strict=True)),
            statistics.median(one.speed / first.speed for one, first in zip(ones, bare, strict=True)),
        )
        for name, ones in found.items()
    ]


def late_turn(engine: Engine, prompt: list[int], rounds: int) -> dict[str, float]:
    """The first token of a turn at the end of the context: milliseconds when all is read anew, and when it is kept."""
    room = engine.model.config.sequence_len - TURN - 1
    before = (prompt * (room // len(prompt) + 1))[:room]
    turn = before + before[1 : TURN + 1]
    spent: dict[str, list[float]] = {"anew_ms": [], "kept_ms": []}
    for _ in range(rounds):
        kept = KeptCache()
        for _ in engine.generate(before, max_tokens=1, kept=kept):
            pass
        for name, what in (("anew_ms", None), ("kept_ms", kept)):
            begun = time.perf_counter()
            next(engine.generate(turn, max_tokens=1, kept=what))
            spent[name].append(1e3 * (time.perf_counter() - begun))
    return {"tokens": len(turn), **{name: statistics.median(found) for name, found in spent.items()}}


def at_once(run: Callable[[int], Measured], count: int) -> dict[str, float]:
    """Several replies at the same time: the last first token, and all tokens over the whole time."""
    found: list[Measured] = []
    threads = [threading.Thread(target=lambda seed=seed: found.append(run(seed))) for seed in range(count)]
    begun = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - begun
    tokens = sum(one.tokens for one in found)
    last = max(one.first for one in found)
    return {"chats": count, "last_first_ms": 1e3 * last, "tokens_per_second": tokens / seconds}


def main(argv: list[str] | None = None) -> int:
    """Measure and print."""
    p = argparse.ArgumentParser(prog="python -m nanochat.benchmarks.chat", description=str(__doc__).split("\n")[0])
    p.add_argument("-i", "--source", default="base", choices=list(paths.STAGE_FOLDERS), help="training stage (base)")
    p.add_argument("-g", "--model-tag", help="run (the deepest)")
    p.add_argument("--base-dir", type=Path, help="nanochat base dir to look in (the workspace, then nanochat's own)")
    p.add_argument("--rounds", type=int, default=7, help="counted rounds (7)")
    p.add_argument("--chats", type=int, default=8, help="requests at once at the end (8)")
    p.add_argument("--browser", action="store_true", help="measure the chat page in Chromium too")
    p.add_argument("--json", action="store_true", help="print one JSON object")
    args = p.parse_args(argv)
    if args.browser and not args.model_tag:
        p.error("--browser needs --model-tag: the page is opened by its address")
    places = [paths.expand(args.base_dir)] if args.base_dir else [root.path for root in paths.roots()]
    loaded = load_model_from(places, args.source, args.model_tag)
    engine = Engine(loaded.model, loaded.tokenizer)
    prompt = prompt_ids(loaded.tokenizer, [Turn("user", PROMPT)], continuation=args.source == "base")
    flags = ["-i", args.source, *(["-g", args.model_tag] if args.model_tag else [])]
    flags += ["--base-dir", str(args.base_dir)] if args.base_dir else []
    seeds = [SAMPLING.seed + number for number in range(REPLIES)]
    lengths = {seed: engine_alone(engine, prompt, seed).tokens for seed in seeds}
    with ExitStack() as stack:
        port, name = stack.enter_context(server(flags))
        candidates: dict[str, Candidate] = {
            "engine": lambda seed: engine_alone(engine, prompt, seed),
            "queue": lambda seed: behind_the_queue(engine, prompt, seed),
            "terminal": stack.enter_context(terminals(flags, seeds, lengths)),
            "server": lambda seed: over_http(port, name, seed),
        }
        if args.browser:
            candidates["page"] = stack.enter_context(page(places[0], f"{args.source}/{args.model_tag}", lengths))
        records = measure(candidates, args.rounds)
        late = late_turn(engine, prompt, args.rounds)
        together = at_once(lambda seed: over_http(port, name, seed), args.chats)
    if args.json:
        print(json.dumps({"records": [asdict(record) for record in records], "late_turn": late, "at_once": together}))
        return 0
    for one in records:
        print(
            f"{one.name:<8} first token {one.first_ms:6.1f} ms ({one.first_over_engine_ms:+.1f})   "
            f"{one.tokens_per_second:6.0f} tokens/s ({one.speed_of_engine:.2f} of the engine)"
        )
    print(
        f"turn behind {late['tokens'] - TURN:,} tokens: first token {late['anew_ms']:.1f} ms read anew, "
        f"{late['kept_ms']:.1f} ms read on from what is kept"
    )
    print(
        f"{together['chats']} at once: last first token {together['last_first_ms']:.0f} ms, "
        f"{together['tokens_per_second']:.0f} tokens/s in all"
    )
    return 0


if __name__ == "__main__":
    sys.exit(exit_status("chat", main))
