"""Ledger tables: the SQL of a mapping's ledger, the target's record of every key ever mirrored."""

import json
from textwrap import indent

from mirror.model.mapping import Mapping
from mirror.schema.names import ledger_column, ledger_name, table_name, visible_references
from mirror.schema.quoting import comma, identifier, literal


def ledger_sql(mapping: Mapping) -> str:
    """Return the statements that create a mapping's ledger.

    If it exists, they add the columns and constraints that a changed declaration needs.
    """
    ledger, name = ledger_name(mapping), f"ledger_{mapping.name}"
    own = [ref for ref in mapping.all_references if ref.name not in mapping.key]
    constraints, dropped = _constraints(mapping)
    lines = [
        f"{identifier(column.name)} {column_type(mapping, column.name, column.type)} not null"
        for column in mapping.key_columns
    ]
    lines += [f"{identifier('ref_' + reference.name)} {reference.type}" for reference in own]
    lines += [
        "epoch integer not null",
        "fence bigint not null",
        "present boolean not null",
        "applied_at timestamptz not null",
        f"primary key ({comma(mapping.key)})",
        *(f"constraint {identifier(con)}\n  {unique}" for con, unique in constraints.items()),
    ]
    body = indent(",\n".join(lines), "  ")
    added = [add_column(ledger, f"ref_{ref.name}", ref.type) for ref in own]
    added += _fill_references(mapping)
    added += [
        f"select mirror.add_constraint({literal(ledger)}, {literal(con)},\n  {literal(unique)}\n);"
        for con, unique in constraints.items()
    ]
    added += [
        f"select mirror.drop_constraint({literal(ledger)}, {literal(con)});" for con in dropped
    ]
    return "\n".join(
        [
            f"-- {mapping.name}: what was last written for each key, and how fresh the read was.",
            f"create table if not exists {ledger} (\n{body}\n);",
            leave_room(ledger),
            *added,
            f"revoke all on {ledger} from public, anon, authenticated, service_role;\n",
            # Not an index on applied_at: each write changes that column, so it would cost more.
            "-- Purging looks at tombstones alone.",
            f"create unique index if not exists {identifier(f'{name}_tombstones')}",
            f"on {ledger} ({comma(mapping.key)}) where not present;",
        ]
    )


def adopt_sql(mapping: Mapping) -> str:
    """Return the statement that adds a ledger row for each row that the table already has.

    It serves a table that existed before the mirror: the keys of a scope come from the ledger
    alone. The fence of these ledger rows is older than any read, so that the first read decides.
    The statement does nothing once the mapping is installed: from then on, a row without a ledger
    row may be one that a foreign key holds back, and it must not count as present.
    """
    known = {name: name for name in mapping.key} | visible_references(mapping)
    declared_table = json.dumps([mapping.schema, mapping.table])
    return (
        f"-- Rows of a table that is taken over: the next resync judges them.\n"
        f"select mirror.take_back({literal(mapping.name)}, {literal(table_name(mapping))});\n"
        f"insert into {ledger_name(mapping)} ({comma(known)}, "
        f"epoch, fence, present, applied_at)\n"
        f"select {comma(known.values())}, 0, 0, true, now()\n"
        f"from {table_name(mapping)}\n"
        f"where not exists (\n  select from mirror.mappings\n  where name = {literal(mapping.name)}"
        f" and declaration -> 'table' = {literal(declared_table)}\n)\n"
        f"on conflict ({comma(mapping.key)}) do nothing;"
    )


def column_type(mapping: Mapping, name: str, kind: str) -> str:
    """Return a column's type as SQL.

    Text columns of the key sort by bytes, so that both databases list keys in the same order.
    """
    return f'{kind} collate "C"' if kind == "text" and name in mapping.key else kind


def add_column(table: str, name: str, kind: str, clause: str = "") -> str:
    """Return the statement that adds a column, with a clause after its type, if it is missing."""
    arguments = [table, name, kind, clause] if clause else [table, name, kind]
    return f"select mirror.add_column({', '.join(map(literal, arguments))});"


def leave_room(table: str) -> str:
    """Return the statement that leaves room for updates in each page of a table."""
    return f"select mirror.leave_room({literal(table)});"


def led_by(mapping: Mapping, column: str) -> str:
    """Return the columns of an index, as SQL: `column`, then the other columns of the key.

    So the index alone answers "all trips of this user", and it can be unique, which keeps
    Supabase's advisors from reporting it as unused.
    """
    return comma([column, *(name for name in mapping.key if name != column)])


def _constraints(mapping: Mapping) -> tuple[dict[str, str], list[str]]:
    """Return the UNIQUE constraints, by name, that index the ledger by its references.

    Second, the names of those that it had in earlier versions, and needs no longer: the mirrored
    table has an index for each of its parents, and one on a column of the key serves both.

    Two workers may insert one key at once; the second must update the row instead of failing. ON
    CONFLICT does that for every unique index on exactly the key's columns, in any order. A
    constraint with another column must be deferrable, so that PostgreSQL checks the primary key
    first.
    """
    parents = {parent.column for parent in mapping.parents}
    wanted, dropped = {}, []
    for reference in mapping.all_references:
        name = f"ledger_{mapping.name}_by_{reference.name}"
        if reference.name == mapping.key[0]:
            continue
        if reference.name in mapping.key and reference.name in parents:
            dropped.append(name)
            continue
        unique = f"unique ({led_by(mapping, ledger_column(mapping, reference.name))})"
        wanted[name] = unique + ("" if reference.name in mapping.key else " deferrable")
    return wanted, dropped


def _fill_references(mapping: Mapping) -> list[str]:
    """Return statements that copy the table's columns which are references into the ledger.

    They fill only what is NULL there: the values of columns that have just become references.
    """
    return [
        f"update {ledger_name(mapping)} as l\n"
        f"set {identifier(own)} = t.{identifier(name)}\n"
        f"from {table_name(mapping)} as t\n"
        f"where l.present and l.{identifier(own)} is null and t.{identifier(name)} is not null"
        + "".join(f"\n  and l.{identifier(key)} = t.{identifier(key)}" for key in mapping.key)
        + ";"
        for own, name in visible_references(mapping).items()
    ]
