-- Say which buckets of Storage are public: everybody may download files of these, whatever the
-- policies say. Null: this role may not read the buckets. Empty without Storage.
create or replace function mirror.public_buckets() returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
  if to_regclass('storage.buckets') is null then
    return '[]';
  end if;
  return (
    select coalesce(jsonb_agg(b.id order by b.id), '[]') from storage.buckets as b where b.public
  );
exception when insufficient_privilege or undefined_column then
  return null;
end
$$;
revoke all on function mirror.public_buckets() from public, anon, authenticated, service_role;


-- The remains of earlier versions of a model that are still here. A function of the guards that protects
-- columns is left when no trigger calls it.
create or replace function mirror.list_leftovers(model text)
returns table (kind text, name text, col text)
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select l.kind, l.name, l.col
  from mirror.leftovers as l
  where l.model = $1 and case l.kind
    when 'table' then to_regclass(l.name) is not null
    when 'function' then to_regprocedure(l.name) is not null
    -- A table goes with its columns.
    else exists (
      select from pg_attribute as a
      where a.attrelid = to_regclass(l.name) and a.attname = l.col and not a.attisdropped
    ) and not exists (
      select from mirror.leftovers as t where t.kind = 'table' and t.name = l.name
    )
  end
  union all
  select 'function', p.oid::regprocedure::text, ''
  from pg_proc as p
  where p.pronamespace = 'mirror'::regnamespace and p.prorettype = 'trigger'::regtype
    and starts_with(p.proname, 'columns_' || $1 || '_')
    and not exists (select from pg_trigger as t where t.tgfoid = p.oid)
  order by 1, 2, 3
$$;
revoke all on function mirror.list_leftovers(text) from public, anon, authenticated, service_role;


-- The partitions of a table, and the tables that inherit from it, in all generations, that answer clients
-- by themselves: asked for by its own name, each is open without row-level security of its own, or
-- answers by its own policies.
create or replace function mirror.open_parts(relation regclass) returns table (part regclass)
language sql stable set search_path = pg_catalog, pg_temp
as $$
  with recursive below (oid) as (
    select inhrelid from pg_inherits where inhparent = relation
    union
    select i.inhrelid from pg_inherits as i join below as b on b.oid = i.inhparent
  )
  select c.oid::regclass
  from below as b
  join pg_class as c on c.oid = b.oid
  where not c.relrowsecurity or exists (
    select from pg_policy as p
    where p.polrelid = c.oid and p.polpermissive
      and p.polroles && array[0, 'anon'::regrole, 'authenticated'::regrole]::oid[]
  )
$$;
revoke all on function mirror.open_parts(regclass) from public, anon, authenticated, service_role;


-- Say what this database's catalogs hold that `mirror doctor` judges. Nothing is locked or written.
--
-- request: {tables: [name as in SQL, …], types: [name, …]}. Answers {version, now, types, mirrored,
-- tables, policies, views, functions, shared, public_buckets, leftovers}; the Catalog of mirror/targets/catalog.py says what they hold. With
-- this search_path, every name in the answer has its schema.
create or replace function mirror.examine(request jsonb) returns jsonb
language sql stable set search_path = pg_catalog, pg_temp
as $$
  with api as (
    -- What PUBLIC may, these may.
    select oid, rolname as name from pg_roles where rolname in ('anon', 'authenticated')
  ), asked as (
    select name, to_regclass(name)::oid as oid
    from (select distinct jsonb_array_elements_text(request -> 'tables')) as t (name)
  ), columns as (
    select a.attrelid as relation, a.attnum, a.attname::text as name,
      format_type(a.atttypid, null) as type, t.typtype = 'e' as enum,
      a.attnotnull as required,
      a.atthasdef or a.attidentity <> '' or a.attgenerated <> '' as filled,
      a.attidentity = 'a' or a.attgenerated <> '' as generated
    from pg_attribute as a
    join pg_type as t on t.oid = a.atttypid
    where a.attnum > 0 and not a.attisdropped
  ), links as (
    select c.oid, c.conname::text as name, c.conrelid, c.confrelid,
      c.confdeltype::text as on_delete,
      array(
        select a.attname::text
        from unnest(c.conkey) with ordinality as k (attnum, place)
        join pg_attribute as a on a.attrelid = c.conrelid and a.attnum = k.attnum
        order by k.place
      ) as columns,
      exists (
        select from pg_index as i
        where i.indrelid = c.conrelid and i.indisvalid and i.indpred is null
          and i.indkey[0] = any (c.conkey)
      ) as indexed
    from pg_constraint as c
    -- A partition's copy of a key says nothing that its parent's does not.
    where c.contype = 'f' and c.conparentid = 0
  ), words as (
    -- Found in a function's text: nothing records what it refers to.
    select lower(c.relname) as word from asked join pg_class as c on c.oid = asked.oid
    union
    select lower(a.name) from asked join columns as a on a.relation = asked.oid
  ), conditions as (
    select oid, polrelid, concat(polqual, polwithcheck) as tree from pg_policy
  ), reached as (
    -- The tables of a policy's subqueries, and the functions that it calls: its tree names them.
    select c.oid, 'table' as kind, found[1]::oid as what
    from conditions as c, regexp_matches(c.tree, ':relid (\d+)', 'g') as found
    union
    select c.oid, 'function', found[1]::oid
    from conditions as c, regexp_matches(c.tree, ':funcid (\d+)', 'g') as found
  )
  select jsonb_build_object(
    'version', current_setting('server_version_num')::integer,
    'now', extract(epoch from clock_timestamp())::float8,
    'types', (
      select coalesce(jsonb_object_agg(t.name, format_type(to_regtype(t.name)::oid, null)), '{}')
      from (select distinct jsonb_array_elements_text(request -> 'types')) as t (name)
    ),
    'mirrored', (
      select coalesce(jsonb_agg(to_regclass(
        format('%I.%I', m.declaration #>> '{table,0}', m.declaration #>> '{table,1}')
      )::text), '[]')
      from mirror.mappings as m
    ),
    'tables', (
      select coalesce(jsonb_object_agg(asked.name, case when c.oid is not null then
        jsonb_build_object(
          'name', c.oid::regclass::text,
          'rls', c.relrowsecurity,
          -- Asked for the role as which the mirror writes: this function runs as that role.
          'filtered', row_security_active(c.oid),
          'published', exists (
            select from pg_publication_tables as p
            where p.pubname = 'supabase_realtime'
              and to_regclass(format('%I.%I', p.schemaname, p.tablename)) = c.oid
          ),
          'columns', (
            select coalesce(jsonb_object_agg(a.name, jsonb_build_object(
              'type', a.type, 'enum', a.enum, 'required', a.required, 'filled', a.filled,
              'generated', a.generated
            )), '{}')
            from columns as a where a.relation = c.oid
          ),
          -- By role and privilege: the columns it reaches, '*' where it is the table's alone.
          'grants', (
            select coalesce(jsonb_object_agg(r.name, (
              select coalesce(jsonb_object_agg(p.name, p.columns), '{}')
              from (
                select v.name, array(
                  select a.name from columns as a
                  where a.relation = c.oid and has_column_privilege(r.oid, c.oid, a.attnum, v.name)
                  order by a.attnum
                ) as columns
                from unnest(array['select', 'insert', 'update']) as v (name)
                union all
                select v.name, array['*']
                from unnest(array['delete', 'truncate']) as v (name)
                where has_table_privilege(r.oid, c.oid, v.name)
              ) as p
              where p.columns <> '{}'
            )), '{}')
            from api as r
          ),
          'open_parts', (
            select coalesce(jsonb_agg(o.part::text order by o.part::text), '[]')
            from mirror.open_parts(c.oid) as o
            where exists (
              select from api as r, unnest(array['select', 'insert', 'update', 'delete']) as v (name)
              where has_table_privilege(r.oid, o.part, v.name)
                or (v.name <> 'delete' and has_any_column_privilege(r.oid, o.part, v.name))
            )
          ),
          'indexes', (
            select coalesce(jsonb_agg(distinct a.attname::text), '[]')
            from pg_index as i
            join pg_attribute as a on a.attrelid = i.indrelid and a.attnum = i.indkey[0]
            where i.indrelid = c.oid and i.indisvalid and i.indpred is null
          ),
          'triggers', (
            select coalesce(jsonb_agg(t.tgname::text order by t.tgname), '[]')
            from pg_trigger as t
            where t.tgrelid = c.oid and not t.tgisinternal and t.tgenabled <> 'D'
          ),
          -- The user's objects that can change or refuse a write. A unique index over the whole primary
          -- key and more refuses nothing that the key allows.
          'obstacles', (
            select coalesce(jsonb_agg(
              jsonb_build_object('kind', o.kind, 'name', o.name) order by o.kind, o.name
            ), '[]')
            from (
              -- Bits of tgtype: 1 for each row, 2 before, 28 insert, delete or update.
              select case when t.tgtype & 3 = 3 then 'before trigger' else 'trigger' end as kind,
                quote_ident(t.tgname) as name
              from pg_trigger as t
              join pg_proc as p on p.oid = t.tgfoid
              where t.tgrelid = c.oid and not t.tgisinternal and t.tgenabled in ('O', 'A')
                and t.tgtype & 28 <> 0 and p.pronamespace <> 'mirror'::regnamespace
              union all
              select 'rule', quote_ident(r.rulename)
              from pg_rewrite as r
              where r.ev_class = c.oid and r.ev_type <> '1' and r.ev_enabled in ('O', 'A')
              union all
              select 'check constraint', quote_ident(k.conname)
              from pg_constraint as k
              where k.conrelid = c.oid and k.contype = 'c'
              union all
              select
                case k.contype
                  when 'u' then 'unique constraint'
                  when 'x' then 'exclusion constraint'
                  else 'unique index'
                end,
                coalesce(quote_ident(k.conname), i.indexrelid::regclass::text)
              from pg_index as i
              left join pg_constraint as k
                on k.conindid = i.indexrelid and k.conrelid = c.oid and k.contype in ('u', 'x')
              where i.indrelid = c.oid and not i.indisprimary
                and (i.indisexclusion or i.indisunique and not exists (
                  select from pg_index as p
                  where p.indrelid = c.oid and p.indisprimary and p.indkey::smallint[]
                    <@ (i.indkey::smallint[])[0:i.indnkeyatts - 1]
                ))
            ) as o
          ),
          'inheritance', (
            select coalesce(jsonb_agg(jsonb_build_object(
              'parent', h.inhparent::regclass::text, 'child', h.inhrelid::regclass::text
            ) order by h.inhparent::regclass::text, h.inhrelid::regclass::text), '[]')
            from pg_inherits as h where c.oid in (h.inhparent, h.inhrelid)
          ),
          'references', (
            select coalesce(jsonb_agg(jsonb_build_object(
              'name', l.name, 'table', l.confrelid::regclass::text, 'columns', l.columns,
              'on_delete', l.on_delete, 'indexed', l.indexed
            ) order by l.name), '[]')
            from links as l where l.conrelid = c.oid
          ),
          'referenced_by', (
            select coalesce(jsonb_agg(jsonb_build_object(
              'name', l.name, 'table', l.conrelid::regclass::text, 'columns', l.columns,
              'on_delete', l.on_delete, 'indexed', l.indexed
            ) order by l.conrelid::regclass::text, l.name), '[]')
            from links as l where l.confrelid = c.oid
          )
        )
      end), '{}')
      from asked left join pg_class as c on c.oid = asked.oid
    ),
    'policies', (
      select coalesce(jsonb_agg(jsonb_build_object(
        'name', p.polname::text,
        'table', p.polrelid::regclass::text,
        'rls', t.relrowsecurity,
        'permissive', p.polpermissive,
        'command', p.polcmd::text,
        'clients', p.polroles && array(select 0::oid union all select oid from api),
        'conditions', jsonb_build_array(
          pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid)
        ),
        'subqueries', c.tree like '%{SUBLINK%',
        'reads', (
          select coalesce(jsonb_agg(r.what::regclass::text), '[]')
          from reached as r where r.oid = p.oid and r.kind = 'table'
        ),
        'columns', (
          select coalesce(jsonb_agg(distinct
            jsonb_build_array(d.refobjid::regclass::text, a.attname::text)
          ), '[]')
          from pg_depend as d
          join pg_attribute as a on a.attrelid = d.refobjid and a.attnum = d.refobjsubid
          where d.classid = 'pg_policy'::regclass and d.objid = p.oid
            and d.refclassid = 'pg_class'::regclass and d.refobjsubid > 0
        ),
        'calls', (
          select coalesce(jsonb_agg(jsonb_build_object(
            'name', f.oid::regprocedure::text,
            'words', array(
              select distinct lower(word[1])
              from regexp_matches(f.prosrc, '\w+', 'g') as word
              where lower(word[1]) in (select word from words)
            )
          ) order by f.oid), '[]')
          from reached as r
          join pg_proc as f on f.oid = r.what
          join pg_language as l on l.oid = f.prolang
          where r.oid = p.oid and r.kind = 'function' and l.lanname in ('sql', 'plpgsql')
            and f.pronamespace not in ('pg_catalog'::regnamespace, 'mirror'::regnamespace)
            and f.pronamespace::regnamespace::text <> 'auth'
        )
      ) order by p.polrelid::regclass::text, p.polname), '[]')
      from pg_policy as p
      join conditions as c on c.oid = p.oid
      join pg_class as t on t.oid = p.polrelid
    ),
    -- Views of requested tables that run with their owners' rights, and that clients may use.
    'views', (
      with recursive reading (view) as (
        select r.ev_class
        from pg_depend as d
        join pg_rewrite as r on r.oid = d.objid
        where d.classid = 'pg_rewrite'::regclass and d.refclassid = 'pg_class'::regclass
          and d.refobjid in (select oid from asked) and r.ev_class <> d.refobjid
        union
        select r.ev_class
        from reading as v
        join pg_depend as d on d.refobjid = v.view
        join pg_rewrite as r on r.oid = d.objid
        where d.classid = 'pg_rewrite'::regclass and d.refclassid = 'pg_class'::regclass
          and r.ev_class <> v.view
      )
      select coalesce(jsonb_agg(c.oid::regclass::text order by c.oid::regclass::text), '[]')
      from reading as v
      join pg_class as c on c.oid = v.view
      where c.relkind in ('v', 'm')
        and not coalesce(c.reloptions::text ~* 'security_invoker=(true|on|1|yes)', false)
        and exists (
          select from api as r, unnest(array['select', 'insert', 'update', 'delete']) as p (name)
          where has_table_privilege(r.oid, c.oid, p.name)
        )
    ),
    -- Ours that somebody else may call.
    'functions', (
      select coalesce(jsonb_object_agg(f.name, f.roles), '{}')
      from (
        select p.oid::regprocedure::text as name, array(
          select r.name from api as r where has_function_privilege(r.oid, p.oid, 'execute')
          order by r.name
        ) as roles
        from pg_proc as p
        where p.pronamespace = 'mirror'::regnamespace
          or (p.pronamespace = 'public'::regnamespace and p.proname like 'mirror\_%')
      ) as f
      where f.roles <> '{}'
    ),
    'shared', (
      select coalesce(jsonb_agg(f.name order by f.name), '[]')
      from (
        select s as name from mirror.models as m, unnest(m.functions) as s
        where exists (select from mirror.mappings as d where d.model = m.name)
        group by s having count(distinct m.name) > 1
      ) as f
    ),
    'public_buckets', mirror.public_buckets(),
    'leftovers', (
      select coalesce(jsonb_object_agg(m.name, (
        select coalesce(jsonb_agg(jsonb_build_array(l.kind, l.name, l.col)), '[]')
        from mirror.list_leftovers(m.name) as l
      )), '{}')
      from mirror.models as m
    )
  )
$$;
revoke all on function mirror.examine(jsonb) from public, anon, authenticated, service_role;
