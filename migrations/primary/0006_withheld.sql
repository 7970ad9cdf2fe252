-- Two states of an event that was set apart: its key is withheld, or its mapping cannot be read.
-- Every statement can run again.

-- Since when the target grants nothing by this event's key, because its row can be neither read nor
-- written; null: it does.
alter table mirror.retries add column if not exists withheld_at timestamptz;
-- The event waits because its mapping cannot be read at all.
alter table mirror.retries add column if not exists parked boolean not null default false;
create index if not exists retries_parked on mirror.retries (mapping, id) where parked;
