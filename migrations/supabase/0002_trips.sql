-- The permission model trips: tables, row-level security, and the functions that write them.
--
-- Printed from the mapping declarations; change those, not this file. Every statement can run
-- again. A table that already exists with another shape or owner is refused. One of this model gets
-- new columns and foreign keys, and a column outside of its key its new type.


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
select mirror.take_back('users', 'public.users');
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
select mirror.take_back('trips', 'public.trips');
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
select mirror.add_parent('public.trip_memberships', 'trip_id', 'public.trips',
  'references public.trips (id) on delete cascade'
);
select mirror.add_parent('public.trip_memberships', 'user_id', 'public.users',
  'references public.users (id) on delete cascade'
);


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
  primary key (trip_id, user_id)
);
select mirror.leave_room('mirror.ledger_trip_memberships');
select mirror.drop_constraint('mirror.ledger_trip_memberships', 'ledger_trip_memberships_by_user_id');
revoke all on mirror.ledger_trip_memberships from public, anon, authenticated, service_role;

-- Purging looks at tombstones alone.
create unique index if not exists ledger_trip_memberships_tombstones
on mirror.ledger_trip_memberships (trip_id, user_id) where not present;


-- Rows of a table that is taken over: the next resync judges them.
select mirror.take_back('trip_memberships', 'public.trip_memberships');
insert into mirror.ledger_trip_memberships (trip_id, user_id, epoch, fence, present, applied_at)
select trip_id, user_id, 0, 0, true, now()
from public.trip_memberships
where not exists (
  select from mirror.mappings
  where name = 'trip_memberships' and declaration -> 'table' = '["public", "trip_memberships"]'
)
on conflict (trip_id, user_id) do nothing;


create or replace function mirror.apply_users(
  p_epoch integer, p_fence bigint, p_rows jsonb, p_gone jsonb
) returns jsonb
-- To plan this takes longer than to write a row. One plan serves while the tables grow from
-- nothing, because it finds each row by an index.
language plpgsql set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off
as $$
declare
  answer jsonb;
  -- Whether some scope was read later than these rows; if not, no row looks for its scopes.
  later_scopes constant boolean := exists (
    select from mirror.scopes
    where mapping = 'users' and epoch = p_epoch and fence > p_fence
  );
begin
  with incoming as materialized (
    select (r ->> 0)::uuid as id, (r ->> 1)::text as email, (r ->> 2)::text as username, coalesce((r ->> 3)::boolean, false) as whole, true as present
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
    select k.*, coalesce(k.newest > p_fence, false) as stale,
      false as orphan,
      k.present and not k.was_present and not k.whole as alone
    from known as k
  ),
  -- Always advance the ledger, also where the row stays as it is or was never there: a write
  -- that still hangs somewhere must find that it is older. Sorted, so that two never deadlock.
  -- The conflict's WHERE takes in the tombstones' index beside the primary key.
  admitted as (
    insert into mirror.ledger_users as l
      (id, epoch, fence, present, applied_at)
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
    from judged as j join admitted as a on a.id = j.id
    where a.present
    on conflict (id) do update set
      email = excluded.email,
      username = excluded.username
    where (t.email, t.username)
      is distinct from (excluded.email, excluded.username)
  )
  select jsonb_build_object(
    'stale', coalesce(jsonb_agg(jsonb_build_array(j.id::text))
      filter (where a.id is null and not j.orphan and (j.stale or not j.alone)), '[]'),
    -- The newest of the reads that refused a row: of its scopes, or in its ledger.
    'ahead', max(greatest(case when j.stale then j.newest end, (
      select l.fence from mirror.ledger_users as l
      where l.id = j.id and l.epoch = p_epoch and l.fence > p_fence
    ))) filter (where a.id is null and not j.orphan),
    'orphans', coalesce(jsonb_agg(jsonb_build_array(j.id::text)) filter (where j.orphan), '[]'),
    'appearing', coalesce(jsonb_agg(jsonb_build_array(j.id::text)) filter (where j.alone and not j.stale and not j.orphan), '[]'),
    'gone', jsonb_agg(jsonb_build_array(j.id::text)) filter (where not a.present)
  )
  into answer
  from judged as j left join admitted as a on a.id = j.id;
  if answer ->> 'gone' is not null
    and current_setting('mirror.withdraws', true) is distinct from 'true'
  then
    -- The call began before a migration, with a mirror.apply that leaves rows to this function.
    raise exception 'the target was migrated during this call' using errcode = '40001';
  end if;
  return answer;
end
$$;
revoke all on function mirror.apply_users(integer, bigint, jsonb, jsonb)
from public, anon, authenticated, service_role;


create or replace function mirror.apply_trips(
  p_epoch integer, p_fence bigint, p_rows jsonb, p_gone jsonb
) returns jsonb
-- To plan this takes longer than to write a row. One plan serves while the tables grow from
-- nothing, because it finds each row by an index.
language plpgsql set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off
as $$
declare
  answer jsonb;
  -- Whether some scope was read later than these rows; if not, no row looks for its scopes.
  later_scopes constant boolean := exists (
    select from mirror.scopes
    where mapping = 'trips' and epoch = p_epoch and fence > p_fence
  );
begin
  with incoming as materialized (
    select (r ->> 0)::uuid as id, (r ->> 1)::text as name, (r ->> 2)::uuid as created_by, coalesce((r ->> 3)::boolean, false) as whole, true as present
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
    select k.*, coalesce(k.newest > p_fence, false) as stale,
      false as orphan,
      k.present and not k.was_present and not k.whole as alone
    from known as k
  ),
  -- Always advance the ledger, also where the row stays as it is or was never there: a write
  -- that still hangs somewhere must find that it is older. Sorted, so that two never deadlock.
  -- The conflict's WHERE takes in the tombstones' index beside the primary key.
  admitted as (
    insert into mirror.ledger_trips as l
      (id, epoch, fence, present, applied_at)
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
    from judged as j join admitted as a on a.id = j.id
    where a.present
    on conflict (id) do update set
      name = excluded.name,
      created_by = excluded.created_by
    where (t.name, t.created_by)
      is distinct from (excluded.name, excluded.created_by)
  )
  select jsonb_build_object(
    'stale', coalesce(jsonb_agg(jsonb_build_array(j.id::text))
      filter (where a.id is null and not j.orphan and (j.stale or not j.alone)), '[]'),
    -- The newest of the reads that refused a row: of its scopes, or in its ledger.
    'ahead', max(greatest(case when j.stale then j.newest end, (
      select l.fence from mirror.ledger_trips as l
      where l.id = j.id and l.epoch = p_epoch and l.fence > p_fence
    ))) filter (where a.id is null and not j.orphan),
    'orphans', coalesce(jsonb_agg(jsonb_build_array(j.id::text)) filter (where j.orphan), '[]'),
    'appearing', coalesce(jsonb_agg(jsonb_build_array(j.id::text)) filter (where j.alone and not j.stale and not j.orphan), '[]'),
    'gone', jsonb_agg(jsonb_build_array(j.id::text)) filter (where not a.present)
  )
  into answer
  from judged as j left join admitted as a on a.id = j.id;
  if answer ->> 'gone' is not null
    and current_setting('mirror.withdraws', true) is distinct from 'true'
  then
    -- The call began before a migration, with a mirror.apply that leaves rows to this function.
    raise exception 'the target was migrated during this call' using errcode = '40001';
  end if;
  return answer;
end
$$;
revoke all on function mirror.apply_trips(integer, bigint, jsonb, jsonb)
from public, anon, authenticated, service_role;


create or replace function mirror.apply_trip_memberships(
  p_epoch integer, p_fence bigint, p_rows jsonb, p_gone jsonb
) returns jsonb
-- To plan this takes longer than to write a row. One plan serves while the tables grow from
-- nothing, because it finds each row by an index.
language plpgsql set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off
as $$
declare
  answer jsonb;
  -- Whether some scope was read later than these rows; if not, no row looks for its scopes.
  later_scopes constant boolean := exists (
    select from mirror.scopes
    where mapping = 'trip_memberships' and epoch = p_epoch and fence > p_fence
  );
begin
  with incoming as materialized (
    select (r ->> 0)::uuid as trip_id, (r ->> 1)::uuid as user_id, (r ->> 2)::text as role, (r ->> 3)::text as status, true as present
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
    select k.*, coalesce(k.newest > p_fence, false) as stale,
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
    insert into mirror.ledger_trip_memberships as l
      (trip_id, user_id, epoch, fence, present, applied_at)
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
    from judged as j join admitted as a on a.trip_id = j.trip_id and a.user_id = j.user_id
    where a.present
    on conflict (trip_id, user_id) do update set
      role = excluded.role,
      status = excluded.status
    where (t.role, t.status)
      is distinct from (excluded.role, excluded.status)
  )
  select jsonb_build_object(
    'stale', coalesce(jsonb_agg(jsonb_build_array(j.trip_id::text, j.user_id::text))
      filter (where a.trip_id is null and not j.orphan), '[]'),
    -- The newest of the reads that refused a row: of its scopes, or in its ledger.
    'ahead', max(greatest(case when j.stale then j.newest end, (
      select l.fence from mirror.ledger_trip_memberships as l
      where l.trip_id = j.trip_id and l.user_id = j.user_id and l.epoch = p_epoch and l.fence > p_fence
    ))) filter (where a.trip_id is null and not j.orphan),
    'orphans', coalesce(jsonb_agg(jsonb_build_array(j.trip_id::text, j.user_id::text)) filter (where j.orphan), '[]'),
    'gone', jsonb_agg(jsonb_build_array(j.trip_id::text, j.user_id::text)) filter (where not a.present)
  )
  into answer
  from judged as j left join admitted as a on a.trip_id = j.trip_id and a.user_id = j.user_id;
  if answer ->> 'gone' is not null then
    begin
      -- A deferred foreign key must speak up here, not at commit.
      set constraints all immediate;
      delete from public.trip_memberships as t using jsonb_array_elements(answer -> 'gone') as g
      where t.trip_id = (g.value ->> 0)::uuid and t.user_id = (g.value ->> 1)::uuid;
      answer := answer || '{"withdrawn": true}';
    exception when foreign_key_violation or restrict_violation then
      -- mirror.withdraw then removes row by row those that are not held back.
    end;
  end if;
  return answer;
end
$$;
revoke all on function mirror.apply_trip_memberships(integer, bigint, jsonb, jsonb)
from public, anon, authenticated, service_role;


-- The levels that include this one; null, which is nobody's, for any other name. Asked for in a
-- subquery: once, not for each row.
create or replace function mirror.trip_roles(min_role text) returns text[]
language plpgsql immutable set search_path = pg_catalog, pg_temp
as $$
begin
  return case $1
    when 'MEMBER' then array['MEMBER', 'ADMIN', 'OWNER']
    when 'ADMIN' then array['ADMIN', 'OWNER']
    when 'OWNER' then array['OWNER']
  end;
end
$$;


-- The trips in which the caller is active with at least this role. For policies, as
-- `trip_id = any((select mirror.my_trips('MEMBER'))::uuid[])`: once per statement.
create or replace function mirror.my_trips(min_role text) returns uuid[]
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
set enable_seqscan = off set jit = off
as $$
#variable_conflict use_column
begin
  return (
    select coalesce(array_agg(m.trip_id), '{}')
    from public.trip_memberships as m
    where m.user_id = (select auth.uid())
      and m.status in ('ACTIVE')
      and exists (select from mirror.mappings as d where d.name = 'trip_memberships')
      and (not exists (select from mirror.withheld)
        or not (exists (
          select from mirror.withheld as w
          where (w.mapping, w.key) in (
            ('trip_memberships', array[m.trip_id::text, m.user_id::text]),
            ('trips', array[m.trip_id::text]),
            ('users', array[m.user_id::text])
          )
        )))
      and m.role = any((select mirror.trip_roles($1))::text[])
  );
end
$$;


-- Everybody who shares a trip with the caller, the caller included.
create or replace function mirror.my_trip_companions() returns uuid[]
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
set enable_seqscan = off set jit = off
as $$
begin
  return (
    select array_append(array_agg(distinct m.user_id), (select auth.uid()))
    from public.trip_memberships as m
    where m.trip_id = any((select mirror.my_trips('MEMBER'))::uuid[])
      and m.status in ('ACTIVE')
      and exists (select from mirror.mappings as d where d.name = 'trip_memberships')
      and (not exists (select from mirror.withheld)
        or not (exists (
          select from mirror.withheld as w
          where (w.mapping, w.key) in (
            ('trip_memberships', array[m.trip_id::text, m.user_id::text]),
            ('trips', array[m.trip_id::text]),
            ('users', array[m.user_id::text])
          )
        )))
      and m.role in ('MEMBER', 'ADMIN', 'OWNER')
  );
end
$$;


-- By number: a column of the table that is called like a parameter would win over it.
create or replace function mirror.has_trip_role(resource uuid, min_role text) returns boolean
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
set enable_seqscan = off set jit = off
as $$
#variable_conflict use_column
begin
  return exists (
    select from public.trip_memberships as m
    where m.trip_id = $1
      and m.user_id = (select auth.uid())
      and m.status in ('ACTIVE')
      and exists (select from mirror.mappings as d where d.name = 'trip_memberships')
      and (not exists (select from mirror.withheld)
        or not (exists (
          select from mirror.withheld as w
          where (w.mapping, w.key) in (
            ('trip_memberships', array[m.trip_id::text, m.user_id::text]),
            ('trips', array[m.trip_id::text]),
            ('users', array[m.user_id::text])
          )
        )))
      and m.role = any((select mirror.trip_roles($2))::text[])
  );
end
$$;


create or replace function mirror.is_trip_member(resource uuid) returns boolean
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
set enable_seqscan = off set jit = off
as $$
begin
  return mirror.has_trip_role($1, 'MEMBER');
end
$$;


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


-- Close what an earlier version of this model declared and this one does not.
select mirror.retire('trips', '[
  {"name": "users", "table": ["public", "users"], "columns": ["id", "email", "username"], "references": [], "parents": []},
  {"name": "trips", "table": ["public", "trips"], "columns": ["id", "name", "created_by"], "references": [], "parents": []},
  {"name": "trip_memberships", "table": ["public", "trip_memberships"], "columns": ["trip_id", "user_id", "role", "status"], "references": ["trip_id", "user_id"], "parents": [["trip_id", "public.trips"], ["user_id", "public.users"]]}
]', array[
  'mirror.trip_roles(text)',
  'mirror.my_trips(text)',
  'mirror.my_trip_companions()',
  'mirror.has_trip_role(uuid, text)',
  'mirror.is_trip_member(uuid)'
]);


-- Whether the row of a key is withheld, or one of its ancestors. For this table's policy.
create or replace function mirror.withheld_users(uuid) returns boolean
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
  return exists (
    select from public.users as m
    where m.id = $1
      and (exists (
          select from mirror.withheld as w
          where (w.mapping, w.key) in (
            ('users', array[m.id::text])
          )
        ))
  );
end
$$;
revoke all on function mirror.withheld_users(uuid) from public, anon, authenticated, service_role;
grant execute on function mirror.withheld_users(uuid) to authenticated;


-- users: the API's roles write nothing and read only what is granted here.
alter table public.users enable row level security;
revoke all on public.users from public, anon, authenticated, service_role;
grant select on public.users to service_role;
grant select (id, username) on public.users to authenticated;
drop policy if exists users_read on public.users;
create policy users_read on public.users for select to authenticated
using (
  (id = any((select mirror.my_trip_companions())::uuid[]))
  and (not (select mirror.any_withheld()) or not mirror.withheld_users(id))
);


-- Whether the row of a key is withheld, or one of its ancestors. For this table's policy.
create or replace function mirror.withheld_trips(uuid) returns boolean
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
  return exists (
    select from public.trips as m
    where m.id = $1
      and (exists (
          select from mirror.withheld as w
          where (w.mapping, w.key) in (
            ('trips', array[m.id::text])
          )
        ))
  );
end
$$;
revoke all on function mirror.withheld_trips(uuid) from public, anon, authenticated, service_role;
grant execute on function mirror.withheld_trips(uuid) to authenticated;


-- trips: the API's roles write nothing and read only what is granted here.
alter table public.trips enable row level security;
revoke all on public.trips from public, anon, authenticated, service_role;
grant select on public.trips to service_role;
grant select (id, name, created_by) on public.trips to authenticated;
drop policy if exists trips_read on public.trips;
create policy trips_read on public.trips for select to authenticated
using (
  (id = any((select mirror.my_trips('MEMBER'))::uuid[]))
  and (not (select mirror.any_withheld()) or not mirror.withheld_trips(id))
);


-- Whether the row of a key is withheld, or one of its ancestors. For this table's policy.
create or replace function mirror.withheld_trip_memberships(uuid, uuid) returns boolean
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
  return exists (
    select from public.trip_memberships as m
    where m.trip_id = $1 and m.user_id = $2
      and (exists (
          select from mirror.withheld as w
          where (w.mapping, w.key) in (
            ('trip_memberships', array[m.trip_id::text, m.user_id::text]),
            ('trips', array[m.trip_id::text]),
            ('users', array[m.user_id::text])
          )
        ))
  );
end
$$;
revoke all on function mirror.withheld_trip_memberships(uuid, uuid) from public, anon, authenticated, service_role;
grant execute on function mirror.withheld_trip_memberships(uuid, uuid) to authenticated;


-- trip_memberships: the API's roles write nothing and read only what is granted here.
alter table public.trip_memberships enable row level security;
revoke all on public.trip_memberships from public, anon, authenticated, service_role;
grant select on public.trip_memberships to service_role;
grant select (trip_id, user_id, role, status) on public.trip_memberships to authenticated;
drop policy if exists trip_memberships_read on public.trip_memberships;
create policy trip_memberships_read on public.trip_memberships for select to authenticated
using (
  (trip_id = any((select mirror.my_trips('MEMBER'))::uuid[]))
  and (not (select mirror.any_withheld()) or not mirror.withheld_trip_memberships(trip_id, user_id))
);


insert into mirror.mappings (name, model, position, digest, is_parent, declaration)
values ('users', 'trips', 1, '29c8ae4bb9dde5b3', true, '{
  "name": "users",
  "table": ["public", "users"],
  "key": ["id"],
  "columns": [["id", "uuid"], ["email", "text"], ["username", "text"]],
  "references": [],
  "parents": [],
  "children": [["trip_memberships", "user_id"]],
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
  "table": ["public", "trips"],
  "key": ["id"],
  "columns": [["id", "uuid"], ["name", "text"], ["created_by", "uuid"]],
  "references": [],
  "parents": [],
  "children": [["trip_memberships", "trip_id"]],
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
  "table": ["public", "trip_memberships"],
  "key": ["trip_id", "user_id"],
  "columns": [["trip_id", "uuid"], ["user_id", "uuid"], ["role", "text"], ["status", "text"]],
  "references": [["trip_id", "uuid"], ["user_id", "uuid"]],
  "parents": [["trips", "trip_id"], ["users", "user_id"]],
  "children": [],
  "active": {"status": ["ACTIVE"]},
  "on_delete": "delete",
  "query": "SELECT trip_memberships.trip_id, trip_memberships.user_id, trip_memberships.role, trip_memberships.status FROM trip_memberships WHERE trip_memberships.deleted_at IS NULL"
}')
on conflict (name) do update
set model = excluded.model, position = excluded.position, digest = excluded.digest,
  is_parent = excluded.is_parent, declaration = excluded.declaration;
