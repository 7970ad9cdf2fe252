"""Withheld rows: the SQL that tells whether a mirrored row grants nothing because of other rows.

The row or one of its ancestors is withheld, or an ancestor has expired.
"""

from mirror.model.mapping import Mapping, Parent
from mirror.model.registry import Registry
from mirror.schema.names import function_name, table_name
from mirror.schema.quoting import comma, identifier, literal


def is_withheld(registry: Registry, mapping: Mapping, row: str, *, own: bool = True) -> str:
    """Return the condition that a row, or one of its ancestors, is withheld.

    `row` is the row's alias in the query around it; `own=False` leaves the row itself out.
    """
    marks = [(mapping.name, mapping.key)] if own else []
    marks += [(parent.mapping, (parent.column,)) for parent in mapping.parents]
    keys = ",\n        ".join(
        f"({literal(name)}, array[{', '.join(f'{row}.{identifier(c)}::text' for c in columns)}])"
        for name, columns in marks
    )
    found = [
        "exists (\n      select from mirror.withheld as w\n"
        f"      where (w.mapping, w.key) in (\n        {keys}\n      )\n    )"
    ]
    for number, parent in enumerate(mapping.parents):
        other = registry[parent.mapping]
        if other.parents:
            above = f"{row}_{number}"
            same = _is_parent(other, above, parent, row)
            found.append(
                f"exists (\n      select from {table_name(other)} as {above}\n      where {same}"
                f" and ({is_withheld(registry, other, above, own=False)})\n    )"
            )
    return " or ".join(found)


def _is_parent(other: Mapping, above: str, parent: Parent, row: str) -> str:
    """Return the condition that a row `above` of the mapping `other` is the parent of a row."""
    return f"{above}.{identifier(other.key[0])} = {row}.{identifier(parent.column)}"


def ancestor_has_expired(registry: Registry, mapping: Mapping, row: str) -> str:
    """Return the condition that an ancestor of a row has expired; empty: none can expire.

    `row` is the row's alias in the query around it.
    """
    found = []
    for number, parent in enumerate(mapping.parents):
        other = registry[parent.mapping]
        above = f"{row}_{number}"
        own = f"{above}.{identifier(other.expires)} <= now()" if other.expires else ""
        expired = [c for c in (own, ancestor_has_expired(registry, other, above)) if c]
        if expired:
            same = _is_parent(other, above, parent, row)
            found.append(
                f"exists (\n      select from {table_name(other)} as {above}\n      where {same}"
                f" and ({' or '.join(expired)})\n    )"
            )
    return " or ".join(found)


def _expiring_ancestors(registry: Registry, mapping: Mapping) -> dict[str, str]:
    """Return the tables of ancestors that can expire, each with its column."""
    found = {}
    for parent in mapping.parents:
        other = registry[parent.mapping]
        if other.expires is not None:
            found[table_name(other)] = identifier(other.expires)
        found |= _expiring_ancestors(registry, other)
    return found


def ended_above_function(registry: Registry, mapping: Mapping) -> list[str]:
    """Return the SQL of the function that tells policies whether any ancestor has expired.

    The list is empty if none of the mapping's ancestors can expire.
    """
    ancestors = _expiring_ancestors(registry, mapping)
    if not ancestors:
        return []
    name = function_name("ended_above", mapping)
    any_ended = " or ".join(
        f"exists (select from {table} where {column} <= now())"
        for table, column in ancestors.items()
    )
    return [
        f"""\
-- Whether a row above some row of this table has expired. For the table's policy.
create or replace function {name}() returns boolean
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
  return {any_ended};
end
$$;
revoke all on function {name}() from public, anon, authenticated, service_role;
grant execute on function {name}() to authenticated;
"""
    ]


def withheld_function(registry: Registry, mapping: Mapping) -> str:
    """Return the SQL of the function that tells policies whether the row of a key grants nothing.

    Users may not read the marks, nor all rows above a row, so it runs as its owner.
    """
    name = function_name("withheld", mapping)
    types = ", ".join(mapping.types[column] for column in mapping.key)
    same = " and ".join(
        f"m.{identifier(column)} = ${number}" for number, column in enumerate(mapping.key, 1)
    )
    expired = ancestor_has_expired(registry, mapping, "m")
    either = [is_withheld(registry, mapping, "m"), *([expired] if expired else [])]
    condition = " or ".join(either).replace("\n", "\n    ")
    also = ", or an ancestor has expired" if expired else ""
    return f"""\
-- Whether the row of a key is withheld, or one of its ancestors{also}. For this table's policy.
create or replace function {name}({types}) returns boolean
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
  return exists (
    select from {table_name(mapping)} as m
    where {same}
      and ({condition})
  );
end
$$;
revoke all on function {name}({types}) from public, anon, authenticated, service_role;
grant execute on function {name}({types}) to authenticated;"""


def not_withheld(registry: Registry, mapping: Mapping) -> str:
    """Return the condition of the table's policy that `withheld_function` does not refuse a row.

    Its first part is evaluated once per statement. Mostly nothing is withheld, and after a sweep
    nothing has expired.
    """
    call = f"{function_name('withheld', mapping)}({comma(mapping.key)})"
    if _expiring_ancestors(registry, mapping):
        expired = f"{function_name('ended_above', mapping)}()"
        return f"(not (select mirror.any_withheld() or {expired})\n    or not {call})"
    return f"(not (select mirror.any_withheld()) or not {call})"
