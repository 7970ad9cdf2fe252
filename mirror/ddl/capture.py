"""Trigger capture: the primary's side of a registry, printed from the declarations alone.

Each table that a mapping reads gets statement-level triggers, so that the cost of a change grows
with its rows by a few set operations, and one function that writes the events. The function must
never be the reason why a writer's transaction fails: what it does not understand any more, such
as a column that is gone, it records as a change of everything.
"""

import re
from collections.abc import Callable, Iterable
from hashlib import sha256
from textwrap import indent

from mirror.effects import Effect
from mirror.mapping import EVERYTHING
from mirror.registry import Registry
from mirror.sql import identifier, literal

_HEADER = """\
-- Capture for the permission model {name}: whoever changes a row that it reads, the change is
-- recorded in mirror.outbox, in the same transaction.
--
-- Printed from the mapping declarations; change those, not this file. Run it in one transaction;
-- every statement can run again."""

_OPERATIONS = {
    "insert": " referencing new table as new_rows",
    "update": " referencing old table as old_rows new table as new_rows",
    "delete": " referencing old table as old_rows",
    "truncate": "",
}


def triggers_sql(registry: Registry) -> str:
    """Return the SQL that makes the primary record every change that `registry` reads.

    It replaces what an earlier version of the registry installed.
    """
    blocks = [_HEADER.format(name=registry.name)]
    blocks += ["\n".join(_check(table, found) for table, found in registry.effects.items())]
    blocks += [_lock(registry)]
    for table, found in registry.effects.items():
        blocks += [_function(registry, table, found), _triggers(registry, table)]
    # Last: a trigger that got another function is no leftover.
    blocks += [
        _drop(registry, keep=[_function_name(registry, table) for table in registry.effects])
    ]
    return "\n\n\n".join(blocks) + "\n"


def removal_sql(registry: Registry) -> str:
    """Return the SQL that takes the triggers away again."""
    return (
        f"{_drop(registry, keep=[])}\n\n\n"
        f"delete from mirror.migrations where name = {literal(f'triggers_{registry.name}')};\n"
    )


def _check(table: str, effects: tuple[Effect, ...]) -> str:
    named = {column for effect in effects for column in effect.columns}
    read = {column for effect in effects for column in effect.reads or ()}
    columns = ", ".join(map(literal, sorted(named | read)))
    return f"select mirror.check_source({literal(_quoted(table))}, array[{columns}]::text[]);"


def _function_name(registry: Registry, table: str) -> str:
    name = f"capture_{registry.name}_{table}"
    plain = re.sub(r"[^a-z0-9_]", "_", name)
    # Or the tables "c_d" of a registry "b" and "d" of "b_c" would have one function.
    tells = plain == name and "_" not in registry.name
    if tells and len(name) <= 63:  # noqa: PLR2004 - what PostgreSQL keeps
        return name
    return f"{plain[:54]}_{sha256(f'{registry.name} {table}'.encode()).hexdigest()[:8]}"


def _quoted(table: str) -> str:
    return identifier(*table.split(".", 1))


def _trigger_name(registry: Registry, operation: str) -> str:
    return identifier(f"mirror_{registry.name}_{operation}")


def _triggers(registry: Registry, table: str) -> str:
    function = identifier("mirror", _function_name(registry, table))
    return "\n".join(
        f"create or replace trigger {_trigger_name(registry, operation)}\n"
        f"after {operation} on {_quoted(table)}{rows}\n"
        f"for each statement execute function {function}();\n"
        # Also what is written with session_replication_role = replica is a change.
        f"alter table {_quoted(table)} enable always trigger {_trigger_name(registry, operation)};"
        for operation, rows in _OPERATIONS.items()
    )


def _lock(registry: Registry) -> str:
    first, *others = (_quoted(table) for table in registry.effects)
    rest = (
        f"\n      lock table {', '.join(others)} in share row exclusive mode nowait;"
        if others
        else ""
    )
    return f"""\
-- Writers of these tables wait meanwhile. Who waits for one table while holding another could be
-- in a deadlock with a writer, and the writer would lose: so wait for the first one only.
do $$
declare
  deadline constant timestamptz := clock_timestamp() + interval '10 seconds';
begin
  perform set_config('lock_timeout', '5s', true);
  loop
    begin
      lock table {first} in share row exclusive mode;{rest}
      return;
    exception when lock_not_available then
      if clock_timestamp() > deadline then
        raise exception 'the tables that the mappings read are too busy to install triggers'
          using errcode = '55P03', hint = 'Nothing has changed; try again.';
      end if;
      perform pg_sleep(0.05);
    end;
  end loop;
end
$$;"""


def _drop(registry: Registry, *, keep: list[str]) -> str:
    kept = f"\n      and f.proname <> all (array[{', '.join(map(literal, keep))}])" if keep else ""
    return f"""\
do $$
declare
  old record;
begin
  for old in
    select t.tgname, t.tgrelid::regclass as source
    from pg_trigger as t
    join pg_proc as f on f.oid = t.tgfoid
    where f.pronamespace = 'mirror'::regnamespace
      and t.tgname ~ {literal(f"^mirror_{registry.name}_({'|'.join(_OPERATIONS)})$")}{kept}
  loop
    execute format('drop trigger %I on %s', old.tgname, old.source);
  end loop;
  for old in
    select f.proname
    from pg_proc as f
    where f.pronamespace = 'mirror'::regnamespace
      and obj_description(f.oid, 'pg_proc') = {literal(_comment(registry))}{kept}
  loop
    execute format('drop function mirror.%I()', old.proname);
  end loop;
end
$$;"""


def _comment(registry: Registry) -> str:
    return f"Capture for the permission model {registry.name}"


def _function(registry: Registry, table: str, effects: tuple[Effect, ...]) -> str:
    function = identifier("mirror", _function_name(registry, table))
    events = {
        "INSERT": [_inserted(effect) for effect in effects],
        "UPDATE": [_updated(effect) for effect in effects],
        "DELETE": [_deleted(effect) for effect in effects],
    }
    for effect in effects:
        if effect.nulls:
            lane = 1 if effect.adds else 0
            events["INSERT"].append(_untied(effect, "select * from new_rows", "r", lane=lane))
            events["DELETE"].append(_untied(effect, "select * from old_rows", "r", lane=0))
            events["UPDATE"] += [
                _untied(effect, _difference(*sides, effect, effect.reads), "c1", lane=0)
                for sides in (("old", "new"), ("new", "old"))
            ]
    whole = ", ".join(
        f"(0, {literal(name)}, {literal(EVERYTHING)}, '{{}}')"
        for name in sorted({effect.mapping for effect in effects})
    )
    everything = (
        f"insert into mirror.outbox (lane, mapping, reference, key)\nvalues {whole};\nreturn null;"
    )
    tried = _by_operation(
        events, lambda query: f"perform from (\n{indent(query, '  ')}\n  limit 0\n) as trial;"
    )
    recorded = _by_operation(
        events,
        lambda query: f"insert into mirror.outbox (lane, mapping, reference, key)\n{query};",
    )
    return f"""\
create or replace function {function}() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
begin
  if tg_op = 'TRUNCATE' then
{indent(everything, "    ")}
  end if;

  -- A trial, which costs next to nothing: the table may have changed since this was printed, and
  -- the writer's transaction must not fail for that. It writes nothing, so that the block takes
  -- no transaction id.
  begin
{indent(tried, "    ")}
  exception when others then
    raise warning 'permission-mirror: % has changed, so each write counts as a change of all (%)',
      tg_relid::regclass, sqlerrm
      using hint = 'Correct the mappings, then run `mirror migrate primary --triggers`.';
{indent(everything, "    ")}
  end;

{indent(recorded, "  ")}
  return null;
end
$$;
comment on function {function}() is {literal(_comment(registry))};
revoke all on function {function}() from public;"""


def _by_operation(events: dict[str, list[str]], statement: Callable[[str], str]) -> str:
    lines = []
    for number, (operation, queries) in enumerate(events.items()):
        lines.append(f"{'els' if number else ''}if tg_op = '{operation}' then")
        lines += [indent(statement(query), "  ") for query in queries]
    return "\n".join([*lines, "end if;"])


def _inserted(effect: Effect) -> str:
    return _all(effect, "new_rows", lane=1 if effect.adds else 0)


def _deleted(effect: Effect) -> str:
    return _all(effect, "old_rows", lane=0)


def _all(effect: Effect, rows: str, *, lane: int) -> str:
    """Return a query for the events of all rows of a transition table."""
    if effect.reference == EVERYTHING:
        return f"select {lane}, {_what(effect)}, '{{}}'::text[]\nwhere exists (select from {rows})"
    distinct = "" if effect.unique else "distinct "
    values = [f"r.{identifier(column)}" for column in effect.columns]
    return (
        f"select {distinct}{lane}, {_what(effect)}, {_texts(values)}\n"
        f"from {rows} as r\n"
        f"where {_and(f'{value} is not null' for value in values)}"
    )


def _untied(effect: Effect, rows: str, value: str, *, lane: int) -> str:
    """Return a query for the event of rows that count though they have NULL for what ties."""
    column = f"r.{identifier(effect.columns[0])}" if value == "r" else f"r.{value}"
    return (
        f"select {lane}, {literal(effect.mapping)}, {literal(EVERYTHING)}, '{{}}'::text[]\n"
        f"where exists (\n  select from (\n{indent(rows, '    ')}\n  ) as r\n"
        f"  where {column} is null\n)"
    )


def _updated(effect: Effect) -> str:
    if effect.reference == EVERYTHING:
        return (
            f"select 0, {_what(effect)}, '{{}}'::text[]\n"
            f"where exists (\n{indent(_difference('old', 'new', effect, effect.reads), '  ')}\n)"
        )
    return _paired(effect) if effect.unique else _differing(effect)


def _paired(effect: Effect) -> str:
    """Return a query for the events of rows that differ, each found by its key on both sides.

    Rows are compared as images, byte by byte: that works for every type.
    """
    names = [identifier(column) for column in effect.columns]
    same = _and(
        # As bytes: to some collations, two keys are one.
        f"{_text(f'o.{name}')} = {_text(f'n.{name}')}"
        for name in names
    )
    first = names[0]
    moved = f"o.{first} is null or n.{first} is null"
    decided = f"{moved}{_differ(effect, effect.decides)}"
    values = [f"coalesce(n.{name}, o.{name})" for name in names]
    return (
        f"select case when {decided} then 0 else 1 end, {_what(effect)},\n"
        f"  {_texts(values)}\n"
        f"from old_rows as o\n"
        f"full join new_rows as n on {same}\n"
        f"where ({moved}{_differ(effect, effect.reads)})\n"
        f"  and {_and(f'{value} is not null' for value in values)}"
    )


def _differ(effect: Effect, columns: frozenset[str] | None) -> str:
    if columns is None:
        return "\n  or o *<> n"
    names = sorted(columns - set(effect.columns))
    if not names:
        return ""
    old, new = (", ".join(f"{side}.{identifier(name)}" for name in names) for side in "on")
    return f"\n  or row({old})::record *<> row({new})::record"


def _differing(effect: Effect) -> str:
    """Return a query for what rows name of which the statement left more or fewer than before.

    To the mapping's query, rows that agree in all it reads are one like the other.
    """
    sides = (("old", "new"), ("new", "old"))
    lanes = [(0, effect.decides)] + [(1, effect.reads)] * (effect.reads != effect.decides)
    names = [f"c{number}" for number, _ in enumerate(effect.columns, 1)]
    found = "\nunion all\n".join(
        f"select {lane} as lane, {', '.join(names)} from (\n"
        f"{indent(_difference(*pair, effect, columns), '  ')}\n) as d"
        for lane, columns in lanes
        for pair in sides
    )
    return (
        f"select min(f.lane), {_what(effect)}, array[{', '.join(f'f.{n}' for n in names)}]\n"
        f"from (\n{indent(found, '  ')}\n) as f\n"
        f"where {_and(f'f.{name} is not null' for name in names)}\n"
        f"group by {', '.join(f'f.{name}' for name in names)}"
    )


def _difference(mine: str, other: str, effect: Effect, columns: frozenset[str] | None) -> str:
    """Return a query for what one side has and the other has not, in the columns that matter."""
    values = [
        f"{_text(f'r.{identifier(name)}')} as c{i}" for i, name in enumerate(effect.columns, 1)
    ]
    if columns is None:
        values.append('(r.*)::text collate "C" as rest')
    elif rest := sorted(columns - set(effect.columns)):
        several = ", ".join(f"r.{identifier(name)}" for name in rest)
        values.append(f'row({several})::text collate "C" as rest')
    chosen = ", ".join(values) or "1"
    return (
        f"select {chosen} from {mine}_rows as r\nexcept all\nselect {chosen} from {other}_rows as r"
    )


def _what(effect: Effect) -> str:
    reference = "null" if effect.reference is None else literal(effect.reference)
    return f"{literal(effect.mapping)}, {reference}"


def _text(value: str) -> str:
    """Return a value as text that is compared by its bytes, whatever its type and collation."""
    return f'(case when {value} is distinct from null then {_printed(value)} end) collate "C"'


def _texts(values: Iterable[str]) -> str:
    return f"array[{', '.join(map(_printed, values))}]"


def _printed(value: str) -> str:
    """Return a value's text as its type prints it.

    A cast would call a function of whoever made the type, with the rights of whoever installed
    this. What format() and a row's text call is the server's, or a superuser's.
    """
    return f"format('%s', {value})"


def _and(conditions: Iterable[str]) -> str:
    return " and ".join(conditions)
