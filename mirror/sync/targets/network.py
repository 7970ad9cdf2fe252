"""Network: sockets for httpx on which all of a call has one deadline.

httpx limits each wait by itself, so a server that sends a byte now and then is never too late; and
it does not limit how long a name is looked up.
"""

import socket
from collections.abc import Callable, Iterable
from ssl import SSLContext
from typing import Any

import httpcore

from mirror.capture.timeouts import call_within

# Sending a part waits a few times at most.
_PART = 65_536


class Network(httpcore.NetworkBackend):
    """Opens connections; `left` returns the seconds until the deadline of the present call."""

    def __init__(self, left: Callable[[], float]) -> None:
        self._left = left
        self._sockets = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        """Connect to the first address of a host that answers, each within `timeout`."""
        failure: Exception = httpcore.ConnectError(f"{host} has no address")
        for address in self._addresses(host, port):
            try:
                return _Stream(
                    self._sockets.connect_tcp(
                        address,
                        port,
                        _limit(timeout, self._left(), httpcore.ConnectTimeout),
                        local_address,
                        socket_options,
                    ),
                    self._left,
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure

    def _addresses(self, host: str, port: int) -> list[str]:
        try:
            found = call_within(
                self._left(), lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            )
        except TimeoutError:
            raise httpcore.ConnectTimeout(f"no address of {host} in time") from None
        except OSError as error:
            raise httpcore.ConnectError(str(error)) from error
        return [str(address[0]) for *_, address in found]


class _Stream(httpcore.NetworkStream):
    """A connection on which each wait ends at the deadline of the present call."""

    def __init__(self, stream: httpcore.NetworkStream, left: Callable[[], float]) -> None:
        self._stream = stream
        self._left = left

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, _limit(timeout, self._left(), httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        for start in range(0, len(buffer), _PART):
            seconds = _limit(timeout, self._left(), httpcore.WriteTimeout)
            self._stream.write(buffer[start : start + _PART], seconds)

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self,
        ssl_context: SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        seconds = _limit(timeout, self._left(), httpcore.ConnectTimeout)
        return _Stream(self._stream.start_tls(ssl_context, server_hostname, seconds), self._left)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _limit(timeout: float | None, left: float, late: type[Exception]) -> float:
    """Return the shorter of two times; raise `late` if the deadline is over."""
    if left <= 0:
        raise late("no answer in time")
    return left if timeout is None else min(timeout, left)
