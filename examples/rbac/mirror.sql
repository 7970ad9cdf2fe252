-- The permission model rbac: tables, row-level security, and the functions that write them.
--
-- Printed from the mapping declarations; change those, not this file. Every statement can run
-- again. A table that already exists with another shape or owner is refused; to one of this model,
-- new columns are added, and nothing else is altered.


-- Workers stand aside meanwhile: a batch in flight and these statements could deadlock.
select pg_advisory_xact_lock(1835627122, 1);


select mirror.check_table('users', 'public.users',
  '{"model": "rbac", "table": ["public", "users"], "columns": {"id": "uuid", "name": "text", "role_id": "uuid"}, "key": ["id"], "parents": {}, "policy": "users_read"}'
);
select mirror.check_table('roles', 'public.roles',
  '{"model": "rbac", "table": ["public", "roles"], "columns": {"id": "uuid", "name": "text"}, "key": ["id"], "parents": {}, "policy": "roles_read"}'
);
select mirror.check_table('permissions', 'public.permissions',
  '{"model": "rbac", "table": ["public", "permissions"], "columns": {"id": "uuid", "name": "text"}, "key": ["id"], "parents": {}, "policy": "permissions_read"}'
);
select mirror.check_table('role_permissions', 'public.role_permissions',
  '{"model": "rbac", "table": ["public", "role_permissions"], "columns": {"role_id": "uuid", "permission_id": "uuid"}, "key": ["role_id", "permission_id"], "parents": {"role_id": "public.roles", "permission_id": "public.permissions"}, "policy": "role_permissions_read"}'
);


create table if not exists public.users (
  id uuid not null,
  name text,
  role_id uuid,
  primary key (id)
);
select mirror.add_column('public.users', 'name', 'text');
select mirror.add_column('public.users', 'role_id', 'uuid');


-- users: what was last written for each key, and how fresh the read was.
create table if not exists mirror.ledger_users (
  id uuid not null,
  ref_role_id uuid,
  epoch integer not null,
  fence bigint not null,
  present boolean not null,
  applied_at timestamptz not null,
  primary key (id),
  constraint ledger_users_by_role_id
    unique (ref_role_id, id) deferrable
);
select mirror.add_column('mirror.ledger_users', 'ref_role_id', 'uuid');
update mirror.ledger_users as l
set ref_role_id = t.role_id
from public.users as t
where l.present and l.ref_role_id is null and t.role_id is not null
  and l.id = t.id;
select mirror.add_constraint('mirror.ledger_users', 'ledger_users_by_role_id',
  'unique (ref_role_id, id) deferrable'
);
revoke all on mirror.ledger_users from public, anon, authenticated, service_role;

-- Purging looks at tombstones alone.
create unique index if not exists ledger_users_tombstones
on mirror.ledger_users (id) where not present;


-- Rows of a table that is taken over: the next resync judges them.
insert into mirror.ledger_users (id, ref_role_id, epoch, fence, present, applied_at)
select id, role_id, 0, 0, true, now()
from public.users
where not exists (
  select from mirror.mappings
  where name = 'users' and declaration -> 'table' = '["public", "users"]'
)
on conflict (id) do nothing;


create table if not exists public.roles (
  id uuid not null,
  name text,
  primary key (id)
);
select mirror.add_column('public.roles', 'name', 'text');


-- roles: what was last written for each key, and how fresh the read was.
create table if not exists mirror.ledger_roles (
  id uuid not null,
  epoch integer not null,
  fence bigint not null,
  present boolean not null,
  applied_at timestamptz not null,
  primary key (id)
);
revoke all on mirror.ledger_roles from public, anon, authenticated, service_role;

-- Purging looks at tombstones alone.
create unique index if not exists ledger_roles_tombstones
on mirror.ledger_roles (id) where not present;


-- Rows of a table that is taken over: the next resync judges them.
insert into mirror.ledger_roles (id, epoch, fence, present, applied_at)
select id, 0, 0, true, now()
from public.roles
where not exists (
  select from mirror.mappings
  where name = 'roles' and declaration -> 'table' = '["public", "roles"]'
)
on conflict (id) do nothing;


create table if not exists public.permissions (
  id uuid not null,
  name text,
  primary key (id)
);
select mirror.add_column('public.permissions', 'name', 'text');


-- permissions: what was last written for each key, and how fresh the read was.
create table if not exists mirror.ledger_permissions (
  id uuid not null,
  epoch integer not null,
  fence bigint not null,
  present boolean not null,
  applied_at timestamptz not null,
  primary key (id)
);
revoke all on mirror.ledger_permissions from public, anon, authenticated, service_role;

-- Purging looks at tombstones alone.
create unique index if not exists ledger_permissions_tombstones
on mirror.ledger_permissions (id) where not present;


-- Rows of a table that is taken over: the next resync judges them.
insert into mirror.ledger_permissions (id, epoch, fence, present, applied_at)
select id, 0, 0, true, now()
from public.permissions
where not exists (
  select from mirror.mappings
  where name = 'permissions' and declaration -> 'table' = '["public", "permissions"]'
)
on conflict (id) do nothing;


create table if not exists public.role_permissions (
  role_id uuid not null,
  permission_id uuid not null,
  primary key (role_id, permission_id),
  foreign key (role_id) references public.roles (id) on delete cascade,
  foreign key (permission_id) references public.permissions (id) on delete cascade
);


create unique index if not exists role_permissions_permission_id
on public.role_permissions (permission_id, role_id);


-- role_permissions: what was last written for each key, and how fresh the read was.
create table if not exists mirror.ledger_role_permissions (
  role_id uuid not null,
  permission_id uuid not null,
  epoch integer not null,
  fence bigint not null,
  present boolean not null,
  applied_at timestamptz not null,
  primary key (role_id, permission_id),
  constraint ledger_role_permissions_by_permission_id
    unique (permission_id, role_id)
);
select mirror.add_constraint('mirror.ledger_role_permissions', 'ledger_role_permissions_by_permission_id',
  'unique (permission_id, role_id)'
);
revoke all on mirror.ledger_role_permissions from public, anon, authenticated, service_role;

-- Purging looks at tombstones alone.
create unique index if not exists ledger_role_permissions_tombstones
on mirror.ledger_role_permissions (role_id, permission_id) where not present;


-- Rows of a table that is taken over: the next resync judges them.
insert into mirror.ledger_role_permissions (role_id, permission_id, epoch, fence, present, applied_at)
select role_id, permission_id, 0, 0, true, now()
from public.role_permissions
where not exists (
  select from mirror.mappings
  where name = 'role_permissions' and declaration -> 'table' = '["public", "role_permissions"]'
)
on conflict (role_id, permission_id) do nothing;


create or replace function mirror.withdraw_role_permissions(
  p_epoch integer, p_fence bigint, p_role_id uuid[], p_permission_id uuid[]
) returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  retained jsonb := '{}';
begin
  set constraints all immediate;
  delete from public.role_permissions as t
    using unnest(p_role_id, p_permission_id) as g (role_id, permission_id)
    where t.role_id = g.role_id and t.permission_id = g.permission_id;
  return retained;
end
$$;


create or replace function mirror.scope_role_permissions(
  p_reference text, p_values text[], p_after text[], p_limit integer
) returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
  if p_reference = '*' then
    if cardinality(p_after) = 0 then
      return (
        select coalesce(jsonb_agg(jsonb_build_array(f.role_id::text, f.permission_id::text) order by f.role_id, f.permission_id), '[]')
        from (
          select l.role_id, l.permission_id from mirror.ledger_role_permissions as l
          where l.present
          order by l.role_id, l.permission_id limit p_limit
        ) as f
      );
    end if;
    return (
      select coalesce(jsonb_agg(jsonb_build_array(f.role_id::text, f.permission_id::text) order by f.role_id, f.permission_id), '[]')
      from (
        select l.role_id, l.permission_id from mirror.ledger_role_permissions as l
        where l.present
          and (l.role_id, l.permission_id) > (p_after[1]::uuid, p_after[2]::uuid)
        order by l.role_id, l.permission_id limit p_limit
      ) as f
    );
  end if;
  if p_reference = 'role_id' then
    if cardinality(p_after) = 0 then
      return (
        select coalesce(jsonb_agg(jsonb_build_array(f.role_id::text, f.permission_id::text) order by f.role_id, f.permission_id), '[]')
        from (
          select l.role_id, l.permission_id from mirror.ledger_role_permissions as l
          where l.present
            and l.role_id = any(p_values::uuid[])
          order by l.role_id, l.permission_id limit p_limit
        ) as f
      );
    end if;
    return (
      select coalesce(jsonb_agg(jsonb_build_array(f.role_id::text, f.permission_id::text) order by f.role_id, f.permission_id), '[]')
      from (
        select l.role_id, l.permission_id from mirror.ledger_role_permissions as l
        where l.present
          and l.role_id = any(p_values::uuid[])
          and (l.role_id, l.permission_id) > (p_after[1]::uuid, p_after[2]::uuid)
        order by l.role_id, l.permission_id limit p_limit
      ) as f
    );
  end if;
  if p_reference = 'permission_id' then
    if cardinality(p_after) = 0 then
      return (
        select coalesce(jsonb_agg(jsonb_build_array(f.role_id::text, f.permission_id::text) order by f.role_id, f.permission_id), '[]')
        from (
          select l.role_id, l.permission_id from mirror.ledger_role_permissions as l
          where l.present
            and l.permission_id = any(p_values::uuid[])
          order by l.role_id, l.permission_id limit p_limit
        ) as f
      );
    end if;
    return (
      select coalesce(jsonb_agg(jsonb_build_array(f.role_id::text, f.permission_id::text) order by f.role_id, f.permission_id), '[]')
      from (
        select l.role_id, l.permission_id from mirror.ledger_role_permissions as l
        where l.present
          and l.permission_id = any(p_values::uuid[])
          and (l.role_id, l.permission_id) > (p_after[1]::uuid, p_after[2]::uuid)
        order by l.role_id, l.permission_id limit p_limit
      ) as f
    );
  end if;
  raise exception 'mapping role_permissions has no reference %', p_reference using errcode = 'MR001';
end
$$;


create or replace function mirror.apply_role_permissions(
  p_epoch integer, p_fence bigint, p_rows jsonb, p_gone jsonb
) returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  answer jsonb;
  gone_role_id uuid[];
  gone_permission_id uuid[];
begin
  with incoming as materialized (
    select
      (r ->> 0)::uuid as role_id,
      (r ->> 1)::uuid as permission_id,
      true as present
    from jsonb_array_elements(p_rows) as r
    union all
    select (g ->> 0)::uuid, (g ->> 1)::uuid, false
    from jsonb_array_elements(p_gone) as g
  ),
  -- The newest read that this key, or a scope it would be in, is known to have had.
  known as materialized (
    select i.*,
      coalesce(l.present, false) as was_present,
      greatest(
        case when l.epoch = p_epoch then l.fence end,
        case when i.present then (
          select s.fence from mirror.scopes as s
          where s.mapping = 'role_permissions' and s.reference = '*'
            and s.value = '' and s.epoch = p_epoch
        ) end,
        case when i.present then (
          select s.fence from mirror.scopes as s
          where s.mapping = 'role_permissions' and s.reference = 'role_id'
            and s.value = i.role_id::text and s.epoch = p_epoch
        ) end,
        case when i.present then (
          select s.fence from mirror.scopes as s
          where s.mapping = 'role_permissions' and s.reference = 'permission_id'
            and s.value = i.permission_id::text and s.epoch = p_epoch
        ) end
      ) as newest
    from incoming as i
    -- LIMIT keeps this a look-up for each key: a plan from when the table was small would read all
    -- of it for every batch of a first load.
    left join lateral (
      select * from mirror.ledger_role_permissions as s where s.role_id = i.role_id and s.permission_id = i.permission_id limit 1
    ) as l on true
  ),
  judged as materialized (
    select k.*,
      coalesce(k.newest > p_fence, false) as stale,
      k.present and not coalesce(k.newest > p_fence, false) and (
        (k.role_id is not null and (
          select true from mirror.ledger_roles as p
          join public.roles as t using (id)
          where p.id = k.role_id and p.present
        ) is null) or (k.permission_id is not null and (
          select true from mirror.ledger_permissions as p
          join public.permissions as t using (id)
          where p.id = k.permission_id and p.present
        ) is null)
      ) as orphan
    from known as k
  ),
  -- Always advance the ledger, also where the row stays as it is or was never there: a write
  -- that still hangs somewhere must find that it is older. Sorted, so that two never deadlock.
  -- The conflict's WHERE takes in the tombstones' index beside the primary key.
  admitted as (
    insert into mirror.ledger_role_permissions as l (role_id, permission_id, epoch, fence, present, applied_at)
    select j.role_id, j.permission_id, p_epoch, p_fence, j.present, now()
    from judged as j
    where not j.stale and not j.orphan
    order by j.role_id, j.permission_id
    on conflict (role_id, permission_id) where not present do update
    set epoch = excluded.epoch, fence = excluded.fence,
      present = excluded.present, applied_at = excluded.applied_at
    where (l.epoch, l.fence) <= (excluded.epoch, excluded.fence)
    returning l.role_id, l.permission_id, l.present
  ),
  -- Touch the visible row only where it changes: no WAL and no Realtime message for nothing.
  written as (
    insert into public.role_permissions as t (role_id, permission_id)
    select j.role_id, j.permission_id
    from judged as j
    join admitted as a on a.role_id = j.role_id and a.permission_id = j.permission_id
    where a.present
    on conflict (role_id, permission_id) do nothing
  )
  select
    jsonb_build_object(
      'stale', coalesce(jsonb_agg(jsonb_build_array(j.role_id::text, j.permission_id::text))
        filter (where a.role_id is null and not j.orphan), '[]'),
      'ahead', max(j.newest) filter (where j.stale),
      'orphans', coalesce(jsonb_agg(jsonb_build_array(j.role_id::text, j.permission_id::text)) filter (where j.orphan), '[]')
    ),
    array_agg(j.role_id) filter (where not a.present),
    array_agg(j.permission_id) filter (where not a.present)
  into answer, gone_role_id, gone_permission_id
  from judged as j
  left join admitted as a on a.role_id = j.role_id and a.permission_id = j.permission_id;

  if gone_role_id is not null then
    answer := answer || jsonb_build_object('retained', mirror.withdraw_role_permissions(
      p_epoch, p_fence, gone_role_id, gone_permission_id
    ));
  end if;
  return answer;
end
$$;


revoke all on function
  mirror.apply_role_permissions(integer, bigint, jsonb, jsonb),
  mirror.scope_role_permissions(text, text[], text[], integer),
  mirror.withdraw_role_permissions(integer, bigint, uuid[], uuid[])
from public, anon, authenticated, service_role;


create or replace function mirror.digest_role_permissions(
  p_from text[], p_until text[], p_seed bigint, p_md5 boolean, p_limit integer, p_each boolean
) returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  answer jsonb;
  limit_key text[];
  wanted_until text[] := p_until;
begin
  if wanted_until is null then
    limit_key := (
      select array[s.role_id::text, s.permission_id::text] from public.role_permissions as s
      where (s.role_id, s.permission_id) >= (p_from[1]::uuid, p_from[2]::uuid) and s.role_id >= p_from[1]::uuid
      order by s.role_id, s.permission_id offset p_limit limit 1
    );
  else
    limit_key := (
      select array[s.role_id::text, s.permission_id::text] from public.role_permissions as s
      where (s.role_id, s.permission_id) >= (p_from[1]::uuid, p_from[2]::uuid) and s.role_id >= p_from[1]::uuid
        and (s.role_id, s.permission_id) < (wanted_until[1]::uuid, wanted_until[2]::uuid) and s.role_id <= wanted_until[1]::uuid
      order by s.role_id, s.permission_id offset p_limit limit 1
    );
  end if;
  wanted_until := coalesce(limit_key, wanted_until);
  if wanted_until is null then
    limit_key := (
      select array[s.role_id::text, s.permission_id::text] from mirror.ledger_role_permissions as s
      where (s.role_id, s.permission_id) >= (p_from[1]::uuid, p_from[2]::uuid) and s.role_id >= p_from[1]::uuid
      order by s.role_id, s.permission_id offset p_limit limit 1
    );
  else
    limit_key := (
      select array[s.role_id::text, s.permission_id::text] from mirror.ledger_role_permissions as s
      where (s.role_id, s.permission_id) >= (p_from[1]::uuid, p_from[2]::uuid) and s.role_id >= p_from[1]::uuid
        and (s.role_id, s.permission_id) < (wanted_until[1]::uuid, wanted_until[2]::uuid) and s.role_id <= wanted_until[1]::uuid
      order by s.role_id, s.permission_id offset p_limit limit 1
    );
  end if;
  wanted_until := coalesce(limit_key, wanted_until);
  if wanted_until is null then
    select jsonb_build_object(
      'rows', count(*) filter (where f.there),
      'sum', coalesce(sum(f.hash) filter (where f.there), 0)::text,
      'strays', count(*) filter (where f.stray)
    ) || case when p_each then jsonb_build_object('each', coalesce(jsonb_agg(
      -- Without a hash: whatever the other side has, it differs.
      jsonb_build_array(f.k0, f.k1, case when f.there and not f.stray then f.hash::text end)
    ), '[]')) else '{}' end
    into answer
    from (
      select h.*, case when p_md5 then ('x' || left(md5(p_seed::text || h.r::text), 16))::bit(64)::bigint
            else hash_record_extended(h.r, p_seed) end as hash
      from (
        select coalesce(t.role_id, l.role_id)::text as k0, coalesce(t.permission_id, l.permission_id)::text as k1, row(t.role_id::text collate "C", t.permission_id::text collate "C") as r,
          t.role_id is not null and not (false) as there,
          case when t.role_id is null then l.present
            else l.present is not true and not (false) end as stray
        from (
          select t.* from public.role_permissions as t
          where (t.role_id, t.permission_id) >= (p_from[1]::uuid, p_from[2]::uuid) and t.role_id >= p_from[1]::uuid
        ) as t
        full join (
          select l.* from mirror.ledger_role_permissions as l
          where (l.role_id, l.permission_id) >= (p_from[1]::uuid, p_from[2]::uuid) and l.role_id >= p_from[1]::uuid
        ) as l on t.role_id = l.role_id and t.permission_id = l.permission_id
      ) as h
      where h.there or h.stray
    ) as f;
  else
    select jsonb_build_object(
      'rows', count(*) filter (where f.there),
      'sum', coalesce(sum(f.hash) filter (where f.there), 0)::text,
      'strays', count(*) filter (where f.stray)
    ) || case when p_each then jsonb_build_object('each', coalesce(jsonb_agg(
      -- Without a hash: whatever the other side has, it differs.
      jsonb_build_array(f.k0, f.k1, case when f.there and not f.stray then f.hash::text end)
    ), '[]')) else '{}' end
    into answer
    from (
      select h.*, case when p_md5 then ('x' || left(md5(p_seed::text || h.r::text), 16))::bit(64)::bigint
            else hash_record_extended(h.r, p_seed) end as hash
      from (
        select coalesce(t.role_id, l.role_id)::text as k0, coalesce(t.permission_id, l.permission_id)::text as k1, row(t.role_id::text collate "C", t.permission_id::text collate "C") as r,
          t.role_id is not null and not (false) as there,
          case when t.role_id is null then l.present
            else l.present is not true and not (false) end as stray
        from (
          select t.* from public.role_permissions as t
          where (t.role_id, t.permission_id) >= (p_from[1]::uuid, p_from[2]::uuid) and t.role_id >= p_from[1]::uuid
          and (t.role_id, t.permission_id) < (wanted_until[1]::uuid, wanted_until[2]::uuid) and t.role_id <= wanted_until[1]::uuid
        ) as t
        full join (
          select l.* from mirror.ledger_role_permissions as l
          where (l.role_id, l.permission_id) >= (p_from[1]::uuid, p_from[2]::uuid) and l.role_id >= p_from[1]::uuid
          and (l.role_id, l.permission_id) < (wanted_until[1]::uuid, wanted_until[2]::uuid) and l.role_id <= wanted_until[1]::uuid
        ) as l on t.role_id = l.role_id and t.permission_id = l.permission_id
      ) as h
      where h.there or h.stray
    ) as f;
  end if;
  return answer || jsonb_build_object('until', wanted_until);
end
$$;


create or replace function mirror.survey_role_permissions(
  p_seed bigint, p_md5 boolean, p_bits integer, p_wanted bytea, p_each boolean, p_part integer,
  p_parts integer
) returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  answer jsonb;
  low constant bigint := (1::bigint << p_bits) - 1;
  wanted_low constant bigint := 8 * length(p_wanted) - 1;
  seen constant tid[] := mirror.part_of('public.role_permissions', p_part, p_parts);
  known constant tid[] := mirror.part_of('mirror.ledger_role_permissions', p_part, p_parts);
begin
  if p_each then
    select coalesce(jsonb_agg(jsonb_build_array(f.k0, f.k1, f.hash::text)), '[]')
    into answer
    from (
      select k.k0::text, k.k1::text, bit_xor(k.hash) as hash
      from (
        select k.k0, k.k1, case when p_md5 then ('x' || left(md5(p_seed::text || row(k.key_hash)::text), 16))::bit(64)::bigint else hash_record_extended(row(k.key_hash), p_seed) end as hash
        from (
          select t.role_id as k0, t.permission_id as k1,
            case when p_md5 then ('x' || left(md5(p_seed::text || row(t.role_id, t.permission_id)::text), 16))::bit(64)::bigint else hash_record_extended(row(t.role_id, t.permission_id), p_seed) end as key_hash
          from public.role_permissions as t
          where t.ctid >= seen[1] and t.ctid < seen[2]
            and not (false)
          -- So that a hash is taken once, not wherever it is named.
          offset 0
        ) as k
        where p_wanted is null or get_bit(p_wanted, k.key_hash & wanted_low) = 1
        union all
        select k.k0, k.k1, k.key_hash
        from (
          select l.role_id as k0, l.permission_id as k1,
            case when p_md5 then ('x' || left(md5(p_seed::text || row(l.role_id, l.permission_id)::text), 16))::bit(64)::bigint else hash_record_extended(row(l.role_id, l.permission_id), p_seed) end as key_hash
          from mirror.ledger_role_permissions as l
          where l.ctid >= known[1] and l.ctid < known[2]
            and l.present
          -- So that a hash is taken once, not wherever it is named.
          offset 0
        ) as k
        where p_wanted is null or get_bit(p_wanted, k.key_hash & wanted_low) = 1
      ) as k
      group by k.k0, k.k1
    ) as f;
  else
    select jsonb_build_object(
      'buckets', encode(coalesce(string_agg(int4send(f.bucket), ''), ''), 'base64'),
      'rows', encode(coalesce(string_agg(int4send(f.rows), ''), ''), 'base64'),
      'sums', encode(coalesce(string_agg(int8send(f.sum), ''), ''), 'base64')
    )
    into answer
    from (
      select e.bucket, count(e.seen)::integer as rows, bit_xor(e.hash) as sum
      from (
        select (k.key_hash & low)::integer as bucket, true as seen, case when p_md5 then ('x' || left(md5(p_seed::text || row(k.key_hash)::text), 16))::bit(64)::bigint else hash_record_extended(row(k.key_hash), p_seed) end as hash
        from (
          select t.role_id as k0, t.permission_id as k1,
            case when p_md5 then ('x' || left(md5(p_seed::text || row(t.role_id, t.permission_id)::text), 16))::bit(64)::bigint else hash_record_extended(row(t.role_id, t.permission_id), p_seed) end as key_hash
          from public.role_permissions as t
          where t.ctid >= seen[1] and t.ctid < seen[2]
            and not (false)
          -- So that a hash is taken once, not wherever it is named.
          offset 0
        ) as k
        where p_wanted is null or get_bit(p_wanted, k.key_hash & wanted_low) = 1
        union all
        select (k.key_hash & low)::integer, null, k.key_hash
        from (
          select l.role_id as k0, l.permission_id as k1,
            case when p_md5 then ('x' || left(md5(p_seed::text || row(l.role_id, l.permission_id)::text), 16))::bit(64)::bigint else hash_record_extended(row(l.role_id, l.permission_id), p_seed) end as key_hash
          from mirror.ledger_role_permissions as l
          where l.ctid >= known[1] and l.ctid < known[2]
            and l.present
          -- So that a hash is taken once, not wherever it is named.
          offset 0
        ) as k
        where p_wanted is null or get_bit(p_wanted, k.key_hash & wanted_low) = 1
      ) as e
      group by e.bucket
    ) as f;
  end if;
  return answer;
end
$$;
revoke all on function mirror.survey_role_permissions(bigint, boolean, integer, bytea, boolean, integer, integer)
from public, anon, authenticated, service_role;


create or replace function mirror.rows_role_permissions(p_keys jsonb)
returns jsonb
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select coalesce(jsonb_agg(jsonb_build_object(
    'key', jsonb_build_array(a.k0::text, a.k1::text),
    'row', case when t.role_id is not null and not (false) then
      jsonb_build_array(t.role_id::text, t.permission_id::text)
    end,
    'present', l.present,
    'epoch', l.epoch,
    'fence', l.fence,
    -- A row that was written after its ledger's was written by somebody else.
    'edited', coalesce(age(t.xmin) < age(l.xmin), false),
    'expired', coalesce(false, false),
    'outdated', coalesce(l.applied_at < (
      select g.applied_at from mirror.migrations as g where g.name = 'model_rbac'
    ), false)
  )), '[]')
  from (select (k ->> 0)::uuid as k0, (k ->> 1)::uuid as k1 from jsonb_array_elements(p_keys) as k) as a
  left join public.role_permissions as t on t.role_id = a.k0 and t.permission_id = a.k1
  left join mirror.ledger_role_permissions as l on l.role_id = a.k0 and l.permission_id = a.k1
$$;


revoke all on function
  mirror.digest_role_permissions(
    text[], text[], bigint, boolean, integer, boolean
  ),
  mirror.rows_role_permissions(jsonb)
from public, anon, authenticated, service_role;


create or replace function mirror.withdraw_permissions(
  p_epoch integer, p_fence bigint, p_id uuid[]
) returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  retained jsonb := '{}';
  child1_role_id uuid[];
  child1_permission_id uuid[];
  held jsonb := '[]';
begin
  -- role_permissions: close the scope, so that no hung write brings a child back, then its rows.
  insert into mirror.scopes as s (mapping, reference, value, epoch, fence)
  select 'role_permissions', 'permission_id', k::text, p_epoch, p_fence
  from unnest(p_id) as k
  on conflict (mapping, reference, value) do update
  set epoch = excluded.epoch, fence = excluded.fence, read_at = now()
  where (s.epoch, s.fence) < (excluded.epoch, excluded.fence);
  with forgotten as (
    update mirror.ledger_role_permissions as l
    set present = false, epoch = p_epoch, applied_at = now(),
      fence = case when l.epoch = p_epoch then greatest(l.fence, p_fence) else p_fence end
    where l.present and l.permission_id = any(p_id)
    returning l.role_id, l.permission_id
  )
  select array_agg(role_id), array_agg(permission_id)
  into child1_role_id, child1_permission_id from forgotten;
  if child1_role_id is not null then
    retained := retained || mirror.withdraw_role_permissions(
      p_epoch, p_fence, child1_role_id, child1_permission_id
    );
  end if;

  -- A foreign key of somebody else's table may hold a row back. That must not stop the others,
  -- and what stays must grant nothing: only the bare key stays. A deferred one must speak up here,
  -- not at commit, also in the second attempt: inside the block, the setting would be undone.
  set constraints all immediate;
  begin
    delete from public.permissions as t
      using unnest(p_id) as g (id)
      where t.id = g.id;
  exception when foreign_key_violation or restrict_violation then
    for i in 1 .. cardinality(p_id) loop
      begin
        delete from public.permissions as t where t.id = p_id[i];
      exception when foreign_key_violation or restrict_violation then
        update public.permissions as t set name = null where t.id = p_id[i];
        held := held || jsonb_build_array(jsonb_build_array(p_id[i]::text));
      end;
    end loop;
    retained := retained || jsonb_build_object('permissions', held);
  end;
  return retained;
end
$$;


create or replace function mirror.scope_permissions(
  p_reference text, p_values text[], p_after text[], p_limit integer
) returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
  if p_reference = '*' then
    if cardinality(p_after) = 0 then
      return (
        select coalesce(jsonb_agg(jsonb_build_array(f.id::text) order by f.id), '[]')
        from (
          select l.id from mirror.ledger_permissions as l
          where l.present
          order by l.id limit p_limit
        ) as f
      );
    end if;
    return (
      select coalesce(jsonb_agg(jsonb_build_array(f.id::text) order by f.id), '[]')
      from (
        select l.id from mirror.ledger_permissions as l
        where l.present
          and (l.id) > (p_after[1]::uuid)
        order by l.id limit p_limit
      ) as f
    );
  end if;
  raise exception 'mapping permissions has no reference %', p_reference using errcode = 'MR001';
end
$$;


create or replace function mirror.apply_permissions(
  p_epoch integer, p_fence bigint, p_rows jsonb, p_gone jsonb
) returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  answer jsonb;
  gone_id uuid[];
begin
  with incoming as materialized (
    select
      (r ->> 0)::uuid as id,
      (r ->> 1)::text as name,
      coalesce((r ->> 2)::boolean, false) as whole,
      true as present
    from jsonb_array_elements(p_rows) as r
    union all
    select (g ->> 0)::uuid, null::text, null::boolean, false
    from jsonb_array_elements(p_gone) as g
  ),
  -- The newest read that this key, or a scope it would be in, is known to have had.
  known as materialized (
    select i.*,
      coalesce(l.present, false) and exists (
        select from public.permissions as t where t.id = i.id
      ) as was_present,
      greatest(
        case when l.epoch = p_epoch then l.fence end,
        case when i.present then (
          select s.fence from mirror.scopes as s
          where s.mapping = 'permissions' and s.reference = '*'
            and s.value = '' and s.epoch = p_epoch
        ) end
      ) as newest
    from incoming as i
    -- LIMIT keeps this a look-up for each key: a plan from when the table was small would read all
    -- of it for every batch of a first load.
    left join lateral (
      select * from mirror.ledger_permissions as s where s.id = i.id limit 1
    ) as l on true
  ),
  judged as materialized (
    select k.*,
      coalesce(k.newest > p_fence, false) as stale,
      false as orphan,
      k.present and not k.was_present and not k.whole as alone
    from known as k
  ),
  -- Always advance the ledger, also where the row stays as it is or was never there: a write
  -- that still hangs somewhere must find that it is older. Sorted, so that two never deadlock.
  -- The conflict's WHERE takes in the tombstones' index beside the primary key.
  admitted as (
    insert into mirror.ledger_permissions as l (id, epoch, fence, present, applied_at)
    select j.id, p_epoch, p_fence, j.present, now()
    from judged as j
    where not j.stale and not j.orphan and not j.alone
    order by j.id
    on conflict (id) where not present do update
    set epoch = excluded.epoch, fence = excluded.fence,
      present = excluded.present, applied_at = excluded.applied_at
    where (l.epoch, l.fence) <= (excluded.epoch, excluded.fence)
    returning l.id, l.present
  ),
  -- Touch the visible row only where it changes: no WAL and no Realtime message for nothing.
  written as (
    insert into public.permissions as t (id, name)
    select j.id, j.name
    from judged as j
    join admitted as a on a.id = j.id
    where a.present
    on conflict (id) do update set
      name = excluded.name
    where (t.name)
      is distinct from (excluded.name)
  )
  select
    jsonb_build_object(
      'stale', coalesce(jsonb_agg(jsonb_build_array(j.id::text))
        filter (where a.id is null and not j.orphan and (j.stale or not j.alone)), '[]'),
      'ahead', max(j.newest) filter (where j.stale),
      'orphans', coalesce(jsonb_agg(jsonb_build_array(j.id::text)) filter (where j.orphan), '[]'),
      'appearing', coalesce(jsonb_agg(jsonb_build_array(j.id::text)) filter (where j.alone and not j.stale and not j.orphan), '[]')
    ),
    array_agg(j.id) filter (where not a.present)
  into answer, gone_id
  from judged as j
  left join admitted as a on a.id = j.id;

  if gone_id is not null then
    answer := answer || jsonb_build_object('retained', mirror.withdraw_permissions(
      p_epoch, p_fence, gone_id
    ));
  end if;
  return answer;
end
$$;


revoke all on function
  mirror.apply_permissions(integer, bigint, jsonb, jsonb),
  mirror.scope_permissions(text, text[], text[], integer),
  mirror.withdraw_permissions(integer, bigint, uuid[])
from public, anon, authenticated, service_role;


create or replace function mirror.digest_permissions(
  p_from text[], p_until text[], p_seed bigint, p_md5 boolean, p_limit integer, p_each boolean
) returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  answer jsonb;
  limit_key text[];
  wanted_until text[] := p_until;
begin
  if wanted_until is null then
    limit_key := (
      select array[s.id::text] from public.permissions as s
      where (s.id) >= (p_from[1]::uuid)
      order by s.id offset p_limit limit 1
    );
  else
    limit_key := (
      select array[s.id::text] from public.permissions as s
      where (s.id) >= (p_from[1]::uuid)
        and (s.id) < (wanted_until[1]::uuid)
      order by s.id offset p_limit limit 1
    );
  end if;
  wanted_until := coalesce(limit_key, wanted_until);
  if wanted_until is null then
    limit_key := (
      select array[s.id::text] from mirror.ledger_permissions as s
      where (s.id) >= (p_from[1]::uuid)
      order by s.id offset p_limit limit 1
    );
  else
    limit_key := (
      select array[s.id::text] from mirror.ledger_permissions as s
      where (s.id) >= (p_from[1]::uuid)
        and (s.id) < (wanted_until[1]::uuid)
      order by s.id offset p_limit limit 1
    );
  end if;
  wanted_until := coalesce(limit_key, wanted_until);
  if wanted_until is null then
    select jsonb_build_object(
      'rows', count(*) filter (where f.there),
      'sum', coalesce(sum(f.hash) filter (where f.there), 0)::text,
      'strays', count(*) filter (where f.stray)
    ) || case when p_each then jsonb_build_object('each', coalesce(jsonb_agg(
      -- Without a hash: whatever the other side has, it differs.
      jsonb_build_array(f.k0, case when f.there and not f.stray then f.hash::text end)
    ), '[]')) else '{}' end
    into answer
    from (
      select h.*, case when p_md5 then ('x' || left(md5(p_seed::text || h.r::text), 16))::bit(64)::bigint
            else hash_record_extended(h.r, p_seed) end as hash
      from (
        select coalesce(t.id, l.id)::text as k0, row(t.id::text collate "C", t.name::text collate "C") as r,
          t.id is not null and not (t.name is null and l.present is false) as there,
          case when t.id is null then l.present
            else l.present is not true and not (t.name is null and l.present is false) end as stray
        from (
          select t.* from public.permissions as t
          where (t.id) >= (p_from[1]::uuid)
        ) as t
        full join (
          select l.* from mirror.ledger_permissions as l
          where (l.id) >= (p_from[1]::uuid)
        ) as l on t.id = l.id
      ) as h
      where h.there or h.stray
    ) as f;
  else
    select jsonb_build_object(
      'rows', count(*) filter (where f.there),
      'sum', coalesce(sum(f.hash) filter (where f.there), 0)::text,
      'strays', count(*) filter (where f.stray)
    ) || case when p_each then jsonb_build_object('each', coalesce(jsonb_agg(
      -- Without a hash: whatever the other side has, it differs.
      jsonb_build_array(f.k0, case when f.there and not f.stray then f.hash::text end)
    ), '[]')) else '{}' end
    into answer
    from (
      select h.*, case when p_md5 then ('x' || left(md5(p_seed::text || h.r::text), 16))::bit(64)::bigint
            else hash_record_extended(h.r, p_seed) end as hash
      from (
        select coalesce(t.id, l.id)::text as k0, row(t.id::text collate "C", t.name::text collate "C") as r,
          t.id is not null and not (t.name is null and l.present is false) as there,
          case when t.id is null then l.present
            else l.present is not true and not (t.name is null and l.present is false) end as stray
        from (
          select t.* from public.permissions as t
          where (t.id) >= (p_from[1]::uuid)
          and (t.id) < (wanted_until[1]::uuid)
        ) as t
        full join (
          select l.* from mirror.ledger_permissions as l
          where (l.id) >= (p_from[1]::uuid)
          and (l.id) < (wanted_until[1]::uuid)
        ) as l on t.id = l.id
      ) as h
      where h.there or h.stray
    ) as f;
  end if;
  return answer || jsonb_build_object('until', wanted_until);
end
$$;


create or replace function mirror.survey_permissions(
  p_seed bigint, p_md5 boolean, p_bits integer, p_wanted bytea, p_each boolean, p_part integer,
  p_parts integer
) returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  answer jsonb;
  low constant bigint := (1::bigint << p_bits) - 1;
  wanted_low constant bigint := 8 * length(p_wanted) - 1;
  seen constant tid[] := mirror.part_of('public.permissions', p_part, p_parts);
  known constant tid[] := mirror.part_of('mirror.ledger_permissions', p_part, p_parts);
begin
  if p_each then
    select coalesce(jsonb_agg(jsonb_build_array(f.k0, f.hash::text)), '[]')
    into answer
    from (
      select k.k0::text, bit_xor(k.hash) as hash
      from (
        select k.k0, case when p_md5 then ('x' || left(md5(p_seed::text || row(k.key_hash, k.c0)::text), 16))::bit(64)::bigint else hash_record_extended(row(k.key_hash, k.c0), p_seed) end as hash
        from (
          select t.id as k0, t.name::text collate "C" as c0,
            case when p_md5 then ('x' || left(md5(p_seed::text || row(t.id)::text), 16))::bit(64)::bigint else hash_record_extended(row(t.id), p_seed) end as key_hash
          from public.permissions as t
          where t.ctid >= seen[1] and t.ctid < seen[2]
            and not (t.name is null and (select l.present is false from mirror.ledger_permissions as l where l.id = t.id) is true)
          -- So that a hash is taken once, not wherever it is named.
          offset 0
        ) as k
        where p_wanted is null or get_bit(p_wanted, k.key_hash & wanted_low) = 1
        union all
        select k.k0, k.key_hash
        from (
          select l.id as k0,
            case when p_md5 then ('x' || left(md5(p_seed::text || row(l.id)::text), 16))::bit(64)::bigint else hash_record_extended(row(l.id), p_seed) end as key_hash
          from mirror.ledger_permissions as l
          where l.ctid >= known[1] and l.ctid < known[2]
            and l.present
          -- So that a hash is taken once, not wherever it is named.
          offset 0
        ) as k
        where p_wanted is null or get_bit(p_wanted, k.key_hash & wanted_low) = 1
      ) as k
      group by k.k0
    ) as f;
  else
    select jsonb_build_object(
      'buckets', encode(coalesce(string_agg(int4send(f.bucket), ''), ''), 'base64'),
      'rows', encode(coalesce(string_agg(int4send(f.rows), ''), ''), 'base64'),
      'sums', encode(coalesce(string_agg(int8send(f.sum), ''), ''), 'base64')
    )
    into answer
    from (
      select e.bucket, count(e.seen)::integer as rows, bit_xor(e.hash) as sum
      from (
        select (k.key_hash & low)::integer as bucket, true as seen, case when p_md5 then ('x' || left(md5(p_seed::text || row(k.key_hash, k.c0)::text), 16))::bit(64)::bigint else hash_record_extended(row(k.key_hash, k.c0), p_seed) end as hash
        from (
          select t.id as k0, t.name::text collate "C" as c0,
            case when p_md5 then ('x' || left(md5(p_seed::text || row(t.id)::text), 16))::bit(64)::bigint else hash_record_extended(row(t.id), p_seed) end as key_hash
          from public.permissions as t
          where t.ctid >= seen[1] and t.ctid < seen[2]
            and not (t.name is null and (select l.present is false from mirror.ledger_permissions as l where l.id = t.id) is true)
          -- So that a hash is taken once, not wherever it is named.
          offset 0
        ) as k
        where p_wanted is null or get_bit(p_wanted, k.key_hash & wanted_low) = 1
        union all
        select (k.key_hash & low)::integer, null, k.key_hash
        from (
          select l.id as k0,
            case when p_md5 then ('x' || left(md5(p_seed::text || row(l.id)::text), 16))::bit(64)::bigint else hash_record_extended(row(l.id), p_seed) end as key_hash
          from mirror.ledger_permissions as l
          where l.ctid >= known[1] and l.ctid < known[2]
            and l.present
          -- So that a hash is taken once, not wherever it is named.
          offset 0
        ) as k
        where p_wanted is null or get_bit(p_wanted, k.key_hash & wanted_low) = 1
      ) as e
      group by e.bucket
    ) as f;
  end if;
  return answer;
end
$$;
revoke all on function mirror.survey_permissions(bigint, boolean, integer, bytea, boolean, integer, integer)
from public, anon, authenticated, service_role;


create or replace function mirror.rows_permissions(p_keys jsonb)
returns jsonb
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select coalesce(jsonb_agg(jsonb_build_object(
    'key', jsonb_build_array(a.k0::text),
    'row', case when t.id is not null and not (t.name is null and l.present is false) then
      jsonb_build_array(t.id::text, t.name::text)
    end,
    'present', l.present,
    'epoch', l.epoch,
    'fence', l.fence,
    -- A row that was written after its ledger's was written by somebody else.
    'edited', coalesce(age(t.xmin) < age(l.xmin), false),
    'expired', coalesce(false, false),
    'outdated', coalesce(l.applied_at < (
      select g.applied_at from mirror.migrations as g where g.name = 'model_rbac'
    ), false)
  )), '[]')
  from (select (k ->> 0)::uuid as k0 from jsonb_array_elements(p_keys) as k) as a
  left join public.permissions as t on t.id = a.k0
  left join mirror.ledger_permissions as l on l.id = a.k0
$$;


revoke all on function
  mirror.digest_permissions(
    text[], text[], bigint, boolean, integer, boolean
  ),
  mirror.rows_permissions(jsonb)
from public, anon, authenticated, service_role;


create or replace function mirror.withdraw_roles(
  p_epoch integer, p_fence bigint, p_id uuid[]
) returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  retained jsonb := '{}';
  child1_role_id uuid[];
  child1_permission_id uuid[];
  held jsonb := '[]';
begin
  -- role_permissions: close the scope, so that no hung write brings a child back, then its rows.
  insert into mirror.scopes as s (mapping, reference, value, epoch, fence)
  select 'role_permissions', 'role_id', k::text, p_epoch, p_fence
  from unnest(p_id) as k
  on conflict (mapping, reference, value) do update
  set epoch = excluded.epoch, fence = excluded.fence, read_at = now()
  where (s.epoch, s.fence) < (excluded.epoch, excluded.fence);
  with forgotten as (
    update mirror.ledger_role_permissions as l
    set present = false, epoch = p_epoch, applied_at = now(),
      fence = case when l.epoch = p_epoch then greatest(l.fence, p_fence) else p_fence end
    where l.present and l.role_id = any(p_id)
    returning l.role_id, l.permission_id
  )
  select array_agg(role_id), array_agg(permission_id)
  into child1_role_id, child1_permission_id from forgotten;
  if child1_role_id is not null then
    retained := retained || mirror.withdraw_role_permissions(
      p_epoch, p_fence, child1_role_id, child1_permission_id
    );
  end if;

  -- A foreign key of somebody else's table may hold a row back. That must not stop the others,
  -- and what stays must grant nothing: only the bare key stays. A deferred one must speak up here,
  -- not at commit, also in the second attempt: inside the block, the setting would be undone.
  set constraints all immediate;
  begin
    delete from public.roles as t
      using unnest(p_id) as g (id)
      where t.id = g.id;
  exception when foreign_key_violation or restrict_violation then
    for i in 1 .. cardinality(p_id) loop
      begin
        delete from public.roles as t where t.id = p_id[i];
      exception when foreign_key_violation or restrict_violation then
        update public.roles as t set name = null where t.id = p_id[i];
        held := held || jsonb_build_array(jsonb_build_array(p_id[i]::text));
      end;
    end loop;
    retained := retained || jsonb_build_object('roles', held);
  end;
  return retained;
end
$$;


create or replace function mirror.scope_roles(
  p_reference text, p_values text[], p_after text[], p_limit integer
) returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
  if p_reference = '*' then
    if cardinality(p_after) = 0 then
      return (
        select coalesce(jsonb_agg(jsonb_build_array(f.id::text) order by f.id), '[]')
        from (
          select l.id from mirror.ledger_roles as l
          where l.present
          order by l.id limit p_limit
        ) as f
      );
    end if;
    return (
      select coalesce(jsonb_agg(jsonb_build_array(f.id::text) order by f.id), '[]')
      from (
        select l.id from mirror.ledger_roles as l
        where l.present
          and (l.id) > (p_after[1]::uuid)
        order by l.id limit p_limit
      ) as f
    );
  end if;
  raise exception 'mapping roles has no reference %', p_reference using errcode = 'MR001';
end
$$;


create or replace function mirror.apply_roles(
  p_epoch integer, p_fence bigint, p_rows jsonb, p_gone jsonb
) returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  answer jsonb;
  gone_id uuid[];
begin
  with incoming as materialized (
    select
      (r ->> 0)::uuid as id,
      (r ->> 1)::text as name,
      coalesce((r ->> 2)::boolean, false) as whole,
      true as present
    from jsonb_array_elements(p_rows) as r
    union all
    select (g ->> 0)::uuid, null::text, null::boolean, false
    from jsonb_array_elements(p_gone) as g
  ),
  -- The newest read that this key, or a scope it would be in, is known to have had.
  known as materialized (
    select i.*,
      coalesce(l.present, false) and exists (
        select from public.roles as t where t.id = i.id
      ) as was_present,
      greatest(
        case when l.epoch = p_epoch then l.fence end,
        case when i.present then (
          select s.fence from mirror.scopes as s
          where s.mapping = 'roles' and s.reference = '*'
            and s.value = '' and s.epoch = p_epoch
        ) end
      ) as newest
    from incoming as i
    -- LIMIT keeps this a look-up for each key: a plan from when the table was small would read all
    -- of it for every batch of a first load.
    left join lateral (
      select * from mirror.ledger_roles as s where s.id = i.id limit 1
    ) as l on true
  ),
  judged as materialized (
    select k.*,
      coalesce(k.newest > p_fence, false) as stale,
      false as orphan,
      k.present and not k.was_present and not k.whole as alone
    from known as k
  ),
  -- Always advance the ledger, also where the row stays as it is or was never there: a write
  -- that still hangs somewhere must find that it is older. Sorted, so that two never deadlock.
  -- The conflict's WHERE takes in the tombstones' index beside the primary key.
  admitted as (
    insert into mirror.ledger_roles as l (id, epoch, fence, present, applied_at)
    select j.id, p_epoch, p_fence, j.present, now()
    from judged as j
    where not j.stale and not j.orphan and not j.alone
    order by j.id
    on conflict (id) where not present do update
    set epoch = excluded.epoch, fence = excluded.fence,
      present = excluded.present, applied_at = excluded.applied_at
    where (l.epoch, l.fence) <= (excluded.epoch, excluded.fence)
    returning l.id, l.present
  ),
  -- Touch the visible row only where it changes: no WAL and no Realtime message for nothing.
  written as (
    insert into public.roles as t (id, name)
    select j.id, j.name
    from judged as j
    join admitted as a on a.id = j.id
    where a.present
    on conflict (id) do update set
      name = excluded.name
    where (t.name)
      is distinct from (excluded.name)
  )
  select
    jsonb_build_object(
      'stale', coalesce(jsonb_agg(jsonb_build_array(j.id::text))
        filter (where a.id is null and not j.orphan and (j.stale or not j.alone)), '[]'),
      'ahead', max(j.newest) filter (where j.stale),
      'orphans', coalesce(jsonb_agg(jsonb_build_array(j.id::text)) filter (where j.orphan), '[]'),
      'appearing', coalesce(jsonb_agg(jsonb_build_array(j.id::text)) filter (where j.alone and not j.stale and not j.orphan), '[]')
    ),
    array_agg(j.id) filter (where not a.present)
  into answer, gone_id
  from judged as j
  left join admitted as a on a.id = j.id;

  if gone_id is not null then
    answer := answer || jsonb_build_object('retained', mirror.withdraw_roles(
      p_epoch, p_fence, gone_id
    ));
  end if;
  return answer;
end
$$;


revoke all on function
  mirror.apply_roles(integer, bigint, jsonb, jsonb),
  mirror.scope_roles(text, text[], text[], integer),
  mirror.withdraw_roles(integer, bigint, uuid[])
from public, anon, authenticated, service_role;


create or replace function mirror.digest_roles(
  p_from text[], p_until text[], p_seed bigint, p_md5 boolean, p_limit integer, p_each boolean
) returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  answer jsonb;
  limit_key text[];
  wanted_until text[] := p_until;
begin
  if wanted_until is null then
    limit_key := (
      select array[s.id::text] from public.roles as s
      where (s.id) >= (p_from[1]::uuid)
      order by s.id offset p_limit limit 1
    );
  else
    limit_key := (
      select array[s.id::text] from public.roles as s
      where (s.id) >= (p_from[1]::uuid)
        and (s.id) < (wanted_until[1]::uuid)
      order by s.id offset p_limit limit 1
    );
  end if;
  wanted_until := coalesce(limit_key, wanted_until);
  if wanted_until is null then
    limit_key := (
      select array[s.id::text] from mirror.ledger_roles as s
      where (s.id) >= (p_from[1]::uuid)
      order by s.id offset p_limit limit 1
    );
  else
    limit_key := (
      select array[s.id::text] from mirror.ledger_roles as s
      where (s.id) >= (p_from[1]::uuid)
        and (s.id) < (wanted_until[1]::uuid)
      order by s.id offset p_limit limit 1
    );
  end if;
  wanted_until := coalesce(limit_key, wanted_until);
  if wanted_until is null then
    select jsonb_build_object(
      'rows', count(*) filter (where f.there),
      'sum', coalesce(sum(f.hash) filter (where f.there), 0)::text,
      'strays', count(*) filter (where f.stray)
    ) || case when p_each then jsonb_build_object('each', coalesce(jsonb_agg(
      -- Without a hash: whatever the other side has, it differs.
      jsonb_build_array(f.k0, case when f.there and not f.stray then f.hash::text end)
    ), '[]')) else '{}' end
    into answer
    from (
      select h.*, case when p_md5 then ('x' || left(md5(p_seed::text || h.r::text), 16))::bit(64)::bigint
            else hash_record_extended(h.r, p_seed) end as hash
      from (
        select coalesce(t.id, l.id)::text as k0, row(t.id::text collate "C", t.name::text collate "C") as r,
          t.id is not null and not (t.name is null and l.present is false) as there,
          case when t.id is null then l.present
            else l.present is not true and not (t.name is null and l.present is false) end as stray
        from (
          select t.* from public.roles as t
          where (t.id) >= (p_from[1]::uuid)
        ) as t
        full join (
          select l.* from mirror.ledger_roles as l
          where (l.id) >= (p_from[1]::uuid)
        ) as l on t.id = l.id
      ) as h
      where h.there or h.stray
    ) as f;
  else
    select jsonb_build_object(
      'rows', count(*) filter (where f.there),
      'sum', coalesce(sum(f.hash) filter (where f.there), 0)::text,
      'strays', count(*) filter (where f.stray)
    ) || case when p_each then jsonb_build_object('each', coalesce(jsonb_agg(
      -- Without a hash: whatever the other side has, it differs.
      jsonb_build_array(f.k0, case when f.there and not f.stray then f.hash::text end)
    ), '[]')) else '{}' end
    into answer
    from (
      select h.*, case when p_md5 then ('x' || left(md5(p_seed::text || h.r::text), 16))::bit(64)::bigint
            else hash_record_extended(h.r, p_seed) end as hash
      from (
        select coalesce(t.id, l.id)::text as k0, row(t.id::text collate "C", t.name::text collate "C") as r,
          t.id is not null and not (t.name is null and l.present is false) as there,
          case when t.id is null then l.present
            else l.present is not true and not (t.name is null and l.present is false) end as stray
        from (
          select t.* from public.roles as t
          where (t.id) >= (p_from[1]::uuid)
          and (t.id) < (wanted_until[1]::uuid)
        ) as t
        full join (
          select l.* from mirror.ledger_roles as l
          where (l.id) >= (p_from[1]::uuid)
          and (l.id) < (wanted_until[1]::uuid)
        ) as l on t.id = l.id
      ) as h
      where h.there or h.stray
    ) as f;
  end if;
  return answer || jsonb_build_object('until', wanted_until);
end
$$;


create or replace function mirror.survey_roles(
  p_seed bigint, p_md5 boolean, p_bits integer, p_wanted bytea, p_each boolean, p_part integer,
  p_parts integer
) returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  answer jsonb;
  low constant bigint := (1::bigint << p_bits) - 1;
  wanted_low constant bigint := 8 * length(p_wanted) - 1;
  seen constant tid[] := mirror.part_of('public.roles', p_part, p_parts);
  known constant tid[] := mirror.part_of('mirror.ledger_roles', p_part, p_parts);
begin
  if p_each then
    select coalesce(jsonb_agg(jsonb_build_array(f.k0, f.hash::text)), '[]')
    into answer
    from (
      select k.k0::text, bit_xor(k.hash) as hash
      from (
        select k.k0, case when p_md5 then ('x' || left(md5(p_seed::text || row(k.key_hash, k.c0)::text), 16))::bit(64)::bigint else hash_record_extended(row(k.key_hash, k.c0), p_seed) end as hash
        from (
          select t.id as k0, t.name::text collate "C" as c0,
            case when p_md5 then ('x' || left(md5(p_seed::text || row(t.id)::text), 16))::bit(64)::bigint else hash_record_extended(row(t.id), p_seed) end as key_hash
          from public.roles as t
          where t.ctid >= seen[1] and t.ctid < seen[2]
            and not (t.name is null and (select l.present is false from mirror.ledger_roles as l where l.id = t.id) is true)
          -- So that a hash is taken once, not wherever it is named.
          offset 0
        ) as k
        where p_wanted is null or get_bit(p_wanted, k.key_hash & wanted_low) = 1
        union all
        select k.k0, k.key_hash
        from (
          select l.id as k0,
            case when p_md5 then ('x' || left(md5(p_seed::text || row(l.id)::text), 16))::bit(64)::bigint else hash_record_extended(row(l.id), p_seed) end as key_hash
          from mirror.ledger_roles as l
          where l.ctid >= known[1] and l.ctid < known[2]
            and l.present
          -- So that a hash is taken once, not wherever it is named.
          offset 0
        ) as k
        where p_wanted is null or get_bit(p_wanted, k.key_hash & wanted_low) = 1
      ) as k
      group by k.k0
    ) as f;
  else
    select jsonb_build_object(
      'buckets', encode(coalesce(string_agg(int4send(f.bucket), ''), ''), 'base64'),
      'rows', encode(coalesce(string_agg(int4send(f.rows), ''), ''), 'base64'),
      'sums', encode(coalesce(string_agg(int8send(f.sum), ''), ''), 'base64')
    )
    into answer
    from (
      select e.bucket, count(e.seen)::integer as rows, bit_xor(e.hash) as sum
      from (
        select (k.key_hash & low)::integer as bucket, true as seen, case when p_md5 then ('x' || left(md5(p_seed::text || row(k.key_hash, k.c0)::text), 16))::bit(64)::bigint else hash_record_extended(row(k.key_hash, k.c0), p_seed) end as hash
        from (
          select t.id as k0, t.name::text collate "C" as c0,
            case when p_md5 then ('x' || left(md5(p_seed::text || row(t.id)::text), 16))::bit(64)::bigint else hash_record_extended(row(t.id), p_seed) end as key_hash
          from public.roles as t
          where t.ctid >= seen[1] and t.ctid < seen[2]
            and not (t.name is null and (select l.present is false from mirror.ledger_roles as l where l.id = t.id) is true)
          -- So that a hash is taken once, not wherever it is named.
          offset 0
        ) as k
        where p_wanted is null or get_bit(p_wanted, k.key_hash & wanted_low) = 1
        union all
        select (k.key_hash & low)::integer, null, k.key_hash
        from (
          select l.id as k0,
            case when p_md5 then ('x' || left(md5(p_seed::text || row(l.id)::text), 16))::bit(64)::bigint else hash_record_extended(row(l.id), p_seed) end as key_hash
          from mirror.ledger_roles as l
          where l.ctid >= known[1] and l.ctid < known[2]
            and l.present
          -- So that a hash is taken once, not wherever it is named.
          offset 0
        ) as k
        where p_wanted is null or get_bit(p_wanted, k.key_hash & wanted_low) = 1
      ) as e
      group by e.bucket
    ) as f;
  end if;
  return answer;
end
$$;
revoke all on function mirror.survey_roles(bigint, boolean, integer, bytea, boolean, integer, integer)
from public, anon, authenticated, service_role;


create or replace function mirror.rows_roles(p_keys jsonb)
returns jsonb
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select coalesce(jsonb_agg(jsonb_build_object(
    'key', jsonb_build_array(a.k0::text),
    'row', case when t.id is not null and not (t.name is null and l.present is false) then
      jsonb_build_array(t.id::text, t.name::text)
    end,
    'present', l.present,
    'epoch', l.epoch,
    'fence', l.fence,
    -- A row that was written after its ledger's was written by somebody else.
    'edited', coalesce(age(t.xmin) < age(l.xmin), false),
    'expired', coalesce(false, false),
    'outdated', coalesce(l.applied_at < (
      select g.applied_at from mirror.migrations as g where g.name = 'model_rbac'
    ), false)
  )), '[]')
  from (select (k ->> 0)::uuid as k0 from jsonb_array_elements(p_keys) as k) as a
  left join public.roles as t on t.id = a.k0
  left join mirror.ledger_roles as l on l.id = a.k0
$$;


revoke all on function
  mirror.digest_roles(
    text[], text[], bigint, boolean, integer, boolean
  ),
  mirror.rows_roles(jsonb)
from public, anon, authenticated, service_role;


create or replace function mirror.withdraw_users(
  p_epoch integer, p_fence bigint, p_id uuid[]
) returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  retained jsonb := '{}';
  held jsonb := '[]';
begin
  -- A foreign key of somebody else's table may hold a row back. That must not stop the others,
  -- and what stays must grant nothing: only the bare key stays. A deferred one must speak up here,
  -- not at commit, also in the second attempt: inside the block, the setting would be undone.
  set constraints all immediate;
  begin
    delete from public.users as t
      using unnest(p_id) as g (id)
      where t.id = g.id;
  exception when foreign_key_violation or restrict_violation then
    for i in 1 .. cardinality(p_id) loop
      begin
        delete from public.users as t where t.id = p_id[i];
      exception when foreign_key_violation or restrict_violation then
        update public.users as t set name = null, role_id = null where t.id = p_id[i];
        held := held || jsonb_build_array(jsonb_build_array(p_id[i]::text));
      end;
    end loop;
    retained := retained || jsonb_build_object('users', held);
  end;
  return retained;
end
$$;


create or replace function mirror.scope_users(
  p_reference text, p_values text[], p_after text[], p_limit integer
) returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
  if p_reference = '*' then
    if cardinality(p_after) = 0 then
      return (
        select coalesce(jsonb_agg(jsonb_build_array(f.id::text) order by f.id), '[]')
        from (
          select l.id from mirror.ledger_users as l
          where l.present
          order by l.id limit p_limit
        ) as f
      );
    end if;
    return (
      select coalesce(jsonb_agg(jsonb_build_array(f.id::text) order by f.id), '[]')
      from (
        select l.id from mirror.ledger_users as l
        where l.present
          and (l.id) > (p_after[1]::uuid)
        order by l.id limit p_limit
      ) as f
    );
  end if;
  if p_reference = 'role_id' then
    if cardinality(p_after) = 0 then
      return (
        select coalesce(jsonb_agg(jsonb_build_array(f.id::text) order by f.id), '[]')
        from (
          select l.id from mirror.ledger_users as l
          where l.present
            and l.ref_role_id = any(p_values::uuid[])
          order by l.id limit p_limit
        ) as f
      );
    end if;
    return (
      select coalesce(jsonb_agg(jsonb_build_array(f.id::text) order by f.id), '[]')
      from (
        select l.id from mirror.ledger_users as l
        where l.present
          and l.ref_role_id = any(p_values::uuid[])
          and (l.id) > (p_after[1]::uuid)
        order by l.id limit p_limit
      ) as f
    );
  end if;
  raise exception 'mapping users has no reference %', p_reference using errcode = 'MR001';
end
$$;


create or replace function mirror.apply_users(
  p_epoch integer, p_fence bigint, p_rows jsonb, p_gone jsonb
) returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  answer jsonb;
  gone_id uuid[];
begin
  with incoming as materialized (
    select
      (r ->> 0)::uuid as id,
      (r ->> 1)::text as name,
      (r ->> 2)::uuid as role_id,
      true as present
    from jsonb_array_elements(p_rows) as r
    union all
    select (g ->> 0)::uuid, null::text, null::uuid, false
    from jsonb_array_elements(p_gone) as g
  ),
  -- The newest read that this key, or a scope it would be in, is known to have had.
  known as materialized (
    select i.*,
      coalesce(l.present, false) as was_present,
      greatest(
        case when l.epoch = p_epoch then l.fence end,
        case when i.present then (
          select s.fence from mirror.scopes as s
          where s.mapping = 'users' and s.reference = '*'
            and s.value = '' and s.epoch = p_epoch
        ) end,
        case when i.present then (
          select s.fence from mirror.scopes as s
          where s.mapping = 'users' and s.reference = 'role_id'
            and s.value = i.role_id::text and s.epoch = p_epoch
        ) end
      ) as newest
    from incoming as i
    -- LIMIT keeps this a look-up for each key: a plan from when the table was small would read all
    -- of it for every batch of a first load.
    left join lateral (
      select * from mirror.ledger_users as s where s.id = i.id limit 1
    ) as l on true
  ),
  judged as materialized (
    select k.*,
      coalesce(k.newest > p_fence, false) as stale,
      false as orphan
    from known as k
  ),
  -- Always advance the ledger, also where the row stays as it is or was never there: a write
  -- that still hangs somewhere must find that it is older. Sorted, so that two never deadlock.
  -- The conflict's WHERE takes in the tombstones' index beside the primary key.
  admitted as (
    insert into mirror.ledger_users as l (id, ref_role_id, epoch, fence, present, applied_at)
    select j.id, j.role_id, p_epoch, p_fence, j.present, now()
    from judged as j
    where not j.stale and not j.orphan
    order by j.id
    on conflict (id) where not present do update
    set ref_role_id = excluded.ref_role_id, epoch = excluded.epoch, fence = excluded.fence,
      present = excluded.present, applied_at = excluded.applied_at
    where (l.epoch, l.fence) <= (excluded.epoch, excluded.fence)
    returning l.id, l.present
  ),
  -- Touch the visible row only where it changes: no WAL and no Realtime message for nothing.
  written as (
    insert into public.users as t (id, name, role_id)
    select j.id, j.name, j.role_id
    from judged as j
    join admitted as a on a.id = j.id
    where a.present
    on conflict (id) do update set
      name = excluded.name,
      role_id = excluded.role_id
    where (t.name, t.role_id)
      is distinct from (excluded.name, excluded.role_id)
  )
  select
    jsonb_build_object(
      'stale', coalesce(jsonb_agg(jsonb_build_array(j.id::text))
        filter (where a.id is null and not j.orphan), '[]'),
      'ahead', max(j.newest) filter (where j.stale),
      'orphans', coalesce(jsonb_agg(jsonb_build_array(j.id::text)) filter (where j.orphan), '[]')
    ),
    array_agg(j.id) filter (where not a.present)
  into answer, gone_id
  from judged as j
  left join admitted as a on a.id = j.id;

  if gone_id is not null then
    answer := answer || jsonb_build_object('retained', mirror.withdraw_users(
      p_epoch, p_fence, gone_id
    ));
  end if;
  return answer;
end
$$;


revoke all on function
  mirror.apply_users(integer, bigint, jsonb, jsonb),
  mirror.scope_users(text, text[], text[], integer),
  mirror.withdraw_users(integer, bigint, uuid[])
from public, anon, authenticated, service_role;


create or replace function mirror.digest_users(
  p_from text[], p_until text[], p_seed bigint, p_md5 boolean, p_limit integer, p_each boolean
) returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  answer jsonb;
  limit_key text[];
  wanted_until text[] := p_until;
begin
  if wanted_until is null then
    limit_key := (
      select array[s.id::text] from public.users as s
      where (s.id) >= (p_from[1]::uuid)
      order by s.id offset p_limit limit 1
    );
  else
    limit_key := (
      select array[s.id::text] from public.users as s
      where (s.id) >= (p_from[1]::uuid)
        and (s.id) < (wanted_until[1]::uuid)
      order by s.id offset p_limit limit 1
    );
  end if;
  wanted_until := coalesce(limit_key, wanted_until);
  if wanted_until is null then
    limit_key := (
      select array[s.id::text] from mirror.ledger_users as s
      where (s.id) >= (p_from[1]::uuid)
      order by s.id offset p_limit limit 1
    );
  else
    limit_key := (
      select array[s.id::text] from mirror.ledger_users as s
      where (s.id) >= (p_from[1]::uuid)
        and (s.id) < (wanted_until[1]::uuid)
      order by s.id offset p_limit limit 1
    );
  end if;
  wanted_until := coalesce(limit_key, wanted_until);
  if wanted_until is null then
    select jsonb_build_object(
      'rows', count(*) filter (where f.there),
      'sum', coalesce(sum(f.hash) filter (where f.there), 0)::text,
      'strays', count(*) filter (where f.stray)
    ) || case when p_each then jsonb_build_object('each', coalesce(jsonb_agg(
      -- Without a hash: whatever the other side has, it differs.
      jsonb_build_array(f.k0, case when f.there and not f.stray then f.hash::text end)
    ), '[]')) else '{}' end
    into answer
    from (
      select h.*, case when p_md5 then ('x' || left(md5(p_seed::text || h.r::text), 16))::bit(64)::bigint
            else hash_record_extended(h.r, p_seed) end as hash
      from (
        select coalesce(t.id, l.id)::text as k0, row(t.id::text collate "C", t.name::text collate "C", t.role_id::text collate "C") as r,
          t.id is not null and not (t.name is null and t.role_id is null and l.present is false) as there,
          case when t.id is null then l.present
            else l.present is not true and not (t.name is null and t.role_id is null and l.present is false) end as stray
        from (
          select t.* from public.users as t
          where (t.id) >= (p_from[1]::uuid)
        ) as t
        full join (
          select l.* from mirror.ledger_users as l
          where (l.id) >= (p_from[1]::uuid)
        ) as l on t.id = l.id
      ) as h
      where h.there or h.stray
    ) as f;
  else
    select jsonb_build_object(
      'rows', count(*) filter (where f.there),
      'sum', coalesce(sum(f.hash) filter (where f.there), 0)::text,
      'strays', count(*) filter (where f.stray)
    ) || case when p_each then jsonb_build_object('each', coalesce(jsonb_agg(
      -- Without a hash: whatever the other side has, it differs.
      jsonb_build_array(f.k0, case when f.there and not f.stray then f.hash::text end)
    ), '[]')) else '{}' end
    into answer
    from (
      select h.*, case when p_md5 then ('x' || left(md5(p_seed::text || h.r::text), 16))::bit(64)::bigint
            else hash_record_extended(h.r, p_seed) end as hash
      from (
        select coalesce(t.id, l.id)::text as k0, row(t.id::text collate "C", t.name::text collate "C", t.role_id::text collate "C") as r,
          t.id is not null and not (t.name is null and t.role_id is null and l.present is false) as there,
          case when t.id is null then l.present
            else l.present is not true and not (t.name is null and t.role_id is null and l.present is false) end as stray
        from (
          select t.* from public.users as t
          where (t.id) >= (p_from[1]::uuid)
          and (t.id) < (wanted_until[1]::uuid)
        ) as t
        full join (
          select l.* from mirror.ledger_users as l
          where (l.id) >= (p_from[1]::uuid)
          and (l.id) < (wanted_until[1]::uuid)
        ) as l on t.id = l.id
      ) as h
      where h.there or h.stray
    ) as f;
  end if;
  return answer || jsonb_build_object('until', wanted_until);
end
$$;


create or replace function mirror.survey_users(
  p_seed bigint, p_md5 boolean, p_bits integer, p_wanted bytea, p_each boolean, p_part integer,
  p_parts integer
) returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  answer jsonb;
  low constant bigint := (1::bigint << p_bits) - 1;
  wanted_low constant bigint := 8 * length(p_wanted) - 1;
  seen constant tid[] := mirror.part_of('public.users', p_part, p_parts);
  known constant tid[] := mirror.part_of('mirror.ledger_users', p_part, p_parts);
begin
  if p_each then
    select coalesce(jsonb_agg(jsonb_build_array(f.k0, f.hash::text)), '[]')
    into answer
    from (
      select k.k0::text, bit_xor(k.hash) as hash
      from (
        select k.k0, case when p_md5 then ('x' || left(md5(p_seed::text || row(k.key_hash, k.c0, k.c1)::text), 16))::bit(64)::bigint else hash_record_extended(row(k.key_hash, k.c0, k.c1), p_seed) end as hash
        from (
          select t.id as k0, t.name::text collate "C" as c0, t.role_id::text collate "C" as c1,
            case when p_md5 then ('x' || left(md5(p_seed::text || row(t.id)::text), 16))::bit(64)::bigint else hash_record_extended(row(t.id), p_seed) end as key_hash
          from public.users as t
          where t.ctid >= seen[1] and t.ctid < seen[2]
            and not (t.name is null and t.role_id is null and (select l.present is false from mirror.ledger_users as l where l.id = t.id) is true)
          -- So that a hash is taken once, not wherever it is named.
          offset 0
        ) as k
        where p_wanted is null or get_bit(p_wanted, k.key_hash & wanted_low) = 1
        union all
        select k.k0, k.key_hash
        from (
          select l.id as k0,
            case when p_md5 then ('x' || left(md5(p_seed::text || row(l.id)::text), 16))::bit(64)::bigint else hash_record_extended(row(l.id), p_seed) end as key_hash
          from mirror.ledger_users as l
          where l.ctid >= known[1] and l.ctid < known[2]
            and l.present
          -- So that a hash is taken once, not wherever it is named.
          offset 0
        ) as k
        where p_wanted is null or get_bit(p_wanted, k.key_hash & wanted_low) = 1
      ) as k
      group by k.k0
    ) as f;
  else
    select jsonb_build_object(
      'buckets', encode(coalesce(string_agg(int4send(f.bucket), ''), ''), 'base64'),
      'rows', encode(coalesce(string_agg(int4send(f.rows), ''), ''), 'base64'),
      'sums', encode(coalesce(string_agg(int8send(f.sum), ''), ''), 'base64')
    )
    into answer
    from (
      select e.bucket, count(e.seen)::integer as rows, bit_xor(e.hash) as sum
      from (
        select (k.key_hash & low)::integer as bucket, true as seen, case when p_md5 then ('x' || left(md5(p_seed::text || row(k.key_hash, k.c0, k.c1)::text), 16))::bit(64)::bigint else hash_record_extended(row(k.key_hash, k.c0, k.c1), p_seed) end as hash
        from (
          select t.id as k0, t.name::text collate "C" as c0, t.role_id::text collate "C" as c1,
            case when p_md5 then ('x' || left(md5(p_seed::text || row(t.id)::text), 16))::bit(64)::bigint else hash_record_extended(row(t.id), p_seed) end as key_hash
          from public.users as t
          where t.ctid >= seen[1] and t.ctid < seen[2]
            and not (t.name is null and t.role_id is null and (select l.present is false from mirror.ledger_users as l where l.id = t.id) is true)
          -- So that a hash is taken once, not wherever it is named.
          offset 0
        ) as k
        where p_wanted is null or get_bit(p_wanted, k.key_hash & wanted_low) = 1
        union all
        select (k.key_hash & low)::integer, null, k.key_hash
        from (
          select l.id as k0,
            case when p_md5 then ('x' || left(md5(p_seed::text || row(l.id)::text), 16))::bit(64)::bigint else hash_record_extended(row(l.id), p_seed) end as key_hash
          from mirror.ledger_users as l
          where l.ctid >= known[1] and l.ctid < known[2]
            and l.present
          -- So that a hash is taken once, not wherever it is named.
          offset 0
        ) as k
        where p_wanted is null or get_bit(p_wanted, k.key_hash & wanted_low) = 1
      ) as e
      group by e.bucket
    ) as f;
  end if;
  return answer;
end
$$;
revoke all on function mirror.survey_users(bigint, boolean, integer, bytea, boolean, integer, integer)
from public, anon, authenticated, service_role;


create or replace function mirror.rows_users(p_keys jsonb)
returns jsonb
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select coalesce(jsonb_agg(jsonb_build_object(
    'key', jsonb_build_array(a.k0::text),
    'row', case when t.id is not null and not (t.name is null and t.role_id is null and l.present is false) then
      jsonb_build_array(t.id::text, t.name::text, t.role_id::text)
    end,
    'present', l.present,
    'epoch', l.epoch,
    'fence', l.fence,
    -- A row that was written after its ledger's was written by somebody else.
    'edited', coalesce(age(t.xmin) < age(l.xmin), false),
    'expired', coalesce(false, false),
    'outdated', coalesce(l.applied_at < (
      select g.applied_at from mirror.migrations as g where g.name = 'model_rbac'
    ), false)
  )), '[]')
  from (select (k ->> 0)::uuid as k0 from jsonb_array_elements(p_keys) as k) as a
  left join public.users as t on t.id = a.k0
  left join mirror.ledger_users as l on l.id = a.k0
$$;


revoke all on function
  mirror.digest_users(
    text[], text[], bigint, boolean, integer, boolean
  ),
  mirror.rows_users(jsonb)
from public, anon, authenticated, service_role;


-- The names of the caller's permissions. For policies on rows that name one, as
-- `name = any((select mirror.my_permissions())::text[])`: once per statement.
create or replace function mirror.my_permissions() returns text[]
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
  select coalesce(array_agg(distinct p.name), '{}')
  from public.users as h
  join public.role_permissions as g on g.role_id = h.role_id
  join public.permissions as p on p.id = g.permission_id
  where h.id = (select auth.uid())
    and exists (select from mirror.mappings as d where d.name = 'users')
    and exists (select from mirror.mappings as d where d.name = 'role_permissions')
    and exists (select from mirror.mappings as d where d.name = 'permissions')
$$;


-- Whether the caller has this permission. For policies, in a `(select …)`: once per statement.
-- By number: a column that is called like a parameter would win over it.
create or replace function mirror.has_permission(name text) returns boolean
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
  select exists (
    select from public.users as h
    join public.role_permissions as g on g.role_id = h.role_id
    join public.permissions as p on p.id = g.permission_id
    where h.id = (select auth.uid())
      and exists (select from mirror.mappings as d where d.name = 'users')
      and exists (select from mirror.mappings as d where d.name = 'role_permissions')
      and exists (select from mirror.mappings as d where d.name = 'permissions')
      and p.name = $1
  )
$$;


revoke all on function
  mirror.my_permissions(),
  mirror.has_permission(text)
from public, anon, authenticated, service_role;

grant execute on function
  mirror.my_permissions(),
  mirror.has_permission(text)
to authenticated;


-- What an earlier version of this model declared is mirrored no more, so its rows must not grant
-- for ever. The table and its rows stay, for whoever wants to look; other models are left alone.
do $$
declare
  kept constant jsonb[] := array[
    '["public", "users"]',
    '["public", "roles"]',
    '["public", "permissions"]',
    '["public", "role_permissions"]'
  ]::jsonb[];
  old record;
  child record;
begin
  for old in
    select format('%I.%I', d.schema, d.name) as name, d.name || '_read' as policy
    from mirror.mappings as m
    cross join lateral (
      select m.declaration #>> '{table,0}' as schema, m.declaration #>> '{table,1}' as name
    ) as d
    where m.model = 'rbac'
      and m.declaration -> 'table' <> all (kept)
  loop
    continue when to_regclass(old.name) is null;
    execute format('revoke all on %s from public, anon, authenticated', old.name);
    execute format('drop policy if exists %I on %s', old.policy, old.name);
    -- Its rows come no more; whoever needed them there must not be held back.
    for child in
      select c.conname, c.conrelid::regclass::text as name
      from pg_constraint as c
      join mirror.mappings as m on c.conrelid = to_regclass(
        format('%I.%I', m.declaration #>> '{table,0}', m.declaration #>> '{table,1}')
      )
      where c.confrelid = to_regclass(old.name) and c.contype = 'f'
        and m.declaration -> 'table' = any (kept)
    loop
      execute format('alter table %s drop constraint %I', child.name, child.conname);
    end loop;
    raise notice 'nobody may read % any more: model rbac no longer has it', old.name;
  end loop;
  delete from mirror.mappings
  where model = 'rbac' and name <> all (array['users', 'roles', 'permissions', 'role_permissions']::text[]);
end
$$;


-- users: the API's roles write nothing and read only what is granted here.
alter table public.users enable row level security;
revoke all on public.users from public, anon, authenticated, service_role;
grant select on public.users to service_role;
grant select (id, name, role_id) on public.users to authenticated;
drop policy if exists users_read on public.users;
create policy users_read on public.users for select to authenticated
using (id = (select auth.uid()) or (select mirror.has_permission('users.read')));


-- roles: the API's roles write nothing and read only what is granted here.
alter table public.roles enable row level security;
revoke all on public.roles from public, anon, authenticated, service_role;
grant select on public.roles to service_role;
grant select (id, name) on public.roles to authenticated;
drop policy if exists roles_read on public.roles;
create policy roles_read on public.roles for select to authenticated
using (id = (select u.role_id from public.users as u where u.id = (select auth.uid())) or (select mirror.has_permission('roles.manage')));


-- permissions: the API's roles write nothing and read only what is granted here.
alter table public.permissions enable row level security;
revoke all on public.permissions from public, anon, authenticated, service_role;
grant select on public.permissions to service_role;
grant select (id, name) on public.permissions to authenticated;
drop policy if exists permissions_read on public.permissions;
create policy permissions_read on public.permissions for select to authenticated
using (name = any((select mirror.my_permissions())::text[]) or (select mirror.has_permission('roles.manage')));


-- role_permissions: the API's roles write nothing and read only what is granted here.
alter table public.role_permissions enable row level security;
revoke all on public.role_permissions from public, anon, authenticated, service_role;
grant select on public.role_permissions to service_role;
grant select (role_id, permission_id) on public.role_permissions to authenticated;
drop policy if exists role_permissions_read on public.role_permissions;
create policy role_permissions_read on public.role_permissions for select to authenticated
using (role_id = (select u.role_id from public.users as u where u.id = (select auth.uid())) or (select mirror.has_permission('roles.manage')));


insert into mirror.mappings (name, model, position, digest, is_parent, declaration)
values ('users', 'rbac', 1, '30dab2fe97d6dfc9', false, '{
  "name": "users",
  "table": [
    "public",
    "users"
  ],
  "key": [
    "id"
  ],
  "columns": [
    [
      "id",
      "uuid"
    ],
    [
      "name",
      "text"
    ],
    [
      "role_id",
      "uuid"
    ]
  ],
  "references": [
    [
      "role_id",
      "uuid"
    ]
  ],
  "parents": [],
  "children": [],
  "active": {},
  "on_delete": "delete",
  "query": "SELECT users.id, users.name, users.role_id FROM users"
}')
on conflict (name) do update
set model = excluded.model, position = excluded.position, digest = excluded.digest,
  is_parent = excluded.is_parent, declaration = excluded.declaration;


insert into mirror.mappings (name, model, position, digest, is_parent, declaration)
values ('roles', 'rbac', 2, '29c23741d67f0d4e', true, '{
  "name": "roles",
  "table": [
    "public",
    "roles"
  ],
  "key": [
    "id"
  ],
  "columns": [
    [
      "id",
      "uuid"
    ],
    [
      "name",
      "text"
    ]
  ],
  "references": [],
  "parents": [],
  "children": [
    [
      "role_permissions",
      "role_id"
    ]
  ],
  "active": {},
  "on_delete": "delete",
  "query": "SELECT roles.id, roles.name FROM roles"
}')
on conflict (name) do update
set model = excluded.model, position = excluded.position, digest = excluded.digest,
  is_parent = excluded.is_parent, declaration = excluded.declaration;


insert into mirror.mappings (name, model, position, digest, is_parent, declaration)
values ('permissions', 'rbac', 3, '57dbb088d67c6ca2', true, '{
  "name": "permissions",
  "table": [
    "public",
    "permissions"
  ],
  "key": [
    "id"
  ],
  "columns": [
    [
      "id",
      "uuid"
    ],
    [
      "name",
      "text"
    ]
  ],
  "references": [],
  "parents": [],
  "children": [
    [
      "role_permissions",
      "permission_id"
    ]
  ],
  "active": {},
  "on_delete": "delete",
  "query": "SELECT permissions.id, permissions.name FROM permissions"
}')
on conflict (name) do update
set model = excluded.model, position = excluded.position, digest = excluded.digest,
  is_parent = excluded.is_parent, declaration = excluded.declaration;


insert into mirror.mappings (name, model, position, digest, is_parent, declaration)
values ('role_permissions', 'rbac', 4, '72884d51353752b4', false, '{
  "name": "role_permissions",
  "table": [
    "public",
    "role_permissions"
  ],
  "key": [
    "role_id",
    "permission_id"
  ],
  "columns": [
    [
      "role_id",
      "uuid"
    ],
    [
      "permission_id",
      "uuid"
    ]
  ],
  "references": [
    [
      "role_id",
      "uuid"
    ],
    [
      "permission_id",
      "uuid"
    ]
  ],
  "parents": [
    [
      "roles",
      "role_id"
    ],
    [
      "permissions",
      "permission_id"
    ]
  ],
  "children": [],
  "active": {},
  "on_delete": "delete",
  "query": "SELECT role_permissions.role_id, role_permissions.permission_id FROM role_permissions"
}')
on conflict (name) do update
set model = excluded.model, position = excluded.position, digest = excluded.digest,
  is_parent = excluded.is_parent, declaration = excluded.declaration;
