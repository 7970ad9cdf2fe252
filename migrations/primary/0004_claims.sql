-- Claims and stamps as functions, so that the server keeps their plans. A worker cannot prepare
-- statements, because its connection may go through a pooler; and to plan a claim takes longer than
-- to run it.
-- Every statement can run again.


-- Take up to `p_limit` events out of the outbox, in the caller's transaction. Return them grouped by
-- mapping, by whether they are scopes, and by the number of their key's parts: as array literals,
-- which the worker passes on without reading them.
--
-- `p_floor`: no event has a lower transaction id. `p_few`: how many grants to take along with
-- revocations; with a whole batch of grants, the revocations would wait for them.
create or replace function mirror.claim_events(p_floor bigint, p_limit integer, p_few integer)
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
  -- One query for each lane, so that each starts in the index at the floor.
  with revocations as materialized (
    select o.ctid from mirror.outbox as o
    where o.lane = 0 and o.transaction_id >= p_floor
    order by o.transaction_id, o.id limit p_limit
    for update skip locked
  ),
  grants as materialized (
    select o.ctid from mirror.outbox as o
    where o.lane = 1 and o.transaction_id >= p_floor
    order by o.transaction_id, o.id
    limit (
      select case when count(*) = 0 then p_limit else least(p_few, p_limit - count(*)) end
      from revocations
    )
    for update skip locked
  ),
  taken as (
    delete from mirror.outbox as o
    where o.ctid = any (array(select r.ctid from revocations as r union all table grants))
    returning o.id, o.lane, o.transaction_id, o.mapping, o.reference, o.key
  )
  select t.mapping, t.reference is not null, cardinality(t.key),
    (count(*) filter (where t.lane = 0))::integer, (count(*) filter (where t.lane = 1))::integer,
    min(t.transaction_id), max(t.transaction_id), array_agg(t.id)::text,
    array[
      array_agg(t.key[1])::text, array_agg(t.key[2])::text,
      array_agg(t.key[3])::text, array_agg(t.key[4])::text
    ],
    exists (select from mirror.claims as c where c.events && array(select id from taken))
  from taken as t
  group by 1, 2, 3;
end
$$;


-- Read the snapshot's fence, the epoch, and what identifies this primary. The fence packs the
-- snapshot's xmax and the number of transactions that ran below it; mirror.sync.snapshot says why.
create or replace function mirror.read_stamp(
  out fence bigint, out epoch integer, out system bigint, out timeline text, out database text
)
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  -- PostgreSQL allows 2^18 connections, so the count fits.
  running_bits constant integer := 20;
  snapshot constant pg_snapshot := pg_current_snapshot();
begin
  -- A standby may lag: what it does not have yet would be taken for gone, or for still there. A
  -- pooler that splits reads from writes can lead here.
  if pg_is_in_recovery() then
    raise exception 'this server is a standby, which may be behind the primary'
      using errcode = 'MR014', hint = 'Let PRIMARY_DATABASE_URL lead to the primary itself.';
  end if;
  select (pg_snapshot_xmax(snapshot)::text::bigint << running_bits) + ((1 << running_bits) - 1)
      - (select count(*) from pg_snapshot_xip(snapshot))
      - coalesce((pg_current_xact_id_if_assigned() < pg_snapshot_xmax(snapshot))::integer, 0),
    (select s.epoch from mirror.state as s), current_setting('neon.timeline_id', true),
    current_database()
  into fence, epoch, timeline, database;
  -- Some hosts do not let a user read the system identifier.
  if has_function_privilege('pg_control_system()', 'execute') then
    system := (select c.system_identifier from pg_control_system() as c);
  end if;
end
$$;


-- Ids hardly compress, and each claim writes them.
alter table mirror.claims alter column events set storage external;
