"""Conditions: the SQL conditions that a mirrored row must meet to grant access."""

from mirror.model.mapping import Mapping
from mirror.model.registry import Registry
from mirror.schema.names import table_name
from mirror.schema.quoting import identifier, literal


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
        f"    or not ({_withheld(registry, mapping, row)}))",
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


def _withheld(registry: Registry, mapping: Mapping, row: str, *, own: bool = True) -> str:
    """Return the condition that a row, or one of its ancestors, is withheld.

    `own=False` leaves the row itself out.
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
            same = f"{above}.{identifier(other.key[0])} = {row}.{identifier(parent.column)}"
            found.append(
                f"exists (\n      select from {table_name(other)} as {above}\n      where {same}"
                f" and ({_withheld(registry, other, above, own=False)})\n    )"
            )
    return " or ".join(found)
