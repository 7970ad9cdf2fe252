-- The primary's side: events that commit with the change, and what became of them.
-- Every statement can run again.


create schema if not exists mirror;


create table if not exists mirror.migrations (
  name text primary key,
  checksum text not null,
  applied_at timestamptz not null default now()
);


-- One row. The epoch is read with every fence; `mirror rebase` raises it.
create table if not exists mirror.state (
  one boolean primary key default true check (one),
  epoch integer not null default 0,
  -- Until when somebody wants to be notified of new events; a relay that listens renews it.
  listened_until timestamptz not null default '-infinity'
);
insert into mirror.state default values on conflict do nothing;


-- Events until they are mirrored: "this key, or everything in this scope, may have changed".
-- Never a payload. Claims take them in the order of the primary key: revocations first. It goes by
-- transactions because a claim then knows from where on there is something to find (mirror/floor.py).
create table if not exists mirror.outbox (
  lane smallint not null default 0 check (lane in (0, 1)),
  id bigint generated always as identity,
  recorded_at timestamptz not null default now(),
  mapping text not null,
  -- Null: `key` is a key. Otherwise a scope: the reference's name, or '*' for the whole mapping.
  reference text,
  -- A key's values; or a scope's value, followed by the key after which to go on.
  key text[] not null,
  -- Whose change this is, for whoever waits until it is mirrored. Not xmin: that may be a
  -- savepoint's. Not xid8: what reflects a database, such as Alembic, may not know that type.
  transaction_id bigint not null default pg_current_xact_id()::text::bigint,
  primary key (lane, transaction_id, id)
);
comment on column mirror.outbox.lane is '0 revocation: may take access away; 1 grant';

-- The table is a queue: all of its rows die young.
alter table mirror.outbox set (
  autovacuum_vacuum_scale_factor = 0,
  autovacuum_vacuum_threshold = 5000,
  autovacuum_vacuum_cost_delay = 0
);


-- NOTIFY makes commits wait for each other, so only while a relay listens.
create or replace function mirror.announce_events() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
begin
  if exists (select from mirror.state where listened_until > now()) then
    perform pg_notify('mirror', '');
  end if;
  return null;
end
$$;
create or replace trigger announce_events after insert on mirror.outbox
for each statement execute function mirror.announce_events();


-- Claims in progress, committed before the claim's events are read. A claim's own transaction
-- deletes its row again; one that is found while its events can be locked belongs to a worker
-- that died on them.
create table if not exists mirror.claims (
  id uuid primary key,
  events bigint[] not null,
  claimed_at timestamptz not null default now()
);


-- Events that failed, or on which a worker died: retried alone, then buried.
create table if not exists mirror.retries (
  id bigint primary key,
  -- As in the outbox; 0 for what no transaction of a backend recorded.
  transaction_id bigint not null default 0,
  lane smallint not null,
  recorded_at timestamptz not null,
  mapping text not null,
  reference text,
  key text[] not null,
  -- Failed attempts, and workers that died in one (the one under way included).
  attempts integer not null,
  deaths integer not null default 0,
  -- Also the lease of an attempt in progress.
  due_at timestamptz not null,
  -- What went wrong, without values of rows.
  error text not null,
  -- Set: given up until somebody runs `mirror retry`.
  buried_at timestamptz
);
create index if not exists retries_due on mirror.retries (lane, due_at) where buried_at is null;


-- What a receipt asks (mirror/receipts.py). A backend's role may insert into the outbox and read
-- nothing; it gets ids, and hashes where there are keys.

-- The events of a transaction: [id, mapping, reference, hash of the key's first part] each.
create or replace function mirror.events_of(of_transaction xid8) returns jsonb
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
  select coalesce(
    jsonb_agg(jsonb_build_array(id, mapping, reference, hashtextextended(key[1], 0))), '[]'
  )
  from (
    select id, mapping, reference, key from mirror.outbox
    where lane in (0, 1) and transaction_id = of_transaction::text::bigint
    union all
    select id, mapping, reference, key from mirror.retries
    where transaction_id = of_transaction::text::bigint
  ) as e
$$;

-- Which of these events wait or are buried; once none does, how many do that they led to: such
-- under one of `scopes` ([mapping, reference, hash]), or of any value `anywhere` ([mapping,
-- reference]). Somebody else's may be among the latter, so of the buried only those count there
-- that are newer. STABLE, so that all of it sees one snapshot: events move from table to table.
create or replace function mirror.still_waiting(question jsonb) returns jsonb
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
declare
  ids constant bigint[] := array(
    select value::bigint from jsonb_array_elements_text(question -> 'ids') as id (value)
  );
  newest constant bigint := (question ->> 'newest')::bigint;
  waiting jsonb;
  buried jsonb;
  following bigint := 0;
begin
  select coalesce(jsonb_agg(e.id) filter (where not e.buried), '[]'),
    coalesce(jsonb_agg(e.id) filter (where e.buried), '[]')
  into waiting, buried
  from (
    select id, false from mirror.outbox
    where lane in (0, 1) and transaction_id = (question ->> 'transaction')::bigint
      and id = any(ids)
    union all
    select id, buried_at is not null from mirror.retries where id = any(ids)
  ) as e (id, buried);
  if waiting = '[]' and buried = '[]' then
    select count(*) filter (where not e.buried),
      coalesce(jsonb_agg(e.id) filter (where e.buried), '[]')
    into following, buried
    from (
      select id, mapping, reference, key, false from mirror.outbox
      union all
      select id, mapping, reference, key, buried_at is not null from mirror.retries
    ) as e (id, mapping, reference, key, buried)
    where (e.mapping, e.reference, hashtextextended(e.key[1], 0)) in (
      select scope ->> 0, scope ->> 1, (scope ->> 2)::bigint
      from jsonb_array_elements(question -> 'scopes') as s (scope)
    )
    or ((not e.buried or e.id > newest) and (e.mapping, coalesce(e.reference, '')) in (
      select pair ->> 0, coalesce(pair ->> 1, '')
      from jsonb_array_elements(question -> 'anywhere') as a (pair)
    ));
  end if;
  return jsonb_build_object('waiting', waiting, 'buried', buried, 'following', following);
end
$$;


-- What the printed triggers call first: refuse by name what they cannot watch. Finds the table as
-- CREATE TRIGGER will, so no search_path is set here.
-- `p_named` are the columns whose values name keys and scopes in events.
drop function if exists mirror.check_source(text, text[]);
create or replace function mirror.check_source(p_table text, p_columns text[], p_named text[])
returns void
language plpgsql
as $$
declare
  source constant regclass := to_regclass(p_table);
  missing text;
begin
  if source is null then
    raise exception 'a mapping reads table %, which does not exist here', p_table
      using errcode = 'MR010', hint = 'Create it first, or correct the mapping.';
  end if;
  if (select c.relkind not in ('r', 'p') from pg_catalog.pg_class as c where c.oid = source) then
    raise exception 'a mapping reads %, which is no table, so triggers cannot watch it', p_table
      using errcode = 'MR010', hint = 'Let the mapping read the tables behind it.';
  end if;
  select name into missing
  from unnest(p_columns) as name
  where not exists (
    select from pg_catalog.pg_attribute as a
    where a.attrelid = source and a.attname = name and not a.attisdropped
  );
  if missing is not null then
    raise exception 'a mapping reads column % of %, which does not exist', missing, p_table
      using errcode = 'MR010', hint = 'Correct the mapping, or migrate your tables first.';
  end if;
  -- PostgreSQL 18 computes it when it is read from the table. In a trigger's old and new rows it is
  -- null, or an error.
  select a.attname into missing
  from pg_catalog.pg_attribute as a
  where a.attrelid = source and a.attname = any (p_columns) and a.attgenerated = 'v'
  limit 1;
  if missing is not null then
    raise exception 'a mapping reads column % of %, a virtual generated column, which triggers '
      'cannot read', missing, p_table
      using errcode = 'MR010',
        hint = 'Write its expression in the mapping''s query, or make the column STORED.';
  end if;
  -- A value of these types has one text, as the type prints it or cast by the mapping's query. (Only
  -- character(n) loses the blanks at its end by a cast; the triggers remove them, too.) A boolean, an
  -- inet or a number with decimals has several. A domain prints as the type that it is made of.
  select a.attname into missing
  from pg_catalog.pg_attribute as a
  join pg_catalog.pg_type as t on t.oid = a.atttypid
  where a.attrelid = source and a.attname = any (p_named)
    and t.typcategory not in ('S', 'E') and t.typoutput not in (
      'pg_catalog.int2out'::regproc, 'pg_catalog.int4out'::regproc, 'pg_catalog.int8out'::regproc,
      'pg_catalog.oidout'::regproc, 'pg_catalog.uuid_out'::regproc, 'pg_catalog.charout'::regproc
    )
  limit 1;
  if missing is not null then
    raise exception 'column % of % names rows of a mapping, but it is no text, integer, uuid or '
      'enum, so its changes would name other keys than the mapping''s query yields',
      missing, p_table
      using errcode = 'MR010',
        hint = 'Give the column its real type in the table that the mapping''s query reads.';
  end if;
end
$$;
