"""Http: a client that keeps to time and size, and waits when a server asks for it."""

import itertools
import logging
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from random import SystemRandom
from typing import Any, TypeVar

import httpx

from mirror import __version__
from mirror.errors import TooLarge, Transient, Unreachable
from mirror.errors.redaction import redact

# Busy, or something on the way there is. Not 500: it can mean anything, and PostgREST says so of
# statements that would only fail again. Not 544, which comes after a minute of waiting.
BUSY = frozenset({429, 502, 503, 504, 520, 521, 522, 523, 524})

_ATTEMPTS = 4
_FIRST_PAUSE = 0.25
# A claim is open meanwhile; who asks for more is left alone until then.
_LONGEST_PAUSE = 5.0


Result = TypeVar("Result")


class ServerBusy(Exception):
    """Raised when a server asks to come back later, after `seconds` if it said when."""

    def __init__(self, status: int, seconds: float | None) -> None:
        super().__init__(status)
        self.status = status
        self.seconds = seconds


class HttpClient:
    """A connection to one server, opened when needed; each call is tried a few times."""

    def __init__(
        self,
        *,
        connect_seconds: float = 5,
        statement_seconds: float = 8.0,
        most_bytes: int = 1_000_000,
    ) -> None:
        self.connect_seconds = connect_seconds
        self.statement_seconds = statement_seconds
        self.most_bytes = most_bytes
        self.grace = 5.0
        """What is waited longer: a server ends a statement by itself, and says so."""
        self.pause: Callable[[float], object] = time.sleep
        self.response: httpx.Response | None = None
        """The last answer, read to its end."""
        self._timeout_factor = 1
        self._closed_until = 0.0
        self._random = SystemRandom()

    def open(self) -> httpx.Client:
        """Return a client that speaks HTTP/2 where the server does."""
        # For debugging it logs every header, the key among them.
        logging.getLogger("hpack").setLevel(logging.INFO)
        return httpx.Client(
            http2=True,
            timeout=self.connect_seconds,
            limits=httpx.Limits(max_connections=4, keepalive_expiry=60),
            headers={"User-Agent": f"permission-mirror/{__version__}"},
            event_hooks={"request": [self._prepare], "response": [self._read]},
        )

    def call(self, send: Callable[[], Result], *, timeout_factor: int = 1) -> Result:
        """Return what `send` returns, trying again while the server is busy or cuts it off.

        `timeout_factor` times what a statement may take is waited for the answer.

        Raises:
            Unreachable: nobody answers.
            Transient: the server is busy, or answers too slowly.
            TooLarge: the request's body is.
        """
        left = self._closed_until - time.monotonic()
        if left > 0:
            raise Transient(f"target: its API asked to be left alone for another {left:.0f} s")
        self._timeout_factor = timeout_factor
        for attempt in itertools.count(1):
            try:
                return send()
            except ServerBusy as busy:
                asked, error = busy.seconds, self._busy(busy)
            except httpx.TimeoutException as late:
                # It has waited long enough, with the claim open.
                raise self._late(late) from None
            except httpx.TransportError as broken:
                reason = redact(str(broken) or type(broken).__name__)
                asked = None
                error = Unreachable(
                    f"target: its API cannot be reached ({reason}); is SUPABASE_URL right?"
                )
            wait = self._wait(attempt) if asked is None else asked * self._random.uniform(1, 1.1)
            if wait > _LONGEST_PAUSE or attempt == _ATTEMPTS:
                self._closed_until = time.monotonic() + (asked or 0.0)
                raise error from None
            self.pause(wait)
        raise AssertionError  # `count` does not end.

    def _wait(self, attempt: int) -> float:
        """Return a pause that doubles, half of it by chance: callers must not come in step."""
        return _FIRST_PAUSE * 2.0 ** (attempt - 1) * self._random.uniform(0.5, 1.0)

    @staticmethod
    def _busy(busy: ServerBusy) -> Transient:
        when = "" if busy.seconds is None else f", back in {busy.seconds:.0f} s"
        return Transient(f"target: its API is busy [HTTP {busy.status}]{when}")

    @staticmethod
    def _late(late: httpx.TimeoutException) -> Transient:
        if isinstance(late, httpx.ConnectTimeout):
            return Unreachable("target: its API cannot be reached (no answer in time)")
        return Transient("target: its API did not answer in time")

    # Called by httpx

    def _prepare(self, request: httpx.Request) -> None:
        self.response = None
        size = len(request.content)
        if size > self.most_bytes:
            raise TooLarge(
                f"target: a call of {size} bytes is larger than MIRROR_REST_BYTES allows "
                f"({self.most_bytes})"
            )
        seconds = self.statement_seconds * self._timeout_factor + self.grace
        request.extensions["timeout"] = {
            "connect": self.connect_seconds,
            "pool": self.connect_seconds,
            "write": seconds,
            "read": seconds,
        }
        request.extensions["deadline"] = time.monotonic() + seconds

    def _read(self, response: httpx.Response) -> None:
        deadline = response.request.extensions["deadline"]
        response.stream = _Punctual(response.stream, deadline)
        response.read()
        self.response = response
        if response.status_code in BUSY:
            raise ServerBusy(response.status_code, _retry_after(response))


class _Punctual(httpx.SyncByteStream):
    """A body that has to end in time; httpx bounds only each wait for a piece of it."""

    def __init__(self, stream: Any, deadline: float) -> None:
        self._stream = stream
        self._deadline = deadline

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._stream:
            if time.monotonic() > self._deadline:
                raise httpx.ReadTimeout("the body is too slow")
            yield piece

    def close(self) -> None:
        self._stream.close()


def _retry_after(response: httpx.Response) -> float | None:
    """Return the seconds that a Retry-After header asks for, as a number or a date."""
    told = response.headers.get("Retry-After", "").strip()
    if told.isdigit():
        return float(told)
    try:
        when = parsedate_to_datetime(told)
    except ValueError:
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return max(0.0, (when - datetime.now(UTC)).total_seconds())
