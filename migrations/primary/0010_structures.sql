-- How the tables looked that each mapping reads, when all of its rows were last compared or recorded as
-- changed. Some statements change values without changing a row: no hook and no trigger sees those.
-- Every statement can run again.


create table if not exists mirror.structures (
  mapping text primary key,
  -- Facts of the catalog, as mirror/sync/structure.py reads them.
  structure jsonb not null,
  noted_at timestamptz not null default now()
);
