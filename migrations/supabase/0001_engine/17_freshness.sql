-- How old what is mirrored here may be, for models that declare `max_staleness`.


-- Whether each of these mappings is known to be no older than the bound. Policies call it as
-- `(select mirror.is_fresh(…))`: once per statement. A mapping without a row is not fresh; nor is one
-- from the future, which the clock of this server has left behind.
create or replace function mirror.is_fresh(mappings text[], bound interval) returns boolean
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
  return coalesce(cardinality(mappings) > 0, false) and not exists (
    select from unnest(mappings) as m (name)
    where not exists (
      select from mirror.freshness as f
      where f.mapping = m.name
        and f.as_of <= clock_timestamp() + interval '1 second'
        and f.as_of > clock_timestamp() - bound
    )
  );
end
$$;


-- Refuse to let a policy ask for freshness that nobody reports: it would lock out every user. A
-- policy that is new lets in nobody yet. One that already asks for a mapping may be replaced while
-- that is stale: the new version may be the repair. Before the first write there is nothing to read.
create or replace function mirror.check_fresh(
  name text, policies text[], mappings text[], bound interval
) returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  stale text;
begin
  select string_agg(distinct m.name, ', ' order by m.name) into stale
  from pg_policy as p
  cross join unnest(mappings) as m (name)
  where p.polrelid = to_regclass(check_fresh.name) and p.polname = any (policies::name[])
    and exists (select from mirror.state where identity is not null)
    and not mirror.is_fresh(array[m.name], bound)
    and concat(pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid))
      !~ format('is_fresh\(ARRAY\[[^]]*''%s''', m.name);
  if stale is not null then
    raise exception 'policies on % would refuse every user: no worker has reported in the last % that % is up to date',
      name, bound, stale
      using errcode = 'MR010', hint = 'Start workers with MIRROR_FRESH_SECONDS, wait until '
        '`mirror status` shows how fresh it is, and migrate again. Of a new mapping they can report '
        'only once it is there: add it first, deploy the workers, then let rules read it.';
  end if;
end
$$;


revoke all on function
  mirror.is_fresh(text[], interval),
  mirror.check_fresh(text, text[], text[], interval)
from public, anon, authenticated, service_role;
grant execute on function mirror.is_fresh(text[], interval) to authenticated;
