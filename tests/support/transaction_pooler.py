"""A transaction pooler that keeps no state of a session from one transaction to the next.

A client gets a server connection for one transaction, and another one for the next. So the state
of a session (prepared statements, SET, session locks, LISTEN) is lost, as it may be with the
poolers of Neon and Supabase. libpq
opens the server connections, because it can authenticate; after that, bytes pass unchanged.
"""

import itertools
import os
import socket
import struct
import threading
from queue import Queue
from typing import Any, Self

import psycopg

_SSL_REQUEST = 80877103
_CANCEL_REQUEST = 80877102


class TransactionPooler:
    """Listens on 127.0.0.1; `url` leads through it to the database that it was given."""

    def __init__(self, url: str, *, size: int = 6) -> None:
        self._servers: Queue[_Server] = Queue()
        for _ in range(size):
            self._servers.put(_Server(url))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.url = f"postgresql://someone:through@127.0.0.1:{self.port}/{url.rpartition('/')[2]}"
        self.transactions = itertools.count(1)
        self.served = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        while not self._servers.empty():
            self._servers.get().close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client:
            try:
                self._start_up(client)
                while self._one_transaction(client):
                    self.served = next(self.transactions)
            except (OSError, EOFError):
                return

    @staticmethod
    def _start_up(client: socket.socket) -> None:
        """Answer a client's start-up messages without authentication."""
        while True:
            (length,) = struct.unpack("!i", _exactly(client, 4))
            (code,) = struct.unpack("!i", _exactly(client, length - 4)[:4])
            if code == _CANCEL_REQUEST:
                raise EOFError
            if code != _SSL_REQUEST:
                break
            client.sendall(b"N")
        reported = {
            "server_version": "16.0",
            "client_encoding": "UTF8",
            "server_encoding": "UTF8",
            "standard_conforming_strings": "on",
            "integer_datetimes": "on",
            "DateStyle": "ISO, MDY",
            "TimeZone": "UTC",
        }
        client.sendall(_message(b"R", struct.pack("!i", 0)))
        for name, value in reported.items():
            client.sendall(_message(b"S", f"{name}\0{value}\0".encode()))
        client.sendall(_message(b"K", struct.pack("!ii", 0, 0)) + _message(b"Z", b"I"))

    def _one_transaction(self, client: socket.socket) -> bool:
        """Forward one transaction's messages; return False when the client ends."""
        kind, message = _read(client)
        if kind == b"X":
            return False
        server = self._servers.get()
        try:
            while True:
                server.socket.sendall(message)
                # A server answers in full when the client asks with Query or Sync.
                if kind in {b"Q", b"S"} and self._answer(server, client) == b"I":
                    return True
                kind, message = _read(client)
                if kind == b"X":
                    server.reset()
                    return False
        except BaseException:
            server.reset()
            raise
        finally:
            # At the end of the queue, so that the next transaction gets another connection.
            self._servers.put(server)

    @staticmethod
    def _answer(server: "_Server", client: socket.socket) -> bytes:
        """Forward one whole answer; return the transaction's state in the protocol (`I`: idle)."""
        while True:
            kind, message = _read(server.socket)
            client.sendall(message)
            if kind == b"Z":
                return message[-1:]


class _Server:
    def __init__(self, url: str) -> None:
        self._url = url
        self._open()

    def _open(self) -> None:
        self.connection: psycopg.Connection[Any] = psycopg.connect(self._url, autocommit=True)
        self.socket = socket.socket(fileno=os.dup(self.connection.fileno()))
        self.socket.setblocking(True)

    def reset(self) -> None:
        """Replace a connection that was left in the middle of a transaction."""
        self.close()
        self._open()

    def close(self) -> None:
        self.socket.close()
        self.connection.close()


def _message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!i", len(body) + 4) + body


def _read(stream: socket.socket) -> tuple[bytes, bytes]:
    """Return a message's type and the whole message."""
    head = _exactly(stream, 5)
    (length,) = struct.unpack("!i", head[1:])
    return head[:1], head + _exactly(stream, length - 4)


def _exactly(stream: socket.socket, count: int) -> bytes:
    parts = []
    while count:
        part = stream.recv(count)
        if not part:
            raise EOFError
        parts.append(part)
        count -= len(part)
    return b"".join(parts)
