-- Heartbeats: when each part of the mirror was last at work, for `mirror doctor`.
-- Every statement can run again.


-- `drain`: somebody asked for events; `sweep`: beat rang; `relay`: a relay looked. A part writes its
-- row at most once a minute, so three rows stay three rows: no index names `seen_at`, and the old
-- version of a row makes way for the new one on its page.
create table if not exists mirror.heartbeats (
  name text primary key,
  seen_at timestamptz not null default now()
) with (fillfactor = 10);
