"""Variables: the MIRROR_* variables that a backend reads, and those that nothing reads."""

import os
from collections.abc import Collection, Iterator, Mapping
from difflib import get_close_matches
from typing import Final

PREFIX: Final = "MIRROR_"

BACKEND: Final = frozenset(
    {
        "MIRROR_DOORBELL",
        "MIRROR_DOORBELL_QUIET_SECONDS",
        "MIRROR_DOORBELL_SECONDS",
        "MIRROR_MAPPINGS",
    }
)
"""Read by a backend. Workers and commands read more: `mirror.settings.unknown_variables`."""

_ALIKE: Final = 0.8


def mappings_module() -> str:
    """Return the name of the module that holds the registry, as MIRROR_MAPPINGS says."""
    return os.environ.get("MIRROR_MAPPINGS", "").strip() or "mappings"


def unknown(
    environment: Mapping[str, str], known: Collection[str], *, misspelt: bool = False
) -> Iterator[str]:
    """Yield a sentence about each MIRROR_* variable of an environment that is not `known`.

    It names the known variable that may be meant, but no value. `misspelt`: only variables for
    which there is one, because `known` is not all that others read.
    """
    for name in sorted(environment):
        if not name.upper().startswith(PREFIX) or name.upper() in known:
            continue
        bare = name.upper().removeprefix(PREFIX)
        # Without the prefix, which would make all names alike.
        by_bare = {one.removeprefix(PREFIX): one for one in known}
        meant = get_close_matches(bare, by_bare, 1, _ALIKE)
        if meant:
            yield f"{name} is no setting; is {by_bare[meant[0]]} meant?"
        elif not misspelt:
            yield f"{name} is no setting; unset it, or correct its name."
