-- Make the commit of this transaction wait until it and all commits before it are on disk; one that has
-- written nothing would not wait. When a worker has its answer, the primary forgets the event, so a crash
-- must not undo the write.
create or replace function mirror.flush() returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
  if current_setting('synchronous_commit') = 'off' then
    perform set_config('synchronous_commit', 'on', true);
  end if;
  perform setval('mirror.flushes', 1);
end
$$;


-- Take the lock of all writers: shared, or alone. Insists on READ COMMITTED, so that what follows
-- sees what the last holder left. A call that waits too long fails with an error of its own, which
-- says that another one was in the way: a statement or lock timeout would blame the batch.
create or replace function mirror.lock(alone boolean) returns void
language plpgsql set search_path = pg_catalog, pg_temp set lock_timeout = '5s'
as $$
declare
  -- Any two numbers that are ours: 'mirr' as bytes, and the protocol's version.
  lock_class constant integer := 1835627122;
  lock_id constant integer := 1;
begin
  if current_setting('transaction_isolation') <> 'read committed' then
    raise exception 'mirror functions need READ COMMITTED, to see what the last writer left'
      using errcode = 'MR000';
  end if;
  begin
    if alone then
      perform pg_catalog.pg_advisory_xact_lock(lock_class, lock_id);
    else
      perform pg_catalog.pg_advisory_xact_lock_shared(lock_class, lock_id);
    end if;
  exception when lock_not_available then
    raise exception 'another call or a migration holds the lock of all writers'
      using errcode = 'MR015';
  end;
  perform mirror.flush();
end
$$;


-- Refuse a caller whose primary is not the expected one, or not the one with which this database took
-- its last step. Either side may be a copy, or restored from a backup; `mirror.sync.pairing` tells
-- which.
create or replace function mirror.check_pair(expected text, token uuid, request jsonb) returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  pair constant jsonb := request -> 'pair';
begin
  -- An identity begins with the server's system identifier and Neon's timeline; the rest of it, an
  -- address and a name, is no identity. A branch is a copy that may act first.
  if expected <> request ->> 'identity' and exists (
    select from generate_series(case when check_pair.token is null then 1 else 2 end, 2) as part
    where split_part(expected, '/', part) <> split_part(request ->> 'identity', '/', part)
      and '-' not in (
        split_part(expected, '/', part), split_part(request ->> 'identity', '/', part)
      )
  ) then
    raise exception 'this target mirrors another primary: it expects %, this worker reads %',
      expected, request ->> 'identity'
      using errcode = 'MR002',
        hint = 'A copy with production settings? If the primary really moved, run `mirror rebase`.';
  end if;
  if check_pair.token is not null and pair is null then
    raise exception 'the worker is older than the target'
      using errcode = 'MR001', hint = 'Deploy the version that was migrated.';
  end if;
  -- The target may be one step behind, unless it is known to have taken the last one.
  if check_pair.token is distinct from (pair ->> 'token')::uuid
     and ((pair ->> 'acked')::boolean or check_pair.token is distinct from (pair ->> 'base')::uuid)
  then
    raise exception 'primary and target are not the two that took their last step together'
      using errcode = 'MR013';
  end if;
end
$$;


-- Forget how fresh this database is, in a new epoch: what another primary, or another copy of it, had
-- done by then says nothing of this one's revocations.
create or replace function mirror.forget_freshness() returns void
language sql set search_path = pg_catalog, pg_temp
as $$
  delete from mirror.freshness where true;
  update mirror.state set verified_as_of = null where true;
$$;


-- Admit a caller: the right isolation, primary, epoch and declarations, and a lock.
--
-- Ordinary writes share the lock. A call that moves a boundary that others check (opens a scope,
-- removes a parent, purges, begins an epoch) holds it alone, so those checks need no lock of their
-- own. Returns the horizon.
create or replace function mirror.admit(request jsonb, alone boolean) returns bigint
-- As in mirror.apply.
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan
as $$
declare
  -- The newest version of the request that is understood here; one without a version is of the
  -- first. Workers may add fields that can be ignored; for others they raise the version.
  known_version constant integer := 1;
  state mirror.state;
  wrong text;
begin
  if coalesce((request ->> 'version')::integer, 1) > known_version then
    raise exception 'the worker writes requests of version %, the target knows version %',
      request ->> 'version', known_version
      using errcode = 'MR001', hint = 'Run `mirror migrate supabase` with the worker''s version.';
  end if;

  -- Asked before the lock is held, because one that is shared cannot become exclusive. An epoch
  -- only rises, so whoever finds nothing to move here finds nothing to move below.
  perform mirror.lock(alone or exists (
    select from mirror.state as s
    where s.identity is null or s.epoch < (request ->> 'epoch')::integer
  ));

  select * into state from mirror.state;
  if state.identity is null then
    update mirror.state set identity = request ->> 'identity' where identity is null;
    select * into state from mirror.state;
  end if;

  perform mirror.check_pair(state.identity, state.token, request);

  if state.epoch < (request ->> 'epoch')::integer then
    update mirror.state
    set epoch = (request ->> 'epoch')::integer, horizon = 0, step_fence = 0
    where epoch < (request ->> 'epoch')::integer;
    perform mirror.forget_freshness();
    select * into state from mirror.state;
  elsif state.epoch > (request ->> 'epoch')::integer then
    raise exception 'this read belongs to epoch %, the target is at epoch %',
      request ->> 'epoch', state.epoch
      using errcode = 'MR003',
        hint = 'The primary was restored to before the last rebase; run `mirror rebase` again.';
  end if;

  select string_agg(section ->> 'mapping', ', ') into wrong
  from jsonb_array_elements(request -> 'sections') as section
  left join mirror.mappings as m on m.name = section ->> 'mapping'
  where m.digest is distinct from section ->> 'digest';
  if wrong is not null then
    raise exception 'the target holds another version of mapping(s) %', wrong
      using errcode = 'MR001',
        hint = 'Deploy the worker whose declarations were migrated, or run `mirror migrate supabase`.';
  end if;

  return state.horizon;
end
$$;


-- The server's timeline: a fail-over begins another one. Null where the host does not tell it.
create or replace function mirror.wal_timeline() returns text
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
  return left(pg_walfile_name(pg_current_wal_insert_lsn()), 8);
exception when others then
  return null;
end
$$;


-- Take a step together with the primary, and note how fresh this database is. A worker calls it
-- about once a second while it has work.
--
-- request: the envelope without sections, and optionally
--   fresh: for each mapping, the moment of this clock before which every recorded revocation is in
--     force here;
--   timeline: that of the primary's server;
--   verified: the moment at which a reconcile began that ended with both sides in line.
-- Answers {clock}: this clock, now.
create or replace function mirror.step(request jsonb) returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  pair constant jsonb := request -> 'pair';
  present constant text := mirror.wal_timeline();
begin
  perform mirror.admit(request, false);
  -- A primary that was loaded from a dump has the right token, and transaction ids of its own. If
  -- another worker was faster with the same step, its read may have been the later one.
  if (request ->> 'fence')::bigint < (
    select s.step_fence from mirror.state as s
    where s.token is distinct from (pair ->> 'token')::uuid
  ) then
    raise exception 'the primary is older than it was at the last step'
      using errcode = 'MR003', hint = 'If this primary is the truth now, run `mirror rebase`.';
  end if;
  update mirror.state as s
  set step = (pair ->> 'step')::bigint, token = (pair ->> 'token')::uuid,
    step_fence = (request ->> 'fence')::bigint, identity = request ->> 'identity',
    timeline = present, primary_timeline = request ->> 'timeline',
    failed_over_at = case
      when s.timeline <> present or s.primary_timeline <> request ->> 'timeline'
        then clock_timestamp()
      else s.failed_over_at
    end
  where s.token is distinct from (pair ->> 'token')::uuid
    and s.token is not distinct from (pair ->> 'base')::uuid;
  -- Another worker may have gone on since this one was admitted.
  if not exists (select from mirror.state as s where s.token = (pair ->> 'token')::uuid) then
    raise exception 'the primary has taken a later step' using errcode = 'MR013';
  end if;

  insert into mirror.freshness as f (mapping, as_of)
  select m.name, e.value::timestamptz
  from jsonb_each_text(request -> 'fresh') as e
  join mirror.mappings as m on m.name = e.key
  -- So that two workers lock the rows in one order.
  order by m.name
  on conflict (mapping) do update set as_of = excluded.as_of
  -- Not for less than a second. A moment in the future is left from a clock that was set back.
  where f.as_of > clock_timestamp() or excluded.as_of >= f.as_of + interval '1 second';
  if request ->> 'verified' is not null then
    update mirror.state as s
    set verified_as_of = (request ->> 'verified')::timestamptz,
      failed_over_at = case
        when s.failed_over_at > (request ->> 'verified')::timestamptz then s.failed_over_at
      end;
  end if;
  return jsonb_build_object('clock', clock_timestamp());
end
$$;
