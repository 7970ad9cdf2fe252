-- Take the lock of all writers: shared, or alone. Insists on READ COMMITTED, so that what follows
-- sees what the last holder left. Whoever waits for too long fails as a lock timeout, which says
-- that somebody else was in the way: a statement timeout would blame the batch.
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
  if alone then
    perform pg_catalog.pg_advisory_xact_lock(lock_class, lock_id);
  else
    perform pg_catalog.pg_advisory_xact_lock_shared(lock_class, lock_id);
  end if;
end
$$;


-- Admit a caller: the right isolation, primary, epoch and declarations, and a lock.
--
-- Ordinary writes share the lock. Whoever moves a boundary that others check (opens a scope,
-- removes a parent, purges, begins an epoch) holds it alone, so those checks need no lock of their
-- own.
-- Returns the horizon.
create or replace function mirror.admit(request jsonb, alone boolean) returns bigint
language plpgsql set search_path = pg_catalog, pg_temp
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

  if state.identity <> request ->> 'identity' then
    raise exception 'this target mirrors another primary: it expects %, this worker reads %',
      state.identity, request ->> 'identity'
      using errcode = 'MR002',
        hint = 'A copy with production settings? If the primary really moved, run `mirror rebase`.';
  end if;

  if state.epoch < (request ->> 'epoch')::integer then
    update mirror.state
    set epoch = (request ->> 'epoch')::integer, horizon = 0
    where epoch < (request ->> 'epoch')::integer;
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
