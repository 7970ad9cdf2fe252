"""Triggers: the SQL of the triggers in the primary that record changes, from declarations alone.

Each table that a mapping reads gets statement-level triggers and one function that writes the
events, so that a change of many rows costs a few set operations. The function must never fail a
writer's transaction. If it no longer fits its table, for example because a column is gone, it
records, for each mapping that reads the table, a change of the whole mapping.
"""

import re
from collections.abc import Callable
from hashlib import sha256
from textwrap import indent

from mirror.model.mapping import EVERYTHING
from mirror.model.query.effects import Effect
from mirror.model.registry import Registry
from mirror.schema.quoting import LONGEST, identifier, literal
from mirror.schema.skeletons import fill
from mirror.schema.trigger_events import deleted, inserted, updated, with_null

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
# Where rows are compared by their texts, two values must not have one: a writer's session may print
# few digits of a number, or the hour that an autumn night has twice.
_SETTINGS = "\nset extra_float_digits = 1 set timezone = 'UTC'"
_RECORD = "insert into mirror.outbox (lane, mapping, reference, key)"


def triggers_sql(registry: Registry) -> str:
    """Return the SQL that makes the primary record every change of a row that `registry` reads.

    It replaces the triggers of an earlier version of the registry.
    """
    blocks = [_HEADER.format(name=registry.name)]
    blocks += ["\n".join(_check(table, effects) for table, effects in registry.effects.items())]
    blocks += [lock_sources_sql([quoted_table(table) for table in registry.effects])]
    for table, effects in registry.effects.items():
        blocks += [_function(registry, table, effects), _triggers(registry, table)]
    # Last: by now, no trigger in use calls an old function.
    blocks += [
        _drop(registry, keep=[_function_name(registry, table) for table in registry.effects])
    ]
    return "\n\n\n".join(blocks) + "\n"


def removal_sql(registry: Registry) -> str:
    """Return the SQL that removes a registry's triggers, and their entry in the history."""
    return (
        f"{_drop(registry, keep=[])}\n\n\n"
        f"delete from mirror.migrations where name = {literal(f'triggers_{registry.name}')};\n"
    )


def capture_functions(registry: Registry) -> list[tuple[str, str, str, str]]:
    """Return for each table its name, its quoted name, the name of its function, and its SQL."""
    return [
        (
            table,
            quoted_table(table),
            _function_name(registry, table),
            _function(registry, table, effects),
        )
        for table, effects in registry.effects.items()
    ]


def trigger_names(registry: Registry) -> list[str]:
    """Return the names of the triggers that each table gets, in the order of the operations."""
    return [f"mirror_{registry.name}_{operation}" for operation in _OPERATIONS]


def capture_comment(registry: Registry) -> str:
    """Return the comment on each function of a registry's triggers."""
    return f"Capture for the permission model {registry.name}"


def _check(table: str, effects: tuple[Effect, ...]) -> str:
    arguments = f"{literal(quoted_table(table))}, {_columns(effects)}, {_named(effects)}"
    return f"select mirror.check_source({arguments});"


def _columns(effects: tuple[Effect, ...]) -> str:
    """Return, as an SQL array, the columns of a table that its events contain or depend on."""
    return _array({name for e in effects for name in (*e.columns, *(e.reads or ()))})


def _named(effects: tuple[Effect, ...]) -> str:
    """Return, as an SQL array, the columns of a table whose values name keys and scopes."""
    return _array({name for effect in effects for name in effect.columns})


def _array(names: set[str]) -> str:
    return f"array[{', '.join(map(literal, sorted(names)))}]::text[]"


def _function_name(registry: Registry, table: str) -> str:
    name = f"capture_{registry.name}_{table}"
    plain = re.sub(r"[^a-z0-9_]", "_", name)
    # Table "c_d" of a registry "b" and table "d" of a registry "b_c" must not share a function.
    unambiguous = plain == name and "_" not in registry.name
    if unambiguous and len(name) <= LONGEST:
        return name
    return f"{plain[:54]}_{sha256(f'{registry.name} {table}'.encode()).hexdigest()[:8]}"


def quoted_table(table: str) -> str:
    """Return the quoted name of a table, with its schema if it has one."""
    return identifier(*table.split(".", 1))


def _triggers(registry: Registry, table: str) -> str:
    function = identifier("mirror", _function_name(registry, table))
    names = zip(trigger_names(registry), _OPERATIONS.items(), strict=True)
    create: list[str] = []
    create_below: list[str] = []
    for name, (operation, rows) in names:
        trigger = identifier(name)
        for place, lines in ((quoted_table(table), create), ("%s", create_below)):
            lines += [
                f"create or replace trigger {trigger}\n"
                f"after {operation} on {place}{rows}\n"
                f"for each statement execute function {function}();",
                # ALWAYS: a write with session_replication_role = replica is a change, too.
                f"alter table {place} enable always trigger {trigger};",
            ]
    below = [
        f"execute format({literal(line.rstrip(';').replace(chr(10), ' '))}, child);"
        for line in create_below
    ]
    children = fill("child_triggers", table=literal(quoted_table(table)), triggers="\n".join(below))
    return "\n".join([*create, children])


def lock_sql(tables: list[str], mode: str, *, what: str, purpose: str) -> str:
    """Return the statement that locks quoted tables in a mode; the error says `what` is busy."""
    first, *others = tables
    return fill(
        "lock_tables",
        first=first,
        mode=mode,
        lock_others=f"lock table {', '.join(others)} in {mode} mode nowait;" if others else "",
        tables=what,
        purpose=purpose,
    )


def lock_sources_sql(tables: list[str]) -> str:
    """Return the statement that locks quoted tables which the registry's queries read."""
    return lock_sql(
        tables,
        "share row exclusive",
        what="the tables that the mappings read",
        purpose="install triggers",
    )


def _drop(registry: Registry, *, keep: list[str]) -> str:
    """Return the statement that drops a registry's triggers and functions.

    Functions named in `keep`, and the triggers that call them, stay.
    """
    return fill(
        "drop_triggers",
        pattern=literal(f"^mirror_{registry.name}_({'|'.join(_OPERATIONS)})$"),
        comment=literal(capture_comment(registry)),
        and_not_kept=f"and f.proname <> all (array[{', '.join(map(literal, keep))}])"
        if keep
        else "",
    )


def _function(registry: Registry, table: str, effects: tuple[Effect, ...]) -> str:
    events = {
        "INSERT": [inserted(effect) for effect in effects],
        "UPDATE": [updated(effect) for effect in effects],
        "DELETE": [deleted(effect) for effect in effects],
    }
    for effect in effects:
        if effect.nulls:
            for operation, queries in with_null(effect).items():
                events[operation] += queries
    everything = ", ".join(
        f"(0, {literal(name)}, {literal(EVERYTHING)}, '{{}}')"
        for name in sorted({effect.mapping for effect in effects})
    )
    return fill(
        "capture",
        function=identifier("mirror", _function_name(registry, table)),
        settings="" if all(effect.unique for effect in effects) else _SETTINGS,
        record_everything=f"{_RECORD}\nvalues {everything};\nreturn null;",
        trial=_by_operation(
            events, lambda query: f"perform from (\n{indent(query, '  ')}\n  limit 0\n) as trial;"
        ),
        columns=_columns(effects),
        named=_named(effects),
        record=_by_operation(events, lambda query: f"{_RECORD}\n{query};"),
        comment=literal(capture_comment(registry)),
    )


def _by_operation(events: dict[str, list[str]], statement: Callable[[str], str]) -> str:
    """Return PL/pgSQL that runs, for the trigger's operation, the statement of each query."""
    lines = []
    for number, (operation, queries) in enumerate(events.items()):
        lines.append(f"{'els' if number else ''}if tg_op = '{operation}' then")
        lines += [indent(statement(query), "  ") for query in queries]
    return "\n".join([*lines, "end if;"])
