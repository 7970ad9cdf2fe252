-- The permission model grants: tables, row-level security, and the functions that write them.
--
-- Printed from the mapping declarations; change those, not this file. Every statement can run
-- again. A table that already exists with another shape or owner is refused; to one of this model,
-- new columns are added, and nothing else is altered.


-- Workers stand aside meanwhile: a batch in flight and these statements could deadlock.
select pg_advisory_xact_lock(1835627122, 1);


select mirror.check_table('user_permissions', 'public.user_permissions',
  '{"model": "grants", "table": ["public", "user_permissions"], "columns": {"user_id": "uuid", "resource_type": "text", "resource_id": "uuid", "permission_level": "text", "granted_at": "timestamptz", "granted_by": "uuid"}, "key": ["user_id", "resource_type", "resource_id"], "parents": {}, "policy": "user_permissions_read"}'
);


create table if not exists public.user_permissions (
  user_id uuid not null,
  resource_type text collate "C" not null,
  resource_id uuid not null,
  permission_level text,
  granted_at timestamptz,
  granted_by uuid,
  primary key (user_id, resource_type, resource_id)
);
select mirror.add_column('public.user_permissions', 'permission_level', 'text');
select mirror.add_column('public.user_permissions', 'granted_at', 'timestamptz');
select mirror.add_column('public.user_permissions', 'granted_by', 'uuid');


-- user_permissions: what was last written for each key, and how fresh the read was.
create table if not exists mirror.ledger_user_permissions (
  user_id uuid not null,
  resource_type text collate "C" not null,
  resource_id uuid not null,
  ref_workspace_id uuid,
  epoch integer not null,
  fence bigint not null,
  present boolean not null,
  applied_at timestamptz not null,
  primary key (user_id, resource_type, resource_id),
  constraint ledger_user_permissions_by_resource_id
    unique (resource_id, user_id, resource_type),
  constraint ledger_user_permissions_by_workspace_id
    unique (ref_workspace_id, user_id, resource_type, resource_id) deferrable
);
select mirror.add_column('mirror.ledger_user_permissions', 'ref_workspace_id', 'uuid');
select mirror.add_constraint('mirror.ledger_user_permissions', 'ledger_user_permissions_by_resource_id',
  'unique (resource_id, user_id, resource_type)'
);
select mirror.add_constraint('mirror.ledger_user_permissions', 'ledger_user_permissions_by_workspace_id',
  'unique (ref_workspace_id, user_id, resource_type, resource_id) deferrable'
);
revoke all on mirror.ledger_user_permissions from public, anon, authenticated, service_role;

-- Purging looks at tombstones alone.
create unique index if not exists ledger_user_permissions_tombstones
on mirror.ledger_user_permissions (user_id, resource_type, resource_id) where not present;


-- Rows of a table that is taken over: the next resync judges them.
insert into mirror.ledger_user_permissions (user_id, resource_type, resource_id, epoch, fence, present, applied_at)
select user_id, resource_type, resource_id, 0, 0, true, now()
from public.user_permissions
where not exists (
  select from mirror.mappings
  where name = 'user_permissions' and declaration -> 'table' = '["public", "user_permissions"]'
)
on conflict (user_id, resource_type, resource_id) do nothing;


create or replace function mirror.withdraw_user_permissions(
  p_epoch integer, p_fence bigint, p_user_id uuid[], p_resource_type text[], p_resource_id uuid[]
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
    delete from public.user_permissions as t
      using unnest(p_user_id, p_resource_type, p_resource_id) as g (user_id, resource_type, resource_id)
      where t.user_id = g.user_id and t.resource_type = g.resource_type and t.resource_id = g.resource_id;
  exception when foreign_key_violation or restrict_violation then
    for i in 1 .. cardinality(p_user_id) loop
      begin
        delete from public.user_permissions as t where t.user_id = p_user_id[i] and t.resource_type = p_resource_type[i] and t.resource_id = p_resource_id[i];
      exception when foreign_key_violation or restrict_violation then
        update public.user_permissions as t set permission_level = null, granted_at = null, granted_by = null where t.user_id = p_user_id[i] and t.resource_type = p_resource_type[i] and t.resource_id = p_resource_id[i];
        held := held || jsonb_build_array(jsonb_build_array(p_user_id[i]::text, p_resource_type[i]::text, p_resource_id[i]::text));
      end;
    end loop;
    retained := retained || jsonb_build_object('user_permissions', held);
  end;
  return retained;
end
$$;


create or replace function mirror.scope_user_permissions(
  p_reference text, p_values text[], p_after text[], p_limit integer
) returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
  if p_reference = '*' then
    if cardinality(p_after) = 0 then
      return (
        select coalesce(jsonb_agg(jsonb_build_array(f.user_id::text, f.resource_type::text, f.resource_id::text) order by f.user_id, f.resource_type, f.resource_id), '[]')
        from (
          select l.user_id, l.resource_type, l.resource_id from mirror.ledger_user_permissions as l
          where l.present
          order by l.user_id, l.resource_type, l.resource_id limit p_limit
        ) as f
      );
    end if;
    return (
      select coalesce(jsonb_agg(jsonb_build_array(f.user_id::text, f.resource_type::text, f.resource_id::text) order by f.user_id, f.resource_type, f.resource_id), '[]')
      from (
        select l.user_id, l.resource_type, l.resource_id from mirror.ledger_user_permissions as l
        where l.present
          and (l.user_id, l.resource_type, l.resource_id) > (p_after[1]::uuid, p_after[2]::text, p_after[3]::uuid)
        order by l.user_id, l.resource_type, l.resource_id limit p_limit
      ) as f
    );
  end if;
  if p_reference = 'user_id' then
    if cardinality(p_after) = 0 then
      return (
        select coalesce(jsonb_agg(jsonb_build_array(f.user_id::text, f.resource_type::text, f.resource_id::text) order by f.user_id, f.resource_type, f.resource_id), '[]')
        from (
          select l.user_id, l.resource_type, l.resource_id from mirror.ledger_user_permissions as l
          where l.present
            and l.user_id = any(p_values::uuid[])
          order by l.user_id, l.resource_type, l.resource_id limit p_limit
        ) as f
      );
    end if;
    return (
      select coalesce(jsonb_agg(jsonb_build_array(f.user_id::text, f.resource_type::text, f.resource_id::text) order by f.user_id, f.resource_type, f.resource_id), '[]')
      from (
        select l.user_id, l.resource_type, l.resource_id from mirror.ledger_user_permissions as l
        where l.present
          and l.user_id = any(p_values::uuid[])
          and (l.user_id, l.resource_type, l.resource_id) > (p_after[1]::uuid, p_after[2]::text, p_after[3]::uuid)
        order by l.user_id, l.resource_type, l.resource_id limit p_limit
      ) as f
    );
  end if;
  if p_reference = 'resource_id' then
    if cardinality(p_after) = 0 then
      return (
        select coalesce(jsonb_agg(jsonb_build_array(f.user_id::text, f.resource_type::text, f.resource_id::text) order by f.user_id, f.resource_type, f.resource_id), '[]')
        from (
          select l.user_id, l.resource_type, l.resource_id from mirror.ledger_user_permissions as l
          where l.present
            and l.resource_id = any(p_values::uuid[])
          order by l.user_id, l.resource_type, l.resource_id limit p_limit
        ) as f
      );
    end if;
    return (
      select coalesce(jsonb_agg(jsonb_build_array(f.user_id::text, f.resource_type::text, f.resource_id::text) order by f.user_id, f.resource_type, f.resource_id), '[]')
      from (
        select l.user_id, l.resource_type, l.resource_id from mirror.ledger_user_permissions as l
        where l.present
          and l.resource_id = any(p_values::uuid[])
          and (l.user_id, l.resource_type, l.resource_id) > (p_after[1]::uuid, p_after[2]::text, p_after[3]::uuid)
        order by l.user_id, l.resource_type, l.resource_id limit p_limit
      ) as f
    );
  end if;
  if p_reference = 'workspace_id' then
    if cardinality(p_after) = 0 then
      return (
        select coalesce(jsonb_agg(jsonb_build_array(f.user_id::text, f.resource_type::text, f.resource_id::text) order by f.user_id, f.resource_type, f.resource_id), '[]')
        from (
          select l.user_id, l.resource_type, l.resource_id from mirror.ledger_user_permissions as l
          where l.present
            and l.ref_workspace_id = any(p_values::uuid[])
          order by l.user_id, l.resource_type, l.resource_id limit p_limit
        ) as f
      );
    end if;
    return (
      select coalesce(jsonb_agg(jsonb_build_array(f.user_id::text, f.resource_type::text, f.resource_id::text) order by f.user_id, f.resource_type, f.resource_id), '[]')
      from (
        select l.user_id, l.resource_type, l.resource_id from mirror.ledger_user_permissions as l
        where l.present
          and l.ref_workspace_id = any(p_values::uuid[])
          and (l.user_id, l.resource_type, l.resource_id) > (p_after[1]::uuid, p_after[2]::text, p_after[3]::uuid)
        order by l.user_id, l.resource_type, l.resource_id limit p_limit
      ) as f
    );
  end if;
  raise exception 'mapping user_permissions has no reference %', p_reference using errcode = 'MR001';
end
$$;


create or replace function mirror.apply_user_permissions(
  p_epoch integer, p_fence bigint, p_rows jsonb, p_gone jsonb
) returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  answer jsonb;
  gone_user_id uuid[];
  gone_resource_type text[];
  gone_resource_id uuid[];
begin
  with incoming as materialized (
    select
      (r ->> 0)::uuid as user_id,
      (r ->> 1)::text as resource_type,
      (r ->> 2)::uuid as resource_id,
      (r ->> 3)::text as permission_level,
      (r ->> 4)::timestamptz as granted_at,
      (r ->> 5)::uuid as granted_by,
      (r ->> 6)::uuid as workspace_id,
      true as present
    from jsonb_array_elements(p_rows) as r
    union all
    select (g ->> 0)::uuid, (g ->> 1)::text, (g ->> 2)::uuid, null::text, null::timestamptz, null::uuid, null::uuid, false
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
          where s.mapping = 'user_permissions' and s.reference = '*'
            and s.value = '' and s.epoch = p_epoch
        ) end,
        case when i.present then (
          select s.fence from mirror.scopes as s
          where s.mapping = 'user_permissions' and s.reference = 'user_id'
            and s.value = i.user_id::text and s.epoch = p_epoch
        ) end,
        case when i.present then (
          select s.fence from mirror.scopes as s
          where s.mapping = 'user_permissions' and s.reference = 'resource_id'
            and s.value = i.resource_id::text and s.epoch = p_epoch
        ) end,
        case when i.present then (
          select s.fence from mirror.scopes as s
          where s.mapping = 'user_permissions' and s.reference = 'workspace_id'
            and s.value = i.workspace_id::text and s.epoch = p_epoch
        ) end
      ) as newest
    from incoming as i
    -- LIMIT keeps this a look-up for each key: a plan from when the table was small would read all
    -- of it for every batch of a first load.
    left join lateral (
      select * from mirror.ledger_user_permissions as s where s.user_id = i.user_id and s.resource_type = i.resource_type and s.resource_id = i.resource_id limit 1
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
    insert into mirror.ledger_user_permissions as l (user_id, resource_type, resource_id, ref_workspace_id, epoch, fence, present, applied_at)
    select j.user_id, j.resource_type, j.resource_id, j.workspace_id, p_epoch, p_fence, j.present, now()
    from judged as j
    where not j.stale and not j.orphan
    order by j.user_id, j.resource_type, j.resource_id
    on conflict (user_id, resource_type, resource_id) where not present do update
    set ref_workspace_id = excluded.ref_workspace_id, epoch = excluded.epoch, fence = excluded.fence,
      present = excluded.present, applied_at = excluded.applied_at
    where (l.epoch, l.fence) <= (excluded.epoch, excluded.fence)
    returning l.user_id, l.resource_type, l.resource_id, l.present
  ),
  -- Touch the visible row only where it changes: no WAL and no Realtime message for nothing.
  written as (
    insert into public.user_permissions as t (user_id, resource_type, resource_id, permission_level, granted_at, granted_by)
    select j.user_id, j.resource_type, j.resource_id, j.permission_level, j.granted_at, j.granted_by
    from judged as j
    join admitted as a on a.user_id = j.user_id and a.resource_type = j.resource_type and a.resource_id = j.resource_id
    where a.present
    on conflict (user_id, resource_type, resource_id) do update set
      permission_level = excluded.permission_level,
      granted_at = excluded.granted_at,
      granted_by = excluded.granted_by
    where (t.permission_level, t.granted_at, t.granted_by)
      is distinct from (excluded.permission_level, excluded.granted_at, excluded.granted_by)
  )
  select
    jsonb_build_object(
      'stale', coalesce(jsonb_agg(jsonb_build_array(j.user_id::text, j.resource_type::text, j.resource_id::text))
        filter (where a.user_id is null and not j.orphan), '[]'),
      'ahead', max(j.newest) filter (where j.stale),
      'orphans', coalesce(jsonb_agg(jsonb_build_array(j.user_id::text, j.resource_type::text, j.resource_id::text)) filter (where j.orphan), '[]')
    ),
    array_agg(j.user_id) filter (where not a.present),
    array_agg(j.resource_type) filter (where not a.present),
    array_agg(j.resource_id) filter (where not a.present)
  into answer, gone_user_id, gone_resource_type, gone_resource_id
  from judged as j
  left join admitted as a on a.user_id = j.user_id and a.resource_type = j.resource_type and a.resource_id = j.resource_id;

  if gone_user_id is not null then
    answer := answer || jsonb_build_object('retained', mirror.withdraw_user_permissions(
      p_epoch, p_fence, gone_user_id, gone_resource_type, gone_resource_id
    ));
  end if;
  return answer;
end
$$;


revoke all on function
  mirror.apply_user_permissions(integer, bigint, jsonb, jsonb),
  mirror.scope_user_permissions(text, text[], text[], integer),
  mirror.withdraw_user_permissions(integer, bigint, uuid[], text[], uuid[])
from public, anon, authenticated, service_role;


create or replace function mirror.digest_user_permissions(
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
      select array[s.user_id::text, s.resource_type::text, s.resource_id::text] from public.user_permissions as s
      where (s.user_id, s.resource_type, s.resource_id) >= (p_from[1]::uuid, p_from[2]::text collate "C", p_from[3]::uuid) and s.user_id >= p_from[1]::uuid
      order by s.user_id, s.resource_type, s.resource_id offset p_limit limit 1
    );
  else
    limit_key := (
      select array[s.user_id::text, s.resource_type::text, s.resource_id::text] from public.user_permissions as s
      where (s.user_id, s.resource_type, s.resource_id) >= (p_from[1]::uuid, p_from[2]::text collate "C", p_from[3]::uuid) and s.user_id >= p_from[1]::uuid
        and (s.user_id, s.resource_type, s.resource_id) < (wanted_until[1]::uuid, wanted_until[2]::text collate "C", wanted_until[3]::uuid) and s.user_id <= wanted_until[1]::uuid
      order by s.user_id, s.resource_type, s.resource_id offset p_limit limit 1
    );
  end if;
  wanted_until := coalesce(limit_key, wanted_until);
  if wanted_until is null then
    limit_key := (
      select array[s.user_id::text, s.resource_type::text, s.resource_id::text] from mirror.ledger_user_permissions as s
      where (s.user_id, s.resource_type, s.resource_id) >= (p_from[1]::uuid, p_from[2]::text collate "C", p_from[3]::uuid) and s.user_id >= p_from[1]::uuid
      order by s.user_id, s.resource_type, s.resource_id offset p_limit limit 1
    );
  else
    limit_key := (
      select array[s.user_id::text, s.resource_type::text, s.resource_id::text] from mirror.ledger_user_permissions as s
      where (s.user_id, s.resource_type, s.resource_id) >= (p_from[1]::uuid, p_from[2]::text collate "C", p_from[3]::uuid) and s.user_id >= p_from[1]::uuid
        and (s.user_id, s.resource_type, s.resource_id) < (wanted_until[1]::uuid, wanted_until[2]::text collate "C", wanted_until[3]::uuid) and s.user_id <= wanted_until[1]::uuid
      order by s.user_id, s.resource_type, s.resource_id offset p_limit limit 1
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
      jsonb_build_array(f.k0, f.k1, f.k2, case when f.there and not f.stray then f.hash::text end)
    ), '[]')) else '{}' end
    into answer
    from (
      select h.*, case when p_md5 then ('x' || left(md5(p_seed::text || h.r::text), 16))::bit(64)::bigint
            else hash_record_extended(h.r, p_seed) end as hash
      from (
        select coalesce(t.user_id, l.user_id)::text as k0, coalesce(t.resource_type, l.resource_type)::text as k1, coalesce(t.resource_id, l.resource_id)::text as k2, row(t.user_id::text collate "C", t.resource_type::text collate "C", t.resource_id::text collate "C", t.permission_level::text collate "C", t.granted_at::text collate "C", t.granted_by::text collate "C", l.ref_workspace_id::text collate "C") as r,
          t.user_id is not null and not (t.permission_level is null and t.granted_at is null and t.granted_by is null and l.present is false) as there,
          case when t.user_id is null then l.present
            else l.present is not true and not (t.permission_level is null and t.granted_at is null and t.granted_by is null and l.present is false) end as stray
        from (
          select t.* from public.user_permissions as t
          where (t.user_id, t.resource_type, t.resource_id) >= (p_from[1]::uuid, p_from[2]::text collate "C", p_from[3]::uuid) and t.user_id >= p_from[1]::uuid
        ) as t
        full join (
          select l.* from mirror.ledger_user_permissions as l
          where (l.user_id, l.resource_type, l.resource_id) >= (p_from[1]::uuid, p_from[2]::text collate "C", p_from[3]::uuid) and l.user_id >= p_from[1]::uuid
        ) as l on t.user_id = l.user_id and t.resource_type = l.resource_type and t.resource_id = l.resource_id
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
      jsonb_build_array(f.k0, f.k1, f.k2, case when f.there and not f.stray then f.hash::text end)
    ), '[]')) else '{}' end
    into answer
    from (
      select h.*, case when p_md5 then ('x' || left(md5(p_seed::text || h.r::text), 16))::bit(64)::bigint
            else hash_record_extended(h.r, p_seed) end as hash
      from (
        select coalesce(t.user_id, l.user_id)::text as k0, coalesce(t.resource_type, l.resource_type)::text as k1, coalesce(t.resource_id, l.resource_id)::text as k2, row(t.user_id::text collate "C", t.resource_type::text collate "C", t.resource_id::text collate "C", t.permission_level::text collate "C", t.granted_at::text collate "C", t.granted_by::text collate "C", l.ref_workspace_id::text collate "C") as r,
          t.user_id is not null and not (t.permission_level is null and t.granted_at is null and t.granted_by is null and l.present is false) as there,
          case when t.user_id is null then l.present
            else l.present is not true and not (t.permission_level is null and t.granted_at is null and t.granted_by is null and l.present is false) end as stray
        from (
          select t.* from public.user_permissions as t
          where (t.user_id, t.resource_type, t.resource_id) >= (p_from[1]::uuid, p_from[2]::text collate "C", p_from[3]::uuid) and t.user_id >= p_from[1]::uuid
          and (t.user_id, t.resource_type, t.resource_id) < (wanted_until[1]::uuid, wanted_until[2]::text collate "C", wanted_until[3]::uuid) and t.user_id <= wanted_until[1]::uuid
        ) as t
        full join (
          select l.* from mirror.ledger_user_permissions as l
          where (l.user_id, l.resource_type, l.resource_id) >= (p_from[1]::uuid, p_from[2]::text collate "C", p_from[3]::uuid) and l.user_id >= p_from[1]::uuid
          and (l.user_id, l.resource_type, l.resource_id) < (wanted_until[1]::uuid, wanted_until[2]::text collate "C", wanted_until[3]::uuid) and l.user_id <= wanted_until[1]::uuid
        ) as l on t.user_id = l.user_id and t.resource_type = l.resource_type and t.resource_id = l.resource_id
      ) as h
      where h.there or h.stray
    ) as f;
  end if;
  return answer || jsonb_build_object('until', wanted_until);
end
$$;


create or replace function mirror.survey_user_permissions(
  p_seed bigint, p_md5 boolean, p_bits integer, p_wanted bytea, p_each boolean, p_part integer,
  p_parts integer
) returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  answer jsonb;
  low constant bigint := (1::bigint << p_bits) - 1;
  wanted_low constant bigint := 8 * length(p_wanted) - 1;
  seen constant tid[] := mirror.part_of('public.user_permissions', p_part, p_parts);
  known constant tid[] := mirror.part_of('mirror.ledger_user_permissions', p_part, p_parts);
begin
  if p_each then
    select coalesce(jsonb_agg(jsonb_build_array(f.k0, f.k1, f.k2, f.hash::text)), '[]')
    into answer
    from (
      select k.k0::text, k.k1::text, k.k2::text, bit_xor(k.hash) as hash
      from (
        select k.k0, k.k1, k.k2, case when p_md5 then ('x' || left(md5(p_seed::text || row(k.key_hash, k.c0, k.c1, k.c2)::text), 16))::bit(64)::bigint else hash_record_extended(row(k.key_hash, k.c0, k.c1, k.c2), p_seed) end as hash
        from (
          select t.user_id as k0, t.resource_type as k1, t.resource_id as k2, t.permission_level::text collate "C" as c0, t.granted_at::text collate "C" as c1, t.granted_by::text collate "C" as c2,
            case when p_md5 then ('x' || left(md5(p_seed::text || row(t.user_id, t.resource_type, t.resource_id)::text), 16))::bit(64)::bigint else hash_record_extended(row(t.user_id, t.resource_type, t.resource_id), p_seed) end as key_hash
          from public.user_permissions as t
          where t.ctid >= seen[1] and t.ctid < seen[2]
            and not (t.permission_level is null and t.granted_at is null and t.granted_by is null and (select l.present is false from mirror.ledger_user_permissions as l where l.user_id = t.user_id and l.resource_type = t.resource_type and l.resource_id = t.resource_id) is true)
          -- So that a hash is taken once, not wherever it is named.
          offset 0
        ) as k
        where p_wanted is null or get_bit(p_wanted, k.key_hash & wanted_low) = 1
        union all
        select k.k0, k.k1, k.k2, case when p_md5 then ('x' || left(md5(p_seed::text || row(k.key_hash, k.c0)::text), 16))::bit(64)::bigint else hash_record_extended(row(k.key_hash, k.c0), p_seed) end
        from (
          select l.user_id as k0, l.resource_type as k1, l.resource_id as k2, l.ref_workspace_id::text collate "C" as c0,
            case when p_md5 then ('x' || left(md5(p_seed::text || row(l.user_id, l.resource_type, l.resource_id)::text), 16))::bit(64)::bigint else hash_record_extended(row(l.user_id, l.resource_type, l.resource_id), p_seed) end as key_hash
          from mirror.ledger_user_permissions as l
          where l.ctid >= known[1] and l.ctid < known[2]
            and l.present
          -- So that a hash is taken once, not wherever it is named.
          offset 0
        ) as k
        where p_wanted is null or get_bit(p_wanted, k.key_hash & wanted_low) = 1
      ) as k
      group by k.k0, k.k1, k.k2
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
        select (k.key_hash & low)::integer as bucket, true as seen, case when p_md5 then ('x' || left(md5(p_seed::text || row(k.key_hash, k.c0, k.c1, k.c2)::text), 16))::bit(64)::bigint else hash_record_extended(row(k.key_hash, k.c0, k.c1, k.c2), p_seed) end as hash
        from (
          select t.user_id as k0, t.resource_type as k1, t.resource_id as k2, t.permission_level::text collate "C" as c0, t.granted_at::text collate "C" as c1, t.granted_by::text collate "C" as c2,
            case when p_md5 then ('x' || left(md5(p_seed::text || row(t.user_id, t.resource_type, t.resource_id)::text), 16))::bit(64)::bigint else hash_record_extended(row(t.user_id, t.resource_type, t.resource_id), p_seed) end as key_hash
          from public.user_permissions as t
          where t.ctid >= seen[1] and t.ctid < seen[2]
            and not (t.permission_level is null and t.granted_at is null and t.granted_by is null and (select l.present is false from mirror.ledger_user_permissions as l where l.user_id = t.user_id and l.resource_type = t.resource_type and l.resource_id = t.resource_id) is true)
          -- So that a hash is taken once, not wherever it is named.
          offset 0
        ) as k
        where p_wanted is null or get_bit(p_wanted, k.key_hash & wanted_low) = 1
        union all
        select (k.key_hash & low)::integer, null, case when p_md5 then ('x' || left(md5(p_seed::text || row(k.key_hash, k.c0)::text), 16))::bit(64)::bigint else hash_record_extended(row(k.key_hash, k.c0), p_seed) end
        from (
          select l.user_id as k0, l.resource_type as k1, l.resource_id as k2, l.ref_workspace_id::text collate "C" as c0,
            case when p_md5 then ('x' || left(md5(p_seed::text || row(l.user_id, l.resource_type, l.resource_id)::text), 16))::bit(64)::bigint else hash_record_extended(row(l.user_id, l.resource_type, l.resource_id), p_seed) end as key_hash
          from mirror.ledger_user_permissions as l
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
revoke all on function mirror.survey_user_permissions(bigint, boolean, integer, bytea, boolean, integer, integer)
from public, anon, authenticated, service_role;


create or replace function mirror.rows_user_permissions(p_keys jsonb)
returns jsonb
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select coalesce(jsonb_agg(jsonb_build_object(
    'key', jsonb_build_array(a.k0::text, a.k1::text, a.k2::text),
    'row', case when t.user_id is not null and not (t.permission_level is null and t.granted_at is null and t.granted_by is null and l.present is false) then
      jsonb_build_array(t.user_id::text, t.resource_type::text, t.resource_id::text, t.permission_level::text, t.granted_at::text, t.granted_by::text, l.ref_workspace_id::text)
    end,
    'present', l.present,
    'epoch', l.epoch,
    'fence', l.fence,
    -- A row that was written after its ledger's was written by somebody else.
    'edited', coalesce(age(t.xmin) < age(l.xmin), false),
    'expired', coalesce(false, false),
    'outdated', coalesce(l.applied_at < (
      select g.applied_at from mirror.migrations as g where g.name = 'model_grants'
    ), false)
  )), '[]')
  from (select (k ->> 0)::uuid as k0, (k ->> 1)::text as k1, (k ->> 2)::uuid as k2 from jsonb_array_elements(p_keys) as k) as a
  left join public.user_permissions as t on t.user_id = a.k0 and t.resource_type = a.k1 and t.resource_id = a.k2
  left join mirror.ledger_user_permissions as l on l.user_id = a.k0 and l.resource_type = a.k1 and l.resource_id = a.k2
$$;


revoke all on function
  mirror.digest_user_permissions(
    text[], text[], bigint, boolean, integer, boolean
  ),
  mirror.rows_user_permissions(jsonb)
from public, anon, authenticated, service_role;


-- What includes this one; null, which is nobody's, for any other name. Asked for in a subquery:
-- once, not for each row.
create or replace function mirror.resource_levels(min_level text) returns text[]
language sql immutable set search_path = pg_catalog, pg_temp
as $$
  select case $1
    when 'read' then array['read', 'write', 'admin']
    when 'write' then array['write', 'admin']
    when 'admin' then array['admin']
  end
$$;


-- The resources of a kind that the caller reaches with at least this level. For policies, as
-- `id = any((select mirror.my_resources('company', 'read'))::uuid[])`:
-- once per statement.
create or replace function mirror.my_resources(kind text, min_level text) returns uuid[]
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
  select coalesce(array_agg(g.resource_id), '{}')
  from public.user_permissions as g
  where g.user_id = (select auth.uid())
    and g.resource_type = $1
    and exists (select from mirror.mappings as d where d.name = 'user_permissions')
    and g.permission_level = any((select mirror.resource_levels($2))::text[])
$$;


-- By number: a column of the table that is called like a parameter would win over it.
create or replace function mirror.can(kind text, resource uuid, min_level text) returns boolean
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
  select exists (
    select from public.user_permissions as g
    where g.user_id = (select auth.uid())
      and g.resource_type = $1
      and g.resource_id = $2
      and exists (select from mirror.mappings as d where d.name = 'user_permissions')
      and g.permission_level = any((select mirror.resource_levels($3))::text[])
  )
$$;


revoke all on function
  mirror.resource_levels(text),
  mirror.my_resources(text, text),
  mirror.can(text, uuid, text)
from public, anon, authenticated, service_role;

grant execute on function
  mirror.my_resources(text, text),
  mirror.can(text, uuid, text)
to authenticated;


-- What an earlier version of this model declared is mirrored no more, so its rows must not grant
-- for ever. The table and its rows stay, for whoever wants to look; other models are left alone.
do $$
declare
  kept constant jsonb[] := array[
    '["public", "user_permissions"]'
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
    where m.model = 'grants'
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
    raise notice 'nobody may read % any more: model grants no longer has it', old.name;
  end loop;
  delete from mirror.mappings
  where model = 'grants' and name <> all (array['user_permissions']::text[]);
end
$$;


-- user_permissions: the API's roles write nothing and read only what is granted here.
alter table public.user_permissions enable row level security;
revoke all on public.user_permissions from public, anon, authenticated, service_role;
grant select on public.user_permissions to service_role;
grant select (user_id, resource_type, resource_id, permission_level, granted_at, granted_by) on public.user_permissions to authenticated;
drop policy if exists user_permissions_read on public.user_permissions;
create policy user_permissions_read on public.user_permissions for select to authenticated
using (user_id = (select auth.uid()));


insert into mirror.mappings (name, model, position, digest, is_parent, declaration)
values ('user_permissions', 'grants', 1, '01a2a2c0f041e838', false, '{
  "name": "user_permissions",
  "table": [
    "public",
    "user_permissions"
  ],
  "key": [
    "user_id",
    "resource_type",
    "resource_id"
  ],
  "columns": [
    [
      "user_id",
      "uuid"
    ],
    [
      "resource_type",
      "text"
    ],
    [
      "resource_id",
      "uuid"
    ],
    [
      "permission_level",
      "text"
    ],
    [
      "granted_at",
      "timestamptz"
    ],
    [
      "granted_by",
      "uuid"
    ]
  ],
  "references": [
    [
      "user_id",
      "uuid"
    ],
    [
      "resource_id",
      "uuid"
    ],
    [
      "workspace_id",
      "uuid"
    ]
  ],
  "parents": [],
  "children": [],
  "active": {},
  "on_delete": "delete",
  "query": "SELECT DISTINCT ON (source.user_id, source.resource_type, source.resource_id, source.workspace_id) source.user_id, source.resource_type, source.resource_id, source.permission_level, source.granted_at, source.granted_by, source.workspace_id FROM (SELECT company_members.user_id AS user_id, ''company'' AS resource_type, company_members.company_id AS resource_id, CASE company_members.role WHEN ''owner'' THEN ''admin'' WHEN ''admin'' THEN ''write'' WHEN ''editor'' THEN ''write'' WHEN ''member'' THEN ''read'' WHEN ''viewer'' THEN ''read'' END AS permission_level, company_members.granted_at AS granted_at, company_members.granted_by AS granted_by, CAST(NULL AS UUID) AS workspace_id FROM company_members UNION ALL SELECT workspace_members.user_id AS user_id, ''workspace'' AS resource_type, workspace_members.workspace_id AS resource_id, CASE workspace_members.role WHEN ''owner'' THEN ''admin'' WHEN ''admin'' THEN ''write'' WHEN ''editor'' THEN ''write'' WHEN ''member'' THEN ''read'' WHEN ''viewer'' THEN ''read'' END AS permission_level, workspace_members.granted_at AS granted_at, workspace_members.granted_by AS granted_by, workspace_members.workspace_id AS workspace_id FROM workspace_members UNION ALL SELECT company_members.user_id AS user_id, ''workspace'' AS resource_type, workspaces.id AS resource_id, CASE company_members.role WHEN ''owner'' THEN ''admin'' WHEN ''admin'' THEN ''write'' WHEN ''editor'' THEN ''write'' WHEN ''member'' THEN ''read'' WHEN ''viewer'' THEN ''read'' END AS permission_level, company_members.granted_at AS granted_at, company_members.granted_by AS granted_by, workspaces.id AS workspace_id FROM company_members JOIN workspaces ON workspaces.company_id = company_members.company_id WHERE company_members.role = ''owner'' UNION ALL SELECT table_view_grants.user_id AS user_id, ''table_view'' AS resource_type, table_view_grants.table_view_id AS resource_id, table_view_grants.permission AS permission_level, table_view_grants.granted_at AS granted_at, table_view_grants.granted_by AS granted_by, table_views.workspace_id AS workspace_id FROM table_view_grants JOIN table_views ON table_views.id = table_view_grants.table_view_id UNION ALL SELECT workspace_members.user_id AS user_id, ''table_view'' AS resource_type, table_views.id AS resource_id, CASE workspace_members.role WHEN ''owner'' THEN ''admin'' WHEN ''admin'' THEN ''write'' WHEN ''editor'' THEN ''write'' WHEN ''member'' THEN ''read'' WHEN ''viewer'' THEN ''read'' END AS permission_level, workspace_members.granted_at AS granted_at, workspace_members.granted_by AS granted_by, table_views.workspace_id AS workspace_id FROM workspace_members JOIN table_views ON table_views.workspace_id = workspace_members.workspace_id UNION ALL SELECT company_members.user_id AS user_id, ''table_view'' AS resource_type, table_views.id AS resource_id, CASE company_members.role WHEN ''owner'' THEN ''admin'' WHEN ''admin'' THEN ''write'' WHEN ''editor'' THEN ''write'' WHEN ''member'' THEN ''read'' WHEN ''viewer'' THEN ''read'' END AS permission_level, company_members.granted_at AS granted_at, company_members.granted_by AS granted_by, table_views.workspace_id AS workspace_id FROM company_members JOIN workspaces ON workspaces.company_id = company_members.company_id JOIN table_views ON table_views.workspace_id = workspaces.id WHERE company_members.role = ''owner'') AS source WHERE source.permission_level IN (''admin'', ''read'', ''write'') ORDER BY source.user_id, source.resource_type, source.resource_id, source.workspace_id, CASE source.permission_level WHEN ''read'' THEN 0 WHEN ''write'' THEN 1 WHEN ''admin'' THEN 2 END DESC, source.granted_at NULLS LAST, source.granted_by NULLS LAST"
}')
on conflict (name) do update
set model = excluded.model, position = excluded.position, digest = excluded.digest,
  is_parent = excluded.is_parent, declaration = excluded.declaration;
