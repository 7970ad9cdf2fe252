-- Claims take less time. Every statement can run again.


-- Does what mirror.claim_waiting does. If it sees an event of a mapping that is not known, or one that
-- was set apart for that reason, it calls mirror.claim_waiting. Mostly there is none, and a statement
-- without the parts for them starts in less time. It takes no event of such a mapping itself, also if one
-- commits after it has looked; a later claim sees that one.
create or replace function mirror.claim_next(
  p_floor bigint, p_limit integer, p_few integer, p_known text[]
)
returns table (
  mapping text, scopes boolean, parts integer, revocations integer, grants integer,
  oldest bigint, newest bigint, origin bigint, ids text, ages text, keys text[], suspects text
)
language plpgsql set search_path = pg_catalog, pg_temp
-- As in mirror.claim_waiting.
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
  if p_known is null
    or exists (select from mirror.retries as r where r.unclaimed)
    or exists (
      select from (
        (
          select o.mapping from mirror.outbox as o
          where o.lane = 0 and o.transaction_id >= p_floor
          order by o.transaction_id, o.id limit p_limit
        )
        union all
        (
          select o.mapping from mirror.outbox as o
          where o.lane = 1 and o.transaction_id >= p_floor
          order by o.transaction_id, o.id limit p_limit
        )
      ) as first
      where first.mapping <> all (p_known)
    )
  then
    return query select * from mirror.claim_waiting(p_floor, p_limit, p_few, p_known);
    return;
  end if;
  return query
  with revocations as materialized (
    select o.ctid, o.xmax from mirror.outbox as o
    where o.lane = 0 and o.transaction_id >= p_floor and o.mapping = any (p_known)
    order by o.transaction_id, o.id
    limit p_limit
    for update skip locked
  ),
  grants as materialized (
    select o.ctid, o.xmax from mirror.outbox as o
    where o.lane = 1 and o.transaction_id >= p_floor and o.mapping = any (p_known)
    order by o.transaction_id, o.id
    limit (
      select case when count(*) = 0 then p_limit
        else least(p_few, greatest(p_limit - count(*), 0)) end
      from revocations
    )
    for update skip locked
  ),
  found as (
    delete from mirror.outbox as o
    where o.ctid = any (
      array(select r.ctid from revocations as r union all select g.ctid from grants as g)
    )
    returning o.id, o.lane, o.transaction_id, o.origin, o.recorded_at, o.mapping, o.reference, o.key,
      o.ctid = any (array(
        select s.ctid from (table revocations union all table grants) as s
        where s.xmax <> 0 and mirror.transaction_status(s.xmax) = 'aborted'
      )) as suspect
  ),
  taken as (
    select t.*,
      -- A writer may have given any time: infinity, or a year of 20000.
      date_part(
        'epoch', now() - greatest(least(t.recorded_at, now()), '2000-01-01 UTC')
      )::real as age
    from found as t
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


-- As before, but it looks at the tables one by one: for one table this takes less time than a join.
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
  foreach name in array p_tables loop
    select c.relkind operator(pg_catalog.=) 'r',
      pg_catalog.concat_ws('_', sizes, pg_catalog.length(pg_catalog.pg_relation_size(c.oid)::text))
    into plain, sizes
    from pg_catalog.pg_class as c
    where c.oid operator(pg_catalog.=) pg_catalog.to_regclass(name);
    exit when plain is not true;
  end loop;
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


-- As before, but with mirror.claim_next.
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
    from mirror.claim_next(p_floor, p_limit, p_few, p_known) as w
  ) as c on true
  left join lateral mirror.read_ahead(
    case when c.groups operator(pg_catalog.=) 1 and not c.scopes
      then c.ahead operator(pg_catalog.->>) 'query' end,
    array(select pg_catalog.jsonb_array_elements_text(c.ahead operator(pg_catalog.->) 'tables')),
    c.keys
  ) as r on true;
end
$$;
