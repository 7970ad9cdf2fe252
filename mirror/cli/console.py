"""Console: prints tables; a script that reads a line gets it whole."""

from typing import Final

from rich.console import Console

_UNWRAPPED: Final = 1_000


def console() -> Console:
    """Return a console on standard output that wraps lines only on a terminal."""
    made = Console(soft_wrap=True, highlight=False, markup=False)
    if not made.is_terminal:
        made.width = _UNWRAPPED
    return made
