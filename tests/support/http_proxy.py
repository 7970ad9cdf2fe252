"""An HTTP server in front of the real API. A script says how it answers each request."""

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
    """A request that arrived."""

    path: str
    headers: dict[str, str]
    body: bytes
    peer: tuple[str, int]


@dataclass
class Answer:
    """The server's answer, sent whole or in part."""

    status: int = 200
    body: bytes = b"{}"
    headers: dict[str, str] = field(default_factory=lambda: {"Content-Type": "application/json"})


Action = Callable[["Exchange"], None]


class Exchange(BaseHTTPRequestHandler):
    """One request and the server's reaction to it."""

    protocol_version = "HTTP/1.1"
    server: "Server"

    def do_POST(self) -> None:
        """Take the next action of the script, or else pass the request through."""
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        host, port = self.client_address[:2]
        self.request_seen = Request(self.path, dict(self.headers.items()), body, (str(host), port))
        proxy = self.server.proxy
        proxy.seen.append(self.request_seen)
        try:
            action = proxy.script.popleft()
        except IndexError:
            action = pass_through
        action(self)

    def forward(self) -> Answer:
        """Send the request to the real API, and return its answer."""
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

    def send(self, answer: Answer, *, only: int | None = None) -> None:
        """Send an answer; if `only` is given, just that many bytes of its body."""
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body if only is None else answer.body[:only])
        self.wfile.flush()

    def reset(self) -> None:
        """Reset the connection at once."""
        self.close_connection = True
        linger = struct.pack("ii", 1, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.connection.close()

    def log_message(self, *_: Any) -> None:
        """Log nothing."""


class Server(ThreadingHTTPServer):
    """The listening socket."""

    daemon_threads = True
    proxy: "Proxy"

    def handle_error(self, *_: Any) -> None:
        """Ignore errors: a connection that was cut is no error here."""


class Proxy:
    """Answers a request by the next action in `script`; if there is none, passes it on to `url`."""

    def __init__(self, url: str) -> None:
        self.script: deque[Action] = deque()
        self.seen: list[Request] = []
        self.closing = threading.Event()
        self.client = httpx.Client(base_url=url, timeout=30)
        self._server = Server(("127.0.0.1", 0), Exchange)
        self._server.proxy = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    @property
    def url(self) -> str:
        """The URL at which it listens."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        self.client.close()


def pass_through(exchange: Exchange) -> None:
    """Do the call, and send the real API's answer."""
    exchange.send(exchange.forward())


def answering(
    status: int, body: bytes = b"", *, kind: str = "application/json", **headers: str
) -> Action:
    """Return an action that answers in place of the real API, which does not get the request."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}

    def action(exchange: Exchange) -> None:
        exchange.send(Answer(status, body, {"Content-Type": kind, **named}))

    return action


def sending(answer: bytes) -> Action:
    """Return an action that sends these bytes, which need not be an HTTP answer, and hangs up."""

    def action(exchange: Exchange) -> None:
        exchange.wfile.write(answer)
        exchange.wfile.flush()
        exchange.close_connection = True

    return action


def cut_before(exchange: Exchange) -> None:
    """Cut the connection; the real API does not get the request."""
    exchange.reset()


def cut_in_the_body(exchange: Exchange) -> None:
    """Do the call, then cut the connection in the middle of the answer."""
    answer = exchange.forward()
    exchange.send(answer, only=len(answer.body) // 2)
    exchange.reset()


def never_ending_body(exchange: Exchange) -> None:
    """Do the call, send half of the answer, and never send the rest."""
    answer = exchange.forward()
    exchange.send(answer, only=len(answer.body) // 2)
    exchange.server.proxy.closing.wait(30)
    exchange.reset()


def truncated(exchange: Exchange) -> None:
    """Do the call, and send half of the answer's body as if it were the whole body."""
    answer = exchange.forward()
    exchange.send(Answer(answer.status, answer.body[: len(answer.body) // 2], answer.headers))


def dripping(exchange: Exchange) -> None:
    """Do the call, then send the answer byte by byte until the client disconnects."""
    answer = exchange.forward()
    exchange.send(Answer(answer.status, answer.body + b" " * 10_000_000, answer.headers), only=1)
    try:
        while not exchange.server.proxy.closing.wait(0.01):
            exchange.wfile.write(b" ")
            exchange.wfile.flush()
    except OSError:
        exchange.close_connection = True
