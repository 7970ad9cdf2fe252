-- Functions that the models' own migrations call.
--
-- Refuse a table that is not what we would create: a column too many or one that may not be null
-- could make a revocation fail. Of a table that we did not create we refuse more: its policies
-- could let people read, its constraints and triggers could hold a row back. One that is added to a
-- table of ours was added on purpose.
create or replace function mirror.check_table(mapping text, name text, shape jsonb) returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  wanted constant regclass := to_regclass(name);
  -- An earlier version of this model has it, under whatever mapping.
  ours constant boolean := exists (
    select from mirror.mappings as m
    where m.model = shape ->> 'model' and m.declaration -> 'table' = shape -> 'table'
  );
  other constant text := format(
    'Move it out of the way, or give mapping %s another table.', mapping
  );
  anew constant text := 'A key does not change in place: declare a new mapping, with another name and '
    'another table.';
  wrong text;
  hint text := other;
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

  if wrong is null then
    select format('has another primary key: (%s), not (%s)', k.columns, (
      select string_agg(part, ', ') from jsonb_array_elements_text(shape -> 'key') as s (part)
    ))
    into wrong
    from (
      select string_agg(a.attname, ', ' order by k.ordinality) as columns,
        jsonb_agg(a.attname order by k.ordinality) as key
      from pg_constraint as c
      cross join lateral unnest(c.conkey) with ordinality as k (attnum, ordinality)
      join pg_attribute as a on a.attrelid = c.conrelid and a.attnum = k.attnum
      where c.conrelid = wanted and c.contype = 'p'
    ) as k
    where k.key is distinct from shape -> 'key';
    if ours and wrong is not null then
      hint := anew;
    end if;
  end if;

  if wrong is null then
    with have as (
      select a.attname::text as col, a.atttypid as type, a.attnotnull as required,
        c.collname as collation, a.attgenerated <> '' or a.attidentity <> '' as computed,
        -- The mirror's own, of an earlier version of the mapping.
        exists (
          select from mirror.leftovers as l
          where l.kind = 'column' and to_regclass(l.name) = wanted and l.col = a.attname
        ) or exists (
          select from mirror.mappings as m
          cross join jsonb_array_elements(m.declaration -> 'columns') as d
          where m.model = shape ->> 'model' and m.declaration -> 'table' = shape -> 'table'
            and d ->> 0 = a.attname
        ) as earlier
      from pg_attribute as a
      left join pg_collation as c on c.oid = a.attcollation
      where a.attrelid = wanted and a.attnum > 0 and not a.attisdropped
    ), want as (
      select w.key as col, t.oid as type, shape -> 'key' ? w.key as in_key,
        -- Text keys sort by bytes.
        case when w.value = 'text' and shape -> 'key' ? w.key then 'C' else c.collname end
          as collation
      from jsonb_each_text(shape -> 'columns') as w
      join pg_type as t on t.oid = w.value::regtype
      left join pg_collation as c on c.oid = t.typcollation
    ), judged as (
      select h.col, h.type, w.type as declared, w.in_key, case
        when w.col is null and (h.required or not h.earlier) then 'undeclared'
        when w.col is null then null
        -- A table of ours gets it below.
        when h.col is null then case when not ours then 'missing' end
        when h.computed then 'computed'
        when h.required and not w.in_key then 'required'
        -- A column of ours that is outside of the key is rewritten below.
        when h.type <> w.type then case when w.in_key or not ours then 'type' end
        when h.collation is distinct from w.collation then 'collation'
      end as fault, w.col as declared_col
      from have as h full join want as w on w.col = h.col
    )
    select case j.fault
        when 'undeclared' then format('has a column %I that is not declared', j.col)
        when 'missing' then format('has no column %I', j.declared_col)
        when 'computed' then format('has a column %I that the server computes', j.col)
        when 'required' then format('has a column %I that may not be null', j.col)
        when 'type' then format(
          'has a column %I of type %s, not %s', j.col, j.type::regtype, j.declared::regtype
        )
        else format('has a column %I with another collation', j.col)
      end,
      case
        when not ours then other
        when j.fault = 'undeclared' then format(
          'Declare it in mapping %s, or drop it: `alter table %s drop column %I`.',
          mapping, name, j.col
        )
        when j.fault = 'computed' then format(
          'Run `alter table %s alter column %I drop expression`.', name, j.col
        )
        when j.fault = 'required' then format(
          'Run `alter table %s alter column %I drop not null`.', name, j.col
        )
        else anew
      end
    into wrong, hint
    from judged as j
    where j.fault is not null
    order by coalesce(j.col, j.declared_col)
    limit 1;
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
    hint := other;
  end if;

  if wrong is not null then
    raise exception 'table % exists and %', name, wrong using errcode = 'MR010', hint = hint;
  end if;
end
$$;
revoke all on function mirror.check_table(text, text, jsonb)
from public, anon, authenticated, service_role;


-- Add what a declaration has gained since a table of ours was created, or give a column its new type.
-- An earlier column of this name is emptied: nothing has written it meanwhile, and its values could
-- grant before the next resync.
create or replace function mirror.add_column(name text, col text, type text, more text default '')
returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  have regtype;
  earlier constant boolean := exists (
    select from mirror.leftovers as l
    where l.kind = 'column' and to_regclass(l.name) = to_regclass(add_column.name)
      and l.col = add_column.col
  );
begin
  select atttypid into have from pg_attribute
  where attrelid = to_regclass(name) and attname = col and attnum > 0 and not attisdropped;
  if have is null then
    execute format('alter table %s add column %I %s %s', name, col, type, more);
    raise notice '% has a new column %, which is null until the next `mirror resync`', name, col;
  elsif earlier and have <> type::regtype then
    raise exception 'table % has a column % of an earlier version, which is %, not %',
      name, col, have, type
      using errcode = 'MR010', hint = format(
        'Drop it first: `alter table %s drop column %I`.', name, col
      );
  elsif earlier then
    execute format('update %s set %I = null where %2$I is not null', name, col);
  elsif have <> type::regtype and starts_with(name, 'mirror.') then
    raise exception 'table % exists and its column % is %, not %', name, col, have, type
      using errcode = 'MR010', hint = 'Give the reference another name.';
  elsif have <> type::regtype then
    perform mirror.retype_column(name, col, have, type);
  end if;
end
$$;

-- Rewrite a column of ours with another type. By its text, as workers send it.
create or replace function mirror.retype_column(name text, col text, have regtype, type text)
returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  remedy constant text := 'Give the column another name in the mapping, resync, and drop this one with '
    '`mirror migrate supabase --prune`.';
  why text;
begin
  -- The policy is created again below.
  execute format(
    'drop policy if exists %I on %s',
    (select relname || '_read' from pg_class where oid = to_regclass(name)), name
  );
  execute format(
    'alter table %s alter column %I type %s using %2$I::text::%3$s', name, col, type
  );
  raise notice '% was rewritten: its column % is % now, not %', name, col, type, have;
exception
  when feature_not_supported or dependent_objects_still_exist or datatype_mismatch then
    -- These messages name objects.
    get stacked diagnostics why = pg_exception_detail;
    raise exception 'table %: its column % is % and cannot become %: %', name, col, have, type,
      coalesce(nullif(why, ''), sqlerrm) using errcode = 'MR010', hint = remedy;
  when data_exception or cannot_coerce then
    -- The message may hold a value.
    raise exception 'table %: its column % is % and cannot become %: a value does not fit',
      name, col, have, type using errcode = 'MR010', hint = remedy;
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

create or replace function mirror.drop_constraint(name text, con text) returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
  if exists (
    select from pg_constraint where conrelid = to_regclass(name) and conname = con
  ) then
    execute format('alter table %s drop constraint %I', name, con);
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
  mirror.retype_column(text, text, regtype, text),
  mirror.add_constraint(text, text, text),
  mirror.drop_constraint(text, text)
from public, anon, authenticated, service_role;
