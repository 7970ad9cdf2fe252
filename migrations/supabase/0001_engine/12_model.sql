-- What the models' own migrations call.
--
-- Refuse a table that is not what we would create: a column too many or one that may not be null
-- could make a revocation fail. Of a table that we did not create we refuse more: its policies
-- could let people read, its constraints and triggers could hold a row back. Whoever adds one to
-- a table of ours does so on purpose.
create or replace function mirror.check_table(mapping text, name text, shape jsonb) returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  wanted constant regclass := to_regclass(name);
  ours constant boolean := exists (
    select from mirror.mappings as m
    where m.name = mapping and m.declaration -> 'table' = shape -> 'table'
  );
  wrong text;
  col record;
begin
  for col in
    select c.key as name, c.value::regtype as type from jsonb_each_text(shape -> 'columns') as c
  loop
    begin
      -- As a write compares a row with the old one, and a reconcile both sides.
      execute format(
        'select null::%1$s is distinct from null, hash_record_extended(row(null::%1$s), 0)',
        col.type
      );
    exception when undefined_function then
      raise exception 'column % of mapping % is %, whose values cannot be compared',
        col.name, mapping, col.type
        using errcode = 'MR010', hint = 'Declare it as text, or json as jsonb, and cast it in the '
          'mapping''s query.';
    end;
  end loop;

  select m.model into wrong from mirror.mappings as m
  where m.name = mapping and m.model <> shape ->> 'model';
  if found then
    raise exception 'mapping % belongs to model % here', mapping, wrong
      using errcode = 'MR010', hint = 'Give one of the two another name. If it is the model that '
        'has a new name, enter that in mirror.mappings first.';
  end if;
  if wanted is null then
    return;
  end if;

  select case
    when relkind <> 'r' then 'is no plain table'
    when pg_get_userbyid(relowner) <> current_user
      then 'belongs to ' || pg_get_userbyid(relowner) || ', not to ' || current_user
  end into wrong
  from pg_class where oid = wanted;

  if wrong is null and exists (
    with have as (
      select a.attname::text, a.atttypid, a.attnotnull, c.collname,
        a.attgenerated = '' and a.attidentity = ''
      from pg_attribute as a
      left join pg_collation as c on c.oid = a.attcollation
      where a.attrelid = wanted and a.attnum > 0 and not a.attisdropped
    ), want as (
      select w.key, t.oid, shape -> 'key' ? w.key,
        -- Text keys sort by bytes.
        case when w.value = 'text' and shape -> 'key' ? w.key then 'C' else c.collname end,
        true
      from jsonb_each_text(shape -> 'columns') as w
      join pg_type as t on t.oid = w.value::regtype
      left join pg_collation as c on c.oid = t.typcollation
    )
    select from (table have except table want) as excess
    union all
    -- What a table of ours lacks is added below.
    select from (table want except table have) as lack (name, type, required)
    where not ours or required or exists (select from have as h where h.attname = lack.name)
  ) then
    wrong := 'has other columns';
  end if;

  if wrong is null and shape -> 'key' is distinct from (
    select jsonb_agg(a.attname order by k.ordinality)
    from pg_constraint as c
    cross join lateral unnest(c.conkey) with ordinality as k (attnum, ordinality)
    join pg_attribute as a on a.attrelid = c.conrelid and a.attnum = k.attnum
    where c.conrelid = wanted and c.contype = 'p'
  ) then
    wrong := 'has another primary key';
  end if;

  if wrong is null and not ours then
    select coalesce(
      (select 'has a policy ' || polname from pg_policy
       where polrelid = wanted and polname <> shape ->> 'policy' limit 1),
      (select 'has a trigger ' || tgname from pg_trigger
       where tgrelid = wanted and not tgisinternal limit 1)
    ) into wrong;
    if wrong is null and exists (
      with have as (
        -- One that is NOT VALID, or NOT ENFORCED, may have let in rows without a parent.
        select c.contype = 'f' and c.confdeltype = 'c' and c.convalidated,
          a.attname::text, c.confrelid::oid
        from pg_constraint as c
        left join pg_attribute as a
          on a.attrelid = c.conrelid and array[a.attnum] = c.conkey
        where c.conrelid = wanted and c.contype not in ('p', 'n')
      ), want as (
        select true, key, to_regclass(value)::oid from jsonb_each_text(shape -> 'parents')
      )
      (table have except table want) union all (table want except table have)
    ) then
      wrong := 'has other foreign keys, unique or check constraints';
    end if;
  end if;

  if wrong is not null then
    raise exception 'table % exists and %', name, wrong
      using errcode = 'MR010', hint = format(
        'Move it out of the way, or give mapping %s another table.', mapping
      );
  end if;
end
$$;
revoke all on function mirror.check_table(text, text, jsonb)
from public, anon, authenticated, service_role;


-- Add what a declaration has gained since a table of ours was created.
create or replace function mirror.add_column(name text, col text, type text, more text default '')
returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  have regtype;
begin
  select atttypid into have from pg_attribute
  where attrelid = to_regclass(name) and attname = col and attnum > 0 and not attisdropped;
  if have is null then
    execute format('alter table %s add column %I %s %s', name, col, type, more);
    raise notice '% has a new column %, which is null until the next `mirror resync`', name, col;
  elsif have <> type::regtype then
    raise exception 'table % exists and its column % is %, not %', name, col, have, type
      using errcode = 'MR010', hint = 'Give the reference another name.';
  end if;
end
$$;

create or replace function mirror.add_constraint(name text, con text, definition text) returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
  if not exists (
    select from pg_constraint where conrelid = to_regclass(name) and conname = con
  ) then
    execute format('alter table %s add constraint %I %s', name, con, definition);
  end if;
end
$$;

-- Leave room in each page of a table, so that an update finds its place beside the old row and
-- touches no index. Rows that are written already stay as they are; a user's own setting, too.
create or replace function mirror.leave_room(name text) returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
  if not exists (
    select from pg_class, unnest(reloptions) as option
    where oid = to_regclass(name) and option like 'fillfactor=%'
  ) then
    execute format('alter table %s set (fillfactor = 70)', name);
  end if;
end
$$;
revoke all on function
  mirror.leave_room(text),
  mirror.add_column(text, text, text, text),
  mirror.add_constraint(text, text, text)
from public, anon, authenticated, service_role;


-- Close the tables that a model no longer declares, and drop what earlier versions printed for it.
-- Such a table is no longer mirrored, so its rows must not grant for ever. The table and its rows
-- stay, for a person to look at; other models are left alone.
create or replace function mirror.retire(model text, kept_tables jsonb[], kept_mappings text[])
returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  old record;
  child record;
begin
  for old in
    select format('%I.%I', d.schema, d.name) as name, d.name || '_read' as policy
    from mirror.mappings as m
    cross join lateral (
      select m.declaration #>> '{table,0}' as schema, m.declaration #>> '{table,1}' as name
    ) as d
    where m.model = retire.model and m.declaration -> 'table' <> all (kept_tables)
  loop
    continue when to_regclass(old.name) is null;
    execute format('revoke all on %s from public, anon, authenticated', old.name);
    execute format('drop policy if exists %I on %s', old.policy, old.name);
    -- Its rows come no more; rows that need them as parents must not be held back.
    for child in
      select c.conname, c.conrelid::regclass::text as name
      from pg_constraint as c
      join mirror.mappings as m on c.conrelid = to_regclass(
        format('%I.%I', m.declaration #>> '{table,0}', m.declaration #>> '{table,1}')
      )
      where c.confrelid = to_regclass(old.name) and c.contype = 'f'
        and m.declaration -> 'table' = any (kept_tables)
    loop
      execute format('alter table %s drop constraint %I', child.name, child.conname);
    end loop;
    raise notice 'nobody may read % any more: model % no longer has it', old.name, model;
  end loop;

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

  delete from mirror.mappings as m
  where m.model = retire.model and m.name <> all (kept_mappings);
  delete from mirror.withheld as w
  where not exists (select from mirror.mappings as m where m.name = w.mapping);
  delete from mirror.freshness as f
  where not exists (select from mirror.mappings as m where m.name = f.mapping);
end
$$;
revoke all on function mirror.retire(text, jsonb[], text[])
from public, anon, authenticated, service_role;
