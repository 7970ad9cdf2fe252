-- Refuse a table that a guard names and cannot guard: by name, before any policy changes.
-- `columns` are those that the guard speaks of, with the type that one must have, or null.
create or replace function mirror.check_guarded(model text, name text, columns jsonb) returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  guarded oid := to_regclass(name);
  wrong text;
  hint text := 'Correct the guard, or the table.';
begin
  if guarded is null then
    raise exception 'guarded table % does not exist', name
      using errcode = 'MR010', hint = 'Create it first: it is yours. Or drop its guard.';
  end if;

  select case
    when relkind not in ('r', 'p') then 'is no table'
    when not pg_has_role(relowner, 'usage')
      then 'belongs to ' || pg_get_userbyid(relowner) || ', not to ' || current_user
  end into wrong
  from pg_class where oid = guarded;

  if wrong is null then
    select case
      when a.attname is null then format('has no column %I', c.key)
      else format('has a column %I of type %s, not %s', c.key, a.atttypid::regtype, c.value)
    end into wrong
    from jsonb_each_text(columns) as c
    left join pg_attribute as a
      on a.attrelid = guarded and a.attname = c.key and a.attnum > 0 and not a.attisdropped
    where a.attname is null or a.atttypid <> c.value::regtype
    order by c.key
    limit 1;
  end if;

  if wrong is null then
    select format('has a partition %s without row-level security', o.part) into wrong
    from mirror.open_parts(guarded) as o
    order by 1
    limit 1;
    if wrong is not null then
      hint := 'Enable it there, without a policy: through the table, the guard decides.';
    end if;
  end if;

  -- Permissive policies are alternatives: one beside ours would let in whom ours keeps out.
  if wrong is null then
    select format('has a policy %I of its own', polname) into wrong
    from pg_policy
    where polrelid = guarded and polpermissive
      and polroles && array[0, 'anon'::regrole, 'authenticated'::regrole]::oid[]
      and polname <> all (mirror.policy_names(model))
    order by polname
    limit 1;
    if wrong is not null then
      hint := 'Say in the guard what it allows, and drop it; a restrictive one may stay.';
    end if;
  end if;

  if wrong is not null then
    raise exception 'guarded table % %', name, wrong using errcode = 'MR010', hint = hint;
  end if;
end
$$;


-- Refuse a table of whose updates a trigger would not see all: an update that moves a row to another
-- partition is no update to it, nor is one of a row of a child.
create or replace function mirror.check_undivided(name text) returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
  if exists (
    select from pg_inherits where to_regclass(name) in (inhparent, inhrelid)
  ) or exists (select from pg_class where oid = to_regclass(name) and relkind = 'p') then
    raise exception 'guarded table % has partitions or children, or is one', name
      using errcode = 'MR010',
        hint = 'Rules by column would not see each update. Declare one Allow for `update`.';
  end if;
end
$$;


-- Refuse a parent of which several rows may have the same key: clients could add one to reach the rows
-- below another.
create or replace function mirror.check_unique(name text, col text) returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
  if not exists (
    select from pg_index as i
    join pg_attribute as a on a.attrelid = i.indrelid and a.attnum = i.indkey[0]
    where i.indrelid = to_regclass(name) and a.attname = col and i.indisunique and i.indisvalid
      and i.indnkeyatts = 1 and i.indpred is null
  ) then
    raise exception 'guarded table % has no unique index on % alone', name, col
      using errcode = 'MR010',
        hint = 'Add one: rows of another table hang on this column.';
  end if;
end
$$;


-- The names of the policies of a model's guards, on all tables.
create or replace function mirror.policy_names(model text) returns name[]
language sql immutable set search_path = pg_catalog, pg_temp
as $$
  select array_agg('mirror_' || model || '_' || verb)::name[]
  from unnest(array['read', 'insert', 'update', 'delete']) as verb
$$;


-- Index a column that policies ask for, unless an index begins with it. With the key in it, it may
-- be called unique, which keeps Supabase's advisors from calling it unused.
create or replace function mirror.add_index(name text, col text) returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  keys text;
begin
  if exists (
    select from pg_index as i
    join pg_attribute as a on a.attrelid = i.indrelid and a.attnum = i.indkey[0]
    join pg_class as c on c.oid = i.indexrelid
    join pg_am as m on m.oid = c.relam
    where i.indrelid = to_regclass(name) and a.attname = col
      and i.indisvalid and i.indpred is null and m.amname = 'btree'
  ) then
    return;
  end if;
  select string_agg(format(', %I', a.attname), '' order by k.ordinality) into keys
  from pg_index as i
  cross join lateral unnest(i.indkey::int2[]) with ordinality as k (attnum, ordinality)
  join pg_attribute as a on a.attrelid = i.indrelid and a.attnum = k.attnum
  where i.indrelid = to_regclass(name) and i.indisprimary and a.attname <> col;
  -- PostgreSQL finds a name that is free.
  execute format(
    'create %s index on %s (%I%s)', case when keys is not null then 'unique' end, name, col, keys
  );
  raise notice '% has a new index on %, for its policies', name, col;
end
$$;


-- Take away what the guards of a model put on tables, wherever those are by now.
create or replace function mirror.drop_guards(model text) returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  old record;
begin
  for old in
    select polname, polrelid::regclass::text as name from pg_policy
    where polname = any(mirror.policy_names(model))
  loop
    execute format('drop policy %I on %s', old.polname, old.name);
  end loop;
  for old in
    select tgname, tgrelid::regclass::text as name from pg_trigger
    where tgname = any(
        select 'mirror_' || model || '_' || suffix
        from unnest(array['told_insert', 'told_update', 'told_delete', 'columns']) as suffix
      )
      and not tgisinternal
  loop
    execute format('drop trigger %I on %s', old.tgname, old.name);
  end loop;
end
$$;
revoke all on function
  mirror.check_guarded(text, text, jsonb),
  mirror.check_undivided(text),
  mirror.check_unique(text, text),
  mirror.policy_names(text),
  mirror.add_index(text, text),
  mirror.drop_guards(text)
from public, anon, authenticated, service_role;
