"""A trained model behind OpenAI's chat API: an ASGI application that `nanochat serve` runs on loopback.

    POST /v1/chat/completions    a reply, whole or as server-sent events
    GET  /v1/models              the one model that is served
    GET  /health                 whether it lives, and how many write and wait

Each completion is written in a thread of its own, in turns with the others (model_queue.py); its keys, values and
random numbers are its own. A request that goes on with an earlier one is read from where that one ended
(kept_cache.py). A client that goes away frees its seat with the next token. Any web page can post to loopback, so the
Host must be this machine's name for itself, and an Origin, which only browsers send, too.
"""

import asyncio
import json
import logging
import secrets
import threading
import time
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from nanochat.errors import is_message
from nanochat.kept_cache import Shelf
from nanochat.model_queue import BusyError, ModelQueue
from nanochat.reply import Reply, Sampling, prompt_ids
from nanochat.serving_requests import MAX_BODY, ApiError, ChatRequest, StopText, parse_request

if TYPE_CHECKING:
    from nanochat.engine import Engine

TOGETHER = 0.02  # seconds: faster tokens share an event, since waking the event loop costs the model time
LOOPBACK = ("localhost", "127.0.0.1", "::1")
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Served:
    """The model that is served, and how."""

    names: tuple[str, ...]  # what a client may call it; the first is its id
    engine: "Engine"
    queue: ModelQueue
    defaults: Sampling  # what a request leaves open
    continuation: bool  # the model has seen no conversation: it continues text
    created: int  # seconds since 1970
    shelf: Shelf = field(default_factory=lambda: Shelf(owns=True))  # conversations between two of their requests


def application(served: Served) -> Any:
    """The ASGI application, with the check of Host and Origin around it."""

    async def health(_: Request) -> Response:
        queue = served.queue
        return JSONResponse(
            {"status": "ok", "model": served.names[0], "writing": queue.seated, "at_once": queue.at_once}
        )

    async def models(_: Request) -> Response:
        return JSONResponse({"object": "list", "data": [_model(served)]})

    async def one_model(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in served.names:
            wrong = f"the model {name[:80]!r} is not served here; use {served.names[0]!r}"
            raise ApiError(404, wrong, param="model", code="model_not_found")
        return JSONResponse(_model(served))

    async def completions(request: Request) -> Response:
        body = await _body(request)
        seed = secrets.randbelow(2**31)  # as the API has it: another reply each time, unless a seed is named
        return await _complete(served, parse_request(body, served.names, served.defaults, seed), request)

    routes = [
        Route("/health", health),
        Route("/v1/models", models),
        Route("/v1/models/{name:path}", one_model),
        Route("/v1/chat/completions", completions, methods=["POST"]),
    ]
    handlers: Any = {ApiError: _refused, HTTPException: _not_found, Exception: _failed}
    return _only_from_here(Starlette(routes=routes, exception_handlers=handlers))


def _model(served: Served) -> dict[str, Any]:
    return {"id": served.names[0], "object": "model", "created": served.created, "owned_by": "nanochat"}


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    headers = {"Retry-After": "1"} if error.status == 503 else None
    return JSONResponse(error.body, error.status, headers)


async def _not_found(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    words = f"{request.method} {request.url.path[:80]}: {error.detail}; there are /v1/chat/completions, /v1/models"
    return await _refused(request, ApiError(error.status_code, f"{words} and /health"))


async def _failed(request: Request, error: Exception) -> Response:
    return await _refused(request, ApiError(500, "the server failed; its log says why"))  # starlette logs it


def _as_api_error(error: BaseException) -> ApiError:
    """Any failure of a completion as the API writes it. A bug goes to the log and keeps its text there."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, BusyError):
        return ApiError(503, str(error), code="busy")
    if is_message(error):
        ours = type(error).__name__ == "KernelInputError"  # a setting that the sampler refuses: the client's
        return ApiError(400 if ours else 500, str(error))
    logger.error("A completion failed", exc_info=error)
    return ApiError(500, "the server failed; its log says why")


async def _body(request: Request) -> bytes:
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_BODY:
                raise ApiError(413, f"the body is longer than {MAX_BODY:,} bytes; shorten the conversation")
    except ClientDisconnect:
        raise ApiError(499, "the client has gone") from None  # nobody reads it
    return bytes(body)


class _Writing:
    """One completion, written in a thread; the event loop reads what is new."""

    def __init__(self, served: Served, request: ChatRequest) -> None:
        self.reply = Reply()
        self.stopped_by_text = False
        self.prompt_tokens = 0
        self._served, self._request = served, request
        self._unwanted = threading.Event()
        self._loop = asyncio.get_running_loop()
        self._news: asyncio.Queue[str | BaseException | None] = asyncio.Queue()
        threading.Thread(target=self._run, name="nanochat-completion", daemon=True).start()

    async def next(self) -> str | None:
        """Text that is new, None at the end. Raises ApiError."""
        news = await self._news.get()
        if isinstance(news, BaseException):
            raise _as_api_error(news)
        return news

    def give_up(self) -> None:
        """Nobody reads any more: the thread ends with its next token and frees its seat."""
        self._unwanted.set()

    def _tell(self, news: str | BaseException | None) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._news.put_nowait, news)

    def _run(self) -> None:
        try:
            self._write()
        except BaseException as error:  # noqa: BLE001 - it is handed to whoever waits for the reply
            self._tell(error)
        else:
            self._tell(None)

    def _wanted(self, _: int = 0) -> None:
        if self._unwanted.is_set():
            raise ApiError(499, "the client has gone")

    def _write(self) -> None:
        served, request = self._served, self._request
        engine = served.engine
        prompt, context = _prompt(served, request), engine.model.config.sequence_len
        self.prompt_tokens = len(prompt)
        if len(prompt) >= context:
            raise ApiError(
                400,
                f"the messages have {len(prompt):,} tokens and the model's context holds {context:,}, the reply "
                "included; shorten them",
                param="messages",
                code="context_length_exceeded",
            )
        stop, ready, told = StopText(request.stops), "", 0.0
        with served.queue.seat(self._wanted):
            kept = served.shelf.continued_by(prompt)
            pieces = self.reply.write(engine, prompt, request.sampling, served.queue, kept)
            with closing(pieces):
                for piece in pieces:
                    self._wanted()
                    ready += stop.push(piece.text) if piece.kind == "text" else ""
                    now = time.perf_counter()
                    if ready and (now - told > TOGETHER or piece.kind != "text"):  # a tool may take long: say it now
                        self._tell(ready)
                        ready, told = "", now
                    if stop.found:
                        break
        self.stopped_by_text = stop.found
        ready += stop.finish()
        if ready:
            self._tell(ready)

    def ending(self) -> str:
        """The API's word for why it ended."""
        return "stop" if self.stopped_by_text or self.reply.reason == "end" else "length"

    def usage(self) -> dict[str, int]:
        """Tokens of prompt and reply."""
        prompt, reply = self.prompt_tokens, len(self.reply.ids)
        return {"prompt_tokens": prompt, "completion_tokens": reply, "total_tokens": prompt + reply}

    def extra(self) -> dict[str, Any]:
        """What the API has no field for: the seed, tool calls as parts, how fast it was."""
        reply = self.reply
        return {
            "seed": self._request.sampling.seed,
            "parts": reply.parts,
            "seconds_to_first": reply.seconds_to_first,
            "tokens_per_second": reply.tokens_per_second,
        }


def _prompt(served: Served, request: ChatRequest) -> list[int]:
    """The tokens of the request. A text that is certainly too long is refused before it is encoded."""
    tokenizer, context = served.engine.tokenizer, served.engine.model.config.sequence_len
    letters = sum(len(turn.text) for turn in request.turns) + len(request.system)
    if letters > context * max(tokenizer.token_bytes()):
        raise ApiError(
            400,
            f"the messages have {letters:,} characters, more than the model's context of {context:,} tokens can hold; "
            "shorten them",
            param="messages",
            code="context_length_exceeded",
        )
    system = "" if served.continuation else request.system
    return prompt_ids(tokenizer, request.turns, system, continuation=served.continuation)


async def _complete(served: Served, asked: ChatRequest, request: Request) -> Response:
    """Begin to write; answer as a whole or in a stream. What fails before the first word is a status."""
    writing = _Writing(served, asked)
    head = {"id": f"chatcmpl-{secrets.token_hex(12)}", "created": int(time.time()), "model": served.names[0]}
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        words: list[str] = []
        while True:
            news = asyncio.ensure_future(writing.next())
            await asyncio.wait({news, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not news.done():
                news.cancel()
                writing.give_up()
                return Response(status_code=499)  # nobody reads it
            text = news.result()
            if asked.stream:
                gone.cancel()
                stream = _events(writing, head, text, asked.usage)
                return StreamingResponse(stream, media_type="text/event-stream", headers={"Cache-Control": "no-store"})
            if text is None:
                return JSONResponse(_whole(writing, head, "".join(words)))
            words.append(text)
    except BaseException:
        writing.give_up()
        raise
    finally:
        gone.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _whole(writing: _Writing, head: dict[str, Any], text: str) -> dict[str, Any]:
    message = {"role": "assistant", "content": text, "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": writing.ending()}
    answer = {**head, "object": "chat.completion", "choices": [choice], "usage": writing.usage()}
    return {**answer, "nanochat": writing.extra()}


async def _events(writing: _Writing, head: dict[str, Any], text: str | None, usage: bool) -> AsyncIterator[str]:
    """The stream: a chunk for the role, one for each text, one for the end, figures if asked for, [DONE]."""
    head = {**head, "object": "chat.completion.chunk"}

    def chunk(delta: dict[str, str], ending: str | None = None, **more: Any) -> str:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": ending}
        return _event({**head, "choices": [choice], **more})

    try:
        yield chunk({"role": "assistant", "content": ""})
        while text is not None:
            yield chunk({"content": text})
            text = await writing.next()
        yield chunk({}, writing.ending(), nanochat=writing.extra())
        if usage:
            yield _event({**head, "choices": [], "usage": writing.usage()})
        yield "data: [DONE]\n\n"
    except ApiError as error:
        yield _event(error.body)
    finally:
        writing.give_up()


def _event(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value)}\n\n"


def _only_from_here(app: Any) -> Any:
    """The application, for this machine's own names alone: whatever a web page elsewhere sends is refused."""

    async def guarded(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        problem = _foreign(scope["headers"])
        if problem is None:
            await app(scope, receive, send)
            return
        refusal = ApiError(403, problem, code="not_from_here")
        await JSONResponse(refusal.body, refusal.status)(scope, receive, send)

    return guarded


def _foreign(headers: list[tuple[bytes, bytes]]) -> str | None:
    """What is wrong with the Host and the Origin of a request; None where it comes from this machine."""
    hosts = [value.decode("latin-1") for name, value in headers if name == b"host"]
    origins = [value.decode("latin-1") for name, value in headers if name == b"origin"]
    if len(hosts) != 1 or _host_of(f"http://{hosts[0]}") not in LOOPBACK:
        return f"this server answers to {', '.join(LOOPBACK)} alone; use http://127.0.0.1"
    if any(_host_of(origin) not in LOOPBACK for origin in origins):
        return "a web page of another origin may not use this server; call it from this machine"
    return None


def _host_of(address: str) -> str | None:
    try:
        parts = urlsplit(address)
        return parts.hostname if parts.scheme in ("http", "https") and "@" not in parts.netloc else None
    except ValueError:
        return None
