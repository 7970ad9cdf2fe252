"""Model tables: the SQL of the migration that installs a registry in the target.

It follows from the declarations alone: tables, ledgers, functions, helpers and policies. Every
block can run again. The migration refuses an existing table with another shape or owner, and names
it. A table of this model follows its declaration, except that its key does not change: it gets new
columns, types and foreign keys. Objects that are no longer declared stay, closed, until `mirror
migrate --prune` (`mirror.schema.prune`).
"""

import json
import re
from collections import Counter
from textwrap import indent

from mirror.errors import MappingError
from mirror.model.mapping import Mapping
from mirror.model.registry import Registry
from mirror.schema.apply_function import apply_function
from mirror.schema.freshness import freshness_checks, is_fresh, readable_must_be_fresh
from mirror.schema.ledger_tables import (
    add_column,
    adopt_sql,
    column_type,
    leave_room,
    led_by,
    ledger_sql,
)
from mirror.schema.names import ledger_column, table_name
from mirror.schema.quoting import comma, identifier, literal
from mirror.schema.withheld_rows import ended_above_function, not_withheld, withheld_function

_FUNCTION = re.compile(r"create or replace function (\S+?)\(([^)]*)\)\s+returns ")

_HEADER = """\
-- The permission model {name}: tables, row-level security, and the functions that write them.
--
-- Printed from the mapping declarations; change those, not this file. Every statement can run
-- again. A table that already exists with another shape or owner is refused. One of this model gets
-- new columns and foreign keys, and a column outside of its key its new type.


-- Workers stand aside meanwhile: a batch in flight and these statements could deadlock.
select pg_advisory_xact_lock(1835627122, 1);"""


def model_sql(registry: Registry) -> str:
    """Return the SQL that installs `registry` in a target that has the migration `0001_engine`.

    Raises:
        MappingError: a declaration in `access` cannot work, or two print the same function.
    """
    security = [_security(registry, mapping) for mapping in registry]
    blocks = [_HEADER.format(name=registry.name)]
    blocks += ["\n".join(_check(registry, mapping) for mapping in registry)]
    blocks += freshness_checks(security)
    for mapping in registry:
        blocks += [_table(registry, mapping), *_indexes(mapping), ledger_sql(mapping)]
        blocks += [adopt_sql(mapping)]
    blocks += [apply_function(registry, mapping) for mapping in registry]
    helpers = [block for access in registry.access for block in access.ddl(registry)]
    blocks += [*helpers, _retire(registry, helpers), *security]
    blocks += [
        _declare(registry, mapping, position) for position, mapping in enumerate(registry, 1)
    ]
    return "\n\n\n".join(blocks) + "\n"


def _check(registry: Registry, mapping: Mapping) -> str:
    """Return the statement that refuses an existing table with another shape or owner."""
    shape = {
        "model": registry.name,
        "table": [mapping.schema, mapping.table],
        "columns": {column.name: column.type for column in mapping.columns},
        "key": list(mapping.key),
        "parents": {
            parent.column: table_name(registry[parent.mapping]) for parent in mapping.parents
        },
        "policy": f"{mapping.table}_read",
    }
    return (
        f"select mirror.check_table({literal(mapping.name)}, {literal(table_name(mapping))},\n"
        f"  {literal(json.dumps(shape))}\n);"
    )


def _table(registry: Registry, mapping: Mapping) -> str:
    lines = []
    for column in mapping.columns:
        required = " not null" if column.name in mapping.key else ""
        kind = column_type(mapping, column.name, column.type)
        lines.append(f"{identifier(column.name)} {kind}{required}")
    lines.append(f"primary key ({comma(mapping.key)})")
    references = {}
    for parent in mapping.parents:
        other = registry[parent.mapping]
        references[parent.column] = (
            f"references {table_name(other)} ({comma(other.key)}) on delete cascade"
        )
        lines.append(f"foreign key ({identifier(parent.column)}) {references[parent.column]}")
    body = indent(",\n".join(lines), "  ")
    table = table_name(mapping)
    added = [
        add_column(table, column.name, column.type, references.get(column.name, ""))
        for column in mapping.data_columns
    ]
    for parent in mapping.parents:
        arguments = [table, parent.column, table_name(registry[parent.mapping])]
        literals = ", ".join(map(literal, arguments))
        clause = literal(references[parent.column])
        added.append(f"select mirror.add_parent({literals},\n  {clause}\n);")
    return "\n".join(
        [f"create table if not exists {table} (\n{body}\n);", leave_room(table), *added]
    )


def _indexes(mapping: Mapping) -> list[str]:
    """Return one index statement for each parent's column that does not lead the primary key."""
    return [
        f"create unique index if not exists {identifier(f'{mapping.table}_{parent.column}')}\n"
        f"on {table_name(mapping)} ({led_by(mapping, parent.column)});"
        for parent in mapping.parents
        if parent.column != mapping.key[0]
    ]


def _retire(registry: Registry, helpers: list[str]) -> str:
    """Return the statement that closes what this model no longer declares, and notes it.

    `helpers` are the statements that create the helper functions.
    """
    kept = [
        {
            "name": mapping.name,
            "table": [mapping.schema, mapping.table],
            "columns": [column.name for column in mapping.columns],
            "references": [
                ledger_column(mapping, reference.name) for reference in mapping.all_references
            ],
            "parents": [
                [parent.column, table_name(registry[parent.mapping])] for parent in mapping.parents
            ],
        }
        for mapping in registry
    ]
    body = "[\n" + indent(",\n".join(map(json.dumps, kept)), "  ") + "\n]"
    signatures = _signatures(registry, helpers)
    functions = ",\n".join(map(literal, signatures))
    listed = f"array[\n{indent(functions, '  ')}\n]" if signatures else "'{}'"
    return (
        f"-- Close what an earlier version of this model declared and this one does not.\n"
        f"select mirror.retire({literal(registry.name)}, {literal(body)}, {listed});"
    )


def _signatures(registry: Registry, helpers: list[str]) -> list[str]:
    """Return the helpers' names with the types of their arguments.

    Raises:
        MappingError: two declarations print the same function, so the last one would decide for
            both.
    """
    signatures = [
        f"{name}({', '.join(part.split(None, 1)[1] for part in arguments.split(', ') if part)})"
        for name, arguments in _FUNCTION.findall("\n".join(helpers))
    ]
    for signature, number in Counter(signatures).items():
        if number > 1:
            raise MappingError(
                f"registry {registry.name!r}: two declarations in `access` print the function "
                f"{signature}; give one of them another `noun`, or another `check`."
            )
    return signatures


def _security(registry: Registry, mapping: Mapping) -> str:
    """Return the statements that decide what the API's roles may do with a mirrored table.

    They enable row-level security, set the privileges, replace the table's one policy, and add the
    indexes that the mapping's `readable` names.
    """
    table, policy = table_name(mapping), identifier(f"{mapping.table}_read")
    using, functions, grants, indexes = "using (false)", [], [], []
    if mapping.readable is not None:
        functions = [
            *ended_above_function(registry, mapping),
            withheld_function(registry, mapping),
            "",
            "",
        ]
        using = f"using ({_limited(registry, mapping, mapping.readable.using)})"
        grants = [f"grant select ({comma(mapping.readable.columns)}) on {table} to authenticated;"]
        indexes = [
            f"select mirror.add_index({literal(table)}, {literal(column)});"
            for column in mapping.readable.indexed
        ]
    if mapping.expires is not None:
        # The sweep asks by time.
        indexes.append(f"select mirror.add_index({literal(table)}, {literal(mapping.expires)});")
    return "\n".join(
        [
            *functions,
            f"-- {mapping.name}: the API's roles write nothing and read only what is granted here.",
            f"alter table {table} enable row level security;",
            f"revoke all on {table} from public, anon, authenticated, service_role;",
            f"grant select on {table} to service_role;",
            *grants,
            f"drop policy if exists {policy} on {table};",
            f"create policy {policy} on {table} for select to authenticated",
            f"{using};",
            *indexes,
        ]
    )


def _limited(registry: Registry, mapping: Mapping, condition: str) -> str:
    """Return the condition of a policy, extended so that it is false for rows that grant nothing.

    These are withheld or have expired. It is also false while the target is older than the
    registry's bound, if there is one.
    """
    more = [not_withheld(registry, mapping)]
    if mapping.expires is not None:
        moment = identifier(mapping.expires)
        more.append(f"({moment} is null or {moment} > now())")
    names = readable_must_be_fresh(registry, mapping)
    if names:
        more.append(is_fresh(registry, names))
    return "\n  and ".join([f"\n  ({condition})", *more]) + "\n"


def _declare(registry: Registry, mapping: Mapping, position: int) -> str:
    """Return the statement that records a mapping's declaration and digest in the target."""
    parts = (
        f"  {json.dumps(name)}: {json.dumps(value)}"
        for name, value in mapping.declaration().items()
    )
    declaration = "{\n" + ",\n".join(parts) + "\n}"
    return f"""\
insert into mirror.mappings (name, model, position, digest, is_parent, declaration)
values ({literal(mapping.name)}, {literal(registry.name)}, {position}, {literal(mapping.digest)}, \
{str(bool(mapping.children)).lower()}, {literal(declaration)})
on conflict (name) do update
set model = excluded.model, position = excluded.position, digest = excluded.digest,
  is_parent = excluded.is_parent, declaration = excluded.declaration;"""
