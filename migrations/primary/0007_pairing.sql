-- Which target this primary feeds, and which of its recorded changes may still be under way.
-- Every statement can run again.


-- The last step that primary and target took together. Each step gives both a new token, and the
-- primary is one step ahead at most. So a copy of either is recognised as soon as the original has
-- taken a step without it; addresses and names play no part.
create table if not exists mirror.pairing (
  one boolean primary key default true check (one),
  -- The number of this step.
  step bigint not null default 0,
  token uuid not null default gen_random_uuid(),
  -- The token of the step before; null: no target is known yet.
  base uuid,
  -- Whether the target is known to have taken this step; otherwise it may still be at `base`.
  acked boolean not null default false,
  stepped_at timestamptz not null default clock_timestamp()
) with (fillfactor = 10);
insert into mirror.pairing default values on conflict do nothing;


-- The server's timeline: a fail-over begins another one. Null where the host does not tell it.
create or replace function mirror.wal_timeline() returns text
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
  return left(pg_walfile_name(pg_current_wal_insert_lsn()), 8);
exception when others then
  return null;
end
$$;


-- Propose the next step, if the target has taken the last one and that is a second ago. Return the
-- server's timeline.
create or replace function mirror.propose_step() returns text
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
  -- A step that a crash of this server undoes after the target has taken it looks like a primary
  -- that was restored.
  if current_setting('synchronous_commit') = 'off' then
    perform set_config('synchronous_commit', 'on', true);
  end if;
  update mirror.pairing as p
  set step = p.step + 1, base = p.token, token = gen_random_uuid(), acked = false,
    stepped_at = clock_timestamp()
  where p.acked
    -- A clock that was set back must not stop the steps.
    and p.stepped_at not between clock_timestamp() - interval '1 second' and clock_timestamp();
  return mirror.wal_timeline();
end
$$;


-- The origin of an event that continues others: the lowest transaction id of those. Null: the event
-- was recorded for its own transaction. `transaction_id` cannot say so: other workers search from a
-- floor on, and would not find the event below it.
alter table mirror.outbox add column if not exists origin bigint;
alter table mirror.retries add column if not exists origin bigint;
create index if not exists outbox_origin on mirror.outbox (origin)
where lane = 0 and origin is not null;
-- Names of mappings have at most 40 letters. A backend may write any text, and an index refuses one
-- that is too long: no event would be set apart any more.
create index if not exists retries_origin
on mirror.retries ((left(mapping, 64)), (coalesce(origin, transaction_id)))
where lane = 0 and withheld_at is null;


-- The event waits for a worker that knows its mapping as the target does: none of those that have
-- looked at it does.
alter table mirror.retries add column if not exists unclaimed boolean not null default false;
create index if not exists retries_unclaimed
on mirror.retries ((left(mapping, 64)), lane, id) where unclaimed;


-- As mirror.claim_events, which workers of the version before call, and the lowest origin of each
-- group beside it.
--
-- `p_known`: the mappings that the worker can mirror. Events of others are set apart, for a worker that
-- can: the events behind them, and the claims to come, then do not have to pass them. They are returned,
-- too. Of those that were set apart so, up to half a batch is taken. Null: all events are the worker's.
create or replace function mirror.claim_batch(
  p_floor bigint, p_limit integer, p_few integer, p_known text[]
)
returns table (
  mapping text,
  -- Whether these are scopes.
  scopes boolean,
  -- How many parts each of these keys has.
  parts integer,
  revocations integer,
  grants integer,
  -- The lowest and the highest transaction id.
  oldest bigint,
  newest bigint,
  -- The lowest transaction id whose change these events may be the rest of.
  origin bigint,
  -- bigint[]
  ids text,
  -- text[] for each of the first four parts: that part of every key.
  keys text[],
  -- A hint: a claim whose worker has crashed may have held one of the events.
  noted boolean
)
language plpgsql set search_path = pg_catalog, pg_temp
-- A plan that is kept from when the outbox was empty would read and sort all of a backlog for each
-- claim. With these it always walks the index in its order.
set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off
as $$
begin
  return query
  with unclaimed as materialized (
    select u.ctid
    from unnest(p_known) as k (name)
    cross join lateral (
      select r.ctid, r.lane, r.id from mirror.retries as r
      where r.unclaimed and left(r.mapping, 64) = k.name
      order by r.lane, r.id limit (p_limit + 1) / 2
      for update skip locked
    ) as u
    order by u.lane, u.id limit (p_limit + 1) / 2
  ),
  -- One query for each lane, so that each starts in the index at the floor.
  revocations as materialized (
    select o.ctid from mirror.outbox as o
    where o.lane = 0 and o.transaction_id >= p_floor
    order by o.transaction_id, o.id
    limit (select greatest(p_limit - count(*), 1) from unclaimed)
    for update skip locked
  ),
  grants as materialized (
    select o.ctid from mirror.outbox as o
    where o.lane = 1 and o.transaction_id >= p_floor
    order by o.transaction_id, o.id
    limit (
      select case when r.taken = 0 then greatest(p_limit - u.taken, 1)
        else least(p_few, greatest(p_limit - u.taken - r.taken, 0)) end
      from (select count(*) as taken from revocations) as r,
        (select count(*) as taken from unclaimed) as u
    )
    for update skip locked
  ),
  found as (
    delete from mirror.outbox as o
    where o.ctid = any (array(select r.ctid from revocations as r union all table grants))
    returning o.id, o.lane, o.transaction_id, o.origin, o.recorded_at, o.mapping, o.reference, o.key
  ),
  left_out as (
    insert into mirror.retries
      (id, transaction_id, origin, lane, recorded_at, mapping, reference, key, attempts, due_at,
        error, unclaimed)
    select
      -- Another event may have this id already, where a sequence went back.
      case when row_number() over (partition by f.id) > 1
          or exists (select from mirror.retries as r where r.id = f.id)
        then nextval(pg_get_serial_sequence('mirror.outbox', 'id')) else f.id end,
      f.transaction_id, f.origin, f.lane, f.recorded_at, f.mapping, f.reference, f.key, 0,
      now() + interval '100 years',
      'no worker that has looked at it knows this version of its mapping', true
    from found as f
    where f.mapping <> all (p_known)
  ),
  returned as (
    delete from mirror.retries as r
    where r.ctid = any (array(select u.ctid from unclaimed as u))
    returning r.id, r.lane, r.transaction_id, r.origin, r.mapping, r.reference, r.key
  ),
  taken as (
    select f.id, f.lane, f.transaction_id, f.origin, f.mapping, f.reference, f.key from found as f
    union all
    table returned
  )
  select t.mapping, t.reference is not null, cardinality(t.key),
    (count(*) filter (where t.lane = 0))::integer, (count(*) filter (where t.lane = 1))::integer,
    min(t.transaction_id), max(t.transaction_id), min(coalesce(t.origin, t.transaction_id)),
    array_agg(t.id)::text,
    array[
      array_agg(t.key[1])::text, array_agg(t.key[2])::text,
      array_agg(t.key[3])::text, array_agg(t.key[4])::text
    ],
    exists (select from mirror.claims as c where c.events && array(select id from taken))
  from taken as t
  group by 1, 2, 3;
end
$$;


-- As mirror.read_stamp, which workers of the version before call, and the present step beside it.
create or replace function mirror.read_paired_stamp(
  out fence bigint, out epoch integer, out system bigint, out timeline text, out database text,
  out step bigint, out token uuid, out base uuid, out acked boolean
)
-- Not in SQL: the plan of such a function is not kept.
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
  select s.fence, s.epoch, s.system, s.timeline, s.database, p.step, p.token, p.base, p.acked
  into fence, epoch, system, timeline, database, step, token, base, acked
  from mirror.read_stamp() as s cross join mirror.pairing as p;
end
$$;


-- Look which recorded revocations may not be in force in the target yet.
-- `horizon`: each transaction that had committed before this look has a lower id.
-- `outbox`: the lowest transaction id among those that wait; claimed events still count. Null: none.
-- `retries`: likewise by mapping, of those that were set apart, as a JSON object. Not those whose key
-- the target withholds, so that it grants nothing, or whose row lacks descriptive columns alone.
create or replace function mirror.look(
  p_floor bigint, out horizon bigint, out outbox bigint, out retries jsonb
)
language plpgsql stable set search_path = pg_catalog, pg_temp
-- As in mirror.claim_groups: a plan from when the tables were empty would read all of a backlog, and
-- this one would be compiled.
set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off set jit = off
as $$
begin
  if pg_is_in_recovery() then
    raise exception 'this server is a standby, which may be behind the primary'
      using errcode = 'MR014', hint = 'Let PRIMARY_DATABASE_URL lead to the primary itself.';
  end if;
  select pg_snapshot_xmax(pg_current_snapshot())::text::bigint,
    least(
      (
        select o.transaction_id from mirror.outbox as o
        where o.lane = 0 and o.transaction_id >= p_floor order by o.transaction_id limit 1
      ),
      (
        select o.origin from mirror.outbox as o
        where o.lane = 0 and o.origin is not null order by o.origin limit 1
      )
    ),
    (
      -- From one mapping to the next: one that is parked may have any number of events.
      with recursive r (mapping, origin) as (
        (
          select left(w.mapping, 64), coalesce(w.origin, w.transaction_id)
          from mirror.retries as w
          where w.lane = 0 and w.withheld_at is null
          order by left(w.mapping, 64), coalesce(w.origin, w.transaction_id) limit 1
        )
        union all
        select n.mapping, n.origin
        from r
        cross join lateral (
          select left(w.mapping, 64) as mapping, coalesce(w.origin, w.transaction_id) as origin
          from mirror.retries as w
          where w.lane = 0 and w.withheld_at is null and left(w.mapping, 64) > r.mapping
          order by left(w.mapping, 64), coalesce(w.origin, w.transaction_id) limit 1
        ) as n
      )
      select coalesce(jsonb_object_agg(r.mapping, r.origin), '{}') from r
    )
  into horizon, outbox, retries;
end
$$;
