"""Trigger capture: the primary's side of a registry, printed from the declarations alone.

Each table that a mapping reads gets statement-level triggers, so that the cost of a change grows
with its rows by a few set operations, and one function that writes the events. The function must
never be the reason why a writer's transaction fails: what it does not understand any more, such
as a column that is gone, it records as a change of everything.
"""

import re
from collections.abc import Callable
from hashlib import sha256
from textwrap import indent

from mirror.ddl.transitions import deleted, inserted, untied, updated
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
    return f"select mirror.check_source({literal(_quoted(table))}, {_columns(effects)});"


def _columns(effects: tuple[Effect, ...]) -> str:
    """Return the columns that the events of a table name or depend on, as an array."""
    named = {column for effect in effects for column in effect.columns}
    read = {column for effect in effects for column in effect.reads or ()}
    return f"array[{', '.join(map(literal, sorted(named | read)))}]::text[]"


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
        "INSERT": [inserted(effect) for effect in effects],
        "UPDATE": [updated(effect) for effect in effects],
        "DELETE": [deleted(effect) for effect in effects],
    }
    for effect in effects:
        if effect.nulls:
            for operation, queries in untied(effect).items():
                events[operation] += queries
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
    -- To read a virtual generated column of old and new rows yields null, or fails.
    if exists (
      select from pg_attribute
      where attrelid = tg_relid and attgenerated = 'v' and attname = any ({_columns(effects)})
    ) then
      raise exception 'a column that a mapping reads is now a virtual generated one';
    end if;
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
