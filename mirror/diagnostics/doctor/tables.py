"""The target's tables: their columns, foreign keys, indexes, and the publication."""

from collections.abc import Iterator

from mirror.diagnostics.doctor.expected import ExpectedTable, ExpectedTarget
from mirror.diagnostics.doctor.findings import Finding, finding
from mirror.model.mapping import Mapping
from mirror.schema.quoting import comma, identifier
from mirror.sync.targets.catalog import ForeignKey

_DELETES = {"c": "takes along its rows", "n": "empties its column", "d": "alters its column"}


def check_tables(declared: ExpectedTarget) -> Iterator[Finding]:
    """Say what is wrong with the tables that the mirror writes, and those that it guards."""
    for mapping, expected in declared.mirrored():
        if expected is None:
            what = f"target: the table of mapping {mapping.name!r} is gone"
            yield finding("table-missing", what)
            continue
        yield from _check_columns(declared, mapping, expected)
        yield from _check_references(declared, mapping, expected)
        yield from _check_referenced(declared, mapping, expected)
        if expected.table["published"]:
            what = f"{expected.name} is in the publication supabase_realtime"
            yield finding("published", what, table=expected.name)
    for name, guarded in declared.guards():
        # Realtime's and Storage's appear when those are first used.
        if guarded is None and not name.startswith(("realtime.", "storage.")):
            yield finding("table-missing", f"target: guarded table {name} is gone")
    yield from _check_indexes(declared)
    yield from _check_triggers(declared)


def _check_columns(
    declared: ExpectedTarget, mapping: Mapping, expected: ExpectedTable
) -> Iterator[Finding]:
    table, have = expected.name, expected.table["columns"]
    wanted = {column.name: column.type for column in mapping.columns}
    for name, kind in wanted.items():
        names = {"table": table, "column": identifier(name), "type": kind}
        column = have.get(name)
        if column is None:
            yield finding("column-missing", f"{table} has no column {name} ({kind})", **names)
            continue
        if column["type"] != declared.catalog["types"].get(kind):
            enum = ", an enum" if column["enum"] else ""
            what = f"{table}: column {name} is {column['type']}{enum}, not {kind}"
            yield finding("column-type", what, **names)
        if column["required"] and name not in mapping.key:
            what = f"{table}: column {name} is NOT NULL; what the primary lacks cannot be written"
            yield finding("column-required", what, **names)
    for name, column in have.items():
        if name in wanted:
            continue
        names = {"table": table, "column": identifier(name)}
        if column["required"] and not column["filled"]:
            what = f"{table}: column {name} is NOT NULL, has no default, and is not mirrored"
            yield finding("column-required", what, **names)
        else:
            yield finding("column-extra", f"{table}: column {name} is not mirrored", **names)


def _check_references(
    declared: ExpectedTarget, mapping: Mapping, expected: ExpectedTable
) -> Iterator[Finding]:
    parents = {parent.mapping for parent in mapping.parents}
    allowed = {
        other.name for parent, other in declared.mirrored() if other and parent.name in parents
    }
    for link in expected.table["references"]:
        if link["table"] not in allowed:
            what = (
                f"{expected.name} ({comma(link['columns'])}) refers to {link['table']}: what has"
                f" no row there is refused"
            )
            names = {"table": expected.name, "constraint": identifier(link["name"])}
            yield finding("reference-outside", what, **names)


def _check_referenced(
    declared: ExpectedTarget, mapping: Mapping, expected: ExpectedTable
) -> Iterator[Finding]:
    for link in expected.table["referenced_by"]:
        if link["table"] in declared.catalog["mirrored"]:
            continue
        if mapping.on_delete == "delete":
            yield _held(mapping, expected, link)
        if not link["indexed"]:
            what = f"{link['table']} refers to {expected.name} by columns without an index"
            names = {"table": link["table"], "column": comma(link["columns"])}
            yield finding("index-missing", what, **names)


def _held(mapping: Mapping, expected: ExpectedTable, link: ForeignKey) -> Finding:
    by = f"{link['table']} ({comma(link['columns'])})"
    names = {
        "table": link["table"],
        "constraint": identifier(link["name"]),
        "mapping": mapping.name,
    }
    effect = _DELETES.get(link["on_delete"])
    if effect is None:
        what = f"{by} holds back rows of {expected.name} that the primary has deleted"
        return finding("delete-blocked", what, **names)
    what = f"deleting from {expected.name} reaches {by}: it {effect}"
    return finding("delete-cascades", what, **names)


def _check_indexes(declared: ExpectedTarget) -> Iterator[Finding]:
    """Say which column that rows are looked up by no index begins with."""
    indexes = {expected.name: expected.table["indexes"] for expected in declared.tables}
    for table, column in declared.indexed:
        if column not in indexes.get(table, [column]):
            what = f"{table} ({column}) has no index, and rows are looked up by it"
            yield finding("index-missing", what, table=table, column=identifier(column))


def _check_triggers(declared: ExpectedTarget) -> Iterator[Finding]:
    """Say which triggers of the guards are gone or disabled."""
    triggers = {expected.name: expected.table["triggers"] for expected in declared.tables}
    lacking: dict[str, list[str]] = {}
    for table, trigger in declared.triggers:
        if trigger not in triggers.get(table, [trigger]):
            lacking.setdefault(table, []).append(trigger)
    for table, names in lacking.items():
        what = f"{table} lacks, or has disabled, {', '.join(names)}"
        yield finding("guard-trigger-missing", what)
