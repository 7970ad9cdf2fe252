"""Conditions: when a mirrored row grants access, as SQL."""

from mirror.model.mapping import Mapping
from mirror.schema.quoting import identifier, literal


def grant_conditions(mapping: Mapping, row: str) -> list[str]:
    """Return the conditions under which a row of the mapping, called `row`, grants access."""
    return [
        *row_conditions(mapping, row),
        # A mapping that the model dropped is no longer kept up to date: its last rows must not
        # grant access for ever.
        f"exists (select from mirror.mappings as d where d.name = {literal(mapping.name)})",
    ]


def row_conditions(mapping: Mapping, row: str, *, expired: bool = False) -> list[str]:
    """Return the conditions that a row itself must meet; `expired` accepts expired rows, too."""
    conditions = [
        f"{row}.{identifier(name)} in ({', '.join(map(literal, sorted(values)))})"
        for name, values in sorted(mapping.active.items())
    ]
    if mapping.expires is not None and not expired:
        expires = f"{row}.{identifier(mapping.expires)}"
        conditions.append(f"({expires} is null or {expires} > now())")
    return conditions
