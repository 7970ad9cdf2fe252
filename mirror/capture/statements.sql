-- Every statement that the library sends to the schema `mirror` of the primary.
--
-- `statement("claim_events")` in statements.py returns the text below the title `claim_events`,
-- without comments. A title stands alone on its line. Placeholders follow the caller's library:
--   %s, %(name)s      psycopg, filled in by the driver
--   {}, {0}, {name}   psycopg.sql, filled in with quoted literals (several statements in one message)
--   :name             SQLAlchemy: a backend may use any driver
--
-- Not here: functions and triggers (migrations/primary, mirror.schema.triggers), and
-- mirror.schema.migrate, which reads mirror.migrations on both sides.


-- ==== A backend records events and waits for them ===============================================

-- record_events --
-- One text for any number of events: compiled once, one round trip, and one parameter that every
-- driver can send.
insert into mirror.outbox (lane, mapping, reference, key)
select (e.event ->> 0)::smallint, e.event ->> 1, e.event ->> 2,
  array(
    select part.value
    from jsonb_array_elements_text(e.event -> 3) with ordinality as part (value, place)
    order by part.place
  )
from jsonb_array_elements(cast(cast(:events as text) as jsonb)) with ordinality as e (event, place)
order by e.place

-- describe_sources --
-- Facts about the mapped tables that models do not have. A row with a place (in `tables`) is a view over that
-- table, a table behind a view that a mapping reads, or another view over that. A row without one
-- is a table, with the types of its columns. All schemas are searched if none is given: the worker's
-- search_path is not known here.
with recursive source as (
  select c.oid, t.place
  from jsonb_array_elements(cast(cast(:tables as text) as jsonb)) with ordinality as t (name, place)
  join pg_catalog.pg_class as c on c.relname = t.name ->> 1 and c.relkind in ('r', 'p', 'v', 'f')
  join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
  where n.nspname = coalesce(t.name ->> 0, n.nspname)
),
link as (
  select distinct w.ev_class as reader, c.relkind = 'v' as is_view, d.refobjid as read
  from pg_catalog.pg_rewrite as w
  join pg_catalog.pg_class as c on c.oid = w.ev_class
  join pg_catalog.pg_depend as d
    on d.classid = cast('pg_catalog.pg_rewrite' as regclass) and d.objid = w.oid
    and d.refclassid = cast('pg_catalog.pg_class' as regclass) and d.refobjid <> w.ev_class
),
behind as (
  select oid, place from source
  union
  select l.read, b.place from behind as b join link as l on l.reader = b.oid and l.is_view
),
reaching as (
  select oid, place from behind
  union
  select l.reader, r.place from reaching as r join link as l on l.read = r.oid
),
described as (
  select r.oid, r.place from reaching as r
  where not exists (select from source as s where (s.oid, s.place) = (r.oid, r.place))
  union
  select oid, null from source
)
select n.nspname as schema, c.relname as name, d.place, a.types, a.computed,
  exists (
    -- A trigger BEFORE INSERT or UPDATE of each row.
    select from pg_catalog.pg_trigger as g
    where g.tgrelid = c.oid and not g.tgisinternal and g.tgenabled <> 'D'
      and g.tgtype & 3 = 3 and g.tgtype & 20 <> 0
  ) as rewritten
from described as d
join pg_catalog.pg_class as c on c.oid = d.oid
join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
cross join lateral (
  select
    cast(coalesce(jsonb_object_agg(a.attname, case
      when o.proname in ('textout', 'varcharout', 'enum_out', 'citextout') then 'text'
      when o.proname in ('int2out', 'int4out', 'int8out') then 'integer'
      when o.proname = 'uuid_out' then 'uuid'
    end), '{}') as text) as types,
    cast(coalesce(jsonb_agg(a.attname) filter (where a.attgenerated <> ''), '[]') as text)
      as computed
  from pg_catalog.pg_attribute as a
  join pg_catalog.pg_type as t on t.oid = a.atttypid
  join pg_catalog.pg_proc as o on o.oid = t.typoutput
  where a.attrelid = c.oid and a.attnum > 0
) as a

-- read_recorded_events --
-- Inside the transaction: its id, a proof that it is ours, and the events that it has recorded so
-- far. The backend's role may not read the outbox, so a function answers.
select cast(own.id as text), own.proof, cast(mirror.events_of(own.id, own.proof) as text)
from (select pg_current_xact_id_if_assigned(), mirror.prove_transaction()) as own (id, proof)

-- read_committed_events --
-- After the transaction: whether it committed, and all its events, those of COMMIT included.
select pg_xact_status(cast(cast(:transaction as text) as xid8)),
  cast(
    mirror.events_of(cast(cast(:transaction as text) as xid8), cast(:proof as text)) as text
  )

-- find_still_waiting --
-- Which of these events, and of those that followed from them, have not reached the target.
select cast(mirror.still_waiting(cast(cast(:question as text) as jsonb)) as text)


-- ==== A worker claims events ====================================================================

-- claim_events --
select * from mirror.claim_and_read({floor}, {limit}, {few}, {known}::text[], {ahead}::jsonb)

-- read_ahead --
-- One statement, so that the stamp and the rows are of one moment.
select s.*, r.* from ({stamp}) as s cross join ({rows}) as r

-- read_claimed_events --
-- Over another connection than the claim's: there, events that a claim has taken are still visible.
-- A plain `= any` would parse the array again for each row; `is true` keeps the hashed subquery from
-- becoming a join, whose plan depends on statistics that a queue seldom has.
with claimed as materialized (select unnest(%(ids)s::text::bigint[]) as id)
select id, transaction_id, lane, recorded_at::text, mapping, reference, key, origin
from mirror.outbox
where lane in (0, 1) and transaction_id between %(oldest)s and %(newest)s
  and id between (select min(id) from claimed) and (select max(id) from claimed)
  and (id in (select id from claimed)) is true
union all
select id, transaction_id, lane, recorded_at::text, mapping, reference, key, origin
from mirror.retries
where unclaimed and id = any(array(select id from claimed))
order by lane, id

-- release_events --
-- Events whose claim was rolled back although its worker lives. Written anew, their rows no longer have
-- the id (`xmax`) by which a claim takes a worker for crashed. Events that another worker has claimed
-- meanwhile are left to it. As in `read_claimed_events`, no plan depends on statistics.
with released as materialized (select unnest({ids}::text::bigint[]) as id),
waiting as (
  select ctid from mirror.outbox
  where lane in (0, 1) and transaction_id between {oldest} and {newest}
    and (id in (select id from released)) is true
  for update skip locked
),
set_apart as (
  select ctid from mirror.retries
  where unclaimed and id = any(array(select id from released))
  for update skip locked
),
anew as (
  update mirror.retries set unclaimed = true where ctid = any(array(select ctid from set_apart))
)
update mirror.outbox set lane = lane where ctid = any(array(select ctid from waiting))

-- record_event --
-- It goes on where an event of so many seconds stopped.
insert into mirror.outbox (lane, mapping, reference, key, origin, recorded_at)
values (%s, %s, %s, %s, %s, greatest(now() - %s * interval '1 second', '2000-01-01 UTC'))

-- announce_event --
-- Each attempt at an event may announce the same events: those that wait already are not repeated,
-- and only learn what else they continue. An event that a worker has claimed does not count, because
-- that worker may have read before the change; it is locked. One that is set apart does: events of a
-- parent that is refused for ever would announce each other for ever. A retry of it that is under way
-- notices that its row was updated, and is repeated.
with waiting as (
  select ctid from mirror.outbox
  where mapping = %(mapping)s and reference = %(reference)s and key = %(key)s::text[]
    and lane <= %(lane)s
  limit 1
  for no key update skip locked
),
apart as (
  select id from mirror.retries
  where mapping = %(mapping)s and reference = %(reference)s and key = %(key)s::text[]
    and lane <= %(lane)s
  limit 1
  -- A retry that has just succeeded deletes it.
  for no key update skip locked
),
waiting_longer as (
  update mirror.outbox as o
  set origin = %(origin)s
  from waiting as w
  where o.ctid = w.ctid and coalesce(o.origin, o.transaction_id) > %(origin)s
),
apart_longer as (
  update mirror.retries as r
  set origin = case when coalesce(r.origin, r.transaction_id) > %(origin)s then %(origin)s
    else r.origin end
  from apart as a
  where r.id = a.id and (r.deaths > 0 or coalesce(r.origin, r.transaction_id) > %(origin)s)
)
insert into mirror.outbox (lane, mapping, reference, key, origin)
select %(lane)s, %(mapping)s, %(reference)s, %(key)s::text[], %(origin)s
where not exists (select from waiting) and not exists (select from apart)

-- find_floor --
-- The lowest transaction id that can still have events. Claimed events stay visible to other
-- transactions until the claim commits; events that are not committed yet belong to a transaction
-- at or above xmin.
select least(
  pg_snapshot_xmin(pg_current_snapshot())::text::bigint,
  (
    select transaction_id from mirror.outbox
    where lane = 0 and transaction_id >= %(floor)s order by transaction_id limit 1
  ),
  (
    select transaction_id from mirror.outbox
    where lane = 1 and transaction_id >= %(floor)s order by transaction_id limit 1
  )
)

-- read_stamp --
select fence, epoch, system, timeline, database, step, token::text, base::text, acked
from mirror.read_paired_stamp()

-- propose_step --
select mirror.propose_step()

-- acknowledge_step --
update mirror.pairing set acked = true where token = {}::uuid and not acked

-- read_pair --
-- By the function, which refuses a standby.
select step, token::text, base::text, acked from mirror.read_paired_stamp()

-- look --
select horizon, outbox, retries from mirror.look(%(floor)s)

-- read_heartbeat --
-- On any machine.
select extract(epoch from now() - max(seen_at))::float8 from mirror.heartbeats
where split_part(name, '@', 1) = %s having count(*) > 0

-- read_health --
-- By part: the seconds since it was last at work, on one machine or (null) on any. After an outage of
-- this server a heartbeat can be no younger than the server; so it counts from the server's start.
select split_part(name, '@', 1),
  least(
    extract(epoch from now() - max(seen_at)), extract(epoch from now() - pg_postmaster_start_time())
  )::float8
from mirror.heartbeats
where split_part(name, '@', 1) = any(%(parts)s)
  and split_part(name, '@', 2) = coalesce(%(machine)s, split_part(name, '@', 2))
group by 1

-- read_turns --
-- When the schedule's last reconcile and the last purge began, or else this primary was installed.
select
  coalesce(
    (
      select max(started_at) from mirror.runs
      where started_by in ('beat', 'schedule') and outcome is distinct from 'stopped'
    ),
    installed
  ),
  coalesce(
    (select max(seen_at) from mirror.heartbeats where split_part(name, '@', 1) = 'purge'), installed
  )
from (select min(applied_at) as installed from mirror.migrations) as m

-- beat --
-- A heartbeat that is younger than 25 seconds stays: the workers of a machine share a row.
insert into mirror.heartbeats as h (name) values ({})
on conflict (name) do update set seen_at = now()
where h.seen_at < now() - interval '25 seconds'
returning name

-- forget_heartbeats --
-- Those of machines that are gone; the last one of each part stays.
delete from mirror.heartbeats as h
where seen_at < now() - interval '7 days' and exists (
  select from mirror.heartbeats as n
  where split_part(n.name, '@', 1) = split_part(h.name, '@', 1) and n.seen_at > h.seen_at
)
returning name

-- add_history --
select mirror.add_history({}::jsonb, {}::float8[], {}::bigint, {}::jsonb)


-- ==== A worker retries events ===================================================================

-- set_event_apart --
-- The wait starts at the clock's time, not at the start of the claim's transaction. Another event
-- may have this id already, where a sequence went back (after a logical cut-over, for example). Of
-- the events of a mapping that cannot be read, the first is retried for all; the others wait for it.
insert into mirror.retries
  (id, transaction_id, origin, lane, recorded_at, mapping, reference, key, attempts, due_at, error,
    buried_at, withheld_at, parked)
select
  case when exists (select from mirror.retries where id = %(id)s)
    then nextval(pg_get_serial_sequence('mirror.outbox', 'id')) else %(id)s end,
  %(transaction_id)s, %(origin)s, %(lane)s, %(recorded_at)s, %(mapping)s, %(reference)s, %(key)s, %(attempts)s,
  clock_timestamp() + case
    when %(parked)s and exists (
      -- Locked until this one is committed: a retry that succeeds meanwhile would not see it.
      select from (
        select from mirror.retries where parked and mapping = %(mapping)s order by id limit 1 for share
      ) as first
    ) then interval '100 years' else %(wait)s * interval '1 second'
  end, %(error)s,
  case when %(buried)s then now() end, case when %(withheld)s then now() end, %(parked)s

-- lease_retry --
-- Commits the lease and one more death before the attempt, in case the worker crashes in it. A
-- worker that survives the attempt takes the death back.
update mirror.retries
set deaths = deaths + 1, due_at = now() + %s * interval '1 second'
where id = (
  select id from mirror.retries
  where buried_at is null and due_at <= now()
  order by lane, due_at
  limit 1
  for update skip locked
)
returning id, transaction_id, lane, recorded_at::text, mapping, reference, key, origin, attempts + 1,
  deaths, parked, xmin::text,
  date_part('epoch', now() - greatest(least(recorded_at, now()), '2000-01-01 UTC'))

-- note_failed_retry --
update mirror.retries
set attempts = attempts + 1, deaths = deaths - 1, error = %(error)s,
  due_at = clock_timestamp() + %(wait)s * interval '1 second',
  buried_at = case when %(buried)s then now() end,
  withheld_at = case when %(withheld)s then coalesce(withheld_at, now()) else withheld_at end,
  parked = %(parked)s
where id = %(id)s

-- leave_retry --
-- This worker does not know the mapping as the target does, so the event waits for one that does. So
-- do the parked events of the mapping, for which it may stand.
update mirror.retries
set unclaimed = true, parked = false, due_at = now() + interval '100 years',
  deaths = case when id = %(id)s then deaths - 1 else deaths end
where id = %(id)s or (parked and mapping = %(mapping)s and buried_at is null)

-- release_parked --
-- One that another worker attempts now keeps its lease.
update mirror.retries
set parked = false, attempts = 0,
  due_at = case when deaths = 0 then least(due_at, now()) else due_at end
where parked and mapping = %s and buried_at is null

-- postpone_retry --
update mirror.retries set deaths = deaths - 1, due_at = now() where id = %s

-- delete_retry --
-- Not if the row was updated after it was leased: the event was announced meanwhile, for a change
-- that the retry may have read too early.
delete from mirror.retries where id = %(id)s and xmin::text = %(version)s returning id

-- delete_retries --
-- If the retry that stands for the parked events of its mapping goes, all of them are due.
with gone as (delete from mirror.retries where id = any(%(ids)s) returning mapping, parked)
update mirror.retries as r set due_at = least(r.due_at, now())
from gone as g where g.parked and r.parked and r.mapping = g.mapping and r.id <> all(%(ids)s)


-- ==== The relay polls for events =================================================================

-- poll_events --
-- How many events wait, a sum of ids that changes when new ones come, and the seconds until the
-- next retry is due. The first 500 stand for all: a new revocation is among them, and with so many
-- a drain asks for more drains by itself. Events that a worker has claimed still count.
select events, mark, extract(epoch from least(
  (select min(due_at) from mirror.retries where buried_at is null and lane = 0),
  (select min(due_at) from mirror.retries where buried_at is null and lane = 1)
) - now())::float8
from (
  select count(*) as events, sum(id) as mark
  from (
    select * from (
      select id from mirror.outbox where lane = 0 and transaction_id >= {0}
      order by transaction_id, id limit 500
    ) as revocations
    union all
    select * from (
      select id from mirror.outbox where lane = 1 and transaction_id >= {0}
      order by transaction_id, id limit 500
    ) as grants
    limit 500
  ) as first
) as waiting

-- renew_listening --
-- The outbox's trigger sends NOTIFY only until then: NOTIFY makes commits wait for each other.
update mirror.state set listened_until = now() + {} * interval '1 second' where one returning one


-- ==== An operator gives an order ================================================================

-- read_set_apart --
select id, mapping, reference, key, error
from mirror.retries
where %s::bigint[] is null or id = any(%s)
order by id

-- retry_buried --
update mirror.retries
set attempts = 0, deaths = 0, due_at = now(), buried_at = null
where buried_at is not null and (%s::bigint[] is null or id = any(%s))
returning id

-- raise_epoch --
-- Above the target's epoch, too: that may be ahead after the primary was restored.
update mirror.state set epoch = greatest(epoch, %s) + 1 where one returning epoch

-- pair_with --
-- The target is at this step and token from now on, whatever the primary remembers.
update mirror.pairing
set step = greatest(step, %(step)s) + 1, base = %(token)s::uuid, token = gen_random_uuid(),
  acked = false, stepped_at = clock_timestamp()
where one


-- ==== A reconcile runs ==========================================================================

-- take_lease --
insert into mirror.leases as l (name, token, holder, expires_at)
values ('reconcile', %(token)s, %(holder)s, now() + %(seconds)s * interval '1 second')
on conflict (name) do update
set token = excluded.token, holder = excluded.holder, expires_at = excluded.expires_at
where l.expires_at < now() or l.token = excluded.token
returning true

-- read_lease_holder --
select holder from mirror.leases where name = 'reconcile' and expires_at > now()

-- release_lease --
delete from mirror.leases where name = 'reconcile' and token = %s

-- record_recovery --
-- Retries that become due only when the reconcile stops renewing them; workers then read these
-- mappings as a whole.
insert into mirror.retries (id, lane, recorded_at, mapping, reference, key, attempts, due_at, error)
select nextval(pg_get_serial_sequence('mirror.outbox', 'id')), %(lane)s, now(), mapping,
  %(everything)s, '{}', 0, now() + %(seconds)s * interval '1 second', %(mark)s
from unnest(%(mappings)s::text[]) as mapping
returning id, mapping

-- renew_recovery --
-- Includes the recovery retries of a reconcile that crashed: this one takes them over.
update mirror.retries set due_at = now() + %s * interval '1 second'
where error = %s and buried_at is null
returning id, mapping

-- release_recovery --
update mirror.retries set due_at = now() where id = any(%s)

-- delete_old_runs --
delete from mirror.runs where started_at < now() - %s * interval '1 day'

-- begin_run --
insert into mirror.runs (holder, started_by) values (%s, %s) returning id

-- end_run --
update mirror.runs set finished_at = now(), outcome = %s, report = %s::jsonb where id = %s

-- count_backlog --
-- Counts no further than needed.
select count(*) from (select from mirror.outbox limit %s) as o

-- find_pending_events --
-- The events of these keys, and every scope event of their mappings: in the outbox, which still
-- shows events that a worker has claimed, and among the retries, except for the reconcile's own
-- recovery retries.
with wanted as (
  select w ->> 0 as mapping, w -> 1 as key from jsonb_array_elements(%(keys)s::jsonb) as w
)
select distinct e.mapping, e.reference, e.key, e.buried
from (
  select mapping, reference, key, null::bigint as buried from mirror.outbox
  union all
  select mapping, reference, key, case when buried_at is not null then id end
  from mirror.retries
  where id <> all(%(own)s)
) as e
where e.mapping = any(%(mappings)s) and (
  e.reference is not null
  or (e.mapping, to_jsonb(e.key)) in (select w.mapping, w.key from wanted as w)
)
limit %(most)s


-- ==== Diagnostics read ==========================================================================

-- read_figures --
-- The state of the primary, as one JSON object: all figures are of one snapshot.
select jsonb_build_object(
  'waiting', (
    select coalesce(jsonb_agg(w), '[]')
    from (
      select mapping, case when lane = 0 then 'revocation' else 'grant' end as lane,
        count(*) as events, extract(epoch from now() - min(recorded_at))::float8 as oldest_seconds
      from mirror.outbox as o
      group by o.lane, mapping
      order by o.lane, mapping
    ) as w
  ),
  'set_apart', (
    select coalesce(jsonb_agg(s), '[]')
    from (
      select mapping, case when lane = 0 then 'revocation' else 'grant' end as lane,
        count(*) filter (where buried_at is null) as retrying,
        count(*) filter (where buried_at is null and not unclaimed
          and recorded_at < now() - interval '1 minute') as stuck,
        count(*) filter (where buried_at is not null) as buried,
        count(*) filter (where parked) as parked,
        count(*) filter (where unclaimed and recorded_at < now() - interval '1 minute')
          as unclaimed,
        count(*) filter (where lane = 0 and withheld_at is null) as holding_back,
        extract(epoch from now() - min(recorded_at))::float8 as oldest_seconds
      from mirror.retries as r
      where error <> %(loading)s
      group by r.lane, mapping
      order by r.lane, mapping
    ) as s
  ),
  'failures', (
    select coalesce(jsonb_agg(f), '[]')
    from (
      select id, mapping, case when lane = 0 then 'revocation' else 'grant' end as lane, attempts,
        error, buried_at is not null as buried,
        extract(epoch from now() - recorded_at)::float8 as age_seconds
      from mirror.retries
      where error <> %(loading)s
      order by buried_at nulls last, id
      limit 100
    ) as f
  ),
  -- Mappings that a reconcile loads, or did not load to the end; and the one that runs.
  'loading', (
    select coalesce(jsonb_agg(distinct mapping), '[]') from mirror.retries
    where error = %(loading)s
  ),
  'reconciling', (select holder from mirror.leases where name = 'reconcile' and expires_at > now()),
  'claims', (
    select jsonb_build_object(
      'claims', count(*), 'events', coalesce(sum(c.events), 0),
      -- Null where the host hides other roles' sessions.
      'oldest_seconds', extract(epoch from now() - min(c.began_at))::float8
    )
    from (
      select o.events, (
        select min(a.xact_start) from pg_stat_activity as a where a.backend_xid = o.xmax
      ) as began_at
      from (
        select xmax, count(*) as events from mirror.outbox where xmax <> 0 group by xmax
      ) as o
      where mirror.transaction_status(o.xmax) = 'in progress'
    ) as c
  ),
  'last_run', (
    select to_jsonb(l)
    from (
      select outcome, started_by, extract(epoch from now() - started_at)::float8 as age_seconds,
        (select coalesce(sum((m ->> 'over_grants')::bigint), 0)
         from jsonb_array_elements(report -> 'mappings') as m) as over_grants,
        (select coalesce(sum((m ->> 'under_grants')::bigint), 0)
         from jsonb_array_elements(report -> 'mappings') as m) as under_grants
      from mirror.runs
      where finished_at is not null
      order by id desc
      limit 1
    ) as l
  ),
  'two_schedulers', (
    select count(distinct started_by) > 1 from mirror.runs
    where started_by in ('beat', 'schedule') and started_at > now() - interval '7 days'
  ),
  'heartbeats', (
    select coalesce(jsonb_object_agg(part, extract(epoch from now() - seen_at)::float8), '{}')
    from (
      select split_part(name, '@', 1) as part, max(seen_at) as seen_at from mirror.heartbeats
      group by 1
    ) as h
  ),
  'delays', (
    select coalesce(jsonb_agg(d), '[]')
    from (
      select case when lane = 0 then 'revocation' else 'grant' end as lane, sum(seconds) as seconds,
        -- JSON has no infinity.
        jsonb_agg(jsonb_build_array(nullif(bound, 'infinity'), events) order by bound) as buckets
      from mirror.delays as b
      group by b.lane
      order by b.lane
    ) as d
  ),
  'outcomes', (
    select coalesce(jsonb_agg(o), '[]')
    from (select mapping, outcome, events from mirror.outcomes order by 1, 2) as o
  ),
  'revocations', (
    select coalesce(jsonb_agg(r), '[]')
    from (
      select id, mapping, in_force_at, seconds,
        extract(epoch from now() - in_force_at)::float8 as age_seconds
      from mirror.revocations
      order by number
    ) as r
  )
)

-- read_open_revocations --
-- Revocations that may not be in force in the target: they wait, are claimed, or were set apart. One
-- whose key is withheld is left out, because that key grants nothing.
select id, mapping, reference, key, extract(epoch from now() - recorded_at)::float8, state
from (
  (
    select id, mapping, reference, key, recorded_at, 'waiting' as state
    from mirror.outbox
    where lane = 0
    order by recorded_at
    limit %(limit)s
  )
  union all
  (
    select id, mapping, reference, key, recorded_at,
      case when buried_at is null then 'set apart' else 'dead' end
    from mirror.retries
    where lane = 0 and withheld_at is null
    order by recorded_at
    limit %(limit)s
  )
) as e
order by recorded_at, id
limit %(limit)s

-- read_buried_causes --
-- Dead events by mapping and error, with the ids of the first ones.
select mapping, error, encode(sha256(convert_to(error, 'UTF8')), 'hex'), count(*),
  (array_agg(id order by id))[1:10],
  extract(epoch from now() - min(recorded_at))::float8
from mirror.retries
where buried_at is not null
group by mapping, error
order by count(*) desc, mapping, error
limit %s

-- read_buried_ids --
select id from mirror.retries
where buried_at is not null and (
  id = %(event)s
  or mapping = %(mapping)s and encode(sha256(convert_to(error, 'UTF8')), 'hex') = %(digest)s
)
order by id

-- read_runs --
-- The last reconciles; without an end if they are under way, or if their process died.
select id, extract(epoch from now() - started_at)::float8,
  extract(epoch from finished_at - started_at)::float8, started_by, outcome, report,
  finished_at is null and not exists (
    select from mirror.leases as l
    where l.name = 'reconcile' and l.holder = r.holder and l.expires_at > now()
  )
from mirror.runs as r
order by id desc
limit %s

-- find_event --
-- One id may be there twice, where a sequence went back.
select mapping, reference, key, case when lane = 0 then 'revocation' else 'grant' end,
  extract(epoch from now() - recorded_at)::float8, state, attempts, deaths, error,
  -- Parked events wait for the retry of another one.
  case when due_at < now() + interval '1 year'
    then greatest(extract(epoch from due_at - now()), 0)::float8 end
from (
  select id, mapping, reference, key, lane, recorded_at,
    case when mirror.transaction_status(xmax) = 'in progress' then 'claimed' else 'waiting' end
      as state,
    0 as attempts, 0 as deaths, null as error, null::timestamptz as due_at
  from mirror.outbox as o
  union all
  select id, mapping, reference, key, lane, recorded_at,
    case when buried_at is null then 'set apart' else 'dead' end, attempts, deaths, error,
    case when buried_at is null then due_at end
  from mirror.retries
) as e
where id = %s
order by state

-- find_events_about --
-- The events about these keys and scopes. A worker has deleted its claimed events in a transaction
-- that is still open, so they are visible here.
select e.id, e.mapping, e.reference, e.key, e.lane, e.age, e.attempts, e.error, e.buried,
  coalesce(mirror.transaction_status(e.xmax) = 'in progress', false) as claimed
from (
  select id, mapping, reference, key, lane,
    extract(epoch from now() - recorded_at)::float8 as age, 0 as attempts,
    null as error, false as buried, xmax
  from mirror.outbox
  union all
  select id, mapping, reference, key, lane,
    extract(epoch from now() - recorded_at)::float8, attempts, error, buried_at is not null, null
  from mirror.retries
) as e
join unnest(%s::text[], %s::text[], %s::text[]) as w (mapping, reference, key)
  on e.mapping = w.mapping and e.reference is not distinct from w.reference
  and case when w.reference is null then to_jsonb(e.key) = w.key::jsonb
    when w.reference = '*' then true else e.key[1] = w.key end
order by e.lane, e.id
limit 20

-- read_migrations --
select name, checksum from mirror.migrations


-- ==== What mappings read ========================================================================

-- read_structures --
-- Facts about the tables, views and functions that each mapping reads, by mapping and object. An object
-- that is named has its name as its key, one below or behind it (a partition, a table of a view) its
-- oid. Of a column: its place, type and generation; and the transaction that last altered it. An ALTER
-- TABLE that rewrites a table changes that and the table's file; VACUUM FULL, CLUSTER and TRUNCATE
-- change the file alone. A partition is `new` if the statement that created it also attached it: it was
-- empty then.
with recursive asked as (
  select a.mapping, a.source, a.columns, to_regclass(a.source)::oid as oid
  from jsonb_to_recordset(%(sources)s::jsonb) as a (mapping text, source text, columns jsonb)
), reached (mapping, key, oid, columns, new) as (
  select mapping, source, oid, columns, false from asked where oid is not null
  union
  select r.mapping, n.oid::text, n.oid, n.columns, n.new
  from reached as r
  cross join lateral (
    select i.inhrelid as oid, r.columns, i.xmin = a.xmin as new
    from pg_catalog.pg_inherits as i
    join pg_catalog.pg_attribute as a on a.attrelid = i.inhrelid and a.attnum = -1
    where i.inhparent = r.oid
    union
    select d.refobjid, null::jsonb, false
    from pg_catalog.pg_rewrite as w
    join pg_catalog.pg_depend as d
      on d.classid = 'pg_rewrite'::regclass and d.objid = w.oid
      and d.refclassid = 'pg_class'::regclass and d.refobjid <> r.oid
    where w.ev_class = r.oid
  ) as n
), columns as (
  select r.mapping, r.key, a.attname as name, a.atttypid as type,
    concat_ws(' ', a.attnum, a.atttypid, a.atttypmod, a.attcollation, a.attgenerated) || coalesce(
      (select md5(pg_get_expr(e.adbin, e.adrelid)) from pg_catalog.pg_attrdef as e
       where a.attgenerated <> '' and e.adrelid = a.attrelid and e.adnum = a.attnum), ''
    ) as shape,
    a.xmin::text as altered
  from reached as r
  join pg_catalog.pg_attribute as a on a.attrelid = r.oid and a.attnum > 0 and not a.attisdropped
  where r.columns is null or r.columns ? a.attname::text
), objects as (
  select r.mapping, r.key, jsonb_build_object(
    'name', r.oid::regclass::text,
    'new', r.new,
    'is', concat_ws(' ', r.oid, c.relkind,
      case when c.relkind in ('v', 'm') then md5(pg_get_viewdef(r.oid)) end),
    'file', c.relfilenode,
    'all', r.columns is null,
    'columns', (
      select coalesce(jsonb_object_agg(k.name, jsonb_build_array(k.shape, k.altered)), '{}')
      from columns as k where k.mapping = r.mapping and k.key = r.key
    )
  ) as facts
  from reached as r
  join pg_catalog.pg_class as c on c.oid = r.oid
  union all
  select k.mapping, 'enum ' || k.type, jsonb_build_object(
    'name', k.type::regtype::text,
    'labels', (
      select jsonb_object_agg(e.oid, e.enumlabel)
      from pg_catalog.pg_enum as e where e.enumtypid = k.type
    )
  )
  from columns as k
  where exists (select from pg_catalog.pg_enum as e where e.enumtypid = k.type)
  group by k.mapping, k.type
  union all
  select f.mapping, 'function ' || p.oid, jsonb_build_object(
    'name', p.oid::regprocedure::text,
    'is', md5(concat_ws(' ', p.prosrc, pg_get_function_sqlbody(p.oid), p.proconfig::text))
  )
  from (
    select a.mapping, p.oid
    from jsonb_to_recordset(%(functions)s::jsonb) as a (mapping text, name text)
    join pg_catalog.pg_proc as p on p.proname = a.name
    union
    select r.mapping, d.refobjid
    from reached as r
    join pg_catalog.pg_rewrite as w on w.ev_class = r.oid
    join pg_catalog.pg_depend as d on d.classid = 'pg_rewrite'::regclass and d.objid = w.oid
      and d.refclassid = 'pg_proc'::regclass
  ) as f
  join pg_catalog.pg_proc as p on p.oid = f.oid
    and p.pronamespace <> 'pg_catalog'::regnamespace and p.prokind = 'f'
)
select o.mapping, jsonb_object_agg(o.key, o.facts order by (o.facts ->> 'new') desc)
from objects as o
group by o.mapping

-- note_structure --
insert into mirror.structures as s (mapping, structure) values (%s, %s::jsonb)
on conflict (mapping) do update
set structure = excluded.structure, noted_at = excluded.noted_at

-- read_noted_structures --
select mapping, structure from mirror.structures
