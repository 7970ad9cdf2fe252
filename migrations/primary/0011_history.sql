-- How long events took from the start of their transaction until they were in force.
-- Every statement can run again.


-- By lane: how many events took at most `bound` seconds, and more than the bound below. It only ever
-- grows. A worker adds to it about once a second, so a few rows stay a few rows: no index names a
-- column that changes, and the old version of a row makes way for the new one on its page.
create table if not exists mirror.delays (
  lane smallint not null check (lane in (0, 1)),
  bound double precision not null,
  events bigint not null,
  -- The sum of their delays.
  seconds double precision not null,
  primary key (lane, bound)
) with (fillfactor = 10);


-- How many events of each mapping were in force, set apart, or dead. It only ever grows, like
-- `mirror.delays`; an event that was set apart counts again when its retry ends.
create table if not exists mirror.outcomes (
  mapping text not null,
  outcome text not null check (outcome in ('in_force', 'set_apart', 'dead')),
  events bigint not null,
  primary key (mapping, outcome)
) with (fillfactor = 10);


-- The last revocations. The worker that adds to them deletes the oldest.
create table if not exists mirror.revocations (
  number bigint generated always as identity primary key,
  -- The event's id.
  id bigint not null,
  mapping text not null,
  in_force_at timestamptz not null,
  -- From the start of its transaction until then.
  seconds double precision not null
);


-- As mirror.claim_batch, which workers of the version before call, and beside each id the age of its
-- event. Revocations come first in both arrays.
--
-- `p_known`: the mappings that the worker can mirror. Events of others are set apart, for a worker that
-- can: the events behind them, and the claims to come, then do not have to pass them. They are returned,
-- too. Of those that were set apart so, up to half a batch is taken. Null: all events are the worker's.
-- An earlier draft of this migration returned other columns, which CREATE OR REPLACE cannot change.
drop function if exists mirror.claim_groups(bigint, integer, integer, text[]);
create or replace function mirror.claim_groups(
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
  -- real[]: the seconds since the start of the transaction that recorded each.
  ages text,
  -- text[] for each of the first four parts: that part of every key.
  keys text[],
  -- A hint: a claim whose worker has crashed may have held one of the events.
  noted boolean
)
language plpgsql set search_path = pg_catalog, pg_temp
-- A plan that is kept from when the outbox was empty would read and sort all of a backlog for each
-- claim. With these it always walks the index in its order. Where it has to sort nevertheless, the plan
-- counts as so expensive that the server would compile it, for longer than it runs.
set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off set jit = off
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
    returning r.id, r.lane, r.transaction_id, r.origin, r.recorded_at, r.mapping, r.reference, r.key
  ),
  taken as (
    select t.*,
      -- A writer may have given any time: infinity, or a year of 20000.
      date_part(
        'epoch', now() - greatest(least(t.recorded_at, now()), '2000-01-01 UTC')
      )::real as age
    from (
      select f.id, f.lane, f.transaction_id, f.origin, f.recorded_at, f.mapping, f.reference, f.key
      from found as f
      union all
      table returned
    ) as t
  )
  select t.mapping, t.reference is not null, cardinality(t.key),
    (count(*) filter (where t.lane = 0))::integer, (count(*) filter (where t.lane = 1))::integer,
    min(t.transaction_id), max(t.transaction_id), min(coalesce(t.origin, t.transaction_id)),
    (array_agg(t.id) filter (where t.lane = 0) || array_agg(t.id) filter (where t.lane = 1))::text,
    (array_agg(t.age) filter (where t.lane = 0) || array_agg(t.age) filter (where t.lane = 1))::text,
    array[
      array_agg(t.key[1])::text, array_agg(t.key[2])::text,
      array_agg(t.key[3])::text, array_agg(t.key[4])::text
    ],
    exists (select from mirror.claims as c where c.events && array(select id from taken))
  from taken as t
  group by 1, 2, 3;
end
$$;


-- Whether an event that was set apart is due for its retry. A worker asks with each claim, so this is
-- a function, whose plan is kept.
create or replace function mirror.is_retry_due() returns boolean
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
  return coalesce(least(
    (select min(r.due_at) from mirror.retries as r where r.buried_at is null and r.lane = 0),
    (select min(r.due_at) from mirror.retries as r where r.buried_at is null and r.lane = 1)
  ) <= now(), false);
end
$$;
