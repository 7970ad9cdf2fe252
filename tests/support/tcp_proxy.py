"""A TCP proxy whose connections a test can cut, stall or darken, like a network between servers."""

import socket
import struct
import threading
from contextlib import suppress
from typing import Self
from urllib.parse import urlsplit


class TcpProxy:
    """Listens on 127.0.0.1 and passes bytes on to the server of a URL, whether that runs or not."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._server = (str(parts.hostname), int(parts.port or 0))
        self._flowing = threading.Event()
        self._flowing.set()
        self._open: set[socket.socket] = set()
        self._dark: set[socket.socket] = set()
        self._trigger: bytes | None = None
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        port = self._listener.getsockname()[1]
        self.url = url.replace(f":{parts.port}", f":{port}")
        """The same URL, through the proxy."""
        threading.Thread(target=self._accept, daemon=True).start()

    def stall(self) -> None:
        """Hold back all bytes, in both directions, until `resume`; connections stay open.

        New ones are accepted: like a server that is halted, it acknowledges and never answers.
        """
        self._flowing.clear()

    def stall_at(self, trigger: bytes) -> None:
        """Stall as soon as a client sends these bytes, which do not arrive."""
        self._trigger = trigger

    def darken(self) -> None:
        """Swallow all bytes of the present connections for ever; they stay open, new ones work."""
        with self._lock:
            self._dark |= self._open

    def resume(self) -> None:
        """Pass on the bytes that were held back, and all others."""
        self._flowing.set()

    def cut(self) -> None:
        """Reset every connection at once; new ones are possible."""
        with self._lock:
            for end in self._open:
                with suppress(OSError):
                    # A pending close that discards data sends a reset.
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    end.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        self.resume()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        """Connect one client; return when either side has ended."""
        with client:
            try:
                server = socket.create_connection(self._server, timeout=5)
            except OSError:
                return
            with server:
                server.settimeout(None)
                with self._lock:
                    self._open |= {client, server}
                back = threading.Thread(target=self._pass, args=(server, client), daemon=True)
                back.start()
                self._pass(client, server)
                back.join()
                with self._lock:
                    self._open -= {client, server}
                    self._dark -= {client, server}

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                if self._trigger is not None and self._trigger in data:
                    self._trigger = None
                    self.stall()
                self._flowing.wait()
                if source not in self._dark:
                    sink.sendall(data)
        except OSError:
            pass
        # Either end's failure ends both directions: the databases' clients never half-close.
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
