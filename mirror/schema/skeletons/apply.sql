create or replace function {apply}(
  p_epoch integer, p_fence bigint, p_rows jsonb, p_gone jsonb
) returns jsonb
-- To plan this takes longer than to write a row. One plan serves while the tables grow from
-- nothing, because it finds each row by an index.
language plpgsql set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off
as $$
declare
  answer jsonb;
  -- Whether some scope was read later than these rows; if not, no row looks for its scopes.
  later_scopes constant boolean := exists (
    select from mirror.scopes
    where mapping = {mapping} and epoch = p_epoch and fence > p_fence
  );
begin
  with incoming as materialized (
    select {row_values}, true as present
    from jsonb_array_elements(p_rows) as r
    union all
    select {gone_values}, false
    from jsonb_array_elements(p_gone) as g
  ),
  -- The newest read of a scope that this key would be in{or_of_itself}.
  known as materialized (
    select i.*,
      {known}
    from incoming as i{known_ledger}
  ),
  judged as materialized (
    select k.*, coalesce(k.newest > p_fence, false) as stale,
      {orphan} as orphan{alone}
    from known as k
  ),
  -- Always advance the ledger, also where the row stays as it is or was never there: a write
  -- that still hangs somewhere must find that it is older. Sorted, so that two never deadlock.
  -- The conflict's WHERE takes in the tombstones' index beside the primary key.
  admitted as (
    insert into {ledger} as l
      ({ledger_columns}, epoch, fence, present, applied_at)
    select {ledger_values}, p_epoch, p_fence, j.present, now()
    from judged as j
    where not j.stale and not j.orphan{and_not_alone}
    order by {j_key}
    on conflict ({key}) where not present do update
    set {new_references}epoch = excluded.epoch, fence = excluded.fence,
      present = excluded.present, applied_at = excluded.applied_at
    where (l.epoch, l.fence) <= (excluded.epoch, excluded.fence)
    returning {l_key}, l.present
  ),
  -- Touch the visible row only where it changes: no WAL and no Realtime message for nothing.
  written as (
    insert into {table} as t ({columns})
    select {j_columns}
    from judged as j join admitted as a on {a_is_j}
    where a.present
    on conflict ({key}) {on_conflict}
  )
  select jsonb_build_object(
    'stale', coalesce(jsonb_agg({j_key_json})
      filter (where a.{first_key} is null and not j.orphan{and_stale_or_not_alone}), '[]'),
    -- The newest of the reads that refused a row: of its scopes, or in its ledger.
    'ahead', max(greatest(case when j.stale then j.newest end, (
      select l.fence from {ledger} as l
      where {l_is_j} and l.epoch = p_epoch and l.fence > p_fence
    ))) filter (where a.{first_key} is null and not j.orphan),
    'orphans', coalesce(jsonb_agg({j_key_json}) filter (where j.orphan), '[]'){appearing},
    'gone', jsonb_agg({j_key_json}) filter (where not a.present)
  )
  into answer
  from judged as j left join admitted as a on {a_is_j};
  {gone}
  return answer;
end
$$;
revoke all on function {apply}(integer, bigint, jsonb, jsonb)
from public, anon, authenticated, service_role;
