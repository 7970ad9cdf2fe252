"""Levels: the SQL of the function that returns, for one level, all levels at least as strong.

Also holds the attributes that all helper functions share.
"""

from collections.abc import Sequence
from typing import Final

from mirror.schema.quoting import literal

# Not an empty search_path: PostgreSQL would still look for types (uuid, for example) in the
# caller's pg_temp first, and run a domain's CHECK with the definer's rights. When pg_temp is named
# last, it is searched last.
#
# Not in SQL: before PostgreSQL 18, the plan of such a function is not kept, and to plan it takes
# longer than to run it. A plan may be kept from when the tables were empty, so it always uses an
# index, at least that of the key. Where it cannot, it counts as so expensive that the server would
# compile it.
DEFINER: Final = """\
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
set enable_seqscan = off set jit = off"""


def levels_function(function: str, parameter: str, levels: Sequence[str]) -> str:
    """Return the SQL that creates `function`: it takes a level and returns an array of levels.

    These are the given level and all stronger ones; NULL if the name is unknown. `parameter` is the
    name of its parameter; `levels` are all levels, from weakest to strongest.
    """
    cases = "\n".join(
        f"    when {literal(name)} then array[{', '.join(map(literal, levels[rank:]))}]"
        for rank, name in enumerate(levels)
    )
    return f"""\
-- The levels that include this one; null, which is nobody's, for any other name. Asked for in a
-- subquery: once, not for each row.
create or replace function {function}({parameter} text) returns text[]
language plpgsql immutable set search_path = pg_catalog, pg_temp
as $$
begin
  return case $1
{cases}
  end;
end
$$;"""
