"""The target's side of a registry: tables, ledgers, functions, helpers and policies.

`model_sql` prints one migration from the declarations alone. Every block can run again, and an
existing table of another shape or owner is refused by name. To a table of ours, columns that the
declaration has gained are added; nothing else is altered.
"""

import json
from textwrap import indent

from mirror.model.mapping import Mapping
from mirror.model.registry import Registry
from mirror.schema.compare_functions import (
    digest_function,
    expired_function,
    lock_functions,
    rows_function,
)
from mirror.schema.names import ledger_column
from mirror.schema.quoting import comma, identifier, literal
from mirror.schema.survey_function import survey_function
from mirror.schema.write_functions import (
    apply_function,
    scope_function,
    withdraw_function,
)

_HEADER = """\
-- The permission model {name}: tables, row-level security, and the functions that write them.
--
-- Printed from the mapping declarations; change those, not this file. Every statement can run
-- again. A table that already exists with another shape or owner is refused; to one of this model,
-- new columns are added, and nothing else is altered.


-- Workers stand aside meanwhile: a batch in flight and these statements could deadlock.
select pg_advisory_xact_lock(1835627122, 1);"""


def model_sql(registry: Registry) -> str:
    """Return the migration that installs `registry` in a target that has the engine."""
    blocks = [_HEADER.format(name=registry.name)]
    blocks += ["\n".join(_check(registry, mapping) for mapping in registry)]
    for mapping in registry:
        blocks += [_table(registry, mapping), *_indexes(mapping), _ledger(mapping)]
        blocks += [_adopt(mapping)]
    # Children's functions first: a parent's call them.
    for mapping in reversed(tuple(registry)):
        blocks += [
            withdraw_function(registry, mapping),
            scope_function(mapping),
            apply_function(registry, mapping),
            _lock_functions(mapping),
            digest_function(mapping),
            survey_function(mapping),
            rows_function(registry.name, mapping),
            *expired_function(mapping),
            lock_functions(mapping),
        ]
    for access in registry.access:
        blocks += access.ddl(registry)
    blocks += [_drop_others(registry)]
    for mapping in registry:
        blocks += [_security(mapping)]
    for position, mapping in enumerate(registry, 1):
        blocks += [_declare(registry, mapping, position)]
    return "\n\n\n".join(blocks) + "\n"


def column_type(mapping: Mapping, name: str, kind: str) -> str:
    """Return the type as DDL. Text keys sort by bytes, as every page of keys expects."""
    return f'{kind} collate "C"' if kind == "text" and name in mapping.key else kind


def _check(registry: Registry, mapping: Mapping) -> str:
    shape = {
        "model": registry.name,
        "table": [mapping.schema, mapping.table],
        "columns": {column.name: column.type for column in mapping.columns},
        "key": list(mapping.key),
        "parents": {
            parent.column: identifier(other.schema, other.table)
            for parent in mapping.parents
            for other in [registry[parent.mapping]]
        },
        "policy": f"{mapping.table}_read",
    }
    return (
        f"select mirror.check_table({literal(mapping.name)}, "
        f"{literal(identifier(mapping.schema, mapping.table))},\n"
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
            f"references {identifier(other.schema, other.table)} ({comma(other.key)})"
            f" on delete cascade"
        )
        lines.append(f"foreign key ({identifier(parent.column)}) {references[parent.column]}")
    body = indent(",\n".join(lines), "  ")
    table = identifier(mapping.schema, mapping.table)
    added = "".join(
        _add_column(table, column.name, column.type, references.get(column.name, ""))
        for column in mapping.data_columns
    )
    return f"create table if not exists {table} (\n{body}\n);{added}"


def _add_column(table: str, name: str, kind: str, more: str = "") -> str:
    arguments = [table, name, kind, more] if more else [table, name, kind]
    return f"\nselect mirror.add_column({', '.join(map(literal, arguments))});"


def _led_by(mapping: Mapping, column: str) -> str:
    """Return the columns of an index led by `column`.

    The key follows: then "all trips of this user" is answered from the index alone, and the
    index may be called unique, which keeps Supabase's advisors from calling it unused.
    """
    return comma([column, *(name for name in mapping.key if name != column)])


def _indexes(mapping: Mapping) -> list[str]:
    """Index each parent's column that the primary key does not already lead with."""
    return [
        f"create unique index if not exists {identifier(f'{mapping.table}_{parent.column}')}\n"
        f"on {identifier(mapping.schema, mapping.table)} ({_led_by(mapping, parent.column)});"
        for parent in mapping.parents
        if parent.column != mapping.key[0]
    ]


def _ledger(mapping: Mapping) -> str:
    name = f"ledger_{mapping.name}"
    ledger = identifier("mirror", name)
    lines = [
        f"{identifier(column.name)} {column_type(mapping, column.name, column.type)} not null"
        for column in mapping.key_columns
    ]
    extra = [ref for ref in mapping.all_references if ref.name not in mapping.key]
    lines += [f"{identifier('ref_' + reference.name)} {reference.type}" for reference in extra]
    lines += [
        "epoch integer not null",
        "fence bigint not null",
        "present boolean not null",
        "applied_at timestamptz not null",
        f"primary key ({comma(mapping.key)})",
    ]
    # Two workers may insert one key at once, and the loser must not fail but update. ON CONFLICT
    # sees to that for every unique index on just the key's columns, in whatever order; one that
    # has another column must be deferrable, so that the primary key is asked first.
    constraints = {
        f"{name}_by_{reference.name}": (
            f"unique ({_led_by(mapping, ledger_column(mapping, reference.name))})"
            + ("" if reference.name in mapping.key else " deferrable")
        )
        for reference in mapping.all_references
        if reference.name != mapping.key[0]
    }
    lines += [f"constraint {identifier(con)}\n  {what}" for con, what in constraints.items()]
    added = "".join(_add_column(ledger, f"ref_{ref.name}", ref.type) for ref in extra)
    added += _fill_references(mapping)
    added += "".join(
        f"\nselect mirror.add_constraint({literal(ledger)}, {literal(con)},\n  {literal(what)}\n);"
        for con, what in constraints.items()
    )
    body = indent(",\n".join(lines), "  ")
    blocks = [
        f"-- {mapping.name}: what was last written for each key, and how fresh the read was.\n"
        f"create table if not exists {ledger} (\n{body}\n);{added}\n"
        f"revoke all on {ledger} from public, anon, authenticated, service_role;",
        # Not by age: an index on what every write changes would make every write dearer.
        f"-- Purging looks at tombstones alone.\n"
        f"create unique index if not exists {identifier(f'{name}_tombstones')}\n"
        f"on {ledger} ({comma(mapping.key)}) where not present;",
    ]
    return "\n\n".join(blocks)


def _is_ours(mapping: Mapping) -> str:
    """Return the condition that this mapping has been installed with this table before."""
    table = json.dumps([mapping.schema, mapping.table])
    return (
        f"exists (\n  select from mirror.mappings\n  where name = {literal(mapping.name)}"
        f" and declaration -> 'table' = {literal(table)}\n)"
    )


def _visible_references(mapping: Mapping) -> dict[str, str]:
    """Return the references that are columns of the table, by their column in the ledger."""
    columns = {column.name for column in mapping.data_columns}
    return {f"ref_{ref.name}": ref.name for ref in mapping.all_references if ref.name in columns}


def _fill_references(mapping: Mapping) -> str:
    """Enter the values of a column that has become a reference."""
    return "".join(
        f"\nupdate {identifier('mirror', f'ledger_{mapping.name}')} as l\n"
        f"set {identifier(ref)} = t.{identifier(name)}\n"
        f"from {identifier(mapping.schema, mapping.table)} as t\n"
        f"where l.present and l.{identifier(ref)} is null and t.{identifier(name)} is not null"
        + "".join(f"\n  and l.{identifier(key)} = t.{identifier(key)}" for key in mapping.key)
        + ";"
        for ref, name in _visible_references(mapping).items()
    )


def _adopt(mapping: Mapping) -> str:
    """Enter the rows of a table that was there before us: scopes list keys from the ledger alone.

    Their fence is older than any read, so that the first one decides. Only then: later, a row
    without an entry may be what a foreign key held back, and must not pass for one that is there.
    """
    known = {name: name for name in mapping.key} | _visible_references(mapping)
    return (
        f"-- Rows of a table that is taken over: the next resync judges them.\n"
        f"insert into {identifier('mirror', f'ledger_{mapping.name}')} ({comma(known)}, "
        f"epoch, fence, present, applied_at)\n"
        f"select {comma(known.values())}, 0, 0, true, now()\n"
        f"from {identifier(mapping.schema, mapping.table)}\n"
        f"where not {_is_ours(mapping)}\n"
        f"on conflict ({comma(mapping.key)}) do nothing;"
    )


def _lock_functions(mapping: Mapping) -> str:
    arrays = ", ".join(f"{column.type}[]" for column in mapping.key_columns)
    return f"""\
revoke all on function
  {identifier("mirror", f"apply_{mapping.name}")}(integer, bigint, jsonb, jsonb),
  {identifier("mirror", f"scope_{mapping.name}")}(text, text[], text[], integer),
  {identifier("mirror", f"withdraw_{mapping.name}")}(integer, bigint, {arrays})
from public, anon, authenticated, service_role;"""


def _drop_others(registry: Registry) -> str:
    """Let nobody read any more what this model does not declare any more."""
    names = ", ".join(literal(mapping.name) for mapping in registry)
    tables = ",\n    ".join(literal(json.dumps([m.schema, m.table])) for m in registry)
    return f"""\
-- What an earlier version of this model declared is mirrored no more, so its rows must not grant
-- for ever. The table and its rows stay, for whoever wants to look; other models are left alone.
do $$
declare
  kept constant jsonb[] := array[
    {tables}
  ]::jsonb[];
  old record;
  child record;
begin
  for old in
    select format('%I.%I', d.schema, d.name) as name, d.name || '_read' as policy
    from mirror.mappings as m
    cross join lateral (
      select m.declaration #>> '{{table,0}}' as schema, m.declaration #>> '{{table,1}}' as name
    ) as d
    where m.model = {literal(registry.name)}
      and m.declaration -> 'table' <> all (kept)
  loop
    continue when to_regclass(old.name) is null;
    execute format('revoke all on %s from public, anon, authenticated', old.name);
    execute format('drop policy if exists %I on %s', old.policy, old.name);
    -- Its rows come no more; whoever needed them there must not be held back.
    for child in
      select c.conname, c.conrelid::regclass::text as name
      from pg_constraint as c
      join mirror.mappings as m on c.conrelid = to_regclass(
        format('%I.%I', m.declaration #>> '{{table,0}}', m.declaration #>> '{{table,1}}')
      )
      where c.confrelid = to_regclass(old.name) and c.contype = 'f'
        and m.declaration -> 'table' = any (kept)
    loop
      execute format('alter table %s drop constraint %I', child.name, child.conname);
    end loop;
    raise notice 'nobody may read % any more: model {registry.name} no longer has it', old.name;
  end loop;
  delete from mirror.mappings
  where model = {literal(registry.name)} and name <> all (array[{names}]::text[]);
end
$$;"""


def _security(mapping: Mapping) -> str:
    table = identifier(mapping.schema, mapping.table)
    blocks = [
        f"-- {mapping.name}: the API's roles write nothing and read only what is granted here.\n"
        f"alter table {table} enable row level security;\n"
        f"revoke all on {table} from public, anon, authenticated, service_role;\n"
        f"grant select on {table} to service_role;"
    ]
    policy = identifier(f"{mapping.table}_read")
    if mapping.readable is not None:
        blocks.append(
            f"grant select ({comma(mapping.readable.columns)}) on {table} to authenticated;\n"
            f"drop policy if exists {policy} on {table};\n"
            f"create policy {policy} on {table} for select to authenticated\n"
            f"using ({_using(mapping, mapping.readable.using)});"
            + "".join(
                f"\nselect mirror.add_index({literal(table)}, {literal(column)});"
                for column in mapping.readable.indexed
            )
        )
    else:
        blocks.append(
            f"drop policy if exists {policy} on {table};\n"
            f"create policy {policy} on {table} for select to authenticated\nusing (false);"
        )
    return "\n".join(blocks)


def _using(mapping: Mapping, condition: str) -> str:
    """Return who may read a row: of one that has expired, nobody."""
    if mapping.expires is None:
        return condition
    moment = identifier(mapping.expires)
    return f"\n  ({condition})\n  and ({moment} is null or {moment} > now())\n"


def _declare(registry: Registry, mapping: Mapping, position: int) -> str:
    declaration = json.dumps(mapping.declaration(), indent=2)
    return f"""\
insert into mirror.mappings (name, model, position, digest, is_parent, declaration)
values ({literal(mapping.name)}, {literal(registry.name)}, {position}, {literal(mapping.digest)}, \
{str(bool(mapping.children)).lower()}, {literal(declaration)})
on conflict (name) do update
set model = excluded.model, position = excluded.position, digest = excluded.digest,
  is_parent = excluded.is_parent, declaration = excluded.declaration;"""
