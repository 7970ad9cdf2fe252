"""Skeletons: the printed functions as `.sql` files, with `{named}` places for the fragments.

Each file can be read as SQL. A mapping decides only the fragments, and the modules beside this
folder make them.
"""

import re
from functools import cache
from pathlib import Path

# Not `'{}'` and `'{table,0}'`: those are SQL.
_PLACE = re.compile(r"\{(\w+)\}")


def fill(skeleton: str, **fragments: str) -> str:
    """Return `<skeleton>.sql` with each `{name}` replaced by the fragment of that name.

    All lines of a fragment are indented like the line that holds its place. A line with nothing
    but a place disappears if its fragment is empty.
    """
    lines = []
    for line in _read(skeleton).splitlines():
        margin = line[: len(line) - len(line.lstrip())]
        filled = _PLACE.sub(lambda place: fragments[place[1]], line)
        if line.strip() and not filled.strip():
            continue
        first, *others = filled.split("\n")
        lines += [first, *(margin + other if other else "" for other in others)]
    return "\n".join(lines)


@cache
def _read(skeleton: str) -> str:
    return (Path(__file__).parent / f"{skeleton}.sql").read_text(encoding="utf-8")
