"""Obstacles: checks mirrored tables for a user's objects that alter or refuse the mirror's writes.

An engine that is older than the doctor does not know these facts; that the target is behind is a
finding of its own.
"""

from collections.abc import Iterator

from mirror.diagnostics.doctor.expected import ExpectedTable
from mirror.diagnostics.doctor.findings import Finding, finding
from mirror.schema.quoting import identifier
from mirror.sync.targets.catalog import Obstacle

# Each can replace a row that is written, or drop it without an error.
_ALTERING = {"before trigger", "rule"}


def check_obstacles(table: ExpectedTable) -> Iterator[Finding]:
    """Yield a finding for each object on a mirrored table that stands in the way of a write."""
    for obstacle in table.actual.get("obstacles", []):
        code = "write-altered" if obstacle["kind"] in _ALTERING else "write-refused"
        effect = "change or drop" if code == "write-altered" else "refuse"
        message = (
            f"{table.name}: {obstacle['kind']} {obstacle['name']} can {effect} rows of the mirror"
        )
        yield finding(code, message, command=_removal(table.name, obstacle))
    for name, column in table.actual["columns"].items():
        if table.mapping and name in table.mapping.types and column.get("generated"):
            message = f"{table.name}: column {name} is generated"
            yield finding("column-generated", message, table=table.name, column=identifier(name))
    if table.actual.get("filtered"):
        message = f"{table.name}: its row-level security applies to the mirror's own role"
        yield finding("writer-filtered", message, table=table.name)
    for link in table.actual.get("inheritance", []):
        message = f"{link['child']} inherits from {link['parent']}, or is a partition of it"
        yield finding("table-inherited", message, **link)


def _removal(table: str, obstacle: Obstacle) -> str:
    """Return the statement that removes an obstacle."""
    object_type, name = obstacle["kind"].split()[-1], obstacle["name"]
    if object_type == "constraint":
        return f"alter table {table} drop constraint {name};"
    if object_type == "index":
        return f"drop index {name};"
    return f"drop {object_type} {name} on {table};"
