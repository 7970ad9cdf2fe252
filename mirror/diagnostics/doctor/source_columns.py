"""The mappings beside the primary: does what their queries yield fit what they declare?"""

from collections.abc import Iterator

from mirror.access import Membership
from mirror.diagnostics.doctor.findings import Finding, finding
from mirror.diagnostics.doctor.primary import PrimaryState, SourceColumn
from mirror.model.mapping import Mapping
from mirror.model.registry import Registry

# What loses nothing and always fits, beside text, which takes everything.
_WIDER = {
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
_TEXT = {"text", "character varying"}


def check_columns(primary: PrimaryState, registry: Registry) -> Iterator[Finding]:
    """Say which mappings do not fit the primary's tables any more."""
    for mapping in registry:
        refused = primary.refused.get(mapping.name)
        if refused is not None:
            yield finding(
                "source-query",
                f"mapping {mapping.name!r}: its query does not run: {refused}",
                mapping=mapping.name,
            )
            continue
        columns = primary.columns.get(mapping.name, {})
        uncastable = primary.uncastable.get(mapping.name, [])
        for name, kind in mapping.row_layout:
            if name not in columns:
                continue
            have = columns[name]
            if name in uncastable:
                code = "source-type"
            elif (
                have.type != have.declared
                and have.declared not in _TEXT
                and (have.type, have.declared) not in _WIDER
            ):
                code = "source-cast"
            else:
                continue
            what = f"mapping {mapping.name!r}: column {name} is {have.type} there, {kind} here"
            yield finding(code, what, mapping=mapping.name)
        yield from _check_labels(mapping, columns)
    yield from _check_roles(primary, registry)


def _check_labels(mapping: Mapping, columns: dict[str, SourceColumn]) -> Iterator[Finding]:
    for name, values in sorted(mapping.active.items()):
        labels = columns[name].labels if name in columns else ()
        for value in sorted(values.difference(labels)) if labels else ():
            what = f"mapping {mapping.name!r}: {name} = {value!r} is none of {_listed(labels)}"
            yield finding("enum-label", what, mapping=mapping.name)


def _check_roles(primary: PrimaryState, registry: Registry) -> Iterator[Finding]:
    for access in registry.access:
        if isinstance(access, Membership):
            for seat in access.seats:
                column = primary.columns.get(seat.mapping, {}).get(str(seat.role))
                for label in column.labels if column is not None else ():
                    if label not in access.levels:
                        what = (
                            f"mapping {seat.mapping!r}: role {label!r} is none of the levels"
                            f" {_listed(access.levels)}"
                        )
                        yield finding("role-unknown", what, mapping=seat.mapping)


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(names)
