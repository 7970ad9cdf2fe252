"""Trigger state: compares the triggers in the primary's catalog with those that are printed.

The history of migrations only says what was installed once. Since then a trigger may have been
dropped or disabled, a function replaced, or a partition added.
"""

import json
import re
from collections.abc import Callable, Iterable
from typing import Any, Final

from mirror.model.registry import Registry
from mirror.schema.quoting import literal
from mirror.schema.triggers import capture_comment, capture_functions, trigger_names

# pg_trigger's `tgtype` of a statement-level AFTER trigger, and the names of its two tables.
_SHAPES: Final[dict[str, tuple[int, str | None, str | None]]] = {
    "insert": (4, None, "new_rows"),
    "update": (16, "old_rows", "new_rows"),
    "delete": (8, "old_rows", None),
    "truncate": (32, None, None),
}

_MISSING: Final = """
with recursive source as (
  select to_regclass(s.source ->> 'table')::oid as oid, s.source ->> 'name' as name,
    s.source ->> 'function' as function, s.source ->> 'body' as body
  from jsonb_array_elements({sources}::jsonb) as s (source)
),
watched as (
  select s.name, s.oid, s.function, s.body, true as named from source as s where s.oid is not null
  union
  select w.name, i.inhrelid, w.function, w.body, false
  from watched as w
  join pg_catalog.pg_inherits as i on i.inhparent = w.oid
  join pg_catalog.pg_class as c on c.oid = i.inhrelid and c.relkind in ('r', 'p')
)
select case when w.named then w.name else w.oid::regclass::text end, s.name,
  case
    when t.oid is null then 'missing'
    when t.tgenabled = 'D' then 'disabled'
    when t.tgenabled <> 'A' then 'not enabled always'
    else 'changed'
  end
from watched as w
cross join jsonb_to_recordset({shapes}::jsonb)
  as s (name text, type integer, old text, new text)
left join pg_catalog.pg_trigger as t on t.tgrelid = w.oid and t.tgname = s.name
left join pg_catalog.pg_proc as f on f.oid = t.tgfoid
where (
  -- Enabled ALWAYS, because rows written by replication are changes, too.
  t.tgenabled = 'A' and t.tgtype = s.type and t.tgqual is null and t.tgattr::text = ''
  and t.tgoldtable is not distinct from s.old and t.tgnewtable is not distinct from s.new
  and f.pronamespace = to_regnamespace('mirror') and f.proname = w.function
  and f.prosecdef and f.prosrc = w.body
) is not true
order by 1, 2
"""

_INSTALLED: Final = """
select exists (
  select from pg_catalog.pg_proc as f
  where f.pronamespace = to_regnamespace('mirror')
    and obj_description(f.oid, 'pg_proc') = {comment}
)
"""

Run = Callable[[str], Iterable[Any]]
"""Runs a query without parameters, and returns its rows."""


def missing_triggers(registry: Registry, run: Run) -> dict[str, list[str]]:
    """Return by table the triggers that are missing there, or are not as they are printed.

    Each is a name with its state: `missing`, `disabled`, `not enabled always` (it does not run for
    rows that replication writes) or `changed`.

    Tables are named as in the mappings, their partitions and inheriting tables as in SQL. A table
    that does not exist is left out.
    """
    sources = [
        {"name": table, "table": quoted, "function": function, "body": _body(sql)}
        for table, quoted, function, sql in capture_functions(registry)
    ]
    shapes = [
        {"name": name, "type": kind, "old": old, "new": new}
        for name, (kind, old, new) in zip(trigger_names(registry), _SHAPES.values(), strict=True)
    ]
    query = _MISSING.format(
        sources=literal(json.dumps(sources)), shapes=literal(json.dumps(shapes))
    )
    found: dict[str, list[str]] = {}
    for table, trigger, state in run(query):
        found.setdefault(table, []).append(f"{trigger} is {state}")
    return found


def has_triggers(registry: Registry, run: Run) -> bool:
    """Return whether a database has functions of the triggers of a registry."""
    ((found,),) = run(_INSTALLED.format(comment=literal(capture_comment(registry))))
    return bool(found)


def _body(function: str) -> str:
    """Return a function's body from its SQL, as the catalog stores it."""
    found = re.search(r"as \$\$(.*?)\$\$;", function, re.DOTALL)
    assert found is not None  # noqa: S101 - the skeleton `capture` has it
    return found[1]
