-- Forget tombstones and scopes older than `age`, and refuse from now on whatever is older than
-- the newest of them: a write that slept longer could no longer be told from a fresh one.
-- Answers {horizon, purged, more}; while there is more, call it again.
--
-- A call either deletes a bounded number of what lies below the horizon, or, if nothing does, moves
-- the horizon. Only that holds the lock alone, for one row: what lies below the horizon of a
-- finished transaction is asked for by nobody.
create or replace function mirror.purge(age interval) returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  piece constant bigint := 10000;
  state mirror.state;
  candidate bigint;
  newest bigint;
  mapping record;
  purged bigint := 0;
  n bigint;
begin
  select * into state from mirror.state;

  -- Skipping locked rows: a write that holds one and this must not wait for each other.
  for mapping in
    select name from mirror.mappings
    -- The row of each of its tombstones is there.
    where declaration ->> 'on_delete' is distinct from 'retain'
    order by position, name
  loop
    begin
      execute mirror.fill(
        'delete from {ledger} where ctid = any (array('
        ' select l.ctid from {ledger} as l where not l.present and (l.epoch, l.fence) <= ($1, $2)'
        -- It tells a row of which only the key is left from one that somebody wrote by hand.
        ' and (select true from {table} as t where {t_is_l}) is null'
        ' limit $3 for update skip locked))',
        mirror.parts(mapping.name)
      ) using state.epoch, state.horizon, piece - purged;
      get diagnostics n = row_count;
      purged := purged + n;
    exception when undefined_table or undefined_column then
      -- The doctor names the mapping; the others go on.
      continue;
    end;
  end loop;
  delete from mirror.scopes where ctid = any (array(
    select s.ctid from mirror.scopes as s
    where (s.epoch, s.fence) <= (state.epoch, state.horizon)
    limit piece - purged for update skip locked
  ));
  get diagnostics n = row_count;
  purged := purged + n;
  if purged > 0 then
    return jsonb_build_object('horizon', state.horizon, 'purged', purged, 'more', true);
  end if;

  select max(fence) into newest from mirror.scopes
  where epoch = state.epoch and read_at < now() - age;
  for mapping in select name from mirror.mappings loop
    execute format(
      'select max(fence) from mirror.%I where not present and epoch = $1 and applied_at < now() - $2',
      'ledger_' || mapping.name
    ) into candidate using state.epoch, age;
    newest := greatest(newest, candidate);
  end loop;
  if newest is null or newest <= state.horizon then
    return jsonb_build_object('horizon', state.horizon, 'purged', 0, 'more', false);
  end if;

  perform mirror.lock(true);
  -- The epoch may have moved while this waited, and the fence belongs to the one before.
  update mirror.state as s set horizon = newest
  where s.epoch = state.epoch and s.horizon < newest;
  return jsonb_build_object('horizon', newest, 'purged', 0, 'more', true);
end
$$;


-- Take another primary, or a restored one, as the source from now on: a new epoch, in which
-- every earlier fence counts for nothing. The same again is no error: a worker that read the new
-- epoch may have been faster.
create or replace function mirror.rebase(new_identity text, new_epoch integer) returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
  perform mirror.lock(true);
  update mirror.state
  set identity = new_identity, epoch = new_epoch, horizon = 0, step_fence = 0
  where epoch < new_epoch;
  if found then
    perform mirror.forget_freshness();
  elsif not exists (
    select from mirror.state as s where s.epoch = new_epoch and s.identity = new_identity
  ) then
    raise exception 'epoch % is not newer than the target''s', new_epoch using errcode = 'MR003';
  end if;
end
$$;
