"""Conditions: the SQL conditions that a mirrored row must meet to grant access."""

from collections.abc import Collection

from mirror.access.questions import decides_by_key
from mirror.model.mapping import Mapping
from mirror.model.registry import Registry
from mirror.schema.names import ledger_name
from mirror.schema.quoting import identifier, literal
from mirror.schema.withheld_rows import ancestor_has_expired, is_withheld


def grant_conditions(
    registry: Registry, mapping: Mapping, row: str, compared: Collection[str]
) -> list[str]:
    """Return the conditions, all of which a row of the mapping must meet to grant access.

    `row` is the row's alias in the query around them. `compared` are the columns that this query
    selects or compares, so that a row with NULL in one of them grants nothing.
    """
    expired = ancestor_has_expired(registry, mapping, row)
    return [
        *row_conditions(mapping, row),
        *([f"not ({expired})"] if expired else []),
        *([_is_present(mapping, row)] if decides_by_key(mapping, compared) else []),
        # A mapping that the model dropped is no longer kept up to date: its last rows must not
        # grant access for ever.
        f"exists (select from mirror.mappings as d where d.name = {literal(mapping.name)})",
        # The first half is evaluated once per statement. Mostly nothing is withheld.
        "(not exists (select from mirror.withheld)\n"
        f"    or not ({is_withheld(registry, mapping, row)}))",
    ]


def _is_present(mapping: Mapping, row: str) -> str:
    """Return the condition that the ledger has the row as present."""
    same = " and ".join(f"l.{identifier(c)} = {row}.{identifier(c)}" for c in mapping.key)
    # As a value: PostgreSQL might read the whole ledger for EXISTS.
    return f"(\n    select l.present from {ledger_name(mapping)} as l\n    where {same}\n  )"


def row_conditions(mapping: Mapping, row: str, *, expired: bool = False) -> list[str]:
    """Return the conditions on the row alone: that it is active, and that it has not expired.

    `expired=True` leaves the second one out. The list is empty if the mapping declares neither
    `active` nor `expires`.
    """
    conditions = [
        f"{row}.{identifier(name)} in ({', '.join(map(literal, sorted(values)))})"
        for name, values in sorted(mapping.active.items())
    ]
    if mapping.expires is not None and not expired:
        expires = f"{row}.{identifier(mapping.expires)}"
        conditions.append(f"({expires} is null or {expires} > now())")
    return conditions
