"""The functions that write one mapping's rows in the target.

They are printed per mapping, not composed at run time: static SQL has cached plans, typed keys
and can be read, explained and reviewed where it runs.
"""

from textwrap import indent

from mirror.model.mapping import Mapping
from mirror.model.registry import Registry
from mirror.schema.quoting import comma, identifier, literal


def ledger_column(mapping: Mapping, reference: str) -> str:
    """Return where the ledger keeps a reference: the key column of that name, or its own."""
    return reference if reference in mapping.key else f"ref_{reference}"


def apply_function(registry: Registry, mapping: Mapping) -> str:
    """Return `mirror.apply_<mapping>`: admit each key by its fence, then write its row."""
    table = identifier(mapping.schema, mapping.table)
    ledger = identifier("mirror", f"ledger_{mapping.name}")
    layout = mapping.row_layout
    extra = [ref.name for ref in mapping.all_references if ref.name not in mapping.key]
    parsed = ",\n      ".join(
        f"(r ->> {i})::{kind} as {identifier(name)}" for i, (name, kind) in enumerate(layout)
    )
    gone = ", ".join(
        f"(g ->> {mapping.key.index(name)})::{kind}" if name in mapping.key else f"null::{kind}"
        for name, kind in layout
    )
    is_parent = bool(registry.children(mapping))
    if is_parent:
        parsed += f",\n      coalesce((r ->> {len(layout)})::boolean, false) as whole"
        gone += ", null::boolean"
    # A parent that is written without its children, by a worker that then dies, would be there
    # the next time, and nobody would read its children again. So both come in one call.
    alone = "k.present and not k.was_present and not k.whole" if is_parent else ""
    alone_column = f",\n      {alone} as alone" if is_parent else ""
    not_alone = " and not j.alone" if is_parent else ""
    not_alone_or_stale = " and (j.stale or not j.alone)" if is_parent else ""
    same_key = _same_key(mapping, "{a}", "{b}")
    columns = comma(column.name for column in mapping.columns)
    data = [identifier(column.name) for column in mapping.data_columns]
    if data:
        conflict = (
            "do update set\n      "
            + ",\n      ".join(f"{name} = excluded.{name}" for name in data)
            + "\n    where ("
            + ", ".join(f"t.{name}" for name in data)
            + ")\n      is distinct from ("
            + ", ".join(f"excluded.{name}" for name in data)
            + ")"
        )
    else:
        conflict = "do nothing"
    ledger_extra = [identifier(f"ref_{name}") for name in extra]
    ledger_names = ", ".join([*map(identifier, mapping.key), *ledger_extra])
    ledger_values = ", ".join(f"j.{identifier(name)}" for name in [*mapping.key, *extra])
    ledger_update = "".join(f"{name} = excluded.{name}, " for name in ledger_extra)
    key_json = (
        "jsonb_build_array(" + ", ".join(f"j.{identifier(k)}::text" for k in mapping.key) + ")"
    )
    first = f"a.{identifier(mapping.key[0])}"
    appearing = (
        f",\n      'appearing', coalesce(jsonb_agg({key_json})"
        f" filter (where j.alone and not j.stale and not j.orphan), '[]')"
        if is_parent
        else ""
    )
    gone_names = [identifier(f"gone_{name}") for name in mapping.key]
    gone_declared = "\n".join(
        f"  {name} {column.type}[];"
        for name, column in zip(gone_names, mapping.key_columns, strict=True)
    )
    gone_aggregates = ",\n    ".join(
        f"array_agg(j.{identifier(k)}) filter (where not a.present)" for k in mapping.key
    )
    return f"""\
create or replace function {identifier("mirror", f"apply_{mapping.name}")}(
  p_epoch integer, p_fence bigint, p_rows jsonb, p_gone jsonb
) returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  answer jsonb;
{gone_declared}
begin
  with incoming as materialized (
    select
      {parsed},
      true as present
    from jsonb_array_elements(p_rows) as r
    union all
    select {gone}, false
    from jsonb_array_elements(p_gone) as g
  ),
  -- The newest read that this key, or a scope it would be in, is known to have had.
  known as materialized (
    select i.*,
      {_was_present(registry, mapping)} as was_present,
      greatest(
        case when l.epoch = p_epoch then l.fence end{_scope_fences(mapping)}
      ) as newest
    from incoming as i
    -- LIMIT keeps this a look-up for each key: a plan from when the table was small would read all
    -- of it for every batch of a first load.
    left join lateral (
      select * from {ledger} as s where {same_key.format(a="s", b="i")} limit 1
    ) as l on true
  ),
  judged as materialized (
    select k.*,
      coalesce(k.newest > p_fence, false) as stale,
      {_orphan(registry, mapping)} as orphan{alone_column}
    from known as k
  ),
  -- Always advance the ledger, also where the row stays as it is or was never there: a write
  -- that still hangs somewhere must find that it is older. Sorted, so that two never deadlock.
  -- The conflict's WHERE takes in the tombstones' index beside the primary key.
  admitted as (
    insert into {ledger} as l ({ledger_names}, epoch, fence, present, applied_at)
    select {ledger_values}, p_epoch, p_fence, j.present, now()
    from judged as j
    where not j.stale and not j.orphan{not_alone}
    order by {", ".join(f"j.{identifier(k)}" for k in mapping.key)}
    on conflict ({comma(mapping.key)}) where not present do update
    set {ledger_update}epoch = excluded.epoch, fence = excluded.fence,
      present = excluded.present, applied_at = excluded.applied_at
    where (l.epoch, l.fence) <= (excluded.epoch, excluded.fence)
    returning {", ".join(f"l.{identifier(k)}" for k in mapping.key)}, l.present
  ),
  -- Touch the visible row only where it changes: no WAL and no Realtime message for nothing.
  written as (
    insert into {table} as t ({columns})
    select {", ".join(f"j.{identifier(column.name)}" for column in mapping.columns)}
    from judged as j
    join admitted as a on {same_key.format(a="a", b="j")}
    where a.present
    on conflict ({comma(mapping.key)}) {conflict}
  )
  select
    jsonb_build_object(
      'stale', coalesce(jsonb_agg({key_json})
        filter (where {first} is null and not j.orphan{not_alone_or_stale}), '[]'),
      'ahead', max(j.newest) filter (where j.stale),
      'orphans', coalesce(jsonb_agg({key_json}) filter (where j.orphan), '[]'){appearing}
    ),
    {gone_aggregates}
  into answer, {", ".join(gone_names)}
  from judged as j
  left join admitted as a on {same_key.format(a="a", b="j")};

  if {gone_names[0]} is not null then
    answer := answer || jsonb_build_object('retained', \
{identifier("mirror", f"withdraw_{mapping.name}")}(
      p_epoch, p_fence, {", ".join(gone_names)}
    ));
  end if;
  return answer;
end
$$;"""


def withdraw_function(registry: Registry, mapping: Mapping) -> str:
    """Return `mirror.withdraw_<mapping>`: remove rows whose ledger says absent, children first."""
    table = identifier(mapping.schema, mapping.table)
    parameters = "".join(
        f", {identifier('p_' + column.name)} {column.type}[]" for column in mapping.key_columns
    )
    arrays = ", ".join(identifier(f"p_{name}") for name in mapping.key)
    one = " and ".join(
        f"t.{identifier(name)} = {identifier(f'p_{name}')}[i]" for name in mapping.key
    )
    one_json = ", ".join(f"{identifier(f'p_{name}')}[i]::text" for name in mapping.key)
    declared = ["retained jsonb := '{}';"]
    body = []
    for number, (child, parent) in enumerate(registry.children(mapping), 1):
        declared += [
            f"{identifier(f'child{number}_{column.name}')} {column.type}[];"
            for column in child.key_columns
        ]
        body.append(_withdraw_children(mapping, child, parent.column, number))
    nulls = ", ".join(f"{identifier(column.name)} = null" for column in mapping.data_columns)
    every = (
        f"from unnest({arrays}) as g ({comma(mapping.key)})\n  where {_same_key(mapping, 't', 'g')}"
    )
    delete = f"delete from {table} as t\n  using {every.removeprefix('from ')};"
    if mapping.on_delete == "retain":
        body.append(f"update {table} as t set {nulls}\n  {every};" if nulls else "null;")
    elif not nulls and not registry.children(mapping):
        # A bare grant that somebody's foreign key holds back cannot be made harmless: fail.
        body.append(f"set constraints all immediate;\n{delete}")
    else:
        declared += ["held jsonb := '[]';"]
        blank = f"update {table} as t set {nulls} where {one};" if nulls else "null;"
        body.append(f"""\
-- A foreign key of somebody else's table may hold a row back. That must not stop the others,
-- and what stays must grant nothing: only the bare key stays. A deferred one must speak up here,
-- not at commit, also in the second attempt: inside the block, the setting would be undone.
set constraints all immediate;
begin
{indent(delete, "  ")}
exception when foreign_key_violation or restrict_violation then
  for i in 1 .. cardinality({identifier(f"p_{mapping.key[0]}")}) loop
    begin
      delete from {table} as t where {one};
    exception when foreign_key_violation or restrict_violation then
      {blank}
      held := held || jsonb_build_array(jsonb_build_array({one_json}));
    end;
  end loop;
  retained := retained || jsonb_build_object({literal(mapping.name)}, held);
end;""")
    return f"""\
create or replace function {identifier("mirror", f"withdraw_{mapping.name}")}(
  p_epoch integer, p_fence bigint{parameters}
) returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
{indent(chr(10).join(declared), "  ")}
begin
{indent((chr(10) * 2).join(body), "  ")}
  return retained;
end
$$;"""


def scope_function(mapping: Mapping) -> str:
    """Return `mirror.scope_<mapping>`: the keys known under some values of a reference."""
    ledger = identifier("mirror", f"ledger_{mapping.name}")
    keys = ", ".join(f"l.{identifier(name)}" for name in mapping.key)
    key_json = ", ".join(f"f.{identifier(name)}::text" for name in mapping.key)
    order = ", ".join(f"f.{identifier(name)}" for name in mapping.key)
    after = ", ".join(
        f"p_after[{i}]::{column.type}" for i, column in enumerate(mapping.key_columns, 1)
    )

    def page(condition: str) -> str:
        return f"""\
return (
  select coalesce(jsonb_agg(jsonb_build_array({key_json}) order by {order}), '[]')
  from (
    select {keys} from {ledger} as l
    where l.present{condition}
    order by {keys} limit p_limit
  ) as f
);"""

    branches = [("*", "")] + [
        (
            reference.name,
            f"\n      and l.{identifier(ledger_column(mapping, reference.name))}"
            f" = any(p_values::{reference.type}[])",
        )
        for reference in mapping.all_references
    ]
    body = "\n".join(
        f"if p_reference = {literal(name)} then\n"
        f"  if cardinality(p_after) = 0 then\n"
        f"{indent(page(condition), '    ')}\n"
        f"  end if;\n"
        f"{indent(page(condition + f'{chr(10)}      and ({keys}) > ({after})'), '  ')}\n"
        f"end if;"
        for name, condition in branches
    )
    return f"""\
create or replace function {identifier("mirror", f"scope_{mapping.name}")}(
  p_reference text, p_values text[], p_after text[], p_limit integer
) returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
{indent(body, "  ")}
  raise exception 'mapping {mapping.name} has no reference %', p_reference using errcode = 'MR001';
end
$$;"""


def _same_key(mapping: Mapping, a: str, b: str) -> str:
    return " and ".join(f"{a}.{identifier(k)} = {b}.{identifier(k)}" for k in mapping.key)


def _scope_fences(mapping: Mapping) -> str:
    scopes = [("*", "''")] + [
        (reference.name, f"i.{identifier(reference.name)}::text")
        for reference in mapping.all_references
    ]
    return "".join(
        f""",
        case when i.present then (
          select s.fence from mirror.scopes as s
          where s.mapping = {literal(mapping.name)} and s.reference = {literal(reference)}
            and s.value = {value} and s.epoch = p_epoch
        ) end"""
        for reference, value in scopes
    )


def _was_present(registry: Registry, mapping: Mapping) -> str:
    """Return whether a row was there: for a parent, in the table too.

    If somebody deleted it by hand, its children went along by their foreign key.
    """
    if not registry.children(mapping):
        return "coalesce(l.present, false)"
    table = identifier(mapping.schema, mapping.table)
    return (
        "coalesce(l.present, false) and exists (\n"
        f"        select from {table} as t where {_same_key(mapping, 't', 'i')}\n      )"
    )


def _orphan(registry: Registry, mapping: Mapping) -> str:
    """Return whether a row lacks a parent.

    The ledger knows one that is only held back by a foreign key, the table one that somebody
    deleted by hand: neither is there.
    """
    if not mapping.parents:
        return "false"
    missing = []
    for parent in mapping.parents:
        other = registry[parent.mapping]
        table = identifier(other.schema, other.table)
        missing.append(
            # Not EXISTS, for which PostgreSQL may read all parents beforehand.
            f"(k.{identifier(parent.column)} is not null and (\n"
            f"          select true from {identifier('mirror', f'ledger_{other.name}')} as p\n"
            f"          join {table} as t using ({comma(other.key)})\n"
            f"          where p.{identifier(other.key[0])} = k.{identifier(parent.column)}"
            f" and p.present\n        ) is null)"
        )
    return (
        "k.present and not coalesce(k.newest > p_fence, false) and (\n        "
        + " or ".join(missing)
        + "\n      )"
    )


def _withdraw_children(mapping: Mapping, child: Mapping, column: str, number: int) -> str:
    ledger = identifier("mirror", f"ledger_{child.name}")
    parent_keys = identifier(f"p_{mapping.key[0]}")
    names = [identifier(f"child{number}_{name}") for name in child.key]
    return f"""\
-- {child.name}: close the scope, so that no hung write brings a child back, then its rows.
insert into mirror.scopes as s (mapping, reference, value, epoch, fence)
select {literal(child.name)}, {literal(column)}, k::text, p_epoch, p_fence
from unnest({parent_keys}) as k
on conflict (mapping, reference, value) do update
set epoch = excluded.epoch, fence = excluded.fence, read_at = now()
where (s.epoch, s.fence) < (excluded.epoch, excluded.fence);
with forgotten as (
  update {ledger} as l
  set present = false, epoch = p_epoch, applied_at = now(),
    fence = case when l.epoch = p_epoch then greatest(l.fence, p_fence) else p_fence end
  where l.present and l.{identifier(ledger_column(child, column))} = any({parent_keys})
  returning {", ".join(f"l.{identifier(k)}" for k in child.key)}
)
select {", ".join(f"array_agg({identifier(k)})" for k in child.key)}
into {", ".join(names)} from forgotten;
if {names[0]} is not null then
  retained := retained || {identifier("mirror", f"withdraw_{child.name}")}(
    p_epoch, p_fence, {", ".join(names)}
  );
end if;"""
