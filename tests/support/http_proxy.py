"""An HTTP server in front of the real API that does what a script says, request by request."""

import socket
import struct
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

import httpx


@dataclass
class Request:
    """One that arrived."""

    path: str
    headers: dict[str, str]
    body: bytes
    peer: tuple[str, int]


@dataclass
class Answer:
    """What the server says, whole or in part."""

    status: int = 200
    body: bytes = b"{}"
    headers: dict[str, str] = field(default_factory=lambda: {"Content-Type": "application/json"})


Deed = Callable[["Exchange"], None]


class Exchange(BaseHTTPRequestHandler):
    """One request and what becomes of it."""

    protocol_version = "HTTP/1.1"
    server: "Server"

    def do_POST(self) -> None:
        """Do what the script says next; without one, what the real API would."""
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        host, port = self.client_address[:2]
        self.request_seen = Request(self.path, dict(self.headers.items()), body, (str(host), port))
        proxy = self.server.proxy
        proxy.seen.append(self.request_seen)
        deed = proxy.script.popleft() if proxy.script else through
        deed(self)

    def real(self) -> Answer:
        """Have the real API do it, and return its answer."""
        headers = {
            name: value
            for name, value in self.request_seen.headers.items()
            if name.lower() not in {"host", "connection", "content-length", "accept-encoding"}
        }
        done = self.server.proxy.client.post(
            self.request_seen.path, content=self.request_seen.body, headers=headers
        )
        kind = done.headers.get("Content-Type", "")
        return Answer(done.status_code, done.content, {"Content-Type": kind})

    def say(self, answer: Answer, *, only: int | None = None) -> None:
        """Send an answer; `only` so many bytes of the body that its header promises."""
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body if only is None else answer.body[:only])
        self.wfile.flush()

    def reset(self) -> None:
        """Cut the connection, without a goodbye."""
        self.close_connection = True
        linger = struct.pack("ii", 1, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.connection.close()

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


class Server(ThreadingHTTPServer):
    """The listening socket."""

    daemon_threads = True
    proxy: "Proxy"

    def handle_error(self, *_: Any) -> None:
        """A connection that was cut is no error here."""


class Proxy:
    """Leads to `url`, but for what `script` holds."""

    def __init__(self, url: str) -> None:
        self.script: deque[Deed] = deque()
        self.seen: list[Request] = []
        self.over = threading.Event()
        self.client = httpx.Client(base_url=url, timeout=30)
        self._server = Server(("127.0.0.1", 0), Exchange)
        self._server.proxy = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        self.client.close()


def through(exchange: Exchange) -> None:
    """Do it, and say what the real API says."""
    exchange.say(exchange.real())


def answering(
    status: int, body: bytes = b"", *, kind: str = "application/json", **headers: str
) -> Deed:
    """Answer instead of the real API, which sees nothing of it."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}

    def deed(exchange: Exchange) -> None:
        exchange.say(Answer(status, body, {"Content-Type": kind, **named}))

    return deed


def cut_before(exchange: Exchange) -> None:
    """Cut the connection before anything is done."""
    exchange.reset()


def cut_in_the_body(exchange: Exchange) -> None:
    """Do it, then cut the connection in the middle of the answer."""
    answer = exchange.real()
    exchange.say(answer, only=len(answer.body) // 2)
    exchange.reset()


def never_ending_body(exchange: Exchange) -> None:
    """Do it, say half of the answer, and hold the rest back."""
    answer = exchange.real()
    exchange.say(answer, only=len(answer.body) // 2)
    exchange.server.proxy.over.wait(30)
    exchange.reset()


def truncated(exchange: Exchange) -> None:
    """Do it, and answer with half of the JSON as if that were all."""
    answer = exchange.real()
    exchange.say(Answer(answer.status, answer.body[: len(answer.body) // 2], answer.headers))


def dripping(exchange: Exchange) -> None:
    """Do it, then send the answer byte by byte for as long as somebody listens."""
    answer = exchange.real()
    exchange.say(Answer(answer.status, answer.body + b" " * 10_000_000, answer.headers), only=1)
    try:
        while not exchange.server.proxy.over.wait(0.01):
            exchange.wfile.write(b" ")
            exchange.wfile.flush()
    except OSError:
        exchange.close_connection = True
