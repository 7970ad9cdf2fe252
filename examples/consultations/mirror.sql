-- The permission model consultations: tables, row-level security, and the functions that write them.
--
-- Printed from the mapping declarations; change those, not this file. Every statement can run
-- again. A table that already exists with another shape or owner is refused; to one of this model,
-- new columns are added, and nothing else is altered.


-- Workers stand aside meanwhile: a batch in flight and these statements could deadlock.
select pg_advisory_xact_lock(1835627122, 1);


select mirror.check_table('consultations', 'public.consultations',
  '{"model": "consultations", "table": ["public", "consultations"], "columns": {"id": "uuid", "clientId": "uuid", "lawyerId": "uuid"}, "key": ["id"], "parents": {}, "policy": "consultations_read"}'
);


create table if not exists public.consultations (
  id uuid not null,
  "clientId" uuid,
  "lawyerId" uuid,
  primary key (id)
);
select mirror.add_column('public.consultations', 'clientId', 'uuid');
select mirror.add_column('public.consultations', 'lawyerId', 'uuid');


-- consultations: what was last written for each key, and how fresh the read was.
create table if not exists mirror.ledger_consultations (
  id uuid not null,
  epoch integer not null,
  fence bigint not null,
  present boolean not null,
  applied_at timestamptz not null,
  primary key (id)
);
revoke all on mirror.ledger_consultations from public, anon, authenticated, service_role;

-- Purging looks at tombstones alone.
create unique index if not exists ledger_consultations_tombstones
on mirror.ledger_consultations (id) where not present;


-- Rows of a table that is taken over: the next resync judges them.
insert into mirror.ledger_consultations (id, epoch, fence, present, applied_at)
select id, 0, 0, true, now()
from public.consultations
where not exists (
  select from mirror.mappings
  where name = 'consultations' and declaration -> 'table' = '["public", "consultations"]'
)
on conflict (id) do nothing;


create or replace function mirror.withdraw_consultations(
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
    delete from public.consultations as t
      using unnest(p_id) as g (id)
      where t.id = g.id;
  exception when foreign_key_violation or restrict_violation then
    for i in 1 .. cardinality(p_id) loop
      begin
        delete from public.consultations as t where t.id = p_id[i];
      exception when foreign_key_violation or restrict_violation then
        update public.consultations as t set "clientId" = null, "lawyerId" = null where t.id = p_id[i];
        held := held || jsonb_build_array(jsonb_build_array(p_id[i]::text));
      end;
    end loop;
    retained := retained || jsonb_build_object('consultations', held);
  end;
  return retained;
end
$$;


create or replace function mirror.scope_consultations(
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
          select l.id from mirror.ledger_consultations as l
          where l.present
          order by l.id limit p_limit
        ) as f
      );
    end if;
    return (
      select coalesce(jsonb_agg(jsonb_build_array(f.id::text) order by f.id), '[]')
      from (
        select l.id from mirror.ledger_consultations as l
        where l.present
          and (l.id) > (p_after[1]::uuid)
        order by l.id limit p_limit
      ) as f
    );
  end if;
  raise exception 'mapping consultations has no reference %', p_reference using errcode = 'MR001';
end
$$;


create or replace function mirror.apply_consultations(
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
      (r ->> 1)::uuid as "clientId",
      (r ->> 2)::uuid as "lawyerId",
      true as present
    from jsonb_array_elements(p_rows) as r
    union all
    select (g ->> 0)::uuid, null::uuid, null::uuid, false
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
          where s.mapping = 'consultations' and s.reference = '*'
            and s.value = '' and s.epoch = p_epoch
        ) end
      ) as newest
    from incoming as i
    -- LIMIT keeps this a look-up for each key: a plan from when the table was small would read all
    -- of it for every batch of a first load.
    left join lateral (
      select * from mirror.ledger_consultations as s where s.id = i.id limit 1
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
    insert into mirror.ledger_consultations as l (id, epoch, fence, present, applied_at)
    select j.id, p_epoch, p_fence, j.present, now()
    from judged as j
    where not j.stale and not j.orphan
    order by j.id
    on conflict (id) where not present do update
    set epoch = excluded.epoch, fence = excluded.fence,
      present = excluded.present, applied_at = excluded.applied_at
    where (l.epoch, l.fence) <= (excluded.epoch, excluded.fence)
    returning l.id, l.present
  ),
  -- Touch the visible row only where it changes: no WAL and no Realtime message for nothing.
  written as (
    insert into public.consultations as t (id, "clientId", "lawyerId")
    select j.id, j."clientId", j."lawyerId"
    from judged as j
    join admitted as a on a.id = j.id
    where a.present
    on conflict (id) do update set
      "clientId" = excluded."clientId",
      "lawyerId" = excluded."lawyerId"
    where (t."clientId", t."lawyerId")
      is distinct from (excluded."clientId", excluded."lawyerId")
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
    answer := answer || jsonb_build_object('retained', mirror.withdraw_consultations(
      p_epoch, p_fence, gone_id
    ));
  end if;
  return answer;
end
$$;


revoke all on function
  mirror.apply_consultations(integer, bigint, jsonb, jsonb),
  mirror.scope_consultations(text, text[], text[], integer),
  mirror.withdraw_consultations(integer, bigint, uuid[])
from public, anon, authenticated, service_role;


create or replace function mirror.digest_consultations(
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
      select array[s.id::text] from public.consultations as s
      where (s.id) >= (p_from[1]::uuid)
      order by s.id offset p_limit limit 1
    );
  else
    limit_key := (
      select array[s.id::text] from public.consultations as s
      where (s.id) >= (p_from[1]::uuid)
        and (s.id) < (wanted_until[1]::uuid)
      order by s.id offset p_limit limit 1
    );
  end if;
  wanted_until := coalesce(limit_key, wanted_until);
  if wanted_until is null then
    limit_key := (
      select array[s.id::text] from mirror.ledger_consultations as s
      where (s.id) >= (p_from[1]::uuid)
      order by s.id offset p_limit limit 1
    );
  else
    limit_key := (
      select array[s.id::text] from mirror.ledger_consultations as s
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
        select coalesce(t.id, l.id)::text as k0, row(t.id::text collate "C", t."clientId"::text collate "C", t."lawyerId"::text collate "C") as r,
          t.id is not null and not (t."clientId" is null and t."lawyerId" is null and l.present is false) as there,
          case when t.id is null then l.present
            else l.present is not true and not (t."clientId" is null and t."lawyerId" is null and l.present is false) end as stray
        from (
          select t.* from public.consultations as t
          where (t.id) >= (p_from[1]::uuid)
        ) as t
        full join (
          select l.* from mirror.ledger_consultations as l
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
        select coalesce(t.id, l.id)::text as k0, row(t.id::text collate "C", t."clientId"::text collate "C", t."lawyerId"::text collate "C") as r,
          t.id is not null and not (t."clientId" is null and t."lawyerId" is null and l.present is false) as there,
          case when t.id is null then l.present
            else l.present is not true and not (t."clientId" is null and t."lawyerId" is null and l.present is false) end as stray
        from (
          select t.* from public.consultations as t
          where (t.id) >= (p_from[1]::uuid)
          and (t.id) < (wanted_until[1]::uuid)
        ) as t
        full join (
          select l.* from mirror.ledger_consultations as l
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


create or replace function mirror.survey_consultations(
  p_seed bigint, p_md5 boolean, p_bits integer, p_wanted bytea, p_each boolean, p_part integer,
  p_parts integer
) returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  answer jsonb;
  low constant bigint := (1::bigint << p_bits) - 1;
  wanted_low constant bigint := 8 * length(p_wanted) - 1;
  seen constant tid[] := mirror.part_of('public.consultations', p_part, p_parts);
  known constant tid[] := mirror.part_of('mirror.ledger_consultations', p_part, p_parts);
begin
  if p_each then
    select coalesce(jsonb_agg(jsonb_build_array(f.k0, f.hash::text)), '[]')
    into answer
    from (
      select k.k0::text, bit_xor(k.hash) as hash
      from (
        select k.k0, case when p_md5 then ('x' || left(md5(p_seed::text || row(k.key_hash, k.c0, k.c1)::text), 16))::bit(64)::bigint else hash_record_extended(row(k.key_hash, k.c0, k.c1), p_seed) end as hash
        from (
          select t.id as k0, t."clientId"::text collate "C" as c0, t."lawyerId"::text collate "C" as c1,
            case when p_md5 then ('x' || left(md5(p_seed::text || row(t.id)::text), 16))::bit(64)::bigint else hash_record_extended(row(t.id), p_seed) end as key_hash
          from public.consultations as t
          where t.ctid >= seen[1] and t.ctid < seen[2]
            and not (t."clientId" is null and t."lawyerId" is null and (select l.present is false from mirror.ledger_consultations as l where l.id = t.id) is true)
          -- So that a hash is taken once, not wherever it is named.
          offset 0
        ) as k
        where p_wanted is null or get_bit(p_wanted, k.key_hash & wanted_low) = 1
        union all
        select k.k0, k.key_hash
        from (
          select l.id as k0,
            case when p_md5 then ('x' || left(md5(p_seed::text || row(l.id)::text), 16))::bit(64)::bigint else hash_record_extended(row(l.id), p_seed) end as key_hash
          from mirror.ledger_consultations as l
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
          select t.id as k0, t."clientId"::text collate "C" as c0, t."lawyerId"::text collate "C" as c1,
            case when p_md5 then ('x' || left(md5(p_seed::text || row(t.id)::text), 16))::bit(64)::bigint else hash_record_extended(row(t.id), p_seed) end as key_hash
          from public.consultations as t
          where t.ctid >= seen[1] and t.ctid < seen[2]
            and not (t."clientId" is null and t."lawyerId" is null and (select l.present is false from mirror.ledger_consultations as l where l.id = t.id) is true)
          -- So that a hash is taken once, not wherever it is named.
          offset 0
        ) as k
        where p_wanted is null or get_bit(p_wanted, k.key_hash & wanted_low) = 1
        union all
        select (k.key_hash & low)::integer, null, k.key_hash
        from (
          select l.id as k0,
            case when p_md5 then ('x' || left(md5(p_seed::text || row(l.id)::text), 16))::bit(64)::bigint else hash_record_extended(row(l.id), p_seed) end as key_hash
          from mirror.ledger_consultations as l
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
revoke all on function mirror.survey_consultations(bigint, boolean, integer, bytea, boolean, integer, integer)
from public, anon, authenticated, service_role;


create or replace function mirror.rows_consultations(p_keys jsonb)
returns jsonb
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select coalesce(jsonb_agg(jsonb_build_object(
    'key', jsonb_build_array(a.k0::text),
    'row', case when t.id is not null and not (t."clientId" is null and t."lawyerId" is null and l.present is false) then
      jsonb_build_array(t.id::text, t."clientId"::text, t."lawyerId"::text)
    end,
    'present', l.present,
    'epoch', l.epoch,
    'fence', l.fence,
    -- A row that was written after its ledger's was written by somebody else.
    'edited', coalesce(age(t.xmin) < age(l.xmin), false),
    'expired', coalesce(false, false),
    'outdated', coalesce(l.applied_at < (
      select g.applied_at from mirror.migrations as g where g.name = 'model_consultations'
    ), false)
  )), '[]')
  from (select (k ->> 0)::uuid as k0 from jsonb_array_elements(p_keys) as k) as a
  left join public.consultations as t on t.id = a.k0
  left join mirror.ledger_consultations as l on l.id = a.k0
$$;


revoke all on function
  mirror.digest_consultations(
    text[], text[], bigint, boolean, integer, boolean
  ),
  mirror.rows_consultations(jsonb)
from public, anon, authenticated, service_role;


-- Who belongs to what is looked up by user.
select mirror.add_index('public.consultations', 'clientId');
select mirror.add_index('public.consultations', 'lawyerId');


-- What includes this one; null, which is nobody's, for any other name. Asked for in a subquery:
-- once, not for each row.
create or replace function mirror.consultation_roles(min_role text) returns text[]
language sql immutable set search_path = pg_catalog, pg_temp
as $$
  select case $1
    when 'CLIENT' then array['CLIENT', 'LAWYER']
    when 'LAWYER' then array['LAWYER']
  end
$$;


-- The consultations in which the caller is active with at least this role. For policies, as
-- `id = any((select mirror.my_consultations('CLIENT'))::uuid[])`: once per statement.
create or replace function mirror.my_consultations(min_role text) returns uuid[]
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
  select coalesce(array_agg(s.id), '{}')
  from (
    select m.id
    from public.consultations as m
    where m."clientId" = (select auth.uid())
      and exists (select from mirror.mappings as d where d.name = 'consultations')
      and 'CLIENT' = any((select mirror.consultation_roles($1))::text[])
    union all
    select m.id
    from public.consultations as m
    where m."lawyerId" = (select auth.uid())
      and exists (select from mirror.mappings as d where d.name = 'consultations')
      and 'LAWYER' = any((select mirror.consultation_roles($1))::text[])
  ) as s (id)
$$;


-- Everybody who shares a consultation with the caller, the caller included.
create or replace function mirror.my_consultation_companions() returns uuid[]
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
  select array_append(array_agg(distinct s.id), (select auth.uid()))
  from (
    select m."clientId"
    from public.consultations as m
    where m.id = any((select mirror.my_consultations('CLIENT'))::uuid[])
      and exists (select from mirror.mappings as d where d.name = 'consultations')
    union all
    select m."lawyerId"
    from public.consultations as m
    where m.id = any((select mirror.my_consultations('CLIENT'))::uuid[])
      and exists (select from mirror.mappings as d where d.name = 'consultations')
  ) as s (id)
$$;


-- By number: a column of the table that is called like a parameter would win over it.
create or replace function mirror.has_consultation_role(resource uuid, min_role text) returns boolean
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
  select exists (
    select from public.consultations as m
    where m.id = $1
      and m."clientId" = (select auth.uid())
      and exists (select from mirror.mappings as d where d.name = 'consultations')
      and 'CLIENT' = any((select mirror.consultation_roles($2))::text[])
    union all
    select from public.consultations as m
    where m.id = $1
      and m."lawyerId" = (select auth.uid())
      and exists (select from mirror.mappings as d where d.name = 'consultations')
      and 'LAWYER' = any((select mirror.consultation_roles($2))::text[])
  )
$$;


create or replace function mirror.is_consultation_member(resource uuid) returns boolean
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$ select mirror.has_consultation_role($1, 'CLIENT') $$;


revoke all on function
  mirror.consultation_roles(text),
  mirror.my_consultations(text),
  mirror.my_consultation_companions(),
  mirror.has_consultation_role(uuid, text),
  mirror.is_consultation_member(uuid)
from public, anon, authenticated, service_role;

grant execute on function
  mirror.my_consultations(text),
  mirror.my_consultation_companions(),
  mirror.has_consultation_role(uuid, text),
  mirror.is_consultation_member(uuid)
to authenticated;


-- Whether somebody belongs to a consultation in any way; for telling what a row that goes means.
create or replace function mirror.belongs_to_consultation(resource uuid, person uuid) returns boolean
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
  select exists (
    select from public.consultations as m
    where m.id = $1
      and m."clientId" = $2
      and exists (select from mirror.mappings as d where d.name = 'consultations')
    union all
    select from public.consultations as m
    where m.id = $1
      and m."lawyerId" = $2
      and exists (select from mirror.mappings as d where d.name = 'consultations')
  )
$$;
revoke all on function mirror.belongs_to_consultation(uuid, uuid)
from public, anon, authenticated, service_role;


-- What an earlier version of this model declared is mirrored no more, so its rows must not grant
-- for ever. The table and its rows stay, for whoever wants to look; other models are left alone.
do $$
declare
  kept constant jsonb[] := array[
    '["public", "consultations"]'
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
    where m.model = 'consultations'
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
    raise notice 'nobody may read % any more: model consultations no longer has it', old.name;
  end loop;
  delete from mirror.mappings
  where model = 'consultations' and name <> all (array['consultations']::text[]);
end
$$;


-- consultations: the API's roles write nothing and read only what is granted here.
alter table public.consultations enable row level security;
revoke all on public.consultations from public, anon, authenticated, service_role;
grant select on public.consultations to service_role;
grant select (id, "clientId", "lawyerId") on public.consultations to authenticated;
drop policy if exists consultations_read on public.consultations;
create policy consultations_read on public.consultations for select to authenticated
using (id = any((select mirror.my_consultations('CLIENT'))::uuid[]));


insert into mirror.mappings (name, model, position, digest, is_parent, declaration)
values ('consultations', 'consultations', 1, 'd02428eced12b344', false,  E'{
  "name": "consultations",
  "table": [
    "public",
    "consultations"
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
      "clientId",
      "uuid"
    ],
    [
      "lawyerId",
      "uuid"
    ]
  ],
  "references": [],
  "parents": [],
  "children": [],
  "active": {},
  "on_delete": "delete",
  "query": "SELECT consultations.id, consultations.\\"clientId\\", consultations.\\"lawyerId\\" FROM consultations WHERE consultations.\\"deletedAt\\" IS NULL"
}')
on conflict (name) do update
set model = excluded.model, position = excluded.position, digest = excluded.digest,
  is_parent = excluded.is_parent, declaration = excluded.declaration;
