-- The engine in the target: what every permission model needs, whatever its tables.
--
-- It lives in the private schema `mirror`, which the API does not expose; the thin functions
-- public.mirror_* are the only way in, for service_role and mirror_writer. Every statement can run
-- again.


-- Refuse a database that is not a Supabase project, before anything is created.
do $$
begin
  if to_regprocedure('auth.uid()') is null
     or (select count(*) from pg_roles where rolname in ('anon', 'authenticated', 'service_role')) < 3
  then
    raise exception 'this database is no Supabase project: auth.uid() or its roles are missing'
      using errcode = 'MR010',
        hint = 'Point SUPABASE_DB_URL at the project''s own database, as role postgres.';
  end if;
end
$$;


-- Who may mirror, and nothing else: a token of this role is worth less than service_role's key. The
-- API's login has to be a member of the roles that tokens name. Roles belong to the whole server,
-- where another database may be doing the same.
do $$
begin
  if not exists (select from pg_roles where rolname = 'mirror_writer') then
    create role mirror_writer nologin;
  end if;
exception when duplicate_object or unique_violation then
  null;
end
$$;
do $$
begin
  if exists (select from pg_roles where rolname = 'authenticator')
     and not pg_has_role('authenticator', 'mirror_writer', 'member')
  then
    grant mirror_writer to authenticator;
  end if;
end
$$;


create schema if not exists mirror;
revoke all on schema mirror from public, anon, service_role, mirror_writer;
-- Policies call helper functions as the signed-in user.
grant usage on schema mirror to authenticated;


-- Which of our migrations ran here. Kept apart from supabase_migrations.schema_migrations: a row
-- there that the user's own repository lacks breaks their `supabase db push`.
create table if not exists mirror.migrations (
  name text primary key,
  checksum text not null,
  applied_at timestamptz not null default now()
);


-- One row: whose truth is mirrored here, and how far back a write may reach.
create table if not exists mirror.state (
  one boolean primary key default true check (one),
  -- The primary's identity; null until the first write.
  identity text,
  -- Rises with every `mirror rebase`. Fences of different epochs do not compare.
  epoch integer not null default 0,
  -- Writes with an older fence are refused: what could contradict them has been purged.
  horizon bigint not null default 0
);
insert into mirror.state default values on conflict do nothing;


-- The declarations this database was migrated to. A worker with others is refused.
create table if not exists mirror.mappings (
  name text primary key,
  -- The registry that declares it; several may live in one target.
  model text not null,
  -- Parents come before their children.
  position integer not null,
  digest text not null,
  is_parent boolean not null,
  declaration jsonb not null
);


-- When a scope ("all memberships of trip 7") was last read as a whole. A write for a key under it
-- that was read earlier is refused even if that key was never seen here: it may have left the
-- scope in between, and no ledger row would know.
create table if not exists mirror.scopes (
  mapping text not null,
  -- The reference's name, or '*' for the whole mapping (value '').
  reference text not null,
  value text not null,
  epoch integer not null,
  fence bigint not null,
  read_at timestamptz not null default now(),
  primary key (mapping, reference, value)
);

revoke all on all tables in schema mirror from public, anon, authenticated, service_role;


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
  state mirror.state;
  wrong text;
begin
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


-- Write one batch, all of it or nothing, refusing per key what is older than what is known.
--
-- request: {identity, epoch, fence, sections: [{mapping, digest, rows: [[…]], gone: [[…]]}]}.
-- A row lists the mapping's columns, then its references, then, for a parent whose children come
-- along, true; a gone key lists the key columns.
-- Answers {horizon, mappings: {name: {stale, orphans, appearing, retained, ahead}}}, with keys as
-- arrays of text; a horizon that is not null means that the whole batch was older than it.
create or replace function mirror.apply(request jsonb) returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  section record;
  answer jsonb;
  answers jsonb := '{}';
  fence constant bigint := (request ->> 'fence')::bigint;
  horizon bigint;
begin
  horizon := mirror.admit(request, exists (
    select from jsonb_array_elements(request -> 'sections') as s
    join mirror.mappings as m on m.name = s ->> 'mapping'
    where m.is_parent and jsonb_array_length(s -> 'gone') > 0
  ));
  if fence < horizon then
    return jsonb_build_object('horizon', horizon, 'mappings', answers);
  end if;

  for section in
    select m.name, s -> 'rows' as rows, s -> 'gone' as gone
    from jsonb_array_elements(request -> 'sections') as s
    join mirror.mappings as m on m.name = s ->> 'mapping'
    order by m.position
  loop
    execute format('select mirror.%I($1, $2, $3, $4)', 'apply_' || section.name)
      into answer
      using (request ->> 'epoch')::integer, fence, section.rows, section.gone;
    answers := answers || jsonb_build_object(section.name, answer);
  end loop;
  return jsonb_build_object('horizon', null, 'mappings', answers);
end
$$;


-- Note that these scopes are being read at this fence, and return the keys known under them.
--
-- request: {identity, epoch, fence, limit, sections: [{mapping, digest, reference, values, after}]}.
-- Answers {horizon, sections: [[key, …], …]}: at most `limit` keys each, in key order, those after
-- `after` if that is a key. Only the first page (no `after`) closes a scope to earlier reads: they
-- may have missed what it was opened for. Later pages need not, and would make every other worker
-- read again for as long as a large scope takes.
create or replace function mirror.open_scopes(request jsonb) returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  section jsonb;
  answer jsonb;
  answers jsonb := '[]';
  horizon bigint;
begin
  horizon := mirror.admit(request, exists (
    select from jsonb_array_elements(request -> 'sections') as s
    where jsonb_array_length(s -> 'after') = 0
  ));
  if (request ->> 'fence')::bigint < horizon then
    return jsonb_build_object('horizon', horizon, 'sections', answers);
  end if;

  for section in select value from jsonb_array_elements(request -> 'sections') loop
    insert into mirror.scopes as s (mapping, reference, value, epoch, fence)
    select distinct section ->> 'mapping', section ->> 'reference', value,
      (request ->> 'epoch')::integer, (request ->> 'fence')::bigint
    from jsonb_array_elements_text(section -> 'values') as value
    where jsonb_array_length(section -> 'after') = 0
    on conflict (mapping, reference, value) do update
    set epoch = excluded.epoch, fence = excluded.fence, read_at = now()
    where (s.epoch, s.fence) < (excluded.epoch, excluded.fence);

    execute format('select mirror.%I($1, $2, $3, $4)', 'scope_' || (section ->> 'mapping'))
      into answer
      using section ->> 'reference',
        array(select jsonb_array_elements_text(section -> 'values')),
        array(select jsonb_array_elements_text(section -> 'after')),
        (request ->> 'limit')::integer;
    answers := answers || jsonb_build_array(answer);
  end loop;
  return jsonb_build_object('horizon', null, 'sections', answers);
end
$$;


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
  for mapping in select name from mirror.mappings order by position, name loop
    execute format(
      'delete from mirror.%1$I where ctid = any (array('
      ' select ctid from mirror.%1$I where not present and (epoch, fence) <= ($1, $2)'
      ' limit $3 for update skip locked))',
      'ledger_' || mapping.name
    ) using state.epoch, state.horizon, piece - purged;
    get diagnostics n = row_count;
    purged := purged + n;
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
  set identity = new_identity, epoch = new_epoch, horizon = 0
  where epoch < new_epoch;
  if not found and not exists (
    select from mirror.state as s where s.epoch = new_epoch and s.identity = new_identity
  ) then
    raise exception 'epoch % is not newer than the target''s', new_epoch using errcode = 'MR003';
  end if;
end
$$;


-- Say what lies in some ranges of a mapping's keys, for a reconcile to compare. Nothing is locked
-- or written, so any number of these may run beside the workers.
--
-- request: {mapping, digest, seed, md5, limit, each, ranges: [[from, until], …]}; a range holds its
-- `from` and not its `until`, which may be null: no end.
-- Answers {probe, ranges: [{rows, sum, strays, until, each}]}: how many rows, the sum of their
-- hashes, where the answer stopped for the limit, and, if asked for, [key…, hash] of each row.
-- `probe` is the hash of a row that both sides know: equal, if they hash alike.
create or replace function mirror.digest(request jsonb) returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp
-- How values print is part of their hash.
set datestyle = 'ISO, YMD' set timezone = 'UTC' set intervalstyle = 'postgres'
set extra_float_digits = 1 set bytea_output = 'hex'
-- Ranges are small, whatever the planner thinks; one of its whole scans for each would be too slow.
set enable_seqscan = off set max_parallel_workers_per_gather = 0
as $$
declare
  range jsonb;
  answer jsonb;
  answers jsonb[] := '{}';
  seed constant bigint := (request ->> 'seed')::bigint;
  md5 constant boolean := (request ->> 'md5')::boolean;
  probe constant record := row('permission'::text collate "C", null::text, 'ß€'::text collate "C");
begin
  perform mirror.check_mapping(request);
  for range in select value from jsonb_array_elements(request -> 'ranges') loop
    execute format('select mirror.%I($1, $2, $3, $4, $5, $6)', 'digest_' || (request ->> 'mapping'))
      into answer
      using array(select jsonb_array_elements_text(range -> 0)),
        case when range -> 1 <> 'null' then array(select jsonb_array_elements_text(range -> 1)) end,
        seed, md5, (request ->> 'limit')::integer, (request ->> 'each')::boolean;
    answers := answers || answer;
  end loop;
  return jsonb_build_object(
    'probe', case
      when md5 then ('x' || left(pg_catalog.md5(seed::text || probe::text), 16))::bit(64)::bigint
      else hash_record_extended(probe, seed)
    end::text,
    'ranges', to_jsonb(answers)
  );
end
$$;


-- Return where a part of a table's rows begins, and where it ends: before that.
create or replace function mirror.part_of(name regclass, part integer, parts integer) returns tid[]
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select array[
    format('(%s,0)', blocks * part / parts),
    -- What was added meanwhile belongs to the last part.
    format('(%s,0)', case when part + 1 < parts then blocks * (part + 1) / parts else 4294967294 end)
  ]::tid[]
  from (select pg_relation_size(name) / current_setting('block_size')::bigint as blocks) as s
$$;


-- Say what lies in a part of a mapping's rows, by the lowest bits of their keys' hashes.
--
-- request: {mapping, digest, seed, md5, bits, wanted, each, part, parts}; `wanted`, in base64, has a
-- bit for each bucket that is asked for; null: all are.
-- Answers {buckets, rows, sums}: numbers of buckets and, for each, how many rows are visible, and
-- hashes XORed; all packed and in base64, a bucket up to twice. Or, if `each` is asked for,
-- [[key…, hash]].
create or replace function mirror.survey(request jsonb) returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp
-- How values print is part of their hash.
set datestyle = 'ISO, YMD' set timezone = 'UTC' set intervalstyle = 'postgres'
set extra_float_digits = 1 set bytea_output = 'hex'
-- Whole tables are read: a plan that does not know which part, or that md5 is not asked for, is
-- dearer than to plan.
set plan_cache_mode = force_custom_plan
as $$
declare
  answer jsonb;
begin
  perform mirror.check_mapping(request);
  execute format('select mirror.%I($1, $2, $3, $4, $5, $6, $7)', 'survey_' || (request ->> 'mapping'))
    into answer
    using (request ->> 'seed')::bigint, (request ->> 'md5')::boolean, (request ->> 'bits')::integer,
      decode(request ->> 'wanted', 'base64'), (request ->> 'each')::boolean,
      (request ->> 'part')::integer, (request ->> 'parts')::integer;
  return answer;
end
$$;


-- Say everything that is known of some keys.
--
-- request: {mapping, digest, keys}. Answers [{key, row, present, epoch, fence, edited, expired,
-- outdated}]: the visible row with its references, or null; the ledger's row, if any; whether
-- somebody else wrote the visible row since; whether the model was migrated since.
create or replace function mirror.rows(request jsonb) returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp
set datestyle = 'ISO, YMD' set timezone = 'UTC' set intervalstyle = 'postgres'
set extra_float_digits = 1 set bytea_output = 'hex'
as $$
declare
  answer jsonb;
begin
  perform mirror.check_mapping(request);
  execute format('select mirror.%I($1)', 'rows_' || (request ->> 'mapping'))
    into answer using request -> 'keys';
  return answer;
end
$$;


-- Name rows of a mapping that have expired.
--
-- request: {mapping, digest, after, limit}; `after` is a key, or empty. Answers [key], in order.
create or replace function mirror.expired(request jsonb) returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  answer jsonb;
begin
  perform mirror.check_mapping(request);
  execute format('select mirror.%I($1, $2)', 'expired_' || (request ->> 'mapping'))
    into answer
    using array(select jsonb_array_elements_text(request -> 'after')),
      (request ->> 'limit')::integer;
  return answer;
end
$$;


-- Refuse a reader whose declaration of a mapping is not the one that this database has.
create or replace function mirror.check_mapping(request jsonb) returns void
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
  if not exists (
    select from mirror.mappings as m
    where m.name = request ->> 'mapping' and m.digest = request ->> 'digest'
  ) then
    raise exception 'the target holds another version of mapping(s) %', request ->> 'mapping'
      using errcode = 'MR001',
        hint = 'Deploy the worker whose declarations were migrated, or run `mirror migrate supabase`.';
  end if;
end
$$;


-- What a worker and `mirror status` want to know first.
create or replace function mirror.describe() returns jsonb
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select jsonb_build_object(
    'identity', s.identity,
    'epoch', s.epoch,
    'horizon', s.horizon,
    'mappings', (select coalesce(jsonb_object_agg(name, digest), '{}') from mirror.mappings),
    'migrations', (select coalesce(jsonb_object_agg(name, checksum), '{}') from mirror.migrations),
    -- For the API, which may not have noticed yet.
    'doors', (
      select jsonb_agg(proname) from pg_proc
      where pronamespace = 'public'::regnamespace and proname like 'mirror\_%'
    )
  )
  from mirror.state as s
$$;


-- By which columns somebody may look for rows of a table through the doors below: those of its key,
-- those that an index begins with, those that policies read. Null for a table that is none of the
-- API's: not mirrored, not granted to signed-in users, without a policy of ours.
create or replace function mirror.handles(wanted regclass) returns name[]
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select array(
    select a.attname from pg_attribute as a
    where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
      and (
        exists (
          select from pg_index as i
          where i.indrelid = c.oid
            and (i.indkey[0] = a.attnum or i.indisprimary and a.attnum = any (i.indkey))
        )
        or exists (
          select from pg_policy as p
          join pg_depend as d on d.classid = 'pg_policy'::regclass and d.objid = p.oid
          where p.polrelid = c.oid and d.refclassid = 'pg_class'::regclass
            and d.refobjid = c.oid and d.refobjsubid = a.attnum
        )
      )
  )
  from pg_class as c
  where c.oid = wanted and c.relkind in ('r', 'p')
    and (
      has_any_column_privilege('authenticated', c.oid, 'select, insert, update')
      or has_table_privilege('authenticated', c.oid, 'delete')
      or exists (
        select from mirror.mappings as m
        where to_regclass(
          format('%I.%I', m.declaration #>> '{table,0}', m.declaration #>> '{table,1}')
        ) = c.oid
      )
      or exists (
        select from mirror.mappings as m
        join pg_policy as p on starts_with(p.polname::text, 'mirror_' || m.model || '_')
        where p.polrelid = c.oid
      )
    )
$$;


-- What decides about one statement on a table: privileges, row-level security, the policies that
-- apply to authenticated; and of the row that it is about no more than the columns that those read.
--
-- ask: {schema, table, verb, row: {column: text}, attempt}; the row that comes for an insert, else
-- values that find one. Answers {there, table, privilege, change, types, rows, row, defaults,
-- policies}.
create or replace function mirror.deciding(ask jsonb) returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  wanted constant regclass := to_regclass(format('%I.%I', ask ->> 'schema', ask ->> 'table'));
  verb constant text := ask ->> 'verb';
  given constant jsonb := ask -> 'row';
  handles constant name[] := mirror.handles(wanted);
  api constant name := 'authenticated';
  policies jsonb;
  read text[];
  found jsonb := given;
  rows bigint := 0;
  wrong text;
begin
  if handles is null then
    return jsonb_build_object('there', false);
  end if;
  select case
    when a.attname is null then format('table %s has no column %I', wanted, g.name)
    when verb <> 'insert' and (ask ->> 'attempt')::boolean and a.attname <> all (handles)
      then format('rows of %s cannot be asked for by %I', wanted, g.name)
  end
  into wrong
  from jsonb_object_keys(given) as g (name)
  left join pg_attribute as a
    on a.attrelid = wanted and a.attname = g.name and a.attnum > 0 and not a.attisdropped
  order by 1
  limit 1;
  if wrong is not null then
    raise exception '%', wrong using errcode = 'MR011', hint = format(
      'Take some of %s.', array_to_string(handles, ', ')
    );
  end if;

  -- Whoever changes or deletes a row has to see it.
  select coalesce(jsonb_agg(jsonb_build_object(
      'name', p.polname,
      'verb', case p.polcmd when 'r' then 'select' when 'a' then 'insert' when 'w' then 'update'
        when 'd' then 'delete' else 'all' end,
      'permissive', p.polpermissive,
      'using', case when verb <> 'insert' then pg_get_expr(p.polqual, p.polrelid) end,
      'check', case when verb = 'insert' or verb = 'update' and p.polcmd in ('w', '*')
        then pg_get_expr(coalesce(p.polwithcheck, p.polqual), p.polrelid) end
    ) order by p.polname), '[]')
  into policies
  from pg_policy as p
  where p.polrelid = wanted
    and (
      p.polcmd in ('*', case verb when 'select' then 'r' when 'insert' then 'a'
        when 'update' then 'w' else 'd' end)
      or p.polcmd = 'r' and verb in ('update', 'delete')
    )
    and exists (
      select from unnest(p.polroles) as r (id)
      where r.id = 0 or pg_has_role(api, r.id, 'usage')
    );
  select coalesce(array_agg(distinct a.attname), '{}') into read
  from pg_policy as p
  join pg_depend as d on d.classid = 'pg_policy'::regclass and d.objid = p.oid
    and d.refclassid = 'pg_class'::regclass and d.refobjid = wanted
  join pg_attribute as a on a.attrelid = wanted and a.attnum = d.refobjsubid and a.attnum > 0
  where p.polrelid = wanted;

  if verb <> 'insert' and (ask ->> 'attempt')::boolean then
    execute format(
      'select count(*), min(r.found::text)::jsonb from ('
      ' select jsonb_build_object(%s) as found from %s as t where %s limit 2) as r',
      (select string_agg(format('%L, to_jsonb(t.%I)', name, name), ', ') from unnest(read) as name),
      wanted,
      (
        select string_agg(
          format('t.%I = %L::%s', a.attname, g.value, format_type(a.atttypid, a.atttypmod)), ' and '
        )
        from jsonb_each_text(given) as g
        join pg_attribute as a on a.attrelid = wanted and a.attname = g.key
      )
    ) into rows, found;
  end if;

  return jsonb_build_object(
    'there', true,
    'table', wanted::text,
    'privilege', has_table_privilege(api, wanted, verb)
      or case when verb <> 'delete' then has_any_column_privilege(api, wanted, verb) else false end,
    -- For an update that changes nothing: a column, and what it can be set to. What may not be read
    -- cannot be set to itself.
    'change', (
      select format('%I = %s', a.attname, case when r.readable then format('t.%I', a.attname)
        else 'default' end)
      from pg_attribute as a
      cross join lateral has_column_privilege(api, wanted, a.attnum, 'select') as r (readable)
      where a.attrelid = wanted and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
        and has_column_privilege(api, wanted, a.attnum, 'update')
      order by r.readable desc, a.attnum
      limit 1
    ),
    'types', (
      select coalesce(jsonb_object_agg(a.attname, format_type(a.atttypid, a.atttypmod)), '{}')
      from pg_attribute as a where a.attrelid = wanted and given ? a.attname
    ),
    'rows', rows,
    'row', found,
    'defaults', (
      select coalesce(jsonb_object_agg(a.attname, jsonb_build_object(
        'value', pg_get_expr(d.adbin, d.adrelid), 'type', format_type(a.atttypid, a.atttypmod)
      )), '{}')
      from pg_attrdef as d
      join pg_attribute as a on a.attrelid = d.adrelid and a.attnum = d.adnum
      where d.adrelid = wanted and a.attname = any(read) and not given ? a.attname
    ),
    'policies', policies
  );
exception when data_exception then
  raise exception 'a value given for table % does not fit its column', wanted
    using errcode = 'MR011';
end
$$;


-- Which of these values a column of a table holds, whoever may see it.
create or replace function mirror.holding(ask jsonb, candidates jsonb) returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  wanted constant regclass := to_regclass(format('%I.%I', ask ->> 'schema', ask ->> 'table'));
  kind text;
  answer jsonb;
begin
  select format_type(atttypid, atttypmod) into kind from pg_attribute
  where attrelid = wanted and attname = ask ->> 'column' and attname = any (mirror.handles(wanted));
  if kind is null then
    return jsonb_build_object('there', false);
  end if;
  execute format(
    'select coalesce(jsonb_agg(v), ''[]'') from jsonb_array_elements_text($1) as v'
    ' where exists (select from %s as t where t.%I = v::%s)', wanted, ask ->> 'column', kind
  ) into answer using candidates;
  return jsonb_build_object('there', true, 'table', wanted::text, 'type', kind, 'values', answer);
end
$$;


-- Keys of a mapping: of rows in which columns hold values, {column: text}; or, if those are null, of
-- what was deleted last.
create or replace function mirror.keys(mapping text, columns jsonb, most integer) returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  wanted regclass;
  key text;
  answer jsonb;
begin
  select
    to_regclass(format('%I.%I', m.declaration #>> '{table,0}', m.declaration #>> '{table,1}')),
    (
      select string_agg(format('l.%I::text', k.name), ', ' order by k.number)
      from jsonb_array_elements_text(m.declaration -> 'key') with ordinality as k (name, number)
    )
  into wanted, key
  from mirror.mappings as m where m.name = mapping;

  execute format('select coalesce(jsonb_agg(jsonb_build_array(%s)), ''[]'') from (', key)
    || case
      when columns is null then format(
        'select * from mirror.%I where not present order by applied_at desc', 'ledger_' || mapping
      )
      else format('select * from %s where ', wanted) || (
        select string_agg(
          format('%I = %L::%s', c.key, c.value, format_type(a.atttypid, a.atttypmod)), ' and '
        )
        from jsonb_each_text(columns) as c
        join pg_attribute as a on a.attrelid = wanted and a.attname = c.key
      )
    end || ' limit $1) as l'
  into answer using most;
  return answer;
end
$$;


-- What is known here beside a mapping's rows, for whoever follows a permission.
--
-- request: {scopes: [[mapping, reference, value], …], asks, values}, with asks as in mirror_ask; and,
-- where they are of interest, user and keys: {mapping, columns, most}.
-- Answers {identity, epoch, horizon, users, known, scopes: [[mapping, reference, value, epoch,
-- fence], …], keys: [key, …], asks: [facts or null, …]}. `users`: whether Auth has any; `known`:
-- whether it has this one; both null where that cannot be looked up.
create or replace function mirror.trace(request jsonb) returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  users boolean;
  known boolean;
begin
  if request ? 'user' and to_regclass('auth.users') is not null
     and has_schema_privilege('auth', 'usage') and has_table_privilege('auth.users', 'select')
  then
    execute 'select exists (select from auth.users),'
      ' exists (select from auth.users where id = $1::uuid)'
    into users, known using request ->> 'user';
  end if;
  return (
    select jsonb_build_object(
      'identity', s.identity,
      'epoch', s.epoch,
      'horizon', s.horizon,
      'users', users,
      'known', known,
      'scopes', (
        select coalesce(jsonb_agg(jsonb_build_array(
          o.mapping, o.reference, o.value, o.epoch, o.fence
        ) order by o.epoch desc, o.fence desc), '[]')
        from jsonb_array_elements(request -> 'scopes') as w
        join mirror.scopes as o
          on o.mapping = w ->> 0 and o.reference = w ->> 1 and o.value = w ->> 2
      ),
      'keys', case when request ? 'keys' then mirror.keys(
        request #>> '{keys,mapping}', nullif(request #> '{keys,columns}', 'null'),
        (request #>> '{keys,most}')::integer
      ) end,
      'asks', (
        select coalesce(jsonb_agg(case a.ask ->> 'kind'
          when 'statement' then mirror.deciding(a.ask)
          when 'rows' then mirror.holding(a.ask, request -> 'values')
        end order by a.number), '[]')
        from jsonb_array_elements(request -> 'asks') with ordinality as a (ask, number)
      )
    )
    from mirror.state as s
  );
end
$$;


-- Say what this database's catalogs hold that `mirror doctor` judges. Nothing is locked or written.
--
-- request: {tables: [name as in SQL, …], types: [name, …]}. Answers {version, now, types, mirrored,
-- tables, policies, functions}; the Catalog of mirror/targets/catalog.py says what they hold. With
-- this search_path, every name in the answer has its schema.
create or replace function mirror.examine(request jsonb) returns jsonb
language sql stable set search_path = pg_catalog, pg_temp
as $$
  with api as (
    -- What PUBLIC may, these may.
    select oid, rolname as name from pg_roles where rolname in ('anon', 'authenticated')
  ), asked as (
    select name, to_regclass(name)::oid as oid
    from (select distinct jsonb_array_elements_text(request -> 'tables')) as t (name)
  ), columns as (
    select a.attrelid as relation, a.attnum, a.attname::text as name,
      format_type(a.atttypid, null) as type, t.typtype = 'e' as enum,
      a.attnotnull as required,
      a.atthasdef or a.attidentity <> '' or a.attgenerated <> '' as filled
    from pg_attribute as a
    join pg_type as t on t.oid = a.atttypid
    where a.attnum > 0 and not a.attisdropped
  ), links as (
    select c.oid, c.conname::text as name, c.conrelid, c.confrelid,
      c.confdeltype::text as on_delete,
      array(
        select a.attname::text
        from unnest(c.conkey) with ordinality as k (attnum, place)
        join pg_attribute as a on a.attrelid = c.conrelid and a.attnum = k.attnum
        order by k.place
      ) as columns,
      exists (
        select from pg_index as i
        where i.indrelid = c.conrelid and i.indisvalid and i.indpred is null
          and i.indkey[0] = any (c.conkey)
      ) as indexed
    from pg_constraint as c
    -- A partition's copy of a key says nothing that its parent's does not.
    where c.contype = 'f' and c.conparentid = 0
  ), words as (
    -- What can be told from a function's text: nothing records what it refers to.
    select lower(c.relname) as word from asked join pg_class as c on c.oid = asked.oid
    union
    select lower(a.name) from asked join columns as a on a.relation = asked.oid
  ), conditions as (
    select oid, polrelid, concat(polqual, polwithcheck) as tree from pg_policy
  ), reached as (
    -- The tables of a policy's subqueries, and the functions that it calls: its tree names them.
    select c.oid, 'table' as kind, found[1]::oid as what
    from conditions as c, regexp_matches(c.tree, ':relid (\d+)', 'g') as found
    union
    select c.oid, 'function', found[1]::oid
    from conditions as c, regexp_matches(c.tree, ':funcid (\d+)', 'g') as found
  )
  select jsonb_build_object(
    'version', current_setting('server_version_num')::integer,
    'now', extract(epoch from clock_timestamp())::float8,
    'types', (
      select coalesce(jsonb_object_agg(t.name, format_type(to_regtype(t.name)::oid, null)), '{}')
      from (select distinct jsonb_array_elements_text(request -> 'types')) as t (name)
    ),
    'mirrored', (
      select coalesce(jsonb_agg(to_regclass(
        format('%I.%I', m.declaration #>> '{table,0}', m.declaration #>> '{table,1}')
      )::text), '[]')
      from mirror.mappings as m
    ),
    'tables', (
      select coalesce(jsonb_object_agg(asked.name, case when c.oid is not null then
        jsonb_build_object(
          'name', c.oid::regclass::text,
          'rls', c.relrowsecurity,
          'published', exists (
            select from pg_publication_tables as p
            where p.pubname = 'supabase_realtime'
              and to_regclass(format('%I.%I', p.schemaname, p.tablename)) = c.oid
          ),
          'columns', (
            select coalesce(jsonb_object_agg(a.name, jsonb_build_object(
              'type', a.type, 'enum', a.enum, 'required', a.required, 'filled', a.filled
            )), '{}')
            from columns as a where a.relation = c.oid
          ),
          -- By role and privilege: the columns it reaches, '*' where it is the table's alone.
          'grants', (
            select coalesce(jsonb_object_agg(r.name, (
              select coalesce(jsonb_object_agg(p.name, p.columns), '{}')
              from (
                select v.name, array(
                  select a.name from columns as a
                  where a.relation = c.oid and has_column_privilege(r.oid, c.oid, a.attnum, v.name)
                  order by a.attnum
                ) as columns
                from unnest(array['select', 'insert', 'update']) as v (name)
                union all
                select v.name, array['*']
                from unnest(array['delete', 'truncate']) as v (name)
                where has_table_privilege(r.oid, c.oid, v.name)
              ) as p
              where p.columns <> '{}'
            )), '{}')
            from api as r
          ),
          'indexes', (
            select coalesce(jsonb_agg(distinct a.attname::text), '[]')
            from pg_index as i
            join pg_attribute as a on a.attrelid = i.indrelid and a.attnum = i.indkey[0]
            where i.indrelid = c.oid and i.indisvalid and i.indpred is null
          ),
          'triggers', (
            select coalesce(jsonb_agg(t.tgname::text order by t.tgname), '[]')
            from pg_trigger as t
            where t.tgrelid = c.oid and not t.tgisinternal and t.tgenabled <> 'D'
          ),
          'references', (
            select coalesce(jsonb_agg(jsonb_build_object(
              'name', l.name, 'table', l.confrelid::regclass::text, 'columns', l.columns,
              'on_delete', l.on_delete, 'indexed', l.indexed
            ) order by l.name), '[]')
            from links as l where l.conrelid = c.oid
          ),
          'referenced_by', (
            select coalesce(jsonb_agg(jsonb_build_object(
              'name', l.name, 'table', l.conrelid::regclass::text, 'columns', l.columns,
              'on_delete', l.on_delete, 'indexed', l.indexed
            ) order by l.conrelid::regclass::text, l.name), '[]')
            from links as l where l.confrelid = c.oid
          )
        )
      end), '{}')
      from asked left join pg_class as c on c.oid = asked.oid
    ),
    'policies', (
      select coalesce(jsonb_agg(jsonb_build_object(
        'name', p.polname::text,
        'table', p.polrelid::regclass::text,
        'rls', t.relrowsecurity,
        'permissive', p.polpermissive,
        'command', p.polcmd::text,
        'clients', p.polroles && array(select 0::oid union all select oid from api),
        'conditions', jsonb_build_array(
          pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid)
        ),
        'subqueries', c.tree like '%{SUBLINK%',
        'reads', (
          select coalesce(jsonb_agg(r.what::regclass::text), '[]')
          from reached as r where r.oid = p.oid and r.kind = 'table'
        ),
        'columns', (
          select coalesce(jsonb_agg(distinct
            jsonb_build_array(d.refobjid::regclass::text, a.attname::text)
          ), '[]')
          from pg_depend as d
          join pg_attribute as a on a.attrelid = d.refobjid and a.attnum = d.refobjsubid
          where d.classid = 'pg_policy'::regclass and d.objid = p.oid
            and d.refclassid = 'pg_class'::regclass and d.refobjsubid > 0
        ),
        'calls', (
          select coalesce(jsonb_agg(jsonb_build_object(
            'name', f.oid::regprocedure::text,
            'words', array(
              select distinct lower(word[1])
              from regexp_matches(f.prosrc, '\w+', 'g') as word
              where lower(word[1]) in (select word from words)
            )
          ) order by f.oid), '[]')
          from reached as r
          join pg_proc as f on f.oid = r.what
          join pg_language as l on l.oid = f.prolang
          where r.oid = p.oid and r.kind = 'function' and l.lanname in ('sql', 'plpgsql')
            and f.pronamespace not in ('pg_catalog'::regnamespace, 'mirror'::regnamespace)
            and f.pronamespace::regnamespace::text <> 'auth'
        )
      ) order by p.polrelid::regclass::text, p.polname), '[]')
      from pg_policy as p
      join conditions as c on c.oid = p.oid
      join pg_class as t on t.oid = p.polrelid
    ),
    -- Ours that somebody else may call.
    'functions', (
      select coalesce(jsonb_object_agg(f.name, f.roles), '{}')
      from (
        select p.oid::regprocedure::text as name, array(
          select r.name from api as r where has_function_privilege(r.oid, p.oid, 'execute')
          order by r.name
        ) as roles
        from pg_proc as p
        where p.pronamespace = 'mirror'::regnamespace
          or (p.pronamespace = 'public'::regnamespace and p.proname like 'mirror\_%')
      ) as f
      where f.roles <> '{}'
    )
  )
$$;
revoke all on function mirror.examine(jsonb) from public, anon, authenticated, service_role;


-- What the models' own migrations call.
--
-- Refuse a table that is not what we would create: a column too many or one that may not be null
-- could make a revocation fail. Of a table that we did not create we refuse more: its policies
-- could let people read, its constraints and triggers could hold a row back. Whoever adds one to
-- a table of ours does so on purpose.
create or replace function mirror.check_table(mapping text, name text, shape jsonb) returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  wanted constant regclass := to_regclass(name);
  ours constant boolean := exists (
    select from mirror.mappings as m
    where m.name = mapping and m.declaration -> 'table' = shape -> 'table'
  );
  wrong text;
begin
  select m.model into wrong from mirror.mappings as m
  where m.name = mapping and m.model <> shape ->> 'model';
  if found then
    raise exception 'mapping % belongs to model % here', mapping, wrong
      using errcode = 'MR010', hint = 'Give one of the two another name. If it is the model that '
        'has a new name, enter that in mirror.mappings first.';
  end if;
  if wanted is null then
    return;
  end if;

  select case
    when relkind <> 'r' then 'is no plain table'
    when pg_get_userbyid(relowner) <> current_user
      then 'belongs to ' || pg_get_userbyid(relowner) || ', not to ' || current_user
  end into wrong
  from pg_class where oid = wanted;

  if wrong is null and exists (
    with have as (
      select a.attname::text, a.atttypid, a.attnotnull, c.collname,
        a.attgenerated = '' and a.attidentity = ''
      from pg_attribute as a
      left join pg_collation as c on c.oid = a.attcollation
      where a.attrelid = wanted and a.attnum > 0 and not a.attisdropped
    ), want as (
      select w.key, t.oid, shape -> 'key' ? w.key,
        -- Text keys sort by bytes.
        case when w.value = 'text' and shape -> 'key' ? w.key then 'C' else c.collname end,
        true
      from jsonb_each_text(shape -> 'columns') as w
      join pg_type as t on t.oid = w.value::regtype
      left join pg_collation as c on c.oid = t.typcollation
    )
    select from (table have except table want) as excess
    union all
    -- What a table of ours lacks is added below.
    select from (table want except table have) as lack (name, type, required)
    where not ours or required or exists (select from have as h where h.attname = lack.name)
  ) then
    wrong := 'has other columns';
  end if;

  if wrong is null and shape -> 'key' is distinct from (
    select jsonb_agg(a.attname order by k.ordinality)
    from pg_constraint as c
    cross join lateral unnest(c.conkey) with ordinality as k (attnum, ordinality)
    join pg_attribute as a on a.attrelid = c.conrelid and a.attnum = k.attnum
    where c.conrelid = wanted and c.contype = 'p'
  ) then
    wrong := 'has another primary key';
  end if;

  if wrong is null and not ours then
    select coalesce(
      (select 'has a policy ' || polname from pg_policy
       where polrelid = wanted and polname <> shape ->> 'policy' limit 1),
      (select 'has a trigger ' || tgname from pg_trigger
       where tgrelid = wanted and not tgisinternal limit 1)
    ) into wrong;
    if wrong is null and exists (
      with have as (
        -- One that is NOT VALID, or NOT ENFORCED, may have let in rows without a parent.
        select c.contype = 'f' and c.confdeltype = 'c' and c.convalidated,
          a.attname::text, c.confrelid::oid
        from pg_constraint as c
        left join pg_attribute as a
          on a.attrelid = c.conrelid and array[a.attnum] = c.conkey
        where c.conrelid = wanted and c.contype not in ('p', 'n')
      ), want as (
        select true, key, to_regclass(value)::oid from jsonb_each_text(shape -> 'parents')
      )
      (table have except table want) union all (table want except table have)
    ) then
      wrong := 'has other foreign keys, unique or check constraints';
    end if;
  end if;

  if wrong is not null then
    raise exception 'table % exists and %', name, wrong
      using errcode = 'MR010', hint = format(
        'Move it out of the way, or give mapping %s another table.', mapping
      );
  end if;
end
$$;
revoke all on function mirror.check_table(text, text, jsonb)
from public, anon, authenticated, service_role;


-- Add what a declaration has gained since a table of ours was created.
create or replace function mirror.add_column(name text, col text, type text, more text default '')
returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  have regtype;
begin
  select atttypid into have from pg_attribute
  where attrelid = to_regclass(name) and attname = col and attnum > 0 and not attisdropped;
  if have is null then
    execute format('alter table %s add column %I %s %s', name, col, type, more);
    raise notice '% has a new column %, which is null until the next `mirror resync`', name, col;
  elsif have <> type::regtype then
    raise exception 'table % exists and its column % is %, not %', name, col, have, type
      using errcode = 'MR010', hint = 'Give the reference another name.';
  end if;
end
$$;

create or replace function mirror.add_constraint(name text, con text, definition text) returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
  if not exists (
    select from pg_constraint where conrelid = to_regclass(name) and conname = con
  ) then
    execute format('alter table %s add constraint %I %s', name, con, definition);
  end if;
end
$$;
revoke all on function
  mirror.add_column(text, text, text, text),
  mirror.add_constraint(text, text, text)
from public, anon, authenticated, service_role;


-- Refuse a table that a guard names and cannot guard: by name, before any policy changes.
-- `columns` are those that the guard speaks of, with the type that one must have, or null.
create or replace function mirror.check_guarded(model text, name text, columns jsonb) returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  guarded oid := to_regclass(name);
  wrong text;
  hint text := 'Correct the guard, or the table.';
begin
  if guarded is null then
    raise exception 'guarded table % does not exist', name
      using errcode = 'MR010', hint = 'Create it first: it is yours. Or drop its guard.';
  end if;

  select case
    when relkind not in ('r', 'p') then 'is no table'
    when not pg_has_role(relowner, 'usage')
      then 'belongs to ' || pg_get_userbyid(relowner) || ', not to ' || current_user
  end into wrong
  from pg_class where oid = guarded;

  if wrong is null then
    select case
      when a.attname is null then format('has no column %I', c.key)
      else format('has a column %I of type %s, not %s', c.key, a.atttypid::regtype, c.value)
    end into wrong
    from jsonb_each_text(columns) as c
    left join pg_attribute as a
      on a.attrelid = guarded and a.attname = c.key and a.attnum > 0 and not a.attisdropped
    where a.attname is null or a.atttypid <> c.value::regtype
    order by c.key
    limit 1;
  end if;

  -- Asked for by its own name, a partition answers by its own policies.
  if wrong is null then
    select format('has a partition %s without row-level security', c.oid::regclass) into wrong
    from pg_partition_tree(guarded) as t
    join pg_class as c on c.oid = t.relid
    where t.relid <> guarded and not c.relrowsecurity
    order by 1
    limit 1;
    if wrong is not null then
      hint := 'Enable it there, without a policy: through the table, the guard decides.';
    end if;
  end if;

  -- Permissive policies are alternatives: one beside ours would let in whom ours keeps out.
  if wrong is null then
    select format('has a policy %I of its own', polname) into wrong
    from pg_policy
    where polrelid = guarded and polpermissive
      and polroles && array[0, 'anon'::regrole, 'authenticated'::regrole]::oid[]
      and polname <> all (mirror.policy_names(model))
    order by polname
    limit 1;
    if wrong is not null then
      hint := 'Say in the guard what it allows, and drop it; a restrictive one may stay.';
    end if;
  end if;

  if wrong is not null then
    raise exception 'guarded table % %', name, wrong using errcode = 'MR010', hint = hint;
  end if;
end
$$;


-- What the guards of a model are called, on whatever table.
create or replace function mirror.policy_names(model text) returns name[]
language sql immutable set search_path = pg_catalog, pg_temp
as $$
  select array_agg('mirror_' || model || '_' || verb)::name[]
  from unnest(array['read', 'insert', 'update', 'delete']) as verb
$$;


-- Index a column that policies ask for, unless an index begins with it. With the key in it, it may
-- be called unique, which keeps Supabase's advisors from calling it unused.
create or replace function mirror.add_index(name text, col text) returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  keys text;
begin
  if exists (
    select from pg_index as i
    join pg_attribute as a on a.attrelid = i.indrelid and a.attnum = i.indkey[0]
    join pg_class as c on c.oid = i.indexrelid
    join pg_am as m on m.oid = c.relam
    where i.indrelid = to_regclass(name) and a.attname = col
      and i.indisvalid and i.indpred is null and m.amname = 'btree'
  ) then
    return;
  end if;
  select string_agg(format(', %I', a.attname), '' order by k.ordinality) into keys
  from pg_index as i
  cross join lateral unnest(i.indkey::int2[]) with ordinality as k (attnum, ordinality)
  join pg_attribute as a on a.attrelid = i.indrelid and a.attnum = k.attnum
  where i.indrelid = to_regclass(name) and i.indisprimary and a.attname <> col;
  -- PostgreSQL finds a name that is free.
  execute format(
    'create %s index on %s (%I%s)', case when keys is not null then 'unique' end, name, col, keys
  );
  raise notice '% has a new index on %, for its policies', name, col;
end
$$;


-- Take away what the guards of a model put on tables, wherever those are by now.
create or replace function mirror.drop_guards(model text) returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  old record;
begin
  for old in
    select polname, polrelid::regclass::text as name from pg_policy
    where polname = any(mirror.policy_names(model))
  loop
    execute format('drop policy %I on %s', old.polname, old.name);
  end loop;
  for old in
    select tgname, tgrelid::regclass::text as name from pg_trigger
    where tgname = any(
        select 'mirror_' || model || '_' || suffix
        from unnest(array['told_insert', 'told_update', 'told_delete', 'columns']) as suffix
      )
      and not tgisinternal
  loop
    execute format('drop trigger %I on %s', old.tgname, old.name);
  end loop;
end
$$;
revoke all on function
  mirror.check_guarded(text, text, jsonb),
  mirror.policy_names(text),
  mirror.add_index(text, text),
  mirror.drop_guards(text)
from public, anon, authenticated, service_role;


-- The doors. SECURITY DEFINER, because service_role itself has no right to the schema; arguments
-- are text, which every client of the REST API can send unchanged.
create or replace function public.mirror_apply(request text) returns jsonb
language sql security definer set search_path = pg_catalog, pg_temp
as $$ select mirror.apply(request::jsonb) $$;

create or replace function public.mirror_open_scopes(request text) returns jsonb
language sql security definer set search_path = pg_catalog, pg_temp
as $$ select mirror.open_scopes(request::jsonb) $$;

create or replace function public.mirror_digest(request text) returns jsonb
language sql security definer stable set search_path = pg_catalog, pg_temp
as $$ select mirror.digest(request::jsonb) $$;

create or replace function public.mirror_survey(request text) returns jsonb
language sql security definer stable set search_path = pg_catalog, pg_temp
as $$ select mirror.survey(request::jsonb) $$;

create or replace function public.mirror_rows(request text) returns jsonb
language sql security definer stable set search_path = pg_catalog, pg_temp
as $$ select mirror.rows(request::jsonb) $$;

create or replace function public.mirror_expired(request text) returns jsonb
language sql security definer stable set search_path = pg_catalog, pg_temp
as $$ select mirror.expired(request::jsonb) $$;

-- The timeout is for PostgREST, which sets it for the call: looking for what is old may take longer
-- than API sessions otherwise get.
create or replace function public.mirror_purge(age text) returns jsonb
language sql security definer set search_path = pg_catalog, pg_temp set statement_timeout = '55s'
as $$ select mirror.purge(age::interval) $$;

create or replace function public.mirror_rebase(identity text, epoch text) returns void
language sql security definer set search_path = pg_catalog, pg_temp
as $$ select mirror.rebase(identity, epoch::integer) $$;

create or replace function public.mirror_describe() returns jsonb
language sql security definer stable set search_path = pg_catalog, pg_temp
as $$ select mirror.describe() $$;

create or replace function public.mirror_trace(request text) returns jsonb
language sql security definer stable set search_path = pg_catalog, pg_temp
as $$ select mirror.trace(request::jsonb) $$;


-- Ask as signed-in users, and undo whatever that did.
--
-- request: {asks, users: [{user, values}, …]}. An ask is one of
--   {kind: helper, name, arguments, each}: which of the values a policy's helper lets through;
--   {kind: rows, schema, table, column}: for which of them a row can be seen;
--   {kind: statement, schema, table, verb, row, attempt}: which policies hold for a row, and, if it
--     shall be attempted, what becomes of the statement.
-- Answers, by user and ask, {values, there} or {active, rows, state, policies: {name: holds}}, or
-- {state} for what failed, an SQLSTATE.
--
-- SECURITY INVOKER: a definer's function may not change its role. Who may is a matter of who logged
-- in: the API's authenticator, or postgres. Names are quoted and looked up, values are typed, and
-- policies come out of the catalog: no SQL is taken from a caller.
create or replace function public.mirror_ask(request text) returns jsonb
language plpgsql security invoker set search_path = pg_catalog, pg_temp
-- Rows may be held by others; an attempt is not worth a wait.
set lock_timeout = '2s'
as $$
declare
  asked constant jsonb := request::jsonb;
  undo constant text := 'MR099';
  facts jsonb;
  fact jsonb;
  person jsonb;
  ask jsonb;
  number integer;
  part record;
  holds boolean;
  held jsonb;
  sample jsonb;
  value jsonb;
  rows bigint;
  told jsonb;
  answer jsonb;
  answers jsonb := '[]';
begin
  -- What the catalog says, while this is still somebody who may know.
  facts := public.mirror_trace(jsonb_build_object(
    'scopes', '[]'::jsonb,
    'asks', asked -> 'asks',
    'values', (
      select coalesce(jsonb_agg(distinct v), '[]')
      from jsonb_array_elements(asked -> 'users') as u, jsonb_array_elements(u -> 'values') as v
    )
  )::text) -> 'asks';

  for person in select p from jsonb_array_elements(asked -> 'users') as p loop
    answer := '[]';
    begin
      perform set_config('request.jwt.claims', jsonb_build_object(
        'sub', person ->> 'user', 'role', 'authenticated', 'aud', 'authenticated'
      )::text, true);
      -- As old versions of the API did, which auth.uid() would believe first.
      perform set_config('request.jwt.claim.sub', person ->> 'user', true);
      perform set_config('request.jwt.claim.role', 'authenticated', true);
      begin
        perform set_config('role', 'authenticated', true);
      exception when insufficient_privilege or invalid_parameter_value then
        raise exception '% may not act as a signed-in user', session_user
          using errcode = 'MR012', hint = format(
            'Connect as postgres, or run `grant authenticated to %I`.', session_user
          );
      end;

      for number in 0 .. jsonb_array_length(asked -> 'asks') - 1 loop
        ask := asked -> 'asks' -> number;
        fact := facts -> number;
        told := '{}';
        held := '{}';
        begin
          if ask ->> 'kind' <> 'helper' and not (fact ->> 'there')::boolean then
            raise undefined_table;
          elsif ask ->> 'kind' = 'helper' and (ask ->> 'each')::boolean then
            execute format(
              'select jsonb_build_object(''values'', coalesce(jsonb_agg(v), ''[]''))'
              ' from jsonb_array_elements_text($1) as v where mirror.%I(%s)',
              ask ->> 'name', array_to_string(array(
                select 'v::' || format_type(p.proargtypes[0], null) from pg_proc as p
                where p.pronamespace = 'mirror'::regnamespace and p.proname = ask ->> 'name'
                limit 1
              ) || array(
                select quote_literal(v) from jsonb_array_elements_text(ask -> 'arguments') as v
              ), ', ')
            ) into told using person -> 'values';
          elsif ask ->> 'kind' = 'helper' then
            execute format(
              'select jsonb_build_object(''values'', coalesce(jsonb_agg(v), ''[]''))'
              ' from jsonb_array_elements_text($1) as v'
              ' where v in (select unnest(mirror.%I(%s))::text)',
              ask ->> 'name', (
                select string_agg(quote_literal(v), ', ')
                from jsonb_array_elements_text(ask -> 'arguments') as v
              )
            ) into told using person -> 'values';
          elsif ask ->> 'kind' = 'rows' then
            execute format(
              'select jsonb_build_object(''there'', $2, ''values'', coalesce(jsonb_agg(v), ''[]''))'
              ' from jsonb_array_elements_text($1) as v'
              ' where exists (select from %s as t where t.%I = v::%s)',
              fact ->> 'table', ask ->> 'column', fact ->> 'type'
            ) into told using person -> 'values', fact -> 'values';
          else
            sample := fact -> 'row';
            for part in select key, d from jsonb_each(fact -> 'defaults') as e (key, d) loop
              execute format('select to_jsonb((%s)::%s)', part.d ->> 'value', part.d ->> 'type')
              into value;
              sample := jsonb_build_object(part.key, value) || sample;
            end loop;
            for part in select p from jsonb_array_elements(fact -> 'policies') as e (p) loop
              begin
                holds := null;
                -- As the alias, the table's name: policies may speak of their columns by it.
                execute format(
                  'select (%s) is true and (%s) is true from jsonb_populate_record(null::%s, $1) as %I',
                  coalesce(part.p ->> 'using', 'true'), coalesce(part.p ->> 'check', 'true'),
                  fact ->> 'table', ask ->> 'table'
                ) into holds using sample;
              exception when others then
                null;
              end;
              held := held || jsonb_build_object(part.p ->> 'name', holds);
            end loop;
            told := jsonb_build_object(
              'active', row_security_active((fact ->> 'table')::text), 'policies', held
            );
            if (ask ->> 'attempt')::boolean then
              if ask ->> 'verb' = 'update' and fact -> 'change' = 'null' then
                raise insufficient_privilege;
              end if;
              execute (
                select case ask ->> 'verb'
                  when 'select' then format('select from %s as t where %s limit 1', w.name, w.same)
                  when 'insert' then format('insert into %s (%s) values (%s)', w.name, w.cols, w.vals)
                  when 'update' then format('update %s as t set %s where %s',
                    w.name, fact ->> 'change', w.same)
                  when 'delete' then format('delete from %s as t where %s', w.name, w.same)
                end
                from (
                  select fact ->> 'table' as name,
                    string_agg(format('t.%I = %L::%s', g.key, g.value, k.value), ' and ') as same,
                    string_agg(quote_ident(g.key), ', ') as cols,
                    string_agg(format('%L::%s', g.value, k.value), ', ') as vals
                  from jsonb_each_text(ask -> 'row') as g
                  join jsonb_each_text(fact -> 'types') as k on k.key = g.key
                ) as w
              );
              get diagnostics rows = row_count;
              told := told || jsonb_build_object('rows', rows);
              -- The next ask shall not see what this one did.
              raise exception using errcode = undo;
            end if;
          end if;
        exception when others then
          if sqlstate <> undo then
            told := told || jsonb_build_object('state', sqlstate);
          end if;
        end;
        answer := answer || jsonb_build_array(told);
      end loop;
      raise exception using errcode = undo;
    exception when sqlstate 'MR099' then
      -- Who asked is again who called, and nothing was written.
      null;
    end;
    answers := answers || jsonb_build_array(answer);
  end loop;
  return jsonb_build_object('facts', facts, 'answers', answers);
end
$$;

create or replace function public.mirror_examine(request text) returns jsonb
language sql security definer stable set search_path = pg_catalog, pg_temp
as $$ select mirror.examine(request::jsonb) $$;
revoke all on function public.mirror_examine(text) from public, anon, authenticated;
grant execute on function public.mirror_examine(text) to service_role, mirror_writer;


-- By name: Supabase's default privileges grant EXECUTE to each role, not only to PUBLIC.
revoke all on function
  mirror.lock(boolean),
  mirror.admit(jsonb, boolean),
  mirror.apply(jsonb),
  mirror.open_scopes(jsonb),
  mirror.digest(jsonb),
  mirror.part_of(regclass, integer, integer),
  mirror.survey(jsonb),
  mirror.rows(jsonb),
  mirror.expired(jsonb),
  mirror.check_mapping(jsonb),
  mirror.purge(interval),
  mirror.rebase(text, integer),
  mirror.describe(),
  mirror.handles(regclass),
  mirror.deciding(jsonb),
  mirror.holding(jsonb, jsonb),
  mirror.keys(text, jsonb, integer),
  mirror.trace(jsonb)
from public, anon, authenticated, service_role;

revoke all on function
  public.mirror_apply(text),
  public.mirror_open_scopes(text),
  public.mirror_digest(text),
  public.mirror_survey(text),
  public.mirror_rows(text),
  public.mirror_expired(text),
  public.mirror_purge(text),
  public.mirror_rebase(text, text),
  public.mirror_describe(),
  public.mirror_trace(text),
  public.mirror_ask(text)
from public, anon, authenticated;

grant execute on function
  public.mirror_apply(text),
  public.mirror_open_scopes(text),
  public.mirror_digest(text),
  public.mirror_survey(text),
  public.mirror_rows(text),
  public.mirror_expired(text),
  public.mirror_purge(text),
  public.mirror_rebase(text, text),
  public.mirror_describe(),
  public.mirror_trace(text),
  public.mirror_ask(text)
to service_role, mirror_writer;
grant usage on schema public to mirror_writer;

-- Supabase's API notices new functions by itself; elsewhere it has to be told.
notify pgrst, 'reload schema';
