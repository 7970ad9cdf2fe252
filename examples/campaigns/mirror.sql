-- The permission model campaigns: tables, row-level security, and the functions that write them.
--
-- Printed from the mapping declarations; change those, not this file. Every statement can run
-- again. A table that already exists with another shape or owner is refused; to one of this model,
-- new columns are added, and nothing else is altered.


-- Workers stand aside meanwhile: a batch in flight and these statements could deadlock.
select pg_advisory_xact_lock(1835627122, 1);


select mirror.check_table('characters', 'public.characters',
  '{"model": "campaigns", "table": ["public", "characters"], "columns": {"id": "bigint", "owner_id": "uuid", "name": "text"}, "key": ["id"], "parents": {}, "policy": "characters_read"}'
);
select mirror.check_table('campaigns', 'public.campaigns',
  '{"model": "campaigns", "table": ["public", "campaigns"], "columns": {"id": "bigint", "dm_id": "uuid", "name": "text"}, "key": ["id"], "parents": {}, "policy": "campaigns_read"}'
);
select mirror.check_table('sources', 'public.sources',
  '{"model": "campaigns", "table": ["public", "sources"], "columns": {"id": "bigint", "owner_id": "uuid", "is_private": "boolean", "campaign_id": "bigint"}, "key": ["id"], "parents": {}, "policy": "sources_read"}'
);
select mirror.check_table('campaign_members', 'public.campaign_members',
  '{"model": "campaigns", "table": ["public", "campaign_members"], "columns": {"campaign_id": "bigint", "user_id": "uuid", "role": "text", "expires_at": "timestamptz"}, "key": ["campaign_id", "user_id"], "parents": {"campaign_id": "public.campaigns"}, "policy": "campaign_members_read"}'
);
select mirror.check_table('campaign_characters', 'public.campaign_characters',
  '{"model": "campaigns", "table": ["public", "campaign_characters"], "columns": {"campaign_id": "bigint", "character_id": "bigint", "owner_id": "uuid", "dm_id": "uuid"}, "key": ["campaign_id", "character_id"], "parents": {"campaign_id": "public.campaigns", "character_id": "public.characters"}, "policy": "campaign_characters_read"}'
);


create table if not exists public.characters (
  id bigint not null,
  owner_id uuid,
  name text,
  primary key (id)
);
select mirror.add_column('public.characters', 'owner_id', 'uuid');
select mirror.add_column('public.characters', 'name', 'text');


-- characters: what was last written for each key, and how fresh the read was.
create table if not exists mirror.ledger_characters (
  id bigint not null,
  epoch integer not null,
  fence bigint not null,
  present boolean not null,
  applied_at timestamptz not null,
  primary key (id)
);
revoke all on mirror.ledger_characters from public, anon, authenticated, service_role;

-- Purging looks at tombstones alone.
create unique index if not exists ledger_characters_tombstones
on mirror.ledger_characters (id) where not present;


-- Rows of a table that is taken over: the next resync judges them.
insert into mirror.ledger_characters (id, epoch, fence, present, applied_at)
select id, 0, 0, true, now()
from public.characters
where not exists (
  select from mirror.mappings
  where name = 'characters' and declaration -> 'table' = '["public", "characters"]'
)
on conflict (id) do nothing;


create table if not exists public.campaigns (
  id bigint not null,
  dm_id uuid,
  name text,
  primary key (id)
);
select mirror.add_column('public.campaigns', 'dm_id', 'uuid');
select mirror.add_column('public.campaigns', 'name', 'text');


-- campaigns: what was last written for each key, and how fresh the read was.
create table if not exists mirror.ledger_campaigns (
  id bigint not null,
  epoch integer not null,
  fence bigint not null,
  present boolean not null,
  applied_at timestamptz not null,
  primary key (id)
);
revoke all on mirror.ledger_campaigns from public, anon, authenticated, service_role;

-- Purging looks at tombstones alone.
create unique index if not exists ledger_campaigns_tombstones
on mirror.ledger_campaigns (id) where not present;


-- Rows of a table that is taken over: the next resync judges them.
insert into mirror.ledger_campaigns (id, epoch, fence, present, applied_at)
select id, 0, 0, true, now()
from public.campaigns
where not exists (
  select from mirror.mappings
  where name = 'campaigns' and declaration -> 'table' = '["public", "campaigns"]'
)
on conflict (id) do nothing;


create table if not exists public.sources (
  id bigint not null,
  owner_id uuid,
  is_private boolean,
  campaign_id bigint,
  primary key (id)
);
select mirror.add_column('public.sources', 'owner_id', 'uuid');
select mirror.add_column('public.sources', 'is_private', 'boolean');
select mirror.add_column('public.sources', 'campaign_id', 'bigint');


-- sources: what was last written for each key, and how fresh the read was.
create table if not exists mirror.ledger_sources (
  id bigint not null,
  epoch integer not null,
  fence bigint not null,
  present boolean not null,
  applied_at timestamptz not null,
  primary key (id)
);
revoke all on mirror.ledger_sources from public, anon, authenticated, service_role;

-- Purging looks at tombstones alone.
create unique index if not exists ledger_sources_tombstones
on mirror.ledger_sources (id) where not present;


-- Rows of a table that is taken over: the next resync judges them.
insert into mirror.ledger_sources (id, epoch, fence, present, applied_at)
select id, 0, 0, true, now()
from public.sources
where not exists (
  select from mirror.mappings
  where name = 'sources' and declaration -> 'table' = '["public", "sources"]'
)
on conflict (id) do nothing;


create table if not exists public.campaign_members (
  campaign_id bigint not null,
  user_id uuid not null,
  role text,
  expires_at timestamptz,
  primary key (campaign_id, user_id),
  foreign key (campaign_id) references public.campaigns (id) on delete cascade
);
select mirror.add_column('public.campaign_members', 'role', 'text');
select mirror.add_column('public.campaign_members', 'expires_at', 'timestamptz');


-- campaign_members: what was last written for each key, and how fresh the read was.
create table if not exists mirror.ledger_campaign_members (
  campaign_id bigint not null,
  user_id uuid not null,
  epoch integer not null,
  fence bigint not null,
  present boolean not null,
  applied_at timestamptz not null,
  primary key (campaign_id, user_id)
);
revoke all on mirror.ledger_campaign_members from public, anon, authenticated, service_role;

-- Purging looks at tombstones alone.
create unique index if not exists ledger_campaign_members_tombstones
on mirror.ledger_campaign_members (campaign_id, user_id) where not present;


-- Rows of a table that is taken over: the next resync judges them.
insert into mirror.ledger_campaign_members (campaign_id, user_id, epoch, fence, present, applied_at)
select campaign_id, user_id, 0, 0, true, now()
from public.campaign_members
where not exists (
  select from mirror.mappings
  where name = 'campaign_members' and declaration -> 'table' = '["public", "campaign_members"]'
)
on conflict (campaign_id, user_id) do nothing;


create table if not exists public.campaign_characters (
  campaign_id bigint not null,
  character_id bigint not null,
  owner_id uuid,
  dm_id uuid,
  primary key (campaign_id, character_id),
  foreign key (campaign_id) references public.campaigns (id) on delete cascade,
  foreign key (character_id) references public.characters (id) on delete cascade
);
select mirror.add_column('public.campaign_characters', 'owner_id', 'uuid');
select mirror.add_column('public.campaign_characters', 'dm_id', 'uuid');


create unique index if not exists campaign_characters_character_id
on public.campaign_characters (character_id, campaign_id);


-- campaign_characters: what was last written for each key, and how fresh the read was.
create table if not exists mirror.ledger_campaign_characters (
  campaign_id bigint not null,
  character_id bigint not null,
  epoch integer not null,
  fence bigint not null,
  present boolean not null,
  applied_at timestamptz not null,
  primary key (campaign_id, character_id),
  constraint ledger_campaign_characters_by_character_id
    unique (character_id, campaign_id)
);
select mirror.add_constraint('mirror.ledger_campaign_characters', 'ledger_campaign_characters_by_character_id',
  'unique (character_id, campaign_id)'
);
revoke all on mirror.ledger_campaign_characters from public, anon, authenticated, service_role;

-- Purging looks at tombstones alone.
create unique index if not exists ledger_campaign_characters_tombstones
on mirror.ledger_campaign_characters (campaign_id, character_id) where not present;


-- Rows of a table that is taken over: the next resync judges them.
insert into mirror.ledger_campaign_characters (campaign_id, character_id, epoch, fence, present, applied_at)
select campaign_id, character_id, 0, 0, true, now()
from public.campaign_characters
where not exists (
  select from mirror.mappings
  where name = 'campaign_characters' and declaration -> 'table' = '["public", "campaign_characters"]'
)
on conflict (campaign_id, character_id) do nothing;


create or replace function mirror.withdraw_campaign_characters(
  p_epoch integer, p_fence bigint, p_campaign_id bigint[], p_character_id bigint[]
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
    delete from public.campaign_characters as t
      using unnest(p_campaign_id, p_character_id) as g (campaign_id, character_id)
      where t.campaign_id = g.campaign_id and t.character_id = g.character_id;
  exception when foreign_key_violation or restrict_violation then
    for i in 1 .. cardinality(p_campaign_id) loop
      begin
        delete from public.campaign_characters as t where t.campaign_id = p_campaign_id[i] and t.character_id = p_character_id[i];
      exception when foreign_key_violation or restrict_violation then
        update public.campaign_characters as t set owner_id = null, dm_id = null where t.campaign_id = p_campaign_id[i] and t.character_id = p_character_id[i];
        held := held || jsonb_build_array(jsonb_build_array(p_campaign_id[i]::text, p_character_id[i]::text));
      end;
    end loop;
    retained := retained || jsonb_build_object('campaign_characters', held);
  end;
  return retained;
end
$$;


create or replace function mirror.scope_campaign_characters(
  p_reference text, p_values text[], p_after text[], p_limit integer
) returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
  if p_reference = '*' then
    if cardinality(p_after) = 0 then
      return (
        select coalesce(jsonb_agg(jsonb_build_array(f.campaign_id::text, f.character_id::text) order by f.campaign_id, f.character_id), '[]')
        from (
          select l.campaign_id, l.character_id from mirror.ledger_campaign_characters as l
          where l.present
          order by l.campaign_id, l.character_id limit p_limit
        ) as f
      );
    end if;
    return (
      select coalesce(jsonb_agg(jsonb_build_array(f.campaign_id::text, f.character_id::text) order by f.campaign_id, f.character_id), '[]')
      from (
        select l.campaign_id, l.character_id from mirror.ledger_campaign_characters as l
        where l.present
          and (l.campaign_id, l.character_id) > (p_after[1]::bigint, p_after[2]::bigint)
        order by l.campaign_id, l.character_id limit p_limit
      ) as f
    );
  end if;
  if p_reference = 'character_id' then
    if cardinality(p_after) = 0 then
      return (
        select coalesce(jsonb_agg(jsonb_build_array(f.campaign_id::text, f.character_id::text) order by f.campaign_id, f.character_id), '[]')
        from (
          select l.campaign_id, l.character_id from mirror.ledger_campaign_characters as l
          where l.present
            and l.character_id = any(p_values::bigint[])
          order by l.campaign_id, l.character_id limit p_limit
        ) as f
      );
    end if;
    return (
      select coalesce(jsonb_agg(jsonb_build_array(f.campaign_id::text, f.character_id::text) order by f.campaign_id, f.character_id), '[]')
      from (
        select l.campaign_id, l.character_id from mirror.ledger_campaign_characters as l
        where l.present
          and l.character_id = any(p_values::bigint[])
          and (l.campaign_id, l.character_id) > (p_after[1]::bigint, p_after[2]::bigint)
        order by l.campaign_id, l.character_id limit p_limit
      ) as f
    );
  end if;
  if p_reference = 'campaign_id' then
    if cardinality(p_after) = 0 then
      return (
        select coalesce(jsonb_agg(jsonb_build_array(f.campaign_id::text, f.character_id::text) order by f.campaign_id, f.character_id), '[]')
        from (
          select l.campaign_id, l.character_id from mirror.ledger_campaign_characters as l
          where l.present
            and l.campaign_id = any(p_values::bigint[])
          order by l.campaign_id, l.character_id limit p_limit
        ) as f
      );
    end if;
    return (
      select coalesce(jsonb_agg(jsonb_build_array(f.campaign_id::text, f.character_id::text) order by f.campaign_id, f.character_id), '[]')
      from (
        select l.campaign_id, l.character_id from mirror.ledger_campaign_characters as l
        where l.present
          and l.campaign_id = any(p_values::bigint[])
          and (l.campaign_id, l.character_id) > (p_after[1]::bigint, p_after[2]::bigint)
        order by l.campaign_id, l.character_id limit p_limit
      ) as f
    );
  end if;
  raise exception 'mapping campaign_characters has no reference %', p_reference using errcode = 'MR001';
end
$$;


create or replace function mirror.apply_campaign_characters(
  p_epoch integer, p_fence bigint, p_rows jsonb, p_gone jsonb
) returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  answer jsonb;
  gone_campaign_id bigint[];
  gone_character_id bigint[];
begin
  with incoming as materialized (
    select
      (r ->> 0)::bigint as campaign_id,
      (r ->> 1)::bigint as character_id,
      (r ->> 2)::uuid as owner_id,
      (r ->> 3)::uuid as dm_id,
      true as present
    from jsonb_array_elements(p_rows) as r
    union all
    select (g ->> 0)::bigint, (g ->> 1)::bigint, null::uuid, null::uuid, false
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
          where s.mapping = 'campaign_characters' and s.reference = '*'
            and s.value = '' and s.epoch = p_epoch
        ) end,
        case when i.present then (
          select s.fence from mirror.scopes as s
          where s.mapping = 'campaign_characters' and s.reference = 'character_id'
            and s.value = i.character_id::text and s.epoch = p_epoch
        ) end,
        case when i.present then (
          select s.fence from mirror.scopes as s
          where s.mapping = 'campaign_characters' and s.reference = 'campaign_id'
            and s.value = i.campaign_id::text and s.epoch = p_epoch
        ) end
      ) as newest
    from incoming as i
    -- LIMIT keeps this a look-up for each key: a plan from when the table was small would read all
    -- of it for every batch of a first load.
    left join lateral (
      select * from mirror.ledger_campaign_characters as s where s.campaign_id = i.campaign_id and s.character_id = i.character_id limit 1
    ) as l on true
  ),
  judged as materialized (
    select k.*,
      coalesce(k.newest > p_fence, false) as stale,
      k.present and not coalesce(k.newest > p_fence, false) and (
        (k.campaign_id is not null and (
          select true from mirror.ledger_campaigns as p
          join public.campaigns as t using (id)
          where p.id = k.campaign_id and p.present
        ) is null) or (k.character_id is not null and (
          select true from mirror.ledger_characters as p
          join public.characters as t using (id)
          where p.id = k.character_id and p.present
        ) is null)
      ) as orphan
    from known as k
  ),
  -- Always advance the ledger, also where the row stays as it is or was never there: a write
  -- that still hangs somewhere must find that it is older. Sorted, so that two never deadlock.
  -- The conflict's WHERE takes in the tombstones' index beside the primary key.
  admitted as (
    insert into mirror.ledger_campaign_characters as l (campaign_id, character_id, epoch, fence, present, applied_at)
    select j.campaign_id, j.character_id, p_epoch, p_fence, j.present, now()
    from judged as j
    where not j.stale and not j.orphan
    order by j.campaign_id, j.character_id
    on conflict (campaign_id, character_id) where not present do update
    set epoch = excluded.epoch, fence = excluded.fence,
      present = excluded.present, applied_at = excluded.applied_at
    where (l.epoch, l.fence) <= (excluded.epoch, excluded.fence)
    returning l.campaign_id, l.character_id, l.present
  ),
  -- Touch the visible row only where it changes: no WAL and no Realtime message for nothing.
  written as (
    insert into public.campaign_characters as t (campaign_id, character_id, owner_id, dm_id)
    select j.campaign_id, j.character_id, j.owner_id, j.dm_id
    from judged as j
    join admitted as a on a.campaign_id = j.campaign_id and a.character_id = j.character_id
    where a.present
    on conflict (campaign_id, character_id) do update set
      owner_id = excluded.owner_id,
      dm_id = excluded.dm_id
    where (t.owner_id, t.dm_id)
      is distinct from (excluded.owner_id, excluded.dm_id)
  )
  select
    jsonb_build_object(
      'stale', coalesce(jsonb_agg(jsonb_build_array(j.campaign_id::text, j.character_id::text))
        filter (where a.campaign_id is null and not j.orphan), '[]'),
      'ahead', max(j.newest) filter (where j.stale),
      'orphans', coalesce(jsonb_agg(jsonb_build_array(j.campaign_id::text, j.character_id::text)) filter (where j.orphan), '[]')
    ),
    array_agg(j.campaign_id) filter (where not a.present),
    array_agg(j.character_id) filter (where not a.present)
  into answer, gone_campaign_id, gone_character_id
  from judged as j
  left join admitted as a on a.campaign_id = j.campaign_id and a.character_id = j.character_id;

  if gone_campaign_id is not null then
    answer := answer || jsonb_build_object('retained', mirror.withdraw_campaign_characters(
      p_epoch, p_fence, gone_campaign_id, gone_character_id
    ));
  end if;
  return answer;
end
$$;


revoke all on function
  mirror.apply_campaign_characters(integer, bigint, jsonb, jsonb),
  mirror.scope_campaign_characters(text, text[], text[], integer),
  mirror.withdraw_campaign_characters(integer, bigint, bigint[], bigint[])
from public, anon, authenticated, service_role;


create or replace function mirror.digest_campaign_characters(
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
      select array[s.campaign_id::text, s.character_id::text] from public.campaign_characters as s
      where (s.campaign_id, s.character_id) >= (p_from[1]::bigint, p_from[2]::bigint) and s.campaign_id >= p_from[1]::bigint
      order by s.campaign_id, s.character_id offset p_limit limit 1
    );
  else
    limit_key := (
      select array[s.campaign_id::text, s.character_id::text] from public.campaign_characters as s
      where (s.campaign_id, s.character_id) >= (p_from[1]::bigint, p_from[2]::bigint) and s.campaign_id >= p_from[1]::bigint
        and (s.campaign_id, s.character_id) < (wanted_until[1]::bigint, wanted_until[2]::bigint) and s.campaign_id <= wanted_until[1]::bigint
      order by s.campaign_id, s.character_id offset p_limit limit 1
    );
  end if;
  wanted_until := coalesce(limit_key, wanted_until);
  if wanted_until is null then
    limit_key := (
      select array[s.campaign_id::text, s.character_id::text] from mirror.ledger_campaign_characters as s
      where (s.campaign_id, s.character_id) >= (p_from[1]::bigint, p_from[2]::bigint) and s.campaign_id >= p_from[1]::bigint
      order by s.campaign_id, s.character_id offset p_limit limit 1
    );
  else
    limit_key := (
      select array[s.campaign_id::text, s.character_id::text] from mirror.ledger_campaign_characters as s
      where (s.campaign_id, s.character_id) >= (p_from[1]::bigint, p_from[2]::bigint) and s.campaign_id >= p_from[1]::bigint
        and (s.campaign_id, s.character_id) < (wanted_until[1]::bigint, wanted_until[2]::bigint) and s.campaign_id <= wanted_until[1]::bigint
      order by s.campaign_id, s.character_id offset p_limit limit 1
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
        select coalesce(t.campaign_id, l.campaign_id)::text as k0, coalesce(t.character_id, l.character_id)::text as k1, row(t.campaign_id::text collate "C", t.character_id::text collate "C", t.owner_id::text collate "C", t.dm_id::text collate "C") as r,
          t.campaign_id is not null and not (t.owner_id is null and t.dm_id is null and l.present is false) as there,
          case when t.campaign_id is null then l.present
            else l.present is not true and not (t.owner_id is null and t.dm_id is null and l.present is false) end as stray
        from (
          select t.* from public.campaign_characters as t
          where (t.campaign_id, t.character_id) >= (p_from[1]::bigint, p_from[2]::bigint) and t.campaign_id >= p_from[1]::bigint
        ) as t
        full join (
          select l.* from mirror.ledger_campaign_characters as l
          where (l.campaign_id, l.character_id) >= (p_from[1]::bigint, p_from[2]::bigint) and l.campaign_id >= p_from[1]::bigint
        ) as l on t.campaign_id = l.campaign_id and t.character_id = l.character_id
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
        select coalesce(t.campaign_id, l.campaign_id)::text as k0, coalesce(t.character_id, l.character_id)::text as k1, row(t.campaign_id::text collate "C", t.character_id::text collate "C", t.owner_id::text collate "C", t.dm_id::text collate "C") as r,
          t.campaign_id is not null and not (t.owner_id is null and t.dm_id is null and l.present is false) as there,
          case when t.campaign_id is null then l.present
            else l.present is not true and not (t.owner_id is null and t.dm_id is null and l.present is false) end as stray
        from (
          select t.* from public.campaign_characters as t
          where (t.campaign_id, t.character_id) >= (p_from[1]::bigint, p_from[2]::bigint) and t.campaign_id >= p_from[1]::bigint
          and (t.campaign_id, t.character_id) < (wanted_until[1]::bigint, wanted_until[2]::bigint) and t.campaign_id <= wanted_until[1]::bigint
        ) as t
        full join (
          select l.* from mirror.ledger_campaign_characters as l
          where (l.campaign_id, l.character_id) >= (p_from[1]::bigint, p_from[2]::bigint) and l.campaign_id >= p_from[1]::bigint
          and (l.campaign_id, l.character_id) < (wanted_until[1]::bigint, wanted_until[2]::bigint) and l.campaign_id <= wanted_until[1]::bigint
        ) as l on t.campaign_id = l.campaign_id and t.character_id = l.character_id
      ) as h
      where h.there or h.stray
    ) as f;
  end if;
  return answer || jsonb_build_object('until', wanted_until);
end
$$;


create or replace function mirror.survey_campaign_characters(
  p_seed bigint, p_md5 boolean, p_bits integer, p_wanted bytea, p_each boolean, p_part integer,
  p_parts integer
) returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  answer jsonb;
  low constant bigint := (1::bigint << p_bits) - 1;
  wanted_low constant bigint := 8 * length(p_wanted) - 1;
  seen constant tid[] := mirror.part_of('public.campaign_characters', p_part, p_parts);
  known constant tid[] := mirror.part_of('mirror.ledger_campaign_characters', p_part, p_parts);
begin
  if p_each then
    select coalesce(jsonb_agg(jsonb_build_array(f.k0, f.k1, f.hash::text)), '[]')
    into answer
    from (
      select k.k0::text, k.k1::text, bit_xor(k.hash) as hash
      from (
        select k.k0, k.k1, case when p_md5 then ('x' || left(md5(p_seed::text || row(k.key_hash, k.c0, k.c1)::text), 16))::bit(64)::bigint else hash_record_extended(row(k.key_hash, k.c0, k.c1), p_seed) end as hash
        from (
          select t.campaign_id as k0, t.character_id as k1, t.owner_id::text collate "C" as c0, t.dm_id::text collate "C" as c1,
            case when p_md5 then ('x' || left(md5(p_seed::text || row(t.campaign_id, t.character_id)::text), 16))::bit(64)::bigint else hash_record_extended(row(t.campaign_id, t.character_id), p_seed) end as key_hash
          from public.campaign_characters as t
          where t.ctid >= seen[1] and t.ctid < seen[2]
            and not (t.owner_id is null and t.dm_id is null and (select l.present is false from mirror.ledger_campaign_characters as l where l.campaign_id = t.campaign_id and l.character_id = t.character_id) is true)
          -- So that a hash is taken once, not wherever it is named.
          offset 0
        ) as k
        where p_wanted is null or get_bit(p_wanted, k.key_hash & wanted_low) = 1
        union all
        select k.k0, k.k1, k.key_hash
        from (
          select l.campaign_id as k0, l.character_id as k1,
            case when p_md5 then ('x' || left(md5(p_seed::text || row(l.campaign_id, l.character_id)::text), 16))::bit(64)::bigint else hash_record_extended(row(l.campaign_id, l.character_id), p_seed) end as key_hash
          from mirror.ledger_campaign_characters as l
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
          select t.campaign_id as k0, t.character_id as k1, t.owner_id::text collate "C" as c0, t.dm_id::text collate "C" as c1,
            case when p_md5 then ('x' || left(md5(p_seed::text || row(t.campaign_id, t.character_id)::text), 16))::bit(64)::bigint else hash_record_extended(row(t.campaign_id, t.character_id), p_seed) end as key_hash
          from public.campaign_characters as t
          where t.ctid >= seen[1] and t.ctid < seen[2]
            and not (t.owner_id is null and t.dm_id is null and (select l.present is false from mirror.ledger_campaign_characters as l where l.campaign_id = t.campaign_id and l.character_id = t.character_id) is true)
          -- So that a hash is taken once, not wherever it is named.
          offset 0
        ) as k
        where p_wanted is null or get_bit(p_wanted, k.key_hash & wanted_low) = 1
        union all
        select (k.key_hash & low)::integer, null, k.key_hash
        from (
          select l.campaign_id as k0, l.character_id as k1,
            case when p_md5 then ('x' || left(md5(p_seed::text || row(l.campaign_id, l.character_id)::text), 16))::bit(64)::bigint else hash_record_extended(row(l.campaign_id, l.character_id), p_seed) end as key_hash
          from mirror.ledger_campaign_characters as l
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
revoke all on function mirror.survey_campaign_characters(bigint, boolean, integer, bytea, boolean, integer, integer)
from public, anon, authenticated, service_role;


create or replace function mirror.rows_campaign_characters(p_keys jsonb)
returns jsonb
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select coalesce(jsonb_agg(jsonb_build_object(
    'key', jsonb_build_array(a.k0::text, a.k1::text),
    'row', case when t.campaign_id is not null and not (t.owner_id is null and t.dm_id is null and l.present is false) then
      jsonb_build_array(t.campaign_id::text, t.character_id::text, t.owner_id::text, t.dm_id::text)
    end,
    'present', l.present,
    'epoch', l.epoch,
    'fence', l.fence,
    -- A row that was written after its ledger's was written by somebody else.
    'edited', coalesce(age(t.xmin) < age(l.xmin), false),
    'expired', coalesce(false, false),
    'outdated', coalesce(l.applied_at < (
      select g.applied_at from mirror.migrations as g where g.name = 'model_campaigns'
    ), false)
  )), '[]')
  from (select (k ->> 0)::bigint as k0, (k ->> 1)::bigint as k1 from jsonb_array_elements(p_keys) as k) as a
  left join public.campaign_characters as t on t.campaign_id = a.k0 and t.character_id = a.k1
  left join mirror.ledger_campaign_characters as l on l.campaign_id = a.k0 and l.character_id = a.k1
$$;


revoke all on function
  mirror.digest_campaign_characters(
    text[], text[], bigint, boolean, integer, boolean
  ),
  mirror.rows_campaign_characters(jsonb)
from public, anon, authenticated, service_role;


create or replace function mirror.withdraw_campaign_members(
  p_epoch integer, p_fence bigint, p_campaign_id bigint[], p_user_id uuid[]
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
    delete from public.campaign_members as t
      using unnest(p_campaign_id, p_user_id) as g (campaign_id, user_id)
      where t.campaign_id = g.campaign_id and t.user_id = g.user_id;
  exception when foreign_key_violation or restrict_violation then
    for i in 1 .. cardinality(p_campaign_id) loop
      begin
        delete from public.campaign_members as t where t.campaign_id = p_campaign_id[i] and t.user_id = p_user_id[i];
      exception when foreign_key_violation or restrict_violation then
        update public.campaign_members as t set role = null, expires_at = null where t.campaign_id = p_campaign_id[i] and t.user_id = p_user_id[i];
        held := held || jsonb_build_array(jsonb_build_array(p_campaign_id[i]::text, p_user_id[i]::text));
      end;
    end loop;
    retained := retained || jsonb_build_object('campaign_members', held);
  end;
  return retained;
end
$$;


create or replace function mirror.scope_campaign_members(
  p_reference text, p_values text[], p_after text[], p_limit integer
) returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
  if p_reference = '*' then
    if cardinality(p_after) = 0 then
      return (
        select coalesce(jsonb_agg(jsonb_build_array(f.campaign_id::text, f.user_id::text) order by f.campaign_id, f.user_id), '[]')
        from (
          select l.campaign_id, l.user_id from mirror.ledger_campaign_members as l
          where l.present
          order by l.campaign_id, l.user_id limit p_limit
        ) as f
      );
    end if;
    return (
      select coalesce(jsonb_agg(jsonb_build_array(f.campaign_id::text, f.user_id::text) order by f.campaign_id, f.user_id), '[]')
      from (
        select l.campaign_id, l.user_id from mirror.ledger_campaign_members as l
        where l.present
          and (l.campaign_id, l.user_id) > (p_after[1]::bigint, p_after[2]::uuid)
        order by l.campaign_id, l.user_id limit p_limit
      ) as f
    );
  end if;
  if p_reference = 'campaign_id' then
    if cardinality(p_after) = 0 then
      return (
        select coalesce(jsonb_agg(jsonb_build_array(f.campaign_id::text, f.user_id::text) order by f.campaign_id, f.user_id), '[]')
        from (
          select l.campaign_id, l.user_id from mirror.ledger_campaign_members as l
          where l.present
            and l.campaign_id = any(p_values::bigint[])
          order by l.campaign_id, l.user_id limit p_limit
        ) as f
      );
    end if;
    return (
      select coalesce(jsonb_agg(jsonb_build_array(f.campaign_id::text, f.user_id::text) order by f.campaign_id, f.user_id), '[]')
      from (
        select l.campaign_id, l.user_id from mirror.ledger_campaign_members as l
        where l.present
          and l.campaign_id = any(p_values::bigint[])
          and (l.campaign_id, l.user_id) > (p_after[1]::bigint, p_after[2]::uuid)
        order by l.campaign_id, l.user_id limit p_limit
      ) as f
    );
  end if;
  raise exception 'mapping campaign_members has no reference %', p_reference using errcode = 'MR001';
end
$$;


create or replace function mirror.apply_campaign_members(
  p_epoch integer, p_fence bigint, p_rows jsonb, p_gone jsonb
) returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  answer jsonb;
  gone_campaign_id bigint[];
  gone_user_id uuid[];
begin
  with incoming as materialized (
    select
      (r ->> 0)::bigint as campaign_id,
      (r ->> 1)::uuid as user_id,
      (r ->> 2)::text as role,
      (r ->> 3)::timestamptz as expires_at,
      true as present
    from jsonb_array_elements(p_rows) as r
    union all
    select (g ->> 0)::bigint, (g ->> 1)::uuid, null::text, null::timestamptz, false
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
          where s.mapping = 'campaign_members' and s.reference = '*'
            and s.value = '' and s.epoch = p_epoch
        ) end,
        case when i.present then (
          select s.fence from mirror.scopes as s
          where s.mapping = 'campaign_members' and s.reference = 'campaign_id'
            and s.value = i.campaign_id::text and s.epoch = p_epoch
        ) end
      ) as newest
    from incoming as i
    -- LIMIT keeps this a look-up for each key: a plan from when the table was small would read all
    -- of it for every batch of a first load.
    left join lateral (
      select * from mirror.ledger_campaign_members as s where s.campaign_id = i.campaign_id and s.user_id = i.user_id limit 1
    ) as l on true
  ),
  judged as materialized (
    select k.*,
      coalesce(k.newest > p_fence, false) as stale,
      k.present and not coalesce(k.newest > p_fence, false) and (
        (k.campaign_id is not null and (
          select true from mirror.ledger_campaigns as p
          join public.campaigns as t using (id)
          where p.id = k.campaign_id and p.present
        ) is null)
      ) as orphan
    from known as k
  ),
  -- Always advance the ledger, also where the row stays as it is or was never there: a write
  -- that still hangs somewhere must find that it is older. Sorted, so that two never deadlock.
  -- The conflict's WHERE takes in the tombstones' index beside the primary key.
  admitted as (
    insert into mirror.ledger_campaign_members as l (campaign_id, user_id, epoch, fence, present, applied_at)
    select j.campaign_id, j.user_id, p_epoch, p_fence, j.present, now()
    from judged as j
    where not j.stale and not j.orphan
    order by j.campaign_id, j.user_id
    on conflict (campaign_id, user_id) where not present do update
    set epoch = excluded.epoch, fence = excluded.fence,
      present = excluded.present, applied_at = excluded.applied_at
    where (l.epoch, l.fence) <= (excluded.epoch, excluded.fence)
    returning l.campaign_id, l.user_id, l.present
  ),
  -- Touch the visible row only where it changes: no WAL and no Realtime message for nothing.
  written as (
    insert into public.campaign_members as t (campaign_id, user_id, role, expires_at)
    select j.campaign_id, j.user_id, j.role, j.expires_at
    from judged as j
    join admitted as a on a.campaign_id = j.campaign_id and a.user_id = j.user_id
    where a.present
    on conflict (campaign_id, user_id) do update set
      role = excluded.role,
      expires_at = excluded.expires_at
    where (t.role, t.expires_at)
      is distinct from (excluded.role, excluded.expires_at)
  )
  select
    jsonb_build_object(
      'stale', coalesce(jsonb_agg(jsonb_build_array(j.campaign_id::text, j.user_id::text))
        filter (where a.campaign_id is null and not j.orphan), '[]'),
      'ahead', max(j.newest) filter (where j.stale),
      'orphans', coalesce(jsonb_agg(jsonb_build_array(j.campaign_id::text, j.user_id::text)) filter (where j.orphan), '[]')
    ),
    array_agg(j.campaign_id) filter (where not a.present),
    array_agg(j.user_id) filter (where not a.present)
  into answer, gone_campaign_id, gone_user_id
  from judged as j
  left join admitted as a on a.campaign_id = j.campaign_id and a.user_id = j.user_id;

  if gone_campaign_id is not null then
    answer := answer || jsonb_build_object('retained', mirror.withdraw_campaign_members(
      p_epoch, p_fence, gone_campaign_id, gone_user_id
    ));
  end if;
  return answer;
end
$$;


revoke all on function
  mirror.apply_campaign_members(integer, bigint, jsonb, jsonb),
  mirror.scope_campaign_members(text, text[], text[], integer),
  mirror.withdraw_campaign_members(integer, bigint, bigint[], uuid[])
from public, anon, authenticated, service_role;


create or replace function mirror.digest_campaign_members(
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
      select array[s.campaign_id::text, s.user_id::text] from public.campaign_members as s
      where (s.campaign_id, s.user_id) >= (p_from[1]::bigint, p_from[2]::uuid) and s.campaign_id >= p_from[1]::bigint
      order by s.campaign_id, s.user_id offset p_limit limit 1
    );
  else
    limit_key := (
      select array[s.campaign_id::text, s.user_id::text] from public.campaign_members as s
      where (s.campaign_id, s.user_id) >= (p_from[1]::bigint, p_from[2]::uuid) and s.campaign_id >= p_from[1]::bigint
        and (s.campaign_id, s.user_id) < (wanted_until[1]::bigint, wanted_until[2]::uuid) and s.campaign_id <= wanted_until[1]::bigint
      order by s.campaign_id, s.user_id offset p_limit limit 1
    );
  end if;
  wanted_until := coalesce(limit_key, wanted_until);
  if wanted_until is null then
    limit_key := (
      select array[s.campaign_id::text, s.user_id::text] from mirror.ledger_campaign_members as s
      where (s.campaign_id, s.user_id) >= (p_from[1]::bigint, p_from[2]::uuid) and s.campaign_id >= p_from[1]::bigint
      order by s.campaign_id, s.user_id offset p_limit limit 1
    );
  else
    limit_key := (
      select array[s.campaign_id::text, s.user_id::text] from mirror.ledger_campaign_members as s
      where (s.campaign_id, s.user_id) >= (p_from[1]::bigint, p_from[2]::uuid) and s.campaign_id >= p_from[1]::bigint
        and (s.campaign_id, s.user_id) < (wanted_until[1]::bigint, wanted_until[2]::uuid) and s.campaign_id <= wanted_until[1]::bigint
      order by s.campaign_id, s.user_id offset p_limit limit 1
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
        select coalesce(t.campaign_id, l.campaign_id)::text as k0, coalesce(t.user_id, l.user_id)::text as k1, row(t.campaign_id::text collate "C", t.user_id::text collate "C", t.role::text collate "C", t.expires_at::text collate "C") as r,
          t.campaign_id is not null and not (t.role is null and t.expires_at is null and l.present is false) as there,
          case when t.campaign_id is null then l.present
            else l.present is not true and not (t.role is null and t.expires_at is null and l.present is false) end as stray
        from (
          select t.* from public.campaign_members as t
          where (t.campaign_id, t.user_id) >= (p_from[1]::bigint, p_from[2]::uuid) and t.campaign_id >= p_from[1]::bigint
        ) as t
        full join (
          select l.* from mirror.ledger_campaign_members as l
          where (l.campaign_id, l.user_id) >= (p_from[1]::bigint, p_from[2]::uuid) and l.campaign_id >= p_from[1]::bigint
        ) as l on t.campaign_id = l.campaign_id and t.user_id = l.user_id
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
        select coalesce(t.campaign_id, l.campaign_id)::text as k0, coalesce(t.user_id, l.user_id)::text as k1, row(t.campaign_id::text collate "C", t.user_id::text collate "C", t.role::text collate "C", t.expires_at::text collate "C") as r,
          t.campaign_id is not null and not (t.role is null and t.expires_at is null and l.present is false) as there,
          case when t.campaign_id is null then l.present
            else l.present is not true and not (t.role is null and t.expires_at is null and l.present is false) end as stray
        from (
          select t.* from public.campaign_members as t
          where (t.campaign_id, t.user_id) >= (p_from[1]::bigint, p_from[2]::uuid) and t.campaign_id >= p_from[1]::bigint
          and (t.campaign_id, t.user_id) < (wanted_until[1]::bigint, wanted_until[2]::uuid) and t.campaign_id <= wanted_until[1]::bigint
        ) as t
        full join (
          select l.* from mirror.ledger_campaign_members as l
          where (l.campaign_id, l.user_id) >= (p_from[1]::bigint, p_from[2]::uuid) and l.campaign_id >= p_from[1]::bigint
          and (l.campaign_id, l.user_id) < (wanted_until[1]::bigint, wanted_until[2]::uuid) and l.campaign_id <= wanted_until[1]::bigint
        ) as l on t.campaign_id = l.campaign_id and t.user_id = l.user_id
      ) as h
      where h.there or h.stray
    ) as f;
  end if;
  return answer || jsonb_build_object('until', wanted_until);
end
$$;


create or replace function mirror.survey_campaign_members(
  p_seed bigint, p_md5 boolean, p_bits integer, p_wanted bytea, p_each boolean, p_part integer,
  p_parts integer
) returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  answer jsonb;
  low constant bigint := (1::bigint << p_bits) - 1;
  wanted_low constant bigint := 8 * length(p_wanted) - 1;
  seen constant tid[] := mirror.part_of('public.campaign_members', p_part, p_parts);
  known constant tid[] := mirror.part_of('mirror.ledger_campaign_members', p_part, p_parts);
begin
  if p_each then
    select coalesce(jsonb_agg(jsonb_build_array(f.k0, f.k1, f.hash::text)), '[]')
    into answer
    from (
      select k.k0::text, k.k1::text, bit_xor(k.hash) as hash
      from (
        select k.k0, k.k1, case when p_md5 then ('x' || left(md5(p_seed::text || row(k.key_hash, k.c0, k.c1)::text), 16))::bit(64)::bigint else hash_record_extended(row(k.key_hash, k.c0, k.c1), p_seed) end as hash
        from (
          select t.campaign_id as k0, t.user_id as k1, t.role::text collate "C" as c0, t.expires_at::text collate "C" as c1,
            case when p_md5 then ('x' || left(md5(p_seed::text || row(t.campaign_id, t.user_id)::text), 16))::bit(64)::bigint else hash_record_extended(row(t.campaign_id, t.user_id), p_seed) end as key_hash
          from public.campaign_members as t
          where t.ctid >= seen[1] and t.ctid < seen[2]
            and not (t.role is null and t.expires_at is null and (select l.present is false from mirror.ledger_campaign_members as l where l.campaign_id = t.campaign_id and l.user_id = t.user_id) is true)
          -- So that a hash is taken once, not wherever it is named.
          offset 0
        ) as k
        where p_wanted is null or get_bit(p_wanted, k.key_hash & wanted_low) = 1
        union all
        select k.k0, k.k1, k.key_hash
        from (
          select l.campaign_id as k0, l.user_id as k1,
            case when p_md5 then ('x' || left(md5(p_seed::text || row(l.campaign_id, l.user_id)::text), 16))::bit(64)::bigint else hash_record_extended(row(l.campaign_id, l.user_id), p_seed) end as key_hash
          from mirror.ledger_campaign_members as l
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
          select t.campaign_id as k0, t.user_id as k1, t.role::text collate "C" as c0, t.expires_at::text collate "C" as c1,
            case when p_md5 then ('x' || left(md5(p_seed::text || row(t.campaign_id, t.user_id)::text), 16))::bit(64)::bigint else hash_record_extended(row(t.campaign_id, t.user_id), p_seed) end as key_hash
          from public.campaign_members as t
          where t.ctid >= seen[1] and t.ctid < seen[2]
            and not (t.role is null and t.expires_at is null and (select l.present is false from mirror.ledger_campaign_members as l where l.campaign_id = t.campaign_id and l.user_id = t.user_id) is true)
          -- So that a hash is taken once, not wherever it is named.
          offset 0
        ) as k
        where p_wanted is null or get_bit(p_wanted, k.key_hash & wanted_low) = 1
        union all
        select (k.key_hash & low)::integer, null, k.key_hash
        from (
          select l.campaign_id as k0, l.user_id as k1,
            case when p_md5 then ('x' || left(md5(p_seed::text || row(l.campaign_id, l.user_id)::text), 16))::bit(64)::bigint else hash_record_extended(row(l.campaign_id, l.user_id), p_seed) end as key_hash
          from mirror.ledger_campaign_members as l
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
revoke all on function mirror.survey_campaign_members(bigint, boolean, integer, bytea, boolean, integer, integer)
from public, anon, authenticated, service_role;


create or replace function mirror.rows_campaign_members(p_keys jsonb)
returns jsonb
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select coalesce(jsonb_agg(jsonb_build_object(
    'key', jsonb_build_array(a.k0::text, a.k1::text),
    'row', case when t.campaign_id is not null and not (t.role is null and t.expires_at is null and l.present is false) then
      jsonb_build_array(t.campaign_id::text, t.user_id::text, t.role::text, t.expires_at::text)
    end,
    'present', l.present,
    'epoch', l.epoch,
    'fence', l.fence,
    -- A row that was written after its ledger's was written by somebody else.
    'edited', coalesce(age(t.xmin) < age(l.xmin), false),
    'expired', coalesce(t.expires_at <= now(), false),
    'outdated', coalesce(l.applied_at < (
      select g.applied_at from mirror.migrations as g where g.name = 'model_campaigns'
    ), false)
  )), '[]')
  from (select (k ->> 0)::bigint as k0, (k ->> 1)::uuid as k1 from jsonb_array_elements(p_keys) as k) as a
  left join public.campaign_members as t on t.campaign_id = a.k0 and t.user_id = a.k1
  left join mirror.ledger_campaign_members as l on l.campaign_id = a.k0 and l.user_id = a.k1
$$;


create or replace function mirror.expired_campaign_members(p_after text[], p_limit integer) returns jsonb
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select coalesce(jsonb_agg(jsonb_build_array(s.campaign_id::text, s.user_id::text)), '[]')
  from (
    select t.campaign_id, t.user_id from public.campaign_members as t
    where t.expires_at <= now()
      and (p_after = '{}' or (t.campaign_id, t.user_id) > (p_after[1]::bigint, p_after[2]::uuid))
    order by t.campaign_id, t.user_id
    limit p_limit
  ) as s
$$;
revoke all on function mirror.expired_campaign_members(text[], integer) from public, anon, authenticated, service_role;


-- The sweep asks by time.
select mirror.add_index('public.campaign_members', 'expires_at');


revoke all on function
  mirror.digest_campaign_members(
    text[], text[], bigint, boolean, integer, boolean
  ),
  mirror.rows_campaign_members(jsonb)
from public, anon, authenticated, service_role;


create or replace function mirror.withdraw_sources(
  p_epoch integer, p_fence bigint, p_id bigint[]
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
    delete from public.sources as t
      using unnest(p_id) as g (id)
      where t.id = g.id;
  exception when foreign_key_violation or restrict_violation then
    for i in 1 .. cardinality(p_id) loop
      begin
        delete from public.sources as t where t.id = p_id[i];
      exception when foreign_key_violation or restrict_violation then
        update public.sources as t set owner_id = null, is_private = null, campaign_id = null where t.id = p_id[i];
        held := held || jsonb_build_array(jsonb_build_array(p_id[i]::text));
      end;
    end loop;
    retained := retained || jsonb_build_object('sources', held);
  end;
  return retained;
end
$$;


create or replace function mirror.scope_sources(
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
          select l.id from mirror.ledger_sources as l
          where l.present
          order by l.id limit p_limit
        ) as f
      );
    end if;
    return (
      select coalesce(jsonb_agg(jsonb_build_array(f.id::text) order by f.id), '[]')
      from (
        select l.id from mirror.ledger_sources as l
        where l.present
          and (l.id) > (p_after[1]::bigint)
        order by l.id limit p_limit
      ) as f
    );
  end if;
  raise exception 'mapping sources has no reference %', p_reference using errcode = 'MR001';
end
$$;


create or replace function mirror.apply_sources(
  p_epoch integer, p_fence bigint, p_rows jsonb, p_gone jsonb
) returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  answer jsonb;
  gone_id bigint[];
begin
  with incoming as materialized (
    select
      (r ->> 0)::bigint as id,
      (r ->> 1)::uuid as owner_id,
      (r ->> 2)::boolean as is_private,
      (r ->> 3)::bigint as campaign_id,
      true as present
    from jsonb_array_elements(p_rows) as r
    union all
    select (g ->> 0)::bigint, null::uuid, null::boolean, null::bigint, false
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
          where s.mapping = 'sources' and s.reference = '*'
            and s.value = '' and s.epoch = p_epoch
        ) end
      ) as newest
    from incoming as i
    -- LIMIT keeps this a look-up for each key: a plan from when the table was small would read all
    -- of it for every batch of a first load.
    left join lateral (
      select * from mirror.ledger_sources as s where s.id = i.id limit 1
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
    insert into mirror.ledger_sources as l (id, epoch, fence, present, applied_at)
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
    insert into public.sources as t (id, owner_id, is_private, campaign_id)
    select j.id, j.owner_id, j.is_private, j.campaign_id
    from judged as j
    join admitted as a on a.id = j.id
    where a.present
    on conflict (id) do update set
      owner_id = excluded.owner_id,
      is_private = excluded.is_private,
      campaign_id = excluded.campaign_id
    where (t.owner_id, t.is_private, t.campaign_id)
      is distinct from (excluded.owner_id, excluded.is_private, excluded.campaign_id)
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
    answer := answer || jsonb_build_object('retained', mirror.withdraw_sources(
      p_epoch, p_fence, gone_id
    ));
  end if;
  return answer;
end
$$;


revoke all on function
  mirror.apply_sources(integer, bigint, jsonb, jsonb),
  mirror.scope_sources(text, text[], text[], integer),
  mirror.withdraw_sources(integer, bigint, bigint[])
from public, anon, authenticated, service_role;


create or replace function mirror.digest_sources(
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
      select array[s.id::text] from public.sources as s
      where (s.id) >= (p_from[1]::bigint)
      order by s.id offset p_limit limit 1
    );
  else
    limit_key := (
      select array[s.id::text] from public.sources as s
      where (s.id) >= (p_from[1]::bigint)
        and (s.id) < (wanted_until[1]::bigint)
      order by s.id offset p_limit limit 1
    );
  end if;
  wanted_until := coalesce(limit_key, wanted_until);
  if wanted_until is null then
    limit_key := (
      select array[s.id::text] from mirror.ledger_sources as s
      where (s.id) >= (p_from[1]::bigint)
      order by s.id offset p_limit limit 1
    );
  else
    limit_key := (
      select array[s.id::text] from mirror.ledger_sources as s
      where (s.id) >= (p_from[1]::bigint)
        and (s.id) < (wanted_until[1]::bigint)
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
        select coalesce(t.id, l.id)::text as k0, row(t.id::text collate "C", t.owner_id::text collate "C", t.is_private::text collate "C", t.campaign_id::text collate "C") as r,
          t.id is not null and not (t.owner_id is null and t.is_private is null and t.campaign_id is null and l.present is false) as there,
          case when t.id is null then l.present
            else l.present is not true and not (t.owner_id is null and t.is_private is null and t.campaign_id is null and l.present is false) end as stray
        from (
          select t.* from public.sources as t
          where (t.id) >= (p_from[1]::bigint)
        ) as t
        full join (
          select l.* from mirror.ledger_sources as l
          where (l.id) >= (p_from[1]::bigint)
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
        select coalesce(t.id, l.id)::text as k0, row(t.id::text collate "C", t.owner_id::text collate "C", t.is_private::text collate "C", t.campaign_id::text collate "C") as r,
          t.id is not null and not (t.owner_id is null and t.is_private is null and t.campaign_id is null and l.present is false) as there,
          case when t.id is null then l.present
            else l.present is not true and not (t.owner_id is null and t.is_private is null and t.campaign_id is null and l.present is false) end as stray
        from (
          select t.* from public.sources as t
          where (t.id) >= (p_from[1]::bigint)
          and (t.id) < (wanted_until[1]::bigint)
        ) as t
        full join (
          select l.* from mirror.ledger_sources as l
          where (l.id) >= (p_from[1]::bigint)
          and (l.id) < (wanted_until[1]::bigint)
        ) as l on t.id = l.id
      ) as h
      where h.there or h.stray
    ) as f;
  end if;
  return answer || jsonb_build_object('until', wanted_until);
end
$$;


create or replace function mirror.survey_sources(
  p_seed bigint, p_md5 boolean, p_bits integer, p_wanted bytea, p_each boolean, p_part integer,
  p_parts integer
) returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  answer jsonb;
  low constant bigint := (1::bigint << p_bits) - 1;
  wanted_low constant bigint := 8 * length(p_wanted) - 1;
  seen constant tid[] := mirror.part_of('public.sources', p_part, p_parts);
  known constant tid[] := mirror.part_of('mirror.ledger_sources', p_part, p_parts);
begin
  if p_each then
    select coalesce(jsonb_agg(jsonb_build_array(f.k0, f.hash::text)), '[]')
    into answer
    from (
      select k.k0::text, bit_xor(k.hash) as hash
      from (
        select k.k0, case when p_md5 then ('x' || left(md5(p_seed::text || row(k.key_hash, k.c0, k.c1, k.c2)::text), 16))::bit(64)::bigint else hash_record_extended(row(k.key_hash, k.c0, k.c1, k.c2), p_seed) end as hash
        from (
          select t.id as k0, t.owner_id::text collate "C" as c0, t.is_private::text collate "C" as c1, t.campaign_id::text collate "C" as c2,
            case when p_md5 then ('x' || left(md5(p_seed::text || row(t.id)::text), 16))::bit(64)::bigint else hash_record_extended(row(t.id), p_seed) end as key_hash
          from public.sources as t
          where t.ctid >= seen[1] and t.ctid < seen[2]
            and not (t.owner_id is null and t.is_private is null and t.campaign_id is null and (select l.present is false from mirror.ledger_sources as l where l.id = t.id) is true)
          -- So that a hash is taken once, not wherever it is named.
          offset 0
        ) as k
        where p_wanted is null or get_bit(p_wanted, k.key_hash & wanted_low) = 1
        union all
        select k.k0, k.key_hash
        from (
          select l.id as k0,
            case when p_md5 then ('x' || left(md5(p_seed::text || row(l.id)::text), 16))::bit(64)::bigint else hash_record_extended(row(l.id), p_seed) end as key_hash
          from mirror.ledger_sources as l
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
        select (k.key_hash & low)::integer as bucket, true as seen, case when p_md5 then ('x' || left(md5(p_seed::text || row(k.key_hash, k.c0, k.c1, k.c2)::text), 16))::bit(64)::bigint else hash_record_extended(row(k.key_hash, k.c0, k.c1, k.c2), p_seed) end as hash
        from (
          select t.id as k0, t.owner_id::text collate "C" as c0, t.is_private::text collate "C" as c1, t.campaign_id::text collate "C" as c2,
            case when p_md5 then ('x' || left(md5(p_seed::text || row(t.id)::text), 16))::bit(64)::bigint else hash_record_extended(row(t.id), p_seed) end as key_hash
          from public.sources as t
          where t.ctid >= seen[1] and t.ctid < seen[2]
            and not (t.owner_id is null and t.is_private is null and t.campaign_id is null and (select l.present is false from mirror.ledger_sources as l where l.id = t.id) is true)
          -- So that a hash is taken once, not wherever it is named.
          offset 0
        ) as k
        where p_wanted is null or get_bit(p_wanted, k.key_hash & wanted_low) = 1
        union all
        select (k.key_hash & low)::integer, null, k.key_hash
        from (
          select l.id as k0,
            case when p_md5 then ('x' || left(md5(p_seed::text || row(l.id)::text), 16))::bit(64)::bigint else hash_record_extended(row(l.id), p_seed) end as key_hash
          from mirror.ledger_sources as l
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
revoke all on function mirror.survey_sources(bigint, boolean, integer, bytea, boolean, integer, integer)
from public, anon, authenticated, service_role;


create or replace function mirror.rows_sources(p_keys jsonb)
returns jsonb
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select coalesce(jsonb_agg(jsonb_build_object(
    'key', jsonb_build_array(a.k0::text),
    'row', case when t.id is not null and not (t.owner_id is null and t.is_private is null and t.campaign_id is null and l.present is false) then
      jsonb_build_array(t.id::text, t.owner_id::text, t.is_private::text, t.campaign_id::text)
    end,
    'present', l.present,
    'epoch', l.epoch,
    'fence', l.fence,
    -- A row that was written after its ledger's was written by somebody else.
    'edited', coalesce(age(t.xmin) < age(l.xmin), false),
    'expired', coalesce(false, false),
    'outdated', coalesce(l.applied_at < (
      select g.applied_at from mirror.migrations as g where g.name = 'model_campaigns'
    ), false)
  )), '[]')
  from (select (k ->> 0)::bigint as k0 from jsonb_array_elements(p_keys) as k) as a
  left join public.sources as t on t.id = a.k0
  left join mirror.ledger_sources as l on l.id = a.k0
$$;


revoke all on function
  mirror.digest_sources(
    text[], text[], bigint, boolean, integer, boolean
  ),
  mirror.rows_sources(jsonb)
from public, anon, authenticated, service_role;


create or replace function mirror.withdraw_campaigns(
  p_epoch integer, p_fence bigint, p_id bigint[]
) returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  retained jsonb := '{}';
  child1_campaign_id bigint[];
  child1_user_id uuid[];
  child2_campaign_id bigint[];
  child2_character_id bigint[];
  held jsonb := '[]';
begin
  -- campaign_members: close the scope, so that no hung write brings a child back, then its rows.
  insert into mirror.scopes as s (mapping, reference, value, epoch, fence)
  select 'campaign_members', 'campaign_id', k::text, p_epoch, p_fence
  from unnest(p_id) as k
  on conflict (mapping, reference, value) do update
  set epoch = excluded.epoch, fence = excluded.fence, read_at = now()
  where (s.epoch, s.fence) < (excluded.epoch, excluded.fence);
  with forgotten as (
    update mirror.ledger_campaign_members as l
    set present = false, epoch = p_epoch, applied_at = now(),
      fence = case when l.epoch = p_epoch then greatest(l.fence, p_fence) else p_fence end
    where l.present and l.campaign_id = any(p_id)
    returning l.campaign_id, l.user_id
  )
  select array_agg(campaign_id), array_agg(user_id)
  into child1_campaign_id, child1_user_id from forgotten;
  if child1_campaign_id is not null then
    retained := retained || mirror.withdraw_campaign_members(
      p_epoch, p_fence, child1_campaign_id, child1_user_id
    );
  end if;

  -- campaign_characters: close the scope, so that no hung write brings a child back, then its rows.
  insert into mirror.scopes as s (mapping, reference, value, epoch, fence)
  select 'campaign_characters', 'campaign_id', k::text, p_epoch, p_fence
  from unnest(p_id) as k
  on conflict (mapping, reference, value) do update
  set epoch = excluded.epoch, fence = excluded.fence, read_at = now()
  where (s.epoch, s.fence) < (excluded.epoch, excluded.fence);
  with forgotten as (
    update mirror.ledger_campaign_characters as l
    set present = false, epoch = p_epoch, applied_at = now(),
      fence = case when l.epoch = p_epoch then greatest(l.fence, p_fence) else p_fence end
    where l.present and l.campaign_id = any(p_id)
    returning l.campaign_id, l.character_id
  )
  select array_agg(campaign_id), array_agg(character_id)
  into child2_campaign_id, child2_character_id from forgotten;
  if child2_campaign_id is not null then
    retained := retained || mirror.withdraw_campaign_characters(
      p_epoch, p_fence, child2_campaign_id, child2_character_id
    );
  end if;

  -- A foreign key of somebody else's table may hold a row back. That must not stop the others,
  -- and what stays must grant nothing: only the bare key stays. A deferred one must speak up here,
  -- not at commit, also in the second attempt: inside the block, the setting would be undone.
  set constraints all immediate;
  begin
    delete from public.campaigns as t
      using unnest(p_id) as g (id)
      where t.id = g.id;
  exception when foreign_key_violation or restrict_violation then
    for i in 1 .. cardinality(p_id) loop
      begin
        delete from public.campaigns as t where t.id = p_id[i];
      exception when foreign_key_violation or restrict_violation then
        update public.campaigns as t set dm_id = null, name = null where t.id = p_id[i];
        held := held || jsonb_build_array(jsonb_build_array(p_id[i]::text));
      end;
    end loop;
    retained := retained || jsonb_build_object('campaigns', held);
  end;
  return retained;
end
$$;


create or replace function mirror.scope_campaigns(
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
          select l.id from mirror.ledger_campaigns as l
          where l.present
          order by l.id limit p_limit
        ) as f
      );
    end if;
    return (
      select coalesce(jsonb_agg(jsonb_build_array(f.id::text) order by f.id), '[]')
      from (
        select l.id from mirror.ledger_campaigns as l
        where l.present
          and (l.id) > (p_after[1]::bigint)
        order by l.id limit p_limit
      ) as f
    );
  end if;
  raise exception 'mapping campaigns has no reference %', p_reference using errcode = 'MR001';
end
$$;


create or replace function mirror.apply_campaigns(
  p_epoch integer, p_fence bigint, p_rows jsonb, p_gone jsonb
) returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  answer jsonb;
  gone_id bigint[];
begin
  with incoming as materialized (
    select
      (r ->> 0)::bigint as id,
      (r ->> 1)::uuid as dm_id,
      (r ->> 2)::text as name,
      coalesce((r ->> 3)::boolean, false) as whole,
      true as present
    from jsonb_array_elements(p_rows) as r
    union all
    select (g ->> 0)::bigint, null::uuid, null::text, null::boolean, false
    from jsonb_array_elements(p_gone) as g
  ),
  -- The newest read that this key, or a scope it would be in, is known to have had.
  known as materialized (
    select i.*,
      coalesce(l.present, false) and exists (
        select from public.campaigns as t where t.id = i.id
      ) as was_present,
      greatest(
        case when l.epoch = p_epoch then l.fence end,
        case when i.present then (
          select s.fence from mirror.scopes as s
          where s.mapping = 'campaigns' and s.reference = '*'
            and s.value = '' and s.epoch = p_epoch
        ) end
      ) as newest
    from incoming as i
    -- LIMIT keeps this a look-up for each key: a plan from when the table was small would read all
    -- of it for every batch of a first load.
    left join lateral (
      select * from mirror.ledger_campaigns as s where s.id = i.id limit 1
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
    insert into mirror.ledger_campaigns as l (id, epoch, fence, present, applied_at)
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
    insert into public.campaigns as t (id, dm_id, name)
    select j.id, j.dm_id, j.name
    from judged as j
    join admitted as a on a.id = j.id
    where a.present
    on conflict (id) do update set
      dm_id = excluded.dm_id,
      name = excluded.name
    where (t.dm_id, t.name)
      is distinct from (excluded.dm_id, excluded.name)
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
    answer := answer || jsonb_build_object('retained', mirror.withdraw_campaigns(
      p_epoch, p_fence, gone_id
    ));
  end if;
  return answer;
end
$$;


revoke all on function
  mirror.apply_campaigns(integer, bigint, jsonb, jsonb),
  mirror.scope_campaigns(text, text[], text[], integer),
  mirror.withdraw_campaigns(integer, bigint, bigint[])
from public, anon, authenticated, service_role;


create or replace function mirror.digest_campaigns(
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
      select array[s.id::text] from public.campaigns as s
      where (s.id) >= (p_from[1]::bigint)
      order by s.id offset p_limit limit 1
    );
  else
    limit_key := (
      select array[s.id::text] from public.campaigns as s
      where (s.id) >= (p_from[1]::bigint)
        and (s.id) < (wanted_until[1]::bigint)
      order by s.id offset p_limit limit 1
    );
  end if;
  wanted_until := coalesce(limit_key, wanted_until);
  if wanted_until is null then
    limit_key := (
      select array[s.id::text] from mirror.ledger_campaigns as s
      where (s.id) >= (p_from[1]::bigint)
      order by s.id offset p_limit limit 1
    );
  else
    limit_key := (
      select array[s.id::text] from mirror.ledger_campaigns as s
      where (s.id) >= (p_from[1]::bigint)
        and (s.id) < (wanted_until[1]::bigint)
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
        select coalesce(t.id, l.id)::text as k0, row(t.id::text collate "C", t.dm_id::text collate "C", t.name::text collate "C") as r,
          t.id is not null and not (t.dm_id is null and t.name is null and l.present is false) as there,
          case when t.id is null then l.present
            else l.present is not true and not (t.dm_id is null and t.name is null and l.present is false) end as stray
        from (
          select t.* from public.campaigns as t
          where (t.id) >= (p_from[1]::bigint)
        ) as t
        full join (
          select l.* from mirror.ledger_campaigns as l
          where (l.id) >= (p_from[1]::bigint)
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
        select coalesce(t.id, l.id)::text as k0, row(t.id::text collate "C", t.dm_id::text collate "C", t.name::text collate "C") as r,
          t.id is not null and not (t.dm_id is null and t.name is null and l.present is false) as there,
          case when t.id is null then l.present
            else l.present is not true and not (t.dm_id is null and t.name is null and l.present is false) end as stray
        from (
          select t.* from public.campaigns as t
          where (t.id) >= (p_from[1]::bigint)
          and (t.id) < (wanted_until[1]::bigint)
        ) as t
        full join (
          select l.* from mirror.ledger_campaigns as l
          where (l.id) >= (p_from[1]::bigint)
          and (l.id) < (wanted_until[1]::bigint)
        ) as l on t.id = l.id
      ) as h
      where h.there or h.stray
    ) as f;
  end if;
  return answer || jsonb_build_object('until', wanted_until);
end
$$;


create or replace function mirror.survey_campaigns(
  p_seed bigint, p_md5 boolean, p_bits integer, p_wanted bytea, p_each boolean, p_part integer,
  p_parts integer
) returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  answer jsonb;
  low constant bigint := (1::bigint << p_bits) - 1;
  wanted_low constant bigint := 8 * length(p_wanted) - 1;
  seen constant tid[] := mirror.part_of('public.campaigns', p_part, p_parts);
  known constant tid[] := mirror.part_of('mirror.ledger_campaigns', p_part, p_parts);
begin
  if p_each then
    select coalesce(jsonb_agg(jsonb_build_array(f.k0, f.hash::text)), '[]')
    into answer
    from (
      select k.k0::text, bit_xor(k.hash) as hash
      from (
        select k.k0, case when p_md5 then ('x' || left(md5(p_seed::text || row(k.key_hash, k.c0, k.c1)::text), 16))::bit(64)::bigint else hash_record_extended(row(k.key_hash, k.c0, k.c1), p_seed) end as hash
        from (
          select t.id as k0, t.dm_id::text collate "C" as c0, t.name::text collate "C" as c1,
            case when p_md5 then ('x' || left(md5(p_seed::text || row(t.id)::text), 16))::bit(64)::bigint else hash_record_extended(row(t.id), p_seed) end as key_hash
          from public.campaigns as t
          where t.ctid >= seen[1] and t.ctid < seen[2]
            and not (t.dm_id is null and t.name is null and (select l.present is false from mirror.ledger_campaigns as l where l.id = t.id) is true)
          -- So that a hash is taken once, not wherever it is named.
          offset 0
        ) as k
        where p_wanted is null or get_bit(p_wanted, k.key_hash & wanted_low) = 1
        union all
        select k.k0, k.key_hash
        from (
          select l.id as k0,
            case when p_md5 then ('x' || left(md5(p_seed::text || row(l.id)::text), 16))::bit(64)::bigint else hash_record_extended(row(l.id), p_seed) end as key_hash
          from mirror.ledger_campaigns as l
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
          select t.id as k0, t.dm_id::text collate "C" as c0, t.name::text collate "C" as c1,
            case when p_md5 then ('x' || left(md5(p_seed::text || row(t.id)::text), 16))::bit(64)::bigint else hash_record_extended(row(t.id), p_seed) end as key_hash
          from public.campaigns as t
          where t.ctid >= seen[1] and t.ctid < seen[2]
            and not (t.dm_id is null and t.name is null and (select l.present is false from mirror.ledger_campaigns as l where l.id = t.id) is true)
          -- So that a hash is taken once, not wherever it is named.
          offset 0
        ) as k
        where p_wanted is null or get_bit(p_wanted, k.key_hash & wanted_low) = 1
        union all
        select (k.key_hash & low)::integer, null, k.key_hash
        from (
          select l.id as k0,
            case when p_md5 then ('x' || left(md5(p_seed::text || row(l.id)::text), 16))::bit(64)::bigint else hash_record_extended(row(l.id), p_seed) end as key_hash
          from mirror.ledger_campaigns as l
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
revoke all on function mirror.survey_campaigns(bigint, boolean, integer, bytea, boolean, integer, integer)
from public, anon, authenticated, service_role;


create or replace function mirror.rows_campaigns(p_keys jsonb)
returns jsonb
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select coalesce(jsonb_agg(jsonb_build_object(
    'key', jsonb_build_array(a.k0::text),
    'row', case when t.id is not null and not (t.dm_id is null and t.name is null and l.present is false) then
      jsonb_build_array(t.id::text, t.dm_id::text, t.name::text)
    end,
    'present', l.present,
    'epoch', l.epoch,
    'fence', l.fence,
    -- A row that was written after its ledger's was written by somebody else.
    'edited', coalesce(age(t.xmin) < age(l.xmin), false),
    'expired', coalesce(false, false),
    'outdated', coalesce(l.applied_at < (
      select g.applied_at from mirror.migrations as g where g.name = 'model_campaigns'
    ), false)
  )), '[]')
  from (select (k ->> 0)::bigint as k0 from jsonb_array_elements(p_keys) as k) as a
  left join public.campaigns as t on t.id = a.k0
  left join mirror.ledger_campaigns as l on l.id = a.k0
$$;


revoke all on function
  mirror.digest_campaigns(
    text[], text[], bigint, boolean, integer, boolean
  ),
  mirror.rows_campaigns(jsonb)
from public, anon, authenticated, service_role;


create or replace function mirror.withdraw_characters(
  p_epoch integer, p_fence bigint, p_id bigint[]
) returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  retained jsonb := '{}';
  child1_campaign_id bigint[];
  child1_character_id bigint[];
  held jsonb := '[]';
begin
  -- campaign_characters: close the scope, so that no hung write brings a child back, then its rows.
  insert into mirror.scopes as s (mapping, reference, value, epoch, fence)
  select 'campaign_characters', 'character_id', k::text, p_epoch, p_fence
  from unnest(p_id) as k
  on conflict (mapping, reference, value) do update
  set epoch = excluded.epoch, fence = excluded.fence, read_at = now()
  where (s.epoch, s.fence) < (excluded.epoch, excluded.fence);
  with forgotten as (
    update mirror.ledger_campaign_characters as l
    set present = false, epoch = p_epoch, applied_at = now(),
      fence = case when l.epoch = p_epoch then greatest(l.fence, p_fence) else p_fence end
    where l.present and l.character_id = any(p_id)
    returning l.campaign_id, l.character_id
  )
  select array_agg(campaign_id), array_agg(character_id)
  into child1_campaign_id, child1_character_id from forgotten;
  if child1_campaign_id is not null then
    retained := retained || mirror.withdraw_campaign_characters(
      p_epoch, p_fence, child1_campaign_id, child1_character_id
    );
  end if;

  -- A foreign key of somebody else's table may hold a row back. That must not stop the others,
  -- and what stays must grant nothing: only the bare key stays. A deferred one must speak up here,
  -- not at commit, also in the second attempt: inside the block, the setting would be undone.
  set constraints all immediate;
  begin
    delete from public.characters as t
      using unnest(p_id) as g (id)
      where t.id = g.id;
  exception when foreign_key_violation or restrict_violation then
    for i in 1 .. cardinality(p_id) loop
      begin
        delete from public.characters as t where t.id = p_id[i];
      exception when foreign_key_violation or restrict_violation then
        update public.characters as t set owner_id = null, name = null where t.id = p_id[i];
        held := held || jsonb_build_array(jsonb_build_array(p_id[i]::text));
      end;
    end loop;
    retained := retained || jsonb_build_object('characters', held);
  end;
  return retained;
end
$$;


create or replace function mirror.scope_characters(
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
          select l.id from mirror.ledger_characters as l
          where l.present
          order by l.id limit p_limit
        ) as f
      );
    end if;
    return (
      select coalesce(jsonb_agg(jsonb_build_array(f.id::text) order by f.id), '[]')
      from (
        select l.id from mirror.ledger_characters as l
        where l.present
          and (l.id) > (p_after[1]::bigint)
        order by l.id limit p_limit
      ) as f
    );
  end if;
  raise exception 'mapping characters has no reference %', p_reference using errcode = 'MR001';
end
$$;


create or replace function mirror.apply_characters(
  p_epoch integer, p_fence bigint, p_rows jsonb, p_gone jsonb
) returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  answer jsonb;
  gone_id bigint[];
begin
  with incoming as materialized (
    select
      (r ->> 0)::bigint as id,
      (r ->> 1)::uuid as owner_id,
      (r ->> 2)::text as name,
      coalesce((r ->> 3)::boolean, false) as whole,
      true as present
    from jsonb_array_elements(p_rows) as r
    union all
    select (g ->> 0)::bigint, null::uuid, null::text, null::boolean, false
    from jsonb_array_elements(p_gone) as g
  ),
  -- The newest read that this key, or a scope it would be in, is known to have had.
  known as materialized (
    select i.*,
      coalesce(l.present, false) and exists (
        select from public.characters as t where t.id = i.id
      ) as was_present,
      greatest(
        case when l.epoch = p_epoch then l.fence end,
        case when i.present then (
          select s.fence from mirror.scopes as s
          where s.mapping = 'characters' and s.reference = '*'
            and s.value = '' and s.epoch = p_epoch
        ) end
      ) as newest
    from incoming as i
    -- LIMIT keeps this a look-up for each key: a plan from when the table was small would read all
    -- of it for every batch of a first load.
    left join lateral (
      select * from mirror.ledger_characters as s where s.id = i.id limit 1
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
    insert into mirror.ledger_characters as l (id, epoch, fence, present, applied_at)
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
    insert into public.characters as t (id, owner_id, name)
    select j.id, j.owner_id, j.name
    from judged as j
    join admitted as a on a.id = j.id
    where a.present
    on conflict (id) do update set
      owner_id = excluded.owner_id,
      name = excluded.name
    where (t.owner_id, t.name)
      is distinct from (excluded.owner_id, excluded.name)
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
    answer := answer || jsonb_build_object('retained', mirror.withdraw_characters(
      p_epoch, p_fence, gone_id
    ));
  end if;
  return answer;
end
$$;


revoke all on function
  mirror.apply_characters(integer, bigint, jsonb, jsonb),
  mirror.scope_characters(text, text[], text[], integer),
  mirror.withdraw_characters(integer, bigint, bigint[])
from public, anon, authenticated, service_role;


create or replace function mirror.digest_characters(
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
      select array[s.id::text] from public.characters as s
      where (s.id) >= (p_from[1]::bigint)
      order by s.id offset p_limit limit 1
    );
  else
    limit_key := (
      select array[s.id::text] from public.characters as s
      where (s.id) >= (p_from[1]::bigint)
        and (s.id) < (wanted_until[1]::bigint)
      order by s.id offset p_limit limit 1
    );
  end if;
  wanted_until := coalesce(limit_key, wanted_until);
  if wanted_until is null then
    limit_key := (
      select array[s.id::text] from mirror.ledger_characters as s
      where (s.id) >= (p_from[1]::bigint)
      order by s.id offset p_limit limit 1
    );
  else
    limit_key := (
      select array[s.id::text] from mirror.ledger_characters as s
      where (s.id) >= (p_from[1]::bigint)
        and (s.id) < (wanted_until[1]::bigint)
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
        select coalesce(t.id, l.id)::text as k0, row(t.id::text collate "C", t.owner_id::text collate "C", t.name::text collate "C") as r,
          t.id is not null and not (t.owner_id is null and t.name is null and l.present is false) as there,
          case when t.id is null then l.present
            else l.present is not true and not (t.owner_id is null and t.name is null and l.present is false) end as stray
        from (
          select t.* from public.characters as t
          where (t.id) >= (p_from[1]::bigint)
        ) as t
        full join (
          select l.* from mirror.ledger_characters as l
          where (l.id) >= (p_from[1]::bigint)
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
        select coalesce(t.id, l.id)::text as k0, row(t.id::text collate "C", t.owner_id::text collate "C", t.name::text collate "C") as r,
          t.id is not null and not (t.owner_id is null and t.name is null and l.present is false) as there,
          case when t.id is null then l.present
            else l.present is not true and not (t.owner_id is null and t.name is null and l.present is false) end as stray
        from (
          select t.* from public.characters as t
          where (t.id) >= (p_from[1]::bigint)
          and (t.id) < (wanted_until[1]::bigint)
        ) as t
        full join (
          select l.* from mirror.ledger_characters as l
          where (l.id) >= (p_from[1]::bigint)
          and (l.id) < (wanted_until[1]::bigint)
        ) as l on t.id = l.id
      ) as h
      where h.there or h.stray
    ) as f;
  end if;
  return answer || jsonb_build_object('until', wanted_until);
end
$$;


create or replace function mirror.survey_characters(
  p_seed bigint, p_md5 boolean, p_bits integer, p_wanted bytea, p_each boolean, p_part integer,
  p_parts integer
) returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  answer jsonb;
  low constant bigint := (1::bigint << p_bits) - 1;
  wanted_low constant bigint := 8 * length(p_wanted) - 1;
  seen constant tid[] := mirror.part_of('public.characters', p_part, p_parts);
  known constant tid[] := mirror.part_of('mirror.ledger_characters', p_part, p_parts);
begin
  if p_each then
    select coalesce(jsonb_agg(jsonb_build_array(f.k0, f.hash::text)), '[]')
    into answer
    from (
      select k.k0::text, bit_xor(k.hash) as hash
      from (
        select k.k0, case when p_md5 then ('x' || left(md5(p_seed::text || row(k.key_hash, k.c0, k.c1)::text), 16))::bit(64)::bigint else hash_record_extended(row(k.key_hash, k.c0, k.c1), p_seed) end as hash
        from (
          select t.id as k0, t.owner_id::text collate "C" as c0, t.name::text collate "C" as c1,
            case when p_md5 then ('x' || left(md5(p_seed::text || row(t.id)::text), 16))::bit(64)::bigint else hash_record_extended(row(t.id), p_seed) end as key_hash
          from public.characters as t
          where t.ctid >= seen[1] and t.ctid < seen[2]
            and not (t.owner_id is null and t.name is null and (select l.present is false from mirror.ledger_characters as l where l.id = t.id) is true)
          -- So that a hash is taken once, not wherever it is named.
          offset 0
        ) as k
        where p_wanted is null or get_bit(p_wanted, k.key_hash & wanted_low) = 1
        union all
        select k.k0, k.key_hash
        from (
          select l.id as k0,
            case when p_md5 then ('x' || left(md5(p_seed::text || row(l.id)::text), 16))::bit(64)::bigint else hash_record_extended(row(l.id), p_seed) end as key_hash
          from mirror.ledger_characters as l
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
          select t.id as k0, t.owner_id::text collate "C" as c0, t.name::text collate "C" as c1,
            case when p_md5 then ('x' || left(md5(p_seed::text || row(t.id)::text), 16))::bit(64)::bigint else hash_record_extended(row(t.id), p_seed) end as key_hash
          from public.characters as t
          where t.ctid >= seen[1] and t.ctid < seen[2]
            and not (t.owner_id is null and t.name is null and (select l.present is false from mirror.ledger_characters as l where l.id = t.id) is true)
          -- So that a hash is taken once, not wherever it is named.
          offset 0
        ) as k
        where p_wanted is null or get_bit(p_wanted, k.key_hash & wanted_low) = 1
        union all
        select (k.key_hash & low)::integer, null, k.key_hash
        from (
          select l.id as k0,
            case when p_md5 then ('x' || left(md5(p_seed::text || row(l.id)::text), 16))::bit(64)::bigint else hash_record_extended(row(l.id), p_seed) end as key_hash
          from mirror.ledger_characters as l
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
revoke all on function mirror.survey_characters(bigint, boolean, integer, bytea, boolean, integer, integer)
from public, anon, authenticated, service_role;


create or replace function mirror.rows_characters(p_keys jsonb)
returns jsonb
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select coalesce(jsonb_agg(jsonb_build_object(
    'key', jsonb_build_array(a.k0::text),
    'row', case when t.id is not null and not (t.owner_id is null and t.name is null and l.present is false) then
      jsonb_build_array(t.id::text, t.owner_id::text, t.name::text)
    end,
    'present', l.present,
    'epoch', l.epoch,
    'fence', l.fence,
    -- A row that was written after its ledger's was written by somebody else.
    'edited', coalesce(age(t.xmin) < age(l.xmin), false),
    'expired', coalesce(false, false),
    'outdated', coalesce(l.applied_at < (
      select g.applied_at from mirror.migrations as g where g.name = 'model_campaigns'
    ), false)
  )), '[]')
  from (select (k ->> 0)::bigint as k0 from jsonb_array_elements(p_keys) as k) as a
  left join public.characters as t on t.id = a.k0
  left join mirror.ledger_characters as l on l.id = a.k0
$$;


revoke all on function
  mirror.digest_characters(
    text[], text[], bigint, boolean, integer, boolean
  ),
  mirror.rows_characters(jsonb)
from public, anon, authenticated, service_role;


-- Who belongs to what is looked up by user.
select mirror.add_index('public.campaigns', 'dm_id');
select mirror.add_index('public.campaign_characters', 'owner_id');
select mirror.add_index('public.campaign_members', 'user_id');


-- What includes this one; null, which is nobody's, for any other name. Asked for in a subquery:
-- once, not for each row.
create or replace function mirror.campaign_roles(min_role text) returns text[]
language sql immutable set search_path = pg_catalog, pg_temp
as $$
  select case $1
    when 'SPECTATOR' then array['SPECTATOR', 'PLAYER', 'DM']
    when 'PLAYER' then array['PLAYER', 'DM']
    when 'DM' then array['DM']
  end
$$;


-- The campaigns in which the caller is active with at least this role. For policies, as
-- `id = any((select mirror.my_campaigns('SPECTATOR'))::bigint[])`: once per statement.
create or replace function mirror.my_campaigns(min_role text) returns bigint[]
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
  select coalesce(array_agg(s.id), '{}')
  from (
    select m.id
    from public.campaigns as m
    where m.dm_id = (select auth.uid())
      and exists (select from mirror.mappings as d where d.name = 'campaigns')
      and 'DM' = any((select mirror.campaign_roles($1))::text[])
    union all
    select m.campaign_id
    from public.campaign_characters as m
    where m.owner_id = (select auth.uid())
      and exists (select from mirror.mappings as d where d.name = 'campaign_characters')
      and 'PLAYER' = any((select mirror.campaign_roles($1))::text[])
    union all
    select m.campaign_id
    from public.campaign_members as m
    where m.user_id = (select auth.uid())
      and (m.expires_at is null or m.expires_at > now())
      and exists (select from mirror.mappings as d where d.name = 'campaign_members')
      and m.role = any((select mirror.campaign_roles($1))::text[])
  ) as s (id)
$$;


-- Everybody who shares a campaign with the caller, the caller included.
create or replace function mirror.my_campaign_companions() returns uuid[]
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
  select array_append(array_agg(distinct s.id), (select auth.uid()))
  from (
    select m.dm_id
    from public.campaigns as m
    where m.id = any((select mirror.my_campaigns('SPECTATOR'))::bigint[])
      and exists (select from mirror.mappings as d where d.name = 'campaigns')
    union all
    select m.owner_id
    from public.campaign_characters as m
    where m.campaign_id = any((select mirror.my_campaigns('SPECTATOR'))::bigint[])
      and exists (select from mirror.mappings as d where d.name = 'campaign_characters')
    union all
    select m.user_id
    from public.campaign_members as m
    where m.campaign_id = any((select mirror.my_campaigns('SPECTATOR'))::bigint[])
      and (m.expires_at is null or m.expires_at > now())
      and exists (select from mirror.mappings as d where d.name = 'campaign_members')
  ) as s (id)
$$;


-- By number: a column of the table that is called like a parameter would win over it.
create or replace function mirror.has_campaign_role(resource bigint, min_role text) returns boolean
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
  select exists (
    select from public.campaigns as m
    where m.id = $1
      and m.dm_id = (select auth.uid())
      and exists (select from mirror.mappings as d where d.name = 'campaigns')
      and 'DM' = any((select mirror.campaign_roles($2))::text[])
    union all
    select from public.campaign_characters as m
    where m.campaign_id = $1
      and m.owner_id = (select auth.uid())
      and exists (select from mirror.mappings as d where d.name = 'campaign_characters')
      and 'PLAYER' = any((select mirror.campaign_roles($2))::text[])
    union all
    select from public.campaign_members as m
    where m.campaign_id = $1
      and m.user_id = (select auth.uid())
      and (m.expires_at is null or m.expires_at > now())
      and exists (select from mirror.mappings as d where d.name = 'campaign_members')
      and m.role = any((select mirror.campaign_roles($2))::text[])
  )
$$;


create or replace function mirror.is_campaign_member(resource bigint) returns boolean
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$ select mirror.has_campaign_role($1, 'SPECTATOR') $$;


revoke all on function
  mirror.campaign_roles(text),
  mirror.my_campaigns(text),
  mirror.my_campaign_companions(),
  mirror.has_campaign_role(bigint, text),
  mirror.is_campaign_member(bigint)
from public, anon, authenticated, service_role;

grant execute on function
  mirror.my_campaigns(text),
  mirror.my_campaign_companions(),
  mirror.has_campaign_role(bigint, text),
  mirror.is_campaign_member(bigint)
to authenticated;


-- Whether somebody belongs to a campaign in any way; for telling what a row that goes means.
create or replace function mirror.belongs_to_campaign(resource bigint, person uuid) returns boolean
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
  select exists (
    select from public.campaigns as m
    where m.id = $1
      and m.dm_id = $2
      and exists (select from mirror.mappings as d where d.name = 'campaigns')
    union all
    select from public.campaign_characters as m
    where m.campaign_id = $1
      and m.owner_id = $2
      and exists (select from mirror.mappings as d where d.name = 'campaign_characters')
    union all
    select from public.campaign_members as m
    where m.campaign_id = $1
      and m.user_id = $2
      and (m.expires_at is null or m.expires_at > now())
      and exists (select from mirror.mappings as d where d.name = 'campaign_members')
      and m.role in ('SPECTATOR', 'PLAYER', 'DM')
  )
$$;
revoke all on function mirror.belongs_to_campaign(bigint, uuid)
from public, anon, authenticated, service_role;


-- Who belongs to what is looked up by user.
select mirror.add_index('public.characters', 'owner_id');
select mirror.add_index('public.campaign_characters', 'dm_id');


-- What includes this one; null, which is nobody's, for any other name. Asked for in a subquery:
-- once, not for each row.
create or replace function mirror.character_roles(min_role text) returns text[]
language sql immutable set search_path = pg_catalog, pg_temp
as $$
  select case $1
    when 'READER' then array['READER', 'OWNER']
    when 'OWNER' then array['OWNER']
  end
$$;


-- The characters in which the caller is active with at least this role. For policies, as
-- `id = any((select mirror.my_characters('READER'))::bigint[])`: once per statement.
create or replace function mirror.my_characters(min_role text) returns bigint[]
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
  select coalesce(array_agg(s.id), '{}')
  from (
    select m.id
    from public.characters as m
    where m.owner_id = (select auth.uid())
      and exists (select from mirror.mappings as d where d.name = 'characters')
      and 'OWNER' = any((select mirror.character_roles($1))::text[])
    union all
    select m.character_id
    from public.campaign_characters as m
    where m.dm_id = (select auth.uid())
      and exists (select from mirror.mappings as d where d.name = 'campaign_characters')
      and 'READER' = any((select mirror.character_roles($1))::text[])
  ) as s (id)
$$;


-- Everybody who shares a character with the caller, the caller included.
create or replace function mirror.my_character_companions() returns uuid[]
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
  select array_append(array_agg(distinct s.id), (select auth.uid()))
  from (
    select m.owner_id
    from public.characters as m
    where m.id = any((select mirror.my_characters('READER'))::bigint[])
      and exists (select from mirror.mappings as d where d.name = 'characters')
    union all
    select m.dm_id
    from public.campaign_characters as m
    where m.character_id = any((select mirror.my_characters('READER'))::bigint[])
      and exists (select from mirror.mappings as d where d.name = 'campaign_characters')
  ) as s (id)
$$;


-- By number: a column of the table that is called like a parameter would win over it.
create or replace function mirror.has_character_role(resource bigint, min_role text) returns boolean
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
  select exists (
    select from public.characters as m
    where m.id = $1
      and m.owner_id = (select auth.uid())
      and exists (select from mirror.mappings as d where d.name = 'characters')
      and 'OWNER' = any((select mirror.character_roles($2))::text[])
    union all
    select from public.campaign_characters as m
    where m.character_id = $1
      and m.dm_id = (select auth.uid())
      and exists (select from mirror.mappings as d where d.name = 'campaign_characters')
      and 'READER' = any((select mirror.character_roles($2))::text[])
  )
$$;


create or replace function mirror.is_character_member(resource bigint) returns boolean
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$ select mirror.has_character_role($1, 'READER') $$;


revoke all on function
  mirror.character_roles(text),
  mirror.my_characters(text),
  mirror.my_character_companions(),
  mirror.has_character_role(bigint, text),
  mirror.is_character_member(bigint)
from public, anon, authenticated, service_role;

grant execute on function
  mirror.my_characters(text),
  mirror.my_character_companions(),
  mirror.has_character_role(bigint, text),
  mirror.is_character_member(bigint)
to authenticated;


-- Whether somebody belongs to a character in any way; for telling what a row that goes means.
create or replace function mirror.belongs_to_character(resource bigint, person uuid) returns boolean
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
  select exists (
    select from public.characters as m
    where m.id = $1
      and m.owner_id = $2
      and exists (select from mirror.mappings as d where d.name = 'characters')
    union all
    select from public.campaign_characters as m
    where m.character_id = $1
      and m.dm_id = $2
      and exists (select from mirror.mappings as d where d.name = 'campaign_characters')
  )
$$;
revoke all on function mirror.belongs_to_character(bigint, uuid)
from public, anon, authenticated, service_role;


-- Who belongs to what is looked up by user.
select mirror.add_index('public.sources', 'owner_id');


-- What includes this one; null, which is nobody's, for any other name. Asked for in a subquery:
-- once, not for each row.
create or replace function mirror.source_roles(min_role text) returns text[]
language sql immutable set search_path = pg_catalog, pg_temp
as $$
  select case $1
    when 'OWNER' then array['OWNER']
  end
$$;


-- The sources in which the caller is active with at least this role. For policies, as
-- `id = any((select mirror.my_sources('OWNER'))::bigint[])`: once per statement.
create or replace function mirror.my_sources(min_role text) returns bigint[]
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
  select coalesce(array_agg(m.id), '{}')
  from public.sources as m
  where m.owner_id = (select auth.uid())
    and exists (select from mirror.mappings as d where d.name = 'sources')
    and 'OWNER' = any((select mirror.source_roles($1))::text[])
$$;


-- Everybody who shares a source with the caller, the caller included.
create or replace function mirror.my_source_companions() returns uuid[]
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
  select array_append(array_agg(distinct m.owner_id), (select auth.uid()))
  from public.sources as m
  where m.id = any((select mirror.my_sources('OWNER'))::bigint[])
    and exists (select from mirror.mappings as d where d.name = 'sources')
$$;


-- By number: a column of the table that is called like a parameter would win over it.
create or replace function mirror.has_source_role(resource bigint, min_role text) returns boolean
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
  select exists (
    select from public.sources as m
    where m.id = $1
      and m.owner_id = (select auth.uid())
      and exists (select from mirror.mappings as d where d.name = 'sources')
      and 'OWNER' = any((select mirror.source_roles($2))::text[])
  )
$$;


create or replace function mirror.is_source_member(resource bigint) returns boolean
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$ select mirror.has_source_role($1, 'OWNER') $$;


revoke all on function
  mirror.source_roles(text),
  mirror.my_sources(text),
  mirror.my_source_companions(),
  mirror.has_source_role(bigint, text),
  mirror.is_source_member(bigint)
from public, anon, authenticated, service_role;

grant execute on function
  mirror.my_sources(text),
  mirror.my_source_companions(),
  mirror.has_source_role(bigint, text),
  mirror.is_source_member(bigint)
to authenticated;


-- What an earlier version of this model declared is mirrored no more, so its rows must not grant
-- for ever. The table and its rows stay, for whoever wants to look; other models are left alone.
do $$
declare
  kept constant jsonb[] := array[
    '["public", "characters"]',
    '["public", "campaigns"]',
    '["public", "sources"]',
    '["public", "campaign_members"]',
    '["public", "campaign_characters"]'
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
    where m.model = 'campaigns'
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
    raise notice 'nobody may read % any more: model campaigns no longer has it', old.name;
  end loop;
  delete from mirror.mappings
  where model = 'campaigns' and name <> all (array['characters', 'campaigns', 'sources', 'campaign_members', 'campaign_characters']::text[]);
end
$$;


-- characters: the API's roles write nothing and read only what is granted here.
alter table public.characters enable row level security;
revoke all on public.characters from public, anon, authenticated, service_role;
grant select on public.characters to service_role;
grant select (id, owner_id, name) on public.characters to authenticated;
drop policy if exists characters_read on public.characters;
create policy characters_read on public.characters for select to authenticated
using (owner_id = (select auth.uid()) or id = any((select mirror.my_characters('READER'))::bigint[]));


-- campaigns: the API's roles write nothing and read only what is granted here.
alter table public.campaigns enable row level security;
revoke all on public.campaigns from public, anon, authenticated, service_role;
grant select on public.campaigns to service_role;
grant select (id, dm_id, name) on public.campaigns to authenticated;
drop policy if exists campaigns_read on public.campaigns;
create policy campaigns_read on public.campaigns for select to authenticated
using (id = any((select mirror.my_campaigns('SPECTATOR'))::bigint[]));


-- sources: the API's roles write nothing and read only what is granted here.
alter table public.sources enable row level security;
revoke all on public.sources from public, anon, authenticated, service_role;
grant select on public.sources to service_role;
grant select (id, owner_id, is_private, campaign_id) on public.sources to authenticated;
drop policy if exists sources_read on public.sources;
create policy sources_read on public.sources for select to authenticated
using (owner_id = (select auth.uid()) or not is_private or campaign_id = any((select mirror.my_campaigns('SPECTATOR'))::bigint[]));
select mirror.add_index('public.sources', 'campaign_id');


-- campaign_members: the API's roles write nothing and read only what is granted here.
alter table public.campaign_members enable row level security;
revoke all on public.campaign_members from public, anon, authenticated, service_role;
grant select on public.campaign_members to service_role;
grant select (campaign_id, user_id, role, expires_at) on public.campaign_members to authenticated;
drop policy if exists campaign_members_read on public.campaign_members;
create policy campaign_members_read on public.campaign_members for select to authenticated
using (
  (campaign_id = any((select mirror.my_campaigns('SPECTATOR'))::bigint[]))
  and (expires_at is null or expires_at > now())
);


-- campaign_characters: the API's roles write nothing and read only what is granted here.
alter table public.campaign_characters enable row level security;
revoke all on public.campaign_characters from public, anon, authenticated, service_role;
grant select on public.campaign_characters to service_role;
grant select (campaign_id, character_id, owner_id) on public.campaign_characters to authenticated;
drop policy if exists campaign_characters_read on public.campaign_characters;
create policy campaign_characters_read on public.campaign_characters for select to authenticated
using (campaign_id = any((select mirror.my_campaigns('SPECTATOR'))::bigint[]));


insert into mirror.mappings (name, model, position, digest, is_parent, declaration)
values ('characters', 'campaigns', 1, 'a5a47349d162b667', true, '{
  "name": "characters",
  "table": [
    "public",
    "characters"
  ],
  "key": [
    "id"
  ],
  "columns": [
    [
      "id",
      "bigint"
    ],
    [
      "owner_id",
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
      "campaign_characters",
      "character_id"
    ]
  ],
  "active": {},
  "on_delete": "delete",
  "query": "SELECT characters.id, characters.owner_id, characters.name FROM characters"
}')
on conflict (name) do update
set model = excluded.model, position = excluded.position, digest = excluded.digest,
  is_parent = excluded.is_parent, declaration = excluded.declaration;


insert into mirror.mappings (name, model, position, digest, is_parent, declaration)
values ('campaigns', 'campaigns', 2, '329c88cf51caf1df', true, '{
  "name": "campaigns",
  "table": [
    "public",
    "campaigns"
  ],
  "key": [
    "id"
  ],
  "columns": [
    [
      "id",
      "bigint"
    ],
    [
      "dm_id",
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
      "campaign_characters",
      "campaign_id"
    ],
    [
      "campaign_members",
      "campaign_id"
    ]
  ],
  "active": {},
  "on_delete": "delete",
  "query": "SELECT campaigns.id, campaigns.dm_id, campaigns.name FROM campaigns"
}')
on conflict (name) do update
set model = excluded.model, position = excluded.position, digest = excluded.digest,
  is_parent = excluded.is_parent, declaration = excluded.declaration;


insert into mirror.mappings (name, model, position, digest, is_parent, declaration)
values ('sources', 'campaigns', 3, '9e41c3aba138a28e', false, '{
  "name": "sources",
  "table": [
    "public",
    "sources"
  ],
  "key": [
    "id"
  ],
  "columns": [
    [
      "id",
      "bigint"
    ],
    [
      "owner_id",
      "uuid"
    ],
    [
      "is_private",
      "boolean"
    ],
    [
      "campaign_id",
      "bigint"
    ]
  ],
  "references": [],
  "parents": [],
  "children": [],
  "active": {},
  "on_delete": "delete",
  "query": "SELECT sources.id, sources.owner_id, sources.is_private, sources.campaign_id FROM sources"
}')
on conflict (name) do update
set model = excluded.model, position = excluded.position, digest = excluded.digest,
  is_parent = excluded.is_parent, declaration = excluded.declaration;


insert into mirror.mappings (name, model, position, digest, is_parent, declaration)
values ('campaign_members', 'campaigns', 4, '6d14c6641b152c1a', false, '{
  "name": "campaign_members",
  "table": [
    "public",
    "campaign_members"
  ],
  "key": [
    "campaign_id",
    "user_id"
  ],
  "columns": [
    [
      "campaign_id",
      "bigint"
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
      "expires_at",
      "timestamptz"
    ]
  ],
  "references": [
    [
      "campaign_id",
      "bigint"
    ]
  ],
  "parents": [
    [
      "campaigns",
      "campaign_id"
    ]
  ],
  "children": [],
  "active": {},
  "on_delete": "delete",
  "expires": "expires_at",
  "query": "SELECT campaign_members.campaign_id, campaign_members.user_id, campaign_members.role, campaign_members.expires_at FROM campaign_members"
}')
on conflict (name) do update
set model = excluded.model, position = excluded.position, digest = excluded.digest,
  is_parent = excluded.is_parent, declaration = excluded.declaration;


insert into mirror.mappings (name, model, position, digest, is_parent, declaration)
values ('campaign_characters', 'campaigns', 5, 'e312b8c5ea5b4e5f', false, '{
  "name": "campaign_characters",
  "table": [
    "public",
    "campaign_characters"
  ],
  "key": [
    "campaign_id",
    "character_id"
  ],
  "columns": [
    [
      "campaign_id",
      "bigint"
    ],
    [
      "character_id",
      "bigint"
    ],
    [
      "owner_id",
      "uuid"
    ],
    [
      "dm_id",
      "uuid"
    ]
  ],
  "references": [
    [
      "character_id",
      "bigint"
    ],
    [
      "campaign_id",
      "bigint"
    ]
  ],
  "parents": [
    [
      "campaigns",
      "campaign_id"
    ],
    [
      "characters",
      "character_id"
    ]
  ],
  "children": [],
  "active": {},
  "on_delete": "delete",
  "query": "SELECT campaign_characters.campaign_id, campaign_characters.character_id, characters.owner_id, campaigns.dm_id FROM campaign_characters JOIN characters ON characters.id = campaign_characters.character_id JOIN campaigns ON campaigns.id = campaign_characters.campaign_id"
}')
on conflict (name) do update
set model = excluded.model, position = excluded.position, digest = excluded.digest,
  is_parent = excluded.is_parent, declaration = excluded.declaration;
