"""The server as programs meet it: OpenAI's own client where it is installed, plain HTTP, and everything it refuses."""

import asyncio
import http.client
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import uvicorn

from nanochat import serving
from nanochat.analysis import chat
from nanochat.checkpoint_manager import LoadedModel
from nanochat.engine import Engine
from nanochat.errors import exit_status
from nanochat.generation import EngineError
from nanochat.gpt import GPT
from nanochat.model_queue import ModelQueue
from nanochat.reply import Sampling, Turn, prompt_ids, shared_engine
from nanochat.scripts import serve
from tests.chat_support import ANSWER, QUESTION, loaded, taught

__all__ = ["loaded", "taught"]
HANG = 20.0  # seconds after which something that should have happened counts as never
ASKED = {"model": "sft/tiny", "messages": [{"role": "user", "content": QUESTION}]}
PATH = "/v1/chat/completions"


@pytest.fixture(scope="module")
def served(loaded: LoadedModel) -> serving.Served:
    queue = ModelQueue(at_once=2, waiting=1)
    names = ("sft/tiny@60", "sft/tiny", "tiny")
    return serving.Served(names, shared_engine(loaded, queue), queue, Sampling(max_tokens=60), False, 1_700_000_000)


@pytest.fixture(scope="module")
def port(served: serving.Served) -> Iterator[int]:
    listening = serve._listen(0)
    config = uvicorn.Config(serving.application(served), log_level="critical", access_log=False, lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    wait_until(lambda: server.started)
    yield listening.getsockname()[1]
    server.should_exit = True
    thread.join(HANG)
    listening.close()


def wait_until(condition, patience: float = HANG) -> float:
    """Seconds that it took."""
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() - begun < patience, "it never came to this"
        time.sleep(0.01)
    return time.monotonic() - begun


def call(port: int, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=HANG)
    raw = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    connection.request(method, path, raw, headers)
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    kind = answer.headers.get("content-type", "")
    return answer.status, json.loads(text) if kind.startswith("application/json") else text.decode()


def endless(text: str = "ab ") -> Any:
    """A model that writes until nobody wants it, slowly enough to be looked at."""

    def generate(self: Engine, tokens: list[int], *_, **__) -> Iterator[tuple[list[int], list[int]]]:
        while True:
            for token in self.tokenizer.encode(text):
                time.sleep(0.005)
                yield [token], [1]

    return generate


def test_a_reply_is_the_engines(port: int, served: serving.Served) -> None:
    status, answer = call(port, "POST", PATH, {**ASKED, "seed": 3, "temperature": 0.9, "top_k": 20})
    prompt = prompt_ids(served.engine.tokenizer, [Turn("user", QUESTION)])
    (row,), _ = served.engine.generate_batch(prompt, max_tokens=60, temperature=0.9, top_k=20, seed=3)
    assert status == 200
    message = answer["choices"][0]["message"]
    assert message["content"].endswith(ANSWER)
    assert answer["nanochat"]["seed"] == 3
    assert [part["type"] for part in answer["nanochat"]["parts"]] == ["text", "python", "python_output", "text"]
    assert answer["usage"]["prompt_tokens"] == len(prompt)
    assert answer["usage"]["completion_tokens"] == len(row) - len(prompt)
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert call(port, "POST", PATH, {**ASKED, "max_tokens": 3})[1]["choices"][0]["finish_reason"] == "length"
    stopped = call(port, "POST", PATH, {**ASKED, "stop": ["is 7"]})[1]["choices"][0]
    assert (stopped["message"]["content"], stopped["finish_reason"]) == ("Let me see. It ", "stop")


def test_the_next_request_of_a_conversation_is_read_from_where_the_last_one_ended(
    port: int, served: serving.Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    real = GPT.hidden

    def hidden(self: GPT, ids: torch.Tensor, *more: Any, **named: Any) -> torch.Tensor:
        read.append(ids.size(1))
        return real(self, ids, *more, **named)

    asked: Any = {**ASKED, "messages": [{"role": "user", "content": "Hi you"}], "seed": 1, "max_tokens": 9}
    first = call(port, "POST", PATH, asked)[1]
    wait_until(lambda: served.queue.seated == 0)
    said = [*asked["messages"], {"role": "assistant", "content": first["choices"][0]["message"]["content"]}]
    more = {**asked, "messages": [*said, {"role": "user", "content": "on"}]}
    monkeypatch.setattr(GPT, "hidden", hidden)
    second = call(port, "POST", PATH, more)[1]
    assert read[0] <= second["usage"]["prompt_tokens"] - first["usage"]["prompt_tokens"]
    turns = [Turn(one["role"], one["content"]) for one in more["messages"]]
    prompt = prompt_ids(served.engine.tokenizer, turns)
    (row,), _ = served.engine.generate_batch(prompt, max_tokens=9, temperature=0.6, top_k=50, seed=1)
    assert second["usage"]["completion_tokens"] == len(row) - len(prompt)
    assert second["choices"][0]["message"]["content"] in served.engine.tokenizer.decode(row[len(prompt) :])


def test_a_stream_says_the_same_in_pieces(port: int) -> None:
    status, text = call(port, "POST", PATH, {**ASKED, "stream": True, "stream_options": {"include_usage": True}})
    events = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    assert (status, events[-1]) == (200, "[DONE]")
    chunks = [json.loads(event) for event in events[:-1]]
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    content = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks[:-1])
    assert content.endswith(ANSWER)
    assert chunks[-2]["choices"][0]["finish_reason"] == "stop"
    assert chunks[-1]["usage"]["completion_tokens"] == 26


def test_models_and_health(port: int) -> None:
    assert call(port, "GET", "/v1/models")[1]["data"][0]["id"] == "sft/tiny@60"
    assert call(port, "GET", "/v1/models/sft/tiny")[1]["id"] == "sft/tiny@60"
    assert call(port, "GET", "/v1/models/gpt-4")[1]["error"]["code"] == "model_not_found"
    assert call(port, "GET", "/health")[1]["status"] == "ok"


def test_only_this_machine_may_ask(port: int) -> None:
    for host in ("evil.example", "localhost.evil.example", "127.0.0.1@evil.example", "[::2]", ""):
        status, answer = call(port, "GET", "/v1/models", Host=host)
        assert (status, answer["error"]["code"]) == (403, "not_from_here"), host
    for origin in ("http://evil.example", "null", "https://localhost.evil.example", "file://"):
        assert call(port, "POST", PATH, ASKED, Origin=origin)[0] == 403, origin
    for host in ("localhost", f"127.0.0.1:{port}", "[::1]:80"):
        assert call(port, "GET", "/health", Host=host, Origin="http://localhost:3000")[0] == 200, host


REFUSED: list[tuple[Any, int, str | None]] = [
    (b"{", 400, None),
    (b"[" * 100_000, 400, None),
    (b"\xff\xfe", 400, None),
    ([], 400, None),
    ({"messages": ASKED["messages"]}, 400, "model"),
    ({**ASKED, "model": "gpt-4"}, 404, "model"),
    ({**ASKED, "messages": []}, 400, "messages"),
    ({**ASKED, "temperature": 10**400}, 400, "temperature"),
    ({**ASKED, "top_p": float("inf")}, 400, "top_p"),
    ({**ASKED, "\ud800": 1}, 400, "?"),
    ({**ASKED, "messages": [{"role": "user"}]}, 400, "messages[0]"),
    ({**ASKED, "messages": [{"role": "user", "content": ""}]}, 400, "messages[0]"),
    ({**ASKED, "messages": [{"role": "user", "content": "\ud800"}]}, 400, "messages[0]"),
    ({**ASKED, "messages": [{"role": "tool", "content": "x"}]}, 400, "messages[0]"),
    ({**ASKED, "messages": [{"role": "system", "content": "x"}]}, 400, "messages[0]"),
    ({**ASKED, "messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "messages[0].content"),
    ({**ASKED, "messages": ASKED["messages"] * 2}, 400, "messages[1]"),
    ({**ASKED, "messages": [*ASKED["messages"], {"role": "assistant", "content": "x"}]}, 400, "messages"),
    ({**ASKED, "messages": [{"role": "user", "content": "x y " * 100}]}, 400, "messages"),
    ({**ASKED, "messages": [{"role": "user", "content": "x" * 1_000_000}]}, 400, "messages"),
    ({**ASKED, "temperature": "hot"}, 400, "temperature"),
    ({**ASKED, "temperature": 3}, 400, "temperature"),
    (b'{"model": "tiny", "messages": [{"role": "user", "content": "x"}], "top_p": NaN}', 400, "top_p"),
    ({**ASKED, "top_p": 0}, 400, None),
    ({**ASKED, "max_tokens": 0}, 400, "max_tokens"),
    ({**ASKED, "seed": 2**70}, 400, "seed"),
    ({**ASKED, "stop": ["a"] * 5}, 400, "stop"),
    ({**ASKED, "stop": ""}, 400, "stop"),
    ({**ASKED, "stream": "yes"}, 400, "stream"),
    ({**ASKED, "n": 2}, 400, "n"),
    ({**ASKED, "tools": [{"type": "function"}]}, 400, "tools"),
    ({**ASKED, "temprature": 1}, 400, "temprature"),
    (b" " * (5 * 2**20), 413, None),
]


@pytest.mark.parametrize("case", range(len(REFUSED)))
def test_what_cannot_be_is_an_error_of_the_api(port: int, case: int) -> None:
    body, status, param = REFUSED[case]
    found, answer = call(port, "POST", PATH, body)
    assert (found, answer["error"]["param"]) == (status, param), answer
    assert answer["error"]["type"] == "invalid_request_error"
    assert "\n" not in answer["error"]["message"]


def test_paths_and_methods_that_are_not_there(port: int) -> None:
    assert call(port, "GET", "/v1/completions")[0] == 404
    assert call(port, "GET", PATH)[1]["error"]["type"] == "invalid_request_error"


def test_a_client_that_goes_away_frees_its_seat_and_others_are_told_busy(
    port: int, served: serving.Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Engine, "generate", endless())
    connections = []
    for stream in (True, False, True):  # two write, one waits
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=HANG)
        connection.request("POST", PATH, json.dumps({**ASKED, "stream": stream}))
        connections.append(connection)
        wait_until(lambda: served.queue.seated + len(served.queue._line) == len(connections))
    status, answer = call(port, "POST", PATH, ASKED)
    assert (status, answer["error"]["code"]) == (503, "busy")
    for connection in reversed(connections):
        connection.close()
    assert wait_until(lambda: served.queue.seated == 0 and not served.queue._line) < 10


def test_a_client_that_goes_away_in_the_middle_of_its_body_is_no_failure(served: serving.Served) -> None:
    news = iter([{"type": "http.request", "body": b'{"model": ', "more_body": True}, {"type": "http.disconnect"}])
    sent: list[Any] = []

    async def receive() -> Any:
        return next(news)

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": PATH, "query_string": b"", "headers": [(b"host", b"localhost")]}
    asyncio.run(serving.application(served)(scope, receive, send))  # what fails is raised, for the log
    assert sent[0]["status"] == 499


def test_a_model_that_gives_no_numbers(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(after: int) -> Any:
        def generate(*_, **__) -> Iterator[tuple[list[int], list[int]]]:
            for _ in range(after):
                yield [65], [1]
            raise EngineError("the model's logits are not numbers (NaN)")

        return generate

    monkeypatch.setattr(Engine, "generate", broken(0))
    status, answer = call(port, "POST", PATH, {**ASKED, "stream": True})
    assert (status, answer["error"]["type"]) == (500, "server_error")
    monkeypatch.setattr(Engine, "generate", broken(2))
    status, text = call(port, "POST", PATH, {**ASKED, "stream": True})
    assert status == 200
    assert "not numbers" in json.loads(text.strip().rpartition("\n")[2].removeprefix("data: "))["error"]["message"]


def test_openais_own_client(port: int, served: serving.Served, monkeypatch: pytest.MonkeyPatch) -> None:
    openai = pytest.importorskip("openai", reason="OpenAI's client is not installed: pip install openai")
    with openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0, timeout=HANG) as client:
        asked: Any = {**ASKED, "model": client.models.list().data[0].id}
        whole = client.chat.completions.create(**asked)
        assert whole.choices[0].message.content.endswith(ANSWER)
        pieces = client.chat.completions.create(**asked, stream=True)
        text = "".join(piece.choices[0].delta.content or "" for piece in pieces)
        assert text == whole.choices[0].message.content
        for wrong, kind in (({"model": "gpt-4"}, openai.NotFoundError), ({"temperature": 9}, openai.BadRequestError)):
            with pytest.raises(kind):
                client.chat.completions.create(**{**asked, **wrong})
        monkeypatch.setattr(Engine, "generate", endless())
        stream = client.chat.completions.create(**asked, stream=True)
        next(iter(stream))
        stream.close()
        assert wait_until(lambda: served.queue.seated == 0) < 10
        streams = [client.chat.completions.create(**asked, stream=True) for _ in range(2)]
        held = threading.Thread(target=lambda: client.chat.completions.create(**asked, stream=True).close())
        held.start()
        wait_until(lambda: len(served.queue._line) == 1)
        with pytest.raises(openai.InternalServerError, match="busy"):
            client.chat.completions.create(**asked)
        for stream in streams:
            stream.close()
        held.join(HANG)
        wait_until(lambda: served.queue.seated == 0)


def test_the_command_says_what_keeps_it_from_starting(
    taught: Path, port: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def said(*flags: str) -> str:
        assert exit_status("serve", lambda: serve.main(["--base-dir", str(taught), *flags])) == 1
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1
        return lines[0]

    assert "take another with --port" in said("--port", str(port))
    assert "port 70000 does not exist" in said("--port", "70000")
    assert "--at-once 0" in said("--at-once", "0")
    assert "no rl" in said("--port", "0", "-i", "rl").lower()
    monkeypatch.setattr(chat, "memory", lambda *_: chat.Memory(2_300_000_000, 1_100_000_000))
    assert "it needs 2.3 GB, 1.1 GB free; close something" in said("--port", "0")
