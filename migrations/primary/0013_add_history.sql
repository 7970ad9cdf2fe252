-- Add to the history how events ended. A worker calls it about once a second, while events wait for it;
-- as a function it keeps its plan, and to plan it takes longer than to run it.
-- Every statement can run again.


-- `p_delivered` has an object for each batch of one mapping's events (`mirror.sync.history.Delivered`),
-- `p_bounds` the bounds of mirror.delays, `p_limit` the number of revocations that are kept, and `p_dead`
-- by mapping the number of events that are dead now.
create or replace function mirror.add_history(
  p_delivered jsonb, p_bounds double precision[], p_limit bigint, p_dead jsonb
) returns void
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan
-- As in mirror.claim_groups. The plan may be kept from when the tables were empty.
set enable_seqscan = off set enable_bitmapscan = off set jit = off
as $$
begin
  with delivered as materialized (
    select d.batch, e.place, e.id, d.mapping, d.ago,
      case when e.place <= d.revocations then 0 else 1 end as lane, e.age + d.seconds as seconds,
      e.id = any (d.apart) as apart
    from jsonb_to_recordset(p_delivered) as d (
      batch integer, mapping text, ids text, ages text, revocations integer, seconds float8, ago float8,
      apart bigint[]
    )
    cross join unnest(d.ids::bigint[], d.ages::real[]) with ordinality as e (id, age, place)
  ),
  outcomes as (
    insert into mirror.outcomes as o (mapping, outcome, events)
    select mapping, outcome, sum(events)
    from (
      select mapping, case when apart then 'set_apart' else 'in_force' end as outcome,
        count(*) as events
      from delivered
      group by 1, 2
      union all
      select d.key, 'dead', d.value::bigint from jsonb_each_text(p_dead) as d
    ) as counted
    group by 1, 2
    order by 1, 2
    on conflict (mapping, outcome) do update set events = o.events + excluded.events
  ),
  delays as (
    insert into mirror.delays as d (lane, bound, events, seconds)
    select e.lane, p_bounds[1 + width_bucket(e.seconds, p_bounds)] as bound, count(*), sum(e.seconds)
    from delivered as e
    where not e.apart
    group by 1, 2
    order by 1, 2
    on conflict (lane, bound) do update
    set events = d.events + excluded.events, seconds = d.seconds + excluded.seconds
  )
  insert into mirror.revocations (id, mapping, seconds, in_force_at)
  select l.id, l.mapping, l.seconds, clock_timestamp() - l.ago * interval '1 second'
  from (
    select * from delivered where lane = 0 and not apart order by batch desc, place desc limit p_limit
  ) as l
  order by l.batch, l.place;
  if found then
    -- The oldest go; two workers that delete at once do not wait for each other. In the index's order:
    -- such a walk marks the entries of deleted rows, so the next one passes them quickly.
    delete from mirror.revocations
    where ctid = any (array(
      select ctid from mirror.revocations
      where number <= (select max(number) from mirror.revocations) - p_limit
      order by number
      for update skip locked
    ));
  end if;
end
$$;
