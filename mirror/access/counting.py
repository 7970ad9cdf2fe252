"""Counting: when a mirrored row grants what it says."""

from mirror.model.mapping import Mapping
from mirror.schema.quoting import identifier, literal


def counting(mapping: Mapping, row: str) -> list[str]:
    """Return the conditions under which a row of the mapping, called `row`, grants anything."""
    return [
        *in_force(mapping, row),
        # A mapping that the model dropped is mirrored no more: its last rows must not grant on.
        f"exists (select from mirror.mappings as d where d.name = {literal(mapping.name)})",
    ]


def in_force(mapping: Mapping, row: str, *, expired: bool = False) -> list[str]:
    """Return the conditions that the row itself must meet; `expired`: its time may be over."""
    conditions = [
        f"{row}.{identifier(name)} in ({', '.join(map(literal, sorted(values)))})"
        for name, values in sorted(mapping.active.items())
    ]
    if mapping.expires is not None and not expired:
        expires = f"{row}.{identifier(mapping.expires)}"
        conditions.append(f"({expires} is null or {expires} > now())")
    return conditions
