"""A server on loopback that can serve well and badly, and records what it was asked."""

import contextlib
import hashlib
import re
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Answer = Callable[["Request"], None]


@dataclass
class Server:
    """What the server has and how it answers. An answer is taken from `answers` while there are any, then `usual`."""

    files: dict[str, bytes] = field(default_factory=dict)  # path -> content
    answers: deque[Answer] = field(default_factory=deque)
    usual: Answer = field(default_factory=lambda: serve())
    asked: list[tuple[str, str | None, str | None]] = field(default_factory=list)  # path, Range, If-Range
    url: str = ""


@dataclass
class Request:
    """One request, and the means to answer it."""

    handler: BaseHTTPRequestHandler
    content: bytes
    server: Server

    def head(self, status: int, **headers: object) -> None:
        self.handler.send_response(status)
        for name, value in headers.items():
            if value is not None:
                self.handler.send_header(name.replace("_", "-"), str(value))
        self.handler.end_headers()

    def body(self, data: bytes) -> None:
        self.handler.wfile.write(data)

    def hang_up(self) -> None:
        self.handler.close_connection = True
        with contextlib.suppress(OSError):
            self.handler.wfile.flush()
            self.handler.connection.shutdown(2)


def etag_of(content: bytes) -> str:
    return f'"{hashlib.md5(content).hexdigest()}"'


def serve(
    *,
    content: bytes | None = None,
    etag: str | None = "",
    ranges: bool = True,
    if_range: bool = True,
    length: int | None = 0,
    upto: int | None = None,
    offset: int = 0,
    **headers: object,
) -> Answer:
    """A 200 or 206 answer. By default all of it is right.

    content: other bytes than the file's. etag: None for none, "" for the right one. ranges, if_range: whether the
    request's headers are respected. length: added to Content-Length; None for no such header. upto: hang up after so
    many bytes of the body. offset: a partial answer begins so many bytes later than it says.
    """

    def answer(request: Request) -> None:
        whole = request.content if content is None else content
        tag = etag_of(whole) if etag == "" else etag
        asked = re.fullmatch(r"bytes=(\d+)-", request.handler.headers.get("Range", ""))
        matches = not if_range or request.handler.headers.get("If-Range") in (None, tag)
        more = dict(headers)
        if tag is not None:
            more["ETag"] = tag
        if asked and ranges and matches:
            start = int(asked[1])
            if start >= len(whole):
                request.head(416, Content_Range=f"bytes */{len(whole)}", Content_Length=0)
                return
            part = whole[start + offset :] + b"?" * offset
            size = None if length is None else len(part) + length
            stated = f"bytes {start}-{len(whole) - 1}/{len(whole)}"
            request.head(206, Content_Range=stated, Content_Length=size, **more)
        else:
            part = whole
            request.head(200, Content_Length=None if length is None else max(len(part) + length, 0), **more)
        request.body(part if upto is None else part[:upto])
        if upto is not None or length != 0:
            request.hang_up()

    return answer


def status(code: int, **headers: object) -> Answer:
    """An answer without the file."""
    return lambda request: request.head(code, Content_Length=0, **headers)


def chunked(upto: int | None = None) -> Answer:
    """The file in chunks, without a length; `upto` hangs up after so many bytes."""

    def answer(request: Request) -> None:
        request.head(200, Transfer_Encoding="chunked")
        part = request.content[:upto]
        request.body(b"%x\r\n%s\r\n" % (len(part), part))
        if upto is None:
            request.body(b"0\r\n\r\n")
        else:
            request.hang_up()

    return answer


def redirect(to: str, linked: bytes, size: int | None = None, sha256: str | None = None) -> Answer:
    """As Hugging Face does: to where the file is, with its size and digest."""
    digest = hashlib.sha256(linked).hexdigest() if sha256 is None else sha256
    return lambda request: request.head(
        302,
        Location=f"{request.server.url}/{to}",
        X_Linked_ETag=f'"{digest}"',
        X_Linked_Size=len(linked) if size is None else size,
        Content_Length=0,
    )


@contextlib.contextmanager
def loopback(**files: bytes) -> Iterator[Server]:
    """A running server with some files; a name's double underscore stands for its dot."""
    server = Server({f"/{name.replace('__', '.')}": content for name, content in files.items()})

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            server.asked.append((self.path, self.headers.get("Range"), self.headers.get("If-Range")))
            content = server.files.get(self.path.partition("?")[0])
            if content is None:
                answer = status(404)
            else:
                answer = server.answers.popleft() if server.answers else server.usual
            with contextlib.suppress(ConnectionError):
                answer(Request(self, content or b"", server))

        def log_message(self, *_: object) -> None:
            """Quiet."""

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            """A client that hangs up is part of the tests."""

    httpd = Quiet(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, args=(0.01,))
    thread.start()
    server.url = f"http://127.0.0.1:{httpd.server_port}"
    try:
        yield server
    finally:
        httpd.shutdown()
        thread.join()
        httpd.server_close()
