"""Damage: recognises an answer that the target's functions never give."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from mirror.errors import Transient

DAMAGED: Final = "target: its answer is damaged"

_ERRORS: Final[tuple[type[Exception], ...]] = (
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)


@contextmanager
def undamaged(*errors: type[Exception]) -> Iterator[None]:
    """Raise Transient if decoding or parsing an answer fails inside, also with one of `errors`.

    A proxy between worker and target may cut an answer off or replace it. No event is the
    cause, so all of them wait. The original error is dropped, because it may contain the answer.
    """
    try:
        yield
    except _ERRORS + errors:
        raise Transient(DAMAGED) from None
