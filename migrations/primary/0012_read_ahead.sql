-- A claim also reads the rows of its keys, and crashed workers are recognised without a note.
-- Every statement can run again.


-- How a transaction ended that has deleted or locked a row, by the row's `xmax`, which it leaves behind
-- even if it was rolled back: `committed`, `aborted`, or `in progress`. Null: none did, or that was too
-- long ago.
create or replace function mirror.transaction_status(p_xmax xid) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  present constant bigint := pg_snapshot_xmax(pg_current_snapshot())::text::bigint;
  cycle constant bigint := 1::bigint << 32;
  -- Of all transactions whose ids end in these 32 bits, the one nearest to the present.
  behind constant bigint := (present - p_xmax::text::bigint + 3 * (cycle / 2)) % cycle - cycle / 2;
begin
  if p_xmax = 0 or behind >= present then
    return null;
  end if;
  return pg_xact_status((present - behind)::text::xid8);
exception when invalid_parameter_value then
  -- It is in the future, so it was that of a group of transactions that shared the row. If the id of
  -- such a group is in the past, the answer is that of another transaction: at worst, a false alarm.
  return null;
end
$$;


-- As mirror.claim_groups, which workers of the version before call. In place of its hint `noted` it
-- returns the events that a worker may have crashed on: it claimed them, and its transaction was rolled
-- back. A worker that gives events back writes their rows anew (`release_events`), so they are none of
-- these. Nor is an event whose row VACUUM has frozen since, but the next crash shows it again.
create or replace function mirror.claim_waiting(
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
  -- bigint[]: those of `ids` that a worker may have crashed on. Null: none.
  suspects text
)
language plpgsql set search_path = pg_catalog, pg_temp
-- A plan that is kept from when the outbox was empty would read and sort all of a backlog for each
-- claim. With these it always walks the index in its order. Where it has to sort nevertheless, the plan
-- counts as so expensive that the server would compile it, for longer than it runs.
set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off set jit = off
as $$
begin
  -- Most claims find nothing: the last one of each drain.
  if not exists (
      select from mirror.outbox as o where o.lane = 0 and o.transaction_id >= p_floor
    )
    and not exists (
      select from mirror.outbox as o where o.lane = 1 and o.transaction_id >= p_floor
    )
    and not exists (select from mirror.retries as r where r.unclaimed)
  then
    return;
  end if;
  return query
  with unclaimed as materialized (
    select u.ctid, u.xmax
    from unnest(p_known) as k (name)
    cross join lateral (
      select r.ctid, r.xmax, r.lane, r.id from mirror.retries as r
      where r.unclaimed and left(r.mapping, 64) = k.name
      order by r.lane, r.id limit (p_limit + 1) / 2
      for update skip locked
    ) as u
    order by u.lane, u.id limit (p_limit + 1) / 2
  ),
  -- One query for each lane, so that each starts in the index at the floor. `xmax` is the one that
  -- the row had before this claim locked it.
  revocations as materialized (
    select o.ctid, o.xmax from mirror.outbox as o
    where o.lane = 0 and o.transaction_id >= p_floor
    order by o.transaction_id, o.id
    limit (select greatest(p_limit - count(*), 1) from unclaimed)
    for update skip locked
  ),
  grants as materialized (
    select o.ctid, o.xmax from mirror.outbox as o
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
    where o.ctid = any (array(select r.ctid from revocations as r union all select g.ctid from grants as g))
    returning o.id, o.lane, o.transaction_id, o.origin, o.recorded_at, o.mapping, o.reference, o.key,
      o.ctid = any (array(
        select s.ctid from (table revocations union all table grants) as s
        where s.xmax <> 0 and mirror.transaction_status(s.xmax) = 'aborted'
      )) as suspect
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
    returning r.id, r.lane, r.transaction_id, r.origin, r.recorded_at, r.mapping, r.reference, r.key,
      r.ctid = any (array(
        select u.ctid from unclaimed as u
        where u.xmax <> 0 and mirror.transaction_status(u.xmax) = 'aborted'
      )) as suspect
  ),
  taken as (
    select t.*,
      -- A writer may have given any time: infinity, or a year of 20000.
      date_part(
        'epoch', now() - greatest(least(t.recorded_at, now()), '2000-01-01 UTC')
      )::real as age
    from (table found union all table returned) as t
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
    (array_agg(t.id) filter (where t.suspect))::text
  from taken as t
  group by 1, 2, 3;
end
$$;


-- Read the rows of claimed keys within the claim's transaction, which saves a round trip. The query and
-- its parameters are those of the worker, and so is the search path: none is pinned here.
--
-- One statement reads all, so stamp and rows are of one snapshot, which began after the claim. A
-- function that writes is refused, and what a view reads may be of another snapshot, if it calls a
-- volatile function; so nothing is read where one of `p_tables` is no ordinary table. After any error nothing
-- is returned either: the worker then reads in a transaction of its own, and finds out. In any case the
-- read is rolled back, because the claim must not hold its locks: an ALTER TABLE would wait for them,
-- and everybody else for that.
--
-- To plan the query takes longer than to run it, so the session keeps its plan, in a prepared statement
-- that is found, or made, within this call: behind a pooler, the next one may have another session. A
-- plan for small tables may read them from end to end, so the name of the statement depends on their
-- sizes, too, as powers of ten.
create or replace function mirror.read_ahead(p_query text, p_tables text[], p_keys text[])
returns table (
  fence bigint, epoch integer, system bigint, timeline text, database text,
  step bigint, token text, base text, acked boolean,
  -- JSON arrays: of rows, and of keys without one.
  printed text, deleted text,
  -- Whether a key has two rows.
  two_rows boolean
)
language plpgsql strict
as $$
declare
  sizes text;
  plain boolean;
  name text;
begin
  perform pg_catalog.set_config('transaction_read_only', 'on', true),
    pg_catalog.set_config('plan_cache_mode', 'force_generic_plan', true),
    -- A table that is being altered: the claim does not wait for it.
    pg_catalog.set_config('lock_timeout', '100', true);
  select pg_catalog.bool_and(coalesce(c.relkind operator(pg_catalog.=) 'r', false)),
    pg_catalog.string_agg(pg_catalog.length(pg_catalog.pg_relation_size(c.oid)::text)::text, '_')
  into plain, sizes
  from pg_catalog.unnest(p_tables) as t (name)
  left join pg_catalog.pg_class as c on c.oid operator(pg_catalog.=) pg_catalog.to_regclass(t.name);
  if plain is not true then
    raise exception 'not only tables';
  end if;
  name := pg_catalog.concat('mirror_', pg_catalog.md5(pg_catalog.concat(sizes, p_query)));
  for attempt in 1..2 loop
    begin
      execute pg_catalog.format(
        'execute %I (%L, %L, %L, %L)', name, p_keys[1], p_keys[2], p_keys[3], p_keys[4]
      )
      into fence, epoch, system, timeline, database, step, token, base, acked, printed, deleted,
        two_rows;
      exit;
    exception when invalid_sql_statement_name then
      execute pg_catalog.format('prepare %I (text, text, text, text) as %s', name, p_query);
    end;
  end loop;
  raise exception 'the rows are read' using errcode = 'MR099';
exception
  when sqlstate 'MR099' then
    return next;
  when others or query_canceled then
    return;
end
$$;


-- Claim events, and read their rows, if `p_ahead` has a query for them: by mapping, the query and the
-- tables that it reads. Returns at least one row, for `retry_due`: whether an event that was set apart
-- is due for its retry. A function, so that the server keeps the plan.
create or replace function mirror.claim_and_read(
  p_floor bigint, p_limit integer, p_few integer, p_known text[], p_ahead jsonb
)
returns table (
  retry_due boolean,
  -- As mirror.claim_waiting returns them; null: no event waits.
  mapping text, scopes boolean, parts integer, revocations integer, grants integer,
  oldest bigint, newest bigint, origin bigint, ids text, ages text, keys text[], suspects text,
  -- As mirror.read_ahead returns them; null: the rows were not read.
  fence bigint, epoch integer, system bigint, timeline text, database text,
  step bigint, token text, base text, acked boolean, printed text, deleted text, two_rows boolean
)
language plpgsql
as $$
begin
  return query
  select mirror.is_retry_due(), c.mapping, c.scopes, c.parts, c.revocations, c.grants, c.oldest,
    c.newest, c.origin, c.ids, c.ages, c.keys, c.suspects, r.*
  from (values (1)) as one
  left join (
    select w.*, p_ahead operator(pg_catalog.->) w.mapping as ahead,
      pg_catalog.count(*) over () as groups
    from mirror.claim_waiting(p_floor, p_limit, p_few, p_known) as w
  ) as c on true
  left join lateral mirror.read_ahead(
    case when c.groups operator(pg_catalog.=) 1 and not c.scopes
      then c.ahead operator(pg_catalog.->>) 'query' end,
    array(select pg_catalog.jsonb_array_elements_text(c.ahead operator(pg_catalog.->) 'tables')),
    c.keys
  ) as r on true;
end
$$;
