"""Tables: checks the target's tables: columns, foreign keys, indexes, triggers, the publication."""

from collections.abc import Iterator

from mirror.diagnostics.doctor.expected import ExpectedTable, ExpectedTarget
from mirror.diagnostics.doctor.findings import Finding, finding
from mirror.diagnostics.doctor.obstacles import check_obstacles
from mirror.model.mapping import Mapping
from mirror.schema.quoting import comma, identifier
from mirror.sync.targets.catalog import ForeignKey

# By pg_constraint.confdeltype; other values refuse the delete.
_DELETE_EFFECTS = {
    "c": "deletes the referring rows",
    "n": "sets this column to NULL",
    "d": "sets this column to its default",
}


def check_tables(target: ExpectedTarget) -> Iterator[Finding]:
    """Yield a finding for each problem of a mirrored or guarded table."""
    for mapping, table in target.mirrored():
        if table is None:
            message = f"target: the table of mapping {mapping.name!r} does not exist"
            yield finding("table-missing", message)
            continue
        yield from _check_columns(target, mapping, table)
        yield from check_obstacles(table)
        yield from _check_references(target, mapping, table)
        yield from _check_referencing(target, mapping, table)
        if table.actual["published"]:
            message = f"{table.name} is in the publication supabase_realtime"
            yield finding("published", message, table=table.name)
    for name, guarded in target.guards():
        # Supabase creates the tables of Realtime and Storage when they are first used.
        if guarded is None and not name.startswith(("realtime.", "storage.")):
            yield finding("table-missing", f"target: guarded table {name} does not exist")
    yield from _check_indexes(target)
    yield from _check_triggers(target)
    for kind, name, column in target.leftovers:
        what = f"column {column} of {name}" if column else f"{kind} {name}"
        yield finding("leftover", f"target: {what} is not declared any more")


def _check_columns(
    target: ExpectedTarget, mapping: Mapping, table: ExpectedTable
) -> Iterator[Finding]:
    actual = table.actual["columns"]
    declared = {column.name: column.type for column in mapping.columns}
    for name, type_ in declared.items():
        names = {"table": table.name, "column": identifier(name), "type": type_}
        column = actual.get(name)
        if column is None:
            yield finding("column-missing", f"{table.name} has no column {name} ({type_})", **names)
            continue
        if column["type"] != target.catalog["types"].get(type_):
            enum = ", an enum" if column["enum"] else ""
            message = f"{table.name}: column {name} is {column['type']}{enum}, not {type_}"
            yield finding("column-type", message, **names)
        if column["required"] and name not in mapping.key:
            message = (
                f"{table.name}: column {name} is NOT NULL, so rows that have NULL in the primary"
                " cannot be written"
            )
            yield finding("column-required", message, **names)
    for name, column in actual.items():
        if name in declared or ["column", table.name, name] in target.leftovers:
            continue
        names = {"table": table.name, "column": identifier(name)}
        if column["required"] and not column["filled"]:
            message = (
                f"{table.name}: column {name} is NOT NULL, has no default, and is not mirrored"
            )
            yield finding("column-required", message, **names)
        else:
            yield finding("column-extra", f"{table.name}: column {name} is not mirrored", **names)


def _check_references(
    target: ExpectedTarget, mapping: Mapping, table: ExpectedTable
) -> Iterator[Finding]:
    """Yield a finding for each foreign key that is missing, or is not declared."""
    tables = {other.name: table.name for other, table in target.mirrored() if table}
    declared = [(tables.get(parent.mapping), [parent.column]) for parent in mapping.parents]
    found = [(key["table"], key["columns"]) for key in table.actual["references"]]
    for parent, columns in declared:
        if parent is not None and (parent, columns) not in found:
            message = f"{table.name} ({comma(columns)}) has no foreign key to {parent}"
            names = {"table": table.name, "column": comma(columns), "parent": parent}
            yield finding("reference-missing", message, **names)
    for key in table.actual["references"]:
        if (key["table"], key["columns"]) not in declared:
            message = (
                f"{table.name} ({comma(key['columns'])}) refers to {key['table']}, so the target"
                " refuses rows without a row there"
            )
            names = {"table": table.name, "constraint": identifier(key["name"])}
            yield finding("reference-outside", message, **names)


def _check_referencing(
    target: ExpectedTarget, mapping: Mapping, table: ExpectedTable
) -> Iterator[Finding]:
    """Yield findings about foreign keys from tables that are not mirrored to a mirrored table.

    One says that the foreign key blocks the mirror's deletes or cascades them, unless the mapping
    retains deleted rows; another one that it has no index.
    """
    for key in table.actual["referenced_by"]:
        if key["table"] in target.catalog["mirrored"]:
            continue
        if mapping.on_delete == "delete":
            yield _delete_finding(mapping, table, key)
        if not key["indexed"]:
            message = f"{key['table']} refers to {table.name} by columns without an index"
            names = {"table": key["table"], "column": comma(key["columns"])}
            yield finding("index-missing", message, **names)


def _delete_finding(mapping: Mapping, table: ExpectedTable, key: ForeignKey) -> Finding:
    """Return the finding about a foreign key that blocks the mirror's deletes, or cascades them."""
    source = f"{key['table']} ({comma(key['columns'])})"
    names = {
        "table": key["table"],
        "constraint": identifier(key["name"]),
        "mapping": mapping.name,
    }
    effect = _DELETE_EFFECTS.get(key["on_delete"])
    if effect is None:
        message = f"{source} keeps rows of {table.name} that the primary has deleted"
        return finding("delete-blocked", message, **names)
    message = f"{source} refers to {table.name}: deleting a row there also {effect}"
    return finding("delete-cascades", message, **names)


def _check_indexes(target: ExpectedTarget) -> Iterator[Finding]:
    """Yield a finding for each column by which rows are found, but with which no index begins."""
    indexes = {table.name: table.actual["indexes"] for table in target.tables}
    for table, column in target.indexed:
        if column not in indexes.get(table, [column]):
            message = f"{table} ({column}) has no index, although rows are found by it"
            yield finding("index-missing", message, table=table, column=identifier(column))


def _check_triggers(target: ExpectedTarget) -> Iterator[Finding]:
    """Yield a finding for each table on which triggers of the guards are missing or disabled."""
    triggers = {table.name: table.actual["triggers"] for table in target.tables}
    missing: dict[str, list[str]] = {}
    for table, trigger in target.triggers:
        if trigger not in triggers.get(table, [trigger]):
            missing.setdefault(table, []).append(trigger)
    for table, names in missing.items():
        message = f"on {table}, missing or disabled: {', '.join(names)}"
        yield finding("guard-trigger-missing", message)
