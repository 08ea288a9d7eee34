"""Who writes the replies that nanochat.benchmarks.chat measures: engine, queue, terminal, server and page."""

import http.client
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nanochat.engine import Engine
from nanochat.model_queue import ModelQueue
from nanochat.reply import Reply, Sampling

PROMPT = "One day"
SAMPLING = Sampling(temperature=0.8, top_k=50, max_tokens=200, seed=1)
HANG = 120  # seconds
ASKS, SPEAKS = b"\nYou: ", b"\nAssistant: "  # what chat_cli prints before it reads a line and before a reply
# In the page: when the reply began to be asked for, when its first and its last words stood there.
WATCH = """() => {
  const texts = () => {
    const messages = document.querySelectorAll('[data-testid=stChatMessage]');
    if (messages.length < 2) return '';
    return [...messages[1].querySelectorAll('[data-testid=stText]')].map(text => text.innerText).join('');
  };
  window.reply = {};
  document.addEventListener('keydown', event => {
    if (event.key === 'Enter') window.reply = {begun: performance.now(), text: ''};
  }, true);
  new MutationObserver(() => {
    const reply = window.reply, text = texts(), now = performance.now();
    if (!reply.begun || !text || text === reply.text) return;
    Object.assign(reply, {text, first: reply.first ?? now, last: now});
  }).observe(document.body, {subtree: true, childList: true, characterData: true});
}"""

Candidate = Callable[[int], "Measured"]  # a reply with this seed


@dataclass(frozen=True)
class Measured:
    """One reply."""

    first: float  # seconds from the request to the first token
    speed: float  # tokens a second after it
    tokens: int


def engine_alone(engine: Engine, prompt: list[int], seed: int) -> Measured:
    """The engine, and nothing else."""
    names = ("temperature", "top_k", "top_p", "min_p", "max_tokens")
    begun = time.perf_counter()
    times = []
    for (token,), _ in engine.generate(prompt, seed=seed, **{name: getattr(SAMPLING, name) for name in names}):
        if token not in engine.ends:
            times.append(time.perf_counter())
    return Measured(times[0] - begun, (len(times) - 1) / (times[-1] - times[0]), len(times))


def behind_the_queue(engine: Engine, prompt: list[int], seed: int) -> Measured:
    """What the chat page does for a reply, except for drawing it."""
    queue, reply = ModelQueue(), Reply()
    with queue.seat():
        for _ in reply.write(engine, prompt, replace(SAMPLING, seed=seed), queue):
            pass
    return Measured(reply.seconds_to_first or 0.0, reply.tokens_per_second or 0.0, len(reply.ids))


def over_http(port: int, model: str, seed: int) -> Measured:
    """A streamed completion as a client sees it."""
    body: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": PROMPT}], "stream": True}
    body |= {name: getattr(SAMPLING, name) for name in ("temperature", "top_k", "max_tokens")} | {"seed": seed}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=HANG)
    begun = time.perf_counter()
    connection.request("POST", "/v1/chat/completions", json.dumps({**body, "stream_options": {"include_usage": True}}))
    times, tokens = [], 0
    for line in connection.getresponse():
        if not line.startswith(b"data: {"):
            continue
        event = json.loads(line[6:])
        if event["choices"] and event["choices"][0]["delta"].get("content"):
            times.append(time.perf_counter())
        tokens = event.get("usage", {}).get("completion_tokens", tokens)
    connection.close()
    return Measured(times[0] - begun, (tokens - 1) / (times[-1] - times[0]), tokens)


@contextmanager
def server(flags: list[str]) -> Iterator[tuple[int, str]]:
    """`nanochat serve` in a process of its own: (port, the model's name)."""
    command = [sys.executable, "-m", "nanochat.scripts.serve", "--port", "0", *flags]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        name, _, address = process.stdout.readline().partition(" at http://127.0.0.1:")
        yield int(address.partition("/")[0]), name
    finally:
        process.terminate()
        process.wait(HANG)


@contextmanager
def terminals(flags: list[str], seeds: list[int], tokens: dict[int, int]) -> Iterator[Candidate]:
    """`nanochat chat_cli`, a conversation for each seed; tokens: how many the reply of a seed has."""
    settings = ["-t", SAMPLING.temperature, "-k", SAMPLING.top_k, "--max-tokens", SAMPLING.max_tokens]
    with ExitStack() as stack:
        processes: dict[int, Any] = {}
        for seed in seeds:
            command = [sys.executable, "-m", "nanochat.scripts.chat_cli", *flags, *settings, "--seed", seed]
            pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "bufsize": 0}
            process = subprocess.Popen([str(word) for word in command], stderr=subprocess.DEVNULL, **pipes)
            stack.callback(process.wait, HANG)
            stack.callback(process.terminate)
            processes[seed] = process
            _read_to(process, ASKS)

        def reply(seed: int) -> Measured:
            process = processes[seed]
            begun = time.perf_counter()
            process.stdin.write(f"{PROMPT}\n".encode())
            _read_to(process, SPEAKS)
            first = last = 0.0
            said = b""
            while not said.endswith(ASKS):
                said += os.read(process.stdout.fileno(), 1 << 16)
                now = time.perf_counter()
                first = first or now
                last = last if said.endswith(ASKS) else now
            process.stdin.write(b"clear\n")
            _read_to(process, ASKS)
            return Measured(first - begun, (tokens[seed] - 1) / (last - first), tokens[seed])

        yield reply


def _read_to(process: Any, end: bytes) -> None:
    said = b""
    while not said.endswith(end):
        new = os.read(process.stdout.fileno(), 1)
        if not new:
            raise ChildProcessError(f"chat_cli ended after {said!r}")
        said += new


@contextmanager
def page(lab: Path, model: str, tokens: dict[int, int]) -> Iterator[Candidate]:
    """The chat page in Chromium, as it stands before its reader. model: its checkpoint as the address names it."""
    import shutil

    from playwright.sync_api import sync_playwright

    from nanochat.benchmarks.app import CHROMIUM, DONE
    from nanochat.benchmarks.app import server as app

    executable = next(filter(None, map(shutil.which, CHROMIUM)), None)
    with app(lab) as address, sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=executable, args=["--no-sandbox", "--disable-gpu"])
        tab = browser.new_page()
        tab.set_default_timeout(1000 * HANG)

        def reply(seed: int) -> Measured:
            settings = {"run": model, "seed": seed, "temperature": SAMPLING.temperature, "top_k": SAMPLING.top_k,
                        "max_tokens": SAMPLING.max_tokens}  # fmt: skip
            tab.goto(f"{address}/chat?" + "&".join(f"chat_{name}={value}" for name, value in settings.items()))
            field = tab.get_by_test_id("stChatInput").locator("textarea")
            field.fill(PROMPT)
            tab.wait_for_function(DONE)
            tab.evaluate(WATCH)
            field.press("Enter")
            tab.get_by_text(re.compile("to the first")).wait_for()
            times = tab.evaluate("window.reply")
            seconds = (times["last"] - times["first"]) / 1000
            if not seconds:
                sys.exit("the page drew a whole reply at once, so it has no speed; take a larger model, as in -g d4")
            return Measured((times["first"] - times["begun"]) / 1000, (tokens[seed] - 1) / seconds, tokens[seed])

        yield reply
        browser.close()
