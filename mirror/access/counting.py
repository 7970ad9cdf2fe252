"""Counting: when a mirrored row grants what it says."""

from mirror.mapping import Mapping
from mirror.sql import identifier, literal


def counting(mapping: Mapping, row: str) -> list[str]:
    """Return the conditions under which a row of the mapping, called `row`, grants anything."""
    conditions = [
        f"{row}.{identifier(name)} in ({', '.join(map(literal, sorted(values)))})"
        for name, values in sorted(mapping.active.items())
    ]
    if mapping.expires is not None:
        expires = f"{row}.{identifier(mapping.expires)}"
        conditions.append(f"({expires} is null or {expires} > now())")
    # A mapping that the model dropped is mirrored no more: its last rows must not grant on.
    conditions.append(
        f"exists (select from mirror.mappings as d where d.name = {literal(mapping.name)})"
    )
    return conditions
