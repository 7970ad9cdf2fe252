-- Reconciles: what each found, and who runs one now.
-- Every statement can run again.


-- Counts only: no key and no value of a row.
create table if not exists mirror.runs (
  id bigint generated always as identity primary key,
  started_at timestamptz not null default now(),
  -- Null: under way, or its process died.
  finished_at timestamptz,
  -- Who started it: `hand`, `beat`.
  started_by text not null,
  holder text not null,
  outcome text not null default 'running',
  report jsonb not null default '{}'
);


-- A session's lock would not survive a pooler; a row with an expiry survives its holder's death
-- for that long and no longer.
create table if not exists mirror.leases (
  name text primary key,
  token uuid not null,
  holder text not null,
  expires_at timestamptz not null
);
