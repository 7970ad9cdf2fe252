"""Catalog queries: they find in a database what the mirror has put there, and what uses it."""

import re
from collections.abc import Collection

IN_SCHEMA = """
    select 'pg_class'::regclass::oid as class_, c.oid, 'table' as kind, c.relname::text as name,
      null as comment
    from pg_class as c
    where c.relnamespace = to_regnamespace('mirror') and c.relkind in ('r', 'p')
    union all
    select 'pg_proc'::regclass, p.oid, 'function', p.proname, obj_description(p.oid, 'pg_proc')
    from pg_proc as p
    where p.pronamespace = to_regnamespace('mirror')
"""
DOORS = """
    select 'pg_proc'::regclass::oid as class_, p.oid
    from pg_proc as p
    where p.pronamespace = to_regnamespace('public') and p.proname = any (cast(:names as text[]))
"""
TRIGGERS = """
    select 'pg_trigger'::regclass::oid as class_, t.oid
    from pg_trigger as t
    join pg_class as c on c.oid = t.tgrelid
    where t.tgfoid = any (cast(:functions as oid[])) and not t.tgisinternal and t.tgparentid = 0
      and c.relnamespace is distinct from to_regnamespace('mirror')
"""
POLICIES = """
    select 'pg_policy'::regclass::oid as class_, p.oid
    from pg_policy as p
    where p.polname = any (cast(:guards as text[]))
      or (p.polrelid = any (cast(:tables as oid[])) and p.polname = (
        select c.relname || '_read' from pg_class as c where c.oid = p.polrelid
      ))
"""
MAPPINGS = """
    select m.model, 'pg_class'::regclass::oid as class_, to_regclass(
      format('%I.%I', m.declaration #>> '{table,0}', m.declaration #>> '{table,1}')
    )::oid as oid
    from mirror.mappings as m
    order by m.position
"""
# Mirrored tables that are not declared any more.
LEFT_TABLES = """
    select l.model, 'pg_class'::regclass::oid as class_, to_regclass(l.name)::oid as oid
    from mirror.leftovers as l
    where l.kind = 'table' and not starts_with(l.name, 'mirror.')
    order by l.name
"""
PRIMARY_FIRST = """
    select exists (
      select from pg_attribute
      where attrelid = to_regclass('mirror.state') and attname = 'listened_until'
    )
"""
DESCRIBED = """
    select o.class_, o.oid, i.type, i.identity, (
      select format('%I.%I', n.nspname, c.relname)
      from pg_class as c
      join pg_namespace as n on n.oid = c.relnamespace
      where c.oid = coalesce(
        (select polrelid from pg_policy where o.class_ = 'pg_policy'::regclass and oid = o.oid),
        (select tgrelid from pg_trigger where o.class_ = 'pg_trigger'::regclass and oid = o.oid)
      )
    ) as on_table
    from unnest(cast(:classes as oid[]), cast(:oids as oid[])) as o (class_, oid)
    cross join lateral pg_identify_object(o.class_, o.oid, 0) as i
    order by i.type, i.identity
"""
# Objects that use one of those that go, and do not go with it, as an index goes with its table.
USERS = """
    with recursive gone (class, oid) as (
      select * from unnest(cast(:classes as oid[]), cast(:oids as oid[]))
      union
      select d.classid, d.objid
      from gone as g
      join pg_depend as d on d.refclassid = g.class and d.refobjid = g.oid
      where d.deptype in ('a', 'i')
    )
    select distinct case
      when r.ev_class is null then pg_describe_object(d.classid, d.objid, d.objsubid)
      else pg_describe_object('pg_class'::regclass, r.ev_class, 0)
    end as name
    from pg_depend as d
    join gone as g on d.refclassid = g.class and d.refobjid = g.oid
    left join pg_rewrite as r on d.classid = 'pg_rewrite'::regclass and r.oid = d.objid
    where d.deptype = 'n' and (d.classid, d.objid) not in (select class, oid from gone)
    order by 1
"""
WRITER = """
    select case
      when not (a.rolsuper or a.rolcreaterole and (
        current_setting('server_version_num')::integer < 160000
        or pg_has_role(r.oid, 'MEMBER WITH ADMIN OPTION')
      )) then 'this role may not drop it'
      when exists (
        select from pg_auth_members as m
        join pg_roles as o on o.oid = m.member
        where m.roleid = r.oid and o.rolname not in ('authenticator', current_user)
          and not o.rolsuper
      ) then 'other roles are members of it'
      when exists (
        select from pg_shdepend as s
        where s.refclassid = 'pg_authid'::regclass and s.refobjid = r.oid
          and s.dbid <> (select oid from pg_database where datname = current_database())
      ) then 'other databases or the server use it'
      when exists (
        select from pg_shdepend as s
        where s.refclassid = 'pg_authid'::regclass and s.refobjid = r.oid
          and (s.classid, s.objid) <> ('pg_namespace'::regclass, to_regnamespace('public'))
          and (s.classid, s.objid) not in (
            select * from unnest(cast(:classes as oid[]), cast(:oids as oid[]))
          )
      ) then 'it has rights on other objects of this database'
    end
    from pg_roles as r, pg_roles as a
    where r.rolname = 'mirror_writer' and a.rolname = current_user
"""
# Functions whose text names an object that goes: PostgreSQL does not know that they use it.
CALLERS = """
    select p.oid::regprocedure::text
    from pg_proc as p
    join pg_namespace as n on n.oid = p.pronamespace
    where n.nspname not in ('mirror', 'pg_catalog', 'information_schema')
      and p.prosrc ~ cast(:pattern as text)
      and p.oid <> all (cast(:oids as oid[]))
    order by 1
"""

# The objects that migrations create and change. One that belongs to a table is called
# `name on table`.
OBJECTS = r"""
    with relations as (
      select c.oid, c.relkind, c.relrowsecurity, c.relacl::text as rights, c.reloptions::text,
        format('%I.%I', n.nspname, c.relname) as name
      from pg_class as c
      join pg_namespace as n on n.oid = c.relnamespace
      where c.relkind in ('r', 'p') and n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
    )
    select 'table' as kind, r.name, r.reloptions as definition
    from relations as r
    union all
    select 'rights', 'of roles on ' || r.name, r.rights
    from relations as r
    where r.rights is not null
    union all
    select 'row-level security', 'of rows on ' || r.name, r.relrowsecurity::text
    from relations as r
    union all
    select 'column', format('%I on %s', a.attname, r.name), format_type(a.atttypid, a.atttypmod)
      || case when a.attnotnull then ' not null' else '' end
    from relations as r
    join pg_attribute as a on a.attrelid = r.oid and a.attnum > 0 and not a.attisdropped
    union all
    select 'grant', format('of column %I on %s', a.attname, r.name), a.attacl::text
    from relations as r
    join pg_attribute as a on a.attrelid = r.oid and a.attacl is not null and not a.attisdropped
    union all
    select 'constraint', format('%I on %s', c.conname, r.name), pg_get_constraintdef(c.oid)
    from relations as r
    join pg_constraint as c on c.conrelid = r.oid and c.contype <> 'n'
    union all
    select 'index', format('%s on %s', c.relname, r.name), pg_get_indexdef(i.indexrelid)
    from relations as r
    join pg_index as i on i.indrelid = r.oid
    join pg_class as c on c.oid = i.indexrelid
    where not exists (select from pg_constraint as k where k.conindid = i.indexrelid)
    union all
    select 'trigger', format('%I on %s', t.tgname, r.name),
      concat(t.tgenabled, pg_get_triggerdef(t.oid))
    from relations as r
    join pg_trigger as t on t.tgrelid = r.oid and not t.tgisinternal
    union all
    select 'policy', format('%I on %s', p.polname, r.name), concat_ws(
      ' ', p.polcmd, p.polpermissive, p.polroles::regrole[]::text,
      pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid)
    )
    from relations as r
    join pg_policy as p on p.polrelid = r.oid
    union all
    select 'function',
      format('%I.%I(%s)', n.nspname, p.proname, pg_get_function_identity_arguments(p.oid)),
      md5(concat_ws(' ', p.prosrc, pg_get_function_result(p.oid), p.prosecdef, p.provolatile,
        p.proconfig::text, p.proacl::text))
    from pg_proc as p
    join pg_namespace as n on n.oid = p.pronamespace
    where n.nspname = 'mirror' or (n.nspname = 'public' and p.proname like 'mirror\_%')
"""
FILES = """
    select format('%I.%I', n.nspname, c.relname) as name, c.relfilenode
    from pg_class as c
    join pg_namespace as n on n.oid = c.relnamespace
    where c.relkind = 'r' and n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
"""
CHANGED_ROWS = """
    select format('%I.%I', schemaname, relname) as name, n_tup_ins as inserted,
      n_tup_upd as updated, n_tup_del as deleted
    from pg_stat_xact_user_tables
    where schemaname <> 'mirror' and n_tup_ins + n_tup_upd + n_tup_del > 0
    order by 1
"""


def naming(names: Collection[str]) -> str:
    """Return the pattern of CALLERS for texts that contain one of these names."""
    return rf"\m({'|'.join(re.escape(name) for name in sorted(names))})\M"
