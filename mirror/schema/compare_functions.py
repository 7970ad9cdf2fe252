"""The functions with which a reconcile reads one mapping's rows in the target.

A row counts as the mirror sees it: the visible row's columns, and the references that the ledger
keeps for it. Where the two disagree about whether there is a row at all, it is a stray: its
columns may be right today, and it would still be missed when its scope changes.
"""

from textwrap import indent

from mirror.model.mapping import Mapping
from mirror.schema.quoting import identifier, literal
from mirror.schema.write_functions import ledger_column

# Row, for a hash that has the same value on every server. Both sides must hold the same text.
RECORD_HASH = "hash_record_extended({row}, {seed})"
MD5_HASH = "('x' || left(md5({seed}::text || {row}::text), 16))::bit(64)::bigint"


def digest_function(mapping: Mapping) -> str:
    """Return `mirror.digest_<mapping>`: what lies in one range of keys, as a sum or one by one.

    A range holds `p_from`, not `p_until`; NULL for the latter: to the end. Of more than `p_limit`
    rows it answers for the first, and says with `until` where it stopped.
    """
    table, ledger = tables(mapping)
    ends = "\n".join(_narrow(mapping, name) for name in (table, ledger))
    body = f"""\
{ends}
if wanted_until is null then
{indent(_digest(mapping, open_ended=True), "  ")}
else
{indent(_digest(mapping, open_ended=False), "  ")}
end if;
return answer || jsonb_build_object('until', wanted_until);"""
    return f"""\
create or replace function {identifier("mirror", f"digest_{mapping.name}")}(
  p_from text[], p_until text[], p_seed bigint, p_md5 boolean, p_limit integer, p_each boolean
) returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  answer jsonb;
  limit_key text[];
  wanted_until text[] := p_until;
begin
{indent(body, "  ")}
end
$$;"""


def rows_function(model: str, mapping: Mapping) -> str:
    """Return `mirror.rows_<mapping>`: everything that is known of some keys."""
    table, ledger = tables(mapping)
    asked = ", ".join(
        f"(k ->> {i})::{column.type} as k{i}" for i, column in enumerate(mapping.key_columns)
    )
    keys = ", ".join(f"a.k{i}::text" for i in range(len(mapping.key)))
    on = " and ".join(f"{{0}}.{identifier(name)} = a.k{i}" for i, name in enumerate(mapping.key))
    expired = f"t.{identifier(mapping.expires)} <= now()" if mapping.expires else "false"
    return f"""\
create or replace function {identifier("mirror", f"rows_{mapping.name}")}(p_keys jsonb)
returns jsonb
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select coalesce(jsonb_agg(jsonb_build_object(
    'key', jsonb_build_array({keys}),
    'row', case when t.{identifier(mapping.key[0])} is not null and not ({bare(mapping)}) then
      jsonb_build_array({", ".join(f"{value}::text" for value in values(mapping))})
    end,
    'present', l.present,
    'epoch', l.epoch,
    'fence', l.fence,
    -- A row that was written after its ledger's was written by somebody else.
    'edited', coalesce(age(t.xmin) < age(l.xmin), false),
    'expired', coalesce({expired}, false),
    'outdated', coalesce(l.applied_at < (
      select g.applied_at from mirror.migrations as g where g.name = {literal(f"model_{model}")}
    ), false)
  )), '[]')
  from (select {asked} from jsonb_array_elements(p_keys) as k) as a
  left join {table} as t on {on.format("t")}
  left join {ledger} as l on {on.format("l")}
$$;"""


def expired_function(mapping: Mapping) -> list[str]:
    """Return `mirror.expired_<mapping>`, which names rows that have expired; none if none can."""
    if mapping.expires is None:
        return []
    table, _ = tables(mapping)
    name = identifier("mirror", f"expired_{mapping.name}")
    names = ", ".join(f"t.{identifier(key)}" for key in mapping.key)
    keys = ", ".join(f"s.{identifier(key)}::text" for key in mapping.key)
    return [
        f"""\
create or replace function {name}(p_after text[], p_limit integer) returns jsonb
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select coalesce(jsonb_agg(jsonb_build_array({keys})), '[]')
  from (
    select {names} from {table} as t
    where t.{identifier(mapping.expires)} <= now()
      and (p_after = '{{}}' or ({names}) > ({_cast(mapping, "p_after")}))
    order by {names}
    limit p_limit
  ) as s
$$;
revoke all on function {name}(text[], integer) from public, anon, authenticated, service_role;""",
        f"-- The sweep asks by time.\n"
        f"select mirror.add_index({literal(table)}, {literal(mapping.expires)});",
    ]


def lock_functions(mapping: Mapping) -> str:
    """Return the statement that leaves these functions to the engine."""
    return f"""\
revoke all on function
  {identifier("mirror", f"digest_{mapping.name}")}(
    text[], text[], bigint, boolean, integer, boolean
  ),
  {identifier("mirror", f"rows_{mapping.name}")}(jsonb)
from public, anon, authenticated, service_role;"""


def tables(mapping: Mapping) -> tuple[str, str]:
    """Return the names of its table and its ledger."""
    return (
        identifier(mapping.schema, mapping.table),
        identifier("mirror", f"ledger_{mapping.name}"),
    )


def values(mapping: Mapping) -> list[str]:
    """Return what a row is made of: columns of the table, references that the ledger keeps."""
    names = {column.name for column in mapping.columns}
    return [
        f"t.{identifier(name)}"
        if name in names
        else f"l.{identifier(ledger_column(mapping, name))}"
        for name, _ in mapping.row_layout
    ]


def bare(mapping: Mapping, gone: str = "l.present is false") -> str:
    """Return whether a visible row is one that was withdrawn, but for a key that had to stay.

    `gone` says so of its ledger row.
    """
    nulls = [f"t.{identifier(column.name)} is null" for column in mapping.data_columns]
    if not nulls and mapping.on_delete == "delete":
        return "false"
    return " and ".join([*nulls, gone])


def _bound(mapping: Mapping, alias: str, array: str, operator: str) -> str:
    names = [f"{alias}.{identifier(name)}" for name in mapping.key]
    bound = f"({', '.join(names)}) {operator} ({_cast(mapping, array)})"
    if len(names) > 1:
        # Says no more, but only single columns tell the planner how few rows lie between.
        first = _cast(mapping, array).partition(", ")[0]
        bound += f" and {names[0]} {operator[0]}= {first}"
    return bound


def _cast(mapping: Mapping, array: str) -> str:
    return ", ".join(
        f"{array}[{i}]::{column.type}{collated(column.type)}"
        for i, column in enumerate(mapping.key_columns, 1)
    )


def collated(kind: str) -> str:
    """Return what makes a type's values compare by their bytes."""
    return ' collate "C"' if kind == "text" else ""


def _narrow(mapping: Mapping, name: str) -> str:
    """Return statements that end the range where a table holds too many rows of it."""
    texts = ", ".join(f"s.{identifier(key)}::text" for key in mapping.key)
    order = ", ".join(f"s.{identifier(key)}" for key in mapping.key)

    def beyond(bound: str) -> str:
        return f"""\
limit_key := (
  select array[{texts}] from {name} as s
  where {_bound(mapping, "s", "p_from", ">=")}{bound}
  order by {order} offset p_limit limit 1
);"""

    below = f"\n    and {_bound(mapping, 's', 'wanted_until', '<')}"
    return f"""\
if wanted_until is null then
{indent(beyond(""), "  ")}
else
{indent(beyond(below), "  ")}
end if;
wanted_until := coalesce(limit_key, wanted_until);"""


def _digest(mapping: Mapping, *, open_ended: bool) -> str:
    table, ledger = tables(mapping)

    def within(alias: str) -> str:
        bounds = [_bound(mapping, alias, "p_from", ">=")]
        if not open_ended:
            bounds.append(_bound(mapping, alias, "wanted_until", "<"))
        return "\n      and ".join(bounds)

    first = identifier(mapping.key[0])
    on = " and ".join(f"t.{identifier(k)} = l.{identifier(k)}" for k in mapping.key)
    keys = [
        f"coalesce(t.{identifier(name)}, l.{identifier(name)})::text as k{i}"
        for i, name in enumerate(mapping.key)
    ]
    texts = ", ".join(f"{value}::text{collated('text')}" for value in values(mapping))
    row_hash = (
        f"case when p_md5 then {MD5_HASH.format(seed='p_seed', row='h.r')}"
        f"\n        else {RECORD_HASH.format(seed='p_seed', row='h.r')} end"
    )
    key_json = ", ".join(f"f.k{i}" for i in range(len(mapping.key)))
    return f"""\
select jsonb_build_object(
  'rows', count(*) filter (where f.there),
  'sum', coalesce(sum(f.hash) filter (where f.there), 0)::text,
  'strays', count(*) filter (where f.stray)
) || case when p_each then jsonb_build_object('each', coalesce(jsonb_agg(
  -- Without a hash: whatever the other side has, it differs.
  jsonb_build_array({key_json}, case when f.there and not f.stray then f.hash::text end)
), '[]')) else '{{}}' end
into answer
from (
  select h.*, {row_hash} as hash
  from (
    select {", ".join(keys)}, row({texts}) as r,
      t.{first} is not null and not ({bare(mapping)}) as there,
      case when t.{first} is null then l.present
        else l.present is not true and not ({bare(mapping)}) end as stray
    from (
      select t.* from {table} as t
      where {within("t")}
    ) as t
    full join (
      select l.* from {ledger} as l
      where {within("l")}
    ) as l on {on}
  ) as h
  where h.there or h.stray
) as f;"""
