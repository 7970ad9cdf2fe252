"""Staleness: how old the target may be before policies refuse, and which policies ignore that.

`Registry(max_staleness=…)` declares the bound; `stale` of a `Readable`, `Guard`, `Topic` or
`Folder` takes it out of the policies of one declaration.
"""

from datetime import timedelta
from math import inf
from typing import Final, Literal

from mirror.errors import MappingError

Stale = Literal["deny", "ignore"]
"""`deny`: the policies refuse every user while a mapping that they read is older than the
registry's `max_staleness`; `ignore`: they go on."""

SMALLEST: Final = 5.0
"""The smallest bound in seconds. Workers report at most once a second, and a late report must not
lock out every user."""


def bound_in_seconds(bound: timedelta | float | None, owner: str) -> float | None:
    """Return `max_staleness` in seconds; None: there is no bound.

    Raises:
        MappingError: it is no finite number of at least `SMALLEST` seconds.
    """
    if bound is None:
        return None
    value: object = bound.total_seconds() if isinstance(bound, timedelta) else bound
    if isinstance(value, bool) or not isinstance(value, int | float) or not SMALLEST <= value < inf:
        raise MappingError(
            f"{owner}: max_staleness is {bound!r}; give a timedelta or a number of seconds, at "
            f"least {SMALLEST:g}, as in timedelta(minutes=1)."
        )
    return float(value)


def check_stale(stale: object, max_staleness: float | None, owner: str) -> None:
    """Refuse a `stale` that has no effect or an unknown value.

    Raises:
        MappingError: the message begins with `owner`.
    """
    if stale not in (None, "deny", "ignore"):
        raise MappingError(f"{owner}: stale is {stale!r}; it is 'deny' or 'ignore'.")
    if stale is not None and max_staleness is None:
        raise MappingError(
            f"{owner}: stale={stale!r} needs a bound; give the registry max_staleness, or drop it."
        )
