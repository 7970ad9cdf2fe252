-- The permission model trips: tables, row-level security, and the functions that write them.
--
-- Printed from the mapping declarations; change those, not this file. Every statement can run
-- again. A table that already exists with another shape or owner is refused; to one of this model,
-- new columns are added, and nothing else is altered.


-- Workers stand aside meanwhile: a batch in flight and these statements could deadlock.
select pg_advisory_xact_lock(1835627122, 1);


select mirror.check_table('users', 'public.users',
  '{"model": "trips", "table": ["public", "users"], "columns": {"id": "uuid", "email": "text", "username": "text"}, "key": ["id"], "parents": {}, "policy": "users_read"}'
);
select mirror.check_table('trips', 'public.trips',
  '{"model": "trips", "table": ["public", "trips"], "columns": {"id": "uuid", "name": "text", "created_by": "uuid"}, "key": ["id"], "parents": {}, "policy": "trips_read"}'
);
select mirror.check_table('trip_memberships', 'public.trip_memberships',
  '{"model": "trips", "table": ["public", "trip_memberships"], "columns": {"trip_id": "uuid", "user_id": "uuid", "role": "text", "status": "text"}, "key": ["trip_id", "user_id"], "parents": {"trip_id": "public.trips", "user_id": "public.users"}, "policy": "trip_memberships_read"}'
);


create table if not exists public.users (
  id uuid not null,
  email text,
  username text,
  primary key (id)
);
select mirror.leave_room('public.users');
select mirror.add_column('public.users', 'email', 'text');
select mirror.add_column('public.users', 'username', 'text');


-- users: what was last written for each key, and how fresh the read was.
create table if not exists mirror.ledger_users (
  id uuid not null,
  epoch integer not null,
  fence bigint not null,
  present boolean not null,
  applied_at timestamptz not null,
  primary key (id)
);
select mirror.leave_room('mirror.ledger_users');
revoke all on mirror.ledger_users from public, anon, authenticated, service_role;

-- Purging looks at tombstones alone.
create unique index if not exists ledger_users_tombstones
on mirror.ledger_users (id) where not present;


-- Rows of a table that is taken over: the next resync judges them.
insert into mirror.ledger_users (id, epoch, fence, present, applied_at)
select id, 0, 0, true, now()
from public.users
where not exists (
  select from mirror.mappings
  where name = 'users' and declaration -> 'table' = '["public", "users"]'
)
on conflict (id) do nothing;


create table if not exists public.trips (
  id uuid not null,
  name text,
  created_by uuid,
  primary key (id)
);
select mirror.leave_room('public.trips');
select mirror.add_column('public.trips', 'name', 'text');
select mirror.add_column('public.trips', 'created_by', 'uuid');


-- trips: what was last written for each key, and how fresh the read was.
create table if not exists mirror.ledger_trips (
  id uuid not null,
  epoch integer not null,
  fence bigint not null,
  present boolean not null,
  applied_at timestamptz not null,
  primary key (id)
);
select mirror.leave_room('mirror.ledger_trips');
revoke all on mirror.ledger_trips from public, anon, authenticated, service_role;

-- Purging looks at tombstones alone.
create unique index if not exists ledger_trips_tombstones
on mirror.ledger_trips (id) where not present;


-- Rows of a table that is taken over: the next resync judges them.
insert into mirror.ledger_trips (id, epoch, fence, present, applied_at)
select id, 0, 0, true, now()
from public.trips
where not exists (
  select from mirror.mappings
  where name = 'trips' and declaration -> 'table' = '["public", "trips"]'
)
on conflict (id) do nothing;


create table if not exists public.trip_memberships (
  trip_id uuid not null,
  user_id uuid not null,
  role text,
  status text,
  primary key (trip_id, user_id),
  foreign key (trip_id) references public.trips (id) on delete cascade,
  foreign key (user_id) references public.users (id) on delete cascade
);
select mirror.leave_room('public.trip_memberships');
select mirror.add_column('public.trip_memberships', 'role', 'text');
select mirror.add_column('public.trip_memberships', 'status', 'text');


create unique index if not exists trip_memberships_user_id
on public.trip_memberships (user_id, trip_id);


-- trip_memberships: what was last written for each key, and how fresh the read was.
create table if not exists mirror.ledger_trip_memberships (
  trip_id uuid not null,
  user_id uuid not null,
  epoch integer not null,
  fence bigint not null,
  present boolean not null,
  applied_at timestamptz not null,
  primary key (trip_id, user_id),
  constraint ledger_trip_memberships_by_user_id
    unique (user_id, trip_id)
);
select mirror.leave_room('mirror.ledger_trip_memberships');
select mirror.add_constraint('mirror.ledger_trip_memberships', 'ledger_trip_memberships_by_user_id',
  'unique (user_id, trip_id)'
);
revoke all on mirror.ledger_trip_memberships from public, anon, authenticated, service_role;

-- Purging looks at tombstones alone.
create unique index if not exists ledger_trip_memberships_tombstones
on mirror.ledger_trip_memberships (trip_id, user_id) where not present;


-- Rows of a table that is taken over: the next resync judges them.
insert into mirror.ledger_trip_memberships (trip_id, user_id, epoch, fence, present, applied_at)
select trip_id, user_id, 0, 0, true, now()
from public.trip_memberships
where not exists (
  select from mirror.mappings
  where name = 'trip_memberships' and declaration -> 'table' = '["public", "trip_memberships"]'
)
on conflict (trip_id, user_id) do nothing;


create or replace function mirror.withdraw_trip_memberships(
  p_epoch integer, p_fence bigint, p_trip_id uuid[], p_user_id uuid[]
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
    delete from public.trip_memberships as t
      using unnest(p_trip_id, p_user_id) as g (trip_id, user_id)
      where t.trip_id = g.trip_id and t.user_id = g.user_id;
  exception when foreign_key_violation or restrict_violation then
    for i in 1 .. cardinality(p_trip_id) loop
      begin
        delete from public.trip_memberships as t where t.trip_id = p_trip_id[i] and t.user_id = p_user_id[i];
      exception when foreign_key_violation or restrict_violation then
        update public.trip_memberships as t set role = null, status = null where t.trip_id = p_trip_id[i] and t.user_id = p_user_id[i];
        held := held || jsonb_build_array(jsonb_build_array(p_trip_id[i]::text, p_user_id[i]::text));
      end;
    end loop;
    retained := retained || jsonb_build_object('trip_memberships', held);
  end;
  return retained;
end
$$;


create or replace function mirror.scope_trip_memberships(
  p_reference text, p_values text[], p_after text[], p_limit integer
) returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
  if p_reference = '*' then
    if cardinality(p_after) = 0 then
      return (
        select coalesce(jsonb_agg(jsonb_build_array(f.trip_id::text, f.user_id::text) order by f.trip_id, f.user_id), '[]')
        from (
          select l.trip_id, l.user_id from mirror.ledger_trip_memberships as l
          where l.present
          order by l.trip_id, l.user_id limit p_limit
        ) as f
      );
    end if;
    return (
      select coalesce(jsonb_agg(jsonb_build_array(f.trip_id::text, f.user_id::text) order by f.trip_id, f.user_id), '[]')
      from (
        select l.trip_id, l.user_id from mirror.ledger_trip_memberships as l
        where l.present
          and (l.trip_id, l.user_id) > (p_after[1]::uuid, p_after[2]::uuid)
        order by l.trip_id, l.user_id limit p_limit
      ) as f
    );
  end if;
  if p_reference = 'trip_id' then
    if cardinality(p_after) = 0 then
      return (
        select coalesce(jsonb_agg(jsonb_build_array(f.trip_id::text, f.user_id::text) order by f.trip_id, f.user_id), '[]')
        from (
          select l.trip_id, l.user_id from mirror.ledger_trip_memberships as l
          where l.present
            and l.trip_id = any(p_values::uuid[])
          order by l.trip_id, l.user_id limit p_limit
        ) as f
      );
    end if;
    return (
      select coalesce(jsonb_agg(jsonb_build_array(f.trip_id::text, f.user_id::text) order by f.trip_id, f.user_id), '[]')
      from (
        select l.trip_id, l.user_id from mirror.ledger_trip_memberships as l
        where l.present
          and l.trip_id = any(p_values::uuid[])
          and (l.trip_id, l.user_id) > (p_after[1]::uuid, p_after[2]::uuid)
        order by l.trip_id, l.user_id limit p_limit
      ) as f
    );
  end if;
  if p_reference = 'user_id' then
    if cardinality(p_after) = 0 then
      return (
        select coalesce(jsonb_agg(jsonb_build_array(f.trip_id::text, f.user_id::text) order by f.trip_id, f.user_id), '[]')
        from (
          select l.trip_id, l.user_id from mirror.ledger_trip_memberships as l
          where l.present
            and l.user_id = any(p_values::uuid[])
          order by l.trip_id, l.user_id limit p_limit
        ) as f
      );
    end if;
    return (
      select coalesce(jsonb_agg(jsonb_build_array(f.trip_id::text, f.user_id::text) order by f.trip_id, f.user_id), '[]')
      from (
        select l.trip_id, l.user_id from mirror.ledger_trip_memberships as l
        where l.present
          and l.user_id = any(p_values::uuid[])
          and (l.trip_id, l.user_id) > (p_after[1]::uuid, p_after[2]::uuid)
        order by l.trip_id, l.user_id limit p_limit
      ) as f
    );
  end if;
  raise exception 'mapping trip_memberships has no reference %', p_reference using errcode = 'MR001';
end
$$;


create or replace function mirror.apply_trip_memberships(
  p_epoch integer, p_fence bigint, p_rows jsonb, p_gone jsonb
) returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp
-- To plan this takes longer than to write a row. One plan serves while the tables grow from
-- nothing, because it finds each row by an index.
set plan_cache_mode = force_generic_plan set enable_seqscan = off
as $$
declare
  answer jsonb;
  -- Whether some scope was read later than these rows; if not, no row looks for its scopes.
  later_scopes constant boolean := exists (
    select from mirror.scopes
    where mapping = 'trip_memberships' and epoch = p_epoch and fence > p_fence
  );
  gone_trip_id uuid[];
  gone_user_id uuid[];
begin
  with incoming as materialized (
    select
      (r ->> 0)::uuid as trip_id,
      (r ->> 1)::uuid as user_id,
      (r ->> 2)::text as role,
      (r ->> 3)::text as status,
      true as present
    from jsonb_array_elements(p_rows) as r
    union all
    select (g ->> 0)::uuid, (g ->> 1)::uuid, null::text, null::text, false
    from jsonb_array_elements(p_gone) as g
  ),
  -- The newest read of a scope that this key would be in.
  known as materialized (
    select i.*,
      case when later_scopes and i.present then greatest(
        (
          select s.fence from mirror.scopes as s
          where s.mapping = 'trip_memberships' and s.reference = '*'
            and s.value = '' and s.epoch = p_epoch
        ),
        (
          select s.fence from mirror.scopes as s
          where s.mapping = 'trip_memberships' and s.reference = 'trip_id'
            and s.value = i.trip_id::text and s.epoch = p_epoch
        ),
        (
          select s.fence from mirror.scopes as s
          where s.mapping = 'trip_memberships' and s.reference = 'user_id'
            and s.value = i.user_id::text and s.epoch = p_epoch
        )
      ) end as newest
    from incoming as i
  ),
  judged as materialized (
    select k.*,
      coalesce(k.newest > p_fence, false) as stale,
      k.present and not coalesce(k.newest > p_fence, false) and (
        (k.trip_id is not null and (
          select true from mirror.ledger_trips as p
          where p.id = k.trip_id and p.present
        ) is null) or (k.user_id is not null and (
          select true from mirror.ledger_users as p
          where p.id = k.user_id and p.present
        ) is null)
      ) as orphan
    from known as k
  ),
  -- Always advance the ledger, also where the row stays as it is or was never there: a write
  -- that still hangs somewhere must find that it is older. Sorted, so that two never deadlock.
  -- The conflict's WHERE takes in the tombstones' index beside the primary key.
  admitted as (
    insert into mirror.ledger_trip_memberships as l (trip_id, user_id, epoch, fence, present, applied_at)
    select j.trip_id, j.user_id, p_epoch, p_fence, j.present, now()
    from judged as j
    where not j.stale and not j.orphan
    order by j.trip_id, j.user_id
    on conflict (trip_id, user_id) where not present do update
    set epoch = excluded.epoch, fence = excluded.fence,
      present = excluded.present, applied_at = excluded.applied_at
    where (l.epoch, l.fence) <= (excluded.epoch, excluded.fence)
    returning l.trip_id, l.user_id, l.present
  ),
  -- Touch the visible row only where it changes: no WAL and no Realtime message for nothing.
  written as (
    insert into public.trip_memberships as t (trip_id, user_id, role, status)
    select j.trip_id, j.user_id, j.role, j.status
    from judged as j
    join admitted as a on a.trip_id = j.trip_id and a.user_id = j.user_id
    where a.present
    on conflict (trip_id, user_id) do update set
      role = excluded.role,
      status = excluded.status
    where (t.role, t.status)
      is distinct from (excluded.role, excluded.status)
  )
  select
    jsonb_build_object(
      'stale', coalesce(jsonb_agg(jsonb_build_array(j.trip_id::text, j.user_id::text))
        filter (where a.trip_id is null and not j.orphan), '[]'),
      'ahead', max(greatest(case when j.stale then j.newest end, (
        -- The ledger's read, where that refused the row.
        select l.fence from mirror.ledger_trip_memberships as l
        where l.trip_id = j.trip_id and l.user_id = j.user_id and l.epoch = p_epoch and l.fence > p_fence
      ))) filter (where a.trip_id is null and not j.orphan),
      'orphans', coalesce(jsonb_agg(jsonb_build_array(j.trip_id::text, j.user_id::text)) filter (where j.orphan), '[]')
    ),
    array_agg(j.trip_id) filter (where not a.present),
    array_agg(j.user_id) filter (where not a.present)
  into answer, gone_trip_id, gone_user_id
  from judged as j
  left join admitted as a on a.trip_id = j.trip_id and a.user_id = j.user_id;

  if gone_trip_id is not null then
    answer := answer || jsonb_build_object('retained', mirror.withdraw_trip_memberships(
      p_epoch, p_fence, gone_trip_id, gone_user_id
    ));
  end if;
  return answer;
end
$$;


revoke all on function
  mirror.apply_trip_memberships(integer, bigint, jsonb, jsonb),
  mirror.scope_trip_memberships(text, text[], text[], integer),
  mirror.withdraw_trip_memberships(integer, bigint, uuid[], uuid[])
from public, anon, authenticated, service_role;


create or replace function mirror.digest_trip_memberships(
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
      select array[s.trip_id::text, s.user_id::text] from public.trip_memberships as s
      where (s.trip_id, s.user_id) >= (p_from[1]::uuid, p_from[2]::uuid) and s.trip_id >= p_from[1]::uuid
      order by s.trip_id, s.user_id offset p_limit limit 1
    );
  else
    limit_key := (
      select array[s.trip_id::text, s.user_id::text] from public.trip_memberships as s
      where (s.trip_id, s.user_id) >= (p_from[1]::uuid, p_from[2]::uuid) and s.trip_id >= p_from[1]::uuid
        and (s.trip_id, s.user_id) < (wanted_until[1]::uuid, wanted_until[2]::uuid) and s.trip_id <= wanted_until[1]::uuid
      order by s.trip_id, s.user_id offset p_limit limit 1
    );
  end if;
  wanted_until := coalesce(limit_key, wanted_until);
  if wanted_until is null then
    limit_key := (
      select array[s.trip_id::text, s.user_id::text] from mirror.ledger_trip_memberships as s
      where (s.trip_id, s.user_id) >= (p_from[1]::uuid, p_from[2]::uuid) and s.trip_id >= p_from[1]::uuid
      order by s.trip_id, s.user_id offset p_limit limit 1
    );
  else
    limit_key := (
      select array[s.trip_id::text, s.user_id::text] from mirror.ledger_trip_memberships as s
      where (s.trip_id, s.user_id) >= (p_from[1]::uuid, p_from[2]::uuid) and s.trip_id >= p_from[1]::uuid
        and (s.trip_id, s.user_id) < (wanted_until[1]::uuid, wanted_until[2]::uuid) and s.trip_id <= wanted_until[1]::uuid
      order by s.trip_id, s.user_id offset p_limit limit 1
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
        select coalesce(t.trip_id, l.trip_id)::text as k0, coalesce(t.user_id, l.user_id)::text as k1, row(t.trip_id::text collate "C", t.user_id::text collate "C", t.role::text collate "C", t.status::text collate "C") as r,
          t.trip_id is not null and not (t.role is null and t.status is null and l.present is false) as there,
          case when t.trip_id is null then l.present
            else l.present is not true and not (t.role is null and t.status is null and l.present is false) end as stray
        from (
          select t.* from public.trip_memberships as t
          where (t.trip_id, t.user_id) >= (p_from[1]::uuid, p_from[2]::uuid) and t.trip_id >= p_from[1]::uuid
        ) as t
        full join (
          select l.* from mirror.ledger_trip_memberships as l
          where (l.trip_id, l.user_id) >= (p_from[1]::uuid, p_from[2]::uuid) and l.trip_id >= p_from[1]::uuid
        ) as l on t.trip_id = l.trip_id and t.user_id = l.user_id
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
        select coalesce(t.trip_id, l.trip_id)::text as k0, coalesce(t.user_id, l.user_id)::text as k1, row(t.trip_id::text collate "C", t.user_id::text collate "C", t.role::text collate "C", t.status::text collate "C") as r,
          t.trip_id is not null and not (t.role is null and t.status is null and l.present is false) as there,
          case when t.trip_id is null then l.present
            else l.present is not true and not (t.role is null and t.status is null and l.present is false) end as stray
        from (
          select t.* from public.trip_memberships as t
          where (t.trip_id, t.user_id) >= (p_from[1]::uuid, p_from[2]::uuid) and t.trip_id >= p_from[1]::uuid
          and (t.trip_id, t.user_id) < (wanted_until[1]::uuid, wanted_until[2]::uuid) and t.trip_id <= wanted_until[1]::uuid
        ) as t
        full join (
          select l.* from mirror.ledger_trip_memberships as l
          where (l.trip_id, l.user_id) >= (p_from[1]::uuid, p_from[2]::uuid) and l.trip_id >= p_from[1]::uuid
          and (l.trip_id, l.user_id) < (wanted_until[1]::uuid, wanted_until[2]::uuid) and l.trip_id <= wanted_until[1]::uuid
        ) as l on t.trip_id = l.trip_id and t.user_id = l.user_id
      ) as h
      where h.there or h.stray
    ) as f;
  end if;
  return answer || jsonb_build_object('until', wanted_until);
end
$$;


create or replace function mirror.survey_trip_memberships(
  p_seed bigint, p_md5 boolean, p_bits integer, p_wanted bytea, p_each boolean, p_part integer,
  p_parts integer
) returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  answer jsonb;
  low constant bigint := (1::bigint << p_bits) - 1;
  wanted_low constant bigint := 8 * length(p_wanted) - 1;
  seen constant tid[] := mirror.part_of('public.trip_memberships', p_part, p_parts);
  known constant tid[] := mirror.part_of('mirror.ledger_trip_memberships', p_part, p_parts);
begin
  if p_each then
    select coalesce(jsonb_agg(jsonb_build_array(f.k0, f.k1, f.hash::text)), '[]')
    into answer
    from (
      select k.k0::text, k.k1::text, bit_xor(k.hash) as hash
      from (
        select k.k0, k.k1, case when p_md5 then ('x' || left(md5(p_seed::text || row(k.key_hash, k.c0, k.c1)::text), 16))::bit(64)::bigint else hash_record_extended(row(k.key_hash, k.c0, k.c1), p_seed) end as hash
        from (
          select t.trip_id as k0, t.user_id as k1, t.role::text collate "C" as c0, t.status::text collate "C" as c1,
            case when p_md5 then ('x' || left(md5(p_seed::text || row(t.trip_id, t.user_id)::text), 16))::bit(64)::bigint else hash_record_extended(row(t.trip_id, t.user_id), p_seed) end as key_hash
          from public.trip_memberships as t
          where t.ctid >= seen[1] and t.ctid < seen[2]
            and not (t.role is null and t.status is null and (select l.present is false from mirror.ledger_trip_memberships as l where l.trip_id = t.trip_id and l.user_id = t.user_id) is true)
          -- So that a hash is taken once, not wherever it is named.
          offset 0
        ) as k
        where p_wanted is null or get_bit(p_wanted, k.key_hash & wanted_low) = 1
        union all
        select k.k0, k.k1, k.key_hash
        from (
          select l.trip_id as k0, l.user_id as k1,
            case when p_md5 then ('x' || left(md5(p_seed::text || row(l.trip_id, l.user_id)::text), 16))::bit(64)::bigint else hash_record_extended(row(l.trip_id, l.user_id), p_seed) end as key_hash
          from mirror.ledger_trip_memberships as l
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
        select (k.key_hash & low)::integer as bucket, true as seen, case when p_md5 then ('x' || left(md5(p_seed::text || row(k.key_hash, k.c0, k.c1)::text), 16))::bit(64)::bigint else hash_record_extended(row(k.key_hash, k.c0, k.c1), p_seed) end as hash
        from (
          select t.trip_id as k0, t.user_id as k1, t.role::text collate "C" as c0, t.status::text collate "C" as c1,
            case when p_md5 then ('x' || left(md5(p_seed::text || row(t.trip_id, t.user_id)::text), 16))::bit(64)::bigint else hash_record_extended(row(t.trip_id, t.user_id), p_seed) end as key_hash
          from public.trip_memberships as t
          where t.ctid >= seen[1] and t.ctid < seen[2]
            and not (t.role is null and t.status is null and (select l.present is false from mirror.ledger_trip_memberships as l where l.trip_id = t.trip_id and l.user_id = t.user_id) is true)
          -- So that a hash is taken once, not wherever it is named.
          offset 0
        ) as k
        where p_wanted is null or get_bit(p_wanted, k.key_hash & wanted_low) = 1
        union all
        select (k.key_hash & low)::integer, null, k.key_hash
        from (
          select l.trip_id as k0, l.user_id as k1,
            case when p_md5 then ('x' || left(md5(p_seed::text || row(l.trip_id, l.user_id)::text), 16))::bit(64)::bigint else hash_record_extended(row(l.trip_id, l.user_id), p_seed) end as key_hash
          from mirror.ledger_trip_memberships as l
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
revoke all on function mirror.survey_trip_memberships(bigint, boolean, integer, bytea, boolean, integer, integer)
from public, anon, authenticated, service_role;


create or replace function mirror.rows_trip_memberships(p_keys jsonb)
returns jsonb
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select coalesce(jsonb_agg(jsonb_build_object(
    'key', jsonb_build_array(a.k0::text, a.k1::text),
    'row', case when t.trip_id is not null and not (t.role is null and t.status is null and l.present is false) then
      jsonb_build_array(t.trip_id::text, t.user_id::text, t.role::text, t.status::text)
    end,
    'present', l.present,
    'epoch', l.epoch,
    'fence', l.fence,
    -- A row that was written after its ledger's was written by somebody else.
    'edited', coalesce(age(t.xmin) < age(l.xmin), false),
    'expired', coalesce(false, false),
    'outdated', coalesce(l.applied_at < (
      select g.applied_at from mirror.migrations as g where g.name = 'model_trips'
    ), false)
  )), '[]')
  from (select (k ->> 0)::uuid as k0, (k ->> 1)::uuid as k1 from jsonb_array_elements(p_keys) as k) as a
  left join public.trip_memberships as t on t.trip_id = a.k0 and t.user_id = a.k1
  left join mirror.ledger_trip_memberships as l on l.trip_id = a.k0 and l.user_id = a.k1
$$;


revoke all on function
  mirror.digest_trip_memberships(
    text[], text[], bigint, boolean, integer, boolean
  ),
  mirror.rows_trip_memberships(jsonb)
from public, anon, authenticated, service_role;


create or replace function mirror.withdraw_trips(
  p_epoch integer, p_fence bigint, p_id uuid[]
) returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  retained jsonb := '{}';
  child1_trip_id uuid[];
  child1_user_id uuid[];
  held jsonb := '[]';
begin
  -- trip_memberships: close the scope, so that no hung write brings a child back, then its rows.
  insert into mirror.scopes as s (mapping, reference, value, epoch, fence)
  select 'trip_memberships', 'trip_id', k::text, p_epoch, p_fence
  from unnest(p_id) as k
  on conflict (mapping, reference, value) do update
  set epoch = excluded.epoch, fence = excluded.fence, read_at = now()
  where (s.epoch, s.fence) < (excluded.epoch, excluded.fence);
  with forgotten as (
    update mirror.ledger_trip_memberships as l
    set present = false, epoch = p_epoch, applied_at = now(),
      fence = case when l.epoch = p_epoch then greatest(l.fence, p_fence) else p_fence end
    where l.present and l.trip_id = any(p_id)
    returning l.trip_id, l.user_id
  )
  select array_agg(trip_id), array_agg(user_id)
  into child1_trip_id, child1_user_id from forgotten;
  if child1_trip_id is not null then
    retained := retained || mirror.withdraw_trip_memberships(
      p_epoch, p_fence, child1_trip_id, child1_user_id
    );
  end if;

  -- A foreign key of somebody else's table may hold a row back. That must not stop the others,
  -- and what stays must grant nothing: only the bare key stays. A deferred one must speak up here,
  -- not at commit, also in the second attempt: inside the block, the setting would be undone.
  set constraints all immediate;
  begin
    delete from public.trips as t
      using unnest(p_id) as g (id)
      where t.id = g.id;
  exception when foreign_key_violation or restrict_violation then
    for i in 1 .. cardinality(p_id) loop
      begin
        delete from public.trips as t where t.id = p_id[i];
      exception when foreign_key_violation or restrict_violation then
        update public.trips as t set name = null, created_by = null where t.id = p_id[i];
        held := held || jsonb_build_array(jsonb_build_array(p_id[i]::text));
      end;
    end loop;
    retained := retained || jsonb_build_object('trips', held);
  end;
  return retained;
end
$$;


create or replace function mirror.scope_trips(
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
          select l.id from mirror.ledger_trips as l
          where l.present
          order by l.id limit p_limit
        ) as f
      );
    end if;
    return (
      select coalesce(jsonb_agg(jsonb_build_array(f.id::text) order by f.id), '[]')
      from (
        select l.id from mirror.ledger_trips as l
        where l.present
          and (l.id) > (p_after[1]::uuid)
        order by l.id limit p_limit
      ) as f
    );
  end if;
  raise exception 'mapping trips has no reference %', p_reference using errcode = 'MR001';
end
$$;


create or replace function mirror.apply_trips(
  p_epoch integer, p_fence bigint, p_rows jsonb, p_gone jsonb
) returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp
-- To plan this takes longer than to write a row. One plan serves while the tables grow from
-- nothing, because it finds each row by an index.
set plan_cache_mode = force_generic_plan set enable_seqscan = off
as $$
declare
  answer jsonb;
  -- Whether some scope was read later than these rows; if not, no row looks for its scopes.
  later_scopes constant boolean := exists (
    select from mirror.scopes
    where mapping = 'trips' and epoch = p_epoch and fence > p_fence
  );
  gone_id uuid[];
begin
  with incoming as materialized (
    select
      (r ->> 0)::uuid as id,
      (r ->> 1)::text as name,
      (r ->> 2)::uuid as created_by,
      coalesce((r ->> 3)::boolean, false) as whole,
      true as present
    from jsonb_array_elements(p_rows) as r
    union all
    select (g ->> 0)::uuid, null::text, null::uuid, null::boolean, false
    from jsonb_array_elements(p_gone) as g
  ),
  -- The newest read of a scope that this key would be in, or of the key itself.
  known as materialized (
    select i.*,
      coalesce(l.present, false) and exists (
        select from public.trips as t where t.id = i.id
      ) as was_present,
      greatest(
        case when l.epoch = p_epoch then l.fence end,
        case when later_scopes and i.present then greatest(
          (
            select s.fence from mirror.scopes as s
            where s.mapping = 'trips' and s.reference = '*'
              and s.value = '' and s.epoch = p_epoch
          )
        ) end
      ) as newest
    from incoming as i
    -- LIMIT keeps this a look-up for each key: a plan from when the table was small would read all
    -- of it for every batch of a first load.
    left join lateral (
      select * from mirror.ledger_trips as s where s.id = i.id limit 1
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
    insert into mirror.ledger_trips as l (id, epoch, fence, present, applied_at)
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
    insert into public.trips as t (id, name, created_by)
    select j.id, j.name, j.created_by
    from judged as j
    join admitted as a on a.id = j.id
    where a.present
    on conflict (id) do update set
      name = excluded.name,
      created_by = excluded.created_by
    where (t.name, t.created_by)
      is distinct from (excluded.name, excluded.created_by)
  )
  select
    jsonb_build_object(
      'stale', coalesce(jsonb_agg(jsonb_build_array(j.id::text))
        filter (where a.id is null and not j.orphan and (j.stale or not j.alone)), '[]'),
      'ahead', max(greatest(case when j.stale then j.newest end, (
        -- The ledger's read, where that refused the row.
        select l.fence from mirror.ledger_trips as l
        where l.id = j.id and l.epoch = p_epoch and l.fence > p_fence
      ))) filter (where a.id is null and not j.orphan),
      'orphans', coalesce(jsonb_agg(jsonb_build_array(j.id::text)) filter (where j.orphan), '[]'),
      'appearing', coalesce(jsonb_agg(jsonb_build_array(j.id::text)) filter (where j.alone and not j.stale and not j.orphan), '[]')
    ),
    array_agg(j.id) filter (where not a.present)
  into answer, gone_id
  from judged as j
  left join admitted as a on a.id = j.id;

  if gone_id is not null then
    answer := answer || jsonb_build_object('retained', mirror.withdraw_trips(
      p_epoch, p_fence, gone_id
    ));
  end if;
  return answer;
end
$$;


revoke all on function
  mirror.apply_trips(integer, bigint, jsonb, jsonb),
  mirror.scope_trips(text, text[], text[], integer),
  mirror.withdraw_trips(integer, bigint, uuid[])
from public, anon, authenticated, service_role;


create or replace function mirror.digest_trips(
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
      select array[s.id::text] from public.trips as s
      where (s.id) >= (p_from[1]::uuid)
      order by s.id offset p_limit limit 1
    );
  else
    limit_key := (
      select array[s.id::text] from public.trips as s
      where (s.id) >= (p_from[1]::uuid)
        and (s.id) < (wanted_until[1]::uuid)
      order by s.id offset p_limit limit 1
    );
  end if;
  wanted_until := coalesce(limit_key, wanted_until);
  if wanted_until is null then
    limit_key := (
      select array[s.id::text] from mirror.ledger_trips as s
      where (s.id) >= (p_from[1]::uuid)
      order by s.id offset p_limit limit 1
    );
  else
    limit_key := (
      select array[s.id::text] from mirror.ledger_trips as s
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
        select coalesce(t.id, l.id)::text as k0, row(t.id::text collate "C", t.name::text collate "C", t.created_by::text collate "C") as r,
          t.id is not null and not (t.name is null and t.created_by is null and l.present is false) as there,
          case when t.id is null then l.present
            else l.present is not true and not (t.name is null and t.created_by is null and l.present is false) end as stray
        from (
          select t.* from public.trips as t
          where (t.id) >= (p_from[1]::uuid)
        ) as t
        full join (
          select l.* from mirror.ledger_trips as l
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
        select coalesce(t.id, l.id)::text as k0, row(t.id::text collate "C", t.name::text collate "C", t.created_by::text collate "C") as r,
          t.id is not null and not (t.name is null and t.created_by is null and l.present is false) as there,
          case when t.id is null then l.present
            else l.present is not true and not (t.name is null and t.created_by is null and l.present is false) end as stray
        from (
          select t.* from public.trips as t
          where (t.id) >= (p_from[1]::uuid)
          and (t.id) < (wanted_until[1]::uuid)
        ) as t
        full join (
          select l.* from mirror.ledger_trips as l
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


create or replace function mirror.survey_trips(
  p_seed bigint, p_md5 boolean, p_bits integer, p_wanted bytea, p_each boolean, p_part integer,
  p_parts integer
) returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  answer jsonb;
  low constant bigint := (1::bigint << p_bits) - 1;
  wanted_low constant bigint := 8 * length(p_wanted) - 1;
  seen constant tid[] := mirror.part_of('public.trips', p_part, p_parts);
  known constant tid[] := mirror.part_of('mirror.ledger_trips', p_part, p_parts);
begin
  if p_each then
    select coalesce(jsonb_agg(jsonb_build_array(f.k0, f.hash::text)), '[]')
    into answer
    from (
      select k.k0::text, bit_xor(k.hash) as hash
      from (
        select k.k0, case when p_md5 then ('x' || left(md5(p_seed::text || row(k.key_hash, k.c0, k.c1)::text), 16))::bit(64)::bigint else hash_record_extended(row(k.key_hash, k.c0, k.c1), p_seed) end as hash
        from (
          select t.id as k0, t.name::text collate "C" as c0, t.created_by::text collate "C" as c1,
            case when p_md5 then ('x' || left(md5(p_seed::text || row(t.id)::text), 16))::bit(64)::bigint else hash_record_extended(row(t.id), p_seed) end as key_hash
          from public.trips as t
          where t.ctid >= seen[1] and t.ctid < seen[2]
            and not (t.name is null and t.created_by is null and (select l.present is false from mirror.ledger_trips as l where l.id = t.id) is true)
          -- So that a hash is taken once, not wherever it is named.
          offset 0
        ) as k
        where p_wanted is null or get_bit(p_wanted, k.key_hash & wanted_low) = 1
        union all
        select k.k0, k.key_hash
        from (
          select l.id as k0,
            case when p_md5 then ('x' || left(md5(p_seed::text || row(l.id)::text), 16))::bit(64)::bigint else hash_record_extended(row(l.id), p_seed) end as key_hash
          from mirror.ledger_trips as l
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
          select t.id as k0, t.name::text collate "C" as c0, t.created_by::text collate "C" as c1,
            case when p_md5 then ('x' || left(md5(p_seed::text || row(t.id)::text), 16))::bit(64)::bigint else hash_record_extended(row(t.id), p_seed) end as key_hash
          from public.trips as t
          where t.ctid >= seen[1] and t.ctid < seen[2]
            and not (t.name is null and t.created_by is null and (select l.present is false from mirror.ledger_trips as l where l.id = t.id) is true)
          -- So that a hash is taken once, not wherever it is named.
          offset 0
        ) as k
        where p_wanted is null or get_bit(p_wanted, k.key_hash & wanted_low) = 1
        union all
        select (k.key_hash & low)::integer, null, k.key_hash
        from (
          select l.id as k0,
            case when p_md5 then ('x' || left(md5(p_seed::text || row(l.id)::text), 16))::bit(64)::bigint else hash_record_extended(row(l.id), p_seed) end as key_hash
          from mirror.ledger_trips as l
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
revoke all on function mirror.survey_trips(bigint, boolean, integer, bytea, boolean, integer, integer)
from public, anon, authenticated, service_role;


create or replace function mirror.rows_trips(p_keys jsonb)
returns jsonb
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select coalesce(jsonb_agg(jsonb_build_object(
    'key', jsonb_build_array(a.k0::text),
    'row', case when t.id is not null and not (t.name is null and t.created_by is null and l.present is false) then
      jsonb_build_array(t.id::text, t.name::text, t.created_by::text)
    end,
    'present', l.present,
    'epoch', l.epoch,
    'fence', l.fence,
    -- A row that was written after its ledger's was written by somebody else.
    'edited', coalesce(age(t.xmin) < age(l.xmin), false),
    'expired', coalesce(false, false),
    'outdated', coalesce(l.applied_at < (
      select g.applied_at from mirror.migrations as g where g.name = 'model_trips'
    ), false)
  )), '[]')
  from (select (k ->> 0)::uuid as k0 from jsonb_array_elements(p_keys) as k) as a
  left join public.trips as t on t.id = a.k0
  left join mirror.ledger_trips as l on l.id = a.k0
$$;


revoke all on function
  mirror.digest_trips(
    text[], text[], bigint, boolean, integer, boolean
  ),
  mirror.rows_trips(jsonb)
from public, anon, authenticated, service_role;


create or replace function mirror.withdraw_users(
  p_epoch integer, p_fence bigint, p_id uuid[]
) returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  retained jsonb := '{}';
  child1_trip_id uuid[];
  child1_user_id uuid[];
  held jsonb := '[]';
begin
  -- trip_memberships: close the scope, so that no hung write brings a child back, then its rows.
  insert into mirror.scopes as s (mapping, reference, value, epoch, fence)
  select 'trip_memberships', 'user_id', k::text, p_epoch, p_fence
  from unnest(p_id) as k
  on conflict (mapping, reference, value) do update
  set epoch = excluded.epoch, fence = excluded.fence, read_at = now()
  where (s.epoch, s.fence) < (excluded.epoch, excluded.fence);
  with forgotten as (
    update mirror.ledger_trip_memberships as l
    set present = false, epoch = p_epoch, applied_at = now(),
      fence = case when l.epoch = p_epoch then greatest(l.fence, p_fence) else p_fence end
    where l.present and l.user_id = any(p_id)
    returning l.trip_id, l.user_id
  )
  select array_agg(trip_id), array_agg(user_id)
  into child1_trip_id, child1_user_id from forgotten;
  if child1_trip_id is not null then
    retained := retained || mirror.withdraw_trip_memberships(
      p_epoch, p_fence, child1_trip_id, child1_user_id
    );
  end if;

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
        update public.users as t set email = null, username = null where t.id = p_id[i];
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
  raise exception 'mapping users has no reference %', p_reference using errcode = 'MR001';
end
$$;


create or replace function mirror.apply_users(
  p_epoch integer, p_fence bigint, p_rows jsonb, p_gone jsonb
) returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp
-- To plan this takes longer than to write a row. One plan serves while the tables grow from
-- nothing, because it finds each row by an index.
set plan_cache_mode = force_generic_plan set enable_seqscan = off
as $$
declare
  answer jsonb;
  -- Whether some scope was read later than these rows; if not, no row looks for its scopes.
  later_scopes constant boolean := exists (
    select from mirror.scopes
    where mapping = 'users' and epoch = p_epoch and fence > p_fence
  );
  gone_id uuid[];
begin
  with incoming as materialized (
    select
      (r ->> 0)::uuid as id,
      (r ->> 1)::text as email,
      (r ->> 2)::text as username,
      coalesce((r ->> 3)::boolean, false) as whole,
      true as present
    from jsonb_array_elements(p_rows) as r
    union all
    select (g ->> 0)::uuid, null::text, null::text, null::boolean, false
    from jsonb_array_elements(p_gone) as g
  ),
  -- The newest read of a scope that this key would be in, or of the key itself.
  known as materialized (
    select i.*,
      coalesce(l.present, false) and exists (
        select from public.users as t where t.id = i.id
      ) as was_present,
      greatest(
        case when l.epoch = p_epoch then l.fence end,
        case when later_scopes and i.present then greatest(
          (
            select s.fence from mirror.scopes as s
            where s.mapping = 'users' and s.reference = '*'
              and s.value = '' and s.epoch = p_epoch
          )
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
      false as orphan,
      k.present and not k.was_present and not k.whole as alone
    from known as k
  ),
  -- Always advance the ledger, also where the row stays as it is or was never there: a write
  -- that still hangs somewhere must find that it is older. Sorted, so that two never deadlock.
  -- The conflict's WHERE takes in the tombstones' index beside the primary key.
  admitted as (
    insert into mirror.ledger_users as l (id, epoch, fence, present, applied_at)
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
    insert into public.users as t (id, email, username)
    select j.id, j.email, j.username
    from judged as j
    join admitted as a on a.id = j.id
    where a.present
    on conflict (id) do update set
      email = excluded.email,
      username = excluded.username
    where (t.email, t.username)
      is distinct from (excluded.email, excluded.username)
  )
  select
    jsonb_build_object(
      'stale', coalesce(jsonb_agg(jsonb_build_array(j.id::text))
        filter (where a.id is null and not j.orphan and (j.stale or not j.alone)), '[]'),
      'ahead', max(greatest(case when j.stale then j.newest end, (
        -- The ledger's read, where that refused the row.
        select l.fence from mirror.ledger_users as l
        where l.id = j.id and l.epoch = p_epoch and l.fence > p_fence
      ))) filter (where a.id is null and not j.orphan),
      'orphans', coalesce(jsonb_agg(jsonb_build_array(j.id::text)) filter (where j.orphan), '[]'),
      'appearing', coalesce(jsonb_agg(jsonb_build_array(j.id::text)) filter (where j.alone and not j.stale and not j.orphan), '[]')
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
        select coalesce(t.id, l.id)::text as k0, row(t.id::text collate "C", t.email::text collate "C", t.username::text collate "C") as r,
          t.id is not null and not (t.email is null and t.username is null and l.present is false) as there,
          case when t.id is null then l.present
            else l.present is not true and not (t.email is null and t.username is null and l.present is false) end as stray
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
        select coalesce(t.id, l.id)::text as k0, row(t.id::text collate "C", t.email::text collate "C", t.username::text collate "C") as r,
          t.id is not null and not (t.email is null and t.username is null and l.present is false) as there,
          case when t.id is null then l.present
            else l.present is not true and not (t.email is null and t.username is null and l.present is false) end as stray
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
          select t.id as k0, t.email::text collate "C" as c0, t.username::text collate "C" as c1,
            case when p_md5 then ('x' || left(md5(p_seed::text || row(t.id)::text), 16))::bit(64)::bigint else hash_record_extended(row(t.id), p_seed) end as key_hash
          from public.users as t
          where t.ctid >= seen[1] and t.ctid < seen[2]
            and not (t.email is null and t.username is null and (select l.present is false from mirror.ledger_users as l where l.id = t.id) is true)
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
          select t.id as k0, t.email::text collate "C" as c0, t.username::text collate "C" as c1,
            case when p_md5 then ('x' || left(md5(p_seed::text || row(t.id)::text), 16))::bit(64)::bigint else hash_record_extended(row(t.id), p_seed) end as key_hash
          from public.users as t
          where t.ctid >= seen[1] and t.ctid < seen[2]
            and not (t.email is null and t.username is null and (select l.present is false from mirror.ledger_users as l where l.id = t.id) is true)
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
    'row', case when t.id is not null and not (t.email is null and t.username is null and l.present is false) then
      jsonb_build_array(t.id::text, t.email::text, t.username::text)
    end,
    'present', l.present,
    'epoch', l.epoch,
    'fence', l.fence,
    -- A row that was written after its ledger's was written by somebody else.
    'edited', coalesce(age(t.xmin) < age(l.xmin), false),
    'expired', coalesce(false, false),
    'outdated', coalesce(l.applied_at < (
      select g.applied_at from mirror.migrations as g where g.name = 'model_trips'
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


-- What includes this one; null, which is nobody's, for any other name. Asked for in a subquery:
-- once, not for each row.
create or replace function mirror.trip_roles(min_role text) returns text[]
language sql immutable set search_path = pg_catalog, pg_temp
as $$
  select case $1
    when 'MEMBER' then array['MEMBER', 'ADMIN', 'OWNER']
    when 'ADMIN' then array['ADMIN', 'OWNER']
    when 'OWNER' then array['OWNER']
  end
$$;


-- The trips in which the caller is active with at least this role. For policies, as
-- `trip_id = any((select mirror.my_trips('MEMBER'))::uuid[])`: once per statement.
create or replace function mirror.my_trips(min_role text) returns uuid[]
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
  select coalesce(array_agg(m.trip_id), '{}')
  from public.trip_memberships as m
  where m.user_id = (select auth.uid())
    and m.status in ('ACTIVE')
    and exists (select from mirror.mappings as d where d.name = 'trip_memberships')
    and m.role = any((select mirror.trip_roles($1))::text[])
$$;


-- Everybody who shares a trip with the caller, the caller included.
create or replace function mirror.my_trip_companions() returns uuid[]
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
  select array_append(array_agg(distinct m.user_id), (select auth.uid()))
  from public.trip_memberships as m
  where m.trip_id = any((select mirror.my_trips('MEMBER'))::uuid[])
    and m.status in ('ACTIVE')
    and exists (select from mirror.mappings as d where d.name = 'trip_memberships')
$$;


-- By number: a column of the table that is called like a parameter would win over it.
create or replace function mirror.has_trip_role(resource uuid, min_role text) returns boolean
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
  select exists (
    select from public.trip_memberships as m
    where m.trip_id = $1
      and m.user_id = (select auth.uid())
      and m.status in ('ACTIVE')
      and exists (select from mirror.mappings as d where d.name = 'trip_memberships')
      and m.role = any((select mirror.trip_roles($2))::text[])
  )
$$;


create or replace function mirror.is_trip_member(resource uuid) returns boolean
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$ select mirror.has_trip_role($1, 'MEMBER') $$;


revoke all on function
  mirror.trip_roles(text),
  mirror.my_trips(text),
  mirror.my_trip_companions(),
  mirror.has_trip_role(uuid, text),
  mirror.is_trip_member(uuid)
from public, anon, authenticated, service_role;

grant execute on function
  mirror.my_trips(text),
  mirror.my_trip_companions(),
  mirror.has_trip_role(uuid, text),
  mirror.is_trip_member(uuid)
to authenticated;


-- What an earlier version of this model declared is mirrored no more, so its rows must not grant
-- for ever. The table and its rows stay, for whoever wants to look; other models are left alone.
do $$
declare
  kept constant jsonb[] := array[
    '["public", "users"]',
    '["public", "trips"]',
    '["public", "trip_memberships"]'
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
    where m.model = 'trips'
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
    raise notice 'nobody may read % any more: model trips no longer has it', old.name;
  end loop;
  delete from mirror.mappings
  where model = 'trips' and name <> all (array['users', 'trips', 'trip_memberships']::text[]);
end
$$;


-- users: the API's roles write nothing and read only what is granted here.
alter table public.users enable row level security;
revoke all on public.users from public, anon, authenticated, service_role;
grant select on public.users to service_role;
grant select (id, username) on public.users to authenticated;
drop policy if exists users_read on public.users;
create policy users_read on public.users for select to authenticated
using (id = any((select mirror.my_trip_companions())::uuid[]));


-- trips: the API's roles write nothing and read only what is granted here.
alter table public.trips enable row level security;
revoke all on public.trips from public, anon, authenticated, service_role;
grant select on public.trips to service_role;
grant select (id, name, created_by) on public.trips to authenticated;
drop policy if exists trips_read on public.trips;
create policy trips_read on public.trips for select to authenticated
using (id = any((select mirror.my_trips('MEMBER'))::uuid[]));


-- trip_memberships: the API's roles write nothing and read only what is granted here.
alter table public.trip_memberships enable row level security;
revoke all on public.trip_memberships from public, anon, authenticated, service_role;
grant select on public.trip_memberships to service_role;
grant select (trip_id, user_id, role, status) on public.trip_memberships to authenticated;
drop policy if exists trip_memberships_read on public.trip_memberships;
create policy trip_memberships_read on public.trip_memberships for select to authenticated
using (trip_id = any((select mirror.my_trips('MEMBER'))::uuid[]));


insert into mirror.mappings (name, model, position, digest, is_parent, declaration)
values ('users', 'trips', 1, '29c8ae4bb9dde5b3', true, '{
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
      "email",
      "text"
    ],
    [
      "username",
      "text"
    ]
  ],
  "references": [],
  "parents": [],
  "children": [
    [
      "trip_memberships",
      "user_id"
    ]
  ],
  "active": {},
  "on_delete": "delete",
  "query": "SELECT users.id, users.email, users.username FROM users WHERE users.deleted_at IS NULL"
}')
on conflict (name) do update
set model = excluded.model, position = excluded.position, digest = excluded.digest,
  is_parent = excluded.is_parent, declaration = excluded.declaration;


insert into mirror.mappings (name, model, position, digest, is_parent, declaration)
values ('trips', 'trips', 2, '448cf6e7921b394e', true, '{
  "name": "trips",
  "table": [
    "public",
    "trips"
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
      "created_by",
      "uuid"
    ]
  ],
  "references": [],
  "parents": [],
  "children": [
    [
      "trip_memberships",
      "trip_id"
    ]
  ],
  "active": {},
  "on_delete": "delete",
  "query": "SELECT trips.id, trips.name, trips.created_by FROM trips WHERE trips.deleted_at IS NULL"
}')
on conflict (name) do update
set model = excluded.model, position = excluded.position, digest = excluded.digest,
  is_parent = excluded.is_parent, declaration = excluded.declaration;


insert into mirror.mappings (name, model, position, digest, is_parent, declaration)
values ('trip_memberships', 'trips', 3, 'b6fa454824609764', false, '{
  "name": "trip_memberships",
  "table": [
    "public",
    "trip_memberships"
  ],
  "key": [
    "trip_id",
    "user_id"
  ],
  "columns": [
    [
      "trip_id",
      "uuid"
    ],
    [
      "user_id",
      "uuid"
    ],
    [
      "role",
      "text"
    ],
    [
      "status",
      "text"
    ]
  ],
  "references": [
    [
      "trip_id",
      "uuid"
    ],
    [
      "user_id",
      "uuid"
    ]
  ],
  "parents": [
    [
      "trips",
      "trip_id"
    ],
    [
      "users",
      "user_id"
    ]
  ],
  "children": [],
  "active": {
    "status": [
      "ACTIVE"
    ]
  },
  "on_delete": "delete",
  "query": "SELECT trip_memberships.trip_id, trip_memberships.user_id, trip_memberships.role, trip_memberships.status FROM trip_memberships WHERE trip_memberships.deleted_at IS NULL"
}')
on conflict (name) do update
set model = excluded.model, position = excluded.position, digest = excluded.digest,
  is_parent = excluded.is_parent, declaration = excluded.declaration;
