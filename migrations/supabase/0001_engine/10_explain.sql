-- By which columns somebody may look for rows of a table through the doors below: those of its key,
-- those that an index begins with, those that policies read. Null for a table that is none of the
-- API's: not mirrored, not granted to signed-in users, without a policy of ours.
create or replace function mirror.handles(wanted regclass) returns name[]
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select array(
    select a.attname from pg_attribute as a
    where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
      and (
        exists (
          select from pg_index as i
          where i.indrelid = c.oid
            and (i.indkey[0] = a.attnum or i.indisprimary and a.attnum = any (i.indkey))
        )
        or exists (
          select from pg_policy as p
          join pg_depend as d on d.classid = 'pg_policy'::regclass and d.objid = p.oid
          where p.polrelid = c.oid and d.refclassid = 'pg_class'::regclass
            and d.refobjid = c.oid and d.refobjsubid = a.attnum
        )
      )
  )
  from pg_class as c
  where c.oid = wanted and c.relkind in ('r', 'p')
    and (
      has_any_column_privilege('authenticated', c.oid, 'select, insert, update')
      or has_table_privilege('authenticated', c.oid, 'delete')
      or exists (
        select from mirror.mappings as m
        where to_regclass(
          format('%I.%I', m.declaration #>> '{table,0}', m.declaration #>> '{table,1}')
        ) = c.oid
      )
      or exists (
        select from mirror.mappings as m
        join pg_policy as p on starts_with(p.polname::text, 'mirror_' || m.model || '_')
        where p.polrelid = c.oid
      )
    )
$$;


-- The facts that decide about one statement on a table: privileges, row-level security, the policies that
-- apply to authenticated; and of the row that it is about no more than the columns that those read.
--
-- ask: {schema, table, verb, row: {column: text}, attempt}; the row that comes for an insert, else
-- values that find one. Answers {there, table, privilege, change, types, rows, row, defaults,
-- policies}.
create or replace function mirror.deciding(ask jsonb) returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  wanted constant regclass := to_regclass(format('%I.%I', ask ->> 'schema', ask ->> 'table'));
  verb constant text := ask ->> 'verb';
  given constant jsonb := ask -> 'row';
  handles constant name[] := mirror.handles(wanted);
  api constant name := 'authenticated';
  policies jsonb;
  read text[];
  found jsonb := given;
  rows bigint := 0;
  wrong text;
begin
  if handles is null then
    return jsonb_build_object('there', false);
  end if;
  select case
    when a.attname is null then format('table %s has no column %I', wanted, g.name)
    when verb <> 'insert' and (ask ->> 'attempt')::boolean and a.attname <> all (handles)
      then format('rows of %s cannot be asked for by %I', wanted, g.name)
  end
  into wrong
  from jsonb_object_keys(given) as g (name)
  left join pg_attribute as a
    on a.attrelid = wanted and a.attname = g.name and a.attnum > 0 and not a.attisdropped
  order by 1
  limit 1;
  if wrong is not null then
    raise exception '%', wrong using errcode = 'MR011', hint = format(
      'Take some of %s.', array_to_string(handles, ', ')
    );
  end if;

  -- A caller that changes or deletes a row has to see it.
  select coalesce(jsonb_agg(jsonb_build_object(
      'name', p.polname,
      'verb', case p.polcmd when 'r' then 'select' when 'a' then 'insert' when 'w' then 'update'
        when 'd' then 'delete' else 'all' end,
      'permissive', p.polpermissive,
      'using', case when verb <> 'insert' then pg_get_expr(p.polqual, p.polrelid) end,
      'check', case when verb = 'insert' or verb = 'update' and p.polcmd in ('w', '*')
        then pg_get_expr(coalesce(p.polwithcheck, p.polqual), p.polrelid) end
    ) order by p.polname), '[]')
  into policies
  from pg_policy as p
  where p.polrelid = wanted
    and (
      p.polcmd in ('*', case verb when 'select' then 'r' when 'insert' then 'a'
        when 'update' then 'w' else 'd' end)
      or p.polcmd = 'r' and verb in ('update', 'delete')
    )
    and exists (
      select from unnest(p.polroles) as r (id)
      where r.id = 0 or pg_has_role(api, r.id, 'usage')
    );
  select coalesce(array_agg(distinct a.attname), '{}') into read
  from pg_policy as p
  join pg_depend as d on d.classid = 'pg_policy'::regclass and d.objid = p.oid
    and d.refclassid = 'pg_class'::regclass and d.refobjid = wanted
  join pg_attribute as a on a.attrelid = wanted and a.attnum = d.refobjsubid and a.attnum > 0
  where p.polrelid = wanted;

  if verb <> 'insert' and (ask ->> 'attempt')::boolean then
    execute format(
      'select count(*), min(r.found::text)::jsonb from ('
      ' select jsonb_build_object(%s) as found from %s as t where %s limit 2) as r',
      (select string_agg(format('%L, to_jsonb(t.%I)', name, name), ', ') from unnest(read) as name),
      wanted,
      (
        select string_agg(
          format('t.%I = %L::%s', a.attname, g.value, format_type(a.atttypid, a.atttypmod)), ' and '
        )
        from jsonb_each_text(given) as g
        join pg_attribute as a on a.attrelid = wanted and a.attname = g.key
      )
    ) into rows, found;
  end if;

  return jsonb_build_object(
    'there', true,
    'table', wanted::text,
    'privilege', has_table_privilege(api, wanted, verb)
      or case when verb <> 'delete' then has_any_column_privilege(api, wanted, verb) else false end,
    -- For an update that changes nothing: a column, and what it can be set to. A column that may
    -- not be read cannot be set to itself.
    'change', (
      select format('%I = %s', a.attname, case when r.readable then format('t.%I', a.attname)
        else 'default' end)
      from pg_attribute as a
      cross join lateral has_column_privilege(api, wanted, a.attnum, 'select') as r (readable)
      where a.attrelid = wanted and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
        and has_column_privilege(api, wanted, a.attnum, 'update')
      order by r.readable desc, a.attnum
      limit 1
    ),
    'types', (
      select coalesce(jsonb_object_agg(a.attname, format_type(a.atttypid, a.atttypmod)), '{}')
      from pg_attribute as a where a.attrelid = wanted and given ? a.attname
    ),
    'rows', rows,
    'row', found,
    'defaults', (
      select coalesce(jsonb_object_agg(a.attname, jsonb_build_object(
        'value', pg_get_expr(d.adbin, d.adrelid), 'type', format_type(a.atttypid, a.atttypmod)
      )), '{}')
      from pg_attrdef as d
      join pg_attribute as a on a.attrelid = d.adrelid and a.attnum = d.adnum
      where d.adrelid = wanted and a.attname = any(read) and not given ? a.attname
    ),
    'policies', policies
  );
exception when data_exception then
  raise exception 'a value given for table % does not fit its column', wanted
    using errcode = 'MR011';
end
$$;


-- Which of these values the rows of a table hold in a column, whoever may see them; with `through`,
-- in the column of their parent's rows, or of those rows' parents.
--
-- ask: {schema, table, column, expires, deleted, through, key}, as in mirror_ask. Answers {there,
-- table, type, values, keys: {value: [text, …]}}: rows that have neither expired nor been deleted hold
-- the values; and in such rows of each value, some of them, the table's own column holds the keys.
create or replace function mirror.holding(ask jsonb, candidates jsonb) returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  part jsonb := ask;
  wanted regclass;
  kind text;
  first_kind text;
  joined text;
  alive text := 'true';
  held text;
  key name;
  answer jsonb;
begin
  for depth in 0 .. 9 loop
    wanted := to_regclass(format('%I.%I', part ->> 'schema', part ->> 'table'));
    select format_type(atttypid, atttypmod) into kind from pg_attribute
    where attrelid = wanted and attname = part ->> 'column'
      and attname = any (mirror.handles(wanted))
      and (key is null or key = any (mirror.handles(wanted)));
    if kind is null then
      return jsonb_build_object('there', false);
    end if;
    first_kind := coalesce(first_kind, kind);
    joined := case when depth = 0 then format('%s as t0', wanted)
      else format('%s join %s as t%s on t%s.%I = %s', joined, wanted, depth, depth, key, held) end;
    held := format('t%s.%I', depth, part ->> 'column');
    if part ->> 'expires' is not null then
      alive := format('%s and (t%s.%I is null or t%s.%I > now())',
        alive, depth, part ->> 'expires', depth, part ->> 'expires');
    end if;
    if part ->> 'deleted' is not null then
      alive := format('%s and t%s.%I is null', alive, depth, part ->> 'deleted');
    end if;
    exit when part ->> 'through' is null;
    key := part ->> 'key';
    part := part -> 'through';
  end loop;

  execute format(
    'select jsonb_build_object('
    ' ''values'', coalesce(jsonb_agg(g.v) filter (where g.alive), ''[]''),'
    ' ''keys'', coalesce(jsonb_object_agg(g.v, g.keys), ''{}''))'
    ' from (select v, exists (select from %1$s where %2$s = v::%3$s and %4$s) as alive,'
    '   case when %5$L::boolean'
    '     then array(select t0.%6$I::text from %1$s where %2$s = v::%3$s and %4$s limit 20)'
    '     else array[v] end as keys'
    '   from jsonb_array_elements_text($1) as v) as g',
    joined, held, kind, alive, key is not null, ask ->> 'column'
  ) into answer using candidates;
  return answer || jsonb_build_object(
    'there', true,
    'table', to_regclass(format('%I.%I', ask ->> 'schema', ask ->> 'table'))::text,
    'type', first_kind
  );
end
$$;


-- Keys of a mapping: of rows in which columns hold values, {column: text}; or, if those are null, of
-- what was deleted last; for `{}`, of any rows.
create or replace function mirror.keys(mapping text, columns jsonb, most integer) returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  wanted regclass;
  key text;
  answer jsonb;
begin
  select
    to_regclass(format('%I.%I', m.declaration #>> '{table,0}', m.declaration #>> '{table,1}')),
    (
      select string_agg(format('l.%I::text', k.name), ', ' order by k.number)
      from jsonb_array_elements_text(m.declaration -> 'key') with ordinality as k (name, number)
    )
  into wanted, key
  from mirror.mappings as m where m.name = mapping;

  execute format('select coalesce(jsonb_agg(jsonb_build_array(%s)), ''[]'') from (', key)
    || case
      when columns is null then format(
        'select * from mirror.%I where not present order by applied_at desc', 'ledger_' || mapping
      )
      when columns = '{}' then format(
        '(select * from %1$s order by %2$I limit 5) union all (select * from %1$s order by %2$I desc limit 5)',
        wanted, (select m.declaration #>> '{key,0}' from mirror.mappings as m where m.name = mapping)
      )
      else format('select * from %s where ', wanted) || (
        select string_agg(
          format('%I = %L::%s', c.key, c.value, format_type(a.atttypid, a.atttypmod)), ' and '
        )
        from jsonb_each_text(columns) as c
        join pg_attribute as a on a.attrelid = wanted and a.attname = c.key
      )
    end || ' limit $1) as l'
  into answer using most;
  return answer;
end
$$;


-- The facts beside a mapping's rows that decide a permission.
--
-- request: {scopes: [[mapping, reference, value], …], asks, values}, with asks as in mirror_ask; and,
-- where they are of interest, user and keys: {mapping, columns, most}.
-- Answers {identity, epoch, horizon, users, known, scopes: [[mapping, reference, value, epoch,
-- fence], …], withheld: [[mapping, key, reason], …], clock, freshness: {mapping: as_of}, keys: [key,
-- …], asks: [facts or null, …]}. `users`: whether Auth has any; `known`: whether it has this one;
-- both null where that cannot be looked up.
create or replace function mirror.trace(request jsonb) returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  users boolean;
  known boolean;
begin
  -- The users of third-party auth are not there.
  if request ->> 'user' ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$'
     and to_regclass('auth.users') is not null
     and has_schema_privilege('auth', 'usage') and has_table_privilege('auth.users', 'select')
  then
    execute 'select exists (select from auth.users),'
      ' exists (select from auth.users where id = $1::uuid)'
    into users, known using request ->> 'user';
  end if;
  return (
    select jsonb_build_object(
      'identity', s.identity,
      'epoch', s.epoch,
      'horizon', s.horizon,
      'users', users,
      'known', known,
      'scopes', (
        select coalesce(jsonb_agg(jsonb_build_array(
          o.mapping, o.reference, o.value, o.epoch, o.fence
        ) order by o.epoch desc, o.fence desc), '[]')
        from jsonb_array_elements(request -> 'scopes') as w
        join mirror.scopes as o
          on o.mapping = w ->> 0 and o.reference = w ->> 1 and o.value = w ->> 2
      ),
      'withheld', (
        select coalesce(jsonb_agg(jsonb_build_array(w.mapping, w.key, w.reason)), '[]')
        from mirror.withheld as w
      ),
      'clock', clock_timestamp(),
      'freshness', (
        select coalesce(jsonb_object_agg(f.mapping, f.as_of), '{}') from mirror.freshness as f
      ),
      'keys', case when request ? 'keys' then mirror.keys(
        request #>> '{keys,mapping}', nullif(request #> '{keys,columns}', 'null'),
        (request #>> '{keys,most}')::integer
      ) end,
      'asks', (
        select coalesce(jsonb_agg(case a.ask ->> 'kind'
          when 'statement' then mirror.deciding(a.ask)
          when 'rows' then mirror.holding(a.ask, request -> 'values')
        end order by a.number), '[]')
        from jsonb_array_elements(request -> 'asks') with ordinality as a (ask, number)
      )
    )
    from mirror.state as s
  );
end
$$;
