-- The facts that a worker and `mirror status` need first.
create or replace function mirror.describe() returns jsonb
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select jsonb_build_object(
    'identity', s.identity,
    'epoch', s.epoch,
    'horizon', s.horizon,
    'step', s.step,
    'token', s.token,
    'step_fence', s.step_fence,
    'clock', clock_timestamp(),
    'fresh', (select coalesce(jsonb_object_agg(mapping, as_of), '{}') from mirror.freshness),
    'stale_seconds', (
      select coalesce(
        jsonb_object_agg(mapping, extract(epoch from clock_timestamp() - as_of)::float8), '{}'
      )
      from mirror.freshness
    ),
    'verified', s.verified_as_of,
    'failed_over', s.failed_over_at,
    'mappings', (select coalesce(jsonb_object_agg(name, digest), '{}') from mirror.mappings),
    'migrations', (select coalesce(jsonb_object_agg(name, checksum), '{}') from mirror.migrations),
    'withheld', (
      select coalesce(jsonb_agg(w), '[]')
      from (
        select mapping, reason, count(*) as keys,
          extract(epoch from now() - min(since))::float8 as seconds
        from mirror.withheld group by mapping, reason order by mapping, reason
      ) as w
    ),
    -- For the API, which may not have noticed yet.
    'doors', (
      select jsonb_agg(proname) from pg_proc
      where pronamespace = 'public'::regnamespace and proname like 'mirror\_%'
    )
  )
  from mirror.state as s
$$;
