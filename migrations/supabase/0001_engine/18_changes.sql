-- Functions that the models' migrations call when a declaration has changed.
--
-- Give a table of ours the foreign key to a parent that its mapping has gained. Rows that are there
-- already keep their access until the next resync judges them, so they are not checked now; the next
-- migration does so.
create or replace function mirror.add_parent(name text, col text, parent text, clause text)
returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  con record;
begin
  select c.conname, c.convalidated into con
  from pg_constraint as c
  join pg_attribute as a on a.attrelid = c.conrelid and array[a.attnum] = c.conkey
  where c.conrelid = to_regclass(name) and c.confrelid = to_regclass(parent)
    and c.contype = 'f' and c.confdeltype = 'c' and a.attname = col;
  if not found then
    execute format('alter table %s add foreign key (%I) %s not valid', name, col, clause);
  elsif not con.convalidated then
    begin
      execute format('alter table %s validate constraint %I', name, con.conname);
    exception when foreign_key_violation then
      raise notice '% still has rows without a parent in %', name, parent;
    end;
  end if;
end
$$;


-- Empty a table whose mapping returns: nothing has written it meanwhile, and its rows could grant before
-- the next resync. Of a mapping that gets another name, keep which keys are absent: a row of which only
-- the key is left would count as present.
create or replace function mirror.take_back(mapping text, name text) returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  renamed record;
begin
  for renamed in
    select m.name, (
      select string_agg(quote_ident(k.value), ', ')
      from jsonb_array_elements_text(m.declaration -> 'key') as k
    ) as key
    from mirror.mappings as m
    where m.name <> mapping
      and to_regclass(format('%I.%I', m.declaration #>> '{table,0}', m.declaration #>> '{table,1}'))
        = to_regclass(take_back.name)
  loop
    execute format(
      'insert into mirror.%1$I (%3$s, epoch, fence, present, applied_at)'
      ' select %3$s, epoch, fence, false, applied_at from mirror.%2$I where not present'
      -- The ledger may be there, from an earlier time with this name.
      ' on conflict (%3$s) do update set present = false, epoch = excluded.epoch,'
      ' fence = excluded.fence, applied_at = excluded.applied_at',
      'ledger_' || mapping, 'ledger_' || renamed.name, renamed.key
    );
  end loop;
  if to_regclass(name) is null or not exists (
    select from mirror.leftovers as l where l.kind = 'table' and to_regclass(l.name) = to_regclass(take_back.name)
  ) then
    return;
  end if;
  execute format('delete from %s where true', name);
  execute format('update mirror.%I set present = false where present', 'ledger_' || mapping);
exception when foreign_key_violation then
  raise exception 'table % has rows from an earlier version of mapping %, and rows of yours refer to '
    'them', name, mapping
    using errcode = 'MR010', hint = 'Delete your rows, or give the mapping another table.';
end
$$;


-- Make a function that is no longer declared answer null, which grants nothing also under NOT. It is not
-- dropped, because policies of the user's may call it.
create or replace function mirror.close_function(closed regprocedure) returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  old record;
begin
  select p.oid::regproc as name, pg_get_function_arguments(p.oid) as arguments,
    pg_get_function_result(p.oid) as result, p.proretset as returns_set
  into strict old
  from pg_proc as p where p.oid = closed;
  execute format(
    'create or replace function %s(%s) returns %s language plpgsql stable '
    'set search_path = pg_catalog, pg_temp as %L',
    old.name, old.arguments, old.result,
    case when old.returns_set then 'begin return; end' else 'begin return null; end' end
  );
end
$$;


-- Close the objects that a model no longer declares, and note them for `mirror migrate --prune`. Rows that
-- are no longer mirrored must not grant for ever. Tables and their rows stay, for a person to look at; other models
-- are left alone.
--
-- kept: [{name, table: [schema, table], columns: [name], references: [name of a column of the ledger],
-- parents: [[column, table of the parent]]}]. functions: the helpers' signatures.
drop function if exists mirror.retire(text, jsonb[], text[]);
create or replace function mirror.retire(model text, kept jsonb, functions text[]) returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  old record;
begin
  for old in
    select format('%I.%I', d.schema, d.name) as name, d.name || '_read' as policy
    from mirror.mappings as m
    cross join lateral (
      select m.declaration #>> '{table,0}' as schema, m.declaration #>> '{table,1}' as name
    ) as d
    where m.model = retire.model and not exists (
      select from jsonb_array_elements(kept) as k where k -> 'table' = m.declaration -> 'table'
    )
  loop
    continue when to_regclass(old.name) is null;
    execute format('revoke all on %s from public, anon, authenticated', old.name);
    execute format('drop policy if exists %I on %s', old.policy, old.name);
    insert into mirror.leftovers (model, kind, name) values (model, 'table', old.name)
    on conflict do nothing;
    raise notice 'nobody may read % any more: model % no longer has it', old.name, model;
  end loop;

  -- Rows must not be held back by a parent that is no longer declared, nor go with it.
  for old in
    select c.conname, c.conrelid::regclass::text as name
    from mirror.mappings as m
    join jsonb_array_elements(kept) as k on k -> 'table' = m.declaration -> 'table'
    cross join jsonb_array_elements(m.declaration -> 'parents') as p
    join mirror.mappings as parent on parent.name = p ->> 0
    join pg_constraint as c on c.contype = 'f'
      and c.conrelid = to_regclass(
        format('%I.%I', m.declaration #>> '{table,0}', m.declaration #>> '{table,1}')
      )
      and c.confrelid = to_regclass(
        format('%I.%I', parent.declaration #>> '{table,0}', parent.declaration #>> '{table,1}')
      )
    join pg_attribute as a
      on a.attrelid = c.conrelid and array[a.attnum] = c.conkey and a.attname = p ->> 1
    where m.model = retire.model and not exists (
      select from jsonb_array_elements(k -> 'parents') as n
      where n ->> 0 = p ->> 1 and to_regclass(n ->> 1) = c.confrelid
    )
  loop
    execute format('alter table %s drop constraint %I', old.name, old.conname);
  end loop;

  insert into mirror.leftovers (model, kind, name, col)
  select retire.model, 'column', t.name, t.col
  from (
    select format('%I.%I', k #>> '{table,0}', k #>> '{table,1}') as name, c ->> 0 as col
    from mirror.mappings as m
    join jsonb_array_elements(kept) as k on k -> 'table' = m.declaration -> 'table'
    cross join jsonb_array_elements(m.declaration -> 'columns') as c
    where m.model = retire.model and not k -> 'columns' ? (c ->> 0)
    union
    select format('mirror.%I', 'ledger_' || m.name), 'ref_' || (r ->> 0)
    from mirror.mappings as m
    join jsonb_array_elements(kept) as k on k ->> 'name' = m.name
    cross join jsonb_array_elements(m.declaration -> 'references') as r
    where m.model = retire.model and not m.declaration -> 'key' ? (r ->> 0)
      and not k -> 'references' ? ('ref_' || (r ->> 0))
  ) as t
  on conflict do nothing;

  insert into mirror.leftovers (model, kind, name)
  select retire.model, l.kind, l.name
  from mirror.mappings as m
  cross join lateral (
    select 'table' as kind, format('mirror.%I', 'ledger_' || m.name) as name
    union all
    select 'function', p.oid::regprocedure::text
    from pg_proc as p
    where p.pronamespace = 'mirror'::regnamespace
      and p.proname in ('apply_' || m.name, 'tell_' || m.name)
  ) as l
  where m.model = retire.model and not exists (
    select from jsonb_array_elements(kept) as k where k ->> 'name' = m.name
  )
  on conflict do nothing;

  for old in
    select f.oid
    from mirror.models as m
    cross join lateral (select to_regprocedure(s) as oid from unnest(m.functions) as s) as f
    where m.name = retire.model and f.oid is not null
      and f.oid <> all (array(select to_regprocedure(s) from unnest(retire.functions) as s))
      -- It may have moved to another model.
      and not exists (
        select from mirror.models as o, unnest(o.functions) as s
        where o.name <> retire.model and to_regprocedure(s) = f.oid
      )
  loop
    perform mirror.close_function(old.oid);
    insert into mirror.leftovers (model, kind, name) values (model, 'function', old.oid::text)
    on conflict do nothing;
  end loop;
  insert into mirror.models as m (name, functions) values (model, retire.functions)
  on conflict on constraint models_pkey do update set functions = excluded.functions;

  -- Objects that are declared again.
  delete from mirror.leftovers as l
  where (l.kind = 'function' and to_regprocedure(l.name) = any (
      array(select to_regprocedure(s) from unnest(retire.functions) as s)
    ))
    or exists (
      select from jsonb_array_elements(kept) as k
      cross join lateral (
        select format('%I.%I', k #>> '{table,0}', k #>> '{table,1}') as mirrored,
          format('mirror.%I', 'ledger_' || (k ->> 'name')) as ledger
      ) as t
      where case l.kind
        when 'table' then l.name in (t.mirrored, t.ledger)
        when 'column' then (l.name = t.mirrored and k -> 'columns' ? l.col)
          or (l.name = t.ledger and k -> 'references' ? l.col)
        else to_regprocedure(l.name) in (
          select p.oid from pg_proc as p
          where p.pronamespace = 'mirror'::regnamespace
            and p.proname in ('apply_' || (k ->> 'name'), 'tell_' || (k ->> 'name'))
        )
      end
    );

  for old in
    select p.oid::regprocedure as name
    from mirror.mappings as m
    cross join unnest(array['digest', 'expired', 'rows', 'scope', 'survey', 'withdraw']) as purpose
    join pg_proc as p on p.proname = left(purpose || '_' || m.name, 63)
      and p.pronamespace = 'mirror'::regnamespace and p.prorettype = 'jsonb'::regtype
    where m.model = retire.model
  loop
    execute format('drop function %s', old.name);
  end loop;

  -- A row stays withheld if its mapping gets another name.
  with renamed as (
    select m.name as old, k ->> 'name' as new
    from mirror.mappings as m
    join jsonb_array_elements(kept) as k
      on k -> 'table' = m.declaration -> 'table' and k ->> 'name' <> m.name
    where m.model = retire.model
  ), moved as (
    delete from mirror.withheld as w using renamed as r where w.mapping = r.old
    returning r.new, w.key, w.reason, w.since, w.epoch, w.fence
  )
  insert into mirror.withheld (mapping, key, reason, since, epoch, fence)
  select new, key, reason, since, epoch, fence from moved
  -- Sorted, so that all are deleted before the first is inserted: two mappings may swap their names.
  order by since
  on conflict do nothing;

  delete from mirror.mappings as m
  where m.model = retire.model and not exists (
    select from jsonb_array_elements(kept) as k where k ->> 'name' = m.name
  );
  delete from mirror.withheld as w
  where not exists (select from mirror.mappings as m where m.name = w.mapping)
    and not exists (select from jsonb_array_elements(kept) as k where k ->> 'name' = w.mapping);
  delete from mirror.freshness as f
  where not exists (select from mirror.mappings as m where m.name = f.mapping);
end
$$;


revoke all on function
  mirror.add_parent(text, text, text, text),
  mirror.take_back(text, text),
  mirror.close_function(regprocedure),
  mirror.retire(text, jsonb, text[])
from public, anon, authenticated, service_role;
