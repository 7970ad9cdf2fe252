"""Levels: the function that says which roles include another, weakest first."""

from collections.abc import Sequence

from mirror.schema.quoting import literal


def levels_function(function: str, parameter: str, levels: Sequence[str]) -> str:
    """Return the block that creates it; `levels` are from the weakest to the strongest."""
    cases = "\n".join(
        f"    when {literal(name)} then array[{', '.join(map(literal, levels[rank:]))}]"
        for rank, name in enumerate(levels)
    )
    return f"""\
-- What includes this one; null, which is nobody's, for any other name. Asked for in a subquery:
-- once, not for each row.
create or replace function {function}({parameter} text) returns text[]
language sql immutable set search_path = pg_catalog, pg_temp
as $$
  select case $1
{cases}
  end
$$;"""
