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
-- The last step that this database took together with its primary (`mirror.step`). Null: none yet.
alter table mirror.state add column if not exists step bigint;
alter table mirror.state add column if not exists token uuid;
-- Of the primary at that step, in this epoch; 0 in a new one.
alter table mirror.state add column if not exists step_fence bigint not null default 0;
-- The servers' timelines at that step, and since when one of them is another: after a fail-over, which
-- may have lost what was committed since the step before.
alter table mirror.state add column if not exists primary_timeline text;
alter table mirror.state add column if not exists timeline text;
alter table mirror.state add column if not exists failed_over_at timestamptz;
-- The start of the last reconcile that found both sides in line, or made them so.
alter table mirror.state add column if not exists verified_as_of timestamptz;


-- For each mapping, the moment of this database's clock before which every recorded revocation is in
-- force here. Many small updates: the old version of a row makes way for the new one on its page.
create table if not exists mirror.freshness (
  mapping text primary key,
  as_of timestamptz not null
) with (fillfactor = 10);


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


-- Its value means nothing: to set it is a small write (`mirror.flush`). It goes with the table.
create sequence if not exists mirror.flushes owned by mirror.mappings.name;


-- Objects that a migration has found to be no longer declared. Each stays until `mirror migrate
-- --prune` drops it; no access depends on it.
create table if not exists mirror.leftovers (
  -- The registry that declared it.
  model text not null,
  -- `table`, `column` or `function`.
  kind text not null,
  -- As in SQL, with its schema; of a column, that of its table.
  name text not null,
  -- The column's name; empty for tables and functions.
  col text not null default '',
  since timestamptz not null default now(),
  primary key (kind, name, col)
);


-- For each registry, the helper functions that its last migration created.
create table if not exists mirror.models (
  name text primary key,
  functions text[] not null
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
-- A write asks first whether any scope was read later than its rows; mostly none was. Unique, so
-- that Supabase's advisors do not report it as unused. It refuses nothing that the primary key
-- allows, and two never insert one scope at once: scopes are written under the lock alone.
create unique index if not exists scopes_newest
on mirror.scopes (mapping, epoch, fence, reference, value);


-- Keys that grant nothing although their row may be there: their truth is unknown, because an event
-- that may take access away can be neither read nor written; or their parent is being withdrawn page
-- by page. Mostly empty. Helpers ask for the row's own key and for those of its parents, so one row
-- here ends the access of all children at once. A write that is admitted removes it.
create table if not exists mirror.withheld (
  mapping text not null,
  -- As text, in the mapping's key order.
  key text[] not null,
  -- The kind of the error (`Rejected`, `Unexplained`), `crash`, or `withdrawing`.
  reason text not null,
  since timestamptz not null default now(),
  -- Of the read that failed: an older write does not remove this row.
  epoch integer not null,
  fence bigint not null,
  primary key (mapping, key)
);

revoke all on all tables in schema mirror from public, anon, authenticated, service_role;
