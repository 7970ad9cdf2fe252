"""Http: a client that limits time and size, and waits when a server is busy."""

import itertools
import logging
import re
import ssl
import time
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache
from random import SystemRandom
from typing import TypeVar

import httpx

from mirror import __version__
from mirror.errors import ConfigError, TooLarge, Transient, Unreachable
from mirror.errors.redaction import redact
from mirror.sync.targets.network import Network

# The server, or a gateway before it, is busy. Not 500: it can mean anything, and PostgREST sends it
# for statements that would fail again. Not 544: it comes after the gateway waited for a minute.
BUSY = frozenset({429, 502, 503, 504, 520, 521, 522, 523, 524})

_ATTEMPTS = 4
_FIRST_PAUSE = 0.25
# The claim stays open during a pause. If the server asks for a longer one, the call fails, and no
# call is sent until that time has passed.
_LONGEST_PAUSE = 5.0
# A server may ask for a day and be well again in a minute; one call then finds out.
_LONGEST_SILENCE = 30.0


Result = TypeVar("Result")


class ServerBusy(Exception):
    """Raised when a server answers that it is busy."""

    def __init__(self, status: int, seconds: float | None) -> None:
        super().__init__(status)
        self.status = status
        self.seconds = seconds
        """The server's Retry-After, at most half a minute; None if it sent none."""


class HttpClient:
    """Sends requests to one server; each call is attempted a few times."""

    def __init__(
        self,
        *,
        connect_seconds: float = 5,
        statement_seconds: float = 8.0,
        max_bytes: int = 1_000_000,
    ) -> None:
        self.connect_seconds = connect_seconds
        self.statement_seconds = statement_seconds
        self.max_bytes = max_bytes
        self.pause: Callable[[float], object] = time.sleep
        self.response: httpx.Response | None = None
        """The last response, completely read."""
        self._deadline = 0.0
        self._closed_until = 0.0
        self._random = SystemRandom()

    def twin(self) -> "HttpClient":
        """Return another with the same limits."""
        return HttpClient(
            connect_seconds=self.connect_seconds,
            statement_seconds=self.statement_seconds,
            max_bytes=self.max_bytes,
        )

    def open(self) -> httpx.Client:
        """Return a client that uses HTTP/2 if the server does."""
        # At DEBUG, hpack logs every header, the key included.
        logging.getLogger("hpack").setLevel(logging.INFO)
        client = httpx.Client(
            http2=True,
            verify=certificates(),
            timeout=self.connect_seconds,
            limits=httpx.Limits(max_connections=4, keepalive_expiry=60),
            headers={"User-Agent": f"permission-mirror/{__version__}"},
            event_hooks={"request": [self._prepare], "response": [self._read]},
        )
        # The only way to give httpx a network and to keep the proxies of the environment.
        for transport in (client._transport, *client._mounts.values()):  # noqa: SLF001
            if isinstance(transport, httpx.HTTPTransport):
                transport._pool._network_backend = Network(self._left)  # noqa: SLF001
        return client

    def call(self, send: Callable[[], Result], *, timeout_factor: int = 1) -> Result:
        """Return the result of `send`; repeat it while the server is busy or the connection breaks.

        `timeout_factor` multiplies the statement timeout. The call ends at most `connect_seconds`
        after that time: the server ends a slow statement itself, and says so in its answer.

        Raises:
            Unreachable: the server does not answer.
            Transient: the server is busy, or its answer is too slow.
            TooLarge: the request's body is larger than `max_bytes`.
        """
        left = self._closed_until - time.monotonic()
        if left > 0:
            raise Transient(f"target: its API asked for no requests for another {left:.0f} s")
        seconds = self.statement_seconds * timeout_factor + self.connect_seconds
        self._deadline = time.monotonic() + seconds
        for attempt in itertools.count(1):
            try:
                return send()
            except ServerBusy as busy:
                requested, error = busy.seconds, _busy(busy)
            except httpx.TimeoutException as late:
                # No second attempt: the claim has been open for long enough.
                raise _late(late) from None
            except httpx.TransportError as broken:
                certificates.cache_clear()
                reason = _reason(broken)
                requested = None
                error = Unreachable(
                    f"target: its API cannot be reached ({reason}); is SUPABASE_URL right?"
                )
            wait = (
                self._backoff(attempt)
                if requested is None
                else requested * self._random.uniform(1, 1.1)
            )
            if wait > min(_LONGEST_PAUSE, self._left()) or attempt == _ATTEMPTS:
                self._closed_until = time.monotonic() + (requested or 0.0)
                raise error from None
            self.pause(wait)
        raise AssertionError  # `count` does not end.

    def _backoff(self, attempt: int) -> float:
        """Return an exponential backoff with jitter, in seconds."""
        return _FIRST_PAUSE * 2.0 ** (attempt - 1) * self._random.uniform(0.5, 1.0)

    def _left(self) -> float:
        """Return the seconds until the deadline of the present call."""
        return self._deadline - time.monotonic()

    # Called by httpx

    def _prepare(self, request: httpx.Request) -> None:
        self.response = None
        size = len(request.content)
        if size > self.max_bytes:
            raise TooLarge(
                f"target: a call of {size} bytes is larger than MIRROR_REST_BYTES allows "
                f"({self.max_bytes})"
            )
        # The network limits what is None here.
        request.extensions["timeout"] = {
            "connect": self.connect_seconds,
            "pool": self.connect_seconds,
            "write": None,
            "read": None,
        }

    def _read(self, response: httpx.Response) -> None:
        response.read()
        # JSON is UTF-8; the name of another codec in a header would make the decoding fail.
        response.encoding = "utf-8"
        self.response = response
        if response.status_code in BUSY:
            raise ServerBusy(response.status_code, _retry_after(response))


@cache
def certificates() -> ssl.SSLContext:
    """Return the authorities that each client trusts.

    They are read once, because that takes longer than to connect; and again after a call that
    found no connection, because they may have been replaced.

    Raises:
        ConfigError: SSL_CERT_FILE has none.
    """
    try:
        return httpx.create_ssl_context()
    except OSError as error:
        raise ConfigError(
            f"SSL_CERT_FILE names no file with certificates ({error.strerror}). Correct it, or"
            " unset it to trust the usual authorities."
        ) from None


def _busy(busy: ServerBusy) -> Transient:
    when = "" if busy.seconds is None else f", back in {busy.seconds:.0f} s"
    return Transient(f"target: its API is busy [HTTP {busy.status}]{when}")


def _late(late: httpx.TimeoutException) -> Transient:
    if isinstance(late, httpx.ConnectTimeout):
        return Unreachable("target: its API cannot be reached (no answer in time)")
    return Transient("target: its API did not answer in time")


def _reason(broken: httpx.TransportError) -> str:
    if isinstance(broken, httpx.RemoteProtocolError):
        # Its text may contain the answer.
        return "no whole HTTP answer"
    return redact(str(broken) or type(broken).__name__)


def _retry_after(response: httpx.Response) -> float | None:
    """Return the seconds in a Retry-After header, at most `_LONGEST_SILENCE`.

    The header has a number or a date. None: there is no such header, or it has something else.
    """
    value = response.headers.get("Retry-After", "").strip()
    try:
        seconds = float(value) if re.fullmatch("[0-9]+", value) else _seconds_until(value)
    except (ArithmeticError, LookupError, TypeError, ValueError):
        return None
    return min(max(0.0, seconds), _LONGEST_SILENCE)


def _seconds_until(date: str) -> float:
    when = parsedate_to_datetime(date)
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return (when - datetime.now(UTC)).total_seconds()
