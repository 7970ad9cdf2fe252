"""Unforeseen: turns an error that the library does not know into one of ours."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mirror.errors import MirrorError, Unexplained


@contextmanager
def explained(*known: type[Exception]) -> Iterator[None]:
    """Raise any exception inside that is neither ours nor `known` as Unexplained.

    Its message has the exception's type and line only: the original message may contain values of
    rows. Celery's SoftTimeLimitExceeded passes.
    """
    ours: tuple[type[Exception], ...] = (MirrorError, *known)
    try:
        yield
    except ours:
        raise
    except Exception as error:
        # Celery's order to stop, which no event causes. By name: a backend may not have Celery.
        if type(error).__name__ == "SoftTimeLimitExceeded":
            raise
        last = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(last.filename).name}:{last.lineno}"
        raise Unexplained(f"an unexpected {type(error).__name__} at {place}") from None
