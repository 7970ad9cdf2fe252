"""Conditions: the SQL conditions that a mirrored row must meet to grant access."""

from mirror.model.mapping import Mapping
from mirror.model.registry import Registry
from mirror.schema.quoting import identifier, literal
from mirror.schema.withheld_rows import is_withheld


def grant_conditions(registry: Registry, mapping: Mapping, row: str) -> list[str]:
    """Return the conditions, all of which a row of the mapping must meet to grant access.

    `row` is the row's alias in the query around them.
    """
    return [
        *row_conditions(mapping, row),
        # A mapping that the model dropped is no longer kept up to date: its last rows must not
        # grant access for ever.
        f"exists (select from mirror.mappings as d where d.name = {literal(mapping.name)})",
        # The first half is evaluated once per statement. Mostly nothing is withheld.
        "(not exists (select from mirror.withheld)\n"
        f"    or not ({is_withheld(registry, mapping, row)}))",
    ]


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
