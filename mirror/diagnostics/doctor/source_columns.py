"""Source columns: compares the columns that each mapping's query yields with its declaration."""

from collections.abc import Iterator

from mirror.access import Membership
from mirror.diagnostics.doctor.findings import Finding, finding
from mirror.diagnostics.doctor.primary_state import PrimaryState, SourceColumn
from mirror.diagnostics.doctor.source_reads import Scan
from mirror.model.mapping import Mapping
from mirror.model.registry import Registry

# (source, declared): every value of the first type fits the second, and nothing is lost.
_SAFE_CASTS = {
    ("smallint", "integer"),
    ("smallint", "bigint"),
    ("integer", "bigint"),
    ("smallint", "numeric"),
    ("integer", "numeric"),
    ("bigint", "numeric"),
    ("real", "double precision"),
    ("json", "jsonb"),
    ("date", "timestamp without time zone"),
    ("date", "timestamp with time zone"),
}
_WITHOUT_ZONE = {"timestamp without time zone", "date"}
# Every type can be cast to these.
_TEXT = {"text", "character varying"}


def _check_tables(primary: PrimaryState) -> Iterator[Finding]:
    for table in primary.filtered:
        message = f"primary: row-level security of {table} applies to this role"
        yield finding("source-filtered", message, table=table)
    for table in primary.unlogged:
        yield finding("source-unlogged", f"primary: {table} is UNLOGGED", table=table)


def check_columns(primary: PrimaryState, registry: Registry) -> Iterator[Finding]:
    """Yield a finding for each part of a mapping that does not fit the primary's tables.

    It is a query that fails, a column of an unsuitable type, a value in `active`, or a role.
    """
    yield from _check_tables(primary)
    for mapping in registry:
        error = primary.refused.get(mapping.name)
        if error is not None:
            yield finding(
                "source-query",
                f"mapping {mapping.name!r}: its query fails: {error}",
                mapping=mapping.name,
            )
            continue
        changed = primary.changed.get(mapping.name)
        if changed:
            message = f"mapping {mapping.name!r}: {'; '.join(changed)}"
            yield finding("source-changed", message, mapping=mapping.name)
        columns = primary.columns.get(mapping.name, {})
        uncastable = primary.uncastable.get(mapping.name, [])
        incomparable = primary.incomparable.get(mapping.name, [])
        for name, declared_type in mapping.row_layout:
            if name not in columns:
                continue
            column = columns[name]
            if name in uncastable:
                code = "source-type"
            elif name in incomparable:
                code = "source-key"
            elif name == mapping.expires and column.type in _WITHOUT_ZONE:
                code = "expires-zone"
            elif (
                column.type != column.declared
                and column.declared not in _TEXT
                and (column.type, column.declared) not in _SAFE_CASTS
            ):
                code = "source-cast"
            else:
                continue
            message = (
                f"mapping {mapping.name!r}: column {name} is {column.type} in the primary and"
                f" {declared_type} in the mapping"
            )
            names = {"mapping": mapping.name, "column": name, "type": declared_type}
            yield finding(code, message, **names)
        yield from _check_scans(mapping, primary.scans.get(mapping.name, []))
        yield from _check_active_values(mapping, columns)
    yield from _check_roles(primary, registry)


def _check_scans(mapping: Mapping, scans: list[Scan]) -> Iterator[Finding]:
    """Yield a finding for each read of a key or reference that compares rows of a whole table."""
    for scan in scans:
        columns = " and ".join(scan.columns)
        message = (
            f"mapping {mapping.name!r}: to find rows by {columns}, the primary reads all of"
            f" {scan.table}"
        )
        yield finding("source-scan", message, mapping=mapping.name, column=columns)


def _check_active_values(mapping: Mapping, columns: dict[str, SourceColumn]) -> Iterator[Finding]:
    """Yield a finding for each value in `active` that is not a label of its column's enum.

    A column that is not an enum is not checked.
    """
    for name, values in sorted(mapping.active.items()):
        labels = columns[name].labels if name in columns else ()
        for value in sorted(values.difference(labels)) if labels else ():
            message = (
                f"mapping {mapping.name!r}: `active` has {name} = {value!r}, but the primary's enum"
                f" has only {', '.join(labels)}"
            )
            yield finding("enum-label", message, mapping=mapping.name)


def _check_roles(primary: PrimaryState, registry: Registry) -> Iterator[Finding]:
    """Yield a finding for each role that the primary's enum has and a Membership's levels lack.

    A membership whose role is not an enum is not checked.
    """
    for access in registry.access:
        if isinstance(access, Membership):
            for seat in access.seats:
                column = primary.columns.get(seat.mapping, {}).get(str(seat.role))
                for label in column.labels if column is not None else ():
                    if label not in access.levels:
                        message = (
                            f"mapping {seat.mapping!r}: role {label!r} is not one of the levels"
                            f" {', '.join(access.levels)}"
                        )
                        yield finding("role-unknown", message, mapping=seat.mapping)
